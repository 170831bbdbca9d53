/*
 * arena.c - a chain of blocks, bump allocation.
 */
#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct reef_arena_block {
    struct reef_arena_block *next;
    size_t used, size;
    _Alignas(max_align_t) char bytes[];
};

/* Under AddressSanitizer every allocation is a block of its own, so that a step past its end is seen. */
#if defined(__SANITIZE_ADDRESS__)
#define ARENA_EXACT 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_EXACT 1
#endif
#endif
#ifdef ARENA_EXACT
enum { BLOCK_BYTES = 0, BLOCK_ALIGN = 1 };
#else
enum { BLOCK_BYTES = 64 * 1024, BLOCK_ALIGN = _Alignof(max_align_t) };
#endif

void *reef_arena_alloc(reef_arena *arena, size_t bytes)
{
    const size_t align = BLOCK_ALIGN;
    if (bytes > SIZE_MAX / 2) {
        return NULL;
    }
    bytes = (bytes + align - 1) / align * align;
    if (arena->limit_bytes && (bytes > arena->limit_bytes || arena->used_bytes > arena->limit_bytes - bytes)) {
        return NULL;
    }
    struct reef_arena_block *block = arena->head;
    if (!block || BLOCK_BYTES == 0 || block->size - block->used < bytes) {
        size_t size = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        block = calloc(1, sizeof *block + size);
        if (!block) {
            return NULL;
        }
        block->size = size;
        block->next = arena->head;
        arena->head = block;
    }
    void *memory = block->bytes + block->used;
    block->used += bytes;
    arena->used_bytes += bytes;
    return memory;
}

void *reef_arena_array(reef_arena *arena, size_t count, size_t size)
{
    return size && count > SIZE_MAX / size ? NULL : reef_arena_alloc(arena, count * size);
}

char *reef_arena_string(reef_arena *arena, const char *text, size_t length)
{
    char *copy = length < SIZE_MAX ? reef_arena_alloc(arena, length + 1) : NULL;
    if (copy && length) {
        memcpy(copy, text, length);
    }
    return copy;
}

void reef_arena_free(reef_arena *arena)
{
    for (struct reef_arena_block *block = arena->head; block;) {
        struct reef_arena_block *next = block->next;
        free(block);
        block = next;
    }
    arena->head = NULL;
    arena->used_bytes = 0;
}

bool reef_arena_grow(reef_arena *arena, void **items, size_t count, size_t *capacity, size_t item_size)
{
    if (count < *capacity) {
        return true;
    }
    size_t grown = *capacity ? *capacity * 2 : 8;
    void *bigger = grown > *capacity ? reef_arena_array(arena, grown, item_size) : NULL;
    if (!bigger) {
        return false;
    }
    if (count) {
        memcpy(bigger, *items, count * item_size);
    }
    *items = bigger;
    *capacity = grown;
    return true;
}
