/*
 * tensor.c - TensorProto: constants of an ONNX file.
 *
 * ONNX file -> onnx.c -> [tensor contents] -> constant values. Contents come in three ways: raw_data (used in place in
 * the mapping, at whatever alignment), typed fields (decoded; a single packed run of floats is used in place), and
 * external files beside the model (mapped once each). Whatever the way, the bytes must match the dimensions exactly.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "model/dtype.h"
#include "model/onnx.h"
#include "model/shape.h"

void reef_loader_error(reef_loader *loader, reef_status status, const uint8_t *at, const char *format, ...)
{
    char message[sizeof loader->error->message - 32];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    reef_error_set(loader->error, status, "%s (at byte %zu)", message, (size_t)(at - loader->bytes));
}

reef_status reef_loader_string(reef_loader *loader, const reef_wire *body, const char *what, const char **out)
{
    size_t length = reef_wire_left(body);
    if (length && memchr(body->at, 0, length)) {
        return reef_loader_fail(loader, REEF_FORMAT, body->at, "%s holds a zero byte", what);
    }
    char *copy = reef_arena_string(&loader->graph->arena, (const char *)body->at, length);
    if (!copy) {
        return reef_fail(loader->error, REEF_NO_MEMORY, "out of memory while reading %s", what);
    }
    *out = copy;
    return REEF_OK;
}

/* --------------------------------------------------------- external data -- */

