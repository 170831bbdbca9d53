/*
 * test_plan.c - fusion, lowering, memory and validation: what kernels a graph becomes, and that they compute the same.
 *
 * Every graph is built twice, with and without fusion, and both plans run in the interpreter.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/order.h"
#include "support/graph_builder.h"
#include "support/plan_interp.h"

typedef reef_graph *(*builder)(void);

static reef_plan *plan_of(builder build, bool fuse)
{
    reef_graph *graph = build();
    reef_plan *plan = NULL;
    reef_error error = {0};
    reef_status status = reef_graph_infer(graph, &error);
    status = status || !fuse ? status : reef_graph_fuse(graph, &error);
    status = status ? status : reef_plan_create(graph, &plan, &error);
    if (status) {
        print_error("%s: %s\n", reef_status_name(status), error.message);
    }
    assert_int_equal(status, REEF_OK);
    uint32_t a, b;
    assert_true(reef_plan_memory_check(plan, &a, &b));
    for (size_t i = 0; i < plan->n_kernels; i++) {
        assert_true(plan->kernels[i].transaction);
        assert_null(plan->kernels[i].why_not);
    }
    return plan;
}

/* Runs on reproducible inputs (small integers for i64). The caller frees the outputs. */
static void **run(const reef_plan *plan)
{
    void **in = calloc(plan->n_inputs + 1, sizeof *in), **out = calloc(plan->n_outputs + 1, sizeof *out);
    uint32_t state = 99;
    for (size_t i = 0; i < plan->n_inputs; i++) {
        in[i] = malloc(plan->inputs[i].bytes + 8);
        for (size_t j = 0; j < plan->inputs[i].bytes / (plan->inputs[i].dtype == REEF_I64 ? 8 : 4); j++) {
            state = state * 1664525 + 1013904223;
            if (plan->inputs[i].dtype == REEF_I64) {
                ((int64_t *)in[i])[j] = state >> 30;
            } else {
                ((float *)in[i])[j] = (float)(state >> 8) / (1 << 23) - 1;
            }
        }
    }
    for (size_t i = 0; i < plan->n_outputs; i++) {
        out[i] = malloc(plan->outputs[i].bytes + 8);
        memset(out[i], 0xff, plan->outputs[i].bytes);
    }
    assert_int_equal(plan_interp_run(plan, (const void *const *)in, out), REEF_OK);
    for (size_t i = 0; i < plan->n_inputs; i++) {
        free(in[i]);
    }
    free(in);
    return out;
}

static size_t count(const reef_plan *plan, reef_kernel_kind kind)
{
    size_t n = 0;
    for (size_t i = 0; i < plan->n_kernels; i++) {
        n += plan->kernels[i].kind == kind;
    }
    return n;
}

static bool has(const reef_plan *plan, const char *ops)
{
    for (size_t i = 0; i < plan->n_kernels; i++) {
        if (!strcmp(plan->kernels[i].ops, ops)) {
            return true;
        }
    }
    for (size_t i = 0; i < plan->n_kernels; i++) {
        print_message("  %s %s\n", reef_kernel_kind_name(plan->kernels[i].kind), plan->kernels[i].ops);
    }
    return false;
}

/* The plan's answers with its kernels in another order that plan->after allows: of those that could be next, the last. */
static void **run_in_another_order(const reef_plan *plan)
{
    reef_plan other = *plan;
    bool *done = calloc(plan->n_kernels + 1, sizeof *done);
    other.kernels = calloc(plan->n_kernels + 1, sizeof *other.kernels);
    for (size_t i = 0; i < plan->n_kernels; i++) {
        size_t next = SIZE_MAX;
        for (size_t k = 0; k < plan->n_kernels; k++) {
            bool ready = !done[k];
            for (uint32_t a = plan->after_at[k]; a < plan->after_at[k + 1]; a++) {
                assert_true(plan->after[a] < k);
                ready &= done[plan->after[a]];
            }
            next = ready ? k : next;
        }
        assert_true(next < plan->n_kernels);
        done[next] = true;
        other.kernels[i] = plan->kernels[next];
    }
    void **out = run(&other);
    free(other.kernels);
    free(done);
    return out;
}

