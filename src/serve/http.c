/*
 * http.c - see http.h.
 */
#include "serve/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "serve/access.h"
#include "serve/exchange.h"
#include "serve/prompt.h"

struct serve_http {
    serve_server *server;
    struct MHD_Daemon *daemon;
};

/* --------------------------------------------------------------------------------------------------- answers -- */

void serve_exchange_fail(serve_exchange *exchange, unsigned status, const char *message)
{
    if (exchange->state == SERVE_DONE) {
        return;
    }
    exchange->state = SERVE_DONE;
    exchange->status = status;
    exchange->content_type = "application/json";
    exchange->text.n = 0;
    serve_text_add(&exchange->text, "{\"error\":");
    serve_text_json(&exchange->text, message);
    serve_text_add(&exchange->text, "}\n");
}

static unsigned http_status(reef_status status)
{
    switch (status) {
    case REEF_OK: return MHD_HTTP_OK;
    case REEF_QUEUE_FULL:
    case REEF_DEVICE:
    case REEF_CANCELLED:
    case REEF_NO_MEMORY: return MHD_HTTP_SERVICE_UNAVAILABLE;
    case REEF_REFUSED: return MHD_HTTP_FORBIDDEN;
    case REEF_DEADLINE:
    case REEF_TIMEOUT: return MHD_HTTP_GATEWAY_TIMEOUT;
    case REEF_INTERNAL: return MHD_HTTP_INTERNAL_SERVER_ERROR;
    default: return MHD_HTTP_BAD_REQUEST;
    }
}

void serve_exchange_error(serve_exchange *exchange, reef_status status, const reef_error *error)
{
    serve_exchange_fail(exchange, http_status(status),
                        error && error->message[0] ? error->message : reef_status_text(status));
    if (exchange->status == MHD_HTTP_SERVICE_UNAVAILABLE && !exchange->retry_after_s) {
        exchange->retry_after_s = 1;
    }
}

void serve_exchange_ok(serve_exchange *exchange, const char *content_type)
{
    if (exchange->text.failed) {
        serve_exchange_fail(exchange, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory");
        return;
    }
    exchange->status = MHD_HTTP_OK;
    exchange->content_type = content_type;
    exchange->state = SERVE_DONE;
}

bool serve_exchange_suspend(serve_exchange *exchange)
{
    serve_peer_phase(exchange->peer, SERVE_WORKING, 0);
    if (atomic_load(&exchange->server->closed)) { /* whoever set it waits until none is working, and then stops us */
        exchange->retry_after_s = 1;
        serve_exchange_fail(exchange, MHD_HTTP_SERVICE_UNAVAILABLE, "the server is ending or restarting");
        return false;
    }
    exchange->state = SERVE_BUSY;
    exchange->suspended = true;
    MHD_suspend_connection(exchange->connection);
    return true;
}

void serve_exchange_wake(serve_exchange *exchange)
{
    MHD_resume_connection(exchange->connection);
}

/* Nothing to free: what a response sends belongs to its exchange, which outlives it. */
static void keep(void *context)
{
    (void)context;
}

enum { SERVE_GATHER_BYTES = 128 * 1024 };

/* JSON and tensors of a short answer in one piece. The library sends parts after the headers, in a second call, and a client
 * that the headers wake may take this thread's processor in between: the rest came up to 4 ms later, when a best-effort
 * tile's turn was over. Headers and one piece leave together. */
static bool gather(serve_exchange *exchange, size_t bytes)
{
    const serve_answer *answer = exchange->answer;
    serve_text *text = &exchange->text;
    text->n = 0;
    if (bytes > SERVE_GATHER_BYTES || !serve_text_reserve(text, bytes)) {
        return false;
    }
    serve_text_bytes(text, answer->json.data, answer->json.n);
    for (size_t i = 0; i < answer->n_spans; i++) {
        serve_text_bytes(text, answer->spans[i].data, answer->spans[i].bytes);
    }
    return true;
}

static struct MHD_Response *response_of_text(const serve_text *text)
{
    return MHD_create_response_from_buffer(text->n, text->data ? text->data : (void *)(uintptr_t) "",
                                           MHD_RESPMEM_PERSISTENT);
}

static struct MHD_Response *make_response(serve_exchange *exchange, size_t *bytes)
{
    const serve_answer *answer = exchange->status == MHD_HTTP_OK ? exchange->answer : NULL;
    if (!answer) {
        *bytes = exchange->text.n;
        return response_of_text(&exchange->text);
    }
    struct MHD_IoVec parts[SERVE_MAX_TENSORS + 1];
    unsigned n = 0;
    parts[n++] = (struct MHD_IoVec){answer->json.data, answer->json.n};
    *bytes = answer->json.n;
    for (size_t i = 0; i < answer->n_spans; i++) {
        if (answer->spans[i].bytes) {
            parts[n++] = (struct MHD_IoVec){answer->spans[i].data, answer->spans[i].bytes};
            *bytes += answer->spans[i].bytes;
        }
    }
    if (n == 1) {
        return response_of_text(&answer->json);
    }
    return gather(exchange, *bytes) ? response_of_text(&exchange->text)
                                    : MHD_create_response_from_iovec(parts, n, keep, NULL);
}

static void add_timing(const serve_exchange *exchange, struct MHD_Response *response)
{
    char text[128];
    const reef_request_info *info = &exchange->call->info;
    uint64_t start = info->start_ns > info->submit_ns ? info->start_ns : info->submit_ns;
    snprintf(text, sizeof text, "queue;dur=%.4f, run;dur=%.4f", (double)(start - info->submit_ns) / 1e6,
             (double)reef_span_ns(start, info->end_ns) / 1e6);
    MHD_add_response_header(response, "Server-Timing", text);
}

static enum MHD_Result send_answer(serve_exchange *exchange)
{
    size_t bytes;
    char number[32];
    struct MHD_Response *response = make_response(exchange, &bytes);
    if (!response) {
        return MHD_NO;
    }
    if (exchange->answer && exchange->status == MHD_HTTP_OK) {
        if (exchange->answer->binary) {
            snprintf(number, sizeof number, "%zu", exchange->answer->json.n);
            MHD_add_response_header(response, "Inference-Header-Content-Length", number);
        }
        MHD_add_response_header(response, "Content-Type",
                                exchange->answer->binary ? "application/octet-stream" : "application/json");
        add_timing(exchange, response);
    } else {
        MHD_add_response_header(response, "Content-Type", exchange->content_type);
    }
    if (exchange->retry_after_s) {
        snprintf(number, sizeof number, "%u", exchange->retry_after_s);
        MHD_add_response_header(response, "Retry-After", number);
    }
    if (exchange->status == MHD_HTTP_UNAUTHORIZED) {
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    }
    if (exchange->status == MHD_HTTP_METHOD_NOT_ALLOWED) {
        MHD_add_response_header(response, "Allow", serve_route_methods(exchange->route));
    }
    if (atomic_load(&exchange->server->draining)) {
        MHD_add_response_header(response, "Connection", "close");
    }
    serve_peer_phase(exchange->peer, SERVE_SENDING, bytes);
    enum MHD_Result result = MHD_queue_response(exchange->connection, exchange->status, response);
    MHD_destroy_response(response);
    return result;
}

/* ---------------------------------------------------------------------------------------------------- bodies -- */

static bool parse_size(const char *text, size_t *out)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    *out = (size_t)value;
    return *text >= '0' && *text <= '9' && !*end && !errno;
}

