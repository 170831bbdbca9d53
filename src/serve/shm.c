/*
 * shm.c - see shm.h.
 */
#include "serve/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

enum { MAX_REGIONS = 1024, NAME = 256 };

struct serve_region {
    char name[NAME], key[NAME];
    uint64_t offset, bytes;
    char *base; /* of the mapping, which starts on a page */
    size_t mapped, skip;
    size_t slot;
    _Atomic unsigned references;
    _Atomic bool damaged;
};

struct serve_shm {
    pthread_mutex_t lock; /* guards the list */
    char *prefix;
    serve_region *regions[MAX_REGIONS];
    size_t n;
};

/*
 * What the signal handler looks through: the mappings of all regions of the process. A slot is filled before its region
 * can be touched and emptied after it no longer is.
 */
static struct {
    _Atomic uintptr_t base;
    _Atomic size_t bytes;
    serve_region *_Atomic region;
} mappings[MAX_REGIONS];
static struct sigaction previous;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    for (size_t i = 0; i < MAX_REGIONS; i++) {
        uintptr_t base = atomic_load(&mappings[i].base);
        size_t bytes = atomic_load(&mappings[i].bytes);
        serve_region *region = atomic_load(&mappings[i].region);
        if (region && at >= base && at - base < bytes) {
            /* mmap is a plain system call here; nothing is allocated and no lock is taken. */
            if (mmap((void *)base, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
                MAP_FAILED) {
                atomic_store(&region->damaged, true);
                return;
            }
        }
    }
    (void)number;
    (void)context;
    sigaction(SIGBUS, &previous, NULL); /* not ours: fails again, as it would have without us */
}

serve_shm *serve_shm_create(const char *prefix)
{
    serve_shm *shm = calloc(1, sizeof *shm);
    if (!shm || (prefix && !(shm->prefix = strdup(prefix)))) {
        free(shm);
        return NULL;
    }
    pthread_mutex_init(&shm->lock, NULL);
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct sigaction now;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, NULL, &now) == 0 && now.sa_sigaction != on_sigbus) {
        previous = now;
        sigaction(SIGBUS, &action, NULL);
    }
    return shm;
}

static void release(serve_region *region)
{
    /* Acquire and release: every use comes before the unmapping. */
    if (atomic_fetch_sub_explicit(&region->references, 1, memory_order_acq_rel) > 1) {
        return;
    }
    munmap(region->base, region->mapped);
    atomic_store(&mappings[region->slot].base, 0);
    atomic_store(&mappings[region->slot].region, NULL);
    free(region);
}

void serve_shm_put(serve_region *region)
{
    if (region) {
        release(region);
    }
}

const char *serve_region_name(const serve_region *region)
{
    return region->name;
}

bool serve_shm_damaged(const serve_region *region)
{
    return atomic_load(&region->damaged);
}

void serve_shm_destroy(serve_shm *shm)
{
    if (shm) {
        serve_shm_unregister(shm, NULL);
        pthread_mutex_destroy(&shm->lock);
        free(shm->prefix);
        free(shm);
    }
}

static serve_region *find(const serve_shm *shm, const char *name)
{
    for (size_t i = 0; i < shm->n; i++) {
        if (!strcmp(shm->regions[i]->name, name)) {
            return shm->regions[i];
        }
    }
    return NULL;
}

static reef_status check_key(const serve_shm *shm, const char *name, const char *key, reef_error *error)
{
    if (!*name || strlen(name) >= NAME || !*key || strlen(key) >= NAME) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "names and keys of shared memory have 1 to %d bytes", NAME - 1);
    }
    if (!shm->prefix) {
        return reef_fail(error, REEF_REFUSED,
                         "this server does not take shared memory; start it with --shm-prefix PREFIX to allow it");
    }
    const char *bare = *key == '/' ? key + 1 : key;
    if (!*bare || strchr(bare, '/') || !strcmp(bare, ".") || !strcmp(bare, "..")) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "shared memory key '%s' is not '/' and a plain name", key);
    }
    if (strncmp(bare, shm->prefix, strlen(shm->prefix)) != 0) {
        return reef_fail(error, REEF_REFUSED, "shared memory key '%s' does not start with '/%s', as this server asks",
                         key, shm->prefix);
    }
    return REEF_OK;
}

/* A free slot for the handler, or MAX_REGIONS. */
static size_t take_slot(serve_region *region)
{
    for (size_t i = 0; i < MAX_REGIONS; i++) {
        serve_region *none = NULL;
        if (atomic_compare_exchange_strong(&mappings[i].region, &none, region)) {
            return i;
        }
    }
    return MAX_REGIONS;
}

