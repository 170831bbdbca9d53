/*
 * decode.c - a v2 inference request from its bytes; see request.h. Nothing here is trusted: sizes are compared before they
 * are added, shapes are compared with the model's instead of multiplied out, names are looked up and not used.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "serve/request.h"
#include "serve/tensor.h"

typedef struct decoder {
    const serve_signature *signature;
    serve_shm *shm;
    const char *binary; /* what has not been taken of the binary part */
    size_t binary_bytes;
    serve_request *out;
    reef_error *error;
} decoder;

/* A parameter that must be a whole number of at least 0. */
static reef_status get_count(const json_t *parameters, const char *name, const char *what, bool *given, uint64_t *out,
                             reef_error *error)
{
    const json_t *value = json_object_get(parameters, name);
    *given = value != NULL;
    if (value && (!json_is_integer(value) || json_integer_value(value) < 0)) {
        return reef_fail(error, REEF_FORMAT, "%s: parameter '%s' is not a whole number of at least 0", what, name);
    }
    *out = value ? (uint64_t)json_integer_value(value) : 0;
    return REEF_OK;
}

static reef_status get_flag(const json_t *parameters, const char *name, const char *what, bool *out, reef_error *error)
{
    const json_t *value = json_object_get(parameters, name);
    if (value && !json_is_boolean(value)) {
        return reef_fail(error, REEF_FORMAT, "%s: parameter '%s' is neither true nor false", what, name);
    }
    *out = value ? json_is_true(value) : *out;
    return REEF_OK;
}

static reef_status get_object(const json_t *from, const char *name, const char *what, const json_t **out,
                              reef_error *error)
{
    *out = json_object_get(from, name);
    if (*out && !json_is_object(*out)) {
        return reef_fail(error, REEF_FORMAT, "%s: '%s' is not an object", what, name);
    }
    return REEF_OK;
}

/* The region and range that parameters name; *region stays NULL when they name none. */
static reef_status get_region(decoder *d, const json_t *parameters, const char *what, uint64_t *bytes,
                              serve_region **region, void **data)
{
    const json_t *name = json_object_get(parameters, "shared_memory_region");
    if (!name) {
        return REEF_OK;
    }
    bool given;
    uint64_t offset;
    if (!json_is_string(name)) {
        return reef_fail(d->error, REEF_FORMAT, "%s: parameter 'shared_memory_region' is not a string", what);
    }
    reef_status status = get_count(parameters, "shared_memory_offset", what, &given, &offset, d->error);
    if (!status) {
        status = get_count(parameters, "shared_memory_byte_size", what, &given, bytes, d->error);
    }
    if (!status && !given) {
        return reef_fail(d->error, REEF_FORMAT, "%s: parameter 'shared_memory_byte_size' is missing", what);
    }
    if (!status) {
        status = serve_shm_get(d->shm, json_string_value(name), offset, *bytes, region, data, d->error);
        if (status) {
            reef_error_prefix(d->error, "%s: ", what);
        }
    }
    return status;
}

/* --------------------------------------------------------------------------------------------------- shapes -- */

static void shape_text(const int64_t *dims, int rank, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < rank && n < size; i++) {
        n += (size_t)snprintf(out + n, size - n, i ? ",%lld" : "%lld", (long long)dims[i]);
    }
    if (n < size) {
        snprintf(out + n, size - n, "]");
    }
}

/* The request's shape is the model's; the first dimension of the first input decides the batch. */
static reef_status check_shape(decoder *d, const json_t *shape, const serve_io *io, bool first, const char *what)
{
    char wanted[200];
    shape_text(io->dims, io->rank, wanted, sizeof wanted);
    bool ok = json_is_array(shape) && json_array_size(shape) == (size_t)io->rank;
    for (int i = 0; ok && i < io->rank; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);
        ok = json_is_integer(dim);
        json_int_t value = json_integer_value(dim);
        if (ok && i == 0 && d->signature->max_batch) {
            if (value < 1 || value > (json_int_t)d->signature->max_batch) {
                return reef_fail(d->error, REEF_SHAPE, "%s: a batch has 1 to %u items, not %lld", what,
                                 d->signature->max_batch, (long long)value);
            }
            if (!first && (unsigned)value != d->out->batch) {
                return reef_fail(d->error, REEF_SHAPE, "%s: batch of %lld, but of %u in the first input", what,
                                 (long long)value, d->out->batch);
            }
            d->out->batch = (unsigned)value;
        } else {
            ok = ok && value == io->dims[i];
        }
    }
    if (!ok) {
        return reef_fail(d->error, REEF_SHAPE, "%s: the shape must be %s", what, wanted);
    }
    return REEF_OK;
}

/* --------------------------------------------------------------------------------------------------- inputs -- */

