/*
 * routes.c - addresses of the Open Inference Protocol and what answers them.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "serve/exchange.h"

const char *serve_route_methods(serve_route route)
{
    static const char *const methods[] = {
#define X(name, text) text,
        SERVE_ROUTE_LIST(X)
#undef X
    };
    return methods[route];
}

/* ----------------------------------------------------------------------------------------------------- parsing -- */

/* The next part of a path into out; false at its end or when it is too long. */
static bool next_part(const char **at, char *out, size_t size)
{
    if (**at != '/') {
        return false;
    }
    size_t length = strcspn(*at + 1, "/");
    if (length == 0 || length >= size) {
        return false;
    }
    memcpy(out, *at + 1, length);
    out[length] = 0;
    *at += 1 + length;
    return true;
}

static serve_route parse_model(const char *at, serve_exchange *exchange)
{
    static const struct {
        const char *word;
        serve_route route;
    } words[] = {
        {"infer", SERVE_ROUTE_INFER},
        {"ready", SERVE_ROUTE_MODEL_READY},
        {"stats", SERVE_ROUTE_MODEL_STATS},
        {"config", SERVE_ROUTE_MODEL_CONFIG},
    };
    char word[32];
    if (!strcmp(at, "/stats")) {
        return SERVE_ROUTE_ALL_STATS;
    }
    if (!next_part(&at, exchange->name, sizeof exchange->name)) {
        return SERVE_ROUTE_UNKNOWN;
    }
    if (!strncmp(at, "/versions/", 10)) {
        at += 9;
        if (!next_part(&at, exchange->version, sizeof exchange->version)) {
            return SERVE_ROUTE_UNKNOWN;
        }
    }
    if (!*at) {
        return SERVE_ROUTE_MODEL;
    }
    if (next_part(&at, word, sizeof word) && !*at) {
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
            if (!strcmp(word, words[i].word)) {
                return words[i].route;
            }
        }
    }
    return SERVE_ROUTE_UNKNOWN;
}

static serve_route parse_repository(const char *at, serve_exchange *exchange)
{
    if (!strcmp(at, "/index")) {
        return SERVE_ROUTE_INDEX;
    }
    if (strncmp(at, "/models", 7) != 0) {
        return SERVE_ROUTE_UNKNOWN;
    }
    at += 7;
    if (!next_part(&at, exchange->name, sizeof exchange->name)) {
        return SERVE_ROUTE_UNKNOWN;
    }
    return !strcmp(at, "/load") ? SERVE_ROUTE_LOAD : !strcmp(at, "/unload") ? SERVE_ROUTE_UNLOAD : SERVE_ROUTE_UNKNOWN;
}

static serve_route parse_shm(const char *at, serve_exchange *exchange)
{
    if (!strncmp(at, "/region", 7)) {
        at += 7;
        if (!next_part(&at, exchange->name, sizeof exchange->name)) {
            return SERVE_ROUTE_UNKNOWN;
        }
    }
    return !strcmp(at, "/status")                          ? SERVE_ROUTE_SHM_STATUS
           : !strcmp(at, "/register") && exchange->name[0] ? SERVE_ROUTE_SHM_REGISTER
           : !strcmp(at, "/unregister")                    ? SERVE_ROUTE_SHM_UNREGISTER
                                                           : SERVE_ROUTE_UNKNOWN;
}

serve_route serve_route_parse(const char *url, serve_exchange *exchange)
{
    static const struct {
        const char *path;
        serve_route route;
    } whole[] = {
        {"/v2", SERVE_ROUTE_SERVER},           {"/v2/", SERVE_ROUTE_SERVER},
        {"/v2/health/live", SERVE_ROUTE_LIVE}, {"/v2/health/ready", SERVE_ROUTE_READY},
        {"/metrics", SERVE_ROUTE_METRICS},     {"/v2/reef/status", SERVE_ROUTE_STATUS},
    };
    static const struct {
        const char *prefix;
        serve_route (*parse)(const char *at, serve_exchange *exchange);
    } prefixes[] = {
        {"/v2/models/", parse_model},
        {"/v2/repository/", parse_repository},
        {"/v2/systemsharedmemory/", parse_shm},
    };
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++) {
        if (!strcmp(url, whole[i].path)) {
            return whole[i].route;
        }
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        size_t n = strlen(prefixes[i].prefix);
        if (!strncmp(url, prefixes[i].prefix, n)) {
            return prefixes[i].parse(url + n - 1, exchange);
        }
    }
    return !strncmp(url, "/v2/cudasharedmemory/", 21) ? SERVE_ROUTE_CUDA_SHM : SERVE_ROUTE_UNKNOWN;
}

