/*
 * fuzz_nice.c - arbitrary bytes as what reef nice reads: a request on a program's control socket, the reply to one, and
 * messages to the driver.
 *
 * The bytes are first a request and a reply as they are. Then they are a sequence of driver calls, 16 bytes each, on a table
 * whose driver answers by the same bytes. Whatever was called, a control is only sent on a group that was allocated and not
 * freed, and what the table says of itself can be parsed.
 */
#include <errno.h>

#include "fuzz/fuzz.h"
#include "nice/control.h"
#include "nice/rm.h"

enum { FD = 7, HANDLES = 16 };

static uint64_t answers;             /* the driver's mood */
static bool there[HANDLES][HANDLES]; /* groups by client and handle, as the driver knows them */

static int driver(void *context, int fd, unsigned long request, void *argument)
{
    (void)context;
    if (request != RM_REQUEST(RM_CONTROL, rm_control)) {
        return 0;
    }
    rm_control *message = argument;
    if (message->status != UINT32_MAX) {
        return 0; /* the program's own */
    }
    check(fd == FD, "only the descriptor of the driver's node is used");
    check(message->client < HANDLES && message->object < HANDLES && there[message->client][message->object],
          "a control is sent on a group that is there");
    check(message->command == RM_GROUP_GET_SLICE || message->command == RM_GROUP_SET_SLICE, "only slices are touched");
    uint64_t mood = fuzz_random(&answers);
    rm_slice *slice = (rm_slice *)(uintptr_t)message->params;
    if (message->command == RM_GROUP_GET_SLICE) {
        slice->us = mood % 8 ? mood % 4096 : mood;
    } else {
        check(slice->us >= 1 && slice->us <= UINT32_MAX, "slices are in range");
    }
    static const uint32_t statuses[] = {RM_OK, RM_OK, RM_OK, RM_OK, RM_OK, RM_NOT_PERMITTED, RM_NOT_SUPPORTED, 0x65};
    message->status = statuses[mood >> 32 & 7];
    return 0;
}

static bool is_control_node(void *context, int fd, nice_file *out)
{
    (void)context;
    *out = (nice_file){.device = 1, .inode = 2};
    return fd == FD;
}

static void say(void *context, bool always, const char *line)
{
    (void)context;
    (void)always;
    check(line[0] && !strchr(line, '\n'), "one line is said");
}

static void call(nice_groups *groups, const uint8_t *bytes)
{
    uint32_t client = bytes[1] % HANDLES, parent = bytes[2] % HANDLES, object = bytes[3] % HANDLES;
    rm_group_params params = {.engine = bytes[4] % 12u};
    rm_slice slice = {.us = bytes[5] * 64u};
    static const uint32_t classes[] = {RM_CLASS_GROUP, 0xc86f, 0xcbc0, 0x2080};
    uint32_t class = classes[bytes[6] & 3], status = bytes[7] & 1 ? 0 : bytes[7];
    bool indirect = bytes[8] & 1, longer = bytes[8] & 2;
    rm_alloc_rights alloc = {.client = client,
                             .parent = parent,
                             .object = object,
                             .class = class,
                             .params = (uintptr_t)&params,
                             .flags = bytes[8] >> 2 & 1,
                             .status = status};
    rm_alloc small = {.client = client,
                      .parent = parent,
                      .object = object,
                      .class = class,
                      .params = (uintptr_t)&params,
                      .status = status};
    rm_free freed = {.client = client, .object = object, .status = status};
    rm_control control = {.client = client,
                          .object = object,
                          .command = bytes[9] & 1   ? RM_GROUP_SET_SLICE
                                     : bytes[9] & 2 ? RM_GROUP_SCHEDULE
                                                    : 0x20800101,
                          .params = (uintptr_t)&slice,
                          .params_bytes = bytes[9] & 4 ? 4 : sizeof slice,
                          .status = status};
    uint32_t number = bytes[0] % 3 == 0 ? RM_ALLOC : bytes[0] % 3 == 1 ? RM_FREE : RM_CONTROL, size = 0;
    void *at = NULL;
    int fd = bytes[11] == 9 ? 3 : FD; /* 3: another device, which has its own meaning for the same numbers */
    bool happens = fd == FD && status == 0;
    if (number == RM_ALLOC) {
        at = longer ? (void *)&alloc : (void *)&small;
        size = longer ? sizeof alloc : sizeof small;
        if (happens && class == RM_CLASS_GROUP) {
            there[client][object] = true;
        }
    } else if (number == RM_FREE) {
        at = &freed;
        size = sizeof freed;
        for (int i = 0; happens && i < HANDLES; i++) {
            there[client][i] = there[client][i] && object != client && i != (int)object;
        }
    } else {
        at = &control;
        size = sizeof control;
    }
    size += bytes[10] == 77 ? 8 : 0; /* a form that is not known */
    rm_indirect wrap = {number, size, (uintptr_t)at};
    unsigned long request = indirect ? RM_REQUEST(RM_INDIRECT, rm_indirect)
                                     : (unsigned long)_IOC(_IOC_READ | _IOC_WRITE, RM_MAGIC, number, size);
    nice_groups_ioctl(groups, fd, request, indirect ? (void *)&wrap : at);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static nice_groups groups;
    static char reply[NICE_REPLY_MAX], list[NICE_REPLY_MAX];
    static nice_report report;
    static bool ready;
    static const nice_system system = {.ioctl = driver, .is_control_node = is_control_node, .say = say};
    if (!ready) {
        nice_groups_init(&groups, &system, nice_rule_of_level(NICE_MOST));
        ready = true;
    }
    /* A new life: nothing of the input before. */
    nice_groups_forget(&groups);
    groups.rule = nice_rule_of_level(NICE_MOST);
    groups.inert = groups.probed = false;
    groups.said = groups.least_us = 0;
    memset(there, 0, sizeof there);
    answers = fuzz_seed(bytes, size) | 1;

    reef_error error = {.status = REEF_OK};
    reef_status status = nice_parse_reply((const char *)bytes, size, &report, &error);
    if (status) {
        check_failure(status, &error);
    } else {
        check(report.n_groups <= NICE_MAX_GROUPS, "a report holds what there is room for");
    }
    for (size_t i = 0; i + 16 <= size; i += 16) {
        call(&groups, bytes + i);
    }
    size_t n = nice_answer(&groups, (const char *)bytes, size, reply, sizeof reply);
    check(n > 0 && n < sizeof reply && reply[n - 1] == '\n', "every request is answered with whole lines");
    status = nice_parse_reply(reply, n, &report, &error);
    check(status == REEF_OK || status == REEF_INVALID_ARGUMENT, "an answer is a reply");
    n = nice_answer(&groups, "list", 4, list, sizeof list);
    check(nice_parse_reply(list, n, &report, &error) == REEF_OK, "a list can be read");
    check(report.n_groups <= NICE_MAX_GROUPS, "and is bounded");
    return 0;
}
