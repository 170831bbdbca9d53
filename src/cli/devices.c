/*
 * devices.c - reef devices.
 */
#include <jansson.h>
#include <stdio.h>

#include "cli/commands.h"
#include "cli/options.h"

static void print_json(void)
{
    const char *name, *text;
    json_t *devices = json_array(), *policies = json_array();
    for (size_t i = 0; reef_device_list(i, &name, &text); i++) {
        json_array_append_new(devices, json_pack("{s:s, s:s}", "name", name, "description", text));
    }
    for (size_t i = 0; reef_policy_list(i, &name, &text); i++) {
        json_array_append_new(policies, json_pack("{s:s, s:s}", "name", name, "meaning", text));
    }
    json_t *root =
        json_pack("{s:o, s:o, s:s}", "devices", devices, "policies", policies, "reef_version", reef_version());
    json_dumpf(root, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(root);
}

int cli_devices(int argc, char **argv)
{
    bool as_json = false;
    cli_option options[] = {{"json", NULL, "print JSON", CLI_FLAG, &as_json, 0, 0}};
    cli_command command = {
        .name = "devices",
        .synopsis = "[--json]",
        .about = "Lists the devices that this build can open here, and the scheduling policies.",
        .examples = "  reef devices\n",
        .options = options,
        .n_options = 1,
    };
    cli_list words = {0};
    int code = cli_parse(&command, argc, argv, &words);
    if (code < 0) {
        const char *name, *text;
        if (as_json) {
            print_json();
        } else {
            printf("devices:\n");
            for (size_t i = 0; reef_device_list(i, &name, &text); i++) {
                printf("  %-10s %s\n", name, text);
            }
            printf("policies:\n");
            for (size_t i = 0; reef_policy_list(i, &name, &text); i++) {
                printf("  %-10s %s\n", name, text);
            }
        }
        code = EXIT_OK;
    }
    cli_free(&command, &words);
    return code;
}
