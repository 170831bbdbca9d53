/*
 * load.c - many connections to a server, each with inputs that change from request to request, every answer checked.
 *
 *     load PORT MODEL ROWS WIDTH SHIFT CONNECTIONS RATE SECONDS PRIORITY
 *
 * The model rotates the columns of its (ROWS, WIDTH) input by SHIFT. RATE requests per second over all connections, evenly
 * spaced, or closed loop with 0. Prints one line of JSON. An answer counts once, for the request whose id and numbers it
 * has; whatever else comes back is wrong, and what does not come back is lost. Latency counts from the due time; of it,
 * "late" is how late this program itself was, "engine" what the server says its engine took, and "added" the rest.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "bench/loadgen.h"
#include "bench/stats.h"
#include "client/http.h"

typedef struct job {
    const char *model;
    char url[64], path[160];
    size_t rows, width, shift;
    unsigned connections, priority;
    double rate;
    uint64_t begin_ns, until_ns;
} job;

enum { LATENCY, LATE, ENGINE, ADDED, KINDS };
static const char *const kinds[] = {[LATENCY] = "", [LATE] = "late_", [ENGINE] = "engine_", [ADDED] = "added_"};

typedef struct worker {
    const job *job;
    pthread_t thread;
    unsigned index;
    uint64_t ok, wrong, lost, refused;
    uint64_t (*samples)[KINDS];
    size_t n, capacity;
} worker;

static void sleep_until(uint64_t due_ns)
{
    struct timespec until = {(time_t)(due_ns / 1000000000u), (long)(due_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL)) {
    }
}

/* The element of request `serial` of connection `index`: small whole numbers, different everywhere. */
static float element(unsigned index, uint64_t serial, size_t i)
{
    uint64_t mixed = ((uint64_t)index << 40 ^ serial << 16 ^ i) * 0x9e3779b97f4a7c15u;
    return (float)(mixed >> 44);
}

/* Element i of its answer. */
static float expected(const worker *w, uint64_t serial, size_t i)
{
    size_t width = w->job->width, row = i / width, column = i % width;
    return element(w->index, serial, row * width + (column + width - w->job->shift % width) % width);
}

static bool right(const worker *w, uint64_t serial, const http_answer *answer)
{
    const job *j = w->job;
    const char *split = http_header(answer, "Inference-Header-Content-Length");
    size_t json = split ? strtoull(split, NULL, 10) : 0, bytes = j->rows * j->width * sizeof(float);
    char id[64];
    int length = snprintf(id, sizeof id, "\"id\":\"%u-%llu\"", w->index, (unsigned long long)serial);
    if (!json || json > answer->body_bytes || answer->body_bytes - json != bytes ||
        !memmem(answer->body, json, id, (size_t)length)) {
        return false;
    }
    for (size_t i = 0; i < j->rows * j->width; i++) {
        float got;
        memcpy(&got, answer->body + json + i * sizeof got, sizeof got);
        if (got != expected(w, serial, i)) {
            return false;
        }
    }
    return true;
}

/* What a wrong answer looks like, to stderr: it is not seen twice. */
static void tell_wrong(const worker *w, uint64_t serial, const http_answer *answer)
{
    const job *j = w->job;
    const char *split = http_header(answer, "Inference-Header-Content-Length");
    size_t json = split ? strtoull(split, NULL, 10) : 0, elems = j->rows * j->width, differ = 0, first = 0, last = 0;
    float got = 0;
    for (size_t i = 0; json && json + elems * sizeof got <= answer->body_bytes && i < elems; i++) {
        memcpy(&got, answer->body + json + i * sizeof got, sizeof got);
        if (got != expected(w, serial, i)) {
            first = differ++ ? first : i;
            last = i;
        }
    }
    int shown = (int)(json && json <= answer->body_bytes ? json : answer->body_bytes < 400 ? answer->body_bytes : 400);
    fprintf(stderr,
            "load: %s, request %u-%llu: status %d, %zu bytes, %zu of %zu elements differ (first %zu, last %zu): %.*s\n",
            j->model, w->index, (unsigned long long)serial, answer->status, answer->body_bytes, differ, elems, first,
            last, shown, answer->body);
}

static size_t make_request(const worker *w, uint64_t serial, char *body, size_t room, char *header, size_t header_room)
{
    const job *j = w->job;
    size_t elems = j->rows * j->width;
    size_t json = (size_t)snprintf(
        body, room,
        "{\"id\":\"%u-%llu\",\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[%zu,%zu],\"parameters\":"
        "{\"binary_data_size\":%zu}}],\"parameters\":{\"binary_data_output\":true,\"priority\":%u}}",
        w->index, (unsigned long long)serial, j->rows, j->width, elems * sizeof(float), j->priority);
    for (size_t i = 0; i < elems; i++) {
        float value = element(w->index, serial, i);
        memcpy(body + json + i * sizeof value, &value, sizeof value);
    }
    snprintf(header, header_room, "Inference-Header-Content-Length: %zu\r\n", json);
    return json + elems * sizeof(float);
}

