/*
 * cuda.h - inside the CUDA device.
 *
 * A program is a plan with one chosen kernel per plan kernel and the constants those read, in device memory. An instance
 * is the memory of one request: activations, workspace, inputs and outputs on the device, a pinned copy of the inputs and
 * outputs, and the graphs that run it. A queue is a ring of launches in front of a stream. One thread per device, the
 * completer, sees what has ended, hands outputs over and delivers events.
 *
 *     launch ->[ ring: waiting | submitted ]-> stream: in, k0, k1 ... end -> word in pinned memory -> completer -> event
 *
 * A real-time launch goes into its stream at once, by the caller's thread. Best-effort launches are put there by a thread
 * of their own, the submitter, so that nothing on a real-time path waits for the driver on their account. Leased ones are
 * made of workers (kernels/device.cuh) and belong to a generation: to preempt is to write one word of device memory,
 * "every generation up to this one is revoked", and to resume is to launch again with a younger one.
 *
 * What can be rebuilt after a failure of the device is split from what cannot: "load" makes everything that lives in
 * the context, "unload" forgets it. So when a kernel faults, which poisons the whole context, the device replaces the
 * context and loads every program and instance again (recover.c).
 *
 * Locks, outermost first:
 *   context_lock  read: the context is in use by a call that is not short (loading, measuring: cuda_hold); write: it is
 *                 replaced
 *   lock          queues, rings, submitting, the lists, the lease, the failure
 * Words: instance->words is pinned host memory, written by the device; everything named *_address is device memory.
 */
#ifndef REEF_DEVICE_CUDA_CUDA_H
#define REEF_DEVICE_CUDA_CUDA_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "device/cuda/driver.h"
#include "device/cuda/images.h"
#include "device/cuda/kernels/cuda_tile.h"
#include "device/cuda/kernels/io.h"
#include "device/cuda/kernels/pad.h"
#include "device/cuda/kernels/worker.h"
#include "device/device.h"

enum {
    CUDA_ALIGN = 256,
    CUDA_MAX_ARGS = 4096,
    CUDA_BE_DEPTH = 2,        /* launches of a BE queue that are in its stream, if it is the only one; otherwise one */
    CUDA_SEGMENT_KERNELS = 8, /* kernels of a BE launch */
    CUDA_RESUME_KERNELS = 4,  /* one that resumes begins at a multiple of so many */
    CUDA_MAX_MODULES = 128,
    CUDA_SHARES = 6,
    CUDA_CONTROL_OFFSET = 128, /* reef_cuda_control, behind reef_io_control */
    CUDA_LOST_OFFSET = 128,    /* reef_cuda_lost, behind reef_revoked */
    /* Generations are compared by their difference: those that count are never further than this from one that was
     * revoked, as either word of reef_revoked says it. */
    CUDA_MAX_AHEAD = 1 << 28,
};

typedef struct cuda_device cuda_device;
typedef struct cuda_watch cuda_watch;

/* A kernel ready to be put into a graph: its function, launch shape, and arguments whose relocations are filled per
 * instance. */
typedef struct cuda_kernel {
    reef_cuda_kernel code; /* strings and args live in the program's arena */
    CUfunction function;   /* set by load */
    CUfunction worker;     /* the same; NULL: it has no worker form here */
    uint32_t *constant_at; /* offsets in args of addresses in the program's constants */
    uint64_t *constant;    /* and the offset in the constants that belongs there */
    unsigned n_constant;
    size_t constants_offset, constants_bytes; /* where those that only this kernel reads are */
    const struct cuda_kernel *done_by; /* the kernel that does this one's work too, or NULL: never launched then */
    unsigned blocks_per_sm, workers_per_sm;
    uint32_t first_tile;        /* tiles of the kernels before it: where its own are among an instance's flags */
    uint64_t solo_ns;           /* measured when the variant was chosen; 0: not measured */
    _Atomic unsigned pad_level; /* of its latest graph that may carry others' tiles; 0: it has no room for any */
} cuda_kernel;

typedef struct cuda_program {
    reef_program base;
    reef_list link; /* in device->programs */
    reef_arena arena;
    reef_cuda_precision precision;
    cuda_kernel *kernels;
    uint64_t *const_offset; /* per storage: where a CONST lives in the constants; UINT64_MAX: unused */
    CUdeviceptr constants;  /* one allocation */
    size_t constants_bytes;
    size_t workspace_bytes;
    uint32_t tiles;   /* of all kernels */
    bool has_workers; /* every kernel has a worker form */
} cuda_program;

