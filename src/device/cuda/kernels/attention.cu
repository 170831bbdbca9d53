/*
 * attention.cu - y = softmax(q k^T * scale + mask) v, scores never leave registers.
 *
 * Tensor-core form: a warp owns 16 queries of one head; a block is 4 warps (64 queries, or 16 queries whose keys the 4
 * warps divide among them when there are few blocks). Keys and values come in pieces of 64 through shared memory; the
 * softmax is the running one: maximum, sum and result are rescaled when the maximum grows. Rows of D = 64 halves are 128
 * bytes, so the layout is igemm.cuh's.
 *
 * Any form: a warp per query, lanes over keys, then over dimensions; any strides, types and D up to 256.
 */
#include "device/cuda/kernels/igemm_args.h"
#include "device/cuda/kernels/mma.cuh"

static __device__ __forceinline__ float mask_value(const reef_attention_args &a, float score, int b, int h, int s,
                                                   int t)
{
    if (a.mask_type < 0) {
        return score;
    }
    long long at = (long long)b * a.m_b + (long long)h * a.m_h + (long long)s * a.m_s + (long long)t * a.m_t;
    if (a.mask_type == REEF_ELEM_F32 || a.mask_type == REEF_ELEM_F16) {
        return score + reef_load_elem((const void *)a.mask, at, a.mask_type);
    }
    return ((const unsigned char *)a.mask)[at] ? score : -INFINITY;
}

/* ---- f16, D = 64 ---------------------------------------------------------------------------------------------------- */
struct attention_f16 {
    using args = reef_attention_args;
    static constexpr int threads = 128, piece = 64;
    /* q: 64 rows, then two stages of k (64 rows) and v (64 rows), 128 bytes each */
    static constexpr int q_bytes = 64 * 128, stage_bytes = 2 * piece * 128;