static void record(worker *w, uint64_t due, uint64_t sent, uint64_t now, const http_answer *answer)
{
    if (w->n == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 1024;
        w->samples = realloc(w->samples, w->capacity * sizeof *w->samples);
        if (!w->samples) {
            abort();
        }
    }
    uint64_t engine = http_server_timing_ns(answer), took = now - sent;
    uint64_t *sample = w->samples[w->n++];
    sample[LATENCY] = now - due;
    sample[LATE] = sent - due;
    sample[ENGINE] = engine;
    sample[ADDED] = took > engine ? took - engine : 0;
}

static void *worker_main(void *context)
{
    worker *w = context;
    const job *j = w->job;
    size_t room = j->rows * j->width * sizeof(float) + 512;
    char *body = malloc(room), header[64];
    /* Clients stand for the world outside: who asks for real-time answers does not queue for these processors, and who asks
     * for best-effort ones takes of them what the server leaves. */
    const struct sched_param none = {0};
    j->priority == 1 ? (int)load_raise_priority() : pthread_setschedparam(pthread_self(), SCHED_IDLE, &none);
    http_client http;
    reef_error error;
    uint64_t gap = j->rate > 0 ? (uint64_t)(1e9 * j->connections / j->rate) : 0;
    uint64_t due = j->begin_ns + gap * w->index / j->connections;
    if (!body || http_client_init(&http, j->url, NULL, &error)) {
        abort();
    }
    for (uint64_t serial = 0;; serial++, due += gap) {
        size_t bytes = make_request(w, serial, body, room, header, sizeof header);
        if (gap) {
            sleep_until(due);
        } else {
            due = reef_now_ns();
        }
        if (due >= j->until_ns) {
            break;
        }
        http_answer answer;
        uint64_t sent = reef_now_ns();
        bool lost = http_request(&http, "POST", j->path, header, body, bytes, &answer, &error) != REEF_OK;
        uint64_t now = reef_now_ns();
        if (lost) {
            w->lost++;
        } else if (answer.status == 503) {
            w->refused++;
        } else if (answer.status != 200 || !right(w, serial, &answer)) {
            w->wrong++;
            tell_wrong(w, serial, &answer);
        } else {
            w->ok++;
            record(w, due, sent, now, &answer);
        }
    }
    http_client_free(&http);
    free(body);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 10) {
        fprintf(stderr, "usage: load PORT MODEL ROWS WIDTH SHIFT CONNECTIONS RATE SECONDS PRIORITY\n");
        return 2;
    }
    job j = {
        .model = argv[2],
        .rows = strtoull(argv[3], NULL, 10),
        .width = strtoull(argv[4], NULL, 10),
        .shift = strtoull(argv[5], NULL, 10),
        .connections = (unsigned)strtoul(argv[6], NULL, 10),
        .rate = strtod(argv[7], NULL),
        .priority = (unsigned)strtoul(argv[9], NULL, 10),
        .begin_ns = reef_now_ns(),
    };
    snprintf(j.url, sizeof j.url, "http://127.0.0.1:%s", argv[1]);
    snprintf(j.path, sizeof j.path, "/v2/models/%s/infer", j.model);
    j.until_ns = j.begin_ns + (uint64_t)(strtod(argv[8], NULL) * 1e9);
    worker *workers = calloc(j.connections, sizeof *workers);
    if (!workers) {
        return 1;
    }
    uint64_t ok = 0, wrong = 0, lost = 0, refused = 0;
    size_t n = 0;
    for (unsigned i = 0; i < j.connections; i++) {
        workers[i].job = &j;
        workers[i].index = i;
        if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i])) {
            return 1;
        }
    }
    for (unsigned i = 0; i < j.connections; i++) {
        pthread_join(workers[i].thread, NULL);
        ok += workers[i].ok;
        wrong += workers[i].wrong;
        lost += workers[i].lost;
        refused += workers[i].refused;
        n += workers[i].n;
    }
    printf("{\"ok\":%llu,\"wrong\":%llu,\"lost\":%llu,\"refused\":%llu", (unsigned long long)ok,
           (unsigned long long)wrong, (unsigned long long)lost, (unsigned long long)refused);
    uint64_t *all = malloc((n + 1) * sizeof *all);
    for (int kind = 0; all && kind < KINDS; kind++) {
        size_t at = 0;
        for (unsigned i = 0; i < j.connections; i++) {
            for (size_t k = 0; k < workers[i].n; k++) {
                all[at++] = workers[i].samples[k][kind];
            }
        }
        bench_stats stats = bench_stats_of(all, n);
        printf(",\"%sp50_us\":%.1f,\"%sp99_us\":%.1f,\"%sp999_us\":%.1f", kinds[kind], n ? stats.p50_us : 0.0,
               kinds[kind], n ? stats.p99_us : 0.0, kinds[kind], n ? stats.p999_us : 0.0);
    }
    printf("}\n");
    free(all);
    for (unsigned i = 0; i < j.connections; i++) {
        free(workers[i].samples);
    }
    free(workers);
    return 0;
}
