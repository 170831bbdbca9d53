/*
 * attention.cu - y = softmax(q k^T * scale + mask) v, scores never leave registers.
 *
 * Tensor-core form: a block is 16 queries of one head; its 4 warps divide the keys, 32 of every 128 each, with a running
 * softmax (maximum, sum and result are rescaled when the maximum grows) over shared memory that is the warp's own. At the
 * end the four are brought to one maximum and added in order. Rows of D = 64 halves are 128 bytes, of floats (for tf32)
 * 256, laid out as in igemm.cuh: chunk c of row r at place c ^ (r % 8).
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

/* ---- f16 and tf32, D = 64 ------------------------------------------------------------------------------------------- */
template <bool HALF>
struct element_of {
    using type = float;
};
template <>
struct element_of<true> {
    using type = __half;
};

template <bool HALF>
struct attention_fast {
    using args = reef_attention_args;
    using element = typename element_of<HALF>::type;
    static constexpr bool block_is_tile = true;
    static constexpr int threads = 128, warps = 4, share = 32; /* keys of a warp */
    static constexpr int row_bytes = 64 * sizeof(element), chunks = row_bytes / 16, chunk = 16 / sizeof(element);
    static constexpr int slices = row_bytes / 32; /* of a product's k: 32 bytes */
    /* One stage of all warps' keys and values, then the other, which is there when there is more than one piece. */
    static constexpr int q_bytes = 16 * row_bytes, warp_bytes = 2 * share * row_bytes, stage_bytes = warps * warp_bytes;
    static constexpr int out_row = 64 + 4; /* floats */

