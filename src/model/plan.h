/*
 * plan.h - what a device runs: kernels in order, over planned storage. Knows no device.
 *
 * Where it sits: fused graph -> [plan] -> kernels compiled for a device. A kernel names its operands as views: logical
 * dimensions in ONNX order and a stride per dimension, so that layout (NHWC inside, row major at the edges), slicing,
 * transposing, broadcasting and writing in place into a concatenation are all the same thing and need no kernel of
 * their own.
 *
 * Invariant: a kernel starts when those that it follows (plan->after) have finished completely; running one after another
 * in the plan's order always does, and a device may run at once what is not ordered. Storages share memory only where
 * all kernels that touch the one follow all that touch the other. What a kernel's tiles may do to storage: see
 * transaction.
 */
#ifndef REEF_MODEL_PLAN_H
#define REEF_MODEL_PLAN_H

#include "model/graph.h"

typedef enum reef_storage_kind {
    REEF_STORAGE_CONST,      /* data points at the contents; the device keeps its own copy or packs it into kernels */
    REEF_STORAGE_INPUT,      /* request input `index`, row major */
    REEF_STORAGE_OUTPUT,     /* request output `index`, row major */
    REEF_STORAGE_ACTIVATION, /* at `offset` in the instance's activation memory */
} reef_storage_kind;

typedef struct reef_storage {
    reef_storage_kind kind;
    const char *name; /* of the (first) value that lives here */
    size_t bytes;
    const void *data;     /* CONST: aligned to its elements */
    uint32_t index;       /* INPUT, OUTPUT */
    size_t offset;        /* ACTIVATION: multiple of REEF_PLAN_ALIGN */
    uint32_t first, last; /* kernels between which it is live */
} reef_storage;

enum { REEF_PLAN_ALIGN = 256 };

typedef struct reef_view {
    uint32_t storage; /* index in plan->storage; REEF_NO_STORAGE: absent operand */
    reef_dtype dtype;
    int rank;
    int64_t dims[REEF_MAX_RANK];   /* logical, ONNX order */
    int64_t stride[REEF_MAX_RANK]; /* elements; 0 repeats (broadcast); negative walks backwards (Slice with step -1) */
    int64_t offset;                /* elements from the storage's start to element [0,0,...] */
} reef_view;
#define REEF_NO_STORAGE UINT32_MAX

typedef enum reef_kernel_kind {
    REEF_K_CONV, /* implicit GEMM; grouped and depthwise too */
    REEF_K_CONV_TRANSPOSE,
    REEF_K_MATMUL,    /* batched; constant or computed right operand */
    REEF_K_ATTENTION, /* softmax(q k^T * scale + mask) v */
    REEF_K_POOL,
    REEF_K_ELTWISE, /* a small program per element */
    REEF_K_COPY,    /* any layout change; pads at the border */
    REEF_K_REDUCE,
    REEF_K_SOFTMAX,
    REEF_K_LAYER_NORM,
    REEF_K_GATHER,
    REEF_K_RESIZE,
    REEF_K_LRN,
    REEF_K_ARG_MAX,
    REEF_K_SPIN, /* synthetic load for benchmarks and tests */
    REEF_KERNEL_KINDS
} reef_kernel_kind;

/* x: f32 (N,C,H,W), C stride 1.  y: f32 (N,M,OH,OW), M stride 1.  residual: as y.  w: f32 (M, C/groups, KH, KW) row
 * major constant; for the transposed form (C, M/groups, KH, KW).  bias: f32 (M) or NULL. */
typedef struct reef_conv {
    const float *w, *bias;
    int64_t channels, filters, groups;
    int64_t kernel[2], stride[2], pad[2] /* before; the rest follows from y's size */, dilation[2];
    bool has_residual; /* then in[1] is the residual; it may be the same view as y (in place) */
    reef_act act;
    float act_a, act_b;
} reef_conv;

/* a: f32 (batch..., M, K), K stride 1.  b: f32 (batch..., K, N), any strides.  y: f32 (batch..., M, N), N stride 1.
 * All three have the same rank >= 2; batch dimensions of a and b may have stride 0. y = act(alpha * a b + bias + residual). */
typedef struct reef_matmul {
    bool b_const; /* in[1] is CONST storage with batch 1 (or all batch strides 0): pack it at load */
    float alpha;
    const float *bias; /* f32 (N) or NULL */
    bool has_residual; /* then in[2] is the residual, as y; it may be the same view as y (in place) */
    reef_act act;
    float act_a, act_b;
} reef_matmul;

/* in: q (B,H,S,D), k (B,H,T,D), v (B,H,T,D), [mask broadcast to (B,H,S,T)]; any strides but D stride 1 for q, v and y.
 * mask f32: added to the scaled scores; mask bool: where false the score is -inf (a row without any true gives 0, or
 * NaN if nan_rows). */
typedef struct reef_attention {
    float scale;
    bool has_mask, nan_rows;
} reef_attention;

