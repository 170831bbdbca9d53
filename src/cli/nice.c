/*
 * nice.c - reef nice: starts a program with libreef-nice.so under it, and talks to programs started so.
 *
 * The command becomes the program (exec): process number, signals, descriptors and exit status are the program's own.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/options.h"
#include "nice/control.h"

static const char name_of_command[] = "nice";

enum {
    NO_LEVEL = 1000,
    NO_SLICE = NICE_SLICE_MAX_US + 1,
    CANNOT_EXECUTE = 126,
    NO_SUCH_PROGRAM = 127,
    MAX_PROCESSES = 4096
};

typedef struct nice_args {
    int64_t level, slice_us;
    uint64_t set_pid;
    bool list, verbose, as_json;
} nice_args;

static nice_rule rule_of(const nice_args *args)
{
    return args->slice_us != NO_SLICE ? nice_rule_of_slice((uint32_t)args->slice_us)
                                      : nice_rule_of_level(args->level == NO_LEVEL ? NICE_MOST : (int)args->level);
}

/* ---------------------------------------------------------------------------------------------- starting -- */

/* libreef-nice.so beside the command (a build) or in ../lib (an installation). */
static int find_library(char *out, size_t size)
{
    static const char *const places[] = {"%.*s/libreef-nice.so", "%.*s/../lib/libreef-nice.so"};
    char self[PATH_MAX], candidate[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) {
        return cli_fail(name_of_command, "/proc/self/exe cannot be read: %s", strerror(errno));
    }
    self[n] = 0;
    int folder = (int)(strrchr(self, '/') - self);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        snprintf(candidate, sizeof candidate, places[i], folder, self);
        char *real = realpath(candidate, NULL);
        if (real && access(real, R_OK) == 0 && strlen(real) < size) {
            /* The dynamic loader separates names by these, and takes '$' for a token. */
            bool fit = !strpbrk(real, " :$");
            snprintf(out, size, "%s", real);
            free(real);
            return fit ? -1
                       : cli_fail(
                             name_of_command,
                             "%s: the loader cannot preload a file whose path holds a space, ':' or '$': install reef "
                             "elsewhere",
                             out);
        }
        free(real);
    }
    return cli_fail(name_of_command, "libreef-nice.so is neither in %.*s nor in %.*s/../lib: make all, or make install",
                    folder, self, folder, self);
}

/* library in front of what is preloaded already, once. */
static int preload(const char *library)
{
    const char *before = getenv("LD_PRELOAD");
    size_t size = strlen(library) + (before ? strlen(before) : 0) + 2;
    char *all = malloc(size);
    if (!all) {
        return cli_fail(name_of_command, "out of memory");
    }
    const char *found = before ? strstr(before, library) : NULL;
    if (found) {
        snprintf(all, size, "%s", before);
    } else {
        snprintf(all, size, "%s%s%s", library, before && *before ? ":" : "", before ? before : "");
    }
    int failed = setenv("LD_PRELOAD", all, 1);
    free(all);
    return failed ? cli_fail(name_of_command, "out of memory") : -1;
}

static int start(const nice_args *args, const cli_list *words)
{
    char library[PATH_MAX], rule[24];
    nice_rule_print(rule_of(args), rule, sizeof rule);
    int code = find_library(library, sizeof library);
    if (code < 0) {
        code = preload(library);
    }
    if (code >= 0) {
        return code;
    }
    if (setenv("REEF_NICE", rule, 1) ||
        (args->verbose ? setenv("REEF_NICE_VERBOSE", "1", 1) : unsetenv("REEF_NICE_VERBOSE"))) {
        return cli_fail(name_of_command, "out of memory");
    }
    char **program = calloc(words->n + 1, sizeof *program);
    if (!program) {
        return cli_fail(name_of_command, "out of memory");
    }
    for (size_t i = 0; i < words->n; i++) {
        program[i] = (char *)(uintptr_t)words->items[i]; /* from argv */
    }
    fflush(NULL);
    execvp(program[0], program);
    int cause = errno;
    cli_message(name_of_command, "%s: cannot be started: %s", program[0], strerror(cause));
    free(program);
    return cause == ENOENT ? NO_SUCH_PROGRAM : CANNOT_EXECUTE;
}

/* ---------------------------------------------------------------------------------------------- listing -- */

