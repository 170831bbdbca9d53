/*
 * loadgen.h - asks the device for what a workload says, at the times it says, and writes down what happened.
 *
 *     due times --> generator thread --submit--> device --callback--> record, slot done --> verifier thread --> slot free
 *                   closed-loop clients: the callback (or whoever frees a slot) submits the next request
 *
 * One generator thread sends for all open-loop clients where processors are scarce (the CPU device), one each where they
 * are not: there a client that is due while another one's inputs are being copied need not wait for that. A closed-loop
 * client that thinks between an answer and its next request has a thread of its own in either case.
 *
 * Open loop: all due times are known before the run starts, and a request's latency counts from when it was due,
 * however late it was sent. Nothing is allocated between load_run's start and end: records and output slots are there
 * before. A run is: warm-up, window (what counts), tail. In the tail the load goes on until the closed-loop requests that
 * crossed the window's end have finished, so that they are not finished for it by an idle device.
 */
#ifndef REEF_BENCH_LOADGEN_H
#define REEF_BENCH_LOADGEN_H

#include "bench/verify.h"

enum { LOAD_MAX_SLOTS = 256 };

/* What became of a request; reef's own statuses otherwise. */
enum { LOAD_PENDING = 254, LOAD_DROPPED = 255 };

typedef struct load_record {
    uint64_t due_ns, sent_ns;             /* sent: when the generator called submit */
    uint64_t submit_ns, start_ns, end_ns; /* as the device says */
    uint32_t preemptions;
    uint8_t status; /* reef_status, LOAD_DROPPED: never sent, all slots were in flight */
} load_record;

typedef struct load_client_spec {
    const bench_client *client;
    reef_session *session;
    const void *const *inputs;
    bench_verifier *verifier; /* its slots bound the requests in flight */
    double scale;             /* of the rate */
    uint64_t seed;
    uint64_t from_ns;     /* where in a trace to begin */
    size_t max_in_flight; /* open loop: what is due beyond is dropped; also bounded by the verifier's slots */
    size_t max_records;   /* closed loop: requests beyond are served but not recorded */
} load_client_spec;

typedef struct load_options {
    uint64_t warmup_ns, window_ns, max_tail_ns;
    uint64_t spin_ns;       /* a generator stops sleeping this long before a due time and spins */
    bool thread_per_client; /* for open-loop clients; else one for all */
    uint64_t poll_ns; /* how often the verifier looks for answers; 0: it is woken for each, by the device's thread */
    reef_progress progress;
    void *progress_context;
    const char *what; /* for progress */
} load_options;

typedef struct load load;

/* Borrows specs' contents until load_destroy. */
reef_status load_create(const load_client_spec *specs, size_t n, const load_options *options, load **out,
                        reef_error *error);
/* Runs it once and waits until nothing is in flight. TIMEOUT when the device does not finish what it accepted (then
 * the load, its sessions and buffers must be leaked: requests still point at them). */
reef_status load_run(load *run, reef_error *error);
void load_destroy(load *run);

/* After the run. The window is [*begin, *end). */
void load_window(const load *run, uint64_t *begin_ns, uint64_t *end_ns);
/* When clients stopped sending: the tail's end. What ended later may have had the device to itself. */
uint64_t load_stopped(const load *run);
const load_record *load_records(const load *run, size_t client, size_t *n);
/* Requests that were served and not recorded. */
size_t load_unrecorded(const load *run, size_t client);

/* Gives the calling thread real-time priority where the system allows it: the generator stands for the world outside,
 * which does not queue for this machine's processors. */
bool load_raise_priority(void);
/* Whether it does, found out on a thread of its own. */
bool load_can_raise_priority(void);
/* Sleeps until an absolute CLOCK_MONOTONIC time, spinning for the last spin_ns. */
void load_sleep_until(uint64_t due_ns, uint64_t spin_ns);

#endif
