/*
 * test_api.c - the public interface on the CPU device: what a request may meet between submit and release.
 *
 * Only reef.h is used. Requests are held up by long synthetic ones that are cancelled when the test has seen enough, so
 * nothing here depends on how fast the machine is.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "reef/reef.h"

/* ------------------------------------------------------- a model, as bytes -- */

enum { ROWS = 16, WIDTH = 32, LAYERS = 3, ELEMS = ROWS * WIDTH };

typedef struct bytes {
    unsigned char data[32768];
    size_t n;
} bytes;

static void put(bytes *out, const void *data, size_t n)
{
    if (out->n + n > sizeof out->data) {
        abort();
    }
    memcpy(out->data + out->n, data, n);
    out->n += n;
}

static void put_varint(bytes *out, uint64_t value)
{
    do {
        unsigned char byte = (unsigned char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        put(out, &byte, 1);
        value >>= 7;
    } while (value);
}

static void put_number(bytes *out, unsigned field, uint64_t value)
{
    put_varint(out, field << 3);
    put_varint(out, value);
}

static void put_field(bytes *out, unsigned field, const void *data, size_t n)
{
    put_varint(out, field << 3 | 2);
    put_varint(out, n);
    put(out, data, n);
}

static void put_text(bytes *out, unsigned field, const char *text)
{
    put_field(out, field, text, strlen(text));
}

static void put_message(bytes *out, unsigned field, const bytes *message)
{
    put_field(out, field, message->data, message->n);
}

static void put_value(bytes *graph, unsigned field, const char *name)
{
    bytes shape = {.n = 0}, tensor = {.n = 0}, type = {.n = 0}, value = {.n = 0};
    const uint64_t dims[2] = {ROWS, WIDTH};
    for (int d = 0; d < 2; d++) {
        bytes dim = {.n = 0};
        put_number(&dim, 1, dims[d]);
        put_message(&shape, 1, &dim);
    }
    put_number(&tensor, 1, REEF_F32);
    put_message(&tensor, 2, &shape);
    put_message(&type, 1, &tensor);
    put_text(&value, 1, name);
    put_message(&value, 2, &type);
    put_message(graph, field, &value);
}

/* Small whole numbers, so that every sum is exact whatever its order. */
static int weight(int layer, int row, int column)
{
    return (row * 7 + column * 3 + layer) % 5 - 2;
}

/* x -> MatMul -> MatMul -> MatMul -> y, all (ROWS,WIDTH) by (WIDTH,WIDTH). */
static void write_model(const char *path)
{
    bytes *model = calloc(1, sizeof *model), *graph = calloc(1, sizeof *graph);
    for (int layer = 0; layer < LAYERS; layer++) {
        char names[3][8];
        snprintf(names[0], sizeof names[0], layer ? "h%d" : "x", layer);
        snprintf(names[1], sizeof names[1], "w%d", layer);
        snprintf(names[2], sizeof names[2], layer + 1 < LAYERS ? "h%d" : "y", layer + 1);
        bytes node = {.n = 0}, tensor = {.n = 0};
        put_text(&node, 1, names[0]);
        put_text(&node, 1, names[1]);
        put_text(&node, 2, names[2]);
        put_text(&node, 3, names[2]);
        put_text(&node, 4, "MatMul");
        put_message(graph, 1, &node);
        float weights[WIDTH][WIDTH];
        for (int i = 0; i < WIDTH; i++) {
            for (int j = 0; j < WIDTH; j++) {
                weights[i][j] = (float)weight(layer, i, j);
            }
        }
        put_number(&tensor, 1, WIDTH);
        put_number(&tensor, 1, WIDTH);
        put_number(&tensor, 2, REEF_F32);
        put_text(&tensor, 8, names[1]);
        put_field(&tensor, 9, weights, sizeof weights);
        put_message(graph, 5, &tensor);
    }
    put_text(graph, 2, "layers");
    put_value(graph, 11, "x");
    put_value(graph, 12, "y");
    bytes opset = {.n = 0};
    put_text(&opset, 1, "");
    put_number(&opset, 2, 13);
    put_number(model, 1, 8);
    put_message(model, 7, graph);
    put_message(model, 8, &opset);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(model->data, 1, model->n, file), model->n);
    assert_int_equal(fclose(file), 0);
    free(model);
    free(graph);
}

static void make_question(unsigned seed, float *x, float *y)
{
    int before[ELEMS], after[ELEMS];
    for (int i = 0; i < ELEMS; i++) {
        before[i] = (int)((seed * 2654435761u + (unsigned)i * 40503u) >> 16) % 5 - 2;
        x[i] = (float)before[i];
    }
    for (int layer = 0; layer < LAYERS; layer++) {
        for (int r = 0; r < ROWS; r++) {
            for (int j = 0; j < WIDTH; j++) {
                int sum = 0;
                for (int i = 0; i < WIDTH; i++) {
                    sum += before[r * WIDTH + i] * weight(layer, i, j);
                }
                after[r * WIDTH + j] = sum;
            }
        }
        memcpy(before, after, sizeof before);
    }
    for (int i = 0; i < ELEMS; i++) {
        y[i] = (float)before[i];
    }
}

