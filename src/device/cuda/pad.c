/*
 * pad.c - kernel padding (REEF section 5) on the GPU: real-time graphs with spare blocks, best-effort tiles that ride in them.
 *
 *      real-time graph:   k0 + spare -> k1 + spare -> ...             kernels/pad.cuh: what a spare block does
 *      best-effort:       workers, stopped -> reef_io_end opens the instance as a source -> tiles ride -> reef_pad_close -> workers
 *
 * The scheduler has nothing to choose. The host decides when a graph is made how many spare blocks a kernel gets and what they have
 * to offer (time, registers, memory, blocks of a cluster): the paper's two rules, that a tile fits into the kernel's time
 * and that carrying it does not lower the kernel's occupancy. Which tile it is a spare block decides when it runs, because
 * only then is it known how far best-effort work has come.
 *
 * The paper compiles its proxies once per occupancy and takes the highest that what it carries fits into. Here every kernel with
 * spare blocks is there once per level of registers. What it will carry is not known when its graph is made; so it takes the
 * level with the most registers, into which most fits, of those at which spare blocks have room beside all of its own.
 * A kernel of many blocks has that at a lower level only, where it carries light tiles; or at none, and stays plain.
 *
 * The kernels for it are in modules of their own, which are loaded when a policy first asks for them.
 */
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda.h"

static bool has_pads(const cuda_device *device)
{
    return device->cu->library_global && device->cu->kernel_attribute && device->cu->graph_add_edges &&
           device->gpu->major >= 9;
}

reef_status cuda_pad_load(cuda_device *device, reef_error *error)
{
    cuda_padding *padding = &device->padding;
    if (padding->directory || !has_pads(device)) {
        return padding->directory
                   ? REEF_OK
                   : reef_fail(error, REEF_UNSUPPORTED,
                               "kernel padding needs a GPU with clusters (compute capability 9.0) and a "
                               "driver for CUDA 12.3; %s has compute capability %u.%u, the driver is for "
                               "CUDA %d.%d",
                               device->gpu->product, device->gpu->major, device->gpu->minor, device->cu->version / 1000,
                               device->cu->version % 1000 / 10);
    }
    reef_status status = cuda_code_load_pads(device, error);
    status = status ? status : cuda_code_function(device, "reef_pad_close", 0, &padding->close, error);
    CUdeviceptr directory = 0;
    status = status ? status : CUDA_TRY(device->cu, error, mem_alloc(&directory, sizeof(reef_pad_directory)));
    if (!status) {
        status = CUDA_TRY(device->cu, error, memset8(directory, 0, sizeof(reef_pad_directory)));
        status = status ? status : cuda_settle(device, error);
        if (status) {
            device->cu->mem_free(directory);
        }
    }
    padding->directory = status ? 0 : directory;
    return status;
}

void cuda_pad_unload(cuda_device *device)
{
    cuda_padding *padding = &device->padding;
    while (padding->rides) {
        cuda_ride *ride = padding->rides;
        padding->rides = ride->next;
        free(ride);
    }
    padding->directory = 0; /* goes with the context */
    padding->close = NULL;
    padding->proxy_bytes = 0;
    memset(padding->slots, 0, sizeof padding->slots);
}

reef_status cuda_pad(reef_dev *dev, bool on, reef_error *error)
{
    cuda_device *device = (cuda_device *)dev;
    reef_status status = REEF_OK;
    if (on) {
        cuda_hold(device);
        status = cuda_enter(device, error);
        if (!status) {
            pthread_mutex_lock(&device->padding.lock);
            status = cuda_pad_load(device, error);
            pthread_mutex_unlock(&device->padding.lock);
            cuda_leave(device);
        }
        cuda_release(device);
    }
    if (!status) {
        atomic_store(&device->padding.on, on);
    }
    return status;
}

void cuda_padding_get(const reef_dev *dev, reef_dev_padding *out)
{
    cuda_padding *padding = &((cuda_device *)(uintptr_t)dev)->padding; /* for its lock */
    out->proxy_bytes = atomic_load(&padding->proxy_bytes);
    pthread_mutex_lock(&padding->lock);
    memcpy(out->levels, padding->levels, sizeof out->levels);
    pthread_mutex_unlock(&padding->lock);
}

/* --------------------------------------------------------------- sources -- */

/* A compiler that has registers left takes them: at its highest level nearly every function takes them all, and would fit into no
 * launch of a lower one. At a lower level it fits into every launch. That is the better one unless it spills: what it saves around
 * a call, a few registers more or less, is nothing to a tile. */
