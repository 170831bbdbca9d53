/*
 * profile.c - reef profile.
 */
#include "cli/commands.h"
#include "cli/show.h"

int cli_profile(int argc, char **argv)
{
    cli_show show = {.command = "profile", .device = "cpu", .profile_runs = 20};
    cli_option options[] = {
        {"shape", "NAME=DIMS", "dimensions of an input that has dynamic ones, such as x=1x3x224x224; may be repeated",
         CLI_LIST, &show.shape_texts, 0, 0},
        {"runs", "N", "measurements per kernel (default 20)", CLI_COUNT, &show.profile_runs, 1, 100000},
        {"device", "NAME", "device to compile for (default cpu)", CLI_TEXT, &show.device, 0, 0},
        {"precision", "P", CLI_PRECISION_HELP, CLI_TEXT, &show.precision_text, 0, 0},
        {"units", "N", "compute units (default: one per processor)", CLI_COUNT, &show.units, 1, 4096},
        {"json", NULL, "print JSON", CLI_FLAG, &show.as_json, 0, 0},
    };
    cli_command command = {
        .name = show.command,
        .synopsis = "MODEL.onnx [options]",
        .about = "Measures every kernel of a model alone on the device, keeps the result beside the model for the\n"
                 "scheduler, and shows it.",
        .examples = "  reef profile resnet152.onnx --shape input=1x3x224x224 --runs 50\n",
        .options = options,
        .n_options = sizeof options / sizeof options[0],
        .min_words = 1,
        .max_words = 1,
        .word = "MODEL.onnx",
    };
    return cli_show_command(&command, &show, argc, argv);
}
