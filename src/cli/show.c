/*
 * show.c - see show.h.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench/npy.h"
#include "bench/report.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/show.h"

static void print_tensor(const char *kind, const reef_tensor_info *info)
{
    char shape[160], name[128];
    printf("%-7s %-32s %-8s %s\n", kind, cli_printable(info->name, name, sizeof name), reef_dtype_name(info->dtype),
           npy_shape_text(info->rank, info->dims, shape, sizeof shape));
}

static void print_kernels(const reef_model *model)
{
    reef_kernel_info kernel;
    char shape[160], name[128], ops[128];
    printf("\n%5s  %-36s %-16s %6s %3s %9s  %-20s %s\n", "index", "operators", "output", "tiles", "x", "us", "variant",
           "name; why it is not preemptible inside");
    for (size_t i = 0; reef_model_kernel(model, i, &kernel); i++) {
        uint64_t ns = kernel.solo_p50_ns ? kernel.solo_p50_ns : kernel.tile_ns * kernel.tiles;
        printf("%5zu  %-36.36s %-16s %6" PRIu32 " %3u %8.1f%c  %-20s %s%s%s\n", i,
               cli_printable(kernel.ops, ops, sizeof ops),
               npy_shape_text(kernel.out_rank, kernel.out_dims, shape, sizeof shape), kernel.tiles,
               kernel.tiles_per_unit, (double)ns / 1e3, kernel.solo_p50_ns ? ' ' : '~',
               kernel.variant ? kernel.variant : "-", cli_printable(kernel.name, name, sizeof name),
               kernel.preemptible ? "" : "; not preemptible: ",
               kernel.preemptible ? ""
               : kernel.why_not   ? kernel.why_not
                                  : "unknown");
    }
}

static void print_buffers(const reef_model *model)
{
    reef_buffer_info buffer;
    char name[128];
    printf("\n%-10s %12s %12s %14s  %s\n", "buffer", "offset", "bytes", "live in kernels", "first value in it");
    for (size_t i = 0; reef_model_buffer(model, i, &buffer); i++) {
        char offset[32] = "-", live[48] = "-";
        if (buffer.kind[0] == 'a') {
            snprintf(offset, sizeof offset, "%zu", buffer.offset);
            snprintf(live, sizeof live, "%" PRIu32 "-%" PRIu32, buffer.first_kernel, buffer.last_kernel);
        }
        printf("%-10s %12s %12zu %14s   %s\n", buffer.kind, offset, buffer.bytes, live,
               cli_printable(buffer.name, name, sizeof name));
    }
}

static void print_text(const char *path, const reef_model *model)
{
    reef_model_info info;
    reef_tensor_info tensor;
    reef_model_info_get(model, &info);
    printf("%s: %zu nodes became %zu kernels, %zu of them preemptible inside\n", path, info.nodes, info.kernels,
           info.kernels_preemptible);
    printf("%.2f Gflop, weights %.1f MB, activations %.1f MB (%.1f MB without reuse), %s %.2f ms alone, fills up to %u "
           "compute units\n\n",
           info.flops / 1e9, (double)info.weight_bytes / 1e6, (double)info.activation_bytes / 1e6,
           (double)info.activation_sum_bytes / 1e6, info.profiled ? "measured" : "estimated",
           (double)info.solo_ns / 1e6, info.units_needed);
    if (info.device_bytes) {
        printf("%s, weights %.1f MB in device memory\n\n", reef_precision_name(info.precision),
               (double)info.device_bytes / 1e6);
    }
    for (size_t i = 0; reef_model_input(model, i, &tensor); i++) {
        print_tensor("input", &tensor);
    }
    for (size_t i = 0; reef_model_output(model, i, &tensor); i++) {
        print_tensor("output", &tensor);
    }
    print_kernels(model);
    printf("(x: tiles that one compute unit runs at once; ~: an estimate, reef profile measures)\n");
    print_buffers(model);
}

static json_t *dims_json(int rank, const int64_t *dims)
{
    json_t *array = json_array();
    for (int i = 0; i < rank; i++) {
        json_array_append_new(array, json_integer(dims[i]));
    }
    return array;
}

/* Names from a file need not be UTF-8, which JSON is. */
static json_t *text_json(const char *text)
{
    if (!text) {
        return json_null();
    }
    char printable[512];
    json_t *string = json_string(cli_printable(text, printable, sizeof printable));
    if (!string) {
        for (char *c = printable; *c; c++) {
            *c = (unsigned char)*c < 0x80 ? *c : '?';
        }
        string = json_string(printable);
    }
    return string;
}

static json_t *tensors_json(const reef_model *model, bool outputs)
{
    json_t *array = json_array();
    reef_tensor_info info;
    for (size_t i = 0; (outputs ? reef_model_output : reef_model_input)(model, i, &info); i++) {
        json_array_append_new(array, json_pack("{s:o, s:s, s:o, s:I}", "name", text_json(info.name), "dtype",
                                               reef_dtype_name(info.dtype), "shape", dims_json(info.rank, info.dims),
                                               "bytes", (json_int_t)info.bytes));
    }
    return array;
}

