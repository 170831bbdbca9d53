/*
 * test_sched.c - the scheduler on a fake device: every decision, step by step, under an injected clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "sched/sched.h"
#include "support/fake_device.h"

enum { UNITS = 4, MAX_TASKS = 8 };

typedef struct world {
    fake_device device;
    fake_program rt_program, be_program;
    reef_instances rt_instances, be_instances;
    reef_sched sched;
    reef_vhq queues[2];
    reef_kernel_cost rt_costs[16], be_costs[16];
    reef_task tasks[MAX_TASKS];
    int ended[MAX_TASKS];
    int n_ended, order[MAX_TASKS];
    uint64_t now, tick; /* tick: what each reading of the clock adds */
} world;

static world *current;

static uint64_t now_ns(void *context)
{
    world *w = context;
    return w->now += w->tick;
}

static void on_end(reef_task *task)
{
    long i = task - current->tasks;
    current->ended[i]++;
    current->order[current->n_ended++] = (int)i;
}

static world *world_make(const char *policy, uint32_t rt_kernels, uint32_t rt_tiles, uint32_t be_kernels,
                         uint32_t be_tiles)
{
    world *w = calloc(1, sizeof *w);
    current = w;
    fake_device_init(&w->device, UNITS);
    fake_program_init(&w->rt_program, &w->device, rt_kernels, rt_tiles);
    fake_program_init(&w->be_program, &w->device, be_kernels, be_tiles);
    for (int i = 0; i < 16; i++) {
        w->rt_costs[i] = (reef_kernel_cost){.tiles = rt_tiles, .tile_ns = 100000};
        w->be_costs[i] = (reef_kernel_cost){.tiles = be_tiles, .tile_ns = 50000};
    }
    reef_clock clock = {.now_ns = now_ns, .context = w};
    assert_int_equal(reef_sched_init(&w->sched, &w->device.base, reef_policy_find(policy), 4, &clock), REEF_OK);
    w->device.config = (reef_dev_config){.on_event = reef_sched_event, .context = &w->sched};
    assert_int_equal(reef_instances_create(&w->rt_program.base, 1, &w->rt_instances, NULL), REEF_OK);
    assert_int_equal(reef_instances_create(&w->be_program.base, 4, &w->be_instances, NULL), REEF_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(reef_vhq_create(&w->device.base, 2, 1, 3, &w->queues[i]), REEF_OK);
        reef_sched_add_queue(&w->sched, &w->queues[i]);
    }
    return w;
}

/* Every instance must be back where it came from. */
static void world_free(world *w)
{
    assert_int_equal(w->rt_instances.n_free, w->rt_instances.n);
    assert_int_equal(w->be_instances.n_free, w->be_instances.n);
    reef_instances_destroy(&w->rt_instances);
    reef_instances_destroy(&w->be_instances);
    for (int i = 0; i < 2; i++) {
        reef_sched_remove_queue(&w->sched, &w->queues[i]);
        reef_vhq_destroy(&w->queues[i]);
    }
    reef_sched_destroy(&w->sched);
    fake_device_free(&w->device);
    free(w);
}

static reef_status submit_rt(world *w, int i, uint64_t deadline)
{
    w->tasks[i] = (reef_task){
        .deadline_ns = deadline,
        .pool = &w->rt_instances,
        .kernels = (uint32_t)w->rt_program.plan.n_kernels,
        .costs = w->rt_costs,
        .units_needed = w->rt_program.tiles < UNITS ? w->rt_program.tiles : UNITS,
        .on_end = on_end,
    };
    reef_list_init(&w->tasks[i].link);
    return reef_sched_submit(&w->sched, &w->tasks[i]);
}

static reef_status submit_be(world *w, int i, int queue, uint64_t deadline)
{
    w->tasks[i] = (reef_task){
        .deadline_ns = deadline,
        .pool = &w->be_instances,
        .vhq = &w->queues[queue],
        .kernels = (uint32_t)w->be_program.plan.n_kernels,
        .costs = w->be_costs,
        .on_end = on_end,
    };
    reef_list_init(&w->tasks[i].link);
    return reef_sched_submit(&w->sched, &w->tasks[i]);
}

static void drain(world *w)
{
    static const char *const names[] = {"rt", "be0", "be1"};
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < 3; i++) {
            any |= fake_leave(&w->device, names[i]) || fake_finish(&w->device, names[i]);
        }
    }
}

#define assert_log(w, text) assert_string_equal(fake_log(&(w)->device), text)

/* ------------------------------------------------------------------ tests -- */

