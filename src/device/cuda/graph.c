/*
 * graph.c - kernels of an instance as one graph that is launched with one call.
 *
 *     [in] -> k(first) -+-> k -> k -+-> ... -> end
 *                       `-> k ------'
 *
 * The kernels are plain ones, or the same kernels as workers; then `end` reports how far they have come. They follow each
 * other as the plan says (plan->after): what is not ordered may run at once.
 *
 * The edges are programmatic: a kernel is set up while its predecessors still run and waits inside for their ends
 * (griddepcontrol.wait). A driver before CUDA 12.3, or a GPU before sm_90, gets ordinary edges and the same results.
 */
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda.h"

reef_status cuda_graph_add(const cuda_device *device, CUgraph graph, const reef_cuda_kernel *code, CUfunction function,
                           void *args, void *worker, CUcontext where, const CUgraphNode *after, size_t n_after,
                           CUgraphNode *out, reef_error *error)
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

void cuda_program_args(const cuda_program *program, const cuda_kernel *kernel, const uint64_t *storage,
                       uint64_t workspace, char *out)
{
    cuda_relocate(&kernel->code, storage, workspace, out);
    for (unsigned i = 0; i < kernel->n_constant; i++) {
        uint64_t address = program->constants + kernel->constant[i];
        memcpy(out + kernel->constant_at[i], &address, sizeof address);
    }
}

void cuda_kernel_args(const cuda_kernel *kernel, const cuda_instance *instance, char *out)
{
    const cuda_program *program = (const cuda_program *)instance->base.program;
    cuda_program_args(program, kernel, instance->storage, instance->memory + instance->workspace_offset, out);
}

/* A graph in the making. */
typedef struct draft {
    const cuda_instance *instance; /* NULL: the kernels alone, in some memory */
    const cuda_program *program;
    const uint64_t *storage;
    uint64_t workspace;
    const cuda_graph *wanted;
    CUgraph graph;
    CUgraphNode *nodes; /* of kernel wanted->first + i; NULL: of no node here */
    bool *followed;     /* another kernel waits for it */
    CUgraphNode *after; /* what the next node waits for */
    size_t n_after;
    CUgraphNode last, scratch; /* the last kernel, and the last that uses the workspace */
    reef_error *error;
} draft;

/* The units that a graph of this kind runs on: NULL: all. */
static const cuda_share *share_of(const cuda_device *device, uint32_t kind)
{
    uint32_t index = kind / CUDA_GRAPH_SHARE;
    return index ? &device->shares[index - 1] : NULL;
}

static CUcontext context_of(const cuda_device *device, uint32_t kind)
{
    if (kind < CUDA_GRAPH_SHARE) {
        return device->context;
    }
    const cuda_share *share = share_of(device, kind);
    return kind & (CUDA_GRAPH_WORKERS | CUDA_GRAPH_BESIDE) ? share->be : share->rt;
}

static reef_status add_worker(const draft *d, uint32_t index, char *args, CUgraphNode *out)
{
    const cuda_instance *instance = d->instance;
    const cuda_program *program = d->program;
    const cuda_device *device = (const cuda_device *)program->base.dev;
    const cuda_kernel *kernel = &program->kernels[index];
    const uint32_t kind = d->wanted->kind;
    const cuda_share *share = share_of(device, kind);
    unsigned most = (share ? share->be_units : device->gpu->sms) * kernel->workers_per_sm;
    /* Where they fill every thread of a unit, one place is left for the watch: a block without a place would begin when the
     * others have done all their tiles. */
    const bool full =
        (kernel->workers_per_sm * kernel->code.threads + CUDA_WATCH_THREADS) > device->gpu->threads_per_sm;
    most -= !share && full && most > 1;
    reef_cuda_worker worker = {
        .revoked = device->revoked,
        .lost = device->revoked + CUDA_LOST_OFFSET,
        .control = instance->memory + instance->control_offset + CUDA_CONTROL_OFFSET,
        .done = instance->memory + instance->done_offset + 4 * (uint64_t)kernel->first_tile,
        .begun = instance->memory + instance->begun_offset + 4 * (uint64_t)index,
        .tiles = kernel->code.tiles,
        .begun_only = (kind & CUDA_GRAPH_BEGUN_ONLY) || !program->base.plan->kernels[index].transaction,
        .share = kernel->workers_per_sm,
        .cluster = kernel->code.cluster > 1 ? kernel->code.cluster : 1,
        .fresh = (kind & CUDA_GRAPH_FRESH) != 0,
    };
    reef_cuda_kernel code = kernel->code;
    code.tiles = code.loops && code.tiles > most ? most : code.tiles;
    return cuda_graph_add(device, d->graph, &code, kernel->worker, args, &worker, context_of(device, kind), d->after,
                          d->n_after, out, d->error);
}

