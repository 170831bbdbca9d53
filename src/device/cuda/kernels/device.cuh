/*
 * device.cuh - the device half of the tile contract (cuda_tile.h): the two forms of a kernel, abandoning, progress.
 *
 * A kernel's source is a function object template over its arguments:
 *
 *      struct my_kernel {
 *          using args = my_args;                       // shared with the host, passed by value
 *          static constexpr int threads = 128;
 *          template <class Abandon>
 *          static __device__ bool tile(const args &a, uint32_t index, char *smem, Abandon &abandon);
 *      };
 *      REEF_KERNEL(reef_my_kernel, my_kernel)          // both forms: reef_my_kernel and reef_my_kernel_be
 *
 * tile returns false when it was abandoned, having stored nothing. In the plain form `Abandon` is reef_never, whose
 * tests are compile-time false. Every tile calls
 *
 *      abandon.wait()      before it reads what other kernels write: waits for the predecessors, and in the plain form
 *                          only then lets the successors start: earlier, and the blocks of two or three kernels that can
 *                          do nothing yet would hold the units' memory against the one that runs (on an H200 that cost
 *                          ResNet-152 a tenth)
 *      abandon.commit()    all threads, once, between its last read that may see nonsense and its first store; a barrier
 *                          in a worker, nothing in the plain form. False: return false.
 *
 * Between the two a worker computes on trust: what it has read may be nonsense if the predecessor was abandoned, and
 * commit then says no. A loop of more than a few microseconds also asks on the way. With one barrier per step i:
 *
 *      abandon.poll(i);  __syncthreads();  if (abandon.hit(i)) return false;
 *
 * poll: one thread notes in shared memory what it has loaded at the last test, and loads again; hit: all threads read
 * the note after the barrier. There are two notes, used in turn, so that a note is never written while somebody may still
 * read it. In a loop without a barrier, `if (__syncthreads_or(abandon.now()))` does the same.
 *
 * A worker's grid is that of the plain form, a block for each tile, where the kernel says
 *
 *          static constexpr bool block_is_tile = true;
 *
 * (large tiles; only these may have clusters). Otherwise it is as many blocks as fit the GPU, which take tiles in turn.
 *
 * The blocks of a cluster go on together or not at all: a tile that has a cluster does not call commit. Its first warp
 * sends all of them what thread 0 knows, abandon.stops(), along with the sums, and each decides from the same words.
 * Nobody may leave before that, so a block that was told to stop before it began (abandon.gone()) skips the work, but
 * not the exchange.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_DEVICE_CUH
#define REEF_DEVICE_CUDA_KERNELS_DEVICE_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "device/cuda/kernels/worker.h"

/* ---- shared memory ------------------------------------------------------------------------------------------------ */
/* A tile's shared variables of fixed size: REEF_SHARED(sums, float[32]); one of them in a tile, a struct if it needs several.
 * REEF_THREADS: of the tile's block; not blockDim.x, because a tile that rides in another kernel's launch (pad.cuh) may leave
 * some of that block's threads out. In the forms of kernel padding all kernels of a module have their variables in one place, at the
 * start of shared memory, and the tile's dynamic memory begins at the next multiple of 1 KiB behind them: a function that
 * several kernels call cannot have them anywhere else. The arguments are there too. */
