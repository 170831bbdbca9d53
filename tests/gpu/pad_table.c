/*
 * pad_table.c - two ways for the spare blocks of a real-time graph to find best-effort tiles, measured side by side.
 *
 *   pad_table OUT.json [--rounds N] [--runs N] [--seconds N] [--cubins FOLDER]
 *
 *   pull     what the product does (kernels/pad.cuh): a spare block reads the directory, takes a tile with one atomic
 *            addition, runs it and counts it; who counts the last tile of a kernel opens the next
 *   table    what the REEF paper does (section 5): ahead of the graph the host writes a slot for every spare block of every
 *            kernel: function, arguments, tile. The block reads its slot and calls the function
 *
 *      device   the table is copied into device memory by a node in front of the graph
 *      pinned   spare blocks read it where the host has written it
 *      short    a slot for each real-time kernel instead, copied by a kernel, and spare blocks wait for the kernel before
 *               theirs
 *
 * Nobody on the device says when a best-effort kernel is complete. So a kernel of the table begins in a real-time kernel
 * that begins after the one with the last tile of the kernel before has ended. With programmatic edges neighbours overlap:
 * one is left out between them, unless the spare blocks wait.
 *
 * The load is synthetic: a chain of kernels that compute for 4 us, and a source of kernels with 132 tiles of 3 us, both a
 * fixed number of multiplications and additions, each after the one before. Every variant has its turn in every round.
 *
 * A chain's time is that between two GPU events around its graph, copies of the table included. It is enqueued behind a
 * kernel that takes longer than enqueueing does, so the host's part is not in it; runs for which that was not so ("late")
 * are left out. Checked: every word that was stored; that every tile that was given out ran once, behind all of the kernel
 * before, and no other.
 *
 * Then what the host needs: the time to fill the table, and that of the copy. What it needs besides is to know how far the
 * stopped work has come; a trace says how long that takes ("leaves the device" of reef bench preempt --trace).
 */
#include <dlfcn.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "device/cuda/cuda.h"
#include "pad_table.h"

enum {
    KERNELS = 100, /* of the chain */
    RT_FMAS = 2000,
    BE_FMAS = 1500, /* an addition takes four cycles: 4 us and 3 us at 1980 MHz */
    RT_NS = 4000,
    BE_NS = 3000,
    MAX_BLOCKS = 132, /* of a kernel of the chain: its own, or spare ones */
    SOURCE_KERNELS = KERNELS + 4,
    SOURCE_TILES = 132,
    COPIES = 200,
    WARM_RUNS = 20,
    MAX_ROUNDS = 100,
    MAX_RUNS = 1000,
    LIMIT_S = 5, /* of every wait */
};

typedef enum way { WAY_PLAIN, WAY_PULL, WAY_DEVICE, WAY_PINNED, WAY_SHORT, WAYS } way;

static const struct {
    const char *name;
    way way;
    bool full;
} variants[] = {
    {"plain", WAY_PLAIN, false},
    {"pull_empty", WAY_PULL, false},
    {"table_empty_device", WAY_DEVICE, false},
    {"table_empty_pinned", WAY_PINNED, false},
    {"table_empty_short", WAY_SHORT, false},
    {"pull_full", WAY_PULL, true},
    {"table_full_device", WAY_DEVICE, true},
    {"table_full_pinned", WAY_PINNED, true},
    {"table_full_short", WAY_SHORT, true},
};
enum { VARIANTS = sizeof variants / sizeof variants[0] };

typedef struct samples {
    double *v;
    size_t n, room;
} samples;

/* What was measured of a variant. */
typedef struct row {
    samples us;
    uint64_t tiles, runs, late;
} row;

/* Blocks of each kernel of the chain. */
typedef struct shape {
    unsigned blocks, spare;
    CUgraphExec graphs[WAYS];
    row rows[VARIANTS];
    samples fill_ns[WAYS];             /* of one run's table, per real-time kernel */
    double copy_us[WAYS], copy_p99_us; /* median; of the copy by a node */
} shape;

/* For kernels of 66 blocks the product would choose 132 spare ones (cuda_pad_plan); for kernels of 132 it would choose none,
 * because then there is no room to set up the next kernel's. */
static shape shapes[] = {{.blocks = 66, .spare = 66}, {.blocks = 66, .spare = 132}, {.blocks = 132, .spare = 66}};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

/* Memory of a chain's tiles, or of the source's. */
typedef struct results {
    CUdeviceptr values, counts, expected;
} results;

/* A source as the device sees it. */
typedef struct image {
    reef_pad_directory directory;
    reef_pad_source source;
    reef_pad_kernel kernels[SOURCE_KERNELS];
    reef_cuda_control control;
} image;

/* In the place of the library's: these are in files. */
const reef_cuda_image reef_cuda_images[] = {{0}};

static struct {
    unsigned rounds, runs, seconds;
    const char *out, *cubins;
} options = {.rounds = 5, .runs = 120, .seconds = 14};

