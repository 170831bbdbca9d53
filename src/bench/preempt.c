/*
 * preempt.c - how long a preemption takes: from an RT request to its first tile, whatever best-effort work is running.
 *
 * The RT model is as small as can be (one kernel, one tile, 10 us), so that what is measured is the way to the first
 * tile and nothing else. It is asked for at random times, one at a time, while a feeder keeps best-effort requests in
 * flight. Two latencies: from submission (what reef does) and from the due time (with what the operating system adds in
 * waking the caller up).
 */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "bench/loadgen.h"
#include "bench/rng.h"
#include "bench/runner.h"
#include "bench/workload.h"

enum { FEEDER_DEPTH = 3, RT_TILE_NS = 10000 };
static const uint64_t GAP_MIN_NS = 2000000u, GAP_SPREAD_NS = 8000000u, START_LIMIT_NS = 5000000000u;

typedef struct feeder { /* keeps FEEDER_DEPTH best-effort requests in flight */
    reef_session *session;
    bench_tensors inputs;
    pthread_t thread;
    _Atomic bool stop;
    _Atomic reef_status status; /* the measuring thread looks at it too */
} feeder;

typedef struct samples {
    uint64_t *submit_ns, *due_ns;
    size_t n;
} samples;

typedef struct preempt {
    const preempt_options *options;
    reef_device *device;
    reef_model *rt_model;
    reef_session *rt;
    samples taken;
    size_t cell, cells;
} preempt;

static void *feed(void *context)
{
    feeder *f = context;
    reef_request *flying[FEEDER_DEPTH] = {NULL};
    reef_submit_options submit = {.inputs = (const void *const *)f->inputs.data};
    for (size_t i = 0; !atomic_load(&f->stop) && !f->status; i = (i + 1) % FEEDER_DEPTH) {
        if (flying[i]) {
            reef_request_info info;
            /* Short waits: a request of seconds must not hold up the end of the cell. */
            while (reef_request_wait(flying[i], 20000000u, &info) == REEF_TIMEOUT && !atomic_load(&f->stop)) {
            }
            if (atomic_load(&f->stop)) {
                break;
            }
            f->status = info.status;
            reef_request_release(flying[i]);
            flying[i] = NULL;
        }
        if (!f->status) {
            f->status = reef_session_submit(f->session, &submit, &flying[i]);
        }
    }
    for (size_t i = 0; i < FEEDER_DEPTH; i++) {
        if (flying[i]) {
            reef_request_cancel(flying[i]);
        }
    }
    for (size_t i = 0; i < FEEDER_DEPTH; i++) {
        if (flying[i]) {
            reef_request_wait(flying[i], UINT64_MAX, NULL);
            reef_request_release(flying[i]);
        }
    }
    return NULL;
}

static void show(const preempt *p, const char *what, size_t done)
{
    if (p->options->progress) {
        p->options->progress(p->options->progress_context, what, p->cell * p->options->count + done,
                             p->cells * p->options->count);
    }
}

/* One RT request after another; the times to their first tiles. */
static reef_status measure(preempt *p, const char *what, uint64_t seed, reef_error *error)
{
    bench_rng rng = {seed};
    uint64_t limit = reef_now_ns() + (uint64_t)(p->options->seconds_per_cell * 1e9);
    p->taken.n = 0;
    while (p->taken.n < p->options->count && (reef_now_ns() < limit || p->taken.n < 3)) {
        uint64_t due = reef_now_ns() + GAP_MIN_NS + bench_rng_next(&rng) % GAP_SPREAD_NS;
        load_sleep_until(due, 0);
        reef_request_info info;
        reef_status status = reef_session_run(p->rt, NULL, NULL, &info);
        if (status) {
            return reef_fail(error, status, "%s: the real-time request ended with: %s", what, reef_status_text(status));
        }
        p->taken.submit_ns[p->taken.n] = info.start_ns - info.submit_ns;
        p->taken.due_ns[p->taken.n++] = info.start_ns - due;
        show(p, what, p->taken.n);
    }
    return REEF_OK;
}

static reef_status wait_for_tiles(preempt *p, const feeder *f, uint64_t before)
{
    uint64_t limit = reef_now_ns() + START_LIMIT_NS;
    reef_device_stats stats;
    do {
        load_sleep_until(reef_now_ns() + 2000000u, 0);
        reef_device_stats_get(p->device, &stats);
    } while (stats.tiles_run == before && !f->status && reef_now_ns() < limit);
    return f->status;
}

