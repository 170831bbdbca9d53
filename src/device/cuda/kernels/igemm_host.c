/*
 * igemm_host.c - packs weights for the matrix kernels and lists the candidates for a problem.
 *
 * One packing serves all candidates of a precision: [group][column / 8][step][8 columns][128 bytes], where 16-byte chunk c of
 * column r lies at place c ^ r: a kilobyte is copied to shared memory as it is.
 */
#include "device/cuda/kernels/igemm_host.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One instance of igemm.cuh: must agree with igemm_f16.cu, igemm_tf32.cu, igemm_f32.cu. */
typedef struct igemm_config {
    const char *name;   /* behind reef_igemm_<precision>_ */
    uint8_t precisions; /* bit per reef_cuda_precision */
    bool wgmma, any, transposed;
    int bm, bn, threads, stages;
} igemm_config;

enum { P32 = 1 << REEF_CUDA_FP32, PT = 1 << REEF_CUDA_TF32, P16 = 1 << REEF_CUDA_FP16 };

static const igemm_config configs[] = {
    {"wg64x64", PT | P16, true, false, false, 64, 64, 128, 5},
    {"wg64x32", PT | P16, true, false, false, 64, 32, 128, 6},
    {"wg64x128", PT | P16, true, false, false, 64, 128, 128, 4},
    {"wg128x64", PT | P16, true, false, false, 128, 64, 256, 4},
    {"wg128x128", PT | P16, true, false, false, 128, 128, 256, 4},
    {"64x64", P32 | PT | P16, false, false, false, 64, 64, 128, 4},
    {"64x32", PT | P16, false, false, false, 64, 32, 128, 5},
    {"32x32", PT | P16, false, false, false, 32, 32, 128, 6},
    {"128x128", PT | P16, false, false, false, 128, 128, 256, 3},
    {"any", P32 | PT | P16, false, true, false, 64, 64, 128, 3},
    {"transposed", P32 | PT | P16, false, true, true, 64, 64, 128, 3},
};
enum { N_CONFIGS = sizeof configs / sizeof *configs };

static const char *const precision_name[] = {"f32", "tf32", "f16"};

void igemm_to_half(uint16_t *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u, sign, small, big;
        memcpy(&u, from + i, 4);
        sign = u >> 16 & 0x8000u;
        u &= 0x7fffffffu;
        /* below 2^-14: the float adder does the rounding */
        float f;
        memcpy(&f, &u, 4);
        f += 0.5f;
        memcpy(&small, &f, 4);
        small -= 0x3f000000u;
        big = (u - 0x38000000u + 0xfffu + (u >> 13 & 1)) >> 13;
        big = u >= 0x477ff000u ? 0x7c00u : big;
        big = u > 0x7f800000u ? 0x7e00u : big;
        to[i] = (uint16_t)(sign | (u < 0x38800000u ? small : big));
    }
}

static void to_tf32(uint32_t *to, const float *from, size_t n)
{
    memcpy(to, from, n * 4);
    for (size_t i = 0; i < n; i++) {
        uint32_t finite = (to[i] & 0x7f800000u) != 0x7f800000u;
        to[i] += finite * (0xfffu + (to[i] >> 13 & 1));
        to[i] &= finite ? 0xffffe000u : 0xffffffffu;
    }
}

reef_status igemm_operand(const reef_kernel *k, reef_cuda_prepare *ctx, const reef_view *v, int image, int h, int w,
                          reef_igemm_operand *out)
{
    int64_t first, end;
    reef_view_range(v, &first, &end);
    if (end - first >= (int64_t)1 << 31) {
        return reef_fail(ctx->error, REEF_UNSUPPORTED, "kernel '%s': an operand of 2 GiB or more", k->name);
    }
    /* a dimension of one element may have any stride */
    *out = (reef_igemm_operand){
        .image = image >= 0 && v->dims[image] > 1 ? (int32_t)v->stride[image] : 0,
        .h = h >= 0 && v->dims[h] > 1 ? (int32_t)v->stride[h] : 0,
        .w = w >= 0 && v->dims[w] > 1 ? (int32_t)v->stride[w] : 0,
        .type = (int32_t)reef_cuda_elem(ctx, v),
    };
    return REEF_OK;
}

reef_status igemm_upload_bias(reef_cuda_prepare *ctx, const float *bias, int64_t elems, uint64_t *address)
{
    if (!bias) {
        *address = 0;
        return REEF_OK;
    }
    return ctx->upload(ctx->owner, bias, (size_t)elems * 4, address);
}

