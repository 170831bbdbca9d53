/*
 * walk.h - going through the elements of several views at once, and cutting that into tiles.
 *
 * Where it sits: shared by the tile sources that do little arithmetic per element (eltwise, copy, reduce, ...).
 *
 * A walk has the views' common dimensions in the order of the first operand's memory, without those of size 1, and with
 * neighbours merged wherever every operand allows it. So a dense NHWC tensor walks as one long row, whatever order its
 * logical dimensions have. Position `linear` counts elements in that order.
 *
 *     for (walk_seek(w, first, &pos); (n = walk_row(w, &pos, left)) > 0; walk_advance(w, &pos, n), left -= n)
 *         ... n elements at pos.off[op] + i * w->stride[op][w->rank - 1] ...
 *
 * Short tiles: a tile of this folder that takes at most TILE_NS is all epilogue. It polls once, before its first store,
 * and then computes straight into y: nothing is staged, which would double the traffic of kernels bound by memory. Only
 * a tile that is a single longer item polls inside, and holds its result in registers or scratch until it is whole.
 */
#ifndef REEF_DEVICE_CPU_KERNELS_WALK_H
#define REEF_DEVICE_CPU_KERNELS_WALK_H

#include "device/cpu/kernels/vmath.h"
#include "model/dtype.h"

enum { WALK_OPS = REEF_KERNEL_MAX_IN + 1 };

typedef struct walk {
    int rank, n_ops;             /* rank >= 1 */
    int64_t total;               /* elements; may be 0 */
    int64_t dims[REEF_MAX_RANK]; /* outermost first */
    int64_t stride[WALK_OPS][REEF_MAX_RANK];
} walk;

typedef struct walk_pos {
    int64_t at[REEF_MAX_RANK];
    int64_t off[WALK_OPS]; /* elements from each operand's first */
} walk_pos;

static inline int64_t walk_abs(int64_t x)
{
    return x < 0 ? -x : x;
}

/* May dimensions i and i + 1 be walked as one? */
static inline bool walk_merges(const walk *w, int i)
{
    for (int o = 0; o < w->n_ops; o++) {
        if (w->stride[o][i] != w->stride[o][i + 1] * w->dims[i + 1]) {
            return false;
        }
    }
    return true;
}

/* strides[o]: operand o's stride of each of the rank dims. sort: order by operand 0's memory, else keep the order given. */
static inline void walk_make(walk *w, int n_ops, int rank, const int64_t *dims, const int64_t *const *strides,
                             bool sort)
{
    memset(w, 0, sizeof *w);
    w->n_ops = n_ops;
    w->total = 1;
    for (int i = 0; i < rank; i++) {
        w->total *= dims[i];
        if (dims[i] == 1) {
            continue;
        }
        int at = w->rank++;
        while (sort && at > 0 && walk_abs(w->stride[0][at - 1]) < walk_abs(strides[0][i])) {
            w->dims[at] = w->dims[at - 1];
            for (int o = 0; o < n_ops; o++) {
                w->stride[o][at] = w->stride[o][at - 1];
            }
            at--;
        }
        w->dims[at] = dims[i];
        for (int o = 0; o < n_ops; o++) {
            w->stride[o][at] = strides[o][i];
        }
    }
    if (w->total == 0 || w->rank == 0) { /* nothing, or one element */
        w->rank = 1;
        w->dims[0] = w->total;
        for (int o = 0; o < n_ops; o++) {
            w->stride[o][0] = 1;
        }
        return;
    }
    for (int i = w->rank - 2; i >= 0; i--) {
        if (!walk_merges(w, i)) {
            continue;
        }
        w->dims[i] *= w->dims[i + 1];
        for (int o = 0; o < n_ops; o++) {
            w->stride[o][i] = w->stride[o][i + 1];
        }
        for (int j = i + 1; j < w->rank - 1; j++) {
            w->dims[j] = w->dims[j + 1];
            for (int o = 0; o < n_ops; o++) {
                w->stride[o][j] = w->stride[o][j + 1];
            }
        }
        w->rank--;
    }
}

