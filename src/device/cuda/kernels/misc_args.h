/*
 * misc_args.h - arguments of the kernels that are not matrix products, shared by prepare functions (*.c) and kernels (*.cu).
 *
 * A walk numbers the elements (or vectors of elements: items) that a kernel goes through and turns a number into one
 * offset per operand. The host merges dimensions where every operand allows it, so most walks have one or two. An
 * operand that is walked by vectors has its innermost stride multiplied by the vector's length; offsets are always in
 * elements.
 *
 * Numbers below 2^31 are divided by a multiplication; larger walks (`wide`) use 64-bit division.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_MISC_ARGS_H
#define REEF_DEVICE_CUDA_KERNELS_MISC_ARGS_H

#include <stdint.h>

enum { REEF_CUDA_WALK_DIMS = 8 };

/* n / d = (mulhi(n, mul) + n) >> shift for n < 2^31. */
typedef struct reef_cuda_div {
    uint32_t d, mul, shift;
} reef_cuda_div;

/* A walk of fewer operands is a prefix of one of more. */
#define REEF_CUDA_WALK(name, ops)                                                                                      \
    typedef struct name {                                                                                              \
        int64_t total; /* items; may be 0 */                                                                           \
        int32_t rank;  /* >= 1 */                                                                                      \
        uint32_t wide;                                                                                                 \
        int64_t dims[REEF_CUDA_WALK_DIMS]; /* outermost first */                                                       \
        reef_cuda_div div[REEF_CUDA_WALK_DIMS];                                                                        \
        int64_t stride[ops][REEF_CUDA_WALK_DIMS];                                                                      \
    } name
REEF_CUDA_WALK(reef_cuda_walk1, 1);
REEF_CUDA_WALK(reef_cuda_walk2, 2);
REEF_CUDA_WALK(reef_cuda_walk3, 3);
REEF_CUDA_WALK(reef_cuda_walk4, 4);
REEF_CUDA_WALK(reef_cuda_walk9, 9);

/* Items first..first + per_tile of the walk belong to a tile. */

/* y = act(a), act(a + b), act(a - b), act(a * b), act(a * b + c); operands f32 or f16. */
typedef enum reef_cuda_short_op {
    REEF_CUDA_SHORT_A,
    REEF_CUDA_SHORT_ADD,
    REEF_CUDA_SHORT_SUB,
    REEF_CUDA_SHORT_MUL,
    REEF_CUDA_SHORT_FMA,
} reef_cuda_short_op;
typedef struct reef_cuda_short_args {
    void *y;
    const void *in[3];
    int32_t y_type, type[3]; /* reef_cuda_elem_type */
    int32_t splat[3];        /* one element for a whole vector */
    int32_t op, act;
    float act_a, act_b;
    uint32_t early; /* in[1] and in[2] are constants: they may be read before the predecessor has finished */
    uint32_t per_tile;
    reef_cuda_walk4 walk; /* y, in[0..3) */
} reef_cuda_short_args;

/* In the order of REEF_ELT_LIST (model/plan.h), which nvcc need not read; eltwise_host.c asserts that they agree. */
/* clang-format off */
#define REEF_CUDA_ELT_LIST(X)                                                                                          \
    X(CONST) X(CAST) X(ADD) X(SUB) X(MUL) X(DIV) X(MOD) X(FMOD) X(POW) X(MIN) X(MAX) X(EQ) X(LT) X(LE) X(GT) X(GE)     \
    X(AND) X(OR) X(XOR) X(NOT) X(WHERE) X(NEG) X(ABS) X(SIGN) X(SQRT) X(RECIPROCAL) X(EXP) X(LOG) X(ERF) X(SIN)        \
    X(COS) X(TANH) X(FLOOR) X(CEIL) X(ROUND) X(SIGMOID) X(SOFTPLUS) X(ACT) X(FMA)
/* clang-format on */
enum {
#define X(name) REEF_CUDA_ELT_##name,
    REEF_CUDA_ELT_LIST(X)
#undef X
        REEF_CUDA_ELT_OPS
};
/* reef_dtype (reef/reef.h), likewise. */
enum {
    REEF_CUDA_DTYPE_F32 = 1,
    REEF_CUDA_DTYPE_U8 = 2,
    REEF_CUDA_DTYPE_I8 = 3,
    REEF_CUDA_DTYPE_I32 = 6,
    REEF_CUDA_DTYPE_I64 = 7,
    REEF_CUDA_DTYPE_BOOL = 9,
    REEF_CUDA_DTYPE_F64 = 11,
};
typedef struct reef_cuda_elt_insn {
    uint8_t op, type, from, dst, a, b, c, pad; /* as reef_elt_insn */
    double imm, imm2;
} reef_cuda_elt_insn;
typedef struct reef_cuda_elt_args {
    void *y;
    const void *in[8];
    uint8_t type[8];  /* reef_cuda_elem_type */
    uint8_t dtype[8]; /* reef_dtype */
    uint8_t splat[8];
    uint8_t y_type, y_dtype, n_in, result;
    int32_t n_insns;
    uint32_t per_tile;
    reef_cuda_walk9 walk; /* y, in[0..8) */
    reef_cuda_elt_insn insns[32];
} reef_cuda_elt_args;

