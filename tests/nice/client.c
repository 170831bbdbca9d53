/*
 * client.c - what libcuda does as far as reef nice sees it: clients, channel groups, channels and compute objects on
 * /dev/nvidiactl. Its first argument says how; see main. It fails when the driver refuses it anything. Built as a program,
 * and as a library that stands for libcuda (own.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nice/rm.h"

enum { CHANNEL_CLASS = 0xc86f, COMPUTE_CLASS = 0xcbc0 };
typedef enum message_form { SHORT, LONG, INDIRECT, SERIALIZED } message_form;

static void need(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
        exit(9);
    }
}

static uint32_t new_handle(void)
{
    static _Atomic uint32_t last = 0x5c000000;
    return ++last;
}

static void alloc(int fd, message_form form, uint32_t client, uint32_t parent, uint32_t object, uint32_t class,
                  void *params, uint32_t bytes)
{
    rm_alloc small = {.client = client,
                      .parent = parent,
                      .object = object,
                      .class = class,
                      .params = (uintptr_t)params,
                      .params_bytes = bytes,
                      .status = 99};
    rm_alloc_rights large = {.client = client,
                             .parent = parent,
                             .object = object,
                             .class = class,
                             .params = (uintptr_t)params,
                             .params_bytes = bytes,
                             .status = 99};
    if (form == SERIALIZED && params) { /* what params points to is not the structure */
        static const char other[64] = {9};
        large.params = (uintptr_t)other;
        large.flags = RM_ALLOC_SERIALIZED;
    }
    rm_indirect indirect = {RM_ALLOC, sizeof large, (uintptr_t)&large};
    int result = form == SHORT      ? ioctl(fd, RM_REQUEST(RM_ALLOC, rm_alloc), &small)
                 : form == INDIRECT ? ioctl(fd, RM_REQUEST(RM_INDIRECT, rm_indirect), &indirect)
                                    : ioctl(fd, RM_REQUEST(RM_ALLOC, rm_alloc_rights), &large);
    need(result == 0 && (form == SHORT ? small.status : large.status) == RM_OK, "alloc");
}

static void control(int fd, uint32_t client, uint32_t object, uint32_t command, void *params, uint32_t bytes)
{
    rm_control message = {.client = client,
                          .object = object,
                          .command = command,
                          .params = (uintptr_t)params,
                          .params_bytes = bytes,
                          .status = 99};
    need(ioctl(fd, RM_REQUEST(RM_CONTROL, rm_control), &message) == 0 && message.status == RM_OK, "control");
}

static void set_slice(int fd, uint32_t client, uint32_t group, uint64_t us)
{
    rm_slice slice = {us};
    control(fd, client, group, RM_GROUP_SET_SLICE, &slice, sizeof slice);
    need(slice.us == us, "the program's own message is left as it is");
}

static void free_object(int fd, uint32_t client, uint32_t object)
{
    rm_free message = {.client = client, .object = object, .status = 99};
    need(ioctl(fd, RM_REQUEST(RM_FREE, rm_free), &message) == 0 && message.status == RM_OK, "free");
}

typedef struct context {
    int fd;
    uint32_t client, device, group, copies, channel;
} context;

static uint32_t make_group(const context *c, message_form form, uint32_t engine)
{
    struct {
        rm_group_params params;
        uint32_t more;
    } group = {.params = {.engine = engine}};
    uint32_t handle = new_handle();
    alloc(c->fd, form, c->client, c->device, handle, RM_CLASS_GROUP, &group, sizeof group);
    return handle;
}

/* As a CUDA context comes to life. engine 0: the group's parameters do not say. own_us 0: libcuda sets none. */
static context make_context(message_form form, uint32_t engine, uint64_t own_us)
{
    uint8_t enable[3] = {1, 0, 0};
    context c = {.fd = open("/dev/nvidiactl", O_RDWR | O_CLOEXEC), .client = new_handle()};
    need(c.fd >= 0, "open");
    c.client = c.client << 8 | ((uint32_t)getpid() & 0xff);
    c.device = new_handle();
    alloc(c.fd, form, c.client, c.client, c.client, 0x41, NULL, 0);
    const char *gpu = getenv("CLIENT_GPU");
    rm_device_params device = {.number = gpu ? (uint32_t)atoi(gpu) : 0};
    alloc(c.fd, form, c.client, c.client, c.device, RM_CLASS_DEVICE, &device, sizeof device);
    c.copies = make_group(&c, form, 9);
    c.group = make_group(&c, form, engine);
    c.channel = new_handle();
    alloc(c.fd, form, c.client, c.group, c.channel, CHANNEL_CLASS, NULL, 0);
    alloc(c.fd, form, c.client, c.channel, new_handle(), COMPUTE_CLASS, NULL, 0);
    if (own_us) {
        set_slice(c.fd, c.client, c.copies, own_us);
        set_slice(c.fd, c.client, c.group, own_us);
    }
    control(c.fd, c.client, c.copies, RM_GROUP_SCHEDULE, enable, sizeof enable);
    control(c.fd, c.client, c.group, RM_GROUP_SCHEDULE, enable, sizeof enable);
    return c;
}

