/*
 * progress.h - who runs which tile of which kernel: exact, lock-free but for abandoned tiles.
 *
 * A tile is, at any moment, exactly one of: never claimed (claim's counter is below it), running on one unit, abandoned
 * (in the instance's list), or done. A kernel is finished when as many tiles are done as it has; the unit that finishes
 * the last one opens the next kernel. Abandoned tiles are claimed before new ones, and a unit holds one tile at a time,
 * so there are never more abandoned tiles than units.
 */
#ifndef REEF_DEVICE_CPU_PROGRESS_H
#define REEF_DEVICE_CPU_PROGRESS_H

#include <assert.h>

#include "device/cpu/cpu.h"

#define CPU_NO_TILE UINT32_MAX

static inline const cpu_program *cpu_program_of(const cpu_instance *instance)
{
    return (const cpu_program *)instance->base.program;
}
static inline uint32_t cpu_tiles(const cpu_instance *instance, uint32_t kernel)
{
    return cpu_program_of(instance)->kernels[kernel].tiles;
}

/* The first unfinished kernel of the run `epoch`, or UINT32_MAX if the instance has gone on to another run. */
static inline uint32_t cpu_current(const cpu_instance *instance, uint32_t epoch)
{
    /* Acquire: pairs with the release in cpu_finish_tile; results of finished kernels are visible. */
    uint64_t current = atomic_load_explicit(&instance->current, memory_order_acquire);
    return (uint32_t)(current >> 32) == epoch ? (uint32_t)current : UINT32_MAX;
}

static inline bool cpu_has_tile(const cpu_instance *instance, uint32_t epoch, uint32_t kernel)
{
    uint64_t claim = atomic_load_explicit(&instance->progress[kernel].claim, memory_order_relaxed);
    return (uint32_t)(claim >> 32) == epoch && ((uint32_t)claim < cpu_tiles(instance, kernel) ||
                                                atomic_load_explicit(&instance->n_abandoned, memory_order_relaxed));
}

/* Takes a tile of the kernel, which the caller has seen to be current. CPU_NO_TILE when there is none to take. */
static inline uint32_t cpu_claim_tile(cpu_instance *instance, uint32_t epoch, uint32_t kernel)
{
    if (atomic_load_explicit(&instance->n_abandoned, memory_order_relaxed)) {
        uint32_t tile = CPU_NO_TILE;
        pthread_mutex_lock(&instance->lock);
        uint32_t n = atomic_load_explicit(&instance->n_abandoned, memory_order_relaxed);
        /* While a tile is abandoned its kernel cannot finish, so what is in the list belongs to the current kernel. */
        if (n && cpu_current(instance, epoch) == kernel) {
            tile = instance->abandoned[--n];
            atomic_store_explicit(&instance->n_abandoned, n, memory_order_relaxed);
        }
        pthread_mutex_unlock(&instance->lock);
        if (tile != CPU_NO_TILE) {
            return tile;
        }
    }
    _Atomic uint64_t *word = &instance->progress[kernel].claim;
    uint64_t claim = atomic_load_explicit(word, memory_order_acquire);
    do {
        if ((uint32_t)(claim >> 32) != epoch || (uint32_t)claim >= cpu_tiles(instance, kernel)) {
            return CPU_NO_TILE;
        }
    } while (
        !atomic_compare_exchange_weak_explicit(word, &claim, claim + 1, memory_order_acquire, memory_order_acquire));
    return (uint32_t)claim;
}

static inline void cpu_abandon_tile(cpu_instance *instance, uint32_t tile)
{
    pthread_mutex_lock(&instance->lock);
    uint32_t n = atomic_load_explicit(&instance->n_abandoned, memory_order_relaxed);
    assert(n < CPU_MAX_UNITS);
    instance->abandoned[n] = tile;
    atomic_store_explicit(&instance->n_abandoned, n + 1, memory_order_relaxed);
    pthread_mutex_unlock(&instance->lock);
}

/* Returns true when this was the kernel's last tile: the next kernel is now open. */
static inline bool cpu_finish_tile(cpu_instance *instance, uint32_t epoch, uint32_t kernel)
{
    /* Acquire and release: the unit that counts to the end has seen what every other unit wrote. */
    uint32_t done = atomic_fetch_add_explicit(&instance->progress[kernel].done, 1, memory_order_acq_rel) + 1;
    if (done < cpu_tiles(instance, kernel)) {
        return false;
    }
    atomic_store_explicit(&instance->current, (uint64_t)epoch << 32 | (kernel + 1), memory_order_release);
    return true;
}

#endif
