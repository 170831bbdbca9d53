/*
 * infer_ops.c - per operator: what dtype and shape its outputs have, and which inputs it accepts.
 *
 * Lowering and kernels trust what passes here: weights match channels, axes exist, broadcasting works out. One rule per
 * shape behaviour, one table of operators at the end. Forms of old opsets (attributes that became inputs) are settled
 * in shape.c; a form whose meaning changed in a way that matters to run time is refused.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/dtype.h"
#include "model/infer.h"
#include "model/onnx.h"

#define FAIL(infer, status, ...) reef_node_fail((infer)->node, (infer)->error, status, __VA_ARGS__)

static reef_value *in(const reef_infer *infer, size_t i)
{
    return reef_node_in(infer->node, i);
}

static reef_status set_out(reef_infer *infer, size_t i, reef_dtype dtype, int rank, const int64_t *dims)
{
    reef_value *value = reef_node_out(infer->node, i);
    int64_t elems;
    if (!value) {
        return REEF_OK;
    }
    if (rank > REEF_MAX_RANK || !reef_dims_elems(rank, dims, &elems)) {
        char text[REEF_DIMS_TEXT];
        return FAIL(infer, REEF_SHAPE, "its output '%.80s' of shape %s is too large", value->name,
                    reef_dims_text(rank <= REEF_MAX_RANK ? rank : REEF_MAX_RANK, dims, text, sizeof text));
    }
    value->dtype = dtype;
    value->rank = rank;
    for (int k = 0; k < rank; k++) {
        value->dims[k] = dims[k];
    }
    return REEF_OK;
}

static reef_status same_as(reef_infer *infer, size_t i, const reef_value *like)
{
    return set_out(infer, i, like->dtype, like->rank, like->dims);
}

static bool is_float(reef_dtype dtype)
{
    return dtype == REEF_F32 || dtype == REEF_F64 || dtype == REEF_F16;
}

static bool is_index(reef_dtype dtype)
{
    return dtype == REEF_I64 || dtype == REEF_I32;
}

/* All inputs that are given, from `first` on, have one dtype. */
static reef_status one_dtype(reef_infer *infer, size_t first)
{
    const reef_value *reference = NULL;
    for (size_t i = first; i < infer->node->n_in; i++) {
        const reef_value *value = infer->node->in[i];
        if (value && reference && value->dtype != reference->dtype) {
            return FAIL(infer, REEF_DTYPE, "inputs '%.80s' (%s) and '%.80s' (%s) have different element types",
                        reference->name, reef_dtype_name(reference->dtype), value->name, reef_dtype_name(value->dtype));
        }
        reference = reference ? reference : value;
    }
    return REEF_OK;
}

static reef_status want_float(reef_infer *infer, const reef_value *value)
{
    return is_float(value->dtype) ? REEF_OK
                                  : FAIL(infer, REEF_DTYPE, "input '%.80s' is %s, not a floating-point type",
                                         value->name, reef_dtype_name(value->dtype));
}

static reef_status want_index(reef_infer *infer, const reef_value *value)
{
    return is_index(value->dtype) ? REEF_OK
                                  : FAIL(infer, REEF_DTYPE, "input '%.80s' is %s, not int64 or int32", value->name,
                                         reef_dtype_name(value->dtype));
}

/* Input i, where given, is a vector of n entries. */
static reef_status want_vector(reef_infer *infer, size_t i, int64_t n)
{
    const reef_value *value = in(infer, i);
    if (value && (value->rank != 1 || value->dims[0] != n)) {
        char text[REEF_DIMS_TEXT];
        return FAIL(infer, REEF_SHAPE, "input '%.80s' has shape %s, %lld entries are needed", value->name,
                    reef_dims_text(value->rank, value->dims, text, sizeof text), (long long)n);
    }
    return REEF_OK;
}

static reef_status want_rank(reef_infer *infer, size_t i, int low, int high)
{
    const reef_value *value = in(infer, i);
    if (value && (value->rank < low || value->rank > high)) {
        return FAIL(infer, REEF_SHAPE, "input '%.80s' has %d dimensions, between %d and %d are needed", value->name,
                    value->rank, low, high);
    }
    return REEF_OK;
}

static reef_status need_const(reef_infer *infer, size_t i, const char *what, const reef_value **out)
{
    const reef_value *value = in(infer, i);
    if (!value->data) {
        return FAIL(infer, REEF_UNSUPPORTED,
                    "its %s ('%.80s') is computed from run-time data, so the output's shape cannot be fixed when the "
                    "model is loaded",
                    what, value->name);
    }
    *out = value;
    return REEF_OK;
}

#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        reef_status try_status = (expression);                                                                         \
        if (try_status != REEF_OK) {                                                                                   \
            return try_status;                                                                                         \
        }                                                                                                              \
    } while (0)

/* ------------------------------------------------------------ element-wise -- */

static reef_status unary(reef_infer *infer)
{
    return same_as(infer, 0, in(infer, 0));
}

static reef_status unary_float(reef_infer *infer)
{
    TRY(want_float(infer, in(infer, 0)));
    return unary(infer);
}

static reef_status is_nan(reef_infer *infer)
{
    TRY(want_float(infer, in(infer, 0)));
    return set_out(infer, 0, REEF_BOOL, in(infer, 0)->rank, in(infer, 0)->dims);
}

static reef_status clip(reef_infer *infer)
{
    TRY(one_dtype(infer, 0));
    for (size_t i = 1; i < 3; i++) {
        if (in(infer, i) && reef_value_elems(in(infer, i)) != 1) {
            return FAIL(infer, REEF_SHAPE, "its bound '%.80s' must be a scalar", in(infer, i)->name);
        }
    }
    return unary(infer);
}

static reef_status broadcast_to(reef_infer *infer, reef_dtype dtype)
{
    int rank = 0;
    int64_t dims[REEF_MAX_RANK];
    const reef_node *node = infer->node;
    TRY(reef_broadcast(node, node->in, node->n_in, &rank, dims, infer->error));
    if (node->opset < 7 && reef_node_attr(node, "axis") && node->n_in == 2 && node->in[1]->rank > 0 &&
        reef_node_attr_int(node, "axis", 0) + node->in[1]->rank != node->in[0]->rank) {
        return FAIL(infer, REEF_UNSUPPORTED, "broadcasting along an axis as in opset %d", node->opset);
    }
    return set_out(infer, 0, dtype, rank, dims);
}

static reef_status arithmetic(reef_infer *infer)
{
    TRY(one_dtype(infer, 0));
    if (in(infer, 0)->dtype == REEF_BOOL) {
        return FAIL(infer, REEF_DTYPE, "input '%.80s' is bool", in(infer, 0)->name);
    }
    return broadcast_to(infer, in(infer, 0)->dtype);
}