static int wait_for(pid_t child)
{
    int status;
    need(child > 0 && waitpid(child, &status, 0) == child, "wait");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

static void *thread_main(void *unused)
{
    for (int i = 0; i < 20; i++) {
        context c = make_context(i % 2 ? LONG : SHORT, RM_ENGINE_GRAPHICS, 2048);
        free_object(c.fd, c.client, i % 3 ? c.client : c.group);
        close(c.fd);
    }
    return unused;
}

/* The number is closed, and then stands for another file; other threads may have left lower numbers free. */
static void reuse(int number, const char *path, int flags)
{
    int opened[8], n = 0;
    close(number);
    do {
        opened[n] = open(path, flags);
    } while (opened[n] != number && ++n < 8);
    need(n < 8, "the number is used again");
    while (n-- > 0) {
        close(opened[n]);
    }
}

static void hold(void)
{
    context c = make_context(LONG, RM_ENGINE_GRAPHICS, 2048);
    char line[64];
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "another\n") == 0) {
            make_context(LONG, RM_ENGINE_GRAPHICS, 2048);
        } else if (strcmp(line, "free\n") == 0) {
            free_object(c.fd, c.client, c.group);
        } else if (strcmp(line, "close\n") == 0) { /* without freeing, and the number is used again */
            reuse(c.fd, "/dev/nvidiactl", O_RDWR);
        } else if (strcmp(line, "replace\n") == 0) {
            reuse(c.fd, "/dev/zero", O_RDONLY);
        } else if (strcmp(line, "closeall\n") == 0) {
            for (int fd = 3; fd < 1024; fd++) {
                close(fd);
            }
        } else if (strcmp(line, "fork\n") == 0) { /* the child stays when its parent is gone */
            pid_t child = fork();
            if (child == 0) {
                raise(SIGSTOP);
            }
            printf("child %d\n", (int)child);
            fflush(stdout);
            continue;
        }
        printf("done\n");
        fflush(stdout);
    }
}

#ifdef CLIENT_LIBRARY
int client_main(int argc, char **argv);
int client_main(int argc, char **argv)
#else
int main(int argc, char **argv)
#endif
{
    const char *how = argc > 1 ? argv[1] : "long";
    static const char *const forms[] = {"short", "long", "indirect", "serialized"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(how, forms[i]) == 0) {
            make_context((message_form)i, RM_ENGINE_GRAPHICS, 2048);
            return 0;
        }
    }
    if (strcmp(how, "no-own-slice") == 0) { /* a libcuda that leaves the driver's default */
        make_context(LONG, RM_ENGINE_GRAPHICS, 0);
    } else if (strcmp(how, "engine-unknown") == 0) {
        make_context(LONG, 0, 2048);
    } else if (strcmp(how, "free") == 0) {
        context c = make_context(LONG, RM_ENGINE_GRAPHICS, 2048);
        free_object(c.fd, c.client, c.group);
        make_group(&c, LONG, RM_ENGINE_GRAPHICS);
    } else if (strcmp(how, "exec") == 0 || strcmp(how, "vfork") == 0) {
        context c = make_context(LONG, RM_ENGINE_GRAPHICS, 2048);
        bool execs = strcmp(how, "exec") == 0;
        pid_t child = execs ? fork() : vfork();
        if (child == 0) {
            execl(argv[0], argv[0], "long", (char *)NULL);
            _exit(8);
        }
        need(wait_for(child) == 0, "child");
        set_slice(c.fd, c.client, c.group, 2048); /* the parent's groups are still known */
    } else if (strcmp(how, "fork") == 0 || strcmp(how, "clone") == 0) {
        context c = make_context(LONG, RM_ENGINE_GRAPHICS, 2048);
        pid_t child = strcmp(how, "fork") == 0 ? fork() : (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        if (child == 0) {
            /* The parent's group is none of the child's: its controls pass, and nothing is added to them. */
            set_slice(c.fd, c.client, c.group, 2048);
            make_context(LONG, RM_ENGINE_GRAPHICS, 2048);
            _exit(0);
        }
        need(wait_for(child) == 0, "child");
        set_slice(c.fd, c.client, c.group, 2048);
    } else if (strcmp(how, "threads") == 0) {
        pthread_t threads[8];
        for (int i = 0; i < 8; i++) {
            need(pthread_create(&threads[i], NULL, thread_main, NULL) == 0, "thread");
        }
        for (int i = 0; i < 8; i++) {
            pthread_join(threads[i], NULL);
        }
    } else if (strcmp(how, "odd-alloc") == 0 || strcmp(how, "odd-control") == 0 || strcmp(how, "odd-free") == 0) {
        char bytes[40] = {0};
        int fd = open("/dev/nvidiactl", O_RDWR);
        unsigned number = how[4] == 'a' ? RM_ALLOC : how[4] == 'c' ? RM_CONTROL : RM_FREE;
        need(ioctl(fd, (unsigned long)_IOC(_IOC_READ | _IOC_WRITE, RM_MAGIC, number, sizeof bytes), bytes) == 0, "odd");
        make_context(LONG, RM_ENGINE_GRAPHICS, 2048);
        make_context(SHORT, RM_ENGINE_GRAPHICS, 2048);
    } else if (strcmp(how, "others") == 0) {
        int waiting = -1, ends[2];
        errno = 0;
        need(pipe(ends) == 0 && write(ends[1], "abc", 3) == 3 && ioctl(ends[0], 0x541b /* FIONREAD */, &waiting) == 0 &&
                 waiting == 3,
             "other devices' calls go through");
        need(ioctl(-1, RM_REQUEST(RM_FREE, rm_free), &waiting) == -1 && errno == EBADF, "errors come back");
        need(ioctl(ends[0], RM_REQUEST(RM_FREE, rm_free), NULL) == -1 && errno != 0, "without an argument");
        errno = 77;
        make_context(LONG, RM_ENGINE_GRAPHICS, 2048);
        need(errno == 77, "errno is left alone");
    } else if (strcmp(how, "hold") == 0) {
        hold();
    } else {
        fprintf(stderr, "client: '%s' is not known\n", how);
        return 2;
    }
    return 0;
}
