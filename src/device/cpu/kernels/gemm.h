/*
 * gemm.h - the one matrix product under convolutions, products and attention.
 *
 * A block is `rows` x `cols` results. Row r of the left operand is not a matrix row but `taps` runs of `channels` floats,
 * each behind a pointer of its own (indirect convolution): a 1x1 convolution or a product has one tap, a 3x3 one has
 * nine, and padding is a pointer to zeros. The right operand is packed into panels:
 *
 *      panel p:  [tap][channel][GEMM_NR columns]       the last panel may be VL wide when few columns are left
 *
 * and micro-kernels of up to GEMM_MR rows x GEMM_NR columns keep their sums in registers over a chunk of the depth that
 * stays in the first-level cache. Invariant: every result is the sum over (tap, channel) in order, one fused step at a
 * time, whatever the block, group or chunk it is computed in; so an answer never depends on how work was cut.
 */
#ifndef REEF_DEVICE_CPU_KERNELS_GEMM_H
#define REEF_DEVICE_CPU_KERNELS_GEMM_H

#include "device/cpu/kernels/vmath.h"

#if VL == 16
enum { GEMM_MR = 12 }; /* 24 of 32 registers are sums */
#define GEMM_GFLOPS 150.0
#elif VL == 8
enum { GEMM_MR = 6 }; /* 12 of 16 */
#define GEMM_GFLOPS 70.0
#elif defined(__aarch64__)
enum { GEMM_MR = 8 };
#define GEMM_GFLOPS 30.0
#else
enum { GEMM_MR = 4 }; /* 8 of 16: without fused steps a product needs a register too */
#define GEMM_GFLOPS 15.0
#endif
enum {
    GEMM_NR = 2 * VL,
    GEMM_KC = 384, /* depth of a chunk: GEMM_KC x GEMM_NR floats of a panel stay in the first-level cache */
    GEMM_ACC_FLOATS = 16 << 10, /* most results of one tile: they should still be near when it stores them */
    GEMM_TABLE_ROWS = 8 << 10,  /* most (row, tap) pointers of one tile, unless a single group has more */
};

typedef struct gemm_block {
    const float *const *table; /* [group][tap][row of group], groups as gemm_group_* cut them */
    int64_t rows, taps, channels;
    int64_t skip;        /* one tap only: start at this channel, adding to acc unless 0; panels start there too */
    const float *panels; /* the first panel */
    int64_t cols;        /* a multiple of VL */
    float *acc;          /* (rows, ld), 64-byte aligned */
    int64_t ld;          /* a multiple of VL */
    const float *soon;   /* where row 0 will be stored, or NULL: fetched while the last chunk is computed */
    int64_t soon_stride;
} gemm_block;

/* False: abandoned. Polls about every microsecond. */
bool REEF_ISA_FN(reef_gemm_run)(const gemm_block *block, reef_tile_ctx *ctx);

/* Rows are cut into groups of at most GEMM_MR whose sizes differ by at most one. */
static inline int64_t gemm_groups(int64_t rows)
{
    return (rows + GEMM_MR - 1) / GEMM_MR;
}
static inline int64_t gemm_group_start(int64_t rows, int64_t groups, int64_t g)
{
    return rows * g / groups;
}

/* Columns with the padding of the last panel. */
static inline int64_t gemm_padded(int64_t cols)
{
    return (cols + VL - 1) / VL * VL;
}
static inline int64_t gemm_panels(int64_t cols)
{
    return (cols + GEMM_NR - 1) / GEMM_NR;
}
static inline size_t gemm_packed_bytes(int64_t depth, int64_t cols)
{
    return (size_t)depth * (size_t)gemm_padded(cols) * sizeof(float);
}

/* One panel: out (depth, width) from b (depth, cols) with strides; columns from cols to width are zero. */
static inline void gemm_pack_panel(float *restrict out, const float *restrict b, int64_t depth, int64_t cols,
                                   int64_t width, int64_t stride_k, int64_t stride_n)
{
    if (stride_n == 1) {
        for (int64_t k = 0; k < depth; k++) {
            for (int64_t j = 0; j < width; j += VL) {
                int64_t n = cols - j;
                v_store(out + k * width + j,
                        n >= VL ? v_load(b + k * stride_k + j) : v_load_n(b + k * stride_k + j, n < 0 ? 0 : n));
            }
        }
        return;
    }
    for (int64_t j = 0; j < width; j++) {
        for (int64_t k = 0; k < depth; k++) {
            out[k * width + j] = j < cols ? b[k * stride_k + j * stride_n] : 0;
        }
    }
}

/* All panels of a constant right operand, at load. */
static inline void gemm_pack(float *out, const float *b, int64_t depth, int64_t cols, int64_t stride_k,
                             int64_t stride_n)
{
    int64_t padded = gemm_padded(cols);
    for (int64_t j = 0; j < padded; j += GEMM_NR) {
        int64_t width = padded - j < GEMM_NR ? VL : GEMM_NR;
        gemm_pack_panel(out + j * depth, b + j * stride_n, depth, cols - j < width ? cols - j : width, width, stride_k,
                        stride_n);
    }
}

/* How `batch` products of (m, depth) by (depth, n) are cut into tiles. */
typedef struct gemm_split {
    int64_t m_tiles, n_tiles; /* per product */
    bool columns_outer;       /* consecutive tiles share a panel instead of rows */
    int64_t rows;             /* of the largest tile */
    int64_t cols;             /* of the largest tile, a multiple of VL */
} gemm_split;

/* input_floats: size of the left operand as it lies in memory (a 3x3 convolution reads it nine times from there). */
gemm_split REEF_ISA_FN(reef_gemm_split)(int64_t batch, int64_t m, int64_t n, int64_t taps, int64_t channels,
                                        double input_floats, unsigned units);

/* Part i of `parts` even parts of n. */
static inline int64_t gemm_cut(int64_t n, int64_t parts, int64_t i)
{
    return n * i / parts;
}

#endif
