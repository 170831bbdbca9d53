/*
 * ring.c - see ring.h: who comes and goes. One thread for all clients' control sockets.
 */
#include "serve/ring.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "serve/ring_client.h"

typedef struct seat {
    int fd; /* -1: free */
    pid_t pid;
    serve_ring_client *client; /* NULL until it said hello */
} seat;

struct serve_ring {
    serve_server *server;
    int listener, wake;
    pthread_t thread;
    _Atomic bool stop;
    seat *seats;
    struct pollfd *fds;
    size_t n_seats;
};

reef_status serve_ring_listen(const char *path, int *out, reef_error *error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof address.sun_path) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "--ring: %s: the path of a socket has 1 to %zu bytes", path,
                         sizeof address.sun_path - 1);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t before = umask(0177); /* 0600 from the first moment on */
    bool bound = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (fd >= 0 && !bound && errno == EADDRINUSE) {
        struct stat info;
        int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        bool stale = lstat(path, &info) == 0 && S_ISSOCK(info.st_mode) && probe >= 0 &&
                     connect(probe, (struct sockaddr *)&address, sizeof address) && errno == ECONNREFUSED;
        if (probe >= 0) {
            close(probe);
        }
        errno = EADDRINUSE;
        bound = stale && unlink(path) == 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    }
    int why = errno;
    umask(before);
    if (!bound || listen(fd, 128)) {
        if (fd >= 0) {
            close(fd);
        }
        return reef_fail(error, REEF_IO, "--ring: %s: %s", path, strerror(bound ? errno : why));
    }
    *out = fd;
    return REEF_OK;
}

static void forget(serve_ring *ring, seat *s, const char *why)
{
    serve_log_line(ring->server->log, SERVE_LOG_INFO, "ring", "state=left pid=%d why=\"%s\"", (int)s->pid, why);
    serve_ring_client_destroy(s->client);
    close(s->fd);
    *s = (seat){.fd = -1};
}

static void send_answer(const seat *s, const ring_answer *answer, int fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec io = {(void *)(uintptr_t)answer, sizeof *answer};
    struct msghdr out = {.msg_iov = &io, .msg_iovlen = 1};
    if (fd >= 0) {
        out.msg_control = control.bytes;
        out.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&out);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    ssize_t n = sendmsg(s->fd, &out, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)n; /* one that does not read its answers waits for ever, and nobody else does */
}

static void hello(serve_ring *ring, seat *s, const ring_message *message, ring_answer *answer, int *fd)
{
    reef_error error = {0};
    reef_status status =
        message->version != RING_VERSION
            ? reef_fail(&error, REEF_UNSUPPORTED, "the client speaks version %u of the ring, the server %d",
                        message->version, RING_VERSION)
            : serve_ring_client_create(ring->server, message->data_bytes, &s->client, fd, answer, &error);
    if (status) {
        answer->status = (uint32_t)status;
        snprintf(answer->message, sizeof answer->message, "%s", error.message);
    } else {
        serve_log_line(ring->server->log, SERVE_LOG_INFO, "ring", "state=joined pid=%d bytes=%llu", (int)s->pid,
                       (unsigned long long)message->data_bytes);
    }
}

