/*
 * top.c - reef top: what a server does, live, from its /v2/reef/status.
 *
 * The server's counters only grow; what is shown is their growth between two looks.
 */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "client/http.h"

static const char name_of_command[] = "top";

typedef struct top_args {
    const char *url, *token_file;
    double interval;
    uint64_t count;
    bool as_json, ready;
} top_args;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static const json_t *at(const json_t *object, const char *key)
{
    return json_object_get(object, key);
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(at(object, key));
}

/* What a counter grew by; a server that restarted begins anew. */
static double grown(const json_t *now, const json_t *before, const char *key)
{
    double a = number(now, key), b = number(before, key);
    return a >= b ? a - b : a;
}

static const json_t *same_model(const json_t *list, const json_t *model)
{
    size_t i;
    json_t *other;
    json_array_foreach((json_t *)(uintptr_t)list, i, other)
    {
        if (json_equal(at(other, "name"), at(model, "name")) &&
            json_equal(at(other, "version"), at(model, "version"))) {
            return other;
        }
    }
    return NULL;
}

typedef struct window {
    double per_s, failed_per_s, p50_us, p99_us, in_flight, preemptions;
} window;

static double count_before(const json_t *latency, double end_us)
{
    size_t i;
    json_t *bucket;
    json_array_foreach((json_t *)(uintptr_t)latency, i, bucket)
    {
        if (json_number_value(json_array_get(bucket, 0)) == end_us) {
            return json_number_value(json_array_get(bucket, 1));
        }
    }
    return 0;
}

/* The latency below which a share of the window's requests were. */
static double percentile(const json_t *now, const json_t *before, double share)
{
    double total = 0, sum = 0, end = 0;
    size_t i;
    json_t *bucket;
    for (int pass = 0; pass < 2; pass++) {
        json_array_foreach((json_t *)(uintptr_t)now, i, bucket)
        {
            double us = json_number_value(json_array_get(bucket, 0));
            double n = json_number_value(json_array_get(bucket, 1)) - count_before(before, us);
            n = n > 0 ? n : 0;
            if (pass == 0) {
                total += n;
            } else if (sum < share * total) {
                sum += n;
                end = us;
            }
        }
    }
    return total > 0 ? end : 0;
}

static window window_of(const json_t *now, const json_t *before, double seconds)
{
    window w = {.in_flight = number(now, "in_flight"), .preemptions = grown(now, before, "preemptions") / seconds};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)at(now, "outcomes"), key, value)
    {
        double n = grown(at(now, "outcomes"), at(before, "outcomes"), key) / seconds;
        *(strcmp(key, "ok") ? &w.failed_per_s : &w.per_s) += n;
    }
    w.p50_us = percentile(at(now, "latency"), at(before, "latency"), 0.5);
    w.p99_us = percentile(at(now, "latency"), at(before, "latency"), 0.99);
    return w;
}

static void time_text(double us, char *out, size_t size)
{
    if (us <= 0) {
        snprintf(out, size, "-");
    } else {
        snprintf(out, size,
                 us < 1000  ? "%.0f us"
                 : us < 1e6 ? "%.2f ms"
                            : "%.2f s",
                 us < 1000  ? us
                 : us < 1e6 ? us / 1e3
                            : us / 1e6);
    }
}

static void print_class(const json_t *model, const char *service_class, const window *w)
{
    char p50[32], p99[32], solo[32], ratio[32] = "-", name[64];
    double solo_us = number(model, "solo_us");
    time_text(w->p50_us, p50, sizeof p50);
    time_text(w->p99_us, p99, sizeof p99);
    time_text(solo_us, solo, sizeof solo);
    if (solo_us > 0 && w->p50_us > 0) {
        snprintf(ratio, sizeof ratio, "%.2f", w->p50_us / solo_us);
    }
    cli_printable(json_string_value(at(model, "name")), name, sizeof name);
    printf("%-24.24s %3.6s  %-5s %8.1f %7.0f %10s %10s %10s %8s %8.1f %7.1f\n", name,
           json_string_value(at(model, "version")), service_class, w->per_s, w->in_flight, p50, p99, solo, ratio,
           w->preemptions, w->failed_per_s);
}

