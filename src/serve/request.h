/*
 * request.h - one inference request between the wire and the engine: what was asked for, checked, with every tensor in
 * place. decode.c fills it from a body, encode.c writes the answer from it; neither knows HTTP.
 */
#ifndef REEF_SERVE_REQUEST_H
#define REEF_SERVE_REQUEST_H

#include "serve/shm.h"

enum { SERVE_MAX_TENSORS = 64, SERVE_NAME_BYTES = 128, SERVE_MAX_CLASSES = 1000 };

/* One input or output of a served model, as clients see it. */
typedef struct serve_io {
    const char *name;
    reef_dtype dtype;
    int rank;
    int64_t dims[REEF_MAX_RANK]; /* the first is -1 where requests may be batched */
    size_t item_elems;           /* of the whole tensor, or of one item of a batch */
    char **labels;               /* for classification; may be NULL */
    size_t n_labels;
} serve_io;

typedef struct serve_signature {
    const char *name, *version;
    const serve_io *inputs, *outputs;
    size_t n_inputs, n_outputs;
    unsigned max_batch; /* 0: shapes are fixed */
} serve_signature;

typedef struct serve_in {
    const void *data; /* aligned to its element; in the body, in `owned`, or in shared memory */
    size_t bytes;
    void *owned;
    serve_region *region;
} serve_in;

typedef enum serve_form { SERVE_JSON, SERVE_BINARY, SERVE_SHM } serve_form;

typedef struct serve_out {
    bool wanted;
    serve_form form;
    unsigned classes; /* 0: the tensor itself */
    size_t bytes;     /* of the tensor */
    void *data;       /* where the engine writes it; NULL: not wanted */
    void *owned;
    serve_region *region;
    size_t shm_bytes; /* room in the region */
} serve_out;

typedef struct serve_request {
    const serve_signature *signature; /* borrowed */
    char *id;                         /* as the client gave it; NULL: none */
    bool has_priority;
    uint64_t priority;   /* 1: real-time; higher: best-effort */
    uint64_t timeout_us; /* 0: none */
    unsigned batch;      /* items; 1 where shapes are fixed */
    serve_in in[SERVE_MAX_TENSORS];
    serve_out out[SERVE_MAX_TENSORS];
    uint16_t order[SERVE_MAX_TENSORS]; /* outputs as they were asked for */
    size_t n_order;
} serve_request;

/*
 * Decodes a v2 request: json_bytes of JSON, then the binary tensors in the order of the inputs. The body must stay where
 * it is while the request lives; its binary part is used in place where it is aligned. *out is filled as far as it got
 * also after a failure, and must be given back with serve_request_free. Errors name the input, output or field:
 * FORMAT, SHAPE, DTYPE, UNSUPPORTED, NOT_FOUND (an input, output or region), INVALID_ARGUMENT, NO_MEMORY.
 */
reef_status serve_decode(const serve_signature *signature, serve_shm *shm, const void *body, size_t bytes,
                         size_t json_bytes, serve_request *out, reef_error *error);
void serve_request_free(serve_request *request);

/*
 * The answer: JSON into *json, and the binary part as spans of the request's own memory or of *classes (classification
 * results). n_spans is at most SERVE_MAX_TENSORS. FORMAT (NaN in JSON, or shared memory too small), NO_MEMORY.
 */
typedef struct serve_span {
    const void *data;
    size_t bytes;
} serve_span;
typedef struct serve_answer {
    serve_text json, classes;
    serve_span spans[SERVE_MAX_TENSORS];
    size_t n_spans;
    bool binary; /* the header Inference-Header-Content-Length is needed */
} serve_answer;
reef_status serve_encode(const serve_request *request, serve_answer *out, reef_error *error);
void serve_answer_free(serve_answer *answer);

/* Memory that jansson may use on this thread from now on, for what clients send; 0: no limit. JSON takes up to 25 times
 * its size once it is read. serve_json_setup must have been called, once, before other threads are. */
void serve_json_setup(void);
void serve_json_budget(size_t bytes);

#endif
