/*
 * eltwise.cu - a small program per element. Three kernels:
 *   - short: one of a, a + b, a - b, a * b, a * b + c in f32, then an activation. Batch normalisation with ReLU,
 *     residual sums, gates and conversions are this; it moves vectors and does nothing else.
 *   - f32: any program of f32 and bool. Registers are floats, a vector each, in thread-local memory that stays in L1.
 *   - wide: everything else, one element a thread, registers of 64 bits.
 *
 * Invariant: a thread reads its elements of every input before it stores them. So y may be the same view as an input.
 */
#define REEF_PAD_STATICS 16
#define REEF_PAD_ARGS 1632
#include "device/cuda/kernels/walk.cuh"

/* ------------------------------------------------------------------ short -- */

template <int V>
static __device__ __forceinline__ void short_load(const reef_cuda_short_args &a, int i, int64_t at, float (&v)[V])
{
    if (V > 1 && a.splat[i]) {
        const float one = reef_load_elem(a.in[i], at, a.type[i]);
#pragma unroll
        for (int j = 0; j < V; j++) {
            v[j] = one;
        }
    } else {
        load_vector<V>(a.in[i], at, a.type[i], v);
    }
}

template <int V>
struct short_kernel {
    using args = reef_cuda_short_args;
    static constexpr int threads = 256;

    static __device__ __forceinline__ void others(const args &a, const int64_t (&off)[4], float (&p)[V], float (&q)[V])
    {
        if (a.op >= REEF_CUDA_SHORT_ADD) {
            short_load<V>(a, 1, off[2], p);
        }
        if (a.op == REEF_CUDA_SHORT_FMA) {
            short_load<V>(a, 2, off[3], q);
        }
    }

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_TURN(abandon);
        WALK_ITEMS(a, index, item)
        {
            int64_t off[4];
            walk_at<4>(a.walk, item, off);
            float x[V], p[V], q[V];
            if (a.early) {
                others(a, off, p, q);
            }
            abandon.wait();
            short_load<V>(a, 0, off[1], x);
            if (!a.early) {
                others(a, off, p, q);
            }
#pragma unroll
            for (int i = 0; i < V; i++) {
                switch (a.op) {
                case REEF_CUDA_SHORT_ADD: x[i] += p[i]; break;
                case REEF_CUDA_SHORT_SUB: x[i] -= p[i]; break;
                case REEF_CUDA_SHORT_MUL: x[i] *= p[i]; break;
                case REEF_CUDA_SHORT_FMA: x[i] = fmaf(x[i], p[i], q[i]); break;
                default: break;
                }
            }
            if (a.act == REEF_DACT_RELU) {
#pragma unroll
                for (int i = 0; i < V; i++) {
                    x[i] = x[i] < 0 ? 0.0f : x[i];
                }
            } else if (a.act != REEF_DACT_NONE) {
#pragma unroll 1
                for (int i = 0; i < V; i++) {
                    x[0] = elt_act(x[0], a.act, a.act_a, a.act_b);
                    if constexpr (V > 1) { /* around once: constant indices keep x in registers */
                        const float first = x[0];
#pragma unroll
                        for (int j = 0; j < V - 1; j++) {
                            x[j] = x[j + 1];
                        }
                        x[V - 1] = first;
                    }
                }
            }
            store_vector<V>(a.y, off[0], a.y_type, x);
        }
        abandon.wait();
        return true;
    }
};

/* -------------------------------------------------------------------- f32 -- */