static reef_status power(reef_infer *infer) /* base and exponent may differ in type; the base decides */
{
    return broadcast_to(infer, in(infer, 0)->dtype);
}

static reef_status compare(reef_infer *infer)
{
    TRY(one_dtype(infer, 0));
    return broadcast_to(infer, REEF_BOOL);
}

static reef_status logic(reef_infer *infer)
{
    for (size_t i = 0; i < infer->node->n_in; i++) {
        if (in(infer, i)->dtype != REEF_BOOL) {
            return FAIL(infer, REEF_DTYPE, "input '%.80s' is %s, not bool", in(infer, i)->name,
                        reef_dtype_name(in(infer, i)->dtype));
        }
    }
    return broadcast_to(infer, REEF_BOOL);
}

static reef_status where(reef_infer *infer)
{
    if (in(infer, 0)->dtype != REEF_BOOL) {
        return FAIL(infer, REEF_DTYPE, "its condition '%.80s' is %s, not bool", in(infer, 0)->name,
                    reef_dtype_name(in(infer, 0)->dtype));
    }
    TRY(one_dtype(infer, 1));
    return broadcast_to(infer, in(infer, 1)->dtype);
}

static reef_status prelu(reef_infer *infer) /* the slope is broadcast to x, not the other way round */
{
    int rank = 0;
    int64_t dims[REEF_MAX_RANK];
    const reef_value *x = in(infer, 0), *slope = in(infer, 1);
    TRY(one_dtype(infer, 0));
    TRY(want_float(infer, x));
    if (infer->node->opset < 7 && slope->rank == 1 && slope->dims[0] != 1 && x->rank != 1) {
        return FAIL(infer, REEF_UNSUPPORTED, "a slope per channel as in opset %d", infer->node->opset);
    }
    TRY(reef_broadcast(infer->node, infer->node->in, 2, &rank, dims, infer->error));
    if (rank != x->rank || (rank && memcmp(dims, x->dims, (size_t)rank * sizeof *dims) != 0)) {
        return FAIL(infer, REEF_SHAPE, "slope '%.80s' is larger than the input", slope->name);
    }
    return same_as(infer, 0, x);
}

static reef_status check_target(reef_infer *infer, int64_t to)
{
    return to > 0 && to < 64 && reef_dtype_bytes((reef_dtype)to)
               ? REEF_OK
               : FAIL(infer, REEF_UNSUPPORTED, "casting to ONNX element type %lld", (long long)to);
}

static reef_status cast(reef_infer *infer)
{
    static const char *const old_names[] = {"FLOAT", "UINT8", "INT8", "INT32", "INT64", "BOOL", "FLOAT16", "DOUBLE"};
    static const reef_dtype old_types[] = {REEF_F32, REEF_U8,   REEF_I8,  REEF_I32,
                                           REEF_I64, REEF_BOOL, REEF_F16, REEF_F64};
    int64_t to = reef_node_attr_int(infer->node, "to", 0);
    const char *name = reef_node_attr_string(infer->node, "to", ""); /* before opset 6 a name */
    for (size_t i = 0; i < sizeof old_names / sizeof old_names[0]; i++) {
        to = strcmp(name, old_names[i]) == 0 ? (int64_t)old_types[i] : to;
    }
    TRY(check_target(infer, to));
    return set_out(infer, 0, (reef_dtype)to, in(infer, 0)->rank, in(infer, 0)->dims);
}

static reef_status cast_like(reef_infer *infer)
{
    return set_out(infer, 0, in(infer, 1)->dtype, in(infer, 0)->rank, in(infer, 0)->dims);
}

static reef_status dropout(reef_infer *infer)
{
    const reef_value *x = in(infer, 0), *training = in(infer, 2);
    if (training && (!training->data || reef_value_elems(training) < 1 || reef_value_integer(training, 0))) {
        return FAIL(infer, REEF_UNSUPPORTED, "training mode");
    }
    TRY(set_out(infer, 1, infer->node->opset < 10 ? x->dtype : REEF_BOOL, x->rank, x->dims));
    if (reef_node_out(infer->node, 1) && infer->node->opset < 10 && !is_float(x->dtype)) {
        return FAIL(infer, REEF_DTYPE, "input '%.80s' is not of a floating-point type", x->name);
    }
    return same_as(infer, 0, x);
}

/* ---------------------------------------------------- convolution and pools -- */

static reef_status conv(reef_infer *infer)
{
    const reef_node *node = infer->node;
    const reef_value *x = in(infer, 0), *w = in(infer, 1);
    bool transposed = reef_node_is(node, "ConvTranspose");
    reef_window window;
    TRY(want_float(infer, x));
    TRY(one_dtype(infer, 0));
    TRY(want_rank(infer, 1, x->rank, x->rank));
    TRY(reef_window_resolve(node, &window, infer->error));
    int64_t groups = reef_node_attr_int(node, "group", 1);
    int64_t channels = x->dims[1], filters;
    if (groups < 1 || channels % groups || w->dims[0] % groups ||
        (transposed ? w->dims[0] != channels : w->dims[1] != channels / groups) || channels < 1 || w->dims[0] < 1 ||
        w->dims[1] < 1) {
        char text[REEF_DIMS_TEXT];
        return FAIL(infer, REEF_SHAPE, "weights '%.80s' of shape %s do not fit %lld channels in %lld groups", w->name,
                    reef_dims_text(w->rank, w->dims, text, sizeof text), (long long)channels, (long long)groups);
    }
    filters = w->dims[0];
    if (transposed && __builtin_mul_overflow(w->dims[1], groups, &filters)) {
        return FAIL(infer, REEF_SHAPE, "too many filters");
    }
    int64_t dims[REEF_MAX_RANK] = {x->dims[0], filters};
    for (int i = 0; i < window.n; i++) {
        if (w->dims[2 + i] != window.kernel[i]) {
            return FAIL(infer, REEF_SHAPE, "kernel_shape says %lld where the weights '%.80s' have %lld",
                        (long long)window.kernel[i], w->name, (long long)w->dims[2 + i]);
        }
        dims[2 + i] = window.out[i];
    }
    TRY(want_vector(infer, 2, filters));
    return set_out(infer, 0, x->dtype, x->rank, dims);
}

static reef_status pool(reef_infer *infer)
{
    const reef_value *x = in(infer, 0);
    reef_window window;
    TRY(reef_node_is(infer->node, "AveragePool") ? want_float(infer, x) : REEF_OK);
    TRY(reef_window_resolve(infer->node, &window, infer->error));
    int64_t dims[REEF_MAX_RANK] = {x->dims[0], x->dims[1]};
    for (int i = 0; i < window.n; i++) {
        dims[2 + i] = window.out[i];
    }
    TRY(set_out(infer, 1, REEF_I64, x->rank, dims)); /* MaxPool's indices */
    return set_out(infer, 0, x->dtype, x->rank, dims);
}