static const cuda_driver *cu;
static cuda_device device; /* as much of it as cuda_graph_add reads */
static CUstream stream;
static CUevent start, end;
static struct {
    CUfunction plain, pad, slots, delay, copy, check;
} functions;
static struct {
    unsigned regs, local_bytes, shared_bytes, scratch;
} padded;                              /* the form with spare blocks; of both ways */
static uint64_t ride_at, call_at;      /* of the product's and of the table's function */
static reef_pad_needs ride_needs;      /* what the product's needs */
static results chain, source;          /* results of either */
static CUdeviceptr source_args, found; /* table_work per kernel; table_found */
static CUdeviceptr live, open_image, closed_image;
static table_slot *slots; /* pinned */
static CUdeviceptr slots_pinned, slots_device;
static uint32_t delay_fmas = 60000;
static unsigned errors;
static const char *volatile doing = "starting";
static reef_error error;

/* CUDA_MEMCPY3D of cuGraphAddMemcpyNode, CUDA 4.0. */
typedef struct copy_end {
    size_t x, y, z, level;
    int type; /* 1: host, 2: device */
    void *host;
    CUdeviceptr at;
    void *array, *reserved;
    size_t pitch, height;
} copy_end;
typedef struct copy_params {
    copy_end from, to;
    size_t width, height, depth;
} copy_params;
static CUresult (*add_memcpy_node)(CUgraphNode *, CUgraph, const CUgraphNode *, size_t, const copy_params *, CUcontext);

/* ------------------------------------------------------------------ ends -- */

static void must(reef_status status)
{
    if (status) {
        fprintf(stderr, "pad_table: %s: %s\n", doing, error.message);
        exit(1);
    }
}
#define CU(call) must(CUDA_TRY(cu, &error, call))

/* A driver call that does not come back. */
static void overdue(int signal)
{
    static const char text[] = "pad_table: the driver did not come back: ";
    (void)signal;
    ssize_t written = write(2, text, sizeof text - 1);
    written += write(2, doing, strlen(doing));
    written += write(2, "\n", 1);
    _exit(written ? 1 : 2);
}

static void give_up(const char *what)
{
    fprintf(stderr, "pad_table: %s: waited %d s for %s\n", doing, LIMIT_S, what);
    fflush(NULL);
    _exit(1); /* leaving otherwise would wait for the GPU again */
}

static bool is_late(uint64_t begun_ns)
{
    return reef_now_ns() - begun_ns > (uint64_t)LIMIT_S * 1000000000u;
}

static void wait_for(CUstream which, const char *what)
{
    const uint64_t begun = reef_now_ns();
    CUresult result;
    while ((result = cu->stream_query(which)) == CUDA_NOT_READY) {
        if (is_late(begun)) {
            give_up(what);
        }
    }
    must(cuda_check(cu, result, what, &error));
}

static void mistake(const char *what, const char *name, unsigned long long is, unsigned long long wanted)
{
    if (errors++ < 10) {
        fprintf(stderr, "pad_table: %s: %s: %llu, should be %llu\n", name, what, is, wanted);
    }
}

/* --------------------------------------------------------------- samples -- */

