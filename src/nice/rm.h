/*
 * rm.h - the few messages of NVIDIA's resource manager (RM) that reef nice reads and the two that it sends.
 *
 * libcuda talks to the kernel driver through ioctl(2) on /dev/nvidiactl: it allocates objects (a client, devices, channel
 * groups, channels, compute classes), controls them, and frees them. A channel group is what the GPU's own scheduler
 * switches between; its time slice is how long it keeps the GPU while another one waits. RM ties a client to the open
 * file it came through, so a control only works through the descriptor that libcuda uses.
 *
 * The layouts are those that NVIDIA publishes with its open kernel modules (515 to 580). A message of another size is of a
 * driver that is not known here: nothing in it is read.
 */
#ifndef REEF_NICE_RM_H
#define REEF_NICE_RM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

enum {
    RM_MAGIC = 'F',
    RM_MAJOR = 195, /* of /dev/nvidiactl, fixed */
    RM_CONTROL_MINOR = 255,
    RM_FREE = 0x29,
    RM_CONTROL = 0x2a,
    RM_ALLOC = 0x2b,
    RM_INDIRECT = 211, /* carries one of the others by pointer */
};

enum {
    RM_CLASS_DEVICE = 0x80,
    RM_CLASS_GROUP = 0xa06c,
    RM_CLASS_LOW_CHANNEL = 0x6f, /* low byte of every generation's channel class: 0xc86f on Hopper */
    RM_CLASS_LOW_COMPUTE = 0xc0, /* and of its compute class: 0xcbc0 */
    RM_ENGINE_GRAPHICS = 1,      /* engine types 1 to 8 run kernels: GR0 to GR7 */
    RM_ENGINE_GRAPHICS_LAST = 8,
};

#define RM_GROUP_SCHEDULE  0xa06c0101u
#define RM_GROUP_SET_SLICE 0xa06c0103u
#define RM_GROUP_GET_SLICE 0xa06c0104u

enum { /* RM's answers that mean something here */
       RM_OK = 0,
       RM_NOT_PERMITTED = 0x1b,
       RM_INVALID_CLIENT = 0x23,
       RM_INVALID_OBJECT = 0x31,
       RM_INVALID_HANDLE = 0x33,
       RM_NOT_SUPPORTED = 0x56,
       RM_NOT_FOUND = 0x57,
};

typedef struct rm_free {
    uint32_t client, parent, object, status;
} rm_free;

typedef struct rm_alloc { /* the short form */
    uint32_t client, parent, object, class;
    uint64_t params;
    uint32_t params_bytes, status;
} rm_alloc;

typedef struct rm_alloc_rights { /* the long form; begins like the short one */
    uint32_t client, parent, object, class;
    uint64_t params, rights;
    uint32_t params_bytes, flags, status, pad;
} rm_alloc_rights;
enum { RM_ALLOC_SERIALIZED = 1 }; /* in flags: params are not the plain structure */

typedef struct rm_control {
    uint32_t client, object, command, flags;
    uint64_t params;
    uint32_t params_bytes, status;
} rm_control;

typedef struct rm_indirect {
    uint32_t number, bytes;
    uint64_t message;
} rm_indirect;

typedef struct rm_device_params { /* the beginning of a device's */
    uint32_t number;              /* of the GPU in this machine */
} rm_device_params;

typedef struct rm_group_params { /* the beginning of a channel group's allocation parameters */
    uint32_t error_notifier, ecc_notifier, address_space, engine;
} rm_group_params;

typedef struct rm_slice {
    uint64_t us;
} rm_slice;

_Static_assert(sizeof(rm_free) == 16, "RM free");
_Static_assert(sizeof(rm_alloc) == 32 && offsetof(rm_alloc, status) == 28, "RM alloc");
_Static_assert(sizeof(rm_alloc_rights) == 48 && offsetof(rm_alloc_rights, status) == 40, "RM alloc with rights");
_Static_assert(sizeof(rm_control) == 32 && offsetof(rm_control, status) == 28, "RM control");
_Static_assert(sizeof(rm_indirect) == 16, "RM indirect");

#define RM_REQUEST(number, type) ((unsigned long)_IOWR(RM_MAGIC, number, type))

#endif
