/*
 * metrics.c - /metrics for Prometheus, and /v2/reef/status, which has the same and what reef top shows besides, as JSON.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "serve/exchange.h"

static const char *const class_names[] = {[REEF_RT] = "rt", [REEF_BE] = "be"};

/* ------------------------------------------------------------------------------------------------- Prometheus -- */

typedef struct family {
    serve_text *out;
    enum { OUTCOMES, DEPTH, PREEMPTIONS, LATENCY, READY } kind;
} family;

static void add_labels(serve_text *out, const char *metric, const serve_entry_view *entry, int of_class)
{
    serve_text_format(out, "%s{model=\"", metric);
    serve_text_label(out, entry->name);
    serve_text_format(out, "\",version=\"%s\"", entry->version);
    if (of_class >= 0) {
        serve_text_format(out, ",class=\"%s\"", class_names[of_class]);
    }
}

/* Bucket ends are powers of two times 50 us or so: whole octaves of the fine histogram. */
static void add_histogram(serve_text *out, const serve_entry_view *entry, int c, const serve_histogram *histogram)
{
    uint64_t sum = 0, total = 0, counts[SERVE_BUCKETS];
    for (size_t i = 0; i < SERVE_BUCKETS; i++) {
        counts[i] = atomic_load_explicit(&histogram->count[i], memory_order_relaxed);
        total += counts[i];
    }
    if (total == 0) {
        return;
    }
    for (size_t i = 0; i + 1 < SERVE_BUCKETS; i++) {
        sum += counts[i];
        bool octave = i % SERVE_BUCKETS_PER_OCTAVE == 0;
        size_t power = i / SERVE_BUCKETS_PER_OCTAVE;
        if (octave && power >= 4 && power <= 25) { /* 16 us to 33 s */
            add_labels(out, "reef_request_duration_seconds_bucket", entry, c);
            serve_text_format(out, ",le=\"%.9g\"} %llu\n", (double)serve_bucket_end_ns(i) / 1e9,
                              (unsigned long long)sum);
        }
    }
    add_labels(out, "reef_request_duration_seconds_bucket", entry, c);
    serve_text_format(out, ",le=\"+Inf\"} %llu\n", (unsigned long long)total);
    add_labels(out, "reef_request_duration_seconds_sum", entry, c);
    serve_text_format(out, "} %.9f\n", (double)atomic_load(&histogram->sum_ns) / 1e9);
    add_labels(out, "reef_request_duration_seconds_count", entry, c);
    serve_text_format(out, "} %llu\n", (unsigned long long)total);
}

static void add_sample(void *context, const serve_entry_view *entry)
{
    const family *f = context;
    serve_text *out = f->out;
    if (f->kind == READY) {
        add_labels(out, "reef_model_ready", entry, -1);
        serve_text_format(out, "} %d\n", entry->model != NULL);
        return;
    }
    for (int c = 0; c < 2; c++) {
        const serve_class_stats *stats = &entry->stats->classes[c];
        switch (f->kind) {
        case OUTCOMES:
            for (unsigned o = 0; o < SERVE_OUTCOME_COUNT; o++) {
                add_labels(out, "reef_requests_total", entry, c);
                serve_text_format(out, ",outcome=\"%s\"} %llu\n", serve_outcome_name((serve_outcome)o),
                                  (unsigned long long)atomic_load(&stats->outcomes[o]));
            }
            break;
        case DEPTH:
            add_labels(out, "reef_requests_in_flight", entry, c);
            serve_text_format(out, "} %u\n", atomic_load(&stats->waiting));
            break;
        case PREEMPTIONS:
            add_labels(out, "reef_request_preemptions_total", entry, c);
            serve_text_format(out, "} %llu\n", (unsigned long long)atomic_load(&stats->preemptions));
            break;
        case LATENCY: add_histogram(out, entry, c, &stats->latency); break;
        case READY: break;
        }
    }
}

