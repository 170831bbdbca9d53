/*
 * http.c - see http.h.
 */
#include "client/http.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/error.h"

enum { MAX_HEAD = 65536, TIMEOUT_S = 120 };
static const size_t MAX_BODY = (size_t)1 << 30;

static reef_status read_token(http_client *client, const char *path, reef_error *error)
{
    FILE *file = fopen(path, "re");
    bool ok = file && fgets(client->token, sizeof client->token, file);
    if (file) {
        fclose(file);
    }
    client->token[strcspn(client->token, "\r\n")] = 0;
    return ok && client->token[0] ? REEF_OK : reef_fail(error, REEF_IO, "%s: no token can be read from it", path);
}

reef_status http_client_init(http_client *client, const char *url, const char *token_file, reef_error *error)
{
    *client = (http_client){.fd = -1, .port = "80"};
    if (!strncmp(url, "https://", 8)) {
        return reef_fail(error, REEF_UNSUPPORTED, "%s: only http:// can be measured", url);
    }
    const char *at = !strncmp(url, "http://", 7) ? url + 7 : url;
    size_t authority = strcspn(at, "/"), bracket = *at == '[' ? strcspn(at, "]") : 0;
    const char *colon = memchr(at + bracket, ':', authority - (bracket < authority ? bracket : authority));
    size_t host = colon ? (size_t)(colon - at) : authority, skip = bracket ? 1 : 0;
    size_t port = colon ? authority - host - 1 : 0, path = strlen(at + authority);
    if (host <= 2 * skip || host - 2 * skip >= sizeof client->host || port >= sizeof client->port ||
        path >= sizeof client->path || (colon && (!port || strspn(colon + 1, "0123456789") != port))) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "'%.200s' is not http://HOST:PORT", url);
    }
    memcpy(client->host, at + skip, host - 2 * skip);
    if (port) {
        memcpy(client->port, colon + 1, port);
        client->port[port] = 0;
    }
    memcpy(client->path, at + authority, path);
    if (path && client->path[path - 1] == '/') {
        client->path[path - 1] = 0;
    }
    return token_file ? read_token(client, token_file, error) : REEF_OK;
}

static void hang_up(http_client *client)
{
    if (client->fd >= 0) {
        close(client->fd);
        client->fd = -1;
    }
}

void http_client_free(http_client *client)
{
    hang_up(client);
    free(client->buffer);
    *client = (http_client){.fd = -1};
}

static reef_status dial(http_client *client, reef_error *error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    int code = getaddrinfo(client->host, client->port, &hints, &found), one = 1, why = 0;
    if (code) {
        return reef_fail(error, REEF_IO, "%s: %s", client->host, gai_strerror(code));
    }
    for (struct addrinfo *a = found; a && client->fd < 0; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, 0);
        struct timeval limit = {.tv_sec = TIMEOUT_S};
        if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) &&
            !setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) &&
            !setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) && !connect(fd, a->ai_addr, a->ai_addrlen)) {
            client->fd = fd;
        } else {
            why = errno;
            close(fd);
        }
    }
    freeaddrinfo(found);
    return client->fd >= 0 ? REEF_OK
                           : reef_fail(error, REEF_IO, "%s:%s: %s; is the server running?", client->host, client->port,
                                       strerror(why));
}

static bool room(http_client *client, size_t bytes)
{
    if (bytes > client->capacity) {
        char *bigger = realloc(client->buffer, bytes);
        client->capacity = bigger ? bytes : client->capacity;
        client->buffer = bigger ? bigger : client->buffer;
        return bigger != NULL;
    }
    return true;
}

static bool send_all(http_client *client, const char *head, size_t head_bytes, const void *body, size_t bytes)
{
    struct iovec parts[2] = {{(void *)(uintptr_t)head, head_bytes}, {(void *)(uintptr_t)body, bytes}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = bytes ? 2 : 1};
    for (size_t left = head_bytes + bytes; left > 0;) {
        ssize_t n = sendmsg(client->fd, &message, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        left -= (size_t)n;
        for (size_t i = 0; i < 2; i++) {
            size_t used = (size_t)n < parts[i].iov_len ? (size_t)n : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + used;
            parts[i].iov_len -= used;
            n -= (ssize_t)used;
        }
    }
    return true;
}

const char *http_header(const http_answer *answer, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = answer->head; *line; line += strlen(line) + 1) {
        if (!strncasecmp(line, name, length) && line[length] == ':') {
            return line + length + 1 + strspn(line + length + 1, " \t");
        }
    }
    return NULL;
}

