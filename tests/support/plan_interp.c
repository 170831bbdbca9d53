/*
 * plan_interp.c - the interpreter. Two speeds: operators that dominate run time (convolution, matrix product) widen
 * their weights to double once and keep the inner loop contiguous; everything else goes element by element through
 * load and store.
 */
#include "support/plan_interp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/dtype.h"

/* Wide enough for every float64 and every int64 on x86-64 (64-bit significand) and AArch64 (113). */
typedef long double number;

static float half_to_float(uint16_t h)
{
    int exponent = (h >> 10) & 31, mantissa = h & 1023;
    float value = exponent == 31  ? (mantissa ? NAN : INFINITY)
                  : exponent == 0 ? ldexpf((float)mantissa, -24)
                                  : ldexpf((float)(mantissa + 1024), exponent - 25);
    return h & 0x8000 ? -value : value;
}

static number load(const char *base, reef_dtype dtype, int64_t i)
{
    switch (dtype) {
    case REEF_F32: return ((const float *)base)[i];
    case REEF_F64: return ((const double *)base)[i];
    case REEF_I32: return ((const int32_t *)base)[i];
    case REEF_I64: return (number)((const int64_t *)base)[i];
    case REEF_U8: return ((const uint8_t *)base)[i];
    case REEF_I8: return ((const int8_t *)base)[i];
    case REEF_BOOL: return ((const uint8_t *)base)[i] != 0;
    case REEF_F16: return half_to_float(((const uint16_t *)base)[i]);
    }
    return NAN;
}

/* What CAST and stores do: to an integer truncates toward zero and saturates (NaN gives 0); to bool is "not zero". */
static number convert(number v, reef_dtype to)
{
    number low, high;
    switch (to) {
    case REEF_BOOL: return v != 0;
    case REEF_I32: low = INT32_MIN, high = INT32_MAX; break;
    case REEF_I64: low = (number)INT64_MIN, high = (number)INT64_MAX; break;
    case REEF_U8: low = 0, high = UINT8_MAX; break;
    case REEF_I8: low = INT8_MIN, high = INT8_MAX; break;
    default: return v;
    }
    if (isnan(v)) {
        return 0;
    }
    v = truncl(v);
    return v < low ? low : v > high ? high : v;
}

static void store(char *base, reef_dtype dtype, int64_t i, number v)
{
    v = convert(v, dtype);
    switch (dtype) {
    case REEF_F32: ((float *)base)[i] = (float)v; break;
    case REEF_F64: ((double *)base)[i] = (double)v; break;
    case REEF_I32: ((int32_t *)base)[i] = (int32_t)v; break;
    case REEF_I64: ((int64_t *)base)[i] = (int64_t)v; break;
    case REEF_U8: ((uint8_t *)base)[i] = (uint8_t)v; break;
    case REEF_I8: ((int8_t *)base)[i] = (int8_t)v; break;
    case REEF_BOOL: ((uint8_t *)base)[i] = v != 0; break;
    case REEF_F16: break; /* no kernel computes in half precision */
    }
}

static number at(const reef_view *v, char *const *base, int64_t offset)
{
    return load(base[v->storage], v->dtype, offset);
}

static int64_t elems(const reef_view *v)
{
    int64_t n = 1;
    for (int d = 0; d < v->rank; d++) {
        n *= v->dims[d];
    }
    return n;
}

static int64_t offset_of(const reef_view *v, const int64_t *index)
{
    int64_t offset = v->offset;
    for (int d = 0; d < v->rank; d++) {
        offset += index[d] * v->stride[d];
    }
    return offset;
}

/* Next index of dims in row-major order; false after the last. */
static bool step(const int64_t *dims, int rank, int64_t *index)
{
    for (int d = rank - 1; d >= 0; d--) {
        if (++index[d] < dims[d]) {
            return true;
        }
        index[d] = 0;
    }
    return false;
}

