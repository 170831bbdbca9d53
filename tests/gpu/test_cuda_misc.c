/*
 * test_cuda_misc.c - the CUDA kernels that are not matrix products, against the plan interpreter.
 *
 *      test_cuda_misc FOLDER-OF-CUBINS [rounds] [time]
 *
 * Every case: a random kernel over random views (permuted, padded, reversed, repeated strides; storage of any kind), in
 * fp32 and in fp16. The reference runs on the values that the device has, that is, rounded to half where the device
 * keeps halves. Then, on the device:
 *   - y is poisoned; afterwards its elements equal the reference's, and no other byte has changed;
 *   - the worker form does nothing when it is revoked; otherwise it gives the same bits as the plain form.
 * Last, each network's typical shapes are timed. Needs no test library, so that the program runs on a bare machine.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/launch.h"
#include "model/dtype.h"
#include "model/shape.h"
#include "support/plan_interp.h"

enum { STORAGES = 10 };

typedef struct world {
    char *data[STORAGES];
    size_t bytes[STORAGES]; /* exactly as long as the view needs */
    reef_storage storage[STORAGES];
    int n;
} world;

static unsigned cases, failures;
static const char *section = "?";
static bool quick; /* no worker form: under a sanitizer */

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

static __attribute__((format(printf, 2, 3))) bool complain(const reef_kernel *k, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    printf("FAIL %s: %s: ", section, k->name);
    vprintf(format, list);
    printf("\n");
    va_end(list);
    failures++;
    return false;
}

/* ------------------------------------------------------------------ views -- */

