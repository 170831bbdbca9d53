/*
 * fuse_linear.c - epilogues of linear operators, and what is left of batch normalisation.
 *
 *   y = act(scale * linear(x) + shift + residual)
 *
 * scale goes into the weights (per output channel), shift into the bias. The order is fixed: nothing but an activation
 * may follow the residual, and nothing follows the activation.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/fuse.h"

/* Numbers per channel: what a constant operand means along `axis` of y. False when it varies along another axis. */
static bool per_channel(const reef_value *c, const reef_value *y, int axis, double *out)
{
    const int64_t n = y->dims[axis];
    if (!c || !c->data || c->dtype != REEF_F32 || c->rank > y->rank) {
        return false;
    }
    const int64_t elems = reef_value_elems(c);
    const int at = axis - (y->rank - c->rank); /* the channel axis in c */
    if (elems != 1 && (at < 0 || c->dims[at] != n || elems != n)) {
        return false;
    }
    for (int64_t i = 0; i < n; i++) {
        out[i] = reef_value_number(c, elems == 1 ? 0 : i);
    }
    return true;
}

/* Inference-time BatchNormalization as scale and shift. */
static bool batch_norm(const reef_node *node, int64_t n, double *scale, double *shift)
{
    if (!reef_node_is(node, "BatchNormalization") || node->n_in < 5 || reef_node_attr_int(node, "training_mode", 0)) {
        return false;
    }
    for (size_t i = 1; i < 5; i++) {
        const reef_value *v = node->in[i];
        if (!v || !v->data || v->dtype != REEF_F32 || reef_value_elems(v) != n) {
            return false;
        }
    }
    for (size_t i = 1; i < node->n_out; i++) {
        if (node->out[i] && node->out[i]->uses) {
            return false;
        }
    }
    const double epsilon = (double)reef_node_attr_float(node, "epsilon", 1e-5f);
    for (int64_t i = 0; i < n; i++) {
        const double s = reef_value_number(node->in[1], i) / sqrt(reef_value_number(node->in[4], i) + epsilon);
        scale[i] = s;
        shift[i] = reef_value_number(node->in[2], i) - reef_value_number(node->in[3], i) * s;
    }
    return true;
}

/*
 * node = in * scale + shift along axis, with constants: BatchNormalization, Mul, Div, Add, Sub. False otherwise.
 * *multiplies: scale is not all ones.
 */
static bool affine(const reef_node *node, const reef_value *in, int axis, double *scale, double *shift,
                   bool *multiplies)
{
    const reef_value *y = node->out[0];
    const int64_t n = in->dims[axis];
    const bool mul = reef_node_is(node, "Mul"), div = reef_node_is(node, "Div"), add = reef_node_is(node, "Add"),
               sub = reef_node_is(node, "Sub");
    *multiplies = true;
    if (!reef_fuse_same_shape(in, y) || in->dtype != REEF_F32) {
        return false;
    }
    if (reef_node_is(node, "BatchNormalization")) {
        return axis == 1 && node->in[0] == in && batch_norm(node, n, scale, shift);
    }
    if (!(mul || div || add || sub) || node->n_in != 2) {
        return false;
    }
    const bool second = node->in[1] == in; /* constant first */
    if (node->in[0] == node->in[1] || (div && second) ||
        !per_channel(node->in[second ? 0 : 1], y, axis, mul || div ? scale : shift)) {
        return false;
    }
    *multiplies = mul || div || (sub && second);
    for (int64_t i = 0; i < n; i++) {
        if (mul || div) {
            scale[i] = div ? 1 / scale[i] : scale[i];
            shift[i] = 0;
            if (!isfinite(scale[i])) {
                return false;
            }
        } else {
            scale[i] = sub && second ? -1 : 1;
            shift[i] = sub && !second ? -shift[i] : shift[i];
        }
    }
    return true;
}

typedef struct linear {
    reef_node *node;
    int axis;  /* of output channels in y */
    int64_t n; /* channels */
    bool conv, transposed;
    double *scale, *shift; /* of what was absorbed */
    double *one, *two;     /* scratch */
    double *before, *plus; /* what was absorbed in front, per input channel: linear(before * x + plus) */
    bool scaled, shifted, preceded;
} linear;

