/*
 * call.c - requests over the ring: their pieces of the shared memory, submitting, waiting. See client.h; client.c has the
 * connection.
 */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/futex.h"
#include "client/objects.h"

/* How early the adaptive wait stops sleeping: timers are late by the kernel's slack and a switch. */
enum { POLLS_ALONE = 200 };
static const uint64_t EARLY_NS = 120000u, LOOK_NS = 100000000u;

static size_t rounded(uint64_t bytes)
{
    return (bytes + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
}

/* The first gap between calls that is large enough; SIZE_MAX: none. There are at most 64. */
static size_t find_room(const reef_client *client, size_t bytes)
{
    size_t at = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (size_t i = 0; i < RING_SLOTS; i++) {
            const reef_call *call = client->calls[i];
            if (call && at < call->at + call->bytes && call->at < at + bytes) {
                at = call->at + call->bytes;
                moved = true;
            }
        }
    }
    return at <= client->data_bytes && bytes <= client->data_bytes - at ? at : SIZE_MAX;
}

reef_status reef_call_create(reef_client_model *model, reef_call **out, reef_error *error)
{
    reef_client *client = model->client;
    const ring_answer *described = &model->described;
    size_t bytes = RING_ALIGN;
    for (size_t i = 0; i < described->n_inputs + described->n_outputs; i++) {
        bytes += rounded(described->tensors[i].bytes);
    }
    reef_call *call = calloc(1, sizeof *call);
    if (!call) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    pthread_mutex_lock(&client->lock);
    unsigned slot = 0;
    while (slot < RING_SLOTS && client->calls[slot]) {
        slot++;
    }
    size_t at = find_room(client, bytes);
    bool fits = slot < RING_SLOTS && at != SIZE_MAX;
    if (fits) {
        *call = (reef_call){.model = model, .slot = slot, .at = at, .bytes = bytes};
        client->calls[slot] = call;
        model->calls++;
    }
    pthread_mutex_unlock(&client->lock);
    if (!fits) {
        free(call);
        return slot == RING_SLOTS
                   ? reef_fail(error, REEF_QUEUE_FULL, "a client has at most %d calls", RING_SLOTS)
                   : reef_fail(error, REEF_NO_MEMORY,
                               "no room for %zu bytes of tensors; connect with more memory_bytes", bytes);
    }
    for (size_t i = 0; i < described->n_inputs; i++) {
        call->inputs[i] = at;
        at += rounded(described->tensors[i].bytes);
    }
    for (size_t i = 0; i < described->n_outputs; i++) {
        call->outputs[i] = at;
        at += rounded(described->tensors[described->n_inputs + i].bytes);
    }
    *out = call;
    return REEF_OK;
}

void reef_call_destroy(reef_call *call)
{
    if (!call) {
        return;
    }
    reef_client *client = call->model->client;
    if (call->in_flight) {
        reef_call_wait(call, UINT64_MAX, NULL);
    }
    pthread_mutex_lock(&client->lock);
    client->calls[call->slot] = NULL;
    call->model->calls--;
    pthread_mutex_unlock(&client->lock);
    free(call);
}

void *reef_call_input(reef_call *call, size_t i)
{
    return i < call->model->described.n_inputs ? call->model->client->data + call->inputs[i] : NULL;
}

const void *reef_call_output(const reef_call *call, size_t i)
{
    return i < call->model->described.n_outputs ? call->model->client->data + call->outputs[i] : NULL;
}

reef_status reef_call_submit(reef_call *call, const reef_call_options *options)
{
    reef_client *client = call->model->client;
    ring_shared *shared = client->shared;
    ring_slot *slot = &shared->slots[call->slot];
    if (call->in_flight) {
        return REEF_BUSY;
    }
    if (atomic_load_explicit(&client->gone, memory_order_relaxed)) {
        return REEF_IO;
    }
    uint64_t now = reef_now_ns();
    slot->call.model = call->model->described.model;
    slot->call.service_class = options && options->has_class ? (uint32_t)options->service_class : RING_CLASS_DEFAULT;
    slot->call.deadline_ns = options && options->timeout_ns ? now + options->timeout_ns : 0;
    memcpy(slot->call.inputs, call->inputs, sizeof call->inputs);
    memcpy(slot->call.outputs, call->outputs, sizeof call->outputs);
    atomic_store_explicit(&slot->state, RING_SUBMITTED, memory_order_relaxed);
    call->in_flight = true;
    call->sent_ns = now;
    pthread_mutex_lock(&client->lock);
    uint32_t tail = atomic_load_explicit(&shared->tail, memory_order_relaxed);
    atomic_store_explicit(&shared->queue[tail % RING_SLOTS], call->slot, memory_order_relaxed);
    /* Sequentially consistent, as is the server's store to `sleeping` before its last look at tail: one of the two sees
     * the other. It also releases everything above. */
    atomic_store(&shared->tail, tail + 1);
    pthread_mutex_unlock(&client->lock);
    if (atomic_load(&shared->sleeping) && atomic_exchange(&shared->sleeping, 0)) {
        reef_futex_wake_shared(&shared->sleeping, 1);
    }
    return REEF_OK;
}

