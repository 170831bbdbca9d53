/*
 * shape.h - what a node's attributes and constant inputs mean, worked out once.
 *
 * ONNX says the same thing in several ways (attribute or input, explicit pads or auto_pad, negative axes, defaults per
 * opset). Shape inference and lowering both read nodes through these functions, so they cannot disagree. All check
 * what they return: after REEF_OK axes are in range, sizes are not negative, and products fit.
 *
 * They need the node's inputs to have shapes, and inputs that decide a shape (axes, sizes, pads) to be constants;
 * otherwise they fail with UNSUPPORTED, naming node and input. Messages start with "node 'name' (Op): ".
 */
#ifndef REEF_MODEL_SHAPE_H
#define REEF_MODEL_SHAPE_H

#include "base/error.h"
#include "base/half.h"
#include "model/graph.h"

/* Fills *error with "node 'name' (Op): " and the message. */
__attribute__((format(printf, 4, 5))) void reef_node_error(const reef_node *node, reef_error *error, reef_status status,
                                                           const char *format, ...);
/* The same with the value of status, which is evaluated twice: as reef_fail, a macro so that callers see the status. */
#define reef_node_fail(node, error, status, ...)                                                                       \
    reef_error_return((status), (reef_node_error((node), (error), (status), __VA_ARGS__), 0))

/* The product of dims; false when a dimension is negative or the product exceeds what reef handles (2^40). */
bool reef_dims_elems(int rank, const int64_t *dims, int64_t *out);
/* "1x3x224x224"; "scalar" for rank 0; '?' for unknown dimensions. Returns buffer. */
const char *reef_dims_text(int rank, const int64_t *dims, char *buffer, size_t size);
enum { REEF_DIMS_TEXT = 160 };

/* Input i, or NULL when omitted. */
static inline reef_value *reef_node_in(const reef_node *node, size_t i)
{
    return i < node->n_in ? node->in[i] : NULL;
}
static inline reef_value *reef_node_out(const reef_node *node, size_t i)
{
    return i < node->n_out ? node->out[i] : NULL;
}

/* Numpy broadcasting of n shapes (NULL entries are skipped). SHAPE when they do not fit. */
reef_status reef_broadcast(const reef_node *node, reef_value *const *values, size_t n, int *rank, int64_t *dims,
                           reef_error *error);

/* Attribute `name` (default `otherwise`) as an axis of a tensor of rank `rank`: in [0, rank). SHAPE otherwise.
 * rank 0 is treated as 1, as ONNX Runtime does. */
reef_status reef_axis_resolve(const reef_node *node, const char *name, int64_t otherwise, int rank, int *out,
                              reef_error *error);
/* Attribute "axes" or constant input `input` as a mask over rank axes; *given is false when neither is present. */
reef_status reef_axes_resolve(const reef_node *node, size_t input, int rank, bool mask[REEF_MAX_RANK], bool *given,
                              reef_error *error);
/* ReduceX: the reduced axes with the default (all, or none with noop_with_empty_axes) applied. */
reef_status reef_reduce_resolve(const reef_node *node, bool mask[REEF_MAX_RANK], bool *keepdims, reef_error *error);
/* Transpose: y axis i is x axis perm[i]. */
reef_status reef_perm_resolve(const reef_node *node, int perm[REEF_MAX_RANK], reef_error *error);

/* Geometry of Conv, ConvTranspose, MaxPool, AveragePool over n spatial dimensions, auto_pad and ceil_mode applied. */
typedef struct reef_window {
    int n;
    int64_t in[REEF_MAX_RANK], kernel[REEF_MAX_RANK], stride[REEF_MAX_RANK], dilation[REEF_MAX_RANK];
    int64_t pad[REEF_MAX_RANK],
        pad_end[REEF_MAX_RANK]; /* before and after; ceil_mode windows may reach beyond pad_end */
    int64_t out[REEF_MAX_RANK];
} reef_window;
reef_status reef_window_resolve(const reef_node *node, reef_window *out, reef_error *error);

/* Slice, per axis of the input: y[i] = x[start + i * step], i < count. start is in range when count > 0. */
typedef struct reef_slice {
    int64_t start[REEF_MAX_RANK], step[REEF_MAX_RANK], count[REEF_MAX_RANK];
} reef_slice;
reef_status reef_slice_resolve(const reef_node *node, reef_slice *out, reef_error *error);

/* Pad: rows added before and after per axis; negative crops. *value: what constant mode fills with. */
reef_status reef_pad_resolve(const reef_node *node, int64_t before[REEF_MAX_RANK], int64_t after[REEF_MAX_RANK],
                             double *value, reef_error *error);

/* Resize and Upsample: output dims and, per axis, the scale as the model states it (output / input when it gives sizes). */
reef_status reef_resize_resolve(const reef_node *node, int64_t dims[REEF_MAX_RANK], float scales[REEF_MAX_RANK],
                                reef_error *error);

/* Split: the axis, and if sizes is not NULL the size of each of the node->n_out parts. */
reef_status reef_split_resolve(const reef_node *node, int *axis, int64_t *sizes, reef_error *error);

/* Reshape: output dims with 0 and -1 settled. */
reef_status reef_reshape_resolve(const reef_node *node, int *rank, int64_t dims[REEF_MAX_RANK], reef_error *error);

/* Removes nodes that nothing needs, compacts graph->nodes, recounts uses. Linear. For use after any rewrite. */
void reef_graph_sweep(reef_graph *graph);

/* Truncates and saturates; NaN is 0. */
int64_t reef_double_to_int(double x);

#endif
