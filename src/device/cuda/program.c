/*
 * program.c - a plan compiled for the GPU: one variant per kernel, chosen by measurement, and the constants they read.
 *
 * For each kernel a prepare function offers candidates. It asks for device memory for packed weights (upload) before
 * anyone knows which candidate stays, so what it gets is not an address yet but a token: a number in a range that no
 * address is in. Tokens in the arguments of the chosen candidate say which packings are kept; those of all kernels then
 * lie in one allocation of exactly their size.
 *
 * Kernels that compute the same thing (the same candidates with the same arguments but for addresses) are measured once;
 * the best few of what was measured are then tried in the whole run (refine.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "device/cuda/cuda.h"

static const reef_cuda_prepare_fn prepare_of[REEF_KERNEL_KINDS] = {
    [REEF_K_CONV] = reef_cuda_prepare_conv,       [REEF_K_CONV_TRANSPOSE] = reef_cuda_prepare_conv_transpose,
    [REEF_K_MATMUL] = reef_cuda_prepare_matmul,   [REEF_K_ATTENTION] = reef_cuda_prepare_attention,
    [REEF_K_POOL] = reef_cuda_prepare_pool,       [REEF_K_ELTWISE] = reef_cuda_prepare_eltwise,
    [REEF_K_COPY] = reef_cuda_prepare_copy,       [REEF_K_REDUCE] = reef_cuda_prepare_reduce,
    [REEF_K_SOFTMAX] = reef_cuda_prepare_softmax, [REEF_K_LAYER_NORM] = reef_cuda_prepare_layer_norm,
    [REEF_K_GATHER] = reef_cuda_prepare_gather,   [REEF_K_RESIZE] = reef_cuda_prepare_resize,
    [REEF_K_LRN] = reef_cuda_prepare_lrn,         [REEF_K_ARG_MAX] = reef_cuda_prepare_arg_max,
    [REEF_K_SPIN] = reef_cuda_prepare_spin,
};

#define TOKENS UINT64_C(0x5eef000000000000)

/* One packing: host bytes, on their way to the device. */
typedef struct piece {
    char *host;
    size_t bytes, offset; /* offset: among the kernel's packings, then in the program's constants */
    bool wanted;
} piece;

typedef struct pieces {
    piece *items;
    size_t n, room;
} pieces;

/* The best candidates of a computation that was measured, best first. */
typedef struct ranking {
    uint64_t key;
    unsigned n;
    size_t candidate[CUDA_MAX_OPTIONS];
    uint64_t ns[CUDA_MAX_OPTIONS];
} ranking;

typedef struct build {
    cuda_device *device;
    cuda_program *program;
    reef_error *error;
    bool again; /* variants are chosen already; only constants are made */
    pieces chosen;
    size_t constants_bytes;
    /* of the kernel at hand */
    reef_arena arena;
    pieces offered;
    size_t offered_bytes;
    reef_cuda_kernel candidates[REEF_CUDA_MAX_CANDIDATES];
    size_t n_candidates;
    uint64_t key;
    /* measuring; made when first needed */
    cuda_tuning *tuning;
    cuda_bench bench;
    CUdeviceptr scratch, workspace, constants;
    size_t workspace_bytes, room; /* room: of constants */
    uint64_t *storage;
    ranking *rankings; /* one for each computation measured */
    unsigned measured;
    cuda_options *options; /* per kernel of the plan */
} build;

/* --------------------------------------------------------------- pieces -- */

static void pieces_free(pieces *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->items[i].host);
    }
    free(list->items);
    *list = (pieces){0};
}

static piece *pieces_add(pieces *list)
{
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 16;
        piece *items = realloc(list->items, room * sizeof *items);
        if (!items) {
            return NULL;
        }
        list->items = items;
        list->room = room;
    }
    piece *added = &list->items[list->n++];
    *added = (piece){0};
    return added;
}

static reef_status offer(void *owner, const void *host, size_t bytes, uint64_t *address)
{
    build *b = owner;
    piece *added = pieces_add(&b->offered);
    char *copy = added ? malloc(bytes ? bytes : 1) : NULL;
    if (!copy) {
        b->offered.n -= added != NULL;
        return reef_fail(b->error, REEF_NO_MEMORY, "out of memory for %zu bytes of weights", bytes);
    }
    memcpy(copy, host, bytes);
    *added = (piece){.host = copy, .bytes = bytes, .offset = b->offered_bytes};
    *address = TOKENS + b->offered_bytes;
    b->offered_bytes += cuda_round(bytes ? bytes : 1);
    return REEF_OK;
}