static void a_queue_hands_over_no_more_than_the_device_queue_holds(void **state)
{
    (void)state;
    world *w = world_make("reset", 3, 8, 12, 8);
    assert_int_equal(submit_be(w, 0, 0, 0), REEF_OK);
    assert_log(w, "launch be0 0+4 leased\nlaunch be0 4+4 leased\n");
    for (int k = 0; k < 4; k++) {
        fake_finish(&w->device, "be0");
    }
    assert_log(w, "launch be0 8+4 leased\n");
    drain(w);
    assert_int_equal(w->ended[0], 1);
    assert_int_equal(w->tasks[0].status, REEF_OK);
    assert_int_equal(w->tasks[0].preemptions, 0);
    world_free(w);
}

static void reset_takes_the_lease_before_it_launches_and_evicts_last(void **state)
{
    (void)state;
    world *w = world_make("reset", 3, 8, 12, 8);
    submit_be(w, 0, 0, 0);
    fake_finish_tiles(&w->device, "be0", 2);
    fake_log(&w->device);
    submit_rt(w, 1, 0);
    assert_log(w, "lease 4..4\nlaunch rt 0+3\nevict be0 now\n");
    assert_int_equal(w->sched.stats.preemptions, 1);
    assert_int_equal(w->sched.stats.kernels_evicted, 3 + 4);
    assert_int_equal(w->tasks[0].preemptions, 1);
    drain(w);
    world_free(w);
}

static void best_effort_work_resumes_at_the_first_unfinished_kernel(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 12, 8);
    submit_be(w, 0, 0, 0);
    fake_finish(&w->device, "be0");
    fake_finish_tiles(&w->device, "be0", 2); /* kernel 1 is part done */
    submit_rt(w, 1, 0);
    fake_leave(&w->device, "be0");
    fake_log(&w->device);
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 0..4\nlaunch be0 1+3 leased\nlaunch be0 4+4 leased\n");
    assert_int_equal(w->ended[1], 1);
    drain(w);
    assert_int_equal(w->ended[0], 1);
    world_free(w);
}

static void resuming_waits_until_the_evicted_launch_has_left(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 4, 8);
    submit_be(w, 0, 0, 0);
    fake_finish_tiles(&w->device, "be0", 2);
    submit_rt(w, 1, 0);
    fake_log(&w->device);
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 0..4\n");
    fake_leave(&w->device, "be0");
    assert_log(w, "launch be0 0+4 leased\n");
    drain(w);
    world_free(w);
}

static void a_second_request_right_behind_the_first_keeps_the_lease_shrunk(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 4, 8);
    submit_be(w, 0, 0, 0);
    submit_rt(w, 1, 0);
    submit_rt(w, 2, 0);
    fake_log(&w->device);
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 4..4\nlaunch rt 0+1\n");
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 0..4\nlaunch be0 0+4 leased\n");
    assert_int_equal(w->sched.stats.preemptions, 1);
    drain(w);
    world_free(w);
}

static void wait_evicts_queued_kernels_and_starts_behind_the_running_one(void **state)
{
    (void)state;
    world *w = world_make("wait", 1, 8, 12, 8);
    submit_be(w, 0, 0, 0);
    fake_finish_tiles(&w->device, "be0", 3);
    fake_log(&w->device);
    submit_rt(w, 1, 0);
    assert_log(w, "evict be0 queued\n");
    fake_finish(&w->device, "be0"); /* the running kernel ends */
    assert_log(w, "launch rt 0+1\n");
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 0..4\nlaunch be0 1+3\nlaunch be0 4+4\n");
    drain(w);
    world_free(w);
}

static void seq_finishes_the_running_request_and_starts_no_other(void **state)
{
    (void)state;
    world *w = world_make("seq", 1, 8, 4, 8);
    submit_be(w, 0, 0, 0);
    submit_be(w, 1, 0, 0);
    fake_finish(&w->device, "be0");
    submit_rt(w, 2, 0);
    fake_log(&w->device);
    for (int k = 0; k < 3; k++) {
        fake_finish(&w->device, "be0");
    }
    assert_log(w, "launch rt 0+1\n");
    assert_int_equal(w->ended[0], 1);
    fake_finish(&w->device, "rt");
    drain(w);
    assert_int_equal(w->order[0], 0);
    assert_int_equal(w->order[1], 2);
    assert_int_equal(w->order[2], 1);
    world_free(w);
}

static void streams_gives_both_classes_the_same_priority_and_stops_nothing(void **state)
{
    (void)state;
    world *w = world_make("streams", 1, 8, 12, 8);
    assert_int_equal(((fake_queue *)w->sched.rt_queue)->priority, 0);
    submit_be(w, 0, 0, 0);
    submit_rt(w, 1, 0);
    assert_log(w, "launch be0 0+4\nlaunch be0 4+4\nlaunch rt 0+1\n");
    for (int k = 0; k < 4; k++) {
        fake_finish(&w->device, "be0");
    }
    assert_log(w, "launch be0 8+4\n");
    assert_int_equal(w->sched.stats.preemptions, 0);
    drain(w);
    world_free(w);
}