/* Weights with each output channel multiplied; false when they are no constant. */
static bool can_scale(const linear *k)
{
    const reef_value *w = k->node->in[1];
    const reef_node *node = k->node;
    if (!w->data || w->dtype != REEF_F32) {
        return false;
    }
    if (k->conv) {
        return w->rank >= 3;
    }
    return w->rank == 2 && w->dims[reef_node_is(node, "Gemm") && reef_node_attr_int(node, "transB", 0) ? 0 : 1] == k->n;
}

/* The input channel that element i of a convolution's weights (M, C/groups, ...) multiplies. */
static int64_t in_channel(const linear *k, int64_t i)
{
    const reef_value *w = k->node->in[1];
    const int64_t per_group = w->dims[1], taps = reef_value_elems(w) / w->dims[0] / per_group;
    const int64_t filters = k->n / reef_node_attr_int(k->node, "group", 1);
    return i / taps % per_group + i / taps / per_group / filters * per_group;
}

/* Constants in front of a convolution that sees no padding: they are part of every product. */
static void absorb_before(reef_fuse *f, linear *k)
{
    reef_node *node = k->node;
    reef_window win;
    const reef_value *w = node->in[1];
    if (!k->conv || k->transposed || !can_scale(k) || reef_window_resolve(node, &win, NULL)) {
        return;
    }
    for (int d = 0; d < win.n; d++) {
        if (win.pad[d] || win.pad_end[d]) {
            return;
        }
    }
    const int64_t channels = node->in[0]->dims[1], elems = reef_value_elems(w);
    double *room = malloc(sizeof *room * (size_t)channels * 4);
    if (!room) {
        f->out_of_memory = true;
        return;
    }
    double *one = room + 2 * channels, *two = room + 3 * channels;
    k->before = room;
    k->plus = room + channels;
    for (int64_t i = 0; i < channels; i++) {
        k->before[i] = 1;
        k->plus[i] = 0;
    }
    for (;;) {
        reef_value *x = node->in[0];
        const reef_node *maker = x->data || x->is_output || x->uses != 1 ? NULL : x->producer;
        bool multiplies;
        if (!maker || maker->n_in < 2) {
            break;
        }
        reef_value *in = maker->in[maker->in[0]->data != NULL];
        if (in->data || !affine(maker, in, 1, one, two, &multiplies)) {
            break;
        }
        for (int64_t i = 0; i < channels; i++) {
            k->plus[i] += k->before[i] * two[i];
            k->before[i] *= one[i];
        }
        k->preceded = true;
        reef_fuse_bypass(f, node, in);
    }
    if (k->preceded) {
        const int64_t per_filter = elems / k->n;
        for (int64_t i = 0; i < elems; i++) {
            k->shift[i / per_filter] += reef_value_number(w, i) * k->plus[in_channel(k, i)];
        }
        k->shifted = true;
    }
}

static void scale_weights(reef_fuse *f, linear *k)
{
    reef_node *node = k->node;
    reef_value *w = node->in[1];
    void *storage;
    reef_value *scaled = reef_graph_const_new(f->graph, w->name, REEF_F32, w->rank, w->dims, &storage);
    if (!scaled) {
        f->out_of_memory = true;
        return;
    }
    const int64_t elems = reef_value_elems(w);
    int64_t inner = 1, period = k->n, offset_groups = 0; /* channel of element i: i / inner % period (+ group) */
    if (k->conv) {
        const int from = k->transposed ? 2 : 1;
        for (int d = from; d < w->rank; d++) {
            inner *= w->dims[d];
        }
        period = k->transposed ? w->dims[1] : k->n;
        offset_groups = k->transposed ? w->dims[0] / reef_node_attr_int(node, "group", 1) : 0; /* inputs per group */
    } else {
        const bool trans = reef_node_is(node, "Gemm") && reef_node_attr_int(node, "transB", 0);
        inner = trans ? w->dims[1] : 1;
    }
    float *to = storage;
    for (int64_t i = 0; i < elems; i++) {
        int64_t channel = i / inner % period;
        if (offset_groups) {
            channel += i / inner / period / offset_groups * period;
        }
        to[i] = (float)(reef_value_number(w, i) * k->scale[channel] * (k->preceded ? k->before[in_channel(k, i)] : 1));
    }
    reef_value *old = node->in[1];
    node->in[1] = scaled;
    scaled->uses = 1;
    old->uses -= old->uses > 0;
}

