/*
 * instance.c - the memory of one request, on both sides of the bus.
 *
 *     device: [activations | workspace | control | done flags | inputs | outputs]   one allocation
 *     pinned: [words | inputs | outputs]                               host memory that the device reads and writes
 *
 * A request's inputs are copied into pinned memory, so that the graphs never change: at once for a real-time one, by the
 * submitter for the others, whose copies would hold up whoever wants the scheduler. The completer copies outputs from there.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/past_caches.h"
#include "device/cuda/cuda.h"

static size_t lay_out(cuda_instance *instance)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    const reef_plan *plan = program->base.plan;
    size_t device = cuda_round(plan->activation_bytes), host = CUDA_ALIGN;
    instance->workspace_offset = device;
    device += cuda_round(program->workspace_bytes);
    instance->control_offset = device;
    device += CUDA_ALIGN;
    instance->done_offset = device;
    instance->begun_offset = device + 4 * (size_t)program->tiles;
    instance->bounds_offset = instance->begun_offset + 4 * plan->n_kernels;
    device += cuda_round(4 * ((size_t)program->tiles + 2 * plan->n_kernels + 1));
    for (size_t i = 0; i < plan->n_inputs + plan->n_outputs; i++) {
        size_t bytes = i < plan->n_inputs ? plan->inputs[i].bytes : plan->outputs[i - plan->n_inputs].bytes;
        instance->io_offset[i] = device;
        instance->pin_offset[i] = host;
        device += cuda_round(bytes ? bytes : 1);
        host += cuda_round(bytes ? bytes : 1);
    }
    instance->memory_bytes = device;
    return host;
}

static void find_storage(cuda_instance *instance)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    const reef_plan *plan = program->base.plan;
    for (size_t i = 0; i < plan->n_storage; i++) {
        const reef_storage *storage = &plan->storage[i];
        uint64_t offset = 0, base = instance->memory;
        switch (storage->kind) {
        case REEF_STORAGE_CONST: base = program->constants, offset = program->const_offset[i]; break;
        case REEF_STORAGE_INPUT: offset = instance->io_offset[storage->index]; break;
        case REEF_STORAGE_OUTPUT: offset = instance->io_offset[plan->n_inputs + storage->index]; break;
        case REEF_STORAGE_ACTIVATION: offset = storage->offset; break;
        }
        instance->storage[i] = base + offset;
    }
}

/* Where each kernel's tiles are among the flags. */
static reef_status put_bounds(const cuda_instance *instance, reef_error *error)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    const cuda_device *device = (const cuda_device *)program->base.dev;
    size_t n = program->base.plan->n_kernels;
    uint32_t *bounds = malloc((n + 1) * sizeof *bounds);
    if (!bounds) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    for (size_t k = 0; k < n; k++) {
        bounds[k] = program->kernels[k].first_tile;
    }
    bounds[n] = program->tiles;
    reef_status status =
        CUDA_TRY(device->cu, error, memcpy_to_device(instance->memory + instance->bounds_offset, bounds, 4 * (n + 1)));
    status = status ? status : cuda_settle(device, error);
    free(bounds);
    return status;
}

reef_status cuda_instance_load(cuda_instance *instance, reef_error *error)
{
    const cuda_device *device = (const cuda_device *)instance->base.program->dev;
    const cuda_driver *cu = device->cu;
    size_t wanted = instance->memory_bytes;
    reef_status status = CUDA_TRY(cu, error, mem_alloc(&instance->memory, wanted));
    if (status) {
        instance->memory = 0;
        reef_error_prefix(error, "%zu MiB for an instance on %s: ", wanted >> 20, device->gpu->name);
        return status;
    }
    status = CUDA_TRY(cu, error, memset8(instance->memory, 0, wanted));
    status = status ? status : put_bounds(instance, error);
    if (!status) {
        status = CUDA_TRY(cu, error,
                          host_register(instance->pinned, instance->pinned_bytes,
                                        CUDA_HOST_REGISTER_PORTABLE | CUDA_HOST_REGISTER_DEVICEMAP));
    }
    if (!status) {
        status = CUDA_TRY(cu, error, host_device_pointer(&instance->pinned_address, instance->pinned, 0));
    }
    find_storage(instance);
    instance->words->ended = instance->words->ridden = 0; /* launches and runs are counted from the beginning */
    instance->submitted = 0;
    instance->run = instance->generation = instance->generation_run = 0;
    instance->control_written = 0;
    instance->partial = instance->dirty = instance->open = false;
    const reef_plan *plan = instance->base.program->plan;
    cuda_graph *graph;
    /* What every request needs is made now, not while one waits for it. */
    if (!status && plan->n_kernels) {
        status = cuda_graph_get(instance, 0, (uint32_t)plan->n_kernels, CUDA_GRAPH_IN | CUDA_GRAPH_OUT, &graph, error);
    }
    return status;
}

void cuda_instance_unload(cuda_instance *instance, bool reachable)
{
    const cuda_driver *cu = ((const cuda_device *)instance->base.program->dev)->cu;
    cuda_graphs_destroy(instance, reachable);
    cuda_pad_source_free(instance, reachable);
    if (reachable) {
        for (int i = 0; i < 1 + CUDA_SHARES; i++) {
            if (instance->replay_streams[i]) {
                cu->stream_destroy(instance->replay_streams[i]);
            }
        }
        if (instance->memory) {
            cu->mem_free(instance->memory); /* waits: a replay that was given up may still be running */
        }
        if (instance->pinned_address) {
            cu->host_unregister(instance->pinned);
        }
    }
    memset(instance->replay_streams, 0, sizeof instance->replay_streams);
    instance->pinned_address = 0;
    instance->memory = 0;
}

