/*
 * shm.h - POSIX shared memory that clients registered (the system shared memory extension): tensors in place.
 *
 * Hostile until checked: names must start with the allowed prefix and hold no further '/', ranges must lie inside the
 * object, and an object that is truncated after registration must not kill the server: a SIGBUS inside a region puts zero
 * pages there and marks the region damaged (serve_shm_damaged).
 */
#ifndef REEF_SERVE_SHM_H
#define REEF_SERVE_SHM_H

#include "reef/reef.h"
#include "serve/text.h"

typedef struct serve_shm serve_shm;
typedef struct serve_region serve_region;

/* prefix: what keys must start with after their '/'; NULL: nothing may be registered. Installs the SIGBUS handler.
 * NULL when out of memory. */
serve_shm *serve_shm_create(const char *prefix);
/* No region may be in use any more. NULL is allowed. */
void serve_shm_destroy(serve_shm *shm);

/* Maps bytes at offset of the object `key` under `name`. Errors: INVALID_ARGUMENT (name, key, range), REFUSED (prefix, or
 * none allowed), BUSY (the name is taken), NOT_FOUND, IO, NO_MEMORY. Thread safe, as everything below. */
reef_status serve_shm_register(serve_shm *shm, const char *name, const char *key, uint64_t offset, uint64_t bytes,
                               reef_error *error);
/* name NULL: all of them. A name that is not registered is no error (the protocol says so). The memory stays mapped
 * until the last request that uses it has ended. */
void serve_shm_unregister(serve_shm *shm, const char *name);
/* The status as JSON; name NULL: of all regions. NOT_FOUND. */
reef_status serve_shm_status(serve_shm *shm, const char *name, serve_text *out, reef_error *error);

/* A range of a region, which is then in use until serve_shm_put. NOT_FOUND, INVALID_ARGUMENT (range). shm may be NULL. */
reef_status serve_shm_get(serve_shm *shm, const char *name, uint64_t offset, uint64_t bytes, serve_region **region,
                          void **data, reef_error *error);
void serve_shm_put(serve_region *region);
const char *serve_region_name(const serve_region *region);
/* Whether part of the region was found missing. */
bool serve_shm_damaged(const serve_region *region);

#endif
