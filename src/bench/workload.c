/*
 * workload.c - reading and checking workload files.
 */
#include "bench/workload.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "bench/builtin.h"

enum { MAX_FILE_BYTES = 64 << 20, MAX_CLIENTS = 64, MAX_TRACE = 4 << 20 };
static const double MAX_RATE = 1e6, MAX_MS = 1e9;

/* Where in the file we are, for messages: "file: client 'x': field: ...". */
typedef struct place {
    const char *origin, *client;
    bench_workload *workload;
    reef_error *error;
} place;

__attribute__((format(printf, 3, 4))) static reef_status bad(const place *at, const char *field, const char *format,
                                                             ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const char *client = at->client;
    return reef_fail(at->error, REEF_FORMAT, "%s: %s%.60s%s%s%s%s", at->origin, client ? "client " : "",
                     client ? client : "", client ? ": " : "", field ? field : "", field ? ": " : "", text);
}

static reef_status no_memory(const place *at)
{
    return reef_fail(at->error, REEF_NO_MEMORY, "%s: out of memory", at->origin);
}

static const char *keep(const place *at, const char *text)
{
    return reef_arena_string(&at->workload->arena, text, strlen(text));
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: return "null";
    }
    return "something else";
}

/* ---- typed access: each answers OK and leaves *out alone when the field is absent and not required ---- */

static reef_status get_string(const place *at, json_t *object, const char *field, bool required, const char **out)
{
    json_t *value = json_object_get(object, field);
    if (!value) {
        return required ? bad(at, field, "missing") : REEF_OK;
    }
    if (!json_is_string(value) || !*json_string_value(value)) {
        return bad(at, field, "must be a string that is not empty, not %s", type_name(value));
    }
    *out = keep(at, json_string_value(value));
    return *out ? REEF_OK : no_memory(at);
}

static reef_status get_number(const place *at, json_t *object, const char *field, bool required, double low,
                              double high, double *out)
{
    json_t *value = json_object_get(object, field);
    if (!value) {
        return required ? bad(at, field, "missing") : REEF_OK;
    }
    if (!json_is_number(value)) {
        return bad(at, field, "must be a number, not %s", type_name(value));
    }
    double number = json_number_value(value);
    if (!(number >= low && number <= high)) {
        return bad(at, field, "%g is outside %g to %g", number, low, high);
    }
    *out = number;
    return REEF_OK;
}

static reef_status get_integer(const place *at, json_t *object, const char *field, uint64_t low, uint64_t high,
                               uint64_t *out)
{
    json_t *value = json_object_get(object, field);
    if (!value) {
        return REEF_OK;
    }
    if (!json_is_integer(value)) {
        return bad(at, field, "must be a whole number, not %s", json_is_real(value) ? "a fraction" : type_name(value));
    }
    json_int_t number = json_integer_value(value);
    if (number < 0 || (uint64_t)number < low || (uint64_t)number > high) {
        return bad(at, field, "%lld is outside %llu to %llu", (long long)number, (unsigned long long)low,
                   (unsigned long long)high);
    }
    *out = (uint64_t)number;
    return REEF_OK;
}

static reef_status only_fields(const place *at, json_t *object, const char *prefix, const char *const *allowed)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        bool known = false;
        for (size_t i = 0; allowed[i] && !known; i++) {
            known = !strcmp(key, allowed[i]);
        }
        if (!known) {
            return bad(at, NULL, "unknown field '%s%.80s'; see workloads/README.md for those there are", prefix, key);
        }
    }
    return REEF_OK;
}

/* ------------------------------------------------------------------------------------------------ arrival -- */

static const char *const arrival_names[] = {
    [BENCH_CLOSED] = "closed",
    [BENCH_UNIFORM] = "uniform",
    [BENCH_POISSON] = "poisson",
    [BENCH_TRACE] = "trace",
};

const char *bench_arrival_name(bench_arrival_kind kind)
{
    return arrival_names[kind];
}

