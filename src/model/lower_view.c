/*
 * lower_view.c - operators that rearrange: views where strides can say it, one copy otherwise.
 */
#include <string.h>

#include "base/error.h"
#include "model/lower.h"

static bool identity(const reef_node *node)
{
    return reef_node_is(node, "Identity") || reef_node_is(node, "Dropout") ||
           (reef_node_is(node, "Concat") && node->n_in == 1);
}

static bool reshapes(const reef_node *node)
{
    return reef_node_is(node, "Reshape") || reef_node_is(node, "Flatten") || reef_node_is(node, "Squeeze") ||
           reef_node_is(node, "Unsqueeze");
}

bool reef_lower_inverse(const reef_node *node, const reef_view *y, reef_view *x)
{
    if (identity(node)) {
        *x = *y;
        return true;
    }
    if (reshapes(node)) {
        return reef_view_reshape(y, node->in[0]->rank, node->in[0]->dims, x);
    }
    int perm[REEF_MAX_RANK], back[REEF_MAX_RANK];
    if (!reef_node_is(node, "Transpose") || reef_perm_resolve(node, perm, NULL)) {
        return false;
    }
    for (int d = 0; d < y->rank; d++) {
        back[perm[d]] = d;
    }
    reef_view_permute(y, back, x);
    return true;
}

reef_status reef_lower_reshape(reef_lower *l, const reef_node *node)
{
    const reef_value *out = node->out[0];
    reef_view x, y;
    if (node->n_out > 1 && node->out[1] && node->out[1]->uses) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "output '%s' is not computed", node->out[1]->name);
    }
    REEF_TRY(reef_lower_view(l, node, node->in[0], &x));
    if (reef_view_reshape(&x, out->rank, out->dims, &y)) {
        reef_lower_put(l, out, &y);
        return REEF_OK;
    }
    return reef_lower_fill(l, node, out, &x);
}

reef_status reef_lower_transpose(reef_lower *l, const reef_node *node)
{
    int perm[REEF_MAX_RANK];
    reef_view x, y;
    REEF_TRY(reef_perm_resolve(node, perm, l->error));
    REEF_TRY(reef_lower_view(l, node, node->in[0], &x));
    reef_view_permute(&x, perm, &y);
    reef_lower_put(l, node->out[0], &y);
    return REEF_OK;
}

reef_status reef_lower_slice(reef_lower *l, const reef_node *node)
{
    reef_slice slice;
    reef_view v;
    REEF_TRY(reef_slice_resolve(node, &slice, l->error));
    REEF_TRY(reef_lower_view(l, node, node->in[0], &v));
    for (int d = 0; d < v.rank; d++) {
        reef_view_slice(&v, d, slice.start[d], slice.step[d], slice.count[d], &v);
    }
    reef_lower_put(l, node->out[0], &v);
    return REEF_OK;
}

reef_status reef_lower_split(reef_lower *l, const reef_node *node)
{
    int axis;
    int64_t at = 0;
    reef_view x, y;
    REEF_TRY(reef_split_resolve(node, &axis, NULL, l->error));
    REEF_TRY(reef_lower_view(l, node, node->in[0], &x));
    for (size_t i = 0; i < node->n_out; i++) {
        if (!node->out[i]) {
            return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "output %zu is omitted", i);
        }
        reef_view_slice(&x, axis, at, 1, node->out[i]->dims[axis], &y);
        reef_lower_put(l, node->out[i], &y);
        at += node->out[i]->dims[axis];
    }
    return REEF_OK;
}

reef_status reef_lower_expand(reef_lower *l, const reef_node *node)
{
    reef_view x, y;
    REEF_TRY(reef_lower_view(l, node, node->in[0], &x));
    if (!reef_view_expand(&x, node->out[0]->rank, node->out[0]->dims, &y)) {
        return reef_node_fail(node, l->error, REEF_SHAPE, "input does not broadcast to the output");
    }
    reef_lower_put(l, node->out[0], &y);
    return REEF_OK;
}

/* Repeats as stride-0 axes in front of the repeated ones: (2,3) x (1,4) is a walk over (2,4,3). */
reef_status reef_lower_tile(reef_lower *l, const reef_node *node)
{
    const reef_value *out = node->out[0];
    reef_view x, v;
    REEF_TRY(reef_lower_view(l, node, node->in[0], &x));
    v = x;
    v.rank = 0;
    for (int d = 0; d < x.rank; d++) {
        const int64_t repeats = x.dims[d] ? out->dims[d] / x.dims[d] : 0;
        const bool extra = repeats != 1 && x.dims[d] != 1;
        if (v.rank + 1 + extra > REEF_MAX_RANK) {
            return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "too many repeated axes");
        }
        if (extra) {
            v.dims[v.rank] = repeats;
            v.stride[v.rank++] = 0;
        }
        v.dims[v.rank] = extra ? x.dims[d] : x.dims[d] * repeats;
        v.stride[v.rank++] = extra || repeats == 1 ? x.stride[d] : 0;
    }
    return reef_lower_fill(l, node, out, &v);
}