static void priority_differs_from_streams_in_the_device_priority_alone(void **state)
{
    (void)state;
    world *w = world_make("priority", 1, 8, 4, 8);
    assert_int_equal(((fake_queue *)w->sched.rt_queue)->priority, 1);
    submit_be(w, 0, 0, 0);
    submit_rt(w, 1, 0);
    assert_log(w, "launch be0 0+4\nlaunch rt 0+1\n");
    drain(w);
    world_free(w);
}

static void lease_leaves_the_units_that_the_plan_cannot_fill(void **state)
{
    (void)state;
    world *w = world_make("lease", 2, 3, 12, 8); /* RT kernels of 3 tiles on 4 units */
    submit_be(w, 0, 0, 0);
    fake_finish_tiles(&w->device, "be0", 1);
    fake_log(&w->device);
    submit_rt(w, 1, 0);
    assert_log(w, "lease 3..4\nlaunch rt 0+2\n");
    for (int k = 0; k < 4; k++) {
        fake_finish(&w->device, "be0"); /* the leftover unit goes on */
    }
    assert_log(w, "launch be0 8+4 leased\n");
    assert_int_equal(w->tasks[0].preemptions, 1);
    drain(w);
    world_free(w);
}

typedef struct closer {
    pthread_t thread;
    reef_sched *sched;
    atomic_bool closed;
} closer;

static closer closing;

static void *close_sched(void *argument)
{
    closer *c = argument;
    reef_sched_destroy(c->sched);
    atomic_store(&c->closed, true);
    return NULL;
}

/* Whoever hears of the last request's end closes the device; the thread that tells it still needs the scheduler. */
static void end_and_close(reef_task *task)
{
    on_end(task);
    assert_int_equal(pthread_create(&closing.thread, NULL, close_sched, &closing), 0);
    for (int i = 0; i < 100 && !atomic_load(&closing.closed); i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_false(atomic_load(&closing.closed));
}

static void the_scheduler_is_not_gone_before_whoever_delivers_is_done_with_it(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 3, 12, 8);
    closing = (closer){.sched = &w->sched};
    submit_rt(w, 0, 0);
    w->tasks[0].on_end = end_and_close;
    fake_log(&w->device);
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 0..4\n"); /* BE work gets its units back after that */
    assert_int_equal(pthread_join(closing.thread, NULL), 0);
    assert_true(atomic_load(&closing.closed));
    assert_int_equal(w->ended[0], 1);
    for (int i = 0; i < 2; i++) {
        reef_vhq_destroy(&w->queues[i]);
    }
    reef_instances_destroy(&w->rt_instances);
    reef_instances_destroy(&w->be_instances);
    fake_device_free(&w->device);
    free(w);
}

/* A profile that begins, or a policy that changes, while BE work waits for the end of a request to be heard. */
static void hold_right_after_a_request(reef_task *task)
{
    on_end(task);
    assert_int_equal(reef_sched_hold(&current->sched), REEF_OK);
}

static void whoever_holds_the_device_has_all_of_it(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 3, 12, 8);
    submit_rt(w, 0, 0);
    w->tasks[0].on_end = hold_right_after_a_request;
    fake_log(&w->device);
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 0..4\n");
    submit_be(w, 1, 0, 0);
    assert_log(w, "");
    reef_sched_release(&w->sched);
    assert_log(w, "launch be0 0+4 leased\nlaunch be0 4+4 leased\n");
    drain(w);
    assert_int_equal(w->ended[1], 1);
    world_free(w);
}

static unsigned in_twos(reef_dev *dev, unsigned n)
{
    (void)dev;
    return n - n % 2;
}

/* What no lease would give is not left over. */
static void lease_leaves_as_many_units_as_the_device_can_give(void **state)
{
    (void)state;
    for (uint32_t tiles = 1; tiles <= UNITS; tiles++) {
        world *w = world_make("lease", 1, tiles, 12, 8);
        reef_device_ops ops = *w->device.base.ops;
        ops.left_over = in_twos;
        w->device.base.ops = &ops;
        submit_be(w, 0, 0, 0);
        fake_log(&w->device);
        submit_rt(w, 1, 0);
        assert_log(w, tiles > 2 ? "lease 4..4\nlaunch rt 0+1\nevict be0 now\n" : "lease 2..4\nlaunch rt 0+1\n");
        drain(w);
        assert_int_equal(w->ended[0] + w->ended[1], 2);
        world_free(w);
    }
}

