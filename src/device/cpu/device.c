/*
 * device.c - the CPU device's entry points: opening, queues, launching, eviction, the lease.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "device/cpu/progress.h"

/* ------------------------------------------------------ open and close -- */

static unsigned usable_processors(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > CPU_MAX_UNITS ? CPU_MAX_UNITS : (unsigned)n;
}

static void cpu_close(reef_dev *dev)
{
    cpu_device *device = (cpu_device *)dev;
    pthread_mutex_lock(&device->lock);
    device->closing = true;
    pthread_mutex_unlock(&device->lock);
    cpu_bump(device);
    for (unsigned i = 0; i < device->n_units; i++) {
        if (device->units[i].thread) {
            pthread_join(device->units[i].thread, NULL);
        }
        free(device->units[i].scratch);
    }
    pthread_mutex_destroy(&device->lock);
    free(device->units);
    free(device);
}

extern const reef_device_ops reef_cpu_device_ops;

static reef_status cpu_open(const reef_dev_config *config, reef_dev **out, reef_error *error)
{
    unsigned units = config->units ? config->units : usable_processors();
    if (units > CPU_MAX_UNITS) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "%u compute units: the CPU device has at most %d", units,
                         CPU_MAX_UNITS);
    }
    cpu_device *device = aligned_alloc(64, (sizeof *device + 63) / 64 * 64);
    cpu_unit *workers = aligned_alloc(64, units * sizeof *workers);
    if (!device || !workers) {
        free(device);
        free(workers);
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    memset(device, 0, sizeof *device);
    memset(workers, 0, units * sizeof *workers);
    device->base.ops = &reef_cpu_device_ops;
    device->base.units = units;
    device->base.model = "cpu";
    device->config = *config;
    device->isa = reef_cpu_isa_select();
    device->units = workers;
    device->n_units = units;
    atomic_store(&device->lease, reef_lease_make(0, units));
    pthread_mutex_init(&device->lock, NULL);
    for (unsigned i = 0; i < units; i++) {
        cpu_unit *unit = &workers[i];
        unit->device = device;
        unit->index = i;
        unit->scratch = cpu_big_alloc(CPU_SCRATCH_BYTES);
        int failure = unit->scratch ? pthread_create(&unit->thread, NULL, cpu_unit_main, unit) : ENOMEM;
        if (failure) {
            unit->thread = 0;
            cpu_close(&device->base);
            return reef_fail(error, REEF_NO_MEMORY, "cannot start the thread of compute unit %u: %s", i,
                             strerror(failure));
        }
        char name[16] = "reef-unit";
        pthread_setname_np(unit->thread, name);
    }
    *out = &device->base;
    return REEF_OK;
}

/* --------------------------------------------------------------- queues -- */

static reef_status cpu_queue_create(reef_dev *dev, bool realtime, unsigned capacity, unsigned weight, reef_dqueue **out)
{
    cpu_device *device = (cpu_device *)dev;
    cpu_queue *queue = calloc(1, sizeof *queue);
    if (!queue) {
        return REEF_NO_MEMORY;
    }
    queue->base.dev = dev;
    queue->realtime = realtime;
    queue->priority = realtime ? 1 : 0;
    queue->capacity = capacity;
    queue->weight = weight ? weight : 1;
    /* A unit that the operating system keeps away may hold on to the record of a launch that is long over. */
    queue->n_records = capacity + device->n_units;
    queue->ring = calloc(capacity, sizeof(cpu_launch *));
    queue->records = calloc(queue->n_records, sizeof *queue->records);
    if (!queue->ring || !queue->records) {
        free(queue->ring);
        free(queue->records);
        free(queue);
        return REEF_NO_MEMORY;
    }
    pthread_mutex_lock(&device->lock);
    queue->next = device->queues;
    device->queues = queue;
    pthread_mutex_unlock(&device->lock);
    *out = &queue->base;
    return REEF_OK;
}

void cpu_wait_detached(cpu_device *device, bool (*concerns)(const cpu_queue *, const cpu_launch *, const void *),
                       const void *context)
{
    for (bool attached = true; attached;) {
        attached = false;
        pthread_mutex_lock(&device->lock);
        for (cpu_queue *queue = device->queues; queue; queue = queue->next) {
            for (unsigned i = 0; i < queue->n_records; i++) {
                const cpu_launch *launch = &queue->records[i];
                attached |= launch->attached && concerns(queue, launch, context);
            }
        }
        pthread_mutex_unlock(&device->lock);
        if (attached) {
            sched_yield();
        }
    }
}

static bool in_queue(const cpu_queue *queue, const cpu_launch *launch, const void *context)
{
    (void)launch;
    return queue == context;
}

