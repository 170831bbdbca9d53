/*
 * text.c - see text.h.
 */
#include "serve/text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void serve_text_free(serve_text *text)
{
    free(text->data);
    *text = (serve_text){0};
}

bool serve_text_reserve(serve_text *text, size_t bytes)
{
    if (text->failed || bytes > SIZE_MAX / 4 - text->n) {
        text->failed = true;
        return false;
    }
    if (text->n + bytes > text->capacity) {
        size_t capacity = text->capacity ? text->capacity : 256;
        while (capacity < text->n + bytes) {
            capacity *= 2;
        }
        char *bigger = realloc(text->data, capacity);
        if (!bigger) {
            text->failed = true;
            return false;
        }
        text->data = bigger;
        text->capacity = capacity;
    }
    return true;
}

void serve_text_bytes(serve_text *text, const void *data, size_t bytes)
{
    if (bytes && serve_text_reserve(text, bytes)) {
        memcpy(text->data + text->n, data, bytes);
        text->n += bytes;
    }
}

void serve_text_add(serve_text *text, const char *string)
{
    serve_text_bytes(text, string, strlen(string));
}

void serve_text_format(serve_text *text, const char *format, ...)
{
    char small[256];
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(small, sizeof small, format, arguments);
    va_end(arguments);
    if (length < 0) {
        text->failed = true;
    } else if ((size_t)length < sizeof small) {
        serve_text_bytes(text, small, (size_t)length);
    } else if (serve_text_reserve(text, (size_t)length + 1)) {
        vsnprintf(text->data + text->n, (size_t)length + 1, format, again);
        text->n += (size_t)length;
    }
    va_end(again);
}

/* Length of the UTF-8 character at s, 0 if there is none. */
static size_t utf8_length(const unsigned char *s)
{
    size_t n = s[0] < 0x80                   ? 1
               : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
               : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                             : 0;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (n == 3 && s[0] == 0xe0 && s[1] < 0xa0) || (n == 4 && s[0] == 0xf0 && s[1] < 0x90);
    bool surrogate = n == 3 && s[0] == 0xed && s[1] >= 0xa0;
    bool beyond = n == 4 && s[0] == 0xf4 && s[1] >= 0x90;
    return overlong || surrogate || beyond ? 0 : n;
}

void serve_text_json(serve_text *text, const char *string)
{
    serve_text_add(text, "\"");
    for (const unsigned char *s = (const unsigned char *)string; *s;) {
        size_t n = utf8_length(s);
        if (n == 0) {
            serve_text_add(text, "\xef\xbf\xbd");
            n = 1;
        } else if (*s == '"' || *s == '\\') {
            serve_text_format(text, "\\%c", *s);
        } else if (*s < 0x20 || *s == 0x7f) {
            serve_text_format(text, "\\u%04x", *s);
        } else {
            serve_text_bytes(text, s, n);
        }
        s += n;
    }
    serve_text_add(text, "\"");
}

void serve_text_label(serve_text *text, const char *string)
{
    for (const char *s = string; *s; s++) {
        if (*s == '\n') {
            serve_text_add(text, "\\n");
        } else {
            if (*s == '"' || *s == '\\') {
                serve_text_add(text, "\\");
            }
            serve_text_bytes(text, s, 1);
        }
    }
}
