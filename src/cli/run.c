/*
 * run.c - reef run: one model, some inputs, its outputs and how long it took.
 *
 * What is cheap to check is checked first: flags, names, input files, the output folder; then the model.
 */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/error.h"
#include "bench/npy.h"
#include "bench/report.h"
#include "bench/tensors.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"

typedef struct input_arg {
    char name[256];
    const char *path;
    npy_array array;
    bool used;
} input_arg;

typedef struct run_args {
    const char *model, *output, *device, *policy, *class_name, *batch, *trace, *precision_text;
    reef_precision precision;
    uint64_t units, seed, repeat;
    bool random, as_json, solo;
    cli_list input_texts, shape_texts;
    input_arg *inputs;  /* one per --input */
    reef_shape *given;  /* of --shape */
    reef_shape *shapes; /* those, then those of input files */
    size_t n_shapes;
} run_args;

static const char name_of_command[] = "run";

/* ----------------------------------------------------------------------------------------------- arguments -- */

static int read_inputs(run_args *args)
{
    args->inputs = calloc(args->input_texts.n + 1, sizeof *args->inputs);
    if (!args->inputs) {
        return cli_fail(name_of_command, "out of memory");
    }
    for (size_t i = 0; i < args->input_texts.n; i++) {
        input_arg *input = &args->inputs[i];
        /* The first '=' ends the name here: file names may well hold one. */
        const char *text = args->input_texts.items[i], *equals = strchr(text, '=');
        if (!equals || equals == text || !equals[1] || (size_t)(equals - text) >= sizeof input->name) {
            return cli_usage(name_of_command, "--input: '%s' is not NAME=FILE.npy", text);
        }
        memcpy(input->name, text, (size_t)(equals - text));
        input->path = equals + 1;
        for (size_t k = 0; k < i; k++) {
            if (!strcmp(args->inputs[k].name, input->name)) {
                return cli_usage(name_of_command, "--input: '%s' is given twice", input->name);
            }
        }
    }
    for (size_t i = 0; i < args->input_texts.n; i++) {
        reef_error error = {0};
        if (npy_load(args->inputs[i].path, &args->inputs[i].array, &error)) {
            return cli_error(name_of_command, args->inputs[i].path, &error);
        }
    }
    return -1;
}

/* An input file says what shape its input has; --shape wins. Names stay in `given` and in the inputs. */
static int collect_shapes(run_args *args)
{
    size_t n = args->shape_texts.n;
    args->shapes = calloc(n + args->input_texts.n + 1, sizeof *args->shapes);
    if (!args->shapes) {
        return cli_fail(name_of_command, "out of memory");
    }
    memcpy(args->shapes, args->given, n * sizeof *args->shapes);
    for (size_t i = 0; i < args->input_texts.n; i++) {
        const input_arg *input = &args->inputs[i];
        bool has = false;
        for (size_t k = 0; k < args->shape_texts.n; k++) {
            has = has || !strcmp(args->given[k].input, input->name);
        }
        if (!has) {
            reef_shape *shape = &args->shapes[n++];
            *shape = (reef_shape){.input = input->name, .rank = input->array.rank};
            memcpy(shape->dims, input->array.dims, sizeof shape->dims);
        }
    }
    args->n_shapes = n;
    return -1;
}

static int make_folder(const char *path)
{
    struct stat info;
    if (mkdir(path, 0777) && (errno != EEXIST || stat(path, &info) || !S_ISDIR(info.st_mode))) {
        return cli_fail(name_of_command, "%s: cannot be made: %s; --output must be a folder", path,
                        errno == EEXIST ? "it is a file" : strerror(errno));
    }
    return -1;
}

/* ------------------------------------------------------------------------------------------------- tensors -- */

