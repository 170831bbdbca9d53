/*
 * fake_reef.c - the public API with nothing behind it but a thread that sleeps: for testing the command line and the
 * benchmarks without an engine, and with an engine that misbehaves on purpose (FAKE_REEF_WRONG=N: every Nth answer is
 * wrong by one bit; FAKE_REEF_FAULT=FILE: once FILE exists it is removed and the device of this process is lost, as a GPU
 * is after a faulting kernel: every request ends with DEVICE; FAKE_REEF_CRASH=FILE: the same with a crash; FAKE_REEF_GPU=FILE: the device has time slices and takes hints, and FILE gets a line for each: "slice US", "hint
 * NS" and, for requests, "rt" or "be"; FAKE_REEF_SLICE=refused: but its driver does not let slices be changed).
 *
 * Every file that starts like an ONNX file is a model of one input x and one output y = max(x, 0), both float32 (1, 4);
 * a request takes as long as the file's size in microseconds, or what a synthetic model asks for. RT requests go first
 * and interrupt best-effort sleeps, except under seq and wait.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/trace.h"
#include "reef/reef.h"

struct reef_request {
    reef_session *session;
    reef_submit_options options;
    reef_request_info info;
    const float *input; /* NULL, as output: a synthetic load, or no answer is wanted */
    float *output;
    uint64_t left_ns;
    bool ended, released, owned, cancel, started;
    reef_request *next;
};

struct reef_device {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool stop, lost;
    unsigned units, slice_us;
    _Atomic unsigned hints; /* in a row without a request */
    const char *policy;
    reef_request *queue[2]; /* RT, BE */
    size_t active;
    reef_device_stats stats;
    reef_trace *trace;
};

struct reef_model {
    reef_device *device;
    uint64_t request_ns, tiles;
    bool synthetic, profiled;
};

struct reef_session {
    reef_model *model;
    reef_session_options options;
    size_t active;
    reef_session_stats stats;
};

static const struct {
    const char *name, *meaning;
} policies[] = {{"rt-only", "fake"}, {"seq", "fake"}, {"wait", "fake"},    {"reset", "fake"},
                {"lease", "fake"},   {"pad", "fake"}, {"streams", "fake"}, {"priority", "fake"}};

bool reef_policy_list(size_t i, const char **name, const char **meaning)
{
    if (i >= sizeof policies / sizeof policies[0]) {
        return false;
    }
    *name = policies[i].name;
    *meaning = policies[i].meaning;
    return true;
}

bool reef_device_list(size_t i, const char **name, const char **description)
{
    *name = "cpu";
    *description = "fake";
    return i == 0;
}

reef_status reef_device_check(const char *name, reef_error *error)
{
    return strcmp(name, "cpu") ? reef_fail(error, REEF_NOT_FOUND, "unknown device '%s'; there are: cpu", name)
                               : REEF_OK;
}

const char *reef_precision_name(reef_precision precision)
{
    static const char *const names[] = {"default", "fp32", "tf32", "fp16"};
    return names[precision];
}

const char *reef_version(void)
{
    return "0.0.0-fake";
}

const char *reef_dtype_name(reef_dtype dtype)
{
    return dtype == REEF_F32 ? "float32" : dtype == REEF_I64 ? "int64" : dtype == REEF_BOOL ? "bool" : "other";
}

/* A line in the file that FAKE_REEF_GPU names; value 0: none. */
static void record(const char *what, uint64_t value)
{
    const char *path = getenv("FAKE_REEF_GPU");
    FILE *file = path ? fopen(path, "ae") : NULL;
    if (file) {
        fprintf(file, value ? "%s %llu\n" : "%s\n", what, (unsigned long long)value);
        fclose(file);
    }
}

/* ---- the device thread ---- */

/* Whether the file that variable names has appeared; it is removed, so that it is seen once. */
static bool triggered(const char *variable)
{
    const char *path = getenv(variable);
    return path && unlink(path) == 0;
}

