/*
 * trace.c - see trace.h. The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
 */
#include "base/trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

/* Tracks ("threads" of the format). Each best-effort queue has two, since a launch may end after it was evicted. */
enum { TRACK_CALLER = 1, TRACK_SCHEDULER = 2, TRACK_QUEUES = 10 };

reef_trace *reef_trace_create(size_t capacity)
{
    if (!capacity || capacity > SIZE_MAX / sizeof(reef_trace_span) ||
        !reef_memory_fits(capacity * sizeof(reef_trace_span))) {
        return NULL;
    }
    reef_trace *trace = calloc(1, sizeof *trace);
    reef_trace_span *ring = malloc(capacity * sizeof *ring);
    if (!trace || !ring) {
        free(trace);
        free(ring);
        return NULL;
    }
    memset(ring, 0, capacity * sizeof *ring); /* page faults now, not on the path of a request */
    *trace = (reef_trace){.ring = ring, .capacity = capacity};
    return trace;
}

void reef_trace_destroy(reef_trace *trace)
{
    if (trace) {
        free(trace->ring);
        free(trace);
    }
}

void reef_trace_add(reef_trace *trace, const reef_trace_span *span, const char *name)
{
    reef_trace_span *slot = &trace->ring[trace->n++ % trace->capacity];
    *slot = *span;
    size_t length = name ? strnlen(name, sizeof slot->name - 1) : 0;
    if (length) {
        memcpy(slot->name, name, length);
    }
    slot->name[length] = 0;
    slot->at[3] = slot->at[3] > slot->at[0] ? slot->at[3] : slot->at[0];
}

/* -------------------------------------------------------------------------------------------------- writing -- */

typedef struct writer {
    FILE *out;
    uint64_t start_ns;
    const char *separator;
    uint32_t most_queues;
} writer;

/* Names are made of file names: anything may be in them. */
static void put_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\') {
            fprintf(out, "\\%c", *c);
        } else if (*c < 0x20 || *c >= 0x7f) {
            fputc('?', out);
        } else {
            fputc(*c, out);
        }
    }
    fputc('"', out);
}

/* Begins an event with the fields that all have; the caller goes on with more and ends it with "}". */
static void event(writer *w, const char *phase, const char *prefix, const char *name, unsigned track, uint64_t ns)
{
    uint64_t since = ns > w->start_ns ? ns - w->start_ns : 0;
    char text[96];
    snprintf(text, sizeof text, "%s%s", prefix, name);
    fprintf(w->out, "%s\n{\"ph\":\"%s\",\"pid\":1,\"tid\":%u,\"ts\":%llu.%03u,\"name\":", w->separator, phase, track,
            (unsigned long long)(since / 1000), (unsigned)(since % 1000));
    put_text(w->out, text);
    w->separator = ",";
}

static void whole(writer *w, const char *prefix, const char *name, unsigned track, uint64_t begin, uint64_t end)
{
    /* Both ends are clamped to the start of the trace, so that the length fits what is shown. */
    uint64_t from = begin > w->start_ns ? begin : w->start_ns, length = end > from ? end - from : 0;
    event(w, "X", prefix, name, track, begin);
    fprintf(w->out, ",\"dur\":%llu.%03u", (unsigned long long)(length / 1000), (unsigned)(length % 1000));
}

/* One end of an asynchronous span: requests overlap, so they cannot share a track. */
static void async(writer *w, const reef_trace_span *s, const char *phase, const char *prefix, const char *name,
                  uint64_t ns)
{
    event(w, phase, prefix, name, TRACK_SCHEDULER, ns);
    fprintf(w->out, ",\"cat\":\"%s\",\"id\":%llu", s->queue ? "best-effort" : "real-time", (unsigned long long)s->id);
}

static void part(writer *w, const reef_trace_span *s, const char *name, uint64_t begin, uint64_t end)
{
    async(w, s, "b", "", name, begin);
    fputs("}", w->out);
    async(w, s, "e", "", name, end);
    fputs("}", w->out);
}

