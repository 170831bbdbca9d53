/*
 * pad_table.h - what pad_table.c and pad_table.cu share.
 */
#ifndef REEF_TESTS_GPU_PAD_TABLE_H
#define REEF_TESTS_GPU_PAD_TABLE_H

#include <stdint.h>

enum { TABLE_THREADS = 256 };

/* A kernel of tiles that only compute. A tile stores a word per thread and counts itself. All uint64_t are addresses. */
typedef struct table_work {
    uint64_t values;       /* u32 (tiles, TABLE_THREADS) */
    uint64_t counts;       /* u32 (tiles): how often each has run */
    uint64_t before;       /* u32 (before_tiles): the counts of the kernel that has to be complete; 0: none */
    uint64_t early;        /* a u32: threads that found one of those missing */
    uint32_t before_tiles; /* at most TABLE_THREADS */
    uint32_t fmas;         /* of each thread, each after the one before */
    uint32_t mark;         /* goes into the values: number of the kernel's first tile */
} table_work;

/* What a thread starts from, multiplies with and adds; the same on both sides. */
#define TABLE_SEED(thread)    ((float)(thread) * (1.0f / 256.0f))
#define TABLE_FACTOR          (-0.99999f)
#define TABLE_TERM            1.0f
#define TABLE_VALUE(bits, at) ((uint32_t)(bits) ^ ((uint32_t)(at) + 1u) * 0x9e3779b1u)

/* What one spare block is told, or all of a kernel. */
typedef struct table_slot {
    uint64_t function; /* 0: nothing */
    uint64_t args;
    uint32_t tile, tiles; /* spare block i of those that share the slot has tile + i, if i < tiles */
    uint64_t unused;
} table_slot;

/* The second argument of a kernel with spare blocks that read a table. */
typedef struct table_pad {
    uint64_t slots;  /* of this kernel: one for each spare block */
    uint32_t tiles;  /* blocks from this one on are spare */
    uint32_t shared; /* 1: there is one for all of them */
    uint32_t waits;  /* 1: they wait for the kernel before this one */
} table_pad;

/* What pad_table_check finds. */
typedef struct table_found {
    uint32_t done, wrong,
        repeated;   /* tiles: run as often as they should be; with a wrong value; run some other number of times */
    uint32_t end;   /* 1 + the last that was run */
    uint32_t early; /* see table_work */
} table_found;

typedef struct table_check {
    uint64_t values, counts; /* of all tiles; cleared */
    uint64_t expected;       /* u32 (TABLE_THREADS): the bits that each thread computes */
    uint64_t found;
    uint32_t want; /* how often a tile has run, if it has */
} table_check;

#endif
