/*
 * sched.c - the state machine.
 *
 * Everything named with a verb here runs under the lock. settle() is the heart: it brings the device's queues in line
 * with the tasks that wait and run, and is called after every change.
 */
#include "sched/sched.h"

#include <stdlib.h>

#include "sched/pad.h"
#include "sched/timeline.h"

/* Of real-time requests that come right behind each other one so long makes room for best-effort work. */
enum { BE_TURN_NS = 2 * 1000 * 1000 };
/* What counts as a pause of real-time work; and how long units stay divided in one, once they are (and then until the next
 * launch of best-effort work has ended: no timer looks). */
enum { PAUSE_NS = 50 * 1000, LINGER_NS = 1000 * 1000 };

static const reef_device_ops *ops_of(const reef_sched *sched)
{
    return sched->dev->ops;
}

static void end_task(reef_sched *sched, reef_task *task, reef_status status)
{
    task->status = status;
    task->state = REEF_TASK_ENDED;
    task->end_ns = sched->clock.now_ns(sched->clock.context);
    reef_timeline_ended(sched, task);
    reef_list_insert(&sched->ended, &task->link);
}

/* Ended tasks that this thread is about to deliver; NULL when it delivers none. A callback that submits may end tasks on
 * the spot (their deadline has passed): they join this list, so that callbacks never nest, however many follow. */
static _Thread_local reef_list *delivering;

/* Drops the lock, then delivers. A task may be gone the moment its on_end was called. */
static void unlock_and_deliver(reef_sched *sched)
{
    reef_list own, *ended = delivering ? delivering : &own;
    reef_list_init(&own);
    while (!reef_list_empty(&sched->ended)) {
        reef_list *link = sched->ended.next;
        reef_list_remove(link);
        reef_list_insert(ended, link);
    }
    pthread_mutex_unlock(&sched->lock);
    if (delivering) {
        return;
    }
    delivering = &own;
    while (!reef_list_empty(&own)) {
        reef_task *task = reef_task_first(&own);
        reef_list_remove(&task->link);
        task->on_end(task);
    }
    delivering = NULL;
}

/* --------------------------------------------------------- real-time side -- */

/* The first RT task that may still run; ends those that are too late. */
static reef_task *next_rt(reef_sched *sched)
{
    for (reef_task *task; (task = reef_task_first(&sched->rt_waiting));) {
        if (!task->deadline_ns || sched->clock.now_ns(sched->clock.context) <= task->deadline_ns) {
            return task;
        }
        reef_list_remove(&task->link);
        sched->rt_waiting_count--;
        end_task(sched, task, REEF_DEADLINE);
    }
    return NULL;
}

static bool rt_has_paused(const reef_sched *sched, uint64_t now)
{
    return now - sched->rt_left_ns > (sched->be_beside_rt ? LINGER_NS : PAUSE_NS);
}

/* Units that real-time work keeps for itself under a policy that leaves the others to best-effort work. Where dividing
 * them takes long, they are divided when real-time work comes without a pause, and by what the widest of it needs. */
static unsigned units_kept(reef_sched *sched, const reef_task *task)
{
    const unsigned units = sched->dev->units;
    unsigned needed = task->units_needed < units ? task->units_needed : units;
    if (ops_of(sched)->left_over) {
        needed = units - ops_of(sched)->left_over(sched->dev, units - needed);
    }
    if (!ops_of(sched)->divide_after_ns) {
        return needed;
    }
    const uint64_t now = sched->clock.now_ns(sched->clock.context);
    if (rt_has_paused(sched, now)) {
        sched->rt_since_ns = now;
        sched->rt_most = 0;
    }
    sched->rt_most = needed > sched->rt_most ? needed : sched->rt_most;
    return now - sched->rt_since_ns < ops_of(sched)->divide_after_ns ? units : sched->rt_most;
}

/* Are the units to stay divided for a while, though no real-time request is there? */
static bool lingers(const reef_sched *sched)
{
    return sched->policy->lease == REEF_LEASE_LEFTOVER && sched->be_beside_rt && ops_of(sched)->divide_after_ns &&
           !rt_has_paused(sched, sched->clock.now_ns(sched->clock.context));
}

/* Units that best-effort work is to leave to the request. */
static unsigned units_for(reef_sched *sched, const reef_task *task)
{
    switch (sched->policy->lease) {
    case REEF_LEASE_ALL: return 0;
    case REEF_LEASE_LEFTOVER: return units_kept(sched, task);
    case REEF_LEASE_NOTHING: return sched->dev->units;
    }
    return 0;
}

