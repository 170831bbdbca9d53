/*
 * test_nice.c - reef nice's table of channel groups against a driver in this file, from many threads; levels; the two
 * functions of the public interface that speak of time slices and hints, on devices that have neither and on one that does.
 *
 * What processes do with it (preloading, fork, exec, the control socket) is tested by tests/nice/test_nice.py.
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

#include <cmocka.h>

#include "api/api.h"
#include "nice/control.h"
#include "nice/groups.h"
#include "nice/rm.h"
#include "reef/reef.h"

/* ------------------------------------------------------------------------------------------------- a driver -- */

enum { CLIENTS = 8, HANDLES = 512, FD = 5 };

typedef struct driver {
    pthread_mutex_t lock;
    uint64_t slice[CLIENTS][HANDLES]; /* 0: no such group */
    unsigned sets, wrong;
    uint32_t answer_set; /* the status of every SET of ours */
    nice_groups groups;
} driver;

static int driver_ioctl(void *context, int fd, unsigned long request, void *argument)
{
    driver *d = context;
    if (fd != FD) {
        errno = EBADF;
        return -1;
    }
    pthread_mutex_lock(&d->lock);
    if (request == RM_REQUEST(RM_ALLOC, rm_alloc)) {
        const rm_alloc *message = argument;
        if (message->class == RM_CLASS_GROUP) {
            d->slice[message->client][message->object] = 1024;
        }
    } else if (request == RM_REQUEST(RM_FREE, rm_free)) {
        const rm_free *message = argument;
        d->slice[message->client][message->object] = 0;
    } else if (request == RM_REQUEST(RM_CONTROL, rm_control)) {
        rm_control *message = argument;
        rm_slice *slice = (rm_slice *)(uintptr_t)message->params;
        uint64_t *own = &d->slice[message->client][message->object];
        bool ours = message->status == UINT32_MAX;
        message->status = !*own                                            ? RM_INVALID_HANDLE
                          : ours && message->command == RM_GROUP_SET_SLICE ? d->answer_set
                                                                           : RM_OK;
        if (message->status == RM_OK && message->command == RM_GROUP_SET_SLICE) {
            *own = slice->us;
            d->sets++;
        } else if (message->status == RM_OK && message->command == RM_GROUP_GET_SLICE) {
            slice->us = *own;
        }
    }
    pthread_mutex_unlock(&d->lock);
    return 0;
}

static bool driver_node(void *context, int fd, nice_file *out)
{
    (void)context;
    *out = (nice_file){.device = 1, .inode = 2};
    return fd == FD;
}

static void driver_say(void *context, bool always, const char *line)
{
    (void)context;
    (void)always;
    (void)line;
}

static driver *driver_make(nice_rule rule)
{
    driver *d = calloc(1, sizeof *d);
    assert_non_null(d);
    pthread_mutex_init(&d->lock, NULL);
    const nice_system system = {.ioctl = driver_ioctl, .is_control_node = driver_node, .say = driver_say, .context = d};
    nice_groups_init(&d->groups, &system, rule);
    return d;
}

