/*
 * launch.h - just enough of a CUDA host for kernel tests: one context, modules from files, one candidate at a time.
 *
 * Independent of reef's own host side, so that kernels can be tested before it and apart from it.
 */
#ifndef REEF_TESTS_GPU_LAUNCH_H
#define REEF_TESTS_GPU_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/cuda/kernels/cuda_tile.h"

/* Opens device 0 and loads every *.cubin of the folder. Ends the program with a message when that fails. */
void gpu_open(const char *folder);
unsigned gpu_sm_count(void);

/* Device memory that gpu_forget gives back all at once; 256-byte aligned. */
uint64_t gpu_alloc(size_t bytes);
void gpu_forget(void);
void gpu_put(uint64_t to, const void *from, size_t bytes);
void gpu_get(void *to, uint64_t from, size_t bytes);
void gpu_fill(uint64_t to, uint8_t byte, size_t bytes);

/* Fills in the candidate's addresses: storage i of the plan is at base[i]. */
void gpu_bind(reef_cuda_kernel *c, const uint64_t *base, uint64_t workspace);

/* Runs the plain form and waits for it. */
void gpu_run_plain(const reef_cuda_kernel *c);

/* The worker form. begin: a new run of one kernel; revoked: what the next launch will find; start: `workers` blocks. */
void gpu_worker_begin(const reef_cuda_kernel *c);
void gpu_worker_revoked(bool revoked);
void gpu_worker_revoke(void); /* while it runs */
void gpu_worker_start(const reef_cuda_kernel *c, unsigned workers);
bool gpu_worker_wait(uint64_t within_ns); /* false: still running */
unsigned gpu_worker_done(void);           /* finished tiles */

/* Microseconds per launch in a graph of `count` of them, each after the one before; programmatic edges or full ones. */
double gpu_time_us(const reef_cuda_kernel *c, int count, bool programmatic);

#endif
