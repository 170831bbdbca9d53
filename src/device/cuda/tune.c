/*
 * tune.c - what was measured before, on disk: for each computation the variant that was fastest on this GPU under this
 * driver with these kernels.
 *
 *     reef.NVIDIA-H200-cuda13000-sm132.tuning.json
 *     { "format": 1, "code": "9f..", "entries": { "<key>": { "variant": "igemm 64x64 split 4", "ns": 4100 } } }
 *
 * The key covers every candidate with its shape and arguments, so an entry that no longer fits is simply not found. A
 * file or entry that makes no sense counts as absent and is replaced.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/cuda/cuda.h"

enum { TUNING_FORMAT = 1 };
static const json_int_t MAX_NS = INT64_C(60) * 1000000000; /* no kernel that was measured took longer */

struct cuda_tuning {
    char *path;      /* NULL: nowhere to keep it */
    json_t *entries; /* by key; of the file, and new ones */
    char code[24];
    bool changed;
};

static json_t *read_entries(const cuda_tuning *tuning)
{
    json_t *root = tuning->path ? json_load_file(tuning->path, JSON_REJECT_DUPLICATES, NULL) : NULL;
    int format = 0;
    const char *code = NULL;
    json_t *entries = NULL;
    if (root && !json_unpack(root, "{s:i, s:s, s:o}", "format", &format, "code", &code, "entries", &entries) &&
        format == TUNING_FORMAT && !strcmp(code, tuning->code) && json_is_object(entries)) {
        json_incref(entries);
    } else {
        entries = json_object();
    }
    json_decref(root);
    return entries;
}

cuda_tuning *cuda_tuning_open(const cuda_device *device, const char *folder)
{
    cuda_tuning *tuning = calloc(1, sizeof *tuning);
    if (!tuning) {
        return NULL;
    }
    if (folder &&
        asprintf(&tuning->path, "%s/reef.%s%u.tuning.json", folder, device->base.model, device->base.units) < 0) {
        tuning->path = NULL;
    }
    snprintf(tuning->code, sizeof tuning->code, "%016llx", (unsigned long long)device->code_hash);
    tuning->entries = read_entries(tuning);
    return tuning;
}

static void text_of(uint64_t key, char text[24])
{
    snprintf(text, 24, "%016llx", (unsigned long long)key);
}

int cuda_tuning_find(const cuda_tuning *tuning, uint64_t key, const reef_cuda_kernel *candidates, size_t n,
                     uint64_t *ns)
{
    char text[24];
    const char *variant = NULL;
    json_int_t took = 0;
    text_of(key, text);
    json_t *entry = tuning ? json_object_get(tuning->entries, text) : NULL;
    if (!entry || json_unpack(entry, "{s:s, s:I}", "variant", &variant, "ns", &took) || took < 1 || took > MAX_NS) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(candidates[i].variant, variant)) {
            *ns = (uint64_t)took;
            return (int)i;
        }
    }
    return -1;
}

void cuda_tuning_add(cuda_tuning *tuning, uint64_t key, const char *variant, uint64_t ns)
{
    if (tuning) {
        char text[24];
        text_of(key, text);
        json_object_set_new(tuning->entries, text,
                            json_pack("{s:s, s:I}", "variant", variant, "ns", (json_int_t)(ns ? ns : 1)));
        tuning->changed = true;
    }
}

/* Written beside and renamed, so that no reader ever sees half a file; what another process added meanwhile stays. */
static void save(cuda_tuning *tuning)
{
    char *temporary = NULL;
    if (asprintf(&temporary, "%s.%ld.tmp", tuning->path, (long)getpid()) < 0) {
        return;
    }
    json_t *others = read_entries(tuning);
    json_object_update_missing(tuning->entries, others);
    json_decref(others);
    json_t *root =
        json_pack("{s:i, s:s, s:O}", "format", TUNING_FORMAT, "code", tuning->code, "entries", tuning->entries);
    if (!root || json_dump_file(root, temporary, JSON_INDENT(1) | JSON_SORT_KEYS) || rename(temporary, tuning->path)) {
        unlink(temporary); /* the next load measures again */
    }
    json_decref(root);
    free(temporary);
}

void cuda_tuning_close(cuda_tuning *tuning)
{
    if (!tuning) {
        return;
    }
    if (tuning->path && tuning->changed) {
        save(tuning);
    }
    json_decref(tuning->entries);
    free(tuning->path);
    free(tuning);
}
