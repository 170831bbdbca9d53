/*
 * half.h - float16 as bits.
 */
#ifndef REEF_BASE_HALF_H
#define REEF_BASE_HALF_H

#include <stdint.h>

/* Exact. */
float reef_half_to_float(uint16_t half);
/* To nearest, ties to even; 65520 and above become infinite; NaN stays NaN. */
uint16_t reef_half_from_float(float value);

#endif
