/*
 * watch.h - what the host and the watch kernel share.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_WATCH_H
#define REEF_DEVICE_CUDA_KERNELS_WATCH_H

#include <stdint.h>

typedef struct reef_watch_words { /* pinned host memory */
    /* written by the host, read in one piece */
    uint32_t revoked; /* the youngest generation that is to be revoked */
    uint32_t busy;    /* 1: workers are in flight */
    uint32_t paused;  /* not 0: no watch is wanted */
    uint32_t pad0[29];
    /* written by the device, in a line of their own */
    uint32_t begun, ended; /* the youngest watch that has */
    uint32_t pad1[30];
} reef_watch_words;

typedef struct reef_watch_args {
    uint64_t words;    /* device address of reef_watch_words */
    uint64_t revoked;  /* address of the word that it writes (reef_revoked.by_watch) */
    uint64_t idle_ns;  /* it leaves when nothing was in flight for so long */
    uint64_t limit_ns; /* and after so long anyway */
    uint32_t number;   /* of this watch */
    uint32_t known;    /* a generation that is revoked already */
} reef_watch_args;

#endif
