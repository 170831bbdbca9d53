/*
 * groups.c - see groups.h.
 */
#include "nice/groups.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "nice/rm.h"

enum { SAID_FORM = 1, SAID_PROBE = 2, SAID_REFUSED = 4, SAID_FULL = 8, SAID_LEAST = 16 };

const char *nice_status_text(uint32_t status, char *text, size_t size)
{
    const char *known = NULL;
    switch (status) {
    case RM_OK: known = "accepted"; break;
    case RM_NOT_PERMITTED: known = "insufficient permissions"; break;
    case RM_INVALID_CLIENT: known = "invalid client"; break;
    case RM_INVALID_OBJECT:
    case RM_INVALID_HANDLE:
    case RM_NOT_FOUND: known = "no such object"; break;
    case RM_NOT_SUPPORTED: known = "not supported"; break;
    default: break;
    }
    snprintf(text, size, known ? "status 0x%02x, %s" : "status 0x%02x", (unsigned)status, known);
    return text;
}

/* once: 0 for details, else the bit of something that is said at most once and always. */
__attribute__((format(printf, 3, 4))) static void say(nice_groups *groups, unsigned once, const char *format, ...)
{
    char line[300];
    if (once && (groups->said & once)) {
        return;
    }
    groups->said |= once;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    groups->system.say(groups->system.context, once != 0, line);
}

bool nice_is_control_node(void *context, int fd, nice_file *out)
{
    (void)context;
    struct stat info;
    if (fstat(fd, &info) || !S_ISCHR(info.st_mode) || major(info.st_rdev) != RM_MAJOR ||
        minor(info.st_rdev) != RM_CONTROL_MINOR) {
        return false;
    }
    *out = (nice_file){.device = info.st_dev, .inode = info.st_ino};
    return true;
}

static void mark_process(nice_groups *groups)
{
    groups->pid = getpid();
    if (groups->same_process) {
        atomic_store(groups->same_process, 1);
    }
}

void nice_groups_init(nice_groups *groups, const nice_system *system, nice_rule rule)
{
    memset(groups, 0, sizeof *groups);
    pthread_mutex_init(&groups->lock, NULL);
    groups->system = *system;
    groups->rule = rule;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED && madvise(memory, page, MADV_WIPEONFORK) == 0) {
        groups->same_process = memory;
    } else if (memory != MAP_FAILED) {
        munmap(memory, page);
    }
    mark_process(groups);
}

bool nice_groups_copied(const nice_groups *groups)
{
    return groups->same_process ? atomic_load_explicit(groups->same_process, memory_order_relaxed) == 0
                                : groups->pid != getpid();
}

void nice_groups_forget(nice_groups *groups)
{
    /* Another thread of the parent may have held the lock; the child has only this one. */
    pthread_mutex_init(&groups->lock, NULL);
    groups->n = 0;
    groups->n_devices = 0;
    groups->shared = false;
    atomic_store(&groups->gpus, 0);
    groups->set_count = groups->refused_count = 0;
    mark_process(groups);
}

/* ------------------------------------------------------------------------------------------------ controls -- */

/* One control on a group of the table. The driver's status, or UINT32_MAX when the call itself failed. */
static uint32_t control(nice_groups *groups, const nice_group *group, uint32_t command, rm_slice *slice)
{
    rm_control message = {
        .client = group->client,
        .object = group->group,
        .command = command,
        .params = (uintptr_t)slice,
        .params_bytes = sizeof *slice,
        .status = UINT32_MAX,
    };
    int result;
    do {
        result = groups->system.ioctl(groups->system.context, group->fd, RM_REQUEST(RM_CONTROL, rm_control), &message);
    } while (result < 0 && errno == EINTR);
    return result < 0 ? UINT32_MAX : message.status;
}

static bool still_open(nice_groups *groups, const nice_group *group)
{
    nice_file now;
    return groups->system.is_control_node(groups->system.context, group->fd, &now) &&
           now.device == group->file.device && now.inode == group->file.inode;
}

static bool is_gone(uint32_t status)
{
    return status == RM_INVALID_CLIENT || status == RM_INVALID_OBJECT || status == RM_INVALID_HANDLE ||
           status == RM_NOT_FOUND;
}

