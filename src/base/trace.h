/*
 * trace.h - a timeline of what happened, kept in memory and written as Chrome trace JSON (Perfetto, chrome://tracing).
 *
 *     scheduler --reef_trace_add--> [ring of spans, newest kept] --reef_trace_write--> FILE.json
 *
 * A record is a whole span, added when it has ended: overwriting the oldest never leaves half of one. All memory is there
 * (and touched) before the first span; adding is a copy of 80 bytes. Whoever owns the trace guards it: the scheduler adds
 * under its lock, and where nothing is recorded it holds a NULL pointer, one branch away.
 */
#ifndef REEF_BASE_TRACE_H
#define REEF_BASE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reef/status.h"

typedef enum reef_trace_kind {
    REEF_TRACE_REQUEST,   /* at[]: submitted, first launch, first tile, end */
    REEF_TRACE_MODE,      /* real-time work waits or runs */
    REEF_TRACE_PREEMPT,   /* the host's part of a preemption: lease, RT launch, eviction */
    REEF_TRACE_LAUNCH,    /* kernels of a launch, first tile to last; value: first unfinished kernel after it */
    REEF_TRACE_PREEMPTED, /* a best-effort queue lost units: at[0] then, at[1] off the device (0: never), at[3] back */
    REEF_TRACE_CALLER,    /* whatever the program that embeds us wants to see beside it */
} reef_trace_kind;

typedef struct reef_trace_span {
    uint64_t at[4]; /* begin, -, -, end unless the kind says more */
    uint64_t id;    /* REQUEST: its number, from 1 */
    uint32_t queue; /* 0: real-time; best-effort queues from 1 */
    uint32_t value; /* REQUEST: preemptions; LAUNCH: see there */
    uint32_t padded_tiles;
    uint8_t kind, status; /* status: of a request; of a launch, reef_event_kind */
    char name[34];        /* of the model; cut short */
} reef_trace_span;

typedef struct reef_trace {
    reef_trace_span *ring;
    size_t capacity;
    uint64_t n;        /* spans ever added; the ring holds the last `capacity` */
    uint64_t start_ns; /* set by who records; earlier times are shown as this */
    uint64_t requests; /* numbered so far */
} reef_trace;

/* capacity spans, at least 1. NULL: out of memory. */
reef_trace *reef_trace_create(size_t capacity);
void reef_trace_destroy(reef_trace *trace);

/* name may be NULL. The ends of a span are put in order: clocks of a device and of the host are not the same. */
void reef_trace_add(reef_trace *trace, const reef_trace_span *span, const char *name);

/* Requests become asynchronous spans (queued and running inside each), the rest spans on one track per queue. IO. */
reef_status reef_trace_write(const reef_trace *trace, const char *path, reef_error *error);

#endif
