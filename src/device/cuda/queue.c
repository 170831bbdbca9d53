/*
 * queue.c - device queues: launches wait in a ring, the first few of it are in the queue's stream.
 *
 *     ring:  [ waiting ... | submitted ]   the head has been submitted longest
 *                          ^ queue->submitted
 *
 * A real-time queue submits at once. A best-effort queue keeps CUDA_BE_DEPTH launches in its stream, enough that the
 * GPU need not wait for the host between two of them; what waits behind is taken back by evict, at no cost. A leased
 * launch is not submitted while the lease is empty.
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

reef_status cuda_queue_load(cuda_queue *queue, reef_error *error)
{
    const cuda_device *device = (const cuda_device *)queue->base.dev;
    int priority = queue->priority > 0 ? device->greatest_priority : device->least_priority;
    return CUDA_TRY(device->cu, error, stream_create(&queue->stream, CUDA_STREAM_NON_BLOCKING, priority));
}

reef_status cuda_queue_create(reef_dev *dev, bool realtime, unsigned capacity, unsigned weight, reef_dqueue **out)
{
    (void)weight; /* streams of one priority share the GPU as its own scheduler sees fit */
    cuda_device *device = (cuda_device *)dev;
    cuda_queue *queue = calloc(1, sizeof *queue);
    if (!queue) {
        return REEF_NO_MEMORY;
    }
    queue->base.dev = dev;
    queue->realtime = realtime;
    queue->priority = realtime ? 1 : 0;
    queue->capacity = capacity;
    queue->ring = calloc(capacity, sizeof *queue->ring);
    reef_list_init(&queue->link);
    reef_error error = {0};
    pthread_rwlock_rdlock(&device->context_lock);
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
    pthread_rwlock_unlock(&device->context_lock);
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
    pthread_rwlock_rdlock(&device->context_lock);
    pthread_mutex_lock(&device->lock);
    reef_list_remove(&queue->link);
    pthread_mutex_unlock(&device->lock);
    reef_error ignored;
    if (queue->stream && !cuda_enter(device, &ignored)) {
        device->cu->stream_destroy(queue->stream);
        cuda_leave(device);
    }
    pthread_rwlock_unlock(&device->context_lock);
    free(queue->ring);
    free(queue);
}

void cuda_queue_priority(reef_dqueue *base, int priority)
{
    cuda_queue *queue = (cuda_queue *)base;
    cuda_device *device = (cuda_device *)base->dev;
    reef_error ignored;
    pthread_mutex_lock(&device->lock);
    bool changes = (queue->priority > 0) != (priority > 0);
    queue->priority = priority;
    /* A stream's priority is fixed: take another one. The queue is idle when its policy changes. */
    if (changes && queue->submitted == 0 && !device->dead && !cuda_enter(device, &ignored)) {
        CUstream before = queue->stream;
        if (!cuda_queue_load(queue, &ignored)) {
            device->cu->stream_destroy(before);
        }
        cuda_leave(device);
    }
    pthread_mutex_unlock(&device->lock);
}

/* ------------------------------------------------------------ launching -- */

static reef_status submit(cuda_queue *queue, cuda_launch *launch, reef_error *error)
{
    cuda_device *device = (cuda_device *)queue->base.dev;
    cuda_instance *instance = launch->instance;
    uint32_t kernels = (uint32_t)instance->base.program->plan->n_kernels;
    uint32_t end = launch->first + launch->count;
    uint32_t first = launch->first > instance->cursor ? launch->first : instance->cursor;
    launch->ticket = instance->submitted; /* nothing left to do: over when what was submitted before is */
    if (first >= end) {
        return REEF_OK;
    }
    /* Runs of one kernel that start elsewhere (profiling) have nothing to do with a request's inputs and outputs. */
    uint32_t ends = (first == 0 ? CUDA_GRAPH_IN : 0) | (end == kernels ? CUDA_GRAPH_OUT : 0);
    reef_status status = cuda_graph_get(instance, first, end - first, ends, &launch->graph, error);
    if (!status) {
        status = CUDA_TRY(device->cu, error, graph_launch(launch->graph->executable, queue->stream));
    }
    if (!status) {
        launch->ticket = ++instance->submitted;
        instance->cursor = end;
    }
    return status;
}

static bool may_submit(const cuda_queue *queue, const cuda_launch *launch)
{
    const cuda_device *device = (const cuda_device *)queue->base.dev;
    if (launch->mode == REEF_LAUNCH_LEASED && (uint32_t)device->lease >= (uint32_t)(device->lease >> 32)) {
        return false;
    }
    return queue->realtime || queue->submitted < CUDA_BE_DEPTH;
}

void cuda_queue_fill(cuda_queue *queue)
{
    cuda_device *device = (cuda_device *)queue->base.dev;
    while (queue->submitted < queue->count) {
        cuda_launch *launch = &queue->ring[(queue->head + queue->submitted) % queue->capacity];
        reef_error error = {0};
        if (device->dead) {
            launch->failed = true;
        } else if (!may_submit(queue, launch)) {
            return;
        } else if (cuda_enter(device, &error)) {
            launch->failed = true;
        } else {
            launch->start_ns = reef_now_ns();
            launch->failed = submit(queue, launch, &error) != REEF_OK;
            cuda_leave(device);
        }
        if (launch->failed && error.status) {
            device->failure = error;
        }
        queue->submitted++;
    }
}

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
            .tag = wanted->tag,
        };
        queue->count++;
        cuda_queue_fill(queue);
    }
    pthread_mutex_unlock(&device->lock);
    if (!room) {
        return REEF_QUEUE_FULL;
    }
    cuda_bump(device);
    return REEF_OK;
}

/* What is in the stream goes on to its end, whichever way is asked for: kernels of this form cannot be stopped. */
void cuda_evict(reef_dqueue *base, reef_evict how, reef_evicted *out)
{
    (void)how;
    cuda_queue *queue = (cuda_queue *)base;
    cuda_device *device = (cuda_device *)base->dev;
    *out = (reef_evicted){0};
    pthread_mutex_lock(&device->lock);
    for (unsigned i = queue->submitted; i < queue->count; i++) {
        out->launches++;
        out->kernels += queue->ring[(queue->head + i) % queue->capacity].count;
    }
    queue->count = queue->submitted;
    out->running = queue->submitted > 0;
    pthread_mutex_unlock(&device->lock);
}
