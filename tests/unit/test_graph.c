/*
 * test_graph.c - reading models that are wrong, inferring shapes, folding constants.
 *
 * Models are written by a small protobuf writer below, so that each test shows the bytes it is about and needs no file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/graph.h"
#include "model/shape.h"

/* ---------------------------------------------------------------- writer -- */

typedef struct bytes {
    uint8_t *data;
    size_t size, capacity;
} bytes;

static void put(bytes *b, const void *data, size_t size)
{
    if (b->size + size > b->capacity) {
        b->capacity = (b->size + size) * 2;
        b->data = realloc(b->data, b->capacity);
        assert_non_null(b->data);
    }
    if (size) {
        memcpy(b->data + b->size, data, size);
    }
    b->size += size;
}

static void put_varint(bytes *b, uint64_t value)
{
    do {
        uint8_t byte = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        put(b, &byte, 1);
        value >>= 7;
    } while (value);
}

static void put_int(bytes *b, unsigned field, int64_t value)
{
    put_varint(b, field << 3);
    put_varint(b, (uint64_t)value);
}

static void put_bytes(bytes *b, unsigned field, const void *data, size_t size)
{
    put_varint(b, field << 3 | 2);
    put_varint(b, size);
    put(b, data, size);
}

static void put_text(bytes *b, unsigned field, const char *text)
{
    put_bytes(b, field, text, strlen(text));
}

/* Appends message and frees it. */
static void put_message(bytes *b, unsigned field, bytes *message)
{
    put_bytes(b, field, message->data, message->size);
    free(message->data);
    *message = (bytes){0};
}

static bytes tensor(const char *name, int type, int rank, const int64_t *dims, const void *raw, size_t size)
{
    bytes t = {0};
    for (int i = 0; i < rank; i++) {
        put_int(&t, 1, dims[i]);
    }
    put_int(&t, 2, type);
    put_text(&t, 8, name);
    put_bytes(&t, 9, raw, size);
    return t;
}

/* dims: -1 is dynamic and gets the name "batch". */
static void add_input(bytes *graph, const char *name, int rank, const int64_t *dims)
{
    bytes shape = {0}, of = {0}, type = {0}, info = {0};
    for (int i = 0; i < rank; i++) {
        bytes dim = {0};
        if (dims[i] < 0) {
            put_text(&dim, 2, "batch");
        } else {
            put_int(&dim, 1, dims[i]);
        }
        put_message(&shape, 1, &dim);
    }
    put_int(&of, 1, REEF_F32);
    put_message(&of, 2, &shape);
    put_message(&type, 1, &of);
    put_text(&info, 1, name);
    put_message(&info, 2, &type);
    put_message(graph, 11, &info);
}

static void add_output(bytes *graph, const char *name)
{
    bytes info = {0};
    put_text(&info, 1, name);
    put_message(graph, 12, &info);
}

static void add_ints(bytes *graph, const char *name, int64_t count, const int64_t *values)
{
    bytes t = tensor(name, REEF_I64, 1, &count, values, (size_t)count * 8);
    put_message(graph, 5, &t);
}

static bytes node_message(const char *op, const char *in, const char *out) /* comma separated names */
{
    bytes node = {0};
    char list[256];
    for (int k = 0; k < 2; k++) {
        snprintf(list, sizeof list, "%s", k ? out : in);
        for (char *at = list, *end; *list && at; at = end) {
            end = strchr(at, ',');
            if (end) {
                *end++ = 0;
            }
            put_text(&node, k ? 2 : 1, at);
        }
    }
    put_text(&node, 4, op);
    return node;
}

static void add_node(bytes *graph, const char *op, const char *in, const char *out)
{
    bytes node = node_message(op, in, out);
    put_message(graph, 1, &node);
}

static bytes finish(bytes *graph, int opset)
{
    bytes model = {0}, import = {0};
    put_int(&model, 1, 8);
    put_message(&model, 7, graph);
    put_int(&import, 2, opset);
    put_message(&model, 8, &import);
    return model;
}

/* Parses and infers; the model is freed by the caller through `model`. */
static reef_status compile(bytes *model, bytes *graph, int opset, reef_graph **out, reef_error *error)
{
    *model = finish(graph, opset);
    *out = NULL;
    memset(error, 0, sizeof *error);
    reef_status status = reef_graph_parse(model->data, model->size, out, error);
    if (status == REEF_OK) {
        status = reef_graph_infer(*out, error);
    }
    return status;
}

