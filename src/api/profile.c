/*
 * profile.c - measuring kernels alone on the device, and keeping the result.
 *
 * Each kernel is launched by itself on a private instance and queue, so the numbers are those of the launch path that
 * requests take. What padding and leases need from it: the time of one tile, and how many units a kernel fills.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/futex.h"
#include "base/json_file.h"
#include "reef/reef.h"

typedef struct reef_profiler {
    reef_event event;
    _Atomic uint32_t arrived; /* futex: 1 when event is filled */
} reef_profiler;

void reef_profiler_event(struct reef_profiler *profiler, const reef_event *event)
{
    profiler->event = *event;
    /* Release: pairs with the acquire in launch_and_wait. */
    atomic_store_explicit(&profiler->arrived, 1, memory_order_release);
    reef_futex_wake(&profiler->arrived, 1);
}

static reef_status launch_and_wait(reef_device *device, reef_dqueue *queue, reef_instance *instance, uint32_t kernel,
                                   uint64_t *took_ns)
{
    reef_profiler *profiler = device->profiler;
    const reef_device_ops *ops = device->dev->ops;
    atomic_store(&profiler->arrived, 0);
    ops->begin(instance, kernel, NULL, NULL);
    reef_launch launch = {
        .instance = instance, .first = kernel, .count = 1, .mode = REEF_LAUNCH_PLAIN, .tag = profiler};
    reef_status status = ops->launch(queue, &launch);
    while (!status && !atomic_load_explicit(&profiler->arrived, memory_order_acquire)) {
        reef_futex_wait(&profiler->arrived, 0, UINT64_MAX);
    }
    *took_ns = profiler->event.end_ns - profiler->event.start_ns;
    return status;
}

/* How much longer a run may take on the units that real-time work is left with while best-effort work has the others. */
enum { UNITS_SLACK_PER_MILLE = 10 };

/* What a profile finds out, one entry per kernel; becomes the model's when all is measured. */
typedef struct measured {
    uint64_t *samples, *tile_ns;
    reef_kernel_profile *profile;
    unsigned units_needed; /* 0: not measured */
    bool whole;            /* all of it was measured */
} measured;

/* Where the device can say what the kernel takes without launching and being told: a GPU. */
static reef_status measure_kernel(const reef_model *model, reef_instance *instance, uint32_t kernel, unsigned runs,
                                  measured *out, reef_error *error)
{
    const reef_dev *dev = model->device->dev;
    reef_dev_kernel info;
    reef_status status = dev->ops->measure(instance, kernel, runs, out->samples, error);
    if (!status) {
        qsort(out->samples, runs, sizeof *out->samples, reef_compare_ns);
        dev->ops->kernel_info(model->program, kernel, &info);
        uint64_t at_once = (uint64_t)dev->units * (info.blocks_per_unit ? info.blocks_per_unit : 1);
        uint64_t waves = (info.tiles + at_once - 1) / at_once;
        out->profile[kernel].p50_ns = out->samples[(runs - 1) / 2] ? out->samples[(runs - 1) / 2] : 1;
        out->profile[kernel].p99_ns = out->samples[(runs * 99 + 99) / 100 - 1];
        out->tile_ns[kernel] = out->profile[kernel].p50_ns / waves;
    }
    return status;
}

static reef_status profile_kernel(reef_model *model, reef_dqueue *queue, reef_instance *instance, uint32_t kernel,
                                  unsigned runs, measured *out, reef_error *error)
{
    reef_device *device = model->device;
    uint64_t *samples = out->samples;
    if (device->dev->ops->measure) {
        return measure_kernel(model, instance, kernel, runs, out, error);
    }
    reef_dev_stats before, after;
    uint64_t took;
    reef_status status = launch_and_wait(device, queue, instance, kernel, &took); /* warm up */
    device->dev->ops->stats(device->dev, &before);
    for (unsigned i = 0; !status && i < runs; i++) {
        status = launch_and_wait(device, queue, instance, kernel, &samples[i]);
    }
    device->dev->ops->stats(device->dev, &after);
    if (status) {
        return status;
    }
    qsort(samples, runs, sizeof *samples, reef_compare_ns);
    uint64_t busy = after.busy_ns_rt + after.busy_ns_be - before.busy_ns_rt - before.busy_ns_be;
    uint64_t tiles = after.tiles_run - before.tiles_run;
    uint64_t p50 = samples[(runs - 1) / 2], p99 = samples[((uint64_t)runs * 99 + 99) / 100 - 1];
    out->profile[kernel] = (reef_kernel_profile){.p50_ns = p50 ? p50 : 1, .p99_ns = p99 ? p99 : 1};
    out->tile_ns[kernel] = tiles ? busy / tiles : model->costs[kernel].tile_ns;
    return REEF_OK;
}

