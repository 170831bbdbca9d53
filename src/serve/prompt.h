/*
 * prompt.h - threads that serve run briefly and often, beside compute units that never stop.
 */
#ifndef REEF_SERVE_PROMPT_H
#define REEF_SERVE_PROMPT_H

/* Asks the kernel to run the calling thread soon after it wakes, at the price of shorter turns: a time slice of 0.1 ms
 * instead of some 3 ms (Linux 6.12 and later; no privilege needed, no effect elsewhere). Once per thread is enough; more
 * often costs nothing. */
void serve_prompt(void);

#endif
