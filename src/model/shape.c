/*
 * shape.c - attributes and constant inputs as checked numbers. See shape.h.
 *
 * Arithmetic: dimensions are at most 2^40 and window attributes at most 2^20, so that no product or sum here leaves 63
 * bits; values from the file are clamped or refused before they are used.
 */
#include "model/shape.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "model/onnx.h"

enum { WINDOW_LIMIT = 1 << 20 };

void reef_node_error(const reef_node *node, reef_error *error, reef_status status, const char *format, ...)
{
    char message[360];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    reef_error_set(error, status, "node '%.80s' (%.40s): %s", node->name, node->op, message);
}

const char *reef_dims_text(int rank, const int64_t *dims, char *buffer, size_t size)
{
    size_t used = 0;
    if (rank <= 0) {
        snprintf(buffer, size, "%s", rank < 0 ? "unknown" : "scalar");
    }
    for (int i = 0; i < rank && used < size; i++) {
        const char *by = i ? "x" : "";
        int more = dims[i] < 0 ? snprintf(buffer + used, size - used, "%s?", by)
                               : snprintf(buffer + used, size - used, "%s%lld", by, (long long)dims[i]);
        used += more > 0 ? (size_t)more : 0;
    }
    return buffer;
}

/* Input i as a constant of integers. *out is NULL when the input is omitted. */
static reef_status const_input(const reef_node *node, size_t i, const char *what, const reef_value **out,
                               reef_error *error)
{
    const reef_value *value = reef_node_in(node, i);
    if (value && !value->data) {
        return reef_node_fail(node, error, REEF_UNSUPPORTED,
                              "its %s ('%.80s') are computed from run-time data, so the output's shape cannot be fixed "
                              "when the model is loaded",
                              what, value->name);
    }
    *out = value;
    return REEF_OK;
}

/* As const_input for a vector of int32 or int64 with at most limit entries; *count is -1 when omitted. */
static reef_status const_ints(const reef_node *node, size_t i, const char *what, int limit, int64_t *out, int *count,
                              reef_error *error)
{
    const reef_value *value = NULL;
    reef_status status = const_input(node, i, what, &value, error);
    if (status != REEF_OK) {
        return status;
    }
    if (!value) {
        *count = -1;
        return REEF_OK;
    }
    if (value->dtype != REEF_I64 && value->dtype != REEF_I32) {
        return reef_node_fail(node, error, REEF_DTYPE, "its %s are %s, not int64", what, reef_dtype_name(value->dtype));
    }
    int64_t elems = reef_value_elems(value);
    if (value->rank > 1 || elems > limit) {
        return reef_node_fail(node, error, REEF_SHAPE, "its %s have %lld entries, at most %d make sense", what,
                              (long long)elems, limit);
    }
    for (int64_t k = 0; k < elems; k++) {
        out[k] = reef_value_integer(value, k);
    }
    *count = (int)elems;
    return REEF_OK;
}

/* Attribute of integers with at most limit entries; *count is -1 when absent. */
static reef_status attr_ints(const reef_node *node, const char *name, int limit, int64_t *out, int *count,
                             reef_error *error)
{
    const reef_attr *attr = reef_node_attr(node, name);
    *count = -1;
    if (!attr) {
        return REEF_OK;
    }
    if (attr->type == REEF_ATTR_INT && limit >= 1) { /* some exporters write one integer where a list belongs */
        out[0] = attr->i;
        *count = 1;
        return REEF_OK;
    }
    if (attr->type != REEF_ATTR_INTS || attr->count > (size_t)limit) {
        return reef_node_fail(node, error, REEF_FORMAT, "attribute '%s' must be at most %d integers", name, limit);
    }
    for (size_t i = 0; i < attr->count; i++) {
        out[i] = attr->ints[i];
    }
    *count = (int)attr->count;
    return REEF_OK;
}

/* ------------------------------------------------------ axes, broadcasting -- */