static void *own(serve_in *in, size_t bytes)
{
    return in->owned = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
}

/* Raw bytes (binary part or shared memory) of wire type `dtype` become the input's data. */
static reef_status take_bytes(decoder *d, const serve_io *io, serve_in *in, reef_dtype dtype, const void *data,
                              size_t bytes, size_t elems, const char *what)
{
    size_t size = serve_dtype_bytes(dtype), own_size = serve_dtype_bytes(io->dtype);
    if (bytes != elems * size) {
        return reef_fail(d->error, REEF_SHAPE, "%s: %zu bytes, but its shape and datatype take %zu", what, bytes,
                         elems * size);
    }
    in->bytes = elems * own_size;
    bool truth = io->dtype == REEF_BOOL, integer = io->dtype == REEF_I32 || io->dtype == REEF_I64;
    /* Not aligned; or indices that a client could change between their check and their use; or to be tidied. */
    if (dtype != io->dtype || truth || (uintptr_t)data % own_size || (in->region && integer)) {
        unsigned char *copy = own(in, in->bytes);
        if (!copy) {
            return reef_fail(d->error, REEF_NO_MEMORY, "out of memory");
        }
        if (dtype != io->dtype) {
            serve_tensor_from_half(data, elems, in->owned);
        } else {
            memcpy(copy, data, bytes);
        }
        for (size_t i = 0; truth && i < elems; i++) { /* one that is neither 0 nor 1 is undefined behaviour somewhere */
            copy[i] = copy[i] != 0;
        }
    }
    in->data = in->owned ? in->owned : data;
    return REEF_OK;
}

static reef_status take_data(decoder *d, const json_t *input, const json_t *parameters, const serve_io *io,
                             serve_in *in, reef_dtype dtype, const char *what)
{
    const json_t *data = json_object_get(input, "data");
    size_t elems = io->item_elems * d->out->batch;
    bool given = false;
    uint64_t binary = 0, shm_bytes = 0;
    void *shm_data = NULL;
    reef_status status = get_count(parameters, "binary_data_size", what, &given, &binary, d->error);
    if (!status) {
        status = get_region(d, parameters, what, &shm_bytes, &in->region, &shm_data);
    }
    if (status) {
        return status;
    }
    if ((data != NULL) + given + (in->region != NULL) != 1) {
        return reef_fail(d->error, REEF_FORMAT,
                         "%s: needs exactly one of 'data', 'binary_data_size' and 'shared_memory_region'", what);
    }
    if (shm_data) {
        return take_bytes(d, io, in, dtype, shm_data, shm_bytes, elems, what);
    }
    if (given) {
        if (binary > d->binary_bytes) {
            return reef_fail(d->error, REEF_FORMAT,
                             "%s: binary_data_size is %llu, but only %zu bytes are left in the body", what,
                             (unsigned long long)binary, d->binary_bytes);
        }
        const char *at = d->binary;
        d->binary += binary;
        d->binary_bytes -= binary;
        return take_bytes(d, io, in, dtype, at, binary, elems, what);
    }
    in->bytes = elems * serve_dtype_bytes(io->dtype);
    if (!own(in, in->bytes)) {
        return reef_fail(d->error, REEF_NO_MEMORY, "out of memory");
    }
    in->data = in->owned;
    return serve_tensor_from_json(data, io->dtype, io->rank, elems, in->owned, what, d->error);
}

static size_t find_io(const serve_io *list, size_t n, const char *name)
{
    size_t i = 0;
    while (i < n && strcmp(list[i].name, name) != 0) {
        i++;
    }
    return i;
}

static reef_status decode_input(decoder *d, const json_t *input, bool first, bool *seen)
{
    const json_t *name = json_object_get(input, "name"), *datatype = json_object_get(input, "datatype"),
                 *parameters = NULL;
    if (!json_is_string(name)) {
        return reef_fail(d->error, REEF_FORMAT, "every element of 'inputs' needs a 'name' that is a string");
    }
    size_t i = find_io(d->signature->inputs, d->signature->n_inputs, json_string_value(name));
    if (i == d->signature->n_inputs) {
        return reef_fail(d->error, REEF_NOT_FOUND, "model '%s' has no input '%.100s'", d->signature->name,
                         json_string_value(name));
    }
    const serve_io *io = &d->signature->inputs[i];
    char what[SERVE_NAME_BYTES + 16];
    snprintf(what, sizeof what, "input '%.100s'", io->name);
    if (seen[i]) {
        return reef_fail(d->error, REEF_FORMAT, "%s is given twice", what);
    }
    seen[i] = true;
    reef_dtype dtype;
    if (!json_is_string(datatype) || !serve_dtype_find(json_string_value(datatype), &dtype)) {
        return reef_fail(d->error, REEF_DTYPE, "%s: datatype '%.40s' is not one that is served; it must be %s", what,
                         json_is_string(datatype) ? json_string_value(datatype) : "(none)",
                         serve_dtype_name(io->dtype));
    }
    if (dtype != io->dtype && !(dtype == REEF_F16 && io->dtype == REEF_F32)) {
        return reef_fail(d->error, REEF_DTYPE, "%s: datatype %s, but it must be %s%s", what, serve_dtype_name(dtype),
                         serve_dtype_name(io->dtype), io->dtype == REEF_F32 ? " (or FP16)" : "");
    }
    reef_status status = get_object(input, "parameters", what, &parameters, d->error);
    if (!status) {
        status = check_shape(d, json_object_get(input, "shape"), io, first, what);
    }
    return status ? status : take_data(d, input, parameters, io, &d->out->in[i], dtype, what);
}

