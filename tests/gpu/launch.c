/*
 * launch.c - see launch.h.
 */
#include "gpu/launch.h"

#include "device/cuda/kernels/worker.h"

#include <cuda.h>
#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* clang-format off */
#define CALLS(X)                                                                                                       \
    X(cuInit) X(cuDeviceGet) X(cuDeviceGetAttribute) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent)                    \
    X(cuCtxSynchronize) X(cuModuleLoadData) X(cuModuleGetFunction) X(cuMemAlloc) X(cuMemcpyHtoD) X(cuMemcpyDtoH)       \
    X(cuMemsetD8) X(cuStreamWriteValue32) X(cuStreamCreate) X(cuStreamSynchronize) X(cuStreamQuery) X(cuLaunchKernelEx)   \
    X(cuStreamBeginCapture) X(cuStreamEndCapture) X(cuGraphInstantiate) X(cuGraphLaunch) X(cuGraphDestroy)             \
    X(cuGraphExecDestroy) X(cuEventCreate) X(cuEventRecord) X(cuEventElapsedTime) X(cuEventSynchronize)                \
    X(cuFuncSetAttribute) X(cuGetErrorString)
/* clang-format on */
#define TEXT2(x) #x
#define TEXT(x)  TEXT2(x)

static struct {
#define X(name) __typeof__(name) *name;
    CALLS(X)
#undef X
} cu;

enum { MAX_MODULES = 64, MAX_TILES = 1 << 17 };
#define HEAP_BYTES ((size_t)1 << 30)

static CUmodule modules[MAX_MODULES];
static int n_modules;
static CUstream stream, side;
static CUdeviceptr heap, control; /* control: what a worker is told and tells (worker.h), then its flags */
static size_t heap_used;
static unsigned sm_count;
static uint32_t run, generation;
static unsigned worker_tiles;

static void check(CUresult result, const char *call)
{
    if (result != CUDA_SUCCESS) {
        const char *text = "?";
        cu.cuGetErrorString(result, &text);
        fprintf(stderr, "%s: %s\n", call, text);
        exit(2);
    }
}
#define DO(call) check(cu.call, #call)

static void load_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (!dot || strcmp(dot, ".cubin") != 0 || n_modules == MAX_MODULES) {
            continue;
        }
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        FILE *file = fopen(path, "rb");
        char *bytes = malloc(64 << 20);
        size_t size = file && bytes ? fread(bytes, 1, (64 << 20) - 1, file) : 0;
        if (!size) {
            fprintf(stderr, "%s: cannot read\n", path);
            exit(2);
        }
        bytes[size] = 0;
        fclose(file);
        DO(cuModuleLoadData(&modules[n_modules++], bytes));
        free(bytes);
    }
    if (dir) {
        closedir(dir);
    }
    if (!n_modules) {
        fprintf(stderr, "%s: no *.cubin\n", folder);
        exit(2);
    }
}

void gpu_open(const char *folder)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "no libcuda.so.1\n");
        exit(77);
    }
#define X(name)                                                                                                        \
    *(void **)&cu.name = dlsym(library, TEXT(name));                                                                   \
    if (!cu.name) {                                                                                                    \
        fprintf(stderr, "libcuda has no %s\n", TEXT(name));                                                            \
        exit(2);                                                                                                       \
    }
    CALLS(X)
#undef X
    CUdevice device;
    CUcontext context;
    int n = 0;
    DO(cuInit(0));
    DO(cuDeviceGet(&device, 0));
    DO(cuDeviceGetAttribute(&n, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
    sm_count = (unsigned)n;
    DO(cuDevicePrimaryCtxRetain(&context, device));
    DO(cuCtxSetCurrent(context));
    load_folder(folder);
    DO(cuStreamCreate(&stream, CU_STREAM_DEFAULT)); /* in order with plain copies */
    DO(cuStreamCreate(&side, CU_STREAM_NON_BLOCKING));
    DO(cuMemAlloc(&heap, HEAP_BYTES));
    DO(cuMemAlloc(&control, 1024 + 4 * MAX_TILES));
    DO(cuMemsetD8(control, 0, 1024 + 4 * MAX_TILES));
}

unsigned gpu_sm_count(void)
{
    return sm_count;
}

uint64_t gpu_alloc(size_t bytes)
{
    uint64_t at = heap + heap_used;
    heap_used += (bytes + 511) / 256 * 256; /* at least a byte between two blocks */
    if (heap_used > HEAP_BYTES) {
        fprintf(stderr, "test heap is full\n");
        exit(2);
    }
    return at;
}
void gpu_forget(void)
{
    heap_used = 0;
}
void gpu_put(uint64_t to, const void *from, size_t bytes)
{
    if (bytes) {
        DO(cuMemcpyHtoD(to, from, bytes));
    }
}
void gpu_get(void *to, uint64_t from, size_t bytes)
{
    if (bytes) {
        DO(cuMemcpyDtoH(to, from, bytes));
    }
}
void gpu_fill(uint64_t to, uint8_t byte, size_t bytes)
{
    if (bytes) {
        DO(cuMemsetD8(to, byte, bytes));
        DO(cuCtxSynchronize());
    }
}

void gpu_bind(reef_cuda_kernel *c, const uint64_t *base, uint64_t workspace)
{
    for (unsigned i = 0; i < c->n_relocs; i++) {
        const reef_cuda_reloc *r = &c->relocs[i];
        uint64_t at = (r->target == REEF_CUDA_STORAGE ? base[r->storage] : workspace) + (uint64_t)r->bytes;
        memcpy((char *)c->args + r->at, &at, sizeof at);
    }
}

static CUfunction find(const char *name, unsigned dynamic_smem)
{
    static struct {
        char name[64];
        CUfunction function;
    } known[256];
    static int n_known;
    CUfunction f;
    for (int i = 0; i < n_known; i++) {
        if (strcmp(known[i].name, name) == 0) {
            return known[i].function;
        }
    }
    for (int i = 0; i < n_modules; i++) {
        if (cu.cuModuleGetFunction(&f, modules[i], name) == CUDA_SUCCESS) {
            if (n_known < 256) {
                snprintf(known[n_known].name, sizeof known[n_known].name, "%s", name);
                known[n_known++].function = f;
            }
            if (dynamic_smem) { /* once: for as much as any candidate takes */
                dynamic_smem = 200 * 1024;
                DO(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)dynamic_smem));
            }
            return f;
        }
    }
    fprintf(stderr, "no kernel %s\n", name);
    exit(2);
}