/* The fused plan, after its answers were compared with the unfused one's. */
static reef_plan *checked(builder build)
{
    reef_plan *plain = plan_of(build, false), *fused = plan_of(build, true);
    void **want = run(plain), **got = run(fused), **again = run_in_another_order(fused);
    for (size_t i = 0; i < fused->n_outputs; i++) {
        assert_int_equal(fused->outputs[i].dtype, REEF_F32);
        assert_memory_equal(got[i], again[i], fused->outputs[i].bytes);
        for (size_t j = 0; j < fused->outputs[i].bytes / 4; j++) {
            const float w = ((float *)want[i])[j], g = ((float *)got[i])[j];
            assert_false(isnan(w));
            if (!(fabsf(g - w) <= 2e-5f * (1 + fabsf(w)))) {
                fail_msg("output %zu[%zu]: %g, expected %g", i, j, (double)g, (double)w);
            }
        }
        free(want[i]);
        free(got[i]);
        free(again[i]);
    }
    free(want);
    free(got);
    free(again);
    reef_plan_destroy(plain);
    return fused;
}

/* ------------------------------------------------------------------ pieces -- */

static reef_value *conv(reef_graph *g, reef_value *x, int64_t in, int64_t out, int64_t kernel, int64_t pad)
{
    reef_value *w = build_random(g, 4, DIMS(out, in, kernel, kernel), -0.3, 0.3);
    reef_value *y = build_node(g, "Conv", x, w, NULL, NULL);
    build_int_list(g, "pads", 4, DIMS(pad, pad, pad, pad));
    build_int_list(g, "kernel_shape", 2, DIMS(kernel, kernel));
    return y;
}

static reef_value *batch_norm(reef_graph *g, reef_value *x, int64_t channels)
{
    reef_value *in[5] = {x, build_random(g, 1, &channels, 0.5, 1.5), build_random(g, 1, &channels, -0.5, 0.5),
                         build_random(g, 1, &channels, -0.5, 0.5), build_random(g, 1, &channels, 0.5, 1.5)};
    return build_variadic(g, "BatchNormalization", 5, in);
}

static reef_value *linear(reef_graph *g, reef_value *x, int64_t in, int64_t out)
{
    reef_value *y = build_node(g, "MatMul", x, build_random(g, 2, DIMS(in, out), -0.3, 0.3), NULL, NULL);
    return build_node(g, "Add", build_random(g, 1, DIMS(out), -1, 1), y, NULL, NULL);
}

/* ------------------------------------------------------------------- tests -- */

static reef_graph *residual_block(void)
{
    reef_graph *g = build_graph(17);
    reef_value *x = build_input(g, "x", REEF_F32, 4, DIMS(2, 3, 9, 7));
    reef_value *stem = build_node(g, "Relu", batch_norm(g, conv(g, x, 3, 8, 3, 1), 8), NULL, NULL, NULL);
    reef_value *main = build_node(g, "Relu", batch_norm(g, conv(g, stem, 8, 6, 1, 0), 6), NULL, NULL, NULL);
    main = batch_norm(g, conv(g, main, 6, 8, 3, 1), 8);
    reef_value *side = batch_norm(g, conv(g, stem, 8, 8, 1, 0), 8);
    build_output(g, build_node(g, "Relu", build_node(g, "Add", main, side, NULL, NULL), NULL, NULL, NULL));
    return g;
}

static void residual_block_is_one_kernel_per_convolution(void **state)
{
    (void)state;
    reef_plan *plan = checked(residual_block);
    assert_int_equal(count(plan, REEF_K_CONV), 4);
    assert_int_equal(count(plan, REEF_K_COPY), 2); /* NCHW in, NCHW out */
    assert_int_equal(plan->n_kernels, 6);
    assert_true(has(plan, "Conv+BatchNormalization+Relu"));
    assert_true(has(plan, "Conv+BatchNormalization+Add+Relu"));
    reef_plan_destroy(plan);
}

static reef_graph *pools_of_one(void)
{
    reef_graph *g = build_graph(17);
    reef_value *x = build_input(g, "x", REEF_F32, 4, DIMS(1, 4, 5, 5));
    reef_value *y = conv(g, x, 4, 4, 1, 0);
    for (int i = 0; i < 2; i++) { /* kernel 1x1: drops; kernel 1x1 with stride 2 does not */
        y = build_node(g, "AveragePool", y, NULL, NULL, NULL);
        build_int_list(g, "kernel_shape", 2, DIMS(1, 1));
        build_int_list(g, "strides", 2, DIMS(1 + i, 1 + i));
    }
    build_output(g, build_node(g, "Relu", y, NULL, NULL, NULL));
    return g;
}

static void a_pool_over_single_elements_is_no_kernel(void **state)
{
    (void)state;
    reef_plan *plan = checked(pools_of_one);
    assert_int_equal(count(plan, REEF_K_POOL), 1);
    reef_plan_destroy(plan);
}

static reef_graph *shared_value(void)
{
    reef_graph *g = build_graph(17);
    reef_value *x = build_input(g, "x", REEF_F32, 4, DIMS(1, 4, 5, 5));
    reef_value *y = conv(g, x, 4, 4, 1, 0);
    build_output(g, build_node(g, "Relu", y, NULL, NULL, NULL));
    build_output(g, y);
    return g;
}

