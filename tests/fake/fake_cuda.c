/*
 * fake_cuda.c - a driver without a GPU: libcuda.so.1 for the tests of src/device/cuda.
 *
 * It keeps the promises that the host code relies on, and looks for those that the host code must keep.
 *
 *   memory    is the process's own; an address outside of what was allocated faults
 *   stream    is a thread with a list of operations, carried out in order; streams run beside each other
 *   graph     remembers nodes, arguments and edges; a launch carries the nodes out in a random order that the edges allow
 *   kernel    is a C function of one tile, known by its name; plain forms run all tiles, worker forms go by the protocol
 *             of device.cuh: blocks take turns at random, ask whether their generation was revoked, skip what is done in
 *             this run, commit or abandon. io.cu's two kernels are here as well
 *   padding   padded forms run their own tiles and spare blocks by the protocol of pad.cuh, step by step and in turns at random;
 *             a ride is the tile's function again, which a variable of the library points to. pad.cu's kernel is here as well
 *   time      of events is made up: a microsecond per kernel and 10 ns per tile
 *   fault     poisons the context: every call answers ILLEGAL_ADDRESS until it is destroyed
 *
 * A kernel that the images name and this file does not know takes its time and does nothing.
 *
 * Locks: `lock` guards every table and list of handles; a stream's own lock its operations. `lock` is never held while a
 * stream's operation is carried out or a thread is joined.
 */
#include "fake/fake_cuda.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "device/cuda/driver.h"
#include "device/cuda/kernels/io.h"
#include "device/cuda/kernels/misc_args.h"
#include "device/cuda/kernels/pad.h"
#include "device/cuda/kernels/watch.h"
#include "device/cuda/kernels/worker.h"

/* Everything is exported under the driver's own names, and must have the types that the table of driver.h gives it. */
#define X(member, symbol, parameters) CUresult symbol parameters;
CUDA_DRIVER_LIST(X)
CUDA_DRIVER_OPTIONAL(X)
#undef X

enum {
    INVALID_VALUE = 1,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    MAX_DEPTH = 8,
    MAX_PARAMS_BYTES = 8192,
    LARGE_BYTES = 1 << 20,
    MAX_TOLD = 4,
    UNIT_REGISTERS = 65536,
    PAD_STATIC_BYTES = 1000,
    VERSION = 13000,
};
static const size_t DEFAULT_MEMORY = (size_t)16 << 30;

typedef enum handle_kind {
    CONTEXT,
    GREEN,
    STREAM,
    EVENT,
    GRAPH,
    EXECUTABLE,
    LIBRARY,
    KERNEL,
    DESCRIPTION,
    KINDS
} handle_kind;

/* What every handle points to. Handles stay in memory when they are destroyed, so that a stale one is recognised. */
typedef struct object {
    struct object *next;
    handle_kind kind;
    bool alive;
    struct CUctx_st *context; /* that it belongs to, or NULL */
} object;

struct CUctx_st {
    object base;
    struct CUctx_st *parent; /* of a green context's: it shares its fate */
    unsigned first_unit, units;
    _Atomic bool faulted;
};
struct CUgreenCtx_st {
    object base;
    CUcontext own;
};
struct CUdevResourceDesc_st {
    object base;
    unsigned first_unit, units;
};
struct CUlib_st {
    object base;
    const char *text;
};
struct CUkern_st {
    object base;
    CUlibrary library;
    const struct kernel_type *type; /* NULL: does nothing */
    bool worker, padded;
    int registers; /* unless the test says otherwise */
    char name[100];
};
struct CUevent_st {
    object base;
    uint64_t virtual_ns;
    bool pending;
};
struct CUgraphNode_st {
    CUkernel kernel;
    CUcontext context;
    unsigned grid, n_after, room;
    size_t number;
    CUgraphNode *after;
    _Alignas(16) char args[MAX_PARAMS_BYTES / 2];
    reef_cuda_worker worker;
    reef_cuda_pad pad;
};
struct CUgraph_st {
    object base;
    size_t n;
    CUgraphNode *nodes;
};
struct CUgraphExec_st {
    object base;
    size_t n;
    CUgraphNode *nodes;
    const uint32_t *flags; /* of the instance, if it has workers: where those of its first kernel are */
};

typedef enum op_kind { OP_WRITE32, OP_WRITE64, OP_SET, OP_COPY, OP_RECORD, OP_LAUNCH } op_kind;
typedef struct op {
    struct op *next;
    op_kind kind;
    CUdeviceptr at, from;
    uint64_t value;
    size_t bytes;
    CUevent event;
    CUgraphExec executable;
} op;
struct CUstream_st {
    object base;
    int priority;
    pthread_t thread; /* started by the first work */
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* work for the thread, or none left */
    op *first, *last;
    bool busy, closing;
    op_kind doing; /* while busy */
    uint64_t virtual_ns;
    uint64_t random; /* the thread's own */
};

typedef struct block { /* of memory */
    struct block *next;
    char *at;
    size_t bytes;
    CUcontext context;
    bool host; /* registered: not ours */
} block;

static struct {
    pthread_mutex_t lock;
    object *objects;
    block *blocks;
    size_t memory, used;
    bool lost, no_new_contexts;
    void (*hook)(void *, const fake_cuda_step *);
    void *hook_context;
    char complaint[400], faults[100];
    struct {
        char name[100];
        int registers, local_bytes;
    } told[MAX_TOLD]; /* of kernels */
    unsigned n_told, registers;
    _Atomic unsigned delay_us;
    const reef_watch_args *_Atomic watch; /* that is running */
    _Atomic uint64_t committed, abandoned, skipped, ridden, closes, passed_on;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .memory = (size_t)16 << 30, .registers = UNIT_REGISTERS};

static _Thread_local struct {
    CUcontext stack[MAX_DEPTH];
    int depth;
} current;

static void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    pthread_mutex_lock(&fake.lock);
    if (!fake.complaint[0]) {
        vsnprintf(fake.complaint, sizeof fake.complaint, format, list);
    }
    pthread_mutex_unlock(&fake.lock);
    va_end(list);
}

/* --------------------------------------------------------------- calls -- */

static struct call {
    const char *symbol;
    _Atomic unsigned made, fail_from, fail_to;
    _Atomic int result;
} calls[] = {
#define X(member, symbol, parameters) {#symbol, 0, 0, 0, 0},
    CUDA_DRIVER_LIST(X) CUDA_DRIVER_OPTIONAL(X)
#undef X
};
enum {
#define X(member, symbol, parameters) CALL_##symbol,
    CUDA_DRIVER_LIST(X) CUDA_DRIVER_OPTIONAL(X)
#undef X
        CALLS
};

static CUresult count_call(int index)
{
    struct call *call = &calls[index];
    unsigned n = atomic_fetch_add(&call->made, 1);
    return n >= atomic_load(&call->fail_from) && n < atomic_load(&call->fail_to) ? atomic_load(&call->result) : CUDA_OK;
}

static struct call *call_of(const char *symbol)
{
    for (int i = 0; i < CALLS; i++) {
        if (!strcmp(calls[i].symbol, symbol)) {
            return &calls[i];
        }
    }
    fprintf(stderr, "fake_cuda: there is no %s\n", symbol);
    abort();
}