static void expect_failure(bytes *graph, reef_status expected, const char *part)
{
    bytes model;
    reef_graph *made;
    reef_error error;
    reef_status status = compile(&model, graph, 17, &made, &error);
    if (status != expected || !strstr(error.message, part)) {
        fail_msg("%s '%s', expected %s with '%s'", reef_status_name(status), error.message, reef_status_name(expected),
                 part);
    }
    reef_graph_destroy(made);
    free(model.data);
}

static void expect_output(bytes *graph, int opset, int rank, const int64_t *dims, const int64_t *contents)
{
    bytes model;
    reef_graph *made;
    reef_error error;
    if (compile(&model, graph, opset, &made, &error) != REEF_OK) {
        fail_msg("%s", error.message);
    }
    const reef_value *value = made->outputs[0];
    assert_int_equal(value->rank, rank);
    for (int i = 0; i < rank; i++) {
        assert_int_equal(value->dims[i], dims[i]);
    }
    assert_int_equal(value->data != NULL, contents != NULL);
    for (int64_t i = 0; contents && i < reef_value_elems(value); i++) {
        assert_int_equal(reef_value_integer(value, i), contents[i]);
    }
    reef_graph_destroy(made);
    free(model.data);
}

#define DIMS(...) ((int64_t[]){__VA_ARGS__})

/* ---------------------------------------------------------------- reading -- */