static reef_status global_pool(reef_infer *infer)
{
    const reef_value *x = in(infer, 0);
    TRY(want_float(infer, x));
    TRY(want_rank(infer, 0, 3, REEF_MAX_RANK));
    int64_t dims[REEF_MAX_RANK] = {x->dims[0], x->dims[1]};
    for (int i = 2; i < x->rank; i++) {
        if (x->dims[i] == 0) {
            return FAIL(infer, REEF_SHAPE, "its input is empty");
        }
        dims[i] = 1;
    }
    return set_out(infer, 0, x->dtype, x->rank, dims);
}

static reef_status lrn(reef_infer *infer)
{
    int64_t size = reef_node_attr_int(infer->node, "size", 0);
    TRY(want_rank(infer, 0, 3, REEF_MAX_RANK));
    if (size < 1 || size > 1 << 20) {
        return FAIL(infer, REEF_FORMAT, "attribute 'size' is %lld", (long long)size);
    }
    return unary_float(infer);
}

/* ----------------------------------------------------------- normalisation -- */

static reef_status batch_norm(reef_infer *infer)
{
    const reef_node *node = infer->node;
    const reef_value *x = in(infer, 0);
    TRY(want_float(infer, x));
    TRY(want_rank(infer, 0, 2, REEF_MAX_RANK));
    for (size_t i = 1; i < 5; i++) {
        TRY(want_vector(infer, i, x->dims[1]));
    }
    bool statistics = false;
    for (size_t i = 1; i < node->n_out; i++) {
        statistics |= node->out[i] && node->out[i]->uses > 0;
    }
    if (reef_node_attr_int(node, "training_mode", 0) || statistics) {
        return FAIL(infer, REEF_UNSUPPORTED, "training mode; export the model for inference");
    }
    if (node->opset < 9 && !reef_node_attr_int(node, "spatial", 1)) {
        return FAIL(infer, REEF_UNSUPPORTED, "statistics per position (spatial=0)");
    }
    for (size_t i = 1; i < node->n_out; i++) {
        TRY(set_out(infer, i, x->dtype, 1, &x->dims[1]));
    }
    return same_as(infer, 0, x);
}

static reef_status layer_norm(reef_infer *infer)
{
    const reef_value *x = in(infer, 0);
    int axis;
    TRY(want_float(infer, x));
    TRY(want_rank(infer, 0, 1, REEF_MAX_RANK));
    TRY(reef_axis_resolve(infer->node, "axis", -1, x->rank, &axis, infer->error));
    for (size_t i = 1; i < 3; i++) {
        const reef_value *value = in(infer, i);
        for (int k = 0; value && k < value->rank; k++) {
            int at = x->rank - value->rank + k;
            if (at < 0 || (value->dims[k] != 1 && (at < axis || value->dims[k] != x->dims[at]))) {
                char text[REEF_DIMS_TEXT];
                return FAIL(infer, REEF_SHAPE, "input '%.80s' of shape %s does not fit the normalised axes",
                            value->name, reef_dims_text(value->rank, value->dims, text, sizeof text));
            }
        }
    }
    int64_t dims[REEF_MAX_RANK];
    for (int i = 0; i < x->rank; i++) {
        dims[i] = i < axis ? x->dims[i] : 1;
    }
    TRY(set_out(infer, 1, REEF_F32, x->rank, dims));
    TRY(set_out(infer, 2, REEF_F32, x->rank, dims));
    return same_as(infer, 0, x);
}

static reef_status instance_norm(reef_infer *infer)
{
    TRY(want_rank(infer, 0, 3, REEF_MAX_RANK));
    TRY(want_vector(infer, 1, in(infer, 0)->dims[1]));
    TRY(want_vector(infer, 2, in(infer, 0)->dims[1]));
    return unary_float(infer);
}

static reef_status group_norm(reef_infer *infer)
{
    const reef_value *x = in(infer, 0);
    TRY(want_rank(infer, 0, 3, REEF_MAX_RANK));
    int64_t groups = reef_node_attr_int(infer->node, "num_groups", 0);
    if (groups < 1 || x->dims[1] % groups) {
        return FAIL(infer, REEF_SHAPE, "%lld channels do not form %lld groups", (long long)x->dims[1],
                    (long long)groups);
    }
    int64_t entries = infer->node->opset < 21 ? groups : x->dims[1];
    TRY(want_vector(infer, 1, entries));
    TRY(want_vector(infer, 2, entries));
    return unary_float(infer);
}

static reef_status softmax(reef_infer *infer)
{
    int axis;
    TRY(reef_axis_resolve(infer->node, "axis", infer->node->opset < 13 ? 1 : -1, in(infer, 0)->rank, &axis,
                          infer->error));
    return unary_float(infer);
}

/* --------------------------------------------------------- matrix products -- */

static reef_status gemm(reef_infer *infer)
{
    const reef_node *node = infer->node;
    const reef_value *a = in(infer, 0), *b = in(infer, 1), *c = in(infer, 2);
    TRY(one_dtype(infer, 0));
    TRY(want_float(infer, a));
    TRY(want_rank(infer, 0, 2, 2));
    TRY(want_rank(infer, 1, 2, 2));
    bool ta = reef_node_attr_int(node, "transA", 0) != 0, tb = reef_node_attr_int(node, "transB", 0) != 0;
    int64_t dims[2] = {a->dims[ta], b->dims[!tb]};
    if (a->dims[!ta] != b->dims[tb]) {
        return FAIL(infer, REEF_SHAPE, "inner dimensions %lld ('%.60s') and %lld ('%.60s') differ",
                    (long long)a->dims[!ta], a->name, (long long)b->dims[tb], b->name);
    }
    for (int i = 0; c && i < c->rank; i++) {
        int at = 2 - c->rank + i;
        if (at < 0 || (c->dims[i] != 1 && c->dims[i] != dims[at])) {
            char text[REEF_DIMS_TEXT];
            return FAIL(infer, REEF_SHAPE, "bias '%.80s' of shape %s does not fit %lldx%lld", c->name,
                        reef_dims_text(c->rank, c->dims, text, sizeof text), (long long)dims[0], (long long)dims[1]);
        }
    }
    return set_out(infer, 0, a->dtype, 2, dims);
}

