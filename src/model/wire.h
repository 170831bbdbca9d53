/*
 * wire.h - a cursor over protobuf's wire format: keys, varints, fixed words, and length-delimited bodies.
 *
 * Knows nothing of messages. A reader loops over fields and switches on REEF_FIELD(number, type), so a known field with
 * the wrong wire type falls through as unknown, as protobuf's own parsers have it. Every read is bounded by `end`; a
 * body never reaches past the message that holds it. Bodies are not copied.
 */
#ifndef REEF_MODEL_WIRE_H
#define REEF_MODEL_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { REEF_WIRE_VARINT = 0, REEF_WIRE_FIXED64 = 1, REEF_WIRE_BYTES = 2, REEF_WIRE_FIXED32 = 5 };

#define REEF_FIELD(number, type) ((uint64_t)(number) << 3 | (type))

typedef struct reef_wire {
    const uint8_t *at, *end;
} reef_wire;

typedef struct reef_field {
    uint64_t key;         /* REEF_FIELD(number, type) */
    uint64_t value;       /* varint and fixed words, little endian */
    reef_wire body;       /* length delimited */
    const uint8_t *start; /* of the key, for messages */
} reef_field;

/* False when the varint is cut off or longer than 64 bits. */
static inline bool reef_wire_varint(reef_wire *wire, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; wire->at < wire->end && shift < 64; shift += 7) {
        uint8_t byte = *wire->at++;
        if (shift == 63 && byte > 1) {
            return false;
        }
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

/* 1: *field is the next one; 0: the end; -1: malformed, field->start tells where. */
static inline int reef_wire_next(reef_wire *wire, reef_field *field)
{
    field->start = wire->at;
    if (wire->at == wire->end) {
        return 0;
    }
    field->value = 0;
    field->body = (reef_wire){wire->at, wire->at};
    if (!reef_wire_varint(wire, &field->key) || field->key >> 3 == 0 || field->key > UINT32_MAX) {
        return -1;
    }
    size_t left = (size_t)(wire->end - wire->at);
    switch (field->key & 7) {
    case REEF_WIRE_VARINT: return reef_wire_varint(wire, &field->value) ? 1 : -1;
    case REEF_WIRE_FIXED64:
        if (left < 8) {
            return -1;
        }
        memcpy(&field->value, wire->at, 8);
        wire->at += 8;
        return 1;
    case REEF_WIRE_FIXED32: {
        if (left < 4) {
            return -1;
        }
        uint32_t word;
        memcpy(&word, wire->at, 4);
        field->value = word;
        wire->at += 4;
        return 1;
    }
    case REEF_WIRE_BYTES: {
        uint64_t length;
        if (!reef_wire_varint(wire, &length) || length > (uint64_t)(wire->end - wire->at)) {
            return -1;
        }
        field->body = (reef_wire){wire->at, wire->at + length};
        wire->at += length;
        return 1;
    }
    }
    return -1; /* groups, and the two wire types that do not exist */
}

static inline size_t reef_wire_left(const reef_wire *wire)
{
    return (size_t)(wire->end - wire->at);
}

/* How many varints a packed body holds: each ends with the first byte below 0x80. */
static inline size_t reef_wire_count_varints(const reef_wire *body)
{
    size_t count = 0;
    for (const uint8_t *at = body->at; at < body->end; at++) {
        count += *at < 0x80;
    }
    return count;
}

#endif
