/*
 * depthwise.cu - convolution with one filter per channel: a thread is two neighbouring channels of an output pixel.
 */
#include "device/cuda/kernels/device.cuh"
#include "device/cuda/kernels/igemm_args.h"

struct depthwise {
    using args = reef_depthwise_args;
    static constexpr int threads = 256;

    template <class Abandon>
    static __device__ __forceinline__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        const unsigned pairs = (unsigned)(a.channels + 1) / 2, i = index * threads + threadIdx.x;
        const int row = i / pairs, c = (int)(i - row * pairs) * 2;
        const bool second = c + 1 < a.channels;
        const float *w = (const float *)a.w + c;
        float v0 = 0, v1 = 0;
        abandon.wait();
        if (!abandon.commit()) { /* a tile is too short to ask later */
            return false;
        }
        if (row >= a.rows) {
            return true;
        }
        const int image = row / a.out_hw, rest = row - image * a.out_hw, oy = rest / a.out_w, ox = rest - oy * a.out_w;
        const int iy = oy * a.stride_h - a.pad_h, ix = ox * a.stride_w - a.pad_w;
        for (int ky = 0; ky < a.taps_h; ky++) {
            const int y = iy + ky * a.dil_h;
            if ((unsigned)y >= (unsigned)a.in_h) {
                continue;
            }
            for (int kx = 0; kx < a.taps_w; kx++) {
                const int x = ix + kx * a.dil_w;
                if ((unsigned)x >= (unsigned)a.in_w) {
                    continue;
                }
                const long long at = (long long)image * a.xs.image + (long long)y * a.xs.h + (long long)x * a.xs.w + c;
                const float *tap = w + (long long)(ky * a.taps_w + kx) * a.channels;
                v0 = fmaf(reef_load_elem((const void *)a.x, at, a.xs.type), __ldg(tap), v0);
                if (second) {
                    v1 = fmaf(reef_load_elem((const void *)a.x, at + 1, a.xs.type), __ldg(tap + 1), v1);
                }
            }
        }
        const long long y_at = (long long)image * a.ys.image + (long long)oy * a.ys.h + (long long)ox * a.ys.w + c;
        const long long r_at = (long long)image * a.rs.image + (long long)oy * a.rs.h + (long long)ox * a.rs.w + c;
        if (a.bias) {
            v0 += ((const float *)a.bias)[c];
            v1 += second ? ((const float *)a.bias)[c + 1] : 0.0f;
        }
        if (a.residual) {
            v0 += reef_load_elem((const void *)a.residual, r_at, a.rs.type);
            v1 += second ? reef_load_elem((const void *)a.residual, r_at + 1, a.rs.type) : 0.0f;
        }
        reef_store_elem((void *)a.y, y_at, a.ys.type, reef_activate(v0, a.act, a.act_a, a.act_b));
        if (second) {
            reef_store_elem((void *)a.y, y_at + 1, a.ys.type, reef_activate(v1, a.act, a.act_a, a.act_b));
        }
        return true;
    }
};

REEF_KERNEL(reef_depthwise, depthwise)