/* b x b blocks between channels and space: a permutation of six axes. */
reef_status reef_lower_depth(reef_lower *l, const reef_node *node)
{
    static const int dcr[] = {0, 3, 4, 1, 5, 2}, crd[] = {0, 1, 4, 2, 5, 3}, space[] = {0, 3, 5, 1, 2, 4},
                     space_crd[] = {0, 1, 3, 5, 2, 4};
    const int64_t b = reef_node_attr_int(node, "blocksize", 1);
    const bool to_space = reef_node_is(node, "DepthToSpace");
    const bool column = !strcmp(reef_node_attr_string(node, "mode", "DCR"), "CRD");
    reef_view x, v;
    REEF_TRY(reef_lower_view(l, node, node->in[0], &x));
    const int64_t *d = x.dims;
    bool fits = x.rank == 4 && b > 0;
    if (fits) {
        if (!to_space) {
            fits = d[2] % b == 0 && d[3] % b == 0 &&
                   reef_view_reshape(&x, 6, (int64_t[]){d[0], d[1], d[2] / b, b, d[3] / b, b}, &v);
        } else if (column) {
            fits =
                d[1] % (b * b) == 0 && reef_view_reshape(&x, 6, (int64_t[]){d[0], d[1] / b / b, b, b, d[2], d[3]}, &v);
        } else {
            fits =
                d[1] % (b * b) == 0 && reef_view_reshape(&x, 6, (int64_t[]){d[0], b, b, d[1] / b / b, d[2], d[3]}, &v);
        }
    }
    if (!fits) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "only rank 4 with whole blocks is implemented");
    }
    reef_view_permute(&v, !to_space ? (column ? space_crd : space) : column ? crd : dcr, &v);
    return reef_lower_fill(l, node, node->out[0], &v);
}

/* Pieces that were written into their slice already cost nothing; the others are copied there. */
reef_status reef_lower_concat(reef_lower *l, const reef_node *node)
{
    const reef_value *out = node->out[0];
    reef_view y, slice, at;
    int axis;
    int64_t first = 0;
    if (node->n_in == 1) {
        return reef_lower_reshape(l, node);
    }
    REEF_TRY(reef_axis_resolve(node, "axis", 1, out->rank, &axis, l->error));
    REEF_TRY(reef_lower_dest(l, out, &y));
    for (size_t i = 0; i < node->n_in; i++) {
        const reef_value *in = node->in[i];
        REEF_TRY(reef_lower_view(l, node, in, &at));
        reef_view_slice(&y, axis, first, 1, in->dims[axis], &slice);
        first += in->dims[axis];
        if (!reef_view_same(&at, &slice)) {
            reef_kernel k = {.kind = REEF_K_COPY, .in = {at}, .n_in = 1, .y = slice};
            REEF_TRY(reef_lower_push(l, node, &k));
        }
    }
    return REEF_OK;
}

reef_status reef_lower_pad(reef_lower *l, const reef_node *node)
{
    static const struct {
        const char *name;
        reef_pad_mode mode;
    } modes[] = {{"constant", REEF_PAD_CONSTANT}, {"reflect", REEF_PAD_REFLECT}, {"edge", REEF_PAD_EDGE}};
    const char *mode = reef_node_attr_string(node, "mode", "constant");
    int64_t after[REEF_MAX_RANK];
    reef_kernel k = {.kind = REEF_K_COPY, .n_in = 1, .copy = {.pads = true}};
    size_t i = 0;
    while (i < 3 && strcmp(modes[i].name, mode) != 0) {
        i++;
    }
    if (i == 3) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "mode '%s' is not implemented", mode);
    }
    k.copy.mode = modes[i].mode;
    REEF_TRY(reef_pad_resolve(node, k.copy.before, after, &k.copy.value, l->error));
    REEF_TRY(reef_lower_view(l, node, node->in[0], &k.in[0]));
    REEF_TRY(reef_lower_dest(l, node->out[0], &k.y));
    return reef_lower_push(l, node, &k);
}
