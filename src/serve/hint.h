/*
 * hint.h - tells the engine of real-time requests before they are there (reef_session_hint), so that a GPU that another
 * process uses has switched to us by then.
 *
 *     part of a body has come, the rest is near  ----+
 *     a header has come, whose body usually follows -+--> one thread --> reef_session_hint
 *     a client asks at regular intervals -- rhythm --+
 *
 * A hint that no request follows makes others wait, so there is at most one per request expected: a client that stops asking
 * costs one hint, and the waiting that hints for a rhythm can cause is at most a quarter of its period. Clients whose
 * intervals differ by more than SERVE_RHYTHM_SPREAD_NS get none. After the first answer that the device needs no hints
 * (UNSUPPORTED: the CPU) the thread ends, and every function here returns at once.
 */
#ifndef REEF_SERVE_HINT_H
#define REEF_SERVE_HINT_H

#include "serve/model.h"

enum {
    SERVE_RHYTHM_INTERVALS = 4,      /* that must agree */
    SERVE_RHYTHM_SPREAD_NS = 800000, /* within this */
    SERVE_RHYTHM_LONGEST_NS = 2000000000,
    SERVE_HINT_LEAD_NS = 300000,  /* how far ahead a hint hides a switch (docs/results/h200/nice_hint.json) */
    SERVE_HINT_HOLD_NS = 200000,  /* the engine waits this much longer than it was told */
    SERVE_HINT_BODY_NS = 1000000, /* the rest of a body is near: it should take no longer */
    SERVE_HINT_HEADER_NS = 50000, /* a body that comes sooner after its header leaves nothing to hide */
};

/* When the last requests of one client to one model came. All zero: none did. */
typedef struct serve_rhythm {
    uint64_t arrivals[SERVE_RHYTHM_INTERVALS + 1]; /* the newest last; 0: there was none */
} serve_rhythm;

/* Adds an arrival (nanoseconds, not earlier than the one before); true: there were enough for the mean interval and for by
 * how much the intervals differ. */
bool serve_rhythm_measure(serve_rhythm *rhythm, uint64_t now_ns, uint64_t *period_ns, uint64_t *spread_ns);

typedef struct serve_forecast {
    uint64_t hint_ns;   /* when to hint */
    uint64_t within_ns; /* and with what */
    uint64_t period_ns;
} serve_forecast;

/* Adds an arrival; true: a hint for the next one is worth its price, in *out. */
bool serve_rhythm_add(serve_rhythm *rhythm, uint64_t now_ns, serve_forecast *out);

/* How long the rest of a body takes at the pace so far; UINT64_MAX: nothing has come. */
uint64_t serve_body_rest_ns(uint64_t elapsed_ns, uint64_t received_bytes, uint64_t whole_bytes);

typedef struct serve_hints serve_hints;

/* Starts the thread. NO_MEMORY. */
reef_status serve_hints_create(serve_hints **out, reef_error *error);
/* Must come before the models are destroyed. NULL is allowed. */
void serve_hints_destroy(serve_hints *hints);

/* Whether hints are of any use here; false for NULL. For what would only be worked out for the following two. */
bool serve_hints_wanted(const serve_hints *hints);
/* The header of an RT request of the client's (any address that stands for it; never read) has come. Where the client's last
 * request followed its header too late to need no hint and soon enough for one, there is one after SERVE_HINT_HEADER_NS
 * without the request; bodies without a length (chunked) have no other. Thread safe. */
void serve_hints_header(serve_hints *hints, const void *client, serve_model *model, uint64_t now_ns);
/* The client has sent all but the end of an RT request. Thread safe. */
void serve_hints_body(serve_hints *hints, const void *client, serve_model *model, uint64_t now_ns);
/* An RT request of the client's is about to be submitted. The caller has a reference to the model. Thread safe. */
void serve_hints_arrival(serve_hints *hints, const void *client, serve_model *model, uint64_t now_ns);

typedef struct serve_hint_counts {
    uint64_t sent, used, refused; /* used: its request came in time; refused: by the engine, or the device failed */
} serve_hint_counts;
/* Zeros for NULL. */
serve_hint_counts serve_hints_count(serve_hints *hints);

#endif
