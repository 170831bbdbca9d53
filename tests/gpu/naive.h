/* naive.h - arguments of the reference kernels in naive.cu. */
#ifndef REEF_TESTS_GPU_NAIVE_H
#define REEF_TESTS_GPU_NAIVE_H

#include <stdint.h>

typedef struct naive_args {
    uint64_t xp, w, bias, residual, out;
    long long total, keys;
    long long x[4], y[4];
    long long xs[4], ws[4], rs[4], ys[4], ms[4];
    int kernel[2], stride[2], pad[2], dilation[2];
    int groups, act, transposed;
    int x_type, w_type, r_type, m_type;
    float scale;
} naive_args;

#endif