    /* Rows of a part of the block: `loaders` threads of which this is number `thread`. */
    template <int loaders, int rows>
    static __device__ __forceinline__ void load_rows(uint32_t to, const element *from, int stride, int n, int thread)
    {
        const int column = thread % chunks;
#pragma unroll
        for (int i = 0; i < rows * chunks / loaders; i++) {
            int r = thread / chunks + i * (loaders / chunks);
            copy16(to + r * row_bytes + ((column ^ (r & 7)) << 4), from + (long long)r * stride + column * chunk,
                   r < n);
        }
    }
    static __device__ __forceinline__ void load_fragment(uint32_t address, uint32_t (&f)[4])
    {
        load_matrices(address, f);
        if (!HALF) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                f[e] = round_tf32(f[e]);
            }
        }
    }
    static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
    {
        if constexpr (HALF) {
            mma_f16(c, a, b0, b1);
        } else {
            mma_tf32(c, a, b0, b1);
        }
    }
    /* out += weights x values; score holds the weights as the first product left them. */
    static __device__ __forceinline__ void weigh(float (&out)[8][4], const float (&score)[4][4], uint32_t values,
                                                 int lane)
    {
        if constexpr (HALF) {
            /* the accumulators of 16 keys are the left operand's fragment of the second product */
#pragma unroll
            for (int s = 0; s < 2; s++) {
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
                        values + (s * 16 + (lane & 15)) * 128 + (((j * 2 + (lane >> 4)) ^ (lane & 7)) << 4), fv);
                    mma_f16(out[2 * j], fp, fv[0], fv[1]);
                    mma_f16(out[2 * j + 1], fp, fv[2], fv[3]);
                }
            }
        } else {
            /* A lane's accumulators are keys 2t and 2t + 1 of eight, the operand's fragment wants t and t + 4: so the
             * keys are taken in another order, on both sides. */
            const int g = lane >> 2, key = (lane & 3) * 2;
#pragma unroll
            for (int s = 0; s < 4; s++) {
                const uint32_t fp[4] = {
                    round_tf32(__float_as_uint(score[s][0])), round_tf32(__float_as_uint(score[s][2])),
                    round_tf32(__float_as_uint(score[s][1])), round_tf32(__float_as_uint(score[s][3]))};
                const uint32_t row = values + (s * 8 + key) * 256 + (g & 3) * 4;
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    const int c = j * 2 + (g >> 2);
                    const uint32_t v0 = load_shared4(row + ((c ^ key) << 4)),
                                   v1 = load_shared4(row + 256 + ((c ^ (key + 1)) << 4));
                    mma_tf32(out[j], fp, round_tf32(v0), round_tf32(v1));
                }
            }
        }
    }

    /* Scores of keys t0 + 8 j + (0, 1) and rows s, s + 8: what is added to them, or -inf. One branch on the type, so that
     * all loads are under way together. */
    template <class Load>
    static __device__ __forceinline__ void load_mask_as(const args &a, float (&m)[4][4], int b, int h, int s, int t0,
                                                        Load load)
    {
        const long long start = (long long)b * a.m_b + (long long)h * a.m_h;
        const long long row[2] = {start + (long long)min(s, a.queries - 1) * a.m_s,
                                  start + (long long)min(s + 8, a.queries - 1) * a.m_s};
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                m[j][e] = load(row[e >> 1] + (long long)min(t0 + j * 8 + (e & 1), a.keys - 1) * a.m_t);
            }
        }
    }
    static __device__ __forceinline__ void load_mask(const args &a, float (&m)[4][4], int b, int h, int s, int t0)
    {
        if (a.mask_type < 0) {
            load_mask_as(a, m, b, h, s, t0, [](long long) { return 0.0f; });
        } else if (a.mask_type == REEF_ELEM_F32) {
            load_mask_as(a, m, b, h, s, t0, [&a](long long at) { return ((const float *)a.mask)[at]; });
        } else if (a.mask_type == REEF_ELEM_F16) {
            load_mask_as(a, m, b, h, s, t0, [&a](long long at) { return __half2float(((const __half *)a.mask)[at]); });
        } else {
            load_mask_as(a, m, b, h, s, t0,
                         [&a](long long at) { return ((const unsigned char *)a.mask)[at] ? 0.0f : -INFINITY; });
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                m[j][e] = t0 + j * 8 + (e & 1) < a.keys ? m[j][e] : -INFINITY;
            }
        }
    }

    template <class Abandon>
    static __device__ __forceinline__ bool tile(const args &a, uint32_t index, char *smem, Abandon &abandon)
    {
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t2 = (lane & 3) * 2;
        const int block = index % (unsigned)a.row_blocks, bh = index / (unsigned)a.row_blocks;
        const int b = bh / a.heads, h = bh - b * a.heads, s0 = block * 16;
        const uint32_t base = smem_address(smem), mine = base + q_bytes + warp * warp_bytes;
        const element *q = (const element *)a.q + (long long)b * a.q_b + (long long)h * a.q_h + (long long)s0 * a.q_s;
        const element *k = (const element *)a.k + (long long)b * a.k_b + (long long)h * a.k_h;
        const element *v = (const element *)a.v + (long long)b * a.v_b + (long long)h * a.v_h;
        const int pieces = (a.keys + warps * share - 1) / (warps * share);
        float out[8][4], top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
        for (int j = 0; j < 8; j++) {
            out[j][0] = out[j][1] = out[j][2] = out[j][3] = 0;
        }
        abandon.wait();
        load_rows<threads, 16>(base, q, a.q_s, a.queries - s0, threadIdx.x);
        int t0 = warp * share;
        load_rows<32, share>(mine, k + (long long)t0 * a.k_t, a.k_t, a.keys - t0, lane);
        copy_commit();
        load_rows<32, share>(mine + share * row_bytes, v + (long long)t0 * a.v_t, a.v_t, a.keys - t0, lane);
        copy_commit();
        uint32_t fq[slices][4];
#pragma unroll 1
        for (int p = 0; p < pieces; p++, t0 += warps * share) {
            const uint32_t sk = mine + (p & 1) * stage_bytes, sv = sk + share * row_bytes;
            float mask[4][4], score[4][4];
            load_mask(a, mask, b, h, s0 + g, t0 + t2);
            if (Abandon::on && (p & 3) == 3 && __syncthreads_or(abandon.now())) {
                copy_wait<0>();
                return false;
            }
            if (p + 1 < pieces) {
                const uint32_t next = mine + ((p + 1) & 1) * stage_bytes;
                const int t1 = t0 + warps * share;
                load_rows<32, share>(next, k + (long long)t1 * a.k_t, a.k_t, a.keys - t1, lane);
                copy_commit();
                load_rows<32, share>(next + share * row_bytes, v + (long long)t1 * a.v_t, a.v_t, a.keys - t1, lane);
            } else {
                copy_commit();
            }
            copy_commit();
            copy_wait<3>(); /* k of this piece, and q */
            if (p == 0) {
                __syncthreads();
#pragma unroll
                for (int s = 0; s < slices; s++) {
                    load_fragment(base + (lane & 15) * row_bytes + (((s * 2 + (lane >> 4)) ^ (lane & 7)) << 4), fq[s]);
                }
            } else {
                __syncwarp();
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                score[j][0] = score[j][1] = score[j][2] = score[j][3] = 0;
            }
#pragma unroll
            for (int s = 0; s < slices; s++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    uint32_t fk[4];
                    load_fragment(sk + (j * 16 + (lane & 7) + (lane >> 4) * 8) * row_bytes +
                                      (((s * 2 + ((lane >> 3) & 1)) ^ (lane & 7)) << 4),
                                  fk);
                    multiply(score[2 * j], fq[s], fk[0], fk[1]);
                    multiply(score[2 * j + 1], fq[s], fk[2], fk[3]);
                }
            }
            /* row g has elements 0 and 1 of each fragment, row g + 8 elements 2 and 3 */
            float high[2] = {top[0], top[1]};
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    /* a false mask decides even where the score is not a number */
                    score[j][e] = mask[j][e] == -INFINITY ? -INFINITY : score[j][e] * a.scale + mask[j][e];
                    high[e >> 1] = fmaxf(high[e >> 1], score[j][e]);
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
                }
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    score[j][2 * r] = __expf(score[j][2 * r] - still);
                    score[j][2 * r + 1] = __expf(score[j][2 * r + 1] - still);
                    sum[r] += score[j][2 * r] + score[j][2 * r + 1];
                }
            }
            copy_wait<2>();
            __syncwarp();
            weigh(out, score, sv, lane);
            __syncwarp();
        }
        copy_wait<0>();
        /* one maximum for the four warps; results and sums meet in shared memory, whose stages are done with */
        REEF_SHARED(met, float[2][warps][16]);
        auto &tops = met[0], &sums = met[1];
        float *part = (float *)(smem + q_bytes + warp * warp_bytes);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
            if ((lane & 3) == 0) {
                tops[warp][g + r * 8] = top[r];
                sums[warp][g + r * 8] = sum[r];
            }
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            *(float2 *)(part + g * out_row + j * 8 + t2) = make_float2(out[j][0], out[j][1]);
            *(float2 *)(part + (g + 8) * out_row + j * 8 + t2) = make_float2(out[j][2], out[j][3]);
        }
        __syncthreads();
        const int row = threadIdx.x >> 3, d = (threadIdx.x & 7) * 8, s = s0 + row;
        float high = tops[0][row], total = 0, y[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
        for (int i = 1; i < warps; i++) {
            high = fmaxf(high, tops[i][row]);
        }
        high = high == -INFINITY ? 0.0f : high;
#pragma unroll
        for (int i = 0; i < warps; i++) {
            const float scale = __expf(tops[i][row] - high);
            const float *from = (const float *)(smem + q_bytes + i * warp_bytes) + row * out_row + d;
            total += sums[i][row] * scale;
#pragma unroll
            for (int e = 0; e < 8; e++) {
                y[e] += from[e] * scale;
            }
        }
        const float inverse = total > 0 ? 1.0f / total : a.nan_rows || total != 0 ? NAN : 0.0f;
        if (!abandon.commit()) {
            return false;
        }
        if (s < a.queries) {
            element *to = (element *)a.y + (long long)b * a.y_b + (long long)h * a.y_h + (long long)s * a.y_s + d;
            if constexpr (HALF) {
                uint32_t word[4];
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    __half2 pair = __floats2half2_rn(y[2 * e] * inverse, y[2 * e + 1] * inverse);
                    word[e] = *(uint32_t *)&pair;
                }
                *(uint4 *)to = make_uint4(word[0], word[1], word[2], word[3]);
            } else {
                ((float4 *)to)[0] = make_float4(y[0] * inverse, y[1] * inverse, y[2] * inverse, y[3] * inverse);
                ((float4 *)to)[1] = make_float4(y[4] * inverse, y[5] * inverse, y[6] * inverse, y[7] * inverse);
            }
        }
        return true;
    }
};

