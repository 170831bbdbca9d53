/*
 * dtype.c - element types by name.
 */
#include "model/dtype.h"

const char *reef_dtype_name(reef_dtype dtype)
{
    switch (dtype) {
    case REEF_F32: return "float32";
    case REEF_U8: return "uint8";
    case REEF_I8: return "int8";
    case REEF_I32: return "int32";
    case REEF_I64: return "int64";
    case REEF_BOOL: return "bool";
    case REEF_F16: return "float16";
    case REEF_F64: return "float64";
    }
    return "unknown";
}