/* Bias so far: the operator's own input. False when it is not a constant per channel. */
static bool take_bias(linear *k)
{
    reef_node *node = k->node;
    const reef_value *bias = reef_node_is(node, "MatMul") ? NULL : reef_node_in(node, 2);
    if (!bias) {
        return true;
    }
    const double beta = reef_node_is(node, "Gemm") ? (double)reef_node_attr_float(node, "beta", 1) : 1;
    if (k->conv) {
        if (!bias->data || bias->dtype != REEF_F32 || reef_value_elems(bias) != k->n) {
            return false;
        }
        for (int64_t i = 0; i < k->n; i++) {
            k->shift[i] = reef_value_number(bias, i);
        }
    } else if (!per_channel(bias, node->out[0], k->axis, k->shift)) {
        return false;
    }
    for (int64_t i = 0; i < k->n; i++) {
        k->shift[i] *= beta;
    }
    k->shifted = true;
    return true;
}

static size_t order_of(const reef_graph *g, const reef_node *node)
{
    size_t i = 0;
    while (i < g->n_nodes && g->nodes[i] != node) {
        i++;
    }
    return i;
}

static bool is_linear(const reef_node *node)
{
    return reef_node_is(node, "Conv") || reef_node_is(node, "ConvTranspose") || reef_node_is(node, "Gemm") ||
           reef_node_is(node, "MatMul");
}

/* The operand of a same-shape sum beside `in`, or NULL. A later linear operator is left to take `in` itself. */
static reef_value *residual_of(reef_fuse *f, const reef_node *sum, const reef_node *self, const reef_value *in)
{
    if (!(reef_node_is(sum, "Add") || reef_node_is(sum, "Sum")) || sum->n_in != 2 || sum->in[0] == sum->in[1]) {
        return NULL;
    }
    reef_value *other = sum->in[sum->in[0] == in];
    const reef_node *maker = other->data ? NULL : other->producer;
    if (!reef_fuse_same_shape(other, sum->out[0]) || !reef_fuse_same_shape(in, sum->out[0])) {
        return NULL;
    }
    if (maker && is_linear(maker) && other->uses == 1 && !other->is_output && !maker->epilogue.act &&
        !maker->epilogue.residual && order_of(f->graph, maker) > order_of(f->graph, self)) {
        const reef_node *next = reef_fuse_user(f, other);
        if (next == sum) {
            return NULL;
        }
    }
    return other;
}

static void absorb_all(reef_fuse *f, linear *k)
{
    reef_node *node = k->node;
    for (;;) {
        reef_value *y = node->out[0];
        reef_node *next = reef_fuse_user(f, y);
        bool multiplies;
        float a, b;
        reef_act act;
        if (!next || next->n_out < 1 || node->epilogue.act) {
            return;
        }
        if (!node->epilogue.residual && affine(next, y, k->axis, k->one, k->two, &multiplies) &&
            (!multiplies || can_scale(k))) {
            for (int64_t i = 0; i < k->n; i++) {
                k->scale[i] *= k->one[i];
                k->shift[i] = k->shift[i] * k->one[i] + k->two[i];
            }
            k->scaled |= multiplies;
            k->shifted = true;
            reef_fuse_absorb(f, node, next);
            continue;
        }
        reef_value *residual = node->epilogue.residual ? NULL : residual_of(f, next, node, y);
        if (residual) {
            residual->uses++;
            reef_fuse_absorb(f, node, next);
            node->epilogue.residual = residual;
            continue;
        }
        if (reef_fuse_activation(next, &act, &a, &b) && next->in[0] == y && reef_fuse_same_shape(y, next->out[0])) {
            reef_fuse_absorb(f, node, next);
            node->epilogue.act = act;
            node->epilogue.a = a;
            node->epilogue.b = b;
        }
        return;
    }
}