/* Room for `wanted` bytes of body. Grows with what has arrived, not with what was promised. */
static bool grow(serve_exchange *exchange, size_t wanted)
{
    serve_server *server = exchange->server;
    if (wanted <= exchange->room) {
        return true;
    }
    size_t room = exchange->room ? exchange->room : 4096;
    while (room < wanted) {
        room *= 2;
    }
    room = room > server->options.max_request_bytes ? server->options.max_request_bytes : room;
    size_t more = room + 128 - exchange->accounted;
    /* Best-effort models leave a quarter of the memory to real-time ones: those are never refused because of them. */
    size_t limit = server->options.max_memory_bytes;
    bool rt = exchange->call && exchange->call->model->config.service_class == REEF_RT;
    limit -= rt ? 0 : limit / 4;
    if (atomic_fetch_add(&server->body_bytes, more) + more > limit) {
        atomic_fetch_sub(&server->body_bytes, more);
        return false;
    }
    exchange->accounted += more;
    char *memory = aligned_alloc(64, (room + 128 + 63) / 64 * 64);
    if (!memory) {
        return false;
    }
    /* The binary part, behind json_bytes of JSON, starts on a multiple of 64. */
    char *body = memory + (64 - exchange->json_bytes % 64) % 64;
    if (exchange->body_bytes) {
        memcpy(body, exchange->body, exchange->body_bytes);
    }
    free(exchange->memory);
    exchange->memory = memory;
    exchange->body = body;
    exchange->room = room;
    return true;
}

static void take_body(serve_exchange *exchange, const char *data, size_t bytes)
{
    if (exchange->swallowed || exchange->state == SERVE_DONE) {
        exchange->swallowed = true;
    } else if (bytes > exchange->server->options.max_request_bytes - exchange->body_bytes) {
        exchange->swallowed = true;
        serve_exchange_fail(exchange, MHD_HTTP_CONTENT_TOO_LARGE, "the request is larger than this server takes");
    } else if (!grow(exchange, exchange->body_bytes + bytes)) {
        exchange->swallowed = true;
        exchange->retry_after_s = 1;
        serve_exchange_fail(exchange, MHD_HTTP_SERVICE_UNAVAILABLE,
                            "too many large requests are under way; ask again soon");
    } else {
        memcpy(exchange->body + exchange->body_bytes, data, bytes);
        exchange->body_bytes += bytes;
    }
}

