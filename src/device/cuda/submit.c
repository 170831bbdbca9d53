/*
 * submit.c - handing launches to the driver: a real-time caller does it itself, best-effort queues share a thread.
 *
 * The submitter takes, of all best-effort queues that have something to launch and room in their stream, the one that has
 * been served least: work counts as the time it takes alone, over the queue's weight. Which launches are in the streams
 * decides how the GPU is shared, because streams of one priority get what fits beside each other.
 *
 * A leased launch belongs to a generation that is not revoked yet. Each run has its own, because kernels note the one that
 * they have begun in, and a new one once that was revoked; the instance's control word is then written first, in the same
 * stream. But a launch never gets a younger generation than one of the same instance that is still on its way: that one was
 * revoked and stops somewhere, and with a generation of its own the one behind would take that for done. Such a launch is
 * not made; it ends as evicted when those in front of it have ended, and so does one that begins behind the first unfinished kernel.
 */
#include "base/clock.h"
#include "base/futex.h"
#include "device/cuda/cuda.h"

enum { LONG_NS = 15 * 1000 };       /* of a kernel */
enum { LEAD_NS = 3 * 1000 * 1000 }; /* how far ahead of another a queue may get, in time alone */

/* What the driver is to be asked for; worked out under the lock. */
typedef struct order {
    cuda_instance *instance;
    uint32_t first, count, kind; /* count 0: nothing */
    uint64_t control;            /* to write first; 0: nothing */
    bool clear, close;           /* close: what has ridden of it may not do so any longer */
    bool watch;                  /* to be told when units are taken away */
    uint32_t known;              /* a generation that is revoked */
} order;

/* Has leased work no units? Some that no share gives are none. */
static bool lease_is_empty(const cuda_device *device)
{
    uint32_t first = (uint32_t)device->lease, end = (uint32_t)(device->lease >> 32);
    return (first > 0 || end < device->base.units) && device->share < 0;
}

static uint32_t share_kind(int share)
{
    return (uint32_t)(CUDA_GRAPH_SHARE * (1 + share));
}

static uint32_t pad_kind(const cuda_device *device)
{
    /* Acquire: pairs with the store in cuda_pad; what was loaded before it is there. */
    return atomic_load_explicit(&device->padding.on, memory_order_acquire) ? CUDA_GRAPH_PADS : 0;
}

/* Workers of an instance that is no source leave nothing to ride; should it become one, it gets graphs that do. */
static uint32_t without_pads(const cuda_instance *instance, uint32_t kind)
{
    return instance->source ? kind : kind & ~(uint32_t)CUDA_GRAPH_PADS;
}

static bool is_revoked(const cuda_device *device, const cuda_instance *instance)
{
    return (int32_t)(instance->generation - device->generation) <= 0;
}

/* Would the launch, as workers, come behind kernels that nobody is going to finish before it? */
static bool comes_too_early(const cuda_device *device, const cuda_launch *launch)
{
    cuda_instance *instance = launch->instance;
    if (instance->in_flight) {
        return instance->broken || is_revoked(device, instance);
    }
    instance->broken = false;
    cuda_pad_progress(instance);
    return launch->first > atomic_load_explicit(&instance->current, memory_order_relaxed);
}

static uint32_t plain_kind(const cuda_instance *instance, uint32_t first, uint32_t end)
{
    const bool last = end == instance->base.program->plan->n_kernels;
    return (uint32_t)((first == 0 ? CUDA_GRAPH_IN : 0) | (last ? CUDA_GRAPH_OUT : 0));
}

static uint32_t worker_kind(const cuda_instance *instance, uint32_t first, uint32_t end, bool fresh)
{
    return CUDA_GRAPH_WORKERS | plain_kind(instance, first, end) | (uint32_t)(fresh ? CUDA_GRAPH_FRESH : 0);
}

static bool as_workers(const cuda_instance *instance, reef_launch_mode mode)
{
    return mode != REEF_LAUNCH_PLAIN && ((const cuda_program *)instance->base.program)->has_workers;
}

