/*
 * clock.h - time, and a clock that tests can turn by hand.
 */
#ifndef REEF_BASE_CLOCK_H
#define REEF_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t reef_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* How long from one time to another; 0 where they were read in the other order: a clock that is read before a lock is taken may
 * be behind one that was read under it. */
static inline uint64_t reef_span_ns(uint64_t from_ns, uint64_t to_ns)
{
    return to_ns > from_ns ? to_ns - from_ns : 0;
}

/* Injected wherever a decision depends on time. */
typedef struct reef_clock {
    uint64_t (*now_ns)(void *context);
    void *context;
} reef_clock;

/* For qsort: times, the shortest first. */
static inline int reef_compare_ns(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

#endif
