/*
 * fake_driver.c - NVIDIA's kernel driver as far as reef nice meets it, as a library to preload below it.
 *
 * It supplies open, close, fstat and ioctl. /dev/nvidiactl opens anywhere; objects that are allocated through it belong to
 * that open file and to this process, as with the real driver, and every message is written to $FAKE_RM_LOG as one line:
 *
 *     PID alloc|free CLIENT OBJECT CLASS STATUS
 *     PID set|get|control CLIENT OBJECT US STATUS
 *
 * $FAKE_RM changes its manners: refuse-set, refuse-get, fail-set (the call itself fails), shortest=US.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "nice/rm.h"

enum { MAX_FILES = 1024, MAX_OBJECTS = 65536 };

typedef struct object {
    uint32_t client, handle, class;
    int file; /* the open file it came through */
    uint64_t slice_us;
} object;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int file_of[MAX_FILES]; /* by descriptor; 0: not ours */
static int last_file;
static object objects[MAX_OBJECTS];
static size_t n_objects;

static void record(const char *what, uint32_t client, uint32_t handle, uint64_t value, uint32_t status)
{
    const char *path = getenv("FAKE_RM_LOG");
    char line[160];
    int n = snprintf(line, sizeof line, "%d %s %u %u %llu %u\n", (int)getpid(), what, (unsigned)client,
                     (unsigned)handle, (unsigned long long)value, (unsigned)status);
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        (void)!write(fd, line, (size_t)n);
        syscall(SYS_close, fd);
    }
}

static bool manner(const char *name, uint64_t *value)
{
    const char *text = getenv("FAKE_RM"), *at = text ? strstr(text, name) : NULL;
    if (at && value) {
        *value = strtoull(at + strlen(name), NULL, 10);
    }
    return at != NULL;
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = va_arg(arguments, mode_t);
    va_end(arguments);
    bool ours = strcmp(path, "/dev/nvidiactl") == 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, ours ? "/dev/null" : path, flags, mode);
    if (fd >= 0 && fd < MAX_FILES) {
        pthread_mutex_lock(&lock);
        file_of[fd] = ours ? ++last_file : 0;
        pthread_mutex_unlock(&lock);
    }
    return fd;
}

int close(int fd)
{
    if (fd >= 0 && fd < MAX_FILES) {
        pthread_mutex_lock(&lock);
        for (size_t i = 0; file_of[fd] && i < n_objects; i++) {
            objects[i].file = objects[i].file == file_of[fd] ? 0 : objects[i].file; /* its clients end with it */
        }
        file_of[fd] = 0;
        pthread_mutex_unlock(&lock);
    }
    return (int)syscall(SYS_close, fd);
}

int fstat(int fd, struct stat *out)
{
    static int (*next)(int, struct stat *);
    if (!next) {
        *(void **)&next = dlsym(RTLD_NEXT, "fstat");
    }
    int result = next(fd, out);
    if (result == 0 && fd >= 0 && fd < MAX_FILES && file_of[fd]) {
        out->st_mode = S_IFCHR | 0666;
        out->st_rdev = makedev(RM_MAJOR, RM_CONTROL_MINOR);
    }
    return result;
}

static object *find(uint32_t client, uint32_t handle)
{
    for (size_t i = 0; i < n_objects; i++) {
        if (objects[i].file && objects[i].client == client && objects[i].handle == handle) {
            return &objects[i];
        }
    }
    return NULL;
}

static uint32_t allocate(int file, const rm_alloc *message)
{
    object *known = find(message->client, message->client);
    if (message->object != message->client && (!known || known->file != file)) {
        return RM_INVALID_CLIENT;
    }
    if (n_objects == MAX_OBJECTS) {
        return 0x1a;
    }
    objects[n_objects++] = (object){
        .client = message->client, .handle = message->object, .class = message->class, .file = file, .slice_us = 1024};
    return RM_OK;
}

/* Descendants are not tracked: a test frees what it wants gone. */
static uint32_t release(int file, const rm_free *message)
{
    object *freed = find(message->client, message->object);
    if (!freed || freed->file != file) {
        return RM_INVALID_HANDLE;
    }
    for (size_t i = 0; i < n_objects; i++) {
        if (&objects[i] == freed || (message->object == message->client && objects[i].client == message->client)) {
            objects[i].file = 0;
        }
    }
    return RM_OK;
}

static uint32_t slice_control(object *group, uint32_t command, rm_slice *slice)
{
    uint64_t shortest = 0;
    if (command == RM_GROUP_GET_SLICE) {
        if (manner("refuse-get", NULL)) {
            return RM_NOT_PERMITTED;
        }
        slice->us = group->slice_us;
        return RM_OK;
    }
    if (manner("refuse-set", NULL) && slice->us != 2048) {
        return RM_NOT_PERMITTED;
    }
    if (manner("shortest=", &shortest) && slice->us < shortest) {
        return RM_NOT_SUPPORTED;
    }
    group->slice_us = slice->us;
    return RM_OK;
}

static int control(int file, rm_control *message)
{
    object *known = find(message->client, message->client);
    object *target = find(message->client, message->object);
    bool set = message->command == RM_GROUP_SET_SLICE, get = message->command == RM_GROUP_GET_SLICE;
    rm_slice *slice = (rm_slice *)(uintptr_t)message->params;
    uint64_t asked = (set || get) && slice ? slice->us : message->command;
    if (set && asked != 2048 && manner("fail-set", NULL)) {
        record("set", message->client, message->object, asked, UINT32_MAX);
        errno = EACCES;
        return -1;
    }
    if (!known || known->file != file) {
        message->status = RM_INVALID_CLIENT;
    } else if (!target) {
        message->status = RM_INVALID_HANDLE;
    } else if ((set || get) && (target->class != RM_CLASS_GROUP || !slice || message->params_bytes != sizeof *slice)) {
        message->status = RM_INVALID_OBJECT;
    } else {
        message->status = set || get ? slice_control(target, message->command, slice) : RM_OK;
    }
    record(set   ? "set"
           : get ? "get"
                 : "control",
           message->client, message->object, get && slice ? slice->us : asked, message->status);
    return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (fd < 0 || fd >= MAX_FILES || !file_of[fd] || _IOC_TYPE(request) != RM_MAGIC) {
        return (int)syscall(SYS_ioctl, fd, request, argument);
    }
    unsigned number = _IOC_NR(request), bytes = _IOC_SIZE(request);
    if (number == RM_INDIRECT) {
        const rm_indirect *indirect = argument;
        number = indirect->number;
        bytes = indirect->bytes;
        argument = (void *)(uintptr_t)indirect->message;
    }
    int result = 0;
    pthread_mutex_lock(&lock);
    if (number == RM_ALLOC && (bytes == sizeof(rm_alloc) || bytes == sizeof(rm_alloc_rights))) {
        rm_alloc *message = argument;
        uint32_t status = allocate(file_of[fd], message);
        record("alloc", message->client, message->object, message->class, status);
        if (bytes == sizeof *message) {
            message->status = status;
        } else {
            ((rm_alloc_rights *)argument)->status = status;
        }
    } else if (number == RM_FREE && bytes == sizeof(rm_free)) {
        rm_free *message = argument;
        message->status = release(file_of[fd], message);
        record("free", message->client, message->object, 0, message->status);
    } else if (number == RM_CONTROL && bytes == sizeof(rm_control)) {
        result = control(file_of[fd], argument);
    } else {
        record("odd", number, bytes, 0, 0); /* a driver of another time: it understands itself */
    }
    int cause = errno;
    pthread_mutex_unlock(&lock);
    errno = cause;
    return result;
}