static bool is_reloc(const reef_cuda_kernel *code, uint32_t at)
{
    for (unsigned i = 0; i < code->n_relocs; i++) {
        if (code->relocs[i].at == at) {
            return true;
        }
    }
    return false;
}

/* Offsets in the candidate's args that hold tokens; at may be NULL. */
static unsigned find_tokens(const build *b, const reef_cuda_kernel *code, uint32_t *at)
{
    unsigned n = 0;
    for (uint32_t i = 0; i + 8 <= code->args_bytes; i += 8) {
        uint64_t word;
        memcpy(&word, (const char *)code->args + i, sizeof word);
        if (word >= TOKENS && word < TOKENS + b->offered_bytes && !is_reloc(code, i)) {
            if (at) {
                at[n] = i;
            }
            n++;
        }
    }
    return n;
}

static piece *piece_of(build *b, uint64_t token)
{
    for (size_t i = 0; i < b->offered.n; i++) {
        piece *p = &b->offered.items[i];
        if (token - TOKENS >= p->offset && token - TOKENS < p->offset + cuda_round(p->bytes ? p->bytes : 1)) {
            return p;
        }
    }
    return NULL;
}

/* ----------------------------------------------------------- candidates -- */

static reef_status prepare(build *b, const reef_kernel *kernel)
{
    pieces_free(&b->offered);
    reef_arena_free(&b->arena);
    b->arena = (reef_arena){0};
    b->offered_bytes = 0;
    reef_cuda_prepare context = {
        .plan = b->program->base.plan,
        .precision = b->program->precision,
        .sm_count = b->device->gpu->sms,
        .sm_arch = b->device->gpu->major * 10 + b->device->gpu->minor,
        .arch_kernels = b->device->n_modules && b->device->exact[0],
        .arena = &b->arena,
        .upload = offer,
        .owner = b,
        .error = b->error,
    };
    memset(b->candidates, 0, sizeof b->candidates);
    b->n_candidates = 0;
    reef_status status =
        prepare_of[kernel->kind](kernel, &context, b->candidates, REEF_CUDA_MAX_CANDIDATES, &b->n_candidates);
    if (!status && (b->n_candidates == 0 || b->candidates[0].args_bytes > CUDA_MAX_ARGS)) {
        status = reef_fail(b->error, REEF_INTERNAL, "no kernel was offered");
    }
    return status;
}

/* What the candidates compute, whatever the addresses: the key of measurements. */
static uint64_t key_of(const build *b)
{
    uint64_t key = b->device->code_hash;
    for (size_t c = 0; c < b->n_candidates; c++) {
        const reef_cuda_kernel *code = &b->candidates[c];
        char args[CUDA_MAX_ARGS];
        memcpy(args, code->args, code->args_bytes);
        for (unsigned i = 0; i < code->n_relocs; i++) {
            memset(args + code->relocs[i].at, 0, 8);
        }
        uint32_t shape[] = {code->tiles, code->threads, code->dynamic_smem, code->cluster, code->left_ns};
        key = cuda_hash(key, args, code->args_bytes);
        key = cuda_hash(key, shape, sizeof shape);
        key = cuda_hash(key, code->function, strlen(code->function));
        key = cuda_hash(key, code->variant, strlen(code->variant));
    }
    return key;
}

/* ------------------------------------------------------------ measuring -- */

static reef_status grow(build *b, CUdeviceptr *memory, size_t *room, size_t bytes)
{
    if (bytes <= *room) {
        return REEF_OK;
    }
    if (*memory) {
        b->device->cu->mem_free(*memory);
    }
    *memory = 0;
    *room = 0;
    reef_status status = CUDA_TRY(b->device->cu, b->error, mem_alloc(memory, bytes));
    *room = status ? 0 : bytes;
    return status;
}

