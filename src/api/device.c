/*
 * device.c - opening a device and its scheduler; policies; statistics.
 */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/error.h"
#include "reef/reef.h"

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

const char *reef_version(void)
{
    return TEXT(REEF_VERSION_MAJOR) "." TEXT(REEF_VERSION_MINOR) "." TEXT(REEF_VERSION_PATCH);
}

const char *reef_precision_name(reef_precision precision)
{
    switch (precision) {
    case REEF_PRECISION_DEFAULT: break;
    case REEF_PRECISION_FP32: return "fp32";
    case REEF_PRECISION_TF32: return "tf32";
    case REEF_PRECISION_FP16: return "fp16";
    }
    return "default";
}

bool reef_device_list(size_t i, const char **name, const char **description)
{
    reef_device_entry entry;
    if (!reef_device_entry_at(i, &entry)) {
        return false;
    }
    *name = entry.name;
    *description = entry.description;
    return true;
}

reef_status reef_device_check(const char *name, reef_error *error)
{
    reef_device_entry entry;
    return reef_device_find(name, &entry, error);
}

static const reef_policy *find_policy(const char *name, reef_error *error)
{
    const reef_policy *policy = reef_policy_find(name);
    if (!policy) {
        char names[160] = "";
        for (size_t i = 0; reef_policy_at(i); i++) {
            strncat(names, i ? ", " : "", sizeof names - strlen(names) - 1);
            strncat(names, reef_policy_at(i)->name, sizeof names - strlen(names) - 1);
        }
        reef_fail(error, REEF_NOT_FOUND, "no policy '%s'; there are %s", name, names);
    }
    return policy;
}

static bool can_pad(const reef_device_ops *ops)
{
    return (ops->caps & REEF_CAP_PAD) || ops->pad;
}

/* A device that cannot carry pads would serve BE work nothing under `pad`, silently. */
static reef_status check_policy(const reef_policy *policy, const reef_device_ops *ops, reef_error *error)
{
    if (policy->pad && !can_pad(ops)) {
        return reef_fail(error, REEF_UNSUPPORTED,
                         "policy '%s' needs launches that carry tiles of others; device '%s' has none", policy->name,
                         ops->name);
    }
    return REEF_OK;
}

/* Some devices choose themselves what rides, and need kernels for it. */
static reef_status set_padding(reef_dev *dev, const reef_policy *policy, reef_error *error)
{
    reef_status status = dev->ops->pad ? dev->ops->pad(dev, policy->pad, error) : REEF_OK;
    if (status) {
        reef_error_prefix(error, "policy '%s': ", policy->name);
    }
    return status;
}

static void on_event(void *context, const reef_event *event)
{
    reef_device *device = context;
    if (event->tag && event->tag == device->profiler) {
        reef_profiler_event(device->profiler, event);
    } else {
        reef_sched_event(&device->sched, event);
    }
}

static void device_free(reef_device *device)
{
    pthread_mutex_destroy(&device->profile_lock);
    pthread_mutex_destroy(&device->sessions_lock);
    free(device);
}

reef_status reef_device_open(const char *name, const reef_device_options *options, reef_device **out, reef_error *error)
{
    static const reef_device_options defaults;
    options = options ? options : &defaults;
    reef_device_entry entry;
    reef_status status = reef_device_find(name, &entry, error);
    if (status) {
        return status;
    }
    const reef_device_ops *ops = entry.ops;
    const reef_policy *policy = find_policy(options->policy ? options->policy : "reset", error);
    if (!policy) {
        return REEF_NOT_FOUND;
    }
    status = check_policy(policy, ops, error);
    if (status) {
        return status;
    }
    if (options->slice_us && !ops->slice) {
        return reef_fail(error, REEF_UNSUPPORTED, "device '%s' has no time slices", ops->name);
    }
    if (options->slice_us > 1000000) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "a time slice of %u us is longer than 1000000 us",
                         options->slice_us);
    }
    reef_device *device = calloc(1, sizeof *device);
    if (!device) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    device->queue_capacity = options->queue_capacity ? options->queue_capacity : 4;
    pthread_mutex_init(&device->profile_lock, NULL);
    pthread_mutex_init(&device->sessions_lock, NULL);
    reef_list_init(&device->sessions);
    reef_dev_config config = {
        .ordinal = entry.ordinal,
        .units = options->units,
        .slice_us = options->slice_us,
        .on_event = on_event,
        .context = device,
    };
    status = ops->open(&config, &device->dev, error);
    if (!status) {
        status = set_padding(device->dev, policy, error);
        if (status) {
            ops->close(device->dev);
        }
    }
    if (!status) {
        status = reef_sched_init(&device->sched, device->dev, policy,
                                 options->rt_queue_limit ? options->rt_queue_limit : 1024, NULL);
        if (status) {
            reef_fail(error, status, "cannot create the real-time queue");
            ops->close(device->dev);
        }
    }
    if (status) {
        device_free(device);
        return status;
    }
    *out = device;
    return REEF_OK;
}

