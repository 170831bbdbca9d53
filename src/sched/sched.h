/*
 * sched.h - the scheduler: who runs, when to preempt, what to leave leased.
 *
 * Where it sits: task queues -> [scheduler] -> virtual host queues. It is a state machine without a thread of its own:
 * whoever brings news (a caller submitting, a compute unit finishing a launch) takes the lock, lets the machine settle,
 * and delivers the tasks that ended after dropping the lock. So an idle scheduler costs nothing, an RT arrival reaches
 * the device without a thread switch, and tests drive every step by hand.
 *
 *            RT task arrives: lease, launch, evict
 *   normal ------------------------------------------> real-time
 *      ^                                                   |
 *      '---------------------------------------------------'
 *            last RT task done: answer; when no other came with that: lease everything, fill BE queues
 *
 * RT tasks run one at a time, in the order of their queue.
 */
#ifndef REEF_SCHED_SCHED_H
#define REEF_SCHED_SCHED_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/trace.h"
#include "sched/policy.h"

typedef struct reef_sched_stats {
    uint64_t rt_completed, be_completed, preemptions, kernels_evicted;
} reef_sched_stats;

/* How long choosing padding took, for the newest so many launches. */
enum { REEF_SELECT_TIMES = 1024 };
typedef struct reef_select_times {
    uint32_t ns[REEF_SELECT_TIMES];
    uint64_t n; /* ever; the newest is at (n - 1) % REEF_SELECT_TIMES */
} reef_select_times;

typedef struct reef_sched {
    pthread_mutex_t lock; /* guards everything below */
    reef_dev *dev;
    reef_clock clock;
    const reef_policy *policy;

    reef_dqueue *rt_queue;
    reef_list rt_waiting;
    unsigned rt_waiting_count, rt_waiting_limit;
    reef_task *rt_running;
    bool rt_mode;      /* RT work waits or runs: the lease and the queues are in the policy's RT state */
    bool be_beside_rt; /* in RT mode: BE launches go on (the lease left them something) */
    unsigned rt_units; /* units that the lease keeps from BE work; 0 outside RT mode */
    bool held;         /* tasks wait and none starts: the device is somebody else's (profiling) */
    reef_vhq *padding[REEF_LAUNCH_MAX_PADS]; /* queues whose tiles ride in the current RT launch */
    unsigned n_padding;
    reef_select_times select_times;

    reef_list queues;     /* of reef_vhq; rotated so that padding takes turns */
    reef_list ended;      /* tasks to deliver once the lock is dropped */
    unsigned coming_back; /* threads that deliver and settle after that: until they have, the scheduler is needed */
    pthread_cond_t came_back;
    reef_sched_stats stats;
    reef_trace *trace;                /* NULL: nothing is recorded */
    uint64_t mode_ns;                 /* with a trace: when real-time mode was entered */
    uint64_t be_turn_ns;              /* when best-effort work had all units last */
    uint64_t rt_since_ns, rt_left_ns; /* real-time work has not paused since; its last request ended */
    unsigned rt_most;                 /* units that any of it has needed since */
} reef_sched;

/* dev's events must be routed to reef_sched_event with this scheduler. clock: NULL for the real one. */
reef_status reef_sched_init(reef_sched *sched, reef_dev *dev, const reef_policy *policy, unsigned rt_waiting_limit,
                            const reef_clock *clock);
/* No task may be left. Waits for the thread that delivers the last one: it comes back to the scheduler. */
void reef_sched_destroy(reef_sched *sched);

void reef_sched_add_queue(reef_sched *sched, reef_vhq *vhq);
/* The queue must be empty. */
void reef_sched_remove_queue(reef_sched *sched, reef_vhq *vhq);

/* Takes the task (its vhq says which queue; NULL: real-time). QUEUE_FULL or REFUSED: the task is the caller's again. */
reef_status reef_sched_submit(reef_sched *sched, reef_task *task);
/* Ends every waiting task whose deadline has passed; the earliest deadline of those that still wait, UINT64_MAX: none. */
uint64_t reef_sched_expire(reef_sched *sched);
/* No effect on an ended task. */
void reef_sched_cancel(reef_sched *sched, reef_task *task);
void reef_sched_event(void *sched, const reef_event *event);

/* Takes the device away from the scheduler: until it is released tasks queue up and none starts. BUSY unless nothing
 * waits or runs, or when it is held already. */
reef_status reef_sched_hold(reef_sched *sched);
void reef_sched_release(reef_sched *sched);

/* The device must be held. */
void reef_sched_set_policy(reef_sched *sched, const reef_policy *policy);
void reef_sched_stats_get(reef_sched *sched, reef_sched_stats *out);
const reef_policy *reef_sched_policy(reef_sched *sched);
/* Median time that choosing the padding of a launch took, of the newest REEF_SELECT_TIMES; 0 before the first. *n: how
 * many were chosen ever. */
uint64_t reef_sched_select_p50_ns(reef_sched *sched, uint64_t *n);

/* Records into trace from now on, by the scheduler's clock. BUSY when one is being recorded already. */
reef_status reef_sched_trace_begin(reef_sched *sched, reef_trace *trace);
/* The trace, which is the caller's again; NULL when none was being recorded. */
reef_trace *reef_sched_trace_end(reef_sched *sched);
/* A span of the caller's own. */
void reef_sched_trace_span(reef_sched *sched, const char *name, uint64_t begin_ns, uint64_t end_ns);

#endif
