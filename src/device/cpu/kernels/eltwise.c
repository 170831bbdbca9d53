/*
 * eltwise.c - a small program per element: chains of additions, activations, comparisons, casts.
 *
 * Where it sits: REEF_K_ELTWISE. Two forms:
 *   - direct: one of a + b, a - b, a * b, a * b + c or a alone, in f32, then at most a ReLU or Clip, over rows that are
 *     dense or constant in every operand. Batch normalisation with ReLU and residual additions are this. One loop, no
 *     intermediate storage.
 *   - blocks: everything else. A block of ELT_BLOCK elements goes through the program instruction by instruction, with
 *     registers in scratch that stay in the first-level cache. A register whose elements are already dense in memory
 *     is not copied, only pointed to; the last instruction writes y itself where y is dense.
 *
 * Invariant: element i of y depends on element i of the inputs alone, is computed by the same lane-wise instructions
 * wherever tiles and blocks are cut, and is read before it is written. So y may be the same view as an input.
 */
#include "device/cpu/kernels/walk.h"

enum {
    ELT_BLOCK = 512,
    ELT_SLOT_BYTES = ELT_BLOCK * 8,
    ELT_PERIOD = 512, /* longest repeating row that is unrolled once per tile instead of fetched per block */
};

/* How an input's elements come into a block. */
typedef enum elt_fetch { FETCH_UNUSED, FETCH_REPEAT, FETCH_WALK } elt_fetch;

typedef struct elt_input {
    reef_view view;
    walk w; /* in y's order, operand 0 only */
    elt_fetch fetch;
    size_t repeat_at; /* FETCH_REPEAT: where in scratch the unrolled row lives */
    int64_t period;
} elt_input;

typedef struct elt_args {
    int n_in, n_steps;
    uint8_t result;
    bool result_in_last; /* the last step computes the result */
    reef_view y;
    walk w;
    int64_t per_tile;
    elt_input in[REEF_ELT_MAX_INPUTS];
    reef_elt_insn steps[REEF_ELT_MAX_INSNS];
    bool once[REEF_ELT_MAX_INSNS];      /* a constant that is filled once per tile */
    bool uniform_b[REEF_ELT_MAX_INSNS]; /* operand b has the same value in every element */
    int32_t slot[REEF_ELT_REGS];        /* byte offset of a register's two slots in scratch; -1: none */
    uint8_t reg_bytes[REEF_ELT_REGS];   /* element size of the inputs' registers */
    size_t y_bytes;
} elt_args;

/* ------------------------------------------------------------ instructions -- */

#define LOOP(statement)                                                                                                \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
        statement;                                                                                                     \
    }                                                                                                                  \
    break
/* d = expr of vectors p, q, r, which are the operands a, b, c. */
#define V_LOOP(operands, expr)                                                                                         \
    {                                                                                                                  \
        int64_t i = 0;                                                                                                 \
        for (; i + VL <= n; i += VL) {                                                                                 \
            operands(v_load, ) v_store(d + i, (expr));                                                                 \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            operands(v_load_n, , n - i) v_store_n(d + i, (expr), n - i);                                               \
        }                                                                                                              \
    }                                                                                                                  \
    break
#define V_A(load, ...)   vf p = load(a + i __VA_OPT__(__VA_ARGS__));
#define V_AB(load, ...)  V_A(load, __VA_ARGS__) vf q = load(b + i __VA_OPT__(__VA_ARGS__));
#define V_ABC(load, ...) V_AB(load, __VA_ARGS__) vf r = load(c + i __VA_OPT__(__VA_ARGS__));

