/*
 * fake_device.c - see fake_device.h.
 */
#include "support/fake_device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 2, 3))) static void note(fake_device *device, const char *format, ...)
{
    size_t used = strlen(device->log);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(device->log + used, sizeof device->log - used, format, arguments);
    va_end(arguments);
}

const char *fake_log(fake_device *device)
{
    static char copy[sizeof device->log];
    memcpy(copy, device->log, sizeof copy);
    device->log[0] = 0;
    return copy;
}

static fake_queue *find(fake_device *device, const char *name)
{
    for (unsigned i = 0; i < device->n_queues; i++) {
        if (device->queues[i] && strcmp(device->queues[i]->name, name) == 0) {
            return device->queues[i];
        }
    }
    fprintf(stderr, "fake device: no queue '%s'\n", name);
    abort();
}

static uint32_t kernels_of(const fake_instance *instance)
{
    return (uint32_t)instance->base.program->plan->n_kernels;
}

static uint32_t tiles_of(const fake_instance *instance)
{
    return ((const fake_program *)instance->base.program)->tiles;
}

static void pop(fake_device *device, fake_queue *queue)
{
    fake_launch launch = queue->ring[0];
    memmove(&queue->ring[0], &queue->ring[1], sizeof queue->ring[0] * (FAKE_MAX - 1));
    queue->count--;
    reef_event event = {
        .kind = launch.evicted ? REEF_EVENT_EVICTED : REEF_EVENT_DONE,
        .tag = launch.launch.tag,
        .start_ns = launch.started ? 1 : 0,
        .end_ns = 2,
    };
    device->config.on_event(device->config.context, &event);
}

static bool over(const fake_launch *launch)
{
    return ((const fake_instance *)launch->launch.instance)->current >= launch->end;
}

static void finish(fake_instance *instance, uint32_t tiles)
{
    instance->tiles_done += tiles;
    if (instance->tiles_done >= tiles_of(instance)) {
        instance->tiles_done = 0;
        instance->current++;
    }
}

bool fake_finish_tiles(fake_device *device, const char *name, uint32_t n)
{
    fake_queue *queue = find(device, name);
    if (!queue->count) {
        return false;
    }
    fake_launch *launch = &queue->ring[0];
    launch->started = true;
    finish((fake_instance *)launch->launch.instance, n);
    if (over(launch) && !launch->evicted) {
        pop(device, queue);
    } else if (launch->evicted && launch->end && over(launch)) {
        pop(device, queue);
    }
    return true;
}

bool fake_finish(fake_device *device, const char *name)
{
    fake_queue *queue = find(device, name);
    if (!queue->count) {
        return false;
    }
    const fake_instance *instance = (const fake_instance *)queue->ring[0].launch.instance;
    return fake_finish_tiles(device, name, tiles_of(instance) - instance->tiles_done);
}

bool fake_leave(fake_device *device, const char *name)
{
    fake_queue *queue = find(device, name);
    if (!queue->count || !queue->ring[0].evicted) {
        return false;
    }
    pop(device, queue);
    return true;
}

void fake_run_pad(fake_device *device, const char *name, uint32_t tiles)
{
    finish((fake_instance *)find(device, name)->ring[0].launch.pads[0].instance, tiles);
}

/* ------------------------------------------------------------------- ops -- */

static reef_status queue_create(reef_dev *dev, bool realtime, unsigned capacity, unsigned weight, reef_dqueue **out)
{
    (void)weight;
    fake_device *device = (fake_device *)dev;
    fake_queue *queue = calloc(1, sizeof *queue);
    queue->base.dev = dev;
    queue->capacity = capacity;
    unsigned be = 0;
    for (unsigned i = 0; i < device->n_queues; i++) {
        be += device->queues[i] && device->queues[i]->name[0] == 'b';
    }
    snprintf(queue->name, sizeof queue->name, realtime ? "rt" : "be%u", be % 100);
    device->queues[device->n_queues++] = queue;
    *out = &queue->base;
    return REEF_OK;
}

static void queue_destroy(reef_dqueue *base)
{
    fake_device *device = (fake_device *)base->dev;
    for (unsigned i = 0; i < device->n_queues; i++) {
        if (device->queues[i] == (fake_queue *)base) {
            device->queues[i] = NULL;
        }
    }
    free(base);
}

