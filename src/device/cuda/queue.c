/*
 * queue.c - device queues: launches wait in a ring, the first few of it are in the queue's stream.
 *
 *     ring:  [ waiting ... | submitted ]   the head has been submitted longest
 *                          ^ queue->submitted
 *
 * A real-time queue submits at once. Best-effort queues leave it to the submitter (submit.c), which keeps CUDA_BE_DEPTH
 * launches in its stream, enough that the GPU need not wait for the host between two of them; what waits behind
 * is taken back by evict, at no cost. Leased launches that are in the stream are revoked: they end within microseconds,
 * once it is their turn. So their priority is that of real-time work: at a lower one their turn comes after it, and
 * nothing can be launched again before they have ended.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "base/futex.h"
#include "device/cuda/cuda.h"

void cuda_bump(cuda_device *device)
{
    /* Sequentially consistent with the completer's store to `sleeping` and its second look at `changes`. */
    atomic_fetch_add(&device->changes, 1);
    if (atomic_load(&device->sleeping)) {
        reef_futex_wake(&device->changes, 1);
    }
}

void cuda_work(cuda_device *device)
{
    atomic_fetch_add(&device->work, 1);
    if (atomic_load(&device->submitter_sleeps)) {
        reef_futex_wake(&device->work, 1);
    }
}

reef_status cuda_queue_load(cuda_queue *queue, reef_error *error)
{
    const cuda_device *device = (const cuda_device *)queue->base.dev;
    const int priority[2] = {device->least_priority, device->greatest_priority};
    reef_status status = REEF_OK;
    for (int i = 0; i < 2 && !status; i++) {
        status = CUDA_TRY(device->cu, error, stream_create(&queue->streams[i], CUDA_STREAM_NON_BLOCKING, priority[i]));
    }
    for (int i = 0; i < device->n_shares && !status; i++) {
        status = cuda_share_stream(device, i, queue->realtime, &queue->shared[i], error);
    }
    queue->stream = queue->streams[queue->priority > 0];
    if (status) {
        cuda_queue_unload(queue);
    }
    return status;
}

static void destroy_streams(const cuda_device *device, CUstream *streams, int n)
{
    for (int i = 0; i < n; i++) {
        if (streams[i]) {
            device->cu->stream_destroy(streams[i]); /* fails, and rightly, when the context is gone */
            streams[i] = NULL;
        }
    }
}

void cuda_queue_unload(cuda_queue *queue)
{
    const cuda_device *device = (const cuda_device *)queue->base.dev;
    destroy_streams(device, queue->streams, 2);
    destroy_streams(device, queue->shared, CUDA_SHARES);
    queue->stream = NULL;
}

reef_status cuda_queue_create(reef_dev *dev, bool realtime, unsigned capacity, unsigned weight, reef_dqueue **out)
{
    cuda_device *device = (cuda_device *)dev;
    cuda_queue *queue = calloc(1, sizeof *queue);
    if (!queue) {
        return REEF_NO_MEMORY;
    }
    queue->base.dev = dev;
    queue->realtime = realtime;
    queue->priority = realtime ? 1 : 0;
    queue->capacity = capacity;
    queue->weight = weight ? weight : 1;
    queue->ring = calloc(capacity, sizeof *queue->ring);
    reef_list_init(&queue->link);
    reef_error error = {0};
    cuda_hold(device);
    reef_status status = queue->ring ? cuda_enter(device, &error) : REEF_NO_MEMORY;
    if (!status) {
        status = cuda_queue_load(queue, &error);
        cuda_leave(device);
    }
    if (!status) {
        pthread_mutex_lock(&device->lock);
        reef_list_insert(&device->queues, &queue->link);
        pthread_mutex_unlock(&device->lock);
    }
    cuda_release(device);
    if (status) {
        free(queue->ring);
        free(queue);
        return status;
    }
    *out = &queue->base;
    return REEF_OK;
}

/* The queue's launches must be over. */
void cuda_queue_destroy(reef_dqueue *base)
{
    cuda_queue *queue = (cuda_queue *)base;
    if (!queue) {
        return;
    }
    cuda_device *device = (cuda_device *)base->dev;
    cuda_hold(device);
    pthread_mutex_lock(&device->lock);
    reef_list_remove(&queue->link);
    pthread_mutex_unlock(&device->lock);
    reef_error ignored;
    if (queue->stream && !cuda_enter(device, &ignored)) {
        cuda_queue_unload(queue);
        cuda_leave(device);
    }
    cuda_release(device);
    free(queue->ring);
    free(queue);
}