static reef_status matmul(reef_infer *infer)
{
    const reef_value *a = in(infer, 0), *b = in(infer, 1);
    TRY(one_dtype(infer, 0));
    TRY(want_rank(infer, 0, 1, REEF_MAX_RANK));
    TRY(want_rank(infer, 1, 1, REEF_MAX_RANK));
    int64_t k_a = a->dims[a->rank - 1], k_b = b->dims[b->rank > 1 ? b->rank - 2 : 0];
    if (k_a != k_b) {
        return FAIL(infer, REEF_SHAPE, "inner dimensions %lld ('%.60s') and %lld ('%.60s') differ", (long long)k_a,
                    a->name, (long long)k_b, b->name);
    }
    reef_value batch_a = *a, batch_b = *b; /* all but the last two dimensions, for broadcasting */
    batch_a.rank = a->rank > 2 ? a->rank - 2 : 0;
    batch_b.rank = b->rank > 2 ? b->rank - 2 : 0;
    reef_value *batches[2] = {&batch_a, &batch_b};
    int rank = 0;
    int64_t dims[REEF_MAX_RANK + 2];
    TRY(reef_broadcast(infer->node, batches, 2, &rank, dims, infer->error));
    if (a->rank > 1) {
        dims[rank++] = a->dims[a->rank - 2];
    }
    if (b->rank > 1) {
        dims[rank++] = b->dims[b->rank - 1];
    }
    return set_out(infer, 0, a->dtype, rank, dims);
}

/* ------------------------------------------------------------------ shapes -- */

static reef_status shape_of(reef_infer *infer)
{
    int64_t rank = in(infer, 0)->rank;
    int64_t start = reef_node_attr_int(infer->node, "start", 0), end = reef_node_attr_int(infer->node, "end", rank);
    start = start < 0 ? start + rank : start;
    end = end < 0 ? end + rank : end;
    start = start < 0 ? 0 : start > rank ? rank : start;
    end = end < start ? start : end > rank ? rank : end;
    return set_out(infer, 0, REEF_I64, 1, &(int64_t){end - start});
}

static reef_status size_of(reef_infer *infer)
{
    return set_out(infer, 0, REEF_I64, 0, NULL);
}

static reef_status reshape(reef_infer *infer)
{
    int rank = 0;
    int64_t dims[REEF_MAX_RANK];
    TRY(reef_reshape_resolve(infer->node, &rank, dims, infer->error));
    return set_out(infer, 0, in(infer, 0)->dtype, rank, dims);
}

static reef_status flatten(reef_infer *infer)
{
    const reef_value *x = in(infer, 0);
    int64_t dims[2] = {1, 1}, axis = reef_node_attr_int(infer->node, "axis", 1);
    if (axis < -x->rank || axis > x->rank) {
        return FAIL(infer, REEF_SHAPE, "axis %lld does not exist in a tensor of %d dimensions", (long long)axis,
                    x->rank);
    }
    axis += axis < 0 ? x->rank : 0;
    for (int i = 0; i < x->rank; i++) {
        int side = i >= axis;
        if (__builtin_mul_overflow(dims[side], x->dims[i], &dims[side])) {
            return FAIL(infer, REEF_SHAPE, "its input is too large");
        }
    }
    return set_out(infer, 0, x->dtype, 2, dims);
}

static reef_status squeeze(reef_infer *infer)
{
    const reef_value *x = in(infer, 0);
    bool mask[REEF_MAX_RANK] = {false}, given = false;
    TRY(reef_axes_resolve(infer->node, 1, x->rank, mask, &given, infer->error));
    int rank = 0;
    int64_t dims[REEF_MAX_RANK];
    for (int i = 0; i < x->rank; i++) {
        bool drop = given ? mask[i] : x->dims[i] == 1;
        if (drop && x->dims[i] != 1) {
            return FAIL(infer, REEF_SHAPE, "axis %d of '%.80s' is %lld, not 1", i, x->name, (long long)x->dims[i]);
        }
        if (!drop) {
            dims[rank++] = x->dims[i];
        }
    }
    return set_out(infer, 0, x->dtype, rank, dims);
}

static reef_status unsqueeze(reef_infer *infer)
{
    const reef_value *x = in(infer, 0), *listed = in(infer, 1);
    const reef_attr *attr = reef_node_attr(infer->node, "axes");
    int64_t count = attr     ? (attr->type == REEF_ATTR_INTS ? (int64_t)attr->count : 1)
                    : listed ? reef_value_elems(listed)
                             : -1;
    if (count < 0 || count > REEF_MAX_RANK - x->rank) {
        return FAIL(infer, count < 0 ? REEF_FORMAT : REEF_UNSUPPORTED,
                    count < 0 ? "axes are missing" : "more than %d dimensions", REEF_MAX_RANK);
    }
    bool mask[REEF_MAX_RANK] = {false}, given;
    int rank = x->rank + (int)count, next = 0;
    TRY(reef_axes_resolve(infer->node, 1, rank, mask, &given, infer->error));
    int64_t dims[REEF_MAX_RANK];
    for (int i = 0; i < rank; i++) {
        dims[i] = mask[i] ? 1 : x->dims[next++];
    }
    return set_out(infer, 0, x->dtype, rank, dims);
}

static reef_status transpose(reef_infer *infer)
{
    const reef_value *x = in(infer, 0);
    int perm[REEF_MAX_RANK] = {0};
    int64_t dims[REEF_MAX_RANK];
    TRY(reef_perm_resolve(infer->node, perm, infer->error));
    for (int i = 0; i < x->rank; i++) {
        dims[i] = x->dims[perm[i]];
    }
    return set_out(infer, 0, x->dtype, x->rank, dims);
}

static reef_status concat(reef_infer *infer)
{
    const reef_node *node = infer->node;
    const reef_value *first = in(infer, 0);
    int axis = 0;
    TRY(one_dtype(infer, 0));
    TRY(want_rank(infer, 0, 1, REEF_MAX_RANK));
    if (node->opset >= 4 && !reef_node_attr(node, "axis")) {
        return FAIL(infer, REEF_FORMAT, "attribute 'axis' is missing");
    }
    TRY(reef_axis_resolve(node, "axis", 1, first->rank, &axis, infer->error));
    int64_t dims[REEF_MAX_RANK];
    memcpy(dims, first->dims, sizeof dims);
    for (size_t i = 1; i < node->n_in; i++) {
        const reef_value *value = node->in[i];
        bool fits = value->rank == first->rank;
        for (int k = 0; fits && k < first->rank; k++) {
            fits = k == axis || value->dims[k] == first->dims[k];
        }
        if (!fits) {
            char a[REEF_DIMS_TEXT], b[REEF_DIMS_TEXT];
            return FAIL(infer, REEF_SHAPE, "'%.60s' (%s) and '%.60s' (%s) cannot be joined along axis %d", first->name,
                        reef_dims_text(first->rank, first->dims, a, sizeof a), value->name,
                        reef_dims_text(value->rank, value->dims, b, sizeof b), axis);
        }
        if (__builtin_add_overflow(dims[axis], value->dims[axis], &dims[axis])) {
            return FAIL(infer, REEF_SHAPE, "its output is too large");
        }
    }
    return set_out(infer, 0, first->dtype, first->rank, dims);
}