static void add_sample(samples *s, double value)
{
    if (s->n == s->room) {
        s->room = s->room ? 2 * s->room : 256;
        s->v = realloc(s->v, s->room * sizeof *s->v);
        if (!s->v) {
            fprintf(stderr, "pad_table: out of memory\n");
            exit(1);
        }
    }
    s->v[s->n++] = value;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* 0 where there are none. */
static double percentile(samples *s, unsigned percent)
{
    if (s->n == 0) {
        return 0;
    }
    qsort(s->v, s->n, sizeof *s->v, compare);
    const size_t at = s->n * percent / 100;
    return s->v[at < s->n ? at : s->n - 1];
}

/* ---------------------------------------------------------------- set up -- */

static CUdeviceptr alloc(size_t bytes)
{
    CUdeviceptr at;
    CU(mem_alloc(&at, bytes));
    CU(memset8(at, 0, bytes));
    return at;
}

static CUdeviceptr alloc_with(const void *from, size_t bytes)
{
    const CUdeviceptr at = alloc(bytes);
    CU(memcpy_to_device(at, from, bytes));
    return at;
}

static void *alloc_pinned(size_t bytes, CUdeviceptr *at)
{
    bytes = (bytes + 4095) / 4096 * 4096;
    void *memory = aligned_alloc(4096, bytes);
    if (!memory) {
        fprintf(stderr, "pad_table: out of memory\n");
        exit(1);
    }
    memset(memory, 0, bytes);
    CU(host_register(memory, bytes, CUDA_HOST_REGISTER_PORTABLE | CUDA_HOST_REGISTER_DEVICEMAP));
    CU(host_device_pointer(at, memory, 0));
    return memory;
}

static CUlibrary load_cubin(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", options.cubins, name);
    FILE *file = fopen(path, "rb");
    enum { MOST = 16 << 20 };
    char *bytes = malloc(MOST);
    const size_t size = file && bytes ? fread(bytes, 1, MOST - 1, file) : 0;
    if (!size) {
        fprintf(stderr, "pad_table: cannot read %s (make gpu-programs; --cubins says where they are)\n", path);
        exit(1);
    }
    fclose(file);
    CUlibrary library;
    CU(library_load(&library, bytes, NULL, NULL, 0, NULL, NULL, 0));
    free(bytes);
    return library;
}

static CUfunction function_of(CUlibrary library, const char *name)
{
    CUkernel kernel;
    CU(library_kernel(&kernel, library, name));
    return (CUfunction)kernel; /* the driver takes either */
}

static unsigned attribute_of(CUfunction function, int which)
{
    int value = 0;
    CU(kernel_attribute(&value, which, (CUkernel)function, device.gpu->device));
    return (unsigned)value;
}

static unsigned up_to_scratch(unsigned bytes)
{
    return (bytes + REEF_PAD_SCRATCH - 1) / REEF_PAD_SCRATCH * REEF_PAD_SCRATCH;
}

/* The address of a function that was compiled into the module is in a variable of it. */
static uint64_t function_address(CUlibrary library, const char *name)
{
    CUdeviceptr variable;
    size_t bytes;
    uint64_t address = 0;
    CU(library_global(&variable, &bytes, library, name));
    CU(memcpy_to_host(&address, variable, sizeof address));
    return address;
}

/* Both ways need the same of a function that rides; says whether the form with spare blocks has it. */
static void load_code(void)
{
    doing = "loading the kernels";
    CUlibrary plain = load_cubin("pad_table.cubin"), pads = load_cubin("pad_table_pads.cubin"),
              rides = load_cubin("pad_table_rides.cubin");
    functions.plain = function_of(plain, "pad_table_work");
    functions.delay = function_of(plain, "pad_table_delay");
    functions.copy = function_of(plain, "pad_table_copy");
    functions.check = function_of(plain, "pad_table_check");
    functions.pad = function_of(pads, "pad_table_work_pad");
    functions.slots = function_of(pads, "pad_table_work_slots");
    const CUfunction rider = function_of(rides, "pad_table_work_rider"),
                     caller = function_of(rides, "pad_table_work_caller");
    ride_at = function_address(rides, "pad_table_work_at");
    call_at = function_address(rides, "pad_table_work_call_at");
    const unsigned regs = attribute_of(rider, CUDA_FUNC_REGISTERS), other = attribute_of(caller, CUDA_FUNC_REGISTERS);
    ride_needs = (reef_pad_needs){
        .ns = BE_NS,
        .dynamic_smem = up_to_scratch(attribute_of(rider, CUDA_FUNC_STATIC_SMEM)),
        .threads = TABLE_THREADS,
        .regs = (uint16_t)(regs > other ? regs : other),
        .local_bytes = (uint16_t)attribute_of(rider, CUDA_FUNC_LOCAL_BYTES),
        .cluster = 1,
    };
    const CUfunction forms[] = {functions.pad, functions.slots};
    for (size_t i = 0; i < 2; i++) {
        padded.regs = attribute_of(forms[i], CUDA_FUNC_REGISTERS);
        padded.local_bytes = attribute_of(forms[i], CUDA_FUNC_LOCAL_BYTES);
        padded.shared_bytes = attribute_of(forms[i], CUDA_FUNC_STATIC_SMEM);
        padded.scratch = up_to_scratch(padded.shared_bytes);
        if (!ride_at || !call_at || padded.regs < ride_needs.regs || padded.local_bytes < ride_needs.local_bytes ||
            padded.scratch < ride_needs.dynamic_smem) {
            fprintf(stderr,
                    "pad_table: the kernels with spare blocks have no room for a tile (%u registers, %u needed)\n",
                    padded.regs, (unsigned)ride_needs.regs);
            exit(1);
        }
    }
}

static void open_device(void)
{
    doing = "opening the device";
    cu = cuda_driver_load(&error);
    if (!cu || !cuda_gpu_at(0)) {
        fprintf(stderr, "pad_table: no device: %s\n", cu ? "the driver names no GPU" : error.message);
        exit(1);
    }
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL); /* once more: one call is not in the table */
    *(void **)&add_memcpy_node = library ? dlsym(library, "cuGraphAddMemcpyNode") : NULL;
    device.cu = cu;
    device.gpu = cuda_gpu_at(0);
    if (device.gpu->major != 9 || device.gpu->minor != 0 || !add_memcpy_node || !cu->library_global ||
        !cu->kernel_attribute || !cu->graph_add_edges) {
        fprintf(stderr,
                "pad_table: needs a GPU of compute capability 9.0 and a driver for CUDA 12.3; here: %s, CUDA %d.%d\n",
                device.gpu->description, cu->version / 1000, cu->version % 1000 / 10);
        exit(1);
    }
    CU(ctx_create(&device.context, CUDA_CTX_MAP_HOST, device.gpu->device));
    CU(ctx_priorities(&device.least_priority, &device.greatest_priority));
    CU(stream_create(&stream, CUDA_STREAM_NON_BLOCKING, device.greatest_priority));
    CU(event_create(&start, 0));
    CU(event_create(&end, 0));
}

