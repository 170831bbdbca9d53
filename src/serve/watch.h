/*
 * watch.h - a thread that looks after connections: a client that leaves cancels its request, one that dawdles is cut off,
 * deadlines end requests that wait, and a device that failed is tried.
 */
#ifndef REEF_SERVE_WATCH_H
#define REEF_SERVE_WATCH_H

#include "serve/call.h"
#include "serve/server.h"

typedef struct serve_watch serve_watch;
typedef struct serve_peer serve_peer;
typedef enum serve_phase { SERVE_IDLE, SERVE_RECEIVING, SERVE_WORKING, SERVE_SENDING } serve_phase;

reef_status serve_watch_create(serve_server *server, serve_watch **out, reef_error *error);
/* Every peer must be gone. NULL is allowed. */
void serve_watch_destroy(serve_watch *watch);

/* A connection; NULL when there is no room. fd stays the caller's, who removes the peer before closing it. plain: errors
 * can be written to it as they are. */
serve_peer *serve_peer_add(serve_watch *watch, int fd, bool plain, const char *address);
void serve_peer_remove(serve_peer *peer);
const char *serve_peer_address(const serve_peer *peer);
/* bytes: of the body or the answer, which adds to the time it may take. */
void serve_peer_phase(serve_peer *peer, serve_phase phase, uint64_t bytes);
/* From now on until it is called with NULL, the call is cancelled when the peer leaves; false: it has left already. */
bool serve_peer_call(serve_peer *peer, serve_call *call);

/* Requests that are being worked on (inferences, loading), those whose answers are still being sent too; those alone that are
 * being worked on; connections. */
size_t serve_watch_busy(serve_watch *watch);
size_t serve_watch_working(serve_watch *watch);
size_t serve_watch_peers(serve_watch *watch);
/* Cancels every inference that is under way. */
void serve_watch_cancel(serve_watch *watch);
/* Tells whoever still waits for an answer that none will come, as after a crash; the process must end at once. */
void serve_watch_abandon(serve_watch *watch);
/* A request with this deadline was submitted. */
void serve_watch_deadline(serve_watch *watch, uint64_t deadline_ns);
/* A request ended with DEVICE: finds out whether the device still works. */
void serve_watch_device(serve_watch *watch);

#endif
