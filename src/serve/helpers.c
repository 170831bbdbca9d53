/*
 * helpers.c - threads for what would hold up those that serve: large JSON, in and out.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/thread.h"
#include "serve/exchange.h"

typedef struct serve_helpers {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    serve_exchange *first, **last;
    _Atomic bool stop;
    unsigned n;
    pthread_t threads[];
} serve_helpers;

static void *helper_main(void *context)
{
    serve_helpers *helpers = context;
    pthread_mutex_lock(&helpers->lock);
    while (!helpers->stop || helpers->first) {
        serve_exchange *exchange = helpers->first;
        if (!exchange) {
            pthread_cond_wait(&helpers->changed, &helpers->lock);
            continue;
        }
        helpers->first = exchange->next;
        if (!helpers->first) {
            helpers->last = &helpers->first;
        }
        pthread_mutex_unlock(&helpers->lock);
        exchange->work(exchange);
        pthread_mutex_lock(&helpers->lock);
    }
    pthread_mutex_unlock(&helpers->lock);
    return NULL;
}

void serve_helpers_add(serve_helpers *helpers, serve_exchange *exchange, void (*work)(serve_exchange *exchange))
{
    exchange->work = work;
    exchange->next = NULL;
    pthread_mutex_lock(&helpers->lock);
    *helpers->last = exchange;
    helpers->last = &exchange->next;
    pthread_cond_signal(&helpers->changed);
    pthread_mutex_unlock(&helpers->lock);
}

reef_status serve_helpers_create(unsigned threads, serve_helpers **out, reef_error *error)
{
    serve_helpers *helpers = calloc(1, sizeof *helpers + threads * sizeof helpers->threads[0]);
    if (!helpers) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    pthread_mutex_init(&helpers->lock, NULL);
    pthread_cond_init(&helpers->changed, NULL);
    helpers->last = &helpers->first;
    while (helpers->n < threads && pthread_create(&helpers->threads[helpers->n], NULL, helper_main, helpers) == 0) {
        helpers->n++;
    }
    if (helpers->n < threads) {
        serve_helpers_destroy(helpers);
        return reef_fail(error, REEF_NO_MEMORY, "threads cannot be started");
    }
    *out = helpers;
    return REEF_OK;
}

void serve_helpers_destroy(serve_helpers *helpers)
{
    if (!helpers) {
        return;
    }
    reef_threads_stop(helpers->threads, helpers->n, &helpers->lock, &helpers->changed, &helpers->stop);
    pthread_cond_destroy(&helpers->changed);
    pthread_mutex_destroy(&helpers->lock);
    free(helpers);
}
