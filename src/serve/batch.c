/*
 * batch.c - see batch.h.
 */
#include "serve/batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/thread.h"
#include "serve/tensor.h"

enum { BATCHES = 2 }; /* one runs, one is gathered */

typedef struct batch {
    serve_batcher *owner;
    char *memory; /* inputs, then outputs, each for the largest batch */
    const void *inputs[SERVE_MAX_TENSORS];
    void *outputs[SERVE_MAX_TENSORS];
    reef_list calls;
    unsigned items;
    reef_request_info info;
    enum { FREE, OUT, BACK } state; /* under the lock */
} batch;

struct serve_batcher {
    serve_model *model;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    reef_list waiting;
    size_t n_waiting;
    unsigned waiting_items;
    _Atomic bool stop;
    batch batches[BATCHES];
};

static void on_end(void *context, reef_request *request, const reef_request_info *info)
{
    (void)request;
    batch *b = context;
    serve_batcher *batcher = b->owner;
    pthread_mutex_lock(&batcher->lock);
    b->info = *info;
    b->state = BACK;
    pthread_cond_signal(&batcher->changed);
    pthread_mutex_unlock(&batcher->lock);
}

static void finish(serve_call *call, reef_status status, const reef_request_info *info)
{
    call->info = info ? *info : (reef_request_info){.submit_ns = call->decoded_ns, .end_ns = reef_now_ns()};
    call->info.status = call->status = atomic_load(&call->cancel) ? REEF_CANCELLED : status;
    atomic_fetch_sub_explicit(&call->model->stats->classes[REEF_BE].waiting, 1, memory_order_relaxed);
    call->done(call);
}

/* ---------------------------------------------------------------------------------------- gather and scatter -- */

static void gather(const serve_model *model, batch *b, const serve_variant *variant)
{
    for (size_t i = 0; i < model->signature.n_inputs; i++) {
        char *at = (char *)(uintptr_t)b->inputs[i];
        for (reef_list *link = b->calls.next; link != &b->calls; link = link->next) {
            const serve_call *call = REEF_CONTAINER(link, serve_call, link);
            memcpy(at, call->request.in[i].data, call->request.in[i].bytes);
            at += call->request.in[i].bytes;
        }
        size_t item = model->inputs[i].item_elems * serve_dtype_bytes(model->inputs[i].dtype);
        memset(at, 0, (variant->batch - b->items) * item);
    }
}

static void scatter(const serve_model *model, batch *b)
{
    size_t done[SERVE_MAX_TENSORS] = {0};
    while (!reef_list_empty(&b->calls)) {
        serve_call *call = REEF_CONTAINER(b->calls.next, serve_call, link);
        reef_list_remove(&call->link);
        for (size_t i = 0; i < model->signature.n_outputs; i++) {
            size_t item = model->outputs[i].item_elems * serve_dtype_bytes(model->outputs[i].dtype);
            if (call->request.out[i].wanted && b->info.status == REEF_OK) {
                memcpy(call->request.out[i].data, (const char *)b->outputs[i] + done[i], item * call->request.batch);
            }
            done[i] += item * call->request.batch;
        }
        finish(call, b->info.status, &b->info);
    }
    if (b->info.status == REEF_OK) {
        serve_model_stats *stats = model->stats;
        atomic_fetch_add_explicit(&stats->executions, 1, memory_order_relaxed);
        serve_duration_add(&stats->batches[31 - __builtin_clz(b->items)],
                           reef_span_ns(b->info.start_ns, b->info.end_ns));
    }
}

static void run(serve_batcher *batcher, batch *b)
{
    const serve_variant *variant = serve_model_variant(batcher->model, b->items);
    gather(batcher->model, b, variant);
    reef_submit_options options = {.inputs = b->inputs, .outputs = b->outputs, .callback = on_end, .context = b};
    reef_status status = reef_session_submit(variant->sessions[REEF_BE], &options, NULL);
    if (status) {
        uint64_t now = reef_now_ns();
        on_end(b, NULL, &(reef_request_info){.submit_ns = now, .end_ns = now, .status = status});
    }
}

/* ------------------------------------------------------------------------------------------------ the thread -- */

static batch *batch_in(serve_batcher *batcher, int state)
{
    for (int i = 0; i < BATCHES; i++) {
        if ((int)batcher->batches[i].state == state) {
            return &batcher->batches[i];
        }
    }
    return NULL;
}

static void leave_waiting(serve_batcher *batcher, serve_call *call)
{
    reef_list_remove(&call->link);
    call->pending = false;
    batcher->n_waiting--;
    batcher->waiting_items -= call->request.batch;
}

/* Moves what is too late or cancelled to `ended`; when to look again. */
static uint64_t sort_out(serve_batcher *batcher, uint64_t now, reef_list *ended)
{
    uint64_t next = UINT64_MAX;
    for (reef_list *link = batcher->waiting.next, *after; link != &batcher->waiting; link = after) {
        serve_call *call = REEF_CONTAINER(link, serve_call, link);
        after = link->next;
        bool late = call->deadline_ns && now > call->deadline_ns;
        if (late || atomic_load(&call->cancel)) {
            leave_waiting(batcher, call);
            reef_list_insert(ended, &call->link);
        } else if (call->deadline_ns && call->deadline_ns < next) {
            next = call->deadline_ns + 1;
        }
    }
    return next;
}

