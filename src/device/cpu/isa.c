/*
 * isa.c - which instruction set's tiles this processor runs.
 */
#include <stdlib.h>
#include <string.h>

#include "device/cpu/tile.h"

#if defined(__x86_64__)
extern const reef_cpu_isa reef_cpu_isa_avx512, reef_cpu_isa_avx2;
#endif
extern const reef_cpu_isa reef_cpu_isa_generic;

const reef_cpu_isa *reef_cpu_isa_select(void)
{
#if defined(__x86_64__)
    const char *cap = getenv("REEF_CPU_ISA");
    bool allow_avx2 = !cap || strcmp(cap, "generic") != 0;
    bool allow_avx512 = allow_avx2 && (!cap || strcmp(cap, "avx2") != 0);
    __builtin_cpu_init();
    if (allow_avx512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return &reef_cpu_isa_avx512;
    }
    if (allow_avx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return &reef_cpu_isa_avx2;
    }
#endif
    return &reef_cpu_isa_generic;
}
