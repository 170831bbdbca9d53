/*
 * preempt.c - how long a preemption takes: from an RT request to its first tile, whatever best-effort work is running.
 *
 * The RT model is as small as can be (one kernel, one tile, 10 us), so that what is measured is the way to the first
 * tile and nothing else. It is asked for at random times, one at a time; in turns on the idle device and while a feeder
 * keeps best-effort requests in flight, so that both are measured under the same circumstances. Two latencies: from
 * submission (what reef does) and from the due time (with what the operating system adds in waking the caller up).
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
static const uint64_t START_LIMIT_NS = 5000000000u;

/* What differs between a CPU, where everything is slower and a spinning caller takes a unit away, and other devices. */
typedef struct pace {
    uint64_t gap_min_ns, gap_spread_ns, spin_ns;
    double tile_us; /* of synthetic kernels: as real ones have */
} pace;
static const pace cpu_pace = {2000000u, 8000000u, 0, 100}, other_pace = {1000000u, 2000000u, 150000u, 20};

typedef struct feeder { /* keeps FEEDER_DEPTH best-effort requests in flight */
    reef_session *session;
    bench_tensors inputs;
    pthread_t thread;
    _Atomic bool stop;
    _Atomic reef_status status; /* the measuring thread looks at it too */
} feeder;

/* Times of the requests of one cell, in ns; row r of ns[] has the requests' r-th figure. */
enum { FIRST = PREEMPT_N_STEPS, FROM_CALL, FROM_DUE, FIGURES };
typedef struct samples {
    uint64_t *ns[FIGURES];
    size_t n;
} samples;

typedef struct preempt {
    const preempt_options *options;
    const pace *pace;
    reef_device *device;
    reef_model *rt_model;
    reef_session *rt;
    unsigned tiles_per_unit; /* of synthetic kernels */
    samples idle, load;      /* of the cell being measured */
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

static void show(const preempt *p, const char *what)
{
    if (p->options->progress) {
        size_t each = 2 * (size_t)p->options->count;
        p->options->progress(p->options->progress_context, what, p->cell * each + p->idle.n + p->load.n,
                             p->cells * each);
    }
}

/* b - a; clocks of different threads may be a little apart. */
static uint64_t since(uint64_t a, uint64_t b)
{
    return b > a ? b - a : 0;
}

static void note(samples *to, uint64_t due, uint64_t called, const reef_request_info *info, uint64_t known)
{
    const uint64_t figures[FIGURES] = {
        [PREEMPT_wake] = since(due, called),
        [PREEMPT_submit] = since(called, info->submit_ns),
        [PREEMPT_launch] = since(info->submit_ns, info->launch_ns),
        [PREEMPT_device] = since(info->launch_ns, info->start_ns),
        [PREEMPT_run] = since(info->start_ns, info->end_ns),
        [PREEMPT_told] = since(info->end_ns, known),
        [FIRST] = since(info->submit_ns, info->start_ns),
        [FROM_CALL] = since(called, info->start_ns),
        [FROM_DUE] = since(due, info->start_ns),
    };
    for (size_t i = 0; i < FIGURES; i++) {
        to->ns[i][to->n] = figures[i];
    }
    to->n++;
}

/* One RT request after another until `to` has `until` of them, or the time is up; at least one. */
static reef_status measure(preempt *p, samples *to, size_t until, double seconds, const char *what, bench_rng *rng,
                           reef_error *error)
{
    uint64_t limit = reef_now_ns() + (uint64_t)(seconds * 1e9);
    for (bool first = true; to->n < until && (first || reef_now_ns() < limit); first = false) {
        uint64_t due = reef_now_ns() + p->pace->gap_min_ns + bench_rng_next(rng) % p->pace->gap_spread_ns;
        load_sleep_until(due, p->pace->spin_ns);
        reef_request_info info;
        uint64_t called = reef_now_ns();
        reef_status status = reef_session_run(p->rt, NULL, NULL, &info);
        if (status) {
            return reef_fail(error, status, "%s: the real-time request ended with: %s", what, reef_status_text(status));
        }
        note(to, due, called, &info, reef_now_ns());
        show(p, what);
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

typedef struct lost { /* device counters over the loaded turns of a cell */
    uint64_t busy_ns, lost_ns, preemptions, tiles_abandoned;
} lost;

/* A turn with best-effort work on the device. */
static reef_status measure_loaded(preempt *p, feeder *f, size_t until, double seconds, const char *what, bench_rng *rng,
                                  lost *sum, reef_error *error)
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
        status = measure(p, &p->load, until, seconds, what, rng, error);
    }
    reef_device_stats_get(p->device, &after);
    atomic_store(&f->stop, true);
    pthread_join(f->thread, NULL);
    if (f->status) {
        return reef_fail(error, f->status, "best-effort work failed: %s", reef_status_text(f->status));
    }
    sum->busy_ns += after.busy_ns_be - before.busy_ns_be;
    sum->lost_ns += after.lost_ns_be - before.lost_ns_be;
    sum->preemptions += after.preemptions - before.preemptions;
    sum->tiles_abandoned += after.tiles_abandoned - before.tiles_abandoned;
    return status;
}

static void summarise(samples *taken, preempt_cell *out)
{
    out->first = bench_stats_of(taken->ns[FIRST], taken->n);
    out->call = bench_stats_of(taken->ns[FROM_CALL], taken->n);
    out->due = bench_stats_of(taken->ns[FROM_DUE], taken->n);
    for (size_t i = 0; i < PREEMPT_N_STEPS; i++) {
        out->steps[i] = bench_stats_of(taken->ns[i], taken->n);
    }
}

/* One load under one policy: idle and loaded in turns. */
static reef_status measure_cell(preempt *p, feeder *f, preempt_row *row, reef_error *error)
{
    const preempt_options *options = p->options;
    unsigned rounds = options->rounds ? options->rounds : 1;
    double turn_s = options->seconds_per_cell / (2.0 * rounds);
    bench_rng rng = {options->seed};
    lost sum = {0};
    uint64_t begun = reef_now_ns();
    char what[120];
    snprintf(what, sizeof what, "%s, %s:", row->be, row->mechanism);
    p->idle.n = p->load.n = 0;
    reef_status status = reef_device_set_policy(p->device, row->mechanism, error);
    for (unsigned round = 0; !status && round < rounds; round++) {
        size_t until = (size_t)options->count * (round + 1) / rounds;
        status = measure(p, &p->idle, until, turn_s, "idle device", &rng, error);
        if (!status) {
            status = measure_loaded(p, f, until, turn_s, what, &rng, &sum, error);
        }
    }
    if (!status) {
        summarise(&p->idle, &row->idle);
        summarise(&p->load, &row->load);
        row->be_lost_pct = sum.busy_ns ? 100.0 * (double)sum.lost_ns / (double)sum.busy_ns : 0;
        row->preemptions = sum.preemptions;
        row->tiles_abandoned = sum.tiles_abandoned;
        row->seconds = (double)(reef_now_ns() - begun) / 1e9;
        reef_device_trace_span(p->device, what, begun, reef_now_ns());
    }
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

/* Kernels of a given length: tiles as short as real ones, enough of them to keep every unit busy for so long. */
static reef_status make_synthetic(preempt *p, const preempt_load *be, reef_model **out, reef_error *error)
{
    double tiles = be->tiles, tile_us = be->tile_us;
    if (be->kernel_us > 0) {
        double waves = fmax(1, round(be->kernel_us / p->pace->tile_us));
        reef_device_stats stats;
        reef_device_stats_get(p->device, &stats);
        tile_us = be->kernel_us / waves;
        tiles = waves * stats.units * p->tiles_per_unit;
    }
    if (tiles > 1e8) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "a kernel of %g ms would have %.0f tiles: shorten it",
                         be->kernel_us / 1e3, tiles);
    }
    return reef_model_create_synthetic(p->device, be->kernels, (uint32_t)tiles, (uint64_t)(tile_us * 1e3), out, error);
}

