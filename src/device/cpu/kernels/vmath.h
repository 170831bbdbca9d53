/*
 * vmath.h - arithmetic on vectors of VL floats: what tiles need beyond + - * /.
 *
 * Every function here works lane by lane, calls nothing, and gives the same bits for an element whatever its lane, so
 * tiles may cut their work anywhere. Accuracy is about 1e-7 relative to the result (2 ulp) unless stated; tests/unit/test_cpu_vmath.c
 * holds them to 1e-6. NaN in gives NaN out; infinities give the limits. Polynomials are weighted minimax fits.
 *
 * min, max, square root and rounding are single instructions on x86 that GCC's vector extensions cannot name; this is
 * the only file that uses intrinsics, and each has a portable form beside it.
 */
#ifndef REEF_DEVICE_CPU_KERNELS_VMATH_H
#define REEF_DEVICE_CPU_KERNELS_VMATH_H

#include "device/cpu/kernels/isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static inline vi v_iset(int32_t x)
{
    return x - (vi){0};
}
static inline vi v_bits(vf x)
{
    return (vi)x;
}

/* m: all ones or all zeros per lane, as comparisons give. */
static inline vf v_select(vi m, vf yes, vf no)
{
    return (vf)((m & (vi)yes) | (~m & (vi)no));
}

/* Only a NaN differs from itself. */
static inline vi v_is_nan(vf x)
{
    vf self = x;
    return x != self;
}

/* a > b ? a : b, so the second operand comes back when either is NaN. */
static inline vf v_max(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    return v_select(a > b, a, b);
#endif
}
/* a < b ? a : b */
static inline vf v_min(vf a, vf b)
{
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
    return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
    return v_select(a < b, a, b);
#endif
}
static inline vf v_abs(vf x)
{
    return (vf)((vi)x & v_iset(0x7fffffff));
}
/* The magnitude of x with the sign of s. */
static inline vf v_copysign(vf x, vf s)
{
    return (vf)(((vi)x & v_iset(0x7fffffff)) | ((vi)s & v_iset((int32_t)0x80000000u)));
}
static inline vf v_sqrt(vf x)
{
#if defined(__AVX512F__)
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__x86_64__)
    return (vf)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < VL; i++) {
        x[i] = sqrtf(x[i]);
    }
    return x;
#endif
}
/* To the nearest integer, ties to even. */
static inline vf v_round(vf x)
{
#if defined(__AVX512F__)
    return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
    return (vf)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    /* Adding 2^23 leaves no room for a fraction; larger numbers have none. */
    vf big = v_set(8388608.0f), a = v_abs(x);
    vf r = v_copysign((a + big) - big, x);
    return v_select(a < big, r, x);
#endif
}

/* Horizontal: fixed halving order, so the same lanes give the same bits on one instruction set. */
static inline float v_sum(vf x)
{
#if VL == 16
    typedef float v8 __attribute__((vector_size(32)));
    union {
        vf v;
        v8 h[2];
    } u = {.v = x};
    union {
        v8 v;
        float f[8];
    } s = {.v = u.h[0] + u.h[1]};
    return ((s.f[0] + s.f[4]) + (s.f[2] + s.f[6])) + ((s.f[1] + s.f[5]) + (s.f[3] + s.f[7]));
#elif VL == 8
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
#else
    return (x[0] + x[2]) + (x[1] + x[3]);
#endif
}
/* The greatest lane; lanes that are NaN may be ignored. */
static inline float v_max_lane(vf x)
{
    float m = x[0];
    for (int i = 1; i < VL; i++) {
        m = x[i] > m ? x[i] : m;
    }
    return m;
}

/* The first n lanes (0 <= n <= VL) from memory, the others zero; touches no byte beyond. */
static inline vf v_load_n(const float *p, int64_t n)
{
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    vf v = {0};
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
#endif
}
static inline void v_store_n(float *p, vf v, int64_t n)
{
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    memcpy(p, &v, (size_t)n * sizeof(float));
#endif
}

static inline vi v_to_int(vf x)
{
    return __builtin_convertvector(x, vi);
}
static inline vf v_from_int(vi x)
{
    return __builtin_convertvector(x, vf);
}

/* 2^n r^... : x = n ln 2 + r, e^r by polynomial, 2^n in two factors so that denormal and infinite results come out. */
static inline vf v_exp(vf x)
{
    x = v_min(v_set(89.0f), v_max(v_set(-104.0f), x)); /* beyond: infinity and 0, by the scaling below */
    vf n = v_round(x * 1.44269504f);
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = v_set(1.381431837e-03f);
    p = p * r + 8.368851279e-03f;
    p = p * r + 4.166840113e-02f;
    p = p * r + 1.666651952e-01f;
    p = p * r + 4.999999337e-01f;
    p = r * r * p + r + 1.0f;
    vi e = v_to_int(n);
    vi half = e >> 1;
    vf s1 = (vf)((half + 127) << 23), s2 = (vf)((e - half + 127) << 23);
    return p * s1 * s2;
}