/* Memory that stands in for an instance's: values that are small numbers in every element type. */
static reef_status make_scratch(build *b)
{
    const reef_plan *plan = b->program->base.plan;
    size_t bytes = cuda_round(plan->activation_bytes) + CUDA_ALIGN;
    for (size_t i = 0; i < plan->n_storage; i++) {
        if (plan->storage[i].kind != REEF_STORAGE_ACTIVATION) {
            bytes += cuda_round(plan->storage[i].bytes + 1);
        }
    }
    b->storage = calloc(plan->n_storage + 1, sizeof *b->storage);
    if (!b->storage) {
        return reef_fail(b->error, REEF_NO_MEMORY, "out of memory");
    }
    const cuda_driver *cu = b->device->cu;
    reef_status status = CUDA_TRY(cu, b->error, mem_alloc(&b->scratch, bytes));
    status = status ? status : CUDA_TRY(cu, b->error, memset8(b->scratch, 0x3c, bytes));
    status = status ? status : cuda_bench_create(b->device, &b->bench, b->error);
    uint64_t next = b->scratch + cuda_round(plan->activation_bytes);
    for (size_t i = 0; !status && i < plan->n_storage; i++) {
        const reef_storage *storage = &plan->storage[i];
        if (storage->kind == REEF_STORAGE_ACTIVATION) {
            b->storage[i] = b->scratch + storage->offset;
            continue;
        }
        b->storage[i] = next;
        next += cuda_round(storage->bytes + 1);
        if (storage->kind == REEF_STORAGE_CONST && storage->bytes) {
            status = CUDA_TRY(cu, b->error, memcpy_to_device(b->storage[i], storage->data, storage->bytes));
        }
    }
    return status;
}

static reef_status stage_constants(build *b)
{
    reef_status status = grow(b, &b->constants, &b->room, b->offered_bytes);
    for (size_t i = 0; !status && i < b->offered.n; i++) {
        const piece *p = &b->offered.items[i];
        if (p->bytes) {
            status = CUDA_TRY(b->device->cu, b->error, memcpy_to_device(b->constants + p->offset, p->host, p->bytes));
        }
    }
    return status;
}

static reef_status measure(build *b, const reef_cuda_kernel *code, unsigned samples, uint64_t *ns)
{
    char args[CUDA_MAX_ARGS];
    uint32_t at[CUDA_MAX_ARGS / 8];
    uint64_t times[16];
    CUfunction function;
    reef_status status = cuda_code_function(b->device, code->function, code->dynamic_smem, &function, b->error);
    status = status ? status : grow(b, &b->workspace, &b->workspace_bytes, code->workspace_bytes);
    if (!status && code->workspace_bytes) {
        status = CUDA_TRY(b->device->cu, b->error, memset8(b->workspace, 0, code->workspace_bytes));
    }
    status = status ? status : cuda_settle(b->device, b->error); /* staged constants as well */
    if (status) {
        return status;
    }
    cuda_relocate(code, b->storage, b->workspace, args);
    unsigned n = find_tokens(b, code, at);
    uint64_t low = UINT64_MAX, high = 0; /* the candidate's own packings */
    for (unsigned i = 0; i < n; i++) {
        uint64_t address;
        memcpy(&address, args + at[i], sizeof address);
        const piece *p = piece_of(b, address);
        low = p->offset < low ? p->offset : low;
        high = p->offset + p->bytes > high ? p->offset + p->bytes : high;
        address = b->constants + (address - TOKENS);
        memcpy(args + at[i], &address, sizeof address);
    }
    low = n ? low : 0;
    status = cuda_bench_kernel(&b->bench, code, function, args, at, n, b->constants + low, n ? high - low : 0, samples,
                               times, b->error);
    if (!status) {
        qsort(times, samples, sizeof *times, reef_compare_ns);
        *ns = times[(samples - 1) / 2];
    }
    return status;
}

