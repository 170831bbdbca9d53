/*
 * options.h - one table per subcommand says what it accepts; parsing, checking and --help all come from it.
 */
#ifndef REEF_CLI_OPTIONS_H
#define REEF_CLI_OPTIONS_H

#include "reef/reef.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

typedef enum cli_kind { CLI_FLAG, CLI_TEXT, CLI_COUNT, CLI_INTEGER, CLI_SECONDS, CLI_LIST, CLI_NAMES } cli_kind;

typedef struct cli_list { /* values borrowed from argv, or from a copy for CLI_NAMES */
    const char **items;
    size_t n;
} cli_list;

typedef struct cli_option {
    const char *name;  /* without dashes */
    const char *value; /* "FILE"; NULL for flags */
    const char *help;
    cli_kind kind;
    void *
        to; /* bool, const char *, uint64_t, int64_t, double, cli_list (repeatable), cli_list (comma separated, repeatable) */
    double low, high; /* COUNT, INTEGER, SECONDS: inclusive */
    char letter;      /* "-n" as well; 0: none */
} cli_option;

typedef struct cli_command {
    const char *name;     /* "run" */
    const char *synopsis; /* "MODEL.onnx [options]" */
    const char *about;
    const char *examples; /* whole lines */
    cli_option *options;
    size_t n_options;
    size_t min_words, max_words;
    const char *word;  /* what a missing word is called: "MODEL.onnx" */
    const char *exits; /* what the exit status means; NULL: the usual */
    bool program;      /* the first word is a program: what follows is its own, options too */
} cli_command;

/*
 * Parses argv (without the subcommand). Words that are no options go to *words. Returns -1 to go on, or the exit code:
 * EXIT_OK after --help, EXIT_USAGE after one line on stderr. cli_free releases lists either way.
 */
int cli_parse(const cli_command *command, int argc, char **argv, cli_list *words);
void cli_free(const cli_command *command, cli_list *words);

/* Appends comma-separated names to a CLI_NAMES list, as the option would. false: out of memory. */
bool cli_add_names(cli_list *list, const char *names);

/* "reef run: ..." on stderr as one line. */
__attribute__((format(printf, 2, 3))) void cli_message(const char *command, const char *format, ...);
/* The same with an exit code as value. Macros, so that a compiler sees in the caller which code comes back. */
#define cli_fail(...)  (cli_message(__VA_ARGS__), EXIT_FAILED)
#define cli_usage(...) (cli_message(__VA_ARGS__), EXIT_USAGE)
/* A library error; path is put in front unless the message names it already (NULL: none). */
int cli_error(const char *command, const char *path, const reef_error *error);

/* "NAME=VALUE": returns the value and copies the name; NULL when malformed or name does not fit. */
const char *cli_pair(const char *text, char *name, size_t size);
/* "x=1x3x224x224" into *out, whose name points into `name`. */
bool cli_shape(const char *text, char *name, size_t size, reef_shape *out);
/* Parses every --shape. *out is malloced, with names behind it. -1 or an exit code. */
int cli_shapes(const char *command, const cli_list *texts, reef_shape **out);

/* Whether the file can be written (it is made if it is not there); -1 or EXIT_FAILED. Found out now rather than after
 * minutes of work. path may be NULL. */
int cli_check_writable(const char *command, const char *option, const char *path);
/* Checks a device's or policy's name; -1 or EXIT_USAGE with the names there are. */
int cli_check_device(const char *command, const char *device);
int cli_check_policy(const char *command, const char *policy);
/* "fp32", "tf32" or "fp16" (NULL: the default); -1 or EXIT_USAGE. */
int cli_precision(const char *command, const char *text, reef_precision *out);
#define CLI_TRACE_HELP                                                                                                 \
    "write a timeline of requests, preemptions and kernel segments, to be opened in ui.perfetto.dev (the newest "      \
    "524288 "                                                                                                          \
    "spans)"
#define CLI_PRECISION_HELP                                                                                             \
    "fp32, tf32 (default) or fp16: the least precise arithmetic that may be used; the CPU always computes in fp32"

/* Text from a model for the terminal: control bytes become '?'. Returns buffer. */
const char *cli_printable(const char *text, char *buffer, size_t size);

#endif