enum {
    CUDA_GRAPH_IN = 1,
    CUDA_GRAPH_OUT = 2, /* inputs come in first, outputs go out last */
    CUDA_GRAPH_WORKERS = 4,
    CUDA_GRAPH_BEGUN_ONLY = 8, /* workers that stop between kernels only */
    CUDA_GRAPH_FRESH = 16,     /* workers of kernels that were not launched in this run before */
    CUDA_GRAPH_PADS = 32,      /* plain kernels with spare blocks; workers that leave what is undone to ride in those */
    CUDA_GRAPH_BESIDE = 64,    /* plain kernels on the part of a share that is for best-effort work */
    CUDA_GRAPH_SHARE = 128,    /* times 1 + the share's index: it runs on its class's part of the units */
};

typedef struct cuda_graph {
    struct cuda_graph *next;
    uint32_t first, count, kind;
    CUgraphExec executable;
    uint64_t typical_ns; /* how long it takes, as the completer has seen it; 0: not seen yet */
    bool uploaded;
} cuda_graph;

typedef struct cuda_instance {
    reef_instance base;
    reef_list link; /* in device->instances */
    CUdeviceptr memory;
    size_t memory_bytes;
    size_t workspace_offset, control_offset;
    size_t done_offset, begun_offset, bounds_offset; /* per tile; per kernel; per kernel and one more: a word */
    size_t *io_offset;                               /* per input, then per output: in memory */
    size_t *pin_offset;                              /* and in pinned */
    uint64_t *storage;                               /* device address of each storage of the plan */
    char *pinned;                                    /* words, inputs, outputs */
    size_t pinned_bytes;
    CUdeviceptr pinned_address;
    reef_io_words *words;
    cuda_graph **graphs;                      /* by the segment that the first kernel is in: lists */
    CUstream replay_streams[1 + CUDA_SHARES]; /* for all units, and for each share; made by the first replay there */
    const void **inputs;                      /* of the run under way; borrowed; NULL entries are zeros */
    void **outputs;                           /* the same; NULL entries are not wanted */
    CUdeviceptr source;                       /* reef_pad_source; 0: none of its tiles ride (pad.c) */
    unsigned slot;                            /* of the directory, if it has one */
    unsigned source_tried;                    /* to make it one: padding.freed then, plus 1; 0: not yet */
    bool staged;                              /* the inputs are in pinned memory, or nobody will read them */
    /* under the device's lock */
    uint64_t submitted;       /* launches ever: the control's `ended` once all are through */
    uint32_t cursor;          /* kernels below it have been submitted in this run, in their plain form */
    uint32_t run;             /* number of this run; 0: none yet, or it was begun in a context that is gone */
    uint32_t untouched;       /* kernels from here on have not been launched as workers in this run */
    uint32_t generation;      /* of the launches that are made now */
    uint32_t generation_run;  /* the run that it was given to */
    uint64_t control_written; /* what the control word was last set to */
    unsigned in_flight;       /* launches that have been submitted and not been seen to end */
    bool broken;              /* the driver refused one of them: what follows it must not run */
    bool ridden;              /* it was stopped in this run, and its tiles may have ridden */
    bool open;                /* launches that may have opened its source were made since it was last closed */
    bool partial;             /* workers may have left kernels half done in this run */
    bool dirty;               /* an earlier run ended like that: its counters are to be cleared */
    _Atomic uint32_t current; /* first unfinished kernel; written by the completer and begin */
} cuda_instance;

typedef struct cuda_launch {
    cuda_instance *instance;
    uint32_t first, count;
    reef_launch_mode mode;
    void *tag;
    cuda_graph *graph; /* NULL: nothing was left to do */
    uint64_t ticket;   /* it has ended when the instance's `ended` has reached this */
    uint64_t start_ns; /* when it was handed to an idle stream, or when its predecessor ended */
    bool workers;      /* it may end early */
    bool padded;       /* real-time: others' tiles may ride in it */
    bool behind;       /* not launched at all: one in front of it has stopped early, or is about to */
    bool failed;
} cuda_launch;

