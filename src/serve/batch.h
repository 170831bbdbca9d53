/*
 * batch.h - best-effort requests that share one run of their model (dynamic batching).
 *
 *     serve_batcher_submit -> waiting -> gathered into a batch -> engine -> scattered -> done
 *
 * A thread of the model's own gathers and scatters, so that neither a device thread nor one that serves copies tensors. A
 * batch leaves when it is full or its oldest request has waited for the configured delay. Real-time requests never wait
 * for others and do not come here.
 */
#ifndef REEF_SERVE_BATCH_H
#define REEF_SERVE_BATCH_H

#include "serve/call.h"

typedef struct serve_batcher serve_batcher;

/* The model's variants must be there. DEVICE-side buffers are the sessions'. NO_MEMORY. */
reef_status serve_batcher_create(serve_model *model, serve_batcher **out, reef_error *error);
/* No call may be left. NULL is allowed. */
void serve_batcher_destroy(serve_batcher *batcher);
/* As serve_call_submit. QUEUE_FULL. */
reef_status serve_batcher_submit(serve_batcher *batcher, serve_call *call);
/* A call that still waits ends; the answer of one in a batch is not wanted any more. */
void serve_batcher_cancel(serve_batcher *batcher, serve_call *call);

/* Bytes of one tensor of `batch` items in a staging buffer. */
size_t serve_staging_bytes(const serve_io *io, unsigned batch);

#endif
