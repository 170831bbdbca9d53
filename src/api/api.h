/*
 * api.h - what stands behind the public handles.
 */
#ifndef REEF_API_API_H
#define REEF_API_API_H

#include <stdatomic.h>

#include "sched/sched.h"

struct reef_device {
    reef_dev *dev;
    reef_sched sched;
    unsigned queue_capacity;
    _Atomic unsigned models;
    _Atomic unsigned hints;         /* sent since the last RT request was submitted */
    _Atomic bool hint_held;         /* an RT request that was hinted at is under way: its end releases the device */
    pthread_mutex_t profile_lock;   /* one profile at a time */
    struct reef_profiler *profiler; /* set while one runs; events that carry it as tag are its own */
    pthread_mutex_t sessions_lock;  /* taken before the scheduler's lock */
    reef_list sessions;             /* guarded by that */
};

typedef struct reef_kernel_profile {
    uint64_t p50_ns, p99_ns; /* alone on the whole device; 0: not measured */
} reef_kernel_profile;

struct reef_model {
    reef_device *device;
    reef_plan *plan;
    reef_program *program;
    /* Once the model is loaded, these change under the scheduler's lock only. */
    reef_kernel_cost *costs;      /* one per kernel */
    reef_kernel_profile *profile; /* one per kernel */
    bool profiled;
    _Atomic unsigned units_needed; /* submitting reads it without the lock */
    size_t nodes;
    char name[34];    /* "resnet152"; for traces */
    char *cache_path; /* NULL: nowhere to keep a profile */
    _Atomic unsigned sessions;
};

/* Makes ready what each session's launches need under the policy. The device must be held, sessions_lock too. */
void reef_sessions_warm(reef_device *device, const reef_policy *policy);

/* The profile on disk, keyed by content hash, device and units. A missing, foreign or damaged file is no profile. */
bool reef_profile_load(reef_model *model);
reef_status reef_profile_save(const reef_model *model, reef_error *error);
/* costs and units_needed from the device's estimates (profile.c replaces them by measurements). */
void reef_model_estimate(reef_model *model);
void reef_model_update_units(reef_model *model);
/* An event that is not the scheduler's. */
void reef_profiler_event(struct reef_profiler *profiler, const reef_event *event);

#endif
