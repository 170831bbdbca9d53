/*
 * test_cuda_pad.c - kernel padding of the CUDA device (src/device/cuda/pad.c) on the fake driver: best-effort work that is
 * stopped becomes a source, tiles of it ride in real-time launches, workers go on with what is left. The chain's answer
 * depends on every tile having run exactly once, and the fake complains about one that runs twice or too early, about one
 * that rides while workers of its instance run or the next run begins, and about sources that are gone.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/futex.h"
#include "device/device.h"
#include "fake/cuda_rig.h"
#include "fake/fake_cuda.h"
#include "reef/reef.h"
#include "support/chain_plan.h"

static const char RIDE[] = "reef_elt_f32_v4_ride";

static rig *padding_rig_of(unsigned n, reef_plan *plan)
{
    rig *r = rig_make_of(n, plan);
    reef_error error = {0};
    const reef_status status = r->ops->pad(r->dev, true, &error);
    if (status) {
        print_message("%s\n", error.message);
    }
    assert_int_equal(status, REEF_OK);
    return r;
}

static rig *padding_rig(unsigned n)
{
    return padding_rig_of(n, chain_plan_create(KERNELS, ELEMS));
}

static void take_units(rig *r)
{
    r->ops->lease(r->dev, reef_lease_make(FAKE_CUDA_SMS, FAKE_CUDA_SMS));
    wait_until_revoked();
}

static void give_units(rig *r)
{
    r->ops->lease(r->dev, reef_lease_make(0, FAKE_CUDA_SMS));
}

/* Begins a run, or goes on with it, and stops it in this kernel, as real-time work would: its units are taken. */
static void stop_in_launch(rig *r, caller *c, uint32_t kernel, uint32_t end)
{
    const uint32_t events = atomic_load(&c->events), first = r->ops->progress(c->instance);
    give_units(r);
    close_gate(r, FAKE_CUDA_COMMIT, kernel);
    assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, first, end - first), REEF_OK);
    wait_for(&r->waiting, 1);
    take_units(r);
    open_gate(r);
    wait_for(&c->events, events + 1);
    fake_cuda_hook(NULL, NULL);
}

static void stop_in(rig *r, caller *c, uint32_t kernel)
{
    stop_in_launch(r, c, kernel, KERNELS);
}

static reef_status launch_padded(rig *r)
{
    begin(r, &r->rt);
    return r->ops->launch(
        r->rt.queue,
        &(reef_launch){
            .instance = r->rt.instance, .count = KERNELS, .mode = REEF_LAUNCH_PLAIN, .padded = true, .tag = &r->rt});
}

/* A real-time request, in which others' tiles may ride. */
static void run_padded(rig *r)
{
    const uint32_t events = atomic_load(&r->rt.events);
    assert_int_equal(launch_padded(r), REEF_OK);
    wait_for(&r->rt.events, events + 1);
    assert_int_equal(atomic_load(&r->rt.failed), 0);
    assert_answer(r, &r->rt);
}

static uint64_t ridden(void)
{
    fake_cuda_counts counts;
    fake_cuda_count(&counts);
    return counts.tiles_ridden;
}

static uint64_t closes(void)
{
    fake_cuda_counts counts;
    fake_cuda_count(&counts);
    return counts.closes;
}

static uint64_t committed(void)
{
    fake_cuda_counts counts;
    fake_cuda_count(&counts);
    return counts.tiles_committed;
}

/* Stops it in this kernel and has it ride until the next request would ride no more, or `until` is reached. */
static void ride_until(rig *r, caller *c, uint32_t until)
{
    for (int i = 0; i < 1000 && r->ops->progress(c->instance) < until; i++) {
        run_padded(r);
    }
    assert_true(r->ops->progress(c->instance) >= until);
}

/* ----------------------------------------------------------------- riding -- */

static void what_was_stopped_rides_in_real_time_launches(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    for (uint32_t kernel = 0; kernel < KERNELS; kernel += 3) {
        const uint64_t rode = ridden(), ran = committed();
        begin(r, c);
        stop_in(r, c, kernel);
        assert_in_range(r->ops->progress(c->instance), kernel, kernel + 1);
        run_padded(r);
        assert_true(kernel == KERNELS - 1 || ridden() > rode);
        give_units(r);
        finish(r, c);
        assert_answer(r, c);
        assert_int_equal(ridden() - rode + committed() - ran, KERNELS * TILES);
    }
    reef_dev_stats stats;
    r->ops->stats(r->dev, &stats);
    assert_true(stats.padded_tiles > 0);
    rig_free(r);
}

/* Only its outputs are left, which a launch of its own hands over. */
static void a_request_is_finished_by_riding_alone(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    for (uint32_t round = 0; round < 10; round++) {
        begin(r, c);
        stop_in(r, c, round);
        const uint64_t ran = committed();
        ride_until(r, c, KERNELS - 1);
        while (r->ops->stats != NULL && committed() == ran) {
            const uint64_t rode = ridden();
            run_padded(r);
            if (ridden() == rode) {
                break; /* nothing is left */
            }
        }
        assert_int_equal(r->ops->progress(c->instance), KERNELS - 1);
        give_units(r);
        const uint32_t events = atomic_load(&c->events);
        finish(r, c);
        assert_int_equal(atomic_load(&c->events), events + 1);
        assert_answer(r, c);
        assert_int_equal(committed(), ran);
    }
    rig_free(r);
}

