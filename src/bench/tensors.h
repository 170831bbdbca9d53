/*
 * tensors.h - a model's inputs or outputs in memory: allocation, seeded contents, shapes of files.
 */
#ifndef REEF_BENCH_TENSORS_H
#define REEF_BENCH_TENSORS_H

#include "bench/workload.h"

typedef struct bench_tensors {
    size_t n, total_bytes;
    void **data; /* n buffers, 64-byte aligned; NULL when n is 0 */
} bench_tensors;

/* One zeroed buffer per input (or output) of the model. */
reef_status bench_tensors_create(const reef_model *model, bool outputs, bench_tensors *out);
void bench_tensors_free(bench_tensors *tensors);

/*
 * Fills one tensor from the seed: floats uniform in [0, 1), integers 0..99, booleans 0 or 1. Integer inputs that are
 * called a mask are all ones (nothing masked), so that attention has something to attend to.
 */
void bench_fill(const reef_tensor_info *info, uint64_t seed, void *data);
/* Every input of the model: from its file where one is given, else from the seed and the input's index. */
reef_status bench_inputs_fill(const reef_model *model, const bench_input_file *files, size_t n_files, uint64_t seed,
                              bench_tensors *inputs, reef_error *error);

/* Index of the first byte at which a and b differ, or bytes. */
size_t bench_first_difference(const void *a, const void *b, size_t bytes);

#endif
