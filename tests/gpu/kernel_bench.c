/*
 * kernel_bench.c - the matrix kernels on a GPU, without models: every shape in a list (dump_layers.c writes it), every
 * candidate that the prepare functions offer, checked against naive.cu and timed.
 *
 *   kernel_bench MODULE.cubin[,MODULE.cubin]... NAIVE.cubin layers.txt OUT.json [PRECISION...] [--network NAME] [--shapes N] [--arch N]
 *                [--workers]
 *                [--no-time]
 *
 * --workers runs the worker forms too, undisturbed and abandoned at some moment: the same bits.
 * --arch 80 offers what an older GPU would be offered.
 *
 * Checked: the output, written over a poisoned buffer, against sums in double; the same bits from a second run and from
 * every launch of the timing graph.
 * Timed: a graph of launches of one kernel that depend on each other, with programmatic edges, as in an inference. Each
 * launch has its own copy of the weights, because in an inference they come from memory, not from the cache.
 */
#include <cuda.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device/cuda/kernels/cuda_tile.h"
#include "device/cuda/kernels/worker.h"
#include "naive.h"

#define CU(call)                                                                                                       \
    do {                                                                                                               \
        CUresult r_ = (call);                                                                                          \
        if (r_ != CUDA_SUCCESS) {                                                                                      \
            const char *text_ = "?";                                                                                   \
            cuGetErrorString(r_, &text_);                                                                              \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, text_);                                      \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { MAX_VIEWS = 6, MAX_UPLOADS = 8, MAX_CANDIDATES = REEF_CUDA_MAX_CANDIDATES, MAX_LAUNCHES = 48, W_OFFSET = 8 };
static const size_t copies_bytes = (size_t)160 << 20;

typedef struct layer {
    char network[32];
    int count, kind;
    int bias, residual, act, n_params, params[16];
    int n_in;
    reef_storage storage[MAX_VIEWS];
    reef_view views[MAX_VIEWS]; /* inputs, then y */
} layer;

static CUstream stream;
static CUmodule modules[8], naive;
static int n_modules;
static struct {
    CUdeviceptr at[MAX_UPLOADS];
    size_t bytes[MAX_UPLOADS];
    int n;
} uploads;

static bool find_function(CUfunction *out, const char *name)
{
    for (int i = 0; i < n_modules; i++) {
        if (cuModuleGetFunction(out, modules[i], name) == CUDA_SUCCESS) {
            return true;
        }
    }
    return false;
}

static reef_status upload(void *owner, const void *host, size_t bytes, uint64_t *address)
{
    (void)owner;
    CUdeviceptr p;
    CU(cuMemAlloc(&p, bytes));
    CU(cuMemcpyHtoD(p, host, bytes));
    uploads.at[uploads.n] = p;
    uploads.bytes[uploads.n++] = bytes;
    *address = p;
    return REEF_OK;
}

static bool read_view(FILE *f, reef_storage *s, reef_view *v)
{
    int kind, dtype;
    char tag[4];
    if (fscanf(f, "%3s %d %d %d", tag, &kind, &dtype, &v->rank) != 4 || tag[0] != 'V') {
        return false;
    }
    s->kind = (reef_storage_kind)kind;
    v->dtype = (reef_dtype)dtype;
    for (int d = 0; d < v->rank; d++) {
        if (fscanf(f, "%" SCNd64, &v->dims[d]) != 1) {
            return false;
        }
    }
    for (int d = 0; d < v->rank; d++) {
        if (fscanf(f, "%" SCNd64, &v->stride[d]) != 1) {
            return false;
        }
    }
    return fscanf(f, "%" SCNd64, &v->offset) == 1;
}

static bool read_layer(FILE *f, layer *l)
{
    memset(l, 0, sizeof *l);
    if (fscanf(f, "%31s %d %d %d %d %d %d", l->network, &l->count, &l->kind, &l->bias, &l->residual, &l->act,
               &l->n_params) != 7) {
        return false;
    }
    /* convolutions: 14 is a mark in front of ten numbers; products: the mark is b_const */
    int n = l->kind == REEF_K_CONV || l->kind == REEF_K_CONV_TRANSPOSE ? 10 : 0;
    for (int i = 0; i < n; i++) {
        if (fscanf(f, "%d", &l->params[i]) != 1) {
            return false;
        }
    }
    if (fscanf(f, "%d", &l->n_in) != 1 || l->n_in + 1 > MAX_VIEWS) {
        return false;
    }
    for (int i = 0; i <= l->n_in; i++) {
        if (!read_view(f, &l->storage[i], &l->views[i])) {
            return false;
        }
        l->views[i].storage = (uint32_t)i;
    }
    return true;
}

static uint64_t seed = 1;
static float next_float(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (float)(seed >> 40) / (1 << 23) - 1.0f;
}
static float *random_floats(size_t n, float scale)
{
    float *p = malloc(n * sizeof *p);
    for (size_t i = 0; i < n; i++) {
        p[i] = next_float() * scale;
    }
    return p;
}

static void launch_naive(const char *name, void **args, int64_t threads)
{
    CUfunction f;
    CU(cuModuleGetFunction(&f, naive, name));
    CU(cuLaunchKernel(f, (unsigned)((threads + 255) / 256), 1, 1, 256, 1, 1, 0, stream, args, NULL));
}

static void fit4(const reef_view *v, long long *dims, long long *strides)
{
    for (int d = 0; d < 4; d++) {
        int from = d - (4 - v->rank);
        dims[d] = from >= 0 ? v->dims[from] : 1;
        strides[d] = from >= 0 ? v->stride[from] : 0;
    }
}

/* worker: the second argument of a worker form, or NULL. */
static void launch(const reef_cuda_kernel *c, CUfunction f, unsigned blocks, void *args, reef_cuda_worker *worker,
                   bool programmatic)
{
    CUlaunchAttribute attributes[2];
    CUlaunchConfig config = {.gridDimX = blocks,
                             .gridDimY = 1,
                             .gridDimZ = 1,
                             .blockDimX = c->threads,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .sharedMemBytes = c->dynamic_smem,
                             .hStream = stream,
                             .attrs = attributes};
    if (programmatic) {
        attributes[config.numAttrs++] = (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                                                            .value.programmaticStreamSerializationAllowed = 1};
    }
    if (c->cluster > 1) {
        attributes[config.numAttrs++] =
            (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, .value.clusterDim = {c->cluster, 1, 1}};
    }
    void *params[] = {args, worker};
    CU(cuLaunchKernelEx(&config, f, params, NULL));
}

static int sm_count;

/* The worker form (device.cuh): what it is told, and its flags. */
enum { FLAGS = 65536 };
static struct {
    CUdeviceptr memory;
    CUstream side;
    uint32_t run, generation, flags[FLAGS];
} workers;

/* Begins a run of the kernel's tiles. */
static reef_cuda_worker worker_of(const reef_cuda_kernel *c)
{
    if (!workers.memory) {
        CU(cuMemAlloc(&workers.memory, 1024 + sizeof workers.flags));
        CU(cuMemsetD8(workers.memory, 0, 1024 + sizeof workers.flags));
        CU(cuStreamCreate(&workers.side, CU_STREAM_NON_BLOCKING));
    }
    workers.run++;
    return (reef_cuda_worker){.revoked = workers.memory,
                              .lost = workers.memory + 64,
                              .control = workers.memory + 128,
                              .begun = workers.memory + 256,
                              .done = workers.memory + 1024,
                              .tiles = c->tiles,
                              .share = 1,
                              .cluster = c->cluster > 1 ? c->cluster : 1};
}
static void worker_generation(const reef_cuda_worker *worker)
{
    const uint32_t control[2] = {++workers.generation, workers.run};
    CU(cuMemcpyHtoD(worker->control, control, sizeof control));
}

/* `take` microseconds after it was started its generation is revoked, and it is started again with a younger one until no
 * tile is missing. Says how often it was started; 0: it does not finish. */
static int run_worker(const reef_cuda_kernel *c, CUfunction f, int take)
{
    reef_cuda_worker worker = worker_of(c);
    const unsigned most = (unsigned)sm_count * 2, blocks = c->loops && c->tiles > most ? most : c->tiles;
    if (c->tiles > FLAGS) {
        return 0;
    }
    for (int starts = 1; starts < 100; starts++) {
        worker_generation(&worker);
        launch(c, f, blocks, c->args, &worker, false);
        if (take > 0 && starts < 8) {
            struct timespec from, now;
            clock_gettime(CLOCK_MONOTONIC, &from);
            do {
                clock_gettime(CLOCK_MONOTONIC, &now);
            } while ((now.tv_sec - from.tv_sec) * 1000000 + (now.tv_nsec - from.tv_nsec) / 1000 < take);
            CU(cuStreamWriteValue32(workers.side, worker.revoked, workers.generation, 0));
            CU(cuStreamSynchronize(workers.side));
        }
        CU(cuStreamSynchronize(stream));
        CU(cuMemcpyDtoH(workers.flags, worker.done, c->tiles * 4));
        unsigned missing = 0;
        for (unsigned t = 0; t < c->tiles; t++) {
            missing += workers.flags[t] != workers.run;
        }
        if (!missing) {
            return starts;
        }
    }
    return 0;
}

static double median(double *v, int n)
{
    for (int i = 1; i < n; i++) {
        for (int j = i; j > 0 && v[j] < v[j - 1]; j--) {
            double t = v[j];
            v[j] = v[j - 1], v[j - 1] = t;
        }
    }
    return v[n / 2];
}

/* The time of one of `launches` in a graph, each after the one before, with copies of the constants in turn. */
static double time_launches(const reef_cuda_kernel *c, CUfunction f, reef_cuda_worker *worker, int launches,
                            CUdeviceptr copies, size_t w_bytes, int n_copies, CUevent start, CUevent stop)
{
    CUgraph graph;
    CUgraphExec exec;
    uint64_t packed;
    const unsigned most = worker && c->loops ? (unsigned)sm_count * worker->share : c->tiles;
    const unsigned blocks = c->tiles < most ? c->tiles : most;
    memcpy(&packed, (char *)c->args + W_OFFSET, 8);
    CU(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    for (int u = 0; u < launches; u++) {
        if (n_copies > 1) {
            uint64_t at = copies + (size_t)(u % n_copies) * w_bytes;
            memcpy((char *)c->args + W_OFFSET, &at, 8);
        }
        launch(c, f, blocks, c->args, worker, true);
    }
    memcpy((char *)c->args + W_OFFSET, &packed, 8);
    CU(cuStreamEndCapture(stream, &graph));
    CU(cuGraphInstantiate(&exec, graph, 0));
    double times[3];
    CU(cuGraphLaunch(exec, stream));
    for (int run = 0; run < 3; run++) {
        float ms;
        CU(cuEventRecord(start, stream));
        CU(cuGraphLaunch(exec, stream));
        CU(cuEventRecord(stop, stream));
        CU(cuEventSynchronize(stop));
        CU(cuEventElapsedTime(&ms, start, stop));
        times[run] = ms * 1e3 / launches;
    }
    CU(cuGraphExecDestroy(exec));
    CU(cuGraphDestroy(graph));
    return median(times, 3);
}

typedef struct total {
    char network[32];
    double us, first_us, worker_us, worst;
    int kernels, bad;
} total;

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr,
                "usage: kernel_bench MODULE.cubin NAIVE.cubin layers.txt OUT.json [f16|tf32|f32]... [options]\n");
        return 2;
    }
    bool want[3] = {false, false, false}, timed = true, with_workers = false;
    const char *only = NULL;
    int max_shapes = 1 << 30, arch = 0;
    for (int i = 5; i < argc; i++) {
        want[0] |= !strcmp(argv[i], "f32");
        want[1] |= !strcmp(argv[i], "tf32");
        want[2] |= !strcmp(argv[i], "f16");
        timed &= strcmp(argv[i], "--no-time") != 0;
        with_workers |= !strcmp(argv[i], "--workers");
        if (!strcmp(argv[i], "--network") && i + 1 < argc) {
            only = argv[++i];
        } else if (!strcmp(argv[i], "--arch") && i + 1 < argc) {
            arch = atoi(argv[++i]);
        } else if (!strcmp(argv[i], "--shapes") && i + 1 < argc) {
            max_shapes = atoi(argv[++i]);
        }
    }
    CUdevice device;
    CUcontext context;
    int major, minor;
    CU(cuInit(0));
    CU(cuDeviceGet(&device, 0));
    CU(cuDevicePrimaryCtxRetain(&context, device));
    CU(cuCtxSetCurrent(context));
    CU(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CU(cuDeviceGetAttribute(&sm_count, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
    CU(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
    CU(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device));
    for (char *name = strtok(argv[1], ","); name && n_modules < 8; name = strtok(NULL, ",")) {
        CU(cuModuleLoad(&modules[n_modules++], name));
    }
    CU(cuModuleLoad(&naive, argv[2]));
    FILE *json = fopen(argv[4], "w");
    CUdeviceptr result, copies, workspace = 0;
    size_t workspace_bytes = 0;
    CU(cuMemAlloc(&result, 16));
    CU(cuMemAlloc(&copies, copies_bytes));
    CUevent start, stop;
    CU(cuEventCreate(&start, CU_EVENT_DEFAULT));
    CU(cuEventCreate(&stop, CU_EVENT_DEFAULT));
    fprintf(json, "[\n");
    bool comma = false;
    int worker_starts = 0;
    for (int precision = 2; precision >= 0; precision--) {
        static const char *const names[] = {"f32", "tf32", "f16"};
        static const double limits[] = {2e-5, 3e-3, 4e-3};
        total totals[16];
        int n_totals = 0, shapes = 0;
        if (!want[precision]) {
            continue;
        }
        memset(totals, 0, sizeof totals);
        FILE *file = fopen(argv[3], "r");
        layer l;
        while (file && read_layer(file, &l) && shapes < max_shapes) {
            if (only && strcmp(only, l.network) != 0) {
                continue;
            }
            shapes++;
            seed = (uint64_t)shapes * 77777 + 1;
            uploads.n = 0;
            reef_plan plan = {.storage = l.storage, .n_storage = (size_t)l.n_in + 1};
            reef_kernel k = {.kind = (reef_kernel_kind)l.kind, .name = "layer", .n_in = l.n_in, .y = l.views[l.n_in]};
            reef_arena arena = {0};
            reef_error error = {0};
            reef_cuda_prepare ctx = {.plan = &plan,
                                     .precision = (reef_cuda_precision)precision,
                                     .sm_count = (unsigned)sm_count,
                                     .sm_arch = (unsigned)(arch ? arch : major * 10 + minor),
                                     .arch_kernels = major == 9 && (!arch || arch == 90),
                                     .arena = &arena,
                                     .upload = upload,
                                     .error = &error};
            memcpy(k.in, l.views, sizeof(reef_view) * (size_t)l.n_in);
            naive_args ref = {.act = l.act, .w_type = 0, .scale = 0.125f};
            const reef_view *x = &k.in[0], *y = &k.y;
            float *weights = NULL, *bias = NULL;
            size_t n_weights = 0, n_bias = 0;
            reef_cuda_prepare_fn prepare = NULL;
            const char *naive_name = NULL;
            int residual_at = -1;
            char title[128];
            fit4(x, ref.x, ref.xs);
            fit4(y, ref.y, ref.ys);
            if (k.kind == REEF_K_CONV || k.kind == REEF_K_CONV_TRANSPOSE) {
                const int *p = l.params;
                ref.transposed = k.kind == REEF_K_CONV_TRANSPOSE;
                k.conv = (reef_conv){.groups = p[0],
                                     .filters = p[1],
                                     .channels = x->dims[1],
                                     .kernel = {p[2], p[3]},
                                     .stride = {p[4], p[5]},
                                     .pad = {p[6], p[7]},
                                     .dilation = {p[8], p[9]},
                                     .has_residual = l.residual,
                                     .act = (reef_act)l.act};
                ref.groups = p[0];
                memcpy(ref.kernel, p + 2, 8);
                memcpy(ref.stride, p + 4, 8);
                memcpy(ref.pad, p + 6, 8);
                memcpy(ref.dilation, p + 8, 8);
                n_weights = (size_t)(x->dims[1] / p[0] * p[1] * p[2] * p[3]);
                weights = random_floats(n_weights, 1.0f / sqrtf((float)(x->dims[1] / p[0] * p[2] * p[3])));
                n_bias = (size_t)p[1];
                bias = random_floats(n_bias, 0.5f);
                k.conv.w = weights;
                k.conv.bias = bias;
                k.flops = 2.0 * (double)reef_view_elems(y) * (double)(x->dims[1] / p[0]) * p[2] * p[3];
                prepare = ref.transposed ? reef_cuda_prepare_conv_transpose : reef_cuda_prepare_conv;
                naive_name = "naive_conv";
                residual_at = l.residual ? 1 : -1;
                snprintf(title, sizeof title,
                         "conv %dx%d/%d %" PRId64 "x%" PRId64 "x%" PRId64 " -> %" PRId64 "x%" PRId64 "x%" PRId64 "%s",
                         p[2], p[3], p[4], x->dims[1], x->dims[2], x->dims[3], y->dims[1], y->dims[2], y->dims[3],
                         l.residual ? " + res" : "");
            } else if (k.kind == REEF_K_MATMUL) {
                const reef_view *b = &k.in[1];
                k.matmul = (reef_matmul){
                    .b_const = l.n_params == 1, .alpha = 1, .has_residual = l.residual, .act = (reef_act)l.act};
                long long unused[4];
                fit4(b, unused, ref.ws);
                int64_t depth = x->dims[x->rank - 1];
                n_bias = (size_t)y->dims[y->rank - 1];
                bias = random_floats(n_bias, 0.5f);
                k.matmul.bias = bias;
                if (k.matmul.b_const) {
                    n_weights = (size_t)reef_view_elems(b);
                    weights = random_floats(n_weights, 1.0f / sqrtf((float)depth));
                    l.views[1].offset = k.in[1].offset = 0;
                    l.storage[1].data = weights;
                    l.storage[1].kind = REEF_STORAGE_CONST;
                }
                k.flops = 2.0 * (double)reef_view_elems(y) * (double)depth;
                prepare = reef_cuda_prepare_matmul;
                naive_name = "naive_matmul";
                residual_at = l.residual ? 2 : -1;
                snprintf(title, sizeof title, "matmul %" PRId64 "x%" PRId64 "x%" PRId64 "%s", y->dims[y->rank - 2],
                         y->dims[y->rank - 1], depth, l.residual ? " + res" : "");
            } else {
                k.attention = (reef_attention){.scale = ref.scale, .has_mask = l.act != 0};
                ref.act = 0;
                ref.keys = k.in[1].dims[2];
                prepare = reef_cuda_prepare_attention;
                naive_name = "naive_attention";
                k.flops = 4.0 * (double)reef_view_elems(y) * (double)ref.keys;
                snprintf(title, sizeof title, "attention %" PRId64 "x%" PRId64 "x%" PRId64, y->dims[1], y->dims[2],
                         y->dims[3]);
            }
            /* operands */
            CUdeviceptr base[MAX_VIEWS] = {0}, w_dev = 0, bias_dev = 0, out;
            size_t bytes[MAX_VIEWS] = {0};
            int type[MAX_VIEWS];
            for (int i = 0; i <= l.n_in; i++) {
                const reef_view *v = &l.views[i];
                int64_t first, end;
                reef_view_range(v, &first, &end);
                type[i] = (int)reef_cuda_elem(&ctx, v);
                bytes[i] = (size_t)end + 256;
                if (k.kind == REEF_K_MATMUL && k.matmul.b_const && i == 1) {
                    continue;
                }
                int64_t elems = (int64_t)(bytes[i] / reef_cuda_elem_bytes((reef_cuda_elem_type)type[i]));
                int fill = type[i] > 1 ? 4 : type[i];
                unsigned long long s = (unsigned long long)shapes * 16 + (unsigned long long)i;
                CU(cuMemAlloc(&base[i], bytes[i]));
                launch_naive("naive_fill", (void *[]){&base[i], &elems, &fill, &s}, elems < 1 << 20 ? elems : 1 << 20);
            }
            ref.total = reef_view_elems(y);
            CU(cuMemAlloc(&out, (size_t)ref.total * 4));
            ref.out = out;
            if (weights) {
                CU(cuMemAlloc(&w_dev, n_weights * 4));
                CU(cuMemcpyHtoD(w_dev, weights, n_weights * 4));
            }
            if (bias) {
                CU(cuMemAlloc(&bias_dev, n_bias * 4));
                CU(cuMemcpyHtoD(bias_dev, bias, n_bias * 4));
            }
#define AT(i) (base[i] + (uint64_t)l.views[i].offset * reef_cuda_elem_bytes((reef_cuda_elem_type)type[i]))
            ref.xp = AT(0);
            ref.x_type = type[0];
            ref.w = w_dev;
            ref.bias = bias_dev;
            if (residual_at >= 0) {
                long long unused[4];
                ref.residual = AT(residual_at);
                ref.r_type = type[residual_at];
                fit4(&k.in[residual_at], unused, ref.rs);
            }
            if (k.kind == REEF_K_MATMUL && !k.matmul.b_const) {
                ref.w = AT(1);
                ref.w_type = type[1];
            }
            if (k.kind == REEF_K_ATTENTION) {
                long long unused[4];
                ref.w = AT(1), ref.w_type = type[1];
                ref.residual = AT(2), ref.r_type = type[2];
                fit4(&k.in[1], unused, ref.ws);
                fit4(&k.in[2], unused, ref.rs);
                if (l.act) {
                    ref.bias = AT(3), ref.m_type = type[3] > 1 ? 2 : type[3];
                    fit4(&k.in[3], unused, ref.ms);
                }
            }
            launch_naive(naive_name, (void *[]){&ref}, ref.total);
            CU(cuStreamSynchronize(stream));

            static reef_cuda_kernel candidates[MAX_CANDIDATES];
            size_t n = 0;
            reef_status status = prepare(&k, &ctx, candidates, MAX_CANDIDATES, &n);
            if (status) {
                fprintf(stderr, "%s %s: %s\n", l.network, title, error.message);
                return 1;
            }
            CU(cuCtxSynchronize()); /* uploads come from pageable memory and may still be under way */
            double best = 1e30, best_worker = 0, first_us = 0;
            uint64_t copied = 0; /* the packing that `copies` holds */
            const char *best_variant = "";
            int t = 0;
            while (t < n_totals && strcmp(totals[t].network, l.network) != 0) {
                t++;
            }
            if (t == n_totals) {
                strcpy(totals[n_totals++].network, l.network);
            }
            fprintf(json,
                    "%s{\"network\": \"%s\", \"count\": %d, \"precision\": \"%s\", \"layer\": \"%s\", \"gflop\": %.4f, "
                    "\"candidates\": [",
                    comma ? ",\n" : "", l.network, l.count, names[precision], title, k.flops * 1e-9);
            comma = true;
            for (size_t i = 0; i < n; i++) {
                reef_cuda_kernel *c = &candidates[i];
                CUfunction f;
                if (!find_function(&f, c->function)) {
                    fprintf(stderr, "no entry point %s\n", c->function);
                    return 1;
                }
                if (c->dynamic_smem > 32 << 10) {
                    CU(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)c->dynamic_smem));
                }
                if (c->workspace_bytes > workspace_bytes) {
                    if (workspace) {
                        CU(cuMemFree(workspace));
                    }
                    workspace_bytes = c->workspace_bytes;
                    CU(cuMemAlloc(&workspace, workspace_bytes));
                    CU(cuMemsetD8(workspace, 0xff, workspace_bytes));
                    CU(cuMemsetD8(workspace, 0, REEF_CUDA_ZERO_BYTES));
                }
                for (unsigned r = 0; r < c->n_relocs; r++) {
                    const reef_cuda_reloc *reloc = &c->relocs[r];
                    uint64_t address = reloc->target == REEF_CUDA_WORKSPACE ? workspace : base[reloc->storage];
                    address += (uint64_t)reloc->bytes;
                    memcpy((char *)c->args + reloc->at, &address, 8);
                }
                uint64_t hash[2], packed;
                double rel = 0;
                CUdeviceptr y_base = base[l.n_in], y_at = AT(l.n_in);
                int y_type = type[l.n_in];
                for (int run = 0; run < 2; run++) {
                    struct {
                        float error, scale;
                        uint64_t hash;
                    } got;
                    CU(cuMemsetD8Async(y_base, 0xff, bytes[l.n_in], stream));
                    CU(cuMemsetD8Async(result, 0, 16, stream));
                    launch(c, f, c->tiles, c->args, NULL, true);
                    launch_naive("naive_compare", (void *[]){&ref, &y_at, &y_type, &result},
                                 ref.total < 1 << 18 ? ref.total : 1 << 18);
                    CUresult bad = cuStreamSynchronize(stream);
                    if (bad != CUDA_SUCCESS) {
                        const char *text = "?";
                        cuGetErrorString(bad, &text);
                        fprintf(stderr, "%s %s, %s: %s\n", l.network, title, c->variant, text);
                        return 1;
                    }
                    CU(cuMemcpyDtoH(&got, result, 16));
                    rel = fmax(rel, got.error / got.scale);
                    hash[run] = got.hash;
                }
                bool wrong = !(rel < limits[precision]) || hash[0] != hash[1];
                if (wrong) {
                    fprintf(stderr, "WRONG %s %s %s, %s: error %.3g%s\n", names[precision], l.network, title,
                            c->variant, rel, hash[0] != hash[1] ? ", and two runs differ" : "");
                    totals[t].bad++;
                }
                totals[t].worst = rel > totals[t].worst || rel != rel ? rel : totals[t].worst;
                int starts = 0;
                for (int take = 0; with_workers && c->worker && take < 24; take += 3) {
                    CUfunction be;
                    uint64_t bits;
                    if (!find_function(&be, c->worker)) {
                        fprintf(stderr, "no entry point %s\n", c->worker);
                        return 1;
                    }
                    CU(cuFuncSetAttribute(be, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)c->dynamic_smem));
                    CU(cuMemsetD8Async(y_base, 0xff, bytes[l.n_in], stream));
                    CU(cuMemsetD8Async(result, 0, 16, stream));
                    CU(cuStreamSynchronize(stream));
                    const int started = run_worker(c, be, take);
                    launch_naive("naive_compare", (void *[]){&ref, &y_at, &y_type, &result},
                                 ref.total < 1 << 18 ? ref.total : 1 << 18);
                    CU(cuStreamSynchronize(stream));
                    CU(cuMemcpyDtoH(&bits, result + 8, 8));
                    starts = started > starts ? started : starts;
                    if (!started || bits != hash[0]) {
                        fprintf(stderr, "WRONG %s %s, %s: worker form, revoked after %d us, %d starts\n", l.network,
                                title, c->variant, take, started);
                        totals[t].bad++;
                    }
                }
                worker_starts = starts > worker_starts ? starts : worker_starts;
                double us = 0, worker_us = 0;
                if (timed) {
                    /* copies of the weights */
                    memcpy(&packed, (char *)c->args + W_OFFSET, 8);
                    size_t w_bytes = 0;
                    for (int u = 0; u < uploads.n; u++) {
                        if (uploads.at[u] == packed) {
                            w_bytes = (uploads.bytes[u] + 255) & ~(size_t)255;
                        }
                    }
                    int launches = k.flops > 2e9 ? 12 : MAX_LAUNCHES,
                        n_copies = w_bytes ? (int)(copies_bytes / w_bytes) : 0;
                    n_copies = n_copies > launches ? launches : n_copies;
                    if (packed != copied) {
                        copied = packed;
                        for (int u = 0; u < n_copies; u++) {
                            CU(cuMemcpyDtoDAsync(copies + (size_t)u * w_bytes, packed, w_bytes, stream));
                        }
                    }
                    us = time_launches(c, f, NULL, launches, copies, w_bytes, n_copies, start, stop);
                    CUfunction be;
                    if (with_workers && c->worker && find_function(&be, c->worker)) {
                        int fit = 1;
                        CU(cuFuncSetAttribute(be, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                              (int)c->dynamic_smem));
                        CU(cuOccupancyMaxActiveBlocksPerMultiprocessor(&fit, be, (int)c->threads, c->dynamic_smem));
                        reef_cuda_worker worker = worker_of(c);
                        worker.fresh = 1;
                        worker.share = (unsigned)(fit > 0 ? fit : 1);
                        worker_generation(&worker);
                        worker_us = time_launches(c, be, &worker, launches, copies, w_bytes, n_copies, start, stop);
                    }
                    struct {
                        float error, scale;
                        uint64_t hash;
                    } got;
                    CU(cuMemsetD8Async(result, 0, 16, stream));
                    launch_naive("naive_compare", (void *[]){&ref, &y_at, &y_type, &result},
                                 ref.total < 1 << 18 ? ref.total : 1 << 18);
                    CU(cuStreamSynchronize(stream));
                    CU(cuMemcpyDtoH(&got, result, 16));
                    if (got.hash != hash[0]) {
                        fprintf(stderr, "WRONG %s %s, %s: a graph of launches gives other bits\n", l.network, title,
                                c->variant);
                        totals[t].bad++;
                    }
                }
                fprintf(
                    json,
                    "%s\n  {\"variant\": \"%s\", \"us\": %.3f, \"worker_us\": %.3f, \"error\": %.3g, \"tiles\": %u}",
                    i ? "," : "", c->variant, us, worker_us, rel, c->tiles);
                if (i == 0) {
                    first_us = us;
                }
                if (!wrong && us < best) {
                    best = us;
                    best_worker = worker_us;
                    best_variant = c->variant;
                }
            }
            fprintf(json, "]}");
            if (best > 1e29) {
                best = 0;
            }
            totals[t].us += best * l.count;
            totals[t].worker_us += best_worker * l.count;
            totals[t].first_us += first_us * l.count;
            totals[t].kernels += l.count;
            printf("%-12s %3dx %-4s %-52s %8.2f us %7.1f TFLOP/s  first %7.2f  %s\n", l.network, l.count,
                   names[precision], title, best, best > 0 ? k.flops / best * 1e-6 : 0, first_us, best_variant);
            for (int i = 0; i <= l.n_in; i++) {
                if (base[i]) {
                    CU(cuMemFree(base[i]));
                }
            }
            for (int u = 0; u < uploads.n; u++) {
                CU(cuMemFree(uploads.at[u]));
            }
            CU(cuMemFree(out));
            if (w_dev) {
                CU(cuMemFree(w_dev));
            }
            if (bias_dev) {
                CU(cuMemFree(bias_dev));
            }
            free(weights);
            free(bias);
            reef_arena_free(&arena);
        }
        if (file) {
            fclose(file);
        }
        for (int t = 0; t < n_totals; t++) {
            printf("TOTAL %-5s %-12s %9.1f us in %d kernels (as workers %.1f; first candidates %.1f), worst error "
                   "%.2g, wrong %d\n",
                   names[precision], totals[t].network, totals[t].us, totals[t].kernels, totals[t].worker_us,
                   totals[t].first_us, totals[t].worst, totals[t].bad);
        }
    }
    if (with_workers) {
        printf("worker forms: at most %d starts\n", worker_starts);
    }
    fprintf(json, "\n]\n");
    fclose(json);
    return 0;
}