static __device__ __forceinline__ float elt_mod(float a, float b)
{
    const float r = fmodf(a, b);
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static __device__ __noinline__ float elt_unary(int op, float x)
{
    switch (op) {
    case REEF_CUDA_ELT_ABS: return fabsf(x);
    case REEF_CUDA_ELT_SIGN: return x > 0 ? 1.0f : x < 0 ? -1.0f : x;
    case REEF_CUDA_ELT_SQRT: return sqrtf(x);
    case REEF_CUDA_ELT_RECIPROCAL: return 1.0f / x;
    case REEF_CUDA_ELT_EXP: return expf(x);
    case REEF_CUDA_ELT_LOG: return logf(x);
    case REEF_CUDA_ELT_ERF: return erff(x);
    case REEF_CUDA_ELT_SIN: return sinf(x);
    case REEF_CUDA_ELT_COS: return cosf(x);
    case REEF_CUDA_ELT_TANH: return tanhf(x);
    case REEF_CUDA_ELT_FLOOR: return floorf(x);
    case REEF_CUDA_ELT_CEIL: return ceilf(x);
    case REEF_CUDA_ELT_ROUND: return rintf(x);
    case REEF_CUDA_ELT_SIGMOID: return 1.0f / (1.0f + expf(-x));
    case REEF_CUDA_ELT_SOFTPLUS: return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))) + (x != x ? x : 0.0f);
    default: return -x;
    }
}
static __device__ __noinline__ float elt_act_call(float x, int act, float a, float b)
{
    return elt_act(x, act, a, b);
}
static __device__ __noinline__ float elt_rare(int op, float a, float b)
{
    return op == REEF_CUDA_ELT_POW ? powf(a, b) : op == REEF_CUDA_ELT_MOD ? elt_mod(a, b) : fmodf(a, b);
}

#define EACH(expr)                                                                                                     \
    {                                                                                                                  \
        _Pragma("unroll") for (int i = 0; i < V; i++)                                                                  \
        {                                                                                                              \
            const float p = a[i], q = b[i], r = c[i];                                                                  \
            (void)p, (void)q, (void)r;                                                                                 \
            d[i] = (expr);                                                                                             \
        }                                                                                                              \
    }                                                                                                                  \
    break

/* bool values are 0 and 1; f32 values are true in AND, OR, ... when they are not 0. */
template <int V>
static __device__ __forceinline__ void elt_f32(const reef_cuda_elt_insn &s, const float (&a)[V], const float (&b)[V],
                                               const float (&c)[V], float (&d)[V])
{
    switch (s.op) {
    case REEF_CUDA_ELT_CONST: {
        const float imm = s.type == REEF_CUDA_DTYPE_BOOL ? (float)(s.imm != 0) : (float)s.imm;
        EACH(imm);
    }
    case REEF_CUDA_ELT_CAST:
        if (s.type == REEF_CUDA_DTYPE_BOOL) {
            EACH(p != 0 ? 1.0f : 0.0f);
        }
        EACH(p);
    case REEF_CUDA_ELT_ADD:
        if (s.type == REEF_CUDA_DTYPE_BOOL) {
            EACH(p != 0 || q != 0 ? 1.0f : 0.0f);
        }
        EACH(p + q);
    case REEF_CUDA_ELT_SUB: EACH(p - q);
    case REEF_CUDA_ELT_MUL: EACH(p * q);
    case REEF_CUDA_ELT_DIV: EACH(p / q);
    case REEF_CUDA_ELT_MIN: EACH(p < q || p != p ? p : q);
    case REEF_CUDA_ELT_MAX: EACH(p > q || p != p ? p : q);
    case REEF_CUDA_ELT_EQ: EACH(p == q ? 1.0f : 0.0f);
    case REEF_CUDA_ELT_LT: EACH(p < q ? 1.0f : 0.0f);
    case REEF_CUDA_ELT_LE: EACH(p <= q ? 1.0f : 0.0f);
    case REEF_CUDA_ELT_GT: EACH(p > q ? 1.0f : 0.0f);
    case REEF_CUDA_ELT_GE: EACH(p >= q ? 1.0f : 0.0f);
    case REEF_CUDA_ELT_AND: EACH(p != 0 && q != 0 ? 1.0f : 0.0f);
    case REEF_CUDA_ELT_OR: EACH(p != 0 || q != 0 ? 1.0f : 0.0f);
    case REEF_CUDA_ELT_XOR: EACH((p != 0) != (q != 0) ? 1.0f : 0.0f);
    case REEF_CUDA_ELT_NOT: EACH(p == 0 ? 1.0f : 0.0f);
    case REEF_CUDA_ELT_WHERE: EACH(p != 0 ? q : r);
    case REEF_CUDA_ELT_FMA: EACH(fmaf(p, q, r));
    case REEF_CUDA_ELT_NEG: EACH(-p);
    case REEF_CUDA_ELT_ACT:
        if (s.b == REEF_DACT_RELU) {
            EACH(p < 0 ? 0.0f : p);
        }
#pragma unroll 1
        for (int i = 0; i < V; i++) {
            d[i] = elt_act_call(a[i], s.b, (float)s.imm, (float)s.imm2);
        }
        break;
    case REEF_CUDA_ELT_POW: /* the exponents that models have are exact and cheap */
        if (b[0] == 2.0f || b[0] == 0.5f || b[0] == 3.0f) {
            bool same = true;
#pragma unroll
            for (int i = 1; i < V; i++) {
                same = same && b[i] == b[0];
            }
            if (same && b[0] == 2.0f) {
                EACH(p * p);
            }
            if (same && b[0] == 3.0f) {
                EACH(p * p * p);
            }
        } /* fall through */
    case REEF_CUDA_ELT_MOD:
    case REEF_CUDA_ELT_FMOD:
#pragma unroll 1
        for (int i = 0; i < V; i++) {
            d[i] = elt_rare(s.op, a[i], b[i]);
        }
        break;
    default:
#pragma unroll 1
        for (int i = 0; i < V; i++) {
            d[i] = elt_unary(s.op, a[i]);
        }
        break;
    }
}

