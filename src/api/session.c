/*
 * session.c - requests: submit, wait, cancel, release.
 *
 * Requests come from a fixed set made with the session, so submitting allocates nothing. A request has two references:
 * the engine's, dropped after its callback, and the caller's, if the caller asked for a handle. The session's memory
 * lives until its owner has destroyed it and the last handle is released.
 */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/error.h"
#include "base/futex.h"
#include "reef/reef.h"

struct reef_request {
    reef_task task; /* first: on_end gets the request from it */
    struct reef_request *next_free;
    reef_list live; /* in session->live while the engine has it */
    reef_session *session;
    reef_callback callback;
    void *context;
    const void **inputs;
    void **outputs;
    _Atomic uint32_t ended; /* futex: 1 once the engine is done with it */
    _Atomic uint32_t references;
};

struct reef_session {
    reef_model *model;
    reef_list link; /* in device->sessions */
    reef_class service_class;
    reef_instances instances;
    reef_vhq vhq;         /* BE only */
    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t idle;
    reef_request *requests, *free_requests;
    const void **pointers; /* the requests' input and output tables */
    reef_list live;
    unsigned n_requests, handed_out;
    unsigned inside;      /* threads between taking a request and the scheduler having it, or cancelling one */
    bool closing, orphan; /* orphan: destroyed, memory kept for handles that are still out */
    reef_session_stats stats;
};

static reef_session *session_of(reef_list *link)
{
    return REEF_CONTAINER(link, reef_session, link);
}

/* Units that the session's requests keep from best-effort work where that has the others; 0: no number of its own. */
static unsigned units_kept(const reef_session *session)
{
    const unsigned needed = atomic_load_explicit(&session->model->units_needed, memory_order_relaxed);
    return session->service_class == REEF_RT && needed < session->model->device->dev->units ? needed : 0;
}

static void warm_instances(reef_session *session, reef_launch_mode mode, reef_lease lease)
{
    const reef_device_ops *ops = session->model->device->dev->ops;
    for (unsigned i = 0; i < session->instances.n; i++) {
        ops->warm(session->instances.free[i], session->service_class == REEF_RT, mode, lease);
    }
}

/* None of the session's instances is in use; sessions_lock is held. */
static void warm(reef_session *session, const reef_policy *policy)
{
    const reef_device *device = session->model->device;
    const unsigned units = device->dev->units;
    const bool rt = session->service_class == REEF_RT;
    if (!device->dev->ops->warm || !(rt || policy->serve_be)) {
        return;
    }
    const reef_launch_mode mode = rt ? REEF_LAUNCH_PLAIN : policy->be_mode;
    warm_instances(session, mode, reef_lease_make(0, units));
    const bool divides = policy->lease == REEF_LEASE_LEFTOVER;
    for (reef_list *link = device->sessions.next; divides && link != &device->sessions; link = link->next) {
        const unsigned kept = units_kept(session_of(link));
        if (kept) { /* perhaps not for the first time: what is ready is not made again */
            warm_instances(session, mode, reef_lease_make(kept, units));
        }
    }
}

void reef_sessions_warm(reef_device *device, const reef_policy *policy)
{
    for (reef_list *link = device->sessions.next; link != &device->sessions; link = link->next) {
        warm(session_of(link), policy);
    }
}

static void session_free(reef_session *session)
{
    pthread_cond_destroy(&session->idle);
    pthread_mutex_destroy(&session->lock);
    free(session->requests);
    free(session->pointers);
    free(session);
}

/* A thread is done with the scheduler; destroying waits for it. */
static void leave(reef_session *session)
{
    pthread_mutex_lock(&session->lock);
    session->inside--;
    if (session->closing && session->inside == 0) {
        pthread_cond_broadcast(&session->idle);
    }
    pthread_mutex_unlock(&session->lock);
}

/* Drops one reference; the last one puts the request back. */
static void drop(reef_request *request)
{
    /* Acquire and release: what either owner did to the request comes before its reuse. */
    if (atomic_fetch_sub_explicit(&request->references, 1, memory_order_acq_rel) > 1) {
        return;
    }
    reef_session *session = request->session;
    pthread_mutex_lock(&session->lock);
    request->next_free = session->free_requests;
    session->free_requests = request;
    session->handed_out--;
    bool last = session->orphan && session->handed_out == 0;
    pthread_mutex_unlock(&session->lock);
    if (last) {
        session_free(session);
    }
}