static void a_value_that_others_need_is_not_fused_away(void **state)
{
    (void)state;
    reef_plan *plan = checked(shared_value);
    assert_true(has(plan, "Conv"));
    assert_true(has(plan, "Relu"));
    reef_plan_destroy(plan);
}

static reef_graph *activations(void)
{
    reef_graph *g = build_graph(17);
    reef_value *x = build_input(g, "x", REEF_F32, 2, DIMS(4, 8));
    /* x * clip(x + 3, 0, 6) / 6 */
    reef_value *h = linear(g, x, 8, 8), *inner;
    inner = build_node(g, "Add", h, build_number(g, 3), NULL, NULL);
    inner = build_node(g, "Clip", inner, build_number(g, 0), build_number(g, 6), NULL);
    h = build_node(g, "Div", build_node(g, "Mul", h, inner, NULL, NULL), build_number(g, 6), NULL, NULL);
    /* silu */
    h = linear(g, h, 8, 8);
    h = build_node(g, "Mul", h, build_node(g, "Sigmoid", h, NULL, NULL, NULL), NULL, NULL);
    /* erf gelu, x / sqrt(2) and 0.5 at the end */
    h = linear(g, h, 8, 8);
    inner = build_node(g, "Erf", build_node(g, "Div", h, build_number(g, sqrt(2)), NULL, NULL), NULL, NULL, NULL);
    inner = build_node(g, "Add", inner, build_number(g, 1), NULL, NULL);
    h = build_node(g, "Mul", build_node(g, "Mul", h, inner, NULL, NULL), build_number(g, 0.5), NULL, NULL);
    /* tanh gelu */
    h = linear(g, h, 8, 8);
    inner = build_node(g, "Mul", build_node(g, "Pow", h, build_number(g, 3), NULL, NULL), build_number(g, 0.044715),
                       NULL, NULL);
    inner =
        build_node(g, "Mul", build_node(g, "Add", h, inner, NULL, NULL), build_number(g, sqrt(2 / M_PI)), NULL, NULL);
    inner = build_node(g, "Add", build_node(g, "Tanh", inner, NULL, NULL, NULL), build_number(g, 1), NULL, NULL);
    h = build_node(g, "Mul", build_node(g, "Mul", build_number(g, 0.5), h, NULL, NULL), inner, NULL, NULL);
    /* no activation: x * sigmoid(2x) */
    h = linear(g, h, 8, 8);
    inner = build_node(g, "Sigmoid", build_node(g, "Mul", h, build_number(g, 2), NULL, NULL), NULL, NULL, NULL);
    build_output(g, build_node(g, "Mul", h, inner, NULL, NULL));
    return g;
}

static void decomposed_activations_join_the_product(void **state)
{
    (void)state;
    reef_plan *plan = checked(activations);
    assert_true(has(plan, "MatMul+Add+HardSwish"));
    assert_true(has(plan, "MatMul+Add+Silu"));
    assert_true(has(plan, "MatMul+Add+Gelu"));
    assert_true(has(plan, "Mul+Sigmoid+Mul"));
    assert_int_equal(plan->n_kernels, 6);
    reef_plan_destroy(plan);
}

