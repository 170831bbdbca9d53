/*
 * error.h - filling a reef_error, the library's only way to say what went wrong.
 */
#ifndef REEF_BASE_ERROR_H
#define REEF_BASE_ERROR_H

#include "reef/status.h"

/* Writes "format" into *error (may be NULL) and returns status, so that a failure is one line: return reef_fail(...). */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
reef_status
reef_fail(reef_error *error, reef_status status, const char *format, ...);

/* As reef_fail, but puts "format" in front of the message already there ("model.onnx: node 'x': ..."). Keeps the status. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void
reef_error_prefix(reef_error *error, const char *format, ...);

#endif