static json_t *kernels_json(const reef_model *model)
{
    json_t *array = json_array();
    reef_kernel_info k;
    for (size_t i = 0; reef_model_kernel(model, i, &k); i++) {
        json_t *object =
            json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:I, s:b, s:o}", "index", (json_int_t)i, "name",
                      text_json(k.name), "ops", text_json(k.ops), "kind", text_json(k.kind), "variant",
                      text_json(k.variant), "shape", dims_json(k.out_rank, k.out_dims), "tiles", (json_int_t)k.tiles,
                      "preemptible", (int)k.preemptible, "why_not", k.preemptible ? json_null() : text_json(k.why_not));
        json_object_set_new(object, "flops", bench_json_number(k.flops));
        json_object_set_new(object, "bytes", bench_json_number(k.bytes));
        json_object_set_new(object, "solo_p50_us",
                            k.solo_p50_ns ? json_real((double)k.solo_p50_ns / 1e3) : json_null());
        json_object_set_new(object, "solo_p99_us",
                            k.solo_p50_ns ? json_real((double)k.solo_p99_ns / 1e3) : json_null());
        json_object_set_new(object, "tile_us", json_real((double)k.tile_ns / 1e3));
        json_object_set_new(object, "units", json_integer(k.units));
        json_object_set_new(object, "tiles_per_unit", json_integer(k.tiles_per_unit));
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *buffers_json(const reef_model *model)
{
    json_t *array = json_array();
    reef_buffer_info b;
    for (size_t i = 0; reef_model_buffer(model, i, &b); i++) {
        json_array_append_new(array,
                              json_pack("{s:o, s:s, s:I, s:I, s:I, s:I}", "name", text_json(b.name), "kind", b.kind,
                                        "bytes", (json_int_t)b.bytes, "offset", (json_int_t)b.offset, "first_kernel",
                                        (json_int_t)b.first_kernel, "last_kernel", (json_int_t)b.last_kernel));
    }
    return array;
}

static void print_json(const char *path, const reef_model *model)
{
    reef_model_info info;
    reef_model_info_get(model, &info);
    json_t *root = json_pack(
        "{s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:o, s:b, s:f, s:i, s:o, s:o, s:s}", "model", text_json(path),
        "inputs", tensors_json(model, false), "outputs", tensors_json(model, true), "nodes", (json_int_t)info.nodes,
        "n_kernels", (json_int_t)info.kernels, "weight_bytes", (json_int_t)info.weight_bytes, "activation_bytes",
        (json_int_t)info.activation_bytes, "activation_sum_bytes", (json_int_t)info.activation_sum_bytes, "flops",
        bench_json_number(info.flops), "profiled", (int)info.profiled, "solo_us", (double)info.solo_ns / 1e3,
        "units_needed", (int)info.units_needed, "kernels", kernels_json(model), "buffers", buffers_json(model),
        "reef_version", reef_version());
    json_object_set_new(root, "kernels_preemptible", json_integer((json_int_t)info.kernels_preemptible));
    json_object_set_new(root, "precision", json_string(reef_precision_name(info.precision)));
    json_object_set_new(root, "device_bytes", json_integer((json_int_t)info.device_bytes));
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(10));
    printf("\n");
    json_decref(root);
}

static int show_model(const cli_show *show, const char *path)
{
    reef_device *device = NULL;
    reef_model *model = NULL;
    reef_error error = {0};
    cli_progress progress;
    cli_progress_begin(&progress, show->command);
    reef_status status =
        reef_device_open(show->device, &(reef_device_options){.units = (unsigned)show->units}, &device, &error);
    if (!status) {
        reef_model_options options = {
            .shapes = show->shapes,
            .n_shapes = show->shape_texts.n,
            .precision = show->precision,
            .progress = cli_progress_show,
            .progress_context = &progress,
        };
        status = reef_model_load(device, path, &options, &model, &error);
    }
    if (!status && show->profile_runs) {
        status = reef_model_profile(model, (unsigned)show->profile_runs, cli_progress_show, &progress, &error);
    }
    cli_progress_end(&progress);
    if (!status) {
        (show->as_json ? print_json : print_text)(path, model);
    }
    reef_model_destroy(model);
    reef_device_close(device);
    return status ? cli_error(show->command, path, &error) : EXIT_OK;
}

int cli_show_command(cli_command *command, cli_show *show, int argc, char **argv)
{
    cli_list words = {0};
    int code = cli_parse(command, argc, argv, &words);
    code = code < 0 ? cli_check_device(show->command, show->device) : code;
    code = code < 0 ? cli_precision(show->command, show->precision_text, &show->precision) : code;
    code = code < 0 ? cli_shapes(show->command, &show->shape_texts, &show->shapes) : code;
    code = code < 0 ? show_model(show, words.items[0]) : code;
    free(show->shapes);
    cli_free(command, &words);
    return code;
}
