/*
 * test_device.c - the device suite: every device that can be opened here must behave like this, below the scheduler and
 * above it. A backend that finds no device says why and is skipped.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/futex.h"
#include "device/device.h"
#include "support/chain_plan.h"

#ifndef SUITE_ELEMS
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SUITE_ELEMS (1 << 16) /* every element takes many times as long */
#else
#define SUITE_ELEMS (1 << 18)
#endif
#endif
/* A GPU of software under the thread sanitizer: what takes 4 s elsewhere takes three minutes. */
#if defined(__SANITIZE_THREAD__)
enum { CRAWLS = SUITE_ELEMS < 1 << 16 };
#else
enum { CRAWLS = false };
#endif
enum { KERNELS = 9, ELEMS = SUITE_ELEMS, MAX_EVENTS = 512 };

typedef struct bench {
    reef_dev *dev;
    const reef_device_ops *ops;
    reef_plan *plan;
    reef_program *program;
    reef_instance *instance;
    reef_dqueue *rt, *be;
    unsigned units, few; /* few: the least that a lease gives */
    float *x, *y, *expected;
    void (*then)(struct bench *, const reef_event *); /* called by on_event, on the device's thread */
    _Atomic uint32_t n_events;
    reef_event events[MAX_EVENTS];
} bench;

static void on_event(void *context, const reef_event *event)
{
    bench *b = context;
    if (b->then) {
        b->then(b, event);
    }
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    uint32_t n = atomic_load(&b->n_events);
    if (n < MAX_EVENTS) {
        b->events[n] = *event;
    }
    atomic_store(&b->n_events, n + 1);
    pthread_mutex_unlock(&lock);
    reef_futex_wake(&b->n_events, INT32_MAX);
}

static void wait_events(bench *b, uint32_t n)
{
    for (uint32_t seen; (seen = atomic_load(&b->n_events)) < n;) {
        reef_futex_wait(&b->n_events, seen, UINT64_MAX);
    }
}

#ifndef ONLY_DEVICE
#define ONLY_DEVICE "" /* every device; test_cuda_device is this suite for one */
#endif

static reef_device_entry device; /* that the suite is running on */

static bench *bench_make(unsigned units)
{
    bench *b = calloc(1, sizeof *b);
    b->ops = device.ops;
    reef_error error = {0};
    bool threads = !strcmp(device.name, "cpu"); /* as many units as we like */
    reef_dev_config config = {
        .ordinal = device.ordinal, .units = threads ? units : 0, .on_event = on_event, .context = b};
    assert_int_equal(b->ops->open(&config, &b->dev, &error), REEF_OK);
    b->plan = chain_plan_create(KERNELS, ELEMS);
    assert_int_equal(b->ops->program_create(b->dev, b->plan, NULL, &b->program, &error), REEF_OK);
    assert_int_equal(b->ops->instance_create(b->program, &b->instance, &error), REEF_OK);
    assert_int_equal(b->ops->queue_create(b->dev, true, 2, 1, &b->rt), REEF_OK);
    assert_int_equal(b->ops->queue_create(b->dev, false, 4, 1, &b->be), REEF_OK);
    b->x = malloc(ELEMS * sizeof *b->x);
    b->y = malloc(ELEMS * sizeof *b->y);
    b->expected = malloc(ELEMS * sizeof *b->expected);
    for (int i = 0; i < ELEMS; i++) {
        b->x[i] = (float)(i % 1000);
        b->y[i] = -1;
    }
    chain_plan_expect(KERNELS, ELEMS, b->x, b->expected);
    b->units = b->dev->units;
    b->few = threads ? 1 : 8; /* GPUs divide their units in eights */
    return b;
}

static void bench_free(bench *b)
{
    b->ops->queue_destroy(b->rt);
    b->ops->queue_destroy(b->be);
    b->ops->instance_destroy(b->instance);
    b->ops->program_destroy(b->program);
    b->ops->close(b->dev);
    reef_plan_destroy(b->plan);
    free(b->x);
    free(b->y);
    free(b->expected);
    free(b);
}

static int setup(void **state)
{
    *state = bench_make(3);
    return 0;
}

static int teardown(void **state)
{
    bench_free(*state);
    return 0;
}

static void begin(bench *b)
{
    memset(b->y, 0xff, ELEMS * sizeof *b->y);
    b->ops->begin(b->instance, 0, (const void *[]){b->x}, (void *[]){b->y});
}

