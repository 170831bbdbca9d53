/*
 * table.c - an instruction set's entry points.
 */
#include "device/cpu/kernels/isa.h"

const reef_cpu_isa REEF_ISA_FN(reef_cpu_isa) = {
    .name = REEF_ISA_NAME,
    .prepare =
        {
            [REEF_K_CONV] = REEF_ISA_FN(reef_cpu_prepare_conv),
            [REEF_K_CONV_TRANSPOSE] = REEF_ISA_FN(reef_cpu_prepare_conv_transpose),
            [REEF_K_MATMUL] = REEF_ISA_FN(reef_cpu_prepare_matmul),
            [REEF_K_ATTENTION] = REEF_ISA_FN(reef_cpu_prepare_attention),
            [REEF_K_POOL] = REEF_ISA_FN(reef_cpu_prepare_pool),
            [REEF_K_ELTWISE] = REEF_ISA_FN(reef_cpu_prepare_eltwise),
            [REEF_K_COPY] = REEF_ISA_FN(reef_cpu_prepare_copy),
            [REEF_K_REDUCE] = REEF_ISA_FN(reef_cpu_prepare_reduce),
            [REEF_K_SOFTMAX] = REEF_ISA_FN(reef_cpu_prepare_softmax),
            [REEF_K_LAYER_NORM] = REEF_ISA_FN(reef_cpu_prepare_layer_norm),
            [REEF_K_GATHER] = REEF_ISA_FN(reef_cpu_prepare_gather),
            [REEF_K_RESIZE] = REEF_ISA_FN(reef_cpu_prepare_resize),
            [REEF_K_LRN] = REEF_ISA_FN(reef_cpu_prepare_lrn),
            [REEF_K_ARG_MAX] = REEF_ISA_FN(reef_cpu_prepare_arg_max),
            [REEF_K_SPIN] = REEF_ISA_FN(reef_cpu_prepare_spin),
        },
};
