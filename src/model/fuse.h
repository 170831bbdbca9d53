/*
 * fuse.h - what the fusion passes share. Not for others.
 *
 * A rewrite gives a root node new inputs and lets go of the old ones; nodes that nobody uses any more die with their
 * last use. So a pattern that is also used from outside stays alive by itself, and a pass only has to prove that root
 * and replacement compute the same.
 */
#ifndef REEF_MODEL_FUSE_H
#define REEF_MODEL_FUSE_H

#include "model/graph.h"
#include "model/shape.h"

typedef struct reef_fuse {
    reef_graph *graph;
    reef_node **users; /* by value id: one live reader, the only one when uses == 1 */
    size_t n_users;
    bool out_of_memory;
} reef_fuse;

/* The only reader of value, or NULL (none, several, a graph output, or the residual of a fused node). */
reef_node *reef_fuse_user(reef_fuse *f, const reef_value *value);
/* The producer of value if it is `op`, or NULL. */
reef_node *reef_fuse_made_by(const reef_value *value, const char *op);
/* value = other `op` constant (either order when the operator commutes): true, with the constant if it is one number. */
bool reef_fuse_with_number(const reef_node *node, reef_value **other, double *number);
bool reef_fuse_number(const reef_value *value, double *out);
bool reef_fuse_near(double a, double b);
bool reef_fuse_same_shape(const reef_value *a, const reef_value *b);

/* Turns root into `op` over new inputs, keeping its output; `fused` is its name in reports. */
void reef_fuse_replace(reef_fuse *f, reef_node *root, const char *op, const char *fused, reef_value *const *in,
                       size_t n_in);
/* `last` reads node's output and is folded into node: node takes over its output, name and place in the order. */
void reef_fuse_absorb(reef_fuse *f, reef_node *node, reef_node *last);
/* node reads `in` in place of what it read first; its first input's nodes die if nobody else needs them. */
void reef_fuse_bypass(reef_fuse *f, reef_node *node, reef_value *in);
/* A float attribute and an int attribute for a replaced node. */
void reef_fuse_attrs(reef_fuse *f, reef_node *node, const char *float_name, float value, const char *int_name,
                     int64_t number);
/* A new node in a dead node's slot in front of `before` (there is one whenever a pattern of two nodes or more died). */
reef_node *reef_fuse_insert(reef_fuse *f, const reef_node *before, const char *op, reef_value *const *in, size_t n_in,
                            reef_value *out);
float *reef_fuse_floats(reef_fuse *f, size_t n);

/* Relu, Clip with constant bounds, ... as an activation of the epilogue. */
bool reef_fuse_activation(const reef_node *node, reef_act *act, float *a, float *b);

void reef_fuse_activations(reef_fuse *f); /* decomposed HardSwish, Silu, Gelu become reef.Act */
void reef_fuse_affine(reef_fuse *f);      /* BatchNormalization becomes reef.Affine; Mul and Add constants join it */
void reef_fuse_linear(reef_fuse *f);      /* epilogues of Conv, ConvTranspose, Gemm, MatMul */
void reef_fuse_norms(reef_fuse *f);       /* decomposed LayerNormalization becomes reef.LayerNorm */
void reef_fuse_norm_sums(reef_fuse *f);   /* and takes the sum in front of it */
void reef_fuse_attentions(reef_fuse *f);  /* reef.Attention */
void reef_fuse_siblings(reef_fuse *f);    /* MatMuls of one input become one */

#endif
