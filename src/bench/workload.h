/*
 * workload.h - what a benchmark asks of the device: clients, their models, classes and arrivals.
 *
 * A workload is a JSON file; A, B, C, D, E and REAL (DISB, the benchmark of the REEF paper) are files too, embedded in
 * the program. README.md in workloads/ describes the fields. A field that is not known is refused, so that a misspelt
 * one is not silently without effect.
 */
#ifndef REEF_BENCH_WORKLOAD_H
#define REEF_BENCH_WORKLOAD_H

#include "base/arena.h"
#include "reef/reef.h"

typedef enum bench_arrival_kind {
    BENCH_CLOSED,  /* the next request when one has been answered */
    BENCH_UNIFORM, /* every 1/rate seconds, with a random phase */
    BENCH_POISSON, /* exponential gaps of mean 1/rate */
    BENCH_TRACE,   /* at recorded times, over and over */
} bench_arrival_kind;

typedef struct bench_arrival {
    bench_arrival_kind kind;
    double rate;          /* UNIFORM, POISSON: requests per second */
    unsigned concurrency; /* CLOSED: requests in flight */
    uint64_t think_ns;    /* CLOSED, one in flight: from an answer to the next request, at least; not in files */
    double *times_ms;     /* TRACE: ascending */
    size_t n_times;
    double period_ms; /* TRACE: when it starts again; after the last time */
} bench_arrival;

typedef struct bench_input_file {
    const char *input, *path;
} bench_input_file;

typedef struct bench_client {
    const char *name, *model; /* model: a path, or a bare name looked up in the models folder */
    reef_class service_class;
    bench_arrival arrival;
    uint64_t deadline_us, slo_us; /* 0: none; SLO 0: twice the client's solo p50 */
    reef_shape *shapes;
    size_t n_shapes;
    bench_input_file *inputs; /* the others are drawn from the seed */
    size_t n_inputs;
    bool has_seed;
    uint64_t seed;
    unsigned weight;
} bench_client;

typedef struct bench_workload {
    reef_arena arena;
    const char *name, *about, *source, *license;
    double rt_share; /* share of the device that RT work alone keeps busy in the load-matched form; 0: no such form */
    bench_client *clients;
    size_t n_clients;
} bench_workload;

/*
 * Reads workload `spec`: a built-in name, or the path of a JSON file. The workload must be zeroed; bench_workload_free
 * it also after a failure. Errors name the client and the field. NOT_FOUND, IO, FORMAT, NO_MEMORY.
 */
reef_status bench_workload_load(const char *spec, bench_workload *out, reef_error *error);
/* The same from memory. origin is the file's path: relative models and inputs are found beside it. */
reef_status bench_workload_parse(const char *json, size_t bytes, const char *origin, bench_workload *out,
                                 reef_error *error);
void bench_workload_free(bench_workload *workload);

/* "closed", "uniform", ... */
const char *bench_arrival_name(bench_arrival_kind kind);

/*
 * Due times in [0, span_ns), ascending, for an arrival whose rate is multiplied by `scale` (a trace is played that much
 * faster). The same seed gives the same times. A trace is taken up `from_ns` after its start, in time as played; the
 * other kinds look the same from everywhere. *out is malloced; it holds *n times. CLOSED has none.
 */
reef_status bench_arrival_times(const bench_arrival *arrival, double scale, uint64_t seed, uint64_t from_ns,
                                uint64_t span_ns, uint64_t **out, size_t *n);
/* Mean requests per second at scale 1; 0 for CLOSED. */
double bench_arrival_rate(const bench_arrival *arrival);

#endif
