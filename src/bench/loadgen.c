/*
 * loadgen.c - see loadgen.h.
 *
 * Invariant: a slot (one set of output buffers of one client) is in exactly one of these places: the client's `free`
 * mask, a request in flight, the client's `done` mask, or the hands of the verifier thread. Bit masks make taking and
 * giving back one atomic operation without locks: callbacks run on device threads and must not block.
 *
 * All atomics here are sequentially consistent; the two handshakes below rely on it (a store and a later load by one
 * side against the opposite order by the other), and none of them is hot enough to matter.
 */
#include "bench/loadgen.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/futex.h"

enum { WORDS = LOAD_MAX_SLOTS / 64, MAX_FAILURES = 100 };
static const uint64_t DRAIN_LIMIT_NS = 120u * 1000000000ull;

typedef struct client client;

typedef struct slot {
    client *owner;
    size_t index;
    load_record *record; /* NULL: not recorded */
    size_t number;       /* of the request, from 0 */
    uint64_t sent_ns;
} slot;

struct client {
    load *run;
    load_client_spec spec;
    bool closed;
    uint64_t deadline_ns; /* relative; 0: none */
    load_record *records;
    size_t capacity;
    uint64_t *due; /* open loop: relative to the run's start */
    size_t n_due, next_due;
    slot slots[LOAD_MAX_SLOTS];
    /* Written by generator, callbacks and verifier thread. */
    _Atomic uint64_t free[WORDS], done[WORDS];
    _Atomic size_t used;                      /* closed loop: records taken, also beyond capacity */
    _Atomic unsigned owed;                    /* closed loop: requests that should be in flight and are not */
    _Atomic unsigned failures;                /* in a row */
    _Atomic uint64_t sent_early, ended_early; /* requests sent before the window's end, and those of them that ended */
    uint64_t think_ns;                        /* 0: the next request is sent by whoever brings the answer */
    sem_t answered;                           /* thinks: posted for each answer, and once when the run stops */
    _Atomic uint64_t answered_ns;
};

struct load {
    load_options options;
    client *clients;
    size_t n_clients;
    struct generator *generators; /* room for one per client */
    uint64_t start_ns, begin_ns, end_ns, stopped_ns;
    _Atomic bool stopping;     /* nothing more is submitted; written by load_run */
    _Atomic size_t in_flight;  /* requests, plus submitters between looking at `stopping` and submitting */
    _Atomic bool verifier_end; /* the verifier thread returns when it finds no done slot; written by load_run */
    sem_t work;                /* for the verifier thread */
};

/* ------------------------------------------------------------------------------------------------- slots -- */

static bool take_slot(client *c, size_t *index)
{
    for (size_t w = 0; w < WORDS; w++) {
        uint64_t mask = atomic_load(&c->free[w]);
        while (mask) {
            uint64_t bit = mask & -mask;
            if (atomic_compare_exchange_weak(&c->free[w], &mask, mask & ~bit)) {
                *index = w * 64 + (size_t)__builtin_ctzll(bit);
                return true;
            }
        }
    }
    return false;
}

static void give_slot(_Atomic uint64_t *masks, size_t index)
{
    atomic_fetch_or(&masks[index / 64], 1ull << index % 64);
}

