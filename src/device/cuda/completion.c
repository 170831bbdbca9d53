/*
 * completion.c - the completer: the one thread of the device that sees launches end.
 *
 * Every launch ends by raising a word in pinned memory, so looking costs a load and no call of the driver. How it looks:
 *
 *   nothing in the streams              sleeps on the futex `changes`; spins for a while when a request was announced
 *   far from the end one can expect     sleeps until a little before it
 *   near it                             spins
 *   long past it                        naps, and asks the driver now and then whether the context has failed
 *
 * "Expected" is what the same graph took before. A launch that replaces nobody's expectation (the first of its kind) is
 * spun for, briefly.
 */
#include <string.h>
#include <sys/prctl.h>

#include "base/clock.h"
#include "base/futex.h"
#include "device/cuda/cuda.h"

enum {
    MAX_EVENTS = 32,
    WAKE_EARLY_NS = 150 * 1000, /* a sleeper is on its feet this long after its alarm, with room to spare */
    SPIN_NS = 300 * 1000,       /* how long to spin past the expected end */
    RESUME_NS = 100 * 1000,     /* how long past it the submitter waits on the spot for best-effort work to come back */
    NAP_RT_NS = 20 * 1000,
    NAP_BE_NS = 50 * 1000,
    HEALTH_NS = 5 * 1000 * 1000, /* how often to ask the driver about a launch that is late */
};

typedef struct
    watch { /* what the completer looks at without the lock; the instances cannot go while they are in flight */
    reef_io_words *words[MAX_EVENTS];
    uint64_t ticket[MAX_EVENTS];
    unsigned n;
    uint64_t expected_ns; /* when the first of them should end; UINT64_MAX: no idea */
    bool realtime;
    bool evicted; /* and best-effort work made room for it */
} watch;

static bool has_ended(const cuda_launch *launch)
{
    /* Acquire: pairs with the release store of reef_io_end; the outputs in pinned memory are visible. */
    uint64_t ended = __atomic_load_n(&launch->instance->words->ended, __ATOMIC_ACQUIRE);
    return launch->failed || ended >= launch->ticket;
}

/* ------------------------------------------------------ under the lock -- */

/* How long a launch takes is what the completer sleeps by. So it goes by the GPU's clock, not by when the completer woke up,
 * and a run that was shorter than expected counts at once: or one long run, a graph's first or one beside another
 * process, would make every later one look as long. */
static void learn(cuda_device *device, const cuda_queue *queue, const cuda_launch *launch, uint64_t took_ns)
{
    cuda_graph *graph = launch->graph;
    if (graph) {
        graph->typical_ns =
            took_ns < graph->typical_ns || !graph->typical_ns ? took_ns : (graph->typical_ns * 7 + took_ns) / 8;
        const cuda_program *program = (const cuda_program *)launch->instance->base.program;
        uint64_t tiles = 0;
        for (uint32_t k = graph->first; k < graph->first + graph->count; k++) {
            tiles += program->kernels[k].code.tiles;
        }
        atomic_fetch_add_explicit(&device->tiles_run, tiles, memory_order_relaxed);
        atomic_fetch_add_explicit(queue->realtime ? &device->busy_ns_rt : &device->busy_ns_be,
                                  took_ns * device->base.units, memory_order_relaxed);
    }
}

/* The GPU's clock and the host's run at the same pace, some constant apart; the shortest time that was ever seen from the
 * GPU's "ended" to the host's seeing it says how far. Drift is small, but forgotten every second all the same. */
static void compare_clocks(cuda_device *device, uint64_t gpu_ns, uint64_t now)
{
    int64_t apart = (int64_t)(now - gpu_ns);
    if (now - device->clock_since_ns > UINT64_C(1000000000)) {
        device->clock_apart[0] = device->clock_apart[1];
        device->clock_apart[1] = apart;
        device->clock_since_ns = now;
    }
    device->clock_apart[1] = apart < device->clock_apart[1] ? apart : device->clock_apart[1];
    device->clock_apart[0] = device->clock_apart[1] < device->clock_apart[0] || !device->clock_apart[0]
                                 ? device->clock_apart[1]
                                 : device->clock_apart[0];
}

/* When the host could have seen the launch begin; otherwise says when it was handed over. */
static uint64_t begun_at(const cuda_device *device, const cuda_launch *launch, uint64_t otherwise, uint64_t now)
{
    if (!launch->graph || !(launch->graph->kind & CUDA_GRAPH_IN) || launch->failed) {
        return otherwise;
    }
    uint64_t at =
        __atomic_load_n(&launch->instance->words->begun_at_ns, __ATOMIC_RELAXED) + (uint64_t)device->clock_apart[0];
    return at < otherwise ? otherwise : at > now ? now : at;
}