/* The units in two parts, for real-time and for best-effort work at the same time (share.c). */
typedef struct cuda_share {
    unsigned be_units;
    CUgreenCtx green[2]; /* for best-effort and for real-time work */
    CUcontext rt, be;    /* their contexts: of this process, with the same memory, but with some of the units */
} cuda_share;

typedef struct cuda_queue {
    reef_dqueue base;
    reef_list link; /* in device->queues */
    bool realtime;
    int priority;
    CUstream streams[2], stream;               /* of the least priority and of the greatest; the one in use */
    CUstream shared[CUDA_SHARES];              /* of its class's part of each share */
    unsigned capacity, head, count, submitted; /* the first `submitted` of `count` are in the stream */
    bool submitting;                           /* the submitter has the next one in hand */
    cuda_launch *ring;
    uint64_t last_end_ns;
    unsigned weight;
    uint64_t served_ns; /* work submitted, in time alone on the GPU, over weight: the queue with the least goes next */
} cuda_queue;

/* A kernel's function as a ride (pad.c): its address, and what it needs. */
typedef struct cuda_ride {
    struct cuda_ride *next;
    CUdeviceptr address;                 /* 0: there is none */
    unsigned regs, local_bytes, scratch; /* scratch: shared memory in front of the tile's own */
    char name[];
} cuda_ride;

/* What kernel padding has of a device. */
typedef struct cuda_padding {
    _Atomic bool on;
    pthread_mutex_t lock;  /* guards what follows */
    CUdeviceptr directory; /* reef_pad_directory; 0: not loaded */
    CUfunction close;
    unsigned levels[REEF_PAD_LEVELS]; /* the highest first, then 0; set before padding is on */
    cuda_ride *rides;
    bool slots[REEF_PAD_SOURCES]; /* taken */
    _Atomic unsigned freed;       /* how often one was given back */
    _Atomic size_t proxy_bytes;
} cuda_padding;

struct cuda_device {
    reef_dev base;
    reef_dev_config config;
    const cuda_driver *cu;
    const cuda_gpu *gpu;
    char model[80];
    pthread_rwlock_t context_lock;
    pthread_mutex_t lock;
    CUcontext context;
    CUlibrary modules[CUDA_MAX_MODULES];
    const reef_cuda_image *images[CUDA_MAX_MODULES];
    bool exact[CUDA_MAX_MODULES]; /* compiled for this very architecture */
    unsigned n_modules;
    CUfunction io_in, io_end;
    pthread_mutex_t code_lock; /* guards functions */
    struct cuda_function *functions;
    uint64_t code_hash; /* of the images in use: part of what measurements are valid for */
    int least_priority, greatest_priority;
    reef_list queues, programs, instances;
    reef_lease lease;
    int share; /* that the lease asks for: an index in shares, -1: all units or none */
    cuda_share shares[CUDA_SHARES];
    int n_shares;
    uint64_t served_ns;  /* of the best-effort queue that was served last */
    uint32_t generation; /* the youngest that has been revoked */
    uint64_t revoked_ns; /* when */
    uint32_t youngest;   /* that was ever given to anything */
    CUdeviceptr revoked; /* reef_revoked, which says so, and behind it reef_cuda_lost */
    CUstream control;    /* for its word by_driver: nothing else is ever in it */
    uint32_t written;    /* what that was last set to */
    cuda_watch *watch;   /* watch.c */
    unsigned workers;    /* launches of workers that have not been seen to end */
    bool vacated;        /* workers were revoked, and none were launched since */
    reef_error failure;  /* status OK: none so far */
    bool dead;           /* the context could not be replaced: every launch fails */
    /* Counts what the completer should look at: launches, leases, closing. A futex. */
    _Atomic uint32_t changes;
    _Atomic uint32_t sleeping;
    int64_t clock_apart[2]; /* host's clock minus the GPU's: in the last second and the one before; in this one */
    uint64_t clock_since_ns;
    bool closing;
    struct cuda_hint *hint; /* hint.c */
    cuda_padding padding;   /* pad.c */
    _Atomic uint64_t
        request_due_ns; /* until then the completer expects a request and stays awake; 0: none is expected */
    pthread_t completer, submitter;
    bool has_completer, has_submitter;
    _Atomic uint32_t work; /* counts what the submitter should look at. A futex. */
    _Atomic uint32_t submitter_sleeps;
    _Atomic uint64_t work_due_ns; /* until then the submitter expects some and stays awake */
    _Atomic uint64_t tiles_run, busy_ns_rt, busy_ns_be;
};

