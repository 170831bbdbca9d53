/*
 * bench.c - reef bench WORKLOAD and reef bench preempt.
 */
#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/chart.h"
#include "bench/runner.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"

typedef struct bench_args {
    const char *device, *models, *form, *json, *chart, *precision_text;
    reef_precision precision;
    uint64_t units, seed, count, profile_runs;
    double seconds, warmup;
    cli_list policies, be, shapes, synthetic;
} bench_args;

static const char name_of_command[] = "bench";

static int check_writable(const char *option, const char *path)
{
    /* Found out now rather than after minutes of measuring. */
    FILE *file = path ? fopen(path, "a") : NULL;
    if (path && !file) {
        return cli_fail(name_of_command, "--%s: %s cannot be written", option, path);
    }
    if (file) {
        fclose(file);
    }
    return -1;
}

static reef_status write_json(json_t *root, const char *path, reef_error *error)
{
    if (json_dump_file(root, path, JSON_INDENT(2) | JSON_REAL_PRECISION(12))) {
        error->status = REEF_IO;
        snprintf(error->message, sizeof error->message, "%s: cannot be written", path);
        return REEF_IO;
    }
    return REEF_OK;
}

/* -------------------------------------------------------------------------------------------- a workload -- */

static int bench_workload_command(const bench_args *args, const char *spec)
{
    bench_form form = BENCH_FORM_DEFAULT;
    if (args->form) {
        bool matched = !strcmp(args->form, "matched");
        if (!matched && strcmp(args->form, "published") != 0) {
            return cli_usage(name_of_command, "--form: '%s' is neither published nor matched", args->form);
        }
        form = matched ? BENCH_FORM_MATCHED : BENCH_FORM_PUBLISHED;
    }
    if (args->be.n || args->shapes.n || args->synthetic.n) {
        return cli_usage(name_of_command, "--be, --shape and --synthetic belong to reef bench preempt");
    }
    reef_error error = {0};
    bench_workload workload = {0};
    reef_status status = bench_workload_load(spec, &workload, &error);
    if (status) {
        bench_workload_free(&workload);
        return cli_error(name_of_command, spec, &error);
    }
    int code = check_writable("json", args->json);
    code = code < 0 ? check_writable("chart", args->chart) : code;
    if (code >= 0) {
        bench_workload_free(&workload);
        return code;
    }
    cli_progress progress;
    cli_progress_begin(&progress, name_of_command);
    bench_options options = {
        .device = args->device,
        .units = (unsigned)args->units,
        .precision = args->precision,
        .models = args->models,
        .policies = args->policies.items,
        .n_policies = args->policies.n,
        .form = form,
        .seconds = args->seconds,
        .warmup = args->warmup,
        .seed = args->seed,
        .profile_runs = (unsigned)args->profile_runs,
        .progress = cli_progress_show,
        .progress_context = &progress,
    };
    bench_report report = {0};
    status = bench_run(&workload, &options, &report, &error);
    cli_progress_end(&progress);
    if (!status) {
        bench_report_print(&report, stdout);
        if (args->json) {
            json_t *root = bench_report_json(&report);
            status = write_json(root, args->json, &error);
            json_decref(root);
        }
        if (!status && args->chart) {
            status = bench_chart_write(&report, args->chart, &error);
        }
    }
    uint64_t mismatches = status ? 0 : bench_report_mismatches(&report);
    code = status       ? cli_error(name_of_command, NULL, &error)
           : mismatches ? cli_fail(name_of_command, "%llu answers differ from the undisturbed ones",
                                   (unsigned long long)mismatches)
                        : EXIT_OK;
    bench_report_free(&report);
    bench_workload_free(&workload);
    return code;
}

/* ------------------------------------------------------------------------------------------------- preempt -- */

typedef struct load_list {
    preempt_load *items;
    char **paths; /* owned */
    size_t n, n_paths;
} load_list;

static bool add_load(load_list *list, preempt_load load)
{
    preempt_load *bigger = realloc(list->items, (list->n + 1) * sizeof *bigger);
    if (bigger) {
        list->items = bigger;
        list->items[list->n++] = load;
    }
    return bigger != NULL;
}

static bool add_path(load_list *list, char *path)
{
    char **bigger = path ? realloc(list->paths, (list->n_paths + 1) * sizeof *bigger) : NULL;
    if (!bigger) {
        free(path);
        return false;
    }
    list->paths = bigger;
    list->paths[list->n_paths++] = path;
    return add_load(list, (preempt_load){.path = path});
}

static int is_onnx(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return length > 5 && !strcmp(entry->d_name + length - 5, ".onnx");
}

