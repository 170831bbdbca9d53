/*
 * run_profile.c - where a run's time goes, kernel by kernel, as the kernels run in it.
 *
 *   run_profile MODEL.onnx fp16|tf32|fp32 OUT.json [SAMPLES [NAME DIMS...]...]    as in: 15 input 1 3 224 224
 *
 * A kernel's time is that of a graph of all kernels up to and with it, less that of a graph without it: kernels overlap
 * at their ends, so its time among its own kind ("alone", what the variant was chosen by) is another one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "device/cuda/cuda.h"
#include "model/plan.h"

static reef_error error;

static void must(reef_status status)
{
    if (status) {
        fprintf(stderr, "run_profile: %s\n", error.message);
        exit(1);
    }
}

static void ignore(void *context, const reef_event *event)
{
    (void)context;
    (void)event;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t time_graph(cuda_bench *bench, cuda_instance *instance, uint32_t first, uint32_t count, unsigned samples)
{
    uint64_t ns[128];
    cuda_graph *graph;
    must(cuda_graph_get(instance, first, count, 0, &graph, &error));
    for (unsigned i = 0; i < samples + 2; i++) {
        must(cuda_bench_graph(bench, graph->executable, &ns[i < 2 ? 0 : i - 2], &error));
    }
    qsort(ns, samples, sizeof ns[0], compare);
    return ns[samples / 2];
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: run_profile MODEL.onnx fp16|tf32|fp32 OUT.json [SAMPLES [NAME DIMS...]...]\n");
        return 2;
    }
    unsigned samples = argc > 4 ? (unsigned)atoi(argv[4]) : 15;
    samples = samples < 1 ? 1 : samples > 100 ? 100 : samples;
    reef_graph *graph = NULL;
    reef_plan *plan = NULL;
    must(reef_graph_load(argv[1], &graph, &error));
    for (int i = 5; i < argc;) {
        const char *input = argv[i++];
        int64_t dims[REEF_MAX_RANK];
        int rank = 0;
        while (i < argc && rank < REEF_MAX_RANK && strspn(argv[i], "0123456789") == strlen(argv[i])) {
            dims[rank++] = atoll(argv[i++]);
        }
        must(reef_graph_set_shape(graph, input, dims, rank, &error));
    }
    must(reef_graph_infer(graph, &error));
    must(reef_graph_fuse(graph, &error));
    must(reef_plan_create(graph, &plan, &error));
    reef_device_entry entry;
    reef_dev *dev = NULL;
    must(reef_device_find("cuda:0", &entry, &error));
    reef_dev_config config = {.ordinal = entry.ordinal, .on_event = ignore};
    must(entry.ops->open(&config, &dev, &error));
    reef_program_options options = {
        .precision = !strcmp(argv[2], "fp16")   ? REEF_PRECISION_FP16
                     : !strcmp(argv[2], "tf32") ? REEF_PRECISION_TF32
                                                : REEF_PRECISION_FP32,
    };
    reef_program *program = NULL;
    reef_instance *base = NULL;
    uint64_t begun = reef_now_ns();
    must(entry.ops->program_create(dev, plan, &options, &program, &error));
    double load_s = (double)(reef_now_ns() - begun) * 1e-9;
    must(entry.ops->instance_create(program, &base, &error));
    cuda_instance *instance = (cuda_instance *)base;
    const cuda_program *compiled = (const cuda_program *)program;
    entry.ops->begin(base, 0, NULL, NULL);
    uint64_t replays[100], sum_alone = 0;
    for (unsigned i = 0; i < 110; i++) {
        must(entry.ops->replay(base, i == 0, false, &replays[i < 10 ? 0 : i - 10], &error));
    }
    qsort(replays, 100, sizeof replays[0], compare);
    cuda_bench bench;
    cuda_device *device = (cuda_device *)dev;
    must(cuda_enter(device, &error));
    must(cuda_bench_create(device, &bench, &error));
    FILE *out = fopen(argv[3], "w");
    if (!out) {
        perror(argv[3]);
        return 1;
    }
    uint64_t before = time_graph(&bench, instance, 0, 0, samples), empty = before;
    fprintf(out, "{\"replay_us\": %.2f, \"load_s\": %.2f, \"empty_us\": %.2f, \"kernels\": [",
            (double)replays[50] * 1e-3, load_s, (double)before * 1e-3);
    const uint32_t n = (uint32_t)plan->n_kernels;
    for (uint32_t k = 0; k < n; k++) {
        const cuda_kernel *kernel = &compiled->kernels[k];
        uint64_t now = time_graph(&bench, instance, 0, k + 1, samples);
        fprintf(out,
                "%s\n {\"name\": \"%s\", \"variant\": \"%s\", \"tiles\": %u, \"smem\": %u, \"us\": %.3f, \"alone_us\": "
                "%.3f}",
                k ? "," : "", plan->kernels[k].name, kernel->code.variant, kernel->code.tiles,
                kernel->code.dynamic_smem, ((double)now - (double)before) * 1e-3, (double)kernel->solo_ns * 1e-3);
        sum_alone += kernel->solo_ns;
        before = now;
    }
    fprintf(out, "\n]}\n");
    fclose(out);
    printf("%s %s: replay %.1f us; graph alone %.1f us, of which nothing %.1f; sum of kernels alone %.1f us; load %.2f "
           "s\n",
           argv[1], argv[2], (double)replays[50] * 1e-3, (double)before * 1e-3, (double)empty * 1e-3,
           (double)sum_alone * 1e-3, load_s);
    cuda_bench_destroy(&bench);
    cuda_leave(device);
    entry.ops->instance_destroy(base);
    entry.ops->program_destroy(program);
    entry.ops->close(dev);
    reef_plan_destroy(plan);
    return 0;
}
