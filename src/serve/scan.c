/*
 * scan.c - see scan.h.
 */
#include "serve/scan.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

typedef struct scanner {
    const char *folder;
    void (*skipped)(void *context, const char *name, const char *why);
    void *context;
    serve_scan *out;
    reef_error *error;
} scanner;

bool serve_name_ok(const char *name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = strlen(name);
    return n > 0 && n < SERVE_NAME_BYTES && strspn(name, allowed) == n && name[0] != '.';
}

int serve_version_order(const char *a, const char *b)
{
    size_t m = strlen(a), n = strlen(b);
    return m != n ? (m < n ? -1 : 1) : strcmp(a, b);
}

static void skip(const scanner *s, const char *name, const char *why)
{
    if (s->skipped) {
        s->skipped(s->context, name, why);
    }
}

static bool later(struct timespec a, struct timespec b)
{
    return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

static reef_status no_memory(const scanner *s)
{
    return reef_fail(s->error, REEF_NO_MEMORY, "out of memory");
}

/* path, config_path and folder become the entry's, or are freed. */
static reef_status add(const scanner *s, const char *name, size_t length, const char *version, char *path,
                       char *config_path, char *folder)
{
    struct stat info, config;
    serve_found *bigger = NULL;
    bool model = path && stat(path, &info) == 0 && S_ISREG(info.st_mode);
    if (path && config_path && folder && model) {
        bigger = realloc(s->out->items, (s->out->n + 1) * sizeof *bigger);
    }
    if (!bigger) {
        reef_status status = model || !path || !config_path || !folder ? no_memory(s) : REEF_OK;
        free(path);
        free(config_path);
        free(folder);
        return status;
    }
    s->out->items = bigger;
    serve_found *found = &bigger[s->out->n++];
    *found = (serve_found){
        .path = path, .config_path = config_path, .folder = folder, .changed = info.st_mtim, .bytes = info.st_size};
    snprintf(found->name, sizeof found->name, "%.*s", (int)length, name);
    snprintf(found->version, sizeof found->version, "%s", version);
    if (stat(config_path, &config) == 0 && later(config.st_mtim, found->changed)) {
        found->changed = config.st_mtim;
    }
    return REEF_OK;
}

static reef_status add_flat(const scanner *s, const char *file)
{
    char name[SERVE_NAME_BYTES], *path = NULL, *config = NULL;
    size_t length = strlen(file) - 5;
    if (length >= sizeof name) {
        skip(s, file, "its name is too long");
        return REEF_OK;
    }
    memcpy(name, file, length);
    name[length] = 0;
    if (!serve_name_ok(name)) {
        skip(s, file, "names of models hold letters, digits, '.', '_' and '-' only");
        return REEF_OK;
    }
    if (asprintf(&path, "%s/%s", s->folder, file) < 0) {
        path = NULL;
    }
    if (asprintf(&config, "%s/%s.json", s->folder, name) < 0) {
        config = NULL;
    }
    return add(s, name, length, "1", path, config, strdup(s->folder));
}

static reef_status add_versions(const scanner *s, const char *name)
{
    char *folder = NULL;
    if (asprintf(&folder, "%s/%s", s->folder, name) < 0) {
        return no_memory(s);
    }
    DIR *list = opendir(folder);
    reef_status status = REEF_OK;
    for (struct dirent *entry; list && !status && (entry = readdir(list));) {
        const char *version = entry->d_name;
        size_t digits = strspn(version, "0123456789");
        if (digits == 0 || version[digits] || version[0] == '0' || digits > 9) {
            continue;
        }
        if (!serve_name_ok(name)) {
            skip(s, name, "names of models hold letters, digits, '.', '_' and '-' only");
            break;
        }
        char *path = NULL, *config = NULL;
        if (asprintf(&path, "%s/%s/model.onnx", folder, version) < 0) {
            path = NULL;
        }
        if (asprintf(&config, "%s/config.json", folder) < 0) {
            config = NULL;
        }
        status = add(s, name, strlen(name), version, path, config, strdup(folder));
    }
    if (list) {
        closedir(list);
    }
    free(folder);
    return status;
}

static int compare(const void *a, const void *b)
{
    const serve_found *x = a, *y = b;
    int names = strcmp(x->name, y->name);
    return names ? names : serve_version_order(x->version, y->version);
}

reef_status serve_scan_folder(const char *folder, void (*skipped)(void *context, const char *name, const char *why),
                              void *context, serve_scan *out, reef_error *error)
{
    scanner s = {folder, skipped, context, out, error};
    *out = (serve_scan){0};
    DIR *list = opendir(folder);
    if (!list) {
        return reef_fail(error, REEF_IO, "%s: %s; it must be a folder of models", folder, strerror(errno));
    }
    reef_status status = REEF_OK;
    for (struct dirent *entry; !status && (entry = readdir(list));) {
        const char *name = entry->d_name;
        size_t length = strlen(name);
        if (name[0] == '.') {
            continue;
        }
        status = length > 5 && !strcmp(name + length - 5, ".onnx") ? add_flat(&s, name) : add_versions(&s, name);
    }
    closedir(list);
    if (!status && out->n) {
        qsort(out->items, out->n, sizeof *out->items, compare);
    }
    size_t kept = 0; /* NAME.onnx and NAME/1/model.onnx: the first wins */
    for (size_t i = 0; i < out->n; i++) {
        if (kept && compare(&out->items[kept - 1], &out->items[i]) == 0) {
            skip(&s, out->items[i].path, "this version is there twice");
            free(out->items[i].path);
            free(out->items[i].config_path);
            free(out->items[i].folder);
        } else {
            out->items[kept++] = out->items[i];
        }
    }
    out->n = kept;
    if (status) {
        serve_scan_free(out);
    }
    return status;
}

void serve_scan_free(serve_scan *scan)
{
    for (size_t i = 0; i < scan->n; i++) {
        free(scan->items[i].path);
        free(scan->items[i].config_path);
        free(scan->items[i].folder);
    }
    free(scan->items);
    *scan = (serve_scan){0};
}