/* ------------------------------------------------------------------ world -- */

typedef struct world {
    reef_device *device;
    reef_model *layers, *endless, *tiny; /* endless: seconds of work, to be cancelled */
    char path[64], cache[64];
    float x[ELEMS], y[ELEMS];
} world;

static world *world_make(const char *policy, unsigned units)
{
    world *w = calloc(1, sizeof *w);
    reef_error error = {0};
    reef_device_options options = {.policy = policy, .units = units, .rt_queue_limit = 8};
    assert_int_equal(reef_device_open("cpu", &options, &w->device, &error), REEF_OK);
    snprintf(w->path, sizeof w->path, "/tmp/reef-test-api.XXXXXX");
    int file = mkstemp(w->path);
    assert_true(file >= 0);
    close(file);
    write_model(w->path);
    reef_model_options model_options = {.cache_dir = "/nonexistent"};
    assert_int_equal(reef_model_load(w->device, w->path, &model_options, &w->layers, &error), REEF_OK);
    unlink(w->path);
    assert_int_equal(reef_model_create_synthetic(w->device, 100, 1000, 1000000, &w->endless, &error), REEF_OK);
    assert_int_equal(reef_model_create_synthetic(w->device, 2, 2, 20000, &w->tiny, &error), REEF_OK);
    make_question(1, w->x, w->y);
    return w;
}

static void world_free(world *w)
{
    reef_model_destroy(w->layers);
    reef_model_destroy(w->endless);
    reef_model_destroy(w->tiny);
    reef_device_close(w->device);
    free(w);
}

static reef_session *session_of(reef_model *model, reef_class service_class)
{
    reef_session *session;
    reef_error error = {0};
    reef_session_options options = {.service_class = service_class};
    assert_int_equal(reef_session_create(model, &options, &session, &error), REEF_OK);
    return session;
}

static reef_request *submit(reef_session *session, reef_callback callback, void *context, uint64_t deadline)
{
    reef_request *request;
    reef_submit_options options = {.callback = callback, .context = context, .deadline_ns = deadline};
    assert_int_equal(reef_session_submit(session, &options, &request), REEF_OK);
    return request;
}

static reef_status wait_for(reef_request *request)
{
    reef_request_info info;
    assert_int_equal(reef_request_wait(request, UINT64_MAX, &info), REEF_OK);
    return info.status;
}

static void wait_until_running(const reef_session *session)
{
    reef_session_stats stats;
    do {
        reef_session_stats_get(session, &stats);
    } while (!stats.running);
}

