/*
 * test_cuda_host.c - the host half of the CUDA device, on a driver of our own (tests/fake/fake_cuda.h): who runs when,
 * what is taken back and resumed, what happens when calls or kernels fail. The fake looks on: a tile that runs twice in a
 * run or too early, or a stale handle, fails the test that it happened in.
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
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/api.h"
#include "base/clock.h"
#include "base/futex.h"
#include "device/cuda/cuda.h"
#include "device/device.h"
#include "fake/cuda_rig.h"
#include "fake/fake_cuda.h"
#include "reef/reef.h"
#include "support/chain_plan.h"

/* ------------------------------------------------------------ preemption -- */

/* Launches behind one that was revoked, in the stream, in the ring, and still to come: none may start where that one has
 * not got to. */
static void what_follows_a_revoked_launch_does_not_overtake_it(void **state)
{
    (void)state;
    for (int in_ring = 0; in_ring < 3; in_ring++) {
        rig *r = rig_make(1);
        caller *c = &r->be[0];
        close_gate(r, FAKE_CUDA_COMMIT, 5);
        begin(r, c);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, 16), REEF_OK);
        wait_for(&r->waiting, 1);
        if (in_ring > 0) {
            assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 16, 16), REEF_OK);
        }
        if (in_ring > 1) {
            assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 32, 8), REEF_OK);
        }
        r->ops->lease(r->dev, reef_lease_make(16, 32));
        for (int i = in_ring; i < 2; i++) {
            assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 16 + 16 * (uint32_t)i, i ? 8 : 16), REEF_OK);
        }
        wait_until_revoked();
        open_gate(r);
        wait_for(&c->events, 3);
        assert_int_equal(atomic_load(&c->failed), 0);
        uint32_t progress = r->ops->progress(c->instance);
        assert_true(progress <= 16);
        assert_no_complaint();
        finish(r, c);
        assert_answer(r, c);
        rig_free(r);
    }
}

/* While a watch is there, units are taken away without a call of the driver. */
static void a_watch_passes_on_what_the_driver_need_not_write(void **state)
{
    (void)state;
    const char *const writes = "cuStreamWriteValue32_v2";
    reef_plan *plan;
    assert_int_equal(reef_plan_create_synthetic(2, 400, 20000, &plan), REEF_OK);
    rig *r = rig_make_of(1, plan);
    caller *c = &r->be[0];
    const cuda_device *device = (const cuda_device *)r->dev;
    bool passed_on = false;
    /* It may have gone before the evict: a look and a revocation are two steps. */
    for (int tries = 0; tries < 50 && !passed_on; tries++) {
        r->ops->begin(c->instance, 0, NULL, NULL);
        close_gate_of(r, "reef_spin_be", FAKE_CUDA_TILE, 0);
        const uint32_t events = atomic_load(&c->events);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, 2), REEF_OK);
        wait_for(&r->waiting, 1);
        const uint64_t until = reef_now_ns() + 200000000u;
        while (!cuda_watch_is_there(device) && reef_now_ns() < until) {
            sched_yield();
        }
        const unsigned written = fake_cuda_calls(writes);
        reef_evicted evicted;
        r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
        passed_on = fake_cuda_calls(writes) == written;
        wait_until_revoked();
        open_gate(r);
        wait_for(&c->events, events + 1);
        assert_int_equal(atomic_load(&c->evicted), events + 1); /* one way or the other, it has arrived */
    }
    assert_true(passed_on);
    rig_free(r);
}

/* Its owner takes back one queue; the other's launch ends as well, says so, and goes on where it was. */
static void evicting_one_queue_lets_the_others_resume(void **state)
{
    (void)state;
    rig *r = rig_make(2);
    close_gate(r, FAKE_CUDA_COMMIT, 3);
    for (int i = 0; i < 2; i++) {
        begin(r, &r->be[i]);
        assert_int_equal(launch(r, &r->be[i], REEF_LAUNCH_LEASED, 0, KERNELS), REEF_OK);
    }
    wait_for(&r->waiting, 2);
    reef_evicted evicted;
    r->ops->evict(r->be[0].queue, REEF_EVICT_NOW, &evicted);
    assert_true(evicted.running);
    assert_int_equal(evicted.launches, 0);
    wait_until_revoked();
    open_gate(r);
    for (int i = 0; i < 2; i++) {
        caller *c = &r->be[i];
        wait_for(&c->events, 1);
        finish(r, c);
        assert_answer(r, c);
    }
    rig_free(r);
}

static void evicting_what_is_queued_is_silent(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    begin(r, c);
    r->ops->lease(r->dev, reef_lease_make(32, 32));
    assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, 16), REEF_OK);
    assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 16, 24), REEF_OK);
    reef_evicted evicted;
    r->ops->evict(c->queue, REEF_EVICT_QUEUED, &evicted);
    assert_int_equal(evicted.launches, 2);
    assert_int_equal(evicted.kernels, KERNELS);
    assert_false(evicted.running);
    r->ops->lease(r->dev, reef_lease_make(0, 32));
    finish(r, c);
    assert_int_equal(atomic_load(&c->events), 1);
    assert_answer(r, c);
    rig_free(r);
}

/* Two launches are in the stream; those behind them never come to the driver. */
static void what_waits_behind_the_stream_is_taken_back(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    close_gate(r, FAKE_CUDA_COMMIT, 1);
    begin(r, c);
    for (uint32_t k = 0; k < KERNELS; k += 8) {
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, 8), REEF_OK);
    }
    while (fake_cuda_calls("cuGraphLaunch") < 2) {
        sched_yield();
    }
    wait_for(&r->waiting, 1);
    reef_evicted evicted;
    r->ops->evict(c->queue, REEF_EVICT_QUEUED, &evicted);
    assert_int_equal(evicted.launches, 3);
    assert_int_equal(evicted.kernels, 24);
    assert_true(evicted.running);
    wait_until_revoked();
    open_gate(r);
    wait_for(&c->events, 2);
    finish(r, c);
    assert_answer(r, c);
    rig_free(r);
}

/* The submitter has it in hand: it cannot be taken back, but it is revoked before it has begun. */
static void a_launch_on_its_way_to_the_driver_is_revoked(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    close_gate(r, FAKE_CUDA_SUBMIT, 0);
    begin(r, c);
    assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, 16), REEF_OK);
    assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 16, 24), REEF_OK);
    wait_for(&r->waiting, 1);
    reef_evicted evicted;
    r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
    assert_int_equal(evicted.launches, 1);
    assert_int_equal(evicted.kernels, 24);
    assert_true(evicted.running);
    wait_until_revoked();
    open_gate(r);
    wait_for(&c->events, 1);
    assert_int_equal(atomic_load(&c->evicted), 1);
    assert_int_equal(r->ops->progress(c->instance), 0);
    finish(r, c);
    assert_answer(r, c);
    rig_free(r);
}

