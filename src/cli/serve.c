/*
 * serve.c - reef serve: options only; src/serve/ does the rest.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "serve/server.h"

static const char name_of_command[] = "serve";

typedef struct serve_args {
    serve_options options;
    const char *precision, *log;
    uint64_t units, threads, connections, queue, max_request_mib, max_json_mib, max_memory_mib, ring_mib, idle_s,
        receive_s, send_s, drain_s, ring_spin_us, slice_us;
    bool no_supervise;
} serve_args;

/* In a process of its own: asking for a GPU starts CUDA, which does not survive a fork, and the server's worker is one. */
static int check_device(const char *device)
{
    pid_t child = fork();
    if (child == 0) {
        int code = cli_check_device(name_of_command, device);
        fflush(NULL);
        _exit(code < 0 ? 0 : code);
    }
    int how = 0;
    while (child > 0 && waitpid(child, &how, 0) < 0 && errno == EINTR) {
    }
    return child > 0 && WIFEXITED(how) && WEXITSTATUS(how) ? WEXITSTATUS(how) : -1; /* otherwise opening it will tell */
}

static int check(serve_args *args)
{
    serve_options *options = &args->options;
    static const char *const levels[] = {"error", "warning", "info", "requests"};
    int code = check_device(options->device);
    if (code < 0 && options->policy) {
        code = cli_check_policy(name_of_command, options->policy);
    }
    code = code < 0 ? cli_precision(name_of_command, args->precision, &options->precision) : code;
    if (code >= 0) {
        return code;
    }
    if ((options->tls_certificate != NULL) != (options->tls_key != NULL)) {
        return cli_usage(name_of_command, "--tls-cert and --tls-key come together");
    }
    if (options->shm_prefix && (strchr(options->shm_prefix, '/') || strlen(options->shm_prefix) > 100)) {
        return cli_usage(name_of_command, "--shm-prefix: '%s' must be the beginning of a name, without '/'",
                         options->shm_prefix);
    }
    size_t level = 0;
    while (level < 4 && strcmp(args->log, levels[level]) != 0) {
        level++;
    }
    if (level == 4) {
        return cli_usage(name_of_command, "--log: '%s' is none of error, warning, info, requests", args->log);
    }
    options->log_level = (serve_level)level;
    return -1;
}

static void take(serve_args *args)
{
    serve_options *options = &args->options;
    options->units = (unsigned)args->units;
    options->slice_us = (unsigned)args->slice_us;
    options->http_threads = (unsigned)args->threads;
    options->max_connections = (unsigned)args->connections;
    options->queue_limit = (unsigned)args->queue;
    options->max_request_bytes = (size_t)args->max_request_mib << 20;
    options->max_json_bytes = (size_t)args->max_json_mib << 20;
    options->max_memory_bytes = (size_t)args->max_memory_mib << 20;
    options->max_ring_bytes = (size_t)args->ring_mib << 20;
    options->idle_s = (unsigned)args->idle_s;
    options->receive_s = (unsigned)args->receive_s;
    options->send_s = (unsigned)args->send_s;
    options->drain_s = (unsigned)args->drain_s;
    options->ring_spin_us = (unsigned)args->ring_spin_us;
    options->supervise = !args->no_supervise;
}

