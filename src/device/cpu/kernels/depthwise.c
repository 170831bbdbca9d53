/*
 * depthwise.c - convolutions with one filter per channel: no sums across channels, so vectors run along them.
 *
 * A tile is a range of output pixels x a range of channels. Pixel pointers come from igemm.h; DW_PIXELS neighbours
 * whose taps all lie inside the image share each load of a tap's weights:
 *
 *      sum[pixel][channel] += x[pixel's tap][channel] * w[tap][channel]      taps in order
 */
#include "device/cpu/kernels/igemm.h"

enum {
    DW_PIXELS = 4,
    DW_WEIGHTS = 4 << 10, /* floats of a tile's weights: every run of pixels reads them from the first-level cache */
};

typedef struct depthwise {
    igemm image;    /* operands, steps and the one phase; its split is not used */
    const float *w; /* (taps, padded) */
    int64_t channels, padded, m_tiles, c_tiles;
} depthwise;

/*
 * dw_N: N * times pixels `apart` floats from each other in x; taps[t] is the first one's tap t, at the first channel.
 * Channels are walked two vectors at a time, then one; the last one overlaps its predecessor when channels do not
 * fill it.
 */
#define DW_1(X)     X(0)
#define DW_4(X)     X(0) X(1) X(2) X(3)
#define DW_ZERO1(i) vf s##i##_0 = {0};
#define DW_ZERO2(i) vf s##i##_0 = {0}, s##i##_1 = {0};
#define DW_STEP1(i) s##i##_0 += v_load(x + i * apart) * w0;
#define DW_STEP2(i)                                                                                                    \
    s##i##_0 += v_load(x + i * apart) * w0;                                                                            \
    s##i##_1 += v_load(x + i * apart + VL) * w1;
#define DW_STORE1(i) v_store(acc + i * ld + c, s##i##_0);
#define DW_STORE2(i)                                                                                                   \
    v_store(acc + i * ld + c, s##i##_0);                                                                               \
    v_store(acc + i * ld + c + VL, s##i##_1);

#define DW_ZERO4(i) vf s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
#define DW_STEP4(i)                                                                                                    \
    s0 += v_load(x) * v_load(tap);                                                                                     \
    s1 += v_load(x + VL) * v_load(tap + VL);                                                                           \
    s2 += v_load(x + 2 * VL) * v_load(tap + 2 * VL);                                                                   \
    s3 += v_load(x + 3 * VL) * v_load(tap + 3 * VL);
#define DW_STORE4(i)                                                                                                   \
    v_store(acc + c, s0);                                                                                              \
    v_store(acc + c + VL, s1);                                                                                         \
    v_store(acc + c + 2 * VL, s2);                                                                                     \
    v_store(acc + c + 3 * VL, s3);
#define DW_W4

#define DW_BLOCK(N, NV)                                                                                                \
    const float *tap = w + c;                                                                                          \
    DW_##N(DW_ZERO##NV) for (int64_t t = 0; t < n_taps; t++, tap += ldw)                                               \
    {                                                                                                                  \
        const float *x = taps[t] + at + c;                                                                             \
        DW_W##NV DW_##N(DW_STEP##NV)                                                                                   \
    }                                                                                                                  \
    DW_##N(DW_STORE##NV)
#define DW_W1 vf w0 = v_load(tap);
#define DW_W2 vf w0 = v_load(tap), w1 = v_load(tap + VL);

/* WIDE: a lone pixel takes four vectors of channels at a time, for enough independent sums. */
#define DEFINE_DW(N, WIDE)                                                                                             \
    static void dw_##N(const float *const *taps, int64_t n_taps, int64_t apart, int64_t times, const float *w,         \
                       int64_t ldw, int64_t channels, float *acc, int64_t ld)                                          \
    {                                                                                                                  \
        for (int64_t i = 0, at = 0; i < times; i++, at += N * apart, acc += N * ld) {                                  \
            int64_t c = 0;                                                                                             \
            WIDE for (; c + 2 * VL <= channels; c += 2 * VL)                                                           \
            {                                                                                                          \
                DW_BLOCK(N, 2)                                                                                         \
            }                                                                                                          \
            while (c < channels) {                                                                                     \
                c = c + VL > channels ? channels - VL : c;                                                             \
                DW_BLOCK(N, 1)                                                                                         \
                c += VL;                                                                                               \
            }                                                                                                          \
        }                                                                                                              \
    }
DEFINE_DW(1, for (; c + 4 * VL <= channels; c += 4 * VL){DW_BLOCK(1, 4)})
DEFINE_DW(4, )

/* One pixel of fewer channels than a vector has. */
static void dw_narrow(const float *const *taps, int64_t n_taps, const float *w, int64_t ldw, int64_t channels,
                      float *acc)
{
    vf sum = {0};
    for (int64_t t = 0; t < n_taps; t++) {
        sum += v_load_n(taps[t], channels) * v_load(w + t * ldw);
    }
    v_store(acc, sum);
}

static reef_tile_result run(const void *args, char *const *base, uint32_t index, reef_tile_ctx *ctx)
{
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
    igemm_walk w = igemm_walk_start(p, t.pixel);
    int64_t apart = c->in_step[1] * c->x.w, work = 0;
    int64_t most = 16384 / (DW_PIXELS * p->taps * ld) + 1;
    for (int64_t i = 0; i < t.pixels;) {
        if (work <= 0) { /* every two microseconds at the slowest */
            if (reef_tile_abandoned(ctx)) {
                return REEF_TILE_ABANDONED;
            }
            work = 16384;
        }
        int64_t done = 1, times = 0;
        if (channels >= VL && igemm_inside(c, p, &w, 1)) { /* a run of pixels inside, but not too long between polls */
            int64_t inside = (c->in_w - 1 - p->high[1] - w.c * c->in_step[1]) / c->in_step[1] + 1;
            inside = inside < p->cols - w.c ? inside : p->cols - w.c;
            times = (inside < t.pixels - i ? inside : t.pixels - i) / DW_PIXELS;
            times = times < most ? times : most;
        }
        igemm_point(c, p, &w, x, table, 1);
        if (times) {
            done = times * DW_PIXELS;
            dw_4(table, p->taps, apart, times, d->w + channel, d->padded, channels, acc + i * ld, ld);
        } else if (channels >= VL) {
            dw_1(table, p->taps, apart, 1, d->w + channel, d->padded, channels, acc + i * ld, ld);
        } else {
            dw_narrow(table, p->taps, d->w + channel, d->padded, channels, acc + i * ld);
        }
        work -= done * p->taps * ld;
        i += done;
        w.c += done - 1;
        igemm_walk_next(p, &w);
    }
    return igemm_store(c, &t, base, acc, ld, channel, channels, ctx) ? REEF_TILE_DONE : REEF_TILE_ABANDONED;
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
    d->c_tiles = (d->padded * taps + DW_WEIGHTS - 1) / DW_WEIGHTS;
    d->c_tiles = d->c_tiles < d->padded / VL ? d->c_tiles : d->padded / VL;
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
    out->scratch_bytes = c->table_offset + (size_t)taps * sizeof(float *);
    out->tiles = (uint32_t)(d->m_tiles * d->c_tiles);
    out->tile_flops = 2.0 * (double)(rows * width) * (double)taps;
    out->args = d;
    out->epilogue_only = true;
    out->run = run;
    out->variant = "depthwise " REEF_ISA_NAME;
    return REEF_OK;
}
