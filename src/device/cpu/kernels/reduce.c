/*
 * reduce.c - sums, means, extrema and norms over any axes.
 *
 * Where it sits: REEF_K_REDUCE. Operands split into the dimensions that stay (kept) and those that go (gone). Forms:
 *   - lanes: neighbours in memory are kept. A vector holds VL results and walks the gone dimensions; global average
 *     pooling of NHWC is this.
 *   - rows: neighbours in memory go. Four vectors of partial results per output, joined at the end.
 *   - single: everything else, and int64.
 *
 * Invariant: an output is computed whole by one tile in an order that the shapes alone fix. Sums are kept in two levels
 * (a short run, then the runs), so their error grows with the square root of the length at worst, not with the length.
 */
#include "device/cpu/kernels/walk.h"

enum { LANES_MAX = 4, RUN = 256 };

typedef struct reduce_args {
    reef_reduce_kind kind;
    reef_view x, y;
    walk kept;                  /* y, x */
    walk gone;                  /* x */
    int64_t row, block, blocks; /* lanes: kept row length, results per item, items per row */
    int64_t items, per_tile;
} reduce_args;

/* ----------------------------------------------------------------- floats -- */

static inline __attribute__((always_inline)) bool kind_adds(reef_reduce_kind kind)
{
    return kind != REEF_REDUCE_MAX && kind != REEF_REDUCE_MIN && kind != REEF_REDUCE_PROD;
}
static inline __attribute__((always_inline)) float kind_start(reef_reduce_kind kind)
{
    return kind == REEF_REDUCE_MAX    ? -INFINITY
           : kind == REEF_REDUCE_MIN  ? INFINITY
           : kind == REEF_REDUCE_PROD ? 1.0f
                                      : 0.0f;
}
/* acc with x taken in; shift: of LOG_SUM_EXP. A NaN stays. */
static inline __attribute__((always_inline)) vf kind_take(reef_reduce_kind kind, vf acc, vf x, vf shift)
{
    switch (kind) {
    case REEF_REDUCE_MAX: return v_select((acc > x) | v_is_nan(acc), acc, x);
    case REEF_REDUCE_MIN: return v_select((acc < x) | v_is_nan(acc), acc, x);
    case REEF_REDUCE_PROD: return acc * x;
    case REEF_REDUCE_L1: return acc + v_abs(x);
    case REEF_REDUCE_L2:
    case REEF_REDUCE_SUM_SQUARE: return acc + x * x;
    case REEF_REDUCE_LOG_SUM_EXP: return acc + v_exp(x - shift);
    default: return acc + x;
    }
}
static inline __attribute__((always_inline)) vf kind_join(reef_reduce_kind kind, vf a, vf b)
{
    return kind_adds(kind) ? a + b : kind_take(kind, a, b, a);
}
static inline __attribute__((always_inline)) vf kind_finish(reef_reduce_kind kind, vf acc, vf shift, float count)
{
    switch (kind) {
    case REEF_REDUCE_MEAN: return acc / v_set(count);
    case REEF_REDUCE_L2: return v_sqrt(acc);
    case REEF_REDUCE_LOG_SUM_EXP: return v_log(acc) + shift;
    default: return acc;
    }
}
/* The shift of LOG_SUM_EXP: the maximum, unless subtracting it would make a NaN. */
static inline vf finite_or_zero(vf x)
{
    return v_select(v_abs(x) < INFINITY, x, v_set(0.0f));
}

