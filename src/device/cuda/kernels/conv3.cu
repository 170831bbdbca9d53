/*
 * conv3.cu - 3x3 convolutions of halves over neighbouring pixels on wgmma, with the 2x2 maximum that often follows.
 *
 * The products are those of igemm.cuh's halo form: a tile is a patch of pixels, each warpgroup 8 x 8 of them, and the
 * patch's input with its border is loaded once per 64 channels. What is different is the end. A warp has two lines of
 * eight pixels, a lane one pixel of each and two neighbouring filters:
 *
 *      lane 4x + q:  sums[j][0..1] = (line 0, pixel x), filters 8j + 2q, + 1        sums[j][2..3] = (line 1, pixel x)
 *
 * So the maximum over 2x2 pixels is one of a lane's own two and of its neighbour x ^ 1, and after four lanes have
 * transposed four words each, a lane has eight filters of a pixel: results go from registers to memory, 64 bytes of a
 * pixel at a time. Only parts of k that a cluster adds up go by way of shared memory.
 */
#include "device/cuda/kernels/igemm.cuh"

template <int BM, int BN, int STAGES>
struct conv3 : igemm<REEF_P_F16, BM, BN, 16, BN, STAGES, IGEMM_WGMMA | IGEMM_HALO> {
    using base = igemm<REEF_P_F16, BM, BN, 16, BN, STAGES, IGEMM_WGMMA | IGEMM_HALO>;
    using typename base::args;
    using typename base::patch;
    using base::consumers, base::threads, base::NJ, base::granules, base::staging_row, base::patch_w, base::patch_h,
        base::halo_taps, base::halo_loaders;

    static __device__ __forceinline__ void activate(const args &a, float (&v)[8])
    {
        if (a.act == REEF_DACT_RELU) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[e] = v[e] < 0.0f ? 0.0f : v[e];
            }
        } else if (a.act != REEF_DACT_NONE) {
#pragma unroll 1
            for (int e = 0; e < 8; e++) { /* rotate, so that the code is there once */
                const float f = reef_act_rare(v[0], a.act, a.act_a, a.act_b);
#pragma unroll
                for (int j = 0; j < 7; j++) {
                    v[j] = v[j + 1];
                }
                v[7] = f;
            }
        }
    }
    /* The larger, or the one that is no number. */
    static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b)
    {
#if __CUDA_ARCH__ >= 800
        const __half2 m = __hmax2_nan(*(const __half2 *)&a, *(const __half2 *)&b);
        return *(const uint32_t *)&m;
#else
        return a;
#endif
    }
    /* Word i of lane j of each four becomes word j of lane i. */
    static __device__ __forceinline__ void transpose(uint32_t (&w)[4], int lane)
    {
        const bool odd = lane & 1, high = lane & 2;
        uint32_t s = odd ? w[0] : w[1], r = __shfl_xor_sync(0xffffffffu, s, 1);
        odd ? w[0] = r : w[1] = r;
        s = odd ? w[2] : w[3], r = __shfl_xor_sync(0xffffffffu, s, 1);
        odd ? w[2] = r : w[3] = r;
        s = high ? w[0] : w[2], r = __shfl_xor_sync(0xffffffffu, s, 2);
        high ? w[0] = r : w[2] = r;
        s = high ? w[1] : w[3], r = __shfl_xor_sync(0xffffffffu, s, 2);
        high ? w[1] = r : w[3] = r;
    }
    static __device__ __forceinline__ int offset_of(const args &a, int image, int y, int x)
    {
        return image * a.ys.image + y * a.ys.h + x * a.ys.w;
    }
    /* Eight filters from `col` of a pixel, already halves. */
    static __device__ __forceinline__ void store8(const args &a, int at, int col, const uint32_t (&w)[4])
    {
        if (a.ys.vec && a.ys.type == REEF_ELEM_F16 && col + 8 <= a.cols) {
            *(uint4 *)((__half *)a.y + at + col) = make_uint4(w[0], w[1], w[2], w[3]);
            return;
        }
#pragma unroll
        for (int e = 0; e < 8; e++) {
            const unsigned short bits = (unsigned short)(w[e / 2] >> e % 2 * 16);
            if (col + e < a.cols) {
                reef_store_elem((void *)a.y, at + col + e, a.ys.type, __half2float(*(const __half *)&bits));
            }
        }
    }

    /* Four words of eight filters each: transposed, and stored where the pixel is inside. */
    static __device__ __forceinline__ void emit(const args &a, uint32_t (&w)[4], bool inside, int at, int col)
    {
        const int lane = threadIdx.x & 31;
        transpose(w, lane);
        if (inside) {
            store8(a, at, col + (lane & 3) * 8, w);
        }
    }

    /* The whole tile, from registers. */
    static __device__ __forceinline__ void finish_registers(const args &a, const patch &p, float (&acc)[1][NJ][4],
                                                            int col0, const float *bias)
    {
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, group = warp / 4;
        const int y = p.y + group / (patch_w / 8) * 8 + warp % 4 * 2;
        const int x = p.x + group % (patch_w / 8) * 8 + (lane >> 2);
        bias += (lane & 3) * 2;
        const bool rare = a.act != REEF_DACT_RELU && a.act != REEF_DACT_NONE;
        if (rare) {
#pragma unroll 1
            for (int j = 0; j < NJ; j++) { /* rotate, so that the code is there once */
                float f[4];
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    f[e] = reef_act_rare(acc[0][0][e] + bias[j * 8 + e % 2], a.act, a.act_a, a.act_b);
                }
#pragma unroll
                for (int i = 0; i < NJ; i++) {
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        acc[0][i][e] = i + 1 < NJ ? acc[0][(i + 1) % NJ][e] : f[e];
                    }
                }
            }
        }
        const float least = a.act == REEF_DACT_RELU ? 0.0f : -INFINITY;
        const bool pool = a.pool_w > 0;
        const int at = pool ? offset_of(a, p.image, y / 2, x / 2) : offset_of(a, p.image, y, x);
        const bool inside = pool ? y / 2 < a.pool_h && x / 2 < a.pool_w && x % 2 == 0 : y < p.out_h && x < a.out_w;
        const bool below = inside && y + 1 < p.out_h;