    static __device__ __forceinline__ void load_rows(uint32_t to, const __half *from, long long stride, int n)
    {
        const int column = threadIdx.x & 7;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = (int)(threadIdx.x >> 3) + i * 16;
            copy16(to + r * 128 + ((column ^ (r & 7)) << 4), from + r * stride + column * 8, r < n);
        }
    }

    template <class Abandon>
    static __device__ __forceinline__ bool tile(const args &a, uint32_t index, char *smem, Abandon &abandon)
    {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t2 = (lane & 3) * 2;
        const int block = index % (unsigned)a.row_blocks, bh = index / (unsigned)a.row_blocks;
        const int b = bh / a.heads, h = bh - b * a.heads, s0 = block * 64;
        const uint32_t base = smem_address(smem), stages = base + q_bytes;
        const __half *q = (const __half *)a.q + (long long)b * a.q_b + (long long)h * a.q_h + (long long)s0 * a.q_s;
        const __half *k = (const __half *)a.k + (long long)b * a.k_b + (long long)h * a.k_h;
        const __half *v = (const __half *)a.v + (long long)b * a.v_b + (long long)h * a.v_h;
        const int pieces = (a.keys + piece - 1) / piece;
        float out[8][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
        for (int j = 0; j < 8; j++) {
            out[j][0] = out[j][1] = out[j][2] = out[j][3] = 0;
        }
        abandon.wait();
        load_rows(base, q, a.q_s, a.queries - s0);
        load_rows(stages, k, a.k_t, a.keys);
        copy_commit();
        load_rows(stages + piece * 128, v, a.v_t, a.keys);
        copy_commit();
        uint32_t fq[4][4];
#pragma unroll 1
        for (int p = 0; p < pieces; p++) {
            const uint32_t sk = stages + (p & 1) * stage_bytes, sv = sk + piece * 128;
            if (p + 1 < pieces) {
                const uint32_t next = stages + ((p + 1) & 1) * stage_bytes;
                const int t0 = (p + 1) * piece;
                load_rows(next, k + (long long)t0 * a.k_t, a.k_t, a.keys - t0);
                load_rows(next + piece * 128, v + (long long)t0 * a.v_t, a.v_t, a.keys - t0);
            }
            copy_commit();
            copy_wait<2>(); /* k of this piece (and q) */
            if (p) {
                copy_wait<1>();
            }
            abandon.poll(p);
            __syncthreads();
            if (abandon.hit(p)) {
                copy_wait<0>();
                return false;
            }
            if (p == 0) {
#pragma unroll
                for (int s = 0; s < 4; s++) {
                    load_matrices(base + (warp * 16 + (lane & 15)) * 128 + (((s * 2 + (lane >> 4)) ^ (lane & 7)) << 4),
                                  fq[s]);
                }
            }
            float score[8][4];
#pragma unroll
            for (int j = 0; j < 8; j++) {
                score[j][0] = score[j][1] = score[j][2] = score[j][3] = 0;
            }
#pragma unroll
            for (int s = 0; s < 4; s++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    uint32_t fk[4];
                    load_matrices(sk + (j * 16 + (lane & 7) + (lane >> 4) * 8) * 128 +
                                      (((s * 2 + ((lane >> 3) & 1)) ^ (lane & 7)) << 4),
                                  fk);
                    mma_f16(score[2 * j], fq[s], fk[0], fk[1]);
                    mma_f16(score[2 * j + 1], fq[s], fk[2], fk[3]);
                }
            }
            /* scale, mask, new maxima: row g has elements 0 and 1 of each fragment, row g + 8 elements 2 and 3 */
            float high[2] = {top[0], top[1]};
#pragma unroll
            for (int j = 0; j < 8; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int t = p * piece + j * 8 + t2 + (e & 1), s = s0 + warp * 16 + g + (e >> 1) * 8;
                    float x = score[j][e] * a.scale;
                    x = t < a.keys && s < a.queries ? mask_value(a, x, b, h, s, t) : -INFINITY;
                    score[j][e] = x;
                    high[e >> 1] = fmaxf(high[e >> 1], x);
                }
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                high[r] = fmaxf(high[r], __shfl_xor_sync(0xffffffffu, high[r], 1));
                high[r] = fmaxf(high[r], __shfl_xor_sync(0xffffffffu, high[r], 2));
                const float still = high[r] == -INFINITY ? 0.0f : high[r];
                const float shrink = __expf(top[r] - still); /* exp(-inf) = 0 the first time */
                top[r] = high[r];
                sum[r] *= shrink;
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    out[j][2 * r] *= shrink;
                    out[j][2 * r + 1] *= shrink;
                    score[j][2 * r] = __expf(score[j][2 * r] - still);
                    score[j][2 * r + 1] = __expf(score[j][2 * r + 1] - still);
                    sum[r] += score[j][2 * r] + score[j][2 * r + 1];
                }
            }
            if (p == 0) {
                copy_wait<1>();
                __syncthreads();
            }
            /* the accumulators of 16 keys are the left operand's fragment of the second product */
#pragma unroll
            for (int s = 0; s < 4; s++) {
                uint32_t fp[4];
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float(&x)[4] = score[2 * s + (e >> 1)];
                    __half2 pair = e & 1 ? __floats2half2_rn(x[2], x[3]) : __floats2half2_rn(x[0], x[1]);
                    fp[e] = *(uint32_t *)&pair;
                }
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    uint32_t fv[4];
                    load_matrices_transposed(
                        sv + (s * 16 + (lane & 15)) * 128 + (((j * 2 + (lane >> 4)) ^ (lane & 7)) << 4), fv);
                    mma_f16(out[2 * j], fp, fv[0], fv[1]);
                    mma_f16(out[2 * j + 1], fp, fv[2], fv[3]);
                }
            }
            __syncthreads();
        }
        copy_wait<0>();
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
            const int s = s0 + warp * 16 + g + r * 8;
            const float inverse = sum[r] > 0 ? 1.0f / sum[r] : a.nan_rows || sum[r] != 0 ? NAN : 0.0f;
            if (s < a.queries) {
                __half *y = (__half *)a.y + (long long)b * a.y_b + (long long)h * a.y_h + (long long)s * a.y_s + t2;
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    *(__half2 *)(y + j * 8) = __floats2half2_rn(out[j][2 * r] * inverse, out[j][2 * r + 1] * inverse);
                }
            }
        }
        return true;
    }
};

