/*
 * ring_client.c - see ring_client.h.
 *
 *     the client's tail --> thread: copy the slot's call, check it, submit --> engine --> on_end: fill the slot, DONE
 *
 * The thread polls for a while after the last answer, and while a short request runs: a client that asks again at once
 * needs no system call. While a long one runs, or when nothing has come for long, it sleeps and the client wakes it: which
 * takes some 50 us where the processor sleeps too. So a client that asks at regular intervals is awaited: the thread wakes a
 * little before its next request is due, and polls for it. All of this only while nobody else wants the processor (poll.h).
 */
#include "serve/ring_client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/futex.h"
#include "base/memory.h"
#include "base/poll.h"
#include "serve/call.h"
#include "serve/prompt.h"
#include "serve/tensor.h"
#include "serve/watch.h"

/* The longest sleep, for clients that write to the word slept on what they should not. */
static const uint64_t LOOK_NS = 500000000u;

typedef struct flight { /* the server's side of a slot */
    serve_ring_client *client;
    _Atomic bool busy;
    serve_model *model; /* a reference while busy */
    reef_class service_class;
    uint64_t begin_ns, decoded_ns;
    reef_request *handle; /* under the client's lock once it was submitted */
    char *copies;         /* of inputs that must not change under the engine; kept for the next time */
    size_t copies_bytes;
} flight;

struct serve_ring_client {
    serve_server *server;
    ring_shared *shared;
    char *data;
    size_t memory_bytes, data_bytes;
    pthread_t thread;
    bool started;
    _Atomic bool stop, broken;
    _Atomic unsigned running;   /* without an answer: the thread does not poll meanwhile */
    _Atomic unsigned in_flight; /* that may still touch this memory */
    _Atomic uint64_t poll_until_ns;
    _Atomic uint64_t usual_ns;              /* what requests lately took */
    reef_poll poll;                         /* the thread's own */
    serve_rhythm rhythm;                    /* the thread's own */
    uint64_t await_from_ns, await_until_ns; /* the thread's own: when to poll for the next request */
    _Atomic uint64_t rest_ns;               /* polling is of no use before; written by the thread */
    pthread_mutex_t lock; /* guards models and handles; recursive: cancelling may end a request at once */
    serve_model *models[RING_MODELS];
    flight flights[RING_SLOTS];
};

static uint64_t spin_ns(const serve_ring_client *client)
{
    return client->server->options.ring_spin_us * (uint64_t)1000;
}

/* ------------------------------------------------------------------------------------------------------ rhythm -- */

bool serve_ring_await(serve_rhythm *rhythm, uint64_t now_ns, uint64_t spin_ns, uint64_t *from_ns, uint64_t *until_ns)
{
    uint64_t period, spread;
    if (!serve_rhythm_measure(rhythm, now_ns, &period, &spread) || period > SERVE_RHYTHM_LONGEST_NS ||
        4 * (SERVE_RING_EARLY_NS + 2 * spread + spin_ns) > period) {
        return false;
    }
    *from_ns = now_ns + period - spread - SERVE_RING_EARLY_NS;
    *until_ns = now_ns + period + spread + spin_ns;
    return true;
}

/* Notes when the thread has to be awake again. What comes while requests run is part of a burst. */
static void note_arrival(serve_ring_client *client, uint64_t now_ns)
{
    uint64_t from = 0, until = 0;
    if (atomic_load(&client->running) == 0 && spin_ns(client) > 0) {
        serve_ring_await(&client->rhythm, now_ns, spin_ns(client), &from, &until);
        bool poll = reef_poll_allowed(&client->poll, from);
        client->await_from_ns = poll ? from : 0;
        client->await_until_ns = poll ? until : 0;
        atomic_store_explicit(&client->rest_ns, poll ? from : client->poll.from_ns, memory_order_relaxed);
    }
}

/* Whether the thread should poll behind now_ns, on the chance that something comes. */
static bool worth_polling(const serve_ring_client *client, uint64_t now_ns)
{
    return now_ns + spin_ns(client) >= atomic_load_explicit(&client->rest_ns, memory_order_relaxed);
}

/* ------------------------------------------------------------------------------------------------------ checks -- */

