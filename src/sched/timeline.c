/*
 * timeline.c - see timeline.h.
 */
#include "sched/timeline.h"

static uint32_t queue_of(const reef_task *task)
{
    return task->vhq ? task->vhq->number : 0;
}

void reef_timeline_submitted(reef_sched *sched, reef_task *task)
{
    if (sched->trace) {
        task->trace_id = ++sched->trace->requests;
    }
}

void reef_timeline_ended(reef_sched *sched, const reef_task *task)
{
    if (!sched->trace || !task->trace_id || task->submit_ns < sched->trace->start_ns) {
        return; /* submitted before the trace began */
    }
    reef_trace_span span = {
        .kind = REEF_TRACE_REQUEST,
        .at = {task->submit_ns, task->launch_ns, task->start_ns, task->end_ns},
        .id = task->trace_id,
        .queue = queue_of(task),
        .value = task->preemptions,
        .status = (uint8_t)task->status,
    };
    reef_trace_add(sched->trace, &span, task->name);
}

void reef_timeline_launch(reef_sched *sched, const reef_task *task, const reef_event *event)
{
    if (!sched->trace || !task || !event->start_ns) {
        return; /* nothing of it ran */
    }
    reef_trace_span span = {
        .kind = REEF_TRACE_LAUNCH,
        .at = {event->start_ns, 0, 0, event->end_ns},
        .queue = queue_of(task),
        .value = sched->dev->ops->progress(task->instance),
        .padded_tiles = event->padded_tiles,
        .status = (uint8_t)event->kind,
    };
    reef_trace_add(sched->trace, &span, task->name);
}

void reef_timeline_preempt(reef_sched *sched, uint64_t begin_ns, const reef_task *task)
{
    if (sched->trace && begin_ns) {
        reef_trace_span span = {.kind = REEF_TRACE_PREEMPT, .at = {begin_ns, 0, 0, reef_timeline_now(sched)}};
        reef_trace_add(sched->trace, &span, task->name);
    }
}

void reef_timeline_mode(reef_sched *sched)
{
    if (sched->trace && sched->mode_ns) {
        reef_trace_span span = {.kind = REEF_TRACE_MODE, .at = {sched->mode_ns, 0, 0, reef_timeline_now(sched)}};
        reef_trace_add(sched->trace, &span, NULL);
    }
    sched->mode_ns = 0;
}

void reef_timeline_taken(reef_sched *sched, reef_vhq *vhq)
{
    if (sched->trace && !vhq->taken_ns) {
        vhq->taken_ns = reef_timeline_now(sched);
        vhq->vacated_ns = 0;
    }
}

void reef_timeline_vacated(reef_sched *sched, reef_vhq *vhq)
{
    if (vhq->taken_ns && !vhq->vacated_ns && !vhq->on_device) {
        vhq->vacated_ns = reef_timeline_now(sched);
    }
}

void reef_timeline_back(reef_sched *sched, reef_vhq *vhq)
{
    if (!vhq->taken_ns || sched->rt_mode || (vhq->running && (vhq->evicting || !vhq->on_device))) {
        return;
    }
    if (sched->trace) {
        reef_trace_span span = {
            .kind = REEF_TRACE_PREEMPTED,
            .at = {vhq->taken_ns, vhq->vacated_ns, 0, reef_timeline_now(sched)},
            .queue = vhq->number,
        };
        reef_trace_add(sched->trace, &span, vhq->running ? vhq->running->name : NULL);
    }
    vhq->taken_ns = vhq->vacated_ns = 0;
}
