/*
 * json_file.h - reading a cache that anybody may have written to.
 */
#ifndef REEF_BASE_JSON_FILE_H
#define REEF_BASE_JSON_FILE_H

#include <jansson.h>

/* The JSON in a regular file of at most 64 MiB, without duplicate keys; NULL for everything else (nothing there, a pipe,
 * a folder, damaged, out of memory). Never blocks on what is no file. */
json_t *reef_json_read(const char *path);

#endif
