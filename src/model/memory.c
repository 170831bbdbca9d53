/*
 * memory.c - where activations live: offsets by liveness.
 *
 * Two storages may share bytes if all kernels that touch the one follow (order.h) all that touch the other: then they are
 * never live at once, even where a device runs independent kernels side by side. Largest first, each goes to the
 * tightest gap between those already placed that may be live with it; this is within a few percent of the lower bound
 * on the networks we care about, and linear enough to forget.
 *
 * One exception makes two live storages share: an element kernel (or the residual of a product) may write over an
 * input that it is the last to read, if both are seen through the same view.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/dtype.h"
#include "model/order.h"
#include "model/view.h"

typedef struct block { /* storages that share one place */
    uint32_t id;
    size_t bytes;
    uint32_t first, last;     /* kernels that touch it, of the plan's order */
    uint64_t *users, *common; /* who touches it; who has finished before any of them starts. NULL in a chain */
    size_t offset;
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
        bool writes;
        const reef_view *view;
        for (int i = 0; (view = reef_order_operand(plan, k, i, &writes)); i++) {
            if (view->storage == REEF_NO_STORAGE) {
                continue;
            }
            reef_storage *s = &plan->storage[view->storage];
            s->first = s->first == UINT32_MAX ? (uint32_t)k : s->first;
            s->last = (uint32_t)k;
        }
    }
}

/* Every user of a has finished when a user of b starts. */
static bool precedes(const reef_order *order, const block *a, const block *b)
{
    if (!a->users || !b->common) {
        return a->last < b->first;
    }
    bool all = true;
    for (size_t i = 0; i < order->words && all; i++) {
        all = (a->users[i] & ~b->common[i]) == 0;
    }
    return all;
}

/* Kernel k comes after all other users of `from` and before all other users of `to`. */
static bool between(const reef_order *order, size_t k, const block *from, const block *to)
{
    bool ordered = from->last == k && to->first == k;
    for (size_t i = from->first; from->users && ordered && i < k; i++) {
        ordered = !reef_order_has(from->users, i) || reef_order_follows(order, k, i);
    }
    for (size_t i = k + 1; to->users && ordered && i <= to->last; i++) {
        ordered = !reef_order_has(to->users, i) || reef_order_follows(order, i, k);
    }
    return ordered;
}

