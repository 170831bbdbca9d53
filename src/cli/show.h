/*
 * show.h - what became of a model: inputs, outputs, kernels, buffers. inspect shows it, profile measures first.
 */
#ifndef REEF_CLI_SHOW_H
#define REEF_CLI_SHOW_H

#include "cli/options.h"

typedef struct cli_show {
    const char *command, *device, *precision_text;
    reef_precision precision;
    uint64_t units, profile_runs; /* runs 0: do not measure */
    bool as_json;
    cli_list shape_texts;
    reef_shape *shapes; /* from shape_texts; owned by cli_show_command */
} cli_show;

/* Parses the arguments into show (the command's options point there), loads the model and shows it. */
int cli_show_command(cli_command *command, cli_show *show, int argc, char **argv);

#endif