static double activate(reef_act act, double a, double b, double x)
{
    switch (act) {
    case REEF_ACT_NONE: return x;
    case REEF_ACT_RELU: return x < 0 ? 0 : x; /* NaN stays NaN */
    case REEF_ACT_CLIP: return x < a ? a : x > b ? b : x;
    case REEF_ACT_LEAKY_RELU: return x < 0 ? a * x : x;
    case REEF_ACT_SIGMOID: return 1 / (1 + exp(-x));
    case REEF_ACT_HARD_SIGMOID: return fmin(fmax(a * x + b, 0), 1);
    case REEF_ACT_HARD_SWISH: return x * fmin(fmax(a * x + b, 0), 1);
    case REEF_ACT_SILU: return x / (1 + exp(-x));
    case REEF_ACT_TANH: return tanh(x);
    case REEF_ACT_GELU: return 0.5 * x * (1 + erf(x * 0.70710678118654752440));
    case REEF_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    }
    return NAN;
}

/* ------------------------------------------------------------ convolutions -- */

/* w (M, C/groups, KH, KW) to [group][ky][kx][c][m in group], so that the inner loop runs over filters. */
static double *pack_conv(const reef_conv *c, bool transposed)
{
    const int64_t cg = c->channels / c->groups, mg = c->filters / c->groups, kh = c->kernel[0], kw = c->kernel[1];
    double *packed = malloc(sizeof *packed * (size_t)(c->groups * kh * kw * cg * mg + 1));
    for (int64_t g = 0, i = 0; packed && g < c->groups; g++) {
        for (int64_t t = 0; t < kh * kw; t++) {
            for (int64_t ci = 0; ci < cg; ci++) {
                for (int64_t m = 0; m < mg; m++, i++) {
                    packed[i] = transposed ? c->w[((g * cg + ci) * mg + m) * kh * kw + t]
                                           : c->w[((g * mg + m) * cg + ci) * kh * kw + t];
                }
            }
        }
    }
    return packed;
}

/* The input coordinate that tap k of output o reads, or -1. */
static int64_t tap(const reef_conv *c, bool transposed, int axis, int64_t o, int64_t k, int64_t size)
{
    int64_t i;
    if (transposed) {
        i = o + c->pad[axis] - k * c->dilation[axis];
        if (i < 0 || i % c->stride[axis]) {
            return -1;
        }
        i /= c->stride[axis];
    } else {
        i = o * c->stride[axis] - c->pad[axis] + k * c->dilation[axis];
    }
    return i >= 0 && i < size ? i : -1;
}

static reef_status run_conv(const reef_kernel *k, char *const *base, bool transposed)
{
    const reef_conv *c = &k->conv;
    const reef_view *x = &k->in[0], *y = &k->y, *r = c->has_residual ? &k->in[1] : NULL;
    if (x->rank != 4 || y->rank != 4 || x->dtype != REEF_F32 || y->dtype != REEF_F32) {
        return REEF_UNSUPPORTED;
    }
    const int64_t cg = c->channels / c->groups, mg = c->filters / c->groups;
    double *w = pack_conv(c, transposed), *acc = malloc(sizeof *acc * (size_t)(c->filters + 1));
    if (!w || !acc) {
        free(w);
        free(acc);
        return REEF_NO_MEMORY;
    }
    const float *xs = (const float *)base[x->storage];
    for (int64_t pixel = 0; pixel < y->dims[0] * y->dims[2] * y->dims[3]; pixel++) {
        const int64_t ow = pixel % y->dims[3], oh = pixel / y->dims[3] % y->dims[2],
                      n = pixel / y->dims[3] / y->dims[2];
        for (int64_t m = 0; m < c->filters; m++) {
            acc[m] = c->bias ? c->bias[m] : 0;
        }
        for (int64_t t = 0; t < c->kernel[0] * c->kernel[1]; t++) {
            const int64_t ih = tap(c, transposed, 0, oh, t / c->kernel[1], x->dims[2]);
            const int64_t iw = tap(c, transposed, 1, ow, t % c->kernel[1], x->dims[3]);
            if (ih < 0 || iw < 0) {
                continue;
            }
            const float *px = xs + x->offset + n * x->stride[0] + ih * x->stride[2] + iw * x->stride[3];
            for (int64_t g = 0; g < c->groups; g++) {
                const double *pw = w + (g * c->kernel[0] * c->kernel[1] + t) * cg * mg;
                double *pa = acc + g * mg;
                for (int64_t ci = 0; ci < cg; ci++, pw += mg) {
                    const double v = px[(g * cg + ci) * x->stride[1]];
                    for (int64_t m = 0; m < mg; m++) {
                        pa[m] += v * pw[m];
                    }
                }
            }
        }
        for (int64_t m = 0; m < c->filters; m++) {
            const int64_t index[4] = {n, m, oh, ow};
            double v = acc[m] + (r ? (double)at(r, base, offset_of(r, index)) : 0);
            store(base[y->storage], REEF_F32, offset_of(y, index), activate(c->act, c->act_a, c->act_b, v));
        }
    }
    free(w);
    free(acc);
    return REEF_OK;
}