static results make_results(unsigned tiles, unsigned fmas)
{
    uint32_t expected[TABLE_THREADS];
    for (unsigned t = 0; t < TABLE_THREADS; t++) {
        float x = TABLE_SEED(t);
        for (unsigned i = 0; i < fmas; i++) {
            x = fmaf(x, TABLE_FACTOR, TABLE_TERM);
        }
        memcpy(&expected[t], &x, sizeof x);
    }
    return (results){.values = alloc((size_t)tiles * TABLE_THREADS * 4),
                     .counts = alloc((size_t)tiles * 4),
                     .expected = alloc_with(expected, sizeof expected)};
}

/* Arguments of kernel k of either, with so many tiles each. */
static table_work work_of(const results *of, unsigned k, unsigned tiles, unsigned fmas)
{
    const uint64_t first = (uint64_t)k * tiles;
    return (table_work){.values = of->values + first * TABLE_THREADS * 4,
                        .counts = of->counts + first * 4,
                        .early = found + offsetof(table_found, early),
                        .fmas = fmas,
                        .mark = (uint32_t)first};
}

static CUdeviceptr args_of(unsigned k)
{
    return source_args + k * sizeof(table_work);
}

/* The source as the end of stopped workers leaves it (io.cu, open_source), with nothing done; and closed. */
static void make_source(void)
{
    static table_work args[SOURCE_KERNELS];
    static image made;
    for (unsigned k = 0; k < SOURCE_KERNELS; k++) {
        args[k] = work_of(&source, k, SOURCE_TILES, BE_FMAS);
        args[k].before = k ? args[k - 1].counts : 0;
        args[k].before_tiles = SOURCE_TILES;
    }
    source_args = alloc_with(args, sizeof args);
    live = alloc(sizeof made);
    const CUdeviceptr done = alloc((size_t)SOURCE_KERNELS * SOURCE_TILES * 4);
    CUdeviceptr word;
    alloc_pinned(sizeof(uint64_t), &word);
    made.source = (reef_pad_source){.directory = live + offsetof(image, directory),
                                    .kernels = live + offsetof(image, kernels),
                                    .control = live + offsetof(image, control),
                                    .word = word,
                                    .n_kernels = SOURCE_KERNELS,
                                    .run = 1};
    made.control.run = 1;
    made.directory.kernels[0] = made.source.kernels;
    made.directory.needs[0] = ride_needs;
    for (unsigned k = 0; k < SOURCE_KERNELS; k++) {
        made.kernels[k] = (reef_pad_kernel){.function = ride_at,
                                            .args = args_of(k),
                                            .done = done + (uint64_t)k * SOURCE_TILES * 4,
                                            .source = live + offsetof(image, source),
                                            .needs = ride_needs,
                                            .tiles = SOURCE_TILES,
                                            .next = k + 1 < SOURCE_KERNELS ? k + 1 : REEF_PAD_END};
    }
    closed_image = alloc_with(&made, sizeof made);
    made.directory.claim[0] = REEF_CLAIM(0, SOURCE_TILES);
    open_image = alloc_with(&made, sizeof made);
}

/* ---------------------------------------------------------------- graphs -- */

static CUgraphNode add_node(CUgraph graph, CUfunction function, unsigned blocks, unsigned threads, unsigned smem,
                            void *args, void *second, CUgraphNode after)
{
    const reef_cuda_kernel code = {.tiles = blocks, .threads = threads, .dynamic_smem = smem};
    CUgraphNode node = NULL;
    must(cuda_graph_add(&device, graph, &code, function, args, second, device.context, &after, after ? 1 : 0, &node,
                        &error));
    return node;
}

static size_t table_bytes(const shape *s, way w)
{
    return sizeof(table_slot) * KERNELS * (w == WAY_SHORT ? 1 : s->spare);
}

/* The table's copy: a copy by a node, or a kernel. */
static CUgraphNode add_copy(CUgraph graph, const shape *s, way w)
{
    CUgraphNode node = NULL;
    if (w == WAY_DEVICE) {
        const copy_params params = {.from = {.type = 1, .host = slots},
                                    .to = {.type = 2, .at = slots_device},
                                    .width = table_bytes(s, w),
                                    .height = 1,
                                    .depth = 1};
        must(cuda_check(cu, add_memcpy_node(&node, graph, NULL, 0, &params, device.context), "cuGraphAddMemcpyNode",
                        &error));
        return node;
    }
    /* Its three arguments: cuda_graph_add passes two, so it is added here. */
    uint64_t to = slots_device, from = slots_pinned;
    uint32_t n = (uint32_t)(table_bytes(s, w) / 16);
    void *params[] = {&to, &from, &n};
    const CUDA_KERNEL_NODE_PARAMS kernel = {.kern = (CUkernel)functions.copy,
                                            .ctx = device.context,
                                            .grid = {1, 1, 1},
                                            .block = {TABLE_THREADS, 1, 1},
                                            .params = params};
    CU(graph_add_kernel(&node, graph, NULL, 0, &kernel));
    return node;
}