typedef enum reef_pool_kind { REEF_POOL_MAX, REEF_POOL_AVERAGE } reef_pool_kind;
/* x: f32 (N,C,H,W), y: f32 (N,C,OH,OW); C stride 1 both. */
typedef struct reef_pool {
    reef_pool_kind kind;
    bool count_include_pad;
    int64_t kernel[2], stride[2], pad[2], pad_end[2], dilation[2];
} reef_pool;

/* Element operators. Operands a, b, c are registers; registers 0..n_in-1 hold the inputs.
 *   CONST             dst = imm (double, converted to type)
 *   CAST              dst(type) = a(from)
 *   EQ LT LE GT GE    type is the operands'; dst is bool
 *   WHERE             a (bool) ? b : c
 *   ACT               dst = act(a) with imm, imm2 as the activation's a and b; the code of act in b
 *   FMA               a * b + c
 */
/* clang-format off */
#define REEF_ELT_LIST(X)                                                                                               \
    X(CONST) X(CAST)                                                                                                   \
    X(ADD) X(SUB) X(MUL) X(DIV) X(MOD) X(FMOD) X(POW) X(MIN) X(MAX)                                                    \
    X(EQ) X(LT) X(LE) X(GT) X(GE)                                                                                      \
    X(AND) X(OR) X(XOR) X(NOT) X(WHERE)                                                                                \
    X(NEG) X(ABS) X(SIGN) X(SQRT) X(RECIPROCAL) X(EXP) X(LOG) X(ERF) X(SIN) X(COS) X(TANH) X(FLOOR) X(CEIL) X(ROUND)   \
    X(SIGMOID) X(SOFTPLUS) X(ACT) X(FMA)
/* clang-format on */

typedef enum reef_elt_op {
#define X(name) REEF_ELT_##name,
    REEF_ELT_LIST(X)
#undef X
        REEF_ELT_OPS
} reef_elt_op;

typedef struct reef_elt_insn {
    uint8_t op;   /* reef_elt_op */
    uint8_t type; /* reef_dtype computed in (of the operands for comparisons, of the result for CAST) */
    uint8_t from; /* CAST: the operand's dtype */
    uint8_t dst, a, b, c;
    double imm, imm2;
} reef_elt_insn;

enum { REEF_ELT_MAX_INSNS = 32, REEF_ELT_MAX_INPUTS = 8, REEF_ELT_REGS = 16 };

/* in[i] has y's dims (stride 0 where it is broadcast). y = register `result`. An input may be the same view as y (in place). */
typedef struct reef_eltwise {
    int n_insns;
    uint8_t result;
    reef_elt_insn insns[REEF_ELT_MAX_INSNS];
} reef_eltwise;

typedef enum reef_pad_mode { REEF_PAD_CONSTANT, REEF_PAD_REFLECT, REEF_PAD_EDGE } reef_pad_mode;
/* y[i] = x[i - before] inside, by mode outside. Same dtype and rank. before may be negative (crop). */
typedef struct reef_copy {
    bool pads; /* false: dims equal, before all zero */
    int64_t before[REEF_MAX_RANK];
    reef_pad_mode mode;
    double value;
} reef_copy;

typedef enum reef_reduce_kind {
    REEF_REDUCE_SUM,
    REEF_REDUCE_MEAN,
    REEF_REDUCE_MAX,
    REEF_REDUCE_MIN,
    REEF_REDUCE_PROD,
    REEF_REDUCE_L1,
    REEF_REDUCE_L2,
    REEF_REDUCE_SUM_SQUARE,
    REEF_REDUCE_LOG_SUM_EXP,
} reef_reduce_kind;
/* x and y have the same rank; y's dims are 1 on reduced axes. f32 or i64. GlobalAveragePool is MEAN over H, W. */
typedef struct reef_reduce {
    reef_reduce_kind kind;
    bool axis[REEF_MAX_RANK];
} reef_reduce;

typedef struct reef_softmax {
    int axis; /* one axis; the lowering reshapes for the flattening form of opsets before 13 */
    bool log;
} reef_softmax;

/* x, y: f32 (..., C) normalised over the last axis, which has stride 1; scale, bias: f32 (C) or NULL. */
typedef struct reef_layer_norm {
    const float *scale, *bias;
    float epsilon;
    bool has_residual; /* then in[1], as x, is added to x first */
} reef_layer_norm;

/* in: data, indices (i64 or i32, any rank). y dims = data[:axis] + indices + data[axis+1:]. Negative indices count from
 * the end. Out of range: clamped, and counted as the model's fault by nobody; the answer is then unspecified but memory
 * safe. */
typedef struct reef_gather {
    int axis;
} reef_gather;

typedef enum reef_resize_coord {
    REEF_RESIZE_HALF_PIXEL,
    REEF_RESIZE_PYTORCH_HALF_PIXEL,
    REEF_RESIZE_ALIGN_CORNERS,
    REEF_RESIZE_ASYMMETRIC,
} reef_resize_coord;
typedef enum reef_resize_nearest {
    REEF_RESIZE_ROUND_PREFER_FLOOR,
    REEF_RESIZE_ROUND_PREFER_CEIL,
    REEF_RESIZE_FLOOR,
    REEF_RESIZE_CEIL,
} reef_resize_nearest;
/* x, y: f32 (N,C,H,W); C stride 1. N and C unchanged. */
typedef struct reef_resize {
    bool linear;
    reef_resize_coord coord;
    reef_resize_nearest nearest;
    float scale[2]; /* output size / input size as the model states it */
} reef_resize;

