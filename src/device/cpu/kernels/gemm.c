/*
 * gemm.c - micro-kernels, the loop around them, and how work is cut into tiles.
 *
 * Where it sits: below conv.c, conv_transpose.c, matmul.c and attention.c.
 */
#include "device/cpu/kernels/gemm.h"

/*
 * A micro-kernel of MR rows and NV vectors of columns. Sums are named variables, so that they are registers:
 *
 *      c0_0 c0_1      p0[k] x (b0 b1)        one broadcast of the left operand feeds NV fused steps
 *      c1_0 c1_1  +=  p1[k] x (b0 b1)
 *      ...            ...
 */
typedef void (*gemm_ukr)(const float *const *table, int64_t taps, int64_t skip, int64_t kc, const float *w, float *acc,
                         int64_t ld, bool first);

#define ROWS_1(X)    X(0)
#define ROWS_2(X)    ROWS_1(X) X(1)
#define ROWS_3(X)    ROWS_2(X) X(2)
#define ROWS_4(X)    ROWS_3(X) X(3)
#define ROWS_5(X)    ROWS_4(X) X(4)
#define ROWS_6(X)    ROWS_5(X) X(5)
#define ROWS_7(X)    ROWS_6(X) X(6)
#define ROWS_8(X)    ROWS_7(X) X(7)
#define ROWS_9(X)    ROWS_8(X) X(8)
#define ROWS_10(X)   ROWS_9(X) X(9)
#define ROWS_11(X)   ROWS_10(X) X(10)
#define ROWS_12(X)   ROWS_11(X) X(11)
#define COLS_1(X, i) X(i, 0)
#define COLS_2(X, i) X(i, 0) X(i, 1)
#define LOAD(i, j)   vf c##i##_##j = first ? (vf){0} : *(const vf *)(acc + i * ld + j * VL);
#define STORE(i, j)  *(vf *)(acc + i * ld + j * VL) = c##i##_##j;
#define STEP(i, j)   c##i##_##j += a * b##j;
#define LOAD_1(i)    COLS_1(LOAD, i)
#define LOAD_2(i)    COLS_2(LOAD, i)
#define STORE_1(i)   COLS_1(STORE, i)
#define STORE_2(i)   COLS_2(STORE, i)
#define STEP_1(i)                                                                                                      \
    {                                                                                                                  \
        vf a = v_set(p##i[k]);                                                                                         \
        COLS_1(STEP, i)                                                                                                \
    }
#define STEP_2(i)                                                                                                      \
    {                                                                                                                  \
        vf a = v_set(p##i[k]);                                                                                         \
        COLS_2(STEP, i)                                                                                                \
    }
#define POINTER(i) const float *p##i = table[i] + skip + kc;
#define PANEL_1    vf b0 = *(const vf *)w;
#define PANEL_2    vf b0 = *(const vf *)w, b1 = *(const vf *)(w + VL);

/* With so few rows the panels stream from memory: ask for them early. */
#define AHEAD(MR, NV)                                                                                                  \
    if (MR <= 2) {                                                                                                     \
        __builtin_prefetch(w + 32 * NV * VL);                                                                          \
        if (NV * VL > 16) {                                                                                            \
            __builtin_prefetch(w + 32 * NV * VL + 16);                                                                 \
        }                                                                                                              \
    }

#define DEFINE_UKR(MR, NV)                                                                                             \
    static void ukr_##MR##x##NV(const float *const *table, int64_t taps, int64_t skip, int64_t kc, const float *w,     \
                                float *acc, int64_t ld, bool first)                                                    \
    {                                                                                                                  \
        ROWS_##MR(LOAD_##NV) do                                                                                        \
        {                                                                                                              \
            ROWS_##MR(POINTER) table += MR;                                                                            \
            _Pragma("GCC unroll 4") for (int64_t k = -kc; k < 0; k++)                                                  \
            {                                                                                                          \
                AHEAD(MR, NV) PANEL_##NV ROWS_##MR(STEP_##NV) w += NV * VL;                                            \
            }                                                                                                          \
        }                                                                                                              \
        while (--taps)                                                                                                 \
            ;                                                                                                          \
        ROWS_##MR(STORE_##NV)                                                                                          \
    }
#define DEFINE_UKRS(MR)                                                                                                \
    DEFINE_UKR(MR, 1)                                                                                                  \
    DEFINE_UKR(MR, 2)
#define UKRS(MR)                                                                                                       \
    {                                                                                                                  \
        ukr_##MR##x1, ukr_##MR##x2                                                                                     \
    }

DEFINE_UKRS(1)
DEFINE_UKRS(2)
DEFINE_UKRS(3)
DEFINE_UKRS(4)
#if VL >= 8 || defined(__aarch64__)
DEFINE_UKRS(5)
DEFINE_UKRS(6)
#endif
#if VL == 16 || defined(__aarch64__)
DEFINE_UKRS(7)
DEFINE_UKRS(8)
#endif
#if VL == 16
DEFINE_UKRS(9)
DEFINE_UKRS(10)
DEFINE_UKRS(11)
DEFINE_UKRS(12)
#endif

static const gemm_ukr ukrs[GEMM_MR][2] = {
    UKRS(1), UKRS(2),  UKRS(3),  UKRS(4),
#if VL >= 8 || defined(__aarch64__)
    UKRS(5), UKRS(6),
#endif
#if VL == 16 || defined(__aarch64__)
    UKRS(7), UKRS(8),
#endif
#if VL == 16
    UKRS(9), UKRS(10), UKRS(11), UKRS(12),
#endif
};

/* taps [t, t + taps) x channels [skip, skip + kc) of every panel and group. */
static bool run_chunk(const gemm_block *b, int64_t t, int64_t taps, int64_t skip, int64_t kc, reef_tile_ctx *ctx)
{
    int64_t depth = b->taps * b->channels, groups = gemm_groups(b->rows);
    bool first = t == 0 && skip == 0 && b->skip == 0, last = t + taps == b->taps && skip + kc == b->channels;
    for (int64_t j = 0; j < b->cols; j += GEMM_NR) {
        int wide = b->cols - j >= GEMM_NR;
        const float *w = b->panels + j * depth + (t * b->channels + skip) * (wide ? GEMM_NR : VL);
        for (int64_t g = 0; g < groups; g++) {
            int64_t r = gemm_group_start(b->rows, groups, g), n = gemm_group_start(b->rows, groups, g + 1) - r;
            if (reef_tile_abandoned(ctx)) {
                return false;
            }
            for (int64_t i = r; last && b->soon && i < r + n; i++) { /* epilogues wait for lines to own otherwise */
                const float *y = b->soon + i * b->soon_stride + j;
                __builtin_prefetch(y, 1);
                if (wide && VL == 16) {
                    __builtin_prefetch(y + VL, 1);
                }
            }
            ukrs[n - 1][wide](b->table + r * b->taps + t * n, taps, skip + b->skip, kc, w, b->acc + r * b->ld + j,
                              b->ld, first);
        }
    }
    return true;
}

bool REEF_ISA_FN(reef_gemm_run)(const gemm_block *b, reef_tile_ctx *ctx)
{
    if (b->channels > GEMM_KC) {
        int64_t pieces = (b->channels + GEMM_KC - 1) / GEMM_KC;
        int64_t step = ((b->channels + pieces - 1) / pieces + 3) / 4 * 4;
        for (int64_t t = 0; t < b->taps; t++) {
            for (int64_t c = 0; c < b->channels; c += step) {
                if (!run_chunk(b, t, 1, c, b->channels - c < step ? b->channels - c : step, ctx)) {
                    return false;
                }
            }
        }
        return true;
    }
    int64_t at_once = GEMM_KC / b->channels;
    int64_t pieces = (b->taps + at_once - 1) / at_once;
    for (int64_t i = 0; i < pieces; i++) {
        int64_t t = gemm_cut(b->taps, pieces, i);
        if (!run_chunk(b, t, gemm_cut(b->taps, pieces, i + 1) - t, 0, b->channels, ctx)) {
            return false;
        }
    }
    return true;
}

/*
 * Time of a tile of rows x cols in fused vector steps, roughly: arithmetic, bringing the panels close once, bringing
 * the rows close once per tile, saving sums between chunks, and the epilogue. Only ratios matter.
 */
static double tile_cost(double rows, double cols, double depth, double taps)
{
    double arithmetic = rows * cols * depth / VL;
    double panels = cols * depth / VL * 5;
    double inputs = rows * depth / VL * 2 + rows * taps * 3;
    double sums = rows * cols / VL * (2 * ceil(depth / GEMM_KC) + 8);
    return arithmetic + panels + inputs + sums + 4000;
}

gemm_split REEF_ISA_FN(reef_gemm_split)(int64_t batch, int64_t m, int64_t n, int64_t taps, int64_t channels,
                                        double input_floats, unsigned units)
{
    double depth = (double)taps * (double)channels;
    double total_us = 2 * (double)batch * (double)m * (double)gemm_padded(n) * depth / (GEMM_GFLOPS * 1e3);
    total_us = fmax(total_us, (double)batch * depth * (double)n * sizeof(float) / 14e3); /* a core's share of memory */
    double want = total_us / 100;
    if (total_us > 20) {
        want = fmax(want, fmin(3.0 * units, total_us / 10));
    }
    int64_t panels = gemm_panels(n);
    int64_t most_rows = GEMM_TABLE_ROWS / taps > GEMM_MR ? GEMM_TABLE_ROWS / taps : GEMM_MR;
    gemm_split best = {0};
    double best_cost = INFINITY;
    for (int64_t n_tiles = 1; n_tiles <= panels; n_tiles++) {
        int64_t tile_cols = (panels + n_tiles - 1) / n_tiles * GEMM_NR;
        if (tile_cols > gemm_padded(n)) {
            tile_cols = gemm_padded(n);
        }
        int64_t rows_cap = GEMM_ACC_FLOATS / tile_cols;
        rows_cap = rows_cap < most_rows ? rows_cap : most_rows;
        if (rows_cap < 1) {
            continue;
        }
        int64_t least = (m + rows_cap - 1) / rows_cap;
        int64_t base = (int64_t)ceil(want / (double)(n_tiles * batch));
        base = base > m ? m : base;
        base = base < least ? least : base;
        for (int64_t m_tiles = base; m_tiles <= m && m_tiles < base + 4; m_tiles++) {
            double tiles = (double)(n_tiles * m_tiles * batch);
            if (tiles < 0.6 * want && (n_tiles < panels || m_tiles < m)) {
                continue;
            }
            int64_t rows = (m + m_tiles - 1) / m_tiles;
            double cost = ceil(tiles / units) * tile_cost((double)rows, (double)tile_cols, depth, (double)taps);
            if (cost < best_cost) {
                best_cost = cost;
                best = (gemm_split){m_tiles, n_tiles, false, rows, tile_cols};
            }
        }
    }
    /* Read the larger operand once: with columns outer the rows are read once per column tile, and the other way
     * round; what fits the second-level cache is read for nothing. */
    double near = 256 << 10, weights = depth * (double)n;
    double columns_outer = weights + (input_floats > near ? (double)best.n_tiles * input_floats : input_floats);
    double rows_outer = input_floats + (weights > near ? (double)best.m_tiles * weights : weights);
    best.columns_outer = columns_outer < rows_outer;
    return best;
}
