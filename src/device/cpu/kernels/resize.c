/*
 * resize.c - nearest and linear resizing of NHWC images, as ONNX Resize defines them.
 *
 * Where it sits: REEF_K_RESIZE. For every output row and column, the two source positions and the second one's weight
 * are found at load (nearest: both the same); a tile is some output pixels, vectors run over the channels. Coordinates
 * are computed in float, as ONNX Runtime does, so that ties fall the same way.
 */
#include "device/cpu/kernels/walk.h"

typedef struct resize_tap {
    int64_t off0, off1; /* elements from the image's start */
    float weight;       /* of off1 */
} resize_tap;

typedef struct resize_args {
    reef_view x, y;
    bool linear;
    int64_t n, c, oh, ow;
    resize_tap *rows, *cols;
    int64_t items, per_tile;
} resize_args;

static void resize_linear(const float *p00, const float *p01, const float *p10, const float *p11, float wy, float wx,
                          float *y, int64_t c)
{
    vf vy = v_set(wy), vx = v_set(wx);
    for (int64_t i = 0; i < c; i += VL) {
        int64_t m = c - i;
        vf a = v_load_upto(p00 + i, m), b = v_load_upto(p01 + i, m);
        vf d = v_load_upto(p10 + i, m), e = v_load_upto(p11 + i, m);
        vf above = a * (1.0f - vx) + b * vx, below = d * (1.0f - vx) + e * vx;
        v_store_upto(y + i, above * (1.0f - vy) + below * vy, m);
    }
}

static reef_tile_result resize_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const resize_args *a = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    const float *x = (const float *)view_at(&a->x, base);
    float *y = (float *)view_at(&a->y, base);
    int64_t at = (int64_t)tile * a->per_tile, end = at + a->per_tile < a->items ? at + a->per_tile : a->items;
    for (; at < end; at++) {
        int64_t ow = at % a->ow, oh = at / a->ow % a->oh, n = at / a->ow / a->oh;
        const resize_tap *r = &a->rows[oh], *q = &a->cols[ow];
        const float *from = x + n * a->x.stride[0];
        float *to = y + n * a->y.stride[0] + oh * a->y.stride[2] + ow * a->y.stride[3];
        if (!a->linear) {
            from += r->off0 + q->off0;
            int64_t i = 0;
            for (; i + VL <= a->c; i += VL) {
                v_store(to + i, v_load(from + i));
            }
            if (i < a->c) {
                v_store_n(to + i, v_load_n(from + i, a->c - i), a->c - i);
            }
            continue;
        }
        resize_linear(from + r->off0 + q->off0, from + r->off0 + q->off1, from + r->off1 + q->off0,
                      from + r->off1 + q->off1, r->weight, q->weight, to, a->c);
    }
    return REEF_TILE_DONE;
}

static float resize_source(const reef_resize *p, int64_t i, float scale, int64_t from, int64_t to)
{
    switch (p->coord) {
    case REEF_RESIZE_HALF_PIXEL: return ((float)i + 0.5f) / scale - 0.5f;
    case REEF_RESIZE_PYTORCH_HALF_PIXEL: return to > 1 ? ((float)i + 0.5f) / scale - 0.5f : 0.0f;
    case REEF_RESIZE_ALIGN_CORNERS: return to > 1 ? (float)i * (float)(from - 1) / (float)(to - 1) : 0.0f;
    case REEF_RESIZE_ASYMMETRIC: return (float)i / scale;
    }
    return 0;
}

static float resize_round(reef_resize_nearest mode, float s)
{
    switch (mode) {
    case REEF_RESIZE_ROUND_PREFER_FLOOR: return ceilf(s - 0.5f);
    case REEF_RESIZE_ROUND_PREFER_CEIL: return roundf(s); /* away from 0 at ties; below 0 all is clamped */
    case REEF_RESIZE_FLOOR: return floorf(s);
    case REEF_RESIZE_CEIL: return ceilf(s);
    }
    return s;
}

/* Not inside 0..last: the nearest that is; also for NaN. */
static int64_t resize_clamp(float s, int64_t last)
{
    return s >= (float)last ? last : s > 0 ? (int64_t)s : 0;
}

static resize_tap *resize_taps(const reef_resize *p, reef_cpu_prepare *prepare, float scale, int64_t from, int64_t to,
                               int64_t stride)
{
    resize_tap *taps = prepare->alloc(prepare->owner, (size_t)(to > 0 ? to : 1) * sizeof *taps);
    for (int64_t i = 0; taps && i < to; i++) {
        float s = scale == 1.0f && from == to ? (float)i : resize_source(p, i, scale, from, to);
        if (!p->linear) {
            taps[i].off0 = taps[i].off1 = resize_clamp(resize_round(p->nearest, s), from - 1) * stride;
            continue;
        }
        int64_t low = resize_clamp(s, from - 1), high = low + 1 < from ? low + 1 : low;
        taps[i].off0 = low * stride;
        taps[i].off1 = high * stride;
        taps[i].weight = high > low && s > 0 ? s - (float)low : 0.0f;
    }
    return taps;
}

REEF_ISA_PREPARE(resize)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    const reef_resize *p = &k->resize;
    bool ok = x->rank == 4 && y->rank == 4 && x->dtype == REEF_F32 && y->dtype == REEF_F32 && view_dense_in(x, 1) &&
              view_dense_in(y, 1) && x->dims[0] == y->dims[0] && x->dims[1] == y->dims[1] && p->scale[0] > 0 &&
              p->scale[1] > 0;
    int64_t pixels = ok ? y->dims[0] * y->dims[2] * y->dims[3] : 0;
    ok = ok && (pixels == 0 || (x->dims[2] > 0 && x->dims[3] > 0));
    if (!ok) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: operand form of a resize", k->name);
    }
    resize_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    *a = (resize_args){.x = *x, .y = *y, .linear = p->linear, .n = x->dims[0], .c = x->dims[1]};
    a->oh = y->dims[2];
    a->ow = y->dims[3];
    a->rows = resize_taps(p, prepare, p->scale[0], x->dims[2], a->oh, x->stride[2]);
    a->cols = resize_taps(p, prepare, p->scale[1], x->dims[3], a->ow, x->stride[3]);
    if (!a->rows || !a->cols) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    a->items = a->c > 0 ? pixels : 0;
    double vectors = ceil((double)a->c / VL);
    a->per_tile = tile_items(prepare->units, a->items, 8 + vectors * VL * (p->linear ? 0.6 : 0.5));
    kernel_fill(out, resize_tile, a, a->items, a->per_tile, (double)a->c * (p->linear ? 6 : 1),
                p->linear ? "linear " REEF_ISA_NAME : "nearest " REEF_ISA_NAME);
    return REEF_OK;
}
