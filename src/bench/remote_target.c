/*
 * remote_target.c - see remote_target.h.
 */
#include "bench/remote_target.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "bench/npy.h"
#include "bench/tensors.h"
#include "client/http.h"

struct remote_target {
    const remote_options *options;
    http_client http; /* HTTP */
    char *path, extra[64], *body;
    size_t body_bytes;
    reef_client *client; /* ring */
    reef_client_model *model;
    reef_call *call;
    char *first; /* the first answer's tensors */
    size_t first_bytes;
    bool has_first;
};

/* ------------------------------------------------------------------------------------------------------- answers -- */

/* Continues a comparison at *at of the first answer, or of its making. */
static bool same_as_first(remote_target *t, const void *data, size_t bytes, size_t *at)
{
    if (!t->has_first) {
        char *bigger = realloc(t->first, *at + bytes + 1);
        if (bigger) {
            memcpy(bigger + *at, data, bytes);
            t->first = bigger;
            t->first_bytes = *at + bytes;
        }
        *at += bytes;
        return bigger != NULL;
    }
    bool same = *at + bytes <= t->first_bytes && memcmp(t->first + *at, data, bytes) == 0;
    *at += bytes;
    return same;
}

static reef_status failure(const http_answer *answer, reef_error *error)
{
    json_t *root = json_loadb(answer->body, answer->body_bytes, 0, NULL);
    const char *text = json_string_value(json_object_get(root, "error"));
    reef_status status = answer->status == 503   ? REEF_QUEUE_FULL
                         : answer->status == 504 ? REEF_DEADLINE
                         : answer->status == 404 ? REEF_NOT_FOUND
                                                 : REEF_INVALID_ARGUMENT;
    reef_error_set(error, status, "the server answered %d: %.300s", answer->status, text ? text : "(no message)");
    json_decref(root);
    for (char *c = error->message; *c; c++) {
        *c = (unsigned char)*c < 0x20 ? '?' : *c;
    }
    return status;
}

static reef_status ask_http(remote_target *t, remote_answer *out, reef_error *error)
{
    http_answer answer;
    reef_status status = http_request(&t->http, "POST", t->path, t->extra, t->body, t->body_bytes, &answer, error);
    if (status || answer.status != 200) {
        return status ? status : failure(&answer, error);
    }
    out->engine_ns = http_server_timing_ns(&answer);
    const char *split = http_header(&answer, "Inference-Header-Content-Length");
    size_t json = split ? (size_t)strtoull(split, NULL, 10) : 0, at = 0;
    json = json <= answer.body_bytes ? json : answer.body_bytes;
    out->differs = !same_as_first(t, answer.body + json, answer.body_bytes - json, &at) || at != t->first_bytes;
    return REEF_OK;
}

static reef_status ask_ring(remote_target *t, remote_answer *out, reef_error *error)
{
    reef_request_info info;
    reef_call_options options = {.has_class = t->options->service_class >= 0, .service_class = REEF_BE};
    if (t->options->service_class == REEF_RT) {
        options.service_class = REEF_RT;
    }
    reef_status status = reef_call_run(t->call, &options, &info);
    if (status) {
        return reef_fail(error, status, "%s", reef_status_text(status));
    }
    out->engine_ns = info.end_ns - info.submit_ns;
    reef_tensor_info tensor;
    size_t at = 0;
    for (size_t i = 0; reef_client_output(t->model, i, &tensor); i++) {
        out->differs |= !same_as_first(t, reef_call_output(t->call, i), tensor.bytes, &at);
    }
    return REEF_OK;
}

reef_status remote_target_ask(remote_target *t, remote_answer *out, reef_error *error)
{
    reef_status status = t->call ? ask_ring(t, out, error) : ask_http(t, out, error);
    t->has_first |= !status;
    return status;
}

/* ------------------------------------------------------------------------------------------------------- opening -- */

static bool dtype_of(const char *name, reef_dtype *out, size_t *bytes)
{
    static const struct {
        const char *name;
        reef_dtype dtype;
        size_t bytes;
    } types[] = {{"FP32", REEF_F32, 4}, {"FP64", REEF_F64, 8}, {"INT64", REEF_I64, 8}, {"INT32", REEF_I32, 4},
                 {"INT8", REEF_I8, 1},  {"UINT8", REEF_U8, 1}, {"BOOL", REEF_BOOL, 1}, {"FP16", REEF_F16, 2}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (!strcmp(name, types[i].name)) {
            *out = types[i].dtype;
            *bytes = types[i].bytes;
            return true;
        }
    }
    return false;
}

/* An input of the metadata; open dimensions come from --shape, or are 1. */
static reef_status read_input(const remote_target *t, const json_t *input, reef_tensor_info *out, const char **datatype,
                              reef_error *error)
{
    const char *name = json_string_value(json_object_get(input, "name"));
    const json_t *shape = json_object_get(input, "shape");
    size_t bytes = 0, rank = json_array_size(shape);
    *datatype = json_string_value(json_object_get(input, "datatype"));
    *out = (reef_tensor_info){.name = name, .rank = (int)rank};
    if (!name || !*datatype || rank > REEF_MAX_RANK || !dtype_of(*datatype, &out->dtype, &bytes)) {
        return reef_fail(error, REEF_FORMAT, "model %s: the server describes an input that cannot be filled",
                         t->options->model);
    }
    const reef_shape *given = NULL;
    for (size_t i = 0; i < t->options->n_shapes; i++) {
        given = strcmp(t->options->shapes[i].input, name) ? given : &t->options->shapes[i];
    }
    for (size_t d = 0; d < rank; d++) {
        int64_t dim = json_integer_value(json_array_get(shape, d));
        dim = given && given->rank == (int)rank ? given->dims[d] : dim < 1 ? 1 : dim;
        if (dim > (int64_t)(((size_t)1 << 30) / bytes)) {
            return reef_fail(error, REEF_SHAPE, "input '%.100s' has too many elements", name);
        }
        out->dims[d] = dim;
        bytes *= (size_t)dim;
    }
    out->bytes = bytes;
    return REEF_OK;
}