/* Where dividing the units takes long, they are divided when real-time work does not pause, and stay so for a moment. */
static void lease_divides_slowly_where_dividing_takes_long(void **state)
{
    (void)state;
    world *w = world_make("lease", 1, 3, 12, 8); /* RT kernels of 3 tiles on 4 units */
    reef_device_ops ops = *w->device.base.ops;
    ops.divide_after_ns = 50000000;
    w->device.base.ops = &ops;
    w->now = 1000000000;
    submit_be(w, 0, 0, 0);
    fake_finish_tiles(&w->device, "be0", 1);
    fake_log(&w->device);
    submit_rt(w, 1, 0);
    assert_log(w, "lease 4..4\nlaunch rt 0+1\nevict be0 now\n"); /* as reset */
    fake_leave(&w->device, "be0");
    submit_rt(w, 2, 0);
    w->now += 49000000;
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 4..4\nlaunch rt 0+1\n");
    submit_rt(w, 3, 0);
    w->now += 1000000;
    fake_finish(&w->device, "rt"); /* 50 ms without a pause */
    assert_log(w, "lease 3..4\nlaunch rt 0+1\nlaunch be0 0+4 leased\nlaunch be0 4+4 leased\n");
    w->now += 1000000;
    fake_finish(&w->device, "rt"); /* none is there, but it may come */
    assert_log(w, "");
    w->now += 900000;
    submit_rt(w, 4, 0);
    assert_log(w, "lease 3..4\nlaunch rt 0+1\n");
    fake_finish(&w->device, "rt");
    w->now += 1100000;
    for (int k = 0; k < 4; k++) {
        fake_finish(&w->device, "be0"); /* its launch ends: now that is over */
    }
    assert_log(w, "lease 0..4\nlaunch be0 8+4 leased\n");
    submit_rt(w, 5, 0); /* the next one begins anew */
    assert_log(w, "lease 4..4\nlaunch rt 0+1\nevict be0 now\n");
    drain(w);
    world_free(w);
}

static void lease_is_reset_when_nothing_is_left_over(void **state)
{
    (void)state;
    world *w = world_make("lease", 2, 8, 4, 8);
    submit_be(w, 0, 0, 0);
    fake_finish_tiles(&w->device, "be0", 1);
    fake_log(&w->device);
    submit_rt(w, 1, 0);
    assert_log(w, "lease 4..4\nlaunch rt 0+2\nevict be0 now\n");
    drain(w);
    world_free(w);
}

static void lease_counts_a_preemption_once_however_many_wide_requests_follow(void **state)
{
    (void)state;
    world *w = world_make("lease", 1, 8, 4, 8);
    submit_be(w, 0, 0, 0);
    fake_finish_tiles(&w->device, "be0", 1);
    submit_rt(w, 1, 0);
    submit_rt(w, 2, 0);
    fake_finish(&w->device, "rt"); /* the best-effort launch has not left yet */
    assert_int_equal(w->sched.stats.preemptions, 1);
    assert_int_equal(w->tasks[0].preemptions, 1);
    drain(w);
    world_free(w);
}

static void a_wider_request_behind_a_narrow_one_is_a_preemption_of_its_own(void **state)
{
    (void)state;
    world *w = world_make("lease", 1, 1, 4, 8);
    submit_be(w, 0, 0, 0);
    fake_finish_tiles(&w->device, "be0", 1);
    submit_rt(w, 1, 0); /* takes one unit */
    assert_int_equal(w->sched.stats.preemptions, 1);
    w->rt_program.tiles = 3;
    submit_rt(w, 2, 0); /* takes two more, when its turn comes */
    w->rt_program.tiles = 1;
    submit_rt(w, 3, 0); /* gives them back */
    assert_int_equal(w->sched.stats.preemptions, 1);
    fake_log(&w->device);
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 3..4\nlaunch rt 0+1\n"); /* the best-effort launch stays, on one unit */
    assert_int_equal(w->sched.stats.preemptions, 2);
    assert_int_equal(w->tasks[0].preemptions, 2);
    fake_finish(&w->device, "rt");
    assert_int_equal(w->sched.stats.preemptions, 2);
    drain(w);
    assert_int_equal(w->tasks[0].status, REEF_OK);
    world_free(w);
}

enum { RESUBMISSIONS = 200000 };
static unsigned resubmitted, nested;

static void submit_again(reef_task *task)
{
    static unsigned depth;
    nested = ++depth > nested ? depth : nested;
    if (resubmitted < RESUBMISSIONS) {
        resubmitted++;
        submit_rt(current, 0, 1); /* its deadline has passed */
        current->tasks[0].on_end = submit_again;
    }
    depth--;
    (void)task;
}

