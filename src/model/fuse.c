/*
 * fuse.c - groups of nodes become one, in this order:
 *
 *   attention        MatMul, scale, mask, Softmax, guard, MatMul      -> reef.Attention          fuse_attention.c
 *   layer norm       ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, ... -> reef.LayerNorm          fuse_norm.c
 *   activations      x * sigmoid(x), erf and tanh GELU, hard swish    -> reef.Act                fuse_act.c
 *   linear           Conv, ConvTranspose, Gemm, MatMul take BatchNormalization, constant Mul, Add, Sub and Div, one
 *                    residual Add, one activation                     -> node.epilogue           fuse_linear.c
 *   affine           BatchNormalization that is left, with Mul, Add   -> reef.Affine (x, scale, shift)
 *   sums, siblings   Add before a layer norm; Q, K and V products of one input as one product
 *
 * Only rewrites that are exact up to rounding: constants are compared to 2e-6, shapes must match without broadcasting
 * unless said otherwise, and a value that something else reads is never folded away.
 */
#include "model/fuse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static bool reads(const reef_node *node, const reef_value *value)
{
    for (size_t i = 0; i < node->n_in; i++) {
        if (node->in[i] == value) {
            return true;
        }
    }
    return false;
}

static void note(reef_fuse *f, reef_node *node, const reef_value *value)
{
    if (value && value->id < f->n_users) {
        f->users[value->id] = node;
    }
}

static void index_users(reef_fuse *f)
{
    memset(f->users, 0, sizeof *f->users * f->n_users);
    for (size_t i = 0; i < f->graph->n_nodes; i++) {
        reef_node *node = f->graph->nodes[i];
        for (size_t j = 0; j < node->n_in && !node->dead; j++) {
            note(f, node, node->in[j]);
        }
    }
}

reef_node *reef_fuse_user(reef_fuse *f, const reef_value *value)
{
    if (value->uses != 1 || value->is_output) {
        return NULL;
    }
    if (value->id < f->n_users) {
        reef_node *node = f->users[value->id];
        if (node && !node->dead && reads(node, value)) {
            return node;
        }
    }
    for (size_t i = 0; i < f->graph->n_nodes; i++) {
        reef_node *node = f->graph->nodes[i];
        if (!node->dead && reads(node, value)) {
            note(f, node, value);
            return node;
        }
    }
    return NULL;
}

reef_node *reef_fuse_made_by(const reef_value *value, const char *op)
{
    return value && !value->data && value->producer && !value->producer->dead && value->producer->out[0] == value &&
                   !value->producer->epilogue.act && !value->producer->epilogue.residual &&
                   reef_node_is(value->producer, op)
               ? value->producer
               : NULL;
}

bool reef_fuse_number(const reef_value *value, double *out)
{
    if (!value || !value->data || value->rank < 0 || reef_value_elems(value) != 1) {
        return false;
    }
    *out = reef_value_number(value, 0);
    return true;
}

bool reef_fuse_near(double a, double b)
{
    return fabs(a - b) <= 2e-6 * fabs(b);
}

bool reef_fuse_same_shape(const reef_value *a, const reef_value *b)
{
    return a->dtype == b->dtype && a->rank == b->rank &&
           (a->rank == 0 || !memcmp(a->dims, b->dims, sizeof *a->dims * (size_t)a->rank));
}

bool reef_fuse_with_number(const reef_node *node, reef_value **other, double *number)
{
    const bool commutes = reef_node_is(node, "Mul") || reef_node_is(node, "Add");
    for (size_t i = 0; i < (commutes ? 2u : 1u) && node->n_in == 2; i++) {
        reef_value *v = node->in[i];
        if (!v->data && reef_fuse_number(node->in[1 - i], number) && reef_fuse_same_shape(v, node->out[0])) {
            *other = v;
            return true;
        }
    }
    return false;
}

/* One use fewer; a node whose last output nobody uses dies, and lets go of its inputs. */
static void release(reef_fuse *f, reef_value *value)
{
    if (!value || !value->uses || --value->uses || !value->producer || value->producer->dead) {
        return;
    }
    reef_node *node = value->producer;
    for (size_t i = 0; i < node->n_out; i++) {
        if (node->out[i] && node->out[i]->uses) {
            return;
        }
    }
    node->dead = true;
    for (size_t i = 0; i < node->n_in; i++) {
        release(f, node->in[i]);
    }
    release(f, node->epilogue.residual);
}

static void join_names(reef_fuse *f, reef_node *node, const reef_node *last)
{
    const char *a = node->fused ? node->fused : node->op, *b = last->fused ? last->fused : last->op;
    const size_t n = strlen(a), m = strlen(b);
    char *joined = reef_arena_alloc(&f->graph->arena, n + m + 2);
    if (!joined) {
        f->out_of_memory = true;
        return;
    }
    memcpy(joined, a, n);
    joined[n] = '+';
    memcpy(joined + n + 1, b, m);
    node->fused = joined;
}

