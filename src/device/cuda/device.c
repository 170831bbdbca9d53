/*
 * device.c - the CUDA device's entry points: which GPUs there are, opening and closing, the lease, statistics.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda.h"
#include "device/cuda/hint.h"

extern const reef_device_ops reef_cuda_device_ops;

static reef_status cuda_available(reef_error *error)
{
    if (!reef_cuda_images[0].name) {
        return reef_fail(error, REEF_UNSUPPORTED, "this build serves the CPU only: it was made without nvcc");
    }
    return cuda_driver_load(error) ? REEF_OK : error ? error->status : REEF_NOT_FOUND;
}

static bool cuda_enumerate(unsigned ordinal, const char **name, const char **description)
{
    const cuda_gpu *gpu = reef_cuda_images[0].name ? cuda_gpu_at(ordinal) : NULL;
    if (gpu) {
        *name = gpu->name;
        *description = gpu->description;
    }
    return gpu != NULL;
}

reef_status cuda_enter(const cuda_device *device, reef_error *error)
{
    if (!device->context) { /* lost: recover.c; nobody writes the failure any more */
        return reef_fail(error, REEF_DEVICE, "%s", device->failure.message);
    }
    return CUDA_TRY(device->cu, error, ctx_push(device->context));
}

void cuda_leave(const cuda_device *device)
{
    CUcontext left;
    device->cu->ctx_pop(&left);
}

void cuda_hold(cuda_device *device)
{
    pthread_rwlock_rdlock(&device->context_lock);
    cuda_watch_pause(device);
}

void cuda_release(cuda_device *device)
{
    cuda_watch_resume(device);
    pthread_rwlock_unlock(&device->context_lock);
}

reef_status cuda_settle(const cuda_device *device, reef_error *error)
{
    return CUDA_TRY(device->cu, error, stream_synchronize(NULL));
}

/* "NVIDIA H200" -> "NVIDIA-H200-cuda13000": GPU and driver, fit for a file name. */
static void name_model(cuda_device *device)
{
    size_t n = 0;
    for (const char *c = device->gpu->product; *c && n + 16 < sizeof device->model; c++) {
        device->model[n++] = isalnum((unsigned char)*c) ? *c : '-';
    }
    snprintf(device->model + n, sizeof device->model - n, "-cuda%d-sm", device->cu->version);
    device->base.model = device->model;
}

static void cuda_close(reef_dev *dev)
{
    cuda_device *device = (cuda_device *)dev;
    pthread_mutex_lock(&device->lock);
    device->closing = true;
    pthread_mutex_unlock(&device->lock);
    cuda_bump(device);
    cuda_work(device);
    if (device->has_completer) {
        pthread_join(device->completer, NULL);
    }
    if (device->has_submitter) {
        pthread_join(device->submitter, NULL);
    }
    reef_error ignored;
    if (device->context && !cuda_enter(device, &ignored)) {
        cuda_hint_unload(device, true);
        cuda_watch_unload(device, true);
        cuda_leave(device);
    }
    cuda_shares_unload(device);
    cuda_pad_unload(device);
    cuda_code_unload(device);
    if (device->context) {
        device->cu->ctx_destroy(device->context);
    }
    cuda_hint_destroy(device->hint);
    cuda_watch_destroy(device->watch);
    pthread_mutex_destroy(&device->lock);
    pthread_mutex_destroy(&device->code_lock);
    pthread_mutex_destroy(&device->padding.lock);
    pthread_rwlock_destroy(&device->context_lock);
    free(device);
}