#if defined REEF_CUDA_RIDES || defined REEF_CUDA_PADS
#ifndef REEF_PAD_STATICS
#define REEF_PAD_STATICS 592 /* or what the source file says in front of its includes */
#endif
#ifndef REEF_PAD_ARGS
#define REEF_PAD_ARGS 400
#endif
struct reef_common {
    __align__(16) char bytes[REEF_PAD_STATICS];
    __align__(16) char args[REEF_PAD_ARGS];
    unsigned threads;
};
static __shared__ reef_common reef_statics;
#define REEF_SHARED(name, ...)                                                                                         \
    using name##_type = __VA_ARGS__;                                                                                   \
    static_assert(sizeof(name##_type) <= sizeof reef_statics.bytes, "REEF_PAD_STATICS is too small");                  \
    name##_type &name = *(name##_type *)reef_statics.bytes
#ifdef REEF_CUDA_RIDES
#define REEF_THREADS reef_statics.threads
#else
#define REEF_THREADS blockDim.x
#endif
#else
#define REEF_SHARED(name, ...)                                                                                         \
    using name##_type = __VA_ARGS__;                                                                                   \
    __shared__ __align__(16) name##_type name
#define REEF_THREADS blockDim.x
#endif

/* ---- programmatic dependent launch -------------------------------------------------------------------------------- */
static __device__ __forceinline__ void reef_pdl_launch(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
static __device__ __forceinline__ void reef_pdl_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* ---- plain form --------------------------------------------------------------------------------------------------- */
struct reef_never {
    static constexpr bool on = false;
    __device__ __forceinline__ void wait() const
    {
        reef_pdl_wait();
        reef_pdl_launch();
    }
    __device__ __forceinline__ void poll(unsigned) const
    {
    }
    __device__ __forceinline__ bool hit(unsigned) const
    {
        return false;
    }
    __device__ __forceinline__ bool now() const
    {
        return false;
    }
    __device__ __forceinline__ bool commit() const
    {
        return true;
    }
    __device__ __forceinline__ bool gone() const
    {
        return false;
    }
    __device__ __forceinline__ bool stops() const
    {
        return false;
    }
    __device__ __forceinline__ uint64_t look() const
    {
        return 0;
    }
    __device__ __forceinline__ bool stopped(uint64_t) const
    {
        return false;
    }
};

/* For tiles too short or too plain to compute on trust: asks before they begin. */
#define REEF_TURN(abandon)                                                                                             \
    if (Abandon::on) {                                                                                                 \
        (abandon).wait();                                                                                              \
        if (!(abandon).commit()) {                                                                                     \
            return false;                                                                                              \
        }                                                                                                              \
    }

/* ---- worker form -------------------------------------------------------------------------------------------------- */
/* A worker runs a tile, or several, but for those that an earlier launch of the same run has done. It may be told to stop
 * at any time, by a word of the device that holds the youngest generation that has been revoked; a launch belongs to the
 * generation in its instance's control word and goes on while that is younger.
 *
 * Generations only grow. So a worker that finds its own not revoked, at a moment when the kernel before it has ended,
 * knows that no worker of that kernel had found it revoked either: every tile of every kernel before is done. One test,
 * after the wait and before the first store, says both "go on" and "it is my turn". */
#define REEF_NEVER_REVOKED 0x40000000u /* generations from now: far in the future */

#ifdef __CUDACC__
/* reef_revoked as it is now; and whether it says so of a generation. */
static __device__ __forceinline__ uint64_t reef_revoked_now(uint64_t address)
{
    return *(const volatile uint64_t *)address;
}
static __device__ __forceinline__ bool reef_is_revoked(uint64_t words, unsigned generation)
{
    return (int)(generation - (unsigned)words) <= 0 || (int)(generation - (unsigned)(words >> 32)) <= 0;
}

struct reef_lease_test {
    static constexpr bool on = true;
    uint64_t revoked;        /* address */
    volatile unsigned *note; /* shared, three words */
    unsigned generation;
    bool went; /* revoked before the tile began; the same for all threads */
    /* Thread 0's: the word as loaded at the last test but one, and at the last, which may still be on its way. Either was
     * loaded after the wait. Nobody ever stands still for a load that was only just begun. */
    uint64_t seen, coming;

    __device__ __forceinline__ uint64_t look() const
    {
        return reef_revoked_now(revoked);
    }
    __device__ __forceinline__ bool stopped(uint64_t words) const
    {
        return reef_is_revoked(words, generation);
    }
    __device__ __forceinline__ void wait()
    {
        reef_pdl_wait();
        reef_pdl_launch();
        if (threadIdx.x == 0) {
            seen = coming = look();
        }
    }
    __device__ __forceinline__ void poll(unsigned i)
    {
        if (threadIdx.x == 0) {
            seen = coming;
            note[i & 1] = stopped(seen);
            coming = look();
        }
    }
    __device__ __forceinline__ bool hit(unsigned i) const
    {
        return note[i & 1] != 0;
    }
    __device__ __forceinline__ bool now()
    {
        if (threadIdx.x == 0) {
            seen = coming;
            coming = look();
        }
        return threadIdx.x == 0 && stopped(seen);
    }
    __device__ __forceinline__ bool commit()
    {
        if (threadIdx.x == 0) {
            note[2] = stopped(seen);
        }
        __syncthreads();
        return note[2] == 0;
    }
    __device__ __forceinline__ bool gone() const
    {
        return went;
    }
    __device__ __forceinline__ bool stops() const
    {
        return went || stopped(seen);
    }
};

static __device__ __forceinline__ uint64_t reef_now_ns(void)
{
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

template <class Kernel>
static __device__ __forceinline__ void reef_plain(const typename Kernel::args &a)
{
    extern __shared__ __align__(1024) char reef_smem[];
    reef_never never;
    Kernel::tile(a, blockIdx.x, reef_smem, never);
}

/* Thread 0 of each block. The first block that gets here lets the kernel begin, or does not. */
static __device__ __noinline__ bool reef_begins(const reef_cuda_worker &w, unsigned generation)
{
    volatile unsigned *begun = (volatile unsigned *)w.begun;
    if (!reef_is_revoked(reef_revoked_now(w.revoked), generation)) {
        *begun = generation;
        return true;
    }
    return *begun == generation;
}

/* Was this tile done, or with a cluster: were those of all its blocks? (Nobody writes the flags of this kernel's tiles now but
 * those who run them, after they have asked.) */
static __device__ __forceinline__ bool reef_is_done(const reef_cuda_worker &w, unsigned tile, unsigned run)
{
    const unsigned *done = (const unsigned *)w.done + tile / w.cluster * w.cluster;
    bool all = true;
#pragma unroll 1
    for (unsigned i = 0; i < w.cluster; i++) {
        all &= done[i] == run;
    }
    return all;
}

/* Thread 0: may the block begin? */
static __device__ __forceinline__ bool reef_goes(const reef_cuda_worker &w, const reef_lease_test &test)
{
    if (w.begun_only) {
        reef_pdl_wait(); /* only now is it this kernel's turn to begin */
        return reef_begins(w, test.generation);
    }
    return !test.stopped(test.look());
}

/* All threads. */
template <class Kernel>
static __device__ __forceinline__ bool reef_run_tile(const typename Kernel::args &a, const reef_cuda_worker &w,
                                                     unsigned tile, unsigned run, char *smem, reef_lease_test &test)
{
    const long long start = clock64();
    const bool done = Kernel::tile(a, tile, smem, test);
    if (threadIdx.x == 0) {
        if (done) { /* nobody reads this before the whole launch has ended, so it need not come after the tile's stores */
            ((unsigned *)w.done)[tile] = run;
        } else if (!test.went) {
            reef_cuda_lost *lost = (reef_cuda_lost *)w.lost;
            atomicAdd((unsigned long long *)&lost->tiles, 1ull);
            atomicAdd((unsigned long long *)&lost->unit_cycles, (unsigned long long)(clock64() - start) / w.share);
        }
    }
    return done;
}

/* A block for each tile: what large tiles take. A loop around them would cost half a microsecond a kernel, because the
 * compiler then computes ahead what the first tile does not need yet. */
template <class Kernel>
static __device__ __forceinline__ void reef_block(const typename Kernel::args &a, const reef_cuda_worker &w)
{
    extern __shared__ __align__(1024) char reef_smem[];
    enum { REVOKED, GOES, DONE };
    __shared__ unsigned note[3], state;
    const uint2 word = *(const uint2 *)w.control;
    reef_lease_test test = {w.revoked, note, word.x, false, 0, 0};
    if (threadIdx.x == 0) {
        state = reef_goes(w, test) ? GOES : REVOKED;
        if (!w.fresh && reef_is_done(w, blockIdx.x, word.y)) { /* flags are not in the cache: another half microsecond */
            state = DONE;
        }
    }
    __syncthreads();
    const unsigned found = state;
    test.went = found == REVOKED;
    test.generation += w.begun_only ? REEF_NEVER_REVOKED : 0;
    if (found == GOES || (found == REVOKED && w.cluster > 1)) {
        reef_run_tile<Kernel>(a, w, blockIdx.x, word.y, reef_smem, test);
    }
    reef_pdl_wait(); /* a kernel never ends before the one in front of it */
}

/* All threads: the worker's first tile from `tile` on that is not done; there are thousands in a long kernel. */
static __device__ __noinline__ unsigned reef_next(const unsigned *done, unsigned tiles, unsigned tile, unsigned run,
                                                  unsigned *first)
{
    for (;;) {
        const unsigned long long mine = tile + (unsigned long long)threadIdx.x * gridDim.x;
        __syncthreads();
        if (threadIdx.x == 0) {
            *first = tiles;
        }
        __syncthreads();
        if (mine < tiles && done[mine] != run) {
            atomicMin(first, (unsigned)mine);
        }
        __syncthreads();
        const unsigned found = *(volatile unsigned *)first;
        const unsigned long long next = tile + (unsigned long long)blockDim.x * gridDim.x;
        if (found < tiles || next >= tiles) {
            return found;
        }
        tile = (unsigned)next;
    }
}

/* As many blocks as fit, each with tiles blockIdx.x, blockIdx.x + gridDim.x, ...: for small tiles, of which there may be very
 * many. They have no clusters. */
template <class Kernel>
static __device__ __forceinline__ void reef_loop(const typename Kernel::args &a, const reef_cuda_worker &w)
{
    extern __shared__ __align__(1024) char reef_smem[];
    __shared__ unsigned note[3], go, first;
    const uint2 word = *(const uint2 *)w.control;
    const unsigned *done = (const unsigned *)w.done;
    unsigned was_done = w.fresh ? 0 : done[blockIdx.x]; /* a run is never number 0 */
    reef_lease_test test = {w.revoked, note, word.x, false, 0, 0};
    if (threadIdx.x == 0) {
        go = reef_goes(w, test);
    }
    __syncthreads();
    const unsigned end = go ? w.tiles : 0;
    test.generation += w.begun_only ? REEF_NEVER_REVOKED : 0;
#pragma unroll 1
    for (unsigned tile = blockIdx.x; tile < end;) {
        if (was_done == word.y) {
            tile = reef_next(done, w.tiles, tile, word.y, &first);
            was_done = 0;
            continue;
        }
        const unsigned next = tile + gridDim.x;
        was_done = !w.fresh && next < end ? done[next] : 0; /* asked ahead of its time */
        if (!reef_run_tile<Kernel>(a, w, tile, word.y, reef_smem, test)) {
            break;
        }
        tile = next;
        if (tile < end) {
            __syncthreads(); /* the next tile uses the same shared memory */
        }
    }
    reef_pdl_wait(); /* a kernel never ends before the one in front of it */
}

/* Kernel::block_is_tile says which; the host's reef_cuda_kernel.loops agrees. */
template <class Kernel, class = void>
struct reef_worker {
    static __device__ __forceinline__ void run(const typename Kernel::args &a, const reef_cuda_worker &w)
    {
        reef_loop<Kernel>(a, w);
    }
};
template <class Kernel>
struct reef_worker<Kernel, decltype((void)Kernel::block_is_tile)> {
    static __device__ __forceinline__ void run(const typename Kernel::args &a, const reef_cuda_worker &w)
    {
        reef_block<Kernel>(a, w);
    }
};

#define REEF_KERNEL_PLAIN(name, bounds, ...)                                                                           \
    extern "C" __global__ void bounds name(const __grid_constant__ __VA_ARGS__::args a)                                \
    {                                                                                                                  \
        reef_plain<__VA_ARGS__>(a);                                                                                    \
    }
#define REEF_KERNEL_WORKER(name, bounds, ...)                                                                          \
    extern "C" __global__ void bounds name##_be(const __grid_constant__ __VA_ARGS__::args a,                           \
                                                const __grid_constant__ reef_cuda_worker w)                            \
    {                                                                                                                  \
        reef_worker<__VA_ARGS__>::run(a, w);                                                                               \
    }
/* What a source file is built into, one module each: the plain and the worker forms; with REEF_CUDA_PADS the padded forms; with
 * REEF_CUDA_RIDES the tiles that ride in them (pad.cuh). Worker forms double the compile time: without REEF_CUDA_WORKERS
 * there are none. */
#if defined REEF_CUDA_PADS || defined REEF_CUDA_RIDES
#include "device/cuda/kernels/pad.cuh"
#endif
#if defined REEF_CUDA_PADS
#define REEF_KERNEL_FORMS(name, bounds, ...) REEF_KERNEL_PADDED(name, __VA_ARGS__)
#elif defined REEF_CUDA_RIDES
#define REEF_KERNEL_FORMS(name, bounds, ...) REEF_KERNEL_RIDE(name, __VA_ARGS__)
#elif defined REEF_CUDA_WORKERS
#define REEF_KERNEL_FORMS(name, bounds, ...)                                                                           \
    REEF_KERNEL_PLAIN(name, bounds, __VA_ARGS__) REEF_KERNEL_WORKER(name, bounds, __VA_ARGS__)
#else
#define REEF_KERNEL_FORMS(name, bounds, ...) REEF_KERNEL_PLAIN(name, bounds, __VA_ARGS__)
#endif
#define REEF_KERNEL(name, ...) REEF_KERNEL_FORMS(name, __launch_bounds__(__VA_ARGS__::threads), __VA_ARGS__)
/* Registers such that `blocks` fit a unit. One is more than saying nothing: the compiler then takes what it likes. */
#define REEF_KERNEL_FIT(name, blocks, ...)                                                                             \
    REEF_KERNEL_FORMS(name, __launch_bounds__(__VA_ARGS__::threads, blocks), __VA_ARGS__)

/* ---- elements: the numbers of reef_cuda_elem_type ------------------------------------------------------------------- */
enum { REEF_ELEM_F32 = 0, REEF_ELEM_F16 = 1 };

static __device__ __forceinline__ float reef_load_elem(const void *p, long long i, int type)
{
    return type == REEF_ELEM_F16 ? __half2float(((const __half *)p)[i]) : ((const float *)p)[i];
}
static __device__ __forceinline__ void reef_store_elem(void *p, long long i, int type, float v)
{
    if (type == REEF_ELEM_F16) {
        ((__half *)p)[i] = __float2half_rn(v);
    } else {
        ((float *)p)[i] = v;
    }
}
#endif /* __CUDACC__ */

/* ---- activations: the numbers of reef_act (model/graph.h); table.c asserts that they agree --------------------------- */
enum {
    REEF_DACT_NONE,
    REEF_DACT_RELU,
    REEF_DACT_CLIP,
    REEF_DACT_LEAKY_RELU,
    REEF_DACT_SIGMOID,
    REEF_DACT_HARD_SIGMOID,
    REEF_DACT_HARD_SWISH,
    REEF_DACT_SILU,
    REEF_DACT_TANH,
    REEF_DACT_GELU,
    REEF_DACT_GELU_TANH,
};
#ifdef __CUDACC__
/* 0.5 x (1 + erf(x / sqrt 2)) = x - x Q(x) for x > 0, x Q(-x) otherwise, where Q is the normal tail; Q after Abramowitz
 * and Stegun 26.2.17 / 7.1.26: absolute error of erf below 2e-7, without a branch. */
static __device__ __forceinline__ float reef_gelu(float x)
{
    const float z = fabsf(x) * 0.70710678118654752f, t = __fdividef(1.0f, fmaf(0.3275911f, z, 1.0f));
    float p = fmaf(1.061405429f, t, -1.453152027f);
    p = fmaf(p, t, 1.421413741f);
    p = fmaf(p, t, -0.284496736f);
    p = fmaf(p, t, 0.254829592f) * t * 0.5f;
    const float tail = p * __expf(-z * z); /* half of erfc(z) */
    return x > 0.0f ? x - x * tail : x * tail;
}
static __device__ __forceinline__ float reef_act_rare(float x, int act, float a, float b)
{
    switch (act) {
    case REEF_DACT_CLIP: return fminf(fmaxf(x, a), b);
    case REEF_DACT_LEAKY_RELU: return x < 0 ? a * x : x;
    case REEF_DACT_SIGMOID: return __fdividef(1.0f, 1.0f + expf(-x)); /* a division that is a call would hold up wgmma */
    case REEF_DACT_HARD_SIGMOID: return fminf(fmaxf(a * x + b, 0.0f), 1.0f);
    case REEF_DACT_HARD_SWISH: return x * fminf(fmaxf(a * x + b, 0.0f), 1.0f);
    case REEF_DACT_SILU: return __fdividef(x, 1.0f + expf(-x));
    case REEF_DACT_TANH: return tanhf(x);
    case REEF_DACT_GELU: return reef_gelu(x);
    case REEF_DACT_GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    default: return x;
    }
}
static __device__ __forceinline__ float reef_activate(float x, int act, float a, float b)
{
    return act == REEF_DACT_NONE ? x : act == REEF_DACT_RELU ? (x < 0.0f ? 0.0f : x) : reef_act_rare(x, act, a, b);
}
#endif

#endif