reef_status reef_broadcast(const reef_node *node, reef_value *const *values, size_t n, int *rank, int64_t *dims,
                           reef_error *error)
{
    int widest = 0;
    for (size_t i = 0; i < n; i++) {
        if (values[i] && values[i]->rank > widest) {
            widest = values[i]->rank;
        }
    }
    int64_t result[REEF_MAX_RANK];
    for (int axis = 0; axis < widest; axis++) {
        result[axis] = 1;
    }
    for (size_t i = 0; i < n; i++) {
        for (int k = 0; values[i] && k < values[i]->rank; k++) {
            int axis = widest - values[i]->rank + k;
            int64_t dim = values[i]->dims[k];
            if (dim != 1 && result[axis] != 1 && dim != result[axis]) {
                char text[REEF_DIMS_TEXT];
                return reef_node_fail(node, error, REEF_SHAPE,
                                      "input '%.80s' of shape %s does not fit the other inputs: %lld against %lld on "
                                      "axis %d",
                                      values[i]->name,
                                      reef_dims_text(values[i]->rank, values[i]->dims, text, sizeof text),
                                      (long long)dim, (long long)result[axis], axis);
            }
            if (dim != 1) {
                result[axis] = dim;
            }
        }
    }
    memcpy(dims, result, (size_t)widest * sizeof *dims);
    *rank = widest;
    return REEF_OK;
}

static reef_status check_axis(const reef_node *node, int64_t axis, int rank, int *out, reef_error *error)
{
    int range = rank > 0 ? rank : 1;
    if (axis < -range || axis >= range) {
        return reef_node_fail(node, error, REEF_SHAPE, "axis %lld does not exist in a tensor of %d dimensions",
                              (long long)axis, rank);
    }
    *out = (int)(axis < 0 ? axis + range : axis);
    return REEF_OK;
}

reef_status reef_axis_resolve(const reef_node *node, const char *name, int64_t otherwise, int rank, int *out,
                              reef_error *error)
{
    return check_axis(node, reef_node_attr_int(node, name, otherwise), rank, out, error);
}

static reef_status axes_list(const reef_node *node, size_t input, int64_t *axes, int *count, reef_error *error)
{
    reef_status status = attr_ints(node, "axes", REEF_MAX_RANK, axes, count, error);
    return status == REEF_OK && *count < 0 ? const_ints(node, input, "axes", REEF_MAX_RANK, axes, count, error)
                                           : status;
}

reef_status reef_axes_resolve(const reef_node *node, size_t input, int rank, bool mask[REEF_MAX_RANK], bool *given,
                              reef_error *error)
{
    int64_t axes[REEF_MAX_RANK];
    int count, axis = 0;
    reef_status status = axes_list(node, input, axes, &count, error);
    if (status != REEF_OK) {
        return status;
    }
    bool result[REEF_MAX_RANK] = {false};
    for (int i = 0; i < count; i++) {
        status = check_axis(node, axes[i], rank, &axis, error);
        if (status != REEF_OK) {
            return status;
        }
        if (result[axis]) {
            return reef_node_fail(node, error, REEF_SHAPE, "axis %d is named twice", axis);
        }
        result[axis] = true;
    }
    memcpy(mask, result, sizeof result);
    *given = count >= 0;
    return REEF_OK;
}

reef_status reef_reduce_resolve(const reef_node *node, bool mask[REEF_MAX_RANK], bool *keepdims, reef_error *error)
{
    int rank = node->in[0]->rank;
    bool given, any = false;
    reef_status status = reef_axes_resolve(node, 1, rank, mask, &given, error);
    if (status != REEF_OK) {
        return status;
    }
    for (int i = 0; i < rank; i++) {
        any |= mask[i];
    }
    if (!any && !reef_node_attr_int(node, "noop_with_empty_axes", 0)) {
        for (int i = 0; i < rank; i++) {
            mask[i] = true;
        }
    }
    *keepdims = reef_node_attr_int(node, "keepdims", 1) != 0;
    return REEF_OK;
}

