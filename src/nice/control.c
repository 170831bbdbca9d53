/*
 * control.c - see control.h.
 */
#include "nice/control.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------- folders -- */

/* A folder of ours that others cannot write to (mask 022) or cannot enter either (mask 077). */
static bool is_ours(const char *path, mode_t mask)
{
    struct stat info;
    return lstat(path, &info) == 0 && S_ISDIR(info.st_mode) && info.st_uid == geteuid() && !(info.st_mode & mask);
}

/* The i-th place where sockets may be, 0 or 1; false: there is none. create: make it if it is missing. */
static bool folder_at(int i, bool create, char *out, size_t size)
{
    const char *run = getenv("XDG_RUNTIME_DIR");
    int n;
    if (i == 0) {
        if (!run || run[0] != '/' || !is_ours(run, 022)) {
            return false;
        }
        n = snprintf(out, size, "%s/reef", run);
    } else {
        n = snprintf(out, size, "/tmp/reef-%u", (unsigned)geteuid());
    }
    if (n < 0 || (size_t)n + sizeof "/nice-2147483647" > NICE_PATH_MAX || (size_t)n >= size) {
        return false;
    }
    if (create && mkdir(out, 0700) && errno != EEXIST) {
        return false;
    }
    return is_ours(out, 077);
}

static bool address_of(const char *folder, int pid, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(out->sun_path, sizeof out->sun_path, "%s/nice-%d", folder, pid);
    return n > 0 && (size_t)n < sizeof out->sun_path;
}

static void patience(int fd)
{
    const struct timeval second = {.tv_sec = 1};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
}

static bool peer_is_ours(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && (peer.uid == geteuid() || peer.uid == 0);
}

/* A decimal number up to most, and the character that ends it, which is skipped. */
static bool take_number(const char **at, const char *end, uint64_t most, char stop, uint64_t *out)
{
    uint64_t value = 0;
    const char *c = *at;
    for (; c < end && *c >= '0' && *c <= '9'; c++) {
        unsigned digit = (unsigned)(*c - '0');
        if (digit > most || value > (most - digit) / 10) {
            return false;
        }
        value = value * 10 + digit;
    }
    if (c == *at || c == end || *c != stop) {
        return false;
    }
    *at = c + 1;
    *out = value;
    return true;
}

/* "nice-123": 123; 0: another name. */
static int pid_of(const char *name)
{
    uint64_t pid;
    size_t length = strlen(name);
    char digits[12];
    if (length < 6 || length > 15 || strncmp(name, "nice-", 5) != 0 || name[5] == '0') {
        return 0;
    }
    int n = snprintf(digits, sizeof digits, "%s\n", name + 5);
    const char *at = digits;
    bool good = n > 0 && (size_t)n < sizeof digits && take_number(&at, digits + n, INT32_MAX, '\n', &pid);
    return good && at == digits + n ? (int)pid : 0;
}

/* Whether somebody listens there; the name of one who is gone is removed. */
static bool is_listening(const struct sockaddr_un *address)
{
    struct stat info;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    patience(fd);
    bool answers = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0;
    if (!answers && errno == ECONNREFUSED && lstat(address->sun_path, &info) == 0 && S_ISSOCK(info.st_mode)) {
        unlink(address->sun_path);
    }
    close(fd);
    return answers;
}

/* ------------------------------------------------------------------------------------------------- company -- */

/* The folder of a socket's name; its length. */
static int folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (int)(slash - path) : 0;
}

static bool claim_name(const char *path, unsigned gpu, int pid, char *out)
{
    int n = snprintf(out, NICE_PATH_MAX, "%.*s/gpu%u-%d", folder_of(path), path, gpu, pid);
    return n > 0 && n < NICE_PATH_MAX;
}

void nice_claim(const char *path, uint64_t gpus)
{
    char name[NICE_PATH_MAX];
    for (unsigned gpu = 0; gpu < NICE_MAX_GPUS; gpu++) {
        if (!claim_name(path, gpu, getpid(), name)) {
            continue;
        }
        if (gpus >> gpu & 1) {
            int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
            if (fd >= 0) {
                close(fd);
            }
        } else {
            unlink(name);
        }
    }
}