/* Every candidate briefly, then the best few properly. */
static reef_status rank(build *b, ranking *best)
{
    enum { BRIEF = 2, PROPER = 9 };
    uint64_t first[REEF_CUDA_MAX_CANDIDATES] = {0};
    reef_status status = b->scratch ? REEF_OK : make_scratch(b);
    status = status ? status : stage_constants(b);
    for (size_t c = 0; !status && c < b->n_candidates; c++) {
        status = measure(b, &b->candidates[c], BRIEF, &first[c]);
        first[c] += b->candidates[c].left_ns;
        if (status) {
            reef_error_prefix(b->error, "measuring '%s': ", b->candidates[c].variant);
        }
    }
    *best = (ranking){.key = b->key};
    while (!status && best->n < CUDA_MAX_OPTIONS && best->n < b->n_candidates) {
        size_t next = 0;
        for (size_t c = 1; c < b->n_candidates; c++) {
            next = first[c] < first[next] ? c : next;
        }
        first[next] = UINT64_MAX;
        uint64_t ns = 0, left = b->candidates[next].left_ns;
        status = measure(b, &b->candidates[next], PROPER, &ns);
        unsigned at = best->n++;
        for (; at > 0 && best->ns[at - 1] + b->candidates[best->candidate[at - 1]].left_ns > ns + left; at--) {
            best->candidate[at] = best->candidate[at - 1];
            best->ns[at] = best->ns[at - 1];
        }
        best->candidate[at] = next;
        best->ns[at] = ns;
    }
    return status;
}

static reef_status choose_by_measuring(build *b, size_t *chosen, uint64_t *ns)
{
    ranking *more = realloc(b->rankings, (b->measured + 1) * sizeof *more);
    if (!more) {
        return reef_fail(b->error, REEF_NO_MEMORY, "out of memory");
    }
    b->rankings = more;
    reef_status status = rank(b, &more[b->measured]);
    if (!status) {
        *chosen = more[b->measured].candidate[0];
        *ns = more[b->measured].ns[0];
        b->measured++;
    }
    return status;
}

static reef_status choose(build *b, const cuda_kernel *kernel, size_t *chosen, uint64_t *ns)
{
    *chosen = 0;
    *ns = 0;
    if (b->again) {
        for (size_t c = 0; c < b->n_candidates; c++) {
            if (!strcmp(b->candidates[c].variant, kernel->code.variant)) {
                *chosen = c;
                return REEF_OK;
            }
        }
        return reef_fail(b->error, REEF_INTERNAL, "variant '%s' is not offered any more", kernel->code.variant);
    }
    b->key = key_of(b);
    int known = cuda_tuning_find(b->tuning, b->key, b->candidates, b->n_candidates, ns);
    if (known >= 0 || b->n_candidates == 1) {
        *chosen = known >= 0 ? (size_t)known : 0;
        return REEF_OK;
    }
    reef_status status = choose_by_measuring(b, chosen, ns);
    if (!status) {
        cuda_tuning_add(b->tuning, b->key, b->candidates[*chosen].variant, *ns);
    }
    return status;
}

/* ------------------------------------------------------------- adopting -- */

static const char *keep_text(reef_arena *arena, const char *text)
{
    return text ? reef_arena_string(arena, text, strlen(text)) : NULL;
}

/* Packings that the chosen candidate names move to the program's list; their offsets become places in its constants. */
static reef_status keep_pieces(build *b, const reef_cuda_kernel *code, cuda_kernel *kernel)
{
    uint32_t at[CUDA_MAX_ARGS / 8];
    unsigned n = find_tokens(b, code, at);
    uint64_t tokens[CUDA_MAX_ARGS / 8];
    piece *of[CUDA_MAX_ARGS / 8];
    for (unsigned i = 0; i < n; i++) {
        memcpy(&tokens[i], (const char *)code->args + at[i], sizeof tokens[i]);
        of[i] = piece_of(b, tokens[i]);
        of[i]->wanted = true;
        tokens[i] -= TOKENS + of[i]->offset;
    }
    kernel->constants_offset = b->constants_bytes;
    for (size_t i = 0; i < b->offered.n; i++) {
        piece *p = &b->offered.items[i];
        piece *kept = p->wanted ? pieces_add(&b->chosen) : NULL;
        if (p->wanted && !kept) {
            return reef_fail(b->error, REEF_NO_MEMORY, "out of memory");
        }
        if (kept) {
            p->offset = b->constants_bytes;
            b->constants_bytes += cuda_round(p->bytes ? p->bytes : 1);
            *kept = *p;
            p->host = NULL;
        }
    }
    kernel->constants_bytes = b->constants_bytes - kernel->constants_offset;
    if (b->again) {
        return REEF_OK;
    }
    kernel->constant_at = reef_arena_array(&b->program->arena, n + 1, sizeof *kernel->constant_at);
    kernel->constant = reef_arena_array(&b->program->arena, n + 1, sizeof *kernel->constant);
    if (!kernel->constant_at || !kernel->constant) {
        return reef_fail(b->error, REEF_NO_MEMORY, "out of memory");
    }
    kernel->n_constant = n;
    for (unsigned i = 0; i < n; i++) {
        kernel->constant_at[i] = at[i];
        kernel->constant[i] = of[i]->offset + tokens[i];
    }
    return REEF_OK;
}

