/*
 * refine.c - of the variants that were fastest alone, those that are fastest together.
 *
 * A kernel's time in a run is not its time among its own kind: how soon it starts depends on what its predecessor leaves
 * free, how soon its own successor starts on what it leaves, and its instructions have to be fetched again. So once a
 * whole program is there, the few best variants of each computation are tried in the run itself, one computation after
 * the other, those first that the run spends most time in, and a variant stays when the run became faster.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "device/cuda/cuda.h"

enum { MAX_SAMPLES = 32 };

typedef struct refinement {
    cuda_bench *bench;
    cuda_program *program;
    const uint64_t *storage;
    CUdeviceptr workspace;
    reef_error *error;
} refinement;

/* The lower quartile of some runs: what disturbs a run makes it longer. */
static reef_status time_run(const refinement *r, unsigned samples, uint64_t *ns)
{
    uint64_t times[MAX_SAMPLES + 1] = {0};
    CUgraphExec graph = NULL;
    cuda_program_join(r->program);
    reef_status status = cuda_graph_of_program(r->program, r->storage, r->workspace, &graph, r->error);
    for (unsigned i = 0; !status && i < samples + 1; i++) { /* the first warms up */
        status = cuda_bench_graph(r->bench, graph, &times[i], r->error);
    }
    if (graph) {
        r->bench->device->cu->graph_exec_destroy(graph);
    }
    qsort(times + 1, samples, sizeof times[0], reef_compare_ns);
    *ns = times[1 + samples / 4];
    return status;
}

/* Every kernel of the group gets its option; returns the one it had, which is the same for all. */
static unsigned pick(const refinement *r, cuda_options *options, uint64_t key, unsigned option)
{
    unsigned before = 0;
    for (size_t k = 0; k < r->program->base.plan->n_kernels; k++) {
        cuda_options *o = &options[k];
        if (o->n > option && o->key == key) {
            before = o->picked;
            o->picked = option;
            r->program->kernels[k] = o->kernel[option];
        }
    }
    return before;
}

reef_status cuda_refine(cuda_bench *bench, cuda_program *program, cuda_options *options, const uint64_t *storage,
                        CUdeviceptr workspace, reef_error *error)
{
    enum { GLANCE = 3, SAMPLES = 9 };
    static const uint64_t budget_ns = UINT64_C(2000000000);
    const size_t n = program->base.plan->n_kernels;
    const uint64_t begun = reef_now_ns();
    refinement r = {bench, program, storage, workspace, error};
    size_t *first = calloc(n + 1, sizeof *first); /* a kernel of each group, the weightiest groups first */
    uint64_t *weight = calloc(n + 1, sizeof *weight), best = 0;
    size_t groups = 0;
    if (!first || !weight) {
        free(first);
        free(weight);
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    for (size_t k = 0; k < n; k++) {
        size_t g = 0;
        while (g < groups && options[first[g]].key != options[k].key) {
            g++;
        }
        if (options[k].n > 1) {
            groups += g == groups;
            first[g] = k;
            weight[g] += options[k].kernel[0].solo_ns;
            for (; g > 0 && weight[g - 1] < weight[g]; g--) {
                size_t other = first[g];
                uint64_t heavier = weight[g];
                first[g] = first[g - 1], weight[g] = weight[g - 1];
                first[g - 1] = other, weight[g - 1] = heavier;
            }
        }
    }
    reef_status status = groups ? time_run(&r, MAX_SAMPLES, &best) : REEF_OK;
    for (size_t g = 0; !status && g < groups && reef_now_ns() - begun < budget_ns; g++) {
        const cuda_options *o = &options[first[g]];
        for (unsigned i = 1; !status && i < o->n; i++) {
            uint64_t took, again = 0;
            unsigned before = pick(&r, options, o->key, i);
            status = time_run(&r, GLANCE, &took); /* most are clearly slower */
            if (!status && took < best + best / 256) {
                status = time_run(&r, SAMPLES, &took);
            }
            if (!status && took < best) { /* believed when it happens twice */
                status = time_run(&r, SAMPLES, &again);
            }
            if (!status && took < best && again < best) {
                best = took > again ? took : again;
            } else {
                pick(&r, options, o->key, before);
            }
        }
    }
    free(first);
    free(weight);
    return status;
}
