/*
 * config.h - the optional JSON beside a model: how it is to be served.
 *
 *     {"class": "rt", "shapes": {"x": [1, 3, 224, 224]}, "precision": "fp16", "instances": 1, "queue": 64, "weight": 1,
 *      "batching": {"max_batch": 8, "delay_us": 2000}, "labels": {"scores": "labels.txt"}, "versions": "latest"}
 *
 * A field that is not known is refused, so that a misspelt one is not silently without effect.
 */
#ifndef REEF_SERVE_CONFIG_H
#define REEF_SERVE_CONFIG_H

#include "base/arena.h"
#include "reef/reef.h"

enum { SERVE_MAX_BATCH = 256 };

typedef struct serve_labels {
    const char *output, *file; /* file: a name beside the configuration */
} serve_labels;

typedef struct serve_config {
    reef_arena arena;
    reef_class service_class; /* of requests that do not say; BE */
    reef_precision precision;
    reef_shape *shapes;
    size_t n_shapes;
    unsigned instances; /* 0: the engine's default */
    unsigned queue;     /* requests that may wait, per class; 0: the server's */
    unsigned weight;
    unsigned max_batch; /* 0: requests are not batched */
    uint64_t delay_us;  /* that a best-effort request may wait for others to share its batch */
    serve_labels *labels;
    size_t n_labels;
    bool all_versions; /* instead of the latest */
    int64_t *versions; /* or these */
    size_t n_versions;
} serve_config;

/* The defaults; then what the JSON says. origin names the file in errors. *out is zeroed or filled; free it either way.
 * FORMAT, NO_MEMORY. */
reef_status serve_config_parse(const char *json, size_t bytes, const char *origin, serve_config *out,
                               reef_error *error);
/* The same from a file; one that does not exist has no fields. IO. */
reef_status serve_config_load(const char *path, serve_config *out, reef_error *error);
void serve_config_free(serve_config *config);

#endif
