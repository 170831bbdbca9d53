/*
 * test_trace.c - the timeline: what is kept, what is written, and that it is well formed; then real requests on the CPU
 * device, each of which must be found in the file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/trace.h"
#include "reef/reef.h"

static void temporary(char *path)
{
    strcpy(path, "/tmp/reef-test-XXXXXX");
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
}

static json_t *written(const reef_trace *trace)
{
    char path[64];
    reef_error error = {0};
    temporary(path);
    assert_int_equal(reef_trace_write(trace, path, &error), REEF_OK);
    json_error_t where;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    if (!root) {
        fail_msg("line %d: %s", where.line, where.text);
    }
    unlink(path);
    return root;
}

static const char *text_of(const json_t *event, const char *field)
{
    const char *text = json_string_value(json_object_get(event, field));
    return text ? text : "";
}

static double number_of(const json_t *event, const char *field)
{
    return json_number_value(json_object_get(event, field));
}

/* Events of a phase whose name begins with `name`. */
static size_t count(const json_t *root, const char *phase, const char *name)
{
    size_t i, n = 0;
    json_t *event;
    json_array_foreach(json_object_get(root, "traceEvents"), i, event)
    {
        n += !strcmp(text_of(event, "ph"), phase) && !strncmp(text_of(event, "name"), name, strlen(name));
    }
    return n;
}

typedef struct box {
    double track, from, to;
} box;

static int by_place(const void *a, const void *b)
{
    const box *x = a, *y = b;
    if (x->track != y->track) {
        return x->track < y->track ? -1 : 1;
    }
    if (x->from != y->from) {
        return x->from < y->from ? -1 : 1;
    }
    return x->to > y->to ? -1 : x->to < y->to; /* the outer one first */
}

/* On each track any two spans are apart or one is inside the other; asynchronous ones are opened and closed in turn. */
static void assert_well_formed(const json_t *root)
{
    const double slack = 0.0015; /* two roundings to nanoseconds */
    json_t *events = json_object_get(root, "traceEvents"), *event;
    box *boxes = calloc(json_array_size(events) + 1, sizeof *boxes), *open[64];
    size_t n = 0, i;
    struct {
        double id;
        int depth;
    } async[4096] = {{0, 0}};
    json_array_foreach(events, i, event)
    {
        const char *phase = text_of(event, "ph");
        if (!strcmp(phase, "X")) {
            assert_true(number_of(event, "ts") >= 0 && number_of(event, "dur") >= 0);
            boxes[n++] = (box){number_of(event, "tid"), number_of(event, "ts"),
                               number_of(event, "ts") + number_of(event, "dur")};
        } else if (!strcmp(phase, "b") || !strcmp(phase, "e")) {
            size_t id = (size_t)number_of(event, "id");
            assert_in_range(id, 1, 4095);
            async[id].depth += *phase == 'b' ? 1 : -1;
            assert_in_range(async[id].depth, 0, 2);
        } else {
            assert_string_equal(phase, "M");
        }
    }
    for (i = 0; i < 4096; i++) {
        assert_int_equal(async[i].depth, 0);
    }
    qsort(boxes, n, sizeof *boxes, by_place);
    size_t depth = 0;
    for (i = 0; i < n; i++) {
        while (depth && (open[depth - 1]->track != boxes[i].track || open[depth - 1]->to <= boxes[i].from + slack)) {
            depth--;
        }
        if (depth && boxes[i].to > open[depth - 1]->to + slack) {
            fail_msg("track %g: [%f, %f] leaves [%f, %f]", boxes[i].track, boxes[i].from, boxes[i].to,
                     open[depth - 1]->from, open[depth - 1]->to);
        }
        assert_true(depth < 64);
        open[depth++] = &boxes[i];
    }
    free(boxes);
}

static void the_newest_spans_are_kept(void **state)
{
    (void)state;
    reef_trace *trace = reef_trace_create(4);
    assert_non_null(trace);
    for (uint64_t i = 0; i < 10; i++) {
        char name[16];
        snprintf(name, sizeof name, "span %d", (int)i);
        reef_trace_add(trace, &(reef_trace_span){.kind = REEF_TRACE_CALLER, .at = {1000 * i, 0, 0, 1000 * i + 500}},
                       name);
    }
    json_t *root = written(trace);
    for (int i = 0; i < 10; i++) {
        char name[16];
        snprintf(name, sizeof name, "span %d", i);
        assert_int_equal(count(root, "X", name), i >= 6);
    }
    json_t *other = json_object_get(root, "otherData");
    assert_int_equal(json_integer_value(json_object_get(other, "spans")), 4);
    assert_int_equal(json_integer_value(json_object_get(other, "overwritten")), 6);
    json_decref(root);
    reef_trace_destroy(trace);
}

static void any_name_and_any_time_make_valid_json(void **state)
{
    (void)state;
    static const char *const names[] = {"\"},{\"",
                                        "back\\slash",
                                        "\n\t\x01\x7f\xff\xc3",
                                        "",
                                        "a name that is much longer than what a record has room for",
                                        NULL};
    reef_trace *trace = reef_trace_create(100);
    trace->start_ns = 5000;
    for (size_t i = 0; i < 6; i++) {
        for (unsigned kind = 0; kind <= REEF_TRACE_CALLER; kind++) {
            reef_trace_span span = {.kind = (uint8_t)kind,
                                    .at = {i * 2000, i * 2000 + 100, i * 2000 + 50, i * 2000 - (i == 3) * 5000},
                                    .id = 6 * kind + i + 1,
                                    .status = (uint8_t)(i * 50),
                                    .queue = (uint32_t)(kind == REEF_TRACE_PREEMPTED)};
            reef_trace_add(trace, &span, names[i]);
        }
    }
    json_t *root = written(trace);
    assert_well_formed(root);
    assert_int_equal(count(root, "X", "back\\slash"), 2); /* a launch and a span of the caller's */
    assert_int_equal(count(root, "b", "RT \"},{\""), 1);
    json_decref(root);
    reef_trace_destroy(trace);
}