static reef_status load_be(preempt *p, const preempt_load *be, const char *name, reef_model **out, reef_error *error)
{
    if (!be->path) {
        return make_synthetic(p, be, out, error);
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
    } else if (be->kernel_us > 0) {
        snprintf(text, size, "%u kernels x %g ms", be->kernels, be->kernel_us / 1e3);
    } else {
        snprintf(text, size, "%u kernels x %u tiles x %g us", be->kernels, be->tiles, be->tile_us);
    }
}

/* One best-effort load under every policy. */
static reef_status run_load(preempt *p, const preempt_load *be, preempt_report *report, reef_error *error)
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
        status = measure_cell(p, &f, row, error);
        if (!status) {
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

/* Synthetic kernels fill the device when every unit has as many tiles at once as it can hold. */
static void find_occupancy(preempt *p)
{
    reef_kernel_info kernel;
    p->tiles_per_unit = reef_model_kernel(p->rt_model, 0, &kernel) && kernel.tiles_per_unit ? kernel.tiles_per_unit : 1;
}

typedef struct run_context {
    preempt *p;
    preempt_report *report;
} run_context;

static reef_status run_all(void *context, reef_error *error)
{
    preempt *p = ((run_context *)context)->p;
    preempt_report *report = ((run_context *)context)->report;
    reef_status status = REEF_OK;
    for (size_t i = 0; !status && i < p->options->n_loads; i++) {
        status = run_load(p, &p->options->loads[i], report, error);
    }
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
    preempt p = {
        .options = options,
        .pace = strcmp(options->device, "cpu") ? &other_pace : &cpu_pace,
        .cells = options->n_policies * options->n_loads,
    };
    preempt_report report = {
        .device = options->device,
        .count = options->count,
        .rounds = options->rounds ? options->rounds : 1,
        .seed = options->seed,
        .rows = calloc(options->n_policies * options->n_loads + 1, sizeof *report.rows),
    };
    bool ok = report.rows != NULL;
    for (size_t i = 0; i < FIGURES; i++) {
        p.idle.ns[i] = calloc(options->count + 1, sizeof(uint64_t));
        p.load.ns[i] = calloc(options->count + 1, sizeof(uint64_t));
        ok = ok && p.idle.ns[i] && p.load.ns[i];
    }
    if (!ok) {
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
        find_occupancy(&p);
        status = bench_traced(p.device, options->trace, run_all, &(run_context){&p, &report}, error);
    }
    reef_session_destroy(p.rt);
    reef_model_destroy(p.rt_model);
    reef_device_close(p.device);
    for (size_t i = 0; i < FIGURES; i++) {
        free(p.idle.ns[i]);
        free(p.load.ns[i]);
    }
    if (status) {
        preempt_report_free(&report);
        return status;
    }
    *out = report;
    return REEF_OK;
}
