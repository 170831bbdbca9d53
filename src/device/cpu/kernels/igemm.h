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
 * With few input channels a tap is too short a run to be worth a pointer. Then the tile copies the input window
 * that it needs, padded and dense, and a whole kernel row of KW x C floats is one tap. Such a tile is a rectangle of
 * one image.
 */
#ifndef REEF_DEVICE_CPU_KERNELS_IGEMM_H
#define REEF_DEVICE_CPU_KERNELS_IGEMM_H

#include "device/cpu/kernels/epilogue.h"
#include "device/cpu/kernels/gemm.h"

enum {
    IGEMM_WINDOW_CHANNELS = 15,     /* up to here the window is copied */
    IGEMM_WINDOW_FLOATS = 16 << 10, /* of one output row's window */
};

typedef struct igemm_phase {
    int64_t rows, cols;      /* output pixels of one image */
    int64_t out0[2];         /* the first one */
    int64_t taps;            /* pointers per output pixel */
    const int64_t *shift;    /* (taps, 2): dy, dx */
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
    size_t table_offset, window_offset; /* in scratch, behind the sums */
    /* window form */
    bool window;
    int64_t kernel_w, dilation_h, row_parts, col_parts;
    int n_phases;
    igemm_phase *phases;
} igemm;

typedef struct igemm_tile {
    const igemm_phase *phase;
    int64_t group, col, cols;              /* columns of the group */
    int64_t pixel, pixels;                 /* flattened over images, rows, columns of the phase */
    int64_t image, row, rows, left, width; /* window form: a rectangle instead */
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
    if (c->window) {
        int64_t part = m % c->col_parts;
        m /= c->col_parts;
        t.left = gemm_cut(p->cols, c->col_parts, part);
        t.width = gemm_cut(p->cols, c->col_parts, part + 1) - t.left;
        part = m % c->row_parts;
        t.image = m / c->row_parts;
        t.row = gemm_cut(p->rows, c->row_parts, part);
        t.rows = gemm_cut(p->rows, c->row_parts, part + 1) - t.row;
        t.pixels = t.rows * t.width;
    } else {
        int64_t all = c->images * p->rows * p->cols;
        t.pixel = gemm_cut(all, s->m_tiles, m);
        t.pixels = gemm_cut(all, s->m_tiles, m + 1) - t.pixel;
    }
    return t;
}

/* Walks the tile's output pixels in order. */
typedef struct igemm_walk {
    int64_t image, r, c;
    int64_t left, right, bottom; /* of the rectangle, or the whole phase */
} igemm_walk;

static inline igemm_walk igemm_walk_start(const igemm *c, const igemm_tile *t)
{
    if (c->window) {
        return (igemm_walk){t->image, t->row, t->left, t->left, t->left + t->width, t->row + t->rows};
    }
    const igemm_phase *p = t->phase;
    int64_t rest = t->pixel % (p->rows * p->cols);
    return (igemm_walk){t->pixel / (p->rows * p->cols), rest / p->cols, rest % p->cols, 0, p->cols, p->rows};
}
static inline void igemm_walk_next(igemm_walk *w)
{
    if (++w->c == w->right) {
        w->c = w->left;
        if (++w->r == w->bottom) {
            w->r = 0;
            w->image++;
        }
    }
}

/* Pointers of one pixel into column `r` of its group's table (taps, n). */
static inline void igemm_point(const igemm *c, const igemm_phase *p, const igemm_walk *w, const float *x,
                               const float **table, int64_t n)
{
    int64_t y0 = w->r * c->in_step[0], x0 = w->c * c->in_step[1];
    const float *at = x + w->image * c->x.n + y0 * c->x.h + x0 * c->x.w;
    if (y0 + p->low[0] >= 0 && y0 + p->high[0] < c->in_h && x0 + p->low[1] >= 0 && x0 + p->high[1] < c->in_w) {
        for (int64_t t = 0; t < p->taps; t++) {
            table[t * n] = at + p->shift[2 * t] * c->x.h + p->shift[2 * t + 1] * c->x.w;
        }
        return;
    }
    for (int64_t t = 0; t < p->taps; t++) {
        int64_t iy = y0 + p->shift[2 * t], ix = x0 + p->shift[2 * t + 1];
        bool inside = iy >= 0 && iy < c->in_h && ix >= 0 && ix < c->in_w;
        table[t * n] = inside ? x + w->image * c->x.n + iy * c->x.h + ix * c->x.w : c->zeros;
    }
}

