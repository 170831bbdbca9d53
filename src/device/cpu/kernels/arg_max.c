/*
 * arg_max.c - where along an axis the greatest (or least) element is, as i64.
 *
 * Where it sits: REEF_K_ARG_MAX. The first of equals, or the last with select_last. As in numpy a NaN counts as greater
 * (and less) than every number. Forms: rows (the axis is dense, f32): the extreme by vectors, then the place where it
 * stands; single: everything else.
 */
#include "device/cpu/kernels/walk.h"

typedef struct arg_max_args {
    reef_view x, y;
    bool last, min;
    int64_t length, step; /* along the axis */
    walk outer;           /* y, x: the other dimensions */
    int64_t items, per_tile;
} arg_max_args;

enum { CHUNK = 8192 };

/* Lanes that take x instead of best: a NaN, or a greater number. */
static inline vi takes(vf x, vf best, bool min)
{
    return v_is_nan(x) | (min ? x < best : x > best);
}

static bool arg_max_row(const arg_max_args *a, const float *x, int64_t *at, reef_tile_ctx *polls)
{
    int64_t n = a->length, whole = n - n % VL;
    vf best = v_set(a->min ? INFINITY : -INFINITY);
    for (int64_t i = 0; i < whole; i += VL) {
        vf v = v_load(x + i);
        best = v_select(v_is_nan(best), best, v_select(takes(v, best, a->min), v, best));
        if (polls && i % CHUNK == 0 && reef_tile_abandoned(polls)) {
            return false;
        }
    }
    float top = best[0];
    for (int64_t i = 0; i < VL - 1 + n - whole; i++) {
        float v = i < VL - 1 ? best[i + 1] : x[whole + i - (VL - 1)];
        bool take = v != v || (a->min ? v < top : v > top);
        top = top == top && take ? v : top;
    }
    /* Where it stands: whole vectors first, then lane by lane. */
    vf want = v_set(top);
    bool nan = top != top;
    int64_t i = 0;
    for (int64_t j = 0; j < n; j++) {
        i = a->last ? n - 1 - j : j;
        if (j % VL == 0 && j + VL <= n) {
            vf v = v_load(x + (a->last ? n - VL - j : j));
            vi hit = nan ? v_is_nan(v) : v == want;
            int32_t any = 0;
            for (int l = 0; l < VL; l++) {
                any |= hit[l];
            }
            if (!any) {
                j += VL - 1;
                if (polls && j / VL % 512 == 0 && reef_tile_abandoned(polls)) {
                    return false;
                }
                continue;
            }
        }
        if (nan ? x[i] != x[i] : x[i] == top) {
            break;
        }
    }
    *at = i;
    return true;
}

#define ARG_MAX_SINGLE(name, T)                                                                                        \
    static bool name(const arg_max_args *a, const T *x, int64_t *at, reef_tile_ctx *polls)                             \
    {                                                                                                                  \
        T best = x[0];                                                                                                 \
        *at = 0;                                                                                                       \
        for (int64_t i = 1; i < a->length; i++) {                                                                      \
            T v = x[i * a->step];                                                                                      \
            bool more = (v != v && best == best) || (a->min ? v < best : v > best);                                    \
            bool same = a->last && (v == best || (v != v && best != best));                                            \
            if (more || same) {                                                                                        \
                best = v;                                                                                              \
                *at = i;                                                                                               \
            }                                                                                                          \
            if (polls && i % 4096 == 0 && reef_tile_abandoned(polls)) {                                                \
                return false;                                                                                          \
            }                                                                                                          \
        }                                                                                                              \
        return true;                                                                                                   \
    }
ARG_MAX_SINGLE(arg_max_f32, float)
ARG_MAX_SINGLE(arg_max_i64, int64_t)

static reef_tile_result arg_max_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const arg_max_args *a = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    const char *x = view_at(&a->x, base);
    int64_t *y = (int64_t *)view_at(&a->y, base);
    int64_t at = (int64_t)tile * a->per_tile, end = at + a->per_tile < a->items ? at + a->per_tile : a->items;
    reef_tile_ctx *polls = a->per_tile == 1 ? ctx : NULL;
    walk_pos pos;
    walk_seek(&a->outer, at, &pos);
    for (; at < end; at++) {
        int64_t place = 0;
        bool whole = a->x.dtype == REEF_I64 ? arg_max_i64(a, (const int64_t *)x + pos.off[1], &place, polls)
                     : a->step == 1         ? arg_max_row(a, (const float *)x + pos.off[1], &place, polls)
                                            : arg_max_f32(a, (const float *)x + pos.off[1], &place, polls);
        if (!whole) {
            return REEF_TILE_ABANDONED;
        }
        y[pos.off[0]] = place;
        walk_advance(&a->outer, &pos, 1);
    }
    return REEF_TILE_DONE;
}

REEF_ISA_PREPARE(arg_max)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    int axis = k->arg_max.axis;
    bool ok = x->rank == y->rank && (x->dtype == REEF_F32 || x->dtype == REEF_I64) && y->dtype == REEF_I64 &&
              axis >= 0 && axis < x->rank && x->dims[axis] > 0;
    for (int i = 0; ok && i < x->rank; i++) {
        ok = y->dims[i] == (i == axis ? 1 : x->dims[i]);
    }
    if (!ok) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: operand form of an arg max", k->name);
    }
    arg_max_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    *a = (arg_max_args){.x = *x, .y = *y, .last = k->arg_max.select_last, .min = k->arg_max.min};
    a->length = x->dims[axis];
    a->step = x->stride[axis];
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
    a->items = a->outer.total;
    bool rows = x->dtype == REEF_F32 && a->step == 1;
    a->per_tile = tile_items(prepare->units, a->items, (double)a->length * (rows ? 0.5 : 2) + 20);
    kernel_fill(out, arg_max_tile, a, a->items, a->per_tile, (double)a->length,
                rows ? "rows " REEF_ISA_NAME : "single");
    return REEF_OK;
}