static void choose_ride(cuda_device *device, const char *function, cuda_ride *ride)
{
    enum { SAVED_BYTES = 32 };
    const unsigned *levels = device->padding.levels;
    unsigned most = 0;
    for (unsigned i = 0; i < REEF_PAD_LEVELS && levels[i]; i++) {
        cuda_ride at;
        reef_error ignored;
        if (!cuda_code_ride(device, function, levels[i], &at, &ignored) && (!ride->address || at.local_bytes <= most)) {
            most = ride->address ? most : at.local_bytes + SAVED_BYTES;
            ride->address = at.address;
            ride->regs = at.regs;
            ride->local_bytes = at.local_bytes;
            ride->scratch = at.scratch;
        }
    }
}

/* What a function needs; NULL: it does not ride. */
static const cuda_ride *find_ride(cuda_device *device, const char *function)
{
    cuda_padding *padding = &device->padding;
    for (const cuda_ride *ride = padding->rides; ride; ride = ride->next) {
        if (!strcmp(ride->name, function)) {
            return ride->address ? ride : NULL;
        }
    }
    cuda_ride *ride = calloc(1, sizeof *ride + strlen(function) + 1);
    if (!ride) {
        return NULL;
    }
    memcpy(ride->name, function, strlen(function) + 1);
    choose_ride(device, function, ride);
    ride->next = padding->rides;
    padding->rides = ride;
    return ride->address ? ride : NULL;
}

static unsigned cluster_of(const reef_cuda_kernel *code)
{
    return code->cluster > 1 ? code->cluster : 1;
}

static uint32_t tile_ns(const cuda_program *program, size_t k)
{
    uint64_t ns = cuda_tile_ns(program, (uint32_t)k);
    return ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

static void describe(cuda_device *device, const cuda_instance *instance, size_t k, reef_pad_kernel *out)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    const cuda_kernel *kernel = &program->kernels[k];
    const reef_cuda_kernel *code = &kernel->code;
    const cuda_ride *ride = kernel->done_by ? NULL : find_ride(device, code->function);
    *out = (reef_pad_kernel){
        .done = instance->memory + instance->done_offset + 4 * (uint64_t)kernel->first_tile,
        .needs = {.ns = UINT32_MAX, .threads = UINT16_MAX}, /* more than anything offers */
        .tiles = kernel->done_by ? 0 : code->tiles,
    };
    if (ride) {
        out->function = ride->address;
        out->needs = (reef_pad_needs){
            .ns = tile_ns(program, k),
            .dynamic_smem = ride->scratch + code->dynamic_smem,
            .threads = (uint16_t)code->threads,
            .regs = (uint16_t)ride->regs,
            .local_bytes = (uint16_t)ride->local_bytes,
            .cluster = (uint16_t)cluster_of(code),
        };
    }
}

/* The description of all kernels with their arguments, in one piece of device memory. */
static reef_status put_source(cuda_device *device, cuda_instance *instance, unsigned slot, reef_error *error)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    const cuda_driver *cu = device->cu;
    const size_t n = program->base.plan->n_kernels;
    size_t bytes = sizeof(reef_pad_source) + n * sizeof(reef_pad_kernel);
    for (size_t k = 0; k < n; k++) {
        bytes += (program->kernels[k].code.args_bytes + 15) / 16 * 16;
    }
    char *host = calloc(1, bytes);
    if (!host) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    CUdeviceptr memory = 0;
    reef_status status = CUDA_TRY(cu, error, mem_alloc(&memory, bytes));
    reef_pad_kernel *kernels = (reef_pad_kernel *)(host + sizeof(reef_pad_source));
    *(reef_pad_source *)host = (reef_pad_source){
        .directory = device->padding.directory,
        .kernels = memory + sizeof(reef_pad_source),
        .control = instance->memory + instance->control_offset + CUDA_CONTROL_OFFSET,
        .word = instance->pinned_address + offsetof(reef_io_words, ridden),
        .slot = slot,
        .n_kernels = (uint32_t)n,
    };
    size_t at = sizeof(reef_pad_source) + n * sizeof(reef_pad_kernel);
    uint32_t next = REEF_PAD_END;
    for (size_t k = 0; !status && k < n; k++) {
        describe(device, instance, k, &kernels[k]);
        kernels[k].source = memory;
        kernels[k].args = memory + at;
        cuda_kernel_args(&program->kernels[k], instance, host + at);
        at += (program->kernels[k].code.args_bytes + 15) / 16 * 16;
    }
    for (size_t k = n; k-- > 0;) {
        kernels[k].next = next;
        next = kernels[k].tiles ? (uint32_t)k : next;
    }
    status = status ? status : CUDA_TRY(cu, error, memcpy_to_device(memory, host, bytes));
    const CUdeviceptr entry = device->padding.directory + offsetof(reef_pad_directory, kernels) + 8 * (uint64_t)slot;
    const uint64_t address = memory + sizeof(reef_pad_source);
    status = status ? status : CUDA_TRY(cu, error, memcpy_to_device(entry, &address, sizeof address));
    status = status ? status : cuda_settle(device, error);
    free(host);
    if (status && memory) {
        cu->mem_free(memory);
    }
    instance->source = status ? 0 : memory;
    return status;
}