static void queue_priority(reef_dqueue *queue, int priority)
{
    ((fake_queue *)queue)->priority = priority;
}

static reef_status instance_create(reef_program *program, reef_instance **out, reef_error *error)
{
    (void)error;
    fake_instance *instance = calloc(1, sizeof *instance);
    instance->base.program = program;
    *out = &instance->base;
    return REEF_OK;
}

static void instance_destroy(reef_instance *instance)
{
    free(instance);
}

static void begin(reef_instance *base, uint32_t first, const void *const *inputs, void *const *outputs)
{
    (void)inputs, (void)outputs;
    fake_instance *instance = (fake_instance *)base;
    instance->current = first;
    instance->tiles_done = 0;
    instance->begun++;
}

static uint32_t progress(const reef_instance *instance)
{
    return ((const fake_instance *)instance)->current;
}

static uint32_t tiles_left(const reef_instance *base)
{
    const fake_instance *instance = (const fake_instance *)base;
    return instance->current < kernels_of(instance) ? tiles_of(instance) - instance->tiles_done : 0;
}

static reef_status launch_kernels(reef_dqueue *base, const reef_launch *launch)
{
    fake_queue *queue = (fake_queue *)base;
    if (queue->count == queue->capacity) {
        return REEF_QUEUE_FULL;
    }
    queue->ring[queue->count++] = (fake_launch){.launch = *launch, .end = launch->first + launch->count};
    note((fake_device *)base->dev, "launch %s %u+%u%s", queue->name, launch->first, launch->count,
         launch->mode == REEF_LAUNCH_LEASED ? " leased" : "");
    for (unsigned i = 0; i < launch->n_pads; i++) {
        note((fake_device *)base->dev, " pad %u:%u", launch->pads[i].kernel, launch->pads[i].tiles);
    }
    note((fake_device *)base->dev, "\n");
    return REEF_OK;
}

static void evict(reef_dqueue *base, reef_evict how, reef_evicted *out)
{
    fake_queue *queue = (fake_queue *)base;
    *out = (reef_evicted){0};
    note((fake_device *)base->dev, "evict %s %s\n", queue->name, how == REEF_EVICT_NOW ? "now" : "queued");
    unsigned keep = queue->count && queue->ring[0].started;
    for (unsigned i = keep; i < queue->count; i++) {
        out->launches++;
        out->kernels += queue->ring[i].launch.count;
    }
    queue->count = keep;
    if (keep) {
        fake_launch *launch = &queue->ring[0];
        const fake_instance *instance = (const fake_instance *)launch->launch.instance;
        uint32_t current = instance->current;
        out->running = true;
        out->kernels += launch->end > current ? launch->end - current - 1 : 0;
        launch->evicted = true;
        launch->end = how == REEF_EVICT_NOW ? 0 : current + (instance->tiles_done ? 1 : 0);
    }
}

static void lease(reef_dev *dev, reef_lease word)
{
    ((fake_device *)dev)->lease = word;
    note((fake_device *)dev, "lease %u..%u\n", (unsigned)(uint32_t)word, (unsigned)(word >> 32));
}

static void stats(const reef_dev *dev, reef_dev_stats *out)
{
    (void)dev;
    *out = (reef_dev_stats){0};
}

static const reef_device_ops fake_ops = {
    .name = "fake",
    .queue_create = queue_create,
    .queue_destroy = queue_destroy,
    .queue_priority = queue_priority,
    .instance_create = instance_create,
    .instance_destroy = instance_destroy,
    .begin = begin,
    .progress = progress,
    .tiles_left = tiles_left,
    .launch = launch_kernels,
    .evict = evict,
    .lease = lease,
    .stats = stats,
    .segment_kernels = 4,
};

void fake_device_init(fake_device *device, unsigned units)
{
    *device = (fake_device){.base = {.ops = &fake_ops, .units = units}};
}

void fake_device_free(fake_device *device)
{
    for (unsigned i = 0; i < device->n_queues; i++) {
        free(device->queues[i]);
    }
}

void fake_program_init(fake_program *program, fake_device *device, uint32_t kernels, uint32_t tiles)
{
    *program = (fake_program){.tiles = tiles};
    program->plan.n_kernels = kernels;
    program->base.dev = &device->base;
    program->base.plan = &program->plan;
}