reef_status reef_perm_resolve(const reef_node *node, int perm[REEF_MAX_RANK], reef_error *error)
{
    int rank = node->in[0]->rank, count;
    int64_t axes[REEF_MAX_RANK];
    reef_status status = attr_ints(node, "perm", REEF_MAX_RANK, axes, &count, error);
    if (status != REEF_OK) {
        return status;
    }
    bool seen[REEF_MAX_RANK] = {false};
    if (count >= 0 && count != rank) {
        return reef_node_fail(node, error, REEF_SHAPE, "perm has %d entries, the input %d dimensions", count, rank);
    }
    for (int i = 0; i < rank; i++) {
        int64_t axis = count < 0 ? rank - 1 - i : axes[i];
        if (axis < 0 || axis >= rank || seen[axis]) {
            return reef_node_fail(node, error, REEF_SHAPE, "perm is not a permutation of %d axes", rank);
        }
        seen[axis] = true;
        perm[i] = (int)axis;
    }
    return REEF_OK;
}

/* --------------------------------------------------------------- windows -- */

/* An attribute of exactly n integers in [low, WINDOW_LIMIT], or `otherwise` n times. */
static reef_status window_attr(const reef_node *node, const char *name, int n, int64_t otherwise, int64_t low,
                               int64_t *out, reef_error *error)
{
    int64_t values[2 * REEF_MAX_RANK];
    int count;
    reef_status status = attr_ints(node, name, 2 * REEF_MAX_RANK, values, &count, error);
    if (status != REEF_OK) {
        return status;
    }
    if (count >= 0 && count != n) {
        return reef_node_fail(node, error, REEF_SHAPE, "attribute '%s' has %d entries, %d are needed", name, count, n);
    }
    for (int i = 0; i < n; i++) {
        out[i] = count < 0 ? otherwise : values[i];
        if (out[i] < low || out[i] > WINDOW_LIMIT) {
            return reef_node_fail(node, error, REEF_SHAPE, "attribute '%s' holds %lld; %lld to %d is supported", name,
                                  (long long)out[i], (long long)low, (int)WINDOW_LIMIT);
        }
    }
    return REEF_OK;
}

typedef enum auto_pad { EXPLICIT, SAME_UPPER, SAME_LOWER, VALID } auto_pad;

static reef_status read_auto_pad(const reef_node *node, auto_pad *out, reef_error *error)
{
    static const char *const names[] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"};
    const char *name = reef_node_attr_string(node, "auto_pad", "NOTSET");
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (auto_pad)i;
            return REEF_OK;
        }
    }
    if (!name[0]) {
        *out = EXPLICIT;
        return REEF_OK;
    }
    return reef_node_fail(node, error, REEF_FORMAT, "auto_pad '%.40s' does not exist", name);
}

/* Conv and pooling, one axis. */
static reef_status slide(const reef_node *node, reef_window *w, int i, auto_pad mode, bool ceil_mode, reef_error *error)
{
    int64_t reach = (w->kernel[i] - 1) * w->dilation[i] + 1;
    if (mode == SAME_UPPER || mode == SAME_LOWER) {
        w->out[i] = (w->in[i] + w->stride[i] - 1) / w->stride[i];
        int64_t total = (w->out[i] - 1) * w->stride[i] + reach - w->in[i];
        total = total > 0 ? total : 0;
        w->pad[i] = mode == SAME_UPPER ? total / 2 : total - total / 2;
        w->pad_end[i] = total - w->pad[i];
        return REEF_OK;
    }
    if (mode == VALID) {
        w->pad[i] = w->pad_end[i] = 0;
    }
    int64_t room = w->in[i] + w->pad[i] + w->pad_end[i] - reach;
    if (room < 0) {
        return reef_node_fail(node, error, REEF_SHAPE,
                              "a window of %lld does not fit into %lld with padding %lld and %lld (spatial axis %d)",
                              (long long)reach, (long long)w->in[i], (long long)w->pad[i], (long long)w->pad_end[i], i);
    }
    w->out[i] = (ceil_mode ? room + w->stride[i] - 1 : room) / w->stride[i] + 1;
    if (ceil_mode && (w->out[i] - 1) * w->stride[i] >= w->in[i] + w->pad[i]) {
        w->out[i]--; /* a window that starts in the end padding sees nothing */
    }
    return REEF_OK;
}