/* ---- anything else ---------------------------------------------------------------------------------------------------- */
struct attention_any {
    using args = reef_attention_args;
    static constexpr int threads = 256, warps = threads / 32, max_dim = 256;
    static constexpr int piece = 32; /* keys at a time */

    template <class Abandon>
    static __device__ __forceinline__ bool tile(const args &a, uint32_t index, char *smem, Abandon &abandon)
    {
        /* q of the block's queries, then k and v of a piece; rows of dim + 1 floats, so that lanes hit different banks */
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, ld = a.dim + 1;
        const int block = index % (unsigned)a.row_blocks, bh = index / (unsigned)a.row_blocks;
        const int b = bh / a.heads, h = bh - b * a.heads, s = block * warps + warp;
        float *qs = (float *)smem, *ks = qs + warps * ld, *vs = ks + piece * ld;
        float out[max_dim / 32], top = -INFINITY, sum = 0;
#pragma unroll
        for (int j = 0; j < max_dim / 32; j++) {
            out[j] = 0;
        }
        abandon.wait();
        for (int d = lane; d < a.dim; d += 32) {
            qs[warp * ld + d] =
                s < a.queries
                    ? reef_load_elem((const void *)a.q,
                                     (long long)b * a.q_b + (long long)h * a.q_h + (long long)s * a.q_s + d, a.q_type)
                    : 0.0f;
        }
        for (int t0 = 0, p = 0; t0 < a.keys; t0 += piece, p++) {
            abandon.poll(p);
            __syncthreads();
            if (abandon.hit(p)) {
                return false;
            }
            for (int i = threadIdx.x; i < piece * a.dim; i += threads) {
                int t = i / a.dim, d = i - t * a.dim;
                bool inside = t0 + t < a.keys;
                ks[t * ld + d] = inside ? reef_load_elem((const void *)a.k,
                                                         (long long)b * a.k_b + (long long)h * a.k_h +
                                                             (long long)(t0 + t) * a.k_t + (long long)d * a.k_d,
                                                         a.k_type)
                                        : 0.0f;
                vs[t * ld + d] =
                    inside
                        ? reef_load_elem((const void *)a.v,
                                         (long long)b * a.v_b + (long long)h * a.v_h + (long long)(t0 + t) * a.v_t + d,
                                         a.v_type)
                        : 0.0f;
            }
            __syncthreads();
            float score = 0;
            for (int d = 0; d < a.dim; d++) {
                score = fmaf(qs[warp * ld + d], ks[lane * ld + d], score);
            }
            score *= a.scale;
            score = t0 + lane < a.keys && s < a.queries ? mask_value(a, score, b, h, s, t0 + lane) : -INFINITY;
            float high = fmaxf(top, score);
#pragma unroll
            for (int o = 16; o; o >>= 1) {
                high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, o));
            }
            const float still = high == -INFINITY ? 0.0f : high, shrink = expf(top - still), e = expf(score - still);
            top = high;
            sum = sum * shrink + e;
#pragma unroll
            for (int j = 0; j < max_dim / 32; j++) {
                out[j] *= shrink;
            }
#pragma unroll 4
            for (int t = 0; t < piece; t++) {
                float w = __shfl_sync(0xffffffffu, e, t);
#pragma unroll
                for (int j = 0; j < max_dim / 32; j++) {
                    if (j * 32 + lane < a.dim) {
                        out[j] = fmaf(w, vs[t * ld + j * 32 + lane], out[j]);
                    }
                }
            }
        }
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            sum += __shfl_xor_sync(0xffffffffu, sum, o);
        }
        const float inverse = sum > 0 ? 1.0f / sum : a.nan_rows || sum != 0 ? NAN : 0.0f;
        if (s < a.queries) {
#pragma unroll
            for (int j = 0; j < max_dim / 32; j++) {
                if (j * 32 + lane < a.dim) {
                    reef_store_elem((void *)a.y,
                                    (long long)b * a.y_b + (long long)h * a.y_h + (long long)s * a.y_s + j * 32 + lane,
                                    a.y_type, out[j] * inverse);
                }
            }
        }
        return true;
    }
};

REEF_KERNEL(reef_attention_f16, attention_f16)
REEF_KERNEL(reef_attention_any, attention_any)
