/*
 * processor.c - the command processor: which launch a compute unit works on next, and the work itself.
 *
 * Every unit runs the same loop: look (under the device's lock) which launch at the head of a queue has a tile for it,
 * attach, run tiles without the lock, detach, look again. Between looks it spins for CPU_SPIN_NS and then sleeps.
 *
 * Who comes first. Plain launches are dispatched as a device does it: the highest priority, equals by least service
 * received, one decision per tile when several wait. Leased launches are persistent: their workers take only units
 * inside the lease, and on a unit that the lease reserves while others are reclaimed they come before plain launches,
 * because resident workers leave no room beside them.
 */
#include "device/cpu/cpu.h"

#include <sched.h>

#include "base/clock.h"
#include "base/futex.h"
#include "device/cpu/progress.h"

/* ------------------------------------------------------------- sleeping -- */

static void bump(cpu_device *device, int units)
{
    /* Sequentially consistent with the sleeper's increment and re-read in wait_for_change: either the sleeper sees the
     * new count, or we see the sleeper. */
    atomic_fetch_add(&device->changes, 1);
    if (atomic_load(&device->sleepers)) {
        reef_futex_wake(&device->changes, units);
    }
}

void cpu_bump(cpu_device *device)
{
    bump(device, INT32_MAX);
}

void cpu_bump_tiles(cpu_device *device, uint32_t tiles, bool leased)
{
    /* A unit that is woken and may not run the tile, or prefers another one, sleeps again or stays away, and nobody is
     * woken in its place. So everybody is woken for leased tiles, and while a lease gives some units work of their own. */
    reef_lease lease = atomic_load(&device->lease);
    uint32_t first = (uint32_t)lease, end = (uint32_t)(lease >> 32);
    bool any = !leased && (first >= end || end - first == device->n_units);
    bump(device, any && tiles < CPU_MAX_UNITS ? (int)tiles : INT32_MAX);
}

static void wait_for_change(cpu_device *device, uint32_t seen)
{
    uint64_t until = reef_now_ns() + CPU_SPIN_NS;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&device->changes, memory_order_relaxed) != seen) {
                return;
            }
            reef_cpu_relax();
        }
        sched_yield(); /* a client or a server's thread may have nowhere else to run */
    } while (reef_now_ns() < until);
    atomic_fetch_add(&device->sleepers, 1);
    if (atomic_load(&device->changes) == seen) {
        reef_futex_wait(&device->changes, seen, UINT64_MAX);
    }
    atomic_fetch_sub(&device->sleepers, 1);
}

/* ------------------------------------------------- launches, under lock -- */

/* Kernel `current` of the launch's run: UINT32_MAX (>= any end) when the run is over. */
static uint32_t launch_kernel(const cpu_launch *launch)
{
    return cpu_current(launch->instance, launch->epoch);
}

static cpu_pad *launch_pad(cpu_launch *launch)
{
    for (unsigned i = 0; i < launch->n_pads; i++) {
        cpu_pad *pad = &launch->pads[i];
        if (atomic_load_explicit(&pad->left, memory_order_relaxed) > 0 &&
            cpu_current(pad->instance, pad->epoch) == pad->kernel &&
            cpu_has_tile(pad->instance, pad->epoch, pad->kernel)) {
            return pad;
        }
    }
    return NULL;
}

static bool launch_has_work(cpu_launch *launch)
{
    uint32_t kernel = launch_kernel(launch);
    if (kernel >= atomic_load_explicit(&launch->end, memory_order_relaxed)) {
        return false;
    }
    return cpu_has_tile(launch->instance, launch->epoch, kernel) || launch_pad(launch);
}

static bool launch_over(const cpu_launch *launch)
{
    if (launch_kernel(launch) < atomic_load_explicit(&launch->end, memory_order_relaxed)) {
        return false;
    }
    /* A launch that ran to its end has no tile in flight. One that was cut short, or carries another instance's tiles,
     * may: it is over when the last unit has left. */
    return (!launch->evicted && !launch->n_pads) || launch->attached == 0;
}

enum { MAX_EVENTS = 16 };

/* Takes launches that are over off the rings. Returns how many events it wrote (at most MAX_EVENTS; call again). */
static unsigned reap(cpu_device *device, reef_event *events)
{
    unsigned n = 0;
    for (cpu_queue *queue = device->queues; queue; queue = queue->next) {
        while (queue->count && n < MAX_EVENTS) {
            cpu_launch *launch = queue->ring[queue->head];
            if (!launch_over(launch)) {
                break;
            }
            events[n++] = (reef_event){
                .kind = launch->evicted ? REEF_EVENT_EVICTED : REEF_EVENT_DONE,
                .tag = launch->tag,
                .start_ns = atomic_load_explicit(&launch->start_ns, memory_order_relaxed),
                .end_ns = atomic_load_explicit(&launch->end_ns, memory_order_relaxed),
                .padded_tiles = atomic_load_explicit(&launch->padded_tiles, memory_order_relaxed),
            };
            launch->in_ring = false;
            queue->head = (queue->head + 1) % queue->capacity;
            queue->count--;
        }
    }
    return n;
}