static reef_status map(serve_region *region, int fd, reef_error *error)
{
    struct stat info;
    if (fstat(fd, &info) || !S_ISREG(info.st_mode)) {
        return reef_fail(error, REEF_IO, "shared memory '%s' is not a memory object", region->key);
    }
    uint64_t size = (uint64_t)info.st_size;
    if (region->bytes == 0 || region->offset > size || region->bytes > size - region->offset) {
        return reef_fail(error, REEF_INVALID_ARGUMENT,
                         "shared memory '%s': %llu bytes at offset %llu do not lie in its %llu bytes", region->key,
                         (unsigned long long)region->bytes, (unsigned long long)region->offset,
                         (unsigned long long)size);
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    region->skip = region->offset % page;
    region->mapped = region->bytes + region->skip;
    region->slot = take_slot(region);
    if (region->slot == MAX_REGIONS) {
        return reef_fail(error, REEF_NO_MEMORY, "too many shared memory regions (%d)", MAX_REGIONS);
    }
    void *base =
        mmap(NULL, region->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(region->offset - region->skip));
    if (base == MAP_FAILED) {
        atomic_store(&mappings[region->slot].region, NULL);
        return reef_fail(error, REEF_IO, "shared memory '%s' cannot be mapped: %s", region->key, strerror(errno));
    }
    region->base = base;
    atomic_store(&mappings[region->slot].bytes, region->mapped);
    atomic_store(&mappings[region->slot].base, (uintptr_t)base);
    return REEF_OK;
}

reef_status serve_shm_register(serve_shm *shm, const char *name, const char *key, uint64_t offset, uint64_t bytes,
                               reef_error *error)
{
    reef_status status = check_key(shm, name, key, error);
    if (status) {
        return status;
    }
    serve_region *region = calloc(1, sizeof *region);
    if (!region) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    memcpy(region->name, name, strlen(name) + 1);
    memcpy(region->key, key, strlen(key) + 1);
    region->offset = offset;
    region->bytes = bytes;
    atomic_init(&region->references, 1);
    int fd = shm_open(key, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0);
    if (fd < 0) {
        status = reef_fail(error, errno == ENOENT ? REEF_NOT_FOUND : REEF_IO, "shared memory '%s' cannot be opened: %s",
                           key, strerror(errno));
    } else {
        status = map(region, fd, error);
        close(fd);
    }
    if (status) {
        free(region);
        return status;
    }
    pthread_mutex_lock(&shm->lock);
    if (find(shm, name)) {
        status =
            reef_fail(error, REEF_BUSY, "shared memory region '%s' is already registered; unregister it first", name);
    } else if (shm->n == MAX_REGIONS) {
        status = reef_fail(error, REEF_NO_MEMORY, "too many shared memory regions (%d)", MAX_REGIONS);
    } else {
        shm->regions[shm->n++] = region;
    }
    pthread_mutex_unlock(&shm->lock);
    if (status) {
        release(region);
    }
    return status;
}

void serve_shm_unregister(serve_shm *shm, const char *name)
{
    pthread_mutex_lock(&shm->lock);
    for (size_t i = shm->n; i-- > 0;) {
        if (!name || !strcmp(shm->regions[i]->name, name)) {
            serve_region *region = shm->regions[i];
            shm->regions[i] = shm->regions[--shm->n];
            release(region);
        }
    }
    pthread_mutex_unlock(&shm->lock);
}

reef_status serve_shm_status(serve_shm *shm, const char *name, serve_text *out, reef_error *error)
{
    reef_status status = REEF_OK;
    pthread_mutex_lock(&shm->lock);
    if (name && !find(shm, name)) {
        status = reef_fail(error, REEF_NOT_FOUND, "no shared memory region '%s' is registered", name);
    }
    serve_text_add(out, "[");
    bool first = true;
    for (size_t i = 0; !status && i < shm->n; i++) {
        const serve_region *region = shm->regions[i];
        if (!name || !strcmp(name, region->name)) {
            serve_text_add(out, first ? "{\"name\":" : ",{\"name\":");
            serve_text_json(out, region->name);
            serve_text_add(out, ",\"key\":");
            serve_text_json(out, region->key);
            serve_text_format(out, ",\"offset\":%llu,\"byte_size\":%llu}", (unsigned long long)region->offset,
                              (unsigned long long)region->bytes);
            first = false;
        }
    }
    serve_text_add(out, "]");
    pthread_mutex_unlock(&shm->lock);
    return status;
}

reef_status serve_shm_get(serve_shm *shm, const char *name, uint64_t offset, uint64_t bytes, serve_region **out,
                          void **data, reef_error *error)
{
    serve_region *region = NULL;
    if (shm) {
        pthread_mutex_lock(&shm->lock);
        region = find(shm, name);
        if (region) {
            atomic_fetch_add(&region->references, 1);
        }
        pthread_mutex_unlock(&shm->lock);
    }
    if (!region) {
        return reef_fail(error, REEF_NOT_FOUND, "no shared memory region '%s' is registered", name);
    }
    if (offset > region->bytes || bytes > region->bytes - offset) {
        reef_status status = reef_fail(
            error, REEF_INVALID_ARGUMENT,
            "%llu bytes at offset %llu do not lie in the %llu bytes of shared memory region '%s'",
            (unsigned long long)bytes, (unsigned long long)offset, (unsigned long long)region->bytes, region->name);
        release(region);
        return status;
    }
    *data = region->base + region->skip + offset;
    *out = region;
    return REEF_OK;
}