/* Part of a real-time request's body has come. Where the rest is near at the pace so far, the device is told to be ready;
 * once more if it then took longer than that. */
static void hint_of_body(serve_exchange *exchange)
{
    serve_hints *hints = exchange->server->hints;
    if (!exchange->headers_ns || exchange->body_bytes >= exchange->declared || exchange->state != SERVE_TAKING ||
        exchange->body_hints >= 2 || !serve_hints_wanted(hints)) {
        return;
    }
    uint64_t now = reef_now_ns();
    if (now >= exchange->hint_after_ns && serve_body_rest_ns(now - exchange->headers_ns, exchange->body_bytes,
                                                             exchange->declared) <= SERVE_HINT_BODY_NS) {
        exchange->body_hints++;
        exchange->hint_after_ns = now + SERVE_HINT_BODY_NS + SERVE_HINT_HOLD_NS;
        serve_hints_body(hints, exchange->peer, exchange->call->model, now);
    }
}

static const char *header(const serve_exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

/* What can be refused before the body is there. */
static void check_headers(serve_exchange *exchange, const char *method)
{
    const serve_options *options = &exchange->server->options;
    const char *length = header(exchange, "Content-Length"),
               *split = header(exchange, "Inference-Header-Content-Length"),
               *encoding = header(exchange, "Content-Encoding"), *methods = serve_route_methods(exchange->route);
    bool health = exchange->route == SERVE_ROUTE_LIVE || exchange->route == SERVE_ROUTE_READY;
    size_t declared = 0;
    if (!health && !serve_access_allows(&exchange->server->access, header(exchange, "Authorization"))) {
        serve_exchange_fail(exchange, MHD_HTTP_UNAUTHORIZED, "this server asks for a bearer token, and this is not it");
    } else if (exchange->route == SERVE_ROUTE_UNKNOWN) {
        serve_exchange_fail(exchange, MHD_HTTP_NOT_FOUND, "no such address; the protocol's are below /v2");
    } else if (!strstr(methods, method) && !(!strcmp(method, "HEAD") && strstr(methods, "GET"))) {
        serve_exchange_fail(exchange, MHD_HTTP_METHOD_NOT_ALLOWED, "this address does not have this method");
    } else if (encoding && strcmp(encoding, "identity") != 0) {
        serve_exchange_fail(exchange, MHD_HTTP_UNSUPPORTED_MEDIA_TYPE, "compressed requests are not taken");
    } else if (length && (!parse_size(length, &declared) || declared > options->max_request_bytes)) {
        char message[160];
        snprintf(message, sizeof message, "the request has %.40s bytes; this server takes %zu (--max-request)", length,
                 options->max_request_bytes);
        serve_exchange_fail(exchange, MHD_HTTP_CONTENT_TOO_LARGE, message);
    } else if (split && (!parse_size(split, &exchange->json_bytes) || (length && exchange->json_bytes > declared))) {
        serve_exchange_fail(exchange, MHD_HTTP_BAD_REQUEST,
                            "Inference-Header-Content-Length is not a number of at most the request's length");
    } else if ((split ? exchange->json_bytes : declared) > options->max_json_bytes) {
        serve_exchange_fail(exchange, MHD_HTTP_CONTENT_TOO_LARGE,
                            "the JSON is larger than this server takes (--max-json); send tensors as binary data");
    }
    exchange->json_bytes = split && exchange->state != SERVE_DONE ? exchange->json_bytes : 0;
    exchange->declared = declared;
    serve_peer_phase(exchange->peer, SERVE_RECEIVING, declared);
}

/* ------------------------------------------------------------------------------------------------- callbacks -- */

static serve_exchange *begin(serve_server *server, struct MHD_Connection *connection, const char *url,
                             const char *method)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    serve_exchange *exchange = calloc(1, sizeof *exchange);
    if (!exchange) {
        return NULL;
    }
    exchange->server = server;
    exchange->connection = connection;
    exchange->peer = info ? info->socket_context : NULL;
    exchange->route = serve_route_parse(url, exchange);
    check_headers(exchange, method);
    if (exchange->state != SERVE_DONE && exchange->route == SERVE_ROUTE_INFER) {
        serve_infer_begin(exchange);
        bool rt = exchange->call && exchange->call->model->config.service_class == REEF_RT;
        if (rt && exchange->peer && serve_hints_wanted(server->hints)) {
            exchange->headers_ns = reef_now_ns();
            serve_hints_header(server->hints, exchange->peer, exchange->call->model, exchange->headers_ns);
        }
    }
    return exchange;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *bytes, void **slot)
{
    (void)version;
    serve_exchange *exchange = *slot;
    if (!exchange) {
        *slot = exchange = begin(context, connection, url, method);
        if (!exchange) {
            return MHD_NO;
        }
        /* An answer before the body makes the library close the connection afterwards; a body worth reading is read. */
        return exchange->state == SERVE_DONE && exchange->status == MHD_HTTP_CONTENT_TOO_LARGE ? send_answer(exchange)
                                                                                               : MHD_YES;
    }
    if (*bytes) {
        take_body(exchange, data, *bytes);
        hint_of_body(exchange);
        *bytes = 0;
        return MHD_YES;
    }
    if (exchange->suspended) { /* and woken since */
        exchange->suspended = false;
        if (exchange->state == SERVE_BUSY) {
            serve_infer_begin(exchange);
        }
    } else if (exchange->state == SERVE_TAKING) {
        exchange->begin_ns = reef_now_ns();
        serve_route_run(exchange);
        if (exchange->suspended) {
            return MHD_YES; /* another thread may have it by now */
        }
    }
    return send_answer(exchange);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode why)
{
    (void)context;
    (void)connection;
    serve_exchange *exchange = *slot;
    if (!exchange) {
        return;
    }
    *slot = NULL;
    serve_infer_end(exchange, why == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    serve_peer_phase(exchange->peer, SERVE_IDLE, 0);
    atomic_fetch_sub(&exchange->server->body_bytes, exchange->accounted);
    free(exchange->memory);
    serve_text_free(&exchange->text);
    free(exchange);
}

static void address_text(const struct sockaddr *address, char *out, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";
    unsigned port = 0;
    if (address && address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)address;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        port = ntohs(in->sin_port);
    } else if (address && address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const void *)address;
        inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host);
        port = ntohs(in->sin6_port);
    }
    snprintf(out, size, address && address->sa_family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, port);
}