static void set_lease(reef_sched *sched, unsigned first)
{
    const unsigned units = sched->dev->units;
    sched->be_beside_rt = sched->policy->be_fill && first < units;
    sched->rt_units = first;
    if (sched->policy->lease != REEF_LEASE_ALL) {
        ops_of(sched)->lease(sched->dev, reef_lease_make(first, units));
    }
}

/* Takes BE work off the device as the policy says and counts what that did to whom. Returns whether anything was there. */
static bool evict_be(reef_sched *sched)
{
    const reef_policy *policy = sched->policy;
    /* Where BE work keeps some units its launches stay: only the workers outside the lease leave. */
    bool stays = policy->evict == REEF_KEEP || (policy->lease == REEF_LEASE_LEFTOVER && sched->be_beside_rt);
    bool takes = policy->evict != REEF_KEEP, any = false;
    for (reef_list *link = sched->queues.next; takes && link != &sched->queues; link = link->next) {
        reef_vhq *vhq = REEF_CONTAINER(link, reef_vhq, link);
        bool touched = vhq->on_device > 0;
        if (!stays) {
            reef_evict how = policy->evict == REEF_TAKE_QUEUED ? REEF_EVICT_QUEUED : REEF_EVICT_NOW;
            sched->stats.kernels_evicted += reef_vhq_evict(vhq, how, &touched);
        }
        if (touched && vhq->running) {
            vhq->running->preemptions++;
            reef_timeline_taken(sched, vhq);
            reef_timeline_vacated(sched, vhq); /* all of it waited in the ring */
        }
        any |= touched;
    }
    sched->stats.preemptions += any;
    return any;
}

static bool be_quiet(const reef_sched *sched, bool tasks)
{
    for (reef_list *link = sched->queues.next; link != &sched->queues; link = link->next) {
        const reef_vhq *vhq = REEF_CONTAINER(link, reef_vhq, link);
        if (vhq->on_device || (tasks && vhq->running)) {
            return false;
        }
    }
    return true;
}

static bool may_start_rt(const reef_sched *sched)
{
    switch (sched->policy->start) {
    case REEF_AT_ONCE: return true;
    case REEF_AFTER_KERNEL: return be_quiet(sched, false);
    case REEF_AFTER_TASK: return be_quiet(sched, true);
    }
    return true;
}

static void note_launch(const reef_sched *sched, reef_task *task)
{
    if (!task->launch_ns) {
        task->launch_ns = sched->clock.now_ns(sched->clock.context);
    }
}

static void select_padding(reef_sched *sched, const reef_kernel_cost *rt, reef_launch *launch)
{
    reef_select_times *times = &sched->select_times;
    uint64_t begin = sched->clock.now_ns(sched->clock.context);
    reef_pad_select(rt, sched->dev->units, &sched->queues, launch, sched->padding);
    uint64_t ns = sched->clock.now_ns(sched->clock.context) - begin;
    times->ns[times->n++ % REEF_SELECT_TIMES] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
    sched->n_padding = launch->n_pads;
    for (unsigned i = 0; i < sched->n_padding; i++) {
        sched->padding[i]->padding++;
    }
}

/* Hands the running RT task's next launch to the device: all that is left, or one padded kernel. */
static void launch_rt(reef_sched *sched)
{
    reef_task *task = sched->rt_running;
    uint32_t first = ops_of(sched)->progress(task->instance);
    reef_launch launch = {
        .instance = task->instance,
        .first = first,
        .count = task->kernels - first,
        .mode = REEF_LAUNCH_PLAIN,
        .tag = NULL, /* BE launches carry their queue */
    };
    launch.padded = sched->policy->pad && ops_of(sched)->pad;
    if (sched->policy->pad && !launch.padded && first < task->kernels) {
        launch.count = 1;
        select_padding(sched, &task->costs[first], &launch);
    }
    /* Never full: the RT queue holds one launch, of the one running task. */
    ops_of(sched)->launch(sched->rt_queue, &launch);
    note_launch(sched, task);
}