/* When the GPU says that the instance's last launch to end has ended: later than the one at hand where two were in the
 * stream. So the host's clock is to be looked at after this, or the clocks would seem closer than they are. */
static uint64_t ended_at(const cuda_launch *launch)
{
    return __atomic_load_n(&launch->instance->words->ended_at_ns, __ATOMIC_RELAXED);
}

/* The head of the queue is over: takes it out of the ring and tells what happened. */
static reef_event retire(cuda_device *device, cuda_queue *queue, cuda_instance **outputs)
{
    cuda_launch *launch = &queue->ring[queue->head];
    cuda_instance *instance = launch->instance;
    uint64_t gpu_ns = ended_at(launch), now = reef_now_ns();
    uint64_t start = launch->start_ns > queue->last_end_ns ? launch->start_ns : queue->last_end_ns;
    uint32_t end = launch->first + launch->count, reached = end;
    uint32_t before = atomic_load_explicit(&instance->current, memory_order_relaxed);
    *outputs = NULL;
    if (launch->workers && launch->graph && !launch->failed) {
        reached = instance->words->progress[launch->ticket % REEF_IO_REPORTS];
        reached = launch->first > before ? before : reached; /* behind one that stopped early */
    }
    reached = launch->behind && before < end ? before : reached;
    bool done = reached >= end && !launch->failed;
    if (launch->graph && !launch->failed) {
        compare_clocks(device, gpu_ns, now);
    }
    if (!launch->failed) {
        if (reached > before) {
            atomic_store_explicit(&instance->current, reached, memory_order_release);
        }
        if (launch->workers && !done && launch->graph &&
            device->revoked_ns > start) { /* it ran until it was told to stop */
            atomic_fetch_add_explicit(&device->busy_ns_be, (device->revoked_ns - start) * device->base.units,
                                      memory_order_relaxed);
        }
        if (done && launch->graph) {
            uint64_t ended = gpu_ns + (uint64_t)device->clock_apart[0];
            learn(device, queue, launch, ended > start && ended < now ? ended - start : now - start);
            *outputs = launch->graph->kind & CUDA_GRAPH_OUT ? instance : NULL;
        }
        instance->partial &= reached < instance->base.program->plan->n_kernels;
    }
    device->workers -= launch->workers;
    if (launch->workers && device->workers == 0) {
        cuda_watch_busy(device, false);
    }
    instance->in_flight--;
    queue->last_end_ns = now;
    queue->head = (queue->head + 1) % queue->capacity;
    queue->count--;
    queue->submitted--;
    return (reef_event){
        .kind = launch->failed ? REEF_EVENT_FAILED
                : done         ? REEF_EVENT_DONE
                               : REEF_EVENT_EVICTED,
        .tag = launch->tag,
        .start_ns = begun_at(device, launch, start, now),
        .end_ns = now,
    };
}

static unsigned collect(cuda_device *device, reef_event *events, cuda_instance **outputs)
{
    unsigned n = 0;
    for (reef_list *link = device->queues.next; link != &device->queues; link = link->next) {
        cuda_queue *queue = REEF_CONTAINER(link, cuda_queue, link);
        while (n < MAX_EVENTS && queue->submitted && has_ended(&queue->ring[queue->head])) {
            events[n] = retire(device, queue, &outputs[n]);
            n++;
        }
    }
    if (n) {
        cuda_work(device); /* streams have room */
    }
    return n;
}

static void look_at(cuda_device *device, watch *w)
{
    *w = (watch){.expected_ns = UINT64_MAX};
    for (reef_list *link = device->queues.next; link != &device->queues; link = link->next) {
        cuda_queue *queue = REEF_CONTAINER(link, cuda_queue, link);
        if (!queue->submitted || w->n == MAX_EVENTS) {
            continue;
        }
        const cuda_launch *launch = &queue->ring[queue->head];
        uint64_t start = launch->start_ns > queue->last_end_ns ? launch->start_ns : queue->last_end_ns;
        uint64_t expected = start + (launch->graph ? launch->graph->typical_ns : 0);
        w->words[w->n] = launch->instance->words;
        w->ticket[w->n++] = launch->ticket;
        w->realtime |= queue->realtime;
        w->evicted |= queue->realtime && device->vacated;
        w->expected_ns = expected < w->expected_ns ? expected : w->expected_ns;
    }
}