static void driver_free(driver *d)
{
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static int call(driver *d, unsigned long request, void *argument)
{
    return nice_groups_ioctl(&d->groups, FD, request, argument);
}

static void make_group(driver *d, uint32_t client, uint32_t handle)
{
    rm_group_params params = {.engine = RM_ENGINE_GRAPHICS};
    rm_alloc alloc = {.client = client, .object = handle, .class = RM_CLASS_GROUP, .params = (uintptr_t)&params};
    rm_slice slice = {2048};
    rm_control set = {.client = client,
                      .object = handle,
                      .command = RM_GROUP_SET_SLICE,
                      .params = (uintptr_t)&slice,
                      .params_bytes = sizeof slice};
    assert_int_equal(call(d, RM_REQUEST(RM_ALLOC, rm_alloc), &alloc), 0);
    assert_int_equal(call(d, RM_REQUEST(RM_CONTROL, rm_control), &set), 0);
}

static void free_group(driver *d, uint32_t client, uint32_t handle)
{
    rm_free freed = {.client = client, .object = handle};
    assert_int_equal(call(d, RM_REQUEST(RM_FREE, rm_free), &freed), 0);
}

/* ---------------------------------------------------------------------------------------------------- tests -- */

static void levels_and_rules_are_written_as_they_are_read(void **state)
{
    (void)state;
    uint32_t before = NICE_SLICE_MAX_US;
    for (int level = NICE_LEAST; level <= NICE_MOST; level++) {
        char text[24];
        nice_rule rule = nice_rule_of_level(level), again;
        if (level != 0) {
            assert_true(rule.slice_us >= 1 && rule.slice_us <= before); /* the higher, the shorter */
            before = rule.slice_us;
        }
        nice_rule_print(rule, text, sizeof text);
        assert_true(nice_rule_parse(text, &again));
        assert_int_equal(again.level, level);
        assert_true(again.by_level);
        assert_int_equal(again.slice_us, rule.slice_us);
    }
    static const char *const bad[] = {"",         "level",    "level ",        "level 20",       "level -21",
                                      "level +1", "level 1 ", "level - 1",     "level 1e1",      "slice",
                                      "slice ",   "slice -1", "slice 1000001", "slice 12345678", "slice 1x",
                                      " slice 1", "LEVEL 1",  "level 00000001"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        nice_rule rule = {.slice_us = 4711};
        assert_false(nice_rule_parse(bad[i], &rule));
        assert_int_equal(rule.slice_us, 4711);
    }
}

typedef struct thread_args {
    driver *driver;
    uint32_t client;
} thread_args;

static void *create_and_free(void *argument)
{
    const thread_args *args = argument;
    for (uint32_t i = 0; i < 400; i++) {
        make_group(args->driver, args->client, 1 + i % 10);
        if (i % 10 > 5) {
            free_group(args->driver, args->client, 1 + i % 10);
        }
    }
    for (uint32_t handle = 1; handle <= 10; handle++) {
        free_group(args->driver, args->client, handle);
    }
    return NULL;
}

static void *change_and_list(void *argument)
{
    driver *d = ((const thread_args *)argument)->driver;
    char *reply = malloc(NICE_REPLY_MAX), request[NICE_REQUEST_MAX];
    nice_report *report = malloc(sizeof *report);
    for (int i = 0; i < 200; i++) {
        int n = snprintf(request, sizeof request, i % 3 ? "set level %d" : "list", i % 20);
        size_t size = nice_answer(&d->groups, request, (size_t)n, reply, NICE_REPLY_MAX);
        reef_error error = {0};
        assert_int_equal(nice_parse_reply(reply, size, report, &error), REEF_OK);
    }
    free(report);
    free(reply);
    return NULL;
}

static void threads_create_free_change_and_list(void **state)
{
    (void)state;
    driver *d = driver_make(nice_rule_of_level(19));
    pthread_t threads[6];
    thread_args args[6];
    for (uint32_t i = 0; i < 6; i++) {
        args[i] = (thread_args){d, i};
        assert_int_equal(pthread_create(&threads[i], NULL, i < 4 ? create_and_free : change_and_list, &args[i]), 0);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(threads[i], NULL);
    }
    nice_rule rule;
    assert_int_equal(nice_groups_list(&d->groups, NULL, 0, &rule), 0);
    make_group(d, 7, 1);
    nice_applied applied;
    nice_groups_set(&d->groups, nice_rule_of_slice(33), &applied);
    assert_int_equal(applied.groups, 1);
    assert_int_equal(applied.changed, 1);
    assert_int_equal(d->slice[7][1], 33);
    driver_free(d);
}

static void more_groups_than_there_is_room_for_keep_their_own_slice(void **state)
{
    (void)state;
    driver *d = driver_make(nice_rule_of_slice(50));
    for (uint32_t i = 0; i < NICE_MAX_GROUPS + 20; i++) {
        make_group(d, 1, 1 + i);
    }
    nice_rule rule;
    assert_int_equal(nice_groups_list(&d->groups, NULL, 0, &rule), NICE_MAX_GROUPS);
    assert_int_equal(d->slice[1][NICE_MAX_GROUPS], 50);
    assert_int_equal(d->slice[1][NICE_MAX_GROUPS + 1], 2048);
    char *reply = malloc(NICE_REPLY_MAX);
    nice_report *report = malloc(sizeof *report);
    reef_error error = {0};
    size_t n = nice_answer(&d->groups, "list", 4, reply, NICE_REPLY_MAX);
    assert_int_equal(nice_parse_reply(reply, n, report, &error), REEF_OK);
    assert_int_equal(report->n_groups, NICE_MAX_GROUPS);
    free_group(d, 1, 3); /* room for one */
    make_group(d, 2, 9);
    assert_int_equal(d->slice[2][9], 50);
    free(report);
    free(reply);
    driver_free(d);
}

static void a_longer_slice_and_back_to_the_programs_own(void **state)
{
    (void)state;
    driver *d = driver_make(nice_rule_of_level(0));
    nice_applied applied;
    make_group(d, 1, 1);
    assert_int_equal(d->sets, 1); /* its own */
    nice_groups_set(&d->groups, nice_rule_of_level(-20), &applied);
    assert_int_equal(d->slice[1][1], 65536);
    nice_groups_set(&d->groups, nice_rule_of_level(0), &applied);
    assert_int_equal(d->slice[1][1], 2048);
    unsigned sets = d->sets;
    nice_groups_set(&d->groups, nice_rule_of_slice(0), &applied);
    assert_int_equal(d->sets, sets); /* there is nothing to put back any more */
    d->answer_set = RM_NOT_PERMITTED;
    nice_groups_set(&d->groups, nice_rule_of_level(3), &applied);
    assert_int_equal(applied.refused, 1);
    assert_int_equal(applied.status, RM_NOT_PERMITTED);
    assert_int_equal(d->slice[1][1], 2048);
    driver_free(d);
}

/* ------------------------------------------------------------------------------------------- hints and slices -- */

static unsigned hints_sent, hints_released;
static uint64_t last_hold_ns;

static reef_status count_hint(reef_dev *dev, uint64_t hold_ns, reef_error *error)
{
    (void)dev;
    (void)error;
    hints_sent += hold_ns != 0;
    hints_released += hold_ns == 0;
    last_hold_ns = hold_ns ? hold_ns : last_hold_ns;
    return REEF_OK;
}

typedef struct hinted {
    reef_device *device;
    reef_model *model;
    reef_session *rt, *be;
} hinted;

static void open_sessions(hinted *h)
{
    reef_error error;
    assert_int_equal(reef_model_create_synthetic(h->device, 1, 1, 0, &h->model, &error), REEF_OK);
    assert_int_equal(reef_session_create(h->model, &(reef_session_options){.service_class = REEF_RT}, &h->rt, &error),
                     REEF_OK);
    assert_int_equal(reef_session_create(h->model, NULL, &h->be, &error), REEF_OK);
}

static void close_sessions(hinted *h)
{
    reef_session_destroy(h->rt);
    reef_session_destroy(h->be);
    reef_model_destroy(h->model);
    reef_device_close(h->device);
}

static void a_device_without_slices_and_hints_says_so(void **state)
{
    (void)state;
    hinted h;
    reef_error error = {0};
    uint32_t slice = 4711;
    assert_int_equal(reef_device_open("cpu", &(reef_device_options){.units = 1, .slice_us = 10}, &h.device, &error),
                     REEF_UNSUPPORTED);
    assert_non_null(strstr(error.message, "no time slices"));
    assert_int_equal(reef_device_open("cpu", &(reef_device_options){.units = 1}, &h.device, &error), REEF_OK);
    assert_int_equal(reef_device_slice(h.device, &slice, &error), REEF_UNSUPPORTED);
    assert_int_equal(slice, 4711);
    open_sessions(&h);
    assert_int_equal(reef_session_hint(h.rt, 1000, &error), REEF_UNSUPPORTED);
    assert_int_equal(reef_session_hint(h.be, 1000, &error), REEF_INVALID_ARGUMENT);
    assert_int_equal(reef_session_run(h.rt, NULL, NULL, NULL), REEF_OK);
    close_sessions(&h);
}

static void hints_are_bounded_and_released_by_requests(void **state)
{
    (void)state;
    hinted h;
    reef_error error = {0};
    assert_int_equal(reef_device_open("cpu", &(reef_device_options){.units = 1}, &h.device, &error), REEF_OK);
    /* From now on a device that takes hints: its threads have not read this yet. */
    static reef_device_ops ops;
    ops = *h.device->dev->ops;
    ops.hint = count_hint;
    h.device->dev->ops = &ops;
    open_sessions(&h);
    reef_session *rt = h.rt, *be = h.be;
    hints_sent = hints_released = 0;
    assert_int_equal(reef_session_hint(rt, 0, &error), REEF_INVALID_ARGUMENT);
    assert_int_equal(reef_session_hint(rt, REEF_HINT_MAX_NS + 1, &error), REEF_INVALID_ARGUMENT);
    assert_int_equal(hints_sent, 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < REEF_HINT_UNUSED_MAX; i++) {
            assert_int_equal(reef_session_hint(rt, 300000, &error), REEF_OK);
        }
        for (int i = 0; i < 3; i++) { /* hints without requests end, too */
            assert_int_equal(reef_session_hint(rt, 300000, &error), REEF_REFUSED);
        }
        assert_int_equal(hints_sent, REEF_HINT_UNUSED_MAX * (round + 1));
        assert_true(last_hold_ns > 300000 && last_hold_ns < 1000000);
        assert_int_equal(reef_session_run(be, NULL, NULL, NULL), REEF_OK); /* is none of their business */
        assert_int_equal(hints_released, round);
        assert_int_equal(reef_session_run(rt, NULL, NULL, NULL), REEF_OK);
        assert_int_equal(hints_released, round + 1);
        assert_int_equal(reef_session_run(rt, NULL, NULL, NULL), REEF_OK);
        assert_int_equal(hints_released, round + 1); /* nothing to release */
    }
    close_sessions(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_and_rules_are_written_as_they_are_read),
        cmocka_unit_test(threads_create_free_change_and_list),
        cmocka_unit_test(more_groups_than_there_is_room_for_keep_their_own_slice),
        cmocka_unit_test(a_longer_slice_and_back_to_the_programs_own),
        cmocka_unit_test(a_device_without_slices_and_hints_says_so),
        cmocka_unit_test(hints_are_bounded_and_released_by_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
