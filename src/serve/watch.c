/*
 * watch.c - see watch.h.
 *
 * Peers live in a fixed table, so that the crash handler can walk it without a lock, and so that an event of a connection
 * that is gone is told from one of its successor (by the generation).
 */
#include "serve/watch.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "serve/prompt.h"

enum { EVENTS = 64, SLOWEST_BYTES_PER_S = 65536 };
static const uint64_t LOOK_NS = 500000000u;

struct serve_peer {
    serve_watch *watch;
    _Atomic int fd; /* -1: free slot */
    _Atomic serve_phase phase;
    uint32_t generation;
    bool left;
    _Atomic bool plain, owed; /* errors can be written as they are; an answer that took work is not yet sent */
    uint64_t since_ns, bytes; /* since_ns: read from the clock under the lock */
    serve_call *call;
    char address[64];
};

struct serve_watch {
    serve_server *server;
    pthread_t thread;
    int epoll, wake;
    pthread_mutex_t lock; /* guards the table but for what is atomic, which is also read without */
    serve_peer *peers;
    size_t n_slots, n_peers;
    size_t first;             /* where enforce looks first for idle connections: not always at the same */
    _Atomic uint64_t next_ns; /* when the thread looks next */
    _Atomic bool stop, try_device;
};

/* ---------------------------------------------------------------------------------------------------- crashes -- */

static serve_watch *_Atomic crash_watch;
static const char crash_answer[] =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nContent-Length: 82\r\n"
    "Connection: close\r\n\r\n"
    "{\"error\":\"the server's worker process crashed; it is restarting, ask again soon\"}\n";

static const char end_answer[] =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nContent-Length: 74\r\n"
    "Connection: close\r\n\r\n"
    "{\"error\":\"the server ended before this request had an answer; ask again\"}\n";

/* Only system calls. Nothing can be said over TLS, whose state belongs to other threads: those clients see the connection end
 * when the process does, without TLS's own farewell, so they cannot take it for the end of an answer. */
static void answer_all(serve_watch *watch, const char *answer, size_t bytes)
{
    for (size_t i = 0; i < watch->n_slots; i++) {
        int fd = atomic_load(&watch->peers[i].fd);
        if (fd >= 0 && watch->peers[i].plain && atomic_load(&watch->peers[i].phase) == SERVE_WORKING) {
            ssize_t n = send(fd, answer, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
            (void)n;
            shutdown(fd, SHUT_WR);
        }
    }
}

void serve_watch_abandon(serve_watch *watch)
{
    answer_all(watch, end_answer, sizeof end_answer - 1);
}

/* Whoever waits for an answer is told that none will come. */
static void on_crash(int number)
{
    serve_watch *watch = atomic_exchange(&crash_watch, NULL);
    if (watch) {
        answer_all(watch, crash_answer, sizeof crash_answer - 1);
    }
    signal(number, SIG_DFL);
    raise(number);
}

static void catch_crashes(serve_watch *watch)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    static const int signals[] = {SIGSEGV, SIGABRT, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        struct sigaction action = {.sa_handler = on_crash, .sa_flags = SA_NODEFER};
        sigemptyset(&action.sa_mask);
        sigaction(signals[i], &action, NULL);
    }
#else
    (void)on_crash; /* the sanitizers' reports come first */
#endif
    atomic_store(&crash_watch, watch);
}

/* ------------------------------------------------------------------------------------------------------ peers -- */

serve_peer *serve_peer_add(serve_watch *watch, int fd, bool plain, const char *address)
{
    serve_peer *peer = NULL;
    pthread_mutex_lock(&watch->lock);
    for (size_t i = 0; !peer && i < watch->n_slots; i++) {
        peer = atomic_load(&watch->peers[i].fd) < 0 ? &watch->peers[i] : NULL;
    }
    if (peer) {
        peer->generation++;
        peer->plain = plain;
        peer->left = false;
        peer->call = NULL;
        peer->since_ns = reef_now_ns();
        peer->bytes = 0;
        snprintf(peer->address, sizeof peer->address, "%s", address);
        atomic_store(&peer->phase, SERVE_IDLE);
        atomic_store(&peer->owed, false);
        atomic_store(&peer->fd, fd);
        watch->n_peers++;
        struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET,
                                    .data.u64 = (uint64_t)peer->generation << 32 | (uint64_t)(peer - watch->peers)};
        epoll_ctl(watch->epoll, EPOLL_CTL_ADD, fd, &event);
    }
    pthread_mutex_unlock(&watch->lock);
    return peer;
}

