/*
 * pad.h - kernel padding (REEF section 5), what host and device share. pad.cuh says how it goes.
 *
 * A source is a best-effort instance that has been stopped: what is left of its kernels may ride in the spare blocks of
 * real-time launches. The directory names the device's sources. Whoever rides takes tiles of the source's first unfinished
 * kernel with one atomic addition; the last to finish opens the next kernel.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_PAD_H
#define REEF_DEVICE_CUDA_KERNELS_PAD_H

#include <stdint.h>

enum {
    REEF_PAD_SOURCES = 32,              /* one for each lane of a warp */
    REEF_PAD_MAX_TILES = (1 << 18) - 1, /* of a kernel, and kernels of a plan, that a claim has bits for */
    REEF_PAD_MAX_KERNELS = (1 << 12) - 1,
    /* bytes: shared memory begins with the function's variables, a multiple of this; then come the tile's */
    REEF_PAD_SCRATCH = 1024,
};
#define REEF_PAD_END 0xffffffffu

/* The word of a source that is taken from. 0: closed. */
#define REEF_CLAIM_OPEN           (UINT64_C(1) << 63)
#define REEF_CLAIM_THROUGH        (UINT64_C(1) << 62) /* all its kernels are done */
#define REEF_CLAIM_LOOK           (UINT64_C(1) << 61) /* some of the kernel's tiles may be done: their flags say which */
#define REEF_CLAIM(kernel, tiles) (REEF_CLAIM_OPEN | (uint64_t)(kernel) << 40 | (uint64_t)(tiles) << 22)
#define REEF_CLAIM_NEXT(claim)    ((uint32_t)(claim)&0x3fffffu)
#define REEF_CLAIM_TILES(claim)   ((uint32_t)((claim) >> 22) & 0x3ffffu)
#define REEF_CLAIM_KERNEL(claim)  ((uint32_t)((claim) >> 40) & 0xfffu)

/* What a tile needs of the launch that it rides in; or what a launch has to give. It fits when no field is larger. */
typedef struct reef_pad_needs {
    uint32_t ns;            /* a tile's time; what the launch takes anyway */
    uint32_t dynamic_smem;  /* with the scratch */
    uint16_t threads, regs; /* of a block; of a thread */
    uint16_t local_bytes;   /* of a thread's stack */
    uint16_t cluster;       /* blocks; 1: none */
} reef_pad_needs;

/* One kernel of a source. */
typedef struct reef_pad_kernel {
    uint64_t function; /* that runs a tile and does not return */
    uint64_t args;     /* addresses */
    uint64_t done;     /* of a word per tile: the run that it was done in */
    uint64_t source;   /* reef_pad_source */
    uint64_t ended;    /* claims that have ended << 32 | tiles that are done; of this opening. Written by the device. */
    reef_pad_needs needs;
    uint32_t tiles; /* 0: another kernel does its work */
    uint32_t next;  /* kernel, or REEF_PAD_END */
} reef_pad_kernel;

typedef struct reef_pad_source {
    uint64_t directory, kernels; /* addresses */
    uint64_t control;            /* of reef_cuda_control */
    uint64_t word;               /* in pinned host memory: run << 32 | first kernel that is not done */
    uint32_t slot, n_kernels;
    uint32_t look_until; /* kernels below it may have tiles that workers have done. Written by the device. */
    uint32_t run;        /* that this is said of */
} reef_pad_source;

typedef struct reef_pad_directory {
    uint64_t claim[REEF_PAD_SOURCES];
    uint64_t kernels[REEF_PAD_SOURCES];     /* address of its reef_pad_kernel[] */
    reef_pad_needs needs[REEF_PAD_SOURCES]; /* of the kernel that is open; a hint: the kernel's own count */
    uint64_t tiles;                         /* that have ridden, ever */
} reef_pad_directory;

/* The second argument of a kernel's padded form: blocks from `tiles` on are spare. */
typedef struct reef_cuda_pad {
    uint64_t directory;
    uint32_t tiles, turn; /* turn: spreads the launches of a graph over the sources */
    reef_pad_needs offers;
} reef_cuda_pad;

#endif