/* What has begun of an evictable launch runs to its end; what has not, does not begin. */
static void evictable_launches_stop_between_kernels(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    close_gate(r, FAKE_CUDA_COMMIT, 7);
    begin(r, c);
    assert_int_equal(launch(r, c, REEF_LAUNCH_EVICTABLE, 0, 16), REEF_OK);
    wait_for(&r->waiting, 1);
    fake_cuda_counts before, after;
    fake_cuda_count(&before);
    reef_evicted evicted;
    r->ops->evict(c->queue, REEF_EVICT_QUEUED, &evicted);
    assert_true(evicted.running);
    wait_until_revoked();
    open_gate(r);
    wait_for(&c->events, 1);
    fake_cuda_count(&after);
    assert_int_equal(atomic_load(&c->evicted), 1);
    assert_int_equal(r->ops->progress(c->instance), 8);
    assert_int_equal(after.tiles_abandoned, before.tiles_abandoned);
    finish(r, c);
    assert_answer(r, c);
    rig_free(r);
}

/* Kernels note the generation that they have begun in. What a run before noted there, in the same generation or not, is
 * no reason to begin. */
static void a_kernel_that_began_in_an_earlier_run_has_not_begun_in_this_one(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    reef_evicted evicted;
    close_gate(r, FAKE_CUDA_COMMIT, 20); /* the first kernels begin before a revocation, the others after it */
    begin(r, c);
    assert_int_equal(launch(r, c, REEF_LAUNCH_EVICTABLE, 0, KERNELS), REEF_OK);
    wait_for(&r->waiting, 1);
    r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
    wait_until_revoked();
    open_gate(r);
    wait_for(&c->events, 1);
    uint32_t k = r->ops->progress(c->instance);
    assert_int_equal(k, 21);
    assert_int_equal(launch(r, c, REEF_LAUNCH_EVICTABLE, k, KERNELS - k), REEF_OK);
    wait_for(&c->events, 2);
    assert_answer(r, c);
    close_gate(r, FAKE_CUDA_COMMIT, 0);
    begin(r, c);
    assert_int_equal(launch(r, c, REEF_LAUNCH_EVICTABLE, 0, 16), REEF_OK);
    assert_int_equal(launch(r, c, REEF_LAUNCH_EVICTABLE, 16, 24), REEF_OK);
    wait_for(&r->waiting, 1);
    while (fake_cuda_calls("cuGraphLaunch") < 4) { /* both are in the stream */
        sched_yield();
    }
    r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
    wait_until_revoked();
    open_gate(r);
    wait_for(&c->events, 4);
    assert_int_equal(r->ops->progress(c->instance), 1);
    assert_no_complaint();
    finish(r, c);
    assert_answer(r, c);
    rig_free(r);
}

static void count_workers(void *context, const fake_cuda_step *step)
{
    if (step->moment == FAKE_CUDA_KERNEL && step->function && !strcmp(step->function, "reef_elt_f32_v4_be")) {
        atomic_fetch_add((_Atomic uint32_t *)context, 1);
    }
}

/* A stopped launch goes on near where it stopped: kernels that are done and launched again still have to be waited for. */
static void what_resumes_begins_near_where_it_stopped(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    for (uint32_t k = 0; k < CUDA_SEGMENT_KERNELS; k++) {
        reef_evicted evicted;
        close_gate(r, FAKE_CUDA_COMMIT, k);
        begin(r, c);
        const uint32_t events = atomic_load(&c->events);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, CUDA_SEGMENT_KERNELS), REEF_OK);
        wait_for(&r->waiting, 1);
        r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
        wait_until_revoked();
        open_gate(r);
        wait_for(&c->events, events + 1);
        assert_int_equal(r->ops->progress(c->instance), k);
        _Atomic uint32_t begun = 0;
        fake_cuda_hook(count_workers, &begun);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, CUDA_SEGMENT_KERNELS - k), REEF_OK);
        wait_for(&c->events, events + 2);
        fake_cuda_hook(NULL, NULL);
        assert_int_equal(r->ops->progress(c->instance), CUDA_SEGMENT_KERNELS);
        assert_int_equal(atomic_load(&begun), CUDA_SEGMENT_KERNELS - k / CUDA_RESUME_KERNELS * CUDA_RESUME_KERNELS);
        finish(r, c);
        assert_answer(r, c);
    }
    rig_free(r);
}

/* What an earlier launch of the run has done is not done again, wherever launches begin and end. */
static void overlapping_launches_run_each_kernel_once(void **state)
{
    (void)state;
    static const uint32_t launches[][2] = {{0, 10}, {5, 15}, {12, 11}, {23, 4}, {16, 24}};
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    for (int mode = 0; mode < 3; mode++) {
        static const reef_launch_mode modes[] = {REEF_LAUNCH_PLAIN, REEF_LAUNCH_EVICTABLE, REEF_LAUNCH_LEASED};
        begin(r, c);
        uint32_t events = atomic_load(&c->events);
        for (uint32_t i = 0; i < 5; i++) {
            assert_int_equal(launch(r, c, modes[mode], launches[i][0], launches[i][1]), REEF_OK);
        }
        wait_for(&c->events, events + 5);
        assert_int_equal(atomic_load(&c->done), events + 5);
        assert_answer(r, c);
    }
    rig_free(r);
}

/* A run that was given up half done leaves flags behind; the next one clears them, and counts on nothing. */
static void an_instance_serves_the_next_request_after_a_run_that_was_given_up(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    for (uint32_t round = 0; round < 20; round++) {
        close_gate(r, FAKE_CUDA_COMMIT, round * 2);
        begin(r, c);
        uint32_t events = atomic_load(&c->events);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, KERNELS), REEF_OK);
        wait_for(&r->waiting, 1);
        reef_evicted evicted;
        r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
        wait_until_revoked();
        open_gate(r);
        wait_for(&c->events, events + 1);
        unsigned clears = fake_cuda_calls("cuMemsetD8Async");
        assert_true(r->ops->progress(c->instance) < KERNELS);
        begin(r, c);
        finish(r, c);
        assert_answer(r, c);
        assert_true(fake_cuda_calls("cuMemsetD8Async") > clears);
    }
    rig_free(r);
}

typedef struct parts {
    _Atomic unsigned rt_first, rt_units, be_first, be_units, whole;
} parts;

static void note_parts(void *context, const fake_cuda_step *step)
{
    parts *p = context;
    if (step->moment != FAKE_CUDA_KERNEL || strncmp(step->function, "reef_elt", 8)) {
        return;
    }
    bool be = strstr(step->function, "_be") != NULL;
    atomic_store(be ? &p->be_first : &p->rt_first, step->first_unit);
    atomic_store(be ? &p->be_units : &p->rt_units, step->units);
    if (step->units == FAKE_CUDA_SMS) {
        atomic_fetch_add(&p->whole, 1);
    }
}

