/*
 * options.c - see options.h.
 */
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/runner.h"

void cli_message(const char *command, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++) {
        *c = (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c;
    }
    fflush(stdout);
    fprintf(stderr, "reef%s%s: %s\n", *command ? " " : "", command, text);
}

int cli_error(const char *command, const char *path, const reef_error *error)
{
    const char *message = error->message[0] ? error->message : reef_status_text(error->status);
    bool named = !path || strstr(message, path);
    return cli_fail(command, "%s%s%s", named ? "" : path, named ? "" : ": ", message);
}

const char *cli_printable(const char *text, char *buffer, size_t size)
{
    size_t i = 0;
    for (; text && text[i] && i + 1 < size; i++) {
        buffer[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    }
    buffer[i] = 0;
    return buffer;
}

/* --------------------------------------------------------------------------------------------------- help -- */

/* text in lines of at most 80 characters, the second and later ones indented. */
static void print_wrapped(const char *text, int indent)
{
    while (strlen(text) > 80) {
        int length = 80;
        while (length > 40 && text[length] != ' ') {
            length--;
        }
        printf("%.*s\n%*s", length, text, indent, "");
        text += length + (text[length] == ' ');
    }
    printf("%s\n", text);
}

static void print_help(const cli_command *command)
{
    printf("usage: reef %s %s\n\n%s\n\noptions:\n", command->name, command->synopsis, command->about);
    for (size_t i = 0; i < command->n_options; i++) {
        const cli_option *option = &command->options[i];
        char left[64];
        char letter[] = {'-', option->letter, ',', ' ', 0};
        snprintf(left, sizeof left, "%s--%s%s%s", option->letter ? letter : "", option->name, option->value ? " " : "",
                 option->value ? option->value : "");
        printf("  %-26s ", left);
        print_wrapped(option->help, 29);
    }
    printf("  %-26s %s\n", "--help", "this text");
    printf("\nexamples:\n%s", command->examples);
    printf("\nexit status: %s\n",
           command->exits ? command->exits : "0 ok; 1 a file, model or device failed; 2 wrong usage");
}

/* ------------------------------------------------------------------------------------------------- parsing -- */

static bool append(cli_list *list, const char *item)
{
    const char **bigger = realloc(list->items, (list->n + 1) * sizeof *bigger);
    if (!bigger) {
        return false;
    }
    list->items = bigger;
    list->items[list->n++] = item;
    return true;
}

/* "a,b,c" -> three copies. */
bool cli_add_names(cli_list *list, const char *text)
{
    for (;;) {
        size_t length = strcspn(text, ",");
        char *copy = strndup(text, length);
        if (!copy || !append(list, copy)) {
            free(copy);
            return false;
        }
        if (!text[length]) {
            return true;
        }
        text += length + 1;
    }
}

/* typed: the option as it stands on the command line, "-n" or "--level". */
static int set_number(const cli_command *command, const cli_option *option, const char *typed, const char *value)
{
    char *end;
    errno = 0;
    if (option->kind == CLI_COUNT) {
        unsigned long long number = strtoull(value, &end, 10);
        if (!*value || *end || errno || !strchr("0123456789", *value) || (double)number < option->low ||
            (double)number > option->high) {
            return cli_usage(command->name, "%s: '%s' is not a whole number from %.0f to %.0f", typed, value,
                             option->low, option->high);
        }
        *(uint64_t *)option->to = number;
        return -1;
    }
    if (option->kind == CLI_INTEGER) {
        long long number = strtoll(value, &end, 10);
        if (!*value || *end || errno || !strchr("-0123456789", *value) || (double)number < option->low ||
            (double)number > option->high) {
            return cli_usage(command->name, "%s: '%s' is not a whole number from %.0f to %.0f", typed, value,
                             option->low, option->high);
        }
        *(int64_t *)option->to = number;
        return -1;
    }
    double number = strtod(value, &end);
    if (!*value || *end || !isfinite(number) || number < option->low || number > option->high) {
        return cli_usage(command->name, "%s: '%s' is not a number from %g to %g", typed, value, option->low,
                         option->high);
    }
    *(double *)option->to = number;
    return -1;
}

static int set(const cli_command *command, const cli_option *option, const char *typed, const char *value)
{
    bool ok = true;
    switch (option->kind) {
    case CLI_FLAG: *(bool *)option->to = true; return -1;
    case CLI_TEXT:
        if (!*value) {
            return cli_usage(command->name, "%s: needs a %s", typed, option->value);
        }
        *(const char **)option->to = value;
        return -1;
    case CLI_LIST: ok = append(option->to, value); break;
    case CLI_NAMES: ok = cli_add_names(option->to, value); break;
    case CLI_COUNT:
    case CLI_INTEGER:
    case CLI_SECONDS: return set_number(command, option, typed, value);
    }
    return ok ? -1 : cli_fail(command->name, "out of memory");
}

static const cli_option *find(const cli_command *command, const char *name, size_t length)
{
    for (size_t i = 0; i < command->n_options; i++) {
        if (strlen(command->options[i].name) == length && !memcmp(command->options[i].name, name, length)) {
            return &command->options[i];
        }
    }
    return NULL;
}

/* argv[*i] is "--something". */
static int parse_one(const cli_command *command, int argc, char **argv, int *i)
{
    const char *text = argv[*i] + 2, *value = NULL;
    size_t length = strcspn(text, "=");
    const cli_option *option = argv[*i][1] == '-' ? find(command, text, length) : NULL;
    for (size_t k = 0; argv[*i][1] != '-' && !argv[*i][2] && k < command->n_options; k++) {
        option = command->options[k].letter == argv[*i][1] ? &command->options[k] : option;
    }
    if (!option) {
        return cli_usage(command->name, "unknown option '%s'; see reef %s --help", argv[*i], command->name);
    }
    char typed[40];
    snprintf(typed, sizeof typed, "%.*s", (int)strcspn(argv[*i], "="), argv[*i]);
    if (argv[*i][1] == '-' && text[length]) {
        value = text + length + 1;
    }
    if (option->kind == CLI_FLAG && value) {
        return cli_usage(command->name, "%s: takes no value", typed);
    }
    if (option->kind != CLI_FLAG && !value) {
        if (*i + 1 >= argc) {
            return cli_usage(command->name, "%s: needs a %s", typed, option->value);
        }
        value = argv[++*i];
    }
    return set(command, option, typed, value);
}

int cli_parse(const cli_command *command, int argc, char **argv, cli_list *words)
{
    bool only_words = false;
    for (int i = 0; i < argc; i++) {
        const char *text = argv[i];
        if (!only_words && (!strcmp(text, "--help") || !strcmp(text, "-h"))) {
            print_help(command);
            return EXIT_OK;
        }
        if (!only_words && !strcmp(text, "--")) {
            only_words = true;
        } else if (!only_words && text[0] == '-' && text[1]) {
            int code = parse_one(command, argc, argv, &i);
            if (code >= 0) {
                return code;
            }
        } else if (words->n == command->max_words) {
            return cli_usage(command->name, "'%s' is one argument too many; see reef %s --help", text, command->name);
        } else if (!append(words, text)) {
            return cli_fail(command->name, "out of memory");
        } else {
            only_words = only_words || command->program;
        }
    }
    return words->n < command->min_words
               ? cli_usage(command->name, "%s is missing; see reef %s --help", command->word, command->name)
               : -1;
}

void cli_free(const cli_command *command, cli_list *words)
{
    for (size_t i = 0; i < command->n_options; i++) {
        const cli_option *option = &command->options[i];
        if (option->kind == CLI_LIST || option->kind == CLI_NAMES) {
            cli_list *list = option->to;
            for (size_t k = 0; option->kind == CLI_NAMES && k < list->n; k++) {
                free((char *)list->items[k]);
            }
            free(list->items);
            *list = (cli_list){0};
        }
    }
    free(words->items);
    *words = (cli_list){0};
}

const char *cli_pair(const char *text, char *name, size_t size)
{
    /* The last '=': names in models may hold one, file names seldom do. */
    const char *equals = strrchr(text, '=');
    if (!equals || equals == text || !equals[1] || (size_t)(equals - text) >= size) {
        return NULL;
    }
    memcpy(name, text, (size_t)(equals - text));
    name[equals - text] = 0;
    return equals + 1;
}

bool cli_shape(const char *text, char *name, size_t size, reef_shape *out)
{
    const char *at = cli_pair(text, name, size);
    if (!at) {
        return false;
    }
    *out = (reef_shape){.input = name};
    for (;;) {
        char *end;
        errno = 0;
        long long dim = strtoll(at, &end, 10);
        if (end == at || *at < '0' || *at > '9' || errno || dim < 1 || dim > INT32_MAX || out->rank == REEF_MAX_RANK) {
            return false;
        }
        out->dims[out->rank++] = dim;
        if (!*end) {
            return true;
        }
        if (*end != 'x' && *end != ',') {
            return false;
        }
        at = end + 1;
    }
}

int cli_shapes(const char *command, const cli_list *texts, reef_shape **out)
{
    enum { NAME = 256 };
    reef_shape *shapes = calloc(1, (texts->n + 1) * (sizeof *shapes + NAME));
    if (!shapes) {
        return cli_fail(command, "out of memory");
    }
    char *names = (char *)(shapes + texts->n + 1);
    for (size_t i = 0; i < texts->n; i++) {
        if (!cli_shape(texts->items[i], names + i * NAME, NAME, &shapes[i])) {
            int code = cli_usage(command, "--shape: '%s' is not NAME=1x3x224x224 (up to %d positive dimensions)",
                                 texts->items[i], REEF_MAX_RANK);
            free(shapes);
            return code;
        }
    }
    *out = shapes;
    return -1;
}

int cli_check_writable(const char *command, const char *option, const char *path)
{
    FILE *file = path ? fopen(path, "a") : NULL;
    if (path && !file) {
        return cli_fail(command, "--%s: %s cannot be written", option, path);
    }
    if (file) {
        fclose(file);
    }
    return -1;
}

int cli_check_device(const char *command, const char *device)
{
    reef_error error = {0};
    return bench_check_device(device, &error) ? cli_usage(command, "--device: %s", error.message) : -1;
}

int cli_check_policy(const char *command, const char *policy)
{
    reef_error error = {0};
    return bench_check_policy(policy, NULL, &error) ? cli_usage(command, "--policy: %s", error.message) : -1;
}

int cli_precision(const char *command, const char *text, reef_precision *out)
{
    *out = REEF_PRECISION_DEFAULT;
    for (int i = REEF_PRECISION_FP32; text && i <= REEF_PRECISION_FP16; i++) {
        if (!strcmp(text, reef_precision_name((reef_precision)i))) {
            *out = (reef_precision)i;
            return -1;
        }
    }
    return text ? cli_usage(command, "--precision: '%s' is none of fp32, tf32, fp16", text) : -1;
}
