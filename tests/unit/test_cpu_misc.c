/*
 * test_cpu_misc.c - the tiles that are not matrix products, against the plan interpreter.
 *
 * Every case: a random kernel over random views (permuted, padded, reversed and repeated strides), on each instruction
 * set that this processor runs and on one unit and many. y is poisoned; afterwards its elements must equal the
 * reference's, and no other byte may have changed. Then every tile is abandoned at its first poll, its second, and so
 * on: each time nothing may have been stored, and the answer must come out bit for bit the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/cpu/tile.h"
#include "model/dtype.h"
#include "support/plan_interp.h"

#if defined(__x86_64__)
extern const reef_cpu_isa reef_cpu_isa_avx512, reef_cpu_isa_avx2;
#endif
extern const reef_cpu_isa reef_cpu_isa_generic;

enum { STORAGES = 10, SCRATCH = 256 * 1024, ALLOCS = 16 };

typedef struct world {
    char *data[STORAGES]; /* exactly as long as the view needs, so that a sanitizer sees a byte too far */
    size_t bytes[STORAGES];
    int n;
} world;

static uint64_t seed = 0x9e3779b97f4a7c15u;
static uint64_t draw(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1du >> 16;
}
static int64_t between(int64_t low, int64_t high)
{
    return low + (int64_t)(draw() % (uint64_t)(high - low + 1));
}
static double real(void)
{
    return (double)(draw() & 0xffffff) / 0x800000 - 1;
}

static void fill(char *to, size_t bytes, reef_dtype dtype, double scale)
{
    size_t n = bytes / reef_dtype_bytes(dtype);
    for (size_t i = 0; i < n; i++) {
        double v = real() * scale;
        switch (dtype) {
        case REEF_F32: ((float *)to)[i] = (float)v; break;
        case REEF_F64: ((double *)to)[i] = v; break;
        case REEF_I64: ((int64_t *)to)[i] = (int64_t)(v * 4); break;
        case REEF_I32: ((int32_t *)to)[i] = (int32_t)(v * 4); break;
        case REEF_I8: ((int8_t *)to)[i] = (int8_t)(v * 4); break;
        case REEF_U8: ((uint8_t *)to)[i] = (uint8_t)fabs(v * 4); break;
        case REEF_BOOL: to[i] = v > 0; break;
        case REEF_F16: ((uint16_t *)to)[i] = (uint16_t)draw(); break;
        }
    }
}

/* order: dimensions from outermost to innermost in memory. repeat: bit d gives dimension d stride 0. */
static reef_view lay_out(world *w, reef_dtype dtype, int rank, const int64_t *dims, const int *order, bool gaps,
                         bool reversed, unsigned repeat, double scale)
{
    reef_view v = {.storage = (uint32_t)w->n, .dtype = dtype, .rank = rank};
    int64_t step = 1, low = 0, high = 0;
    for (int j = rank - 1; j >= 0; j--) {
        int d = order[j];
        v.dims[d] = dims[d];
        if (repeat >> d & 1) {
            continue;
        }
        v.stride[d] = step;
        step *= dims[d] > 0 ? dims[d] : 1;
        if (gaps && draw() % 2) {
            step += between(1, 3);
        }
        if (reversed && draw() % 3 == 0) {
            v.stride[d] = -v.stride[d];
        }
        int64_t reach = dims[d] > 0 ? v.stride[d] * (dims[d] - 1) : 0;
        *(reach < 0 ? &low : &high) += reach;
    }
    v.offset = -low + (gaps ? 2 : 0);
    size_t bytes = (size_t)(v.offset + high + 1 + (gaps ? 1 : 0)) * reef_dtype_bytes(dtype);
    w->bytes[w->n] = bytes;
    w->data[w->n] = malloc(bytes);
    fill(w->data[w->n], bytes, dtype, scale);
    w->n++;
    return v;
}

