/*
 * infer.h - between shape inference (infer.c), the rules per operator (infer_ops.c) and folding (fold.c).
 */
#ifndef REEF_MODEL_INFER_H
#define REEF_MODEL_INFER_H

#include "model/graph.h"
#include "model/shape.h"

typedef struct reef_infer {
    reef_graph *graph;
    reef_node *node;
    reef_error *error;
    size_t folded_bytes; /* allocated for computed constants so far */
    uint64_t work;       /* elements that folding has touched so far */
} reef_infer;

typedef reef_status (*reef_infer_rule)(reef_infer *);

/* The rule that gives a node's outputs their dtype and shape; NULL for an operator nobody knows. */
reef_infer_rule reef_infer_find(const reef_node *node);

/* Whether the rule of node's operator accepts its numbers of inputs and outputs, and mandatory ones are there. */
reef_status reef_infer_check_arity(reef_infer *infer);

/*
 * Computes a node's outputs when that is possible now: its inputs are constant and fold.c knows the operator, or it is
 * Shape or Size. Outputs already have dtype and shape. *folded says whether every output got its contents.
 */
reef_status reef_fold_node(reef_infer *infer, bool *folded);

/* Zeroed storage for a computed constant, charged to the graph's fold limit. */
reef_status reef_fold_storage(reef_infer *infer, size_t bytes, void **out);

#endif
