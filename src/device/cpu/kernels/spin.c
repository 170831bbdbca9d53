/*
 * spin.c - tiles that only take time: the synthetic load of benchmarks and tests.
 */
#include <time.h>

#include "device/cpu/kernels/walk.h"

enum { SPIN_POLL_NS = 10000 };

typedef struct spin_args {
    uint64_t tile_ns;
} spin_args;

static uint64_t spin_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t); /* the vDSO answers: no system call */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static reef_tile_result spin_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const spin_args *a = args;
    (void)base;
    (void)tile;
    uint64_t start = spin_now(), polled = start, now = start;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    while (now - start < a->tile_ns) {
        now = spin_now();
        if (now - polled >= SPIN_POLL_NS) {
            polled = now;
            if (reef_tile_abandoned(ctx)) {
                return REEF_TILE_ABANDONED;
            }
        }
    }
    return REEF_TILE_DONE;
}

REEF_ISA_PREPARE(spin)
{
    spin_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    a->tile_ns = k->spin.tile_ns;
    kernel_fill(out, spin_tile, a, k->spin.tiles, 1, 1, "spin");
    return REEF_OK;
}
