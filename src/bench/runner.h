/*
 * runner.h - a whole benchmark: load the models, measure them alone, play the workloads under each policy.
 */
#ifndef REEF_BENCH_RUNNER_H
#define REEF_BENCH_RUNNER_H

#include "bench/report.h"

/* DEFAULT: matched on the CPU, which is slower than the published rates ask for; both elsewhere. */
typedef enum bench_form { BENCH_FORM_DEFAULT, BENCH_FORM_PUBLISHED, BENCH_FORM_MATCHED, BENCH_FORM_BOTH } bench_form;

typedef struct bench_options {
    const char *device;
    unsigned units;
    reef_precision precision;
    const char *models; /* folder for models given by name */
    const bench_scene
        *scenes; /* played one after another, with the same sessions; one workload only. NULL: all clients */
    size_t n_scenes;
    const char *const *policies; /* rt-only is measured whether it is among them or not */
    size_t n_policies;
    bool skip_unsupported; /* leave out policies that the device cannot run, rather than fail */
    bench_form form;
    double seconds;  /* measured per policy, in all rounds together */
    double warmup;   /* before each round's part of it */
    unsigned rounds; /* the policies take turns this often, so that drift favours none; 0: 1 */
    uint64_t seed;
    unsigned profile_runs;
    const char *trace; /* a file for the timeline of the whole run (its end, when it is long), or NULL */
    reef_progress progress;
    void *progress_context;
} bench_options;

/*
 * Plays the workloads one after another on one device, each model loaded once. Checks that policies, device and files
 * exist before anything long is started.
 */
reef_status bench_run(const bench_workload *workloads, size_t n_workloads, const bench_options *options,
                      bench_report *out, reef_error *error);

typedef struct padding_options {
    const char *device;
    unsigned units;
    reef_precision precision;
    const char *models;          /* folder for models given by name */
    const char *const *policies; /* static strings, beside rt-only; those that the device cannot run are left out */
    size_t n_policies;
    const padding_pair *pairs; /* NULL: every two of DISB's five networks */
    size_t n_pairs;
    uint64_t think_ns; /* that the RT client waits between an answer and its next request */
    double seconds;    /* measured per pair and policy, in all rounds together */
    double warmup;     /* before each round's part of it */
    unsigned rounds;
    uint64_t seed;
    unsigned profile_runs;
    const char *trace; /* as in bench_options */
    reef_progress progress;
    void *progress_context;
} padding_options;

/*
 * What kernel padding carries beside real-time work that never pauses, and at which cost to it: one RT client in a closed
 * loop beside one BE client in a closed loop, for each pair of models and each policy; and policy pad without BE work.
 * *out borrows from the options and must be zeroed. Errors as of bench_run.
 */
reef_status padding_run(const padding_options *options, padding_report *out, reef_error *error);

/* Best-effort work: a model file, or synthetic kernels. */
typedef struct preempt_load {
    const char *path;
    uint32_t kernels; /* as many, one after another */
    double kernel_us; /* each so long on the whole device, in tiles as short as real ones; or, when 0, ... */
    uint32_t tiles;   /* ... of so many tiles ... */
    double tile_us;   /* ... so long each */
} preempt_load;

typedef struct preempt_options {
    const char *device;
    unsigned units;
    reef_precision precision;
    const char *const *policies;
    size_t n_policies;
    const preempt_load *loads;
    size_t n_loads;
    /* For inputs with dynamic dimensions; every model must have the inputs named. Without
     * any, the DISB networks get those of the built-in workloads. */
    const reef_shape *shapes;
    size_t n_shapes;
    unsigned count;          /* RT requests per load and policy, and as many on the idle device */
    unsigned rounds;         /* in which idle and loaded device take turns; 0: 1 */
    double seconds_per_cell; /* a cell that takes longer ends with fewer */
    uint64_t seed;
    const char *trace; /* as in bench_options */
    reef_progress progress;
    void *progress_context;
} preempt_options;

/* How long a preemption takes: a tiny RT request on the idle device and against each load, under each policy. */
reef_status preempt_run(const preempt_options *options, preempt_report *out, reef_error *error);

/* Records `run(context)` on the device into the file `path` (NULL: does not record), whether it fails or not. */
reef_status bench_traced(reef_device *device, const char *path, reef_status (*run)(void *context, reef_error *error),
                         void *context, reef_error *error);

/* NOT_FOUND with the list of what there is. */
reef_status bench_check_policy(const char *policy, const char **canonical, reef_error *error);
reef_status bench_check_device(const char *device, reef_error *error);

#endif
