/*
 * pool.cu - maximum and average over windows, x and y (N,C,H,W) with C dense.
 *
 * A thread has one output pixel and V neighbouring channels. Taps are read in groups of 4 or 9, so that all reads of a
 * 2x2 or 3x3 window are on their way before the first is used.
 */
#include "device/cuda/kernels/walk.cuh"

template <int V>
struct pool_kernel {
    using args = reef_cuda_pool_args;
    static constexpr int threads = 256;

    template <class T, int GROUP, class Abandon>
    static __device__ __forceinline__ void run(const args &a, int64_t item, Abandon &abandon)
    {
        int64_t c[4];
        walk_coords(a.walk, item, c);
        const int32_t h0 = (int32_t)c[1] * a.stride[0] - a.pad[0], w0 = (int32_t)c[2] * a.stride[1] - a.pad[1];
        const int64_t down = a.dilation[0] * a.x_stride[1], across = a.dilation[1] * a.x_stride[2];
        /* Addresses outside the image are stepped over, never read. */
        const T *row = (const T *)a.x + c[0] * a.x_stride[0] + h0 * a.x_stride[1] + w0 * a.x_stride[2] + c[3] * V;
        const T *x = row, *const any = (const T *)a.x + c[3] * V;
        float acc[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            acc[i] = a.average ? 0.0f : -INFINITY;
        }
        const int taps = a.kernel[0] * a.kernel[1], width = a.kernel[1];
        int kw = 0;
        int32_t h = h0, w = w0;
        float share = 1.0f;
        if (a.average) {
            const int32_t start[2] = {h0, w0}, size[2] = {a.h, a.w};
            int count = 1;
#pragma unroll
            for (int d = 0; d < 2; d++) { /* taps that count along this axis */
                int n = 0;
                for (int i = 0, at = start[d]; i < a.kernel[d]; i++, at += a.dilation[d]) {
                    n += a.count_include_pad ? at < size[d] + a.pad_end[d] : (uint32_t)at < (uint32_t)size[d];
                }
                count *= n;
            }
            share = 1.0f / (float)(count ? count : 1);
        }
        abandon.wait();
        for (int t = 0; t < taps; t += GROUP) {
            pack<T, V> v[GROUP];
            bool inside[GROUP];
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                inside[g] = t + g < taps && (uint32_t)h < (uint32_t)a.h && (uint32_t)w < (uint32_t)a.w;
                v[g] = *(const pack<T, V> *)(inside[g] ? x : any); /* no branch between the reads */
                x += across;
                w += a.dilation[1];
                if (++kw == width) {
                    kw = 0, w = w0, h += a.dilation[0];
                    x = row += down;
                }
            }
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
#pragma unroll
                for (int i = 0; i < V; i++) {
                    const float e = (float)v[g].e[i];
                    const float next = a.average ? acc[i] + e : e > acc[i] || e != e ? e : acc[i];
                    acc[i] = inside[g] ? next : acc[i];
                }
            }
        }
        if (a.average) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                acc[i] *= share;
            }
        }
        store_vector<V>(a.y, c[0] * a.y_stride[0] + c[1] * a.y_stride[1] + c[2] * a.y_stride[2] + c[3] * V, a.y_type,
                        acc);
    }

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        const bool small = a.kernel[0] * a.kernel[1] <= 4;
        REEF_TURN(abandon);
        WALK_ITEMS(a, index, item)
        {
            if (V == 8 || a.x_type == REEF_ELEM_F16) { /* f32 goes by four */
                small ? run<__half, 4>(a, item, abandon) : run<__half, 9>(a, item, abandon);
            } else {
                small ? run<float, 4>(a, item, abandon) : run<float, 9>(a, item, abandon);
            }
        }
        abandon.wait();
        return true;
    }
};

REEF_KERNEL(reef_pool_v8, pool_kernel<8>)
REEF_KERNEL(reef_pool_v4, pool_kernel<4>)
REEF_KERNEL(reef_pool_v1, pool_kernel<1>)
