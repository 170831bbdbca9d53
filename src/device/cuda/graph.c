/*
 * graph.c - kernels of an instance as one graph that is launched with one call.
 *
 *     [in] -> k(first) -> ... -> k(first + count - 1) -> end
 *
 * The kernels are plain ones, or the same kernels as workers; then `end` reports how far they have come.
 *
 * The edges are programmatic: a kernel is set up while its predecessor still runs and waits inside for its end
 * (griddepcontrol.wait). A driver before CUDA 12.3, or a GPU before sm_90, gets ordinary edges and the same results.
 */
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda.h"

reef_status cuda_graph_add(const cuda_device *device, CUgraph graph, const reef_cuda_kernel *code, CUfunction function,
                           void *args, void *worker, CUcontext where, CUgraphNode after, CUgraphNode *out,
                           reef_error *error)
{
    const cuda_driver *cu = device->cu;
    void *params[] = {args, worker};
    CUDA_KERNEL_NODE_PARAMS node = {
        .kern = (CUkernel)function,
        .ctx = where,
        .grid = {code->tiles, 1, 1},
        .block = {code->threads, 1, 1},
        .smem_bytes = code->dynamic_smem,
        .params = params,
    };
    bool edge = after && cu->graph_add_edges && device->gpu->major >= 9;
    reef_status status =
        CUDA_TRY(cu, error, graph_add_kernel(out, graph, edge ? NULL : &after, after && !edge ? 1 : 0, &node));
    if (!status && edge) {
        CUgraphEdgeData kind = {.from_port = CUDA_EDGE_PROGRAMMATIC, .type = CUDA_EDGE_PROGRAMMATIC};
        status = CUDA_TRY(cu, error, graph_add_edges(graph, &after, out, &kind, 1));
    }
    if (!status && code->cluster > 1 && !worker) {
        CUlaunchAttributeValue cluster = {.cluster = {code->cluster, 1, 1}};
        status = CUDA_TRY(cu, error, graph_kernel_attribute(*out, CUDA_NODE_CLUSTER, &cluster));
    }
    return status;
}

void cuda_relocate(const reef_cuda_kernel *code, const uint64_t *storage, uint64_t workspace, char *out)
{
    memcpy(out, code->args, code->args_bytes);
    for (unsigned i = 0; i < code->n_relocs; i++) {
        const reef_cuda_reloc *reloc = &code->relocs[i];
        uint64_t address = reloc->target == REEF_CUDA_WORKSPACE ? workspace : storage[reloc->storage];
        address += (uint64_t)reloc->bytes;
        memcpy(out + reloc->at, &address, sizeof address);
    }
}

void cuda_kernel_args(const cuda_kernel *kernel, const cuda_instance *instance, char *out)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    cuda_relocate(&kernel->code, instance->storage, instance->memory + instance->workspace_offset, out);
    for (unsigned i = 0; i < kernel->n_constant; i++) {
        uint64_t address = program->constants + kernel->constant[i];
        memcpy(out + kernel->constant_at[i], &address, sizeof address);
    }
}

/* The units that a graph of this kind runs on: NULL: all. */
static const cuda_share *share_of(const cuda_device *device, uint32_t kind)
{
    uint32_t index = kind / CUDA_GRAPH_SHARE;
    return index ? &device->shares[index - 1] : NULL;
}

static CUcontext context_of(const cuda_device *device, uint32_t kind)
{
    const cuda_share *share = share_of(device, kind);
    return share ? kind & CUDA_GRAPH_WORKERS ? share->be : share->rt : device->context;
}

static reef_status add_worker(const cuda_instance *instance, CUgraph graph, uint32_t index, uint32_t kind, char *args,
                              CUgraphNode *last, reef_error *error)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    const cuda_device *device = (const cuda_device *)program->base.dev;
    const cuda_kernel *kernel = &program->kernels[index];
    const cuda_share *share = share_of(device, kind);
    unsigned most = (share ? share->be_units : device->gpu->sms) * kernel->workers_per_sm;
    reef_cuda_worker worker = {
        .revoked = device->revoked,
        .lost = device->revoked + CUDA_LOST_OFFSET,
        .control = instance->memory + instance->control_offset + CUDA_CONTROL_OFFSET,
        .done = instance->memory + instance->done_offset + 4 * (uint64_t)kernel->first_tile,
        .begun = instance->memory + instance->begun_offset + 4 * (uint64_t)index,
        .tiles = kernel->code.tiles,
        .begun_only = (kind & CUDA_GRAPH_BEGUN_ONLY) || !program->base.plan->kernels[index].transaction,
        .share = kernel->workers_per_sm,
    };
    reef_cuda_kernel code = kernel->code;
    code.tiles = code.tiles < most ? code.tiles : most;
    return cuda_graph_add(device, graph, &code, kernel->worker, args, &worker, context_of(device, kind), *last, last,
                          error);
}

/* What reef_io_end needs to find the first kernel that is not done. */
static void add_report(const cuda_instance *instance, const cuda_graph *graph, reef_io_args *args)
{
    const cuda_device *device = (const cuda_device *)instance->base.program->dev;
    args->first = graph->first;
    if (!(graph->kind & CUDA_GRAPH_WORKERS)) {
        args->first += graph->count;
        return;
    }
    args->kernels = graph->count;
    args->revoked = device->revoked;
    args->worker = instance->memory + instance->control_offset + CUDA_CONTROL_OFFSET;
    args->done = instance->memory + instance->done_offset;
    args->bounds = instance->memory + instance->bounds_offset;
}

/* Adds the copy of pieces[from..to) of the instance's inputs (or outputs, behind the inputs in its tables). ending: it is
 * the graph's last kernel. */
