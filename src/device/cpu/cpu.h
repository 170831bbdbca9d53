/*
 * cpu.h - inside the CPU device.
 *
 * Compute units are worker threads, device queues are bounded rings of launches, and there is no dispatcher thread:
 * the command processor (processor.c) is what a unit does between two launches, under the device's lock. Claiming and
 * finishing tiles inside a launch takes no lock (progress.h).
 *
 *          dqueue ring                       unit 0..n-1
 *   launch ->[ | | head ]--attach-->  claim tile, run, finish ... detach
 *                  ^                          |
 *                  '---- popped when over ----'---> event
 */
#ifndef REEF_DEVICE_CPU_CPU_H
#define REEF_DEVICE_CPU_CPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "device/cpu/tile.h"
#include "device/device.h"

enum {
    CPU_MAX_UNITS = 256,
    CPU_SCRATCH_BYTES = 512 * 1024, /* of a unit; tile.h lets a kernel ask for half */
    CPU_SPIN_NS = 50 * 1000,        /* how long a unit with nothing to do looks again before it sleeps */
    CPU_SHARE_NS = 1000 * 1000,     /* how long a persistent worker stays before it looks whether another queue waits */
};

typedef struct cpu_program {
    reef_program base;
    reef_cpu_kernel *kernels;
    char **const_data; /* per storage: the program's aligned copy, or NULL */
    reef_arena arena;
    struct cpu_block *blocks; /* big allocations: packed weights, constants */
    size_t block_bytes;
} cpu_program;

/* One kernel's progress in one run. */
typedef struct cpu_progress {
    _Atomic uint64_t claim; /* epoch of the run << 32 | next tile never claimed */
    _Atomic uint32_t done;  /* finished tiles; the unit that brings it to all opens the next kernel */
} cpu_progress;

typedef struct cpu_instance {
    reef_instance base;
    char *activations;
    char *zeros;    /* stands in for inputs and outputs that the request does not name */
    char **storage; /* base table for tiles; written by begin only */
    cpu_progress *progress;
    /* Epoch of the run << 32 | first unfinished kernel. Release-stored by the unit that finished a kernel, pairs with
     * the acquire of every unit that then reads the kernel's results. The epoch only grows, so a unit that comes late
     * to a launch of an earlier run sees that it is over. */
    _Atomic uint64_t current;
    pthread_mutex_t lock; /* guards abandoned[] and orders it against begin */
    _Atomic uint32_t n_abandoned;
    uint32_t *abandoned; /* tiles of the current kernel to be run again; at most one per unit */
} cpu_instance;

typedef struct cpu_pad {
    cpu_instance *instance;
    uint32_t epoch, kernel;
    _Atomic int32_t left;
} cpu_pad;

typedef struct cpu_launch {
    cpu_instance *instance;
    uint32_t epoch, first;
    _Atomic uint32_t end; /* one past the last kernel; lowered by evict, under the device's lock */
    reef_launch_mode mode;
    bool realtime;
    void *tag;
    cpu_pad pads[REEF_LAUNCH_MAX_PADS];
    unsigned n_pads;
    _Atomic uint32_t padded_tiles;
    _Atomic uint64_t start_ns; /* set once by the first tile */
    _Atomic uint64_t end_ns;   /* of the latest tile */
    /* under the device's lock */
    unsigned attached; /* units inside */
    bool evicted;      /* pop when the last unit has left */
    bool in_ring;      /* the record is free when neither in the ring nor attached */
} cpu_launch;

typedef struct cpu_queue {
    reef_dqueue base;
    struct cpu_queue *next;
    bool realtime;
    int priority;
    unsigned weight, capacity, head, count;
    cpu_launch **ring;
    cpu_launch *records;
    unsigned n_records;
    _Atomic uint64_t service_ns; /* unit time received / weight: the fair share's measure */
    uint64_t turn_ns;            /* service_ns when a unit last took a launch from here */
} cpu_queue;

typedef struct cpu_unit {
    _Alignas(64) struct cpu_device *device;
    unsigned index;
    pthread_t thread;
    void *scratch;
    _Atomic uint64_t tiles_run, tiles_abandoned, padded_tiles, busy_ns_rt, busy_ns_be, lost_ns_be;
} cpu_unit;

typedef struct cpu_device {
    reef_dev base;
    reef_dev_config config;
    const reef_cpu_isa *isa;
    pthread_mutex_t lock; /* guards queues, rings and launch records */
    cpu_queue *queues;
    bool closing;
    _Alignas(64) _Atomic(reef_lease) lease;
    /* Counts what may give an idle unit work: launches, units gained by the lease, opened kernels, abandoned tiles.
     * A unit reads it before it looks and sleeps on it; see bump() in processor.c. */
    _Alignas(64) _Atomic uint32_t changes;
    _Atomic uint32_t sleepers;
    unsigned n_units;
    cpu_unit *units;
} cpu_device;

reef_status cpu_program_create(reef_dev *dev, const reef_plan *plan, const reef_program_options *options,
                               reef_program **out, reef_error *error);
void cpu_program_destroy(reef_program *program);
void cpu_kernel_info(const reef_program *program, uint32_t kernel, reef_dev_kernel *out);
reef_status cpu_instance_create(reef_program *program, reef_instance **out, reef_error *error);
void cpu_instance_destroy(reef_instance *instance);
void cpu_begin(reef_instance *instance, uint32_t first, const void *const *inputs, void *const *outputs);

void *cpu_unit_main(void *unit);
/* Waits until no unit is on its way out of a launch record that `concerns` answers true for. */
void cpu_wait_detached(cpu_device *device, bool (*concerns)(const cpu_queue *, const cpu_launch *, const void *),
                       const void *context);
/* Something changed that idle units should look at; all that sleep are woken. */
void cpu_bump(cpu_device *device);
/* So many tiles can run, leased ones or not: no more units are woken, where it is certain that whoever is woken runs one. */
void cpu_bump_tiles(cpu_device *device, uint32_t tiles, bool leased);

/* Memory for tensors: 64-byte aligned, zeroed, on huge pages where it pays; freed with free(). */
void *cpu_big_alloc(size_t bytes);

#endif