static bool take_owed(client *c)
{
    unsigned owed = atomic_load(&c->owed);
    while (owed) {
        if (atomic_compare_exchange_weak(&c->owed, &owed, owed - 1)) {
            return true;
        }
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------ sending -- */

static void on_end(void *context, reef_request *request, const reef_request_info *info);

/* The caller has counted the request in in_flight. */
static void send_request(client *c, size_t index, load_record *record, size_t number, uint64_t due_ns)
{
    slot *s = &c->slots[index];
    uint64_t now = reef_now_ns();
    s->record = record;
    s->number = number;
    s->sent_ns = now;
    if (record) {
        *record = (load_record){.due_ns = due_ns ? due_ns : now, .sent_ns = now, .status = LOAD_PENDING};
    }
    if (now < c->run->end_ns) {
        atomic_fetch_add(&c->sent_early, 1);
    }
    reef_submit_options submit = {
        .inputs = c->spec.inputs,
        .outputs = c->spec.verifier->slots[index].data,
        .deadline_ns = c->deadline_ns ? (due_ns ? due_ns : now) + c->deadline_ns : 0,
        .callback = on_end,
        .context = s,
    };
    reef_status status = reef_session_submit(c->spec.session, &submit, NULL);
    if (status == REEF_OK) {
        return; /* the callback may have run already: the slot is no longer ours */
    }
    if (record) {
        record->status = (uint8_t)status;
        record->submit_ns = record->end_ns = now;
    }
    if (now < c->run->end_ns) {
        atomic_fetch_add(&c->ended_early, 1);
    }
    /* A closed-loop client that is turned away rests: asking again at once would be a busy loop. */
    give_slot(c->free, index);
    atomic_fetch_sub(&c->run->in_flight, 1);
}

/*
 * Puts requests that a closed-loop client is owed in flight while there are slots. Called by whoever raised `owed` or
 * freed a slot; as both do so before calling, the later of the two sees what the other did and nothing is forgotten.
 */
static void pump(client *c)
{
    while (atomic_load(&c->owed)) {
        atomic_fetch_add(&c->run->in_flight,
                         1); /* before looking at stopping: load_run reads them the other way round */
        size_t index;
        if (atomic_load(&c->run->stopping) || !take_slot(c, &index)) {
            atomic_fetch_sub(&c->run->in_flight, 1);
            return;
        }
        if (!take_owed(c)) {
            give_slot(c->free, index);
            atomic_fetch_sub(&c->run->in_flight, 1);
            continue;
        }
        size_t number = atomic_fetch_add(&c->used, 1);
        send_request(c, index, number < c->capacity ? &c->records[number] : NULL, number, 0);
    }
}

static void on_end(void *context, reef_request *request, const reef_request_info *info)
{
    (void)request;
    slot *s = context;
    client *c = s->owner;
    load *run = c->run;
    size_t index = s->index;
    bool early = s->sent_ns < run->end_ns;
    if (s->record) {
        s->record->submit_ns = info->submit_ns;
        s->record->start_ns = info->start_ns;
        s->record->end_ns = info->end_ns;
        s->record->preemptions = info->preemptions;
        s->record->status = (uint8_t)info->status;
    }
    bool ok = info->status == REEF_OK;
    give_slot(ok ? c->done : c->free, index);
    if (ok && !run->options.poll_ns) {
        sem_post(&run->work);
    }
    if (c->closed) {
        unsigned failures = ok ? 0 : atomic_load(&c->failures) + 1;
        atomic_store(&c->failures, failures);
        if (failures < MAX_FAILURES && c->think_ns) {
            atomic_store(&c->answered_ns, reef_now_ns());
            sem_post(&c->answered);
        } else if (failures < MAX_FAILURES) {
            atomic_fetch_add(&c->owed, 1);
            pump(c);
        }
    }
    if (early) {
        atomic_fetch_add(&c->ended_early, 1);
    }
    atomic_fetch_sub(&run->in_flight, 1); /* last: after this load_run may return */
}

bool load_raise_priority(void)
{
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    struct sched_param parameter = {.sched_priority = 1};
    return pthread_setschedparam(pthread_self(), SCHED_RR, &parameter) == 0;
}

static void *try_priority(void *context)
{
    *(bool *)context = load_raise_priority();
    return NULL;
}

bool load_can_raise_priority(void)
{
    pthread_t thread;
    bool can = false;
    if (pthread_create(&thread, NULL, try_priority, &can) == 0) {
        pthread_join(thread, NULL);
    }
    return can;
}

void load_sleep_until(uint64_t due_ns, uint64_t spin_ns)
{
    uint64_t wake = due_ns > spin_ns ? due_ns - spin_ns : 0;
    struct timespec until = {(time_t)(wake / 1000000000u), (long)(wake % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
    while (reef_now_ns() < due_ns) {
        reef_cpu_relax();
    }
}

typedef struct generator {
    load *run;
    client *only; /* NULL: every open-loop client */
    pthread_t thread;
} generator;

static client *next_due_client(const generator *g)
{
    client *first = NULL;
    load *run = g->run;
    for (size_t i = 0; i < run->n_clients; i++) {
        client *c = &run->clients[i];
        if ((g->only && g->only != c) || c->next_due >= c->n_due) {
            continue;
        }
        if (!first || c->due[c->next_due] < first->due[first->next_due]) {
            first = c;
        }
    }
    return first;
}

static void send_due(client *c)
{
    load *run = c->run;
    size_t number = c->next_due++, index;
    load_record *record = &c->records[number];
    uint64_t due = run->start_ns + c->due[number];
    atomic_fetch_add(&run->in_flight, 1);
    if (!take_slot(c, &index)) {
        *record = (load_record){.due_ns = due, .sent_ns = reef_now_ns(), .status = LOAD_DROPPED};
        atomic_fetch_sub(&run->in_flight, 1);
        return;
    }
    send_request(c, index, record, number, due);
}

static void *generate(void *context)
{
    generator *g = context;
    load *run = g->run;
    load_raise_priority();
    for (client *c; (c = next_due_client(g)) && !atomic_load(&run->stopping);) {
        uint64_t due = run->start_ns + c->due[c->next_due], now = reef_now_ns();
        if (due > now + 50000000u) {
            load_sleep_until(now + 40000000u, 0); /* so that `stopping` is seen */
            continue;
        }
        if (due > now) {
            load_sleep_until(due, run->options.spin_ns);
        }
        send_due(c);
    }
    return NULL;
}

static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore)) {
    }
}

/* One request in flight: there is one answer to think about at a time. */
static void *think(void *context)
{
    generator *g = context;
    client *c = g->only;
    load_raise_priority();
    for (wait_for(&c->answered); !atomic_load(&g->run->stopping); wait_for(&c->answered)) {
        load_sleep_until(atomic_load(&c->answered_ns) + c->think_ns, g->run->options.spin_ns);
        atomic_fetch_add(&c->owed, 1);
        pump(c);
    }
    return NULL;
}

/* ---------------------------------------------------------------------------------------------- verifying -- */

static void verify_done(load *run)
{
    for (size_t i = 0; i < run->n_clients; i++) {
        client *c = &run->clients[i];
        for (size_t w = 0; w < WORDS; w++) {
            for (uint64_t mask = atomic_exchange(&c->done[w], 0); mask; mask &= mask - 1) {
                size_t index = w * 64 + (size_t)__builtin_ctzll(mask);
                bench_verify(c->spec.verifier, index, c->slots[index].number);
                give_slot(c->free, index);
                if (c->closed) {
                    pump(c);
                }
            }
        }
    }
}

static void *verifier(void *context)
{
    load *run = context;
    for (;;) {
        if (run->options.poll_ns) {
            load_sleep_until(reef_now_ns() + run->options.poll_ns, 0);
        } else {
            wait_for(&run->work);
        }
        bool end = atomic_load(&run->verifier_end);
        verify_done(run);
        if (end) {
            return NULL;
        }
    }
}

/* ------------------------------------------------------------------------------------------------ the run -- */

static reef_status create_client(load *run, client *c, const load_client_spec *spec)
{
    const bench_arrival *arrival = &spec->client->arrival;
    const load_options *options = &run->options;
    c->run = run;
    c->spec = *spec;
    c->closed = arrival->kind == BENCH_CLOSED;
    c->think_ns = c->closed && arrival->concurrency == 1 ? arrival->think_ns : 0;
    sem_init(&c->answered, 0, 0);
    c->deadline_ns = spec->client->deadline_us * 1000;
    c->capacity = spec->max_records;
    if (!c->closed) {
        uint64_t span = options->warmup_ns + options->window_ns + options->max_tail_ns;
        reef_status status =
            bench_arrival_times(arrival, spec->scale, spec->seed, spec->from_ns, span, &c->due, &c->n_due);
        if (status) {
            return status;
        }
        c->capacity = c->n_due;
    }
    c->records = malloc((c->capacity + 1) * sizeof *c->records);
    if (!c->records) {
        return REEF_NO_MEMORY;
    }
    memset(c->records, 0, (c->capacity + 1) * sizeof *c->records); /* page faults now, not while measuring */
    for (size_t i = 0; i < LOAD_MAX_SLOTS; i++) {
        c->slots[i] = (slot){.owner = c, .index = i};
        if (i < spec->verifier->n_slots && (c->closed || i < spec->max_in_flight)) {
            give_slot(c->free, i);
        }
    }
    atomic_init(&c->owed, c->closed ? arrival->concurrency : 0);
    return REEF_OK;
}

reef_status load_create(const load_client_spec *specs, size_t n, const load_options *options, load **out,
                        reef_error *error)
{
    load *run = calloc(1, sizeof *run);
    if (run) {
        run->options = *options;
        run->clients = calloc(n + 1, sizeof *run->clients);
        run->generators = calloc(n + 1, sizeof *run->generators);
        sem_init(&run->work, 0, 0);
    }
    reef_status status = run && run->clients && run->generators ? REEF_OK : REEF_NO_MEMORY;
    for (size_t i = 0; !status && i < n; i++) {
        run->n_clients = i + 1;
        status = create_client(run, &run->clients[i], &specs[i]);
    }
    if (status) {
        load_destroy(run);
        return reef_fail(error, status, "out of memory for the records of a run: lower --seconds or the rates");
    }
    *out = run;
    return REEF_OK;
}

void load_destroy(load *run)
{
    if (!run) {
        return;
    }
    for (size_t i = 0; i < run->n_clients; i++) {
        free(run->clients[i].records);
        free(run->clients[i].due);
        sem_destroy(&run->clients[i].answered);
    }
    free(run->clients);
    free(run->generators);
    sem_destroy(&run->work);
    free(run);
}

static void sleep_showing_progress(const load *run, uint64_t until_ns)
{
    const load_options *options = &run->options;
    size_t total = (size_t)((run->end_ns - run->start_ns) / 1000000);
    for (uint64_t now; (now = reef_now_ns()) < until_ns;) {
        if (options->progress) {
            options->progress(options->progress_context, options->what, (size_t)((now - run->start_ns) / 1000000),
                              total);
        }
        load_sleep_until(until_ns - now > 500000000u ? now + 500000000u : until_ns, 0);
    }
}

/* The load goes on until closed-loop requests that were in flight at the window's end have ended. */
static void run_tail(load *run)
{
    uint64_t limit = run->end_ns + run->options.max_tail_ns;
    bool waiting = true;
    while (waiting && reef_now_ns() < limit) {
        waiting = false;
        for (size_t i = 0; i < run->n_clients; i++) {
            client *c = &run->clients[i];
            waiting = waiting || (c->closed && atomic_load(&c->ended_early) < atomic_load(&c->sent_early));
        }
        load_sleep_until(reef_now_ns() + 2000000u, 0);
    }
}

/* Starts the threads that send for the open-loop clients, and for those that think. Returns how many run; *ok is false
 * when one is missing. */
static size_t start_generators(load *run, generator *generators, bool *ok)
{
    size_t n = 0;
    bool all = false; /* one that sends for all open-loop clients runs */
    *ok = true;
    for (size_t i = 0; *ok && i < run->n_clients; i++) {
        client *c = &run->clients[i];
        bool alone = c->think_ns || run->options.thread_per_client;
        if (c->closed ? !c->think_ns : !c->n_due || (all && !alone)) {
            continue;
        }
        all |= !alone;
        generators[n] = (generator){.run = run, .only = alone ? c : NULL};
        *ok = pthread_create(&generators[n].thread, NULL, c->closed ? think : generate, &generators[n]) == 0;
        n += *ok;
    }
    return n;
}

reef_status load_run(load *run, reef_error *error)
{
    pthread_t verifying;
    run->start_ns = reef_now_ns() + 5000000u;
    run->begin_ns = run->start_ns + run->options.warmup_ns;
    run->end_ns = run->begin_ns + run->options.window_ns;
    if (pthread_create(&verifying, NULL, verifier, run)) {
        return reef_fail(error, REEF_NO_MEMORY, "cannot start a thread");
    }
    bool started;
    size_t n_generators = start_generators(run, run->generators, &started);
    if (started) {
        for (size_t i = 0; i < run->n_clients; i++) {
            pump(&run->clients[i]);
        }
        sleep_showing_progress(run, run->end_ns);
        run_tail(run);
    }
    run->stopped_ns = reef_now_ns();
    atomic_store(&run->stopping, true);
    for (size_t i = 0; i < run->n_clients; i++) {
        sem_post(&run->clients[i].answered); /* after `stopping` is set, so that a thread that thinks sees it */
    }
    for (size_t i = 0; i < n_generators; i++) {
        pthread_join(run->generators[i].thread, NULL);
    }
    uint64_t limit = reef_now_ns() + DRAIN_LIMIT_NS;
    while (atomic_load(&run->in_flight) && reef_now_ns() < limit) {
        load_sleep_until(reef_now_ns() + 1000000u, 0);
    }
    atomic_store(&run->verifier_end, true);
    sem_post(&run->work);
    pthread_join(verifying, NULL);
    if (!started) {
        return reef_fail(error, REEF_NO_MEMORY, "cannot start a thread");
    }
    return atomic_load(&run->in_flight)
               ? reef_fail(error, REEF_TIMEOUT, "%zu requests did not end within %llu s of the run's end",
                           atomic_load(&run->in_flight), (unsigned long long)(DRAIN_LIMIT_NS / 1000000000u))
               : REEF_OK;
}

void load_window(const load *run, uint64_t *begin_ns, uint64_t *end_ns)
{
    *begin_ns = run->begin_ns;
    *end_ns = run->end_ns;
}

uint64_t load_stopped(const load *run)
{
    return run->stopped_ns;
}

const load_record *load_records(const load *run, size_t client_index, size_t *n)
{
    const client *c = &run->clients[client_index];
    size_t used = c->closed ? atomic_load(&c->used) : c->next_due;
    *n = used < c->capacity ? used : c->capacity;
    return c->records;
}

size_t load_unrecorded(const load *run, size_t client_index)
{
    const client *c = &run->clients[client_index];
    size_t used = atomic_load(&c->used);
    return c->closed && used > c->capacity ? used - c->capacity : 0;
}
