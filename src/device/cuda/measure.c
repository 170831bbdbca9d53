/*
 * measure.c - timing kernels and whole runs on an idle device.
 *
 * A kernel is timed as it runs in a request: in a graph with programmatic edges, with its activations in the cache and
 * its weights in memory, because a request's weights are seldom still in the cache from the last one. For that the
 * cache is emptied before each sample and every launch of the graph reads its own copy of the weights.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/futex.h"
#include "device/cuda/cuda.h"

enum {
    LAUNCHES = 16,               /* of one graph */
    FLUSH_BYTES = 128 << 20,     /* more than the cache */
    MAX_COPIES_BYTES = 96 << 20, /* of constants; more than the cache too */
    REPLAY_LIMIT_S = 10,
};

reef_status cuda_bench_create(const cuda_device *device, cuda_bench *out, reef_error *error)
{
    const cuda_driver *cu = device->cu;
    cuda_bench bench = {.device = device};
    reef_status status =
        CUDA_TRY(cu, error, stream_create(&bench.stream, CUDA_STREAM_NON_BLOCKING, device->greatest_priority));
    if (!status) {
        status = CUDA_TRY(cu, error, event_create(&bench.start, 0));
    }
    if (!status) {
        status = CUDA_TRY(cu, error, event_create(&bench.end, 0));
    }
    if (!status) {
        status = CUDA_TRY(cu, error, mem_alloc(&bench.flush, FLUSH_BYTES));
    }
    if (status) {
        cuda_bench_destroy(&bench);
        return status;
    }
    *out = bench;
    return REEF_OK;
}

void cuda_bench_destroy(cuda_bench *bench)
{
    if (!bench->device) {
        return;
    }
    const cuda_driver *cu = bench->device->cu;
    if (bench->stream) {
        cu->stream_synchronize(bench->stream);
        cu->stream_destroy(bench->stream);
    }
    if (bench->start) {
        cu->event_destroy(bench->start);
    }
    if (bench->end) {
        cu->event_destroy(bench->end);
    }
    if (bench->flush) {
        cu->mem_free(bench->flush);
    }
    if (bench->copies) {
        cu->mem_free(bench->copies);
    }
    *bench = (cuda_bench){0};
}

/* Copies of the constants; *n of them. */
static reef_status make_copies(cuda_bench *bench, CUdeviceptr constants, size_t bytes, unsigned *n, reef_error *error)
{
    const cuda_driver *cu = bench->device->cu;
    size_t each = cuda_round(bytes), fit = each ? MAX_COPIES_BYTES / each : 0;
    *n = fit > LAUNCHES ? LAUNCHES : (unsigned)fit;
    if (*n < 2) {
        *n = 0; /* larger than the cache: the original does */
        return REEF_OK;
    }
    if (bench->copies_bytes < *n * each) {
        if (bench->copies) {
            cu->mem_free(bench->copies);
        }
        bench->copies = 0;
        bench->copies_bytes = 0;
        reef_status status = CUDA_TRY(cu, error, mem_alloc(&bench->copies, MAX_COPIES_BYTES));
        if (status) {
            return status;
        }
        bench->copies_bytes = MAX_COPIES_BYTES;
    }
    reef_status status = REEF_OK;
    for (unsigned i = 0; !status && i < *n; i++) {
        status = CUDA_TRY(cu, error, memcpy_on_device(bench->copies + i * each, constants, bytes, bench->stream));
    }
    return status;
}

static reef_status build(cuda_bench *bench, const reef_cuda_kernel *code, CUfunction function, const char *args,
                         const uint32_t *at, unsigned n_at, CUdeviceptr constants, size_t bytes, CUgraphExec *out,
                         reef_error *error)
{
    const cuda_driver *cu = bench->device->cu;
    unsigned copies = 0;
    CUgraph graph = NULL;
    CUgraphNode last = NULL;
    reef_status status = make_copies(bench, constants, bytes, &copies, error);
    if (!status) {
        status = CUDA_TRY(cu, error, graph_create(&graph, 0));
    }
    for (unsigned i = 0; !status && i < LAUNCHES; i++) {
        char own[CUDA_MAX_ARGS];
        memcpy(own, args, code->args_bytes);
        for (unsigned a = 0; copies && a < n_at; a++) {
            uint64_t address;
            memcpy(&address, own + at[a], sizeof address);
            address += bench->copies + i % copies * cuda_round(bytes) - constants;
            memcpy(own + at[a], &address, sizeof address);
        }
        status = cuda_graph_add(bench->device, graph, code, function, own, NULL, bench->device->context, &last, i > 0,
                                &last, error);
    }
    if (!status) {
        status = CUDA_TRY(cu, error, graph_instantiate(out, graph, 0));
    }
    if (graph) {
        cu->graph_destroy(graph);
    }
    return status;
}

