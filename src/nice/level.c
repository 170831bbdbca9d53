/*
 * level.c - see level.h.
 */
#include "nice/level.h"

#include <stdio.h>
#include <string.h>

/* A table: the preload library needs no libm. Index: level + 20. */
static const uint32_t slice_of[] = {
    65536, 55109, 46341, 38968, 32768, 27554, 23170, 19484, 16384, 13777, 11585, 9742, 8192, 6889,
    5793,  4871,  4096,  3444,  2896,  2435,  0,     1371,  918,   614,   411,   275,  184,  123,
    83,    55,    37,    25,    17,    11,    7,     5,     3,     2,     1,     1,
};
_Static_assert(sizeof slice_of / sizeof slice_of[0] == NICE_MOST - NICE_LEAST + 1, "one slice per level");

nice_rule nice_rule_of_level(int level)
{
    return (nice_rule){.slice_us = slice_of[level - NICE_LEAST], .level = level, .by_level = true};
}

nice_rule nice_rule_of_slice(uint32_t slice_us)
{
    return (nice_rule){.slice_us = slice_us};
}

/* Digits, at most seven of them, and nothing else. */
static bool parse_digits(const char *text, uint32_t *out)
{
    uint32_t value = 0;
    size_t n = strlen(text);
    if (n == 0 || n > 7 || strspn(text, "0123456789") != n) {
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        value = value * 10 + (uint32_t)(text[i] - '0');
    }
    *out = value;
    return true;
}

bool nice_rule_parse(const char *text, nice_rule *out)
{
    uint32_t value;
    if (strncmp(text, "slice ", 6) == 0 && parse_digits(text + 6, &value) && value <= NICE_SLICE_MAX_US) {
        *out = nice_rule_of_slice(value);
        return true;
    }
    if (strncmp(text, "level ", 6) == 0) {
        bool negative = text[6] == '-';
        if (parse_digits(text + 6 + negative, &value) && value <= (negative ? -NICE_LEAST : NICE_MOST)) {
            *out = nice_rule_of_level(negative ? -(int)value : (int)value);
            return true;
        }
    }
    return false;
}

void nice_rule_print(nice_rule rule, char *text, unsigned size)
{
    if (rule.by_level) {
        snprintf(text, size, "level %d", rule.level);
    } else {
        snprintf(text, size, "slice %u", (unsigned)rule.slice_us);
    }
}
