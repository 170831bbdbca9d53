/*
 * supervise.c - see supervise.h. One thread, no locks: everything comes in through poll.
 */
#include "serve/supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

enum { MAX_UNLOADED = 1024 };
static const uint64_t FIRST_PAUSE_NS = 100000000u, LONGEST_PAUSE_NS = 10000000000u, STABLE_NS = 60000000000u;

void serve_tell(int parent, char what, const char *text)
{
    char message[600];
    int n = snprintf(message, sizeof message, "%c%s", what, text);
    if (parent >= 0 && n > 0) {
        ssize_t sent = send(parent, message, (size_t)n < sizeof message ? (size_t)n : sizeof message - 1, MSG_NOSIGNAL);
        (void)sent; /* a supervisor that is gone does not care */
    }
}

void serve_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof address.sun_path) {
        return;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (path[0] == '@') {
        address.sun_path[0] = 0;
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
        ssize_t sent = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, length);
        (void)sent;
        close(fd);
    }
}

typedef struct supervisor {
    const serve_options *options;
    serve_sockets sockets;
    reef_status (*worker)(const serve_options *options, const serve_sockets *sockets, int parent,
                          const serve_heritage *heritage, reef_error *error);
    reef_error *error;
    sigset_t mask, previous;
    int signals;
    pid_t pid;
    int link; /* to the worker */
    bool ready, ever_ready, ending;
    bool told; /* the error is the worker's own words */
    uint64_t started_ns, pause_ns;
    char *unloaded[MAX_UNLOADED];
    size_t n_unloaded;
} supervisor;

/* In the child. */
static _Noreturn void be_worker(supervisor *s, int link)
{
    reef_error error = {0};
    close(s->signals);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    serve_heritage heritage = {(const char *const *)s->unloaded, s->n_unloaded};
    reef_status status = s->worker(s->options, &s->sockets, link, &heritage, &error);
    if (status) {
        char text[600];
        snprintf(text, sizeof text, "%c%s", (char)('A' + (int)status), error.message);
        serve_tell(link, 'E', text);
    }
    _exit(status == REEF_OK ? 0 : status == REEF_DEVICE ? SERVE_EXIT_DEVICE : 1);
}

static reef_status start(supervisor *s)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
        return reef_fail(s->error, REEF_IO, "no socket to the worker: %s", strerror(errno));
    }
    s->pid = fork();
    if (s->pid == 0) {
        close(pair[0]);
        be_worker(s, pair[1]);
    }
    close(pair[1]);
    if (s->pid < 0) {
        close(pair[0]);
        return reef_fail(s->error, REEF_NO_MEMORY, "no process for the worker: %s", strerror(errno));
    }
    s->link = pair[0];
    s->ready = s->told = false;
    s->started_ns = reef_now_ns();
    return REEF_OK;
}

static void remember(supervisor *s, const char *name, bool unloaded)
{
    for (size_t i = 0; i < s->n_unloaded; i++) {
        if (!strcmp(s->unloaded[i], name)) {
            if (!unloaded) {
                free(s->unloaded[i]);
                s->unloaded[i] = s->unloaded[--s->n_unloaded];
            }
            return;
        }
    }
    if (unloaded && s->n_unloaded < MAX_UNLOADED && (s->unloaded[s->n_unloaded] = strdup(name))) {
        s->n_unloaded++;
    }
}

static void hear(supervisor *s)
{
    char message[600];
    ssize_t n;
    while ((n = recv(s->link, message, sizeof message - 1, MSG_DONTWAIT)) > 0) {
        message[n] = 0;
        if (message[0] == 'R') {
            serve_notify(s->ever_ready ? "STATUS=restarted" : "READY=1");
            s->ready = s->ever_ready = true;
        } else if (message[0] == 'L' || message[0] == 'U') {
            remember(s, message + 1, message[0] == 'U');
        } else if (message[0] == 'E' && message[1] == (char)('A' + (int)REEF_DEVICE) && s->ever_ready) {
            fprintf(stderr, "level=error event=worker text=\"%s\"\n",
                    message + 2); /* the next one may have more luck */
        } else if (message[0] == 'E' && message[1] > 'A') {
            s->told = true;
            reef_error_set(s->error, (reef_status)(message[1] - 'A'), "%s", message + 2);
        }
    }
}