/* Real-time work never pauses: a launch that does no tile of its own opens the source, another hands over the outputs. */
static void a_request_begins_and_ends_while_real_time_work_has_all_units(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    take_units(r);
    for (uint32_t round = 0; round < 10; round++) {
        const uint64_t ran = committed(), rode = ridden();
        begin(r, c);
        const uint32_t events = atomic_load(&c->events), evicted = atomic_load(&c->evicted);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, 8), REEF_OK);
        wait_for(&c->events, events + 1);
        assert_int_equal(atomic_load(&c->evicted), evicted + 1);
        assert_int_equal(r->ops->progress(c->instance), 0);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, 8), REEF_OK); /* there is nothing to help: it waits */
        for (int i = 0; i < 200; i++) {
            sched_yield();
        }
        assert_int_equal(atomic_load(&c->events), events + 1);
        reef_evicted taken;
        r->ops->evict(c->queue, REEF_EVICT_NOW, &taken);
        assert_int_equal(taken.launches, 1);
        while (ridden() - rode < KERNELS * TILES) {
            run_padded(r);
        }
        assert_int_equal(r->ops->progress(c->instance), KERNELS - 1);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, KERNELS - 1, 1), REEF_OK);
        wait_for(&c->events, events + 2);
        assert_int_equal(r->ops->progress(c->instance), KERNELS);
        assert_answer(r, c);
        assert_int_equal(committed(), ran);
    }
    give_units(r);
    rig_free(r);
}

static void several_sources_ride_at_once(void **state)
{
    (void)state;
    enum { N = 5 };
    rig *r = padding_rig(N);
    for (uint32_t round = 0; round < 4; round++) {
        for (uint32_t i = 0; i < N; i++) {
            begin(r, &r->be[i]);
            stop_in(r, &r->be[i], 2 * i + round);
        }
        uint32_t before[N], moved = 0;
        for (uint32_t i = 0; i < N; i++) {
            before[i] = r->ops->progress(r->be[i].instance);
        }
        run_padded(r);
        run_padded(r);
        for (uint32_t i = 0; i < N; i++) {
            moved += r->ops->progress(r->be[i].instance) > before[i];
        }
        assert_int_equal(moved, N);
        give_units(r);
        for (uint32_t i = 0; i < N; i++) {
            finish(r, &r->be[i]);
            assert_answer(r, &r->be[i]);
        }
    }
    rig_free(r);
}

/* The directory has room for 32; the others are served as without padding. */
static void more_sources_than_the_directory_has_room_for(void **state)
{
    (void)state;
    rig *r = padding_rig(MAX_QUEUES);
    for (uint32_t i = 0; i < MAX_QUEUES; i++) {
        begin(r, &r->be[i]);
        stop_in(r, &r->be[i], 5);
    }
    for (int i = 0; i < 12; i++) {
        run_padded(r);
    }
    uint32_t moved = 0, waits = MAX_QUEUES;
    for (uint32_t i = 0; i < MAX_QUEUES; i++) {
        bool has = r->ops->progress(r->be[i].instance) > 6;
        moved += has;
        waits = has ? waits : i;
    }
    assert_int_equal(moved, 32);
    /* A place becomes free. Whoever runs next has it: an instance that found none before, then a new one. */
    for (int round = 0; round < 2; round++) {
        const uint32_t next = round ? 0 : waits, gone = round ? waits : 0;
        if (round == 0) {
            give_units(r);
            finish(r, &r->be[next]);
            assert_answer(r, &r->be[next]);
        }
        caller_close(r, &r->be[gone]);
        if (round) {
            caller_open(r, &r->be[next], false);
        }
        begin(r, &r->be[next]);
        stop_in(r, &r->be[next], 5);
        for (int i = 0; i < 12; i++) {
            run_padded(r);
        }
        assert_true(r->ops->progress(r->be[next].instance) > 6);
    }
    caller_open(r, &r->be[waits], false);
    begin(r, &r->be[waits]);
    give_units(r);
    for (uint32_t i = 0; i < MAX_QUEUES; i++) {
        finish(r, &r->be[i]);
        assert_answer(r, &r->be[i]);
    }
    rig_free(r);
}

typedef struct onlooker {
    rig *rig;
    _Atomic bool over, backwards;
} onlooker;

static void *look_on(void *context)
{
    onlooker *o = context;
    for (uint64_t seen = 0; !atomic_load(&o->over);) {
        reef_dev_stats stats;
        o->rig->ops->stats(o->rig->dev, &stats);
        if (stats.padded_tiles < seen) {
            atomic_store(&o->backwards, true);
        }
        seen = stats.padded_tiles;
        sched_yield();
    }
    return NULL;
}

/* Padding is on for some runs and off for others, whatever was left of the one before, and somebody watches how it goes. */
static void padding_is_switched_on_and_off(void **state)
{
    (void)state;
    rig *r = rig_make(2);
    onlooker o = {.rig = r};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, look_on, &o), 0);
    unsigned seed = 3;
    for (uint32_t round = 0; round < 30; round++) {
        const bool on = rand_r(&seed) % 2 == 0, given_up = rand_r(&seed) % 3 == 0;
        assert_int_equal(r->ops->pad(r->dev, on, NULL), REEF_OK);
        for (uint32_t i = 0; i < 2; i++) {
            begin(r, &r->be[i]);
            stop_in(r, &r->be[i], (uint32_t)rand_r(&seed) % KERNELS);
        }
        const uint64_t rode = ridden();
        run_padded(r);
        assert_true(on || ridden() == rode);
        give_units(r);
        for (uint32_t i = 0; i < 2 && !given_up; i++) {
            finish(r, &r->be[i]);
            assert_answer(r, &r->be[i]);
        }
    }
    atomic_store(&o.over, true);
    pthread_join(thread, NULL);
    assert_false(atomic_load(&o.backwards));
    rig_free(r);
}

