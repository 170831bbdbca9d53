/*
 * pool.cu - maximum and average over windows, x and y (N,C,H,W) with C dense.
 *
 * A thread has one output pixel and V neighbouring channels. Taps are read in groups, so that all reads of a 3x3 window
 * are on their way before the first is used.
 */
#include "device/cuda/kernels/walk.cuh"

enum { POOL_GROUP = 9 };

template <int V>
struct pool_kernel {
    using args = reef_cuda_pool_args;
    static constexpr int threads = 256;

    template <class T>
    static __device__ __forceinline__ void run(const args &a, int64_t item)
    {
        int64_t c[4];
        walk_coords(a.walk, item, c);
        const int64_t h0 = c[1] * a.stride[0] - a.pad[0], w0 = c[2] * a.stride[1] - a.pad[1];
        const T *x = (const T *)a.x + c[0] * a.x_stride[0] + c[3] * V;
        float acc[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            acc[i] = a.average ? 0.0f : -INFINITY;
        }
        const int taps = a.kernel[0] * a.kernel[1];
        int kh = 0, kw = 0;
        for (int t = 0; t < taps; t += POOL_GROUP) {
            pack<T, V> v[POOL_GROUP];
            bool inside[POOL_GROUP];
#pragma unroll
            for (int g = 0; g < POOL_GROUP; g++) {
                const int64_t h = h0 + kh * a.dilation[0], w = w0 + kw * a.dilation[1];
                inside[g] = t + g < taps && h >= 0 && h < a.h && w >= 0 && w < a.w;
                if (inside[g]) {
                    v[g] = *(const pack<T, V> *)(x + h * a.x_stride[1] + w * a.x_stride[2]);
                }
                if (++kw == a.kernel[1]) {
                    kw = 0, kh++;
                }
            }
#pragma unroll
            for (int g = 0; g < POOL_GROUP; g++) {
                if (inside[g]) {
#pragma unroll
                    for (int i = 0; i < V; i++) {
                        const float e = (float)v[g].e[i];
                        acc[i] = a.average ? acc[i] + e : e > acc[i] || e != e ? e : acc[i];
                    }
                }
            }
        }
        if (a.average) {
            int64_t count = 1;
            const int64_t start[2] = {h0, w0}, size[2] = {a.h, a.w};
            for (int d = 0; d < 2; d++) { /* taps that count along this axis */
                int n = 0;
                for (int i = 0; i < a.kernel[d]; i++) {
                    const int64_t at = start[d] + i * a.dilation[d];
                    n += a.count_include_pad ? at < size[d] + a.pad_end[d] : at >= 0 && at < size[d];
                }
                count *= n;
            }
            const float divisor = count ? (float)count : 1.0f;
#pragma unroll
            for (int i = 0; i < V; i++) {
                acc[i] /= divisor;
            }
        }
        store_vector<V>(a.y, c[0] * a.y_stride[0] + c[1] * a.y_stride[1] + c[2] * a.y_stride[2] + c[3] * V, a.y_type,
                        acc);
    }

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        abandon.wait();
        if (V == 8 || a.x_type == REEF_ELEM_F16) { /* f32 goes by four */
            WALK_ITEMS(a, index, item) {
                run<__half>(a, item);
            }
        } else {
            WALK_ITEMS(a, index, item) {
                run<float>(a, item);
            }
        }
        return true;
    }
};

REEF_KERNEL(reef_pool_v8, pool_kernel<8>)
REEF_KERNEL(reef_pool_v4, pool_kernel<4>)
REEF_KERNEL(reef_pool_v1, pool_kernel<1>)