/* x = 2^e (1 + f), 1 + f in [sqrt 1/2, sqrt 2). log 0 is -inf, of a negative number NaN. */
static inline vf v_log(vf x)
{
    vi small = x < 1.17549435e-38f; /* denormal, or not in the domain at all */
    vf scaled = v_select(small, x * 8388608.0f, x);
    vi b = v_bits(scaled) - 0x3f3504f3; /* bits of sqrt 1/2 */
    vi e = (b >> 23) - (small & v_iset(23));
    vf f = (vf)((b & v_iset(0x007fffff)) + 0x3f3504f3) - 1.0f;
    vf p = v_set(6.746601330e-02f);
    p = p * f - 1.167564131e-01f;
    p = p * f + 1.188817460e-01f;
    p = p * f - 1.240559142e-01f;
    p = p * f + 1.421955091e-01f;
    p = p * f - 1.666799567e-01f;
    p = p * f + 2.000211873e-01f;
    p = p * f - 2.500000960e-01f;
    p = p * f + 3.333331260e-01f;
    vf n = v_from_int(e), ff = f * f;
    vf y = ff * f * p - n * 2.12194440e-4f;
    y = y - 0.5f * ff + f + n * 0.693359375f;
    y = v_select(x > 3.402823466e38f, x, y);
    y = v_select(x == 0.0f, v_set(-INFINITY), y);
    return v_select((x < 0.0f) | v_is_nan(x), v_set(NAN), y);
}

static inline vf v_sigmoid(vf x)
{
    return 1.0f / (1.0f + v_exp(-x));
}

static inline vf v_tanh(vf x)
{
    vf s = x * x;
    vf p = v_set(-5.648307610e-03f);
    p = p * s + 2.058981754e-02f;
    p = p * s - 5.372512346e-02f;
    p = p * s + 1.333127439e-01f;
    p = p * s - 3.333327606e-01f;
    vf near = x + x * s * p;
    vf a = v_abs(x);
    vf far = v_copysign(1.0f - 2.0f / (v_exp(a + a) + 1.0f), x);
    return v_select(a < 0.63f, near, v_select(v_is_nan(x), x, far));
}

static inline vf v_erf(vf x)
{
    vf s = x * x;
    vf p = v_set(7.889119416e-05f);
    p = p * s - 8.020841245e-04f;
    p = p * s + 5.189535335e-03f;
    p = p * s - 2.685444459e-02f;
    p = p * s + 1.128360018e-01f;
    p = p * s - 3.761262714e-01f;
    p = p * s + 1.283791659e-01f;
    vf near = x + x * p;
    /* erf t = 1 - e^(-t Q(t)) for t in [1, 4]; from 4 on a float cannot tell it from 1. */
    vf t = v_min(v_abs(x), v_set(4.0f));
    vf q = v_set(1.413383830e-05f);
    q = q * t - 3.523321674e-04f;
    q = q * t + 3.764660230e-03f;
    q = q * t - 2.402550910e-02f;
    q = q * t + 1.065491037e-01f;
    q = q * t + 6.349582970e-01f;
    q = q * t + 1.128697159e+00f;
    vf far = v_copysign(1.0f - v_exp(-t * q), x);
    return v_select(v_abs(x) < 1.0f, near, v_select(v_is_nan(x), x, far));
}

/* An activation of graph.h. Called with a constant act it is straight-line code; loops hoist the switch (V_ACT_SWITCH). */
static inline vf v_act(reef_act act, float a, float b, vf x)
{
    vf zero = {0};
    switch (act) {
    case REEF_ACT_NONE: return x;
    case REEF_ACT_RELU: return v_max(zero, x);
    case REEF_ACT_CLIP: return v_min(v_set(b), v_max(v_set(a), x));
    case REEF_ACT_LEAKY_RELU: return v_select(x < zero, x * a, x);
    case REEF_ACT_SIGMOID: return v_sigmoid(x);
    case REEF_ACT_HARD_SIGMOID: return v_min(v_set(1.0f), v_max(zero, x * a + b));
    case REEF_ACT_HARD_SWISH: return x * v_min(v_set(1.0f), v_max(zero, x * a + b));
    case REEF_ACT_SILU: return x * v_sigmoid(x);
    case REEF_ACT_TANH: return v_tanh(x);
    case REEF_ACT_GELU: return 0.5f * x * (1.0f + v_erf(x * 0.707106781f));
    case REEF_ACT_GELU_TANH: return 0.5f * x * (1.0f + v_tanh(0.797884561f * (x + 0.044715f * x * x * x)));
    }
    return x;
}

/*
 * Runs a statement with ACT a compile-time constant equal to act, so that v_act(ACT, ...) inside it costs no branch per
 * vector: V_ACT_SWITCH(act, for (...) { v_store(p, v_act(ACT, a, b, v_load(p))); })
 */
#define V_ACT_CASE_(name, ...)                                                                                         \
    case name: {                                                                                                       \
        const reef_act ACT = name;                                                                                     \
        __VA_ARGS__;                                                                                                   \
        break;                                                                                                         \
    }
#define V_ACT_SWITCH(act, ...)                                                                                         \
    do {                                                                                                               \
        switch (act) {                                                                                                 \
            V_ACT_CASE_(REEF_ACT_NONE, __VA_ARGS__)                                                                    \
            V_ACT_CASE_(REEF_ACT_RELU, __VA_ARGS__)                                                                    \
            V_ACT_CASE_(REEF_ACT_CLIP, __VA_ARGS__)                                                                    \
            V_ACT_CASE_(REEF_ACT_LEAKY_RELU, __VA_ARGS__)                                                              \
            V_ACT_CASE_(REEF_ACT_SIGMOID, __VA_ARGS__)                                                                 \
            V_ACT_CASE_(REEF_ACT_HARD_SIGMOID, __VA_ARGS__)                                                            \
            V_ACT_CASE_(REEF_ACT_HARD_SWISH, __VA_ARGS__)                                                              \
            V_ACT_CASE_(REEF_ACT_SILU, __VA_ARGS__)                                                                    \
            V_ACT_CASE_(REEF_ACT_TANH, __VA_ARGS__)                                                                    \
            V_ACT_CASE_(REEF_ACT_GELU, __VA_ARGS__)                                                                    \
            V_ACT_CASE_(REEF_ACT_GELU_TANH, __VA_ARGS__)                                                               \
        }                                                                                                              \
    } while (0)

#endif
