/*
 * lower.h - what the files of the lowering share. Not for others.
 *
 * lower.c drives: it settles layouts, gives values homes, lowers node after node through the table below, and writes
 * graph outputs. lower_*.c hold the operators by family.
 *
 * Three words. A value's *place* is the view where it is once its producer was lowered. Its *home*, if it has one, is
 * where the producer is asked to write: a slice of a concatenation, a request output, the far side of a reshape. Homes
 * are hints: whoever relies on one compares place and home and copies when they differ. Its *layout* is how storage of
 * its own would be ordered: channels innermost (nhwc) or row major.
 */
#ifndef REEF_MODEL_LOWER_H
#define REEF_MODEL_LOWER_H

#include "model/plan.h"
#include "model/shape.h"
#include "model/view.h"

enum { REEF_LOWER_ELT_MEMBERS = 64 };

typedef enum reef_need {
    REEF_NEED_ANY,
    REEF_NEED_NHWC, /* rank 4, channels have stride 1 */
    REEF_NEED_LAST, /* the last axis has stride 1 */
    REEF_NEEDS,
} reef_need;

typedef struct reef_place {
    bool set, has_home, nhwc, want_nhwc;
    reef_view view, home;
    bool has_copy[REEF_NEEDS]; /* a copy in the layout that some reader needed; later readers share it */
    reef_view copy[REEF_NEEDS];
    /* Element operators: the node whose kernel computes this value, and who reads it. */
    const reef_node *root;
    const reef_node *reader; /* the root of its readers, while there is only one */
    bool many_readers;
} reef_place;

typedef struct reef_lower {
    reef_graph *graph;
    reef_plan *plan;
    reef_error *error;
    reef_place *places; /* by value id */
    size_t cap_kernels, cap_storage;
} reef_lower;

typedef reef_status (*reef_lower_fn)(reef_lower *l, const reef_node *node);

enum {
    REEF_OP_NHWC = 1,  /* reads in[0] and writes out[0] with channels innermost */
    REEF_OP_FLEX = 2,  /* any strides: follows its neighbours' layout */
    REEF_OP_VIEW = 4,  /* moves nothing, if strides allow */
    REEF_OP_ELT = 8,   /* an element operator (lower_elt.c) */
    REEF_OP_LAST = 16, /* writes out[0] with the last axis innermost */
};

typedef struct reef_lower_op {
    const char *op;
    reef_lower_fn fn;
    unsigned flags;
} reef_lower_op;
/* NULL when the operator is unknown. */
const reef_lower_op *reef_lower_find(const reef_node *node);

static inline reef_place *reef_lower_place(reef_lower *l, const reef_value *value)
{
    return &l->places[value->id];
}

/* Where the value is; makes storage for constants on first use. */
reef_status reef_lower_view(reef_lower *l, const reef_node *node, const reef_value *value, reef_view *out);
/* The same, copied first if its strides do not meet the need. */
reef_status reef_lower_operand(reef_lower *l, const reef_node *node, const reef_value *value, reef_need need,
                               reef_view *out);
/* A row-major (or NHWC) copy of any view. */
reef_status reef_lower_copy(reef_lower *l, const reef_node *node, const reef_view *x, bool nhwc, reef_view *out);
/* Places value at its home, or in new storage of its own layout, and returns the place. */
reef_status reef_lower_dest(reef_lower *l, const reef_value *value, reef_view *out);
/* Places value at a given view. */
void reef_lower_put(reef_lower *l, const reef_value *value, const reef_view *view);
/* Places value in its own storage with the contents of x, whose elements are in the value's row-major order. */
reef_status reef_lower_fill(reef_lower *l, const reef_node *node, const reef_value *value, const reef_view *x);
reef_status reef_lower_temp(reef_lower *l, const char *name, reef_dtype dtype, int rank, const int64_t *dims, bool nhwc,
                            reef_view *out);
reef_status reef_lower_constant(reef_lower *l, const char *name, const void *data, reef_dtype dtype, int rank,
                                const int64_t *dims, reef_view *out);
/* Appends a kernel; fills name, ops, flops and bytes. */
reef_status reef_lower_push(reef_lower *l, const reef_node *node, reef_kernel *k);

reef_status reef_lower_need_f32(reef_lower *l, const reef_node *node, const reef_value *value);
/* Float contents of a constant, aligned; in the plan's arena if they had to be moved. NULL value gives NULL. */
reef_status reef_lower_floats(reef_lower *l, const reef_node *node, const reef_value *value, const char *what,
                              const float **out);

/* lower_view.c: the view of out[0] under another operator's strides, and backwards: the place of in[0] that makes
 * out[0] lie at `y`. False when strides cannot say it. */
bool reef_lower_inverse(const reef_node *node, const reef_view *y, reef_view *x);
/* lower_elt.c: decides which element operators share a kernel (before lowering starts). */
void reef_lower_group(reef_lower *l);

#define REEF_TRY(call)                                                                                                 \
    do {                                                                                                               \
        reef_status try_status = (call);                                                                               \
        if (try_status) {                                                                                              \
            return try_status;                                                                                         \
        }                                                                                                              \
    } while (0)

/* One per operator family. */
reef_status reef_lower_conv(reef_lower *l, const reef_node *node);
reef_status reef_lower_pool(reef_lower *l, const reef_node *node);
reef_status reef_lower_resize(reef_lower *l, const reef_node *node);
reef_status reef_lower_lrn(reef_lower *l, const reef_node *node);
reef_status reef_lower_matmul(reef_lower *l, const reef_node *node);
reef_status reef_lower_gemm(reef_lower *l, const reef_node *node);
reef_status reef_lower_attention(reef_lower *l, const reef_node *node);
reef_status reef_lower_layer_norm(reef_lower *l, const reef_node *node);
reef_status reef_lower_group_norm(reef_lower *l, const reef_node *node);
reef_status reef_lower_softmax(reef_lower *l, const reef_node *node);
reef_status reef_lower_reduce(reef_lower *l, const reef_node *node);
reef_status reef_lower_global_pool(reef_lower *l, const reef_node *node);
reef_status reef_lower_arg_max(reef_lower *l, const reef_node *node);
reef_status reef_lower_gather(reef_lower *l, const reef_node *node);
reef_status reef_lower_gather_nd(reef_lower *l, const reef_node *node);
reef_status reef_lower_elt(reef_lower *l, const reef_node *node);
reef_status reef_lower_reshape(reef_lower *l, const reef_node *node);
reef_status reef_lower_transpose(reef_lower *l, const reef_node *node);
reef_status reef_lower_slice(reef_lower *l, const reef_node *node);
reef_status reef_lower_split(reef_lower *l, const reef_node *node);
reef_status reef_lower_expand(reef_lower *l, const reef_node *node);
reef_status reef_lower_tile(reef_lower *l, const reef_node *node);
reef_status reef_lower_concat(reef_lower *l, const reef_node *node);
reef_status reef_lower_pad(reef_lower *l, const reef_node *node);
reef_status reef_lower_depth(reef_lower *l, const reef_node *node);

#endif