/* Layer norm in pieces, Q K V, masked attention with guard, output projection and residual. */
static reef_graph *transformer(void)
{
    enum { B = 2, S = 5, H = 2, D = 4, C = H * D };
    reef_graph *g = build_graph(14);
    reef_value *x = build_input(g, "x", REEF_F32, 3, DIMS(B, S, C));
    reef_value *mask = build_input(g, "mask", REEF_I64, 2, DIMS(B, S));
    reef_value *keep = build_node(g, "Cast", mask, NULL, NULL, NULL);
    build_int(g, "to", REEF_BOOL);
    keep = build_node(g, "Reshape", keep, build_ints(g, 4, DIMS(B, 1, 1, S)), NULL, NULL);
    reef_value *mean = build_node(g, "ReduceMean", x, NULL, NULL, NULL);
    build_int_list(g, "axes", 1, DIMS(-1));
    reef_value *d = build_node(g, "Sub", x, mean, NULL, NULL);
    reef_value *variance =
        build_node(g, "ReduceMean", build_node(g, "Pow", d, build_number(g, 2), NULL, NULL), NULL, NULL, NULL);
    build_int_list(g, "axes", 1, DIMS(-1));
    reef_value *deviation =
        build_node(g, "Sqrt", build_node(g, "Add", variance, build_number(g, 1e-5), NULL, NULL), NULL, NULL, NULL);
    reef_value *h = build_node(g, "Div", d, deviation, NULL, NULL);
    h = build_node(g, "Mul", h, build_random(g, 1, DIMS(C), 0.5, 1.5), NULL, NULL);
    h = build_node(g, "Add", h, build_random(g, 1, DIMS(C), -0.5, 0.5), NULL, NULL);
    reef_value *part[3];
    for (int i = 0; i < 3; i++) {
        part[i] = linear(g, h, C, C);
        part[i] = build_node(g, "Reshape", part[i], build_ints(g, 4, DIMS(B, S, H, D)), NULL, NULL);
        part[i] = build_node(g, "Transpose", part[i], NULL, NULL, NULL);
        build_int_list(g, "perm", 4, i == 1 ? DIMS(0, 2, 3, 1) : DIMS(0, 2, 1, 3));
    }
    reef_value *q = build_node(g, "Mul", part[0], build_number(g, 0.7), NULL, NULL);
    reef_value *k = build_node(g, "Mul", part[1], build_number(g, 0.7), NULL, NULL);
    reef_value *scores = build_node(g, "MatMul", q, k, NULL, NULL);
    scores = build_node(g, "Where", keep, scores, build_number(g, -INFINITY), NULL);
    reef_value *p = build_node(g, "Softmax", scores, NULL, NULL, NULL);
    build_int(g, "axis", -1);
    p = build_node(g, "Where", build_node(g, "IsNaN", p, NULL, NULL, NULL), build_number(g, 0), p, NULL);
    h = build_node(g, "MatMul", p, part[2], NULL, NULL);
    h = build_node(g, "Transpose", h, NULL, NULL, NULL);
    build_int_list(g, "perm", 4, DIMS(0, 2, 1, 3));
    h = build_node(g, "Reshape", h, build_ints(g, 3, DIMS(B, S, C)), NULL, NULL);
    build_output(g, build_node(g, "Add", x, linear(g, h, C, C), NULL, NULL));
    return g;
}

static void transformer_block_is_five_kernels(void **state)
{
    (void)state;
    reef_plan *plan = checked(transformer);
    assert_int_equal(count(plan, REEF_K_LAYER_NORM), 1);
    assert_int_equal(count(plan, REEF_K_ATTENTION), 1);
    assert_int_equal(count(plan, REEF_K_MATMUL), 2); /* Q, K and V are one */
    assert_int_equal(count(plan, REEF_K_ELTWISE), 1);
    assert_true(has(plan, "Cast"));
    assert_true(has(plan, "MatMul+Add+Add"));
    assert_int_equal(plan->n_kernels, 5);
    reef_plan_destroy(plan);
}

/* torchvision's form: concat_k lists the block's input and all features so far. */
static reef_graph *dense_block(void)
{
    enum { LAYERS = 5, GROWTH = 4 };
    reef_graph *g = build_graph(17);
    reef_value *features[LAYERS + 1];
    reef_value *x = build_input(g, "x", REEF_F32, 4, DIMS(1, 3, 8, 8));
    features[0] = conv(g, x, 3, 6, 3, 1);
    for (int i = 0; i < LAYERS; i++) {
        reef_value *all = build_variadic(g, "Concat", (size_t)i + 1, features);
        build_int(g, "axis", 1);
        reef_value *h = build_node(g, "Relu", batch_norm(g, all, 6 + GROWTH * i), NULL, NULL, NULL);
        features[i + 1] = conv(g, h, 6 + GROWTH * i, GROWTH, 3, 1);
    }
    reef_value *all = build_variadic(g, "Concat", LAYERS + 1, features);
    build_int(g, "axis", 1);
    build_output(g, build_node(g, "GlobalAveragePool", all, NULL, NULL, NULL));
    return g;
}

static void dense_block_copies_nothing(void **state)
{
    (void)state;
    reef_plan *plan = checked(dense_block);
    assert_int_equal(count(plan, REEF_K_COPY), 1); /* the request's NCHW input */
    assert_int_equal(count(plan, REEF_K_CONV), 6);
    assert_int_equal(count(plan, REEF_K_ELTWISE), 5);
    assert_int_equal(plan->n_kernels, 13);
    uint32_t block = REEF_NO_STORAGE;
    for (size_t i = 0; i < plan->n_kernels; i++) {
        if (plan->kernels[i].kind == REEF_K_CONV) { /* all into one storage, 26 channels apart */
            block = block == REEF_NO_STORAGE ? plan->kernels[i].y.storage : block;
            assert_int_equal(plan->kernels[i].y.storage, block);
            assert_int_equal(plan->kernels[i].y.stride[3], 26);
        }
    }
    reef_plan_destroy(plan);
}

