/*
 * hint.h - what the host and the hint kernel share.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_HINT_H
#define REEF_DEVICE_CUDA_KERNELS_HINT_H

#include <stdint.h>

typedef struct reef_hint_words { /* pinned host memory, each word in a line of its own */
    uint32_t released;           /* written by the host: hints up to this one may end */
    uint32_t pad0[31];
    uint32_t ended; /* written by the device: the last hint that has ended */
    uint32_t pad1[31];
} reef_hint_words;

typedef struct reef_hint_args {
    uint64_t words;   /* device address of reef_hint_words */
    uint64_t hold_ns; /* 0: this is the launch behind, which tells that the hint has ended */
    uint32_t number;  /* of this hint */
} reef_hint_args;

#endif
