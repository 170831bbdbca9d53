/*
 * lower_conv.c - operators that slide windows over (N,C,H,W) with channels innermost.
 */
#include <string.h>

#include "base/error.h"
#include "model/lower.h"

/* One spatial axis is lowered as two, the first of size 1. */
static void widen(reef_window *w)
{
    if (w->n == 1) {
        w->n = 2;
        int64_t *const fields[] = {w->in, w->kernel, w->stride, w->dilation, w->pad, w->pad_end, w->out};
        for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
            fields[i][1] = fields[i][0];
        }
        w->in[0] = w->kernel[0] = w->stride[0] = w->dilation[0] = w->out[0] = 1;
        w->pad[0] = w->pad_end[0] = 0;
    }
}

/* in[0] as (N,C,H,W) with C innermost; (N,C,L) is (N,C,1,L). */
static reef_status image_in(reef_lower *l, const reef_node *node, const reef_value *value, reef_view *out)
{
    REEF_TRY(reef_lower_need_f32(l, node, value));
    if (value->rank != 3) {
        return reef_lower_operand(l, node, value, REEF_NEED_NHWC, out);
    }
    reef_view v;
    REEF_TRY(reef_lower_view(l, node, value, &v));
    v.rank = 4;
    v.dims[3] = v.dims[2];
    v.stride[3] = v.stride[2];
    v.dims[2] = 1;
    v.stride[2] = 0;
    if (!reef_view_unit(&v, 1)) {
        REEF_TRY(reef_lower_copy(l, node, &v, true, &v));
    }
    *out = v;
    return REEF_OK;
}

static reef_status image_out(reef_lower *l, const reef_value *value, reef_view *out)
{
    if (value->rank != 3) {
        REEF_TRY(reef_lower_dest(l, value, out));
        reef_view_unit(out, 1);
        return REEF_OK;
    }
    const int64_t dims[4] = {value->dims[0], value->dims[1], 1, value->dims[2]};
    REEF_TRY(reef_lower_temp(l, value->name, value->dtype, 4, dims, true, out));
    reef_view v = *out;
    v.rank = 3;
    v.dims[2] = v.dims[3];
    v.stride[2] = v.stride[3];
    reef_lower_put(l, value, &v);
    return REEF_OK;
}

static reef_status bias_of(reef_lower *l, const reef_node *node, const float **out)
{
    const reef_value *bias = reef_node_in(node, 2);
    if (node->epilogue.bias) {
        *out = node->epilogue.bias;
        return REEF_OK;
    }
    return reef_lower_floats(l, node, bias, "bias", out);
}

reef_status reef_lower_conv(reef_lower *l, const reef_node *node)
{
    const bool transposed = reef_node_is(node, "ConvTranspose");
    const reef_value *x = node->in[0], *w = node->in[1], *y = node->out[0];
    const reef_epilogue *e = &node->epilogue;
    reef_window win;
    REEF_TRY(reef_window_resolve(node, &win, l->error));
    if (win.n > 2) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "%d spatial dimensions; 1 and 2 are implemented",
                              win.n);
    }
    widen(&win);
    reef_kernel k = {.kind = transposed ? REEF_K_CONV_TRANSPOSE : REEF_K_CONV, .n_in = 1};
    k.conv = (reef_conv){.channels = x->dims[1],
                         .filters = y->dims[1],
                         .groups = reef_node_attr_int(node, "group", 1),
                         .kernel = {win.kernel[0], win.kernel[1]},
                         .stride = {win.stride[0], win.stride[1]},
                         .pad = {win.pad[0], win.pad[1]},
                         .dilation = {win.dilation[0], win.dilation[1]},
                         .act = e->act,
                         .act_a = e->a,
                         .act_b = e->b};
    REEF_TRY(reef_lower_floats(l, node, w, "weight", &k.conv.w));
    REEF_TRY(bias_of(l, node, &k.conv.bias));
    REEF_TRY(image_in(l, node, x, &k.in[0]));
    if (e->residual) {
        REEF_TRY(image_in(l, node, e->residual, &k.in[1]));
        k.n_in = 2;
        k.conv.has_residual = true;
    }
    REEF_TRY(image_out(l, y, &k.y));
    return reef_lower_push(l, node, &k);
}