static void callbacks_that_submit_what_ends_at_once_do_not_nest(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 1, 4, 8);
    w->now = 1000;
    resubmitted = nested = 0;
    w->tasks[0] = (reef_task){
        .deadline_ns = 1, .pool = &w->rt_instances, .kernels = 1, .costs = w->rt_costs, .on_end = submit_again};
    reef_list_init(&w->tasks[0].link);
    assert_int_equal(reef_sched_submit(&w->sched, &w->tasks[0]), REEF_OK);
    assert_int_equal(resubmitted, RESUBMISSIONS);
    assert_int_equal(nested, 1);
    world_free(w);
}

static void pad_fills_spare_slots_with_tiles_that_fit(void **state)
{
    (void)state;
    world *w = world_make("pad", 3, 3, 4, 8); /* one spare slot of 100 us: two BE tiles of 50 us */
    submit_be(w, 0, 0, 0);
    fake_finish_tiles(&w->device, "be0", 2);
    fake_log(&w->device);
    submit_rt(w, 1, 0);
    assert_log(w, "lease 4..4\nlaunch rt 0+1\nevict be0 now\n"); /* BE is still on the device: nothing to pad */
    fake_leave(&w->device, "be0");
    fake_finish(&w->device, "rt");
    assert_log(w, "launch rt 1+1 pad 0:2\n");
    fake_run_pad(&w->device, "rt", 2);
    fake_finish(&w->device, "rt");
    assert_log(w, "launch rt 2+1 pad 0:2\n");
    fake_run_pad(&w->device, "rt", 2);
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 0..4\nlaunch be0 0+4 leased\n");
    assert_int_equal(((fake_instance *)w->tasks[0].instance)->tiles_done, 6);
    drain(w);
    assert_int_equal(w->ended[0], 1);
    world_free(w);
}

static void pad_leaves_out_tiles_that_take_longer_than_the_kernel(void **state)
{
    (void)state;
    world *w = world_make("pad", 2, 3, 4, 8);
    for (int i = 0; i < 16; i++) {
        w->be_costs[i].tile_ns = 100001;
    }
    submit_rt(w, 1, 0);
    submit_be(w, 0, 0, 0);
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 4..4\nlaunch rt 0+1\nlaunch rt 1+1\n");
    drain(w);
    world_free(w);
}

/* The median is of the newest 1024 launches: those at 9 ns a reading of the clock have taken the place of those at 5. */
static void choosing_padding_is_timed(void **state)
{
    (void)state;
    uint64_t n = 1;
    world *w = world_make("pad", 1, 3, 4, 8);
    assert_int_equal(reef_sched_select_p50_ns(&w->sched, &n), 0);
    assert_int_equal(n, 0);
    for (uint64_t i = 1; i <= 700 + 800; i++) {
        w->tick = i <= 700 ? 5 : 9;
        submit_rt(w, 1, 0);
        fake_finish(&w->device, "rt");
        if (i == 1 || i == 700) {
            assert_int_equal(reef_sched_select_p50_ns(&w->sched, &n), 5);
            assert_int_equal(n, i);
        }
        fake_log(&w->device);
        w->n_ended = 0;
    }
    assert_int_equal(reef_sched_select_p50_ns(&w->sched, &n), 9);
    assert_int_equal(n, 1500);
    drain(w);
    world_free(w);
}

static void padding_can_finish_a_best_effort_request(void **state)
{
    (void)state;
    world *w = world_make("pad", 3, 3, 1, 2);
    submit_rt(w, 1, 0);
    submit_be(w, 0, 0, 0);
    fake_finish(&w->device, "rt");
    fake_run_pad(&w->device, "rt", 2);
    assert_int_equal(w->ended[0], 0);
    fake_finish(&w->device, "rt");
    assert_int_equal(w->ended[0], 1);
    assert_int_equal(w->tasks[0].status, REEF_OK);
    drain(w);
    world_free(w);
}

static void rt_only_refuses_best_effort_requests(void **state)
{
    (void)state;
    world *w = world_make("rt-only", 1, 8, 4, 8);
    assert_int_equal(submit_be(w, 0, 0, 0), REEF_REFUSED);
    assert_int_equal(submit_rt(w, 1, 0), REEF_OK);
    drain(w);
    assert_int_equal(w->ended[0], 0);
    assert_int_equal(w->ended[1], 1);
    world_free(w);
}

static void requests_with_deadlines_run_earliest_first(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 4, 8);
    submit_rt(w, 0, 0);
    submit_rt(w, 1, 0);
    submit_rt(w, 2, 900);
    submit_rt(w, 3, 500);
    drain(w);
    assert_int_equal(w->order[0], 0); /* was running */
    assert_int_equal(w->order[1], 3);
    assert_int_equal(w->order[2], 2);
    assert_int_equal(w->order[3], 1);
    world_free(w);
}