static reef_status fill_inputs(run_args *args, const reef_model *model, bench_tensors *inputs, reef_error *error)
{
    for (size_t i = 0; i < inputs->n; i++) {
        reef_tensor_info info;
        input_arg *given = NULL;
        reef_model_input(model, i, &info);
        for (size_t k = 0; k < args->input_texts.n && !given; k++) {
            given = strcmp(args->inputs[k].name, info.name) ? NULL : &args->inputs[k];
        }
        if (given) {
            given->used = true;
            reef_status status = npy_check(&given->array, &info, given->path, error);
            if (status) {
                return status;
            }
            memcpy(inputs->data[i], given->array.data, info.bytes);
        } else if (args->random) {
            bench_fill(&info, args->seed * 1000003u + i, inputs->data[i]);
        } else {
            char shape[160];
            return reef_fail(error, REEF_NOT_FOUND,
                             "input '%s' (%s %s) is not given; add --input %s=FILE.npy, or --random SEED", info.name,
                             reef_dtype_name(info.dtype), npy_shape_text(info.rank, info.dims, shape, sizeof shape),
                             info.name);
        }
    }
    for (size_t k = 0; k < args->input_texts.n; k++) {
        if (!args->inputs[k].used) {
            reef_tensor_info first = {.name = ""};
            reef_model_input(model, 0, &first);
            return reef_fail(error, REEF_NOT_FOUND, "the model has no input '%s'; its first one is '%s'",
                             args->inputs[k].name, first.name);
        }
    }
    return REEF_OK;
}

static void file_name(const char *name, char *out, size_t size)
{
    size_t i = 0;
    for (; name[i] && i + 5 < size; i++) {
        char c = name[i];
        bool plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
                     c == '_' || c == '-';
        out[i] = plain ? c : '_';
    }
    memcpy(out + i, ".npy", 5);
}

/* DIR/<name>.npy; two names that become the same file get a number. */
static char *output_path(const reef_model *model, size_t index, const char *folder)
{
    reef_tensor_info info, other;
    char name[256], other_name[256], *path = NULL;
    size_t same = 0;
    reef_model_output(model, index, &info);
    file_name(info.name, name, sizeof name);
    for (size_t i = 0; i < index; i++) {
        reef_model_output(model, i, &other);
        file_name(other.name, other_name, sizeof other_name);
        same += !strcmp(name, other_name);
    }
    if (same) {
        name[strlen(name) - 4] = 0;
    }
    int made = same ? asprintf(&path, "%s/%s_%zu.npy", folder, name, index) : asprintf(&path, "%s/%s", folder, name);
    return made < 0 ? NULL : path;
}

static reef_status save_outputs(const reef_model *model, const bench_tensors *outputs, const char *folder,
                                reef_error *error)
{
    for (size_t i = 0; i < outputs->n; i++) {
        reef_tensor_info info;
        reef_model_output(model, i, &info);
        char *path = output_path(model, i, folder);
        reef_status status = path
                                 ? npy_save(path, info.dtype, info.rank, info.dims, outputs->data[i], info.bytes, error)
                                 : reef_fail(error, REEF_NO_MEMORY, "out of memory");
        free(path);
        if (status) {
            return status;
        }
    }
    return REEF_OK;
}

typedef struct summary {
    double min, max, mean;
    size_t n, not_finite;
} summary;

static double element(reef_dtype dtype, const void *data, size_t i)
{
    switch (dtype) {
    case REEF_F32: return (double)((const float *)data)[i];
    case REEF_F64: return ((const double *)data)[i];
    case REEF_I64: return (double)((const int64_t *)data)[i];
    case REEF_I32: return (double)((const int32_t *)data)[i];
    case REEF_I8: return (double)((const int8_t *)data)[i];
    case REEF_U8:
    case REEF_BOOL: return (double)((const uint8_t *)data)[i];
    case REEF_F16: {
        uint16_t bits = ((const uint16_t *)data)[i];
        int exponent = bits >> 10 & 31, fraction = bits & 1023;
        double value = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                      : ldexp(fraction, -24);
        return bits & 0x8000 ? -value : value;
    }
    }
    return NAN;
}

static summary summarise(const reef_tensor_info *info, const void *data)
{
    summary s = {INFINITY, -INFINITY, 0, 0, 0};
    size_t n = info->bytes / npy_dtype_bytes(info->dtype);
    for (size_t i = 0; i < n; i++) {
        double value = element(info->dtype, data, i);
        if (!isfinite(value)) {
            s.not_finite++;
            continue;
        }
        s.min = fmin(s.min, value);
        s.max = fmax(s.max, value);
        s.mean += value;
        s.n++;
    }
    s.mean = s.n ? s.mean / (double)s.n : NAN;
    return s;
}

/* ----------------------------------------------------------------------------------------------- one model -- */

static reef_status load_model(const char *path, const run_args *args, reef_device *device, cli_progress *progress,
                              reef_model **out, reef_error *error)
{
    reef_model_options options = {
        .shapes = args->shapes,
        .n_shapes = args->n_shapes,
        .precision = args->precision,
        .progress = cli_progress_show,
        .progress_context = progress,
    };
    reef_status status = reef_model_load(device, path, &options, out, error);
    if (status && !strstr(error->message, path)) {
        reef_error_prefix(error, "%s: ", path);
    }
    return status;
}