/* The window form: rows [y, y + rows) and columns [left, left + width) of the input, zeros outside, dense. */
static inline void igemm_copy_window(const igemm *c, const float *image, int64_t y, int64_t rows, int64_t left,
                                     int64_t width, float *out)
{
    int64_t ch = c->channels;
    int64_t from = left < 0 ? 0 : left, to = left + width < c->in_w ? left + width : c->in_w;
    for (int64_t r = 0; r < rows; r++, out += width * ch) {
        int64_t iy = y + r;
        if (iy < 0 || iy >= c->in_h || from >= to) {
            memset(out, 0, (size_t)(width * ch) * sizeof(float));
            continue;
        }
        memset(out, 0, (size_t)((from - left) * ch) * sizeof(float));
        const float *src = image + iy * c->x.h + from * c->x.w;
        float *dst = out + (from - left) * ch;
        if (c->x.w == ch) {
            memcpy(dst, src, (size_t)((to - from) * ch) * sizeof(float));
        } else {
            for (int64_t i = 0; i < to - from; i++) {
                for (int64_t k = 0; k < ch; k++) {
                    dst[i * ch + k] = src[i * c->x.w + k];
                }
            }
        }
        memset(out + (to - left) * ch, 0, (size_t)((left + width - to) * ch) * sizeof(float));
    }
}

static inline void igemm_fill_table(const igemm *c, const igemm_tile *t, const float *x, const float **table,
                                    float *window)
{
    const igemm_phase *p = t->phase;
    int64_t window_top = 0, window_left = 0, window_width = 0;
    if (c->window) {
        window_top = t->row * c->in_step[0] + p->low[0];
        window_left = t->left * c->in_step[1] + p->low[1];
        window_width = (t->width - 1) * c->in_step[1] + c->kernel_w;
        igemm_copy_window(c, x + t->image * c->x.n, window_top,
                          (t->rows - 1) * c->in_step[0] + (p->taps - 1) * c->dilation_h + 1, window_left, window_width,
                          window);
    }
    igemm_walk w = igemm_walk_start(c, t);
    int64_t groups = gemm_groups(t->pixels);
    for (int64_t g = 0; g < groups; g++) {
        int64_t start = gemm_group_start(t->pixels, groups, g), n = gemm_group_start(t->pixels, groups, g + 1) - start;
        for (int64_t i = 0; i < n; i++, igemm_walk_next(&w)) {
            const float **column = table + start * p->taps + i;
            if (c->window) {
                const float *at =
                    window +
                    ((w.r - t->row) * c->in_step[0] * window_width + (w.c - t->left) * c->in_step[1]) * c->channels;
                for (int64_t k = 0; k < p->taps; k++) {
                    column[k * n] = at + k * c->dilation_h * window_width * c->channels;
                }
            } else {
                igemm_point(c, p, &w, x, column, n);
            }
        }
    }
}

/* The epilogue: sums (pixels, ld) of `channels` channels from `channel` on. */
static inline void igemm_store(const igemm *c, const igemm_tile *t, char *const *base, const float *acc, int64_t ld,
                               int64_t channel, int64_t channels)
{
    const igemm_phase *p = t->phase;
    float *y = (float *)base[c->y.storage] + c->y.offset + channel;
    const float *residual =
        c->has_residual ? (const float *)base[c->residual.storage] + c->residual.offset + channel : NULL;
    igemm_walk w = igemm_walk_start(c, t);
    for (int64_t i = 0; i < t->pixels; i++, igemm_walk_next(&w)) {
        int64_t oy = p->out0[0] + w.r * c->out_step[0], ox = p->out0[1] + w.c * c->out_step[1];
        const float *r = residual ? residual + w.image * c->residual.n + oy * c->residual.h + ox * c->residual.w : NULL;
        epilogue_run(&c->epilogue, acc + i * ld, channel, channels, r,
                     y + w.image * c->y.n + oy * c->y.h + ox * c->y.w);
    }
}

static inline reef_tile_result igemm_tile_run(const void *args, char *const *base, uint32_t index, reef_tile_ctx *ctx)
{
    const igemm *c = args;
    igemm_tile t = igemm_decode(c, index);
    const igemm_phase *p = t.phase;
    float *acc = ctx->scratch;
    const float **table = (const float **)((char *)ctx->scratch + c->table_offset);
    float *window = (float *)((char *)ctx->scratch + c->window_offset);
    int64_t ld = gemm_padded(t.cols);

    if (p->taps) {
        const float *x = (const float *)base[c->x.storage] + c->x.offset + t.group * c->channels;
        if (reef_tile_abandoned(ctx)) {
            return REEF_TILE_ABANDONED;
        }
        igemm_fill_table(c, &t, x, table, window);
        int64_t run = c->window ? c->kernel_w * c->channels : c->channels;
        gemm_block block = {
            .table = table,
            .rows = t.pixels,
            .taps = p->taps,
            .channels = run,
            .panels = p->panels + (t.group * gemm_padded(c->filters) + t.col) * p->taps * run,
            .cols = ld,
            .acc = acc,
            .ld = ld,
        };
        if (!REEF_ISA_FN(reef_gemm_run)(&block, ctx)) {
            return REEF_TILE_ABANDONED;
        }
    } else { /* a transposed convolution's phase that no input reaches */
        memset(acc, 0, (size_t)(t.pixels * ld) * sizeof(float));
    }
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }

    igemm_store(c, &t, base, acc, ld, t.group * c->filters + t.col, t.cols);
    return REEF_TILE_DONE;
}