/* A kernel in its plain form, or with spare blocks if it is to carry others' tiles and has room for any. */
static reef_status add_plain(const draft *d, uint32_t index, char *args, CUgraphNode *out)
{
    const cuda_program *program = d->program;
    const cuda_device *device = (const cuda_device *)program->base.dev;
    const cuda_kernel *kernel = &program->kernels[index];
    reef_cuda_kernel code = kernel->code;
    CUfunction function = kernel->function;
    cuda_padded padded;
    const bool pads = (d->wanted->kind & CUDA_GRAPH_PADS) && cuda_pad_plan(program, index, &padded);
    if (pads) {
        function = padded.function;
        code.tiles += padded.spare;
        code.dynamic_smem = padded.dynamic_smem;
    }
    return cuda_graph_add(device, d->graph, &code, function, args, pads ? &padded.pad : NULL,
                          context_of(device, d->wanted->kind), d->after, d->n_after, out, d->error);
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
    args->source = graph->kind & CUDA_GRAPH_PADS ? instance->source : 0;
    args->done = instance->memory + instance->done_offset;
    args->bounds = instance->memory + instance->bounds_offset;
}

/* Adds the copy of pieces[from..to) of the instance's inputs (or outputs, behind the inputs in its tables). ending: it is
 * the graph's last kernel. */
static reef_status add_copy(draft *d, bool in, size_t from, size_t to, bool ending)
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
    if (ending || (in && from == 0)) {
        args.control = instance->memory + instance->control_offset;
        args.words = instance->pinned_address;
    }
    if (ending) {
        add_report(instance, d->wanted, &args);
    }
    uint64_t blocks = (largest + REEF_IO_BLOCK_BYTES - 1) / REEF_IO_BLOCK_BYTES;
    reef_cuda_kernel code = {
        .tiles = blocks < 1                  ? 1
                 : blocks > device->gpu->sms ? device->gpu->sms
                                             : (unsigned)blocks,
        .threads = args.pieces || args.kernels ? REEF_IO_THREADS : 32,
    };
    CUgraphNode node;
    reef_status status = cuda_graph_add(device, d->graph, &code, in ? device->io_in : device->io_end, &args, NULL,
                                        context_of(device, d->wanted->kind), d->after, d->n_after, &node, d->error);
    d->after[0] = node;
    d->n_after = 1;
    return status;
}

static reef_status add_inputs(draft *d)
{
    size_t n = d->program->base.plan->n_inputs;
    /* Without inputs it still says that the launch has begun. */
    reef_status status = n ? REEF_OK : add_copy(d, true, 0, 0, false);
    for (size_t i = 0; !status && i < n; i += REEF_IO_PIECES) {
        status = add_copy(d, true, i, n - i < REEF_IO_PIECES ? n : i + REEF_IO_PIECES, false);
    }
    return status;
}

/* d->after: those of the graph that kernel k follows, or `start`. */
static void find_predecessors(draft *d, uint32_t k, CUgraphNode start)
{
    const reef_plan *plan = d->program->base.plan;
    const cuda_kernel *kernel = &d->program->kernels[k];
    const bool in_a_row = !plan->after;
    const uint32_t first = d->wanted->first;
    d->n_after = 0;
    if (in_a_row && d->last) {
        d->after[d->n_after++] = d->last;
        d->followed[k - 1 - first] = true;
    }
    for (uint32_t i = in_a_row ? 0 : plan->after_at[k]; i < (in_a_row ? 0 : plan->after_at[k + 1]); i++) {
        const uint32_t other = plan->after[i];
        if (other >= first && d->nodes[other - first]) {
            d->after[d->n_after++] = d->nodes[other - first];
            d->followed[other - first] = true;
        }
    }
    const bool workspace = !in_a_row && kernel->code.workspace_bytes; /* there is one for all */
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
}

static reef_status add_kernel(draft *d, uint32_t k, CUgraphNode start)
{
    const cuda_program *program = d->program;
    const cuda_kernel *kernel = &program->kernels[k];
    const uint32_t first = d->wanted->first;
    CUgraphNode *node = &d->nodes[k - first];
    char args[CUDA_MAX_ARGS];
    if (kernel->done_by) { /* who follows it follows the kernel that does its work, if that is here and before it */
        const size_t other = (size_t)(kernel->done_by - program->kernels);
        *node = other >= first && other < k ? d->nodes[other - first] : NULL;
        return REEF_OK;
    }
    find_predecessors(d, k, start);
    cuda_program_args(program, kernel, d->storage, d->workspace, args);
    reef_status status =
        d->wanted->kind & CUDA_GRAPH_WORKERS ? add_worker(d, k, args, node) : add_plain(d, k, args, node);
    d->last = *node;
    d->scratch = kernel->code.workspace_bytes ? *node : d->scratch;
    if (status) {
        const reef_kernel *described = &program->base.plan->kernels[k];
        reef_error_prefix(d->error, "node '%s' (%s, %s): ", described->name, described->ops, kernel->code.variant);
    }
    return status;
}

