/*
 * view.h - arithmetic on views: the operators that move no data.
 *
 * Every function makes a new view of the same storage, or says that strides cannot express it.
 */
#ifndef REEF_MODEL_VIEW_H
#define REEF_MODEL_VIEW_H

#include "model/plan.h"

/* All of a storage, densely: row major, or (nhwc, rank 4) channels innermost. */
void reef_view_dense(reef_view *out, uint32_t storage, reef_dtype dtype, int rank, const int64_t *dims, bool nhwc);
/* The same elements in row-major order under other dimensions. False when that order is no regular walk. */
bool reef_view_reshape(const reef_view *view, int rank, const int64_t *dims, reef_view *out);
/* out's axis i is view's axis perm[i]. */
void reef_view_permute(const reef_view *view, const int *perm, reef_view *out);
/* Numpy broadcasting to dims, aligned at the last axis. False when a dimension does not fit. */
bool reef_view_expand(const reef_view *view, int rank, const int64_t *dims, reef_view *out);
/* out[i] = view[start + i * step] along axis, i < count. */
void reef_view_slice(const reef_view *view, int axis, int64_t start, int64_t step, int64_t count, reef_view *out);
/* Same element at every index: storage, dtype, dims, offset, and strides where a dimension is not 1. */
bool reef_view_same(const reef_view *a, const reef_view *b);
/* Whether two views of one storage may have a byte in common; false only where that is certain. */
bool reef_view_overlap(const reef_view *x, const reef_view *y);
/* Axis has stride 1, or a single element: then the stride is set to 1. */
bool reef_view_unit(reef_view *view, int axis);

#endif
