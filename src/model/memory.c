/*
 * memory.c - where activations live: offsets by liveness.
 *
 * A storage is live from the first kernel that touches it to the last. Two that are never live at once may share
 * bytes. Largest first, each goes to the tightest gap between those already placed that are live with it; this is
 * within a few percent of the lower bound on the networks we care about, and linear enough to forget.
 *
 * One exception makes two live storages share: an element kernel (or the residual of a product) may write over an
 * input that it is the last to read, if both are seen through the same view.
 */
#include <stdlib.h>

#include "base/error.h"
#include "model/dtype.h"
#include "model/plan.h"
#include "model/view.h"

typedef struct block { /* storages that share one place */
    uint32_t id;
    size_t bytes;
    uint32_t first, last;
    size_t offset;
    bool placed;
} block;

static bool is_activation(const reef_plan *plan, uint32_t id)
{
    return id != REEF_NO_STORAGE && plan->storage[id].kind == REEF_STORAGE_ACTIVATION;
}

/* Keeps sums of sizes far from overflow, whatever a model says; each tensor has less than 2^43 bytes. */
#define MAX_TOTAL_BYTES ((size_t)1 << 46)

static reef_status check_total(const reef_plan *plan, reef_error *error)
{
    size_t total = 0;
    for (size_t i = 0; i < plan->n_storage; i++) {
        total += plan->storage[i].bytes;
        if (total > MAX_TOTAL_BYTES) {
            return reef_fail(error, REEF_NO_MEMORY, "the model's tensors need more than %zu TiB",
                             MAX_TOTAL_BYTES >> 40);
        }
    }
    return REEF_OK;
}

static size_t aligned(size_t bytes)
{
    return (bytes + REEF_PLAN_ALIGN - 1) / REEF_PLAN_ALIGN * REEF_PLAN_ALIGN;
}

static void live_ranges(reef_plan *plan)
{
    for (size_t i = 0; i < plan->n_storage; i++) {
        plan->storage[i].first = UINT32_MAX;
        plan->storage[i].last = 0;
    }
    for (size_t k = 0; k < plan->n_kernels; k++) {
        const reef_kernel *kernel = &plan->kernels[k];
        for (int i = 0; i <= kernel->n_in; i++) {
            const reef_view *view = i == kernel->n_in ? &kernel->y : &kernel->in[i];
            if (kernel->kind == REEF_K_SPIN || view->storage == REEF_NO_STORAGE) {
                continue;
            }
            reef_storage *s = &plan->storage[view->storage];
            s->first = s->first == UINT32_MAX ? (uint32_t)k : s->first;
            s->last = (uint32_t)k;
        }
    }
}

/* The input of kernel k that y may overwrite, or NULL. Ranges are those of whole blocks. */
static const reef_view *overwritten(const reef_plan *plan, size_t k, const block *blocks, const uint32_t *block_of)
{
    const reef_kernel *kernel = &plan->kernels[k];
    const reef_view *y = &kernel->y;
    if (kernel->kind == REEF_K_SPIN || !is_activation(plan, y->storage)) {
        return NULL;
    }
    const bool conv = kernel->kind == REEF_K_CONV || kernel->kind == REEF_K_CONV_TRANSPOSE;
    const int residual = conv && kernel->conv.has_residual                              ? 1
                         : kernel->kind == REEF_K_MATMUL && kernel->matmul.has_residual ? 2
                                                                                        : -1;
    for (int i = 0; i < kernel->n_in; i++) {
        reef_view x = kernel->in[i];
        if (!is_activation(plan, x.storage) || (kernel->kind != REEF_K_ELTWISE && i != residual) ||
            x.storage == y->storage) {
            continue;
        }
        const block *from = &blocks[block_of[x.storage]], *to = &blocks[block_of[y->storage]];
        bool safe = from != to && from->last == k && to->first == k && x.dtype == y->dtype && from->bytes == to->bytes;
        for (int j = 0; j < kernel->n_in && safe; j++) { /* every reader of the old contents sees the same view */
            const reef_view *other = &kernel->in[j];
            const bool same_block =
                is_activation(plan, other->storage) && block_of[other->storage] == block_of[x.storage];
            safe = !same_block ||
                   (reef_view_same(other, &kernel->in[i]) && (kernel->kind == REEF_K_ELTWISE || j == residual));
        }
        x.storage = y->storage;
        if (safe && reef_view_same(&x, y)) {
            return &kernel->in[i];
        }
    }
    return NULL;
}