static inline size_t cuda_round(size_t bytes)
{
    return (bytes + CUDA_ALIGN - 1) / CUDA_ALIGN * CUDA_ALIGN;
}

/* The context becomes the thread's own until leave, which gives back whatever was current before. */
reef_status cuda_enter(const cuda_device *device, reef_error *error);
void cuda_leave(const cuda_device *device);

/* Waits for copies and clears made without a stream. They are asynchronous even where they look otherwise (a copy from
 * pageable memory returns when it is staged), and the device's own streams do not wait for them. */
reef_status cuda_settle(const cuda_device *device, reef_error *error);

/* code.c: the kernels. */
reef_status cuda_code_load(cuda_device *device, reef_error *error);
/* Forgets the functions of a context that is gone, or about to go. */
void cuda_code_unload(cuda_device *device);
/* NOT_FOUND when no module has it. */
reef_status cuda_code_function(cuda_device *device, const char *name, unsigned dynamic_smem, CUfunction *out,
                               reef_error *error);

/* The modules of kernel padding, which are not loaded with the others. Loading them again does nothing. */
reef_status cuda_code_load_pads(cuda_device *device, reef_error *error);
/* Sets all of *out but its name and place in a list. */
reef_status cuda_code_ride(cuda_device *device, const char *function, unsigned level, cuda_ride *out,
                           reef_error *error);
typedef struct cuda_pad_form {
    CUfunction function;
    unsigned regs, local_bytes;     /* local_bytes: for what rides, without the kernel's own */
    unsigned shared_bytes, scratch; /* shared: without dynamic memory; scratch: up to the tile's own */
    bool spills;                    /* the kernel keeps more in local memory than its plain form does */
} cuda_pad_form;
/* The padded form of a function at one of the device's levels. */
reef_status cuda_code_padded(cuda_device *device, const char *function, unsigned level, unsigned dynamic_smem,
                             cuda_pad_form *out, reef_error *error);
/* It is used: it counts in proxy_bytes, once. */
void cuda_code_count_padded(cuda_device *device, const char *function, unsigned level);

/* program.c */
reef_status cuda_program_create(reef_dev *dev, const reef_plan *plan, const reef_program_options *options,
                                reef_program **out, reef_error *error);
void cuda_program_destroy(reef_program *program);
void cuda_kernel_info(const reef_program *program, uint32_t kernel, reef_dev_kernel *out);
/* About how long a tile of the kernel takes, alone on the GPU with the others of its wave. */
uint64_t cuda_tile_ns(const cuda_program *program, uint32_t kernel);
reef_status cuda_program_load(cuda_program *program, reef_error *error);
/* Sets done_by of all kernels, from the variants that they have. */
void cuda_program_join(cuda_program *program);

/* tune.c: variants that were measured before, by what they compute. */
typedef struct cuda_tuning cuda_tuning;
/* Reads folder's file for this device (a missing, foreign or damaged one is empty). folder may be NULL. */
cuda_tuning *cuda_tuning_open(const cuda_device *device, const char *folder);
/* Writes what is new, if it can, and frees. NULL is allowed. */
void cuda_tuning_close(cuda_tuning *tuning);
/* Which of the candidates it was; -1: not known. */
int cuda_tuning_find(const cuda_tuning *tuning, uint64_t key, const reef_cuda_kernel *candidates, size_t n,
                     uint64_t *ns);
void cuda_tuning_add(cuda_tuning *tuning, uint64_t key, const char *variant, uint64_t ns);
uint64_t cuda_hash(uint64_t hash, const void *bytes, size_t n);

/* instance.c */
reef_status cuda_instance_create(reef_program *program, reef_instance **out, reef_error *error);
void cuda_instance_destroy(reef_instance *instance);
void cuda_begin(reef_instance *instance, uint32_t first, const void *const *inputs, void *const *outputs);
/* Copies the run's inputs into pinned memory, unless that was done. */
void cuda_stage(reef_instance *instance);
reef_status cuda_instance_load(cuda_instance *instance, reef_error *error);
/* Gives back what the instance has in the context. Where that cannot be entered (`reachable` is false), it is only
 * forgotten here, and goes with the context. */