/* The candidate, in the program's own memory. */
static reef_status keep_code(build *b, const reef_cuda_kernel *code, cuda_kernel *kernel)
{
    reef_arena *arena = &b->program->arena;
    kernel->code = *code;
    kernel->code.function = keep_text(arena, code->function);
    kernel->code.worker = keep_text(arena, code->worker);
    kernel->code.variant = keep_text(arena, code->variant);
    kernel->code.args = reef_arena_alloc(arena, code->args_bytes ? code->args_bytes : 1);
    if (!kernel->code.function || !kernel->code.variant || !kernel->code.args) {
        return reef_fail(b->error, REEF_NO_MEMORY, "out of memory");
    }
    memcpy(kernel->code.args, code->args, code->args_bytes);
    return REEF_OK;
}

/* A kernel without a worker form is no failure: its program is then served in the plain form. */
static reef_status find_worker(build *b, cuda_kernel *kernel)
{
    const reef_cuda_kernel *code = &kernel->code;
    reef_error ignored;
    int blocks = 0;
    kernel->worker = NULL;
    kernel->workers_per_sm = 1;
    if (!code->worker) {
        return REEF_OK;
    }
    reef_status status = cuda_code_function(b->device, code->worker, code->dynamic_smem, &kernel->worker, &ignored);
    if (status) {
        kernel->worker = NULL;
        return status == REEF_NOT_FOUND ? REEF_OK : reef_fail(b->error, status, "%s", ignored.message);
    }
    status =
        CUDA_TRY(b->device->cu, b->error, occupancy(&blocks, kernel->worker, (int)code->threads, code->dynamic_smem));
    kernel->workers_per_sm = blocks > 0 ? (unsigned)blocks : 1;
    return status;
}

static reef_status find_function(build *b, const reef_cuda_kernel *code, cuda_kernel *kernel)
{
    int blocks = 0;
    reef_status status = cuda_code_function(b->device, code->function, code->dynamic_smem, &kernel->function, b->error);
    if (!status) {
        b->device->cu->occupancy(&blocks, kernel->function, (int)code->threads, code->dynamic_smem);
        kernel->blocks_per_sm = blocks > 0 ? (unsigned)blocks : 1;
        status = find_worker(b, kernel);
    }
    return status;
}

static reef_status adopt(build *b, size_t chosen, cuda_kernel *kernel)
{
    const reef_cuda_kernel *code = &b->candidates[chosen];
    reef_status status = b->again ? REEF_OK : keep_code(b, code, kernel);
    status = status ? status : find_function(b, code, kernel);
    return status ? status : keep_pieces(b, code, kernel);
}

/* Do two candidates read the same packings from the same places of their arguments? */
static bool same_constants(const build *b, const reef_cuda_kernel *x, const reef_cuda_kernel *y)
{
    uint32_t at[2][CUDA_MAX_ARGS / 8];
    unsigned n = find_tokens(b, x, at[0]);
    bool same =
        x->args_bytes == y->args_bytes && n == find_tokens(b, y, at[1]) && !memcmp(at[0], at[1], n * sizeof at[0][0]);
    for (unsigned i = 0; same && i < n; i++) {
        same = !memcmp((const char *)x->args + at[0][i], (const char *)y->args + at[0][i], 8);
    }
    return same;
}

/* What refine may choose from for a kernel that was measured in this build; kernel is the chosen candidate, adopted. */
static reef_status keep_options(build *b, size_t chosen, const cuda_kernel *kernel, cuda_options *out)
{
    reef_status status = REEF_OK;
    const ranking *best = b->rankings;
    while (best < b->rankings + b->measured && best->key != b->key) {
        best++;
    }
    if (best == b->rankings + b->measured || best->candidate[0] != chosen) {
        return REEF_OK;
    }
    out->key = b->key;
    for (unsigned i = 0; !status && i < best->n; i++) {
        const reef_cuda_kernel *code = &b->candidates[best->candidate[i]];
        cuda_kernel *option = &out->kernel[out->n];
        *option = *kernel;
        if (i == 0) {
            out->n++;
        } else if (same_constants(b, &b->candidates[chosen], code)) {
            option->solo_ns = best->ns[i];
            status = keep_code(b, code, option);
            status = status ? status : find_function(b, code, option);
            out->n++;
        }
    }
    return status;
}

