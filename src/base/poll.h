/*
 * poll.h - waiting by looking again and again, for as long as nobody else wants the processor.
 *
 * Who polls gives the processor away between looks, since what it waits for may have nowhere else to run. To a thread that
 * computes, that is an invitation to stay for a whole time slice: some 4 ms, for an answer that takes 10 us. Who sleeps
 * instead comes back at once, because the kernel prefers who was away. So a wait that loses the processor for long a few times
 * in a row sleeps, and polling is not tried again for a while: twice as long each time that it fails at once. A single loss
 * means little: a virtual machine may have stood still.
 */
#ifndef REEF_BASE_POLL_H
#define REEF_BASE_POLL_H

#include <sched.h>
#include <stdbool.h>

#include "base/clock.h"

enum {
    REEF_POLL_LOST_NS = 200000, /* away for longer: somebody else computes here, or the machine stood still */
    REEF_POLL_LOSSES = 3,       /* so many ... */
    REEF_POLL_RECENT_NS =
        100000000, /* ... within this time end polling; one does when polling was tried again so lately */
    REEF_POLL_PAUSE_NS = 250000000, /* for how long, the first time */
    REEF_POLL_PAUSE_MAX_NS = 2000000000,
};

/* Of one thread that polls; all zero at first. */
typedef struct reef_poll {
    uint64_t from_ns;  /* when polling may be tried again */
    uint64_t pause_ns; /* how long the last pause was; 0: there was none */
    uint64_t first_ns; /* of the recent losses, the first; and how many there were */
    unsigned losses;
} reef_poll;

static inline bool reef_poll_allowed(const reef_poll *poll, uint64_t now_ns)
{
    return now_ns >= poll->from_ns;
}

/* The processor was given away at before_ns and is back at now_ns. false: sleep rather than poll. */
static inline bool reef_poll_back(reef_poll *poll, uint64_t before_ns, uint64_t now_ns)
{
    if (now_ns - before_ns < REEF_POLL_LOST_NS) {
        return true;
    }
    bool again = poll->pause_ns && before_ns < poll->from_ns + REEF_POLL_RECENT_NS;
    if (!again) {
        if (!poll->losses || before_ns > poll->first_ns + REEF_POLL_RECENT_NS) {
            poll->first_ns = before_ns;
            poll->losses = 0;
        }
        if (++poll->losses < REEF_POLL_LOSSES) {
            return true;
        }
    }
    poll->pause_ns = again ? 2 * poll->pause_ns : REEF_POLL_PAUSE_NS;
    poll->pause_ns = poll->pause_ns < REEF_POLL_PAUSE_MAX_NS ? poll->pause_ns : REEF_POLL_PAUSE_MAX_NS;
    poll->from_ns = now_ns + poll->pause_ns;
    poll->losses = 0;
    return false;
}

/* Lets others run, and says as above whether to go on polling. */
static inline bool reef_poll_yield(reef_poll *poll)
{
    uint64_t before = reef_now_ns();
    sched_yield();
    return reef_poll_back(poll, before, reef_now_ns());
}

#endif