/* Answers are compared to the last bit. */
static bool same_bits(const void *a, const void *b, size_t n_bytes)
{
    return memcmp(a, b, n_bytes) == 0;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pause_us(unsigned us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

typedef struct record { /* what callbacks have said */
    _Atomic int fired, ok, cancelled, late, wrong;
    _Atomic int order[8];
} record;

static void count(void *context, reef_request *request, const reef_request_info *info)
{
    record *r = context;
    (void)request;
    atomic_fetch_add(&r->ok, info->status == REEF_OK);
    atomic_fetch_add(&r->cancelled, info->status == REEF_CANCELLED);
    atomic_fetch_add(&r->late, info->status == REEF_DEADLINE);
    atomic_fetch_add(&r->fired, 1);
}

/* ------------------------------------------------------------------ tests -- */

static void a_model_answers_as_its_definition_says(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    reef_tensor_info info;
    assert_true(reef_model_input(w->layers, 0, &info));
    assert_string_equal(info.name, "x");
    assert_int_equal(info.bytes, sizeof w->x);
    assert_false(reef_model_output(w->layers, 1, &info));
    for (int class = 0; class < 2; class ++) {
        reef_session *session = session_of(w->layers, class ? REEF_BE : REEF_RT);
        float answer[ELEMS] = {0};
        reef_request_info times;
        assert_int_equal(reef_session_run(session, (const void *[]){w->x}, (void *[]){answer}, &times), REEF_OK);
        assert_memory_equal(answer, w->y, sizeof answer);
        assert_true(times.submit_ns <= times.start_ns && times.start_ns <= times.end_ns);
        /* An output that is not wanted is not written. */
        assert_int_equal(reef_session_run(session, (const void *[]){w->x}, NULL, NULL), REEF_OK);
        assert_int_equal(reef_session_run(session, (const void *[]){NULL}, (void *[]){answer}, NULL),
                         REEF_INVALID_ARGUMENT);
        assert_int_equal(reef_session_run(session, NULL, (void *[]){answer}, NULL), REEF_INVALID_ARGUMENT);
        reef_session_destroy(session);
    }
    world_free(w);
}

typedef struct answered {
    record r;
    const world *w;
    float y[ELEMS];
} answered;

static void check_and_release(void *context, reef_request *request, const reef_request_info *info)
{
    answered *a = context;
    atomic_fetch_add(&a->r.wrong, info->status != REEF_OK || !same_bits(a->y, a->w->y, sizeof a->y));
    reef_request_release(request);
    atomic_fetch_add(&a->r.fired, 1);
}

static void the_callback_fires_once_with_the_answer_and_may_release_the_request(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    reef_session *session = session_of(w->layers, REEF_BE);
    answered a = {.w = w};
    for (int i = 1; i <= 200; i++) {
        memset(a.y, 0, sizeof a.y);
        static reef_request *request; /* the callback releases it, perhaps before submit returns */
        reef_submit_options options = {
            .inputs = (const void *[]){w->x}, .outputs = (void *[]){a.y}, .callback = check_and_release, .context = &a};
        assert_int_equal(reef_session_submit(session, &options, &request), REEF_OK);
        while (atomic_load(&a.r.fired) < i) {
            pause_us(1);
        }
        assert_int_equal(atomic_load(&a.r.fired), i);
    }
    assert_int_equal(atomic_load(&a.r.wrong), 0);
    reef_session_destroy(session);
    world_free(w);
}

typedef struct chain {
    record r;
    reef_session *session;
    int length;
    _Atomic int refused;
} chain;

static void submit_again(void *context, reef_request *request, const reef_request_info *info)
{
    chain *c = context;
    count(&c->r, request, info);
    if (atomic_load(&c->r.fired) < c->length) {
        reef_submit_options options = {.callback = submit_again, .context = c};
        reef_status status = reef_session_submit(c->session, &options, NULL);
        atomic_fetch_add(&c->refused, status != REEF_OK);
    }
}

static void a_callback_may_submit_the_next_request(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    for (int class = 0; class < 2; class ++) {
        chain c = {.session = session_of(w->tiny, class ? REEF_BE : REEF_RT), .length = 100};
        reef_request_release(submit(c.session, submit_again, &c, 0));
        while (atomic_load(&c.r.fired) < c.length) {
            pause_us(100);
        }
        assert_int_equal(atomic_load(&c.r.ok), c.length);
        reef_session_destroy(c.session);
    }
    world_free(w);
}

/* Requests come from a set made with the session: handles that are kept are missing from it until they are released. */
static void handles_of_ended_requests_count_until_they_are_released(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    reef_session *be;
    reef_error error = {0};
    reef_session_options options = {.service_class = REEF_BE, .queue_limit = 2, .instances = 1};
    assert_int_equal(reef_session_create(w->endless, &options, &be, &error), REEF_OK);
    reef_request *kept[16], *more = NULL;
    size_t n = 0;
    for (; n < 16 && reef_session_submit(be, &(reef_submit_options){0}, &kept[n]) == REEF_OK; n++) {
        reef_request_cancel(kept[n]);
        assert_int_equal(reef_request_wait(kept[n], UINT64_MAX, NULL), REEF_OK);
    }
    assert_in_range(n, 3, 15); /* nothing waits or runs, and yet there is none left */
    assert_int_equal(reef_session_submit(be, &(reef_submit_options){0}, &more), REEF_QUEUE_FULL);
    reef_request_release(kept[--n]);
    while (reef_session_submit(be, &(reef_submit_options){0}, &more) != REEF_OK) {
        pause_us(100); /* who delivered the end may hold the handle a moment longer than who waited for it */
    }
    reef_request_cancel(more);
    reef_request_release(more);
    while (n) {
        reef_request_release(kept[--n]);
    }
    reef_session_destroy(be);
    world_free(w);
}

static void full_queues_refuse(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    reef_session *be, *rt = session_of(w->endless, REEF_RT);
    reef_error error = {0};
    reef_session_options options = {.service_class = REEF_BE, .queue_limit = 2};
    assert_int_equal(reef_session_create(w->endless, &options, &be, &error), REEF_OK);
    record r = {0};
    reef_submit_options more = {.callback = count, .context = &r};
    for (int i = 0; i < 3; i++) { /* one runs, two wait */
        assert_int_equal(reef_session_submit(be, &more, NULL), REEF_OK);
    }
    assert_int_equal(reef_session_submit(be, &more, NULL), REEF_QUEUE_FULL);
    for (int i = 0; i < 9; i++) { /* one runs, eight wait */
        assert_int_equal(reef_session_submit(rt, &more, NULL), REEF_OK);
    }
    reef_request *none = NULL;
    assert_int_equal(reef_session_submit(rt, &more, &none), REEF_QUEUE_FULL);
    assert_null(none);
    reef_session_stats stats;
    reef_session_stats_get(rt, &stats);
    assert_int_equal(stats.submitted, 9);
    assert_int_equal(stats.refused, 1);
    assert_int_equal(stats.running, 1);
    assert_int_equal(stats.queued, 8);
    reef_session_destroy(be);
    reef_session_destroy(rt);
    assert_int_equal(atomic_load(&r.fired), 12);
    assert_int_equal(atomic_load(&r.cancelled), 12);
    world_free(w);
}

static void rt_only_refuses_best_effort_work(void **state)
{
    (void)state;
    world *w = world_make("rt-only", 2);
    reef_session *be = session_of(w->tiny, REEF_BE), *rt = session_of(w->tiny, REEF_RT);
    record r = {0};
    assert_int_equal(reef_session_submit(be, &(reef_submit_options){.callback = count, .context = &r}, NULL),
                     REEF_REFUSED);
    assert_int_equal(reef_session_run(rt, NULL, NULL, NULL), REEF_OK);
    reef_session_stats stats;
    reef_session_stats_get(be, &stats);
    assert_int_equal(stats.refused, 1);
    assert_int_equal(stats.submitted, 0);
    reef_session_destroy(be);
    reef_session_destroy(rt);
    assert_int_equal(atomic_load(&r.fired), 0);
    world_free(w);
}

typedef struct place {
    record *r;
    int name;
} place;

static void note_place(void *context, reef_request *request, const reef_request_info *info)
{
    place *p = context;
    (void)request, (void)info;
    atomic_store(&p->r->order[atomic_fetch_add(&p->r->fired, 1)], p->name);
}

static void real_time_requests_of_all_sessions_run_earliest_deadline_first(void **state)
{
    (void)state;
    world *w = world_make("reset", 1);
    reef_session *first = session_of(w->endless, REEF_RT), *one = session_of(w->tiny, REEF_RT),
                 *two = session_of(w->layers, REEF_RT);
    reef_request *blocker = submit(first, NULL, NULL, 0);
    record r = {0};
    const uint64_t later = now_ns() + 1000000000000u;
    const uint64_t deadlines[5] = {0, later + 30, later + 10, 0, later + 20};
    place places[5];
    for (int i = 0; i < 5; i++) {
        places[i] = (place){&r, i};
        reef_submit_options options = {.inputs = (const void *[]){w->x},
                                       .deadline_ns = deadlines[i],
                                       .callback = note_place,
                                       .context = &places[i]};
        assert_int_equal(reef_session_submit(i % 2 ? two : one, &options, NULL), REEF_OK);
    }
    reef_request_cancel(blocker);
    assert_int_equal(wait_for(blocker), REEF_CANCELLED);
    while (atomic_load(&r.fired) < 5) {
        pause_us(100);
    }
    const int expected[5] = {2, 4, 1, 0, 3};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(atomic_load(&r.order[i]), expected[i]);
    }
    reef_request_release(blocker);
    reef_session_destroy(first);
    reef_session_destroy(one);
    reef_session_destroy(two);
    world_free(w);
}

static void requests_in_a_queue_expire_when_asked_to(void **state)
{
    (void)state;
    world *w = world_make("reset", 1);
    reef_session *first = session_of(w->endless, REEF_RT), *rt = session_of(w->tiny, REEF_RT),
                 *be = session_of(w->tiny, REEF_BE);
    reef_request *blocker = submit(first, NULL, NULL, 0);
    record r = {0};
    const uint64_t later = now_ns() + 1000000000000u;
    reef_request *late[2] = {submit(rt, count, &r, 1), submit(be, count, &r, 1)},
                 *waiting = submit(be, count, &r, later);
    assert_true(reef_device_expire(w->device) == later);
    assert_int_equal(atomic_load(&r.late), 2); /* although the blocker still runs */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(wait_for(late[i]), REEF_DEADLINE);
        reef_request_release(late[i]);
    }
    reef_request_cancel(waiting);
    assert_int_equal(wait_for(waiting), REEF_CANCELLED);
    assert_true(reef_device_expire(w->device) == UINT64_MAX);
    reef_request_cancel(blocker);
    assert_int_equal(wait_for(blocker), REEF_CANCELLED);
    reef_request_release(waiting);
    reef_request_release(blocker);
    reef_session_destroy(first);
    reef_session_destroy(rt);
    reef_session_destroy(be);
    world_free(w);
}

