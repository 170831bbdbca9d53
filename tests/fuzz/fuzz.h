/*
 * fuzz.h - what the fuzzers share: libFuzzer's entry point, and what every failure must look like.
 *
 * Whatever the bytes, the answer is a result that keeps its invariants or a status with one line that says why.
 */
#ifndef REEF_TESTS_FUZZ_H
#define REEF_TESTS_FUZZ_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reef/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static inline void check(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

static inline void check_failure(reef_status status, const reef_error *error)
{
    if (status != error->status || !error->message[0] || status == REEF_INTERNAL) {
        fprintf(stderr, "%s returned, %s in the error: '%s'\n", reef_status_name(status),
                reef_status_name(error->status), error->message);
    }
    check(status == error->status && error->message[0], "a failure says why");
    check(status != REEF_INTERNAL, "no failure is ours");
    for (const char *at = error->message; *at; at++) {
        check((unsigned char)*at >= 0x20, "messages are one printable line");
    }
}

/* FNV-1a: a seed for what an input leaves open. */
static inline uint64_t fuzz_seed(const uint8_t *bytes, size_t size)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
}

static inline uint64_t fuzz_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
