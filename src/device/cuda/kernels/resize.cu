/*
 * resize.cu - nearest and linear resizing, and local response normalisation; x and y (N,C,H,W) with C dense.
 *
 * Where an output row or column reads is a table that the host computed once, in double.
 */
#include "device/cuda/kernels/walk.cuh"

template <int V>
struct resize_kernel {
    using args = reef_cuda_resize_args;
    static constexpr int threads = 256;

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_TURN(abandon);
        WALK_ITEMS(a, index, item)
        {
            int64_t c[4];
            walk_coords(a.walk, item, c);
            const int64_t column = a.walk.dims[1] + c[2];
            const int64_t base = c[0] * a.x_stride[0] + c[3] * V;
            const int64_t top = base + a.low[c[1]] * a.x_stride[1], left = a.low[column] * a.x_stride[2];
            float v[V];
            abandon.wait();
            load_vector<V>(a.x, top + left, a.x_type, v);
            if (a.linear) {
                const int64_t bottom = base + a.high[c[1]] * a.x_stride[1], right = a.high[column] * a.x_stride[2];
                const float down = a.weight[c[1]], across = a.weight[column];
                float v01[V], v10[V], v11[V];
                load_vector<V>(a.x, top + right, a.x_type, v01);
                load_vector<V>(a.x, bottom + left, a.x_type, v10);
                load_vector<V>(a.x, bottom + right, a.x_type, v11);
                const float w[4] = {(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across};
#pragma unroll
                for (int i = 0; i < V; i++) { /* a corner without weight may be infinite */
                    float sum = w[0] == 0 ? 0.0f : w[0] * v[i];
                    sum += w[1] == 0 ? 0.0f : w[1] * v01[i];
                    sum += w[2] == 0 ? 0.0f : w[2] * v10[i];
                    sum += w[3] == 0 ? 0.0f : w[3] * v11[i];
                    v[i] = sum;
                }
            }
            store_vector<V>(a.y, c[0] * a.y_stride[0] + c[1] * a.y_stride[1] + c[2] * a.y_stride[2] + c[3] * V,
                            a.y_type, v);
        }
        abandon.wait();
        return true;
    }
};

struct lrn_kernel {
    using args = reef_cuda_lrn_args;
    static constexpr int threads = 256;

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_TURN(abandon);
        WALK_ITEMS(a, index, item)
        {
            int64_t c[4];
            walk_coords(a.walk, item, c);
            const int64_t x = c[0] * a.x_stride[0] + c[1] * a.x_stride[1] + c[2] * a.x_stride[2];
            const int64_t first = max((int64_t)0, c[3] - (a.size - 1) / 2);
            const int64_t last = min(a.walk.dims[3] - 1, c[3] + a.size / 2);
            float sum = 0;
            abandon.wait();
            for (int64_t i = first; i <= last; i++) {
                const float v = reef_load_elem(a.x, x + i, a.x_type);
                sum += v * v;
            }
            reef_store_elem(a.y, c[0] * a.y_stride[0] + c[1] * a.y_stride[1] + c[2] * a.y_stride[2] + c[3], a.y_type,
                            reef_load_elem(a.x, x + c[3], a.x_type) / powf(a.bias + a.alpha_over_size * sum, a.beta));
        }
        abandon.wait();
        return true;
    }
};

REEF_KERNEL(reef_resize_v8, resize_kernel<8>)
REEF_KERNEL(reef_resize_v4, resize_kernel<4>)
REEF_KERNEL(reef_resize_v1, resize_kernel<1>)
REEF_KERNEL(reef_lrn, lrn_kernel)
