/*
 * matmul.c - REEF_K_MATMUL: batched products. A constant right operand is packed at load; a computed one is packed by
 * each tile, a chunk of depth at a time, into its scratch.
 */
#include "device/cpu/kernels/epilogue.h"
#include "device/cpu/kernels/gemm.h"

enum { PACK_FLOATS = 24 << 10 }; /* of a computed right operand in scratch */

typedef struct operand {
    uint32_t storage;
    int64_t offset, row; /* elements; stride of the last but one dimension */
    int64_t batch[REEF_MAX_RANK];
} operand;

typedef struct matmul {
    operand a, b, y, residual;
    bool has_residual;
    int batch_rank;
    int64_t batch_dims[REEF_MAX_RANK];
    int64_t batches, m, n, depth;
    int64_t b_row, b_col;
    const float *panels; /* NULL: computed */
    int64_t chunk;       /* depth packed at once */
    gemm_split split;
    epilogue epilogue;
    size_t table_offset, pack_offset;
} matmul;

static operand operand_of(const reef_view *v)
{
    operand o = {.storage = v->storage, .offset = v->offset, .row = v->stride[v->rank - 2]};
    for (int d = 0; d < v->rank - 2; d++) {
        o.batch[d] = v->stride[d];
    }
    return o;
}

static int64_t batch_offset(const matmul *p, const operand *o, int64_t batch)
{
    int64_t at = o->offset;
    for (int d = p->batch_rank - 1; d >= 0; d--) {
        at += batch % p->batch_dims[d] * o->batch[d];
        batch /= p->batch_dims[d];
    }
    return at;
}

static bool run_computed(const matmul *p, const float *b, int64_t cols, gemm_block *block, float *pack,
                         reef_tile_ctx *ctx)
{
    for (int64_t k = 0; k < p->depth; k += p->chunk) {
        int64_t depth = p->depth - k < p->chunk ? p->depth - k : p->chunk;
        for (int64_t j = 0; j < block->cols; j += GEMM_NR) {
            if (reef_tile_abandoned(ctx)) {
                return false;
            }
            int64_t width = block->cols - j < GEMM_NR ? VL : GEMM_NR;
            gemm_pack_panel(pack + j * depth, b + k * p->b_row + j * p->b_col, depth,
                            cols - j < width ? cols - j : width, width, p->b_row, p->b_col);
        }
        block->panels = pack;
        block->channels = depth;
        block->skip = k;
        if (!REEF_ISA_FN(reef_gemm_run)(block, ctx)) {
            return false;
        }
    }
    return true;
}

static reef_tile_result run(const void *args, char *const *base, uint32_t index, reef_tile_ctx *ctx)
{
    const matmul *p = args;
    const gemm_split *s = &p->split;
    int64_t i = index, batch = i / (s->m_tiles * s->n_tiles);
    i %= s->m_tiles * s->n_tiles;
    int64_t m = s->columns_outer ? i % s->m_tiles : i / s->n_tiles;
    int64_t n = s->columns_outer ? i / s->m_tiles : i % s->n_tiles;
    int64_t row = gemm_cut(p->m, s->m_tiles, m), rows = gemm_cut(p->m, s->m_tiles, m + 1) - row;
    int64_t panels = gemm_panels(p->n);
    int64_t col = gemm_cut(panels, s->n_tiles, n) * GEMM_NR, end = gemm_cut(panels, s->n_tiles, n + 1) * GEMM_NR;
    int64_t cols = (end < p->n ? end : p->n) - col, ld = gemm_padded(cols);

    float *acc = ctx->scratch;
    const float **table = (const float **)((char *)ctx->scratch + p->table_offset);
    const float *a = (const float *)base[p->a.storage] + batch_offset(p, &p->a, batch) + row * p->a.row;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    for (int64_t r = 0; r < rows; r++) {
        table[r] = a + r * p->a.row;
    }
    gemm_block block = {
        .table = table, .rows = rows, .taps = 1, .channels = p->depth, .cols = ld, .acc = acc, .ld = ld};
    bool done;
    if (p->panels) {
        block.panels = p->panels + col * p->depth;
        done = REEF_ISA_FN(reef_gemm_run)(&block, ctx);
    } else {
        const float *b = (const float *)base[p->b.storage] + batch_offset(p, &p->b, batch) + col * p->b_col;
        done = run_computed(p, b, cols, &block, (float *)((char *)ctx->scratch + p->pack_offset), ctx);
    }
    if (!done) {
        return REEF_TILE_ABANDONED;
    }
    float *y = (float *)base[p->y.storage] + batch_offset(p, &p->y, batch) + row * p->y.row + col;
    const float *residual = NULL;
    if (p->has_residual) {
        residual = (const float *)base[p->residual.storage] + batch_offset(p, &p->residual, batch) +
                   row * p->residual.row + col;
    }
    bool is_long = epilogue_is_long(&p->epilogue);
    if (is_long) {
        int64_t step = (EPILOGUE_STEP + ld - 1) / ld;
        for (int64_t r = 0; r < rows; r += step) {
            if (reef_tile_abandoned(ctx)) {
                return REEF_TILE_ABANDONED;
            }
            epilogue_run(&p->epilogue, acc + r * ld, ld, rows - r < step ? rows - r : step, col, cols,
                         residual ? residual + r * p->residual.row : NULL, p->residual.row, acc + r * ld, ld);
        }
    }
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    if (is_long) {
        epilogue_copy(acc, ld, rows, cols, y, p->y.row);
    } else {
        epilogue_run(&p->epilogue, acc, ld, rows, col, cols, residual, p->residual.row, y, p->y.row);
    }
    return REEF_TILE_DONE;
}

