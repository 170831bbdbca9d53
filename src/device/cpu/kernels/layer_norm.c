/*
 * layer_norm.c - normalisation over the last axis, after adding a residual if there is one.
 *
 * Where it sits: REEF_K_LAYER_NORM. Three passes over a row (mean, variance, result); the row and its residual stay in
 * the first-level cache, so adding them again costs less than keeping their sum. A row longer than SEGMENT is shared by
 * several items that each store one segment.
 */
#include "device/cpu/kernels/walk.h"

enum { SEGMENT = 32768, CHUNK = 4096 };

typedef struct norm_args {
    reef_view x, r, y;
    const float *scale, *bias; /* ours, or NULL */
    float epsilon;
    bool has_residual;
    int64_t c, segments;
    walk outer; /* y, x, residual */
    int64_t items, per_tile;
} norm_args;

/* Sum over the row of x + r (centre 0, square false) or of its squared distance from centre. False: abandoned. */
static inline __attribute__((always_inline)) bool norm_sum(const float *x, const float *r, int64_t n, vf centre,
                                                           bool add, bool square, float *sum, reef_tile_ctx *polls)
{
    vf total = {0};
    for (int64_t i = 0; i < n;) {
        int64_t end = i + CHUNK < n ? i + CHUNK : n;
        vf s0 = {0}, s1 = {0};
        for (; i + 2 * VL <= end; i += 2 * VL) {
            vf a = v_load(x + i), b = v_load(x + i + VL);
            a = (add ? a + v_load(r + i) : a) - centre;
            b = (add ? b + v_load(r + i + VL) : b) - centre;
            s0 += square ? a * a : a;
            s1 += square ? b * b : b;
        }
        for (; i < end; i += VL) {
            int64_t m = end - i < VL ? end - i : VL;
            vf a = v_load_upto(x + i, m);
            a = add ? a + v_load_upto(r + i, m) : a;
            vf from = centre;
            for (int64_t l = m; l < VL; l++) {
                from[l] = 0; /* lanes beyond the row are 0, and must stay so */
            }
            a -= from;
            s0 += square ? a * a : a;
        }
        i = end;
        total += s0 + s1;
        if (polls && reef_tile_abandoned(polls)) {
            return false;
        }
    }
    *sum = v_sum(total);
    return true;
}

static inline __attribute__((always_inline)) bool norm_row(const norm_args *a, const float *x, const float *r, float *y,
                                                           int64_t from, int64_t to, bool add, reef_tile_ctx *polls)
{
    float sum = 0, squares = 0;
    if (!norm_sum(x, r, a->c, v_set(0), add, false, &sum, polls)) {
        return false;
    }
    vf mean = v_set(sum / (float)a->c);
    if (!norm_sum(x, r, a->c, mean, add, true, &squares, polls)) {
        return false;
    }
    vf factor = v_set(1.0f / sqrtf(squares / (float)a->c + a->epsilon));
    for (int64_t i = from; i < to; i += VL) {
        int64_t m = to - i;
        vf v = v_load_upto(x + i, m);
        v = add ? v + v_load_upto(r + i, m) : v;
        v = (v - mean) * factor;
        v = a->scale ? v * v_load_upto(a->scale + i, m) : v;
        v = a->bias ? v + v_load_upto(a->bias + i, m) : v;
        v_store_upto(y + i, v, m);
    }
    return true;
}

static reef_tile_result norm_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const norm_args *a = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    const float *x = (const float *)view_at(&a->x, base);
    const float *r = a->has_residual ? (const float *)view_at(&a->r, base) : x;
    float *y = (float *)view_at(&a->y, base);
    int64_t at = (int64_t)tile * a->per_tile, end = at + a->per_tile < a->items ? at + a->per_tile : a->items;
    reef_tile_ctx *polls = a->per_tile == 1 ? ctx : NULL;
    for (; at < end; at++) {
        int64_t from = at % a->segments * SEGMENT;
        int64_t to = a->segments > 1 && a->c - from > SEGMENT ? from + SEGMENT : a->c;
        walk_pos pos;
        walk_seek(&a->outer, at / a->segments, &pos);
        const float *px = x + pos.off[1], *pr = r + pos.off[2];
        float *py = y + pos.off[0];
        bool whole = a->has_residual ? norm_row(a, px, pr, py, from, to, true, polls)
                                     : norm_row(a, px, px, py, from, to, false, polls);
        if (!whole) {
            return REEF_TILE_ABANDONED;
        }
    }
    return REEF_TILE_DONE;
}

/* A copy that is aligned and lives as long as the kernel; the plan's may be anywhere in a mapped file. */
static reef_status norm_keep(const reef_kernel *k, reef_cpu_prepare *prepare, const float *from, int64_t c,
                             const float **to)
{
    if (!from || c == 0) {
        *to = NULL;
        return REEF_OK;
    }
    float *copy = prepare->alloc(prepare->owner, (size_t)c * sizeof *copy);
    if (!copy) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    memcpy(copy, (const void *)from, (size_t)c * sizeof *copy);
    *to = copy;
    return REEF_OK;
}

REEF_ISA_PREPARE(layer_norm)
{
    const reef_layer_norm *p = &k->layer_norm;
    const reef_view *x = &k->in[0], *y = &k->y, *r = p->has_residual ? &k->in[1] : x;
    int last = x->rank - 1;
    bool ok = x->rank >= 1 && x->rank == y->rank && x->rank == r->rank && x->dtype == REEF_F32 &&
              y->dtype == REEF_F32 && r->dtype == REEF_F32 && view_dense_in(x, last) && view_dense_in(y, last) &&
              view_dense_in(r, last);
    for (int i = 0; ok && i < x->rank; i++) {
        ok = x->dims[i] == y->dims[i] && x->dims[i] == r->dims[i];
    }
    if (!ok) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: operand form of a layer normalisation", k->name);
    }
    norm_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    *a = (norm_args){.x = *x, .y = *y, .r = *r, .epsilon = p->epsilon, .has_residual = p->has_residual};
    a->c = x->dims[last];
    reef_status status = norm_keep(k, prepare, p->scale, a->c, &a->scale);
    if (status == REEF_OK) {
        status = norm_keep(k, prepare, p->bias, a->c, &a->bias);
    }
    if (status != REEF_OK) {
        return status;
    }
    const int64_t *strides[3] = {y->stride, x->stride, r->stride};
    walk_make(&a->outer, 3, last, x->dims, strides, true);
    a->segments = a->c > SEGMENT ? (a->c + SEGMENT - 1) / SEGMENT : 1;
    a->items = a->c > 0 ? a->outer.total * a->segments : 0;
    a->per_tile = tile_items(prepare->units, a->items, (double)a->c * (p->has_residual ? 1.2 : 0.8) + 30);
    kernel_fill(out, norm_tile, a, a->items, a->per_tile, (double)a->c * 8, "rows " REEF_ISA_NAME);
    return REEF_OK;
}