static void end_request(reef_device *device, reef_request *request, reef_status status)
{
    static _Atomic unsigned answers;
    const char *wrong = getenv("FAKE_REEF_WRONG");
    unsigned every = wrong ? (unsigned)atoi(wrong) : 0;
    reef_session *session = request->session;
    bool rt = session->options.service_class == REEF_RT;
    if (triggered("FAKE_REEF_CRASH")) {
        abort();
    }
    device->lost |= triggered("FAKE_REEF_FAULT");
    status = device->lost ? REEF_DEVICE : status;
    if (status == REEF_OK && request->output) {
        const float *x = request->input;
        float *y = request->output;
        for (int i = 0; i < 4; i++) {
            y[i] = x[i] > 0 ? x[i] : 0;
        }
        if (every && atomic_fetch_add(&answers, 1) % every == every - 1) {
            ((unsigned char *)y)[4] ^= 1;
        }
    }
    request->info.status = status;
    request->info.end_ns = reef_now_ns();
    if (device->trace) {
        reef_trace_add(device->trace,
                       &(reef_trace_span){.kind = REEF_TRACE_REQUEST,
                                          .id = ++device->trace->requests,
                                          .queue = !rt,
                                          .at = {request->info.submit_ns, request->info.launch_ns,
                                                 request->info.start_ns, request->info.end_ns}},
                       "fake");
    }
    *(rt ? &device->stats.rt_completed : &device->stats.be_completed) += 1;
    session->stats.completed += status == REEF_OK;
    pthread_mutex_unlock(&device->lock);
    if (request->options.callback) {
        request->options.callback(request->options.context, request, &request->info);
    }
    pthread_mutex_lock(&device->lock);
    request->ended = true;
    device->active--;
    session->active--;
    if (!request->owned || request->released) {
        free(request);
    }
    pthread_cond_broadcast(&device->changed);
}

static void sleep_locked(reef_device *device, uint64_t ns)
{
    struct timespec until;
    uint64_t end = reef_now_ns() + ns;
    until = (struct timespec){(time_t)(end / 1000000000u), (long)(end % 1000000000u)};
    pthread_cond_timedwait(&device->changed, &device->lock, &until);
}

static reef_request *front(reef_device *device)
{
    return device->queue[0] ? device->queue[0] : device->queue[1];
}

static void *device_main(void *context)
{
    reef_device *device = context;
    pthread_mutex_lock(&device->lock);
    reef_request *holding = NULL; /* seq, wait: what was started is finished */
    while (!device->stop || front(device)) {
        reef_request *request = holding ? holding : front(device);
        if (!request) {
            pthread_cond_wait(&device->changed, &device->lock);
            continue;
        }
        bool be = request->session->options.service_class == REEF_BE;
        if (!request->started) {
            request->started = true;
            request->info.launch_ns = request->info.start_ns = reef_now_ns();
        }
        uint64_t deadline = request->options.deadline_ns;
        bool late = deadline && request->info.start_ns > deadline;
        holding = be && (!strcmp(device->policy, "seq") || !strcmp(device->policy, "wait")) ? request : NULL;
        if (request->left_ns && !request->cancel && !late) {
            uint64_t begin = reef_now_ns();
            sleep_locked(device, request->left_ns);
            uint64_t took = reef_now_ns() - begin;
            request->left_ns = took < request->left_ns ? request->left_ns - took : 0;
            *(be ? &device->stats.busy_ns_be : &device->stats.busy_ns_rt) += took;
            device->stats.tiles_run++;
            if (be && request->left_ns && device->queue[0] && !holding) {
                device->stats.preemptions++;
                device->stats.tiles_abandoned++;
                device->stats.lost_ns_be += took / 10;
                request->info.preemptions++;
            }
            continue;
        }
        reef_request **link = &device->queue[be];
        while (*link != request) {
            link = &(*link)->next;
        }
        *link = request->next;
        holding = NULL;
        end_request(device, request, request->cancel ? REEF_CANCELLED : late ? REEF_DEADLINE : REEF_OK);
    }
    pthread_mutex_unlock(&device->lock);
    return NULL;
}

reef_status reef_device_open(const char *name, const reef_device_options *options, reef_device **out, reef_error *error)
{
    if (strcmp(name, "cpu")) {
        return reef_fail(error, REEF_NOT_FOUND, "no device '%s'", name);
    }
    if (options && options->slice_us && !getenv("FAKE_REEF_GPU")) {
        return reef_fail(error, REEF_UNSUPPORTED, "device 'cpu' has no time slices");
    }
    reef_device *device = calloc(1, sizeof *device);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&device->changed, &attributes);
    pthread_mutex_init(&device->lock, NULL);
    device->units = options && options->units ? options->units : 2;
    device->policy = options && options->policy ? options->policy : "reset";
    device->slice_us = options ? options->slice_us : 0;
    if (device->slice_us) {
        record("slice", device->slice_us);
    }
    pthread_create(&device->thread, NULL, device_main, device);
    *out = device;
    return REEF_OK;
}

