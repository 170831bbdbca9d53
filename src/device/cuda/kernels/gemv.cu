/*
 * gemv.cu - one row times a constant matrix: a stream over the weights at the speed of memory.
 *
 * A tile is R columns of one row. The block's warps take pieces of 32 lanes x 16 bytes of k in turn; each lane holds R
 * columns' next words in registers while it multiplies the present ones. The first words are weights, so they are on
 * their way before the kernel waits for its predecessor, and more of them are on their way into L2: a stream that is bound
 * by memory gets a start while the predecessor computes.
 */
#include "device/cuda/kernels/igemm_args.h"
#include "device/cuda/kernels/mma.cuh"

template <bool HALF, int R>
struct gemv {
    using args = reef_gemv_args;
    static constexpr bool block_is_tile = true;
    static constexpr int threads = 256, warps = threads / 32, vec = HALF ? 8 : 4, piece = 32 * vec;
    static constexpr int depth = R >= 8 ? 1 : R == 4 ? 2 : 4; /* pieces in flight */

    static __device__ __forceinline__ void load_x(const args &a, long long base, int k, float (&x)[vec])
    {
        if (a.x_vec) { /* k is a multiple of vec, and so is the end */
            if (k >= a.k) {
#pragma unroll
                for (int e = 0; e < vec; e++) {
                    x[e] = 0;
                }
            } else if (a.x_type == REEF_ELEM_F16) {
                const __half *p = (const __half *)a.x + base + k;
#pragma unroll
                for (int e = 0; e < vec; e += 4) {
                    uint2 word = *(const uint2 *)(p + e);
                    float2 lo = __half22float2(*(__half2 *)&word.x), hi = __half22float2(*(__half2 *)&word.y);
                    x[e] = lo.x, x[e + 1] = lo.y, x[e + 2] = hi.x, x[e + 3] = hi.y;
                }
            } else {
#pragma unroll
                for (int e = 0; e < vec; e += 4) {
                    float4 f = *(const float4 *)((const float *)a.x + base + k + e);
                    x[e] = f.x, x[e + 1] = f.y, x[e + 2] = f.z, x[e + 3] = f.w;
                }
            }
        } else {
#pragma unroll
            for (int e = 0; e < vec; e++) {
                x[e] = k + e < a.k ? reef_load_elem((const void *)a.x, base + k + e, a.x_type) : 0.0f;
            }
        }
    }
    static __device__ __forceinline__ void load_w(const args &a, const char *w, int k, int cols, uint4 (&word)[R])
    {
#pragma unroll
        for (int r = 0; r < R; r++) {
            word[r] = make_uint4(0, 0, 0, 0);
            if (k < a.ld && r < cols) {
                const uint4 *p = (const uint4 *)(w + ((long long)r * a.ld + k) * (HALF ? 2 : 4));
                asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                             : "=r"(word[r].x), "=r"(word[r].y), "=r"(word[r].z), "=r"(word[r].w)
                             : "l"(p));
            }
        }
    }
    static __device__ __forceinline__ void accumulate(const uint4 &word, const float (&x)[vec], float &sum)
    {
        const uint32_t u[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            if constexpr (HALF) {
                float2 f = __half22float2(*(const __half2 *)&u[e]);
                sum = fmaf(f.x, x[2 * e], sum);
                sum = fmaf(f.y, x[2 * e + 1], sum);
            } else {
                sum = fmaf(__uint_as_float(u[e]), x[e], sum);
            }
        }
    }

    template <class Abandon>
    static __device__ __forceinline__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_SHARED(part, float[warps][R]);
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
        const int row = (int)(index % (unsigned)a.row_tiles), col = (int)(index / (unsigned)a.row_tiles) * R;
        const int cols = min(R, a.n - col);
        const char *w = (const char *)a.w + (long long)col * a.ld * (HALF ? 2 : 4);
        int k = warp * piece + lane * vec;
        const int stride = warps * piece, n = (a.ld + stride - 1) / stride;
        uint4 word[depth][R];
        float sum[R];
#pragma unroll
        for (int d = 0; d < depth; d++) {
            load_w(a, w, k + d * stride, cols, word[d]);
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            sum[r] = 0;
        }
        const int begun = depth * stride * (HALF ? 2 : 4);
        if (!Abandon::on && row == 0 && (int)threadIdx.x < cols && a.ahead > begun) {
            prefetch_l2(w + (long long)threadIdx.x * a.ld * (HALF ? 2 : 4) + begun, (uint32_t)(a.ahead - begun));
        }
        abandon.wait();
        const long long x_base = (long long)row * a.x_row;
#pragma unroll 1
        for (int i = 0; i < n; i += depth) {
#pragma unroll
            for (int d = 0; d < depth; d++) {
                if (Abandon::on && __syncthreads_or(abandon.now())) { /* three or four microseconds apart */
                    return false;
                }
                float x[vec];
                load_x(a, x_base, k + d * stride, x);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    accumulate(word[d][r], x, sum[r]);
                }
                load_w(a, w, k + (d + depth) * stride, cols, word[d]);
            }
            k += depth * stride;
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
#pragma unroll
            for (int o = 16; o; o >>= 1) {
                sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], o);
            }
            if (lane == 0) {
                part[warp][r] = sum[r];
            }
        }
        __syncthreads();
        if (!abandon.commit()) {
            return false;
        }
        if (threadIdx.x < cols) {
            float v = 0;
#pragma unroll
            for (int i = 0; i < warps; i++) {
                v += part[i][threadIdx.x];
            }
            v *= a.alpha;
            const int c = col + threadIdx.x;
            if (a.bias) {
                v += ((const float *)a.bias)[c];
            }
            if (a.residual) {
                v += reef_load_elem((const void *)a.residual, (long long)row * a.r_row + c, a.r_type);
            }
            reef_store_elem((void *)a.y, (long long)row * a.y_row + c, a.y_type,
                            reef_activate(v, a.act, a.act_a, a.act_b));
        }
        return true;
    }
};

REEF_KERNEL(reef_gemv_f16_1, gemv<true, 1>)
REEF_KERNEL(reef_gemv_f16_2, gemv<true, 2>)
REEF_KERNEL(reef_gemv_f16_4, gemv<true, 4>)
REEF_KERNEL(reef_gemv_f16_8, gemv<true, 8>)
REEF_KERNEL(reef_gemv_f32_1, gemv<false, 1>)
REEF_KERNEL(reef_gemv_f32_2, gemv<false, 2>)
REEF_KERNEL(reef_gemv_f32_4, gemv<false, 4>)
REEF_KERNEL(reef_gemv_f32_8, gemv<false, 8>)
