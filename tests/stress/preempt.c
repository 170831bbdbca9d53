/*
 * preempt.c - random preemption of real models, every answer compared bit for bit with the undisturbed one.
 *
 *     preempt [--count N] [--units N] [--policy P] [--seed N] MODEL.onnx[:NAME=1x3x224x224[,NAME=...]] ...
 *
 * Each model runs as best-effort work while tiny real-time requests arrive at random times; it goes on until it has
 * been preempted N times. Exits with 1 if any answer differs, or a request is lost.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "reef/reef.h"

enum { MAX_IO = 16, MAX_SHAPES = 4 };

static uint64_t random_state = 1;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static void die(const char *what, const reef_error *error)
{
    fprintf(stderr, "preempt: %s: %s\n", what, error->message);
    exit(1);
}

static void fill_input(const reef_tensor_info *info, void *data)
{
    size_t n = 1;
    for (int d = 0; d < info->rank; d++) {
        n *= (size_t)info->dims[d];
    }
    for (size_t i = 0; i < n; i++) {
        switch (info->dtype) {
        case REEF_F32: ((float *)data)[i] = (float)next_random() / 2147483648.0f - 0.5f; break;
        case REEF_I64: ((int64_t *)data)[i] = next_random() % 2; break;
        case REEF_I32: ((int32_t *)data)[i] = (int32_t)(next_random() % 2); break;
        default: ((char *)data)[i] = (char)(next_random() % 2); break;
        }
    }
}

typedef struct subject {
    reef_model *model;
    reef_session *session;
    size_t n_inputs, n_outputs;
    size_t bytes[MAX_IO];
    void *inputs[MAX_IO], *outputs[MAX_IO], *expected[MAX_IO];
} subject;

/* "path:x=1x3x8x8,y=2" is split in place. */
static size_t parse_shapes(char *argument, reef_shape *shapes)
{
    size_t n = 0;
    char *colon = strrchr(argument, ':');
    if (!colon || !strchr(colon, '=')) {
        return 0;
    }
    *colon = 0;
    for (char *part = strtok(colon + 1, ","); part && n < MAX_SHAPES; part = strtok(NULL, ",")) {
        char *dims = strchr(part, '=');
        *dims++ = 0;
        shapes[n] = (reef_shape){.input = part};
        for (; *dims && shapes[n].rank < REEF_MAX_RANK; dims += *dims == 'x') {
            shapes[n].dims[shapes[n].rank++] = strtoll(dims, &dims, 10);
        }
        n++;
    }
    return n;
}

static void load(reef_device *device, char *argument, subject *s)
{
    reef_error error = {0};
    reef_shape shapes[MAX_SHAPES];
    reef_model_options options = {.shapes = shapes, .cache_dir = "/nonexistent"};
    options.n_shapes = parse_shapes(argument, shapes);
    if (reef_model_load(device, argument, &options, &s->model, &error) ||
        reef_session_create(s->model, &(reef_session_options){.service_class = REEF_BE}, &s->session, &error)) {
        die(argument, &error);
    }
    reef_tensor_info info;
    for (s->n_inputs = 0; reef_model_input(s->model, s->n_inputs, &info); s->n_inputs++) {
        s->inputs[s->n_inputs] = malloc(info.bytes + 1);
        fill_input(&info, s->inputs[s->n_inputs]);
    }
    for (s->n_outputs = 0; reef_model_output(s->model, s->n_outputs, &info); s->n_outputs++) {
        s->bytes[s->n_outputs] = info.bytes;
        s->outputs[s->n_outputs] = malloc(info.bytes + 1);
        s->expected[s->n_outputs] = malloc(info.bytes + 1);
    }
    reef_status status = reef_session_run(s->session, (const void *const *)s->inputs, s->expected, NULL);
    if (status) {
        fprintf(stderr, "preempt: %s: the undisturbed run failed: %s\n", argument, reef_status_text(status));
        exit(1);
    }
}