/* The launch that the unit should work on, or NULL. *shared: others of the same rank wait too. */
static cpu_launch *select_launch(cpu_device *device, unsigned unit, cpu_queue **from, bool *shared)
{
    reef_lease lease = atomic_load_explicit(&device->lease, memory_order_relaxed);
    bool inside = reef_lease_has(lease, unit);
    bool partial = lease != reef_lease_make(0, device->n_units);
    cpu_launch *best = NULL;
    int best_rank = 0;
    *shared = false;
    for (cpu_queue *queue = device->queues; queue; queue = queue->next) {
        cpu_launch *launch = queue->count ? queue->ring[queue->head] : NULL;
        if (!launch || (launch->mode == REEF_LAUNCH_LEASED && !inside) || !launch_has_work(launch)) {
            continue;
        }
        bool resident = launch->mode == REEF_LAUNCH_LEASED && partial;
        int rank = resident ? INT32_MAX : queue->priority;
        if (best && rank == best_rank) {
            *shared = true;
        }
        if (!best || rank > best_rank ||
            (rank == best_rank && atomic_load_explicit(&queue->service_ns, memory_order_relaxed) <
                                      atomic_load_explicit(&(*from)->service_ns, memory_order_relaxed))) {
            if (!best || rank > best_rank) {
                *shared = false;
            }
            best = launch;
            best_rank = rank;
            *from = queue;
        }
    }
    return best;
}

/* ----------------------------------------------------- tiles, no lock -- */

static void add_relaxed(_Atomic uint64_t *counter, uint64_t amount)
{
    /* One writer per unit's counter: load and store instead of a locked add. */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + amount, memory_order_relaxed);
}

typedef struct tile_run {
    cpu_unit *unit;
    cpu_launch *launch;
    uint64_t now_ns; /* when the last tile ended: one clock reading per tile */
    uint64_t service_ns;
    bool owes_bump; /* opened a kernel of one tile and told nobody, being about to take that tile itself */
} tile_run;

/* Is the kernel that the unit has just opened work for others? One tile of it the unit takes itself. */
static bool opens_for_others(const cpu_launch *launch, const cpu_instance *instance, uint32_t kernel)
{
    return launch->instance != instance || launch->n_pads ||
           kernel + 1 >= atomic_load_explicit(&launch->end, memory_order_relaxed) ||
           cpu_tiles(instance, kernel + 1) > 1;
}

/* Runs one claimed tile. Returns false when it was abandoned. */
static bool run_tile(tile_run *run, cpu_instance *instance, uint32_t epoch, uint32_t kernel, uint32_t tile, bool be,
                     bool leased)
{
    cpu_unit *unit = run->unit;
    cpu_device *device = unit->device;
    const reef_cpu_kernel *code = &cpu_program_of(instance)->kernels[kernel];
    /* What is no transaction is only stopped between tiles. */
    bool may_stop = leased && code->epilogue_only && instance->base.program->plan->kernels[kernel].transaction;
    reef_tile_ctx ctx = {
        .lease = may_stop ? &device->lease : NULL,
        .unit = unit->index,
        .scratch = unit->scratch,
        .polls_left = UINT64_MAX,
    };
    uint64_t started = run->now_ns;
    reef_tile_result result = code->run(code->args, instance->storage, tile, &ctx);
    run->now_ns = reef_now_ns();
    uint64_t spent = run->now_ns - started;
    run->service_ns += spent;
    add_relaxed(be ? &unit->busy_ns_be : &unit->busy_ns_rt, spent);
    if (result == REEF_TILE_ABANDONED) {
        add_relaxed(&unit->tiles_abandoned, 1);
        add_relaxed(&unit->lost_ns_be, spent);
        cpu_abandon_tile(instance, tile);
        /* Work for the units of the lease. Where there are none, nobody is disturbed on his way to the RT launch: who
         * leases units later has read this word, so the units that he wakes see the tile. */
        reef_lease lease = atomic_fetch_or(&device->lease, 0);
        if ((uint32_t)lease < (uint32_t)(lease >> 32)) {
            cpu_bump(device);
        }
        return false;
    }
    add_relaxed(&unit->tiles_run, 1);
    /* Before the tile counts as finished: whoever sees the last one may report the launch at once. */
    atomic_store_explicit(&run->launch->end_ns, run->now_ns, memory_order_relaxed);
    if (cpu_finish_tile(instance, epoch, kernel)) {
        const cpu_launch *launch = run->launch;
        if (opens_for_others(launch, instance, kernel)) {
            bool next = launch->instance == instance && !launch->n_pads &&
                        kernel + 1 < atomic_load_explicit(&launch->end, memory_order_relaxed);
            next ? cpu_bump_tiles(device, cpu_tiles(instance, kernel + 1), leased) : cpu_bump(device);
        } else {
            run->owes_bump = true;
        }
    }
    return true;
}