/* The input of kernel k that y may overwrite, or NULL. Users are those of whole blocks. */
static const reef_view *overwritten(const reef_plan *plan, const reef_order *order, size_t k, const block *blocks,
                                    const uint32_t *block_of)
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
        bool safe = from != to && x.dtype == y->dtype && from->bytes == to->bytes && between(order, k, from, to);
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
static size_t best_offset(const reef_order *order, const block *b, block *const *placed, size_t n, block **near)
{
    size_t n_near = 0, end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        if (!precedes(order, placed[i], b) && !precedes(order, b, placed[i])) {
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

/* Who touches each block, and who precedes all of those: two sets per block, in one allocation. */
static uint64_t *find_users(const reef_plan *plan, const reef_order *order, block *blocks)
{
    const size_t words = order->words;
    uint64_t *sets = calloc(2 * plan->n_storage * words + 1, sizeof *sets);
    for (size_t i = 0; i < plan->n_storage && sets; i++) {
        blocks[i].users = sets + 2 * i * words;
        blocks[i].common = blocks[i].users + words;
        memset(blocks[i].common, 0xff, words * sizeof *sets);
    }
    for (size_t k = 0; k < plan->n_kernels && sets; k++) {
        bool writes;
        const reef_view *view;
        for (int i = 0; (view = reef_order_operand(plan, k, i, &writes)); i++) {
            if (!is_activation(plan, view->storage)) {
                continue;
            }
            uint64_t *users = sets + 2 * view->storage * words;
            reef_order_put(users, k);
            for (size_t w = 0; w < words; w++) {
                users[words + w] &= reef_order_row(order, k)[w];
            }
        }
    }
    return sets;
}

/* Kernel k writes y over `into`, which from now on stands for both. */
static void join(const reef_order *order, block *into, const block *y)
{
    into->last = y->last;
    for (size_t w = 0; into->users && y->users && w < order->words; w++) {
        into->users[w] |= y->users[w];
        into->common[w] &= y->common[w];
    }
}

static void place_all(reef_plan *plan, const reef_order *order, block *blocks, block **sorted, block **near,
                      uint32_t *block_of)
{
    const size_t n = plan->n_storage;
    size_t count = 0, placed = 0;
    plan->activation_sum_bytes = plan->activation_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        if (is_activation(plan, (uint32_t)i) && blocks[i].first != UINT32_MAX) {
            plan->activation_sum_bytes += blocks[i].bytes;
        }
    }
    for (size_t k = 0; k < plan->n_kernels; k++) {
        const reef_view *x = overwritten(plan, order, k, blocks, block_of);
        if (x) {
            block *into = &blocks[block_of[x->storage]];
            join(order, into, &blocks[plan->kernels[k].y.storage]);
            block_of[plan->kernels[k].y.storage] = into->id;
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (is_activation(plan, (uint32_t)i) && block_of[i] == i && blocks[i].first != UINT32_MAX) {
            sorted[count++] = &blocks[i];
        }
    }
    qsort(sorted, count, sizeof *sorted, larger_first);
    for (; placed < count; placed++) {
        block *b = sorted[placed];
        b->offset = best_offset(order, b, sorted, placed, near);
        if (b->offset + b->bytes > plan->activation_bytes) {
            plan->activation_bytes = b->offset + b->bytes;
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (is_activation(plan, (uint32_t)i)) {
            plan->storage[i].offset = blocks[block_of[i]].offset;
        }
    }
}

reef_status reef_plan_memory(reef_plan *plan, reef_error *error)
{
    const size_t n = plan->n_storage;
    reef_order order = {0};
    reef_status status = check_total(plan, error);
    status = status ? status : reef_order_find(plan, &order, error);
    if (status) {
        reef_order_free(&order);
        return status;
    }
    block *blocks = calloc(n + 1, sizeof *blocks), **sorted = calloc(n + 1, sizeof *sorted),
          **near = calloc(n + 1, sizeof *near);
    uint32_t *block_of = calloc(n + 1, sizeof *block_of);
    uint64_t *sets = NULL;
    live_ranges(plan);
    for (size_t i = 0; i < n && blocks && block_of; i++) {
        const reef_storage *s = &plan->storage[i];
        block_of[i] = (uint32_t)i;
        blocks[i] = (block){.id = (uint32_t)i, .bytes = aligned(s->bytes), .first = s->first, .last = s->last};
    }
    bool room = blocks && sorted && near && block_of;
    if (room && order.before) {
        sets = find_users(plan, &order, blocks);
        room = sets;
    }
    if (room) {
        place_all(plan, &order, blocks, sorted, near, block_of);
    } else {
        status = reef_fail(error, REEF_NO_MEMORY, "out of memory for the memory plan");
    }
    free(blocks);
    free(sorted);
    free(near);
    free(block_of);
    free(sets);
    reef_order_free(&order);
    return status;
}

static bool touches(const reef_plan *plan, size_t k, uint32_t s)
{
    bool found = false, writes;
    const reef_view *view;
    for (int i = 0; (view = reef_order_operand(plan, k, i, &writes)) && !found; i++) {
        found = view->storage == s;
    }
    return found;
}

/* All that touch `first` have finished when one that touches `second` starts; or, in place, the same kernel may. The
 * validator proves that kernel's views equal. */
static bool ordered(const reef_plan *plan, const reef_order *order, uint32_t first, uint32_t second)
{
    const reef_storage *s = &plan->storage[first], *t = &plan->storage[second];
    bool fine = true;
    for (size_t i = s->first; i <= s->last && fine; i++) {
        const bool user = touches(plan, i, first);
        for (size_t j = t->first; j <= t->last && fine && user; j++) {
            fine = !touches(plan, j, second) || reef_order_follows(order, j, i) || (i == j && s->offset == t->offset);
        }
    }
    return fine;
}

bool reef_plan_memory_check(const reef_plan *plan, uint32_t *a, uint32_t *b)
{
    reef_order order;
    bool fine = !reef_order_read(plan, &order);
    for (uint32_t i = 0; i < plan->n_storage && fine; i++) {
        const reef_storage *s = &plan->storage[i];
        if (s->kind != REEF_STORAGE_ACTIVATION || s->first == UINT32_MAX) {
            continue;
        }
        if (s->offset % REEF_PLAN_ALIGN || s->offset + s->bytes > plan->activation_bytes) {
            *a = *b = i;
            fine = false;
        }
        for (uint32_t j = i + 1; j < plan->n_storage && fine; j++) {
            const reef_storage *t = &plan->storage[j];
            const bool apart = t->kind != REEF_STORAGE_ACTIVATION || t->first == UINT32_MAX ||
                               s->offset + s->bytes <= t->offset || t->offset + t->bytes <= s->offset;
            if (!apart && !ordered(plan, &order, i, j) && !ordered(plan, &order, j, i)) {
                *a = i;
                *b = j;
                fine = false;
            }
        }
    }
    reef_order_free(&order);
    return fine;
}