static reef_status set_up(cuda_device *device, reef_error *error)
{
    const cuda_driver *cu = device->cu;
    reef_status status = CUDA_TRY(cu, error, ctx_create(&device->context, CUDA_CTX_MAP_HOST, device->gpu->device));
    if (status) {
        device->context = NULL;
        return status;
    }
    status = CUDA_TRY(cu, error, ctx_priorities(&device->least_priority, &device->greatest_priority));
    if (!status) {
        status = cuda_code_load(device, error);
    }
    status = status ? status : cuda_revoke_load(device, error);
    if (!status) {
        cuda_shares_load(device);
        cuda_watch_load(device);
    }
    CUcontext created;
    cu->ctx_pop(&created); /* creating made it current; the caller's thread keeps what it had */
    if (!status && pthread_create(&device->completer, NULL, cuda_completer_main, device)) {
        status = reef_fail(error, REEF_NO_MEMORY, "cannot start the thread that waits for the device");
    }
    device->has_completer = !status;
    if (!status && pthread_create(&device->submitter, NULL, cuda_submitter_main, device)) {
        status = reef_fail(error, REEF_NO_MEMORY, "cannot start the thread that launches best-effort work");
    }
    device->has_submitter = !status;
    if (!status) {
        pthread_setname_np(device->completer, "reef-cuda");
        pthread_setname_np(device->submitter, "reef-cuda-be");
    }
    return status;
}

static reef_status cuda_open(const reef_dev_config *config, reef_dev **out, reef_error *error)
{
    reef_status status = cuda_available(error);
    if (status) {
        return status;
    }
    const cuda_gpu *gpu = cuda_gpu_at(config->ordinal);
    if (!gpu) {
        return reef_fail(error, REEF_NOT_FOUND, "there is no GPU %u", config->ordinal);
    }
    if (config->units && config->units != gpu->sms) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "%u compute units: %s has %u, and all of them are used",
                         config->units, gpu->name, gpu->sms);
    }
    cuda_device *device = calloc(1, sizeof *device);
    if (!device) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    device->base.ops = &reef_cuda_device_ops;
    device->base.units = gpu->sms;
    device->config = *config;
    device->cu = cuda_driver_load(NULL);
    device->gpu = gpu;
    device->lease = reef_lease_make(0, gpu->sms);
    device->share = -1;
    name_model(device);
    reef_list_init(&device->queues);
    reef_list_init(&device->programs);
    reef_list_init(&device->instances);
    pthread_mutex_init(&device->lock, NULL);
    pthread_mutex_init(&device->code_lock, NULL);
    pthread_mutex_init(&device->padding.lock, NULL);
    pthread_rwlock_init(&device->context_lock, NULL);
    device->hint = cuda_hint_create();
    device->watch = cuda_watch_create();
    if (config->slice_us) {
        cuda_slice_want(config->slice_us);
    }
    status = device->hint && device->watch ? set_up(device, error) : reef_fail(error, REEF_NO_MEMORY, "out of memory");
    if (status) {
        reef_error_prefix(error, "%s (%s): ", gpu->name, gpu->product);
        cuda_close(&device->base);
        return status;
    }
    *out = &device->base;
    return REEF_OK;
}

/* ---------------------------------------------- progress, lease, statistics -- */

static uint32_t cuda_progress(const reef_instance *base)
{
    cuda_instance *instance = (cuda_instance *)(uintptr_t)base; /* for what has ridden */
    cuda_device *device = (cuda_device *)base->program->dev;
    if (atomic_load_explicit(&device->padding.on, memory_order_relaxed)) {
        pthread_mutex_lock(&device->lock);
        if (!instance->in_flight) {
            cuda_pad_progress(instance);
        }
        pthread_mutex_unlock(&device->lock);
    }
    return atomic_load_explicit(&instance->current, memory_order_acquire);
}

/* Which tiles of a kernel are done is known on the device alone: to the host all of them are still before it. */
static uint32_t cuda_tiles_left(const reef_instance *base)
{
    const cuda_program *program = (const cuda_program *)base->program;
    uint32_t kernel = cuda_progress(base);
    return kernel < base->program->plan->n_kernels ? program->kernels[kernel].code.tiles : 0;
}

/* Where nothing passes a revocation on, it takes longer than a launch. */
static bool cuda_launch_first(const reef_dev *dev)
{
    return !cuda_watch_is_there((const cuda_device *)dev);
}