static void instance_free(cuda_instance *instance)
{
    if (instance->pinned) {
        munmap(instance->pinned, instance->pinned_bytes);
    }
    free(instance->graphs);
    free(instance->io_offset);
    free(instance->pin_offset);
    free(instance->storage);
    free(instance->inputs);
    free(instance->outputs);
    free(instance);
}

reef_status cuda_instance_create(reef_program *base, reef_instance **out, reef_error *error)
{
    cuda_device *device = (cuda_device *)base->dev;
    const reef_plan *plan = base->plan;
    size_t n_io = plan->n_inputs + plan->n_outputs;
    cuda_instance *instance = calloc(1, sizeof *instance);
    if (!instance) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    instance->base.program = base;
    reef_list_init(&instance->link);
    instance->graphs = calloc(plan->n_kernels / CUDA_SEGMENT_KERNELS + 1, sizeof(cuda_graph *));
    instance->io_offset = calloc(n_io + 1, sizeof *instance->io_offset);
    instance->pin_offset = calloc(n_io + 1, sizeof *instance->pin_offset);
    instance->storage = calloc(plan->n_storage + 1, sizeof *instance->storage);
    instance->inputs = calloc(plan->n_inputs + 1, sizeof *instance->inputs);
    instance->outputs = calloc(plan->n_outputs + 1, sizeof *instance->outputs);
    if (!instance->graphs || !instance->io_offset || !instance->pin_offset || !instance->storage || !instance->inputs ||
        !instance->outputs) {
        instance_free(instance);
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    instance->pinned_bytes = (lay_out(instance) + 4095) / 4096 * 4096;
    instance->pinned = mmap(NULL, instance->pinned_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (instance->pinned == MAP_FAILED) {
        instance->pinned = NULL;
        reef_fail(error, REEF_NO_MEMORY, "out of memory for %zu bytes of staging", instance->pinned_bytes);
        instance_free(instance);
        return REEF_NO_MEMORY;
    }
    instance->words = (reef_io_words *)instance->pinned;
    instance->current = instance->cursor = (uint32_t)plan->n_kernels; /* nothing to run until begin */
    cuda_hold(device);
    reef_status status = cuda_enter(device, error);
    if (!status) {
        status = cuda_instance_load(instance, error);
        if (status) {
            cuda_instance_unload(instance, true);
        }
        cuda_leave(device);
    }
    if (!status) {
        pthread_mutex_lock(&device->lock);
        reef_list_insert(&device->instances, &instance->link);
        pthread_mutex_unlock(&device->lock);
    }
    cuda_release(device);
    if (status) {
        instance_free(instance);
        return status;
    }
    *out = &instance->base;
    return REEF_OK;
}

void cuda_instance_destroy(reef_instance *base)
{
    cuda_instance *instance = (cuda_instance *)base;
    if (!instance) {
        return;
    }
    cuda_device *device = (cuda_device *)base->program->dev;
    cuda_hold(device);
    pthread_mutex_lock(&device->lock);
    reef_list_remove(&instance->link);
    pthread_mutex_unlock(&device->lock);
    reef_error ignored;
    const bool reachable = !cuda_enter(device, &ignored);
    cuda_instance_unload(instance, reachable);
    if (reachable) {
        cuda_leave(device);
    }
    cuda_release(device);
    instance_free(instance);
}

void cuda_stage(reef_instance *base)
{
    cuda_instance *instance = (cuda_instance *)base;
    const reef_plan *plan = base->program->plan;
    for (size_t i = 0; !instance->staged && i < plan->n_inputs; i++) {
        char *to = instance->pinned + instance->pin_offset[i];
        if (instance->inputs[i]) {
            reef_copy_past_caches(to, instance->inputs[i], plan->inputs[i].bytes);
        } else {
            memset(to, 0, plan->inputs[i].bytes);
        }
    }
    instance->staged = true;
}

void cuda_begin(reef_instance *base, uint32_t first, const void *const *inputs, void *const *outputs)
{
    cuda_instance *instance = (cuda_instance *)base;
    cuda_device *device = (cuda_device *)base->program->dev;
    const reef_plan *plan = base->program->plan;
    for (size_t i = 0; i < plan->n_inputs; i++) {
        instance->inputs[i] = inputs ? inputs[i] : NULL;
    }
    instance->staged = first > 0; /* a run that starts elsewhere reads nothing of the request */
    for (size_t i = 0; i < plan->n_outputs; i++) {
        instance->outputs[i] = outputs ? outputs[i] : NULL;
    }
    pthread_mutex_lock(&device->lock); /* the device may be recovering: runs are counted from the beginning then */
    /* Flags of earlier runs say nothing about this one, until the numbers come round. */
    instance->dirty |= instance->partial;
    instance->partial = false;
    if (++instance->run == 0) {
        instance->run = 1;
        instance->dirty = true;
    }
    instance->cursor = first;
    instance->untouched = first;
    atomic_store_explicit(&instance->current, first, memory_order_release);
    pthread_mutex_unlock(&device->lock);
}

void cuda_instance_outputs(cuda_instance *instance)
{
    const reef_plan *plan = instance->base.program->plan;
    for (size_t i = 0; i < plan->n_outputs; i++) {
        if (instance->outputs[i]) {
            memcpy(instance->outputs[i], instance->pinned + instance->pin_offset[plan->n_inputs + i],
                   plan->outputs[i].bytes);
        }
    }
}