template <int V>
struct elt_kernel {
    using args = reef_cuda_elt_args;
    static constexpr int threads = 256;

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_TURN(abandon);
        WALK_ITEMS(a, index, item)
        {
            int64_t off[9];
            walk_at<9>(a.walk, item, off);
            abandon.wait();
            float reg[16][V];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (i >= a.n_in) {
                    break;
                }
                if (a.type[i] <= REEF_ELEM_F16 && !a.splat[i]) {
                    load_vector<V>(a.in[i], off[1 + i], a.type[i], reg[i]);
                } else {
#pragma unroll
                    for (int j = 0; j < V; j++) {
                        const int64_t at = off[1 + i] + (a.splat[i] ? 0 : j);
                        reg[i][j] = a.type[i] <= REEF_ELEM_F16       ? reef_load_elem(a.in[i], at, a.type[i])
                                    : ((const uint8_t *)a.in[i])[at] ? 1.0f
                                                                     : 0.0f;
                    }
                }
            }
            for (int i = 0; i < a.n_insns; i++) {
                const reef_cuda_elt_insn &s = a.insns[i];
                float d[V];
                elt_f32<V>(s, reg[s.a & 15], reg[s.b & 15], reg[s.c & 15], d);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    reg[s.dst & 15][j] = d[j];
                }
            }
            if (a.y_type <= REEF_ELEM_F16) {
                store_vector<V>(a.y, off[0], a.y_type, reg[a.result]);
            } else {
#pragma unroll
                for (int j = 0; j < V; j++) {
                    ((uint8_t *)a.y)[off[0] + j] = reg[a.result][j] != 0;
                }
            }
        }
        abandon.wait();
        return true;
    }
};

/* ------------------------------------------------------------------- wide -- */
/*
 * A register of 64 bits holds an integer sign-extended (u8 and bool zero-extended), an f32 in its low half, or an f64.
 * Integers wrap around, division truncates and gives 0 by zero, MOD has the divisor's sign and FMOD the dividend's.
 */
