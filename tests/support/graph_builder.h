/*
 * graph_builder.h - graphs for tests, without a file. Not robust: a test that builds nonsense aborts.
 */
#ifndef REEF_TESTS_GRAPH_BUILDER_H
#define REEF_TESTS_GRAPH_BUILDER_H

#include "model/graph.h"

reef_graph *build_graph(int opset);
/* Run-time input. */
reef_value *build_input(reef_graph *g, const char *name, reef_dtype dtype, int rank, const int64_t *dims);
/* f32 constants: reproducible numbers in [low, high], one number, and i64. */
reef_value *build_random(reef_graph *g, int rank, const int64_t *dims, double low, double high);
reef_value *build_number(reef_graph *g, double number);
reef_value *build_ints(reef_graph *g, int n, const int64_t *ints);
/* A node with up to four inputs (NULL ends the list) and one output; returns the output. */
reef_value *build_node(reef_graph *g, const char *op, reef_value *a, reef_value *b, reef_value *c, reef_value *d);
reef_value *build_variadic(reef_graph *g, const char *op, size_t n, reef_value *const *in);
/* Attributes of the node built last. */
void build_int(reef_graph *g, const char *name, int64_t value);
void build_float(reef_graph *g, const char *name, float value);
void build_int_list(reef_graph *g, const char *name, int n, const int64_t *ints);
void build_output(reef_graph *g, reef_value *value);

#define DIMS(...)                                                                                                      \
    (const int64_t[])                                                                                                  \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }

#endif