/* ---------------------------------------------------------------------------------------------------- answers -- */

bool serve_ready(serve_server *server)
{
    return !atomic_load(&server->draining) && !atomic_load(&server->failed) &&
           serve_repository_settled(server->repository);
}

static void health(serve_exchange *exchange, bool well, const char *why_not)
{
    if (well) {
        serve_exchange_ok(exchange, "application/json");
    } else {
        serve_exchange_fail(exchange, MHD_HTTP_SERVICE_UNAVAILABLE, why_not);
    }
}

static void model_answer(serve_exchange *exchange)
{
    serve_server *server = exchange->server;
    serve_model *model;
    reef_status status =
        serve_repository_find(server->repository, exchange->name, exchange->version, &model, &exchange->error);
    if (status) {
        bool known = status == REEF_BUSY;
        serve_exchange_fail(exchange, known ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_NOT_FOUND,
                            exchange->error.message);
        return;
    }
    if (exchange->route == SERVE_ROUTE_MODEL) {
        serve_describe_model(server->repository, model, &exchange->text);
    } else if (exchange->route == SERVE_ROUTE_MODEL_CONFIG) {
        serve_describe_config(model, &exchange->text);
    }
    serve_model_drop(model);
    if (exchange->route == SERVE_ROUTE_MODEL_READY) {
        health(exchange, serve_ready(server), "the server is not ready");
        return;
    }
    serve_exchange_ok(exchange, "application/json");
}

/* The body as a JSON object; an empty body is an empty one. NULL after an answer. */
static json_t *body_object(serve_exchange *exchange)
{
    json_error_t why;
    if (exchange->body_bytes == 0) {
        return json_object();
    }
    serve_json_budget(16u << 20);
    json_t *root = json_loadb(exchange->body, exchange->body_bytes, JSON_REJECT_DUPLICATES, &why);
    if (root && !json_is_object(root)) {
        json_decref(root);
        root = NULL;
    }
    if (!root) {
        serve_exchange_fail(exchange, MHD_HTTP_BAD_REQUEST, "the request is not a JSON object");
    }
    return root;
}

static void on_job(void *context, reef_status status, const reef_error *error)
{
    serve_exchange *exchange = context;
    if (status) {
        serve_exchange_error(exchange, status == REEF_NO_MEMORY || status == REEF_QUEUE_FULL ? status : REEF_FORMAT,
                             error);
    } else {
        serve_exchange_ok(exchange, "application/json");
    }
    serve_exchange_wake(exchange);
}

static void load_or_unload(serve_exchange *exchange)
{
    json_t *root = body_object(exchange);
    if (!root) {
        return;
    }
    const json_t *parameters = json_object_get(root, "parameters");
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)parameters, name, value)
    {
        if (exchange->route == SERVE_ROUTE_UNLOAD && !strcmp(name, "unload_dependents")) {
            continue; /* no model depends on another */
        }
        serve_exchange_fail(exchange, MHD_HTTP_BAD_REQUEST,
                            "models and their configuration come from the server's folder; a request only names them");
    }
    json_decref(root);
    serve_json_budget(0);
    if (exchange->state == SERVE_DONE) {
        return;
    }
    if (!serve_exchange_suspend(exchange)) {
        return;
    }
    reef_status status = serve_repository_submit(exchange->server->repository,
                                                 exchange->route == SERVE_ROUTE_LOAD ? SERVE_LOAD : SERVE_UNLOAD,
                                                 exchange->name, on_job, exchange, &exchange->error);
    if (status) {
        on_job(exchange, status, &exchange->error);
    }
}

static bool get_size(const json_t *root, const char *name, bool needed, uint64_t *out)
{
    const json_t *value = json_object_get(root, name);
    *out = json_is_integer(value) ? (uint64_t)json_integer_value(value) : 0;
    return value ? json_is_integer(value) && json_integer_value(value) >= 0 : !needed;
}

