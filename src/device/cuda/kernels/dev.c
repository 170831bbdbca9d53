/* dev.c - stand-ins until the real kernels are here. */
#include "device/cuda/kernels/cuda_tile.h"
#include <string.h>
typedef struct step_args { uint64_t x, y; float a, b, m; int n; } step_args;
REEF_CUDA_PREPARE(eltwise)
{
    (void)max;
    step_args *a = reef_arena_alloc(ctx->arena, sizeof *a);
    a->a = (float)k->eltwise.insns[0].imm; a->b = (float)k->eltwise.insns[2].imm; a->m = (float)k->eltwise.insns[4].imm;
    a->n = (int)k->y.dims[0];
    *out = (reef_cuda_kernel){.function = "reef_dev_step", .variant = "step", .tiles = (unsigned)(a->n + 1023) / 1024, .threads = 256, .args = a, .args_bytes = sizeof *a};
    reef_cuda_bind(ctx, out, 0, &k->in[0]);
    reef_cuda_bind(ctx, out, 8, &k->y);
    *n = 1;
    return REEF_OK;
}
REEF_CUDA_PREPARE(spin)
{
    (void)max;
    uint64_t *a = reef_arena_alloc(ctx->arena, 8);
    *a = k->spin.tile_ns;
    *out = (reef_cuda_kernel){.function = "reef_dev_spin", .variant = "spin", .tiles = k->spin.tiles, .threads = 128, .args = a, .args_bytes = 8};
    *n = 1;
    return REEF_OK;
}
#define STUB(kind) REEF_CUDA_PREPARE(kind) { (void)out; (void)max; (void)n; return reef_fail(ctx->error, REEF_UNSUPPORTED, "%s has no CUDA kernel yet", k->ops); }
STUB(conv) STUB(conv_transpose) STUB(matmul) STUB(attention) STUB(pool) STUB(copy) STUB(reduce) STUB(softmax) STUB(layer_norm) STUB(gather) STUB(resize) STUB(lrn) STUB(arg_max)
