/*
 * solo.c - how long a model takes alone, without the way in and out: the figure that other runtimes report.
 */
#include <stdlib.h>

#include "api/api.h"
#include "base/clock.h"
#include "base/error.h"
#include "reef/reef.h"

enum { WARM_UP = 20 };

static reef_status replay_all(reef_model *model, reef_instance *instance, const void *const *inputs,
                              void *const *outputs, unsigned runs, uint64_t *samples, reef_error *error)
{
    const reef_device_ops *ops = model->device->dev->ops;
    uint64_t ignored;
    ops->begin(instance, 0, inputs, outputs);
    reef_status status = ops->replay(instance, true, false, &ignored, error);
    for (unsigned i = 0; !status && i < WARM_UP; i++) {
        status = ops->replay(instance, false, false, &ignored, error);
    }
    for (unsigned i = 0; !status && i < runs; i++) {
        status = ops->replay(instance, false, false, &samples[i], error);
    }
    return status ? status : ops->replay(instance, false, true, &ignored, error);
}

/* A device whose queues are its shortest way: one request after another, on its own threads. */
static reef_status run_all(reef_model *model, const void *const *inputs, void *const *outputs, unsigned runs,
                           uint64_t *samples, reef_error *error)
{
    reef_session *session;
    reef_session_options options = {.service_class = REEF_RT};
    reef_status status = reef_session_create(model, &options, &session, error);
    if (status) {
        return status;
    }
    for (unsigned i = 0; !status && i <= runs; i++) {
        uint64_t begun = reef_now_ns();
        status = reef_session_run(session, inputs, outputs, NULL);
        if (i) { /* the first one warms up */
            samples[i - 1] = reef_now_ns() - begun;
        }
    }
    reef_session_destroy(session);
    return status ? reef_fail(error, status, "a run ended with: %s", reef_status_text(status)) : REEF_OK;
}

reef_status reef_model_solo(reef_model *model, const void *const *inputs, void *const *outputs, unsigned runs,
                            uint64_t *samples, reef_error *error)
{
    reef_device *device = model->device;
    const reef_device_ops *ops = device->dev->ops;
    if (!ops->replay) {
        return run_all(model, inputs, outputs, runs, samples, error);
    }
    reef_instance *instance;
    pthread_mutex_lock(&device->profile_lock);
    reef_status status =
        reef_sched_hold(&device->sched)
            ? reef_fail(error, REEF_BUSY, "a model can only be timed alone while no request waits or runs")
            : REEF_OK;
    if (!status) {
        status = ops->instance_create(model->program, &instance, error);
        if (!status) {
            status = replay_all(model, instance, inputs, outputs, runs, samples, error);
            ops->instance_destroy(instance);
        }
        reef_sched_release(&device->sched);
    }
    pthread_mutex_unlock(&device->profile_lock);
    return status;
}