static reef_status run_matmul(const reef_kernel *k, char *const *base)
{
    const reef_matmul *mm = &k->matmul;
    const reef_view *a = &k->in[0], *b = &k->in[1], *y = &k->y, *r = mm->has_residual ? &k->in[2] : NULL;
    const int rank = y->rank;
    if (rank < 2 || a->rank != rank || b->rank != rank || a->dtype != REEF_F32 || y->dtype != REEF_F32) {
        return REEF_UNSUPPORTED;
    }
    const int64_t M = y->dims[rank - 2], N = y->dims[rank - 1], K = a->dims[rank - 1];
    double *w = malloc(sizeof *w * (size_t)(K * N + 1)), *acc = malloc(sizeof *acc * (size_t)(N + 1));
    int64_t packed = INT64_MIN, index[REEF_MAX_RANK] = {0};
    if (!w || !acc) {
        free(w);
        free(acc);
        return REEF_NO_MEMORY;
    }
    if (elems(y) == 0) {
        goto done;
    }
    do { /* over batches */
        const int64_t ob = offset_of(b, index);
        if (packed != ob) {
            for (int64_t i = 0; i < K * N; i++) {
                w[i] = (double)at(b, base, ob + i / N * b->stride[rank - 2] + i % N * b->stride[rank - 1]);
            }
            packed = ob;
        }
        for (int64_t m = 0; m < M; m++) {
            index[rank - 2] = m;
            const int64_t oa = offset_of(a, index);
            memset(acc, 0, sizeof *acc * (size_t)N);
            for (int64_t i = 0; i < K; i++) {
                const double v = (double)at(a, base, oa + i * a->stride[rank - 1]);
                for (int64_t n = 0; n < N; n++) {
                    acc[n] += v * w[i * N + n];
                }
            }
            for (int64_t n = 0; n < N; n++) {
                index[rank - 1] = n;
                double v = (double)mm->alpha * acc[n] + (mm->bias ? mm->bias[n] : 0);
                v += r ? (double)at(r, base, offset_of(r, index)) : 0;
                store(base[y->storage], REEF_F32, offset_of(y, index), activate(mm->act, mm->act_a, mm->act_b, v));
            }
            index[rank - 1] = 0;
        }
        index[rank - 2] = 0;
    } while (step(y->dims, rank - 2, index));
done:
    free(w);
    free(acc);
    return REEF_OK;
}

static reef_status run_attention(const reef_kernel *k, char *const *base)
{
    const reef_view *q = &k->in[0], *kk = &k->in[1], *v = &k->in[2], *mask = k->attention.has_mask ? &k->in[3] : NULL;
    const int64_t B = q->dims[0], H = q->dims[1], S = q->dims[2], T = kk->dims[2], D = q->dims[3], DV = v->dims[3];
    double *score = malloc(sizeof *score * (size_t)(T + 1));
    if (!score) {
        return REEF_NO_MEMORY;
    }
    for (int64_t row = 0; row < B * H * S; row++) {
        const int64_t b = row / S / H, h = row / S % H, s = row % S;
        double max = -INFINITY, sum = 0;
        for (int64_t t = 0; t < T; t++) {
            double dot = 0;
            for (int64_t d = 0; d < D; d++) {
                dot += (double)at(q, base, offset_of(q, (int64_t[]){b, h, s, d})) *
                       (double)at(kk, base, offset_of(kk, (int64_t[]){b, h, t, d}));
            }
            score[t] = dot * (double)k->attention.scale;
            if (mask) {
                const double m = (double)at(mask, base, offset_of(mask, (int64_t[]){b, h, s, t}));
                score[t] = mask->dtype != REEF_BOOL ? score[t] + m : m != 0 ? score[t] : -INFINITY;
            }
            max = score[t] > max || isnan(score[t]) ? score[t] : max;
        }
        const bool empty = max == -INFINITY; /* nothing to attend to */
        for (int64_t t = 0; t < T; t++) {
            score[t] = empty ? (k->attention.nan_rows ? NAN : 0) : exp(score[t] - max);
            sum += score[t];
        }
        for (int64_t d = 0; d < DV; d++) {
            double dot = 0;
            for (int64_t t = 0; t < T; t++) {
                dot += score[t] * (double)at(v, base, offset_of(v, (int64_t[]){b, h, t, d}));
            }
            store(base[k->y.storage], k->y.dtype, offset_of(&k->y, (int64_t[]){b, h, s, d}),
                  empty && !k->attention.nan_rows ? 0 : dot / sum);
        }
    }
    free(score);
    return REEF_OK;
}