static void a_file_that_cannot_be_written_is_an_error(void **state)
{
    (void)state;
    reef_error error = {0};
    reef_trace *trace = reef_trace_create(1);
    assert_int_equal(reef_trace_write(trace, "/no/such/folder/t.json", &error), REEF_IO);
    assert_non_null(strstr(error.message, "/no/such/folder/t.json"));
    assert_int_equal(reef_trace_write(trace, "/dev/full", &error), REEF_IO);
    reef_trace_destroy(trace);
    assert_null(reef_trace_create(0));
    assert_null(reef_trace_create(SIZE_MAX));
}

/* ---- on a device ---- */

enum { ROUNDS = 20 };

static void every_request_of_a_device_is_in_its_timeline(void **state)
{
    (void)state;
    char path[64];
    reef_error error = {0};
    reef_device *device;
    reef_model *rt_model, *be_model;
    reef_session *rt, *be;
    temporary(path);
    reef_device_options options = {.units = 2, .policy = "reset"};
    assert_int_equal(reef_device_open("cpu", &options, &device, &error), REEF_OK);
    assert_int_equal(reef_model_create_synthetic(device, 2, 2, 20000, &rt_model, &error), REEF_OK);
    assert_int_equal(reef_model_create_synthetic(device, 20, 4, 200000, &be_model, &error), REEF_OK);
    assert_int_equal(reef_session_create(rt_model, &(reef_session_options){.service_class = REEF_RT}, &rt, &error),
                     REEF_OK);
    assert_int_equal(reef_session_create(be_model, NULL, &be, &error), REEF_OK);

    assert_int_equal(reef_session_run(rt, NULL, NULL, NULL), REEF_OK); /* before: not in it */
    assert_int_equal(reef_device_trace_stop(device, path, &error), REEF_INVALID_ARGUMENT);
    assert_int_equal(reef_device_trace_start(device, 10000, &error), REEF_OK);
    assert_int_equal(reef_device_trace_start(device, 10000, &error), REEF_BUSY);
    reef_device_stats before, after;
    reef_device_stats_get(device, &before);
    for (int i = 0; i < ROUNDS; i++) {
        reef_request *request;
        reef_request_info info;
        assert_int_equal(reef_session_submit(be, &(reef_submit_options){0}, &request), REEF_OK);
        for (int k = 0; k < 3 && reef_request_wait(request, 500000, NULL) == REEF_TIMEOUT; k++) {
            assert_int_equal(reef_session_run(rt, NULL, NULL, &info), REEF_OK);
            assert_true(info.submit_ns <= info.launch_ns && info.launch_ns <= info.end_ns);
        }
        assert_int_equal(reef_request_wait(request, UINT64_MAX, &info), REEF_OK);
        assert_true(info.submit_ns <= info.launch_ns && info.launch_ns <= info.end_ns);
        reef_request_release(request);
    }
    reef_device_trace_span(device, "all of it", 1, 2);
    reef_device_stats_get(device, &after);
    assert_int_equal(reef_device_trace_stop(device, path, &error), REEF_OK);
    assert_int_equal(reef_session_run(rt, NULL, NULL, NULL), REEF_OK); /* after: not in it */

    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    assert_well_formed(root);
    uint64_t rt_done = after.rt_completed - before.rt_completed;
    assert_int_equal(count(root, "b", "BE synthetic 20x4"), ROUNDS);
    assert_int_equal(count(root, "b", "RT synthetic 2x2"), rt_done);
    assert_int_equal(count(root, "b", "running"), ROUNDS + rt_done);
    assert_int_equal(count(root, "b", "queued"), ROUNDS + rt_done);
    uint64_t preemptions = after.preemptions - before.preemptions;
    size_t preempted = count(root, "X", "preempted ");
    assert_int_equal(count(root, "X", "preempt") - preempted, preemptions);
    assert_int_equal(preempted, preemptions); /* there is one best-effort queue */
    assert_int_equal(count(root, "X", "synthetic 2x2"), rt_done);
    assert_true(count(root, "X", "synthetic 20x4") >= ROUNDS);
    assert_true(count(root, "X", "real-time mode") > 0);
    assert_int_equal(count(root, "X", "all of it"), 1);
    json_decref(root);
    unlink(path);

    assert_int_equal(reef_device_trace_start(device, 0, &error), REEF_OK); /* left running: closing frees it */
    reef_session_destroy(rt);
    reef_session_destroy(be);
    reef_model_destroy(rt_model);
    reef_model_destroy(be_model);
    reef_device_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_spans_are_kept),
        cmocka_unit_test(any_name_and_any_time_make_valid_json),
        cmocka_unit_test(a_file_that_cannot_be_written_is_an_error),
        cmocka_unit_test(every_request_of_a_device_is_in_its_timeline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
