/*
 * own.c - a program that sets the time slice of its own channel groups (src/nice/own.h), with client.c as its libcuda.
 *
 *     own LIBRARY SLICE HOW...       says "SLICE us in N groups", or why there is none; then each HOW is run, and it is said again
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "nice/own.h"

static void tell(void)
{
    reef_error error = {0};
    uint32_t us = 0;
    unsigned groups = 0;
    if (nice_own_slice_get(&us, &groups, &error)) {
        printf("none: %s\n", error.message);
    } else {
        printf("%u us in %u groups\n", (unsigned)us, groups);
    }
}

int main(int argc, char **argv)
{
    reef_error error = {0};
    void *library = argc > 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    int (*client)(int, char **) = NULL;
    if (library) {
        *(void **)&client = dlsym(library, "client_main");
    }
    if (!client) {
        fprintf(stderr, "own: no library\n");
        return 2;
    }
    if (nice_own_slice(library, nice_rule_of_slice((uint32_t)strtoul(argv[2], NULL, 10)), &error)) {
        printf("%s: %s\n", reef_status_name(error.status), error.message);
    }
    tell();
    for (int i = 3; i < argc; i++) {
        char *arguments[] = {argv[0], argv[i], NULL};
        if (client(2, arguments)) {
            return 1;
        }
        tell();
    }
    /* Another slice, for what is there. */
    if (nice_own_slice(library, nice_rule_of_slice(4000), &error)) {
        printf("%s: %s\n", reef_status_name(error.status), error.message);
    }
    tell();
    return 0;
}