/* Has the driver seen the context fail? It says so at the next call about any stream. */
static bool context_failed(cuda_device *device)
{
    reef_error error = {0};
    bool failed = false;
    if (cuda_enter(device, &error)) {
        return true;
    }
    for (reef_list *link = device->queues.next; !failed && link != &device->queues; link = link->next) {
        CUresult result = device->cu->stream_query(REEF_CONTAINER(link, cuda_queue, link)->stream);
        if (result != CUDA_OK && result != CUDA_NOT_READY) {
            cuda_check(device->cu, result, "stream_query(a kernel was running)", &error);
            failed = true;
        }
    }
    cuda_leave(device);
    if (failed && error.status) {
        device->failure = error;
    }
    return failed;
}

/* -------------------------------------------------------- without it -- */

static bool any_ended(const watch *w)
{
    for (unsigned i = 0; i < w->n; i++) {
        if (__atomic_load_n(&w->words[i]->ended, __ATOMIC_RELAXED) >= w->ticket[i]) {
            return true;
        }
    }
    return false;
}

static void nap(cuda_device *device, uint32_t seen, uint64_t until_ns)
{
    atomic_store(&device->sleeping, 1);
    if (atomic_load(&device->changes) == seen) {
        reef_futex_wait(&device->changes, seen, until_ns);
    }
    atomic_store(&device->sleeping, 0);
}

/* Until something ends, something changes, or the driver should be asked (returns true). */
static bool wait_for_news(cuda_device *device, const watch *w, uint32_t seen)
{
    if (!w->n) {
        /* Waking up takes longer than a short request: one that was announced is waited for on the spot. */
        while (reef_now_ns() < atomic_load_explicit(&device->request_due_ns, memory_order_relaxed)) {
            if (atomic_load_explicit(&device->changes, memory_order_relaxed) != seen) {
                return false;
            }
            reef_cpu_relax();
        }
        nap(device, seen, UINT64_MAX);
        return false;
    }
    uint64_t begun = reef_now_ns();
    bool said = false;
    for (;;) {
        for (int i = 0; i < 16; i++) {
            if (any_ended(w) || atomic_load_explicit(&device->changes, memory_order_relaxed) != seen) {
                return false;
            }
            reef_cpu_relax();
        }
        uint64_t now = reef_now_ns();
        if (now + WAKE_EARLY_NS < w->expected_ns) {
            nap(device, seen, w->expected_ns - WAKE_EARLY_NS);
        } else if (w->evicted && !said) {
            said = true; /* when it ends, best-effort work is to be launched again */
            atomic_store(&device->work_due_ns, w->expected_ns + RESUME_NS);
            cuda_work(device);
        } else if (now > w->expected_ns + SPIN_NS) {
            nap(device, seen, now + (w->realtime ? NAP_RT_NS : NAP_BE_NS));
        }
        if (now > begun + HEALTH_NS && now > w->expected_ns + HEALTH_NS) {
            return true;
        }
    }
}

static void check_context(cuda_device *device)
{
    pthread_mutex_lock(&device->lock);
    bool broken = !device->dead && context_failed(device);
    pthread_mutex_unlock(&device->lock);
    if (broken) {
        cuda_recover(device);
    }
}

void *cuda_completer_main(void *context)
{
    cuda_device *device = context;
    prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
    pthread_mutex_lock(&device->lock);
    while (!device->closing) {
        uint32_t seen = atomic_load(&device->changes);
        reef_event events[MAX_EVENTS];
        cuda_instance *outputs[MAX_EVENTS];
        bool failed = false;
        unsigned n = collect(device, events, outputs);
        for (unsigned i = 0; i < n; i++) {
            failed |= events[i].kind == REEF_EVENT_FAILED;
        }
        if (n) {
            pthread_mutex_unlock(&device->lock);
            if (failed) {
                check_context(device); /* before anyone hears of it and launches again */
            }
            for (unsigned i = 0; i < n; i++) {
                if (outputs[i]) {
                    cuda_instance_outputs(outputs[i]);
                }
                device->config.on_event(device->config.context, &events[i]);
            }
            pthread_mutex_lock(&device->lock);
            continue;
        }
        watch w;
        look_at(device, &w);
        pthread_mutex_unlock(&device->lock);
        bool late = wait_for_news(device, &w, seen);
        if (late) {
            check_context(device);
        }
        pthread_mutex_lock(&device->lock);
    }
    pthread_mutex_unlock(&device->lock);
    return NULL;
}
