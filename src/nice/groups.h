/*
 * groups.h - watches a process's own calls into the NVIDIA driver, and sets the time slice of the channel groups that it
 * creates.
 *
 *     libcuda -> ioctl -> nice_groups_ioctl -> the system's ioctl
 *                              |   ^
 *                     what succeeded, read
 *                              v   |
 *                  table of groups + rule: "slice 1 us"
 *
 * Every call goes through unchanged. Of those on /dev/nvidiactl that succeed, allocations, frees and a group's controls
 * are read. A group that runs kernels gets the rule's slice when the program sets its own (libcuda asks for 2048 us), when
 * it starts to be scheduled, or when a compute object appears in it, whichever comes first.
 *
 * Invariants: a control is sent only on a handle that this process allocated, through the descriptor that it used, and
 * only after the driver has answered a harmless question (which slice?) in the form this file knows. Where anything is
 * not as known, nothing is sent, one line says so, and the program's calls go on as they are.
 */
#ifndef REEF_NICE_GROUPS_H
#define REEF_NICE_GROUPS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/types.h>

#include "nice/level.h"

enum { NICE_MAX_GROUPS = 128, NICE_MAX_CHANNELS = 64, NICE_MAX_DEVICES = 64, NICE_MAX_GPUS = 64 };

typedef struct nice_file { /* an open file, so that a reused descriptor is noticed */
    dev_t device;
    ino_t inode;
} nice_file;

/* How the table reaches the system; tests put a recorder here. All four may be called with the table's lock held. */
typedef struct nice_system {
    int (*ioctl)(void *context, int fd, unsigned long request, void *argument); /* as ioctl(2), with errno */
    bool (*is_control_node)(void *context, int fd, nice_file *out);             /* /dev/nvidiactl? */
    void (*say)(void *context, bool always, const char *line); /* always: something the user must know, at most once */
    void *context;
} nice_system;

typedef struct nice_group {
    bool alive, compute, applied;
    int fd;
    nice_file file;
    uint32_t client, device, group, engine; /* engine 0: not known */
    uint32_t channels[NICE_MAX_CHANNELS], n_channels;
    uint64_t own_us; /* what the program asked for; 0: not known */
    uint64_t set_us; /* what we set; 0: nothing */
    uint32_t status; /* the driver's last answer to us */
} nice_group;

typedef struct nice_device {
    uint32_t client, device, gpu;
} nice_device;

typedef struct nice_groups {
    pthread_mutex_t lock; /* guards everything below */
    nice_system system;
    nice_rule rule;
    nice_group groups[NICE_MAX_GROUPS];
    unsigned n;                            /* slots in use, dead ones included */
    nice_device devices[NICE_MAX_DEVICES]; /* the last ones, a ring: a context's groups follow its device at once */
    unsigned n_devices;
    bool shared;        /* others under reef nice use the same GPU: levels stop at NICE_SHARED_US */
    uint32_t least_us;  /* a shorter slice was refused; 0: none was */
    bool probed, inert; /* the driver has answered; or it must be left alone */
    unsigned said;      /* bits of what has been said */
    uint64_t set_count, refused_count;
    /* A page that a fork empties: 0 in a copy of the process, whichever way it was forked; NULL: the kernel has no such
     * pages, and pid tells. (A vfork child shares this memory: it is no copy, and calls nothing of the driver's.) */
    _Atomic uint32_t *same_process;
    pid_t pid;
    _Atomic uint64_t gpus; /* bits: where groups that run kernels have been; read without the lock */
} nice_groups;

/* nice_system.is_control_node outside tests. */
bool nice_is_control_node(void *context, int fd, nice_file *out);

void nice_groups_init(nice_groups *groups, const nice_system *system, nice_rule rule);
/* Whether this process is a copy of the one that the table is of. */
bool nice_groups_copied(const nice_groups *groups);
/* In a copy: nothing in the table is its own. The rule stays. Only one thread may exist. Calls that find a copy do it. */
void nice_groups_forget(nice_groups *groups);

/* Stands for ioctl(2): same result, same errno. Thread safe. */
int nice_groups_ioctl(nice_groups *groups, int fd, unsigned long request, void *argument);

typedef struct nice_applied {
    unsigned groups, changed, refused;
    uint32_t status;       /* the driver's answer to the last one it refused */
    const char *why_inert; /* NULL, or why nothing can be set */
} nice_applied;
/* Changes the rule for groups to come and those that are there. Thread safe. */
void nice_groups_set(nice_groups *groups, nice_rule rule, nice_applied *out);

/* Others use the same GPU, or no longer do. Thread safe. */
void nice_groups_share(nice_groups *groups, bool shared);

/* Copies up to `most` groups that run kernels; returns how many there are. Thread safe. */
size_t nice_groups_list(nice_groups *groups, nice_group *out, size_t most, nice_rule *rule);

/* "insufficient permissions" for RM's status numbers that occur; "status 0x.." otherwise. Writes to text. */
const char *nice_status_text(uint32_t status, char *text, size_t size);

#endif
