/*
 * bench_gemm.c - speed of convolution and matrix product tiles on one thread, in GFLOP/s, beside OpenBLAS.
 *
 *      bench_gemm [--isa avx512|avx2|generic] [--units N] [--ms MS] [FILTER]
 *
 * Runs all tiles of a kernel one after another, as one compute unit would. Figures are of the fastest tenth of the
 * repetitions, so that a busy machine disturbs little; the median is beside them.
 * The yardstick is sgemm on the product that an im2col would leave (without the im2col). Activations are fresh in
 * cache as they would be behind the kernel that wrote them; weights of the large layers are not.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cblas.h>

#include "device/cpu/tile.h"

#define DECLARE(isa)                                                                                                   \
    reef_status reef_cpu_prepare_conv_##isa(const reef_kernel *, reef_cpu_prepare *, reef_cpu_kernel *);               \
    reef_status reef_cpu_prepare_matmul_##isa(const reef_kernel *, reef_cpu_prepare *, reef_cpu_kernel *);             \
    reef_status reef_cpu_prepare_attention_##isa(const reef_kernel *, reef_cpu_prepare *, reef_cpu_kernel *);
DECLARE(generic)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
#endif

typedef struct shape {
    const char *name;
    int64_t c, h, w, m, kh, kw, stride, pad_h, pad_w, groups;
} shape;

/* Products are 1x1 convolutions of h pixels. */
static const shape shapes[] = {
    {"resnet 7x7/2 3-64", 3, 224, 224, 64, 7, 7, 2, 3, 3, 1},
    {"resnet 1x1 64-64 @56", 64, 56, 56, 64, 1, 1, 1, 0, 0, 1},
    {"resnet 3x3 64-64 @56", 64, 56, 56, 64, 3, 3, 1, 1, 1, 1},
    {"resnet 1x1 64-256 @56", 64, 56, 56, 256, 1, 1, 1, 0, 0, 1},
    {"resnet 1x1 256-64 @56", 256, 56, 56, 64, 1, 1, 1, 0, 0, 1},
    {"resnet 3x3/2 128-128 @56", 128, 56, 56, 128, 3, 3, 2, 1, 1, 1},
    {"resnet 3x3 128-128 @28", 128, 28, 28, 128, 3, 3, 1, 1, 1, 1},
    {"resnet 1x1 128-512 @28", 128, 28, 28, 512, 1, 1, 1, 0, 0, 1},
    {"resnet 1x1 512-128 @28", 512, 28, 28, 128, 1, 1, 1, 0, 0, 1},
    {"resnet 3x3 256-256 @14", 256, 14, 14, 256, 3, 3, 1, 1, 1, 1},
    {"resnet 1x1 256-1024 @14", 256, 14, 14, 1024, 1, 1, 1, 0, 0, 1},
    {"resnet 1x1 1024-256 @14", 1024, 14, 14, 256, 1, 1, 1, 0, 0, 1},
    {"resnet 1x1/2 1024-2048 @14", 1024, 14, 14, 2048, 1, 1, 2, 0, 0, 1},
    {"resnet 3x3 512-512 @7", 512, 7, 7, 512, 3, 3, 1, 1, 1, 1},
    {"resnet 1x1 512-2048 @7", 512, 7, 7, 2048, 1, 1, 1, 0, 0, 1},
    {"resnet 1x1 2048-512 @7", 2048, 7, 7, 512, 1, 1, 1, 0, 0, 1},
    {"resnet fc 2048-1000", 2048, 1, 1, 1000, 1, 1, 1, 0, 0, 1},
    {"vgg 3x3 3-64 @224", 3, 224, 224, 64, 3, 3, 1, 1, 1, 1},
    {"vgg 3x3 64-64 @224", 64, 224, 224, 64, 3, 3, 1, 1, 1, 1},
    {"vgg 3x3 128-128 @112", 128, 112, 112, 128, 3, 3, 1, 1, 1, 1},
    {"vgg 3x3 256-256 @56", 256, 56, 56, 256, 3, 3, 1, 1, 1, 1},
    {"vgg 3x3 512-512 @28", 512, 28, 28, 512, 3, 3, 1, 1, 1, 1},
    {"vgg 3x3 512-512 @14", 512, 14, 14, 512, 3, 3, 1, 1, 1, 1},
    {"vgg fc 25088-4096", 25088, 1, 1, 4096, 1, 1, 1, 0, 0, 1},
    {"vgg fc 4096-4096", 4096, 1, 1, 4096, 1, 1, 1, 0, 0, 1},
    {"densenet 1x1 256-128 @56", 256, 56, 56, 128, 1, 1, 1, 0, 0, 1},
    {"densenet 3x3 128-32 @56", 128, 56, 56, 32, 3, 3, 1, 1, 1, 1},
    {"densenet 3x3 128-32 @14", 128, 14, 14, 32, 3, 3, 1, 1, 1, 1},
    {"densenet 1x1 1024-128 @14", 1024, 14, 14, 128, 1, 1, 1, 0, 0, 1},
    {"densenet 3x3 128-32 @7", 128, 7, 7, 32, 3, 3, 1, 1, 1, 1},
    {"densenet 1x1 1792-128 @7", 1792, 7, 7, 128, 1, 1, 1, 0, 0, 1},
    {"inception 3x3/2 3-32 @299", 3, 299, 299, 32, 3, 3, 2, 0, 0, 1},
    {"inception 3x3 32-64 @147", 32, 147, 147, 64, 3, 3, 1, 1, 1, 1},
    {"inception 3x3 80-192 @73", 80, 73, 73, 192, 3, 3, 1, 0, 0, 1},
    {"inception 5x5 48-64 @35", 48, 35, 35, 64, 5, 5, 1, 2, 2, 1},
    {"inception 1x7 128-128 @17", 128, 17, 17, 128, 1, 7, 1, 0, 3, 1},
    {"inception 7x1 192-192 @17", 192, 17, 17, 192, 7, 1, 1, 3, 0, 1},
    {"inception 1x1 768-192 @17", 768, 17, 17, 192, 1, 1, 1, 0, 0, 1},
    {"inception 1x3 384-384 @8", 384, 8, 8, 384, 1, 3, 1, 0, 1, 1},
    {"distilbert 128x768x768", 768, 128, 1, 768, 1, 1, 1, 0, 0, 1},
    {"distilbert 128x768x3072", 768, 128, 1, 3072, 1, 1, 1, 0, 0, 1},
    {"distilbert 128x3072x768", 3072, 128, 1, 768, 1, 1, 1, 0, 0, 1},
    {"mobilenet dw 3x3 16 @112", 16, 112, 112, 16, 3, 3, 1, 1, 1, 16},
    {"mobilenet dw 3x3/2 72 @56", 72, 56, 56, 72, 3, 3, 2, 1, 1, 72},
    {"mobilenet dw 5x5 120 @28", 120, 28, 28, 120, 5, 5, 1, 2, 2, 120},
    {"mobilenet dw 3x3 480 @14", 480, 14, 14, 480, 3, 3, 1, 1, 1, 480},
    {"mobilenet dw 5x5 960 @7", 960, 7, 7, 960, 5, 5, 1, 2, 2, 960},
    {"grouped 3x3 128/32 @56", 128, 56, 56, 128, 3, 3, 1, 1, 1, 32},
    {"grouped 3x3 256/4 @14", 256, 14, 14, 256, 3, 3, 1, 1, 1, 4},
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static float *floats(int64_t n, float scale)
{
    float *x = aligned_alloc(64, ((size_t)n * sizeof *x + 127) / 64 * 64);
    for (int64_t i = 0; i < n; i++) {
        x[i] = scale * (float)(i * 7919 % 1000 - 500) / 500;
    }
    return x;
}

static void *alloc(void *owner, size_t bytes)
{
    void **slot = owner;
    size_t rounded = (bytes + 127) / 64 * 64;
    void *at = aligned_alloc(64, rounded);
    memset(at, 0, rounded);
    while (*slot) {
        slot++;
    }
    return *slot = at;
}

/* Seconds of a repetition: the tenth percentile, and the median. */
static double time_kernel(const reef_cpu_kernel *k, char *const *base, double budget_s, double *median)
{
    enum { MAX = 1000 };
    static double t[MAX];
    _Atomic(reef_lease) lease = reef_lease_make(0, 1);
    reef_tile_ctx ctx = {
        .lease = &lease, .scratch = aligned_alloc(64, (k->scratch_bytes + 127) / 64 * 64), .polls_left = UINT64_MAX};
    int n = 0;
    for (double start = now_s(); n < MAX && (n < 5 || now_s() - start < budget_s); n++) {
        double at = now_s();
        for (uint32_t i = 0; i < k->tiles; i++) {
            k->run(k->args, base, i, &ctx);
        }
        t[n] = now_s() - at;
    }
    free(ctx.scratch);
    qsort(t, (size_t)n, sizeof *t, by_value);
    *median = t[n / 2];
    return t[n / 10];
}

static double time_blas(int64_t m, int64_t n, int64_t k, double budget_s)
{
    enum { MAX = 1000 };
    static double t[MAX];
    float *a = floats(m * k, 1), *b = floats(k * n, 1), *c = floats(m * n, 1);
    int reps = 0;
    for (double start = now_s(); reps < MAX && (reps < 5 || now_s() - start < budget_s); reps++) {
        double at = now_s();
        if (m == 1) {
            cblas_sgemv(CblasRowMajor, CblasTrans, (int)k, (int)n, 1, b, (int)n, a, 1, 0, c, 1);
        } else {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, 1, a, (int)k, b, (int)n, 0,
                        c, (int)n);
        }
        t[reps] = now_s() - at;
    }
    free(a);
    free(b);
    free(c);
    qsort(t, (size_t)reps, sizeof *t, by_value);
    return t[reps / 10];
}