/* The variants that make the whole run fastest; what they are is remembered. */
static reef_status refine(build *b)
{
    cuda_program *program = b->program;
    size_t wanted = program->workspace_bytes;
    for (size_t k = 0; k < program->base.plan->n_kernels; k++) {
        for (unsigned i = 0; i < b->options[k].n; i++) {
            size_t bytes = b->options[k].kernel[i].code.workspace_bytes;
            wanted = bytes > wanted ? bytes : wanted;
        }
    }
    if (!b->measured) {
        return REEF_OK;
    }
    reef_status status = grow(b, &b->workspace, &b->workspace_bytes, wanted);
    if (!status && wanted) {
        status = CUDA_TRY(b->device->cu, b->error, memset8(b->workspace, 0, wanted));
    }
    status = status ? status : cuda_settle(b->device, b->error);
    status = status ? status : cuda_refine(&b->bench, program, b->options, b->storage, b->workspace, b->error);
    for (size_t k = 0; !status && k < program->base.plan->n_kernels; k++) {
        const cuda_kernel *kernel = &program->kernels[k];
        if (b->options[k].picked) {
            cuda_tuning_add(b->tuning, b->options[k].key, kernel->code.variant, kernel->solo_ns);
        }
    }
    return status;
}

/* Constants that kernels read through views. */
static reef_status keep_storage(build *b)
{
    const reef_plan *plan = b->program->base.plan;
    for (size_t k = 0; k < plan->n_kernels; k++) {
        const reef_cuda_kernel *code = &b->program->kernels[k].code;
        for (unsigned i = 0; i < code->n_relocs; i++) {
            uint32_t index = code->relocs[i].storage;
            if (code->relocs[i].target != REEF_CUDA_STORAGE || plan->storage[index].kind != REEF_STORAGE_CONST ||
                b->program->const_offset[index] < b->constants_bytes) {
                continue;
            }
            const reef_storage *storage = &plan->storage[index];
            piece *p = pieces_add(&b->chosen);
            char *copy = p ? malloc(storage->bytes ? storage->bytes : 1) : NULL;
            if (!copy) {
                b->chosen.n -= p != NULL;
                return reef_fail(b->error, REEF_NO_MEMORY, "out of memory for constant '%s'", storage->name);
            }
            if (storage->bytes) {
                memcpy(copy, storage->data, storage->bytes);
            }
            *p = (piece){.host = copy, .bytes = storage->bytes, .offset = b->constants_bytes};
            b->program->const_offset[index] = b->constants_bytes;
            b->constants_bytes += cuda_round(storage->bytes ? storage->bytes : 1);
        }
    }
    return REEF_OK;
}

static reef_status upload(build *b)
{
    cuda_program *program = b->program;
    const cuda_driver *cu = b->device->cu;
    program->constants_bytes = b->constants_bytes;
    if (!b->constants_bytes) {
        return REEF_OK;
    }
    reef_status status = CUDA_TRY(cu, b->error, mem_alloc(&program->constants, b->constants_bytes));
    if (status) {
        reef_error_prefix(b->error, "%zu MiB of weights on %s: ", b->constants_bytes >> 20, b->device->gpu->product);
        program->constants = 0;
        return status;
    }
    for (size_t i = 0; !status && i < b->chosen.n; i++) {
        const piece *p = &b->chosen.items[i];
        if (p->bytes) {
            status = CUDA_TRY(cu, b->error, memcpy_to_device(program->constants + p->offset, p->host, p->bytes));
        }
    }
    return status ? status : cuda_settle(b->device, b->error);
}

/* ----------------------------------------------------------------- whole -- */

