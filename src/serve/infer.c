/*
 * infer.c - an inference over HTTP: find the model (before the body comes), decode, submit, encode, count, log.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "serve/exchange.h"
#include "serve/tensor.h"

/* JSON beyond this is read and written on a helper's thread, so that other requests on this one do not wait for it. */
enum { LARGE_JSON = 32768, LARGE_ELEMS = 4096, JSON_MEMORY = 32 };

/* ---------------------------------------------------------------------------------------------------- answers -- */

static void set_retry(serve_exchange *exchange)
{
    const serve_call *call = exchange->call;
    uint64_t waiting = atomic_load(&call->model->stats->classes[call->service_class].waiting);
    uint64_t seconds = waiting * call->model->solo_ns / 1000000000u + 1;
    exchange->retry_after_s = seconds < 60 ? (unsigned)seconds : 60;
}

static void answer(serve_exchange *exchange)
{
    serve_call *call = exchange->call;
    exchange->encode_begin_ns = reef_now_ns();
    if (call->status) {
        const char *text = reef_status_text(call->status);
        if (call->status == REEF_DEADLINE) {
            text = "the timeout passed while the request waited; it was not run";
        } else if (call->status == REEF_CANCELLED) {
            text = atomic_load(&exchange->server->draining) ? "the server is ending; the request was cancelled"
                                                            : "the client closed its side; the request was cancelled";
        } else if (call->status == REEF_DEVICE) {
            text = "the device failed while it worked on this request; ask again soon";
            serve_watch_device(exchange->server->watch);
        }
        reef_error_set(&exchange->error, call->status, "%s", text);
        serve_exchange_error(exchange, call->status, &exchange->error);
        return;
    }
    exchange->answer = calloc(1, sizeof *exchange->answer);
    reef_status status = exchange->answer ? serve_encode(&call->request, exchange->answer, &exchange->error)
                                          : reef_fail(&exchange->error, REEF_NO_MEMORY, "out of memory");
    if (status) {
        call->status = status;
        serve_exchange_error(exchange, status, &exchange->error);
    } else {
        serve_exchange_ok(exchange, NULL);
    }
}

static void answer_and_wake(serve_exchange *exchange)
{
    answer(exchange);
    serve_exchange_wake(exchange);
}

static bool large_answer(const serve_call *call)
{
    for (size_t i = 0; i < call->request.n_order; i++) {
        const serve_out *out = &call->request.out[call->request.order[i]];
        bool much = out->bytes / serve_dtype_bytes(call->model->outputs[call->request.order[i]].dtype) > LARGE_ELEMS;
        if (much && (out->form == SERVE_JSON || out->classes)) {
            return true;
        }
    }
    return false;
}

/* On a device thread. */
static void on_done(serve_call *call)
{
    serve_exchange *exchange = call->context;
    if (call->status == REEF_OK && large_answer(call)) {
        serve_helpers_add(exchange->server->helpers, exchange, answer_and_wake);
    } else {
        serve_exchange_wake(exchange); /* serve_infer_begin goes on */
    }
}

/* --------------------------------------------------------------------------------------------------- requests -- */