static void fill_info(const reef_request *request, reef_request_info *out)
{
    *out = (reef_request_info){
        .submit_ns = request->task.submit_ns,
        .launch_ns = request->task.launch_ns,
        .start_ns = request->task.start_ns,
        .end_ns = request->task.end_ns,
        .preemptions = request->task.preemptions,
        .status = request->task.status,
    };
}

/* What a hint keeps ready is needed until the request has ended: a GPU that saw nothing else queued would turn to another
 * process while it fetches the launch. */
static void release_hint(const reef_session *session)
{
    reef_device *device = session->model->device;
    if (session->service_class == REEF_RT && atomic_load_explicit(&device->hint_held, memory_order_relaxed)) {
        atomic_store_explicit(&device->hint_held, false, memory_order_relaxed);
        device->dev->ops->hint(device->dev, 0, NULL);
    }
}

static void on_end(reef_task *task)
{
    reef_request *request = (reef_request *)task;
    reef_session *session = request->session;
    reef_request_info info;
    fill_info(request, &info);
    release_hint(session);
    pthread_mutex_lock(&session->lock);
    session->stats.preemptions += info.preemptions;
    switch (info.status) {
    case REEF_OK: session->stats.completed++; break;
    case REEF_CANCELLED: session->stats.cancelled++; break;
    case REEF_DEADLINE: session->stats.missed_deadline++; break;
    default: session->stats.failed++; break;
    }
    pthread_mutex_unlock(&session->lock);
    if (request->callback) {
        request->callback(request->context, request, &info);
    }
    /* Release: pairs with the acquire in reef_request_wait; outputs and times are visible to the waiter. */
    atomic_store_explicit(&request->ended, 1, memory_order_release);
    reef_futex_wake(&request->ended, INT32_MAX);
    pthread_mutex_lock(&session->lock);
    reef_list_remove(&request->live);
    if (session->closing && reef_list_empty(&session->live)) {
        pthread_cond_broadcast(&session->idle);
    }
    pthread_mutex_unlock(&session->lock);
    drop(request);
}

reef_status reef_session_create(reef_model *model, const reef_session_options *options, reef_session **out,
                                reef_error *error)
{
    const reef_session_options defaults = {.service_class = REEF_BE};
    options = options ? options : &defaults;
    if (options->service_class != REEF_RT && options->service_class != REEF_BE) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "service class %d is neither real-time nor best-effort",
                         (int)options->service_class);
    }
    bool be = options->service_class == REEF_BE;
    unsigned limit = options->queue_limit ? options->queue_limit : 1024;
    unsigned instances = options->instances ? options->instances : be ? 2 : 1;
    if (limit > 1u << 20 || instances > 1024) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "queue limit %u or instances %u out of range", limit, instances);
    }
    reef_session *session = calloc(1, sizeof *session);
    if (!session) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    session->model = model;
    session->service_class = options->service_class;
    pthread_mutex_init(&session->lock, NULL);
    pthread_cond_init(&session->idle, NULL);
    reef_list_init(&session->live);
    const reef_plan *plan = model->plan;
    size_t tables = plan->n_inputs + plan->n_outputs;
    session->n_requests = limit + instances + 1; /* one more: a callback submits while its own request is out */
    session->requests = calloc(session->n_requests, sizeof *session->requests);
    session->pointers = calloc((size_t)session->n_requests * tables + 1, sizeof(void *));
    reef_device *device = model->device;
    reef_error cause = {0};
    reef_status status = session->requests && session->pointers ? REEF_OK : REEF_NO_MEMORY;
    if (!status) {
        status = reef_instances_create(model->program, instances, &session->instances, &cause);
    }
    if (!status && be) {
        status = reef_vhq_create(device->dev, device->queue_capacity, options->weight, limit, &session->vhq);
    }
    if (status) {
        reef_instances_destroy(&session->instances);
        session_free(session);
        return reef_fail(error, status, "cannot create a session: %s (%u instances of %zu bytes)",
                         cause.status ? cause.message : reef_status_text(status), instances, plan->activation_bytes);
    }
    for (unsigned i = 0; i < session->n_requests; i++) {
        reef_request *request = &session->requests[i];
        request->session = session;
        request->inputs = session->pointers + (size_t)i * tables;
        request->outputs = (void **)(uintptr_t)(request->inputs + plan->n_inputs);
        request->next_free = i + 1 < session->n_requests ? request + 1 : NULL;
        reef_list_init(&request->live);
    }
    session->free_requests = session->requests;
    if (be) {
        reef_sched_add_queue(&device->sched, &session->vhq);
    }
    atomic_fetch_add(&model->sessions, 1);
    pthread_mutex_lock(&device->sessions_lock);
    reef_list_insert(&device->sessions, &session->link);
    warm(session, reef_sched_policy(&device->sched));
    pthread_mutex_unlock(&device->sessions_lock);
    *out = session;
    return REEF_OK;
}

