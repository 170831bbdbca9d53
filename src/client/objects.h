/*
 * objects.h - what the client's two files share: client.c (the connection, its models) and call.c (requests).
 */
#ifndef REEF_CLIENT_OBJECTS_H
#define REEF_CLIENT_OBJECTS_H

#include <pthread.h>

#include "base/poll.h"
#include "client/ring.h"
#include "reef/client.h"

struct reef_call {
    reef_client_model *model;
    unsigned slot;
    bool in_flight;
    reef_poll poll;
    uint64_t sent_ns;
    size_t at, bytes; /* its piece of the data */
    uint64_t inputs[RING_TENSORS], outputs[RING_TENSORS];
};

struct reef_client_model {
    reef_client *client;
    ring_answer described;
    unsigned calls;
    _Atomic uint64_t usual_ns; /* what calls lately took, on the low side */
    reef_client_model *next;
};

struct reef_client {
    int fd;
    reef_wake wake;
    char *memory, *data;
    size_t memory_bytes, data_bytes;
    ring_shared *shared;
    pthread_mutex_t lock; /* guards submission and the lists below */
    reef_call *calls[RING_SLOTS];
    reef_client_model *models;
    _Atomic bool gone;
};

#endif