reef_status reef_lower_pool(reef_lower *l, const reef_node *node)
{
    reef_window win;
    REEF_TRY(reef_window_resolve(node, &win, l->error));
    if (win.n > 2) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "%d spatial dimensions; 1 and 2 are implemented",
                              win.n);
    }
    if (node->n_out > 1 && node->out[1] && node->out[1]->uses) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "the output Indices is not implemented");
    }
    widen(&win);
    reef_kernel k = {.kind = REEF_K_POOL, .n_in = 1};
    k.pool = (reef_pool){.kind = reef_node_is(node, "MaxPool") ? REEF_POOL_MAX : REEF_POOL_AVERAGE,
                         .count_include_pad = reef_node_attr_int(node, "count_include_pad", 0) != 0,
                         .kernel = {win.kernel[0], win.kernel[1]},
                         .stride = {win.stride[0], win.stride[1]},
                         .pad = {win.pad[0], win.pad[1]},
                         .pad_end = {win.pad_end[0], win.pad_end[1]},
                         .dilation = {win.dilation[0], win.dilation[1]}};
    REEF_TRY(image_in(l, node, node->in[0], &k.in[0]));
    REEF_TRY(image_out(l, node->out[0], &k.y));
    return reef_lower_push(l, node, &k);
}

static reef_status resize_mode(reef_lower *l, const reef_node *node, reef_resize *r)
{
    static const char *const coords[] = {"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"};
    static const char *const rounds[] = {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"};
    const bool old = reef_node_is(node, "Upsample") || node->opset < 11; /* before the coordinate attributes */
    const char *mode = reef_node_attr_string(node, "mode", "nearest");
    const char *coord =
        old ? "asymmetric" : reef_node_attr_string(node, "coordinate_transformation_mode", "half_pixel");
    const char *round = old ? "floor" : reef_node_attr_string(node, "nearest_mode", "round_prefer_floor");
    int c = 0, n = 0;
    while (c < 4 && strcmp(coord, coords[c]) != 0) {
        c++;
    }
    while (n < 4 && strcmp(round, rounds[n]) != 0) {
        n++;
    }
    r->linear = !strcmp(mode, "linear") || !strcmp(mode, "bilinear");
    r->coord = (reef_resize_coord)c;
    r->nearest = (reef_resize_nearest)n;
    if (c == 4 || n == 4 || (!r->linear && strcmp(mode, "nearest") != 0) || reef_node_attr_int(node, "antialias", 0)) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "mode '%s', '%s', '%s' is not implemented", mode, coord,
                              round);
    }
    return REEF_OK;
}

reef_status reef_lower_resize(reef_lower *l, const reef_node *node)
{
    const reef_value *x = node->in[0], *y = node->out[0];
    int64_t dims[REEF_MAX_RANK];
    float scales[REEF_MAX_RANK];
    reef_kernel k = {.kind = REEF_K_RESIZE, .n_in = 1};
    REEF_TRY(reef_resize_resolve(node, dims, scales, l->error));
    REEF_TRY(resize_mode(l, node, &k.resize));
    if ((x->rank != 4 && x->rank != 3) || x->dims[0] != y->dims[0] || x->dims[1] != y->dims[1]) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "only the spatial axes can be resized");
    }
    k.resize.scale[0] = x->rank == 4 ? scales[2] : 1;
    k.resize.scale[1] = scales[x->rank - 1];
    REEF_TRY(image_in(l, node, x, &k.in[0]));
    REEF_TRY(image_out(l, y, &k.y));
    return reef_lower_push(l, node, &k);
}

reef_status reef_lower_lrn(reef_lower *l, const reef_node *node)
{
    reef_kernel k = {.kind = REEF_K_LRN, .n_in = 1};
    k.lrn = (reef_lrn){.size = reef_node_attr_int(node, "size", 1),
                       .alpha = reef_node_attr_float(node, "alpha", 1e-4f),
                       .beta = reef_node_attr_float(node, "beta", 0.75f),
                       .bias = reef_node_attr_float(node, "bias", 1)};
    if (k.lrn.size < 1) {
        return reef_node_fail(node, l->error, REEF_FORMAT, "size %lld", (long long)k.lrn.size);
    }
    REEF_TRY(image_in(l, node, node->in[0], &k.in[0]));
    REEF_TRY(image_out(l, node->out[0], &k.y));
    return reef_lower_push(l, node, &k);
}