static void nothing_and_garbage_are_refused(void **state)
{
    (void)state;
    reef_graph *graph = NULL;
    reef_error error;
    assert_int_equal(reef_graph_parse("", 0, &graph, &error), REEF_FORMAT);
    assert_int_equal(reef_graph_parse("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11, &graph, &error), REEF_FORMAT);
    assert_non_null(strstr(error.message, "byte 0"));
    assert_int_equal(reef_graph_parse("version https://git-lfs.github.com/spec/v1", 42, &graph, &error), REEF_FORMAT);
    assert_non_null(strstr(error.message, "git lfs pull"));
    assert_int_equal(reef_graph_load("/nonexistent/model.onnx", &graph, &error), REEF_NOT_FOUND);
    assert_int_equal(reef_graph_load("/tmp", &graph, &error), REEF_IO);
    assert_int_equal(reef_graph_load("/dev/zero", &graph, &error), REEF_IO);
    assert_null(graph);
}

static void every_truncation_and_bit_flip_gives_a_status(void **state)
{
    (void)state;
    bytes graph = {0};
    add_input(&graph, "x", 2, DIMS(-1, 6));
    add_ints(&graph, "shape", 2, DIMS(-1, 3));
    add_node(&graph, "Reshape", "x,shape", "r");
    add_node(&graph, "Shape", "r", "s");
    add_node(&graph, "Relu", "r", "y");
    add_output(&graph, "y");
    add_output(&graph, "s");
    bytes model = finish(&graph, 17);
    for (size_t cut = 0; cut < model.size + model.size * 8; cut++) {
        uint8_t *copy = malloc(model.size); /* exact size: a read past the end is caught by AddressSanitizer */
        assert_non_null(copy);
        memcpy(copy, model.data, model.size);
        size_t size = cut < model.size ? cut : model.size;
        if (cut >= model.size) {
            copy[(cut - model.size) / 8] ^= (uint8_t)(1 << (cut - model.size) % 8);
        }
        reef_graph *made = NULL;
        reef_error error = {.message = ""};
        reef_status status = reef_graph_parse(copy, size, &made, &error);
        if (status == REEF_OK) {
            made->fold_limit_bytes = 1 << 20;
            status = reef_graph_infer(made, &error);
        }
        assert_true(status == REEF_OK || (error.message[0] && error.status == status));
        assert_int_not_equal(status, REEF_INTERNAL);
        reef_graph_destroy(made);
        free(copy);
    }
    free(model.data);
}

static void a_cycle_is_named(void **state)
{
    (void)state;
    bytes graph = {0};
    add_node(&graph, "Relu", "b", "a");
    add_node(&graph, "Relu", "a", "b");
    add_output(&graph, "b");
    expect_failure(&graph, REEF_FORMAT, "cycle");
}

static void a_value_from_nowhere_is_named(void **state)
{
    (void)state;
    bytes graph = {0};
    add_node(&graph, "Relu", "ghost", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_FORMAT, "'ghost'");
}

static void two_producers_of_one_value_are_refused(void **state)
{
    (void)state;
    bytes graph = {0};
    add_input(&graph, "x", 1, DIMS(4));
    add_node(&graph, "Relu", "x", "y");
    add_node(&graph, "Neg", "x", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_FORMAT, "made by another node");
}

static void data_must_match_dims_exactly(void **state)
{
    (void)state;
    bytes graph = {0}, t = tensor("w", REEF_F32, 2, DIMS(2, 3), "12345678901234567890123", 23);
    put_message(&graph, 5, &t);
    expect_failure(&graph, REEF_FORMAT, "23 bytes of data, but its dimensions need 24");
    t = tensor("w", REEF_F32, 3, DIMS((int64_t)1 << 31, (int64_t)1 << 31, 4), "", 0);
    put_message(&graph, 5, &t);
    expect_failure(&graph, REEF_FORMAT, "2^40");
    t = tensor("w", REEF_F32, 1, DIMS(-5), "", 0);
    put_message(&graph, 5, &t);
    expect_failure(&graph, REEF_FORMAT, "negative dimension");
    t = tensor("w", REEF_F32, 9, DIMS(1, 1, 1, 1, 1, 1, 1, 1, 1), "1234", 4);
    put_message(&graph, 5, &t);
    expect_failure(&graph, REEF_UNSUPPORTED, "more than 8 dimensions");
    t = tensor("w", 8, 1, DIMS(1), "1234", 4);
    put_message(&graph, 5, &t);
    expect_failure(&graph, REEF_UNSUPPORTED, "string");
}

static void subgraphs_are_refused_by_name(void **state)
{
    (void)state;
    bytes graph = {0}, node = node_message("If", "", "y"), attr = {0}, body = {0};
    put_text(&attr, 1, "then_branch");
    put_message(&attr, 6, &body);
    put_int(&attr, 20, 5);
    put_message(&node, 5, &attr);
    put_message(&graph, 1, &node);
    add_output(&graph, "y");
    expect_failure(&graph, REEF_UNSUPPORTED, "then_branch");
}

static void control_bytes_in_names_stay_out_of_messages(void **state)
{
    (void)state;
    bytes graph = {0};
    add_node(&graph, "Relu", "gh\nost\x1b[31m", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_FORMAT, "gh?ost?[31m");
}

static void nodes_out_of_order_are_sorted(void **state)
{
    (void)state;
    bytes graph = {0};
    add_node(&graph, "Neg", "c", "y");
    add_node(&graph, "Exp", "b", "c");
    add_node(&graph, "Relu", "x", "b");
    add_input(&graph, "x", 2, DIMS(2, 5));
    add_output(&graph, "y");
    expect_output(&graph, 17, 2, DIMS(2, 5), NULL);
}

static void a_long_chain_written_backwards_is_read_in_linear_time(void **state)
{
    (void)state;
    enum { LENGTH = 200000 };
    bytes graph = {0};
    char in[32], out[32];
    for (int i = LENGTH; i-- > 0;) {
        snprintf(in, sizeof in, "v%d", i);
        snprintf(out, sizeof out, "v%d", i + 1);
        add_node(&graph, i % 2 ? "Relu" : "Identity", in, out);
    }
    add_input(&graph, "v0", 1, DIMS(3));
    snprintf(out, sizeof out, "v%d", LENGTH);
    add_output(&graph, out);
    clock_t start = clock();
    expect_output(&graph, 17, 1, DIMS(3), NULL);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 20); /* quadratic would be minutes, sanitizers or not */
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    fclose(file);
}

static reef_status load_external(const char *folder, const char *location, const char *offset, reef_error *error)
{
    bytes graph = {0}, t = {0};
    const char *entries[][2] = {{"location", location}, {"offset", offset}, {"length", "8"}};
    put_int(&t, 1, 2);
    put_int(&t, 2, REEF_I32);
    put_text(&t, 8, "w");
    for (int i = 0; i < 3; i++) {
        bytes entry = {0};
        put_text(&entry, 1, entries[i][0]);
        put_text(&entry, 2, entries[i][1]);
        put_message(&t, 13, &entry);
    }
    put_int(&t, 14, 1);
    put_message(&graph, 5, &t);
    add_output(&graph, "w");
    bytes model = finish(&graph, 17);
    char path[256];
    snprintf(path, sizeof path, "%s/in/model.onnx", folder);
    write_file(path, model.data, model.size);
    free(model.data);
    reef_graph *made = NULL;
    reef_status status = reef_graph_load(path, &made, error);
    if (status == REEF_OK) {
        assert_int_equal(reef_value_integer(made->outputs[0], 0), 0x64636261);
        reef_graph_destroy(made);
    }
    return status;
}

static void external_data_stays_in_the_models_folder(void **state)
{
    (void)state;
    char folder[] = "/tmp/reef_test_graph_XXXXXX", path[256], outside[256];
    reef_error error;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "mkdir %s/in", folder);
    assert_int_equal(system(path), 0);
    snprintf(outside, sizeof outside, "%s/secret", folder);
    write_file(outside, "abcdefgh", 8);
    snprintf(path, sizeof path, "%s/in/data", folder);
    write_file(path, "zzzzabcdefgh", 12);
    snprintf(path, sizeof path, "%s/in/link", folder);
    assert_int_equal(symlink("../secret", path), 0);
    assert_int_equal(load_external(folder, "data", "4", &error), REEF_OK);
    assert_int_equal(load_external(folder, "data", "5", &error), REEF_FORMAT); /* one byte past the end */
    assert_int_equal(load_external(folder, "data", "18446744073709551615", &error), REEF_FORMAT);
    assert_int_equal(load_external(folder, "data", "-4", &error), REEF_FORMAT);
    assert_int_equal(load_external(folder, "../secret", "0", &error), REEF_FORMAT);
    assert_int_equal(load_external(folder, outside, "0", &error), REEF_FORMAT);
    assert_int_equal(load_external(folder, "link", "0", &error), REEF_FORMAT);
    assert_non_null(strstr(error.message, "leaves"));
    assert_int_equal(load_external(folder, "absent", "0", &error), REEF_NOT_FOUND);
    static const char *const made[] = {"in/model.onnx", "in/data", "in/link", "secret"};
    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, made[i]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/in", folder);
    rmdir(path);
    rmdir(folder);
}

