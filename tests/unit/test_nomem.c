/*
 * test_nomem.c - memory runs out at every place where it is asked for, one place after another.
 *
 * The program is linked with --wrap (see Makefile), so the allocations of library, test and jansson come through here.
 * A scenario runs again and again; the n-th allocation of the n-th run fails, until a run needs fewer than n. Each
 * failed run must say NO_MEMORY, leave nothing behind (the AddressSanitizer build looks for leaks), and leave the
 * device and another model on it as they were.
 *
 * Arenas hand out memory from large blocks except under AddressSanitizer, where the failures are therefore as fine as
 * the allocations.
 */
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/api.h"
#include "support/onnx_writer.h"

#define DIMS(...) ((int64_t[]){__VA_ARGS__})

/* ---------------------------------------------------------- taking memory -- */

static _Atomic long countdown; /* the allocation that brings it to 0 fails; negative: none does */
static _Atomic bool failed;

static bool denied(void)
{
    if (atomic_load(&countdown) < 0 || atomic_fetch_sub(&countdown, 1) != 0) {
        return false;
    }
    atomic_store(&failed, true);
    errno = ENOMEM;
    return true;
}

/* --wrap gives these names; the double underscores are the linker's. NOLINTBEGIN(bugprone-reserved-identifier) */
#define WRAPPED(type, name, parameters, arguments, failure)                                                            \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        return denied() ? (failure) : __real_##name arguments;                                                         \
    }

WRAPPED(void *, malloc, (size_t bytes), (bytes), NULL)
WRAPPED(void *, calloc, (size_t n, size_t bytes), (n, bytes), NULL)
WRAPPED(void *, realloc, (void *old, size_t bytes), (old, bytes), NULL)
WRAPPED(void *, aligned_alloc, (size_t align, size_t bytes), (align, bytes), NULL)
WRAPPED(char *, strdup, (const char *text), (text), NULL)
WRAPPED(char *, strndup, (const char *text, size_t length), (text, length), NULL)
WRAPPED(char *, realpath, (const char *path, char *resolved), (path, resolved), NULL)
WRAPPED(void *, mmap, (void *at, size_t bytes, int prot, int flags, int fd, off_t offset),
        (at, bytes, prot, flags, fd, offset), MAP_FAILED)
WRAPPED(int, pthread_create,
        (pthread_t * thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument),
        (thread, attributes, run, argument), EAGAIN)

int __wrap_asprintf(char **out, const char *format, ...);
int __wrap_asprintf(char **out, const char *format, ...)
{
    if (denied()) {
        *out = NULL;
        return -1;
    }
    va_list arguments;
    va_start(arguments, format);
    const int length = vasprintf(out, format, arguments);
    va_end(arguments);
    return length;
}
/* NOLINTEND(bugprone-reserved-identifier) */

/* Runs scenario(context) with the 1st, 2nd, ... allocation failing until it needs no more. Each run must give OK or
 * NO_MEMORY; `survives` looks at the world after each. Returns the number of runs. */
typedef reef_status (*scenario)(void *context, reef_error *error);
static long deny_each(scenario run, void *context, void (*survives)(void))
{
    for (long n = 0;; n++) {
        reef_error error = {.status = REEF_OK, .message = ""};
        atomic_store(&failed, false);
        atomic_store(&countdown, n);
        const reef_status status = run(context, &error);
        atomic_store(&countdown, -1);
        if (survives) {
            survives();
        }
        if (!atomic_load(&failed)) {
            if (status) {
                fail_msg("%s '%s' without a failed allocation", reef_status_name(status), error.message);
            }
            print_message("%ld allocations\n", n);
            return n;
        }
        if (status && (status != REEF_NO_MEMORY || (error.status && error.status != status))) {
            fail_msg("allocation %ld failed: %s, error %s '%s'", n, reef_status_name(status),
                     reef_status_name(error.status), error.message);
        }
        if (status && error.status && !error.message[0]) {
            fail_msg("allocation %ld failed: no message", n);
        }
    }
}

/* ----------------------------------------------------------------- models -- */

