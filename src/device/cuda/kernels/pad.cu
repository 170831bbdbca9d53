/*
 * pad.cu - closing a source (pad.cuh), so that its workers may go on.
 */
#include "device/cuda/kernels/device.cuh"
#include "device/cuda/kernels/pad.h"

/* One thread. Nobody takes tiles any more when it has exchanged the claim; it ends when what was taken has. */
extern "C" __global__ void __launch_bounds__(32) reef_pad_close(uint64_t source_address)
{
    const reef_pad_source *source = (const reef_pad_source *)source_address;
    reef_pad_directory *directory = (reef_pad_directory *)source->directory;
    if (threadIdx.x != 0) {
        return;
    }
    const uint64_t last = atomicExch((unsigned long long *)&directory->claim[source->slot], 0ull);
    if (!(last & REEF_CLAIM_OPEN)) {
        return;
    }
    const reef_pad_kernel *kernel = (const reef_pad_kernel *)source->kernels + REEF_CLAIM_KERNEL(last);
    const uint32_t next = REEF_CLAIM_NEXT(last), tiles = REEF_CLAIM_TILES(last), taken = next < tiles ? next : tiles;
    while ((uint32_t)(*(const volatile uint64_t *)&kernel->ended >> 32) < taken) {
        __nanosleep(200);
    }
    __threadfence();
}