static reef_status run_repeatedly(const run_args *args, reef_model *model, const bench_tensors *inputs,
                                  bench_tensors *outputs, bench_stats *latency, cli_progress *progress,
                                  reef_error *error)
{
    size_t runs = args->repeat ? args->repeat : 1, warm_up = runs > 1;
    uint64_t *samples = malloc(runs * sizeof *samples);
    if (!samples) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    reef_session *session = NULL;
    reef_session_options options = {.service_class = !strcmp(args->class_name, "rt") ? REEF_RT : REEF_BE};
    reef_status status = reef_session_create(model, &options, &session, error);
    for (size_t i = 0; !status && i < runs + warm_up; i++) {
        reef_request_info info;
        cli_progress_show(progress, "run", i, runs + warm_up);
        status = reef_session_run(session, (const void *const *)inputs->data, outputs->data, &info);
        if (status) {
            reef_fail(error, status, "the request ended with: %s", reef_status_text(status));
        } else if (i >= warm_up) {
            samples[i - warm_up] = info.end_ns - info.submit_ns;
        }
    }
    reef_session_destroy(session);
    if (!status) {
        *latency = bench_stats_of(samples, runs);
    }
    free(samples);
    return status;
}

/* The model alone, again into the same outputs. */
static reef_status run_solo(const run_args *args, reef_model *model, const bench_tensors *inputs,
                            bench_tensors *outputs, bench_stats *latency, reef_error *error)
{
    size_t runs = args->repeat ? args->repeat : 1;
    uint64_t *samples = malloc(runs * sizeof *samples);
    if (!samples) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    for (size_t i = 0; i < outputs->n; i++) {
        reef_tensor_info info;
        reef_model_output(model, i, &info);
        memset(outputs->data[i], 0xff, info.bytes);
    }
    reef_status status =
        reef_model_solo(model, (const void *const *)inputs->data, outputs->data, (unsigned)runs, samples, error);
    if (!status) {
        *latency = bench_stats_of(samples, runs);
    }
    free(samples);
    return status;
}

static void print_text(const run_args *args, const reef_model *model, const bench_tensors *outputs,
                       const bench_stats *latency, const bench_stats *solo)
{
    for (size_t i = 0; i < outputs->n; i++) {
        reef_tensor_info info;
        char shape[160], name[128], faulty[48] = "";
        reef_model_output(model, i, &info);
        summary s = summarise(&info, outputs->data[i]);
        if (s.not_finite) {
            snprintf(faulty, sizeof faulty, "  %zu NaN or infinite", s.not_finite);
        }
        printf("%s: %s %s", cli_printable(info.name, name, sizeof name), reef_dtype_name(info.dtype),
               npy_shape_text(info.rank, info.dims, shape, sizeof shape));
        if (s.n) {
            printf("  min %.6g max %.6g mean %.6g%s\n", s.min, s.max, s.mean, faulty);
        } else {
            printf("  %s\n", info.bytes ? "no finite number" : "empty");
        }
        if (args->output) {
            char *path = output_path(model, i, args->output);
            printf("  -> %s\n", path ? path : "");
            free(path);
        }
    }
    printf("latency: p50 %.1f us, p99 %.1f us, min %.1f us over %zu run%s\n", latency->p50_us, latency->p99_us,
           latency->min_us, latency->n, latency->n == 1 ? "" : "s, after one that is not counted");
    if (args->solo) {
        printf("alone, inputs and outputs on the device: p50 %.1f us, p99 %.1f us, min %.1f us\n", solo->p50_us,
               solo->p99_us, solo->min_us);
    }
}

static json_t *json_text(const char *text)
{
    json_t *string = json_string(text);
    return string ? string : json_string("(not UTF-8)");
}

