/*
 * attention_host.c - REEF_K_ATTENTION: the tensor-core form for halves with D = 64, or the form for everything else.
 */
#include <stddef.h>

#include "device/cuda/kernels/igemm_host.h"

static int32_t stride_of(const reef_view *v, int d)
{
    return v->dims[d] > 1 ? (int32_t)v->stride[d] : 0;
}

static bool rows_of_halves(const reef_cuda_prepare *ctx, const reef_view *v)
{
    return reef_cuda_elem(ctx, v) == REEF_CUDA_F16 && v->offset % 8 == 0 && stride_of(v, 0) % 8 == 0 &&
           stride_of(v, 1) % 8 == 0 && stride_of(v, 2) % 8 == 0 && v->stride[3] == 1;
}

static bool rows_of_fours(const reef_view *v)
{
    return v->dims[3] % 4 == 0 && v->offset % 4 == 0 && stride_of(v, 0) % 4 == 0 && stride_of(v, 1) % 4 == 0 &&
           stride_of(v, 2) % 4 == 0 && v->stride[3] == 1;
}

REEF_CUDA_PREPARE(attention)
{
    enum { ANY_MAX_DIM = 256, ANY_WARPS = 8, ANY_PIECE = 32 };
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
    const bool fast = q->dims[3] == 64 && rows_of_halves(ctx, q) && rows_of_halves(ctx, keys) &&
                      rows_of_halves(ctx, v) && rows_of_halves(ctx, y);
    for (int form = fast ? 0 : 1; form < 2 && *n < max; form++) {
        reef_attention_args *a = reef_arena_alloc(ctx->arena, sizeof *a);
        if (!a) {
            return reef_fail(ctx->error, REEF_NO_MEMORY, "out of memory");
        }
        const int64_t rows = form == 0 ? 16 : ANY_WARPS;
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
            .vec = rows_of_fours(keys) && rows_of_fours(v) && reef_cuda_elem(ctx, keys) == reef_cuda_elem(ctx, v),
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
            .function = form == 0 ? "reef_attention_f16" : "reef_attention_any",
            .worker = form == 0 ? "reef_attention_f16_be" : "reef_attention_any_be",
            .variant = form == 0 ? "attention f16" : "attention any",
            .tiles = (unsigned)(a->batch * a->heads * a->row_blocks),
            .threads = form == 0 ? 128 : 256,
            .dynamic_smem = form == 0 ? 16 * 128 + 4 * 2 * 2 * 32 * 128
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