/* The driver is asked for a slice before it is told one: an answer means that messages have the form we know. */
static bool probe(nice_groups *groups, nice_group *group)
{
    char text[64];
    rm_slice slice = {UINT64_MAX};
    uint32_t status = control(groups, group, RM_GROUP_GET_SLICE, &slice);
    if (status == RM_OK && slice.us <= 100u * NICE_SLICE_MAX_US) {
        groups->probed = true;
        group->own_us = group->own_us ? group->own_us : slice.us;
        return true;
    }
    group->status = status;
    if (is_gone(status)) {
        group->alive = false;
        return false;
    }
    groups->inert = true;
    if (status == UINT32_MAX) {
        snprintf(text, sizeof text, "no answer");
    } else if (status == RM_OK) {
        snprintf(text, sizeof text, "%llu us", (unsigned long long)slice.us);
    } else {
        nice_status_text(status, text, sizeof text);
    }
    say(groups, SAID_PROBE,
        "the NVIDIA driver does not say which time slice a channel group has (%s): time slices are left as they are, "
        "and "
        "the program runs as usual",
        text);
    return false;
}

static uint64_t wanted_us(const nice_groups *groups, const nice_group *group)
{
    if (groups->rule.slice_us == 0) {
        return group->set_us ? group->own_us : 0; /* nothing was changed, so nothing is to be put back */
    }
    uint32_t us = groups->rule.slice_us;
    us = groups->shared && groups->rule.by_level && us < NICE_SHARED_US ? NICE_SHARED_US : us;
    return us < groups->least_us ? groups->least_us : us;
}

static uint32_t set_slice(nice_groups *groups, nice_group *group, uint64_t *us)
{
    rm_slice slice = {*us};
    uint32_t status = control(groups, group, RM_GROUP_SET_SLICE, &slice);
    /* Every GPU has a shortest slice, which the driver does not tell: find the next one it takes. */
    while (status == RM_NOT_SUPPORTED && groups->rule.slice_us && *us < 1000) {
        slice.us = *us = *us * 2;
        status = control(groups, group, RM_GROUP_SET_SLICE, &slice);
        if (status == RM_OK) {
            groups->least_us = (uint32_t)*us;
            say(groups, SAID_LEAST, "the shortest time slice that the driver accepts here is about %u us",
                (unsigned)*us);
        }
    }
    return status;
}

static uint32_t gpu_of(const nice_groups *groups, const nice_group *group)
{
    unsigned n = groups->n_devices < NICE_MAX_DEVICES ? groups->n_devices : NICE_MAX_DEVICES;
    for (unsigned i = 1; i <= n; i++) {
        const nice_device *device = &groups->devices[(groups->n_devices - i) % NICE_MAX_DEVICES];
        if (device->client == group->client && device->device == group->device) {
            return device->gpu;
        }
    }
    return 0;
}

/* Gives the group, which runs kernels, the rule's slice. */
static void apply(nice_groups *groups, nice_group *group)
{
    char text[64];
    atomic_fetch_or_explicit(&groups->gpus, (uint64_t)1 << gpu_of(groups, group) % NICE_MAX_GPUS, memory_order_relaxed);
    uint64_t us = wanted_us(groups, group);
    if (us == 0 || groups->inert) {
        return;
    }
    if (!still_open(groups, group)) {
        group->alive = false;
        return;
    }
    if (!groups->probed && !probe(groups, group)) {
        return;
    }
    uint32_t status = group->status = set_slice(groups, group, &us);
    if (status == RM_OK) {
        group->applied = true;
        group->set_us = groups->rule.slice_us ? us : 0;
        groups->set_count++;
        say(groups, 0, "channel group 0x%08x (engine %u): time slice %llu us, the program's own is %llu us",
            (unsigned)group->group, (unsigned)group->engine, (unsigned long long)us, (unsigned long long)group->own_us);
    } else if (is_gone(status)) {
        group->alive = false;
    } else {
        groups->refused_count++;
        say(groups, SAID_REFUSED,
            "the NVIDIA driver refuses a time slice of %llu us (%s): the program runs on with its own slice",
            (unsigned long long)us,
            status == UINT32_MAX ? strerror(errno) : nice_status_text(status, text, sizeof text));
    }
}

/* --------------------------------------------------------------------------------------------- observation -- */

static bool runs_kernels(const nice_group *group)
{
    return group->compute || (group->engine >= RM_ENGINE_GRAPHICS && group->engine <= RM_ENGINE_GRAPHICS_LAST);
}

static nice_group *find_group(nice_groups *groups, uint32_t client, uint32_t object)
{
    for (unsigned i = 0; i < groups->n; i++) {
        nice_group *group = &groups->groups[i];
        if (group->alive && group->client == client && group->group == object) {
            return group;
        }
    }
    return NULL;
}

/* Where in group's channels it is; n_channels when it is not. */
static uint32_t find_channel(const nice_group *group, uint32_t channel)
{
    uint32_t i = 0;
    while (i < group->n_channels && group->channels[i] != channel) {
        i++;
    }
    return i;
}