static reef_status slice(reef_infer *infer)
{
    reef_slice resolved;
    TRY(reef_slice_resolve(infer->node, &resolved, infer->error));
    return set_out(infer, 0, in(infer, 0)->dtype, in(infer, 0)->rank, resolved.count);
}

static reef_status split(reef_infer *infer)
{
    const reef_node *node = infer->node;
    const reef_value *x = node->in[0];
    int64_t *sizes = malloc(node->n_out * sizeof *sizes), dims[REEF_MAX_RANK];
    int axis = 0;
    if (!sizes) {
        return FAIL(infer, REEF_NO_MEMORY, "out of memory");
    }
    reef_status status = reef_split_resolve(node, &axis, sizes, infer->error);
    memcpy(dims, x->dims, sizeof dims);
    for (size_t i = 0; i < node->n_out && status == REEF_OK; i++) {
        dims[axis] = sizes[i];
        status = set_out(infer, i, x->dtype, x->rank, dims);
    }
    free(sizes);
    return status;
}

/* A constant list of sizes as a shape, for ConstantOfShape and Expand. */
static reef_status shape_input(reef_infer *infer, size_t i, int *rank, int64_t *dims)
{
    const reef_value *shape = NULL;
    TRY(need_const(infer, i, "shape", &shape));
    TRY(want_index(infer, shape));
    int64_t count = reef_value_elems(shape);
    if (shape->rank > 1 || count > REEF_MAX_RANK) {
        return FAIL(infer, REEF_UNSUPPORTED, "a shape of %lld dimensions; at most %d are supported", (long long)count,
                    REEF_MAX_RANK);
    }
    for (int k = 0; k < count; k++) {
        dims[k] = reef_value_integer(shape, k);
        if (dims[k] < 0) {
            return FAIL(infer, REEF_SHAPE, "its shape '%.80s' has a negative entry", shape->name);
        }
    }
    *rank = (int)count;
    return REEF_OK;
}

static reef_status expand(reef_infer *infer)
{
    reef_value target = {.name = "shape"};
    int rank = 0;
    int64_t dims[REEF_MAX_RANK];
    TRY(shape_input(infer, 1, &target.rank, target.dims));
    TRY(reef_broadcast(infer->node, (reef_value *[]){in(infer, 0), &target}, 2, &rank, dims, infer->error));
    return set_out(infer, 0, in(infer, 0)->dtype, rank, dims);
}

static reef_status constant_of_shape(reef_infer *infer)
{
    int rank = 0;
    int64_t dims[REEF_MAX_RANK];
    const reef_attr *attr = reef_node_attr(infer->node, "value");
    if (attr && (attr->type != REEF_ATTR_TENSOR || reef_value_elems(attr->t) != 1)) {
        return FAIL(infer, REEF_FORMAT, "attribute 'value' must be a tensor of one element");
    }
    TRY(shape_input(infer, 0, &rank, dims));
    return set_out(infer, 0, attr ? attr->t->dtype : REEF_F32, rank, dims);
}

static reef_status tile(reef_infer *infer)
{
    const reef_value *x = in(infer, 0), *repeats = NULL;
    TRY(need_const(infer, 1, "repeats", &repeats));
    TRY(want_index(infer, repeats));
    if (infer->node->opset < 6 || repeats->rank != 1 || repeats->dims[0] != x->rank) {
        return FAIL(infer, REEF_SHAPE, "repeats must be a list of %d entries", x->rank);
    }
    int64_t dims[REEF_MAX_RANK];
    for (int i = 0; i < x->rank; i++) {
        int64_t by = reef_value_integer(repeats, i);
        if (by < 0 || __builtin_mul_overflow(x->dims[i], by, &dims[i])) {
            return FAIL(infer, REEF_SHAPE, "%lld repeats of axis %d", (long long)by, i);
        }
    }
    return set_out(infer, 0, x->dtype, x->rank, dims);
}

static reef_status range(reef_infer *infer)
{
    const reef_value *start = NULL, *limit = NULL, *delta = NULL;
    TRY(need_const(infer, 0, "start", &start));
    TRY(need_const(infer, 1, "limit", &limit));
    TRY(need_const(infer, 2, "delta", &delta));
    TRY(one_dtype(infer, 0));
    if (reef_value_elems(start) != 1 || reef_value_elems(limit) != 1 || reef_value_elems(delta) != 1 ||
        reef_value_number(delta, 0) == 0) {
        return FAIL(infer, REEF_SHAPE, "start, limit and delta must be scalars, and delta not 0");
    }
    double count;
    if (is_float(start->dtype)) {
        count = ceil((reef_value_number(limit, 0) - reef_value_number(start, 0)) / reef_value_number(delta, 0));
    } else { /* exact for all int64: differences fit in 128 bits */
        __int128 span = (__int128)reef_value_integer(limit, 0) - reef_value_integer(start, 0);
        __int128 step = reef_value_integer(delta, 0);
        __int128 whole = span / step + (span % step != 0 && (span < 0) == (step < 0));
        count = (double)whole;
    }
    if (!(count <= (double)REEF_MAX_ELEMS)) {
        return FAIL(infer, REEF_SHAPE, "a range of %g numbers", count);
    }
    return set_out(infer, 0, start->dtype, 1, &(int64_t){count > 0 ? (int64_t)count : 0});
}

static reef_status pad(reef_infer *infer)
{
    const reef_value *x = in(infer, 0);
    int64_t before[REEF_MAX_RANK], after[REEF_MAX_RANK], dims[REEF_MAX_RANK];
    double value;
    TRY(reef_pad_resolve(infer->node, before, after, &value, infer->error));
    const char *mode = reef_node_attr_string(infer->node, "mode", "constant");
    bool reflect = strcmp(mode, "reflect") == 0, edge = strcmp(mode, "edge") == 0;
    if (!reflect && !edge && strcmp(mode, "constant") != 0) {
        return FAIL(infer, REEF_UNSUPPORTED, "mode '%.40s'", mode);
    }
    for (int i = 0; i < x->rank; i++) {
        dims[i] = x->dims[i] + before[i] + after[i];
        int64_t widest = before[i] > after[i] ? before[i] : after[i];
        if ((reflect && widest >= x->dims[i] && widest > 0) || (edge && x->dims[i] == 0 && widest > 0)) {
            return FAIL(infer, REEF_SHAPE, "mode '%s' cannot pad axis %d of %lld by %lld", mode, i,
                        (long long)x->dims[i], (long long)widest);
        }
    }
    return set_out(infer, 0, x->dtype, x->rank, dims);
}

