/*
 * matmul_host.c - REEF_K_MATMUL: one row as a stream over the weights (gemv.cu), the rest as igemm.cuh.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda/kernels/igemm_host.h"

enum {
    GEMV_MAX_ROWS = 2,
    GEMV_AHEAD_BYTES = 24 << 20 /* into L2 while the predecessor runs; an H200 has 60 MB of it */
};

static reef_status gemv(const igemm_problem *p, const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                        size_t max, size_t *n)
{
    static const char *const names[2][4] = {
        {"reef_gemv_f32_1", "reef_gemv_f32_2", "reef_gemv_f32_4", "reef_gemv_f32_8"},
        {"reef_gemv_f16_1", "reef_gemv_f16_2", "reef_gemv_f16_4", "reef_gemv_f16_8"}};
    static const char *const workers[2][4] = {
        {"reef_gemv_f32_1_be", "reef_gemv_f32_2_be", "reef_gemv_f32_4_be", "reef_gemv_f32_8_be"},
        {"reef_gemv_f16_1_be", "reef_gemv_f16_2_be", "reef_gemv_f16_4_be", "reef_gemv_f16_8_be"}};
    static const char *const variants[2][4] = {{"gemv f32 1", "gemv f32 2", "gemv f32 4", "gemv f32 8"},
                                               {"gemv f16 1", "gemv f16 2", "gemv f16 4", "gemv f16 8"}};
    const bool half = ctx->precision == REEF_CUDA_FP16;
    const reef_igemm_args *from = &p->args;
    const int64_t depth = from->channels, ld = (depth + 7) / 8 * 8, cols = from->cols;
    const size_t elem = half ? 2 : 4, bytes = (size_t)(cols * ld) * elem, row_bytes = (size_t)ld * elem;
    const size_t ahead = GEMV_AHEAD_BYTES / (size_t)cols / 16 * 16;
    char *w = malloc(bytes);
    float *rows = calloc((size_t)ld * 8, sizeof *rows);
    uint64_t address = 0, bias = 0;
    reef_status status = REEF_NO_MEMORY;
    if (!w || !rows) {
        reef_error_set(ctx->error, status, "out of memory for %zu bytes of weights", bytes);
        goto done;
    }
    for (int64_t j = 0; j < cols; j += 8) {
        int64_t count = cols - j < 8 ? cols - j : 8;
        for (int64_t c = 0; c < depth; c++) {
            for (int64_t r = 0; r < count; r++) {
                rows[r * ld + c] = p->w[(j + r) * p->w_n + c * p->w_c];
            }
        }
        if (half) {
            igemm_to_half((uint16_t *)(void *)w + j * ld, rows, (size_t)(count * ld));
        } else {
            memcpy(w + (size_t)(j * ld) * 4, rows, (size_t)(count * ld) * 4);
        }
    }
    status = ctx->upload(ctx->owner, w, bytes, &address);
    if (!status) {
        status = igemm_upload_bias(ctx, p->bias, cols, &bias);
    }
    for (int i = 0; i < 4 && !status && *n < max; i++) {
        const int order[] = {2, 1, 3, 0}, log2_cols = order[i];
        reef_gemv_args *a = reef_arena_alloc(ctx->arena, sizeof *a);
        if (!a) {
            status = reef_fail(ctx->error, REEF_NO_MEMORY, "out of memory");
            break;
        }
        *a = (reef_gemv_args){
            .w = address,
            .bias = bias,
            .n = (int32_t)cols,
            .k = (int32_t)depth,
            .ld = (int32_t)ld,
            .x_row = from->xs.w,
            .y_row = from->ys.w,
            .r_row = from->rs.w,
            .row_tiles = from->rows,
            .x_type = from->xs.type,
            .y_type = from->ys.type,
            .r_type = from->rs.type,
            .x_vec = depth % 8 == 0 && p->x->offset % 8 == 0 && from->xs.w % 8 == 0,
            .act = from->act,
            .act_a = from->act_a,
            .act_b = from->act_b,
            .alpha = from->alpha,
            .ahead = (int32_t)(row_bytes < ahead ? row_bytes : ahead),
        };
        reef_cuda_kernel *o = &out[(*n)++];
        *o = (reef_cuda_kernel){.function = names[half][log2_cols],
                                .worker = workers[half][log2_cols],
                                .variant = variants[half][log2_cols],
                                .tiles = (unsigned)(((cols - 1) >> log2_cols) + 1) * (unsigned)from->rows,
                                .threads = 256,
                                .args = a,
                                .args_bytes = sizeof *a,
                                .flops = k->flops};
        reef_cuda_bind(ctx, o, offsetof(reef_gemv_args, x), p->x);
        reef_cuda_bind(ctx, o, offsetof(reef_gemv_args, y), p->y);
        if (p->residual) {
            reef_cuda_bind(ctx, o, offsetof(reef_gemv_args, residual), p->residual);
        }
    }
done:
    free(rows);
    free(w);
    return status;
}

