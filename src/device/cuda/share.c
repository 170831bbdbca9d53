/*
 * share.c - real-time and best-effort work at the same time, each on units of its own.
 *
 * Nothing in a kernel decides where its blocks go. What does is the driver's green contexts: contexts of the same process
 * and memory that own some of the units. Each share is a pair of them, which a plan's graph can be made for as it is made
 * for all units. Best-effort work is then exactly where real-time work is not, whatever either launches. Such a graph is
 * launched in a stream of the same green context: in any other it works too, but begins 280 us later (H200, driver 580).
 */
#include "device/cuda/cuda.h"

/* Units for best-effort work; the driver gives them in eights. */
static const unsigned be_units[CUDA_SHARES] = {8, 16, 24, 32, 48, 64};

static reef_status green(cuda_device *device, CUdevResource *units, CUgreenCtx *out, CUcontext *context,
                         reef_error *error)
{
    const cuda_driver *cu = device->cu;
    CUdevResourceDesc description;
    reef_status status = CUDA_TRY(cu, error, describe_resource(&description, units, 1));
    status = status
                 ? status
                 : CUDA_TRY(cu, error, green_create(out, description, device->gpu->device, CUDA_GREEN_DEFAULT_STREAM));
    return status ? status : CUDA_TRY(cu, error, green_context(context, *out));
}

void cuda_shares_load(cuda_device *device)
{
    const cuda_driver *cu = device->cu;
    reef_error ignored;
    CUdevResource all;
    device->n_shares = 0;
    device->share = -1;
    if (!cu->device_resource || !cu->split_sms || !cu->describe_resource || !cu->green_create || !cu->green_destroy ||
        !cu->green_context || !cu->green_stream ||
        CUDA_TRY(cu, &ignored, device_resource(device->gpu->device, &all, CUDA_RESOURCE_SM))) {
        return;
    }
    for (int i = 0; i < CUDA_SHARES && be_units[i] * 2 <= device->gpu->sms; i++) {
        cuda_share *share = &device->shares[device->n_shares];
        CUdevResource be, rt;
        unsigned groups = 1;
        *share = (cuda_share){0};
        reef_status status = CUDA_TRY(cu, &ignored, split_sms(&be, &groups, &all, &rt, 0, be_units[i]));
        status = status ? status : green(device, &be, &share->green[0], &share->be, &ignored);
        status = status ? status : green(device, &rt, &share->green[1], &share->rt, &ignored);
        share->be_units = be.sm.count;
        device->n_shares++;
        if (status) {
            cuda_shares_unload(device); /* all or none: it does without */
            return;
        }
    }
    device->share = cuda_share_of(device, device->lease); /* a lease holds when the context is replaced */
}

void cuda_shares_unload(cuda_device *device)
{
    for (int i = 0; i < device->n_shares; i++) {
        for (int j = 0; j < 2; j++) {
            if (device->shares[i].green[j]) {
                device->cu->green_destroy(device->shares[i].green[j]);
            }
        }
    }
    device->n_shares = 0;
    device->share = -1;
}

int cuda_share_of(const cuda_device *device, reef_lease lease)
{
    const uint32_t first = (uint32_t)lease, end = (uint32_t)(lease >> 32);
    const unsigned units = first < end ? end - first : 0;
    int share = -1;
    for (int i = 0; i < device->n_shares && units < device->base.units; i++) {
        share = device->shares[i].be_units <= units ? i : share;
    }
    return share;
}

unsigned cuda_left_over(reef_dev *dev, unsigned n)
{
    cuda_device *device = (cuda_device *)dev;
    if (n >= dev->units) {
        return n;
    }
    pthread_mutex_lock(&device->lock); /* a recovery may end with no share */
    const int share = cuda_share_of(device, reef_lease_make(dev->units - n, dev->units));
    const unsigned given = share < 0 ? 0 : device->shares[share].be_units;
    pthread_mutex_unlock(&device->lock);
    return given;
}

reef_status cuda_share_stream(const cuda_device *device, int share, bool realtime, CUstream *out, reef_error *error)
{
    const int priority = device->greatest_priority;
    return share < 0
               ? CUDA_TRY(device->cu, error, stream_create(out, CUDA_STREAM_NON_BLOCKING, priority))
               : CUDA_TRY(device->cu, error,
                          green_stream(out, device->shares[share].green[realtime], CUDA_STREAM_NON_BLOCKING, priority));
}
