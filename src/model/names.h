/*
 * names.h - a table from names to things, and the hash under it.
 *
 * For the reader, where a file may hold a million names that somebody chose: lookups stay constant time because the
 * hash is seeded per table. Keys are borrowed and must outlive the table.
 */
#ifndef REEF_MODEL_NAMES_H
#define REEF_MODEL_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct reef_names {
    struct reef_names_slot *slots;
    size_t capacity, count;
    uint64_t seed;
} reef_names;

/* NULL when absent. */
void *reef_names_get(const reef_names *names, const char *key, size_t length);
/* Adds a key that is not there yet. False when out of memory. item must not be NULL. */
bool reef_names_put(reef_names *names, const char *key, size_t length, void *item);
void reef_names_free(reef_names *names);

/* 64 bits of bytes[0..size), the same on every machine and in every run for the same seed. Not cryptographic. */
uint64_t reef_hash_bytes(const void *bytes, size_t size, uint64_t seed);

#endif