static void a_request_past_its_deadline_is_answered_so(void **state)
{
    (void)state;
    world *w = world_make("reset", 1);
    reef_session *rt = session_of(w->tiny, REEF_RT), *be = session_of(w->tiny, REEF_BE);
    record r = {0};
    reef_request *requests[2] = {submit(rt, count, &r, 1), submit(be, count, &r, 1)};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(wait_for(requests[i]), REEF_DEADLINE);
        reef_request_release(requests[i]);
    }
    assert_int_equal(atomic_load(&r.late), 2);
    reef_session_stats stats;
    reef_session_stats_get(rt, &stats);
    assert_int_equal(stats.missed_deadline, 1);
    reef_session_destroy(rt);
    reef_session_destroy(be);
    world_free(w);
}

static void waiting_gives_up_after_its_time(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    reef_session *be = session_of(w->endless, REEF_BE);
    reef_request *request = submit(be, NULL, NULL, 0);
    assert_int_equal(reef_request_wait(request, 0, NULL), REEF_TIMEOUT);
    assert_int_equal(reef_request_wait(request, 1000000, NULL), REEF_TIMEOUT);
    reef_request_cancel(request);
    assert_int_equal(wait_for(request), REEF_CANCELLED);
    assert_int_equal(reef_request_wait(request, 0, NULL), REEF_OK); /* again, and at once */
    reef_request_release(request);
    reef_session_destroy(be);
    world_free(w);
}

