/*
 * bench.c - reef bench WORKLOAD, reef bench preempt and reef bench padding.
 */
#include <dirent.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "bench/chart.h"
#include "bench/runner.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"

typedef struct bench_args {
    const char *device, *models, *form, *json, *chart, *trace, *precision_text;
    reef_precision precision;
    uint64_t units, seed, count, profile_runs, rounds, think_us;
    double seconds, warmup;
    bool all_policies; /* none was named */
    cli_list policies, be, shapes, synthetic, pairs;
} bench_args;

enum { NOT_GIVEN = -1 }; /* of a duration */

static const char name_of_command[] = "bench";

/* --json, if it was given. `root` is given away. */
static reef_status write_json(const bench_args *args, json_t *root, reef_error *error)
{
    bool failed = args->json && (!root || json_dump_file(root, args->json, JSON_INDENT(2) | JSON_REAL_PRECISION(12)));
    json_decref(root);
    return failed ? reef_fail(error, REEF_IO, "%s: cannot be written", args->json) : REEF_OK;
}

/* Files to be written are looked at before anything long is started. */
static int check_files(const bench_args *args)
{
    int code = cli_check_writable(name_of_command, "json", args->json);
    code = code < 0 ? cli_check_writable(name_of_command, "chart", args->chart) : code;
    return code < 0 ? cli_check_writable(name_of_command, "trace", args->trace) : code;
}

/* The exit code of a run: an answer that differs is a failure. */
static int how_it_ended(const bench_report *report, reef_status status, const reef_error *error)
{
    uint64_t mismatches = status ? 0 : bench_report_mismatches(report);
    char first[500] = "";
    bench_report_first_mismatch(report, first, sizeof first);
    return status       ? cli_error(name_of_command, NULL, error)
           : mismatches ? cli_fail(name_of_command, "%llu answers differ from the undisturbed ones; the first: %s",
                                   (unsigned long long)mismatches, first)
                        : EXIT_OK;
}

/* -------------------------------------------------------------------------------------------- a workload -- */

enum { MAX_WORKLOADS = 32 };

static int parse_form(const char *text, bench_form *out)
{
    static const char *const names[] = {
        [BENCH_FORM_PUBLISHED] = "published", [BENCH_FORM_MATCHED] = "matched", [BENCH_FORM_BOTH] = "both"};
    *out = BENCH_FORM_DEFAULT;
    for (int i = BENCH_FORM_PUBLISHED; text && i <= BENCH_FORM_BOTH; i++) {
        if (!strcmp(text, names[i])) {
            *out = (bench_form)i;
            return -1;
        }
    }
    return text ? cli_usage(name_of_command, "--form: '%s' is none of published, matched, both", text) : -1;
}

/* The workloads named; `all` stands for the six that are built in. workloads: room for MAX_WORKLOADS, zeroed. */
static int load_workloads(const cli_list *words, bench_workload *workloads, size_t *n)
{
    static const char *const every[] = {"A", "B", "C", "D", "E", "REAL"};
    for (size_t i = 0; i < words->n; i++) {
        bool all = !strcmp(words->items[i], "all");
        for (size_t k = 0; k < (all ? sizeof every / sizeof every[0] : 1); k++) {
            const char *spec = all ? every[k] : words->items[i];
            if (*n == MAX_WORKLOADS) {
                return cli_usage(name_of_command, "more than %d workloads", MAX_WORKLOADS);
            }
            reef_error error = {0};
            if (bench_workload_load(spec, &workloads[(*n)++], &error)) {
                return cli_error(name_of_command, spec, &error);
            }
        }
    }
    return -1;
}

static int run_workloads(const bench_args *args, bench_form form, const bench_workload *workloads, size_t n)
{
    reef_error error = {0};
    cli_progress progress;
    cli_progress_begin(&progress, name_of_command);
    bench_options options = {
        .device = args->device,
        .units = (unsigned)args->units,
        .precision = args->precision,
        .models = args->models,
        .policies = args->policies.items,
        .n_policies = args->policies.n,
        .skip_unsupported = args->all_policies,
        .form = form,
        .seconds = args->seconds,
        .warmup = args->warmup,
        .rounds = (unsigned)args->rounds,
        .seed = args->seed,
        .profile_runs = (unsigned)args->profile_runs,
        .trace = args->trace,
        .progress = cli_progress_show,
        .progress_context = &progress,
    };
    bench_report report = {0};
    reef_status status = bench_run(workloads, n, &options, &report, &error);
    cli_progress_end(&progress);
    if (!status) {
        bench_report_print(&report, stdout);
        status = write_json(args, bench_report_json(&report), &error);
        if (!status && args->chart) {
            status = bench_chart_write(&report, args->chart, &error);
        }
    }
    int code = how_it_ended(&report, status, &error);
    bench_report_free(&report);
    return code;
}

