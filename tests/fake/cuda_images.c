/*
 * cuda_images.c - the kernels that the fake driver has, in place of the table that the build embeds.
 *
 * Linked into tests of the CUDA device in front of the library. The text is what the host code looks for in PTX.
 */
#include <stddef.h>

#include "device/cuda/images.h"

#define BOTH(name) ".entry " name "(\n.entry " name "_be(\n"
static const char text[] = ".entry reef_io_in(\n.entry reef_io_end(\n" BOTH("reef_elt_f32_v1") BOTH("reef_elt_f32_v4")
    BOTH("reef_spin") BOTH("reef_short_v1") BOTH("reef_short_v4") BOTH("reef_short_v8");

const reef_cuda_image reef_cuda_images[] = {
    {"fake", (const unsigned char *)text, (const unsigned char *)text + sizeof text - 1, 75, 1},
    {NULL, NULL, NULL, 0, 0},
};
