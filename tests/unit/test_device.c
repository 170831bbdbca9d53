/*
 * test_device.c - the device suite: every device of this build must behave like this, below the scheduler and above it.
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
#include "support/chain_plan.h"
#include "device/device.h"

enum { KERNELS = 9, ELEMS = 1 << 18, MAX_EVENTS = 256 };

typedef struct bench {
    reef_dev *dev;
    const reef_device_ops *ops;
    reef_plan *plan;
    reef_program *program;
    reef_instance *instance;
    reef_dqueue *rt, *be;
    float *x, *y, *expected;
    _Atomic uint32_t n_events;
    reef_event events[MAX_EVENTS];
} bench;

static void on_event(void *context, const reef_event *event)
{
    bench *b = context;
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

static int setup(void **state)
{
    bench *b = calloc(1, sizeof *b);
    b->ops = reef_device_ops_at(0);
    reef_error error = {0};
    reef_dev_config config = {.units = 3, .on_event = on_event, .context = b};
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
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;
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

static void a_full_queue_refuses_and_keeps_what_it_has(void **state)
{
    bench *b = *state;
    begin(b);
    b->ops->lease(b->dev, reef_lease_make(3, 3)); /* nothing moves */
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(launch(b, b->be, REEF_LAUNCH_LEASED, 2 * i, 2), REEF_OK);
    }
    assert_int_equal(launch(b, b->be, REEF_LAUNCH_LEASED, 8, 1), REEF_QUEUE_FULL);
    b->ops->lease(b->dev, reef_lease_make(0, 3));
    wait_events(b, 4);
    assert_int_equal(launch(b, b->be, REEF_LAUNCH_LEASED, 8, 1), REEF_OK);
    wait_events(b, 5);
    assert_answer(b);
}

static void leased_launches_run_only_inside_the_lease(void **state)
{
    bench *b = *state;
    begin(b);
    b->ops->lease(b->dev, reef_lease_make(3, 3));
    launch(b, b->be, REEF_LAUNCH_LEASED, 0, KERNELS);
    struct timespec moment = {.tv_nsec = 3000000};
    nanosleep(&moment, NULL);
    assert_int_equal(b->ops->progress(b->instance), 0);
    assert_int_equal(b->ops->tiles_left(b->instance) > 0, 1);
    b->ops->lease(b->dev, reef_lease_make(1, 2));
    wait_events(b, 1);
    assert_answer(b);
}

static void evicting_what_has_not_started_drops_it_silently(void **state)
{
    bench *b = *state;
    begin(b);
    b->ops->lease(b->dev, reef_lease_make(3, 3));
    launch(b, b->be, REEF_LAUNCH_LEASED, 0, 4);
    launch(b, b->be, REEF_LAUNCH_LEASED, 4, 5);
    reef_evicted evicted;
    b->ops->evict(b->be, REEF_EVICT_NOW, &evicted);
    assert_int_equal(evicted.launches, 2);
    assert_int_equal(evicted.kernels, KERNELS);
    assert_false(evicted.running);
    assert_int_equal(atomic_load(&b->n_events), 0);
    b->ops->lease(b->dev, reef_lease_make(0, 3));
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
        for (uint32_t k; (k = b->ops->progress(b->instance)) < KERNELS;) {
            b->ops->lease(b->dev, reef_lease_make(0, 3));
            assert_int_equal(launch(b, b->be, REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
            seed = seed * 1664525u + 1013904223u;
            uint64_t until = reef_now_ns() + (seed >> 8) % 600000;
            while (reef_now_ns() < until) {
            }
            unsigned first = (seed >> 4) % 4;
            b->ops->lease(b->dev, reef_lease_make(first, 3));
            reef_evicted evicted;
            b->ops->evict(b->be, (seed >> 30) ? REEF_EVICT_NOW : REEF_EVICT_QUEUED, &evicted);
            b->ops->lease(b->dev, reef_lease_make(0, 3));
            events += 1 - evicted.launches;
            wait_events(b, events);
            cut += b->ops->progress(b->instance) < KERNELS;
        }
        assert_answer(b);
    }
    assert_true(cut > 20);
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
        b->ops->lease(b->dev, reef_lease_make(round % 4 ? 3 : 2, 3));
        b->ops->launch(b->rt, &(reef_launch){.instance = other, .count = KERNELS});
        wait_events(b, ++events);
        /* Either may be first when a unit stays leased; give both their end. */
        b->ops->lease(b->dev, reef_lease_make(0, 3));
        wait_events(b, ++events);
        assert_memory_equal(z, b->expected, ELEMS * sizeof *z);
        assert_answer(b);
        atomic_store(&b->n_events, 0);
        events = 0;
    }
    b->ops->instance_destroy(other);
    free(z);
}

static void padded_tiles_advance_the_other_instance_exactly(void **state)
{
    bench *b = *state;
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

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_launch_runs_every_kernel_and_reports_once),
        T(a_full_queue_refuses_and_keeps_what_it_has),
        T(leased_launches_run_only_inside_the_lease),
        T(evicting_what_has_not_started_drops_it_silently),
        T(preempted_anywhere_and_launched_again_the_answer_is_the_same),
        T(real_time_launches_run_while_best_effort_units_are_taken_away),
        T(padded_tiles_advance_the_other_instance_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
