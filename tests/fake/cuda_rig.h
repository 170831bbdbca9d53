/*
 * cuda_rig.h - a CUDA device on the fake driver with callers of both classes, for its tests.
 *
 * Each caller has a queue and an instance of one chain of kernels whose answer is known. A gate holds up the stream that
 * comes to some moment of some kernel, so that a test can do something else just then.
 */
#ifndef TESTS_CUDA_RIG_H
#define TESTS_CUDA_RIG_H

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/futex.h"
#include "device/device.h"
#include "fake/fake_cuda.h"
#include "support/chain_plan.h"

enum { KERNELS = 40, ELEMS = 4096, TILES = 16, MAX_QUEUES = 40, CAPACITY = 32 };

/* A best-effort caller: a queue, an instance, and the events of its launches. */
typedef struct caller {
    reef_dqueue *queue;
    reef_instance *instance;
    float x[ELEMS], y[ELEMS], expected[ELEMS]; /* of the run under way */
    unsigned run;
    _Atomic uint32_t events, done, evicted, failed;
} caller;

typedef struct rig {
    reef_dev *dev;
    const reef_device_ops *ops;
    reef_plan *plan;
    reef_program *program;
    caller rt, be[MAX_QUEUES];
    unsigned n;
    size_t known; /* bytes of the answer that chain_plan_expect knows */
    /* the gate: the stream that comes to this moment of this kernel waits there */
    _Atomic uint32_t closed, waiting;
    fake_cuda_moment moment;
    const char *function;
    uint32_t kernel;
} rig;

static inline void on_event(void *context, const reef_event *event)
{
    (void)context;
    caller *c = event->tag;
    atomic_fetch_add(event->kind == REEF_EVENT_DONE      ? &c->done
                     : event->kind == REEF_EVENT_EVICTED ? &c->evicted
                                                         : &c->failed,
                     1);
    atomic_fetch_add(&c->events, 1);
    reef_futex_wake(&c->events, INT32_MAX);
}

static inline void wait_for(_Atomic uint32_t *word, uint32_t n)
{
    for (uint32_t seen; (seen = atomic_load(word)) < n;) {
        reef_futex_wait(word, seen, UINT64_MAX);
    }
}

static fake_cuda_counts at_start __attribute__((unused));

static inline void start_afresh(void)
{
    fake_cuda_reset();
    fake_cuda_count(&at_start); /* nothing, unless a test before has failed */
}

static inline void caller_open(rig *r, caller *c, bool realtime)
{
    assert_int_equal(r->ops->queue_create(r->dev, realtime, CAPACITY, 1, &c->queue), REEF_OK);
    assert_int_equal(r->ops->instance_create(r->program, &c->instance, NULL), REEF_OK);
}

static inline void caller_close(rig *r, caller *c)
{
    r->ops->queue_destroy(c->queue);
    r->ops->instance_destroy(c->instance);
}

/* With n best-effort callers of this plan, which becomes the rig's. */
static inline rig *rig_make_of(unsigned n, reef_plan *plan)
{
    start_afresh();
    rig *r = calloc(1, sizeof *r);
    reef_device_entry entry;
    reef_error error = {0};
    assert_int_equal(reef_device_find("cuda:0", &entry, &error), REEF_OK);
    r->ops = entry.ops;
    assert_int_equal(r->ops->open(&(reef_dev_config){.on_event = on_event, .context = r}, &r->dev, &error), REEF_OK);
    r->plan = plan;
    assert_int_equal(r->ops->program_create(r->dev, r->plan, NULL, &r->program, &error), REEF_OK);
    r->n = n;
    r->known = sizeof r->rt.y;
    caller_open(r, &r->rt, true);
    for (unsigned i = 0; i < n; i++) {
        caller_open(r, &r->be[i], false);
    }
    return r;
}

static inline rig *rig_make(unsigned n)
{
    return rig_make_of(n, chain_plan_create(KERNELS, ELEMS));
}

static inline void assert_no_complaint(void)
{
    char complaint[400];
    fake_cuda_complaint(complaint, sizeof complaint);
    assert_string_equal(complaint, "");
}