/* "queue;dur=0.01, run;dur=0.2", in milliseconds. */
uint64_t http_server_timing_ns(const http_answer *answer)
{
    const char *text = http_header(answer, "Server-Timing");
    double ms = 0;
    while (text && (text = strstr(text, "dur="))) {
        ms += strtod(text + 4, NULL);
        text += 4;
    }
    return ms > 0 && ms < 1e9 ? (uint64_t)(ms * 1e6) : 0;
}

/* The head ends at `end`; makes strings of its lines. */
static reef_status parse_head(char *head, size_t end, http_answer *out, reef_error *error)
{
    head[end - 2] = head[end - 1] = 0; /* the empty line */
    for (size_t i = 0; i + 2 < end; i++) {
        head[i] = head[i] == '\r' || head[i] == '\n' ? 0 : head[i];
    }
    size_t n = 0; /* \r\n became two zeros: one is enough */
    for (size_t i = 0; i < end; i++) {
        if (head[i] || (n && head[n - 1])) {
            head[n++] = head[i];
        }
    }
    head[n < end ? n : end - 1] = 0;
    if (strncmp(head, "HTTP/1.", 7) != 0 || strlen(head) < 12) {
        return reef_fail(error, REEF_FORMAT, "the answer is not HTTP");
    }
    out->status = (int)strtol(head + 9, NULL, 10);
    out->head = head;
    return REEF_OK;
}

static reef_status receive(http_client *client, http_answer *out, bool *nothing, reef_error *error)
{
    size_t n = 0, end = 0;
    *nothing = false;
    while (!end) {
        if (n == MAX_HEAD || !room(client, MAX_HEAD + 1)) {
            return reef_fail(error, REEF_FORMAT, "the answer's head is too long");
        }
        ssize_t got = recv(client->fd, client->buffer + n, MAX_HEAD - n, 0);
        if (got <= 0) {
            *nothing = n == 0 && (got == 0 || errno == ECONNRESET);
            return reef_fail(error, REEF_IO, "the server closed the connection without an answer%s%s", got ? ": " : "",
                             got ? strerror(errno) : "");
        }
        size_t from = n > 3 ? n - 3 : 0;
        n += (size_t)got;
        const char *blank = memmem(client->buffer + from, n - from, "\r\n\r\n", 4);
        end = blank ? (size_t)(blank - client->buffer) + 4 : 0;
    }
    reef_status status = parse_head(client->buffer, end, out, error);
    const char *length = status ? NULL : http_header(out, "Content-Length");
    if (status || !length) {
        return status ? status : reef_fail(error, REEF_UNSUPPORTED, "the answer has no Content-Length");
    }
    char *stop;
    errno = 0;
    unsigned long long bytes = strtoull(length, &stop, 10);
    if (*length < '0' || *length > '9' || *stop || errno || bytes > MAX_BODY) {
        return reef_fail(error, REEF_FORMAT, "the answer's Content-Length makes no sense");
    }
    if (!room(client, end + bytes + 1)) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    while (n < end + bytes) {
        ssize_t got = recv(client->fd, client->buffer + n, end + bytes - n, 0);
        if (got <= 0) {
            return reef_fail(error, REEF_IO, "the server closed the connection in the middle of its answer");
        }
        n += (size_t)got;
    }
    out->head = client->buffer; /* it may have moved */
    out->body = client->buffer + end;
    out->body_bytes = bytes;
    client->buffer[end + bytes] = 0;
    const char *connection = http_header(out, "Connection");
    if (connection && !strcasecmp(connection, "close")) {
        hang_up(client);
    }
    return REEF_OK;
}

reef_status http_request(http_client *client, const char *method, const char *path, const char *extra, const void *body,
                         size_t bytes, http_answer *out, reef_error *error)
{
    char head[2048];
    int length = snprintf(head, sizeof head, "%s %s%s HTTP/1.1\r\nHost: %s:%s\r\nContent-Length: %zu\r\n%s%s%s%s\r\n",
                          method, client->path, path, client->host, client->port, bytes,
                          client->token[0] ? "Authorization: Bearer " : "", client->token,
                          client->token[0] ? "\r\n" : "", extra ? extra : "");
    if (length < 0 || (size_t)length >= sizeof head) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "the request's address is too long");
    }
    bool kept = client->fd >= 0, nothing = false;
    reef_status status = kept ? REEF_OK : dial(client, error);
    for (int attempt = 0; !status; attempt++) {
        status = send_all(client, head, (size_t)length, body, bytes)
                     ? receive(client, out, &nothing, error)
                     : (nothing = true, reef_fail(error, REEF_IO, "the request cannot be sent: %s", strerror(errno)));
        if (!status) {
            return REEF_OK;
        }
        hang_up(client);
        if (!kept || !nothing || attempt) {
            return status;
        }
        status = dial(client, error); /* it was closed while idle */
    }
    return status;
}