/* "gpu3-123": 123 and 3; 0: another name. */
static int claimant_of(const char *name, unsigned *gpu)
{
    uint64_t number;
    const char *at = name + 3, *end = name + strlen(name);
    char as_socket[24];
    if (strncmp(name, "gpu", 3) != 0 || !take_number(&at, end, NICE_MAX_GPUS - 1, '-', &number)) {
        return 0;
    }
    *gpu = (unsigned)number;
    int n = snprintf(as_socket, sizeof as_socket, "nice-%s", at);
    return n > 0 && (size_t)n < sizeof as_socket ? pid_of(as_socket) : 0;
}

bool nice_has_company(const char *path, uint64_t gpus)
{
    char folder[NICE_PATH_MAX], name[NICE_PATH_MAX];
    struct sockaddr_un address;
    const struct dirent *entry;
    bool company = false;
    snprintf(folder, sizeof folder, "%.*s", folder_of(path), path);
    DIR *entries = opendir(folder);
    while (entries && !company && (entry = readdir(entries)) != NULL) {
        unsigned gpu = 0;
        int pid = claimant_of(entry->d_name, &gpu);
        if (pid == 0 || pid == getpid() || !(gpus >> gpu & 1) || !address_of(folder, pid, &address)) {
            continue;
        }
        company = is_listening(&address);
        if (!company && claim_name(path, gpu, pid, name)) {
            unlink(name); /* of one who is gone */
        }
    }
    if (entries) {
        closedir(entries);
    }
    return company;
}

void nice_tell_others(const char *path)
{
    char folder[NICE_PATH_MAX];
    struct sockaddr_un address;
    const struct dirent *entry;
    snprintf(folder, sizeof folder, "%.*s", folder_of(path), path);
    DIR *entries = opendir(folder);
    while (entries && (entry = readdir(entries)) != NULL) {
        int pid = pid_of(entry->d_name);
        int fd = pid && pid != getpid() ? socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
        if (fd >= 0) {
            if (address_of(folder, pid, &address) &&
                connect(fd, (const struct sockaddr *)&address, sizeof address) == 0) {
                (void)!send(fd, "look", 4, MSG_NOSIGNAL);
            }
            close(fd);
        }
    }
    if (entries) {
        closedir(entries);
    }
}

/* -------------------------------------------------------------------------------------------- in the program -- */

static size_t print_groups(nice_groups *groups, char *reply, size_t size)
{
    static const size_t line_most = 110; /* all numbers at their longest */
    char rule_text[24];
    nice_rule rule;
    nice_group *list = calloc(NICE_MAX_GROUPS, sizeof *list);
    if (!list) {
        return (size_t)snprintf(reply, size, "error the program is out of memory\n");
    }
    size_t n = nice_groups_list(groups, list, NICE_MAX_GROUPS, &rule);
    nice_rule_print(rule, rule_text, sizeof rule_text);
    size_t used = (size_t)snprintf(reply, size, "ok 1 %s\n", rule_text);
    for (size_t i = 0; i < n && i < NICE_MAX_GROUPS && size - used > line_most; i++) {
        const nice_group *group = &list[i];
        used += (size_t)snprintf(reply + used, size - used, "group %u %u %u %u %u %" PRIu64 " %" PRIu64 " %u\n",
                                 (unsigned)group->client, (unsigned)group->group, (unsigned)group->engine,
                                 (unsigned)group->n_channels, (unsigned)group->compute, group->set_us, group->own_us,
                                 (unsigned)group->status);
    }
    free(list);
    return used;
}