static void a_request_past_its_deadline_is_answered_and_not_run(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 4, 8);
    submit_rt(w, 0, 0);
    submit_rt(w, 1, 500);
    submit_be(w, 2, 0, 600);
    w->now = 1000;
    fake_log(&w->device);
    fake_finish(&w->device, "rt");
    assert_log(w, "lease 0..4\n");
    assert_int_equal(w->tasks[1].status, REEF_DEADLINE);
    assert_int_equal(w->tasks[2].status, REEF_DEADLINE);
    assert_int_equal(w->ended[1] + w->ended[2], 2);
    world_free(w);
}

static void queued_requests_expire_without_waiting_for_their_turn(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 4, 8);
    submit_rt(w, 0, 0); /* runs until the end of the test */
    submit_rt(w, 1, 500);
    submit_rt(w, 2, 0);
    submit_be(w, 3, 0, 600);
    submit_be(w, 4, 1, 2000);
    assert_true(reef_sched_expire(&w->sched) == 500);
    w->now = 1000;
    assert_true(reef_sched_expire(&w->sched) == 2000);
    assert_int_equal(w->ended[1], 1);
    assert_int_equal(w->ended[3], 1);
    assert_int_equal(w->tasks[1].status, REEF_DEADLINE);
    assert_int_equal(w->tasks[3].status, REEF_DEADLINE);
    assert_int_equal(w->ended[0] + w->ended[2] + w->ended[4], 0);
    w->now = 3000;
    assert_true(reef_sched_expire(&w->sched) == UINT64_MAX);
    drain(w);
    assert_int_equal(w->tasks[0].status, REEF_OK);
    assert_int_equal(w->tasks[2].status, REEF_OK);
    assert_int_equal(w->tasks[4].status, REEF_DEADLINE);
    world_free(w);
}

static void full_queues_refuse_and_lose_nothing(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 4, 8);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(submit_be(w, i, 0, 0), REEF_OK); /* one runs, three wait */
    }
    assert_int_equal(submit_be(w, 4, 0, 0), REEF_QUEUE_FULL);
    assert_int_equal(submit_be(w, 5, 1, 0), REEF_OK); /* another queue is not full */
    drain(w);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(w->ended[i], 1);
    }
    assert_int_equal(w->ended[4], 0);
    world_free(w);
}

static void cancelling_a_queued_request_ends_it_at_once(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 4, 8);
    submit_be(w, 0, 0, 0);
    submit_be(w, 1, 0, 0);
    submit_rt(w, 2, 0);
    submit_rt(w, 3, 0);
    reef_sched_cancel(&w->sched, &w->tasks[1]);
    reef_sched_cancel(&w->sched, &w->tasks[3]);
    assert_int_equal(w->tasks[1].status, REEF_CANCELLED);
    assert_int_equal(w->tasks[3].status, REEF_CANCELLED);
    reef_sched_cancel(&w->sched, &w->tasks[3]); /* no effect */
    drain(w);
    assert_int_equal(w->ended[3], 1);
    assert_int_equal(w->ended[0] + w->ended[2], 2);
    world_free(w);
}

static void cancelling_a_running_request_frees_its_instance_when_it_has_left(void **state)
{
    (void)state;
    world *w = world_make("reset", 2, 8, 8, 8);
    submit_be(w, 0, 0, 0);
    fake_finish_tiles(&w->device, "be0", 1);
    reef_sched_cancel(&w->sched, &w->tasks[0]);
    assert_int_equal(w->ended[0], 0);
    assert_int_equal(w->be_instances.n_free, 3);
    fake_leave(&w->device, "be0");
    assert_int_equal(w->tasks[0].status, REEF_CANCELLED);
    assert_int_equal(w->be_instances.n_free, 4);

    submit_rt(w, 1, 0);
    fake_finish_tiles(&w->device, "rt", 1);
    reef_sched_cancel(&w->sched, &w->tasks[1]);
    fake_leave(&w->device, "rt");
    assert_int_equal(w->tasks[1].status, REEF_CANCELLED);
    submit_rt(w, 2, 0); /* never started on the device */
    reef_sched_cancel(&w->sched, &w->tasks[2]);
    assert_int_equal(w->tasks[2].status, REEF_CANCELLED);
    world_free(w);
}

static reef_status change_policy(world *w, const char *name)
{
    reef_status status = reef_sched_hold(&w->sched);
    if (!status) {
        reef_sched_set_policy(&w->sched, reef_policy_find(name));
        reef_sched_release(&w->sched);
    }
    return status;
}

static void the_policy_changes_only_when_idle(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 4, 8);
    submit_be(w, 0, 0, 0);
    assert_int_equal(change_policy(w, "wait"), REEF_BUSY);
    drain(w);
    assert_int_equal(change_policy(w, "wait"), REEF_OK);
    world_free(w);
}