static reef_status profile_kernels(reef_model *model, unsigned runs, reef_progress progress, void *context,
                                   measured *out, reef_error *error)
{
    reef_device *device = model->device;
    const reef_device_ops *ops = device->dev->ops;
    reef_profiler profiler = {0};
    reef_instance *instance = NULL;
    reef_dqueue *queue = NULL;
    reef_status status = ops->instance_create(model->program, &instance, error);
    if (!status) {
        status = ops->queue_create(device->dev, true, 1, 1, &queue);
    }
    device->profiler = &profiler;
    for (uint32_t k = 0; !status && k < model->plan->n_kernels; k++) {
        if (progress) {
            progress(context, "profiling", k, model->plan->n_kernels);
        }
        status = profile_kernel(model, queue, instance, k, runs, out, error);
    }
    if (!status && ops->units_needed && model->plan->n_kernels) {
        reef_error ignored; /* then they are estimated, as before */
        out->whole = !ops->units_needed(instance, UNITS_SLACK_PER_MILLE, &out->units_needed, &ignored);
        out->units_needed = out->whole ? out->units_needed : 0;
    }
    if (queue) {
        ops->queue_destroy(queue);
    }
    if (instance) {
        ops->instance_destroy(instance);
    }
    device->profiler = NULL;
    return status;
}

/* All kernels at once, so that the scheduler and the functions that describe the model see the old numbers or the new. */
static void install(reef_model *model, const measured *found)
{
    pthread_mutex_lock(&model->device->sched.lock);
    for (size_t k = 0; k < model->plan->n_kernels; k++) {
        model->profile[k] = found->profile[k];
        model->costs[k].tile_ns = found->tile_ns[k];
    }
    model->profiled = true;
    if (found->units_needed) {
        atomic_store_explicit(&model->units_needed, found->units_needed, memory_order_relaxed);
    }
    pthread_mutex_unlock(&model->device->sched.lock);
}

/* The device is the profile's alone: requests that arrive meanwhile wait. */
static reef_status profile_alone(reef_model *model, unsigned runs, reef_progress progress, void *context,
                                 reef_error *error)
{
    reef_device *device = model->device;
    if (reef_sched_hold(&device->sched)) {
        return reef_fail(error, REEF_BUSY, "a model can only be profiled while no request waits or runs");
    }
    size_t n = model->plan->n_kernels + 1;
    measured found = {
        .samples = calloc(runs, sizeof *found.samples),
        .tile_ns = calloc(n, sizeof *found.tile_ns),
        .profile = calloc(n, sizeof *found.profile),
        .whole = true,
    };
    reef_error cause = {0};
    reef_status status = REEF_NO_MEMORY;
    if (found.samples && found.tile_ns && found.profile) {
        status = profile_kernels(model, runs, progress, context, &found, &cause);
    }
    if (!status) {
        install(model, &found);
    }
    reef_sched_release(&device->sched);
    if (!status && found.whole) {
        /* A folder that cannot be written costs the next start a profile, not this one its result. */
        reef_profile_save(model, NULL);
    }
    free(found.samples);
    free(found.tile_ns);
    free(found.profile);
    return status ? reef_fail(error, status, "profiling failed: %s",
                              cause.status ? cause.message : reef_status_text(status))
                  : REEF_OK;
}

reef_status reef_model_profile(reef_model *model, unsigned runs, reef_progress progress, void *context,
                               reef_error *error)
{
    reef_device *device = model->device;
    if (runs < 1 || runs > 1000000) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "%u runs: give 1 to 1000000", runs);
    }
    pthread_mutex_lock(&device->profile_lock);
    reef_status status = profile_alone(model, runs, progress, context, error);
    pthread_mutex_unlock(&device->profile_lock);
    if (!status && progress) {
        progress(context, "profiling", model->plan->n_kernels, model->plan->n_kernels);
    }
    return status;
}

/* ------------------------------------------------------------- on disk -- */

enum { PROFILE_FORMAT = 2 };

static const char *variant_of(const reef_model *model, uint32_t kernel)
{
    reef_dev_kernel info;
    model->device->dev->ops->kernel_info(model->program, kernel, &info);
    return info.variant ? info.variant : "";
}

