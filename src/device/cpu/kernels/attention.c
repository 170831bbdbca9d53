/*
 * attention.c - REEF_K_ATTENTION: y = softmax(q k^T * scale + mask) v for a block of query rows of one head.
 *
 * A tile holds its scores whole, so the softmax is the plain one, and reads k and v through packed panels of a chunk:
 *
 *      scores (rows, T) = q k^T      a panel of k^T (D, columns of T) at a time
 *      scores = softmax(scores)      unnormalised; the sums go into the epilogue
 *      acc (rows, D) = scores v      a chunk of T at a time
 */
#include "device/cpu/kernels/gemm.h"

enum { SCORE_FLOATS = 32 << 10, PACK_FLOATS = 16 << 10 };

typedef struct attention {
    reef_view q, k, v, mask, y;
    int64_t heads, queries, keys, dim;
    int64_t blocks; /* of query rows, per head */
    int64_t chunk;  /* keys packed at once for the second product */
    float scale;
    bool has_mask, nan_rows;
    int64_t ld_scores, ld_acc;
    size_t acc_offset, pack_offset, table_offset, inverse_offset;
} attention;

static int64_t head_offset(const reef_view *v, int64_t b, int64_t h)
{
    return v->offset + b * v->stride[0] + h * v->stride[1];
}

/* One row of scores in place: scale, mask, exponentials against the row's maximum. Returns 1 / sum. */
static float softmax_row(const attention *p, float *row, const char *mask)
{
    int64_t n = p->keys, whole = n / VL * VL, step = p->has_mask ? p->mask.stride[3] : 0;
    float scale = p->scale;
    if (!p->has_mask) {
        for (int64_t j = 0; j < p->ld_scores; j += VL) {
            v_store(row + j, v_load(row + j) * scale);
        }
    } else if (p->mask.dtype == REEF_F32) {
        const float *m = (const float *)mask;
        for (int64_t j = 0; j < n; j++) {
            row[j] = row[j] * scale + m[j * step];
        }
    } else {
        const uint8_t *m = (const uint8_t *)mask;
        for (int64_t j = 0; j < n; j++) {
            row[j] = m[j * step] ? row[j] * scale : -INFINITY;
        }
    }
    for (int64_t j = n; j < p->ld_scores; j++) {
        row[j] = -INFINITY;
    }
    vf top = v_load(row);
    for (int64_t j = VL; j < p->ld_scores; j += VL) {
        top = v_max(top, v_load(row + j));
    }
    float max = v_max_lane(top);
    if (max == -INFINITY) { /* every key is masked */
        max = 0;
    }
    vf sums = {0};
    for (int64_t j = 0; j < p->ld_scores; j += VL) {
        vf e = v_exp(v_load(row + j) - max);
        v_store(row + j, e);
        sums += j < whole ? e : (vf){0};
    }
    float sum = v_sum(sums);
    for (int64_t j = whole; j < n; j++) {
        sum += row[j];
    }
    if (sum == 0) {
        return p->nan_rows ? NAN : 0;
    }
    return 1 / sum;
}

static reef_tile_result run(const void *args, char *const *base, uint32_t index, reef_tile_ctx *ctx)
{
    const attention *p = args;
    int64_t block_index = index % p->blocks, head = index / p->blocks % p->heads, batch = index / p->blocks / p->heads;
    int64_t row = gemm_cut(p->queries, p->blocks, block_index);
    int64_t rows = gemm_cut(p->queries, p->blocks, block_index + 1) - row;
    char *scratch = ctx->scratch;
    float *scores = ctx->scratch, *acc = (float *)(scratch + p->acc_offset),
          *pack = (float *)(scratch + p->pack_offset);
    const float **table = (const float **)(scratch + p->table_offset);
    float *inverse = (float *)(scratch + p->inverse_offset);

    const float *q = (const float *)base[p->q.storage] + head_offset(&p->q, batch, head) + row * p->q.stride[2];
    for (int64_t r = 0; r < rows; r++) {
        table[r] = q + r * p->q.stride[2];
    }
    const float *k = (const float *)base[p->k.storage] + head_offset(&p->k, batch, head);
    for (int64_t j = 0; j < p->keys; j += GEMM_NR) {
        if (reef_tile_abandoned(ctx)) {
            return REEF_TILE_ABANDONED;
        }
        int64_t left = p->keys - j, width = left > VL ? GEMM_NR : VL;
        gemm_pack_panel(pack, k + j * p->k.stride[2], p->dim, left < width ? left : width, width, p->k.stride[3],
                        p->k.stride[2]);
        gemm_block block = {.table = table,
                            .rows = rows,
                            .taps = 1,
                            .channels = p->dim,
                            .panels = pack,
                            .cols = width,
                            .acc = scores + j,
                            .ld = p->ld_scores};
        if (!REEF_ISA_FN(reef_gemm_run)(&block, ctx)) {
            return REEF_TILE_ABANDONED;
        }
    }

    const char *mask = NULL;
    size_t mask_bytes = p->has_mask && p->mask.dtype == REEF_F32 ? sizeof(float) : 1;
    if (p->has_mask) {
        mask = base[p->mask.storage] +
               (head_offset(&p->mask, batch, head) + row * p->mask.stride[2]) * (int64_t)mask_bytes;
    }
    for (int64_t r = 0, since = 0; r < rows; r++, since += p->keys) {
        if (since >= 2048) {
            since = 0;
            if (reef_tile_abandoned(ctx)) {
                return REEF_TILE_ABANDONED;
            }
        }
        inverse[r] =
            softmax_row(p, scores + r * p->ld_scores, mask ? mask + r * p->mask.stride[2] * (int64_t)mask_bytes : NULL);
    }

    const float *v = (const float *)base[p->v.storage] + head_offset(&p->v, batch, head);
    for (int64_t r = 0; r < rows; r++) {
        table[r] = scores + r * p->ld_scores;
    }
    for (int64_t t = 0; t < p->keys; t += p->chunk) {
        int64_t depth = p->keys - t < p->chunk ? p->keys - t : p->chunk;
        if (reef_tile_abandoned(ctx)) {
            return REEF_TILE_ABANDONED;
        }
        gemm_pack(pack, v + t * p->v.stride[2], depth, p->dim, p->v.stride[2], 1);
        gemm_block block = {.table = table,
                            .rows = rows,
                            .taps = 1,
                            .channels = depth,
                            .skip = t,
                            .panels = pack,
                            .cols = p->ld_acc,
                            .acc = acc,
                            .ld = p->ld_acc};
        if (!REEF_ISA_FN(reef_gemm_run)(&block, ctx)) {
            return REEF_TILE_ABANDONED;
        }
    }
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }

    float *y = (float *)base[p->y.storage] + head_offset(&p->y, batch, head) + row * p->y.stride[2];
    for (int64_t r = 0; r < rows; r++) {
        float *to = y + r * p->y.stride[2];
        const float *from = acc + r * p->ld_acc;
        for (int64_t j = 0; j < p->dim; j += VL) {
            int64_t n = p->dim - j < VL ? p->dim - j : VL;
            v_store_n(to + j, v_load(from + j) * inverse[r], n);
        }
    }
    return REEF_TILE_DONE;
}

