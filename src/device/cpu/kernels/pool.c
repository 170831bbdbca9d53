/*
 * pool.c - maximum and average over windows, NHWC.
 *
 * Where it sits: REEF_K_POOL. An item is one output pixel's block of channels: the window is walked with the block's
 * accumulators in registers, and the result stored when it is whole. Padding takes no part in a maximum; in an average
 * it counts in the divisor when count_include_pad says so, but places beyond the padding (ceil mode) never do.
 */
#include "device/cpu/kernels/walk.h"

typedef struct pool_args {
    reef_view x, y;
    reef_pool p;
    int64_t n, c, h, w, oh, ow;
    int64_t block_c, blocks_c; /* channels of an item, items per pixel */
    int64_t items, per_tile;
} pool_args;

/* The taps k0..k1-1 of a window at output coordinate o that lie inside x, and how many lie inside x and its padding. */
typedef struct pool_window {
    int64_t start, k0, k1, padded;
} pool_window;

static pool_window pool_window_at(int64_t o, int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t pad_end,
                                  int64_t dilation)
{
    pool_window w = {.start = o * stride - pad};
    w.k0 = w.start < 0 ? (-w.start + dilation - 1) / dilation : 0;
    w.k1 = w.start >= size ? 0 : (size - w.start + dilation - 1) / dilation;
    w.padded = w.start >= size + pad_end ? 0 : (size + pad_end - w.start + dilation - 1) / dilation;
    w.k0 = w.k0 < kernel ? w.k0 : kernel;
    w.k1 = w.k1 < kernel ? w.k1 : kernel;
    w.k1 = w.k1 > w.k0 ? w.k1 : w.k0;
    w.padded = w.padded < kernel ? w.padded : kernel;
    return w;
}

/*
 * count <= 4 vectors of channels of one pixel; x: channel 0 of the block in row and column 0 of the image. The last
 * vector has `tail` channels. False: abandoned (polls NULL: never asked).
 */
static inline __attribute__((always_inline)) bool pool_block(const pool_args *a, const float *x, float *y, int count,
                                                             int64_t tail, pool_window wh, pool_window ww, bool max,
                                                             reef_tile_ctx *polls)
{
    const reef_pool *p = &a->p;
    int64_t row = a->x.stride[2], col = a->x.stride[3], since = 0;
    vf acc[4];
    for (int v = 0; v < count; v++) {
        acc[v] = v_set(max ? -INFINITY : 0.0f);
    }
    for (int64_t kh = wh.k0; kh < wh.k1; kh++) {
        const float *at = x + (wh.start + kh * p->dilation[0]) * row + (ww.start + ww.k0 * p->dilation[1]) * col;
        for (int64_t kw = ww.k0; kw < ww.k1; kw++, at += col * p->dilation[1]) {
            for (int v = 0; v < count; v++) {
                vf in = v == count - 1 && tail < VL ? v_load_n(at + v * VL, tail) : v_load(at + v * VL);
                acc[v] = max ? v_max(in, acc[v]) : acc[v] + in;
            }
            if (polls && ++since == 1024) {
                since = 0;
                if (reef_tile_abandoned(polls)) {
                    return false;
                }
            }
        }
    }
    int64_t inside = (wh.k1 - wh.k0) * (ww.k1 - ww.k0);
    int64_t divisor = p->count_include_pad ? wh.padded * ww.padded : inside;
    for (int v = 0; v < count; v++) {
        vf out = max ? acc[v] : acc[v] / v_set(divisor > 0 ? (float)divisor : 1.0f);
        if (v == count - 1 && tail < VL) {
            v_store_n(y + v * VL, out, tail);
        } else {
            v_store(y + v * VL, out);
        }
    }
    return true;
}

static inline __attribute__((always_inline)) bool pool_item(const pool_args *a, const float *x, float *y, int64_t c,
                                                            pool_window wh, pool_window ww, bool max,
                                                            reef_tile_ctx *polls)
{
    /* An item with polls is at most 4 vectors, so nothing of it has been stored when it is abandoned. */
    int64_t i = 0;
    for (; i + 4 * VL <= c; i += 4 * VL) {
        if (!pool_block(a, x + i, y + i, 4, VL, wh, ww, max, polls)) {
            return false;
        }
    }
    int64_t left = c - i, count = (left + VL - 1) / VL, tail = left - (count - 1) * VL;
    switch (count) {
    case 1: return pool_block(a, x + i, y + i, 1, tail, wh, ww, max, polls);
    case 2: return pool_block(a, x + i, y + i, 2, tail, wh, ww, max, polls);
    case 3: return pool_block(a, x + i, y + i, 3, tail, wh, ww, max, polls);
    case 4: return pool_block(a, x + i, y + i, 4, tail, wh, ww, max, polls);
    }
    return true;
}

