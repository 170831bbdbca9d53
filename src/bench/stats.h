/*
 * stats.h - exact percentiles from all recorded samples. No histogram, no sampling: a benchmark that rounds its tail
 * away is not worth running.
 */
#ifndef REEF_BENCH_STATS_H
#define REEF_BENCH_STATS_H

#include <stddef.h>
#include <stdint.h>

typedef struct bench_stats {
    size_t n; /* 0: the other fields are NaN */
    double p50_us, p90_us, p99_us, p999_us, max_us, min_us, mean_us;
} bench_stats;

/* Sorts samples (nanoseconds) in place and summarises them. */
bench_stats bench_stats_of(uint64_t *samples_ns, size_t n);

/* Nearest rank: the smallest sample that at least the fraction q of all samples do not exceed. sorted, n > 0. */
uint64_t bench_percentile(const uint64_t *sorted, size_t n, double q);

#endif