/* A kernel in the middle that no launch can carry: riding ends in front of it, workers take it, and behind it, it goes on. */
static void a_kernel_that_does_not_ride_is_left_to_workers(void **state)
{
    (void)state;
    enum { ODD = 11 };
    reef_plan *plan = chain_plan_create(KERNELS, ELEMS);
    plan->kernels[ODD].in[0].dims[0] = plan->kernels[ODD].y.dims[0] = ELEMS - 1; /* not by fours */
    rig *r = padding_rig_of(1, plan);
    r->known = (ELEMS - 1) * sizeof(float);
    caller *c = &r->be[0];
    begin(r, c);
    assert_int_equal(launch(r, c, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
    wait_for(&c->events, 1);
    float y[ELEMS];
    memcpy(y, c->y, sizeof y); /* what it is without any of this */
    for (uint32_t kernel = 3; kernel < ODD; kernel += 2) {
        c->run = 0;
        begin(r, c);
        stop_in(r, c, kernel);
        ride_until(r, c, ODD);
        run_padded(r);
        assert_int_equal(r->ops->progress(c->instance), ODD);
        give_units(r);
        finish(r, c);
        assert_memory_equal(c->y, y, sizeof y);
    }
    rig_free(r);
}

/* -------------------------------------------------- while tiles are riding -- */

/* Stops the caller and has a tile of this kernel of it ride, which waits at the gate. */
static void hold_a_ride(rig *r, caller *c, uint32_t kernel)
{
    stop_in(r, c, kernel);
    const uint32_t k = r->ops->progress(c->instance);
    close_gate_of(r, RIDE, FAKE_CUDA_COMMIT, k);
    assert_int_equal(launch_padded(r), REEF_OK);
    wait_for(&r->waiting, 1);
}

/* Lets the ride go on; the real-time request it is in has ended. */
static void let_it_ride(rig *r, uint32_t rt_events)
{
    open_gate(r);
    wait_for(&r->rt.events, rt_events + 1);
    assert_answer(r, &r->rt);
}

/* Workers go on with it only when everything that was taken has ended. */
static void workers_wait_for_what_is_riding(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    for (uint32_t kernel = 0; kernel < KERNELS - 2; kernel += 5) {
        const uint32_t rt_events = atomic_load(&r->rt.events), events = atomic_load(&c->events);
        begin(r, c);
        hold_a_ride(r, c, kernel);
        const uint64_t ran = committed();
        const uint64_t before = closes();
        give_units(r);
        const uint32_t k = r->ops->progress(c->instance);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
        while (closes() == before) {
            sched_yield();
        }
        for (int i = 0; i < 200; i++) {
            sched_yield();
        }
        assert_int_equal(committed(), ran);
        let_it_ride(r, rt_events);
        wait_for(&c->events, events + 2);
        assert_answer(r, c);
    }
    rig_free(r);
}

/* A request that was cancelled while its tiles ride: the next one on the same instance has nothing to do with them. */
static void the_next_run_begins_when_nothing_of_the_last_one_rides(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    for (uint32_t kernel = 0; kernel < KERNELS - 2; kernel += 5) {
        const uint32_t rt_events = atomic_load(&r->rt.events), events = atomic_load(&c->events);
        begin(r, c);
        hold_a_ride(r, c, kernel);
        begin(r, c);
        give_units(r);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, KERNELS), REEF_OK);
        let_it_ride(r, rt_events);
        wait_for(&c->events, events + 2);
        assert_answer(r, c);
    }
    rig_free(r);
}

typedef struct destruction {
    rig *rig;
    _Atomic bool over;
} destruction;

static void *destroy_first(void *context)
{
    destruction *d = context;
    caller_close(d->rig, &d->rig->be[0]);
    atomic_store(&d->over, true);
    return NULL;
}

static void an_instance_is_not_destroyed_while_its_tiles_ride(void **state)
{
    (void)state;
    rig *r = padding_rig(2);
    for (uint32_t kernel = 1; kernel < 30; kernel += 7) {
        const uint32_t rt_events = atomic_load(&r->rt.events), second = atomic_load(&r->be[1].events);
        begin(r, &r->be[1]);
        stop_in(r, &r->be[1], kernel + 2);
        begin(r, &r->be[0]);
        hold_a_ride(r, &r->be[0], kernel);
        destruction d = {.rig = r};
        pthread_t thread;
        const uint64_t before = closes();
        assert_int_equal(pthread_create(&thread, NULL, destroy_first, &d), 0);
        while (closes() == before) {
            sched_yield();
        }
        for (int i = 0; i < 200; i++) {
            sched_yield();
        }
        assert_false(atomic_load(&d.over));
        let_it_ride(r, rt_events);
        pthread_join(thread, NULL);
        give_units(r);
        finish(r, &r->be[1]);
        assert_true(atomic_load(&r->be[1].events) > second + 1);
        assert_answer(r, &r->be[1]);
        r->be[0] = (caller){0};
        caller_open(r, &r->be[0], false);
    }
    rig_free(r);
}

/* The host learns of what rides; a launch that it made from what it knew before skips that, also when it is stopped again
 * at once. */
static void what_has_ridden_is_not_run_again_by_the_next_source(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    for (uint32_t round = 0; round < 8; round++) {
        const uint32_t events = atomic_load(&c->events);
        begin(r, c);
        stop_in_launch(r, c, 2, 8);
        const uint32_t k = r->ops->progress(c->instance);
        for (const uint64_t rode = ridden(); ridden() < rode + 10 * TILES;) {
            run_padded(r); /* beyond the launch, to who knows where */
        }
        /* Ordered from before that. It finds all of its kernels done, and is stopped before it says so. */
        close_gate_of(r, "reef_io_end", FAKE_CUDA_KERNEL, 0);
        give_units(r);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, 8 - k), REEF_OK);
        wait_for(&r->waiting, 1);
        take_units(r);
        open_gate(r);
        wait_for(&c->events, events + 2);
        run_padded(r);
        give_units(r);
        finish(r, c);
        assert_answer(r, c);
    }
    rig_free(r);
}

