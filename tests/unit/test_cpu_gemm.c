/*
 * test_cpu_gemm.c - convolutions, matrix products and attention of every instruction set against the plan interpreter.
 *
 * Random descriptors, operands in buffers of their own with random pixel strides (as slices of a larger tensor are). For
 * each: the result, nothing written outside y, the same bits for any number of units, and a tile abandoned at any of
 * its polls leaves no trace and computes the same bits when it runs again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "device/cpu/tile.h"
#include "support/plan_interp.h"

/* ---- instruction sets ------------------------------------------------------------------------------------------ */

#define DECLARE(isa)                                                                                                   \
    reef_status reef_cpu_prepare_conv_##isa(const reef_kernel *, reef_cpu_prepare *, reef_cpu_kernel *);               \
    reef_status reef_cpu_prepare_conv_transpose_##isa(const reef_kernel *, reef_cpu_prepare *, reef_cpu_kernel *);     \
    reef_status reef_cpu_prepare_matmul_##isa(const reef_kernel *, reef_cpu_prepare *, reef_cpu_kernel *);             \
    reef_status reef_cpu_prepare_attention_##isa(const reef_kernel *, reef_cpu_prepare *, reef_cpu_kernel *);
#define ROW(isa)                                                                                                       \
    {                                                                                                                  \
#isa, reef_cpu_prepare_conv_##isa, reef_cpu_prepare_conv_transpose_##isa, reef_cpu_prepare_matmul_##isa,       \
            reef_cpu_prepare_attention_##isa                                                                           \
    }

typedef struct isa {
    const char *name;
    reef_cpu_prepare_fn conv, conv_transpose, matmul, attention;
} isa;

DECLARE(generic)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
static const isa isas[] = {ROW(generic), ROW(avx2), ROW(avx512)};
#else
static const isa isas[] = {ROW(generic)};
#endif

static bool runs_here(const char *name)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(name, "avx512")) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    }
    if (!strcmp(name, "avx2")) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
#endif
    return !strcmp(name, "generic");
}

static reef_cpu_prepare_fn prepare_of(const isa *set, reef_kernel_kind kind)
{
    switch (kind) {
    case REEF_K_CONV: return set->conv;
    case REEF_K_CONV_TRANSPOSE: return set->conv_transpose;
    case REEF_K_MATMUL: return set->matmul;
    default: return set->attention;
    }
}

/* ---- random problems ------------------------------------------------------------------------------------------- */

static uint64_t seed;
static uint32_t next(void)
{
    uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}
static int64_t pick(int64_t low, int64_t high)
{
    return low + (int64_t)(next() % (uint64_t)(high - low + 1));
}
static float uniform(void)
{
    return (float)next() / 2147483648.0f - 1.0f;
}
#define ONE_OF(...) ((const int64_t[]){__VA_ARGS__}[next() % (sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))])

enum { MAX_STORAGE = 8, MAX_ALLOCS = 64 };

typedef struct problem {
    reef_plan plan;
    reef_storage storage[MAX_STORAGE];
    char *base[MAX_STORAGE];
    reef_kernel kernel;
    char text[256];
} problem;

static problem *problem_new(reef_kernel_kind kind)
{
    problem *p = calloc(1, sizeof *p);
    p->plan.storage = p->storage;
    p->plan.kernels = &p->kernel;
    p->plan.n_kernels = 1;
    p->kernel.kind = kind;
    p->kernel.name = "test";
    return p;
}

static float *floats(int64_t n, float scale)
{
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = uniform() * scale;
    }
    return x;
}

/* A storage of its own for a view whose dims are set and whose strides follow `order` (fastest first); the dimension
 * after the fastest is spaced by `gap` more than dense. Filled with numbers in [-scale, scale]. */
static void place(problem *p, reef_view *v, const int *order, int64_t gap, float scale)
{
    int64_t stride = 1;
    for (int i = 0; i < v->rank; i++) {
        v->stride[order[i]] = stride;
        stride *= v->dims[order[i]];
        if (i == 0) {
            stride += gap;
        }
    }
    v->dtype = REEF_F32;
    v->offset = gap ? pick(0, gap) : 0;
    v->storage = (uint32_t)p->plan.n_storage++;
    int64_t elems = stride + (gap ? gap : 0);
    p->storage[v->storage] = (reef_storage){.kind = REEF_STORAGE_ACTIVATION, .bytes = (size_t)elems * sizeof(float)};
    p->base[v->storage] = (char *)floats(elems, scale);
}

