/*
 * commands.h - the subcommands. Each gets its arguments without its own name and returns the exit code.
 */
#ifndef REEF_CLI_COMMANDS_H
#define REEF_CLI_COMMANDS_H

int cli_run(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_profile(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_bench_remote(int argc, char **argv); /* reef bench --url, --ring */
int cli_serve(int argc, char **argv);
int cli_top(int argc, char **argv);
int cli_devices(int argc, char **argv);
int cli_nice(int argc, char **argv);

#endif