static void add_head(serve_text *out, const char *name, const char *type, const char *help)
{
    serve_text_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_number(serve_text *out, const char *name, const char *type, const char *help, double value)
{
    add_head(out, name, type, help);
    serve_text_format(out, value == floor(value) && fabs(value) < 1e15 ? "%s %.0f\n" : "%s %.9f\n", name, value);
}

void serve_describe_metrics(serve_server *server, serve_text *out)
{
    static const struct {
        int kind;
        const char *name, *type, *help;
    } families[] = {
        {READY, "reef_model_ready", "gauge", "Whether the model serves."},
        {OUTCOMES, "reef_requests_total", "counter", "Inference requests by how they ended."},
        {DEPTH, "reef_requests_in_flight", "gauge", "Requests that wait or run."},
        {PREEMPTIONS, "reef_request_preemptions_total", "counter",
         "How often requests lost compute units to real-time work."},
        {LATENCY, "reef_request_duration_seconds", "histogram", "From having all of a request to having its answer."},
    };
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        family f = {.out = out};
        f.kind = families[i].kind;
        add_head(out, families[i].name, families[i].type, families[i].help);
        serve_repository_each(server->repository, add_sample, &f);
    }
    reef_device_stats stats;
    reef_device_stats_get(server->device, &stats);
    add_number(out, "reef_device_units", "gauge", "Compute units of the device.", stats.units);
    add_head(out, "reef_device_busy_seconds_total", "counter", "Time that compute units worked, summed over them.");
    serve_text_format(out, "reef_device_busy_seconds_total{class=\"rt\"} %.9f\n", (double)stats.busy_ns_rt / 1e9);
    serve_text_format(out, "reef_device_busy_seconds_total{class=\"be\"} %.9f\n", (double)stats.busy_ns_be / 1e9);
    add_number(out, "reef_device_lost_seconds_total", "counter", "Unit time spent on tiles that were abandoned.",
               (double)stats.lost_ns_be / 1e9);
    add_number(out, "reef_preemptions_total", "counter", "Real-time arrivals that took units from best-effort work.",
               (double)stats.preemptions);
    add_number(out, "reef_tiles_total", "counter", "Tiles that were finished.", (double)stats.tiles_run);
    add_number(out, "reef_tiles_abandoned_total", "counter", "Tiles that were abandoned.",
               (double)stats.tiles_abandoned);
    add_number(out, "reef_kernels_evicted_total", "counter", "Best-effort kernels taken back before they started.",
               (double)stats.kernels_evicted);
    add_number(out, "reef_device_failures_total", "counter", "Requests that ended because the device failed.",
               (double)atomic_load(&server->device_failures));
    uint32_t slice_us;
    reef_error ignored;
    if (reef_device_slice(server->device, &slice_us, &ignored) == REEF_OK) {
        add_number(out, "reef_device_slice_microseconds", "gauge",
                   "Time that this process may keep the GPU while another process wants it.", slice_us);
    }
    serve_hint_counts hints = serve_hints_count(server->hints);
    add_number(out, "reef_hints_sent_total", "counter", "Times the device was told of a real-time request ahead.",
               (double)hints.sent);
    add_number(out, "reef_hints_used_total", "counter", "Of these, followed by the request in time.",
               (double)hints.used);
    add_number(out, "reef_hints_refused_total", "counter", "Hints that the engine or the device did not take.",
               (double)hints.refused);
    add_number(out, "reef_connections", "gauge", "Open HTTP connections.", (double)serve_watch_peers(server->watch));
    add_number(out, "reef_body_bytes", "gauge", "Memory that request bodies hold.",
               (double)atomic_load(&server->body_bytes));
    add_number(out, "reef_ready", "gauge", "Whether the server is ready.", serve_ready(server));
    add_number(out, "reef_start_time_seconds", "gauge", "When this worker process started, since 1970.",
               (double)server->start_ms / 1e3);
}

/* ----------------------------------------------------------------------------------------------------- status -- */

typedef struct status_list {
    serve_text *out;
    bool any;
} status_list;

