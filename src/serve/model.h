/*
 * model.h - one loaded version of a model: what stands between its name and the engine's sessions.
 *
 *     serve_model -> variant (batch 1) -> engine's model -> sessions RT, BE
 *                 -> variant (batch 2) ...                    only where the configuration asks for batching
 *
 * Reference counted: the repository holds one reference, every request another. A request that is under way keeps the
 * model it was given, also when it is unloaded or replaced meanwhile.
 */
#ifndef REEF_SERVE_MODEL_H
#define REEF_SERVE_MODEL_H

#include <stdatomic.h>

#include "serve/config.h"
#include "serve/request.h"
#include "serve/stats.h"

typedef struct serve_variant {
    unsigned batch;
    reef_model *model;
    reef_session *sessions[2]; /* by reef_class */
} serve_variant;

enum { SERVE_MAX_VARIANTS = 9 };

typedef struct serve_model {
    char name[SERVE_NAME_BYTES], version[16];
    serve_config config;
    serve_signature signature;
    serve_io *inputs, *outputs;
    serve_variant variants[SERVE_MAX_VARIANTS]; /* ascending batch sizes */
    size_t n_variants;
    unsigned queue_limit;
    uint64_t solo_ns;         /* of the smallest variant, alone on the device */
    size_t bytes;             /* weights and activations */
    serve_model_stats *stats; /* borrowed: outlives reloads */
    struct serve_batcher *batcher;
    _Atomic unsigned references;
    void (*on_unused)(void *context,
                      struct serve_model *model); /* from whoever dropped the last reference: must not block */
    void *context;
    struct serve_model *next; /* for on_unused */
} serve_model;

typedef struct serve_model_options {
    reef_device *device;
    const char *name, *version, *path, *folder; /* folder: where the configuration's files lie */
    unsigned queue_limit;                       /* unless the configuration says */
    reef_precision precision;                   /* unless the configuration says */
    const char *cache_dir;
    serve_model_stats *stats;
    void (*on_unused)(void *context, struct serve_model *model);
    void *context;
} serve_model_options;

/* Takes *config, also when it fails. The model has one reference. Errors are the engine's and say what to put into the
 * configuration. Takes seconds: not for threads that serve. */
reef_status serve_model_load(const serve_model_options *options, serve_config *config, serve_model **out,
                             reef_error *error);
/* Nothing may refer to it. NULL is allowed. */
void serve_model_destroy(serve_model *model);
void serve_model_hold(serve_model *model);
void serve_model_drop(serve_model *model);
/* The smallest variant that takes `batch` items. */
const serve_variant *serve_model_variant(const serve_model *model, unsigned batch);

#endif