static void shuffled(int *order, int rank, bool shuffle)
{
    for (int i = 0; i < rank; i++) {
        order[i] = i;
    }
    for (int i = rank - 1; shuffle && i > 0; i--) {
        int j = (int)between(0, i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
}

static reef_view any_view(world *w, reef_dtype dtype, int rank, const int64_t *dims, unsigned repeat, double scale)
{
    int order[REEF_MAX_RANK];
    shuffled(order, rank, draw() % 2);
    return lay_out(w, dtype, rank, dims, order, draw() % 3 == 0, draw() % 3 == 0, repeat, scale);
}
/* (N,C,H,W) with C dense, sometimes inside something wider. */
static reef_view nhwc_view(world *w, const int64_t *dims)
{
    return lay_out(w, REEF_F32, 4, dims, (int[]){0, 2, 3, 1}, draw() % 2, false, 0, 3);
}
static void world_free(world *w)
{
    for (int i = 0; i < w->n; i++) {
        free(w->data[i]);
    }
    w->n = 0;
}

typedef struct owner {
    void *blocks[ALLOCS];
    int n;
} owner;
static void *owner_alloc(void *o, size_t bytes)
{
    owner *own = o;
    assert_true(own->n < ALLOCS);
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memset(p, 0, (bytes + 63) / 64 * 64);
    return own->blocks[own->n++] = p;
}

static int64_t elems(const reef_view *v)
{
    int64_t n = 1;
    for (int d = 0; d < v->rank; d++) {
        n *= v->dims[d];
    }
    return n;
}

static bool step(const reef_view *v, int64_t *at)
{
    for (int d = v->rank - 1; d >= 0; d--) {
        if (++at[d] < v->dims[d]) {
            return true;
        }
        at[d] = 0;
    }
    return false;
}

/* Elements agree, and bytes that are no element of y still hold what they held. */
static void compare(const reef_kernel *k, const char *what, const char *got, const char *want, const char *before,
                    size_t bytes, double tolerance)
{
    size_t size = reef_dtype_bytes(k->y.dtype);
    char *mine = calloc(1, bytes + 1);
    int64_t at[REEF_MAX_RANK] = {0};
    if (elems(&k->y) > 0) {
        do {
            int64_t i = k->y.offset;
            for (int d = 0; d < k->y.rank; d++) {
                i += at[d] * k->y.stride[d];
            }
            memset(mine + i * (int64_t)size, 1, size);
            bool same = memcmp(got + i * (int64_t)size, want + i * (int64_t)size, size) == 0;
            if (!same && k->y.dtype == REEF_F32) {
                float g = ((const float *)got)[i], r = ((const float *)want)[i];
                same =
                    g == r || (g != g && r != r) || fabs((double)g - (double)r) <= tolerance * (0.1 + fabs((double)r));
                if (!same) {
                    fail_msg("%s (%s): element %ld is %.9g, not %.9g", k->name, what, (long)i, (double)g, (double)r);
                }
            } else if (!same) {
                fail_msg("%s (%s): element %ld differs", k->name, what, (long)i);
            }
        } while (step(&k->y, at));
    }
    for (size_t i = 0; i < bytes; i++) {
        if (!mine[i] && got[i] != before[i]) {
            fail_msg("%s (%s): byte %zu is not y's and was written", k->name, what, i);
        }
    }
    free(mine);
}

/* Abandons tile at poll 0, 1, 2, ... until it finishes first. */
static void run_disturbed(const reef_cpu_kernel *c, char *const *base, uint32_t tile, void *scratch, const char *y,
                          size_t y_bytes)
{
    static const reef_lease all = UINT64_C(0xffffffff) << 32;
    _Atomic(reef_lease) lease = all;
    char *before = malloc(y_bytes + 1);
    memcpy(before, y, y_bytes);
    for (uint64_t polls = 0;; polls += polls < 20 ? 1 : polls / 4) {
        memset(scratch, 0xcd, SCRATCH);
        reef_tile_ctx ctx = {.lease = &lease, .scratch = scratch, .polls_left = polls};
        if (c->run(c->args, base, tile, &ctx) == REEF_TILE_DONE) {
            break;
        }
        assert_memory_equal(before, y, y_bytes);
    }
    free(before);
}

static void check_isa(const reef_cpu_isa *isa, const reef_kernel *k, world *w, const char *want, double tolerance)
{
    uint32_t ys = k->y.storage;
    size_t bytes = w->bytes[ys];
    char *before = malloc(bytes + 1), *first = malloc(bytes + 1), what[96];
    void *scratch = aligned_alloc(64, SCRATCH);
    memcpy(before, w->data[ys], bytes);
    for (int round = 0; round < 3; round++) {
        unsigned units = round == 0 ? 1 : round == 1 ? 7 : 64;
        reef_arena arena = {0};
        owner own = {0};
        reef_error error = {0};
        reef_cpu_prepare prepare = {
            .units = units, .arena = &arena, .alloc = owner_alloc, .owner = &own, .error = &error};
        reef_cpu_kernel c = {0};
        if (isa->prepare[k->kind](k, &prepare, &c) != REEF_OK) {
            fail_msg("%s", error.message);
        }
        snprintf(what, sizeof what, "%s, %s, %u tiles", isa->name, c.variant, c.tiles);
        assert_true(c.tiles >= 1 && c.scratch_bytes <= SCRATCH && c.epilogue_only && c.tile_flops >= 1);
        memcpy(w->data[ys], before, bytes);
        memset(scratch, 0xcd, SCRATCH);
        for (uint32_t t = 0; t < c.tiles; t++) {
            if (round == 2) {
                run_disturbed(&c, w->data, c.tiles - 1 - t, scratch, w->data[ys], bytes);
                continue;
            }
            reef_tile_ctx ctx = {.scratch = scratch, .polls_left = UINT64_MAX};
            assert_int_equal(c.run(c.args, w->data, t, &ctx), REEF_TILE_DONE);
        }
        compare(k, what, w->data[ys], want, before, bytes, tolerance);
        if (round == 0) {
            memcpy(first, w->data[ys], bytes);
        } else if (memcmp(first, w->data[ys], bytes) != 0) {
            fail_msg("%s (%s): other bits than on one unit", k->name, what);
        }
        for (int i = 0; i < own.n; i++) {
            free(own.blocks[i]);
        }
        reef_arena_free(&arena);
    }
    memcpy(w->data[ys], before, bytes);
    free(before);
    free(first);
    free(scratch);
}

/* y's storage keeps its contents when y is also an input, and is poisoned otherwise. */
static void check_against(const reef_kernel *k, world *w, const char *want, double tolerance)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        check_isa(&reef_cpu_isa_avx512, k, w, want, tolerance);
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        check_isa(&reef_cpu_isa_avx2, k, w, want, tolerance);
    }
#endif
    check_isa(&reef_cpu_isa_generic, k, w, want, tolerance);
}