static reef_status decode_inputs(decoder *d, const json_t *root)
{
    const json_t *inputs = json_object_get(root, "inputs");
    bool seen[SERVE_MAX_TENSORS] = {false};
    if (!json_is_array(inputs)) {
        return reef_fail(d->error, REEF_FORMAT, "'inputs' is missing or not an array");
    }
    for (size_t i = 0; i < json_array_size(inputs); i++) {
        reef_status status = decode_input(d, json_array_get(inputs, i), i == 0, seen);
        if (status) {
            return status;
        }
    }
    for (size_t i = 0; i < d->signature->n_inputs; i++) {
        if (!seen[i]) {
            return reef_fail(d->error, REEF_NOT_FOUND, "input '%.100s' of model '%s' is missing",
                             d->signature->inputs[i].name, d->signature->name);
        }
    }
    if (d->binary_bytes) {
        return reef_fail(d->error, REEF_FORMAT, "%zu bytes are left over after the binary data of the inputs",
                         d->binary_bytes);
    }
    return REEF_OK;
}

/* -------------------------------------------------------------------------------------------------- outputs -- */

static reef_status add_output(decoder *d, size_t i, const json_t *parameters, bool binary, const char *what)
{
    const serve_io *io = &d->signature->outputs[i];
    serve_out *out = &d->out->out[i];
    uint64_t classes, shm_bytes = 0;
    bool given;
    void *data = NULL;
    out->wanted = true;
    out->bytes = io->item_elems * d->out->batch * serve_dtype_bytes(io->dtype);
    d->out->order[d->out->n_order++] = (uint16_t)i;
    reef_status status = get_flag(parameters, "binary_data", what, &binary, d->error);
    if (!status) {
        status = get_count(parameters, "classification", what, &given, &classes, d->error);
    }
    if (!status) {
        status = get_region(d, parameters, what, &shm_bytes, &out->region, &data);
    }
    if (status) {
        return status;
    }
    if (classes > SERVE_MAX_CLASSES) {
        return reef_fail(d->error, REEF_INVALID_ARGUMENT, "%s: at most %d classes can be asked for", what,
                         SERVE_MAX_CLASSES);
    }
    out->classes = (unsigned)classes;
    out->form = out->region ? SERVE_SHM : binary ? SERVE_BINARY : SERVE_JSON;
    if (out->classes && out->region) {
        return reef_fail(d->error, REEF_UNSUPPORTED, "%s: a classification does not go to shared memory", what);
    }
    if (out->region && shm_bytes < out->bytes) {
        return reef_fail(d->error, REEF_SHAPE, "%s: %llu bytes of shared memory, but it needs %zu", what,
                         (unsigned long long)shm_bytes, out->bytes);
    }
    if (out->region && (uintptr_t)data % serve_dtype_bytes(io->dtype)) {
        return reef_fail(d->error, REEF_INVALID_ARGUMENT,
                         "%s: its place in shared memory is not aligned to its datatype", what);
    }
    out->data = out->region ? data : (out->owned = aligned_alloc(64, (out->bytes + 63) / 64 * 64 + 64));
    out->shm_bytes = shm_bytes;
    return out->data ? REEF_OK : reef_fail(d->error, REEF_NO_MEMORY, "out of memory");
}

static reef_status decode_output(decoder *d, const json_t *output, bool binary)
{
    const json_t *name = json_object_get(output, "name"), *parameters;
    if (!json_is_string(name)) {
        return reef_fail(d->error, REEF_FORMAT, "every element of 'outputs' needs a 'name' that is a string");
    }
    size_t i = find_io(d->signature->outputs, d->signature->n_outputs, json_string_value(name));
    if (i == d->signature->n_outputs) {
        return reef_fail(d->error, REEF_NOT_FOUND, "model '%s' has no output '%.100s'", d->signature->name,
                         json_string_value(name));
    }
    char what[SERVE_NAME_BYTES + 16];
    snprintf(what, sizeof what, "output '%.100s'", d->signature->outputs[i].name);
    if (d->out->out[i].wanted) {
        return reef_fail(d->error, REEF_FORMAT, "%s is asked for twice", what);
    }
    reef_status status = get_object(output, "parameters", what, &parameters, d->error);
    return status ? status : add_output(d, i, parameters, binary, what);
}

