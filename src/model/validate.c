/*
 * validate.c - the proof that a kernel's tiles are transactions: no tile reads what another tile of it writes.
 *
 * Then a tile may be abandoned and run again at any time, and tiles may run in any order. The other half of the
 * promise, that stores happen only in the epilogue, is the device's (reef_cpu_kernel.epilogue_only).
 */
#include <stdlib.h>

#include "model/plan.h"
#include "model/view.h"

/*
 * Activations share one address space, by offset; other storages are apart. A device may keep elements of one type
 * smaller than the plan says (float32 activations as float16, where offsets of storages stay): what is proved here must
 * hold then, too. So bytes are compared between views of the same type that start in the same place only, whatever the
 * size of their elements; otherwise whole storages are.
 */
static bool may_overlap(const reef_plan *plan, const reef_view *x, const reef_view *y)
{
    const reef_storage *a = &plan->storage[x->storage], *b = &plan->storage[y->storage];
    int64_t first_x, end_x, first_y, end_y;
    if (x->storage != y->storage) {
        if (a->kind != REEF_STORAGE_ACTIVATION || b->kind != REEF_STORAGE_ACTIVATION ||
            a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset) {
            return false;
        }
        if (a->offset != b->offset) {
            return true;
        }
    }
    if (x->dtype != y->dtype) {
        return true;
    }
    if (x->storage == y->storage) {
        return reef_view_overlap(x, y);
    }
    reef_view_range(x, &first_x, &end_x);
    reef_view_range(y, &first_y, &end_y);
    return end_x > first_y && end_y > first_x;
}

static bool same_place(const reef_plan *plan, const reef_view *x, const reef_view *y)
{
    reef_view moved = *x;
    if (x->storage != y->storage) {
        if (plan->storage[x->storage].kind != REEF_STORAGE_ACTIVATION ||
            plan->storage[y->storage].kind != REEF_STORAGE_ACTIVATION ||
            plan->storage[x->storage].offset != plan->storage[y->storage].offset) {
            return false;
        }
        moved.storage = y->storage;
    }
    return reef_view_same(&moved, y);
}

/* Two indices of y at the same element: then two tiles may write it. Dense walks cannot; others are sorted by stride. */
static bool writes_twice(const reef_view *y)
{
    int order[REEF_MAX_RANK], n = 0;
    for (int d = 0; d < y->rank; d++) {
        if (y->dims[d] == 1) {
            continue;
        }
        if (y->stride[d] == 0) {
            return true;
        }
        int at = n++;
        for (; at > 0 && llabs(y->stride[order[at - 1]]) > llabs(y->stride[d]); at--) {
            order[at] = order[at - 1];
        }
        order[at] = d;
    }
    int64_t reach = 0; /* of the axes inside */
    for (int i = 0; i < n; i++) {
        const int64_t stride = llabs(y->stride[order[i]]);
        if (stride <= reach) {
            return true;
        }
        reach += (y->dims[order[i]] - 1) * stride;
    }
    return false;
}

static const char *why_not(const reef_plan *plan, const reef_kernel *k)
{
    if (k->kind == REEF_K_SPIN) {
        return NULL;
    }
    const reef_storage_kind to = plan->storage[k->y.storage].kind;
    if (to != REEF_STORAGE_ACTIVATION && to != REEF_STORAGE_OUTPUT) {
        return "it writes a constant or an input, which others may be reading";
    }
    if (writes_twice(&k->y)) {
        return "its output view visits an element twice";
    }
    for (int i = 0; i < k->n_in; i++) {
        const reef_view *x = &k->in[i];
        if (x->storage == REEF_NO_STORAGE || reef_view_elems(x) == 0 || !may_overlap(plan, x, &k->y)) {
            continue;
        }
        const bool conv =
            (k->kind == REEF_K_CONV || k->kind == REEF_K_CONV_TRANSPOSE) && k->conv.has_residual && i == 1;
        const bool product = k->kind == REEF_K_MATMUL && k->matmul.has_residual && i == 2;
        if ((k->kind == REEF_K_ELTWISE || conv || product) && same_place(plan, x, &k->y)) {
            continue; /* each tile reads the elements that it alone writes, before it writes them */
        }
        return "its output overlaps an input that other tiles read";
    }
    return NULL;
}

void reef_plan_validate(reef_plan *plan)
{
    for (size_t i = 0; i < plan->n_kernels; i++) {
        reef_kernel *k = &plan->kernels[i];
        k->why_not = why_not(plan, k);
        k->transaction = !k->why_not;
    }
}
