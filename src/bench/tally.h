/*
 * tally.h - what a policy has done, summed over its slices, and the row of a report that comes of it.
 */
#ifndef REEF_BENCH_TALLY_H
#define REEF_BENCH_TALLY_H

#include "bench/loadgen.h"
#include "bench/play.h"
#include "bench/report.h"

typedef struct tally_samples {
    uint64_t *ns;
    size_t n, capacity;
} tally_samples;

/* What a client saw under one policy, summed over the slices. */
typedef struct tally_client {
    tally_samples due, submitted;
    double served;
    size_t in_slo, drops, refused, failed, deadline_missed, unrecorded, n_due;
    uint64_t preemptions, compared, mismatches;
    char mismatch[200];
} tally_client;

typedef struct tally {
    tally_client *clients; /* one per actor of the play */
    tally_samples late;
    double window_s, wall_s; /* measured time; time between the readings of the device's counters */
    uint64_t rt_busy_ns;
    uint64_t preemptions, kernels_evicted, tiles_run, tiles_abandoned, padded_tiles, busy_rt, busy_be, lost_be;
} tally;

/* One slice into the policy's tally. who: the actors that took part. NO_MEMORY. */
reef_status tally_slice(const bench_play *play, const load *run, const size_t *who, size_t n_who, tally *t);
/* The device's counters over the slice. */
void tally_device(const reef_device_stats *before, const reef_device_stats *after, tally *t);
/* All RT latencies of a policy together, and sums over clients of the scene. base: the row of rt-only; NULL for that row
 * itself. NO_MEMORY. */
reef_status tally_row(const bench_play *play, const bench_scene *scene, bool with_be, tally *t, const bench_row *base,
                      bench_row *row);
void tally_free(tally *t, size_t n_actors);

#endif
