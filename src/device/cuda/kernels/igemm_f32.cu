/* igemm_f32.cu - matrix products of floats, three tf32 products for each. igemm_host.c lists the same entry points. */
#include "device/cuda/kernels/igemm.cuh"

REEF_KERNEL(reef_igemm_f32_64x64, igemm<REEF_P_F32, 64, 64, 32, 32, 4, IGEMM_MMA>)
REEF_KERNEL(reef_igemm_f32_any, igemm<REEF_P_F32, 64, 64, 32, 32, 3, IGEMM_ANY>)
REEF_KERNEL(reef_igemm_f32_transposed, igemm<REEF_P_F32, 64, 64, 32, 32, 3, IGEMM_ANY | IGEMM_TRANSPOSED>)
