/*
 * half.c - float16 as bits: the compilers that reef is built with do not all have the type.
 */
#include "base/half.h"

#include <string.h>

float reef_half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3ff, bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else { /* subnormal: mantissa * 2^-24, exact in a float */
        float tiny = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &tiny, 4);
        bits |= sign;
    }
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

uint16_t reef_half_from_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000u) {
        return sign | 0x7e00;
    }
    if (bits >= 0x477ff000u) { /* 65520 and above round to infinity */
        return sign | 0x7c00;
    }
    if (bits < 0x38800000u) { /* below 2^-14: adding 0.5 leaves the mantissa, rounded to even, in the low bits */
        float shifted;
        memcpy(&shifted, &bits, 4);
        shifted += 0.5f;
        memcpy(&bits, &shifted, 4);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    bits += 0xfff + (bits >> 13 & 1); /* to nearest, ties to even */
    return (uint16_t)(sign | (bits - 0x38000000u) >> 13);
}
