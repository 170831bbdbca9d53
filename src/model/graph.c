/*
 * graph.c - what every pass over the graph needs: new values, attributes, constants as numbers, order, and sweeping.
 */
#include "model/graph.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/dtype.h"
#include "model/onnx.h"
#include "model/shape.h"

void reef_graph_destroy(reef_graph *graph)
{
    if (!graph) {
        return;
    }
    for (struct reef_mapping *mapping = graph->mappings; mapping; mapping = mapping->next) {
        reef_mapping_unmap(mapping);
    }
    reef_arena_free(&graph->arena); /* the mappings' records live there too */
    free(graph);
}

/* ---------------------------------------------------------------- values -- */

reef_value *reef_graph_value_new(reef_graph *graph, const char *name, reef_dtype dtype, int rank, const int64_t *dims)
{
    reef_value *value = NULL;
    if (rank > REEF_MAX_RANK || graph->n_values >= UINT32_MAX ||
        !reef_arena_grow(&graph->arena, (void **)&graph->values, graph->n_values, &graph->cap_values,
                         sizeof *graph->values) ||
        !(value = reef_arena_alloc(&graph->arena, sizeof *value))) {
        return NULL;
    }
    value->name = reef_arena_string(&graph->arena, name ? name : "", name ? strlen(name) : 0);
    if (!value->name) {
        return NULL;
    }
    value->dtype = dtype;
    value->rank = rank;
    for (int i = 0; i < rank; i++) {
        value->dims[i] = dims[i];
    }
    value->id = (uint32_t)graph->n_values;
    graph->values[graph->n_values++] = value;
    return value;
}

reef_value *reef_graph_const_new(reef_graph *graph, const char *name, reef_dtype dtype, int rank, const int64_t *dims,
                                 void **storage)
{
    int64_t elems;
    if (!reef_dims_elems(rank, dims, &elems)) {
        return NULL;
    }
    size_t bytes = (size_t)elems * reef_dtype_bytes(dtype);
    void *memory = reef_arena_alloc(&graph->arena, bytes ? bytes : 1);
    reef_value *value = memory ? reef_graph_value_new(graph, name, dtype, rank, dims) : NULL;
    if (value) {
        value->data = memory;
        value->bytes = bytes;
        *storage = memory;
    }
    return value;
}

bool reef_dims_elems(int rank, const int64_t *dims, int64_t *out)
{
    int64_t elems = 1;
    bool empty = false;
    for (int i = 0; i < rank; i++) {
        if (dims[i] < 0 || dims[i] > REEF_MAX_ELEMS) {
            return false;
        }
        if (dims[i] == 0) {
            empty = true;
        } else if (elems > REEF_MAX_ELEMS / dims[i]) {
            return false;
        } else {
            elems *= dims[i];
        }
    }
    *out = empty ? 0 : elems;
    return true;
}

int64_t reef_value_elems(const reef_value *value)
{
    int64_t elems = 1;
    for (int i = 0; i < value->rank; i++) {
        elems *= value->dims[i];
    }
    return elems;
}

double reef_value_number(const reef_value *value, int64_t i)
{
    const char *at = (const char *)value->data + (size_t)i * reef_dtype_bytes(value->dtype);
    switch (value->dtype) {
    case REEF_F32: {
        float x;
        memcpy(&x, at, sizeof x);
        return x;
    }
    case REEF_F64: {
        double x;
        memcpy(&x, at, sizeof x);
        return x;
    }
    case REEF_F16: {
        uint16_t x;
        memcpy(&x, at, sizeof x);
        return reef_half_to_float(x);
    }
    case REEF_U8:
    case REEF_I8:
    case REEF_I32:
    case REEF_I64:
    case REEF_BOOL: return (double)reef_value_integer(value, i);
    }
    return 0;
}

/* A float as an integer: truncated, saturated, NaN is 0. C leaves what does not fit undefined. */
int64_t reef_double_to_int(double x)
{
    if (x >= 0x1p63) {
        return INT64_MAX;
    }
    if (x < -0x1p63) {
        return INT64_MIN;
    }
    return x == x ? (int64_t)x : 0;
}

int64_t reef_value_integer(const reef_value *value, int64_t i)
{
    const char *at = (const char *)value->data + (size_t)i * reef_dtype_bytes(value->dtype);
    switch (value->dtype) {
    case REEF_I64: {
        int64_t x;
        memcpy(&x, at, sizeof x);
        return x;
    }
    case REEF_I32: {
        int32_t x;
        memcpy(&x, at, sizeof x);
        return x;
    }
    case REEF_I8: return (int8_t)*at;
    case REEF_U8: return (uint8_t)*at;
    case REEF_BOOL: return *at != 0;
    case REEF_F16:
    case REEF_F32:
    case REEF_F64: return reef_double_to_int(reef_value_number(value, i));
    }
    return 0;
}

