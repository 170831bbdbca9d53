/*
 * ring.h - the local fast path: a Unix socket for control, and per client a shared memory with a submission ring.
 * src/client/ring.h has the layout.
 */
#ifndef REEF_SERVE_RING_H
#define REEF_SERVE_RING_H

#include "serve/server.h"

typedef struct serve_ring serve_ring;

/* A listening socket at path, mode 0600. A socket that nobody listens on any more is replaced. IO. */
reef_status serve_ring_listen(const char *path, int *out, reef_error *error);
/* Serves on it; the socket stays the caller's. */
reef_status serve_ring_start(serve_server *server, int listener, serve_ring **out, reef_error *error);
/* Cancels what is under way and forgets every client. NULL is allowed. */
void serve_ring_stop(serve_ring *ring);

#endif