reef_status cuda_bench_graph(cuda_bench *bench, CUgraphExec graph, uint64_t *ns, reef_error *error)
{
    const cuda_driver *cu = bench->device->cu;
    float ms = 0;
    reef_status status = CUDA_TRY(cu, error, memset8_async(bench->flush, 0, FLUSH_BYTES, bench->stream));
    status = status ? status : CUDA_TRY(cu, error, event_record(bench->start, bench->stream));
    status = status ? status : CUDA_TRY(cu, error, graph_launch(graph, bench->stream));
    status = status ? status : CUDA_TRY(cu, error, event_record(bench->end, bench->stream));
    status = status ? status : CUDA_TRY(cu, error, event_synchronize(bench->end));
    status = status ? status : CUDA_TRY(cu, error, event_elapsed(&ms, bench->start, bench->end));
    *ns = (uint64_t)((double)ms * 1e6);
    return status;
}

static reef_status sample(cuda_bench *bench, CUgraphExec graph, uint64_t *ns, reef_error *error)
{
    reef_status status = cuda_bench_graph(bench, graph, ns, error);
    *ns /= LAUNCHES;
    return status;
}

reef_status cuda_bench_kernel(cuda_bench *bench, const reef_cuda_kernel *code, CUfunction function, const char *args,
                              const uint32_t *at, unsigned n_at, CUdeviceptr constants, size_t bytes, unsigned samples,
                              uint64_t *ns, reef_error *error)
{
    CUgraphExec graph = NULL;
    uint64_t ignored;
    reef_status status = build(bench, code, function, args, at, n_at, constants, bytes, &graph, error);
    if (!status) {
        status = sample(bench, graph, &ignored, error); /* warm up */
    }
    for (unsigned i = 0; !status && i < samples; i++) {
        status = sample(bench, graph, &ns[i], error);
    }
    if (graph) {
        bench->device->cu->graph_exec_destroy(graph);
    }
    return status;
}

reef_status cuda_measure(reef_instance *base, uint32_t index, unsigned runs, uint64_t *samples, reef_error *error)
{
    cuda_instance *instance = (cuda_instance *)base;
    const cuda_program *program = (const cuda_program *)base->program;
    cuda_device *device = (cuda_device *)base->program->dev;
    const cuda_kernel *kernel = &program->kernels[index];
    cuda_bench bench = {0};
    if (kernel->done_by) { /* never launched: the least that counts as measured */
        for (unsigned i = 0; i < runs; i++) {
            samples[i] = 1;
        }
        return REEF_OK;
    }
    cuda_hold(device);
    reef_status status = cuda_enter(device, error);
    if (!status) {
        status = cuda_bench_create(device, &bench, error);
        if (!status) {
            char args[CUDA_MAX_ARGS];
            cuda_kernel_args(kernel, instance, args);
            status = cuda_bench_kernel(&bench, &kernel->code, kernel->function, args, kernel->constant_at,
                                       kernel->n_constant, program->constants + kernel->constants_offset,
                                       kernel->constants_bytes, runs, samples, error);
        }
        cuda_bench_destroy(&bench);
        cuda_leave(device);
    }
    cuda_release(device);
    return status;
}

/* The shortest way there is: one launch call, then looking at the word that the graph's end stores. */
static reef_status replay(cuda_device *device, cuda_instance *instance, cuda_graph *graph, CUstream stream,
                          uint64_t *ns, reef_error *error)
{
    uint64_t begun = reef_now_ns(), limit = begun + (uint64_t)REPLAY_LIMIT_S * 1000000000u;
    reef_status status = CUDA_TRY(device->cu, error, graph_launch(graph->executable, stream));
    const uint64_t ticket = instance->submitted += !status;
    /* Acquire: pairs with the release store of reef_io_end. */
    for (unsigned i = 1; !status && __atomic_load_n(&instance->words->ended, __ATOMIC_ACQUIRE) < ticket; i++) {
        reef_cpu_relax();
        if (i % (1u << 20) == 0) {
            CUresult result = device->cu->stream_query(stream);
            status = result == CUDA_NOT_READY
                         ? REEF_OK
                         : cuda_check(device->cu, result, "stream_query(a run was under way)", error);
            if (!status && reef_now_ns() > limit) {
                status = reef_fail(error, REEF_DEVICE, "a run has not ended after %d s", REPLAY_LIMIT_S);
            }
        }
    }
    *ns = reef_now_ns() - begun;
    return status;
}

/* With the real-time part of a share's units; -1: with all. kind: CUDA_GRAPH_IN and OUT. The context is current. */
static reef_status replay_on(cuda_instance *instance, int share, uint32_t kind, uint64_t *ns, reef_error *error)
{
    cuda_device *device = (cuda_device *)instance->base.program->dev;
    const uint32_t kernels = (uint32_t)instance->base.program->plan->n_kernels;
    CUstream *stream = &instance->replay_streams[1 + share];
    cuda_graph *graph;
    reef_status status =
        cuda_graph_get(instance, 0, kernels, kind | (uint32_t)(CUDA_GRAPH_SHARE * (1 + share)), &graph, error);
    if (!status && !*stream) {
        status = cuda_share_stream(device, share, true, stream, error);
    }
    return status ? status : replay(device, instance, graph, *stream, ns, error);
}

