/*
 * error.h - filling a reef_error, the library's only way to say what went wrong.
 */
#ifndef REEF_BASE_ERROR_H
#define REEF_BASE_ERROR_H

#include "reef/status.h"

/* Writes "format" into *error (may be NULL). */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
void
reef_error_set(reef_error *error, reef_status status, const char *format, ...);

static inline reef_status reef_error_return(reef_status status, int written)
{
    (void)written;
    return status;
}

/* The same as an expression with the value of status, so that a failure is one line: return reef_fail(...). A macro, so
 * that a compiler sees in the caller which status comes back. status is evaluated twice. */
#define reef_fail(error, status, ...) reef_error_return((status), (reef_error_set((error), (status), __VA_ARGS__), 0))

/* As reef_fail, but puts "format" in front of the message already there ("model.onnx: node 'x': ..."). Keeps the status. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void
reef_error_prefix(reef_error *error, const char *format, ...);

#endif
