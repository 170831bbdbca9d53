/*
 * server.c - puts the server together, waits for signals, and takes it apart in order.
 */
#include "serve/server.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "serve/access.h"
#include "serve/exchange.h"
#include "serve/http.h"
#include "serve/ring.h"
#include "serve/supervise.h"

enum { CANCEL_S = 2 }; /* how long requests that are cancelled may take to end */

void serve_options_default(serve_options *options)
{
    *options = (serve_options){
        .max_request_bytes = 64u << 20,
        .max_json_bytes = 16u << 20,
        .max_memory_bytes = (size_t)1 << 30,
        .max_ring_bytes = 64u << 20,
        .max_connections = 4096,
        .http_threads = 2,
        .max_ring_clients = 64,
        .queue_limit = 256,
        .idle_s = 75,
        .receive_s = 30,
        .send_s = 30,
        .drain_s = 30,
        .ring_spin_us = 50,
        .slice_us = SERVE_SLICE_AUTO,
        .log_level = SERVE_LOG_INFO,
        .supervise = true,
    };
}

/* ---------------------------------------------------------------------------------------------------- sockets -- */

/* "HOST:PORT", "[HOST]:PORT". */
static reef_status split_address(const char *text, char *host, size_t size, const char **port, reef_error *error)
{
    const char *colon = strrchr(text, ':');
    bool brackets = text[0] == '[' && colon && colon > text + 1 && colon[-1] == ']';
    size_t length = colon ? (size_t)(colon - text) - 2 * brackets : 0;
    if (!colon || !colon[1] || strspn(colon + 1, "0123456789") != strlen(colon + 1) || strlen(colon + 1) > 5 ||
        strtoul(colon + 1, NULL, 10) > 65535 || length == 0 || length >= size) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "--listen: '%s' is not HOST:PORT, such as 127.0.0.1:8000", text);
    }
    memcpy(host, text + brackets, length);
    host[length] = 0;
    *port = colon + 1;
    return REEF_OK;
}

static reef_status listen_http(const char *text, int *out, reef_error *error)
{
    char host[256];
    const char *port;
    reef_status status = split_address(text, host, sizeof host, &port, error);
    if (status) {
        return status;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
    int code = getaddrinfo(host, port, &hints, &found);
    if (code) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "--listen: %s: %s", text, gai_strerror(code));
    }
    int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    bool ok = fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) &&
              !setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) &&
              !bind(fd, found->ai_addr, found->ai_addrlen) && !listen(fd, 1024);
    int why = errno;
    freeaddrinfo(found);
    if (!ok) {
        if (fd >= 0) {
            close(fd);
        }
        return reef_fail(error, REEF_IO, "--listen: %s: %s", text, strerror(why));
    }
    *out = fd;
    return REEF_OK;
}

typedef union any_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} any_address;

static any_address address_of(int fd)
{
    any_address address = {.v6 = {.sin6_family = AF_UNSPEC}};
    socklen_t length = sizeof address;
    if (getsockname(fd, &address.any, &length)) {
        address.any.sa_family = AF_UNSPEC;
    }
    return address;
}

