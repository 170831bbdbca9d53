/*
 * mma.cuh - the instructions that the matrix kernels are made of, with stand-ins for older architectures.
 *
 * Fragments are described in bytes: a 32-byte slice of k is 16 halves or 8 floats, and the register layouts of
 * m16n8k16 (f16) and m16n8k8 (tf32) agree when both are read as 4-byte words. So one kernel source serves both types.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_MMA_CUH
#define REEF_DEVICE_CUDA_KERNELS_MMA_CUH

#include "device/cuda/kernels/device.cuh"

enum { REEF_P_F32 = 0, REEF_P_TF32 = 1, REEF_P_F16 = 2 }; /* reef_cuda_precision */

static __device__ __forceinline__ uint32_t smem_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- copies to shared memory ---------------------------------------------------------------------------------------- */
/* 16 bytes, or zeros when !valid (then src is not read). */
static __device__ __forceinline__ void copy16(uint32_t dst, const void *src, bool valid)
{
#if __CUDA_ARCH__ >= 800
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
#else
    uint4 v = make_uint4(0, 0, 0, 0);
    if (valid) {
        v = *(const uint4 *)src;
    }
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(dst), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
#endif
}
static __device__ __forceinline__ void copy16(uint32_t dst, const void *src)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
#else
    copy16(dst, src, true);
#endif
}
/* By way of L1: for what the block will read again. */
static __device__ __forceinline__ void copy16_near(uint32_t dst, const void *src, bool valid)
{
#if __CUDA_ARCH__ >= 800
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(bytes) : "memory");
#else
    copy16(dst, src, valid);
#endif
}
/* Copies by the bulk copy engine (sm_90 and up) and the barriers in shared memory that they complete. phase: how often the
 * barrier completed before, modulo 2; waiting for phase 1 of a new barrier returns at once. */
static __device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
#endif
}
static __device__ __forceinline__ void barriers_ready(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}
static __device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}
static __device__ __forceinline__ void bulk_copy(uint32_t dst, const void *src, uint32_t bytes, uint32_t barrier)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst),
                 "l"(src), "r"(bytes), "r"(barrier)
                 : "memory");
#endif
}
static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t phase)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "again_%=:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@!done bra again_%=;\n\t"
                 "}" ::"r"(barrier),
                 "r"(phase)
                 : "memory");
#endif
}
/* Of some of the block's warps. */
template <int threads>
static __device__ __forceinline__ void named_barrier(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"(threads) : "memory");
}
/* One thread: bytes (a multiple of 16) at src are on their way into L2. */
static __device__ __forceinline__ void prefetch_l2(const void *src, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(src), "r"(bytes) : "memory");
#endif
}
static __device__ __forceinline__ void copy_commit(void)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/* Waits until at most `pending` groups of this thread's copies are under way. */
template <int pending>
static __device__ __forceinline__ void copy_wait(void)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}
static __device__ __forceinline__ void store_shared8(uint32_t dst, float x, float y)
{
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(dst), "f"(x), "f"(y) : "memory");
}
static __device__ __forceinline__ uint32_t load_shared4(uint32_t src)
{
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(src) : "memory");
    return v;
}
static __device__ __forceinline__ void load_shared32(uint32_t src, float (&v)[8])
{
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
                 : "r"(src)
                 : "memory");
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v[4]), "=f"(v[5]), "=f"(v[6]), "=f"(v[7])
                 : "r"(src + 16)
                 : "memory");
}
static __device__ __forceinline__ void store_shared16(uint32_t dst, uint4 v)
{
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(dst), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

/* ---- warp-wide products --------------------------------------------------------------------------------------------- */
/* Four 8x16-byte matrices; lane l gives the address of row l % 8 of matrix l / 8 and gets word l % 4 of row l / 4 of each. */
static __device__ __forceinline__ void load_matrices(uint32_t address, uint32_t (&r)[4])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
static __device__ __forceinline__ void load_matrices_transposed(uint32_t address, uint32_t (&r)[4])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/* The tensor core ignores the low 13 bits of a float; adding half of the lowest kept bit makes that rounding. */
static __device__ __forceinline__ uint32_t round_tf32(uint32_t bits)
{
    return bits + 0x1000u;
}

static __device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

static __device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    /* No such tensor cores: every lane collects what its four sums need. Slow, exact f32. */
    int lane = threadIdx.x & 31, row = lane & ~3, col = (lane & 3) * 8;
    for (int k = 0; k < 8; k++) {
        int t = k & 3;
        float a0 = __uint_as_float(__shfl_sync(0xffffffffu, k < 4 ? a[0] : a[2], row + t));
        float a1 = __uint_as_float(__shfl_sync(0xffffffffu, k < 4 ? a[1] : a[3], row + t));
        float w0 = __uint_as_float(__shfl_sync(0xffffffffu, k < 4 ? b0 : b1, col + t));
        float w1 = __uint_as_float(__shfl_sync(0xffffffffu, k < 4 ? b0 : b1, col + 4 + t));
        c[0] += a0 * w0, c[1] += a0 * w1, c[2] += a1 * w0, c[3] += a1 * w1;
    }
#endif
}

