/*
 * conv_transpose.c - REEF_K_CONV_TRANSPOSE as one small convolution per phase of the stride (igemm.h).
 *
 *      oh = ih * stride - pad + kh * dilation
 *
 * so output rows with the same (oh + pad) mod stride see the same kernel rows, and read input row
 * (oh + pad - kh * dilation) / stride. No result is ever added into memory.
 */
#include "device/cpu/kernels/igemm.h"

/* One axis of a phase: first output index, count, and its taps (kernel index and shift of the input index). */
typedef struct axis {
    int64_t out0, count, taps;
    int64_t *kernel, *shift;
} axis;

static axis axis_of(const reef_conv *conv, int d, int64_t phase, int64_t size, reef_arena *arena)
{
    int64_t s = conv->stride[d];
    axis a = {.out0 = phase, .count = size > phase ? (size - phase + s - 1) / s : 0};
    a.kernel = reef_arena_array(arena, (size_t)conv->kernel[d], sizeof *a.kernel);
    a.shift = reef_arena_array(arena, (size_t)conv->kernel[d], sizeof *a.shift);
    for (int64_t i = 0; a.kernel && a.shift && i < conv->kernel[d]; i++) {
        int64_t at = phase + conv->pad[d] - i * conv->dilation[d];
        if (at % s == 0) {
            a.kernel[a.taps] = i;
            a.shift[a.taps++] = at / s;
        }
    }
    return a;
}

static void bounds(const axis *a, int64_t *low, int64_t *high)
{
    *low = INT64_MAX;
    *high = INT64_MIN;
    for (int64_t i = 0; i < a->taps; i++) {
        *low = a->shift[i] < *low ? a->shift[i] : *low;
        *high = a->shift[i] > *high ? a->shift[i] : *high;
    }
}

/* w is (groups * channels, filters, kh, kw). */
static const float *pack_weights(const reef_conv *conv, const axis *v, const axis *h, int64_t channels, int64_t filters,
                                 reef_cpu_prepare *prepare)
{
    int64_t taps = v->taps * h->taps, depth = taps * channels, padded = gemm_padded(filters);
    int64_t area = conv->kernel[0] * conv->kernel[1];
    float *panels = prepare->alloc(prepare->owner, gemm_packed_bytes(depth, filters) * (size_t)conv->groups);
    if (!panels) {
        return NULL;
    }
    for (int64_t g = 0; g < conv->groups; g++) {
        for (int64_t n = 0; n < filters; n++) {
            int64_t j = n / GEMM_NR * GEMM_NR, width = padded - j < GEMM_NR ? VL : GEMM_NR;
            float *column = panels + g * depth * padded + j * depth + n - j;
            for (int64_t t = 0; t < taps; t++) {
                int64_t at = v->kernel[t / h->taps] * conv->kernel[1] + h->kernel[t % h->taps];
                for (int64_t c = 0; c < channels; c++) {
                    column[(t * channels + c) * width] = conv->w[((g * channels + c) * filters + n) * area + at];
                }
            }
        }
    }
    return panels;
}

REEF_ISA_PREPARE(conv_transpose)
{
    const reef_conv *conv = &k->conv;
    const reef_view *x = &k->in[0], *y = &k->y;
    reef_status status = igemm_check(k, conv->has_residual, prepare);
    if (status) {
        return status;
    }
    igemm *c = reef_arena_alloc(prepare->arena, sizeof *c);
    igemm_phase *phases = reef_arena_array(prepare->arena, (size_t)(conv->stride[0] * conv->stride[1]), sizeof *phases);
    if (!c || !phases) {
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
        .in_step = {1, 1},
        .out_step = {conv->stride[0], conv->stride[1]},
        .epilogue = {.alpha = 1, .act = conv->act, .a = conv->act_a, .b = conv->act_b},
        .phases = phases,
    };
    if (conv->has_residual) {
        c->residual = igemm_image_of(&k->in[1]);
    }
    c->zeros = prepare->alloc(prepare->owner, (size_t)c->channels * sizeof(float));
    c->epilogue.bias = epilogue_bias(prepare, conv->bias, conv->filters);
    if (!c->zeros || !c->epilogue.bias) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
    }
    for (int64_t ph = 0; ph < conv->stride[0]; ph++) {
        for (int64_t pw = 0; pw < conv->stride[1]; pw++) {
            axis v = axis_of(conv, 0, ph, y->dims[2], prepare->arena);
            axis h = axis_of(conv, 1, pw, y->dims[3], prepare->arena);
            int64_t taps = v.taps * h.taps;
            int64_t *shift = reef_arena_array(prepare->arena, (size_t)(taps + 1), 3 * sizeof *shift);
            if (!v.kernel || !v.shift || !h.kernel || !h.shift || !shift) {
                return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
            }
            if (!v.count || !h.count) {
                continue;
            }
            igemm_phase *p = &phases[c->n_phases++];
            *p = (igemm_phase){.rows = v.count,
                               .cols = h.count,
                               .out0 = {ph, pw},
                               .taps = taps,
                               .shift = shift,
                               .offset = shift + 2 * taps};
            for (int64_t t = 0; t < taps; t++) {
                shift[2 * t] = v.shift[t / h.taps];
                shift[2 * t + 1] = h.shift[t % h.taps];
            }
            igemm_offsets(c, shift, taps, shift + 2 * taps);
            bounds(&v, &p->low[0], &p->high[0]);
            bounds(&h, &p->low[1], &p->high[1]);
            if (taps) {
                p->panels = pack_weights(conv, &v, &h, c->channels, c->filters, prepare);
                if (!p->panels) {
                    return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
                }
            }
        }
    }
    igemm_finish(c, prepare, out);
    out->variant = "igemm phases " REEF_ISA_NAME;
    return REEF_OK;
}