/* ------------------------------------------------- windows over (N,C,H,W) -- */

static reef_status run_pool(const reef_kernel *k, char *const *base)
{
    const reef_pool *p = &k->pool;
    const reef_view *x = &k->in[0], *y = &k->y;
    int64_t i[4] = {0};
    if (elems(y) == 0) {
        return REEF_OK;
    }
    do {
        double best = -INFINITY, sum = 0;
        int64_t inside = 0, padded = 0;
        for (int64_t t = 0; t < p->kernel[0] * p->kernel[1]; t++) {
            const int64_t h = i[2] * p->stride[0] - p->pad[0] + t / p->kernel[1] * p->dilation[0];
            const int64_t w = i[3] * p->stride[1] - p->pad[1] + t % p->kernel[1] * p->dilation[1];
            padded += h < x->dims[2] + p->pad_end[0] && w < x->dims[3] + p->pad_end[1];
            if (h < 0 || h >= x->dims[2] || w < 0 || w >= x->dims[3]) {
                continue;
            }
            const double v = (double)at(x, base, offset_of(x, (int64_t[]){i[0], i[1], h, w}));
            best = v > best || isnan(v) ? v : best;
            sum += v;
            inside++;
        }
        const int64_t count = p->count_include_pad ? padded : inside;
        store(base[y->storage], y->dtype, offset_of(y, i),
              p->kind == REEF_POOL_MAX ? best : sum / (double)(count ? count : 1));
    } while (step(y->dims, 4, i));
    return REEF_OK;
}

/* Where output coordinate o of size `out` lies in the input of size `in`. */
static double resize_source(const reef_resize *r, int axis, int64_t o, int64_t in, int64_t out)
{
    switch (r->coord) {
    case REEF_RESIZE_ALIGN_CORNERS: return out > 1 ? (double)o * (double)(in - 1) / (double)(out - 1) : 0;
    case REEF_RESIZE_ASYMMETRIC: return (double)o / r->scale[axis];
    case REEF_RESIZE_PYTORCH_HALF_PIXEL:
        if (out <= 1) {
            return 0;
        }
        break;
    case REEF_RESIZE_HALF_PIXEL: break;
    }
    return ((double)o + 0.5) / r->scale[axis] - 0.5;
}

static int64_t resize_nearest(const reef_resize *r, double source, int64_t in)
{
    double i = 0;
    switch (r->nearest) {
    case REEF_RESIZE_ROUND_PREFER_FLOOR: i = ceil(source - 0.5); break;
    case REEF_RESIZE_ROUND_PREFER_CEIL: i = floor(source + 0.5); break;
    case REEF_RESIZE_FLOOR: i = floor(source); break;
    case REEF_RESIZE_CEIL: i = ceil(source); break;
    }
    return i < 0 ? 0 : i > (double)(in - 1) ? in - 1 : (int64_t)i;
}

static reef_status run_resize(const reef_kernel *k, char *const *base)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    int64_t i[4] = {0};
    if (elems(y) == 0) {
        return REEF_OK;
    }
    do {
        const double sh = resize_source(&k->resize, 0, i[2], x->dims[2], y->dims[2]);
        const double sw = resize_source(&k->resize, 1, i[3], x->dims[3], y->dims[3]);
        number v = 0;
        if (!k->resize.linear) {
            v = at(x, base,
                   offset_of(x, (int64_t[]){i[0], i[1], resize_nearest(&k->resize, sh, x->dims[2]),
                                            resize_nearest(&k->resize, sw, x->dims[3])}));
        } else {
            const double ch = fmin(fmax(sh, 0), (double)(x->dims[2] - 1)),
                         cw = fmin(fmax(sw, 0), (double)(x->dims[3] - 1));
            const int64_t h0 = (int64_t)ch, w0 = (int64_t)cw;
            for (int corner = 0; corner < 4; corner++) {
                const int64_t dh = corner >> 1, dw = corner & 1;
                const double weight =
                    (dh ? ch - (double)h0 : 1 - (ch - (double)h0)) * (dw ? cw - (double)w0 : 1 - (cw - (double)w0));
                const int64_t h = h0 + dh < x->dims[2] ? h0 + dh : h0, w = w0 + dw < x->dims[3] ? w0 + dw : w0;
                v += weight == 0 ? 0 : weight * (double)at(x, base, offset_of(x, (int64_t[]){i[0], i[1], h, w}));
            }
        }
        store(base[y->storage], y->dtype, offset_of(y, i), v);
    } while (step(y->dims, 4, i));
    return REEF_OK;
}