static reef_graph *twice_in_a_concat(void)
{
    reef_graph *g = build_graph(17);
    reef_value *x = build_input(g, "x", REEF_F32, 4, DIMS(1, 3, 4, 4));
    reef_value *a = conv(g, x, 3, 4, 1, 0), *b = conv(g, x, 3, 4, 1, 0);
    reef_value *c = build_node(g, "Concat", a, b, a, x);
    build_int(g, "axis", 1);
    reef_value *d = build_node(g, "Concat", b, a, NULL, NULL);
    build_int(g, "axis", 1);
    build_output(g, build_node(g, "Relu", c, NULL, NULL, NULL));
    build_output(g, conv(g, d, 8, 2, 3, 1));
    build_output(g, b);
    return g;
}

static void pieces_that_cannot_be_in_place_are_copied(void **state)
{
    (void)state;
    reef_plan *plan = checked(twice_in_a_concat);
    assert_true(count(plan, REEF_K_COPY) > 1);
    reef_plan_destroy(plan);
}

static reef_graph *shapes(void)
{
    reef_graph *g = build_graph(12);
    reef_value *x = build_input(g, "x", REEF_F32, 4, DIMS(2, 4, 4, 6));
    reef_value *h = conv(g, x, 4, 8, 1, 0);
    h = build_node(g, "Reshape", h, build_ints(g, 5, DIMS(2, 2, 4, 4, 6)), NULL, NULL); /* channel shuffle */
    h = build_node(g, "Transpose", h, NULL, NULL, NULL);
    build_int_list(g, "perm", 5, DIMS(0, 2, 1, 3, 4));
    h = build_node(g, "Reshape", h, build_ints(g, 4, DIMS(2, 8, 4, 6)), NULL, NULL);
    h = conv(g, h, 8, 8, 3, 1);
    h = build_node(g, "DepthToSpace", h, NULL, NULL, NULL);
    build_int(g, "blocksize", 2);
    h = build_variadic(g, "Slice", 5,
                       (reef_value *[]){h, build_ints(g, 2, DIMS(-1, 1)), build_ints(g, 2, DIMS(-100, 12)),
                                        build_ints(g, 2, DIMS(2, 3)), build_ints(g, 2, DIMS(-1, 2))});
    h = build_node(g, "Tile", h, build_ints(g, 4, DIMS(1, 2, 1, 3)), NULL, NULL);
    h = build_node(g, "Softmax", h, NULL, NULL, NULL); /* opset 12: over axes 2 and 3 together */
    build_int(g, "axis", 2);
    build_output(g, h);
    return g;
}

static void rearrangements_are_views_or_one_copy(void **state)
{
    (void)state;
    reef_plan *plan = checked(shapes);
    assert_true(count(plan, REEF_K_COPY) <= 6);
    reef_plan_destroy(plan);
}

static reef_graph *long_chain(void)
{
    reef_graph *g = build_graph(17);
    reef_value *x = build_input(g, "x", REEF_F32, 2, DIMS(3, 5)), *h = x;
    for (int i = 0; i < 60; i++) {
        h = build_node(g, i % 3 == 0 ? "Tanh" : i % 3 == 1 ? "Add" : "Mul", h, i % 3 ? x : NULL, NULL, NULL);
    }
    build_output(g, h);
    return g;
}

static void long_element_chains_are_cut_at_the_limits(void **state)
{
    (void)state;
    reef_plan *plan = checked(long_chain);
    assert_in_range(plan->n_kernels, 2, 4);
    for (size_t i = 0; i < plan->n_kernels; i++) {
        const reef_kernel *k = &plan->kernels[i];
        assert_in_range(k->eltwise.n_insns, 1, REEF_ELT_MAX_INSNS);
        for (int j = 0; j < k->eltwise.n_insns; j++) { /* inputs are never overwritten */
            assert_in_range(k->eltwise.insns[j].dst, k->n_in, REEF_ELT_REGS - 1);
        }
    }
    reef_plan_destroy(plan);
}

static void unsupported_operators_are_all_named(void **state)
{
    (void)state;
    reef_graph *g = build_graph(17);
    reef_plan *plan = NULL;
    reef_error error = {0};
    reef_value *x = build_input(g, "x", REEF_F32, 1, DIMS(3));
    reef_value *a = build_node(g, "Relu", x, NULL, NULL, NULL), *b = build_node(g, "Relu", a, NULL, NULL, NULL);
    build_output(g, b);
    assert_int_equal(reef_graph_infer(g, &error), REEF_OK);
    g->nodes[0]->op = "Unknown";
    g->nodes[1]->op = "Strange";
    assert_int_equal(reef_plan_create(g, &plan, &error), REEF_UNSUPPORTED);
    assert_null(plan);
    assert_non_null(strstr(error.message, "Unknown"));
    assert_non_null(strstr(error.message, "Strange"));
    assert_non_null(strstr(error.message, g->nodes[1]->name));
    reef_graph_destroy(g); /* still the caller's */
}