static __device__ __forceinline__ float as_f32(uint64_t r)
{
    return __uint_as_float((uint32_t)r);
}
static __device__ __forceinline__ uint64_t of_f32(float v)
{
    return __float_as_uint(v);
}
static __device__ int64_t wrapped(int64_t v, int dtype)
{
    switch (dtype) {
    case REEF_CUDA_DTYPE_I32: return (int32_t)v;
    case REEF_CUDA_DTYPE_I8: return (int8_t)v;
    case REEF_CUDA_DTYPE_U8: return (uint8_t)v;
    case REEF_CUDA_DTYPE_BOOL: return v != 0;
    default: return v;
    }
}
/* Toward zero, held to the range, 0 for NaN. */
static __device__ int64_t saturated(double v, int dtype)
{
    if (v != v) {
        return 0;
    }
    const double low = dtype == REEF_CUDA_DTYPE_U8    ? 0.0
                       : dtype == REEF_CUDA_DTYPE_I8  ? -128.0
                       : dtype == REEF_CUDA_DTYPE_I32 ? -2147483648.0
                                                      : -9223372036854775808.0;
    const double high = dtype == REEF_CUDA_DTYPE_U8    ? 255.0
                        : dtype == REEF_CUDA_DTYPE_I8  ? 127.0
                        : dtype == REEF_CUDA_DTYPE_I32 ? 2147483647.0
                                                       : 9223372036854775808.0;
    if (dtype == REEF_CUDA_DTYPE_BOOL) {
        return v != 0;
    }
    if (dtype == REEF_CUDA_DTYPE_I64 && v >= high) {
        return INT64_MAX;
    }
    return v <= low ? (int64_t)low : v >= high ? (int64_t)high : (int64_t)v;
}
static __device__ uint64_t elt_cast(uint64_t v, int from, int to)
{
    const bool real = from == REEF_CUDA_DTYPE_F32 || from == REEF_CUDA_DTYPE_F64;
    const double f = from == REEF_CUDA_DTYPE_F32 ? (double)as_f32(v) : __longlong_as_double((long long)v);
    if (to == REEF_CUDA_DTYPE_F32) {
        return of_f32(real ? (float)f : (float)(int64_t)v);
    }
    if (to == REEF_CUDA_DTYPE_F64) {
        return (uint64_t)__double_as_longlong(real ? f : (double)(int64_t)v);
    }
    return (uint64_t)(real ? saturated(f, to) : wrapped((int64_t)v, to));
}
static __device__ int64_t elt_pow(int64_t a, int64_t b)
{
    if (b < 0) {
        return a == 1 ? 1 : a == -1 ? (b & 1 ? -1 : 1) : 0;
    }
    uint64_t r = 1, f = (uint64_t)a;
    for (uint64_t e = (uint64_t)b; e; e >>= 1, f *= f) {
        r *= e & 1 ? f : 1;
    }
    return (int64_t)r;
}
static __device__ int64_t elt_integer(const reef_cuda_elt_insn &s, int64_t a, int64_t b, int64_t c)
{
    const bool none = b == 0 || b == -1; /* would trap or overflow */
    switch (s.op) {
    case REEF_CUDA_ELT_ADD: return (int64_t)((uint64_t)a + (uint64_t)b);
    case REEF_CUDA_ELT_SUB: return (int64_t)((uint64_t)a - (uint64_t)b);
    case REEF_CUDA_ELT_MUL: return (int64_t)((uint64_t)a * (uint64_t)b);
    case REEF_CUDA_ELT_FMA: return (int64_t)((uint64_t)a * (uint64_t)b + (uint64_t)c);
    case REEF_CUDA_ELT_DIV: return b == 0 ? 0 : b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
    case REEF_CUDA_ELT_FMOD: return none ? 0 : a % b;
    case REEF_CUDA_ELT_MOD: {
        const int64_t r = none ? 0 : a % b;
        return r != 0 && (r < 0) != (b < 0) ? r + b : r;
    }
    case REEF_CUDA_ELT_POW: return elt_pow(a, b);
    case REEF_CUDA_ELT_MIN: return a < b ? a : b;
    case REEF_CUDA_ELT_MAX: return a > b ? a : b;
    case REEF_CUDA_ELT_AND: return a & b;
    case REEF_CUDA_ELT_OR: return a | b;
    case REEF_CUDA_ELT_XOR: return a ^ b;
    case REEF_CUDA_ELT_NOT: return s.type == REEF_CUDA_DTYPE_BOOL ? a == 0 : ~a;
    case REEF_CUDA_ELT_NEG: return (int64_t)(0 - (uint64_t)a);
    case REEF_CUDA_ELT_ABS: return a < 0 ? (int64_t)(0 - (uint64_t)a) : a;
    case REEF_CUDA_ELT_SIGN: return (a > 0) - (a < 0);
    default: return a; /* FLOOR, CEIL, ROUND */
    }
}
static __device__ uint64_t elt_wide(const reef_cuda_elt_insn &s, uint64_t a, uint64_t b, uint64_t c)
{
    const bool f32 = s.type == REEF_CUDA_DTYPE_F32;
    switch (s.op) {
    case REEF_CUDA_ELT_CONST:
        return f32                             ? of_f32((float)s.imm)
               : s.type == REEF_CUDA_DTYPE_F64 ? (uint64_t)__double_as_longlong(s.imm)
                                               : (uint64_t)saturated(s.imm, s.type);
    case REEF_CUDA_ELT_CAST: return elt_cast(a, s.from, s.type);
    case REEF_CUDA_ELT_WHERE: return a != 0 ? b : c;
    case REEF_CUDA_ELT_EQ: return f32 ? as_f32(a) == as_f32(b) : a == b;
    case REEF_CUDA_ELT_LT: return f32 ? as_f32(a) < as_f32(b) : (int64_t)a < (int64_t)b;
    case REEF_CUDA_ELT_LE: return f32 ? as_f32(a) <= as_f32(b) : (int64_t)a <= (int64_t)b;
    case REEF_CUDA_ELT_GT: return f32 ? as_f32(a) > as_f32(b) : (int64_t)a > (int64_t)b;
    case REEF_CUDA_ELT_GE: return f32 ? as_f32(a) >= as_f32(b) : (int64_t)a >= (int64_t)b;
    default: break;
    }
    if (f32) {
        const float p[1] = {as_f32(a)}, q[1] = {as_f32(b)}, r[1] = {as_f32(c)};
        float d[1];
        elt_f32<1>(s, p, q, r, d);
        return of_f32(d[0]);
    }
    return (uint64_t)wrapped(elt_integer(s, (int64_t)a, (int64_t)b, (int64_t)c), s.type);
}

