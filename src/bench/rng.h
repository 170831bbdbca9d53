/*
 * rng.h - a small seeded generator, so that a benchmark with the same seed asks for the same thing at the same times.
 */
#ifndef REEF_BENCH_RNG_H
#define REEF_BENCH_RNG_H

#include <stdint.h>

typedef struct bench_rng {
    uint64_t state;
} bench_rng;

/* splitmix64: every seed is a good one, and consecutive seeds give unrelated streams. */
static inline uint64_t bench_rng_next(bench_rng *rng)
{
    uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1), 53 bits. */
static inline double bench_rng_unit(bench_rng *rng)
{
    return (double)(bench_rng_next(rng) >> 11) * 0x1p-53;
}

#endif