/* ConvTranspose, one axis; size: attribute output_shape or 0. */
static reef_status unslide(const reef_node *node, reef_window *w, int i, auto_pad mode, int64_t more, int64_t size,
                           reef_error *error)
{
    int64_t full = (w->in[i] - 1) * w->stride[i] + more + (w->kernel[i] - 1) * w->dilation[i] + 1;
    if (size == 0 && (mode == SAME_UPPER || mode == SAME_LOWER)) {
        size = w->in[i] * w->stride[i];
    }
    if (size > 0) {
        int64_t total = full > size ? full - size : 0;
        w->pad[i] = mode == SAME_UPPER ? total / 2 : total - total / 2;
        w->pad_end[i] = total - w->pad[i];
        w->out[i] = size;
        return REEF_OK;
    }
    if (mode == VALID) {
        w->pad[i] = w->pad_end[i] = 0;
    }
    w->out[i] = full - w->pad[i] - w->pad_end[i];
    if (w->out[i] < 1) {
        return reef_node_fail(node, error, REEF_SHAPE, "padding leaves nothing of %lld (spatial axis %d)",
                              (long long)full, i);
    }
    return REEF_OK;
}

reef_status reef_window_resolve(const reef_node *node, reef_window *out, reef_error *error)
{
    reef_window w = {0};
    const reef_value *x = node->in[0];
    bool transposed = strcmp(node->op, "ConvTranspose") == 0;
    bool conv = transposed || strcmp(node->op, "Conv") == 0;
    int n = w.n = x->rank - 2;
    if (n < 1) {
        return reef_node_fail(node, error, REEF_SHAPE, "its input needs at least 3 dimensions, not %d", x->rank);
    }
    int64_t pads[2 * REEF_MAX_RANK], more[REEF_MAX_RANK], size[REEF_MAX_RANK] = {0};
    auto_pad mode = EXPLICIT;
    int ignored;
    reef_status status;
    if (conv && !reef_node_attr(node, "kernel_shape")) {
        const reef_value *kernel = node->in[1];
        if (kernel->rank != x->rank) {
            return reef_node_fail(node, error, REEF_SHAPE, "weights have %d dimensions, the input %d", kernel->rank,
                                  x->rank);
        }
        for (int i = 0; i < n; i++) {
            w.kernel[i] = kernel->dims[2 + i];
            if (w.kernel[i] < 1 || w.kernel[i] > WINDOW_LIMIT) {
                return reef_node_fail(node, error, REEF_SHAPE, "weights with a window of %lld are not supported",
                                      (long long)w.kernel[i]);
            }
        }
    } else if (!reef_node_attr(node, "kernel_shape")) {
        return reef_node_fail(node, error, REEF_FORMAT, "attribute 'kernel_shape' is missing");
    } else if ((status = window_attr(node, "kernel_shape", n, 1, 1, w.kernel, error)) != REEF_OK) {
        return status;
    }
    if ((status = window_attr(node, "strides", n, 1, 1, w.stride, error)) != REEF_OK ||
        (status = window_attr(node, "dilations", n, 1, 1, w.dilation, error)) != REEF_OK ||
        (status = window_attr(node, "pads", 2 * n, 0, 0, pads, error)) != REEF_OK ||
        (status = window_attr(node, "output_padding", n, 0, 0, more, error)) != REEF_OK ||
        (status = read_auto_pad(node, &mode, error)) != REEF_OK) {
        return status;
    }
    if (transposed && reef_node_attr(node, "output_shape")) {
        int64_t given[REEF_MAX_RANK];
        status = attr_ints(node, "output_shape", REEF_MAX_RANK, given, &ignored, error);
        if (status != REEF_OK) {
            return status;
        }
        for (int i = 0; i < n; i++) { /* some exporters list N and C too */
            size[i] = ignored == n ? given[i] : ignored == n + 2 ? given[i + 2] : 0;
            if (size[i] < 1 || size[i] > REEF_MAX_ELEMS) {
                return reef_node_fail(node, error, REEF_SHAPE, "output_shape does not fit %d spatial dimensions", n);
            }
        }
    }
    bool ceil_mode = !conv && reef_node_attr_int(node, "ceil_mode", 0) != 0;
    for (int i = 0; i < n; i++) {
        w.in[i] = x->dims[2 + i];
        w.pad[i] = pads[i];
        w.pad_end[i] = pads[n + i];
        if (w.in[i] < 1) {
            return reef_node_fail(node, error, REEF_SHAPE, "its input is empty on axis %d", 2 + i);
        }
        status = transposed ? unslide(node, &w, i, mode, more[i], size[i], error)
                            : slide(node, &w, i, mode, ceil_mode, error);
        if (status != REEF_OK) {
            return status;
        }
        if (!conv && mode == EXPLICIT && (w.pad[i] >= w.kernel[i] || w.pad_end[i] >= w.kernel[i])) {
            return reef_node_fail(node, error, REEF_SHAPE, "padding must be smaller than the window (spatial axis %d)",
                                  i);
        }
    }
    *out = w;
    return REEF_OK;
}