/* Elements, or runs of them, of unit_bytes (1, 2, 4, 8, 16); offsets count units. */
typedef struct reef_cuda_copy_args {
    void *y;
    const void *x;
    uint32_t unit_bytes, per_tile; /* 0 bytes: elements of x_type become elements of y_type */
    int32_t y_type, x_type;
    reef_cuda_walk2 walk; /* y, x */
} reef_cuda_copy_args;

/* Squares of 32 x 32: y's inner dimension against the dimension that is inner in x. */
typedef struct reef_cuda_transpose_args {
    void *y;
    const void *x;
    int32_t y_type, x_type;
    int64_t rows, cols; /* rows: neighbours in x; cols: neighbours in y */
    int64_t y_row, x_col;
    int64_t y_col, x_row;          /* 1, or whatever the view has */
    uint32_t row_tiles, col_tiles; /* a tile's number: (outer, row tile, column tile) */
    reef_cuda_walk2 outer;         /* y, x */
} reef_cuda_transpose_args;

typedef struct reef_cuda_pad_args {
    void *y;
    const void *x;
    int32_t y_type, x_type, mode, rank;
    uint64_t value; /* bits of an element of y */
    uint32_t per_tile;
    int64_t total;
    int64_t dims[REEF_CUDA_WALK_DIMS], x_dims[REEF_CUDA_WALK_DIMS], before[REEF_CUDA_WALK_DIMS];
    int64_t y_stride[REEF_CUDA_WALK_DIMS], x_stride[REEF_CUDA_WALK_DIMS];
} reef_cuda_pad_args;

/* Items: (n, oh, ow, vector of channels). */
typedef struct reef_cuda_pool_args {
    void *y;
    const void *x;
    int32_t y_type, x_type;
    int32_t average, count_include_pad;
    int32_t kernel[2], stride[2], pad[2], pad_end[2], dilation[2];
    int32_t h, w;
    int64_t x_stride[3], y_stride[3]; /* n, h, w */
    uint32_t per_tile;
    reef_cuda_walk1 walk; /* dimensions n, oh, ow, c; never merged */
} reef_cuda_pool_args;

typedef struct reef_cuda_resize_args {
    void *y;
    const void *x;
    const int32_t *low, *high; /* input coordinate of each output row, then of each output column */
    const float *weight;       /* of high */
    int32_t y_type, x_type, linear;
    int64_t x_stride[3], y_stride[3];
    uint32_t per_tile;
    reef_cuda_walk1 walk; /* as reef_cuda_pool_args */
} reef_cuda_resize_args;

typedef struct reef_cuda_lrn_args {
    void *y;
    const void *x;
    int32_t y_type, x_type;
    int64_t size;
    float alpha_over_size, beta, bias;
    int64_t x_stride[3], y_stride[3];
    uint32_t per_tile;
    reef_cuda_walk1 walk;
} reef_cuda_lrn_args;

/*
 * Reductions: a tile has `lanes` results (or lines), each of which blockDim.x / lanes threads work on. Threads next to
 * each other are next to each other along the reduced elements (`along`), else along the lanes.
 */
typedef struct reef_cuda_reduce_args {
    void *y;
    const void *x;
    int32_t y_type, x_type;
    int32_t kind; /* reef_reduce_kind */
    uint32_t lanes_log2, along;
    reef_cuda_walk2 kept;    /* y, x */
    reef_cuda_walk1 reduced; /* x */
} reef_cuda_reduce_args;

typedef struct reef_cuda_softmax_args {
    void *y;
    const void *x;
    int32_t y_type, x_type, log;
    uint32_t lanes_log2, along;
    int64_t length, y_stride, x_stride;
    reef_cuda_walk2 kept;
} reef_cuda_softmax_args;

typedef struct reef_cuda_arg_max_args {
    int64_t *y;
    const void *x;
    int32_t x_type, select_last, min;
    uint32_t lanes_log2, along;
    int64_t length, x_stride;
    reef_cuda_walk2 kept;
} reef_cuda_arg_max_args;

/* One row a tile. */
typedef struct reef_cuda_layer_norm_args {
    void *y;
    const void *x, *residual;
    const float *scale, *bias; /* never NULL */
    int32_t y_type, x_type, residual_type, has_residual;
    float epsilon;
    int64_t channels;
    int64_t y_stride, x_stride, residual_stride; /* between channels: 1, or whatever the view has */
    reef_cuda_walk3 rows;                        /* y, x, residual */
} reef_cuda_layer_norm_args;

typedef struct reef_cuda_gather_args {
    void *y;
    const void *data, *indices;
    int32_t y_type, data_type, index_type;
    uint32_t per_tile;
    int64_t axis_dim, axis_stride;
    reef_cuda_walk3 walk; /* y, data, indices */
} reef_cuda_gather_args;

typedef struct reef_cuda_spin_args {
    uint64_t tile_ns;
} reef_cuda_spin_args;

#endif
