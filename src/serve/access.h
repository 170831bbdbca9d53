/*
 * access.h - who may ask: a bearer token and TLS, both from files.
 */
#ifndef REEF_SERVE_ACCESS_H
#define REEF_SERVE_ACCESS_H

#include "serve/server.h"

/* Reads the files that the options name. IO, FORMAT, each naming the file. */
reef_status serve_access_load(const serve_options *options, serve_access *out, reef_error *error);
void serve_access_free(serve_access *access);
/* Whether an Authorization header (may be NULL) has the token. Takes the same time wherever it differs. */
bool serve_access_allows(const serve_access *access, const char *authorization);

#endif