static void while_held_requests_wait_and_the_policy_stays(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 4, 8);
    assert_int_equal(reef_sched_hold(&w->sched), REEF_OK);
    assert_int_equal(reef_sched_hold(&w->sched), REEF_BUSY);
    assert_int_equal(change_policy(w, "wait"), REEF_BUSY);
    submit_be(w, 0, 0, 0);
    submit_rt(w, 1, 0);
    submit_rt(w, 2, 0);
    reef_sched_cancel(&w->sched, &w->tasks[2]);
    assert_int_equal(w->tasks[2].status, REEF_CANCELLED);
    assert_log(w, "");
    reef_sched_release(&w->sched);
    assert_log(w, "lease 4..4\nlaunch rt 0+1\n");
    drain(w);
    assert_int_equal(w->ended[0] + w->ended[1], 2);
    submit_be(w, 3, 0, 0);
    assert_int_equal(reef_sched_hold(&w->sched), REEF_BUSY);
    drain(w);
    world_free(w);
}

static void a_request_started_with_its_first_tile_in_whatever_order_events_come(void **state)
{
    (void)state;
    world *w = world_make("reset", 1, 8, 8, 8);
    submit_be(w, 0, 0, 0);
    fake_instance *instance = (fake_instance *)w->tasks[0].instance;
    fake_queue *queue = (fake_queue *)w->queues[0].dqueue;
    instance->current = 8;
    queue->count = 0;
    reef_sched_event(&w->sched, &(reef_event){.tag = &w->queues[0], .start_ns = 700});
    reef_sched_event(&w->sched, &(reef_event){.tag = &w->queues[0], .start_ns = 300});
    assert_int_equal(w->ended[0], 1);
    assert_int_equal(w->tasks[0].start_ns, 300);
    world_free(w);
}

static void random_traffic_under_every_policy_ends_every_request_once(void **state)
{
    (void)state;
    static const char *const names[] = {"rt", "be0", "be1"};
    for (size_t p = 0; reef_policy_at(p); p++) {
        world *w = world_make(reef_policy_at(p)->name, 5, 3, 9, 5);
        uint32_t seed = 12345;
        bool busy[MAX_TASKS] = {false};
        int submitted = 0, ended = 0;
        for (int step = 0; step < 20000 || ended < submitted; step++) {
            seed = seed * 1664525u + 1013904223u;
            int i = (int)(seed >> 8) % MAX_TASKS;
            const char *queue = names[(seed >> 16) % 3];
            w->n_ended = 0;
            switch ((seed >> 24) % 8) {
            case 0:
                if (!busy[i] && step < 20000) {
                    reef_status status = i < 3 ? submit_rt(w, i, 0) : submit_be(w, i, i % 2, 0);
                    busy[i] = status == REEF_OK;
                    submitted += busy[i];
                }
                break;
            case 1:
                if (busy[i] && (seed >> 12) % 4 == 0) {
                    reef_sched_cancel(&w->sched, &w->tasks[i]);
                }
                break;
            case 2: fake_leave(&w->device, queue); break;
            default: fake_finish_tiles(&w->device, queue, 1); break;
            }
            for (int n = 0; n < w->n_ended; n++) {
                int which = w->order[n];
                assert_true(busy[which]);
                assert_int_equal(w->ended[which], 1);
                w->ended[which] = 0;
                busy[which] = false;
                ended++;
            }
            fake_log(&w->device);
        }
        assert_true(submitted > 100);
        assert_int_equal(w->device.lease, reef_lease_make(0, UNITS));
        world_free(w);
    }
}

static const reef_trace_span *span_of(const reef_trace *trace, reef_trace_kind kind, uint32_t queue)
{
    const reef_trace_span *found = NULL;
    for (uint64_t i = 0; i < trace->n; i++) {
        const reef_trace_span *span = &trace->ring[i];
        if (span->kind == kind && span->queue == queue) {
            assert_null(found);
            found = span;
        }
    }
    assert_non_null(found);
    return found;
}

