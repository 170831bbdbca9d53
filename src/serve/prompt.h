/*
 * prompt.h - threads that serve run briefly and often, beside compute units that never stop.
 */
#ifndef REEF_SERVE_PROMPT_H
#define REEF_SERVE_PROMPT_H

#include <stdint.h>

enum { SERVE_PROMPT_NICE = -10 };

/* Asks the kernel to run the calling thread soon after it wakes, at the price of shorter turns: a time slice of 0.3 ms
 * instead of some 3 ms (Linux 6.12 and later; no privilege needed, no effect elsewhere). And not to give the processor to
 * compute units and clients that it wakes before it has answered: nice value SERVE_PROMPT_NICE, or what RLIMIT_NICE allows
 * (the systemd unit's LimitNICE). Once per thread is enough; more often costs nothing. */
void serve_prompt(void);
/* The nice value that it gives a thread which has `now`, where RLIMIT_NICE (20 minus the least value allowed) is `limit`. */
int serve_prompt_nice(int now, uint64_t limit);

#endif