/* ------------------------------------------------------------ slice, pad -- */

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

reef_status reef_slice_resolve(const reef_node *node, reef_slice *out, reef_error *error)
{
    const reef_value *x = node->in[0];
    int64_t starts[REEF_MAX_RANK], ends[REEF_MAX_RANK], axes[REEF_MAX_RANK], steps[REEF_MAX_RANK];
    int n, n_ends, n_axes = -1, n_steps = -1;
    reef_status status;
    if (node->opset < 10) {
        (void)((status = attr_ints(node, "starts", REEF_MAX_RANK, starts, &n, error)) != REEF_OK ||
               (status = attr_ints(node, "ends", REEF_MAX_RANK, ends, &n_ends, error)) != REEF_OK ||
               (status = attr_ints(node, "axes", REEF_MAX_RANK, axes, &n_axes, error)));
    } else {
        (void)((status = const_ints(node, 1, "starts", REEF_MAX_RANK, starts, &n, error)) != REEF_OK ||
               (status = const_ints(node, 2, "ends", REEF_MAX_RANK, ends, &n_ends, error)) != REEF_OK ||
               (status = const_ints(node, 3, "axes", REEF_MAX_RANK, axes, &n_axes, error)) != REEF_OK ||
               (status = const_ints(node, 4, "steps", REEF_MAX_RANK, steps, &n_steps, error)) != REEF_OK);
    }
    if (status != REEF_OK) {
        return status;
    }
    if (n < 0 || n_ends != n || (n_axes >= 0 && n_axes != n) || (n_steps >= 0 && n_steps != n) || n > x->rank) {
        return reef_node_fail(node, error, REEF_SHAPE, "starts, ends, axes and steps must be of one length, at most %d",
                              x->rank);
    }
    reef_slice slice;
    bool seen[REEF_MAX_RANK] = {false};
    for (int i = 0; i < x->rank; i++) {
        slice.start[i] = 0;
        slice.step[i] = 1;
        slice.count[i] = x->dims[i];
    }
    for (int i = 0; i < n; i++) {
        int axis = 0;
        status = check_axis(node, n_axes >= 0 ? axes[i] : i, x->rank, &axis, error);
        if (status != REEF_OK) {
            return status;
        }
        int64_t dim = x->dims[axis], step = n_steps >= 0 ? steps[i] : 1, start = starts[i], end = ends[i];
        if (step == 0 || seen[axis]) {
            return reef_node_fail(node, error, REEF_SHAPE, step == 0 ? "a step of 0 on axis %d" : "axis %d twice",
                                  axis);
        }
        seen[axis] = true;
        step = clamp(step, -REEF_MAX_ELEMS, REEF_MAX_ELEMS); /* beyond any dimension it makes no difference */
        start = clamp(start < 0 ? start + dim : start, 0, step > 0 ? dim : dim - 1);
        end = clamp(end < 0 ? end + dim : end, step > 0 ? 0 : -1, dim);
        int64_t span = step > 0 ? end - start + step - 1 : end - start + step + 1;
        int64_t count = span / step;
        if (dim == 0 || (step > 0 ? end <= start : end >= start)) {
            count = 0;
        }
        slice.start[axis] = count ? start : 0;
        slice.step[axis] = step;
        slice.count[axis] = count;
    }
    *out = slice;
    return REEF_OK;
}

