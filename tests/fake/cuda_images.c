/*
 * cuda_images.c - the kernels that the fake driver has, in place of the table that the build embeds.
 *
 * Linked into tests of the CUDA device in front of the library. The text is what the host code looks for in PTX. With
 * FAKE_CUDA_PADS there are the modules of kernel padding as well, as a build for GPUs with clusters has them.
 */
#include <stddef.h>

#include "device/cuda/images.h"

#define BOTH(name) ".entry " name "(\n.entry " name "_be(\n"
static const char text[] =
    ".entry reef_io_in(\n.entry reef_io_end(\n.entry reef_pad_close(\n.entry reef_watch(\n" BOTH("reef_elt_f32_v1")
        BOTH("reef_elt_f32_v4") BOTH("reef_spin") BOTH("reef_short_v1") BOTH("reef_short_v4") BOTH("reef_short_v8");
#ifdef FAKE_CUDA_PADS
#define PAD(name, level)  ".entry " name "_pad" #level "(\n"
#define RIDE(name, level) ".entry " name "_rider" #level "(\n.global " name "_at" #level ";\n"
#define PADS(level)                                                                                                    \
    PAD("reef_nothing", level) PAD("reef_elt_f32_v1", level) PAD("reef_elt_f32_v4", level) PAD("reef_spin", level)
static const char pads64[] = PADS(64), pads128[] = PADS(128);
/* One of them does not ride. */
static const char rides64[] = RIDE("reef_elt_f32_v4", 64) RIDE("reef_spin", 64);
static const char rides128[] = RIDE("reef_elt_f32_v4", 128) RIDE("reef_spin", 128);
#endif

#define IMAGE(name, text)                                                                                              \
    {                                                                                                                  \
        name, (const unsigned char *)text, (const unsigned char *)text + sizeof text - 1, 75, 1                        \
    }
const reef_cuda_image reef_cuda_images[] = {
    IMAGE("fake", text),
#ifdef FAKE_CUDA_PADS
    IMAGE("fake_pads64", pads64),
    IMAGE("fake_pads128", pads128),
    IMAGE("fake_rides64", rides64),
    IMAGE("fake_rides128", rides128),
#endif
    {NULL, NULL, NULL, 0, 0},
};
