/*
 * io.h - the arguments of io.cu, shared by host and device.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_IO_H
#define REEF_DEVICE_CUDA_KERNELS_IO_H

#include <stdint.h>

enum { REEF_IO_PIECES = 8, REEF_IO_THREADS = 256, REEF_IO_BLOCK_BYTES = 16 * 1024 };
enum { REEF_IO_REPORTS = 8 };

/* One piece is copied by all blocks; addresses are multiples of 16, and both buffers are padded to 16 bytes. */
typedef struct reef_io_args {
    uint64_t from[REEF_IO_PIECES], to[REEF_IO_PIECES], bytes[REEF_IO_PIECES];
    uint64_t control; /* the graph's first and last kernel: reef_io_control in device memory; 0: this one only copies */
    uint64_t words;   /* the same: reef_io_words in pinned host memory */
    uint32_t pieces;
    /* reef_io_end behind workers: which of these kernels is the first that is not done */
    uint32_t first, kernels;  /* kernels 0: behind plain kernels, which are done when it begins */
    uint64_t revoked, worker; /* the word; reef_cuda_control */
    uint64_t done;            /* of the instance, per tile: the run that it was done in */
    uint64_t bounds;          /* kernel k has done[bounds[k]] .. done[bounds[k + 1] - 1] */
    uint64_t source;          /* reef_pad_source: what workers leave undone may ride from now on; 0: it may not */
} reef_io_args;

/* Of one instance, in device memory. Written by reef_io_end alone; runs of an instance come one after another. */
typedef struct reef_io_control {
    uint64_t ended;  /* launches of this instance that have ended, ever */
    uint32_t ticket; /* blocks of the running reef_io_end that are through */
} reef_io_control;

/* Of one instance, in pinned host memory. Written by the device with system scope, read by the host. */
typedef struct reef_io_words {
    volatile uint64_t begun_at_ns, ended_at_ns; /* by the GPU's clock; begun: launches with inputs */
    volatile uint64_t ended;                    /* stored last, with release: outputs in pinned memory come before it */
    /* by ended % REEF_IO_REPORTS: the first kernel of the launch that is not done, or where the launch ends */
    volatile uint32_t progress[REEF_IO_REPORTS];
    /* run << 32 | first kernel that is not done: what has ridden in padded launches (pad.h) */
    volatile uint64_t ridden;
} reef_io_words;

#endif