static bool append(remote_target *t, const void *data, size_t bytes)
{
    char *bigger = realloc(t->body, t->body_bytes + bytes + 1);
    if (bigger) {
        memcpy(bigger + t->body_bytes, data, bytes);
        t->body = bigger;
        t->body_bytes += bytes;
    }
    return bigger != NULL;
}

/* The request, once: JSON, then the tensors. */
static reef_status make_body(remote_target *t, const json_t *metadata, uint64_t seed, reef_error *error)
{
    const json_t *inputs = json_object_get(metadata, "inputs");
    json_t *list = json_array(), *root;
    char *data[64] = {NULL};
    reef_tensor_info infos[64];
    size_t n = json_array_size(inputs);
    reef_status status = n > 64 ? reef_fail(error, REEF_UNSUPPORTED, "more than 64 inputs") : REEF_OK;
    for (size_t i = 0; !status && i < n; i++) {
        const char *datatype;
        status = read_input(t, json_array_get(inputs, i), &infos[i], &datatype, error);
        data[i] = status ? NULL : malloc(infos[i].bytes + 1);
        if (!status && !data[i]) {
            status = reef_fail(error, REEF_NO_MEMORY, "out of memory");
        }
        if (!status) {
            json_t *shape = json_array();
            for (int d = 0; d < infos[i].rank; d++) {
                json_array_append_new(shape, json_integer(infos[i].dims[d]));
            }
            bench_fill(&infos[i], seed * 1000 + i, data[i]);
            json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:{s:I}}", "name", infos[i].name, "datatype",
                                                  datatype, "shape", shape, "parameters", "binary_data_size",
                                                  (json_int_t)infos[i].bytes));
        }
    }
    root = json_pack("{s:o, s:{s:b}}", "inputs", list, "parameters", "binary_data_output", 1);
    if (t->options->service_class >= 0) {
        json_object_set_new(json_object_get(root, "parameters"), "priority",
                            json_integer(t->options->service_class == REEF_RT ? 1 : 2));
    }
    char *text = json_dumps(root, JSON_COMPACT);
    bool ok = !status && text && append(t, text, strlen(text));
    snprintf(t->extra, sizeof t->extra, "Inference-Header-Content-Length: %zu\r\n", t->body_bytes);
    for (size_t i = 0; i < n && i < 64; i++) {
        ok = ok && append(t, data[i], infos[i].bytes);
        free(data[i]);
    }
    free(text);
    json_decref(root);
    return status ? status : ok ? REEF_OK : reef_fail(error, REEF_NO_MEMORY, "out of memory");
}

static reef_status open_http(remote_target *t, uint64_t seed, reef_error *error)
{
    const remote_options *o = t->options;
    char *about = NULL;
    reef_status status = http_client_init(&t->http, o->url, o->token_file, error);
    if (status) {
        return status;
    }
    if (asprintf(&about, "/v2/models/%s%s%s", o->model, o->version ? "/versions/" : "", o->version ? o->version : "") <
            0 ||
        asprintf(&t->path, "%s/infer", about) < 0) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    http_answer answer;
    status = http_request(&t->http, "GET", about, NULL, NULL, 0, &answer, error);
    free(about);
    if (status || answer.status != 200) {
        return status ? status : failure(&answer, error);
    }
    json_t *metadata = json_loadb(answer.body, answer.body_bytes, 0, NULL);
    status = metadata ? make_body(t, metadata, seed, error)
                      : reef_fail(error, REEF_FORMAT, "the server's description of model %s is not JSON", o->model);
    json_decref(metadata);
    return status;
}

static reef_status open_ring(remote_target *t, uint64_t seed, reef_error *error)
{
    reef_client_options options = {.wake = t->options->wake};
    reef_status status = reef_client_connect(t->options->ring, &options, &t->client, error);
    status = status ? status : reef_client_open(t->client, t->options->model, t->options->version, &t->model, error);
    status = status ? status : reef_call_create(t->model, &t->call, error);
    reef_tensor_info info;
    for (size_t i = 0; !status && reef_client_input(t->model, i, &info); i++) {
        bench_fill(&info, seed * 1000 + i, reef_call_input(t->call, i));
    }
    return status;
}

reef_status remote_target_open(const remote_options *options, uint64_t seed, remote_target **out, reef_error *error)
{
    remote_target *t = calloc(1, sizeof *t);
    if (!t) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    t->options = options;
    t->http.fd = -1;
    remote_answer first = {0};
    reef_status status = options->url ? open_http(t, seed, error) : open_ring(t, seed, error);
    status = status ? status : remote_target_ask(t, &first, error);
    if (status) {
        remote_target_close(t);
        return status;
    }
    *out = t;
    return REEF_OK;
}

void remote_target_close(remote_target *t)
{
    if (t) {
        http_client_free(&t->http);
        reef_client_close(t->client);
        free(t->path);
        free(t->body);
        free(t->first);
        free(t);
    }
}
