/*
 * hint.cu - one thread that keeps the GPU in this process's context until a request is there, or for hold_ns at most.
 *
 * The GPU runs one context at a time. Launching anything makes its scheduler switch to ours, which takes as long as saving
 * and restoring a full GPU; this kernel is that anything, and stays so that it does not switch back at once. Staying is not
 * enough: a context whose queues are empty loses its turn while its last kernel runs, and what is launched then waits for a
 * whole round (340 us instead of 170 on an H200). So a second launch is queued behind it, which only notes the end.
 */
#include "device/cuda/kernels/device.cuh"
#include "device/cuda/kernels/hint.h"

static __device__ __forceinline__ uint64_t now_ns(void)
{
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

extern "C" __global__ void __launch_bounds__(32) reef_hint(const __grid_constant__ reef_hint_args a)
{
    if (threadIdx.x != 0) {
        return;
    }
    reef_hint_words *words = (reef_hint_words *)a.words;
    const uint64_t start = now_ns();
    /* A look at the host's memory takes about a microsecond: the count bounds the loop where the timer stands still. */
    for (uint64_t looks = a.hold_ns / 250 + 4; looks; looks--) {
        uint32_t released;
        asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(released) : "l"(&words->released));
        if ((int32_t)(released - a.number) >= 0 || now_ns() - start >= a.hold_ns) {
            break;
        }
        __nanosleep(500);
    }
    if (a.hold_ns) {
        return;
    }
    /* Release, system scope: pairs with the acquire in hint.c. */
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(&words->ended), "r"(a.number) : "memory");
}