void cuda_pad_source(cuda_instance *instance)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    cuda_device *device = (cuda_device *)program->base.dev;
    cuda_padding *padding = &device->padding;
    reef_error ignored;
    const unsigned attempt = atomic_load(&padding->freed) + 1;
    if (!atomic_load(&padding->on) || instance->source || instance->source_tried == attempt) {
        return;
    }
    instance->source_tried = attempt; /* without a slot or memory it goes on as under policy reset until another goes */
    if (program->base.plan->n_kernels > REEF_PAD_MAX_KERNELS) {
        return;
    }
    for (size_t k = 0; k < program->base.plan->n_kernels; k++) {
        if (program->kernels[k].code.tiles > REEF_PAD_MAX_TILES) {
            return;
        }
    }
    pthread_mutex_lock(&padding->lock);
    unsigned slot = 0;
    while (slot < REEF_PAD_SOURCES && padding->slots[slot]) {
        slot++;
    }
    if (padding->directory && slot < REEF_PAD_SOURCES && !put_source(device, instance, slot, &ignored)) {
        padding->slots[slot] = true;
        instance->slot = slot;
    }
    pthread_mutex_unlock(&padding->lock);
}

reef_status cuda_pad_close(const cuda_instance *instance, CUstream stream, reef_error *error)
{
    const cuda_device *device = (const cuda_device *)instance->base.program->dev;
    uint64_t source = instance->source;
    void *params[] = {&source};
    return CUDA_TRY(device->cu, error,
                    launch_kernel(device->padding.close, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL));
}

void cuda_pad_source_free(cuda_instance *instance, bool reachable)
{
    cuda_device *device = (cuda_device *)instance->base.program->dev;
    reef_error ignored;
    instance->source_tried = 0;
    if (!instance->source || !reachable) {
        instance->source = 0; /* its slot stays taken until the context is gone: tiles of it may be riding */
        return;
    }
    /* Tiles of it may be riding just now. Where the driver refuses that, the claim is taken away from here, and whatever runs
     * is waited for. */
    CUstream stream = NULL; /* one of its own: nothing that waits for a tile may be in front of a revocation */
    reef_status status = CUDA_TRY(device->cu, &ignored, stream_create(&stream, CUDA_STREAM_NON_BLOCKING, 0));
    status = status ? status : cuda_pad_close(instance, stream, &ignored);
    status = status ? status : CUDA_TRY(device->cu, &ignored, stream_synchronize(stream));
    if (stream) {
        device->cu->stream_destroy(stream);
    }
    if (status) {
        const CUdeviceptr claim = device->padding.directory + offsetof(reef_pad_directory, claim);
        device->cu->memset8(claim + 8 * (uint64_t)instance->slot, 0, 8);
        device->cu->ctx_synchronize();
    }
    device->cu->mem_free(instance->source);
    instance->source = 0;
    pthread_mutex_lock(&device->padding.lock);
    device->padding.slots[instance->slot] = false;
    atomic_fetch_add(&device->padding.freed, 1);
    pthread_mutex_unlock(&device->padding.lock);
}

void cuda_pad_progress(cuda_instance *instance)
{
    const uint32_t n = (uint32_t)instance->base.program->plan->n_kernels;
    /* Acquire: whatever is launched because of it comes after the tiles that it counts. */
    const uint64_t word = __atomic_load_n(&instance->words->ridden, __ATOMIC_ACQUIRE);
    if ((uint32_t)(word >> 32) != instance->run || !instance->source) {
        return;
    }
    /* The outputs are copied by the last launch, so that one is left for the workers to find done. */
    uint32_t ridden = (uint32_t)word < n ? (uint32_t)word : n - 1;
    uint32_t current = atomic_load_explicit(&instance->current, memory_order_relaxed);
    if (ridden > current && current < n) {
        atomic_store_explicit(&instance->current, ridden, memory_order_release);
    }
}

