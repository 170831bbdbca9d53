/*
 * repository.h - the folder of models, and what is loaded of it.
 *
 *     MODELS/NAME.onnx               with an optional MODELS/NAME.json          version 1
 *     MODELS/NAME/VERSION/model.onnx with an optional MODELS/NAME/config.json   VERSION is a whole number
 *
 * One thread loads, unloads and destroys, one model after another; everybody else only looks up. A version that is being
 * replaced serves until its successor is ready. A model that fails to load is listed with the reason and disturbs none.
 */
#ifndef REEF_SERVE_REPOSITORY_H
#define REEF_SERVE_REPOSITORY_H

#include "serve/model.h"

typedef struct serve_repository serve_repository;

/* clang-format off */
#define SERVE_STATE_LIST(X) X(UNAVAILABLE) X(LOADING) X(READY) X(UNLOADING)
/* clang-format on */
typedef enum serve_state {
#define X(name) SERVE_##name,
    SERVE_STATE_LIST(X)
#undef X
} serve_state;

typedef enum serve_job_kind {
    SERVE_RESCAN, /* load what is new or changed, unload what is gone */
    SERVE_LOAD,   /* one model, again if it is loaded */
    SERVE_UNLOAD, /* one model, until it is loaded by name or its file changes */
} serve_job_kind;

typedef struct serve_repository_options {
    reef_device *device;
    const char *folder;
    unsigned queue_limit;
    reef_precision precision;
    const char *cache_dir; /* for profiles; NULL: beside the models */
    /* Told of every load and unload, on the loader's thread. */
    void (*report)(void *context, const char *name, const char *version, serve_state state, const char *text);
    /* Told that a client loaded or unloaded a model by name, so that a new process can be told. */
    void (*pinned)(void *context, const char *name, bool loaded);
    void *context;
    const char *const *unloaded; /* models that a client had unloaded in an earlier process */
    size_t n_unloaded;
} serve_repository_options;

/* Starts the thread, which begins with a rescan. Borrows the strings. IO (the folder), NO_MEMORY. */
reef_status serve_repository_create(const serve_repository_options *options, serve_repository **out, reef_error *error);
/* Unloads everything; waits until no request refers to a model. NULL is allowed. */
void serve_repository_destroy(serve_repository *repository);

/* Whether the first rescan is over. */
bool serve_repository_settled(serve_repository *repository);

/* A reference to what serves `name`; version NULL or "": the latest. NOT_FOUND; BUSY: known, but not ready, and why. */
reef_status serve_repository_find(serve_repository *repository, const char *name, const char *version,
                                  serve_model **out, reef_error *error);

/* Queues a job; done is called on the loader's thread with how it went. name is copied. NO_MEMORY; NOT_FOUND. */
typedef void (*serve_job_done)(void *context, reef_status status, const reef_error *error);
reef_status serve_repository_submit(serve_repository *repository, serve_job_kind kind, const char *name,
                                    serve_job_done done, void *context, reef_error *error);

/* One entry per version that there is or was. Strings live during the call; model may be NULL. */
typedef struct serve_entry_view {
    const char *name, *version, *reason;
    serve_state state;
    serve_model *model;
    serve_model_stats *stats;
} serve_entry_view;
void serve_repository_each(serve_repository *repository, void (*visit)(void *context, const serve_entry_view *entry),
                           void *context);
const char *serve_state_name(serve_state state);

#endif
