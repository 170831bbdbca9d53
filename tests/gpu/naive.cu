/*
 * naive.cu - the plainest form of convolution, product and attention, summed in double: what kernel_bench.c compares with.
 * Results are in logical order, row major.
 */
#include <cuda_fp16.h>
#include <stdint.h>

#include "naive.h"

static __device__ double load(uint64_t p, long long i, int type)
{
    switch (type) {
    case 0: return ((const float *)p)[i];
    case 1: return __half2float(((const __half *)p)[i]);
    default: return ((const unsigned char *)p)[i];
    }
}

static __device__ unsigned long long mix(unsigned long long x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 33;
}

extern "C" __global__ void naive_fill(uint64_t p, long long n, int type, unsigned long long seed)
{
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (long long)gridDim.x * blockDim.x) {
        float v = (float)(mix(seed * 0x9e3779b97f4a7c15ull + (unsigned long long)i) >> 40) / (1 << 23) - 1.0f;
        if (type == 0) {
            ((float *)p)[i] = v;
        } else if (type == 1) {
            ((__half *)p)[i] = __float2half(v);
        } else {
            ((unsigned char *)p)[i] = v > -0.7f;
        }
    }
}

static __device__ double act(double x, int kind)
{
    switch (kind) {
    case 1: return x < 0 ? 0 : x;
    case 4: return 1 / (1 + exp(-x));
    case 7: return x / (1 + exp(-x));
    case 8: return tanh(x);
    case 9: return 0.5 * x * (1 + erf(x * 0.70710678118654752));
    default: return x;
    }
}

extern "C" __global__ void naive_conv(naive_args a)
{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.total) {
        return;
    }
    long long ox = i % a.y[3], oy = i / a.y[3] % a.y[2], m = i / (a.y[3] * a.y[2]) % a.y[1],
              n = i / (a.y[3] * a.y[2] * a.y[1]);
    long long filters = a.y[1] / a.groups, channels = a.x[1] / a.groups, g = m / filters;
    double sum = 0;
    for (int ky = 0; ky < a.kernel[0]; ky++) {
        for (int kx = 0; kx < a.kernel[1]; kx++) {
            long long iy = oy * a.stride[0] - a.pad[0] + ky * a.dilation[0];
            long long ix = ox * a.stride[1] - a.pad[1] + kx * a.dilation[1];
            if (a.transposed) {
                long long ty = oy + a.pad[0] - ky * a.dilation[0], tx = ox + a.pad[1] - kx * a.dilation[1];
                iy = ty % a.stride[0] ? -1 : ty / a.stride[0];
                ix = tx % a.stride[1] ? -1 : tx / a.stride[1];
            }
            if (iy < 0 || ix < 0 || iy >= a.x[2] || ix >= a.x[3]) {
                continue;
            }
            for (long long c = 0; c < channels; c++) {
                double x =
                    load(a.xp, n * a.xs[0] + (g * channels + c) * a.xs[1] + iy * a.xs[2] + ix * a.xs[3], a.x_type);
                long long w = a.transposed ? ((g * channels + c) * filters + m % filters) : m * channels + c;
                sum += x * ((const float *)a.w)[(w * a.kernel[0] + ky) * a.kernel[1] + kx];
            }
        }
    }
    if (a.bias) {
        sum += ((const float *)a.bias)[m];
    }
    if (a.residual) {
        sum += load(a.residual, n * a.rs[0] + m * a.rs[1] + oy * a.rs[2] + ox * a.rs[3], a.r_type);
    }
    ((float *)a.out)[i] = (float)act(sum, a.act);
}

/* y, x as (d0, d1, M, N or K); w: (K, N) by ws, or computed with batch strides */
extern "C" __global__ void naive_matmul(naive_args a)
{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.total) {
        return;
    }
    long long n = i % a.y[3], m = i / a.y[3] % a.y[2], b1 = i / (a.y[3] * a.y[2]) % a.y[1],
              b0 = i / (a.y[3] * a.y[2] * a.y[1]);
    double sum = 0;
    for (long long k = 0; k < a.x[3]; k++) {
        sum += load(a.xp, b0 * a.xs[0] + b1 * a.xs[1] + m * a.xs[2] + k * a.xs[3], a.x_type) *
               load(a.w, b0 * a.ws[0] + b1 * a.ws[1] + k * a.ws[2] + n * a.ws[3], a.w_type);
    }
    if (a.bias) {
        sum += ((const float *)a.bias)[n];
    }
    if (a.residual) {
        sum += load(a.residual, b0 * a.rs[0] + b1 * a.rs[1] + m * a.rs[2] + n * a.rs[3], a.r_type);
    }
    ((float *)a.out)[i] = (float)act(sum, a.act);
}

/* x = q, w = k, residual = v, bias = mask (strides in ms) */
extern "C" __global__ void naive_attention(naive_args a)
{
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= a.total) {
        return;
    }
    long long d = i % a.y[3], s = i / a.y[3] % a.y[2], h = i / (a.y[3] * a.y[2]) % a.y[1],
              b = i / (a.y[3] * a.y[2] * a.y[1]);
    double top = -INFINITY, sum = 0, out = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (long long t = 0; t < a.keys; t++) {
            double score = 0;
            for (long long j = 0; j < a.x[3]; j++) {
                score += load(a.xp, b * a.xs[0] + h * a.xs[1] + s * a.xs[2] + j * a.xs[3], a.x_type) *
                         load(a.w, b * a.ws[0] + h * a.ws[1] + t * a.ws[2] + j * a.ws[3], a.w_type);
            }
            score *= a.scale;
            if (a.bias) {
                double m = load(a.bias, b * a.ms[0] + h * a.ms[1] + s * a.ms[2] + t * a.ms[3], a.m_type);
                score = a.m_type < 2 ? score + m : m != 0 ? score : -INFINITY;
            }
            if (pass == 0) {
                top = fmax(top, score);
            } else if (top > -INFINITY) {
                double e = exp(score - top);
                sum += e;
                out += e * load(a.residual, b * a.rs[0] + h * a.rs[1] + t * a.rs[2] + d * a.rs[3], a.r_type);
            }
        }
    }
    ((float *)a.out)[i] = sum > 0 ? (float)(out / sum) : 0.0f;
}

/* result[0]: bits of the largest error, result[1]: of the largest reference, result[2], [3]: a hash of y */
extern "C" __global__ void naive_compare(naive_args a, uint64_t y, int y_type, uint64_t result)
{
    unsigned *r = (unsigned *)result;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < a.total;
         i += (long long)gridDim.x * blockDim.x) {
        long long rest = i, at = 0;
        for (int d = 3; d >= 0; d--) {
            at += rest % a.y[d] * a.ys[d];
            rest /= a.y[d];
        }
        float got = (float)load(y, at, y_type), want = ((const float *)a.out)[i];
        float error = fabsf(got - want);
        atomicMax(r, error == error ? __float_as_uint(error) : 0x7f800000u);
        atomicMax(r + 1, __float_as_uint(fabsf(want)));
        atomicAdd((unsigned long long *)(r + 2), mix(i * 0x9e3779b97f4a7c15ull + __float_as_uint(got)));
    }
}
