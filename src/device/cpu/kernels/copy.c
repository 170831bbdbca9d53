/*
 * copy.c - layout changes: strided copies, transposes, padding and cropping, for elements of 1, 2, 4 or 8 bytes.
 *
 * Where it sits: REEF_K_COPY, mostly at the edges of a network (row major to NHWC and back) and inside attention.
 * Three forms, chosen at load:
 *   - rows: x and y go the same way through memory, or one of them is strided; row by row in y's order.
 *   - transpose: x is dense along another dimension than y. Blocks of both dimensions, VL by VL elements in registers
 *     where elements have 4 bytes, so that both sides move in whole cache lines.
 *   - pad: as rows, with each coordinate mapped back into x, or filled.
 */
#include "device/cpu/kernels/walk.h"

typedef struct copy_args {
    reef_view x, y;
    int64_t bytes;
    walk w; /* rows and pad: y then x. transpose: the dimensions outside the two */
    int64_t per_tile;
    /* transpose: a is dense in y, b is dense in x */
    int64_t na, nb, y_b, x_a; /* sizes, y's stride along b, x's along a */
    int64_t block_a, block_b, blocks_a, blocks_b;
    /* pad, per dimension of w */
    int64_t x_dims[REEF_MAX_RANK], before[REEF_MAX_RANK];
    reef_pad_mode mode;
    bool x_empty;
    union {
        float f32;
        double f64;
        int64_t i64;
        int32_t i32;
        uint8_t u8;
        uint64_t bits;
    } value;
} copy_args;

#define COPY_STRIDED(T)                                                                                                \
    do {                                                                                                               \
        T *d = (T *)to;                                                                                                \
        const T *s = (const T *)from;                                                                                  \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            d[i * to_stride] = s[i * from_stride];                                                                     \
        }                                                                                                              \
    } while (0)

static void copy_row(char *to, int64_t to_stride, const char *from, int64_t from_stride, int64_t n, int64_t bytes)
{
    if (to_stride == 1 && from_stride == 1) {
        memcpy(to, from, (size_t)(n * bytes));
        return;
    }
    switch (bytes) {
    case 8: COPY_STRIDED(uint64_t); break;
    case 4: COPY_STRIDED(uint32_t); break;
    case 2: COPY_STRIDED(uint16_t); break;
    default: COPY_STRIDED(uint8_t); break;
    }
}

static reef_tile_result copy_rows_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const copy_args *k = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    char *y = view_at(&k->y, base);
    const char *x = view_at(&k->x, base);
    int64_t left = k->w.total - (int64_t)tile * k->per_tile, last = k->w.rank - 1;
    left = left < k->per_tile ? left : k->per_tile;
    walk_pos pos;
    walk_seek(&k->w, (int64_t)tile * k->per_tile, &pos);
    while (left > 0) {
        int64_t n = walk_row(&k->w, &pos, left);
        copy_row(y + pos.off[0] * k->bytes, k->w.stride[0][last], x + pos.off[1] * k->bytes, k->w.stride[1][last], n,
                 k->bytes);
        walk_advance(&k->w, &pos, n);
        left -= n;
    }
    return REEF_TILE_DONE;
}

/* -------------------------------------------------------------- transpose -- */

/* Lanes of a and b alternating, first or second half: one step of a transpose, log2(VL) of which make it whole. */
#if VL == 16
#define ZIP_LO(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP_HI(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif VL == 8
#define ZIP_LO(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HI(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define ZIP_LO(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define ZIP_HI(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