void cuda_queue_priority(reef_dqueue *base, int priority)
{
    cuda_queue *queue = (cuda_queue *)base;
    cuda_device *device = (cuda_device *)base->dev;
    pthread_mutex_lock(&device->lock);
    queue->priority = priority;
    if (queue->submitted == 0) { /* the queue is idle when its policy changes */
        queue->stream = queue->streams[priority > 0];
    }
    pthread_mutex_unlock(&device->lock);
}

/* ------------------------------------------------------------ launching -- */

reef_status cuda_launch_kernels(reef_dqueue *base, const reef_launch *wanted)
{
    cuda_queue *queue = (cuda_queue *)base;
    cuda_device *device = (cuda_device *)base->dev;
    pthread_mutex_lock(&device->lock);
    bool room = queue->count < queue->capacity;
    if (room) {
        queue->ring[(queue->head + queue->count) % queue->capacity] = (cuda_launch){
            .instance = (cuda_instance *)wanted->instance,
            .first = wanted->first,
            .count = wanted->count,
            .mode = wanted->mode,
            .padded = wanted->padded,
            .tag = wanted->tag,
        };
        queue->count++;
        if (queue->realtime) {
            cuda_submit(queue, false);
        }
    }
    pthread_mutex_unlock(&device->lock);
    if (!room) {
        return REEF_QUEUE_FULL;
    }
    queue->realtime ? cuda_bump(device) : cuda_work(device);
    return REEF_OK;
}

reef_status cuda_revoke_load(cuda_device *device, reef_error *error)
{
    const cuda_driver *cu = device->cu;
    reef_status status = CUDA_TRY(cu, error, mem_alloc(&device->revoked, CUDA_ALIGN));
    status = status ? status : CUDA_TRY(cu, error, memset8(device->revoked, 0, CUDA_ALIGN));
    status = status ? status : cuda_settle(device, error);
    device->generation = device->youngest = device->written = 0;
    return status ? status
                  : CUDA_TRY(cu, error,
                             stream_create(&device->control, CUDA_STREAM_NON_BLOCKING, device->greatest_priority));
}

void cuda_revoke(cuda_device *device)
{
    reef_error error;
    if (!device->workers && device->youngest - device->generation <= CUDA_MAX_AHEAD) {
        return; /* there is nothing to stop: what was stopped before may go on under the generation that it gets then */
    }
    if (device->dead || cuda_enter(device, &error)) {
        return;
    }
    device->generation = ++device->youngest;
    device->vacated = true;
    const bool passed_on = cuda_watch_revoke(device, device->generation);
    device->revoked_ns = reef_now_ns();
    /* On a stream of its own it waits for nothing. */
    if (!passed_on || device->generation - device->written > CUDA_MAX_AHEAD) {
        device->written = device->generation;
        if (CUDA_TRY(device->cu, &error, stream_write32(device->control, device->revoked, device->generation, 0))) {
            device->failure = error;
        }
    }
    cuda_leave(device);
}

void cuda_evict(reef_dqueue *base, reef_evict how, reef_evicted *out)
{
    cuda_queue *queue = (cuda_queue *)base;
    cuda_device *device = (cuda_device *)base->dev;
    *out = (reef_evicted){0};
    pthread_mutex_lock(&device->lock);
    unsigned kept = queue->submitted + queue->submitting;
    for (unsigned i = kept; i < queue->count; i++) {
        out->launches++;
        out->kernels += queue->ring[(queue->head + i) % queue->capacity].count;
    }
    queue->count = kept;
    out->running = kept > 0;
    bool current = false; /* of a generation that is not revoked yet */
    for (unsigned i = 0; i < kept; i++) {
        const cuda_launch *launch = &queue->ring[(queue->head + i) % queue->capacity];
        bool stops = how == REEF_EVICT_NOW || launch->mode == REEF_LAUNCH_EVICTABLE;
        current |= launch->workers && stops && (int32_t)(launch->instance->generation - device->generation) > 0;
    }
    if (current) {
        cuda_revoke(device); /* other queues' launches end as well; their owners launch them again */
    }
    pthread_mutex_unlock(&device->lock);
}