/* count vectors of results from x on; the last has `tail` lanes. False: abandoned. */
static inline __attribute__((always_inline)) bool lanes_pass(const reduce_args *a, reef_reduce_kind kind,
                                                             const float *x, int count, int64_t tail, const vf *shift,
                                                             vf *total, reef_tile_ctx *polls)
{
    /* Even and odd elements have accumulators of their own, so that one narrow block is not one long chain. */
    vf even[LANES_MAX], odd[LANES_MAX];
    int64_t last = a->gone.rank - 1, step = a->gone.stride[0][last], left = a->gone.total, in_run = 0, polled = 0;
    walk_pos pos;
    walk_seek(&a->gone, 0, &pos);
    for (int v = 0; v < count; v++) {
        total[v] = even[v] = odd[v] = v_set(kind_start(kind));
    }
    while (left > 0) {
        int64_t n = walk_row(&a->gone, &pos, left < RUN - in_run ? left : RUN - in_run), i = 0;
        const float *at = x + pos.off[0];
        for (; i + 2 <= n; i += 2, at += 2 * step) {
            for (int v = 0; v < count; v++) {
                bool part = v == count - 1 && tail < VL;
                vf first = part ? v_load_n(at + v * VL, tail) : v_load(at + v * VL);
                vf second = part ? v_load_n(at + step + v * VL, tail) : v_load(at + step + v * VL);
                even[v] = kind_take(kind, even[v], first, shift[v]);
                odd[v] = kind_take(kind, odd[v], second, shift[v]);
            }
        }
        for (int v = 0; i < n && v < count; v++) {
            bool part = v == count - 1 && tail < VL;
            even[v] = kind_take(kind, even[v], part ? v_load_n(at + v * VL, tail) : v_load(at + v * VL), shift[v]);
        }
        walk_advance(&a->gone, &pos, n);
        left -= n;
        in_run += n;
        if (in_run == RUN || left == 0) {
            for (int v = 0; v < count; v++) {
                total[v] = kind_join(kind, total[v], kind_join(kind, even[v], odd[v]));
                even[v] = odd[v] = v_set(kind_start(kind));
            }
            in_run = 0;
            if (polls && ++polled == 16) {
                polled = 0;
                if (reef_tile_abandoned(polls)) {
                    return false;
                }
            }
        }
    }
    return true;
}

static inline __attribute__((always_inline)) bool lanes_block(const reduce_args *a, reef_reduce_kind kind,
                                                              const float *x, float *y, int count, int64_t tail,
                                                              reef_tile_ctx *polls)
{
    vf total[LANES_MAX], shift[LANES_MAX] = {0};
    if (kind == REEF_REDUCE_LOG_SUM_EXP) {
        if (!lanes_pass(a, REEF_REDUCE_MAX, x, count, tail, shift, total, polls)) {
            return false;
        }
        for (int v = 0; v < count; v++) {
            shift[v] = finite_or_zero(total[v]);
        }
    }
    if (!lanes_pass(a, kind, x, count, tail, shift, total, polls)) {
        return false;
    }
    int64_t y_step = a->kept.stride[0][a->kept.rank - 1];
    for (int v = 0; v < count; v++) {
        vf out = kind_finish(kind, total[v], shift[v], (float)a->gone.total);
        int64_t n = v == count - 1 ? tail : VL;
        if (y_step == 1) {
            v_store_upto(y + v * VL, out, n);
            continue;
        }
        for (int64_t i = 0; i < n; i++) {
            y[(v * VL + i) * y_step] = out[i];
        }
    }
    return true;
}