/* The model is found, the call is made; or there is an answer. */
static void find_model(serve_exchange *exchange)
{
    serve_model *model;
    reef_status status = serve_repository_find(exchange->server->repository, exchange->name, exchange->version, &model,
                                               &exchange->error);
    if (status) {
        serve_exchange_fail(exchange, status == REEF_NOT_FOUND ? MHD_HTTP_NOT_FOUND : MHD_HTTP_SERVICE_UNAVAILABLE,
                            exchange->error.message);
        return;
    }
    exchange->call = serve_call_create(model);
    if (!exchange->call) {
        serve_exchange_fail(exchange, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory");
        return;
    }
    exchange->call->service_class = model->config.service_class;
    exchange->call->done = on_done;
    exchange->call->context = exchange;
}

static bool decode(serve_exchange *exchange)
{
    serve_call *call = exchange->call;
    const char *split =
        MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, "Inference-Header-Content-Length");
    size_t json_bytes = split ? exchange->json_bytes : exchange->body_bytes;
    if (json_bytes > exchange->server->options.max_json_bytes) {
        call->status = REEF_FORMAT;
        serve_exchange_fail(exchange, MHD_HTTP_CONTENT_TOO_LARGE,
                            "the JSON is larger than this server takes (--max-json)");
        return false;
    }
    call->begin_ns = exchange->begin_ns;
    serve_json_budget(json_bytes * JSON_MEMORY + 65536);
    call->status = serve_decode(&call->model->signature, exchange->server->shm, exchange->body ? exchange->body : "",
                                exchange->body_bytes, json_bytes, &call->request, &exchange->error);
    serve_json_budget(0);
    call->decoded_ns = reef_now_ns();
    if (call->status) {
        serve_exchange_error(exchange, call->status, &exchange->error);
        return false;
    }
    serve_call_classify(call);
    return true;
}

/* Hands the decoded call over; after that it may be anywhere. The exchange is suspended. */
static void submit(serve_exchange *exchange)
{
    serve_call *call = exchange->call;
    serve_server *server = exchange->server;
    uint64_t deadline_ns = call->deadline_ns;
    if (!serve_peer_call(exchange->peer, call)) {
        call->status = REEF_CANCELLED;
        serve_exchange_wake(exchange);
        return;
    }
    if (call->service_class == REEF_RT && exchange->peer) {
        serve_hints_arrival(server->hints, exchange->peer, call->model, call->decoded_ns);
    }
    reef_status status = serve_call_submit(call);
    if (status == REEF_OK) {
        if (deadline_ns) {
            serve_watch_deadline(server->watch, deadline_ns);
        }
        return;
    }
    call->status = status;
    if (status == REEF_QUEUE_FULL || status == REEF_REFUSED) {
        set_retry(exchange);
        exchange->state = SERVE_BUSY;
        serve_exchange_fail(exchange, MHD_HTTP_SERVICE_UNAVAILABLE,
                            status == REEF_REFUSED
                                ? "the policy in force serves no best-effort requests"
                                : "the queue of this model is full; ask again when a request has ended");
    }
    serve_exchange_wake(exchange);
}

static void decode_and_submit(serve_exchange *exchange)
{
    if (decode(exchange)) {
        submit(exchange);
    } else {
        serve_exchange_wake(exchange);
    }
}

/*
 * Called three times on the way of a request: when its headers are there, when its body is, and when it has been woken
 * (state SERVE_BUSY; http.c does not come here if somebody has answered already).
 */
void serve_infer_begin(serve_exchange *exchange)
{
    serve_server *server = exchange->server;
    if (!exchange->call) {
        if (atomic_load(&server->draining) || atomic_load(&server->failed)) {
            exchange->retry_after_s = 1;
            serve_exchange_fail(exchange, MHD_HTTP_SERVICE_UNAVAILABLE, "the server is ending or restarting");
        } else {
            find_model(exchange);
        }
        return;
    }
    if (exchange->state == SERVE_BUSY) {
        answer(exchange);
        return;
    }
    size_t json = exchange->json_bytes ? exchange->json_bytes : exchange->body_bytes;
    if (json > LARGE_JSON) {
        if (serve_exchange_suspend(exchange)) {
            serve_helpers_add(server->helpers, exchange, decode_and_submit);
        }
    } else if (decode(exchange) && serve_exchange_suspend(exchange)) {
        submit(exchange);
    }
}

/* -------------------------------------------------------------------------------------------------------- end -- */