static void add_class(serve_text *out, const char *name, const serve_class_stats *stats)
{
    serve_text_format(out, "\"%s\":{\"in_flight\":%u,\"preemptions\":%llu,\"outcomes\":{", name,
                      atomic_load(&stats->waiting), (unsigned long long)atomic_load(&stats->preemptions));
    for (unsigned o = 0; o < SERVE_OUTCOME_COUNT; o++) {
        serve_text_format(out, "%s\"%s\":%llu", o ? "," : "", serve_outcome_name((serve_outcome)o),
                          (unsigned long long)atomic_load(&stats->outcomes[o]));
    }
    serve_text_add(out, "},\"latency\":["); /* [end of the bucket in us, requests], empty ones left out */
    bool first = true;
    for (size_t i = 0; i < SERVE_BUCKETS; i++) {
        uint64_t count = atomic_load_explicit(&stats->latency.count[i], memory_order_relaxed);
        if (count) {
            double end = i + 1 < SERVE_BUCKETS ? (double)serve_bucket_end_ns(i) / 1e3 : 1.1e9;
            serve_text_format(out, "%s[%.3f,%llu]", first ? "" : ",", end, (unsigned long long)count);
            first = false;
        }
    }
    serve_text_add(out, "]}");
}

static void add_model(void *context, const serve_entry_view *entry)
{
    status_list *list = context;
    serve_text *out = list->out;
    serve_text_add(out, list->any ? ",{\"name\":" : "{\"name\":");
    list->any = true;
    serve_text_json(out, entry->name);
    serve_text_add(out, ",\"version\":");
    serve_text_json(out, entry->version);
    serve_text_format(out, ",\"state\":\"%s\",\"reason\":", serve_state_name(entry->state));
    serve_text_json(out, entry->reason);
    const serve_model *model = entry->model;
    serve_text_format(out, ",\"class\":\"%s\",\"solo_us\":%.3f,\"bytes\":%zu,\"max_batch\":%u,",
                      model ? class_names[model->config.service_class] : "", model ? (double)model->solo_ns / 1e3 : 0.0,
                      model ? model->bytes : 0, model ? model->signature.max_batch : 0);
    add_class(out, "rt", &entry->stats->classes[REEF_RT]);
    serve_text_add(out, ",");
    add_class(out, "be", &entry->stats->classes[REEF_BE]);
    serve_text_add(out, "}");
}

void serve_describe_status(serve_server *server, serve_text *out)
{
    reef_device_stats stats;
    reef_device_stats_get(server->device, &stats);
    serve_hint_counts hints = serve_hints_count(server->hints);
    char slice[16] = "null"; /* the device has none, or the driver's own are in force */
    uint32_t slice_us;
    reef_error ignored;
    if (reef_device_slice(server->device, &slice_us, &ignored) == REEF_OK) {
        snprintf(slice, sizeof slice, "%u", (unsigned)slice_us);
    }
    serve_text_add(out, "{\"version\":");
    serve_text_json(out, reef_version());
    serve_text_format(out, ",\"ready\":%s,\"now_ns\":%llu,\"start_ns\":%llu,\"connections\":%zu,\"device\":{\"name\":",
                      serve_ready(server) ? "true" : "false", (unsigned long long)reef_now_ns(),
                      (unsigned long long)server->start_ns, serve_watch_peers(server->watch));
    serve_text_json(out, server->options.device);
    serve_text_format(out, ",\"slice_us\":%s,\"hints\":{\"sent\":%llu,\"used\":%llu,\"refused\":%llu}", slice,
                      (unsigned long long)hints.sent, (unsigned long long)hints.used,
                      (unsigned long long)hints.refused);
    serve_text_format(out,
                      ",\"units\":%u,\"policy\":\"%s\",\"preemptions\":%llu,\"tiles\":%llu,\"tiles_abandoned\":%llu,"
                      "\"busy_ns_rt\":%llu,\"busy_ns_be\":%llu,\"lost_ns_be\":%llu,\"failures\":%llu},\"models\":[",
                      stats.units, stats.policy, (unsigned long long)stats.preemptions,
                      (unsigned long long)stats.tiles_run, (unsigned long long)stats.tiles_abandoned,
                      (unsigned long long)stats.busy_ns_rt, (unsigned long long)stats.busy_ns_be,
                      (unsigned long long)stats.lost_ns_be, (unsigned long long)atomic_load(&server->device_failures));
    serve_repository_each(server->repository, add_model, &(status_list){.out = out});
    serve_text_add(out, "]}\n");
}