void serve_peer_remove(serve_peer *peer)
{
    if (!peer) {
        return;
    }
    serve_watch *watch = peer->watch;
    pthread_mutex_lock(&watch->lock);
    epoll_ctl(watch->epoll, EPOLL_CTL_DEL, atomic_load(&peer->fd), NULL);
    atomic_store(&peer->fd, -1);
    watch->n_peers--;
    pthread_mutex_unlock(&watch->lock);
}

const char *serve_peer_address(const serve_peer *peer)
{
    return peer ? peer->address : "-";
}

void serve_peer_phase(serve_peer *peer, serve_phase phase, uint64_t bytes)
{
    if (peer) {
        pthread_mutex_lock(&peer->watch->lock);
        peer->since_ns = reef_now_ns();
        peer->bytes = bytes;
        atomic_store(&peer->owed, phase == SERVE_WORKING || (phase == SERVE_SENDING && atomic_load(&peer->owed)));
        atomic_store(&peer->phase, phase);
        pthread_mutex_unlock(&peer->watch->lock);
    }
}

bool serve_peer_call(serve_peer *peer, serve_call *call)
{
    bool there = true;
    if (peer) {
        pthread_mutex_lock(&peer->watch->lock);
        peer->call = call;
        there = !peer->left;
        pthread_mutex_unlock(&peer->watch->lock);
    }
    return there;
}

size_t serve_watch_peers(serve_watch *watch)
{
    pthread_mutex_lock(&watch->lock);
    size_t n = watch->n_peers;
    pthread_mutex_unlock(&watch->lock);
    return n;
}

size_t serve_watch_busy(serve_watch *watch)
{
    size_t n = 0;
    for (size_t i = 0; i < watch->n_slots; i++) {
        n += atomic_load(&watch->peers[i].fd) >= 0 && atomic_load(&watch->peers[i].owed);
    }
    return n;
}

size_t serve_watch_working(serve_watch *watch)
{
    size_t n = 0;
    for (size_t i = 0; i < watch->n_slots; i++) {
        n += atomic_load(&watch->peers[i].fd) >= 0 && atomic_load(&watch->peers[i].phase) == SERVE_WORKING;
    }
    return n;
}

void serve_watch_cancel(serve_watch *watch)
{
    pthread_mutex_lock(&watch->lock);
    for (size_t i = 0; i < watch->n_slots; i++) {
        serve_peer *peer = &watch->peers[i];
        if (atomic_load(&peer->fd) >= 0 && peer->call) {
            serve_call_cancel(peer->call);
        }
    }
    pthread_mutex_unlock(&watch->lock);
}

static void on_left(serve_watch *watch, uint64_t which)
{
    serve_peer *peer = &watch->peers[which & UINT32_MAX];
    pthread_mutex_lock(&watch->lock);
    if (peer->generation == which >> 32 && atomic_load(&peer->fd) >= 0) {
        peer->left = true;
        if (atomic_load(&peer->phase) <= SERVE_RECEIVING) {
            peer->since_ns = reef_now_ns();
        }
        if (peer->call) {
            serve_call_cancel(peer->call);
        }
    }
    pthread_mutex_unlock(&watch->lock);
}

/* ----------------------------------------------------------------------------------------------------- limits -- */

