/*
 * ring_client.h - one client of the ring: its shared memory, its models, its thread.
 */
#ifndef REEF_SERVE_RING_CLIENT_H
#define REEF_SERVE_RING_CLIENT_H

#include <pthread.h>

#include "client/ring.h"
#include "serve/hint.h"
#include "serve/ring.h"

typedef struct serve_ring_client serve_ring_client;

/* The shared memory for data_bytes of tensors. *fd is a descriptor of it, sealed against resizing, that the caller sends and
 * closes. INVALID_ARGUMENT (too much), NO_MEMORY. */
reef_status serve_ring_client_create(serve_server *server, uint64_t data_bytes, serve_ring_client **out, int *fd,
                                     ring_answer *welcome, reef_error *error);
/* Stops its thread, cancels what is in flight and waits for it. NULL is allowed. */
void serve_ring_client_destroy(serve_ring_client *client);
/* Whether it broke the rules of the ring: to be disconnected. */
bool serve_ring_client_broken(const serve_ring_client *client);

/* OPEN and CLOSE. Fills the answer's tensors, or status and message. */
void serve_ring_client_open(serve_ring_client *client, const ring_message *message, ring_answer *answer);
void serve_ring_client_shut(serve_ring_client *client, uint32_t model, ring_answer *answer);

/* How early the thread of a client that asks at regular intervals is awake for it: waking a processor takes this long. */
enum { SERVE_RING_EARLY_NS = 100000 };

/* A client's RT request has come at now_ns. true: the next one is awaited from *from_ns until *until_ns, during which the ring
 * is polled: at most a quarter of the time between two requests, so clients that ask too often or too irregularly for that
 * are not awaited. spin_ns is how long the ring is polled behind the latest moment expected. */
bool serve_ring_await(serve_rhythm *rhythm, uint64_t now_ns, uint64_t spin_ns, uint64_t *from_ns, uint64_t *until_ns);

/* Checks of what comes from outside; pure, for the fuzzer too. A message of n bytes: NULL or what is wrong with it. */
const char *serve_ring_check_message(const void *bytes, size_t n, ring_message *out);
/* Whether every tensor of the call lies in the data, aligned. */
bool serve_ring_check_call(const ring_call *call, const serve_signature *signature, uint64_t data_bytes);

#endif
