/*
 * program.c - a plan compiled for the CPU, and its instances.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/memory.h"
#include "device/cpu/progress.h"
#include "model/dtype.h"

enum { HUGE_PAGE = 2 * 1024 * 1024 };

void *cpu_big_alloc(size_t bytes)
{
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    if (bytes > SIZE_MAX - align) {
        return NULL;
    }
    bytes = bytes ? (bytes + align - 1) / align * align : align;
    void *memory = reef_memory_fits(bytes) ? aligned_alloc(align, bytes) : NULL;
    if (memory) {
        if (align == HUGE_PAGE) {
            madvise(memory, bytes, MADV_HUGEPAGE); /* a hint: fine if refused */
        }
        memset(memory, 0, bytes);
    }
    return memory;
}

/* ------------------------------------------------------------- programs -- */

typedef struct cpu_block {
    struct cpu_block *next;
    void *memory;
} cpu_block;

static void *program_alloc(void *owner, size_t bytes)
{
    cpu_program *program = owner;
    cpu_block *block = malloc(sizeof *block);
    void *memory = block ? cpu_big_alloc(bytes) : NULL;
    if (!memory) {
        free(block);
        return NULL;
    }
    block->memory = memory;
    block->next = program->blocks;
    program->blocks = block;
    program->block_bytes += bytes;
    return memory;
}

/* Constants that kernels read through views get an aligned copy; weights are packed by the kernels themselves. */
static reef_status copy_constants(cpu_program *program, const reef_plan *plan, reef_error *error)
{
    bool *wanted = calloc(plan->n_storage + 1, sizeof *wanted);
    reef_status status = wanted ? REEF_OK : reef_fail(error, REEF_NO_MEMORY, "out of memory");
    for (size_t k = 0; wanted && k < plan->n_kernels; k++) {
        const reef_kernel *kernel = &plan->kernels[k];
        for (int i = 0; i < kernel->n_in; i++) {
            bool packed = kernel->kind == REEF_K_MATMUL && kernel->matmul.b_const && i == 1;
            if (kernel->in[i].storage != REEF_NO_STORAGE && !packed) {
                wanted[kernel->in[i].storage] = true;
            }
        }
    }
    for (size_t i = 0; !status && i < plan->n_storage; i++) {
        const reef_storage *storage = &plan->storage[i];
        if (!wanted[i] || storage->kind != REEF_STORAGE_CONST) {
            continue;
        }
        program->const_data[i] = program_alloc(program, storage->bytes);
        if (!program->const_data[i]) {
            status = reef_fail(error, REEF_NO_MEMORY, "out of memory for constant '%s' (%zu bytes)", storage->name,
                               storage->bytes);
        } else if (storage->bytes) {
            memcpy(program->const_data[i], storage->data, storage->bytes);
        }
    }
    free(wanted);
    return status;
}

/* Tiles are counted in 32 bits, and no kernel makes more of them than an operand has elements. */
static reef_status check_size(const reef_kernel *kernel, reef_error *error)
{
    for (int i = 0; i <= kernel->n_in; i++) {
        const reef_view *view = i < kernel->n_in ? &kernel->in[i] : &kernel->y;
        if (view->storage != REEF_NO_STORAGE && reef_view_elems(view) > UINT32_MAX) {
            return reef_fail(error, REEF_UNSUPPORTED, "%lld elements; a tensor may have %lld on this device",
                             (long long)reef_view_elems(view), (long long)UINT32_MAX);
        }
    }
    return REEF_OK;
}