void reef_session_destroy(reef_session *session)
{
    if (!session) {
        return;
    }
    reef_device *device = session->model->device;
    pthread_mutex_lock(&session->lock);
    session->closing = true;
    /* A callback may be submitting just now: its request is live, but the scheduler does not know it yet. */
    while (session->inside) {
        pthread_cond_wait(&session->idle, &session->lock);
    }
    for (unsigned i = 0; i < session->n_requests; i++) {
        reef_request *request = &session->requests[i];
        if (!reef_list_empty(&request->live)) {
            /* Not under the lock: cancelling may call on_end, which takes it. */
            atomic_fetch_add(&request->references, 1);
            pthread_mutex_unlock(&session->lock);
            reef_sched_cancel(&device->sched, &request->task);
            drop(request);
            pthread_mutex_lock(&session->lock);
        }
    }
    while (session->inside || !reef_list_empty(&session->live)) {
        pthread_cond_wait(&session->idle, &session->lock);
    }
    pthread_mutex_unlock(&session->lock);

    pthread_mutex_lock(&device->sessions_lock);
    reef_list_remove(&session->link);
    pthread_mutex_unlock(&device->sessions_lock);
    if (session->service_class == REEF_BE) {
        reef_sched_remove_queue(&device->sched, &session->vhq);
        reef_vhq_destroy(&session->vhq);
    }
    reef_instances_destroy(&session->instances);
    atomic_fetch_sub(&session->model->sessions, 1);
    pthread_mutex_lock(&session->lock);
    session->orphan = true;
    bool last = session->handed_out == 0;
    pthread_mutex_unlock(&session->lock);
    if (last) {
        session_free(session);
    }
}

static reef_request *take_request(reef_session *session, reef_status *status)
{
    pthread_mutex_lock(&session->lock);
    reef_request *request = session->closing ? NULL : session->free_requests;
    *status = session->closing ? REEF_CANCELLED : request ? REEF_OK : REEF_QUEUE_FULL;
    if (request) {
        session->free_requests = request->next_free;
        session->handed_out++;
        session->inside++;
        session->stats.submitted++;
        reef_list_insert(&session->live, &request->live);
    } else {
        session->stats.refused++;
    }
    pthread_mutex_unlock(&session->lock);
    return request;
}

reef_status reef_session_submit(reef_session *session, const reef_submit_options *options, reef_request **out)
{
    const reef_model *model = session->model;
    const reef_plan *plan = model->plan;
    if ((plan->n_inputs && !options->inputs)) {
        return REEF_INVALID_ARGUMENT;
    }
    for (size_t i = 0; i < plan->n_inputs; i++) {
        if (!options->inputs[i]) {
            return REEF_INVALID_ARGUMENT;
        }
    }
    reef_status status;
    reef_request *request = take_request(session, &status);
    if (!request) {
        return status;
    }
    for (size_t i = 0; i < plan->n_inputs; i++) {
        request->inputs[i] = options->inputs[i];
    }
    for (size_t i = 0; i < plan->n_outputs; i++) {
        request->outputs[i] = options->outputs ? options->outputs[i] : NULL;
    }
    request->callback = options->callback;
    request->context = options->context;
    atomic_store_explicit(&request->ended, 0, memory_order_relaxed);
    atomic_store_explicit(&request->references, out ? 2 : 1, memory_order_relaxed);
    request->task = (reef_task){
        .inputs = request->inputs,
        .outputs = request->outputs,
        .deadline_ns = options->deadline_ns,
        .pool = &session->instances,
        .vhq = session->service_class == REEF_BE ? &session->vhq : NULL,
        .kernels = (uint32_t)plan->n_kernels,
        .costs = model->costs,
        .name = model->name,
        .units_needed = atomic_load_explicit(&model->units_needed, memory_order_relaxed),
        .on_end = on_end,
    };
    reef_list_init(&request->task.link);
    if (out) {
        *out = request; /* before submitting: the callback may fire first */
    }
    reef_device *device = model->device;
    if (session->service_class == REEF_RT && atomic_load_explicit(&device->hints, memory_order_relaxed)) {
        atomic_store_explicit(&device->hints, 0, memory_order_relaxed);
        atomic_store_explicit(&device->hint_held, true, memory_order_relaxed);
    }
    status = reef_sched_submit(&device->sched, &request->task);
    if (status) {
        release_hint(session);
        if (out) {
            *out = NULL;
            atomic_fetch_sub(&request->references, 1);
        }
        pthread_mutex_lock(&session->lock);
        session->stats.submitted--;
        session->stats.refused++;
        reef_list_remove(&request->live);
        if (session->closing && reef_list_empty(&session->live)) {
            pthread_cond_broadcast(&session->idle);
        }
        pthread_mutex_unlock(&session->lock);
        drop(request);
    }
    leave(session);
    return status;
}