size_t nice_answer(nice_groups *groups, const char *request, size_t n, char *reply, size_t size)
{
    char text[NICE_REQUEST_MAX], why[64];
    if (n >= sizeof text || memchr(request, 0, n)) {
        return (size_t)snprintf(reply, size, "error the request is not one of: list, set level N, set slice US\n");
    }
    memcpy(text, request, n);
    text[n] = 0;
    nice_rule rule;
    if (strcmp(text, "list") == 0) {
        return print_groups(groups, reply, size);
    }
    if (strncmp(text, "set ", 4) != 0 || !nice_rule_parse(text + 4, &rule)) {
        return (size_t)snprintf(reply, size, "error the request is not one of: list, set level N, set slice US\n");
    }
    nice_applied applied;
    nice_groups_set(groups, rule, &applied);
    if (applied.why_inert) {
        return (size_t)snprintf(reply, size, "error %s\n", applied.why_inert);
    }
    if (applied.refused) {
        return (size_t)snprintf(reply, size, "error the driver refused %u of %u channel groups (%s)\n", applied.refused,
                                applied.groups, nice_status_text(applied.status, why, sizeof why));
    }
    return print_groups(groups, reply, size);
}

int nice_listen(char *path, reef_error *error)
{
    char folder[NICE_PATH_MAX];
    struct sockaddr_un address;
    if ((!folder_at(0, true, folder, sizeof folder) && !folder_at(1, true, folder, sizeof folder)) ||
        !address_of(folder, getpid(), &address)) {
        reef_error_set(error, REEF_IO,
                       "neither $XDG_RUNTIME_DIR/reef nor /tmp/reef-%u is a folder of this user's alone",
                       (unsigned)geteuid());
        return -1;
    }
    int made = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    /* Out of the way of programs that count on low numbers. */
    int fd = made < 0 ? -1 : fcntl(made, F_DUPFD_CLOEXEC, 500);
    if (fd >= 0) {
        close(made);
    } else {
        fd = made;
    }
    /* The mode of the name that bind makes is the socket's own; whoever had this number before is gone. */
    if (fd < 0 || fchmod(fd, 0600) || (unlink(address.sun_path) && errno != ENOENT) ||
        bind(fd, (const struct sockaddr *)&address, sizeof address) || listen(fd, 8)) {
        reef_error_set(error, REEF_IO, "%s: %s", address.sun_path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    snprintf(path, NICE_PATH_MAX, "%s", address.sun_path);
    return fd;
}

bool nice_serve(int listener, nice_groups *groups, bool *look)
{
    char request[NICE_REQUEST_MAX];
    *look = false;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        *look = errno == EAGAIN; /* the socket has a time limit while there is company, which may have been killed */
        return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED || errno == EMFILE || errno == ENFILE ||
               errno == ENOMEM;
    }
    patience(fd);
    ssize_t n = peer_is_ours(fd) ? recv(fd, request, sizeof request, 0) : -1;
    bool told = n == 4 && memcmp(request, "look", 4) == 0;
    *look = told || (n > 4 && memcmp(request, "set ", 4) == 0);
    char *reply = n > 0 && !told ? malloc(NICE_REPLY_MAX) : NULL;
    if (reply) {
        size_t size = nice_answer(groups, request, (size_t)n, reply, NICE_REPLY_MAX);
        (void)!send(fd, reply, size, MSG_NOSIGNAL);
        free(reply);
    }
    close(fd);
    return true;
}

/* -------------------------------------------------------------------------------------------- in the command -- */

static reef_status malformed(reef_error *error)
{
    return reef_fail(error, REEF_FORMAT, "the reply is not in the form that this version of reef nice writes");
}

/* One line of a reply, after "group ". */
static bool take_group(const char **at, const char *end, nice_report *out)
{
    uint64_t v[8];
    for (int i = 0; i < 8; i++) {
        uint64_t most = i == 4 ? 1 : i == 5 || i == 6 ? UINT64_MAX : UINT32_MAX;
        if (!take_number(at, end, most, i == 7 ? '\n' : ' ', &v[i])) {
            return false;
        }
    }
    size_t i = out->n_groups++;
    out->groups[i].client = (uint32_t)v[0];
    out->groups[i].group = (uint32_t)v[1];
    out->groups[i].engine = (uint32_t)v[2];
    out->groups[i].channels = (uint32_t)v[3];
    out->groups[i].compute = v[4];
    out->groups[i].set_us = v[5];
    out->groups[i].own_us = v[6];
    out->groups[i].status = (uint32_t)v[7];
    return true;
}

reef_status nice_parse_reply(const char *reply, size_t n, nice_report *out, reef_error *error)
{
    const char *end = reply + n;
    const char *line = n ? memchr(reply, '\n', n) : NULL;
    if (!line) {
        return malformed(error);
    }
    if (n > 6 && memcmp(reply, "error ", 6) == 0 && line + 1 == end) {
        char why[160];
        size_t length = 0;
        for (const char *c = reply + 6; c < line && length + 1 < sizeof why; c++) {
            why[length++] = (char)((unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c);
        }
        why[length] = 0;
        return reef_fail(error, REEF_INVALID_ARGUMENT, "%s", length ? why : "refused without a reason");
    }
    char rule[24];
    size_t length = (size_t)(line - reply);
    if (length < 6 || memcmp(reply, "ok 1 ", 5) != 0 || length - 5 >= sizeof rule) {
        return malformed(error);
    }
    memcpy(rule, reply + 5, length - 5);
    rule[length - 5] = 0;
    nice_report *report = calloc(1, sizeof *report);
    if (!report) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    bool good = strlen(rule) == length - 5 && nice_rule_parse(rule, &report->rule);
    for (const char *at = line + 1; good && at < end;) {
        good = end - at > 6 && memcmp(at, "group ", 6) == 0 && report->n_groups < NICE_MAX_GROUPS;
        at += good ? 6 : 0;
        good = good && take_group(&at, end, report);
    }
    if (good) {
        *out = *report;
    }
    free(report);
    return good ? REEF_OK : malformed(error);
}

static int connect_to(int pid)
{
    char folder[NICE_PATH_MAX];
    struct sockaddr_un address;
    for (int i = 0; i < 2; i++) {
        if (!folder_at(i, false, folder, sizeof folder) || !address_of(folder, pid, &address)) {
            continue;
        }
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            return -1;
        }
        patience(fd);
        if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0 && peer_is_ours(fd)) {
            return fd;
        }
        close(fd);
    }
    return -1;
}