/* f32 products from three tf32 ones: x = hi + lo, and lo * lo is below the last bit. */
static __device__ __forceinline__ void split_tf32(uint32_t bits, uint32_t &hi, uint32_t &lo)
{
#if __CUDA_ARCH__ >= 800
    hi = bits & 0xffffe000u;
    lo = __float_as_uint(__uint_as_float(bits) - __uint_as_float(hi));
#else
    hi = bits, lo = 0;
#endif
}

/* ---- warpgroup-wide products (sm_90a) ------------------------------------------------------------------------------- */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define REEF_WGMMA 1
#endif

/* Rows of 128 bytes, 16-byte chunk c of row r at place c ^ (r % 8): the tensor core's own 128-byte swizzle, where r is
 * bits 7 to 9 of the address. Eight rows are neighbours; the next eight are `stride` bytes on. */
static __device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address, uint32_t stride = 1024)
{
    /* the upper bits of an address say which block of a cluster it is in */
    const uint32_t low = (address & 0x3ffffu) >> 4 | 1u << 16, high = stride >> 4 | 1u << 30;
    return (uint64_t)high << 32 | low;
}
static __device__ __forceinline__ void wgmma_fence(void)
{
#ifdef REEF_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
static __device__ __forceinline__ void wgmma_commit(void)
{
#ifdef REEF_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int pending>
static __device__ __forceinline__ void wgmma_wait(void)
{
#ifdef REEF_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
}
/* Ordinary writes to shared memory become visible to wgmma's reads. */
static __device__ __forceinline__ void proxy_fence(void)
{
#ifdef REEF_WGMMA
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#define REEF_ACC8(c, i)                                                                                                \
    "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3]), "+f"(c[i + 1][0]), "+f"(c[i + 1][1]),                  \
        "+f"(c[i + 1][2]), "+f"(c[i + 1][3])
#define REEF_ACC16(c, i) REEF_ACC8(c, i), REEF_ACC8(c, i + 2)
#define REEF_ACC32(c, i) REEF_ACC16(c, i), REEF_ACC16(c, i + 4)
#define REEF_ACC64(c, i) REEF_ACC32(c, i), REEF_ACC32(c, i + 8)
#define REEF_OUT16       "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define REEF_OUT32       REEF_OUT16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define REEF_OUT64                                                                                                     \
    REEF_OUT32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,"     \
               "%56,%57,%58,%59,%60,%61,%62,%63"

/* c (64, 8 * NJ) += a b over 32 bytes of k; both operands in shared memory, k innermost. */
template <int NJ>
static __device__ __forceinline__ void wgmma_f16(float (&c)[NJ][4], uint64_t a, uint64_t b)
{
#ifdef REEF_WGMMA
    if constexpr (NJ == 4) {
        asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {" REEF_OUT16 "}, %16, %17, 1, 1, 1, 0, 0;"
                     : REEF_ACC16(c, 0)
                     : "l"(a), "l"(b));
    } else if constexpr (NJ == 8) {
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" REEF_OUT32 "}, %32, %33, 1, 1, 1, 0, 0;"
                     : REEF_ACC32(c, 0)
                     : "l"(a), "l"(b));
    } else {
        static_assert(NJ == 16, "width");
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" REEF_OUT64 "}, %64, %65, 1, 1, 1, 0, 0;"
                     : REEF_ACC64(c, 0)
                     : "l"(a), "l"(b));
    }
