/*
 * isa.h - one tile source, several instruction sets.
 *
 * Every file in this folder is compiled once per instruction set with -DREEF_ISA=avx512 | avx2 | generic and the
 * matching -m flags. Vectors are GCC vector extensions of the set's natural width, so the source has no intrinsics;
 * exported symbols get the set's name as a suffix through REEF_ISA_FN. table.c gathers a set's entry points.
 */
#ifndef REEF_DEVICE_CPU_KERNELS_ISA_H
#define REEF_DEVICE_CPU_KERNELS_ISA_H

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "device/cpu/tile.h"

#define REEF_ISA_PASTE_(name, isa) name##_##isa
#define REEF_ISA_PASTE(name, isa)  REEF_ISA_PASTE_(name, isa)
#define REEF_ISA_FN(name)          REEF_ISA_PASTE(name, REEF_ISA)
#define REEF_ISA_STRING_(isa)      #isa
#define REEF_ISA_STRING(isa)       REEF_ISA_STRING_(isa)
#define REEF_ISA_NAME              REEF_ISA_STRING(REEF_ISA)

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX2__)
#define VL 8
#else
#define VL 4
#endif

/* A vector of VL floats; vfu may live at any float's address. */
typedef float vf __attribute__((vector_size(VL * 4)));
typedef float vfu __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(VL * 4)));

static inline vf v_load(const float *p)
{
    return (vf) * (const vfu *)p;
}
static inline void v_store(float *p, vf v)
{
    *(vfu *)p = (vfu)v;
}
static inline vf v_set(float x)
{
    return x - (vf){0};
}

/* One prepare function per kernel kind, defined in this folder. */
#define REEF_ISA_PREPARE(kind)                                                                                         \
    reef_status REEF_ISA_FN(reef_cpu_prepare_##kind)(const reef_kernel *k, reef_cpu_prepare *prepare,                  \
                                                     reef_cpu_kernel *out)

REEF_ISA_PREPARE(conv);
REEF_ISA_PREPARE(conv_transpose);
REEF_ISA_PREPARE(matmul);
REEF_ISA_PREPARE(attention);
REEF_ISA_PREPARE(pool);
REEF_ISA_PREPARE(eltwise);
REEF_ISA_PREPARE(copy);
REEF_ISA_PREPARE(reduce);
REEF_ISA_PREPARE(softmax);
REEF_ISA_PREPARE(layer_norm);
REEF_ISA_PREPARE(gather);
REEF_ISA_PREPARE(resize);
REEF_ISA_PREPARE(lrn);
REEF_ISA_PREPARE(arg_max);
REEF_ISA_PREPARE(spin);

#endif