void reef_fuse_replace(reef_fuse *f, reef_node *root, const char *op, const char *fused, reef_value *const *in,
                       size_t n_in)
{
    reef_value **copy = reef_arena_array(&f->graph->arena, n_in + 1, sizeof *copy), **old = root->in;
    const size_t n_old = root->n_in;
    if (!copy) {
        f->out_of_memory = true;
        return;
    }
    for (size_t i = 0; i < n_in; i++) {
        copy[i] = in[i];
        if (in[i]) {
            in[i]->uses++;
            note(f, root, in[i]);
        }
    }
    root->in = copy;
    root->n_in = n_in;
    root->op = op;
    root->domain = "";
    root->fused = fused;
    root->attrs = NULL;
    root->n_attrs = 0;
    for (size_t i = 0; i < n_old; i++) {
        release(f, old[i]);
    }
}

static size_t position(const reef_graph *g, const reef_node *node)
{
    size_t i = 0;
    while (g->nodes[i] != node) {
        i++;
    }
    return i;
}

void reef_fuse_absorb(reef_fuse *f, reef_node *node, reef_node *last)
{
    reef_value *middle = node->out[0];
    join_names(f, node, last);
    node->name = last->name;
    node->out[0] = last->out[0];
    node->out[0]->producer = node;
    last->dead = true;
    middle->producer = NULL;
    for (size_t i = 0; i < last->n_in; i++) {
        release(f, last->in[i]);
    }
    /* The later slot: everything that last read has been computed there. */
    const size_t a = position(f->graph, node), b = position(f->graph, last);
    f->graph->nodes[a] = last;
    f->graph->nodes[b] = node;
}

void reef_fuse_bypass(reef_fuse *f, reef_node *node, reef_value *in)
{
    reef_value *old = node->in[0];
    in->uses++;
    node->in[0] = in;
    note(f, node, in);
    release(f, old);
}

void reef_fuse_attrs(reef_fuse *f, reef_node *node, const char *float_name, float value, const char *int_name,
                     int64_t number)
{
    node->attrs = reef_arena_array(&f->graph->arena, 2, sizeof *node->attrs);
    if (!node->attrs) {
        f->out_of_memory = true;
        return;
    }
    node->n_attrs = int_name ? 2 : 1;
    node->attrs[0] = (reef_attr){.name = float_name, .type = REEF_ATTR_FLOAT, .f = value};
    node->attrs[1] = (reef_attr){.name = int_name, .type = REEF_ATTR_INT, .i = number};
}

reef_node *reef_fuse_insert(reef_fuse *f, const reef_node *before, const char *op, reef_value *const *in, size_t n_in,
                            reef_value *out)
{
    reef_graph *g = f->graph;
    reef_node *node = reef_arena_alloc(&g->arena, sizeof *node);
    void *items = g->nodes;
    if (!node || !reef_arena_grow(&g->arena, &items, g->n_nodes, &g->cap_nodes, sizeof *g->nodes)) {
        f->out_of_memory = true;
        return NULL;
    }
    g->nodes = items;
    *node = (reef_node){.op = op, .domain = "", .name = before->name, .opset = before->opset, .n_in = n_in, .n_out = 1};
    node->in = reef_arena_array(&g->arena, n_in, sizeof *node->in);
    node->out = reef_arena_array(&g->arena, 1, sizeof *node->out);
    if (!node->in || !node->out) {
        f->out_of_memory = true;
        return NULL;
    }
    const size_t at = position(g, before);
    memmove(&g->nodes[at + 1], &g->nodes[at], sizeof *g->nodes * (g->n_nodes - at));
    g->nodes[at] = node;
    g->n_nodes++;
    for (size_t i = 0; i < n_in; i++) {
        node->in[i] = in[i];
        in[i]->uses++;
    }
    node->out[0] = out;
    out->producer = node;
    return node;
}

float *reef_fuse_floats(reef_fuse *f, size_t n)
{
    float *floats = reef_arena_array(&f->graph->arena, n, sizeof *floats);
    f->out_of_memory |= !floats;
    return floats;
}

static bool all_ints_are(const reef_node *node, const char *name, int64_t value)
{
    const reef_attr *attr = reef_node_attr(node, name);
    for (size_t i = 0; attr && attr->type == REEF_ATTR_INTS && i < attr->count; i++) {
        if (attr->ints[i] != value) {
            return false;
        }
    }
    return !attr || attr->type == REEF_ATTR_INTS;
}

/* Answers its first input as it is: a cast to the type it has, a pool over windows of one element (what an adaptive pool
 * becomes when the size is right already). */
static bool is_identity(const reef_node *node)
{
    if (reef_node_is(node, "Cast")) {
        return node->in[0]->dtype == node->out[0]->dtype;
    }
    if (reef_node_is(node, "AveragePool") || (reef_node_is(node, "MaxPool") && node->n_out == 1)) {
        return reef_node_attr(node, "kernel_shape") && all_ints_are(node, "kernel_shape", 1) &&
               all_ints_are(node, "strides", 1) && all_ints_are(node, "pads", 0) &&
               reef_fuse_same_shape(node->in[0], node->out[0]);
    }
    return false;
}