/* Graphs are made before they are needed, and uploaded, which their first launch would do, in a stream like that launch's. */
typedef struct warming {
    cuda_instance *instance;
    bool realtime;
    int share;
    CUstream stream; /* NULL until there is something to upload */
} warming;

static void make_ready(warming *w, uint32_t first, uint32_t count, uint32_t kind)
{
    const cuda_device *device = (const cuda_device *)w->instance->base.program->dev;
    reef_error ignored;
    cuda_graph *graph;
    if (!cuda_graph_get(w->instance, first, count, kind, &graph, &ignored) && !graph->uploaded &&
        (w->stream || !cuda_share_stream(device, w->share, w->realtime, &w->stream, &ignored))) {
        graph->uploaded = true;
        device->cu->graph_upload(graph->executable, w->stream);
    }
}

/* Every launch from the first kernel to the last, and those that resume on the way. */
static void make_all_ready(warming *w, reef_launch_mode mode)
{
    cuda_instance *instance = w->instance;
    const uint32_t kernels = (uint32_t)instance->base.program->plan->n_kernels;
    const uint32_t segment = w->realtime ? kernels : CUDA_SEGMENT_KERNELS;
    const uint32_t pads = pad_kind((const cuda_device *)instance->base.program->dev), share = share_kind(w->share);
    const bool workers = as_workers(instance, mode);
    if (workers) {
        cuda_pad_source(instance);
    }
    for (uint32_t first = 0; first < kernels; first += segment) {
        const uint32_t left = kernels - first, count = left < segment ? left : segment, end = first + count;
        if (workers) {
            const uint32_t how = mode == REEF_LAUNCH_LEASED ? share | pads : CUDA_GRAPH_BEGUN_ONLY;
            make_ready(w, first, count, without_pads(instance, worker_kind(instance, first, end, true) | how));
            for (uint32_t at = first; at < end; at += CUDA_RESUME_KERNELS) {
                make_ready(w, at, end - at, without_pads(instance, worker_kind(instance, at, end, false) | how));
            }
        } else {
            const uint32_t kind = plain_kind(instance, first, end) | (w->realtime ? share : 0);
            make_ready(w, first, count, kind);
            make_ready(w, first, count, kind | (w->realtime ? pads : 0));
        }
    }
}

void cuda_warm(reef_instance *base, bool realtime, reef_launch_mode mode, reef_lease lease)
{
    cuda_device *device = (cuda_device *)base->program->dev;
    const bool divided = realtime || (mode == REEF_LAUNCH_LEASED && as_workers((const cuda_instance *)base, mode));
    warming w = {.instance = (cuda_instance *)base, .realtime = realtime};
    reef_error ignored;
    cuda_hold(device);
    if (!cuda_enter(device, &ignored)) {
        w.share = divided ? cuda_share_of(device, lease) : -1;
        make_all_ready(&w, mode);
        if (w.stream) {
            device->cu->stream_synchronize(w.stream);
            device->cu->stream_destroy(w.stream);
        }
        cuda_leave(device);
    }
    cuda_release(device);
}

/* Is there a kernel that a request might wait for? Others are over before the driver has written the word. */
static bool runs_long(const cuda_instance *instance, uint32_t first, uint32_t end)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    bool any = false;
    for (uint32_t k = first; k < end && !any; k++) {
        const uint64_t tile_ns = cuda_tile_ns(program, k), at_once = program->kernels[k].blocks_per_sm;
        any = tile_ns * program->kernels[k].code.tiles > LONG_NS * at_once * program->base.dev->units;
    }
    return any;
}

/* The kernels of a launch as workers, from one of few places on, so that few graphs serve all launches; what is done is
 * skipped. */