static bool dense(const reef_view *v)
{
    return v->rank == 4 && v->dtype == REEF_F32 && (v->stride[3] == 1 || v->dims[3] == 1);
}

/* Stride 0 where a dimension of size 1 stands for a larger one. */
static reef_view broadcast(reef_view v)
{
    for (int d = 0; d < v.rank; d++) {
        v.stride[d] = v.dims[d] == 1 ? 0 : v.stride[d];
    }
    return v;
}

REEF_ISA_PREPARE(attention)
{
    const reef_view *q = &k->in[0], *key = &k->in[1], *v = &k->in[2], *y = &k->y;
    bool mask_ok =
        !k->attention.has_mask || (k->in[3].rank == 4 && (k->in[3].dtype == REEF_F32 || k->in[3].dtype == REEF_BOOL));
    if (!dense(q) || !dense(v) || !dense(y) || key->rank != 4 || key->dtype != REEF_F32 || !mask_ok) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED,
                         "%s: attention operands must be float32 (B,H,S,D), rows dense", k->name ? k->name : "?");
    }
    attention *p = reef_arena_alloc(prepare->arena, sizeof *p);
    if (!p) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
    }
    *p = (attention){
        .q = *q,
        .k = *key,
        .v = *v,
        .y = *y,
        .heads = q->dims[1],
        .queries = q->dims[2],
        .keys = key->dims[2],
        .dim = q->dims[3],
        .scale = k->attention.scale,
        .has_mask = k->attention.has_mask,
        .nan_rows = k->attention.nan_rows,
        .ld_scores = gemm_padded(key->dims[2]),
        .ld_acc = gemm_padded(v->dims[3]),
    };
    if (p->has_mask) {
        p->mask = broadcast(k->in[3]);
    }
    double head_us = 4 * (double)p->queries * (double)p->keys * (double)p->dim / (GEMM_GFLOPS * 1e3 / 2);
    double heads = (double)(q->dims[0] * p->heads);
    double want = fmax(1, head_us / 100);
    if (head_us * heads > 20) {
        want = fmax(want, fmin(3.0 * prepare->units / heads, head_us / 10));
    }
    int64_t cap = SCORE_FLOATS / p->ld_scores;
    cap = cap < 1 ? 1 : cap;
    p->blocks = (p->queries + cap - 1) / cap;
    p->blocks = (int64_t)fmax((double)p->blocks, floor(want));
    p->blocks = p->blocks > p->queries ? p->queries : p->blocks;
    int64_t rows = (p->queries + p->blocks - 1) / p->blocks;
    p->chunk = PACK_FLOATS / p->ld_acc;
    p->chunk = p->chunk < 16 ? 16 : p->chunk > p->keys ? p->keys : p->chunk;
    int64_t pack = p->chunk * p->ld_acc > p->dim * GEMM_NR ? p->chunk * p->ld_acc : p->dim * GEMM_NR;
    p->acc_offset = (size_t)(rows * p->ld_scores) * sizeof(float);
    p->acc_offset = (p->acc_offset + 63) / 64 * 64;
    p->pack_offset = (p->acc_offset + (size_t)(rows * p->ld_acc) * sizeof(float) + 63) / 64 * 64;
    p->table_offset = (p->pack_offset + (size_t)pack * sizeof(float) + 63) / 64 * 64;
    p->inverse_offset = p->table_offset + (size_t)rows * sizeof(float *);
    out->scratch_bytes = p->inverse_offset + (size_t)rows * sizeof(float);
    out->run = run;
    out->args = p;
    out->tiles = (uint32_t)(q->dims[0] * p->heads * p->blocks);
    out->epilogue_only = true;
    out->tile_flops = 4 * (double)rows * (double)p->keys * (double)p->dim;
    out->variant = "attention " REEF_ISA_NAME;
    return REEF_OK;
}