/* One output from rows of neighbours. False: abandoned. */
static inline __attribute__((always_inline)) bool rows_pass(const reduce_args *a, reef_reduce_kind kind, const float *x,
                                                            vf shift, vf *out, reef_tile_ctx *polls)
{
    vf start = v_set(kind_start(kind)), total = start;
    vi lane;
    for (int i = 0; i < VL; i++) {
        lane[i] = i;
    }
    int64_t left = a->gone.total, polled = 0;
    walk_pos pos;
    walk_seek(&a->gone, 0, &pos);
    while (left > 0) {
        int64_t n = walk_row(&a->gone, &pos, left < RUN * VL ? left : RUN * VL), i = 0;
        const float *at = x + pos.off[0];
        vf r0 = start, r1 = start, r2 = start, r3 = start;
        for (; i + 4 * VL <= n; i += 4 * VL) {
            r0 = kind_take(kind, r0, v_load(at + i), shift);
            r1 = kind_take(kind, r1, v_load(at + i + VL), shift);
            r2 = kind_take(kind, r2, v_load(at + i + 2 * VL), shift);
            r3 = kind_take(kind, r3, v_load(at + i + 3 * VL), shift);
        }
        for (; i + VL <= n; i += VL) {
            r0 = kind_take(kind, r0, v_load(at + i), shift);
        }
        if (i < n) {
            vf more = kind_take(kind, r1, v_load_n(at + i, n - i), shift);
            r1 = v_select(lane < v_iset((int32_t)(n - i)), more, r1);
        }
        total = kind_join(kind, total, kind_join(kind, kind_join(kind, r0, r1), kind_join(kind, r2, r3)));
        walk_advance(&a->gone, &pos, n);
        left -= n;
        polled += n + 32;
        if (polls && polled >= 16384) {
            polled = 0;
            if (reef_tile_abandoned(polls)) {
                return false;
            }
        }
    }
    /* Across the lanes, halving; every lane of the result is the whole. */
    float t[VL];
    v_store(t, total);
    for (int half = VL / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            vf joined = kind_join(kind, v_set(t[i]), v_set(t[i + half]));
            t[i] = joined[0];
        }
    }
    *out = v_set(t[0]);
    return true;
}

static inline __attribute__((always_inline)) bool rows_output(const reduce_args *a, reef_reduce_kind kind,
                                                              const float *x, float *y, reef_tile_ctx *polls)
{
    vf total = {0}, shift = {0};
    if (kind == REEF_REDUCE_LOG_SUM_EXP) {
        if (!rows_pass(a, REEF_REDUCE_MAX, x, shift, &total, polls)) {
            return false;
        }
        shift = finite_or_zero(total);
    }
    if (!rows_pass(a, kind, x, shift, &total, polls)) {
        return false;
    }
    *y = kind_finish(kind, total, shift, (float)a->gone.total)[0];
    return true;
}

