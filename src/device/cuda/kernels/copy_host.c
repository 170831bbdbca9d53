/*
 * copy_host.c - which kernel moves elements from one view to another (copy.cu; eltwise.cu where types differ), and gathering.
 */
#include <stdlib.h>

#include "device/cuda/kernels/walk.h"
#include "model/shape.h"

enum { SIDE = 32, MIN_SIDE = 8 };

static bool same_or_floats(reef_cuda_elem_type a, reef_cuda_elem_type b)
{
    return a == b || (reef_cuda_is_float(a) && reef_cuda_is_float(b));
}

/* Runs of equal elements, the longest that alignment allows; or single elements that are converted. */
static reef_status prepare_units(const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out, reef_cuda_walk *w)
{
    const int64_t bytes = reef_cuda_elem_bytes(reef_cuda_elem(ctx, &k->y));
    const bool convert = reef_cuda_elem(ctx, &k->in[0]) != reef_cuda_elem(ctx, &k->y);
    int64_t run = convert ? 1 : 16 / bytes;
    const reef_view *views[2] = {&k->y, &k->in[0]};
    const int last = w->rank - 1;
    for (; run > 1; run /= 2) {
        bool fits = w->dims[last] % run == 0;
        for (int o = 0; o < 2; o++) {
            fits = fits && w->stride[o][last] == 1 && views[o]->offset % run == 0;
            for (int i = 0; i < last; i++) {
                fits = fits && w->stride[o][i] % run == 0;
            }
        }
        if (fits) {
            break;
        }
    }
    reef_cuda_copy_args *a = REEF_CUDA_CANDIDATE(k, ctx, out, "reef_copy", run > 1 ? "copy runs" : "copy", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    if (run > 1) { /* strides in runs: the innermost stays 1 */
        w->dims[last] /= run;
        for (int o = 0; o < 2; o++) {
            for (int i = 0; i < last; i++) {
                w->stride[o][i] /= run;
            }
        }
        reef_cuda_walk_finish(w);
    }
    a->unit_bytes = convert ? 0 : (uint32_t)(run * bytes);
    a->y_type = reef_cuda_elem(ctx, &k->y);
    a->x_type = reef_cuda_elem(ctx, &k->in[0]);
    REEF_CUDA_WALK_TAKE(a->walk, w);
    a->per_tile = reef_cuda_cut(ctx, out, w->total);
    REEF_CUDA_BIND(ctx, out, a, y, &k->y);
    REEF_CUDA_BIND(ctx, out, a, x, &k->in[0]);
    return REEF_OK;
}

static reef_status prepare_transpose(const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                                     const reef_cuda_walk *w, int row)
{
    reef_cuda_transpose_args *a = REEF_CUDA_CANDIDATE(k, ctx, out, "reef_transpose", "transpose", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    const int col = w->rank - 1;
    int64_t dims[REEF_CUDA_WALK_DIMS], ys[REEF_CUDA_WALK_DIMS], xs[REEF_CUDA_WALK_DIMS];
    int rank = 0;
    for (int i = 0; i < col; i++) {
        if (i != row) {
            dims[rank] = w->dims[i];
            ys[rank] = w->stride[0][i];
            xs[rank++] = w->stride[1][i];
        }
    }
    reef_cuda_walk outer;
    reef_cuda_walk_make(&outer, 2, rank, dims, (const int64_t *const[]){ys, xs}, false, true);
    REEF_CUDA_WALK_TAKE(a->outer, &outer);
    a->y_type = reef_cuda_elem(ctx, &k->y);
    a->x_type = reef_cuda_elem(ctx, &k->in[0]);
    a->rows = w->dims[row];
    a->cols = w->dims[col];
    a->y_row = w->stride[0][row];
    a->x_row = w->stride[1][row];
    a->y_col = w->stride[0][col];
    a->x_col = w->stride[1][col];
    a->row_tiles = (uint32_t)((a->rows + SIDE - 1) / SIDE);
    a->col_tiles = (uint32_t)((a->cols + SIDE - 1) / SIDE);
    out->tiles = (unsigned)(outer.total * (int64_t)a->row_tiles * (int64_t)a->col_tiles);
    out->threads = 256;
    REEF_CUDA_BIND(ctx, out, a, y, &k->y);
    REEF_CUDA_BIND(ctx, out, a, x, &k->in[0]);
    return REEF_OK;
}

static int64_t held(double v, int64_t low, int64_t high)
{
    return v != v ? 0 : v <= (double)low ? low : v >= (double)high ? high : (int64_t)v;
}

static uint64_t element_bits(reef_cuda_elem_type type, reef_dtype dtype, double v)
{
    uint32_t f32;
    uint64_t f64;
    float f = (float)v;
    switch (type) {
    case REEF_CUDA_F32: memcpy(&f32, &f, sizeof f32); return f32;
    case REEF_CUDA_F16: return reef_half_from_float(f);
    case REEF_CUDA_F64: memcpy(&f64, &v, sizeof f64); return f64;
    case REEF_CUDA_I64: return (uint64_t)held(v, INT64_MIN, INT64_MAX);
    case REEF_CUDA_I32: return (uint32_t)held(v, INT32_MIN, INT32_MAX);
    case REEF_CUDA_I8: return (uint8_t)held(v, INT8_MIN, INT8_MAX);
    case REEF_CUDA_BOOL: break;
    }
    return dtype == REEF_BOOL ? v != 0 : (uint8_t)held(v, 0, UINT8_MAX);
}

static reef_status prepare_pad(const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    reef_cuda_pad_args *a = REEF_CUDA_CANDIDATE(k, ctx, out, "reef_pad", "pad", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    _Static_assert((int)REEF_PAD_REFLECT == 1 && (int)REEF_PAD_EDGE == 2, "pad_kernel knows the modes by number");
    a->y_type = reef_cuda_elem(ctx, y);
    a->x_type = reef_cuda_elem(ctx, x);
    a->mode = k->copy.mode;
    a->value = element_bits(reef_cuda_elem(ctx, y), y->dtype, k->copy.value);
    a->total = reef_view_elems(y);
    /* In the order of y's memory, so that neighbours write neighbours. */
    for (int i = 0; i < y->rank; i++) {
        int at = a->rank++;
        for (; at > 0 && llabs(a->y_stride[at - 1]) < llabs(y->stride[i]); at--) {
            a->dims[at] = a->dims[at - 1];
            a->x_dims[at] = a->x_dims[at - 1];
            a->before[at] = a->before[at - 1];
            a->y_stride[at] = a->y_stride[at - 1];
            a->x_stride[at] = a->x_stride[at - 1];
        }
        a->dims[at] = y->dims[i];
        a->x_dims[at] = x->dims[i];
        a->before[at] = k->copy.before[i];
        a->y_stride[at] = y->stride[i];
        a->x_stride[at] = x->stride[i];
    }
    a->per_tile = reef_cuda_cut(ctx, out, a->total);
    REEF_CUDA_BIND(ctx, out, a, y, y);
    REEF_CUDA_BIND(ctx, out, a, x, x);
    return REEF_OK;
}

REEF_CUDA_PREPARE(copy)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    const reef_cuda_elem_type yt = reef_cuda_elem(ctx, y), xt = reef_cuda_elem(ctx, x);
    (void)max;
    *n = 1;
    if (x->dtype != y->dtype || x->rank != y->rank || !same_or_floats(xt, yt)) {
        return reef_cuda_unsupported(k, ctx, "copy between different types or ranks");
    }
    if (k->copy.pads) {
        return prepare_pad(k, ctx, out);
    }
    reef_cuda_walk w;
    reef_cuda_walk_make(&w, 2, y->rank, y->dims, (const int64_t *const[]){y->stride, x->stride}, true, true);
    const int last = w.rank - 1;
    int row = -1; /* the dimension whose elements are neighbours in x */
    for (int i = 0; i < last; i++) {
        const int64_t s = w.stride[1][i];
        if ((s == 1 || s == -1) && w.dims[i] >= MIN_SIDE) {
            row = i;
        }
    }
    const bool long_step = w.stride[1][last] > 1 || w.stride[1][last] < -1;
    if (row >= 0 && long_step && w.dims[last] >= MIN_SIDE &&
        w.total / (w.dims[row] * w.dims[last]) <
            INT32_MAX / (((w.dims[row] + SIDE - 1) / SIDE) * ((w.dims[last] + SIDE - 1) / SIDE))) {
        return prepare_transpose(k, ctx, out, &w, row);
    }
    const bool vectors = reef_cuda_walk_vector(&w, 0, ctx, y, 4) && reef_cuda_walk_vector(&w, 1, ctx, x, 4);
    return xt != yt && vectors ? reef_cuda_prepare_convert(k, ctx, out) : prepare_units(k, ctx, out, &w);
}

REEF_CUDA_PREPARE(gather)
{
    const reef_view *data = &k->in[0], *indices = &k->in[1], *y = &k->y;
    const reef_cuda_elem_type yt = reef_cuda_elem(ctx, y), dt = reef_cuda_elem(ctx, data);
    const int axis = k->gather.axis;
    (void)max;
    if (data->dtype != y->dtype || !same_or_floats(dt, yt) ||
        (indices->dtype != REEF_I64 && indices->dtype != REEF_I32) || y->rank > (int)REEF_CUDA_WALK_DIMS) {
        return reef_cuda_unsupported(k, ctx, "gather of this form");
    }
    /* Dimensions of y: those of data before the axis, those of indices, those of data behind it. */
    int64_t ds[REEF_MAX_RANK] = {0}, is[REEF_MAX_RANK] = {0};
    for (int i = 0; i < y->rank; i++) {
        if (i < axis) {
            ds[i] = data->stride[i];
        } else if (i < axis + indices->rank) {
            is[i] = indices->stride[i - axis];
        } else {
            ds[i] = data->stride[i - indices->rank + 1];
        }
    }
    reef_cuda_walk w;
    reef_cuda_walk_make(&w, 3, y->rank, y->dims, (const int64_t *const[]){y->stride, ds, is}, true, true);
    const int last = w.rank - 1;
    int v = 1;
    for (int try = 8; try > 1 && v == 1; try /= 2) {
        const int64_t align =
            try * (int64_t)reef_cuda_elem_bytes(dt) < 16 ? try * (int64_t)reef_cuda_elem_bytes(dt) : 16;
        if (try >= 4 && reef_cuda_is_float(yt) && reef_cuda_walk_vector(&w, 0, ctx, y, try) &&
            reef_cuda_walk_vector(&w, 1, ctx, data, try) && w.stride[2][last] == 0 &&
            data->stride[axis] * (int64_t)reef_cuda_elem_bytes(dt) % align == 0 &&
            (try == 4 || (yt == REEF_CUDA_F16 && dt == REEF_CUDA_F16))) {
            v = try;
        }
    }
    reef_cuda_gather_args *a = v == 8   ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_gather_v8", "gather x8", *a)
                               : v == 4 ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_gather_v4", "gather x4", *a)
                                        : REEF_CUDA_CANDIDATE(k, ctx, out, "reef_gather_v1", "gather", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    a->y_type = yt;
    a->data_type = dt;
    a->index_type = reef_cuda_elem(ctx, indices);
    a->axis_dim = data->dims[axis];
    a->axis_stride = data->stride[axis];
    reef_cuda_walk_by(&w, 3, v);
    REEF_CUDA_WALK_TAKE(a->walk, &w);
    a->per_tile = reef_cuda_cut(ctx, out, w.total);
    REEF_CUDA_BIND(ctx, out, a, y, y);
    REEF_CUDA_BIND(ctx, out, a, data, data);
    REEF_CUDA_BIND(ctx, out, a, indices, indices);
    *n = 1;
    return REEF_OK;
}
