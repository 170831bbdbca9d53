/*
 * verify.c - see verify.h.
 */
#include "bench/verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/past_caches.h"
#include "bench/npy.h"

enum { SCRIBBLE = 0xa5 };

/* Whoever writes the next answer there, on another processor, is not to wait for this one's cache: the 393 KB of
 * DistilBERT's answer took 40 us longer, now and then. */
static void scribble(const bench_verifier *verifier, size_t slot)
{
    for (size_t i = 0; i < verifier->expected.n; i++) {
        reef_tensor_info info;
        reef_model_output(verifier->model, i, &info);
        reef_fill_past_caches(verifier->slots[slot].data[i], SCRIBBLE, info.bytes);
    }
}

reef_status bench_verifier_create(reef_model *model, reef_session *session, const void *const *inputs, size_t n_slots,
                                  bench_verifier *out, reef_error *error)
{
    bench_verifier made = {.model = model};
    reef_status status = bench_tensors_create(model, true, &made.expected);
    made.slots = calloc(n_slots + 1, sizeof *made.slots);
    if (!status && !made.slots) {
        status = REEF_NO_MEMORY;
    }
    for (; !status && made.n_slots < n_slots; made.n_slots++) {
        status = bench_tensors_create(model, true, &made.slots[made.n_slots]);
        if (status) {
            break;
        }
        scribble(&made, made.n_slots);
    }
    if (!status) {
        status = reef_session_run(session, inputs, made.expected.data, NULL);
        if (status) {
            reef_fail(error, status, "the undisturbed request failed: %s", reef_status_text(status));
        }
    } else {
        reef_fail(error, status, "out of memory for outputs");
    }
    if (status) {
        bench_verifier_free(&made);
        return status;
    }
    *out = made;
    return REEF_OK;
}

void bench_verifier_free(bench_verifier *verifier)
{
    for (size_t i = 0; i < verifier->n_slots; i++) {
        bench_tensors_free(&verifier->slots[i]);
    }
    free(verifier->slots);
    bench_tensors_free(&verifier->expected);
    *verifier = (bench_verifier){0};
}

bool bench_verify(bench_verifier *verifier, size_t slot, size_t request)
{
    bool same = true;
    for (size_t i = 0; i < verifier->expected.n; i++) {
        reef_tensor_info info;
        reef_model_output(verifier->model, i, &info);
        size_t at = bench_first_difference(verifier->expected.data[i], verifier->slots[slot].data[i], info.bytes);
        if (at < info.bytes) {
            if (!verifier->first[0]) {
                snprintf(verifier->first, sizeof verifier->first,
                         "request %zu: output '%.80s' differs from element %zu of %zu on", request, info.name,
                         at / npy_dtype_bytes(info.dtype), info.bytes / npy_dtype_bytes(info.dtype));
            }
            same = false;
        }
    }
    scribble(verifier, slot);
    verifier->compared++;
    verifier->mismatches += !same;
    return same;
}
