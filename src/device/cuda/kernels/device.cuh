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
 * tests are compile-time false; `reef_never::wait()` waits for the predecessor (a worker's tiles find it finished, so
 * its wait does nothing) and only then lets the successor start: earlier, and the blocks of two or three kernels that can
 * do nothing yet would hold the units' memory against the one that runs (on an H200 that cost ResNet-152 a tenth). Inside a loop with one barrier per step i:
 *
 *      abandon.poll(i);  __syncthreads();  if (abandon.hit(i)) return false;
 *
 * poll: one thread reads the lease and notes the answer in shared memory; hit: all threads read the note after the
 * barrier. There are two notes, used in turn, so that a note is never written while somebody may still read it. In a
 * loop without a barrier, `if (__syncthreads_or(abandon.now()))` does the same.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_DEVICE_CUH
#define REEF_DEVICE_CUDA_KERNELS_DEVICE_CUH

#include <cuda_fp16.h>
#include <stdint.h>

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
};

/* ---- worker form -------------------------------------------------------------------------------------------------- */
/* All in device memory. A run has an epoch; words carry it in their upper half, so a worker of an earlier run (or of a
 * kernel whose turn has not come, or is over) finds that nothing here is for it and returns at once. */
struct reef_cuda_kernel_progress {
    unsigned long long claim; /* epoch << 32 | next tile that nobody has had */
    unsigned done;            /* finished tiles */
    unsigned pad;
};
enum { REEF_CUDA_MAX_WORKERS = 4096 };
struct reef_cuda_progress {
    unsigned long long
        current;          /* epoch << 32 | first unfinished kernel; written by the worker of a kernel's last tile */
    unsigned lock;        /* of the list below; held for a few loads and stores by one thread of a block */
    unsigned n_abandoned; /* tiles of the current kernel that were given back; at most one per worker */
    unsigned abandoned[REEF_CUDA_MAX_WORKERS];
};
struct reef_cuda_worker {
    const volatile unsigned long long *lease; /* reef_lease: end << 32 | first */
    struct reef_cuda_progress *task;
    struct reef_cuda_kernel_progress *kernel;
    unsigned index, tiles; /* of the kernel in its plan */
    unsigned epoch;
};

#ifdef __CUDACC__
#define REEF_NO_TILE 0xffffffffu

static __device__ __forceinline__ unsigned reef_smid(void)
{
    unsigned r;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(r));
    return r;
}
static __device__ __forceinline__ bool reef_leased(const volatile unsigned long long *lease, unsigned unit)
{
    unsigned long long word = *lease;
    return unit >= (unsigned)word && unit < (unsigned)(word >> 32);
}

struct reef_lease_test {
    static constexpr bool on = true;
    const volatile unsigned long long *lease;
    unsigned unit;
    volatile unsigned *note; /* shared, two words */
    __device__ __forceinline__ void wait() const
    {
    }
    __device__ __forceinline__ void poll(unsigned i) const
    {
        if (threadIdx.x == 0) {
            note[i & 1] = !reef_leased(lease, unit);
        }
    }
    __device__ __forceinline__ bool hit(unsigned i) const
    {
        return note[i & 1] != 0;
    }
    __device__ __forceinline__ bool now() const
    {
        return threadIdx.x == 0 && !reef_leased(lease, unit);
    }
};

/* One thread of the block calls these three. */
static __device__ inline void reef_task_lock(reef_cuda_progress *task)
{
    while (atomicCAS(&task->lock, 0u, 1u)) {
    }
    __threadfence();
}
static __device__ inline void reef_task_unlock(reef_cuda_progress *task)
{
    __threadfence();
    atomicExch(&task->lock, 0u);
}
static __device__ inline unsigned reef_tile_claim(const reef_cuda_worker &w)
{
    if (*(volatile unsigned long long *)&w.task->current != ((unsigned long long)w.epoch << 32 | w.index)) {
        return REEF_NO_TILE;
    }
    __threadfence(); /* results of earlier kernels, published before `current` moved */
    if (*(volatile unsigned *)&w.task->n_abandoned) {
        unsigned tile = REEF_NO_TILE;
        reef_task_lock(w.task);
        unsigned n = *(volatile unsigned *)&w.task->n_abandoned;
        /* While a tile is in the list its kernel cannot finish, so what is there belongs to the current kernel. */
        if (n && *(volatile unsigned long long *)&w.task->current == ((unsigned long long)w.epoch << 32 | w.index)) {
            tile = *(volatile unsigned *)&w.task->abandoned[n - 1];
            *(volatile unsigned *)&w.task->n_abandoned = n - 1;
        }
        reef_task_unlock(w.task);
        if (tile != REEF_NO_TILE) {
            return tile;
        }
    }
    unsigned long long seen = *(volatile unsigned long long *)&w.kernel->claim;
    for (;;) {
        if ((unsigned)(seen >> 32) != w.epoch || (unsigned)seen >= w.tiles) {
            return REEF_NO_TILE;
        }
        unsigned long long before = atomicCAS(&w.kernel->claim, seen, seen + 1);
        if (before == seen) {
            return (unsigned)seen;
        }
        seen = before;
    }
}
static __device__ inline void reef_tile_abandon(const reef_cuda_worker &w, unsigned tile)
{
    reef_task_lock(w.task);
    unsigned n = *(volatile unsigned *)&w.task->n_abandoned;
    *(volatile unsigned *)&w.task->abandoned[n] = tile;
    *(volatile unsigned *)&w.task->n_abandoned = n + 1;
    reef_task_unlock(w.task);
}
/* After a barrier behind the tile's last store. */
static __device__ inline void reef_tile_finish(const reef_cuda_worker &w)
{
    __threadfence();
    if (atomicAdd(&w.kernel->done, 1u) + 1 == w.tiles) {
        __threadfence();
        atomicExch(&w.task->current, (unsigned long long)w.epoch << 32 | (w.index + 1));
    }
}

template <class Kernel>
static __device__ __forceinline__ void reef_plain(const typename Kernel::args &a)
{
    extern __shared__ __align__(1024) char reef_smem[];
    reef_never never;
    Kernel::tile(a, blockIdx.x, reef_smem, never);
}

template <class Kernel>
static __device__ __forceinline__ void reef_persist(const typename Kernel::args &a, const reef_cuda_worker &w)
{
    extern __shared__ __align__(1024) char reef_smem[];
    __shared__ unsigned note[2], next;
    reef_pdl_launch();
    reef_pdl_wait();
    reef_lease_test test = {w.lease, reef_smid(), note};
    for (;;) {
        if (threadIdx.x == 0) {
            next = reef_leased(test.lease, test.unit) ? reef_tile_claim(w) : REEF_NO_TILE;
            note[0] = note[1] = 0;
        }
        __syncthreads();
        unsigned tile = next;
        if (tile == REEF_NO_TILE) {
            return;
        }
        bool done = Kernel::tile(a, tile, reef_smem, test);
        __syncthreads();
        if (threadIdx.x == 0) {
            if (done) {
                reef_tile_finish(w);
            } else {
                reef_tile_abandon(w, tile);
            }
        }
    }
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
