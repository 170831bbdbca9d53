/*
 * igemm.cuh - the matrix product that convolutions and matrix products run as, on tensor cores.
 *
 * A tile is BM output pixels x BN filters x one of `splits` parts of k. k is walked in steps of 128 bytes (64 halves or 32
 * floats), each step a stage in shared memory:
 *
 *      x, gathered by (pixel, tap, channel)   cp.async   stage[s].a  BM rows of 128 bytes  \   ldmatrix + mma.sync,
 *      w, packed in this very order           ------->   stage[s].b  BN rows of 128 bytes  /   or wgmma
 *
 * 16-byte chunk c of row r lies at place c ^ (r % 8), which no access conflicts with and wgmma understands. Channels
 * need not fill a step: every thread walks its own chunk column through taps and channels.
 *
 * At batch 1 a layer has few tiles, so k is split and the parts are added up in order of k, whoever computes them: by a
 * thread block cluster through its shared memory, each block finishing some of the tile, or through the workspace, by
 * the part that arrives last. Both add in the same order, so both give the same bits.
 *
 * Weights are constants: their first stages are under way before the kernel waits for its predecessor.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_IGEMM_CUH
#define REEF_DEVICE_CUDA_KERNELS_IGEMM_CUH

#include "device/cuda/kernels/igemm_args.h"
#include "device/cuda/kernels/mma.cuh"

enum {
    IGEMM_MMA = 0,        /* x by cp.async, mma.sync */
    IGEMM_WGMMA = 1,      /* x by cp.async, wgmma; WM 16, WN BN */
    IGEMM_ANY = 2,        /* x element by element: any alignment and type; w may be computed */
    IGEMM_TRANSPOSED = 4, /* with IGEMM_MMA or IGEMM_ANY: transposed convolution */
};

template <int PRECISION, int BM_, int BN_, int WM, int WN, int STAGES, int MODE>
struct igemm {
    using args = reef_igemm_args;
    static constexpr int BM = BM_, BN = BN_;
    static constexpr bool wg = MODE & IGEMM_WGMMA, any = MODE & IGEMM_ANY, transposed = MODE & IGEMM_TRANSPOSED;
    static constexpr bool half = PRECISION == REEF_P_F16;
    static constexpr int threads = 32 * (BM / WM) * (BN / WN);
    static constexpr int elem = half ? 2 : 4, chunk = 16 / elem, step_elems = 128 / elem;
    static constexpr int a_bytes = BM * 128, b_bytes = BN * 128, stage_bytes = a_bytes + b_bytes;
    /* Stages ahead. A stage is overwritten when its readers have passed a barrier; wgmma of the last step may still run. */
    static constexpr int ahead = wg && half ? STAGES - 2 : STAGES - 1;
    static constexpr int pass_rows = threads / 8; /* rows per pass of 16-byte copies */
    static constexpr int a_rows = BM / pass_rows, b_copies = BN / pass_rows;
    static constexpr int MI = WM / 16, NJ = WN / 8;
    static constexpr int staging_row = BN + 8; /* floats; rows 8 banks apart */
    static_assert(BM % pass_rows == 0 && BN % pass_rows == 0 && NJ % 2 == 0, "shape");
    static_assert(BM * staging_row * 4 <= STAGES * stage_bytes, "results are staged in the pipeline's memory");
    static constexpr int smem_bytes = STAGES * stage_bytes;

    /* What a thread loads: chunk column tid % 8 of rows tid / 8 + i * pass_rows. */
    struct walk {
        int base[a_rows];           /* element of tap (0, 0), channel 0; not used when transposed */
        int iy[a_rows], ix[a_rows]; /* input pixel of tap (0, 0); far outside for rows beyond the end */
        int ky, kx, c;              /* of the next step's chunk */
    };