static inline void walk_seek(const walk *w, int64_t linear, walk_pos *pos)
{
    memset(pos->off, 0, sizeof pos->off);
    for (int i = w->rank - 1; i >= 0; i--) {
        int64_t at = i > 0 && w->dims[i] > 0 ? linear % w->dims[i] : linear;
        linear = i > 0 && w->dims[i] > 0 ? linear / w->dims[i] : 0;
        pos->at[i] = at;
        for (int o = 0; o < w->n_ops; o++) {
            pos->off[o] += at * w->stride[o][i];
        }
    }
}

/* How many elements follow in this row, at most `left`. */
static inline int64_t walk_row(const walk *w, const walk_pos *pos, int64_t left)
{
    int64_t n = w->dims[w->rank - 1] - pos->at[w->rank - 1];
    return n < left ? n : left;
}

/* Goes on by n elements, which must not go beyond this row. */
static inline void walk_advance(const walk *w, walk_pos *pos, int64_t n)
{
    int i = w->rank - 1;
    pos->at[i] += n;
    for (int o = 0; o < w->n_ops; o++) {
        pos->off[o] += n * w->stride[o][i];
    }
    while (i > 0 && pos->at[i] >= w->dims[i]) {
        for (int o = 0; o < w->n_ops; o++) {
            pos->off[o] += w->stride[o][i - 1] - w->dims[i] * w->stride[o][i];
        }
        pos->at[i] = 0;
        pos->at[--i]++;
    }
}

static inline char *view_at(const reef_view *view, char *const *base)
{
    return base[view->storage] + view->offset * (int64_t)reef_dtype_bytes(view->dtype);
}

/* ------------------------------------------------------------------ tiles -- */

/* What a short tile may take, and what is worth a tile of its own when the kernel would not fill the units. */
#define TILE_NS     25e3
#define TILE_MIN_NS 3e3
/* Memory traffic of one core, as a cost. */
#define BYTE_NS 0.06

/* How many of `items` items of item_ns each make a tile; >= 1. */
static inline int64_t tile_items(unsigned units, int64_t items, double item_ns)
{
    double total = item_ns * (double)items, tiles = ceil(total / TILE_NS);
    double fill = total / TILE_MIN_NS < units ? floor(total / TILE_MIN_NS) : units;
    if (tiles < fill) {
        tiles = fill;
    }
    if (tiles < 1) {
        tiles = 1;
    }
    int64_t per = tiles >= (double)items ? 1 : (int64_t)((double)items / tiles);
    if (items / per > INT32_MAX) {
        per = items / INT32_MAX + 1;
    }
    return per < 1 ? 1 : per;
}

static inline uint32_t tile_count(int64_t items, int64_t per)
{
    int64_t tiles = (items + per - 1) / per;
    return tiles < 1 ? 1 : (uint32_t)tiles;
}

/* The parts that every prepare function of this folder sets the same way. */
static inline void kernel_fill(reef_cpu_kernel *out, reef_tile_fn run, void *args, int64_t items, int64_t per,
                               double item_flops, const char *variant)
{
    memset(out, 0, sizeof *out);
    out->run = run;
    out->args = args;
    out->tiles = tile_count(items, per);
    out->epilogue_only = true;
    out->tile_flops = item_flops * (double)(items < per ? items : per);
    if (out->tile_flops < 1) {
        out->tile_flops = 1;
    }
    out->variant = variant;
}

/* min(n, VL) lanes. The branch costs less than a partial access where those are not one instruction. */
static inline vf v_load_upto(const float *p, int64_t n)
{
    return n >= VL ? v_load(p) : v_load_n(p, n);
}
static inline void v_store_upto(float *p, vf v, int64_t n)
{
    if (n >= VL) {
        v_store(p, v);
    } else {
        v_store_n(p, v, n);
    }
}

/* Is dimension `axis` the one whose elements are neighbours in memory? */
static inline bool view_dense_in(const reef_view *view, int axis)
{
    return view->stride[axis] == 1 || view->dims[axis] == 1;
}

#endif
