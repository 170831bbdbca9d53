/*
 * client.h - reef_client: inference on a `reef serve --ring PATH` of the same machine, through shared memory.
 *
 *     reef_client *client;   reef_client_model *model;   reef_call *call;
 *     reef_client_connect("/run/reef/ring.sock", NULL, &client, &error);
 *     reef_client_open(client, "resnet", NULL, &model, &error);
 *     reef_call_create(model, &call, &error);
 *     memcpy(reef_call_input(call, 0), image, bytes);
 *     reef_call_run(call, NULL, NULL);
 *     scores = reef_call_output(call, 0);
 *
 * A call owns its place for inputs and outputs in the memory that it shares with the server, so that nothing is copied or
 * allocated when it runs, and submitting and completing need no system call while both sides are awake. Link with
 * -lreef_client; it needs nothing but the C library.
 *
 * Thread safety: connect, open, create and their opposites may be called from any thread, one at a time per client;
 * different calls may be submitted and waited for by different threads; one call belongs to one thread at a time. Times
 * are nanoseconds of CLOCK_MONOTONIC. When the server goes away, calls end with IO and the client must be closed; a server
 * that restarted is reached by connecting anew.
 */
#ifndef REEF_CLIENT_H
#define REEF_CLIENT_H

#include "reef/reef.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct reef_client reef_client;
typedef struct reef_client_model reef_client_model;
typedef struct reef_call reef_call;

/* How a thread waits for an answer. */
typedef enum reef_wake {
    /* Sleeps until the answer is nearly due, judging by the model's last ones, then polls; where other threads keep taking the
     * processor from who polls, it sleeps throughout. */
    REEF_WAKE_ADAPTIVE,
    REEF_WAKE_POLL,  /* polls all the time: the least latency, for a processor of its own */
    REEF_WAKE_BLOCK, /* sleeps until the server wakes it */
} reef_wake;

typedef struct reef_client_options {
    size_t memory_bytes; /* for tensors of all calls; 0: 16 MiB. The server has a limit of its own (--ring-memory). */
    reef_wake wake;
} reef_client_options;

/*
 * Connects to the server's ring. options may be NULL; path is borrowed. Errors: NOT_FOUND (no such socket), IO (nobody
 * listens, or it is not a reef server), UNSUPPORTED (another version), INVALID_ARGUMENT, QUEUE_FULL (too many clients),
 * NO_MEMORY.
 */
reef_status reef_client_connect(const char *path, const reef_client_options *options, reef_client **out,
                                reef_error *error);
/* Closes its models and frees its calls; what is in flight is cancelled. NULL is allowed. */
void reef_client_close(reef_client *client);

/* A model of the server, by name; version NULL: the latest. Stays the one it was when it is replaced on the server: open
 * it again to see the new one. Errors: NOT_FOUND, BUSY (not ready), UNSUPPORTED (more than 16 inputs or outputs), IO. */
reef_status reef_client_open(reef_client *client, const char *name, const char *version, reef_client_model **out,
                             reef_error *error);
/* Its calls must have been destroyed. NULL is allowed. */
void reef_client_model_close(reef_client_model *model);
size_t reef_client_inputs(const reef_client_model *model);
size_t reef_client_outputs(const reef_client_model *model);
/* false when i is out of range. Names live as long as the model. */
bool reef_client_input(const reef_client_model *model, size_t i, reef_tensor_info *out);
bool reef_client_output(const reef_client_model *model, size_t i, reef_tensor_info *out);
/* The class of requests that do not say, and the model's latency alone on the device (0: not known). */
reef_class reef_client_class(const reef_client_model *model);
uint64_t reef_client_solo_ns(const reef_client_model *model);

/* A call with its memory. Errors: NO_MEMORY (see reef_client_options), QUEUE_FULL (64 calls are there). */
reef_status reef_call_create(reef_client_model *model, reef_call **out, reef_error *error);
/* Waits for its answer if it is in flight. NULL is allowed. */
void reef_call_destroy(reef_call *call);
/* Where the i-th tensor is: shared with the server, 64-byte aligned, valid until the call is destroyed. NULL when i is out
 * of range. Inputs keep what was written; neither may be touched while the call is in flight. */
void *reef_call_input(reef_call *call, size_t i);
const void *reef_call_output(const reef_call *call, size_t i);

typedef struct reef_call_options {
    bool has_class; /* otherwise the model's */
    reef_class service_class;
    uint64_t timeout_ns; /* relative; 0: none. Not started by then, the call ends with DEADLINE */
} reef_call_options;

/* Hands it over. options may be NULL. Errors: BUSY (it is in flight), IO. */
reef_status reef_call_submit(reef_call *call, const reef_call_options *options);
/* Waits, for ever with UINT64_MAX. OK with *info (may be NULL), whose status says how the request ended: OK, DEADLINE,
 * CANCELLED, REFUSED, QUEUE_FULL, DEVICE, INVALID_ARGUMENT. TIMEOUT: still in flight. IO: the server is gone. */
reef_status reef_call_wait(reef_call *call, uint64_t timeout_ns, reef_request_info *info);
/* Submit and wait. Returns the request's own status. info may be NULL. */
reef_status reef_call_run(reef_call *call, const reef_call_options *options, reef_request_info *info);

#ifdef __cplusplus
}
#endif
#endif