/* A function per kind and form, so that each is straight-line code. */
#define REDUCE_KINDS(X) X(SUM) X(MEAN) X(MAX) X(MIN) X(PROD) X(L1) X(L2) X(SUM_SQUARE) X(LOG_SUM_EXP)
#define X(K)                                                                                                           \
    static __attribute__((noinline)) bool lanes_wide_##K(const reduce_args *a, const float *x, float *y,               \
                                                         reef_tile_ctx *polls)                                         \
    {                                                                                                                  \
        return lanes_block(a, REEF_REDUCE_##K, x, y, LANES_MAX, VL, polls);                                            \
    }                                                                                                                  \
    static __attribute__((noinline)) bool lanes_narrow_##K(const reduce_args *a, const float *x, float *y,             \
                                                           int64_t tail, reef_tile_ctx *polls)                         \
    {                                                                                                                  \
        return tail == VL ? lanes_block(a, REEF_REDUCE_##K, x, y, 1, VL, polls)                                        \
                          : lanes_block(a, REEF_REDUCE_##K, x, y, 1, tail, polls);                                     \
    }                                                                                                                  \
    static                                                                                                             \
        __attribute__((noinline)) bool rows_##K(const reduce_args *a, const float *x, float *y, reef_tile_ctx *polls)  \
    {                                                                                                                  \
        return rows_output(a, REEF_REDUCE_##K, x, y, polls);                                                           \
    }
REDUCE_KINDS(X)
#undef X

static const struct {
    bool (*wide)(const reduce_args *a, const float *x, float *y, reef_tile_ctx *polls);
    bool (*narrow)(const reduce_args *a, const float *x, float *y, int64_t tail, reef_tile_ctx *polls);
    bool (*rows)(const reduce_args *a, const float *x, float *y, reef_tile_ctx *polls);
} forms[] = {
#define X(K) [REEF_REDUCE_##K] = {lanes_wide_##K, lanes_narrow_##K, rows_##K},
    REDUCE_KINDS(X)
#undef X
};

static bool lanes_item(const reduce_args *a, const float *x, float *y, int64_t n, reef_tile_ctx *polls)
{
    if (n == LANES_MAX * VL) {
        return forms[a->kind].wide(a, x, y, polls);
    }
    bool whole = true;
    int64_t y_step = a->kept.stride[0][a->kept.rank - 1];
    for (int64_t i = 0; i < n && whole; i += VL) {
        whole = forms[a->kind].narrow(a, x + i, y + i * y_step, n - i < VL ? n - i : VL, polls);
    }
    return whole;
}

static reef_tile_result reduce_lanes_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const reduce_args *a = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    const float *x = (const float *)view_at(&a->x, base);
    float *y = (float *)view_at(&a->y, base);
    int64_t at = (int64_t)tile * a->per_tile, end = at + a->per_tile < a->items ? at + a->per_tile : a->items;
    bool lonely = a->per_tile == 1 && (a->block == VL || a->row % (LANES_MAX * VL) == 0);
    for (; at < end; at++) {
        int64_t c = at % a->blocks * a->block, n = a->row - c < a->block ? a->row - c : a->block;
        walk_pos pos;
        walk_seek(&a->kept, at / a->blocks * a->row + c, &pos);
        if (!lanes_item(a, x + pos.off[1], y + pos.off[0], n, lonely ? ctx : NULL)) {
            return REEF_TILE_ABANDONED;
        }
    }
    return REEF_TILE_DONE;
}

static reef_tile_result reduce_rows_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const reduce_args *a = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    const float *x = (const float *)view_at(&a->x, base);
    float *y = (float *)view_at(&a->y, base);
    int64_t at = (int64_t)tile * a->per_tile, end = at + a->per_tile < a->items ? at + a->per_tile : a->items;
    reef_tile_ctx *polls = a->per_tile == 1 ? ctx : NULL;
    walk_pos pos;
    walk_seek(&a->kept, at, &pos);
    for (; at < end; at++) {
        bool whole = forms[a->kind].rows(a, x + pos.off[1], y + pos.off[0], polls);
        if (!whole) {
            return REEF_TILE_ABANDONED;
        }
        walk_advance(&a->kept, &pos, 1);
    }
    return REEF_TILE_DONE;
}

/* ----------------------------------------------------------------- single -- */

/* Goes over the gone elements of one output with element e; statement per element. */
#define SINGLE_PASS(T, statement)                                                                                      \
    do {                                                                                                               \
        walk_pos pos;                                                                                                  \
        walk_seek(&a->gone, 0, &pos);                                                                                  \
        for (int64_t left = a->gone.total, n, polled = 0; left > 0; left -= n) {                                       \
            n = walk_row(&a->gone, &pos, left < 4096 ? left : 4096);                                                   \
            const T *at = x + pos.off[0];                                                                              \
            int64_t step = a->gone.stride[0][a->gone.rank - 1];                                                        \
            for (int64_t i = 0; i < n; i++) {                                                                          \
                T e = at[i * step];                                                                                    \
                statement;                                                                                             \
            }                                                                                                          \
            walk_advance(&a->gone, &pos, n);                                                                           \
            polled += n + 8;                                                                                           \
            if (polls && polled >= 4096) {                                                                             \
                polled = 0;                                                                                            \
                if (reef_tile_abandoned(polls)) {                                                                      \
                    return false;                                                                                      \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

static bool single_f32(const reduce_args *a, const float *x, float *y, reef_tile_ctx *polls)
{
    double sum = 0, prod = 1;
    float best = kind_start(a->kind);
    switch (a->kind) {
    case REEF_REDUCE_SUM: SINGLE_PASS(float, sum += (double)e); break;
    case REEF_REDUCE_MEAN:
        SINGLE_PASS(float, sum += (double)e);
        sum /= (double)a->gone.total;
        break;
    case REEF_REDUCE_MAX: SINGLE_PASS(float, best = best > e || best != best ? best : e); break;
    case REEF_REDUCE_MIN: SINGLE_PASS(float, best = best < e || best != best ? best : e); break;
    case REEF_REDUCE_PROD: SINGLE_PASS(float, prod *= (double)e); break;
    case REEF_REDUCE_L1: SINGLE_PASS(float, sum += fabs((double)e)); break;
    case REEF_REDUCE_L2:
    case REEF_REDUCE_SUM_SQUARE: SINGLE_PASS(float, sum += (double)e * (double)e); break;
    case REEF_REDUCE_LOG_SUM_EXP: {
        float top = -INFINITY;
        SINGLE_PASS(float, top = top > e || top != top ? top : e);
        double shift = top - top == 0 ? (double)top : 0;
        SINGLE_PASS(float, sum += exp((double)e - shift));
        sum = log(sum) + shift;
        break;
    }
    }
    bool extreme = a->kind == REEF_REDUCE_MAX || a->kind == REEF_REDUCE_MIN;
    *y = extreme                       ? best
         : a->kind == REEF_REDUCE_PROD ? (float)prod
         : a->kind == REEF_REDUCE_L2   ? (float)sqrt(sum)
                                       : (float)sum;
    return true;
}

static inline int64_t whole_i64(double x)
{
    return x != x ? 0 : x <= -0x1p63 ? INT64_MIN : x >= 0x1p63 ? INT64_MAX : (int64_t)x;
}

/* Sums and products wrap around; a mean truncates, and is 0 of nothing. */
static bool single_i64(const reduce_args *a, const int64_t *x, int64_t *y, reef_tile_ctx *polls)
{
    uint64_t acc = a->kind == REEF_REDUCE_PROD;
    int64_t best = a->kind == REEF_REDUCE_MAX ? INT64_MIN : INT64_MAX;
    double real = 0;
    switch (a->kind) {
    case REEF_REDUCE_SUM:
    case REEF_REDUCE_MEAN: SINGLE_PASS(int64_t, acc += (uint64_t)e); break;
    case REEF_REDUCE_MAX: SINGLE_PASS(int64_t, best = best > e ? best : e); break;
    case REEF_REDUCE_MIN: SINGLE_PASS(int64_t, best = best < e ? best : e); break;
    case REEF_REDUCE_PROD: SINGLE_PASS(int64_t, acc *= (uint64_t)e); break;
    case REEF_REDUCE_L1: SINGLE_PASS(int64_t, acc += e < 0 ? 0 - (uint64_t)e : (uint64_t)e); break;
    case REEF_REDUCE_SUM_SQUARE: SINGLE_PASS(int64_t, acc += (uint64_t)e * (uint64_t)e); break;
    case REEF_REDUCE_L2: SINGLE_PASS(int64_t, real += (double)e * (double)e); break;
    case REEF_REDUCE_LOG_SUM_EXP: {
        double top = -INFINITY;
        SINGLE_PASS(int64_t, top = top > (double)e ? top : (double)e);
        SINGLE_PASS(int64_t, real += exp((double)e - top));
        real = log(real) + top;
        break;
    }
    }
    switch (a->kind) {
    case REEF_REDUCE_MAX:
    case REEF_REDUCE_MIN: *y = best; break;
    case REEF_REDUCE_MEAN: *y = a->gone.total > 0 ? (int64_t)acc / a->gone.total : 0; break;
    case REEF_REDUCE_L2: *y = whole_i64(sqrt(real)); break;
    case REEF_REDUCE_LOG_SUM_EXP: *y = whole_i64(real); break;
    default: *y = (int64_t)acc; break;
    }
    return true;
}

static reef_tile_result reduce_single_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const reduce_args *a = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    char *x = view_at(&a->x, base), *y = view_at(&a->y, base);
    int64_t at = (int64_t)tile * a->per_tile, end = at + a->per_tile < a->items ? at + a->per_tile : a->items;
    reef_tile_ctx *polls = a->per_tile == 1 ? ctx : NULL;
    walk_pos pos;
    walk_seek(&a->kept, at, &pos);
    for (; at < end; at++) {
        bool whole = a->x.dtype == REEF_F32
                         ? single_f32(a, (const float *)x + pos.off[1], (float *)y + pos.off[0], polls)
                         : single_i64(a, (const int64_t *)x + pos.off[1], (int64_t *)y + pos.off[0], polls);
        if (!whole) {
            return REEF_TILE_ABANDONED;
        }
        walk_advance(&a->kept, &pos, 1);
    }
    return REEF_TILE_DONE;
}

REEF_ISA_PREPARE(reduce)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    bool ok = k->reduce.kind <= REEF_REDUCE_LOG_SUM_EXP && x->rank == y->rank && x->dtype == y->dtype &&
              (x->dtype == REEF_F32 || x->dtype == REEF_I64);
    for (int i = 0; ok && i < x->rank; i++) {
        ok = y->dims[i] == (k->reduce.axis[i] ? 1 : x->dims[i]);
    }
    if (!ok) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: operand form of a reduction", k->name);
    }
    reduce_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    a->kind = k->reduce.kind;
    a->x = *x;
    a->y = *y;
    int64_t kd[REEF_MAX_RANK], ky[REEF_MAX_RANK], kx[REEF_MAX_RANK], gd[REEF_MAX_RANK], gx[REEF_MAX_RANK];
    const int64_t *kept[2] = {ky, kx}, *gone[1] = {gx};
    int nk = 0, ng = 0;
    for (int i = 0; i < x->rank; i++) {
        if (k->reduce.axis[i]) {
            gd[ng] = x->dims[i];
            gx[ng++] = x->stride[i];
        } else {
            kd[nk] = x->dims[i];
            ky[nk] = y->stride[i];
            kx[nk++] = x->stride[i];
        }
    }
    walk_make(&a->kept, 2, nk, kd, kept, true);
    walk_make(&a->gone, 1, ng, gd, gone, true);
    int64_t last = a->kept.rank - 1, gone_last = a->gone.rank - 1;
    double elem_ns = a->kind == REEF_REDUCE_LOG_SUM_EXP ? 14.0 / VL : 0.4;
    double length = (double)a->gone.total;
    bool f32 = x->dtype == REEF_F32;
    reef_tile_fn run;
    const char *variant;
    double item_ns;
    if (f32 && a->kept.stride[1][last] == 1 && a->kept.dims[last] >= 2 && a->gone.total > 1) {
        run = reduce_lanes_tile;
        variant = "lanes " REEF_ISA_NAME;
        a->row = a->kept.dims[last];
        int64_t wide = LANES_MAX * VL;
        double total_ns = elem_ns * length * (double)a->kept.total;
        bool narrow = a->row < wide || (total_ns > TILE_NS && a->kept.total / wide < prepare->units) ||
                      (elem_ns * length * (double)wide > TILE_NS && a->row % wide != 0);
        a->block = narrow ? VL : wide;
        a->blocks = (a->row + a->block - 1) / a->block;
        a->items = a->row > 0 ? a->kept.total / a->row * a->blocks : 0;
        item_ns = elem_ns * length * (double)a->block + 10;
    } else {
        bool rows = f32 && a->gone.stride[0][gone_last] == 1 && (a->gone.dims[gone_last] >= 4 || a->gone.total < 4);
        run = rows ? reduce_rows_tile : reduce_single_tile;
        variant = rows ? "rows " REEF_ISA_NAME : "single";
        a->items = a->kept.total;
        double row_count = length / (double)(a->gone.dims[gone_last] > 0 ? a->gone.dims[gone_last] : 1);
        item_ns = (rows ? elem_ns : a->kind == REEF_REDUCE_LOG_SUM_EXP ? 40 : 2) * length + 20 + 8 * row_count;
    }
    a->per_tile = tile_items(prepare->units, a->items, item_ns);
    kernel_fill(out, run, a, a->items, a->per_tile, length * (double)(a->block > 0 ? a->block : 1), variant);
    return REEF_OK;
}
