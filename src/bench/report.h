/*
 * report.h - the results of a benchmark, as numbers, as a table for people and as JSON.
 */
#ifndef REEF_BENCH_REPORT_H
#define REEF_BENCH_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "bench/stats.h"
#include "bench/workload.h"

typedef struct bench_client_row {
    const char *name, *model;
    reef_class service_class;
    bench_stats latency;   /* RT: from the due time; BE: from submission */
    bench_stats submitted; /* from submission, both */
    double per_s, solo_us, slo_us, slo_pct;
    double work_share; /* requests per second times solo time */
    size_t due, drops, refused, failed, deadline_missed, unrecorded;
    uint64_t preemptions; /* suffered by its requests */
    uint64_t compared, mismatches;
    char mismatch[200];
} bench_client_row;

/* One policy in one form of one workload: all its rounds together. */
typedef struct bench_row {
    const char *policy; /* static string */
    bench_stats rt;     /* from the due time, all RT clients */
    bench_stats rt_submitted;
    double rt_per_s, be_per_s, rt_work_share, be_work_share;
    double requests_ratio; /* (RT + BE requests per second) / (rt-only's) */
    double work_ratio;     /* the same, each request counted as its model's time alone */
    double be_idle_share;  /* BE work per time that RT leaves idle under rt-only */
    double rt_busy_share;  /* of the time, some RT request was being served */
    double slo_pct, be_lost_pct, unit_busy_share;
    size_t drops, refused, failed, deadline_missed;
    uint64_t preemptions, kernels_evicted, tiles_run, tiles_abandoned, padded_tiles, compared, mismatches;
    double late_p50_us, late_p99_us, late_max_us; /* of the generator: from a due time to the call of submit */
    bench_client_row *clients;
    size_t n_clients;
} bench_row;

/* Some of a workload's clients, played by themselves. */
typedef struct bench_scene {
    const char *name, *form; /* what its part says instead of the workload's */
    const size_t *clients;   /* indices, ascending; NULL: all */
    size_t n_clients;
    const char *only; /* this policy alone beside rt-only, if it is among those that are measured; NULL: all of them.
                       * Static string */
} bench_scene;

/* One workload in one form, or a scene of it. rows[0] is rt-only, what the others are compared with. */
typedef struct bench_part {
    const char *workload, *about, *form; /* form: "published", "matched", or a scene's */
    size_t scene;                        /* index; 0 without scenes */
    double rate_scale, rt_share_target;
    bench_row *rows;
    size_t n_rows;
} bench_part;

typedef struct bench_model_row {
    const char *name;
    double solo_us;
    size_t kernels, preemptible;           /* preemptible: may be stopped inside */
    char why_not[200];                     /* the first that may not: its name and the reason */
    size_t padded[REEF_PAD_LEVELS], plain; /* kernels that carry others' tiles, by level; and those that carry none */
} bench_model_row;

/* Borrows names from the workloads and the options it was made from. */
typedef struct bench_report {
    const char *device;
    bool form_defaulted;
    unsigned units, rounds;
    double seconds, warmup;
    uint64_t seed;
    bool realtime_priority; /* of the generator */
    char skipped[120];      /* policies that the device cannot run; only where all were asked for */
    bench_part *parts;
    size_t n_parts;
    bench_model_row *models;
    size_t n_models;
    bool padded; /* policy pad was among those measured */
    reef_padding_info padding;
} bench_report;

void bench_report_free(bench_report *report);
uint64_t bench_report_mismatches(const bench_report *report);
/* The first wrong answer, in words: workload, policy, client, request; "" when there is none. */
void bench_report_first_mismatch(const bench_report *report, char *text, size_t size);
void bench_report_print(const bench_report *report, FILE *out);
json_t *bench_report_json(const bench_report *report);

/* ---- bench preempt ---- */

/* Where the time from an RT request's due time to its end goes. X(name, from, to, meaning) */
/* clang-format off */
#define PREEMPT_STEPS(X)                                                                   \
    X(wake,   "due time to the call of submit: the operating system wakes the caller")     \
    X(submit, "call of submit to the scheduler having the request")                        \
    X(launch, "from there to units taken away and the launch handed to the device")        \
    X(device, "from there to the first tile: the device vacates and starts")               \
    X(run,    "first tile to the end of the request, seen by the host")                    \
    X(told,   "from there to the caller knowing")
/* clang-format on */
#define PREEMPT_STEP_ID(name, meaning) PREEMPT_##name,
enum { PREEMPT_STEPS(PREEMPT_STEP_ID) PREEMPT_N_STEPS };
#undef PREEMPT_STEP_ID

typedef struct preempt_cell {
    bench_stats first; /* from submission to first tile: what a preemption takes */
    bench_stats call;  /* the same from the call of submit: with what it takes to get the scheduler's lock */
    bench_stats due;   /* the same from the due time */
    bench_stats steps[PREEMPT_N_STEPS];
} preempt_cell;

typedef struct preempt_row {
    char be[80];
    const char *mechanism; /* the policy */
    preempt_cell idle, load;
    double be_lost_pct, seconds;
    uint64_t preemptions, tiles_abandoned;
} preempt_row;

typedef struct preempt_report {
    const char *device;
    unsigned units, count, rounds;
    uint64_t seed;
    bool realtime_priority;
    preempt_row *rows;
    size_t n_rows;
} preempt_report;

void preempt_report_free(preempt_report *report);
void preempt_report_print(const preempt_report *report, FILE *out);
json_t *preempt_report_json(const preempt_report *report);

/* ---- bench padding ---- */

typedef struct padding_pair {
    const char *rt, *be; /* paths, or names in the folder of models */
} padding_pair;

typedef struct padding_report {
    bench_report bench;      /* a part per RT model alone under policy pad, then one per pair */
    bench_workload workload; /* owns names and scenes */
    const char **empty;      /* RT models, of the first scenes */
    size_t n_empty;
    const padding_pair *pairs; /* of the others */
    size_t n_pairs;
    reef_precision precision;
    uint64_t think_ns;
} padding_report;

/* One line: a pair under a policy. */
typedef struct padding_row {
    const char *rt, *be;
    const bench_row *alone, *row;
    double over_p50_pct, over_p99_pct; /* of RT latency over rt-only's; NaN where there was no answer */
} padding_row;

/* All pairs under one policy. NaN where there is nothing to count. */
typedef struct padding_sum {
    const char *policy;
    double mean_p50_pct, worst_p50_pct, mean_p99_pct, worst_p99_pct, mean_be_share, least_be_share;
    size_t pairs, without_be; /* without_be: pairs in which no BE work was done */
    char worst[160];          /* the pair with the worst p50 */
} padding_sum;

/* The i-th line, pair by pair; false past the end. */
bool padding_row_at(const padding_report *report, size_t i, padding_row *out);
/* The i-th policy; false past the end. */
bool padding_sum_at(const padding_report *report, size_t i, padding_sum *out);
/* What is known of the model, which bench.padding's levels go with. */
const bench_model_row *padding_model(const padding_report *report, const char *model);
/* The i-th RT model under policy pad with nothing to pad (its be is NULL); false past the end. */
bool padding_empty_at(const padding_report *report, size_t i, padding_row *out);

void padding_report_free(padding_report *report);
void padding_report_print(const padding_report *report, FILE *out);
json_t *padding_report_json(const padding_report *report);

/* A number for a file: rounded to four decimals; null for NaN. */
json_t *bench_json_number(double value);
/* {"p50","p99","min","mean","n"} of a latency. */
json_t *bench_json_latency(const bench_stats *stats);

#endif
