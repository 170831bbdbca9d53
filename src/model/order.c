/*
 * order.c - what a kernel must wait for: those that write what it reads, and those that touch what it writes.
 *
 *     conv 1x1 ----------------------------.
 *     conv 1x1 -> conv 1x7 -> conv 7x1 ----+-> (concatenation, in place) -> ...
 *     pool -----> conv 1x1 ----------------'
 *
 * Two slices of one array that do not overlap are independent, so branches that write into a concatenation are.
 */
#include "model/order.h"

#include <stdlib.h>

#include "base/error.h"
#include "model/view.h"

typedef struct access { /* one operand of a kernel, in a list per storage */
    const reef_view *view;
    uint32_t kernel, next; /* next: the one before it */
    bool writes;
} access;

typedef struct accesses {
    uint32_t last, n;
    bool serial; /* too many to compare all with all: from here on each follows the one before */
} accesses;

enum { NONE = UINT32_MAX, MANY = 2048 };

void reef_order_free(reef_order *order)
{
    free(order->before);
    *order = (reef_order){0};
}

static reef_status make_table(const reef_plan *plan, bool chain, reef_order *out)
{
    *out = (reef_order){.kernels = plan->n_kernels, .words = (plan->n_kernels + 63) / 64};
    out->before = chain ? NULL : calloc(out->kernels * out->words + 1, sizeof *out->before);
    return chain || out->before ? REEF_OK : REEF_NO_MEMORY;
}

/* k follows `earlier` and whatever that follows. */
static void follow(const reef_order *order, size_t k, size_t earlier)
{
    uint64_t *row = reef_order_row(order, k);
    const uint64_t *from = reef_order_row(order, earlier);
    for (size_t i = 0; i <= earlier / 64; i++) {
        row[i] |= from[i];
    }
    reef_order_put(row, earlier);
}

/* Adds the kernels that view conflicts with to the set. */
static void conflicts(const access *list, accesses *of, const reef_view *view, bool writes, uint64_t *set)
{
    const bool all = !of->serial && of->n >= MANY;
    of->serial |= all;
    for (uint32_t i = of->last; i != NONE; i = list[i].next) {
        const bool matters = (writes || list[i].writes) && !of->serial && reef_view_overlap(list[i].view, view);
        if (matters || of->serial) {
            reef_order_put(set, list[i].kernel);
        }
        if (of->serial && !all) {
            return;
        }
    }
}

/* ------------------------------------------------------------ two in one -- */

static bool halves(const reef_kernel *k)
{
    const reef_pool *p = &k->pool;
    bool so = k->kind == REEF_K_POOL && p->kind == REEF_POOL_MAX && k->y.rank == 4 && k->in[0].rank == 4;
    for (int i = 0; i < 2 && so; i++) {
        so = p->kernel[i] == 2 && p->stride[i] == 2 && p->pad[i] == 0 && p->pad_end[i] == 0 && p->dilation[i] == 1 &&
             k->y.dims[2 + i] == k->in[0].dims[2 + i] / 2;
    }
    return so;
}

/* Kernel `pool` can be done where its input is made: by kernel k, the only other one that touches it, if nobody in between
 * touches the result. */
static bool joins(const reef_plan *plan, size_t k, size_t pool)
{
    const reef_kernel *conv = &plan->kernels[k], *max = &plan->kernels[pool];
    const reef_view *x = &max->in[0], *y = &max->y;
    bool so = conv->kind == REEF_K_CONV && !conv->conv.has_residual && reef_view_same(&conv->y, x) &&
              plan->storage[x->storage].kind == REEF_STORAGE_ACTIVATION && x->storage != y->storage;
    for (size_t i = 0; i < plan->n_kernels && so; i++) {
        bool writes;
        const reef_view *view;
        for (int j = 0; (view = reef_order_operand(plan, i, j, &writes)) && so; j++) {
            so = (view->storage != x->storage || i == k || i == pool) &&
                 (view->storage != y->storage || i <= k || i >= pool || !reef_view_overlap(view, y));
        }
    }
    return so;
}

/* Convolution k, the only reader of what copy makes of a request's input, might as well read that input. */
static bool reads_input(const reef_plan *plan, size_t k, size_t copy)
{
    const reef_kernel *conv = &plan->kernels[k], *from = &plan->kernels[copy];
    const reef_view *x = &from->in[0], *y = &from->y;
    bool so = from->kind == REEF_K_COPY && !from->copy.pads && conv->kind == REEF_K_CONV &&
              reef_view_same(&conv->in[0], y) && x->dtype == REEF_F32 && y->dtype == REEF_F32 && x->rank == y->rank &&
              plan->storage[x->storage].kind == REEF_STORAGE_INPUT &&
              plan->storage[y->storage].kind == REEF_STORAGE_ACTIVATION;
    for (int d = 0; d < y->rank && so; d++) {
        so = x->dims[d] == y->dims[d];
    }
    for (size_t i = 0; i < plan->n_kernels && so; i++) {
        bool writes;
        const reef_view *view;
        for (int j = 0; (view = reef_order_operand(plan, i, j, &writes)) && so; j++) {
            so = view->storage != y->storage || i == copy || (i == k && j == 0);
        }
    }
    return so;
}