reef_status cuda_replay(reef_instance *base, bool in, bool out, uint64_t *ns, reef_error *error)
{
    cuda_instance *instance = (cuda_instance *)base;
    cuda_device *device = (cuda_device *)base->program->dev;
    if (in) {
        cuda_stage(base);
    }
    cuda_hold(device);
    reef_status status = cuda_enter(device, error);
    if (!status) {
        status = replay_on(instance, -1, (in ? CUDA_GRAPH_IN : 0) | (out ? CUDA_GRAPH_OUT : 0), ns, error);
        cuda_leave(device);
    }
    cuda_release(device);
    if (!status && out) {
        cuda_instance_outputs(instance);
    }
    return status;
}

/* Runs that keep the best-effort part of a share busy. */
typedef struct load {
    cuda_instance *instance;
    cuda_graph *graph;
    CUstream stream;
} load;

static bool is_running(const load *l)
{
    return __atomic_load_n(&l->instance->words->ended, __ATOMIC_ACQUIRE) < l->instance->submitted;
}

/* The context is current. */
static reef_status load_begin(const cuda_device *device, reef_instance *instance, int share, load *l, reef_error *error)
{
    const uint32_t kind = (uint32_t)(CUDA_GRAPH_SHARE * (1 + share)) | CUDA_GRAPH_BESIDE;
    *l = (load){.instance = (cuda_instance *)instance};
    reef_status status =
        cuda_graph_get(l->instance, 0, (uint32_t)instance->program->plan->n_kernels, kind, &l->graph, error);
    return status ? status : cuda_share_stream(device, share, false, &l->stream, error);
}

/* Two runs in the stream, if none is left there. */
static reef_status load_go_on(const cuda_device *device, load *l, reef_error *error)
{
    reef_status status = REEF_OK;
    for (int i = is_running(l) ? 2 : 0; !status && i < 2; i++) {
        status = CUDA_TRY(device->cu, error, graph_launch(l->graph->executable, l->stream));
        l->instance->submitted += !status;
    }
    return status;
}

static void load_end(const cuda_device *device, load *l)
{
    if (l->stream) {
        device->cu->stream_synchronize(l->stream);
        device->cu->stream_destroy(l->stream);
    }
}

/* In the real-time part of a share, while `other` is run in the other part; share -1: alone, with all units. *typical 0:
 * the other did not keep up. */
static reef_status typical_replay(reef_instance *instance, reef_instance *other, int share, uint64_t *typical,
                                  reef_error *error)
{
    enum { WARM = 20, RUNS = 61, MOST = 4 * (WARM + RUNS) };
    cuda_device *device = (cuda_device *)instance->program->dev;
    uint64_t ns[WARM + RUNS];
    load l = {0};
    int n = 0;
    cuda_hold(device);
    reef_status status = cuda_enter(device, error);
    if (!status) {
        if (share >= device->n_shares) { /* a recovery has found fewer */
            status = reef_fail(error, REEF_DEVICE, "%s was recovered during a measurement", device->gpu->name);
        }
        status = status || share < 0 ? status : load_begin(device, other, share, &l, error);
        for (int i = 0; i < MOST && n < WARM + RUNS && !status; i++) {
            status = share < 0 ? REEF_OK : load_go_on(device, &l, error);
            status = status ? status : replay_on((cuda_instance *)instance, share, 0, &ns[n], error);
            n += share < 0 || is_running(&l); /* still */
        }
        load_end(device, &l);
        cuda_leave(device);
    }
    cuda_release(device);
    *typical = 0;
    if (!status && n == WARM + RUNS) {
        qsort(ns + WARM, RUNS, sizeof *ns, reef_compare_ns);
        *typical = ns[WARM + RUNS / 2];
    }
    return status;
}

static int count_shares(cuda_device *device)
{
    cuda_hold(device);
    const int n = device->n_shares;
    cuda_release(device);
    return n;
}

/* Fewer units make a run longer, and so does what the others do meanwhile to the memory that all have in common. What
 * they will do is not known: the same model stands for it. */
reef_status cuda_units_needed(reef_instance *instance, unsigned per_mille, unsigned *units, reef_error *error)
{
    cuda_device *device = (cuda_device *)instance->program->dev;
    reef_instance *other;
    int share = count_shares(device);
    *units = device->base.units;
    if (share == 0) {
        return REEF_OK;
    }
    reef_status status = cuda_instance_create(instance->program, &other, error);
    if (status) {
        return status;
    }
    /* Twice: what is measured too long here makes too few units look like enough. */
    uint64_t all = 0, again = 0, part;
    status = typical_replay(instance, NULL, -1, &all, error);
    status = status ? status : typical_replay(instance, NULL, -1, &again, error);
    all = again < all ? again : all;
    while (!status && share-- > 0 && *units == device->base.units) {
        status = typical_replay(instance, other, share, &part, error);
        if (!status && part && part * 1000 <= all * (1000 + per_mille)) {
            *units -= device->shares[share].be_units;
        }
    }
    cuda_instance_destroy(other);
    return status;
}