static int add_folder(load_list *list, const char *folder)
{
    struct dirent **entries;
    int n = scandir(folder, &entries, is_onnx, alphasort);
    if (n <= 0) {
        if (n == 0) {
            free(entries);
        }
        return cli_fail(name_of_command, "--models: %s: no folder with .onnx files", folder);
    }
    bool ok = true;
    for (int i = 0; i < n; i++) {
        char *path = NULL;
        ok = ok && asprintf(&path, "%s/%s", folder, entries[i]->d_name) >= 0 && add_path(list, path);
        free(entries[i]);
    }
    free(entries);
    return ok ? -1 : cli_fail(name_of_command, "out of memory");
}

/* One to seven digits and an 'x'. */
static bool take_count(const char **at, unsigned *out)
{
    size_t digits = strspn(*at, "0123456789");
    if (digits == 0 || digits > 7 || (*at)[digits] != 'x') {
        return false;
    }
    *out = (unsigned)strtoul(*at, NULL, 10);
    *at += digits + 1;
    return true;
}

static int add_synthetic(load_list *list, const char *text)
{
    unsigned kernels = 0, tiles = 0;
    const char *at = text;
    char *end = NULL;
    bool counts = take_count(&at, &kernels) && take_count(&at, &tiles);
    double us = counts ? strtod(at, &end) : 0;
    if (!counts || end == at || *end || !kernels || !tiles || !(us >= 0.1 && us <= 1e7)) {
        return cli_usage(name_of_command,
                         "--synthetic: '%s' is not KERNELSxTILESxUS, such as 100x2x1000 (microseconds per tile)", text);
    }
    return add_load(list, (preempt_load){.kernels = kernels, .tiles = tiles, .tile_us = us})
               ? -1
               : cli_fail(name_of_command, "out of memory");
}

static int collect_loads(const bench_args *args, load_list *list)
{
    int code = -1;
    for (size_t i = 0; code < 0 && i < args->synthetic.n; i++) {
        code = add_synthetic(list, args->synthetic.items[i]);
    }
    for (size_t i = 0; code < 0 && i < args->be.n; i++) {
        code = add_path(list, strdup(args->be.items[i])) ? -1 : cli_fail(name_of_command, "out of memory");
    }
    if (code < 0 && args->models) {
        code = add_folder(list, args->models);
    }
    if (code < 0 && list->n == 0) {
        static const unsigned kernels[] = {10, 100, 1000};
        static const double us[] = {100, 1000, 10000};
        for (size_t i = 0; i < 9; i++) {
            /* Two tiles for every unit there can sensibly be would hide a kernel's length; two keep two units busy. */
            unsigned tiles = args->units ? (unsigned)args->units : 2;
            if (!add_load(list, (preempt_load){.kernels = kernels[i / 3], .tiles = tiles, .tile_us = us[i % 3]})) {
                return cli_fail(name_of_command, "out of memory");
            }
        }
    }
    return code;
}

static int preempt_command(const bench_args *args)
{
    if (args->form) {
        return cli_usage(name_of_command, "--form does not apply to preempt");
    }
    reef_shape *shapes = NULL;
    int code = cli_shapes(name_of_command, &args->shapes, &shapes);
    if (code >= 0) {
        return code;
    }
    load_list loads = {0};
    code = collect_loads(args, &loads);
    code = code < 0 ? check_writable("json", args->json) : code;
    code = code < 0 ? check_writable("chart", args->chart) : code;
    if (code < 0) {
        reef_error error = {0};
        cli_progress progress;
        cli_progress_begin(&progress, "bench preempt");
        preempt_options options = {
            .device = args->device,
            .precision = args->precision,
            .units = (unsigned)args->units,
            .policies = args->policies.items,
            .n_policies = args->policies.n,
            .loads = loads.items,
            .n_loads = loads.n,
            .shapes = shapes,
            .n_shapes = args->shapes.n,
            .count = (unsigned)args->count,
            .seconds_per_cell = args->seconds,
            .seed = args->seed,
            .progress = cli_progress_show,
            .progress_context = &progress,
        };
        preempt_report report = {0};
        reef_status status = preempt_run(&options, &report, &error);
        cli_progress_end(&progress);
        if (!status) {
            preempt_report_print(&report, stdout);
            if (args->json) {
                json_t *root = preempt_report_json(&report);
                status = write_json(root, args->json, &error);
                json_decref(root);
            }
            if (!status && args->chart) {
                status = preempt_chart_write(&report, args->chart, &error);
            }
        }
        preempt_report_free(&report);
        code = status ? cli_error(name_of_command, NULL, &error) : EXIT_OK;
    }
    for (size_t i = 0; i < loads.n_paths; i++) {
        free(loads.paths[i]);
    }
    free(loads.paths);
    free(loads.items);
    free(shapes);
    return code;
}

static int check_names(const bench_args *args)
{
    int code = cli_check_device(name_of_command, args->device);
    for (size_t i = 0; code < 0 && i < args->policies.n; i++) {
        code = cli_check_policy(name_of_command, args->policies.items[i]);
    }
    return code;
}

