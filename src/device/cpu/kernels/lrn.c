/*
 * lrn.c - local response normalisation across channels, NHWC: y = x / (bias + alpha / size * sum of squares)^beta.
 *
 * Where it sits: REEF_K_LRN. The window of channel c is [c - (size - 1) / 2, c + size / 2], cut at the ends. Its sum is
 * taken afresh for every channel (windows are small, and a running sum would carry rounding along).
 */
#include "device/cpu/kernels/walk.h"

typedef struct lrn_args {
    reef_view x, y;
    int64_t c, before, after;
    float scale, beta, bias;
    walk pixels; /* y, x: all dimensions but the channels */
    int64_t items, per_tile;
} lrn_args;

static inline vf lrn_factor(const lrn_args *a, vf squares)
{
    vf v = squares * a->scale + a->bias;
    if (a->beta == 0.75f) {
        vf root = v_sqrt(v);
        return 1.0f / (root * v_sqrt(root));
    }
    return v_exp(-a->beta * v_log(v));
}

static void lrn_pixel(const lrn_args *a, const float *x, float *y)
{
    for (int64_t c = 0; c < a->c; c += VL) {
        int64_t m = a->c - c < VL ? a->c - c : VL;
        vf sum = {0};
        if (c >= a->before && c + VL + a->after <= a->c) {
            for (int64_t j = -a->before; j <= a->after; j++) {
                vf v = v_load(x + c + j);
                sum += v * v;
            }
        } else {
            for (int64_t l = 0; l < m; l++) {
                int64_t first = c + l - a->before, end = c + l + a->after + 1;
                float s = 0;
                for (int64_t j = first > 0 ? first : 0; j < (end < a->c ? end : a->c); j++) {
                    s += x[j] * x[j];
                }
                sum[l] = s;
            }
        }
        v_store_upto(y + c, v_load_upto(x + c, m) * lrn_factor(a, sum), m);
    }
}

static reef_tile_result lrn_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const lrn_args *a = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    const float *x = (const float *)view_at(&a->x, base);
    float *y = (float *)view_at(&a->y, base);
    int64_t at = (int64_t)tile * a->per_tile, end = at + a->per_tile < a->items ? at + a->per_tile : a->items;
    walk_pos pos;
    walk_seek(&a->pixels, at, &pos);
    for (; at < end; at++) {
        lrn_pixel(a, x + pos.off[1], y + pos.off[0]);
        walk_advance(&a->pixels, &pos, 1);
    }
    return REEF_TILE_DONE;
}

REEF_ISA_PREPARE(lrn)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    const reef_lrn *p = &k->lrn;
    bool ok = x->rank >= 2 && x->rank == y->rank && x->dtype == REEF_F32 && y->dtype == REEF_F32 &&
              view_dense_in(x, 1) && view_dense_in(y, 1) && p->size > 0;
    for (int i = 0; ok && i < x->rank; i++) {
        ok = x->dims[i] == y->dims[i];
    }
    if (!ok) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: operand form of an LRN", k->name);
    }
    lrn_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    *a = (lrn_args){.x = *x, .y = *y, .c = x->dims[1], .beta = p->beta, .bias = p->bias};
    a->before = (p->size - 1) / 2 < a->c ? (p->size - 1) / 2 : a->c;
    a->after = p->size / 2 < a->c ? p->size / 2 : a->c;
    a->scale = p->alpha / (float)p->size;
    int64_t dims[REEF_MAX_RANK], ys[REEF_MAX_RANK], xs[REEF_MAX_RANK];
    const int64_t *strides[2] = {ys, xs};
    int rank = 0;
    for (int i = 0; i < x->rank; i++) {
        if (i != 1) {
            dims[rank] = x->dims[i];
            ys[rank] = y->stride[i];
            xs[rank++] = x->stride[i];
        }
    }
    walk_make(&a->pixels, 2, rank, dims, strides, true);
    a->items = a->c > 0 ? a->pixels.total : 0;
    double window = (double)(a->before + a->after + 1);
    double pixel_ns = (double)a->c * (window * 0.15 + 1.5) + 4 * VL * window;
    a->per_tile = tile_items(prepare->units, a->items, pixel_ns);
    kernel_fill(out, lrn_tile, a, a->items, a->per_tile, (double)a->c * (window + 8), "nhwc " REEF_ISA_NAME);
    return REEF_OK;
}