/* Behind a copy by a node, an ordinary edge. */
static void add_edge(CUgraph graph, CUgraphNode from, CUgraphNode to)
{
    const CUgraphEdgeData full = {.type = CUDA_EDGE_FULL};
    CU(graph_add_edges(graph, &from, &to, &full, 1));
}

static CUgraphExec finish(CUgraph graph)
{
    CUgraphExec executable;
    CU(graph_instantiate(&executable, graph, 0));
    CU(graph_destroy(graph));
    CU(graph_upload(executable, stream));
    wait_for(stream, "a graph's upload");
    return executable;
}

/* Kernel k of the chain. */
static CUgraphNode add_link(CUgraph graph, const shape *s, way w, unsigned k, CUgraphNode after)
{
    table_work work = work_of(&chain, k, s->blocks, RT_FMAS);
    const unsigned smem = padded.scratch - padded.shared_bytes;
    if (w == WAY_PLAIN) {
        return add_node(graph, functions.plain, s->blocks, TABLE_THREADS, 0, &work, NULL, after);
    }
    if (w == WAY_PULL) {
        reef_cuda_pad pad = {.directory = live + offsetof(image, directory),
                             .tiles = s->blocks,
                             .turn = k,
                             .offers = {.ns = RT_NS,
                                        .dynamic_smem = padded.scratch,
                                        .threads = TABLE_THREADS,
                                        .regs = (uint16_t)padded.regs,
                                        .local_bytes = (uint16_t)padded.local_bytes,
                                        .cluster = 1}};
        return add_node(graph, functions.pad, s->blocks + s->spare, TABLE_THREADS, smem, &work, &pad, after);
    }
    const bool is_short = w == WAY_SHORT;
    table_pad pad = {.slots = (w == WAY_PINNED ? slots_pinned : slots_device) +
                              (uint64_t)k * (is_short ? 1 : s->spare) * sizeof(table_slot),
                     .tiles = s->blocks,
                     .shared = is_short,
                     .waits = is_short};
    return add_node(graph, functions.slots, s->blocks + s->spare, TABLE_THREADS, smem, &work, &pad, after);
}

static CUgraphExec make_chain(const shape *s, way w)
{
    CUgraph graph;
    CU(graph_create(&graph, 0));
    const CUgraphNode copy = w == WAY_DEVICE || w == WAY_SHORT ? add_copy(graph, s, w) : NULL;
    CUgraphNode last = w == WAY_SHORT ? copy : NULL;
    for (unsigned k = 0; k < KERNELS; k++) {
        last = add_link(graph, s, w, k, last);
        if (w == WAY_DEVICE && k == 0) {
            add_edge(graph, copy, last);
        }
    }
    return finish(graph);
}

/* The copy alone (WAY_PLAIN: none), and a kernel behind it that does nothing. */
static CUgraphExec make_copy(const shape *s, way w)
{
    CUgraph graph;
    uint32_t none = 0;
    CU(graph_create(&graph, 0));
    const CUgraphNode copy = w == WAY_PLAIN ? NULL : add_copy(graph, s, w);
    const CUgraphNode last = add_node(graph, functions.delay, 1, 32, 0, &none, NULL, w == WAY_SHORT ? copy : NULL);
    if (w == WAY_DEVICE) {
        add_edge(graph, copy, last);
    }
    return finish(graph);
}

/* ----------------------------------------------------------------- table -- */

/* The host's part of a run with a table; says how many tiles it gives out. The paper's rules, that a tile fits the kernel's
 * time and room, are not asked here: all do. */
static unsigned fill_table(const shape *s, way w, bool full)
{
    const bool is_short = w == WAY_SHORT;
    const unsigned apart = is_short ? 1 : 2, step = is_short ? 1 : s->spare;
    unsigned kernel = 0, tile = 0, ready = 0, given = 0; /* ready: where tiles of this kernel may stand */
    for (unsigned k = 0; k < KERNELS; k++) {
        const unsigned left = full && k >= ready && kernel < SOURCE_KERNELS ? SOURCE_TILES - tile : 0;
        const unsigned here = left < s->spare ? left : s->spare;
        table_slot *at = &slots[(size_t)k * step];
        const uint64_t args = args_of(kernel);
        for (unsigned i = 0; i < step; i++) {
            at[i] =
                i < here
                    ? (table_slot){.function = call_at, .args = args, .tile = tile + i, .tiles = is_short ? here : 1}
                    : (table_slot){0};
        }
        given += here;
        tile += here;
        if (tile == SOURCE_TILES) {
            tile = 0;
            kernel++;
            ready = k + apart;
        }
    }
    return given;
}

/* --------------------------------------------------------------- running -- */