static reef_status parse_trace(const place *at, json_t *object, bench_arrival *out)
{
    json_t *times = json_object_get(object, "times_ms");
    if (!json_is_array(times) || json_array_size(times) == 0 || json_array_size(times) > MAX_TRACE) {
        return bad(at, "arrival.times_ms", "must be an array of 1 to %d times in milliseconds", MAX_TRACE);
    }
    out->n_times = json_array_size(times);
    out->times_ms = reef_arena_array(&at->workload->arena, out->n_times, sizeof *out->times_ms);
    if (!out->times_ms) {
        return no_memory(at);
    }
    for (size_t i = 0; i < out->n_times; i++) {
        json_t *value = json_array_get(times, i);
        double ms = json_is_number(value) ? json_number_value(value) : -1;
        if (!(ms >= 0 && ms <= MAX_MS) || (i && ms < out->times_ms[i - 1])) {
            return bad(at, "arrival.times_ms",
                       "element %zu must be a time in milliseconds, not before the one in front", i);
        }
        out->times_ms[i] = ms;
    }
    double last = out->times_ms[out->n_times - 1];
    out->period_ms = last + (out->n_times > 1 && last > 0 ? last / (double)(out->n_times - 1) : 1000.0);
    reef_status status = get_number(at, object, "period_ms", false, 0, 2 * MAX_MS, &out->period_ms);
    if (!status && !(out->period_ms > last && out->period_ms >= 1)) {
        return bad(at, "arrival.period_ms", "must be at least 1 and after the last time (%g ms)", last);
    }
    return status;
}

static reef_status parse_arrival(const place *at, json_t *client, bench_arrival *out)
{
    static const char *const closed[] = {"kind", "concurrency", NULL}, *const rated[] = {"kind", "rate", NULL},
                             *const trace[] = {"kind", "times_ms", "period_ms", NULL};
    json_t *object = json_object_get(client, "arrival");
    if (!json_is_object(object)) {
        return bad(at, "arrival", "%s", object ? "must be an object" : "missing");
    }
    const char *kind = json_string_value(json_object_get(object, "kind"));
    size_t i = 0;
    while (i < 4 && (!kind || strcmp(kind, arrival_names[i]) != 0)) {
        i++;
    }
    if (i == 4) {
        return bad(at, "arrival.kind", "must be closed, uniform, poisson or trace%s%.40s%s", kind ? ", not '" : "",
                   kind ? kind : "", kind ? "'" : "");
    }
    out->kind = (bench_arrival_kind)i;
    reef_status status = only_fields(at, object, "arrival.",
                                     out->kind == BENCH_CLOSED  ? closed
                                     : out->kind == BENCH_TRACE ? trace
                                                                : rated);
    if (status) {
        return status;
    }
    if (out->kind == BENCH_TRACE) {
        return parse_trace(at, object, out);
    }
    if (out->kind == BENCH_CLOSED) {
        uint64_t concurrency = 1;
        status = get_integer(at, object, "concurrency", 1, 64, &concurrency);
        out->concurrency = (unsigned)concurrency;
        return status;
    }
    return get_number(at, object, "rate", true, 1e-3, MAX_RATE, &out->rate);
}

double bench_arrival_rate(const bench_arrival *arrival)
{
    switch (arrival->kind) {
    case BENCH_CLOSED: return 0;
    case BENCH_TRACE: return (double)arrival->n_times * 1e3 / arrival->period_ms;
    default: return arrival->rate;
    }
}

/* ------------------------------------------------------------------------------------------------- client -- */

static reef_status parse_shapes(const place *at, json_t *client, bench_client *out)
{
    json_t *object = json_object_get(client, "shapes");
    if (!object) {
        return REEF_OK;
    }
    if (!json_is_object(object)) {
        return bad(at, "shapes", "must be an object such as {\"x\": [1, 3, 224, 224]}");
    }
    out->shapes = reef_arena_array(&at->workload->arena, json_object_size(object) + 1, sizeof *out->shapes);
    if (!out->shapes) {
        return no_memory(at);
    }
    const char *input;
    json_t *dims;
    json_object_foreach(object, input, dims)
    {
        reef_shape *shape = &out->shapes[out->n_shapes++];
        if (!json_is_array(dims) || json_array_size(dims) > REEF_MAX_RANK) {
            return bad(at, "shapes", "'%.60s' must be an array of at most %d dimensions", input, REEF_MAX_RANK);
        }
        shape->input = keep(at, input);
        if (!shape->input) {
            return no_memory(at);
        }
        shape->rank = (int)json_array_size(dims);
        for (int i = 0; i < shape->rank; i++) {
            json_t *dim = json_array_get(dims, (size_t)i);
            if (!json_is_integer(dim) || json_integer_value(dim) < 1 || json_integer_value(dim) > INT32_MAX) {
                return bad(at, "shapes", "'%.60s': dimension %d must be a positive whole number", input, i);
            }
            shape->dims[i] = json_integer_value(dim);
        }
    }
    return REEF_OK;
}