/* The request around its parts: where two ends fall on the same time, readers go by the order in the file. */
static void put_request(writer *w, const reef_trace_span *s)
{
    const char *class_name = s->queue ? "BE " : "RT ";
    uint64_t submit = s->at[0], launch = s->at[1], start = s->at[2], end = s->at[3];
    /* A unit may begin before the host has read the clock for "handed over". */
    launch = launch && start && launch > start ? start : launch;
    async(w, s, "b", class_name, s->name, submit);
    fprintf(w->out, ",\"args\":{\"status\":\"%s\",\"preemptions\":%u,\"queue\":%u}}",
            reef_status_name((reef_status)s->status), s->value, s->queue);
    part(w, s, "queued", submit, launch ? launch : start ? start : end);
    if (launch) {
        part(w, s, "handed to the device", launch, start ? start : end);
    }
    if (start) {
        part(w, s, "running", start, end);
    }
    async(w, s, "e", class_name, s->name, end);
    fputs("}", w->out);
}

static void put_span(writer *w, const reef_trace_span *s)
{
    unsigned track = TRACK_QUEUES + 2 * s->queue;
    static const char *const launch_ends[] = {"done", "evicted", "failed"};
    w->most_queues = s->queue > w->most_queues ? s->queue : w->most_queues;
    switch ((reef_trace_kind)s->kind) {
    case REEF_TRACE_REQUEST: put_request(w, s); return;
    case REEF_TRACE_MODE: whole(w, "", "real-time mode", TRACK_SCHEDULER, s->at[0], s->at[3]); break;
    case REEF_TRACE_PREEMPT: whole(w, "", "preempt", TRACK_SCHEDULER, s->at[0], s->at[3]); break;
    case REEF_TRACE_CALLER: whole(w, "", s->name, TRACK_CALLER, s->at[0], s->at[3]); break;
    case REEF_TRACE_LAUNCH:
        whole(w, "", s->name, track, s->at[0], s->at[3]);
        fprintf(w->out, ",\"args\":{\"end\":\"%s\",\"next_kernel\":%u,\"padded_tiles\":%u}",
                launch_ends[s->status < 3 ? s->status : 2], s->value, s->padded_tiles);
        break;
    case REEF_TRACE_PREEMPTED:
        whole(w, "preempted ", s->name, track + 1, s->at[0], s->at[3]);
        fputs("}", w->out);
        if (!s->at[1]) {
            return;
        }
        whole(w, "", "leaves the device", track + 1, s->at[0], s->at[1] < s->at[3] ? s->at[1] : s->at[3]);
        break;
    }
    fputs("}", w->out);
}

static void name_track(writer *w, unsigned track, const char *name)
{
    fprintf(w->out,
            "%s\n{\"ph\":\"M\",\"pid\":1,\"tid\":%u,\"name\":\"thread_name\",\"args\":{\"name\":\"%s\"}},"
            "\n{\"ph\":\"M\",\"pid\":1,\"tid\":%u,\"name\":\"thread_sort_index\",\"args\":{\"sort_index\":%u}}",
            w->separator, track, name, track, track);
    w->separator = ",";
}

static void name_tracks(writer *w)
{
    char name[48];
    fprintf(w->out, "%s\n{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"reef\"}}",
            w->separator);
    w->separator = ",";
    name_track(w, TRACK_CALLER, "program");
    name_track(w, TRACK_SCHEDULER, "scheduler");
    name_track(w, TRACK_QUEUES, "real-time queue");
    for (uint32_t q = 1; q <= w->most_queues; q++) {
        snprintf(name, sizeof name, "best-effort queue %u", q);
        name_track(w, TRACK_QUEUES + 2 * q, name);
        snprintf(name, sizeof name, "best-effort queue %u, preempted", q);
        name_track(w, TRACK_QUEUES + 2 * q + 1, name);
    }
}

reef_status reef_trace_write(const reef_trace *trace, const char *path, reef_error *error)
{
    writer w = {.out = fopen(path, "w"), .start_ns = trace->start_ns, .separator = ""};
    if (!w.out) {
        return reef_fail(error, REEF_IO, "%s: cannot be written: %s", path, strerror(errno));
    }
    uint64_t held = trace->n < trace->capacity ? trace->n : trace->capacity;
    fprintf(w.out, "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"spans\":%llu,\"overwritten\":%llu},\"traceEvents\":[",
            (unsigned long long)held, (unsigned long long)(trace->n - held));
    for (uint64_t i = trace->n - held; i < trace->n; i++) {
        put_span(&w, &trace->ring[i % trace->capacity]);
    }
    name_tracks(&w);
    fputs("\n]}\n", w.out);
    bool failed = ferror(w.out);
    return fclose(w.out) || failed ? reef_fail(error, REEF_IO, "%s: cannot be written: %s", path, strerror(errno))
                                   : REEF_OK;
}