static void build_end(build *b)
{
    const cuda_driver *cu = b->device->cu;
    cuda_bench_destroy(&b->bench);
    CUdeviceptr memory[] = {b->scratch, b->workspace, b->constants};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) {
        if (memory[i]) {
            cu->mem_free(memory[i]);
        }
    }
    pieces_free(&b->offered);
    pieces_free(&b->chosen);
    reef_arena_free(&b->arena);
    free(b->storage);
    free(b->rankings);
    free(b->options);
    free(b);
}

static void workspace_needed(cuda_program *program)
{
    program->workspace_bytes = 0;
    for (size_t k = 0; k < program->base.plan->n_kernels; k++) {
        size_t wanted = program->kernels[k].code.workspace_bytes;
        program->workspace_bytes = wanted > program->workspace_bytes ? wanted : program->workspace_bytes;
    }
}

void cuda_program_join(cuda_program *program)
{
    const reef_plan *plan = program->base.plan;
    for (size_t k = 0; k < plan->n_kernels; k++) {
        program->kernels[k].done_by = NULL;
    }
    for (size_t k = 0; k < plan->n_kernels; k++) {
        if (program->kernels[k].code.does_then) {
            program->kernels[plan->kernels[k].then].done_by = &program->kernels[k];
        }
        if (program->kernels[k].code.does_through) {
            program->kernels[plan->kernels[k].through - 1].done_by = &program->kernels[k];
        }
    }
}

static void count_tiles(cuda_program *program)
{
    program->tiles = 0;
    program->has_workers = true;
    for (size_t k = 0; k < program->base.plan->n_kernels; k++) {
        cuda_kernel *kernel = &program->kernels[k];
        kernel->first_tile = program->tiles;
        if (!kernel->done_by) {
            program->tiles += kernel->code.tiles;
            program->has_workers &= kernel->worker != NULL;
        }
    }
}

/* The context is current. */
static reef_status compile(build *b, const reef_program_options *options)
{
    cuda_program *program = b->program;
    const reef_plan *plan = program->base.plan;
    reef_status status = REEF_OK;
    memset(program->const_offset, 0xff, plan->n_storage * sizeof *program->const_offset);
    for (size_t k = 0; !status && k < plan->n_kernels; k++) {
        const reef_kernel *kernel = &plan->kernels[k];
        size_t chosen;
        uint64_t ns;
        if (options && options->progress) {
            options->progress(options->progress_context, b->measured ? "tuning" : "compiling", k, plan->n_kernels);
        }
        status = prepare(b, kernel);
        status = status ? status : choose(b, &program->kernels[k], &chosen, &ns);
        if (!status) {
            program->kernels[k].solo_ns = b->again ? program->kernels[k].solo_ns : ns;
            status = adopt(b, chosen, &program->kernels[k]);
        }
        if (!status && !b->again) {
            status = keep_options(b, chosen, &program->kernels[k], &b->options[k]);
        }
        if (status) {
            reef_error_prefix(b->error, "node '%s' (%s): ", kernel->name, kernel->ops);
        }
    }
    status = status ? status : keep_storage(b);
    status = status ? status : upload(b);
    if (!status && !b->again) {
        workspace_needed(program);
        cuda_program_join(program);
        status = refine(b);
        workspace_needed(program);
    }
    cuda_program_join(program);
    count_tiles(program);
    return status;
}

