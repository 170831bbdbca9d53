/*
 * fuzz_onnx.c - arbitrary bytes as a model, all the way: parse, give inputs a shape, infer and fold, fuse, lower, plan
 * memory, compile for the CPU, and run what is small.
 *
 * A small plan runs twice, tile by tile. First every storage is an allocation of its own, of exactly its size, so that
 * AddressSanitizer sees a step past it; then over planned memory, where tiles are abandoned and run again. Fresh memory
 * holds different bytes in the two runs, and the outputs must not differ by one bit: a read of what nobody wrote, two
 * live storages that overlap, and a tile that is no transaction all show.
 *
 * Budgets are small, so that a slow input stands out.
 */
#include "device/cpu/cpu.h"
#include "fuzz/fuzz.h"
#include "model/dtype.h"
#include "model/graph.h"
#include "model/shape.h"

#if defined(__x86_64__)
extern const reef_cpu_isa reef_cpu_isa_avx512, reef_cpu_isa_avx2;
#endif
extern const reef_cpu_isa reef_cpu_isa_generic;

enum { MAX_STORAGE_BYTES = 4 << 20, MAX_TILES = 20000 };
static const double MAX_WORK = 8e6; /* flops and bytes of a plan that runs */

/* Any instruction set that this processor has; the input decides. */
static const reef_cpu_isa *pick_isa(uint64_t seed)
{
    const reef_cpu_isa *isas[3] = {&reef_cpu_isa_generic};
    unsigned n = 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        isas[n++] = &reef_cpu_isa_avx2;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        isas[n++] = &reef_cpu_isa_avx512;
    }
#endif
    return isas[seed % n];
}

static void check_inferred(const reef_graph *graph)
{
    for (size_t i = 0; i < graph->n_nodes; i++) {
        const reef_node *node = graph->nodes[i];
        for (size_t k = 0; k < node->n_in + node->n_out && !node->dead; k++) {
            const reef_value *value = k < node->n_in ? node->in[k] : node->out[k - node->n_in];
            int64_t elems;
            if (!value || (k >= node->n_in && !value->uses)) {
                continue;
            }
            check(value->dtype != 0 && value->rank >= 0 && reef_dims_elems(value->rank, value->dims, &elems),
                  "live values have shapes");
            check(!value->data || value->bytes == 0 || reef_value_number(value, elems - 1) != 12345.678,
                  "constants can be read to their end");
            check(k >= node->n_in || value->producer || value->data || value->is_input, "inputs come from somewhere");
        }
    }
}

/* ------------------------------------------------------------------- plans -- */

static void check_view(const reef_plan *plan, const reef_view *view)
{
    if (view->storage == REEF_NO_STORAGE) {
        return;
    }
    int64_t first, end;
    check(view->storage < plan->n_storage, "views name a storage");
    reef_view_range(view, &first, &end);
    check(reef_view_elems(view) > 0 && first >= 0 && (uint64_t)end <= plan->storage[view->storage].bytes,
          "views stay inside their storage");
}

static void check_plan(const reef_plan *plan)
{
    uint32_t a = 0, b = 0;
    check(reef_plan_memory_check(plan, &a, &b), "live storages do not overlap");
    for (size_t i = 0; i < plan->n_kernels; i++) {
        const reef_kernel *k = &plan->kernels[i];
        for (int j = 0; j < k->n_in; j++) {
            check_view(plan, &k->in[j]);
        }
        check(k->y.storage < plan->n_storage && plan->storage[k->y.storage].kind != REEF_STORAGE_CONST &&
                  plan->storage[k->y.storage].kind != REEF_STORAGE_INPUT,
              "kernels write where they may");
        check_view(plan, &k->y);
        check(k->flops >= 0 && k->bytes >= 0, "costs are not negative");
        check(k->transaction || k->why_not, "what is no transaction says why");
    }
}

static bool is_small(const reef_plan *plan, const cpu_program *program)
{
    double work = 0;
    size_t bytes = plan->activation_bytes, tiles = 0;
    for (size_t i = 0; i < plan->n_kernels; i++) {
        work += plan->kernels[i].flops + plan->kernels[i].bytes;
        tiles += program->kernels[i].tiles;
    }
    for (size_t i = 0; i < plan->n_storage && bytes <= MAX_STORAGE_BYTES; i++) {
        bytes = plan->storage[i].bytes > MAX_STORAGE_BYTES ? SIZE_MAX / 2 : bytes + plan->storage[i].bytes;
    }
    return work <= MAX_WORK && bytes <= MAX_STORAGE_BYTES && tiles <= MAX_TILES;
}