static reef_status resize(reef_infer *infer)
{
    int64_t dims[REEF_MAX_RANK];
    float scales[REEF_MAX_RANK];
    TRY(reef_resize_resolve(infer->node, dims, scales, infer->error));
    return set_out(infer, 0, in(infer, 0)->dtype, in(infer, 0)->rank, dims);
}

static reef_status depth_space(reef_infer *infer)
{
    const reef_value *x = in(infer, 0);
    int64_t block = reef_node_attr_int(infer->node, "blocksize", 0);
    bool to_space = reef_node_is(infer->node, "DepthToSpace");
    TRY(want_rank(infer, 0, 4, 4));
    if (block < 1 || block > 1 << 20 ||
        (to_space ? x->dims[1] % (block * block) != 0 : x->dims[2] % block != 0 || x->dims[3] % block != 0)) {
        return FAIL(infer, REEF_SHAPE, "blocks of %lld do not fit its input", (long long)block);
    }
    int64_t area = block * block, h = x->dims[2], w = x->dims[3];
    int64_t deep = 0, high = 0, wide = 0;
    if (to_space) {
        deep = x->dims[1] / area;
        high = h * block;
        wide = w * block;
    } else if (__builtin_mul_overflow(x->dims[1], area, &deep)) {
        return FAIL(infer, REEF_SHAPE, "its output is too large");
    } else {
        high = h / block;
        wide = w / block;
    }
    return set_out(infer, 0, x->dtype, 4, (int64_t[]){x->dims[0], deep, high, wide});
}

/* ---------------------------------------------------- reductions, indexing -- */

static reef_status reduced(reef_infer *infer, reef_dtype dtype, const bool *mask, bool keepdims)
{
    const reef_value *x = in(infer, 0);
    int rank = 0;
    int64_t dims[REEF_MAX_RANK];
    for (int i = 0; i < x->rank; i++) {
        if (!mask[i] || keepdims) {
            dims[rank++] = mask[i] ? 1 : x->dims[i];
        }
    }
    return set_out(infer, 0, dtype, rank, dims);
}

static reef_status reduce(reef_infer *infer)
{
    bool mask[REEF_MAX_RANK], keepdims;
    TRY(reef_reduce_resolve(infer->node, mask, &keepdims, infer->error));
    return reduced(infer, in(infer, 0)->dtype, mask, keepdims);
}

static reef_status arg_reduce(reef_infer *infer)
{
    bool mask[REEF_MAX_RANK] = {false};
    int axis;
    TRY(want_rank(infer, 0, 1, REEF_MAX_RANK));
    TRY(reef_axis_resolve(infer->node, "axis", 0, in(infer, 0)->rank, &axis, infer->error));
    if (in(infer, 0)->dims[axis] == 0) {
        return FAIL(infer, REEF_SHAPE, "its input is empty on axis %d", axis);
    }
    mask[axis] = true;
    return reduced(infer, REEF_I64, mask, reef_node_attr_int(infer->node, "keepdims", 1) != 0);
}

static reef_status gather(reef_infer *infer)
{
    const reef_value *x = in(infer, 0), *indices = in(infer, 1);
    int axis;
    TRY(want_index(infer, indices));
    TRY(want_rank(infer, 0, 1, REEF_MAX_RANK));
    TRY(reef_axis_resolve(infer->node, "axis", 0, x->rank, &axis, infer->error));
    if (x->rank - 1 + indices->rank > REEF_MAX_RANK) {
        return FAIL(infer, REEF_UNSUPPORTED, "more than %d dimensions", REEF_MAX_RANK);
    }
    if (x->dims[axis] == 0 && reef_value_elems(indices) > 0) {
        return FAIL(infer, REEF_SHAPE, "nothing can be taken from an empty axis");
    }
    int rank = 0;
    int64_t dims[REEF_MAX_RANK];
    for (int i = 0; i < x->rank; i++) {
        if (i != axis) {
            dims[rank++] = x->dims[i];
            continue;
        }
        for (int k = 0; k < indices->rank; k++) {
            dims[rank++] = indices->dims[k];
        }
    }
    return set_out(infer, 0, x->dtype, rank, dims);
}

static reef_status gather_elements(reef_infer *infer)
{
    const reef_value *x = in(infer, 0), *indices = in(infer, 1);
    int axis;
    TRY(want_index(infer, indices));
    TRY(want_rank(infer, 0, 1, REEF_MAX_RANK));
    TRY(want_rank(infer, 1, x->rank, x->rank));
    TRY(reef_axis_resolve(infer->node, "axis", 0, x->rank, &axis, infer->error));
    for (int i = 0; i < x->rank; i++) {
        if (i != axis ? indices->dims[i] > x->dims[i] : x->dims[i] == 0 && reef_value_elems(indices) > 0) {
            return FAIL(infer, REEF_SHAPE, "indices '%.80s' exceed the data on axis %d", indices->name, i);
        }
    }
    return set_out(infer, 0, x->dtype, x->rank, indices->dims);
}

static reef_status gather_nd(reef_infer *infer)
{
    const reef_value *x = in(infer, 0), *indices = in(infer, 1);
    int64_t batch = reef_node_attr_int(infer->node, "batch_dims", 0);
    TRY(want_index(infer, indices));
    TRY(want_rank(infer, 0, 1, REEF_MAX_RANK));
    TRY(want_rank(infer, 1, 1, REEF_MAX_RANK));
    int64_t depth = indices->dims[indices->rank - 1];
    if (batch < 0 || batch >= x->rank || batch >= indices->rank || depth < 1 || depth > x->rank - batch) {
        return FAIL(infer, REEF_SHAPE, "%lld indices per element with %lld batch dimensions do not fit %d dimensions",
                    (long long)depth, (long long)batch, x->rank);
    }
    for (int64_t i = 0; i < batch; i++) {
        if (x->dims[i] != indices->dims[i]) {
            return FAIL(infer, REEF_SHAPE, "batch dimension %lld differs: %lld and %lld", (long long)i,
                        (long long)x->dims[i], (long long)indices->dims[i]);
        }
    }
    int rank = 0;
    int64_t dims[2 * REEF_MAX_RANK];
    for (int i = 0; i < indices->rank - 1; i++) {
        dims[rank++] = indices->dims[i];
    }
    for (int64_t i = batch + depth; i < x->rank; i++) {
        dims[rank++] = x->dims[i];
    }
    return set_out(infer, 0, x->dtype, rank, dims);
}

