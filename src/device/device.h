/*
 * device.h - the device interface: what the queues need from anything that can run a plan.
 *
 * Where it sits: below the virtual host queues, above cpu/ and cuda/. The vocabulary is the hardware's: a
 * program is a plan compiled for the device, an instance is a program's buffers and its progress, a device queue is a
 * bounded ring of launches, a launch is a run of consecutive kernels of one instance.
 *
 *     launch ->[ L3 | L2 | L1 ]-> compute units -> event (done | evicted)
 *               device queue        tiles, lease
 *
 * Progress is exact and lives on the device: an instance knows its first unfinished kernel and, inside that, which
 * tiles are missing. Launching kernels that are done costs nothing; launching what was abandoned runs what is missing.
 * So after an eviction "launch again from reef_device_ops.progress" is the whole of resuming.
 *
 * Locks: ops may be called with the scheduler's lock held and take the device's own; events are delivered on a device
 * thread with no lock held.
 */
#ifndef REEF_DEVICE_DEVICE_H
#define REEF_DEVICE_DEVICE_H

#include "model/plan.h"

/* The lease: compute units [first, end) may run leased launches (BE work). One word, so that it changes at once. Which
 * units these are is the device's business, and one that divides its units coarsely may lease fewer, or none. */
typedef uint64_t reef_lease;
static inline reef_lease reef_lease_make(unsigned first, unsigned end)
{
    return ((uint64_t)end << 32) | first;
}
static inline bool reef_lease_has(reef_lease lease, unsigned unit)
{
    return unit >= (uint32_t)lease && unit < (uint32_t)(lease >> 32);
}

typedef struct reef_device_ops reef_device_ops;

/* First member of every backend's own structures. */
typedef struct reef_dev {
    const reef_device_ops *ops;
    unsigned units;
    const char *model; /* what measurements made on it are valid for, as part of a file name: "cpu", "NVIDIA-H200" */
} reef_dev;
typedef struct reef_program {
    reef_dev *dev;
    const reef_plan *plan;
    reef_precision precision; /* what its kernels use */
    size_t device_bytes;      /* memory of the device that it holds, without its instances */
} reef_program;
typedef struct reef_instance {
    reef_program *program;
} reef_instance;
typedef struct reef_dqueue {
    reef_dev *dev;
} reef_dqueue;

typedef enum reef_launch_mode {
    /* Tiles are dispatched one by one, the highest queue priority first, equals in turn, on any unit, and run to their
     * end: what a device does by itself. */
    REEF_LAUNCH_PLAIN,
    /* As plain, but kernels of the launch that have not begun can still be evicted when it has started. */
    REEF_LAUNCH_EVICTABLE,
    /* Persistent workers: only on units inside the lease, which they keep as long as there is work; a tile whose unit
     * leaves the lease is abandoned. */
    REEF_LAUNCH_LEASED,
} reef_launch_mode;

/* Tiles of another instance's current kernel that ride along in a launch (kernel padding, REEF section 5). */
typedef struct reef_pad {
    reef_instance *instance;
    uint32_t kernel, tiles; /* at most this many tiles, of this kernel */
} reef_pad;
enum { REEF_LAUNCH_MAX_PADS = 4 };

typedef struct reef_launch {
    reef_instance *instance;
    uint32_t first, count; /* kernels; those that are finished already are skipped */
    reef_launch_mode mode;
    reef_pad pads[REEF_LAUNCH_MAX_PADS];
    unsigned n_pads;
    bool padded; /* the device may let tiles of stopped launches ride along, as it sees fit (op pad) */
    void *tag;   /* comes back in the event */
} reef_launch;

typedef enum reef_event_kind {
    REEF_EVENT_DONE, /* every kernel of the launch is finished */
    /* It stopped early, evicted, or (a device may choose to) because its units have left the lease; progress says where.
     * None of its tiles is running any more. */
    REEF_EVENT_EVICTED,
    REEF_EVENT_FAILED, /* the device failed under it: progress and outputs are worth nothing; health() says why */
} reef_event_kind;

typedef struct reef_event {
    reef_event_kind kind;
    void *tag;
    uint64_t start_ns, end_ns; /* of the first tile (0 if none ran), of the last */
    uint32_t padded_tiles;     /* BE tiles that rode along */
} reef_event;