/* The units leave BE work while the RT launch is being written, not while its inputs are being copied. */
static void start_rt(reef_sched *sched, reef_task *task, bool take_units)
{
    reef_list_remove(&task->link);
    sched->rt_waiting_count--;
    task->instance = task->pool->free[--task->pool->n_free];
    task->state = REEF_TASK_RUNNING;
    sched->rt_running = task;
    ops_of(sched)->begin(task->instance, 0, task->inputs, task->outputs);
    if (ops_of(sched)->stage) {
        ops_of(sched)->stage(task->instance);
    }
    const unsigned first = take_units ? units_for(sched, task) : 0;
    /* Not where the units are divided: the launch would be for its part of them. */
    const bool launch_first = first == sched->dev->units && !sched->be_beside_rt && ops_of(sched)->launch_first &&
                              ops_of(sched)->launch_first(sched->dev);
    if (take_units && !launch_first) {
        set_lease(sched, first);
    }
    launch_rt(sched);
    if (launch_first) {
        set_lease(sched, first);
    }
}

static void leave_rt_mode(reef_sched *sched)
{
    sched->rt_mode = sched->be_beside_rt = false;
    sched->rt_units = 0;
    sched->be_turn_ns = sched->clock.now_ns(sched->clock.context);
    ops_of(sched)->lease(sched->dev, reef_lease_make(0, sched->dev->units));
    reef_timeline_mode(sched);
}

static void settle_rt(reef_sched *sched)
{
    if (sched->rt_running) {
        return;
    }
    reef_task *task = next_rt(sched);
    if (!task) {
        if (sched->rt_mode && !lingers(sched)) {
            leave_rt_mode(sched);
        }
        return;
    }
    bool entering = !sched->rt_mode;
    unsigned rt_units = sched->rt_units; /* of the request before, when this one comes right behind it */
    uint64_t begin = reef_timeline_now(sched);
    if (entering) {
        sched->mode_ns = begin;
    }
    sched->rt_mode = true;
    /* The order is the point: the bookkeeping of what BE work has left comes last. */
    bool started = sched->policy->start == REEF_AT_ONCE;
    if (started) {
        start_rt(sched, task, true);
    } else {
        set_lease(sched, units_for(sched, task));
    }
    if (entering || sched->rt_units > rt_units) {
        if (evict_be(sched)) {
            reef_timeline_preempt(sched, begin, task);
        }
    }
    if (!started && may_start_rt(sched)) {
        start_rt(sched, task, false);
    }
}

/* ------------------------------------------------------- best-effort side -- */

static void settle_be_task(reef_sched *sched, reef_vhq *vhq, reef_status status)
{
    reef_task *task = vhq->running;
    reef_vhq_finish(vhq);
    sched->stats.be_completed += status == REEF_OK;
    end_task(sched, task, status);
}

static void start_be(reef_sched *sched, reef_vhq *vhq)
{
    while (!vhq->running) {
        reef_task *task = reef_task_first(&vhq->waiting);
        if (!task) {
            return;
        }
        if (task->deadline_ns && sched->clock.now_ns(sched->clock.context) > task->deadline_ns) {
            reef_list_remove(&task->link);
            vhq->waiting_count--;
            end_task(sched, task, REEF_DEADLINE);
            continue;
        }
        if (!reef_vhq_start(vhq)) {
            return;
        }
        if (vhq->running->kernels == 0) {
            settle_be_task(sched, vhq, REEF_OK);
        }
    }
}

/* While real-time work has all units, what rides in it needs a launch of its own to begin with, and one to end. */
static bool needs_launch(const reef_sched *sched, const reef_vhq *vhq)
{
    const reef_task *task = vhq->running;
    if (!sched->policy->pad || !ops_of(sched)->pad || !task || vhq->on_device || vhq->evicting) {
        return false;
    }
    return !task->start_ns || ops_of(sched)->progress(task->instance) + 1 >= task->kernels;
}

static void settle_be(reef_sched *sched)
{
    const reef_policy *policy = sched->policy;
    bool start = !sched->rt_mode || (policy->be_start && (sched->be_beside_rt || policy->pad));
    bool fill = !sched->rt_mode || sched->be_beside_rt;
    for (reef_list *link = sched->queues.next; link != &sched->queues; link = link->next) {
        reef_vhq *vhq = REEF_CONTAINER(link, reef_vhq, link);
        if (vhq->running && vhq->running->cancel && reef_vhq_quiet(vhq)) {
            settle_be_task(sched, vhq, REEF_CANCELLED);
        }
        if (start) {
            start_be(sched, vhq);
        }
        if ((fill || needs_launch(sched, vhq)) && vhq->padding == 0) {
            reef_vhq_fill(vhq, policy->be_mode);
            if (vhq->running && vhq->on_device) {
                note_launch(sched, vhq->running);
            }
        }
        reef_timeline_back(sched, vhq);
    }
}

