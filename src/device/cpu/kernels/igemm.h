/*
 * igemm.h - convolution as a matrix product over pointers to input pixels (no im2col).
 *
 * Used by conv.c and conv_transpose.c. A convolution is one or more phases: sets of output pixels that all see the same
 * taps. An ordinary convolution has one; a transposed one has stride_h x stride_w, each an ordinary convolution
 * of stride one with its share of the kernel:
 *
 *      output pixel (out0 + r * out_step)  reads input pixel (r * in_step + tap.dy, ...), for r in [0, rows)
 *
 * A tile is a range of a phase's output pixels x some column panels of one group. It first writes its table of pixel
 * pointers (pixels outside the image point at zeros), then runs gemm.h's block, then the epilogue.
 *
 * With few input channels a tap is too short a run to be worth a pointer. Then the tile copies each pixel's whole
 * patch (kernel rows x kernel columns x channels) into scratch, some pixels at a time, and the patch is its one tap.
 */
#ifndef REEF_DEVICE_CPU_KERNELS_IGEMM_H
#define REEF_DEVICE_CPU_KERNELS_IGEMM_H

#include "device/cpu/kernels/epilogue.h"
#include "device/cpu/kernels/gemm.h"

enum {
    IGEMM_PATCH_CHANNELS = 15,    /* up to here patches are copied */
    IGEMM_PATCH_FLOATS = 3 << 10, /* about the size of the buffer that they are copied to */
};

typedef struct igemm_phase {
    int64_t rows, cols; /* output pixels of one image */
    int64_t out0[2];    /* the first one */
    int64_t taps;
    const int64_t *shift;    /* (taps, 2): dy, dx */
    const int64_t *offset;   /* (taps): the same in elements of x */
    int64_t low[2], high[2]; /* least and greatest shifts: pixels whose taps all lie inside need no test */
    const float *panels;     /* of all groups */
    gemm_split split;
    uint32_t first_tile;
} igemm_phase;

/* An image operand: where its elements are. */
typedef struct igemm_image {
    uint32_t storage;
    int64_t offset, n, h, w; /* strides, elements */
} igemm_image;

typedef struct igemm {
    igemm_image x, y, residual;
    bool has_residual;
    int64_t images, in_h, in_w;
    int64_t groups, channels, filters; /* the last two per group */
    int64_t in_step[2], out_step[2];
    const float *zeros; /* channels of them */
    epilogue epilogue;
    size_t table_offset, patch_offset; /* in scratch, behind the sums */
    bool dense_y;                      /* pixels of y (and of the residual) are evenly spaced throughout */
    bool patches;
    int64_t patch_ld, patch_rows; /* of the buffer */
    int64_t kernel_w, dilation_w;
    int n_phases;
    igemm_phase *phases;
} igemm;

typedef struct igemm_tile {
    const igemm_phase *phase;
    int64_t group, col, cols; /* columns of the group */
    int64_t pixel, pixels;    /* flattened over images, rows, columns of the phase */
} igemm_tile;

static inline igemm_image igemm_image_of(const reef_view *v)
{
    return (igemm_image){v->storage, v->offset, v->stride[0], v->stride[2], v->stride[3]};
}

static inline igemm_tile igemm_decode(const igemm *c, uint32_t index)
{
    const igemm_phase *p = c->phases;
    while (p + 1 < c->phases + c->n_phases && index >= p[1].first_tile) {
        p++;
    }
    igemm_tile t = {.phase = p};
    int64_t i = index - p->first_tile, m, n;
    const gemm_split *s = &p->split;
    if (s->columns_outer) {
        m = i % s->m_tiles, i /= s->m_tiles;
        n = i % s->n_tiles, i /= s->n_tiles;
        t.group = i;
    } else {
        n = i % s->n_tiles, i /= s->n_tiles;
        t.group = i % c->groups, i /= c->groups;
        m = i;
    }
    int64_t panels = gemm_panels(c->filters);
    t.col = gemm_cut(panels, s->n_tiles, n) * GEMM_NR;
    int64_t end = gemm_cut(panels, s->n_tiles, n + 1) * GEMM_NR;
    t.cols = (end < c->filters ? end : c->filters) - t.col;
    int64_t all = c->images * p->rows * p->cols;
    t.pixel = gemm_cut(all, s->m_tiles, m);
    t.pixels = gemm_cut(all, s->m_tiles, m + 1) - t.pixel;
    return t;
}