typedef enum reef_evict {
    REEF_EVICT_QUEUED, /* what has not started is dropped; a kernel that runs goes on to its end */
    REEF_EVICT_NOW,    /* a kernel that runs stops as well, at the next tile (at once where the lease is taken away) */
} reef_evict;

typedef struct reef_evicted {
    unsigned launches; /* dropped before they had started: no event will come for them */
    unsigned kernels;  /* kernels that had not started, of dropped and of shortened launches */
    bool running;      /* one launch had started: its event will come */
} reef_evicted;

typedef struct reef_dev_config {
    unsigned ordinal;  /* which of the backend's devices */
    unsigned units;    /* 0: the device's own choice */
    uint32_t slice_us; /* time slice against other processes; 0: the driver's own. Only where there is an op `slice`. */
    void (*on_event)(void *context, const reef_event *event);
    void *context;
} reef_dev_config;

typedef struct reef_dev_stats {
    uint64_t tiles_run, tiles_abandoned, padded_tiles;
    uint64_t busy_ns_rt, busy_ns_be, lost_ns_be;
} reef_dev_stats;

typedef struct reef_dev_kernel {
    uint32_t tiles;
    bool preemptible;
    const char *why_not, *variant; /* static, or the program's */
    uint64_t tile_ns;              /* estimate for one tile */
    unsigned blocks_per_unit;      /* tiles that a unit runs at once; 0: one */
    unsigned pad_level; /* reef_dev_padding's, at which it carries others' tiles; 0: none, or not launched so */
} reef_dev_kernel;

/* What the kernels are that carry others' tiles. */
typedef struct reef_dev_padding {
    size_t proxy_bytes;               /* memory of the device that those in use take */
    unsigned levels[REEF_PAD_LEVELS]; /* registers of a thread, the highest first; then 0 */
} reef_dev_padding;

typedef struct reef_program_options {
    reef_precision precision; /* a device may be more precise */
    const char *cache_dir; /* where measurements may be kept for the next load; NULL: nowhere. Borrowed for the call. */
    reef_progress progress; /* may be NULL */
    void *progress_context;
} reef_program_options;

/* What a device can do beyond running plain and leased launches. */
enum {
    REEF_CAP_PAD = 1 << 0,  /* launches may carry pads that the caller has chosen; see also op pad */
    REEF_CAP_KILL = 1 << 1, /* a leased launch stops inside a kernel when its units leave the lease */
};

struct reef_device_ops {
    const char *name, *description;
    unsigned caps;
    /* ---- required ---- */
    reef_status (*open)(const reef_dev_config *config, reef_dev **out, reef_error *error);
    void (*close)(reef_dev *dev); /* no programs, no queues left */

    /* plan is borrowed for the program's life. options may be NULL. */
    reef_status (*program_create)(reef_dev *dev, const reef_plan *plan, const reef_program_options *options,
                                  reef_program **out, reef_error *error);
    void (*program_destroy)(reef_program *program);
    void (*kernel_info)(const reef_program *program, uint32_t kernel, reef_dev_kernel *out);

    reef_status (*instance_create)(reef_program *program, reef_instance **out, reef_error *error);
    void (*instance_destroy)(reef_instance *instance);
    /* Starts a new run at kernel `first` (0; profiling starts elsewhere): clears progress, binds a request's buffers,
     * which are borrowed until the next begin. A NULL input reads zeros, a NULL output is thrown away. The instance
     * must not be in any launch. */
    void (*begin)(reef_instance *instance, uint32_t first, const void *const *inputs, void *const *outputs);
    /* The first unfinished kernel; the number of kernels when all are done. */
    uint32_t (*progress)(const reef_instance *instance);
    /* Tiles of kernel `progress` not yet claimed or abandoned: what padding can still take. */
    uint32_t (*tiles_left)(const reef_instance *instance);

    /* priority: larger first; weight: share against queues of the same priority. */
    reef_status (*queue_create)(reef_dev *dev, bool realtime, unsigned capacity, unsigned weight, reef_dqueue **out);
    void (*queue_destroy)(reef_dqueue *queue);
    void (*queue_priority)(reef_dqueue *queue, int priority);
    /* QUEUE_FULL when the ring has no room. An event with launch->tag follows, unless the launch is dropped by evict. */
    reef_status (*launch)(reef_dqueue *queue, const reef_launch *launch);
    void (*evict)(reef_dqueue *queue, reef_evict how, reef_evicted *out);