/* The worker has ended: what to return, or -1 to start another after s->pause_ns. */
static int on_end(supervisor *s, int how)
{
    hear(s);
    close(s->link);
    s->link = -1;
    s->pid = 0;
    if (WIFEXITED(how) && WEXITSTATUS(how) == 0) {
        return REEF_OK;
    }
    if (s->told) {
        return (int)s->error->status;
    }
    if (s->ending || !s->ever_ready) {
        return (int)reef_fail(s->error, REEF_DEVICE, "the worker ended with %s %d before it %s",
                              WIFSIGNALED(how) ? "signal" : "exit status",
                              WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how),
                              s->ending ? "had answered every request" : "could serve");
    }
    bool stable = reef_now_ns() - s->started_ns > STABLE_NS;
    s->pause_ns = stable || !s->pause_ns               ? FIRST_PAUSE_NS
                  : 2 * s->pause_ns < LONGEST_PAUSE_NS ? 2 * s->pause_ns
                                                       : LONGEST_PAUSE_NS;
    fprintf(stderr, "level=error event=worker %s=%d restart_in_ms=%llu\n", WIFSIGNALED(how) ? "signal" : "status",
            WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how), (unsigned long long)(s->pause_ns / 1000000u));
    serve_notify("STATUS=restarting the worker");
    return -1;
}

static void on_signal(supervisor *s, const struct signalfd_siginfo *info)
{
    if (info->ssi_signo == SIGTERM || info->ssi_signo == SIGINT) {
        if (!s->ending) {
            serve_notify("STOPPING=1");
        }
        s->ending = true;
    }
    if (s->pid && info->ssi_signo != SIGCHLD) {
        kill(s->pid, info->ssi_signo == SIGINT ? SIGTERM : (int)info->ssi_signo);
    }
}

static reef_status loop(supervisor *s)
{
    uint64_t restart_ns = 0;
    reef_status status = start(s);
    while (!status) {
        struct pollfd fds[] = {{.fd = s->signals, .events = POLLIN}, {.fd = s->pid ? s->link : -1, .events = POLLIN}};
        uint64_t now = reef_now_ns();
        int ms = s->pid ? -1 : restart_ns > now ? (int)((restart_ns - now) / 1000000u) + 1 : 0;
        poll(fds, 2, ms);
        struct signalfd_siginfo info;
        while (read(s->signals, &info, sizeof info) == (ssize_t)sizeof info) {
            on_signal(s, &info);
        }
        if (s->pid && fds[1].revents) {
            hear(s);
        }
        int how;
        if (s->pid && waitpid(s->pid, &how, WNOHANG) == s->pid) {
            int result = on_end(s, how);
            if (result >= 0) {
                return (reef_status)result;
            }
            restart_ns = reef_now_ns() + s->pause_ns;
        }
        if (!s->pid && s->ending) {
            return REEF_OK;
        }
        if (!s->pid && reef_now_ns() >= restart_ns) {
            status = start(s);
        }
    }
    return status;
}

reef_status serve_supervise(const serve_options *options, const serve_sockets *sockets,
                            reef_status (*worker)(const serve_options *options, const serve_sockets *sockets,
                                                  int parent, const serve_heritage *heritage, reef_error *error),
                            reef_error *error)
{
    supervisor s = {.options = options, .sockets = *sockets, .worker = worker, .error = error, .link = -1};
    sigemptyset(&s.mask);
    sigaddset(&s.mask, SIGTERM);
    sigaddset(&s.mask, SIGINT);
    sigaddset(&s.mask, SIGHUP);
    sigaddset(&s.mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &s.mask, &s.previous);
    s.signals = signalfd(-1, &s.mask, SFD_CLOEXEC | SFD_NONBLOCK);
    reef_status status = s.signals < 0 ? reef_fail(error, REEF_IO, "no signalfd: %s", strerror(errno)) : loop(&s);
    if (s.signals >= 0) {
        close(s.signals);
    }
    sigprocmask(SIG_SETMASK, &s.previous, NULL);
    for (size_t i = 0; i < s.n_unloaded; i++) {
        free(s.unloaded[i]);
    }
    return status;
}