/* The command line of pid for the terminal; empty when it is not readable. */
static const char *command_line(int pid, char *buffer, size_t size)
{
    char path[40], line[256];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(line, 1, sizeof line - 1, file) : 0;
    if (file) {
        fclose(file);
    }
    while (n && !line[n - 1]) {
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        line[i] = line[i] ? line[i] : ' ';
    }
    line[n] = 0;
    return cli_printable(line, buffer, size);
}

static json_t *report_json(const nice_report *report)
{
    char text[256];
    json_t *groups = json_array();
    for (size_t i = 0; i < report->n_groups; i++) {
        uint64_t now = report->groups[i].set_us ? report->groups[i].set_us : report->groups[i].own_us;
        json_array_append_new(
            groups,
            json_pack("{s:I, s:I, s:I, s:I, s:b, s:o, s:o, s:I}", "client", (json_int_t)report->groups[i].client,
                      "group", (json_int_t)report->groups[i].group, "engine", (json_int_t)report->groups[i].engine,
                      "channels", (json_int_t)report->groups[i].channels, "compute", report->groups[i].compute,
                      "slice_us", now ? json_integer((json_int_t)now) : json_null(), "own_slice_us",
                      report->groups[i].own_us ? json_integer((json_int_t)report->groups[i].own_us) : json_null(),
                      "driver_status", (json_int_t)report->groups[i].status));
    }
    return json_pack("{s:i, s:s, s:o, s:o, s:o}", "pid", report->pid, "command",
                     command_line(report->pid, text, sizeof text), "level",
                     report->rule.by_level ? json_integer(report->rule.level) : json_null(), "slice_us",
                     report->rule.slice_us ? json_integer(report->rule.slice_us) : json_null(), "groups", groups);
}

static void print_report(const nice_report *report)
{
    char text[256], rule[24] = "", slice[32] = "its own slices";
    if (report->rule.by_level) {
        snprintf(rule, sizeof rule, "level %d, ", report->rule.level);
    }
    if (report->rule.slice_us) {
        snprintf(slice, sizeof slice, "%u us", (unsigned)report->rule.slice_us);
    }
    printf("%d  %s%s  %s\n", report->pid, rule, slice, command_line(report->pid, text, sizeof text));
    for (size_t i = 0; i < report->n_groups; i++) {
        uint64_t now = report->groups[i].set_us ? report->groups[i].set_us : report->groups[i].own_us;
        printf("    group 0x%08x  engine %u  %u channels  ", (unsigned)report->groups[i].group,
               (unsigned)report->groups[i].engine, (unsigned)report->groups[i].channels);
        if (now) {
            printf("slice %" PRIu64 " us", now);
        } else {
            printf("slice not known");
        }
        if (report->groups[i].status) {
            printf("  (the driver refused: %s)", nice_status_text(report->groups[i].status, text, sizeof text));
        } else if (report->groups[i].set_us && report->groups[i].own_us) {
            printf("  (the program's own: %" PRIu64 " us)", report->groups[i].own_us);
        }
        printf("\n");
    }
}

static void print_reports(const nice_report *reports, size_t n, bool as_json)
{
    json_t *all = as_json ? json_array() : NULL;
    for (size_t i = 0; i < n; i++) {
        if (as_json) {
            json_array_append_new(all, report_json(&reports[i]));
        } else {
            print_report(&reports[i]);
        }
    }
    if (as_json) {
        json_dumpf(all, stdout, JSON_INDENT(2));
        printf("\n");
        json_decref(all);
    } else if (n == 0) {
        printf("no process under reef nice uses a GPU\n");
    }
}

static int list(bool as_json)
{
    int *pids = calloc(MAX_PROCESSES, sizeof *pids);
    size_t n = pids ? nice_processes(pids, MAX_PROCESSES) : 0, answered = 0;
    nice_report *reports = pids ? calloc(n + 1, sizeof *reports) : NULL;
    int code = EXIT_OK;
    if (!reports) {
        free(pids);
        return cli_fail(name_of_command, "out of memory");
    }
    for (size_t i = 0; i < n; i++) {
        reef_error error = {0};
        reef_status status = nice_ask(pids[i], "list", &reports[answered], &error);
        if (status == REEF_OK) {
            answered++;
        } else if (status != REEF_NOT_FOUND) { /* which is one that has just ended */
            code = cli_error(name_of_command, NULL, &error);
        }
    }
    print_reports(reports, answered, as_json);
    free(reports);
    free(pids);
    return code;
}

