/*
 * reduce_host.c - arguments of the kernels whose results have many elements each (reduce.cu, layer_norm.cu), and of spin.
 */
#include <stdlib.h>

#include "device/cuda/kernels/walk.h"

/* What is left of a view when the marked dimensions are taken out: their walk, and that of the others. */
static void split(const reef_view *y, const reef_view *x, const bool *axis, reef_cuda_walk *kept,
                  reef_cuda_walk *reduced)
{
    int64_t kd[REEF_MAX_RANK], ky[REEF_MAX_RANK], kx[REEF_MAX_RANK], rd[REEF_MAX_RANK], rx[REEF_MAX_RANK];
    int nk = 0, nr = 0;
    for (int i = 0; i < x->rank; i++) {
        if (axis[i]) {
            rd[nr] = x->dims[i];
            rx[nr++] = x->stride[i];
        } else {
            kd[nk] = x->dims[i];
            ky[nk] = y->stride[i];
            kx[nk++] = x->stride[i];
        }
    }
    /* Lanes in the order of x, so that neighbours read neighbours; then y is operand 1. */
    reef_cuda_walk w;
    reef_cuda_walk_make(&w, 2, nk, kd, (const int64_t *const[]){kx, ky}, true, true);
    *kept = w;
    memcpy(kept->stride[0], w.stride[1], sizeof w.stride[1]);
    memcpy(kept->stride[1], w.stride[0], sizeof w.stride[0]);
    reef_cuda_walk_make(reduced, 1, nr, rd, (const int64_t *const[]){rx}, true, true);
}

static int64_t inner_step(const reef_cuda_walk *w, int o)
{
    return llabs(w->stride[o][w->rank - 1]);
}

/* Threads of a warp run along the reduced elements when those are closer together in memory than the lanes. */
static bool runs_along(const reef_cuda_walk *kept, const reef_cuda_walk *reduced)
{
    return kept->total == 1 || inner_step(reduced, 0) < inner_step(kept, 1);
}

static reef_status share(const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                         const reef_cuda_walk *kept, const reef_cuda_walk *reduced, uint32_t *log2, uint32_t *along)
{
    const reef_cuda_lanes l = reef_cuda_lanes_choose(ctx, kept->total, reduced->total, runs_along(kept, reduced));
    if (!l.tiles) {
        return reef_cuda_unsupported(k, ctx, "too many results");
    }
    *log2 = l.log2;
    *along = l.along;
    out->tiles = l.tiles;
    out->threads = l.threads;
    return REEF_OK;
}

REEF_CUDA_PREPARE(reduce)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    (void)max;
    if (x->rank != y->rank || x->dtype != y->dtype || (x->dtype != REEF_F32 && x->dtype != REEF_I64) ||
        (x->dtype == REEF_I64 && k->reduce.kind == REEF_REDUCE_LOG_SUM_EXP)) {
        return reef_cuda_unsupported(k, ctx, "reduction of this type");
    }
    reef_cuda_reduce_args *a = REEF_CUDA_CANDIDATE(k, ctx, out, "reef_reduce", "reduce", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    reef_cuda_walk kept, reduced;
    split(y, x, k->reduce.axis, &kept, &reduced);
    a->kind = k->reduce.kind;
    a->y_type = reef_cuda_elem(ctx, y);
    a->x_type = reef_cuda_elem(ctx, x);
    REEF_CUDA_WALK_TAKE(a->kept, &kept);
    REEF_CUDA_WALK_TAKE(a->reduced, &reduced);
    REEF_CUDA_BIND(ctx, out, a, y, y);
    REEF_CUDA_BIND(ctx, out, a, x, x);
    *n = 1;
    return share(k, ctx, out, &kept, &reduced, &a->lanes_log2, &a->along);
}

REEF_CUDA_PREPARE(softmax)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    (void)max;
    if (x->rank != y->rank || x->dtype != REEF_F32 || y->dtype != REEF_F32) {
        return reef_cuda_unsupported(k, ctx, "softmax needs f32");
    }
    reef_cuda_softmax_args *a = REEF_CUDA_CANDIDATE(k, ctx, out, "reef_softmax", "softmax", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    bool axis[REEF_MAX_RANK] = {false};
    reef_cuda_walk kept, reduced;
    axis[k->softmax.axis] = true;
    split(y, x, axis, &kept, &reduced);
    a->y_type = reef_cuda_elem(ctx, y);
    a->x_type = reef_cuda_elem(ctx, x);
    a->log = k->softmax.log;
    a->length = x->dims[k->softmax.axis];
    a->x_stride = x->stride[k->softmax.axis];
    a->y_stride = y->stride[k->softmax.axis];
    REEF_CUDA_WALK_TAKE(a->kept, &kept);
    REEF_CUDA_BIND(ctx, out, a, y, y);
    REEF_CUDA_BIND(ctx, out, a, x, x);
    *n = 1;
    return share(k, ctx, out, &kept, &reduced, &a->lanes_log2, &a->along);
}