void reef_device_close(reef_device *device)
{
    if (device) {
        pthread_mutex_lock(&device->lock);
        device->stop = true;
        pthread_cond_broadcast(&device->changed);
        pthread_mutex_unlock(&device->lock);
        pthread_join(device->thread, NULL);
        free(device);
    }
}

reef_status reef_device_set_policy(reef_device *device, const char *policy, reef_error *error)
{
    if (!strcmp(policy, "pad") && getenv("FAKE_REEF_NO_PAD")) {
        return reef_fail(error, REEF_UNSUPPORTED, "policy 'pad' needs what device 'cpu' was told not to have");
    }
    pthread_mutex_lock(&device->lock);
    bool busy = device->active;
    if (!busy) {
        device->policy = policy;
    }
    pthread_mutex_unlock(&device->lock);
    return busy ? reef_fail(error, REEF_BUSY, "requests are under way") : REEF_OK;
}

reef_status reef_device_trace_start(reef_device *device, size_t max_spans, reef_error *error)
{
    reef_trace *trace = reef_trace_create(max_spans ? max_spans : 10000);
    if (!trace) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    pthread_mutex_lock(&device->lock);
    trace->start_ns = reef_now_ns();
    device->trace = trace;
    pthread_mutex_unlock(&device->lock);
    return REEF_OK;
}

reef_status reef_device_trace_stop(reef_device *device, const char *path, reef_error *error)
{
    pthread_mutex_lock(&device->lock);
    reef_trace *trace = device->trace;
    device->trace = NULL;
    pthread_mutex_unlock(&device->lock);
    reef_status status = trace && path ? reef_trace_write(trace, path, error) : REEF_OK;
    reef_trace_destroy(trace);
    return status;
}

void reef_device_trace_span(reef_device *device, const char *name, uint64_t begin_ns, uint64_t end_ns)
{
    pthread_mutex_lock(&device->lock);
    if (device->trace) {
        reef_trace_add(device->trace, &(reef_trace_span){.kind = REEF_TRACE_CALLER, .at = {begin_ns, 0, 0, end_ns}},
                       name);
    }
    pthread_mutex_unlock(&device->lock);
}

reef_status reef_device_health(const reef_device *device, reef_error *error)
{
    reef_device *d = (reef_device *)device;
    pthread_mutex_lock(&d->lock);
    bool lost = d->lost;
    pthread_mutex_unlock(&d->lock);
    return lost ? reef_fail(error, REEF_DEVICE, "the fake device was told to fail") : REEF_OK;
}

reef_status reef_device_slice(const reef_device *device, uint32_t *us, reef_error *error)
{
    const char *refused = getenv("FAKE_REEF_SLICE");
    if (!device->slice_us || refused) {
        return reef_fail(error, REEF_UNSUPPORTED,
                         refused ? "the fake driver refuses a time slice of %u us" : "none of %u us", device->slice_us);
    }
    *us = device->slice_us;
    return REEF_OK;
}

reef_status reef_device_padding(const reef_device *device, reef_padding_info *out, reef_error *error)
{
    (void)device;
    if (getenv("FAKE_REEF_NO_PAD")) {
        return reef_fail(error, REEF_UNSUPPORTED, "device 'cpu' was told to have no padding");
    }
    *out = (reef_padding_info){.proxy_bytes = 4096, .levels = {128, 64}, .selections = 3, .select_p50_ns = 170};
    return REEF_OK;
}

uint64_t reef_device_expire(reef_device *device)
{
    (void)device; /* requests find out when their turn comes */
    return UINT64_MAX;
}

void reef_device_stats_get(const reef_device *device, reef_device_stats *out)
{
    reef_device *d = (reef_device *)device;
    pthread_mutex_lock(&d->lock);
    *out = d->stats;
    out->units = d->units;
    out->policy = d->policy;
    pthread_mutex_unlock(&d->lock);
}

/* ---- models ---- */

