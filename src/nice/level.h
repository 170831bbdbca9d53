/*
 * level.h - nice levels and the time slices they stand for.
 *
 *     level   -20 ...   -1 |        0         |    1 ...   19
 *     slice  65536 ... 2435 | the program's own | 1371 ...    1     microseconds
 *
 * The driver's default slice is 2048 us. Above it each level is a factor 2^(1/4), below it 2^(11/19): level 19 is the
 * shortest slice there is, so the program yields as soon as anybody else wants the GPU.
 *
 * A switch between two programs that fill the GPU takes about 170 us. Two that yield to each other after a microsecond would
 * do nothing but switch, so while several programs under reef nice use one GPU, none has a slice below NICE_SHARED_US, unless
 * it was given as such.
 */
#ifndef REEF_NICE_LEVEL_H
#define REEF_NICE_LEVEL_H

#include <stdbool.h>
#include <stdint.h>

enum { NICE_LEAST = -20, NICE_MOST = 19, NICE_SLICE_MAX_US = 1000000, NICE_SHARED_US = 1000 };

typedef struct nice_rule {
    uint32_t slice_us; /* 0: the program's own */
    int level;         /* what slice_us came from; meaningful with by_level */
    bool by_level;
} nice_rule;

/* level must be in range. */
nice_rule nice_rule_of_level(int level);
nice_rule nice_rule_of_slice(uint32_t slice_us);
/* "level -5" or "slice 200" (0 to NICE_SLICE_MAX_US), nothing before or after: what the environment and the control
 * socket carry. false: neither, *out untouched. */
bool nice_rule_parse(const char *text, nice_rule *out);
/* The opposite; size of at least 24 suffices. */
void nice_rule_print(nice_rule rule, char *text, unsigned size);

#endif
