/*
 * remote_target.h - one connection to a server under measurement, with its model, input and first answer.
 */
#ifndef REEF_BENCH_REMOTE_TARGET_H
#define REEF_BENCH_REMOTE_TARGET_H

#include "bench/remote.h"

typedef struct remote_target remote_target;
typedef struct remote_answer {
    uint64_t engine_ns; /* 0: the server does not say */
    bool differs;       /* from the connection's first answer */
} remote_answer;

/* Connects, asks what the model's inputs are, fills them from the seed, and makes the first request. */
reef_status remote_target_open(const remote_options *options, uint64_t seed, remote_target **out, reef_error *error);
void remote_target_close(remote_target *target);
/* One request. QUEUE_FULL, DEADLINE: the server said so; IO: it cannot be reached; others: it failed. */
reef_status remote_target_ask(remote_target *target, remote_answer *out, reef_error *error);

#endif
