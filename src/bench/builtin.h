/*
 * builtin.h - the workload files that are embedded in the program (generated from workloads/ by tools/embed.sh).
 */
#ifndef REEF_BENCH_BUILTIN_H
#define REEF_BENCH_BUILTIN_H

#include <stddef.h>

typedef struct bench_builtin {
    const char *name;
    const char *json; /* not terminated */
    size_t bytes;
} bench_builtin;

extern const bench_builtin bench_builtins[];
extern const size_t bench_n_builtins;

#endif