static void print_model(const json_t *model, const json_t *before, double seconds)
{
    static const char *const classes[] = {"rt", "be"};
    const char *state = json_string_value(at(model, "state"));
    char name[64], reason[400];
    if (!state || strcmp(state, "READY") != 0) {
        printf("%-24.24s %3.6s  %s  %.100s\n", cli_printable(json_string_value(at(model, "name")), name, sizeof name),
               json_string_value(at(model, "version")), state ? state : "?",
               cli_printable(json_string_value(at(model, "reason")), reason, sizeof reason));
        return;
    }
    bool any = false;
    for (int c = 0; c < 2; c++) {
        const json_t *now = at(model, classes[c]);
        window w = window_of(now, at(before, classes[c]), seconds);
        bool own = json_string_value(at(model, "class")) && !strcmp(json_string_value(at(model, "class")), classes[c]);
        if (w.per_s > 0 || w.failed_per_s > 0 || w.in_flight > 0 || (own && !any)) {
            print_class(model, classes[c], &w);
            any = true;
        }
    }
}

static void print_status(const top_args *args, const json_t *now, const json_t *before, bool terminal)
{
    double seconds = (number(now, "now_ns") - number(before, "now_ns")) / 1e9;
    seconds = seconds > 1e-3 ? seconds : 1e-3;
    const json_t *device = at(now, "device"), *was = at(before, "device");
    double rt = grown(device, was, "busy_ns_rt") / seconds / 1e9, be = grown(device, was, "busy_ns_be") / seconds / 1e9;
    double units = number(device, "units"), lost = grown(device, was, "lost_ns_be") / seconds / 1e9;
    int columns = 30;
    if (terminal) {
        printf("\033[H\033[J");
    }
    printf("reef at %s: %s, %.0f connections, up %.0f s\n", args->url,
           json_is_true(at(now, "ready")) ? "ready" : "not ready", number(now, "connections"),
           (number(now, "now_ns") - number(now, "start_ns")) / 1e9);
    printf("device %s, policy %s: %.1f preemptions/s, %.1f tiles abandoned/s, %.0f failures\n",
           json_string_value(at(device, "name")), json_string_value(at(device, "policy")),
           grown(device, was, "preemptions") / seconds, grown(device, was, "tiles_abandoned") / seconds,
           number(device, "failures"));
    const json_t *hints = at(device, "hints"), *hints_before = at(was, "hints");
    if (json_is_integer(at(device, "slice_us"))) {
        printf("time slice %.0f us against other processes; ", number(device, "slice_us"));
    }
    if (json_is_integer(at(device, "slice_us")) || number(hints, "sent") > 0) {
        printf("hints: %.1f/s, %.1f used/s, %.0f refused\n", grown(hints, hints_before, "sent") / seconds,
               grown(hints, hints_before, "used") / seconds, number(hints, "refused"));
    }
    printf("compute units: %.2f rt, %.2f be (%.2f lost) of %.0f  [", rt, be, lost, units);
    for (int i = 0; i < columns; i++) {
        double unit = (i + 0.5) * units / columns;
        putchar(unit < rt ? '#' : unit < rt + be ? '=' : '.');
    }
    printf("]\n\n%-24s %3s  %-5s %8s %7s %10s %10s %10s %8s %8s %7s\n", "model", "ver", "class", "ok/s", "queued",
           "p50", "p99", "alone", "p50/al.", "preem/s", "fail/s");
    size_t i;
    json_t *model;
    json_array_foreach((json_t *)(uintptr_t)at(now, "models"), i, model)
    {
        print_model(model, same_model(at(before, "models"), model), seconds);
    }
    if (!terminal) {
        printf("\n");
    }
    fflush(stdout);
}

static json_t *look(http_client *http, reef_error *error)
{
    http_answer answer;
    reef_status status = http_request(http, "GET", "/v2/reef/status", NULL, NULL, 0, &answer, error);
    json_t *root = status || answer.status != 200 ? NULL : json_loadb(answer.body, answer.body_bytes, 0, NULL);
    if (!status && (!root || !json_is_object(root) || !json_is_array(at(root, "models")))) {
        error->status = REEF_FORMAT;
        snprintf(error->message, sizeof error->message, "the server answered %d; is it a reef server%s?", answer.status,
                 answer.status == 401 ? " that asks for a token (--token-file)" : "");
        json_decref(root);
        return NULL;
    }
    return root;
}

