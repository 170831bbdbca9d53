/*
 * onnx_writer.h - writes small ONNX models from C, so that a test needs no file and shows the model it is about.
 *
 *     onnx_bytes graph = {0};
 *     onnx_input(&graph, "x", 4, (int64_t[]){1, 3, 8, 8});
 *     onnx_weights(&graph, "w", 4, (int64_t[]){4, 3, 3, 3});
 *     onnx_node(&graph, "Conv", "x,w", "c", "pads:is=1 1 1 1");
 *     onnx_node(&graph, "Relu", "c", "y", "");
 *     onnx_output(&graph, "y");
 *     onnx_bytes model = onnx_model(&graph, 17);
 *     ...
 *     free(model.data);
 *
 * Running out of memory aborts: tests that take memory away make their models first.
 */
#ifndef REEF_TESTS_ONNX_WRITER_H
#define REEF_TESTS_ONNX_WRITER_H

#include <stddef.h>
#include <stdint.h>

typedef struct onnx_bytes {
    uint8_t *data; /* malloced */
    size_t size, capacity;
} onnx_bytes;

/* A float32 input; -1 is a dynamic dimension. */
void onnx_input(onnx_bytes *graph, const char *name, int rank, const int64_t *dims);
void onnx_output(onnx_bytes *graph, const char *name);
/* A float32 initializer of small numbers, all positive and different. */
void onnx_weights(onnx_bytes *graph, const char *name, int rank, const int64_t *dims);
/* A float32 initializer whose contents are all of the file `location` beside the model. */
void onnx_external(onnx_bytes *graph, const char *name, int rank, const int64_t *dims, const char *location);
/* An int64 initializer of rank 1. */
void onnx_ints(onnx_bytes *graph, const char *name, int n, const int64_t *values);
/* in, out: names with commas between. attributes: "axis:i=-1;alpha:f=0.5;pads:is=1 1 1 1;mode:s=linear", or "". */
void onnx_node(onnx_bytes *graph, const char *op, const char *in, const char *out, const char *attributes);
/* The file. Takes graph, which is empty afterwards. */
onnx_bytes onnx_model(onnx_bytes *graph, int opset);

#endif
