/*
 * registry.c - the backends of this build, and the devices that are there.
 */
#include <string.h>

#include "base/error.h"
#include "device/device.h"

extern const reef_device_ops reef_cpu_device_ops, reef_cuda_device_ops;

const reef_device_ops *reef_device_ops_at(size_t i)
{
    static const reef_device_ops *const backends[] = {&reef_cpu_device_ops, &reef_cuda_device_ops};
    return i < sizeof backends / sizeof backends[0] ? backends[i] : NULL;
}

static bool entry_of(const reef_device_ops *ops, unsigned ordinal, reef_device_entry *out)
{
    *out = (reef_device_entry){.ops = ops, .ordinal = ordinal, .name = ops->name, .description = ops->description};
    return ops->enumerate ? ops->enumerate(ordinal, &out->name, &out->description) : ordinal == 0;
}

bool reef_device_entry_at(size_t i, reef_device_entry *out)
{
    const reef_device_ops *ops;
    for (size_t backend = 0; (ops = reef_device_ops_at(backend)); backend++) {
        for (unsigned ordinal = 0; entry_of(ops, ordinal, out); ordinal++) {
            if (i-- == 0) {
                return true;
            }
        }
    }
    return false;
}

reef_status reef_device_find(const char *name, reef_device_entry *out, reef_error *error)
{
    reef_device_entry entry;
    for (size_t i = 0; reef_device_entry_at(i, &entry); i++) {
        /* A backend's own name is short for its first device. */
        if (!strcmp(entry.name, name) || (entry.ordinal == 0 && !strcmp(entry.ops->name, name))) {
            *out = entry;
            return REEF_OK;
        }
    }
    const reef_device_ops *ops;
    for (size_t backend = 0; (ops = reef_device_ops_at(backend)); backend++) {
        size_t length = strlen(ops->name);
        if (!strncmp(ops->name, name, length) && (name[length] == ':' || !name[length]) && ops->available) {
            reef_status status = ops->available(error);
            if (status) {
                reef_error_prefix(error, "device '%s': ", name);
                return status;
            }
        }
    }
    char names[200] = "";
    for (size_t i = 0; reef_device_entry_at(i, &entry); i++) {
        strncat(names, i ? ", " : "", sizeof names - strlen(names) - 1);
        strncat(names, entry.name, sizeof names - strlen(names) - 1);
    }
    return reef_fail(error, REEF_NOT_FOUND, "unknown device '%s'; there are: %s", name, names);
}