static void settle(reef_sched *sched)
{
    if (sched->held) {
        return;
    }
    settle_rt(sched);
    settle_be(sched);
    /* A BE task that ended just now may have been what an RT task waits for (seq). */
    if (!sched->rt_running && !reef_list_empty(&sched->rt_waiting)) {
        settle_rt(sched);
    }
}

/* ----------------------------------------------------------------- events -- */

static void end_padding(reef_sched *sched, const reef_event *event)
{
    for (unsigned i = 0; i < sched->n_padding; i++) {
        reef_vhq *vhq = sched->padding[i];
        vhq->padding--;
        if (event->padded_tiles && vhq->running && !vhq->running->start_ns) {
            vhq->running->start_ns = event->start_ns;
        }
        if (reef_vhq_event(vhq, NULL)) {
            settle_be_task(sched, vhq, REEF_OK);
        }
        /* Whoever rode along goes to the end of the line. */
        reef_list_remove(&vhq->link);
        reef_list_insert(&sched->queues, &vhq->link);
    }
    sched->n_padding = 0;
    if (!sched->policy->pad || !ops_of(sched)->pad) {
        return;
    }
    for (reef_list *link = sched->queues.next; link != &sched->queues; link = link->next) {
        reef_vhq_event(REEF_CONTAINER(link, reef_vhq, link),
                       NULL); /* how far it has come; it ends by a launch of its own */
    }
}

static void rt_event(reef_sched *sched, const reef_event *event)
{
    reef_task *task = sched->rt_running;
    end_padding(sched, event);
    if (!task->start_ns) {
        task->start_ns = event->start_ns;
    }
    bool failed = event->kind == REEF_EVENT_FAILED;
    bool done = !failed && ops_of(sched)->progress(task->instance) >= task->kernels;
    if (!done && !failed && !task->cancel) {
        launch_rt(sched);
        return;
    }
    sched->rt_running = NULL;
    sched->rt_left_ns = sched->clock.now_ns(sched->clock.context);
    task->pool->free[task->pool->n_free++] = task->instance;
    task->instance = NULL;
    sched->stats.rt_completed += done;
    end_task(sched, task, failed ? REEF_DEVICE : done ? REEF_OK : REEF_CANCELLED);
}

/* Whoever hears of a request's end may submit the next one on the spot. Where best-effort work would get units back and lose
 * them again in between, it waits until that has been heard; but what has none at all meanwhile has its turn now and
 * then. */
static bool waits_to_be_heard(const reef_sched *sched)
{
    if (sched->rt_running || !sched->rt_mode || sched->policy->lease == REEF_LEASE_ALL || delivering ||
        !reef_list_empty(&sched->rt_waiting)) {
        return false;
    }
    return sched->be_beside_rt || sched->clock.now_ns(sched->clock.context) - sched->be_turn_ns < BE_TURN_NS;
}

void reef_sched_event(void *context, const reef_event *event)
{
    reef_sched *sched = context;
    pthread_mutex_lock(&sched->lock);
    if (!event->tag) {
        reef_timeline_launch(sched, sched->rt_running, event);
        rt_event(sched, event);
        if (waits_to_be_heard(sched)) {
            sched->coming_back++;
            unlock_and_deliver(sched);
            pthread_mutex_lock(&sched->lock);
            sched->coming_back--;
            pthread_cond_broadcast(&sched->came_back);
        }
    } else {
        reef_vhq *vhq = event->tag;
        reef_timeline_launch(sched, vhq->running, event);
        reef_task *ended = reef_vhq_event(vhq, event);
        reef_timeline_vacated(sched, vhq);
        if (ended) {
            settle_be_task(sched, vhq, vhq->failed ? REEF_DEVICE : REEF_OK);
        }
    }
    settle(sched);
    unlock_and_deliver(sched);
}

/* ---------------------------------------------------------------- callers -- */

