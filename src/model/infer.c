/*
 * infer.c - settles dtype and shape of every value, in one walk over the nodes.
 *
 * Where it sits: ONNX file -> graph -> [inference and folding] -> fusion -> plan. Nodes come in topological order, so
 * when a node's turn comes all its inputs have shapes, and those that shape arithmetic makes have contents too: each
 * node is inferred, then folded if it can be, and nothing is visited twice. Identity, Dropout and casts to the same
 * type vanish here: a table from value to replacement is applied to inputs as they are met.
 */
#include "model/infer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/dtype.h"
#include "model/names.h"
#include "model/onnx.h"

/* ---------------------------------------------------------------- inputs -- */

reef_status reef_graph_set_shape(reef_graph *graph, const char *input, const int64_t *dims, int rank, reef_error *error)
{
    char want[REEF_DIMS_TEXT], have[REEF_DIMS_TEXT];
    for (size_t i = 0; i < graph->n_inputs; i++) {
        reef_value *value = graph->inputs[i];
        if (strcmp(value->name, input) != 0) {
            continue;
        }
        if (rank < 0 || rank > REEF_MAX_RANK || (value->rank >= 0 && value->rank != rank)) {
            return reef_fail(error, REEF_SHAPE, "input '%.80s' has %d dimensions in the file (%s), not %d", value->name,
                             value->rank, reef_dims_text(value->rank, value->dims, have, sizeof have), rank);
        }
        int64_t elems;
        if (!reef_dims_elems(rank, dims, &elems) || elems == 0) {
            return reef_fail(error, REEF_SHAPE, "input '%.80s': %s is no possible shape", value->name,
                             reef_dims_text(rank, dims, want, sizeof want));
        }
        for (int k = 0; value->rank >= 0 && k < rank; k++) {
            if (value->dims[k] >= 0 && value->dims[k] != dims[k]) {
                return reef_fail(error, REEF_SHAPE,
                                 "input '%.80s': shape %s does not fit the file's %s: dimension %d is fixed at %lld",
                                 value->name, reef_dims_text(rank, dims, want, sizeof want),
                                 reef_dims_text(value->rank, value->dims, have, sizeof have), k,
                                 (long long)value->dims[k]);
            }
        }
        value->rank = rank;
        memcpy(value->dims, dims, (size_t)rank * sizeof *dims);
        return REEF_OK;
    }
    return reef_fail(error, REEF_NOT_FOUND, "the model has no input '%.80s'%s%.80s%s", input,
                     graph->n_inputs ? "; its first input is '" : "", graph->n_inputs ? graph->inputs[0]->name : "",
                     graph->n_inputs ? "'" : "");
}

/* Dimensions of one name are one size: a shape given for one input settles the others that name it. */
static reef_status share_named_dims(reef_graph *graph, reef_error *error)
{
    reef_names names = {0};
    reef_status status = REEF_OK;
    for (int pass = 0; pass < 2 && status == REEF_OK; pass++) {
        for (size_t i = 0; i < graph->n_inputs && status == REEF_OK; i++) {
            reef_value *value = graph->inputs[i];
            for (int k = 0; k < value->rank; k++) {
                const char *name = value->dim_names[k];
                int64_t *known = name ? reef_names_get(&names, name, strlen(name)) : NULL;
                if (pass == 0 && name && !known && value->dims[k] > 0 &&
                    !reef_names_put(&names, name, strlen(name), &value->dims[k])) {
                    status = reef_fail(error, REEF_NO_MEMORY, "out of memory for dimension names");
                    break;
                }
                if (pass == 1 && known && value->dims[k] < 0) {
                    value->dims[k] = *known;
                }
            }
        }
    }
    reef_names_free(&names);
    return status;
}