/* x, y: f32 (N,C,H,W), C stride 1. Across channels, as ONNX LRN. */
typedef struct reef_lrn {
    int64_t size;
    float alpha, beta, bias;
} reef_lrn;

/* x f32 or i64, y i64 with dim 1 on axis. */
typedef struct reef_arg_max {
    int axis;
    bool select_last, min;
} reef_arg_max;

/* No operands. `tiles` tiles that each keep a unit busy for tile_ns of its own clock. */
typedef struct reef_spin {
    uint32_t tiles;
    uint64_t tile_ns;
} reef_spin;

enum { REEF_KERNEL_MAX_IN = REEF_ELT_MAX_INPUTS };

typedef struct reef_kernel {
    reef_kernel_kind kind;
    const char *name; /* of the node it came from; fused groups name the last one */
    const char *ops;  /* "Conv+BatchNormalization+Relu" */
    reef_view in[REEF_KERNEL_MAX_IN];
    int n_in;
    reef_view y;
    union {
        reef_conv conv;
        reef_matmul matmul;
        reef_attention attention;
        reef_pool pool;
        reef_eltwise eltwise;
        reef_copy copy;
        reef_reduce reduce;
        reef_softmax softmax;
        reef_layer_norm layer_norm;
        reef_gather gather;
        reef_resize resize;
        reef_lrn lrn;
        reef_arg_max arg_max;
        reef_spin spin;
    };
    /* A convolution whose y only kernel `then` reads, and that takes maxima over 2x2 of it: a device may do both in one, and
     * so write the y of `then` in place of this one. 0: none. Set by reef_plan_memory, which keeps that place free. */
    uint32_t then;
    /* 1 + the copy that makes in[0] of a convolution, from a request's input and for nobody else: a device may read what
     * the copy reads. 0: none. Set by reef_plan_memory. */
    uint32_t through;
    double flops, bytes; /* useful arithmetic and least memory traffic, for cost models and reports */
    /* Set by reef_plan_validate: no tile may read what another tile of the same kernel writes. */
    bool transaction;
    const char *why_not; /* NULL when transaction */
} reef_kernel;

typedef struct reef_plan_io {
    const char *name;
    reef_dtype dtype;
    int rank;
    int64_t dims[REEF_MAX_RANK];
    size_t bytes;
    uint32_t storage;
} reef_plan_io;

typedef struct reef_plan {
    reef_arena arena;
    reef_graph *graph; /* owned: names and mapped weights live there; NULL for synthetic plans */
    reef_kernel *kernels;
    size_t n_kernels;
    /* Kernel k follows after[after_at[k]] .. after[after_at[k + 1] - 1], latest first, and what those follow; NULL: each
     * kernel follows the one before it. Set by reef_plan_memory. */
    const uint32_t *after, *after_at;
    reef_storage *storage;
    size_t n_storage;
    reef_plan_io *inputs, *outputs;
    size_t n_inputs, n_outputs;
    size_t activation_bytes;     /* of one instance, after planning */
    size_t activation_sum_bytes; /* what it would be without reuse */
    size_t weight_bytes;
    uint64_t hash; /* content and shapes: the key of every cache */
} reef_plan;

/*
 * Lowers an inferred and fused graph: chooses layouts (NHWC for everything between convolutions and pools, row major
 * at the edges), turns Reshape, Transpose, Slice, Split, Squeeze, Expand and Concat into views where it can, fuses
 * chains of element operators, plans memory and validates. Takes the graph on success.
 * Errors: UNSUPPORTED naming operator and node (all of them, up to the message's length), SHAPE, DTYPE, NO_MEMORY.
 */
reef_status reef_plan_create(reef_graph *graph, reef_plan **out, reef_error *error);
/* kernels kernels in a row, each of `tiles` tiles of tile_ns: the synthetic load of `reef bench preempt`. */
reef_status reef_plan_create_synthetic(uint32_t kernels, uint32_t tiles, uint64_t tile_ns, reef_plan **out);
void reef_plan_destroy(reef_plan *plan);

/* Orders the kernels (order.c) and assigns activation offsets by liveness (memory.c). Called by reef_plan_create. */
reef_status reef_plan_memory(reef_plan *plan, reef_error *error);
/* Whether no two storages that may be live at once share bytes, but for in-place pairs; otherwise *a and *b are such
 * two. For tests and debug builds. */
bool reef_plan_memory_check(const reef_plan *plan, uint32_t *a, uint32_t *b);
/* Sets transaction and why_not of every kernel (validate.c). Called by reef_plan_create. */
void reef_plan_validate(reef_plan *plan);

const char *reef_kernel_kind_name(reef_kernel_kind kind);
int64_t reef_view_elems(const reef_view *view);
/* First and one-past-last byte of the storage that a view can touch. */
void reef_view_range(const reef_view *view, int64_t *first_byte, int64_t *end_byte);

#endif