/* The end follows all that nobody follows. */
static reef_status add_end(draft *d, CUgraphNode start)
{
    size_t n = d->wanted->kind & CUDA_GRAPH_OUT ? d->program->base.plan->n_outputs : 0, i = 0;
    reef_status status = REEF_OK;
    const cuda_kernel *kernels = d->program->kernels + d->wanted->first;
    d->n_after = 0;
    for (uint32_t k = 0; k < d->wanted->count; k++) {
        if (!d->followed[k] && d->nodes[k] && !kernels[k].done_by) {
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

static reef_status build_nodes(draft *d, CUgraphExec *executable)
{
    const cuda_device *device = (const cuda_device *)d->program->base.dev;
    reef_status status = CUDA_TRY(device->cu, d->error, graph_create(&d->graph, 0));
    if (!status && (d->wanted->kind & CUDA_GRAPH_IN)) {
        status = add_inputs(d);
    }
    CUgraphNode start = d->n_after ? d->after[0] : NULL;
    for (uint32_t k = d->wanted->first; !status && k < d->wanted->first + d->wanted->count; k++) {
        status = add_kernel(d, k, start);
    }
    if (!status && d->instance) {
        status = add_end(d, start);
    }
    if (!status) {
        status = CUDA_TRY(device->cu, d->error, graph_instantiate(executable, d->graph, 0));
    }
    if (d->graph) {
        device->cu->graph_destroy(d->graph);
    }
    return status;
}

static reef_status build(draft *d, CUgraphExec *executable)
{
    const size_t n = d->wanted->count;
    d->nodes = calloc(n + 1, sizeof *d->nodes);
    d->followed = calloc(n + 1, sizeof *d->followed);
    d->after = calloc(n + 2, sizeof *d->after);
    reef_status status = d->nodes && d->followed && d->after ? build_nodes(d, executable)
                                                             : reef_fail(d->error, REEF_NO_MEMORY, "out of memory");
    free(d->nodes);
    free(d->followed);
    free(d->after);
    return status;
}

reef_status cuda_graph_of_program(const cuda_program *program, const uint64_t *storage, uint64_t workspace,
                                  CUgraphExec *out, reef_error *error)
{
    const cuda_graph wanted = {.count = (uint32_t)program->base.plan->n_kernels};
    draft d = {.program = program, .storage = storage, .workspace = workspace, .wanted = &wanted, .error = error};
    return build(&d, out);
}

static cuda_graph *find(const cuda_instance *instance, uint32_t first, uint32_t count, uint32_t kind)
{
    cuda_graph *graph = instance->graphs[first / CUDA_SEGMENT_KERNELS];
    while (graph && (graph->first != first || graph->count != count || graph->kind != kind)) {
        graph = graph->next;
    }
    return graph;
}

reef_status cuda_graph_get(cuda_instance *instance, uint32_t first, uint32_t count, uint32_t kind, cuda_graph **out,
                           reef_error *error)
{
    *out = find(instance, first, count, kind);
    if (*out) {
        return REEF_OK;
    }
    cuda_graph *graph = calloc(1, sizeof *graph);
    if (!graph) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    graph->first = first;
    graph->count = count;
    graph->kind = kind;
    draft d = {.instance = instance,
               .program = (const cuda_program *)instance->base.program,
               .storage = instance->storage,
               .workspace = instance->memory + instance->workspace_offset,
               .wanted = graph,
               .error = error};
    reef_status status = build(&d, &graph->executable);
    if (status) {
        free(graph);
        return status;
    }
    cuda_graph **list = &instance->graphs[first / CUDA_SEGMENT_KERNELS];
    graph->next = *list;
    *list = *out = graph;
    return REEF_OK;
}

static void destroy_list(const cuda_device *device, cuda_graph *graph, bool reachable)
{
    while (graph) {
        cuda_graph *next = graph->next;
        if (reachable) {
            device->cu->graph_exec_destroy(graph->executable); /* fails, and rightly, after a fault */
        }
        free(graph);
        graph = next;
    }
}

void cuda_graphs_destroy(cuda_instance *instance, bool reachable)
{
    const reef_program *program = instance->base.program;
    for (size_t i = 0; i <= program->plan->n_kernels / CUDA_SEGMENT_KERNELS; i++) {
        destroy_list((const cuda_device *)program->dev, instance->graphs[i], reachable);
        instance->graphs[i] = NULL;
    }
}
