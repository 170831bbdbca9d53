/*
 * play.h - a workload on stage: its clients with their models, sessions, inputs and undisturbed answers. Belongs to the
 * runner (runner.c) and its counting (tally.c).
 */
#ifndef REEF_BENCH_PLAY_H
#define REEF_BENCH_PLAY_H

#include "bench/report.h"
#include "bench/verify.h"

enum { PLAY_MAX_CLIENTS = 64 }; /* at one time */

typedef struct bench_model {
    const bench_client *like; /* the first client that uses it: path and shapes */
    char *path;
    reef_model *model;
    uint64_t first_ns; /* p50 alone, before the first slice, from submission to end: what rates and SLOs go by, because
                        * requests come one after another whole, with what the host does for each */
    uint64_t solo_ns;  /* p50 alone on the device, from before each round of a part: what its work is counted in */
    uint64_t *samples; /* for solo_ns */
    size_t n_samples, room;
} bench_model;

typedef struct bench_actor { /* a client and what it needs to run */
    const bench_client *client;
    bench_model *model;
    reef_session *session;
    reef_session *alone; /* of the actor that measures its model; real-time */
    bench_tensors inputs;
    bench_verifier verifier;
    uint64_t seed;
} bench_actor;

typedef struct bench_play { /* a workload and its clients */
    const bench_workload *workload;
    bench_actor *actors;
    size_t n_actors;
    double scale; /* of the rates, in the form being played */
} bench_play;

/* Whether the client takes part. */
static inline bool in_scene(const bench_scene *scene, size_t client)
{
    if (!scene->clients) {
        return true;
    }
    for (size_t i = 0; i < scene->n_clients; i++) {
        if (scene->clients[i] == client) {
            return true;
        }
    }
    return false;
}

#endif
