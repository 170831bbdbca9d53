/*
 * vhq.h - a virtual host queue: what one best-effort caller has asked for and the device has not finished.
 *
 * Where it sits: task queue -> [virtual host queue -> device queue] -> compute units. Kernels wait here, on the host,
 * where taking them back is free; only a bounded number of launches is handed to the device queue (REEF section 4.2).
 *
 *     tasks:   [T1 running][T2 queued][T3 queued]
 *                  ^cursor: the next kernel to hand over
 *     device:  [T1 k8..15][T1 k0..7]        at most `capacity` launches
 *
 * Eviction takes back what the device has not finished. There is no list of evicted kernels to restore: when the last
 * evicted launch has left the device, the cursor is set to the device's own progress, and filling goes on from there.
 *
 * Not thread safe: the scheduler's lock guards it.
 */
#ifndef REEF_QUEUE_VHQ_H
#define REEF_QUEUE_VHQ_H

#include "task/task.h"

typedef struct reef_vhq {
    reef_list link; /* in the scheduler's list of queues */
    reef_dqueue *dqueue;
    reef_list waiting;  /* tasks that have not started */
    reef_task *running; /* the task that the cursor is in, or NULL */
    uint32_t cursor;    /* next kernel of `running` to hand to the device */
    unsigned on_device; /* launches whose events are to come */
    unsigned padding;   /* RT launches that carry tiles of `running` */
    unsigned segment;   /* kernels per launch */
    unsigned waiting_count, waiting_limit;
    unsigned number;               /* of the queue, from 1; set by the scheduler */
    uint64_t taken_ns, vacated_ns; /* for the scheduler's trace: when RT work took units, when it was off the device */
    bool evicting;                 /* until on_device is 0 */
    bool failed;                   /* the device failed under `running`: it ends as soon as it is off the device */
} reef_vhq;

reef_status reef_vhq_create(reef_dev *dev, unsigned capacity, unsigned weight, unsigned waiting_limit, reef_vhq *out);
/* Must be empty. */
void reef_vhq_destroy(reef_vhq *vhq);

/* Starts the next waiting task if none runs and an instance is free. Returns it, or NULL. */
reef_task *reef_vhq_start(reef_vhq *vhq);
/* Hands launches to the device until its queue is full or nothing is left to hand over. */
void reef_vhq_fill(reef_vhq *vhq, reef_launch_mode mode);
/* Takes back what the device has not finished. Returns the kernels that had not started; *touched says whether the
 * device held anything of this queue that was not on its way out already. */
unsigned reef_vhq_evict(reef_vhq *vhq, reef_evict how, bool *touched);
/* A launch of this queue has left the device, or (padded) an RT launch that carried its tiles. Returns the task when
 * that finished it; the caller ends it with reef_vhq_finish. */
reef_task *reef_vhq_event(reef_vhq *vhq, const reef_event *event);
/* Is the running task off the device, so that it may be cancelled, padded, or finished? */
bool reef_vhq_quiet(const reef_vhq *vhq);
/* Detaches the running task and gives its instance back. The queue must be quiet. */
void reef_vhq_finish(reef_vhq *vhq);

#endif