/* A path as written in the file: relative ones are relative to the file. */
static const char *beside(const place *at, const char *path)
{
    const char *slash = strrchr(at->origin, '/');
    if (*path == '/' || !slash) {
        return keep(at, path);
    }
    size_t folder = (size_t)(slash - at->origin) + 1, length = strlen(path);
    char *joined = reef_arena_alloc(&at->workload->arena, folder + length + 1);
    if (joined) {
        memcpy(joined, at->origin, folder);
        memcpy(joined + folder, path, length);
    }
    return joined;
}

static reef_status parse_inputs(const place *at, json_t *client, bench_client *out)
{
    json_t *object = json_object_get(client, "inputs");
    if (!object) {
        return REEF_OK;
    }
    if (!json_is_object(object)) {
        return bad(at, "inputs", "must be an object such as {\"x\": \"file.npy\"}");
    }
    out->inputs = reef_arena_array(&at->workload->arena, json_object_size(object) + 1, sizeof *out->inputs);
    if (!out->inputs) {
        return no_memory(at);
    }
    const char *input;
    json_t *file;
    json_object_foreach(object, input, file)
    {
        if (!json_is_string(file)) {
            return bad(at, "inputs", "'%.60s' must be the name of an .npy file", input);
        }
        bench_input_file *entry = &out->inputs[out->n_inputs++];
        entry->input = keep(at, input);
        entry->path = beside(at, json_string_value(file));
        if (!entry->input || !entry->path) {
            return no_memory(at);
        }
    }
    return REEF_OK;
}

/* A name without slash and without .onnx is looked up in the models folder later; everything else is a path. */
static reef_status resolve_model(const place *at, bench_client *client)
{
    size_t length = strlen(client->model);
    bool is_path = strchr(client->model, '/') || (length > 5 && !strcmp(client->model + length - 5, ".onnx"));
    if (is_path) {
        client->model = beside(at, client->model);
    }
    return client->model ? REEF_OK : no_memory(at);
}

static reef_status parse_client(const place *file, json_t *object, size_t index, bench_client *out)
{
    static const char *const fields[] = {"name",   "model",  "class", "arrival", "deadline_us", "slo_us",
                                         "shapes", "inputs", "seed",  "weight",  NULL};
    char number[24];
    snprintf(number, sizeof number, "%zu", index);
    place here = *file, *at = &here;
    at->client = number;
    if (!json_is_object(object)) {
        return bad(at, NULL, "must be an object");
    }
    reef_status status = get_string(at, object, "name", true, &out->name);
    if (status) {
        return status;
    }
    at->client = out->name;
    const char *service_class = "";
    uint64_t weight = 1;
    if ((status = only_fields(at, object, "", fields)) ||
        (status = get_string(at, object, "model", true, &out->model)) ||
        (status = get_string(at, object, "class", true, &service_class)) || (status = resolve_model(at, out)) ||
        (status = parse_arrival(at, object, &out->arrival)) ||
        (status = get_integer(at, object, "deadline_us", 1, 1000000000000u, &out->deadline_us)) ||
        (status = get_integer(at, object, "slo_us", 1, 1000000000000u, &out->slo_us)) ||
        (status = get_integer(at, object, "seed", 0, INT64_MAX, &out->seed)) ||
        (status = get_integer(at, object, "weight", 1, 1000, &weight)) || (status = parse_shapes(at, object, out)) ||
        (status = parse_inputs(at, object, out))) {
        return status;
    }
    out->has_seed = json_object_get(object, "seed") != NULL;
    out->weight = (unsigned)weight;
    if (strcmp(service_class, "rt") != 0 && strcmp(service_class, "be") != 0) {
        return bad(at, "class", "must be rt or be, not '%.40s'", service_class);
    }
    out->service_class = service_class[0] == 'r' ? REEF_RT : REEF_BE;
    return REEF_OK;
}