/* conv + batch norm + relu, conv + residual + relu, global pool, flatten, gemm, softmax */
static onnx_bytes residual_model(void)
{
    onnx_bytes g = {0};
    onnx_input(&g, "x", 4, DIMS(-1, 3, 8, 8));
    onnx_weights(&g, "w1", 4, DIMS(6, 3, 3, 3));
    onnx_weights(&g, "w2", 4, DIMS(6, 6, 3, 3));
    onnx_weights(&g, "scale", 1, DIMS(6));
    onnx_weights(&g, "bias", 1, DIMS(6));
    onnx_weights(&g, "mean", 1, DIMS(6));
    onnx_weights(&g, "var", 1, DIMS(6));
    onnx_weights(&g, "w3", 2, DIMS(6, 5));
    onnx_weights(&g, "b3", 1, DIMS(5));
    onnx_node(&g, "Conv", "x,w1", "c1", "pads:is=1 1 1 1;kernel_shape:is=3 3");
    onnx_node(&g, "BatchNormalization", "c1,scale,bias,mean,var", "n1", "epsilon:f=0.001");
    onnx_node(&g, "Relu", "n1", "r1", "");
    onnx_node(&g, "Conv", "r1,w2", "c2", "pads:is=1 1 1 1");
    onnx_node(&g, "Add", "c2,r1", "a2", "");
    onnx_node(&g, "Relu", "a2", "r2", "");
    onnx_node(&g, "MaxPool", "r2", "p2", "kernel_shape:is=2 2;strides:is=2 2");
    onnx_node(&g, "Concat", "p2,p2", "cc", "axis:i=1");
    onnx_node(&g, "Split", "cc", "s1,s2", "axis:i=1");
    onnx_node(&g, "Add", "s1,s2", "s", "");
    onnx_node(&g, "GlobalAveragePool", "s", "g1", "");
    onnx_node(&g, "Flatten", "g1", "f1", "");
    onnx_node(&g, "Gemm", "f1,w3,b3", "m", "");
    onnx_node(&g, "Softmax", "m", "y", "axis:i=-1");
    onnx_output(&g, "y");
    return onnx_model(&g, 17);
}

/* one attention head pair with its layer norm, as exporters spell it */
static onnx_bytes attention_model(void)
{
    onnx_bytes g = {0};
    onnx_input(&g, "x", 3, DIMS(1, 6, 8));
    onnx_weights(&g, "wq", 2, DIMS(8, 8));
    onnx_weights(&g, "wk", 2, DIMS(8, 8));
    onnx_weights(&g, "wv", 2, DIMS(8, 8));
    onnx_weights(&g, "bq", 1, DIMS(8));
    onnx_weights(&g, "root", 1, DIMS(1));
    onnx_weights(&g, "gamma", 1, DIMS(8));
    onnx_weights(&g, "beta", 1, DIMS(8));
    onnx_ints(&g, "heads", 4, DIMS(1, 6, 2, 4));
    onnx_ints(&g, "joined", 3, DIMS(1, 6, 8));
    onnx_node(&g, "MatMul", "x,wq", "q0", "");
    onnx_node(&g, "Add", "q0,bq", "q1", "");
    onnx_node(&g, "Reshape", "q1,heads", "q2", "");
    onnx_node(&g, "Transpose", "q2", "q", "perm:is=0 2 1 3");
    onnx_node(&g, "MatMul", "x,wk", "k1", "");
    onnx_node(&g, "Reshape", "k1,heads", "k2", "");
    onnx_node(&g, "Transpose", "k2", "k", "perm:is=0 2 3 1");
    onnx_node(&g, "MatMul", "x,wv", "v1", "");
    onnx_node(&g, "Reshape", "v1,heads", "v2", "");
    onnx_node(&g, "Transpose", "v2", "v", "perm:is=0 2 1 3");
    onnx_node(&g, "MatMul", "q,k", "qk", "");
    onnx_node(&g, "Div", "qk,root", "scaled", "");
    onnx_node(&g, "Softmax", "scaled", "p", "axis:i=-1");
    onnx_node(&g, "MatMul", "p,v", "o1", "");
    onnx_node(&g, "Transpose", "o1", "o2", "perm:is=0 2 1 3");
    onnx_node(&g, "Reshape", "o2,joined", "o", "");
    onnx_node(&g, "Add", "o,x", "sum", "");
    onnx_node(&g, "LayerNormalization", "sum,gamma,beta", "y", "axis:i=-1;epsilon:f=0.00001");
    onnx_output(&g, "y");
    return onnx_model(&g, 17);
}