const char *serve_ring_check_message(const void *bytes, size_t n, ring_message *out)
{
    if (n != sizeof *out) {
        return "a message of another size";
    }
    memcpy(out, bytes, sizeof *out);
    if (out->magic != RING_MAGIC) {
        return "not a message of reef's ring";
    }
    switch (out->kind) {
    case RING_HELLO: return NULL;
    case RING_OPEN:
        return memchr(out->name, 0, sizeof out->name) && memchr(out->model_version, 0, sizeof out->model_version)
                   ? NULL
                   : "a name without an end";
    case RING_CLOSE: return out->model < RING_MODELS ? NULL : "a model out of range";
    default: return "an unknown kind of message";
    }
}

static bool lies_in(uint64_t offset, uint64_t bytes, uint64_t data_bytes)
{
    return offset % RING_ALIGN == 0 && offset <= data_bytes && bytes <= data_bytes - offset;
}

static size_t io_bytes(const serve_io *io)
{
    return io->item_elems * serve_dtype_bytes(io->dtype);
}

bool serve_ring_check_call(const ring_call *call, const serve_signature *signature, uint64_t data_bytes)
{
    bool ok = call->service_class <= RING_CLASS_DEFAULT && signature->n_inputs <= RING_TENSORS &&
              signature->n_outputs <= RING_TENSORS;
    for (size_t i = 0; ok && i < signature->n_inputs; i++) {
        ok = lies_in(call->inputs[i], io_bytes(&signature->inputs[i]), data_bytes);
    }
    for (size_t i = 0; ok && i < signature->n_outputs; i++) {
        ok = call->outputs[i] == UINT64_MAX || lies_in(call->outputs[i], io_bytes(&signature->outputs[i]), data_bytes);
    }
    return ok;
}

/* ---------------------------------------------------------------------------------------------------- requests -- */

static void complete(serve_ring_client *client, unsigned index, const reef_request_info *info)
{
    ring_slot *slot = &client->shared->slots[index];
    slot->status = (uint32_t)info->status;
    slot->preemptions = info->preemptions;
    slot->submit_ns = info->submit_ns;
    slot->start_ns = info->start_ns;
    slot->end_ns = info->end_ns;
    atomic_store(&client->flights[index].busy, false);
    atomic_store(&slot->state, RING_DONE); /* releases the answer; seq_cst: pairs with the client's store to waiting */
    if (atomic_load(&slot->waiting)) {
        reef_futex_wake_shared(&slot->state, 1);
    }
}

/* The thread polls for a while after an answer, so it must know of it. */
static void wake(serve_ring_client *client)
{
    if (atomic_exchange(&client->shared->sleeping, 0)) {
        reef_futex_wake_shared(&client->shared->sleeping, 1);
    }
}

/* On a device thread. */
static void on_end(void *context, reef_request *request, const reef_request_info *info)
{
    flight *f = context;
    serve_ring_client *client = f->client;
    serve_model *model = f->model;
    serve_timing timing = {f->begin_ns, f->decoded_ns, info->end_ns, 0};
    pthread_mutex_lock(&client->lock);
    f->handle = NULL;
    pthread_mutex_unlock(&client->lock);
    reef_class service_class = f->service_class;
    bool poll = client->server->options.ring_spin_us > 0;
    complete(client, (unsigned)(f - client->flights), info);
    timing.answered_ns = reef_now_ns();
    atomic_fetch_sub_explicit(&model->stats->classes[service_class].waiting, 1, memory_order_relaxed);
    serve_count(model, service_class, serve_outcome_of(info->status), info, &timing, 1);
    if (info->status == REEF_DEVICE) {
        serve_watch_device(client->server->watch);
    }
    serve_model_drop(model);
    reef_request_release(request);
    uint64_t usual = atomic_load_explicit(&client->usual_ns, memory_order_relaxed);
    usual = usual - usual / 8 +
            reef_span_ns(info->submit_ns, info->end_ns) / 8; /* a lost update of two at once does no harm */
    atomic_store_explicit(&client->usual_ns, usual, memory_order_relaxed);
    if (atomic_fetch_sub(&client->running, 1) == 1 && poll && worth_polling(client, timing.answered_ns)) {
        atomic_store_explicit(&client->poll_until_ns, timing.answered_ns + spin_ns(client), memory_order_relaxed);
        wake(client);
    }
    atomic_fetch_sub(&client->server->ring_busy, 1);
    /* The client's memory may be gone once nothing is in flight. */
    atomic_fetch_sub(&client->in_flight, 1);
}

