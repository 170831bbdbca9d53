/*
 * prompt.c - see prompt.h.
 */
#include "serve/prompt.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's struct sched_attr, which not every C library has. */
typedef struct kernel_sched_attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
} kernel_sched_attr;

#ifdef SYS_sched_setattr
/* The least nice value that this process may give itself without privilege. */
static int32_t least_nice(int32_t now)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NICE, &limit) || limit.rlim_cur == RLIM_INFINITY || 20 - (int64_t)limit.rlim_cur >= now) {
        return now;
    }
    return limit.rlim_cur > 20 - SERVE_PROMPT_NICE ? SERVE_PROMPT_NICE : (int32_t)(20 - (int64_t)limit.rlim_cur);
}
#endif

void serve_prompt(void)
{
    static _Thread_local bool done;
    if (done) {
        return;
    }
    done = true;
#ifdef SYS_sched_setattr
    kernel_sched_attr attr = {.size = sizeof attr};
    if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0 && attr.policy == SCHED_OTHER) {
        const int32_t before = attr.nice;
        attr.size = sizeof attr;
        attr.flags = 0;
        attr.runtime_ns = 300000;
        attr.nice = before < SERVE_PROMPT_NICE ? before : SERVE_PROMPT_NICE;
        if (syscall(SYS_sched_setattr, 0, &attr, 0)) {
            attr.nice = least_nice(before);
            syscall(SYS_sched_setattr, 0, &attr, 0);
        }
    }
#endif
}