/* Cuts every phase into tiles and sizes the scratch; phases, shapes and steps are set. */
static inline void igemm_finish(igemm *c, reef_cpu_prepare *prepare, reef_cpu_kernel *out)
{
    size_t acc_bytes = 0, table_bytes = 0, window_bytes = 0;
    uint32_t tiles = 0;
    out->tile_flops = 1;
    for (int i = 0; i < c->n_phases; i++) {
        igemm_phase *p = &c->phases[i];
        int64_t run = c->window ? c->kernel_w * c->channels : c->channels, taps = p->taps ? p->taps : 1;
        double input = (double)c->images * (double)c->in_h * (double)c->in_w * (double)c->channels;
        int64_t pixels = p->rows * p->cols;
        p->first_tile = tiles;
        if (c->window) {
            gemm_split s =
                REEF_ISA_FN(reef_gemm_split)(c->images, pixels, c->filters, taps, run, input, prepare->units);
            /* Tiles of whole rows when one fits; otherwise rows in parts. */
            int64_t widest =
                (IGEMM_WINDOW_FLOATS / (c->channels * (1 + (taps - 1) * c->dilation_h)) - c->kernel_w) / c->in_step[1] +
                1;
            widest = widest < s.rows ? widest : s.rows;
            widest = widest < 1 ? 1 : widest;
            c->col_parts = (p->cols + widest - 1) / widest;
            int64_t width = (p->cols + c->col_parts - 1) / c->col_parts;
            int64_t height = c->col_parts > 1 ? 1 : s.rows / p->cols;
            c->row_parts = (p->rows + height - 1) / height;
            height = (p->rows + c->row_parts - 1) / c->row_parts;
            s.m_tiles = c->images * c->row_parts * c->col_parts;
            s.rows = width * height;
            p->split = s;
            window_bytes = (size_t)(((height - 1) * c->in_step[0] + (taps - 1) * c->dilation_h + 1) *
                                    ((width - 1) * c->in_step[1] + c->kernel_w) * c->channels) *
                           sizeof(float);
        } else {
            int64_t m = c->images * pixels;
            p->split = REEF_ISA_FN(reef_gemm_split)(1, m, c->filters, taps, run, input, prepare->units);
            if (c->groups > 1) { /* a batch of products, of which each may be small */
                p->split = REEF_ISA_FN(reef_gemm_split)(c->groups, m, c->filters, taps, run, input, prepare->units);
            }
        }
        const gemm_split *s = &p->split;
        tiles += (uint32_t)(c->groups * s->m_tiles * s->n_tiles);
        size_t acc = (size_t)(s->rows * s->cols) * sizeof(float);
        size_t table = (size_t)(s->rows * taps) * sizeof(float *);
        acc_bytes = acc > acc_bytes ? acc : acc_bytes;
        table_bytes = table > table_bytes ? table : table_bytes;
        out->tile_flops = fmax(out->tile_flops, 2.0 * (double)(s->rows * s->cols) * (double)(taps * run));
    }
    c->table_offset = (acc_bytes + 63) / 64 * 64;
    c->window_offset = c->table_offset + (table_bytes + 63) / 64 * 64;
    out->scratch_bytes = c->window_offset + window_bytes;
    out->tiles = tiles;
    out->args = c;
    out->epilogue_only = true;
    out->run = igemm_tile_run;
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
static inline reef_status igemm_from_conv(igemm *c, const reef_kernel *k, bool window, reef_cpu_prepare *prepare)
{
    const reef_conv *conv = &k->conv;
    const reef_view *x = &k->in[0], *y = &k->y;
    int64_t kh = conv->kernel[0], kw = conv->kernel[1], taps = window ? kh : kh * kw;
    igemm_phase *p = reef_arena_alloc(prepare->arena, sizeof *p);
    int64_t *shift = reef_arena_array(prepare->arena, (size_t)taps, 2 * sizeof *shift);
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
        .window = window,
        .kernel_w = kw,
        .dilation_h = conv->dilation[0],
        .n_phases = 1,
        .phases = p,
    };
    if (conv->has_residual) {
        c->residual = igemm_image_of(&k->in[1]);
    }
    *p = (igemm_phase){.rows = y->dims[2], .cols = y->dims[3], .taps = taps, .shift = shift};
    for (int64_t t = 0; t < taps; t++) {
        shift[2 * t] = (window ? t : t / kw) * conv->dilation[0] - conv->pad[0];
        shift[2 * t + 1] = (window ? 0 : t % kw) * conv->dilation[1] - conv->pad[1];
    }
    for (int d = 0; d < 2; d++) {
        p->low[d] = -conv->pad[d];
        p->high[d] = (conv->kernel[d] - 1) * conv->dilation[d] - conv->pad[d];
    }
    return REEF_OK;
}

/* REEF_K_CONV with one filter per channel (depthwise.c). */
REEF_ISA_PREPARE(depthwise);

#endif