static int larger_first(const void *a, const void *b)
{
    const block *x = *(block *const *)a, *y = *(block *const *)b;
    if (x->bytes != y->bytes) {
        return x->bytes < y->bytes ? 1 : -1;
    }
    return x->id < y->id ? -1 : x->id > y->id;
}

static int lower_first(const void *a, const void *b)
{
    const block *x = *(block *const *)a, *y = *(block *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* The tightest gap that holds b between the blocks live with it, or the end. `near` has room for all blocks. */
static size_t best_offset(const block *b, block *const *placed, size_t n, block **near)
{
    size_t n_near = 0, end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        if (placed[i]->first <= b->last && b->first <= placed[i]->last) {
            near[n_near++] = placed[i];
        }
    }
    qsort(near, n_near, sizeof *near, lower_first);
    for (size_t i = 0; i < n_near; i++) {
        if (near[i]->offset > end) {
            const size_t gap = near[i]->offset - end;
            if (gap >= b->bytes && gap < best_gap) {
                best = end;
                best_gap = gap;
            }
        }
        const size_t after = near[i]->offset + near[i]->bytes;
        end = after > end ? after : end;
    }
    return best != SIZE_MAX ? best : end;
}

reef_status reef_plan_memory(reef_plan *plan, reef_error *error)
{
    const size_t n = plan->n_storage;
    if (check_total(plan, error)) {
        return REEF_NO_MEMORY;
    }
    block *blocks = calloc(n + 1, sizeof *blocks), **order = calloc(n + 1, sizeof *order),
          **near = calloc(n + 1, sizeof *near);
    uint32_t *block_of = calloc(n + 1, sizeof *block_of);
    if (!blocks || !order || !near || !block_of) {
        free(blocks);
        free(order);
        free(near);
        free(block_of);
        return reef_fail(error, REEF_NO_MEMORY, "out of memory for the memory plan");
    }
    live_ranges(plan);
    plan->activation_sum_bytes = plan->activation_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const reef_storage *s = &plan->storage[i];
        block_of[i] = (uint32_t)i;
        blocks[i] = (block){.id = (uint32_t)i, .bytes = aligned(s->bytes), .first = s->first, .last = s->last};
        if (s->kind == REEF_STORAGE_ACTIVATION && s->first != UINT32_MAX) {
            plan->activation_sum_bytes += blocks[i].bytes;
        }
    }
    for (size_t k = 0; k < plan->n_kernels; k++) {
        const reef_view *x = overwritten(plan, k, blocks, block_of);
        if (x) {
            block *into = &blocks[block_of[x->storage]];
            into->last = blocks[plan->kernels[k].y.storage].last;
            block_of[plan->kernels[k].y.storage] = into->id;
        }
    }
    size_t count = 0, placed = 0;
    for (size_t i = 0; i < n; i++) {
        if (is_activation(plan, (uint32_t)i) && block_of[i] == i && blocks[i].first != UINT32_MAX) {
            order[count++] = &blocks[i];
        }
    }
    qsort(order, count, sizeof *order, larger_first);
    for (; placed < count; placed++) {
        block *b = order[placed];
        b->offset = best_offset(b, order, placed, near);
        if (b->offset + b->bytes > plan->activation_bytes) {
            plan->activation_bytes = b->offset + b->bytes;
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (is_activation(plan, (uint32_t)i)) {
            plan->storage[i].offset = blocks[block_of[i]].offset;
        }
    }
    free(blocks);
    free(order);
    free(near);
    free(block_of);
    return REEF_OK;
}

bool reef_plan_memory_check(const reef_plan *plan, uint32_t *a, uint32_t *b)
{
    for (uint32_t i = 0; i < plan->n_storage; i++) {
        const reef_storage *s = &plan->storage[i];
        if (s->kind != REEF_STORAGE_ACTIVATION || s->first == UINT32_MAX) {
            continue;
        }
        if (s->offset % REEF_PLAN_ALIGN || s->offset + s->bytes > plan->activation_bytes) {
            *a = *b = i;
            return false;
        }
        for (uint32_t j = i + 1; j < plan->n_storage; j++) {
            const reef_storage *t = &plan->storage[j];
            const bool apart = t->kind != REEF_STORAGE_ACTIVATION || t->first == UINT32_MAX || t->first > s->last ||
                               s->first > t->last || s->offset + s->bytes <= t->offset ||
                               t->offset + t->bytes <= s->offset;
            /* In place: one ends in the kernel that begins the other, at the same offset. The validator proves that
             * kernel's views equal. */
            const bool in_place = s->offset == t->offset && (s->last == t->first || t->last == s->first);
            if (!apart && !in_place) {
                *a = i;
                *b = j;
                return false;
            }
        }
    }
    return true;
}