int cli_serve(int argc, char **argv)
{
    serve_args args = {.log = "info"};
    serve_options *o = &args.options;
    serve_options_default(o);
    o->device = "cpu";
    o->listen = "127.0.0.1:8000";
    args.slice_us = o->slice_us;
    args.threads = o->http_threads;
    args.connections = o->max_connections;
    args.queue = o->queue_limit;
    args.max_request_mib = o->max_request_bytes >> 20;
    args.max_json_mib = o->max_json_bytes >> 20;
    args.max_memory_mib = o->max_memory_bytes >> 20;
    args.ring_mib = o->max_ring_bytes >> 20;
    args.idle_s = o->idle_s;
    args.receive_s = o->receive_s;
    args.send_s = o->send_s;
    args.drain_s = o->drain_s;
    args.ring_spin_us = o->ring_spin_us;
    cli_option options[] = {
        {"listen", "HOST:PORT", "address (default 127.0.0.1:8000; port 0: any, the log says which)", CLI_TEXT,
         &o->listen, 0, 0},
        {"ring", "PATH",
         "also serve programs of this machine through shared memory (C library reef_client); the Unix socket for it",
         CLI_TEXT, &o->ring, 0, 0},
        {"device", "NAME", "device (default cpu; see reef devices)", CLI_TEXT, &o->device, 0, 0},
        {"policy", "P", "scheduling policy (see reef devices)", CLI_TEXT, &o->policy, 0, 0},
        {"units", "N", "compute units (default: one per processor)", CLI_COUNT, &args.units, 1, 4096},
        {"slice", "US",
         "GPU: how long it may be kept while other processes want it (default 10000; 0: the driver's own)", CLI_COUNT,
         &args.slice_us, 0, SERVE_SLICE_MAX_US},
        {"no-hints", NULL, "do not tell the GPU of real-time requests that are about to come", CLI_FLAG, &o->no_hints,
         0, 0},
        {"precision", "P", CLI_PRECISION_HELP, CLI_TEXT, &args.precision, 0, 0},
        {"cache", "DIR", "where profiles are kept (default: beside the models)", CLI_TEXT, &o->cache_dir, 0, 0},
        {"token-file", "FILE", "ask for the bearer token in this file (health is open to all)", CLI_TEXT,
         &o->token_file, 0, 0},
        {"tls-cert", "FILE", "serve HTTPS with this certificate (PEM)", CLI_TEXT, &o->tls_certificate, 0, 0},
        {"tls-key", "FILE", "and its key (PEM)", CLI_TEXT, &o->tls_key, 0, 0},
        {"shm-prefix", "PREFIX", "take system shared memory whose name begins so (default: none)", CLI_TEXT,
         &o->shm_prefix, 0, 0},
        {"queue", "N", "requests that may wait, per model and class (default 256); more are answered 503", CLI_COUNT,
         &args.queue, 1, 65536},
        {"connections", "N", "open connections (default 4096)", CLI_COUNT, &args.connections, 1, 65536},
        {"threads", "N", "threads that serve HTTP (default 2)", CLI_COUNT, &args.threads, 1, 64},
        {"max-request", "MIB", "largest request (default 64)", CLI_COUNT, &args.max_request_mib, 1, 16384},
        {"max-json", "MIB", "largest JSON part of a request (default 16)", CLI_COUNT, &args.max_json_mib, 1, 1024},
        {"max-memory", "MIB", "memory for all requests' bodies (default 1024)", CLI_COUNT, &args.max_memory_mib, 1,
         1048576},
        {"ring-memory", "MIB", "shared memory of one ring client (default 64)", CLI_COUNT, &args.ring_mib, 1, 16384},
        {"ring-spin", "US",
         "how long an idle ring is polled before its thread sleeps, and polled behind the expected time of a client "
         "that "
         "asks at regular intervals (default 50; 0: never)",
         CLI_COUNT, &args.ring_spin_us, 0, 1000000},
        {"idle", "S", "close connections that ask for nothing (default 75)", CLI_COUNT, &args.idle_s, 1, 86400},
        {"receive", "S", "close connections whose request takes longer to arrive, plus 1 s per 64 KiB (default 30)",
         CLI_COUNT, &args.receive_s, 1, 86400},
        {"send", "S", "the same for answers (default 30)", CLI_COUNT, &args.send_s, 1, 86400},
        {"drain", "S", "how long requests may go on after SIGTERM (default 30)", CLI_COUNT, &args.drain_s, 0, 86400},
        {"log", "LEVEL", "error, warning, info (default) or requests: a line for each", CLI_TEXT, &args.log, 0, 0},
        {"timeline", "FILE", "append every request's stages, for Chrome's trace viewer", CLI_TEXT, &o->timeline, 0, 0},
        {"no-supervise", NULL, "one process, for debuggers: a lost device ends it", CLI_FLAG, &args.no_supervise, 0, 0},
    };
    cli_command command = {
        .name = name_of_command,
        .synopsis = "MODELS [options]",
        .about =
            "Serves a folder of models to clients of the Open Inference Protocol (KServe v2, Triton) over HTTP.\n"
            "MODELS holds NAME.onnx with an optional NAME.json, or NAME/VERSION/model.onnx with NAME/config.json.\n"
            "Requests are best-effort unless that file says {\"class\": \"rt\"} or their parameters {\"priority\": "
            "1}.\n"
            "SIGHUP looks for new and changed models; SIGTERM finishes what is under way and ends.",
        .examples =
            "  reef serve models\n"
            "  curl localhost:8000/v2/models/NAME                 # its inputs and outputs\n"
            "  reef bench --url http://localhost:8000 --model NAME --class rt    # what a client waits\n"
            "  reef top                                           # what the server does, live\n"
            "  reef serve models --listen 0.0.0.0:8443 --tls-cert cert.pem --tls-key key.pem --token-file token\n"
            "  reef serve models --device cuda:0 --slice 10000    # beside: reef nice -n 19 -- python train.py\n"
            "  reef serve models --device cuda:0 --ring /run/reef/ring.sock --shm-prefix reef_\n",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .min_words = 1,
        .max_words = 1,
        .word = "MODELS",
    };
    cli_list words = {0};
    int code = cli_parse(&command, argc, argv, &words);
    code = code < 0 ? check(&args) : code;
    if (code < 0) {
        reef_error error = {0};
        o->models = words.items[0];
        take(&args);
        code = serve_run(o, &error) ? cli_error(name_of_command, NULL, &error) : EXIT_OK;
    }
    cli_free(&command, &words);
    return code;
}
