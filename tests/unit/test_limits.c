/*
 * test_limits.c - tensors without elements, and tensors with more than there is room for.
 *
 * Both are valid ONNX. What is empty works, or is refused with the name of what is empty; what is too large is refused
 * with a status and a reason, by the stage that finds out, and nothing is allocated on the way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/plan.h"
#include "reef/reef.h"
#include "support/onnx_writer.h"

#define DIMS(...) ((int64_t[]){__VA_ARGS__})

static reef_device *device;

static int set_up(void **state)
{
    (void)state;
    return reef_device_open("cpu", &(reef_device_options){.units = 2}, &device, NULL) != REEF_OK;
}

static int tear_down(void **state)
{
    (void)state;
    reef_device_close(device);
    return 0;
}

/* Writes the model to a file and loads it. */
static reef_status load(onnx_bytes *graph, reef_model **out, reef_error *error)
{
    char path[] = "/tmp/reef-limits-XXXXXX";
    onnx_bytes model = onnx_model(graph, 17);
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, model.data, model.size), model.size);
    close(fd);
    free(model.data);
    *error = (reef_error){.status = REEF_OK};
    *out = NULL;
    const reef_status status = reef_model_load(device, path, NULL, out, error);
    unlink(path);
    return status;
}

static void expect_refusal(onnx_bytes *graph, reef_status expected, const char *words)
{
    reef_model *model;
    reef_error error;
    const reef_status status = load(graph, &model, &error);
    if (status != expected || !strstr(error.message, words)) {
        fail_msg("%s '%s', expected %s with '%s'", reef_status_name(status), error.message, reef_status_name(expected),
                 words);
    }
}

/* ------------------------------------------------------------------ empty -- */

/* x (rows, columns, 4, 4) and "cut", the same without anything on one axis. */
static onnx_bytes with_cut(int rank, const int64_t *dims, int64_t axis)
{
    onnx_bytes g = {0};
    onnx_input(&g, "x", rank, dims);
    onnx_ints(&g, "zero", 1, DIMS(0));
    onnx_ints(&g, "axis", 1, &axis);
    onnx_node(&g, "Slice", "x,zero,zero,axis", "cut", "");
    return g;
}