static reef_status decode_outputs(decoder *d, const json_t *root, const json_t *parameters)
{
    const json_t *outputs = json_object_get(root, "outputs");
    bool binary = false;
    reef_status status = get_flag(parameters, "binary_data_output", "request", &binary, d->error);
    if (!status && outputs && !json_is_array(outputs)) {
        return reef_fail(d->error, REEF_FORMAT, "'outputs' is not an array");
    }
    size_t n = json_array_size(outputs);
    for (size_t i = 0; !status && i < n; i++) {
        status = decode_output(d, json_array_get(outputs, i), binary);
    }
    for (size_t i = 0; !status && n == 0 && i < d->signature->n_outputs; i++) {
        status = add_output(d, i, NULL, binary, d->signature->outputs[i].name);
    }
    return status;
}

/* -------------------------------------------------------------------------------------------------- request -- */

static reef_status decode_parameters(decoder *d, const json_t *root, const json_t **parameters)
{
    static const char *const refused[] = {"sequence_id", "sequence_start", "sequence_end"};
    bool given;
    const json_t *id = json_object_get(root, "id");
    reef_status status = get_object(root, "parameters", "request", parameters, d->error);
    if (status) {
        return status;
    }
    if (id && (!json_is_string(id) || json_string_length(id) > 1024)) {
        return reef_fail(d->error, REEF_FORMAT, "'id' is not a string of at most 1024 bytes");
    }
    if (id && json_string_length(id) && !(d->out->id = strdup(json_string_value(id)))) {
        return reef_fail(d->error, REEF_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        const json_t *value = json_object_get(*parameters, refused[i]);
        if (value && !json_is_false(value) && !(json_is_integer(value) && json_integer_value(value) == 0)) {
            return reef_fail(d->error, REEF_UNSUPPORTED, "parameter '%s': there are no sequences; models keep no state",
                             refused[i]);
        }
    }
    status = get_count(*parameters, "priority", "request", &given, &d->out->priority, d->error);
    d->out->has_priority = given && d->out->priority > 0;
    if (!status) {
        status = get_count(*parameters, "timeout", "request", &given, &d->out->timeout_us, d->error);
    }
    return status;
}

reef_status serve_decode(const serve_signature *signature, serve_shm *shm, const void *body, size_t bytes,
                         size_t json_bytes, serve_request *out, reef_error *error)
{
    memset(out, 0, sizeof *out);
    out->signature = signature;
    out->batch = 1;
    if (json_bytes > bytes) {
        return reef_fail(error, REEF_FORMAT, "Inference-Header-Content-Length is %zu, but the body has %zu bytes",
                         json_bytes, bytes);
    }
    json_error_t why = {.line = 0}; /* its code is not always written */
    json_t *root = json_loadb(body, json_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!root) {
        for (char *c = why.text; *c; c++) { /* it may quote the body */
            *c = (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c;
        }
        /* Some of jansson's failures to allocate leave no words. */
        bool memory = json_error_code(&why) == json_error_out_of_memory || !why.text[0];
        return memory ? reef_fail(error, REEF_FORMAT, "the JSON takes too much memory; send tensors as binary data")
                      : reef_fail(error, REEF_FORMAT, "the JSON is malformed at byte %d: %s", why.position, why.text);
    }
    decoder d = {
        .signature = signature,
        .shm = shm,
        .binary = (const char *)body + json_bytes,
        .binary_bytes = bytes - json_bytes,
        .out = out,
        .error = error,
    };
    const json_t *parameters = NULL;
    reef_status status = json_is_object(root) ? decode_parameters(&d, root, &parameters)
                                              : reef_fail(error, REEF_FORMAT, "the request is not a JSON object");
    if (!status) {
        status = decode_inputs(&d, root);
    }
    if (!status) {
        status = decode_outputs(&d, root, parameters);
    }
    json_decref(root);
    return status;
}

void serve_request_free(serve_request *request)
{
    for (size_t i = 0; i < SERVE_MAX_TENSORS; i++) {
        free(request->in[i].owned);
        free(request->out[i].owned);
        serve_shm_put(request->in[i].region);
        serve_shm_put(request->out[i].region);
    }
    free(request->id);
    memset(request, 0, sizeof *request);
}
