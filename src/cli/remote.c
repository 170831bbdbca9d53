/*
 * remote.c - reef bench --url and reef bench --ring: a server measured from outside.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/remote.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/progress.h"

static const char name_of_command[] = "bench";

typedef struct remote_args {
    remote_options options;
    const char *class_name, *wake, *json;
    uint64_t connections, seed;
    cli_list shapes;
} remote_args;

static int check(remote_args *args)
{
    static const char *const wakes[] = {"adaptive", "poll", "block"};
    remote_options *o = &args->options;
    if ((o->url != NULL) == (o->ring != NULL)) {
        return cli_usage(name_of_command, "--url and --ring: one of them");
    }
    if (!o->model) {
        return cli_usage(name_of_command, "--model is missing: the name of a model of the server");
    }
    if (args->class_name && strcmp(args->class_name, "rt") != 0 && strcmp(args->class_name, "be") != 0) {
        return cli_usage(name_of_command, "--class: '%s' is neither rt nor be", args->class_name);
    }
    o->service_class = !args->class_name ? -1 : args->class_name[0] == 'r' ? REEF_RT : REEF_BE;
    for (int i = 0; i < 3; i++) {
        if (!strcmp(args->wake, wakes[i])) {
            o->wake = (reef_wake)i;
            return -1;
        }
    }
    return cli_usage(name_of_command, "--wake: '%s' is none of adaptive, poll, block", args->wake);
}

static int run(remote_args *args)
{
    reef_error error = {0};
    remote_report report = {0};
    cli_progress progress;
    args->options.connections = (unsigned)args->connections;
    args->options.seed = args->seed;
    args->options.progress = cli_progress_show;
    args->options.progress_context = &progress;
    cli_progress_begin(&progress, name_of_command);
    reef_status status = remote_run(&args->options, &report, &error);
    cli_progress_end(&progress);
    if (status) {
        return cli_error(name_of_command, NULL, &error);
    }
    remote_report_print(&report, stdout);
    if (args->json) {
        json_t *root = remote_report_json(&report);
        int wrote = json_dump_file(root, args->json, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
        json_decref(root);
        if (wrote) {
            return cli_fail(name_of_command, "--json: %s cannot be written", args->json);
        }
    }
    if (report.mismatches) {
        return cli_fail(name_of_command, "%llu answers differ from the first", (unsigned long long)report.mismatches);
    }
    return report.ok ? EXIT_OK : cli_fail(name_of_command, "no request was answered");
}

int cli_bench_remote(int argc, char **argv)
{
    remote_args args = {.wake = "adaptive", .connections = 1, .seed = 1, .options = {.seconds = 10, .warmup = 1}};
    remote_options *o = &args.options;
    cli_option options[] = {
        {"url", "URL", "a server of the Open Inference Protocol (KServe v2): http://HOST:PORT", CLI_TEXT, &o->url, 0,
         0},
        {"ring", "PATH", "or the ring of a reef serve on this machine", CLI_TEXT, &o->ring, 0, 0},
        {"model", "NAME", "the model to ask", CLI_TEXT, &o->model, 0, 0},
        {"version", "V", "and its version (default: the latest)", CLI_TEXT, &o->version, 0, 0},
        {"class", "rt|be", "ask as real-time or best-effort (default: the model's class)", CLI_TEXT, &args.class_name,
         0, 0},
        {"connections", "N", "connections, each with an input of its own (default 1)", CLI_COUNT, &args.connections, 1,
         4096},
        {"rate", "R", "requests per second, evenly spaced (default 0: each connection asks when it was answered)",
         CLI_SECONDS, &o->rate, 0, 1e6},
        {"seconds", "S", "measured time (default 10)", CLI_SECONDS, &o->seconds, 0.05, 86400},
        {"warmup", "S", "time before it that does not count (default 1)", CLI_SECONDS, &o->warmup, 0, 3600},
        {"shape", "NAME=DIMS", "dimensions of an input that the server leaves open (default 1)", CLI_LIST, &args.shapes,
         0, 0},
        {"seed", "N", "of the inputs (default 1)", CLI_COUNT, &args.seed, 0, 4294967295.0},
        {"wake", "HOW", "ring: adaptive (default), poll or block while waiting for an answer", CLI_TEXT, &args.wake, 0,
         0},
        {"token-file", "FILE", "bearer token", CLI_TEXT, &o->token_file, 0, 0},
        {"json", "FILE", "write the results as JSON", CLI_TEXT, &args.json, 0, 0},
    };
    cli_command command = {
        .name = name_of_command,
        .synopsis = "--url URL|--ring PATH --model NAME [options]",
        .about = "Measures a server from outside. Latency counts from when a request was due. Where the server says "
                 "what the\n"
                 "engine itself took (reef does), the rest is shown as what serving adds. Every answer is compared "
                 "with the\n"
                 "connection's first; exit status 1 if one differs.",
        .examples = "  reef bench --url http://localhost:8000 --model resnet --class rt --rate 50\n"
                    "  reef bench --ring /run/reef/ring.sock --model resnet --json ring.json\n",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .max_words = 0,
    };
    cli_list words = {0};
    reef_shape *shapes = NULL;
    int code = cli_parse(&command, argc, argv, &words);
    code = code < 0 ? check(&args) : code;
    code = code < 0 ? cli_shapes(name_of_command, &args.shapes, &shapes) : code;
    if (code < 0) {
        o->shapes = shapes;
        o->n_shapes = args.shapes.n;
        code = run(&args);
    }
    free(shapes);
    cli_free(&command, &words);
    return code;
}
