/*
 * graph_builder.c - appends to a graph what the reader would have.
 */
#include "support/graph_builder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *must(void *p)
{
    if (!p) {
        abort();
    }
    return p;
}

static void append(reef_graph *g, reef_value ***list, size_t *n, reef_value *value)
{
    reef_value **grown = must(reef_arena_array(&g->arena, *n + 1, sizeof *grown));
    if (*n) {
        memcpy(grown, *list, *n * sizeof *grown);
    }
    grown[(*n)++] = value;
    *list = grown;
}

reef_graph *build_graph(int opset)
{
    reef_graph *g = must(calloc(1, sizeof *g));
    g->opset = opset;
    g->ir_version = 8;
    g->producer = "test";
    return g;
}

reef_value *build_input(reef_graph *g, const char *name, reef_dtype dtype, int rank, const int64_t *dims)
{
    reef_value *value = must(reef_graph_value_new(g, name, dtype, rank, dims));
    value->is_input = true;
    append(g, &g->inputs, &g->n_inputs, value);
    return value;
}

reef_value *build_random(reef_graph *g, int rank, const int64_t *dims, double low, double high)
{
    void *storage;
    reef_value *value = must(reef_graph_const_new(g, "weights", REEF_F32, rank, dims, &storage));
    uint32_t state = 12345 + value->id * 977;
    for (int64_t i = 0; i < reef_value_elems(value); i++) {
        state = state * 1664525 + 1013904223;
        ((float *)storage)[i] = (float)(low + (high - low) * (state >> 8) / (1 << 24));
    }
    return value;
}

reef_value *build_number(reef_graph *g, double number)
{
    void *storage;
    reef_value *value = must(reef_graph_const_new(g, "number", REEF_F32, 0, NULL, &storage));
    *(float *)storage = (float)number;
    return value;
}

reef_value *build_ints(reef_graph *g, int n, const int64_t *ints)
{
    void *storage;
    const int64_t dim = n;
    reef_value *value = must(reef_graph_const_new(g, "ints", REEF_I64, 1, &dim, &storage));
    memcpy(storage, ints, sizeof *ints * (size_t)n);
    return value;
}

reef_value *build_variadic(reef_graph *g, const char *op, size_t n, reef_value *const *in)
{
    char name[32];
    reef_node *node = must(reef_arena_alloc(&g->arena, sizeof *node));
    if (!reef_arena_grow(&g->arena, (void **)&g->nodes, g->n_nodes, &g->cap_nodes, sizeof *g->nodes)) {
        abort();
    }
    snprintf(name, sizeof name, "%s_%zu", op, g->n_nodes);
    node->op = op;
    node->domain = "";
    node->opset = (int)g->opset;
    node->in = must(reef_arena_array(&g->arena, n + 1, sizeof *node->in));
    memcpy(node->in, in, n * sizeof *in);
    node->n_in = n;
    node->out = must(reef_arena_array(&g->arena, 1, sizeof *node->out));
    node->n_out = 1;
    node->out[0] = must(reef_graph_value_new(g, name, 0, -1, NULL));
    node->name = node->out[0]->name;
    node->out[0]->producer = node;
    for (size_t i = 0; i < n; i++) {
        in[i]->uses++;
    }
    g->nodes[g->n_nodes++] = node;
    return node->out[0];
}

reef_value *build_node(reef_graph *g, const char *op, reef_value *a, reef_value *b, reef_value *c, reef_value *d)
{
    reef_value *const in[4] = {a, b, c, d};
    size_t n = 0;
    while (n < 4 && in[n]) {
        n++;
    }
    return build_variadic(g, op, n, in);
}

static reef_attr *attribute(reef_graph *g, const char *name, reef_attr_type type)
{
    reef_node *node = g->nodes[g->n_nodes - 1];
    reef_attr *attrs = must(reef_arena_array(&g->arena, node->n_attrs + 1, sizeof *attrs));
    if (node->n_attrs) {
        memcpy(attrs, node->attrs, node->n_attrs * sizeof *attrs);
    }
    node->attrs = attrs;
    attrs[node->n_attrs] = (reef_attr){.name = name, .type = type};
    return &attrs[node->n_attrs++];
}

void build_int(reef_graph *g, const char *name, int64_t value)
{
    attribute(g, name, REEF_ATTR_INT)->i = value;
}

void build_float(reef_graph *g, const char *name, float value)
{
    attribute(g, name, REEF_ATTR_FLOAT)->f = value;
}

void build_int_list(reef_graph *g, const char *name, int n, const int64_t *ints)
{
    reef_attr *attr = attribute(g, name, REEF_ATTR_INTS);
    int64_t *copy = must(reef_arena_array(&g->arena, (size_t)n, sizeof *copy));
    memcpy(copy, ints, sizeof *ints * (size_t)n);
    attr->ints = copy;
    attr->count = (size_t)n;
}

void build_output(reef_graph *g, reef_value *value)
{
    value->is_output = true;
    value->uses++;
    append(g, &g->outputs, &g->n_outputs, value);
}