/* Every entry point begins with one of these. */
#define COUNTED(symbol)                                                                                                \
    do {                                                                                                               \
        CUresult planned_ = count_call(CALL_##symbol);                                                                 \
        if (planned_) {                                                                                                \
            return planned_;                                                                                           \
        }                                                                                                              \
    } while (0)
#define IN_CONTEXT(symbol)                                                                                             \
    do {                                                                                                               \
        COUNTED(symbol);                                                                                               \
        CUresult usable_ = usable_context(#symbol);                                                                    \
        if (usable_) {                                                                                                 \
            return usable_;                                                                                            \
        }                                                                                                              \
    } while (0)
#define HANDLE(symbol, handle, kind)                                                                                   \
    do {                                                                                                               \
        if (!is_alive((const void *)(handle), kind)) {                                                                 \
            complain("%s of a handle that is not alive", #symbol);                                                     \
            return INVALID_HANDLE;                                                                                     \
        }                                                                                                              \
    } while (0)

static bool is_alive(const void *handle, handle_kind kind)
{
    pthread_mutex_lock(&fake.lock);
    const object *o = fake.objects;
    while (o && o != handle) {
        o = o->next;
    }
    bool alive = o && o->alive && o->kind == kind;
    pthread_mutex_unlock(&fake.lock);
    return alive;
}

static CUcontext here(void)
{
    return current.depth ? current.stack[current.depth - 1] : NULL;
}

static CUcontext root_of(CUcontext context)
{
    return context && context->parent ? context->parent : context;
}

static CUresult usable_context(const char *symbol)
{
    CUcontext context = here();
    if (!context) {
        complain("%s without a context", symbol);
        return INVALID_CONTEXT;
    }
    if (!is_alive(context, CONTEXT)) {
        complain("%s in a context that was destroyed", symbol);
        return INVALID_CONTEXT;
    }
    return atomic_load(&root_of(context)->faulted) ? FAKE_CUDA_ILLEGAL_ADDRESS : CUDA_OK;
}

static void *make(handle_kind kind, size_t bytes, CUcontext context)
{
    object *o = calloc(1, bytes);
    if (!o) {
        abort();
    }
    *o = (object){.kind = kind, .alive = true, .context = context};
    pthread_mutex_lock(&fake.lock);
    o->next = fake.objects;
    fake.objects = o;
    pthread_mutex_unlock(&fake.lock);
    return o;
}

/* False: somebody else has. */
static bool kill_object(void *handle)
{
    object *o = handle;
    pthread_mutex_lock(&fake.lock);
    bool was = o->alive;
    o->alive = false;
    pthread_mutex_unlock(&fake.lock);
    return was;
}

/* -------------------------------------------------------------- memory -- */

static bool is_memory(uint64_t at, uint64_t bytes)
{
    pthread_mutex_lock(&fake.lock);
    const block *b = fake.blocks;
    while (b && !(at >= (uintptr_t)b->at && at - (uintptr_t)b->at <= b->bytes &&
                  bytes <= b->bytes - (at - (uintptr_t)b->at))) {
        b = b->next;
    }
    pthread_mutex_unlock(&fake.lock);
    return b != NULL;
}

static void release(block *b)
{
    if (b->host) {
        ;
    } else if (b->bytes >= LARGE_BYTES) {
        munmap(b->at, b->bytes);
    } else {
        free(b->at);
    }
    free(b);
}

/* Takes the block that begins there off the list; NULL: there is none. */
static block *take_block(uint64_t at, bool host)
{
    block *found = NULL;
    pthread_mutex_lock(&fake.lock);
    for (block **p = &fake.blocks; *p && !found; p = found ? p : &(*p)->next) {
        if ((uintptr_t)(*p)->at == at && (*p)->host == host) {
            found = *p;
            *p = found->next;
            fake.used -= host ? 0 : found->bytes;
        }
    }
    pthread_mutex_unlock(&fake.lock);
    return found;
}

/* Zeroing much is giving the pages back; a single word may be one that kernels count in. */
static void set(char *at, unsigned char value, size_t bytes)
{
    if (bytes == 8 && (uintptr_t)at % 8 == 0) {
        __atomic_store_n((uint64_t *)(void *)at, value * UINT64_C(0x0101010101010101), __ATOMIC_RELEASE);
        return;
    }
    if (value == 0 && bytes >= 4 * LARGE_BYTES && (uintptr_t)at % 4096 == 0) {
        size_t whole = bytes / 4096 * 4096;
        if (!madvise(at, whole, MADV_DONTNEED)) {
            at += whole;
            bytes -= whole;
        }
    }
    memset(at, value, bytes);
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes)
{
    IN_CONTEXT(cuMemAlloc_v2);
    if (!bytes) {
        complain("cuMemAlloc of nothing");
        return INVALID_VALUE;
    }
    pthread_mutex_lock(&fake.lock);
    bool fits = bytes <= fake.memory && fake.used <= fake.memory - bytes;
    fake.used += fits ? bytes : 0;
    pthread_mutex_unlock(&fake.lock);
    if (!fits) {
        return CUDA_OUT_OF_MEMORY;
    }
    block *b = calloc(1, sizeof *b);
    size_t room = (bytes + 255) / 256 * 256;
    char *at = bytes < LARGE_BYTES
                   ? aligned_alloc(256, room)
                   : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!b || !at || at == MAP_FAILED) {
        abort();
    }
    if (bytes < LARGE_BYTES) {
        memset(at, 0xa5, bytes); /* nobody may count on zeros */
    }
    *b = (block){.at = at, .bytes = bytes, .context = root_of(here())};
    pthread_mutex_lock(&fake.lock);
    b->next = fake.blocks;
    fake.blocks = b;
    pthread_mutex_unlock(&fake.lock);
    *pointer = (uintptr_t)at;
    return CUDA_OK;
}

CUresult cuMemFree_v2(CUdeviceptr pointer)
{
    IN_CONTEXT(cuMemFree_v2);
    block *b = take_block(pointer, false);
    if (!b) {
        complain("cuMemFree of memory that was not allocated, or was freed");
        return INVALID_VALUE;
    }
    release(b);
    return CUDA_OK;
}

CUresult cuMemGetInfo_v2(size_t *available, size_t *total)
{
    IN_CONTEXT(cuMemGetInfo_v2);
    pthread_mutex_lock(&fake.lock);
    *available = fake.memory - fake.used;
    *total = fake.memory;
    pthread_mutex_unlock(&fake.lock);
    return CUDA_OK;
}

CUresult cuMemHostRegister_v2(void *memory, size_t bytes, unsigned flags)
{
    IN_CONTEXT(cuMemHostRegister_v2);
    if (!(flags & CUDA_HOST_REGISTER_DEVICEMAP)) {
        return INVALID_VALUE;
    }
    block *b = calloc(1, sizeof *b);
    if (!b) {
        abort();
    }
    *b = (block){.at = memory, .bytes = bytes, .context = root_of(here()), .host = true};
    pthread_mutex_lock(&fake.lock);
    b->next = fake.blocks;
    fake.blocks = b;
    pthread_mutex_unlock(&fake.lock);
    return CUDA_OK;
}

CUresult cuMemHostUnregister(void *memory)
{
    IN_CONTEXT(cuMemHostUnregister);
    block *b = take_block((uintptr_t)memory, true);
    if (!b) {
        complain("cuMemHostUnregister of memory that is not registered");
        return INVALID_VALUE;
    }
    free(b);
    return CUDA_OK;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *pointer, void *memory, unsigned flags)
{
    IN_CONTEXT(cuMemHostGetDevicePointer_v2);
    if (flags || !is_memory((uintptr_t)memory, 1)) {
        complain("cuMemHostGetDevicePointer of memory that is not registered");
        return INVALID_VALUE;
    }
    *pointer = (uintptr_t)memory;
    return CUDA_OK;
}

static CUresult in_range(const char *symbol, CUdeviceptr at, size_t bytes)
{
    if (is_memory(at, bytes)) {
        return CUDA_OK;
    }
    complain("%s of %zu bytes outside of what is allocated", symbol, bytes);
    return INVALID_VALUE;
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
    IN_CONTEXT(cuMemcpyHtoD_v2);
    CUresult result = in_range("cuMemcpyHtoD", to, bytes);
    if (!result) {
        memcpy((void *)(uintptr_t)to, from, bytes);
    }
    return result;
}

/* Word by word where it can be: kernels may be counting in what is read. */
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
    IN_CONTEXT(cuMemcpyDtoH_v2);
    CUresult result = in_range("cuMemcpyDtoH", from, bytes);
    size_t i = 0;
    for (; !result && from % 8 == 0 && i + 8 <= bytes; i += 8) {
        uint64_t word = __atomic_load_n((const uint64_t *)(uintptr_t)(from + i), __ATOMIC_RELAXED);
        memcpy((char *)to + i, &word, sizeof word);
    }
    if (!result) {
        memcpy((char *)to + i, (const char *)(uintptr_t)from + i, bytes - i);
    }
    return result;
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t bytes)
{
    IN_CONTEXT(cuMemsetD8_v2);
    CUresult result = in_range("cuMemsetD8", to, bytes);
    if (!result) {
        set((char *)(uintptr_t)to, value, bytes);
    }
    return result;
}

/* ------------------------------------------------------------- kernels -- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t draw(CUstream stream, uint32_t below)
{
    stream->random = stream->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(stream->random >> 33) % (below ? below : 1);
}

static void pause_at_random(CUstream stream)
{
    unsigned most = atomic_load_explicit(&fake.delay_us, memory_order_relaxed);
    if (most && draw(stream, 4) == 0) {
        struct timespec t = {.tv_nsec = 1000l * draw(stream, most + 1)};
        nanosleep(&t, NULL);
    } else if (most) {
        sched_yield();
    }
}

static void tell(CUstream stream, fake_cuda_step step)
{
    step.priority = stream->priority;
    pthread_mutex_lock(&fake.lock);
    void (*hook)(void *, const fake_cuda_step *) = fake.hook;
    void *context = fake.hook_context;
    pthread_mutex_unlock(&fake.lock);
    if (hook) {
        hook(context, &step);
    }
}

/* One tile's effect. False: it touches what is not there. */
typedef bool (*tile_fn)(const void *args, uint32_t tile);
typedef struct kernel_type {
    const char *name;
    size_t args_bytes;
    tile_fn tile;
    bool (*spins)(const void *args, uint64_t *ns);
    const char *ride; /* its name as such */
} kernel_type;

static float element_op(int code, float a, float b, double imm)
{
    switch (code) {
    case REEF_CUDA_ELT_CONST: return (float)imm;
    case REEF_CUDA_ELT_ADD: return a + b;
    case REEF_CUDA_ELT_SUB: return a - b;
    case REEF_CUDA_ELT_MUL: return a * b;
    case REEF_CUDA_ELT_FMOD: return fmodf(a, b);
    default: complain("an element operator %d that this driver does not know", code); return NAN;
    }
}

static int64_t offset_of(const reef_cuda_walk9 *w, int operand, int64_t item)
{
    int64_t offset = 0;
    if (w->rank == 1) {
        return item * w->stride[operand][0];
    }
    for (int d = w->rank - 1; d >= 0; d--) {
        offset += item % w->dims[d] * w->stride[operand][d];
        item /= w->dims[d];
    }
    return offset;
}

/* Somebody may be copying it meanwhile, in vain: reef_io_end behind workers that did nothing. */
static void put_float(float *to, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    __atomic_store_n((uint32_t *)(void *)to, bits, __ATOMIC_RELAXED);
}

static bool element_tile(const reef_cuda_elt_args *a, uint32_t tile, int width)
{
    int64_t first = (int64_t)tile * a->per_tile, end = first + a->per_tile;
    end = end < a->walk.total ? end : a->walk.total;
    for (int o = 0; o <= a->n_in && first < end; o++) { /* contiguous, as the tests' plans are */
        const char *base = o ? a->in[o - 1] : a->y;
        int64_t from = offset_of(&a->walk, o, first), to = offset_of(&a->walk, o, end - 1) + width;
        if (!is_memory((uintptr_t)base + 4 * (uint64_t)from, 4 * (uint64_t)(to - from))) {
            return false;
        }
    }
    for (int64_t i = first; i < end; i++) {
        for (int j = 0; j < width; j++) {
            float r[64];
            for (int o = 0; o < a->n_in; o++) {
                r[o] = ((const float *)a->in[o])[offset_of(&a->walk, 1 + o, i) + (a->splat[o] ? 0 : j)];
            }
            for (int k = 0; k < a->n_insns; k++) {
                const reef_cuda_elt_insn *s = &a->insns[k];
                r[s->dst % 64] = element_op(s->op, r[s->a % 64], r[s->b % 64], s->imm);
            }
            put_float((float *)a->y + offset_of(&a->walk, 0, i) + j, r[a->result % 64]);
        }
    }
    return true;
}

static bool element_tile_v1(const void *args, uint32_t tile)
{
    return element_tile(args, tile, 1);
}
static bool element_tile_v4(const void *args, uint32_t tile)
{
    return element_tile(args, tile, 4);
}

static bool spins(const void *args, uint64_t *ns)
{
    *ns = ((const reef_cuda_spin_args *)args)->tile_ns;
    return true;
}

static const kernel_type types[] = {
    {"reef_io_in", sizeof(reef_io_args), NULL, NULL, NULL},
    {"reef_io_end", sizeof(reef_io_args), NULL, NULL, NULL},
    {"reef_pad_close", sizeof(uint64_t), NULL, NULL, NULL},
    {"reef_watch", sizeof(reef_watch_args), NULL, NULL, NULL},
    {"reef_elt_f32_v1", sizeof(reef_cuda_elt_args), element_tile_v1, NULL, "reef_elt_f32_v1_ride"},
    {"reef_elt_f32_v4", sizeof(reef_cuda_elt_args), element_tile_v4, NULL, "reef_elt_f32_v4_ride"},
    {"reef_spin", sizeof(reef_cuda_spin_args), NULL, spins, "reef_spin_ride"},
};

static bool ends_with(const char *name, size_t length, const char *end)
{
    size_t n = strlen(end);
    return length > n && !strncmp(name + length - n, end, n);
}

/* *level: of a padded form, "reef_spin_pad64", the number; otherwise 0. */
static const kernel_type *type_of(const char *name, bool *worker, int *level)
{
    const char *pad = strstr(name, "_pad");
    size_t length = strlen(name);
    *worker = ends_with(name, length, "_be");
    *level = pad ? atoi(pad + 4) : 0;
    length -= *worker ? 3 : *level ? strlen(pad) : 0;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strlen(types[i].name) == length && !strncmp(types[i].name, name, length)) {
            return &types[i];
        }
    }
    return NULL;
}