/* A launch behind the one that has opened the source comes to its end while the last tiles ride: the outputs that it has
 * copied are from before. Its end waits, the second to come there. */
typedef struct second_report {
    _Atomic uint32_t reports, closed;
} second_report;

static void at_second_report(void *context, const fake_cuda_step *step)
{
    second_report *s = context;
    if (step->moment == FAKE_CUDA_REPORT && atomic_fetch_add(&s->reports, 1) == 1) {
        reef_futex_wake(&s->reports, INT32_MAX);
        while (atomic_load(&s->closed)) {
            reef_futex_wait(&s->closed, 1, UINT64_MAX);
        }
    }
}

static void outputs_are_of_a_run_that_is_over(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    for (uint32_t round = 0; round < 5; round++) {
        const uint32_t events = atomic_load(&c->events);
        const unsigned launches = fake_cuda_calls("cuGraphLaunch");
        begin(r, c);
        give_units(r);
        close_gate_of(r, "reef_io_end", FAKE_CUDA_KERNEL, 0);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, 32), REEF_OK);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 32, 8), REEF_OK);
        wait_for(&r->waiting, 1);
        while (fake_cuda_calls("cuGraphLaunch") < launches + 2) {
            sched_yield();
        }
        take_units(r); /* the first has done all it had to */
        second_report s = {.closed = 1};
        fake_cuda_hook(at_second_report, &s);
        open_gate(r);
        wait_for(&s.reports, 2);
        for (uint64_t rode = ridden(), most = rode + 8 * TILES; ridden() < most;) {
            run_padded(r);
        }
        fake_cuda_hook(NULL, NULL);
        atomic_store(&s.closed, 0);
        reef_futex_wake(&s.closed, INT32_MAX);
        wait_for(&c->events, events + 2);
        assert_int_equal(r->ops->progress(c->instance), KERNELS - 1);
        give_units(r);
        finish(r, c);
        assert_answer(r, c);
    }
    rig_free(r);
}

/* Two gates: who comes to this moment of this function, of this kernel, waits until it is opened. */
typedef struct gate {
    const char *function;
    fake_cuda_moment moment;
    uint32_t kernel;
    _Atomic uint32_t closed, waiting;
} gate;

static void at_either(void *context, const fake_cuda_step *step)
{
    gate *gates = context;
    for (int i = 0; i < 2; i++) {
        gate *g = &gates[i];
        if (step->moment == g->moment && step->kernel == g->kernel * TILES && step->function &&
            !strcmp(step->function, g->function) && atomic_load(&g->closed)) {
            atomic_fetch_add(&g->waiting, 1);
            reef_futex_wake(&g->waiting, INT32_MAX);
            while (atomic_load(&g->closed)) {
                reef_futex_wait(&g->closed, 1, UINT64_MAX);
            }
        }
    }
}

static void open_this(gate *g)
{
    atomic_store(&g->closed, 0);
    reef_futex_wake(&g->closed, INT32_MAX);
}

/* It has chosen a source that is closed before it takes a tile. That leaves a number in the source's word. */
static void a_block_that_takes_too_late_gets_nothing(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    for (uint32_t kernel = 1; kernel < 30; kernel += 4) {
        const uint32_t rt_events = atomic_load(&r->rt.events), events = atomic_load(&c->events);
        begin(r, c);
        stop_in(r, c, kernel);
        const uint32_t k = r->ops->progress(c->instance);
        gate gates[2] = {{"reef_elt_f32_v4_pad128", FAKE_CUDA_TAKE, 0, 1, 0},
                         {"reef_elt_f32_v4_be", FAKE_CUDA_COMMIT, k + 1, 1, 0}};
        fake_cuda_hook(at_either, gates);
        assert_int_equal(launch_padded(r), REEF_OK);
        wait_for(&gates[0].waiting, 1);
        give_units(r);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
        wait_for(&gates[1].waiting, 1); /* it is closed, and workers are at it */
        const uint64_t rode = ridden();
        open_this(&gates[0]);
        wait_for(&r->rt.events, rt_events + 1);
        assert_answer(r, &r->rt);
        assert_int_equal(ridden(), rode);
        take_units(r);
        open_this(&gates[1]);
        wait_for(&c->events, events + 2);
        fake_cuda_hook(NULL, NULL);
        run_padded(r);
        assert_true(ridden() > rode); /* it is opened all the same */
        give_units(r);
        finish(r, c);
        assert_answer(r, c);
    }
    rig_free(r);
}

/* It has counted a kernel's last tile and is about to open the next kernel: nobody goes on until it has seen that it may not. */
static void a_block_that_opens_too_late_is_waited_for(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    for (uint32_t kernel = 1; kernel < 30; kernel += 4) {
        const uint32_t rt_events = atomic_load(&r->rt.events), events = atomic_load(&c->events);
        begin(r, c);
        stop_in(r, c, kernel);
        close_gate_of(r, "reef_elt_f32_v4_pad128", FAKE_CUDA_OPEN, 0);
        assert_int_equal(launch_padded(r), REEF_OK);
        wait_for(&r->waiting, 1);
        const uint64_t ran = committed();
        const uint64_t before = closes();
        begin(r, c); /* it was cancelled; this is another run */
        give_units(r);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, KERNELS), REEF_OK);
        while (closes() == before) {
            sched_yield();
        }
        for (int i = 0; i < 200; i++) {
            sched_yield();
        }
        assert_int_equal(committed(), ran);
        let_it_ride(r, rt_events);
        wait_for(&c->events, events + 2);
        assert_answer(r, c);
    }
    rig_free(r);
}

/* ----------------------------------------------------------------- levels -- */

/* A unit with so many registers; a kernel has 16 blocks of 64 threads, and so has the one behind it, unless it is the last. All of
 * them fit in each level of 32 units with room for spare blocks if a unit takes two. */