/* ---- the timeline ---- */

reef_status reef_device_trace_start(reef_device *device, size_t max_spans, reef_error *error)
{
    enum { DEFAULT_SPANS = 1 << 19 };
    reef_trace *trace = reef_trace_create(max_spans ? max_spans : DEFAULT_SPANS);
    if (!trace) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory for a trace of %zu spans",
                         max_spans ? max_spans : (size_t)DEFAULT_SPANS);
    }
    reef_status status = reef_sched_trace_begin(&device->sched, trace);
    if (status) {
        reef_trace_destroy(trace);
        return reef_fail(error, status, "a trace is being recorded already");
    }
    return REEF_OK;
}

reef_status reef_device_trace_stop(reef_device *device, const char *path, reef_error *error)
{
    reef_trace *trace = reef_sched_trace_end(&device->sched);
    if (!trace) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "no trace is being recorded");
    }
    reef_status status = path ? reef_trace_write(trace, path, error) : REEF_OK;
    reef_trace_destroy(trace);
    return status;
}

void reef_device_trace_span(reef_device *device, const char *name, uint64_t begin_ns, uint64_t end_ns)
{
    reef_sched_trace_span(&device->sched, name, begin_ns, end_ns);
}

void reef_device_close(reef_device *device)
{
    if (!device) {
        return;
    }
    reef_trace_destroy(reef_sched_trace_end(&device->sched));
    const reef_device_ops *ops = device->dev->ops;
    reef_sched_destroy(&device->sched);
    ops->close(device->dev);
    device_free(device);
}

reef_status reef_device_set_policy(reef_device *device, const char *name, reef_error *error)
{
    const reef_policy *policy = find_policy(name, error);
    if (!policy) {
        return REEF_NOT_FOUND;
    }
    reef_status status = check_policy(policy, device->dev->ops, error);
    if (status) {
        return status;
    }
    if (reef_sched_hold(&device->sched)) {
        return reef_fail(error, REEF_BUSY, "the policy can only change while no request waits or runs");
    }
    status = set_padding(device->dev, policy, error);
    if (!status) {
        pthread_mutex_lock(&device->sessions_lock);
        reef_sessions_warm(device, policy);
        reef_sched_set_policy(&device->sched, policy);
        pthread_mutex_unlock(&device->sessions_lock);
    }
    reef_sched_release(&device->sched);
    return status;
}

reef_status reef_device_health(const reef_device *device, reef_error *error)
{
    const reef_device_ops *ops = device->dev->ops;
    return ops->health ? ops->health(device->dev, error) : REEF_OK;
}

reef_status reef_device_slice(const reef_device *device, uint32_t *us, reef_error *error)
{
    const reef_device_ops *ops = device->dev->ops;
    return ops->slice ? ops->slice(device->dev, us, error)
                      : reef_fail(error, REEF_UNSUPPORTED, "device '%s' has no time slices", ops->name);
}

reef_status reef_device_padding(const reef_device *device, reef_padding_info *out, reef_error *error)
{
    const reef_device_ops *ops = device->dev->ops;
    if (!can_pad(ops)) {
        return reef_fail(error, REEF_UNSUPPORTED, "device '%s' has no launches that carry tiles of others", ops->name);
    }
    reef_sched *sched = (reef_sched *)(uintptr_t)&device->sched; /* for its lock */
    reef_dev_padding padding = {0};
    if (ops->padding) {
        ops->padding(device->dev, &padding);
    }
    *out = (reef_padding_info){.proxy_bytes = padding.proxy_bytes};
    memcpy(out->levels, padding.levels, sizeof out->levels);
    out->select_p50_ns = reef_sched_select_p50_ns(sched, &out->selections);
    return REEF_OK;
}

uint64_t reef_device_expire(reef_device *device)
{
    return reef_sched_expire(&device->sched);
}

void reef_device_stats_get(const reef_device *device, reef_device_stats *out)
{
    reef_sched *sched = (reef_sched *)(uintptr_t)&device->sched; /* for its lock */
    reef_sched_stats sched_stats;
    reef_dev_stats dev_stats;
    reef_sched_stats_get(sched, &sched_stats);
    device->dev->ops->stats(device->dev, &dev_stats);
    *out = (reef_device_stats){
        .units = device->dev->units,
        .policy = reef_sched_policy(sched)->name,
        .rt_completed = sched_stats.rt_completed,
        .be_completed = sched_stats.be_completed,
        .preemptions = sched_stats.preemptions,
        .kernels_evicted = sched_stats.kernels_evicted,
        .tiles_run = dev_stats.tiles_run,
        .tiles_abandoned = dev_stats.tiles_abandoned,
        .padded_tiles = dev_stats.padded_tiles,
        .busy_ns_rt = dev_stats.busy_ns_rt,
        .busy_ns_be = dev_stats.busy_ns_be,
        .lost_ns_be = dev_stats.lost_ns_be,
    };
}