static fake_cuda_step step_of(CUgraphNode node, fake_cuda_moment moment, uint32_t tile)
{
    fake_cuda_step step = {.moment = moment,
                           .function = node->kernel->name,
                           .tile = tile,
                           .grid = node->grid,
                           .first_unit = node->context->first_unit,
                           .units = node->context->units};
    memcpy(step.args, node->args, sizeof step.args);
    return step;
}

/* Word by word: tiles may be riding that write what is read. */
static void copy_words(char *to, const char *from, uint64_t bytes)
{
    uint64_t i = 0;
    for (; (uintptr_t)from % 4 == 0 && i + 4 <= bytes; i += 4) {
        uint32_t word = __atomic_load_n((const uint32_t *)(const void *)(from + i), __ATOMIC_RELAXED);
        memcpy(to + i, &word, sizeof word);
    }
    memcpy(to + i, from + i, bytes - i);
}

static bool io_copy(const reef_io_args *a)
{
    for (uint32_t i = 0; i < a->pieces; i++) {
        if (!is_memory(a->from[i], a->bytes[i]) || !is_memory(a->to[i], a->bytes[i])) {
            return false;
        }
        copy_words((char *)(uintptr_t)a->to[i], (const char *)(uintptr_t)a->from[i], a->bytes[i]);
    }
    return true;
}

/* The youngest generation that is revoked, by either word. */
static uint32_t revoked_now(uint64_t at)
{
    const uint64_t words = __atomic_load_n((const uint64_t *)(uintptr_t)at, __ATOMIC_ACQUIRE);
    reef_revoked revoked;
    memcpy(&revoked, &words, sizeof revoked);
    return (int32_t)(revoked.by_driver - revoked.by_watch) > 0 ? revoked.by_driver : revoked.by_watch;
}

/* The instance's control word: the host may write the next one while somebody asks in vain. */
static reef_cuda_control control_now(uint64_t at)
{
    const uint64_t word = __atomic_load_n((const uint64_t *)(uintptr_t)at, __ATOMIC_ACQUIRE);
    reef_cuda_control control;
    memcpy(&control, &word, sizeof control);
    return control;
}

static bool is_done(const uint32_t *flag, uint32_t run)
{
    return __atomic_load_n(flag, __ATOMIC_ACQUIRE) == run;
}

/* A tile has had its effect, of which there must be one in a run. */
static void set_done(const char *function, uint32_t *flag, uint32_t tile, uint32_t run)
{
    if (__atomic_exchange_n(flag, run, __ATOMIC_ACQ_REL) == run) {
        complain("%s: tile %u was run twice in run %u", function, tile, run);
    }
}

/* io.cu: the first kernel whose tiles are not all done. */
static uint32_t first_unfinished(const reef_io_args *a)
{
    const uint32_t run = control_now(a->worker).run;
    const uint32_t *done = (const uint32_t *)(uintptr_t)a->done;
    const uint32_t *bounds = (const uint32_t *)(uintptr_t)a->bounds + a->first;
    for (uint32_t k = 0; k < a->kernels; k++) {
        for (uint32_t i = bounds[k]; i < bounds[k + 1]; i++) {
            if (!is_done(&done[i], run)) {
                return a->first + k;
            }
        }
    }
    return a->first + a->kernels;
}

/* ------------------------------------------------------ kernel padding -- */

static uint64_t now(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void put(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static void put_needs(reef_pad_directory *directory, uint32_t slot, const reef_pad_needs *needs)
{
    uint64_t parts[2];
    memcpy(parts, needs, sizeof parts);
    put((uint64_t *)(void *)&directory->needs[slot], parts[0]);
    put((uint64_t *)(void *)&directory->needs[slot] + 1, parts[1]);
}

static reef_pad_needs needs_now(const reef_pad_directory *directory, uint32_t slot)
{
    const uint64_t parts[2] = {now((const uint64_t *)(const void *)&directory->needs[slot]),
                               now((const uint64_t *)(const void *)&directory->needs[slot] + 1)};
    reef_pad_needs needs;
    memcpy(&needs, parts, sizeof needs);
    return needs;
}

/* A source that is described where memory is; NULL: it is not. */
static reef_pad_source *source_at(uint64_t address)
{
    reef_pad_source *source = (reef_pad_source *)(uintptr_t)address;
    return is_memory(address, sizeof *source) && is_memory(source->directory, sizeof(reef_pad_directory)) &&
                   is_memory(source->kernels, source->n_kernels * sizeof(reef_pad_kernel)) &&
                   is_memory(source->control, sizeof(reef_cuda_control)) && is_memory(source->word, 8) &&
                   source->slot < REEF_PAD_SOURCES
               ? source
               : NULL;
}

/* io.cu: open_source. True: the launch in front has opened it, and its tiles may be riding. */
static bool open_source(reef_pad_source *source, uint32_t first, uint32_t behind)
{
    reef_pad_directory *directory = (reef_pad_directory *)(uintptr_t)source->directory;
    reef_pad_kernel *kernels = (reef_pad_kernel *)(uintptr_t)source->kernels;
    uint64_t *claim = &directory->claim[source->slot];
    if (now(claim) & (REEF_CLAIM_OPEN | REEF_CLAIM_THROUGH)) {
        return true;
    }
    if (first >= source->n_kernels) {
        return false;
    }
    for (uint32_t k = first; k < source->n_kernels; k++) {
        put(&kernels[k].ended, 0);
    }
    const uint32_t run = control_now(source->control).run;
    source->look_until = source->run == run && source->look_until > behind ? source->look_until : behind;
    source->run = run;
    while (first != REEF_PAD_END && kernels[first].tiles == 0) {
        first = kernels[first].next;
    }
    if (first != REEF_PAD_END) {
        put_needs(directory, source->slot, &kernels[first].needs);
        put(claim, REEF_CLAIM(first, kernels[first].tiles) | (first < source->look_until ? REEF_CLAIM_LOOK : 0));
    }
    return false;
}

/* pad.cu. A faulted context's riders never end. */
static bool run_pad_close(CUcontext root, uint64_t address)
{
    reef_pad_source *source = source_at(address);
    if (!source) {
        return false;
    }
    reef_pad_directory *directory = (reef_pad_directory *)(uintptr_t)source->directory;
    const reef_pad_kernel *kernels = (const reef_pad_kernel *)(uintptr_t)source->kernels;
    const uint64_t last = __atomic_exchange_n(&directory->claim[source->slot], 0, __ATOMIC_ACQ_REL);
    if (last & REEF_CLAIM_OPEN) {
        const reef_pad_kernel *kernel = &kernels[REEF_CLAIM_KERNEL(last)];
        const uint32_t next = REEF_CLAIM_NEXT(last), tiles = REEF_CLAIM_TILES(last),
                       taken = next < tiles ? next : tiles;
        /* Who has counted the last tile comes here and finds it closed: that is one more. */
        for (uint64_t ended; (ended = now(&kernel->ended)), ended >> 32 < taken + ((uint32_t)ended == kernel->tiles);) {
            if (atomic_load(&root->faulted)) {
                return true;
            }
            sched_yield();
        }
    }
    const uint32_t seen = last & REEF_CLAIM_THROUGH ? source->n_kernels
                          : last & REEF_CLAIM_OPEN  ? REEF_CLAIM_KERNEL(last) + 1
                                                    : 0;
    source->look_until = seen > source->look_until ? seen : source->look_until;
    return true;
}

static bool run_io_in(const reef_io_args *a)
{
    if (a->control && !is_memory(a->words, sizeof(reef_io_words))) {
        return false;
    }
    if (a->control) {
        __atomic_store_n(&((reef_io_words *)(uintptr_t)a->words)->begun_at_ns, now_ns(), __ATOMIC_RELAXED);
    }
    return io_copy(a);
}

static bool run_io_end(CUstream stream, CUgraphNode node)
{
    const reef_io_args *a = (const reef_io_args *)node->args;
    if (!io_copy(a)) {
        return false;
    }
    if (!a->control) {
        return true;
    }
    if (!is_memory(a->control, sizeof(reef_io_control)) || !is_memory(a->words, sizeof(reef_io_words))) {
        return false;
    }
    uint32_t progress = a->first + a->kernels;
    if (a->kernels && (int32_t)(control_now(a->worker).generation - revoked_now(a->revoked)) <= 0) {
        tell(stream, step_of(node, FAKE_CUDA_REPORT, 0));
        progress = first_unfinished(a);
        if (a->source) {
            reef_pad_source *source = source_at(a->source);
            if (!source) {
                return false;
            }
            /* What was copied is not what rides just now: that is left for the next launch. */
            if (open_source(source, progress, a->first + a->kernels) && a->pieces &&
                progress == a->first + a->kernels) {
                progress--;
            }
        }
    }
    reef_io_control *control = (reef_io_control *)(uintptr_t)a->control;
    reef_io_words *words = (reef_io_words *)(uintptr_t)a->words;
    uint64_t ended = ++control->ended;
    words->progress[ended % REEF_IO_REPORTS] = progress;
    __atomic_store_n(&words->ended_at_ns, now_ns(), __ATOMIC_RELAXED);
    __atomic_store_n(&words->ended, ended, __ATOMIC_RELEASE); /* pairs with the acquire in completion.c */
    return true;
}

/* Stays for the tile's time. `stop` is asked meanwhile; true: it said so. */
static bool spend(const kernel_type *type, const void *args, const reef_cuda_worker *w, uint32_t generation)
{
    uint64_t ns, until;
    if (!type || !type->spins || !type->spins(args, &ns)) {
        return false;
    }
    for (until = now_ns() + ns; now_ns() < until;) {
        if (w && (int32_t)(generation - revoked_now(w->revoked)) <= 0) {
            return true;
        }
        uint64_t left = until - now_ns();
        if (left > 30000 && left < ns + 1) {
            struct timespec t = {.tv_nsec = 20000};
            nanosleep(&t, NULL);
        }
    }
    return false;
}

static bool effect(CUgraphNode node, uint32_t tile)
{
    const kernel_type *type = node->kernel->type;
    return !type || !type->tile || type->tile(node->args, tile);
}

static bool plain_tile(CUstream stream, CUgraphNode node, uint32_t tile)
{
    tell(stream, step_of(node, FAKE_CUDA_TILE, tile));
    spend(node->kernel->type, node->args, NULL, 0);
    tell(stream, step_of(node, FAKE_CUDA_COMMIT, tile));
    return effect(node, tile);
}

static bool run_plain(CUstream stream, CUgraphNode node)
{
    for (uint32_t tile = 0; tile < node->grid; tile++) {
        if (!plain_tile(stream, node, tile)) {
            return false;
        }
    }
    return true;
}

/* A block of a padded form: one of its own tiles, or a spare one on its way through pad.cuh. */
typedef struct pad_block {
    enum { OWN, LOOKS, TAKES, RIDES, COUNTS, OPENS, SWAPS } at;
    uint32_t tile, slot, run;
    bool look;
    reef_pad_kernel *kernel;
    reef_pad_source *source;
    uint64_t wanted;
} pad_block;

static bool fits(const reef_pad_needs *needs, const reef_pad_needs *offers)
{
    return needs->ns <= offers->ns && needs->dynamic_smem <= offers->dynamic_smem &&
           needs->threads <= offers->threads && needs->regs <= offers->regs &&
           needs->local_bytes <= offers->local_bytes && needs->cluster <= offers->cluster;
}

static bool looks(const reef_cuda_pad *p, uint32_t index, pad_block *b)
{
    const reef_pad_directory *directory = (const reef_pad_directory *)(uintptr_t)p->directory;
    uint32_t could[REEF_PAD_SOURCES], n = 0;
    for (uint32_t i = 0; i < REEF_PAD_SOURCES; i++) {
        const uint64_t claim = now(&directory->claim[i]);
        const reef_pad_needs needs = needs_now(directory, i);
        if ((claim & REEF_CLAIM_OPEN) && REEF_CLAIM_NEXT(claim) < REEF_CLAIM_TILES(claim) && fits(&needs, &p->offers)) {
            could[n++] = i;
        }
    }
    b->slot = n ? could[(index + p->turn) % n] : 0;
    b->at = TAKES;
    return n > 0;
}

/* False: it has got nothing; *sound: it touched nothing that is not there. */
static bool takes(const reef_cuda_pad *p, pad_block *b, bool *sound)
{
    reef_pad_directory *directory = (reef_pad_directory *)(uintptr_t)p->directory;
    const uint64_t old = __atomic_fetch_add(&directory->claim[b->slot], 1, __ATOMIC_ACQ_REL);
    b->tile = REEF_CLAIM_NEXT(old);
    if (!(old & REEF_CLAIM_OPEN) || b->tile >= REEF_CLAIM_TILES(old)) {
        return false;
    }
    const uint64_t at = now(&directory->kernels[b->slot]) + REEF_CLAIM_KERNEL(old) * sizeof(reef_pad_kernel);
    *sound = is_memory(at, sizeof(reef_pad_kernel));
    if (!*sound) {
        complain("a tile of slot %u was taken, but its source is gone", b->slot);
        return false;
    }
    b->kernel = (reef_pad_kernel *)(uintptr_t)at;
    b->source = source_at(b->kernel->source);
    *sound = b->source != NULL;
    if (!*sound) {
        complain("a tile of slot %u was taken, but its source is gone", b->slot);
        return false;
    }
    b->look = old & REEF_CLAIM_LOOK;
    b->at = RIDES;
    if (!fits(&b->kernel->needs, &p->offers)) {
        __atomic_fetch_add(&b->kernel->ended, UINT64_C(1) << 32, __ATOMIC_ACQ_REL);
        return false;
    }
    return true;
}

static const kernel_type *ride_of(const reef_pad_kernel *kernel)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (kernel->function == (uintptr_t)&types[i] && types[i].ride) {
            return &types[i];
        }
    }
    return NULL;
}