reef_status cpu_program_create(reef_dev *dev, const reef_plan *plan, reef_program **out, reef_error *error)
{
    cpu_device *device = (cpu_device *)dev;
    cpu_program *program = calloc(1, sizeof *program);
    if (!program) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    program->base.dev = dev;
    program->base.plan = plan;
    program->kernels = calloc(plan->n_kernels + 1, sizeof *program->kernels);
    program->const_data = calloc(plan->n_storage + 1, sizeof *program->const_data);
    reef_status status = REEF_OK;
    if (!program->kernels || !program->const_data) {
        status = reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    reef_cpu_prepare prepare = {
        .plan = plan,
        .units = device->n_units,
        .arena = &program->arena,
        .alloc = program_alloc,
        .owner = program,
        .error = error,
    };
    for (size_t k = 0; !status && k < plan->n_kernels; k++) {
        const reef_kernel *kernel = &plan->kernels[k];
        status = check_size(kernel, error);
        if (!status) {
            status = device->isa->prepare[kernel->kind](kernel, &prepare, &program->kernels[k]);
        }
        if (!status && program->kernels[k].scratch_bytes > CPU_SCRATCH_BYTES) {
            status = reef_fail(error, REEF_INTERNAL, "needs %zu bytes of scratch, more than the %d of a unit",
                               program->kernels[k].scratch_bytes, CPU_SCRATCH_BYTES);
        }
        if (status) {
            reef_error_prefix(error, "node '%s' (%s): ", kernel->name, kernel->ops);
        }
    }
    if (!status) {
        status = copy_constants(program, plan, error);
    }
    if (status) {
        cpu_program_destroy(&program->base);
        return status;
    }
    *out = &program->base;
    return REEF_OK;
}

void cpu_program_destroy(reef_program *base)
{
    cpu_program *program = (cpu_program *)base;
    if (!program) {
        return;
    }
    while (program->blocks) {
        cpu_block *block = program->blocks;
        program->blocks = block->next;
        free(block->memory);
        free(block);
    }
    reef_arena_free(&program->arena);
    free(program->kernels);
    free(program->const_data);
    free(program);
}

void cpu_kernel_info(const reef_program *base, uint32_t kernel, reef_dev_kernel *out)
{
    const cpu_program *program = (const cpu_program *)base;
    const reef_cpu_kernel *code = &program->kernels[kernel];
    const reef_kernel *described = &base->plan->kernels[kernel];
    /* Until a profile says better: about what a modern core does, and never less than a tile's fixed cost. */
    const double flops_per_ns = 60, fixed_ns = 300;
    *out = (reef_dev_kernel){
        .tiles = code->tiles,
        .preemptible = described->transaction && code->epilogue_only,
        .why_not = !described->transaction ? described->why_not
                   : !code->epilogue_only  ? "stores before its epilogue"
                                           : NULL,
        .variant = code->variant,
        .tile_ns = described->kind == REEF_K_SPIN ? described->spin.tile_ns
                                                  : (uint64_t)(fixed_ns + code->tile_flops / flops_per_ns),
    };
}

/* ------------------------------------------------------------ instances -- */

static size_t io_bytes(const reef_plan *plan)
{
    size_t largest = 0;
    for (size_t i = 0; i < plan->n_inputs; i++) {
        largest = plan->inputs[i].bytes > largest ? plan->inputs[i].bytes : largest;
    }
    size_t sum = largest;
    for (size_t i = 0; i < plan->n_outputs; i++) {
        sum += (plan->outputs[i].bytes + 63) / 64 * 64;
    }
    return sum + 64;
}

reef_status cpu_instance_create(reef_program *base, reef_instance **out)
{
    const reef_plan *plan = base->plan;
    cpu_instance *instance = calloc(1, sizeof *instance);
    if (!instance) {
        return REEF_NO_MEMORY;
    }
    instance->base.program = base;
    pthread_mutex_init(&instance->lock, NULL);
    instance->activations = cpu_big_alloc(plan->activation_bytes);
    instance->zeros = calloc(1, io_bytes(plan)); /* seldom touched: no pages until then */
    instance->storage = calloc(plan->n_storage + 1, sizeof *instance->storage);
    instance->progress = calloc(plan->n_kernels + 1, sizeof *instance->progress);
    instance->abandoned = calloc(CPU_MAX_UNITS, sizeof *instance->abandoned);
    if (!instance->activations || !instance->zeros || !instance->storage || !instance->progress ||
        !instance->abandoned) {
        cpu_instance_destroy(&instance->base);
        return REEF_NO_MEMORY;
    }
    const cpu_program *program = (const cpu_program *)base;
    for (size_t i = 0; i < plan->n_storage; i++) {
        const reef_storage *storage = &plan->storage[i];
        if (storage->kind == REEF_STORAGE_CONST) {
            instance->storage[i] = program->const_data[i];
        } else if (storage->kind == REEF_STORAGE_ACTIVATION) {
            instance->storage[i] = instance->activations + storage->offset;
        }
    }
    atomic_store(&instance->current, (uint64_t)plan->n_kernels); /* nothing to run until begin */
    *out = &instance->base;
    return REEF_OK;
}

static bool uses_instance(const cpu_queue *queue, const cpu_launch *launch, const void *instance)
{
    (void)queue;
    bool uses = launch->instance == instance;
    for (unsigned i = 0; i < launch->n_pads; i++) {
        uses |= launch->pads[i].instance == instance;
    }
    return uses;
}

void cpu_instance_destroy(reef_instance *base)
{
    cpu_instance *instance = (cpu_instance *)base;
    if (!instance) {
        return;
    }
    cpu_wait_detached((cpu_device *)base->program->dev, uses_instance, instance);
    pthread_mutex_destroy(&instance->lock);
    free(instance->activations);
    free(instance->zeros);
    free(instance->storage);
    free(instance->progress);
    free(instance->abandoned);
    free(instance);
}

void cpu_begin(reef_instance *base, uint32_t first, const void *const *inputs, void *const *outputs)
{
    cpu_instance *instance = (cpu_instance *)base;
    const reef_plan *plan = base->program->plan;
    uint32_t epoch = (uint32_t)(atomic_load(&instance->current) >> 32) + 1;
    char *spare = instance->zeros;
    size_t largest = 0;
    for (size_t i = 0; i < plan->n_inputs; i++) {
        /* Kernels only read inputs. */
        instance->storage[plan->inputs[i].storage] = inputs && inputs[i] ? (char *)(uintptr_t)inputs[i] : spare;
        largest = plan->inputs[i].bytes > largest ? plan->inputs[i].bytes : largest;
    }
    spare += (largest + 63) / 64 * 64;
    for (size_t i = 0; i < plan->n_outputs; i++) {
        instance->storage[plan->outputs[i].storage] = outputs && outputs[i] ? outputs[i] : spare;
        spare += (plan->outputs[i].bytes + 63) / 64 * 64;
    }
    pthread_mutex_lock(&instance->lock);
    atomic_store_explicit(&instance->n_abandoned, 0, memory_order_relaxed);
    pthread_mutex_unlock(&instance->lock);
    for (size_t k = 0; k < plan->n_kernels; k++) {
        atomic_store_explicit(&instance->progress[k].done, 0, memory_order_relaxed);
        /* Release: pairs with the acquire in cpu_claim_tile, for storage[] and done. */
        atomic_store_explicit(&instance->progress[k].claim, (uint64_t)epoch << 32, memory_order_release);
    }
    atomic_store_explicit(&instance->current, (uint64_t)epoch << 32 | first, memory_order_release);
}
