/*
 * igemm_args.h - arguments of the matrix product kernels, shared by host (igemm_host.c) and device (igemm.cuh, gemv.cu).
 *
 * One problem covers convolution, transposed convolution and (batched) matrix products:
 *
 *      y[g][row][n] = act(alpha * sum_k x[g][row][k] w[g][k][n] + bias[n] + residual[g][row][n])
 *
 * row = (image, oy, ox), an output pixel; k = (ky, kx, channel). A matrix product is the case of one row of pixels and one
 * tap. g is a convolution's group or a batch index of a product with a computed right operand.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_IGEMM_ARGS_H
#define REEF_DEVICE_CUDA_KERNELS_IGEMM_ARGS_H

#include <stdint.h>

/* Strides in elements; host checks that no operand spans 2^31 of them. */
typedef struct reef_igemm_operand {
    int32_t image, h, w; /* strides of the pixel index (output pixel for y and residual, input pixel for x) */
    int32_t g0, g1;      /* strides of g / group_div and g % group_div */
    int32_t type;        /* reef_cuda_elem_type */
    int32_t linear;      /* address of a row is row * w: no division needed */
    int32_t vec;         /* eight neighbouring columns are one (f16) or two (f32) aligned 16-byte words */
} reef_igemm_operand;

/* n / d for 0 <= n < 2^31 is (high word of n * magic + n) >> shift. */
typedef struct reef_divisor {
    uint32_t magic, shift;
} reef_divisor;

typedef struct reef_igemm_args {
    uint64_t x, w, bias, residual, y; /* device addresses; bias and residual 0 where absent */
    uint64_t partials,
        counters; /* workspace of split sums: f32 (tiles, splits, BM*BN), u32 (tiles), zero between runs */
    reef_igemm_operand xs, ys, rs;
    int32_t rows, cols, groups, group_div; /* cols: per group */
    int32_t channels, taps_h, taps_w;      /* per group */
    int32_t in_h, in_w, out_w, out_hw;
    int32_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w;
    uint64_t tap_repeat;     /* bit k * taps for every k */
    uint32_t tap_rows;       /* bit ky * taps_w of each row of taps */
    int32_t steps;           /* of 128 bytes of k, all of them */
    int32_t splits, cluster; /* parts of k; cluster: they form a thread block cluster */
    int32_t row_tiles, col_tiles;
    int32_t extra;          /* offset in shared memory of what comes behind the stages: residual or window */
    int32_t slots;          /* and of what the blocks of a cluster send each other */
    int32_t window_row;     /* window form: elements of an input row that a tile of pixels sees */
    int32_t residual_early; /* shared memory is there for the residual, and it can be read in 16-byte words */
    int32_t w_group;        /* packed weights: blocks of 32 columns per group */
    int32_t bias_group;     /* elements of bias per group */
    int32_t plain;          /* y (and the residual) whole and aligned, of the precision's type; see finish_plain */
    reef_divisor by_splits, by_col_tiles, by_out_hw, by_out_w, by_taps, by_taps_w;
    int32_t pool_h, pool_w; /* conv3.cu: y is this large, the maxima over 2x2 results; 0: y is the results */
    /* right operand read through a view (slow loader only): b[g][k][n] */
    uint64_t b;
    int32_t b_k, b_n, b_g0, b_g1, b_type;
    int32_t act;
    float act_a, act_b, alpha;
} reef_igemm_args;

/* y[n] = act(alpha * sum_k x[k] w[n][k] + bias[n] + residual[n]) for each of a few rows; w: (N, K padded) row major. */
typedef struct reef_gemv_args {
    uint64_t x, w, bias, residual, y;
    int32_t n, k, ld; /* ld: elements per row of w, a multiple of 8; zero beyond k */
    int32_t x_row, y_row, r_row, row_tiles;
    int32_t x_type, y_type, r_type, x_vec;
    int32_t act;
    float act_a, act_b, alpha;
    int32_t ahead; /* bytes per row of w that are called into L2 while the predecessor runs */
} reef_gemv_args;

/* A convolution with few channels, x in any strides; see stem.cu. */
typedef struct reef_stem_args {
    uint64_t x, w, bias, y;
    reef_igemm_operand ys;
    int32_t x_image, x_c, x_h, x_w, x_type;
    int32_t channels, taps_h, taps_w, in_h, in_w, out_h, out_w;
    int32_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w;
    int32_t cols, col_tiles, steps;    /* steps: of 16 of k */
    int32_t across, down, rows, pitch; /* tiles per image; lines of a tile's window, and elements of one */
    float least, most;                 /* bounds of the results */
    int32_t pad;
} reef_stem_args;

/* Depthwise convolution: one filter per channel. w: f32 (taps, channels). */
typedef struct reef_depthwise_args {
    uint64_t x, w, bias, residual, y;
    reef_igemm_operand xs, ys, rs;
    int32_t rows, channels, taps_h, taps_w;
    int32_t in_h, in_w, out_w, out_hw;
    int32_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w;
    int32_t act;
    float act_a, act_b;
    int32_t pad;
} reef_depthwise_args;

typedef struct reef_attention_args {
    uint64_t q, k, v, mask, y;
    int32_t q_b, q_h, q_s, k_b, k_h, k_t, k_d, v_b, v_h, v_t, y_b, y_h, y_s;
    int32_t m_b, m_h, m_s, m_t; /* mask strides; 0 repeats */
    int32_t batch, heads, queries, keys, dim;
    int32_t q_type, k_type, v_type, y_type, mask_type; /* mask_type: REEF_CUDA_F32, F16, BOOL; -1: no mask */
    int32_t nan_rows, row_blocks;
    int32_t vec; /* k and v can be read four elements at a time */
    float scale;
} reef_attention_args;

#endif
