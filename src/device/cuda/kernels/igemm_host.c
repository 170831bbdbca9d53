/*
 * igemm_host.c - packs weights for the matrix kernels and lists the candidates for a problem.
 *
 * Packed weights are [group][column / 32][step][32 columns][128 bytes], where 16-byte chunk c of column r lies at place
 * c ^ (r % 8): 4 KiB are copied to shared memory as they are, whatever the tile. A step is one tap and a block of channels
 * (taps innermost), or, for the forms that read x element by element, simply the next 128 bytes of (tap, channel).
 */
#include "device/cuda/kernels/igemm_host.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum igemm_form { FAST, WINDOW, ANY, TRANSPOSED, HALO /* a second form for some that are FAST */ } igemm_form;

/* One instance of igemm.cuh: must agree with igemm_f16.cu, igemm_tf32.cu, igemm_f32.cu and, for HALO, conv3.cu. */
typedef struct igemm_config {
    const char *name;   /* behind reef_igemm_<precision>_ */
    uint8_t precisions; /* bit per reef_cuda_precision */
    igemm_form form;
    bool wgmma;
    bool spare; /* not offered where wgmma is there */
    int bm, bn, threads, stages;
    /* a step of a lone block; a step's share of a busy unit; a block's beginning and end. f16, fitted on an H200 */
    float alone_us, shared_us, block_us;
} igemm_config;

enum { P32 = 1 << REEF_CUDA_FP32, PT = 1 << REEF_CUDA_TF32, P16 = 1 << REEF_CUDA_FP16 };

static const igemm_config configs[] = {
    {"wg64x64", PT | P16, FAST, true, false, 64, 64, 128, 6, 0.1f, 0.117f, 0.46f},
    {"wg64x32", PT | P16, FAST, true, false, 64, 32, 128, 8, 0.093f, 0.082f, 0.19f},
    {"wg64x128", PT | P16, FAST, true, false, 64, 128, 128, 4, 0.25f, 0.22f, 0.6f},
    {"wg128x64", PT | P16, FAST, true, false, 128, 64, 256, 4, 0.205f, 0.22f, 0.3f},
    {"wg128x128", PT | P16, FAST, true, false, 128, 128, 256, 6, 0.2f, 0.22f, 1.77f},
    {"patch64x64", P16, HALO, true, false, 64, 64, 192, 4, 0.1f, 0.1f, 0.4f},
    {"patch128x64", P16, HALO, true, false, 128, 64, 320, 4, 0.2f, 0.17f, 0.5f},
    {"patch128x128", P16, HALO, true, false, 128, 128, 320, 6, 0.2f, 0.2f, 1.7f},
    {"64x64", P32 | PT | P16, FAST, false, true, 64, 64, 128, 4, 0.3f, 0.22f, 0.4f},
    {"64x32", PT | P16, FAST, false, true, 64, 32, 128, 4, 0.2f, 0.14f, 0.2f},
    {"32x32", PT | P16, FAST, false, false, 32, 32, 128, 6, 0.106f, 0.087f, 0.12f},
    {"128x128", PT | P16, FAST, false, true, 128, 128, 256, 4, 0.7f, 0.6f, 1.5f},
    {"window", P16, WINDOW, false, false, 64, 64, 128, 3, 1.0f, 0.6f, 0.5f},
    {"window32", P16, WINDOW, false, false, 64, 32, 128, 3, 0.9f, 0.5f, 0.3f},
    {"window", PT, WINDOW, false, false, 64, 64, 128, 5, 1.0f, 0.6f, 0.5f},
    {"window32", PT, WINDOW, false, false, 64, 32, 128, 5, 0.9f, 0.5f, 0.3f},
    {"any", P32 | PT | P16, ANY, false, false, 64, 64, 128, 3, 4.0f, 3.0f, 1.0f},
    {"transposed", P32 | PT | P16, TRANSPOSED, false, false, 64, 64, 128, 3, 4.0f, 3.0f, 1.0f},
};
enum { N_CONFIGS = sizeof configs / sizeof *configs };

/* Shared memory of a block, static included. (1 KiB less than there is on sm_90: each block takes as much besides, and the
 * watch is to find room.) */
static int smem_limit(unsigned arch)
{
    switch (arch) {
    case 75: return 64 << 10;
    case 80:
    case 87: return 163 << 10;
    case 86:
    case 89:
    case 120: return 99 << 10;
    default: return arch < 75 ? 48 << 10 : 226 << 10;
    }
}

