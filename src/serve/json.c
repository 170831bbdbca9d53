/*
 * json.c - a limit on the memory that JSON from outside may take: a body of "0,0,0," costs some twenty times its size.
 */
#include <jansson.h>
#include <malloc.h>
#include <stdlib.h>

#include "serve/request.h"

static _Thread_local size_t left;
static _Thread_local bool limited;

static void *take(size_t bytes)
{
    if (limited && bytes > left) {
        return NULL;
    }
    void *memory = malloc(bytes);
    if (memory && limited) {
        size_t used = malloc_usable_size(memory);
        left -= used < left ? used : left;
    }
    return memory;
}

static void give(void *memory)
{
    if (limited && memory) {
        left += malloc_usable_size(memory);
    }
    free(memory);
}

void serve_json_setup(void)
{
    json_set_alloc_funcs(take, give);
}

void serve_json_budget(size_t bytes)
{
    limited = bytes > 0;
    left = bytes;
}