static nice_group *new_group(nice_groups *groups)
{
    unsigned i = 0;
    while (i < groups->n && groups->groups[i].alive) {
        i++;
    }
    if (i == NICE_MAX_GROUPS) {
        say(groups, SAID_FULL, "more than %d channel groups in one process: the others keep their own time slice",
            NICE_MAX_GROUPS);
        return NULL;
    }
    groups->n = i == groups->n ? i + 1 : groups->n;
    memset(&groups->groups[i], 0, sizeof groups->groups[i]);
    return &groups->groups[i];
}

static void saw_alloc(nice_groups *groups, int fd, const nice_file *file, const rm_alloc *message, bool readable)
{
    nice_group *group;
    if (message->class == RM_CLASS_GROUP) {
        group = find_group(groups, message->client, message->object); /* a handle used again */
        if (group) {
            group->alive = false;
        }
        group = new_group(groups);
        if (!group) {
            return;
        }
        group->alive = true;
        group->fd = fd;
        group->file = *file;
        group->client = message->client;
        group->device = message->parent;
        group->group = message->object;
        if (readable && message->params) { /* the driver has just read it */
            rm_group_params params;
            memcpy(&params, (const void *)(uintptr_t)message->params, sizeof params);
            group->engine = params.engine;
        }
        say(groups, 0, "channel group 0x%08x (engine %u) was created", (unsigned)group->group, (unsigned)group->engine);
    } else if (message->class == RM_CLASS_DEVICE) {
        rm_device_params params = {0};
        if (readable && message->params) {
            memcpy(&params, (const void *)(uintptr_t)message->params, sizeof params);
        }
        groups->devices[groups->n_devices++ % NICE_MAX_DEVICES] =
            (nice_device){message->client, message->object, params.number};
    } else if ((message->class & 0xff) == RM_CLASS_LOW_CHANNEL) {
        group = find_group(groups, message->client, message->parent);
        if (group && group->n_channels < NICE_MAX_CHANNELS) {
            group->channels[group->n_channels++] = message->object;
        }
    } else if ((message->class & 0xff) == RM_CLASS_LOW_COMPUTE) {
        for (unsigned i = 0; i < groups->n; i++) {
            group = &groups->groups[i];
            if (group->alive && group->client == message->client &&
                find_channel(group, message->parent) < group->n_channels) {
                group->compute = true;
                if (!group->applied) {
                    apply(groups, group);
                }
                return;
            }
        }
    }
}

static void saw_free(nice_groups *groups, const rm_free *message)
{
    for (unsigned i = 0; i < groups->n; i++) {
        nice_group *group = &groups->groups[i];
        if (!group->alive || group->client != message->client) {
            continue;
        }
        if (message->object == group->client || message->object == group->device || message->object == group->group) {
            group->alive = false;
            say(groups, 0, "channel group 0x%08x is gone", (unsigned)group->group);
            continue;
        }
        uint32_t at = find_channel(group, message->object);
        if (at < group->n_channels) {
            group->channels[at] = group->channels[--group->n_channels];
        }
    }
}

static void saw_control(nice_groups *groups, const rm_control *message)
{
    nice_group *group = find_group(groups, message->client, message->object);
    if (!group) {
        return;
    }
    if (message->command == RM_GROUP_SET_SLICE && message->params && message->params_bytes == sizeof(rm_slice)) {
        rm_slice slice;
        memcpy(&slice, (const void *)(uintptr_t)message->params, sizeof slice);
        group->own_us = slice.us;
        if (runs_kernels(group)) {
            apply(groups, group);
        }
    } else if (message->command == RM_GROUP_SCHEDULE && runs_kernels(group) && !group->applied) {
        apply(groups, group);
    }
}

/* ---------------------------------------------------------------------------------------------------- the call -- */

typedef struct message { /* what a call carries, taken out of an indirect one */
    unsigned number, bytes;
    void *at;
} message;

static message unwrap(unsigned long request, void *argument)
{
    message out = {_IOC_NR(request), _IOC_SIZE(request), argument};
    if (out.number == RM_INDIRECT && out.bytes == sizeof(rm_indirect)) {
        const rm_indirect *indirect = argument;
        out = (message){indirect->number, indirect->bytes, (void *)(uintptr_t)indirect->message};
    }
    return out;
}

static bool known_form(const message *m)
{
    switch (m->number) {
    case RM_ALLOC: return m->bytes == sizeof(rm_alloc) || m->bytes == sizeof(rm_alloc_rights);
    case RM_FREE: return m->bytes == sizeof(rm_free);
    default: return m->bytes == sizeof(rm_control);
    }
}