static void validator_refuses_overlap_and_allows_in_place(void **state)
{
    (void)state;
    reef_storage storage = {.kind = REEF_STORAGE_ACTIVATION, .bytes = 400};
    reef_view all = {.storage = 0, .dtype = REEF_F32, .rank = 2, .dims = {10, 4}, .stride = {10, 1}}, right = all,
              shifted = all;
    right.offset = 4;
    shifted.offset = 1;
    reef_kernel kernels[5] = {
        {.kind = REEF_K_ELTWISE, .in = {all}, .n_in = 1, .y = all},     /* in place */
        {.kind = REEF_K_ELTWISE, .in = {all}, .n_in = 1, .y = shifted}, /* each tile reads its neighbour's output */
        {.kind = REEF_K_COPY, .in = {all}, .n_in = 1, .y = right},      /* columns beside each other */
        {.kind = REEF_K_SOFTMAX, .in = {all}, .n_in = 1, .y = all},     /* not defined to work in place */
        {.kind = REEF_K_ELTWISE, .in = {right}, .n_in = 1, .y = all},
    };
    kernels[4].y.stride[0] = 0; /* every row to the same place */
    reef_plan plan = {.kernels = kernels, .n_kernels = 5, .storage = &storage, .n_storage = 1};
    reef_plan_validate(&plan);
    const bool expected[5] = {true, false, true, false, false};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(kernels[i].transaction, expected[i]);
        assert_int_equal(kernels[i].why_not == NULL, expected[i]);
    }
}

/* Two storages in one place are a kernel working in place; at different places, or of different types, they are not. */
static void validator_looks_at_whole_storages_where_sizes_may_change(void **state)
{
    (void)state;
    enum { N = 8 };
    reef_storage storage[] = {
        {.kind = REEF_STORAGE_ACTIVATION, .bytes = 400, .offset = 0},
        {.kind = REEF_STORAGE_ACTIVATION, .bytes = 400, .offset = 0},
        {.kind = REEF_STORAGE_ACTIVATION, .bytes = 400, .offset = 200},
        {.kind = REEF_STORAGE_ACTIVATION, .bytes = 400, .offset = 600},
        {.kind = REEF_STORAGE_INPUT, .bytes = 400},
        {.kind = REEF_STORAGE_OUTPUT, .bytes = 400},
        {.kind = REEF_STORAGE_CONST, .bytes = 400},
    };
    const reef_view all = {.dtype = REEF_F32, .rank = 1, .dims = {100}, .stride = {1}};
    reef_view low = all, high = all, second = all, third = all, fourth = all, whole = all, input = all, output = all,
              constant = all;
    low.dims[0] = high.dims[0] = 40;
    second.storage = 1;
    third.storage = 2;
    third.dims[0] = 40;
    third.offset = 60; /* bytes 440 to 600 of the activations: apart from the first storage in float32, not in half */
    fourth.storage = 3;
    whole.dtype = REEF_I32;
    whole.storage = 1;
    input.storage = 4;
    output.storage = 5;
    constant.storage = 6;
    reef_kernel kernels[N] = {
        {.kind = REEF_K_ELTWISE, .in = {all}, .n_in = 1, .y = second}, /* in place */
        {.kind = REEF_K_ELTWISE, .in = {low}, .n_in = 1, .y = third},  /* they share bytes, whoever uses which */
        {.kind = REEF_K_ELTWISE, .in = {all}, .n_in = 1, .y = fourth}, /* apart */
        {.kind = REEF_K_ELTWISE, .in = {all}, .n_in = 1, .y = whole},  /* another type in the same place */
        {.kind = REEF_K_MATMUL, .in = {input, constant, second}, .n_in = 3, .y = all, .matmul = {.has_residual = true}},
        {.kind = REEF_K_MATMUL, .in = {second, constant}, .n_in = 2, .y = all}, /* reads rows that others write */
        {.kind = REEF_K_ELTWISE, .in = {input}, .n_in = 1, .y = output},
        {.kind = REEF_K_ELTWISE, .in = {all}, .n_in = 1, .y = input}, /* an input is not ours to write */
    };
    reef_plan plan = {.kernels = kernels, .n_kernels = N, .storage = storage, .n_storage = 7};
    reef_plan_validate(&plan);
    const bool expected[N] = {true, false, true, false, true, false, true, false};
    for (int i = 0; i < N; i++) {
        if (kernels[i].transaction != expected[i] || (kernels[i].why_not == NULL) != expected[i]) {
            fail_msg("kernel %d: %s", i, kernels[i].why_not ? kernels[i].why_not : "proved");
        }
    }
}