/* Everything in front of the kernel is done; true also when the tile was. */
static bool rides(CUstream stream, CUgraphNode node, pad_block *b)
{
    reef_pad_kernel *kernel = b->kernel;
    const reef_pad_kernel *first = (const reef_pad_kernel *)(uintptr_t)b->source->kernels;
    const kernel_type *type = ride_of(kernel);
    uint32_t *done = (uint32_t *)(uintptr_t)kernel->done;
    b->run = control_now(b->source->control).run;
    b->at = COUNTS;
    if (!type || !is_memory(kernel->done, 4 * (uint64_t)kernel->tiles) || !is_memory(kernel->args, type->args_bytes)) {
        complain("a ride that is no function, or without its arguments");
        return false;
    }
    if (b->look && is_done(&done[b->tile], b->run)) {
        atomic_fetch_add(&fake.skipped, 1);
        return true;
    }
    fake_cuda_step step = step_of(node, FAKE_CUDA_TILE, b->tile);
    step.function = type->ride;
    step.grid = kernel->tiles;
    step.run = b->run;
    step.kernel = (uint32_t)(done - (const uint32_t *)(uintptr_t)first->done);
    memcpy(step.args, (const void *)(uintptr_t)kernel->args, sizeof step.args);
    tell(stream, step);
    pause_at_random(stream);
    for (const uint32_t *flag = (const uint32_t *)(uintptr_t)first->done; flag < done; flag++) {
        if (!is_done(flag, b->run)) {
            complain("%s: a tile rode before the kernels in front of it were done", type->ride);
            break;
        }
    }
    spend(type, (const void *)(uintptr_t)kernel->args, NULL, 0);
    step.moment = FAKE_CUDA_COMMIT;
    tell(stream, step);
    if (type->tile && !type->tile((const void *)(uintptr_t)kernel->args, b->tile)) {
        return false;
    }
    if (control_now(b->source->control).run != b->run) {
        complain("%s: a tile of run %u was riding when the next run began", type->ride, b->run);
    }
    set_done(type->ride, &done[b->tile], b->tile, b->run);
    atomic_fetch_add(&fake.ridden, 1);
    __atomic_fetch_add(&((reef_pad_directory *)(uintptr_t)b->source->directory)->tiles, 1, __ATOMIC_RELAXED);
    return true;
}

/* False: others' tiles are still to come. */
static bool counts(pad_block *b)
{
    const uint64_t before = __atomic_fetch_add(&b->kernel->ended, UINT64_C(1) << 32 | 1, __ATOMIC_ACQ_REL);
    b->at = OPENS;
    return (uint32_t)before + 1 == b->kernel->tiles;
}

/* The kernel's last tile is done: says so, and to what the claim is to be changed. */
static void opens(pad_block *b)
{
    const reef_pad_kernel *kernels = (const reef_pad_kernel *)(uintptr_t)b->source->kernels;
    const uint32_t next = b->kernel->next;
    b->wanted = REEF_CLAIM_THROUGH;
    if (next != REEF_PAD_END) {
        b->wanted = REEF_CLAIM(next, kernels[next].tiles) | (next < b->source->look_until ? REEF_CLAIM_LOOK : 0);
        put_needs((reef_pad_directory *)(uintptr_t)b->source->directory, b->source->slot, &kernels[next].needs);
    }
    const uint32_t run = control_now(b->source->control).run;
    if (run != b->run) {
        complain("a kernel of run %u was reported as one of run %u", b->run, run);
    }
    put((uint64_t *)(uintptr_t)b->source->word,
        (uint64_t)run << 32 | (next == REEF_PAD_END ? b->source->n_kernels : next));
    b->at = SWAPS;
}