    static __device__ __forceinline__ void pixel_of(const args &a, int row, int &image, int &oy, int &ox)
    {
        image = (unsigned)row / (unsigned)a.out_hw;
        int rest = row - image * a.out_hw;
        oy = (unsigned)rest / (unsigned)a.out_w;
        ox = rest - oy * a.out_w;
    }
    static __device__ __forceinline__ int group_offset(const reef_igemm_operand &o, int g0, int g1)
    {
        return g0 * o.g0 + g1 * o.g1;
    }
    static __device__ __forceinline__ int row_offset(const args &a, const reef_igemm_operand &o, int row)
    {
        if (o.linear) {
            return row * o.w;
        }
        int image, oy, ox;
        pixel_of(a, row, image, oy, ox);
        return image * o.image + oy * o.h + ox * o.w;
    }

    static __device__ __forceinline__ void walk_start(const args &a, walk &w, int row0, int step, int group)
    {
        int column = threadIdx.x & 7;
#pragma unroll
        for (int i = 0; i < a_rows; i++) {
            int row = row0 + (int)(threadIdx.x >> 3) + i * pass_rows, image, oy, ox;
            pixel_of(a, row, image, oy, ox);
            if (transposed) {
                w.iy[i] = oy + a.pad_h;
                w.ix[i] = ox + a.pad_w;
                w.base[i] = group + image * a.xs.image;
            } else {
                w.iy[i] = oy * a.stride_h - a.pad_h;
                w.ix[i] = ox * a.stride_w - a.pad_w;
                w.base[i] = group + image * a.xs.image + w.iy[i] * a.xs.h + w.ix[i] * a.xs.w;
            }
            if (row >= a.rows) {
                w.iy[i] = -(1 << 28);
            }
        }
        int k = step * step_elems + column * chunk, tap = k / a.channels;
        w.c = k - tap * a.channels;
        w.ky = tap / a.taps_w;
        w.kx = tap - w.ky * a.taps_w;
    }
    static __device__ __forceinline__ void walk_on(const args &a, int by, int &ky, int &kx, int &c)
    {
        c += by;
        while (c >= a.channels) {
            c -= a.channels;
            if (++kx == a.taps_w) {
                kx = 0;
                ky++;
            }
        }
    }
    /* Where tap (ky, kx) of row i reads; false outside the image. */
    static __device__ __forceinline__ bool locate(const args &a, const walk &w, int i, int ky, int kx, int shift,
                                                  int &offset)
    {
        if (transposed) {
            int ty = w.iy[i] - ky * a.dil_h, tx = w.ix[i] - kx * a.dil_w;
            int y = ty / a.stride_h, x = tx / a.stride_w;
            offset = w.base[i] + y * a.xs.h + x * a.xs.w + shift;
            return ty >= 0 && tx >= 0 && y * a.stride_h == ty && x * a.stride_w == tx && y < a.in_h && x < a.in_w &&
                   ky < a.taps_h;
        }
        offset = w.base[i] + shift;
        return (unsigned)(w.iy[i] + ky * a.dil_h) < (unsigned)a.in_h &&
               (unsigned)(w.ix[i] + kx * a.dil_w) < (unsigned)a.in_w && ky < a.taps_h;
    }

    static __device__ __forceinline__ uint32_t pack_pair(float lo, float hi)
    {
        __half2 h = __floats2half2_rn(lo, hi);
        return *(uint32_t *)&h;
    }

    static __device__ __forceinline__ void load_a(const args &a, walk &w, uint32_t stage)
    {
        int r = threadIdx.x >> 3, column = threadIdx.x & 7;
        uint32_t dst = stage + r * 128 + ((column ^ (r & 7)) << 4);
        if constexpr (!any) {
            int shift = transposed ? w.c : w.ky * a.dil_h * a.xs.h + w.kx * a.dil_w * a.xs.w + w.c;
#pragma unroll
            for (int i = 0; i < a_rows; i++) {
                int offset;
                bool inside = locate(a, w, i, w.ky, w.kx, shift, offset);
                copy16(dst + i * pass_rows * 128, (const char *)a.x + (long long)offset * elem, inside);
            }
            walk_on(a, step_elems, w.ky, w.kx, w.c);
        } else {
            uint32_t word[a_rows][4];
            float even[a_rows];
            int ky = w.ky, kx = w.kx, c = w.c;
#pragma unroll
            for (int e = 0; e < chunk; e++) {
                int shift = transposed ? c : ky * a.dil_h * a.xs.h + kx * a.dil_w * a.xs.w + c;
#pragma unroll
                for (int i = 0; i < a_rows; i++) {
                    int offset;
                    float v = 0;
                    if (locate(a, w, i, ky, kx, shift, offset)) {
                        v = reef_load_elem((const void *)a.x, offset, a.xs.type);
                    }
                    if (!half) {
                        word[i][e & 3] = __float_as_uint(v);
                    } else if (e & 1) {
                        word[i][e >> 1] = pack_pair(even[i], v);
                    } else {
                        even[i] = v;
                    }
                }
                walk_on(a, 1, ky, kx, c);
            }
#pragma unroll
            for (int i = 0; i < a_rows; i++) {
                store_shared16(dst + i * pass_rows * 128, make_uint4(word[i][0], word[i][1], word[i][2], word[i][3]));
            }
            walk_on(a, step_elems, w.ky, w.kx, w.c);
        }
    }

