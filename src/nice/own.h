/*
 * own.h - the time slice of this very process, for a program that links reef instead of starting under reef nice.
 *
 * libcuda's calls to ioctl(2) are redirected in libcuda alone: its table of imported functions gets our function, which
 * hands everything on (groups.h). Nothing else in the process is touched, and no symbol is exported.
 */
#ifndef REEF_NICE_OWN_H
#define REEF_NICE_OWN_H

#include "base/error.h"
#include "nice/groups.h"

/*
 * From now on every channel group that `library` (from dlopen: libcuda.so.1) creates gets the rule; those that are there
 * already are not known and stay as they are. Calling it again changes the rule, for groups seen since the first call too.
 * Process-wide and for good: the library must stay loaded. UNSUPPORTED: its calls cannot be redirected. Thread safe.
 */
reef_status nice_own_slice(void *library, nice_rule rule, reef_error *error);

/* The slice that the process's groups have been given: *us, and in how many *groups. UNSUPPORTED, with the reason: none
 * was seen, or the driver refused. Thread safe. */
reef_status nice_own_slice_get(uint32_t *us, unsigned *groups, reef_error *error);

#endif