static void print_json(const run_args *args, const reef_device *device, const reef_model *model,
                       const bench_tensors *outputs, const bench_stats *latency, const bench_stats *solo, double load_s)
{
    reef_model_info info_of;
    reef_model_info_get(model, &info_of);
    reef_device_stats stats;
    reef_device_stats_get(device, &stats);
    json_t *list = json_array();
    for (size_t i = 0; i < outputs->n; i++) {
        reef_tensor_info info;
        reef_model_output(model, i, &info);
        summary s = summarise(&info, outputs->data[i]);
        json_t *shape = json_array();
        for (int d = 0; d < info.rank; d++) {
            json_array_append_new(shape, json_integer(info.dims[d]));
        }
        char *path = args->output ? output_path(model, i, args->output) : NULL;
        json_t *object =
            json_pack("{s:o, s:s, s:o, s:o}", "name", json_text(info.name), "dtype", reef_dtype_name(info.dtype),
                      "shape", shape, "file", path ? json_text(path) : json_null());
        json_object_set_new(object, "min", s.n ? json_real(s.min) : json_null());
        json_object_set_new(object, "max", s.n ? json_real(s.max) : json_null());
        json_object_set_new(object, "mean", s.n ? json_real(s.mean) : json_null());
        json_object_set_new(object, "not_finite", json_integer((json_int_t)s.not_finite));
        json_array_append_new(list, object);
        free(path);
    }
    json_t *root =
        json_pack("{s:o, s:s, s:i, s:s, s:s, s:o, s:o, s:s}", "model", json_text(args->model), "device", args->device,
                  "units", (int)stats.units, "policy", stats.policy, "class", args->class_name, "outputs", list,
                  "latency_us", bench_json_latency(latency), "reef_version", reef_version());
    json_object_set_new(root, "precision", json_string(reef_precision_name(info_of.precision)));
    json_object_set_new(root, "kernels", json_integer((json_int_t)info_of.kernels));
    json_object_set_new(root, "device_bytes", json_integer((json_int_t)info_of.device_bytes));
    json_object_set_new(root, "load_s", json_real(load_s));
    json_object_set_new(root, "solo_us", args->solo ? bench_json_latency(solo) : json_null());
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(10));
    printf("\n");
    json_decref(root);
}

static int run_one(run_args *args)
{
    reef_error error = {0};
    cli_progress progress;
    reef_device *device = NULL;
    reef_model *model = NULL;
    bench_tensors inputs = {0}, outputs = {0};
    bench_stats latency = {0}, solo = {0};
    double load_s = 0;
    bool trace_failed = false;
    cli_progress_begin(&progress, name_of_command);
    reef_device_options options = {.units = (unsigned)args->units, .policy = args->policy};
    reef_status status = reef_device_open(args->device, &options, &device, &error);
    uint64_t begun = reef_now_ns();
    if (!status && !(status = load_model(args->model, args, device, &progress, &model, &error))) {
        load_s = (double)(reef_now_ns() - begun) / 1e9;
        if ((status = bench_tensors_create(model, false, &inputs)) ||
            (status = bench_tensors_create(model, true, &outputs))) {
            reef_fail(&error, status, "out of memory for its inputs and outputs");
        }
    }
    if (!status && !(status = fill_inputs(args, model, &inputs, &error)) && args->trace) {
        status = reef_device_trace_start(device, 0, &error);
    }
    if (!status) {
        status = run_repeatedly(args, model, &inputs, &outputs, &latency, &progress, &error);
    }
    if (!status && args->trace) {
        status = reef_device_trace_stop(device, args->trace, &error);
        trace_failed = status != REEF_OK;
    }
    if (!status && args->solo) {
        status = run_solo(args, model, &inputs, &outputs, &solo, &error);
    }
    int code = -1;
    if (!status && args->output && (code = make_folder(args->output)) < 0) {
        status = save_outputs(model, &outputs, args->output, &error);
    }
    cli_progress_end(&progress);
    if (status) {
        /* An input file or the trace is a place of its own; everything else happened to the model. */
        bool elsewhere = trace_failed || strstr(error.message, ".npy: ") != NULL;
        code = cli_error(name_of_command, elsewhere ? NULL : args->model, &error);
    } else if (code < 0) {
        args->as_json ? print_json(args, device, model, &outputs, &latency, &solo, load_s)
                      : print_text(args, model, &outputs, &latency, &solo);
        code = EXIT_OK;
    }
    bench_tensors_free(&inputs);
    bench_tensors_free(&outputs);
    reef_model_destroy(model);
    reef_device_close(device);
    return code;
}

/* --------------------------------------------------------------------------------------------------- batch -- */

static reef_status batch_inputs(const reef_model *model, const char *folder, bench_tensors *inputs, reef_error *error)
{
    for (size_t i = 0; i < inputs->n; i++) {
        reef_tensor_info info;
        npy_array array;
        char *path = NULL;
        reef_model_input(model, i, &info);
        if (asprintf(&path, "%s/in_%zu.npy", folder, i) < 0) {
            return reef_fail(error, REEF_NO_MEMORY, "out of memory");
        }
        reef_status status = npy_load(path, &array, error);
        if (!status) {
            status = npy_check(&array, &info, path, error);
            if (!status) {
                memcpy(inputs->data[i], array.data, info.bytes);
            }
            npy_free(&array);
        }
        free(path);
        if (status) {
            return status;
        }
    }
    return REEF_OK;
}

