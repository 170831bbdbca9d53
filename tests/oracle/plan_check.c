/*
 * plan_check.c - a model through reader, inference, fusion, lowering and the interpreter.
 *
 *     plan_check MODEL.onnx [--shape NAME=1x3x32x32]... [--no-fuse] [--list] [--data DIR]
 *
 * --data: reads DIR/in<i>.bin (raw, row major), writes DIR/out<i>.bin. --list: prints the kernels. Always checks the
 * memory plan and that every kernel is a transaction, and prints one summary line. Exit status 1 on any failure.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/plan_interp.h"

static void print_view(const char *label, const reef_plan *plan, const reef_view *v)
{
    static const char *const kinds[] = {"const", "in", "out", "act"};
    if (v->storage == REEF_NO_STORAGE) {
        return;
    }
    printf("      %s %s#%u+%lld [", label, kinds[plan->storage[v->storage].kind], v->storage, (long long)v->offset);
    for (int d = 0; d < v->rank; d++) {
        printf("%s%lld:%lld", d ? " " : "", (long long)v->dims[d], (long long)v->stride[d]);
    }
    printf("]\n");
}

static void print_kernels(const reef_plan *plan, bool views)
{
    for (size_t i = 0; i < plan->n_kernels; i++) {
        const reef_kernel *k = &plan->kernels[i];
        printf("%4zu %-10s %-44s %s%s%s\n", i, reef_kernel_kind_name(k->kind), k->ops, k->name,
               k->transaction ? "" : "  NOT A TRANSACTION: ", k->transaction ? "" : k->why_not);
        for (int j = 0; j < k->n_in && views; j++) {
            print_view("in", plan, &k->in[j]);
        }
        if (views) {
            print_view("y ", plan, &k->y);
        }
    }
}

static void *read_file(const char *path, size_t bytes)
{
    FILE *file = fopen(path, "rb");
    void *data = malloc(bytes + 1);
    if (!file || !data || fread(data, 1, bytes, file) != bytes) {
        fprintf(stderr, "cannot read %zu bytes of %s\n", bytes, path);
        exit(1);
    }
    fclose(file);
    return data;
}

static int run(const reef_plan *plan, const char *dir)
{
    void **in = calloc(plan->n_inputs + 1, sizeof *in), **out = calloc(plan->n_outputs + 1, sizeof *out);
    char path[4096];
    for (size_t i = 0; i < plan->n_inputs; i++) {
        snprintf(path, sizeof path, "%s/in%zu.bin", dir, i);
        in[i] = read_file(path, plan->inputs[i].bytes);
    }
    for (size_t i = 0; i < plan->n_outputs; i++) {
        out[i] = malloc(plan->outputs[i].bytes + 1);
        memset(out[i], 0xff, plan->outputs[i].bytes + 1);
    }
    const reef_status status = plan_interp_run(plan, (const void *const *)in, out);
    for (size_t i = 0; i < plan->n_outputs && !status; i++) {
        snprintf(path, sizeof path, "%s/out%zu.bin", dir, i);
        FILE *file = fopen(path, "wb");
        if (!file || fwrite(out[i], 1, plan->outputs[i].bytes, file) != plan->outputs[i].bytes || fclose(file)) {
            fprintf(stderr, "cannot write %s\n", path);
            return 1;
        }
    }
    for (size_t i = 0; i < plan->n_inputs; i++) {
        free(in[i]);
    }
    for (size_t i = 0; i < plan->n_outputs; i++) {
        free(out[i]);
    }
    free(in);
    free(out);
    if (status) {
        fprintf(stderr, "interpreter: %s\n", reef_status_name(status));
    }
    return status != REEF_OK;
}

static reef_status set_shape(reef_graph *graph, char *text, reef_error *error)
{
    int64_t dims[REEF_MAX_RANK];
    int rank = 0;
    char *at = strchr(text, '=');
    if (!at) {
        return REEF_INVALID_ARGUMENT;
    }
    *at++ = 0;
    while (*at && rank < REEF_MAX_RANK) {
        dims[rank++] = strtoll(at, &at, 10);
        at += *at == 'x';
    }
    return reef_graph_set_shape(graph, text, dims, rank, error);
}

int main(int argc, char **argv)
{
    reef_graph *graph = NULL;
    reef_plan *plan = NULL;
    reef_error error = {0};
    const char *dir = NULL;
    bool list = false, fuse = true, views = false;
    uint32_t a = 0, b = 0;
    reef_status status = argc > 1 ? reef_graph_load(argv[1], &graph, &error) : REEF_INVALID_ARGUMENT;
    for (int i = 2; i < argc && !status; i++) {
        if (!strcmp(argv[i], "--shape") && i + 1 < argc) {
            status = set_shape(graph, argv[++i], &error);
        } else if (!strcmp(argv[i], "--data") && i + 1 < argc) {
            dir = argv[++i];
        } else {
            list |= !strcmp(argv[i], "--list") || !strcmp(argv[i], "--views");
            views |= !strcmp(argv[i], "--views");
            fuse &= strcmp(argv[i], "--no-fuse") != 0;
        }
    }
    status = status ? status : reef_graph_infer(graph, &error);
    status = status || !fuse ? status : reef_graph_fuse(graph, &error);
    status = status ? status : reef_plan_create(graph, &plan, &error);
    if (status) {
        fprintf(stderr, "%s: %s\n", reef_status_name(status), error.message);
        reef_graph_destroy(graph);
        return 1;
    }
    if (list) {
        print_kernels(plan, views);
    }
    int failed = 0;
    size_t copies = 0, torn = 0;
    double flops = 0;
    for (size_t i = 0; i < plan->n_kernels; i++) {
        copies += plan->kernels[i].kind == REEF_K_COPY;
        torn += !plan->kernels[i].transaction;
        flops += plan->kernels[i].flops;
    }
    printf("%zu kernels, %zu copies, %zu not transactions, %.1f MFLOP, activations %.1f KiB of %.1f KiB, weights %.1f "
           "KiB\n",
           plan->n_kernels, copies, torn, flops / 1e6, (double)plan->activation_bytes / 1024,
           (double)plan->activation_sum_bytes / 1024, (double)plan->weight_bytes / 1024);
    if (!reef_plan_memory_check(plan, &a, &b)) {
        printf("storages %u and %u share live bytes\n", a, b);
        failed = 1;
    }
    failed |= torn != 0;
    failed |= dir ? run(plan, dir) : 0;
    reef_plan_destroy(plan);
    return failed;
}
