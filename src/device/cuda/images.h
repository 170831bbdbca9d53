/*
 * images.h - the compiled kernels that the build embedded: one entry per source file and target.
 *
 * The table is assembled by the build (tools/embed_cuda.sh) and ends with an entry whose name is NULL. A build without
 * nvcc has only that entry.
 */
#ifndef REEF_DEVICE_CUDA_IMAGES_H
#define REEF_DEVICE_CUDA_IMAGES_H

#include <stdint.h>

typedef struct reef_cuda_image {
    const char *name; /* of the source file: "conv" */
    const unsigned char *begin, *end;
    uint32_t arch;   /* 90: sm_90 or sm_90a; for PTX the least it needs */
    uint32_t is_ptx; /* text with a terminating zero behind `end` */
} reef_cuda_image;

extern const reef_cuda_image reef_cuda_images[];

#endif
