/*
 * text.h - text that grows: what responses, metrics and log lines are written into.
 */
#ifndef REEF_SERVE_TEXT_H
#define REEF_SERVE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Zeroed to begin with. Once memory ran out `failed` is set and further writes have no effect, so that a long run of them
 * is checked once, at its end. Not thread safe. */
typedef struct serve_text {
    char *data; /* not terminated */
    size_t n, capacity;
    bool failed;
} serve_text;

void serve_text_free(serve_text *text);
/* Room for `bytes` more; false when there is none. */
bool serve_text_reserve(serve_text *text, size_t bytes);
void serve_text_bytes(serve_text *text, const void *data, size_t bytes);
void serve_text_add(serve_text *text, const char *string);
__attribute__((format(printf, 2, 3))) void serve_text_format(serve_text *text, const char *format, ...);
/* As a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD. */
void serve_text_json(serve_text *text, const char *string);
/* As the value of a Prometheus label, without quotes. */
void serve_text_label(serve_text *text, const char *string);

#endif
