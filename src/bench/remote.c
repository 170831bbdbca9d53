/*
 * remote.c - see remote.h: threads, schedules and figures. remote_target.c speaks to the server.
 */
#include "bench/remote.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "base/error.h"
#include "bench/loadgen.h"
#include "bench/remote_target.h"
#include "bench/report.h"

enum { SPIN_NS = 100000 }; /* waking a processor that sleeps may take half of it */

typedef struct samples {
    uint64_t *items;
    size_t n, capacity;
} samples;

typedef struct worker {
    const remote_options *options;
    remote_target *target;
    pthread_t thread;
    unsigned index;
    uint64_t begin_ns, from_ns, until_ns; /* begin of the schedule, of what counts, and the end */
    samples latency, engine, added;
    uint64_t ok, refused, late, failed, mismatches;
    char first_failure[240];
    bool no_memory;
} worker;

static bool add(samples *list, uint64_t value)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 4096;
        uint64_t *bigger = realloc(list->items, capacity * sizeof *bigger);
        if (!bigger) {
            return false;
        }
        list->items = bigger;
        list->capacity = capacity;
    }
    list->items[list->n++] = value;
    return true;
}

static void record(worker *w, uint64_t due, uint64_t sent, uint64_t now, reef_status status,
                   const remote_answer *answer, const reef_error *error)
{
    switch (status) {
    case REEF_OK: w->ok++; break;
    case REEF_QUEUE_FULL: w->refused++; return;
    case REEF_DEADLINE: w->late++; return;
    default:
        w->failed++;
        if (!w->first_failure[0]) {
            snprintf(w->first_failure, sizeof w->first_failure, "%.200s", error->message);
        }
        return;
    }
    w->mismatches += answer->differs;
    w->no_memory |= !add(&w->latency, now - due);
    if (answer->engine_ns) {
        uint64_t took = now - sent;
        w->no_memory |= !add(&w->engine, answer->engine_ns);
        w->no_memory |= !add(&w->added, took > answer->engine_ns ? took - answer->engine_ns : 0);
    }
}

static void *worker_main(void *context)
{
    worker *w = context;
    double rate = w->options->rate / w->options->connections;
    uint64_t gap = rate > 0 ? (uint64_t)(1e9 / rate) : 0;
    uint64_t due = w->begin_ns + gap * w->index / w->options->connections;
    prctl(PR_SET_TIMERSLACK, 1000ul); /* nanoseconds; otherwise it is this thread that is 50 us late */
    for (;;) {
        uint64_t now = reef_now_ns();
        if (gap) {
            load_sleep_until(due, SPIN_NS);
            now = reef_now_ns();
        } else {
            due = now;
        }
        if (now >= w->until_ns || due >= w->until_ns || w->no_memory) {
            return NULL;
        }
        remote_answer answer = {0};
        reef_error error = {0};
        uint64_t sent = now;
        reef_status status = remote_target_ask(w->target, &answer, &error);
        now = reef_now_ns();
        if (due >= w->from_ns) {
            record(w, due, sent, now, status, &answer, &error);
        }
        if (status == REEF_IO || status == REEF_QUEUE_FULL) {
            load_sleep_until(now + 10000000u, 0); /* a server that is restarting or full is not helped by haste */
        }
        due += gap;
    }
}

static bool merge(worker *workers, unsigned n, size_t offset, bench_stats *out)
{
    size_t total = 0, at = 0;
    for (unsigned i = 0; i < n; i++) {
        total += ((samples *)(void *)((char *)&workers[i] + offset))->n;
    }
    uint64_t *all = malloc((total + 1) * sizeof *all);
    for (unsigned i = 0; all && i < n; i++) {
        const samples *list = (samples *)(void *)((char *)&workers[i] + offset);
        memcpy(all + at, list->n ? list->items : all, list->n * sizeof *all);
        at += list->n;
    }
    if (all) {
        *out = bench_stats_of(all, total);
    }
    free(all);
    return all != NULL;
}

static reef_status collect(const remote_options *options, worker *workers, remote_report *out, reef_error *error)
{
    unsigned n = options->connections;
    *out = (remote_report){
        .target = options->url ? options->url : options->ring,
        .model = options->model,
        .way = options->url ? "http" : "ring",
        .connections = n,
        .rate = options->rate,
        .seconds = options->seconds,
    };
    bool ok = merge(workers, n, offsetof(worker, latency), &out->latency) &&
              merge(workers, n, offsetof(worker, engine), &out->engine) &&
              merge(workers, n, offsetof(worker, added), &out->added);
    for (unsigned i = 0; i < n; i++) {
        ok = ok && !workers[i].no_memory;
        out->ok += workers[i].ok;
        out->refused += workers[i].refused;
        out->late += workers[i].late;
        out->failed += workers[i].failed;
        out->mismatches += workers[i].mismatches;
        if (!out->first_failure[0]) {
            memcpy(out->first_failure, workers[i].first_failure, sizeof out->first_failure);
        }
    }
    out->per_s = (double)out->ok / options->seconds;
    return ok ? REEF_OK : reef_fail(error, REEF_NO_MEMORY, "out of memory for the samples");
}

