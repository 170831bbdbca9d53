/*
 * conv_host.c - REEF_K_CONV and REEF_K_CONV_TRANSPOSE as matrix products; depthwise convolution as itself.
 */
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
    return igemm_offer(&p, k, ctx, out, max, n);
}

REEF_CUDA_PREPARE(conv_transpose)
{
    igemm_problem p;
    *n = 0;
    reef_status status = describe(k, ctx, true, &p);
    return status ? status : igemm_offer(&p, k, ctx, out, max, n);
}