/* A message has come, or the client has gone. */
static void serve_seat(serve_ring *ring, seat *s, ring_answer *answer)
{
    char bytes[sizeof(ring_message) + 1];
    ring_message message;
    ssize_t n = recv(s->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (n <= 0) {
        forget(ring, s, "closed");
        return;
    }
    const char *wrong = serve_ring_check_message(bytes, (size_t)n, &message);
    if (!wrong && (message.kind == RING_HELLO) != (s->client == NULL)) {
        wrong = "hello comes first, and once";
    }
    if (wrong) {
        forget(ring, s, wrong);
        return;
    }
    int fd = -1;
    memset(answer, 0, sizeof *answer);
    answer->magic = RING_MAGIC;
    if (message.kind == RING_HELLO) {
        hello(ring, s, &message, answer, &fd);
    } else if (message.kind == RING_OPEN) {
        serve_ring_client_open(s->client, &message, answer);
    } else {
        serve_ring_client_shut(s->client, message.model, answer);
    }
    send_answer(s, answer, fd);
    if (fd >= 0) {
        close(fd);
    }
}

static void take_seat(serve_ring *ring)
{
    int fd = accept4(ring->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct ucred who = {0};
    socklen_t length = sizeof who;
    if (fd < 0) {
        return;
    }
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length);
    for (size_t i = 0; i < ring->n_seats; i++) {
        if (ring->seats[i].fd < 0) {
            ring->seats[i] = (seat){.fd = fd, .pid = who.pid};
            return;
        }
    }
    ring_answer *full = calloc(1, sizeof *full);
    if (full) {
        *full =
            (ring_answer){.magic = RING_MAGIC, .status = REEF_QUEUE_FULL, .message = "too many clients of the ring"};
        send_answer(&(seat){.fd = fd}, full, -1);
    }
    free(full);
    close(fd);
}

static void *ring_main(void *context)
{
    serve_ring *ring = context;
    ring_answer *answer = malloc(sizeof *answer);
    while (answer && !atomic_load(&ring->stop)) {
        bool any = false;
        for (size_t i = 0; i < ring->n_seats; i++) {
            ring->fds[i] = (struct pollfd){.fd = ring->seats[i].fd, .events = POLLIN};
            any |= ring->seats[i].fd >= 0;
        }
        ring->fds[ring->n_seats] = (struct pollfd){.fd = ring->wake, .events = POLLIN};
        ring->fds[ring->n_seats + 1] = (struct pollfd){.fd = ring->listener, .events = POLLIN};
        poll(ring->fds, (nfds_t)ring->n_seats + 2, any ? 1000 : -1);
        for (size_t i = 0; i < ring->n_seats; i++) {
            seat *s = &ring->seats[i];
            if (s->fd >= 0 && s->client && serve_ring_client_broken(s->client)) {
                forget(ring, s, "it broke the rules of the ring");
            } else if (s->fd >= 0 && ring->fds[i].fd == s->fd && ring->fds[i].revents) {
                serve_seat(ring, s, answer);
            }
        }
        if (ring->fds[ring->n_seats + 1].revents && !atomic_load(&ring->stop)) {
            take_seat(ring);
        }
    }
    free(answer);
    for (size_t i = 0; i < ring->n_seats; i++) {
        if (ring->seats[i].fd >= 0) {
            forget(ring, &ring->seats[i], "the server ends");
        }
    }
    return NULL;
}

reef_status serve_ring_start(serve_server *server, int listener, serve_ring **out, reef_error *error)
{
    serve_ring *ring = calloc(1, sizeof *ring);
    if (!ring) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    ring->server = server;
    ring->listener = listener;
    ring->n_seats = server->options.max_ring_clients;
    ring->seats = calloc(ring->n_seats, sizeof *ring->seats);
    ring->fds = calloc(ring->n_seats + 2, sizeof *ring->fds);
    ring->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (size_t i = 0; ring->seats && i < ring->n_seats; i++) {
        ring->seats[i].fd = -1;
    }
    if (!ring->seats || !ring->fds || ring->wake < 0 || pthread_create(&ring->thread, NULL, ring_main, ring)) {
        if (ring->wake >= 0) {
            close(ring->wake);
        }
        free(ring->seats);
        free(ring->fds);
        free(ring);
        return reef_fail(error, REEF_NO_MEMORY, "the ring's thread cannot be started");
    }
    *out = ring;
    return REEF_OK;
}

void serve_ring_stop(serve_ring *ring)
{
    if (ring) {
        atomic_store(&ring->stop, true);
        eventfd_write(ring->wake, 1);
        pthread_join(ring->thread, NULL);
        close(ring->wake);
        free(ring->seats);
        free(ring->fds);
        free(ring);
    }
}