static void fuse_one(reef_fuse *f, reef_node *node)
{
    linear k = {.node = node};
    const reef_value *y = node->out[0];
    k.transposed = reef_node_is(node, "ConvTranspose");
    k.conv = k.transposed || reef_node_is(node, "Conv");
    if (y->dtype != REEF_F32 || y->rank < 2 || node->in[0]->rank < 2 || node->in[1]->rank < 2) {
        return;
    }
    k.axis = k.conv ? 1 : y->rank - 1;
    k.n = y->dims[k.axis];
    if (k.n < 1) {
        return;
    }
    double *room = malloc(sizeof *room * (size_t)k.n * 4);
    if (!room) {
        f->out_of_memory = true;
        return;
    }
    k.scale = room, k.shift = room + k.n, k.one = room + 2 * k.n, k.two = room + 3 * k.n;
    for (int64_t i = 0; i < k.n; i++) {
        k.scale[i] = 1;
        k.shift[i] = 0;
    }
    if (take_bias(&k)) {
        absorb_before(f, &k);
        absorb_all(f, &k);
        float *bias = k.shifted ? reef_fuse_floats(f, (size_t)k.n) : NULL;
        if (bias) {
            for (int64_t i = 0; i < k.n; i++) {
                bias[i] = (float)k.shift[i];
            }
            node->epilogue.bias = bias;
            if (!reef_node_is(node, "MatMul") && node->n_in > 2) { /* it is in the epilogue now */
                if (node->in[2]) {
                    node->in[2]->uses -= node->in[2]->uses > 0;
                }
                node->n_in = 2;
            }
        }
        if (k.scaled || k.preceded) {
            scale_weights(f, &k);
        }
    }
    free(k.before);
    free(room);
}

void reef_fuse_linear(reef_fuse *f)
{
    for (size_t i = 0; i < f->graph->n_nodes; i++) {
        reef_node *node = f->graph->nodes[i];
        /* A node that absorbs moves to a later slot and is met again there, with nothing left to take. */
        if (!node->dead && is_linear(node) && !node->epilogue.bias && !node->epilogue.act && !node->epilogue.residual) {
            fuse_one(f, node);
        }
    }
}

/* ------------------------------------------------------------------- affine -- */

static reef_value *channel_const(reef_fuse *f, const char *name, const reef_value *y, const double *numbers)
{
    int64_t dims[REEF_MAX_RANK] = {0};
    void *storage;
    for (int d = 1; d < y->rank; d++) {
        dims[d - 1] = d == 1 ? y->dims[1] : 1;
    }
    reef_value *c = reef_graph_const_new(f->graph, name, REEF_F32, y->rank - 1, dims, &storage);
    if (!c) {
        f->out_of_memory = true;
        return NULL;
    }
    for (int64_t i = 0; i < y->dims[1]; i++) {
        ((float *)storage)[i] = (float)numbers[i];
    }
    return c;
}

static void affine_one(reef_fuse *f, reef_node *node)
{
    const reef_value *x = node->in[0];
    const int64_t n = x->rank >= 2 ? x->dims[1] : 0;
    double *scale = n > 0 ? malloc(sizeof *scale * (size_t)n * 4) : NULL;
    if (!scale) {
        f->out_of_memory |= n > 0;
        return;
    }
    double *shift = scale + n, *one = shift + n, *two = one + n;
    if (x->dtype == REEF_F32 && batch_norm(node, n, scale, shift)) {
        bool multiplies;
        reef_node *next;
        while ((next = reef_fuse_user(f, node->out[0])) != NULL &&
               affine(next, node->out[0], 1, one, two, &multiplies)) {
            for (int64_t i = 0; i < n; i++) {
                scale[i] *= one[i];
                shift[i] = shift[i] * one[i] + two[i];
            }
            reef_fuse_absorb(f, node, next);
        }
        reef_value *in[3] = {node->in[0], channel_const(f, node->name, x, scale),
                             channel_const(f, node->name, x, shift)};
        if (in[1] && in[2]) {
            reef_fuse_replace(f, node, "reef.Affine", node->fused ? node->fused : "BatchNormalization", in, 3);
        }
    }
    free(scale);
}

void reef_fuse_affine(reef_fuse *f)
{
    for (size_t i = 0; i < f->graph->n_nodes; i++) {
        reef_node *node = f->graph->nodes[i];
        if (!node->dead && reef_node_is(node, "BatchNormalization")) {
            affine_one(f, node);
        }
    }
}