/* Unless it was closed meanwhile: then whoever has closed it waits until that was seen. */
static void swaps(const reef_cuda_pad *p, pad_block *b)
{
    reef_pad_directory *directory = (reef_pad_directory *)(uintptr_t)p->directory;
    const reef_pad_kernel *kernels = (const reef_pad_kernel *)(uintptr_t)b->source->kernels;
    uint64_t seen = now(&directory->claim[b->slot]);
    while ((seen & REEF_CLAIM_OPEN) && REEF_CLAIM_KERNEL(seen) == (uint32_t)(b->kernel - kernels)) {
        if (__atomic_compare_exchange_n(&directory->claim[b->slot], &seen, b->wanted, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            return;
        }
    }
    __atomic_fetch_add(&b->kernel->ended, UINT64_C(1) << 32, __ATOMIC_ACQ_REL);
}

/* One step of a block. False: it has ended. */
static bool pad_step(CUstream stream, CUgraphNode node, uint32_t index, pad_block *b, bool *sound)
{
    const reef_cuda_pad *p = &node->pad;
    switch (b->at) {
    case OWN: *sound = plain_tile(stream, node, index); return false;
    case LOOKS: return looks(p, index, b);
    case TAKES: tell(stream, step_of(node, FAKE_CUDA_TAKE, b->slot)); return takes(p, b, sound);
    case RIDES: *sound = rides(stream, node, b); return *sound;
    case COUNTS: return counts(b);
    case OPENS:
        tell(stream, step_of(node, FAKE_CUDA_OPEN, b->slot));
        pause_at_random(stream);
        opens(b);
        return true;
    case SWAPS: swaps(p, b); return false;
    }
    return false;
}

static bool run_padded(CUstream stream, CUgraphNode node)
{
    const reef_cuda_pad *p = &node->pad;
    if (!is_memory(p->directory, sizeof(reef_pad_directory)) || p->tiles > node->grid || p->offers.cluster != 1) {
        complain("%s: %u blocks for %u tiles, clusters of %u", node->kernel->name, node->grid, p->tiles,
                 p->offers.cluster);
        return false;
    }
    uint32_t n = node->grid, *order = calloc(n, sizeof *order);
    pad_block *blocks = calloc(n, sizeof *blocks);
    bool sound = order && blocks;
    for (uint32_t i = 0; sound && i < n; i++) {
        order[i] = i;
        blocks[i].at = i < p->tiles ? OWN : LOOKS;
    }
    while (sound && n) {
        uint32_t i = draw(stream, n);
        if (!pad_step(stream, node, order[i], &blocks[order[i]], &sound)) {
            order[i] = order[--n];
        }
        /* A block on a unit of its own would get on meanwhile: one in a while loses its turn, not the others. */
        if (draw(stream, 16) == 0) {
            pause_at_random(stream);
        }
    }
    free(blocks);
    free(order);
    return sound;
}

typedef struct worker_block {
    uint32_t next; /* tile */
    bool begun;
} worker_block;

/* device.cuh: reef_begins, and the first test of reef_persist. */
static bool worker_goes(const reef_cuda_worker *w, uint32_t generation)
{
    bool current_generation = (int32_t)(generation - revoked_now(w->revoked)) > 0;
    uint32_t *begun = (uint32_t *)(uintptr_t)w->begun;
    if (!w->begun_only) {
        return current_generation;
    }
    if (current_generation) {
        *begun = generation;
        return true;
    }
    return *begun == generation;
}

/* Everything in front of a kernel that has an effect must be done in this run. */
static void check_order(CUgraphExec executable, CUgraphNode node, uint32_t run)
{
    const uint32_t *own = (const uint32_t *)(uintptr_t)node->worker.done;
    for (const uint32_t *flag = executable->flags; flag && flag < own; flag++) {
        if (!is_done(flag, run)) {
            complain("%s: a tile ran while tile %ld of the kernels before it (flags up to %ld) is not of run %u",
                     node->kernel->name, (long)(flag - executable->flags), (long)(own - executable->flags), run);
            return;
        }
    }
}

/* One tile of a worker's block. False: the kernel faulted; *on: the block goes on. */
static bool worker_tile(CUstream stream, CUgraphExec executable, CUgraphNode node, uint32_t tile,
                        reef_cuda_control control, bool *on)
{
    const reef_cuda_worker *w = &node->worker;
    uint32_t *done = (uint32_t *)(uintptr_t)w->done;
    uint32_t generation = control.generation + (w->begun_only ? 0x40000000u : 0);
    if (is_done(&done[tile], control.run)) {
        if (w->fresh) { /* it would not have looked */
            complain("%s: tile %u of a kernel that counts as fresh was done", node->kernel->name, tile);
        }
        atomic_fetch_add(&fake.skipped, 1);
        return true;
    }
    uint32_t seen = revoked_now(w->revoked); /* after the wait */
    fake_cuda_step step = step_of(node, FAKE_CUDA_TILE, tile);
    step.generation = control.generation;
    step.run = control.run;
    step.kernel = executable->flags ? (uint32_t)(done - executable->flags) : 0;
    tell(stream, step);
    pause_at_random(stream);
    bool stop = spend(node->kernel->type, node->args, w, generation);
    step.moment = FAKE_CUDA_COMMIT;
    tell(stream, step);
    /* What it acts on may be as old as the last test but one. */
    seen = draw(stream, 2) || stop ? revoked_now(w->revoked) : seen;
    if ((int32_t)(generation - seen) <= 0) {
        reef_cuda_lost *lost = (reef_cuda_lost *)(uintptr_t)w->lost;
        __atomic_fetch_add(&lost->tiles, 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&lost->unit_cycles, 1000 / w->share, __ATOMIC_RELAXED);
        atomic_fetch_add(&fake.abandoned, 1);
        *on = false;
        return true;
    }
    check_order(executable, node, control.run);
    if (!effect(node, tile)) {
        return false;
    }
    set_done(node->kernel->name, &done[tile], tile, control.run);
    atomic_fetch_add(&fake.committed, 1);
    return true;
}

static bool run_worker(CUstream stream, CUgraphExec executable, CUgraphNode node)
{
    const reef_cuda_worker *w = &node->worker;
    if (!is_memory(w->control, sizeof(reef_cuda_control)) || !is_memory(w->done, 4 * (uint64_t)w->tiles) ||
        !is_memory(w->revoked, sizeof(reef_revoked)) || !is_memory(w->begun, 4) ||
        !is_memory(w->lost, sizeof(reef_cuda_lost))) {
        return false;
    }
    reef_cuda_control control = control_now(w->control);
    uint32_t n = node->grid;
    worker_block *blocks = calloc(n, sizeof *blocks);
    for (uint32_t i = 0; blocks && i < n; i++) {
        blocks[i].next = i;
    }
    bool sound = blocks != NULL;
    while (sound && n) {
        uint32_t i = draw(stream, n);
        worker_block *b = &blocks[i];
        bool on = b->begun || worker_goes(w, control.generation);
        b->begun = true;
        if (on && b->next < w->tiles) {
            sound = worker_tile(stream, executable, node, b->next, control, &on);
            b->next += node->grid;
        }
        if (!on || b->next >= w->tiles) {
            *b = blocks[--n];
        }
    }
    free(blocks);
    return sound;
}

/* watch.cu. The host's words are read one by one here: they need not be of one moment. */
static bool run_watch(CUstream stream, const reef_watch_args *a)
{
    reef_watch_words *words = (reef_watch_words *)(uintptr_t)a->words;
    uint32_t *revoked = (uint32_t *)(uintptr_t)a->revoked, seen;
    if (!is_memory(a->words, sizeof *words) || !is_memory(a->revoked, sizeof *revoked)) {
        return false;
    }
    uint32_t known = __atomic_load_n(revoked, __ATOMIC_ACQUIRE);
    known = (int32_t)(a->known - known) > 0 ? a->known : known;
    __atomic_store_n(revoked, known, __ATOMIC_RELEASE);
    if (atomic_exchange(&fake.watch, a)) {
        complain("two watches at once");
    }
    __atomic_store_n(&words->begun, a->number, __ATOMIC_SEQ_CST);
    for (uint64_t begun = now_ns(), busy = begun, now = begun; now - busy <= a->idle_ns && now - begun <= a->limit_ns;
         now = now_ns()) {
        seen = __atomic_load_n(&words->revoked, __ATOMIC_SEQ_CST);
        if ((int32_t)(seen - known) > 0) {
            known = seen;
            pause_at_random(stream);
            __atomic_store_n(revoked, known, __ATOMIC_RELEASE);
            atomic_fetch_add(&fake.passed_on, 1);
            break;
        }
        if (__atomic_load_n(&words->paused, __ATOMIC_SEQ_CST)) {
            break;
        }
        busy = __atomic_load_n(&words->busy, __ATOMIC_RELAXED) ? now : busy;
        struct timespec t = {.tv_nsec = 5000};
        nanosleep(&t, NULL);
    }
    pause_at_random(stream);
    __atomic_store_n(&words->ended, a->number, __ATOMIC_SEQ_CST);
    seen = __atomic_load_n(&words->revoked, __ATOMIC_SEQ_CST);
    if ((int32_t)(seen - known) > 0) {
        __atomic_store_n(revoked, seen, __ATOMIC_RELEASE);
    }
    atomic_store(&fake.watch, NULL);
    return true;
}

static bool run_node(CUstream stream, CUgraphExec executable, CUgraphNode node)
{
    const char *name = node->kernel->name;
    pthread_mutex_lock(&fake.lock);
    bool faults = !strcmp(fake.faults, name);
    if (faults) {
        fake.faults[0] = '\0';
    }
    pthread_mutex_unlock(&fake.lock);
    if (faults) {
        return false;
    }
    stream->virtual_ns += 1000 + 10 * node->grid;
    tell(stream, step_of(node, FAKE_CUDA_KERNEL, 0));
    pause_at_random(stream);
    if (!strcmp(name, "reef_io_in")) {
        return run_io_in((const reef_io_args *)node->args);
    }
    if (!strcmp(name, "reef_io_end")) {
        return run_io_end(stream, node);
    }
    if (!strcmp(name, "reef_pad_close")) {
        uint64_t source;
        memcpy(&source, node->args, sizeof source);
        return run_pad_close(root_of(stream->base.context), source);
    }
    if (!strcmp(name, "reef_watch")) {
        return run_watch(stream, (const reef_watch_args *)node->args);
    }
    return node->kernel->worker   ? run_worker(stream, executable, node)
           : node->kernel->padded ? run_padded(stream, node)
                                  : run_plain(stream, node);
}

/* ------------------------------------------------------------- streams -- */

static bool run_executable(CUstream stream, CUgraphExec executable)
{
    bool *done = calloc(executable->n + 1, sizeof *done), sound = done != NULL;
    for (size_t left = executable->n; sound && left; left--) {
        size_t ready = 0, chosen = SIZE_MAX;
        for (size_t i = 0; i < executable->n; i++) {
            bool waits = done[i];
            for (unsigned j = 0; j < executable->nodes[i]->n_after && !waits; j++) {
                waits = !done[executable->nodes[i]->after[j]->number];
            }
            if (!waits && draw(stream, (uint32_t)++ready) == 0) {
                chosen = i;
            }
            if (ready == 8) {
                break; /* choice enough */
            }
        }
        if (chosen == SIZE_MAX) {
            complain("a graph with a cycle");
            break;
        }
        sound = run_node(stream, executable, executable->nodes[chosen]);
        done[chosen] = true;
    }
    free(done);
    return sound;
}

static bool carry_out(CUstream stream, const op *o)
{
    fake_cuda_step step = {.moment = o->kind == OP_SET ? FAKE_CUDA_CLEAR : FAKE_CUDA_WRITE, .tile = (uint32_t)o->value};
    switch (o->kind) {
    case OP_WRITE32:
        tell(stream, step);
        pause_at_random(stream);
        __atomic_store_n((uint32_t *)(uintptr_t)o->at, (uint32_t)o->value, __ATOMIC_RELEASE);
        return true;
    case OP_WRITE64:
        tell(stream, step);
        __atomic_store_n((uint64_t *)(uintptr_t)o->at, o->value, __ATOMIC_RELEASE);
        return true;
    case OP_SET:
        tell(stream, step);
        set((char *)(uintptr_t)o->at, (unsigned char)o->value, o->bytes);
        return true;
    case OP_COPY: memcpy((void *)(uintptr_t)o->at, (const void *)(uintptr_t)o->from, o->bytes); return true;
    case OP_RECORD:
        o->event->virtual_ns = stream->virtual_ns;
        __atomic_store_n(&o->event->pending, false, __ATOMIC_RELEASE);
        return true;
    case OP_LAUNCH: return run_executable(stream, o->executable);
    }
    return false;
}

static void *stream_main(void *argument)
{
    CUstream stream = argument;
    CUcontext root = root_of(stream->base.context);
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        while (!stream->first && !stream->closing) {
            pthread_cond_wait(&stream->changed, &stream->lock);
        }
        op *o = stream->first;
        if (!o) {
            break;
        }
        stream->first = o->next;
        stream->busy = true;
        stream->doing = o->kind;
        pthread_mutex_unlock(&stream->lock);
        if (!atomic_load(&root->faulted) && !carry_out(stream, o)) {
            atomic_store(&root->faulted, true);
            pthread_mutex_lock(&fake.lock);
            fake.lost |= fake.no_new_contexts;
            pthread_mutex_unlock(&fake.lock);
        }
        free(o);
        pthread_mutex_lock(&stream->lock);
        stream->busy = false;
        pthread_cond_broadcast(&stream->changed);
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

static void append(CUstream stream, op o)
{
    op *added = malloc(sizeof *added);
    if (!added) {
        abort();
    }
    *added = o;
    added->next = NULL;
    pthread_mutex_lock(&stream->lock);
    if (stream->first) {
        stream->last->next = added;
    } else {
        stream->first = added;
    }
    stream->last = added;
    if (!stream->started && pthread_create(&stream->thread, NULL, stream_main, stream)) {
        abort();
    }
    stream->started = true;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

static void drain(CUstream stream)
{
    pthread_mutex_lock(&stream->lock);
    while (stream->first || stream->busy) {
        pthread_cond_wait(&stream->changed, &stream->lock);
    }
    pthread_mutex_unlock(&stream->lock);
}

static CUstream make_stream(CUcontext context, int priority)
{
    CUstream stream = make(STREAM, sizeof *stream, context);
    static _Atomic uint64_t seed = 1;
    stream->priority = priority;
    stream->random = atomic_fetch_add(&seed, 1) * 0x9e3779b97f4a7c15u;
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->changed, NULL);
    return stream;
}

CUresult cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
    IN_CONTEXT(cuStreamCreateWithPriority);
    (void)flags;
    *out = make_stream(here(), priority);
    return CUDA_OK;
}

CUresult cuGreenCtxStreamCreate(CUstream *out, CUgreenCtx green, unsigned flags, int priority)
{
    IN_CONTEXT(cuGreenCtxStreamCreate);
    HANDLE(cuGreenCtxStreamCreate, green, GREEN);
    (void)flags;
    *out = make_stream(green->own, priority);
    return CUDA_OK;
}

/* Ends when its work is done. */
static void end_stream(CUstream stream)
{
    pthread_mutex_lock(&stream->lock);
    stream->closing = true;
    pthread_cond_broadcast(&stream->changed);
    bool started = stream->started;
    pthread_mutex_unlock(&stream->lock);
    if (started) {
        pthread_join(stream->thread, NULL);
    }
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    IN_CONTEXT(cuStreamDestroy_v2);
    HANDLE(cuStreamDestroy, stream, STREAM);
    if (kill_object(stream)) {
        end_stream(stream);
    }
    return CUDA_OK;
}

CUresult cuStreamQuery(CUstream stream)
{
    IN_CONTEXT(cuStreamQuery);
    HANDLE(cuStreamQuery, stream, STREAM);
    pthread_mutex_lock(&stream->lock);
    bool idle = !stream->first && !stream->busy;
    pthread_mutex_unlock(&stream->lock);
    return atomic_load(&root_of(stream->base.context)->faulted) ? FAKE_CUDA_ILLEGAL_ADDRESS
           : idle                                               ? CUDA_OK
                                                                : CUDA_NOT_READY;
}

CUresult cuStreamSynchronize(CUstream stream)
{
    IN_CONTEXT(cuStreamSynchronize);
    if (stream) { /* what NULL stands for does everything at once */
        HANDLE(cuStreamSynchronize, stream, STREAM);
        drain(stream);
    }
    return usable_context("cuStreamSynchronize");
}

CUresult cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr at, uint32_t value, unsigned flags)
{
    IN_CONTEXT(cuStreamWriteValue32_v2);
    HANDLE(cuStreamWriteValue32, stream, STREAM);
    CUresult result = flags ? INVALID_VALUE : in_range("cuStreamWriteValue32", at, 4);
    if (!result) {
        append(stream, (op){.kind = OP_WRITE32, .at = at, .value = value});
    }
    return result;
}

CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr at, uint64_t value, unsigned flags)
{
    IN_CONTEXT(cuStreamWriteValue64_v2);
    HANDLE(cuStreamWriteValue64, stream, STREAM);
    CUresult result = flags || at % 8 ? INVALID_VALUE : in_range("cuStreamWriteValue64", at, 8);
    if (!result) {
        append(stream, (op){.kind = OP_WRITE64, .at = at, .value = value});
    }
    return result;
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream)
{
    IN_CONTEXT(cuMemsetD8Async);
    HANDLE(cuMemsetD8Async, stream, STREAM);
    CUresult result = in_range("cuMemsetD8Async", to, bytes);
    if (!result) {
        append(stream, (op){.kind = OP_SET, .at = to, .value = value, .bytes = bytes});
    }
    return result;
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    IN_CONTEXT(cuMemcpyDtoDAsync_v2);
    HANDLE(cuMemcpyDtoDAsync, stream, STREAM);
    CUresult result = in_range("cuMemcpyDtoDAsync", to, bytes);
    result = result ? result : in_range("cuMemcpyDtoDAsync", from, bytes);
    if (!result) {
        append(stream, (op){.kind = OP_COPY, .at = to, .from = from, .bytes = bytes});
    }
    return result;
}

/* -------------------------------------------------------------- events -- */

CUresult cuEventCreate(CUevent *out, unsigned flags)
{
    IN_CONTEXT(cuEventCreate);
    (void)flags;
    *out = make(EVENT, sizeof **out, here());
    return CUDA_OK;
}

CUresult cuEventDestroy_v2(CUevent event)
{
    IN_CONTEXT(cuEventDestroy_v2);
    HANDLE(cuEventDestroy, event, EVENT);
    kill_object(event);
    return CUDA_OK;
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    IN_CONTEXT(cuEventRecord);
    HANDLE(cuEventRecord, event, EVENT);
    HANDLE(cuEventRecord, stream, STREAM);
    __atomic_store_n(&event->pending, true, __ATOMIC_RELEASE);
    append(stream, (op){.kind = OP_RECORD, .event = event});
    return CUDA_OK;
}

CUresult cuEventSynchronize(CUevent event)
{
    IN_CONTEXT(cuEventSynchronize);
    HANDLE(cuEventSynchronize, event, EVENT);
    while (__atomic_load_n(&event->pending, __ATOMIC_ACQUIRE)) {
        CUresult result = usable_context("cuEventSynchronize");
        if (result) {
            return result;
        }
        sched_yield();
    }
    return CUDA_OK;
}

CUresult cuEventElapsedTime(float *ms, CUevent start, CUevent end)
{
    IN_CONTEXT(cuEventElapsedTime);
    HANDLE(cuEventElapsedTime, start, EVENT);
    HANDLE(cuEventElapsedTime, end, EVENT);
    if (__atomic_load_n(&start->pending, __ATOMIC_ACQUIRE) || __atomic_load_n(&end->pending, __ATOMIC_ACQUIRE)) {
        return CUDA_NOT_READY;
    }
    *ms = (float)((double)(end->virtual_ns - start->virtual_ns) / 1e6);
    return CUDA_OK;
}

/* -------------------------------------------------------------- graphs -- */

static void free_nodes(CUgraphNode *nodes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(nodes[i]->after);
        free(nodes[i]);
    }
    free(nodes);
}

static void node_follows(CUgraphNode node, CUgraphNode before)
{
    if (node->n_after == node->room) {
        node->room = node->room ? 2 * node->room : 4;
        node->after = realloc(node->after, node->room * sizeof *node->after);
        if (!node->after) {
            abort();
        }
    }
    node->after[node->n_after++] = before;
}

static bool has_node(CUgraph graph, CUgraphNode node)
{
    for (size_t i = 0; i < graph->n; i++) {
        if (graph->nodes[i] == node) {
            return true;
        }
    }
    return false;
}

CUresult cuGraphCreate(CUgraph *out, unsigned flags)
{
    COUNTED(cuGraphCreate);
    (void)flags;
    *out = make(GRAPH, sizeof **out, NULL);
    return CUDA_OK;
}

CUresult cuGraphDestroy(CUgraph graph)
{
    COUNTED(cuGraphDestroy);
    HANDLE(cuGraphDestroy, graph, GRAPH);
    if (kill_object(graph)) {
        free_nodes(graph->nodes, graph->n);
        graph->nodes = NULL;
        graph->n = 0;
    }
    return CUDA_OK;
}

static CUgraphNode node_make(CUkernel kernel, CUcontext context, unsigned grid, void **params)
{
    CUgraphNode node = calloc(1, sizeof *node);
    if (!node) {
        abort();
    }
    node->kernel = kernel;
    node->context = context;
    node->grid = grid;
    if (kernel->type) {
        memcpy(node->args, params[0], kernel->type->args_bytes);
    }
    if (kernel->worker) {
        memcpy(&node->worker, params[1], sizeof node->worker);
    }
    if (kernel->padded) {
        memcpy(&node->pad, params[1], sizeof node->pad);
    }
    return node;
}

CUresult cuGraphAddKernelNode_v2(CUgraphNode *out, CUgraph graph, const CUgraphNode *after, size_t n,
                                 const CUDA_KERNEL_NODE_PARAMS *params)
{
    COUNTED(cuGraphAddKernelNode_v2);
    HANDLE(cuGraphAddKernelNode, graph, GRAPH);
    HANDLE(cuGraphAddKernelNode, params->kern, KERNEL);
    HANDLE(cuGraphAddKernelNode, params->ctx, CONTEXT);
    if (params->func || params->grid[0] == 0 || params->grid[1] != 1 || params->grid[2] != 1 || !params->block[0] ||
        params->block[0] > 1024) {
        complain("cuGraphAddKernelNode: %s with %u blocks of %u threads", params->kern->name, params->grid[0],
                 params->block[0]);
        return INVALID_VALUE;
    }
    CUgraphNode node = node_make(params->kern, params->ctx, params->grid[0], params->params);
    node->number = graph->n;
    for (size_t i = 0; i < n; i++) {
        node_follows(node, after[i]);
    }
    graph->nodes = realloc(graph->nodes, (graph->n + 1) * sizeof *graph->nodes);
    if (!graph->nodes) {
        abort();
    }
    graph->nodes[graph->n++] = node;
    *out = node;
    return CUDA_OK;
}

CUresult cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to,
                                   const CUgraphEdgeData *edges, size_t n)
{
    COUNTED(cuGraphAddDependencies_v2);
    HANDLE(cuGraphAddDependencies, graph, GRAPH);
    (void)edges;
    for (size_t i = 0; i < n; i++) {
        if (!has_node(graph, from[i]) || !has_node(graph, to[i]) || from[i] == to[i]) {
            complain("cuGraphAddDependencies: an edge between nodes that the graph does not have");
            return INVALID_VALUE;
        }
        for (unsigned j = 0; j < to[i]->n_after; j++) {
            if (to[i]->after[j] == from[i]) {
                complain("cuGraphAddDependencies: the same edge twice");
                return INVALID_VALUE;
            }
        }
        node_follows(to[i], from[i]);
    }
    return CUDA_OK;
}

CUresult cuGraphKernelNodeSetAttribute(CUgraphNode node, int attribute, const CUlaunchAttributeValue *value)
{
    COUNTED(cuGraphKernelNodeSetAttribute);
    (void)node, (void)attribute, (void)value;
    return CUDA_OK;
}

/* Where the flags of an instance's first kernel are: known from the report at the end of the graph. */
static const uint32_t *flags_of(CUgraph graph)
{
    for (size_t i = 0; i < graph->n; i++) {
        const reef_io_args *args = (const reef_io_args *)graph->nodes[i]->args;
        if (!strcmp(graph->nodes[i]->kernel->name, "reef_io_end") && args->kernels) {
            return (const uint32_t *)(uintptr_t)args->done;
        }
    }
    return NULL;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph graph, unsigned long long flags)
{
    IN_CONTEXT(cuGraphInstantiateWithFlags);
    HANDLE(cuGraphInstantiate, graph, GRAPH);
    (void)flags;
    CUgraphExec executable = make(EXECUTABLE, sizeof *executable, root_of(here()));
    executable->nodes = calloc(graph->n + 1, sizeof *executable->nodes);
    for (size_t i = 0; executable->nodes && i < graph->n; i++) {
        CUgraphNode copy = malloc(sizeof *copy);
        if (!copy) {
            abort();
        }
        *copy = *graph->nodes[i];
        copy->after = NULL;
        copy->n_after = copy->room = 0;
        executable->nodes[i] = copy;
        for (unsigned j = 0; j < graph->nodes[i]->n_after; j++) {
            node_follows(copy, executable->nodes[graph->nodes[i]->after[j]->number]); /* made before it */
        }
    }
    executable->n = graph->n;
    executable->flags = flags_of(graph);
    *out = executable;
    return CUDA_OK;
}

