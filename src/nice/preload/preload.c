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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "nice/control.h"
#include "nice/rm.h"

typedef int (*ioctl_function)(int fd, unsigned long request, ...);

static struct {
    nice_groups groups;
    _Atomic(ioctl_function) next;
    bool verbose, has_stderr;
    nice_file standard_error;
    _Atomic bool listening;
    int listener;
    ino_t listener_inode;
    char path[NICE_PATH_MAX]; /* of the socket; empty: none */
} nice_preload = {.listener = -1};
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

static void *control_main(void *unused)
{
    /* A program that closes every descriptor closes this one too, and may get its number for a socket of its own. */
    while (listener_is_ours() && nice_serve(nice_preload.listener, &nice_preload.groups)) {
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
    nice_preload.path[0] = 0; /* the parent's name stays the parent's */
    atomic_store(&nice_preload.listening, false);
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
        unlink(nice_preload.path);
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
    if (atomic_load_explicit(&nice_preload.groups.any, memory_order_relaxed) &&
        !atomic_load_explicit(&nice_preload.listening, memory_order_relaxed)) {
        int before = errno;
        if (!atomic_exchange(&nice_preload.listening, true)) {
            start_control();
        }
        errno = before;
    }
    return result;
}