static reef_status batch_line(run_args *args, reef_device *device, const char *path, const char *in, const char *out,
                              cli_progress *progress, reef_error *error)
{
    reef_model *model = NULL;
    bench_tensors inputs = {0}, outputs = {0};
    bench_stats latency;
    reef_status status = load_model(path, args, device, progress, &model, error);
    if (!status && ((status = bench_tensors_create(model, false, &inputs)) ||
                    (status = bench_tensors_create(model, true, &outputs)))) {
        reef_fail(error, status, "out of memory for its inputs and outputs");
    }
    if (!status && !(status = batch_inputs(model, in, &inputs, error))) {
        status = run_repeatedly(args, model, &inputs, &outputs, &latency, progress, error);
    }
    if (!status) {
        if (mkdir(out, 0777) && errno != EEXIST) {
            status = reef_fail(error, REEF_IO, "%s: cannot be made: %s", out, strerror(errno));
        } else {
            status = save_outputs(model, &outputs, out, error);
        }
    }
    bench_tensors_free(&inputs);
    bench_tensors_free(&outputs);
    reef_model_destroy(model);
    return status;
}

static void batch_report(const run_args *args, const char *model, reef_status status, const reef_error *error)
{
    if (args->as_json) {
        json_t *root = json_pack("{s:o, s:s, s:o}", "model", json_text(model), "status", reef_status_name(status),
                                 "message", status ? json_text(error->message) : json_null());
        json_dumpf(root, stdout, JSON_COMPACT);
        printf("\n");
        json_decref(root);
    } else if (status) {
        /* Most errors begin with the model's name, which the line has already. */
        const char *message = error->message;
        size_t length = strlen(model);
        if (!strncmp(message, model, length) && !strncmp(message + length, ": ", 2)) {
            message += length + 2;
        }
        printf("FAIL %s: %s: %s\n", model, reef_status_name(status), message);
    } else {
        printf("ok %s\n", model);
    }
    fflush(stdout);
}

static int run_batch(run_args *args)
{
    FILE *list = fopen(args->batch, "r");
    if (!list) {
        return cli_fail(name_of_command, "%s: %s", args->batch, strerror(errno));
    }
    reef_error error = {0};
    reef_device *device;
    reef_device_options options = {.units = (unsigned)args->units, .policy = args->policy};
    if (reef_device_open(args->device, &options, &device, &error)) {
        fclose(list);
        return cli_error(name_of_command, NULL, &error);
    }
    cli_progress progress;
    cli_progress_begin(&progress, name_of_command);
    char *line = NULL;
    size_t capacity = 0, number = 0, failed = 0, done = 0;
    while (getline(&line, &capacity, list) >= 0) {
        static const char space[] = " \t\r\n";
        char *rest, *model = strtok_r(line, space, &rest), *in = strtok_r(NULL, space, &rest),
                    *out = strtok_r(NULL, space, &rest);
        number++;
        if (!model || *model == '#') {
            continue;
        }
        error = (reef_error){0};
        reef_status status =
            in && out && !strtok_r(NULL, space, &rest)
                ? batch_line(args, device, model, in, out, &progress, &error)
                : reef_fail(&error, REEF_FORMAT, "%s: line %zu: must be MODEL.onnx INDIR OUTDIR", args->batch, number);
        batch_report(args, model, status, &error);
        failed += status != REEF_OK;
        done++;
    }
    cli_progress_end(&progress);
    free(line);
    fclose(list);
    reef_device_close(device);
    return failed ? cli_fail(name_of_command, "%s: %zu of %zu models failed", args->batch, failed, done) : EXIT_OK;
}

/* ------------------------------------------------------------------------------------------------- command -- */