enum { TWO_AT_128 = 16384, ONE_AT_128 = 8192, ONE_AT_64 = 4096 };

static rig *rig_of_levels(unsigned unit_registers, const char *function, int registers, int local_bytes)
{
    rig *r = rig_make(1);
    fake_cuda_unit_registers(unit_registers);
    if (function) {
        fake_cuda_takes(function, registers, local_bytes);
    }
    assert_int_equal(r->ops->pad(r->dev, true, NULL), REEF_OK);
    return r;
}

static unsigned kernels_at(rig *r, unsigned level)
{
    unsigned n = 0;
    for (uint32_t k = 0; k < KERNELS; k++) {
        reef_dev_kernel info;
        r->ops->kernel_info(r->program, k, &info);
        n += info.pad_level == level;
    }
    return n;
}

/* Tiles that ride in one real-time request beside work that was stopped at its beginning. */
static uint64_t rides_in_a_request(rig *r)
{
    caller *c = &r->be[0];
    begin(r, c);
    stop_in(r, c, 0);
    const uint64_t rode = ridden();
    run_padded(r);
    const uint64_t rides = ridden() - rode;
    give_units(r);
    finish(r, c);
    assert_answer(r, c);
    return rides;
}

static void a_kernel_with_room_is_padded_at_the_highest_level(void **state)
{
    (void)state;
    rig *r = rig_of_levels(TWO_AT_128, NULL, 0, 0);
    reef_dev_padding padding;
    r->ops->padding(r->dev, &padding);
    assert_int_equal(padding.levels[0], 128);
    assert_int_equal(padding.levels[1], 64);
    assert_int_equal(padding.levels[2], 0);
    assert_int_equal(kernels_at(r, 0), KERNELS); /* nothing was launched yet */
    assert_true(rides_in_a_request(r) > 0);
    assert_int_equal(kernels_at(r, 128), KERNELS);
    rig_free(r);
}

/* Only the last kernel has room at 128, behind which none is set up. What takes more than 64 registers rides there alone: also
 * what could do with fewer but would spill for it. */
static void a_kernel_with_room_at_a_lower_level_carries_what_is_light(void **state)
{
    (void)state;
    static const struct {
        int registers, local_bytes;
        bool light;
    } rides[] = {{64, 0, true}, {65, 0, false}, {64, 32, true}, {64, 40, false}};
    for (size_t i = 0; i < sizeof rides / sizeof rides[0]; i++) {
        rig *r = rig_of_levels(ONE_AT_128, "reef_elt_f32_v4_rider64", rides[i].registers, rides[i].local_bytes);
        fake_cuda_takes("reef_nothing_pad64", 64, 528);
        fake_cuda_takes("reef_elt_f32_v4_pad64", 64, 528);
        const uint64_t n = rides_in_a_request(r);
        assert_int_equal(kernels_at(r, 128), 1);
        assert_int_equal(kernels_at(r, 64), KERNELS - 1);
        assert_true(rides[i].light ? n > 10 * TILES : n > 0 && n <= TILES);
        rig_free(r);
    }
}

static void a_kernel_without_room_stays_plain(void **state)
{
    (void)state;
    rig *r = rig_of_levels(ONE_AT_64, NULL, 0, 0);
    assert_in_range(rides_in_a_request(r), 1, TILES); /* of the last kernel */
    assert_int_equal(kernels_at(r, 128), 0);
    assert_int_equal(kernels_at(r, 64), 1);
    assert_int_equal(kernels_at(r, 0), KERNELS - 1);
    fake_cuda_unit_registers(0);
    caller_close(r, &r->rt);
    r->rt = (caller){0};
    caller_open(r, &r->rt, true);
    run_padded(r);
    assert_int_equal(kernels_at(r, 0), KERNELS);
    rig_free(r);
}

/* Spare blocks need a stack, with or without the kernel's own tiles; and the plain form may have spilled as well. */
static void a_form_that_spills_more_than_the_plain_one_is_not_used(void **state)
{
    (void)state;
    static const struct {
        int plain, nothing, form;
        unsigned padded;
    } cases[] = {{0, 528, 528, KERNELS - 1}, {0, 528, 536, 0}, {24, 528, 552, KERNELS - 1}, {24, 528, 560, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig *r = rig_of_levels(ONE_AT_128, "reef_elt_f32_v4", 40, cases[i].plain);
        fake_cuda_takes("reef_nothing_pad64", 64, cases[i].nothing);
        fake_cuda_takes("reef_elt_f32_v4_pad64", 64, cases[i].form);
        run_padded(r);
        assert_int_equal(kernels_at(r, 128), 1);
        assert_int_equal(kernels_at(r, 64), cases[i].padded);
        rig_free(r);
    }
}

/* ----------------------------------------------------------------- stress -- */

typedef struct client {
    rig *rig;
    caller *caller;
    uint32_t runs, given_up;
    bool wrong;
} client;

/* As a virtual host queue: fills, is stopped by the device, and starts over from its progress. Some runs are given up. */
static void *client_main(void *context)
{
    client *cl = context;
    rig *r = cl->rig;
    caller *c = cl->caller;
    unsigned seed = (unsigned)(c - r->be) + 1;
    uint32_t expected = 0;
    for (uint32_t run = 0; run < cl->runs; run++) {
        begin(r, c);
        bool given_up = false;
        for (uint32_t k; !given_up && (k = r->ops->progress(c->instance)) < KERNELS;) {
            const uint32_t evicted_before = atomic_load(&c->evicted);
            uint32_t launched = 0;
            for (uint32_t next = k; next < KERNELS; launched++) {
                const uint32_t whole = 8 - next % 8, count = KERNELS - next < whole ? KERNELS - next : whole;
                assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, next, count), REEF_OK);
                next += count;
            }
            while (atomic_load(&c->events) < expected + launched) {
                if (atomic_load(&c->evicted) != evicted_before) {
                    reef_evicted evicted;
                    r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
                    launched -= evicted.launches;
                }
                const uint32_t seen = atomic_load(&c->events);
                if (seen < expected + launched) {
                    reef_futex_wait(&c->events, seen, reef_now_ns() + 1000000);
                }
            }
            expected += launched;
            given_up = rand_r(&seed) % 40 == 0 && r->ops->progress(c->instance) < KERNELS;
            if (rand_r(&seed) % 2) { /* the device rides alone for a while */
                struct timespec moment = {.tv_nsec = rand_r(&seed) % 3000000};
                nanosleep(&moment, NULL);
            }
        }
        cl->given_up += given_up;
        cl->wrong |= !given_up && memcmp(c->y, c->expected, sizeof c->y) != 0;
    }
    return NULL;
}

