/*
 * prompt.c - see prompt.h.
 */
#include "serve/prompt.h"

#include <sched.h>
#include <stdbool.h>
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

int serve_prompt_nice(int now, uint64_t limit)
{
    int least = 20 - (int)(limit < 40 ? limit : 40);
    int wanted = least > SERVE_PROMPT_NICE ? least : SERVE_PROMPT_NICE;
    return wanted < now ? wanted : now;
}

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
        attr.nice = serve_prompt_nice(before, RLIM_INFINITY);
        if (syscall(SYS_sched_setattr, 0, &attr, 0)) { /* without the privilege */
            struct rlimit limit = {0};
            getrlimit(RLIMIT_NICE, &limit);
            attr.nice = serve_prompt_nice(before, limit.rlim_cur);
            syscall(SYS_sched_setattr, 0, &attr, 0);
        }
    }
#endif
}