struct elt_wide_kernel {
    using args = reef_cuda_elt_args;
    static constexpr int threads = 256;

    static __device__ uint64_t load(const args &a, int i, int64_t at)
    {
        switch (a.dtype[i]) {
        case REEF_CUDA_DTYPE_F32: return of_f32(reef_load_elem(a.in[i], at, a.type[i]));
        case REEF_CUDA_DTYPE_I32: return (uint64_t)(int64_t)((const int32_t *)a.in[i])[at];
        case REEF_CUDA_DTYPE_I8: return (uint64_t)(int64_t)((const int8_t *)a.in[i])[at];
        case REEF_CUDA_DTYPE_U8: return ((const uint8_t *)a.in[i])[at];
        case REEF_CUDA_DTYPE_BOOL: return ((const uint8_t *)a.in[i])[at] != 0;
        default: return ((const uint64_t *)a.in[i])[at];
        }
    }

    template <class Abandon>
    static __device__ bool tile(const args &a, uint32_t index, char *, Abandon &abandon)
    {
        REEF_TURN(abandon);
        WALK_ITEMS(a, index, item)
        {
            int64_t off[9];
            walk_at<9>(a.walk, item, off);
            abandon.wait();
            uint64_t reg[16];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (i < a.n_in) {
                    reg[i] = load(a, i, off[1 + i]);
                }
            }
            for (int i = 0; i < a.n_insns; i++) {
                const reef_cuda_elt_insn &s = a.insns[i];
                reg[s.dst & 15] = elt_wide(s, reg[s.a & 15], reg[s.b & 15], reg[s.c & 15]);
            }
            const uint64_t v = reg[a.result];
            switch (a.y_dtype) {
            case REEF_CUDA_DTYPE_F32: reef_store_elem(a.y, off[0], a.y_type, as_f32(v)); break;
            case REEF_CUDA_DTYPE_I32: ((int32_t *)a.y)[off[0]] = (int32_t)v; break;
            case REEF_CUDA_DTYPE_I8:
            case REEF_CUDA_DTYPE_U8: ((uint8_t *)a.y)[off[0]] = (uint8_t)v; break;
            case REEF_CUDA_DTYPE_BOOL: ((uint8_t *)a.y)[off[0]] = v != 0; break;
            default: ((uint64_t *)a.y)[off[0]] = v; break;
            }
        }
        abandon.wait();
        return true;
    }
};

REEF_KERNEL(reef_short_v8, short_kernel<8>)
REEF_KERNEL(reef_short_v4, short_kernel<4>)
REEF_KERNEL(reef_short_v1, short_kernel<1>)
REEF_KERNEL(reef_elt_f32_v4, elt_kernel<4>)
REEF_KERNEL(reef_elt_f32_v1, elt_kernel<1>)
REEF_KERNEL(reef_elt_wide, elt_wide_kernel)
