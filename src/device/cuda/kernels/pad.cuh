/*
 * pad.cuh - kernel padding, the device half: real-time kernels with spare blocks, and tiles that ride in them.
 *
 *      padded form   name_pad128(args, reef_cuda_pad)   blocks below pad.tiles: the kernel's own tiles, as in the plain form;
 *                                                       the others: whatever fits, of whichever source has something open
 *      ride          name_ride128(args*, tile, kernel*) a tile of the same kernel as a function that does not return
 *
 * The paper's proxies call every tile through a pointer; here only what rides is, so that a padded launch with nothing to
 * pad is the plain kernel. A function that never returns has no registers to save for its caller, but it runs with the
 * registers, the shared memory, the stack, the barriers and the constant banks of the launch that it rides in. So the two forms are
 * built apart: rides with at most REEF_PAD_REGS registers and no constants of their own, padded kernels with as many registers,
 * however few they need themselves: the linker counts what the functions need whose address a module takes, and takes
 * reef_ballast into account though it is never called.
 *
 * Both are built once per level, which is a number of registers and so an occupancy (the Makefile's CUDA_PAD_LEVELS). Padded kernels
 * of the highest level take more registers where they need more themselves. Those of lower levels (REEF_PAD_CAPPED) do
 * with what the level has, and the host leaves alone the ones that spill for it. A ride takes what its level has, because nothing
 * tells the compiler to take less; the host has one of a lower level ride, everywhere, if it hardly spills (pad.c).
 *
 * Kernels with wgmma have no padded form, they only ride. ptxas lets no two wgmma of a function overlap if the function
 * calls another; and with their tiles in a function of its own, which then has to find its arguments in shared memory, a
 * kernel took 0.6 us longer with nothing to pad (ResNet-152 16%).
 *
 * A spare block
 *
 *      reads all claims (a warp, one source per lane), picks one that is open and fits
 *      takes tiles:  old = atomicAdd(claim, n): kernel and first tile; past the end or closed: nothing
 *      runs them, then counts them in kernel->ended; who counts the last one opens the next kernel
 *
 * and does that once: its tile takes as long as the real-time kernel. It does not wait for the real-time kernel before it,
 * because what it reads was written by tiles that have been counted. A source is closed by taking its claim away and waiting until everything that was
 * claimed has ended (reef_pad_close); only then do workers go on with it.
 *
 * Clusters: spare blocks come in whole clusters. Their first block takes for all of them: a tile each, or the tiles of one of the
 * source's own clusters if that is no larger.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_PAD_CUH
#define REEF_DEVICE_CUDA_KERNELS_PAD_CUH

#include "device/cuda/kernels/pad.h"

typedef __attribute__((noreturn)) void (*reef_ride_function)(const void *args, uint32_t tile,
                                                             const reef_pad_kernel *kernel);

/* name, form and level in one word. */
#define REEF_LEVEL_NAME_OF(name, form, level) name##form##level
#define REEF_LEVEL_NAME(name, form, level)    REEF_LEVEL_NAME_OF(name, form, level)

/* Where a tile's own shared memory begins. (Not a number: an address in shared memory says in which block of a cluster.) */
static __device__ __forceinline__ char *reef_tile_smem(void)
{
    return (char *)&reef_statics + (sizeof reef_statics + REEF_PAD_SCRATCH - 1) / REEF_PAD_SCRATCH * REEF_PAD_SCRATCH;
}

/* All threads of the tile: the arguments, where they are read as fast as a kernel reads its own, if they fit. Through the
 * address they would be loaded again after every barrier. */
template <class Args>
static __device__ __forceinline__ const Args &reef_near(const void *args, unsigned threads)
{
    if constexpr (sizeof(Args) <= REEF_PAD_ARGS) {
        for (unsigned i = threadIdx.x; i < (sizeof(Args) + 3) / 4; i += threads) {
            ((uint32_t *)reef_statics.args)[i] = ((const uint32_t *)args)[i];
        }
        __syncthreads();
        return *(const Args *)reef_statics.args;
    } else {
        __syncthreads();
        return *(const Args *)args;
    }
}

static __device__ __forceinline__ uint64_t reef_load_now(const uint64_t *p)
{
    return *(const volatile uint64_t *)p;
}

static __device__ __forceinline__ bool reef_fits(const reef_pad_needs &needs, const reef_pad_needs &offers)
{
    return needs.ns <= offers.ns && needs.dynamic_smem <= offers.dynamic_smem && needs.threads <= offers.threads &&
           needs.regs <= offers.regs && needs.local_bytes <= offers.local_bytes && needs.cluster <= offers.cluster;
}