static void a_partial_lease_divides_the_units(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    const unsigned leases[][2] = {{8, 8}, {12, 8}, {16, 16}, {24, 16}};
    for (size_t i = 0; i < sizeof leases / sizeof leases[0]; i++) {
        parts p = {0};
        fake_cuda_hook(note_parts, &p);
        r->ops->lease(r->dev, reef_lease_make(FAKE_CUDA_SMS - leases[i][0], FAKE_CUDA_SMS));
        begin(r, c);
        begin(r, &r->rt);
        uint32_t rt = atomic_load(&r->rt.events);
        assert_int_equal(launch(r, &r->rt, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
        finish(r, c);
        wait_for(&r->rt.events, rt + 1);
        fake_cuda_hook(NULL, NULL);
        assert_answer(r, c);
        assert_answer(r, &r->rt);
        assert_int_equal(p.be_units, leases[i][1]);
        assert_int_equal(p.rt_units, FAKE_CUDA_SMS - leases[i][1]);
        assert_true(p.be_first + p.be_units <= p.rt_first || p.rt_first + p.rt_units <= p.be_first);
        assert_int_equal(p.whole, 0);
    }
    rig_free(r);
}

/* ---------------------------------------------------------------- stress -- */

typedef struct client { /* keeps one caller's runs going, as a virtual host queue would */
    rig *rig;
    caller *caller;
    uint32_t runs, resumed;
    bool wrong;
} client;

static void *client_main(void *context)
{
    client *cl = context;
    rig *r = cl->rig;
    caller *c = cl->caller;
    unsigned seed = (unsigned)(uintptr_t)c;
    uint32_t expected = 0;
    for (uint32_t run = 0; run < cl->runs; run++) {
        begin(r, c);
        for (uint32_t k; (k = r->ops->progress(c->instance)) < KERNELS;) {
            uint32_t evicted_before = atomic_load(&c->evicted), launched = 0;
            for (uint32_t next = k; next < KERNELS; launched++) {
                uint32_t whole = 16 - next % 16, count = KERNELS - next < whole ? KERNELS - next : whole;
                assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, next, count), REEF_OK);
                next += count;
            }
            while (atomic_load(&c->events) < expected + launched) {
                bool own = rand_r(&seed) % 40 == 0;
                if (own || atomic_load(&c->evicted) != evicted_before) {
                    reef_evicted evicted;
                    r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
                    launched -= evicted.launches;
                }
                uint32_t seen = atomic_load(&c->events);
                if (seen < expected + launched) {
                    reef_futex_wait(&c->events, seen, reef_now_ns() + 1000000);
                }
            }
            expected += launched;
            cl->resumed++;
        }
        cl->wrong |= memcmp(c->y, c->expected, sizeof c->y) != 0;
    }
    return NULL;
}

/* Leases come and go, callers take their own work back, real-time work comes between: every answer is the same, and no
 * tile has run twice or too early. */