reef_status reef_map_file(const char *path, struct reef_mapping *out, reef_error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* a FIFO must not hang us */
    if (fd < 0) {
        return reef_fail(error, errno == ENOENT || errno == ENOTDIR ? REEF_NOT_FOUND : REEF_IO, "cannot open: %s",
                         strerror(errno));
    }
    reef_status status = REEF_OK;
    struct stat info;
    if (fstat(fd, &info) != 0) {
        status = reef_fail(error, REEF_IO, "cannot stat: %s", strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        status = reef_fail(error, REEF_IO, "%s, not a regular file",
                           S_ISDIR(info.st_mode) ? "this is a folder" : "this is a device or pipe");
    } else {
        struct reef_mapping mapping = {.size = (size_t)info.st_size};
        if (mapping.size) {
            void *bytes = mmap(NULL, mapping.size, PROT_READ, MAP_PRIVATE, fd, 0);
            if (bytes == MAP_FAILED) {
                status = reef_fail(error, errno == ENOMEM ? REEF_NO_MEMORY : REEF_IO, "cannot map %zu bytes: %s",
                                   mapping.size, strerror(errno));
            } else {
                mapping.bytes = bytes;
            }
        }
        if (status == REEF_OK) {
            *out = mapping;
        }
    }
    close(fd);
    return status;
}

void reef_mapping_unmap(struct reef_mapping *mapping)
{
    if (mapping->bytes) {
        munmap(mapping->bytes, mapping->size);
    }
}

/* A location must be relative, without "..", and what it resolves to (through links) must lie in the model's folder. */
static reef_status resolve_location(reef_loader *loader, const uint8_t *at, const char *location, char *resolved)
{
    bool dots = false;
    for (const char *part = location; part; part = strchr(part, '/'), part = part ? part + 1 : NULL) {
        dots |= strncmp(part, "..", 2) == 0 && (part[2] == 0 || part[2] == '/');
    }
    if (!location[0] || location[0] == '/' || dots) {
        return reef_loader_fail(loader, REEF_FORMAT, at,
                                "external data location '%.120s' must be a relative path inside the model's folder",
                                location);
    }
    if (!loader->folder) {
        const char *slash = strrchr(loader->path, '/');
        char *name = slash ? strndup(loader->path, (size_t)(slash - loader->path) + 1) : strdup(".");
        loader->folder = name ? realpath(name, NULL) : NULL;
        free(name);
        if (!loader->folder) {
            return reef_fail(loader->error, errno == ENOMEM ? REEF_NO_MEMORY : REEF_IO,
                             "cannot resolve the model's folder: %s", strerror(errno));
        }
    }
    char joined[PATH_MAX];
    size_t folder = strlen(loader->folder);
    if ((size_t)snprintf(joined, sizeof joined, "%s/%s", loader->folder, location) >= sizeof joined) {
        return reef_loader_fail(loader, REEF_FORMAT, at, "external data location is too long");
    }
    if (!realpath(joined, resolved)) {
        reef_status status = errno == ENOENT || errno == ENOTDIR ? REEF_NOT_FOUND
                             : errno == ENOMEM                   ? REEF_NO_MEMORY
                                                                 : REEF_IO;
        return reef_loader_fail(loader, status, at, "external data file '%.120s': %s; it belongs beside the model",
                                location, strerror(errno));
    }
    if (strncmp(resolved, loader->folder, folder) != 0 || (resolved[folder] != '/' && folder > 1)) {
        return reef_loader_fail(loader, REEF_FORMAT, at,
                                "external data file '%.120s' is a link that leaves the model's folder", location);
    }
    return REEF_OK;
}

static reef_status open_external(reef_loader *loader, const uint8_t *at, const char *location,
                                 struct reef_mapping **out)
{
    struct reef_mapping *mapping = reef_names_get(&loader->files, location, strlen(location));
    if (mapping) {
        *out = mapping;
        return REEF_OK;
    }
    if (loader->files.count >= REEF_MAX_EXTERNAL_FILES) {
        return reef_loader_fail(loader, REEF_UNSUPPORTED, at, "more than %d external data files",
                                (int)REEF_MAX_EXTERNAL_FILES);
    }
    char resolved[PATH_MAX];
    reef_status status = resolve_location(loader, at, location, resolved);
    if (status != REEF_OK) {
        return status;
    }
    mapping = reef_arena_alloc(&loader->graph->arena, sizeof *mapping);
    if (!mapping) {
        return reef_fail(loader->error, REEF_NO_MEMORY, "out of memory for external data file '%.120s'", location);
    }
    status = reef_map_file(resolved, mapping, loader->error);
    if (status != REEF_OK) {
        reef_error_prefix(loader->error, "external data file '%.120s': ", location);
        return status;
    }
    if (mapping->bytes) {
        mapping->next = loader->graph->mappings;
        loader->graph->mappings = mapping;
    }
    loader->data_hash = reef_hash_bytes(location, strlen(location), loader->data_hash ^ mapping->size);
    if (!reef_names_put(&loader->files, location, strlen(location), mapping)) {
        return reef_fail(loader->error, REEF_NO_MEMORY, "out of memory for external data file '%.120s'", location);
    }
    *out = mapping;
    return REEF_OK;
}

static bool parse_number(const reef_wire *text, uint64_t *out)
{
    uint64_t value = 0;
    for (const uint8_t *at = text->at; at < text->end; at++) {
        if (*at < '0' || *at > '9' || value > (UINT64_MAX - 9) / 10) {
            return false;
        }
        value = value * 10 + (uint64_t)(*at - '0');
    }
    *out = value;
    return text->at < text->end;
}

typedef struct external {
    const char *location;
    uint64_t offset, length;
    bool has_length;
} external;

static reef_status read_external_entry(reef_loader *loader, reef_wire body, const char *whose, external *out)
{
    reef_field field;
    reef_wire key = {0}, value = {0};
    int more;
    const uint8_t *start = body.at;
    while ((more = reef_wire_next(&body, &field)) > 0) {
        if (field.key == REEF_FIELD(1, REEF_WIRE_BYTES)) {
            key = field.body;
        } else if (field.key == REEF_FIELD(2, REEF_WIRE_BYTES)) {
            value = field.body;
        }
    }
    if (more < 0) {
        return reef_loader_fail(loader, REEF_FORMAT, field.start, "%s: malformed external data entry", whose);
    }
    size_t length = reef_wire_left(&key);
    bool good = true;
    if (length == 8 && memcmp(key.at, "location", 8) == 0) {
        return reef_loader_string(loader, &value, "an external data location", &out->location);
    } else if (length == 6 && memcmp(key.at, "offset", 6) == 0) {
        good = parse_number(&value, &out->offset);
    } else if (length == 6 && memcmp(key.at, "length", 6) == 0) {
        good = out->has_length = parse_number(&value, &out->length);
    }
    return good ? REEF_OK
                : reef_loader_fail(loader, REEF_FORMAT, start, "%s: external data %.6s is not a number", whose,
                                   (const char *)key.at);
}

static reef_status load_external(reef_loader *loader, const uint8_t *at, const char *whose, const external *from,
                                 reef_value *value)
{
    if (!from->location) {
        return reef_loader_fail(loader, REEF_FORMAT, at, "%s: external data without a location", whose);
    }
    if (!loader->path) {
        return reef_loader_fail(loader, REEF_UNSUPPORTED, at,
                                "%s: external data needs a model loaded from a file, not from memory", whose);
    }
    struct reef_mapping *mapping;
    reef_status status = open_external(loader, at, from->location, &mapping);
    if (status != REEF_OK) {
        reef_error_prefix(loader->error, "%s: ", whose);
        return status;
    }
    if (from->has_length && from->length != value->bytes) {
        return reef_loader_fail(loader, REEF_FORMAT, at,
                                "%s: external data length is %llu bytes, but its dimensions need %zu", whose,
                                (unsigned long long)from->length, value->bytes);
    }
    if (from->offset > mapping->size || value->bytes > mapping->size - from->offset) {
        return reef_loader_fail(loader, REEF_FORMAT, at,
                                "%s: external data file '%.80s' has %zu bytes; %zu at offset %llu lie beyond its end",
                                whose, from->location, mapping->size, value->bytes, (unsigned long long)from->offset);
    }
    if (value->bytes) {
        value->data = mapping->bytes + from->offset;
    }
    return REEF_OK;
}

/* ---------------------------------------------------------- typed fields -- */

enum {
    FLOAT_DATA = 4,
    INT32_DATA = 5,
    STRING_DATA = 6,
    INT64_DATA = 7,
    DOUBLE_DATA = 10,
    UINT64_DATA = 11,
};

static unsigned typed_field(reef_dtype dtype)
{
    switch (dtype) {
    case REEF_F32: return FLOAT_DATA;
    case REEF_F64: return DOUBLE_DATA;
    case REEF_I64: return INT64_DATA;
    case REEF_U8:
    case REEF_I8:
    case REEF_I32:
    case REEF_BOOL:
    case REEF_F16: return INT32_DATA;
    }
    return 0;
}

static void store_word(reef_dtype dtype, uint64_t word, char *at)
{
    uint32_t word32 = (uint32_t)word;
    uint16_t word16 = (uint16_t)word;
    switch (dtype) {
    case REEF_F32:
    case REEF_I32: memcpy(at, &word32, 4); break;
    case REEF_F64:
    case REEF_I64: memcpy(at, &word, 8); break;
    case REEF_F16: memcpy(at, &word16, 2); break;
    case REEF_U8:
    case REEF_I8: *at = (char)word; break;
    case REEF_BOOL: *at = word != 0; break;
    }
}

/* Decodes every occurrence of the dtype's field, packed or not. The caller counted: there are exactly as many words as
 * value has elements, and every packed run is well formed. */
static reef_status decode_typed(reef_loader *loader, reef_wire body, reef_value *value)
{
    uint64_t number = typed_field(value->dtype);
    unsigned one = number == FLOAT_DATA    ? REEF_WIRE_FIXED32
                   : number == DOUBLE_DATA ? REEF_WIRE_FIXED64
                                           : REEF_WIRE_VARINT;
    size_t size = reef_dtype_bytes(value->dtype);
    char *storage = NULL, *at = NULL;
    reef_field field;
    while (reef_wire_next(&body, &field) > 0) {
        bool packed = field.key == REEF_FIELD(number, REEF_WIRE_BYTES);
        if (!packed && field.key != REEF_FIELD(number, one)) {
            continue;
        }
        if (packed && one != REEF_WIRE_VARINT && reef_wire_left(&field.body) == value->bytes) {
            value->data = field.body.at; /* the whole array in one run of plain words: use it where it is */
            return REEF_OK;
        }
        if (!storage) {
            storage = at = reef_arena_alloc(&loader->graph->arena, value->bytes);
            if (!storage) {
                return reef_fail(loader->error, REEF_NO_MEMORY, "out of memory for a tensor of %zu bytes",
                                 value->bytes);
            }
            value->data = storage;
        }
        if (!packed) {
            store_word(value->dtype, field.value, at);
            at += size;
        } else if (one != REEF_WIRE_VARINT) {
            memcpy(at, field.body.at, reef_wire_left(&field.body));
            at += reef_wire_left(&field.body);
        } else {
            uint64_t word;
            while (reef_wire_varint(&field.body, &word)) {
                store_word(value->dtype, word, at);
                at += size;
            }
        }
    }
    return REEF_OK;
}

/* Words in a packed run; false when it is cut off or holds a varint of more than ten bytes. */
static bool count_packed(reef_wire body, unsigned word, size_t *count)
{
    size_t length = reef_wire_left(&body);
    if (word == REEF_WIRE_FIXED32 || word == REEF_WIRE_FIXED64) {
        size_t size = word == REEF_WIRE_FIXED32 ? 4 : 8;
        *count += length / size;
        return length % size == 0;
    }
    uint64_t ignored;
    while (body.at < body.end) {
        if (!reef_wire_varint(&body, &ignored)) {
            return false;
        }
        ++*count;
    }
    return true;
}

/* ---------------------------------------------------------------- tensor -- */

static reef_status add_dim(reef_loader *loader, const uint8_t *at, const char *whose, uint64_t word, reef_value *value)
{
    int64_t dim = (int64_t)word;
    if (dim < 0) {
        return reef_loader_fail(loader, REEF_FORMAT, at, "%s: negative dimension %lld", whose, (long long)dim);
    }
    if (value->rank == REEF_MAX_RANK) {
        return reef_loader_fail(loader, REEF_UNSUPPORTED, at, "%s: more than %d dimensions", whose, REEF_MAX_RANK);
    }
    value->dims[value->rank++] = dim;
    return REEF_OK;
}

static const char *onnx_type_name(uint64_t type)
{
    static const char *const names[] = {"undefined", "float32", "uint8",     "int8",       "uint16",  "int16",
                                        "int32",     "int64",   "string",    "bool",       "float16", "float64",
                                        "uint32",    "uint64",  "complex64", "complex128", "bfloat16"};
    return type < sizeof names / sizeof names[0] ? names[type] : "a type of a later ONNX";
}

static const char empty_data[16]; /* constants without elements still point somewhere */

reef_status reef_onnx_tensor(reef_loader *loader, reef_wire body, const char *what, reef_value **out)
{
    const uint8_t *start = body.at;
    reef_value *value = reef_arena_alloc(&loader->graph->arena, sizeof *value);
    if (!value) {
        return reef_fail(loader->error, REEF_NO_MEMORY, "out of memory while reading %s", what);
    }
    value->id = UINT32_MAX;
    value->name = "";

    uint64_t type = 0, word;
    reef_wire raw = {0}, fields = body;
    external from = {0};
    bool is_external = false, segmented = false;
    size_t counts[UINT64_DATA + 1] = {0};
    char whose[128];
    snprintf(whose, sizeof whose, "%s", what);
    reef_status status = REEF_OK;
    reef_field field;
    int more;
    while (status == REEF_OK && (more = reef_wire_next(&body, &field)) != 0) {
        if (more < 0) {
            return reef_loader_fail(loader, REEF_FORMAT, field.start, "%s: malformed tensor", whose);
        }
        uint64_t number = field.key >> 3;
        switch (field.key) {
        case REEF_FIELD(1, REEF_WIRE_VARINT): status = add_dim(loader, field.start, whose, field.value, value); break;
        case REEF_FIELD(1, REEF_WIRE_BYTES):
            while (status == REEF_OK && field.body.at < field.body.end) {
                status = reef_wire_varint(&field.body, &word)
                             ? add_dim(loader, field.start, whose, word, value)
                             : reef_loader_fail(loader, REEF_FORMAT, field.start, "%s: malformed dims", whose);
            }
            break;
        case REEF_FIELD(2, REEF_WIRE_VARINT): type = field.value; break;
        case REEF_FIELD(3, REEF_WIRE_BYTES): segmented = true; break;
        case REEF_FIELD(8, REEF_WIRE_BYTES):
            status = reef_loader_string(loader, &field.body, "a tensor name", &value->name);
            if (status == REEF_OK && value->name[0]) {
                snprintf(whose, sizeof whose, "%.40s '%.70s'", what, value->name);
            }
            break;
        case REEF_FIELD(9, REEF_WIRE_BYTES): raw = field.body; break;
        case REEF_FIELD(13, REEF_WIRE_BYTES): status = read_external_entry(loader, field.body, whose, &from); break;
        case REEF_FIELD(14, REEF_WIRE_VARINT): is_external = field.value == 1; break;
        case REEF_FIELD(FLOAT_DATA, REEF_WIRE_FIXED32):
        case REEF_FIELD(DOUBLE_DATA, REEF_WIRE_FIXED64):
        case REEF_FIELD(INT32_DATA, REEF_WIRE_VARINT):
        case REEF_FIELD(INT64_DATA, REEF_WIRE_VARINT): counts[number]++; break;
        case REEF_FIELD(FLOAT_DATA, REEF_WIRE_BYTES):
        case REEF_FIELD(DOUBLE_DATA, REEF_WIRE_BYTES):
        case REEF_FIELD(INT32_DATA, REEF_WIRE_BYTES):
        case REEF_FIELD(INT64_DATA, REEF_WIRE_BYTES):
            if (!count_packed(field.body,
                              number == FLOAT_DATA    ? REEF_WIRE_FIXED32
                              : number == DOUBLE_DATA ? REEF_WIRE_FIXED64
                                                      : REEF_WIRE_VARINT,
                              &counts[number])) {
                status = reef_loader_fail(loader, REEF_FORMAT, field.start, "%s: malformed data", whose);
            }
            break;
        default: break;
        }
    }
    if (status != REEF_OK) {
        return status;
    }
    if (type > INT32_MAX || reef_dtype_bytes((reef_dtype)type) == 0) {
        return reef_loader_fail(loader, type == 0 ? REEF_FORMAT : REEF_UNSUPPORTED, start,
                                "%s: element type %s (%llu) is not supported", whose, onnx_type_name(type),
                                (unsigned long long)type);
    }
    if (segmented) {
        return reef_loader_fail(loader, REEF_UNSUPPORTED, start, "%s: tensors in segments are not supported", whose);
    }
    value->dtype = (reef_dtype)type;
    int64_t elems;
    if (!reef_dims_elems(value->rank, value->dims, &elems)) {
        return reef_loader_fail(loader, REEF_FORMAT, start, "%s: more than 2^%d elements", whose,
                                (int)REEF_MAX_ELEMS_LOG2);
    }
    value->bytes = (size_t)elems * reef_dtype_bytes(value->dtype);
    value->data = empty_data;
    if (is_external) {
        status = load_external(loader, start, whose, &from, value);
    } else if (raw.at < raw.end || (elems == 0 && counts[typed_field(value->dtype)] == 0)) {
        if (reef_wire_left(&raw) != value->bytes) {
            return reef_loader_fail(loader, REEF_FORMAT, start, "%s: %zu bytes of data, but its dimensions need %zu",
                                    whose, reef_wire_left(&raw), value->bytes);
        }
        value->data = value->bytes ? raw.at : (const void *)empty_data;
    } else {
        size_t count = counts[typed_field(value->dtype)];
        if (count != (uint64_t)elems) {
            return reef_loader_fail(loader, REEF_FORMAT, start,
                                    "%s: %zu elements of data, but its dimensions need %lld", whose, count,
                                    (long long)elems);
        }
        status = decode_typed(loader, fields, value);
    }
    if (status == REEF_OK) {
        *out = value;
    }
    return status;
}