static void real_time_requests_come_one_behind_the_other(void **state)
{
    (void)state;
    enum { N = 4 };
    rig *r = padding_rig(N);
    fake_cuda_delay(20);
    const uint64_t rode = ridden(), ran = committed();
    client clients[N];
    pthread_t threads[N];
    for (int i = 0; i < N; i++) {
        clients[i] = (client){.rig = r, .caller = &r->be[i], .runs = 30};
        assert_int_equal(pthread_create(&threads[i], NULL, client_main, &clients[i]), 0);
    }
    unsigned seed = 11;
    for (uint32_t i = 0; i < 200; i++) {
        /* As the scheduler: the launch first, then the units, and back when nothing follows. */
        const uint32_t events = atomic_load(&r->rt.events);
        assert_int_equal(launch_padded(r), REEF_OK);
        r->ops->lease(r->dev, reef_lease_make(FAKE_CUDA_SMS, FAKE_CUDA_SMS));
        wait_for(&r->rt.events, events + 1);
        assert_answer(r, &r->rt);
        if (rand_r(&seed) % 3) {
            give_units(r);
            struct timespec moment = {.tv_nsec = rand_r(&seed) % 2000000};
            nanosleep(&moment, NULL);
        }
    }
    give_units(r);
    uint32_t given_up = 0;
    for (int i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        assert_false(clients[i].wrong);
        assert_int_equal(atomic_load(&r->be[i].failed), 0);
        given_up += clients[i].given_up;
    }
    print_message("%llu tiles rode, %llu were run by workers, %u runs were given up\n",
                  (unsigned long long)(ridden() - rode), (unsigned long long)(committed() - ran), given_up);
    /* Nothing waits for a pause to begin riding, so that workers have what there is in pauses. */
    assert_true(ridden() > rode + 500 && committed() > ran + 50);
    rig_free(r);
}

/* --------------------------------------------------------------- failures -- */

/* Where a call fails while padding is switched on or a source is made, there is a reason or no riding; answers stay right. */
static void whichever_call_fails_answers_stay_right(void **state)
{
    (void)state;
    static const char *const calls[] = {"cuLibraryLoadData",       "cuLibraryGetKernel",
                                        "cuLibraryGetGlobal",      "cuKernelGetAttribute",
                                        "cuKernelSetAttribute",    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
                                        "cuMemAlloc_v2",           "cuMemsetD8_v2",
                                        "cuMemcpyHtoD_v2",         "cuMemcpyDtoH_v2",
                                        "cuStreamSynchronize",     "cuLaunchKernel",
                                        "cuStreamWriteValue64_v2", "cuGraphCreate",
                                        "cuGraphAddKernelNode_v2", "cuGraphLaunch"};
    unsigned refused = 0, failed = 0, unridden = 0;
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        for (unsigned skip = 0; skip < 4; skip++) {
            rig *r = rig_make(1);
            caller *c = &r->be[0];
            reef_error error = {0};
            fake_cuda_fail(calls[i], skip, 1, FAKE_CUDA_LAUNCH_FAILED);
            if (r->ops->pad(r->dev, true, &error)) {
                assert_true(error.message[0]);
                refused++;
                assert_int_equal(r->ops->pad(r->dev, true, &error), REEF_OK); /* it can be tried again */
            }
            const uint64_t rode = ridden();
            for (uint32_t round = 0; round < 3; round++) {
                begin(r, c);
                for (uint32_t at = 2; at < 20; at += 8) {
                    give_units(r);
                    const uint32_t events = atomic_load(&c->events), k = r->ops->progress(c->instance);
                    assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
                    struct timespec moment = {.tv_nsec = 300000};
                    nanosleep(&moment, NULL);
                    take_units(r);
                    reef_evicted evicted;
                    r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
                    wait_for(&c->events, events + 1 - evicted.launches);
                    const uint32_t rt_events = atomic_load(&r->rt.events);
                    assert_int_equal(launch_padded(r), REEF_OK);
                    wait_for(&r->rt.events, rt_events + 1);
                    if (!atomic_exchange(&r->rt.failed, 0)) {
                        assert_answer(r, &r->rt);
                    } else {
                        failed++;
                    }
                }
                give_units(r);
                for (uint32_t k; (k = r->ops->progress(c->instance)) < KERNELS;) {
                    const uint32_t events = atomic_load(&c->events);
                    assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
                    wait_for(&c->events, events + 1);
                }
                failed += atomic_exchange(&c->failed, 0);
                assert_answer(r, c);
            }
            unridden += ridden() == rode;
            rig_free(r);
        }
    }
    print_message("%u refused, %u launches failed, %u times nothing rode\n", refused, failed, unridden);
    assert_true(refused > 5 && failed > 5);
}