static void preempted_thousands_of_times_every_tile_is_done_once(void **state)
{
    (void)state;
    rig *r = rig_make(3);
    fake_cuda_delay(30);
    client clients[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        clients[i] = (client){.rig = r, .caller = &r->be[i], .runs = 40};
        assert_int_equal(pthread_create(&threads[i], NULL, client_main, &clients[i]), 0);
    }
    unsigned seed = 7;
    for (uint32_t i = 0; i < 1500; i++) {
        static const unsigned least[] = {0, 0, 16, 24, 32};
        unsigned first = least[rand_r(&seed) % 5];
        r->ops->lease(r->dev, reef_lease_make(first, FAKE_CUDA_SMS));
        if (i % 50 == 0) {
            begin(r, &r->rt);
            assert_int_equal(launch(r, &r->rt, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
            wait_for(&r->rt.events, i / 50 + 1);
            assert_answer(r, &r->rt);
        }
        struct timespec moment = {.tv_nsec = rand_r(&seed) % 1000000};
        nanosleep(&moment, NULL);
    }
    r->ops->lease(r->dev, reef_lease_make(0, FAKE_CUDA_SMS));
    uint32_t resumed = 0, evicted = 0;
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_false(clients[i].wrong);
        resumed += clients[i].resumed;
        evicted += atomic_load(&r->be[i].evicted);
        assert_int_equal(atomic_load(&r->be[i].failed), 0);
    }
    fake_cuda_counts counts;
    fake_cuda_count(&counts);
    print_message("%u launches stopped early, %u rounds, tiles: %llu done, %llu abandoned, %llu skipped\n", evicted,
                  resumed, (unsigned long long)counts.tiles_committed, (unsigned long long)counts.tiles_abandoned,
                  (unsigned long long)counts.tiles_skipped);
    assert_true(evicted > 500 && counts.tiles_abandoned > 100);
    rig_free(r);
}

typedef struct tally {
    reef_session *session;
    _Atomic uint32_t left, bad;
} tally;

static void again(void *context, reef_request *request, const reef_request_info *info)
{
    tally *t = context;
    (void)request;
    atomic_fetch_add(&t->bad, info->status != REEF_OK);
    uint32_t left = atomic_fetch_sub(&t->left, 1) - 1;
    if (left) {
        reef_status status =
            reef_session_submit(t->session, &(reef_submit_options){.callback = again, .context = t}, NULL);
        atomic_fetch_add(&t->bad, status != REEF_OK);
    }
    reef_futex_wake(&t->left, INT32_MAX);
}

static void wait_for_zero(_Atomic uint32_t *word)
{
    for (uint32_t seen; (seen = atomic_load(word));) {
        reef_futex_wait(word, seen, UINT64_MAX);
    }
}

/* The whole way, from sessions through the scheduler: every policy that the device can. */
static void sessions_are_served_under_every_policy(void **state)
{
    (void)state;
    const char *policy, *meaning;
    for (size_t i = 0; reef_policy_list(i, &policy, &meaning); i++) {
        start_afresh();
        fake_cuda_delay(20);
        reef_device *device;
        reef_error error = {0};
        reef_status status = reef_device_open("cuda:0", &(reef_device_options){.policy = policy}, &device, &error);
        if (status == REEF_UNSUPPORTED) {
            print_message("%s: %s\n", policy, error.message);
            continue;
        }
        assert_int_equal(status, REEF_OK);
        reef_model *quick, *large, *small;
        assert_int_equal(reef_model_create_synthetic(device, 3, 4, 2000, &quick, &error), REEF_OK);
        assert_int_equal(reef_model_create_synthetic(device, 70, 96, 20000, &large, &error), REEF_OK);
        assert_int_equal(reef_model_create_synthetic(device, 20, 3, 3000, &small, &error), REEF_OK);
        const bool alone = !strcmp(policy, "rt-only");
        fake_cuda_counts before, after;
        fake_cuda_count(&before);
        tally best[3] = {{.left = 6}, {.left = 12}, {.left = 12}};
        reef_model *models[] = {large, small, small};
        for (int j = 0; j < 3 && !alone; j++) {
            assert_int_equal(
                reef_session_create(models[j],
                                    &(reef_session_options){.service_class = REEF_BE, .weight = (unsigned)j + 1},
                                    &best[j].session, &error),
                REEF_OK);
            assert_int_equal(reef_session_submit(best[j].session,
                                                 &(reef_submit_options){.callback = again, .context = &best[j]}, NULL),
                             REEF_OK);
        }
        reef_session *rt;
        assert_int_equal(reef_session_create(quick, &(reef_session_options){.service_class = REEF_RT}, &rt, &error),
                         REEF_OK);
        for (int j = 0; j < 150; j++) {
            assert_int_equal(reef_session_run(rt, NULL, NULL, NULL), REEF_OK);
            struct timespec moment = {.tv_nsec = 300000};
            nanosleep(&moment, NULL);
        }
        for (int j = 0; j < 3 && !alone; j++) {
            wait_for_zero(&best[j].left);
            assert_int_equal(atomic_load(&best[j].bad), 0);
            reef_session_destroy(best[j].session);
        }
        reef_device_stats stats;
        reef_device_stats_get(device, &stats);
        fake_cuda_count(&after);
        const uint64_t passed_on = after.passed_on - before.passed_on;
        print_message("%s: %llu preemptions, %llu tiles abandoned; %llu times a watch said so\n", policy,
                      (unsigned long long)stats.preemptions, (unsigned long long)stats.tiles_abandoned,
                      (unsigned long long)passed_on);
        const bool stops = !strcmp(policy, "reset") || !strcmp(policy, "lease") || !strcmp(policy, "wait");
        assert_true(stops || passed_on == 0); /* on a busy machine a watch may never be there when it is needed */
        reef_session_destroy(rt);
        reef_model_destroy(quick);
        reef_model_destroy(large);
        reef_model_destroy(small);
        reef_device_close(device);
        assert_no_complaint();
        assert_nothing_left();
    }
}

static void count_divided(void *context, const fake_cuda_step *step)
{
    if (step->moment == FAKE_CUDA_KERNEL && step->units < FAKE_CUDA_SMS) {
        atomic_fetch_add((_Atomic uint32_t *)context, 1);
    }
}

static void go(tally *t, uint32_t requests)
{
    atomic_store(&t->left, requests);
    assert_int_equal(reef_session_submit(t->session, &(reef_submit_options){.callback = again, .context = t}, NULL),
                     REEF_OK);
}

/* What launches need is made when the session is or the policy changes: neither while a request waits nor beside one. */
static void no_request_waits_for_a_graph(void **state)
{
    (void)state;
    static const unsigned tiles[] = {96, 30, 17}, kernels[] = {70, 3, 3}, needed[] = {32, 24, 16};
    const char *const makes = "cuGraphInstantiateWithFlags", *policy, *meaning;
    start_afresh();
    _Atomic uint32_t divided = 0;
    fake_cuda_hook(count_divided, &divided);
    reef_device *device;
    reef_model *models[3];
    tally callers[3] = {0}; /* the first is best-effort */
    reef_error error = {0};
    assert_int_equal(reef_device_open("cuda:0", &(reef_device_options){.policy = "rt-only"}, &device, &error), REEF_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(reef_model_create_synthetic(device, kernels[i], tiles[i], 2000, &models[i], &error), REEF_OK);
        models[i]->units_needed = needed[i]; /* as a profile would find */
        const reef_session_options how = {.service_class = i ? REEF_RT : REEF_BE};
        assert_int_equal(reef_session_create(models[i], &how, &callers[i].session, &error), REEF_OK);
    }
    for (size_t i = 0; reef_policy_list(i, &policy, &meaning); i++) {
        if (reef_device_set_policy(device, policy, &error)) {
            assert_string_equal(policy, "pad"); /* for want of kernels that carry tiles */
            continue;
        }
        const unsigned made = fake_cuda_calls(makes), first = strcmp(policy, "rt-only") ? 0 : 1;
        const bool divides = !strcmp(policy, "lease");
        atomic_store(&divided, 0);
        /* Units are divided when real-time work has come for a while without a pause. */
        for (int tries = 0; tries < (divides ? 50 : 1) && !atomic_load(&divided); tries++) {
            for (unsigned j = first; j < 3; j++) {
                go(&callers[j], j ? (divides ? 400 : 60) : 2);
            }
            for (unsigned j = first; j < 3; j++) {
                wait_for_zero(&callers[j].left);
                assert_int_equal(atomic_load(&callers[j].bad), 0);
            }
        }
        print_message("%s: %u kernels on some of the units\n", policy, atomic_load(&divided));
        assert_int_equal(atomic_load(&divided) > 0, divides);
        assert_int_equal(fake_cuda_calls(makes), made);
    }
    for (int i = 0; i < 3; i++) {
        reef_session_destroy(callers[i].session);
        reef_model_destroy(models[i]);
    }
    reef_device_close(device);
    fake_cuda_hook(NULL, NULL);
    assert_no_complaint();
    assert_nothing_left();
}

typedef struct stream_of_requests {
    reef_session *session;
    _Atomic bool stop;
    _Atomic uint32_t ended, stopped;
} stream_of_requests;

static void next_one(void *context, reef_request *request, const reef_request_info *info)
{
    stream_of_requests *s = context;
    (void)request;
    atomic_fetch_add(&s->ended, info->status == REEF_OK);
    if (atomic_load(&s->stop) ||
        reef_session_submit(s->session, &(reef_submit_options){.callback = next_one, .context = s}, NULL)) {
        atomic_store(&s->stopped, 1);
        reef_futex_wake(&s->stopped, INT32_MAX);
    } else {
        reef_futex_wake(&s->ended, INT32_MAX);
    }
}

/* Real-time work that leaves fewer units than any share has: it leaves none, and best-effort work has its turns and all of
 * the device afterwards. */
static void best_effort_work_goes_on_where_no_share_is_small_enough(void **state)
{
    (void)state;
    start_afresh();
    reef_device *device;
    reef_model *models[2];
    stream_of_requests callers[2] = {0};
    reef_error error = {0};
    assert_int_equal(reef_device_open("cuda:0", &(reef_device_options){.policy = "lease"}, &device, &error), REEF_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(reef_model_create_synthetic(device, 3, 28, 20000, &models[i], &error), REEF_OK);
        const reef_session_options how = {.service_class = i ? REEF_RT : REEF_BE};
        assert_int_equal(reef_session_create(models[i], &how, &callers[i].session, &error), REEF_OK);
        const reef_submit_options first = {.callback = next_one, .context = &callers[i]};
        assert_int_equal(reef_session_submit(callers[i].session, &first, NULL), REEF_OK);
    }
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);       /* long enough to divide the units */
    wait_for(&callers[0].ended, atomic_load(&callers[0].ended) + 5); /* beside real-time work */
    atomic_store(&callers[1].stop, true);
    wait_for(&callers[1].stopped, 1);
    wait_for(&callers[0].ended, atomic_load(&callers[0].ended) + 50); /* and behind it */
    atomic_store(&callers[0].stop, true);
    wait_for(&callers[0].stopped, 1);
    for (int i = 0; i < 2; i++) {
        reef_session_destroy(callers[i].session);
        reef_model_destroy(models[i]);
    }
    reef_device_close(device);
    assert_no_complaint();
    assert_nothing_left();
}

