/*
 * igemm.cuh - the matrix product that convolutions and matrix products run as, on tensor cores.
 *
 * A tile is BM output pixels x BN filters x one of `splits` parts of k. k is walked in steps of 128 bytes (64 halves or 32
 * floats), each step a stage in shared memory:
 *
 *      x, gathered by (pixel, tap, channel)   cp.async   stage[s].a  BM rows of 128 bytes  \   ldmatrix + mma.sync,
 *      w, packed in this very order           ------->   stage[s].b  BN rows of 128 bytes  /   or wgmma
 *
 * 16-byte chunk c of row r lies at place c ^ (r % 8), which no access conflicts with and wgmma understands.
 *
 * Steps run over the taps first, then over blocks of channels: so a step is one tap for all threads, what a thread
 * does per row is one bit test and one addition, and the pixels that neighbouring taps share are still in L1.
 *
 * At batch 1 a layer has few tiles, so k is split and the parts are added up in order of k, whoever computes them: by a
 * thread block cluster, whose blocks send each other their sums and finish a share of the tile each, or through the
 * workspace, by the part that arrives last. Both add in the same order, so both give the same bits.
 *
 * Weights are constants: their first stages are under way before the kernel waits for its predecessor. So is all that can
 * be known of x without reading it: addresses and bounds of the first stages are in registers by then, because a lone
 * warp's arithmetic behind the wait would cost as much as the data.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_IGEMM_CUH
#define REEF_DEVICE_CUDA_KERNELS_IGEMM_CUH

#include "device/cuda/kernels/igemm_args.h"
#include "device/cuda/kernels/mma.cuh"

enum {
    IGEMM_MMA = 0,        /* x by cp.async, mma.sync */
    IGEMM_WGMMA = 1,      /* x by cp.async, wgmma; WM 16, WN BN */
    IGEMM_ANY = 2,        /* x element by element: any alignment and type; w may be computed */
    IGEMM_TRANSPOSED = 4, /* with IGEMM_ANY: transposed convolution */
    IGEMM_WINDOW = 8,     /* with IGEMM_MMA or IGEMM_WGMMA: few channels; see load_window */
    IGEMM_HALO = 16,      /* with IGEMM_WGMMA, f16: 3x3 taps, stride 1; the parts that conv3.cu builds on */
};

template <bool CONDITION, class A, class B>
struct igemm_if {
    using type = A;
};
template <class A, class B>
struct igemm_if<false, A, B> {
    using type = B;
};
template <bool HALF>
struct igemm_word {
    using type = typename igemm_if<HALF, unsigned short, uint32_t>::type;
};

template <int PRECISION, int BM_, int BN_, int WM, int WN, int STAGES, int MODE>
struct igemm {
    using args = reef_igemm_args;
    static constexpr bool block_is_tile = true;
    static constexpr int BM = BM_, BN = BN_;
    static constexpr bool wg = MODE & IGEMM_WGMMA, any = MODE & IGEMM_ANY, transposed = MODE & IGEMM_TRANSPOSED;
    static constexpr bool window = MODE & IGEMM_WINDOW, halo = MODE & IGEMM_HALO, fast = !any && !window && !halo;
    static_assert(any || !transposed, "mode");
    static constexpr bool half = PRECISION == REEF_P_F16;
    static constexpr int consumers = 32 * (BM / WM) * (BN / WN); /* threads that multiply */
    static constexpr int threads = consumers + (halo ? 64 : 0);
    static constexpr int elem = half ? 2 : 4, chunk = 16 / elem, step_elems = 128 / elem;
    static constexpr int a_bytes = BM * 128, b_bytes = BN * 128, stage_bytes = a_bytes + b_bytes;
    /* Steps between two barriers, and rounds of them under way: in the fast forms as many as there are stages, elsewhere
     * one less. A round's stages are overwritten when their readers have passed the next barrier. */
    static constexpr int together = fast ? 2 : 1, rounds = STAGES / together, ahead = fast ? rounds : rounds - 1;
    static_assert(STAGES % together == 0 && rounds >= 2, "stages");
    static constexpr int pass_rows = consumers / 8; /* rows per pass of 16-byte copies */
    static constexpr int a_rows = BM / pass_rows, b_copies = BN / pass_rows, granules = BN / 32;
    static constexpr int MI = WM / 16, NJ = WN / 8;
    /* Results are handed over in pieces of 8 rows x 8 columns, one word pair per lane of the warp that has it. A warp has
     * `pieces` of them; four are finished at a time, a row of eight columns by each lane. */
    static constexpr int pieces = MI * 2 * NJ, piece_bytes = 256, multipliers = consumers / 32;
    static_assert(pieces % 4 == 0, "shape");
    static_assert(BM % pass_rows == 0 && BN % pass_rows == 0 && NJ % 2 == 0, "shape");
    static_assert(BN % 32 == 0 && (halo || 32 % pass_rows == 0) && BN <= threads, "shape");
    static_assert(halo || BM * BN * 4 <= STAGES * stage_bytes, "results are staged in the pipeline's memory");
    static_assert(!fast || STAGES * a_rows <= 32, "a bit for each copy");