static void refuse(serve_ring_client *client, unsigned index, reef_status status)
{
    uint64_t now = reef_now_ns();
    complete(client, index, &(reef_request_info){.submit_ns = now, .end_ns = now, .status = status});
}

/* Indices that a client could change between the engine's check and its use are copied first. */
static bool collect_inputs(flight *f, const ring_call *call, const void **inputs)
{
    const serve_signature *signature = &f->model->signature;
    size_t bytes = 0;
    for (size_t i = 0; i < signature->n_inputs; i++) {
        inputs[i] = f->client->data + call->inputs[i];
        reef_dtype dtype = signature->inputs[i].dtype;
        bool integer = dtype == REEF_I32 || dtype == REEF_I64 || dtype == REEF_BOOL;
        bytes += integer ? (io_bytes(&signature->inputs[i]) + 63) / 64 * 64 : 0;
    }
    if (bytes > f->copies_bytes) {
        free(f->copies);
        f->copies = aligned_alloc(64, bytes);
        f->copies_bytes = f->copies ? bytes : 0;
    }
    char *at = f->copies;
    for (size_t i = 0; bytes <= f->copies_bytes && i < signature->n_inputs; i++) {
        reef_dtype dtype = signature->inputs[i].dtype;
        size_t n = io_bytes(&signature->inputs[i]);
        if (dtype == REEF_I32 || dtype == REEF_I64 || dtype == REEF_BOOL) {
            memcpy(at, inputs[i], n);
            for (size_t k = 0; dtype == REEF_BOOL && k < n; k++) {
                at[k] = at[k] != 0;
            }
            inputs[i] = at;
            at += (n + 63) / 64 * 64;
        }
    }
    return bytes <= f->copies_bytes;
}

static void submit(serve_ring_client *client, unsigned index)
{
    flight *f = &client->flights[index];
    ring_call call = client->shared->slots[index].call; /* a copy: the client may write there at any time */
    const void *inputs[RING_TENSORS];
    void *outputs[RING_TENSORS];
    if (atomic_exchange(&f->busy, true)) {
        atomic_store(&client->broken, true); /* it is in flight */
        return;
    }
    f->begin_ns = reef_now_ns();
    pthread_mutex_lock(&client->lock);
    f->model = call.model < RING_MODELS ? client->models[call.model] : NULL;
    if (f->model) {
        serve_model_hold(f->model);
    }
    pthread_mutex_unlock(&client->lock);
    if (!f->model || !serve_ring_check_call(&call, &f->model->signature, client->data_bytes) ||
        !collect_inputs(f, &call, inputs)) {
        serve_model_drop(f->model);
        refuse(client, index, REEF_INVALID_ARGUMENT);
        return;
    }
    serve_model *model = f->model;
    for (size_t i = 0; i < model->signature.n_outputs; i++) {
        outputs[i] = call.outputs[i] == UINT64_MAX ? NULL : client->data + call.outputs[i];
    }
    f->service_class =
        call.service_class == RING_CLASS_DEFAULT ? model->config.service_class : (reef_class)call.service_class;
    reef_submit_options options = {
        .inputs = inputs,
        .outputs = outputs,
        .deadline_ns = call.deadline_ns,
        .callback = on_end,
        .context = f,
    };
    _Atomic uint32_t *waiting = &model->stats->classes[f->service_class].waiting;
    f->decoded_ns = reef_now_ns();
    if (f->service_class == REEF_RT) {
        note_arrival(client, f->begin_ns);
    }
    /* A long one needs the processor more than this thread does; so does one whose successor is known to be far. */
    bool brief = atomic_load_explicit(&client->usual_ns, memory_order_relaxed) < 2 * spin_ns(client);
    uint64_t poll_ns = brief && worth_polling(client, f->decoded_ns) ? 3 * spin_ns(client) : 0;
    atomic_store_explicit(&client->poll_until_ns, f->decoded_ns + poll_ns, memory_order_relaxed);
    atomic_fetch_add_explicit(waiting, 1, memory_order_relaxed);
    atomic_fetch_add(&client->in_flight, 1);
    atomic_fetch_add(&client->running, 1);
    atomic_fetch_add(&client->server->ring_busy, 1); /* before this: who drains sets its flag, then looks here */
    bool ending = atomic_load(&client->server->draining) || atomic_load(&client->server->failed);
    if (f->service_class == REEF_RT && !ending) {
        serve_hints_arrival(client->server->hints, client, model, f->decoded_ns);
    }
    reef_status status = ending
                             ? REEF_CANCELLED
                             : reef_session_submit(model->variants[0].sessions[f->service_class], &options, &f->handle);
    if (status) {
        serve_count(model, f->service_class, serve_outcome_of(status), &(reef_request_info){.status = status},
                    &(serve_timing){f->begin_ns, f->decoded_ns, f->decoded_ns, f->decoded_ns}, 1);
        atomic_fetch_sub_explicit(waiting, 1, memory_order_relaxed);
        atomic_fetch_sub(&client->running, 1);
        atomic_fetch_sub(&client->server->ring_busy, 1);
        atomic_fetch_sub(&client->in_flight, 1);
        serve_model_drop(model);
        refuse(client, index, status);
    } else if (call.deadline_ns) {
        serve_watch_deadline(client->server->watch, call.deadline_ns);
    }
}

