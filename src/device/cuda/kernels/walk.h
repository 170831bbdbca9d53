/*
 * walk.h - the host half of walks (misc_args.h): merging dimensions, choosing vectors, cutting items into tiles.
 *
 * Where it sits: used by the prepare functions of this folder that do little arithmetic per element.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_WALK_H
#define REEF_DEVICE_CUDA_KERNELS_WALK_H

#include <string.h>

#include "device/cuda/kernels/cuda_tile.h"
#include "device/cuda/kernels/misc_args.h"

_Static_assert(REEF_MAX_RANK <= (int)REEF_CUDA_WALK_DIMS, "a walk has room for every dimension");

typedef reef_cuda_walk9 reef_cuda_walk;

/* Alignment of request inputs and outputs; storage and constants have 256. */
enum { REEF_CUDA_IO_ALIGN = 16 };

/* strides[o]: operand o's stride of each dimension. sort: order by operand 0's memory, else keep the order given.
 * merge: join neighbours that every operand steps through alike, and drop dimensions of size 1. */
void reef_cuda_walk_make(reef_cuda_walk *w, int n_ops, int rank, const int64_t *dims, const int64_t *const *strides,
                         bool sort, bool merge);
/* Sets what follows from dims: total, wide, div. */
void reef_cuda_walk_finish(reef_cuda_walk *w);
/* From here on items are vectors of v neighbours. Operands have an innermost stride of 1 or 0. */
void reef_cuda_walk_by(reef_cuda_walk *w, int n_ops, int v);
/* The first n_ops operands, into a walk type of that many. */
#define REEF_CUDA_WALK_TAKE(to, w) memcpy(&(to), (w), sizeof(to))

/* May operand o (of this view) be read and written in vectors of v elements? Its innermost stride must be 1. */
bool reef_cuda_walk_vector(const reef_cuda_walk *w, int o, const reef_cuda_prepare *ctx, const reef_view *view, int v);

/* Sets tiles, threads and returns the number of items of a tile. */
uint32_t reef_cuda_cut(const reef_cuda_prepare *ctx, reef_cuda_kernel *out, int64_t items);

/* Starts a candidate: its argument struct, zeroed, from the arena. NULL: out of memory, the error is set. */
void *reef_cuda_candidate(const reef_kernel *k, const reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                          const char *function, const char *worker, const char *variant, size_t args_bytes);
#define REEF_CUDA_CANDIDATE(k, ctx, out, function, variant, args)                                                      \
    reef_cuda_candidate(k, ctx, out, function, function "_be", variant, sizeof(args))
#define REEF_CUDA_BIND(ctx, out, args, member, view)                                                                   \
    reef_cuda_bind(ctx, out, (size_t)((char *)&(args)->member - (char *)(args)), view)

reef_status reef_cuda_unsupported(const reef_kernel *k, const reef_cuda_prepare *ctx, const char *what);

/* y = x, element by element, between f32 and f16 or within one of them (eltwise_host.c). */
reef_status reef_cuda_prepare_convert(const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out);

static inline bool reef_cuda_is_float(reef_cuda_elem_type type)
{
    return type == REEF_CUDA_F32 || type == REEF_CUDA_F16;
}

/* How reductions share a block: see reef_cuda_reduce_args. */
typedef struct reef_cuda_lanes {
    uint32_t log2, along;
    unsigned threads, tiles;
} reef_cuda_lanes;
reef_cuda_lanes reef_cuda_lanes_choose(const reef_cuda_prepare *ctx, int64_t kept, int64_t length, bool along);

#endif