/* ----------------------------------------------------------------- siblings -- */

/* x times a constant (K, N), with at most a bias. */
static bool plain_product(const reef_node *node)
{
    const reef_value *w = node->n_in == 2 ? node->in[1] : NULL;
    return !node->dead && reef_node_is(node, "MatMul") && w && w->data && w->dtype == REEF_F32 && w->rank == 2 &&
           node->in[0]->rank >= 2 && !node->in[0]->data && !node->epilogue.act && !node->epilogue.residual &&
           !node->out[0]->is_output;
}

static void copy_columns(float *to, int64_t width, int64_t at, const reef_value *w)
{
    for (int64_t i = 0, n = reef_value_elems(w); i < n; i++) {
        to[i / w->dims[1] * width + at + i % w->dims[1]] = (float)reef_value_number(w, i);
    }
}

static void merge(reef_fuse *f, reef_node **group, size_t n)
{
    reef_graph *g = f->graph;
    reef_node *first = group[0];
    const reef_value *y = first->out[0];
    int64_t width = 0, at = 0, dims[REEF_MAX_RANK];
    for (size_t i = 0; i < n; i++) {
        width += group[i]->in[1]->dims[1];
    }
    void *weights, *sizes;
    const int64_t parts = (int64_t)n;
    reef_value *w =
        reef_graph_const_new(g, first->in[1]->name, REEF_F32, 2, (int64_t[]){first->in[1]->dims[0], width}, &weights);
    reef_value *split = reef_graph_const_new(g, first->name, REEF_I64, 1, &parts, &sizes);
    memcpy(dims, y->dims, sizeof dims);
    dims[y->rank - 1] = width;
    reef_value *all = reef_graph_value_new(g, y->name, REEF_F32, y->rank, dims);
    float *bias = reef_fuse_floats(f, (size_t)width);
    reef_value **outs = reef_arena_array(&g->arena, n, sizeof *outs);
    reef_attr *axis = reef_arena_array(&g->arena, 1, sizeof *axis);
    if (!w || !split || !all || !bias || !outs || !axis) {
        f->out_of_memory = true;
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const reef_value *part = group[i]->in[1];
        copy_columns(weights, width, at, part);
        for (int64_t j = 0; j < part->dims[1] && group[i]->epilogue.bias; j++) {
            bias[at + j] = group[i]->epilogue.bias[j];
        }
        ((int64_t *)sizes)[i] = part->dims[1];
        outs[i] = group[i]->out[0];
        at += part->dims[1];
    }
    /* The first product becomes the wide one; a Split behind it makes the others' values. */
    for (size_t i = 1; i < n; i++) {
        group[i]->dead = true;
        group[i]->in[0]->uses--;
    }
    first->in[1] = w;
    w->uses = 1;
    first->epilogue.bias = bias;
    first->out[0] = all;
    all->producer = first;
    *axis = (reef_attr){.name = "axis", .type = REEF_ATTR_INT, .i = y->rank - 1};
    size_t position = order_of(g, first) + 1; /* anything after it will do: group[1] was */
    reef_node *node = reef_fuse_insert(f, g->nodes[position], "Split", (reef_value *[]){all, split}, 2, outs[0]);
    if (node) {
        node->name = first->name;
        node->opset = 17;
        node->attrs = axis;
        node->n_attrs = 1;
        node->out = outs;
        node->n_out = n;
        for (size_t i = 0; i < n; i++) {
            outs[i]->producer = node;
        }
    }
}

void reef_fuse_siblings(reef_fuse *f)
{
    enum { MOST = 8 };
    reef_graph *g = f->graph;
    for (size_t i = 0; i < g->n_nodes; i++) {
        reef_node *group[MOST];
        size_t n = 0;
        if (!plain_product(g->nodes[i]) || g->nodes[i]->in[0]->uses < 2) {
            continue;
        }
        for (size_t j = i; j < g->n_nodes && n < MOST; j++) {
            reef_node *node = g->nodes[j];
            if (plain_product(node) && node->in[0] == g->nodes[i]->in[0] &&
                node->out[0]->rank == g->nodes[i]->out[0]->rank) {
                group[n++] = node;
            }
        }
        if (n > 1) {
            merge(f, group, n);
        }
    }
}
