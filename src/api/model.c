/*
 * model.c - loading a model for a device, and describing it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/error.h"
#include "reef/reef.h"

void reef_model_update_units(reef_model *model)
{
    unsigned most = 0;
    for (size_t k = 0; k < model->plan->n_kernels; k++) {
        uint32_t tiles = model->costs[k].tiles;
        unsigned fill = tiles < model->device->dev->units ? tiles : model->device->dev->units;
        most = fill > most ? fill : most;
    }
    atomic_store_explicit(&model->units_needed, most, memory_order_relaxed);
}

void reef_model_estimate(reef_model *model)
{
    const reef_device_ops *ops = model->device->dev->ops;
    for (size_t k = 0; k < model->plan->n_kernels; k++) {
        reef_dev_kernel info;
        ops->kernel_info(model->program, (uint32_t)k, &info);
        model->costs[k] = (reef_kernel_cost){.tiles = info.tiles, .tile_ns = info.tile_ns};
    }
    reef_model_update_units(model);
}

/* "dir/name.onnx" -> "dir"; NULL when out of memory. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
}

/* "dir/name.onnx" and hash -> "dir/name.0123456789abcdef.cpu2.fp32.profile.json"; with cache_dir, in there. */
static char *profile_path(const reef_model *model, const char *path, const char *cache_dir)
{
    const reef_dev *dev = model->device->dev;
    const char *slash = strrchr(path, '/');
    const char *file = slash ? slash + 1 : path;
    const char *dot = strrchr(file, '.');
    int stem = dot && dot != file ? (int)(dot - file) : (int)strlen(file);
    int folder = slash ? (int)(slash - path) + 1 : 0;
    char *text = NULL;
    int length =
        asprintf(&text, "%.*s%s%s%.*s.%016llx.%s%u.%s.profile.json", cache_dir ? 0 : folder, path,
                 cache_dir ? cache_dir : "", cache_dir ? "/" : "", stem, file, (unsigned long long)model->plan->hash,
                 dev->model, dev->units, reef_precision_name(model->program->precision));
    return length < 0 ? NULL : text;
}

/* Compiles the plan, which becomes the model's. */
static reef_status model_from_plan(reef_device *device, reef_plan *plan, const reef_program_options *options,
                                   reef_model **out, reef_error *error)
{
    reef_model *model = calloc(1, sizeof *model);
    if (!model) {
        reef_plan_destroy(plan);
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    model->device = device;
    model->plan = plan;
    model->costs = calloc(plan->n_kernels + 1, sizeof *model->costs);
    model->profile = calloc(plan->n_kernels + 1, sizeof *model->profile);
    reef_status status = model->costs && model->profile ? REEF_OK : reef_fail(error, REEF_NO_MEMORY, "out of memory");
    if (!status) {
        status = device->dev->ops->program_create(device->dev, plan, options, &model->program, error);
    }
    atomic_fetch_add(&device->models, 1);
    if (status) {
        reef_model_destroy(model);
        return status;
    }
    reef_model_estimate(model);
    *out = model;
    return REEF_OK;
}

/* "dir/resnet152.onnx" -> "resnet152", cut short. */
static void name_after(reef_model *model, const char *path)
{
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path, *dot = strrchr(file, '.');
    size_t length = dot && dot != file ? (size_t)(dot - file) : strlen(file);
    length = length < sizeof model->name ? length : sizeof model->name - 1;
    memcpy(model->name, file, length);
    model->name[length] = 0;
}

static reef_status load_plan(const char *path, const reef_model_options *options, reef_plan **out, size_t *nodes,
                             reef_error *error)
{
    reef_graph *graph = NULL;
    reef_status status = reef_graph_load(path, &graph, error); /* its errors name the file */
    if (status) {
        return status;
    }
    for (size_t i = 0; !status && i < options->n_shapes; i++) {
        const reef_shape *shape = &options->shapes[i];
        status = reef_graph_set_shape(graph, shape->input, shape->dims, shape->rank, error);
    }
    if (!status) {
        *nodes = graph->n_nodes;
        status = reef_graph_infer(graph, error);
    }
    if (!status) {
        status = reef_graph_fuse(graph, error);
    }
    if (!status) {
        status = reef_plan_create(graph, out, error);
    }
    if (status) {
        reef_graph_destroy(graph);
        reef_error_prefix(error, "%s: ", path);
    }
    return status;
}

reef_status reef_model_load(reef_device *device, const char *path, const reef_model_options *options, reef_model **out,
                            reef_error *error)
{
    static const reef_model_options defaults;
    options = options ? options : &defaults;
    reef_plan *plan = NULL;
    size_t nodes = 0;
    if (options->progress) {
        options->progress(options->progress_context, "reading", 0, 2);
    }
    reef_status status = load_plan(path, options, &plan, &nodes, error);
    if (status) {
        return status;
    }
    if (options->progress) {
        options->progress(options->progress_context, "compiling", 1, 2);
    }
    reef_model *model = NULL;
    char *folder = options->cache_dir ? NULL : folder_of(path);
    reef_program_options compile = {
        .precision = options->precision,
        .cache_dir = options->cache_dir ? options->cache_dir : folder,
        .progress = options->progress,
        .progress_context = options->progress_context,
    };
    status = model_from_plan(device, plan, &compile, &model, error);
    free(folder);
    if (status) {
        reef_error_prefix(error, "%s: ", path);
        return status;
    }
    if (options->progress) {
        options->progress(options->progress_context, "compiling", 2, 2);
    }
    model->nodes = nodes;
    name_after(model, path);
    model->cache_path = profile_path(model, path, options->cache_dir);
    reef_profile_load(model);
    *out = model;
    return REEF_OK;
}

reef_status reef_model_create_synthetic(reef_device *device, uint32_t kernels, uint32_t tiles, uint64_t tile_ns,
                                        reef_model **out, reef_error *error)
{
    reef_plan *plan = NULL;
    if (!kernels || !tiles) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "a synthetic model needs at least one kernel of one tile");
    }
    reef_status status = reef_plan_create_synthetic(kernels, tiles, tile_ns, &plan);
    if (status) {
        return reef_fail(error, status, "cannot create a synthetic model of %u kernels", kernels);
    }
    status = model_from_plan(device, plan, NULL, out, error);
    if (!status) {
        snprintf((*out)->name, sizeof(*out)->name, "synthetic %ux%u", kernels, tiles);
    }
    return status;
}