    /* Halo form: a tile is a patch of pixels, each warpgroup 8 x 8 of them. */
    static constexpr int patch_w = BM >= 256 ? 16 : 8, patch_h = BM / patch_w;
    static constexpr int halo_w = patch_w + 2, halo_h = patch_h + 2, halo_taps = 9, halo_loaders = 32;
    static constexpr int halo_bytes = (halo_w * halo_h * 128 + 1023) / 1024 * 1024;
    struct patch {
        int image, y, x, out_h; /* of the first pixel */
    };
    static __device__ __forceinline__ int divide(int n, const reef_divisor &d) /* n >= 0 */
    {
        return (int)((__umulhi((uint32_t)n, d.magic) + (uint32_t)n) >> d.shift);
    }
    static __device__ __forceinline__ void pixel_of(const args &a, int row, int &image, int &oy, int &ox)
    {
        image = divide(row, a.by_out_hw);
        int rest = row - image * a.out_hw;
        oy = divide(rest, a.by_out_w);
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

    /* ---- x in 16-byte chunks: a thread copies chunk column tid % 8 of rows tid / 8 + i * pass_rows ---- */
    struct walk {
        int base[a_rows];      /* element of tap (0, 0), the thread's first channel */
        uint32_t mask[a_rows]; /* bit ky * taps_w + kx: that tap is inside the image */
        int channel;           /* of the thread's chunk in the present block of channels */
        int tap, ky, kx, delta /* elements from tap (0, 0) and channel 0 */; /* the same for all threads */
    };
    /* Bits [lo, hi) * each, where taps lo .. hi - 1 of a line that begins at `from` are in [0, size). */
    static __device__ __forceinline__ uint32_t inside(int from, int size, int taps, int each)
    {
        const int lo = min(max(-from, 0), taps), hi = min(max(size - from, 0), taps);
        return ((1u << hi * each) - 1) & ~((1u << lo * each) - 1);
    }
    static __device__ __forceinline__ void walk_start(const args &a, walk &w, int row0, int row_end, int step,
                                                      int group)
    {
        const int column = threadIdx.x & 7, taps = a.taps_h * a.taps_w;
        const int block = divide(step, a.by_taps);
        w.tap = step - block * taps;
        w.ky = divide(w.tap, a.by_taps_w);
        w.kx = w.tap - w.ky * a.taps_w;
        w.delta = block * step_elems + w.ky * a.dil_h * a.xs.h + w.kx * a.dil_w * a.xs.w;
        w.channel = block * step_elems + column * chunk;
        const bool plain = taps == 1 && a.pad_h == 0 && a.pad_w == 0; /* then no tap is outside */
#pragma unroll
        for (int i = 0; i < a_rows; i++) {
            int row = row0 + (int)(threadIdx.x >> 3) + i * pass_rows, image, oy, ox;
            if (plain && a.xs.linear) {
                w.base[i] = group + row * a.xs.w + column * chunk;
                w.mask[i] = row < row_end ? 1u : 0u;
                continue;
            }
            pixel_of(a, row, image, oy, ox);
            const int iy = oy * a.stride_h - a.pad_h, ix = ox * a.stride_w - a.pad_w;
            w.base[i] = group + image * a.xs.image + iy * a.xs.h + ix * a.xs.w + column * chunk;
            uint32_t line, rows = a.tap_rows;
            if (a.dil_h == 1 && a.dil_w == 1) {
                line = inside(ix, a.in_w, a.taps_w, 1);
                rows &= inside(iy, a.in_h, a.taps_h, a.taps_w);
            } else {
                line = 0;
#pragma unroll 1
                for (int kx = 0; kx < a.taps_w; kx++) {
                    line |= (uint32_t)((unsigned)(ix + kx * a.dil_w) < (unsigned)a.in_w) << kx;
                }
#pragma unroll 1
                for (int ky = 0; ky < a.taps_h; ky++) {
                    rows &= (unsigned)(iy + ky * a.dil_h) < (unsigned)a.in_h ? ~0u : ~(1u << ky * a.taps_w);
                }
            }
            const uint32_t mask = line * rows; /* a line at each row: nothing overlaps */
            w.mask[i] = row < row_end ? mask : 0u;
        }
    }
    static __device__ __forceinline__ void load_a(const args &a, walk &w, uint32_t stage)
    {
        const int r = threadIdx.x >> 3, column = threadIdx.x & 7;
        const uint32_t dst = stage + r * 128 + ((column ^ (r & 7)) << 4);
        const char *x = (const char *)a.x + (long long)w.delta * elem;
        const uint32_t tap = w.channel < a.channels ? w.tap : 31u; /* bit 31 is never set: at most 31 taps */
#pragma unroll
        for (int i = 0; i < a_rows; i++) {
            copy16_near(dst + i * pass_rows * 128, x + (long long)w.base[i] * elem, w.mask[i] >> tap & 1);
        }
        walk_step(a, w);
    }
    /* What load_a does for the first STAGES steps, in two halves: what depends on nothing that a predecessor makes, and
     * the copies. */
    struct batch {
        const char *from[a_rows]; /* in the first step */
        uint32_t valid[a_rows];   /* bit s: in step s */
        int shift[STAGES];        /* bytes from the first step; not for a single tap, where a step is 128 bytes */
    };
    static __device__ __forceinline__ void aim(const args &a, walk &w, batch &b)
    {
        const int taps = a.taps_h * a.taps_w;
        /* steps whose block of channels has this thread's */
        const int blocks = (a.channels - w.channel + step_elems - 1) / step_elems, limit = blocks * taps - w.tap;
        const uint32_t there = limit >= 32 ? ~0u : (1u << max(limit, 0)) - 1;
#pragma unroll
        for (int i = 0; i < a_rows; i++) {
            b.from[i] = (const char *)a.x + ((long long)w.delta + w.base[i]) * elem;
            if (taps == 1) {
                b.valid[i] = w.mask[i] ? there : 0u;
            } else {
                b.valid[i] = (uint32_t)(w.mask[i] * a.tap_repeat >> w.tap) & there;
            }
        }
        if (taps == 1) {
            w.delta += STAGES * step_elems;
            w.channel += STAGES * step_elems;
            return;
        }
        const int first = w.delta;
#pragma unroll
        for (int s = 0; s < STAGES; s++) {
            b.shift[s] = (w.delta - first) * elem;
            walk_step(a, w);
        }
    }
    template <bool SINGLE>
    static __device__ __forceinline__ void fire(const batch &b, int s, uint32_t to)
    {
#pragma unroll
        for (int i = 0; i < a_rows; i++) {
            copy16_near(to + s * stage_bytes + i * pass_rows * 128, b.from[i] + (SINGLE ? s * 128 : b.shift[s]),
                        b.valid[i] >> s & 1);
        }
    }
    template <bool SINGLE>
    static __device__ __forceinline__ void fire_all(const batch &b, int n, uint32_t base)
    {
        const int r = threadIdx.x >> 3, column = threadIdx.x & 7;
        const uint32_t to = base + r * 128 + ((column ^ (r & 7)) << 4);
#pragma unroll
        for (int round = 0; round < rounds; round++) {
#pragma unroll
            for (int t = 0; t < together; t++) {
                if (round * together + t < n) {
                    fire<SINGLE>(b, round * together + t, to);
                }
            }
            if (round < rounds - 1) { /* the caller adds to the last */
                copy_commit();
            }
        }
    }
    static __device__ __forceinline__ void walk_step(const args &a, walk &w)
    {
        w.tap++;
        w.kx++;
        w.delta += a.dil_w * a.xs.w;
        if (w.kx == a.taps_w) {
            w.kx = 0;
            w.ky++;
            w.delta += a.dil_h * a.xs.h - a.taps_w * a.dil_w * a.xs.w;
            if (w.ky == a.taps_h) {
                w.ky = w.tap = 0;
                w.delta += step_elems - a.taps_h * a.dil_h * a.xs.h;
                w.channel += step_elems;
            }
        }
    }

    /* ---- x element by element ---- */
    struct walk_any {
        int base[a_rows];           /* element of tap (0, 0), channel 0; of pixel (0, 0) when transposed */
        int iy[a_rows], ix[a_rows]; /* input pixel of tap (0, 0); far outside for rows beyond the end */
        int ky, kx, c;              /* of the next step's chunk */
    };
    static __device__ __forceinline__ void tap_of(const args &a, int k, int &ky, int &kx, int &c)
    {
        int tap = k / a.channels;
        c = k - tap * a.channels;
        ky = tap / a.taps_w;
        kx = tap - ky * a.taps_w;
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
    static __device__ __forceinline__ void walk_start(const args &a, walk_any &w, int row0, int row_end, int step,
                                                      int group)
    {
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
            if (row >= row_end) {
                w.iy[i] = -(1 << 28);
            }
        }
        tap_of(a, step * step_elems + (int)(threadIdx.x & 7) * chunk, w.ky, w.kx, w.c);
    }
    /* Where tap (ky, kx) of row i reads; false outside the image. */
    static __device__ __forceinline__ bool locate(const args &a, const walk_any &w, int i, int ky, int kx, int shift,
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

    static __device__ __forceinline__ void load_a(const args &a, walk_any &w, uint32_t stage)
    {
        int r = threadIdx.x >> 3, column = threadIdx.x & 7;
        uint32_t dst = stage + r * 128 + ((column ^ (r & 7)) << 4);
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

    /* ---- x with few channels: the tile's pixels lie in one output row. Their input window (taps_h rows, dense, zeros
     * outside the image) is copied first, and all of k, which fits the stages, is then gathered from there. ---- */
    static __device__ __forceinline__ void load_window(const args &a, char *window_memory, int row0, int group)
    {
        int image, oy, ox;
        pixel_of(a, row0, image, oy, ox);
        const int first = (ox * a.stride_w - a.pad_w) * a.channels, end = a.in_w * a.channels;
        const long long start = (long long)group + (long long)image * a.xs.image;
        const int iy = oy * a.stride_h - a.pad_h, total = a.window_row * a.taps_h;
        int ky = 0, j = threadIdx.x;
#pragma unroll 1
        for (int at = threadIdx.x; at < total; at += 8 * threads) {
            float v[8];
            long long from[8];
#pragma unroll
            for (int e = 0; e < 8; e++) { /* eight loads under way at a time */
                while (j >= a.window_row) {
                    j -= a.window_row;
                    ky++;
                }
                const int y = iy + ky * a.dil_h;
                const bool inside =
                    ky < a.taps_h && (unsigned)y < (unsigned)a.in_h && (unsigned)(first + j) < (unsigned)end;
                from[e] = inside ? start + (long long)y * a.xs.h + first + j : -1;
                j += threads;
            }
            if (a.xs.type == REEF_ELEM_F16) {
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    v[e] = from[e] >= 0 ? __half2float(((const __half *)a.x)[from[e]]) : 0.0f;
                }
            } else {
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    v[e] = from[e] >= 0 ? ((const float *)a.x)[from[e]] : 0.0f;
                }
            }
#pragma unroll
            for (int e = 0; e < 8; e++) {
                if (at + e * threads < total) {
                    if (half) {
                        ((__half *)window_memory)[at + e * threads] = __float2half_rn(v[e]);
                    } else {
                        ((float *)window_memory)[at + e * threads] = v[e];
                    }
                }
            }
        }
    }
    static __device__ __forceinline__ void gather_window(const args &a, const char *window_memory, int step,
                                                         uint32_t stage)
    {
        using word_type = typename igemm_word<half>::type;
        const word_type *from = (const word_type *)window_memory;
        const int r = threadIdx.x >> 3, column = threadIdx.x & 7;
        const uint32_t dst = stage + r * 128 + ((column ^ (r & 7)) << 4);
        int ky, kx, c, at[chunk];
        tap_of(a, step * step_elems + column * chunk, ky, kx, c);
#pragma unroll
        for (int e = 0; e < chunk; e++) {
            at[e] = ky < a.taps_h ? ky * a.window_row + kx * a.dil_w * a.channels + c : -1;
            walk_on(a, 1, ky, kx, c);
        }
#pragma unroll
        for (int i = 0; i < a_rows; i++) {
            const word_type *pixel = from + (r + i * pass_rows) * a.stride_w * a.channels;
            uint32_t word[4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (half) {
                    uint32_t lo = at[2 * e % chunk] >= 0 ? pixel[at[2 * e % chunk]] : 0;
                    uint32_t hi = at[(2 * e + 1) % chunk] >= 0 ? pixel[at[(2 * e + 1) % chunk]] : 0;
                    word[e] = lo | hi << 16;
                } else {
                    word[e] = at[e] >= 0 ? pixel[at[e]] : 0;
                }
            }
            store_shared16(dst + i * pass_rows * 128, make_uint4(word[0], word[1], word[2], word[3]));
        }
    }

    /* ---- w: [group][column / 32][step][4096 bytes], each 4 KiB as it lies in a stage ---- */
    static __device__ __forceinline__ void load_b(const char *w, const int (&granule)[granules], uint32_t stage)
    {
#pragma unroll
        for (int i = 0; i < b_copies; i++) {
            const int at = i * threads * 16;
            copy16(stage + at + threadIdx.x * 16, w + granule[at / 4096] + at % 4096);
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
        if constexpr (half) {
            wgmma_fence();
#pragma unroll
            for (int s = 0; s < 4; s++) {
                wgmma_f16<NJ>(acc[0], wgmma_descriptor(stage + group_row * 128 + s * 32),
                              wgmma_descriptor(stage + a_bytes + s * 32));
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
                wgmma_tf32<NJ>(acc[0], fa[s], wgmma_descriptor(stage + a_bytes + s * 32));
            }
            wgmma_commit();
            wgmma_wait<0>();
        }
    }

    static __device__ __forceinline__ void add_halves(float (&v)[8], uint4 word)
    {
        const __half2 *h = (const __half2 *)&word;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float2 f = __half22float2(h[e]);
            v[2 * e] += f.x;
            v[2 * e + 1] += f.y;
        }
    }
    static __device__ __forceinline__ void add_floats(float (&v)[8], float4 lo, float4 hi)
    {
        v[0] += lo.x, v[1] += lo.y, v[2] += lo.z, v[3] += lo.w;
        v[4] += hi.x, v[5] += hi.y, v[6] += hi.z, v[7] += hi.w;
    }

    /* The first goes, the others move up: so that a seldom used piece of code is there once for all eight, and no register
     * is indexed at run time. */
    static __device__ __forceinline__ void turn(float (&v)[8], float last)
    {
#pragma unroll
        for (int j = 0; j < 7; j++) {
            v[j] = v[j + 1];
        }
        v[7] = last;
    }
    /* Eight columns of a row: alpha, bias, residual, activation, store. early: the residual, already in shared memory. */
    static __device__ __forceinline__ void finish(const args &a, float (&v)[8], int row, int col, const float *bias,
                                                  const char *early, int y0, int r0)
    {
        int n = a.cols - col;
#pragma unroll
        for (int e = 0; e < 8; e++) {
            v[e] = v[e] * a.alpha + bias[e];
        }
        if (a.residual_early) {
            if (a.rs.type == REEF_ELEM_F16) {
                add_halves(v, *(const uint4 *)early);
            } else {
                add_floats(v, ((const float4 *)early)[0], ((const float4 *)early)[threads]);
            }
        } else if (a.residual) {
            const long long at = (long long)r0 + row_offset(a, a.rs, row) + col;
#pragma unroll 1
            for (int e = 0; e < 8; e++) {
                turn(v, v[0] + (e < n ? reef_load_elem((const void *)a.residual, at + e, a.rs.type) : 0.0f));
            }
        }
        if (a.act == REEF_DACT_RELU) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[e] = v[e] < 0.0f ? 0.0f : v[e];
            }
        } else if (a.act == REEF_DACT_GELU) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[e] = reef_gelu(v[e]);
            }
        } else if (a.act != REEF_DACT_NONE) {
#pragma unroll 1
            for (int e = 0; e < 8; e++) {
                turn(v, reef_act_rare(v[0], a.act, a.act_a, a.act_b));
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
#pragma unroll 1
            for (int e = 0; e < 8; e++) {
                if (e < n) {
                    reef_store_elem((void *)a.y, at + e, a.ys.type, v[0]);
                }
                turn(v, v[0]);
            }
        }
    }
    /* The same where the host says plain: everything aligned, whole, of the precision's own type, and an activation that
     * is there in a few instructions. */
    static __device__ __forceinline__ void finish_plain(const args &a, float (&v)[8], long long at, const float *bias,
                                                        const char *early)
    {
        const float4 lo = ((const float4 *)bias)[0], hi = ((const float4 *)bias)[1];
        const float b[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
        for (int e = 0; e < 8; e++) {
            v[e] = v[e] * a.alpha + b[e];
        }
        if (a.residual_early) {
            if (half) {
                add_halves(v, *(const uint4 *)early);
            } else {
                add_floats(v, ((const float4 *)early)[0], ((const float4 *)early)[threads]);
            }
        }
        if (a.act == REEF_DACT_GELU) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[e] = reef_gelu(v[e]);
            }
        } else {
            const float floor = a.act == REEF_DACT_RELU ? 0.0f : -INFINITY;
#pragma unroll
            for (int e = 0; e < 8; e++) {
                v[e] = v[e] < floor ? floor : v[e];
            }
        }
        if (half) {
            *(uint4 *)((__half *)a.y + at) =
                make_uint4(pack_pair(v[0], v[1]), pack_pair(v[2], v[3]), pack_pair(v[4], v[5]), pack_pair(v[6], v[7]));
        } else {
            float4 *p = (float4 *)((float *)a.y + at);
            p[0] = make_float4(v[0], v[1], v[2], v[3]);
            p[1] = make_float4(v[4], v[5], v[6], v[7]);
        }
    }

    /* Piece v of a warp is rows v / NJ * 8 .. and columns v % NJ * 8 .. of its part of the tile. */
    static __device__ __forceinline__ void piece_at(int v, int lane, int &r, int &c)
    {
        r = v / NJ * 8 + (lane & 7);
        c = v % NJ * 8;
    }
    /* The pieces that this block finishes: all, or of a cluster's block its share. Block v * splits / pieces has piece v. */
    static __device__ __forceinline__ int first_piece(const args &a, int rank)
    {
        return divide(rank * pieces + a.splits - 1, a.by_splits);
    }
    /* What each of the cluster's blocks sends that one. */
    static __device__ __forceinline__ uint32_t share_bytes(const args &a, int rank)
    {
        return (first_piece(a, rank + 1) - first_piece(a, rank)) * multipliers * piece_bytes;
    }
    /* For pieces v, v + 4, ... below end, the lane's row of each; warp_row and warp_col as in tile. */
    static __device__ __forceinline__ void load_residual(const args &a, uint32_t to, int v, int end, int row0,
                                                         int row_end, int col0, int r0, int warp_row, int warp_col,
                                                         int lane)
    {
        const bool halves = a.rs.type == REEF_ELEM_F16;
#pragma unroll 1
        for (int j = 0; v < end; v += 4, j++) {
            int r, c;
            piece_at(v, lane, r, c);
            r += warp_row;
            c += warp_col;
            const bool inside = row0 + r < row_end && col0 + c < a.cols;
            const long long at = inside ? (long long)r0 + row_offset(a, a.rs, row0 + r) + col0 + c : 0;
            if (halves) {
                copy16(to + (j * threads + threadIdx.x) * 16, (const __half *)a.residual + at, inside);
            } else {
                copy16(to + (2 * j * threads + threadIdx.x) * 16, (const float *)a.residual + at, inside);
                copy16(to + ((2 * j + 1) * threads + threadIdx.x) * 16, (const float *)a.residual + at + 4, inside);
            }
        }
    }
    /* The same for all pieces, where the host says plain: many addresses at a time. */
    static __device__ __forceinline__ void load_residual_plain(const args &a, uint32_t to, int row0, int row_end,
                                                               int col0, int r0, int warp_row, int warp_col, int lane)
    {
#pragma unroll
        for (int j = 0; j < pieces / 4; j++) {
            int r, c;
            piece_at((lane >> 3) + 4 * j, lane, r, c);
            const int row = row0 + warp_row + r, col = col0 + warp_col + c;
            const bool inside = row < row_end && col < a.cols;
            const char *from = (const char *)a.residual + ((long long)r0 + (long long)row * a.rs.w + col) * elem;
            if (half) {
                copy16(to + (j * threads + threadIdx.x) * 16, from, inside);
            } else {
                copy16(to + (2 * j * threads + threadIdx.x) * 16, from, inside);
                copy16(to + ((2 * j + 1) * threads + threadIdx.x) * 16, from + 16, inside);
            }
        }
    }

    /* ---- halo form, conv3.cu: the patch's input with its border, for a block of channels,
     * as one of `loaders` threads. ---- */
    template <int loaders>
    static __device__ __forceinline__ void load_halo(const args &a, const patch &p, int block, uint32_t to, int thread)
    {
        const __half *x = (const __half *)a.x + (long long)p.image * a.xs.image + block * step_elems;
        const int column = thread & 7;
#pragma unroll 5
        for (int pixel = thread >> 3; pixel < halo_w * halo_h; pixel += loaders / 8) {
            const int py = pixel / halo_w, iy = p.y - a.pad_h + py, ix = p.x - a.pad_w + pixel - py * halo_w;
            const bool inside = (unsigned)iy < (unsigned)a.in_h && (unsigned)ix < (unsigned)a.in_w;
            const int at = inside ? iy * a.xs.h + ix * a.xs.w + column * chunk : 0;
            copy16(to + pixel * 128 + ((column ^ (pixel & 7)) << 4), x + at, inside);
        }
        copy_commit();
        copy_wait<0>();
        proxy_fence();
    }
    struct exchange {
        __align__(16) float bias[BN];
        unsigned long long landing;
        cluster_word told;
        unsigned arrived;
    };
    template <class Abandon>
    static __device__ __forceinline__ bool tile(const args &a, uint32_t index, char *smem, Abandon &abandon)
    {
        const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
        const int warp_row = warp / (BN / WN) * WM, warp_col = warp % (BN / WN) * WN;
        int split = 0, t = index;
        if (a.splits > 1) {
            t = divide(index, a.by_splits);
            split = index - t * a.splits;
        }
        const int tile_index = t;
        int rest = divide(t, a.by_col_tiles);
        const int col0 = (t - rest * a.col_tiles) * BN;
        int group = 0, g0 = 0, g1 = 0;
        if (a.groups > 1) {
            group = (unsigned)rest / (unsigned)a.row_tiles;
            rest -= group * a.row_tiles;
            g0 = group / a.group_div;
            g1 = group - g0 * a.group_div;
        }
        int row0 = rest * BM, row_end = min(a.rows, row0 + BM);
        if (window) {
            const int parts = (a.out_w + BM - 1) / BM, line = rest / parts;
            row0 = line * a.out_w + (rest - line * parts) * BM;
            row_end = min((line + 1) * a.out_w, row0 + BM);
        }
        const int first = divide(a.steps * split, a.by_splits), n = divide(a.steps * (split + 1), a.by_splits) - first;
        const uint32_t base = smem_address(smem), extra = base + a.extra;
        const bool constant = !any || !a.b;
        const bool in_cluster = a.cluster;
        const int y0 = group_offset(a.ys, g0, g1), r0 = group_offset(a.rs, g0, g1);

        /* The blocks of a cluster send each other what they have summed; each is told when all has landed. */
        REEF_SHARED(own, exchange);
        cluster_word &told = own.told;
        float(&bias)[BN] = own.bias; /* a barrier comes between its writing and its reading */
        const uint32_t landed = smem_address(&own.landing);
        int v0 = 0, v1 = pieces;
        if (in_cluster) {
            v0 = first_piece(a, split);
            v1 = first_piece(a, split + 1);
        }
        const auto meet = [&] {
            if (tid == 0) {
                barrier_init(landed, 1);
                barriers_ready();
                barrier_expect(landed, a.splits * (Abandon::on ? 8 : 0) + a.splits * share_bytes(a, split));
            }
            cluster_arrive();
        };
        if (Abandon::on && in_cluster) {
            meet();
            if (abandon.gone()) {
                cluster_wait();
                if (warp == 0) {
                    told.tell(true, split, a.splits, landed);
                    if (lane < a.splits && share_bytes(a, lane)) { /* more parts than pieces: some have none */
                        send_nothing(send_address(landed, lane), share_bytes(a, lane));
                    }
                }
                barrier_wait(landed, 0);
                return false;
            }
        }

        /* constants: the first weights and the bias; what comes later is called into L2 */
        const char *w = (const char *)a.w + ((long long)(group * a.w_group + (col0 >> 5)) * a.steps + first) * 4096;
        int granule[granules];
#pragma unroll
        for (int g = 0; g < granules; g++) {
            granule[g] = min(g, a.w_group - 1 - (col0 >> 5)) * a.steps * 4096;
        }
        if (fast && n > ahead * together && rest == 0 && tid < granules) {
            prefetch_l2(w + min(tid, a.w_group - 1 - (col0 >> 5)) * a.steps * 4096 + ahead * together * 4096,
                        (uint32_t)(n - ahead * together) * 4096);
        }
        w += tid * 16;
        if (constant) {
#pragma unroll
            for (int s = 0; s < (window ? STAGES : ahead * together); s++) {
                if (s < n) {
                    load_b(w + s * 4096, granule, base + s * stage_bytes + a_bytes);
                }
            }
        }
        if (tid < BN) {
            bias[tid] =
                a.bias && col0 + tid < a.cols ? __ldg((const float *)a.bias + group * a.bias_group + col0 + tid) : 0.0f;
        }
        if (!Abandon::on && in_cluster) {
            meet();
        }
        typename igemm_if<any, walk_any, walk>::type where;
        if (!window) {
            walk_start(a, where, row0, row_end, first, group_offset(a.xs, g0, g1));
        }
        float acc[MI][NJ][4];
#pragma unroll
        for (int i = 0; i < MI; i++) {
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0;
            }
        }
        if (in_cluster) {
            cluster_wait(); /* everybody's barrier is there */
        }
        if constexpr (window) {
            abandon.wait();
            load_window(a, smem + a.extra, row0, group_offset(a.xs, g0, g1));
            __syncthreads();
#pragma unroll 1
            for (int s = 0; s < n; s++) {
                gather_window(a, smem + a.extra, s, base + s * stage_bytes);
            }
            copy_commit();
            copy_wait<0>();
            if (wg) {
                proxy_fence();
            }
            if (__syncthreads_or(abandon.now())) {
                return false;
            }
#pragma unroll 1
            for (int s = 0; s < n; s++) {
                if constexpr (wg) {
                    multiply_group(acc, base + s * stage_bytes, consumers > 128 ? warp / 4 * 64 : 0, lane);
                    wgmma_wait<0>();
                } else {
                    multiply(acc, base + s * stage_bytes, warp_row, warp_col, lane);
                }
            }
        } else if constexpr (fast) {
            batch b;
            aim(a, where, b);
            abandon.wait();
            if (a.taps_h * a.taps_w == 1) {
                fire_all<true>(b, n, base);
            } else {
                fire_all<false>(b, n, base);
            }
            if (a.residual_early && a.plain && !in_cluster) {
                load_residual_plain(a, extra, row0, row_end, col0, r0, warp_row, warp_col, lane);
            } else if (a.residual_early) {
                load_residual(a, extra, v0 + (lane >> 3), v1, row0, row_end, col0, r0, warp_row, warp_col, lane);
            }
            copy_commit();
            w += STAGES * 4096;

            uint32_t read = base, write = base;
#pragma unroll 1
            for (int s = 0, round = 0; s < n; s += together, round++) {
                /* The last round's stages are free after the barrier; what fits no stage yet goes there. */
                const int next = s - together + STAGES;
                const bool refill = round > 0 && next < n;
                if (round == 0) {
                    copy_wait<rounds - 1>();
                } else {
                    copy_wait<rounds - 2>();
                }
                if (wg) {
                    if (refill) {
                        wgmma_wait<0>();
                    }
                    proxy_fence();
                }
                const bool asks = Abandon::on && (round & 7) == 7; /* every microsecond or two */
                if (asks) {
                    abandon.poll(round >> 3);
                }
                __syncthreads();
                if (asks && abandon.hit(round >> 3)) {
                    break;
                }
                if constexpr (wg) {
#pragma unroll
                    for (int t = 0; t < together; t++) {
                        if (t == 0 || s + t < n) {
                            multiply_group(acc, read + t * stage_bytes, consumers > 128 ? warp / 4 * 64 : 0, lane);
                        }
                    }
                }
                if (refill) {
#pragma unroll
                    for (int t = 0; t < together; t++) {
                        if (next + t < n) {
                            load_a(a, where, write + t * stage_bytes);
                            load_b(w, granule, write + t * stage_bytes + a_bytes);
                            w += 4096;
                        }
                    }
                    write += together * stage_bytes;
                    write = write == base + STAGES * stage_bytes ? base : write;
                }
                if (round > 0) {
                    copy_commit();
                }
                if constexpr (!wg) {
#pragma unroll
                    for (int t = 0; t < together; t++) {
                        if (t == 0 || s + t < n) {
                            multiply(acc, read + t * stage_bytes, warp_row, warp_col, lane);
                        }
                    }
                }
                read += together * stage_bytes;
                read = read == base + STAGES * stage_bytes ? base : read;
            }
            if (wg) {
                wgmma_wait<0>();
            }
            copy_wait<0>();
        } else {
            abandon.wait();
#pragma unroll 1
            for (int round = 0; round < ahead; round++) {
#pragma unroll
                for (int t = 0; t < together; t++) {
                    const int s = round * together + t;
                    if (s < n) {
                        load_a(a, where, base + s * stage_bytes);
                        if (!constant) {
                            load_b_view(a, group, first + s, col0, base + s * stage_bytes + a_bytes);
                        }
                    }
                }
                if (round == ahead - 1 && a.residual_early) {
                    load_residual(a, extra, v0 + (lane >> 3), v1, row0, row_end, col0, r0, warp_row, warp_col, lane);
                }
                copy_commit();
            }
            w += ahead * together * 4096;

            uint32_t read = base, write = base + ahead * together * stage_bytes;
#pragma unroll 1
            for (int s = 0, round = 0; s < n; s += together, round++) {
                copy_wait<ahead - 1>();
                if (wg) {
                    wgmma_wait<0>(); /* of the last round */
                    proxy_fence();
                }
                const bool asks = Abandon::on && (round & 7) == 7; /* every microsecond or two */
                if (asks) {
                    abandon.poll(round >> 3);
                }
                __syncthreads();
                if (asks && abandon.hit(round >> 3)) {
                    break;
                }
                if constexpr (wg) {
#pragma unroll
                    for (int t = 0; t < together; t++) {
                        if (t == 0 || s + t < n) {
                            multiply_group(acc, read + t * stage_bytes, consumers > 128 ? warp / 4 * 64 : 0, lane);
                        }
                    }
                }
#pragma unroll
                for (int t = 0; t < together; t++) {
                    const int next = s + ahead * together + t;
                    if (next < n) {
                        load_a(a, where, write + t * stage_bytes);
                        if (constant) {
                            load_b(w, granule, write + t * stage_bytes + a_bytes);
                            w += 4096;
                        } else {
                            load_b_view(a, group, first + next, col0, write + t * stage_bytes + a_bytes);
                        }
                    }
                }
                copy_commit();
                if constexpr (!wg) {
#pragma unroll
                    for (int t = 0; t < together; t++) {
                        if (t == 0 || s + t < n) {
                            multiply(acc, read + t * stage_bytes, warp_row, warp_col, lane);
                        }
                    }
                }
                read =
                    read + together * stage_bytes == base + STAGES * stage_bytes ? base : read + together * stage_bytes;
                write = write + together * stage_bytes == base + STAGES * stage_bytes ? base
                                                                                      : write + together * stage_bytes;
            }
            if (wg) {
                wgmma_wait<0>();
            }
            copy_wait<0>();
        }

        /* ---- epilogue: from here on the tile has effects; in a worker's cluster, when all have said that they go on ---- */
        if (!Abandon::on || in_cluster) {
            __syncthreads();
        } else if (!abandon.commit()) {
            return false;
        }
        if (a.splits > 1 && !in_cluster) {
            float4 *mine = (float4 *)a.partials + (long long)(tile_index * a.splits + split) * (BM * BN / 4) + tid;
#pragma unroll
            for (int i = 0; i < MI * NJ && tid < consumers; i++) {
                const float(&f)[4] = acc[i / NJ][i % NJ];
                __stcg(mine + i * consumers, make_float4(f[0], f[1], f[2], f[3]));
            }
            __threadfence();
            __syncthreads();
            if (tid == 0) {
                own.arrived = atomicAdd((unsigned *)a.counters + tile_index, 1u);
            }
            __syncthreads();
            if (own.arrived != (unsigned)a.splits - 1) {
                return true;
            }
            __threadfence();
            const float4 *sum = (const float4 *)a.partials + (long long)tile_index * a.splits * (BM * BN / 4) + tid;
#pragma unroll
            for (int i = 0; i < MI * NJ && tid < consumers; i++) {
                float4 f = __ldcg(sum + i * consumers);
                float(&v)[4] = acc[i / NJ][i % NJ];
                v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
            }
#pragma unroll 2
            for (int s = 1; s < a.splits; s++) {
                sum += BM * BN / 4;
#pragma unroll
                for (int i = 0; i < MI * NJ && tid < consumers; i++) {
                    float4 f = __ldcg(sum + i * consumers);
                    float(&v)[4] = acc[i / NJ][i % NJ];
                    v[0] += f.x, v[1] += f.y, v[2] += f.z, v[3] += f.w;
                }
            }
            if (tid == 0) {
                *((unsigned *)a.counters + tile_index) = 0;
            }
        }
        /* A warp's pieces, one after the other; slot s of a cluster's block has its pieces as block s has summed them. */
        uint32_t mine = base + warp * pieces * piece_bytes;
        int parts = 1, slot_bytes = 0;
        if (in_cluster) {
            parts = a.splits;
            const int most = divide(pieces + parts - 1, a.by_splits);
            slot_bytes = most * multipliers * piece_bytes;
            mine = base + a.slots + warp * most * piece_bytes;
        }
        if (in_cluster) {
            if (Abandon::on && warp == 0) {
                told.tell(__shfl_sync(0xffffffffu, abandon.stops(), 0), split, parts, landed);
            }
            uint32_t to = mine + split * slot_bytes + lane * 8, there = send_address(to, 0),
                     counted = send_address(landed, 0);
            int owner = 0;
#pragma unroll
            for (int v = 0; v < pieces; v++) {
                if (v * parts / pieces != owner) {
                    owner = v * parts / pieces;
                    there = send_address(to, owner);
                    counted = send_address(landed, owner);
                }
                if (tid < consumers) {
                    send(there, counted, acc[v / NJ / 2][v % NJ][v / NJ % 2 * 2],
                         acc[v / NJ / 2][v % NJ][v / NJ % 2 * 2 + 1]);
                }
                there += piece_bytes;
            }
        } else if (tid < consumers) {
#pragma unroll
            for (int v = 0; v < pieces; v++) {
                store_shared8(mine + v * piece_bytes + lane * 8, acc[v / NJ / 2][v % NJ][v / NJ % 2 * 2],
                              acc[v / NJ / 2][v % NJ][v / NJ % 2 * 2 + 1]);
            }
        }
        if (in_cluster) {
            barrier_wait(landed, 0);
            if (Abandon::on && !told.all_go_on(parts)) {
                return false;
            }
        }
        __syncwarp();
        if (tid < consumers) {
            const char *early = smem + a.extra + tid * 16;
            const int early_stride = threads * (a.rs.type == REEF_ELEM_F16 ? 16 : 32);
            mine += (lane & 7) * 32;
            if (a.plain && !in_cluster) {
#pragma unroll(pieces < 16 ? pieces / 4 : 4)
                for (int j = 0; j < pieces / 4; j++) {
                    int r, c;
                    piece_at((lane >> 3) + 4 * j, lane, r, c);
                    const int row = row0 + warp_row + r, col = col0 + warp_col + c;
                    float x[8];
                    load_shared32(mine + ((lane >> 3) + 4 * j) * piece_bytes, x);
                    if (row < row_end && col < a.cols) {
                        finish_plain(a, x, (long long)y0 + (long long)row * a.ys.w + col, bias + warp_col + c,
                                     early + j * early_stride);
                    }
                }
                return true;
            }
#pragma unroll 1
            for (int v = v0 + (lane >> 3); v < v1; v += 4) {
                int r, c;
                piece_at(v, lane, r, c);
                const int row = row0 + warp_row + r;
                c += warp_col;
                if (row < row_end && col0 + c < a.cols) {
                    float x[8];
                    const uint32_t from = mine + (v - v0) * piece_bytes;
                    load_shared32(from, x);
#pragma unroll 4
                    for (int s = 1; s < parts; s++) {
                        float more[8];
                        load_shared32(from + s * slot_bytes, more);
#pragma unroll
                        for (int e = 0; e < 8; e++) {
                            x[e] += more[e];
                        }
                    }
                    if (a.plain) {
                        finish_plain(a, x, (long long)y0 + (long long)row * a.ys.w + col0 + c, bias + c, early);
                    } else {
                        finish(a, x, row, col0 + c, bias + c, early, y0, r0);
                    }
                }
                early += early_stride;
            }
        }
        return true;
    }
};

#endif
