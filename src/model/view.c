/*
 * view.c - views are dims, strides and an offset; this is all their arithmetic.
 */
#include "model/view.h"

#include <string.h>

#include "model/dtype.h"

int64_t reef_view_elems(const reef_view *view)
{
    int64_t n = 1;
    for (int d = 0; d < view->rank; d++) {
        n *= view->dims[d];
    }
    return n;
}

void reef_view_range(const reef_view *view, int64_t *first_byte, int64_t *end_byte)
{
    int64_t low = view->offset, high = view->offset;
    const int64_t size = (int64_t)reef_dtype_bytes(view->dtype);
    for (int d = 0; d < view->rank; d++) {
        const int64_t reach = (view->dims[d] - 1) * view->stride[d];
        low += reach < 0 ? reach : 0;
        high += reach > 0 ? reach : 0;
    }
    const bool empty = reef_view_elems(view) == 0;
    *first_byte = empty ? 0 : low * size;
    *end_byte = empty ? 0 : (high + 1) * size;
}

void reef_view_dense(reef_view *out, uint32_t storage, reef_dtype dtype, int rank, const int64_t *dims, bool nhwc)
{
    static const int rows[] = {0, 1, 2, 3, 4, 5, 6, 7}, channels_last[] = {0, 2, 3, 1};
    const int *order = nhwc && rank == 4 ? channels_last : rows; /* outermost first */
    reef_view v = {.storage = storage, .dtype = dtype, .rank = rank};
    int64_t stride = 1;
    for (int d = rank - 1; d >= 0; d--) {
        v.dims[order[d]] = dims[order[d]];
        v.stride[order[d]] = stride;
        stride *= dims[order[d]];
    }
    *out = v;
}

bool reef_view_reshape(const reef_view *view, int rank, const int64_t *dims, reef_view *out)
{
    reef_view v = {.storage = view->storage, .dtype = view->dtype, .rank = rank, .offset = view->offset};
    int64_t from[REEF_MAX_RANK] = {0}, stride[REEF_MAX_RANK] = {0};
    int n = 0, to = 0;
    for (int d = 0; d < view->rank; d++) {
        if (view->dims[d] != 1) {
            from[n] = view->dims[d];
            stride[n++] = view->stride[d];
        }
    }
    memcpy(v.dims, dims, sizeof *dims * (size_t)rank);
    if (reef_view_elems(&v) != reef_view_elems(view) || reef_view_elems(view) == 0) {
        return false;
    }
    /* Runs of old and new axes with the same product; within a run the old axes must be one regular walk. */
    for (int i = 0; i < n;) {
        int j = i + 1, end = to + 1;
        int64_t have = from[i], want = v.dims[to];
        while (have != want) {
            if (have < want) {
                have *= from[j++];
            } else {
                want *= v.dims[end++];
            }
        }
        for (int d = i; d + 1 < j; d++) {
            if (stride[d] != stride[d + 1] * from[d + 1]) {
                return false;
            }
        }
        for (int64_t d = end - 1, step = stride[j - 1]; d >= to; d--) {
            v.stride[d] = step;
            step *= v.dims[d];
        }
        i = j;
        to = end;
    }
    for (; to < rank; to++) {
        v.stride[to] = 1; /* trailing ones */
    }
    *out = v;
    return true;
}

void reef_view_permute(const reef_view *view, const int *perm, reef_view *out)
{
    reef_view v = *view;
    for (int d = 0; d < view->rank; d++) {
        v.dims[d] = view->dims[perm[d]];
        v.stride[d] = view->stride[perm[d]];
    }
    *out = v;
}

bool reef_view_expand(const reef_view *view, int rank, const int64_t *dims, reef_view *out)
{
    reef_view v = {.storage = view->storage, .dtype = view->dtype, .rank = rank, .offset = view->offset};
    if (view->rank > rank) {
        return false;
    }
    for (int d = 0; d < rank; d++) {
        const int from = d - (rank - view->rank);
        v.dims[d] = dims[d];
        if (from < 0 || view->dims[from] == 1) {
            v.stride[d] = 0;
        } else if (view->dims[from] == dims[d]) {
            v.stride[d] = view->stride[from];
        } else {
            return false;
        }
    }
    *out = v;
    return true;
}

void reef_view_slice(const reef_view *view, int axis, int64_t start, int64_t step, int64_t count, reef_view *out)
{
    reef_view v = *view;
    v.offset += count > 0 ? start * view->stride[axis] : 0;
    v.stride[axis] *= step;
    v.dims[axis] = count;
    *out = v;
}

bool reef_view_same(const reef_view *a, const reef_view *b)
{
    if (a->storage != b->storage || a->dtype != b->dtype || a->rank != b->rank || a->offset != b->offset) {
        return false;
    }
    for (int d = 0; d < a->rank; d++) {
        if (a->dims[d] != b->dims[d] || (a->dims[d] != 1 && a->stride[d] != b->stride[d])) {
            return false;
        }
    }
    return true;
}

bool reef_view_unit(reef_view *view, int axis)
{
    if (view->dims[axis] == 1) {
        view->stride[axis] = 1;
    }
    return view->stride[axis] == 1;
}

bool reef_view_overlap(const reef_view *x, const reef_view *y)
{
    int64_t first_x, end_x, first_y, end_y;
    reef_view_range(x, &first_x, &end_x);
    reef_view_range(y, &first_y, &end_y);
    if (end_x <= first_y || end_y <= first_x) {
        return false;
    }
    /* Ranges interleave when both are slices of one wider array: channels [0,64) and [64,96) of the same pixels. Then
     * compare positions within the widest common stride. */
    if (x->dtype != y->dtype) {
        return true;
    }
    int64_t pitch = 0;
    for (int d = 0; d < y->rank; d++) {
        pitch = y->dims[d] > 1 && y->stride[d] > 1 && (pitch == 0 || y->stride[d] < pitch) ? y->stride[d] : pitch;
    }
    for (int pass = 0; pass < 2 && pitch; pass++) {
        const reef_view *v = pass ? y : x;
        for (int d = 0; d < v->rank; d++) {
            if (v->dims[d] > 1 && v->stride[d] % pitch != 0 && v->stride[d] != 1) {
                return true;
            }
        }
    }
    if (!pitch) {
        return true;
    }
    int64_t low[2], high[2]; /* within a pitch */
    for (int pass = 0; pass < 2; pass++) {
        const reef_view *v = pass ? y : x;
        low[pass] = v->offset % pitch;
        high[pass] = low[pass];
        for (int d = 0; d < v->rank; d++) {
            high[pass] += v->dims[d] > 1 && v->stride[d] == 1 && pitch > 1 ? v->dims[d] - 1 : 0;
        }
        if (low[pass] < 0 || high[pass] >= pitch) {
            return true;
        }
    }
    return low[0] <= high[1] && low[1] <= high[0];
}
