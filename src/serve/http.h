/*
 * http.h - the HTTP side: connections, bodies, answers. libmicrohttpd's threads run it.
 */
#ifndef REEF_SERVE_HTTP_H
#define REEF_SERVE_HTTP_H

#include "serve/server.h"

typedef struct serve_http serve_http;

/* Serves on a listening socket, which becomes the server's when this succeeds. server->watch must be there. */
reef_status serve_http_start(serve_server *server, int listener, serve_http **out, reef_error *error);
/* Nothing may be suspended. NULL is allowed. */
void serve_http_stop(serve_http *http);

#endif