reef_status reef_profile_save(const reef_model *model, reef_error *error)
{
    if (!model->cache_path) {
        return REEF_OK;
    }
    json_t *kernels = json_array();
    bool whole = kernels != NULL;
    for (uint32_t k = 0; whole && k < model->plan->n_kernels; k++) {
        whole = json_array_append_new(kernels, json_pack("{s:s, s:i, s:I, s:I, s:I}", "variant", variant_of(model, k),
                                                         "tiles", (int)model->costs[k].tiles, "tile_ns",
                                                         (json_int_t)model->costs[k].tile_ns, "p50_ns",
                                                         (json_int_t)model->profile[k].p50_ns, "p99_ns",
                                                         (json_int_t)model->profile[k].p99_ns)) == 0;
    }
    char hash[24], *temporary = NULL;
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)model->plan->hash);
    json_t *root =
        whole ? json_pack("{s:i, s:s, s:s, s:s, s:i, s:i, s:O}", "format", PROFILE_FORMAT, "reef", reef_version(),
                          "hash", hash, "device", model->device->dev->model, "units", (int)model->device->dev->units,
                          "units_needed", (int)model->units_needed, "kernels", kernels)
              : NULL;
    json_decref(kernels);
    /* Written beside and renamed, so that no reader ever sees half a file. */
    if (!root || asprintf(&temporary, "%s.%ld.tmp", model->cache_path, (long)getpid()) < 0) {
        json_decref(root);
        return reef_fail(error, REEF_NO_MEMORY, "%s: out of memory for the profile", model->cache_path);
    }
    reef_status status = REEF_OK;
    errno = 0;
    if (json_dump_file(root, temporary, JSON_INDENT(1)) != 0 || rename(temporary, model->cache_path) != 0) {
        status = reef_fail(error, errno == ENOMEM ? REEF_NO_MEMORY : REEF_IO, "%s: cannot write the profile: %s",
                           model->cache_path, strerror(errno));
        unlink(temporary);
    }
    json_decref(root);
    free(temporary);
    return status;
}

static bool kernel_from_json(const reef_model *model, uint32_t k, json_t *entry, reef_kernel_cost *cost,
                             reef_kernel_profile *profile)
{
    const char *variant = NULL;
    json_int_t tiles = 0, tile_ns = 0, p50 = 0, p99 = 0;
    if (json_unpack(entry, "{s:s, s:I, s:I, s:I, s:I}", "variant", &variant, "tiles", &tiles, "tile_ns", &tile_ns,
                    "p50_ns", &p50, "p99_ns", &p99) != 0) {
        return false;
    }
    if (strcmp(variant, variant_of(model, k)) != 0 || tiles != (json_int_t)model->costs[k].tiles || tile_ns < 0 ||
        p50 < 1 || p99 < p50) {
        return false;
    }
    *cost = (reef_kernel_cost){.tiles = (uint32_t)tiles, .tile_ns = (uint64_t)tile_ns};
    *profile = (reef_kernel_profile){.p50_ns = (uint64_t)p50, .p99_ns = (uint64_t)p99};
    return true;
}

bool reef_profile_load(reef_model *model)
{
    json_t *root = model->cache_path ? reef_json_read(model->cache_path) : NULL;
    size_t n = model->plan->n_kernels;
    reef_kernel_cost *costs = calloc(n + 1, sizeof *costs);
    reef_kernel_profile *profile = calloc(n + 1, sizeof *profile);
    json_t *kernels = NULL;
    const char *hash = NULL, *version = NULL;
    int format = 0, units_needed = 0;
    char expected[24];
    snprintf(expected, sizeof expected, "%016llx", (unsigned long long)model->plan->hash);
    bool good = root && costs && profile &&
                json_unpack(root, "{s:i, s:s, s:s, s:i, s:o}", "format", &format, "hash", &hash, "reef", &version,
                            "units_needed", &units_needed, "kernels", &kernels) == 0 &&
                format == PROFILE_FORMAT && units_needed >= 0 && (unsigned)units_needed <= model->device->dev->units &&
                strcmp(hash, expected) == 0 && strcmp(version, reef_version()) == 0 && json_array_size(kernels) == n;
    for (uint32_t k = 0; good && k < n; k++) {
        good = kernel_from_json(model, k, json_array_get(kernels, k), &costs[k], &profile[k]);
    }
    if (good) {
        memcpy(model->costs, costs, n * sizeof *costs);
        memcpy(model->profile, profile, n * sizeof *profile);
        model->profiled = true;
        atomic_store_explicit(&model->units_needed, (unsigned)units_needed, memory_order_relaxed);
    }
    json_decref(root);
    free(costs);
    free(profile);
    return good;
}