#pragma unroll
        for (int t = 0; t < NJ / 4; t++) {
            uint32_t upper[4], lower[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float2 b = *(const float2 *)(bias + (t * 4 + i) * 8);
                const float(&f)[4] = acc[0][t * 4 + i];
                float v[4] = {f[0] + (rare ? 0.0f : b.x), f[1] + (rare ? 0.0f : b.y), f[2] + (rare ? 0.0f : b.x),
                              f[3] + (rare ? 0.0f : b.y)};
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    v[e] = v[e] < least ? least : v[e]; /* what is no number stays */
                }
                upper[i] = base::pack_pair(v[0], v[1]);
                lower[i] = base::pack_pair(v[2], v[3]);
                if (pool) {
                    upper[i] = larger(upper[i], lower[i]);
                    upper[i] = larger(upper[i], __shfl_xor_sync(0xffffffffu, upper[i], 4));
                }
            }
            emit(a, upper, inside, at, col0 + t * 32);
            if (!pool) {
                emit(a, lower, below, at + a.ys.h, col0 + t * 32);
            }
        }
    }

    /* This block's share of a tile whose parts lie in the shared memory of the cluster's blocks. */
    static __device__ __forceinline__ void finish_cluster(const args &a, const patch &p, uint32_t staging, int block0,
                                                          int rank, int col0, const float *bias)
    {
        const bool pool = a.pool_w > 0;
        const int pixels = pool ? BM / 4 : BM, items = pixels * (BN / 8), stride = a.splits * threads;
#pragma unroll 1
        for (int i = rank * threads + (int)threadIdx.x, left = (items + stride - 1) / stride;; i += stride) {
            const bool last = --left <= 0; /* the same for all threads */
            const int c = i % (BN / 8) * 8, pixel = i / (BN / 8);
            /* rows of the tile go by 8 x 8 pixels; so do windows, by 4 x 4 */
            const int side = pool ? 4 : 8, in_group = pixel % (side * side), group = pixel / (side * side);
            const int gy = group / (patch_w / 8) * side + in_group / side, gx = group % (patch_w / 8) * side + in_group % side;
            const int y = (pool ? p.y / 2 : p.y) + gy, x = (pool ? p.x / 2 : p.x) + gx;
            const bool inside = i < items && col0 + c < a.cols &&
                                (pool ? y < a.pool_h && x < a.pool_w : y < p.out_h && x < a.out_w);
            uint32_t w[4] = {0, 0, 0, 0};
            if (inside) {
#pragma unroll 1
                for (int tap = 0; tap < (pool ? 4 : 1); tap++) {
                    const int r = pool ? group * 64 + (in_group / 4 * 2 + tap / 2) * 8 + in_group % 4 * 2 + tap % 2 : pixel;
                    const uint32_t from = staging + (r * staging_row + c) * 4;
                    float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll 4
                    for (int s = 0; s < a.splits; s++) {
                        base::add_floats(v, load_remote(from, block0 + s), load_remote(from + 16, block0 + s));
                    }
#pragma unroll
                    for (int e = 0; e < 8; e++) {
                        v[e] += bias[c + e];
                    }
                    activate(a, v);
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const uint32_t next = base::pack_pair(v[2 * e], v[2 * e + 1]);
                        w[e] = tap ? larger(w[e], next) : next;
                    }
                }
            }
            if (last) { /* nothing of the other blocks is needed any more */
                cluster_arrive();
            }
            if (inside) {
                store8(a, offset_of(a, p.image, y, x), col0 + c, w);
            }
            if (last) {
                break;
            }
        }
        cluster_wait();
    }

    /* ---- the plain form's loop ---- */
    struct places { /* in shared memory: barriers, each `n` STAGES or 2 words apart, and buffers */
        uint32_t full, empty, x_full, x_empty, w, x;
    };
    struct group { /* blocks of the cluster that share weights: every splits-th, `me` is the place among them */
        int n, me, splits, first;
    };
    /* Each block brings its share of a step's weights to all blocks of the group. */
    static __device__ __forceinline__ void bring_weights(const places &at, const group &g, const char *w,
                                                         const int (&granule)[granules], int n)
    {
        constexpr int b_bytes = BN * 128;
        const int share = b_bytes / g.n, piece = min(share, 4096);
        uint32_t mask = 0;
        for (int i = 0; i < g.n; i++) {
            mask |= 1u << (i * g.splits + g.first);
        }
        for (int j = 0, stage = 0, phase = 1; j < n; j++) {
            barrier_wait(at.empty + stage * 8, phase);
            barrier_expect(at.full + stage * 8, b_bytes);
            if (g.n == 1) {
#pragma unroll
                for (int i = 0; i < granules; i++) {
                    bulk_copy(at.w + stage * b_bytes + i * 4096, w + granule[i] + j * 4096, 4096, at.full + stage * 8);
                }
            } else {
#pragma unroll
                for (int i = 0; i < granules; i++) {
                    const int from = max(i * 4096, g.me * share), to = min((i + 1) * 4096, (g.me + 1) * share);
                    if (from < to) {
                        bulk_copy_to_all(at.w + stage * b_bytes + from, w + granule[i] + j * 4096 + from % 4096, piece,
                                         at.full + stage * 8, mask);
                    }
                }
            }
            if (++stage == STAGES) {
                stage = 0;
                phase ^= 1;
            }
        }
    }
    static __device__ __forceinline__ void bring_x(const args &a, const patch &p, const places &at, int first, int blocks)
    {
        for (int block = 1; block < blocks; block++) {
            if (block >= 2) {
                barrier_wait(at.x_empty + (block & 1) * 8, (block - 2) >> 1 & 1);
            }
            base::template load_halo<halo_loaders>(a, p, first + block, at.x + (block & 1) * base::halo_bytes,
                                                   (int)(threadIdx.x & 31));
            barrier_arrive(at.x_full + (block & 1) * 8);
        }
    }
    static __device__ __forceinline__ void give_back(const places &at, const group &g, int stage, int lane)
    {
        if (g.n == 1) {
            if (lane == 0) {
                barrier_arrive(at.empty + stage * 8);
            }
        } else if (lane < g.n) {
            barrier_arrive_remote(at.empty + stage * 8, lane * g.splits + g.first);
        }
    }
    static __device__ __forceinline__ void multiply_all(const places &at, const group &g, float (&acc)[1][NJ][4], int blocks)
    {
        constexpr int b_bytes = BN * 128, halo_w = base::halo_w;
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, of = warp / 4;
        const uint32_t mine = (of / (patch_w / 8) * 8 * halo_w + of % (patch_w / 8) * 8) * 128;
        int stage = 0, phase = 0, held = -1;
#pragma unroll 1
        for (int block = 0; block < blocks; block++) {
            uint32_t x = at.x + (block & 1) * base::halo_bytes + mine;
            if (block > 0) {
                barrier_wait(at.x_full + (block & 1) * 8, (block - 1) >> 1 & 1);
            }
#pragma unroll 1
            for (int tap = 0; tap < halo_taps; tap++) {
                const uint64_t da = wgmma_descriptor(x, halo_w * 128), db = wgmma_descriptor(at.w + stage * b_bytes);
                barrier_wait(at.full + stage * 8, phase);
                wgmma_fence();
#pragma unroll
                for (int s = 0; s < 4; s++) {
                    wgmma_f16<NJ>(acc[0], da + s * 2, db + s * 2);
                }
                wgmma_commit();
                wgmma_wait<1>(); /* all but these */
                if (held >= 0) {
                    give_back(at, g, held, lane);
                }
                if (tap == 0 && block > 0 && lane == 0) {
                    barrier_arrive(at.x_empty + (block - 1 & 1) * 8);
                }
                held = stage;
                if (++stage == STAGES) {
                    stage = 0;
                    phase ^= 1;
                }
                x += tap % 3 == 2 ? (halo_w - 2) * 128 : 128;
            }
        }
        wgmma_wait<0>();
    }

    static __device__ __forceinline__ void clear(float (&acc)[1][NJ][4])
    {
#pragma unroll
        for (int j = 0; j < NJ; j++) {
            acc[0][j][0] = acc[0][j][1] = acc[0][j][2] = acc[0][j][3] = 0;
        }
    }

    /* Which part of the problem a tile is. index: ((patches, by groups, then columns) patch of the group) part of k. */
    struct place {
        patch part;
        int tile, split, col0, row, member, first, n; /* first, n: steps */
    };
    static __device__ __forceinline__ place place_of(const args &a, uint32_t index)
    {
        place at;
        at.tile = (int)(index / (unsigned)a.splits);
        at.split = (int)index - at.tile * a.splits;
        const int t = at.tile / a.multicast;
        at.member = at.tile - t * a.multicast;
        const int rest = t / a.col_tiles;
        at.col0 = (t - rest * a.col_tiles) * BN;
        at.row = rest * a.multicast + at.member;
        const int across = (a.out_w + patch_w - 1) / patch_w;
        at.part.out_h = a.out_hw / a.out_w;
        const int down = (at.part.out_h + patch_h - 1) / patch_h;
        at.part.image = at.row / (across * down);
        const int of_image = at.row - at.part.image * across * down, y = of_image / across;
        at.part.y = y * patch_h;
        at.part.x = (of_image - y * across) * patch_w;
        if (at.row >= a.row_tiles) { /* fills up a group: outside the image */
            at.part.image = 0;
            at.part.y = 1 << 20;
        }
        const int blocks = a.steps / halo_taps; /* whole blocks of channels */
        at.first = blocks * at.split / a.splits * halo_taps;
        at.n = blocks * (at.split + 1) / a.splits * halo_taps - at.first;
        return at;
    }

    static __device__ __forceinline__ void plain(const args &a, const place &at, const places &where, const char *w,
                                                 const int (&granule)[granules], char *smem, float *bias)
    {
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, blocks = at.n / halo_taps;
        const bool in_cluster = a.splits > 1;
        const group g = {a.multicast, at.member, a.splits, at.split};
        const reef_never never;
        if (g.n > 1) {
            cluster_barrier(); /* everybody's barriers are there */
        } else {
            __syncthreads();
        }
        if (warp == consumers / 32) {
            if (lane == 0) {
                bring_weights(where, g, w, granule, at.n);
            }
            __syncwarp();
            never.wait();
        } else {
            never.wait();
            base::template load_halo<consumers + halo_loaders>(a, at.part, at.first / halo_taps, where.x,
                                                               warp > consumers / 32 ? (int)threadIdx.x - 32
                                                                                     : (int)threadIdx.x);
            named_barrier<consumers + halo_loaders>();
            if (warp > consumers / 32) {
                bring_x(a, at.part, where, at.first / halo_taps, blocks);
            } else {
                float acc[1][NJ][4];
                clear(acc);
                multiply_all(where, g, acc, blocks);
                if (in_cluster) {
                    named_barrier<consumers>(); /* the stages become the staging */
                    const int row = warp * 16 + (lane >> 2);
                    float *staging = (float *)smem;
#pragma unroll
                    for (int j = 0; j < NJ; j++) {
                        float *p = staging + row * staging_row + j * 8 + (lane & 3) * 2;
                        *(float2 *)p = make_float2(acc[0][j][0], acc[0][j][1]);
                        *(float2 *)(p + 8 * staging_row) = make_float2(acc[0][j][2], acc[0][j][3]);
                    }
                } else {
                    finish_registers(a, at.part, acc, at.col0, bias);
                }
            }
        }
        if (in_cluster) {
            __syncwarp();
            cluster_barrier();
            finish_cluster(a, at.part, smem_address(smem), at.member * a.splits, at.split, at.col0, bias);
        } else if (g.n > 1) {
            __syncwarp();
            cluster_barrier(); /* nobody leaves while others may give stages back to it */
        }
    }

    /* A worker has no cluster: the parts of k are added up through the workspace, in the same order. */
    template <class Abandon>
    static __device__ __forceinline__ bool worker(const args &a, const place &at, uint32_t shared, const char *w,
                                                  const int (&granule)[granules], uint32_t full, float *bias,
                                                  Abandon &abandon)
    {
        const int tid = threadIdx.x;
        float acc[1][NJ][4];
        clear(acc);
        __syncthreads();
        const bool done = base::halo_loop(a, at.part, acc, shared, w, granule, at.first, at.n, full, abandon);
        __syncthreads();
        if (tid < 2 * STAGES + 4) { /* the next tile starts them anew */
            barrier_end(full + tid * 8);
        }
        if (!done || !abandon.commit()) {
            return false;
        }
        /* ---- epilogue: from here on the tile has effects ---- */
        if (a.splits > 1) {
            __shared__ unsigned arrived;
            float4 *mine = (float4 *)a.partials + (long long)(at.tile * a.splits + at.split) * (BM * BN / 4) + tid;
#pragma unroll
            for (int j = 0; j < NJ && tid < consumers; j++) {
                const float(&f)[4] = acc[0][j];
                __stcg(mine + j * consumers, make_float4(f[0], f[1], f[2], f[3]));
            }
            __threadfence();
            __syncthreads();
            if (tid == 0) {
                arrived = atomicAdd((unsigned *)a.counters + at.tile, 1u);
            }
            __syncthreads();
            if (arrived != (unsigned)a.splits - 1) {
                return true;
            }
            __threadfence();
            const float4 *sum = (const float4 *)a.partials + (long long)at.tile * a.splits * (BM * BN / 4) + tid;
            clear(acc);
#pragma unroll 1
            for (int s = 0; s < a.splits; s++, sum += BM * BN / 4) {
#pragma unroll
                for (int j = 0; j < NJ && tid < consumers; j++) {
                    const float4 f = __ldcg(sum + j * consumers);
                    float(&v)[4] = acc[0][j];
                    v[0] += f.x, v[1] += f.y, v[2] += f.z, v[3] += f.w;
                }
            }
            if (tid == 0) {
                *((unsigned *)a.counters + at.tile) = 0;
            }
        }
        if (tid < consumers) {
            finish_registers(a, at.part, acc, at.col0, bias);
        }
        return true;
    }

    template <class Abandon>
    static __device__ __forceinline__ bool tile(const args &a, uint32_t index, char *smem, Abandon &abandon)
    {
        __shared__ __align__(8) unsigned long long barriers[2 * STAGES + 4];
        __shared__ __align__(8) float bias[BN];
        const int tid = threadIdx.x;
        const place at = place_of(a, index);
        const uint32_t shared = smem_address(smem), full = smem_address(barriers);
        const places where = {full,
                              full + STAGES * 8,
                              full + STAGES * 16,
                              full + STAGES * 16 + 16,
                              shared,
                              shared + STAGES * BN * 128};
        const int group = Abandon::on ? 1 : a.multicast;
        const char *w = (const char *)a.w + ((long long)(at.col0 >> 5) * a.steps + at.first) * 4096;
        int granule[granules];
#pragma unroll
        for (int g = 0; g < granules; g++) {
            granule[g] = min(g, a.w_group - 1 - (at.col0 >> 5)) * a.steps * 4096;
        }
        if (at.n > STAGES && at.row == 0 && tid < granules) { /* what comes later is called into L2 */
            prefetch_l2(w + min(tid, a.w_group - 1 - (at.col0 >> 5)) * a.steps * 4096 + STAGES * 4096,
                        (uint32_t)(at.n - STAGES) * 4096);
        }
        if (tid < BN) {
            bias[tid] = a.bias && at.col0 + tid < a.cols ? __ldg((const float *)a.bias + at.col0 + tid) : 0.0f;
        }
        if (tid < 2 * STAGES + 4) {
            barrier_init(full + tid * 8, tid < STAGES           ? 1
                                         : tid < 2 * STAGES     ? consumers / 32 * group
                                         : tid < 2 * STAGES + 2 ? halo_loaders
                                                                : consumers / 32);
        }
        barriers_ready();
        if constexpr (Abandon::on) {
            return worker(a, at, shared, w, granule, full, bias, abandon);
        } else {
            plain(a, at, where, w, granule, smem, bias);
            return true;
        }
    }
};

#ifdef REEF_WGMMA_BUILD /* the module for sm_90a alone */
REEF_KERNEL_FIT(reef_igemm_f16_patch64x64, 4, conv3<64, 64, 4>)
REEF_KERNEL_FIT(reef_igemm_f16_patch128x64, 3, conv3<128, 64, 4>)
REEF_KERNEL_FIT(reef_igemm_f16_patch128x128, 2, conv3<128, 128, 4>)
#endif
