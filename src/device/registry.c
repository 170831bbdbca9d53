/*
 * registry.c - the devices of this build.
 */
#include "device/device.h"

extern const reef_device_ops reef_cpu_device_ops;

const reef_device_ops *reef_device_ops_at(size_t i)
{
    static const reef_device_ops *const devices[] = {&reef_cpu_device_ops};
    return i < sizeof devices / sizeof devices[0] ? devices[i] : NULL;
}
