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
 * pixel at a time. A cluster's blocks, which have parts of k, send each other the sums of a warp's lines and 32 filters
 * (a unit), and each finishes some units.
 */
#define REEF_PAD_STATICS 736
#include "device/cuda/kernels/halves.cuh"
#include "device/cuda/kernels/igemm.cuh"

template <int BM, int BN, int STAGES>
struct conv3 : igemm<REEF_P_F16, BM, BN, 16, BN, STAGES, IGEMM_WGMMA | IGEMM_HALO> {
    using base = igemm<REEF_P_F16, BM, BN, 16, BN, STAGES, IGEMM_WGMMA | IGEMM_HALO>;
    using base::divide, base::consumers, base::threads, base::NJ, base::granules, base::patch_w, base::patch_h,
        base::halo_taps, base::halo_loaders;
    using typename base::args;
    using typename base::patch;

    static constexpr int warps = consumers / 32, units = warps * (NJ / 4), unit_bytes = 2048;

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
    static __device__ __forceinline__ int offset_of(const args &a, int image, int y, int x)
    {
        return image * a.ys.image + y * a.ys.h + x * a.ys.w;
    }
    /* Where a lane's results go. */
    struct target {
        int at, line;       /* offsets in y: of its pixel in the upper line (or of the window); from line to line */
        bool inside, below; /* whether they are there */
    };
    static __device__ __forceinline__ target target_of(const args &a, const patch &p)
    {
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, of = warp / 4;
        const int y = p.y + of / (patch_w / 8) * 8 + warp % 4 * 2, x = p.x + of % (patch_w / 8) * 8 + (lane >> 2);
        const bool pool = a.pool_w > 0;
        target t;
        t.at = pool ? offset_of(a, p.image, y / 2, x / 2) : offset_of(a, p.image, y, x);
        t.line = a.ys.h;
        t.inside = pool ? y / 2 < a.pool_h && x / 2 < a.pool_w && x % 2 == 0 : y < p.out_h && x < a.out_w;
        t.below = t.inside && y + 1 < p.out_h;
        return t;
    }
    static __device__ __forceinline__ bool is_rare(const args &a)
    {
        return a.act != REEF_DACT_RELU && a.act != REEF_DACT_NONE;
    }
    /* 32 filters from `col` of a warp's two lines: f[j] as the products leave it. bias: the lane's first two, of those. done:
     * f holds results already. */
    static __device__ __forceinline__ void finish_unit(const args &a, const target &to, const float (&f)[4][4], int col,
                                                       const float *bias, bool done)
    {
        const float least = a.act == REEF_DACT_RELU ? 0.0f : -INFINITY;
        const bool pool = a.pool_w > 0;
        uint32_t upper[4], lower[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 b = *(const float2 *)(bias + i * 8);
            float v[4] = {f[i][0] + (done ? 0.0f : b.x), f[i][1] + (done ? 0.0f : b.y), f[i][2] + (done ? 0.0f : b.x),
                          f[i][3] + (done ? 0.0f : b.y)};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                v[e] = v[e] < least ? least : v[e]; /* what is no number stays */
            }
            upper[i] = halves_of(v[0], v[1]);
            lower[i] = halves_of(v[2], v[3]);
            if (pool) {
                upper[i] = larger(upper[i], lower[i]);
                upper[i] = larger(upper[i], __shfl_xor_sync(0xffffffffu, upper[i], 4));
            }
        }
        halves_emit(a, upper, to.inside, to.at, col);
        if (!pool) {
            halves_emit(a, lower, to.below, to.at + to.line, col);
        }
    }
    /* Activations other than Relu, of N times four sums. */
    template <int N>
    static __device__ __forceinline__ void activate_rarely(const args &a, float (&f)[N][4], const float *bias)
    {
#pragma unroll 1
        for (int j = 0; j < N; j++) { /* rotate, so that the code is there once */
            float next[4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                next[e] = reef_act_rare(f[0][e] + bias[j * 8 + e % 2], a.act, a.act_a, a.act_b);
            }
#pragma unroll
            for (int i = 0; i < N; i++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    f[i][e] = i + 1 < N ? f[(i + 1) % N][e] : next[e];
                }
            }
        }
    }
    /* A warp's part of the tile, from registers. */
    static __device__ __forceinline__ void finish_registers(const args &a, const patch &p, float (&acc)[1][NJ][4],
                                                            int col0, const float *bias)
    {
        const target to = target_of(a, p);
        const bool rare = is_rare(a);
        bias += (threadIdx.x & 3) * 2;
        if (rare) {
            activate_rarely<NJ>(a, acc[0], bias);
        }
#pragma unroll
        for (int t = 0; t < NJ / 4; t++) {
            float f[4][4];
#pragma unroll
            for (int i = 0; i < 16; i++) {
                f[i / 4][i % 4] = acc[0][t * 4 + i / 4][i % 4];
            }
            finish_unit(a, to, f, col0 + t * 32, bias + t * 32, rare);
        }
    }

    /* Unit t * warps + w is 32 filters of warp w, and block `owner` of the cluster finishes it: as its unit number `place`. */
    static __device__ __forceinline__ int first_unit(const args &a, int owner)
    {
        return divide(owner * units + a.splits - 1, a.by_splits);
    }
    /* What each of the cluster's other blocks sends that one. */
    static __device__ __forceinline__ uint32_t share_bytes(const args &a, int owner)
    {
        return (first_unit(a, owner + 1) - first_unit(a, owner)) * unit_bytes;
    }
    /* By the warps that have sums: to those who finish them. slots: [part of k][unit][j][line][lane] of two floats. */
    static __device__ __forceinline__ void send_units(const args &a, const float (&acc)[1][NJ][4], uint32_t slots,
                                                      uint32_t landed, int split)
    {
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, most = divide(units + a.splits - 1, a.by_splits);
#pragma unroll
        for (int t = 0; t < NJ / 4; t++) {
            const int unit = t * warps + warp, owner = unit * a.splits / units;
            const uint32_t to = slots + (split * most + unit - first_unit(a, owner)) * unit_bytes + lane * 8;
            const uint32_t there = send_address(to, owner), counted = send_address(landed, owner);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float x = acc[0][t * 4 + i / 2][i % 2 * 2], y = acc[0][t * 4 + i / 2][i % 2 * 2 + 1];
                if (owner == split) {
                    store_shared8(to + i * 256, x, y);
                } else {
                    send(there + i * 256, counted, x, y);
                }
            }
        }
    }
    static __device__ __forceinline__ void finish_units(const args &a, const patch &p, const char *slots, int split,
                                                        int col0, const float *bias)
    {
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, most = divide(units + a.splits - 1, a.by_splits);
        const int first = first_unit(a, split), end = first_unit(a, split + 1);
        const target to = target_of(a, p);
        bias += (lane & 3) * 2;
#pragma unroll 1
        for (int t = 0; t < NJ / 4; t++) {
            const int unit = t * warps + warp;
            if (unit < first || unit >= end) {
                continue;
            }
            const float2 *from = (const float2 *)(slots + (unit - first) * unit_bytes) + lane;
            float f[4][4];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float2 v = from[i * 32];
                f[i / 2][i % 2 * 2] = v.x;
                f[i / 2][i % 2 * 2 + 1] = v.y;
            }
#pragma unroll 1
            for (int s = 1; s < a.splits; s++) {
                from += most * (unit_bytes / 8);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const float2 v = from[i * 32];
                    f[i / 2][i % 2 * 2] += v.x;
                    f[i / 2][i % 2 * 2 + 1] += v.y;
                }
            }
            const bool rare = is_rare(a);
            if (rare) {
                activate_rarely<4>(a, f, bias + t * 32);
            }
            finish_unit(a, to, f, col0 + t * 32, bias + t * 32, rare);
        }
    }

    /* ---- the products: one warp brings weights, one x (the first block: everybody), the others multiply ----
     *
     * A worker is asked to stop by the warp that brings weights. It looks before each block of channels. If it is to stop,
     * nothing more comes: it says so in `stop`, and completes the barrier of that block's first stage without any weights.
     * Those who multiply look there when they have waited for it, and free both buffers of x on their way out, so that
     * whoever brings x does not wait for them. Nothing is under way then. */
    struct places { /* in shared memory: barriers (`full` and `empty` STAGES words, x_... two) and buffers */
        uint32_t full, empty, x_full, x_empty, landed, w, x;
        volatile unsigned *stop;
    };
    template <class Abandon>
    static __device__ __forceinline__ void bring_weights(const places &at, const char *w,
                                                         const int (&granule)[granules], int n, const Abandon &abandon)
    {
        constexpr int b_bytes = BN * 128;
        uint64_t word = abandon.look();
        for (int j = 0, stage = 0, phase = 1; j < n; j++) {
            barrier_wait(at.empty + stage * 8, phase);
            if (Abandon::on && j > 0 && j % halo_taps == 0) {
                if (abandon.stopped(word)) {
                    *at.stop = 1;
                    barrier_arrive(at.full + stage * 8);
                    return;
                }
                word = abandon.look();
            }
            barrier_expect(at.full + stage * 8, b_bytes);
#pragma unroll
            for (int i = 0; i < granules; i++) {
                bulk_copy(at.w + stage * b_bytes + i * 4096, w + granule[i] + j * 4096, 4096, at.full + stage * 8);
            }
            if (++stage == STAGES) {
                stage = 0;
                phase ^= 1;
            }
        }
    }
    template <bool worker>
    static __device__ __forceinline__ void bring_x(const args &a, const patch &p, const places &at, int first,
                                                   int blocks)
    {
        for (int block = 1; block < blocks; block++) {
            if (block >= 2) {
                barrier_wait(at.x_empty + (block & 1) * 8, (block - 2) >> 1 & 1);
                if (worker && *at.stop) {
                    return;
                }
            }
            base::template load_halo<halo_loaders>(a, p, first + block, at.x + (block & 1) * base::halo_bytes,
                                                   (int)(threadIdx.x & 31));
            barrier_arrive(at.x_full + (block & 1) * 8);
        }
    }
    template <bool worker>
    static __device__ __forceinline__ void multiply_all(const places &at, float (&acc)[1][NJ][4], int blocks)
    {
        constexpr int b_bytes = BN * 128, halo_w = base::halo_w;
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, of = warp / 4;
        const uint32_t mine = (of / (patch_w / 8) * 8 * halo_w + of % (patch_w / 8) * 8) * 128;
        int stage = 0, phase = 0, held = -1;
#pragma unroll 1
        for (int block = 0; block < blocks; block++) {
            uint32_t x = at.x + (block & 1) * base::halo_bytes + mine;
            if (worker && block > 0) { /* its x may never come */
                barrier_wait(at.full + stage * 8, phase);
                if (*at.stop) {
                    wgmma_wait<0>();
                    if (lane == 0) {
                        barrier_arrive(at.x_empty);
                        barrier_arrive(at.x_empty + 8);
                    }
                    return;
                }
            }
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
                if (held >= 0 && lane == 0) {
                    barrier_arrive(at.empty + held * 8);
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

    /* Which part of the problem a tile is: (patch, columns, part of k). */
    struct place {
        patch part;
        int tile, split, col0, row, first, n; /* first, n: steps */
    };
    static __device__ __forceinline__ place place_of(const args &a, uint32_t index)
    {
        place at;
        at.tile = divide((int)index, a.by_splits);
        at.split = (int)index - at.tile * a.splits;
        at.row = divide(at.tile, a.by_col_tiles);
        at.col0 = (at.tile - at.row * a.col_tiles) * BN;
        const int across = (a.out_w + patch_w - 1) / patch_w;
        at.part.out_h = divide(a.out_hw, a.by_out_w);
        const int down = (at.part.out_h + patch_h - 1) / patch_h;
        at.part.image = at.row / (across * down);
        const int of_image = at.row - at.part.image * across * down, y = of_image / across;
        at.part.y = y * patch_h;
        at.part.x = (of_image - y * across) * patch_w;
        const int blocks = a.steps / halo_taps; /* whole blocks of channels */
        at.first = divide(blocks * at.split, a.by_splits) * halo_taps;
        at.n = divide(blocks * (at.split + 1), a.by_splits) * halo_taps - at.first;
        return at;
    }

    /* By warps of whatever role: true: this one has sums. */
    template <class Abandon>
    static __device__ __forceinline__ bool sums(const args &a, const place &at, const places &where, const char *w,
                                                const int (&granule)[granules], float (&acc)[1][NJ][4],
                                                Abandon &abandon)
    {
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, blocks = at.n / halo_taps;
        const int first = at.first / halo_taps;
        if (warp == warps) {
            if (lane == 0) {
                bring_weights(where, w, granule, at.n, abandon);
            }
            __syncwarp();
            abandon.wait();
            return false;
        }
        abandon.wait();
        base::template load_halo<consumers + halo_loaders>(a, at.part, first, where.x,
                                                           (int)threadIdx.x - (warp > warps ? 32 : 0));
        named_barrier<consumers + halo_loaders>();
        if (warp > warps) {
            bring_x<Abandon::on>(a, at.part, where, first, blocks);
            return false;
        }
        clear(acc);
        multiply_all<Abandon::on>(where, acc, blocks);
        return true;
    }

    static __device__ __forceinline__ void plain(const args &a, const place &at, const places &where, const char *w,
                                                 const int (&granule)[granules], const char *smem, const float *bias)
    {
        const bool in_cluster = a.splits > 1;
        const reef_never never;
        __syncthreads();
        if (in_cluster) {
            cluster_arrive();
        }
        float acc[1][NJ][4];
        const bool has = sums(a, at, where, w, granule, acc, never);
        if (in_cluster) {
            cluster_wait(); /* everybody's barriers are there */
        }
        if (has && in_cluster) {
            send_units(a, acc, smem_address(smem) + a.slots, where.landed, at.split);
            barrier_wait(where.landed, 0);
            __syncwarp();
            finish_units(a, at.part, smem + a.slots, at.split, at.col0, bias);
        } else if (has) {
            finish_registers(a, at.part, acc, at.col0, bias);
        }
    }

    /* The same, but nobody stores before all have said that they go on. */
    template <class Abandon>
    static __device__ __forceinline__ bool worker(const args &a, const place &at, const places &where, const char *w,
                                                  const int (&granule)[granules], const char *smem, const float *bias,
                                                  cluster_word &told, Abandon &abandon)
    {
        const bool in_cluster = a.splits > 1;
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
        __syncthreads();
        if (in_cluster) {
            cluster_arrive();
            if (abandon.gone()) {
                cluster_wait();
                if (warp == 0) {
                    told.tell(true, at.split, a.splits, where.landed);
                    if (lane < a.splits && lane != at.split && share_bytes(a, lane)) {
                        send_nothing(send_address(where.landed, lane), share_bytes(a, lane));
                    }
                }
                barrier_wait(where.landed, 0);
                return false;
            }
        }
        float acc[1][NJ][4];
        const bool has = sums(a, at, where, w, granule, acc, abandon);
        if (!in_cluster) {
            if (!abandon.commit() || *where.stop) {
                return false;
            }
            if (has) {
                finish_registers(a, at.part, acc, at.col0, bias);
            }
            return true;
        }
        cluster_wait();
        if (warp == 0) {
            const bool stops = __shfl_sync(0xffffffffu, abandon.stops(), 0) || *where.stop;
            told.tell(stops, at.split, a.splits, where.landed);
        }
        if (has) {
            send_units(a, acc, smem_address(smem) + a.slots, where.landed, at.split);
        }
        barrier_wait(where.landed, 0);
        __syncwarp();
        if (!told.all_go_on(a.splits)) {
            return false;
        }
        if (has) {
            finish_units(a, at.part, smem + a.slots, at.split, at.col0, bias);
        }
        return true;
    }

    struct exchange {
        __align__(16) float bias[BN];
        unsigned long long barriers[2 * STAGES + 5];
        cluster_word told;
        unsigned stop;
    };
    template <class Abandon>
    static __device__ __forceinline__ bool tile(const args &a, uint32_t index, char *smem, Abandon &abandon)
    {
        REEF_SHARED(own, exchange);
        unsigned long long(&barriers)[2 * STAGES + 5] = own.barriers;
        float(&bias)[BN] = own.bias;
        unsigned &stop = own.stop;
        cluster_word &told = own.told;
        const int tid = threadIdx.x;
        const place at = place_of(a, index);
        const uint32_t shared = smem_address(smem), full = smem_address(barriers);
        const places where = {full,
                              full + STAGES * 8,
                              full + STAGES * 16,
                              full + STAGES * 16 + 16,
                              full + STAGES * 16 + 32,
                              shared,
                              shared + STAGES * BN * 128,
                              &stop};
        const char *w = (const char *)a.w + ((long long)(at.col0 >> 5) * a.steps + at.first) * 4096;
        int granule[granules];
#pragma unroll
        for (int g = 0; g < granules; g++) {
            granule[g] = min(g, a.w_group - 1 - (at.col0 >> 5)) * a.steps * 4096;
        }
        if (at.n > STAGES && at.row == 0 && tid < granules && !abandon.gone()) { /* what comes later is called into L2 */
            prefetch_l2(w + min(tid, a.w_group - 1 - (at.col0 >> 5)) * a.steps * 4096 + STAGES * 4096,
                        (uint32_t)(at.n - STAGES) * 4096);
        }
        if (tid < BN) {
            bias[tid] = a.bias && at.col0 + tid < a.cols ? __ldg((const float *)a.bias + at.col0 + tid) : 0.0f;
        }
        if (tid < 2 * STAGES + 5) {
            barrier_init(full + tid * 8, tid < STAGES || tid == 2 * STAGES + 4 ? 1
                                         : tid < 2 * STAGES                    ? consumers / 32
                                         : tid < 2 * STAGES + 2                ? halo_loaders
                                                                               : consumers / 32);
            if (tid == 2 * STAGES + 4 && a.splits > 1) { /* what the others will send */
                barrier_expect(where.landed,
                               (a.splits - 1) * share_bytes(a, at.split) + (Abandon::on ? a.splits * 8 : 0));
            }
        }
        barriers_ready();
        if constexpr (Abandon::on) {
            if (tid == 0) {
                stop = 0;
            }
            return worker(a, at, where, w, granule, smem, bias, told, abandon);
        } else {
            plain(a, at, where, w, granule, smem, bias);
            return true;
        }
    }
};

#ifdef REEF_WGMMA_BUILD /* the module for sm_90a alone */
REEF_KERNEL_FIT(reef_igemm_f16_patch64x64, 4, conv3<64, 64, 4>)
REEF_KERNEL_FIT(reef_igemm_f16_patch128x64, 3, conv3<128, 64, 4>)
REEF_KERNEL_FIT(reef_igemm_f16_patch128x128, 1, conv3<128, 128, 6>)
#endif