static void memory_check_sees_overlap(void **state)
{
    (void)state;
    reef_plan *plan = plan_of(residual_block, true);
    uint32_t a, b, other = 0;
    assert_true(plan->activation_bytes < plan->activation_sum_bytes);
    for (uint32_t i = 0; i < plan->n_storage; i++) {
        const reef_storage *s = &plan->storage[i];
        if (s->kind == REEF_STORAGE_ACTIVATION && s->first < 2 && s->last > 1) {
            other = i;
        }
    }
    for (uint32_t i = 0; i < plan->n_storage; i++) { /* move everything onto one offset */
        plan->storage[i].offset = plan->storage[other].offset;
    }
    assert_false(reef_plan_memory_check(plan, &a, &b));
    reef_plan_destroy(plan);
}

/* Inception's blocks: branches of different length write their part of a concatenation. */
static reef_graph *branches(void)
{
    reef_graph *g = build_graph(17);
    reef_value *x = build_input(g, "x", REEF_F32, 4, DIMS(1, 3, 9, 9));
    for (int block = 0; block < 3; block++) {
        const int64_t in = block ? 14 : 3;
        reef_value *b[4] = {conv(g, x, in, 4, 1, 0), conv(g, conv(g, x, in, 5, 1, 0), 5, 4, 3, 1),
                            conv(g, conv(g, conv(g, x, in, 3, 1, 0), 3, 5, 3, 1), 5, 4, 3, 1)};
        b[3] = build_node(g, "AveragePool", x, NULL, NULL, NULL);
        build_int_list(g, "kernel_shape", 2, DIMS(3, 3));
        build_int_list(g, "pads", 4, DIMS(1, 1, 1, 1));
        b[3] = conv(g, b[3], in, 2, 1, 0);
        x = build_variadic(g, "Concat", 4, b);
        build_int(g, "axis", 1);
    }
    build_output(g, conv(g, x, 14, 3, 1, 0));
    return g;
}

static void branches_follow_only_what_they_need(void **state)
{
    (void)state;
    reef_plan *plan = checked(branches);
    reef_order order;
    assert_int_equal(reef_order_read(plan, &order), REEF_OK);
    assert_int_equal(count(plan, REEF_K_CONV), 22);
    assert_int_equal(count(plan, REEF_K_POOL), 3);
    size_t pairs = 0;
    for (size_t k = 0; k < plan->n_kernels; k++) {
        for (size_t i = 0; i < k; i++) {
            pairs += !reef_order_follows(&order, k, i);
        }
    }
    /* branches of 1, 2, 3 and 2 kernels: 2 + 3 + 2 + 6 + 4 + 6 unordered pairs in each of three blocks */
    assert_int_equal(pairs, 3 * 23);
    reef_order_free(&order);
    reef_plan_destroy(plan);
}

/* Convolutions in front of maxima over 2x2: which may be one with them, and which not. */
static reef_graph *conv_pools(void)
{
    reef_graph *g = build_graph(17);
    reef_value *x = build_input(g, "x", REEF_F32, 4, DIMS(1, 3, 17, 16));
    reef_value *a = conv(g, x, 3, 8, 3, 1);
    for (int i = 0; i < 4; i++) { /* 0: fits; 1: 3x3; 2: its input has another reader; 3: padded */
        const int64_t size = i == 1 ? 3 : 2, pad = i == 3;
        reef_value *b = conv(g, a, 8, 8, 3, 1);
        reef_value *p = build_node(g, "MaxPool", b, NULL, NULL, NULL);
        build_int_list(g, "kernel_shape", 2, DIMS(size, size));
        build_int_list(g, "strides", 2, DIMS(2, 2));
        build_int_list(g, "pads", 4, DIMS(pad, pad, pad, pad));
        build_output(g, conv(g, p, 8, 2, 1, 0));
        if (i == 2) {
            build_output(g, conv(g, b, 8, 2, 1, 0));
        }
    }
    return g;
}