static void *must(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    check(memory != NULL, "there is memory for the fuzzer");
    return memory;
}

/* Mostly ordinary numbers, now and then anything: indices far outside, NaN, infinities, bools that are neither. */
static void fill_input(const reef_plan_io *io, uint64_t *state, char *out)
{
    for (size_t i = 0; i < io->bytes; i++) {
        out[i] = (char)fuzz_random(state);
    }
    if (fuzz_random(state) % 4 == 0) {
        return;
    }
    for (size_t i = 0; i < io->bytes / reef_dtype_bytes(io->dtype); i++) {
        const int64_t number = (int64_t)(fuzz_random(state) % 17) - 4;
        switch (io->dtype) {
        case REEF_F32: ((float *)out)[i] = (float)number * 0.37f; break;
        case REEF_F64: ((double *)out)[i] = (double)number * 0.37; break;
        case REEF_I64: ((int64_t *)out)[i] = number; break;
        case REEF_I32: ((int32_t *)out)[i] = (int32_t)number; break;
        case REEF_BOOL: out[i] &= 1; break;
        default: break;
        }
    }
}

static void run_kernel(const cpu_program *program, size_t k, char *const *base, void *scratch, bool abandon,
                       uint64_t *state)
{
    static const _Atomic(reef_lease) everything = (uint64_t)2 << 32;
    const reef_cpu_kernel *code = &program->kernels[k];
    const bool preemptible = program->base.plan->kernels[k].transaction && code->epilogue_only;
    for (uint32_t tile = 0; tile < code->tiles; tile++) {
        reef_tile_ctx ctx = {.scratch = scratch, .polls_left = UINT64_MAX};
        if (abandon && preemptible) {
            const uint64_t polls = fuzz_random(state) % 8;
            ctx.lease = &everything;
            ctx.polls_left = polls < 6 ? polls : UINT64_MAX;
            if (code->run(code->args, base, tile, &ctx) == REEF_TILE_DONE) {
                continue;
            }
            ctx.polls_left = UINT64_MAX;
        }
        check(code->run(code->args, base, tile, &ctx) == REEF_TILE_DONE, "tiles that nobody abandons finish");
    }
}

static void run_plan(const cpu_program *program, void *const *inputs, void **outputs, bool exact, uint64_t *state)
{
    const reef_plan *plan = program->base.plan;
    const int fresh = exact ? 0xa5 : 0x5a;
    char **base = must((plan->n_storage + 1) * sizeof *base);
    char *activations = exact ? NULL : must(plan->activation_bytes);
    if (activations) {
        memset(activations, fresh, plan->activation_bytes);
    }
    for (size_t i = 0; i < plan->n_storage; i++) {
        const reef_storage *storage = &plan->storage[i];
        if (storage->kind == REEF_STORAGE_INPUT) {
            base[i] = inputs[storage->index];
        } else if (storage->kind == REEF_STORAGE_OUTPUT) {
            base[i] = outputs[storage->index] = must(storage->bytes);
            memset(base[i], fresh, storage->bytes);
        } else if (exact) {
            base[i] = must(storage->bytes);
            memset(base[i], fresh, storage->bytes);
            if (storage->kind == REEF_STORAGE_CONST && storage->bytes) {
                memcpy(base[i], storage->data, storage->bytes);
            }
        } else {
            base[i] = storage->kind == REEF_STORAGE_CONST ? program->const_data[i] : activations + storage->offset;
        }
    }
    for (size_t k = 0; k < plan->n_kernels; k++) {
        void *scratch = aligned_alloc(64, (program->kernels[k].scratch_bytes + 63) / 64 * 64 + 64);
        check(scratch != NULL, "there is memory for the fuzzer");
        memset(scratch, fresh, program->kernels[k].scratch_bytes);
        run_kernel(program, k, base, scratch, !exact, state);
        free(scratch);
    }
    for (size_t i = 0; i < plan->n_storage && exact; i++) {
        if (plan->storage[i].kind == REEF_STORAGE_CONST || plan->storage[i].kind == REEF_STORAGE_ACTIVATION) {
            free(base[i]);
        }
    }
    free(activations);
    free(base);
}