static void register_region(serve_exchange *exchange)
{
    json_t *root = body_object(exchange);
    if (!root) {
        return;
    }
    const char *key = json_string_value(json_object_get(root, "key"));
    uint64_t offset, bytes;
    if (!key || !get_size(root, "offset", false, &offset) || !get_size(root, "byte_size", true, &bytes)) {
        serve_exchange_fail(exchange, MHD_HTTP_BAD_REQUEST,
                            "needs 'key', a string, and 'byte_size' and 'offset', whole numbers of at least 0");
    } else {
        reef_status status =
            serve_shm_register(exchange->server->shm, exchange->name, key, offset, bytes, &exchange->error);
        if (status) {
            serve_exchange_error(exchange, status == REEF_BUSY ? REEF_FORMAT : status, &exchange->error);
        } else {
            serve_exchange_ok(exchange, "application/json");
        }
    }
    json_decref(root);
    serve_json_budget(0);
}

static void shm_status(serve_exchange *exchange)
{
    reef_status status = serve_shm_status(exchange->server->shm, exchange->name[0] ? exchange->name : NULL,
                                          &exchange->text, &exchange->error);
    if (status) {
        serve_exchange_error(exchange, status, &exchange->error);
    } else {
        serve_exchange_ok(exchange, "application/json");
    }
}

static void describe_index(serve_exchange *exchange)
{
    json_t *root = body_object(exchange);
    if (root) {
        serve_describe_index(exchange->server->repository, json_is_true(json_object_get(root, "ready")),
                             &exchange->text);
        serve_exchange_ok(exchange, "application/json");
        json_decref(root);
        serve_json_budget(0);
    }
}

static void describe_stats(serve_exchange *exchange, const char *name)
{
    if (serve_describe_stats(exchange->server->repository, name, exchange->version, &exchange->text)) {
        serve_exchange_ok(exchange, "application/json");
    } else {
        serve_exchange_fail(exchange, MHD_HTTP_NOT_FOUND, "no such model or version");
    }
}

void serve_route_run(serve_exchange *exchange)
{
    serve_server *server = exchange->server;
    switch (exchange->route) {
    case SERVE_ROUTE_SERVER: serve_describe_server(&exchange->text); break;
    case SERVE_ROUTE_LIVE:
        health(exchange, !atomic_load(&server->failed), "the device is lost; the server restarts");
        return;
    case SERVE_ROUTE_READY:
        health(exchange, serve_ready(server), "models are loading, or the server is ending");
        return;
    case SERVE_ROUTE_MODEL:
    case SERVE_ROUTE_MODEL_CONFIG:
    case SERVE_ROUTE_MODEL_READY: model_answer(exchange); return;
    case SERVE_ROUTE_MODEL_STATS: describe_stats(exchange, exchange->name); return;
    case SERVE_ROUTE_ALL_STATS: describe_stats(exchange, NULL); return;
    case SERVE_ROUTE_INFER: serve_infer_begin(exchange); return;
    case SERVE_ROUTE_INDEX: describe_index(exchange); return;
    case SERVE_ROUTE_LOAD:
    case SERVE_ROUTE_UNLOAD: load_or_unload(exchange); return;
    case SERVE_ROUTE_SHM_STATUS: shm_status(exchange); return;
    case SERVE_ROUTE_SHM_REGISTER: register_region(exchange); return;
    case SERVE_ROUTE_SHM_UNREGISTER:
        serve_shm_unregister(server->shm, exchange->name[0] ? exchange->name : NULL);
        break;
    case SERVE_ROUTE_CUDA_SHM:
        serve_exchange_fail(exchange, MHD_HTTP_BAD_REQUEST, "this server does not have CUDA shared memory");
        return;
    case SERVE_ROUTE_METRICS:
        serve_describe_metrics(server, &exchange->text);
        serve_exchange_ok(exchange, "text/plain; version=0.0.4");
        return;
    case SERVE_ROUTE_STATUS: serve_describe_status(server, &exchange->text); break;
    case SERVE_ROUTE_UNKNOWN: serve_exchange_fail(exchange, MHD_HTTP_NOT_FOUND, "no such address"); return;
    }
    serve_exchange_ok(exchange, "application/json");
}
