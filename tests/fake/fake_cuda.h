/*
 * fake_cuda.h - how a test drives the NVIDIA driver that is none (fake_cuda.c).
 *
 * Link the test with libcuda.so.1 from the build's tests/fake: what the CUDA device opens by that name is then the fake.
 * Every function may be called from any thread.
 */
#ifndef TESTS_FAKE_CUDA_H
#define TESTS_FAKE_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FAKE_CUDA_SMS = 32,
    FAKE_CUDA_LEAST_PRIORITY = 0,
    FAKE_CUDA_GREATEST_PRIORITY = -5,
    FAKE_CUDA_ILLEGAL_ADDRESS = 700,
    FAKE_CUDA_LAUNCH_FAILED = 719
};

/* A moment in a stream's life, told before it happens, on the stream's thread (a submission: on the caller's): whoever
 * blocks here holds it up. */
typedef enum fake_cuda_moment {
    FAKE_CUDA_SUBMIT, /* cuGraphLaunch is called */
    FAKE_CUDA_WRITE,  /* a word that cuStreamWriteValue stores: tile is the value's low half */
    FAKE_CUDA_CLEAR,  /* a memset */
    FAKE_CUDA_KERNEL, /* a kernel begins */
    FAKE_CUDA_TILE,   /* a tile has begun; a worker has seen that it may */
    FAKE_CUDA_COMMIT, /* a tile is about to have its effect: a worker asks once more after this */
    FAKE_CUDA_TAKE,   /* a spare block has chosen a source, slot `tile`, and is about to take a tile of it */
    FAKE_CUDA_OPEN,   /* it has counted the last tile of a kernel of slot `tile`, and is about to open the next */
    FAKE_CUDA_REPORT, /* reef_io_end has copied the outputs and is about to look which tiles are done */
} fake_cuda_moment;

typedef struct fake_cuda_step {
    fake_cuda_moment moment;
    const char *function; /* of a kernel: "reef_spin_be"; of a tile that rides: "reef_spin_ride"; otherwise NULL */
    uint32_t tile, grid;
    uint64_t args[2];                 /* the first words of the kernel's first argument: they tell kernels apart */
    unsigned first_unit, units;       /* that its context has */
    uint32_t generation, run, kernel; /* of a worker; kernel: where its flags begin among its instance's. Of a ride. */
    int priority;                     /* of the stream */
} fake_cuda_step;

/* NULL: none. */
void fake_cuda_hook(void (*hook)(void *context, const fake_cuda_step *step), void *context);

/* Streams make pauses of up to so many microseconds, at random. 0: none. */
void fake_cuda_delay(unsigned max_us);

/* The call of this symbol that comes after `skip` others, and the `times` - 1 behind it, fail with result. */
void fake_cuda_fail(const char *symbol, unsigned skip, unsigned times, int result);
/* How often it was called since the last fake_cuda_reset. */
unsigned fake_cuda_calls(const char *symbol);
/* The next time that a kernel of this name begins, it faults: its context answers everything with ILLEGAL_ADDRESS. */
void fake_cuda_fault(const char *function);
/* Whether cuCtxCreate works after a fault. It does, unless told otherwise. */
void fake_cuda_contexts_after_fault(bool work);
/* Bytes of the device's memory; the default is 16 GiB. */
void fake_cuda_memory(size_t bytes);

/* Registers of a unit, by which padded forms fit into it; the default is 65536. */
void fake_cuda_unit_registers(unsigned n);
/* What the function, at most four in all, has for each thread. Otherwise a padded form takes the registers of
 * its level, a ride one less, and nobody local memory. */
void fake_cuda_takes(const char *function, int registers, int local_bytes);

/* Has every cuStreamWriteValue32 that was called also been carried out, and everything that a watch is to pass on? */
bool fake_cuda_written(void);

/* Forgets hook, delay, failures, faults, calls and complaints; memory is what it was at first. */
void fake_cuda_reset(void);

typedef struct fake_cuda_counts {
    size_t memory_bytes;                                                                    /* allocated */
    unsigned contexts, greens, streams, events, graphs, executables, libraries, registered; /* alive */
    uint64_t tiles_committed, tiles_abandoned, tiles_skipped;                               /* of workers, ever */
    uint64_t tiles_ridden;                                                                  /* in padded launches */
    uint64_t closes;    /* of sources, ordered ever */
    uint64_t passed_on; /* revocations, by watches, ever */
} fake_cuda_counts;
void fake_cuda_count(fake_cuda_counts *out);

/* The first thing that a real driver or the workers' protocol does not forgive, since the last reset: a tile that ran
 * twice in a run or before the kernels in front of it were done, a stale handle, memory that was never allocated.
 * "": none. Copies at most `size` bytes. */
void fake_cuda_complaint(char *text, size_t size);

#endif
