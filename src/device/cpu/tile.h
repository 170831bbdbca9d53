/*
 * tile.h - what a CPU kernel is: a grid of tiles, each a transaction.
 *
 * Where it sits: the last stage of the path. The command processor (cpu.c) hands a compute unit one tile of one kernel;
 * the tile function here computes it.
 *
 * Contract of a tile function:
 *   - It reads its operands, computes into ctx->scratch (or registers), and writes its result in an epilogue at its very
 *     end. Before the epilogue it calls reef_tile_abandoned(ctx) about every 20 us (never longer than 50 us apart on a
 *     2 GHz core), and returns REEF_TILE_ABANDONED at once when that says so. It then has had no effect at all.
 *   - Once the epilogue has begun it finishes, within about 50 us.
 *   - The same tile always computes the same bits, whichever unit runs it and however often it was abandoned before.
 *   - It allocates nothing, locks nothing, makes no system call.
 *   - Tiles of a kernel together write every element of y exactly once. Sized for about 100 us (fewer for small kernels,
 *     but enough tiles to fill the units when the kernel is longer than about 20 us).
 *
 * Tile sources are compiled once per instruction set (kernels/, -DREEF_ISA=...); kernels/isa.h lists the tables.
 */
#ifndef REEF_DEVICE_CPU_TILE_H
#define REEF_DEVICE_CPU_TILE_H

#include <stdatomic.h>

#include "base/arena.h"
#include "device/device.h"
#include "model/plan.h"

typedef enum reef_tile_result { REEF_TILE_DONE, REEF_TILE_ABANDONED } reef_tile_result;

typedef struct reef_tile_ctx {
    const _Atomic(reef_lease) *lease; /* NULL: this tile is not preemptible (RT work) */
    unsigned unit;
    void *scratch;       /* 64-byte aligned, as many bytes as the kernel asked for; contents undefined */
    uint64_t polls_left; /* tests: abandon at this many polls; UINT64_MAX never */
} reef_tile_ctx;

/* Relaxed: the word carries no data, and a tile that sees it late is only late. */
static inline bool reef_tile_abandoned(reef_tile_ctx *ctx)
{
    if (!ctx->lease) {
        return false;
    }
    if (ctx->polls_left != UINT64_MAX && ctx->polls_left-- == 0) {
        return true;
    }
    return !reef_lease_has(atomic_load_explicit(ctx->lease, memory_order_relaxed), ctx->unit);
}

/* base[i]: where storage i of the plan lives for this instance (constants: the program's copy). */
typedef reef_tile_result (*reef_tile_fn)(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx);

typedef struct reef_cpu_kernel {
    reef_tile_fn run;
    void *args;     /* lives in the prepare context's arena */
    uint32_t tiles; /* >= 1 */
    size_t scratch_bytes;
    bool epilogue_only;  /* every store to y happens in the epilogue */
    double tile_flops;   /* of a full tile, for estimates; at least the elements it touches */
    const char *variant; /* "igemm 12x32 avx512" */
} reef_cpu_kernel;

typedef struct reef_cpu_prepare {
    const reef_plan *plan;
    unsigned units;
    reef_arena *arena; /* small things: arguments */
    /* Big, 64-byte aligned, zeroed: packed weights. NULL when out of memory. Freed with the program. */
    void *(*alloc)(void *owner, size_t bytes);
    void *owner;
    reef_error *error;
} reef_cpu_prepare;

/* Fills *out for kernel k, or fails with UNSUPPORTED (operand form) or NO_MEMORY. */
typedef reef_status (*reef_cpu_prepare_fn)(const reef_kernel *k, reef_cpu_prepare *prepare, reef_cpu_kernel *out);

typedef struct reef_cpu_isa {
    const char *name; /* "avx512", "avx2", "generic" */
    reef_cpu_prepare_fn prepare[REEF_KERNEL_KINDS];
} reef_cpu_isa;

/* The best table that this processor can run; REEF_CPU_ISA=avx2|generic in the environment caps it. Never NULL. */
const reef_cpu_isa *reef_cpu_isa_select(void);

#endif