static reef_status run_lrn(const reef_kernel *k, char *const *base)
{
    const reef_lrn *l = &k->lrn;
    const reef_view *x = &k->in[0], *y = &k->y;
    int64_t i[4] = {0};
    if (elems(y) == 0) {
        return REEF_OK;
    }
    do {
        double sum = 0;
        for (int64_t c = i[1] - (l->size - 1) / 2; c <= i[1] + l->size / 2; c++) {
            if (c >= 0 && c < x->dims[1]) {
                const double v = (double)at(x, base, offset_of(x, (int64_t[]){i[0], c, i[2], i[3]}));
                sum += v * v;
            }
        }
        const double v = (double)at(x, base, offset_of(x, i));
        store(base[y->storage], y->dtype, offset_of(y, i),
              v / pow(l->bias + (double)l->alpha / (double)l->size * sum, l->beta));
    } while (step(y->dims, 4, i));
    return REEF_OK;
}

/* --------------------------------------------------------------- elements -- */

static bool is_integer(reef_dtype dtype)
{
    return dtype != REEF_F32 && dtype != REEF_F64 && dtype != REEF_F16;
}

static number divide(number a, number b, reef_dtype type)
{
    if (!is_integer(type)) {
        return (double)a / (double)b;
    }
    return b == 0 ? 0 : truncl(a / b);
}

