/*
 * arena.h - memory that is given back all at once: graphs and plans live in one.
 */
#ifndef REEF_BASE_ARENA_H
#define REEF_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct reef_arena {
    struct reef_arena_block *head;
    size_t limit_bytes; /* 0: no limit; otherwise allocations beyond it fail (hostile files) */
    size_t used_bytes;
} reef_arena;

/* Zeroed memory aligned for any scalar, or NULL when out of memory or over the limit. Not thread safe. */
void *reef_arena_alloc(reef_arena *arena, size_t bytes);
/* count * size with overflow check. */
void *reef_arena_array(reef_arena *arena, size_t count, size_t size);
/* A copy of length bytes with a terminating zero. */
char *reef_arena_string(reef_arena *arena, const char *text, size_t length);
void reef_arena_free(reef_arena *arena);

/*
 * Makes room for one more element at the end of a growing array whose memory stays in the arena (old copies stay
 * too, which doubling bounds to one times the final size). Returns false when out of memory; *items is then as before.
 */
bool reef_arena_grow(reef_arena *arena, void **items, size_t count, size_t *capacity, size_t item_size);

#endif