reef_status reef_request_wait(reef_request *request, uint64_t timeout_ns, reef_request_info *info)
{
    uint64_t now = reef_now_ns();
    uint64_t until = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    while (!atomic_load_explicit(&request->ended, memory_order_acquire)) {
        if (until != UINT64_MAX && reef_now_ns() >= until) {
            return REEF_TIMEOUT;
        }
        reef_futex_wait(&request->ended, 0, until);
    }
    if (info) {
        fill_info(request, info);
    }
    return REEF_OK;
}

void reef_request_cancel(reef_request *request)
{
    /* The handle may outlive session, model and device: they are there only while the request is live. */
    reef_session *session = request->session;
    pthread_mutex_lock(&session->lock);
    bool live = !reef_list_empty(&request->live);
    session->inside += live;
    pthread_mutex_unlock(&session->lock);
    if (live) {
        reef_sched_cancel(&session->model->device->sched, &request->task);
        leave(session);
    }
}

void reef_request_release(reef_request *request)
{
    if (request) {
        drop(request);
    }
}

reef_status reef_session_run(reef_session *session, const void *const *inputs, void *const *outputs,
                             reef_request_info *info)
{
    reef_request *request;
    reef_request_info own;
    reef_status status =
        reef_session_submit(session, &(reef_submit_options){.inputs = inputs, .outputs = outputs}, &request);
    if (status) {
        return status;
    }
    info = info ? info : &own;
    status = reef_request_wait(request, UINT64_MAX, info);
    reef_request_release(request);
    return status ? status : info->status;
}

reef_status reef_session_hint(reef_session *session, uint64_t within_ns, reef_error *error)
{
    static const uint64_t late_ns = 200000; /* what a switch may take, and a request be late */
    reef_device *device = session->model->device;
    const reef_device_ops *ops = device->dev->ops;
    if (session->service_class != REEF_RT) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "only real-time sessions take hints");
    }
    if (within_ns == 0 || within_ns > REEF_HINT_MAX_NS) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "a hint %llu ns ahead: it must be 1 to %u ns",
                         (unsigned long long)within_ns, REEF_HINT_MAX_NS);
    }
    if (!ops->hint) {
        return reef_fail(error, REEF_UNSUPPORTED, "device '%s' needs no hints", ops->name);
    }
    if (atomic_fetch_add_explicit(&device->hints, 1, memory_order_relaxed) >= REEF_HINT_UNUSED_MAX) {
        atomic_store_explicit(&device->hints, REEF_HINT_UNUSED_MAX, memory_order_relaxed);
        return reef_fail(error, REEF_REFUSED, "%d hints in a row were followed by no request", REEF_HINT_UNUSED_MAX);
    }
    return ops->hint(device->dev, within_ns + late_ns, error);
}

void reef_session_stats_get(const reef_session *session, reef_session_stats *out)
{
    reef_session *unlocked = (reef_session *)(uintptr_t)session; /* for its lock */
    pthread_mutex_lock(&unlocked->lock);
    *out = session->stats;
    uint64_t ended = out->completed + out->failed + out->cancelled + out->missed_deadline;
    uint32_t under_way = (uint32_t)(out->submitted - ended);
    pthread_mutex_unlock(&unlocked->lock);
    reef_device *device = session->model->device;
    pthread_mutex_lock(&device->sched.lock);
    const reef_task *running = session->service_class == REEF_BE ? session->vhq.running : device->sched.rt_running;
    out->running = running && running->pool == &session->instances;
    pthread_mutex_unlock(&device->sched.lock);
    out->queued = under_way > out->running ? under_way - out->running : 0;
}
