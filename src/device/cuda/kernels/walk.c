/*
 * walk.c - merging dimensions, choosing vectors, cutting items into tiles; see walk.h.
 */
#include "device/cuda/kernels/walk.h"

static int64_t magnitude(int64_t x)
{
    return x < 0 ? -x : x;
}

static reef_cuda_div divide_by(int64_t d)
{
    reef_cuda_div r = {.d = (uint32_t)d};
    while (r.shift < 31 && (INT64_C(1) << r.shift) < d) {
        r.shift++;
    }
    r.mul = (uint32_t)((((UINT64_C(1) << r.shift) - (uint64_t)d) << 32) / (uint64_t)d + 1);
    return r;
}

void reef_cuda_walk_finish(reef_cuda_walk *w)
{
    w->total = 1;
    w->wide = 0;
    for (int i = 0; i < w->rank; i++) {
        w->total *= w->dims[i];
    }
    /* Tiles are rounded up to whole blocks: leave room for that. */
    w->wide = w->total > INT32_MAX - (1 << 20);
    for (int i = 0; i < w->rank && !w->wide; i++) {
        w->div[i] = divide_by(w->dims[i] > 0 ? w->dims[i] : 1);
    }
}

/* Drops dimension i. */
static void drop(reef_cuda_walk *w, int n_ops, int i)
{
    for (int j = i; j < w->rank - 1; j++) {
        w->dims[j] = w->dims[j + 1];
        for (int o = 0; o < n_ops; o++) {
            w->stride[o][j] = w->stride[o][j + 1];
        }
    }
    w->rank--;
}

static bool merges(const reef_cuda_walk *w, int n_ops, int i)
{
    for (int o = 0; o < n_ops; o++) {
        if (w->stride[o][i] != w->stride[o][i + 1] * w->dims[i + 1]) {
            return false;
        }
    }
    return true;
}

void reef_cuda_walk_make(reef_cuda_walk *w, int n_ops, int rank, const int64_t *dims, const int64_t *const *strides,
                         bool sort, bool merge)
{
    memset(w, 0, sizeof *w);
    for (int i = 0; i < rank; i++) {
        if (merge && dims[i] == 1) {
            continue;
        }
        int at = w->rank++;
        for (; sort && at > 0 && magnitude(w->stride[0][at - 1]) < magnitude(strides[0][i]); at--) {
            w->dims[at] = w->dims[at - 1];
            for (int o = 0; o < n_ops; o++) {
                w->stride[o][at] = w->stride[o][at - 1];
            }
        }
        w->dims[at] = dims[i];
        for (int o = 0; o < n_ops; o++) {
            w->stride[o][at] = strides[o][i];
        }
    }
    if (w->rank == 0) { /* one element */
        w->rank = 1;
        w->dims[0] = 1;
        for (int o = 0; o < n_ops; o++) {
            w->stride[o][0] = 1;
        }
    }
    for (int i = w->rank - 2; merge && i >= 0; i--) {
        if (merges(w, n_ops, i)) {
            w->dims[i] *= w->dims[i + 1];
            for (int o = 0; o < n_ops; o++) {
                w->stride[o][i] = w->stride[o][i + 1];
            }
            drop(w, n_ops, i + 1);
        }
    }
    reef_cuda_walk_finish(w);
}

void reef_cuda_walk_by(reef_cuda_walk *w, int n_ops, int v)
{
    w->dims[w->rank - 1] /= v;
    for (int o = 0; o < n_ops; o++) {
        w->stride[o][w->rank - 1] *= v;
    }
    reef_cuda_walk_finish(w);
}

bool reef_cuda_walk_vector(const reef_cuda_walk *w, int o, const reef_cuda_prepare *ctx, const reef_view *view, int v)
{
    const int last = w->rank - 1;
    const int64_t bytes = reef_cuda_elem_bytes(reef_cuda_elem(ctx, view));
    const int64_t align = v * bytes < 16 ? v * bytes : 16;
    if (w->stride[o][last] != 1 || w->dims[last] % v || view->offset * bytes % align) {
        return false;
    }
    for (int i = 0; i < last; i++) {
        if (w->stride[o][i] * bytes % align) {
            return false;
        }
    }
    return true;
}

uint32_t reef_cuda_cut(const reef_cuda_prepare *ctx, reef_cuda_kernel *out, int64_t items)
{
    /* Small kernels: small blocks, so that every multiprocessor has one. Large ones: a few items a thread, so that a
     * worker's claim is paid for, and never more tiles than a grid may have. */
    out->threads = items > (int64_t)ctx->sm_count * 4 * 128 ? 256 : items > (int64_t)ctx->sm_count * 128 ? 128 : 64;
    int64_t rounds = items / ((int64_t)out->threads * ctx->sm_count * 16);
    rounds = rounds < 1 ? 1 : rounds > 8 ? 8 : rounds;
    int64_t per = rounds * out->threads;
    while ((items + per - 1) / per > INT32_MAX) {
        per *= 2;
    }
    out->tiles = items > 0 ? (unsigned)((items + per - 1) / per) : 1;
    return (uint32_t)per;
}

void *reef_cuda_candidate(const reef_kernel *k, const reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                          const char *function, const char *worker, const char *variant, size_t args_bytes)
{
    memset(out, 0, sizeof *out);
    out->args = reef_arena_alloc(ctx->arena, args_bytes);
    if (!out->args) {
        reef_fail(ctx->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
        return NULL;
    }
    memset(out->args, 0, args_bytes);
    out->args_bytes = args_bytes;
    out->function = function;
    out->worker = worker;
    out->loops = true;
    out->variant = variant;
    out->flops = k->flops;
    return out->args;
}

reef_status reef_cuda_unsupported(const reef_kernel *k, const reef_cuda_prepare *ctx, const char *what)
{
    return reef_fail(ctx->error, REEF_UNSUPPORTED, "%s (%s): %s", k->name, k->ops ? k->ops : "?", what);
}

reef_cuda_lanes reef_cuda_lanes_choose(const reef_cuda_prepare *ctx, int64_t kept, int64_t length, bool along)
{
    /* Along the reduced elements a warp has at least 8 neighbours; along the lanes 16 results are neighbours. Then as many
     * threads per result as have something to do, in blocks of up to 256. */
    reef_cuda_lanes l = {.along = along, .threads = 256};
    uint32_t share = 0; /* threads per result, log2 */
    while (share < 8 && (INT64_C(2) << share) <= length) {
        share++;
    }
    l.log2 = 8 - share;
    if (!along && l.log2 < 4) {
        l.log2 = kept >= 16 * (int64_t)ctx->sm_count || kept >= 16 ? 4 : l.log2;
    }
    if (along && share > 5 && length <= 1024 && kept >= 8 * (int64_t)ctx->sm_count) {
        l.log2 = 3; /* a warp a line: no waiting for other warps */
    }
    /* Blocks for every multiprocessor: fewer lanes, and more threads for each while there is work for them. */
    while (l.log2 > 0 && (kept + (INT64_C(1) << l.log2) - 1) >> l.log2 < ctx->sm_count) {
        const bool busy = length >> (8 - l.log2) >= 8 && (along || l.log2 > 3);
        if (!busy && l.threads <= 64) {
            break;
        }
        l.log2--;
        l.threads = busy ? l.threads : l.threads / 2;
    }
    int64_t tiles = (kept + (INT64_C(1) << l.log2) - 1) >> l.log2;
    l.tiles = tiles < 1 ? 1 : tiles > INT32_MAX ? 0 : (unsigned)tiles;
    return l;
}
