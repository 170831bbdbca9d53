/*
 * conv_host.c - REEF_K_CONV and REEF_K_CONV_TRANSPOSE as matrix products; depthwise convolution as itself.
 */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include "device/cuda/kernels/igemm_host.h"

static reef_status describe(const reef_kernel *k, reef_cuda_prepare *ctx, bool transposed, igemm_problem *p)
{
    const reef_conv *c = &k->conv;
    const reef_view *x = &k->in[0], *y = &k->y;
    const int64_t taps = c->kernel[0] * c->kernel[1], channels = c->channels / c->groups,
                  filters = c->filters / c->groups;
    *p = (igemm_problem){
        .x = x,
        .y = y,
        .residual = c->has_residual ? &k->in[1] : NULL,
        .w = c->w,
        .bias = c->bias,
        .bias_elems = c->filters,
        .transposed = transposed,
        .pooled = k->then ? &ctx->plan->kernels[k->then].y : NULL,
        .flops = k->flops,
        .w_g = transposed ? channels * filters * taps : filters * channels * taps,
        .w_n = transposed ? taps : channels * taps,
        .w_c = transposed ? filters * taps : taps,
    };
    p->args = (reef_igemm_args){
        .rows = (int32_t)(y->dims[0] * y->dims[2] * y->dims[3]),
        .cols = (int32_t)filters,
        .groups = (int32_t)c->groups,
        .group_div = (int32_t)c->groups,
        .channels = (int32_t)channels,
        .taps_h = (int32_t)c->kernel[0],
        .taps_w = (int32_t)c->kernel[1],
        .in_h = (int32_t)x->dims[2],
        .in_w = (int32_t)x->dims[3],
        .out_w = (int32_t)y->dims[3],
        .out_hw = (int32_t)(y->dims[2] * y->dims[3]),
        .stride_h = (int32_t)c->stride[0],
        .stride_w = (int32_t)c->stride[1],
        .pad_h = (int32_t)c->pad[0],
        .pad_w = (int32_t)c->pad[1],
        .dil_h = (int32_t)c->dilation[0],
        .dil_w = (int32_t)c->dilation[1],
        .bias_group = (int32_t)filters,
        .act = (int32_t)c->act,
        .act_a = c->act_a,
        .act_b = c->act_b,
        .alpha = 1,
    };
    reef_status status = igemm_operand(k, ctx, x, 0, 2, 3, &p->args.xs);
    if (!status) {
        status = igemm_operand(k, ctx, y, 0, 2, 3, &p->args.ys);
    }
    if (!status && c->has_residual) {
        status = igemm_operand(k, ctx, &k->in[1], 0, 2, 3, &p->args.rs);
    }
    p->args.xs.g1 = (int32_t)channels;
    p->args.ys.g1 = p->args.rs.g1 = (int32_t)filters;
    return status;
}

static reef_status depthwise(const igemm_problem *p, const reef_kernel *k, reef_cuda_prepare *ctx,
                             reef_cuda_kernel *out, size_t *n)
{
    const reef_igemm_args *from = &p->args;
    const int64_t channels = from->groups, taps = (int64_t)from->taps_h * from->taps_w;
    reef_depthwise_args *a = reef_arena_alloc(ctx->arena, sizeof *a);
    float *w = malloc((size_t)(taps * channels) * sizeof *w);
    if (!a || !w) {
        free(w);
        return reef_fail(ctx->error, REEF_NO_MEMORY, "out of memory");
    }
    for (int64_t c = 0; c < channels; c++) {
        for (int64_t t = 0; t < taps; t++) {
            w[t * channels + c] = p->w[c * taps + t];
        }
    }
    *a = (reef_depthwise_args){
        .xs = from->xs,
        .ys = from->ys,
        .rs = from->rs,
        .rows = from->rows,
        .channels = (int32_t)channels,
        .taps_h = from->taps_h,
        .taps_w = from->taps_w,
        .in_h = from->in_h,
        .in_w = from->in_w,
        .out_w = from->out_w,
        .out_hw = from->out_hw,
        .stride_h = from->stride_h,
        .stride_w = from->stride_w,
        .pad_h = from->pad_h,
        .pad_w = from->pad_w,
        .dil_h = from->dil_h,
        .dil_w = from->dil_w,
        .act = from->act,
        .act_a = from->act_a,
        .act_b = from->act_b,
    };
    reef_status status = ctx->upload(ctx->owner, w, (size_t)(taps * channels) * sizeof *w, &a->w);
    free(w);
    if (!status) {
        status = igemm_upload_bias(ctx, p->bias, channels, &a->bias);
    }
    if (status) {
        return status;
    }
    int64_t blocks = ((channels + 1) / 2 * from->rows + 255) / 256;
    *out = (reef_cuda_kernel){.function = "reef_depthwise",
                              .worker = "reef_depthwise_be",
                              .variant = "depthwise",
                              .loops = true,
                              .tiles = (unsigned)blocks,
                              .threads = 256,
                              .args = a,
                              .args_bytes = sizeof *a,
                              .flops = k->flops};
    reef_cuda_bind(ctx, out, offsetof(reef_depthwise_args, x), p->x);
    reef_cuda_bind(ctx, out, offsetof(reef_depthwise_args, y), p->y);
    if (p->residual) {
        reef_cuda_bind(ctx, out, offsetof(reef_depthwise_args, residual), p->residual);
    }
    *n = 1;
    return REEF_OK;
}