static void problem_free(problem *p)
{
    for (size_t i = 0; i < p->plan.n_storage; i++) {
        free(p->base[i]);
    }
    if (p->kernel.kind == REEF_K_CONV || p->kernel.kind == REEF_K_CONV_TRANSPOSE) {
        free((void *)p->kernel.conv.w);
        free((void *)p->kernel.conv.bias);
    } else if (p->kernel.kind == REEF_K_MATMUL) {
        free((void *)p->kernel.matmul.bias);
    }
    free(p);
}

static void pick_act(reef_act *act, float *a, float *b)
{
    *act = pick(0, 1) ? (reef_act)pick(0, REEF_ACT_GELU_TANH) : REEF_ACT_RELU;
    *a = *act == REEF_ACT_CLIP ? -0.2f : *act == REEF_ACT_LEAKY_RELU ? 0.1f : 1.0f / 6;
    *b = *act == REEF_ACT_CLIP ? 0.4f : 0.5f;
}

static const int nhwc[] = {1, 3, 2, 0};
static const int row_major4[] = {3, 2, 1, 0};

static problem *conv_problem(bool transpose, int64_t groups, int64_t in_group, int64_t out_group)
{
    problem *p = problem_new(transpose ? REEF_K_CONV_TRANSPOSE : REEF_K_CONV);
    reef_conv *c = &p->kernel.conv;
    reef_view *x = &p->kernel.in[0], *y = &p->kernel.y;
    c->groups = groups;
    c->channels = groups * in_group;
    c->filters = groups * out_group;
    x->rank = y->rank = 4;
    x->dims[0] = y->dims[0] = pick(1, 2);
    x->dims[1] = c->channels;
    y->dims[1] = c->filters;
    for (int d = 0; d < 2; d++) {
        for (;;) {
            c->kernel[d] = ONE_OF(1, 1, 2, 3, 3, 5, 7);
            c->stride[d] = ONE_OF(1, 1, 2, 3);
            c->dilation[d] = ONE_OF(1, 1, 1, 2);
            c->pad[d] = pick(0, c->kernel[d] - 1);
            x->dims[2 + d] = pick(1, 20);
            int64_t reach = (c->kernel[d] - 1) * c->dilation[d] + 1, after = pick(0, c->kernel[d] - 1);
            y->dims[2 + d] = transpose ? (x->dims[2 + d] - 1) * c->stride[d] + reach - c->pad[d] - after + pick(0, 1)
                                       : (x->dims[2 + d] + c->pad[d] + after - reach) / c->stride[d] + 1;
            if (y->dims[2 + d] >= 1 && (transpose || x->dims[2 + d] + c->pad[d] + after >= reach)) {
                break;
            }
        }
    }
    int64_t taps = c->kernel[0] * c->kernel[1], weights = transpose ? c->channels * out_group : c->filters * in_group;
    c->w = floats(weights * taps, 1.5f / sqrtf((float)(in_group * taps)));
    c->bias = pick(0, 3) ? floats(c->filters, 0.5f) : NULL;
    pick_act(&c->act, &c->act_a, &c->act_b);
    place(p, x, nhwc, pick(0, 1) ? pick(1, 9) : 0, 1);
    place(p, y, nhwc, pick(0, 1) ? pick(1, 9) : 0, 1);
    p->kernel.n_in = 1;
    c->has_residual = pick(0, 2) == 0;
    if (c->has_residual) {
        p->kernel.n_in = 2;
        p->kernel.in[1] = *y;
        if (pick(0, 1)) { /* otherwise in place */
            place(p, &p->kernel.in[1], nhwc, pick(0, 5), 1);
        }
    }
    snprintf(p->text, sizeof p->text,
             "%s x %dx%dx%dx%d y %dx%dx%d k %dx%d s %dx%d p %dx%d d %dx%d groups %d act %d residual %d",
             transpose ? "transpose" : "conv", (int)x->dims[0], (int)x->dims[1], (int)x->dims[2], (int)x->dims[3],
             (int)y->dims[1], (int)y->dims[2], (int)y->dims[3], (int)c->kernel[0], (int)c->kernel[1], (int)c->stride[0],
             (int)c->stride[1], (int)c->pad[0], (int)c->pad[1], (int)c->dilation[0], (int)c->dilation[1],
             (int)c->groups, (int)c->act, c->has_residual);
    return p;
}