static void on_connection(void *context, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode what)
{
    serve_server *server = context;
    serve_prompt(); /* one of the library's threads */
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        serve_peer_remove(*slot);
        *slot = NULL;
        return;
    }
    const union MHD_ConnectionInfo *fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *from = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    char address[80];
    address_text(from ? from->client_addr : NULL, address, sizeof address);
    *slot = fd ? serve_peer_add(server->watch, fd->connect_fd, !server->access.certificate, address) : NULL;
}

__attribute__((format(printf, 2, 0))) static void on_message(void *context, const char *format, va_list arguments)
{
    char text[256], quoted[300];
    vsnprintf(text, sizeof text, format, arguments);
    serve_log_line(((serve_server *)context)->log, SERVE_LOG_REQUESTS, "http", "text=%s",
                   serve_log_quote(text, quoted, sizeof quoted));
}

/* ------------------------------------------------------------------------------------------------ the daemon -- */

reef_status serve_http_start(serve_server *server, int listener, serve_http **out, reef_error *error)
{
    serve_http *http = calloc(1, sizeof *http);
    if (!http) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    http->server = server;
    bool tls = server->access.certificate != NULL;
    struct MHD_OptionItem tls_options[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, server->access.certificate},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, server->access.key},
        {MHD_OPTION_END, 0, NULL},
    };
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    http->daemon =
        MHD_start_daemon((unsigned)(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG) |
                             (unsigned)(tls ? MHD_USE_TLS : 0),
                         0, NULL, NULL, on_request, server, MHD_OPTION_EXTERNAL_LOGGER, on_message, server,
                         MHD_OPTION_LISTEN_SOCKET, (MHD_socket)listener, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
                         server, MHD_OPTION_NOTIFY_CONNECTION, on_connection, server, MHD_OPTION_THREAD_POOL_SIZE,
                         server->options.http_threads > 1 ? server->options.http_threads : 0u,
                         MHD_OPTION_CONNECTION_LIMIT, server->options.max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
                         0u, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)65536, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1,
                         MHD_OPTION_ARRAY, tls ? tls_options : none, MHD_OPTION_END);
    if (!http->daemon) {
        free(http);
        return tls ? reef_fail(error, REEF_INVALID_ARGUMENT,
                               "the HTTP server does not start; is %s a certificate and %s its key, both PEM?",
                               server->options.tls_certificate, server->options.tls_key)
                   : reef_fail(error, REEF_IO, "the HTTP server does not start (threads or file descriptors ran out)");
    }
    *out = http;
    return REEF_OK;
}

void serve_http_stop(serve_http *http)
{
    if (http) {
        MHD_stop_daemon(http->daemon); /* which closes the listener */
        free(http);
    }
}
