/*
 * verify.h - is every answer the right one, to the last bit?
 *
 * The undisturbed answer is computed before a run with the device to itself. During the run each request in flight has
 * a slot of output buffers; when it has ended, the slot is compared and then scribbled over, so that a request that
 * writes nothing cannot pass with the answer of the one before. Comparing is done on a thread of its own (loadgen.c),
 * not in the callback: megabytes of output would hold up the device.
 */
#ifndef REEF_BENCH_VERIFY_H
#define REEF_BENCH_VERIFY_H

#include "bench/tensors.h"

typedef struct bench_verifier {
    const reef_model *model;
    bench_tensors expected;
    bench_tensors *slots;
    size_t n_slots;
    uint64_t compared, mismatches;
    char first[200]; /* the first mismatch, in words: which request, which output */
} bench_verifier;

/* Runs one request through session and keeps its answer; makes n_slots slots. */
reef_status bench_verifier_create(reef_model *model, reef_session *session, const void *const *inputs, size_t n_slots,
                                  bench_verifier *out, reef_error *error);
void bench_verifier_free(bench_verifier *verifier);
/* Compares and scribbles. request: its number, for `first`. Not thread safe. */
bool bench_verify(bench_verifier *verifier, size_t slot, size_t request);

#endif