/* What was written before a fault about how far riding had come says nothing about runs after it. */
static void after_a_fault_sources_are_made_again(void **state)
{
    (void)state;
    static const char *const faults[] = {"reef_elt_f32_v4_pad128", "reef_elt_f32_v4_be", "reef_pad_close"};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        rig *r = padding_rig(2);
        caller *c = &r->be[0];
        for (uint32_t round = 0; round < 3; round++) {
            begin(r, c);
            stop_in(r, c, 3);
            ride_until(r, c, 20);
            begin(r, &r->be[1]);
            stop_in(r, &r->be[1], 3);
            fake_cuda_fault(faults[i]);
            give_units(r);
            const uint32_t events = atomic_load(&c->events), rt_events = atomic_load(&r->rt.events);
            const uint32_t k = r->ops->progress(c->instance);
            assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
            assert_int_equal(launch_padded(r), REEF_OK);
            wait_for(&c->events, events + 1);
            wait_for(&r->rt.events, rt_events + 1);
            for (uint32_t n = 0; r->ops->health(r->dev, NULL) == REEF_OK; n++) {
                sched_yield();
            }
            atomic_store(&c->failed, 0);
            atomic_store(&r->rt.failed, 0);
            /* Runs are numbered from one again. */
            const uint64_t rode = ridden();
            for (uint32_t run = 0; run < 3; run++) {
                for (uint32_t j = 0; j < 2; j++) {
                    begin(r, &r->be[j]);
                    stop_in(r, &r->be[j], 2);
                    assert_in_range(r->ops->progress(r->be[j].instance), 2, 3);
                }
                run_padded(r);
                give_units(r);
                for (uint32_t j = 0; j < 2; j++) {
                    finish(r, &r->be[j]);
                    assert_answer(r, &r->be[j]);
                }
            }
            assert_true(ridden() > rode);
        }
        rig_free(r);
    }
}

/* The launch that would have closed the source was refused; the next one closes it. */
static void a_source_that_could_not_be_closed_is_closed_later(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    for (uint32_t kernel = 1; kernel < 30; kernel += 7) {
        const uint32_t rt_events = atomic_load(&r->rt.events), events = atomic_load(&c->events);
        begin(r, c);
        hold_a_ride(r, c, kernel);
        give_units(r);
        fake_cuda_fail("cuLaunchKernel", 0, 1, FAKE_CUDA_LAUNCH_FAILED);
        const uint32_t k = r->ops->progress(c->instance);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
        wait_for(&c->events, events + 2);
        assert_int_equal(atomic_exchange(&c->failed, 0), 1);
        const uint64_t ran = committed();
        const uint64_t before = closes();
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
        for (int i = 0; i < 200; i++) {
            sched_yield();
        }
        assert_int_equal(committed(), ran);
        let_it_ride(r, rt_events);
        wait_for(&c->events, events + 3);
        assert_int_equal(closes(), before + 1);
        assert_answer(r, c);
    }
    rig_free(r);
}

/* It is destroyed all the same, but not from under a tile that rides. */
static void an_instance_whose_source_cannot_be_closed_is_destroyed(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    for (uint32_t kernel = 1; kernel < 30; kernel += 7) {
        const uint32_t rt_events = atomic_load(&r->rt.events);
        begin(r, &r->be[0]);
        hold_a_ride(r, &r->be[0], kernel);
        fake_cuda_fail(kernel % 2 ? "cuLaunchKernel" : "cuStreamSynchronize", 0, 1, FAKE_CUDA_LAUNCH_FAILED);
        destruction d = {.rig = r};
        pthread_t thread;
        const unsigned before = fake_cuda_calls("cuLaunchKernel");
        assert_int_equal(pthread_create(&thread, NULL, destroy_first, &d), 0);
        while (fake_cuda_calls("cuLaunchKernel") == before) {
            sched_yield();
        }
        for (int i = 0; i < 200; i++) {
            sched_yield();
        }
        assert_false(atomic_load(&d.over));
        let_it_ride(r, rt_events);
        pthread_join(thread, NULL);
        run_padded(r); /* nothing of it is left to ride */
        r->be[0] = (caller){0};
        caller_open(r, &r->be[0], false);
    }
    rig_free(r);
}

