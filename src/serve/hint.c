/*
 * hint.c - see hint.h.
 *
 * Clients are kept in a small table, four places for each value of a hash; the one that was quiet for longest makes room.
 * After a hint for a rhythm the thread looks again half a period later, by when the request has come and the next hint is
 * known: so the thread that serves the request need not wake it.
 */
#include "serve/hint.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/thread.h"

enum { SETS = 64, WAYS = 4, SLOTS = SETS * WAYS };

typedef struct hint_slot {
    const void *client;
    serve_model *model; /* a reference while hint_ns is set, otherwise only compared */
    serve_rhythm rhythm;
    uint64_t seen_ns;
    uint64_t hint_ns;              /* 0: none is planned */
    uint64_t within_ns, period_ns; /* of that one; period 0: for a body */
    uint64_t look_ns;              /* 0: no need to look again */
    uint64_t header_ns;            /* of the request that is coming in; 0: none is known */
    bool follows;                  /* the last request followed its header when a hint would have helped */
    uint64_t until_ns;             /* a hint was sent for a request until then; 0: none, or the request has come */
} hint_slot;

struct serve_hints {
    pthread_t thread;
    pthread_mutex_t lock; /* guards everything below but off */
    pthread_cond_t changed;
    _Atomic bool stop;
    uint64_t next_ns; /* when the thread looks next */
    hint_slot slots[SLOTS];
    serve_hint_counts counts;
    _Atomic bool off; /* the device needs none */
};

/* --------------------------------------------------------------------------------------------------- estimates -- */

bool serve_rhythm_measure(serve_rhythm *rhythm, uint64_t now_ns, uint64_t *period_ns, uint64_t *spread_ns)
{
    uint64_t *at = rhythm->arrivals, least = UINT64_MAX, most = 0;
    memmove(at, at + 1, sizeof rhythm->arrivals - sizeof *at);
    at[SERVE_RHYTHM_INTERVALS] = now_ns;
    if (!at[0]) {
        return false;
    }
    for (size_t i = 0; i < SERVE_RHYTHM_INTERVALS; i++) {
        uint64_t interval = at[i + 1] - at[i];
        least = interval < least ? interval : least;
        most = interval > most ? interval : most;
    }
    *period_ns = (now_ns - at[0]) / SERVE_RHYTHM_INTERVALS;
    *spread_ns = most - least;
    return true;
}

bool serve_rhythm_add(serve_rhythm *rhythm, uint64_t now_ns, serve_forecast *out)
{
    uint64_t spread, period;
    if (!serve_rhythm_measure(rhythm, now_ns, &period, &spread)) {
        return false;
    }
    uint64_t early = SERVE_HINT_LEAD_NS + spread, within = early + spread;
    if (spread > SERVE_RHYTHM_SPREAD_NS || period > SERVE_RHYTHM_LONGEST_NS ||
        4 * (within + SERVE_HINT_HOLD_NS) > period) {
        return false;
    }
    *out = (serve_forecast){.hint_ns = now_ns + period - early, .within_ns = within, .period_ns = period};
    return true;
}

uint64_t serve_body_rest_ns(uint64_t elapsed_ns, uint64_t received_bytes, uint64_t whole_bytes)
{
    if (received_bytes == 0) {
        return UINT64_MAX;
    }
    double rest = received_bytes < whole_bytes ? (double)(whole_bytes - received_bytes) : 0;
    rest *= (double)elapsed_ns / (double)received_bytes;
    return rest < 1e18 ? (uint64_t)rest : UINT64_MAX;
}

/* ------------------------------------------------------------------------------------------------------- table -- */

/* Under the lock, as everything in this part. */
static void unplan(hint_slot *slot)
{
    if (slot->hint_ns) {
        slot->hint_ns = 0;
        serve_model_drop(slot->model);
    }
}

static void plan(serve_hints *hints, hint_slot *slot, const serve_forecast *forecast)
{
    unplan(slot);
    serve_model_hold(slot->model);
    slot->hint_ns = forecast->hint_ns;
    slot->within_ns = forecast->within_ns;
    slot->period_ns = forecast->period_ns;
    if (slot->hint_ns < hints->next_ns) {
        hints->next_ns = slot->hint_ns;
        pthread_cond_signal(&hints->changed);
    }
}

static hint_slot *find(serve_hints *hints, const void *client, serve_model *model)
{
    uint64_t hash = ((uint64_t)(uintptr_t)client ^ (uint64_t)(uintptr_t)model << 7) * 0x9e3779b97f4a7c15u;
    hint_slot *set = &hints->slots[(hash >> 58) * WAYS], *oldest = set;
    for (hint_slot *slot = set; slot < set + WAYS; slot++) {
        if (slot->client == client && slot->model == model) {
            return slot;
        }
        oldest = slot->seen_ns < oldest->seen_ns ? slot : oldest;
    }
    unplan(oldest);
    *oldest = (hint_slot){.client = client, .model = model};
    return oldest;
}

bool serve_hints_wanted(const serve_hints *hints)
{
    return hints && !atomic_load_explicit(&hints->off, memory_order_relaxed);
}

void serve_hints_header(serve_hints *hints, const void *client, serve_model *model, uint64_t now_ns)
{
    if (!serve_hints_wanted(hints)) {
        return;
    }
    pthread_mutex_lock(&hints->lock);
    hint_slot *slot = find(hints, client, model);
    slot->seen_ns = slot->header_ns = now_ns;
    if (slot->follows && slot->until_ns < now_ns && !slot->hint_ns) { /* neither foretold nor about to be */
        plan(hints, slot, &(serve_forecast){.hint_ns = now_ns + SERVE_HINT_HEADER_NS, .within_ns = SERVE_HINT_BODY_NS});
    }
    pthread_mutex_unlock(&hints->lock);
}

