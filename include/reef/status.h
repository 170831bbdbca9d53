/*
 * status.h - what a reef call can answer, and the caller-owned error that says where it went wrong.
 *
 * Every fallible function returns a reef_status; 0 is success. Results come back through trailing pointers, which stay
 * untouched on failure. Loaders also fill a reef_error with the place: file, node, field, byte offset.
 */
#ifndef REEF_STATUS_H
#define REEF_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, what it means to a caller). The enum and the strings are generated from this one list. */
#define REEF_STATUS_LIST(X)                                                                                            \
    X(OK, "success")                                                                                                   \
    X(INVALID_ARGUMENT, "an argument is out of range or contradicts another")                                          \
    X(NOT_FOUND, "no such file, input, output, device or policy")                                                      \
    X(IO, "the operating system could not read or write")                                                              \
    X(FORMAT, "the file is malformed")                                                                                 \
    X(UNSUPPORTED, "well formed, but reef does not implement it")                                                      \
    X(SHAPE, "a shape does not match or is not fixed")                                                                 \
    X(DTYPE, "an element type does not match")                                                                         \
    X(NO_MEMORY, "out of memory")                                                                                      \
    X(QUEUE_FULL, "the queue is full; try again when a request has completed")                                         \
    X(BUSY, "in use; retry when idle")                                                                                 \
    X(DEADLINE, "the deadline passed before the request could start")                                                  \
    X(CANCELLED, "cancelled by its owner")                                                                             \
    X(REFUSED, "the policy in force does not serve this class")                                                        \
    X(TIMEOUT, "the wait ended before the request did")                                                                \
    X(DEVICE, "the device reported a failure")                                                                         \
    X(INTERNAL, "a bug in reef; please report it")

typedef enum reef_status {
#define X(name, text) REEF_##name,
    REEF_STATUS_LIST(X)
#undef X
        REEF_STATUS_COUNT
} reef_status;

/* A failure with its place, for people. Owned by the caller; written only when a call fails. */
typedef struct reef_error {
    reef_status status;
    char message[480]; /* one line, no newline: what happened, where, what to do */
} reef_error;

/* The symbolic name ("QUEUE_FULL") and the sentence. Static strings; any value is accepted. Thread safe. */
const char *reef_status_name(reef_status status);
const char *reef_status_text(reef_status status);

#ifdef __cplusplus
}
#endif
#endif