enum { HALO_TAPS = 9 };

/* As in igemm.cuh: the patch of pixels that a tile is, and the memory for its input with a border of one pixel. */
static int patch_w(const igemm_config *c)
{
    return c->bm >= 256 ? 16 : 8;
}
static int halo_smem(const igemm_config *c)
{
    return ((patch_w(c) + 2) * (c->bm / patch_w(c) + 2) * 128 + 1023) / 1024 * 1024;
}

static reef_divisor divisor(int32_t d)
{
    reef_divisor out = {0, 0};
    while (((uint64_t)1 << out.shift) < (uint64_t)d) {
        out.shift++;
    }
    out.magic = (uint32_t)((((uint64_t)1 << 32) * (((uint64_t)1 << out.shift) - (uint64_t)d)) / (uint64_t)d + 1);
    return out;
}

/* Stages in use, or the staged result, whichever is more. */
static int base_smem(const igemm_config *c, int steps)
{
    int stages = c->form == HALO ? c->bn * 128 * c->stages + halo_smem(c) * (steps > HALO_TAPS ? 2 : 1)
                                 : (c->bm + c->bn) * 128 * (steps < c->stages ? steps : c->stages);
    int result = c->bm * c->bn * 4;
    return stages > result ? stages : result;
}

/* Memory for what the blocks of a cluster send each other: a slot for each of them, of its largest share of the pieces. */
static int slots_smem(const igemm_config *c, int splits)
{
    if (c->form == HALO) { /* units of 16 pixels and 32 columns */
        return splits * ((c->bm / 16 * (c->bn / 32) + splits - 1) / splits) * 2048;
    }
    int warps = c->wgmma ? c->bm / 16 : c->threads / 32, pieces = c->bm * c->bn / 64 / warps;
    return splits * ((pieces + splits - 1) / splits) * warps * 256;
}

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

/* Where (tap, channel) lies in a packed column. */
static size_t place_of(const reef_igemm_args *a, bool blocked, size_t step_elems, size_t tap, size_t c)
{
    size_t taps = (size_t)a->taps_h * (size_t)a->taps_w;
    return blocked ? (c / step_elems * taps + tap) * step_elems + c % step_elems : tap * (size_t)a->channels + c;
}

