/*
 * stats.h - what was served, in counters that only grow: for the statistics extension, /metrics and reef top.
 *
 * Written by many threads with relaxed atomics; a reader sees each counter as it is at about that time.
 */
#ifndef REEF_SERVE_STATS_H
#define REEF_SERVE_STATS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Latencies in buckets an eighth of a power of two wide, from 1 us to 18 minutes: percentiles to some 9%. */
enum { SERVE_BUCKETS_PER_OCTAVE = 8, SERVE_OCTAVES = 30, SERVE_BUCKETS = SERVE_BUCKETS_PER_OCTAVE * SERVE_OCTAVES + 1 };

typedef struct serve_histogram {
    _Atomic uint64_t count[SERVE_BUCKETS];
    _Atomic uint64_t sum_ns;
} serve_histogram;

void serve_histogram_add(serve_histogram *histogram, uint64_t ns);
/* The upper end of a bucket, exclusive; UINT64_MAX for the last. */
uint64_t serve_bucket_end_ns(size_t bucket);

typedef struct serve_duration {
    _Atomic uint64_t count, ns;
} serve_duration;
void serve_duration_add(serve_duration *duration, uint64_t ns);

/* clang-format off */
/* X(name, what it counts): how requests end. */
#define SERVE_OUTCOME_LIST(X)                     \
    X(ok, "answered")                             \
    X(bad_request, "not a valid request")         \
    X(queue_full, "refused, the queue was full")  \
    X(deadline, "its deadline passed in a queue") \
    X(cancelled, "its client went away")          \
    X(device, "the device failed")                \
    X(other, "failed otherwise")
/* clang-format on */
typedef enum serve_outcome {
#define X(name, text) SERVE_OUTCOME_##name,
    SERVE_OUTCOME_LIST(X)
#undef X
        SERVE_OUTCOME_COUNT
} serve_outcome;
const char *serve_outcome_name(serve_outcome outcome);

typedef struct serve_class_stats { /* of one model and class */
    _Atomic uint64_t outcomes[SERVE_OUTCOME_COUNT];
    serve_histogram latency; /* of answered requests, from having all of it to having the answer */
    _Atomic uint64_t preemptions;
    _Atomic uint32_t waiting; /* in the server's own queues, the engine's included */
} serve_class_stats;

typedef struct serve_model_stats {
    serve_class_stats classes[2];                              /* by reef_class */
    serve_duration success, fail, queue, input, infer, output; /* as the statistics extension has them */
    _Atomic uint64_t items, executions;                        /* inferences, and runs of the model for them */
    _Atomic uint64_t last_ms;                                  /* of the last request, since 1970 */
    serve_duration batches[9];                                 /* by power of two: 1, 2, 4 ... 256 items */
} serve_model_stats;

#endif