/* The server closes its end when it goes. */
static bool server_is_gone(reef_client *client)
{
    struct pollfd fd = {.fd = client->fd, .events = POLLIN};
    if (poll(&fd, 1, 0) > 0 && fd.revents & (POLLHUP | POLLERR)) {
        atomic_store(&client->gone, true);
    }
    return atomic_load(&client->gone);
}

/* Polls until the answer is there, the time has come, or others compute on this processor (unless `always`). */
static bool poll_until(reef_poll *poll, ring_slot *slot, uint64_t until_ns, bool always)
{
    for (unsigned i = 0;; i++) {
        /* Acquire: pairs with the server's release; the answer is visible. */
        if (atomic_load_explicit(&slot->state, memory_order_acquire) == RING_DONE) {
            return true;
        }
        if (i % 64 == 63 && reef_now_ns() >= until_ns) {
            return false;
        }
        /* The server may need this processor to get the answer ready: it is given away after a while. */
        if (i < POLLS_ALONE || !reef_poll_allowed(poll, reef_now_ns())) { /* the latter: always */
            reef_cpu_relax();
        } else if (!reef_poll_yield(poll) && !always) {
            return atomic_load_explicit(&slot->state, memory_order_acquire) == RING_DONE;
        }
    }
}

static void sleep_on(ring_slot *slot, uint64_t until_ns)
{
    atomic_store(&slot->waiting, 1); /* seq_cst: pairs with the server's look after its store to state */
    if (atomic_load(&slot->state) == RING_SUBMITTED) {
        reef_futex_wait_shared(&slot->state, RING_SUBMITTED, until_ns);
    }
    atomic_store(&slot->waiting, 0);
}

/* Sleeps away what the model usually takes but for the last of it, then polls about as long again. */
static bool wait_adaptively(reef_call *call, ring_slot *slot, uint64_t limit_ns)
{
    uint64_t usual = atomic_load_explicit(&call->model->usual_ns, memory_order_relaxed);
    uint64_t due = call->sent_ns + usual;
    bool poll = reef_poll_allowed(&call->poll, reef_now_ns());
    if (poll && usual > 2 * EARLY_NS && due - EARLY_NS < limit_ns && reef_now_ns() + EARLY_NS < due) {
        sleep_on(slot, due - EARLY_NS);
    }
    uint64_t until = due + usual / 4 + EARLY_NS;
    return poll && poll_until(&call->poll, slot, until < limit_ns ? until : limit_ns, false);
}

static void learn(reef_client_model *model, uint64_t took)
{
    /* Follows the low side: down at once by a quarter, up slowly; a slow answer now and then changes little. */
    uint64_t usual = atomic_load_explicit(&model->usual_ns, memory_order_relaxed);
    uint64_t next = usual == 0 ? took : took < usual ? usual - (usual - took) / 4 : usual + (took - usual) / 32;
    atomic_store_explicit(&model->usual_ns, next, memory_order_relaxed);
}

reef_status reef_call_wait(reef_call *call, uint64_t timeout_ns, reef_request_info *info)
{
    reef_client *client = call->model->client;
    ring_slot *slot = &client->shared->slots[call->slot];
    uint64_t now = reef_now_ns(), limit = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    if (!call->in_flight) {
        return REEF_INVALID_ARGUMENT;
    }
    bool done = atomic_load_explicit(&slot->state, memory_order_acquire) == RING_DONE;
    if (!done && client->wake == REEF_WAKE_ADAPTIVE) {
        done = wait_adaptively(call, slot, limit);
    }
    while (!done) {
        now = reef_now_ns();
        if (now >= limit) {
            return REEF_TIMEOUT;
        }
        if (server_is_gone(client)) {
            call->in_flight = false;
            return REEF_IO;
        }
        uint64_t look = now + LOOK_NS < limit ? now + LOOK_NS : limit;
        if (client->wake == REEF_WAKE_POLL) {
            done = poll_until(&call->poll, slot, look, true);
        } else {
            sleep_on(slot, look);
            done = atomic_load_explicit(&slot->state, memory_order_acquire) == RING_DONE;
        }
    }
    call->in_flight = false;
    reef_request_info answer = {
        .submit_ns = slot->submit_ns,
        .start_ns = slot->start_ns,
        .end_ns = slot->end_ns,
        .preemptions = slot->preemptions,
        .status = slot->status < REEF_STATUS_COUNT ? (reef_status)slot->status : REEF_INTERNAL,
    };
    if (answer.status == REEF_OK) {
        learn(call->model, reef_now_ns() - call->sent_ns);
    }
    if (info) {
        *info = answer;
    }
    return REEF_OK;
}

reef_status reef_call_run(reef_call *call, const reef_call_options *options, reef_request_info *info)
{
    reef_request_info own;
    info = info ? info : &own;
    reef_status status = reef_call_submit(call, options);
    status = status ? status : reef_call_wait(call, UINT64_MAX, info);
    return status ? status : info->status;
}
