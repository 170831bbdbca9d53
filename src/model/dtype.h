/*
 * dtype.h - element sizes.
 */
#ifndef REEF_MODEL_DTYPE_H
#define REEF_MODEL_DTYPE_H

#include <stddef.h>

#include "reef/reef.h"

static inline size_t reef_dtype_bytes(reef_dtype dtype)
{
    switch (dtype) {
    case REEF_F32:
    case REEF_I32: return 4;
    case REEF_I64:
    case REEF_F64: return 8;
    case REEF_F16: return 2;
    case REEF_BOOL:
    case REEF_U8:
    case REEF_I8: return 1;
    }
    return 0;
}

#endif
