/*
 * model.c - see model.h.
 */
#include "serve/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "serve/batch.h"
#include "serve/tensor.h"

void serve_model_hold(serve_model *model)
{
    atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
}

void serve_model_drop(serve_model *model)
{
    /* Acquire and release: every use comes before the destruction. */
    if (model && atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) == 1) {
        model->on_unused(model->context, model);
    }
}

const serve_variant *serve_model_variant(const serve_model *model, unsigned batch)
{
    size_t i = 0;
    while (i + 1 < model->n_variants && model->variants[i].batch < batch) {
        i++;
    }
    return &model->variants[i];
}

/* ----------------------------------------------------------------------------------------------- description -- */

static reef_status describe_one(const serve_model *model, const reef_tensor_info *info, bool output, serve_io *out,
                                reef_error *error)
{
    const char *what = output ? "output" : "input";
    if (serve_dtype_bytes(info->dtype) == 0) {
        return reef_fail(error, REEF_DTYPE, "%s '%.100s': type %s cannot be served", what, info->name,
                         reef_dtype_name(info->dtype));
    }
    if (strlen(info->name) >= SERVE_NAME_BYTES) {
        return reef_fail(error, REEF_UNSUPPORTED, "%s '%.100s...': its name is too long to be served", what,
                         info->name);
    }
    *out = (serve_io){.name = info->name, .dtype = info->dtype, .rank = info->rank};
    memcpy(out->dims, info->dims, sizeof out->dims);
    out->item_elems = info->bytes / serve_dtype_bytes(info->dtype);
    if (model->signature.max_batch) {
        if (info->rank == 0 || info->dims[0] != (int64_t)model->variants[0].batch) {
            return reef_fail(error, REEF_SHAPE,
                             "%s '%.100s': its first dimension is not the batch, so requests cannot be batched; leave "
                             "\"batching\" out",
                             what, info->name);
        }
        out->item_elems /= model->variants[0].batch;
        out->dims[0] = -1;
    }
    return REEF_OK;
}

static reef_status describe(serve_model *model, reef_error *error)
{
    const reef_model *engine = model->variants[0].model;
    serve_signature *signature = &model->signature;
    reef_tensor_info info;
    signature->name = model->name;
    signature->version = model->version;
    signature->n_inputs = reef_model_inputs(engine);
    signature->n_outputs = reef_model_outputs(engine);
    if (signature->n_inputs > SERVE_MAX_TENSORS || signature->n_outputs > SERVE_MAX_TENSORS) {
        return reef_fail(error, REEF_UNSUPPORTED, "%zu inputs and %zu outputs; at most %d of each can be served",
                         signature->n_inputs, signature->n_outputs, SERVE_MAX_TENSORS);
    }
    model->inputs = calloc(signature->n_inputs + 1, sizeof *model->inputs);
    model->outputs = calloc(signature->n_outputs + 1, sizeof *model->outputs);
    if (!model->inputs || !model->outputs) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    signature->inputs = model->inputs;
    signature->outputs = model->outputs;
    reef_status status = REEF_OK;
    for (size_t i = 0; !status && reef_model_input(engine, i, &info); i++) {
        status = describe_one(model, &info, false, &model->inputs[i], error);
    }
    for (size_t i = 0; !status && reef_model_output(engine, i, &info); i++) {
        status = describe_one(model, &info, true, &model->outputs[i], error);
    }
    return status;
}

/* Every variant has the same tensors but for the batch. */
static reef_status check_variant(const serve_model *model, const serve_variant *variant, reef_error *error)
{
    reef_tensor_info info;
    bool same = reef_model_inputs(variant->model) == model->signature.n_inputs &&
                reef_model_outputs(variant->model) == model->signature.n_outputs;
    for (size_t i = 0; same && reef_model_input(variant->model, i, &info); i++) {
        same = info.bytes == model->inputs[i].item_elems * variant->batch * serve_dtype_bytes(info.dtype);
    }
    for (size_t i = 0; same && reef_model_output(variant->model, i, &info); i++) {
        same = info.bytes == model->outputs[i].item_elems * variant->batch * serve_dtype_bytes(info.dtype);
    }
    return same ? REEF_OK
                : reef_fail(error, REEF_SHAPE,
                            "a batch of %u does not have %u times the elements; leave \"batching\" out", variant->batch,
                            variant->batch);
}

/* One label per line. */
static reef_status load_labels(serve_model *model, const char *folder, const serve_labels *labels, reef_error *error)
{
    serve_io *io = NULL;
    for (size_t i = 0; i < model->signature.n_outputs; i++) {
        io = strcmp(model->outputs[i].name, labels->output) ? io : &model->outputs[i];
    }
    if (!io || io->labels) {
        return reef_fail(error, REEF_NOT_FOUND, "labels: no output '%.100s'", labels->output);
    }
    char *path = NULL, *line = NULL;
    FILE *file = asprintf(&path, "%s/%s", folder, labels->file) < 0 ? NULL : fopen(path, "re");
    reef_status status =
        file ? REEF_OK : reef_fail(error, REEF_NOT_FOUND, "labels: %s cannot be read", path ? path : labels->file);
    char **list = NULL;
    size_t capacity = 0, room = 0, n = 0;
    while (!status && n < 1000000 && getline(&line, &capacity, file) >= 0) {
        line[strcspn(line, "\r\n")] = 0;
        char *label = strdup(line);
        if (n == room || !list) {
            room = room ? 2 * room : 64;
            char **bigger = label ? realloc(list, room * sizeof *bigger) : NULL;
            if (!bigger) {
                free(label);
                status = reef_fail(error, REEF_NO_MEMORY, "out of memory");
                break;
            }
            list = bigger;
        }
        list[n++] = label; /* one that is NULL, out of memory, is a class without a name */
    }
    io->labels = list;
    io->n_labels = n;
    if (file) {
        fclose(file);
    }
    free(line);
    free(path);
    return status;
}

