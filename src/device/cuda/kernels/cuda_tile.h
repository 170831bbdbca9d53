/*
 * cuda_tile.h - what a CUDA kernel is: a grid of tiles, each a transaction. Host half (C); device.cuh has the device half.
 *
 * Where it sits: between the host side (../ *.c: driver, modules, graphs, variant choice) and the kernels (here). For each
 * kernel of a plan a prepare function offers one or more candidates; the host side measures them, keeps the fastest, and
 * launches it as it is or, for BE work, in its worker form.
 *
 *      reef_kernel --prepare--> candidates { entry point, grid, one struct of arguments + where its addresses go }
 *
 * The argument struct is the kernel's only parameter, passed by value. Its addresses depend on the instance and on the
 * request (storage, workspace), so they are described by relocations and filled in by the host side.
 *
 * Contract of an entry point:
 *   - plain form: grid.x = tiles, block.x = threads, launched behind programmatic edges (on sm_90 and up).
 *     Every block runs griddepcontrol.wait before the first access to activations, inputs, outputs or workspace and in
 *     any case before it returns, and griddepcontrol.launch_dependents right behind it: so a kernel is never more than
 *     launched while its predecessors' predecessors run, and its successors' blocks do not take the room that its own
 *     need. Constants and packed weights may be read before.
 *     Kernels that the plan does not order run at the same time; those that use the workspace never do.
 *   - worker form (`worker` is its name, NULL where there is none): second parameter reef_cuda_worker, see device.cuh.
 *   - Every store (y, workspace, counters) happens in the epilogue of a tile; a tile may be abandoned until then.
 *   - The same candidate gives the same bits in both forms, always.
 *   - Workspace is the instance's own, 256-byte aligned, shared by the kernels of its plan: allocate the maximum of
 *     workspace_bytes. Its first REEF_CUDA_ZERO_BYTES are counters: zero when a run begins (the host side clears them at
 *     instance creation and after a run that was given up) and zero again whenever a kernel has finished. The rest is
 *     undefined between kernels.
 *
 * Element types: in REEF_CUDA_FP16 mode f32 activations and packed weights are half. Inputs, outputs and constants that
 * are read through views stay f32, other dtypes stay what they are. Views keep element strides, so only the element's
 * size changes; reef_cuda_elem says which it is. Activation offsets and sizes of the plan (bytes of f32) are kept as
 * they are: a storage's address is never different between precisions.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_CUDA_TILE_H
#define REEF_DEVICE_CUDA_KERNELS_CUDA_TILE_H

#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "model/plan.h"

typedef enum reef_cuda_precision {
    REEF_CUDA_FP32,
    REEF_CUDA_TF32, /* products of f32 values rounded to 10 bits of mantissa, f32 sums */
    REEF_CUDA_FP16, /* activations and weights in half, f32 sums */
} reef_cuda_precision;

/* Element types on the device; the numbers are shared with device.cuh. */
typedef enum reef_cuda_elem_type {
    REEF_CUDA_F32 = 0,
    REEF_CUDA_F16 = 1,
    REEF_CUDA_I64 = 2,
    REEF_CUDA_I32 = 3,
    REEF_CUDA_BOOL = 4, /* also u8 */
    REEF_CUDA_I8 = 5,
    REEF_CUDA_F64 = 6,
} reef_cuda_elem_type;

typedef enum reef_cuda_target {
    REEF_CUDA_STORAGE,   /* address of plan->storage[storage] for this instance and request, + bytes */
    REEF_CUDA_WORKSPACE, /* address of the instance's workspace, + bytes */
} reef_cuda_target;

typedef struct reef_cuda_reloc {
    uint32_t at; /* offset in args of a 64-bit device address */
    reef_cuda_target target;
    uint32_t storage;
    int64_t bytes;
} reef_cuda_reloc;

enum { REEF_CUDA_ZERO_BYTES = 16 << 10 };
enum { REEF_CUDA_MAX_RELOCS = REEF_KERNEL_MAX_IN + 4, REEF_CUDA_MAX_CANDIDATES = 48 };

