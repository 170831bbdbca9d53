/*
 * policy.h - what distinguishes one policy from another: a row of choices, all taken on the same path (sched.c).
 */
#ifndef REEF_SCHED_POLICY_H
#define REEF_SCHED_POLICY_H

#include "queue/vhq.h"

typedef struct reef_policy {
    const char *name, *meaning;
    bool serve_be; /* false: BE requests are refused */

    /* What an RT arrival does to BE work on the device. */
    enum { REEF_KEEP, REEF_TAKE_QUEUED, REEF_TAKE_ALL } evict;
    /* Compute units that BE work keeps while RT work runs. */
    enum { REEF_LEASE_ALL, REEF_LEASE_LEFTOVER, REEF_LEASE_NOTHING } lease;
    /* When the RT task may start. */
    enum { REEF_AT_ONCE, REEF_AFTER_KERNEL, REEF_AFTER_TASK } start;

    /* What BE queues may do while RT work waits or runs. */
    bool be_start, be_fill;
    reef_launch_mode be_mode;
    bool rt_first; /* the RT queue has the higher device priority */
    bool pad;      /* RT kernels are launched one by one, with BE tiles in their spare slots */
} reef_policy;

/* By name; NULL when there is none. */
const reef_policy *reef_policy_find(const char *name);
/* The i-th, NULL past the end. */
const reef_policy *reef_policy_at(size_t i);

#endif