/* ---- anything else ---------------------------------------------------------------------------------------------------- */
struct attention_any {
    using args = reef_attention_args;
    static constexpr bool block_is_tile = true;
    static constexpr int threads = 256, warps = threads / 32, max_dim = 256;
    static constexpr int piece = 32; /* keys at a time */

    template <bool HALF>
    static __device__ __forceinline__ float4 load4(const void *p, long long at)
    {
        if constexpr (HALF) {
            uint2 word = *(const uint2 *)((const __half *)p + at);
            float2 lo = __half22float2(*(__half2 *)&word.x), hi = __half22float2(*(__half2 *)&word.y);
            return make_float4(lo.x, lo.y, hi.x, hi.y);
        }
        return *(const float4 *)((const float *)p + at);
    }
    /* Four elements at a time; two of k and two of v under way together. */
    template <bool HALF>
    static __device__ __forceinline__ void load_fours(const args &a, float *ks, float *vs, long long k0, long long v0,
                                                      int t0)
    {
        const int ld = a.dim + 1, quads = a.dim / 4;
        for (int i = threadIdx.x; i < piece * quads; i += 2 * threads) {
            float4 fk[2], fv[2];
            int t[2], d[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                t[e] = (i + e * threads) / quads;
                d[e] = (i + e * threads - t[e] * quads) * 4;
                fk[e] = fv[e] = make_float4(0, 0, 0, 0);
                if (t[e] < piece && t0 + t[e] < a.keys) {
                    fk[e] = load4<HALF>((const void *)a.k, k0 + (long long)(t0 + t[e]) * a.k_t + d[e]);
                    fv[e] = load4<HALF>((const void *)a.v, v0 + (long long)(t0 + t[e]) * a.v_t + d[e]);
                }
            }
#pragma unroll
            for (int e = 0; e < 2; e++) {
                if (t[e] < piece) {
                    float *pk = ks + t[e] * ld + d[e], *pv = vs + t[e] * ld + d[e];
                    pk[0] = fk[e].x, pk[1] = fk[e].y, pk[2] = fk[e].z, pk[3] = fk[e].w;
                    pv[0] = fv[e].x, pv[1] = fv[e].y, pv[2] = fv[e].z, pv[3] = fv[e].w;
                }
            }
        }
    }
    static __device__ __forceinline__ void load_piece(const args &a, float *ks, float *vs, int b, int h, int t0)
    {
        const int ld = a.dim + 1;
        const long long k0 = (long long)b * a.k_b + (long long)h * a.k_h,
                        v0 = (long long)b * a.v_b + (long long)h * a.v_h;
        if (a.vec && a.k_type == REEF_ELEM_F16) {
            load_fours<true>(a, ks, vs, k0, v0, t0);
            return;
        }
        if (a.vec) {
            load_fours<false>(a, ks, vs, k0, v0, t0);
            return;
        }
        for (int i = threadIdx.x; i < piece * a.dim; i += threads) {
            int t = i / a.dim, d = i - t * a.dim;
            bool inside = t0 + t < a.keys;
            ks[t * ld + d] = inside ? reef_load_elem((const void *)a.k,
                                                     k0 + (long long)(t0 + t) * a.k_t + (long long)d * a.k_d, a.k_type)
                                    : 0.0f;
            vs[t * ld + d] =
                inside ? reef_load_elem((const void *)a.v, v0 + (long long)(t0 + t) * a.v_t + d, a.v_type) : 0.0f;
        }
    }

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
            load_piece(a, ks, vs, b, h, t0);
            __syncthreads();
            float score = 0;
#pragma unroll 8
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
                    if (j * 32 < a.dim) { /* lanes past the end read what they do not store */
                        out[j] = fmaf(w, vs[t * ld + min(j * 32 + lane, a.dim)], out[j]);
                    }
                }
            }
        }
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            sum += __shfl_xor_sync(0xffffffffu, sum, o);
        }
        const float inverse = sum > 0 ? 1.0f / sum : a.nan_rows || sum != 0 ? NAN : 0.0f;
        if (!abandon.commit()) {
            return false;
        }
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

REEF_KERNEL(reef_attention_f16, attention_fast<true>)
REEF_KERNEL(reef_attention_tf32, attention_fast<false>)
REEF_KERNEL(reef_attention_any, attention_any)