enum { STEM_STEPS = 16, STEM_SMEM = 40 << 10 };

/* Weights as the fragments of 16 of k by 8 columns that stem.cu multiplies. */
static reef_status stem_weights(const igemm_problem *p, reef_cuda_prepare *ctx, int columns, reef_stem_args *a)
{
    const size_t tiles = columns / 8, elems = (size_t)a->col_tiles * (size_t)a->steps * tiles * 128;
    const int depth = a->channels * a->taps_h * a->taps_w;
    float *w = calloc(elems, sizeof *w);
    uint16_t *halves = malloc(elems * sizeof *halves);
    reef_status status = REEF_NO_MEMORY;
    if (!w || !halves) {
        reef_error_set(ctx->error, status, "out of memory for %zu bytes of weights", elems * sizeof *w);
        goto done;
    }
    for (size_t i = 0; i < elems; i++) { /* [column tile][step][8 columns][lane][4] */
        const int lane = (int)(i / 4 % 32), step = (int)(i / 128 / tiles % (size_t)a->steps);
        const int col = (int)(i / 128 / tiles / (size_t)a->steps) * columns + (int)(i / 128 % tiles) * 8 + lane / 4;
        const int k = step * 16 + lane % 4 * 2 + (int)(i % 2) + (int)(i / 2 % 2) * 8;
        w[i] = k < depth && col < a->cols ? p->w[(int64_t)col * p->w_n + k] : 0.0f;
    }
    igemm_to_half(halves, w, elems);
    status = ctx->upload(ctx->owner, halves, elems * sizeof *halves, &a->w);
done:
    free(w);
    free(halves);
    return status;
}

