/*
 * softmax.c - softmax and log-softmax along one axis.
 *
 * Where it sits: REEF_K_SOFTMAX; softmax inside attention is fused there. Forms:
 *   - rows: the axis is dense in x and y. Three passes over a row (maximum, sum, result) that stays in the cache.
 *   - lanes: another dimension is dense; VL rows side by side.
 *   - single: any strides, element by element.
 * A row longer than a segment is shared by several items: each finds maximum and sum of the whole row, then stores its
 * own segment, so that the epilogue stays short.
 *
 * Invariant: sums are in an order that the shapes alone fix.
 */
#include "device/cpu/kernels/walk.h"

enum {
    CHUNK = 4096,
    LANE_CHUNK = 1024,
    SEGMENT_ROWS = 65536,
    SEGMENT_LANES = 2048,
    SEGMENT_SINGLE = 2048,
    STAGED = 32768
};

typedef struct softmax_args {
    reef_view x, y;
    bool log;
    int64_t length, x_step, y_step; /* along the axis */
    walk outer;                     /* y, x: the other dimensions */
    int64_t row, blocks;            /* lanes: results in an outer row, vectors per row */
    bool staged;                    /* rows: e^(x - max) waits in scratch for its factor */
    int64_t segment, segments;      /* length and number per row of the axis */
    int64_t items, per_tile;
} softmax_args;

/* Softmax is e^(x - max) * factor, log-softmax x - max - factor. */
static inline vf softmax_out(bool log, vf x, vf top, vf factor)
{
    return log ? x - top - factor : v_exp(x - top) * factor;
}

static inline __attribute__((always_inline)) bool softmax_row(const softmax_args *a, const float *x, float *y,
                                                              int64_t from, int64_t to, float *stage,
                                                              reef_tile_ctx *polls)
{
    int64_t n = a->length, whole = n - n % VL;
    vf top4 = v_set(-INFINITY), sum = {0};
    for (int64_t i = 0; i < whole; i += VL) {
        top4 = v_max(v_load(x + i), top4);
        if (polls && i % (8 * CHUNK) == 0 && reef_tile_abandoned(polls)) {
            return false;
        }
    }
    float top1 = v_max_lane(top4);
    for (int64_t i = whole; i < n; i++) {
        top1 = x[i] > top1 ? x[i] : top1;
    }
    vf top = v_set(top1);
    for (int64_t i = 0; i < whole;) {
        int64_t end = i + CHUNK < whole ? i + CHUNK : whole;
        vf s0 = {0}, s1 = {0};
        for (; i + 2 * VL <= end; i += 2 * VL) {
            vf e0 = v_exp(v_load(x + i) - top), e1 = v_exp(v_load(x + i + VL) - top);
            s0 += e0;
            s1 += e1;
            if (stage) {
                v_store(stage + i, e0);
                v_store(stage + i + VL, e1);
            }
        }
        if (i < end) {
            vf e0 = v_exp(v_load(x + i) - top);
            s0 += e0;
            if (stage) {
                v_store(stage + i, e0);
            }
            i += VL;
        }
        sum += s0 + s1;
        if (polls && reef_tile_abandoned(polls)) {
            return false;
        }
    }
    if (whole < n) {
        float e[VL];
        v_store(e, v_exp(v_load_n(x + whole, n - whole) - top));
        for (int64_t i = n - whole; i < VL; i++) {
            e[i] = 0;
        }
        sum += v_load(e);
        if (stage) {
            v_store(stage + whole, v_load(e));
        }
    }
    float total = v_sum(sum);
    vf factor = a->log ? v_log(v_set(total)) : 1.0f / v_set(total);
    bool log = a->log;
    int64_t i = from;
    for (; stage && i < to; i += VL) {
        v_store_upto(y + i, v_load(stage + i) * factor, to - i);
    }
    for (; i + VL <= to; i += VL) {
        v_store(y + i, softmax_out(log, v_load(x + i), top, factor));
    }
    if (i < to) {
        v_store_n(y + i, softmax_out(log, v_load_n(x + i, to - i), top, factor), to - i);
    }
    return true;
}

/* m <= VL neighbouring rows. */
static bool softmax_lanes(const softmax_args *a, const float *x, float *y, int64_t m, int64_t from, int64_t to,
                          reef_tile_ctx *polls)
{
    vf top = v_set(-INFINITY), sum = {0};
    for (int64_t i = 0; i < a->length; i++) {
        top = v_max(v_load_upto(x + i * a->x_step, m), top);
        if (polls && i % LANE_CHUNK == 0 && reef_tile_abandoned(polls)) {
            return false;
        }
    }
    for (int64_t i = 0; i < a->length;) {
        vf part = {0};
        int64_t end = i + LANE_CHUNK < a->length ? i + LANE_CHUNK : a->length;
        for (; i < end; i++) {
            part += v_exp(v_load_upto(x + i * a->x_step, m) - top);
        }
        sum += part;
        if (polls && reef_tile_abandoned(polls)) {
            return false;
        }
    }
    vf factor = a->log ? v_log(sum) : 1.0f / sum;
    for (int64_t i = from; i < to; i++) {
        v_store_upto(y + i * a->y_step, softmax_out(a->log, v_load_upto(x + i * a->x_step, m), top, factor), m);
    }
    return true;
}