/* -------------------------------------------------------------- inference -- */

static void a_dynamic_input_names_the_flag_to_give(void **state)
{
    (void)state;
    bytes graph = {0};
    add_input(&graph, "x", 4, DIMS(-1, 3, 224, 224));
    add_node(&graph, "Relu", "x", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_SHAPE, "dynamic dimension 0 ('batch'): give --shape x=1x3x224x224");
}

static void a_given_shape_must_fit_and_settles_equal_names(void **state)
{
    (void)state;
    bytes graph = {0};
    add_input(&graph, "x", 2, DIMS(-1, 3));
    add_input(&graph, "z", 2, DIMS(-1, 3));
    add_node(&graph, "Add", "x,z", "y");
    add_output(&graph, "y");
    bytes model = finish(&graph, 17);
    reef_graph *made;
    reef_error error;
    assert_int_equal(reef_graph_parse(model.data, model.size, &made, &error), REEF_OK);
    assert_int_equal(reef_graph_set_shape(made, "w", DIMS(1, 3), 2, &error), REEF_NOT_FOUND);
    assert_int_equal(reef_graph_set_shape(made, "x", DIMS(1, 4), 2, &error), REEF_SHAPE);
    assert_int_equal(reef_graph_set_shape(made, "x", DIMS(1, 3, 1), 3, &error), REEF_SHAPE);
    assert_int_equal(reef_graph_set_shape(made, "x", DIMS(0, 3), 2, &error), REEF_SHAPE);
    assert_int_equal(reef_graph_set_shape(made, "x", DIMS(7, 3), 2, &error), REEF_OK);
    assert_int_equal(reef_graph_infer(made, &error), REEF_OK);
    assert_int_equal(made->inputs[1]->dims[0], 7);
    reef_graph_destroy(made);
    free(model.data);
}

static void unknown_operators_are_all_named(void **state)
{
    (void)state;
    bytes graph = {0};
    add_input(&graph, "x", 1, DIMS(4));
    add_node(&graph, "Frobnicate", "x", "a");
    add_node(&graph, "Defenestrate", "a", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_UNSUPPORTED,
                   "2 nodes with an unsupported operator: Frobnicate (node 'a'), Defenestrate");
}

static void an_unneeded_unknown_operator_does_no_harm(void **state)
{
    (void)state;
    bytes graph = {0};
    add_input(&graph, "x", 1, DIMS(4));
    add_node(&graph, "Frobnicate", "x", "unused");
    add_node(&graph, "Relu", "x", "y");
    add_output(&graph, "y");
    expect_output(&graph, 17, 1, DIMS(4), NULL);
}

