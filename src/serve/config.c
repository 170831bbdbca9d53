/*
 * config.c - see config.h.
 */
#include "serve/config.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

enum { MAX_CONFIG_BYTES = 1 << 20, MAX_ITEMS = 64 };

typedef struct reader {
    serve_config *config;
    const char *origin;
    reef_error *error;
} reader;

static reef_status wrong(const reader *r, const char *field, const char *must)
{
    return reef_fail(r->error, REEF_FORMAT, "%s: field '%.80s' must be %s", r->origin, field, must);
}

static reef_status no_memory(const reader *r)
{
    return reef_fail(r->error, REEF_NO_MEMORY, "%s: out of memory", r->origin);
}

static const char *keep(const reader *r, const char *text)
{
    return reef_arena_string(&r->config->arena, text, strlen(text));
}

static bool whole(const json_t *value, json_int_t low, json_int_t high)
{
    return json_is_integer(value) && json_integer_value(value) >= low && json_integer_value(value) <= high;
}

static reef_status read_class(const reader *r, const char *field, const json_t *value)
{
    const char *text = json_string_value(value);
    if (!text || (strcmp(text, "rt") != 0 && strcmp(text, "be") != 0)) {
        return wrong(r, field, "\"rt\" or \"be\"");
    }
    r->config->service_class = text[0] == 'r' ? REEF_RT : REEF_BE;
    return REEF_OK;
}

static reef_status read_precision(const reader *r, const char *field, const json_t *value)
{
    for (int i = REEF_PRECISION_FP32; i <= REEF_PRECISION_FP16; i++) {
        if (json_is_string(value) && !strcmp(json_string_value(value), reef_precision_name((reef_precision)i))) {
            r->config->precision = (reef_precision)i;
            return REEF_OK;
        }
    }
    return wrong(r, field, "\"fp32\", \"tf32\" or \"fp16\"");
}

static reef_status read_shapes(const reader *r, const char *field, const json_t *value)
{
    const char *name;
    json_t *dims;
    size_t n = json_object_size(value);
    if (!json_is_object(value) || n > MAX_ITEMS) {
        return wrong(r, field, "an object of input names and dimensions, such as {\"x\": [1, 3, 224, 224]}");
    }
    r->config->shapes = reef_arena_array(&r->config->arena, n + 1, sizeof *r->config->shapes);
    if (!r->config->shapes) {
        return no_memory(r);
    }
    json_object_foreach((json_t *)(uintptr_t)value, name, dims)
    {
        reef_shape *shape = &r->config->shapes[r->config->n_shapes++];
        if (!json_is_array(dims) || json_array_size(dims) > REEF_MAX_RANK) {
            return wrong(r, field, "an object whose values are arrays of at most 8 dimensions");
        }
        shape->input = keep(r, name);
        if (!shape->input) {
            return no_memory(r);
        }
        shape->rank = (int)json_array_size(dims);
        for (int i = 0; i < shape->rank; i++) {
            const json_t *dim = json_array_get(dims, (size_t)i);
            if (!whole(dim, 1, INT32_MAX)) {
                return wrong(r, field, "an object whose values are arrays of positive whole numbers");
            }
            shape->dims[i] = json_integer_value(dim);
        }
    }
    return REEF_OK;
}

static reef_status read_batching(const reader *r, const char *field, const json_t *value)
{
    const char *key;
    json_t *item;
    if (!json_is_object(value)) {
        return wrong(r, field, "an object with max_batch and delay_us");
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, item)
    {
        if (!strcmp(key, "max_batch")) {
            if (!whole(item, 1, SERVE_MAX_BATCH)) {
                return wrong(r, "batching.max_batch", "a whole number from 1 to 256");
            }
            r->config->max_batch = (unsigned)json_integer_value(item);
        } else if (!strcmp(key, "delay_us")) {
            if (!whole(item, 0, 10000000)) {
                return wrong(r, "batching.delay_us", "a whole number from 0 to 10000000");
            }
            r->config->delay_us = (uint64_t)json_integer_value(item);
        } else {
            return wrong(r, field, "an object with nothing but max_batch and delay_us");
        }
    }
    return r->config->max_batch ? REEF_OK : wrong(r, field, "an object with max_batch");
}

static reef_status read_labels(const reader *r, const char *field, const json_t *value)
{
    const char *name;
    json_t *file;
    if (!json_is_object(value) || json_object_size(value) > MAX_ITEMS) {
        return wrong(r, field, "an object of output names and file names");
    }
    r->config->labels = reef_arena_array(&r->config->arena, json_object_size(value) + 1, sizeof *r->config->labels);
    if (!r->config->labels) {
        return no_memory(r);
    }
    json_object_foreach((json_t *)(uintptr_t)value, name, file)
    {
        const char *text = json_string_value(file);
        if (!text || !*text || strchr(text, '/') || text[0] == '.') {
            return wrong(r, field, "an object whose values are plain names of files beside it");
        }
        serve_labels *labels = &r->config->labels[r->config->n_labels++];
        *labels = (serve_labels){keep(r, name), keep(r, text)};
        if (!labels->output || !labels->file) {
            return no_memory(r);
        }
    }
    return REEF_OK;
}