/* Walks the tile's output pixels in order. */
typedef struct igemm_walk {
    int64_t image, r, c;
} igemm_walk;

static inline igemm_walk igemm_walk_start(const igemm_phase *p, int64_t pixel)
{
    int64_t rest = pixel % (p->rows * p->cols);
    return (igemm_walk){pixel / (p->rows * p->cols), rest / p->cols, rest % p->cols};
}
static inline void igemm_walk_next(const igemm_phase *p, igemm_walk *w)
{
    if (++w->c == p->cols) {
        w->c = 0;
        if (++w->r == p->rows) {
            w->r = 0;
            w->image++;
        }
    }
}

/* Whether all taps of the output pixels from w to w + pixels - 1, in one row, lie inside the image. */
static inline bool igemm_inside(const igemm *c, const igemm_phase *p, const igemm_walk *w, int64_t pixels)
{
    int64_t y0 = w->r * c->in_step[0], x0 = w->c * c->in_step[1], x1 = x0 + (pixels - 1) * c->in_step[1];
    return w->c + pixels <= p->cols && y0 + p->low[0] >= 0 && y0 + p->high[0] < c->in_h && x0 + p->low[1] >= 0 &&
           x1 + p->high[1] < c->in_w;
}
static inline const float *igemm_origin(const igemm *c, const igemm_walk *w, const float *x)
{
    return x + w->image * c->x.n + w->r * c->in_step[0] * c->x.h + w->c * c->in_step[1] * c->x.w;
}

/* Pointers of one pixel into a column of its group's table (taps, n). */
static inline void igemm_point(const igemm *c, const igemm_phase *p, const igemm_walk *w, const float *x,
                               const float **table, int64_t n)
{
    const float *at = igemm_origin(c, w, x);
    if (igemm_inside(c, p, w, 1)) {
        for (int64_t t = 0; t < p->taps; t++) {
            table[t * n] = at + p->offset[t];
        }
        return;
    }
    int64_t y0 = w->r * c->in_step[0], x0 = w->c * c->in_step[1];
    for (int64_t t = 0; t < p->taps; t++) {
        int64_t iy = y0 + p->shift[2 * t], ix = x0 + p->shift[2 * t + 1];
        bool inside = iy >= 0 && iy < c->in_h && ix >= 0 && ix < c->in_w;
        table[t * n] = inside ? at + p->offset[t] : c->zeros;
    }
}

/* The whole patch of one pixel: taps in order, channels of each. */
static inline void igemm_copy_patch(const igemm *c, const igemm_phase *p, const igemm_walk *w, const float *x,
                                    float *out)
{
    const float *at = igemm_origin(c, w, x);
    int64_t ch = c->channels, y0 = w->r * c->in_step[0], x0 = w->c * c->in_step[1];
    for (int64_t t = 0; t < p->taps; t++, out += ch) {
        int64_t iy = y0 + p->shift[2 * t], ix = x0 + p->shift[2 * t + 1];
        bool inside = iy >= 0 && iy < c->in_h && ix >= 0 && ix < c->in_w;
        for (int64_t k = 0; k < ch; k++) {
            out[k] = inside ? at[p->offset[t] + k] : 0;
        }
    }
}

/* Patches of n pixels in one row, walking on. Where kernel rows are runs in memory they are copied a vector at a time,
 * which writes up to VL - 1 floats more and reads as many, but not beyond x_end. */
