/*
 * scan.h - what models a folder holds. Names are [A-Za-z0-9._-], so that they fit into a URL and a metric as they are.
 */
#ifndef REEF_SERVE_SCAN_H
#define REEF_SERVE_SCAN_H

#include <sys/stat.h>

#include "serve/config.h"
#include "serve/request.h"

typedef struct serve_found {
    char name[SERVE_NAME_BYTES], version[16];
    char *path, *config_path, *folder;
    struct timespec changed; /* the later of the model's and its configuration's */
    off_t bytes;
} serve_found;

typedef struct serve_scan {
    serve_found *items; /* sorted by name, then version */
    size_t n;
} serve_scan;

/* Files and folders that are no models are passed over; `skipped` (may be NULL) is told of those that look like ones. IO,
 * NO_MEMORY. */
reef_status serve_scan_folder(const char *folder, void (*skipped)(void *context, const char *name, const char *why),
                              void *context, serve_scan *out, reef_error *error);
void serve_scan_free(serve_scan *scan);
bool serve_name_ok(const char *name);
/* Negative, 0 or positive; versions are whole numbers without leading zeros. */
int serve_version_order(const char *a, const char *b);

#endif
