/*
 * layer_norm.cu - x, or x plus a residual, normalised over the last dimension; one row a block.
 *
 * A row that fits stays in registers between its passes: mean, then variance about the mean, then the result. A longer
 * one is read again each time. Scale and bias are constants and are read before the predecessor has finished.
 */
#define REEF_PAD_ARGS 464
#include "device/cuda/kernels/walk.cuh"

/* Sum over the block in a fixed order; every thread gets it. */
static __device__ __forceinline__ float block_sum(float v, float *shared)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, i);
    }
    const int warps = REEF_THREADS / 32;
    if (warps == 1) {
        return v;
    }
    if (threadIdx.x % 32 == 0) {
        shared[threadIdx.x / 32] = v;
    }
    __syncthreads();
    v = threadIdx.x % 32 < warps ? shared[threadIdx.x % 32] : 0.0f;
#pragma unroll
    for (int i = 16; i > 0; i /= 2) {
        v += __shfl_xor_sync(0xffffffffu, v, i);
    }
    return v;
}

template <int V, int HELD>
struct layer_norm_kernel {
    using args = reef_cuda_layer_norm_args;
    static constexpr int threads = V == 8 ? 512 : 1024;

    /* Vector i of the row. */
    static __device__ __forceinline__ void load(const args &a, const int64_t (&off)[3], int64_t i, float (&v)[V])
    {
        load_vector<V>(a.x, off[1] + i * V * a.x_stride, a.x_type, v);
        if (a.has_residual) {
            float r[V];
            load_vector<V>(a.residual, off[2] + i * V * a.residual_stride, a.residual_type, r);
#pragma unroll
            for (int j = 0; j < V; j++) {
                v[j] += r[j];
            }
        }
    }
    static __device__ __forceinline__ void store(const args &a, const int64_t (&off)[3], int64_t i, const float (&v)[V],
                                                 const float (&scale)[V], const float (&bias)[V], float mean,
                                                 float inverse)
    {
        float out[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            out[j] = fmaf((v[j] - mean) * inverse, scale[j], bias[j]);
        }
        store_vector<V>(a.y, off[0] + i * V * a.y_stride, a.y_type, out);
    }

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_SHARED(shared, float[2][32]); /* two sums, each its own: no barrier between them */
        const int64_t vectors = a.channels / V, step = REEF_THREADS;
        int64_t off[3];
        walk_at<3>(a.rows, index, off);
        if (index >= a.rows.total || vectors == 0) {
            abandon.wait();
            return true;
        }
        float sum = 0, squares = 0;
        if (vectors <= step * HELD) {
            float v[HELD][V], scale[HELD][V], bias[HELD][V];
#pragma unroll
            for (int h = 0; h < HELD; h++) {
                const int64_t i = threadIdx.x + h * step;
                if (i < vectors) {
                    load_f32<V>(a.scale + i * V, scale[h]);
                    load_f32<V>(a.bias + i * V, bias[h]);
                }
            }
            abandon.wait();
#pragma unroll
            for (int h = 0; h < HELD; h++) {
                const int64_t i = threadIdx.x + h * step;
                if (i < vectors) {
                    load(a, off, i, v[h]);
#pragma unroll
                    for (int j = 0; j < V; j++) {
                        sum += v[h][j];
                    }
                }
            }
            const float mean = block_sum(sum, shared[0]) / (float)a.channels;
#pragma unroll
            for (int h = 0; h < HELD; h++) {
                if (threadIdx.x + h * step < vectors) {
#pragma unroll
                    for (int j = 0; j < V; j++) {
                        squares += (v[h][j] - mean) * (v[h][j] - mean);
                    }
                }
            }
            const float inverse = rsqrtf(block_sum(squares, shared[1]) / (float)a.channels + a.epsilon);
            if (!abandon.commit()) {
                return false;
            }
#pragma unroll
            for (int h = 0; h < HELD; h++) {
                const int64_t i = threadIdx.x + h * step;
                if (i < vectors) {
                    store(a, off, i, v[h], scale[h], bias[h], mean, inverse);
                }
            }
            return true;
        }
        abandon.wait();
        float v[V], scale[V], bias[V];
        for (int64_t i = threadIdx.x; i < vectors; i += step) {
            load(a, off, i, v);
#pragma unroll
            for (int j = 0; j < V; j++) {
                sum += v[j];
            }
        }
        const float mean = block_sum(sum, shared[0]) / (float)a.channels;
        for (int64_t i = threadIdx.x; i < vectors; i += step) {
            load(a, off, i, v);
#pragma unroll
            for (int j = 0; j < V; j++) {
                squares += (v[j] - mean) * (v[j] - mean);
            }
        }
        const float inverse = rsqrtf(block_sum(squares, shared[1]) / (float)a.channels + a.epsilon);
        if (!abandon.commit()) {
            return false;
        }
        for (int64_t i = threadIdx.x; i < vectors; i += step) {
            load(a, off, i, v);
            load_f32<V>(a.scale + i * V, scale);
            load_f32<V>(a.bias + i * V, bias);
            store(a, off, i, v, scale, bias, mean, inverse);
        }
        return true;
    }
};

REEF_KERNEL(reef_layer_norm_v8, layer_norm_kernel<8, 2>)
REEF_KERNEL(reef_layer_norm_v4, layer_norm_kernel<4, 2>)
REEF_KERNEL(reef_layer_norm_v1, layer_norm_kernel<1, 4>)