static void run_twice(const cpu_program *program, uint64_t *state)
{
    const reef_plan *plan = program->base.plan;
    void **inputs = must((plan->n_inputs + 1) * sizeof *inputs);
    void **outputs = must((plan->n_outputs + 1) * 2 * sizeof *outputs), **again = outputs + plan->n_outputs;
    for (size_t i = 0; i < plan->n_inputs; i++) {
        inputs[i] = must(plan->inputs[i].bytes);
        fill_input(&plan->inputs[i], state, inputs[i]);
    }
    run_plan(program, inputs, outputs, true, state);
    run_plan(program, inputs, again, false, state);
    for (size_t i = 0; i < plan->n_outputs; i++) {
        if (memcmp(outputs[i], again[i], plan->outputs[i].bytes) != 0) {
            fprintf(stderr, "output %zu '%s' (%s)\n", i, plan->outputs[i].name, program->kernels[0].variant);
        }
        check(memcmp(outputs[i], again[i], plan->outputs[i].bytes) == 0, "answers do not depend on fresh memory");
        free(outputs[i]);
        free(again[i]);
    }
    for (size_t i = 0; i < plan->n_inputs; i++) {
        free(inputs[i]);
    }
    free(inputs);
    free(outputs);
}

static void compile_and_run(const reef_plan *plan, uint64_t seed)
{
    cpu_device device = {.base = {.units = 2}, .n_units = 2, .isa = pick_isa(seed)};
    reef_program *program = NULL;
    reef_error error = {.status = REEF_OK, .message = ""};
    const reef_status status = cpu_program_create(&device.base, plan, NULL, &program, &error);
    if (status) {
        check(!program, "results are untouched on failure");
        check_failure(status, &error);
        return;
    }
    for (uint32_t k = 0; k < plan->n_kernels; k++) {
        reef_dev_kernel info;
        cpu_kernel_info(program, k, &info);
        check(info.tiles >= 1 && info.variant && (info.preemptible || info.why_not), "kernels describe themselves");
    }
    if (is_small(plan, (const cpu_program *)program)) {
        uint64_t state = seed | 1;
        run_twice((const cpu_program *)program, &state);
    }
    cpu_program_destroy(program);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    reef_graph *graph = NULL;
    reef_plan *plan = NULL;
    reef_error error = {.status = REEF_OK, .message = ""};
    const uint64_t seed = fuzz_seed(bytes, size);
    reef_status status = reef_graph_parse(bytes, size, &graph, &error);
    if (status != REEF_OK) {
        check(!graph, "results are untouched on failure");
        check_failure(status, &error);
        return 0;
    }
    graph->fold_limit_bytes = 1 << 18;
    for (size_t i = 0; i < graph->n_inputs && i < 8; i++) {
        int64_t dims[REEF_MAX_RANK];
        int rank = graph->inputs[i]->rank >= 0 ? graph->inputs[i]->rank : 2;
        for (int k = 0; k < rank; k++) {
            int64_t dim = graph->inputs[i]->rank >= 0 ? graph->inputs[i]->dims[k] : 3;
            dims[k] = dim < 0 ? 4 + k : dim;
        }
        reef_graph_set_shape(graph, graph->inputs[i]->name, dims, rank, &error);
    }
    status = reef_graph_infer(graph, &error);
    if (status == REEF_OK) {
        check_inferred(graph);
        /* Unfused graphs take other paths through lowering. */
        status = seed >> 32 & 3 ? reef_graph_fuse(graph, &error) : REEF_OK;
    }
    if (status == REEF_OK) {
        check_inferred(graph);
        status = reef_plan_create(graph, &plan, &error);
    }
    if (status != REEF_OK) {
        check(!plan, "results are untouched on failure");
        check_failure(status, &error);
        reef_graph_destroy(graph);
        return 0;
    }
    check_plan(plan);
    compile_and_run(plan, seed);
    reef_plan_destroy(plan);
    return 0;
}
