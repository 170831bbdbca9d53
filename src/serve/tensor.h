/*
 * tensor.h - tensors as the Open Inference Protocol writes them: data type names, JSON numbers, classifications.
 */
#ifndef REEF_SERVE_TENSOR_H
#define REEF_SERVE_TENSOR_H

#include <jansson.h>

#include "reef/reef.h"
#include "serve/text.h"

/* Bytes of one element; 0 for what is none of reef's types. */
size_t serve_dtype_bytes(reef_dtype dtype);
/* "FP32", "INT64", ...; "BYTES" for what is none of reef's types. Static string. */
const char *serve_dtype_name(reef_dtype dtype);
/* The type of that name; false for one that the protocol or reef does not have. */
bool serve_dtype_find(const char *name, reef_dtype *out);

/*
 * JSON numbers, flat or nested at most `rank` deep, into elems elements of dtype at `out`. Integers must fit, booleans
 * may be true, false, 0 or 1. `what` names the tensor in errors. FORMAT, SHAPE (not as many as the shape says).
 */
reef_status serve_tensor_from_json(const json_t *data, reef_dtype dtype, int rank, size_t elems, void *out,
                                   const char *what, reef_error *error);
/* elems elements as one flat JSON array. FORMAT when one is NaN or infinite, which JSON does not have. */
reef_status serve_tensor_to_json(const void *data, reef_dtype dtype, size_t elems, serve_text *out, const char *what,
                                 reef_error *error);
/* FP16 on the wire for a float32 input. in may be unaligned. */
void serve_tensor_from_half(const void *in, size_t elems, float *out);

/*
 * The `classes` largest of each row of `row` elements as "value:index" or "value:index:label" (the classification
 * extension): as JSON strings (binary false), or each with four bytes of length in front (true). NO_MEMORY.
 */
reef_status serve_tensor_classify(const void *data, reef_dtype dtype, size_t rows, size_t row, size_t classes,
                                  const char *const *labels, size_t n_labels, bool binary, serve_text *out,
                                  reef_error *error);

#endif