static reef_tile_result pool_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const pool_args *a = args;
    const reef_pool *p = &a->p;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    const float *x = (const float *)view_at(&a->x, base);
    float *y = (float *)view_at(&a->y, base);
    int64_t at = (int64_t)tile * a->per_tile, end = at + a->per_tile < a->items ? at + a->per_tile : a->items;
    reef_tile_ctx *polls = a->per_tile == 1 && a->block_c <= 4 * VL ? ctx : NULL;
    for (; at < end; at++) {
        int64_t c = at % a->blocks_c * a->block_c, pixel = at / a->blocks_c;
        int64_t ow = pixel % a->ow, oh = pixel / a->ow % a->oh, n = pixel / a->ow / a->oh;
        pool_window wh = pool_window_at(oh, a->h, p->kernel[0], p->stride[0], p->pad[0], p->pad_end[0], p->dilation[0]);
        pool_window ww = pool_window_at(ow, a->w, p->kernel[1], p->stride[1], p->pad[1], p->pad_end[1], p->dilation[1]);
        const float *from = x + n * a->x.stride[0] + c;
        float *to = y + n * a->y.stride[0] + oh * a->y.stride[2] + ow * a->y.stride[3] + c;
        int64_t channels = a->c - c < a->block_c ? a->c - c : a->block_c;
        bool whole = p->kind == REEF_POOL_MAX ? pool_item(a, from, to, channels, wh, ww, true, polls)
                                              : pool_item(a, from, to, channels, wh, ww, false, polls);
        if (!whole) {
            return REEF_TILE_ABANDONED;
        }
    }
    return REEF_TILE_DONE;
}

REEF_ISA_PREPARE(pool)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    const reef_pool *p = &k->pool;
    bool ok = x->rank == 4 && y->rank == 4 && x->dtype == REEF_F32 && y->dtype == REEF_F32 && view_dense_in(x, 1) &&
              view_dense_in(y, 1) && x->dims[0] == y->dims[0] && x->dims[1] == y->dims[1];
    for (int i = 0; i < 2; i++) {
        ok = ok && p->kernel[i] > 0 && p->stride[i] > 0 && p->dilation[i] > 0;
    }
    if (!ok) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: operand form of a pool", k->name);
    }
    pool_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    *a = (pool_args){.x = *x, .y = *y, .p = *p, .n = x->dims[0], .c = x->dims[1], .h = x->dims[2], .w = x->dims[3]};
    a->oh = y->dims[2];
    a->ow = y->dims[3];
    /* Windows are at most the image, whatever the kernel's size says. */
    double kh = p->kernel[0] < a->h ? (double)p->kernel[0] : (double)a->h;
    double kw = p->kernel[1] < a->w ? (double)p->kernel[1] : (double)a->w;
    double taps = kh * kw;
    /* A tap each, and what comes from memory: a stride's worth of x, and y. */
    double fresh = fmin(kh, (double)p->stride[0]) * fmin(kw, (double)p->stride[1]);
    double vector_ns = taps * 0.4 + 1 + BYTE_NS * VL * 4 * (fresh + 1);
    a->block_c = a->c > 0 ? a->c : 1;
    double pixel_ns = ceil((double)a->block_c / VL) * vector_ns + 10;
    double total = pixel_ns * (double)(a->n * a->oh * a->ow);
    double few = (double)prepare->units * TILE_MIN_NS;
    if (pixel_ns > TILE_NS || (total > few && (double)(a->n * a->oh * a->ow) < prepare->units)) {
        a->block_c = a->block_c < 4 * VL ? a->block_c : 4 * VL;
        pixel_ns = ceil((double)a->block_c / VL) * vector_ns + 10;
    }
    a->blocks_c = (a->c + a->block_c - 1) / a->block_c;
    a->items = a->n * a->oh * a->ow * a->blocks_c;
    a->per_tile = tile_items(prepare->units, a->items, pixel_ns);
    kernel_fill(out, pool_tile, a, a->items, a->per_tile, (double)a->block_c * taps, "nhwc " REEF_ISA_NAME);
    return REEF_OK;
}