void reef_model_destroy(reef_model *model)
{
    if (!model) {
        return;
    }
    if (model->program) {
        model->device->dev->ops->program_destroy(model->program);
    }
    reef_plan_destroy(model->plan);
    atomic_fetch_sub(&model->device->models, 1);
    free(model->costs);
    free(model->profile);
    free(model->cache_path);
    free(model);
}

/* ------------------------------------------------------------ describing -- */

size_t reef_model_inputs(const reef_model *model)
{
    return model->plan->n_inputs;
}

size_t reef_model_outputs(const reef_model *model)
{
    return model->plan->n_outputs;
}

static bool io_info(const reef_plan_io *io, size_t n, size_t i, reef_tensor_info *out)
{
    if (i >= n) {
        return false;
    }
    *out = (reef_tensor_info){.name = io[i].name, .dtype = io[i].dtype, .rank = io[i].rank, .bytes = io[i].bytes};
    memcpy(out->dims, io[i].dims, sizeof out->dims);
    return true;
}

bool reef_model_input(const reef_model *model, size_t i, reef_tensor_info *out)
{
    return io_info(model->plan->inputs, model->plan->n_inputs, i, out);
}

bool reef_model_output(const reef_model *model, size_t i, reef_tensor_info *out)
{
    return io_info(model->plan->outputs, model->plan->n_outputs, i, out);
}

static uint64_t kernel_solo_ns(const reef_model *model, size_t k)
{
    uint32_t units = model->device->dev->units, tiles = model->costs[k].tiles;
    uint64_t waves = (tiles + units - 1) / units;
    return model->profile[k].p50_ns ? model->profile[k].p50_ns : waves * model->costs[k].tile_ns;
}

void reef_model_info_get(const reef_model *model, reef_model_info *out)
{
    const reef_plan *plan = model->plan;
    pthread_mutex_lock(&model->device->sched.lock); /* a profile may come in */
    *out = (reef_model_info){
        .nodes = model->nodes,
        .kernels = plan->n_kernels,
        .weight_bytes = plan->weight_bytes,
        .activation_bytes = plan->activation_bytes,
        .activation_sum_bytes = plan->activation_sum_bytes,
        .precision = model->program->precision,
        .device_bytes = model->program->device_bytes,
        .profiled = model->profiled,
        .units_needed = atomic_load_explicit(&model->units_needed, memory_order_relaxed),
    };
    for (size_t k = 0; k < plan->n_kernels; k++) {
        reef_dev_kernel kernel;
        model->device->dev->ops->kernel_info(model->program, (uint32_t)k, &kernel);
        out->kernels_preemptible += kernel.preemptible;
        out->flops += plan->kernels[k].flops;
        out->solo_ns += kernel_solo_ns(model, k);
    }
    pthread_mutex_unlock(&model->device->sched.lock);
}

bool reef_model_kernel(const reef_model *model, size_t i, reef_kernel_info *out)
{
    if (i >= model->plan->n_kernels) {
        return false;
    }
    const reef_kernel *kernel = &model->plan->kernels[i];
    reef_dev_kernel info;
    model->device->dev->ops->kernel_info(model->program, (uint32_t)i, &info);
    uint32_t units = model->device->dev->units;
    pthread_mutex_lock(&model->device->sched.lock);
    *out = (reef_kernel_info){
        .name = kernel->name,
        .ops = kernel->ops,
        .kind = reef_kernel_kind_name(kernel->kind),
        .variant = info.variant,
        .tiles = info.tiles,
        .preemptible = info.preemptible,
        .why_not = info.why_not,
        .flops = kernel->flops,
        .bytes = kernel->bytes,
        .out_rank = kernel->y.rank,
        .solo_p50_ns = model->profile[i].p50_ns,
        .solo_p99_ns = model->profile[i].p99_ns,
        .tile_ns = model->costs[i].tile_ns,
        .units = info.tiles < units ? info.tiles : units,
        .tiles_per_unit = info.blocks_per_unit ? info.blocks_per_unit : 1,
        .pad_level = info.pad_level,
    };
    pthread_mutex_unlock(&model->device->sched.lock);
    memcpy(out->out_dims, kernel->y.dims, sizeof out->out_dims);
    return true;
}

bool reef_model_buffer(const reef_model *model, size_t i, reef_buffer_info *out)
{
    static const char *const kinds[] = {
        [REEF_STORAGE_CONST] = "const",
        [REEF_STORAGE_INPUT] = "input",
        [REEF_STORAGE_OUTPUT] = "output",
        [REEF_STORAGE_ACTIVATION] = "activation",
    };
    if (i >= model->plan->n_storage) {
        return false;
    }
    const reef_storage *storage = &model->plan->storage[i];
    *out = (reef_buffer_info){
        .name = storage->name,
        .kind = kinds[storage->kind],
        .bytes = storage->bytes,
        .offset = storage->offset,
        .first_kernel = storage->first,
        .last_kernel = storage->last,
    };
    return true;
}
