/* igemm_f16.cu - matrix products of halves with f32 sums. igemm_host.c lists the same entry points. */
#include "device/cuda/kernels/igemm.cuh"

REEF_KERNEL(reef_igemm_f16_32x32, igemm<REEF_P_F16, 32, 32, 16, 16, 6, IGEMM_MMA>)
REEF_KERNEL(reef_igemm_f16_64x32, igemm<REEF_P_F16, 64, 32, 32, 16, 4, IGEMM_MMA>)
REEF_KERNEL(reef_igemm_f16_64x64, igemm<REEF_P_F16, 64, 64, 32, 32, 4, IGEMM_MMA>)
REEF_KERNEL(reef_igemm_f16_128x128, igemm<REEF_P_F16, 128, 128, 64, 32, 4, IGEMM_MMA>)
REEF_KERNEL(reef_igemm_f16_window, igemm<REEF_P_F16, 64, 64, 32, 32, 3, IGEMM_MMA | IGEMM_WINDOW>)
REEF_KERNEL(reef_igemm_f16_window32, igemm<REEF_P_F16, 64, 32, 32, 16, 3, IGEMM_MMA | IGEMM_WINDOW>)
REEF_KERNEL(reef_igemm_f16_any, igemm<REEF_P_F16, 64, 64, 32, 32, 3, IGEMM_ANY>)
REEF_KERNEL(reef_igemm_f16_transposed, igemm<REEF_P_F16, 64, 64, 32, 32, 3, IGEMM_ANY | IGEMM_TRANSPOSED>)
#ifdef REEF_WGMMA_BUILD /* the module for sm_90a alone */
REEF_KERNEL_FIT(reef_igemm_f16_wg64x32, 1, igemm<REEF_P_F16, 64, 32, 16, 32, 8, IGEMM_WGMMA>)
REEF_KERNEL_FIT(reef_igemm_f16_wg64x64, 1, igemm<REEF_P_F16, 64, 64, 16, 64, 6, IGEMM_WGMMA>)
REEF_KERNEL_FIT(reef_igemm_f16_wg64x128, 1, igemm<REEF_P_F16, 64, 128, 16, 128, 4, IGEMM_WGMMA>)
REEF_KERNEL_FIT(reef_igemm_f16_wg128x64, 1, igemm<REEF_P_F16, 128, 64, 16, 64, 4, IGEMM_WGMMA>)
REEF_KERNEL_FIT(reef_igemm_f16_wg128x128, 1, igemm<REEF_P_F16, 128, 128, 16, 128, 6, IGEMM_WGMMA>)
#endif
