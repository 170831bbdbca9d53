/*
 * supervise.h - the process around the worker: it keeps the listening sockets and starts another worker when one is lost.
 *
 *     supervisor: sockets, signals, sd_notify --fork--> worker: device, models, connections
 *
 * A driver that loses its device takes it from the whole process (a faulting kernel does so on an NVIDIA GPU), so only a
 * new process gets it back. While there is none, connections wait in the sockets' backlog.
 */
#ifndef REEF_SERVE_SUPERVISE_H
#define REEF_SERVE_SUPERVISE_H

#include "serve/server.h"

typedef struct serve_sockets {
    int http, ring; /* -1: none */
} serve_sockets;

enum { SERVE_EXIT_DEVICE = 75 }; /* a worker's: the device is lost, another process may have more luck */

/* What a worker inherits of its predecessors. */
typedef struct serve_heritage {
    const char *const *unloaded; /* models that clients unloaded by name */
    size_t n_unloaded;
} serve_heritage;

/* Runs workers until one ends well, or the first cannot even start. parent: the worker's socket to the supervisor. */
reef_status serve_supervise(const serve_options *options, const serve_sockets *sockets,
                            reef_status (*worker)(const serve_options *options, const serve_sockets *sockets,
                                                  int parent, const serve_heritage *heritage, reef_error *error),
                            reef_error *error);

/* A worker tells its supervisor: 'R' ready, 'L' or 'U' and a model's name, 'E' and why it could not start. parent -1: no
 * effect. Thread safe. */
void serve_tell(int parent, char what, const char *text);
/* What systemd is told: "READY=1", "STOPPING=1". No effect without NOTIFY_SOCKET. */
void serve_notify(const char *state);

#endif
