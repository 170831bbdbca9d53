/*
 * log.c - see log.h.
 */
#include "serve/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"

enum { BUFFER = 1 << 18 };

struct serve_log {
    int fd;
    serve_level level;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char *filling, *writing; /* swapped by the thread */
    size_t n;
    uint64_t dropped;
    _Atomic bool stop;
};

static void write_all(int fd, const char *data, size_t n)
{
    while (n > 0) {
        ssize_t wrote = write(fd, data, n);
        if (wrote > 0) {
            data += wrote;
            n -= (size_t)wrote;
        } else if (wrote < 0 && errno == EAGAIN) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 1000);
        } else if (wrote < 0 && errno != EINTR) {
            return; /* nobody to tell */
        }
    }
}

static void *log_main(void *context)
{
    serve_log *log = context;
    pthread_mutex_lock(&log->lock);
    while (!log->stop || log->n || log->dropped) {
        if (!log->n && !log->dropped) {
            pthread_cond_wait(&log->changed, &log->lock);
            continue;
        }
        char *full = log->filling;
        size_t n = log->n;
        uint64_t dropped = log->dropped;
        log->filling = log->writing;
        log->writing = full;
        log->n = 0;
        log->dropped = 0;
        pthread_mutex_unlock(&log->lock);
        write_all(log->fd, full, n);
        if (dropped) {
            char line[80];
            int length =
                snprintf(line, sizeof line, "level=warning event=log dropped=%llu\n", (unsigned long long)dropped);
            write_all(log->fd, line, (size_t)length);
        }
        pthread_mutex_lock(&log->lock);
    }
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

serve_log *serve_log_create(int fd, serve_level level)
{
    serve_log *log = calloc(1, sizeof *log);
    if (!log) {
        return NULL;
    }
    log->fd = fd;
    log->level = level;
    log->filling = malloc(BUFFER);
    log->writing = malloc(BUFFER);
    pthread_mutex_init(&log->lock, NULL);
    pthread_cond_init(&log->changed, NULL);
    if (!log->filling || !log->writing || pthread_create(&log->thread, NULL, log_main, log)) {
        free(log->filling);
        free(log->writing);
        free(log);
        return NULL;
    }
    return log;
}

void serve_log_destroy(serve_log *log)
{
    if (!log) {
        return;
    }
    reef_threads_stop(&log->thread, 1, &log->lock, &log->changed, &log->stop);
    pthread_cond_destroy(&log->changed);
    pthread_mutex_destroy(&log->lock);
    free(log->filling);
    free(log->writing);
    free(log);
}

bool serve_log_wants(const serve_log *log, serve_level level)
{
    return log && level <= log->level;
}

void serve_log_raw(serve_log *log, const char *data, size_t bytes)
{
    if (!log) {
        return;
    }
    pthread_mutex_lock(&log->lock);
    if (bytes > BUFFER - log->n) {
        log->dropped++;
    } else {
        memcpy(log->filling + log->n, data, bytes);
        log->n += bytes;
        pthread_cond_signal(&log->changed);
    }
    pthread_mutex_unlock(&log->lock);
}

void serve_log_line(serve_log *log, serve_level level, const char *event, const char *format, ...)
{
    static const char *const names[] = {"error", "warning", "info", "info"};
    if (!serve_log_wants(log, level)) {
        return;
    }
    char line[2048];
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t n = strftime(line, sizeof line, "time=%Y-%m-%dT%H:%M:%S", &parts);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ level=%s event=%s ", now.tv_nsec / 1000000, names[level],
                          event);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line + n, sizeof line - n, format, arguments);
    va_end(arguments);
    n = length < 0 ? n : n + (size_t)length < sizeof line - 1 ? n + (size_t)length : sizeof line - 2;
    for (size_t i = 0; i < n; i++) { /* one line, whatever is in it */
        line[i] = (unsigned char)line[i] < 0x20 || line[i] == 0x7f ? '?' : line[i];
    }
    line[n++] = '\n';
    serve_log_raw(log, line, n);
}

const char *serve_log_quote(const char *value, char *buffer, size_t size)
{
    if (value[strcspn(value, " \"=\\")] == 0 && *value && strlen(value) < size) {
        return value;
    }
    size_t n = 0;
    buffer[n++] = '"';
    for (const char *c = value; *c && n + 3 < size; c++) {
        if (*c == '"' || *c == '\\') {
            buffer[n++] = '\\';
        }
        buffer[n++] = *c;
    }
    buffer[n++] = '"';
    buffer[n] = 0;
    return buffer;
}