int main(int argc, char **argv)
{
    reef_cpu_prepare_fn conv = reef_cpu_prepare_conv_generic;
    const char *isa = "generic", *filter = "";
    unsigned units = 2;
    double budget_s = 0.2;
#if defined(__x86_64__)
    isa = "avx512";
#endif
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--isa") && i + 1 < argc) {
            isa = argv[++i];
        } else if (!strcmp(argv[i], "--units") && i + 1 < argc) {
            units = (unsigned)atoi(argv[++i]);
        } else if (!strcmp(argv[i], "--ms") && i + 1 < argc) {
            budget_s = atof(argv[++i]) / 1000;
        } else {
            filter = argv[i];
        }
    }
#if defined(__x86_64__)
    if (!strcmp(isa, "avx512")) {
        conv = reef_cpu_prepare_conv_avx512;
    } else if (!strcmp(isa, "avx2")) {
        conv = reef_cpu_prepare_conv_avx2;
    }
#endif
    printf("%-28s %6s %9s %9s %9s %9s %9s %6s\n", "shape", "tiles", "tile us", "total us", "GFLOP/s", "median",
           "OpenBLAS", "ratio");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *s = &shapes[i];
        if (!strstr(s->name, filter)) {
            continue;
        }
        int64_t oh = (s->h + 2 * s->pad_h - s->kh) / s->stride + 1, ow = (s->w + 2 * s->pad_w - s->kw) / s->stride + 1;
        int64_t depth = s->c / s->groups * s->kh * s->kw;
        float *x = floats(s->c * s->h * s->w, 1), *y = floats(s->m * oh * ow, 0), *w = floats(s->m * depth, 0.01f);
        float *bias = floats(s->m, 0.1f);
        reef_storage storage[2] = {{.kind = REEF_STORAGE_ACTIVATION}, {.kind = REEF_STORAGE_ACTIVATION}};
        reef_kernel k = {
            .kind = REEF_K_CONV,
            .name = s->name,
            .n_in = 1,
            .in[0] = {0, REEF_F32, 4, {1, s->c, s->h, s->w}, {s->c * s->h * s->w, 1, s->c * s->w, s->c}, 0},
            .y = {1, REEF_F32, 4, {1, s->m, oh, ow}, {s->m * oh * ow, 1, s->m * ow, s->m}, 0},
            .conv = {.w = w,
                     .bias = bias,
                     .channels = s->c,
                     .filters = s->m,
                     .groups = s->groups,
                     .kernel = {s->kh, s->kw},
                     .stride = {s->stride, s->stride},
                     .pad = {s->pad_h, s->pad_w},
                     .dilation = {1, 1},
                     .act = REEF_ACT_RELU},
        };
        reef_plan plan = {.kernels = &k, .n_kernels = 1, .storage = storage, .n_storage = 2};
        reef_arena arena = {0};
        void *owned[16] = {0};
        reef_cpu_prepare prepare = {&plan, units, &arena, alloc, owned, NULL};
        reef_cpu_kernel out = {0};
        if (conv(&k, &prepare, &out)) {
            fprintf(stderr, "%s: not prepared\n", s->name);
            return 1;
        }
        char *base[2] = {(char *)x, (char *)y};
        double median, t = time_kernel(&out, base, budget_s, &median);
        double flops = 2.0 * (double)(s->m * oh * ow * depth);
        printf("%-28s %6u %9.1f %9.1f %9.1f %9.1f", s->name, out.tiles, t / out.tiles * 1e6, t * 1e6, flops / t * 1e-9,
               flops / median * 1e-9);
        if (s->groups == 1) {
            double tb = time_blas(oh * ow, s->m, depth, budget_s);
            printf(" %9.1f %6.2f", flops / tb * 1e-9, tb / t);
        }
        printf("\n");
        fflush(stdout);
        for (void **o = owned; *o; o++) {
            free(*o);
        }
        reef_arena_free(&arena);
        free(x);
        free(y);
        free(w);
        free(bias);
    }
    return 0;
}