REEF_CUDA_PREPARE(arg_max)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    (void)max;
    if (x->rank != y->rank || (x->dtype != REEF_F32 && x->dtype != REEF_I64) || y->dtype != REEF_I64) {
        return reef_cuda_unsupported(k, ctx, "arg max of this type");
    }
    reef_cuda_arg_max_args *a = REEF_CUDA_CANDIDATE(k, ctx, out, "reef_arg_max", "arg max", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    bool axis[REEF_MAX_RANK] = {false};
    reef_cuda_walk kept, reduced;
    axis[k->arg_max.axis] = true;
    split(y, x, axis, &kept, &reduced);
    a->x_type = reef_cuda_elem(ctx, x);
    a->select_last = k->arg_max.select_last;
    a->min = k->arg_max.min;
    a->length = x->dims[k->arg_max.axis];
    a->x_stride = x->stride[k->arg_max.axis];
    REEF_CUDA_WALK_TAKE(a->kept, &kept);
    REEF_CUDA_BIND(ctx, out, a, y, y);
    REEF_CUDA_BIND(ctx, out, a, x, x);
    *n = 1;
    return share(k, ctx, out, &kept, &reduced, &a->lanes_log2, &a->along);
}

REEF_CUDA_PREPARE(layer_norm)
{
    const reef_layer_norm *l = &k->layer_norm;
    const reef_view *x = &k->in[0], *r = l->has_residual ? &k->in[1] : NULL, *y = &k->y;
    const int last = y->rank - 1;
    const int64_t channels = y->rank > 0 ? y->dims[last] : 0;
    static const int64_t none[REEF_MAX_RANK];
    (void)max;
    if (y->rank < 1 || x->rank != y->rank || x->dtype != REEF_F32 || y->dtype != REEF_F32 ||
        (r && (r->rank != y->rank || r->dtype != REEF_F32))) {
        return reef_cuda_unsupported(k, ctx, "layer norm needs f32");
    }
    /* Rows; and whether vectors of four are possible in all of them. */
    reef_cuda_walk rows, all;
    const int64_t *const strides[3] = {y->stride, x->stride, r ? r->stride : none};
    reef_cuda_walk_make(&rows, 3, last, y->dims, strides, false, true);
    reef_cuda_walk_make(&all, 3, y->rank, y->dims, strides, false, false);
    int v = 1;
    for (int try = 4; try <= 8; try += 4) {
        if (reef_cuda_walk_vector(&all, 0, ctx, y, try) && reef_cuda_walk_vector(&all, 1, ctx, x, try) &&
            (!r || reef_cuda_walk_vector(&all, 2, ctx, r, try))) {
            v = try;
        }
    }
    v = v == 8 && channels < 4096 ? 4 : v; /* more threads per row */
    const int64_t per_row = (channels + v - 1) / v;
    const int64_t held = v == 1 ? 4 : 2;      /* vectors of a thread that stay in registers: layer_norm.cu */
    const int64_t most = v == 8 ? 512 : 1024; /* threads of a block, likewise */
    int64_t threads = per_row <= 512 ? per_row : per_row <= most * held ? (per_row + held - 1) / held : 512;
    threads = threads < 1 ? 32 : (threads + 31) / 32 * 32;
    if (rows.total > INT32_MAX) {
        return reef_cuda_unsupported(k, ctx, "too many rows");
    }
    reef_cuda_layer_norm_args *a = v == 8 ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_layer_norm_v8", "layer norm x8", *a)
                                   : v == 4
                                       ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_layer_norm_v4", "layer norm x4", *a)
                                       : REEF_CUDA_CANDIDATE(k, ctx, out, "reef_layer_norm_v1", "layer norm", *a);
    const int64_t second = (channels + 3) / 4 * 4; /* bias stays aligned */
    float *padded = a ? malloc((size_t)(second + channels + 1) * sizeof *padded) : NULL;
    if (!padded) {
        return reef_fail(ctx->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    memset(padded, 0, (size_t)(second + channels + 1) * sizeof *padded);
    for (int64_t i = 0; i < channels; i++) {
        padded[i] = l->scale ? l->scale[i] : 1;
        padded[second + i] = l->bias ? l->bias[i] : 0;
    }
    uint64_t address = 0;
    reef_status status = ctx->upload(ctx->owner, padded, (size_t)(second + channels + 1) * sizeof *padded, &address);
    free(padded);
    if (status) {
        return status;
    }
    a->scale = (const float *)(uintptr_t)address;
    a->bias = a->scale + second;
    a->y_type = reef_cuda_elem(ctx, y);
    a->x_type = reef_cuda_elem(ctx, x);
    a->epsilon = l->epsilon;
    a->channels = channels;
    a->y_stride = y->stride[last];
    a->x_stride = x->stride[last];
    REEF_CUDA_WALK_TAKE(a->rows, &rows);
    out->tiles = rows.total > 0 ? (unsigned)rows.total : 1;
    out->threads = (unsigned)threads;
    REEF_CUDA_BIND(ctx, out, a, y, y);
    REEF_CUDA_BIND(ctx, out, a, x, x);
    if (r) {
        a->residual_type = reef_cuda_elem(ctx, r);
        a->residual_stride = r->stride[last];
        REEF_CUDA_BIND(ctx, out, a, residual, r);
    }
    a->has_residual = r != NULL;
    *n = 1;
    return REEF_OK;
}

REEF_CUDA_PREPARE(spin)
{
    (void)max;
    reef_cuda_spin_args *a = REEF_CUDA_CANDIDATE(k, ctx, out, "reef_spin", "spin", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    a->tile_ns = k->spin.tile_ns;
    out->tiles = k->spin.tiles ? k->spin.tiles : 1;
    out->threads = 256;
    *n = 1;
    return REEF_OK;
}