/* MOD has the divisor's sign (Python), FMOD the dividend's (C). */
static number modulo(number a, number b, reef_dtype type, bool c_style)
{
    if (is_integer(type) && b == 0) {
        return 0;
    }
    number r = fmodl(a, b);
    return !c_style && r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static number elt(const reef_elt_insn *p, const number *reg)
{
    const number a = reg[p->a & (REEF_ELT_REGS - 1)], b = reg[p->b & (REEF_ELT_REGS - 1)],
                 c = reg[p->c & (REEF_ELT_REGS - 1)];
    const reef_dtype type = (reef_dtype)p->type;
    const double x = (double)a;
    switch ((reef_elt_op)p->op) {
    case REEF_ELT_CONST: return convert(p->imm, type);
    case REEF_ELT_CAST: return convert(a, type);
    case REEF_ELT_ADD: return is_integer(type) ? a + b : x + (double)b;
    case REEF_ELT_SUB: return is_integer(type) ? a - b : x - (double)b;
    case REEF_ELT_MUL: return is_integer(type) ? a * b : x * (double)b;
    case REEF_ELT_DIV: return divide(a, b, type);
    case REEF_ELT_MOD: return modulo(a, b, type, false);
    case REEF_ELT_FMOD: return modulo(a, b, type, true);
    case REEF_ELT_POW: return convert(pow(x, (double)b), type);
    case REEF_ELT_MIN: return isnan(a) || isnan(b) ? (number)NAN : a < b ? a : b;
    case REEF_ELT_MAX: return isnan(a) || isnan(b) ? (number)NAN : a > b ? a : b;
    case REEF_ELT_EQ: return a == b;
    case REEF_ELT_LT: return a < b;
    case REEF_ELT_LE: return a <= b;
    case REEF_ELT_GT: return a > b;
    case REEF_ELT_GE: return a >= b;
    case REEF_ELT_AND: return a != 0 && b != 0;
    case REEF_ELT_OR: return a != 0 || b != 0;
    case REEF_ELT_XOR: return (a != 0) != (b != 0);
    case REEF_ELT_NOT: return a == 0;
    case REEF_ELT_WHERE: return a != 0 ? b : c;
    case REEF_ELT_NEG: return -a;
    case REEF_ELT_ABS: return fabsl(a);
    case REEF_ELT_SIGN: return isnan(a) ? a : (a > 0) - (a < 0);
    case REEF_ELT_SQRT: return sqrt(x);
    case REEF_ELT_RECIPROCAL: return 1 / x;
    case REEF_ELT_EXP: return exp(x);
    case REEF_ELT_LOG: return log(x);
    case REEF_ELT_ERF: return erf(x);
    case REEF_ELT_SIN: return sin(x);
    case REEF_ELT_COS: return cos(x);
    case REEF_ELT_TANH: return tanh(x);
    case REEF_ELT_FLOOR: return floor(x);
    case REEF_ELT_CEIL: return ceil(x);
    case REEF_ELT_ROUND: return nearbyint(x); /* half to even, as ONNX */
    case REEF_ELT_SIGMOID: return 1 / (1 + exp(-x));
    case REEF_ELT_SOFTPLUS: return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
    case REEF_ELT_ACT: return activate((reef_act)p->b, p->imm, p->imm2, x);
    case REEF_ELT_FMA: return is_integer(type) ? a * b + c : x * (double)b + (double)c;
    case REEF_ELT_OPS: break;
    }
    return NAN;
}

static reef_status run_eltwise(const reef_kernel *k, char *const *base)
{
    const reef_eltwise *e = &k->eltwise;
    const reef_view *y = &k->y;
    int64_t i[REEF_MAX_RANK] = {0};
    if (elems(y) == 0) {
        return REEF_OK;
    }
    do {
        number reg[REEF_ELT_REGS] = {0};
        for (int j = 0; j < k->n_in; j++) {
            reg[j] = at(&k->in[j], base, offset_of(&k->in[j], i));
        }
        for (int j = 0; j < e->n_insns; j++) {
            reg[e->insns[j].dst & (REEF_ELT_REGS - 1)] = elt(&e->insns[j], reg);
        }
        store(base[y->storage], y->dtype, offset_of(y, i), reg[e->result & (REEF_ELT_REGS - 1)]);
    } while (step(y->dims, y->rank, i));
    return REEF_OK;
}

static reef_status run_copy(const reef_kernel *k, char *const *base)
{
    const reef_copy *c = &k->copy;
    const reef_view *x = &k->in[0], *y = &k->y;
    const size_t size = reef_dtype_bytes(y->dtype);
    int64_t i[REEF_MAX_RANK] = {0};
    if (elems(y) == 0) {
        return REEF_OK;
    }
    do {
        int64_t from[REEF_MAX_RANK];
        bool outside = false;
        for (int d = 0; d < y->rank; d++) {
            const int64_t last = x->dims[d] - 1;
            from[d] = c->pads ? i[d] - c->before[d] : i[d];
            if (c->pads && c->mode == REEF_PAD_EDGE) {
                from[d] = from[d] < 0 ? 0 : from[d] > last ? last : from[d];
            }
            while (c->pads && c->mode == REEF_PAD_REFLECT && last > 0 && (from[d] < 0 || from[d] > last)) {
                from[d] = from[d] < 0 ? -from[d] : 2 * last - from[d];
            }
            outside |= from[d] < 0 || from[d] > last;
        }
        if (outside) {
            store(base[y->storage], y->dtype, offset_of(y, i), c->value);
        } else {
            memcpy(base[y->storage] + offset_of(y, i) * (int64_t)size,
                   base[x->storage] + offset_of(x, from) * (int64_t)size, size);
        }
    } while (step(y->dims, y->rank, i));
    return REEF_OK;
}

/* -------------------------------------------------------------- reductions -- */

static reef_status run_reduce(const reef_kernel *k, char *const *base)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    int64_t i[REEF_MAX_RANK] = {0};
    if (elems(y) == 0) {
        return REEF_OK;
    }
    do {
        int64_t j[REEF_MAX_RANK], inner[REEF_MAX_RANK] = {0}, dims[REEF_MAX_RANK], count = 1;
        for (int d = 0; d < x->rank; d++) {
            dims[d] = k->reduce.axis[d] ? x->dims[d] : 1;
            count *= dims[d];
        }
        number sum = 0, product = 1, low = INFINITY, high = -INFINITY, norm1 = 0, norm2 = 0;
        for (int pass = 0; pass < 2 && count; pass++) { /* log-sum-exp needs the largest first */
            number scaled = 0;
            do {
                for (int d = 0; d < x->rank; d++) {
                    j[d] = i[d] + inner[d];
                }
                const number v = at(x, base, offset_of(x, j));
                if (pass == 0) {
                    sum += v, product *= v, norm1 += fabsl(v), norm2 += v * v;
                    low = v < low || isnan(v) ? v : low, high = v > high || isnan(v) ? v : high;
                } else {
                    scaled += exp((double)(v - high));
                }
            } while (step(dims, x->rank, inner));
            if (k->reduce.kind != REEF_REDUCE_LOG_SUM_EXP) {
                break;
            }
            if (pass == 1) {
                sum = high + log((double)scaled);
            }
        }
        number v = 0;
        switch (k->reduce.kind) {
        case REEF_REDUCE_LOG_SUM_EXP:
        case REEF_REDUCE_SUM: v = sum; break;
        case REEF_REDUCE_MEAN: v = sum / (number)count; break;
        case REEF_REDUCE_MAX: v = high; break;
        case REEF_REDUCE_MIN: v = low; break;
        case REEF_REDUCE_PROD: v = product; break;
        case REEF_REDUCE_L1: v = norm1; break;
        case REEF_REDUCE_L2: v = sqrtl(norm2); break;
        case REEF_REDUCE_SUM_SQUARE: v = norm2; break;
        }
        store(base[y->storage], y->dtype, offset_of(y, i), v);
    } while (step(y->dims, y->rank, i));
    return REEF_OK;
}