/* The graph's time on the GPU in us. late: the host was slower than the delay in front of it. */
static double run_graph(CUgraphExec graph, bool *late)
{
    void *params[] = {&delay_fmas};
    float ms = 0;
    const uint64_t begun = reef_now_ns();
    CU(launch_kernel(functions.delay, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL));
    CU(event_record(start, stream));
    CU(graph_launch(graph, stream));
    CU(event_record(end, stream));
    const uint64_t enqueued_us = (reef_now_ns() - begun) / 1000;
    wait_for(stream, "a graph");
    CU(event_elapsed(&ms, start, end));
    *late = enqueued_us * device.gpu->clock_khz / 1000 > 4 * (uint64_t)delay_fmas;
    if (*late && delay_fmas < 300000) {
        delay_fmas += delay_fmas / 4;
    }
    return (double)ms * 1e3;
}

/* Looks at all tiles of the chain or of the source and clears them: `given` tiles have run, `want` times each, and no others. */
static void check(const char *name, const results *of, unsigned tiles, unsigned given, unsigned want)
{
    table_check args = {
        .values = of->values, .counts = of->counts, .expected = of->expected, .found = found, .want = want};
    void *params[] = {&args};
    table_found seen;
    CU(launch_kernel(functions.check, tiles, 1, 1, TABLE_THREADS, 1, 1, 0, stream, params, NULL));
    wait_for(stream, "the check of a run");
    CU(memcpy_to_host(&seen, found, sizeof seen));
    CU(memset8_async(found, 0, sizeof seen, stream));
    if (seen.done != given || seen.end != given) {
        mistake(seen.done != given ? "tiles done" : "end of the tiles done", name,
                seen.done != given ? seen.done : seen.end, given);
    }
    if (seen.wrong || seen.repeated || seen.early) {
        mistake(seen.wrong      ? "tiles with a wrong value"
                : seen.repeated ? "tiles run more than once"
                                : "threads ahead of the kernel before",
                name,
                seen.wrong      ? seen.wrong
                : seen.repeated ? seen.repeated
                                : seen.early,
                0);
    }
}

/* How many tiles were taken: the claim says it. */
static unsigned tiles_taken(void)
{
    uint64_t claim = 0;
    CU(memcpy_to_host(&claim, live + offsetof(image, directory.claim), sizeof claim));
    if (claim & REEF_CLAIM_THROUGH) {
        return SOURCE_KERNELS * SOURCE_TILES;
    }
    const unsigned next = REEF_CLAIM_NEXT(claim);
    return claim & REEF_CLAIM_OPEN
               ? REEF_CLAIM_KERNEL(claim) * SOURCE_TILES + (next < SOURCE_TILES ? next : SOURCE_TILES)
               : 0;
}

/* keep: it is no warm-up. Whatever surrounds a run is the same for all variants. */
static void take_turn(shape *s, unsigned v, unsigned runs, bool keep)
{
    const way w = variants[v].way;
    const bool full = variants[v].full;
    const char *name = variants[v].name;
    row *r = &s->rows[v];
    doing = name;
    alarm(30);
    for (unsigned i = 0; i < runs; i++) {
        bool late;
        CU(memcpy_on_device(live, w == WAY_PULL && full ? open_image : closed_image, sizeof(image), stream));
        const uint64_t begun = reef_now_ns();
        unsigned given = fill_table(s, w, full);
        const uint64_t filled = reef_now_ns();
        const double us = run_graph(s->graphs[w], &late);
        if (w == WAY_PULL || w == WAY_PLAIN) {
            given = tiles_taken();
        }
        check(name, &source, SOURCE_KERNELS * SOURCE_TILES, given, 1);
        if (keep && full) {
            add_sample(&s->fill_ns[w], (double)(filled - begun) / KERNELS);
        }
        if (keep && !late) {
            add_sample(&r->us, us);
            r->tiles += given;
            r->runs++;
        }
        r->late += keep && late;
    }
    check(name, &chain, KERNELS * s->blocks, KERNELS * s->blocks, runs);
}

static void measure_copies(shape *s)
{
    static const way ways[] = {WAY_PLAIN, WAY_DEVICE, WAY_SHORT};
    CUgraphExec graphs[3];
    samples us[3] = {0};
    doing = "the copy of a table";
    alarm(30);
    for (unsigned i = 0; i < 3; i++) {
        graphs[i] = make_copy(s, ways[i]);
    }
    for (unsigned n = 0; n < COPIES; n++) {
        for (unsigned i = 0; i < 3; i++) {
            bool late;
            const double time = run_graph(graphs[i], &late);
            if (!late && n >= COPIES / 10) {
                add_sample(&us[i], time);
            }
        }
    }
    const double without = percentile(&us[0], 50);
    s->copy_us[WAY_DEVICE] = percentile(&us[1], 50) - without;
    s->copy_p99_us = percentile(&us[1], 99) - without;
    s->copy_us[WAY_SHORT] = percentile(&us[2], 50) - without;
    for (unsigned i = 0; i < 3; i++) {
        cu->graph_exec_destroy(graphs[i]);
        free(us[i].v);
    }
}

