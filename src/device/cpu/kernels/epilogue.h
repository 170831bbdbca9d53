/*
 * epilogue.h - how sums leave a tile: y = act(alpha * sum + bias + residual), a run of rows at a time.
 */
#ifndef REEF_DEVICE_CPU_KERNELS_EPILOGUE_H
#define REEF_DEVICE_CPU_KERNELS_EPILOGUE_H

#include "device/cpu/kernels/vmath.h"

typedef struct epilogue {
    const float *bias; /* padded with zeros to whole vectors; never NULL */
    float alpha;
    reef_act act;
    float a, b;
} epilogue;

/* rows x cols results from acc (rows, ld), padded to whole vectors, to y. residual may be NULL, or y itself. */
static inline void epilogue_run(const epilogue *e, const float *acc, int64_t ld, int64_t rows, int64_t col,
                                int64_t cols, const float *residual, int64_t residual_stride, float *y,
                                int64_t y_stride)
{
    const float *bias = e->bias + col;
    float alpha = e->alpha, act_a = e->a, act_b = e->b;
    int64_t whole = cols / VL * VL, rest = cols - whole;
    V_ACT_SWITCH(e->act, {
        for (int64_t i = 0; i < rows; i++, acc += ld, y += y_stride) {
            if (residual) {
                for (int64_t j = 0; j < whole; j += VL) {
                    vf v = v_load(acc + j) * alpha + v_load(bias + j) + v_load(residual + j);
                    v_store(y + j, v_act(ACT, act_a, act_b, v));
                }
            } else {
                for (int64_t j = 0; j < whole; j += VL) {
                    v_store(y + j, v_act(ACT, act_a, act_b, v_load(acc + j) * alpha + v_load(bias + j)));
                }
            }
            if (rest) {
                vf v = v_load(acc + whole) * alpha + v_load(bias + whole);
                if (residual) {
                    v += v_load_n(residual + whole, rest);
                }
                v_store_n(y + whole, v_act(ACT, act_a, act_b, v), rest);
            }
            residual = residual ? residual + residual_stride : NULL;
        }
    });
}

/*
 * An epilogue has begun when the first result is stored and must then be short. Activations made of exponentials are not,
 * so they are computed into the sums first, EPILOGUE_STEP results between polls, and the epilogue only copies.
 */
enum { EPILOGUE_STEP = 1024 };
static inline bool epilogue_is_long(const epilogue *e)
{
    return e->act == REEF_ACT_SIGMOID || e->act == REEF_ACT_SILU || e->act >= REEF_ACT_TANH;
}
static inline void epilogue_copy(const float *acc, int64_t ld, int64_t rows, int64_t cols, float *y, int64_t y_stride)
{
    for (int64_t i = 0; i < rows; i++, acc += ld, y += y_stride) {
        int64_t j = 0;
        for (; j + VL <= cols; j += VL) {
            v_store(y + j, v_load(acc + j));
        }
        if (j < cols) {
            v_store_n(y + j, v_load(acc + j), cols - j);
        }
    }
}

/* bias (n floats or NULL) padded for whole vectors anywhere in it, in memory of the program. NULL: out of memory. */
static inline const float *epilogue_bias(reef_cpu_prepare *prepare, const float *bias, int64_t n)
{
    float *padded = prepare->alloc(prepare->owner, (size_t)(n + VL) * sizeof(float));
    if (padded && bias) {
        memcpy(padded, bias, (size_t)n * sizeof(float));
    }
    return padded;
}

#endif