static inline void igemm_copy_patches(const igemm *c, const igemm_phase *p, igemm_walk *w, int64_t n, const float *x,
                                      const float *x_end, float *out)
{
    int64_t ch = c->channels, run = c->kernel_w * ch, step = c->in_step[1] * c->x.w, ld = c->patch_ld;
    bool runs = c->x.w == ch && c->dilation_w == 1;
    while (n > 0) {
        int64_t inside = (c->in_w - 1 - p->high[1] - w->c * c->in_step[1]) / c->in_step[1] + 1;
        const float *at = igemm_origin(c, w, x);
        inside = inside < n ? inside : n;
        if (!runs || inside < 1 || !igemm_inside(c, p, w, inside) ||
            at + (inside - 1) * step + p->offset[p->taps - 1] + ch + VL > x_end) {
            igemm_copy_patch(c, p, w, x, out);
            inside = 1;
        } else {
            for (int64_t i = 0; i < inside; i++, at += step) {
                float *to = out + i * ld;
                for (int64_t t = 0; t < p->taps; t += c->kernel_w, to += run) {
                    const float *from = at + p->offset[t];
                    for (int64_t k = 0; k < run; k += VL) {
                        v_store(to + k, v_load(from + k));
                    }
                }
            }
        }
        out += inside * ld;
        n -= inside;
        w->c += inside - 1;
        igemm_walk_next(p, w);
    }
}

/* pixels rows of acc from output pixel `pixel` on, through pointers into x. */
static inline bool igemm_run_pointers(const igemm *c, const igemm_tile *t, const float *x, gemm_block *block,
                                      const float **table, reef_tile_ctx *ctx)
{
    const igemm_phase *p = t->phase;
    igemm_walk w = igemm_walk_start(p, t->pixel);
    int64_t groups = gemm_groups(t->pixels);
    for (int64_t g = 0; g < groups; g++) {
        int64_t start = gemm_group_start(t->pixels, groups, g), n = gemm_group_start(t->pixels, groups, g + 1) - start;
        if (p->taps == 1 && igemm_inside(c, p, &w, n)) {
            const float *at = igemm_origin(c, &w, x) + p->offset[0];
            for (int64_t i = 0; i < n; i++, at += c->in_step[1] * c->x.w) {
                table[start + i] = at;
            }
            w.c += n - 1;
            igemm_walk_next(p, &w);
            continue;
        }
        for (int64_t i = 0; i < n; i++, igemm_walk_next(p, &w)) {
            igemm_point(c, p, &w, x, table + start * p->taps + i, n);
        }
    }
    block->table = table;
    block->rows = t->pixels;
    block->taps = p->taps;
    block->channels = c->channels;
    return REEF_ISA_FN(reef_gemm_run)(block, ctx);
}

/* The same through copied patches, patch_rows pixels at a time. */
static inline bool igemm_run_patches(const igemm *c, const igemm_tile *t, const float *x, gemm_block *block,
                                     const float **table, float *patches, reef_tile_ctx *ctx)
{
    const igemm_phase *p = t->phase;
    igemm_walk w = igemm_walk_start(p, t->pixel);
    const float *x_end = x + (c->images - 1) * c->x.n + (c->in_h - 1) * c->x.h + (c->in_w - 1) * c->x.w + c->channels;
    int64_t blocks = (t->pixels + c->patch_rows - 1) / c->patch_rows;
    float *acc = block->acc;
    const float *soon = block->soon;
    for (int64_t i = 0; i < c->patch_rows; i++) {
        table[i] = patches + i * c->patch_ld;
    }
    block->table = table;
    block->taps = 1;
    block->channels = p->taps * c->channels;
    for (int64_t b = 0; b < blocks; b++) {
        if (reef_tile_abandoned(ctx)) {
            return false;
        }
        int64_t start = gemm_cut(t->pixels, blocks, b);
        block->rows = gemm_cut(t->pixels, blocks, b + 1) - start;
        block->acc = acc + start * block->ld;
        block->soon = soon ? soon + start * block->soon_stride : NULL;
        for (int64_t i = 0, n; i < block->rows; i += n) {
            n = block->rows - i < p->cols - w.c ? block->rows - i : p->cols - w.c;
            igemm_copy_patches(c, p, &w, n, x, x_end, patches + i * c->patch_ld);
        }
        if (!REEF_ISA_FN(reef_gemm_run)(block, ctx)) {
            return false;
        }
    }
    return true;
}

