/*
 * pool_host.c - arguments of pooling, resizing and local response normalisation: kernels over output pixels and channels.
 */
#include <math.h>
#include <stdlib.h>

#include "device/cuda/kernels/walk.h"

/* n, h and w strides of an NHWC view. */
static void pixel_strides(const reef_view *view, int64_t *out)
{
    out[0] = view->stride[0];
    out[1] = view->stride[2];
    out[2] = view->stride[3];
}

static bool dense_channels(const reef_view *v)
{
    return v->rank == 4 && (v->stride[1] == 1 || v->dims[1] == 1);
}

/* Can every pixel of both views be taken in vectors of v channels? */
static bool by_vectors(const reef_cuda_prepare *ctx, const reef_view *x, const reef_view *y, int v)
{
    for (int o = 0; o < 2; o++) {
        const reef_view *view = o ? y : x;
        const int64_t bytes = reef_cuda_elem_bytes(reef_cuda_elem(ctx, view)), align = v * bytes < 16 ? v * bytes : 16;
        if (view->dims[1] % v || view->offset * bytes % align || view->stride[0] * bytes % align ||
            view->stride[2] * bytes % align || view->stride[3] * bytes % align) {
            return false;
        }
    }
    return true;
}

/* (n, oh, ow, vectors of c) */
static void pixel_walk(reef_cuda_walk1 *to, const reef_view *y, int v)
{
    reef_cuda_walk w;
    const int64_t dims[4] = {y->dims[0], y->dims[2], y->dims[3], y->dims[1] / v}, none[4] = {0};
    reef_cuda_walk_make(&w, 1, 4, dims, (const int64_t *const[]){none}, false, false);
    REEF_CUDA_WALK_TAKE(*to, &w);
}

/* One candidate, by vectors of v channels. */
static reef_status prepare_pool(const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out, int v)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    const reef_pool *p = &k->pool;
    reef_cuda_pool_args *a = v == 8   ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_pool_v8", "pool x8", *a)
                             : v == 4 ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_pool_v4", "pool x4", *a)
                                      : REEF_CUDA_CANDIDATE(k, ctx, out, "reef_pool_v1", "pool", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    a->x_type = reef_cuda_elem(ctx, x);
    a->y_type = reef_cuda_elem(ctx, y);
    a->average = p->kind == REEF_POOL_AVERAGE;
    a->count_include_pad = p->count_include_pad;
    for (int i = 0; i < 2; i++) {
        a->kernel[i] = (int32_t)p->kernel[i];
        a->stride[i] = (int32_t)p->stride[i];
        a->pad[i] = (int32_t)p->pad[i];
        a->pad_end[i] = (int32_t)p->pad_end[i];
        a->dilation[i] = (int32_t)p->dilation[i];
    }
    a->h = (int32_t)x->dims[2];
    a->w = (int32_t)x->dims[3];
    pixel_strides(x, a->x_stride);
    pixel_strides(y, a->y_stride);
    pixel_walk(&a->walk, y, v);
    a->per_tile = reef_cuda_cut(ctx, out, a->walk.total);
    REEF_CUDA_BIND(ctx, out, a, x, x);
    REEF_CUDA_BIND(ctx, out, a, y, y);
    return REEF_OK;
}

REEF_CUDA_PREPARE(pool)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    const reef_pool *p = &k->pool;
    if (!dense_channels(x) || !dense_channels(y) || x->dtype != REEF_F32 || y->dtype != REEF_F32) {
        return reef_cuda_unsupported(k, ctx, "pooling needs f32 with dense channels");
    }
    for (int i = 0; i < 2; i++) { /* coordinates fit 32 bits, and so do a window's taps */
        const int64_t most = 1 << 28;
        if (p->kernel[i] > 1 << 14 || p->dilation[i] > 1 << 14 || p->stride[i] > most || p->pad[i] > most ||
            p->pad_end[i] > most || x->dims[2 + i] < 1 || x->dims[2 + i] > most ||
            (y->dims[2 + i] - 1) * p->stride[i] > most) {
            return reef_cuda_unsupported(k, ctx, "pooling over nothing, or over too large a window");
        }
    }
    const int v = by_vectors(ctx, x, y, 4) ? 4 : 1;
    const bool wide = reef_cuda_elem(ctx, x) == REEF_CUDA_F16 && by_vectors(ctx, x, y, 8);
    reef_status status = prepare_pool(k, ctx, out, v);
    *n = 1;
    if (!status && wide && max > 1) {
        status = prepare_pool(k, ctx, out + 1, 8);
        *n = 2;
    }
    return status;
}

/* Where output coordinate o lies in the input; as ONNX Resize defines it, in double as everywhere in reef. */
static double source(const reef_resize *r, int axis, int64_t o, int64_t in, int64_t out)
{
    if (r->coord == REEF_RESIZE_ALIGN_CORNERS) {
        return out > 1 ? (double)o * (double)(in - 1) / (double)(out - 1) : 0;
    }
    if (r->coord == REEF_RESIZE_ASYMMETRIC) {
        return (double)o / r->scale[axis];
    }
    return r->coord == REEF_RESIZE_PYTORCH_HALF_PIXEL && out <= 1 ? 0 : ((double)o + 0.5) / r->scale[axis] - 0.5;
}