/* How many units a model needs cannot always be measured: then that is not kept, for the next start to try again. */
static void half_a_profile_is_not_kept(void **state)
{
    (void)state;
    static const char *const obstacles[] = {"cuMemAlloc_v2", "cuGreenCtxStreamCreate", "cuGraphLaunch", NULL};
    static const unsigned skip[] = {4, 2, 30}; /* the kernels' own times come first */
    char folder[] = "/tmp/reef-profile-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/profile.json", folder);
    for (size_t i = 0; i < sizeof obstacles / sizeof obstacles[0]; i++) {
        start_afresh();
        reef_device *device;
        reef_model *model;
        reef_error error = {0};
        assert_int_equal(reef_device_open("cuda:0", NULL, &device, &error), REEF_OK);
        assert_int_equal(reef_model_create_synthetic(device, 3, 28, 2000, &model, &error), REEF_OK);
        model->cache_path = strdup(path);
        if (obstacles[i]) {
            fake_cuda_fail(obstacles[i], skip[i], 1, 2);
        }
        assert_int_equal(reef_model_profile(model, 2, NULL, NULL, &error), REEF_OK);
        assert_int_equal(access(path, F_OK) == 0, !obstacles[i]);
        reef_model_destroy(model);
        reef_device_close(device);
        assert_no_complaint();
        assert_nothing_left();
    }
    unlink(path);
    rmdir(folder);
}

static void a_running_request_can_be_cancelled(void **state)
{
    (void)state;
    start_afresh();
    reef_device *device;
    reef_model *model;
    reef_session *session, *other;
    reef_error error = {0};
    assert_int_equal(reef_device_open("cuda:0", NULL, &device, &error), REEF_OK);
    assert_int_equal(reef_model_create_synthetic(device, 200, 100, 50000, &model, &error), REEF_OK); /* a second */
    assert_int_equal(reef_session_create(model, NULL, &session, &error), REEF_OK);
    assert_int_equal(reef_session_create(model, NULL, &other, &error), REEF_OK);
    for (int i = 0; i < 5; i++) {
        reef_request *request, *goes_on;
        assert_int_equal(reef_session_submit(session, &(reef_submit_options){0}, &request), REEF_OK);
        assert_int_equal(reef_session_submit(other, &(reef_submit_options){0}, &goes_on), REEF_OK);
        struct timespec moment = {.tv_nsec = 2000000l * i};
        nanosleep(&moment, NULL);
        reef_request_info info;
        reef_request_cancel(request);
        assert_int_equal(reef_request_wait(request, UINT64_MAX, &info), REEF_OK);
        assert_int_equal(info.status, REEF_CANCELLED);
        assert_int_equal(reef_request_wait(goes_on, 0, &info), REEF_TIMEOUT);
        reef_request_cancel(goes_on);
        assert_int_equal(reef_request_wait(goes_on, UINT64_MAX, &info), REEF_OK);
        reef_request_release(request);
        reef_request_release(goes_on);
    }
    reef_session_destroy(session);
    reef_session_destroy(other);
    reef_model_destroy(model);
    reef_device_close(device);
    assert_no_complaint();
    assert_nothing_left();
}

/* -------------------------------------------------------------- fairness -- */

/* While one queue's work does not get on, another may run ahead, but not without bound. */
static void a_queue_gets_only_so_far_ahead_of_another(void **state)
{
    (void)state;
    enum { LAUNCHES = 12, LONG = 1000 }; /* a launch of so many kernels counts as a millisecond */
    rig *r = rig_make(1);
    caller *slow = &r->be[0], quick = {0};
    reef_plan *plan;
    reef_program *program;
    assert_int_equal(reef_plan_create_synthetic(LONG * LAUNCHES, 1, 1, &plan), REEF_OK);
    assert_int_equal(r->ops->program_create(r->dev, plan, NULL, &program, NULL), REEF_OK);
    assert_int_equal(r->ops->instance_create(program, &quick.instance, NULL), REEF_OK);
    assert_int_equal(r->ops->queue_create(r->dev, false, LAUNCHES, 1, &quick.queue), REEF_OK);
    close_gate(r, FAKE_CUDA_COMMIT, 1);
    begin(r, slow);
    assert_int_equal(launch(r, slow, REEF_LAUNCH_LEASED, 0, KERNELS), REEF_OK);
    wait_for(&r->waiting, 1);
    r->ops->begin(quick.instance, 0, NULL, NULL);
    for (uint32_t i = 0; i < LAUNCHES; i++) {
        assert_int_equal(launch(r, &quick, REEF_LAUNCH_LEASED, i * LONG, LONG), REEF_OK);
    }
    wait_for(&quick.events, 3); /* it is not held up by the other's trouble at once */
    struct timespec moment = {.tv_nsec = 100000000};
    nanosleep(&moment, NULL);
    assert_true(atomic_load(&quick.events) <= 5);
    open_gate(r);
    wait_for(&quick.events, LAUNCHES);
    assert_int_equal(atomic_load(&quick.done), LAUNCHES);
    wait_for(&slow->events, 1);
    assert_answer(r, slow);
    caller_close(r, &quick);
    r->ops->program_destroy(program);
    reef_plan_destroy(plan);
    rig_free(r);
}

/* -------------------------------------------------------------- failures -- */

static void a_call_that_fails_at_launch_fails_that_launch_alone(void **state)
{
    (void)state;
    static const char *const calls[] = {"cuGraphLaunch", "cuStreamWriteValue64_v2", "cuGraphInstantiateWithFlags",
                                        "cuGraphCreate", "cuGraphAddKernelNode_v2"};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        rig *r = rig_make(2);
        caller *c = &r->be[0], *other = &r->be[1];
        begin(r, c);
        fake_cuda_fail(calls[i], 0, 1, FAKE_CUDA_LAUNCH_FAILED);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, 16), REEF_OK);
        wait_for(&c->events, 1);
        assert_int_equal(atomic_load(&c->failed), 1);
        reef_error error = {0};
        assert_int_equal(r->ops->health(r->dev, &error), REEF_DEVICE);
        char shown[40];
        snprintf(shown, sizeof shown, "%.*s", (int)strcspn(calls[i], "_"), calls[i]);
        assert_non_null(strstr(error.message, shown));
        begin(r, other);
        finish(r, other);
        assert_answer(r, other);
        for (int j = 0; j < 3; j++) { /* it can be tried again, and the next requests are served */
            if (j) {
                begin(r, c);
            }
            atomic_store(&c->failed, 0);
            finish(r, c);
            assert_answer(r, c);
        }
        rig_free(r);
    }
}