static void cancelling_ends_a_request_in_every_state(void **state)
{
    (void)state;
    static const reef_class classes[2] = {REEF_RT, REEF_BE};
    world *w = world_make("reset", 2);
    for (int c = 0; c < 2; c++) {
        reef_session *session = session_of(w->endless, classes[c]);
        record r = {0};
        reef_request *running = submit(session, count, &r, 0), *queued = submit(session, count, &r, 0);
        reef_request_cancel(queued);
        assert_int_equal(atomic_load(&r.cancelled), 1); /* before cancel returned */
        assert_int_equal(reef_request_wait(queued, 0, NULL), REEF_OK);
        wait_until_running(session);
        reef_request_cancel(running);
        reef_request_cancel(running);
        assert_int_equal(wait_for(running), REEF_CANCELLED);
        reef_request_cancel(running);
        assert_int_equal(atomic_load(&r.fired), 2);
        reef_request_release(running);
        reef_request_release(queued);
        reef_session_destroy(session);
    }
    /* Taken off the device by RT work, and queued behind it. */
    reef_session *rt = session_of(w->endless, REEF_RT), *be = session_of(w->endless, REEF_BE);
    record r = {0};
    reef_request *below = submit(be, count, &r, 0);
    reef_request *above = submit(rt, count, &r, 0);
    reef_request_cancel(below);
    assert_int_equal(wait_for(below), REEF_CANCELLED);
    reef_request_cancel(above);
    assert_int_equal(wait_for(above), REEF_CANCELLED);
    reef_request_release(below);
    reef_request_release(above);
    reef_session_destroy(rt);
    reef_session_destroy(be);
    world_free(w);
}

static void handles_outlive_session_model_and_device(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    reef_session *session = session_of(w->endless, REEF_BE);
    record r = {0};
    reef_request *requests[5];
    for (int i = 0; i < 5; i++) {
        requests[i] = submit(session, count, &r, 0);
    }
    reef_session_destroy(session);
    assert_int_equal(atomic_load(&r.fired), 5);
    assert_int_equal(atomic_load(&r.cancelled), 5);
    world_free(w);
    for (int i = 0; i < 5; i++) {
        reef_request_cancel(requests[i]); /* no effect */
        assert_int_equal(wait_for(requests[i]), REEF_CANCELLED);
        reef_request_release(requests[i]);
    }
    reef_request_release(NULL);
    reef_session_destroy(NULL);
}

static void a_session_can_be_destroyed_while_its_callbacks_submit(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    reef_model *least;
    assert_int_equal(reef_model_create_synthetic(w->device, 1, 1, 0, &least, NULL), REEF_OK);
    for (int i = 0; i < 400; i++) {
        chain chains[3] = {{.length = 1 << 30}, {.length = 1 << 30}, {.length = 1 << 30}};
        reef_session *session = session_of(least, i % 2 ? REEF_BE : REEF_RT);
        for (int k = 0; k < 3; k++) {
            chains[k].session = session;
            reef_request_release(submit(session, submit_again, &chains[k], 0));
        }
        pause_us((unsigned)i % 50);
        reef_session_destroy(session);
        for (int k = 0; k < 3; k++) { /* each chain ended with the submit that was turned away */
            assert_int_equal(atomic_load(&chains[k].refused), 1);
            assert_int_equal(atomic_load(&chains[k].r.fired),
                             atomic_load(&chains[k].r.ok) + atomic_load(&chains[k].r.cancelled));
        }
    }
    reef_model_destroy(least);
    world_free(w);
}

/* One RT request alone: a choice for each of its kernels, though there is nothing to choose from. */
static void what_padding_costs_is_known(void **state)
{
    (void)state;
    world *w = world_make("pad", 2);
    reef_padding_info padding = {.selections = 99};
    assert_int_equal(reef_device_padding(w->device, &padding, NULL), REEF_OK);
    assert_int_equal(padding.selections, 0);
    assert_int_equal(padding.select_p50_ns, 0);
    reef_session *session = session_of(w->tiny, REEF_RT);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(reef_session_run(session, NULL, NULL, NULL), REEF_OK);
        assert_int_equal(reef_device_padding(w->device, &padding, NULL), REEF_OK);
        assert_int_equal(padding.selections, 2); /* it has two kernels */
        assert_int_equal(padding.proxy_bytes, 0);
        assert_int_equal(reef_device_set_policy(w->device, "reset", NULL), REEF_OK); /* which chooses nothing */
    }
    reef_session_destroy(session);
    world_free(w);
}