static reef_status measure_loaded(preempt *p, feeder *f, preempt_row *row, reef_error *error)
{
    reef_device_stats before, after;
    reef_device_stats_get(p->device, &before);
    atomic_store(&f->stop, false);
    f->status = REEF_OK;
    if (pthread_create(&f->thread, NULL, feed, f)) {
        return reef_fail(error, REEF_NO_MEMORY, "cannot start a thread");
    }
    reef_status status = wait_for_tiles(p, f, before.tiles_run);
    reef_device_stats_get(p->device, &before);
    if (!status) {
        status = measure(p, row->be, p->options->seed, error);
    }
    reef_device_stats_get(p->device, &after);
    atomic_store(&f->stop, true);
    pthread_join(f->thread, NULL);
    if (f->status) {
        return reef_fail(error, f->status, "best-effort work failed: %s", reef_status_text(f->status));
    }
    row->load = bench_stats_of(p->taken.submit_ns, p->taken.n);
    row->load_due = bench_stats_of(p->taken.due_ns, p->taken.n);
    uint64_t busy = after.busy_ns_be - before.busy_ns_be, lost = after.lost_ns_be - before.lost_ns_be;
    row->be_lost_pct = busy ? 100.0 * (double)lost / (double)busy : 0;
    row->preemptions = after.preemptions - before.preemptions;
    row->tiles_abandoned = after.tiles_abandoned - before.tiles_abandoned;
    return status;
}

static reef_status load_file(preempt *p, const char *path, const reef_shape *shapes, size_t n_shapes, reef_model **out,
                             reef_error *error)
{
    reef_model_options options = {
        .shapes = shapes,
        .n_shapes = n_shapes,
        .precision = p->options->precision,
        .progress = p->options->progress,
        .progress_context = p->options->progress_context,
    };
    reef_status status = reef_model_load(p->device, path, &options, out, error);
    if (status && error && !strstr(error->message, path)) {
        reef_error_prefix(error, "%s: ", path);
    }
    return status;
}

/* The shapes that a built-in workload gives the network of that name; NULL when none knows it. */
static const bench_client *known_client(const bench_workload *workload, const char *name)
{
    for (size_t i = 0; i < workload->n_clients; i++) {
        if (strcmp(workload->clients[i].model, name) == 0) {
            return &workload->clients[i];
        }
    }
    return NULL;
}

static reef_status load_be(preempt *p, const preempt_load *be, const char *name, reef_model **out, reef_error *error)
{
    if (!be->path) {
        return reef_model_create_synthetic(p->device, be->kernels, be->tiles, (uint64_t)(be->tile_us * 1e3), out,
                                           error);
    }
    if (p->options->n_shapes) {
        return load_file(p, be->path, p->options->shapes, p->options->n_shapes, out, error);
    }
    bench_workload disb = {0};
    reef_status status = bench_workload_load("D", &disb, error);
    if (!status) {
        const bench_client *client = known_client(&disb, name);
        status = load_file(p, be->path, client ? client->shapes : NULL, client ? client->n_shapes : 0, out, error);
    }
    bench_workload_free(&disb);
    return status;
}

static void name_load(const preempt_load *be, char *text, size_t size)
{
    if (be->path) {
        const char *slash = strrchr(be->path, '/');
        snprintf(text, size, "%s", slash ? slash + 1 : be->path);
        char *dot = strrchr(text, '.');
        if (dot && !strcmp(dot, ".onnx")) {
            *dot = 0;
        }
    } else {
        snprintf(text, size, "%u kernels x %u tiles x %g us", be->kernels, be->tiles, be->tile_us);
    }
}

