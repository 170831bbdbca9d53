/*
 * memory.h - whether so much memory is there.
 *
 * Linux promises more memory than it has and kills whoever uses it. A model may well ask for more than the machine has
 * (a batch of a million is a valid shape), so large allocations ask here first and fail as out of memory should.
 */
#ifndef REEF_BASE_MEMORY_H
#define REEF_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* False when bytes are more than what the machine, or the container that this is in, has left. What cannot be found out
 * is there. Reads files for more than 64 MiB: not for hot paths. */
bool reef_memory_fits(size_t bytes);

#endif