static reef_status check_inputs(reef_graph *graph, reef_error *error)
{
    for (size_t i = 0; i < graph->n_inputs; i++) {
        const reef_value *value = graph->inputs[i];
        if (!value->dtype) {
            return reef_fail(error, REEF_FORMAT, "input '%.80s' has no element type", value->name);
        }
        if (value->rank < 0) {
            return reef_fail(error, REEF_SHAPE, "input '%.80s' has no shape in the file: give --shape %.80s=...",
                             value->name, value->name);
        }
        for (int k = 0; k < value->rank; k++) {
            if (value->dims[k] >= 0) {
                continue;
            }
            int64_t example[REEF_MAX_RANK];
            for (int j = 0; j < value->rank; j++) { /* 1 for a batch, 224 for what is likely a picture's side */
                example[j] = value->dims[j] >= 0 ? value->dims[j] : j == 0 ? 1 : value->rank == 4 && j > 1 ? 224 : 128;
            }
            char text[REEF_DIMS_TEXT];
            return reef_fail(error, REEF_SHAPE,
                             "input '%.80s' has dynamic dimension %d ('%.40s'): give --shape %.80s=%s or the like",
                             value->name, k, value->dim_names[k] ? value->dim_names[k] : "unnamed", value->name,
                             reef_dims_text(value->rank, example, text, sizeof text));
        }
        int64_t elems;
        if (!reef_dims_elems(value->rank, value->dims, &elems)) {
            return reef_fail(error, REEF_SHAPE, "input '%.80s' has more than 2^%d elements", value->name,
                             (int)REEF_MAX_ELEMS_LOG2);
        }
    }
    return REEF_OK;
}

/* Names all operators without a rule at once, up to the message's length. */
static reef_status check_operators(const reef_graph *graph, reef_error *error)
{
    char list[360] = "";
    size_t used = 0, unknown = 0;
    const char *last = "";
    for (size_t i = 0; i < graph->n_nodes; i++) {
        const reef_node *node = graph->nodes[i];
        if (reef_infer_find(node)) {
            continue;
        }
        unknown++;
        if (used < sizeof list - 1 && strcmp(last, node->op) != 0) {
            int more = snprintf(list + used, sizeof list - used, "%s%.40s%s%.40s (node '%.60s')", used ? ", " : "",
                                node->domain, node->domain[0] ? "." : "", node->op, node->name);
            used += more > 0 ? (size_t)more : 0;
            last = node->op;
        }
    }
    return unknown ? reef_fail(error, REEF_UNSUPPORTED, "%zu node%s with an unsupported operator: %s", unknown,
                               unknown > 1 ? "s" : "", list)
                   : REEF_OK;
}

/* ---------------------------------------------------------- pass-through -- */

static bool same_shape(const reef_value *a, const reef_value *b)
{
    return a->rank == b->rank && (a->rank == 0 || memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims) == 0);
}

/* A node whose first output is its first input, whatever the data. */
static bool passes_through(const reef_node *node)
{
    static const char *const single[] = {"Sum", "Mean", "Max", "Min", "Concat"};
    if (reef_node_is(node, "Identity") || reef_node_is(node, "Dropout")) {
        return true;
    }
    if (reef_node_is(node, "Cast") || reef_node_is(node, "CastLike")) {
        return node->in[0]->dtype == node->out[0]->dtype;
    }
    if (reef_node_is(node, "Expand") || reef_node_is(node, "Reshape")) {
        return same_shape(node->in[0], node->out[0]);
    }
    for (size_t i = 0; i < sizeof single / sizeof single[0]; i++) {
        if (node->n_in == 1 && reef_node_is(node, single[i])) {
            return true;
        }
    }
    return false;
}

/* Dropout's mask keeps everything. */
static reef_status fill_mask(reef_infer *infer, reef_value *mask)
{
    size_t elems = (size_t)reef_value_elems(mask), size = reef_dtype_bytes(mask->dtype);
    void *memory = NULL;
    reef_status status = reef_fold_storage(infer, elems * size, &memory);
    if (status != REEF_OK) {
        return status;
    }
    char *storage = memory;
    const float one = 1;
    const uint16_t half_one = 0x3c00;
    for (size_t i = 0; i < elems; i++) {
        if (mask->dtype == REEF_F32) {
            memcpy(storage + i * size, &one, size);
        } else if (mask->dtype == REEF_F16) {
            memcpy(storage + i * size, &half_one, size);
        } else {
            storage[i * size] = 1;
        }
    }
    mask->data = storage;
    mask->bytes = elems * size;
    mask->producer = NULL;
    return REEF_OK;
}

