/*
 * igemm_host.h - host half of the matrix kernels: filling in a problem, packing weights, listing candidates.
 *
 * conv_host.c and matmul_host.c describe their operator as an igemm_problem; igemm_offer turns it into candidates.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_IGEMM_HOST_H
#define REEF_DEVICE_CUDA_KERNELS_IGEMM_HOST_H

#include "device/cuda/kernels/cuda_tile.h"
#include "device/cuda/kernels/igemm_args.h"

/* An operand of rank 4 (n, c, h, w) or the like, before it is known whether it can be read in vectors. */
typedef struct igemm_problem {
    reef_igemm_args args; /* everything but addresses, steps, splits, tiles */
    const reef_view *x, *y, *residual /* or NULL */, *b /* computed right operand, or NULL */;
    /* Weight k of column n of group g, in the graph's memory: w[g * w_g + n * w_n + channel * w_c + tap]. */
    const float *w;
    int64_t w_g, w_n, w_c;
    const float *bias;
    int64_t bias_elems;
    bool transposed;
    const reef_view *pooled; /* where maxima over 2x2 of y may go in place of y (reef_kernel.then), or NULL */
    reef_igemm_operand pooled_ys;
    double flops;
} igemm_problem;

static inline bool igemm_strides_fit(const reef_igemm_operand *o, int64_t offset, int multiple)
{
    return o->image % multiple == 0 && o->h % multiple == 0 && o->w % multiple == 0 && o->g0 % multiple == 0 &&
           o->g1 % multiple == 0 && offset % multiple == 0;
}

/* Fails with UNSUPPORTED when an operand spans 2^31 elements or more. */
reef_status igemm_operand(const reef_kernel *k, reef_cuda_prepare *ctx, const reef_view *v, int image, int h, int w,
                          reef_igemm_operand *out);
/* Adds candidates. */
reef_status igemm_offer(igemm_problem *p, const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                        size_t max, size_t *n);
reef_status igemm_upload_bias(reef_cuda_prepare *ctx, const float *bias, int64_t elems, uint64_t *address);
/* n floats as halves, to nearest even. */
void igemm_to_half(uint16_t *to, const float *from, size_t n);

#endif
