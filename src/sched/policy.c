/*
 * policy.c - the policies.
 */
#include "sched/policy.h"

#include <string.h>

#include "reef/reef.h"

static const reef_policy policies[] = {
    {
        .name = "reset",
        .meaning = "stop best-effort work inside its kernels, give real-time work every unit (REEF's reset preemption)",
        .serve_be = true,
        .evict = REEF_TAKE_ALL,
        .lease = REEF_LEASE_NOTHING,
        .be_mode = REEF_LAUNCH_LEASED,
        .rt_first = true,
    },
    {
        .name = "lease",
        .meaning = "as reset, but best-effort work keeps the units that the real-time plan cannot fill",
        .serve_be = true,
        .evict = REEF_TAKE_ALL, /* only when nothing is left over; see sched.c */
        .lease = REEF_LEASE_LEFTOVER,
        .be_start = true,
        .be_fill = true,
        .be_mode = REEF_LAUNCH_LEASED,
        .rt_first = true,
    },
    {
        .name = "pad",
        .meaning =
            "as reset, then best-effort tiles ride in the spare slots of real-time kernels (REEF's kernel padding)",
        .serve_be = true,
        .evict = REEF_TAKE_ALL,
        .lease = REEF_LEASE_NOTHING,
        .be_start = true,
        .be_mode = REEF_LAUNCH_LEASED,
        .rt_first = true,
        .pad = true,
    },
    {
        .name = "wait",
        .meaning = "take back queued best-effort kernels, wait for the running ones (REEF's wait-based preemption)",
        .serve_be = true,
        .evict = REEF_TAKE_QUEUED,
        .lease = REEF_LEASE_ALL,
        .start = REEF_AFTER_KERNEL,
        .be_mode = REEF_LAUNCH_EVICTABLE,
        .rt_first = true,
    },
    {
        .name = "priority",
        .meaning = "real-time tiles first whenever a unit is free, nothing is stopped (stream priority)",
        .serve_be = true,
        .lease = REEF_LEASE_ALL,
        .be_start = true,
        .be_fill = true,
        .be_mode = REEF_LAUNCH_PLAIN,
        .rt_first = true,
    },
    {
        .name = "streams",
        .meaning = "both classes at once, sharing the device tile by tile (no control)",
        .serve_be = true,
        .lease = REEF_LEASE_ALL,
        .be_start = true,
        .be_fill = true,
        .be_mode = REEF_LAUNCH_PLAIN,
    },
    {
        .name = "seq",
        .meaning = "finish the best-effort requests that have started, then real-time",
        .serve_be = true,
        .lease = REEF_LEASE_ALL,
        .start = REEF_AFTER_TASK,
        .be_fill = true,
        .be_mode = REEF_LAUNCH_PLAIN,
        .rt_first = true,
    },
    {
        .name = "rt-only",
        .meaning = "real-time requests only, best-effort ones are refused",
        .lease = REEF_LEASE_ALL,
        .be_mode = REEF_LAUNCH_PLAIN,
        .rt_first = true,
    },
};

const reef_policy *reef_policy_at(size_t i)
{
    return i < sizeof policies / sizeof policies[0] ? &policies[i] : NULL;
}

const reef_policy *reef_policy_find(const char *name)
{
    for (size_t i = 0; reef_policy_at(i); i++) {
        if (strcmp(policies[i].name, name) == 0) {
            return &policies[i];
        }
    }
    return NULL;
}

bool reef_policy_list(size_t i, const char **name, const char **meaning)
{
    const reef_policy *policy = reef_policy_at(i);
    if (policy) {
        *name = policy->name;
        *meaning = policy->meaning;
    }
    return policy != NULL;
}