static void policy_and_profile_are_refused_while_requests_are_under_way(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    reef_error error = {0};
    static const reef_class classes[2] = {REEF_RT, REEF_BE};
    for (int c = 0; c < 2; c++) {
        reef_session *session = session_of(w->endless, classes[c]);
        reef_request *request = submit(session, NULL, NULL, 0);
        assert_int_equal(reef_device_set_policy(w->device, "wait", &error), REEF_BUSY);
        assert_int_equal(reef_model_profile(w->layers, 3, NULL, NULL, &error), REEF_BUSY);
        reef_request_cancel(request);
        wait_for(request);
        reef_request_release(request);
        reef_session_destroy(session);
    }
    assert_int_equal(reef_device_set_policy(w->device, "nonsense", &error), REEF_NOT_FOUND);
    assert_non_null(strstr(error.message, "lease"));
    assert_int_equal(reef_device_set_policy(w->device, "wait", &error), REEF_OK);
    reef_device_stats stats;
    reef_device_stats_get(w->device, &stats);
    assert_string_equal(stats.policy, "wait");
    assert_int_equal(reef_model_profile(w->layers, 0, NULL, NULL, &error), REEF_INVALID_ARGUMENT);
    world_free(w);
}

typedef struct visitor {
    world *w;
    reef_session *rt, *be;
    record r;
    int visits;
    reef_status policy;
    bool profiled;
} visitor;

static void visit(void *context, const char *what, size_t done, size_t total)
{
    visitor *v = context;
    (void)what;
    if (done < total) {
        reef_submit_options options = {.callback = count, .context = &v->r};
        v->visits += reef_session_submit(v->rt, &options, NULL) == REEF_OK;
        v->visits += reef_session_submit(v->be, &options, NULL) == REEF_OK;
        v->policy = reef_device_set_policy(v->w->device, "wait", NULL);
        reef_model_info info;
        reef_model_info_get(v->w->layers, &info);
        v->profiled |= info.profiled;
        if (atomic_load(&v->r.fired)) {
            v->profiled = true; /* a request ran beside the profile */
        }
    }
}

static void requests_that_arrive_during_a_profile_run_after_it(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    visitor v = {.w = w, .rt = session_of(w->tiny, REEF_RT), .be = session_of(w->tiny, REEF_BE)};
    reef_error error = {0};
    assert_int_equal(reef_model_profile(w->layers, 20, visit, &v, &error), REEF_OK);
    assert_false(v.profiled);
    assert_int_equal(v.policy, REEF_BUSY);
    assert_true(v.visits >= 2);
    while (atomic_load(&v.r.fired) < v.visits) {
        pause_us(100);
    }
    assert_int_equal(atomic_load(&v.r.ok), v.visits);
    reef_model_info info;
    reef_model_info_get(w->layers, &info);
    assert_true(info.profiled);
    reef_kernel_info kernel;
    for (size_t k = 0; reef_model_kernel(w->layers, k, &kernel); k++) {
        assert_true(kernel.solo_p50_ns > 0 && kernel.solo_p50_ns <= kernel.solo_p99_ns);
        assert_true(kernel.solo_p99_ns < 3600000000000u);
    }
    reef_session_destroy(v.rt);
    reef_session_destroy(v.be);
    world_free(w);
}

typedef struct asker {
    reef_session *session;
    _Atomic bool stop;
    int unexpected;
} asker;

static void *ask_until_told(void *context)
{
    asker *a = context;
    while (!atomic_load(&a->stop)) {
        reef_request *request;
        if (reef_session_submit(a->session, &(reef_submit_options){0}, &request) == REEF_OK) {
            reef_request_cancel(request);
            reef_status status = wait_for(request);
            a->unexpected += status != REEF_OK && status != REEF_CANCELLED;
            reef_request_release(request);
        }
    }
    return NULL;
}

/* What a profile finds out comes in between two requests, whenever they are submitted (for the thread sanitizer). */
static void a_profile_ends_while_its_model_is_asked(void **state)
{
    (void)state;
    world *w = world_make("lease", 2);
    asker a = {.session = session_of(w->tiny, REEF_RT)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, ask_until_told, &a), 0);
    for (int profiles = 0; profiles < 20;) {
        reef_status status = reef_model_profile(w->tiny, 1, NULL, NULL, NULL);
        assert_true(status == REEF_OK || status == REEF_BUSY);
        profiles += status == REEF_OK;
    }
    atomic_store(&a.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(a.unexpected, 0);
    reef_session_destroy(a.session);
    world_free(w);
}