static void taps(const reef_resize *r, int axis, int64_t in, int64_t out, int32_t *low, int32_t *high, float *weight)
{
    for (int64_t o = 0; o < out; o++) {
        double at = source(r, axis, o, in, out);
        if (r->linear) {
            at = fmin(fmax(at, 0), (double)(in - 1));
            low[o] = (int32_t)at;
            high[o] = low[o] + 1 < in ? low[o] + 1 : low[o];
            weight[o] = (float)(at - (double)low[o]);
            continue;
        }
        at = r->nearest == REEF_RESIZE_ROUND_PREFER_FLOOR  ? ceil(at - 0.5)
             : r->nearest == REEF_RESIZE_ROUND_PREFER_CEIL ? floor(at + 0.5)
             : r->nearest == REEF_RESIZE_FLOOR             ? floor(at)
                                                           : ceil(at);
        low[o] = high[o] = (int32_t)fmin(fmax(at, 0), (double)(in - 1));
        weight[o] = 0;
    }
}

REEF_CUDA_PREPARE(resize)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    (void)max;
    if (!dense_channels(x) || !dense_channels(y) || x->dtype != REEF_F32 || y->dtype != REEF_F32 ||
        x->dims[2] > INT32_MAX || x->dims[3] > INT32_MAX) {
        return reef_cuda_unsupported(k, ctx, "resizing needs f32 with dense channels");
    }
    int v = by_vectors(ctx, x, y, 8) && reef_cuda_elem(ctx, x) == REEF_CUDA_F16 ? 8 : by_vectors(ctx, x, y, 4) ? 4 : 1;
    reef_cuda_resize_args *a = v == 8   ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_resize_v8", "resize x8", *a)
                               : v == 4 ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_resize_v4", "resize x4", *a)
                                        : REEF_CUDA_CANDIDATE(k, ctx, out, "reef_resize_v1", "resize", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    /* One upload: low, high, weight of rows, then of columns. */
    const size_t oh = (size_t)y->dims[2], entries = oh + (size_t)y->dims[3];
    int32_t *table = malloc((entries + 1) * 3 * sizeof *table);
    float *weight = malloc((entries + 1) * sizeof *weight);
    uint64_t address = 0;
    reef_status status =
        table && weight ? REEF_OK : reef_fail(ctx->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    if (!status) {
        int32_t *low = table, *high = table + entries;
        taps(&k->resize, 0, x->dims[2], y->dims[2], low, high, weight);
        taps(&k->resize, 1, x->dims[3], y->dims[3], low + oh, high + oh, weight + oh);
        memcpy(table + 2 * entries, weight, entries * sizeof *weight);
        status = ctx->upload(ctx->owner, table, (entries + 1) * 3 * sizeof *table, &address);
    }
    free(table);
    free(weight);
    if (status) {
        return status;
    }
    a->low = (const int32_t *)(uintptr_t)address;
    a->high = a->low + entries;
    a->weight = (const float *)(a->low + 2 * entries);
    a->x_type = reef_cuda_elem(ctx, x);
    a->y_type = reef_cuda_elem(ctx, y);
    a->linear = k->resize.linear;
    pixel_strides(x, a->x_stride);
    pixel_strides(y, a->y_stride);
    pixel_walk(&a->walk, y, v);
    a->per_tile = reef_cuda_cut(ctx, out, a->walk.total);
    REEF_CUDA_BIND(ctx, out, a, x, x);
    REEF_CUDA_BIND(ctx, out, a, y, y);
    *n = 1;
    return REEF_OK;
}

REEF_CUDA_PREPARE(lrn)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    (void)max;
    if (!dense_channels(x) || !dense_channels(y) || x->dtype != REEF_F32 || y->dtype != REEF_F32) {
        return reef_cuda_unsupported(k, ctx, "local response normalisation needs f32 with dense channels");
    }
    reef_cuda_lrn_args *a = REEF_CUDA_CANDIDATE(k, ctx, out, "reef_lrn", "lrn", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    a->x_type = reef_cuda_elem(ctx, x);
    a->y_type = reef_cuda_elem(ctx, y);
    a->size = k->lrn.size;
    a->alpha_over_size = k->lrn.alpha / (float)k->lrn.size;
    a->beta = k->lrn.beta;
    a->bias = k->lrn.bias;
    pixel_strides(x, a->x_stride);
    pixel_strides(y, a->y_stride);
    pixel_walk(&a->walk, y, 1);
    a->per_tile = reef_cuda_cut(ctx, out, a->walk.total);
    REEF_CUDA_BIND(ctx, out, a, x, x);
    REEF_CUDA_BIND(ctx, out, a, y, y);
    *n = 1;
    return REEF_OK;
}
