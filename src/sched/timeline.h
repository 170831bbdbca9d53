/*
 * timeline.h - what the scheduler tells its trace (base/trace.h), when it has one. All under the scheduler's lock.
 *
 *   request     [submitted ............................................ ended]
 *   mode                  [real-time work waits or runs ...............]
 *   preempt               [lease, RT launch, eviction]
 *   BE queue              [preempted: leaves the device | waits       ][back]
 *   launches    [first tile .. last]                                    [first tile .. last]
 */
#ifndef REEF_SCHED_TIMELINE_H
#define REEF_SCHED_TIMELINE_H

#include "sched/sched.h"

static inline uint64_t reef_timeline_now(const reef_sched *sched)
{
    return sched->trace ? sched->clock.now_ns(sched->clock.context) : 0;
}

/* A task has been accepted. */
void reef_timeline_submitted(reef_sched *sched, reef_task *task);
/* It has ended: status and times are final. */
void reef_timeline_ended(reef_sched *sched, const reef_task *task);
/* A launch of `task` has left the device. */
void reef_timeline_launch(reef_sched *sched, const reef_task *task, const reef_event *event);
/* The host's part of a preemption, from when the lease was to change until BE work was told. */
void reef_timeline_preempt(reef_sched *sched, uint64_t begin_ns, const reef_task *task);
/* The scheduler leaves real-time mode, which it entered at sched->mode_ns. */
void reef_timeline_mode(reef_sched *sched);
/* Units were taken from a best-effort queue; its last launch has left the device; it is back, or has nothing left to
 * come back with. Each notes what is new and nothing otherwise. */
void reef_timeline_taken(reef_sched *sched, reef_vhq *vhq);
void reef_timeline_vacated(reef_sched *sched, reef_vhq *vhq);
void reef_timeline_back(reef_sched *sched, reef_vhq *vhq);

#endif