static int bench_workload_command(const bench_args *args, const cli_list *words)
{
    bench_form form;
    int code = parse_form(args->form, &form);
    bench_workload *workloads = code < 0 ? calloc(MAX_WORKLOADS, sizeof *workloads) : NULL;
    if (code < 0 && !workloads) {
        code = cli_fail(name_of_command, "out of memory");
    }
    size_t n = 0;
    code = code < 0 ? load_workloads(words, workloads, &n) : code;
    code = code < 0 ? check_files(args) : code;
    code = code < 0 ? run_workloads(args, form, workloads, n) : code;
    for (size_t i = 0; i < n; i++) {
        bench_workload_free(&workloads[i]);
    }
    free(workloads);
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

/* "10ms", "100us", "2.5ms": microseconds, or 0. */
static double length_us(const char *text)
{
    char *end = NULL;
    double number = *text && strchr("0123456789.", *text) ? strtod(text, &end) : 0;
    double unit = !end || end == text ? 0 : !strcmp(end, "ms") ? 1e3 : !strcmp(end, "us") ? 1 : 0;
    return number * unit >= 1 && number * unit <= 1e7 ? number * unit : 0;
}

static int add_synthetic(load_list *list, const char *text)
{
    unsigned kernels = 0, tiles = 0;
    const char *at = text;
    char *end = NULL;
    double us = 0, kernel_us = 0;
    bool good = take_count(&at, &kernels) && kernels;
    if (good && !(kernel_us = length_us(at))) {
        good = take_count(&at, &tiles) && tiles;
        us = good ? strtod(at, &end) : 0;
        good = good && end != at && !*end && us >= 0.1 && us <= 1e7;
    }
    if (!good) {
        return cli_usage(name_of_command,
                         "--synthetic: '%s' is neither KERNELSxLENGTH, such as 100x10ms, nor KERNELSxTILESxUS, such as "
                         "100x2x1000 (microseconds per tile)",
                         text);
    }
    return add_load(list, (preempt_load){.kernels = kernels, .kernel_us = kernel_us, .tiles = tiles, .tile_us = us})
               ? -1
               : cli_fail(name_of_command, "out of memory");
}

/* REEF's: so many kernels queued, each so long. */
static int add_all_synthetic(load_list *list)
{
    static const unsigned kernels[] = {10, 100, 1000};
    static const double ms[] = {0.1, 1, 10, 50};
    for (size_t i = 0; i < 12; i++) {
        if (!add_load(list, (preempt_load){.kernels = kernels[i / 4], .kernel_us = 1e3 * ms[i % 4]})) {
            return cli_fail(name_of_command, "out of memory");
        }
    }
    return -1;
}

static int collect_loads(const bench_args *args, load_list *list)
{
    int code = -1;
    for (size_t i = 0; code < 0 && i < args->synthetic.n; i++) {
        const char *text = args->synthetic.items[i];
        code = strcmp(text, "all") ? add_synthetic(list, text) : add_all_synthetic(list);
    }
    for (size_t i = 0; code < 0 && i < args->be.n; i++) {
        code = add_path(list, strdup(args->be.items[i])) ? -1 : cli_fail(name_of_command, "out of memory");
    }
    if (code < 0 && args->models) {
        code = add_folder(list, args->models);
    }
    return code < 0 && list->n == 0 ? add_all_synthetic(list) : code;
}

static int preempt_command(const bench_args *args)
{
    reef_shape *shapes = NULL;
    int code = cli_shapes(name_of_command, &args->shapes, &shapes);
    if (code >= 0) {
        return code;
    }
    load_list loads = {0};
    code = collect_loads(args, &loads);
    code = code < 0 ? check_files(args) : code;
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
            .rounds = (unsigned)args->rounds,
            .seconds_per_cell = args->seconds,
            .seed = args->seed,
            .trace = args->trace,
            .progress = cli_progress_show,
            .progress_context = &progress,
        };
        preempt_report report = {0};
        reef_status status = preempt_run(&options, &report, &error);
        cli_progress_end(&progress);
        if (!status) {
            preempt_report_print(&report, stdout);
            status = write_json(args, preempt_report_json(&report), &error);
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

/* ------------------------------------------------------------------------------------------------- padding -- */

/* "vgg19:resnet152" each. *out is malloced; `text` owns what the names point into. */
static int parse_pairs(const cli_list *words, padding_pair **out, char **text)
{
    size_t bytes = 1;
    for (size_t i = 0; i < words->n; i++) {
        bytes += strlen(words->items[i]) + 1;
    }
    padding_pair *pairs = *out = calloc(words->n + 1, sizeof *pairs);
    char *at = *text = malloc(bytes);
    if (!pairs || !at) {
        return cli_fail(name_of_command, "out of memory");
    }
    for (size_t i = 0; i < words->n; i++) {
        size_t length = strlen(words->items[i]) + 1;
        char *word = memcpy(at, words->items[i], length), *colon = strchr(word, ':');
        at += length;
        pairs[i].rt = word;
        if (!colon || colon == word || !colon[1] || strchr(colon + 1, ':')) {
            return cli_usage(name_of_command, "--pairs: '%s' is not RT:BE, two models such as vgg19:resnet152",
                             words->items[i]);
        }
        *colon = 0;
        pairs[i].be = colon + 1;
        for (size_t k = 0; k < i; k++) {
            if (!strcmp(pairs[k].rt, pairs[i].rt) && !strcmp(pairs[k].be, pairs[i].be)) {
                return cli_usage(name_of_command, "--pairs: '%s' is there twice", words->items[i]);
            }
        }
    }
    return -1;
}

static int run_padding(const bench_args *args, const padding_pair *pairs)
{
    reef_error error = {0};
    cli_progress progress;
    cli_progress_begin(&progress, "bench padding");
    padding_options options = {
        .device = args->device,
        .units = (unsigned)args->units,
        .precision = args->precision,
        .models = args->models,
        .policies = args->policies.items,
        .n_policies = args->policies.n,
        .pairs = args->pairs.n ? pairs : NULL,
        .n_pairs = args->pairs.n,
        .think_ns = 1000 * args->think_us,
        .seconds = args->seconds,
        .warmup = args->warmup,
        .rounds = (unsigned)args->rounds,
        .seed = args->seed,
        .profile_runs = (unsigned)args->profile_runs,
        .trace = args->trace,
        .progress = cli_progress_show,
        .progress_context = &progress,
    };
    padding_report report = {0};
    reef_status status = padding_run(&options, &report, &error);
    cli_progress_end(&progress);
    if (!status) {
        padding_report_print(&report, stdout);
        status = write_json(args, padding_report_json(&report), &error);
        if (!status && args->chart) {
            status = padding_chart_write(&report, args->chart, &error);
        }
    }
    int code = how_it_ended(&report.bench, status, &error);
    padding_report_free(&report);
    return code;
}

static int padding_command(const bench_args *args)
{
    padding_pair *pairs = NULL;
    char *text = NULL;
    int code = parse_pairs(&args->pairs, &pairs, &text);
    code = code < 0 ? check_files(args) : code;
    code = code < 0 ? run_padding(args, pairs) : code;
    free(pairs);
    free(text);
    return code;
}

/* --------------------------------------------------------------------------------------------------- which -- */

typedef enum bench_kind { KIND_WORKLOAD, KIND_PREEMPT, KIND_PADDING } bench_kind;

static int check_names(const bench_args *args)
{
    int code = cli_check_device(name_of_command, args->device);
    for (size_t i = 0; code < 0 && i < args->policies.n; i++) {
        code = cli_check_policy(name_of_command, args->policies.items[i]);
    }
    return code;
}

/* Without --policy: all of them in a workload, the two that the paper compares in preempt, four in padding. */
static int default_policies(bench_args *args, bench_kind kind)
{
    static const char *const named[] = {[KIND_PREEMPT] = "wait,reset", [KIND_PADDING] = "streams,priority,pad,lease"};
    const char *name, *meaning;
    bool ok = true;
    if (args->policies.n) {
        return -1;
    }
    args->all_policies = true;
    for (size_t i = 0; kind == KIND_WORKLOAD && ok && reef_policy_list(i, &name, &meaning); i++) {
        ok = cli_add_names(&args->policies, name);
    }
    ok = ok && (kind == KIND_WORKLOAD || cli_add_names(&args->policies, named[kind]));
    return ok ? -1 : cli_fail(name_of_command, "out of memory");
}

static void default_times(bench_args *args, bench_kind kind)
{
    bool padding = kind == KIND_PADDING;
    args->seconds = args->seconds < 0 ? padding ? 1.8 : 10 : args->seconds;
    args->warmup = args->warmup < 0 ? padding ? 0.03 : 1 : args->warmup;
    args->rounds = args->rounds ? args->rounds : padding ? 2 : 3;
}

/* An option that would be without effect is refused. */
static int check_kind(const bench_args *args, bench_kind kind)
{
    if (kind != KIND_PREEMPT && (args->be.n || args->shapes.n || args->synthetic.n)) {
        return cli_usage(name_of_command, "--be, --shape and --synthetic belong to reef bench preempt");
    }
    if (kind != KIND_PADDING && (args->pairs.n || args->think_us)) {
        return cli_usage(name_of_command, "--pairs and --think belong to reef bench padding");
    }
    if (kind != KIND_WORKLOAD && args->form) {
        return cli_usage(name_of_command, "--form does not apply to %s", kind == KIND_PADDING ? "padding" : "preempt");
    }
    return -1;
}

/* preempt and padding are names of benchmarks among those of workloads. -1 or an exit code. */
static int find_kind(const cli_list *words, bench_kind *out)
{
    *out = KIND_WORKLOAD;
    for (size_t i = 0; i < words->n; i++) {
        bool preempt = !strcmp(words->items[i], "preempt"), padding = !strcmp(words->items[i], "padding");
        if ((preempt || padding) && words->n > 1) {
            return cli_usage(name_of_command, "%s is a benchmark of its own: no other workload beside it",
                             words->items[i]);
        }
        *out = preempt ? KIND_PREEMPT : padding ? KIND_PADDING : *out;
    }
    return -1;
}

int cli_bench(int argc, char **argv)
{
    bench_args args = {
        .device = "cpu", .seed = 1, .count = 200, .profile_runs = 5, .seconds = NOT_GIVEN, .warmup = NOT_GIVEN};
    cli_option options[] = {
        {"policy", "P[,P...]",
         "policies to measure beside rt-only (default: all that the device can run, see reef devices; preempt: "
         "wait,reset; padding: streams,priority,pad,lease, without those that the device cannot run)",
         CLI_NAMES, &args.policies, 0, 0},
        {"policies", "P[,P...]", "the same as --policy", CLI_NAMES, &args.policies, 0, 0},
        {"device", "NAME", "device (default cpu)", CLI_TEXT, &args.device, 0, 0},
        {"precision", "P", CLI_PRECISION_HELP, CLI_TEXT, &args.precision_text, 0, 0},
        {"units", "N", "compute units (default: one per processor)", CLI_COUNT, &args.units, 1, 4096},
        {"models", "DIR", "folder of NAME.onnx files (preempt: all of them as best-effort load)", CLI_TEXT,
         &args.models, 0, 0},
        {"form", "FORM",
         "published: rates as written; matched: scaled so that RT work keeps the device as busy as in the paper; both "
         "(default: matched on cpu, else both)",
         CLI_TEXT, &args.form, 0, 0},
        {"seconds", "S",
         "measured time per policy, all rounds together (default 10); preempt: at most this long per row; padding: per "
         "pair and policy (default 1.8: all 25 pairs take five minutes)",
         CLI_SECONDS, &args.seconds, 0.05, 86400},
        {"rounds", "N",
         "the policies take turns N times, so that what drifts favours none (default 3, padding 2); preempt: idle and "
         "loaded device take turns",
         CLI_COUNT, &args.rounds, 1, 1000},
        {"warmup", "S", "time before each measured part that does not count (default 1, padding 0.03)", CLI_SECONDS,
         &args.warmup, 0, 3600},
        {"seed", "N", "of arrivals and inputs (default 1)", CLI_COUNT, &args.seed, 0, 4294967295.0},
        {"profile-runs", "N", "measurements per kernel of a model that has no profile yet (default 5)", CLI_COUNT,
         &args.profile_runs, 1, 1000},
        {"count", "N", "preempt: requests per row (default 200)", CLI_COUNT, &args.count, 1, 1000000},
        {"be", "MODEL.onnx", "preempt: a best-effort model; may be repeated", CLI_LIST, &args.be, 0, 0},
        {"shape", "NAME=DIMS", "preempt: dimensions of an input of the --be model (the DISB networks need none)",
         CLI_LIST, &args.shapes, 0, 0},
        {"synthetic", "KxLENGTH",
         "preempt: K kernels, each LENGTH (100us, 10ms) long on the whole device in tiles as short as real ones; or "
         "KxTxUS: of T tiles of US microseconds; all: 10, 100, 1000 kernels of 0.1, 1, 10, 50 ms, the default without "
         "models; may be repeated, or a comma list",
         CLI_NAMES, &args.synthetic, 0, 0},
        {"pairs", "RT:BE[,RT:BE...]",
         "padding: models, by name or path (default: every two of the five networks of DISB)", CLI_NAMES, &args.pairs,
         0, 0},
        {"think", "US",
         "padding: microseconds that the RT client waits between an answer and its next request (default 0)", CLI_COUNT,
         &args.think_us, 0, 1000000},
        {"json", "FILE", "write the results as JSON", CLI_TEXT, &args.json, 0, 0},
        {"chart", "FILE.svg", "draw the results", CLI_TEXT, &args.chart, 0, 0},
        {"trace", "FILE.json", CLI_TRACE_HELP, CLI_TEXT, &args.trace, 0, 0},
    };
    cli_command command = {
        .name = name_of_command,
        .synopsis = "WORKLOAD... [--policy P[,P...]] [options]",
        .about =
            "Plays workloads of real-time (RT) and best-effort (BE) clients under each policy and compares latency "
            "and\n"
            "throughput. WORKLOAD is A, B, C, D, E or REAL (DISB, the benchmark of the REEF paper), all (these "
            "six), a JSON\n"
            "file of your own (workloads/README.md), or one of two benchmarks: preempt, how long it takes from an RT "
            "request to\n"
            "its first tile, and padding, below.\n"
            "Latency counts from when a request was due. Every answer is compared bit for bit with the undisturbed "
            "one;\n"
            "exit status 1 if one differs. The SLO of a client without slo_us is twice its time alone on the "
            "device.\n\n"
            "padding: one RT client in a closed loop beside one BE client in a closed loop, for pairs of models: RT "
            "latency over\n"
            "rt-only, and BE work (requests x their time alone) as a share of the time; then policy pad with nothing "
            "to "
            "pad. A\n"
            "closed loop never idles: its next request comes from the callback of the one before, so that BE work has "
            "what a\n"
            "policy gives it beside RT work, and, every 2 ms, the few microseconds between two requests. --think US "
            "makes\n"
            "that gap so long, between any two. It belongs to no request, but BE work done in it counts. Nothing "
            "measures\n"
            "how busy compute units are: RT busy and BE work stand for it. BE requests that had not ended when the "
            "load\n"
            "stopped count for nothing.",
        .examples =
            "  reef bench A --models models --policy seq,wait,reset --json a.json --chart a.svg\n"
            "  reef bench all --models models --device cuda:0 --precision fp16 --seconds 6 --warmup 0.2 --json "
            "disb.json\n"
            "  reef bench my.json --policy reset --seconds 30\n"
            "  reef bench preempt --policy wait,reset --synthetic 100x10ms --synthetic 100x2x1000\n"
            "  reef bench preempt --policy reset --be resnet152.onnx --count 1000\n"
            "  reef bench padding --models models --device cuda:0 --precision fp16 --json padding.json --chart "
            "padding.svg\n"
            "  reef bench padding --models models --pairs vgg19:resnet152,densenet201:vgg19 --policy pad,lease --think "
            "100\n"
            "  reef bench --url http://localhost:8000 --model NAME    (a server; see reef bench --url --help)\n",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .min_words = 1,
        .max_words = MAX_WORKLOADS,
        .word = "WORKLOAD",
    };
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "--url", 5) || !strncmp(argv[i], "--ring", 6)) {
            return cli_bench_remote(argc, argv);
        }
    }
    cli_list words = {0};
    int code = cli_parse(&command, argc, argv, &words);
    bench_kind kind;
    code = code < 0 ? find_kind(&words, &kind) : code;
    code = code < 0 ? check_kind(&args, kind) : code;
    code = code < 0 ? default_policies(&args, kind) : code;
    code = code < 0 ? check_names(&args) : code;
    code = code < 0 ? cli_precision(name_of_command, args.precision_text, &args.precision) : code;
    if (code < 0) {
        default_times(&args, kind);
        code = kind == KIND_PREEMPT   ? preempt_command(&args)
               : kind == KIND_PADDING ? padding_command(&args)
                                      : bench_workload_command(&args, &words);
    }
    cli_free(&command, &words);
    return code;
}