static order worker_order(cuda_device *device, cuda_launch *launch)
{
    cuda_instance *instance = launch->instance;
    uint32_t end = launch->first + launch->count;
    uint32_t first = launch->first / CUDA_RESUME_KERNELS * CUDA_RESUME_KERNELS;
    if (end - first > CUDA_SEGMENT_KERNELS) {
        first = launch->first;
    }
    order o = {
        .instance = instance,
        .first = first,
        .count = end - first,
        .clear = instance->dirty,
    };
    const bool stands_still = launch->mode == REEF_LAUNCH_LEASED && lease_is_empty(device); /* opens or ends it */
    if (stands_still || is_revoked(device, instance) || instance->generation_run != instance->run) {
        o.close = instance->open && instance->source;
        instance->open = false;
        instance->ridden = o.close && instance->generation_run == instance->run;
        if (device->youngest - device->generation > CUDA_MAX_AHEAD) {
            cuda_revoke(device);
        }
        instance->generation = stands_still ? device->generation : ++device->youngest;
        instance->generation_run = instance->run;
    }
    o.kind =
        worker_kind(instance, first, end, first >= instance->untouched && !instance->ridden) |
        (launch->mode == REEF_LAUNCH_LEASED ? share_kind(device->share) | pad_kind(device) : CUDA_GRAPH_BEGUN_ONLY);
    instance->open |= (o.kind & CUDA_GRAPH_PADS) != 0;
    uint64_t control = (uint64_t)instance->run << 32 | instance->generation;
    if (control != instance->control_written || o.clear) {
        o.control = instance->control_written = control;
    }
    o.watch =
        device->share < 0 && !stands_still &&
        runs_long(instance, first, end); /* a request that shares the units takes none away from what runs beside it */
    o.known = device->generation;
    instance->dirty = false;
    instance->untouched = end > instance->untouched ? end : instance->untouched;
    instance->partial = true;
    launch->workers = true;
    device->workers++;
    device->vacated = false;
    cuda_watch_busy(device, true);
    return o;
}

static order plain_order(const cuda_device *device, const cuda_launch *launch, bool realtime)
{
    cuda_instance *instance = launch->instance;
    uint32_t end = launch->first + launch->count;
    uint32_t first = launch->first > instance->cursor ? launch->first : instance->cursor;
    order o = {.instance = instance, .clear = instance->dirty, .close = instance->open && instance->source};
    instance->dirty = instance->open = false;
    if (first < end) {
        /* Runs of one kernel that start elsewhere (profiling) have nothing to do with a request's inputs and outputs. */
        o.kind = plain_kind(instance, first, end) | (realtime ? share_kind(device->share) : 0) |
                 (launch->padded ? pad_kind(device) : 0);
        o.first = first;
        o.count = end - first;
        instance->cursor = end;
    }
    return o;
}

static reef_status carry_out(const cuda_queue *queue, const order *o, cuda_graph **graph, reef_error *error)
{
    cuda_device *device = (cuda_device *)queue->base.dev;
    const cuda_instance *instance = o->instance;
    const cuda_program *program = (const cuda_program *)instance->base.program;
    const cuda_driver *cu = device->cu;
    if (o->count && (o->kind & CUDA_GRAPH_IN)) {
        cuda_stage(&o->instance->base); /* nobody else has the instance between begin and this */
    }
    reef_status status = cuda_enter(device, error);
    if (status) {
        return status;
    }
    uint32_t kind = o->kind;
    if (kind & CUDA_GRAPH_WORKERS) {
        cuda_pad_source(o->instance);
        kind = without_pads(instance, kind);
    }
    if (o->close) {
        status = cuda_pad_close(instance, queue->stream, error);
    }
    if (o->clear && !status) { /* counters and flags that a run which was given up has left */
        size_t counters =
            program->workspace_bytes < REEF_CUDA_ZERO_BYTES ? program->workspace_bytes : REEF_CUDA_ZERO_BYTES;
        size_t flags = 4 * ((size_t)program->tiles + program->base.plan->n_kernels);
        if (counters) {
            status = CUDA_TRY(cu, error,
                              memset8_async(instance->memory + instance->workspace_offset, 0, counters, queue->stream));
        }
        if (!status && flags) {
            status =
                CUDA_TRY(cu, error, memset8_async(instance->memory + instance->done_offset, 0, flags, queue->stream));
        }
    }
    if (!status && o->control) {
        CUdeviceptr at = instance->memory + instance->control_offset + CUDA_CONTROL_OFFSET;
        status = CUDA_TRY(cu, error, stream_write64(queue->stream, at, o->control, 0));
    }
    if (!status && o->count) {
        status = cuda_graph_get(o->instance, o->first, o->count, kind, graph, error);
        if (o->watch && !status) {
            cuda_watch_start(device, o->known); /* before they fill the GPU */
        }
        status = status ? status : CUDA_TRY(cu, error, graph_launch((*graph)->executable, queue->stream));
    }
    cuda_leave(device);
    return status;
}