static reef_status scatter(reef_infer *infer) /* ScatterND, ScatterElements: the shape of the data */
{
    const reef_value *x = in(infer, 0), *indices = in(infer, 1), *updates = in(infer, 2);
    TRY(want_index(infer, indices));
    TRY(want_rank(infer, 0, 1, REEF_MAX_RANK));
    TRY(want_rank(infer, 1, 1, REEF_MAX_RANK));
    if (updates->dtype != x->dtype) {
        return FAIL(infer, REEF_DTYPE, "data and updates have different element types");
    }
    bool fits = true;
    if (reef_node_is(infer->node, "ScatterND")) {
        int64_t depth = indices->dims[indices->rank - 1];
        fits = depth >= 1 && depth <= x->rank && updates->rank == indices->rank - 1 + x->rank - (int)depth;
        for (int i = 0; fits && i < updates->rank; i++) {
            int64_t want = i < indices->rank - 1 ? indices->dims[i] : x->dims[depth + i - (indices->rank - 1)];
            fits = updates->dims[i] == want;
        }
    } else {
        int axis;
        TRY(reef_axis_resolve(infer->node, "axis", 0, x->rank, &axis, infer->error));
        fits = indices->rank == x->rank && updates->rank == x->rank;
        for (int i = 0; fits && i < x->rank; i++) {
            fits = updates->dims[i] == indices->dims[i] && (i == axis || indices->dims[i] <= x->dims[i]);
        }
    }
    return fits ? same_as(infer, 0, x) : FAIL(infer, REEF_SHAPE, "data, indices and updates do not fit together");
}

static reef_status top_k(reef_infer *infer)
{
    const reef_value *x = in(infer, 0), *count = NULL;
    int axis;
    int64_t k = reef_node_attr_int(infer->node, "k", -1), dims[REEF_MAX_RANK];
    TRY(want_rank(infer, 0, 1, REEF_MAX_RANK));
    TRY(reef_axis_resolve(infer->node, "axis", -1, x->rank, &axis, infer->error));
    if (infer->node->opset >= 10) {
        if (!in(infer, 1)) {
            return FAIL(infer, REEF_FORMAT, "input 'K' is missing");
        }
        TRY(need_const(infer, 1, "K", &count));
        k = reef_value_elems(count) == 1 ? reef_value_integer(count, 0) : -1;
    }
    if (k < 0 || k > x->dims[axis]) {
        return FAIL(infer, REEF_SHAPE, "the %lld largest of %lld", (long long)k, (long long)x->dims[axis]);
    }
    memcpy(dims, x->dims, sizeof dims);
    dims[axis] = k;
    TRY(set_out(infer, 1, REEF_I64, x->rank, dims));
    return set_out(infer, 0, x->dtype, x->rank, dims);
}

static reef_status one_hot(reef_infer *infer)
{
    const reef_value *indices = in(infer, 0), *depth = NULL, *values = in(infer, 2);
    int axis;
    int64_t dims[REEF_MAX_RANK];
    TRY(need_const(infer, 1, "depth", &depth));
    TRY(want_rank(infer, 0, 0, REEF_MAX_RANK - 1));
    TRY(reef_axis_resolve(infer->node, "axis", -1, indices->rank + 1, &axis, infer->error));
    int64_t count = reef_value_elems(depth) == 1 ? reef_value_integer(depth, 0) : -1;
    if (count < 0 || values->rank != 1 || values->dims[0] != 2) {
        return FAIL(infer, REEF_SHAPE, "it needs a depth and two values");
    }
    for (int i = 0, next = 0; i <= indices->rank; i++) {
        dims[i] = i == axis ? count : indices->dims[next++];
    }
    return set_out(infer, 0, values->dtype, indices->rank + 1, dims);
}

static reef_status non_zero(reef_infer *infer)
{
    const reef_value *x = NULL;
    TRY(need_const(infer, 0, "input", &x));
    int64_t elems = reef_value_elems(x), count = 0;
    infer->work += (uint64_t)elems;
    for (int64_t i = 0; i < elems; i++) {
        count += reef_value_number(x, i) != 0;
    }
    return set_out(infer, 0, REEF_I64, 2, (int64_t[]){x->rank > 0 ? x->rank : 1, count});
}

static reef_status cum_sum(reef_infer *infer)
{
    TRY(want_index(infer, in(infer, 1)));
    return unary(infer);
}

static reef_status trilu(reef_infer *infer)
{
    TRY(want_rank(infer, 0, 2, REEF_MAX_RANK));
    return unary(infer);
}

static reef_status not_supported_at_load(reef_infer *infer)
{
    return FAIL(infer, REEF_UNSUPPORTED,
                "its output's shape depends on run-time data, so it cannot be fixed when the model is loaded");
}

/* ------------------------------------------------------------------- table -- */

enum { ANY = INT32_MAX };

typedef struct operator_rule {
    const char *op;
    reef_infer_rule rule;
    int min_in, max_in, max_out; /* the first min_in inputs may not be omitted */
} operator_rule;

