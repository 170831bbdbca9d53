/*
 * pad_table.cu - the kernels of pad_table.c: spare blocks that find their tiles in a table, beside those of pad.cuh, which
 * take them.
 *
 * Built three times, as the product's kernels are: alone, with REEF_CUDA_PADS and with REEF_CUDA_RIDES.
 *
 *      pad_table_work, _pad, _ride    tiles that compute: the plain form, the product's spare blocks and the product's ride
 *      pad_table_work_slots           the same with spare blocks that read a slot and call what it names
 *      pad_table_work_call            a tile as what they call: nobody has to be told that it is done
 */
#include "device/cuda/kernels/device.cuh"

#include "pad_table.h"

static __device__ __forceinline__ float table_fmas(float x, unsigned n)
{
#pragma unroll 20
    for (unsigned i = 0; i < n; i++) {
        asm volatile("fma.rn.f32 %0, %0, %1, %2;" : "+f"(x) : "f"(TABLE_FACTOR), "f"(TABLE_TERM));
    }
    return x;
}

struct work_kernel {
    using args = table_work;
    static constexpr int threads = TABLE_THREADS;

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        abandon.wait();
        uint32_t before = 1;
        if (a.before && threadIdx.x < a.before_tiles) {
            before = ((const volatile uint32_t *)a.before)[threadIdx.x];
        }
        const float x = table_fmas(TABLE_SEED(threadIdx.x), a.fmas);
        if (!abandon.commit()) {
            return false;
        }
        ((uint32_t *)a.values)[index * TABLE_THREADS + threadIdx.x] = TABLE_VALUE(__float_as_uint(x), a.mark + index);
        if (before != 1) {
            atomicAdd((unsigned *)a.early, 1u);
        }
        if (threadIdx.x == 0) {
            atomicAdd((unsigned *)a.counts + index, 1u);
        }
        return true;
    }
};

REEF_KERNEL(pad_table_work, work_kernel)

#if defined REEF_CUDA_PADS
/* All threads of a spare block. */
static __device__ __noinline__ __attribute__((noreturn)) void table_ride_along(const table_pad &p)
{
    volatile table_slot *told = (volatile table_slot *)reef_statics.bytes;
    const uint32_t spare = blockIdx.x - p.tiles, rank = p.shared ? spare : 0;
    reef_pdl_launch();
    if (p.waits) {
        reef_pdl_wait();
    }
    if (threadIdx.x == 0) {
        const uint4 *from = (const uint4 *)((const table_slot *)p.slots + (p.shared ? 0 : spare));
        const uint4 low = __ldcv(from), high = __ldcv(from + 1);
        ((uint4 *)reef_statics.bytes)[0] = low;
        ((uint4 *)reef_statics.bytes)[1] = high;
    }
    __syncthreads();
    const uint64_t function = told->function, args = told->args;
    const uint32_t tile = told->tile + rank, tiles = told->tiles;
    __syncthreads(); /* all have read what was told; the tile has its own variables there */
    if (function && rank < tiles) {
        ((reef_ride_function)function)((const void *)args, tile, NULL);
    }
    asm volatile("exit;");
    __builtin_unreachable();
}

extern "C" __global__ void __launch_bounds__(TABLE_THREADS)
    pad_table_work_slots(const __grid_constant__ table_work a, const __grid_constant__ table_pad p)
{
    if (blockIdx.x >= p.tiles) {
        table_ride_along(p);
    }
    reef_never never;
    work_kernel::tile(a, blockIdx.x, reef_tile_smem(), never);
}

#elif defined REEF_CUDA_RIDES
extern "C" __device__ __noinline__ __attribute__((noreturn)) void pad_table_work_call(const void *args, uint32_t tile,
                                                                                      const reef_pad_kernel *)
{
    if (threadIdx.x == 0) {
        reef_statics.threads = TABLE_THREADS;
    }
    const table_work &near = reef_near<table_work>(args, TABLE_THREADS);
    reef_riding riding;
    work_kernel::tile(near, tile, reef_tile_smem(), riding);
    asm volatile("exit;");
    __builtin_unreachable();
}
extern "C" {
__device__ reef_ride_function pad_table_work_call_at = pad_table_work_call;
}
/* Never launched: the driver tells of it what the function takes. */
extern "C" __global__ void __launch_bounds__(TABLE_THREADS) pad_table_work_caller(const void *args)
{
    pad_table_work_call(args, blockIdx.x, NULL);
}

#else
/* One warp that takes time. */
extern "C" __global__ void __launch_bounds__(32) pad_table_delay(uint32_t fmas)
{
    reef_pdl_wait();
    table_fmas(1.0f, fmas);
}

/* One block: 16 bytes a thread and step, from pinned memory, as reef_io_in copies. */
extern "C" __global__ void __launch_bounds__(TABLE_THREADS) pad_table_copy(uint64_t to, uint64_t from, uint32_t n)
{
    reef_pdl_launch();
    reef_pdl_wait();
    for (uint32_t i = threadIdx.x; i < n; i += TABLE_THREADS) {
        ((uint4 *)to)[i] = __ldcv((const uint4 *)from + i);
    }
}

/* A block for each tile. */
extern "C" __global__ void __launch_bounds__(TABLE_THREADS) pad_table_check(const __grid_constant__ table_check c)
{
    const uint32_t tile = blockIdx.x, at = tile * TABLE_THREADS + threadIdx.x;
    uint32_t *values = (uint32_t *)c.values, *counts = (uint32_t *)c.counts;
    table_found *found = (table_found *)c.found;
    const uint32_t count = counts[tile], value = values[at];
    const uint32_t wanted = count ? TABLE_VALUE(((const uint32_t *)c.expected)[threadIdx.x], tile) : 0;
    const bool wrong = __syncthreads_or(value != wanted);
    values[at] = 0;
    if (threadIdx.x == 0) {
        counts[tile] = 0;
        if (count) {
            atomicAdd(count == c.want ? &found->done : &found->repeated, 1u);
            atomicMax(&found->end, tile + 1);
        }
        if (wrong) {
            atomicAdd(&found->wrong, 1u);
        }
    }
}
#endif
