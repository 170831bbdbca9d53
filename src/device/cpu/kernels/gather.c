/*
 * gather.c - rows of a table by index: embeddings, and what exporters make of indexing.
 *
 * Where it sits: REEF_K_GATHER. A walk over y with three operands (y, data without its gathered axis, indices): along
 * each dimension exactly one of data and indices moves. Where data moves innermost, y is filled row by row.
 *
 * Invariant: whatever the indices hold, only elements of data are read. Negative ones count from the end; then they
 * are held to the axis.
 */
#include "device/cpu/kernels/walk.h"

typedef struct gather_args {
    reef_view data, index, y;
    int64_t bytes, size, step; /* of an element; of the axis; data's stride along it */
    walk w;                    /* y, data, indices */
    int64_t per_tile;
} gather_args;

static inline int64_t gather_index(const char *index, int64_t i, bool wide, int64_t size)
{
    int64_t at = wide ? ((const int64_t *)index)[i] : ((const int32_t *)index)[i];
    at += at < 0 && at >= -size ? size : 0;
    return at < 0 ? 0 : at >= size ? size - 1 : at;
}

static inline void gather_one(char *to, const char *from, int64_t bytes)
{
    switch (bytes) {
    case 8: memcpy(to, from, 8); break;
    case 4: memcpy(to, from, 4); break;
    case 2: memcpy(to, from, 2); break;
    default: *to = *from; break;
    }
}

static reef_tile_result gather_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const gather_args *a = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    const char *data = view_at(&a->data, base), *index = view_at(&a->index, base);
    char *y = view_at(&a->y, base);
    int64_t left = a->w.total - (int64_t)tile * a->per_tile, last = a->w.rank - 1, bytes = a->bytes;
    int64_t ys = a->w.stride[0][last], ds = a->w.stride[1][last], is = a->w.stride[2][last];
    bool wide = a->index.dtype == REEF_I64;
    left = left < a->per_tile ? left : a->per_tile;
    walk_pos pos;
    walk_seek(&a->w, (int64_t)tile * a->per_tile, &pos);
    while (left > 0) {
        int64_t n = walk_row(&a->w, &pos, left);
        char *to = y + pos.off[0] * bytes;
        const char *from = data + pos.off[1] * bytes;
        if (a->size == 0) { /* nothing to take from */
            for (int64_t i = 0; i < n; i++) {
                memset(to + i * ys * bytes, 0, (size_t)bytes);
            }
        } else if (is == 0) {
            from += gather_index(index, pos.off[2], wide, a->size) * a->step * bytes;
            if (ys == 1 && ds == 1) {
                memcpy(to, from, (size_t)(n * bytes));
            } else {
                for (int64_t i = 0; i < n; i++) {
                    gather_one(to + i * ys * bytes, from + i * ds * bytes, bytes);
                }
            }
        } else {
            for (int64_t i = 0; i < n; i++) {
                int64_t at = gather_index(index, pos.off[2] + i * is, wide, a->size);
                gather_one(to + i * ys * bytes, from + (i * ds + at * a->step) * bytes, bytes);
            }
        }
        walk_advance(&a->w, &pos, n);
        left -= n;
    }
    return REEF_TILE_DONE;
}

REEF_ISA_PREPARE(gather)
{
    const reef_view *data = &k->in[0], *index = &k->in[1], *y = &k->y;
    int axis = k->gather.axis;
    bool ok = data->dtype == y->dtype && (index->dtype == REEF_I64 || index->dtype == REEF_I32) && axis >= 0 &&
              axis < data->rank && y->rank == data->rank - 1 + index->rank && reef_dtype_bytes(y->dtype) > 0;
    int64_t ds[REEF_MAX_RANK] = {0}, is[REEF_MAX_RANK] = {0};
    for (int i = 0; ok && i < y->rank; i++) {
        int from = i < axis ? i : i - index->rank + 1;
        bool indexed = i >= axis && i < axis + index->rank;
        ds[i] = indexed ? 0 : data->stride[from];
        is[i] = indexed ? index->stride[i - axis] : 0;
        ok = y->dims[i] == (indexed ? index->dims[i - axis] : data->dims[from]);
    }
    if (!ok) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: operand form of a gather", k->name);
    }
    gather_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    *a = (gather_args){.data = *data, .index = *index, .y = *y, .bytes = (int64_t)reef_dtype_bytes(y->dtype)};
    a->size = data->dims[axis];
    a->step = data->stride[axis];
    const int64_t *strides[3] = {y->stride, ds, is};
    walk_make(&a->w, 3, y->rank, y->dims, strides, true);
    if (a->w.total == 1) { /* one element: its index must not move, and memory beyond must not be touched */
        a->w.stride[1][0] = a->w.stride[2][0] = 0;
    }
    int64_t row = a->w.dims[a->w.rank - 1], last = a->w.rank - 1;
    bool copies = a->w.stride[2][last] == 0 && a->w.stride[0][last] == 1 && a->w.stride[1][last] == 1;
    double ns = (copies ? 2 * BYTE_NS * (double)a->bytes : 2) + 20.0 / (double)(row > 0 ? row : 1);
    enum { GRAIN = 256 };
    int64_t items = (a->w.total + GRAIN - 1) / GRAIN, per = tile_items(prepare->units, items, GRAIN * ns);
    a->per_tile = per * GRAIN;
    kernel_fill(out, gather_tile, a, items, per, GRAIN, copies ? "rows" : "single");
    return REEF_OK;
}