reef_status reef_pad_resolve(const reef_node *node, int64_t before[REEF_MAX_RANK], int64_t after[REEF_MAX_RANK],
                             double *value, reef_error *error)
{
    const reef_value *x = node->in[0], *fill = NULL;
    int64_t pads[2 * REEF_MAX_RANK], axes[REEF_MAX_RANK];
    int n, n_axes = -1;
    reef_status status;
    if (node->opset < 11) {
        status =
            attr_ints(node, reef_node_attr(node, "paddings") ? "paddings" : "pads", 2 * REEF_MAX_RANK, pads, &n, error);
    } else {
        (void)((status = const_ints(node, 1, "pads", 2 * REEF_MAX_RANK, pads, &n, error)) != REEF_OK ||
               (status = const_input(node, 2, "fill values", &fill, error)) != REEF_OK ||
               (status = const_ints(node, 3, "axes", REEF_MAX_RANK, axes, &n_axes, error)) != REEF_OK);
    }
    if (status != REEF_OK) {
        return status;
    }
    int listed = n_axes >= 0 ? n_axes : x->rank;
    if (n != 2 * listed) {
        return reef_node_fail(node, error, REEF_SHAPE, "pads has %d entries, %d are needed", n, 2 * listed);
    }
    int64_t first[REEF_MAX_RANK] = {0}, last[REEF_MAX_RANK] = {0};
    bool seen[REEF_MAX_RANK] = {false};
    for (int i = 0; i < listed; i++) {
        int axis = 0;
        status = check_axis(node, n_axes >= 0 ? axes[i] : i, x->rank, &axis, error);
        if (status != REEF_OK) {
            return status;
        }
        int64_t a = pads[i], b = pads[listed + i];
        if (seen[axis] || a < -x->dims[axis] || b < -x->dims[axis] || a > REEF_MAX_ELEMS || b > REEF_MAX_ELEMS ||
            x->dims[axis] + a + b < 0) {
            return reef_node_fail(node, error, REEF_SHAPE, "padding %lld and %lld does not fit axis %d of %lld",
                                  (long long)a, (long long)b, axis, (long long)x->dims[axis]);
        }
        seen[axis] = true;
        first[axis] = a;
        last[axis] = b;
    }
    if (fill && reef_value_elems(fill) > 1) {
        return reef_node_fail(node, error, REEF_SHAPE, "its fill value must be a scalar");
    }
    memcpy(before, first, sizeof first);
    memcpy(after, last, sizeof last);
    *value = fill && reef_value_elems(fill) == 1 ? reef_value_number(fill, 0)
                                                 : (double)reef_node_attr_float(node, "value", 0);
    return REEF_OK;
}

/* ---------------------------------------------------------------- resize -- */

static reef_status const_floats(const reef_node *node, size_t i, const char *what, float *out, int *count,
                                reef_error *error)
{
    const reef_value *value = NULL;
    reef_status status = const_input(node, i, what, &value, error);
    *count = -1;
    if (status != REEF_OK || !value) {
        return status;
    }
    int64_t elems = reef_value_elems(value);
    if (value->rank > 1 || elems > REEF_MAX_RANK || value->dtype != REEF_F32) {
        return reef_node_fail(node, error, REEF_SHAPE, "its %s must be a list of at most %d float32", what,
                              REEF_MAX_RANK);
    }
    for (int64_t k = 0; k < elems; k++) {
        out[k] = (float)reef_value_number(value, k);
    }
    *count = elems ? (int)elems : -1; /* an empty list stands for "not given" */
    return REEF_OK;
}

