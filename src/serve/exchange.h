/*
 * exchange.h - one HTTP request and its answer, on their way through http.c (bytes), routes.c (what is asked for) and
 * infer.c (inference).
 *
 *     RECEIVING --all bytes--> routed: answered at once -> ANSWERED
 *                              or suspended, WORKING --somebody calls serve_exchange_wake--> ANSWERED
 */
#ifndef REEF_SERVE_EXCHANGE_H
#define REEF_SERVE_EXCHANGE_H

#include <microhttpd.h>

#include "serve/call.h"
#include "serve/server.h"
#include "serve/watch.h"

/* clang-format off */
/* X(name, methods): what can be asked for. */
#define SERVE_ROUTE_LIST(X)                                                                                            \
    X(UNKNOWN, "") X(SERVER, "GET") X(LIVE, "GET") X(READY, "GET") X(MODEL, "GET") X(MODEL_READY, "GET")               \
    X(MODEL_CONFIG, "GET") X(MODEL_STATS, "GET") X(ALL_STATS, "GET") X(INFER, "POST") X(INDEX, "POST")                 \
    X(LOAD, "POST") X(UNLOAD, "POST") X(SHM_STATUS, "GET") X(SHM_REGISTER, "POST") X(SHM_UNREGISTER, "POST")           \
    X(CUDA_SHM, "GET, POST") X(METRICS, "GET") X(STATUS, "GET")
/* clang-format on */
typedef enum serve_route {
#define X(name, methods) SERVE_ROUTE_##name,
    SERVE_ROUTE_LIST(X)
#undef X
} serve_route;

typedef struct serve_exchange {
    serve_server *server;
    struct MHD_Connection *connection;
    serve_peer *peer;
    serve_route route;
    char name[256], version[32]; /* of the model or the region in the address; "" when there is none */

    char *memory, *body; /* body: in memory, so placed that the binary part is aligned */
    size_t body_bytes, room, json_bytes, accounted;
    bool swallowed; /* more came than is taken: the rest was thrown away */

    enum { SERVE_TAKING, SERVE_BUSY, SERVE_DONE } state;
    bool suspended;  /* written and read by the connection's thread alone */
    unsigned status; /* the answer */
    serve_text text;
    const char *content_type;
    unsigned retry_after_s;
    uint64_t begin_ns;
    size_t declared;     /* bytes of body that the header promised; 0: it does not say */
    uint64_t headers_ns; /* when they had been read; 0: nobody needs to know */
    uint64_t hint_after_ns;
    unsigned body_hints;

    serve_call *call;     /* inference */
    serve_answer *answer; /* of it; its spans point into the call */
    uint64_t encode_begin_ns;
    reef_error error;
    void (*work)(struct serve_exchange *exchange); /* for a helper thread */
    struct serve_exchange *next;
} serve_exchange;

/* An error as the protocol writes it, unless there is an answer already. */
void serve_exchange_fail(serve_exchange *exchange, unsigned status, const char *message);
/* The same with the HTTP status that fits. */
void serve_exchange_error(serve_exchange *exchange, reef_status status, const reef_error *error);
/* 200 with what is in exchange->text. */
void serve_exchange_ok(serve_exchange *exchange, const char *content_type);

/* The answer will come later: but for `suspended` nothing of the exchange may be touched once another thread was told. false:
 * the server is about to stop, and that is the answer. */
bool serve_exchange_suspend(serve_exchange *exchange);
void serve_exchange_wake(serve_exchange *exchange);

/* routes.c */
serve_route serve_route_parse(const char *url, serve_exchange *exchange);
const char *serve_route_methods(serve_route route);
/* Answers, or suspends and has it answered. */
void serve_route_run(serve_exchange *exchange);

/* infer.c */
void serve_infer_begin(serve_exchange *exchange);
/* The exchange is over: counts, logs and frees what belongs to the inference. sent: the answer reached the connection. */
void serve_infer_end(serve_exchange *exchange, bool sent);

/* helpers.c: threads for what would hold up the ones that serve (large JSON). */
reef_status serve_helpers_create(unsigned threads, struct serve_helpers **out, reef_error *error);
void serve_helpers_destroy(struct serve_helpers *helpers);
void serve_helpers_add(struct serve_helpers *helpers, serve_exchange *exchange, void (*work)(serve_exchange *exchange));

/* describe.c: metadata, statistics, metrics and status as text. */
void serve_describe_server(serve_text *out);
void serve_describe_model(serve_repository *repository, const serve_model *model, serve_text *out);
void serve_describe_config(const serve_model *model, serve_text *out);
/* name NULL: all models; version "": all versions. false: there is none. */
bool serve_describe_stats(serve_repository *repository, const char *name, const char *version, serve_text *out);
void serve_describe_index(serve_repository *repository, bool ready_only, serve_text *out);
void serve_describe_metrics(serve_server *server, serve_text *out);
void serve_describe_status(serve_server *server, serve_text *out);

#endif
