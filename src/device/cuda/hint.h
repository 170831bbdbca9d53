/*
 * hint.h - hints and the time slice of the CUDA device: what device.c and recover.c need of hint.c.
 */
#ifndef REEF_DEVICE_CUDA_HINT_H
#define REEF_DEVICE_CUDA_HINT_H

#include "device/device.h"

typedef struct cuda_hint cuda_hint;
struct cuda_device;

/* NULL: out of memory. Nothing of the driver's is made before the first hint. */
cuda_hint *cuda_hint_create(void);
/* After the context. NULL is allowed. */
void cuda_hint_destroy(cuda_hint *hint);
/* Ends what waits and forgets the context. It must be current, unless it cannot be entered (`reachable` is false). */
void cuda_hint_unload(struct cuda_device *device, bool reachable);
/* reef_device_ops.hint */
reef_status cuda_hint_send(reef_dev *dev, uint64_t hold_ns, reef_error *error);

/* The channel groups that libcuda makes for this process from now on get this slice (src/nice/own.h). What came of it is
 * told by cuda_slice_get, reef_device_ops.slice. */
void cuda_slice_want(uint32_t slice_us);
reef_status cuda_slice_get(const reef_dev *dev, uint32_t *us, reef_error *error);

#endif