static void launch(const char *name, const reef_cuda_kernel *c, unsigned blocks, reef_cuda_worker *worker,
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
        attributes[config.numAttrs++] = (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                                                            .value.clusterDim = {.x = c->cluster, .y = 1, .z = 1}};
    }
    void *params[2] = {c->args, worker};
    check(cu.cuLaunchKernelEx(&config, find(name, c->dynamic_smem), params, NULL), name);
}

void gpu_run_plain(const reef_cuda_kernel *c)
{
    launch(c->function, c, c->tiles, NULL, true);
    check(cu.cuStreamSynchronize(stream), c->variant);
}

void gpu_worker_begin(const reef_cuda_kernel *c)
{
    worker_tiles = c->tiles;
    run++;
}
void gpu_worker_revoked(bool revoked)
{
    const uint32_t words[2] = {++generation, run}, youngest = revoked ? generation : generation - 1;
    DO(cuMemcpyHtoD(control + 128, words, sizeof words));
    DO(cuMemcpyHtoD(control, &youngest, sizeof youngest));
}
void gpu_worker_revoke(void)
{
    DO(cuStreamWriteValue32(side, control, generation, 0));
    DO(cuStreamSynchronize(side));
}
void gpu_worker_start(const reef_cuda_kernel *c, unsigned workers)
{
    if (c->tiles > MAX_TILES) {
        fprintf(stderr, "%s: %u tiles are more than the test has flags for\n", c->variant, c->tiles);
        exit(2);
    }
    reef_cuda_worker w = {.revoked = control,
                          .lost = control + 64,
                          .control = control + 128,
                          .begun = control + 256,
                          .done = control + 1024,
                          .tiles = c->tiles,
                          .share = 1,
                          .cluster = c->cluster > 1 ? c->cluster : 1};
    launch(c->worker, c, c->loops ? workers : c->tiles, &w, false);
}
bool gpu_worker_wait(uint64_t within_ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const uint64_t start = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    for (;;) {
        const CUresult result = cu.cuStreamQuery(stream);
        if (result != CUDA_ERROR_NOT_READY) {
            check(result, "worker");
            return true;
        }
        clock_gettime(CLOCK_MONOTONIC, &t);
        if ((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec - start > within_ns) {
            return false;
        }
    }
}
unsigned gpu_worker_done(void)
{
    static uint32_t flags[MAX_TILES];
    unsigned n = 0;
    gpu_get(flags, control + 1024, worker_tiles * 4);
    for (unsigned t = 0; t < worker_tiles; t++) {
        n += flags[t] == run;
    }
    return n;
}

double gpu_time_us(const reef_cuda_kernel *c, int count, bool programmatic)
{
    CUgraph graph;
    CUgraphExec exec;
    CUevent from, to;
    float best = 1e30f, ms;
    DO(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    for (int i = 0; i < count; i++) {
        launch(c->function, c, c->tiles, NULL, programmatic);
    }
    DO(cuStreamEndCapture(stream, &graph));
    DO(cuGraphInstantiate(&exec, graph, 0));
    DO(cuEventCreate(&from, CU_EVENT_DEFAULT));
    DO(cuEventCreate(&to, CU_EVENT_DEFAULT));
    for (int i = 0; i < 6; i++) {
        DO(cuEventRecord(from, stream));
        DO(cuGraphLaunch(exec, stream));
        DO(cuEventRecord(to, stream));
        DO(cuEventSynchronize(to));
        DO(cuEventElapsedTime(&ms, from, to));
        best = i > 0 && ms < best ? ms : best;
    }
    DO(cuGraphExecDestroy(exec));
    DO(cuGraphDestroy(graph));
    return (double)best * 1e3 / count;
}