/* A run in the plain form, under another policy, on an instance that was left to ride. */
static void a_plain_run_closes_what_an_earlier_one_has_left_open(void **state)
{
    (void)state;
    rig *r = padding_rig(1);
    caller *c = &r->be[0];
    for (uint32_t kernel = 1; kernel < 30; kernel += 7) {
        const uint32_t rt_events = atomic_load(&r->rt.events), events = atomic_load(&c->events);
        begin(r, c);
        stop_in(r, c, kernel);
        begin(r, c); /* the request was cancelled, and here is another */
        give_units(r);
        assert_int_equal(r->ops->pad(r->dev, false, NULL), REEF_OK);
        assert_int_equal(launch(r, c, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
        wait_for(&c->events, events + 2);
        assert_answer(r, c);
        assert_int_equal(r->ops->pad(r->dev, true, NULL), REEF_OK);
        const uint64_t rode = ridden();
        run_padded(r);
        assert_int_equal(atomic_load(&r->rt.events), rt_events + 1);
        assert_int_equal(ridden(), rode); /* nobody waits for it */
    }
    rig_free(r);
}

/* ------------------------------------------------------------- public API -- */

typedef struct tally {
    reef_session *session;
    _Atomic uint32_t left, bad;
} tally;

static void again(void *context, reef_request *request, const reef_request_info *info)
{
    tally *t = context;
    (void)request;
    atomic_fetch_add(&t->bad, info->status != REEF_OK);
    const uint32_t left = atomic_fetch_sub(&t->left, 1) - 1;
    if (left) {
        const reef_status status =
            reef_session_submit(t->session, &(reef_submit_options){.callback = again, .context = t}, NULL);
        atomic_fetch_add(&t->bad, status != REEF_OK);
    }
    reef_futex_wake(&t->left, INT32_MAX);
}

/* Sessions of both classes; between two rounds the policy changes, and some requests are cancelled on the way. */
static void sessions_are_served_under_policy_pad(void **state)
{
    (void)state;
    static const char *const policies[] = {"pad", "reset", "pad", "streams", "pad"};
    start_afresh();
    fake_cuda_delay(20);
    reef_device *device;
    reef_model *quick, *large, *small;
    reef_session *rt;
    reef_error error = {0};
    assert_int_equal(reef_device_open("cuda:0", &(reef_device_options){.policy = "pad"}, &device, &error), REEF_OK);
    assert_int_equal(reef_model_create_synthetic(device, 12, 4, 2000, &quick, &error), REEF_OK);
    assert_int_equal(reef_model_create_synthetic(device, 70, 9, 2000, &large, &error), REEF_OK);
    assert_int_equal(reef_model_create_synthetic(device, 20, 3, 2000, &small, &error), REEF_OK);
    assert_int_equal(reef_session_create(quick, &(reef_session_options){.service_class = REEF_RT}, &rt, &error),
                     REEF_OK);
    reef_device_stats before = {0}, after;
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++) {
        assert_int_equal(reef_device_set_policy(device, policies[i], &error), REEF_OK);
        reef_device_stats_get(device, &before);
        tally best[3] = {{.left = 6}, {.left = 8}, {.left = 8}};
        reef_model *models[] = {large, small, small};
        for (int j = 0; j < 3; j++) {
            assert_int_equal(reef_session_create(models[j], &(reef_session_options){.service_class = REEF_BE},
                                                 &best[j].session, &error),
                             REEF_OK);
            assert_int_equal(reef_session_submit(best[j].session,
                                                 &(reef_submit_options){.callback = again, .context = &best[j]}, NULL),
                             REEF_OK);
        }
        reef_session *fickle;
        assert_int_equal(reef_session_create(large, &(reef_session_options){.service_class = REEF_BE}, &fickle, &error),
                         REEF_OK);
        for (int j = 0; j < 60; j++) {
            reef_request *request = NULL;
            if (j % 3 == 0) {
                assert_int_equal(reef_session_submit(fickle, &(reef_submit_options){0}, &request), REEF_OK);
            }
            assert_int_equal(reef_session_run(rt, NULL, NULL, NULL), REEF_OK);
            assert_int_equal(reef_session_run(rt, NULL, NULL, NULL), REEF_OK);
            if (request) {
                reef_request_info info;
                reef_request_cancel(request);
                assert_int_equal(reef_request_wait(request, UINT64_MAX, &info), REEF_OK);
                reef_request_release(request);
            }
        }
        for (int j = 0; j < 3; j++) {
            for (uint32_t seen; (seen = atomic_load(&best[j].left));) {
                reef_futex_wait(&best[j].left, seen, UINT64_MAX);
            }
            assert_int_equal(atomic_load(&best[j].bad), 0);
            reef_session_destroy(best[j].session);
        }
        reef_session_destroy(fickle);
        reef_device_stats_get(device, &after);
        const uint64_t rode = after.padded_tiles - before.padded_tiles;
        print_message("%s: %llu tiles rode\n", policies[i], (unsigned long long)rode);
        assert_true(!strcmp(policies[i], "pad") ? rode > 0 : rode == 0);
    }
    reef_session_destroy(rt);
    reef_model_destroy(quick);
    reef_model_destroy(large);
    reef_model_destroy(small);
    reef_device_close(device);
    assert_no_complaint();
    assert_nothing_left();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_stopped_rides_in_real_time_launches),
        cmocka_unit_test(a_request_is_finished_by_riding_alone),
        cmocka_unit_test(a_request_begins_and_ends_while_real_time_work_has_all_units),
        cmocka_unit_test(several_sources_ride_at_once),
        cmocka_unit_test(more_sources_than_the_directory_has_room_for),
        cmocka_unit_test(padding_is_switched_on_and_off),
        cmocka_unit_test(a_kernel_that_does_not_ride_is_left_to_workers),
        cmocka_unit_test(workers_wait_for_what_is_riding),
        cmocka_unit_test(the_next_run_begins_when_nothing_of_the_last_one_rides),
        cmocka_unit_test(an_instance_is_not_destroyed_while_its_tiles_ride),
        cmocka_unit_test(what_has_ridden_is_not_run_again_by_the_next_source),
        cmocka_unit_test(outputs_are_of_a_run_that_is_over),
        cmocka_unit_test(a_block_that_takes_too_late_gets_nothing),
        cmocka_unit_test(a_block_that_opens_too_late_is_waited_for),
        cmocka_unit_test(a_kernel_with_room_is_padded_at_the_highest_level),
        cmocka_unit_test(a_kernel_with_room_at_a_lower_level_carries_what_is_light),
        cmocka_unit_test(a_kernel_without_room_stays_plain),
        cmocka_unit_test(a_form_that_spills_more_than_the_plain_one_is_not_used),
        cmocka_unit_test(real_time_requests_come_one_behind_the_other),
        cmocka_unit_test(whichever_call_fails_answers_stay_right),
        cmocka_unit_test(after_a_fault_sources_are_made_again),
        cmocka_unit_test(a_source_that_could_not_be_closed_is_closed_later),
        cmocka_unit_test(an_instance_whose_source_cannot_be_closed_is_destroyed),
        cmocka_unit_test(a_plain_run_closes_what_an_earlier_one_has_left_open),
        cmocka_unit_test(sessions_are_served_under_policy_pad),
    };
    if (getenv("REEF_TEST_ONLY")) {
        cmocka_set_test_filter(getenv("REEF_TEST_ONLY"));
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
