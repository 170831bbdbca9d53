/*
 * main.c - the reef command: finds the subcommand. The command line uses include/reef/ only, so that whatever it can do
 * a program that embeds reef can do too.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/options.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} commands[] = {
    {"run", cli_run, "run an ONNX model once or many times"},
    {"inspect", cli_inspect, "show a model's inputs, kernels and memory"},
    {"profile", cli_profile, "measure a model's kernels alone on the device"},
    {"bench", cli_bench, "play a workload of real-time and best-effort clients under one or more policies"},
    {"serve", cli_serve, "serve a folder of models over HTTP and shared memory"},
    {"top", cli_top, "show what a server does, live"},
    {"devices", cli_devices, "list devices and policies"},
    {"nice", cli_nice, "run any CUDA program so that it yields the GPU to others"},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(void)
{
    printf("usage: reef COMMAND [arguments]\n\n"
           "Inference for real-time and best-effort callers on one device.\n\ncommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        printf("  %-10s %s\n", commands[i].name, commands[i].about);
    }
    printf("\nreef COMMAND --help says more; reef --version prints the version\n");
}

int main(int argc, char **argv)
{
    /* nice becomes another program, which inherits what is ignored here. */
    if (argc < 2 || strcmp(argv[1], "nice") != 0) {
        signal(SIGPIPE, SIG_IGN);
    }
    if (argc < 2) {
        return cli_usage("", "a command is missing; see reef --help");
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help();
        return EXIT_OK;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("reef %s\n", reef_version());
        return EXIT_OK;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (!strcmp(argv[1], commands[i].name)) {
            int code = commands[i].run(argc - 2, argv + 2);
            if (fflush(stdout) || ferror(stdout)) {
                return code ? code : cli_fail(commands[i].name, "standard output cannot be written");
            }
            return code;
        }
    }
    return cli_usage("", "unknown command '%s'; there are run, inspect, profile, bench, serve, top, devices and nice",
                     argv[1]);
}
