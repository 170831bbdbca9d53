/*
 * call.c - see call.h.
 */
#include "serve/call.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "serve/batch.h"
#include "serve/tensor.h"

serve_call *serve_call_create(serve_model *model)
{
    serve_call *call = calloc(1, sizeof *call);
    if (!call) {
        serve_model_drop(model);
        return NULL;
    }
    call->model = model;
    atomic_init(&call->references, 1);
    pthread_mutex_init(&call->lock, NULL);
    reef_list_init(&call->link);
    return call;
}

void serve_call_release(serve_call *call)
{
    /* Acquire and release: what either holder did comes before the end. */
    if (!call || atomic_fetch_sub_explicit(&call->references, 1, memory_order_acq_rel) > 1) {
        return;
    }
    reef_request_release(call->handle);
    serve_request_free(&call->request);
    free(call->staging);
    pthread_mutex_destroy(&call->lock);
    serve_model_drop(call->model);
    free(call);
}

void serve_call_classify(serve_call *call)
{
    const serve_request *request = &call->request;
    call->service_class =
        request->has_priority ? request->priority == 1 ? REEF_RT : REEF_BE : call->model->config.service_class;
    call->deadline_ns = 0;
    if (request->timeout_us && request->timeout_us < UINT64_MAX / 1000 - call->begin_ns / 1000) {
        call->deadline_ns = call->begin_ns + request->timeout_us * 1000;
    }
}

static void on_end(void *context, reef_request *request, const reef_request_info *info)
{
    (void)request;
    serve_call *call = context;
    call->info = *info;
    call->status = info->status;
    atomic_fetch_sub_explicit(&call->model->stats->classes[call->service_class].waiting, 1, memory_order_relaxed);
    if (call->staging && call->status == REEF_OK) {
        const char *at = call->staging;
        const serve_variant *variant = serve_model_variant(call->model, call->request.batch);
        for (size_t i = 0; i < call->model->signature.n_inputs; i++) {
            at += serve_staging_bytes(&call->model->inputs[i], variant->batch);
        }
        for (size_t i = 0; i < call->model->signature.n_outputs; i++) {
            if (call->request.out[i].wanted) {
                memcpy(call->request.out[i].data, at, call->request.out[i].bytes);
            }
            at += serve_staging_bytes(&call->model->outputs[i], variant->batch);
        }
    }
    call->done(call);
}

size_t serve_staging_bytes(const serve_io *io, unsigned batch)
{
    return (io->item_elems * batch * serve_dtype_bytes(io->dtype) + 63) / 64 * 64;
}

/* A batch that no variant has exactly: inputs copied into larger ones, the rest zero. */
static bool stage(serve_call *call, const serve_variant *variant, const void **inputs, void **outputs)
{
    const serve_signature *signature = &call->model->signature;
    size_t bytes = 64;
    for (size_t i = 0; i < signature->n_inputs; i++) {
        bytes += serve_staging_bytes(&signature->inputs[i], variant->batch);
    }
    for (size_t i = 0; i < signature->n_outputs; i++) {
        bytes += serve_staging_bytes(&signature->outputs[i], variant->batch);
    }
    char *at = call->staging = aligned_alloc(64, bytes);
    if (!at) {
        return false;
    }
    memset(at, 0, bytes);
    for (size_t i = 0; i < signature->n_inputs; i++) {
        memcpy(at, call->request.in[i].data, call->request.in[i].bytes);
        inputs[i] = at;
        at += serve_staging_bytes(&signature->inputs[i], variant->batch);
    }
    for (size_t i = 0; i < signature->n_outputs; i++) {
        outputs[i] = at;
        at += serve_staging_bytes(&signature->outputs[i], variant->batch);
    }
    return true;
}