reef_status reef_sched_submit(reef_sched *sched, reef_task *task)
{
    reef_status status = REEF_OK;
    pthread_mutex_lock(&sched->lock);
    task->submit_ns = sched->clock.now_ns(sched->clock.context);
    task->state = REEF_TASK_QUEUED;
    if (!task->vhq) {
        if (sched->rt_waiting_count >= sched->rt_waiting_limit) {
            status = REEF_QUEUE_FULL;
        } else {
            reef_task_enqueue(&sched->rt_waiting, task);
            sched->rt_waiting_count++;
        }
    } else if (!sched->policy->serve_be) {
        status = REEF_REFUSED;
    } else if (task->vhq->waiting_count >= task->vhq->waiting_limit) {
        status = REEF_QUEUE_FULL;
    } else {
        reef_task_enqueue(&task->vhq->waiting, task);
        task->vhq->waiting_count++;
    }
    if (!status) {
        reef_timeline_submitted(sched, task);
        settle(sched);
    }
    unlock_and_deliver(sched);
    return status;
}

void reef_sched_cancel(reef_sched *sched, reef_task *task)
{
    pthread_mutex_lock(&sched->lock);
    if (task->state == REEF_TASK_QUEUED) {
        reef_list_remove(&task->link);
        if (task->vhq) {
            task->vhq->waiting_count--;
        } else {
            sched->rt_waiting_count--;
        }
        end_task(sched, task, REEF_CANCELLED);
    } else if (task->state == REEF_TASK_RUNNING && !task->cancel) {
        task->cancel = true;
        if (task->vhq) {
            bool touched;
            reef_vhq_evict(task->vhq, REEF_EVICT_NOW, &touched);
        } else {
            reef_evicted evicted;
            ops_of(sched)->evict(sched->rt_queue, REEF_EVICT_NOW, &evicted);
            if (evicted.launches) { /* it had not started: no event will come */
                rt_event(sched, &(reef_event){.kind = REEF_EVENT_EVICTED});
            }
        }
    }
    settle(sched);
    unlock_and_deliver(sched);
}

/* Ends the tasks at the front of a queue that are too late (a queue is in the order of deadlines); the next deadline. */
static uint64_t expire(reef_sched *sched, reef_list *queue, unsigned *count, uint64_t now)
{
    for (reef_task *task; (task = reef_task_first(queue)) && task->deadline_ns;) {
        if (now <= task->deadline_ns) {
            return task->deadline_ns;
        }
        reef_list_remove(&task->link);
        *count -= 1;
        end_task(sched, task, REEF_DEADLINE);
    }
    return UINT64_MAX;
}

uint64_t reef_sched_expire(reef_sched *sched)
{
    pthread_mutex_lock(&sched->lock);
    uint64_t now = sched->clock.now_ns(sched->clock.context);
    uint64_t next = expire(sched, &sched->rt_waiting, &sched->rt_waiting_count, now);
    for (reef_list *link = sched->queues.next; link != &sched->queues; link = link->next) {
        reef_vhq *vhq = REEF_CONTAINER(link, reef_vhq, link);
        uint64_t first = expire(sched, &vhq->waiting, &vhq->waiting_count, now);
        next = first < next ? first : next;
    }
    if (!reef_list_empty(&sched->ended)) {
        settle(sched); /* the last RT task may have gone */
    }
    unlock_and_deliver(sched);
    return next;
}

static uint64_t real_now(void *context)
{
    (void)context;
    return reef_now_ns();
}

reef_status reef_sched_init(reef_sched *sched, reef_dev *dev, const reef_policy *policy, unsigned rt_waiting_limit,
                            const reef_clock *clock)
{
    *sched = (reef_sched){
        .dev = dev,
        .policy = policy,
        .rt_waiting_limit = rt_waiting_limit,
        .clock = clock ? *clock : (reef_clock){.now_ns = real_now},
    };
    pthread_mutex_init(&sched->lock, NULL);
    pthread_cond_init(&sched->came_back, NULL);
    reef_list_init(&sched->rt_waiting);
    reef_list_init(&sched->queues);
    reef_list_init(&sched->ended);
    reef_status status = dev->ops->queue_create(dev, true, 2, 1, &sched->rt_queue);
    if (!status) {
        dev->ops->queue_priority(sched->rt_queue, policy->rt_first ? 1 : 0);
    }
    return status;
}

void reef_sched_destroy(reef_sched *sched)
{
    pthread_mutex_lock(&sched->lock);
    while (sched->coming_back) {
        pthread_cond_wait(&sched->came_back, &sched->lock);
    }
    pthread_mutex_unlock(&sched->lock);
    if (sched->rt_queue) {
        ops_of(sched)->queue_destroy(sched->rt_queue);
    }
    pthread_cond_destroy(&sched->came_back);
    pthread_mutex_destroy(&sched->lock);
}

