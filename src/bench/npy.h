/*
 * npy.h - NumPy's .npy files: little-endian, versions 1 to 3, row major or Fortran order (read), row major (written).
 *
 * The parser works on memory and trusts nothing: it is what a fuzzer calls.
 */
#ifndef REEF_BENCH_NPY_H
#define REEF_BENCH_NPY_H

#include "reef/reef.h"

typedef struct npy_header {
    reef_dtype dtype;
    bool fortran; /* first index fastest */
    int rank;
    int64_t dims[REEF_MAX_RANK];
    size_t elems, data_offset, data_bytes; /* data_offset + data_bytes is the size of the buffer */
} npy_header;

typedef struct npy_array {
    reef_dtype dtype;
    int rank;
    int64_t dims[REEF_MAX_RANK];
    size_t bytes;
    void *data; /* row major; npy_free */
} npy_array;

/* Errors: FORMAT, DTYPE (an element type that reef has not), SHAPE (rank, size). */
reef_status npy_parse(const void *file, size_t bytes, npy_header *out, reef_error *error);
/* Reads a whole file; Fortran order is turned into row major. Messages start with the path. */
reef_status npy_load(const char *path, npy_array *out, reef_error *error);
void npy_free(npy_array *array);
reef_status npy_save(const char *path, reef_dtype dtype, int rank, const int64_t *dims, const void *data, size_t bytes,
                     reef_error *error);

/* "1x3x224x224", "scalar". Returns text. */
char *npy_shape_text(int rank, const int64_t *dims, char *text, size_t size);
/* OK, or DTYPE or SHAPE with a message that names what the input needs and what the file has. */
reef_status npy_check(const npy_array *array, const reef_tensor_info *wanted, const char *path, reef_error *error);
size_t npy_dtype_bytes(reef_dtype dtype);

#endif
