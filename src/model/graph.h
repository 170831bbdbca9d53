/*
 * graph.h - an ONNX graph in memory: values, nodes, attributes.
 *
 * Where it sits: ONNX file -> [graph] -> fused graph -> plan -> kernels. The reader (onnx.c) makes it, shape inference
 * (infer.c) and constant folding (fold.c) settle every shape and every shape computation, fusion (fuse.c) rewrites
 * node groups, lowering (lower.c) turns it into a plan. Afterwards it is only kept for its names.
 *
 * Everything lives in the graph's arena, and weights stay where the file was mapped. Invariant: nodes are in
 * topological order, every value has at most one producer, and after reef_graph_infer every live value has a dtype
 * and a shape without unknown dimensions.
 */
#ifndef REEF_MODEL_GRAPH_H
#define REEF_MODEL_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "reef/reef.h"

typedef struct reef_node reef_node;

typedef struct reef_value {
    const char *name;
    reef_dtype dtype;            /* 0 while unknown */
    int rank;                    /* -1 while unknown */
    int64_t dims[REEF_MAX_RANK]; /* -1 while unknown; names of symbolic dimensions in dim_names */
    const char *dim_names[REEF_MAX_RANK];
    const void *data;    /* constant contents (row major, little endian), or NULL; unaligned when mapped from a file */
    size_t bytes;        /* of data */
    reef_node *producer; /* NULL for graph inputs and constants */
    uint32_t uses;       /* inputs of live nodes that name it, plus one if it is a graph output */
    bool is_input, is_output;
    uint32_t id; /* index in graph->values */
} reef_value;

typedef enum reef_attr_type {
    REEF_ATTR_FLOAT = 1, /* numbers as in ONNX's AttributeProto.AttributeType */
    REEF_ATTR_INT = 2,
    REEF_ATTR_STRING = 3,
    REEF_ATTR_TENSOR = 4,
    REEF_ATTR_FLOATS = 6,
    REEF_ATTR_INTS = 7,
    REEF_ATTR_STRINGS = 8,
} reef_attr_type;

typedef struct reef_attr {
    const char *name;
    reef_attr_type type;
    float f;
    int64_t i;
    const char *s;       /* zero terminated; length in count */
    const reef_value *t; /* a constant value */
    const float *floats;
    const int64_t *ints;
    size_t count; /* of floats, ints, or bytes of s */
} reef_attr;

/* What fusion hangs on a Conv, ConvTranspose, Gemm or MatMul node: y = act(acc + bias + residual). */
typedef enum reef_act {
    REEF_ACT_NONE,
    REEF_ACT_RELU,
    REEF_ACT_CLIP,       /* min(max(x, a), b); Relu6 too */
    REEF_ACT_LEAKY_RELU, /* x < 0 ? a*x : x */
    REEF_ACT_SIGMOID,
    REEF_ACT_HARD_SIGMOID, /* min(max(a*x + b, 0), 1) */
    REEF_ACT_HARD_SWISH,   /* x * min(max(a*x + b, 0), 1); ONNX HardSwish has a=1/6, b=0.5 */
    REEF_ACT_SILU,         /* x * sigmoid(x) */
    REEF_ACT_TANH,
    REEF_ACT_GELU,      /* 0.5 x (1 + erf(x / sqrt 2)) */
    REEF_ACT_GELU_TANH, /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
} reef_act;

typedef struct reef_epilogue {
    const float *bias;    /* one per output channel (columns of a matrix product), in the graph's arena, or NULL */
    reef_value *residual; /* added before the activation; the output's shape; or NULL */
    reef_act act;
    float a, b;
} reef_epilogue;

struct reef_node {
    const char *op;     /* "Conv"; fused forms use names that start with "reef." ("reef.Attention") */
    const char *domain; /* "" is ai.onnx */
    const char *name;   /* never NULL; made up from the first output when the file has none */
    int opset;          /* version of the node's domain that the file imports */
    reef_value **in;    /* NULL entries are omitted optional inputs */
    size_t n_in;
    reef_value **out; /* NULL entries are omitted optional outputs */
    size_t n_out;
    reef_attr *attrs;
    size_t n_attrs;
    reef_epilogue epilogue; /* set by fusion; all zero otherwise */
    const char *fused;      /* what fusion put together ("Conv+BatchNormalization+Relu"); NULL: op alone */
    bool dead;              /* removed by a pass; skipped by everyone */
};