/* --------------------------------------------------------------------------------------------------- loading -- */

/* The configuration's shapes with the first dimension replaced. */
static reef_status load_engine(const serve_model_options *options, const serve_config *config, serve_variant *variant,
                               reef_error *error)
{
    reef_shape *shapes = calloc(config->n_shapes + 1, sizeof *shapes);
    if (!shapes) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < config->n_shapes; i++) {
        shapes[i] = config->shapes[i];
        if (config->max_batch && shapes[i].rank) {
            shapes[i].dims[0] = variant->batch;
        }
    }
    reef_model_options how = {
        .shapes = shapes,
        .n_shapes = config->n_shapes,
        .cache_dir = options->cache_dir,
        .precision = config->precision ? config->precision : options->precision,
    };
    reef_status status = reef_model_load(options->device, options->path, &how, &variant->model, error);
    free(shapes);
    return status;
}

static reef_status create_sessions(const serve_model *model, serve_variant *variant, reef_error *error)
{
    for (int c = 0; c < 2; c++) {
        reef_session_options how = {
            .service_class = (reef_class)c,
            .instances = (reef_class)c == REEF_BE ? model->config.instances : 0,
            .queue_limit = model->queue_limit,
            .weight = model->config.weight,
        };
        reef_status status = reef_session_create(variant->model, &how, &variant->sessions[c], error);
        if (status) {
            return status;
        }
    }
    return REEF_OK;
}

static reef_status load(const serve_model_options *options, serve_model *model, reef_error *error)
{
    unsigned most = model->config.max_batch ? model->config.max_batch : 1;
    reef_status status = REEF_OK;
    model->signature.max_batch = model->config.max_batch;
    for (unsigned batch = 1; !status; batch *= 2) {
        serve_variant *variant = &model->variants[model->n_variants];
        variant->batch = batch < most ? batch : most;
        status = load_engine(options, &model->config, variant, error);
        if (status) {
            return status;
        }
        model->n_variants++;
        status = model->n_variants == 1 ? describe(model, error) : REEF_OK;
        status = status ? status : check_variant(model, variant, error);
        status = status ? status : create_sessions(model, variant, error);
        if (batch >= most) {
            break;
        }
    }
    for (size_t i = 0; !status && i < model->config.n_labels; i++) {
        status = load_labels(model, options->folder, &model->config.labels[i], error);
    }
    if (!status && model->config.max_batch) {
        status = serve_batcher_create(model, &model->batcher, error);
    }
    for (size_t i = 0; !status && i < model->n_variants; i++) {
        reef_model_info info;
        reef_model_info_get(model->variants[i].model, &info);
        model->solo_ns = i ? model->solo_ns : info.solo_ns;
        model->bytes += info.weight_bytes + info.device_bytes + info.activation_bytes;
    }
    return status;
}

reef_status serve_model_load(const serve_model_options *options, serve_config *config, serve_model **out,
                             reef_error *error)
{
    serve_model *model = calloc(1, sizeof *model);
    if (!model) {
        serve_config_free(config);
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    model->config = *config;
    *config = (serve_config){0};
    snprintf(model->name, sizeof model->name, "%s", options->name);
    snprintf(model->version, sizeof model->version, "%s", options->version);
    model->stats = options->stats;
    model->queue_limit = model->config.queue ? model->config.queue : options->queue_limit;
    model->on_unused = options->on_unused;
    model->context = options->context;
    atomic_init(&model->references, 1);
    reef_status status = load(options, model, error);
    if (status) {
        if (status == REEF_SHAPE && !model->config.n_shapes) {
            char message[sizeof error->message];
            memcpy(message, error->message, sizeof message);
            reef_error_set(error, status, "%.380s (a JSON file beside the model may say \"shapes\")", message);
        }
        serve_model_destroy(model);
        return status;
    }
    *out = model;
    return REEF_OK;
}

static void free_io(serve_io *list, size_t n)
{
    for (size_t i = 0; list && i < n; i++) {
        for (size_t k = 0; k < list[i].n_labels; k++) {
            free(list[i].labels[k]);
        }
        free(list[i].labels);
    }
    free(list);
}

void serve_model_destroy(serve_model *model)
{
    if (!model) {
        return;
    }
    serve_batcher_destroy(model->batcher);
    for (size_t i = 0; i < SERVE_MAX_VARIANTS; i++) {
        reef_session_destroy(model->variants[i].sessions[REEF_RT]);
        reef_session_destroy(model->variants[i].sessions[REEF_BE]);
        reef_model_destroy(model->variants[i].model);
    }
    free_io(model->inputs, model->signature.n_inputs);
    free_io(model->outputs, model->signature.n_outputs);
    serve_config_free(&model->config);
    free(model);
}