void serve_hints_body(serve_hints *hints, const void *client, serve_model *model, uint64_t now_ns)
{
    if (!serve_hints_wanted(hints)) {
        return;
    }
    pthread_mutex_lock(&hints->lock);
    hint_slot *slot = find(hints, client, model);
    slot->seen_ns = now_ns;
    if (slot->until_ns < now_ns) { /* otherwise it was foretold */
        plan(hints, slot, &(serve_forecast){.hint_ns = now_ns, .within_ns = SERVE_HINT_BODY_NS});
    }
    pthread_mutex_unlock(&hints->lock);
}

void serve_hints_arrival(serve_hints *hints, const void *client, serve_model *model, uint64_t now_ns)
{
    serve_forecast forecast;
    if (!serve_hints_wanted(hints)) {
        return;
    }
    pthread_mutex_lock(&hints->lock);
    hint_slot *slot = find(hints, client, model);
    hints->counts.used += slot->until_ns >= now_ns;
    slot->until_ns = 0;
    slot->seen_ns = now_ns;
    if (slot->header_ns) {
        uint64_t after = reef_span_ns(slot->header_ns, now_ns);
        slot->follows = after > SERVE_HINT_HEADER_NS && after <= SERVE_HINT_BODY_NS;
        slot->header_ns = 0;
    }
    unplan(slot); /* it comes too late now */
    if (serve_rhythm_add(&slot->rhythm, now_ns, &forecast)) {
        plan(hints, slot, &forecast);
    }
    pthread_mutex_unlock(&hints->lock);
}

serve_hint_counts serve_hints_count(serve_hints *hints)
{
    serve_hint_counts counts = {0};
    if (hints) {
        pthread_mutex_lock(&hints->lock);
        counts = hints->counts;
        pthread_mutex_unlock(&hints->lock);
    }
    return counts;
}

/* -------------------------------------------------------------------------------------------------- the thread -- */

/* Sends the slot's hint. The lock is dropped meanwhile: the driver may take its time. */
static void send(serve_hints *hints, hint_slot *slot)
{
    reef_error error;
    const void *client = slot->client;
    serve_model *model = slot->model;
    uint64_t within = slot->within_ns, period = slot->period_ns;
    slot->hint_ns = 0; /* its reference is ours now */
    pthread_mutex_unlock(&hints->lock);
    uint64_t now = reef_now_ns();
    reef_status status = reef_session_hint(model->variants[0].sessions[REEF_RT], within, &error);
    pthread_mutex_lock(&hints->lock);
    if (status == REEF_UNSUPPORTED) {
        atomic_store_explicit(&hints->off, true, memory_order_relaxed);
    } else if (status) {
        hints->counts.refused++;
    } else {
        hints->counts.sent++;
    }
    if (slot->client == client && slot->model == model) {
        slot->until_ns = status ? 0 : now + within;
        slot->look_ns = period ? now + period / 2 : 0;
    }
    serve_model_drop(model);
}

static void *hints_main(void *context)
{
    serve_hints *hints = context;
    prctl(PR_SET_TIMERSLACK, 1000ul); /* nanoseconds; otherwise the kernel may be 50 us late */
    pthread_mutex_lock(&hints->lock);
    while (!hints->stop && !atomic_load_explicit(&hints->off, memory_order_relaxed)) {
        uint64_t now = reef_now_ns(), next = UINT64_MAX;
        hint_slot *due = NULL;
        for (hint_slot *slot = hints->slots; slot < hints->slots + SLOTS; slot++) {
            slot->look_ns = slot->look_ns > now ? slot->look_ns : 0;
            due = slot->hint_ns && slot->hint_ns <= now ? slot : due;
            next = slot->hint_ns && slot->hint_ns < next ? slot->hint_ns : next;
            next = slot->look_ns && slot->look_ns < next ? slot->look_ns : next;
        }
        hints->next_ns = next;
        if (due) {
            send(hints, due);
        } else if (next == UINT64_MAX) {
            pthread_cond_wait(&hints->changed, &hints->lock);
        } else {
            struct timespec until = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)};
            pthread_cond_timedwait(&hints->changed, &hints->lock, &until);
        }
    }
    for (hint_slot *slot = hints->slots; slot < hints->slots + SLOTS; slot++) {
        unplan(slot);
    }
    pthread_mutex_unlock(&hints->lock);
    return NULL;
}

reef_status serve_hints_create(serve_hints **out, reef_error *error)
{
    serve_hints *hints = calloc(1, sizeof *hints);
    if (!hints) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&hints->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&hints->lock, NULL);
    hints->next_ns = UINT64_MAX;
    if (pthread_create(&hints->thread, NULL, hints_main, hints)) {
        pthread_cond_destroy(&hints->changed);
        pthread_mutex_destroy(&hints->lock);
        free(hints);
        return reef_fail(error, REEF_NO_MEMORY, "the thread for hints cannot be started");
    }
    *out = hints;
    return REEF_OK;
}

void serve_hints_destroy(serve_hints *hints)
{
    if (!hints) {
        return;
    }
    reef_threads_stop(&hints->thread, 1, &hints->lock, &hints->changed, &hints->stop);
    pthread_cond_destroy(&hints->changed);
    pthread_mutex_destroy(&hints->lock);
    free(hints);
}
