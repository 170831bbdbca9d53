/*
 * halves.cuh - from products to memory: fragments of 16 pixels by 8 columns, rounded to halves, as 16-byte stores.
 *
 * After a product lane 4x + q has columns 8j + 2q and the one after of pixels x and x + 8, for several j. Four lanes of one
 * pixel transpose four such words each; then a lane has eight neighbouring columns, and the four lanes 64 bytes of a pixel.
 */
#ifndef REEF_DEVICE_CUDA_KERNELS_HALVES_CUH
#define REEF_DEVICE_CUDA_KERNELS_HALVES_CUH

#include "device/cuda/kernels/mma.cuh"

static __device__ __forceinline__ uint32_t halves_of(float lo, float hi)
{
    const __half2 h = __floats2half2_rn(lo, hi);
    return *(const uint32_t *)&h;
}
/* Word i of lane j of each four becomes word j of lane i. */
static __device__ __forceinline__ void halves_transpose(uint32_t (&w)[4])
{
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    uint32_t s = odd ? w[0] : w[1], r = __shfl_xor_sync(0xffffffffu, s, 1);
    odd ? w[0] = r : w[1] = r;
    s = odd ? w[2] : w[3], r = __shfl_xor_sync(0xffffffffu, s, 1);
    odd ? w[2] = r : w[3] = r;
    s = high ? w[0] : w[2], r = __shfl_xor_sync(0xffffffffu, s, 2);
    high ? w[0] = r : w[2] = r;
    s = high ? w[1] : w[3], r = __shfl_xor_sync(0xffffffffu, s, 2);
    high ? w[1] = r : w[3] = r;
}
/* Four words of eight columns each from `col` on: transposed, and stored at a.y + at where the lane's pixel is inside. */
template <class Args>
static __device__ __forceinline__ void halves_emit(const Args &a, uint32_t (&w)[4], bool inside, int at, int col)
{
    halves_transpose(w);
    col += (threadIdx.x & 3) * 8;
    if (!inside) {
        return;
    }
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

#endif