static void shapes_from_run_time_data_are_unsupported(void **state)
{
    (void)state;
    bytes graph = {0};
    add_input(&graph, "x", 1, DIMS(4));
    add_node(&graph, "NonZero", "x", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_UNSUPPORTED, "node 'y' (NonZero)");
    add_input(&graph, "x", 1, DIMS(4));
    add_node(&graph, "Cast", "x", "i");
    add_node(&graph, "Reshape", "x,x", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_UNSUPPORTED, "run-time data");
}

static void contradicting_shapes_name_the_node(void **state)
{
    (void)state;
    bytes graph = {0};
    add_input(&graph, "a", 2, DIMS(2, 3));
    add_input(&graph, "b", 2, DIMS(4, 5));
    add_node(&graph, "MatMul", "a,b", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_SHAPE, "node 'y' (MatMul): inner dimensions 3 ('a') and 4 ('b') differ");
}

static void a_pool_window_larger_than_its_input_is_refused(void **state)
{
    (void)state;
    bytes graph = {0}, node = node_message("MaxPool", "x", "y"), attr = {0};
    add_input(&graph, "x", 4, DIMS(1, 1, 4, 4));
    put_text(&attr, 1, "kernel_shape");
    put_int(&attr, 8, 5);
    put_int(&attr, 8, 5);
    put_int(&attr, 20, 7);
    put_message(&node, 5, &attr);
    put_message(&graph, 1, &node);
    add_output(&graph, "y");
    expect_failure(&graph, REEF_SHAPE, "does not fit into 4");
}

/* ---------------------------------------------------------------- folding -- */

static void shape_arithmetic_folds(void **state)
{
    (void)state;
    bytes graph = {0}; /* x.reshape(x.shape[0] * x.shape[1], -1), as exporters spell it */
    add_input(&graph, "x", 3, DIMS(2, 3, 8));
    add_ints(&graph, "zero", 1, DIMS(0));
    add_ints(&graph, "one", 1, DIMS(1));
    add_ints(&graph, "rest", 1, DIMS(-1));
    add_node(&graph, "Shape", "x", "s");
    add_node(&graph, "Gather", "s,zero", "a");
    add_node(&graph, "Gather", "s,one", "b");
    add_node(&graph, "Mul", "a,b", "ab");
    bytes node = node_message("Concat", "ab,rest", "target"), attr = {0};
    put_text(&attr, 1, "axis");
    put_int(&attr, 3, 0);
    put_int(&attr, 20, 2);
    put_message(&node, 5, &attr);
    put_message(&graph, 1, &node);
    add_node(&graph, "Reshape", "x,target", "y");
    add_output(&graph, "y");
    bytes model;
    reef_graph *made;
    reef_error error;
    assert_int_equal(compile(&model, &graph, 17, &made, &error), REEF_OK);
    assert_int_equal(made->n_nodes, 1);
    assert_string_equal(made->nodes[0]->op, "Reshape");
    assert_int_equal(made->outputs[0]->dims[0], 6);
    assert_int_equal(made->outputs[0]->dims[1], 8);
    reef_graph_destroy(made);
    free(model.data);
}

static void ranges_slices_and_comparisons_fold_to_their_values(void **state)
{
    (void)state;
    bytes graph = {0};
    add_ints(&graph, "v", 6, DIMS(5, 4, 3, 2, 1, 0));
    add_ints(&graph, "start", 1, DIMS(-2));
    add_ints(&graph, "end", 1, DIMS(INT64_MIN));
    add_ints(&graph, "axis", 1, DIMS(0));
    add_ints(&graph, "step", 1, DIMS(-2));
    add_node(&graph, "Slice", "v,start,end,axis,step", "y");
    add_output(&graph, "y");
    expect_output(&graph, 17, 1, DIMS(3), DIMS(1, 3, 5));
    add_ints(&graph, "a", 3, DIMS(1, 2, 3));
    add_ints(&graph, "b", 3, DIMS(3, 2, 1));
    add_node(&graph, "Less", "a,b", "c");
    add_node(&graph, "Where", "c,a,b", "y");
    add_output(&graph, "y");
    expect_output(&graph, 17, 1, DIMS(3), DIMS(1, 2, 1));
}