static problem *random_conv(void)
{
    return conv_problem(false, 1, ONE_OF(1, 2, 3, 7, 8, 16, 33, 64, 130, 300), ONE_OF(1, 3, 8, 17, 32, 33, 48, 64, 70));
}
static problem *random_grouped(void)
{
    return conv_problem(false, pick(2, 5), ONE_OF(1, 2, 3, 4, 8, 17, 32), ONE_OF(1, 2, 3, 8, 16, 33));
}
static problem *random_depthwise(void)
{
    return conv_problem(false, ONE_OF(2, 3, 7, 8, 16, 33, 40, 64, 96, 100), 1, 1);
}
static problem *random_transpose(void)
{
    return conv_problem(true, ONE_OF(1, 1, 2), ONE_OF(1, 3, 8, 24, 40), ONE_OF(1, 3, 8, 24, 33));
}

static problem *random_matmul(void)
{
    problem *p = problem_new(REEF_K_MATMUL);
    reef_matmul *mm = &p->kernel.matmul;
    reef_view *a = &p->kernel.in[0], *b = &p->kernel.in[1], *y = &p->kernel.y;
    int rank = (int)pick(2, 4);
    int64_t m = ONE_OF(1, 2, 5, 12, 13, 49, 100), n = ONE_OF(1, 3, 16, 17, 31, 32, 64, 100, 200);
    int64_t depth = ONE_OF(1, 3, 7, 32, 64, 255, 256, 257, 600);
    a->rank = b->rank = y->rank = rank;
    int order[REEF_MAX_RANK], swapped[REEF_MAX_RANK];
    for (int d = 0; d < rank; d++) {
        order[d] = swapped[d] = rank - 1 - d;
    }
    swapped[0] = rank - 2;
    swapped[1] = rank - 1;
    mm->b_const = pick(0, 1);
    for (int d = 0; d < rank - 2; d++) {
        y->dims[d] = pick(1, 3);
        a->dims[d] = y->dims[d];
        b->dims[d] = mm->b_const ? 1 : y->dims[d];
    }
    y->dims[rank - 2] = a->dims[rank - 2] = m;
    y->dims[rank - 1] = b->dims[rank - 1] = n;
    a->dims[rank - 1] = b->dims[rank - 2] = depth;
    place(p, a, order, pick(0, 1) ? pick(1, 5) : 0, 1);
    place(p, b, pick(0, 1) ? order : swapped, pick(0, 1) ? pick(1, 5) : 0, 1.5f / sqrtf((float)depth));
    place(p, y, order, pick(0, 1) ? pick(1, 5) : 0, 1);
    for (int d = 0; d < rank - 2; d++) { /* repeated operands */
        if (mm->b_const || pick(0, 3) == 0) {
            b->stride[d] = 0;
            b->dims[d] = y->dims[d];
        }
        if (pick(0, 5) == 0) {
            a->stride[d] = 0;
        }
    }
    if (mm->b_const) {
        p->storage[b->storage].kind = REEF_STORAGE_CONST;
        p->storage[b->storage].data = p->base[b->storage];
    }
    p->kernel.n_in = 2;
    mm->alpha = pick(0, 2) ? 1.0f : 0.125f;
    mm->bias = pick(0, 1) ? floats(n, 0.5f) : NULL;
    pick_act(&mm->act, &mm->act_a, &mm->act_b);
    mm->has_residual = pick(0, 2) == 0;
    if (mm->has_residual) {
        p->kernel.n_in = 3;
        p->kernel.in[2] = *y;
        if (pick(0, 1)) {
            place(p, &p->kernel.in[2], order, pick(0, 5), 1);
        }
    }
    snprintf(p->text, sizeof p->text, "matmul rank %d m %d n %d k %d const %d act %d residual %d", rank, (int)m, (int)n,
             (int)depth, mm->b_const, (int)mm->act, mm->has_residual);
    return p;
}

