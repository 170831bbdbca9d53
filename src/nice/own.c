/*
 * own.c - see own.h.
 *
 * A shared library calls functions of others through a table of addresses that the dynamic loader fills (the global offset
 * table), one slot per function, described by relocations. The slots of "ioctl" get our address.
 */
#include "nice/own.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nice/rm.h"

typedef int (*ioctl_function)(int fd, unsigned long request, ...);

static struct {
    pthread_mutex_t lock; /* guards what is not the table's own */
    bool ready;
    void *library;
    ioctl_function next; /* written before the first slot is */
    nice_groups groups;
    char said[480]; /* the last thing that the user must know */
} own = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int next_ioctl(void *context, int fd, unsigned long request, void *argument)
{
    (void)context;
    return own.next(fd, request, argument);
}

/* Called with the table's lock held. The library prints nothing: nice_own_slice_get reports it. */
static void keep(void *context, bool always, const char *line)
{
    (void)context;
    if (always) {
        snprintf(own.said, sizeof own.said, "%s", line);
    }
}

static int redirected_ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    return nice_groups_ioctl(&own.groups, fd, request, argument);
}

static void in_child(void)
{
    pthread_mutex_init(&own.lock, NULL);
    nice_groups_forget(&own.groups);
}

/* ---------------------------------------------------------------------------------------------- the slots -- */

typedef struct imports { /* of one library, from its dynamic section */
    const ElfW(Sym) * symbols;
    const char *names;
    const ElfW(Rela) * tables[2];
    size_t bytes[2];
    bool known;
} imports;

static imports read_imports(const struct link_map *map)
{
    imports out = {0};
    bool rela = false;
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
        const void *at = (const void *)entry->d_un.d_ptr; /* glibc has added the load address */
        switch (entry->d_tag) {
        case DT_SYMTAB: out.symbols = at; break;
        case DT_STRTAB: out.names = at; break;
        case DT_JMPREL: out.tables[0] = at; break;
        case DT_PLTRELSZ: out.bytes[0] = entry->d_un.d_val; break;
        case DT_PLTREL: rela = entry->d_un.d_val == DT_RELA; break;
        case DT_RELA: out.tables[1] = at; break;
        case DT_RELASZ: out.bytes[1] = entry->d_un.d_val; break;
        default: break;
        }
    }
    out.known = out.symbols && out.names && (rela || out.tables[1]);
    if (!rela) {
        out.tables[0] = NULL;
    }
    return out;
}

/* Stores into a slot that the loader may have made read-only. */
static bool store(void **slot, void *value)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)slot & ~(page - 1);
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    int before = -1;
    while (maps && before < 0 && fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char access[5];
        /* NOLINTNEXTLINE(cert-err34-c): the kernel wrote it */
        if (sscanf(line, "%lx-%lx %4s", &from, &to, access) == 3 && begin >= from && begin < to) {
            before = (access[0] == 'r' ? PROT_READ : 0) | (access[1] == 'w' ? PROT_WRITE : 0) |
                     (access[2] == 'x' ? PROT_EXEC : 0);
        }
    }
    if (maps) {
        fclose(maps);
    }
    if (before < 0) {
        return false;
    }
    bool writable = before & PROT_WRITE;
    if (!writable && mprotect((void *)begin, page, before | PROT_WRITE)) {
        return false;
    }
    /* Other threads may be calling through it: they see the old function or the new one. */
    __atomic_store_n(slot, value, __ATOMIC_RELEASE);
    return writable || mprotect((void *)begin, page, before) == 0;
}

static unsigned redirect(const struct link_map *map, const imports *in)
{
    unsigned slots = 0;
    for (int t = 0; t < 2; t++) {
        for (size_t i = 0; in->tables[t] && i < in->bytes[t] / sizeof *in->tables[t]; i++) {
            const ElfW(Rela) *entry = &in->tables[t][i];
            size_t symbol = ELF64_R_SYM(entry->r_info);
            if (symbol && strcmp(in->names + in->symbols[symbol].st_name, "ioctl") == 0) {
                slots += store((void **)(map->l_addr + entry->r_offset), (void *)(uintptr_t)redirected_ioctl);
            }
        }
    }
    return slots;
}

static reef_status start(void *library, nice_rule rule, reef_error *error)
{
    static const nice_system system = {.ioctl = next_ioctl, .is_control_node = nice_is_control_node, .say = keep};
    struct link_map *map = NULL;
    if (sizeof(void *) != 8 || dlinfo(library, RTLD_DI_LINKMAP, &map) || !map) {
        return reef_fail(error, REEF_UNSUPPORTED,
                         "the NVIDIA library's imports cannot be found: time slices stay as they are");
    }
    imports in = read_imports(map);
    /* Whoever stands before the C library (reef nice, say) is passed through too. */
    *(void **)&own.next = dlsym(RTLD_DEFAULT, "ioctl");
    if (!in.known || !own.next) {
        return reef_fail(error, REEF_UNSUPPORTED, "%s: its imports have another form: time slices stay as they are",
                         map->l_name);
    }
    nice_groups_init(&own.groups, &system, rule);
    if (redirect(map, &in) == 0) {
        return reef_fail(error, REEF_UNSUPPORTED, "%s: its calls cannot be redirected: time slices stay as they are",
                         map->l_name);
    }
    pthread_atfork(NULL, NULL, in_child);
    own.library = library;
    own.ready = true;
    return REEF_OK;
}

reef_status nice_own_slice(void *library, nice_rule rule, reef_error *error)
{
    nice_applied applied;
    reef_status status = REEF_OK;
    pthread_mutex_lock(&own.lock);
    if (!own.ready) {
        status = start(library, rule, error);
    } else if (library != own.library) {
        status = reef_fail(error, REEF_UNSUPPORTED, "the time slices of another library are being set already");
    } else {
        nice_groups_set(&own.groups, rule, &applied);
    }
    if (status && error) {
        snprintf(own.said, sizeof own.said, "%s", error->message);
    }
    pthread_mutex_unlock(&own.lock);
    return status;
}

reef_status nice_own_slice_get(uint32_t *us, unsigned *groups, reef_error *error)
{
    uint64_t least = 0;
    unsigned n = 0, seen = 0;
    char said[sizeof own.said] = "";
    pthread_mutex_lock(&own.lock);
    bool ready = own.ready;
    if (!ready) {
        memcpy(said, own.said, sizeof said);
    } else {
        pthread_mutex_lock(&own.groups.lock);
        for (unsigned i = 0; i < own.groups.n; i++) {
            const nice_group *group = &own.groups.groups[i];
            seen += group->alive;
            if (group->alive && group->set_us) {
                least = n && least < group->set_us ? least : group->set_us;
                n++;
            }
        }
        memcpy(said, own.said, sizeof said);
        pthread_mutex_unlock(&own.groups.lock);
    }
    pthread_mutex_unlock(&own.lock);
    if (n == 0) {
        const char *why = !ready ? "no time slice was asked for"
                          : seen ? "no channel group that runs kernels was seen"
                                 : "no channel group was seen";
        return reef_fail(error, REEF_UNSUPPORTED, "%s", said[0] ? said : why);
    }
    *us = (uint32_t)least;
    *groups = n;
    return REEF_OK;
}