/* For health checks of containers and the like. */
static int ask_ready(const top_args *args)
{
    reef_error error = {0};
    http_client http;
    http_answer answer = {0};
    if (http_client_init(&http, args->url, NULL, &error)) {
        return cli_error(name_of_command, NULL, &error);
    }
    int code = http_request(&http, "GET", "/v2/health/ready", NULL, NULL, 0, &answer, &error)
                   ? cli_error(name_of_command, NULL, &error)
                   : EXIT_OK;
    if (code == EXIT_OK && args->as_json) {
        printf("{\"ready\":%s}\n", answer.status == 200 ? "true" : "false");
    }
    if (code == EXIT_OK && answer.status != 200) {
        code = cli_fail(name_of_command, "the server at %s is not ready: it answered %d", args->url, answer.status);
    }
    http_client_free(&http);
    return code;
}

static int watch(const top_args *args)
{
    reef_error error = {0};
    http_client http;
    if (http_client_init(&http, args->url, args->token_file, &error)) {
        return cli_error(name_of_command, NULL, &error);
    }
    bool terminal = isatty(STDOUT_FILENO) && !args->as_json;
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    json_t *before = look(&http, &error), *now = NULL;
    int code = before ? EXIT_OK : cli_error(name_of_command, NULL, &error);
    for (uint64_t i = 0; before && !interrupted && (!args->count || i < args->count); i++) {
        struct timespec pause = {(time_t)args->interval,
                                 (long)((args->interval - (double)(time_t)args->interval) * 1e9)};
        nanosleep(&pause, NULL);
        if (interrupted) {
            break;
        }
        now = look(&http, &error);
        if (!now) { /* it may be restarting: go on, unless only one look is asked for */
            code = cli_error(name_of_command, NULL, &error);
            if (args->count) {
                break;
            }
            continue;
        }
        code = EXIT_OK;
        if (args->as_json) {
            json_dumpf(now, stdout, JSON_COMPACT);
            printf("\n");
            fflush(stdout);
        } else {
            print_status(args, now, before, terminal);
        }
        json_decref(before);
        before = now;
    }
    json_decref(before);
    http_client_free(&http);
    return code;
}

int cli_top(int argc, char **argv)
{
    top_args args = {.url = "http://127.0.0.1:8000", .interval = 1};
    cli_option options[] = {
        {"url", "URL", "the server (default http://127.0.0.1:8000)", CLI_TEXT, &args.url, 0, 0},
        {"token-file", "FILE", "bearer token", CLI_TEXT, &args.token_file, 0, 0},
        {"interval", "S", "time between two looks (default 1)", CLI_SECONDS, &args.interval, 0.05, 3600},
        {"count", "N", "end after N (default 0: until interrupted)", CLI_COUNT, &args.count, 0, 1e9},
        {"ready", NULL,
         "only ask whether it is ready: exit status 0 or 1; needs no token (for health checks, as in a container)",
         CLI_FLAG, &args.ready, 0, 0},
        {"json", NULL, "print each status as one line of JSON", CLI_FLAG, &args.as_json, 0, 0},
    };
    cli_command command = {
        .name = name_of_command,
        .synopsis = "[options]",
        .about = "Shows what a server does, live: models and classes with their rates, queues and latencies beside "
                 "what the\n"
                 "model takes alone on the device, preemptions, and how many compute units each class keeps busy.",
        .examples = "  reef top\n"
                    "  reef top --url http://server:8000 --interval 5 --count 1\n"
                    "  reef top --ready || echo down\n",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .max_words = 0,
    };
    cli_list words = {0};
    int code = cli_parse(&command, argc, argv, &words);
    code = code < 0 ? args.ready ? ask_ready(&args) : watch(&args) : code;
    cli_free(&command, &words);
    return code;
}
