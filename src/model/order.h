/*
 * order.h - which kernels of a plan must follow which. Not for others than memory.c, order.c and tests.
 *
 * A set of kernels is n bits; row k of the table is the set of those that have finished when kernel k starts.
 */
#ifndef REEF_MODEL_ORDER_H
#define REEF_MODEL_ORDER_H

#include "model/plan.h"

typedef struct reef_order {
    size_t kernels, words; /* words of 64 bits per set */
    uint64_t *before;      /* `kernels` rows; NULL: each kernel follows all before it */
} reef_order;

/* Finds pairs of kernels that can be done in one (kernel->then) and, from what kernels read and write, storage by storage,
 * the order; sets plan->after and after_at. Storages that will
 * share memory need no mention: the memory planner only lets those share that are ordered already. Plans with more than
 * REEF_ORDER_LIMIT kernels stay chains. NO_MEMORY; free with reef_order_free in any case. */
reef_status reef_order_find(reef_plan *plan, reef_order *out, reef_error *error);
/* The same table from plan->after alone. */
reef_status reef_order_read(const reef_plan *plan, reef_order *out);
void reef_order_free(reef_order *order);

/* Operand i of kernel k: inputs, then what it writes, which may be the y of the kernel that it is done in one with. NULL at
 * the end. */
static inline const reef_view *reef_order_operand(const reef_plan *plan, size_t k, int i, bool *writes)
{
    const reef_kernel *kernel = &plan->kernels[k];
    *writes = i >= kernel->n_in;
    if (kernel->kind == REEF_K_SPIN) {
        return NULL;
    }
    return i < kernel->n_in                        ? &kernel->in[i]
           : i == kernel->n_in                     ? &kernel->y
           : i == kernel->n_in + 1 && kernel->then ? &plan->kernels[kernel->then].y
                                                   : NULL;
}

enum { REEF_ORDER_LIMIT = 8192 };

static inline uint64_t *reef_order_row(const reef_order *order, size_t kernel)
{
    return order->before + kernel * order->words;
}
static inline bool reef_order_has(const uint64_t *set, size_t kernel)
{
    return set[kernel / 64] >> (kernel % 64) & 1;
}
static inline void reef_order_put(uint64_t *set, size_t kernel)
{
    set[kernel / 64] |= (uint64_t)1 << (kernel % 64);
}
static inline bool reef_order_follows(const reef_order *order, size_t kernel, size_t earlier)
{
    return order->before ? reef_order_has(reef_order_row(order, kernel), earlier) : earlier < kernel;
}

#endif