static inline vf elt_floor(vf x)
{
    vf r = v_round(x);
    return v_select(r > x, r - 1.0f, r);
}
static inline vf elt_ceil(vf x)
{
    vf r = v_round(x);
    return v_select(r < x, r + 1.0f, r);
}
/* max(x, 0) + log(1 + e^-|x|); the last factor undoes the rounding of 1 + u. */
static inline vf elt_softplus(vf x)
{
    vf u = v_exp(-v_abs(x)), w = 1.0f + u, w1 = w - 1.0f;
    vi lost = w1 == 0.0f;
    vf log1p_u = v_select(lost, u, v_log(w) * u / v_select(lost, v_set(1.0f), w1));
    return v_max(v_set(0.0f), x) + log1p_u;
}
static inline float elt_mod(float a, float b)
{
    float r = fmodf(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static void elt_pow_f32(const float *a, const float *b, float *d, int64_t n, bool uniform)
{
    float e = n > 0 ? b[0] : 0;
    int common = !uniform ? 0 : e == 2 ? 1 : e == 3 ? 2 : e == 0.5f ? 3 : e == 1 ? 4 : e == -1 ? 5 : e == -0.5f ? 6 : 0;
    switch (common) {
    case 1: V_LOOP(V_A, p * p);
    case 2: V_LOOP(V_A, p * p * p);
    case 3: V_LOOP(V_A, v_sqrt(p));
    case 4: V_LOOP(V_A, p);
    case 5: V_LOOP(V_A, 1.0f / p);
    case 6: V_LOOP(V_A, 1.0f / v_sqrt(p));
    default: LOOP(d[i] = powf(a[i], b[i]));
    }
}

static void elt_act(const reef_elt_insn *s, const float *a, float *d, int64_t n)
{
    float pa = (float)s->imm, pb = (float)s->imm2;
#define V_ACT_LOOP                                                                                                     \
    do {                                                                                                               \
        V_LOOP(V_A, v_act((reef_act)ACT, pa, pb, p));                                                                  \
    } while (0)
    V_ACT_SWITCH((reef_act)s->b, V_ACT_LOOP);
#undef V_ACT_LOOP
}

static void elt_f32(const reef_elt_insn *s, const float *a, const float *b, const float *c, void *dst, int64_t n,
                    bool uniform_b)
{
    float *d = dst;
    uint8_t *flag = dst;
    switch ((reef_elt_op)s->op) {
    case REEF_ELT_ADD: V_LOOP(V_AB, p + q);
    case REEF_ELT_SUB: V_LOOP(V_AB, p - q);
    case REEF_ELT_MUL: V_LOOP(V_AB, p * q);
    case REEF_ELT_DIV: V_LOOP(V_AB, p / q);
    case REEF_ELT_FMA: V_LOOP(V_ABC, p * q + r);
    case REEF_ELT_MOD: LOOP(d[i] = elt_mod(a[i], b[i]));
    case REEF_ELT_FMOD: LOOP(d[i] = fmodf(a[i], b[i]));
    case REEF_ELT_POW: elt_pow_f32(a, b, d, n, uniform_b); break;
    case REEF_ELT_MIN: V_LOOP(V_AB, v_select((p < q) | v_is_nan(p), p, q));
    case REEF_ELT_MAX: V_LOOP(V_AB, v_select((p > q) | v_is_nan(p), p, q));
    case REEF_ELT_EQ: LOOP(flag[i] = a[i] == b[i]);
    case REEF_ELT_LT: LOOP(flag[i] = a[i] < b[i]);
    case REEF_ELT_LE: LOOP(flag[i] = a[i] <= b[i]);
    case REEF_ELT_GT: LOOP(flag[i] = a[i] > b[i]);
    case REEF_ELT_GE: LOOP(flag[i] = a[i] >= b[i]);
    case REEF_ELT_NEG: V_LOOP(V_A, -p);
    case REEF_ELT_ABS: V_LOOP(V_A, v_abs(p));
    case REEF_ELT_SIGN: V_LOOP(V_A, v_select(p > 0.0f, v_set(1), v_select(p < 0.0f, v_set(-1), p)));
    case REEF_ELT_SQRT: V_LOOP(V_A, v_sqrt(p));
    case REEF_ELT_RECIPROCAL: V_LOOP(V_A, 1.0f / p);
    case REEF_ELT_EXP: V_LOOP(V_A, v_exp(p));
    case REEF_ELT_LOG: V_LOOP(V_A, v_log(p));
    case REEF_ELT_ERF: V_LOOP(V_A, v_erf(p));
    case REEF_ELT_SIN: LOOP(d[i] = sinf(a[i]));
    case REEF_ELT_COS: LOOP(d[i] = cosf(a[i]));
    case REEF_ELT_TANH: V_LOOP(V_A, v_tanh(p));
    case REEF_ELT_FLOOR: V_LOOP(V_A, elt_floor(p));
    case REEF_ELT_CEIL: V_LOOP(V_A, elt_ceil(p));
    case REEF_ELT_ROUND: V_LOOP(V_A, v_round(p));
    case REEF_ELT_SIGMOID: V_LOOP(V_A, v_sigmoid(p));
    case REEF_ELT_SOFTPLUS: V_LOOP(V_A, elt_softplus(p));
    case REEF_ELT_ACT: elt_act(s, a, d, n); break;
    default: break;
    }
}

/*
 * Integers wrap around, division truncates and gives 0 by zero, MOD has the divisor's sign and FMOD the dividend's.
 * T: the type, U: unsigned of the same width, TMIN: the least value (0 for unsigned types).
 */
#define ELT_INTEGER(suffix, T, U, TMIN)                                                                                \
    static inline T elt_div_##suffix(T a, T b)                                                                         \
    {                                                                                                                  \
        return b == 0 ? 0 : (TMIN) != 0 && b == (T)-1 ? (T)(0 - (U)a) : (T)(a / b);                                    \
    }                                                                                                                  \
    static inline T elt_fmod_##suffix(T a, T b)                                                                        \
    {                                                                                                                  \
        return b == 0 || ((TMIN) != 0 && b == (T)-1) ? 0 : (T)(a % b);                                                 \
    }                                                                                                                  \
    static inline T elt_mod_##suffix(T a, T b)                                                                         \
    {                                                                                                                  \
        T r = elt_fmod_##suffix(a, b);                                                                                 \
        return r != 0 && (r < 0) != (b < 0) ? (T)(r + b) : r;                                                          \
    }                                                                                                                  \
    static inline T elt_pow_##suffix(T a, T b)                                                                         \
    {                                                                                                                  \
        if (b < 0) {                                                                                                   \
            return a == 1 ? 1 : (TMIN) != 0 && a == (T)-1 ? (b & 1 ? (T)-1 : 1) : 0;                                   \
        }                                                                                                              \
        uint64_t r = 1, f = (uint64_t)a;                                                                               \
        for (uint64_t e = (uint64_t)b; e; e >>= 1, f *= f) {                                                           \
            r *= e & 1 ? f : 1;                                                                                        \
        }                                                                                                              \
        return (T)r;                                                                                                   \
    }                                                                                                                  \
    static void elt_##suffix(const reef_elt_insn *s, const T *a, const T *b, const T *c, void *dst, int64_t n)         \
    {                                                                                                                  \
        T *d = dst;                                                                                                    \
        uint8_t *flag = dst;                                                                                           \
        switch ((reef_elt_op)s->op) {                                                                                  \
        case REEF_ELT_ADD: LOOP(d[i] = (T)((U)a[i] + (U)b[i]));                                                        \
        case REEF_ELT_SUB: LOOP(d[i] = (T)((U)a[i] - (U)b[i]));                                                        \
        case REEF_ELT_MUL: LOOP(d[i] = (T)((U)a[i] * (U)b[i]));                                                        \
        case REEF_ELT_FMA: LOOP(d[i] = (T)((U)a[i] * (U)b[i] + (U)c[i]));                                              \
        case REEF_ELT_DIV: LOOP(d[i] = elt_div_##suffix(a[i], b[i]));                                                  \
        case REEF_ELT_MOD: LOOP(d[i] = elt_mod_##suffix(a[i], b[i]));                                                  \
        case REEF_ELT_FMOD: LOOP(d[i] = elt_fmod_##suffix(a[i], b[i]));                                                \
        case REEF_ELT_POW: LOOP(d[i] = elt_pow_##suffix(a[i], b[i]));                                                  \
        case REEF_ELT_MIN: LOOP(d[i] = a[i] < b[i] ? a[i] : b[i]);                                                     \
        case REEF_ELT_MAX: LOOP(d[i] = a[i] > b[i] ? a[i] : b[i]);                                                     \
        case REEF_ELT_EQ: LOOP(flag[i] = a[i] == b[i]);                                                                \
        case REEF_ELT_LT: LOOP(flag[i] = a[i] < b[i]);                                                                 \
        case REEF_ELT_LE: LOOP(flag[i] = a[i] <= b[i]);                                                                \
        case REEF_ELT_GT: LOOP(flag[i] = a[i] > b[i]);                                                                 \
        case REEF_ELT_GE: LOOP(flag[i] = a[i] >= b[i]);                                                                \
        case REEF_ELT_AND: LOOP(d[i] = (T)(a[i] & b[i]));                                                              \
        case REEF_ELT_OR: LOOP(d[i] = (T)(a[i] | b[i]));                                                               \
        case REEF_ELT_XOR: LOOP(d[i] = (T)(a[i] ^ b[i]));                                                              \
        case REEF_ELT_NOT: LOOP(d[i] = (T)~a[i]);                                                                      \
        case REEF_ELT_NEG: LOOP(d[i] = (T)(0 - (U)a[i]));                                                              \
        case REEF_ELT_ABS: LOOP(d[i] = a[i] < 0 ? (T)(0 - (U)a[i]) : a[i]);                                            \
        case REEF_ELT_SIGN: LOOP(d[i] = (T)((a[i] > 0) - (a[i] < 0)));                                                 \
        case REEF_ELT_FLOOR:                                                                                           \
        case REEF_ELT_CEIL:                                                                                            \
        case REEF_ELT_ROUND: LOOP(d[i] = a[i]);                                                                        \
        default: break;                                                                                                \
        }                                                                                                              \
    }

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtype-limits" /* comparisons with 0 in the unsigned expansion */
ELT_INTEGER(i64, int64_t, uint64_t, INT64_MIN)
ELT_INTEGER(i32, int32_t, uint32_t, INT32_MIN)
ELT_INTEGER(i8, int8_t, uint32_t, INT8_MIN)
ELT_INTEGER(u8, uint8_t, uint32_t, 0)
#pragma GCC diagnostic pop

/* Any byte but 0 is true; results are 0 or 1. */
static void elt_bool(const reef_elt_insn *s, const uint8_t *a, const uint8_t *b, uint8_t *d, int64_t n)
{
    switch ((reef_elt_op)s->op) {
    case REEF_ELT_MUL:
    case REEF_ELT_MIN:
    case REEF_ELT_AND: LOOP(d[i] = (a[i] != 0) & (b[i] != 0));
    case REEF_ELT_ADD:
    case REEF_ELT_MAX:
    case REEF_ELT_OR: LOOP(d[i] = (a[i] != 0) | (b[i] != 0));
    case REEF_ELT_XOR: LOOP(d[i] = (a[i] != 0) ^ (b[i] != 0));
    case REEF_ELT_EQ: LOOP(d[i] = (a[i] != 0) == (b[i] != 0));
    case REEF_ELT_LT: LOOP(d[i] = (a[i] != 0) < (b[i] != 0));
    case REEF_ELT_LE: LOOP(d[i] = (a[i] != 0) <= (b[i] != 0));
    case REEF_ELT_GT: LOOP(d[i] = (a[i] != 0) > (b[i] != 0));
    case REEF_ELT_GE: LOOP(d[i] = (a[i] != 0) >= (b[i] != 0));
    case REEF_ELT_NOT: LOOP(d[i] = a[i] == 0);
    default: break;
    }
}

static void elt_where(size_t bytes, const uint8_t *a, const void *yes, const void *no, void *dst, int64_t n)
{
    const uint64_t *b8 = yes, *c8 = no;
    const uint32_t *b4 = yes, *c4 = no;
    const uint8_t *b1 = yes, *c1 = no;
    uint64_t *d8 = dst;
    uint32_t *d4 = dst;
    uint8_t *d1 = dst;
    switch (bytes) {
    case 8: LOOP(d8[i] = a[i] ? b8[i] : c8[i]);
    case 4: LOOP(d4[i] = a[i] ? b4[i] : c4[i]);
    default: LOOP(d1[i] = a[i] ? b1[i] : c1[i]);
    }
}

/* From a float: toward zero, held to the range, 0 for NaN. From an integer: the low bits. To bool: x != 0. */
#define SATURATE(name, T, LOW, HIGH, TMIN, TMAX)                                                                       \
    static inline T name(double x)                                                                                     \
    {                                                                                                                  \
        return x != x ? 0 : x <= (LOW) ? (TMIN) : x >= (HIGH) ? (TMAX) : (T)x;                                         \
    }
SATURATE(to_i64, int64_t, -9223372036854775808.0, 9223372036854775808.0, INT64_MIN, INT64_MAX)
SATURATE(to_i32, int32_t, -2147483648.0, 2147483647.0, INT32_MIN, INT32_MAX)
SATURATE(to_i8, int8_t, -128.0, 127.0, INT8_MIN, INT8_MAX)
SATURATE(to_u8, uint8_t, 0.0, 255.0, 0, UINT8_MAX)

#define CAST_TO(F, T, expr)                                                                                            \
    {                                                                                                                  \
        const F *x = a;                                                                                                \
        T *d = dst;                                                                                                    \
        LOOP(d[i] = (expr));                                                                                           \
    }
#define CAST_FROM_INTEGER(F)                                                                                           \
    switch (s->type) {                                                                                                 \
    case REEF_F32: CAST_TO(F, float, (float)x[i])                                                                      \
    case REEF_F64: CAST_TO(F, double, (double)x[i])                                                                    \
    case REEF_I64: CAST_TO(F, int64_t, (int64_t)x[i])                                                                  \
    case REEF_I32: CAST_TO(F, int32_t, (int32_t)x[i])                                                                  \
    case REEF_I8: CAST_TO(F, int8_t, (int8_t)x[i])                                                                     \
    case REEF_U8: CAST_TO(F, uint8_t, (uint8_t)x[i])                                                                   \
    default: CAST_TO(F, uint8_t, x[i] != 0)                                                                            \
    }                                                                                                                  \
    break
#define CAST_FROM_FLOAT(F)                                                                                             \
    switch (s->type) {                                                                                                 \
    case REEF_F32: CAST_TO(F, float, (float)x[i])                                                                      \
    case REEF_F64: CAST_TO(F, double, (double)x[i])                                                                    \
    case REEF_I64: CAST_TO(F, int64_t, to_i64(x[i]))                                                                   \
    case REEF_I32: CAST_TO(F, int32_t, to_i32(x[i]))                                                                   \
    case REEF_I8: CAST_TO(F, int8_t, to_i8(x[i]))                                                                      \
    case REEF_U8: CAST_TO(F, uint8_t, to_u8(x[i]))                                                                     \
    default: CAST_TO(F, uint8_t, x[i] != 0)                                                                            \
    }                                                                                                                  \
    break

static void elt_cast(const reef_elt_insn *s, const void *a, void *dst, int64_t n)
{
    switch (s->from) {
    case REEF_F32: CAST_FROM_FLOAT(float);
    case REEF_F64: CAST_FROM_FLOAT(double);
    case REEF_I64: CAST_FROM_INTEGER(int64_t);
    case REEF_I32: CAST_FROM_INTEGER(int32_t);
    case REEF_I8: CAST_FROM_INTEGER(int8_t);
    case REEF_U8: CAST_FROM_INTEGER(uint8_t);
    default: { /* bool: make it 0 or 1 first */
        const uint8_t *t = a;
        uint8_t one[ELT_BLOCK];
        for (int64_t i = 0; i < n; i++) {
            one[i] = t[i] != 0;
        }
        a = one;
        CAST_FROM_INTEGER(uint8_t);
    }
    }
}

static void elt_const(const reef_elt_insn *s, void *dst, int64_t n)
{
    float *f = dst;
    double *f8 = dst;
    int64_t *i8 = dst;
    int32_t *i4 = dst;
    uint8_t *b = dst;
    switch (s->type) {
    case REEF_F32: LOOP(f[i] = (float)s->imm);
    case REEF_F64: LOOP(f8[i] = s->imm);
    case REEF_I64: LOOP(i8[i] = to_i64(s->imm));
    case REEF_I32: LOOP(i4[i] = to_i32(s->imm));
    case REEF_I8: LOOP(b[i] = (uint8_t)to_i8(s->imm));
    case REEF_U8: LOOP(b[i] = to_u8(s->imm));
    default: LOOP(b[i] = s->imm != 0);
    }
}

static void elt_step(const reef_elt_insn *s, const void *a, const void *b, const void *c, void *d, int64_t n,
                     bool uniform_b)
{
    if (s->op == REEF_ELT_CONST) {
        elt_const(s, d, n);
    } else if (s->op == REEF_ELT_CAST) {
        elt_cast(s, a, d, n);
    } else if (s->op == REEF_ELT_WHERE) {
        elt_where(reef_dtype_bytes(s->type), a, b, c, d, n);
    } else {
        switch (s->type) {
        case REEF_F32: elt_f32(s, a, b, c, d, n, uniform_b); break;
        case REEF_I64: elt_i64(s, a, b, c, d, n); break;
        case REEF_I32: elt_i32(s, a, b, c, d, n); break;
        case REEF_I8: elt_i8(s, a, b, c, d, n); break;
        case REEF_U8: elt_u8(s, a, b, c, d, n); break;
        default: elt_bool(s, a, b, d, n); break;
        }
    }
}

/* ----------------------------------------------------------------- blocks -- */

static inline void elt_spread(char *to, const char *from, int64_t n, int64_t stride, size_t bytes)
{
    if (stride == 1) {
        memcpy(to, from, (size_t)n * bytes);
        return;
    }
    switch (bytes) {
    case 8:
        for (int64_t i = 0; i < n; i++) {
            ((uint64_t *)to)[i] = ((const uint64_t *)from)[i * stride];
        }
        break;
    case 4:
        for (int64_t i = 0; i < n; i++) {
            ((uint32_t *)to)[i] = ((const uint32_t *)from)[i * stride];
        }
        break;
    default:
        for (int64_t i = 0; i < n; i++) {
            to[i] = from[i * stride];
        }
    }
}

/* The next n elements of an input: in place when they are neighbours in memory, else copied to slot. */
static const void *elt_fetch_block(const elt_input *in, const char *from, walk_pos *pos, int64_t n, char *slot)
{
    size_t bytes = reef_dtype_bytes(in->view.dtype);
    int64_t stride = in->w.stride[0][in->w.rank - 1];
    for (int64_t done = 0; done < n;) {
        int64_t row = walk_row(&in->w, pos, n - done);
        const char *at = from + pos->off[0] * (int64_t)bytes;
        walk_advance(&in->w, pos, row);
        if (row == n && stride == 1) {
            return at;
        }
        elt_spread(slot + done * (int64_t)bytes, at, row, stride, bytes);
        done += row;
    }
    return slot;
}

static void elt_store_block(const walk *w, char *y, walk_pos *pos, int64_t n, const char *from, size_t bytes)
{
    int64_t stride = w->stride[0][w->rank - 1];
    for (int64_t done = 0; done < n;) {
        int64_t row = walk_row(w, pos, n - done);
        char *to = y + pos->off[0] * (int64_t)bytes;
        walk_advance(w, pos, row);
        const char *at = from + done * (int64_t)bytes;
        if (stride == 1) {
            memcpy(to, at, (size_t)row * bytes);
        } else {
            for (int64_t i = 0; i < row; i++) {
                memcpy(to + i * stride * (int64_t)bytes, at + i * (int64_t)bytes, bytes);
            }
        }
        done += row;
    }
}

static inline bool elt_resizes(const reef_elt_insn *s)
{
    return s->op == REEF_ELT_CAST || s->op == REEF_ELT_WHERE || (s->op >= REEF_ELT_EQ && s->op <= REEF_ELT_GE);
}

static reef_tile_result elt_block_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const elt_args *k = args;
    char *scratch = ctx->scratch, *y = view_at(&k->y, base);
    const char *from[REEF_ELT_MAX_INPUTS] = {0};
    const void *reg[REEF_ELT_REGS] = {0};
    walk_pos pos[REEF_ELT_MAX_INPUTS], y_pos;
    int64_t at = (int64_t)tile * k->per_tile;
    int64_t end = at + k->per_tile < k->w.total ? at + k->per_tile : k->w.total;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    walk_seek(&k->w, at, &y_pos);
    for (int i = 0; i < k->n_in; i++) {
        const elt_input *in = &k->in[i];
        if (in->fetch == FETCH_UNUSED) {
            continue;
        }
        from[i] = view_at(&in->view, base);
        walk_seek(&in->w, at, &pos[i]);
        if (in->fetch == FETCH_REPEAT) {
            int64_t bytes = (int64_t)reef_dtype_bytes(in->view.dtype), have = in->period, want = have + ELT_BLOCK;
            char *to = scratch + in->repeat_at;
            memcpy(to, from[i], (size_t)(have * bytes));
            for (; have < want; have *= 2) {
                memcpy(to + have * bytes, to, (size_t)((have < want - have ? have : want - have) * bytes));
            }
        }
    }
    for (int i = 0; i < k->n_steps; i++) {
        if (k->once[i]) {
            char *slot = scratch + k->slot[k->steps[i].dst];
            elt_const(&k->steps[i], slot, ELT_BLOCK);
            reg[k->steps[i].dst] = slot;
        }
    }
    bool y_dense = k->w.stride[0][k->w.rank - 1] == 1;
    for (int64_t n; at < end; at += n) {
        n = end - at < ELT_BLOCK ? end - at : ELT_BLOCK;
        for (int i = 0; i < k->n_in; i++) {
            const elt_input *in = &k->in[i];
            if (in->fetch == FETCH_REPEAT) {
                reg[i] = scratch + in->repeat_at + (size_t)(at % in->period) * reef_dtype_bytes(in->view.dtype);
            } else if (from[i]) { /* FETCH_WALK; an unused input has no place */
                reg[i] = elt_fetch_block(in, from[i], &pos[i], n, scratch + k->slot[i]);
            }
        }
        bool stored = false;
        for (int i = 0; i < k->n_steps; i++) {
            const reef_elt_insn *s = &k->steps[i];
            if (k->once[i]) {
                continue;
            }
            char *d = scratch + k->slot[s->dst];
            if (elt_resizes(s) && reg[s->dst] == d) {
                d += ELT_SLOT_BYTES; /* elements change size: not on top of an operand */
            }
            if (i == k->n_steps - 1 && k->result_in_last && y_dense && walk_row(&k->w, &y_pos, n) == n) {
                d = y + y_pos.off[0] * (int64_t)k->y_bytes;
                walk_advance(&k->w, &y_pos, n);
                stored = true;
            }
            elt_step(s, reg[s->a], reg[s->b], reg[s->c], d, n, k->uniform_b[i]);
            reg[s->dst] = d;
        }
        if (!stored) {
            elt_store_block(&k->w, y, &y_pos, n, reg[k->result], k->y_bytes);
        }
    }
    return REEF_TILE_DONE;
}

/* ----------------------------------------------------------------- direct -- */

typedef enum direct_op { DIRECT_COPY, DIRECT_ADD, DIRECT_SUB, DIRECT_MUL, DIRECT_FMA } direct_op;

typedef struct direct_args {
    direct_op op;
    float low, high;    /* the activation: min(max(., low), high) */
    reef_view y, in[3]; /* operands a, b, c */
    bool is_const[3];   /* then value is the operand */
    float value[3];
    walk w; /* y, then the operands */
    int64_t per_tile;
} direct_args;

/* One row. A constant operand points at VL copies of itself and has step 0. */
static inline __attribute__((always_inline)) void direct_row(direct_op op, float *y, const float *a, const float *b,
                                                             const float *c, const int64_t step[3], int64_t n,
                                                             float low, float high)
{
    vf lo = v_set(low), hi = v_set(high);
#define DIRECT_EXPR(p, q, r)                                                                                           \
    v_min(hi, v_max(lo, op == DIRECT_COPY  ? (p)                                                                       \
                        : op == DIRECT_ADD ? (p) + (q)                                                                 \
                        : op == DIRECT_SUB ? (p) - (q)                                                                 \
                        : op == DIRECT_MUL ? (p) * (q)                                                                 \
                                           : (p) * (q) + (r)))
    bool two = op != DIRECT_COPY, three = op == DIRECT_FMA;
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        vf p0 = v_load(a), p1 = v_load(a + step[0]);
        vf q0 = two ? v_load(b) : p0, q1 = two ? v_load(b + step[1]) : p1;
        vf r0 = three ? v_load(c) : p0, r1 = three ? v_load(c + step[2]) : p1;
        v_store(y + i, DIRECT_EXPR(p0, q0, r0));
        v_store(y + i + VL, DIRECT_EXPR(p1, q1, r1));
        a += 2 * step[0];
        b += two ? 2 * step[1] : 0;
        c += three ? 2 * step[2] : 0;
    }
    for (; i < n; i += VL) {
        int64_t m = n - i < VL ? n - i : VL;
        vf p = v_load_n(a, m), q = two ? v_load_n(b, m) : p, r = three ? v_load_n(c, m) : p;
        v_store_n(y + i, DIRECT_EXPR(p, q, r), m);
        a += step[0];
        b += two ? step[1] : 0;
        c += three ? step[2] : 0;
    }
#undef DIRECT_EXPR
}

static reef_tile_result direct_tile(const void *args, char *const *base, uint32_t tile, reef_tile_ctx *ctx)
{
    const direct_args *k = args;
    float *y = (float *)view_at(&k->y, base);
    const float *from[3] = {0};
    float same[3][VL];
    int64_t step[3] = {0};
    int n_ops = k->op == DIRECT_COPY ? 1 : k->op == DIRECT_FMA ? 3 : 2;
    if (reef_tile_abandoned(ctx)) {
        return REEF_TILE_ABANDONED;
    }
    for (int o = 0; o < n_ops; o++) {
        if (k->is_const[o]) {
            v_store(same[o], v_set(k->value[o]));
        } else {
            from[o] = (const float *)view_at(&k->in[o], base);
            step[o] = k->w.stride[1 + o][k->w.rank - 1] * VL; /* 0 or VL */
        }
    }
    int64_t left = k->w.total - (int64_t)tile * k->per_tile;
    left = left < k->per_tile ? left : k->per_tile;
    walk_pos pos;
    walk_seek(&k->w, (int64_t)tile * k->per_tile, &pos);
    while (left > 0) {
        int64_t n = walk_row(&k->w, &pos, left);
        const float *at[3] = {same[0], same[1], same[2]};
        for (int o = 0; o < n_ops; o++) {
            at[o] = same[o];
            if (!k->is_const[o]) {
                at[o] = from[o] + pos.off[1 + o];
                if (step[o] == 0) {
                    v_store(same[o], v_set(*at[o]));
                    at[o] = same[o];
                }
            }
        }
        float *to = y + pos.off[0];
        switch (k->op) {
        case DIRECT_COPY: direct_row(DIRECT_COPY, to, at[0], at[1], at[2], step, n, k->low, k->high); break;
        case DIRECT_ADD: direct_row(DIRECT_ADD, to, at[0], at[1], at[2], step, n, k->low, k->high); break;
        case DIRECT_SUB: direct_row(DIRECT_SUB, to, at[0], at[1], at[2], step, n, k->low, k->high); break;
        case DIRECT_MUL: direct_row(DIRECT_MUL, to, at[0], at[1], at[2], step, n, k->low, k->high); break;
        case DIRECT_FMA: direct_row(DIRECT_FMA, to, at[0], at[1], at[2], step, n, k->low, k->high); break;
        }
        walk_advance(&k->w, &pos, n);
        left -= n;
    }
    return REEF_TILE_DONE;
}

/* ---------------------------------------------------------------- prepare -- */

static int elt_operands(uint8_t op)
{
    switch ((reef_elt_op)op) {
    case REEF_ELT_CONST: return 0;
    case REEF_ELT_WHERE:
    case REEF_ELT_FMA: return 3;
    default: return op >= REEF_ELT_ADD && op <= REEF_ELT_XOR ? 2 : 1;
    }
}

static bool elt_known_type(uint8_t type)
{
    return type == REEF_F32 || type == REEF_F64 || type == REEF_I64 || type == REEF_I32 || type == REEF_I8 ||
           type == REEF_U8 || type == REEF_BOOL;
}

/* Is the instruction one that elt_step computes? */
static bool elt_supported(const reef_elt_insn *s)
{
    if (s->op >= REEF_ELT_OPS || !elt_known_type(s->type)) {
        return false;
    }
    switch ((reef_elt_op)s->op) {
    case REEF_ELT_CONST:
    case REEF_ELT_WHERE: return true;
    case REEF_ELT_CAST: return elt_known_type(s->from);
    case REEF_ELT_AND:
    case REEF_ELT_OR:
    case REEF_ELT_XOR:
    case REEF_ELT_NOT: return s->type != REEF_F32 && s->type != REEF_F64;
    case REEF_ELT_EQ:
    case REEF_ELT_LT:
    case REEF_ELT_LE:
    case REEF_ELT_GT:
    case REEF_ELT_GE:
    case REEF_ELT_ADD:
    case REEF_ELT_MUL:
    case REEF_ELT_MIN:
    case REEF_ELT_MAX: return s->type != REEF_F64;
    case REEF_ELT_SUB:
    case REEF_ELT_DIV:
    case REEF_ELT_MOD:
    case REEF_ELT_FMOD:
    case REEF_ELT_POW:
    case REEF_ELT_FMA:
    case REEF_ELT_NEG:
    case REEF_ELT_ABS:
    case REEF_ELT_SIGN:
    case REEF_ELT_FLOOR:
    case REEF_ELT_CEIL:
    case REEF_ELT_ROUND: return s->type != REEF_F64 && s->type != REEF_BOOL;
    case REEF_ELT_ACT: return s->type == REEF_F32 && s->b <= REEF_ACT_GELU_TANH;
    default: return s->type == REEF_F32;
    }
}

static double elt_cost_ns(const reef_elt_insn *s)
{
    switch ((reef_elt_op)s->op) {
    case REEF_ELT_SIN:
    case REEF_ELT_COS:
    case REEF_ELT_POW: return 12;
    case REEF_ELT_MOD:
    case REEF_ELT_FMOD: return 20;
    case REEF_ELT_DIV: return s->type == REEF_F32 ? 0.4 : 8;
    case REEF_ELT_EXP:
    case REEF_ELT_LOG:
    case REEF_ELT_ERF:
    case REEF_ELT_TANH:
    case REEF_ELT_SIGMOID: return 12.0 / VL;
    case REEF_ELT_SOFTPLUS: return 24.0 / VL;
    case REEF_ELT_ACT: return s->b == REEF_ACT_RELU || s->b == REEF_ACT_CLIP ? 0.1 : 12.0 / VL;
    case REEF_ELT_CAST: return s->from == REEF_F32 || s->from == REEF_F64 ? 2 : 0.5;
    default: return 0.1;
    }
}

/* An input's stride along y's dimension i: size 1 repeats. */
static int64_t elt_stride(const reef_view *in, const reef_view *y, int i)
{
    return in->dims[i] == 1 && y->dims[i] != 1 ? 0 : in->stride[i];
}

static reef_status elt_check(const reef_kernel *k, reef_cpu_prepare *prepare)
{
    const reef_eltwise *e = &k->eltwise;
    uint8_t type[REEF_ELT_REGS] = {0};
    for (int i = 0; i < k->n_in; i++) {
        type[i] = (uint8_t)k->in[i].dtype;
        bool fits = k->in[i].rank == k->y.rank && elt_known_type(type[i]);
        for (int d = 0; fits && d < k->y.rank; d++) {
            fits = k->in[i].dims[d] == k->y.dims[d] || k->in[i].dims[d] == 1;
        }
        if (!fits) {
            return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: operand %d of an element program", k->name, i);
        }
    }
    for (int i = 0; i < e->n_insns; i++) {
        const reef_elt_insn *s = &e->insns[i];
        uint8_t operand[3] = {s->a, s->b, s->c};
        int n = elt_operands(s->op);
        bool ok = elt_supported(s) && s->dst < REEF_ELT_REGS;
        for (int o = 0; ok && o < n; o++) {
            uint8_t want = s->op == REEF_ELT_CAST              ? s->from
                           : s->op == REEF_ELT_WHERE && o == 0 ? (uint8_t)REEF_BOOL
                                                               : s->type;
            ok = operand[o] < REEF_ELT_REGS && type[operand[o]] == want;
        }
        if (!ok) {
            return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: instruction %d of an element program", k->name, i);
        }
        type[s->dst] = s->op >= REEF_ELT_EQ && s->op <= REEF_ELT_GE ? (uint8_t)REEF_BOOL : s->type;
    }
    if (e->result >= REEF_ELT_REGS || type[e->result] != k->y.dtype) {
        return reef_fail(prepare->error, REEF_UNSUPPORTED, "%s: result type of an element program", k->name);
    }
    return REEF_OK;
}

/* Recognises the direct form: constants, one operation, at most one ReLU or Clip. False: use blocks. */
static bool direct_match(const reef_kernel *k, direct_args *d)
{
    const reef_eltwise *e = &k->eltwise;
    bool known[REEF_ELT_REGS] = {0}, have_op = false, have_act = false;
    float value[REEF_ELT_REGS] = {0};
    uint8_t from[3] = {0}, out = 0;
    *d = (direct_args){.op = DIRECT_COPY, .low = -INFINITY, .high = INFINITY, .y = k->y};
    for (int i = 0; i < e->n_insns; i++) {
        const reef_elt_insn *s = &e->insns[i];
        bool act = s->op == REEF_ELT_ACT && (s->b == REEF_ACT_RELU || s->b == REEF_ACT_CLIP);
        if (s->type != REEF_F32 || (s->op == REEF_ELT_CONST && (s->dst < k->n_in || have_op || have_act))) {
            return false;
        }
        if (s->op == REEF_ELT_CONST) {
            known[s->dst] = true;
            value[s->dst] = (float)s->imm;
            continue;
        }
        if (act) {
            if (have_act || (have_op && s->a != out)) {
                return false;
            }
            d->low = s->b == REEF_ACT_RELU ? 0.0f : (float)s->imm;
            d->high = s->b == REEF_ACT_RELU ? INFINITY : (float)s->imm2;
            if (!have_op) {
                from[0] = s->a;
            }
            have_act = have_op = true;
            out = s->dst;
            continue;
        }
        if (have_op) {
            return false;
        }
        switch ((reef_elt_op)s->op) {
        case REEF_ELT_ADD: d->op = DIRECT_ADD; break;
        case REEF_ELT_SUB: d->op = DIRECT_SUB; break;
        case REEF_ELT_MUL: d->op = DIRECT_MUL; break;
        case REEF_ELT_FMA: d->op = DIRECT_FMA; break;
        default: return false;
        }
        from[0] = s->a;
        from[1] = s->b;
        from[2] = s->c;
        have_op = true;
        out = s->dst;
    }
    if (!have_op || out != e->result) {
        return false;
    }
    const int64_t *strides[4] = {k->y.stride};
    int64_t in_stride[3][REEF_MAX_RANK];
    int n_ops = d->op == DIRECT_COPY ? 1 : d->op == DIRECT_FMA ? 3 : 2;
    for (int o = 0; o < 3; o++) {
        int r = o < n_ops ? from[o] : from[0];
        d->is_const[o] = known[r];
        d->value[o] = value[r];
        d->in[o] = k->in[known[r] ? 0 : r];
        for (int i = 0; i < k->y.rank; i++) {
            in_stride[o][i] = known[r] ? 0 : elt_stride(&k->in[r], &k->y, i);
        }
        strides[1 + o] = in_stride[o];
    }
    walk_make(&d->w, 1 + n_ops, k->y.rank, k->y.dims, strides, true);
    int last = d->w.rank - 1;
    bool dense = d->w.stride[0][last] == 1 && (d->w.dims[last] >= 2 * VL || last == 0);
    for (int o = 0; o < n_ops; o++) {
        int64_t s = d->w.stride[1 + o][last];
        /* A single element has no stride of its own; walk_make calls it 1, which a constant must not have. */
        dense = dense && (s == 1 || s == 0) && !(d->is_const[o] && s != 0);
    }
    return dense;
}

static reef_status elt_prepare_blocks(const reef_kernel *k, reef_cpu_prepare *prepare, reef_cpu_kernel *out)
{
    const reef_eltwise *e = &k->eltwise;
    elt_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    a->n_in = k->n_in;
    a->n_steps = e->n_insns;
    a->result = e->result;
    a->result_in_last = e->n_insns > 0 && e->insns[e->n_insns - 1].dst == e->result;
    a->y = k->y;
    a->y_bytes = reef_dtype_bytes(k->y.dtype);
    bool used[REEF_ELT_REGS] = {0}, uniform[REEF_ELT_REGS] = {0};
    int writes[REEF_ELT_REGS] = {0};
    used[e->result] = true;
    double ns = BYTE_NS * (double)a->y_bytes;
    for (int i = 0; i < e->n_insns; i++) {
        const reef_elt_insn *s = &e->insns[i];
        uint8_t operand[3] = {s->a, s->b, s->c};
        int n = elt_operands(s->op);
        for (int o = 0; o < n; o++) {
            used[operand[o]] = true;
        }
        /* Operands that it does not have name a valid register. */
        a->steps[i] = *s;
        a->steps[i].a = n < 1 ? s->dst : s->a;
        a->steps[i].b = n < 2 && s->op != REEF_ELT_ACT ? s->dst : s->b;
        a->steps[i].c = n < 3 ? s->dst : s->c;
        writes[s->dst]++;
        ns += elt_cost_ns(s);
    }
    const int64_t *y_stride = k->y.stride;
    walk_make(&a->w, 1, k->y.rank, k->y.dims, &y_stride, true);
    size_t scratch = 0;
    for (int i = 0; i < k->n_in; i++) {
        elt_input *in = &a->in[i];
        size_t bytes = reef_dtype_bytes(k->in[i].dtype);
        in->view = k->in[i];
        if (!used[i]) {
            continue;
        }
        ns += BYTE_NS * (double)bytes;
        /* y's order of dimensions, but merged wherever this input alone allows it. */
        int64_t own[REEF_MAX_RANK];
        const int64_t *both[2] = {y_stride, own}, *only[1];
        for (int d = 0; d < k->y.rank; d++) {
            own[d] = elt_stride(&k->in[i], &k->y, d);
        }
        walk joint;
        walk_make(&joint, 2, k->y.rank, k->y.dims, both, true);
        only[0] = joint.stride[1];
        walk_make(&in->w, 1, joint.rank, joint.dims, only, false);
        const walk *w = &in->w;
        int last = w->rank - 1;
        bool same = last == 0 && w->stride[0][0] == 0;
        bool rows = last == 1 && w->stride[0][0] == 0 && w->stride[0][1] == 1 && w->dims[1] <= ELT_PERIOD;
        in->fetch = same || rows ? FETCH_REPEAT : FETCH_WALK;
        uniform[i] = same && writes[i] == 0;
        if (in->fetch == FETCH_REPEAT) {
            in->period = same ? 1 : w->dims[1];
            in->repeat_at = scratch;
            scratch += ((size_t)(in->period + ELT_BLOCK) * bytes + 63) / 64 * 64;
        }
    }
    for (int r = 0; r < REEF_ELT_REGS; r++) {
        a->slot[r] = -1;
        if (writes[r] > 0 || (r < k->n_in && used[r])) {
            a->slot[r] = (int32_t)scratch;
            scratch += 2 * ELT_SLOT_BYTES;
        }
    }
    for (int i = 0; i < e->n_insns; i++) {
        uint8_t dst = e->insns[i].dst;
        bool last = i == e->n_insns - 1 && dst == e->result;
        a->once[i] = e->insns[i].op == REEF_ELT_CONST && writes[dst] == 1 && dst >= k->n_in && !last;
        uniform[dst] = uniform[dst] || a->once[i];
        a->uniform_b[i] = elt_operands(e->insns[i].op) > 1 && uniform[e->insns[i].b];
    }
    int64_t items = (a->w.total + ELT_BLOCK - 1) / ELT_BLOCK;
    int64_t per = tile_items(prepare->units, items, ns * ELT_BLOCK);
    a->per_tile = per * ELT_BLOCK;
    kernel_fill(out, elt_block_tile, a, items, per, ELT_BLOCK * (e->n_insns + 1.0), "blocks " REEF_ISA_NAME);
    out->scratch_bytes = scratch;
    return REEF_OK;
}

REEF_ISA_PREPARE(eltwise)
{
    reef_status status = elt_check(k, prepare);
    direct_args direct;
    if (status != REEF_OK || !direct_match(k, &direct)) {
        return status != REEF_OK ? status : elt_prepare_blocks(k, prepare, out);
    }
    direct_args *a = reef_arena_alloc(prepare->arena, sizeof *a);
    if (!a) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "%s: out of memory", k->name);
    }
    *a = direct;
    enum { GRAIN = 1024 };
    int64_t items = (a->w.total + GRAIN - 1) / GRAIN;
    int64_t per = tile_items(prepare->units, items, GRAIN * 12 * BYTE_NS);
    a->per_tile = per * GRAIN;
    kernel_fill(out, direct_tile, a, items, per, GRAIN * 2.0, "direct " REEF_ISA_NAME);
    return REEF_OK;
}