static reef_status launch(bench *b, reef_dqueue *queue, reef_launch_mode mode, uint32_t first, uint32_t count)
{
    return b->ops->launch(
        queue, &(reef_launch){.instance = b->instance, .first = first, .count = count, .mode = mode, .tag = b});
}

static void assert_answer(const bench *b)
{
    assert_memory_equal(b->y, b->expected, ELEMS * sizeof *b->y);
}

static void a_launch_runs_every_kernel_and_reports_once(void **state)
{
    bench *b = *state;
    begin(b);
    assert_int_equal(launch(b, b->rt, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
    wait_events(b, 1);
    assert_int_equal(b->events[0].kind, REEF_EVENT_DONE);
    assert_ptr_equal(b->events[0].tag, b);
    assert_true(b->events[0].start_ns > 0 && b->events[0].end_ns >= b->events[0].start_ns);
    assert_int_equal(b->ops->progress(b->instance), KERNELS);
    assert_answer(b);
}

/* The unit that reports a launch need not be the one that ran its last tile. */
static void an_event_carries_the_end_of_the_last_tile(void **state)
{
    bench *b = *state;
    reef_plan *plan;
    reef_program *program;
    reef_instance *instance;
    assert_int_equal(reef_plan_create_synthetic(1, 1, 1000, &plan), REEF_OK);
    assert_int_equal(b->ops->program_create(b->dev, plan, NULL, &program, NULL), REEF_OK);
    assert_int_equal(b->ops->instance_create(program, &instance, NULL), REEF_OK);
    for (int i = 0; i < 5000; i++) {
        atomic_store(&b->n_events, 0);
        b->ops->begin(instance, 0, NULL, NULL);
        assert_int_equal(b->ops->launch(b->rt, &(reef_launch){.instance = instance, .count = 1}), REEF_OK);
        wait_events(b, 1);
        /* A device whose clock is not ours tells times as it sees them. */
        assert_true(b->events[0].end_ns >= b->events[0].start_ns + (strcmp(device.name, "cpu") ? 0 : 1000));
    }
    b->ops->instance_destroy(instance);
    b->ops->program_destroy(program);
    reef_plan_destroy(plan);
}

static void a_full_queue_refuses_and_keeps_what_it_has(void **state)
{
    bench *b = *state;
    begin(b);
    b->ops->lease(b->dev, reef_lease_make(b->units, b->units)); /* nothing moves */
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(launch(b, b->be, REEF_LAUNCH_LEASED, 2 * i, 2), REEF_OK);
    }
    assert_int_equal(launch(b, b->be, REEF_LAUNCH_LEASED, 8, 1), REEF_QUEUE_FULL);
    b->ops->lease(b->dev, reef_lease_make(0, b->units));
    wait_events(b, 4);
    assert_int_equal(launch(b, b->be, REEF_LAUNCH_LEASED, 8, 1), REEF_OK);
    wait_events(b, 5);
    assert_answer(b);
}

static void leased_launches_run_only_inside_the_lease(void **state)
{
    bench *b = *state;
    begin(b);
    b->ops->lease(b->dev, reef_lease_make(b->units, b->units));
    launch(b, b->be, REEF_LAUNCH_LEASED, 0, KERNELS);
    struct timespec moment = {.tv_nsec = 3000000};
    nanosleep(&moment, NULL);
    assert_int_equal(b->ops->progress(b->instance), 0);
    assert_int_equal(b->ops->tiles_left(b->instance) > 0, 1);
    b->ops->lease(b->dev, reef_lease_make(1, 1 + b->few));
    wait_events(b, 1);
    assert_answer(b);
}

static void evicting_what_has_not_started_drops_it_silently(void **state)
{
    bench *b = *state;
    begin(b);
    b->ops->lease(b->dev, reef_lease_make(b->units, b->units));
    launch(b, b->be, REEF_LAUNCH_LEASED, 0, 4);
    launch(b, b->be, REEF_LAUNCH_LEASED, 4, 5);
    reef_evicted evicted;
    b->ops->evict(b->be, REEF_EVICT_NOW, &evicted);
    assert_int_equal(evicted.launches, 2);
    assert_int_equal(evicted.kernels, KERNELS);
    assert_false(evicted.running);
    assert_int_equal(atomic_load(&b->n_events), 0);
    b->ops->lease(b->dev, reef_lease_make(0, b->units));
    launch(b, b->be, REEF_LAUNCH_LEASED, b->ops->progress(b->instance), KERNELS);
    wait_events(b, 1);
    assert_answer(b);
}

/* The heart of the matter: whatever is taken away whenever, "launch again" gives the undisturbed answer. */
static void preempted_anywhere_and_launched_again_the_answer_is_the_same(void **state)
{
    bench *b = *state;
    uint32_t seed = 1, events = 0;
    unsigned cut = 0;
    for (int round = 0; round < 150; round++) {
        begin(b);
        unsigned tries = 0;
        for (uint32_t k; (k = b->ops->progress(b->instance)) < KERNELS;) {
            b->ops->lease(b->dev, reef_lease_make(0, b->units));
            assert_int_equal(launch(b, b->be, REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
            seed = seed * 1664525u + 1013904223u;
            /* Longer each time: one that is slow to get to where it was would never get on. */
            uint64_t until = reef_now_ns() + (seed >> 8) % (600000u << (tries < 6 ? tries++ : 6));
            while (reef_now_ns() < until) {
            }
            unsigned first = (seed >> 4) % (b->units + 1);
            b->ops->lease(b->dev, reef_lease_make(first, b->units));
            reef_evicted evicted;
            b->ops->evict(b->be, (seed >> 30) ? REEF_EVICT_NOW : REEF_EVICT_QUEUED, &evicted);
            b->ops->lease(b->dev, reef_lease_make(0, b->units));
            events += 1 - evicted.launches;
            wait_events(b, events);
            cut += b->ops->progress(b->instance) < KERNELS;
        }
        assert_answer(b);
    }
    /* Where a kernel that runs goes on to its end, a run is only cut between launches. */
    assert_true(cut > 20 || !(b->ops->caps & REEF_CAP_KILL));
}

static void a_kernel_that_is_no_transaction_is_stopped_between_tiles_only(void **state)
{
    bench *b = *state;
    if (!(b->ops->caps & REEF_CAP_KILL)) {
        skip(); /* is stopped between kernels only */
        return;
    }
    reef_plan *plan;
    reef_program *program;
    reef_instance *instance;
    assert_int_equal(reef_plan_create_synthetic(1, 300, 100000, &plan), REEF_OK);
    plan->kernels[0].transaction = false;
    plan->kernels[0].why_not = "the test says so";
    assert_int_equal(b->ops->program_create(b->dev, plan, NULL, &program, NULL), REEF_OK);
    assert_int_equal(b->ops->instance_create(program, &instance, NULL), REEF_OK);
    b->ops->begin(instance, 0, NULL, NULL);
    b->ops->launch(b->be, &(reef_launch){.instance = instance, .count = 1, .mode = REEF_LAUNCH_LEASED});
    uint32_t launches = 1;
    while (b->ops->progress(instance) == 0) {
        struct timespec moment = {.tv_nsec = 200000};
        uint32_t ended = atomic_load(&b->n_events);
        if (ended == launches && b->events[ended - 1].kind == REEF_EVENT_EVICTED) { /* before its kernel had begun */
            b->ops->launch(b->be, &(reef_launch){.instance = instance, .count = 1, .mode = REEF_LAUNCH_LEASED});
            launches++;
        }
        b->ops->lease(b->dev, reef_lease_make(b->units, b->units));
        nanosleep(&moment, NULL);
        b->ops->lease(b->dev, reef_lease_make(0, b->units));
        nanosleep(&moment, NULL);
    }
    wait_events(b, launches);
    reef_dev_stats stats;
    b->ops->stats(b->dev, &stats);
    assert_int_equal(stats.tiles_abandoned, 0);
    assert_int_equal(stats.tiles_run, 300);
    b->ops->instance_destroy(instance);
    b->ops->program_destroy(program);
    reef_plan_destroy(plan);
}

/* What the validator cannot prove runs, to the right answer, and no tile of it is ever thrown away. */
static void a_kernel_that_is_not_proved_is_served_without_stopping_its_tiles(void **state)
{
    bench *b = *state;
    reef_error error = {0};
    enum { N = 6 };
    reef_plan *plan = chain_plan_create(N, ELEMS);
    /* The first activation's storage now reaches over the second: views are apart, but nothing says so for elements of
     * another size. */
    plan->storage[2].bytes += plan->storage[3].offset;
    reef_plan_validate(plan);
    unsigned unproved = 0;
    for (uint32_t k = 0; k < N; k++) {
        unproved += !plan->kernels[k].transaction;
    }
    assert_in_range(unproved, 1, N - 2);
    reef_program *program;
    reef_instance *instance;
    assert_int_equal(b->ops->program_create(b->dev, plan, NULL, &program, &error), REEF_OK);
    assert_int_equal(b->ops->instance_create(program, &instance, &error), REEF_OK);
    for (uint32_t k = 0; k < N; k++) {
        reef_dev_kernel info;
        b->ops->kernel_info(program, k, &info);
        assert_true(plan->kernels[k].transaction || !info.preemptible);
        assert_true(info.preemptible || (info.why_not && *info.why_not));
    }
    float *expected = malloc(ELEMS * sizeof *expected);
    chain_plan_expect(N, ELEMS, b->x, expected);
    uint32_t events = 0;
    for (int round = 0; round < 20; round++) {
        memset(b->y, 0xff, ELEMS * sizeof *b->y);
        b->ops->begin(instance, 0, (const void *[]){b->x}, (void *[]){b->y});
        long window_ns = 20000 + 7000 * round;
        for (uint32_t k; (k = b->ops->progress(instance)) < N; window_ns += CRAWLS ? window_ns / 2 : 0) {
            reef_evicted evicted;
            struct timespec moment = {.tv_nsec = window_ns < 100000000 ? window_ns : 100000000};
            assert_int_equal(
                b->ops->launch(
                    b->be,
                    &(reef_launch){.instance = instance, .first = k, .count = N - k, .mode = REEF_LAUNCH_LEASED}),
                REEF_OK);
            nanosleep(&moment, NULL);
            b->ops->lease(b->dev, reef_lease_make(b->units, b->units));
            b->ops->evict(b->be, REEF_EVICT_NOW, &evicted);
            b->ops->lease(b->dev, reef_lease_make(0, b->units));
            events += 1 - evicted.launches;
            wait_events(b, events);
        }
        assert_memory_equal(b->y, expected, ELEMS * sizeof *expected);
    }
    free(expected);
    b->ops->instance_destroy(instance);
    b->ops->program_destroy(program);
    reef_plan_destroy(plan);
}

/* Kernels that no unit has touched count as evicted, also the one that the running launch has come to. */
static void eviction_counts_the_kernels_that_had_not_started(void **state)
{
    bench *b = *state;
    if (!(b->ops->caps & REEF_CAP_KILL) || !(b->ops->caps & REEF_CAP_PAD)) {
        skip(); /* tiles_left says what is claimed only where padding is possible */
        return;
    }
    enum { N = 4 };
    reef_plan *plan;
    reef_program *program;
    reef_instance *instance;
    assert_int_equal(reef_plan_create_synthetic(N, 1, 20000000, &plan), REEF_OK);
    for (int k = 0; k < N; k++) {
        plan->kernels[k].transaction = false; /* a tile ends, even when its unit has left the lease */
        plan->kernels[k].why_not = "the test says so";
    }
    assert_int_equal(b->ops->program_create(b->dev, plan, NULL, &program, NULL), REEF_OK);
    assert_int_equal(b->ops->instance_create(program, &instance, NULL), REEF_OK);
    b->ops->begin(instance, 0, NULL, NULL);
    b->ops->launch(b->be, &(reef_launch){.instance = instance, .count = N, .mode = REEF_LAUNCH_LEASED});
    struct timespec moment = {.tv_nsec = 200000};
    while (b->ops->tiles_left(instance)) {
        nanosleep(&moment, NULL);
    }
    b->ops->lease(b->dev, reef_lease_make(b->units, b->units));
    while (b->ops->progress(instance) == 0) {
        nanosleep(&moment, NULL);
    }
    uint32_t started = b->ops->progress(instance) + !b->ops->tiles_left(instance);
    reef_evicted evicted;
    b->ops->evict(b->be, REEF_EVICT_NOW, &evicted);
    assert_int_equal(evicted.kernels, N - started);
    b->ops->lease(b->dev, reef_lease_make(0, b->units));
    wait_events(b, 1);
    b->ops->instance_destroy(instance);
    b->ops->program_destroy(program);
    reef_plan_destroy(plan);
}

/* Narrow kernels are passed on without waking anybody; a unit that leaves between two of them must tell the others. */
static void units_that_leave_between_kernels_hand_the_work_over(void **state)
{
    bench *b = *state;
    reef_plan *plan;
    reef_program *program;
    reef_instance *instance;
    assert_int_equal(reef_plan_create_synthetic(3000, 1, 5000, &plan), REEF_OK);
    assert_int_equal(b->ops->program_create(b->dev, plan, NULL, &program, NULL), REEF_OK);
    assert_int_equal(b->ops->instance_create(program, &instance, NULL), REEF_OK);
    struct timespec moment = {.tv_nsec = 4000000}; /* the other units have gone to sleep */
    const unsigned few = b->few;
    for (int round = 0; round < (CRAWLS ? 8 : 40); round++) {
        b->ops->lease(b->dev, reef_lease_make(0, 3 * few));
        b->ops->begin(instance, 0, NULL, NULL);
        atomic_store(&b->n_events, 0);
        uint32_t events = 1;
        b->ops->launch(b->be, &(reef_launch){.instance = instance, .count = 3000, .mode = REEF_LAUNCH_LEASED});
        for (unsigned first = few; first < 3 * few; first += few) {
            nanosleep(&moment, NULL);
            /* From either side in turn: whoever was left last time is quickest to take the work, and loses it. */
            b->ops->lease(b->dev, round % 2 ? reef_lease_make(0, 3 * few - first) : reef_lease_make(first, 3 * few));
        }
        wait_events(b, 1);
        for (uint32_t k; (k = b->ops->progress(instance)) < 3000;) { /* the device has let it go */
            b->ops->launch(
                b->be, &(reef_launch){.instance = instance, .first = k, .count = 3000 - k, .mode = REEF_LAUNCH_LEASED});
            wait_events(b, ++events);
        }
    }
    b->ops->instance_destroy(instance);
    b->ops->program_destroy(program);
    reef_plan_destroy(plan);
}

static void real_time_launches_run_while_best_effort_units_are_taken_away(void **state)
{
    bench *b = *state;
    reef_instance *other;
    assert_int_equal(b->ops->instance_create(b->program, &other, NULL), REEF_OK);
    float *z = malloc(ELEMS * sizeof *z);
    uint32_t events = 0;
    for (int round = 0; round < 30; round++) {
        begin(b);
        launch(b, b->be, REEF_LAUNCH_LEASED, 0, KERNELS);
        b->ops->begin(other, 0, (const void *[]){b->x}, (void *[]){z});
        b->ops->lease(b->dev, reef_lease_make(b->units - (round % 4 ? 0 : b->few), b->units));
        b->ops->launch(b->rt, &(reef_launch){.instance = other, .count = KERNELS});
        wait_events(b, ++events);
        /* Either may be first when a unit stays leased; give both their end. */
        b->ops->lease(b->dev, reef_lease_make(0, b->units));
        wait_events(b, ++events);
        while (b->ops->progress(b->instance) < KERNELS) { /* it lost its units, and the device has let it go */
            uint32_t first = b->ops->progress(b->instance);
            launch(b, b->be, REEF_LAUNCH_LEASED, first, KERNELS - first);
            wait_events(b, ++events);
        }
        assert_memory_equal(z, b->expected, ELEMS * sizeof *z);
        assert_answer(b);
        atomic_store(&b->n_events, 0);
        events = 0;
    }
    b->ops->instance_destroy(other);
    free(z);
}

static void a_launch_of_nothing_is_over_at_once(void **state)
{
    bench *b = *state;
    begin(b);
    assert_int_equal(launch(b, b->rt, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
    assert_int_equal(launch(b, b->rt, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
    wait_events(b, 2);
    assert_int_equal(b->events[1].kind, REEF_EVENT_DONE);
    assert_answer(b);
}

static void short_launches_make_the_same_answer_as_one(void **state)
{
    bench *b = *state;
    for (uint32_t length = 1; length <= 4; length++) {
        uint32_t events = atomic_load(&b->n_events);
        begin(b);
        for (uint32_t k = 0; k < KERNELS; k += length) {
            uint32_t count = KERNELS - k < length ? KERNELS - k : length;
            while (launch(b, b->be, REEF_LAUNCH_LEASED, k, count) == REEF_QUEUE_FULL) {
            }
        }
        wait_events(b, events + (KERNELS + length - 1) / length);
        assert_int_equal(b->ops->progress(b->instance), KERNELS);
        assert_answer(b);
    }
}

static void a_replay_computes_what_a_launch_does(void **state)
{
    bench *b = *state;
    if (!b->ops->replay) {
        skip();
        return; /* not reached, which analysers do not know */
    }
    uint64_t ns;
    reef_error error;
    begin(b);
    assert_int_equal(b->ops->replay(b->instance, true, true, &ns, &error), REEF_OK);
    assert_answer(b);
    memset(b->y, 0xff, ELEMS * sizeof *b->y);
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(b->ops->replay(b->instance, false, false, &ns, &error), REEF_OK);
        best = ns < best ? ns : best;
    }
    assert_int_equal(b->ops->replay(b->instance, false, true, &ns, &error), REEF_OK);
    assert_answer(b);
    print_message("%s: %d kernels replayed in %.1f us\n", device.name, KERNELS, (double)best / 1e3);
}

static void a_kernel_can_be_measured_alone(void **state)
{
    bench *b = *state;
    if (!b->ops->measure) {
        skip();
        return;
    }
    uint64_t ns[9];
    reef_error error;
    begin(b);
    assert_int_equal(b->ops->measure(b->instance, 1, 9, ns, &error), REEF_OK);
    assert_true(ns[4] > 100); /* no upper bound: tools that watch every access slow it down a thousandfold */
    print_message("%s: one kernel of %d elements takes %.2f us\n", device.name, ELEMS, (double)ns[4] / 1e3);
}

static void padded_tiles_advance_the_other_instance_exactly(void **state)
{
    bench *b = *state;
    if (!(b->ops->caps & REEF_CAP_PAD)) {
        skip();
        return;
    }
    reef_instance *be;
    assert_int_equal(b->ops->instance_create(b->program, &be, NULL), REEF_OK);
    float *z = malloc(ELEMS * sizeof *z);
    b->ops->begin(be, 0, (const void *[]){b->x}, (void *[]){z});
    begin(b);
    uint32_t padded = 0, events = 0;
    for (uint32_t k = 0; k < KERNELS; k++) {
        reef_launch padded_launch = {
            .instance = b->instance,
            .first = k,
            .count = 1,
            .pads = {{.instance = be, .kernel = b->ops->progress(be), .tiles = 3}},
            .n_pads = 1,
        };
        assert_int_equal(b->ops->launch(b->rt, &padded_launch), REEF_OK);
        wait_events(b, ++events);
        padded += b->events[events - 1].padded_tiles;
        assert_true(b->events[events - 1].padded_tiles <= 3);
    }
    assert_answer(b);
    uint32_t k = b->ops->progress(be);
    b->ops->launch(b->be, &(reef_launch){.instance = be, .first = k, .count = KERNELS - k, .mode = REEF_LAUNCH_LEASED});
    wait_events(b, ++events);
    assert_memory_equal(z, b->expected, ELEMS * sizeof *z);
    reef_dev_stats stats;
    b->ops->stats(b->dev, &stats);
    assert_int_equal(stats.padded_tiles, padded);
    b->ops->instance_destroy(be);
    free(z);
}

/* A plan whose second buffer lies far outside the instance's memory: its kernels fault. Depending on the driver the device
 * then starts over, or is lost to this process; either way every request is answered and the process goes on. */
static void a_kernel_that_faults_fails_its_request_and_says_why(void **state)
{
    bench *b = *state;
    if (!b->ops->health) {
        skip();
        return;
    }
    reef_error error = {0};
    reef_plan *plan = chain_plan_create(3, 1024);
    plan->storage[2].offset = (size_t)1 << 40;
    reef_program *program;
    reef_instance *instance;
    assert_int_equal(b->ops->program_create(b->dev, plan, NULL, &program, &error), REEF_OK);
    assert_int_equal(b->ops->instance_create(program, &instance, &error), REEF_OK);
    assert_int_equal(b->ops->health(b->dev, &error), REEF_OK);
    b->ops->begin(instance, 0, NULL, NULL);
    assert_int_equal(b->ops->launch(b->rt, &(reef_launch){.instance = instance, .count = 3, .tag = instance}), REEF_OK);
    wait_events(b, 1);
    assert_int_equal(b->events[0].kind, REEF_EVENT_FAILED);
    assert_ptr_equal(b->events[0].tag, instance);
    assert_int_equal(b->ops->health(b->dev, &error), REEF_DEVICE);
    assert_non_null(strstr(error.message, "cu"));
    print_message("%s: said after a fault: %s\n", device.name, error.message);
    bool lost = strstr(error.message, "lost") != NULL;
    for (uint32_t i = 0; i < 3; i++) {
        begin(b);
        assert_int_equal(launch(b, i % 2 ? b->be : b->rt, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
        wait_events(b, 2 + i);
        assert_int_equal(b->events[1 + i].kind, lost ? REEF_EVENT_FAILED : REEF_EVENT_DONE);
        if (!lost) {
            assert_answer(b);
        }
    }
    b->ops->instance_destroy(instance);
    b->ops->program_destroy(program);
    reef_plan_destroy(plan);
}

static void more_memory_than_there_is_is_refused_with_the_reason(void **state)
{
    bench *b = *state;
    if (!b->ops->health) {
        skip(); /* host memory is overcommitted: nothing to see */
        return;
    }
    reef_error error = {0};
    reef_plan *plan = chain_plan_create(3, 1024);
    plan->activation_bytes = (size_t)1 << 45;
    reef_program *program;
    reef_instance *instance;
    assert_int_equal(b->ops->program_create(b->dev, plan, NULL, &program, &error), REEF_OK);
    assert_int_equal(b->ops->instance_create(program, &instance, &error), REEF_NO_MEMORY);
    print_message("%s: said of 32 TiB: %s\n", device.name, error.message);
    b->ops->program_destroy(program);
    reef_plan_destroy(plan);
    begin(b);
    assert_int_equal(launch(b, b->rt, REEF_LAUNCH_PLAIN, 0, KERNELS), REEF_OK);
    wait_events(b, 1);
    assert_answer(b);
}

static void a_device_that_is_not_there_is_refused_with_the_reason(void **state)
{
    (void)state;
    reef_device_entry entry;
    reef_error error = {0};
    const char *names[] = {"cuda:63", "tpu", "cud", ""};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_not_equal(reef_device_find(names[i], &entry, &error), REEF_OK);
        assert_non_null(strstr(error.message, "device"));
    }
    assert_int_equal(reef_device_find("cpu", &entry, &error), REEF_OK);
}

/* Two best-effort queues on one unit: a kernel that goes on and on, and one tile at a time. */
typedef struct pair {
    bench *b;
    reef_plan *long_plan, *short_plan;
    reef_program *long_program, *short_program;
    reef_instance *long_instance, *short_instance;
    reef_dqueue *other;
} pair;

enum { LONG_TILES = 20000, TURNS = 300 };
static const uint64_t TURN_NS = 100000;
static pair *fair;

static pair *pair_make(void)
{
    pair *p = fair = calloc(1, sizeof *p);
    bench *b = p->b = bench_make(1);
    assert_int_equal(reef_plan_create_synthetic(1, LONG_TILES, TURN_NS, &p->long_plan), REEF_OK);
    assert_int_equal(reef_plan_create_synthetic(1, 1, TURN_NS, &p->short_plan), REEF_OK);
    assert_int_equal(b->ops->program_create(b->dev, p->long_plan, NULL, &p->long_program, NULL), REEF_OK);
    assert_int_equal(b->ops->program_create(b->dev, p->short_plan, NULL, &p->short_program, NULL), REEF_OK);
    assert_int_equal(b->ops->instance_create(p->long_program, &p->long_instance, NULL), REEF_OK);
    assert_int_equal(b->ops->instance_create(p->short_program, &p->short_instance, NULL), REEF_OK);
    assert_int_equal(b->ops->queue_create(b->dev, false, 4, 1, &p->other), REEF_OK);
    return p;
}

static void pair_free(pair *p)
{
    bench *b = p->b;
    b->ops->queue_destroy(p->other);
    b->ops->instance_destroy(p->long_instance);
    b->ops->instance_destroy(p->short_instance);
    b->ops->program_destroy(p->long_program);
    b->ops->program_destroy(p->short_program);
    bench_free(b);
    reef_plan_destroy(p->long_plan);
    reef_plan_destroy(p->short_plan);
    free(p);
}

static void launch_long(pair *p)
{
    p->b->ops->begin(p->long_instance, 0, NULL, NULL);
    p->b->ops->launch(p->other,
                      &(reef_launch){.instance = p->long_instance, .count = 1, .mode = REEF_LAUNCH_LEASED, .tag = p});
}

static void launch_short(pair *p)
{
    p->b->ops->begin(p->short_instance, 0, NULL, NULL);
    p->b->ops->launch(
        p->b->be, &(reef_launch){.instance = p->short_instance, .count = 1, .mode = REEF_LAUNCH_LEASED, .tag = p->b});
}

static void next_turn(bench *b, const reef_event *event)
{
    if (event->tag == b && atomic_load(&b->n_events) + 1 < TURNS) {
        launch_short(fair);
    }
}

static void a_worker_that_stays_makes_room_for_a_queue_that_comes_later(void **state)
{
    (void)state;
    if (!(device.ops->caps & REEF_CAP_PAD)) { /* it does not dispatch tile by tile */
        skip();
        return;
    }
    pair *p = pair_make();
    bench *b = p->b;
    launch_long(p);
    reef_dev_stats stats;
    do {
        b->ops->stats(b->dev, &stats);
    } while (stats.tiles_run < 2); /* the unit is inside */
    launch_short(p);
    wait_events(b, 1);
    assert_ptr_equal(b->events[0].tag, b);
    reef_evicted evicted;
    b->ops->evict(p->other, REEF_EVICT_NOW, &evicted);
    wait_events(b, 2);
    pair_free(p);
}

static void short_launches_get_their_share_beside_a_long_one(void **state)
{
    (void)state;
    if (!(device.ops->caps & REEF_CAP_PAD)) { /* it does not dispatch tile by tile */
        skip();
        return;
    }
    pair *p = pair_make();
    bench *b = p->b;
    b->then = next_turn;
    launch_long(p);
    launch_short(p);
    wait_events(b, TURNS);
    reef_dev_stats stats;
    b->ops->stats(b->dev, &stats);
    /* Half the tiles each; a queue that lost its place whenever it ran dry would have had one in ten. */
    assert_true(stats.tiles_run < 4 * TURNS);
    reef_evicted evicted;
    b->ops->evict(p->other, REEF_EVICT_NOW, &evicted);
    wait_events(b, TURNS + 1);
    pair_free(p);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_launch_runs_every_kernel_and_reports_once),
        T(a_launch_of_nothing_is_over_at_once),
        T(short_launches_make_the_same_answer_as_one),
        T(an_event_carries_the_end_of_the_last_tile),
        T(a_full_queue_refuses_and_keeps_what_it_has),
        T(leased_launches_run_only_inside_the_lease),
        T(evicting_what_has_not_started_drops_it_silently),
        T(preempted_anywhere_and_launched_again_the_answer_is_the_same),
        T(a_kernel_that_is_no_transaction_is_stopped_between_tiles_only),
        T(a_kernel_that_is_not_proved_is_served_without_stopping_its_tiles),
        T(eviction_counts_the_kernels_that_had_not_started),
        T(units_that_leave_between_kernels_hand_the_work_over),
        T(real_time_launches_run_while_best_effort_units_are_taken_away),
        T(padded_tiles_advance_the_other_instance_exactly),
        T(a_replay_computes_what_a_launch_does),
        T(a_kernel_can_be_measured_alone),
        T(more_memory_than_there_is_is_refused_with_the_reason),
        T(a_device_that_is_not_there_is_refused_with_the_reason),
        cmocka_unit_test(a_worker_that_stays_makes_room_for_a_queue_that_comes_later),
        cmocka_unit_test(short_launches_get_their_share_beside_a_long_one),
    };
    const struct CMUnitTest last[] = {T(a_kernel_that_faults_fails_its_request_and_says_why)};
    int failed = 0;
    if (getenv("REEF_TEST_ONLY")) { /* patterns for slow tools: a test's name with * and ? */
        cmocka_set_test_filter(getenv("REEF_TEST_ONLY"));
    }
    if (getenv("REEF_TEST_SKIP")) {
        cmocka_set_skip_filter(getenv("REEF_TEST_SKIP"));
    }
    for (size_t i = 0; reef_device_entry_at(i, &device); i++) {
        if (ONLY_DEVICE[0] && strcmp(device.name, ONLY_DEVICE)) {
            continue;
        }
        print_message("device %s: %s\n", device.name, device.description);
        failed += cmocka_run_group_tests_name(device.name, tests, NULL, NULL);
    }
    for (size_t i = 0; reef_device_entry_at(i, &device); i++) { /* a device may be of no use to this process after it */
        if (ONLY_DEVICE[0] && strcmp(device.name, ONLY_DEVICE)) {
            continue;
        }
        failed += cmocka_run_group_tests_name(device.name, last, NULL, NULL);
    }
    for (size_t i = 0; reef_device_ops_at(i); i++) {
        reef_error error = {0};
        const reef_device_ops *ops = reef_device_ops_at(i);
        if (ops->available && ops->available(&error)) {
            print_message("device %s: skipped, %s\n", ops->name, error.message);
        }
    }
    return failed;
}