static unsigned port_of(int fd)
{
    any_address address = address_of(fd);
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static bool is_loopback(int fd)
{
    any_address address = address_of(fd);
    return address.any.sa_family == AF_INET6 ? IN6_IS_ADDR_LOOPBACK(&address.v6.sin6_addr)
                                             : ntohl(address.v4.sin_addr.s_addr) >> 24 == 127;
}

/* ----------------------------------------------------------------------------------------------------- worker -- */

static void on_report(void *context, const char *name, const char *version, serve_state state, const char *text)
{
    serve_server *server = context;
    char quoted[600];
    serve_level level =
        *text && state != SERVE_UNLOADING && strcmp(text, "unloaded") != 0 ? SERVE_LOG_WARNING : SERVE_LOG_INFO;
    serve_log_line(server->log, level, "model", "name=%s version=%s state=%s%s%s", name, *version ? version : "-",
                   serve_state_name(state), *text ? " reason=" : "",
                   *text ? serve_log_quote(text, quoted, sizeof quoted) : "");
}

static void on_pinned(void *context, const char *name, bool loaded)
{
    serve_tell(((serve_server *)context)->parent, loaded ? 'L' : 'U', name);
}

/* Files for connections: as many as there may be. */
static void raise_limits(const serve_options *options)
{
    struct rlimit limit;
    rlim_t wanted = options->max_connections * (rlim_t)2 + 1024;
    if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < wanted) {
        limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Opens the device with the time slice that was asked for. Only a device without time slices is an error, and only where
 * one was asked for; what a driver refuses is logged, and everything runs with its own slices. */
static reef_status open_device(serve_server *server, reef_error *error)
{
    const serve_options *options = &server->options;
    bool chosen = options->slice_us != SERVE_SLICE_AUTO;
    reef_device_options device = {
        .policy = options->policy,
        .units = options->units,
        .slice_us = chosen ? options->slice_us : SERVE_SLICE_US,
    };
    reef_error why;
    uint32_t us;
    reef_status status = reef_device_open(options->device, &device, &server->device, &why);
    if (status == REEF_UNSUPPORTED && device.slice_us) { /* was it the slice? */
        device.slice_us = 0;
        status = reef_device_open(options->device, &device, &server->device, error);
        if (!status && chosen) {
            reef_device_close(server->device);
            server->device = NULL;
            return reef_fail(error, REEF_UNSUPPORTED, "--slice: %s; leave the option out, or serve on a GPU (--device)",
                             why.message);
        }
        return status;
    }
    if (status) {
        *error = why;
    } else if (device.slice_us && reef_device_slice(server->device, &us, &why)) {
        char quoted[512];
        serve_log_line(server->log, SERVE_LOG_WARNING, "slice", "state=refused wanted_us=%u error=%s", device.slice_us,
                       serve_log_quote(why.message, quoted, sizeof quoted));
    } else if (device.slice_us) {
        serve_log_line(server->log, SERVE_LOG_INFO, "slice", "state=set us=%u", (unsigned)us);
    }
    return status;
}

static reef_status open_parts(serve_server *server, const serve_sockets *sockets, const serve_heritage *heritage,
                              reef_error *error)
{
    const serve_options *options = &server->options;
    reef_status status = serve_access_load(options, &server->access, error);
    if (!status) {
        server->shm = serve_shm_create(options->shm_prefix);
        server->log = serve_log_create(STDERR_FILENO, options->log_level);
        status = server->shm && server->log ? REEF_OK : reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    if (!status && options->timeline) {
        int fd = open(options->timeline, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd < 0) {
            return reef_fail(error, REEF_IO, "--timeline: %s: %s", options->timeline, strerror(errno));
        }
        server->timeline_fd = fd;
        server->timeline = serve_log_create(fd, SERVE_LOG_REQUESTS);
        status = server->timeline ? REEF_OK : reef_fail(error, REEF_NO_MEMORY, "out of memory");
        if (lseek(fd, 0, SEEK_END) == 0) {
            serve_log_raw(server->timeline, "[\n", 2); /* the viewer does not ask for the closing bracket */
        }
    }
    status = status ? status : open_device(server, error);
    status = status ? status : serve_watch_create(server, &server->watch, error);
    status = status ? status : serve_helpers_create(2, &server->helpers, error);
    status = status || options->no_hints ? status : serve_hints_create(&server->hints, error);
    if (!status) {
        serve_repository_options repository = {
            .device = server->device,
            .folder = options->models,
            .queue_limit = options->queue_limit,
            .precision = options->precision,
            .cache_dir = options->cache_dir,
            .report = on_report,
            .pinned = on_pinned,
            .context = server,
            .unloaded = heritage->unloaded,
            .n_unloaded = heritage->n_unloaded,
        };
        status = serve_repository_create(&repository, &server->repository, error);
    }
    if (!status && sockets->ring >= 0) {
        status = serve_ring_start(server, sockets->ring, &server->ring, error);
    }
    return status ? status : serve_http_start(server, sockets->http, &server->http, error);
}

static void close_parts(serve_server *server)
{
    int timeline = server->timeline_fd;
    serve_http_stop(server->http);
    serve_ring_stop(server->ring);
    serve_hints_destroy(server->hints);
    serve_repository_destroy(server->repository);
    serve_helpers_destroy(server->helpers);
    serve_watch_destroy(server->watch);
    serve_shm_destroy(server->shm);
    reef_device_close(server->device);
    serve_log_destroy(server->timeline);
    if (timeline > 0) {
        close(timeline);
    }
    serve_log_destroy(server->log);
    serve_access_free(&server->access);
}

/* Ends what is under way, up to the limit. Who connects meanwhile is told that the server ends (503): the listener stays open,
 * because MHD_quiesce_daemon may abort the process when one of its threads wakes at the same moment (0.9.75). */
static size_t busy(serve_server *server)
{
    return serve_watch_busy(server->watch) + atomic_load(&server->ring_busy);
}

static size_t working(serve_server *server)
{
    return serve_watch_working(server->watch);
}

static size_t wait_for_none(serve_server *server, size_t (*left)(serve_server *server), unsigned seconds)
{
    uint64_t until = reef_now_ns() + seconds * (uint64_t)1000000000u;
    size_t n;
    while ((n = left(server)) && reef_now_ns() < until) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return n;
}

/* false: some will have no answer, and the HTTP server cannot be stopped. */
static bool drain(serve_server *server)
{
    atomic_store(&server->draining, true);
    serve_log_line(server->log, SERVE_LOG_INFO, "drain", "busy=%zu", busy(server));
    size_t left = wait_for_none(server, busy, server->options.drain_s);
    if (left) {
        serve_log_line(server->log, SERVE_LOG_WARNING, "drain", "cancelled=%zu limit_s=%u", left,
                       server->options.drain_s);
        serve_watch_cancel(server->watch);
        wait_for_none(server, busy, CANCEL_S); /* those of the ring are cancelled when it stops */
    }
    atomic_store(&server->closed, true); /* before this looks: see serve_exchange_suspend */
    return wait_for_none(server, working, CANCEL_S) == 0;
}

/* Until SIGTERM, or until the device is lost (SIGUSR1 from watch.c). */
static reef_status wait_for_signals(serve_server *server, int signals)
{
    for (;;) {
        struct signalfd_siginfo info;
        if (read(signals, &info, sizeof info) != (ssize_t)sizeof info) {
            continue;
        }
        if (info.ssi_signo == SIGHUP) {
            reef_error error;
            serve_log_line(server->log, SERVE_LOG_INFO, "rescan", "folder=%s", server->options.models);
            serve_repository_submit(server->repository, SERVE_RESCAN, NULL, NULL, NULL, &error);
        } else if (info.ssi_signo == SIGUSR1) {
            return atomic_load(&server->failed) ? REEF_DEVICE : REEF_OK;
        } else {
            return REEF_OK;
        }
    }
}

static reef_status work(const serve_options *options, const serve_sockets *sockets, int parent,
                        const serve_heritage *heritage, reef_error *error)
{
    serve_server server = {.options = *options, .parent = parent, .start_ns = reef_now_ns()};
    struct timespec now;
    sigset_t mask;
    clock_gettime(CLOCK_REALTIME, &now);
    server.start_ms = (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGHUP);
    sigaddset(&mask, SIGUSR1);
    sigprocmask(SIG_BLOCK, &mask, NULL); /* every thread inherits it */
    int signals = signalfd(-1, &mask, SFD_CLOEXEC);
    raise_limits(options);
    serve_json_setup();
    reef_status status = signals < 0 ? reef_fail(error, REEF_IO, "no signalfd: %s", strerror(errno))
                                     : open_parts(&server, sockets, heritage, error);
    if (!status) {
        serve_log_line(server.log, SERVE_LOG_INFO, "listening",
                       "address=%s port=%u tls=%d token=%d ring=%s pid=%d device=%s", options->listen,
                       port_of(sockets->http), server.access.certificate != NULL, server.access.token != NULL,
                       options->ring ? options->ring : "-", (int)getpid(), options->device);
        if (!server.access.token && !is_loopback(sockets->http)) {
            serve_log_line(
                server.log, SERVE_LOG_WARNING, "access",
                "text=\"anybody who reaches this address may use the server; see --token-file and --tls-cert\"");
        }
        serve_tell(parent, 'R', "");
        if (parent < 0) {
            serve_notify("READY=1");
        }
        status = wait_for_signals(&server, signals);
        if (status == REEF_DEVICE) {
            reef_error_set(error, status, "the device is lost");
            /* Every request has its answer, 503, since the engine ended it; give the answers time to leave. */
            server.options.drain_s = 2;
        }
        bool answered = drain(&server);
        if (status == REEF_DEVICE || !answered) {
            serve_log_line(server.log, SERVE_LOG_ERROR, "exit", "text=\"%s\"",
                           status ? "the device is lost" : "some requests have no answer");
            serve_watch_abandon(server.watch);
            serve_log_destroy(server.log);
            _exit(status && parent >= 0 ? SERVE_EXIT_DEVICE
                                        : 1); /* a driver that lost its device may hang when closed */
        }
        serve_log_line(server.log, SERVE_LOG_INFO, "exit", "text=\"orderly\"");
    }
    close_parts(&server);
    if (signals >= 0) {
        close(signals);
    }
    return status;
}

reef_status serve_run(const serve_options *options, reef_error *error)
{
    serve_sockets sockets = {-1, -1};
    serve_access access;
    reef_status status = serve_access_load(options, &access, error); /* found out now rather than in a worker */
    if (status) {
        return status;
    }
    serve_access_free(&access);
    status = listen_http(options->listen, &sockets.http, error);
    if (!status && options->ring) {
        status = serve_ring_listen(options->ring, &sockets.ring, error);
    }
    if (!status) {
        static const serve_heritage nothing;
        signal(SIGPIPE, SIG_IGN);
        status = options->supervise ? serve_supervise(options, &sockets, work, error)
                                    : work(options, &sockets, -1, &nothing, error);
    }
    if (sockets.http >= 0 && options->supervise) {
        close(sockets.http);
    }
    if (sockets.ring >= 0) {
        unlink(options->ring);
        close(sockets.ring);
    }
    return status;
}