    /* Packed weights: [group][col / 8][step][1024 bytes], each kilobyte as it lies in a stage. */
    static __device__ __forceinline__ void load_b(const args &a, const char *w, int step, int col0, uint32_t stage)
    {
#pragma unroll
        for (int i = 0; i < b_copies; i++) {
            int at = i * threads + threadIdx.x, row8 = at >> 6;
            copy16(stage + at * 16, w + ((long long)row8 * a.steps + step) * 1024 + (at & 63) * 16,
                   col0 + row8 * 8 < a.cols);
        }
    }
    /* The right operand through its view. */
    static __device__ __forceinline__ void load_b_view(const args &a, int group, int step, int col0, uint32_t stage)
    {
        int g0 = group / a.group_div, g1 = group - g0 * a.group_div;
        for (int i = 0; i < b_copies; i++) {
            int at = i * threads + threadIdx.x, row = at >> 3, place = at & 7;
            int col = col0 + row, k = step * step_elems + (place ^ (row & 7)) * chunk;
            uint32_t word[4];
            float even = 0;
#pragma unroll
            for (int e = 0; e < chunk; e++) {
                float v = 0;
                if (col < a.cols && k + e < a.channels) {
                    v = reef_load_elem((const void *)a.b,
                                       (long long)g0 * a.b_g0 + (long long)g1 * a.b_g1 + (long long)(k + e) * a.b_k +
                                           (long long)col * a.b_n,
                                       a.b_type);
                }
                if (!half) {
                    word[e & 3] = __float_as_uint(v);
                } else if (e & 1) {
                    word[e >> 1] = pack_pair(even, v);
                } else {
                    even = v;
                }
            }
            store_shared16(stage + at * 16, make_uint4(word[0], word[1], word[2], word[3]));
        }
    }

    static __device__ __forceinline__ void multiply(float (&acc)[MI][NJ][4], uint32_t stage, int row, int col, int lane)
    {
        uint32_t pa = stage + (row + (lane & 15)) * 128,
                 pb = stage + a_bytes + (col + (lane & 7) + (lane >> 4) * 8) * 128;
#pragma unroll
        for (int s = 0; s < 4; s++) {
            uint32_t fa[MI][4], fb[NJ / 2][4];
#pragma unroll
            for (int i = 0; i < MI; i++) {
                load_matrices(pa + i * 16 * 128 + (((s * 2 + (lane >> 4)) ^ (lane & 7)) << 4), fa[i]);
            }
#pragma unroll
            for (int j = 0; j < NJ / 2; j++) {
                load_matrices(pb + j * 16 * 128 + (((s * 2 + ((lane >> 3) & 1)) ^ (lane & 7)) << 4), fb[j]);
            }
            if constexpr (PRECISION == REEF_P_F16) {
#pragma unroll
                for (int i = 0; i < MI; i++) {
#pragma unroll
                    for (int j = 0; j < NJ; j++) {
                        mma_f16(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
                    }
                }
            } else if constexpr (PRECISION == REEF_P_TF32) {
#pragma unroll
                for (int i = 0; i < MI; i++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        fa[i][e] = round_tf32(fa[i][e]);
                    }
#pragma unroll
                    for (int j = 0; j < NJ; j++) {
                        mma_tf32(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
                    }
                }
            } else {
#pragma unroll
                for (int i = 0; i < MI; i++) {
                    uint32_t hi[4], lo[4];
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        split_tf32(fa[i][e], hi[e], lo[e]);
                    }
#pragma unroll
                    for (int j = 0; j < NJ; j++) {
                        uint32_t bh[2], bl[2];
                        split_tf32(fb[j / 2][j % 2 * 2], bh[0], bl[0]);
                        split_tf32(fb[j / 2][j % 2 * 2 + 1], bh[1], bl[1]);
                        mma_tf32(acc[i][j], lo, bh[0], bh[1]);
                        mma_tf32(acc[i][j], hi, bl[0], bl[1]);
                        mma_tf32(acc[i][j], hi, bh[0], bh[1]);
                    }
                }
            }
        }
    }