/* That the launch belongs in: one of the units that it may use. */
static CUstream stream_of(const cuda_queue *queue, const cuda_launch *launch)
{
    const cuda_device *device = (const cuda_device *)queue->base.dev;
    const cuda_instance *instance = launch->instance;
    const bool leased = as_workers(launch->instance, launch->mode) && launch->mode == REEF_LAUNCH_LEASED;
    const bool closes = instance->open && instance->source; /* by a kernel for all units */
    if (device->share >= 0 && (queue->realtime || leased) && !closes) {
        return queue->shared[device->share];
    }
    return queue->streams[queue->realtime ? queue->priority > 0 : leased]; /* queue.c says why */
}

void cuda_submit(cuda_queue *queue, bool unlocked)
{
    cuda_device *device = (cuda_device *)queue->base.dev;
    cuda_launch *launch = &queue->ring[(queue->head + queue->submitted) % queue->capacity];
    cuda_instance *instance = launch->instance;
    reef_error error = {0};
    if (device->dead || !instance->run) { /* lost with the context: the device, or what the run had done */
        launch->failed = true;
        instance->in_flight++;
        queue->submitted++;
        return;
    }
    const bool workers = as_workers(launch->instance, launch->mode);
    if (queue->submitted == 0) {
        queue->stream = stream_of(queue, launch);
    }
    launch->start_ns = reef_now_ns();
    launch->behind = workers && comes_too_early(device, launch);
    instance->in_flight++;
    if (launch->behind) {
        launch->ticket = instance->submitted;
        queue->submitted++;
        return;
    }
    order o = workers ? worker_order(device, launch) : plain_order(device, launch, queue->realtime);
    if (unlocked) {
        queue->submitting = true;
        pthread_mutex_unlock(&device->lock);
    }
    reef_status status = carry_out(queue, &o, &launch->graph, &error);
    if (unlocked) {
        pthread_mutex_lock(&device->lock);
        queue->submitting = false;
    }
    if (status) {
        launch->failed = true;
        device->failure = error;
        instance->broken = true;
        instance->control_written = 0; /* nobody knows which of it was done: again, the next time */
        instance->dirty |= o.clear;
        if (o.close) { /* nor whether it is closed: as if the launch had been stopped before it began */
            instance->open = true;
            instance->generation = device->generation;
        }
    }
    instance->submitted += o.count && !status;
    launch->ticket = instance->submitted; /* nothing left to do: over when what was submitted before is */
    queue->submitted++;
}

/* --------------------------------------------------------- the submitter -- */

/* While real-time work has all units, tiles ride in it (pad.c). A launch of workers whose generation is revoked from the
 * start does no tile: it takes in the inputs and opens the source, or hands over the outputs of what has ridden to its
 * end. */
static bool helps_riding(const cuda_instance *instance)
{
    const cuda_device *device = (const cuda_device *)instance->base.program->dev;
    if (!pad_kind(device) || instance->in_flight || !((const cuda_program *)instance->base.program)->has_workers) {
        return false;
    }
    const uint64_t word = __atomic_load_n(&instance->words->ridden, __ATOMIC_RELAXED);
    const bool through =
        (uint32_t)(word >> 32) == instance->run && (uint32_t)word >= instance->base.program->plan->n_kernels;
    return !instance->open || instance->generation_run != instance->run || (through && instance->source);
}