static void find_pairs(reef_plan *plan)
{
    for (size_t k = 0; k < plan->n_kernels; k++) {
        plan->kernels[k].then = plan->kernels[k].through = 0;
    }
    for (size_t copy = 0; copy < plan->n_kernels; copy++) {
        for (size_t k = copy + 1; plan->kernels[copy].kind == REEF_K_COPY && k < plan->n_kernels; k++) {
            if (plan->kernels[k].n_in > 0 && plan->kernels[k].in[0].storage == plan->kernels[copy].y.storage) {
                plan->kernels[k].through = reads_input(plan, k, copy) ? (uint32_t)copy + 1 : 0;
                break;
            }
        }
    }
    for (size_t pool = 1; pool < plan->n_kernels; pool++) {
        for (size_t k = pool; halves(&plan->kernels[pool]) && k-- > 0;) {
            if (plan->kernels[k].y.storage == plan->kernels[pool].in[0].storage) {
                plan->kernels[k].then = joins(plan, k, pool) ? (uint32_t)pool : 0;
                break;
            }
        }
    }
}

/* ---------------------------------------------------------------- order -- */

typedef struct finder {
    access *list;
    uint32_t n;
    accesses *of; /* per storage */
    uint64_t *set;
    uint32_t *after, *after_at;
    size_t n_after, room;
} finder;

static bool note_after(finder *f, uint32_t kernel)
{
    if (f->n_after == f->room) {
        size_t room = f->room ? 2 * f->room : 1024;
        uint32_t *after = realloc(f->after, room * sizeof *after);
        if (!after) {
            return false;
        }
        f->after = after;
        f->room = room;
    }
    f->after[f->n_after++] = kernel;
    return true;
}

static bool find_kernel(const reef_plan *plan, const reef_order *order, finder *f, size_t k)
{
    bool operands = false;
    for (size_t i = 0; i < order->words; i++) {
        f->set[i] = 0;
    }
    for (int pass = 0; pass < 2; pass++) { /* a kernel has no conflict with itself: look first, then enter */
        bool writes;
        const reef_view *view;
        for (int i = 0; (view = reef_order_operand(plan, k, i, &writes)); i++) {
            if (view->storage == REEF_NO_STORAGE || plan->storage[view->storage].kind == REEF_STORAGE_CONST) {
                continue;
            }
            accesses *of = &f->of[view->storage];
            operands = true;
            if (pass == 0) {
                conflicts(f->list, of, view, writes, f->set);
                continue;
            }
            f->list[f->n] = (access){.view = view, .kernel = (uint32_t)k, .next = of->last, .writes = writes};
            of->last = f->n++;
            of->n++;
        }
    }
    if (!operands && k > 0) {
        reef_order_put(f->set, k - 1);
    }
    /* Latest first: what follows from those already taken is left out. */
    f->after_at[k] = (uint32_t)f->n_after;
    for (size_t i = k; i-- > 0;) {
        if (i % 64 == 63 && !f->set[i / 64]) {
            i -= 63;
            continue;
        }
        if (reef_order_has(f->set, i) && !reef_order_has(reef_order_row(order, k), i)) {
            follow(order, k, i);
            if (!note_after(f, (uint32_t)i)) {
                return false;
            }
        }
    }
    return true;
}

static reef_status find(reef_plan *plan, const reef_order *order, finder *f)
{
    size_t operands = 1;
    for (size_t k = 0; k < plan->n_kernels; k++) {
        operands += (size_t)plan->kernels[k].n_in + 2;
    }
    f->list = calloc(operands, sizeof *f->list);
    f->of = calloc(plan->n_storage + 1, sizeof *f->of);
    f->set = calloc(order->words + 1, sizeof *f->set);
    f->after_at = calloc(plan->n_kernels + 1, sizeof *f->after_at);
    if (!f->list || !f->of || !f->set || !f->after_at) {
        return REEF_NO_MEMORY;
    }
    for (size_t i = 0; i < plan->n_storage; i++) {
        f->of[i].last = NONE;
    }
    for (size_t k = 0; k < plan->n_kernels; k++) {
        if (!find_kernel(plan, order, f, k)) {
            return REEF_NO_MEMORY;
        }
    }
    f->after_at[plan->n_kernels] = (uint32_t)f->n_after;
    uint32_t *after = reef_arena_array(&plan->arena, f->n_after + 1, sizeof *after);
    uint32_t *after_at = reef_arena_array(&plan->arena, plan->n_kernels + 1, sizeof *after_at);
    if (!after || !after_at) {
        return REEF_NO_MEMORY;
    }
    for (size_t i = 0; i < f->n_after; i++) {
        after[i] = f->after[i];
    }
    for (size_t k = 0; k <= plan->n_kernels; k++) {
        after_at[k] = f->after_at[k];
    }
    plan->after = after;
    plan->after_at = after_at;
    return REEF_OK;
}

reef_status reef_order_find(reef_plan *plan, reef_order *out, reef_error *error)
{
    finder f = {0};
    const bool chain = plan->n_kernels > REEF_ORDER_LIMIT;
    plan->after = plan->after_at = NULL;
    reef_status status = make_table(plan, chain, out);
    find_pairs(plan);
    if (!status && !chain) {
        status = find(plan, out, &f);
    }
    free(f.list);
    free(f.of);
    free(f.set);
    free(f.after);
    free(f.after_at);
    return status ? reef_fail(error, status, "out of memory for the order of %zu kernels", plan->n_kernels) : REEF_OK;
}

reef_status reef_order_read(const reef_plan *plan, reef_order *out)
{
    reef_status status = make_table(plan, !plan->after, out);
    for (size_t k = 0; !status && plan->after && k < plan->n_kernels; k++) {
        for (uint32_t i = plan->after_at[k]; i < plan->after_at[k + 1]; i++) {
            follow(out, k, plan->after[i]);
        }
    }
    return status;
}