    /* A warpgroup's 64 rows. Leaves the products under way for f16, complete for tf32 (a comes through registers). */
    static __device__ __forceinline__ void multiply_group(float (&acc)[MI][NJ][4], uint32_t stage, int group_row,
                                                          int lane)
    {
        uint64_t db = wgmma_descriptor(stage + a_bytes);
        if constexpr (half) {
            uint64_t da = wgmma_descriptor(stage + group_row * 128);
            wgmma_fence();
#pragma unroll
            for (int s = 0; s < 4; s++) {
                wgmma_f16<NJ>(acc[0], da + s * 2, db + s * 2);
            }
            wgmma_commit();
        } else {
            uint32_t fa[4][4];
            uint32_t pa = stage + (group_row + (threadIdx.x >> 5 & 3) * 16 + (lane & 15)) * 128;
#pragma unroll
            for (int s = 0; s < 4; s++) {
                load_matrices(pa + (((s * 2 + (lane >> 4)) ^ (lane & 7)) << 4), fa[s]);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    fa[s][e] = round_tf32(fa[s][e]);
                }
            }
            wgmma_fence();
#pragma unroll
            for (int s = 0; s < 4; s++) {
                wgmma_tf32<NJ>(acc[0], fa[s], db + s * 2);
            }
            wgmma_commit();
        }
    }

    /* Eight columns of a row: alpha, bias, residual, activation, store. */
    static __device__ __forceinline__ void finish(const args &a, float (&v)[8], int row, int col, int bias0, int y0,
                                                  int r0)
    {
        int n = a.cols - col;
        const float *bias = (const float *)a.bias;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            v[e] *= a.alpha;
        }
        if (bias) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                if (e < n) {
                    v[e] += __ldg(bias + bias0 + col + e);
                }
            }
        }
        if (a.residual) {
            long long at = (long long)r0 + row_offset(a, a.rs, row) + col;
            if (a.rs.vec && n >= 8) {
                if (a.rs.type == REEF_ELEM_F16) {
                    uint4 word = *(const uint4 *)((const __half *)a.residual + at);
                    const __half2 *h = (const __half2 *)&word;
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        float2 f = __half22float2(h[e]);
                        v[2 * e] += f.x;
                        v[2 * e + 1] += f.y;
                    }
                } else {
                    const float4 *p = (const float4 *)((const float *)a.residual + at);
                    float4 lo = p[0], hi = p[1];
                    v[0] += lo.x, v[1] += lo.y, v[2] += lo.z, v[3] += lo.w;
                    v[4] += hi.x, v[5] += hi.y, v[6] += hi.z, v[7] += hi.w;
                }
            } else {
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    if (e < n) {
                        v[e] += reef_load_elem((const void *)a.residual, at + e, a.rs.type);
                    }
                }
            }
        }
        if (a.act == REEF_DACT_RELU) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[e] = v[e] < 0.0f ? 0.0f : v[e];
            }
        } else if (a.act != REEF_DACT_NONE) {
#pragma unroll 1
            for (int e = 0; e < 8; e++) {
                /* rotate, so that the code is there once and no register is indexed at run time */
                float f = reef_act_rare(v[0], a.act, a.act_a, a.act_b);
#pragma unroll
                for (int j = 0; j < 7; j++) {
                    v[j] = v[j + 1];
                }
                v[7] = f;
            }
        }
        long long at = (long long)y0 + row_offset(a, a.ys, row) + col;
        if (a.ys.vec && n >= 8) {
            if (a.ys.type == REEF_ELEM_F16) {
                *(uint4 *)((__half *)a.y + at) = make_uint4(pack_pair(v[0], v[1]), pack_pair(v[2], v[3]),
                                                            pack_pair(v[4], v[5]), pack_pair(v[6], v[7]));
            } else {
                float4 *p = (float4 *)((float *)a.y + at);
                p[0] = make_float4(v[0], v[1], v[2], v[3]);
                p[1] = make_float4(v[4], v[5], v[6], v[7]);
            }
        } else {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                if (e < n) {
                    reef_store_elem((void *)a.y, at + e, a.ys.type, v[e]);
                }
            }
        }
    }

    template <class Abandon>
    static __device__ __forceinline__ bool tile(const args &a, uint32_t index, char *smem, Abandon &abandon)
    {
        const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
        const int warp_row = warp / (BN / WN) * WM, warp_col = warp % (BN / WN) * WN;
        int split = 0, t = index;
        if (a.splits > 1) {
            t = index / (unsigned)a.splits;
            split = index - t * a.splits;
        }
        const int tile_index = t;
        int rest = (unsigned)t / (unsigned)a.col_tiles;
        const int col0 = (t - rest * a.col_tiles) * BN;
        int group = 0, g0 = 0, g1 = 0;
        if (a.groups > 1) {
            group = (unsigned)rest / (unsigned)a.row_tiles;
            rest -= group * a.row_tiles;
            g0 = group / a.group_div;
            g1 = group - g0 * a.group_div;
        }
        const int row0 = rest * BM;
        const int first = a.steps * split / a.splits, n = a.steps * (split + 1) / a.splits - first;
        const uint32_t base = smem_address(smem);
        const char *w = (const char *)a.w + ((long long)group * a.w_group + (long long)(col0 >> 3) * a.steps) * 1024;
        const bool constant = !any || !a.b;

        if (constant) {
#pragma unroll
            for (int s = 0; s < ahead; s++) {
                if (s < n) {
                    load_b(a, w, first + s, col0, base + s * stage_bytes + a_bytes);
                }
            }
        }
        walk where;
        walk_start(a, where, row0, first, group_offset(a.xs, g0, g1));
        float acc[MI][NJ][4];
#pragma unroll
        for (int i = 0; i < MI; i++) {
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0;
            }
        }
        abandon.wait();