static int check_args(run_args *args, const cli_list *words, bool seed_given)
{
    args->random = seed_given;
    if (strcmp(args->class_name, "rt") != 0 && strcmp(args->class_name, "be") != 0) {
        return cli_usage(name_of_command, "--class: '%s' is neither rt nor be", args->class_name);
    }
    int code = cli_check_device(name_of_command, args->device);
    if (code < 0 && args->policy) {
        code = cli_check_policy(name_of_command, args->policy);
    }
    if (code >= 0) {
        return code;
    }
    if (!strcmp(args->class_name, "be") && args->policy && !strcmp(args->policy, "rt-only")) {
        return cli_usage(name_of_command, "--policy rt-only serves no best-effort requests; leave --class be out");
    }
    if (args->batch) {
        return words->n || args->input_texts.n || args->output || args->trace
                   ? cli_usage(name_of_command,
                               "--batch takes models, inputs and outputs from its file only, and records no --trace")
                   : -1;
    }
    code = cli_check_writable(name_of_command, "trace", args->trace);
    if (code >= 0) {
        return code;
    }
    return words->n ? -1 : cli_usage(name_of_command, "MODEL.onnx is missing; see reef run --help");
}

static void free_args(run_args *args)
{
    for (size_t i = 0; args->inputs && i < args->input_texts.n; i++) {
        npy_free(&args->inputs[i].array);
    }
    free(args->given);
    free(args->shapes);
    free(args->inputs);
}

int cli_run(int argc, char **argv)
{
    run_args args = {.device = "cpu", .class_name = "rt", .repeat = 1, .seed = UINT64_MAX};
    cli_option options[] = {
        {"input", "NAME=FILE.npy", "contents of an input; may be repeated", CLI_LIST, &args.input_texts, 0, 0},
        {"random", "SEED", "fill the other inputs: floats in [0, 1), integers 0 to 99, masks 1", CLI_COUNT, &args.seed,
         0, 4294967295.0},
        {"shape", "NAME=DIMS", "dimensions of an input that has dynamic ones, such as x=1x3x224x224 (files say theirs)",
         CLI_LIST, &args.shape_texts, 0, 0},
        {"output", "DIR", "write each output to DIR/NAME.npy", CLI_TEXT, &args.output, 0, 0},
        {"repeat", "N", "runs to measure (default 1; above that one more goes first, uncounted)", CLI_COUNT,
         &args.repeat, 1, 10000000},
        {"device", "NAME", "device (default cpu; see reef devices)", CLI_TEXT, &args.device, 0, 0},
        {"precision", "P", CLI_PRECISION_HELP, CLI_TEXT, &args.precision_text, 0, 0},
        {"units", "N", "compute units (default: one per processor)", CLI_COUNT, &args.units, 1, 4096},
        {"policy", "P", "scheduling policy (see reef devices)", CLI_TEXT, &args.policy, 0, 0},
        {"class", "rt|be", "run as real-time (default) or best-effort request", CLI_TEXT, &args.class_name, 0, 0},
        {"batch", "LIST",
         "file with a line MODEL.onnx INDIR OUTDIR per model; inputs are INDIR/in_0.npy, in_1.npy, ...", CLI_TEXT,
         &args.batch, 0, 0},
        {"solo", NULL,
         "also time the model without the way in and out: inputs and outputs stay on the device; outputs shown and\n"
         "written are those of these runs",
         CLI_FLAG, &args.solo, 0, 0},
        {"trace", "FILE.json", CLI_TRACE_HELP, CLI_TEXT, &args.trace, 0, 0},
        {"json", NULL, "print JSON", CLI_FLAG, &args.as_json, 0, 0},
    };
    cli_command command = {
        .name = name_of_command,
        .synopsis = "MODEL.onnx [options]",
        .about = "Runs a model and prints a summary of its outputs and its latency.",
        .examples = "  reef run vgg19.onnx --shape input=1x3x224x224 --random 1 --repeat 20\n"
                    "  reef run vgg19.onnx --input input=photo.npy --output answers\n"
                    "  reef run --batch models.txt\n",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .max_words = 1,
        .word = "MODEL.onnx",
    };
    cli_list words = {0};
    int code = cli_parse(&command, argc, argv, &words);
    code = code < 0 ? check_args(&args, &words, args.seed != UINT64_MAX) : code;
    args.model = words.n ? words.items[0] : NULL;
    code = code < 0 ? cli_precision(name_of_command, args.precision_text, &args.precision) : code;
    code = code < 0 ? cli_shapes(name_of_command, &args.shape_texts, &args.given) : code;
    code = code < 0 ? read_inputs(&args) : code;
    code = code < 0 ? collect_shapes(&args) : code;
    if (code < 0) {
        code = args.batch ? run_batch(&args) : run_one(&args);
    }
    free_args(&args);
    cli_free(&command, &words);
    return code;
}
