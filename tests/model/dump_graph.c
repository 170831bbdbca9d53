/*
 * dump_graph.c - prints what inference made of a model, one value a line, for check_shapes.py.
 *
 *     dump_graph MODEL.onnx [NAME=1x3x224x224 ...]
 *
 * Lines: "value NAME DTYPE DIMS const|run", "node OP NAME", and "contents NAME HEX" for outputs that folding computed,
 * tab separated.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/graph.h"
#include "model/shape.h"

static int fail(const reef_error *error)
{
    fprintf(stderr, "%s: %s\n", reef_status_name(error->status), error->message);
    return 1;
}

int main(int argc, char **argv)
{
    reef_error error;
    reef_graph *graph;
    if (argc < 2) {
        fprintf(stderr, "usage: dump_graph MODEL.onnx [NAME=DIMS ...]\n");
        return 2;
    }
    if (reef_graph_load(argv[1], &graph, &error) != REEF_OK) {
        return fail(&error);
    }
    for (int i = 2; i < argc; i++) {
        char *equals = strrchr(argv[i], '=');
        int64_t dims[REEF_MAX_RANK];
        int rank = 0;
        if (!equals) {
            fprintf(stderr, "not NAME=DIMS: %s\n", argv[i]);
            return 2;
        }
        *equals = 0;
        for (char *at = equals + 1; *at && rank < REEF_MAX_RANK; at += *at == 'x') {
            dims[rank++] = strtoll(at, &at, 10);
        }
        if (reef_graph_set_shape(graph, argv[i], dims, rank, &error) != REEF_OK) {
            return fail(&error);
        }
    }
    if (reef_graph_infer(graph, &error) != REEF_OK) {
        return fail(&error);
    }
    for (size_t i = 0; i < graph->n_values; i++) {
        const reef_value *value = graph->values[i];
        char text[REEF_DIMS_TEXT];
        if (value->rank >= 0 && (value->uses || value->is_output)) {
            printf("value\t%s\t%s\t%s\t%s\n", value->name, reef_dtype_name(value->dtype),
                   reef_dims_text(value->rank, value->dims, text, sizeof text), value->data ? "const" : "run");
        }
    }
    for (size_t i = 0; i < graph->n_outputs; i++) {
        const reef_value *value = graph->outputs[i];
        if (!value->data) {
            continue;
        }
        printf("contents\t%s\t", value->name);
        for (size_t k = 0; k < value->bytes; k++) {
            printf("%02x", ((const unsigned char *)value->data)[k]);
        }
        printf("\n");
    }
    for (size_t i = 0; i < graph->n_nodes; i++) {
        printf("node\t%s\t%s\n", graph->nodes[i]->op, graph->nodes[i]->name);
    }
    reef_graph_destroy(graph);
    return 0;
}
