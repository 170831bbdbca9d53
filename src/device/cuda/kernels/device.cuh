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
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_DEVICE_CUH
#define REEF_DEVICE_CUDA_KERNELS_DEVICE_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "device/cuda/kernels/worker.h"

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
/* A worker runs tiles blockIdx.x, blockIdx.x + gridDim.x, ... of its kernel, but for those that an earlier launch of the
 * same run has done. It may be told to stop at any time, by a word of the device that holds the youngest generation that
 * has been revoked; a launch belongs to the generation in its instance's control word and goes on while that is younger.
 *
 * Generations only grow. So a worker that finds its own not revoked, at a moment when the kernel before it has ended,
 * knows that no worker of that kernel had found it revoked either: every tile of every kernel before is done. One test,
 * after the wait and before the first store, says both "go on" and "it is my turn". */
#define REEF_NEVER_REVOKED 0x40000000u /* generations from now: far in the future */

#ifdef __CUDACC__
struct reef_lease_test {
    static constexpr bool on = true;
    const volatile unsigned *revoked;
    volatile unsigned *note; /* shared, three words */
    unsigned generation;
    /* Thread 0's: the word as loaded at the last test but one, and at the last, which may still be on its way. Either was
     * loaded after the wait. Nobody ever stands still for a load that was only just begun. */
    unsigned seen, coming;

    __device__ __forceinline__ bool stopped(unsigned word) const
    {
        return (int)(generation - word) <= 0;
    }
    __device__ __forceinline__ void wait()
    {
        reef_pdl_wait();
        reef_pdl_launch();
        if (threadIdx.x == 0) {
            seen = coming = *revoked;
        }
    }
    __device__ __forceinline__ void poll(unsigned i)
    {
        if (threadIdx.x == 0) {
            seen = coming;
            note[i & 1] = stopped(seen);
            coming = *revoked;
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
            coming = *revoked;
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
static __device__ __forceinline__ bool reef_begins(const reef_cuda_worker &w, unsigned generation)
{
    volatile unsigned *begun = (volatile unsigned *)w.begun;
    if ((int)(generation - *(const volatile unsigned *)w.revoked) > 0) {
        *begun = generation;
        return true;
    }
    return *begun == generation;
}

template <class Kernel>
static __device__ __forceinline__ void reef_persist(const typename Kernel::args &a, const reef_cuda_worker &w)
{
    extern __shared__ __align__(1024) char reef_smem[];
    __shared__ unsigned note[3], go;
    /* Three words, one wait. */
    const uint2 word = *(const uint2 *)w.control;
    const reef_cuda_control control = {word.x, word.y};
    unsigned *done = (unsigned *)w.done, was_done = done[blockIdx.x];
    reef_lease_test test = {(const volatile unsigned *)w.revoked, note, control.generation, 0, 0};
    if (threadIdx.x == 0) {
        if (w.begun_only) {
            reef_pdl_wait(); /* only now is it this kernel's turn to begin */
            go = reef_begins(w, control.generation);
        } else {
            go = !test.stopped(*test.revoked);
        }
    }
    __syncthreads();
    if (go) {
        test.generation += w.begun_only ? REEF_NEVER_REVOKED : 0;
        unsigned next;
        for (unsigned tile = blockIdx.x; tile < w.tiles; tile = next, was_done = next < w.tiles ? done[next] : 0) {
            next = tile + gridDim.x;
            if (was_done == control.run) {
                continue;
            }
            const long long start = clock64();
            if (!Kernel::tile(a, tile, reef_smem, test)) {
                if (threadIdx.x == 0) {
                    reef_cuda_lost *lost = (reef_cuda_lost *)w.lost;
                    atomicAdd((unsigned long long *)&lost->tiles, 1ull);
                    atomicAdd((unsigned long long *)&lost->unit_cycles,
                              (unsigned long long)(clock64() - start) / w.share);
                }
                break;
            }
            /* Nobody reads this before the whole launch has ended, so it need not come after the tile's own stores. */
            if (threadIdx.x == 0) {
                done[tile] = control.run;
            }
            if (next < w.tiles) {
                __syncthreads(); /* the next tile uses the same shared memory */
            }
        }
    }
    reef_pdl_wait(); /* a kernel never ends before the one in front of it */
}

#define REEF_KERNEL_PLAIN(name, bounds, ...)                                                                           \
    extern "C" __global__ void bounds name(const __grid_constant__ __VA_ARGS__::args a)                                \
    {                                                                                                                  \
        reef_plain<__VA_ARGS__>(a);                                                                                    \
    }
#define REEF_KERNEL_WORKER(name, bounds, ...)                                                                          \
    extern "C" __global__ void bounds name##_be(const __grid_constant__ __VA_ARGS__::args a,                           \
                                                const __grid_constant__ reef_cuda_worker w)                            \
    {                                                                                                                  \
        reef_persist<__VA_ARGS__>(a, w);                                                                               \
    }
/* REEF_CUDA_WORKERS is defined where the build wants worker forms (they double the compile time). */
#ifndef REEF_CUDA_WORKERS
#undef REEF_KERNEL_WORKER
#define REEF_KERNEL_WORKER(...)
#endif
#define REEF_KERNEL(name, ...)                                                                                         \
    REEF_KERNEL_PLAIN(name, __launch_bounds__(__VA_ARGS__::threads), __VA_ARGS__)                                      \
    REEF_KERNEL_WORKER(name, __launch_bounds__(__VA_ARGS__::threads), __VA_ARGS__)
/* Registers such that `blocks` fit a unit. One is more than saying nothing: the compiler then takes what it likes. */
#define REEF_KERNEL_FIT(name, blocks, ...)                                                                             \
    REEF_KERNEL_PLAIN(name, __launch_bounds__(__VA_ARGS__::threads, blocks), __VA_ARGS__)                              \
    REEF_KERNEL_WORKER(name, __launch_bounds__(__VA_ARGS__::threads, blocks), __VA_ARGS__)

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
    case REEF_DACT_SIGMOID: return 1.0f / (1.0f + expf(-x));
    case REEF_DACT_HARD_SIGMOID: return fminf(fmaxf(a * x + b, 0.0f), 1.0f);
    case REEF_DACT_HARD_SWISH: return x * fminf(fmaxf(a * x + b, 0.0f), 1.0f);
    case REEF_DACT_SILU: return x / (1.0f + expf(-x));
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