static problem *random_attention(void)
{
    problem *p = problem_new(REEF_K_ATTENTION);
    reef_view *q = &p->kernel.in[0], *k = &p->kernel.in[1], *v = &p->kernel.in[2], *mask = &p->kernel.in[3],
              *y = &p->kernel.y;
    static const int heads_inside[] = {3, 1, 2, 0}, transposed[] = {2, 3, 1, 0};
    int64_t batch = pick(1, 2), heads = pick(1, 3), s = ONE_OF(1, 5, 16, 40, 130), t = ONE_OF(1, 7, 16, 33, 128, 300);
    int64_t dim = ONE_OF(4, 16, 20, 32, 64, 80);
    *q = (reef_view){.rank = 4, .dims = {batch, heads, s, dim}};
    *k = *v = (reef_view){.rank = 4, .dims = {batch, heads, t, dim}};
    *y = *q;
    place(p, q, pick(0, 1) ? heads_inside : row_major4, pick(0, 3), 1);
    place(p, k, ((const int *[]){heads_inside, row_major4, transposed})[pick(0, 2)], pick(0, 3), 1);
    place(p, v, pick(0, 1) ? heads_inside : row_major4, pick(0, 3), 1);
    place(p, y, pick(0, 1) ? heads_inside : row_major4, pick(0, 3), 1);
    p->kernel.n_in = 3;
    p->kernel.attention = (reef_attention){.scale = 1 / sqrtf((float)dim), .nan_rows = false};
    int form = (int)pick(0, 2);
    if (form) {
        p->kernel.n_in = 4;
        p->kernel.attention.has_mask = true;
        *mask = (reef_view){.rank = 4, .dims = {batch, heads, s, t}};
        place(p, mask, row_major4, 0, 3);
        if (form == 2) {
            mask->dtype = REEF_BOOL;
            bool *m = (bool *)p->base[mask->storage];
            for (int64_t i = 0; i < batch * heads * s * t; i++) {
                m[i] = pick(0, 2) != 0;
            }
            for (int64_t i = 0; i < t; i++) { /* a row without any true */
                m[i] = false;
            }
        }
        for (int d = 0; d < 4; d++) {
            if (pick(0, 2) == 0) {
                mask->stride[d] = 0;
            }
        }
    }
    snprintf(p->text, sizeof p->text, "attention b %d h %d s %d t %d d %d mask %d", (int)batch, (int)heads, (int)s,
             (int)t, (int)dim, form);
    return p;
}

/* ---- running them ---------------------------------------------------------------------------------------------- */

typedef struct owner {
    void *allocs[MAX_ALLOCS];
    int n;
} owner;

static void *owner_alloc(void *context, size_t bytes)
{
    owner *o = context;
    assert_true(o->n < MAX_ALLOCS);
    size_t rounded = (bytes + 63) / 64 * 64;
    void *at = aligned_alloc(64, rounded ? rounded : 64);
    memset(at, 0, rounded);
    return o->allocs[o->n++] = at;
}

typedef struct prepared {
    reef_arena arena;
    owner owner;
    reef_cpu_kernel kernel;
    void *scratch;
} prepared;

static void prepared_make(prepared *r, const problem *p, const isa *set, unsigned units)
{
    *r = (prepared){0};
    reef_error error = {0};
    reef_cpu_prepare prepare = {&p->plan, units, &r->arena, owner_alloc, &r->owner, &error};
    reef_status status = prepare_of(set, p->kernel.kind)(&p->kernel, &prepare, &r->kernel);
    assert_int_equal(status, REEF_OK);
    assert_true(r->kernel.tiles >= 1 && r->kernel.epilogue_only);
    r->scratch = aligned_alloc(64, (r->kernel.scratch_bytes + 64) / 64 * 64);
    memset(r->scratch, 0xff, r->kernel.scratch_bytes); /* NaN: a read of what nobody wrote shows */
}