/* ------------------------------------------------------------ attributes -- */

const reef_attr *reef_node_attr(const reef_node *node, const char *name)
{
    for (size_t i = 0; i < node->n_attrs; i++) {
        if (strcmp(node->attrs[i].name, name) == 0) {
            return &node->attrs[i];
        }
    }
    return NULL;
}

int64_t reef_node_attr_int(const reef_node *node, const char *name, int64_t otherwise)
{
    const reef_attr *attr = reef_node_attr(node, name);
    return attr && attr->type == REEF_ATTR_INT ? attr->i : otherwise;
}

float reef_node_attr_float(const reef_node *node, const char *name, float otherwise)
{
    const reef_attr *attr = reef_node_attr(node, name);
    return attr && attr->type == REEF_ATTR_FLOAT ? attr->f : otherwise;
}

const char *reef_node_attr_string(const reef_node *node, const char *name, const char *otherwise)
{
    const reef_attr *attr = reef_node_attr(node, name);
    return attr && attr->type == REEF_ATTR_STRING ? attr->s : otherwise;
}

bool reef_node_is(const reef_node *node, const char *op)
{
    return strcmp(node->op, op) == 0 && (node->domain[0] == 0 || strncmp(op, "reef.", 5) == 0);
}

/* ----------------------------------------------------- order and sweeping -- */

static const reef_value *key_value(const reef_node *node) /* a value only this node makes: the reader insists on one */
{
    for (size_t i = 0; i < node->n_out; i++) {
        if (node->out[i]) {
            return node->out[i];
        }
    }
    return NULL;
}

/* Depth first along inputs, in file order, so that a file already in order keeps its order. Linear, and the stack is
 * on the heap: a chain of a million nodes is only a long chain. */
reef_status reef_graph_sort(reef_graph *graph, reef_error *error)
{
    enum { NEW, OPEN, DONE };
    struct frame {
        reef_node *node;
        size_t next; /* input to look at */
    };
    if (graph->n_nodes == 0) {
        return REEF_OK;
    }
    reef_status status = REEF_NO_MEMORY;
    uint8_t *state = calloc(graph->n_values + 1, 1); /* by id of the node's key value */
    struct frame *stack = calloc(graph->n_nodes, sizeof *stack);
    reef_node **order = calloc(graph->n_nodes, sizeof *order);
    size_t n_order = 0;
    if (!state || !stack || !order) {
        reef_fail(error, status, "out of memory while ordering %zu nodes", graph->n_nodes);
        goto done;
    }
    for (size_t i = 0; i < graph->n_nodes; i++) {
        size_t depth = 0;
        if (state[key_value(graph->nodes[i])->id] == NEW) {
            state[key_value(graph->nodes[i])->id] = OPEN;
            stack[depth++] = (struct frame){graph->nodes[i], 0};
        }
        while (depth) {
            struct frame *top = &stack[depth - 1];
            if (top->next == top->node->n_in) {
                state[key_value(top->node)->id] = DONE;
                order[n_order++] = top->node;
                depth--;
                continue;
            }
            reef_value *in = top->node->in[top->next++];
            if (!in || !in->producer) {
                continue;
            }
            uint8_t *seen = &state[key_value(in->producer)->id];
            if (*seen == OPEN) {
                status =
                    reef_fail(error, REEF_FORMAT, "node '%.80s' (%.40s) needs '%.80s', which depends on it: a cycle",
                              top->node->name, top->node->op, in->name);
                goto done;
            }
            if (*seen == NEW) {
                *seen = OPEN;
                stack[depth++] = (struct frame){in->producer, 0};
            }
        }
    }
    memcpy(graph->nodes, order, n_order * sizeof *order);
    status = REEF_OK;
done:
    free(state);
    free(stack);
    free(order);
    return status;
}

void reef_graph_sweep(reef_graph *graph)
{
    for (size_t i = 0; i < graph->n_values; i++) {
        graph->values[i]->uses = graph->values[i]->is_output;
    }
    for (size_t i = graph->n_nodes; i-- > 0;) { /* consumers before producers */
        reef_node *node = graph->nodes[i];
        bool wanted = false;
        for (size_t k = 0; k < node->n_out; k++) {
            wanted |= node->out[k] && node->out[k]->uses > 0;
        }
        node->dead |= !wanted;
        if (node->dead) {
            continue;
        }
        for (size_t k = 0; k < node->n_in; k++) {
            if (node->in[k]) {
                node->in[k]->uses++;
            }
        }
        if (node->epilogue.residual) {
            node->epilogue.residual->uses++;
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < graph->n_nodes; i++) {
        if (!graph->nodes[i]->dead) {
            graph->nodes[kept++] = graph->nodes[i];
        }
    }
    graph->n_nodes = kept;
}