/* ---------------------------------------------------------------- output -- */

/* As "580.159.04", or the CUDA version that it is for. */
static void driver_version(char *out, size_t bytes)
{
    char line[256] = "", *rest = NULL;
    snprintf(out, bytes, "CUDA %d.%d", cu->version / 1000, cu->version % 1000 / 10);
    FILE *file = fopen("/proc/driver/nvidia/version", "r");
    if (!file) {
        return;
    }
    if (fgets(line, sizeof line, file)) {
        for (char *word = strtok_r(line, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest)) {
            if (word[0] >= '1' && word[0] <= '9' && strchr(word, '.')) {
                snprintf(out, bytes, "%s", word);
                break;
            }
        }
    }
    fclose(file);
}

static void write_rows(FILE *json)
{
    printf("%-20s %7s %6s %10s %10s %9s %10s %10s\n", "variant", "blocks", "spare", "p50 us", "p99 us", "over", "tiles",
           "of slots");
    for (unsigned i = 0; i < SHAPES; i++) {
        shape *s = &shapes[i];
        const double plain = percentile(&s->rows[0].us, 50);
        for (unsigned v = 0; v < VARIANTS; v++) {
            row *r = &s->rows[v];
            const unsigned slots_here = variants[v].way == WAY_PLAIN ? 0 : KERNELS * s->spare;
            const double p50 = percentile(&r->us, 50), p99 = percentile(&r->us, 99);
            const double over = plain > 0 ? (p50 / plain - 1) * 100 : 0;
            const double tiles = r->runs ? (double)r->tiles / (double)r->runs : 0;
            if (r->us.n == 0) {
                mistake("runs that were timed", variants[v].name, 0, r->runs + r->late);
            }
            const double used = slots_here ? tiles / slots_here * 100 : 0;
            fprintf(json,
                    "%s{\"variant\": \"%s\", \"kernel_blocks\": %u, \"spare_blocks\": %u, \"chain_p50_us\": %.2f, "
                    "\"chain_p99_us\": %.2f, \"overhead_pct\": %.2f, \"tiles_per_run\": %.1f, \"slots_per_run\": %u, "
                    "\"slots_used_pct\": %.1f, \"runs\": %zu, \"late_runs\": %llu}",
                    i || v ? ",\n  " : "  ", variants[v].name, s->blocks, s->spare, p50, p99, over, tiles, slots_here,
                    used, r->us.n, (unsigned long long)r->late);
            printf("%-20s %7u %6u %10.2f %10.2f %8.2f%% %10.1f %9.1f%%\n", variants[v].name, s->blocks, s->spare, p50,
                   p99, over, tiles, used);
        }
    }
}

static void write_tables(FILE *json)
{
    static const way ways[] = {WAY_DEVICE, WAY_PINNED, WAY_SHORT};
    static const char *const names[] = {"device", "pinned", "short"};
    printf("\n%-8s %7s %6s %24s %10s %10s\n", "table", "blocks", "spare", "fill ns per kernel p50", "bytes", "copy us");
    for (unsigned i = 0; i < SHAPES; i++) {
        shape *s = &shapes[i];
        for (unsigned j = 0; j < 3; j++) {
            const way w = ways[j];
            const double fill = percentile(&s->fill_ns[w], 50);
            const size_t copied = w == WAY_PINNED ? 0 : table_bytes(s, w);
            fprintf(
                json,
                "%s{\"table\": \"%s\", \"kernel_blocks\": %u, \"spare_blocks\": %u, \"fill_ns_per_kernel_p50\": %.1f, "
                "\"fill_us_per_run_p50\": %.2f, \"copied_bytes_per_run\": %zu, \"copy_us_p50\": %.2f",
                i || j ? ",\n  " : "  ", names[j], s->blocks, s->spare, fill, fill * KERNELS * 1e-3, copied,
                s->copy_us[w]);
            if (w == WAY_DEVICE) {
                fprintf(json, ", \"copy_us_p99\": %.2f", s->copy_p99_us);
            }
            fprintf(json, "}");
            printf("%-8s %7u %6u %24.1f %10zu %10.2f\n", names[j], s->blocks, s->spare, fill, copied, s->copy_us[w]);
        }
    }
}

static void write_all(FILE *json, unsigned rounds, double seconds)
{
    char driver[64];
    driver_version(driver, sizeof driver);
    printf("%s, driver %s; a chain of %d kernels, %u rounds of %u runs\n\n", device.gpu->product, driver, KERNELS,
           rounds, options.runs);
    fprintf(json, "{\"gpu\": \"%s\", \"driver\": \"%s\", \"kernels\": %d, \"source_tiles_per_kernel\": %d,\n",
            device.gpu->product, driver, KERNELS, SOURCE_TILES);
    fprintf(json,
            " \"time\": \"GPU events around the graph, enqueued behind a kernel that takes longer than enqueueing\",\n"
            " \"rounds\": %u, \"runs_per_round\": %u, \"seconds\": %.1f,\n \"rows\": [\n",
            rounds, options.runs, seconds);
    write_rows(json);
    fprintf(json, "],\n \"tables\": [\n");
    write_tables(json);
    fprintf(json, "],\n \"errors\": %u}\n", errors);
}

