/*
 * watch.c - taking units away from workers without a call of the driver.
 *
 *      host    stores "revoked up to g" in pinned memory
 *      watch   a kernel of one thread, on the GPU while workers are: copies it to the word that workers look at, and leaves
 *
 * The submitter starts one in front of workers that a request would wait for (submit.c): it costs best-effort work a few
 * percent, because a block here and there does not find its place. It may be on its way, or have left: the host looks whether one
 * is there after it has stored the word, and otherwise has the driver write another word, which means the same. Each of the
 * two words has one stream that writes it, so that neither ever becomes older.
 *
 * A kernel that stays would hold up calls that wait for the whole GPU. So whoever loads, measures or frees pauses it.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "device/cuda/cuda.h"
#include "device/cuda/kernels/watch.h"

enum {
    WORDS_BYTES = 4096, /* a page: that is what is pinned */
    IDLE_NS = 100 * 1000,
    LIMIT_NS = 1000 * 1000 * 1000,
};

struct cuda_watch {
    reef_watch_words *words;
    CUdeviceptr address; /* of them */
    CUstream stream;
    _Atomic bool loaded; /* into this context: there is a stream; asked without a lock */
    CUfunction function;
    _Atomic uint32_t number;  /* of the youngest that was launched */
    _Atomic uint32_t written; /* a generation that its word has reached, or is about to */
};

cuda_watch *cuda_watch_create(void)
{
    cuda_watch *watch = calloc(1, sizeof *watch);
    if (watch) {
        watch->words = aligned_alloc(WORDS_BYTES, WORDS_BYTES);
        if (!watch->words) {
            free(watch);
            return NULL;
        }
        *watch->words = (reef_watch_words){0};
    }
    return watch;
}

void cuda_watch_destroy(cuda_watch *watch)
{
    if (watch) {
        free(watch->words);
        free(watch);
    }
}

/* The context is current. */
static bool launch(const cuda_device *device, uint32_t known, uint64_t limit_ns)
{
    cuda_watch *watch = device->watch;
    const uint32_t number = atomic_load_explicit(&watch->number, memory_order_relaxed) + 1;
    reef_watch_args args = {
        .words = watch->address,
        .revoked = device->revoked + offsetof(reef_revoked, by_watch),
        .idle_ns = IDLE_NS,
        .limit_ns = limit_ns,
        .number = number,
        .known = known,
    };
    void *parameters[] = {&args};
    reef_error ignored;
    const bool launched = !CUDA_TRY(
        device->cu, &ignored,
        launch_kernel(watch->function, 1, 1, 1, CUDA_WATCH_THREADS, 1, 1, 0, watch->stream, parameters, NULL));
    if (launched) {
        atomic_store(&watch->written, known);
        atomic_store(&watch->number, number);
    }
    return launched;
}

void cuda_watch_load(cuda_device *device)
{
    cuda_watch *watch = device->watch;
    const cuda_driver *cu = device->cu;
    reef_error ignored; /* without it the driver writes the word */
    const uint32_t number = atomic_load(&watch->number);
    __atomic_store_n(&watch->words->begun, number, __ATOMIC_RELAXED); /* a request may be asking whether it is there */
    __atomic_store_n(&watch->words->ended, number, __ATOMIC_RELAXED);
    watch->words->revoked = watch->words->busy = 0;
    atomic_store(&watch->written, 0);
    if (cuda_code_function(device, "reef_watch", 0, &watch->function, &ignored) ||
        CUDA_TRY(
            cu, &ignored,
            host_register(watch->words, WORDS_BYTES, CUDA_HOST_REGISTER_PORTABLE | CUDA_HOST_REGISTER_DEVICEMAP))) {
        return;
    }
    if (CUDA_TRY(cu, &ignored, host_device_pointer(&watch->address, watch->words, 0)) ||
        CUDA_TRY(cu, &ignored, stream_create(&watch->stream, CUDA_STREAM_NON_BLOCKING, device->greatest_priority))) {
        cu->host_unregister(watch->words);
        return;
    }
    atomic_store(&watch->loaded, true);
    /* The driver loads a kernel when it is first launched, which takes long. */
    if (launch(device, 0, 0)) {
        cu->stream_synchronize(watch->stream);
    }
}

void cuda_watch_unload(cuda_device *device, bool reachable)
{
    cuda_watch *watch = device->watch;
    if (!watch || !atomic_exchange(&watch->loaded, false)) {
        return;
    }
    if (reachable) {
        cuda_watch_pause(device);
        device->cu->stream_synchronize(watch->stream);
        device->cu->stream_destroy(watch->stream);
        device->cu->host_unregister(watch->words);
        cuda_watch_resume(device);
    }
}

void cuda_watch_pause(cuda_device *device)
{
    __atomic_fetch_add(&device->watch->words->paused, 1, __ATOMIC_SEQ_CST);
}

void cuda_watch_resume(cuda_device *device)
{
    __atomic_fetch_sub(&device->watch->words->paused, 1, __ATOMIC_SEQ_CST);
}

/* Launched, and not seen to have ended. */
static bool is_out(const cuda_watch *watch)
{
    return __atomic_load_n(&watch->words->ended, __ATOMIC_SEQ_CST) !=
           atomic_load_explicit(&watch->number, memory_order_relaxed);
}

bool cuda_watch_is_there(const cuda_device *device)
{
    const cuda_watch *watch = device->watch;
    return atomic_load_explicit(&watch->loaded, memory_order_relaxed) && is_out(watch) &&
           __atomic_load_n(&watch->words->begun, __ATOMIC_RELAXED) ==
               atomic_load_explicit(&watch->number, memory_order_relaxed);
}

void cuda_watch_start(cuda_device *device, uint32_t known)
{
    const cuda_watch *watch = device->watch;
    if (atomic_load(&watch->loaded) && !is_out(watch) && !__atomic_load_n(&watch->words->paused, __ATOMIC_RELAXED)) {
        launch(device, known, LIMIT_NS);
    }
}

void cuda_watch_busy(cuda_device *device, bool busy)
{
    __atomic_store_n(&device->watch->words->busy, busy, __ATOMIC_RELAXED);
}

bool cuda_watch_revoke(cuda_device *device, uint32_t generation)
{
    cuda_watch *watch = device->watch;
    reef_error ignored;
    const bool loaded = atomic_load(&watch->loaded);
    if (loaded) {
        /* In this order for all to see: the watch says that it leaves before it looks for the last time. */
        __atomic_exchange_n(&watch->words->revoked, generation, __ATOMIC_SEQ_CST);
        if (cuda_watch_is_there(device)) {
            return true;
        }
    }
    /* Workers compare with both words, which come round: neither may stay too far behind. */
    const CUstream stream = loaded ? watch->stream : device->control;
    if (generation - atomic_load(&watch->written) > CUDA_MAX_AHEAD &&
        !CUDA_TRY(device->cu, &ignored,
                  stream_write32(stream, device->revoked + offsetof(reef_revoked, by_watch), generation, 0))) {
        atomic_store(&watch->written, generation);
    }
    return false;
}
