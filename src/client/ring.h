/*
 * ring.h - what reef_client and the server share: control messages over a Unix socket, and one shared memory per client.
 *
 *     client                                                   server
 *     hello              --- SOCK_SEQPACKET --->               makes the memory, sealed: it cannot shrink
 *                        <-- welcome and its descriptor ---
 *     open MODEL         ------------------------>             holds the model
 *                        <-- its tensors -----------
 *     slot, queue, tail  ====== shared memory ==>              its thread for this client
 *     state of the slot  <===== shared memory ===              a device thread
 *
 * The submission queue has as many places as there are slots and every slot is in flight at most once, so it is never
 * full. The server copies a slot's description before it looks at it and trusts nothing in the memory afterwards; a
 * client that breaks the rules is disconnected. Numbers are the machine's own: both ends are on it.
 */
#ifndef REEF_CLIENT_RING_H
#define REEF_CLIENT_RING_H

#include <stdatomic.h>
#include <stdint.h>

#include "reef/reef.h"

enum {
    RING_MAGIC = 0x66656572, /* "reef" */
    RING_VERSION = 1,
    RING_SLOTS = 64,
    RING_TENSORS = 16, /* inputs, and outputs, of a model */
    RING_MODELS = 64,  /* that a client has open */
    RING_ALIGN = 64,   /* of tensors */
};

/* clang-format off */
typedef enum ring_kind { RING_HELLO = 1, RING_OPEN, RING_CLOSE } ring_kind;
/* clang-format on */

typedef struct ring_message { /* client to server */
    uint32_t magic, kind;
    uint32_t version;       /* HELLO */
    uint32_t model;         /* CLOSE */
    uint64_t data_bytes;    /* HELLO: room for tensors */
    char name[128];         /* OPEN */
    char model_version[16]; /* OPEN; "": the latest */
} ring_message;

typedef struct ring_tensor {
    char name[128];
    int32_t dtype, rank;
    int64_t dims[REEF_MAX_RANK];
    uint64_t bytes;
} ring_tensor;

typedef struct ring_answer { /* server to client; to HELLO with the memory's descriptor */
    uint32_t magic, status;  /* a reef_status */
    char message[480];
    uint64_t memory_bytes, data_offset, data_bytes;     /* HELLO */
    uint32_t model, service_class, n_inputs, n_outputs; /* OPEN */
    uint64_t solo_ns;
    ring_tensor tensors[2 * RING_TENSORS]; /* inputs, then outputs */
} ring_answer;

enum { RING_CLASS_RT = REEF_RT, RING_CLASS_BE = REEF_BE, RING_CLASS_DEFAULT = 2 };

typedef struct ring_call { /* what a client asks for */
    uint32_t model, service_class;
    uint64_t deadline_ns;                                 /* CLOCK_MONOTONIC; 0: none */
    uint64_t inputs[RING_TENSORS], outputs[RING_TENSORS]; /* offsets of tensors in the data; UINT64_MAX: not wanted */
} ring_call;

typedef enum ring_state { RING_FREE, RING_SUBMITTED, RING_DONE } ring_state;

typedef struct ring_slot {
    _Alignas(64) ring_call call;         /* written by the client while the slot is not in flight */
    _Alignas(64) _Atomic uint32_t state; /* a futex; the client stores SUBMITTED, the server DONE */
    _Atomic uint32_t waiting;            /* the client sleeps on state */
    uint32_t status, preemptions;        /* written by the server before DONE */
    uint64_t submit_ns, start_ns, end_ns;
} ring_slot;

typedef struct ring_shared {
    _Alignas(64) _Atomic uint32_t tail;     /* submissions so far; written by the client */
    _Alignas(64) _Atomic uint32_t sleeping; /* a futex: 1 while the server's thread sleeps; whoever wakes it stores 0 */
    _Alignas(64) _Atomic uint32_t queue[RING_SLOTS];
    ring_slot slots[RING_SLOTS];
} ring_shared;

#endif