/* One best-effort load under every policy. */
static reef_status run_load(preempt *p, const preempt_load *be, const bench_stats *idle, const bench_stats *idle_due,
                            preempt_report *report, reef_error *error)
{
    feeder f = {0};
    reef_model *model = NULL;
    char name[sizeof report->rows->be];
    name_load(be, name, sizeof name);
    reef_status status = load_be(p, be, name, &model, error);
    if (status) {
        return status;
    }
    if (!(status = bench_tensors_create(model, false, &f.inputs)) &&
        !(status = bench_inputs_fill(model, NULL, 0, p->options->seed, &f.inputs, error))) {
        status = reef_session_create(model, &(reef_session_options){.service_class = REEF_BE}, &f.session, error);
    }
    for (size_t i = 0; !status && i < p->options->n_policies; i++) {
        preempt_row *row = &report->rows[report->n_rows];
        memcpy(row->be, name, sizeof row->be);
        row->mechanism = p->options->policies[i];
        row->idle = idle[i];
        row->idle_due = idle_due[i];
        status = reef_device_set_policy(p->device, row->mechanism, error);
        if (!status && !(status = measure_loaded(p, &f, row, error))) {
            report->n_rows++;
        } else {
            reef_error_prefix(error, "%s under %s: ", row->be, row->mechanism);
        }
        p->cell++;
    }
    reef_session_destroy(f.session);
    bench_tensors_free(&f.inputs);
    reef_model_destroy(model);
    return status;
}

static reef_status run_all(preempt *p, preempt_report *report, reef_error *error)
{
    size_t n = p->options->n_policies;
    bench_stats *idle = calloc(2 * n + 1, sizeof *idle);
    reef_status status = idle ? REEF_OK : reef_fail(error, REEF_NO_MEMORY, "out of memory");
    for (size_t i = 0; !status && i < n; i++) {
        status = reef_device_set_policy(p->device, p->options->policies[i], error);
        if (!status && !(status = measure(p, "idle device", p->options->seed, error))) {
            idle[i] = bench_stats_of(p->taken.submit_ns, p->taken.n);
            idle[n + i] = bench_stats_of(p->taken.due_ns, p->taken.n);
        }
        p->cell++;
    }
    for (size_t i = 0; !status && i < p->options->n_loads; i++) {
        status = run_load(p, &p->options->loads[i], idle, idle + n, report, error);
    }
    free(idle);
    return status;
}

static reef_status check_options(const preempt_options *options, reef_error *error)
{
    reef_status status = bench_check_device(options->device, error);
    for (size_t i = 0; !status && i < options->n_policies; i++) {
        status = bench_check_policy(options->policies[i], NULL, error);
        if (!status && !strcmp(options->policies[i], "rt-only")) {
            status = reef_fail(error, REEF_INVALID_ARGUMENT,
                               "policy rt-only runs no best-effort work, so there is nothing to preempt; leave it out");
        }
    }
    for (size_t i = 0; !status && i < options->n_loads; i++) {
        if (options->loads[i].path && access(options->loads[i].path, R_OK)) {
            status = reef_fail(error, REEF_NOT_FOUND, "%s: no such model file", options->loads[i].path);
        }
    }
    return status;
}

reef_status preempt_run(const preempt_options *options, preempt_report *out, reef_error *error)
{
    reef_status status = check_options(options, error);
    if (status) {
        return status;
    }
    preempt p = {.options = options, .cells = options->n_policies * (options->n_loads + 1)};
    preempt_report report = {
        .device = options->device,
        .count = options->count,
        .seed = options->seed,
        .rows = calloc(options->n_policies * options->n_loads + 1, sizeof *report.rows),
    };
    p.taken.submit_ns = calloc(options->count + 4, sizeof(uint64_t));
    p.taken.due_ns = calloc(options->count + 4, sizeof(uint64_t));
    if (!report.rows || !p.taken.submit_ns || !p.taken.due_ns) {
        status = reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    if (!status) {
        reef_device_options device = {.units = options->units};
        status = reef_device_open(options->device, &device, &p.device, error);
    }
    if (!status) {
        reef_device_stats stats;
        reef_device_stats_get(p.device, &stats);
        report.units = stats.units;
        report.realtime_priority = load_raise_priority();
        status = reef_model_create_synthetic(p.device, 1, 1, RT_TILE_NS, &p.rt_model, error);
    }
    if (!status) {
        status = reef_session_create(p.rt_model, &(reef_session_options){.service_class = REEF_RT}, &p.rt, error);
    }
    if (!status) {
        status = run_all(&p, &report, error);
    }
    reef_session_destroy(p.rt);
    reef_model_destroy(p.rt_model);
    reef_device_close(p.device);
    free(p.taken.submit_ns);
    free(p.taken.due_ns);
    if (status) {
        preempt_report_free(&report);
        return status;
    }
    *out = report;
    return REEF_OK;
}