reef_status reef_resize_resolve(const reef_node *node, int64_t dims[REEF_MAX_RANK], float scales[REEF_MAX_RANK],
                                reef_error *error)
{
    const reef_value *x = node->in[0];
    int rank = x->rank, n_scales = -1, n_sizes = -1, n_axes = -1;
    float factor[REEF_MAX_RANK];
    int64_t sizes[REEF_MAX_RANK], axes[REEF_MAX_RANK];
    reef_status status = REEF_OK;
    bool upsample = strcmp(node->op, "Upsample") == 0;
    if (upsample && node->opset < 9) {
        const reef_attr *attr = reef_node_attr(node, "scales");
        if (!attr || attr->type != REEF_ATTR_FLOATS || attr->count > REEF_MAX_RANK) {
            return reef_node_fail(node, error, REEF_FORMAT, "attribute 'scales' is missing or malformed");
        }
        n_scales = (int)attr->count;
        memcpy(factor, attr->floats, attr->count * sizeof *factor);
    } else if (upsample || node->opset < 11) {
        status = const_floats(node, 1, "scales", factor, &n_scales, error);
    } else {
        (void)((status = const_floats(node, 2, "scales", factor, &n_scales, error)) != REEF_OK ||
               (status = const_ints(node, 3, "sizes", REEF_MAX_RANK, sizes, &n_sizes, error)) != REEF_OK ||
               (status = attr_ints(node, "axes", REEF_MAX_RANK, axes, &n_axes, error)) != REEF_OK);
    }
    if (status != REEF_OK) {
        return status;
    }
    int listed = n_axes >= 0 ? n_axes : rank;
    n_sizes = n_sizes > 0 ? n_sizes : -1;
    if ((n_scales < 0) == (n_sizes < 0) || (n_scales >= 0 ? n_scales : n_sizes) != listed) {
        return reef_node_fail(node, error, REEF_SHAPE, "it needs either scales or sizes, for %d dimensions", listed);
    }
    int64_t result[REEF_MAX_RANK];
    float scale[REEF_MAX_RANK];
    for (int i = 0; i < rank; i++) {
        result[i] = x->dims[i];
        scale[i] = 1;
    }
    bool seen[REEF_MAX_RANK] = {false};
    const char *policy = reef_node_attr_string(node, "keep_aspect_ratio_policy", "stretch");
    bool larger = strcmp(policy, "not_smaller") == 0, smaller = strcmp(policy, "not_larger") == 0;
    float common = larger ? 0 : INFINITY;
    for (int i = 0; i < listed; i++) {
        int axis = 0;
        status = check_axis(node, n_axes >= 0 ? axes[i] : i, rank, &axis, error);
        if (status != REEF_OK) {
            return status;
        }
        int64_t dim = x->dims[axis];
        float by = n_scales >= 0 ? factor[i] : (float)sizes[i] / (float)dim;
        if (seen[axis] || !(by > 0) || by > 0x1p20f || dim < 1) {
            return reef_node_fail(node, error, REEF_SHAPE, "scale %g on axis %d of %lld is not possible", (double)by,
                                  axis, (long long)dim);
        }
        seen[axis] = true;
        scale[axis] = by;
        result[axis] = n_scales >= 0 ? (int64_t)(by * (float)dim) : sizes[i]; /* in float, as ONNX Runtime has it */
        common = larger ? fmaxf(common, by) : fminf(common, by);
    }
    for (int i = 0; n_sizes >= 0 && (larger || smaller) && i < rank; i++) {
        if (seen[i]) {
            scale[i] = common;
            result[i] = (int64_t)roundf(common * (float)x->dims[i]);
        }
    }
    for (int i = 0; i < rank; i++) {
        if (result[i] < 1) {
            return reef_node_fail(node, error, REEF_SHAPE, "it leaves nothing of axis %d (%lld, scale %g)", i,
                                  (long long)x->dims[i], (double)scale[i]);
        }
    }
    memcpy(dims, result, (size_t)rank * sizeof *dims);
    memcpy(scales, scale, (size_t)rank * sizeof *scales);
    return REEF_OK;
}

/* --------------------------------------------------------- split, reshape -- */