static inline unsigned handles(const fake_cuda_counts *c)
{
    return c->contexts + c->greens + c->streams + c->events + c->graphs + c->executables + c->libraries + c->registered;
}

static inline void assert_nothing_left(void)
{
    fake_cuda_counts left;
    fake_cuda_count(&left);
    assert_int_equal(left.memory_bytes, at_start.memory_bytes);
    assert_int_equal(handles(&left), handles(&at_start));
}

static inline void rig_free(rig *r)
{
    fake_cuda_hook(NULL, NULL);
    caller_close(r, &r->rt);
    for (unsigned i = 0; i < r->n; i++) {
        caller_close(r, &r->be[i]);
    }
    r->ops->program_destroy(r->program);
    r->ops->close(r->dev);
    reef_plan_destroy(r->plan);
    free(r);
    assert_no_complaint();
    assert_nothing_left();
}

static inline void begin(rig *r, caller *c)
{
    c->run++; /* what an earlier run has left somewhere is no answer to this one */
    for (unsigned i = 0; i < ELEMS; i++) {
        c->x[i] = (float)((i + 7 * c->run) % 1000);
    }
    chain_plan_expect(KERNELS, ELEMS, c->x, c->expected);
    memset(c->y, 0xff, sizeof c->y);
    r->ops->begin(c->instance, 0, (const void *[]){c->x}, (void *[]){c->y});
}

static inline reef_status launch(rig *r, caller *c, reef_launch_mode mode, uint32_t first, uint32_t count)
{
    return r->ops->launch(
        c->queue, &(reef_launch){.instance = c->instance, .first = first, .count = count, .mode = mode, .tag = c});
}

static inline void assert_answer(const rig *r, const caller *c)
{
    assert_int_equal(r->ops->progress(c->instance), KERNELS);
    assert_memory_equal(c->y, c->expected, r->known);
}

/* ------------------------------------------------------------- the gate -- */

static inline void at_gate(void *context, const fake_cuda_step *step)
{
    rig *r = context;
    const bool here = step->moment == r->moment &&
                      (step->function ? !strcmp(step->function, r->function) : r->kernel == 0) &&
                      step->kernel == r->kernel * TILES;
    if (atomic_load(&r->closed) && here) {
        atomic_fetch_add(&r->waiting, 1);
        reef_futex_wake(&r->waiting, INT32_MAX);
        while (atomic_load(&r->closed)) {
            reef_futex_wait(&r->closed, 1, UINT64_MAX);
        }
    }
}

/* Whoever comes to this moment of a tile of this kernel, in this form, stops there. */
static inline void close_gate_of(rig *r, const char *function, fake_cuda_moment moment, uint32_t kernel)
{
    r->moment = moment;
    r->function = function;
    r->kernel = kernel;
    atomic_store(&r->waiting, 0);
    atomic_store(&r->closed, 1);
    fake_cuda_hook(at_gate, r);
}

static inline void close_gate(rig *r, fake_cuda_moment moment, uint32_t kernel)
{
    close_gate_of(r, "reef_elt_f32_v4_be", moment, kernel);
}

static inline void open_gate(rig *r)
{
    atomic_store(&r->closed, 0);
    reef_futex_wake(&r->closed, INT32_MAX);
}

/* The last revocation has arrived on the device: nothing is on its way. */
static inline void wait_until_revoked(void)
{
    while (!fake_cuda_written()) {
        sched_yield();
    }
}

/* Launches what is left until the run is over; events must be counted in c->events, of which `seen` are old. */
static inline void finish(rig *r, caller *c)
{
    for (uint32_t k; (k = r->ops->progress(c->instance)) < KERNELS;) {
        uint32_t events = atomic_load(&c->events);
        assert_int_equal(launch(r, c, REEF_LAUNCH_LEASED, k, KERNELS - k), REEF_OK);
        wait_for(&c->events, events + 1);
        assert_int_equal(atomic_load(&c->failed), 0);
    }
}

#endif