static reef_status parse_root(const place *at, json_t *root, bench_workload *out)
{
    static const char *const fields[] = {"name", "about", "source", "license", "rt_share", "clients", NULL};
    if (!json_is_object(root)) {
        return bad(at, NULL, "must be a JSON object with \"name\" and \"clients\"");
    }
    reef_status status;
    if ((status = only_fields(at, root, "", fields)) || (status = get_string(at, root, "name", true, &out->name)) ||
        (status = get_string(at, root, "about", false, &out->about)) ||
        (status = get_string(at, root, "source", false, &out->source)) ||
        (status = get_string(at, root, "license", false, &out->license)) ||
        (status = get_number(at, root, "rt_share", false, 0.01, 1.0, &out->rt_share))) {
        return status;
    }
    json_t *clients = json_object_get(root, "clients");
    if (!json_is_array(clients) || json_array_size(clients) == 0 || json_array_size(clients) > MAX_CLIENTS) {
        return bad(at, "clients", "must be an array of 1 to %d clients", MAX_CLIENTS);
    }
    size_t n = json_array_size(clients);
    out->clients = reef_arena_array(&out->arena, n, sizeof *out->clients);
    if (!out->clients) {
        return no_memory(at);
    }
    for (size_t i = 0; i < n; i++) {
        if ((status = parse_client(at, json_array_get(clients, i), i, &out->clients[i]))) {
            return status;
        }
        out->n_clients = i + 1;
        for (size_t j = 0; j < i; j++) {
            if (!strcmp(out->clients[i].name, out->clients[j].name)) {
                return bad(at, "clients", "two clients are called '%.60s'", out->clients[i].name);
            }
        }
    }
    return REEF_OK;
}

reef_status bench_workload_parse(const char *json, size_t bytes, const char *origin, bench_workload *out,
                                 reef_error *error)
{
    json_error_t where;
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &where);
    if (!root) {
        return reef_fail(error, REEF_FORMAT, "%s: line %d, column %d: not valid JSON: %s", origin, where.line,
                         where.column, where.text);
    }
    place at = {.origin = origin, .workload = out, .error = error};
    reef_status status = parse_root(&at, root, out);
    json_decref(root);
    return status;
}

static reef_status read_file(const char *path, char **out, size_t *bytes, reef_error *error)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        return reef_fail(error, errno == ENOENT ? REEF_NOT_FOUND : REEF_IO,
                         "%s: %s; give A, B, C, D, E, REAL, preempt or the path of a workload file", path,
                         strerror(errno));
    }
    char *text = malloc(MAX_FILE_BYTES + 1);
    size_t n = text ? fread(text, 1, MAX_FILE_BYTES + 1, file) : 0;
    bool failed = ferror(file);
    fclose(file);
    if (!text || failed || n > MAX_FILE_BYTES) {
        free(text);
        return !text    ? reef_fail(error, REEF_NO_MEMORY, "%s: out of memory", path)
               : failed ? reef_fail(error, REEF_IO, "%s: cannot be read", path)
                        : reef_fail(error, REEF_FORMAT, "%s: larger than 64 MiB", path);
    }
    *out = text;
    *bytes = n;
    return REEF_OK;
}

reef_status bench_workload_load(const char *spec, bench_workload *out, reef_error *error)
{
    for (size_t i = 0; i < bench_n_builtins; i++) {
        if (!strcmp(spec, bench_builtins[i].name)) {
            return bench_workload_parse(bench_builtins[i].json, bench_builtins[i].bytes, bench_builtins[i].name, out,
                                        error);
        }
    }
    char *text = NULL;
    size_t bytes = 0;
    reef_status status = read_file(spec, &text, &bytes, error);
    if (status) {
        return status;
    }
    status = bench_workload_parse(text, bytes, spec, out, error);
    free(text);
    return status;
}

void bench_workload_free(bench_workload *workload)
{
    reef_arena_free(&workload->arena);
    memset(workload, 0, sizeof *workload);
}
