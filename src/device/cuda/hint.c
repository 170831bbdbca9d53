/*
 * hint.c - starting the context switch before the request is there, and the process's own time slice.
 *
 *     hint ................... request ....... end
 *      | launch                    | launch      | release
 *      v                           v             v
 *     [ switch to our context | hint kernel waits ]
 *                                  [ request's kernels: the context is in place ]
 *
 * The completer stays awake for as long, so that its waking up is hidden too.
 *
 * The hint kernel (kernels/hint.cu) is one thread on a stream of its own, and a launch queued behind it keeps the turn. It
 * ends when the request has ended, or after its hold. At most two are under way: one that waits and one that has
 * been released.
 */
#include <dlfcn.h>
#include <stdlib.h>

#include "base/clock.h"
#include "device/cuda/cuda.h"
#include "device/cuda/hint.h"
#include "device/cuda/kernels/hint.h"
#include "nice/own.h"

struct cuda_hint {
    pthread_mutex_t lock; /* outermost; guards everything here, and the order of launches */
    bool loaded;          /* in the context that there is now */
    CUstream stream;
    CUfunction function;
    reef_hint_words *words; /* pinned while loaded */
    CUdeviceptr words_address;
    uint32_t sent;
};

static const size_t words_bytes = 4096; /* a page: that is what is pinned */

cuda_hint *cuda_hint_create(void)
{
    cuda_hint *hint = calloc(1, sizeof *hint);
    if (hint) {
        hint->words = aligned_alloc(words_bytes, words_bytes);
        if (!hint->words) {
            free(hint);
            return NULL;
        }
        *hint->words = (reef_hint_words){0};
        pthread_mutex_init(&hint->lock, NULL);
    }
    return hint;
}

void cuda_hint_destroy(cuda_hint *hint)
{
    if (hint) {
        pthread_mutex_destroy(&hint->lock);
        free(hint->words);
        free(hint);
    }
}

void cuda_hint_unload(cuda_device *device, bool reachable)
{
    cuda_hint *hint = device->hint;
    if (hint && hint->loaded) {
        /* So that a hint that waits ends now. */
        __atomic_store_n(&hint->words->released, hint->sent, __ATOMIC_RELEASE);
        if (reachable) {
            device->cu->stream_destroy(hint->stream);
            device->cu->host_unregister(hint->words);
        }
        hint->loaded = false;
    }
}

/* The context must be current. */
static reef_status load(cuda_device *device, reef_error *error)
{
    cuda_hint *hint = device->hint;
    const cuda_driver *cu = device->cu;
    if (hint->loaded) {
        return REEF_OK;
    }
    hint->words->ended = hint->words->released = hint->sent;
    reef_status status = cuda_code_function(device, "reef_hint", 0, &hint->function, error);
    if (!status) {
        status = CUDA_TRY(
            cu, error,
            host_register(hint->words, words_bytes, CUDA_HOST_REGISTER_PORTABLE | CUDA_HOST_REGISTER_DEVICEMAP));
    }
    if (status) {
        return status;
    }
    status = CUDA_TRY(cu, error, host_device_pointer(&hint->words_address, hint->words, 0));
    if (!status) {
        status = CUDA_TRY(cu, error, stream_create(&hint->stream, CUDA_STREAM_NON_BLOCKING, device->greatest_priority));
    }
    if (status) {
        cu->host_unregister(hint->words);
        return status;
    }
    hint->loaded = true;
    return REEF_OK;
}

static reef_status send(cuda_device *device, uint64_t hold_ns, reef_error *error)
{
    cuda_hint *hint = device->hint;
    pthread_mutex_lock(&device->lock);
    bool dead = device->dead;
    pthread_mutex_unlock(&device->lock);
    if (dead) {
        return reef_fail(error, REEF_DEVICE, "%s is lost to this process", device->gpu->name);
    }
    reef_status status = cuda_enter(device, error);
    if (status) {
        return status;
    }
    status = load(device, error);
    /* Acquire: pairs with the kernel's release. */
    if (!status && hint->sent - __atomic_load_n(&hint->words->ended, __ATOMIC_ACQUIRE) < 2) {
        reef_hint_args args = {.words = hint->words_address, .hold_ns = hold_ns, .number = hint->sent + 1};
        void *parameters[] = {&args};
        __atomic_store_n(&hint->words->released, hint->sent, __ATOMIC_RELEASE); /* the one before makes room */
        status = CUDA_TRY(device->cu, error,
                          launch_kernel(hint->function, 1, 1, 1, 32, 1, 1, 0, hint->stream, parameters, NULL));
        args.hold_ns = 0;
        if (!status) {
            status = CUDA_TRY(device->cu, error,
                              launch_kernel(hint->function, 1, 1, 1, 32, 1, 1, 0, hint->stream, parameters, NULL));
        }
        if (!status) {
            __atomic_store_n(&hint->sent, hint->sent + 1, __ATOMIC_RELAXED); /* read without the lock by a release */
        }
    }
    cuda_leave(device);
    return status;
}

reef_status cuda_hint_send(reef_dev *dev, uint64_t hold_ns, reef_error *error)
{
    cuda_device *device = (cuda_device *)dev;
    cuda_hint *hint = device->hint;
    reef_status status = REEF_OK;
    if (hold_ns == 0) { /* no call of the driver's */
        atomic_store_explicit(&device->request_due_ns, 0, memory_order_relaxed);
        __atomic_store_n(&hint->words->released, __atomic_load_n(&hint->sent, __ATOMIC_RELAXED), __ATOMIC_RELEASE);
        return REEF_OK;
    }
    atomic_store_explicit(&device->request_due_ns, reef_now_ns() + hold_ns, memory_order_relaxed);
    cuda_bump(device);
    pthread_rwlock_rdlock(&device->context_lock);
    pthread_mutex_lock(&hint->lock);
    const bool first = !hint->loaded; /* the calls that load it are not short */
    if (first) {
        cuda_watch_pause(device);
    }
    status = send(device, hold_ns, error);
    if (first) {
        cuda_watch_resume(device);
    }
    pthread_mutex_unlock(&hint->lock);
    pthread_rwlock_unlock(&device->context_lock);
    return status;
}

/* ---------------------------------------------------------------------------------------------- the time slice -- */

void cuda_slice_want(uint32_t slice_us)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (library) { /* kept open: its imports point at us from now on */
        reef_error ignored;
        (void)nice_own_slice(library, nice_rule_of_slice(slice_us), &ignored);
    }
}

reef_status cuda_slice_get(const reef_dev *dev, uint32_t *us, reef_error *error)
{
    unsigned groups;
    (void)dev;
    return nice_own_slice_get(us, &groups, error);
}
