/* dev.cu - stand-ins until the real kernels are here: the chain plan's step, and a spin. */
#include "device/cuda/kernels/device.cuh"
struct step_args { uint64_t x, y; float a, b, m; int n; };
struct step {
    using args = step_args;
    static constexpr int threads = 256;
    template <class A> static __device__ bool tile(const args &a, uint32_t index, char *, A &abandon)
    {
        abandon.wait();
        for (int j = 0; j < 4; j++) {
            int i = (index * 4 + j) * 256 + threadIdx.x;
            if (i < a.n) ((float *)a.y)[i] = fmodf(((const float *)a.x)[i] * a.a + a.b, a.m);
        }
        return true;
    }
};
REEF_KERNEL(reef_dev_step, step)
struct spin_args { uint64_t ns; };
struct spin {
    using args = spin_args;
    static constexpr int threads = 128;
    template <class A> static __device__ bool tile(const args &a, uint32_t, char *, A &abandon)
    {
        abandon.wait();
        unsigned long long t0, t;
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t0));
        do { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)); } while (t - t0 < a.ns);
        return true;
    }
};
REEF_KERNEL(reef_dev_spin, spin)
