/*
 * vhq.c - filling, evicting and resuming a virtual host queue.
 */
#include "queue/vhq.h"

static const reef_device_ops *ops_of(const reef_vhq *vhq)
{
    return vhq->dqueue->dev->ops;
}

reef_status reef_vhq_create(reef_dev *dev, unsigned capacity, unsigned weight, unsigned waiting_limit, reef_vhq *out)
{
    *out = (reef_vhq){
        .segment = dev->ops->segment_kernels ? dev->ops->segment_kernels : 1,
        .waiting_limit = waiting_limit,
    };
    reef_list_init(&out->link);
    reef_list_init(&out->waiting);
    return dev->ops->queue_create(dev, false, capacity, weight, &out->dqueue);
}

void reef_vhq_destroy(reef_vhq *vhq)
{
    if (vhq->dqueue) {
        ops_of(vhq)->queue_destroy(vhq->dqueue);
    }
    vhq->dqueue = NULL;
}

reef_task *reef_vhq_start(reef_vhq *vhq)
{
    reef_task *task = reef_task_first(&vhq->waiting);
    if (vhq->running || !task || task->pool->n_free == 0) {
        return NULL;
    }
    reef_list_remove(&task->link);
    vhq->waiting_count--;
    task->instance = task->pool->free[--task->pool->n_free];
    task->state = REEF_TASK_RUNNING;
    ops_of(vhq)->begin(task->instance, 0, task->inputs, task->outputs);
    vhq->running = task;
    vhq->cursor = 0;
    return task;
}

void reef_vhq_fill(reef_vhq *vhq, reef_launch_mode mode)
{
    reef_task *task = vhq->running;
    if (!task || vhq->evicting || vhq->failed || task->cancel) {
        return;
    }
    while (vhq->cursor < task->kernels) {
        /* Up to where a segment ends when nothing was taken back: devices keep something ready for each. */
        uint32_t left = task->kernels - vhq->cursor, whole = vhq->segment - vhq->cursor % vhq->segment;
        reef_launch launch = {
            .instance = task->instance,
            .first = vhq->cursor,
            .count = left < whole ? left : whole,
            .mode = mode,
            .tag = vhq,
        };
        if (ops_of(vhq)->launch(vhq->dqueue, &launch)) {
            return;
        }
        vhq->cursor += launch.count;
        vhq->on_device++;
    }
}

static void settle(reef_vhq *vhq)
{
    if (vhq->evicting && vhq->on_device == 0) {
        vhq->evicting = false;
        if (vhq->running) {
            vhq->cursor = ops_of(vhq)->progress(vhq->running->instance);
        }
    }
}

unsigned reef_vhq_evict(reef_vhq *vhq, reef_evict how, bool *touched)
{
    *touched = vhq->on_device > 0 && !vhq->evicting;
    if (!vhq->on_device) {
        return 0;
    }
    reef_evicted evicted;
    ops_of(vhq)->evict(vhq->dqueue, how, &evicted);
    vhq->on_device -= evicted.launches;
    vhq->evicting = true;
    settle(vhq);
    return evicted.kernels;
}

reef_task *reef_vhq_event(reef_vhq *vhq, const reef_event *event)
{
    if (event) {
        vhq->on_device--;
        vhq->failed |= event->kind == REEF_EVENT_FAILED;
        if (event->kind == REEF_EVENT_EVICTED && !vhq->evicting) { /* the device let go of it: start over from there */
            bool touched;
            reef_vhq_evict(vhq, REEF_EVICT_NOW, &touched);
        }
        /* Two units may bring the events of two launches in either order. */
        if (vhq->running && event->start_ns && (!vhq->running->start_ns || event->start_ns < vhq->running->start_ns)) {
            vhq->running->start_ns = event->start_ns;
        }
    }
    settle(vhq);
    if (vhq->running && reef_vhq_quiet(vhq)) {
        uint32_t progress = ops_of(vhq)->progress(vhq->running->instance);
        if (progress >= vhq->running->kernels || vhq->failed) {
            return vhq->running;
        }
        vhq->cursor = progress; /* padding may have moved it while nothing was on the device */
    }
    return NULL;
}

bool reef_vhq_quiet(const reef_vhq *vhq)
{
    return vhq->on_device == 0 && vhq->padding == 0;
}

void reef_vhq_finish(reef_vhq *vhq)
{
    reef_task *task = vhq->running;
    vhq->running = NULL;
    vhq->failed = false;
    task->pool->free[task->pool->n_free++] = task->instance;
    task->instance = NULL;
}