static void *client_main(void *context)
{
    serve_ring_client *client = context;
    ring_shared *shared = client->shared;
    uint32_t head = 0;
    serve_prompt();
    prctl(PR_SET_TIMERSLACK, 1000ul); /* nanoseconds; otherwise the kernel may be 50 us late */
    while (!atomic_load(&client->stop) && !atomic_load(&client->broken)) {
        uint32_t tail = atomic_load_explicit(&shared->tail, memory_order_acquire);
        if (tail - head > RING_SLOTS) {
            atomic_store(&client->broken, true);
            break;
        }
        if (tail != head) {
            unsigned index = atomic_load_explicit(&shared->queue[head++ % RING_SLOTS], memory_order_relaxed);
            if (index >= RING_SLOTS) {
                atomic_store(&client->broken, true);
                break;
            }
            submit(client, index);
            continue;
        }
        uint64_t now = reef_now_ns(), look = now + LOOK_NS;
        uint64_t from = client->await_from_ns;
        bool awaited = from <= now && now < client->await_until_ns;
        bool poll = awaited || now < atomic_load_explicit(&client->poll_until_ns, memory_order_relaxed);
        if (poll && reef_poll_allowed(&client->poll, now)) {
            reef_poll_yield(&client->poll); /* to a compute unit or the client, where processors are few */
            continue;
        }
        atomic_store(&shared->sleeping, 1); /* before the last look at tail: see reef_call_submit */
        if (atomic_load(&shared->tail) == head && !atomic_load(&client->stop)) {
            reef_futex_wait_shared(&shared->sleeping, 1, from > now && from < look ? from : look);
        }
        atomic_store(&shared->sleeping, 0);
    }
    return NULL;
}

/* ----------------------------------------------------------------------------------------------------- clients -- */

