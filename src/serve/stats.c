/*
 * stats.c - see stats.h.
 */
#include "serve/stats.h"

static size_t bucket_of(uint64_t ns)
{
    uint64_t us8 = ns / 125; /* eighths of a microsecond: 8 is 1 us */
    if (us8 < 8) {
        return 0;
    }
    unsigned octave = 63u - (unsigned)__builtin_clzll(us8) - 3;
    size_t bucket = 1 + (size_t)octave * SERVE_BUCKETS_PER_OCTAVE + (size_t)(us8 >> octave) - 8;
    return bucket < SERVE_BUCKETS ? bucket : SERVE_BUCKETS - 1;
}

uint64_t serve_bucket_end_ns(size_t bucket)
{
    if (bucket + 1 >= SERVE_BUCKETS) {
        return UINT64_MAX;
    }
    size_t octave = bucket / SERVE_BUCKETS_PER_OCTAVE, part = bucket % SERVE_BUCKETS_PER_OCTAVE;
    return ((uint64_t)(8 + part) << octave) * 125;
}

void serve_histogram_add(serve_histogram *histogram, uint64_t ns)
{
    atomic_fetch_add_explicit(&histogram->count[bucket_of(ns)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_ns, ns, memory_order_relaxed);
}

void serve_duration_add(serve_duration *duration, uint64_t ns)
{
    atomic_fetch_add_explicit(&duration->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&duration->ns, ns, memory_order_relaxed);
}

const char *serve_outcome_name(serve_outcome outcome)
{
    static const char *const names[] = {
#define X(name, text) #name,
        SERVE_OUTCOME_LIST(X)
#undef X
    };
    return outcome < SERVE_OUTCOME_COUNT ? names[outcome] : "other";
}