reef_status reef_split_resolve(const reef_node *node, int *axis, int64_t *sizes, reef_error *error)
{
    const reef_value *x = node->in[0], *split = NULL;
    const reef_attr *attr = node->opset < 13 ? reef_node_attr(node, "split") : NULL;
    int along;
    reef_status status = reef_axis_resolve(node, "axis", 0, x->rank, &along, error);
    if (status == REEF_OK && !attr) {
        status = const_input(node, 1, "split sizes", &split, error);
    }
    if (status != REEF_OK) {
        return status;
    }
    if (x->rank == 0) {
        return reef_node_fail(node, error, REEF_SHAPE, "a scalar cannot be split");
    }
    int64_t parts = (int64_t)node->n_out, dim = x->dims[along], total = 0;
    bool listed = split || attr;
    if ((attr && (attr->type != REEF_ATTR_INTS || attr->count != node->n_out)) ||
        (split && (split->dtype != REEF_I64 || split->rank != 1 || split->dims[0] != parts))) {
        return reef_node_fail(node, error, REEF_SHAPE,
                              "the list of split sizes must have one entry for each of %lld outputs", (long long)parts);
    }
    if (!listed && dim % parts != 0 && node->opset < 18) {
        return reef_node_fail(node, error, REEF_SHAPE, "axis %d of %lld cannot be split into %lld equal parts", along,
                              (long long)dim, (long long)parts);
    }
    int64_t each = (dim + parts - 1) / parts;
    for (int64_t i = 0; i < parts; i++) {
        int64_t size = split                ? reef_value_integer(split, i)
                       : attr               ? attr->ints[i]
                       : dim - total < each ? dim - total
                                            : each;
        if (size < 0 || size > dim - total) {
            return reef_node_fail(node, error, REEF_SHAPE, "split sizes do not add up to %lld, the size of axis %d",
                                  (long long)dim, along);
        }
        total += size;
        if (sizes) {
            sizes[i] = size;
        }
    }
    if (total != dim) {
        return reef_node_fail(node, error, REEF_SHAPE, "split sizes add up to %lld, but axis %d has %lld",
                              (long long)total, along, (long long)dim);
    }
    *axis = along;
    return REEF_OK;
}

reef_status reef_reshape_resolve(const reef_node *node, int *rank, int64_t dims[REEF_MAX_RANK], reef_error *error)
{
    const reef_value *x = node->in[0];
    int64_t shape[REEF_MAX_RANK], known = 1, elems = reef_value_elems(x);
    int n, unknown = -1;
    reef_status status = node->opset < 5 ? attr_ints(node, "shape", REEF_MAX_RANK, shape, &n, error)
                                         : const_ints(node, 1, "shape's entries", REEF_MAX_RANK, shape, &n, error);
    if (status != REEF_OK) {
        return status;
    }
    char from[REEF_DIMS_TEXT], to[REEF_DIMS_TEXT];
    bool keep_zero = reef_node_attr_int(node, "allowzero", 0) != 0;
    bool good = n >= 0;
    for (int i = 0; good && i < n; i++) {
        if (shape[i] == 0 && !keep_zero) {
            good = i < x->rank;
            shape[i] = good ? x->dims[i] : 0;
        }
        if (shape[i] == -1) {
            good = good && unknown < 0;
            unknown = i;
        } else if (shape[i] < 0 || shape[i] > REEF_MAX_ELEMS || (shape[i] && known > REEF_MAX_ELEMS / shape[i])) {
            good = false;
        } else {
            known *= shape[i];
        }
    }
    if (good && unknown >= 0) {
        good = known > 0 ? elems % known == 0 : elems == 0;
        shape[unknown] = good && known > 0 ? elems / known : 0;
    } else if (good) {
        good = known == elems;
    }
    if (!good) {
        return reef_node_fail(node, error, REEF_SHAPE, "input of shape %s (%lld elements) cannot take the shape %s",
                              reef_dims_text(x->rank, x->dims, from, sizeof from), (long long)elems,
                              reef_dims_text(n > 0 ? n : 0, shape, to, sizeof to));
    }
    memcpy(dims, shape, (size_t)n * sizeof *dims);
    *rank = n;
    return REEF_OK;
}