static void unload(subject *s)
{
    for (size_t i = 0; i < s->n_inputs; i++) {
        free(s->inputs[i]);
    }
    for (size_t i = 0; i < s->n_outputs; i++) {
        free(s->outputs[i]);
        free(s->expected[i]);
    }
    reef_session_destroy(s->session);
    reef_model_destroy(s->model);
}

/* Preempts the model until it was hit `count` times. Returns the number of wrong answers. */
static uint64_t stress(reef_device *device, subject *s, reef_session *rt, uint64_t count, const char *name)
{
    reef_device_stats before, after;
    reef_device_stats_get(device, &before);
    uint64_t wrong = 0, runs = 0, hits = 0, began = reef_now_ns();
    while (hits < count) {
        for (size_t i = 0; i < s->n_outputs; i++) {
            memset(s->outputs[i], 0xa5, s->bytes[i]);
        }
        reef_request *request;
        reef_submit_options submit = {.inputs = (const void *const *)s->inputs, .outputs = s->outputs};
        if (reef_session_submit(s->session, &submit, &request)) {
            fprintf(stderr, "preempt: %s: submit failed\n", name);
            exit(1);
        }
        reef_request_info info;
        uint64_t pause_ns = 1000 + next_random() % 400000;
        while (reef_request_wait(request, pause_ns, &info) == REEF_TIMEOUT) {
            reef_session_run(rt, NULL, NULL, NULL);
            pause_ns = 1000 + next_random() % 400000;
        }
        reef_request_release(request);
        bool same = info.status == REEF_OK;
        for (size_t i = 0; i < s->n_outputs && same; i++) {
            same = memcmp(s->outputs[i], s->expected[i], s->bytes[i]) == 0;
        }
        wrong += !same;
        hits += info.preemptions;
        runs++;
    }
    reef_device_stats_get(device, &after);
    printf("%-48s %6llu preemptions, %5llu answers, %llu wrong, %7llu tiles abandoned, %.1f s\n", name,
           (unsigned long long)hits, (unsigned long long)runs, (unsigned long long)wrong,
           (unsigned long long)(after.tiles_abandoned - before.tiles_abandoned), (double)(reef_now_ns() - began) / 1e9);
    fflush(stdout);
    return wrong;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"count", required_argument, NULL, 'c'},
                                            {"units", required_argument, NULL, 'u'},
                                            {"policy", required_argument, NULL, 'p'},
                                            {"seed", required_argument, NULL, 's'},
                                            {0}};
    uint64_t count = 1000, wrong = 0, models = 0;
    reef_device_options device_options = {.policy = "reset"};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'c': count = strtoull(optarg, NULL, 10); break;
        case 'u': device_options.units = (unsigned)strtoul(optarg, NULL, 10); break;
        case 'p': device_options.policy = optarg; break;
        case 's': random_state = strtoull(optarg, NULL, 10); break;
        default: return 2;
        }
    }
    if (optind == argc) {
        fprintf(stderr, "usage: preempt [--count N] [--units N] [--policy P] [--seed N] MODEL.onnx[:NAME=DIMS] ...\n");
        return 2;
    }
    reef_error error = {0};
    reef_device *device;
    reef_model *tiny;
    reef_session *rt;
    if (reef_device_open("cpu", &device_options, &device, &error) ||
        reef_model_create_synthetic(device, 1, 1, 1000, &tiny, &error) ||
        reef_session_create(tiny, &(reef_session_options){.service_class = REEF_RT}, &rt, &error)) {
        die("cpu", &error);
    }
    for (int i = optind; i < argc; i++) {
        subject s = {0};
        load(device, argv[i], &s);
        wrong += stress(device, &s, rt, count, argv[i]);
        unload(&s);
        models++;
    }
    reef_session_destroy(rt);
    reef_model_destroy(tiny);
    reef_device_close(device);
    printf("%llu models, policy %s: %s\n", (unsigned long long)models, device_options.policy,
           wrong ? "ANSWERS DIFFER" : "every answer identical to the undisturbed one");
    return wrong ? 1 : 0;
}