typedef enum igemm_step { IGEMM_FINISH, IGEMM_STORE, IGEMM_FINISH_AND_STORE } igemm_step;

/* Walks sums (pixels, ld) of `channels` channels from `channel` on: finishes them in place, stores them, or both. */
static inline bool igemm_walk_sums(const igemm *c, const igemm_tile *t, char *const *base, float *acc, int64_t ld,
                                   int64_t channel, int64_t channels, igemm_step step, reef_tile_ctx *ctx)
{
    const igemm_phase *p = t->phase;
    float *y = (float *)base[c->y.storage] + c->y.offset + channel;
    const float *residual =
        c->has_residual ? (const float *)base[c->residual.storage] + c->residual.offset + channel : NULL;
    int64_t y_stride = c->y.w * c->out_step[1], residual_stride = c->residual.w * c->out_step[1];
    igemm_walk w = igemm_walk_start(p, t->pixel);
    for (int64_t i = 0, n, since = EPILOGUE_STEP; i < t->pixels; i += n, acc += n * ld, since += n * ld) {
        int64_t oy = p->out0[0] + w.r * c->out_step[0], ox = p->out0[1] + w.c * c->out_step[1];
        int64_t at = w.image * c->residual.n + oy * c->residual.h + ox * c->residual.w;
        float *to = y + w.image * c->y.n + oy * c->y.h + ox * c->y.w;
        n = t->pixels - i;
        if (!c->dense_y && n > p->cols - w.c) {
            n = p->cols - w.c;
        }
        if (step == IGEMM_FINISH) {
            if (since >= EPILOGUE_STEP && reef_tile_abandoned(ctx)) {
                return false;
            }
            since = since >= EPILOGUE_STEP ? 0 : since;
            n = n * ld > EPILOGUE_STEP ? (EPILOGUE_STEP + ld - 1) / ld : n;
            epilogue_run(&c->epilogue, acc, ld, n, channel, channels, residual ? residual + at : NULL, residual_stride,
                         acc, ld);
        } else if (step == IGEMM_STORE) {
            epilogue_copy(acc, ld, n, channels, to, y_stride);
        } else {
            epilogue_run(&c->epilogue, acc, ld, n, channel, channels, residual ? residual + at : NULL, residual_stride,
                         to, y_stride);
        }
        w = igemm_walk_start(p, t->pixel + i + n);
    }
    return true;
}

/* The end of a tile. False: abandoned. */
static inline bool igemm_store(const igemm *c, const igemm_tile *t, char *const *base, float *acc, int64_t ld,
                               int64_t channel, int64_t channels, reef_tile_ctx *ctx)
{
    bool is_long = epilogue_is_long(&c->epilogue);
    if (is_long && !igemm_walk_sums(c, t, base, acc, ld, channel, channels, IGEMM_FINISH, ctx)) {
        return false;
    }
    if (reef_tile_abandoned(ctx)) {
        return false;
    }
    return igemm_walk_sums(c, t, base, acc, ld, channel, channels, is_long ? IGEMM_STORE : IGEMM_FINISH_AND_STORE, ctx);
}