/* depth: launches that a queue may have in its stream. */
static bool may_submit(const cuda_queue *queue, unsigned depth)
{
    const cuda_device *device = (const cuda_device *)queue->base.dev;
    if (queue->realtime || queue->submitted == queue->count) {
        return false;
    }
    const cuda_launch *next = &queue->ring[(queue->head + queue->submitted) % queue->capacity];
    if (device->dead) {
        return true;
    }
    if (next->mode == REEF_LAUNCH_LEASED && lease_is_empty(device) && !helps_riding(next->instance)) {
        return false;
    }
    /* Launches of a queue are one behind the other: while it has some in one stream, none goes into another. */
    return queue->submitted < depth && (queue->submitted == 0 || queue->stream == stream_of(queue, next));
}

static uint64_t alone_ns(const cuda_launch *launch)
{
    const cuda_program *program = (const cuda_program *)launch->instance->base.program;
    uint64_t sum = 0;
    for (uint32_t k = launch->first; k < launch->first + launch->count; k++) {
        sum += program->kernels[k].solo_ns ? program->kernels[k].solo_ns : 1000;
    }
    return sum;
}

/* The next queue to serve. One that is far ahead of another with work left waits for it. */
static cuda_queue *least_served(cuda_device *device)
{
    cuda_queue *best = NULL;
    uint64_t least = UINT64_MAX;
    unsigned active = 0;
    for (reef_list *link = device->queues.next; link != &device->queues; link = link->next) {
        const cuda_queue *queue = REEF_CONTAINER(link, cuda_queue, link);
        active += !queue->realtime && queue->count > 0;
    }
    const unsigned depth = active > 1 ? 1 : CUDA_BE_DEPTH; /* others keep the GPU busy: less to take back */
    for (reef_list *link = device->queues.next; link != &device->queues; link = link->next) {
        cuda_queue *queue = REEF_CONTAINER(link, cuda_queue, link);
        if (!queue->realtime && queue->count && queue->served_ns < least) {
            least = queue->served_ns;
        }
        if (may_submit(queue, depth) && (!best || queue->served_ns < best->served_ns)) {
            best = queue;
        }
    }
    if (best && best->served_ns - least > LEAD_NS && best->served_ns > least) {
        return NULL;
    }
    if (best) {
        /* A queue that comes back from doing nothing has no claim on the time it did not use. */
        device->served_ns = best->served_ns = best->served_ns > device->served_ns ? best->served_ns : device->served_ns;
    }
    return best;
}

/* Waking up takes longer than handing over a launch: when real-time work is about to end, best-effort work comes back. */
static void wait_for_work(cuda_device *device, uint32_t seen)
{
    while (reef_now_ns() < atomic_load_explicit(&device->work_due_ns, memory_order_relaxed)) {
        for (int i = 0; i < 16; i++) {
            if (atomic_load_explicit(&device->work, memory_order_relaxed) != seen) {
                return;
            }
            reef_cpu_relax();
        }
    }
    atomic_store(&device->submitter_sleeps, 1);
    if (atomic_load(&device->work) == seen) {
        reef_futex_wait(&device->work, seen, UINT64_MAX);
    }
    atomic_store(&device->submitter_sleeps, 0);
}

/* context_lock comes before lock, and is given up between two launches. */
void *cuda_submitter_main(void *context)
{
    cuda_device *device = context;
    for (;;) {
        uint32_t seen = atomic_load(&device->work);
        pthread_rwlock_rdlock(&device->context_lock);
        pthread_mutex_lock(&device->lock);
        bool closing = device->closing;
        cuda_queue *queue = closing ? NULL : least_served(device);
        if (queue) {
            const cuda_launch *launch = &queue->ring[(queue->head + queue->submitted) % queue->capacity];
            queue->served_ns += alone_ns(launch) / queue->weight;
            cuda_submit(queue, true);
        }
        pthread_mutex_unlock(&device->lock);
        pthread_rwlock_unlock(&device->context_lock);
        if (closing) {
            return NULL;
        }
        if (queue) {
            cuda_bump(device);
        } else {
            wait_for_work(device, seen);
        }
    }
}