static void integer_edge_cases_fold_without_surprises(void **state)
{
    (void)state;
    bytes graph = {0};
    add_ints(&graph, "a", 2, DIMS(INT64_MIN, 7));
    add_ints(&graph, "b", 2, DIMS(-1, -2));
    add_node(&graph, "Div", "a,b", "y");
    add_output(&graph, "y");
    expect_output(&graph, 17, 1, DIMS(2), DIMS(INT64_MIN, -3));
    add_ints(&graph, "a", 1, DIMS(1));
    add_ints(&graph, "b", 1, DIMS(0));
    add_node(&graph, "Div", "a,b", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_FORMAT, "division by zero");
}

static void a_small_file_cannot_ask_for_unbounded_constants(void **state)
{
    (void)state;
    bytes graph = {0};
    add_ints(&graph, "s", 2, DIMS(1 << 20, 1 << 19));
    add_node(&graph, "ConstantOfShape", "s", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_UNSUPPORTED, "constants that this model computes need more than");
    add_ints(&graph, "s", 2, DIMS((int64_t)1 << 40, (int64_t)1 << 40));
    add_node(&graph, "ConstantOfShape", "s", "y");
    add_output(&graph, "y");
    expect_failure(&graph, REEF_SHAPE, "too large");
}

static void identity_and_dropout_vanish(void **state)
{
    (void)state;
    bytes graph = {0}, model;
    add_input(&graph, "x", 1, DIMS(4));
    add_node(&graph, "Identity", "x", "a");
    add_node(&graph, "Relu", "a", "b");
    add_node(&graph, "Dropout", "b", "c,mask");
    add_node(&graph, "Neg", "b", "z");
    add_node(&graph, "Identity", "c", "y");
    add_output(&graph, "y");
    add_output(&graph, "z");
    reef_graph *made;
    reef_error error;
    assert_int_equal(compile(&model, &graph, 17, &made, &error), REEF_OK);
    assert_int_equal(made->n_nodes, 2);
    assert_ptr_equal(made->nodes[0]->out[0], made->outputs[0]); /* Relu writes y itself */
    assert_ptr_equal(made->nodes[1]->in[0], made->outputs[0]);
    assert_ptr_equal(made->nodes[0]->in[0], made->inputs[0]);
    reef_graph_destroy(made);
    free(model.data);
}

static void halves_survive_a_round_trip(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x10000; half++) {
        bool nan = (half & 0x7c00) == 0x7c00 && (half & 0x3ff);
        uint16_t back = reef_half_from_float(reef_half_to_float((uint16_t)half));
        assert_true(nan ? (back & 0x7e00) == 0x7e00 : back == half);
    }
    assert_int_equal(reef_half_from_float(65519.0f), 0x7bff);
    assert_int_equal(reef_half_from_float(65520.0f), 0x7c00);
    assert_int_equal(reef_half_from_float(0x1p-25f), 0); /* a tie goes to even */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_and_garbage_are_refused),
        cmocka_unit_test(every_truncation_and_bit_flip_gives_a_status),
        cmocka_unit_test(a_cycle_is_named),
        cmocka_unit_test(a_value_from_nowhere_is_named),
        cmocka_unit_test(two_producers_of_one_value_are_refused),
        cmocka_unit_test(data_must_match_dims_exactly),
        cmocka_unit_test(subgraphs_are_refused_by_name),
        cmocka_unit_test(control_bytes_in_names_stay_out_of_messages),
        cmocka_unit_test(nodes_out_of_order_are_sorted),
        cmocka_unit_test(a_long_chain_written_backwards_is_read_in_linear_time),
        cmocka_unit_test(external_data_stays_in_the_models_folder),
        cmocka_unit_test(a_dynamic_input_names_the_flag_to_give),
        cmocka_unit_test(a_given_shape_must_fit_and_settles_equal_names),
        cmocka_unit_test(unknown_operators_are_all_named),
        cmocka_unit_test(an_unneeded_unknown_operator_does_no_harm),
        cmocka_unit_test(shapes_from_run_time_data_are_unsupported),
        cmocka_unit_test(contradicting_shapes_name_the_node),
        cmocka_unit_test(a_pool_window_larger_than_its_input_is_refused),
        cmocka_unit_test(shape_arithmetic_folds),
        cmocka_unit_test(ranges_slices_and_comparisons_fold_to_their_values),
        cmocka_unit_test(integer_edge_cases_fold_without_surprises),
        cmocka_unit_test(a_small_file_cannot_ask_for_unbounded_constants),
        cmocka_unit_test(identity_and_dropout_vanish),
        cmocka_unit_test(halves_survive_a_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