static reef_status read_versions(const reader *r, const char *field, const json_t *value)
{
    const char *text = json_string_value(value);
    if (text && (!strcmp(text, "all") || !strcmp(text, "latest"))) {
        r->config->all_versions = text[0] == 'a';
        return REEF_OK;
    }
    if (!json_is_array(value) || json_array_size(value) > MAX_ITEMS || json_array_size(value) == 0) {
        return wrong(r, field, "\"latest\", \"all\" or an array of version numbers");
    }
    r->config->versions = reef_arena_array(&r->config->arena, json_array_size(value), sizeof *r->config->versions);
    if (!r->config->versions) {
        return no_memory(r);
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (!whole(json_array_get(value, i), 1, INT32_MAX)) {
            return wrong(r, field, "\"latest\", \"all\" or an array of version numbers");
        }
        r->config->versions[r->config->n_versions++] = json_integer_value(json_array_get(value, i));
    }
    return REEF_OK;
}

static reef_status read_field(const reader *r, const char *field, const json_t *value)
{
    const struct {
        const char *name;
        unsigned *to;
        json_int_t high;
        const char *must;
    } counts[] = {
        {"instances", &r->config->instances, 64, "a whole number from 1 to 64"},
        {"queue", &r->config->queue, 65536, "a whole number from 1 to 65536"},
        {"weight", &r->config->weight, 1000, "a whole number from 1 to 1000"},
    };
    static const struct {
        const char *name;
        reef_status (*read)(const reader *r, const char *field, const json_t *value);
    } fields[] = {
        {"class", read_class},       {"precision", read_precision}, {"shapes", read_shapes},
        {"batching", read_batching}, {"labels", read_labels},       {"versions", read_versions},
    };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        if (!strcmp(field, counts[i].name)) {
            if (!whole(value, 1, counts[i].high)) {
                return wrong(r, field, counts[i].must);
            }
            *counts[i].to = (unsigned)json_integer_value(value);
            return REEF_OK;
        }
    }
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (!strcmp(field, fields[i].name)) {
            return fields[i].read(r, field, value);
        }
    }
    return reef_fail(
        r->error, REEF_FORMAT,
        "%s: unknown field '%.80s'; there are class, precision, shapes, batching, labels, versions, instances, "
        "queue and weight",
        r->origin, field);
}

reef_status serve_config_parse(const char *json, size_t bytes, const char *origin, serve_config *out, reef_error *error)
{
    *out = (serve_config){.service_class = REEF_BE, .arena = {.limit_bytes = 4 << 20}};
    json_error_t why;
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &why);
    if (!root) {
        for (char *c = why.text; *c; c++) {
            *c = (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c;
        }
        return reef_fail(error, REEF_FORMAT, "%s: line %d: %s", origin, why.line, why.text);
    }
    reader r = {out, origin, error};
    reef_status status =
        json_is_object(root) ? REEF_OK : reef_fail(error, REEF_FORMAT, "%s: must hold one JSON object", origin);
    const char *field;
    json_t *value;
    json_object_foreach(root, field, value)
    {
        status = status ? status : read_field(&r, field, value);
    }
    json_decref(root);
    return status;
}

reef_status serve_config_load(const char *path, serve_config *out, reef_error *error)
{
    *out = (serve_config){.service_class = REEF_BE};
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return errno == ENOENT ? REEF_OK : reef_fail(error, REEF_IO, "%s: %s", path, strerror(errno));
    }
    reef_status status = REEF_OK;
    if (fstat(fd, &info) || !S_ISREG(info.st_mode) || info.st_size > MAX_CONFIG_BYTES) {
        status = reef_fail(error, REEF_IO, "%s: not a file of at most 1 MiB", path);
    } else {
        size_t n = 0, size = (size_t)info.st_size;
        reef_arena scratch = {0};
        char *text = reef_arena_alloc(&scratch, size + 1);
        ssize_t got = 1;
        while (text && n < size && (got = read(fd, text + n, size - n)) > 0) {
            n += (size_t)got;
        }
        status = !text || got < 0 ? reef_fail(error, text ? REEF_IO : REEF_NO_MEMORY, "%s: cannot be read", path)
                                  : serve_config_parse(text, n, path, out, error);
        reef_arena_free(&scratch);
    }
    close(fd);
    return status;
}

void serve_config_free(serve_config *config)
{
    reef_arena_free(&config->arena);
    *config = (serve_config){0};
}