static reef_status run_softmax(const reef_kernel *k, char *const *base)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    const int axis = k->softmax.axis;
    int64_t dims[REEF_MAX_RANK], i[REEF_MAX_RANK] = {0};
    memcpy(dims, y->dims, sizeof dims);
    dims[axis] = 1;
    if (elems(y) == 0) {
        return REEF_OK;
    }
    do {
        const int64_t ox = offset_of(x, i), oy = offset_of(y, i);
        double max = -INFINITY, sum = 0;
        for (int64_t t = 0; t < x->dims[axis]; t++) {
            const double v = (double)at(x, base, ox + t * x->stride[axis]);
            max = v > max || isnan(v) ? v : max;
        }
        for (int64_t t = 0; t < x->dims[axis]; t++) {
            sum += exp((double)at(x, base, ox + t * x->stride[axis]) - max);
        }
        for (int64_t t = 0; t < x->dims[axis]; t++) {
            const double v = (double)at(x, base, ox + t * x->stride[axis]) - max;
            store(base[y->storage], y->dtype, oy + t * y->stride[axis], k->softmax.log ? v - log(sum) : exp(v) / sum);
        }
    } while (step(dims, y->rank, i));
    return REEF_OK;
}

static reef_status run_layer_norm(const reef_kernel *k, char *const *base)
{
    const reef_layer_norm *l = &k->layer_norm;
    const reef_view *x = &k->in[0], *r = l->has_residual ? &k->in[1] : NULL, *y = &k->y;
    const int last = y->rank - 1;
    const int64_t C = y->dims[last];
    int64_t i[REEF_MAX_RANK] = {0};
    double *v = malloc(sizeof *v * (size_t)(C + 1));
    if (!v) {
        return REEF_NO_MEMORY;
    }
    while (elems(y) > 0) {
        double mean = 0, variance = 0;
        for (int64_t c = 0; c < C; c++) {
            i[last] = c;
            v[c] = (double)at(x, base, offset_of(x, i)) + (r ? (double)at(r, base, offset_of(r, i)) : 0);
            mean += v[c];
        }
        mean /= (double)C;
        for (int64_t c = 0; c < C; c++) {
            variance += (v[c] - mean) * (v[c] - mean);
        }
        const double inverse = 1 / sqrt(variance / (double)C + (double)l->epsilon);
        for (int64_t c = 0; c < C; c++) {
            i[last] = c;
            store(base[y->storage], y->dtype, offset_of(y, i),
                  (v[c] - mean) * inverse * (l->scale ? l->scale[c] : 1) + (l->bias ? l->bias[c] : 0));
        }
        i[last] = 0;
        if (!step(y->dims, last, i)) {
            break;
        }
    }
    free(v);
    return REEF_OK;
}