typedef struct reef_graph {
    reef_arena arena;
    reef_value **values;
    size_t n_values, cap_values;
    reef_node **nodes; /* topological order */
    size_t n_nodes, cap_nodes;
    reef_value **inputs; /* run-time inputs in file order; initializers that are also listed as inputs are constants */
    size_t n_inputs;
    reef_value **outputs;
    size_t n_outputs;
    int64_t ir_version, opset;
    const char *producer;
    struct reef_mapping *mappings; /* files that hold weights; unmapped with the graph */
    uint64_t content_hash;         /* of the model file and its external data files' names and sizes */
    size_t fold_limit_bytes;       /* constants that inference may compute, in all (1 GiB); lower it for small hosts */
} reef_graph;

/*
 * Reads path (an ONNX ModelProto) into *out, weights mapped, not copied. External data files are looked up beside the
 * model and must stay in its folder. The file may be hostile: any content gives a graph or a status with error filled,
 * never undefined behaviour, and memory stays within a small multiple of the file's size.
 * Errors: NOT_FOUND, IO, FORMAT (byte offset in error), UNSUPPORTED (ops of unknown domains are accepted here and
 * refused by lowering; control flow with subgraphs is refused here), NO_MEMORY.
 */
reef_status reef_graph_load(const char *path, reef_graph **out, reef_error *error);
/* The same from memory (fuzzing, tests). bytes must outlive the graph. External data is refused. */
reef_status reef_graph_parse(const void *bytes, size_t size, reef_graph **out, reef_error *error);
void reef_graph_destroy(reef_graph *graph);

/* Fixes run-time input shapes ("--shape"). A dimension that the file fixes must agree. */
reef_status reef_graph_set_shape(reef_graph *graph, const char *input, const int64_t *dims, int rank,
                                 reef_error *error);

/*
 * Infers dtype and shape of every value, folds every node whose inputs are constant (shape arithmetic above all),
 * removes Identity, inference-time Dropout and unreachable nodes, and recounts uses. Fails with SHAPE naming the input
 * and the flag when an input still has unknown dimensions, with the node's name when shapes contradict, and with
 * UNSUPPORTED naming operator and node for an operator nobody knows.
 */
reef_status reef_graph_infer(reef_graph *graph, reef_error *error);

/* Rewrites the usual groups of nodes into fused ones (fuse.c has the list). Never changes an answer beyond rounding. */
reef_status reef_graph_fuse(reef_graph *graph, reef_error *error);

/* For passes. All return NULL when out of memory. */
reef_value *reef_graph_value_new(reef_graph *graph, const char *name, reef_dtype dtype, int rank, const int64_t *dims);
/* A constant with its own zeroed storage; write through the returned pointer *storage. */
reef_value *reef_graph_const_new(reef_graph *graph, const char *name, reef_dtype dtype, int rank, const int64_t *dims,
                                 void **storage);
const reef_attr *reef_node_attr(const reef_node *node, const char *name); /* NULL when absent */
int64_t reef_node_attr_int(const reef_node *node, const char *name, int64_t otherwise);
float reef_node_attr_float(const reef_node *node, const char *name, float otherwise);
const char *reef_node_attr_string(const reef_node *node, const char *name, const char *otherwise);
bool reef_node_is(const reef_node *node, const char *op); /* op in the default domain, or a "reef." op */

int64_t reef_value_elems(const reef_value *value); /* product of dims; 1 for a scalar */
/* Element i of a constant as a number; handles unaligned data and every dtype of reef_dtype. */
double reef_value_number(const reef_value *value, int64_t i);
int64_t reef_value_integer(const reef_value *value, int64_t i);

#endif