static int set(const nice_args *args)
{
    char rule[24], request[NICE_REQUEST_MAX];
    reef_error error = {0};
    nice_rule_print(rule_of(args), rule, sizeof rule);
    snprintf(request, sizeof request, "set %s", rule);
    nice_report *report = calloc(1, sizeof *report);
    if (!report) {
        return cli_fail(name_of_command, "out of memory");
    }
    int code =
        nice_ask((int)args->set_pid, request, report, &error) ? cli_error(name_of_command, NULL, &error) : EXIT_OK;
    if (code == EXIT_OK) {
        print_reports(report, 1, args->as_json);
    }
    free(report);
    return code;
}

/* ------------------------------------------------------------------------------------------- the command -- */

static int run(const nice_args *args, const cli_list *words)
{
    bool changes = args->level != NO_LEVEL || args->slice_us != NO_SLICE;
    if (args->level != NO_LEVEL && args->slice_us != NO_SLICE) {
        return cli_usage(name_of_command, "--level and --slice exclude each other: a level is a slice");
    }
    if (args->list && (args->set_pid || words->n || changes)) {
        return cli_usage(name_of_command, "--list stands alone: it starts and changes nothing");
    }
    if (args->list) {
        return list(args->as_json);
    }
    if (args->set_pid) {
        if (words->n) {
            return cli_usage(name_of_command, "'%s': --set changes a process that runs, it does not start one",
                             words->items[0]);
        }
        return changes ? set(args)
                       : cli_usage(name_of_command, "--set %" PRIu64 ": needs -n LEVEL or --slice US", args->set_pid);
    }
    if (args->as_json) {
        return cli_usage(name_of_command, "--json goes with --list and --set");
    }
    return words->n ? start(args, words) : cli_usage(name_of_command, "the program is missing; see reef nice --help");
}

int cli_nice(int argc, char **argv)
{
    nice_args args = {.level = NO_LEVEL, .slice_us = NO_SLICE};
    cli_option options[] = {
        {"level", "N",
         "from -20 to 19 (default 19): the higher, the sooner the program makes room for others. 19 is a time slice of "
         "1 us, 0 "
         "leaves the program's own (2048 us unless it chose another), -20 is 65536 us",
         CLI_INTEGER, &args.level, NICE_LEAST, NICE_MOST, 'n'},
        {"slice", "US", "the time slice itself, in microseconds, instead of a level; 0: the program's own", CLI_INTEGER,
         &args.slice_us, 0, NICE_SLICE_MAX_US},
        {"list", NULL, "show the processes under reef nice that use a GPU, their channel groups and time slices",
         CLI_FLAG, &args.list, 0, 0},
        {"set", "PID", "change that process while it runs, with -n or --slice", CLI_COUNT, &args.set_pid, 1, INT32_MAX},
        {"verbose", NULL, "the program says on standard error which channel groups it has and what became of them",
         CLI_FLAG, &args.verbose, 0, 0},
        {"json", NULL, "print JSON (with --list and --set)", CLI_FLAG, &args.as_json, 0, 0},
    };
    cli_command command = {
        .name = name_of_command,
        .synopsis = "[-n LEVEL | --slice US] [--] PROGRAM [ARGUMENTS]\n       reef nice --list | --set PID -n LEVEL",
        .about =
            "Runs any CUDA program, unchanged, so that it yields the GPU within about 200 us when another process "
            "wants it,\n"
            "where the driver's own time slice makes others wait up to 2 ms. Alone on the GPU it loses nothing. "
            "Kernels\n"
            "are switched by the hardware: they need not be idempotent. Only the program's own channel groups are\n"
            "changed, never a setting of the card; no privilege is needed. A driver that refuses is named once, and "
            "the\n"
            "program runs as usual. Its children are covered too, as long as they keep the environment (LD_PRELOAD,\n"
            "REEF_NICE); set-user-ID programs and statically linked ones are not.",
        .examples = "  reef nice -n 19 -- python train.py       # makes room at once\n"
                    "  reef nice --slice 200 ./simulation       # after 200 us\n"
                    "  reef nice -n -5 -- ./renderer            # keeps the GPU longer than others\n"
                    "  reef nice --verbose -- python train.py   # says what it does\n"
                    "  reef nice --list\n"
                    "  reef nice --set 4242 -n 5\n",
        .exits = "the program's own; 126 it cannot be executed; 127 there is none of that name; 1 reef nice or\n"
                 "             a process it talks to failed; 2 wrong usage",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .max_words = SIZE_MAX,
        .program = true,
    };
    cli_list words = {0};
    int code = cli_parse(&command, argc, argv, &words);
    if (code < 0) {
        code = run(&args, &words);
    }
    cli_free(&command, &words);
    return code;
}