/* Without --policy: all of them in a workload, the two that the paper compares in preempt. */
static int default_policies(bench_args *args, bool preempt)
{
    const char *name, *meaning;
    bool ok = true;
    if (args->policies.n) {
        return -1;
    }
    for (size_t i = 0; !preempt && ok && reef_policy_list(i, &name, &meaning); i++) {
        ok = cli_add_names(&args->policies, name);
    }
    ok = ok && (!preempt || cli_add_names(&args->policies, "wait,reset"));
    return ok ? -1 : cli_fail(name_of_command, "out of memory");
}

int cli_bench(int argc, char **argv)
{
    bench_args args = {.device = "cpu", .seed = 1, .count = 200, .profile_runs = 5, .seconds = 10, .warmup = 1};
    cli_option options[] = {
        {"policy", "P[,P...]",
         "policies to measure, in this order (default: all of them, see reef devices; preempt: wait,reset)", CLI_NAMES,
         &args.policies, 0, 0},
        {"device", "NAME", "device (default cpu)", CLI_TEXT, &args.device, 0, 0},
        {"precision", "P", CLI_PRECISION_HELP, CLI_TEXT, &args.precision_text, 0, 0},
        {"units", "N", "compute units (default: one per processor)", CLI_COUNT, &args.units, 1, 4096},
        {"models", "DIR", "folder of NAME.onnx files (preempt: all of them as best-effort load)", CLI_TEXT,
         &args.models, 0, 0},
        {"form", "FORM",
         "published: rates as written; matched: scaled so that RT work keeps the device as busy as in "
         "the paper (default on cpu)",
         CLI_TEXT, &args.form, 0, 0},
        {"seconds", "S", "measured time per policy (default 10); preempt: at most this long per row", CLI_SECONDS,
         &args.seconds, 0.05, 86400},
        {"warmup", "S", "time before it that does not count (default 1)", CLI_SECONDS, &args.warmup, 0, 3600},
        {"seed", "N", "of arrivals and inputs (default 1)", CLI_COUNT, &args.seed, 0, 4294967295.0},
        {"profile-runs", "N", "measurements per kernel of a model that has no profile yet (default 5)", CLI_COUNT,
         &args.profile_runs, 1, 1000},
        {"count", "N", "preempt: requests per row (default 200)", CLI_COUNT, &args.count, 1, 1000000},
        {"be", "MODEL.onnx", "preempt: a best-effort model; may be repeated", CLI_LIST, &args.be, 0, 0},
        {"shape", "NAME=DIMS", "preempt: dimensions of an input of the --be model (the DISB networks need none)",
         CLI_LIST, &args.shapes, 0, 0},
        {"synthetic", "KxTxUS", "preempt: K kernels of T tiles of US microseconds; may be repeated, or a comma list",
         CLI_NAMES, &args.synthetic, 0, 0},
        {"json", "FILE", "write the results as JSON", CLI_TEXT, &args.json, 0, 0},
        {"chart", "FILE.svg", "draw the results", CLI_TEXT, &args.chart, 0, 0},
    };
    cli_command command = {
        .name = name_of_command,
        .synopsis = "WORKLOAD [--policy P[,P...]] [options]",
        .about = "Plays a workload of real-time (RT) and best-effort (BE) clients under each policy and compares "
                 "latency and\n"
                 "throughput. WORKLOAD is A, B, C, D, E or REAL (DISB, the benchmark of the REEF paper), a JSON file "
                 "of your own\n"
                 "(workloads/README.md), or preempt: how long it takes from an RT request to its first tile. Latency "
                 "counts\n"
                 "from when a request was due. Every answer is compared bit for bit with the undisturbed one; exit "
                 "status 1\n"
                 "if one differs. The SLO of a client without slo_us is twice its time alone on the device.",
        .examples =
            "  reef bench A --models models --policy rt-only,seq,wait,reset --json a.json --chart a.svg\n"
            "  reef bench my.json --policy reset --seconds 30\n"
            "  reef bench preempt --policy wait,reset --synthetic 100x2x1000\n"
            "  reef bench preempt --policy reset --be resnet152.onnx --count 1000\n"
            "  reef bench --url http://localhost:8000 --model NAME    (a server; see reef bench --url --help)\n",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .min_words = 1,
        .max_words = 1,
        .word = "WORKLOAD",
    };
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "--url", 5) || !strncmp(argv[i], "--ring", 6)) {
            return cli_bench_remote(argc, argv);
        }
    }
    cli_list words = {0};
    int code = cli_parse(&command, argc, argv, &words);
    code = code < 0 ? default_policies(&args, strcmp(words.items[0], "preempt") == 0) : code;
    code = code < 0 ? check_names(&args) : code;
    code = code < 0 ? cli_precision(name_of_command, args.precision_text, &args.precision) : code;
    if (code < 0) {
        code =
            strcmp(words.items[0], "preempt") ? bench_workload_command(&args, words.items[0]) : preempt_command(&args);
    }
    cli_free(&command, &words);
    return code;
}