/* The queue's launches must be over. */
static void cpu_queue_destroy(reef_dqueue *base)
{
    cpu_queue *queue = (cpu_queue *)base;
    if (!queue) {
        return;
    }
    cpu_device *device = (cpu_device *)base->dev;
    cpu_wait_detached(device, in_queue, queue);
    pthread_mutex_lock(&device->lock);
    cpu_queue **link = &device->queues;
    while (*link != queue) {
        link = &(*link)->next;
    }
    *link = queue->next;
    pthread_mutex_unlock(&device->lock);
    free(queue->ring);
    free(queue->records);
    free(queue);
}

static void cpu_queue_priority(reef_dqueue *base, int priority)
{
    cpu_device *device = (cpu_device *)base->dev;
    pthread_mutex_lock(&device->lock);
    ((cpu_queue *)base)->priority = priority;
    pthread_mutex_unlock(&device->lock);
}

/*
 * A queue that was idle neither has credit for that time nor waits for what others received then: it starts at the
 * latest turn that any queue of its rank was given (start-time fair queueing). One that ran dry for a moment between
 * two requests keeps its place, since no turn later than its own claim has been given meanwhile.
 */
static void join_fairly(cpu_device *device, cpu_queue *queue)
{
    uint64_t latest = atomic_load_explicit(&queue->service_ns, memory_order_relaxed);
    for (cpu_queue *other = device->queues; other; other = other->next) {
        if (other->priority == queue->priority && other->turn_ns > latest) {
            latest = other->turn_ns;
        }
    }
    atomic_store_explicit(&queue->service_ns, latest, memory_order_relaxed);
}

static cpu_launch *free_record(cpu_queue *queue)
{
    for (unsigned i = 0; i < queue->n_records; i++) {
        if (!queue->records[i].in_ring && !queue->records[i].attached) {
            return &queue->records[i];
        }
    }
    return NULL;
}

static uint32_t epoch_of(const cpu_instance *instance)
{
    return (uint32_t)(atomic_load_explicit(&instance->current, memory_order_acquire) >> 32);
}

static reef_status cpu_launch_kernels(reef_dqueue *base, const reef_launch *wanted)
{
    cpu_queue *queue = (cpu_queue *)base;
    cpu_device *device = (cpu_device *)base->dev;
    pthread_mutex_lock(&device->lock);
    cpu_launch *launch = queue->count < queue->capacity ? free_record(queue) : NULL;
    if (launch) {
        launch->instance = (cpu_instance *)wanted->instance;
        launch->epoch = epoch_of(launch->instance);
        launch->first = wanted->first;
        atomic_store_explicit(&launch->end, wanted->first + wanted->count, memory_order_relaxed);
        launch->mode = wanted->mode;
        launch->realtime = queue->realtime;
        launch->tag = wanted->tag;
        launch->n_pads = wanted->n_pads;
        for (unsigned i = 0; i < wanted->n_pads; i++) {
            cpu_instance *instance = (cpu_instance *)wanted->pads[i].instance;
            launch->pads[i].instance = instance;
            launch->pads[i].epoch = epoch_of(instance);
            launch->pads[i].kernel = wanted->pads[i].kernel;
            atomic_store_explicit(&launch->pads[i].left, (int32_t)wanted->pads[i].tiles, memory_order_relaxed);
        }
        atomic_store_explicit(&launch->padded_tiles, 0, memory_order_relaxed);
        atomic_store_explicit(&launch->start_ns, 0, memory_order_relaxed);
        atomic_store_explicit(&launch->end_ns, 0, memory_order_relaxed);
        launch->evicted = false;
        launch->in_ring = true;
        if (queue->count == 0) {
            join_fairly(device, queue);
        }
        queue->ring[(queue->head + queue->count) % queue->capacity] = launch;
        queue->count++;
    }
    pthread_mutex_unlock(&device->lock);
    if (!launch) {
        return REEF_QUEUE_FULL;
    }
    const cpu_instance *instance = (const cpu_instance *)wanted->instance;
    wanted->n_pads ? cpu_bump(device)
                   : cpu_bump_tiles(device, cpu_tiles(instance, wanted->first), wanted->mode == REEF_LAUNCH_LEASED);
    return REEF_OK;
}

/* Has any tile of the launch been started, now or in an earlier launch of the same run? */
static bool launch_started(const cpu_launch *launch)
{
    return launch->attached || atomic_load_explicit(&launch->start_ns, memory_order_relaxed) != 0;
}

static bool kernel_started(const cpu_launch *launch, uint32_t kernel)
{
    return kernel < launch->instance->base.program->plan->n_kernels &&
           (uint32_t)atomic_load_explicit(&launch->instance->progress[kernel].claim, memory_order_relaxed) > 0;
}

