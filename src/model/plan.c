/*
 * plan.c - plans that come from no graph, and their end.
 */
#include "model/plan.h"

#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

reef_status reef_plan_create_synthetic(uint32_t kernels, uint32_t tiles, uint64_t tile_ns, reef_plan **out)
{
    if (!kernels || !tiles) {
        return REEF_INVALID_ARGUMENT;
    }
    reef_plan *plan = calloc(1, sizeof *plan);
    if (plan) {
        plan->kernels = reef_arena_array(&plan->arena, kernels, sizeof *plan->kernels);
    }
    if (!plan || !plan->kernels) {
        reef_plan_destroy(plan);
        return REEF_NO_MEMORY;
    }
    plan->n_kernels = kernels;
    for (uint32_t i = 0; i < kernels; i++) {
        plan->kernels[i] = (reef_kernel){.kind = REEF_K_SPIN,
                                         .name = "spin",
                                         .ops = "Spin",
                                         .y = {.storage = REEF_NO_STORAGE},
                                         .spin = {.tiles = tiles, .tile_ns = tile_ns},
                                         .transaction = true};
    }
    const uint64_t key[3] = {kernels, tiles, tile_ns};
    plan->hash = XXH3_64bits_withSeed(key, sizeof key, 0x7370696e);
    *out = plan;
    return REEF_OK;
}

void reef_plan_destroy(reef_plan *plan)
{
    if (plan) {
        reef_graph_destroy(plan->graph);
        reef_arena_free(&plan->arena);
        free(plan);
    }
}

const char *reef_kernel_kind_name(reef_kernel_kind kind)
{
    static const char *const names[REEF_KERNEL_KINDS] = {
        [REEF_K_CONV] = "conv",       [REEF_K_CONV_TRANSPOSE] = "conv_transpose",
        [REEF_K_MATMUL] = "matmul",   [REEF_K_ATTENTION] = "attention",
        [REEF_K_POOL] = "pool",       [REEF_K_ELTWISE] = "eltwise",
        [REEF_K_COPY] = "copy",       [REEF_K_REDUCE] = "reduce",
        [REEF_K_SOFTMAX] = "softmax", [REEF_K_LAYER_NORM] = "layer_norm",
        [REEF_K_GATHER] = "gather",   [REEF_K_RESIZE] = "resize",
        [REEF_K_LRN] = "lrn",         [REEF_K_ARG_MAX] = "arg_max",
        [REEF_K_SPIN] = "spin",
    };
    return (unsigned)kind < REEF_KERNEL_KINDS ? names[kind] : "unknown";
}
