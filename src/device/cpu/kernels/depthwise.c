/*
 * depthwise.c - convolutions with one filter per channel: no sums across channels, so vectors run along them.
 *
 * A tile is a range of output pixels x a range of channels. Pixel pointers come from igemm.h's table; up to DW_PIXELS
 * pixels share each load of a tap's weights:
 *
 *      sum[pixel][channel] += x[pixel's tap][channel] * w[tap][channel]      taps in order
 */
#include "device/cpu/kernels/igemm.h"

enum { DW_PIXELS = 4, DW_CHANNELS = 4096 };

typedef struct depthwise {
    igemm image;    /* operands, steps and the one phase; its split is not used */
    const float *w; /* (taps, padded) */
    int64_t channels, padded, m_tiles, c_tiles;
} depthwise;

#define DW_SUM2(i) vf s##i##_0 = {0}, s##i##_1 = {0};
#define DW_STEP2(i)                                                                                                    \
    {                                                                                                                  \
        const float *x = at[i] + c;                                                                                    \
        s##i##_0 += v_load(x) * w0;                                                                                    \
        s##i##_1 += v_load(x + VL) * w1;                                                                               \
    }
#define DW_STORE2(i)                                                                                                   \
    v_store(acc + i * ld + c, s##i##_0);                                                                               \
    v_store(acc + i * ld + c + VL, s##i##_1);
#define DW_1(X) X(0)
#define DW_2(X) DW_1(X) X(1)
#define DW_3(X) DW_2(X) X(2)
#define DW_4(X) DW_3(X) X(3)

/* table (taps, N): N pixels' pointers at the tile's first channel; channels of them into acc. */
#define DEFINE_DW(N)                                                                                                   \
    static void dw_##N(const float *const *table, int64_t taps, const float *w, int64_t ldw, int64_t channels,         \
                       float *acc, int64_t ld)                                                                         \
    {                                                                                                                  \
        int64_t c = 0;                                                                                                 \
        for (; c + 2 * VL <= channels; c += 2 * VL) {                                                                  \
            const float *const *at = table;                                                                            \
            const float *tap = w + c;                                                                                  \
            DW_##N(DW_SUM2) for (int64_t t = 0; t < taps; t++, at += N, tap += ldw)                                    \
            {                                                                                                          \
                vf w0 = v_load(tap), w1 = v_load(tap + VL);                                                            \
                DW_##N(DW_STEP2)                                                                                       \
            }                                                                                                          \
            DW_##N(DW_STORE2)                                                                                          \
        }                                                                                                              \
        for (; c < channels; c += VL) {                                                                                \
            int64_t n = channels - c < VL ? channels - c : VL;                                                         \
            for (int64_t i = 0; i < N; i++) {                                                                          \
                vf sum = {0};                                                                                          \
                for (int64_t t = 0; t < taps; t++) {                                                                   \
                    sum += v_load_n(table[t * N + i] + c, n) * v_load(w + t * ldw + c);                                \
                }                                                                                                      \
                v_store(acc + i * ld + c, sum);                                                                        \
            }                                                                                                          \
        }                                                                                                              \
    }
DEFINE_DW(1)
DEFINE_DW(2)
DEFINE_DW(3)
DEFINE_DW(4)

static reef_tile_result run(const void *args, char *const *base, uint32_t index, reef_tile_ctx *ctx)
{
    static void (*const kernels[DW_PIXELS])(const float *const *, int64_t, const float *, int64_t, int64_t, float *,
                                            int64_t) = {dw_1, dw_2, dw_3, dw_4};
    const depthwise *d = args;
    const igemm *c = &d->image;
    const igemm_phase *p = c->phases;
    int64_t all = c->images * p->rows * p->cols;
    int64_t m = index / d->c_tiles, n = index % d->c_tiles;
    igemm_tile t = {.phase = p, .pixel = gemm_cut(all, d->m_tiles, m)};
    t.pixels = gemm_cut(all, d->m_tiles, m + 1) - t.pixel;
    int64_t blocks = d->padded / VL;
    int64_t channel = gemm_cut(blocks, d->c_tiles, n) * VL, end = gemm_cut(blocks, d->c_tiles, n + 1) * VL;
    int64_t channels = (end < d->channels ? end : d->channels) - channel, ld = gemm_padded(channels);

    float *acc = ctx->scratch;
    const float **table = (const float **)((char *)ctx->scratch + c->table_offset);
    const float *x = (const float *)base[c->x.storage] + c->x.offset + channel;
    igemm_walk w = igemm_walk_start(c, &t);
    int64_t poll_every = 1 + 16384 / (p->taps * ld); /* groups, of about two microseconds at the slowest */
    for (int64_t i = 0, g = 0; i < t.pixels; i += DW_PIXELS, g++) {
        if (g % poll_every == 0 && reef_tile_abandoned(ctx)) {
            return REEF_TILE_ABANDONED;
        }
        int64_t pixels = t.pixels - i < DW_PIXELS ? t.pixels - i : DW_PIXELS;
        for (int64_t j = 0; j < pixels; j++, igemm_walk_next(&w)) {
            igemm_point(c, p, &w, x, table + j, pixels);
        }
        kernels[pixels - 1](table, p->taps, d->w + channel, d->padded, channels, acc + i * ld, ld);
    }
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    igemm_store(c, &t, base, acc, ld, channel, channels);
    return REEF_TILE_DONE;
}

REEF_ISA_PREPARE(depthwise)
{
    const reef_conv *conv = &k->conv;
    depthwise *d = reef_arena_alloc(prepare->arena, sizeof *d);
    if (!d) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
    }
    reef_status status = igemm_from_conv(&d->image, k, false, prepare);
    if (status) {
        return status;
    }
    igemm *c = &d->image;
    int64_t taps = c->phases->taps;
    d->channels = conv->channels;
    d->padded = gemm_padded(conv->channels);
    float *w = prepare->alloc(prepare->owner, gemm_packed_bytes(taps, conv->channels));
    if (!w) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
    }
    for (int64_t i = 0; i < conv->channels; i++) {
        for (int64_t t = 0; t < taps; t++) {
            w[t * d->padded + i] = conv->w[i * taps + t];
        }
    }
    d->w = w;

    int64_t all = c->images * c->phases->rows * c->phases->cols;
    d->c_tiles = (conv->channels + DW_CHANNELS - 1) / DW_CHANNELS;
    int64_t width = (d->padded / VL + d->c_tiles - 1) / d->c_tiles * VL;
    double us = 2 * (double)all * (double)d->padded * (double)(taps + 4) / (GEMM_GFLOPS * 1e3 / 4);
    double want = us / 100;
    if (us > 20) {
        want = fmax(want, fmin(3.0 * prepare->units, us / 10));
    }
    int64_t cap = GEMM_ACC_FLOATS / width;
    d->m_tiles = (int64_t)fmax(ceil(want / (double)d->c_tiles), ceil((double)all / (double)cap));
    if (us > 20 && d->m_tiles % prepare->units) {
        d->m_tiles += prepare->units - d->m_tiles % prepare->units;
    }
    d->m_tiles = d->m_tiles > all ? all : d->m_tiles < 1 ? 1 : d->m_tiles;
    int64_t rows = (all + d->m_tiles - 1) / d->m_tiles;
    c->table_offset = (size_t)(rows * width) * sizeof(float);
    out->scratch_bytes = c->table_offset + (size_t)(DW_PIXELS * taps) * sizeof(float *);
    out->tiles = (uint32_t)(d->m_tiles * d->c_tiles);
    out->tile_flops = 2.0 * (double)(rows * width) * (double)taps;
    out->args = d;
    out->epilogue_only = true;
    out->run = run;
    out->variant = "depthwise " REEF_ISA_NAME;
    return REEF_OK;
}