static inline reef_tile_result igemm_tile_run(const void *args, char *const *base, uint32_t index, reef_tile_ctx *ctx)
{
    const igemm *c = args;
    igemm_tile t = igemm_decode(c, index);
    const igemm_phase *p = t.phase;
    const float **table = (const float **)((char *)ctx->scratch + c->table_offset);
    float *patches = (float *)((char *)ctx->scratch + c->patch_offset);
    int64_t ld = gemm_padded(t.cols);
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    if (p->taps) {
        const float *x = (const float *)base[c->x.storage] + c->x.offset + t.group * c->channels;
        gemm_block block = {
            .panels = p->panels + (t.group * gemm_padded(c->filters) + t.col) * p->taps * c->channels,
            .cols = ld,
            .acc = ctx->scratch,
            .ld = ld,
        };
        if (c->dense_y) {
            block.soon = (const float *)base[c->y.storage] + c->y.offset + t.group * c->filters + t.col +
                         t.pixel / (p->rows * p->cols) * c->y.n + t.pixel % (p->rows * p->cols) * c->y.w;
            block.soon_stride = c->y.w;
        }
        if (c->patches ? !igemm_run_patches(c, &t, x, &block, table, patches, ctx)
                       : !igemm_run_pointers(c, &t, x, &block, table, ctx)) {
            return REEF_TILE_ABANDONED;
        }
    } else { /* a transposed convolution's phase that no input reaches */
        memset(ctx->scratch, 0, (size_t)(t.pixels * ld) * sizeof(float));
    }
    return igemm_store(c, &t, base, ctx->scratch, ld, t.group * c->filters + t.col, t.cols, ctx) ? REEF_TILE_DONE
                                                                                                 : REEF_TILE_ABANDONED;
}

static inline bool igemm_dense(const igemm *c, const igemm_image *v, const igemm_phase *p)
{
    return v->h == p->cols * v->w && (c->images == 1 || v->n == p->rows * v->h);
}

/* Cuts every phase into tiles and sizes the scratch; phases, shapes and steps are set. */
static inline void igemm_finish(igemm *c, reef_cpu_prepare *prepare, reef_cpu_kernel *out)
{
    size_t acc_bytes = 0, table_bytes = 0, patch_bytes = 0;
    uint32_t tiles = 0;
    out->tile_flops = 1;
    for (int i = 0; i < c->n_phases; i++) {
        igemm_phase *p = &c->phases[i];
        int64_t taps = p->taps ? p->taps : 1, depth = taps * c->channels;
        double input = (double)c->images * (double)c->in_h * (double)c->in_w * (double)c->channels;
        p->first_tile = tiles;
        p->split =
            REEF_ISA_FN(reef_gemm_split)(c->groups, c->images * p->rows * p->cols, c->filters, c->patches ? 1 : taps,
                                         c->patches ? depth : c->channels, input, prepare->units);
        const gemm_split *s = &p->split;
        tiles += (uint32_t)(c->groups * s->m_tiles * s->n_tiles);
        size_t acc = (size_t)(s->rows * s->cols) * sizeof(float);
        size_t table = (size_t)(s->rows * taps) * sizeof(float *);
        if (c->patches) {
            c->patch_ld = (depth + VL - 1 + 15) / 16 * 16;
            c->patch_rows = IGEMM_PATCH_FLOATS / c->patch_ld / GEMM_MR * GEMM_MR;
            c->patch_rows = c->patch_rows < GEMM_MR ? GEMM_MR : c->patch_rows;
            patch_bytes = (size_t)(c->patch_rows * c->patch_ld) * sizeof(float);
            table = (size_t)c->patch_rows * sizeof(float *);
        }
        acc_bytes = acc > acc_bytes ? acc : acc_bytes;
        table_bytes = table > table_bytes ? table : table_bytes;
        out->tile_flops = fmax(out->tile_flops, 2.0 * (double)(s->rows * s->cols) * (double)depth);
    }
    c->table_offset = (acc_bytes + 63) / 64 * 64;
    c->patch_offset = (c->table_offset + table_bytes + 63) / 64 * 64;
    out->scratch_bytes = c->patch_offset + patch_bytes;
    out->tiles = tiles;
    out->args = c;
    out->epilogue_only = true;
    out->run = igemm_tile_run;
}