/* One thread: `claims` of the kernel have ended, and so many of them with their tiles done, now or earlier. */
static __device__ __forceinline__ void reef_count_ended(reef_pad_kernel *kernel, uint32_t claims, uint32_t tiles)
{
    __threadfence(); /* what the tiles have stored, before they count */
    const uint64_t more = (uint64_t)claims << 32 | tiles;
    const uint64_t before = atomicAdd((unsigned long long *)&kernel->ended, (unsigned long long)more);
    if (tiles == 0 || (uint32_t)before + tiles != kernel->tiles) {
        return;
    }
    __threadfence();
    reef_pad_source *source = (reef_pad_source *)kernel->source;
    reef_pad_directory *directory = (reef_pad_directory *)source->directory;
    const reef_pad_kernel *kernels = (const reef_pad_kernel *)source->kernels;
    unsigned long long *claim = (unsigned long long *)&directory->claim[source->slot];
    const uint32_t index = (uint32_t)(kernel - kernels), next = kernel->next;
    uint64_t wanted = REEF_CLAIM_THROUGH;
    if (next != REEF_PAD_END) {
        wanted = REEF_CLAIM(next, kernels[next].tiles) | (next < source->look_until ? REEF_CLAIM_LOOK : 0);
        *(volatile uint64_t *)&directory->needs[source->slot] = *(const uint64_t *)&kernels[next].needs;
        *((volatile uint64_t *)&directory->needs[source->slot] + 1) = *((const uint64_t *)&kernels[next].needs + 1);
    }
    const uint32_t run = ((const reef_cuda_control *)source->control)->run;
    *(volatile uint64_t *)source->word = (uint64_t)run << 32 | (next == REEF_PAD_END ? source->n_kernels : next);
    __threadfence();
    /* Unless it was closed meanwhile. Others may still be adding to it, in vain. */
    for (uint64_t seen = reef_load_now((const uint64_t *)claim);
         (seen & REEF_CLAIM_OPEN) && REEF_CLAIM_KERNEL(seen) == index;) {
        const uint64_t found = atomicCAS(claim, (unsigned long long)seen, (unsigned long long)wanted);
        if (found == seen) {
            return; /* the last that is done here to this kernel: who closes need not wait for it */
        }
        seen = found;
    }
    __threadfence();
    atomicAdd((unsigned long long *)&kernel->ended, 1ull << 32); /* reef_pad_close waits for this */
}

#ifdef REEF_CUDA_PADS
struct reef_claimed {
    uint64_t kernel; /* address of reef_pad_kernel; 0: nothing */
    uint32_t tile, look;
};

/* One warp. The answer is lane 0's. */
static __device__ __noinline__ reef_claimed reef_claim_tiles(const reef_cuda_pad &p)
{
    reef_pad_directory *directory = (reef_pad_directory *)p.directory;
    const unsigned lane = threadIdx.x & 31;
    reef_claimed none = {0, 0, 0};
    const uint64_t word = reef_load_now(&directory->claim[lane]);
    uint64_t parts[2] = {reef_load_now((const uint64_t *)&directory->needs[lane]),
                         reef_load_now((const uint64_t *)&directory->needs[lane] + 1)};
    const reef_pad_needs &needs = *(const reef_pad_needs *)parts;
    const bool open = (word & REEF_CLAIM_OPEN) && REEF_CLAIM_NEXT(word) < REEF_CLAIM_TILES(word);
    const unsigned could = __ballot_sync(0xffffffffu, open && reef_fits(needs, p.offers));
    if (!could) {
        return none;
    }
    const unsigned pick = __fns(could, 0, 1 + (blockIdx.x / p.offers.cluster + p.turn) % __popc(could));
    const unsigned cluster = __shfl_sync(0xffffffffu, (unsigned)needs.cluster, pick);
    const unsigned n = cluster > 1 ? cluster : p.offers.cluster;
    if (lane != 0) {
        return none;
    }
    const uint64_t old = atomicAdd((unsigned long long *)&directory->claim[pick], (unsigned long long)n);
    const uint32_t tile = REEF_CLAIM_NEXT(old), tiles = REEF_CLAIM_TILES(old);
    if (!(old & REEF_CLAIM_OPEN) || tile >= tiles) {
        return none;
    }
    __threadfence(); /* what was counted before this claim was opened may be read */
    reef_pad_kernel *kernel =
        (reef_pad_kernel *)reef_load_now(&directory->kernels[pick]) + REEF_CLAIM_KERNEL(old); /* the claim keeps it there */
    const bool same = kernel->needs.cluster > 1 ? kernel->needs.cluster == n : n == p.offers.cluster;
    if (!same || !reef_fits(kernel->needs, p.offers)) {
        /* The kernel has changed since it was looked at. What was taken is left undone, for the workers. */
        reef_count_ended(kernel, n < tiles - tile ? n : tiles - tile, 0);
        return none;
    }
    return reef_claimed{(uint64_t)kernel, tile, (old & REEF_CLAIM_LOOK) ? 1u : 0u};
}

