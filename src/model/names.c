/*
 * names.c - open addressing with linear probing, at most two thirds full.
 */
#include "model/names.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct reef_names_slot {
    uint64_t hash;
    const char *key;
    size_t length;
    void *item; /* NULL: free */
};

static uint64_t fold_multiply(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t reef_hash_bytes(const void *bytes, size_t size, uint64_t seed)
{
    /* Two independent lanes keep the multiplier busy; odd constants are bits of the golden ratio and of pi. */
    const uint64_t k0 = 0x9e3779b97f4a7c15u, k1 = 0x243f6a8885a308d3u, k2 = 0x13198a2e03707345u;
    const uint8_t *at = bytes;
    uint64_t a = seed ^ k0, b = fold_multiply(seed ^ k1, k2 ^ size);
    size_t left = size;
    uint64_t words[4];
    for (; left >= 32; left -= 32, at += 32) {
        memcpy(words, at, 32);
        a = fold_multiply(words[0] ^ a, words[1] ^ k1);
        b = fold_multiply(words[2] ^ b, words[3] ^ k2);
    }
    memset(words, 0, sizeof words);
    if (left) {
        memcpy(words, at, left);
    }
    a = fold_multiply(words[0] ^ a, words[1] ^ k1);
    b = fold_multiply(words[2] ^ b, words[3] ^ k2);
    return fold_multiply(a ^ k0, b ^ size);
}

static struct reef_names_slot *find(const reef_names *names, uint64_t hash, const char *key, size_t length)
{
    for (size_t i = hash & (names->capacity - 1);; i = (i + 1) & (names->capacity - 1)) {
        struct reef_names_slot *slot = &names->slots[i];
        if (!slot->item ||
            (slot->hash == hash && slot->length == length && (!length || memcmp(slot->key, key, length) == 0))) {
            return slot;
        }
    }
}

void *reef_names_get(const reef_names *names, const char *key, size_t length)
{
    return names->count ? find(names, reef_hash_bytes(key, length, names->seed), key, length)->item : NULL;
}

static bool grow(reef_names *names)
{
    reef_names bigger = {.capacity = names->capacity ? names->capacity * 2 : 64, .seed = names->seed};
    if (!names->capacity) { /* unknown to whoever wrote the file */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        bigger.seed = fold_multiply((uint64_t)(uintptr_t)&now ^ (uint64_t)now.tv_nsec, 0x9e3779b97f4a7c15u);
    }
    bigger.slots = calloc(bigger.capacity, sizeof *bigger.slots);
    if (!bigger.slots) {
        return false;
    }
    for (size_t i = 0; i < names->capacity; i++) {
        const struct reef_names_slot *old = &names->slots[i];
        if (old->item) {
            *find(&bigger, old->hash, old->key, old->length) = *old;
        }
    }
    bigger.count = names->count;
    free(names->slots);
    *names = bigger;
    return true;
}

bool reef_names_put(reef_names *names, const char *key, size_t length, void *item)
{
    if (names->count + 1 > names->capacity / 3 * 2 && !grow(names)) {
        return false;
    }
    uint64_t hash = reef_hash_bytes(key, length, names->seed);
    *find(names, hash, key, length) = (struct reef_names_slot){hash, key, length, item};
    names->count++;
    return true;
}

void reef_names_free(reef_names *names)
{
    free(names->slots);
    *names = (reef_names){0};
}
