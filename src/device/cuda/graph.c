/*
 * graph.c - kernels of an instance as one graph that is launched with one call.
 *
 *     [in] -> k(first) -+-> k -> k -+-> ... -> end
 *                       `-> k ------'
 *
 * The edges are the plan's (plan->after): kernels that are not ordered may run at once. They are programmatic: a kernel
 * is set up while its predecessors still run and waits inside for their ends (griddepcontrol.wait). A driver before CUDA
 * 12.3, or a GPU before sm_90, gets ordinary edges and the same results.
 */
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda.h"

reef_status cuda_graph_add(const cuda_device *device, CUgraph graph, const reef_cuda_kernel *code, CUfunction function,
                           void *args, const CUgraphNode *after, size_t n_after, CUgraphNode *out, reef_error *error)
{
    const cuda_driver *cu = device->cu;
    void *params[] = {args};
    CUDA_KERNEL_NODE_PARAMS node = {
        .func = function,
        .grid = {code->tiles, 1, 1},
        .block = {code->threads, 1, 1},
        .smem_bytes = code->dynamic_smem,
        .params = params,
    };
    bool programmatic = cu->graph_add_edges && device->gpu->major >= 9;
    CUgraphNode added = NULL; /* not *out yet: that may be after[0] */
    reef_status status = CUDA_TRY(
        cu, error, graph_add_kernel(&added, graph, programmatic ? NULL : after, programmatic ? 0 : n_after, &node));
    for (size_t i = 0; i < n_after && programmatic && !status; i++) {
        CUgraphEdgeData kind = {.from_port = CUDA_EDGE_PROGRAMMATIC, .type = CUDA_EDGE_PROGRAMMATIC};
        status = CUDA_TRY(cu, error, graph_add_edges(graph, &after[i], &added, &kind, 1));
    }
    if (!status && code->cluster > 1) {
        CUlaunchAttributeValue cluster = {.cluster = {code->cluster, 1, 1}};
        status = CUDA_TRY(cu, error, graph_kernel_attribute(added, CUDA_NODE_CLUSTER, &cluster));
    }
    *out = added;
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

/* A graph in the making. */
typedef struct draft {
    const cuda_instance *instance;
    CUgraph graph;
    uint32_t first;
    CUgraphNode *nodes; /* of kernel first + i */
    bool *followed;     /* another kernel waits for it */
    CUgraphNode *after; /* what the next node waits for */
    size_t n_after;
    CUgraphNode scratch; /* the last kernel that uses the workspace */
    reef_error *error;
} draft;

/* Adds the copy of pieces[from..to) of the instance's inputs (or outputs, behind the inputs in its tables). */
static reef_status add_copy(draft *d, bool in, size_t from, size_t to, bool ends)
{
    const cuda_instance *instance = d->instance;
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
    if (ends) {
        args.control = instance->memory + instance->control_offset;
        args.words = instance->pinned_address;
    }
    uint64_t blocks = (largest + REEF_IO_BLOCK_BYTES - 1) / REEF_IO_BLOCK_BYTES;
    reef_cuda_kernel code = {
        .tiles = blocks < 1                  ? 1
                 : blocks > device->gpu->sms ? device->gpu->sms
                                             : (unsigned)blocks,
        .threads = args.pieces ? REEF_IO_THREADS : 32,
    };
    CUgraphNode node;
    reef_status status = cuda_graph_add(device, d->graph, &code, in ? device->io_in : device->io_end, &args, d->after,
                                        d->n_after, &node, d->error);
    d->after[0] = node;
    d->n_after = 1;
    return status;
}

static reef_status add_inputs(draft *d)
{
    size_t n = d->instance->base.program->plan->n_inputs;
    reef_status status = REEF_OK;
    for (size_t i = 0; !status && i < n; i += REEF_IO_PIECES) {
        status = add_copy(d, true, i, n - i < REEF_IO_PIECES ? n : i + REEF_IO_PIECES, false);
    }
    return status;
}

/* Kernel k after those of the graph that it follows, or after `start`. */
static reef_status add_kernel(draft *d, uint32_t k, CUgraphNode start)
{
    const cuda_program *program = (const cuda_program *)d->instance->base.program;
    const reef_plan *plan = program->base.plan;
    const cuda_device *device = (const cuda_device *)program->base.dev;
    const cuda_kernel *kernel = &program->kernels[k];
    const uint32_t before = k - 1, *list = plan->after ? plan->after + plan->after_at[k] : &before;
    const size_t n = plan->after ? plan->after_at[k + 1] - plan->after_at[k] : k > 0;
    /* One workspace for all; a cluster adds up without. */
    const bool workspace = kernel->code.workspace_bytes && kernel->code.cluster <= 1;
    char args[CUDA_MAX_ARGS];
    d->n_after = 0;
    if (kernel->done_by) { /* its followers follow the kernel that does its work, if that is here: the one it follows */
        const size_t other = (size_t)(kernel->done_by - program->kernels);
        d->nodes[k - d->first] = other >= d->first ? d->nodes[other - d->first] : NULL;
        return REEF_OK;
    }
    for (size_t i = 0; i < n; i++) {
        if (list[i] >= d->first && d->nodes[list[i] - d->first]) {
            d->after[d->n_after++] = d->nodes[list[i] - d->first];
            d->followed[list[i] - d->first] = true;
        }
    }
    bool known = !workspace || !d->scratch;
    for (size_t i = 0; i < d->n_after && !known; i++) {
        known = d->after[i] == d->scratch;
    }
    if (!known) {
        d->after[d->n_after++] = d->scratch;
    }
    if (d->n_after == 0 && start) {
        d->after[d->n_after++] = start;
    }
    cuda_kernel_args(kernel, d->instance, args);
    reef_status status = cuda_graph_add(device, d->graph, &kernel->code, kernel->function, args, d->after, d->n_after,
                                        &d->nodes[k - d->first], d->error);
    d->scratch = workspace ? d->nodes[k - d->first] : d->scratch;
    if (status) {
        const reef_kernel *described = &plan->kernels[k];
        reef_error_prefix(d->error, "node '%s' (%s, %s): ", described->name, described->ops, kernel->code.variant);
    }
    return status;
}

/* The end follows all that nobody follows. */
static reef_status add_end(draft *d, uint32_t count, CUgraphNode start, bool outputs)
{
    size_t n = outputs ? d->instance->base.program->plan->n_outputs : 0, i = 0;
    reef_status status = REEF_OK;
    d->n_after = 0;
    for (uint32_t k = 0; k < count; k++) {
        if (!d->followed[k] && d->nodes[k]) {
            d->after[d->n_after++] = d->nodes[k];
        }
    }
    if (d->n_after == 0 && start) {
        d->after[d->n_after++] = start;
    }
    for (; !status && n - i > REEF_IO_PIECES; i += REEF_IO_PIECES) {
        status = add_copy(d, false, i, i + REEF_IO_PIECES, false);
    }
    return status ? status : add_copy(d, false, i, n, true);
}

static reef_status build_draft(draft *d, cuda_graph *graph)
{
    const cuda_device *device = (const cuda_device *)d->instance->base.program->dev;
    reef_status status = CUDA_TRY(device->cu, d->error, graph_create(&d->graph, 0));
    if (!status && (graph->ends & CUDA_GRAPH_IN)) {
        status = add_inputs(d);
    }
    CUgraphNode start = d->n_after ? d->after[0] : NULL;
    for (uint32_t k = graph->first; !status && k < graph->first + graph->count; k++) {
        status = add_kernel(d, k, start);
    }
    if (!status) {
        status = add_end(d, graph->count, start, graph->ends & CUDA_GRAPH_OUT);
    }
    if (!status) {
        status = CUDA_TRY(device->cu, d->error, graph_instantiate(&graph->executable, d->graph, 0));
    }
    if (d->graph) {
        device->cu->graph_destroy(d->graph);
    }
    return status;
}

static reef_status build(const cuda_instance *instance, cuda_graph *graph, reef_error *error)
{
    draft d = {.instance = instance, .first = graph->first, .error = error};
    d.nodes = calloc(graph->count + 1, sizeof *d.nodes);
    d.followed = calloc(graph->count + 1, sizeof *d.followed);
    d.after = calloc((size_t)graph->count + 2, sizeof *d.after);
    reef_status status =
        d.nodes && d.followed && d.after ? build_draft(&d, graph) : reef_fail(error, REEF_NO_MEMORY, "out of memory");
    free(d.nodes);
    free(d.followed);
    free(d.after);
    return status;
}

reef_status cuda_graph_get(cuda_instance *instance, uint32_t first, uint32_t count, uint32_t ends, cuda_graph **out,
                           reef_error *error)
{
    for (cuda_graph *graph = instance->graphs; graph; graph = graph->next) {
        if (graph->first == first && graph->count == count && graph->ends == ends) {
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
    graph->ends = ends;
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
