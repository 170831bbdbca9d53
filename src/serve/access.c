/*
 * access.c - see access.h.
 */
#include "serve/access.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

enum { MAX_FILE = 1 << 20, MIN_TOKEN = 16, MAX_TOKEN = 4096 };

/* The whole file as a string; the caller frees it. */
static reef_status read_text(const char *option, const char *path, bool secret, char **out, reef_error *error)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &info) || !S_ISREG(info.st_mode) || info.st_size > MAX_FILE) {
        reef_status status = reef_fail(error, REEF_IO, "--%s: %s: %s", option, path,
                                       fd < 0 ? strerror(errno) : "not a file of at most 1 MiB");
        if (fd >= 0) {
            close(fd);
        }
        return status;
    }
    if (secret && info.st_mode & (S_IRWXG | S_IRWXO) & ~(mode_t)S_IRGRP) {
        close(fd);
        return reef_fail(error, REEF_IO, "--%s: %s can be read or written by others; chmod 600 %s", option, path, path);
    }
    size_t size = (size_t)info.st_size, n = 0;
    char *text = calloc(1, size + 1);
    ssize_t got = 1;
    while (text && n < size && (got = read(fd, text + n, size - n)) > 0) {
        n += (size_t)got;
    }
    close(fd);
    if (!text || got < 0) {
        free(text);
        return reef_fail(error, text ? REEF_IO : REEF_NO_MEMORY, "--%s: %s cannot be read", option, path);
    }
    *out = text;
    return REEF_OK;
}

reef_status serve_access_load(const serve_options *options, serve_access *out, reef_error *error)
{
    *out = (serve_access){0};
    reef_status status = REEF_OK;
    if (options->token_file) {
        status = read_text("token-file", options->token_file, true, &out->token, error);
        if (!status) {
            out->token[strcspn(out->token, "\r\n")] = 0;
            size_t n = strlen(out->token);
            if (n < MIN_TOKEN || n > MAX_TOKEN || strcspn(out->token, " \t") != n) {
                status = reef_fail(error, REEF_FORMAT,
                                   "--token-file: %s must hold one line of %d to %d characters without blanks",
                                   options->token_file, MIN_TOKEN, MAX_TOKEN);
            }
        }
    }
    if (!status && options->tls_certificate) {
        status = read_text("tls-cert", options->tls_certificate, false, &out->certificate, error);
    }
    if (!status && options->tls_key) {
        status = read_text("tls-key", options->tls_key, true, &out->key, error);
    }
    if (status) {
        serve_access_free(out);
    }
    return status;
}

static void forget(char *secret)
{
    if (secret) {
        explicit_bzero(secret, strlen(secret));
        free(secret);
    }
}

void serve_access_free(serve_access *access)
{
    forget(access->token);
    free(access->certificate);
    forget(access->key);
    *access = (serve_access){0};
}

bool serve_access_allows(const serve_access *access, const char *authorization)
{
    if (!access->token) {
        return true;
    }
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0) {
        return false;
    }
    const char *given = authorization + 7;
    size_t n = strlen(access->token), m = strlen(given);
    unsigned char differs = n != m;
    for (size_t i = 0; i < n; i++) {
        differs |= (unsigned char)(access->token[i] ^ given[m ? i % m : 0]);
    }
    return !differs;
}