    void (*lease)(reef_dev *dev, reef_lease lease);
    void (*stats)(const reef_dev *dev, reef_dev_stats *out);
    /* ---- optional ---- */
    /* Kernels that one BE launch should carry; 0: 1. */
    unsigned segment_kernels;
    /* The ordinal-th device that is there, as static strings; false past the end. NULL: one, with the backend's own name
     * and description. */
    bool (*enumerate)(unsigned ordinal, const char **name, const char **description);
    /* Why enumerate finds nothing. */
    reef_status (*available)(reef_error *error);
    /* Kernel's time alone on the idle device, without the cost of launching and of being told: `runs` samples in ns. NULL:
     * the time between an event's start_ns and end_ns is that. */
    reef_status (*measure)(reef_instance *instance, uint32_t kernel, unsigned runs, uint64_t *samples,
                           reef_error *error);
    /* One run of all kernels on the idle device, in the shortest way it has; returns when it has ended. in: the inputs of
     * the last begin are copied to the device first (otherwise they are there from an earlier replay); out: its outputs
     * are copied back. *ns: the time from handing over to seeing the end. NULL: the queues are as short a way as any. */
    reef_status (*replay)(reef_instance *instance, bool in, bool out, uint64_t *ns, reef_error *error);
    /* Compute units with which a run takes at most so much longer than with all of them: measured on the idle device with
     * what is in the instance's buffers. NULL: as many as the widest kernel has tiles. */
    reef_status (*units_needed)(reef_instance *instance, unsigned per_mille, unsigned *units, reef_error *error);
    /* OK, or the last failure at run time. NULL: it cannot fail. */
    reef_status (*health)(const reef_dev *dev, reef_error *error);
    /* Takes over the inputs of the last begin at once, so that the launch need not: NULL where begin has done it, or
     * nobody does. Without a call of it a launch takes them over where that holds nobody up. */
    void (*stage)(reef_instance *instance);
    /* Makes ready what launches of the instance will need while this lease holds, so that none waits for it, nor a
     * request beside it: real-time ones whole, best-effort ones segment by segment. Nobody runs it. What is ready stays
     * so. A failure shows at the launch. NULL: there is nothing. */
    void (*warm)(reef_instance *instance, bool realtime, reef_launch_mode mode, reef_lease lease);
    /* From now on launches may be padded, and tiles of leased launches that were stopped ride in them (REEF section 5): the
     * device itself chooses which. Off: never again, until it is on. UNSUPPORTED: it cannot, and why. NULL: launches carry the
     * pads that the caller has chosen (REEF_CAP_PAD). */
    reef_status (*pad)(reef_dev *dev, bool on, reef_error *error);
    /* Dividing the units, or putting them together again, holds up whatever runs for a while: a lease that leaves best-effort work
     * some beside real-time work is only asked for when real-time work has not paused for so long. 0: at once. */
    uint64_t divide_after_ns;
    /* Of n units that real-time work leaves over, how many a lease gives best-effort work: fewer where the device has
     * them in groups only. NULL: all. */
    unsigned (*left_over)(reef_dev *dev, unsigned n);
    /* Taking units away takes longer, at the moment, than handing a launch over: a real-time launch goes first. NULL: never. */
    bool (*launch_first)(const reef_dev *dev);
    /* A real-time request is about to come: makes the device ready for it (a GPU switches to this process) and keeps it so
     * until the request has ended, for hold_ns at the most. hold_ns 0: it has ended; no system call, no lock. NULL: there is nothing to prepare. */
    reef_status (*hint)(reef_dev *dev, uint64_t hold_ns, reef_error *error);
    /* The time slice that config.slice_us has led to. UNSUPPORTED: none, and why. NULL: the device has no time slices. */
    reef_status (*slice)(const reef_dev *dev, uint32_t *us, reef_error *error);
    /* NULL: it needs no kernels of their own for what rides. */
    void (*padding)(const reef_dev *dev, reef_dev_padding *out);
};

/* The i-th backend of this build; NULL past the end. */
const reef_device_ops *reef_device_ops_at(size_t i);

typedef struct reef_device_entry {
    const reef_device_ops *ops;
    unsigned ordinal;
    const char *name, *description; /* static */
} reef_device_entry;
/* The i-th device that can be opened here; false past the end. */
bool reef_device_entry_at(size_t i, reef_device_entry *out);
/* The device called name. NOT_FOUND or UNSUPPORTED, and why. */
reef_status reef_device_find(const char *name, reef_device_entry *out, reef_error *error);

#endif