static void best_effort_sessions_of_every_weight_progress(void **state)
{
    (void)state;
    world *w = world_make("reset", 2);
    enum { SESSIONS = 4, EACH = 30 };
    chain chains[SESSIONS];
    for (unsigned i = 0; i < SESSIONS; i++) {
        reef_session_options options = {.service_class = REEF_BE, .weight = i ? 4 * i : 1};
        chains[i] = (chain){.length = 1 << 30};
        assert_int_equal(reef_session_create(i ? w->tiny : w->layers, &options, &chains[i].session, NULL), REEF_OK);
    }
    reef_session *rt = session_of(w->tiny, REEF_RT);
    for (unsigned i = 1; i < SESSIONS; i++) {
        reef_request_release(submit(chains[i].session, submit_again, &chains[i], 0));
    }
    for (int i = 0; i < EACH; i++) {
        float answer[ELEMS];
        assert_int_equal(reef_session_run(chains[0].session, (const void *[]){w->x}, (void *[]){answer}, NULL),
                         REEF_OK);
        assert_memory_equal(answer, w->y, sizeof answer);
        assert_int_equal(reef_session_run(rt, NULL, NULL, NULL), REEF_OK);
    }
    for (unsigned i = 1; i < SESSIONS; i++) {
        while (atomic_load(&chains[i].r.ok) < EACH) {
            pause_us(100);
        }
    }
    for (unsigned i = 0; i < SESSIONS; i++) {
        reef_session_destroy(chains[i].session);
    }
    reef_session_destroy(rt);
    world_free(w);
}

/* -------------------------------------------------------- everything at once -- */

enum { CLIENTS = 4, SLOTS = 12, SESSIONS = 5, QUESTIONS = 8, STRESS_MS = 400 };

typedef struct slot {
    struct stress *s;
    _Atomic bool busy;
    bool asks; /* a question with an answer */
    int question;
    float y[ELEMS];
} slot;

typedef struct stress {
    world *w;
    reef_session *sessions[SESSIONS]; /* the first three are of the model with answers */
    float x[QUESTIONS][ELEMS], y[QUESTIONS][ELEMS];
    const char *policy;
    uint64_t until;
    _Atomic uint64_t accepted, fired, wrong, unexpected;
} stress;

typedef struct client {
    stress *s;
    unsigned seed;
    pthread_t thread;
    slot slots[SLOTS];
} client;

static unsigned draw(client *c, unsigned n)
{
    c->seed = c->seed * 1664525u + 1013904223u;
    return (c->seed >> 10) % n;
}

static void slot_ended(void *context, reef_request *request, const reef_request_info *info)
{
    slot *at = context;
    stress *s = at->s;
    (void)request;
    if (info->status == REEF_OK) {
        atomic_fetch_add(&s->wrong, at->asks && !same_bits(at->y, s->y[at->question], sizeof at->y));
    } else if (info->status != REEF_CANCELLED && info->status != REEF_DEADLINE) {
        atomic_fetch_add(&s->unexpected, 1);
    }
    if (!atomic_exchange(&at->busy, false)) {
        atomic_fetch_add(&s->unexpected, 1); /* fired twice */
    }
    atomic_fetch_add(&s->fired, 1);
}

static void use_request(client *c, reef_request *request)
{
    reef_request_info info;
    if (draw(c, 3) == 0) {
        reef_request_cancel(request);
    }
    if (draw(c, 3) && reef_request_wait(request, draw(c, 2) ? UINT64_MAX : draw(c, 200000), &info) == REEF_OK &&
        info.end_ns < info.submit_ns) {
        atomic_fetch_add(&c->s->unexpected, 1);
    }
    reef_request_release(request);
}

static void submit_something(client *c)
{
    stress *s = c->s;
    slot *at = &c->slots[draw(c, SLOTS)];
    if (atomic_load(&at->busy)) {
        return;
    }
    unsigned which = draw(c, SESSIONS);
    at->s = s;
    at->asks = which < 3;
    at->question = (int)draw(c, QUESTIONS);
    memset(at->y, 0, sizeof at->y);
    atomic_store(&at->busy, true);
    reef_submit_options options = {
        .inputs = (const void *[]){s->x[at->question]},
        .outputs = (void *[]){at->y},
        .deadline_ns = draw(c, 4) ? 0 : now_ns() + draw(c, 3000000),
        .callback = slot_ended,
        .context = at,
    };
    reef_request *request = NULL;
    bool handle = draw(c, 2);
    /* Counted first: the callback may come before submit returns. */
    atomic_fetch_add(&s->accepted, 1);
    reef_status status = reef_session_submit(s->sessions[which], &options, handle ? &request : NULL);
    if (status) {
        bool refused = status == REEF_REFUSED && which && !strcmp(s->policy, "rt-only");
        atomic_fetch_add(&s->unexpected, !refused && status != REEF_QUEUE_FULL);
        atomic_store(&at->busy, false);
        atomic_fetch_sub(&s->accepted, 1);
    } else if (request) {
        use_request(c, request);
    }
}

