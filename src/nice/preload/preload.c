/*
 * preload.c - libreef-nice.so: what `reef nice` puts under a program with LD_PRELOAD.
 *
 * It supplies ioctl(2), which libcuda calls whichever way the program reached it (static or shared CUDA runtime, PyTorch,
 * the driver API), and hands every call to groups.c. Children get it with the environment; after a fork without exec
 * the child's table is empty and its rule the parent's.
 *
 * In the environment: REEF_NICE="level 19" or "slice 50"; REEF_NICE_VERBOSE=1 says on standard error what is done.
 *
 * A process without channel groups (a shell, a compiler) pays for one comparison per ioctl and nothing else. The first
 * group starts a thread that sleeps on the control socket. Nothing here may disturb the program: errno is kept, signals are
 * blocked in the thread, and standard error is written only while it is the file that it was at the start.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "nice/control.h"
#include "nice/rm.h"

typedef int (*ioctl_function)(int fd, unsigned long request, ...);

enum { LOOK_AGAIN_S = 5 };

static struct {
    nice_groups groups;
    _Atomic(ioctl_function) next;
    bool verbose, has_stderr;
    nice_file standard_error;
    _Atomic uint64_t known_gpus; /* that this file has acted on; the first one starts the control socket */
    int listener;
    ino_t listener_inode;
    _Atomic uint64_t look_again_ns; /* when to count the company again; UINT64_MAX: when told */
    pthread_mutex_t claim_lock;     /* outermost; guards claimed */
    uint64_t claimed;               /* GPUs that the others have been told of */
    char path[NICE_PATH_MAX];       /* of the socket; empty: none */
} nice_preload = {.listener = -1, .look_again_ns = UINT64_MAX, .claim_lock = PTHREAD_MUTEX_INITIALIZER};
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* -------------------------------------------------------------------------------------------- the system -- */

static int next_ioctl(void *context, int fd, unsigned long request, void *argument)
{
    (void)context;
    ioctl_function next = atomic_load_explicit(&nice_preload.next, memory_order_relaxed);
    if (!next) {
        /* Whoever else stands before the C library is passed through too. */
        *(void **)&next = dlsym(RTLD_NEXT, "ioctl");
        if (!next) {
            return (int)syscall(SYS_ioctl, fd, request, argument);
        }
        atomic_store_explicit(&nice_preload.next, next, memory_order_relaxed);
    }
    return next(fd, request, argument);
}

/* One write, no allocation. */
static void say(void *context, bool always, const char *line)
{
    (void)context;
    char text[400];
    struct stat info;
    if ((!always && !nice_preload.verbose) || !nice_preload.has_stderr || fstat(STDERR_FILENO, &info) ||
        info.st_dev != nice_preload.standard_error.device || info.st_ino != nice_preload.standard_error.inode) {
        return;
    }
    int n = snprintf(text, sizeof text, "reef nice[%d]: %s\n", (int)getpid(), line);
    if (n > 0) {
        (void)!write(STDERR_FILENO, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
    }
}

/* --------------------------------------------------------------------------------------- the control socket -- */

static bool listener_is_ours(void)
{
    struct stat info;
    return fstat(nice_preload.listener, &info) == 0 && S_ISSOCK(info.st_mode) &&
           info.st_ino == nice_preload.listener_inode;
}

/* A slice so short that two programs with such would only switch to and fro. */
static bool is_short(nice_rule rule)
{
    return rule.slice_us && rule.slice_us < NICE_SHARED_US;
}

/* Says which GPUs we use with a short slice, if that has changed, and counts who else does. While somebody does, the count is
 * repeated now and then: a process that is killed says nothing. */
static void look_around(void)
{
    const struct timeval often = {.tv_sec = LOOK_AGAIN_S}, never = {0};
    nice_rule rule;
    nice_groups_list(&nice_preload.groups, NULL, 0, &rule);
    uint64_t gpus = is_short(rule) ? atomic_load_explicit(&nice_preload.known_gpus, memory_order_relaxed) : 0;
    pthread_mutex_lock(&nice_preload.claim_lock);
    bool changed = gpus != nice_preload.claimed;
    if (changed) {
        nice_claim(nice_preload.path, gpus);
        nice_preload.claimed = gpus;
    }
    bool company = gpus && nice_has_company(nice_preload.path, gpus);
    pthread_mutex_unlock(&nice_preload.claim_lock);
    nice_groups_share(&nice_preload.groups, company);
    if (listener_is_ours()) {
        setsockopt(nice_preload.listener, SOL_SOCKET, SO_RCVTIMEO, company ? &often : &never, sizeof often);
    }
    atomic_store_explicit(&nice_preload.look_again_ns,
                          company ? reef_now_ns() + LOOK_AGAIN_S * (uint64_t)1000000000u : UINT64_MAX,
                          memory_order_relaxed);
    if (changed) {
        nice_tell_others(nice_preload.path);
    }
}

static void *control_main(void *unused)
{
    bool look;
    /* A program that closes every descriptor closes this one too, and may get its number for a socket of its own. */
    while (listener_is_ours() && nice_serve(nice_preload.listener, &nice_preload.groups, &look)) {
        if (look || reef_now_ns() >= atomic_load_explicit(&nice_preload.look_again_ns, memory_order_relaxed)) {
            look_around();
        }
    }
    return unused;
}

static void start_control(void)
{
    reef_error error;
    struct stat info;
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    char line[600];
    nice_preload.listener = nice_listen(nice_preload.path, &error);
    if (nice_preload.listener < 0 || fstat(nice_preload.listener, &info)) {
        nice_preload.path[0] = 0;
        snprintf(line, sizeof line, "no control socket: %s", error.message);
        say(NULL, false, line);
        return;
    }
    nice_preload.listener_inode = info.st_ino;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attributes, control_main, NULL)) {
        unlink(nice_preload.path);
        nice_preload.path[0] = 0;
        close(nice_preload.listener);
        nice_preload.listener = -1;
        say(NULL, false, "no control socket: a thread cannot be started");
    } else {
        pthread_setname_np(thread, "reef-nice");
    }
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* --------------------------------------------------------------------------------------------- life and death -- */