static __device__ __forceinline__ unsigned reef_cluster_rank(void)
{
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* All threads of a spare block. */
static __device__ __noinline__ __attribute__((noreturn)) void reef_ride_along(const reef_cuda_pad &p)
{
    volatile reef_claimed *told = (volatile reef_claimed *)reef_statics.bytes;
    const unsigned blocks = p.offers.cluster, rank = blocks > 1 ? reef_cluster_rank() : 0;
    reef_pdl_launch();
    if (blocks > 1) {
        asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
    }
    reef_claimed mine = {0, 0, 0};
    if (rank == 0 && threadIdx.x < 32) {
        mine = reef_claim_tiles(p);
    }
    if (blocks > 1) {
        asm volatile("barrier.cluster.wait;" ::: "memory"); /* all have begun: before that, nobody may write to their memory */
        if (rank == 0 && threadIdx.x < 32) {
            mine.kernel = __shfl_sync(0xffffffffu, mine.kernel, 0);
            mine.tile = __shfl_sync(0xffffffffu, mine.tile, 0);
            mine.look = __shfl_sync(0xffffffffu, mine.look, 0);
            if (threadIdx.x < blocks) {
                uint32_t to;
                asm("mapa.shared::cluster.u32 %0, %1, %2;"
                    : "=r"(to)
                    : "r"((uint32_t)__cvta_generic_to_shared((void *)told)), "r"(threadIdx.x));
                asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(to), "l"(mine.kernel) : "memory");
                asm volatile("st.shared::cluster.v2.u32 [%0 + 8], {%1, %2};" ::"r"(to), "r"(mine.tile), "r"(mine.look)
                             : "memory");
            }
        }
        asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
    } else {
        if (threadIdx.x == 0) {
            told->kernel = mine.kernel;
            told->tile = mine.tile;
            told->look = mine.look;
        }
        __syncthreads();
    }
    reef_pad_kernel *kernel = (reef_pad_kernel *)told->kernel;
    const uint32_t tile = told->tile + rank;
    bool goes = kernel != NULL;
    if (goes) {
        goes = rank < (kernel->needs.cluster > 1 ? kernel->needs.cluster : blocks) && tile < kernel->tiles;
        if (goes && told->look) {
            const uint32_t run = ((const reef_cuda_control *)((const reef_pad_source *)kernel->source)->control)->run;
            if (*((const volatile uint32_t *)kernel->done + tile) == run) { /* of a cluster: all or none are */
                goes = false;
                if (threadIdx.x == 0) {
                    reef_count_ended(kernel, 1, 1);
                }
            }
        }
    }
    __syncthreads(); /* all have read what was told; the tile has its own variables there */
    if (goes) {
        ((reef_ride_function)kernel->function)((const void *)kernel->args, tile, kernel);
    }
    asm volatile("exit;");
    __builtin_unreachable();
}

template <class Kernel>
static __device__ __forceinline__ void reef_padded(const typename Kernel::args &a, const reef_cuda_pad &p)
{
    if (blockIdx.x >= p.tiles) {
        reef_ride_along(p);
    }
    reef_never never;
    Kernel::tile(a, blockIdx.x, reef_tile_smem(), never);
}

/* Blocks of more threads have no room with these registers. */
static constexpr int reef_pad_threads(int threads)
{
    return threads < 65536 / REEF_PAD_REGS ? threads : 65536 / REEF_PAD_REGS;
}
/* So many blocks must fit a unit: where there are launch bounds, ptxas keeps to the registers for that, not to -maxrregcount. */
static constexpr int reef_pad_blocks(int threads)
{
#ifdef REEF_PAD_CAPPED
    return 65536 / REEF_PAD_REGS / reef_pad_threads(threads);
#else
    return 1;
#endif
}