/* ----------------------------------------------------------- spare blocks -- */

static unsigned blocks_at_once(const cuda_device *device, CUfunction function, unsigned threads, unsigned smem)
{
    int blocks = 0;
    device->cu->occupancy(&blocks, function, (int)threads, smem);
    return blocks > 0 ? (unsigned)blocks * device->gpu->sms : 0;
}

/* Does nothing of the plan run at the same time as kernel k, but what it follows and what follows it? */
static bool is_alone(const reef_plan *plan, uint32_t k)
{
    const uint32_t n = (uint32_t)plan->n_kernels;
    if (!plan->after) {
        return true; /* in a row */
    }
    bool *joined = calloc(n + 1, sizeof *joined); /* to k, by a path */
    bool alone = joined != NULL;
    if (alone) {
        joined[k] = true;
    }
    for (uint32_t j = k + 1; j < n && alone; j++) {
        for (uint32_t i = plan->after_at[j]; i < plan->after_at[j + 1]; i++) {
            joined[j] |= plan->after[i] >= k && joined[plan->after[i]];
        }
        alone = joined[j];
    }
    for (uint32_t j = k; j > 0 && alone; j--) {
        for (uint32_t i = plan->after_at[j]; i < plan->after_at[j + 1] && joined[j]; i++) {
            joined[plan->after[i]] = true;
        }
        alone = joined[j - 1]; /* whoever follows it has been looked at */
    }
    free(joined);
    return alone;
}

/* Are there spare blocks at this level, while as many of the kernel's own run at once as without them? */
static bool plan_level(const cuda_program *program, uint32_t k, unsigned level, cuda_padded *out)
{
    static const unsigned sizes[] = {72 << 10, 50 << 10, 26 << 10, 0};
    cuda_device *device = (cuda_device *)program->base.dev;
    const cuda_kernel *kernel = &program->kernels[k];
    const reef_cuda_kernel *code = &kernel->code;
    const unsigned cluster = cluster_of(code), most = device->gpu->sms / cluster * cluster;
    unsigned beside = 0; /* blocks of the kernel that comes right behind it: they are set up while it runs */
    for (uint32_t i = k + 1; i < program->base.plan->n_kernels && !beside; i++) {
        beside = program->kernels[i].done_by ? 0 : program->kernels[i].code.tiles;
    }
    reef_error ignored;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const unsigned smem = code->dynamic_smem > sizes[i] ? code->dynamic_smem : sizes[i];
        cuda_pad_form form;
        if (cuda_code_padded(device, code->function, level, smem + REEF_PAD_SCRATCH, &form, &ignored) || form.spills) {
            return false;
        }
        const unsigned dynamic = smem + form.scratch - form.shared_bytes;
        const unsigned room = blocks_at_once(device, form.function, code->threads, dynamic);
        const unsigned taken = code->tiles + beside;
        unsigned spare = room > taken ? (room - taken) / cluster * cluster : 0;
        spare = spare < most ? spare : most;
        if (spare == 0) {
            continue;
        }
        *out = (cuda_padded){
            .function = form.function,
            .dynamic_smem = dynamic,
            .spare = spare,
            .pad = {.directory = device->padding.directory,
                    .tiles = code->tiles,
                    .turn = k,
                    .offers = {.ns = tile_ns(program, k),
                               .dynamic_smem = smem + form.scratch,
                               .threads = (uint16_t)code->threads,
                               .regs = (uint16_t)form.regs,
                               .local_bytes = (uint16_t)form.local_bytes,
                               .cluster = (uint16_t)cluster}},
        };
        cuda_code_count_padded(device, code->function, level);
        return true;
    }
    return false;
}

bool cuda_pad_plan(const cuda_program *program, uint32_t k, cuda_padded *out)
{
    const unsigned *levels = ((const cuda_device *)program->base.dev)->padding.levels;
    unsigned i = is_alone(program->base.plan, k) ? 0 : REEF_PAD_LEVELS;
    while (i < REEF_PAD_LEVELS && levels[i] && !plan_level(program, k, levels[i], out)) {
        i++;
    }
    const unsigned level = i < REEF_PAD_LEVELS ? levels[i] : 0;
    atomic_store(&program->kernels[k].pad_level, level);
    return level != 0;
}