static void observe(nice_groups *groups, int fd, const nice_file *file, const message *m)
{
    if (m->number == RM_ALLOC) {
        const rm_alloc *alloc = m->at;
        const rm_alloc_rights *rights = m->at;
        bool longer = m->bytes == sizeof *rights;
        if ((longer ? rights->status : alloc->status) == RM_OK) {
            saw_alloc(groups, fd, file, alloc, !longer || !(rights->flags & RM_ALLOC_SERIALIZED));
        }
    } else if (m->number == RM_FREE) {
        const rm_free *freed = m->at;
        if (freed->status == RM_OK) {
            saw_free(groups, freed);
        }
    } else {
        const rm_control *sent = m->at;
        if (sent->status == RM_OK && sent->command >> 16 == RM_CLASS_GROUP) {
            saw_control(groups, sent);
        }
    }
}

/* Reads what the call carried, which the driver has just read and answered. */
static void look(nice_groups *groups, int fd, const nice_file *file, unsigned long request, void *argument)
{
    message m = unwrap(request, argument);
    if (!m.at || (m.number != RM_ALLOC && m.number != RM_FREE && m.number != RM_CONTROL)) {
        return;
    }
    bool known = known_form(&m);
    if (known && m.number == RM_CONTROL && ((const rm_control *)m.at)->command >> 16 != RM_CLASS_GROUP) {
        return; /* most controls are not about groups: they need no lock */
    }
    pthread_mutex_lock(&groups->lock);
    if (known) {
        observe(groups, fd, file, &m);
    } else {
        groups->inert = true;
        say(groups, SAID_FORM,
            "this NVIDIA driver speaks a form of its interface that is not known here (message 0x%02x of %u bytes): "
            "time slices are left as they are, and the program runs as usual",
            m.number, m.bytes);
    }
    pthread_mutex_unlock(&groups->lock);
}

int nice_groups_ioctl(nice_groups *groups, int fd, unsigned long request, void *argument)
{
    const nice_system *system = &groups->system;
    int before = errno;
    nice_file file;
    bool ours = _IOC_TYPE(request) == RM_MAGIC && argument && system->is_control_node(system->context, fd, &file);
    errno = before;
    int result = system->ioctl(system->context, fd, request, argument);
    if (ours && result == 0) {
        before = errno;
        if (nice_groups_copied(groups)) {
            nice_groups_forget(groups);
        }
        look(groups, fd, &file, request, argument);
        errno = before;
    }
    return result;
}

/* -------------------------------------------------------------------------------------------- rule and list -- */

static void apply_all(nice_groups *groups, nice_applied *out)
{
    *out = (nice_applied){0};
    for (unsigned i = 0; i < groups->n; i++) {
        nice_group *group = &groups->groups[i];
        if (!group->alive || !runs_kernels(group)) {
            continue;
        }
        uint64_t sets = groups->set_count, refusals = groups->refused_count;
        apply(groups, group);
        out->groups += group->alive;
        out->changed += groups->set_count > sets;
        if (groups->refused_count > refusals) {
            out->refused++;
            out->status = group->status;
        }
    }
    if (groups->inert) {
        out->why_inert = "the driver's interface is not one that reef nice knows";
    }
}

void nice_groups_set(nice_groups *groups, nice_rule rule, nice_applied *out)
{
    int before = errno;
    pthread_mutex_lock(&groups->lock);
    groups->rule = rule;
    apply_all(groups, out);
    pthread_mutex_unlock(&groups->lock);
    errno = before;
}

void nice_groups_share(nice_groups *groups, bool shared)
{
    int before = errno;
    nice_applied ignored;
    pthread_mutex_lock(&groups->lock);
    if (groups->shared != shared) {
        groups->shared = shared;
        say(groups, 0,
            shared ? "another program under reef nice uses the same GPU: slices of levels are at least %d us"
                   : "no other program under reef nice uses the same GPU any more (slices below %d us again)",
            NICE_SHARED_US);
        if (groups->rule.by_level && groups->rule.slice_us && groups->rule.slice_us < NICE_SHARED_US) {
            apply_all(groups, &ignored);
        }
    }
    pthread_mutex_unlock(&groups->lock);
    errno = before;
}

size_t nice_groups_list(nice_groups *groups, nice_group *out, size_t most, nice_rule *rule)
{
    size_t n = 0;
    pthread_mutex_lock(&groups->lock);
    for (unsigned i = 0; i < groups->n; i++) {
        const nice_group *group = &groups->groups[i];
        if (group->alive && runs_kernels(group)) {
            if (n < most) {
                out[n] = *group;
            }
            n++;
        }
    }
    *rule = groups->rule;
    pthread_mutex_unlock(&groups->lock);
    return n;
}