static void in_child(void)
{
    if (nice_preload.listener >= 0 && listener_is_ours()) {
        close(nice_preload.listener);
    }
    nice_preload.listener = -1;
    pthread_mutex_init(&nice_preload.claim_lock, NULL);
    nice_preload.claimed = 0;
    nice_preload.path[0] = 0; /* the parent's name stays the parent's */
    atomic_store(&nice_preload.known_gpus, 0);
    nice_groups_forget(&nice_preload.groups);
}

/* pthread_atfork sees fork; a bare clone is seen here. */
static void notice_copy(void)
{
    if (nice_groups_copied(&nice_preload.groups)) {
        in_child();
    }
}

static void set_up(void)
{
    static const nice_system system = {.ioctl = next_ioctl, .is_control_node = nice_is_control_node, .say = say};
    struct stat info;
    const char *text = getenv("REEF_NICE"), *verbose = getenv("REEF_NICE_VERBOSE");
    nice_rule rule = {0};
    nice_preload.verbose = verbose && strcmp(verbose, "1") == 0;
    nice_preload.has_stderr = fstat(STDERR_FILENO, &info) == 0;
    nice_preload.standard_error = (nice_file){.device = info.st_dev, .inode = info.st_ino};
    bool good = !text || nice_rule_parse(text, &rule);
    nice_groups_init(&nice_preload.groups, &system, rule);
    if (!good) {
        say(NULL, true,
            "REEF_NICE in the environment is not \"level -20\" to \"level 19\" or \"slice US\": time slices are "
            "left as they are");
    }
    pthread_atfork(NULL, NULL, in_child);
}

__attribute__((constructor)) static void begin(void)
{
    pthread_once(&once, set_up);
}

__attribute__((destructor)) static void end(void)
{
    notice_copy();
    if (nice_preload.path[0]) {
        nice_claim(nice_preload.path, 0);
        unlink(nice_preload.path);
        nice_tell_others(nice_preload.path);
    }
}

/* ------------------------------------------------------------------------------------------------ the call -- */

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (_IOC_TYPE(request) != RM_MAGIC) {
        return next_ioctl(NULL, fd, request, argument);
    }
    pthread_once(&once, set_up);
    notice_copy();
    int result = nice_groups_ioctl(&nice_preload.groups, fd, request, argument);
    uint64_t gpus = atomic_load_explicit(&nice_preload.groups.gpus, memory_order_relaxed);
    if (gpus & ~atomic_load_explicit(&nice_preload.known_gpus, memory_order_relaxed)) {
        int before = errno;
        uint64_t known = atomic_fetch_or(&nice_preload.known_gpus, gpus);
        if (known == 0) {
            start_control();
        }
        if ((gpus & ~known) && nice_preload.path[0]) {
            look_around();
        }
        errno = before;
    }
    return result;
}
