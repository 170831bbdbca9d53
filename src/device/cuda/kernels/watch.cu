/*
 * watch.cu - one thread that carries the host's "revoked up to here" from pinned memory to the word that workers look at.
 *
 * The host cannot write device memory without the driver, and a call of the driver takes longer than workers need to leave.
 * A thread that is on the GPU while workers are sees a word in the host's memory a microsecond or two after it was stored.
 * It leaves when it has passed one on: what comes then is real-time work, which is to have all of the GPU.
 */
#include "device/cuda/kernels/device.cuh"
#include "device/cuda/kernels/watch.h"

static __device__ __forceinline__ uint4 look_at_host(const reef_watch_words *words)
{
    uint4 v;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(words)
                 : "memory");
    return v;
}

extern "C" __global__ void __launch_bounds__(32) reef_watch(const __grid_constant__ reef_watch_args a)
{
    if (threadIdx.x != 0) {
        return;
    }
    reef_watch_words *words = (reef_watch_words *)a.words;
    volatile uint32_t *revoked = (volatile uint32_t *)a.revoked;
    uint64_t start = reef_now_ns(), busy = start;
    uint32_t known = *revoked; /* the one before may have passed on more than was known when this one was ordered */
    if ((int32_t)(a.known - known) > 0) {
        *revoked = known = a.known;
    }
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(&words->begun), "r"(a.number) : "memory");
    /* A look takes about a microsecond: the count bounds the loop where the timer stands still. */
    for (uint64_t looks = a.limit_ns / 250 + 4; looks; looks--) {
        const uint4 seen = look_at_host(words);
        const uint64_t now = reef_now_ns();
        busy = seen.y ? now : busy;
        if ((int32_t)(seen.x - known) > 0) {
            *revoked = known = seen.x;
            break;
        }
        if (seen.z || now - busy > a.idle_ns || now - start > a.limit_ns) {
            break;
        }
    }
    /* Says first that it leaves, then looks once more; the host stores first, then looks whether it has left (watch.c). */
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(&words->ended), "r"(a.number) : "memory");
    __threadfence_system();
    const uint4 last = look_at_host(words);
    if ((int32_t)(last.x - known) > 0) {
        *revoked = last.x;
    }
}