static void drop_identities(reef_fuse *f)
{
    for (size_t i = 0; i < f->graph->n_nodes; i++) {
        reef_node *node = f->graph->nodes[i];
        if (node->dead || node->out[0]->is_output || !is_identity(node)) {
            continue;
        }
        reef_value *from = node->in[0], *to = node->out[0];
        for (size_t j = i + 1; j < f->graph->n_nodes; j++) {
            reef_node *reader = f->graph->nodes[j];
            for (size_t m = 0; m < reader->n_in && !reader->dead; m++) {
                if (reader->in[m] == to) {
                    reader->in[m] = from;
                    from->uses++;
                    to->uses--;
                }
            }
        }
        node->dead = true;
        release(f, from);
    }
}

/* ------------------------------------------------- equal nodes, computed once -- */

static bool equal_values(const reef_value *a, const reef_value *b)
{
    return a == b || (a && b && a->data && b->data && reef_fuse_same_shape(a, b) && a->bytes == b->bytes &&
                      a->bytes <= 64 && !memcmp(a->data, b->data, a->bytes));
}

static bool equal_attrs(const reef_attr *a, const reef_attr *b)
{
    if (strcmp(a->name, b->name) != 0 || a->type != b->type || a->count != b->count) {
        return false;
    }
    switch (a->type) {
    case REEF_ATTR_FLOAT: return a->f == b->f;
    case REEF_ATTR_INT: return a->i == b->i;
    case REEF_ATTR_STRING: return !strcmp(a->s, b->s);
    case REEF_ATTR_INTS: return a->count == 0 || !memcmp(a->ints, b->ints, sizeof *a->ints * a->count);
    default: return false;
    }
}

static bool equal_nodes(const reef_node *a, const reef_node *b)
{
    if (a->n_in != b->n_in || a->n_out != 1 || b->n_out != 1 || a->n_attrs != b->n_attrs || a->opset != b->opset ||
        !a->out[0] || !b->out[0] || strcmp(a->op, b->op) != 0 || strcmp(a->domain, b->domain) != 0) {
        return false;
    }
    for (size_t i = 0; i < a->n_in; i++) {
        if (!equal_values(a->in[i], b->in[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < a->n_attrs; i++) {
        if (!equal_attrs(&a->attrs[i], &b->attrs[i])) {
            return false;
        }
    }
    return reef_fuse_same_shape(a->out[0], b->out[0]) && !strstr(a->op, "Random");
}

/* Exporters repeat small things per layer: a mask, a cast. Equal nodes read the same run-time value, so they are found
 * among the readers of one value: the first is kept. */
static void merge_equal(reef_fuse *f)
{
    reef_graph *g = f->graph;
    enum { WINDOW = 2048 };
    for (size_t i = 0; i < g->n_nodes; i++) {
        reef_node *a = g->nodes[i];
        const reef_value *input = NULL;
        for (size_t j = 0; j < a->n_in && !a->dead && !input; j++) {
            input = a->in[j] && !a->in[j]->data ? a->in[j] : NULL;
        }
        for (size_t j = i + 1; input && input->uses > 1 && j < g->n_nodes && j < i + WINDOW; j++) {
            reef_node *b = g->nodes[j];
            if (b->dead || b->epilogue.act || !reads(b, input) || !equal_nodes(a, b) || b->out[0]->is_output) {
                continue;
            }
            reef_value *from = a->out[0], *to = b->out[0];
            for (size_t m = j + 1; m < g->n_nodes && to->uses; m++) {
                for (size_t n = 0; n < g->nodes[m]->n_in && !g->nodes[m]->dead; n++) {
                    if (g->nodes[m]->in[n] == to) {
                        g->nodes[m]->in[n] = from;
                        from->uses++;
                        to->uses--;
                    }
                }
            }
            b->dead = true;
            for (size_t n = 0; n < b->n_in; n++) {
                release(f, b->in[n]);
            }
        }
    }
}

reef_status reef_graph_fuse(reef_graph *graph, reef_error *error)
{
    static void (*const passes[])(reef_fuse *) = {drop_identities,  merge_equal,           reef_fuse_attentions,
                                                  reef_fuse_norms,  reef_fuse_activations, reef_fuse_linear,
                                                  reef_fuse_affine, reef_fuse_norm_sums,   reef_fuse_siblings};
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        reef_fuse f = {.graph = graph, .n_users = graph->n_values};
        f.users = calloc(f.n_users + 1, sizeof *f.users);
        if (f.users) {
            index_users(&f);
            passes[i](&f);
        }
        free(f.users);
        if (!f.users || f.out_of_memory) {
            return reef_fail(error, REEF_NO_MEMORY, "out of memory while fusing");
        }
    }
    return REEF_OK;
}