void cuda_instance_unload(cuda_instance *instance, bool reachable);
void cuda_instance_outputs(cuda_instance *instance);

/* graph.c: the graph of these kernels of the instance, made on first use. The context must be current. */
reef_status cuda_graph_get(cuda_instance *instance, uint32_t first, uint32_t count, uint32_t kind, cuda_graph **out,
                           reef_error *error);
void cuda_graphs_destroy(cuda_instance *instance, bool reachable);
/* args with the addresses of storages and workspace in place. */
void cuda_relocate(const reef_cuda_kernel *code, const uint64_t *storage, uint64_t workspace, char *out);
/* The same of a program's kernel, with its constants. */
void cuda_kernel_args(const cuda_kernel *kernel, const cuda_instance *instance, char *out);
/* The same for any memory. */
void cuda_program_args(const cuda_program *program, const cuda_kernel *kernel, const uint64_t *storage,
                       uint64_t workspace, char *out);
/* A whole run of the program's kernels in some memory, without inputs, outputs and a report. */
reef_status cuda_graph_of_program(const cuda_program *program, const uint64_t *storage, uint64_t workspace,
                                  CUgraphExec *out, reef_error *error);
/* worker: the second argument, or NULL: the plain form. after: n_after nodes that it follows; may hold *out. */
reef_status cuda_graph_add(const cuda_device *device, CUgraph graph, const reef_cuda_kernel *code, CUfunction function,
                           void *args, void *worker, CUcontext where, const CUgraphNode *after, size_t n_after,
                           CUgraphNode *out, reef_error *error);

/* queue.c */
reef_status cuda_queue_create(reef_dev *dev, bool realtime, unsigned capacity, unsigned weight, reef_dqueue **out);
void cuda_queue_destroy(reef_dqueue *queue);
void cuda_queue_priority(reef_dqueue *queue, int priority);
reef_status cuda_launch_kernels(reef_dqueue *queue, const reef_launch *launch);
void cuda_evict(reef_dqueue *queue, reef_evict how, reef_evicted *out);
reef_status cuda_queue_load(cuda_queue *queue, reef_error *error);
void cuda_queue_unload(cuda_queue *queue);
/* Something has changed that the completer (bump) or the submitter (work) should look at. */
void cuda_bump(cuda_device *device);
void cuda_work(cuda_device *device);
/* Revokes every generation that has been launched. Under the lock. */
void cuda_revoke(cuda_device *device);
/* The word that does it, and its stream. The context is current. */
reef_status cuda_revoke_load(cuda_device *device, reef_error *error);

enum { CUDA_WATCH_THREADS = 32 };
/* watch.c: a kernel that passes revocations on. None does it where one of the calls fails, and nobody is told. */
cuda_watch *cuda_watch_create(void);
void cuda_watch_destroy(cuda_watch *watch);
/* The context is current. */
void cuda_watch_load(cuda_device *device);
void cuda_watch_unload(cuda_device *device, bool reachable);
/* One for the workers that are about to be launched, if there is none. By the submitter; the context is current. known: a
 * generation that is revoked. */
void cuda_watch_start(cuda_device *device, uint32_t known);
/* Is one on the GPU, or was just now? */
bool cuda_watch_is_there(const cuda_device *device);
/* Under the lock, the context is current: workers are in flight, or none; and "revoked". True: it is being passed on. */
void cuda_watch_busy(cuda_device *device, bool busy);
bool cuda_watch_revoke(cuda_device *device, uint32_t generation);
/* While a caller holds the whole GPU up, or is held up by a kernel that stays. Calls may nest. */
void cuda_watch_pause(cuda_device *device);
void cuda_watch_resume(cuda_device *device);
/* context_lock for a call that is not short, with the watch paused. */
void cuda_hold(cuda_device *device);
void cuda_release(cuda_device *device);

/* submit.c */
/* Puts the queue's next launch into its stream. Under the lock, which is dropped around the driver's calls when `unlocked`; a
 * launch that the driver refuses is marked failed. */
void cuda_submit(cuda_queue *queue, bool unlocked);
void *cuda_submitter_main(void *device);
/* Makes the graphs of the launches that the instance will see. */
void cuda_warm(reef_instance *instance, bool realtime, reef_launch_mode mode, reef_lease lease);

