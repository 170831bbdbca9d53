/*
 * worker.h - the second argument of a worker, shared by host and device; device.cuh says how workers go about it.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_WORKER_H
#define REEF_DEVICE_CUDA_KERNELS_WORKER_H

#include <stdint.h>

/* Of an instance, in device memory; written by the host in stream order, between launches. */
typedef struct reef_cuda_control {
    uint32_t generation, run;
} reef_cuda_control;

/* Of the device: the youngest generations that are revoked, as the driver and as the watch (watch.c) has written it. What
 * either says holds. Read in one piece; neither ever becomes older. */
typedef struct reef_revoked {
    uint32_t by_driver, by_watch;
} reef_revoked;

/* Of the device: tiles that were abandoned, and the clock cycles that units spent on them. */
typedef struct reef_cuda_lost {
    uint64_t tiles, unit_cycles;
} reef_cuda_lost;

typedef struct reef_cuda_worker {
    uint64_t revoked;    /* address of reef_revoked */
    uint64_t control;    /* of reef_cuda_control */
    uint64_t done;       /* of a word per tile of this kernel: the run that it was done in */
    uint64_t begun;      /* of a word: the generation that this kernel has begun in */
    uint64_t lost;       /* of reef_cuda_lost */
    uint32_t tiles;      /* of this kernel */
    uint32_t begun_only; /* 1: it stops only before it has begun; what has begun runs to its end */
    uint32_t share;      /* workers that share a unit */
    uint32_t cluster;    /* blocks of a cluster, whose tiles are done together; 1: none */
    uint32_t fresh;      /* 1: none of its tiles was ever begun in this run */
} reef_cuda_worker;

#endif
