/*
 * attention_host.c - REEF_K_ATTENTION: the tensor-core forms for D = 64 (halves, or floats as tf32), or the form for
 * everything else.
 */
#include <stddef.h>

#include "device/cuda/kernels/igemm_host.h"

static int32_t stride_of(const reef_view *v, int d)
{
    return v->dims[d] > 1 ? (int32_t)v->stride[d] : 0;
}

/* Rows that can be read n elements at a time. */
static bool rows_of(const reef_view *v, int n)
{
    return v->dims[3] % n == 0 && v->offset % n == 0 && stride_of(v, 0) % n == 0 && stride_of(v, 1) % n == 0 &&
           stride_of(v, 2) % n == 0 && v->stride[3] == 1;
}

/* For the tensor-core forms: rows of 16-byte chunks of the precision's own type. */
static bool rows_of_chunks(const reef_cuda_prepare *ctx, const reef_view *v)
{
    const bool half = ctx->precision == REEF_CUDA_FP16;
    return reef_cuda_elem(ctx, v) == (half ? REEF_CUDA_F16 : REEF_CUDA_F32) && rows_of(v, half ? 8 : 4);
}

REEF_CUDA_PREPARE(attention)
{
    enum { ANY_MAX_DIM = 256, ANY_WARPS = 8, ANY_PIECE = 32, FAST_WARPS = 4, FAST_SHARE = 32, FAST_ROWS = 16 };
    const reef_view *q = &k->in[0], *keys = &k->in[1], *v = &k->in[2], *mask = &k->in[3], *y = &k->y;
    const reef_view *all[] = {q, keys, v, y, mask};
    const bool has_mask = k->attention.has_mask;
    *n = 0;
    for (int i = 0; i < (has_mask ? 5 : 4); i++) {
        reef_igemm_operand unused;
        reef_status status = igemm_operand(k, ctx, all[i], 0, 1, 2, &unused);
        if (status) {
            return status;
        }
    }
    if (q->dims[3] > ANY_MAX_DIM) {
        return reef_fail(ctx->error, REEF_UNSUPPORTED, "kernel '%s': heads of more than %d", k->name, ANY_MAX_DIM);
    }
    const bool half = ctx->precision == REEF_CUDA_FP16;
    const unsigned row_bytes = half ? 128 : 256;
    const bool fast = ctx->precision != REEF_CUDA_FP32 && q->dims[3] == 64 && rows_of_chunks(ctx, q) &&
                      rows_of_chunks(ctx, keys) && rows_of_chunks(ctx, v) && rows_of_chunks(ctx, y);
    const unsigned stages = keys->dims[2] > FAST_WARPS * FAST_SHARE ? 2 : 1;
    for (int form = fast ? 0 : 1; form < 2 && *n < max; form++) {
        reef_attention_args *a = reef_arena_alloc(ctx->arena, sizeof *a);
        if (!a) {
            return reef_fail(ctx->error, REEF_NO_MEMORY, "out of memory");
        }
        const int64_t rows = form == 0 ? FAST_ROWS : ANY_WARPS;
        *a = (reef_attention_args){
            .q_b = stride_of(q, 0),
            .q_h = stride_of(q, 1),
            .q_s = stride_of(q, 2),
            .k_b = stride_of(keys, 0),
            .k_h = stride_of(keys, 1),
            .k_t = stride_of(keys, 2),
            .k_d = stride_of(keys, 3),
            .v_b = stride_of(v, 0),
            .v_h = stride_of(v, 1),
            .v_t = stride_of(v, 2),
            .y_b = stride_of(y, 0),
            .y_h = stride_of(y, 1),
            .y_s = stride_of(y, 2),
            .batch = (int32_t)q->dims[0],
            .heads = (int32_t)q->dims[1],
            .queries = (int32_t)q->dims[2],
            .keys = (int32_t)keys->dims[2],
            .dim = (int32_t)q->dims[3],
            .q_type = (int32_t)reef_cuda_elem(ctx, q),
            .k_type = (int32_t)reef_cuda_elem(ctx, keys),
            .v_type = (int32_t)reef_cuda_elem(ctx, v),
            .y_type = (int32_t)reef_cuda_elem(ctx, y),
            .mask_type = -1,
            .nan_rows = k->attention.nan_rows,
            .row_blocks = (int32_t)((q->dims[2] + rows - 1) / rows),
            .vec = rows_of(keys, 4) && rows_of(v, 4) && reef_cuda_elem(ctx, keys) == reef_cuda_elem(ctx, v),
            .scale = k->attention.scale,
        };
        if (has_mask) {
            a->m_b = stride_of(mask, 0);
            a->m_h = stride_of(mask, 1);
            a->m_s = stride_of(mask, 2);
            a->m_t = stride_of(mask, 3);
            a->mask_type = (int32_t)reef_cuda_elem(ctx, mask);
        }
        reef_cuda_kernel *o = &out[(*n)++];
        *o = (reef_cuda_kernel){
            .function = form == 1 ? "reef_attention_any"
                        : half    ? "reef_attention_f16"
                                  : "reef_attention_tf32",
            .worker = form == 1 ? "reef_attention_any_be"
                      : half    ? "reef_attention_f16_be"
                                : "reef_attention_tf32_be",
            .variant = form == 1 ? "attention any"
                       : half    ? "attention f16"
                                 : "attention tf32",
            .tiles = (unsigned)(a->batch * a->heads * a->row_blocks),
            .threads = form == 0 ? 128 : 256,
            .dynamic_smem = form == 0 ? FAST_ROWS * row_bytes + stages * FAST_WARPS * 2 * FAST_SHARE * row_bytes
                                      : (unsigned)((ANY_WARPS + 2 * ANY_PIECE) * (a->dim + 1)) * 4,
            .args = a,
            .args_bytes = sizeof *a,
            .flops = k->flops,
        };
        reef_cuda_bind(ctx, o, offsetof(reef_attention_args, q), q);
        reef_cuda_bind(ctx, o, offsetof(reef_attention_args, k), keys);
        reef_cuda_bind(ctx, o, offsetof(reef_attention_args, v), v);
        reef_cuda_bind(ctx, o, offsetof(reef_attention_args, y), y);
        if (has_mask) {
            reef_cuda_bind(ctx, o, offsetof(reef_attention_args, mask), mask);
        }
    }
    return REEF_OK;
}