/* ------------------------------------------------------------------ main -- */

static void usage(FILE *to)
{
    fprintf(
        to,
        "usage: pad_table OUT.json [--rounds N] [--runs N] [--seconds N] [--cubins FOLDER]\n"
        "\n"
        "Compares two ways for the spare blocks of padded real-time kernels to find best-effort tiles: to take them\n"
        "(the product), and to read a table that the host has filled (the REEF paper). Needs a GPU of compute "
        "capability\n"
        "9.0; takes about a quarter of a minute.\n"
        "\n"
        "  --rounds N        every variant has so many turns (5)\n"
        "  --runs N          of so many runs each (120)\n"
        "  --seconds N       no round begins later than that (14)\n"
        "  --cubins FOLDER   where pad_table.cubin, pad_table_pads.cubin and pad_table_rides.cubin are (where the\n"
        "                    program is)\n");
}

static unsigned number(const char *name, const char *text, unsigned most)
{
    char *rest;
    const unsigned long value = text ? strtoul(text, &rest, 10) : 0;
    if (!text || *rest || value < 1 || value > most) {
        fprintf(stderr, "pad_table: %s takes a number from 1 to %u\n", name, most);
        exit(2);
    }
    return (unsigned)value;
}

static void read_options(int argc, char **argv)
{
    static char folder[4096];
    const ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
    char *slash = length > 0 ? strrchr(folder, '/') : NULL;
    if (slash) {
        *slash = 0;
    }
    options.cubins = slash ? folder : ".";
    for (int i = 1; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            usage(stdout);
            exit(0);
        } else if (!strcmp(argv[i], "--rounds")) {
            options.rounds = number(argv[i++], next, MAX_ROUNDS);
        } else if (!strcmp(argv[i], "--runs")) {
            options.runs = number(argv[i++], next, MAX_RUNS);
        } else if (!strcmp(argv[i], "--seconds")) {
            options.seconds = number(argv[i++], next, 3600);
        } else if (!strcmp(argv[i], "--cubins") && next) {
            options.cubins = argv[++i];
        } else if (argv[i][0] != '-' && !options.out) {
            options.out = argv[i];
        } else {
            fprintf(stderr, "pad_table: '%s' is not understood\n", argv[i]);
            usage(stderr);
            exit(2);
        }
    }
    if (!options.out) {
        usage(stderr);
        exit(2);
    }
}

static FILE *open_out(void)
{
    FILE *json = fopen(options.out, "w");
    if (!json) {
        fprintf(stderr, "pad_table: cannot write %s\n", options.out);
        exit(1);
    }
    return json;
}

static void set_up(void)
{
    load_code();
    doing = "setting up";
    found = alloc(sizeof(table_found));
    chain = make_results(KERNELS * MAX_BLOCKS, RT_FMAS);
    source = make_results(SOURCE_KERNELS * SOURCE_TILES, BE_FMAS);
    make_source();
    const size_t most = sizeof(table_slot) * KERNELS * MAX_BLOCKS;
    slots = alloc_pinned(most, &slots_pinned);
    slots_device = alloc(most);
    CU(ctx_synchronize()); /* copies and clears without a stream: others do not wait for them */
    for (unsigned i = 0; i < SHAPES; i++) {
        for (unsigned w = 0; w < WAYS; w++) {
            shapes[i].graphs[w] = make_chain(&shapes[i], (way)w);
        }
    }
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    signal(SIGALRM, overdue);
    alarm(30);
    const uint64_t begun = reef_now_ns();
    open_device();
    fclose(open_out()); /* before a GPU's time is spent on it; what is left of a run that fails is no file */
    remove(options.out);
    set_up();
    unsigned rounds = 0;
    for (unsigned i = 0; i < SHAPES; i++) {
        for (unsigned v = 0; v < VARIANTS; v++) {
            take_turn(&shapes[i], v, WARM_RUNS, false);
        }
        measure_copies(&shapes[i]);
    }
    while (rounds < options.rounds && (rounds == 0 || reef_now_ns() - begun < options.seconds * UINT64_C(1000000000))) {
        for (unsigned i = 0; i < SHAPES; i++) {
            for (unsigned v = 0; v < VARIANTS; v++) {
                take_turn(&shapes[i], v, options.runs, true);
            }
        }
        rounds++;
    }
    alarm(0);
    FILE *json = open_out();
    write_all(json, rounds, (double)(reef_now_ns() - begun) * 1e-9);
    if (fclose(json)) {
        fprintf(stderr, "pad_table: cannot write %s\n", options.out);
        return 1;
    }
    if (errors) {
        fprintf(stderr, "pad_table: %u mistakes\n", errors);
    }
    return errors != 0;
}