reef_status reef_model_load(reef_device *device, const char *path, const reef_model_options *options, reef_model **out,
                            reef_error *error)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &info)) {
        return reef_fail(error, REEF_NOT_FOUND, "%s: no such file", path);
    }
    int first = S_ISREG(info.st_mode) ? fgetc(file) : -1;
    fclose(file);
    if (first != 8) {
        return reef_fail(error, REEF_FORMAT, "%s: not an ONNX file", path);
    }
    for (size_t i = 0; options && i < options->n_shapes; i++) {
        const reef_shape *shape = &options->shapes[i];
        if (strcmp(shape->input, "x")) {
            return reef_fail(error, REEF_NOT_FOUND, "%s: no input '%s'", path, shape->input);
        }
        if (shape->rank != 2 || shape->dims[0] != 1 || shape->dims[1] != 4) {
            return reef_fail(error, REEF_SHAPE, "%s: input 'x' is 1x4; change --shape", path);
        }
    }
    reef_model *model = calloc(1, sizeof *model);
    model->device = device;
    model->request_ns = (uint64_t)info.st_size * 1000;
    *out = model;
    return REEF_OK;
}

reef_status reef_model_create_synthetic(reef_device *device, uint32_t kernels, uint32_t tiles, uint64_t tile_ns,
                                        reef_model **out, reef_error *error)
{
    (void)error;
    reef_model *model = calloc(1, sizeof *model);
    model->device = device;
    model->request_ns = kernels * (uint64_t)((tiles + device->units - 1) / device->units) * tile_ns;
    model->synthetic = true;
    *out = model;
    return REEF_OK;
}

void reef_model_destroy(reef_model *model)
{
    free(model);
}

size_t reef_model_inputs(const reef_model *model)
{
    return !model->synthetic;
}

size_t reef_model_outputs(const reef_model *model)
{
    return !model->synthetic;
}

bool reef_model_input(const reef_model *model, size_t i, reef_tensor_info *out)
{
    if (i >= reef_model_inputs(model)) {
        return false;
    }
    *out = (reef_tensor_info){.name = "x", .dtype = REEF_F32, .rank = 2, .dims = {1, 4}, .bytes = 16};
    return true;
}

bool reef_model_output(const reef_model *model, size_t i, reef_tensor_info *out)
{
    if (!reef_model_input(model, i, out)) {
        return false;
    }
    out->name = "y";
    return true;
}

void reef_model_info_get(const reef_model *model, reef_model_info *out)
{
    *out = (reef_model_info){.nodes = 1,
                             .kernels = 1,
                             .activation_bytes = 0,
                             .flops = 4,
                             .profiled = model->profiled,
                             .solo_ns = model->request_ns,
                             .units_needed = 1};
}

bool reef_model_kernel(const reef_model *model, size_t i, reef_kernel_info *out)
{
    *out = (reef_kernel_info){.name = "relu",
                              .ops = "Relu",
                              .kind = "eltwise",
                              .variant = "fake",
                              .tiles = 1,
                              .why_not = "it only sleeps",
                              .flops = 4,
                              .bytes = 32,
                              .out_dims = {1, 4},
                              .out_rank = 2,
                              .solo_p50_ns = model->profiled ? model->request_ns : 0,
                              .tile_ns = model->request_ns,
                              .units = 1,
                              .pad_level = 64};
    return i == 0;
}

bool reef_model_buffer(const reef_model *model, size_t i, reef_buffer_info *out)
{
    (void)model;
    *out = (reef_buffer_info){.name = i ? "y" : "x", .kind = i ? "output" : "input", .bytes = 16};
    return i < 2;
}

reef_status reef_model_profile(reef_model *model, unsigned runs, reef_progress progress, void *context,
                               reef_error *error)
{
    (void)error;
    for (unsigned i = 0; progress && i < runs; i++) {
        progress(context, "profile", i, runs);
    }
    model->profiled = true;
    return REEF_OK;
}

reef_status reef_model_solo(reef_model *model, const void *const *inputs, void *const *outputs, unsigned runs,
                            uint64_t *samples, reef_error *error)
{
    (void)inputs, (void)outputs, (void)error;
    for (unsigned i = 0; i < runs; i++) {
        samples[i] = model->request_ns;
    }
    return REEF_OK;
}

/* ---- sessions and requests ---- */

reef_status reef_session_create(reef_model *model, const reef_session_options *options, reef_session **out,
                                reef_error *error)
{
    (void)error;
    reef_session *session = calloc(1, sizeof *session);
    session->model = model;
    session->options = options ? *options : (reef_session_options){.service_class = REEF_BE};
    *out = session;
    return REEF_OK;
}

