/*
 * repository.c - see repository.h.
 *
 * Invariant: entries are never freed before the repository is, and only the loader's thread changes them, under the lock;
 * so it may read them without, and everybody else reads them under it.
 */
#include "serve/repository.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/list.h"
#include "base/thread.h"
#include "serve/scan.h"

typedef struct entry {
    struct entry *next;
    char name[SERVE_NAME_BYTES], version[16], reason[480];
    serve_state state;
    serve_model *model; /* the repository's reference */
    serve_model_stats stats;
    struct timespec changed; /* of what was loaded last, or failed to */
    off_t bytes;
    bool pinned_out; /* unloaded by name */
    bool seen;       /* by the scan under way */
} entry;

typedef struct job {
    struct job *next;
    serve_job_kind kind;
    char name[SERVE_NAME_BYTES];
    serve_job_done done;
    void *context;
} job;

struct serve_repository {
    serve_repository_options options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    entry *entries; /* by name, then version */
    job *jobs;
    serve_model *unused; /* to be destroyed */
    size_t alive;        /* models that exist */
    _Atomic bool stop;   /* written under the lock; the loader looks at it between models */
    bool settled;
};

const char *serve_state_name(serve_state state)
{
    static const char *const names[] = {
#define X(name) #name,
        SERVE_STATE_LIST(X)
#undef X
    };
    return names[state];
}