static void fill(char *to, size_t bytes, reef_dtype dtype, double scale)
{
    for (size_t i = 0; i < bytes / reef_dtype_bytes(dtype); i++) {
        double v = ((double)(draw() & 0xffffff) / 0x800000 - 1) * scale;
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

/* order: dimensions from outermost to innermost in memory; NULL: as they are. repeat: bit d gives dimension d stride 0. */
static reef_view lay_out(world *w, reef_dtype dtype, int rank, const int64_t *dims, const int *order, bool gaps,
                         bool reversed, unsigned repeat, double scale)
{
    reef_view v = {.storage = (uint32_t)w->n, .dtype = dtype, .rank = rank};
    int64_t step = 1, low = 0, high = 0;
    for (int j = rank - 1; j >= 0; j--) {
        int d = order ? order[j] : j;
        v.dims[d] = dims[d];
        if (repeat >> d & 1) {
            continue;
        }
        v.stride[d] = step;
        step *= dims[d] > 0 ? dims[d] : 1;
        if (gaps && draw() % 2) {
            step += draw() % 2 ? between(1, 3) : 8;
        }
        if (reversed && draw() % 3 == 0) {
            v.stride[d] = -v.stride[d];
        }
        int64_t reach = dims[d] > 0 ? v.stride[d] * (dims[d] - 1) : 0;
        *(reach < 0 ? &low : &high) += reach;
    }
    v.offset = -low + (gaps ? (draw() % 2 ? 8 : 2) : 0);
    size_t bytes = (size_t)(v.offset + high + 1 + (gaps ? 1 : 0)) * reef_dtype_bytes(dtype);
    w->bytes[w->n] = bytes;
    w->data[w->n] = malloc(bytes);
    w->storage[w->n].kind = draw() % 4 ? REEF_STORAGE_ACTIVATION : draw() % 2 ? REEF_STORAGE_CONST : REEF_STORAGE_INPUT;
    fill(w->data[w->n], bytes, dtype, scale);
    w->n++;
    return v;
}

static reef_view any_view(world *w, reef_dtype dtype, int rank, const int64_t *dims, unsigned repeat, double scale)
{
    int order[REEF_MAX_RANK];
    for (int i = 0; i < rank; i++) {
        order[i] = i;
    }
    for (int i = rank - 1, shuffle = draw() % 2; shuffle && i > 0; i--) {
        int j = (int)between(0, i), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    return lay_out(w, dtype, rank, dims, order, draw() % 3 == 0, draw() % 3 == 0, repeat, scale);
}
static const int nhwc[] = {0, 2, 3, 1};
static reef_view nhwc_view(world *w, const int64_t *dims)
{
    return lay_out(w, REEF_F32, 4, dims, nhwc, draw() % 2, false, 0, 3);
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

/* ----------------------------------------------------------- one candidate -- */

static reef_arena arena;
static reef_status upload(void *owner, const void *host, size_t bytes, uint64_t *address)
{
    (void)owner;
    *address = gpu_alloc(bytes);
    gpu_put(*address, host, bytes);
    return REEF_OK;
}

static const reef_cuda_prepare_fn prepares[REEF_KERNEL_KINDS] = {
    [REEF_K_POOL] = reef_cuda_prepare_pool,       [REEF_K_ELTWISE] = reef_cuda_prepare_eltwise,
    [REEF_K_COPY] = reef_cuda_prepare_copy,       [REEF_K_REDUCE] = reef_cuda_prepare_reduce,
    [REEF_K_SOFTMAX] = reef_cuda_prepare_softmax, [REEF_K_LAYER_NORM] = reef_cuda_prepare_layer_norm,
    [REEF_K_GATHER] = reef_cuda_prepare_gather,   [REEF_K_RESIZE] = reef_cuda_prepare_resize,
    [REEF_K_LRN] = reef_cuda_prepare_lrn,         [REEF_K_ARG_MAX] = reef_cuda_prepare_arg_max,
    [REEF_K_SPIN] = reef_cuda_prepare_spin,
};

static bool is_half(const world *w, reef_cuda_precision precision, const reef_view *v)
{
    return precision == REEF_CUDA_FP16 && v->dtype == REEF_F32 &&
           w->storage[v->storage].kind == REEF_STORAGE_ACTIVATION;
}

/* A storage's bytes as the device keeps them; *bytes is how many. */
static char *device_bytes(const world *w, const reef_view *v, reef_cuda_precision precision, const char *host,
                          size_t *bytes)
{
    *bytes = is_half(w, precision, v) ? w->bytes[v->storage] / 2 : w->bytes[v->storage];
    char *to = malloc(*bytes + 1);
    if (!is_half(w, precision, v)) {
        memcpy(to, host, *bytes);
        return to;
    }
    for (size_t i = 0; i < *bytes / 2; i++) {
        ((uint16_t *)to)[i] = reef_half_from_float(((const float *)host)[i]);
    }
    return to;
}

static bool same_value(const reef_kernel *k, bool half, const char *got, const char *want, int64_t i, double tolerance)
{
    const size_t size = half ? 2 : reef_dtype_bytes(k->y.dtype);
    if (k->y.dtype != REEF_F32) {
        return memcmp(got + i * (int64_t)size, want + i * (int64_t)size, size) == 0 ||
               complain(k, "element %ld differs", (long)i);
    }
    double g = half ? (double)reef_half_to_float(((const uint16_t *)got)[i]) : (double)((const float *)got)[i],
           r = ((const float *)want)[i], allowed = (tolerance + (half ? 6e-4 : 0)) * (0.1 + fabs(r));
    if (g == r || (g != g && r != r) || fabs(g - r) <= allowed || (half && fabs(r) > 65000 && fabs(g) > 65000)) {
        return true;
    }
    return complain(k, "element %ld is %.9g, not %.9g", (long)i, g, r);
}

static bool compare(const reef_kernel *k, bool half, const char *got, const char *want, const char *before,
                    size_t bytes, double tolerance)
{
    const size_t size = half ? 2 : reef_dtype_bytes(k->y.dtype);
    char *mine = calloc(1, bytes + 1);
    int64_t at[REEF_MAX_RANK] = {0};
    bool ok = true;
    if (reef_view_elems(&k->y) > 0) {
        do {
            int64_t i = k->y.offset;
            for (int d = 0; d < k->y.rank; d++) {
                i += at[d] * k->y.stride[d];
            }
            memset(mine + i * (int64_t)size, 1, size);
            ok = same_value(k, half, got, want, i, tolerance);
        } while (ok && step(&k->y, at));
    }
    for (size_t i = 0; ok && i < bytes; i++) {
        if (!mine[i] && got[i] != before[i]) {
            ok = complain(k, "byte %zu is not y's and was written", i);
        }
    }
    free(mine);
    return ok;
}

/* Prepares k over device copies of the world, base and bytes per storage; takes candidate `which`, of which there are
 * *n. */
static bool prepare(const reef_kernel *k, const world *w, reef_cuda_precision precision, uint64_t *base, size_t *bytes,
                    unsigned which, reef_cuda_kernel *c, size_t *n)
{
    static reef_cuda_kernel candidates[REEF_CUDA_MAX_CANDIDATES];
    reef_plan plan = {.storage = (reef_storage *)w->storage, .n_storage = (size_t)w->n};
    reef_error error = {0};
    static const unsigned sms[] = {0, 4, 1};
    unsigned sm_count = quick ? 0 : sms[draw() % 3];
    reef_cuda_prepare ctx = {.plan = &plan,
                             .precision = precision,
                             .sm_count = sm_count ? sm_count : gpu_sm_count(),
                             .sm_arch = 90,
                             .arena = &arena,
                             .upload = upload,
                             .error = &error};
    for (int i = k->n_in; i >= 0; i--) {
        const reef_view *v = i < k->n_in ? &k->in[i] : &k->y;
        if (!base[v->storage] && k->kind != REEF_K_SPIN) {
            char *copy = device_bytes(w, v, precision, w->data[v->storage], &bytes[v->storage]);
            base[v->storage] = gpu_alloc(bytes[v->storage]);
            gpu_put(base[v->storage], copy, bytes[v->storage]);
            free(copy);
        }
    }
    *n = 0;
    if (prepares[k->kind](k, &ctx, candidates, REEF_CUDA_MAX_CANDIDATES, n) != REEF_OK || *n < 1) {
        return complain(k, "%s", error.message);
    }
    *c = candidates[which % *n];
    gpu_bind(c, base, 0);
    return true;
}

static bool check_worker(const reef_kernel *k, const reef_cuda_kernel *c, uint64_t y, const char *before,
                         const char *plain, size_t bytes)
{
    char *got = malloc(bytes + 1);
    const unsigned workers = c->tiles < 700 ? c->tiles + 3 : 700;
    gpu_put(y, before, bytes);
    gpu_worker_begin(c);
    gpu_worker_revoked(true);
    gpu_worker_start(c, workers);
    bool ok = gpu_worker_wait(5000000000u) || complain(k, "a revoked worker does not leave");
    gpu_get(got, y, bytes);
    ok = ok && (gpu_worker_done() == 0 || complain(k, "a revoked worker has finished a tile"));
    ok = ok && (memcmp(got, before, bytes) == 0 || complain(k, "a revoked worker has stored something"));
    gpu_worker_revoked(false);
    gpu_worker_start(c, workers);
    ok = ok && (gpu_worker_wait(20000000000u) || complain(k, "workers do not finish"));
    gpu_get(got, y, bytes);
    ok = ok && (gpu_worker_done() == c->tiles || complain(k, "%u of %u tiles done", gpu_worker_done(), c->tiles));
    ok = ok && (memcmp(got, plain, bytes) == 0 || complain(k, "workers give other bits"));
    free(got);
    return ok;
}

static void check_in(const reef_kernel *k, world *w, reef_cuda_precision precision, double tolerance)
{
    const uint32_t ys = k->y.storage;
    uint64_t base[STORAGES] = {0};
    size_t bytes[STORAGES] = {0};
    char *keep[STORAGES];
    /* The reference, on the device's values; then the world as it was. */
    for (int i = 0; i < w->n; i++) {
        keep[i] = malloc(w->bytes[i] + 1);
        memcpy(keep[i], w->data[i], w->bytes[i]);
    }
    for (int i = 0; i < k->n_in; i++) {
        if (is_half(w, precision, &k->in[i])) {
            float *f = (float *)w->data[k->in[i].storage];
            for (size_t j = 0; j < w->bytes[k->in[i].storage] / 4; j++) {
                f[j] = reef_half_to_float(reef_half_from_float(f[j]));
            }
        }
    }
    reef_cuda_kernel c;
    size_t candidates;
    const bool prepared = prepare(k, w, precision, base, bytes, (unsigned)draw(), &c, &candidates);
    const bool half = is_half(w, precision, &k->y);
    char *before = device_bytes(w, &k->y, precision, w->data[ys], &bytes[ys]);
    if (prepared && plan_interp_kernel(NULL, k, w->data) == REEF_OK) {
        char *got = malloc(bytes[ys] + 1);
        gpu_run_plain(&c);
        gpu_get(got, base[ys], bytes[ys]);
        bool ok = compare(k, half, got, w->data[ys], before, bytes[ys], tolerance);
        ok = ok && (quick || check_worker(k, &c, base[ys], before, got, bytes[ys]));
        if (!ok) {
            printf("     %s, %s, %u tiles of %u threads, y %s\n", c.variant, c.function, c.tiles, c.threads,
                   half ? "half" : "as in the plan");
        }
        free(got);
    }
    for (int i = 0; i < w->n; i++) {
        memcpy(w->data[i], keep[i], w->bytes[i]);
        free(keep[i]);
    }
    free(before);
    gpu_forget();
    reef_arena_free(&arena);
    arena = (reef_arena){0};
    cases++;
}

static void check(const reef_kernel *k, world *w, double tolerance)
{
    bool in_place = false;
    for (int i = 0; i < k->n_in; i++) {
        in_place = in_place || k->in[i].storage == k->y.storage;
    }
    if (!in_place) {
        memset(w->data[k->y.storage], 0x3d, w->bytes[k->y.storage]); /* survives conversion to half and back */
    }
    if (w->storage[k->y.storage].kind != REEF_STORAGE_ACTIVATION) {
        w->storage[k->y.storage].kind = in_place ? REEF_STORAGE_ACTIVATION : REEF_STORAGE_OUTPUT;
    }
    check_in(k, w, REEF_CUDA_FP32, tolerance);
    check_in(k, w, REEF_CUDA_FP16, tolerance);
    for (int i = 0; i < w->n; i++) {
        free(w->data[i]);
    }
    w->n = 0;
}

static int any_dims(int64_t *dims, int max_rank, int64_t most)
{
    int rank = (int)between(1, max_rank);
    int64_t total = 1;
    for (int i = 0; i < rank; i++) {
        dims[i] = draw() % 5 == 0 ? 1 : draw() % 3 == 0 ? (between(1, most) + 7) / 8 * 8 : between(1, most);
        dims[i] = total * dims[i] > 20000 ? 1 : dims[i];
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
    int rank = any_dims(dims, 4, 40);
    reef_kernel k = {.kind = REEF_K_ELTWISE, .name = names[op], .n_in = n_in};
    for (int i = 0; i < n_in; i++) {
        uint8_t t = op == REEF_ELT_CAST ? from : op == REEF_ELT_WHERE && i == 0 ? REEF_BOOL : type;
        k.in[i] = any_view(&w, t, rank, dims, draw() % 2 ? (unsigned)draw() & 15 : 0, op == REEF_ELT_CAST ? 100 : 3);
        if (op == REEF_ELT_POW && t == REEF_F32 && i == 0) {
            for (size_t j = 0; j < w.bytes[i] / 4; j++) {
                ((float *)w.data[0])[j] = fabsf(((float *)w.data[0])[j]) + 0.01f;
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
    check(&k, &w, 1e-5);
}

static void every_operator_on_every_type(int rounds)
{
    static const uint8_t types[] = {REEF_F32, REEF_I64, REEF_I32, REEF_I8, REEF_U8};
    for (int round = 0; round < rounds; round++) {
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

static void casts(int rounds)
{
    static const uint8_t types[] = {REEF_F32, REEF_F64, REEF_I64, REEF_I32, REEF_I8, REEF_U8, REEF_BOOL};
    for (int round = 0; round < rounds; round++) {
        for (int from = 0; from < 7; from++) {
            for (int to = 0; to < 7; to++) {
                bool wraps = from >= 2 && from <= 5 && (types[to] == REEF_I8 || types[to] == REEF_U8);
                if (!wraps) {
                    one_insn(REEF_ELT_CAST, types[to], types[from], 1, 0, 0, 0);
                }
            }
        }
    }
}

static void programs(int rounds)
{
    for (int round = 0; round < rounds * 40; round++) {
        world w = {0};
        int64_t dims[4] = {between(1, 2), between(1, round % 3 ? 90 : 300), between(1, 9), between(1, 14)};
        if (round % 2) {
            dims[1] = (dims[1] + 7) / 8 * 8;
        }
        reef_kernel k = {.kind = REEF_K_ELTWISE, .name = "program", .n_in = (int)between(1, 4)};
        for (int i = 0; i < k.n_in; i++) {
            k.in[i] = i > 0 && draw() % 2 ? lay_out(&w, REEF_F32, 4, dims, nhwc, false, false, draw() % 2 ? 13 : 2, 2)
                      : draw() % 4        ? nhwc_view(&w, dims)
                                          : any_view(&w, REEF_F32, 4, dims, (unsigned)draw() & 15, 2);
        }
        if (draw() % 4) {
            k.in[0] = nhwc_view(&w, dims);
            w.storage[w.n - 1].kind = REEF_STORAGE_ACTIVATION;
            k.y = draw() % 2 ? k.in[0] : nhwc_view(&w, dims);
        } else {
            k.y = nhwc_view(&w, dims);
        }
        int defined = k.n_in;
        reef_eltwise *e = &k.eltwise;
        e->n_insns = (int)between(1, round % 2 ? 3 : 12);
        for (int i = 0; i < e->n_insns; i++) {
            static const uint8_t ops[] = {REEF_ELT_FMA, REEF_ELT_ADD, REEF_ELT_MUL, REEF_ELT_SUB,  REEF_ELT_MAX,
                                          REEF_ELT_MIN, REEF_ELT_ACT, REEF_ELT_MUL, REEF_ELT_CONST};
            static const uint8_t acts[] = {REEF_ACT_RELU, REEF_ACT_CLIP, REEF_ACT_TANH, REEF_ACT_SIGMOID};
            reef_elt_insn *s = &e->insns[i];
            s->op = i == e->n_insns - 1 && draw() % 2 ? REEF_ELT_ACT : ops[draw() % 9];
            s->op = i > 0 && e->insns[i - 1].op == REEF_ELT_MUL && draw() % 2 ? REEF_ELT_ADD : s->op;
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
        /* Products of products grow: hold the result where halves still have digits. */
        if (e->n_insns > 3) {
            e->insns[e->n_insns - 1] = (reef_elt_insn){.op = REEF_ELT_ACT,
                                                       .type = REEF_F32,
                                                       .a = e->insns[e->n_insns - 2].dst,
                                                       .b = REEF_ACT_TANH,
                                                       .dst = e->result};
        }
        check(&k, &w, 1e-4);
    }
    for (int round = 0; round < rounds * 5; round++) { /* registers change type; more inputs; flags */
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
        w = (world){0};
        k = (reef_kernel){.kind = REEF_K_ELTWISE, .name = "mask", .n_in = 2};
        dims[1] = round % 2 ? dims[1] : 128;
        k.in[0] = any_view(&w, REEF_BOOL, 2, dims, (unsigned)draw() & 3, 1);
        k.in[1] = any_view(&w, REEF_BOOL, 2, dims, (unsigned)draw() & 3, 1);
        k.y = any_view(&w, REEF_F32, 2, dims, 0, 1);
        k.eltwise = (reef_eltwise){
            .n_insns = 4,
            .result = 5,
            .insns = {{.op = REEF_ELT_AND, .type = REEF_BOOL, .dst = 2, .a = 0, .b = 1},
                      {.op = REEF_ELT_CONST, .type = REEF_F32, .dst = 3, .imm = 0},
                      {.op = REEF_ELT_CONST, .type = REEF_F32, .dst = 4, .imm = -INFINITY},
                      {.op = REEF_ELT_WHERE, .type = REEF_F32, .dst = 5, .a = 2, .b = 3, .c = 4}},
        };
        check(&k, &w, 0);
    }
}

/* ------------------------------------------------------------------- copy -- */

static void copies(int rounds)
{
    static const reef_dtype types[] = {REEF_F32, REEF_I64, REEF_F16, REEF_U8, REEF_BOOL, REEF_I32};
    for (int round = 0; round < rounds * 40; round++) {
        world w = {0};
        int64_t dims[REEF_MAX_RANK];
        int rank = any_dims(dims, 5, round % 2 ? 70 : 9);
        reef_dtype dtype = round % 3 ? REEF_F32 : types[draw() % 6];
        reef_kernel k = {.kind = REEF_K_COPY, .name = "copy", .n_in = 1};
        k.in[0] = any_view(&w, dtype, rank, dims, draw() % 5 == 0 ? (unsigned)draw() & 31 : 0, 9);
        k.y = any_view(&w, dtype, rank, dims, 0, 1);
        check(&k, &w, 0);
    }
    static const int64_t images[][4] = {{1, 3, 61, 47}, {2, 4, 33, 20}, {1, 64, 31, 33}, {2, 257, 17, 19}};
    for (int i = 0; i < 8; i++) { /* NCHW <-> NHWC */
        world w = {0};
        reef_kernel k = {.kind = REEF_K_COPY, .name = "image", .n_in = 1};
        k.in[0] = lay_out(&w, REEF_F32, 4, images[i / 2], i % 2 ? NULL : nhwc, false, false, 0, 3);
        k.y = lay_out(&w, REEF_F32, 4, images[i / 2], i % 2 ? nhwc : NULL, false, false, 0, 3);
        check(&k, &w, 0);
    }
}

static void pads(int rounds)
{
    static const reef_dtype types[] = {REEF_F32, REEF_I64, REEF_I32, REEF_U8, REEF_BOOL};
    for (int round = 0; round < rounds * 40; round++) {
        world w = {0};
        int64_t dims[REEF_MAX_RANK], out[REEF_MAX_RANK];
        int rank = any_dims(dims, 5, 12);
        reef_dtype dtype = types[draw() % 5];
        reef_kernel k = {.kind = REEF_K_COPY, .name = "pad", .n_in = 1};
        k.copy = (reef_copy){.pads = true, .mode = (reef_pad_mode)(draw() % 3), .value = 3};
        for (int i = 0; i < rank; i++) { /* reflecting a single element is not defined */
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

static void gathers(int rounds)
{
    static const reef_dtype types[] = {REEF_F32, REEF_F32, REEF_I64, REEF_F16, REEF_U8};
    for (int round = 0; round < rounds * 40; round++) {
        world w = {0};
        int64_t dims[REEF_MAX_RANK], id[REEF_MAX_RANK], out[REEF_MAX_RANK];
        int rank = any_dims(dims, 3, 40), ir = (int)between(0, 2), n = 0;
        reef_kernel k = {.kind = REEF_K_GATHER, .name = "gather", .n_in = 2};
        k.gather.axis = (int)between(0, rank - 1);
        for (int i = 0; i < ir; i++) {
            id[i] = between(1, 9);
        }
        for (int i = 0; i < k.gather.axis; i++) {
            out[n++] = dims[i];
        }
        for (int i = 0; i < ir; i++) {
            out[n++] = id[i];
        }
        for (int i = k.gather.axis + 1; i < rank; i++) {
            out[n++] = dims[i];
        }
        reef_dtype dtype = types[draw() % 5];
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

/* ---------------------------------------------------------------- windows -- */

static void windows(int rounds)
{
    for (int round = 0; round < rounds * 40; round++) {
        world w = {0};
        int64_t dims[4] = {between(1, 2), between(1, 80), between(1, 20), between(1, 20)};
        dims[1] = round % 2 ? dims[1] : (dims[1] + 7) / 8 * 8;
        int64_t out[4] = {dims[0], dims[1]};
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
        check(&k, &w, 1e-5);

        w = (world){0};
        k = (reef_kernel){.kind = REEF_K_RESIZE, .name = "resize", .n_in = 1};
        dims[2] = between(1, 9), dims[3] = between(1, 9);
        k.resize.linear = draw() % 2;
        k.resize.coord = (reef_resize_coord)(draw() % 4);
        k.resize.nearest = (reef_resize_nearest)(draw() % 4);
        for (int i = 0; i < 2; i++) {
            static const float scales[] = {1, 2, 4, 0.5f, 8, 1.7f};
            k.resize.scale[i] = scales[draw() % 6];
            out[2 + i] = (int64_t)((float)dims[2 + i] * k.resize.scale[i]);
            out[2 + i] = out[2 + i] < 1 ? 1 : out[2 + i];
        }
        k.in[0] = nhwc_view(&w, dims);
        k.y = nhwc_view(&w, out);
        check(&k, &w, 1e-5);

        w = (world){0};
        k = (reef_kernel){.kind = REEF_K_LRN, .name = "lrn", .n_in = 1};
        k.lrn = (reef_lrn){.size = between(1, 9), .alpha = 0.1f, .beta = round % 2 ? 0.75f : 0.6f, .bias = 1.5f};
        k.in[0] = nhwc_view(&w, dims);
        k.y = nhwc_view(&w, dims);
        check(&k, &w, 1e-5);
    }
}

/* ------------------------------------------------------------- reductions -- */

static void reduce_case(int rank, const int64_t *dims, unsigned axes, int kind, reef_dtype dtype)
{
    world w = {0};
    int64_t out[REEF_MAX_RANK];
    reef_kernel k = {.kind = REEF_K_REDUCE, .name = "reduce", .n_in = 1};
    k.reduce.kind = (reef_reduce_kind)kind;
    for (int i = 0; i < rank; i++) {
        k.reduce.axis[i] = axes >> i & 1;
        out[i] = k.reduce.axis[i] ? 1 : dims[i];
    }
    k.in[0] =
        any_view(&w, dtype, rank, dims, draw() % 5 ? 0 : (unsigned)draw() & 7, kind == REEF_REDUCE_PROD ? 1.2 : 3);
    k.y = any_view(&w, dtype, rank, out, 0, 1);
    check(&k, &w, 1e-4);
}

static void reductions(int rounds)
{
    for (int round = 0; round < rounds * 8; round++) {
        for (int kind = REEF_REDUCE_SUM; kind <= REEF_REDUCE_LOG_SUM_EXP; kind++) {
            int64_t dims[REEF_MAX_RANK];
            int rank = any_dims(dims, 4, kind == REEF_REDUCE_PROD ? 3 : 40);
            reef_dtype dtype = draw() % 3 == 0 && kind < REEF_REDUCE_LOG_SUM_EXP ? REEF_I64 : REEF_F32;
            reduce_case(rank, dims, (unsigned)draw(), kind, dtype);
        }
    }
    if (!quick) {
        reduce_case(2, (int64_t[]){1, 300001}, 2, REEF_REDUCE_MEAN, REEF_F32);
        reduce_case(2, (int64_t[]){1, 90001}, 2, REEF_REDUCE_LOG_SUM_EXP, REEF_F32);
        reduce_case(2, (int64_t[]){9001, 70}, 1, REEF_REDUCE_SUM, REEF_F32);
        reduce_case(1, (int64_t[]){60000}, 1, REEF_REDUCE_SUM, REEF_I64);
    }
    for (int i = 0; i < 2; i++) { /* global average pooling; a NaN that must survive */
        world w = {0};
        int64_t dims[4] = {2, i ? 2048 : 100, 7, 7}, out[4] = {2, dims[1], 1, 1};
        reef_kernel k = {.kind = REEF_K_REDUCE, .name = "global", .n_in = 1};
        k.reduce = (reef_reduce){.kind = i ? REEF_REDUCE_MEAN : REEF_REDUCE_MAX, .axis = {false, false, true, true}};
        k.in[0] = nhwc_view(&w, dims);
        ((float *)w.data[0])[k.in[0].offset + 5] = NAN;
        k.y = nhwc_view(&w, out);
        check(&k, &w, 1e-5);
    }
}

static void softmaxes(int rounds)
{
    for (int round = 0; round < rounds * 40; round++) {
        world w = {0};
        int64_t dims[REEF_MAX_RANK];
        int rank = any_dims(dims, 4, 40);
        reef_kernel k = {.kind = REEF_K_SOFTMAX, .name = "softmax", .n_in = 1};
        k.softmax = (reef_softmax){.axis = (int)between(0, rank - 1), .log = draw() % 2};
        if (round < 4) {
            rank = 2;
            dims[0] = round % 2 ? 2 : 901;
            dims[1] = round % 2 ? 14001 : 5;
            k.softmax.axis = round / 2;
        }
        bool same = draw() % 2;
        k.in[0] = same ? lay_out(&w, REEF_F32, rank, dims, NULL, false, false, 0, 5)
                       : any_view(&w, REEF_F32, rank, dims, 0, 5);
        k.y = same ? lay_out(&w, REEF_F32, rank, dims, NULL, false, false, 0, 5)
                   : any_view(&w, REEF_F32, rank, dims, 0, 5);
        check(&k, &w, 5e-5);
    }
}

static void layer_norms(int rounds)
{
    for (int round = 0; round < rounds * 30; round++) {
        world w = {0};
        int64_t dims[3] = {between(1, 3), between(1, 9), between(1, 200)};
        static const int64_t lengths[] = {768, 70001, 1024, 4096, 8192, 12288, 3000, 6004};
        dims[2] = round < 16 ? lengths[round / 2] : round % 2 ? dims[2] * 8 : dims[2];
        reef_kernel k = {.kind = REEF_K_LAYER_NORM, .name = "layer norm", .n_in = 1 + round % 2};
        float *scale = malloc((size_t)dims[2] * 4), *bias = malloc((size_t)dims[2] * 4);
        fill((char *)scale, (size_t)dims[2] * 4, REEF_F32, 2);
        fill((char *)bias, (size_t)dims[2] * 4, REEF_F32, 2);
        k.layer_norm = (reef_layer_norm){.scale = draw() % 3 ? scale : NULL,
                                         .bias = draw() % 3 ? bias : NULL,
                                         .epsilon = 1e-5f,
                                         .has_residual = round % 2};
        for (int i = 0; i < k.n_in; i++) {
            k.in[i] = lay_out(&w, REEF_F32, 3, dims, NULL, false, false, i == 1 && draw() % 2 ? 3 : 0, 3);
        }
        k.y = lay_out(&w, REEF_F32, 3, dims, NULL, draw() % 2, false, 0, 3);
        check(&k, &w, 1e-4);
        free(scale);
        free(bias);
    }
}

static void arg_maxes(int rounds)
{
    for (int round = 0; round < rounds * 30; round++) {
        world w = {0};
        int64_t dims[REEF_MAX_RANK], out[REEF_MAX_RANK];
        int rank = any_dims(dims, 3, 60);
        reef_kernel k = {.kind = REEF_K_ARG_MAX, .name = "arg max", .n_in = 1};
        k.arg_max = (reef_arg_max){.axis = (int)between(0, rank - 1), .select_last = draw() % 2, .min = draw() % 2};
        if (round == 0 && !quick) {
            dims[k.arg_max.axis] = 100003;
        }
        memcpy(out, dims, sizeof out);
        out[k.arg_max.axis] = 1;
        k.in[0] = any_view(&w, draw() % 3 ? REEF_F32 : REEF_I64, rank, dims, 0, 3);
        if (k.in[0].dtype == REEF_F32 && draw() % 2) { /* many equals, some NaN */
            for (size_t i = 0; i < w.bytes[0] / 4; i++) {
                ((float *)w.data[0])[i] = draw() % 50 ? roundf(((float *)w.data[0])[i]) : NAN;
            }
        }
        k.y = any_view(&w, REEF_I64, rank, out, 0, 1);
        check(&k, &w, 0);
    }
}

static void empties(int rounds)
{
    (void)rounds;
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

static void spin(int rounds)
{
    (void)rounds;
    world w = {0};
    uint64_t base[STORAGES] = {0};
    size_t bytes[STORAGES] = {0};
    reef_kernel k = {.kind = REEF_K_SPIN, .name = "spin", .spin = {.tiles = 3 * gpu_sm_count(), .tile_ns = 5000000}};
    reef_cuda_kernel c;
    size_t candidates;
    cases++;
    if (quick || !prepare(&k, &w, REEF_CUDA_FP32, base, bytes, 0, &c, &candidates)) {
        return;
    }
    gpu_worker_begin(&c);
    gpu_worker_revoked(false);
    gpu_worker_start(&c, gpu_sm_count()); /* 3 rounds of 5 ms */
    if (gpu_worker_wait(7000000)) {
        complain(&k, "tiles take less than their time");
    }
    gpu_worker_revoke();
    if (!gpu_worker_wait(1000000)) {
        complain(&k, "workers do not leave within a millisecond");
    }
    gpu_worker_wait(10000000000u);
    unsigned done = gpu_worker_done();
    if (done != gpu_sm_count()) {
        complain(&k, "%u tiles done, not %u", done, gpu_sm_count());
    }
    gpu_worker_revoked(false);
    gpu_worker_start(&c, gpu_sm_count());
    gpu_worker_wait(10000000000u);
    if (gpu_worker_done() != c.tiles) {
        complain(&k, "%u of %u tiles done after resuming", gpu_worker_done(), c.tiles);
    }
    reef_arena_free(&arena);
    arena = (reef_arena){0};
    gpu_forget();
}

/* ----------------------------------------------------------------- timing -- */

static void time_one(const reef_kernel *k, world *w, const char *what)
{
    quick = true; /* shapes for all multiprocessors */
    for (int half = 0; half < 2; half++) {
        size_t candidates = 1;
        for (unsigned i = 0; i < candidates; i++) {
            uint64_t base[STORAGES] = {0};
            size_t bytes[STORAGES] = {0};
            reef_cuda_kernel c;
            if (prepare(k, w, half ? REEF_CUDA_FP16 : REEF_CUDA_FP32, base, bytes, i, &c, &candidates)) {
                printf("%-44s %s %-12s %5u x %4u  full %6.2f us  programmatic %6.2f us\n", what, half ? "fp16" : "fp32",
                       c.variant, c.tiles, c.threads, gpu_time_us(&c, 200, false), gpu_time_us(&c, 200, true));
            }
            gpu_forget();
            reef_arena_free(&arena);
            arena = (reef_arena){0};
        }
    }
    quick = false;
    for (int i = 0; i < w->n; i++) {
        free(w->data[i]);
    }
    w->n = 0;
}

static reef_view timed(world *w, reef_storage_kind kind, reef_dtype dtype, int rank, const int64_t *dims,
                       const int *order, unsigned repeat)
{
    reef_view v = lay_out(w, dtype, rank, dims, order, false, false, repeat, 3);
    w->storage[v.storage].kind = kind;
    return v;
}

static void time_pool(const char *what, reef_pool_kind kind, int64_t c, int64_t in, int64_t out, int64_t size,
                      int64_t stride, int64_t pad)
{
    world w = {0};
    reef_kernel k = {.kind = REEF_K_POOL, .name = what, .n_in = 1};
    int64_t x[4] = {1, c, in, in}, y[4] = {1, c, out, out};
    k.pool = (reef_pool){.kind = kind,
                         .kernel = {size, size},
                         .stride = {stride, stride},
                         .pad = {pad, pad},
                         .pad_end = {pad, pad},
                         .dilation = {1, 1}};
    k.in[0] = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 4, x, nhwc, 0);
    k.y = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 4, y, nhwc, 0);
    time_one(&k, &w, what);
}

/* Batch normalisation and ReLU of the first c of `of` channels. */
static void time_norm(const char *what, int64_t c, int64_t of, int64_t size)
{
    world w = {0};
    reef_kernel k = {.kind = REEF_K_ELTWISE, .name = what, .n_in = 3};
    int64_t whole[4] = {1, of, size, size}, dims[4] = {1, c, size, size};
    k.in[0] = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 4, whole, nhwc, 0);
    k.in[0].dims[1] = c;
    k.in[1] = timed(&w, REEF_STORAGE_CONST, REEF_F32, 4, dims, nhwc, 13);
    k.in[2] = timed(&w, REEF_STORAGE_CONST, REEF_F32, 4, dims, nhwc, 13);
    k.y = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 4, dims, nhwc, 0);
    k.eltwise = (reef_eltwise){.n_insns = 2, .result = 4};
    k.eltwise.insns[0] = (reef_elt_insn){.op = REEF_ELT_FMA, .type = REEF_F32, .dst = 3, .a = 0, .b = 1, .c = 2};
    k.eltwise.insns[1] = (reef_elt_insn){.op = REEF_ELT_ACT, .type = REEF_F32, .dst = 4, .a = 3, .b = REEF_ACT_RELU};
    time_one(&k, &w, what);
}

static void time_copy(const char *what, const int64_t *dims, const int *from, const int *to, reef_storage_kind kind)
{
    world w = {0};
    reef_kernel k = {.kind = REEF_K_COPY, .name = what, .n_in = 1};
    k.in[0] = timed(&w, kind, REEF_F32, 4, dims, from, 0);
    k.y = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 4, dims, to, 0);
    time_one(&k, &w, what);
}

static void time_all(void)
{
    printf("microseconds per kernel in a graph of 200, each after the one before\n");
    time_copy("image 3x224x224 to NHWC", (int64_t[]){1, 3, 224, 224}, NULL, nhwc, REEF_STORAGE_INPUT);
    time_copy("image 3x299x299 to NHWC", (int64_t[]){1, 3, 299, 299}, NULL, nhwc, REEF_STORAGE_INPUT);
    time_copy("vgg flatten 512x7x7", (int64_t[]){1, 512, 7, 7}, nhwc, NULL, REEF_STORAGE_ACTIVATION);
    time_pool("resnet max 3/2 64x112", REEF_POOL_MAX, 64, 112, 56, 3, 2, 1);
    time_pool("vgg max 2/2 64x224", REEF_POOL_MAX, 64, 224, 112, 2, 2, 0);
    time_pool("vgg max 2/2 256x56", REEF_POOL_MAX, 256, 56, 28, 2, 2, 0);
    time_pool("vgg max 2/2 512x14", REEF_POOL_MAX, 512, 14, 7, 2, 2, 0);
    time_pool("densenet average 2/2 128x56", REEF_POOL_AVERAGE, 128, 56, 28, 2, 2, 0);
    time_pool("inception max 3/2 64x147", REEF_POOL_MAX, 64, 147, 73, 3, 2, 0);
    time_pool("inception average 3/1 288x35", REEF_POOL_AVERAGE, 288, 35, 35, 3, 1, 1);
    time_pool("inception average 3/1 768x17", REEF_POOL_AVERAGE, 768, 17, 17, 3, 1, 1);
    time_pool("inception average 3/1 2048x8", REEF_POOL_AVERAGE, 2048, 8, 8, 3, 1, 1);
    time_norm("densenet norm+relu 256 of 256 x56", 256, 256, 56);
    time_norm("densenet norm+relu 96 of 256 x56", 96, 256, 56);
    time_norm("densenet norm+relu 512 of 512 x28", 512, 512, 28);
    time_norm("densenet norm+relu 896 of 1792 x14", 896, 1792, 14);
    time_norm("densenet norm+relu 1792 of 1792 x14", 1792, 1792, 14);
    time_norm("densenet norm+relu 1920 of 1920 x7", 1920, 1920, 7);
    for (int i = 0; i < 2; i++) {
        world w = {0};
        reef_kernel k = {.kind = REEF_K_REDUCE, .name = "gap", .n_in = 1};
        int64_t size = i ? 8 : 7, dims[4] = {1, 2048, size, size}, out[4] = {1, 2048, 1, 1};
        k.reduce = (reef_reduce){.kind = REEF_REDUCE_MEAN, .axis = {false, false, true, true}};
        k.in[0] = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 4, dims, nhwc, 0);
        k.y = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 4, out, nhwc, 0);
        time_one(&k, &w, i ? "global average 2048x8x8" : "global average 2048x7x7");
    }
    for (int i = 0; i < 2; i++) {
        world w = {0};
        reef_kernel k = {.kind = REEF_K_LAYER_NORM, .name = "ln", .n_in = 1 + i};
        int64_t dims[3] = {1, 128, 768};
        k.layer_norm = (reef_layer_norm){.epsilon = 1e-12f, .has_residual = i};
        k.in[0] = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 3, dims, NULL, 0);
        if (i) {
            k.in[1] = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 3, dims, NULL, 0);
        }
        k.y = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 3, dims, NULL, 0);
        time_one(&k, &w, i ? "layer norm 128x768 + residual" : "layer norm 128x768");
    }
    world w = {0};
    reef_kernel k = {.kind = REEF_K_GATHER, .name = "embedding", .n_in = 2};
    int64_t words[2] = {30522, 768}, tokens[2] = {1, 128}, out[3] = {1, 128, 768};
    k.in[0] = timed(&w, REEF_STORAGE_CONST, REEF_F32, 2, words, NULL, 0);
    k.in[1] = timed(&w, REEF_STORAGE_INPUT, REEF_I64, 2, tokens, NULL, 0);
    for (int i = 0; i < 128; i++) {
        ((int64_t *)w.data[1])[i] = between(0, 30521);
    }
    k.y = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 3, out, NULL, 0);
    time_one(&k, &w, "distilbert embedding 128x768");
    w = (world){0};
    k = (reef_kernel){.kind = REEF_K_ELTWISE, .name = "add", .n_in = 2};
    k.in[0] = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 3, out, NULL, 0);
    k.in[1] = timed(&w, REEF_STORAGE_CONST, REEF_F32, 3, out, NULL, 0);
    k.y = k.in[0];
    k.eltwise = (reef_eltwise){.n_insns = 1, .result = 2};
    k.eltwise.insns[0] = (reef_elt_insn){.op = REEF_ELT_ADD, .type = REEF_F32, .dst = 2, .a = 0, .b = 1};
    time_one(&k, &w, "distilbert position add 128x768");
    w = (world){0};
    k = (reef_kernel){.kind = REEF_K_ELTWISE, .name = "where", .n_in = 1};
    int64_t mask[4] = {1, 1, 128, 128};
    k.in[0] = timed(&w, REEF_STORAGE_ACTIVATION, REEF_BOOL, 4, mask, NULL, 0);
    k.y = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 4, mask, NULL, 0);
    k.eltwise = (reef_eltwise){
        .n_insns = 3,
        .result = 3,
        .insns = {{.op = REEF_ELT_CONST, .type = REEF_F32, .dst = 1, .imm = 0},
                  {.op = REEF_ELT_CONST, .type = REEF_F32, .dst = 2, .imm = -INFINITY},
                  {.op = REEF_ELT_WHERE, .type = REEF_F32, .dst = 3, .a = 0, .b = 1, .c = 2}},
    };
    time_one(&k, &w, "distilbert mask 128x128 (program)");
    w = (world){0};
    k = (reef_kernel){.kind = REEF_K_SOFTMAX, .name = "softmax", .n_in = 1, .softmax = {.axis = 1}};
    int64_t scores[2] = {1536, 128};
    k.in[0] = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 2, scores, NULL, 0);
    k.y = timed(&w, REEF_STORAGE_ACTIVATION, REEF_F32, 2, scores, NULL, 0);
    time_one(&k, &w, "softmax 1536x128");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(int rounds);
    } sections[] = {
        {"every operator on every type", every_operator_on_every_type},
        {"casts", casts},
        {"programs", programs},
        {"copies and transposes", copies},
        {"pads", pads},
        {"gathers", gathers},
        {"pool, resize, lrn", windows},
        {"reductions", reductions},
        {"softmax", softmaxes},
        {"layer norm", layer_norms},
        {"arg max", arg_maxes},
        {"empty tensors", empties},
        {"spin", spin},
    };
    int rounds = argc > 2 ? atoi(argv[2]) : 3;
    gpu_open(argc > 1 ? argv[1] : ".");
    quick = argc > 3 && strcmp(argv[3], "quick") == 0;
    for (size_t i = 0; rounds > 0 && i < sizeof sections / sizeof *sections; i++) {
        unsigned before = cases, wrong = failures;
        section = sections[i].name;
        sections[i].run(rounds);
        printf("%-32s %5u cases, %u failures\n", section, cases - before, failures - wrong);
        fflush(stdout);
    }
    if (argc > 3 && strcmp(argv[3], "time") == 0) {
        time_all();
    }
    printf("%u cases, %u failures\n", cases, failures);
    return failures != 0;
}
