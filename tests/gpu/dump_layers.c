/*
 * dump_layers.c - writes the shapes of a model's convolutions, products and attentions, one line per different shape,
 * for kernel_bench.c: what a GPU machine needs to measure kernels without the models.
 *
 *   dump_layers NAME MODEL.onnx >> layers.txt
 *
 * A line: network kind count params... views..., see kernel_bench.c.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/plan.h"

static size_t put_view(char *to, size_t room, const reef_plan *plan, const reef_view *v)
{
    size_t n = (size_t)snprintf(to, room, " V %d %d %d", (int)plan->storage[v->storage].kind, (int)v->dtype, v->rank);
    for (int d = 0; d < v->rank; d++) {
        n += (size_t)snprintf(to + n, room - n, " %" PRId64, v->dims[d]);
    }
    for (int d = 0; d < v->rank; d++) {
        n += (size_t)snprintf(to + n, room - n, " %" PRId64, v->stride[d]);
    }
    return n + (size_t)snprintf(to + n, room - n, " %" PRId64, v->offset % 64);
}

int main(int argc, char **argv)
{
    reef_graph *graph = NULL;
    reef_plan *plan = NULL;
    reef_error error = {0};
    if (argc < 3) {
        fprintf(stderr, "usage: dump_layers NAME MODEL.onnx [INPUT DIMS...]...   as in: input 1 3 224 224\n");
        return 2;
    }
    reef_status status = reef_graph_load(argv[2], &graph, &error);
    for (int i = 3; i < argc && !status;) {
        const char *input = argv[i++];
        int64_t dims[REEF_MAX_RANK];
        int rank = 0;
        while (i < argc && rank < REEF_MAX_RANK && strspn(argv[i], "0123456789") == strlen(argv[i])) {
            dims[rank++] = atoll(argv[i++]);
        }
        status = reef_graph_set_shape(graph, input, dims, rank, &error);
    }
    if (status || reef_graph_infer(graph, &error) || reef_graph_fuse(graph, &error) ||
        reef_plan_create(graph, &plan, &error)) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    char(*lines)[2048] = calloc(plan->n_kernels, sizeof *lines);
    unsigned *count = calloc(plan->n_kernels, sizeof *count);
    size_t n_lines = 0, other = 0;
    for (size_t i = 0; i < plan->n_kernels; i++) {
        const reef_kernel *k = &plan->kernels[i];
        char line[2048];
        size_t room = sizeof line, n = 0;
        if (k->kind == REEF_K_CONV || k->kind == REEF_K_CONV_TRANSPOSE) {
            const reef_conv *c = &k->conv;
            n = (size_t)snprintf(line, room, "%d %d %d %d  %d %d %d %d %d %d %d %d %d %d", (int)(c->bias != NULL),
                                 (int)c->has_residual, (int)c->act, 14, (int)c->groups, (int)c->filters,
                                 (int)c->kernel[0], (int)c->kernel[1], (int)c->stride[0], (int)c->stride[1],
                                 (int)c->pad[0], (int)c->pad[1], (int)c->dilation[0], (int)c->dilation[1]);
        } else if (k->kind == REEF_K_MATMUL) {
            const reef_matmul *m = &k->matmul;
            n = (size_t)snprintf(line, room, "%d %d %d %d", (int)(m->bias != NULL), (int)m->has_residual, (int)m->act,
                                 (int)m->b_const);
        } else if (k->kind == REEF_K_ATTENTION) {
            n = (size_t)snprintf(line, room, "0 0 %d %d", (int)k->attention.has_mask, (int)k->attention.nan_rows);
        } else {
            other++;
            continue;
        }
        n += (size_t)snprintf(line + n, room - n, " %d", k->n_in);
        for (int j = 0; j < k->n_in; j++) {
            n += put_view(line + n, room - n, plan, &k->in[j]);
        }
        put_view(line + n, room - n, plan, &k->y);
        char full[2048];
        snprintf(full, sizeof full, "%d %.2000s", (int)k->kind, line);
        size_t at = 0;
        while (at < n_lines && strcmp(lines[at], full) != 0) {
            at++;
        }
        if (at == n_lines) {
            memcpy(lines[n_lines++], full, sizeof full);
        }
        count[at]++;
    }
    for (size_t i = 0; i < n_lines; i++) {
        printf("%s %u %s\n", argv[1], count[i], lines[i]);
    }
    fprintf(stderr, "%s: %zu kernels, %zu others, %zu different shapes\n", argv[1], plan->n_kernels, other, n_lines);
    reef_plan_destroy(plan);
    return 0;
}