static void on_unused(void *context, serve_model *model)
{
    serve_repository *r = context;
    pthread_mutex_lock(&r->lock);
    model->next = r->unused;
    r->unused = model;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void set_state(serve_repository *r, entry *e, serve_state state, const char *reason)
{
    pthread_mutex_lock(&r->lock);
    e->state = state;
    snprintf(e->reason, sizeof e->reason, "%s", reason);
    pthread_mutex_unlock(&r->lock);
    if (r->options.report) {
        r->options.report(r->options.context, e->name, e->version, state, reason);
    }
}

static void swap_model(serve_repository *r, entry *e, serve_model *model)
{
    pthread_mutex_lock(&r->lock);
    serve_model *old = e->model;
    e->model = model;
    pthread_mutex_unlock(&r->lock);
    serve_model_drop(old);
}

static int order(const entry *e, const char *name, const char *version)
{
    int names = strcmp(e->name, name);
    return names ? names : serve_version_order(e->version, version);
}

static entry *find_or_add(serve_repository *r, const char *name, const char *version)
{
    entry **link = &r->entries;
    while (*link && order(*link, name, version) < 0) {
        link = &(*link)->next;
    }
    if (*link && order(*link, name, version) == 0) {
        return *link;
    }
    entry *e = calloc(1, sizeof *e);
    if (e) {
        snprintf(e->name, sizeof e->name, "%s", name);
        snprintf(e->version, sizeof e->version, "%s", version);
        for (size_t i = 0; i < r->options.n_unloaded; i++) {
            e->pinned_out |= !strcmp(r->options.unloaded[i], name);
        }
        pthread_mutex_lock(&r->lock);
        e->next = *link;
        *link = e;
        pthread_mutex_unlock(&r->lock);
    }
    return e;
}

/* ------------------------------------------------------------------------------------------ loading, unloading -- */

static reef_status load_entry(serve_repository *r, entry *e, const serve_found *found, reef_error *error)
{
    serve_config config;
    serve_model *model = NULL;
    e->changed = found->changed;
    e->bytes = found->bytes;
    if (!e->model) {
        set_state(r, e, SERVE_LOADING, "");
    }
    reef_status status = serve_config_load(found->config_path, &config, error);
    if (status) {
        serve_config_free(&config);
    } else {
        serve_model_options options = {
            .device = r->options.device,
            .name = e->name,
            .version = e->version,
            .path = found->path,
            .folder = found->folder,
            .queue_limit = r->options.queue_limit,
            .precision = r->options.precision,
            .cache_dir = r->options.cache_dir,
            .stats = &e->stats,
            .on_unused = on_unused,
            .context = r,
        };
        status = serve_model_load(&options, &config, &model, error);
    }
    if (!status) {
        pthread_mutex_lock(&r->lock);
        r->alive++;
        pthread_mutex_unlock(&r->lock);
        swap_model(r, e, model);
        set_state(r, e, SERVE_READY, "");
    } else if (e->model) {
        char text[480];
        snprintf(text, sizeof text, "the loaded one goes on serving; loading it anew failed: %.400s", error->message);
        set_state(r, e, SERVE_READY, text);
    } else {
        set_state(r, e, SERVE_UNAVAILABLE, error->message);
    }
    return status;
}

static void unload_entry(serve_repository *r, entry *e, const char *reason)
{
    if (e->model) {
        set_state(r, e, SERVE_UNLOADING, reason);
        swap_model(r, e, NULL);
        /* destroy_unused says UNAVAILABLE once the last request has let go of it */
    } else {
        set_state(r, e, SERVE_UNAVAILABLE, reason);
    }
}

static void destroy_unused(serve_repository *r, serve_model *list)
{
    while (list) {
        serve_model *model = list;
        list = model->next;
        for (entry *e = r->entries; e; e = e->next) {
            if (&e->stats == model->stats && e->state == SERVE_UNLOADING) {
                char reason[sizeof e->reason];
                memcpy(reason, e->reason, sizeof reason);
                set_state(r, e, SERVE_UNAVAILABLE, reason);
            }
        }
        serve_model_destroy(model);
        pthread_mutex_lock(&r->lock);
        r->alive--;
        pthread_mutex_unlock(&r->lock);
    }
}

/* Whether the configuration asks for this version; when it cannot be read, loading will say why. */
static bool version_wanted(const serve_scan *scan, const serve_found *found)
{
    serve_config config;
    reef_error error;
    const serve_found *latest = found;
    for (size_t i = 0; i < scan->n; i++) {
        const serve_found *other = &scan->items[i];
        if (!strcmp(other->name, found->name) && serve_version_order(other->version, latest->version) > 0) {
            latest = other;
        }
    }
    bool wanted = latest == found;
    if (!serve_config_load(found->config_path, &config, &error)) {
        wanted |= config.all_versions;
        for (size_t i = 0; i < config.n_versions; i++) {
            wanted = i == 0 ? false : wanted;
            wanted |= config.versions[i] == strtoll(found->version, NULL, 10);
        }
    }
    serve_config_free(&config);
    return wanted;
}

static void on_skipped(void *context, const char *name, const char *why)
{
    serve_repository *r = context;
    if (r->options.report) {
        r->options.report(r->options.context, name, "", SERVE_UNAVAILABLE, why);
    }
}

static bool changed_since(const entry *e, const serve_found *found)
{
    return e->bytes != found->bytes || e->changed.tv_sec != found->changed.tv_sec ||
           e->changed.tv_nsec != found->changed.tv_nsec;
}

/* name NULL: everything that is new or changed; otherwise that model, whatever its state. */
static reef_status rescan(serve_repository *r, const char *name, reef_error *error)
{
    serve_scan scan;
    reef_status status = serve_scan_folder(r->options.folder, name ? NULL : on_skipped, r, &scan, error),
                worst = REEF_OK;
    if (status) {
        return status;
    }
    bool any = false;
    for (entry *e = r->entries; e; e = e->next) {
        e->seen = false;
    }
    for (size_t i = 0; i < scan.n && !r->stop; i++) {
        const serve_found *found = &scan.items[i];
        if ((name && strcmp(name, found->name) != 0) || !version_wanted(&scan, found)) {
            continue;
        }
        any = true;
        entry *e = find_or_add(r, found->name, found->version);
        if (!e) {
            worst = reef_fail(error, REEF_NO_MEMORY, "out of memory");
            break;
        }
        e->seen = true;
        if (name || (e->pinned_out && e->bytes && changed_since(e, found))) {
            e->pinned_out = false;
        }
        if (e->pinned_out) {
            if (!e->bytes) { /* from an earlier process */
                e->bytes = found->bytes;
                e->changed = found->changed;
                set_state(r, e, SERVE_UNAVAILABLE, "unloaded");
            }
        } else if (name || e->state != SERVE_READY || changed_since(e, found)) {
            reef_error cause = {0};
            status = load_entry(r, e, found, &cause);
            if (status) {
                worst = status;
                *error = cause;
            }
        }
    }
    serve_scan_free(&scan);
    for (entry *e = r->entries; e && !r->stop; e = e->next) {
        if (!e->seen && (e->model || e->state == SERVE_LOADING) && (!name || !strcmp(name, e->name))) {
            unload_entry(r, e, "no longer in the folder, or a later version serves");
        }
    }
    return name && !any ? reef_fail(error, REEF_NOT_FOUND, "no model '%s' in the folder of models", name) : worst;
}

static reef_status unload_named(serve_repository *r, const char *name, reef_error *error)
{
    bool any = false;
    for (entry *e = r->entries; e; e = e->next) {
        if (!strcmp(e->name, name)) {
            any = true;
            e->pinned_out = true;
            unload_entry(r, e, "unloaded");
        }
    }
    return any ? REEF_OK : reef_fail(error, REEF_NOT_FOUND, "no model '%s'", name);
}

static void run_job(serve_repository *r, job *j)
{
    reef_error error = {0};
    reef_status status = j->kind == SERVE_UNLOAD ? unload_named(r, j->name, &error)
                                                 : rescan(r, j->kind == SERVE_LOAD ? j->name : NULL, &error);
    if (!status && j->kind != SERVE_RESCAN && r->options.pinned) {
        r->options.pinned(r->options.context, j->name, j->kind == SERVE_LOAD);
    }
    if (j->done) {
        j->done(j->context, status, &error);
    }
    free(j);
}

static void *loader_main(void *context)
{
    serve_repository *r = context;
    reef_error error = {0};
    rescan(r, NULL, &error); /* its entries say what failed */
    pthread_mutex_lock(&r->lock);
    r->settled = true;
    while (!r->stop || r->jobs || r->unused || r->alive) {
        job *j = r->jobs;
        serve_model *unused = r->unused;
        if (!j && !unused) {
            if (r->stop) {
                for (entry *e = r->entries; e; e = e->next) {
                    serve_model *model = e->model;
                    e->model = NULL;
                    if (model) {
                        pthread_mutex_unlock(&r->lock);
                        serve_model_drop(model);
                        pthread_mutex_lock(&r->lock);
                    }
                }
                if (r->unused || !r->alive) {
                    continue;
                }
            }
            pthread_cond_wait(&r->changed, &r->lock);
            continue;
        }
        r->unused = NULL;
        r->jobs = j ? j->next : NULL;
        pthread_mutex_unlock(&r->lock);
        destroy_unused(r, unused);
        if (j) {
            run_job(r, j);
        }
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* --------------------------------------------------------------------------------------------------- callers -- */

reef_status serve_repository_create(const serve_repository_options *options, serve_repository **out, reef_error *error)
{
    serve_scan scan;
    reef_status status = serve_scan_folder(options->folder, NULL, NULL, &scan, error);
    if (status) {
        return status;
    }
    serve_scan_free(&scan);
    serve_repository *r = calloc(1, sizeof *r);
    if (!r) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    r->options = *options;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    if (pthread_create(&r->thread, NULL, loader_main, r)) {
        pthread_cond_destroy(&r->changed);
        pthread_mutex_destroy(&r->lock);
        free(r);
        return reef_fail(error, REEF_NO_MEMORY, "the loader's thread cannot be started");
    }
    *out = r;
    return REEF_OK;
}

void serve_repository_destroy(serve_repository *r)
{
    if (!r) {
        return;
    }
    reef_threads_stop(&r->thread, 1, &r->lock, &r->changed, &r->stop);
    while (r->entries) {
        entry *e = r->entries;
        r->entries = e->next;
        free(e);
    }
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

bool serve_repository_settled(serve_repository *r)
{
    pthread_mutex_lock(&r->lock);
    bool settled = r->settled;
    pthread_mutex_unlock(&r->lock);
    return settled;
}

reef_status serve_repository_find(serve_repository *r, const char *name, const char *version, serve_model **out,
                                  reef_error *error)
{
    const entry *best = NULL;
    reef_status status = REEF_OK;
    pthread_mutex_lock(&r->lock);
    for (const entry *e = r->entries; e; e = e->next) {
        bool asked = version && *version;
        if (!strcmp(e->name, name) && (!asked || !strcmp(e->version, version)) && (e->model || !best || !best->model)) {
            best = e;
        }
    }
    if (!best) {
        status = version && *version
                     ? reef_fail(error, REEF_NOT_FOUND, "no version '%.15s' of model '%.100s'", version, name)
                     : reef_fail(error, REEF_NOT_FOUND, "no model '%.100s'", name);
    } else if (!best->model) {
        status = reef_fail(error, REEF_BUSY, "model '%s' version %s is not ready (%s)%s%.300s", best->name,
                           best->version, serve_state_name(best->state), best->reason[0] ? ": " : "", best->reason);
    } else {
        *out = best->model;
        serve_model_hold(best->model);
    }
    pthread_mutex_unlock(&r->lock);
    return status;
}

reef_status serve_repository_submit(serve_repository *r, serve_job_kind kind, const char *name, serve_job_done done,
                                    void *context, reef_error *error)
{
    if (name && !serve_name_ok(name)) {
        return reef_fail(error, REEF_NOT_FOUND, "no model '%.100s'", name);
    }
    job *j = calloc(1, sizeof *j), **link;
    if (!j) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    *j = (job){.kind = kind, .done = done, .context = context};
    snprintf(j->name, sizeof j->name, "%s", name ? name : "");
    pthread_mutex_lock(&r->lock);
    size_t n = 0;
    bool stop = r->stop;
    for (link = &r->jobs; *link; link = &(*link)->next) {
        n++;
    }
    bool full = n >= 1000 || stop;
    if (!full) {
        *link = j;
        pthread_cond_signal(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
    if (full) {
        free(j);
        return reef_fail(error, REEF_QUEUE_FULL,
                         stop ? "the server is shutting down" : "too many loads and unloads wait");
    }
    return REEF_OK;
}

void serve_repository_each(serve_repository *r, void (*visit)(void *context, const serve_entry_view *entry),
                           void *context)
{
    pthread_mutex_lock(&r->lock);
    for (entry *e = r->entries; e; e = e->next) {
        visit(context, &(serve_entry_view){.name = e->name,
                                           .version = e->version,
                                           .reason = e->reason,
                                           .state = e->state,
                                           .model = e->model,
                                           .stats = &e->stats});
    }
    pthread_mutex_unlock(&r->lock);
}