static void cuda_lease(reef_dev *dev, reef_lease lease)
{
    cuda_device *device = (cuda_device *)dev;
    pthread_mutex_lock(&device->lock);
    bool changes = device->lease != lease;
    device->lease = lease;
    device->share = cuda_share_of(device, lease);
    if (changes) {
        cuda_revoke(device); /* what runs leaves its units, and is launched again for others */
    }
    pthread_mutex_unlock(&device->lock);
    if ((uint32_t)lease < (uint32_t)(lease >> 32)) {
        cuda_work(device);
    }
}

/* Tiles that have ridden. The context is current. */
static uint64_t read_ridden(cuda_device *device)
{
    uint64_t ridden = 0;
    pthread_mutex_lock(&device->padding.lock);
    if (device->padding.directory) {
        device->cu->memcpy_to_host(&ridden, device->padding.directory + offsetof(reef_pad_directory, tiles),
                                   sizeof ridden);
    }
    pthread_mutex_unlock(&device->padding.lock);
    return ridden;
}

static void cuda_stats(const reef_dev *dev, reef_dev_stats *out)
{
    cuda_device *device = (cuda_device *)(uintptr_t)dev; /* for its locks */
    reef_cuda_lost lost = {0};
    uint64_t ridden = 0;
    reef_error ignored;
    pthread_rwlock_rdlock(&device->context_lock);
    if (!device->dead && !cuda_enter(device, &ignored)) {
        device->cu->memcpy_to_host(&lost, device->revoked + CUDA_LOST_OFFSET, sizeof lost);
        ridden = read_ridden(device);
        cuda_leave(device);
    }
    pthread_rwlock_unlock(&device->context_lock);
    *out = (reef_dev_stats){
        .padded_tiles = ridden,
        .tiles_abandoned = lost.tiles,
        .lost_ns_be = (uint64_t)((double)lost.unit_cycles * 1e6 / device->gpu->clock_khz),
        .tiles_run = atomic_load_explicit(&device->tiles_run, memory_order_relaxed),
        .busy_ns_rt = atomic_load_explicit(&device->busy_ns_rt, memory_order_relaxed),
        .busy_ns_be = atomic_load_explicit(&device->busy_ns_be, memory_order_relaxed),
    };
}

static reef_status cuda_health(const reef_dev *dev, reef_error *error)
{
    cuda_device *device = (cuda_device *)(uintptr_t)dev; /* for its lock */
    pthread_mutex_lock(&device->lock);
    reef_error failure = device->failure;
    pthread_mutex_unlock(&device->lock);
    return failure.status ? reef_fail(error, failure.status, "%s", failure.message) : REEF_OK;
}

const reef_device_ops reef_cuda_device_ops = {
    .name = "cuda",
    .description = "an NVIDIA GPU",
    .open = cuda_open,
    .close = cuda_close,
    .program_create = cuda_program_create,
    .program_destroy = cuda_program_destroy,
    .kernel_info = cuda_kernel_info,
    .instance_create = cuda_instance_create,
    .instance_destroy = cuda_instance_destroy,
    .begin = cuda_begin,
    .stage = cuda_stage,
    .warm = cuda_warm,
    .left_over = cuda_left_over,
    .launch_first = cuda_launch_first,
    .divide_after_ns = 50 * 1000 * 1000, /* 165 us (H200) are lost, once in so long at most */
    .progress = cuda_progress,
    .tiles_left = cuda_tiles_left,
    .queue_create = cuda_queue_create,
    .queue_destroy = cuda_queue_destroy,
    .queue_priority = cuda_queue_priority,
    .launch = cuda_launch_kernels,
    .evict = cuda_evict,
    .lease = cuda_lease,
    .stats = cuda_stats,
    .caps = REEF_CAP_KILL,
    .pad = cuda_pad,
    .padding = cuda_padding_get,
    .segment_kernels = CUDA_SEGMENT_KERNELS,
    .enumerate = cuda_enumerate,
    .available = cuda_available,
    .measure = cuda_measure,
    .replay = cuda_replay,
    .health = cuda_health,
    .hint = cuda_hint_send,
    .slice = cuda_slice_get,
    .units_needed = cuda_units_needed,
};
