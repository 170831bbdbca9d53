/*
 * fuse_norm.c - layer normalisation in pieces, as torch before opset 17 and paddle2onnx write it:
 *
 *   d = x - ReduceMean(x);  d / sqrt(ReduceMean(d^2) + epsilon) * scale + bias
 */
#include <math.h>

#include "model/fuse.h"

/* value = mean of `of` over the last axis, which stays as 1 */
static const reef_value *mean_of_last(const reef_value *value)
{
    const reef_node *node = reef_fuse_made_by(value, "ReduceMean");
    bool mask[REEF_MAX_RANK], keep;
    if (!node || node->in[0]->rank < 1 || reef_reduce_resolve(node, mask, &keep, NULL) || !keep) {
        return NULL;
    }
    for (int d = 0; d < node->in[0]->rank; d++) {
        if (mask[d] != (d == node->in[0]->rank - 1)) {
            return NULL;
        }
    }
    return node->in[0];
}

/* value = x - mean(x) */
static reef_value *centred(const reef_value *value)
{
    const reef_node *node = reef_fuse_made_by(value, "Sub");
    return node && mean_of_last(node->in[1]) == node->in[0] ? node->in[0] : NULL;
}

/* value = (x - mean(x))^2 */
static reef_value *squared(const reef_value *value)
{
    double two;
    const reef_node *node = reef_fuse_made_by(value, "Pow");
    if (node) {
        return reef_fuse_number(node->in[1], &two) && two == 2 ? centred(node->in[0]) : NULL;
    }
    node = reef_fuse_made_by(value, "Mul");
    return node && node->in[0] == node->in[1] ? centred(node->in[0]) : NULL;
}

/* value = sqrt(variance of x + epsilon) */
static reef_value *deviation(const reef_value *value, double *epsilon)
{
    reef_value *variance;
    const reef_node *root = reef_fuse_made_by(value, "Sqrt");
    const reef_node *add = root ? reef_fuse_made_by(root->in[0], "Add") : NULL;
    if (!add || !reef_fuse_with_number(add, &variance, epsilon)) {
        return NULL;
    }
    const reef_value *square = mean_of_last(variance);
    return square ? squared(square) : NULL;
}

/* node = (x - mean) / deviation, also as a product with a reciprocal */
static reef_value *normalised(const reef_node *node, double *epsilon)
{
    double one;
    if (node->n_in != 2) {
        return NULL;
    }
    if (reef_node_is(node, "Div")) {
        reef_value *x = centred(node->in[0]);
        return x && deviation(node->in[1], epsilon) == x ? x : NULL;
    }
    for (int i = 0; i < 2 && reef_node_is(node, "Mul"); i++) {
        reef_value *x = centred(node->in[i]);
        const reef_node *inverse = reef_fuse_made_by(node->in[1 - i], "Reciprocal");
        if (x && inverse && deviation(inverse->in[0], epsilon) == x) {
            return x;
        }
        inverse = reef_fuse_made_by(node->in[1 - i], "Div");
        if (x && inverse && reef_fuse_number(inverse->in[0], &one) && one == 1 &&
            deviation(inverse->in[1], epsilon) == x) {
            return x;
        }
    }
    return NULL;
}

/* The constant of one number per element of the last axis that `node` applies to `in`; NULL if it is something else. */
static reef_value *parameter(const reef_node *node, const char *op, const reef_value *in)
{
    if (!node || !reef_node_is(node, op) || node->n_in != 2 || !reef_fuse_same_shape(in, node->out[0])) {
        return NULL;
    }
    reef_value *c = node->in[node->in[0] == in];
    return c->data && c->dtype == REEF_F32 && c->rank >= 1 && c->dims[c->rank - 1] == in->dims[in->rank - 1] &&
                   reef_value_elems(c) == in->dims[in->rank - 1]
               ? c
               : NULL;
}

void reef_fuse_norms(reef_fuse *f)
{
    for (size_t i = 0; i < f->graph->n_nodes; i++) {
        reef_node *root = f->graph->nodes[i];
        double epsilon;
        if (root->dead) {
            continue;
        }
        reef_value *x = normalised(root, &epsilon);
        if (!x || x->dtype != REEF_F32 || !reef_fuse_same_shape(x, root->out[0])) {
            continue;
        }
        /* scale and bias, where they follow */
        reef_node *next = reef_fuse_user(f, root->out[0]);
        reef_value *scale = parameter(next, "Mul", root->out[0]), *bias = NULL;
        if (scale) {
            root = next;
            next = reef_fuse_user(f, root->out[0]);
        }
        bias = parameter(next, "Add", root->out[0]);
        root = bias ? next : root;
        reef_value *in[4] = {x, scale, bias, NULL};
        reef_fuse_replace(f, root, "reef.LayerNorm", "LayerNormalization", in, 4);
        reef_fuse_attrs(f, root, "epsilon", (float)epsilon, NULL, 0);
    }
}

/* LayerNormalization(a + b) reads both; the sum itself must have no other reader. */
void reef_fuse_norm_sums(reef_fuse *f)
{
    for (size_t i = 0; i < f->graph->n_nodes; i++) {
        reef_node *node = f->graph->nodes[i];
        const bool whole = reef_node_is(node, "LayerNormalization");
        if (node->dead || !(whole || reef_node_is(node, "reef.LayerNorm")) || (!whole && node->in[3])) {
            continue;
        }
        const reef_value *x = node->in[0];
        const reef_node *sum = reef_fuse_made_by(x, "Add");
        if (!sum || reef_fuse_user(f, x) != node || !reef_fuse_same_shape(sum->in[0], x) ||
            !reef_fuse_same_shape(sum->in[1], x) || x->dtype != REEF_F32 || sum->in[0]->data || sum->in[1]->data) {
            continue;
        }
        float epsilon = reef_node_attr_float(node, "epsilon", 1e-5f);
        if (whole) {
            const int64_t axis = reef_node_attr_int(node, "axis", -1);
            bool plain = axis == -1 || axis == x->rank - 1;
            for (size_t j = 1; j < node->n_out; j++) {
                plain &= !node->out[j] || !node->out[j]->uses;
            }
            if (!plain) {
                continue;
            }
            node->n_out = 1;
        }
        reef_value *in[4] = {sum->in[0], reef_node_in(node, 1), reef_node_in(node, 2), sum->in[1]};
        reef_fuse_replace(f, node, "reef.LayerNorm", "Add+LayerNormalization", in, 4);
        reef_fuse_attrs(f, node, "epsilon", epsilon, NULL, 0);
    }
}