static void cut_off(serve_peer *peer, serve_phase phase)
{
    static const char late[] = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
                               "Content-Length: 48\r\n\r\n{\"error\":\"the request took too long to arrive\"}\n";
    int fd = atomic_load(&peer->fd);
    if (phase == SERVE_RECEIVING && peer->plain) {
        ssize_t n = send(fd, late, sizeof late - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)n;
    }
    shutdown(fd, SHUT_RDWR);
    serve_log_line(peer->watch->server->log, SERVE_LOG_INFO, "cut_off", "peer=%s phase=%s", peer->address,
                   phase == SERVE_RECEIVING ? "receiving"
                   : phase == SERVE_SENDING ? "sending"
                                            : "idle");
}

/* Closes who is over a limit. When connections run out, room is made where nothing has been asked for some time. */
static void enforce(serve_watch *watch)
{
    const serve_options *options = &watch->server->options;
    pthread_mutex_lock(&watch->lock);
    uint64_t now =
        reef_now_ns(); /* under the lock, as every since_ns: none is later, and differences are not negative */
    bool full = watch->n_peers >= options->max_connections - options->max_connections / 16;
    size_t spare = full ? options->max_connections / 4 + 1 : 0;
    for (size_t i = 0; watch->n_peers && i < watch->n_slots; i++) {
        serve_peer *peer = &watch->peers[(i + watch->first) % watch->n_slots];
        serve_phase phase = atomic_load(&peer->phase);
        if (atomic_load(&peer->fd) < 0 || phase == SERVE_WORKING) {
            continue;
        }
        uint64_t limit_s = phase == SERVE_IDLE        ? options->idle_s
                           : phase == SERVE_RECEIVING ? options->receive_s
                                                      : options->send_s;
        limit_s = peer->left && phase != SERVE_SENDING
                      ? 1
                      : limit_s + peer->bytes / SLOWEST_BYTES_PER_S; /* no more will come */
        bool over = now - peer->since_ns > limit_s * 1000000000u;
        if (over || (spare && phase == SERVE_IDLE && now - peer->since_ns > LOOK_NS)) {
            cut_off(peer, phase);
            peer->since_ns = now; /* its owner closes it; once is enough */
            spare -= !over;
            watch->first = over ? watch->first : (i + watch->first + 1) % watch->n_slots;
        }
    }
    pthread_mutex_unlock(&watch->lock);
}

/* ----------------------------------------------------------------------------------------------------- device -- */

typedef struct trial {
    serve_model *smallest;
} trial;

static void consider(void *context, const serve_entry_view *entry)
{
    trial *t = context;
    if (entry->model && (!t->smallest || entry->model->solo_ns < t->smallest->solo_ns)) {
        t->smallest = entry->model;
    }
}

/* Whether an inference of zeros still works: the engine sets a device up anew where that is possible. */
static bool device_works(serve_server *server)
{
    trial t = {0};
    serve_repository_each(server->repository, consider, &t);
    reef_error error;
    serve_model *model = NULL;
    if (!t.smallest) {
        return reef_device_health(server->device, &error) == REEF_OK;
    }
    if (serve_repository_find(server->repository, t.smallest->name, t.smallest->version, &model, &error)) {
        return true; /* just unloaded: the next failure asks again */
    }
    size_t bytes = 64;
    const void *inputs[SERVE_MAX_TENSORS];
    reef_tensor_info info;
    for (size_t i = 0; reef_model_input(model->variants[0].model, i, &info); i++) {
        bytes = info.bytes > bytes ? info.bytes : bytes;
    }
    void *zeros = calloc(1, bytes);
    for (size_t i = 0; i < SERVE_MAX_TENSORS; i++) {
        inputs[i] = zeros;
    }
    bool works = false;
    for (int i = 0; zeros && !works && i < 3; i++) {
        works = reef_session_run(model->variants[0].sessions[REEF_RT], inputs, NULL, NULL) != REEF_DEVICE;
    }
    free(zeros);
    serve_model_drop(model);
    return works;
}