/* element operators, folded shape arithmetic, views, reductions */
static onnx_bytes element_model(void)
{
    onnx_bytes g = {0};
    onnx_input(&g, "x", 2, DIMS(4, 30));
    onnx_weights(&g, "b", 1, DIMS(30));
    onnx_ints(&g, "two", 1, DIMS(2));
    onnx_ints(&g, "one", 1, DIMS(1));
    onnx_ints(&g, "zero", 1, DIMS(0));
    onnx_node(&g, "Add", "x,b", "a", "");
    onnx_node(&g, "Sigmoid", "a", "s", "");
    onnx_node(&g, "Mul", "a,s", "m", "");
    onnx_node(&g, "Shape", "m", "shape", "");
    onnx_node(&g, "Gather", "shape,zero", "rows", "axis:i=0");
    onnx_node(&g, "Gather", "shape,one", "columns", "axis:i=0");
    onnx_node(&g, "Concat", "columns,rows", "turned", "axis:i=0");
    onnx_node(&g, "Transpose", "m", "t", "perm:is=1 0");
    onnx_node(&g, "Reshape", "t,turned", "r", "");
    onnx_node(&g, "Slice", "r,one,two,zero", "part", "");
    onnx_node(&g, "ReduceMean", "r", "mean", "axes:is=0;keepdims:i=1");
    onnx_node(&g, "Sub", "part,mean", "d", "");
    onnx_node(&g, "Tanh", "d", "th", "");
    onnx_node(&g, "Exp", "th", "e", "");
    onnx_node(&g, "Where", "c,e,d", "wh", "");
    onnx_node(&g, "Greater", "d,mean", "c", "");
    onnx_node(&g, "Concat", "wh,mean", "y", "axis:i=0");
    onnx_node(&g, "ArgMax", "y", "best", "axis:i=1");
    onnx_output(&g, "y");
    onnx_output(&g, "best");
    return onnx_model(&g, 17);
}

/* weights in a file of their own */
static onnx_bytes external_model(void)
{
    onnx_bytes g = {0};
    onnx_input(&g, "x", 2, DIMS(2, 4));
    onnx_external(&g, "w", 2, DIMS(4, 6), "weights");
    onnx_node(&g, "MatMul", "x,w", "y", "");
    onnx_output(&g, "y");
    return onnx_model(&g, 17);
}

enum { N_MODELS = 4, N_FROM_MEMORY = 3, MAX_BYTES = 4096 };
static onnx_bytes (*const makers[N_MODELS])(void) = {residual_model, attention_model, element_model, external_model};
static const reef_shape batch = {.input = "x", .rank = 4, .dims = {2, 3, 8, 8}};

static char folder[64], paths[N_MODELS][96], weights[96];
static reef_device *device;
static reef_model *other; /* what is loaded all the time */
static reef_session *other_session;
static _Alignas(64) char other_answer[MAX_BYTES], inputs_data[MAX_BYTES];

static void run_other(char *answer)
{
    reef_tensor_info out;
    assert_true(reef_model_output(other, 0, &out) && out.bytes <= MAX_BYTES);
    assert_int_equal(reef_session_run(other_session, (const void *[]){inputs_data}, (void *[]){answer}, NULL), REEF_OK);
}

static void other_model_still_answers(void)
{
    _Alignas(64) char answer[MAX_BYTES];
    memset(answer, 0xff, sizeof answer);
    run_other(answer);
    reef_tensor_info out;
    assert_true(reef_model_output(other, 0, &out));
    assert_memory_equal(answer, other_answer, out.bytes);
}