static void prepared_free(prepared *r)
{
    for (int i = 0; i < r->owner.n; i++) {
        free(r->owner.allocs[i]);
    }
    reef_arena_free(&r->arena);
    free(r->scratch);
}

static void run_all(const prepared *r, char *const *base)
{
    reef_tile_ctx ctx = {.scratch = r->scratch, .polls_left = UINT64_MAX};
    for (uint32_t t = 0; t < r->kernel.tiles; t++) {
        assert_int_equal(r->kernel.run(r->kernel.args, base, t, &ctx), REEF_TILE_DONE);
    }
}

/* Each tile is abandoned at many of its polls, must leave y alone, and then runs to its end. */
static void run_disturbed(const prepared *r, char *const *base, const char *y, size_t bytes)
{
    _Atomic(reef_lease) lease = reef_lease_make(0, 1);
    char *before = malloc(bytes);
    for (uint32_t t = 0; t < r->kernel.tiles; t++) {
        memcpy(before, y, bytes);
        for (uint64_t polls = 0;; polls += 1 + polls / 8) {
            reef_tile_ctx ctx = {.lease = &lease, .scratch = r->scratch, .polls_left = polls};
            if (r->kernel.run(r->kernel.args, base, t, &ctx) == REEF_TILE_DONE) {
                break;
            }
            assert_memory_equal(before, y, bytes);
        }
    }
    free(before);
}

static void check(problem *p, const isa *set)
{
    uint32_t ys = p->kernel.y.storage;
    size_t bytes = p->storage[ys].bytes, n = bytes / sizeof(float);
    float *fresh = (float *)p->base[ys], *want = malloc(bytes), *got = malloc(bytes), *again = malloc(bytes);
    char *base[MAX_STORAGE];
    memcpy(base, p->base, sizeof base);

    memcpy(want, fresh, bytes);
    base[ys] = (char *)want;
    assert_int_equal(plan_interp_kernel(&p->plan, &p->kernel, base), REEF_OK);

    prepared r;
    prepared_make(&r, p, set, 1);
    memcpy(got, fresh, bytes);
    base[ys] = (char *)got;
    run_all(&r, base);
    prepared_free(&r);
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - (double)want[i]);
        if (!(e <= 2e-5 * (1 + fabs((double)want[i])))) {
            fail_msg("%s: %s: element %zu is %.9g, should be %.9g", set->name, p->text, i, (double)got[i],
                     (double)want[i]);
        }
    }

    prepared_make(&r, p, set, (unsigned)pick(2, 40));
    memcpy(again, fresh, bytes);
    base[ys] = (char *)again;
    if (pick(0, 2)) {
        run_all(&r, base);
    } else {
        run_disturbed(&r, base, base[ys], bytes);
    }
    prepared_free(&r);
    if (memcmp(got, again, bytes) != 0) {
        fail_msg("%s: %s: other bits when cut for other units or abandoned", set->name, p->text);
    }
    free(want);
    free(got);
    free(again);
}

static void many(problem *(*make)(void), int count)
{
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (!runs_here(isas[i].name)) {
            print_message("  %s is not supported by this processor: skipped\n", isas[i].name);
            continue;
        }
        seed = 7;
        for (int j = 0; j < count; j++) {
            problem *p = make();
            check(p, &isas[i]);
            problem_free(p);
        }
    }
}

static void convolutions(void **state)
{
    (void)state;
    many(random_conv, 150);
}
static void grouped_convolutions(void **state)
{
    (void)state;
    many(random_grouped, 100);
}
static void depthwise_convolutions(void **state)
{
    (void)state;
    many(random_depthwise, 100);
}
static void transposed_convolutions(void **state)
{
    (void)state;
    many(random_transpose, 100);
}
static void matrix_products(void **state)
{
    (void)state;
    many(random_matmul, 150);
}
static void attentions(void **state)
{
    (void)state;
    many(random_attention, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolutions),           cmocka_unit_test(grouped_convolutions),
        cmocka_unit_test(depthwise_convolutions), cmocka_unit_test(transposed_convolutions),
        cmocka_unit_test(matrix_products),        cmocka_unit_test(attentions),
    };
    return cmocka_run_group_tests_name("cpu_gemm", tests, NULL, NULL);
}
