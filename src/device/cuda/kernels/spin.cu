/*
 * spin.cu - tiles that only take time: the synthetic load of benchmarks and tests.
 */
#include "device/cuda/kernels/walk.cuh"

struct spin_kernel {
    using args = reef_cuda_spin_args;
    static constexpr int threads = 256;

    static __device__ __forceinline__ uint64_t now(void)
    {
        uint64_t t;
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
        return t;
    }

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t, char *, Abandon &abandon)
    {
        REEF_SHARED(state, int); /* 0: on, 1: time is up, 2: abandoned */
        abandon.wait();
        const uint64_t start = now();
        float x = (float)threadIdx.x;
        for (;;) {
            if (threadIdx.x == 0) {
                state = now() - start >= a.tile_ns ? 1 : abandon.now() ? 2 : 0;
            }
            __syncthreads();
            const int seen = state;
            __syncthreads();
            if (seen) {
                return seen == 1 && abandon.commit();
            }
#pragma unroll 16
            for (int i = 0; i < 128; i++) { /* about half a microsecond of arithmetic that nobody may drop */
                asm volatile("fma.rn.f32 %0, %0, %0, %0;" : "+f"(x));
            }
        }
    }
};

REEF_KERNEL(reef_spin, spin_kernel)