static void operators_on_empty_values_work_or_name_them(void **state)
{
    (void)state;
    static const struct {
        int rank, axis;
        const char *op, *in, *attributes;
        const char *refused; /* NULL: it works */
    } cases[] = {
        {2, 0, "Relu", "cut", "", NULL},
        {2, 0, "Add", "cut,cut", "", NULL},
        {2, 1, "Softmax", "cut", "", NULL},
        {2, 0, "Softmax", "cut", "", NULL},
        {2, 0, "Concat", "cut,x", "axis:i=0", NULL},
        {2, 0, "MatMul", "cut,square", "", NULL},
        {2, 1, "MatMul", "cut,flat", "", "'cut' has no elements"},
        {2, 1, "Gemm", "cut,cut", "transB:i=1", "'cut' has no elements"},
        {2, 0, "Gemm", "cut,square", "", NULL},
        {2, 0, "ReduceSum", "cut", "", "'cut' has no elements"},
        {2, 0, "ReduceMax", "cut", "", "'cut' has no elements"},
        {2, 0, "ArgMax", "cut", "", "(ArgMax): its input is empty on axis 0"},
        {2, 0, "LayerNormalization", "cut,four", "", NULL},
        {2, 0, "Gather", "cut,zero", "", "(Gather): nothing can be taken from an empty axis"},
        {2, 0, "Tile", "cut,twice", "", NULL},
        {2, 0, "Pad", "cut,around", "", NULL},
        {4, 0, "Conv", "cut,kernel", "", NULL},
        {4, 2, "Conv", "cut,kernel", "pads:is=1 1 1 1", "(Conv): its input is empty on axis 2"},
        {4, 2, "ConvTranspose", "cut,kernel", "", "(ConvTranspose): its input is empty on axis 2"},
        {4, 0, "MaxPool", "cut", "kernel_shape:is=2 2", NULL},
        {4, 3, "MaxPool", "cut", "kernel_shape:is=2 2;pads:is=1 1 1 1", "(MaxPool): its input is empty on axis 3"},
        {4, 2, "GlobalAveragePool", "cut", "", "(GlobalAveragePool): its input is empty"},
        {4, 2, "InstanceNormalization", "cut,four,four", "", NULL},
        {4, 0, "BatchNormalization", "cut,four,four,four,four", "", NULL},
        {4, 0, "LRN", "cut", "size:i=3", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        onnx_bytes g = with_cut(cases[i].rank, DIMS(4, 4, 4, 4), cases[i].axis);
        reef_model *model;
        reef_error error;
        onnx_weights(&g, "square", 2, DIMS(4, 4));
        onnx_weights(&g, "flat", 2, DIMS(0, 4));
        onnx_weights(&g, "four", 1, DIMS(4));
        onnx_weights(&g, "kernel", 4, DIMS(4, 4, 2, 2));
        onnx_ints(&g, "twice", 2, DIMS(2, 2));
        onnx_ints(&g, "around", 4, DIMS(1, 0, 1, 0));
        onnx_node(&g, cases[i].op, cases[i].in, "y", cases[i].attributes);
        onnx_output(&g, "y");
        const reef_status status = load(&g, &model, &error);
        if (cases[i].refused ? !status || !strstr(error.message, cases[i].refused) : status != REEF_OK) {
            fail_msg("%zu: %s: %s '%s'", i, cases[i].op, reef_status_name(status), error.message);
        }
        if (!status) {
            float x[256] = {0}, y[512];
            reef_session *session = NULL;
            assert_int_equal(reef_session_create(model, NULL, &session, &error), REEF_OK);
            assert_int_equal(reef_session_run(session, (const void *[]){x}, (void *[]){y}, NULL), REEF_OK);
            reef_session_destroy(session);
            reef_model_destroy(model);
        }
    }
}

static void an_input_dimension_of_zero_asks_for_a_shape(void **state)
{
    (void)state;
    onnx_bytes g = {0};
    reef_model *model;
    reef_error error;
    onnx_input(&g, "x", 2, DIMS(0, 4)); /* exporters write 0 where they mean "any" */
    onnx_node(&g, "Relu", "x", "y", "");
    onnx_output(&g, "y");
    assert_int_equal(load(&g, &model, &error), REEF_SHAPE);
    assert_non_null(strstr(error.message, "'x'"));
    assert_non_null(strstr(error.message, "--shape"));
}

/* ------------------------------------------------------------------- huge -- */

static void more_elements_than_tiles_can_be_counted_for_are_refused(void **state)
{
    (void)state;
    const int64_t sizes[][2] = {{4, INT64_C(1) << 31}, {1 << 16, 1 << 16}, {1 << 20, 1 << 20}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        onnx_bytes g = {0};
        onnx_input(&g, "x", 2, sizes[i]);
        onnx_node(&g, "Relu", "x", "y", "");
        onnx_output(&g, "y");
        expect_refusal(&g, REEF_UNSUPPORTED, "elements; a tensor may have 4294967295");
    }
    onnx_bytes g = {0};
    onnx_input(&g, "x", 2, DIMS(1 << 20, 1 << 21));
    onnx_node(&g, "Relu", "x", "y", "");
    onnx_output(&g, "y");
    expect_refusal(&g, REEF_SHAPE, "'x' has more than 2^40 elements");
}

/* n softmaxes of x expanded to rows x columns, all live until they are added up. */
static onnx_bytes wide(int n, int64_t rows, int64_t columns)
{
    onnx_bytes g = {0};
    char name[16], sum[16], in[40];
    onnx_input(&g, "x", 2, DIMS(1, 1));
    onnx_ints(&g, "shape", 2, DIMS(rows, columns));
    onnx_node(&g, "Expand", "x,shape", "e", "");
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "s%d", i);
        onnx_node(&g, "Softmax", i ? in : "e", name, i % 2 ? "axis:i=0" : "axis:i=1");
        snprintf(in, sizeof in, "%s", name);
    }
    for (int i = n - 1; i > 0; i--) {
        snprintf(sum, sizeof sum, "a%d", i);
        snprintf(in, sizeof in, i == n - 1 ? "s%d,s%d" : "s%d,a%d", i - 1, i == n - 1 ? i : i + 1);
        onnx_node(&g, "Add", in, sum, "");
        snprintf(in, sizeof in, "%s", sum);
    }
    onnx_node(&g, "ReduceMax", "a1", "y", "");
    onnx_output(&g, "y");
    return g;
}

static void more_memory_than_any_machine_has_is_no_memory(void **state)
{
    (void)state;
    onnx_bytes g = wide(500, 1 << 16, 1 << 15); /* 8 GiB each */
    reef_model *model;
    reef_session *session = NULL;
    reef_error error;
    if (load(&g, &model, &error)) {
        fail_msg("%s", error.message);
    }
    reef_model_info info;
    reef_model_info_get(model, &info);
    assert_true(info.activation_bytes > (size_t)1 << 40);
    assert_int_equal(reef_session_create(model, NULL, &session, &error), REEF_NO_MEMORY);
    assert_null(session);
    assert_non_null(strstr(error.message, "out of memory"));
    assert_non_null(strstr(error.message, "bytes"));
    reef_model_destroy(model);
}

static void sizes_that_add_up_to_nonsense_are_no_memory(void **state)
{
    (void)state;
    onnx_bytes g = wide(20, 1 << 20, 1 << 20); /* 4 TiB each */
    expect_refusal(&g, REEF_NO_MEMORY, "TiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operators_on_empty_values_work_or_name_them),
        cmocka_unit_test(an_input_dimension_of_zero_asks_for_a_shape),
        cmocka_unit_test(more_elements_than_tiles_can_be_counted_for_are_refused),
        cmocka_unit_test(more_memory_than_any_machine_has_is_no_memory),
        cmocka_unit_test(sizes_that_add_up_to_nonsense_are_no_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