reef_status remote_run(const remote_options *options, remote_report *out, reef_error *error)
{
    worker *workers = calloc(options->connections, sizeof *workers);
    reef_status status = workers ? REEF_OK : reef_fail(error, REEF_NO_MEMORY, "out of memory");
    for (unsigned i = 0; !status && i < options->connections; i++) {
        workers[i].options = options;
        workers[i].index = i;
        status = remote_target_open(options, options->seed + i, &workers[i].target, error);
        if (options->progress) {
            options->progress(options->progress_context, "connecting", i + 1, options->connections);
        }
    }
    unsigned started = 0;
    uint64_t now = reef_now_ns();
    while (!status && started < options->connections) {
        worker *w = &workers[started];
        w->begin_ns = now;
        w->from_ns = now + (uint64_t)(options->warmup * 1e9);
        w->until_ns = w->from_ns + (uint64_t)(options->seconds * 1e9);
        if (pthread_create(&w->thread, NULL, worker_main, w)) {
            status = reef_fail(error, REEF_NO_MEMORY, "a thread for connection %u cannot be started", started);
            break;
        }
        started++;
    }
    uint64_t until = now + (uint64_t)((options->warmup + options->seconds) * 1e9);
    while (!status && options->progress && reef_now_ns() < until) {
        load_sleep_until(reef_now_ns() + 200000000u < until ? reef_now_ns() + 200000000u : until, 0);
        options->progress(options->progress_context, "measuring", (size_t)((double)(reef_now_ns() - now) / 1e9),
                          (size_t)(options->warmup + options->seconds));
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    status = status ? status : collect(options, workers, out, error);
    for (unsigned i = 0; workers && i < options->connections; i++) {
        remote_target_close(workers[i].target);
        free(workers[i].latency.items);
        free(workers[i].engine.items);
        free(workers[i].added.items);
    }
    free(workers);
    return status;
}

static void print_stats(FILE *out, const char *name, const bench_stats *stats)
{
    if (stats->n) {
        fprintf(out, "%-22s p50 %9.1f  p90 %9.1f  p99 %9.1f  p99.9 %9.1f  max %9.1f us\n", name, stats->p50_us,
                stats->p90_us, stats->p99_us, stats->p999_us, stats->max_us);
    }
}

void remote_report_print(const remote_report *report, FILE *out)
{
    fprintf(out, "%s over %s, %u connection%s, ", report->model, report->target, report->connections,
            report->connections == 1 ? "" : "s");
    if (report->rate > 0) {
        fprintf(out, "%g requests per second, %g s\n", report->rate, report->seconds);
    } else {
        fprintf(out, "closed loop, %g s\n", report->seconds);
    }
    print_stats(out, "latency", &report->latency);
    print_stats(out, "of it in the engine", &report->engine);
    print_stats(out, "added by serving", &report->added);
    fprintf(out, "%.1f answers per second; %llu refused, %llu past their deadline, %llu failed, %llu answers differ\n",
            report->per_s, (unsigned long long)report->refused, (unsigned long long)report->late,
            (unsigned long long)report->failed, (unsigned long long)report->mismatches);
    if (report->first_failure[0]) {
        fprintf(out, "first failure: %s\n", report->first_failure);
    }
}

static json_t *stats_json(const bench_stats *stats)
{
    if (!stats->n) {
        return json_null();
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "p50", bench_json_number(stats->p50_us), "p90",
                     bench_json_number(stats->p90_us), "p99", bench_json_number(stats->p99_us), "p999",
                     bench_json_number(stats->p999_us), "max", bench_json_number(stats->max_us), "min",
                     bench_json_number(stats->min_us), "mean", bench_json_number(stats->mean_us), "n",
                     (json_int_t)stats->n);
}

json_t *remote_report_json(const remote_report *report)
{
    json_t *root = json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:o, s:o, s:o}", "target", report->target, "way",
                             report->way, "model", report->model, "connections", (int)report->connections, "rate",
                             report->rate, "seconds", report->seconds, "latency_us", stats_json(&report->latency),
                             "engine_us", stats_json(&report->engine), "added_us", stats_json(&report->added));
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {{"ok", report->ok},
                  {"refused", report->refused},
                  {"deadline", report->late},
                  {"failed", report->failed},
                  {"mismatches", report->mismatches}};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        json_object_set_new(root, counts[i].name, json_integer((json_int_t)counts[i].value));
    }
    json_object_set_new(root, "per_s", bench_json_number(report->per_s));
    return root;
}
