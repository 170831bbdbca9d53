/*
 * error.c - status names and error texts.
 */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const status_names[] = {
#define X(name, text) #name,
    REEF_STATUS_LIST(X)
#undef X
};

static const char *const status_texts[] = {
#define X(name, text) text,
    REEF_STATUS_LIST(X)
#undef X
};

const char *reef_status_name(reef_status status)
{
    return (unsigned)status < REEF_STATUS_COUNT ? status_names[status] : "UNKNOWN";
}

const char *reef_status_text(reef_status status)
{
    return (unsigned)status < REEF_STATUS_COUNT ? status_texts[status] : "unknown status";
}

/* Text from outside (names in a file) may hold control bytes; a message stays one printable line. */
static void make_printable(char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f) {
            *text = '?';
        }
    }
}

void reef_error_set(reef_error *error, reef_status status, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
        make_printable(error->message);
        error->status = status;
    }
}

void reef_error_prefix(reef_error *error, const char *format, ...)
{
    if (!error) {
        return;
    }
    char rest[sizeof error->message];
    memcpy(rest, error->message, sizeof rest);
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    if (used < 0) {
        used = 0;
    }
    if ((size_t)used < sizeof error->message) {
        size_t room = sizeof error->message - (size_t)used;
        size_t length = strnlen(rest, room - 1);
        memcpy(error->message + used, rest, length);
        error->message[(size_t)used + length] = 0;
    }
    make_printable(error->message);
}
