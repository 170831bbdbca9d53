/*
 * recover.c - after a fault: a new context with every program and instance in it.
 *
 * A kernel that faults poisons its context: every call fails from then on, whoever makes it. So whatever was in the
 * streams has failed, the requests are told so, and the device starts over with what the host still has: plans, chosen
 * variants, weights. Other models then go on as before; handles stay valid. Where the driver refuses a new context, or
 * not everything can be loaded into it, the device is lost: it has no context from then on, every launch and every other
 * call that needs one fails at once with that reason, and the process and its other devices go on.
 */
#include <string.h>

#include "device/cuda/cuda.h"
#include "device/cuda/hint.h"

/* What is in the streams will never end, and what waits behind goes on from results that are gone. */
static void fail_launches(cuda_device *device)
{
    for (reef_list *link = device->queues.next; link != &device->queues; link = link->next) {
        cuda_queue *queue = REEF_CONTAINER(link, cuda_queue, link);
        for (unsigned i = 0; i < queue->count; i++) {
            queue->ring[(queue->head + i) % queue->capacity].failed = true;
            queue->ring[(queue->head + i) % queue->capacity].graph = NULL;
        }
        for (unsigned i = queue->submitted; i < queue->count; i++) {
            queue->ring[(queue->head + i) % queue->capacity].instance->in_flight++;
        }
        queue->submitted = queue->count;
    }
}

/* Destroys the context and forgets everything that lived in it. */
static void unload_all(cuda_device *device)
{
    reef_error ignored;
    const bool reachable = !cuda_enter(device, &ignored);
    for (reef_list *link = device->instances.next; link != &device->instances; link = link->next) {
        cuda_instance_unload(REEF_CONTAINER(link, cuda_instance, link), reachable);
    }
    cuda_hint_unload(device, reachable);
    cuda_watch_unload(device, reachable);
    if (reachable) {
        cuda_leave(device);
    }
    for (reef_list *link = device->queues.next; link != &device->queues; link = link->next) {
        cuda_queue *queue = REEF_CONTAINER(link, cuda_queue, link);
        queue->stream = queue->streams[0] = queue->streams[1] = NULL;
        memset(queue->shared, 0, sizeof queue->shared);
    }
    for (reef_list *link = device->programs.next; link != &device->programs; link = link->next) {
        REEF_CONTAINER(link, cuda_program, link)->constants = 0;
    }
    cuda_shares_unload(device);
    cuda_pad_unload(device);
    cuda_code_unload(device);
    device->cu->ctx_destroy(device->context);
    device->context = NULL;
    device->control = NULL;
    device->revoked = 0;
}

static reef_status load_all(cuda_device *device, reef_error *error)
{
    reef_status status =
        CUDA_TRY(device->cu, error, ctx_create(&device->context, CUDA_CTX_MAP_HOST, device->gpu->device));
    if (status) {
        device->context = NULL;
        return status;
    }
    status = cuda_code_load(device, error);
    status = status ? status : cuda_revoke_load(device, error);
    if (!status && atomic_load(&device->padding.on)) {
        status = cuda_pad_load(device, error);
    }
    if (!status) {
        cuda_shares_load(device);
        cuda_watch_load(device);
    }
    for (reef_list *link = device->queues.next; !status && link != &device->queues; link = link->next) {
        status = cuda_queue_load(REEF_CONTAINER(link, cuda_queue, link), error);
    }
    for (reef_list *link = device->programs.next; !status && link != &device->programs; link = link->next) {
        status = cuda_program_load(REEF_CONTAINER(link, cuda_program, link), error);
    }
    for (reef_list *link = device->instances.next; !status && link != &device->instances; link = link->next) {
        status = cuda_instance_load(REEF_CONTAINER(link, cuda_instance, link), error);
    }
    CUcontext created;
    device->cu->ctx_pop(&created); /* creating made it current */
    return status;
}

void cuda_recover(cuda_device *device)
{
    pthread_rwlock_wrlock(&device->context_lock);
    pthread_mutex_lock(&device->lock);
    fail_launches(device);
    reef_error error = {0}, before = device->failure;
    unload_all(device);
    if (load_all(device, &error)) {
        device->dead = true;
        if (device->context) {
            unload_all(device);
        }
        /* Drivers differ: since about 580 a fault takes every context of the process with it, and no new one is made. */
        reef_fail(&device->failure, REEF_DEVICE,
                  "%.200s; %s is lost to this process (%.160s): restart it to use the GPU again", before.message,
                  device->gpu->name, error.message);
    }
    pthread_mutex_unlock(&device->lock);
    pthread_rwlock_unlock(&device->context_lock);
}
