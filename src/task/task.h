/*
 * task.h - a task: one request on its way through the queues.
 *
 * Where it sits: between the API's session, which makes it, and the scheduler, which runs it. A task holds an instance
 * (buffers and progress on the device) only while it is started and not ended.
 *
 *     QUEUED -> RUNNING -> ENDED        QUEUED -> ENDED (deadline, cancelled, refused)
 */
#ifndef REEF_TASK_TASK_H
#define REEF_TASK_TASK_H

#include "base/list.h"
#include "device/device.h"

typedef enum reef_task_state { REEF_TASK_QUEUED, REEF_TASK_RUNNING, REEF_TASK_ENDED } reef_task_state;

/* What the scheduler knows of a kernel: from its profile, or an estimate until there is one. */
typedef struct reef_kernel_cost {
    uint32_t tiles;
    uint64_t tile_ns; /* one tile on one compute unit */
} reef_kernel_cost;

typedef struct reef_task {
    reef_list link;            /* in its queue, then in the scheduler's list of ended tasks */
    const void *const *inputs; /* borrowed until the task has ended */
    void *const *outputs;
    uint64_t deadline_ns;                            /* 0: none */
    uint64_t submit_ns, launch_ns, start_ns, end_ns; /* launch: its first launch has been handed to the device */
    uint64_t trace_id;                               /* its number in the scheduler's trace; 0: none */
    const char *name;                                /* of its model, for traces; borrowed, may be NULL */
    uint32_t preemptions;
    reef_status status;
    reef_task_state state;
    bool cancel; /* asked to end early; acted on by the scheduler */
    reef_instance *instance;
    struct reef_instances *pool;   /* where its instance comes from and goes back to */
    struct reef_vhq *vhq;          /* the queue of a best-effort task; NULL for real-time */
    uint32_t kernels;              /* of its plan */
    const reef_kernel_cost *costs; /* one per kernel; may be updated between tasks */
    unsigned units_needed;         /* compute units that its widest kernel can fill */
    /* Called once, with no lock held, after everything above is final. The task is the callee's from then on. */
    void (*on_end)(struct reef_task *task);
} reef_task;

/* Instances of one program; tasks take turns on them. */
typedef struct reef_instances {
    reef_instance **free;
    unsigned n_free, n;
} reef_instances;

reef_status reef_instances_create(reef_program *program, unsigned n, reef_instances *out, reef_error *error);
/* Every instance must be back. */
void reef_instances_destroy(reef_instances *pool);

/* Order of service among waiting tasks: earliest deadline first, tasks without one after those with one, equals in
 * order of arrival. A list without deadlines is a FIFO at no cost. */
void reef_task_enqueue(reef_list *queue, reef_task *task);
/* The first waiting task, or NULL. */
reef_task *reef_task_first(const reef_list *queue);

#endif