reef_status serve_call_submit(serve_call *call)
{
    serve_model *model = call->model;
    if (model->batcher && call->service_class == REEF_BE) {
        return serve_batcher_submit(model->batcher, call);
    }
    const void *inputs[SERVE_MAX_TENSORS];
    void *outputs[SERVE_MAX_TENSORS];
    const serve_variant *variant = serve_model_variant(model, call->request.batch);
    for (size_t i = 0; i < model->signature.n_inputs; i++) {
        inputs[i] = call->request.in[i].data;
    }
    for (size_t i = 0; i < model->signature.n_outputs; i++) {
        outputs[i] = call->request.out[i].data;
    }
    if (variant->batch != call->request.batch && !stage(call, variant, inputs, outputs)) {
        return REEF_NO_MEMORY;
    }
    reef_submit_options options = {
        .inputs = inputs,
        .outputs = outputs,
        .deadline_ns = call->deadline_ns,
        .callback = on_end,
        .context = call,
    };
    /* Counted before it can end. */
    _Atomic uint32_t *waiting = &model->stats->classes[call->service_class].waiting;
    atomic_fetch_add_explicit(waiting, 1, memory_order_relaxed);
    /* It may be done, and its owner be done with it, before the lock is dropped. */
    atomic_fetch_add_explicit(&call->references, 1, memory_order_relaxed);
    pthread_mutex_lock(&call->lock);
    reef_status status = atomic_load(&call->cancel)
                             ? REEF_CANCELLED
                             : reef_session_submit(variant->sessions[call->service_class], &options, &call->handle);
    pthread_mutex_unlock(&call->lock);
    if (status) {
        atomic_fetch_sub_explicit(waiting, 1, memory_order_relaxed);
    }
    serve_call_release(call);
    return status;
}

void serve_call_cancel(serve_call *call)
{
    atomic_store(&call->cancel, true);
    if (call->model->batcher && call->service_class == REEF_BE) {
        serve_batcher_cancel(call->model->batcher, call);
        return;
    }
    pthread_mutex_lock(&call->lock);
    reef_request *handle = call->handle;
    pthread_mutex_unlock(&call->lock);
    if (handle) {
        reef_request_cancel(handle);
    }
}

serve_outcome serve_outcome_of(reef_status status)
{
    switch (status) {
    case REEF_OK: return SERVE_OUTCOME_ok;
    case REEF_QUEUE_FULL:
    case REEF_REFUSED: return SERVE_OUTCOME_queue_full;
    case REEF_DEADLINE: return SERVE_OUTCOME_deadline;
    case REEF_CANCELLED: return SERVE_OUTCOME_cancelled;
    case REEF_DEVICE: return SERVE_OUTCOME_device;
    case REEF_INVALID_ARGUMENT:
    case REEF_FORMAT:
    case REEF_SHAPE:
    case REEF_DTYPE:
    case REEF_NOT_FOUND:
    case REEF_UNSUPPORTED: return SERVE_OUTCOME_bad_request;
    default: return SERVE_OUTCOME_other;
    }
}

void serve_count(const serve_model *model, reef_class service_class, serve_outcome outcome,
                 const reef_request_info *info, const serve_timing *timing, unsigned batch)
{
    serve_model_stats *stats = model->stats;
    serve_class_stats *of_class = &stats->classes[service_class];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    uint64_t now_ms = (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
    atomic_store_explicit(&stats->last_ms, now_ms, memory_order_relaxed);
    atomic_fetch_add_explicit(&of_class->outcomes[outcome], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&of_class->preemptions, info->preemptions, memory_order_relaxed);
    uint64_t total = reef_span_ns(timing->begin_ns, timing->answered_ns);
    if (outcome != SERVE_OUTCOME_ok) {
        serve_duration_add(&stats->fail, total);
        return;
    }
    uint64_t start = info->start_ns ? info->start_ns : info->end_ns;
    uint64_t run = reef_span_ns(start, info->end_ns);
    uint64_t encode = timing->encode_begin_ns ? timing->encode_begin_ns : timing->answered_ns;
    serve_duration_add(&stats->success, total);
    serve_duration_add(&stats->input, reef_span_ns(timing->begin_ns, timing->decoded_ns));
    serve_duration_add(&stats->queue, reef_span_ns(timing->decoded_ns, start));
    serve_duration_add(&stats->infer, run);
    serve_duration_add(&stats->output, reef_span_ns(encode, timing->answered_ns));
    serve_histogram_add(&of_class->latency, total);
    atomic_fetch_add_explicit(&stats->items, batch, memory_order_relaxed);
    if (!model->batcher || service_class == REEF_RT) { /* the batcher counts its own */
        atomic_fetch_add_explicit(&stats->executions, 1, memory_order_relaxed);
        serve_duration_add(&stats->batches[31 - __builtin_clz(batch)], run);
    }
}
