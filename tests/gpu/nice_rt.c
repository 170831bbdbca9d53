/*
 * nice_rt.c - real-time requests to reef at fixed intervals, for measuring what other processes do to them and what a hint
 * hides.
 *
 *     nice_rt synthetic|MODEL.onnx SLICE_US      SLICE_US: of this process, 0 for the driver's own
 *
 * Takes commands on standard input: "run SECONDS INTERVAL_US JITTER_US HINT_US" sends a request every INTERVAL_US plus a random
 * part of JITTER_US, each after a hint HINT_US ahead (0: none), and answers with one line of JSON. Latencies count from when
 * a request was due. "hints SECONDS INTERVAL_US HINT_US" sends hints alone.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "reef/reef.h"

enum { MAX_SAMPLES = 1 << 20 };

static void need(reef_status status, const reef_error *error, const char *what)
{
    if (status) {
        fprintf(stderr, "nice_rt: %s: %s\n", what, error ? error->message : reef_status_text(status));
        exit(1);
    }
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void spin_until(uint64_t ns)
{
    while (reef_now_ns() < ns) {
    }
}

/* Submits and waits on the spot: a real-time caller has a processor to itself. Returns when the request had been handed over. */
static uint64_t request(reef_session *session, const void **inputs, void **outputs, reef_request_info *info)
{
    reef_request *handle;
    need(reef_session_submit(session, &(reef_submit_options){.inputs = inputs, .outputs = outputs}, &handle), NULL,
         "submit");
    uint64_t handed_over = reef_now_ns();
    while (reef_request_wait(handle, 0, info) == REEF_TIMEOUT) {
    }
    need(info->status, NULL, "request");
    reef_request_release(handle);
    return handed_over;
}

typedef struct job {
    reef_session *session;
    const void **inputs;
    void **outputs;
    uint64_t *samples, *hint_calls, *submit_calls;
} job;

static double percentile_us(uint64_t *samples, size_t n, size_t percent)
{
    qsort(samples, n, sizeof *samples, ascending);
    return n ? (double)samples[n * percent / 100] / 1e3 : 0;
}

static void run(job *j, double seconds, uint64_t interval_ns, uint64_t jitter_ns, uint64_t hint_ns)
{
    uint64_t begin = reef_now_ns(), due = begin, random = 88172645463325252u;
    size_t n = 0, hints = 0;
    while ((double)(due - begin) < seconds * 1e9 && n < MAX_SAMPLES) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        due += interval_ns + (jitter_ns ? random % jitter_ns : 0);
        if (hint_ns) {
            reef_error error = {0};
            spin_until(due - hint_ns);
            reef_status status = reef_session_hint(j->session, hint_ns, &error);
            need(status == REEF_REFUSED ? REEF_OK : status, &error, "hint");
            hints += status == REEF_OK;
            j->hint_calls[n] = reef_now_ns() - (due - hint_ns);
        }
        spin_until(due);
        reef_request_info info;
        j->submit_calls[n] = request(j->session, j->inputs, j->outputs, &info) - due;
        j->samples[n++] = reef_now_ns() - due;
    }
    uint64_t end = reef_now_ns();
    double p50 = percentile_us(j->samples, n, 50);
    printf("{\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"n\": %zu, \"hints\": %zu, \"begin\": %.6f, "
           "\"end\": %.6f, "
           "\"submit_p50_us\": %.1f, \"hint_p50_us\": %.1f, \"hint_p99_us\": %.1f}\n",
           p50, percentile_us(j->samples, n, 99), (double)j->samples[n - 1] / 1e3, n, hints, (double)begin / 1e9,
           (double)end / 1e9, percentile_us(j->submit_calls, n, 50),
           hint_ns ? percentile_us(j->hint_calls, n, 50) : 0.0, hint_ns ? percentile_us(j->hint_calls, n, 99) : 0.0);
}

static void hints_alone(job *j, double seconds, uint64_t interval_ns, uint64_t hint_ns)
{
    uint64_t begin = reef_now_ns(), next = begin;
    size_t sent = 0, refused = 0;
    while ((double)(next - begin) < seconds * 1e9) {
        reef_error error = {0};
        spin_until(next);
        reef_status status = reef_session_hint(j->session, hint_ns, &error);
        need(status == REEF_REFUSED ? REEF_OK : status, &error, "hint");
        sent += status == REEF_OK;
        refused += status == REEF_REFUSED;
        next += interval_ns;
    }
    printf("{\"sent\": %zu, \"refused\": %zu, \"begin\": %.6f, \"end\": %.6f}\n", sent, refused, (double)begin / 1e9,
           (double)reef_now_ns() / 1e9);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: nice_rt synthetic|MODEL.onnx SLICE_US\n");
        return 2;
    }
    reef_error error = {0};
    reef_device *device;
    reef_model *model;
    job j = {
        .samples = calloc(MAX_SAMPLES, sizeof *j.samples),
        .hint_calls = calloc(MAX_SAMPLES, sizeof *j.samples),
        .submit_calls = calloc(MAX_SAMPLES, sizeof *j.samples),
    };
    const reef_device_options options = {.slice_us = (unsigned)strtoul(argv[2], NULL, 10)};
    need(reef_device_open("cuda:0", &options, &device, &error), &error, "open");
    if (strcmp(argv[1], "synthetic") == 0) {
        need(reef_model_create_synthetic(device, 1, 1, 10000, &model, &error), &error, "model");
    } else {
        const reef_shape shape = {.input = "input", .rank = 4, .dims = {1, 3, 224, 224}};
        const reef_model_options model_options = {.shapes = &shape, .n_shapes = 1, .precision = REEF_PRECISION_FP16};
        need(reef_model_load(device, argv[1], &model_options, &model, &error), &error, "model");
    }
    need(reef_session_create(model, &(reef_session_options){.service_class = REEF_RT}, &j.session, &error), &error,
         "session");
    j.inputs = calloc(reef_model_inputs(model) + 1, sizeof *j.inputs);
    j.outputs = calloc(reef_model_outputs(model) + 1, sizeof *j.outputs);
    reef_tensor_info info;
    for (size_t i = 0; reef_model_input(model, i, &info); i++) {
        j.inputs[i] = calloc(1, info.bytes);
    }
    for (size_t i = 0; reef_model_output(model, i, &info); i++) {
        j.outputs[i] = malloc(info.bytes);
    }
    for (int i = 0; i < 20; i++) {
        reef_request_info ignored;
        request(j.session, j.inputs, j.outputs, &ignored);
    }
    uint32_t slice = 0;
    reef_status sliced = reef_device_slice(device, &slice, &error);
    printf("{\"ready\": true, \"pid\": %d, \"slice_us\": %u, \"slice_why\": \"%s\"}\n", (int)getpid(), (unsigned)slice,
           sliced ? error.message : "set");
    fflush(stdout);
    char line[128];
    double seconds, interval, jitter, hint;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "run %lf %lf %lf %lf", &seconds, &interval, &jitter, &hint) == 4) {
            run(&j, seconds, (uint64_t)(interval * 1e3), (uint64_t)(jitter * 1e3), (uint64_t)(hint * 1e3));
        } else if (sscanf(line, "hints %lf %lf %lf", &seconds, &interval, &hint) == 3) {
            hints_alone(&j, seconds, (uint64_t)(interval * 1e3), (uint64_t)(hint * 1e3));
        }
        fflush(stdout);
    }
    reef_session_destroy(j.session);
    reef_model_destroy(model);
    reef_device_close(device);
    return 0;
}
