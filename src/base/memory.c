/*
 * memory.c - what the kernel says is left: MemAvailable, and the limit of the control group.
 */
#include "base/memory.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number behind `key` in a file of "key number" lines; key NULL: the first. UINT64_MAX when there is none ("max",
 * no such file). Allocates nothing but stdio's buffer. */
static uint64_t number_in(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    char line[256];
    uint64_t found = UINT64_MAX;
    while (file && found == UINT64_MAX && fgets(line, sizeof line, file)) {
        const size_t length = key ? strlen(key) : 0;
        if (!key || strncmp(line, key, length) == 0) {
            char *end;
            errno = 0;
            const unsigned long long number = strtoull(line + length, &end, 10);
            found = end != line + length && errno == 0 ? number : UINT64_MAX;
        }
    }
    if (file) {
        fclose(file);
    }
    return found;
}

/* What a control group has left; file pages that nobody needed lately count as free. */
static uint64_t group_left(const char *limit_path, const char *used_path, const char *stat_path, const char *idle_key)
{
    const uint64_t limit = number_in(limit_path, NULL), used = number_in(used_path, NULL);
    const uint64_t idle = number_in(stat_path, idle_key);
    if (limit == UINT64_MAX || used == UINT64_MAX) {
        return UINT64_MAX;
    }
    const uint64_t taken = idle < used ? used - idle : idle == UINT64_MAX ? used : 0;
    return limit > taken ? limit - taken : 0;
}

bool reef_memory_fits(size_t bytes)
{
    if (bytes <= (size_t)64 << 20) {
        return true;
    }
    const uint64_t machine_kib = number_in("/proc/meminfo", "MemAvailable:");
    return (machine_kib > UINT64_MAX / 1024 || bytes <= machine_kib * 1024) &&
           bytes <= group_left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current",
                               "/sys/fs/cgroup/memory.stat", "inactive_file ") &&
           bytes <= group_left("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                               "/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat",
                               "total_inactive_file ");
}
