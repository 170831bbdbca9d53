/*
 * stats.c - see stats.h.
 */
#include "bench/stats.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

uint64_t bench_percentile(const uint64_t *sorted, size_t n, double q)
{
    double exact = q * (double)n;
    size_t rank = (size_t)ceil(exact - 1e-9 * exact);
    return sorted[rank < 1 ? 0 : rank > n ? n - 1 : rank - 1];
}

bench_stats bench_stats_of(uint64_t *samples_ns, size_t n)
{
    if (n == 0) {
        return (bench_stats){0, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    }
    qsort(samples_ns, n, sizeof *samples_ns, by_value);
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)samples_ns[i];
    }
    return (bench_stats){
        .n = n,
        .p50_us = (double)bench_percentile(samples_ns, n, 0.5) / 1e3,
        .p90_us = (double)bench_percentile(samples_ns, n, 0.9) / 1e3,
        .p99_us = (double)bench_percentile(samples_ns, n, 0.99) / 1e3,
        .p999_us = (double)bench_percentile(samples_ns, n, 0.999) / 1e3,
        .max_us = (double)samples_ns[n - 1] / 1e3,
        .min_us = (double)samples_ns[0] / 1e3,
        .mean_us = sum / (double)n / 1e3,
    };
}