static void check(const reef_kernel *k, world *w, double tolerance)
{
    uint32_t ys = k->y.storage;
    bool in_place = false;
    for (int i = 0; i < k->n_in; i++) {
        in_place = in_place || k->in[i].storage == ys;
    }
    if (!in_place) {
        memset(w->data[ys], 0xa5, w->bytes[ys]);
    }
    char *keep = malloc(w->bytes[ys] + 1), *want = malloc(w->bytes[ys] + 1);
    memcpy(keep, w->data[ys], w->bytes[ys]);
    assert_int_equal(plan_interp_kernel(NULL, k, w->data), REEF_OK);
    memcpy(want, w->data[ys], w->bytes[ys]);
    memcpy(w->data[ys], keep, w->bytes[ys]);
    check_against(k, w, want, tolerance);
    free(keep);
    free(want);
    world_free(w);
}

static int any_dims(int64_t *dims, int max_rank, int64_t most)
{
    int rank = (int)between(1, max_rank);
    int64_t total = 1;
    for (int i = 0; i < rank; i++) {
        dims[i] = draw() % 5 == 0 ? 1 : between(1, most);
        dims[i] = total * dims[i] > 40000 ? 1 : dims[i];
        total *= dims[i];
    }
    return rank;
}

/* ---------------------------------------------------------------- eltwise -- */

static void one_insn(uint8_t op, uint8_t type, uint8_t from, int n_in, uint8_t b, double imm, double imm2)
{
    static const char *const names[] = {
#define X(name) #name,
        REEF_ELT_LIST(X)
#undef X
    };
    world w = {0};
    int64_t dims[REEF_MAX_RANK];
    int rank = any_dims(dims, 4, 60);
    reef_kernel k = {.kind = REEF_K_ELTWISE, .name = names[op], .n_in = n_in};
    for (int i = 0; i < n_in; i++) {
        uint8_t t = op == REEF_ELT_CAST ? from : op == REEF_ELT_WHERE && i == 0 ? REEF_BOOL : type;
        double scale = op == REEF_ELT_CAST ? 100 : 3;
        unsigned repeat = draw() % 2 ? (unsigned)draw() & 15 : 0;
        k.in[i] = any_view(&w, t, rank, dims, repeat, scale);
        if (op == REEF_ELT_POW && t == REEF_F32 && i == 0) {
            for (size_t j = 0; j < w.bytes[i] / 4; j++) {
                ((float *)w.data[i])[j] = fabsf(((float *)w.data[i])[j]);
            }
        }
    }
    if (op == REEF_ELT_POW && type == REEF_F32 && draw() % 2) { /* the exponents that are treated apart */
        static const float exponents[] = {2, 3, 0.5f, 1, -1, -0.5f, 0, 2.5f};
        memset(k.in[1].stride, 0, sizeof k.in[1].stride);
        for (size_t j = 0; j < w.bytes[1] / 4; j++) {
            ((float *)w.data[1])[j] = exponents[draw() % 8];
        }
    }
    bool flag = op >= REEF_ELT_EQ && op <= REEF_ELT_GE;
    k.y = any_view(&w, flag ? REEF_BOOL : type, rank, dims, 0, 1);
    k.eltwise = (reef_eltwise){.n_insns = 1, .result = 9};
    k.eltwise.insns[0] = (reef_elt_insn){
        .op = op, .type = type, .from = from, .dst = 9, .a = 0, .b = b, .c = 2, .imm = imm, .imm2 = imm2};
    check(&k, &w, 4e-6);
}

static void every_operator_on_every_type(void **state)
{
    (void)state;
    static const uint8_t types[] = {REEF_F32, REEF_I64, REEF_I32, REEF_I8, REEF_U8};
    for (int round = 0; round < 6; round++) {
        for (uint8_t op = REEF_ELT_ADD; op <= REEF_ELT_GE; op++) {
            for (size_t t = 0; t < 5; t++) {
                bool narrow = types[t] == REEF_I8 || types[t] == REEF_U8;
                if ((op == REEF_ELT_POW && types[t] != REEF_F32) || (narrow && op == REEF_ELT_SUB)) {
                    continue; /* the interpreter does not wrap around */
                }
                one_insn(op, types[t], 0, 2, 1, 0, 0);
            }
        }
        for (uint8_t op = REEF_ELT_AND; op <= REEF_ELT_NOT; op++) {
            one_insn(op, REEF_BOOL, 0, op == REEF_ELT_NOT ? 1 : 2, 1, 0, 0);
        }
        for (uint8_t op = REEF_ELT_EQ; op <= REEF_ELT_GE; op++) {
            one_insn(op, REEF_BOOL, 0, 2, 1, 0, 0);
        }
        for (size_t t = 0; t < 5; t++) {
            one_insn(REEF_ELT_WHERE, types[t], 0, 3, 1, 0, 0);
            one_insn(REEF_ELT_FMA, types[t] == REEF_U8 || types[t] == REEF_I8 ? REEF_I64 : types[t], 0, 3, 1, 0, 0);
            one_insn(REEF_ELT_SIGN, types[t], 0, 1, 0, 0, 0);
            one_insn(REEF_ELT_ABS, types[t], 0, 1, 0, 0, 0);
            one_insn(REEF_ELT_CONST, types[t], 0, 0, 0, 7.25, 0);
        }
        for (uint8_t op = REEF_ELT_NEG; op <= REEF_ELT_SOFTPLUS; op++) {
            one_insn(op, REEF_F32, 0, 1, 0, 0, 0);
        }
        for (uint8_t act = REEF_ACT_NONE; act <= REEF_ACT_GELU_TANH; act++) {
            one_insn(REEF_ELT_ACT, REEF_F32, 0, 1, act, 0.2, 0.5);
        }
    }
}