static void a_maximum_joins_the_convolution_in_front_of_it(void **state)
{
    (void)state;
    reef_plan *plan = checked(conv_pools);
    size_t pairs = 0;
    for (uint32_t k = 0; k < plan->n_kernels; k++) {
        const reef_kernel *conv = &plan->kernels[k];
        if (!conv->then) {
            continue;
        }
        const reef_kernel *max = &plan->kernels[conv->then];
        pairs++;
        assert_int_equal(max->kind, REEF_K_POOL);
        assert_int_equal(max->pool.kernel[0], 2);
        assert_int_equal(max->pool.pad[0], 0);
        assert_int_equal(max->in[0].storage, conv->y.storage);
        /* Done in one, it is written while other inputs of the convolution are read. */
        const reef_storage *x = &plan->storage[conv->in[0].storage], *y = &plan->storage[max->y.storage];
        assert_true(x->offset + x->bytes <= y->offset || y->offset + y->bytes <= x->offset);
        assert_true(y->first <= k);
    }
    assert_int_equal(pairs, 1);
    /* The first convolution is the only one to read what the first kernel copies of the request. */
    assert_int_equal(plan->kernels[0].kind, REEF_K_COPY);
    assert_int_equal(plan->kernels[1].through, 1);
    reef_plan_destroy(plan);
    plan = checked(branches); /* there four kernels read the copy of the request */
    for (uint32_t k = 0; k < plan->n_kernels; k++) {
        assert_int_equal(plan->kernels[k].through, 0);
        assert_int_equal(plan->kernels[k].then, 0);
    }
    reef_plan_destroy(plan);
}

static void memory_check_sees_missing_order(void **state)
{
    (void)state;
    reef_plan *plan = plan_of(branches, true);
    uint32_t a, b;
    uint32_t *none = calloc(plan->n_kernels + 1, sizeof *none);
    assert_true(plan->activation_bytes < plan->activation_sum_bytes);
    plan->after = none;
    plan->after_at = none; /* nobody follows anybody */
    assert_false(reef_plan_memory_check(plan, &a, &b));
    free(none);
    reef_plan_destroy(plan);
}

/* Too many operands of one storage to compare each with each: then they are ordered, and the answers stay. */
static reef_graph *many_readers(void)
{
    reef_graph *g = build_graph(17);
    reef_value *x = build_input(g, "x", REEF_F32, 2, DIMS(4, 3)), *parts[2200];
    const int n = (int)(sizeof parts / sizeof *parts);
    for (int i = 0; i < n; i++) {
        parts[i] = build_node(g, "Softmax", x, NULL, NULL, NULL);
        build_int(g, "axis", i % 2);
    }
    build_output(g, build_variadic(g, "Concat", (size_t)n, parts));
    build_int(g, "axis", 0);
    return g;
}

static void a_crowded_storage_is_used_in_order(void **state)
{
    (void)state;
    reef_plan *plan = plan_of(many_readers, false);
    reef_order order;
    assert_int_equal(reef_order_read(plan, &order), REEF_OK);
    assert_true(plan->n_kernels > 2100);
    assert_false(reef_order_follows(&order, 1000, 999));
    assert_true(reef_order_follows(&order, plan->n_kernels - 1, plan->n_kernels - 2));
    assert_true(reef_order_follows(&order, plan->n_kernels - 1, 5));
    void **want = run(plan), **got = run_in_another_order(plan);
    assert_memory_equal(want[0], got[0], plan->outputs[0].bytes);
    free(want[0]);
    free(got[0]);
    free(want);
    free(got);
    reef_order_free(&order);
    reef_plan_destroy(plan);
}

static void synthetic_plans_spin(void **state)
{
    (void)state;
    reef_plan *plan = NULL;
    assert_int_equal(reef_plan_create_synthetic(0, 1, 1, &plan), REEF_INVALID_ARGUMENT);
    assert_int_equal(reef_plan_create_synthetic(3, 7, 1000, &plan), REEF_OK);
    assert_int_equal(plan->n_kernels, 3);
    assert_int_equal(plan->kernels[2].spin.tiles, 7);
    assert_true(plan->kernels[2].transaction);
    reef_plan_destroy(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(residual_block_is_one_kernel_per_convolution),
        cmocka_unit_test(a_pool_over_single_elements_is_no_kernel),
        cmocka_unit_test(a_value_that_others_need_is_not_fused_away),
        cmocka_unit_test(decomposed_activations_join_the_product),
        cmocka_unit_test(transformer_block_is_five_kernels),
        cmocka_unit_test(dense_block_copies_nothing),
        cmocka_unit_test(pieces_that_cannot_be_in_place_are_copied),
        cmocka_unit_test(rearrangements_are_views_or_one_copy),
        cmocka_unit_test(long_element_chains_are_cut_at_the_limits),
        cmocka_unit_test(unsupported_operators_are_all_named),
        cmocka_unit_test(validator_refuses_overlap_and_allows_in_place),
        cmocka_unit_test(validator_looks_at_whole_storages_where_sizes_may_change),
        cmocka_unit_test(memory_check_sees_overlap),
        cmocka_unit_test(branches_follow_only_what_they_need),
        cmocka_unit_test(a_maximum_joins_the_convolution_in_front_of_it),
        cmocka_unit_test(memory_check_sees_missing_order),
        cmocka_unit_test(a_crowded_storage_is_used_in_order),
        cmocka_unit_test(synthetic_plans_spin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