/* Few channels: candidates that take x as it lies, or as the copy that makes x finds it. */
static reef_status stem(const igemm_problem *p, const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                        size_t max, size_t *n)
{
    static const char *const names[2][2] = {{"reef_stem_32", "reef_stem_32x2"}, {"reef_stem_64", "reef_stem_64x2"}};
    static const char *const workers[2][2] = {{"reef_stem_32_be", "reef_stem_32x2_be"},
                                              {"reef_stem_64_be", "reef_stem_64x2_be"}};
    static const char *const variants[2][2] = {{"stem 32", "stem 32 by 2"}, {"stem 64", "stem 64 by 2"}};
    const reef_igemm_args *from = &p->args;
    const reef_view *x = k->through ? &ctx->plan->kernels[k->through - 1].in[0] : &k->in[0];
    const int taps = from->taps_h * from->taps_w, depth = from->channels * taps, wide = from->cols > 32;
    const int columns = wide ? 64 : 32;
    const bool bounds = from->act == REEF_ACT_NONE || from->act == REEF_ACT_RELU || from->act == REEF_ACT_CLIP;
    int64_t first, end;
    reef_view_range(x, &first, &end);
    if (ctx->precision != REEF_CUDA_FP16 || p->residual || from->groups != 1 || from->channels % 8 == 0 ||
        depth > STEM_STEPS * 16 || !bounds || end - first >= (int64_t)1 << 31 || x->rank != 4 || from->rows < 1024) {
        return REEF_OK;
    }
    uint64_t weights = 0, bias = 0;
    reef_status status = REEF_OK;
    for (int i = 0; i < 2 && !status && *n < max; i++) {
        const int lines = 4 * (i + 1);
        reef_stem_args *a = reef_arena_alloc(ctx->arena, sizeof *a);
        if (!a) {
            return reef_fail(ctx->error, REEF_NO_MEMORY, "out of memory");
        }
        *a = (reef_stem_args){
            .w = weights,
            .bias = bias,
            .ys = from->ys,
            .x_image = (int32_t)x->stride[0],
            .x_c = (int32_t)x->stride[1],
            .x_h = (int32_t)x->stride[2],
            .x_w = (int32_t)x->stride[3],
            .x_type = (int32_t)reef_cuda_elem(ctx, x),
            .channels = from->channels,
            .taps_h = from->taps_h,
            .taps_w = from->taps_w,
            .in_h = from->in_h,
            .in_w = from->in_w,
            .out_h = from->out_hw / from->out_w,
            .out_w = from->out_w,
            .stride_h = from->stride_h,
            .stride_w = from->stride_w,
            .pad_h = from->pad_h,
            .pad_w = from->pad_w,
            .dil_h = from->dil_h,
            .dil_w = from->dil_w,
            .cols = from->cols,
            .col_tiles = (from->cols + columns - 1) / columns,
            .steps = (depth + 15) / 16,
            .across = (from->out_w + 31) / 32,
            .down = (from->out_hw / from->out_w + lines - 1) / lines,
            .least = from->act == REEF_ACT_RELU   ? 0
                     : from->act == REEF_ACT_CLIP ? from->act_a
                                                  : -INFINITY,
            .most = from->act == REEF_ACT_CLIP ? from->act_b : INFINITY,
        };
        a->ys.vec = igemm_strides_fit(&a->ys, k->y.offset, a->ys.type == REEF_CUDA_F16 ? 8 : 4);
        const int64_t rows = (int64_t)(lines - 1) * a->stride_h + (int64_t)(a->taps_h - 1) * a->dil_h + 1;
        const int64_t pitch = (int64_t)31 * a->stride_w + (int64_t)(a->taps_w - 1) * a->dil_w + 1;
        const int64_t window = a->channels * rows * pitch;
        const int64_t bytes = (int64_t)a->steps * (columns * 32 + 32) + window * 2;
        if (rows > INT16_MAX || pitch > INT16_MAX || window > INT16_MAX || bytes > STEM_SMEM) {
            break;
        }
        a->rows = (int32_t)rows;
        a->pitch = (int32_t)pitch;
        if (!weights) {
            status = stem_weights(p, ctx, columns, a);
            status = status ? status : igemm_upload_bias(ctx, p->bias, p->bias_elems, &a->bias);
            weights = a->w;
            bias = a->bias;
        }
        reef_cuda_kernel *o = &out[(*n)++];
        *o = (reef_cuda_kernel){.function = names[wide][i],
                                .worker = workers[wide][i],
                                .variant = variants[wide][i],
                                .tiles = (unsigned)(from->rows / from->out_hw * a->across * a->down * a->col_tiles),
                                .threads = 256,
                                .dynamic_smem = (unsigned)bytes,
                                .args = a,
                                .args_bytes = sizeof *a,
                                .flops = k->flops,
                                .does_through = k->through != 0};
        reef_cuda_bind(ctx, o, offsetof(reef_stem_args, x), x);
        reef_cuda_bind(ctx, o, offsetof(reef_stem_args, y), p->y);
    }
    return status;
}

REEF_CUDA_PREPARE(conv)
{
    igemm_problem p;
    *n = 0;
    reef_status status = describe(k, ctx, false, &p);
    if (status) {
        return status;
    }
    if (p.args.channels == 1 && p.args.cols == 1 && p.args.groups > 1) {
        return depthwise(&p, k, ctx, out, n);
    }
    status = max > 2 ? stem(&p, k, ctx, out, max - 1, n) : REEF_OK; /* there is always another form */
    if (status) {
        return status;
    }
    return igemm_offer(&p, k, ctx, out, max, n);
}

REEF_CUDA_PREPARE(conv_transpose)
{
    igemm_problem p;
    *n = 0;
    reef_status status = describe(k, ctx, true, &p);
    return status ? status : igemm_offer(&p, k, ctx, out, max, n);
}
