/*
 * conv.c - REEF_K_CONV: chooses between the implicit matrix product (igemm.h) and the depthwise form (depthwise.c), and
 * packs the weights for it.
 */
#include "device/cpu/kernels/igemm.h"

/* Weights (filters, channels, kh, kw) of every group into panels of depth (kh, kw, channels). */
static const float *pack_weights(const reef_conv *conv, int64_t channels, int64_t filters, reef_cpu_prepare *prepare)
{
    int64_t taps = conv->kernel[0] * conv->kernel[1], depth = taps * channels, padded = gemm_padded(filters);
    float *panels = prepare->alloc(prepare->owner, gemm_packed_bytes(depth, filters) * (size_t)conv->groups);
    if (!panels) {
        return NULL;
    }
    for (int64_t g = 0; g < conv->groups; g++) {
        for (int64_t j = 0; j < filters; j += GEMM_NR) {
            int64_t width = padded - j < GEMM_NR ? VL : GEMM_NR;
            int64_t cols = filters - j < width ? filters - j : width;
            float *panel = panels + g * depth * padded + j * depth;
            for (int64_t n = 0; n < cols; n++) {
                const float *w = conv->w + (g * filters + j + n) * depth;
                for (int64_t c = 0; c < channels; c++) {
                    for (int64_t t = 0; t < taps; t++) {
                        panel[(t * channels + c) * width + n] = w[c * taps + t];
                    }
                }
            }
        }
    }
    return panels;
}

static const char *variant(bool patches, bool grouped)
{
    return patches ? "igemm patches " REEF_ISA_NAME : grouped ? "igemm grouped " REEF_ISA_NAME : "igemm " REEF_ISA_NAME;
}

REEF_ISA_PREPARE(conv)
{
    const reef_conv *conv = &k->conv;
    const reef_view *x = &k->in[0];
    reef_status status = igemm_check(k, conv->has_residual, prepare);
    if (status) {
        return status;
    }
    if (conv->groups == conv->channels && conv->filters == conv->channels && conv->channels > 1) {
        return REEF_ISA_FN(reef_cpu_prepare_depthwise)(k, prepare, out);
    }
    igemm *c = reef_arena_alloc(prepare->arena, sizeof *c);
    if (!c) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
    }
    bool patches = conv->groups == 1 && conv->kernel[0] * conv->kernel[1] > 1 &&
                   conv->channels <= IGEMM_PATCH_CHANNELS && x->stride[0] >= 0 && x->stride[2] >= 0 &&
                   x->stride[3] >= 0;
    status = igemm_from_conv(c, k, patches, prepare);
    if (status) {
        return status;
    }
    c->phases->panels = pack_weights(conv, c->channels, c->filters, prepare);
    if (!c->phases->panels) {
        return reef_fail(prepare->error, REEF_NO_MEMORY, "out of memory");
    }
    igemm_finish(c, prepare, out);
    out->variant = variant(patches, conv->groups > 1);
    return REEF_OK;
}