static void casts_agree(void **state)
{
    (void)state;
    static const uint8_t types[] = {REEF_F32, REEF_F64, REEF_I64, REEF_I32, REEF_I8, REEF_U8, REEF_BOOL};
    for (int from = 0; from < 7; from++) {
        for (int to = 0; to < 7; to++) {
            if (types[from] < REEF_BOOL && types[from] > REEF_F32 && (types[to] == REEF_I8 || types[to] == REEF_U8)) {
                continue; /* the interpreter does not wrap around */
            }
            one_insn(REEF_ELT_CAST, types[to], types[from], 1, 0, 0, 0);
        }
    }
}

/* Batch normalisation, residuals, activations, programs that reuse registers, in place and not. */
static void programs_agree(void **state)
{
    (void)state;
    for (int round = 0; round < 120; round++) {
        world w = {0};
        int64_t dims[4] = {between(1, 2), between(1, round % 3 ? 90 : 700), between(1, 9), between(1, 14)};
        reef_kernel k = {.kind = REEF_K_ELTWISE, .name = "program", .n_in = (int)between(1, 4)};
        for (int i = 0; i < k.n_in; i++) {
            k.in[i] = i > 0 && draw() % 2 ? any_view(&w, REEF_F32, 4, dims, 13, 2)
                      : draw() % 4        ? nhwc_view(&w, dims)
                                          : any_view(&w, REEF_F32, 4, dims, (unsigned)draw() & 15, 2);
        }
        k.in[0] = nhwc_view(&w, dims);
        k.y = draw() % 2 ? k.in[0] : nhwc_view(&w, dims);
        int defined = k.n_in;
        reef_eltwise *e = &k.eltwise;
        e->n_insns = (int)between(1, round % 2 ? 2 : 8);
        for (int i = 0; i < e->n_insns; i++) {
            static const uint8_t ops[] = {REEF_ELT_FMA, REEF_ELT_ADD, REEF_ELT_MUL, REEF_ELT_SUB,  REEF_ELT_MAX,
                                          REEF_ELT_MIN, REEF_ELT_ACT, REEF_ELT_ACT, REEF_ELT_CONST};
            static const uint8_t acts[] = {REEF_ACT_RELU, REEF_ACT_CLIP, REEF_ACT_TANH, REEF_ACT_SIGMOID};
            reef_elt_insn *s = &e->insns[i];
            s->op = i == e->n_insns - 1 && draw() % 2 ? REEF_ELT_ACT : ops[draw() % 9];
            s->type = REEF_F32;
            s->a = i > 0 && draw() % 2 ? e->insns[i - 1].dst : (uint8_t)between(0, defined - 1);
            s->b = s->op == REEF_ELT_ACT ? acts[draw() % 4] : (uint8_t)between(0, defined - 1);
            s->c = (uint8_t)between(0, defined - 1);
            s->imm = -0.7;
            s->imm2 = 1.5;
            s->dst = (uint8_t)between(0, defined < REEF_ELT_REGS ? defined : REEF_ELT_REGS - 1);
            defined += s->dst == defined;
            e->result = s->dst;
        }
        if (draw() % 8 == 0) {
            e->result = (uint8_t)between(0, defined - 1);
        }
        check(&k, &w, 3e-5);
    }
}

/* A register that changes its type, and so its size, under its own operand. */
static void registers_change_type_in_place(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        world w = {0};
        int64_t dims[2] = {between(1, 40), between(1, 200)};
        reef_kernel k = {.kind = REEF_K_ELTWISE, .name = "retyped", .n_in = 2};
        k.in[0] = any_view(&w, REEF_F32, 2, dims, (unsigned)draw() & 3, 50);
        k.in[1] = any_view(&w, REEF_I64, 2, dims, (unsigned)draw() & 3, 50);
        k.y = any_view(&w, REEF_I64, 2, dims, 0, 1);
        k.eltwise = (reef_eltwise){
            .n_insns = 5,
            .result = 0,
            .insns = {{.op = REEF_ELT_CAST, .type = REEF_I64, .from = REEF_F32, .dst = 0, .a = 0},
                      {.op = REEF_ELT_ADD, .type = REEF_I64, .dst = 2, .a = 0, .b = 1},
                      {.op = REEF_ELT_LT, .type = REEF_I64, .dst = 2, .a = 2, .b = 1},
                      {.op = REEF_ELT_WHERE, .type = REEF_I64, .dst = 2, .a = 2, .b = 0, .c = 1},
                      {.op = REEF_ELT_MUL, .type = REEF_I64, .dst = 0, .a = 2, .b = 0}},
        };
        check(&k, &w, 0);
    }
}