static void a_trace_tells_a_preemption_from_arrival_to_resumption(void **state)
{
    (void)state;
    world *w = world_make("reset", 3, 8, 12, 8);
    reef_trace *trace = reef_trace_create(64);
    w->now = 10;
    assert_int_equal(submit_be(w, 0, 0, 0), REEF_OK); /* before the trace: not in it */
    w->now = 20;
    assert_int_equal(reef_sched_trace_begin(&w->sched, trace), REEF_OK);
    reef_trace *other = reef_trace_create(1);
    assert_int_equal(reef_sched_trace_begin(&w->sched, other), REEF_BUSY);
    reef_trace_destroy(other);
    assert_int_equal(submit_be(w, 1, 0, 0), REEF_OK);
    fake_finish_tiles(&w->device, "be0", 3);
    w->now = 100;
    assert_int_equal(submit_rt(w, 2, 0), REEF_OK);
    w->now = 150;
    assert_true(fake_leave(&w->device, "be0"));
    w->now = 200;
    for (int k = 0; k < 3; k++) {
        assert_true(fake_finish(&w->device, "rt"));
    }
    w->now = 300;
    reef_sched_cancel(&w->sched, &w->tasks[1]);
    drain(w);
    assert_ptr_equal(reef_sched_trace_end(&w->sched), trace);
    assert_null(reef_sched_trace_end(&w->sched));

    const reef_trace_span *preempt = span_of(trace, REEF_TRACE_PREEMPT, 0);
    assert_true(preempt->at[0] == 100 && preempt->at[3] == 100);
    const reef_trace_span *mode = span_of(trace, REEF_TRACE_MODE, 0);
    assert_true(mode->at[0] == 100 && mode->at[3] == 200);
    const reef_trace_span *preempted = span_of(trace, REEF_TRACE_PREEMPTED, 1);
    assert_true(preempted->at[0] == 100 && preempted->at[1] == 150 && preempted->at[3] == 200);
    const reef_trace_span *rt = span_of(trace, REEF_TRACE_REQUEST, 0);
    assert_true(rt->at[0] == 100 && rt->at[1] == 100 && rt->at[3] == 200 && rt->status == REEF_OK);
    const reef_trace_span *be = span_of(trace, REEF_TRACE_REQUEST, 1);
    assert_true(be->at[0] == 20 && be->at[1] == 0 && be->at[3] == 300 && be->status == REEF_CANCELLED);
    const reef_trace_span *launch = span_of(trace, REEF_TRACE_LAUNCH, 0);
    assert_int_equal(launch->value, 3);
    reef_trace_destroy(trace);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wider_request_behind_a_narrow_one_is_a_preemption_of_its_own),
        cmocka_unit_test(callbacks_that_submit_what_ends_at_once_do_not_nest),
        cmocka_unit_test(a_trace_tells_a_preemption_from_arrival_to_resumption),
        cmocka_unit_test(a_queue_hands_over_no_more_than_the_device_queue_holds),
        cmocka_unit_test(reset_takes_the_lease_before_it_launches_and_evicts_last),
        cmocka_unit_test(best_effort_work_resumes_at_the_first_unfinished_kernel),
        cmocka_unit_test(resuming_waits_until_the_evicted_launch_has_left),
        cmocka_unit_test(a_second_request_right_behind_the_first_keeps_the_lease_shrunk),
        cmocka_unit_test(wait_evicts_queued_kernels_and_starts_behind_the_running_one),
        cmocka_unit_test(seq_finishes_the_running_request_and_starts_no_other),
        cmocka_unit_test(streams_gives_both_classes_the_same_priority_and_stops_nothing),
        cmocka_unit_test(priority_differs_from_streams_in_the_device_priority_alone),
        cmocka_unit_test(lease_leaves_the_units_that_the_plan_cannot_fill),
        cmocka_unit_test(the_scheduler_is_not_gone_before_whoever_delivers_is_done_with_it),
        cmocka_unit_test(whoever_holds_the_device_has_all_of_it),
        cmocka_unit_test(lease_leaves_as_many_units_as_the_device_can_give),
        cmocka_unit_test(lease_divides_slowly_where_dividing_takes_long),
        cmocka_unit_test(lease_is_reset_when_nothing_is_left_over),
        cmocka_unit_test(lease_counts_a_preemption_once_however_many_wide_requests_follow),
        cmocka_unit_test(pad_fills_spare_slots_with_tiles_that_fit),
        cmocka_unit_test(pad_leaves_out_tiles_that_take_longer_than_the_kernel),
        cmocka_unit_test(choosing_padding_is_timed),
        cmocka_unit_test(padding_can_finish_a_best_effort_request),
        cmocka_unit_test(rt_only_refuses_best_effort_requests),
        cmocka_unit_test(requests_with_deadlines_run_earliest_first),
        cmocka_unit_test(a_request_past_its_deadline_is_answered_and_not_run),
        cmocka_unit_test(queued_requests_expire_without_waiting_for_their_turn),
        cmocka_unit_test(full_queues_refuse_and_lose_nothing),
        cmocka_unit_test(cancelling_a_queued_request_ends_it_at_once),
        cmocka_unit_test(cancelling_a_running_request_frees_its_instance_when_it_has_left),
        cmocka_unit_test(the_policy_changes_only_when_idle),
        cmocka_unit_test(while_held_requests_wait_and_the_policy_stays),
        cmocka_unit_test(a_request_started_with_its_first_tile_in_whatever_order_events_come),
        cmocka_unit_test(random_traffic_under_every_policy_ends_every_request_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
