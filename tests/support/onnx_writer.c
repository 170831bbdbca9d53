/*
 * onnx_writer.c - protobuf by hand: a varint key, then a varint, a word or a counted body.
 */
#include "support/onnx_writer.h"

#include <stdlib.h>
#include <string.h>

#include "reef/reef.h"

static void put(onnx_bytes *b, const void *data, size_t size)
{
    if (b->size + size > b->capacity) {
        b->capacity = (b->size + size) * 2;
        b->data = realloc(b->data, b->capacity);
        if (!b->data) {
            abort();
        }
    }
    if (size) {
        memcpy(b->data + b->size, data, size);
    }
    b->size += size;
}

static void put_varint(onnx_bytes *b, uint64_t value)
{
    do {
        const uint8_t byte = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        put(b, &byte, 1);
        value >>= 7;
    } while (value);
}

static void put_int(onnx_bytes *b, unsigned field, int64_t value)
{
    put_varint(b, field << 3);
    put_varint(b, (uint64_t)value);
}

static void put_bytes(onnx_bytes *b, unsigned field, const void *data, size_t size)
{
    put_varint(b, field << 3 | 2);
    put_varint(b, size);
    put(b, data, size);
}

static void put_message(onnx_bytes *b, unsigned field, onnx_bytes *message)
{
    put_bytes(b, field, message->data, message->size);
    free(message->data);
    *message = (onnx_bytes){0};
}

static void put_text(onnx_bytes *b, unsigned field, const char *text)
{
    put_bytes(b, field, text, strlen(text));
}

/* Calls put_bytes for every piece of text between separators. */
static void put_list(onnx_bytes *b, unsigned field, const char *text)
{
    for (size_t n; *text; text += n + (text[n] == ',')) {
        n = strcspn(text, ",");
        put_bytes(b, field, text, n);
    }
}

static onnx_bytes named(const char *name)
{
    onnx_bytes info = {0};
    put_text(&info, 1, name);
    return info;
}

void onnx_input(onnx_bytes *graph, const char *name, int rank, const int64_t *dims)
{
    onnx_bytes shape = {0}, tensor = {0}, type = {0}, info = named(name);
    for (int i = 0; i < rank; i++) {
        onnx_bytes dim = {0};
        if (dims[i] < 0) {
            put_text(&dim, 2, "any");
        } else {
            put_int(&dim, 1, dims[i]);
        }
        put_message(&shape, 1, &dim);
    }
    put_int(&tensor, 1, REEF_F32);
    put_message(&tensor, 2, &shape);
    put_message(&type, 1, &tensor);
    put_message(&info, 2, &type);
    put_message(graph, 11, &info);
}

void onnx_output(onnx_bytes *graph, const char *name)
{
    onnx_bytes info = named(name);
    put_message(graph, 12, &info);
}

static onnx_bytes tensor_of(const char *name, reef_dtype dtype, int rank, const int64_t *dims)
{
    onnx_bytes tensor = {0};
    for (int i = 0; i < rank; i++) {
        put_int(&tensor, 1, dims[i]);
    }
    put_int(&tensor, 2, dtype);
    put_text(&tensor, 8, name);
    return tensor;
}

void onnx_weights(onnx_bytes *graph, const char *name, int rank, const int64_t *dims)
{
    onnx_bytes tensor = tensor_of(name, REEF_F32, rank, dims), raw = {0};
    int64_t n = 1;
    for (int i = 0; i < rank; i++) {
        n *= dims[i];
    }
    for (int64_t i = 0; i < n; i++) {
        const float value = 0.05f + 0.1f * (float)(i * 7 % n) / (float)n;
        put(&raw, &value, sizeof value);
    }
    put_message(&tensor, 9, &raw);
    put_message(graph, 5, &tensor);
}

void onnx_external(onnx_bytes *graph, const char *name, int rank, const int64_t *dims, const char *location)
{
    onnx_bytes tensor = tensor_of(name, REEF_F32, rank, dims), entry = {0};
    put_text(&entry, 1, "location");
    put_text(&entry, 2, location);
    put_message(&tensor, 13, &entry);
    put_int(&tensor, 14, 1);
    put_message(graph, 5, &tensor);
}

void onnx_ints(onnx_bytes *graph, const char *name, int n, const int64_t *values)
{
    const int64_t dim = n;
    onnx_bytes tensor = tensor_of(name, REEF_I64, 1, &dim);
    put_bytes(&tensor, 9, values, sizeof *values * (size_t)n);
    put_message(graph, 5, &tensor);
}

/* "name:i=1" up to a semicolon; returns what follows. */
static const char *put_attribute(onnx_bytes *node, const char *text)
{
    enum { INT = 2, FLOAT = 1, STRING = 3, INTS = 7 };
    onnx_bytes attribute = {0};
    const size_t name = strcspn(text, ":");
    const char *kind = text + name + 1, *value = strchr(text, '=') + 1;
    const size_t length = strcspn(value, ";");
    char *end = NULL;
    put_bytes(&attribute, 1, text, name);
    if (!strncmp(kind, "is=", 3)) {
        for (const char *at = value; at < value + length; at = end) {
            put_int(&attribute, 8, strtoll(at, &end, 10));
        }
        put_int(&attribute, 20, INTS);
    } else if (!strncmp(kind, "i=", 2)) {
        put_int(&attribute, 3, strtoll(value, NULL, 10));
        put_int(&attribute, 20, INT);
    } else if (!strncmp(kind, "f=", 2)) {
        const float number = strtof(value, NULL);
        put_varint(&attribute, 2 << 3 | 5);
        put(&attribute, &number, sizeof number);
        put_int(&attribute, 20, FLOAT);
    } else {
        put_bytes(&attribute, 4, value, length);
        put_int(&attribute, 20, STRING);
    }
    put_message(node, 5, &attribute);
    return value[length] ? value + length + 1 : value + length;
}

void onnx_node(onnx_bytes *graph, const char *op, const char *in, const char *out, const char *attributes)
{
    onnx_bytes node = {0};
    put_list(&node, 1, in);
    put_list(&node, 2, out);
    put_text(&node, 4, op);
    while (*attributes) {
        attributes = put_attribute(&node, attributes);
    }
    put_message(graph, 1, &node);
}

onnx_bytes onnx_model(onnx_bytes *graph, int opset)
{
    onnx_bytes model = {0}, import = {0};
    put_int(&model, 1, 8);
    put_message(&model, 7, graph);
    put_int(&import, 2, opset);
    put_message(&model, 8, &import);
    return model;
}