static reef_status pack(const igemm_problem *p, reef_cuda_prepare *ctx, int steps, uint64_t *address)
{
    const reef_igemm_args *a = &p->args;
    const bool half = ctx->precision == REEF_CUDA_FP16;
    const size_t elem = half ? 2 : 4, step_elems = 128 / elem, depth = (size_t)steps * step_elems;
    const size_t blocks = ((size_t)a->cols + 7) / 8, bytes = blocks * (size_t)a->groups * (size_t)steps * 1024;
    const size_t taps = (size_t)a->taps_h * (size_t)a->taps_w, channels = (size_t)a->channels;
    char *packed = malloc(bytes);
    float *rows = calloc(8 * depth, sizeof *rows);
    char *words = malloc(depth * elem);
    reef_status status = REEF_NO_MEMORY;
    if (!packed || !rows || !words) {
        reef_error_set(ctx->error, status, "out of memory for %zu bytes of weights", bytes);
        goto done;
    }
    for (size_t g = 0; g < (size_t)a->groups; g++) {
        for (size_t block = 0; block < blocks; block++) {
            size_t n = (size_t)a->cols - block * 8 < 8 ? (size_t)a->cols - block * 8 : 8;
            const float *w = p->w + (int64_t)g * p->w_g + (int64_t)block * 8 * p->w_n;
            memset(rows, 0, 8 * depth * sizeof *rows);
            for (size_t c = 0; c < channels; c++) {
                for (size_t r = 0; r < n; r++) {
                    const float *from = w + (int64_t)r * p->w_n + (int64_t)c * p->w_c;
                    for (size_t t = 0; t < taps; t++) {
                        rows[r * depth + t * channels + c] = from[t];
                    }
                }
            }
            char *to = packed + (g * blocks + block) * (size_t)steps * 1024;
            for (size_t r = 0; r < 8; r++) {
                if (half) {
                    igemm_to_half((uint16_t *)(void *)words, rows + r * depth, depth);
                } else if (ctx->precision == REEF_CUDA_TF32) {
                    to_tf32((uint32_t *)(void *)words, rows + r * depth, depth);
                } else {
                    memcpy(words, rows + r * depth, depth * 4);
                }
                for (size_t c = 0; c < (size_t)steps * 8; c++) {
                    memcpy(to + c / 8 * 1024 + r * 128 + ((c % 8) ^ r) * 16, words + c * 16, 16);
                }
            }
        }
    }
    status = ctx->upload(ctx->owner, packed, bytes, address);
done:
    free(words);
    free(rows);
    free(packed);
    return status;
}

/* Can rows be read in 16-byte pieces of one tap? */
static bool vector_rows(const igemm_problem *p, const reef_cuda_prepare *ctx)
{
    const int chunk = ctx->precision == REEF_CUDA_FP16 ? 8 : 4;
    const int32_t type = ctx->precision == REEF_CUDA_FP16 ? REEF_CUDA_F16 : REEF_CUDA_F32;
    return !p->b && !p->transposed && p->args.xs.type == type && p->args.channels % chunk == 0 &&
           igemm_strides_fit(&p->args.xs, p->x->offset, chunk);
}

static void finish_operand(reef_igemm_operand *o, const reef_view *v, const reef_igemm_args *a)
{
    int32_t out_h = a->out_hw / a->out_w, images = a->rows / a->out_hw;
    o->vec = igemm_strides_fit(o, v->offset, o->type == REEF_CUDA_F16 ? 8 : 4);
    o->linear = (out_h == 1 || o->h == o->w * a->out_w) && (images == 1 || o->image == o->w * a->out_hw);
    if (a->out_w == 1 && o->w == 0) { /* then w says nothing: let it stand for the next one */
        o->w = out_h > 1 ? o->h : o->image;
        o->linear = out_h == 1 || images == 1 || o->image == o->h * out_h;
    }
}