/* share.c: the ways to divide the units; none where the driver cannot. The context is current. */
void cuda_shares_load(cuda_device *device);
void cuda_shares_unload(cuda_device *device);
/* The lease's: the one with the most best-effort units of at most as many as it has. -1: none. */
int cuda_share_of(const cuda_device *device, reef_lease lease);
unsigned cuda_left_over(reef_dev *dev, unsigned n);
/* A stream for graphs of that share, on its real-time or its best-effort part; -1: for all units. */
reef_status cuda_share_stream(const cuda_device *device, int share, bool realtime, CUstream *out, reef_error *error);
reef_status cuda_units_needed(reef_instance *instance, unsigned per_mille, unsigned *units, reef_error *error);

/* pad.c */
reef_status cuda_pad(reef_dev *dev, bool on, reef_error *error);
void cuda_padding_get(const reef_dev *dev, reef_dev_padding *out);
/* The context is current. */
reef_status cuda_pad_load(cuda_device *device, reef_error *error);
void cuda_pad_unload(cuda_device *device);
/* Makes the instance a source, if padding is on and there is room. The context is current. */
void cuda_pad_source(cuda_instance *instance);
void cuda_pad_source_free(cuda_instance *instance, bool reachable);
/* In stream order: nothing of it rides from then on. */
reef_status cuda_pad_close(const cuda_instance *instance, CUstream stream, reef_error *error);
/* Takes note of what has ridden. By whoever owns the instance's progress: nothing of it is in flight. */
void cuda_pad_progress(cuda_instance *instance);
/* How kernel k is launched with spare blocks; false: it has no room for any. Either way it is noted in the kernel. */
typedef struct cuda_padded {
    CUfunction function;
    unsigned dynamic_smem, spare;
    reef_cuda_pad pad;
} cuda_padded;
bool cuda_pad_plan(const cuda_program *program, uint32_t k, cuda_padded *out);

/* completion.c */
void *cuda_completer_main(void *device);

/* recover.c */
void cuda_recover(cuda_device *device);

/* measure.c */
reef_status cuda_measure(reef_instance *instance, uint32_t kernel, unsigned runs, uint64_t *samples, reef_error *error);
reef_status cuda_replay(reef_instance *instance, bool in, bool out, uint64_t *ns, reef_error *error);
/* Median time of one launch of the kernel among others, in ns, with constants that are not in the cache; args as
 * cuda_kernel_args leaves them. */
typedef struct cuda_bench {
    const cuda_device *device;
    CUstream stream;
    CUevent start, end;
    CUdeviceptr flush;  /* written before each sample, so that the cache holds nothing else */
    CUdeviceptr copies; /* of constants: one for each launch of a graph */
    size_t copies_bytes;
} cuda_bench;
reef_status cuda_bench_create(const cuda_device *device, cuda_bench *out, reef_error *error);
void cuda_bench_destroy(cuda_bench *bench);
/* at[i] is the offset in args of an address in [constants, constants + bytes): launches of a graph read copies in turn. */
reef_status cuda_bench_kernel(cuda_bench *bench, const reef_cuda_kernel *code, CUfunction function, const char *args,
                              const uint32_t *at, unsigned n_at, CUdeviceptr constants, size_t bytes, unsigned samples,
                              uint64_t *ns, reef_error *error);
/* The time of one launch of a graph, with a cache that holds nothing of it. */
reef_status cuda_bench_graph(cuda_bench *bench, CUgraphExec graph, uint64_t *ns, reef_error *error);

/* refine.c: the fastest variants of a kernel, the fastest alone first; key: the same for kernels that compute the same. */
enum { CUDA_MAX_OPTIONS = 4 };
typedef struct cuda_options {
    uint64_t key;
    unsigned n, picked; /* n = 0: there is nothing to choose */
    cuda_kernel kernel[CUDA_MAX_OPTIONS];
} cuda_options;
/* Leaves in program->kernels the options that make a whole run fastest, and in picked which they are. The program's
 * constants are in place; storage and workspace stand in for an instance's. */
reef_status cuda_refine(cuda_bench *bench, cuda_program *program, cuda_options *options, const uint64_t *storage,
                        CUdeviceptr workspace, reef_error *error);

#endif
