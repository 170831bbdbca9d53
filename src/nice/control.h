/*
 * control.h - reef nice --list and --set: a socket per process, in a folder that only its user can enter.
 *
 *     $XDG_RUNTIME_DIR/reef/nice-PID     or, without it,     /tmp/reef-UID/nice-PID
 *
 * Beside the socket, an empty file gpuN-PID for each GPU that the process runs kernels on: so programs under reef nice know
 * of each other. Whoever comes or goes says "look" to the others, which then count again.
 *
 * Folder 0700 and owned by the user, socket 0600; both ends also check the other's user. A conversation is one packet each
 * way, in text:
 *
 *     "list"                        "ok 1 level 19\n" and a line per channel group:
 *                                   "group CLIENT HANDLE ENGINE CHANNELS COMPUTE SLICE OWN STATUS\n"
 *     "set level 5", "set slice 50" the same, after the change
 *     anything else                 "error WHY\n"
 *
 * Neither side believes the other: requests and replies are parsed to the letter, within fixed bounds.
 */
#ifndef REEF_NICE_CONTROL_H
#define REEF_NICE_CONTROL_H

#include "base/error.h"
#include "nice/groups.h"

enum { NICE_REQUEST_MAX = 64, NICE_REPLY_MAX = 16384, NICE_PATH_MAX = 108 };

/* ----------------------------------------------------------------------------------- in the program -- */

/* The reply to a request of n bytes; returns its length. size of at least NICE_REPLY_MAX. */
size_t nice_answer(nice_groups *groups, const char *request, size_t n, char *reply, size_t size);
/* A listening socket of this process. path gets its name (NICE_PATH_MAX bytes). -1: with *error filled. */
int nice_listen(char *path, reef_error *error);
/* Waits for one conversation and holds it. *look: the rule or the others may have changed. false: the socket is of no use. */
bool nice_serve(int listener, nice_groups *groups, bool *look);

/* path, in all three: this process's socket. Says that it uses these GPUs (bits); 0: none any more. */
void nice_claim(const char *path, uint64_t gpus);
/* Whether another process that listens claims one of them. */
bool nice_has_company(const char *path, uint64_t gpus);
/* "look" to every other process, without waiting for anything. */
void nice_tell_others(const char *path);

/* ----------------------------------------------------------------------------------- in the command -- */

typedef struct nice_report {
    int pid;
    nice_rule rule;
    size_t n_groups;
    struct {
        uint32_t client, group, engine, channels, status;
        bool compute;
        uint64_t set_us, own_us;
    } groups[NICE_MAX_GROUPS];
} nice_report;

/* FORMAT: not a reply. INVALID_ARGUMENT: a refusal, with the other side's reason. */
reef_status nice_parse_reply(const char *reply, size_t n, nice_report *out, reef_error *error);
/* Asks one process. NOT_FOUND: there is none of that number under reef nice, or it has no channel groups yet. */
reef_status nice_ask(int pid, const char *request, nice_report *out, reef_error *error);
/* The numbers of the processes that listen, ascending; sockets whose process is gone are removed. Returns how many. */
size_t nice_processes(int *pids, size_t most);

#endif