/* The corners of integer and conversion arithmetic, which must be defined. */
static void corners_of_arithmetic_are_defined(void **state)
{
    (void)state;
    static const int64_t a[] = {INT64_MIN, INT64_MIN, 7, -7, 7, -7, 5, INT64_MAX, 0};
    static const int64_t b[] = {-1, 0, 3, 3, -3, -3, 0, 1, 0};
    static const struct {
        uint8_t op;
        int64_t want[9];
    } cases[] = {
        {REEF_ELT_DIV, {INT64_MIN, 0, 2, -2, -2, 2, 0, INT64_MAX, 0}},
        {REEF_ELT_MOD, {0, 0, 1, 2, -2, -1, 0, 0, 0}},
        {REEF_ELT_FMOD, {0, 0, 1, -1, 1, -1, 0, 0, 0}},
        {REEF_ELT_ADD, {INT64_MAX, INT64_MIN, 10, -4, 4, -10, 5, INT64_MIN, 0}},
        {REEF_ELT_POW, {0, 1, 343, -343, 0, 0, 1, INT64_MAX, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w = {.n = 3};
        w.bytes[0] = w.bytes[1] = w.bytes[2] = sizeof a;
        for (int s = 0; s < 3; s++) {
            w.data[s] = malloc(sizeof a);
            memcpy(w.data[s], s == 0 ? a : b, sizeof a);
        }
        reef_view v = {.dtype = REEF_I64, .rank = 1, .dims = {9}, .stride = {1}};
        reef_kernel k = {.kind = REEF_K_ELTWISE, .name = "corner", .n_in = 2, .in = {v, v}, .y = v};
        k.in[1].storage = 1;
        k.y.storage = 2;
        k.eltwise = (reef_eltwise){.n_insns = 1, .result = 2};
        k.eltwise.insns[0] = (reef_elt_insn){.op = cases[i].op, .type = REEF_I64, .dst = 2, .a = 0, .b = 1};
        check_against(&k, &w, (const char *)cases[i].want, 0);
        world_free(&w);
    }
    static const float f[] = {NAN, INFINITY, -INFINITY, 1e30f, -1e30f, 2.9f, -2.9f, 255.5f, 0};
    static const int64_t i64[] = {0, INT64_MAX, INT64_MIN, INT64_MAX, INT64_MIN, 2, -2, 255, 0};
    static const uint8_t u8[] = {0, 255, 0, 255, 0, 2, 0, 255, 0};
    for (int wide = 0; wide < 2; wide++) {
        world w = {.n = 2, .bytes = {sizeof f, wide ? sizeof i64 : sizeof u8}};
        w.data[0] = malloc(sizeof f);
        memcpy(w.data[0], f, sizeof f);
        w.data[1] = calloc(1, w.bytes[1]);
        reef_view v = {.dtype = REEF_F32, .rank = 1, .dims = {9}, .stride = {1}};
        reef_kernel k = {.kind = REEF_K_ELTWISE, .name = "saturation", .n_in = 1, .in = {v}, .y = v};
        k.y.storage = 1;
        k.y.dtype = wide ? REEF_I64 : REEF_U8;
        k.eltwise = (reef_eltwise){.n_insns = 1, .result = 1};
        k.eltwise.insns[0] =
            (reef_elt_insn){.op = REEF_ELT_CAST, .type = (uint8_t)k.y.dtype, .from = REEF_F32, .dst = 1, .a = 0};
        check_against(&k, &w, wide ? (const char *)i64 : (const char *)u8, 0);
        world_free(&w);
    }
}

/* ------------------------------------------------------------------- copy -- */

static void copies_and_transposes_agree(void **state)
{
    (void)state;
    static const reef_dtype types[] = {REEF_F32, REEF_I64, REEF_F16, REEF_U8, REEF_BOOL};
    for (int round = 0; round < 150; round++) {
        world w = {0};
        int64_t dims[REEF_MAX_RANK];
        int rank = any_dims(dims, 5, round % 2 ? 70 : 9);
        reef_dtype dtype = round % 3 ? REEF_F32 : types[draw() % 5];
        reef_kernel k = {.kind = REEF_K_COPY, .name = "copy", .n_in = 1};
        k.in[0] = any_view(&w, dtype, rank, dims, draw() % 5 == 0 ? (unsigned)draw() & 31 : 0, 9);
        k.y = any_view(&w, dtype, rank, dims, 0, 1);
        check(&k, &w, 0);
    }
    static const int64_t images[][4] = {{1, 3, 61, 47}, {2, 4, 33, 20}, {1, 64, 31, 33}, {2, 257, 17, 19}};
    for (int i = 0; i < 8; i++) { /* NCHW <-> NHWC */
        world w = {0};
        reef_kernel k = {.kind = REEF_K_COPY, .name = "image", .n_in = 1};
        static const int nchw[] = {0, 1, 2, 3}, nhwc[] = {0, 2, 3, 1};
        k.in[0] = lay_out(&w, REEF_F32, 4, images[i / 2], i % 2 ? nchw : nhwc, false, false, 0, 3);
        k.y = lay_out(&w, REEF_F32, 4, images[i / 2], i % 2 ? nhwc : nchw, false, false, 0, 3);
        check(&k, &w, 0);
    }
}

static void pads_agree(void **state)
{
    (void)state;
    static const reef_dtype types[] = {REEF_F32, REEF_I64, REEF_I32, REEF_U8, REEF_BOOL};
    for (int round = 0; round < 150; round++) {
        world w = {0};
        int64_t dims[REEF_MAX_RANK], out[REEF_MAX_RANK];
        int rank = any_dims(dims, 5, 12);
        reef_dtype dtype = types[draw() % 5];
        reef_kernel k = {.kind = REEF_K_COPY, .name = "pad", .n_in = 1};
        k.copy = (reef_copy){.pads = true, .mode = (reef_pad_mode)(draw() % 3), .value = 3};
        for (int i = 0; i < rank; i++) {
            /* Reflecting a single element is not defined. */
            bool plain = draw() % 2 || (k.copy.mode == REEF_PAD_REFLECT && dims[i] == 1);
            k.copy.before[i] = plain ? 0 : between(dims[i] > 1 ? -1 : 0, 4);
            out[i] = plain ? dims[i] : dims[i] + k.copy.before[i] + between(k.copy.before[i] > 0 ? -1 : 0, 3);
            out[i] = out[i] < 1 ? 1 : out[i];
        }
        k.in[0] = any_view(&w, dtype, rank, dims, 0, 9);
        k.y = any_view(&w, dtype, rank, out, 0, 1);
        check(&k, &w, 0);
    }
}

/* ---------------------------------------------------------------- windows -- */

static void pools_agree(void **state)
{
    (void)state;
    for (int round = 0; round < 120; round++) {
        world w = {0};
        int64_t dims[4] = {between(1, 2), between(1, 80), between(1, 20), between(1, 20)}, out[4] = {dims[0], dims[1]};
        reef_kernel k = {.kind = REEF_K_POOL, .name = "pool", .n_in = 1};
        reef_pool *p = &k.pool;
        p->kind = draw() % 2 ? REEF_POOL_MAX : REEF_POOL_AVERAGE;
        p->count_include_pad = draw() % 2;
        for (int i = 0; i < 2; i++) {
            p->kernel[i] = between(1, 4);
            p->stride[i] = between(1, 3);
            p->dilation[i] = between(1, 2);
            p->pad[i] = between(0, p->kernel[i] - 1);
            p->pad_end[i] = between(0, p->kernel[i] - 1);
            int64_t span = dims[2 + i] + p->pad[i] + p->pad_end[i] - p->dilation[i] * (p->kernel[i] - 1) - 1;
            out[2 + i] = span < 0 ? 1 : (span + (draw() % 2 ? p->stride[i] - 1 : 0)) / p->stride[i] + 1;
        }
        k.in[0] = nhwc_view(&w, dims);
        k.y = nhwc_view(&w, out);
        check(&k, &w, 3e-6);
    }
    for (int kind = 0; kind < 2; kind++) { /* one window longer than a tile */
        world w = {0};
        int64_t dims[4] = {1, 70, 130, 120}, out[4] = {1, 70, 1, 1};
        reef_kernel k = {.kind = REEF_K_POOL, .name = "large pool", .n_in = 1};
        k.pool = (reef_pool){.kind = (reef_pool_kind)kind, .kernel = {130, 120}, .stride = {1, 1}, .dilation = {1, 1}};
        k.in[0] = nhwc_view(&w, dims);
        k.y = nhwc_view(&w, out);
        check(&k, &w, 1e-4);
    }
}

static void resizes_agree(void **state)
{
    (void)state;
    for (int round = 0; round < 150; round++) {
        world w = {0};
        int64_t dims[4] = {between(1, 2), between(1, 50), between(1, 9), between(1, 9)}, out[4] = {dims[0], dims[1]};
        reef_kernel k = {.kind = REEF_K_RESIZE, .name = "resize", .n_in = 1};
        k.resize.linear = draw() % 2;
        k.resize.coord = (reef_resize_coord)(draw() % 4);
        k.resize.nearest = (reef_resize_nearest)(draw() % 4);
        for (int i = 0; i < 2; i++) { /* scales whose quotients are exact, so that ties are ties for everyone */
            static const float scales[] = {1, 2, 4, 0.5f, 8};
            k.resize.scale[i] = scales[draw() % 5];
            dims[2 + i] = k.resize.coord == REEF_RESIZE_ALIGN_CORNERS ? 5 : dims[2 + i];
            out[2 + i] = (int64_t)((float)dims[2 + i] * k.resize.scale[i]);
            out[2 + i] = k.resize.coord == REEF_RESIZE_ALIGN_CORNERS ? 9 : out[2 + i] < 1 ? 1 : out[2 + i];
        }
        k.in[0] = nhwc_view(&w, dims);
        k.y = nhwc_view(&w, out);
        check(&k, &w, 4e-6);
    }
}

static void lrn_agrees(void **state)
{
    (void)state;
    for (int round = 0; round < 40; round++) {
        world w = {0};
        int64_t dims[4] = {between(1, 2), between(1, 90), between(1, 8), between(1, 8)};
        reef_kernel k = {.kind = REEF_K_LRN, .name = "lrn", .n_in = 1};
        k.lrn = (reef_lrn){.size = between(1, 9), .alpha = 0.1f, .beta = round % 2 ? 0.75f : 0.6f, .bias = 1.5f};
        k.in[0] = nhwc_view(&w, dims);
        k.y = nhwc_view(&w, dims);
        check(&k, &w, 4e-6);
    }
}

/* ------------------------------------------------------------- reductions -- */

static void reduce_case(int rank, const int64_t *dims, unsigned axes, reef_reduce_kind kind, reef_dtype dtype)
{
    world w = {0};
    int64_t out[REEF_MAX_RANK];
    double count = 1; /* of what cancels in a sum */
    reef_kernel k = {.kind = REEF_K_REDUCE, .name = "reduce", .n_in = 1};
    k.reduce.kind = kind;
    for (int i = 0; i < rank; i++) {
        k.reduce.axis[i] = axes >> i & 1;
        count *= k.reduce.axis[i] ? (double)dims[i] : 1;
        out[i] = k.reduce.axis[i] ? 1 : dims[i];
    }
    k.in[0] =
        any_view(&w, dtype, rank, dims, draw() % 5 ? 0 : (unsigned)draw() & 7, kind == REEF_REDUCE_PROD ? 1.5 : 3);
    k.y = any_view(&w, dtype, rank, out, 0, 1);
    check(&k, &w, 2e-5 * (1 + sqrt(count) / 3));
}

static void reductions_agree(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        for (int kind = REEF_REDUCE_SUM; kind <= REEF_REDUCE_LOG_SUM_EXP; kind++) {
            int64_t dims[REEF_MAX_RANK];
            int rank = any_dims(dims, 4, kind == REEF_REDUCE_PROD ? 3 : 40);
            reef_dtype dtype = draw() % 3 == 0 && kind < REEF_REDUCE_LOG_SUM_EXP ? REEF_I64 : REEF_F32;
            reduce_case(rank, dims, (unsigned)draw(), (reef_reduce_kind)kind, dtype);
        }
    }
    reduce_case(2, (int64_t[]){1, 300001}, 2, REEF_REDUCE_MEAN, REEF_F32);
    reduce_case(2, (int64_t[]){1, 90001}, 2, REEF_REDUCE_LOG_SUM_EXP, REEF_F32);
    reduce_case(2, (int64_t[]){9001, 70}, 1, REEF_REDUCE_SUM, REEF_F32);
    reduce_case(2, (int64_t[]){9001, 64}, 1, REEF_REDUCE_LOG_SUM_EXP, REEF_F32);
    reduce_case(1, (int64_t[]){60000}, 1, REEF_REDUCE_SUM, REEF_I64);
    for (int i = 0; i < 2; i++) { /* global average pooling */
        world w = {0};
        int64_t dims[4] = {2, i ? 2048 : 100, 7, 7}, out[4] = {2, dims[1], 1, 1};
        reef_kernel k = {.kind = REEF_K_REDUCE, .name = "global average", .n_in = 1};
        k.reduce = (reef_reduce){.kind = REEF_REDUCE_MEAN, .axis = {false, false, true, true}};
        k.in[0] = nhwc_view(&w, dims);
        k.y = nhwc_view(&w, out);
        check(&k, &w, 3e-6);
    }
}

static void nan_survives_maximum(void **state)
{
    (void)state;
    for (int axis = 0; axis < 2; axis++) {
        world w = {0};
        int64_t dims[2] = {37, 41}, out[2] = {axis ? 37 : 1, axis ? 1 : 41};
        int order[2] = {0, 1};
        reef_kernel k = {.kind = REEF_K_REDUCE, .name = "nan", .n_in = 1};
        k.reduce.kind = REEF_REDUCE_MAX;
        k.reduce.axis[axis] = true;
        k.in[0] = lay_out(&w, REEF_F32, 2, dims, order, false, false, 0, 3);
        for (int i = 0; i < 37; i += 3) {
            ((float *)w.data[0])[i * 41 + (i * 7) % 41] = NAN;
        }
        k.y = lay_out(&w, REEF_F32, 2, out, order, false, false, 0, 3);
        check(&k, &w, 0);
    }
}

static void softmax_agrees(void **state)
{
    (void)state;
    for (int round = 0; round < 104; round++) {
        world w = {0};
        int64_t dims[REEF_MAX_RANK];
        int rank = any_dims(dims, 4, 40);
        reef_kernel k = {.kind = REEF_K_SOFTMAX, .name = "softmax", .n_in = 1};
        k.softmax = (reef_softmax){.axis = (int)between(0, rank - 1), .log = draw() % 2};
        int order[REEF_MAX_RANK];
        shuffled(order, rank, false);
        if (round >= 100) { /* longer than a segment: rows, lanes */
            rank = 2;
            dims[0] = round % 2 ? 2 : 9001;
            dims[1] = round % 2 ? 140001 : 5;
            k.softmax.axis = round % 2;
        }
        bool same = round >= 100 || draw() % 2;
        k.in[0] = same ? lay_out(&w, REEF_F32, rank, dims, order, false, false, 0, 5)
                       : any_view(&w, REEF_F32, rank, dims, 0, 5);
        k.y = same ? lay_out(&w, REEF_F32, rank, dims, order, false, false, 0, 5)
                   : any_view(&w, REEF_F32, rank, dims, 0, 5);
        check(&k, &w, 1e-5);
    }
}

static void layer_norm_agrees(void **state)
{
    (void)state;
    for (int round = 0; round < 80; round++) {
        world w = {0};
        int64_t dims[3] = {between(1, 3), between(1, 9), between(1, 200)};
        int order[3] = {0, 1, 2};
        if (round == 0) {
            dims[2] = 70001;
        }
        reef_kernel k = {.kind = REEF_K_LAYER_NORM, .name = "layer norm", .n_in = 1 + round % 2};
        float *scale = malloc((size_t)dims[2] * 4), *bias = malloc((size_t)dims[2] * 4);
        fill((char *)scale, (size_t)dims[2] * 4, REEF_F32, 2);
        fill((char *)bias, (size_t)dims[2] * 4, REEF_F32, 2);
        k.layer_norm = (reef_layer_norm){.scale = draw() % 3 ? scale : NULL,
                                         .bias = draw() % 3 ? bias : NULL,
                                         .epsilon = 1e-5f,
                                         .has_residual = round % 2};
        for (int i = 0; i < k.n_in; i++) {
            k.in[i] = lay_out(&w, REEF_F32, 3, dims, order, false, false, i == 1 && draw() % 2 ? 3 : 0, 3);
        }
        k.y = lay_out(&w, REEF_F32, 3, dims, order, draw() % 2, false, 0, 3);
        check(&k, &w, 1e-4);
        free(scale);
        free(bias);
    }
}

static void arg_max_agrees(void **state)
{
    (void)state;
    for (int round = 0; round < 80; round++) {
        world w = {0};
        int64_t dims[REEF_MAX_RANK], out[REEF_MAX_RANK];
        int rank = any_dims(dims, 3, 60);
        reef_kernel k = {.kind = REEF_K_ARG_MAX, .name = "arg max", .n_in = 1};
        k.arg_max = (reef_arg_max){.axis = (int)between(0, rank - 1), .select_last = draw() % 2, .min = draw() % 2};
        for (int i = 0; round < 2 && i < rank; i++) { /* longer than a tile */
            dims[i] = i == k.arg_max.axis ? 100003 : 1;
        }
        memcpy(out, dims, sizeof out);
        out[k.arg_max.axis] = 1;
        k.in[0] = any_view(&w, draw() % 3 ? REEF_F32 : REEF_I64, rank, dims, 0, 3);
        if (k.in[0].dtype == REEF_F32 && draw() % 2) { /* many equals */
            for (size_t i = 0; i < w.bytes[0] / 4; i++) {
                ((float *)w.data[0])[i] = roundf(((float *)w.data[0])[i]);
            }
        }
        k.y = any_view(&w, REEF_I64, rank, out, 0, 1);
        check(&k, &w, 0);
    }
}

static void gathers_agree_and_stay_in_bounds(void **state)
{
    (void)state;
    static const reef_dtype types[] = {REEF_F32, REEF_I64, REEF_F16, REEF_U8};
    for (int round = 0; round < 120; round++) {
        world w = {0};
        int64_t dims[REEF_MAX_RANK], id[REEF_MAX_RANK], out[REEF_MAX_RANK];
        int rank = any_dims(dims, 3, 30), ir = (int)between(0, 2), n = 0;
        for (int i = 0; i < ir; i++) {
            id[i] = between(1, 9);
        }
        reef_kernel k = {.kind = REEF_K_GATHER, .name = "gather", .n_in = 2};
        k.gather.axis = (int)between(0, rank - 1);
        for (int i = 0; i < k.gather.axis; i++) {
            out[n++] = dims[i];
        }
        for (int i = 0; i < ir; i++) {
            out[n++] = id[i];
        }
        for (int i = k.gather.axis + 1; i < rank; i++) {
            out[n++] = dims[i];
        }
        reef_dtype dtype = types[draw() % 4];
        k.in[0] = any_view(&w, dtype, rank, dims, 0, 9);
        k.in[1] = any_view(&w, draw() % 2 ? REEF_I64 : REEF_I32, ir, id, 0, draw() % 2 ? 3 : 1e8);
        if (draw() % 4 == 0) { /* anything at all */
            for (size_t i = 0; i < w.bytes[1]; i++) {
                w.data[1][i] = (char)draw();
            }
        }
        k.y = any_view(&w, dtype, n, out, 0, 1);
        check(&k, &w, 0);
    }
}

static void empty_tensors_are_nothing_to_do(void **state)
{
    (void)state;
    int64_t dims[4] = {1, 0, 3, 2};
    static const reef_kernel_kind kinds[] = {REEF_K_ELTWISE, REEF_K_COPY, REEF_K_SOFTMAX, REEF_K_LRN};
    for (int i = 0; i < 4; i++) {
        world w = {0};
        reef_kernel k = {.kind = kinds[i], .name = "empty", .n_in = 1};
        k.in[0] = nhwc_view(&w, dims);
        k.y = nhwc_view(&w, dims);
        if (kinds[i] == REEF_K_ELTWISE) {
            k.eltwise = (reef_eltwise){.n_insns = 1, .result = 1};
            k.eltwise.insns[0] = (reef_elt_insn){.op = REEF_ELT_EXP, .type = REEF_F32, .dst = 1};
        } else if (kinds[i] == REEF_K_LRN) {
            k.lrn.size = 3;
        } else if (kinds[i] == REEF_K_SOFTMAX) {
            k.softmax.axis = 2;
        }
        check(&k, &w, 0);
    }
}

static void spin_takes_its_time_and_can_be_abandoned(void **state)
{
    (void)state;
    reef_arena arena = {0};
    reef_error error;
    reef_cpu_prepare prepare = {.units = 2, .arena = &arena, .error = &error};
    reef_kernel k = {.kind = REEF_K_SPIN, .name = "spin", .spin = {.tiles = 5, .tile_ns = 300000}};
    reef_cpu_kernel c;
    assert_int_equal(reef_cpu_isa_generic.prepare[REEF_K_SPIN](&k, &prepare, &c), REEF_OK);
    assert_int_equal(c.tiles, 5);
    _Atomic(reef_lease) lease = reef_lease_make(0, 1);
    reef_tile_ctx ctx = {.lease = &lease, .polls_left = 3};
    assert_int_equal(c.run(c.args, NULL, 0, &ctx), REEF_TILE_ABANDONED);
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    ctx.polls_left = UINT64_MAX;
    assert_int_equal(c.run(c.args, NULL, 0, &ctx), REEF_TILE_DONE);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    assert_true((t1.tv_sec - t0.tv_sec) * 1000000000 + t1.tv_nsec - t0.tv_nsec >= 300000);
    ctx.unit = 1; /* not in the lease */
    assert_int_equal(c.run(c.args, NULL, 0, &ctx), REEF_TILE_ABANDONED);
    reef_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operator_on_every_type),
        cmocka_unit_test(casts_agree),
        cmocka_unit_test(programs_agree),
        cmocka_unit_test(registers_change_type_in_place),
        cmocka_unit_test(corners_of_arithmetic_are_defined),
        cmocka_unit_test(copies_and_transposes_agree),
        cmocka_unit_test(pads_agree),
        cmocka_unit_test(pools_agree),
        cmocka_unit_test(resizes_agree),
        cmocka_unit_test(lrn_agrees),
        cmocka_unit_test(reductions_agree),
        cmocka_unit_test(nan_survives_maximum),
        cmocka_unit_test(softmax_agrees),
        cmocka_unit_test(layer_norm_agrees),
        cmocka_unit_test(arg_max_agrees),
        cmocka_unit_test(gathers_agree_and_stay_in_bounds),
        cmocka_unit_test(empty_tensors_are_nothing_to_do),
        cmocka_unit_test(spin_takes_its_time_and_can_be_abandoned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