static bool last_is_dense(const reef_view *v)
{
    return v->dtype == REEF_F32 && v->rank >= 2 && (v->stride[v->rank - 1] == 1 || v->dims[v->rank - 1] == 1);
}

/* Dimensions that a, y, the residual and a constant b walk alike become one, so that a product of (B, S, K) by a
 * constant is one product of B*S rows. */
static void merge_rows(matmul *p, bool b_fixed)
{
    while (b_fixed && p->batch_rank > 0) {
        int d = p->batch_rank - 1;
        if (p->batch_dims[d] != 1 && (p->a.batch[d] != p->a.row * p->m || p->y.batch[d] != p->y.row * p->m ||
                                      (p->has_residual && p->residual.batch[d] != p->residual.row * p->m))) {
            return;
        }
        p->m *= p->batch_dims[d];
        p->batches /= p->batch_dims[d];
        p->batch_rank--;
    }
}

REEF_ISA_PREPARE(matmul)
{
    const reef_matmul *mm = &k->matmul;
    const reef_view *a = &k->in[0], *b = &k->in[1], *y = &k->y;
    int rank = y->rank;
    if (!last_is_dense(a) || !last_is_dense(y) || (mm->has_residual && !last_is_dense(&k->in[2])) || a->rank != rank ||
        b->rank != rank || b->dtype != REEF_F32) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED,
                         "%s: matrix product operands must be float32, of one rank, rows dense",
                         k->name ? k->name : "?");
    }
    matmul *p = reef_arena_alloc(prepare->arena, sizeof *p);
    if (!p) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
    }
    *p = (matmul){
        .a = operand_of(a),
        .b = operand_of(b),
        .y = operand_of(y),
        .has_residual = mm->has_residual,
        .batch_rank = rank - 2,
        .batches = 1,
        .m = y->dims[rank - 2],
        .n = y->dims[rank - 1],
        .depth = a->dims[rank - 1],
        .b_row = b->stride[rank - 2],
        .b_col = b->stride[rank - 1],
        .epilogue = {.alpha = mm->alpha, .act = mm->act, .a = mm->act_a, .b = mm->act_b},
    };
    if (mm->has_residual) {
        p->residual = operand_of(&k->in[2]);
    }
    bool b_fixed = true;
    for (int d = 0; d < rank - 2; d++) {
        p->batch_dims[d] = y->dims[d];
        p->batches *= y->dims[d];
        b_fixed = b_fixed && (b->stride[d] == 0 || b->dims[d] == 1);
        p->a.batch[d] = a->dims[d] == 1 ? 0 : p->a.batch[d];
        p->b.batch[d] = b->dims[d] == 1 ? 0 : p->b.batch[d];
    }
    merge_rows(p, b_fixed);
    p->epilogue.bias = epilogue_bias(prepare, mm->bias, p->n);
    if (!p->epilogue.bias) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
    }
    const float *data = mm->b_const && b_fixed ? prepare->plan->storage[b->storage].data : NULL;
    if (data) {
        float *panels = prepare->alloc(prepare->owner, gemm_packed_bytes(p->depth, p->n));
        if (!panels) {
            return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
        }
        gemm_pack(panels, data + b->offset, p->depth, p->n, p->b_row, p->b_col);
        p->panels = panels;
    }
    double input = (double)p->m * (double)p->depth;
    const gemm_split split = REEF_ISA_FN(reef_gemm_split)(p->batches, p->m, p->n, 1, p->depth, input, prepare->units);
    const gemm_split *s = &split;
    p->split = split;
    p->table_offset = (size_t)(s->rows * s->cols) * sizeof(float);
    p->pack_offset = p->table_offset + ((size_t)s->rows * sizeof(float *) + 63) / 64 * 64;
    out->scratch_bytes = p->pack_offset;
    if (!p->panels) {
        int64_t chunk = PACK_FLOATS / s->cols;
        p->chunk = chunk < GEMM_KC / 4 ? GEMM_KC / 4 : chunk;
        p->chunk = p->chunk > p->depth ? p->depth : p->chunk;
        out->scratch_bytes += (size_t)(p->chunk * s->cols) * sizeof(float);
    }
    out->run = run;
    out->args = p;
    out->tiles = (uint32_t)(p->batches * s->m_tiles * s->n_tiles);
    out->epilogue_only = true;
    out->tile_flops = 2.0 * (double)(s->rows * s->cols) * (double)p->depth;
    out->variant = p->panels ? "gemm packed " REEF_ISA_NAME : "gemm " REEF_ISA_NAME;
    return REEF_OK;
}