static reef_status run_gather(const reef_kernel *k, char *const *base)
{
    const reef_view *data = &k->in[0], *indices = &k->in[1], *y = &k->y;
    const int axis = k->gather.axis;
    const size_t size = reef_dtype_bytes(y->dtype);
    int64_t i[REEF_MAX_RANK] = {0};
    if (elems(y) == 0) {
        return REEF_OK;
    }
    do {
        int64_t from[REEF_MAX_RANK] = {0}, n = data->dims[axis];
        int64_t g = (int64_t)at(indices, base, offset_of(indices, i + axis));
        g = g < 0 ? g + n : g; /* ONNX: negative counts from the end */
        memcpy(from, i, sizeof *i * (size_t)axis);
        from[axis] = g < 0 ? 0 : g >= n ? n - 1 : g;
        for (int d = axis + 1; d < data->rank; d++) {
            from[d] = i[d - 1 + indices->rank];
        }
        memcpy(base[y->storage] + offset_of(y, i) * (int64_t)size,
               base[data->storage] + offset_of(data, from) * (int64_t)size, size);
    } while (step(y->dims, y->rank, i));
    return REEF_OK;
}

static reef_status run_arg_max(const reef_kernel *k, char *const *base)
{
    const reef_view *x = &k->in[0], *y = &k->y;
    int64_t i[REEF_MAX_RANK] = {0};
    if (elems(y) == 0) {
        return REEF_OK;
    }
    do {
        int64_t best = 0;
        number value = 0;
        for (int64_t t = 0; t < x->dims[k->arg_max.axis]; t++) {
            const number v = at(x, base, offset_of(x, i) + t * x->stride[k->arg_max.axis]);
            if (t == 0 || (k->arg_max.min ? v < value : v > value) || (k->arg_max.select_last && v == value)) {
                best = t, value = v;
            }
        }
        store(base[y->storage], y->dtype, offset_of(y, i), (number)best);
    } while (step(y->dims, y->rank, i));
    return REEF_OK;
}

/* -------------------------------------------------------------- the plan -- */

reef_status plan_interp_kernel(const reef_plan *plan, const reef_kernel *k, char *const *base)
{
    (void)plan;
    switch (k->kind) {
    case REEF_K_CONV: return run_conv(k, base, false);
    case REEF_K_CONV_TRANSPOSE: return run_conv(k, base, true);
    case REEF_K_MATMUL: return run_matmul(k, base);
    case REEF_K_ATTENTION: return run_attention(k, base);
    case REEF_K_POOL: return run_pool(k, base);
    case REEF_K_ELTWISE: return run_eltwise(k, base);
    case REEF_K_COPY: return run_copy(k, base);
    case REEF_K_REDUCE: return run_reduce(k, base);
    case REEF_K_SOFTMAX: return run_softmax(k, base);
    case REEF_K_LAYER_NORM: return run_layer_norm(k, base);
    case REEF_K_GATHER: return run_gather(k, base);
    case REEF_K_RESIZE: return run_resize(k, base);
    case REEF_K_LRN: return run_lrn(k, base);
    case REEF_K_ARG_MAX: return run_arg_max(k, base);
    case REEF_K_SPIN: return REEF_OK;
    case REEF_KERNEL_KINDS: break;
    }
    return REEF_UNSUPPORTED;
}

reef_status plan_interp_run(const reef_plan *plan, const void *const *inputs, void *const *outputs)
{
    reef_status status = REEF_OK;
    char **base = calloc(plan->n_storage + 1, sizeof *base);
    char *activations = malloc(plan->activation_bytes + 1);
    if (!base || !activations) {
        free(base);
        free(activations);
        return REEF_NO_MEMORY;
    }
    memset(activations, 0xff, plan->activation_bytes);
    for (size_t i = 0; i < plan->n_storage; i++) {
        const reef_storage *s = &plan->storage[i];
        switch (s->kind) {
        case REEF_STORAGE_CONST: base[i] = (char *)(uintptr_t)s->data; break;
        case REEF_STORAGE_INPUT: base[i] = (char *)(uintptr_t)inputs[s->index]; break;
        case REEF_STORAGE_OUTPUT: base[i] = outputs[s->index]; break;
        case REEF_STORAGE_ACTIVATION: base[i] = activations + s->offset; break;
        }
    }
    for (size_t i = 0; i < plan->n_kernels && !status; i++) {
        status = plan_interp_kernel(plan, &plan->kernels[i], base);
    }
    free(base);
    free(activations);
    return status;
}