static int set_up(void **state)
{
    (void)state;
    json_set_alloc_funcs(malloc, free);
    atomic_store(&countdown, -1);
    snprintf(folder, sizeof folder, "/tmp/reef-nomem-%ld", (long)getpid());
    assert_int_equal(mkdir(folder, 0700), 0);
    for (int i = 0; i < N_MODELS; i++) {
        onnx_bytes model = makers[i]();
        snprintf(paths[i], sizeof paths[i], "%s/%d.onnx", folder, i);
        FILE *file = fopen(paths[i], "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(model.data, 1, model.size, file), model.size);
        assert_int_equal(fclose(file), 0);
        free(model.data);
    }
    snprintf(weights, sizeof weights, "%s/weights", folder);
    FILE *file = fopen(weights, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite((float[24]){1, 2, 3}, sizeof(float), 24, file), 24);
    assert_int_equal(fclose(file), 0);
    for (size_t i = 0; i < sizeof inputs_data / sizeof(float); i++) {
        ((float *)inputs_data)[i] = (float)(i % 13) * 0.1f - 0.5f;
    }
    reef_error error;
    if (reef_device_open("cpu", &(reef_device_options){.units = 2}, &device, &error) ||
        reef_model_load(device, paths[1], NULL, &other, &error) ||
        reef_session_create(other, NULL, &other_session, &error)) {
        fail_msg("%s", error.message);
    }
    run_other(other_answer);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    reef_session_destroy(other_session);
    reef_model_destroy(other);
    reef_device_close(device);
    unlink(weights);
    for (int i = 0; i < N_MODELS; i++) {
        unlink(paths[i]);
    }
    return rmdir(folder);
}

/* -------------------------------------------------------------- scenarios -- */

static reef_status open_and_close(void *context, reef_error *error)
{
    (void)context;
    reef_device *opened = NULL;
    const reef_status status = reef_device_open("cpu", &(reef_device_options){.units = 3}, &opened, error);
    assert_true(status ? !opened : opened != NULL);
    reef_device_close(opened);
    return status;
}

static void opening_a_device(void **state)
{
    (void)state;
    assert_true(deny_each(open_and_close, NULL, other_model_still_answers) > 5);
}

static reef_status plan_from_memory(void *context, reef_error *error)
{
    const onnx_bytes *model = context;
    reef_graph *graph = NULL;
    reef_plan *plan = NULL;
    reef_status status = reef_graph_parse(model->data, model->size, &graph, error);
    assert_true(status ? !graph : graph != NULL);
    if (!status && graph->inputs[0]->rank == batch.rank) {
        status = reef_graph_set_shape(graph, batch.input, batch.dims, batch.rank, error);
    }
    status = status ? status : reef_graph_infer(graph, error);
    status = status ? status : reef_graph_fuse(graph, error);
    status = status ? status : reef_plan_create(graph, &plan, error);
    assert_true(status ? !plan : plan != NULL);
    if (status) {
        reef_graph_destroy(graph);
    }
    reef_plan_destroy(plan);
    return status;
}

static void making_a_plan_from_memory(void **state)
{
    (void)state;
    for (int i = 0; i < N_FROM_MEMORY; i++) {
        onnx_bytes model = makers[i]();
        assert_true(deny_each(plan_from_memory, &model, NULL) > 5);
        free(model.data);
    }
}

static reef_status load_and_run(void *context, reef_error *error)
{
    const char *path = context;
    reef_model *model = NULL;
    reef_session *session = NULL;
    reef_model_options options = {.shapes = &batch, .n_shapes = path == paths[0]};
    reef_status status = reef_model_load(device, path, &options, &model, error);
    assert_true(status ? !model : model != NULL);
    for (int i = 0; i < 2 && !status; i++) {
        _Alignas(64) static char out[2][MAX_BYTES];
        const reef_class service_class = i ? REEF_RT : REEF_BE;
        session = NULL;
        status = reef_session_create(model, &(reef_session_options){.service_class = service_class, .queue_limit = 8},
                                     &session, error);
        assert_true(status ? !session : session != NULL);
        if (!status) {
            const long before = atomic_load(&countdown);
            status = reef_session_run(session, (const void *[]){inputs_data}, (void *[]){out[0], out[1]}, NULL);
            assert_int_equal(status, REEF_OK);
            assert_int_equal(before, atomic_load(&countdown)); /* a request allocates nothing */
        }
        reef_session_destroy(session);
    }
    reef_model_destroy(model);
    return status;
}

static void loading_and_running_a_model(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++) {
        assert_true(deny_each(load_and_run, paths[i], other_model_still_answers) > 5);
    }
}

static reef_status make_synthetic(void *context, reef_error *error)
{
    (void)context;
    reef_model *model = NULL;
    const reef_status status = reef_model_create_synthetic(device, 2, 2, 1000, &model, error);
    assert_true(status ? !model : model != NULL);
    reef_model_destroy(model);
    return status;
}

static void making_a_synthetic_model(void **state)
{
    (void)state;
    assert_true(deny_each(make_synthetic, NULL, other_model_still_answers) > 2);
}

/* ---------------------------------------------------------------- profiles -- */

static reef_status profile(void *context, reef_error *error)
{
    return reef_model_profile(context, 2, NULL, NULL, error);
}

static reef_status save(void *context, reef_error *error)
{
    return reef_profile_save(context, error);
}

static reef_status load(void *context, reef_error *error)
{
    (void)error;
    reef_model *model = context;
    model->profiled = false;
    const bool loaded = reef_profile_load(model);
    assert_true(loaded == model->profiled);
    return loaded ? REEF_OK : REEF_NO_MEMORY;
}

static void the_file_is_whole(void)
{
    char *path = other->cache_path;
    assert_int_equal(access(path, R_OK), 0);
    other->profiled = false;
    assert_true(reef_profile_load(other));
}

static void profiling_saving_and_loading(void **state)
{
    (void)state;
    assert_non_null(other->cache_path);
    assert_true(deny_each(profile, other, other_model_still_answers) > 2);
    the_file_is_whole();
    assert_true(deny_each(save, other, the_file_is_whole) > 2);
    assert_true(deny_each(load, other, other_model_still_answers) > 2);
    unlink(other->cache_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_a_device),
        cmocka_unit_test(making_a_plan_from_memory),
        cmocka_unit_test(loading_and_running_a_model),
        cmocka_unit_test(making_a_synthetic_model),
        cmocka_unit_test(profiling_saving_and_loading),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