/* y[j][i] = x[i][j] for VL by VL elements; strides in elements. */
static inline __attribute__((always_inline)) void transpose_square(float *y, int64_t y_stride, const float *x,
                                                                   int64_t x_stride)
{
    vf r[VL], t[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) {
        r[i] = v_load(x + i * x_stride);
    }
    /* Row i zipped with row i + VL/2, log2(VL) times: the perfect shuffle of a VL*VL array, its transpose. */
#pragma GCC unroll 4
    for (int step = 1; step < VL; step *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < VL / 2; i++) {
            t[2 * i] = ZIP_LO(r[i], r[i + VL / 2]);
            t[2 * i + 1] = ZIP_HI(r[i], r[i + VL / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) {
            r[i] = t[i];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) {
        v_store(y + i * y_stride, r[i]);
    }
}

#define TRANSPOSE_PART(T)                                                                                              \
    do {                                                                                                               \
        T *d = (T *)y;                                                                                                 \
        const T *s = (const T *)x;                                                                                     \
        for (int64_t j = 0; j < nb; j++) {                                                                             \
            for (int64_t i = 0; i < na; i++) {                                                                         \
                d[j * y_b + i] = s[i * x_a + j];                                                                       \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* y[j * y_b + i] = x[i * x_a + j] for i < na, j < nb, both few. */
static inline void transpose_part(char *y, int64_t y_b, const char *x, int64_t x_a, int64_t na, int64_t nb,
                                  int64_t bytes)
{
    switch (bytes) {
    case 8: TRANSPOSE_PART(uint64_t); break;
    case 4: TRANSPOSE_PART(uint32_t); break;
    case 2: TRANSPOSE_PART(uint16_t); break;
    default: TRANSPOSE_PART(uint8_t); break;
    }
}

/* Images have 3 channels: y's (or x's) rows are shorter than a vector, and known at compile time. */
static inline __attribute__((always_inline)) void transpose_thin(uint32_t *y, int64_t y_b, const uint32_t *x,
                                                                 int64_t x_a, int64_t na, int64_t nb)
{
    for (int64_t j = 0; j < nb; j++) {
        for (int64_t i = 0; i < na; i++) {
            y[j * y_b + i] = x[i * x_a + j];
        }
    }
}

static void transpose_f32(float *y, int64_t y_b, const float *x, int64_t x_a, int64_t na, int64_t nb)
{
    if (na < VL && y_b == na && na >= 2 && na <= 4) { /* planes to pixels */
        switch (na) {
        case 2: transpose_thin((uint32_t *)y, 2, (const uint32_t *)x, x_a, 2, nb); return;
        case 3: transpose_thin((uint32_t *)y, 3, (const uint32_t *)x, x_a, 3, nb); return;
        default: transpose_thin((uint32_t *)y, 4, (const uint32_t *)x, x_a, 4, nb); return;
        }
    }
    int64_t i = 0;
    for (; i + VL <= na; i += VL) {
        int64_t j = 0;
        for (; j + VL <= nb; j += VL) {
            transpose_square(y + j * y_b + i, y_b, x + i * x_a + j, x_a);
        }
        transpose_part((char *)(y + j * y_b + i), y_b, (const char *)(x + i * x_a + j), x_a, VL, nb - j, 4);
    }
    transpose_part((char *)(y + i), y_b, (const char *)(x + i * x_a), x_a, na - i, nb, 4);
}

static void transpose_block(const copy_args *k, char *y, const char *x, int64_t na, int64_t nb)
{
    enum { PART = 16 };
    if (k->bytes == 4) {
        transpose_f32((float *)y, k->y_b, (const float *)x, k->x_a, na, nb);
        return;
    }
    for (int64_t j = 0; j < nb; j += PART) {
        for (int64_t i = 0; i < na; i += PART) {
            transpose_part(y + (j * k->y_b + i) * k->bytes, k->y_b, x + (i * k->x_a + j) * k->bytes, k->x_a,
                           na - i < PART ? na - i : PART, nb - j < PART ? nb - j : PART, k->bytes);
        }
    }
}

static reef_tile_result copy_transpose_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const copy_args *k = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    int64_t blocks = k->blocks_a * k->blocks_b, all = k->w.total * blocks;
    int64_t at = (int64_t)tile * k->per_tile, end = at + k->per_tile < all ? at + k->per_tile : all;
    for (; at < end; at++) {
        int64_t a = at % k->blocks_a * k->block_a, b = at / k->blocks_a % k->blocks_b * k->block_b;
        walk_pos pos;
        walk_seek(&k->w, at / blocks, &pos);
        char *y = view_at(&k->y, base) + (pos.off[0] + b * k->y_b + a) * k->bytes;
        const char *x = view_at(&k->x, base) + (pos.off[1] + a * k->x_a + b) * k->bytes;
        transpose_block(k, y, x, k->na - a < k->block_a ? k->na - a : k->block_a,
                        k->nb - b < k->block_b ? k->nb - b : k->block_b);
    }
    return REEF_TILE_DONE;
}

/* -------------------------------------------------------------------- pad -- */

/* y's coordinate i (already less `before`) in x, or -1 where the constant goes. */
static inline int64_t pad_source(int64_t i, int64_t n, reef_pad_mode mode)
{
    if (i >= 0 && i < n) {
        return i;
    }
    if (mode == REEF_PAD_CONSTANT || n == 0) {
        return -1;
    }
    if (mode == REEF_PAD_EDGE) {
        return i < 0 ? 0 : n - 1;
    }
    if (n == 1) {
        return 0;
    }
    int64_t period = 2 * (n - 1);
    i %= period;
    i += i < 0 ? period : 0;
    return i < n ? i : period - i;
}

#define PAD_FILL(T)                                                                                                    \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
        ((T *)to)[i * stride] = (T)bits;                                                                               \
    }                                                                                                                  \
    break

static void pad_fill(char *to, int64_t stride, uint64_t bits, int64_t n, int64_t bytes)
{
    switch (bytes) {
    case 8: PAD_FILL(uint64_t);
    case 4: PAD_FILL(uint32_t);
    case 2: PAD_FILL(uint16_t);
    default: PAD_FILL(uint8_t);
    }
}

/* n elements of a row of y that starts at coordinate at; x points at coordinate 0 of the row in x. */
static void pad_row(const copy_args *k, char *y, const char *x, int64_t at, int64_t n)
{
    int last = k->w.rank - 1;
    int64_t ys = k->w.stride[0][last], xs = k->w.stride[1][last], bytes = k->bytes, dim = k->x_dims[last];
    for (int64_t i = 0; i < n;) {
        int64_t from = at + i - k->before[last], run = 1;
        if (from >= 0 && from < dim) {
            run = dim - from < n - i ? dim - from : n - i;
            copy_row(y + i * ys * bytes, ys, x + from * xs * bytes, xs, run, bytes);
        } else if (k->mode == REEF_PAD_CONSTANT) {
            run = from < 0 && -from < n - i ? -from : n - i;
            pad_fill(y + i * ys * bytes, ys, k->value.bits, run, bytes);
        } else {
            from = pad_source(from, dim, k->mode);
            memcpy(y + i * ys * bytes, x + from * xs * bytes, (size_t)bytes);
        }
        i += run;
    }
}

static reef_tile_result copy_pad_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const copy_args *k = args;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    char *y = view_at(&k->y, base);
    const char *x = view_at(&k->x, base);
    int64_t left = k->w.total - (int64_t)tile * k->per_tile;
    left = left < k->per_tile ? left : k->per_tile;
    int last = k->w.rank - 1;
    walk_pos pos;
    walk_seek(&k->w, (int64_t)tile * k->per_tile, &pos);
    while (left > 0) {
        int64_t n = walk_row(&k->w, &pos, left), off = 0;
        bool outside = k->x_empty;
        for (int i = 0; i < last && !outside; i++) {
            int64_t from = pad_source(pos.at[i] - k->before[i], k->x_dims[i], k->mode);
            outside = from < 0;
            off += from * k->w.stride[1][i];
        }
        char *to = y + pos.off[0] * k->bytes;
        if (outside) {
            pad_fill(to, k->w.stride[0][last], k->value.bits, n, k->bytes);
        } else {
            pad_row(k, to, x + off * k->bytes, pos.at[last], n);
        }
        walk_advance(&k->w, &pos, n);
        left -= n;
    }
    return REEF_TILE_DONE;
}

/* ---------------------------------------------------------------- prepare -- */

static void copy_value(copy_args *a, reef_dtype dtype, double value)
{
    double whole = value != value ? 0 : trunc(value);
    a->value.bits = 0;
    switch (dtype) {
    case REEF_F32: a->value.f32 = (float)value; break;
    case REEF_F64: a->value.f64 = value; break;
    case REEF_I64: a->value.i64 = whole <= -0x1p63 ? INT64_MIN : whole >= 0x1p63 ? INT64_MAX : (int64_t)whole; break;
    case REEF_I32:
        a->value.i32 = whole <= -0x1p31 ? INT32_MIN : whole >= 0x1p31 - 1 ? INT32_MAX : (int32_t)whole;
        break;
    case REEF_I8: a->value.u8 = (uint8_t)(int8_t)(whole < -128 ? -128 : whole > 127 ? 127 : whole); break;
    case REEF_U8: a->value.u8 = (uint8_t)(whole < 0 ? 0 : whole > 255 ? 255 : whole); break;
    case REEF_BOOL: a->value.u8 = value != 0; break;
    default: break; /* f16 can only be filled with zero */
    }
}

/* Sets up the transposing form if it fits: y is dense along its last walked dimension, x along another. */
static bool copy_transposes(copy_args *a, const walk *w)
{
    int last = w->rank - 1, b = -1;
    for (int i = 0; i < last; i++) {
        if (w->stride[1][i] == 1) {
            b = i;
        }
    }
    if (b < 0 || w->stride[0][last] != 1 || w->stride[1][last] == 1 || w->dims[last] < 2 || w->dims[b] < 2) {
        return false;
    }
    a->na = w->dims[last];
    a->nb = w->dims[b];
    a->y_b = w->stride[0][b];
    a->x_a = w->stride[1][last];
    int64_t dims[REEF_MAX_RANK], ys[REEF_MAX_RANK], xs[REEF_MAX_RANK];
    const int64_t *strides[2] = {ys, xs};
    int rank = 0;
    for (int i = 0; i < last; i++) {
        if (i != b) {
            dims[rank] = w->dims[i];
            ys[rank] = w->stride[0][i];
            xs[rank++] = w->stride[1][i];
        }
    }
    walk_make(&a->w, 2, rank, dims, strides, true);
    /* 64 KiB a block; long and thin when one of the dimensions is short. */
    const int64_t elems = 65536 / a->bytes, side = 128;
    a->block_a = a->na < side ? a->na : side;
    a->block_b = elems / a->block_a < a->nb ? elems / a->block_a : a->nb;
    a->block_a = elems / a->block_b < a->na ? elems / a->block_b : a->na;
    if (a->block_a < a->na && a->block_a > 16) {
        a->block_a -= a->block_a % 16;
    }
    if (a->block_b < a->nb && a->block_b > 16) {
        a->block_b -= a->block_b % 16;
    }
    a->blocks_a = (a->na + a->block_a - 1) / a->block_a;
    a->blocks_b = (a->nb + a->block_b - 1) / a->block_b;
    return true;
}

/* The pad form's walk keeps the order y has in memory; unpadded neighbours are merged, padded dimensions stay alone. */
static void copy_pad_walk(copy_args *a, const reef_kernel *k)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    int order[REEF_MAX_RANK], rank = 0;
    for (int i = 0; i < y->rank; i++) {
        int at = rank;
        if (y->dims[i] == 1 && x->dims[i] == 1 && k->copy.before[i] == 0) {
            continue;
        }
        while (at > 0 && walk_abs(y->stride[order[at - 1]]) < walk_abs(y->stride[i])) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
        rank++;
    }
    walk *w = &a->w;
    memset(w, 0, sizeof *w);
    w->n_ops = 2;
    w->total = 1;
    for (int j = 0; j < rank; j++) {
        int d = order[j], p = w->rank - 1;
        bool plain = k->copy.before[d] == 0 && x->dims[d] == y->dims[d];
        w->total *= y->dims[d];
        a->x_empty = a->x_empty || x->dims[d] == 0;
        bool merge = p >= 0 && plain && a->before[p] == 0 && a->x_dims[p] == w->dims[p] &&
                     w->stride[0][p] == y->stride[d] * y->dims[d] && w->stride[1][p] == x->stride[d] * y->dims[d];
        if (merge) {
            w->dims[p] *= y->dims[d];
        } else {
            p = w->rank++;
            w->dims[p] = y->dims[d];
            a->before[p] = k->copy.before[d];
        }
        a->x_dims[p] = merge ? w->dims[p] : x->dims[d];
        w->stride[0][p] = y->stride[d];
        w->stride[1][p] = x->stride[d];
    }
    if (w->rank == 0) {
        w->rank = 1;
        w->dims[0] = a->x_dims[0] = 1;
        w->stride[0][0] = w->stride[1][0] = 1;
    }
}

REEF_ISA_PREPARE(copy)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    bool same = x->rank == y->rank && x->dtype == y->dtype && reef_dtype_bytes(y->dtype) > 0;
    bool pads = k->copy.pads;
    for (int i = 0; same && i < y->rank && !pads; i++) {
        same = x->dims[i] == y->dims[i];
    }
    if (!same || (pads && y->dtype == REEF_F16 && k->copy.value != 0)) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: copy between different shapes or types", k->name);
    }
    copy_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    a->x = *x;
    a->y = *y;
    a->bytes = (int64_t)reef_dtype_bytes(y->dtype);
    double ns = 2 * BYTE_NS * (double)a->bytes;
    enum { GRAIN = 1024 };
    if (pads) {
        a->mode = k->copy.mode;
        copy_value(a, y->dtype, k->copy.value);
        copy_pad_walk(a, k);
    } else {
        const int64_t *strides[2] = {y->stride, x->stride};
        walk w;
        walk_make(&w, 2, y->rank, y->dims, strides, true);
        if (copy_transposes(a, &w)) {
            int64_t blocks = a->w.total * a->blocks_a * a->blocks_b, elems = a->block_a * a->block_b;
            a->per_tile = tile_items(prepare->units, blocks, (double)elems * ns);
            kernel_fill(out, copy_transpose_tile, a, blocks, a->per_tile, (double)elems, "transpose " REEF_ISA_NAME);
            return REEF_OK;
        }
        a->w = w;
        ns += w.stride[0][w.rank - 1] == 1 && w.stride[1][w.rank - 1] == 1 ? 0 : 1;
    }
    if (a->w.dims[a->w.rank - 1] < 16) {
        ns += 1;
    }
    int64_t items = (a->w.total + GRAIN - 1) / GRAIN, per = tile_items(prepare->units, items, GRAIN * ns);
    a->per_tile = per * GRAIN;
    kernel_fill(out, pads ? copy_pad_tile : copy_rows_tile, a, items, per, GRAIN, pads ? "pad" : "rows");
    return REEF_OK;
}