static void cpu_evict(reef_dqueue *base, reef_evict how, reef_evicted *out)
{
    cpu_queue *queue = (cpu_queue *)base;
    cpu_device *device = (cpu_device *)base->dev;
    *out = (reef_evicted){0};
    pthread_mutex_lock(&device->lock);
    bool nobody = false;
    unsigned keep = queue->count && launch_started(queue->ring[queue->head]) ? 1 : 0;
    for (unsigned i = keep; i < queue->count; i++) {
        cpu_launch *launch = queue->ring[(queue->head + i) % queue->capacity];
        launch->in_ring = false;
        out->launches++;
        out->kernels += atomic_load_explicit(&launch->end, memory_order_relaxed) - launch->first;
    }
    queue->count = keep;
    if (keep) {
        cpu_launch *launch = queue->ring[queue->head];
        uint32_t end = atomic_load_explicit(&launch->end, memory_order_relaxed);
        uint32_t kernel = cpu_current(launch->instance, launch->epoch);
        uint32_t stop = how == REEF_EVICT_NOW ? 0 : kernel;
        if (how == REEF_EVICT_QUEUED && kernel < end && kernel_started(launch, kernel)) {
            stop = kernel + 1;
        }
        if (kernel < end && stop < end) {
            launch->evicted = true;
            atomic_store_explicit(&launch->end, stop, memory_order_relaxed);
            out->kernels += end - kernel - kernel_started(launch, kernel);
        }
        out->running = true;
        nobody = launch->attached == 0;
    }
    pthread_mutex_unlock(&device->lock);
    /* Units inside see the new end at their next tile and report the launch as they leave. Without any, a unit has to
     * come and do it. */
    if (nobody) {
        cpu_bump(device);
    }
}

/* ------------------------------------------------- progress, lease, stats -- */

static uint32_t cpu_progress_of(const reef_instance *base)
{
    return (uint32_t)atomic_load_explicit(&((const cpu_instance *)base)->current, memory_order_acquire);
}

static uint32_t cpu_tiles_left(const reef_instance *base)
{
    const cpu_instance *instance = (const cpu_instance *)base;
    uint32_t kernel = cpu_progress_of(base);
    if (kernel >= base->program->plan->n_kernels) {
        return 0;
    }
    uint32_t tiles = cpu_tiles(instance, kernel);
    uint32_t next = (uint32_t)atomic_load_explicit(&instance->progress[kernel].claim, memory_order_relaxed);
    return (next < tiles ? tiles - next : 0) + atomic_load_explicit(&instance->n_abandoned, memory_order_relaxed);
}

static void cpu_lease(reef_dev *dev, reef_lease lease)
{
    cpu_device *device = (cpu_device *)dev;
    /* Reads what it replaces: pairs with the read in run_tile, where an abandoned tile asks who could take it. */
    reef_lease before = atomic_exchange(&device->lease, lease);
    /* Units that lose the lease poll it. Only a unit that gains it may be asleep and has to be told. */
    uint32_t first = (uint32_t)lease, end = (uint32_t)(lease >> 32);
    if (first < end && !(reef_lease_has(before, first) && reef_lease_has(before, end - 1))) {
        cpu_bump(device);
    }
}

static void cpu_stats(const reef_dev *dev, reef_dev_stats *out)
{
    const cpu_device *device = (const cpu_device *)dev;
    *out = (reef_dev_stats){0};
    for (unsigned i = 0; i < device->n_units; i++) {
        const cpu_unit *unit = &device->units[i];
        out->tiles_run += atomic_load_explicit(&unit->tiles_run, memory_order_relaxed);
        out->tiles_abandoned += atomic_load_explicit(&unit->tiles_abandoned, memory_order_relaxed);
        out->padded_tiles += atomic_load_explicit(&unit->padded_tiles, memory_order_relaxed);
        out->busy_ns_rt += atomic_load_explicit(&unit->busy_ns_rt, memory_order_relaxed);
        out->busy_ns_be += atomic_load_explicit(&unit->busy_ns_be, memory_order_relaxed);
        out->lost_ns_be += atomic_load_explicit(&unit->lost_ns_be, memory_order_relaxed);
    }
}

const reef_device_ops reef_cpu_device_ops = {
    .name = "cpu",
    .description = "worker threads as compute units; runs anywhere",
    .caps = REEF_CAP_PAD | REEF_CAP_KILL,
    .open = cpu_open,
    .close = cpu_close,
    .program_create = cpu_program_create,
    .program_destroy = cpu_program_destroy,
    .kernel_info = cpu_kernel_info,
    .instance_create = cpu_instance_create,
    .instance_destroy = cpu_instance_destroy,
    .begin = cpu_begin,
    .progress = cpu_progress_of,
    .tiles_left = cpu_tiles_left,
    .queue_create = cpu_queue_create,
    .queue_destroy = cpu_queue_destroy,
    .queue_priority = cpu_queue_priority,
    .launch = cpu_launch_kernels,
    .evict = cpu_evict,
    .lease = cpu_lease,
    .stats = cpu_stats,
    .segment_kernels = 8,
};