static reef_status add_copy(const cuda_instance *instance, CUgraph graph, uint32_t kind, bool in, size_t from,
                            size_t to, const cuda_graph *ending, CUgraphNode *last, reef_error *error)
{
    const cuda_device *device = (const cuda_device *)instance->base.program->dev;
    const reef_plan *plan = instance->base.program->plan;
    reef_io_args args = {0};
    uint64_t largest = 0;
    for (size_t i = from; i < to; i++) {
        size_t slot = in ? i : plan->n_inputs + i;
        uint64_t on_device = instance->memory + instance->io_offset[slot];
        uint64_t on_host = instance->pinned_address + instance->pin_offset[slot];
        uint64_t bytes = in ? plan->inputs[i].bytes : plan->outputs[i].bytes;
        args.from[args.pieces] = in ? on_host : on_device;
        args.to[args.pieces] = in ? on_device : on_host;
        args.bytes[args.pieces++] = bytes;
        largest = bytes > largest ? bytes : largest;
    }
    if (ending || (in && from == 0)) {
        args.control = instance->memory + instance->control_offset;
        args.words = instance->pinned_address;
    }
    if (ending) {
        add_report(instance, ending, &args);
    }
    uint64_t blocks = (largest + REEF_IO_BLOCK_BYTES - 1) / REEF_IO_BLOCK_BYTES;
    reef_cuda_kernel code = {
        .tiles = blocks < 1                  ? 1
                 : blocks > device->gpu->sms ? device->gpu->sms
                                             : (unsigned)blocks,
        .threads = args.pieces || args.kernels ? REEF_IO_THREADS : 32,
    };
    return cuda_graph_add(device, graph, &code, in ? device->io_in : device->io_end, &args, NULL,
                          context_of(device, kind), *last, last, error);
}

static reef_status add_inputs(const cuda_instance *instance, CUgraph graph, uint32_t kind, CUgraphNode *last,
                              reef_error *error)
{
    size_t n = instance->base.program->plan->n_inputs;
    /* Without inputs it still says that the launch has begun. */
    reef_status status = n ? REEF_OK : add_copy(instance, graph, kind, true, 0, 0, NULL, last, error);
    for (size_t i = 0; !status && i < n; i += REEF_IO_PIECES) {
        status = add_copy(instance, graph, kind, true, i, n - i < REEF_IO_PIECES ? n : i + REEF_IO_PIECES, NULL, last,
                          error);
    }
    return status;
}

static reef_status add_end(const cuda_instance *instance, CUgraph graph, const cuda_graph *ending, CUgraphNode *last,
                           reef_error *error)
{
    size_t n = ending->kind & CUDA_GRAPH_OUT ? instance->base.program->plan->n_outputs : 0, i = 0;
    reef_status status = REEF_OK;
    for (; !status && n - i > REEF_IO_PIECES; i += REEF_IO_PIECES) {
        status = add_copy(instance, graph, ending->kind, false, i, i + REEF_IO_PIECES, NULL, last, error);
    }
    return status ? status : add_copy(instance, graph, ending->kind, false, i, n, ending, last, error);
}

static reef_status build(const cuda_instance *instance, cuda_graph *graph, reef_error *error)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    const cuda_device *device = (const cuda_device *)program->base.dev;
    CUgraph description = NULL;
    CUgraphNode last = NULL;
    reef_status status = CUDA_TRY(device->cu, error, graph_create(&description, 0));
    if (!status && (graph->kind & CUDA_GRAPH_IN)) {
        status = add_inputs(instance, description, graph->kind, &last, error);
    }
    for (uint32_t k = graph->first; !status && k < graph->first + graph->count; k++) {
        char args[CUDA_MAX_ARGS];
        const cuda_kernel *kernel = &program->kernels[k];
        cuda_kernel_args(kernel, instance, args);
        status = graph->kind & CUDA_GRAPH_WORKERS
                     ? add_worker(instance, description, k, graph->kind, args, &last, error)
                     : cuda_graph_add(device, description, &kernel->code, kernel->function, args, NULL,
                                      context_of(device, graph->kind), last, &last, error);
        if (status) {
            const reef_kernel *described = &program->base.plan->kernels[k];
            reef_error_prefix(error, "node '%s' (%s, %s): ", described->name, described->ops, kernel->code.variant);
        }
    }
    if (!status) {
        status = add_end(instance, description, graph, &last, error);
    }
    if (!status) {
        status = CUDA_TRY(device->cu, error, graph_instantiate(&graph->executable, description, 0));
    }
    if (description) {
        device->cu->graph_destroy(description);
    }
    return status;
}

reef_status cuda_graph_get(cuda_instance *instance, uint32_t first, uint32_t count, uint32_t kind, cuda_graph **out,
                           reef_error *error)
{
    for (cuda_graph *graph = instance->graphs; graph; graph = graph->next) {
        if (graph->first == first && graph->count == count && graph->kind == kind) {
            *out = graph;
            return REEF_OK;
        }
    }
    cuda_graph *graph = calloc(1, sizeof *graph);
    if (!graph) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    graph->first = first;
    graph->count = count;
    graph->kind = kind;
    reef_status status = build(instance, graph, error);
    if (status) {
        free(graph);
        return status;
    }
    graph->next = instance->graphs;
    instance->graphs = graph;
    *out = graph;
    return REEF_OK;
}

void cuda_graphs_destroy(cuda_instance *instance)
{
    const cuda_device *device = (const cuda_device *)instance->base.program->dev;
    while (instance->graphs) {
        cuda_graph *graph = instance->graphs;
        instance->graphs = graph->next;
        device->cu->graph_exec_destroy(graph->executable); /* fails, and rightly, when the context is gone */
        free(graph);
    }
}