static void note_start(cpu_launch *launch, uint64_t now)
{
    uint64_t none = 0;
    if (atomic_load_explicit(&launch->start_ns, memory_order_relaxed) == 0) {
        atomic_compare_exchange_strong_explicit(&launch->start_ns, &none, now, memory_order_relaxed,
                                                memory_order_relaxed);
    }
}

/* A BE tile inside an RT launch: not under the lease, since it was chosen to fit. */
static bool run_pad(tile_run *run)
{
    cpu_launch *launch = run->launch;
    cpu_pad *pad = launch_pad(launch);
    if (!pad) {
        return false;
    }
    if (atomic_fetch_sub_explicit(&pad->left, 1, memory_order_relaxed) <= 0) {
        return true; /* another unit took the last one; look again */
    }
    uint32_t tile = cpu_claim_tile(pad->instance, pad->epoch, pad->kernel);
    if (tile != CPU_NO_TILE) {
        run_tile(run, pad->instance, pad->epoch, pad->kernel, tile, true, false);
        atomic_fetch_add_explicit(&launch->padded_tiles, 1, memory_order_relaxed);
        add_relaxed(&run->unit->padded_tiles, 1);
    }
    return true;
}

static void run_launch(cpu_unit *unit, cpu_launch *launch, bool shared, uint32_t seen, tile_run *run)
{
    cpu_device *device = unit->device;
    cpu_instance *instance = launch->instance;
    bool leased = launch->mode == REEF_LAUNCH_LEASED;
    uint64_t began = run->now_ns;
    for (;;) {
        if (leased && !reef_lease_has(atomic_load_explicit(&device->lease, memory_order_relaxed), unit->index)) {
            return;
        }
        uint32_t kernel = launch_kernel(launch);
        if (kernel >= atomic_load_explicit(&launch->end, memory_order_relaxed)) {
            return;
        }
        uint32_t tile = cpu_claim_tile(instance, launch->epoch, kernel);
        if (tile == CPU_NO_TILE) {
            if (!run_pad(run)) {
                return;
            }
            continue;
        }
        run->owes_bump = false;
        note_start(launch, run->now_ns);
        if (!run_tile(run, instance, launch->epoch, kernel, tile, !launch->realtime, leased)) {
            return;
        }
        bool changed = atomic_load_explicit(&device->changes, memory_order_relaxed) != seen;
        /* `shared` is as old as the attachment: a worker that stays looks again after its time in any case. */
        if (leased ? run->now_ns - began > CPU_SHARE_NS : shared || changed) {
            return;
        }
    }
}

void *cpu_unit_main(void *argument)
{
    cpu_unit *unit = argument;
    cpu_device *device = unit->device;
    reef_event events[MAX_EVENTS];
    pthread_mutex_lock(&device->lock);
    while (!device->closing) {
        unsigned n = reap(device, events);
        if (n) {
            pthread_mutex_unlock(&device->lock);
            for (unsigned i = 0; i < n; i++) {
                device->config.on_event(device->config.context, &events[i]);
            }
            pthread_mutex_lock(&device->lock);
            continue;
        }
        /* Read before looking: a change after this makes the wait return at once. */
        uint32_t seen = atomic_load(&device->changes);
        cpu_queue *queue = NULL;
        bool shared = false;
        cpu_launch *launch = select_launch(device, unit->index, &queue, &shared);
        if (!launch) {
            pthread_mutex_unlock(&device->lock);
            wait_for_change(device, seen);
            pthread_mutex_lock(&device->lock);
            continue;
        }
        launch->attached++;
        queue->turn_ns = atomic_load_explicit(&queue->service_ns, memory_order_relaxed);
        pthread_mutex_unlock(&device->lock);
        tile_run run = {.unit = unit, .launch = launch, .now_ns = reef_now_ns()};
        run_launch(unit, launch, shared, seen, &run);
        if (run.owes_bump) {
            cpu_bump(device); /* it left without that tile */
        }
        pthread_mutex_lock(&device->lock);
        launch->attached--;
        atomic_fetch_add_explicit(&queue->service_ns, run.service_ns / queue->weight, memory_order_relaxed);
    }
    pthread_mutex_unlock(&device->lock);
    return NULL;
}