#endif
}
/* The same with a in registers, as tf32. */
template <int NJ>
static __device__ __forceinline__ void wgmma_tf32(float (&c)[NJ][4], const uint32_t (&a)[4], uint64_t b)
{
#ifdef REEF_WGMMA
    if constexpr (NJ == 4) {
        asm volatile("wgmma.mma_async.sync.aligned.m64n32k8.f32.tf32.tf32 {" REEF_OUT16
                     "}, {%16, %17, %18, %19}, %20, 1, 1, 1;"
                     : REEF_ACC16(c, 0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    } else if constexpr (NJ == 8) {
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k8.f32.tf32.tf32 {" REEF_OUT32
                     "}, {%32, %33, %34, %35}, %36, 1, 1, 1;"
                     : REEF_ACC32(c, 0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    } else {
        static_assert(NJ == 16, "width");
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k8.f32.tf32.tf32 {" REEF_OUT64
                     "}, {%64, %65, %66, %67}, %68, 1, 1, 1;"
                     : REEF_ACC64(c, 0)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    }
#endif
}

/* ---- clusters ------------------------------------------------------------------------------------------------------- */
/* The two halves of a barrier: after arriving a block may go on with its own things. Arriving publishes nothing but the
 * barriers that barriers_ready was called for: an ordinary release would wait for every store of the block. */
static __device__ __forceinline__ void cluster_arrive(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
static __device__ __forceinline__ void cluster_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
#endif
}
/* This block's shared address, but in block `rank` of the cluster. */
static __device__ __forceinline__ uint32_t send_address(uint32_t address, uint32_t rank)
{
    uint32_t there = address;
#if __CUDA_ARCH__ >= 900
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
#endif
    return there;
}
/* Two floats to an address of a block of the cluster, whose barrier counts them as they land. */
static __device__ __forceinline__ void send(uint32_t there, uint32_t barrier, float x, float y)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(there),
                 "f"(x), "f"(y), "r"(barrier)
                 : "memory");
#endif
}
/* As if so many bytes had been sent to that block; more than none. */
static __device__ __forceinline__ void send_nothing(uint32_t barrier, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
#endif
}

/* What the blocks of a worker's cluster know about going on (device.cuh), each from all: sent along with the sums. */
struct cluster_word {
    enum { most = 8 };
    __align__(8) unsigned stops[most][2]; /* the first not zero: that block was told to stop */

    /* Lane i of one warp tells block i; `landed` counts it. */
    __device__ __forceinline__ void tell(bool stop, int rank, int blocks, uint32_t landed)
    {
        const int lane = threadIdx.x & 31;
        if (lane < blocks) {
            send(send_address(smem_address(stops[rank]), lane), send_address(landed, lane), stop ? 1.0f : 0.0f, 0.0f);
        }
    }
    /* All lanes, when all has landed: may the tile have effects? */
    __device__ __forceinline__ bool all_go_on(int blocks) const
    {
        const int lane = threadIdx.x & 31;
        return !__any_sync(0xffffffffu, lane < blocks && *(const volatile unsigned *)stops[lane & 7]);
    }
};

#endif