static void try_device(serve_server *server)
{
    reef_error error = {0};
    if (device_works(server)) {
        serve_log_line(server->log, SERVE_LOG_WARNING, "device", "state=recovered");
        return;
    }
    reef_device_health(server->device, &error);
    char quoted[512];
    atomic_store(&server->failed, true);
    serve_log_line(server->log, SERVE_LOG_ERROR, "device", "state=lost error=%s",
                   serve_log_quote(error.message, quoted, sizeof quoted));
    kill(getpid(), SIGUSR1); /* server.c ends the process; the supervisor starts another */
}

void serve_watch_device(serve_watch *watch)
{
    atomic_fetch_add(&watch->server->device_failures, 1);
    if (!atomic_exchange(&watch->try_device, true)) {
        eventfd_write(watch->wake, 1);
    }
}

void serve_watch_deadline(serve_watch *watch, uint64_t deadline_ns)
{
    uint64_t next = atomic_load(&watch->next_ns);
    while (deadline_ns < next) {
        if (atomic_compare_exchange_weak(&watch->next_ns, &next, deadline_ns)) {
            eventfd_write(watch->wake, 1);
            return;
        }
    }
}

/* ------------------------------------------------------------------------------------------------- the thread -- */

static void *watch_main(void *context)
{
    serve_watch *watch = context;
    serve_prompt();
    struct epoll_event events[EVENTS];
    uint64_t look = reef_now_ns() + LOOK_NS;
    while (!atomic_load(&watch->stop)) {
        /* A deadline that is submitted from here on is either seen by reef_device_expire, or sees look and wakes us. */
        atomic_store(&watch->next_ns, look);
        uint64_t deadline = reef_device_expire(watch->server->device);
        uint64_t now = reef_now_ns(), next = atomic_load(&watch->next_ns);
        next = deadline < next ? deadline : next;
        atomic_store(&watch->next_ns, next);
        int ms = next > now ? (int)((next - now) / 1000000u) + 1 : 0;
        int n = epoll_wait(watch->epoll, events, EVENTS, ms);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == UINT64_MAX) {
                eventfd_t count;
                eventfd_read(watch->wake, &count);
            } else {
                on_left(watch, events[i].data.u64);
            }
        }
        now = reef_now_ns();
        if (now >= look) {
            enforce(watch);
            look = now + LOOK_NS;
        }
        if (atomic_exchange(&watch->try_device, false) && !atomic_load(&watch->server->failed)) {
            try_device(watch->server);
        }
    }
    return NULL;
}

reef_status serve_watch_create(serve_server *server, serve_watch **out, reef_error *error)
{
    serve_watch *watch = calloc(1, sizeof *watch);
    if (!watch) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    watch->server = server;
    watch->n_slots = server->options.max_connections + server->options.max_connections / 16 + 16;
    watch->peers = calloc(watch->n_slots, sizeof *watch->peers);
    watch->epoll = epoll_create1(EPOLL_CLOEXEC);
    watch->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&watch->lock, NULL);
    for (size_t i = 0; watch->peers && i < watch->n_slots; i++) {
        atomic_init(&watch->peers[i].fd, -1);
        watch->peers[i].watch = watch;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
    if (!watch->peers || watch->epoll < 0 || watch->wake < 0 ||
        epoll_ctl(watch->epoll, EPOLL_CTL_ADD, watch->wake, &event) ||
        pthread_create(&watch->thread, NULL, watch_main, watch)) {
        reef_error_set(error, REEF_NO_MEMORY, "the watching thread cannot be started: %s", strerror(errno));
        close(watch->epoll);
        close(watch->wake);
        free(watch->peers);
        free(watch);
        return REEF_NO_MEMORY;
    }
    catch_crashes(watch);
    *out = watch;
    return REEF_OK;
}

void serve_watch_destroy(serve_watch *watch)
{
    if (!watch) {
        return;
    }
    atomic_store(&crash_watch, NULL);
    atomic_store(&watch->stop, true);
    eventfd_write(watch->wake, 1);
    pthread_join(watch->thread, NULL);
    close(watch->epoll);
    close(watch->wake);
    pthread_mutex_destroy(&watch->lock);
    free(watch->peers);
    free(watch);
}