reef_status nice_ask(int pid, const char *request, nice_report *out, reef_error *error)
{
    int fd = connect_to(pid);
    if (fd < 0) {
        return reef_fail(
            error, REEF_NOT_FOUND,
            "process %d does not answer: it was not started with reef nice, has not used a GPU yet, or is not "
            "yours",
            pid);
    }
    char *reply = malloc(NICE_REPLY_MAX);
    ssize_t n = -1;
    if (reply && send(fd, request, strlen(request), MSG_NOSIGNAL) >= 0) {
        n = recv(fd, reply, NICE_REPLY_MAX, 0);
    }
    int cause = errno;
    close(fd);
    reef_status status =
        n < 0 ? reef_fail(error, REEF_IO, "process %d: no reply: %s", pid, strerror(reply ? cause : ENOMEM))
              : nice_parse_reply(reply, (size_t)n, out, error);
    free(reply);
    if (status == REEF_OK) {
        out->pid = pid;
    } else if (n >= 0) {
        reef_error_prefix(error, "process %d: ", pid);
    }
    return status;
}

static int ascending(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* A claim of a process that does not listen is removed. */
static void check_claim(const char *folder, const char *name)
{
    char path[NICE_PATH_MAX];
    struct sockaddr_un address;
    unsigned gpu;
    int pid = claimant_of(name, &gpu);
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (pid && address_of(folder, pid, &address) && !is_listening(&address) && length > 0 && length < NICE_PATH_MAX) {
        unlink(path);
    }
}

size_t nice_processes(int *pids, size_t most)
{
    size_t n = 0;
    char folder[NICE_PATH_MAX];
    struct sockaddr_un address;
    for (int i = 0; i < 2; i++) {
        DIR *entries = folder_at(i, false, folder, sizeof folder) ? opendir(folder) : NULL;
        const struct dirent *entry;
        while (entries && n < most && (entry = readdir(entries)) != NULL) {
            int pid = pid_of(entry->d_name);
            if (pid && address_of(folder, pid, &address) && is_listening(&address)) {
                pids[n++] = pid;
            }
            check_claim(folder, entry->d_name);
        }
        if (entries) {
            closedir(entries);
        }
    }
    qsort(pids, n, sizeof *pids, ascending);
    return n;
}