void reef_session_destroy(reef_session *session)
{
    if (session) {
        reef_device *device = session->model->device;
        pthread_mutex_lock(&device->lock);
        while (session->active) {
            pthread_cond_wait(&device->changed, &device->lock);
        }
        pthread_mutex_unlock(&device->lock);
        free(session);
    }
}

reef_status reef_session_submit(reef_session *session, const reef_submit_options *options, reef_request **out)
{
    reef_device *device = session->model->device;
    bool be = session->options.service_class == REEF_BE;
    record(be ? "be" : "rt", 0);
    if (!be) {
        atomic_store(&device->hints, 0);
    }
    reef_request *request = calloc(1, sizeof *request), **link;
    request->session = session;
    request->options = *options;
    if (!session->model->synthetic && options->outputs) { /* the caller's arrays end with this call */
        request->input = options->inputs[0];
        request->output = options->outputs[0];
    }
    request->info.submit_ns = reef_now_ns();
    request->left_ns = session->model->request_ns;
    request->owned = out != NULL;
    pthread_mutex_lock(&device->lock);
    if (be && !strcmp(device->policy, "rt-only")) {
        pthread_mutex_unlock(&device->lock);
        free(request);
        return REEF_REFUSED;
    }
    if (out) {
        *out = request;
    }
    device->active++;
    session->active++;
    session->stats.submitted++;
    for (link = &device->queue[be]; *link; link = &(*link)->next) {
    }
    *link = request;
    pthread_cond_broadcast(&device->changed);
    pthread_mutex_unlock(&device->lock);
    return REEF_OK;
}

reef_status reef_request_wait(reef_request *request, uint64_t timeout_ns, reef_request_info *info)
{
    reef_device *device = request->session->model->device;
    uint64_t limit = timeout_ns == UINT64_MAX ? UINT64_MAX : reef_now_ns() + timeout_ns;
    pthread_mutex_lock(&device->lock);
    while (!request->ended && reef_now_ns() < limit) {
        sleep_locked(device, limit - reef_now_ns() < 1000000u ? limit - reef_now_ns() : 1000000u);
    }
    bool ended = request->ended;
    if (ended && info) {
        *info = request->info;
    }
    pthread_mutex_unlock(&device->lock);
    return ended ? REEF_OK : REEF_TIMEOUT;
}

void reef_request_cancel(reef_request *request)
{
    reef_device *device = request->session->model->device;
    pthread_mutex_lock(&device->lock);
    request->cancel = true;
    pthread_cond_broadcast(&device->changed);
    pthread_mutex_unlock(&device->lock);
}

void reef_request_release(reef_request *request)
{
    if (request) {
        reef_device *device = request->session->model->device;
        pthread_mutex_lock(&device->lock);
        bool ended = request->ended;
        request->released = true;
        pthread_mutex_unlock(&device->lock);
        if (ended) {
            free(request);
        }
    }
}

reef_status reef_session_run(reef_session *session, const void *const *inputs, void *const *outputs,
                             reef_request_info *info)
{
    reef_request *request;
    reef_request_info ended;
    reef_status status =
        reef_session_submit(session, &(reef_submit_options){.inputs = inputs, .outputs = outputs}, &request);
    if (status) {
        return status;
    }
    reef_request_wait(request, UINT64_MAX, &ended);
    reef_request_release(request);
    if (info) {
        *info = ended;
    }
    return ended.status;
}

reef_status reef_session_hint(reef_session *session, uint64_t within_ns, reef_error *error)
{
    if (session->options.service_class != REEF_RT || within_ns == 0 || within_ns > REEF_HINT_MAX_NS) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "not a hint");
    }
    if (!getenv("FAKE_REEF_GPU")) {
        return reef_fail(error, REEF_UNSUPPORTED, "device 'cpu' needs no hints");
    }
    if (atomic_fetch_add(&session->model->device->hints, 1) >= REEF_HINT_UNUSED_MAX) {
        return reef_fail(error, REEF_REFUSED, "too many hints without a request");
    }
    record("hint", within_ns);
    return REEF_OK;
}

void reef_session_stats_get(const reef_session *session, reef_session_stats *out)
{
    *out = session->stats;
}