typedef struct forwarding {
    reef_value **to; /* by value id; NULL: itself */
    size_t count;
} forwarding;

/* Never a chain: a replacement was settled when its own node was visited. */
static void apply_forwarding(const forwarding *forward, reef_node *node)
{
    for (size_t i = 0; i < node->n_in; i++) {
        if (node->in[i] && node->in[i]->id < forward->count && forward->to[node->in[i]->id]) {
            node->in[i] = forward->to[node->in[i]->id];
        }
    }
}

/* Takes a node that passes its input through out of the graph, where names allow it. */
static reef_status bypass(reef_infer *infer, forwarding *forward)
{
    reef_node *node = infer->node;
    reef_value *in = node->in[0], *out = node->out[0];
    reef_value *mask = reef_node_is(node, "Dropout") ? reef_node_out(node, 1) : NULL;
    if (mask && mask->uses && !mask->data) {
        reef_status status = fill_mask(infer, mask);
        if (status != REEF_OK) {
            return status;
        }
        node->out[1] = NULL;
    }
    if (!out) {
        return REEF_OK;
    }
    if (!out->is_output) {
        forward->to[out->id] = in;
        node->dead = true;
    } else if (in->producer && !in->is_output) { /* the producer writes the output itself, whoever reads follows */
        reef_node *producer = in->producer;
        for (size_t i = 0; i < producer->n_out; i++) {
            if (producer->out[i] == in) {
                producer->out[i] = out;
            }
        }
        out->producer = producer;
        in->producer = NULL;
        forward->to[in->id] = out;
        node->dead = true;
    } /* else an output that is an input, a constant or another output: the node stays, a copy */
    return REEF_OK;
}

/* ------------------------------------------------------------------ walk -- */

static reef_status infer_node(reef_infer *infer, forwarding *forward)
{
    reef_node *node = infer->node;
    apply_forwarding(forward, node);
    reef_status status = reef_infer_check_arity(infer);
    if (status == REEF_OK) {
        status = reef_infer_find(node)(infer);
    }
    if (status != REEF_OK) {
        return status;
    }
    bool folded = false;
    status = reef_fold_node(infer, &folded);
    if (status != REEF_OK) {
        return status;
    }
    if (folded) {
        for (size_t i = 0; i < node->n_out; i++) {
            if (node->out[i]) {
                node->out[i]->producer = NULL;
            }
        }
        node->dead = true;
        return REEF_OK;
    }
    return passes_through(node) ? bypass(infer, forward) : REEF_OK;
}

reef_status reef_graph_infer(reef_graph *graph, reef_error *error)
{
    reef_graph_sweep(graph);
    reef_status status = check_operators(graph, error);
    if (status == REEF_OK) {
        status = share_named_dims(graph, error);
    }
    if (status == REEF_OK) {
        status = check_inputs(graph, error);
    }
    if (status != REEF_OK) {
        return status;
    }
    forwarding forward = {calloc(graph->n_values + 1, sizeof *forward.to), graph->n_values};
    if (!forward.to) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory for %zu values", graph->n_values);
    }
    reef_infer infer = {.graph = graph, .error = error};
    for (size_t i = 0; i < graph->n_nodes && status == REEF_OK; i++) {
        infer.node = graph->nodes[i];
        status = infer_node(&infer, &forward);
    }
    for (size_t i = 0; i < graph->n_nodes && status == REEF_OK; i++) {
        apply_forwarding(&forward, graph->nodes[i]); /* readers of a value whose producer now writes a graph output */
    }
    free(forward.to);
    if (status == REEF_OK) {
        reef_graph_sweep(graph);
    }
    return status;
}