typedef struct reef_cuda_kernel {
    const char *function; /* entry symbol (extern "C") of the plain form */
    const char *worker;   /* entry symbol of the worker form, or NULL */
    const char *variant;  /* for people and the cache's key; static or in the arena: "igemm 64x64 f16 split 4" */
    unsigned tiles;       /* grid.x of the plain form; >= 1 */
    unsigned threads, dynamic_smem; /* the host side raises the limit to dynamic_smem (static comes on top) */
    unsigned cluster;               /* blocks per cluster (0: no cluster); divides tiles */
    bool loops; /* the worker form has as many blocks as fit, each with several tiles (otherwise: one for each tile) */
    void *args; /* in the prepare context's arena; constant addresses are already in place */
    size_t args_bytes; /* <= 4000 */
    reef_cuda_reloc relocs[REEF_CUDA_MAX_RELOCS];
    unsigned n_relocs;
    size_t workspace_bytes;       /* 0, or what it needs including REEF_CUDA_ZERO_BYTES */
    double flops;                 /* useful arithmetic of the whole kernel */
    bool does_then, does_through; /* it does the work of the plan's kernel `then`, or of the copy `through`, as well */
    unsigned left_ns;             /* about what such work takes, if this candidate leaves it undone */
} reef_cuda_kernel;

typedef struct reef_cuda_prepare {
    const reef_plan *plan;
    reef_cuda_precision precision;
    unsigned sm_count;
    unsigned sm_arch;  /* 90 for sm_90: of the device */
    bool arch_kernels; /* the loaded module is the one for this very architecture (sm_90a: has wgmma entry points) */
    reef_arena *arena; /* arguments, names */
    /* Copies host bytes to device memory that lives as long as the program (256-byte aligned); *address is where. The host
     * memory may be freed after the call. */
    reef_status (*upload)(void *owner, const void *host, size_t bytes, uint64_t *address);
    void *owner;
    reef_error *error;
} reef_cuda_prepare;

/* Fills out[0..*n) with candidates for kernel k, likely best first (a host side that does not measure takes out[0]).
 * max >= 1. Fails with UNSUPPORTED (operand form) or NO_MEMORY. */
typedef reef_status (*reef_cuda_prepare_fn)(const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                                            size_t max, size_t *n);

#define REEF_CUDA_PREPARE(kind)                                                                                        \
    reef_status reef_cuda_prepare_##kind(const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out,          \
                                         size_t max, size_t *n)
REEF_CUDA_PREPARE(conv);
REEF_CUDA_PREPARE(conv_transpose);
REEF_CUDA_PREPARE(matmul);
REEF_CUDA_PREPARE(attention);
REEF_CUDA_PREPARE(pool);
REEF_CUDA_PREPARE(eltwise);
REEF_CUDA_PREPARE(copy);
REEF_CUDA_PREPARE(reduce);
REEF_CUDA_PREPARE(softmax);
REEF_CUDA_PREPARE(layer_norm);
REEF_CUDA_PREPARE(gather);
REEF_CUDA_PREPARE(resize);
REEF_CUDA_PREPARE(lrn);
REEF_CUDA_PREPARE(arg_max);
REEF_CUDA_PREPARE(spin);

/* The device's element type of storage behind a view. */
static inline reef_cuda_elem_type reef_cuda_elem(const reef_cuda_prepare *ctx, const reef_view *view)
{
    switch (view->dtype) {
    case REEF_F16: return REEF_CUDA_F16;
    case REEF_F64: return REEF_CUDA_F64;
    case REEF_I64: return REEF_CUDA_I64;
    case REEF_I32: return REEF_CUDA_I32;
    case REEF_I8: return REEF_CUDA_I8;
    case REEF_BOOL:
    case REEF_U8: return REEF_CUDA_BOOL;
    case REEF_F32: break;
    }
    bool half = ctx->precision == REEF_CUDA_FP16 && ctx->plan->storage[view->storage].kind == REEF_STORAGE_ACTIVATION;
    return half ? REEF_CUDA_F16 : REEF_CUDA_F32;
}

static inline unsigned reef_cuda_elem_bytes(reef_cuda_elem_type type)
{
    static const uint8_t bytes[] = {4, 2, 8, 4, 1, 1, 8};
    return bytes[type];
}

/* Notes that args holds the address of the view's element [0,0,...] at offset `at`. */
static inline void reef_cuda_bind(const reef_cuda_prepare *ctx, reef_cuda_kernel *out, size_t at, const reef_view *view)
{
    out->relocs[out->n_relocs++] = (reef_cuda_reloc){
        .at = (uint32_t)at,
        .target = REEF_CUDA_STORAGE,
        .storage = view->storage,
        .bytes = view->offset * (int64_t)reef_cuda_elem_bytes(reef_cuda_elem(ctx, view)),
    };
}
static inline void reef_cuda_bind_workspace(reef_cuda_kernel *out, size_t at, size_t bytes)
{
    out->relocs[out->n_relocs++] =
        (reef_cuda_reloc){.at = (uint32_t)at, .target = REEF_CUDA_WORKSPACE, .bytes = (int64_t)bytes};
}

#endif
