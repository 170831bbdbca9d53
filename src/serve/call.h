/*
 * call.h - one inference from a decoded request to its answer.
 *
 *     serve_call_submit -> engine session                        -> done
 *                       -> batcher (best-effort, where batched) -> done
 *
 * `done` is called exactly once per successful submission, on a device thread or whichever thread ended the request; it
 * must not block. Everything of the call is its owner's again from then on.
 */
#ifndef REEF_SERVE_CALL_H
#define REEF_SERVE_CALL_H

#include <pthread.h>

#include "base/list.h"
#include "serve/model.h"

typedef struct serve_call {
    serve_request request;
    serve_model *model; /* a reference, dropped by serve_call_release */
    reef_class service_class;
    uint64_t begin_ns, decoded_ns, deadline_ns; /* begin: all bytes were there; deadline: absolute, 0: none */
    reef_request_info info;
    reef_status status; /* once done */
    void (*done)(struct serve_call *call);
    void *context;

    _Atomic unsigned references; /* the owner's, and the submitter's while it submits */
    pthread_mutex_t lock;        /* guards handle while it is submitted and cancelled */
    reef_request *handle;
    void *staging;  /* inputs and outputs of a padded batch */
    reef_list link; /* the batcher's, under its lock */
    bool pending;   /* waits in the batcher */
    _Atomic bool cancel;
} serve_call;

/* model becomes the call's reference, also when there is no memory (NULL). */
serve_call *serve_call_create(serve_model *model);
/* Class, deadline and begin_ns from the decoded request and the model's default. */
void serve_call_classify(serve_call *call);
/* QUEUE_FULL, REFUSED, NO_MEMORY, CANCELLED: done will not be called. */
reef_status serve_call_submit(serve_call *call);
/* Asks it to end with CANCELLED. Any thread, while the owner has it; no effect after the end. */
void serve_call_cancel(serve_call *call);
/* After done, or when it was never submitted. NULL is allowed. */
void serve_call_release(serve_call *call);

/* What the statistics learn of a request that has its answer or failed. */
typedef struct serve_timing {
    uint64_t begin_ns, decoded_ns, encode_begin_ns, answered_ns;
} serve_timing;
void serve_count(const serve_model *model, reef_class service_class, serve_outcome outcome,
                 const reef_request_info *info, const serve_timing *timing, unsigned batch);
serve_outcome serve_outcome_of(reef_status status);

#endif
