/*
 * remote.h - measures a server from outside: reef's over HTTP or its ring, or any other of the Open Inference Protocol.
 *
 * Every connection is a thread with an input of its own; each answer is compared with the connection's first one. Latency
 * counts from when a request was due (open loop) or sent (closed). What the engine itself took comes with each answer: the
 * ring says so, and over HTTP the header Server-Timing. The difference is what serving adds.
 */
#ifndef REEF_BENCH_REMOTE_H
#define REEF_BENCH_REMOTE_H

#include <jansson.h>
#include <stdio.h>

#include "bench/stats.h"
#include "reef/client.h"

typedef struct remote_options {
    const char *url, *ring;      /* one of them */
    const char *token_file;      /* NULL: none */
    const char *model, *version; /* version NULL: the latest */
    const reef_shape *shapes;    /* for inputs whose dimensions the server leaves open */
    size_t n_shapes;
    int service_class; /* a reef_class, or -1: the model's */
    unsigned connections;
    double rate; /* requests per second over all connections, evenly spaced; 0: closed loop */
    double seconds, warmup;
    uint64_t seed;
    reef_wake wake; /* ring only */
    reef_progress progress;
    void *progress_context;
} remote_options;

typedef struct remote_report {
    const char *target, *model; /* borrowed from the options */
    const char *way;            /* "http" or "ring" */
    unsigned connections;
    double rate, seconds;
    bench_stats latency, engine, added; /* engine, added: n is 0 where the server does not say */
    double per_s;
    uint64_t ok, refused, late, failed, mismatches;
    char first_failure[240]; /* "" if there is none */
} remote_report;

/* Errors: those of connecting, and of the first request of a connection. Later failures are counted. */
reef_status remote_run(const remote_options *options, remote_report *out, reef_error *error);
void remote_report_print(const remote_report *report, FILE *out);
json_t *remote_report_json(const remote_report *report);

#endif