static bool softmax_single(const softmax_args *a, const float *x, float *y, int64_t from, int64_t to,
                           reef_tile_ctx *polls)
{
    float top = -INFINITY;
    double sum = 0;
    for (int64_t i = 0; i < a->length; i++) {
        top = x[i * a->x_step] > top ? x[i * a->x_step] : top;
        if (polls && i % CHUNK == 0 && reef_tile_abandoned(polls)) {
            return false;
        }
    }
    for (int64_t i = 0; i < a->length; i++) {
        sum += (double)expf(x[i * a->x_step] - top);
        if (polls && i % 512 == 0 && reef_tile_abandoned(polls)) {
            return false;
        }
    }
    float factor = (float)(a->log ? log(sum) : 1.0 / sum);
    for (int64_t i = from; i < to; i++) {
        float d = x[i * a->x_step] - top;
        y[i * a->y_step] = a->log ? d - factor : expf(d) * factor;
    }
    return true;
}

static inline __attribute__((always_inline)) reef_tile_result
softmax_tile(const softmax_args *a, char *const *base, uint32_t tile, reef_tile_ctx *ctx, bool rows, bool lanes)
{
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    const float *x = (const float *)view_at(&a->x, base);
    float *y = (float *)view_at(&a->y, base);
    int64_t at = (int64_t)tile * a->per_tile, end = at + a->per_tile < a->items ? at + a->per_tile : a->items;
    reef_tile_ctx *polls = a->per_tile == 1 ? ctx : NULL;
    for (; at < end; at++) {
        int64_t from = at % a->segments * a->segment, item = at / a->segments;
        int64_t to = a->segments > 1 && a->length - from > a->segment ? from + a->segment : a->length;
        int64_t c = lanes ? item % a->blocks * VL : 0;
        walk_pos pos;
        walk_seek(&a->outer, lanes ? item / a->blocks * a->row + c : item, &pos);
        const float *px = x + pos.off[1];
        float *py = y + pos.off[0];
        bool whole = a->staged ? softmax_row(a, px, py, from, to, ctx->scratch, polls)
                     : rows    ? softmax_row(a, px, py, from, to, NULL, polls)
                     : lanes   ? softmax_lanes(a, px, py, a->row - c < VL ? a->row - c : VL, from, to, polls)
                               : softmax_single(a, px, py, from, to, polls);
        if (!whole) {
            return REEF_TILE_ABANDONED;
        }
    }
    return REEF_TILE_DONE;
}

static reef_tile_result softmax_rows_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    return softmax_tile(args, base, tile, ctx, true, false);
}
static reef_tile_result softmax_lanes_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    return softmax_tile(args, base, tile, ctx, false, true);
}
static reef_tile_result softmax_single_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    return softmax_tile(args, base, tile, ctx, false, false);
}

REEF_ISA_PREPARE(softmax)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    int axis = k->softmax.axis;
    bool ok = x->rank == y->rank && x->dtype == REEF_F32 && y->dtype == REEF_F32 && axis >= 0 && axis < x->rank;
    for (int i = 0; ok && i < x->rank; i++) {
        ok = x->dims[i] == y->dims[i];
    }
    if (!ok) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: operand form of a softmax", k->name);
    }
    softmax_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    *a = (softmax_args){.x = *x, .y = *y, .log = k->softmax.log, .length = x->dims[axis], .blocks = 1};
    a->x_step = x->stride[axis];
    a->y_step = y->stride[axis];
    int64_t dims[REEF_MAX_RANK], ys[REEF_MAX_RANK], xs[REEF_MAX_RANK];
    const int64_t *strides[2] = {ys, xs};
    int rank = 0;
    for (int i = 0; i < x->rank; i++) {
        if (i != axis) {
            dims[rank] = x->dims[i];
            ys[rank] = y->stride[i];
            xs[rank++] = x->stride[i];
        }
    }
    walk_make(&a->outer, 2, rank, dims, strides, true);
    int64_t last = a->outer.rank - 1;
    bool rows = a->length == 1 || (a->x_step == 1 && a->y_step == 1);
    bool lanes = !rows && a->outer.stride[0][last] == 1 && a->outer.stride[1][last] == 1;
    a->row = a->outer.dims[last];
    a->staged = rows && !a->log && a->length <= STAGED;
    a->segment = rows ? SEGMENT_ROWS : lanes ? SEGMENT_LANES : SEGMENT_SINGLE;
    a->segments = a->length > a->segment ? (a->length + a->segment - 1) / a->segment : 1;
    a->items = a->outer.total;
    if (a->length == 0 || a->outer.total == 0) {
        a->items = 0;
    } else if (lanes) {
        a->blocks = (a->row + VL - 1) / VL;
        a->items = a->outer.total / a->row * a->blocks;
    }
    a->items *= a->segments;
    double item_ns = (double)a->length * (rows ? 6.0 / VL + 0.2 : lanes ? 14 : 20) + 30;
    a->per_tile = tile_items(prepare->units, a->items, item_ns);
    kernel_fill(out,
                rows    ? softmax_rows_tile
                : lanes ? softmax_lanes_tile
                        : softmax_single_tile,
                a, a->items, a->per_tile, (double)a->length * (lanes ? VL : 1) * 8,
                rows    ? "rows " REEF_ISA_NAME
                : lanes ? "lanes " REEF_ISA_NAME
                        : "single");
    out->scratch_bytes = a->staged ? ((size_t)a->length + VL) * sizeof(float) : 0;
    return REEF_OK;
}