/* Never called; for what its presence makes the linker reserve for every kernel of the module: registers, stack, barriers. */
extern "C" __device__ __noinline__ __attribute__((noreturn)) void reef_ballast(const void *args, uint32_t tile,
                                                                             const reef_pad_kernel *kernel)
{
    float v[REEF_PAD_REGS];
    volatile char stack[REEF_PAD_STACK];
    volatile float *p = (volatile float *)args;
#pragma unroll
    for (int i = 0; i < REEF_PAD_REGS - 24; i++) {
        v[i] = p[i];
    }
    stack[tile % REEF_PAD_STACK] = (char)tile;
#pragma unroll
    for (int i = 0; i < REEF_PAD_REGS - 24; i++) {
        p[REEF_PAD_REGS - i] = v[i];
    }
    p[0] = (float)stack[kernel->tiles % REEF_PAD_STACK];
    asm volatile("barrier.sync 3;"); /* 0 to 3: conv3.cu names one beside __syncthreads's */
    asm volatile("exit;");
    __builtin_unreachable();
}
static __device__ reef_ride_function reef_ballast_at = reef_ballast;

/* A kernel without tiles, never launched: the driver tells of it what spare blocks alone take. */
extern "C" __global__ void REEF_LEVEL_NAME(reef_nothing, _pad, REEF_PAD_REGS)(const __grid_constant__ reef_cuda_pad p)
{
    *(volatile uint64_t *)p.directory = (uint64_t)reef_ballast_at; /* it is kept for this */
    reef_ride_along(p);
}

#define REEF_KERNEL_PADDED(name, ...)                                                                                  \
    extern "C" __global__ void                                                                                         \
        __launch_bounds__(reef_pad_threads(__VA_ARGS__::threads), reef_pad_blocks(__VA_ARGS__::threads))               \
            REEF_LEVEL_NAME(name, _pad, REEF_PAD_REGS)(const __grid_constant__ __VA_ARGS__::args a,                    \
                                                       const __grid_constant__ reef_cuda_pad p)                        \
    {                                                                                                                  \
        reef_padded<__VA_ARGS__>(a, p);                                                                                \
    }
#endif

#ifdef REEF_CUDA_RIDES
struct reef_riding : reef_never {
    __device__ __forceinline__ void wait() const
    {
    }
};

template <class Kernel>
static __device__ __forceinline__ void reef_ride(const void *args, uint32_t tile, const reef_pad_kernel *kernel)
{
    const unsigned threads = kernel->needs.threads;
    if (threadIdx.x >= threads) {
        return;
    }
    if (threadIdx.x == 0) {
        reef_statics.threads = threads;
    }
    const typename Kernel::args &near = reef_near<typename Kernel::args>(args, threads);
    reef_riding riding;
    Kernel::tile(near, tile, reef_tile_smem(), riding);
    __syncthreads(); /* every thread's stores, before the tile counts */
    if (threadIdx.x == 0) {
        const reef_pad_source *source = (const reef_pad_source *)kernel->source;
        ((volatile uint32_t *)kernel->done)[tile] = ((const reef_cuda_control *)source->control)->run;
        atomicAdd((unsigned long long *)&((reef_pad_directory *)source->directory)->tiles, 1ull);
        reef_count_ended((reef_pad_kernel *)kernel, 1, 1); /* then it may be closed, and freed */
    }
}

/* _rider is never launched: the driver tells of it what the function takes. */
#define REEF_KERNEL_RIDE(name, ...)                                                                                    \
    REEF_KERNEL_RIDE_OF(REEF_LEVEL_NAME(name, _ride, REEF_PAD_REGS), REEF_LEVEL_NAME(name, _rider, REEF_PAD_REGS),     \
                        REEF_LEVEL_NAME(name, _at, REEF_PAD_REGS), __VA_ARGS__)
#define REEF_KERNEL_RIDE_OF(ride, rider, at, ...)                                                                      \
    extern "C" __device__ __noinline__ __attribute__((noreturn)) void ride(const void *args, uint32_t tile,            \
                                                                           const reef_pad_kernel *kernel)              \
    {                                                                                                                  \
        reef_ride<__VA_ARGS__>(args, tile, kernel);                                                                    \
        asm volatile("exit;");                                                                                         \
        __builtin_unreachable();                                                                                       \
    }                                                                                                                  \
    extern "C" {                                                                                                       \
    __device__ reef_ride_function at = ride;                                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__::threads < 512 ? __VA_ARGS__::threads : 512)              \
        rider(const void *args, const reef_pad_kernel *kernel)                                                         \
    {                                                                                                                  \
        ride(args, blockIdx.x, kernel);                                                                                \
    }
#endif

#endif