REEF_CUDA_PREPARE(matmul)
{
    const reef_matmul *m = &k->matmul;
    const reef_view *a = &k->in[0], *b = &k->in[1], *y = &k->y;
    const int rank = y->rank, lead = rank - 2;
    *n = 0;
    for (int d = 0; d + 2 < lead; d++) {
        if (y->dims[d] != 1) {
            return reef_fail(ctx->error, REEF_UNSUPPORTED, "kernel '%s': more than two batch dimensions", k->name);
        }
    }
    const int64_t d0 = lead > 1 ? y->dims[lead - 2] : 1, d1 = lead > 0 ? y->dims[lead - 1] : 1;
    const bool constant = m->b_const;
    igemm_problem p = {
        .x = a,
        .y = y,
        .residual = m->has_residual ? &k->in[2] : NULL,
        .b = constant ? NULL : b,
        .bias = m->bias,
        .bias_elems = y->dims[rank - 1],
        .flops = k->flops,
    };
    const int64_t rows = y->dims[rank - 2];
    p.args = (reef_igemm_args){
        /* constant right operand: batches are images of `rows` pixels; computed: they are groups */
        .rows = (int32_t)(constant ? d0 * d1 * rows : rows),
        .cols = (int32_t)y->dims[rank - 1],
        .groups = (int32_t)(constant ? 1 : d0 * d1),
        .group_div = (int32_t)(constant ? 1 : d1),
        .channels = (int32_t)a->dims[rank - 1],
        .taps_h = 1,
        .taps_w = 1,
        .in_h = (int32_t)(constant ? d1 : 1),
        .in_w = (int32_t)rows,
        .out_w = (int32_t)rows,
        .out_hw = (int32_t)(constant ? d1 * rows : rows),
        .stride_h = 1,
        .stride_w = 1,
        .dil_h = 1,
        .dil_w = 1,
        .act = (int32_t)m->act,
        .act_a = m->act_a,
        .act_b = m->act_b,
        .alpha = m->alpha,
    };
    const reef_view *views[] = {a, y, m->has_residual ? &k->in[2] : NULL};
    reef_igemm_operand *const operands[] = {&p.args.xs, &p.args.ys, &p.args.rs};
    for (int i = 0; i < 3; i++) {
        reef_igemm_operand *o = operands[i];
        if (!views[i]) {
            continue;
        }
        reef_status status =
            igemm_operand(k, ctx, views[i], lead > 1 ? lead - 2 : -1, lead > 0 ? lead - 1 : -1, rank - 2, o);
        if (status) {
            return status;
        }
        if (!constant) {
            o->g0 = o->image;
            o->g1 = o->h;
            o->image = o->h = 0;
        }
    }
    if (constant) {
        p.w = (const float *)ctx->plan->storage[b->storage].data + b->offset;
        p.w_c = b->stride[rank - 2];
        p.w_n = b->stride[rank - 1];
        if (d0 * d1 * rows <= GEMV_MAX_ROWS && d0 * d1 == 1) {
            return gemv(&p, k, ctx, out, max, n);
        }
    } else {
        int64_t first, end;
        reef_view_range(b, &first, &end);
        if (end - first >= (int64_t)1 << 31) {
            return reef_fail(ctx->error, REEF_UNSUPPORTED, "kernel '%s': an operand of 2 GiB or more", k->name);
        }
        p.args.b_k = (int32_t)b->stride[rank - 2];
        p.args.b_n = (int32_t)b->stride[rank - 1];
        p.args.b_g0 = lead > 1 ? (int32_t)b->stride[lead - 2] : 0;
        p.args.b_g1 = lead > 0 ? (int32_t)b->stride[lead - 1] : 0;
        p.args.b_type = (int32_t)reef_cuda_elem(ctx, b);
    }
    return igemm_offer(&p, k, ctx, out, max, n);
}