static void log_request(const serve_exchange *exchange, uint64_t now)
{
    const serve_call *call = exchange->call;
    const reef_request_info *info = &call->info;
    char id[300], why[600];
    uint64_t start = info->start_ns ? info->start_ns : info->end_ns;
    serve_log_line(exchange->server->log, exchange->status < 400 ? SERVE_LOG_REQUESTS : SERVE_LOG_INFO, "request",
                   "id=%s model=%s version=%s class=%s status=%u receive_to_submit_us=%.1f queue_us=%.1f run_us=%.1f "
                   "total_us=%.1f preemptions=%u bytes_in=%zu peer=%s error=%s",
                   serve_log_quote(call->request.id ? call->request.id : "", id, sizeof id), call->model->name,
                   call->model->version, call->service_class == REEF_RT ? "rt" : "be", exchange->status,
                   (double)reef_span_ns(call->begin_ns, call->decoded_ns) / 1e3,
                   (double)(info->submit_ns ? reef_span_ns(info->submit_ns, start) : 0) / 1e3,
                   (double)(info->submit_ns ? reef_span_ns(start, info->end_ns) : 0) / 1e3,
                   (double)(call->begin_ns ? reef_span_ns(call->begin_ns, now) : 0) / 1e3, info->preemptions,
                   exchange->body_bytes, serve_peer_address(exchange->peer),
                   serve_log_quote(exchange->status < 400 ? "" : exchange->error.message, why, sizeof why));
}

/* One complete event per stage of the request, for Chrome's trace viewer: a row per class. */
static void add_timeline(const serve_exchange *exchange, uint64_t now)
{
    const serve_call *call = exchange->call;
    const reef_request_info *info = &call->info;
    const struct {
        const char *name;
        uint64_t from, to;
    } stages[] = {
        {"decode", call->begin_ns, call->decoded_ns},
        {"queue", info->submit_ns, info->start_ns ? info->start_ns : info->end_ns},
        {"run", info->start_ns ? info->start_ns : info->end_ns, info->end_ns},
        {"answer", info->end_ns, now},
    };
    serve_text text = {0};
    for (size_t i = 0; i < 4 && call->info.end_ns; i++) {
        serve_text_format(
            &text, "{\"ph\":\"X\",\"pid\":%d,\"tid\":%u,\"ts\":%.3f,\"dur\":%.3f,\"name\":\"%s\",\"args\":{\"id\":",
            call->service_class == REEF_RT ? 1 : 2, (unsigned)((uintptr_t)exchange->peer / 64 % 1000000),
            (double)stages[i].from / 1e3, (double)reef_span_ns(stages[i].from, stages[i].to) / 1e3, stages[i].name);
        serve_text_json(&text, call->request.id ? call->request.id : "");
        serve_text_add(&text, ",\"model\":");
        serve_text_json(&text, call->model->name);
        serve_text_add(&text, "}},\n");
    }
    if (!text.failed) {
        serve_log_raw(exchange->server->timeline, text.data ? text.data : "", text.n);
    }
    serve_text_free(&text);
}

void serve_infer_end(serve_exchange *exchange, bool sent)
{
    serve_call *call = exchange->call;
    if (!call) {
        return;
    }
    uint64_t now = reef_now_ns();
    serve_peer_call(exchange->peer, NULL);
    if (!call->begin_ns) {
        call->begin_ns = now; /* its body never came */
    }
    serve_outcome outcome = exchange->status ? serve_outcome_of(call->status) : SERVE_OUTCOME_cancelled;
    if (outcome == SERVE_OUTCOME_ok && exchange->status != MHD_HTTP_OK) {
        outcome = SERVE_OUTCOME_bad_request;
    }
    serve_timing timing = {call->begin_ns, call->decoded_ns ? call->decoded_ns : now, exchange->encode_begin_ns, now};
    serve_count(call->model, call->service_class, outcome, &call->info, &timing,
                call->request.batch ? call->request.batch : 1);
    if (serve_log_wants(exchange->server->log, exchange->status < 400 ? SERVE_LOG_REQUESTS : SERVE_LOG_INFO)) {
        log_request(exchange, now);
    }
    if (exchange->server->timeline) {
        add_timeline(exchange, now);
    }
    (void)sent;
    if (exchange->answer) {
        serve_answer_free(exchange->answer);
        free(exchange->answer);
    }
    serve_call_release(call);
}