static reef_status compile_in_context(cuda_program *program, const reef_program_options *options, bool again,
                                      reef_error *error)
{
    build *b = calloc(1, sizeof *b);
    if (!b) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    b->device = (cuda_device *)program->base.dev;
    b->program = program;
    b->error = error;
    b->again = again;
    b->options = calloc(program->base.plan->n_kernels + 1, sizeof *b->options);
    if (!b->options) {
        free(b);
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    b->tuning = again ? NULL : cuda_tuning_open(b->device, options ? options->cache_dir : NULL);
    reef_status status = compile(b, options);
    cuda_tuning_close(b->tuning);
    build_end(b);
    return status;
}

reef_status cuda_program_load(cuda_program *program, reef_error *error)
{
    return compile_in_context(program, NULL, true, error);
}

static reef_cuda_precision precision_of(reef_precision wanted)
{
    switch (wanted) {
    case REEF_PRECISION_FP32: return REEF_CUDA_FP32;
    case REEF_PRECISION_FP16: return REEF_CUDA_FP16;
    case REEF_PRECISION_DEFAULT:
    case REEF_PRECISION_TF32: break;
    }
    return REEF_CUDA_TF32;
}

static void program_free(cuda_program *program)
{
    reef_arena_free(&program->arena);
    free(program->kernels);
    free(program->const_offset);
    free(program);
}

reef_status cuda_program_create(reef_dev *dev, const reef_plan *plan, const reef_program_options *options,
                                reef_program **out, reef_error *error)
{
    cuda_device *device = (cuda_device *)dev;
    cuda_program *program = calloc(1, sizeof *program);
    if (!program) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    reef_precision wanted = options ? options->precision : REEF_PRECISION_DEFAULT;
    program->base.dev = dev;
    program->base.plan = plan;
    program->base.precision = wanted == REEF_PRECISION_DEFAULT ? REEF_PRECISION_TF32 : wanted;
    program->precision = precision_of(wanted);
    reef_list_init(&program->link);
    program->kernels = calloc(plan->n_kernels + 1, sizeof *program->kernels);
    program->const_offset = calloc(plan->n_storage + 1, sizeof *program->const_offset);
    if (!program->kernels || !program->const_offset) {
        program_free(program);
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    cuda_hold(device);
    reef_status status = cuda_enter(device, error);
    if (!status) {
        status = compile_in_context(program, options, false, error);
        if (status && program->constants) {
            device->cu->mem_free(program->constants);
        }
        cuda_leave(device);
    }
    if (!status) {
        pthread_mutex_lock(&device->lock);
        reef_list_insert(&device->programs, &program->link);
        pthread_mutex_unlock(&device->lock);
    }
    cuda_release(device);
    if (status) {
        program_free(program);
        return status;
    }
    program->base.device_bytes = program->constants_bytes;
    *out = &program->base;
    return REEF_OK;
}

void cuda_program_destroy(reef_program *base)
{
    cuda_program *program = (cuda_program *)base;
    if (!program) {
        return;
    }
    cuda_device *device = (cuda_device *)base->dev;
    cuda_hold(device);
    pthread_mutex_lock(&device->lock);
    reef_list_remove(&program->link);
    pthread_mutex_unlock(&device->lock);
    reef_error ignored;
    if (program->constants && !cuda_enter(device, &ignored)) {
        device->cu->mem_free(program->constants);
        cuda_leave(device);
    }
    cuda_release(device);
    program_free(program);
}

uint64_t cuda_tile_ns(const cuda_program *program, uint32_t index)
{
    const cuda_kernel *kernel = &program->kernels[index];
    const reef_kernel *described = &program->base.plan->kernels[index];
    uint64_t at_once = (uint64_t)program->base.dev->units * kernel->blocks_per_sm;
    uint64_t waves = (kernel->code.tiles + at_once - 1) / at_once;
    /* Until it is measured: the larger of what arithmetic and memory allow on a large GPU, and never below a launch. */
    uint64_t guess_ns = (uint64_t)(2000 + described->bytes / 2000 + described->flops / 100000);
    return described->kind == REEF_K_SPIN ? described->spin.tile_ns
                                          : (kernel->solo_ns ? kernel->solo_ns : guess_ns) / waves;
}

void cuda_kernel_info(const reef_program *base, uint32_t index, reef_dev_kernel *out)
{
    const cuda_program *program = (const cuda_program *)base;
    const cuda_kernel *kernel = &program->kernels[index];
    const reef_kernel *described = &base->plan->kernels[index];
    if (kernel->done_by) {
        *out = (reef_dev_kernel){.tiles = 1,
                                 .preemptible = described->transaction && program->has_workers,
                                 .why_not = described->why_not,
                                 .variant = "with its neighbour",
                                 .tile_ns = 1,
                                 .blocks_per_unit = kernel->blocks_per_sm,
                                 .pad_level = atomic_load(&kernel->done_by->pad_level)};
        return;
    }
    *out = (reef_dev_kernel){
        .tiles = kernel->code.tiles,
        .preemptible = described->transaction && program->has_workers,
        .why_not = !described->transaction ? described->why_not
                   : program->has_workers  ? NULL
                                           : "a kernel of the plan has no worker form for this GPU",
        .variant = kernel->code.variant,
        .tile_ns = cuda_tile_ns(program, index),
        .blocks_per_unit = kernel->blocks_per_sm,
        .pad_level = atomic_load(&kernel->pad_level),
    };
}
