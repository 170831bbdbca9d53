/*
 * arrival.c - when requests are due. Times are fixed before the run, so that no policy can slow its own clients down.
 */
#include <math.h>
#include <stdlib.h>

#include "bench/rng.h"
#include "bench/workload.h"

typedef struct times {
    uint64_t *ns;
    size_t n, capacity;
} times;

enum { MAX_TIMES = 1 << 24 };

static bool add(times *to, double ns)
{
    if (to->n == to->capacity) {
        size_t grown = to->capacity ? to->capacity * 2 : 256;
        uint64_t *bigger = grown <= MAX_TIMES ? realloc(to->ns, grown * sizeof *bigger) : NULL;
        if (!bigger) {
            return false;
        }
        to->ns = bigger;
        to->capacity = grown;
    }
    to->ns[to->n++] = (uint64_t)ns;
    return true;
}

/* The trace played over and over, from `from` on. */
static bool add_trace(times *list, const bench_arrival *arrival, double scale, double from, double span)
{
    double ms = 1e6 / scale, period = arrival->period_ms * ms;
    double start = floor(from / period) * period - from;
    for (size_t i = 0;;) {
        double due = start + arrival->times_ms[i] * ms;
        if (due >= span) {
            return true;
        }
        if (due >= 0 && !add(list, due)) {
            return false;
        }
        if (++i == arrival->n_times) {
            start += period;
            i = 0;
        }
    }
}

reef_status bench_arrival_times(const bench_arrival *arrival, double scale, uint64_t seed, uint64_t from_ns,
                                uint64_t span_ns, uint64_t **out, size_t *n)
{
    times list = {0};
    bench_rng rng = {seed};
    double span = (double)span_ns;
    bool ok = true;
    if (arrival->kind == BENCH_UNIFORM || arrival->kind == BENCH_POISSON) {
        double gap = 1e9 / (arrival->rate * scale);
        /* A random phase, or the clients of a workload would all ask at the same instant for ever. */
        double due = gap * bench_rng_unit(&rng);
        if (arrival->kind == BENCH_UNIFORM) {
            for (size_t i = 0; ok && due + (double)i * gap < span; i++) {
                ok = add(&list, due + (double)i * gap);
            }
        } else {
            due = 0;
            while (ok && (due -= log(1.0 - bench_rng_unit(&rng)) * gap) < span) {
                ok = add(&list, due);
            }
        }
    } else if (arrival->kind == BENCH_TRACE) {
        ok = add_trace(&list, arrival, scale, (double)from_ns, span);
    }
    if (!ok) {
        free(list.ns);
        return REEF_NO_MEMORY;
    }
    *out = list.ns;
    *n = list.n;
    return REEF_OK;
}