static reef_status pack(const igemm_problem *p, reef_cuda_prepare *ctx, bool blocked, uint64_t *address)
{
    const reef_igemm_args *a = &p->args;
    const bool half = ctx->precision == REEF_CUDA_FP16;
    const size_t elem = half ? 2 : 4, step_elems = 128 / elem, steps = (size_t)a->steps, depth = steps * step_elems;
    const size_t blocks = (size_t)a->w_group, cols = (size_t)a->cols, bytes = blocks * (size_t)a->groups * steps * 4096;
    const size_t taps = (size_t)a->taps_h * (size_t)a->taps_w, channels = (size_t)a->channels;
    char *packed = malloc(bytes);
    float *rows = malloc(8 * depth * sizeof *rows);
    char *words = malloc(depth * elem);
    reef_status status = REEF_NO_MEMORY;
    if (!packed || !rows || !words) {
        reef_error_set(ctx->error, status, "out of memory for %zu bytes of weights", bytes);
        goto done;
    }
    for (size_t i = 0; i < (size_t)a->groups * blocks * 4; i++) { /* eight columns at a time */
        size_t g = i / (blocks * 4), col = i % (blocks * 4) * 8, n = col >= cols ? 0 : cols - col < 8 ? cols - col : 8;
        const float *w = p->w + (int64_t)g * p->w_g + (int64_t)col * p->w_n;
        char *to = packed + (i / 4) * steps * 4096 + i % 4 * 1024;
        memset(rows, 0, 8 * depth * sizeof *rows);
        for (size_t c = 0; c < channels; c++) {
            for (size_t r = 0; r < n; r++) {
                const float *from = w + (int64_t)r * p->w_n + (int64_t)c * p->w_c;
                for (size_t t = 0; t < taps; t++) {
                    rows[r * depth + place_of(a, blocked, step_elems, t, c)] = from[t];
                }
            }
        }
        for (size_t r = 0; r < 8; r++) {
            if (half) {
                igemm_to_half((uint16_t *)(void *)words, rows + r * depth, depth);
            } else if (ctx->precision == REEF_CUDA_TF32) {
                to_tf32((uint32_t *)(void *)words, rows + r * depth, depth);
            } else {
                memcpy(words, rows + r * depth, depth * 4);
            }
            for (size_t c = 0; c < steps * 8; c++) {
                memcpy(to + c / 8 * 4096 + r * 128 + ((c % 8) ^ r) * 16, words + c * 16, 16);
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

static igemm_form form_of(const igemm_problem *p, const reef_cuda_prepare *ctx)
{
    const reef_igemm_args *a = &p->args;
    const bool half = ctx->precision == REEF_CUDA_FP16;
    const int chunk = half ? 8 : 4, taps = a->taps_h * a->taps_w, depth = taps * a->channels;
    if (p->transposed) {
        return TRANSPOSED;
    }
    /* rows in 16-byte pieces of one tap */
    if (!p->b && a->xs.type == (half ? REEF_CUDA_F16 : REEF_CUDA_F32) && a->channels % chunk == 0 && taps <= 31 &&
        igemm_strides_fit(&a->xs, p->x->offset, chunk)) {
        return FAST;
    }
    /* input rows dense; k within the stages; the window small */
    const int window_row = ((64 - 1) * a->stride_w + (a->taps_w - 1) * a->dil_w + 1) * a->channels;
    if (!p->b && !p->residual && ctx->precision != REEF_CUDA_FP32 && a->groups == 1 && a->xs.w == a->channels &&
        depth <= (half ? 3 * 64 : 5 * 32) && window_row * a->taps_h <= 8192 && a->out_w >= 32) {
        return WINDOW;
    }
    return ANY;
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

enum { STATIC_SMEM = 1024 };

typedef struct choice {
    const igemm_config *config;
    int splits, tiles;
    bool cluster;
    float us; /* a guess */
} choice;

/* Steps of the longest part. */
static int part_steps(const reef_igemm_args *a, const igemm_config *c, int splits)
{
    const int unit = c->form == HALO ? HALO_TAPS : 1;
    return (a->steps / unit + splits - 1) / splits * unit;
}

/* 3x3 taps over neighbouring pixels, whole blocks of channels. */
static bool halo_fits(const igemm_problem *p)
{
    const reef_igemm_args *a = &p->args;
    return a->taps_h == 3 && a->taps_w == 3 && a->stride_h == 1 && a->stride_w == 1 && a->dil_h == 1 && a->dil_w == 1 &&
           a->groups == 1 && a->channels % 64 == 0 && !p->residual;
}

/* Tiles over the pixels. */
static int row_tiles(const reef_igemm_args *a, const igemm_config *c)
{
    if (c->form == WINDOW) {
        return a->rows / a->out_w * ((a->out_w + c->bm - 1) / c->bm);
    }
    if (c->form == HALO) {
        const int w = patch_w(c), h = c->bm / w;
        return a->rows / a->out_hw * ((a->out_w + w - 1) / w) * ((a->out_hw / a->out_w + h - 1) / h);
    }
    return (a->rows + c->bm - 1) / c->bm;
}

/* Blocks of a choice are spread over the units; a unit's blocks share it, and a lone block waits for its own loads. */
static float guess_us(const reef_igemm_args *a, const igemm_config *c, int tiles, int splits, bool cluster, int sms)
{
    int waves = (tiles * splits + sms - 1) / sms;
    float steps = (float)part_steps(a, c, splits), busy = (float)waves;
    float alone = steps * c->alone_us, shared = busy * steps * c->shared_us;
    float sum = splits == 1 ? 0 : cluster ? 0.19f * (float)splits : 2.0f + 0.3f * (float)splits;
    return (alone > shared ? alone : shared) + busy * c->block_us + sum;
}

static reef_status add(const igemm_problem *p, const reef_kernel *k, const choice *picked, reef_cuda_prepare *ctx,
                       reef_cuda_kernel *out)
{
    const igemm_config *c = picked->config;
    const char *precision = precision_name[ctx->precision];
    const int splits = picked->splits;
    char text[96];
    int length;
    reef_igemm_args *a = reef_arena_alloc(ctx->arena, sizeof *a);
    *out = (reef_cuda_kernel){.args = a, .args_bytes = sizeof *a, .threads = (unsigned)c->threads, .flops = p->flops};
    length = snprintf(text, sizeof text, "reef_igemm_%s_%s", precision, c->name);
    out->function = reef_arena_string(ctx->arena, text, (size_t)length);
    length = snprintf(text, sizeof text, "reef_igemm_%s_%s_be", precision, c->name);
    out->worker = reef_arena_string(ctx->arena, text, (size_t)length);
    const bool pool = p->pooled && c->form == HALO;
    length = snprintf(text, sizeof text, "igemm %s %s split %d%s%s", c->name, precision, splits,
                      picked->cluster ? " cluster" : "", pool ? " +pool" : "");
    out->variant = reef_arena_string(ctx->arena, text, (size_t)length);
    if (!a || !out->function || !out->worker || !out->variant) {
        return reef_fail(ctx->error, REEF_NO_MEMORY, "out of memory");
    }
    *a = p->args;
    a->splits = splits;
    a->cluster = picked->cluster;
    a->col_tiles = (a->cols + c->bn - 1) / c->bn;
    a->row_tiles = row_tiles(a, c);
    a->by_splits = divisor(splits);
    a->by_col_tiles = divisor(a->col_tiles);
    a->tap_rows = 0;
    for (int ky = 0; ky < a->taps_h && ky * a->taps_w < 32; ky++) {
        a->tap_rows |= 1u << ky * a->taps_w;
    }
    a->tap_repeat = 0;
    for (int taps = a->taps_h * a->taps_w, at = 0; at < 64; at += taps) {
        a->tap_repeat |= (uint64_t)1 << at;
    }
    a->by_taps = divisor(a->taps_h * a->taps_w);
    a->by_taps_w = divisor(a->taps_w);
    a->by_out_hw = divisor(a->out_hw);
    a->by_out_w = divisor(a->out_w);
    out->tiles = (unsigned)(picked->tiles * splits);
    out->cluster = picked->cluster ? (unsigned)splits : 0;

    /* shared memory: as many stages as there are steps, or the staged result; then the residual, or the window */
    a->extra = base_smem(c, part_steps(a, c, splits));
    const int slots = picked->cluster ? slots_smem(c, splits) : 0;
    int extra = 0, elem = ctx->precision == REEF_CUDA_FP16 ? 2 : 4;
    if (c->form == WINDOW) {
        a->window_row = ((c->bm - 1) * a->stride_w + (a->taps_w - 1) * a->dil_w + 1) * a->channels;
        extra = a->window_row * a->taps_h * elem;
    } else if (p->residual && a->rs.vec && a->cols % 8 == 0) {
        extra = c->bm * c->bn * (a->rs.type == REEF_CUDA_F16 ? 2 : 4);
        a->residual_early = a->extra + extra + slots + STATIC_SMEM <= smem_limit(ctx->sm_arch);
        extra = a->residual_early ? extra : 0;
    }
    a->slots = (a->extra + extra + 15) / 16 * 16;
    out->dynamic_smem = (unsigned)(slots ? a->slots + slots : a->extra + extra);
    const int own = ctx->precision == REEF_CUDA_FP16 ? REEF_CUDA_F16 : REEF_CUDA_F32;
    a->plain = a->ys.vec && a->ys.linear && a->ys.type == own && a->cols % 8 == 0 &&
               (a->act == REEF_ACT_NONE || a->act == REEF_ACT_RELU || a->act == REEF_ACT_GELU) &&
               (!p->residual || (a->residual_early && a->rs.linear && a->rs.type == own));

    reef_cuda_bind(ctx, out, offsetof(reef_igemm_args, x), p->x);
    reef_cuda_bind(ctx, out, offsetof(reef_igemm_args, y), pool ? p->pooled : p->y);
    if (pool) {
        a->ys = p->pooled_ys;
        a->pool_h = (int32_t)p->pooled->dims[2];
        a->pool_w = (int32_t)p->pooled->dims[3];
        out->does_then = true;
    } else if (p->pooled) { /* as pools were measured on an H200: a start, and 3.3 bytes per nanosecond */
        out->left_ns = 1500 + (unsigned)((double)a->rows * a->cols * elem * 1.25 / 3300);
    }
    out->left_ns += k->through ? 2000 : 0; /* likewise */
    if (p->residual) {
        reef_cuda_bind(ctx, out, offsetof(reef_igemm_args, residual), p->residual);
    }
    if (p->b) {
        reef_cuda_bind(ctx, out, offsetof(reef_igemm_args, b), p->b);
    }
    if (splits > 1 && !picked->cluster) {
        reef_cuda_bind_workspace(out, offsetof(reef_igemm_args, counters), 0);
        reef_cuda_bind_workspace(out, offsetof(reef_igemm_args, partials), REEF_CUDA_ZERO_BYTES);
        out->workspace_bytes = REEF_CUDA_ZERO_BYTES + (size_t)out->tiles * (size_t)(c->bm * c->bn) * 4;
    }
    return REEF_OK;
}

/* All choices that may be worth a measurement, likely best first. */
static size_t choose(const igemm_problem *p, igemm_form form, const reef_cuda_prepare *ctx, choice *out, size_t max)
{
    const reef_igemm_args *a = &p->args;
    static const int parts[] = {1, 2, 3, 4, 5, 6, 8, 12, 16};
    const int sms = (int)ctx->sm_count;
    size_t n = 0;
    for (int i = 0; i < N_CONFIGS; i++) {
        const igemm_config *c = &configs[i];
        if (!(c->precisions >> ctx->precision & 1) ||
            (c->form != form && !(c->form == HALO && form == FAST && halo_fits(p))) ||
            (c->wgmma && !ctx->arch_kernels) || (c->spare && ctx->arch_kernels && ctx->precision != REEF_CUDA_FP32)) {
            continue;
        }
        const int tiles = row_tiles(a, c) * ((a->cols + c->bn - 1) / c->bn) * a->groups;
        for (size_t s = 0; s < sizeof parts / sizeof *parts; s++) {
            const int splits = parts[s];
            const bool cluster = splits > 1 && splits <= 8 && ctx->sm_arch >= 90;
            if (splits > 1 &&
                (form == WINDOW || splits > a->steps / (c->form == HALO ? HALO_TAPS : 1) || tiles * splits > sms * 3 ||
                 tiles * 4 > REEF_CUDA_ZERO_BYTES || (splits > 8 && ctx->sm_arch >= 90))) {
                break;
            }
            if (base_smem(c, part_steps(a, c, splits)) + (cluster ? slots_smem(c, splits) : 0) + STATIC_SMEM >
                smem_limit(ctx->sm_arch)) {
                continue;
            }
            choice next = {c, splits, tiles, cluster, guess_us(a, c, tiles, splits, cluster, sms)};
            size_t at = n < max ? n++ : n;
            for (; at > 0 && out[at - 1].us > next.us; at--) {
                if (at < max) {
                    out[at] = out[at - 1];
                }
            }
            if (at < max) {
                out[at] = next;
            }
        }
    }
    return n;
}

reef_status igemm_offer(igemm_problem *p, const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                        size_t max, size_t *n)
{
    reef_igemm_args *a = &p->args;
    const int step_elems = ctx->precision == REEF_CUDA_FP16 ? 64 : 32;
    const int64_t taps = (int64_t)a->taps_h * a->taps_w, depth = a->channels * taps;
    const igemm_form form = form_of(p, ctx);
    if (depth > INT32_MAX / 2 || (int64_t)a->rows * a->cols > INT32_MAX) {
        return reef_fail(ctx->error, REEF_UNSUPPORTED, "kernel '%s' is too large", k->name);
    }
    a->steps = (int32_t)(form == FAST ? (a->channels + step_elems - 1) / step_elems * taps
                                      : (depth + step_elems - 1) / step_elems);
    finish_operand(&a->ys, p->y, a);
    if (p->pooled) {
        reef_status status = igemm_operand(k, ctx, p->pooled, 0, 2, 3, &p->pooled_ys);
        if (status) {
            return status;
        }
        finish_operand(&p->pooled_ys, p->pooled, a);
    }
    if (taps == 1 && a->stride_h == 1 && a->stride_w == 1 && a->in_w == a->out_w && a->in_h * a->in_w == a->out_hw) {
        finish_operand(&a->xs, p->x, a); /* an input pixel is the output pixel */
    }
    if (p->residual) {
        finish_operand(&a->rs, p->residual, a);
    }
    reef_status status = igemm_upload_bias(ctx, p->bias, p->bias_elems, &a->bias);
    if (!status && !p->b) {
        a->w_group = (a->cols + 31) / 32;
        if ((int64_t)a->w_group * a->steps * 4096 > INT32_MAX) {
            return reef_fail(ctx->error, REEF_UNSUPPORTED, "kernel '%s': weights of 2 GiB or more", k->name);
        }
        status = pack(p, ctx, form == FAST, &a->w);
    }
    choice choices[REEF_CUDA_MAX_CANDIDATES];
    const size_t room = max - *n;
    size_t n_choices = choose(p, form, ctx, choices, room < REEF_CUDA_MAX_CANDIDATES ? room : REEF_CUDA_MAX_CANDIDATES);
    for (size_t i = 0; i < n_choices && !status; i++) {
        status = add(p, k, &choices[i], ctx, &out[*n]);
        *n += !status;
    }
    return status;
}