#pragma unroll 1
        for (int s = 0; s < ahead; s++) {
            if (s < n) {
                load_a(a, where, base + s * stage_bytes);
                if (!constant) {
                    load_b_view(a, group, first + s, col0, base + s * stage_bytes + a_bytes);
                }
            }
            copy_commit();
        }

        uint32_t read = base, write = base + ahead * stage_bytes;
#pragma unroll 1
        for (int i = 0; i < n; i++) {
            copy_wait<ahead - 1>();
            if (wg) {
                proxy_fence();
            }
            abandon.poll(i);
            __syncthreads();
            if (abandon.hit(i)) {
                if (wg) {
                    wgmma_wait<0>();
                }
                copy_wait<0>();
                return false;
            }
            if constexpr (wg) {
                multiply_group(acc, read, warp / 4 * 64, lane);
            }
            if (i + ahead < n) {
                load_a(a, where, write);
                if (constant) {
                    load_b(a, w, first + i + ahead, col0, write + a_bytes);
                } else {
                    load_b_view(a, group, first + i + ahead, col0, write + a_bytes);
                }
            }
            copy_commit();
            if constexpr (wg) {
                wgmma_wait<half ? 1 : 0>();
            } else {
                multiply(acc, read, warp_row, warp_col, lane);
            }
            read = read + stage_bytes == base + STAGES * stage_bytes ? base : read + stage_bytes;
            write = write + stage_bytes == base + STAGES * stage_bytes ? base : write + stage_bytes;
        }
        if (wg) {
            wgmma_wait<0>();
        }
        copy_wait<0>();

        /* ---- epilogue: from here on the tile has effects ---- */
        const bool in_cluster = !Abandon::on && a.cluster;
        if (a.splits > 1 && !in_cluster) {
            __shared__ unsigned arrived;
            float4 *mine = (float4 *)a.partials + (long long)(tile_index * a.splits + split) * (BM * BN / 4) + tid;
#pragma unroll
            for (int i = 0; i < MI * NJ; i++) {
                const float(&f)[4] = acc[i / NJ][i % NJ];
                __stcg(mine + i * threads, make_float4(f[0], f[1], f[2], f[3]));
            }
            __threadfence();
            __syncthreads();
            if (tid == 0) {
                arrived = atomicAdd((unsigned *)a.counters + tile_index, 1u);
            }
            __syncthreads();
            if (arrived != (unsigned)a.splits - 1) {
                return true;
            }
            __threadfence();
            const float4 *part = (const float4 *)a.partials + (long long)tile_index * a.splits * (BM * BN / 4) + tid;
#pragma unroll
            for (int i = 0; i < MI * NJ; i++) {
                float4 f = __ldcg(part + i * threads);
                float(&v)[4] = acc[i / NJ][i % NJ];
                v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
            }
#pragma unroll 1
            for (int s = 1; s < a.splits; s++) {
                part += BM * BN / 4;
#pragma unroll
                for (int i = 0; i < MI * NJ; i++) {
                    float4 f = __ldcg(part + i * threads);
                    float(&v)[4] = acc[i / NJ][i % NJ];
                    v[0] += f.x, v[1] += f.y, v[2] += f.z, v[3] += f.w;
                }
            }
            if (tid == 0) {
                *((unsigned *)a.counters + tile_index) = 0;
            }
        }
        __syncthreads();
        float *staging = (float *)smem;
