/*
 * server.h - the server as a whole: what it was asked to be, and what its parts share.
 *
 *     sockets -> http.c (bodies) -> routes.c -> infer.c -> call.c -> engine
 *     ring sockets -> ring.c -------------------------------^
 *     hint.c: the engine is told of real-time requests ahead;  server.c: the process's time slice on a GPU
 *     watch.c: clients that leave or dawdle, deadlines, the device's health;  supervise.c: the process around it all
 */
#ifndef REEF_SERVE_SERVER_H
#define REEF_SERVE_SERVER_H

#include "serve/hint.h"
#include "serve/log.h"
#include "serve/repository.h"

/* Five times the driver's own slice: longer than most inferences, so that programs under reef nice (slices of 1 us to 1 ms)
 * do not interrupt them. docs/results/h200/nice.json was measured with it. */
enum { SERVE_SLICE_US = 10000, SERVE_SLICE_MAX_US = 1000000, SERVE_SLICE_AUTO = SERVE_SLICE_MAX_US + 1 };

typedef struct serve_options {
    const char *device, *policy; /* policy NULL: the engine's default */
    unsigned units;              /* 0: all */
    /* Microseconds this process may keep a GPU while others want it; 0: the driver's own; SERVE_SLICE_AUTO: SERVE_SLICE_US
     * where there are time slices. */
    unsigned slice_us;
    bool no_hints; /* the engine is not told of requests ahead */
    reef_precision precision;
    const char *models, *cache_dir;
    const char *listen;                       /* HOST:PORT; port 0: any that is free */
    const char *token_file;                   /* NULL: no token is asked for */
    const char *tls_certificate, *tls_key;    /* PEM files; NULL: plain HTTP */
    const char *shm_prefix;                   /* NULL: no system shared memory */
    const char *ring;                         /* path of the Unix socket; NULL: none */
    size_t max_request_bytes, max_json_bytes; /* of one body, of its JSON part */
    size_t max_memory_bytes;                  /* of all bodies together */
    size_t max_ring_bytes;                    /* of one client's shared memory */
    unsigned max_connections, http_threads, max_ring_clients;
    unsigned queue_limit;                        /* requests that may wait, per model and class */
    unsigned idle_s, receive_s, send_s, drain_s; /* limits: between requests, for a body, for an answer, at the end */
    unsigned ring_spin_us; /* how long an idle ring is polled before its thread sleeps; 0: never */
    serve_level log_level;
    const char *timeline; /* file for one event per request, in the format of Chrome's trace viewer; NULL: none */
    bool supervise;
} serve_options;

/* The usual limits; device, models and listen are NULL. */
void serve_options_default(serve_options *options);

/*
 * Serves until SIGTERM or SIGINT. Writes its log to stderr. Returns REEF_OK after an orderly end, otherwise what was wrong
 * with the options, sockets or device. Must be called before the process has threads: it forks.
 */
reef_status serve_run(const serve_options *options, reef_error *error);

/* ------------------------------------------------------------------------------------- among the server's files -- */

typedef struct serve_access {
    char *token; /* NULL: none is asked for */
    char *certificate, *key;
} serve_access;

typedef struct serve_server {
    serve_options options;
    serve_access access;
    reef_device *device;
    serve_repository *repository;
    serve_shm *shm;
    serve_log *log, *timeline;
    int timeline_fd; /* 0: none */
    struct serve_watch *watch;
    struct serve_http *http;
    struct serve_ring *ring;
    struct serve_helpers *helpers;
    serve_hints *hints; /* NULL: none are sent */
    int parent;         /* socket to the supervisor; -1: none */
    uint64_t start_ns, start_ms;
    _Atomic bool draining; /* no new inferences */
    _Atomic bool closed;   /* nothing that takes work is begun: the HTTP server is about to stop */
    _Atomic bool failed;   /* the device is lost: the process is about to be replaced */
    _Atomic size_t body_bytes;
    _Atomic size_t ring_busy; /* requests of the ring that are under way */
    _Atomic uint64_t device_failures;
} serve_server;

/* Whether clients should send inferences. */
bool serve_ready(serve_server *server);

#endif
