/*
 * io.cu - the two ends of a run: request inputs come in from pinned memory, outputs go back to it, and the host learns
 * that the run has ended from a word that the last block stores there, and how far it has come from another.
 *
 *      reef_io_in -> kernels of the plan -> reef_io_end
 *
 * Both are kernels, not copies of the copy engine: programmatic edges join them to the chain, which costs less than the
 * change between engines. Both copy 16 bytes per thread and step.
 */
#include "device/cuda/kernels/device.cuh"
#include "device/cuda/kernels/io.h"
#include "device/cuda/kernels/pad.h"

static __device__ __forceinline__ void copy_pieces(const reef_io_args &a)
{
    unsigned step = gridDim.x * REEF_IO_THREADS;
    for (unsigned p = 0; p < a.pieces; p++) {
        const uint4 *from = (const uint4 *)a.from[p];
        uint4 *to = (uint4 *)a.to[p];
        uint64_t n = (a.bytes[p] + 15) / 16;
        uint64_t i = blockIdx.x * REEF_IO_THREADS + threadIdx.x;
        /* Four loads in flight per thread: one read over the bus takes about a microsecond. */
        for (; i + 3 * step < n; i += 4 * step) {
            uint4 v0 = __ldcv(from + i), v1 = __ldcv(from + i + step);
            uint4 v2 = __ldcv(from + i + 2 * step), v3 = __ldcv(from + i + 3 * step);
            to[i] = v0;
            to[i + step] = v1;
            to[i + 2 * step] = v2;
            to[i + 3 * step] = v3;
        }
        for (; i < n; i += step) {
            to[i] = __ldcv(from + i);
        }
    }
}

extern "C" __global__ void __launch_bounds__(REEF_IO_THREADS) reef_io_in(const __grid_constant__ reef_io_args a)
{
    reef_pdl_launch();
    reef_pdl_wait();
    if (a.control && blockIdx.x == 0 && threadIdx.x == 0) {
        ((reef_io_words *)a.words)->begun_at_ns = reef_now_ns();
    }
    copy_pieces(a);
}

/* By all threads of a block: the first kernel whose tiles are not all done. */
static __device__ __forceinline__ uint32_t first_unfinished(const reef_io_args &a)
{
    __shared__ unsigned missing;
    const reef_cuda_control control = *(const reef_cuda_control *)a.worker;
    const unsigned *done = (const unsigned *)a.done, *bounds = (const unsigned *)a.bounds + a.first;
    if (threadIdx.x == 0) {
        missing = a.kernels;
    }
    __syncthreads();
    for (uint32_t i = bounds[0] + threadIdx.x; i < bounds[a.kernels]; i += blockDim.x) {
        if (done[i] != control.run) {
            uint32_t j = 0;
            while (i >= bounds[j + 1]) {
                j++;
            }
            atomicMin(&missing, j);
            break; /* later tiles are of the same kernel or of later ones */
        }
    }
    __syncthreads();
    return a.first + missing;
}

/* (Late claims add to one that is closed.) */
static __device__ __forceinline__ bool is_open(uint64_t address)
{
    const reef_pad_source *source = (const reef_pad_source *)address;
    const reef_pad_directory *directory = (const reef_pad_directory *)source->directory;
    return *(const volatile uint64_t *)&directory->claim[source->slot] & (REEF_CLAIM_OPEN | REEF_CLAIM_THROUGH);
}

/* All threads of a block, behind workers that were stopped: kernels from `first` on may ride in padded launches. behind: the
 * first that no worker of this run has seen. */
static __device__ __forceinline__ void open_source(uint64_t address, uint32_t first, uint32_t behind)
{
    reef_pad_source *source = (reef_pad_source *)address;
    reef_pad_directory *directory = (reef_pad_directory *)source->directory;
    reef_pad_kernel *kernels = (reef_pad_kernel *)source->kernels;
    uint64_t *claim = &directory->claim[source->slot];
    if (first >= source->n_kernels || is_open(address)) {
        return; /* the launch in front of this one has opened it */
    }
    for (uint32_t k = first + threadIdx.x; k < source->n_kernels; k += blockDim.x) {
        kernels[k].ended = 0;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        const uint32_t run = ((const reef_cuda_control *)source->control)->run;
        source->look_until = source->run == run && source->look_until > behind ? source->look_until : behind;
        source->run = run;
        while (first != REEF_PAD_END && kernels[first].tiles == 0) {
            first = kernels[first].next;
        }
        if (first != REEF_PAD_END) {
            directory->needs[source->slot] = kernels[first].needs;
            __threadfence();
            *(volatile uint64_t *)claim =
                REEF_CLAIM(first, kernels[first].tiles) | (first < source->look_until ? REEF_CLAIM_LOOK : 0);
        }
    }
}

extern "C" __global__ void __launch_bounds__(REEF_IO_THREADS) reef_io_end(const __grid_constant__ reef_io_args a)
{
    __shared__ unsigned ticket;
    reef_pdl_wait();
    copy_pieces(a);
    if (!a.control) {
        return;
    }
    reef_io_control *control = (reef_io_control *)a.control;
    if (a.pieces) {
        __threadfence_system(); /* this thread's stores to pinned memory, before the ticket */
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        ticket = gridDim.x == 1 ? 0 : atomicAdd(&control->ticket, 1u);
    }
    uint32_t progress = a.first + a.kernels;
    if (a.kernels) {
        /* Not revoked by now: then no worker of this launch was (device.cuh). */
        __shared__ unsigned stopped;
        if (threadIdx.x == 0) {
            const reef_cuda_control *worker = (const reef_cuda_control *)a.worker;
            stopped = reef_is_revoked(reef_revoked_now(a.revoked), worker->generation);
        }
        __syncthreads();
        if (stopped && ticket == gridDim.x - 1) {
            const bool rides = a.source && is_open(a.source);
            progress = first_unfinished(a);
            if (rides && a.pieces && progress == a.first + a.kernels) {
                progress--; /* the outputs may have been copied before the last tile rode: again, the next time */
            }
            if (a.source) {
                open_source(a.source, progress, a.first + a.kernels);
            }
        }
    }
    if (threadIdx.x == 0) {
        if (ticket == gridDim.x - 1) {
            control->ticket = 0;
            uint64_t ended = control->ended + 1;
            control->ended = ended;
            ((reef_io_words *)a.words)->progress[ended % REEF_IO_REPORTS] = progress;
            ((reef_io_words *)a.words)->ended_at_ns = reef_now_ns();
            /* Release, system scope: pairs with the acquire in completion.c. */
            asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(&((reef_io_words *)a.words)->ended), "l"(ended)
                         : "memory");
        }
    }
}