/* Takes calls, in order, as long as they fit. */
static void fill(serve_batcher *batcher, batch *b)
{
    unsigned most = batcher->model->config.max_batch;
    b->items = 0;
    while (!reef_list_empty(&batcher->waiting)) {
        serve_call *call = REEF_CONTAINER(batcher->waiting.next, serve_call, link);
        if (b->items + call->request.batch > most) {
            break;
        }
        leave_waiting(batcher, call);
        reef_list_insert(&b->calls, &call->link);
        b->items += call->request.batch;
    }
    b->state = OUT;
}

static void end_all(reef_list *ended)
{
    while (!reef_list_empty(ended)) {
        serve_call *call = REEF_CONTAINER(ended->next, serve_call, link);
        reef_list_remove(&call->link);
        finish(call, REEF_DEADLINE, NULL);
    }
}

static void *batcher_main(void *context)
{
    serve_batcher *batcher = context;
    const serve_config *config = &batcher->model->config;
    pthread_mutex_lock(&batcher->lock);
    while (!batcher->stop || batcher->n_waiting || batch_in(batcher, OUT) || batch_in(batcher, BACK)) {
        reef_list ended;
        reef_list_init(&ended);
        uint64_t now = reef_now_ns(), until = sort_out(batcher, now, &ended);
        batch *back = batch_in(batcher, BACK), *free_one = batch_in(batcher, FREE), *ready = NULL;
        if (free_one && batcher->n_waiting) {
            uint64_t due =
                REEF_CONTAINER(batcher->waiting.next, serve_call, link)->decoded_ns + config->delay_us * 1000;
            if (batcher->waiting_items >= config->max_batch || now >= due) {
                fill(batcher, ready = free_one);
            } else {
                until = due < until ? due : until;
            }
        }
        if (reef_list_empty(&ended) && !back && !ready) {
            struct timespec at = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
            if (until == UINT64_MAX) {
                pthread_cond_wait(&batcher->changed, &batcher->lock);
            } else {
                pthread_cond_timedwait(&batcher->changed, &batcher->lock, &at);
            }
            continue;
        }
        pthread_mutex_unlock(&batcher->lock);
        if (ready) { /* first: the device should not wait for copies of answers */
            run(batcher, ready);
        }
        end_all(&ended);
        if (back) {
            scatter(batcher->model, back);
        }
        pthread_mutex_lock(&batcher->lock);
        if (back) {
            back->state = FREE;
        }
    }
    pthread_mutex_unlock(&batcher->lock);
    return NULL;
}

/* --------------------------------------------------------------------------------------------------- callers -- */

reef_status serve_batcher_submit(serve_batcher *batcher, serve_call *call)
{
    reef_status status = REEF_OK;
    pthread_mutex_lock(&batcher->lock);
    if (batcher->n_waiting >= batcher->model->queue_limit) {
        status = REEF_QUEUE_FULL;
    } else {
        atomic_fetch_add_explicit(&call->model->stats->classes[REEF_BE].waiting, 1, memory_order_relaxed);
        call->pending = true;
        reef_list_insert(&batcher->waiting, &call->link);
        batcher->n_waiting++;
        batcher->waiting_items += call->request.batch;
        pthread_cond_signal(&batcher->changed);
    }
    pthread_mutex_unlock(&batcher->lock);
    return status;
}

void serve_batcher_cancel(serve_batcher *batcher, serve_call *call)
{
    (void)call; /* its flag is set */
    pthread_mutex_lock(&batcher->lock);
    pthread_cond_signal(&batcher->changed);
    pthread_mutex_unlock(&batcher->lock);
}

reef_status serve_batcher_create(serve_model *model, serve_batcher **out, reef_error *error)
{
    const serve_signature *signature = &model->signature;
    serve_batcher *batcher = calloc(1, sizeof *batcher);
    if (!batcher) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    size_t bytes = 64;
    for (size_t i = 0; i < signature->n_inputs; i++) {
        bytes += serve_staging_bytes(&signature->inputs[i], signature->max_batch);
    }
    for (size_t i = 0; i < signature->n_outputs; i++) {
        bytes += serve_staging_bytes(&signature->outputs[i], signature->max_batch);
    }
    batcher->model = model;
    reef_list_init(&batcher->waiting);
    bool ok = true;
    for (int k = 0; k < BATCHES; k++) {
        batch *b = &batcher->batches[k];
        char *at = b->memory = aligned_alloc(64, bytes);
        ok = ok && at;
        b->owner = batcher;
        reef_list_init(&b->calls);
        for (size_t i = 0; at && i < signature->n_inputs; i++) {
            b->inputs[i] = at;
            at += serve_staging_bytes(&signature->inputs[i], signature->max_batch);
        }
        for (size_t i = 0; at && i < signature->n_outputs; i++) {
            b->outputs[i] = at;
            at += serve_staging_bytes(&signature->outputs[i], signature->max_batch);
        }
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&batcher->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&batcher->lock, NULL);
    if (!ok || pthread_create(&batcher->thread, NULL, batcher_main, batcher)) {
        for (int k = 0; k < BATCHES; k++) {
            free(batcher->batches[k].memory);
        }
        free(batcher);
        return reef_fail(error, REEF_NO_MEMORY, "out of memory for batches of %u", signature->max_batch);
    }
    *out = batcher;
    return REEF_OK;
}

void serve_batcher_destroy(serve_batcher *batcher)
{
    if (!batcher) {
        return;
    }
    reef_threads_stop(&batcher->thread, 1, &batcher->lock, &batcher->changed, &batcher->stop);
    for (int k = 0; k < BATCHES; k++) {
        free(batcher->batches[k].memory);
    }
    pthread_cond_destroy(&batcher->changed);
    pthread_mutex_destroy(&batcher->lock);
    free(batcher);
}
