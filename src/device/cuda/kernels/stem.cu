/*
 * stem.cu - the first convolution of a network: few channels, any strides, so straight from the request's planes of floats.
 *
 * A tile is 4 * LINES lines of 32 output pixels. The block copies their input window to shared memory as halves, zeros
 * outside the image; a warp then has 16 neighbouring pixels of LINES lines, gathers its fragments of x from the window by
 * a table of offsets, k = (channel, ky, kx), and multiplies them with weights that lie as fragments:
 *
 *      w: [columns / (8 NJ)][k / 16][NJ][lane] two words: (k = 2 (lane % 4), + 1 of column lane / 4), and the same at k + 8
 *
 * Results go from registers to memory as in conv3.cu.
 */
#include "device/cuda/kernels/halves.cuh"
#include "device/cuda/kernels/igemm_args.h"

template <int NJ, int LINES>
struct stem {
    using args = reef_stem_args;
    static constexpr bool block_is_tile = true;
    static constexpr int threads = 256, width = 32, height = 4 * LINES, columns = 8 * NJ;

    static __device__ __forceinline__ void load_window(const args &a, __half *window, int image, int y0, int x0)
    {
        const int total = a.channels * a.rows * a.pitch, iy = y0 * a.stride_h - a.pad_h, ix = x0 * a.stride_w - a.pad_w;
        const long long start = (long long)image * a.x_image;
#pragma unroll 1
        for (int at = threadIdx.x; at < total; at += 4 * threads) {
            float v[4];
#pragma unroll
            for (int e = 0; e < 4; e++) { /* four loads under way at a time */
                const int i = at + e * threads, line = i / a.pitch, c = line / a.rows;
                const int x = ix + i - line * a.pitch, y = iy + line - c * a.rows;
                v[e] = 0;
                if (i < total && (unsigned)y < (unsigned)a.in_h && (unsigned)x < (unsigned)a.in_w) {
                    v[e] = reef_load_elem((const void *)a.x,
                                          start + (long long)c * a.x_c + (long long)y * a.x_h + (long long)x * a.x_w,
                                          a.x_type);
                }
            }
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (at + e * threads < total) {
                    window[at + e * threads] = __float2half_rn(v[e]);
                }
            }
        }
    }
    static __device__ __forceinline__ uint32_t pair_at(const unsigned short *pixel, int lo, int hi)
    {
        return (lo >= 0 ? pixel[lo] : 0u) | (hi >= 0 ? (uint32_t)pixel[hi] << 16 : 0u);
    }

    template <class Abandon>
    static __device__ __forceinline__ bool tile(const args &a, uint32_t index, char *smem, Abandon &abandon)
    {
        REEF_SHARED(bias, float[columns]);
        const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
        int rest = (int)(index / (unsigned)a.col_tiles);
        const int col0 = ((int)index - rest * a.col_tiles) * columns;
        int y0 = rest / a.across;
        const int x0 = (rest - y0 * a.across) * width, image = y0 / a.down;
        y0 = (y0 - image * a.down) * height;

        /* constants: weights, the table of offsets, the bias */
        uint2 *weights = (uint2 *)smem;
        short *table = (short *)(smem + a.steps * NJ * 256);
        unsigned short *window = (unsigned short *)(table + a.steps * 16);
        const char *w = (const char *)a.w + (long long)(col0 / columns) * a.steps * NJ * 256;
        for (int i = tid; i < a.steps * NJ * 16; i += threads) {
            copy16(smem_address(smem) + i * 16, w + i * 16);
        }
        copy_commit();
        const int taps = a.taps_h * a.taps_w;
        for (int k = tid; k < a.steps * 16; k += threads) {
            const int c = k / taps, tap = k - c * taps, ky = tap / a.taps_w, kx = tap - ky * a.taps_w;
            table[k] = c < a.channels ? (short)((c * a.rows + ky * a.dil_h) * a.pitch + kx * a.dil_w) : (short)-1;
        }
        if (tid < columns) {
            bias[tid] = a.bias && col0 + tid < a.cols ? __ldg((const float *)a.bias + col0 + tid) : 0.0f;
        }
        abandon.wait();
        load_window(a, (__half *)window, image, y0, x0);
        copy_wait<0>();
        if (__syncthreads_or(abandon.now())) {
            return false;
        }

        float acc[LINES][NJ][4];
#pragma unroll
        for (int i = 0; i < LINES; i++) {
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                acc[i][j][0] = acc[i][j][1] = acc[i][j][2] = acc[i][j][3] = 0;
            }
        }
        const int x = (warp & 1) * 16 + (lane >> 2), line = warp >> 1;
        const unsigned short *pixel[LINES];
#pragma unroll
        for (int i = 0; i < LINES; i++) {
            pixel[i] = window + (line + 4 * i) * a.stride_h * a.pitch + x * a.stride_w;
        }
#pragma unroll 2
        for (int s = 0; s < a.steps; s++) {
            const short2 lo = *(const short2 *)(table + s * 16 + (lane & 3) * 2);
            const short2 hi = *(const short2 *)(table + s * 16 + (lane & 3) * 2 + 8);
            uint32_t f[LINES][4];
#pragma unroll
            for (int i = 0; i < LINES; i++) {
                const unsigned short *next = pixel[i] + 8 * a.stride_w;
                f[i][0] = pair_at(pixel[i], lo.x, lo.y);
                f[i][1] = pair_at(next, lo.x, lo.y);
                f[i][2] = pair_at(pixel[i], hi.x, hi.y);
                f[i][3] = pair_at(next, hi.x, hi.y);
            }
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                const uint2 b = weights[(s * NJ + j) * 32 + lane];
#pragma unroll
                for (int i = 0; i < LINES; i++) {
                    mma_f16(acc[i][j], f[i], b.x, b.y);
                }
            }
        }
        if (!abandon.commit()) {
            return false;
        }

        /* ---- epilogue: from here on the tile has effects ---- */
        const float *b = bias + (lane & 3) * 2;
#pragma unroll
        for (int i = 0; i < LINES; i++) {
            const int y = y0 + line + 4 * i, px = x0 + x;
            const bool inside = y < a.out_h && px < a.out_w, second = y < a.out_h && px + 8 < a.out_w;
            const int at = image * a.ys.image + y * a.ys.h + px * a.ys.w;
#pragma unroll
            for (int t = 0; t < NJ / 4; t++) {
                uint32_t first[4], other[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float2 add = *(const float2 *)(b + (t * 4 + j) * 8);
                    const float(&f)[4] = acc[i][t * 4 + j];
                    first[j] = halves_of(bounded(f[0] + add.x, a), bounded(f[1] + add.y, a));
                    other[j] = halves_of(bounded(f[2] + add.x, a), bounded(f[3] + add.y, a));
                }
                halves_emit(a, first, inside, at, col0 + t * 32);
                halves_emit(a, other, second, at + 8 * a.ys.w, col0 + t * 32);
            }
        }
        return true;
    }
    /* None, Relu or Clip; what is no number stays. */
    static __device__ __forceinline__ float bounded(float v, const args &a)
    {
        v = v < a.least ? a.least : v;
        return v > a.most ? a.most : v;
    }
};

REEF_KERNEL(reef_stem_32, stem<4, 1>)
REEF_KERNEL(reef_stem_64, stem<8, 1>)
REEF_KERNEL(reef_stem_32x2, stem<4, 2>)
REEF_KERNEL(reef_stem_64x2, stem<8, 2>)
