/*
 * http.h - just enough of an HTTP/1.1 client for measuring and watching a server: one connection, one request at a time.
 */
#ifndef REEF_CLIENT_HTTP_H
#define REEF_CLIENT_HTTP_H

#include <stddef.h>

#include "reef/reef.h"

typedef struct http_client {
    char host[256], port[8], path[256]; /* of the URL; path without a trailing '/' */
    char token[512];                    /* "": none */
    int fd;                             /* -1: not connected */
    char *buffer;                       /* the answer: head, then body */
    size_t capacity;
} http_client;

typedef struct http_answer { /* points into the client's buffer, until its next request */
    int status;
    const char *head; /* lines, each ended by a zero; one that is empty ends them */
    const char *body;
    size_t body_bytes;
} http_answer;

/* "http://HOST[:PORT][/PATH]"; token_file may be NULL. Connects with the first request. INVALID_ARGUMENT, UNSUPPORTED
 * (https), IO (the file). */
reef_status http_client_init(http_client *client, const char *url, const char *token_file, reef_error *error);
void http_client_free(http_client *client);
/* path is appended to the URL's. extra: more header lines, each ended by \r\n; may be NULL. A connection that the server
 * closed since the last request is made anew. IO, FORMAT (not HTTP), NO_MEMORY. */
reef_status http_request(http_client *client, const char *method, const char *path, const char *extra, const void *body,
                         size_t bytes, http_answer *out, reef_error *error);
/* The value of a header, or NULL. */
const char *http_header(const http_answer *answer, const char *name);
/* What the server says it took, in a Server-Timing header: the sum of its parts in nanoseconds; 0: it does not say. */
uint64_t http_server_timing_ns(const http_answer *answer);

#endif
