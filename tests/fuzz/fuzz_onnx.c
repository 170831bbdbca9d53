/*
 * fuzz_onnx.c - arbitrary bytes as a model: parse, give inputs a shape, infer and fold.
 *
 * libFuzzer: clang -fsanitize=fuzzer,address,undefined. Whatever the bytes, the answer is a graph that keeps its
 * invariants or a status with a message; budgets are small so that a slow input stands out.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/graph.h"
#include "model/shape.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

static void check_failure(reef_status status, const reef_error *error)
{
    check(status == error->status && error->message[0], "a failure says why");
    check(status != REEF_INTERNAL, "no failure is ours");
    for (const char *at = error->message; *at; at++) {
        check((unsigned char)*at >= 0x20, "messages are one printable line");
    }
}

static void check_inferred(const reef_graph *graph)
{
    for (size_t i = 0; i < graph->n_nodes; i++) {
        const reef_node *node = graph->nodes[i];
        for (size_t k = 0; k < node->n_in + node->n_out; k++) {
            const reef_value *value = k < node->n_in ? node->in[k] : node->out[k - node->n_in];
            int64_t elems;
            if (!value || (k >= node->n_in && !value->uses)) {
                continue;
            }
            check(value->dtype != 0 && value->rank >= 0 && reef_dims_elems(value->rank, value->dims, &elems),
                  "live values have shapes");
            check(!value->data || value->bytes == 0 || reef_value_number(value, elems - 1) != 12345.678,
                  "constants can be read to their end");
            check(k >= node->n_in || value->producer || value->data || value->is_input, "inputs come from somewhere");
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    reef_graph *graph = NULL;
    reef_error error = {.status = REEF_OK, .message = ""};
    reef_status status = reef_graph_parse(bytes, size, &graph, &error);
    if (status != REEF_OK) {
        check(!graph, "results are untouched on failure");
        check_failure(status, &error);
        return 0;
    }
    graph->fold_limit_bytes = 1 << 18;
    for (size_t i = 0; i < graph->n_inputs && i < 8; i++) {
        int64_t dims[REEF_MAX_RANK];
        int rank = graph->inputs[i]->rank >= 0 ? graph->inputs[i]->rank : 2;
        for (int k = 0; k < rank; k++) {
            int64_t dim = graph->inputs[i]->rank >= 0 ? graph->inputs[i]->dims[k] : 3;
            dims[k] = dim < 0 ? 4 + k : dim;
        }
        reef_graph_set_shape(graph, graph->inputs[i]->name, dims, rank, &error);
    }
    status = reef_graph_infer(graph, &error);
    if (status == REEF_OK) {
        check_inferred(graph);
    } else {
        check_failure(status, &error);
    }
    reef_graph_destroy(graph);
    return 0;
}