CUresult cuGraphExecDestroy(CUgraphExec executable)
{
    IN_CONTEXT(cuGraphExecDestroy);
    HANDLE(cuGraphExecDestroy, executable, EXECUTABLE);
    kill_object(executable); /* the nodes stay until the context goes: they may still be run */
    return CUDA_OK;
}

CUresult cuGraphUpload(CUgraphExec executable, CUstream stream)
{
    IN_CONTEXT(cuGraphUpload);
    HANDLE(cuGraphUpload, executable, EXECUTABLE);
    if (stream) { /* otherwise the context's own */
        HANDLE(cuGraphUpload, stream, STREAM);
    }
    return CUDA_OK;
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream)
{
    IN_CONTEXT(cuGraphLaunch);
    HANDLE(cuGraphLaunch, executable, EXECUTABLE);
    HANDLE(cuGraphLaunch, stream, STREAM);
    const CUcontext context = executable->n ? executable->nodes[0]->context : NULL;
    if (context && context != stream->base.context) { /* a driver does it, but a quarter of a millisecond later */
        complain("a graph is launched in a stream of another context than its kernels'");
    }
    tell(stream, (fake_cuda_step){.moment = FAKE_CUDA_SUBMIT});
    append(stream, (op){.kind = OP_LAUNCH, .executable = executable});
    return CUDA_OK;
}

CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned smem_bytes, CUstream stream, void **params, void **extra)
{
    IN_CONTEXT(cuLaunchKernel);
    HANDLE(cuLaunchKernel, function, KERNEL);
    HANDLE(cuLaunchKernel, stream, STREAM);
    (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)smem_bytes, (void)extra;
    CUgraphExec executable = make(EXECUTABLE, sizeof *executable, root_of(here()));
    executable->nodes = calloc(1, sizeof *executable->nodes);
    if (!executable->nodes) {
        abort();
    }
    executable->nodes[executable->n++] = node_make((CUkernel)function, here(), gx, params);
    atomic_fetch_add(&fake.closes, !strcmp(((CUkernel)function)->name, "reef_pad_close"));
    append(stream, (op){.kind = OP_LAUNCH, .executable = executable});
    kill_object(executable);
    return CUDA_OK;
}

/* ------------------------------------------------------------ contexts -- */

CUresult cuCtxCreate_v2(CUcontext *out, unsigned flags, CUdevice device)
{
    COUNTED(cuCtxCreate_v2);
    (void)flags;
    pthread_mutex_lock(&fake.lock);
    bool lost = fake.lost;
    pthread_mutex_unlock(&fake.lock);
    if (lost || device != 0 || current.depth == MAX_DEPTH) {
        return lost ? FAKE_CUDA_ILLEGAL_ADDRESS : INVALID_DEVICE;
    }
    CUcontext context = make(CONTEXT, sizeof *context, NULL);
    context->units = FAKE_CUDA_SMS;
    current.stack[current.depth++] = context;
    *out = context;
    return CUDA_OK;
}

static object *next_of(CUcontext context, handle_kind kind)
{
    pthread_mutex_lock(&fake.lock);
    object *o = fake.objects;
    while (o && !(o->alive && o->kind == kind && root_of(o->context) == context)) {
        o = o->next;
    }
    pthread_mutex_unlock(&fake.lock);
    return o;
}

/* Nobody runs them any more. */
static void drop_executables(CUcontext context)
{
    pthread_mutex_lock(&fake.lock);
    for (object *o = fake.objects; o; o = o->next) {
        CUgraphExec executable = (CUgraphExec)o;
        if (o->kind == EXECUTABLE && o->context == context) {
            free_nodes(executable->nodes, executable->n);
            executable->nodes = NULL;
            executable->n = 0;
        }
    }
    pthread_mutex_unlock(&fake.lock);
}

CUresult cuCtxDestroy_v2(CUcontext context)
{
    COUNTED(cuCtxDestroy_v2);
    HANDLE(cuCtxDestroy, context, CONTEXT);
    object *o;
    while ((o = next_of(context, STREAM))) {
        kill_object(o);
        end_stream((CUstream)o);
    }
    while ((o = next_of(context, EVENT)) || (o = next_of(context, EXECUTABLE)) || (o = next_of(context, GREEN)) ||
           (o = next_of(context, CONTEXT))) {
        kill_object(o);
    }
    kill_object(context);
    drop_executables(context);
    block *gone = NULL;
    pthread_mutex_lock(&fake.lock);
    for (block **p = &fake.blocks; *p;) {
        block *b = *p;
        if (b->context == context) {
            *p = b->next;
            fake.used -= b->host ? 0 : b->bytes;
            b->next = gone;
            gone = b;
        } else {
            p = &b->next;
        }
    }
    pthread_mutex_unlock(&fake.lock);
    while (gone) {
        block *b = gone;
        gone = b->next;
        release(b);
    }
    if (here() == context) {
        current.depth--;
    }
    return CUDA_OK;
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    COUNTED(cuCtxPushCurrent_v2);
    if (!context || current.depth == MAX_DEPTH) {
        return INVALID_CONTEXT;
    }
    HANDLE(cuCtxPushCurrent, context, CONTEXT);
    current.stack[current.depth++] = context;
    return CUDA_OK;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    COUNTED(cuCtxPopCurrent_v2);
    if (!current.depth) {
        complain("cuCtxPopCurrent without a context");
        return INVALID_CONTEXT;
    }
    *context = current.stack[--current.depth];
    return CUDA_OK;
}

CUresult cuCtxSynchronize(void)
{
    IN_CONTEXT(cuCtxSynchronize);
    CUcontext root = root_of(here());
    for (bool all = false; !all;) {
        all = true;
        pthread_mutex_lock(&fake.lock);
        for (object *o = fake.objects; o; o = o->next) {
            CUstream stream = (CUstream)o;
            if (o->kind == STREAM && o->alive && root_of(o->context) == root) {
                pthread_mutex_lock(&stream->lock);
                all = all && !stream->first && !stream->busy;
                pthread_mutex_unlock(&stream->lock);
            }
        }
        pthread_mutex_unlock(&fake.lock);
        sched_yield();
    }
    return usable_context("cuCtxSynchronize");
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    IN_CONTEXT(cuCtxGetStreamPriorityRange);
    *least = FAKE_CUDA_LEAST_PRIORITY;
    *greatest = FAKE_CUDA_GREATEST_PRIORITY;
    return CUDA_OK;
}

CUresult cuDeviceGetDevResource(CUdevice device, CUdevResource *resource, int type)
{
    COUNTED(cuDeviceGetDevResource);
    if (device != 0 || type != CUDA_RESOURCE_SM) {
        return INVALID_VALUE;
    }
    *resource = (CUdevResource){.type = type, .sm = {.count = FAKE_CUDA_SMS}};
    return CUDA_OK;
}

/* `alignment` says where a part begins; the host code has no business with it. */
CUresult cuDevSmResourceSplitByCount(CUdevResource *groups, unsigned *n, const CUdevResource *of, CUdevResource *rest,
                                     unsigned flags, unsigned count)
{
    COUNTED(cuDevSmResourceSplitByCount);
    unsigned rounded = (count + 7) / 8 * 8;
    if (flags || *n != 1 || rounded >= of->sm.count) {
        return INVALID_VALUE;
    }
    groups[0] = *rest = *of;
    groups[0].sm.count = rounded;
    rest->sm.count = of->sm.count - rounded;
    rest->sm.alignment = of->sm.alignment + rounded;
    return CUDA_OK;
}

CUresult cuDevResourceGenerateDesc(CUdevResourceDesc *out, CUdevResource *resources, unsigned n)
{
    COUNTED(cuDevResourceGenerateDesc);
    if (n != 1) {
        return INVALID_VALUE;
    }
    *out = make(DESCRIPTION, sizeof **out, NULL);
    (*out)->first_unit = resources->sm.alignment;
    (*out)->units = resources->sm.count;
    return CUDA_OK;
}

CUresult cuGreenCtxCreate(CUgreenCtx *out, CUdevResourceDesc description, CUdevice device, unsigned flags)
{
    IN_CONTEXT(cuGreenCtxCreate);
    HANDLE(cuGreenCtxCreate, description, DESCRIPTION);
    if (device != 0 || flags != CUDA_GREEN_DEFAULT_STREAM) {
        return INVALID_VALUE;
    }
    CUgreenCtx green = make(GREEN, sizeof *green, here());
    green->own = make(CONTEXT, sizeof *green->own, here());
    green->own->parent = root_of(here());
    green->own->first_unit = description->first_unit;
    green->own->units = description->units;
    *out = green;
    return CUDA_OK;
}

CUresult cuGreenCtxDestroy(CUgreenCtx green)
{
    COUNTED(cuGreenCtxDestroy);
    HANDLE(cuGreenCtxDestroy, green, GREEN);
    kill_object(green->own);
    kill_object(green);
    return CUDA_OK;
}

CUresult cuCtxFromGreenCtx(CUcontext *out, CUgreenCtx green)
{
    COUNTED(cuCtxFromGreenCtx);
    HANDLE(cuCtxFromGreenCtx, green, GREEN);
    *out = green->own;
    return CUDA_OK;
}

/* ---------------------------------------------------- device, libraries -- */

CUresult cuInit(unsigned flags)
{
    COUNTED(cuInit);
    return flags ? INVALID_VALUE : CUDA_OK;
}

CUresult cuDriverGetVersion(int *version)
{
    COUNTED(cuDriverGetVersion);
    *version = VERSION;
    return CUDA_OK;
}