/* In alphabetical order: looked up by bisection. */
static const operator_rule rules[] = {
    {"Abs", unary, 1, 1, 1},
    {"Acos", unary_float, 1, 1, 1},
    {"Add", arithmetic, 2, 2, 1},
    {"And", logic, 2, 2, 1},
    {"ArgMax", arg_reduce, 1, 1, 1},
    {"ArgMin", arg_reduce, 1, 1, 1},
    {"Asin", unary_float, 1, 1, 1},
    {"Atan", unary_float, 1, 1, 1},
    {"AveragePool", pool, 1, 1, 1},
    {"BatchNormalization", batch_norm, 5, 5, 5},
    {"Cast", cast, 1, 1, 1},
    {"CastLike", cast_like, 2, 2, 1},
    {"Ceil", unary_float, 1, 1, 1},
    {"Celu", unary_float, 1, 1, 1},
    {"Clip", clip, 1, 3, 1},
    {"Compress", not_supported_at_load, 2, 2, 1},
    {"Concat", concat, 1, ANY, 1},
    {"ConstantOfShape", constant_of_shape, 1, 1, 1},
    {"Conv", conv, 2, 3, 1},
    {"ConvTranspose", conv, 2, 3, 1},
    {"Cos", unary_float, 1, 1, 1},
    {"CumSum", cum_sum, 2, 2, 1},
    {"DepthToSpace", depth_space, 1, 1, 1},
    {"Div", arithmetic, 2, 2, 1},
    {"Dropout", dropout, 1, 3, 2},
    {"Elu", unary_float, 1, 1, 1},
    {"Equal", compare, 2, 2, 1},
    {"Erf", unary_float, 1, 1, 1},
    {"Exp", unary_float, 1, 1, 1},
    {"Expand", expand, 2, 2, 1},
    {"Flatten", flatten, 1, 1, 1},
    {"Floor", unary_float, 1, 1, 1},
    {"Gather", gather, 2, 2, 1},
    {"GatherElements", gather_elements, 2, 2, 1},
    {"GatherND", gather_nd, 2, 2, 1},
    {"Gelu", unary_float, 1, 1, 1},
    {"Gemm", gemm, 2, 3, 1},
    {"GlobalAveragePool", global_pool, 1, 1, 1},
    {"GlobalMaxPool", global_pool, 1, 1, 1},
    {"Greater", compare, 2, 2, 1},
    {"GreaterOrEqual", compare, 2, 2, 1},
    {"GroupNormalization", group_norm, 3, 3, 1},
    {"HardSigmoid", unary_float, 1, 1, 1},
    {"HardSwish", unary_float, 1, 1, 1},
    {"Identity", unary, 1, 1, 1},
    {"InstanceNormalization", instance_norm, 3, 3, 1},
    {"IsInf", is_nan, 1, 1, 1},
    {"IsNaN", is_nan, 1, 1, 1},
    {"LRN", lrn, 1, 1, 1},
    {"LayerNormalization", layer_norm, 2, 3, 3},
    {"LeakyRelu", unary_float, 1, 1, 1},
    {"Less", compare, 2, 2, 1},
    {"LessOrEqual", compare, 2, 2, 1},
    {"Log", unary_float, 1, 1, 1},
    {"LogSoftmax", softmax, 1, 1, 1},
    {"MatMul", matmul, 2, 2, 1},
    {"Max", arithmetic, 1, ANY, 1},
    {"MaxPool", pool, 1, 1, 2},
    {"Mean", arithmetic, 1, ANY, 1},
    {"Min", arithmetic, 1, ANY, 1},
    {"Mish", unary_float, 1, 1, 1},
    {"Mod", arithmetic, 2, 2, 1},
    {"Mul", arithmetic, 2, 2, 1},
    {"Neg", unary, 1, 1, 1},
    {"NonZero", non_zero, 1, 1, 1},
    {"Not", logic, 1, 1, 1},
    {"OneHot", one_hot, 3, 3, 1},
    {"Or", logic, 2, 2, 1},
    {"PRelu", prelu, 2, 2, 1},
    {"Pad", pad, 1, 4, 1},
    {"Pow", power, 2, 2, 1},
    {"Range", range, 3, 3, 1},
    {"Reciprocal", unary_float, 1, 1, 1},
    {"ReduceL1", reduce, 1, 2, 1},
    {"ReduceL2", reduce, 1, 2, 1},
    {"ReduceLogSum", reduce, 1, 2, 1},
    {"ReduceLogSumExp", reduce, 1, 2, 1},
    {"ReduceMax", reduce, 1, 2, 1},
    {"ReduceMean", reduce, 1, 2, 1},
    {"ReduceMin", reduce, 1, 2, 1},
    {"ReduceProd", reduce, 1, 2, 1},
    {"ReduceSum", reduce, 1, 2, 1},
    {"ReduceSumSquare", reduce, 1, 2, 1},
    {"Relu", unary, 1, 1, 1},
    {"Reshape", reshape, 1, 2, 1},
    {"Resize", resize, 1, 4, 1},
    {"Round", unary_float, 1, 1, 1},
    {"ScatterElements", scatter, 3, 3, 1},
    {"ScatterND", scatter, 3, 3, 1},
    {"Selu", unary_float, 1, 1, 1},
    {"Shape", shape_of, 1, 1, 1},
    {"Sigmoid", unary_float, 1, 1, 1},
    {"Sign", unary, 1, 1, 1},
    {"Sin", unary_float, 1, 1, 1},
    {"Size", size_of, 1, 1, 1},
    {"Slice", slice, 1, 5, 1},
    {"Softmax", softmax, 1, 1, 1},
    {"Softplus", unary_float, 1, 1, 1},
    {"Softsign", unary_float, 1, 1, 1},
    {"SpaceToDepth", depth_space, 1, 1, 1},
    {"Split", split, 1, 2, ANY},
    {"Sqrt", unary_float, 1, 1, 1},
    {"Squeeze", squeeze, 1, 2, 1},
    {"Sub", arithmetic, 2, 2, 1},
    {"Sum", arithmetic, 1, ANY, 1},
    {"Tan", unary_float, 1, 1, 1},
    {"Tanh", unary_float, 1, 1, 1},
    {"ThresholdedRelu", unary_float, 1, 1, 1},
    {"Tile", tile, 2, 2, 1},
    {"TopK", top_k, 1, 2, 2},
    {"Transpose", transpose, 1, 1, 1},
    {"Trilu", trilu, 1, 2, 1},
    {"Unique", not_supported_at_load, 1, 1, 4},
    {"Unsqueeze", unsqueeze, 1, 2, 1},
    {"Upsample", resize, 1, 2, 1},
    {"Where", where, 3, 3, 1},
    {"Xor", logic, 2, 2, 1},
};

static int by_op(const void *key, const void *rule)
{
    return strcmp(key, ((const operator_rule *)rule)->op);
}

static const operator_rule *find_rule(const reef_node *node)
{
    return node->domain[0] ? NULL : bsearch(node->op, rules, sizeof rules / sizeof rules[0], sizeof rules[0], by_op);
}

reef_infer_rule reef_infer_find(const reef_node *node)
{
    const operator_rule *rule = find_rule(node);
    return rule ? rule->rule : NULL;
}

reef_status reef_infer_check_arity(reef_infer *infer)
{
    const reef_node *node = infer->node;
    const operator_rule *rule = find_rule(node);
    if (node->n_in < (size_t)rule->min_in || node->n_in > (size_t)rule->max_in || node->n_out > (size_t)rule->max_out) {
        return FAIL(infer, REEF_FORMAT, "%zu inputs and %zu outputs; it takes %d to %d inputs and up to %d outputs",
                    node->n_in, node->n_out, rule->min_in, rule->max_in, rule->max_out);
    }
    size_t mandatory = rule->max_in == ANY ? node->n_in : (size_t)rule->min_in;
    for (size_t i = 0; i < mandatory; i++) {
        if (!node->in[i]) {
            return FAIL(infer, REEF_FORMAT, "input %zu is missing", i);
        }
    }
    for (size_t i = 0; i < node->n_in; i++) {
        if (node->in[i] && (node->in[i]->rank < 0 || !node->in[i]->dtype)) {
            return FAIL(infer, REEF_INTERNAL, "input '%.80s' has no shape yet", node->in[i]->name);
        }
    }
    return REEF_OK;
}