static bool number_taken(const reef_sched *sched, unsigned number)
{
    for (reef_list *link = sched->queues.next; link != &sched->queues; link = link->next) {
        if (REEF_CONTAINER(link, reef_vhq, link)->number == number) {
            return true;
        }
    }
    return false;
}

void reef_sched_add_queue(reef_sched *sched, reef_vhq *vhq)
{
    pthread_mutex_lock(&sched->lock);
    for (vhq->number = 1; number_taken(sched, vhq->number); vhq->number++) {
    }
    reef_list_insert(&sched->queues, &vhq->link);
    pthread_mutex_unlock(&sched->lock);
}

void reef_sched_remove_queue(reef_sched *sched, reef_vhq *vhq)
{
    pthread_mutex_lock(&sched->lock);
    reef_list_remove(&vhq->link);
    pthread_mutex_unlock(&sched->lock);
}

/* Whether nothing waits or runs; then the device has all its units together, too, though the last real-time request may
 * have ended a moment ago. */
static bool become_idle(reef_sched *sched)
{
    bool any = sched->held || sched->rt_running || !reef_list_empty(&sched->rt_waiting) || !be_quiet(sched, true);
    for (reef_list *link = sched->queues.next; link != &sched->queues; link = link->next) {
        any |= REEF_CONTAINER(link, reef_vhq, link)->waiting_count > 0;
    }
    if (!any && sched->rt_mode) {
        leave_rt_mode(sched);
    }
    return !any;
}

reef_status reef_sched_hold(reef_sched *sched)
{
    pthread_mutex_lock(&sched->lock);
    bool can = become_idle(sched);
    sched->held |= can;
    pthread_mutex_unlock(&sched->lock);
    return can ? REEF_OK : REEF_BUSY;
}

void reef_sched_release(reef_sched *sched)
{
    pthread_mutex_lock(&sched->lock);
    sched->held = false;
    settle(sched);
    unlock_and_deliver(sched);
}

void reef_sched_set_policy(reef_sched *sched, const reef_policy *policy)
{
    pthread_mutex_lock(&sched->lock);
    sched->policy = policy;
    ops_of(sched)->queue_priority(sched->rt_queue, policy->rt_first ? 1 : 0);
    pthread_mutex_unlock(&sched->lock);
}

void reef_sched_stats_get(reef_sched *sched, reef_sched_stats *out)
{
    pthread_mutex_lock(&sched->lock);
    *out = sched->stats;
    pthread_mutex_unlock(&sched->lock);
}

const reef_policy *reef_sched_policy(reef_sched *sched)
{
    pthread_mutex_lock(&sched->lock);
    const reef_policy *policy = sched->policy;
    pthread_mutex_unlock(&sched->lock);
    return policy;
}

static int by_time(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

uint64_t reef_sched_select_p50_ns(reef_sched *sched, uint64_t *n)
{
    reef_select_times times;
    pthread_mutex_lock(&sched->lock);
    times = sched->select_times;
    pthread_mutex_unlock(&sched->lock);
    size_t kept = times.n < REEF_SELECT_TIMES ? (size_t)times.n : REEF_SELECT_TIMES;
    qsort(times.ns, kept, sizeof times.ns[0], by_time);
    *n = times.n;
    return kept ? times.ns[(kept - 1) / 2] : 0;
}

reef_status reef_sched_trace_begin(reef_sched *sched, reef_trace *trace)
{
    pthread_mutex_lock(&sched->lock);
    bool free = !sched->trace;
    if (free) {
        trace->start_ns = sched->clock.now_ns(sched->clock.context);
        sched->trace = trace;
    }
    pthread_mutex_unlock(&sched->lock);
    return free ? REEF_OK : REEF_BUSY;
}

reef_trace *reef_sched_trace_end(reef_sched *sched)
{
    pthread_mutex_lock(&sched->lock);
    reef_trace *trace = sched->trace;
    sched->trace = NULL;
    sched->mode_ns = 0;
    pthread_mutex_unlock(&sched->lock);
    return trace;
}

void reef_sched_trace_span(reef_sched *sched, const char *name, uint64_t begin_ns, uint64_t end_ns)
{
    pthread_mutex_lock(&sched->lock);
    if (sched->trace) {
        reef_trace_add(sched->trace, &(reef_trace_span){.kind = REEF_TRACE_CALLER, .at = {begin_ns, 0, 0, end_ns}},
                       name);
    }
    pthread_mutex_unlock(&sched->lock);
}