static const char *const error_names[][2] = {
    {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {"CUDA_ERROR_UNKNOWN", "unknown error"},
};
static size_t error_index(CUresult result)
{
    return result == CUDA_OUT_OF_MEMORY ? 0 : result == FAKE_CUDA_ILLEGAL_ADDRESS ? 1 : 2;
}
CUresult cuGetErrorName(CUresult result, const char **name)
{
    *name = error_names[error_index(result)][0];
    return CUDA_OK;
}
CUresult cuGetErrorString(CUresult result, const char **text)
{
    *text = error_names[error_index(result)][1];
    return CUDA_OK;
}

CUresult cuDeviceGetCount(int *count)
{
    COUNTED(cuDeviceGetCount);
    *count = 1;
    return CUDA_OK;
}
CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    COUNTED(cuDeviceGet);
    *device = ordinal;
    return ordinal ? INVALID_DEVICE : CUDA_OK;
}
CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    COUNTED(cuDeviceGetName);
    (void)device;
    snprintf(name, (size_t)length, "Fake GPU");
    return CUDA_OK;
}
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    COUNTED(cuDeviceTotalMem_v2);
    (void)device;
    *bytes = fake.memory;
    return CUDA_OK;
}
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    COUNTED(cuDeviceGetAttribute);
    (void)device;
    switch (attribute) {
    case CUDA_ATTR_SM_COUNT: *value = FAKE_CUDA_SMS; break;
    case CUDA_ATTR_CLOCK_KHZ: *value = 1000000; break;
    case CUDA_ATTR_MAJOR: *value = 9; break;
    case CUDA_ATTR_MINOR: *value = 0; break;
    case CUDA_ATTR_L2_BYTES: *value = 50 << 20; break;
    case CUDA_ATTR_SMEM_OPTIN: *value = 227 << 10; break;
    case CUDA_ATTR_SMEM_PER_SM: *value = 228 << 10; break;
    case CUDA_ATTR_THREADS_PER_SM: *value = 2048; break;
    default: return INVALID_VALUE;
    }
    return CUDA_OK;
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *image, void *jit, void **jit_values, unsigned n_jit,
                           void *options, void **option_values, unsigned n_options)
{
    COUNTED(cuLibraryLoadData);
    (void)jit, (void)jit_values, (void)n_jit, (void)options, (void)option_values, (void)n_options;
    *library = make(LIBRARY, sizeof **library, NULL);
    (*library)->text = image;
    return CUDA_OK;
}
CUresult cuLibraryUnload(CUlibrary library)
{
    COUNTED(cuLibraryUnload);
    HANDLE(cuLibraryUnload, library, LIBRARY);
    kill_object(library);
    return CUDA_OK;
}
CUresult cuLibraryGetKernel(CUkernel *out, CUlibrary library, const char *name)
{
    COUNTED(cuLibraryGetKernel);
    HANDLE(cuLibraryGetKernel, library, LIBRARY);
    char entry[120];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    if (!strstr(library->text, entry)) {
        return NOT_FOUND;
    }
    CUkernel kernel = make(KERNEL, sizeof *kernel, NULL);
    kernel->library = library;
    int level;
    kernel->type = type_of(name, &kernel->worker, &level);
    kernel->padded = level > 0;
    const char *rider = strstr(name, "_rider");
    kernel->registers = rider ? atoi(rider + 6) - 1 : level;
    snprintf(kernel->name, sizeof kernel->name, "%s", name);
    *out = kernel;
    return CUDA_OK;
}
CUresult cuKernelSetAttribute(int attribute, int value, CUkernel kernel, CUdevice device)
{
    COUNTED(cuKernelSetAttribute);
    HANDLE(cuKernelSetAttribute, kernel, KERNEL);
    (void)attribute, (void)value, (void)device;
    return CUDA_OK;
}
/* What a thread of it takes. */
static void ask_kernel(CUkernel kernel, int *registers, int *local_bytes)
{
    *registers = kernel->registers;
    *local_bytes = 0;
    pthread_mutex_lock(&fake.lock);
    for (unsigned i = 0; i < fake.n_told; i++) {
        if (!strcmp(fake.told[i].name, kernel->name)) {
            *registers = fake.told[i].registers;
            *local_bytes = fake.told[i].local_bytes;
        }
    }
    pthread_mutex_unlock(&fake.lock);
}
CUresult cuKernelGetAttribute(int *value, int attribute, CUkernel kernel, CUdevice device)
{
    IN_CONTEXT(cuKernelGetAttribute);
    HANDLE(cuKernelGetAttribute, kernel, KERNEL);
    (void)device;
    int registers, local_bytes;
    ask_kernel(kernel, &registers, &local_bytes);
    switch (attribute) {
    case CUDA_FUNC_STATIC_SMEM: *value = PAD_STATIC_BYTES; break;
    case CUDA_FUNC_LOCAL_BYTES: *value = local_bytes; break;
    case CUDA_FUNC_REGISTERS: *value = registers; break;
    default: return INVALID_VALUE;
    }
    return CUDA_OK;
}
/* The only variables are NAME_at128 and the like of the modules with rides; each context has its own. */
CUresult cuLibraryGetGlobal(CUdeviceptr *at, size_t *bytes, CUlibrary library, const char *name)
{
    IN_CONTEXT(cuLibraryGetGlobal);
    HANDLE(cuLibraryGetGlobal, library, LIBRARY);
    const char *end = strrchr(name, '_');
    const size_t length = end ? (size_t)(end - name) : 0;
    char entry[120];
    snprintf(entry, sizeof entry, ".global %s;", name);
    const kernel_type *type = NULL;
    for (size_t i = 0; i < sizeof types / sizeof types[0] && end && !strncmp(end, "_at", 3); i++) {
        const bool is = strlen(types[i].name) == length && !strncmp(types[i].name, name, length);
        type = is ? &types[i] : type;
    }
    if (!type || !strstr(library->text, entry)) {
        return NOT_FOUND;
    }
    block *b = calloc(1, sizeof *b);
    uint64_t *variable = aligned_alloc(256, 256);
    if (!b || !variable) {
        abort();
    }
    *variable = (uintptr_t)type;
    *b = (block){.at = (char *)variable, .bytes = sizeof *variable, .context = root_of(here())};
    pthread_mutex_lock(&fake.lock);
    fake.used += b->bytes;
    b->next = fake.blocks;
    fake.blocks = b;
    pthread_mutex_unlock(&fake.lock);
    *at = (uintptr_t)variable;
    *bytes = sizeof *variable;
    return CUDA_OK;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction function, int threads, size_t dynamic_smem)
{
    IN_CONTEXT(cuOccupancyMaxActiveBlocksPerMultiprocessor);
    HANDLE(cuOccupancyMaxActiveBlocksPerMultiprocessor, function, KERNEL);
    (void)dynamic_smem;
    *blocks = threads > 512 ? 1 : 2;
    const CUkernel kernel = (CUkernel)function;
    if (kernel->padded) {
        pthread_mutex_lock(&fake.lock);
        *blocks = (int)fake.registers / (kernel->registers * threads);
        pthread_mutex_unlock(&fake.lock);
    }
    return CUDA_OK;
}

/* ---------------------------------------------------------- the test's -- */

void fake_cuda_hook(void (*hook)(void *, const fake_cuda_step *), void *context)
{
    pthread_mutex_lock(&fake.lock);
    fake.hook = hook;
    fake.hook_context = context;
    pthread_mutex_unlock(&fake.lock);
}

void fake_cuda_delay(unsigned max_us)
{
    atomic_store(&fake.delay_us, max_us);
}

void fake_cuda_fail(const char *symbol, unsigned skip, unsigned times, int result)
{
    struct call *call = call_of(symbol);
    atomic_store(&call->fail_to, 0);
    atomic_store(&call->result, result);
    atomic_store(&call->fail_from, atomic_load(&call->made) + skip);
    atomic_store(&call->fail_to, atomic_load(&call->fail_from) + times);
}

unsigned fake_cuda_calls(const char *symbol)
{
    return atomic_load(&call_of(symbol)->made);
}

void fake_cuda_fault(const char *function)
{
    pthread_mutex_lock(&fake.lock);
    snprintf(fake.faults, sizeof fake.faults, "%s", function);
    pthread_mutex_unlock(&fake.lock);
}

void fake_cuda_contexts_after_fault(bool work)
{
    pthread_mutex_lock(&fake.lock);
    fake.no_new_contexts = !work;
    pthread_mutex_unlock(&fake.lock);
}

void fake_cuda_memory(size_t bytes)
{
    pthread_mutex_lock(&fake.lock);
    fake.memory = bytes;
    pthread_mutex_unlock(&fake.lock);
}

void fake_cuda_unit_registers(unsigned n)
{
    pthread_mutex_lock(&fake.lock);
    fake.registers = n;
    pthread_mutex_unlock(&fake.lock);
}

void fake_cuda_takes(const char *function, int registers, int local_bytes)
{
    pthread_mutex_lock(&fake.lock);
    const unsigned i = fake.n_told++;
    snprintf(fake.told[i].name, sizeof fake.told[i].name, "%s", function);
    fake.told[i].registers = registers;
    fake.told[i].local_bytes = local_bytes;
    pthread_mutex_unlock(&fake.lock);
}

bool fake_cuda_written(void)
{
    bool all = true;
    pthread_mutex_lock(&fake.lock);
    for (object *o = fake.objects; o; o = o->next) {
        CUstream stream = (CUstream)o;
        if (o->kind == STREAM && o->alive) {
            pthread_mutex_lock(&stream->lock);
            all = all && !(stream->busy && stream->doing == OP_WRITE32);
            for (const op *next = stream->first; next; next = next->next) {
                all = all && next->kind != OP_WRITE32;
            }
            pthread_mutex_unlock(&stream->lock);
        }
    }
    pthread_mutex_unlock(&fake.lock);
    const reef_watch_args *watch = atomic_load(&fake.watch);
    if (watch) {
        const uint32_t asked =
            __atomic_load_n(&((const reef_watch_words *)(uintptr_t)watch->words)->revoked, __ATOMIC_SEQ_CST);
        all = all &&
              (int32_t)(asked - __atomic_load_n((const uint32_t *)(uintptr_t)watch->revoked, __ATOMIC_ACQUIRE)) <= 0;
    }
    return all;
}

void fake_cuda_reset(void)
{
    for (int i = 0; i < CALLS; i++) {
        atomic_store(&calls[i].fail_to, 0);
        atomic_store(&calls[i].fail_from, 0);
        atomic_store(&calls[i].made, 0);
    }
    fake_cuda_delay(0);
    pthread_mutex_lock(&fake.lock);
    fake.hook = NULL;
    fake.lost = fake.no_new_contexts = false;
    fake.complaint[0] = fake.faults[0] = '\0';
    fake.memory = DEFAULT_MEMORY;
    fake.registers = UNIT_REGISTERS;
    fake.n_told = 0;
    pthread_mutex_unlock(&fake.lock);
}

void fake_cuda_count(fake_cuda_counts *out)
{
    unsigned alive[KINDS] = {0}, registered = 0;
    pthread_mutex_lock(&fake.lock);
    for (const object *o = fake.objects; o; o = o->next) {
        alive[o->kind] += o->alive;
    }
    for (const block *b = fake.blocks; b; b = b->next) {
        registered += b->host;
    }
    *out = (fake_cuda_counts){.memory_bytes = fake.used,
                              .contexts = alive[CONTEXT],
                              .greens = alive[GREEN],
                              .streams = alive[STREAM],
                              .events = alive[EVENT],
                              .graphs = alive[GRAPH],
                              .executables = alive[EXECUTABLE],
                              .libraries = alive[LIBRARY],
                              .registered = registered,
                              .tiles_committed = atomic_load(&fake.committed),
                              .tiles_abandoned = atomic_load(&fake.abandoned),
                              .tiles_skipped = atomic_load(&fake.skipped),
                              .tiles_ridden = atomic_load(&fake.ridden),
                              .closes = atomic_load(&fake.closes),
                              .passed_on = atomic_load(&fake.passed_on)};
    pthread_mutex_unlock(&fake.lock);
}

void fake_cuda_complaint(char *text, size_t size)
{
    pthread_mutex_lock(&fake.lock);
    snprintf(text, size, "%s", fake.complaint);
    pthread_mutex_unlock(&fake.lock);
}