static reef_status add(const igemm_problem *p, const igemm_config *c, int splits, bool cluster, reef_cuda_prepare *ctx,
                       reef_cuda_kernel *out)
{
    const char *precision = precision_name[ctx->precision];
    char text[96];
    int length;
    reef_igemm_args *a = reef_arena_alloc(ctx->arena, sizeof *a);
    *out = (reef_cuda_kernel){.args = a, .args_bytes = sizeof *a, .threads = (unsigned)c->threads, .flops = p->flops};
    length = snprintf(text, sizeof text, "reef_igemm_%s_%s", precision, c->name);
    out->function = reef_arena_string(ctx->arena, text, (size_t)length);
    length = snprintf(text, sizeof text, "reef_igemm_%s_%s_be", precision, c->name);
    out->worker = reef_arena_string(ctx->arena, text, (size_t)length);
    length =
        snprintf(text, sizeof text, "igemm %s %s split %d%s", c->name, precision, splits, cluster ? " cluster" : "");
    out->variant = reef_arena_string(ctx->arena, text, (size_t)length);
    if (!a || !out->function || !out->worker || !out->variant) {
        return reef_fail(ctx->error, REEF_NO_MEMORY, "out of memory");
    }
    *a = p->args;
    a->splits = splits;
    a->cluster = cluster;
    a->row_tiles = (a->rows + c->bm - 1) / c->bm;
    a->col_tiles = (a->cols + c->bn - 1) / c->bn;
    unsigned tiles = (unsigned)a->row_tiles * (unsigned)a->col_tiles * (unsigned)a->groups;
    out->tiles = tiles * (unsigned)splits;
    out->dynamic_smem = (unsigned)(c->stages * (c->bm + c->bn) * 128);
    out->cluster = cluster ? (unsigned)splits : 0;
    reef_cuda_bind(ctx, out, offsetof(reef_igemm_args, x), p->x);
    reef_cuda_bind(ctx, out, offsetof(reef_igemm_args, y), p->y);
    if (p->residual) {
        reef_cuda_bind(ctx, out, offsetof(reef_igemm_args, residual), p->residual);
    }
    if (p->b) {
        reef_cuda_bind(ctx, out, offsetof(reef_igemm_args, b), p->b);
    }
    if (splits > 1) { /* the worker form adds through the workspace even where the plain form has clusters */
        reef_cuda_bind_workspace(out, offsetof(reef_igemm_args, counters), 0);
        reef_cuda_bind_workspace(out, offsetof(reef_igemm_args, partials), REEF_CUDA_ZERO_BYTES);
        out->workspace_bytes = REEF_CUDA_ZERO_BYTES + (size_t)out->tiles * (size_t)(c->bm * c->bn) * 4;
    }
    return REEF_OK;
}

reef_status igemm_offer(igemm_problem *p, const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                        size_t max, size_t *n)
{
    reef_igemm_args *a = &p->args;
    const int step_elems = ctx->precision == REEF_CUDA_FP16 ? 64 : 32;
    const int64_t depth = (int64_t)a->channels * a->taps_h * a->taps_w;
    const bool any = !vector_rows(p, ctx);
    if (depth > INT32_MAX / 2 || (int64_t)a->rows * a->cols > INT32_MAX) {
        return reef_fail(ctx->error, REEF_UNSUPPORTED, "kernel '%s' is too large", k->name);
    }
    a->steps = (int32_t)((depth + step_elems - 1) / step_elems);
    finish_operand(&a->ys, p->y, a);
    if (p->residual) {
        finish_operand(&a->rs, p->residual, a);
    }
    reef_status status = igemm_upload_bias(ctx, p->bias, p->bias_elems, &a->bias);
    if (!status && !p->b) {
        a->w_group = (a->cols + 7) / 8 * a->steps;
        status = pack(p, ctx, a->steps, &a->w);
    }
    const int sms = (int)ctx->sm_count;
    for (int i = 0; i < N_CONFIGS && !status; i++) {
        const igemm_config *c = &configs[i];
        if (!(c->precisions >> ctx->precision & 1) || c->any != any || c->transposed != p->transposed ||
            (c->wgmma && !ctx->arch_kernels)) {
            continue;
        }
        int tiles = (a->rows + c->bm - 1) / c->bm * ((a->cols + c->bn - 1) / c->bn) * a->groups;
        static const int parts[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32};
        for (size_t s = 0; s < sizeof parts / sizeof *parts && !status; s++) {
            int splits = parts[s];
            if (splits > 1 && (splits > a->steps || tiles * splits > sms * 5 / 2 || tiles * 4 > REEF_CUDA_ZERO_BYTES)) {
                break;
            }
            if (tiles * splits * 4 < sms && splits < 32 && splits * 2 <= a->steps) {
                continue; /* too few blocks, and a larger split will do better */
            }
            bool clusters = splits > 1 && splits <= 8 && ctx->sm_arch >= 90;
            if (clusters && *n < max) {
                status = add(p, c, splits, true, ctx, &out[*n]);
                *n += !status;
            }
            if (!clusters && *n < max && !status) {
                status = add(p, c, splits, false, ctx, &out[*n]);
                *n += !status;
            }
        }
    }
    if (!status && *n == 0) {
        return reef_fail(ctx->error, REEF_UNSUPPORTED, "kernel '%s': no kernel for these operands", k->name);
    }
    return status;
}