static void *client_main(void *context)
{
    client *c = context;
    stress *s = c->s;
    while (now_ns() < s->until) {
        reef_device_stats device;
        reef_session_stats session;
        switch (draw(c, 16)) {
        case 0: reef_device_stats_get(s->w->device, &device); break;
        case 1: reef_session_stats_get(s->sessions[draw(c, SESSIONS)], &session); break;
        case 2: reef_device_set_policy(s->w->device, s->policy, NULL); break;
        case 3:
            if (draw(c, 20) == 0) {
                reef_model_profile(s->w->tiny, 2, NULL, NULL, NULL);
            }
            break;
        case 4: pause_us(draw(c, 300)); break;
        default: submit_something(c); break;
        }
    }
    return NULL;
}

static void stress_policy(world *w, const char *policy)
{
    stress *s = calloc(1, sizeof *s);
    client *clients = calloc(CLIENTS, sizeof *clients);
    *s = (stress){.w = w, .policy = policy, .until = now_ns() + STRESS_MS * 1000000u};
    assert_int_equal(reef_device_set_policy(w->device, policy, NULL), REEF_OK);
    reef_device_stats before, after;
    reef_device_stats_get(w->device, &before);
    for (int i = 0; i < SESSIONS; i++) {
        reef_session_options options = {
            .service_class = i == 0 || i == 3 ? REEF_RT : REEF_BE, .weight = (unsigned)i, .queue_limit = 6};
        assert_int_equal(reef_session_create(i < 3 ? w->layers : w->tiny, &options, &s->sessions[i], NULL), REEF_OK);
    }
    for (unsigned i = 0; i < QUESTIONS; i++) {
        make_question(i, s->x[i], s->y[i]);
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        clients[i].s = s;
        clients[i].seed = i * 7919 + 1;
        assert_int_equal(pthread_create(&clients[i].thread, NULL, client_main, &clients[i]), 0);
    }
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(clients[i].thread, NULL);
    }
    /* Requests without a handle may still be under way. */
    uint64_t completed = 0, ended = 0;
    for (int i = 0; i < SESSIONS; i++) {
        reef_session_stats stats;
        do {
            reef_session_stats_get(s->sessions[i], &stats);
        } while (stats.queued || stats.running);
        assert_int_equal(stats.submitted, stats.completed + stats.failed + stats.cancelled + stats.missed_deadline);
        assert_int_equal(stats.failed, 0);
        completed += stats.completed;
        ended += stats.submitted;
    }
    for (int i = 0; i < SESSIONS; i++) {
        reef_session_destroy(s->sessions[i]);
    }
    reef_device_stats_get(w->device, &after);
    assert_int_equal(atomic_load(&s->wrong), 0);
    assert_int_equal(atomic_load(&s->unexpected), 0);
    assert_int_equal(atomic_load(&s->fired), atomic_load(&s->accepted));
    assert_int_equal(ended, atomic_load(&s->accepted));
    assert_int_equal(after.rt_completed + after.be_completed - before.rt_completed - before.be_completed, completed);
    assert_true(completed > 0);
    free(clients);
    free(s);
}

static void many_clients_get_every_answer_and_every_callback_under_every_policy(void **state)
{
    (void)state;
    for (unsigned units = 1; units <= 3; units += 2) {
        world *w = world_make(NULL, units);
        const char *policy, *meaning;
        for (size_t i = 0; reef_policy_list(i, &policy, &meaning); i++) {
            stress_policy(w, policy);
        }
        world_free(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_answers_as_its_definition_says),
        cmocka_unit_test(the_callback_fires_once_with_the_answer_and_may_release_the_request),
        cmocka_unit_test(a_callback_may_submit_the_next_request),
        cmocka_unit_test(handles_of_ended_requests_count_until_they_are_released),
        cmocka_unit_test(full_queues_refuse),
        cmocka_unit_test(rt_only_refuses_best_effort_work),
        cmocka_unit_test(real_time_requests_of_all_sessions_run_earliest_deadline_first),
        cmocka_unit_test(requests_in_a_queue_expire_when_asked_to),
        cmocka_unit_test(a_request_past_its_deadline_is_answered_so),
        cmocka_unit_test(waiting_gives_up_after_its_time),
        cmocka_unit_test(cancelling_ends_a_request_in_every_state),
        cmocka_unit_test(handles_outlive_session_model_and_device),
        cmocka_unit_test(a_session_can_be_destroyed_while_its_callbacks_submit),
        cmocka_unit_test(what_padding_costs_is_known),
        cmocka_unit_test(policy_and_profile_are_refused_while_requests_are_under_way),
        cmocka_unit_test(requests_that_arrive_during_a_profile_run_after_it),
        cmocka_unit_test(a_profile_ends_while_its_model_is_asked),
        cmocka_unit_test(best_effort_sessions_of_every_weight_progress),
        cmocka_unit_test(many_clients_get_every_answer_and_every_callback_under_every_policy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