#pragma unroll
        for (int i = 0; i < MI; i++) {
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                float *p =
                    staging + (warp_row + i * 16 + (lane >> 2)) * staging_row + warp_col + j * 8 + (lane & 3) * 2;
                *(float2 *)p = make_float2(acc[i][j][0], acc[i][j][1]);
                *(float2 *)(p + 8 * staging_row) = make_float2(acc[i][j][2], acc[i][j][3]);
            }
        }
        const int bias0 = group * a.bias_group;
        const int y0 = group_offset(a.ys, g0, g1), r0 = group_offset(a.rs, g0, g1);
        if (in_cluster) {
            cluster_barrier();
#pragma unroll 1
            for (int i = split * threads + tid; i < BM * BN / 8; i += a.splits * threads) {
                int r = i / (BN / 8), c = i % (BN / 8) * 8;
                if (row0 + r < a.rows && col0 + c < a.cols) {
                    uint32_t at = base + (r * staging_row + c) * 4;
                    float4 lo = load_remote(at, 0), hi = load_remote(at + 16, 0);
                    float v[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll 4
                    for (int s = 1; s < a.splits; s++) {
                        lo = load_remote(at, s), hi = load_remote(at + 16, s);
                        v[0] += lo.x, v[1] += lo.y, v[2] += lo.z, v[3] += lo.w;
                        v[4] += hi.x, v[5] += hi.y, v[6] += hi.z, v[7] += hi.w;
                    }
                    finish(a, v, row0 + r, col0 + c, bias0, y0, r0);
                }
            }
            cluster_barrier();
            return true;
        }
        __syncthreads();
#pragma unroll 1
        for (int i = tid; i < BM * BN / 8; i += threads) {
            int r = i / (BN / 8), c = i % (BN / 8) * 8;
            if (row0 + r < a.rows && col0 + c < a.cols) {
                const float4 *p = (const float4 *)(staging + r * staging_row + c);
                float4 lo = p[0], hi = p[1];
                float v[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
                finish(a, v, row0 + r, col0 + c, bias0, y0, r0);
            }
        }
        return true;
    }
};

#endif
