/*
 * names.c - checking names of policies and devices before work is started on them.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "bench/runner.h"

typedef bool (*lister)(size_t i, const char **name, const char **meaning);

static reef_status check(lister list, const char *kind, const char *wanted, const char **canonical, reef_error *error)
{
    char known[300] = "";
    size_t used = 0;
    const char *name, *meaning;
    for (size_t i = 0; list(i, &name, &meaning); i++) {
        if (!strcmp(name, wanted)) {
            if (canonical) {
                *canonical = name;
            }
            return REEF_OK;
        }
        if (used < sizeof known) {
            used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", name);
        }
    }
    return reef_fail(error, REEF_NOT_FOUND, "unknown %s '%s'; there are: %s", kind, wanted, known);
}

reef_status bench_check_policy(const char *policy, const char **canonical, reef_error *error)
{
    return check(reef_policy_list, "policy", policy, canonical, error);
}

reef_status bench_check_device(const char *device, reef_error *error)
{
    return reef_device_check(device, error);
}
