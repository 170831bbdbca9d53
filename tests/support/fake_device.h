/*
 * fake_device.h - a device that does nothing until a test tells it to, and writes down what it was told.
 *
 * Kernels have `tiles` tiles. fake_finish runs the kernel at the head of a queue to its end (or a number of its tiles);
 * events go to the scheduler as a real device would send them. The log holds one line per call: "launch rt 0+3",
 * "launch be0 4+4 leased", "evict be0 now", "lease 2..4", with "rt" and "be0", "be1".. naming queues in order of creation.
 */
#ifndef TESTS_FAKE_DEVICE_H
#define TESTS_FAKE_DEVICE_H

#include "device/device.h"

enum { FAKE_MAX = 16 };

typedef struct fake_launch {
    reef_launch launch;
    bool started, evicted;
    uint32_t end;
} fake_launch;

typedef struct fake_queue {
    reef_dqueue base;
    char name[8];
    unsigned capacity, count;
    int priority;
    fake_launch ring[FAKE_MAX];
} fake_queue;

typedef struct fake_instance {
    reef_instance base;
    uint32_t current, tiles_done;
    unsigned begun;
} fake_instance;

typedef struct fake_device {
    reef_dev base;
    reef_dev_config config;
    fake_queue *queues[FAKE_MAX];
    unsigned n_queues;
    reef_lease lease;
    char log[8192];
} fake_device;

/* kernels kernels of tiles tiles each; the plan lives in the program. */
typedef struct fake_program {
    reef_program base;
    reef_plan plan;
    uint32_t tiles;
} fake_program;

void fake_device_init(fake_device *device, unsigned units);
void fake_device_free(fake_device *device);
void fake_program_init(fake_program *program, fake_device *device, uint32_t kernels, uint32_t tiles);

/* Finishes the current kernel of the launch at the head of queue `name`; false when the queue is empty. */
bool fake_finish(fake_device *device, const char *name);
/* Finishes n tiles of it; the launch counts as started. */
bool fake_finish_tiles(fake_device *device, const char *name, uint32_t n);
/* Lets the evicted launch at the head of a queue leave (its last unit has left the tile). */
bool fake_leave(fake_device *device, const char *name);
/* Runs `tiles` tiles of the head launch's first pad. */
void fake_run_pad(fake_device *device, const char *name, uint32_t tiles);
/* Everything logged since the last call. */
const char *fake_log(fake_device *device);

#endif