/* The flags of a run that was given up could not be cleared: the launch fails, and whoever is next clears them. */
static void flags_that_could_not_be_cleared_are_cleared_later(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    close_gate(r, FAKE_CUDA_COMMIT, 4);
    begin(r, c);
    assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, KERNELS), REEF_OK);
    wait_for(&r->waiting, 1);
    reef_evicted evicted;
    r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
    wait_until_revoked();
    open_gate(r);
    wait_for(&c->events, 1);
    begin(r, c);
    fake_cuda_fail("cuMemsetD8Async", 0, 1, FAKE_CUDA_LAUNCH_FAILED);
    assert_int_equal(launch(r, c, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
    wait_for(&c->events, 2);
    assert_int_equal(atomic_load(&c->failed), 1);
    unsigned clears = fake_cuda_calls("cuMemsetD8Async");
    begin(r, c);
    assert_int_equal(launch(r, c, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
    wait_for(&c->events, 3);
    assert_answer(r, c);
    assert_true(fake_cuda_calls("cuMemsetD8Async") > clears);
    rig_free(r);
}

static void fault(rig *r)
{
    for (unsigned i = 0; i < r->n; i++) {
        begin(r, &r->be[i]);
    }
    fake_cuda_fault("reef_elt_f32_v4_be");
    for (unsigned i = 0; i < r->n; i++) {
        assert_int_equal(launch(r, &r->be[i], REEF_LAUNCH_LEASED, 0, 16), REEF_OK);
        assert_int_equal(launch(r, &r->be[i], REEF_LAUNCH_LEASED, 16, 16), REEF_OK);
    }
    uint32_t failed = 0;
    for (unsigned i = 0; i < r->n; i++) {
        wait_for(&r->be[i].events, 2);
        failed += atomic_load(&r->be[i].failed);
    }
    assert_true(failed >= 2);
    reef_error error = {0};
    assert_int_equal(r->ops->health(r->dev, &error), REEF_DEVICE);
    assert_non_null(strstr(error.message, "illegal memory access"));
}

static void after_a_fault_everything_is_loaded_again(void **state)
{
    (void)state;
    for (int partial = 0; partial < 2; partial++) {
        rig *r = rig_make(3);
        r->ops->lease(r->dev, reef_lease_make(partial ? 16 : 0, FAKE_CUDA_SMS)); /* it still holds afterwards */
        for (int round = 0; round < 3; round++) {
            fault(r);
            for (unsigned i = 0; i < 3; i++) {
                caller *c = &r->be[i];
                atomic_store(&c->failed, 0);
                begin(r, c);
                finish(r, c);
                assert_answer(r, c);
                atomic_store(&c->events, 0);
            }
            begin(r, &r->rt);
            assert_int_equal(launch(r, &r->rt, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
            wait_for(&r->rt.events, (uint32_t)round + 1);
            assert_answer(r, &r->rt);
        }
        rig_free(r);
    }
}

/* Nothing of it was on the device when another's kernel faulted, but what it had done is gone with the context. */
static void a_run_that_was_stopped_before_a_fault_fails(void **state)
{
    (void)state;
    rig *r = rig_make(2);
    caller *c = &r->be[0], *other = &r->be[1];
    for (uint32_t round = 0; round < 3; round++) {
        const uint32_t events = atomic_load(&c->events), others = atomic_load(&other->events);
        close_gate(r, FAKE_CUDA_COMMIT, 10);
        begin(r, c);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, 0, 16), REEF_OK);
        wait_for(&r->waiting, 1);
        reef_evicted evicted;
        r->ops->evict(c->queue, REEF_EVICT_NOW, &evicted);
        wait_until_revoked();
        open_gate(r);
        wait_for(&c->events, events + 1);
        fake_cuda_hook(NULL, NULL);
        fake_cuda_fault("reef_elt_f32_v4_be");
        begin(r, other);
        assert_int_equal(launch(r, other, REEF_LAUNCH_LEASED, 0, 16), REEF_OK);
        wait_for(&other->events, others + 1);
        assert_int_equal(atomic_exchange(&other->failed, 0), 1);
        const uint32_t k = r->ops->progress(c->instance);
        assert_in_range(k, 10, 11);
        for (int plain = 0; plain < 2; plain++) {
            assert_int_equal(launch(r, c, plain ? REEF_LAUNCH_PLAIN : REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
            wait_for(&c->events, events + 2 + (uint32_t)plain);
            assert_int_equal(atomic_exchange(&c->failed, 0), 1);
        }
        for (int i = 0; i < 2; i++) {
            begin(r, &r->be[i]);
            finish(r, &r->be[i]);
            assert_answer(r, &r->be[i]);
        }
    }
    rig_free(r);
}

/* The driver makes no other context, or the second loading fails half way: every launch fails, and everything can be
 * destroyed. */
static void a_device_that_does_not_come_back_fails_every_launch(void **state)
{
    (void)state;
    static const struct {
        const char *symbol;
        unsigned skip;
    } obstacles[] = {{NULL, 0},
                     {"cuLibraryLoadData", 0},
                     {"cuMemAlloc_v2", 0},
                     {"cuMemAlloc_v2", 2},
                     {"cuStreamCreateWithPriority", 1},
                     {"cuStreamCreateWithPriority", 2},
                     {"cuGraphCreate", 1},
                     {"cuMemHostRegister_v2", 0}};
    for (size_t i = 0; i < sizeof obstacles / sizeof obstacles[0]; i++) {
        rig *r = rig_make(2);
        if (obstacles[i].symbol) {
            for (int j = 0; j < 2; j++) { /* the graphs of the launches to come are made now */
                begin(r, &r->be[j]);
                assert_int_equal(launch(r, &r->be[j], REEF_LAUNCH_LEASED, 0, 16), REEF_OK);
                assert_int_equal(launch(r, &r->be[j], REEF_LAUNCH_LEASED, 16, 16), REEF_OK);
                wait_for(&r->be[j].events, 2);
                atomic_store(&r->be[j].events, 0);
            }
            fake_cuda_fail(obstacles[i].symbol, obstacles[i].skip, 100, 2);
        } else {
            fake_cuda_contexts_after_fault(false);
        }
        fault(r);
        reef_error error = {0};
        r->ops->health(r->dev, &error);
        assert_non_null(strstr(error.message, "is lost to this process"));
        for (uint32_t j = 0; j < 2; j++) {
            caller *c = &r->be[j];
            begin(r, c);
            assert_int_equal(launch(r, c, j ? REEF_LAUNCH_LEASED : REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
            wait_for(&c->events, 3);
        }
        begin(r, &r->rt);
        assert_int_equal(launch(r, &r->rt, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
        wait_for(&r->rt.events, 1);
        assert_int_equal(atomic_load(&r->rt.failed), 1);
        uint64_t ns;
        assert_int_not_equal(r->ops->replay(r->rt.instance, true, true, &ns, &error), REEF_OK);
        reef_dev_stats stats;
        r->ops->stats(r->dev, &stats);
        rig_free(r);
    }
}

/* Revocations are the driver's alone then, of both words: generations come round, and none may seem revoked for that. */
static void generations_come_round_without_a_watch(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    caller *c = &r->be[0];
    fake_cuda_fail("cuMemHostRegister_v2", 0, 1, 2); /* the watch's is the first */
    fault(r);
    cuda_device *device = (cuda_device *)r->dev;
    for (uint32_t round = 0; round < 40; round++) {
        pthread_mutex_lock(&device->lock);
        device->youngest += 1u << 27;
        pthread_mutex_unlock(&device->lock);
        atomic_store(&c->events, 0);
        atomic_store(&c->done, 0);
        begin(r, c);
        assert_int_equal(launch(r, c, round % 2 ? REEF_LAUNCH_LEASED : REEF_LAUNCH_EVICTABLE, 0, KERNELS), REEF_OK);
        wait_for(&c->events, 1);
        assert_int_equal(atomic_load(&c->done), 1);
        assert_answer(r, c);
    }
    rig_free(r);
}

/* Each call of each kind fails once, while a device is opened, loaded, used: an error or an event says so, nothing is left
 * behind, nothing is used that is gone. */
static void whichever_call_fails_nothing_is_left_behind(void **state)
{
    (void)state;
    static const char *const calls[] = {"cuCtxCreate_v2",
                                        "cuCtxGetStreamPriorityRange",
                                        "cuCtxPushCurrent_v2",
                                        "cuLibraryLoadData",
                                        "cuLibraryGetKernel",
                                        "cuOccupancyMaxActiveBlocksPerMultiprocessor",
                                        "cuMemAlloc_v2",
                                        "cuMemHostRegister_v2",
                                        "cuMemHostGetDevicePointer_v2",
                                        "cuMemcpyHtoD_v2",
                                        "cuMemsetD8_v2",
                                        "cuStreamCreateWithPriority",
                                        "cuStreamSynchronize",
                                        "cuGraphCreate",
                                        "cuGraphAddKernelNode_v2",
                                        "cuGraphAddDependencies_v2",
                                        "cuGraphInstantiateWithFlags",
                                        "cuGraphLaunch",
                                        "cuStreamWriteValue64_v2",
                                        "cuEventCreate",
                                        "cuEventRecord",
                                        "cuEventSynchronize",
                                        "cuEventElapsedTime",
                                        "cuDeviceGetDevResource",
                                        "cuDevSmResourceSplitByCount",
                                        "cuDevResourceGenerateDesc",
                                        "cuGreenCtxCreate",
                                        "cuCtxFromGreenCtx"};
    reef_device_entry entry;
    assert_int_equal(reef_device_find("cuda:0", &entry, NULL), REEF_OK);
    unsigned refused = 0, failed = 0;
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        const unsigned skips = strcmp(calls[i], "cuCtxPushCurrent_v2") ? 6 : 30; /* made by everything, to the last */
        for (unsigned skip = 0; skip < skips; skip++) {
            start_afresh();
            reef_plan *plan = chain_plan_create(3, ELEMS);
            reef_dev *dev = NULL;
            reef_program *program = NULL;
            caller c = {0};
            fake_cuda_fail(calls[i], skip, 1, FAKE_CUDA_LAUNCH_FAILED);
            const reef_device_ops *ops = entry.ops;
            reef_error error = {0};
            reef_status status = ops->open(&(reef_dev_config){.on_event = on_event}, &dev, &error);
            status = status ? status : ops->program_create(dev, plan, NULL, &program, &error);
            status = status ? status : ops->instance_create(program, &c.instance, &error);
            assert_true(!status || error.message[0]);
            status = status ? status : ops->queue_create(dev, false, 4, 1, &c.queue);
            if (!status) {
                float x[ELEMS] = {0}, y[ELEMS];
                ops->begin(c.instance, 0, (const void *[]){x}, (void *[]){y});
                ops->launch(c.queue,
                            &(reef_launch){.instance = c.instance, .count = 3, .mode = REEF_LAUNCH_LEASED, .tag = &c});
                wait_for(&c.events, 1);
                failed += atomic_load(&c.failed);
                uint64_t ns[2];
                refused += ops->measure(c.instance, 1, 2, ns, &error) != REEF_OK;
                refused += ops->replay(c.instance, true, true, ns, &error) != REEF_OK;
            }
            refused += status != REEF_OK;
            ops->queue_destroy(c.queue);
            ops->instance_destroy(c.instance);
            ops->program_destroy(program);
            if (dev) {
                ops->close(dev);
            }
            reef_plan_destroy(plan);
            fake_cuda_counts left;
            fake_cuda_count(&left);
            if (left.memory_bytes != at_start.memory_bytes || handles(&left) != handles(&at_start)) {
                print_message("%s, after %u others: %zu bytes, %u handles left\n", calls[i], skip, left.memory_bytes,
                              handles(&left));
            }
            assert_no_complaint();
            assert_nothing_left();
        }
    }
    print_message("%u calls refused, %u launches failed\n", refused, failed);
    assert_true(refused > 30 && failed > 2);
}

static void memory_is_counted_and_given_back(void **state)
{
    (void)state;
    rig *r = rig_make(0);
    fake_cuda_counts before, with, after;
    reef_instance *instances[20];
    fake_cuda_count(&before);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(r->ops->instance_create(r->program, &instances[i], NULL), REEF_OK);
    }
    fake_cuda_count(&with);
    size_t each = (with.memory_bytes - before.memory_bytes) / 20;
    assert_true(each >= r->plan->activation_bytes + 2 * ELEMS * sizeof(float));
    assert_true(each < r->plan->activation_bytes + 2 * ELEMS * sizeof(float) + 65536);
    /* No more than there is: refused with a reason, and nothing is lost. */
    fake_cuda_memory(with.memory_bytes + each / 2);
    reef_instance *more;
    reef_error error = {0};
    assert_int_equal(r->ops->instance_create(r->program, &more, &error), REEF_NO_MEMORY);
    assert_non_null(strstr(error.message, "instance"));
    for (int i = 0; i < 20; i++) {
        r->ops->instance_destroy(instances[i]);
    }
    fake_cuda_count(&after);
    assert_int_equal(after.memory_bytes, before.memory_bytes);
    assert_int_equal(after.executables, before.executables);
    assert_int_equal(after.registered, before.registered);
    rig_free(r);
}

/* These images have no modules of kernel padding. */
static void a_build_without_padded_forms_says_so(void **state)
{
    (void)state;
    rig *r = rig_make(1);
    reef_error error = {0};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(r->ops->pad(r->dev, true, &error), REEF_UNSUPPORTED);
        assert_non_null(strstr(error.message, "no kernels that carry others' tiles"));
    }
    assert_int_equal(r->ops->pad(r->dev, false, &error), REEF_OK);
    reef_dev_padding padding;
    r->ops->padding(r->dev, &padding);
    assert_int_equal(padding.proxy_bytes, 0);
    assert_int_equal(padding.levels[0], 0);
    begin(r, &r->be[0]);
    finish(r, &r->be[0]);
    assert_answer(r, &r->be[0]);
    rig_free(r);
    reef_device *device;
    assert_int_equal(reef_device_open("cuda:0", &(reef_device_options){.policy = "pad"}, &device, &error),
                     REEF_UNSUPPORTED);
    assert_non_null(strstr(error.message, "policy 'pad'"));
    assert_int_equal(reef_device_open("cuda:0", NULL, &device, &error), REEF_OK);
    assert_int_equal(reef_device_set_policy(device, "pad", &error), REEF_UNSUPPORTED);
    assert_non_null(strstr(error.message, "policy 'pad'"));
    reef_device_close(device);
    assert_nothing_left();
}

/* ---------------------------------------------------------------- tuning -- */

/* Sums of half-precision activations, large enough that there are two ways to make them. */
static reef_plan *plan_with_a_choice(void)
{
    enum { MANY = 1 << 18 };
    reef_plan *plan = chain_plan_create(3, MANY);
    for (uint32_t k = 0; k < 3; k++) {
        reef_kernel *kernel = &plan->kernels[k];
        kernel->eltwise.n_insns = 1;
        kernel->eltwise.result = 1;
        kernel->eltwise.insns[0] = (reef_elt_insn){.op = REEF_ELT_ADD, .type = REEF_F32, .dst = 1, .a = 0, .b = 0};
        if (k == 1) { /* from one activation to the other */
            kernel->y.storage = kernel->in[0].storage == 2 ? 3 : 2;
            plan->kernels[2].in[0].storage = kernel->y.storage;
        }
    }
    return plan;
}

/* Loads the plan with this cache; returns how many measurements that took. */
static unsigned load(const reef_device_ops *ops, reef_dev *dev, const char *folder)
{
    reef_plan *plan = plan_with_a_choice();
    reef_program *program;
    reef_error error = {0};
    unsigned before = fake_cuda_calls("cuEventElapsedTime");
    reef_status status = ops->program_create(
        dev, plan, &(reef_program_options){.precision = REEF_PRECISION_FP16, .cache_dir = folder}, &program, &error);
    if (status) {
        print_message("%s\n", error.message);
    }
    assert_int_equal(status, REEF_OK);
    reef_dev_kernel info;
    ops->kernel_info(program, 1, &info);
    assert_true(info.tile_ns < UINT64_C(60000000000));
    ops->program_destroy(program);
    reef_plan_destroy(plan);
    return fake_cuda_calls("cuEventElapsedTime") - before;
}

static char *read_all(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = calloc(1, 1 << 16);
    *n = fread(text, 1, (1 << 16) - 1, file);
    fclose(file);
    return text;
}

static void write_all(const char *path, const char *text, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    fclose(file);
}

/* text with what follows `from` up to `end` replaced. */
static void write_with(const char *path, const char *text, const char *from, const char *end, const char *by)
{
    const char *at = strstr(text, from);
    assert_non_null(at);
    at += strlen(from);
    const char *rest = at + strcspn(at, end);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fprintf(file, "%.*s%s%s", (int)(at - text), text, by, rest);
    fclose(file);
}

static void a_damaged_tuning_file_is_measured_again_and_replaced(void **state)
{
    (void)state;
    rig *r = rig_make(0);
    char folder[] = "/tmp/reef-tuning-XXXXXX", path[200];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/reef.Fake-GPU-cuda13000-sm%d.tuning.json", folder, FAKE_CUDA_SMS);
    assert_true(load(r->ops, r->dev, folder) > 0);
    assert_int_equal(load(r->ops, r->dev, folder), 0); /* known now */
    assert_true(load(r->ops, r->dev, NULL) > 0);
    size_t n;
    char *sound = read_all(path, &n);
    for (size_t cut = 0; cut < n - 2; cut += 13) {
        write_all(path, sound, cut);
        assert_true(load(r->ops, r->dev, folder) > 0);
        assert_int_equal(load(r->ops, r->dev, folder), 0);
    }
    static const struct {
        const char *from, *end, *by;
    } lies[] = {
        {"\"format\": ", "\n,", "2"},
        {"\"format\": ", "\n,", "\"1\""},
        {"\"code\": ", "\n,", "\"0123456789abcdef\""},
        {"\"code\": ", "\n,", "null"},
        {"\"ns\": ", "\n,}", "NaN"},
        {"\"ns\": ", "\n,}", "1e308"},
        {"\"ns\": ", "\n,}", "-1"},
        {"\"ns\": ", "\n,}", "0"},
        {"\"ns\": ", "\n,}", "\"4\""},
        {"\"ns\": ", "\n,}", "1.5"},
        {"\"ns\": ", "\n,}", "9223372036854775807"},
        {"\"ns\": ", "\n,}", "18446744073709551616"},
        {"\"variant\": ", "\n,}", "\"no such variant\""},
        {"\"variant\": ", "\n,}", "[]"},
        {"\"entries\": ", "{", "0, \"more\": "},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        write_with(path, sound, lies[i].from, lies[i].end, lies[i].by);
        unsigned measured = load(r->ops, r->dev, folder);
        if (!measured) {
            print_message("%s%s was believed\n", lies[i].from, lies[i].by);
        }
        assert_true(measured > 0);
        assert_int_equal(load(r->ops, r->dev, folder), 0);
    }
    size_t large = 1 << 20; /* a name without end, and nesting without end */
    char *hostile = malloc(large);
    memset(hostile, '[', large);
    write_all(path, hostile, large);
    assert_true(load(r->ops, r->dev, folder) > 0);
    assert_int_equal(load(r->ops, r->dev, folder), 0);
    memset(hostile, 0, large);
    write_all(path, hostile, large);
    assert_true(load(r->ops, r->dev, folder) > 0);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0); /* cannot be replaced: measured each time */
    assert_true(load(r->ops, r->dev, folder) > 0);
    assert_true(load(r->ops, r->dev, folder) > 0);
    rmdir(path);
    rmdir(folder); /* fails if something else was left there */
    assert_int_equal(access(folder, F_OK), -1);
    free(hostile);
    free(sound);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_follows_a_revoked_launch_does_not_overtake_it),
        cmocka_unit_test(a_watch_passes_on_what_the_driver_need_not_write),
        cmocka_unit_test(evicting_one_queue_lets_the_others_resume),
        cmocka_unit_test(evicting_what_is_queued_is_silent),
        cmocka_unit_test(what_waits_behind_the_stream_is_taken_back),
        cmocka_unit_test(a_launch_on_its_way_to_the_driver_is_revoked),
        cmocka_unit_test(evictable_launches_stop_between_kernels),
        cmocka_unit_test(a_kernel_that_began_in_an_earlier_run_has_not_begun_in_this_one),
        cmocka_unit_test(what_resumes_begins_near_where_it_stopped),
        cmocka_unit_test(overlapping_launches_run_each_kernel_once),
        cmocka_unit_test(an_instance_serves_the_next_request_after_a_run_that_was_given_up),
        cmocka_unit_test(a_partial_lease_divides_the_units),
        cmocka_unit_test(a_queue_gets_only_so_far_ahead_of_another),
        cmocka_unit_test(a_call_that_fails_at_launch_fails_that_launch_alone),
        cmocka_unit_test(flags_that_could_not_be_cleared_are_cleared_later),
        cmocka_unit_test(after_a_fault_everything_is_loaded_again),
        cmocka_unit_test(a_run_that_was_stopped_before_a_fault_fails),
        cmocka_unit_test(a_device_that_does_not_come_back_fails_every_launch),
        cmocka_unit_test(generations_come_round_without_a_watch),
        cmocka_unit_test(best_effort_work_goes_on_where_no_share_is_small_enough),
        cmocka_unit_test(whichever_call_fails_nothing_is_left_behind),
        cmocka_unit_test(a_build_without_padded_forms_says_so),
        cmocka_unit_test(memory_is_counted_and_given_back),
        cmocka_unit_test(a_damaged_tuning_file_is_measured_again_and_replaced),
        cmocka_unit_test(no_request_waits_for_a_graph),
        cmocka_unit_test(half_a_profile_is_not_kept),
        cmocka_unit_test(a_running_request_can_be_cancelled),
        cmocka_unit_test(sessions_are_served_under_every_policy),
        cmocka_unit_test(preempted_thousands_of_times_every_tile_is_done_once),
    };
    if (getenv("REEF_TEST_ONLY")) { /* patterns for slow tools: a test's name with * and ? */
        cmocka_set_test_filter(getenv("REEF_TEST_ONLY"));
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