reef_status serve_ring_client_create(serve_server *server, uint64_t data_bytes, serve_ring_client **out, int *fd,
                                     ring_answer *welcome, reef_error *error)
{
    size_t offset = (sizeof(ring_shared) + 4095) / 4096 * 4096;
    if (data_bytes == 0 || data_bytes > server->options.max_ring_bytes) {
        return reef_fail(error, REEF_INVALID_ARGUMENT,
                         "%llu bytes of shared memory; the server gives 1 to %zu (--ring-memory)",
                         (unsigned long long)data_bytes, server->options.max_ring_bytes);
    }
    size_t bytes = offset + (data_bytes + 4095) / 4096 * 4096;
    serve_ring_client *client = reef_memory_fits(bytes) ? calloc(1, sizeof *client) : NULL;
    if (!client) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    int memory = memfd_create("reef-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *mapped = MAP_FAILED;
    if (memory >= 0 && !fchmod(memory, 0600) && !ftruncate(memory, (off_t)bytes) &&
        !fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    }
    if (mapped == MAP_FAILED) {
        reef_error_set(error, REEF_NO_MEMORY, "no shared memory of %zu bytes: %s", bytes, strerror(errno));
        if (memory >= 0) {
            close(memory);
        }
        free(client);
        return REEF_NO_MEMORY;
    }
    client->server = server;
    client->shared = mapped;
    client->data = (char *)mapped + offset;
    client->memory_bytes = bytes;
    client->data_bytes = bytes - offset;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&client->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    for (unsigned i = 0; i < RING_SLOTS; i++) {
        client->flights[i].client = client;
    }
    if (pthread_create(&client->thread, NULL, client_main, client)) {
        close(memory);
        serve_ring_client_destroy(client);
        return reef_fail(error, REEF_NO_MEMORY, "no thread for the client");
    }
    client->started = true;
    welcome->memory_bytes = bytes;
    welcome->data_offset = offset;
    welcome->data_bytes = client->data_bytes;
    *fd = memory;
    *out = client;
    return REEF_OK;
}

void serve_ring_client_destroy(serve_ring_client *client)
{
    if (!client) {
        return;
    }
    atomic_store(&client->stop, true);
    if (client->started) {
        atomic_store(&client->shared->sleeping, 0);
        reef_futex_wake_shared(&client->shared->sleeping, 1);
        pthread_join(client->thread, NULL);
    }
    pthread_mutex_lock(&client->lock);
    for (unsigned i = 0; i < RING_SLOTS; i++) {
        if (client->flights[i].handle) {
            reef_request_cancel(client->flights[i].handle);
        }
    }
    pthread_mutex_unlock(&client->lock);
    while (atomic_load(&client->in_flight)) {
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    for (unsigned i = 0; i < RING_MODELS; i++) {
        serve_model_drop(client->models[i]);
    }
    for (unsigned i = 0; i < RING_SLOTS; i++) {
        free(client->flights[i].copies);
    }
    munmap(client->shared, client->memory_bytes);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

bool serve_ring_client_broken(const serve_ring_client *client)
{
    return atomic_load(&client->broken);
}

static void fill_tensors(const serve_model *model, ring_answer *answer)
{
    const serve_signature *signature = &model->signature;
    ring_tensor *at = answer->tensors;
    for (size_t i = 0; i < signature->n_inputs + signature->n_outputs; i++) {
        const serve_io *io =
            i < signature->n_inputs ? &signature->inputs[i] : &signature->outputs[i - signature->n_inputs];
        ring_tensor *tensor = at++;
        snprintf(tensor->name, sizeof tensor->name, "%s", io->name);
        tensor->dtype = (int32_t)io->dtype;
        tensor->rank = io->rank;
        memcpy(tensor->dims, io->dims, sizeof tensor->dims);
        if (io->rank && tensor->dims[0] == -1) {
            tensor->dims[0] = 1; /* the ring does not batch */
        }
        tensor->bytes = io_bytes(io);
    }
    answer->n_inputs = (uint32_t)signature->n_inputs;
    answer->n_outputs = (uint32_t)signature->n_outputs;
    answer->service_class = (uint32_t)model->config.service_class;
    answer->solo_ns = model->solo_ns;
}

static void say(ring_answer *answer, reef_status status, const char *message)
{
    answer->status = (uint32_t)status;
    snprintf(answer->message, sizeof answer->message, "%s", message);
}

void serve_ring_client_open(serve_ring_client *client, const ring_message *message, ring_answer *answer)
{
    reef_error error = {0};
    serve_model *model = NULL;
    reef_status status =
        serve_repository_find(client->server->repository, message->name, message->model_version, &model, &error);
    if (status) {
        say(answer, status, error.message);
        return;
    }
    if (model->signature.n_inputs > RING_TENSORS || model->signature.n_outputs > RING_TENSORS) {
        say(answer, REEF_UNSUPPORTED, "the model has too many inputs or outputs for the ring; use HTTP");
        serve_model_drop(model);
        return;
    }
    uint32_t i = 0;
    pthread_mutex_lock(&client->lock);
    while (i < RING_MODELS && client->models[i]) {
        i++;
    }
    if (i < RING_MODELS) {
        client->models[i] = model;
    }
    pthread_mutex_unlock(&client->lock);
    if (i == RING_MODELS) {
        say(answer, REEF_QUEUE_FULL, "too many models are open; close some");
        serve_model_drop(model);
        return;
    }
    answer->model = i;
    fill_tensors(model, answer);
}

void serve_ring_client_shut(serve_ring_client *client, uint32_t index, ring_answer *answer)
{
    pthread_mutex_lock(&client->lock);
    serve_model *model = client->models[index];
    client->models[index] = NULL;
    pthread_mutex_unlock(&client->lock);
    if (!model) {
        say(answer, REEF_NOT_FOUND, "no such model is open");
    }
    serve_model_drop(model);
}