/* Offsets of a phase's taps from its shifts. */
static inline void igemm_offsets(const igemm *c, const int64_t *shift, int64_t taps, int64_t *offset)
{
    for (int64_t t = 0; t < taps; t++) {
        offset[t] = shift[2 * t] * c->x.h + shift[2 * t + 1] * c->x.w;
    }
}

/* Operand forms that convolutions accept; the lowering writes no others. */
static inline reef_status igemm_check(const reef_kernel *k, bool has_residual, reef_cpu_prepare *prepare)
{
    const reef_view *x = &k->in[0], *y = &k->y, *r = &k->in[1];
    bool ok = x->rank == 4 && y->rank == 4 && x->dtype == REEF_F32 && y->dtype == REEF_F32;
    ok = ok && (x->stride[1] == 1 || x->dims[1] == 1) && (y->stride[1] == 1 || y->dims[1] == 1);
    ok = ok && (!has_residual || (r->rank == 4 && (r->stride[1] == 1 || r->dims[1] == 1)));
    if (!ok) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED,
                         "%s: convolution operands must be float32 with channels innermost", k->name ? k->name : "?");
    }
    return REEF_OK;
}

/* Fills *c and its one phase from an ordinary convolution; panels and tiles are left to the caller. */
static inline reef_status igemm_from_conv(igemm *c, const reef_kernel *k, bool patches, reef_cpu_prepare *prepare)
{
    const reef_conv *conv = &k->conv;
    const reef_view *x = &k->in[0], *y = &k->y;
    int64_t kh = conv->kernel[0], kw = conv->kernel[1], taps = kh * kw;
    igemm_phase *p = reef_arena_alloc(prepare->arena, sizeof *p);
    int64_t *shift = reef_arena_array(prepare->arena, (size_t)taps, 3 * sizeof *shift);
    float *zeros = prepare->alloc(prepare->owner, (size_t)conv->channels * sizeof(float));
    const float *bias = epilogue_bias(prepare, conv->bias, conv->filters);
    if (!p || !shift || !zeros || !bias) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
    }
    *c = (igemm){
        .x = igemm_image_of(x),
        .y = igemm_image_of(y),
        .has_residual = conv->has_residual,
        .images = y->dims[0],
        .in_h = x->dims[2],
        .in_w = x->dims[3],
        .groups = conv->groups,
        .channels = conv->channels / conv->groups,
        .filters = conv->filters / conv->groups,
        .in_step = {conv->stride[0], conv->stride[1]},
        .out_step = {1, 1},
        .zeros = zeros,
        .epilogue = {.bias = bias, .alpha = 1, .act = conv->act, .a = conv->act_a, .b = conv->act_b},
        .patches = patches,
        .kernel_w = kw,
        .dilation_w = conv->dilation[1],
        .n_phases = 1,
        .phases = p,
    };
    if (conv->has_residual) {
        c->residual = igemm_image_of(&k->in[1]);
    }
    *p =
        (igemm_phase){.rows = y->dims[2], .cols = y->dims[3], .taps = taps, .shift = shift, .offset = shift + 2 * taps};
    c->dense_y = igemm_dense(c, &c->y, p) && (!conv->has_residual || igemm_dense(c, &c->residual, p));
    for (int64_t t = 0; t < taps; t++) {
        shift[2 * t] = (t / kw) * conv->dilation[0] - conv->pad[0];
        shift[2 * t + 1] = (t % kw) * conv->dilation[1] - conv->pad[1];
    }
    igemm_offsets(c, shift, taps, shift + 2 * taps);
    for (int d = 0; d < 2; d++) {
        p->low[d] = -conv->pad[d];
        p->high[d] = (conv->kernel[d] - 1) * conv->dilation[d] - conv->pad[d];
    }
    return REEF_OK;
}

/* REEF_K_CONV with one filter per channel (depthwise.c). */
REEF_ISA_PREPARE(depthwise);

#endif
