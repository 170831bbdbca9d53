/*
 * log.h - lines that a thread of its own writes, so that nobody who serves waits for a terminal, a pipe or a disk.
 *
 *     time=2026-01-31T12:00:00.123Z level=info event=model name=resnet version=1 state=READY
 *
 * What does not fit into the buffer is dropped and counted, and the count is logged.
 */
#ifndef REEF_SERVE_LOG_H
#define REEF_SERVE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "serve/text.h"

typedef struct serve_log serve_log;
typedef enum serve_level { SERVE_LOG_ERROR, SERVE_LOG_WARNING, SERVE_LOG_INFO, SERVE_LOG_REQUESTS } serve_level;

/* Writes to fd, which is borrowed. NULL when out of memory. */
serve_log *serve_log_create(int fd, serve_level level);
/* Writes what is left. NULL is allowed. */
void serve_log_destroy(serve_log *log);
bool serve_log_wants(const serve_log *log, serve_level level);
/* A line "time=... level=... event=EVENT " and the rest as the format says. NULL log: nothing. Thread safe. */
__attribute__((format(printf, 4, 5))) void serve_log_line(serve_log *log, serve_level level, const char *event,
                                                          const char *format, ...);
/* Bytes as they are: a line of some other format. */
void serve_log_raw(serve_log *log, const char *data, size_t bytes);
/* value with quotes and escapes if it needs them, for the format's %s. Returns buffer. */
const char *serve_log_quote(const char *value, char *buffer, size_t size);

#endif
