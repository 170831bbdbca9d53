/*
 * onnx.c - reads an ONNX file: ModelProto, GraphProto, NodeProto, AttributeProto.
 *
 * Where it sits: [ONNX file] -> graph -> inference. The file is mapped and walked in place, a few times over: first the
 * model's own fields, then the graph's initializers, inputs, nodes and outputs in that order, whatever order the file
 * has them in, so that every name can be looked up when it is met. Constant nodes become constant values here.
 *
 * Hostile files: messages nest to a fixed depth (subgraphs and functions are refused), counts are taken from the bytes
 * present before anything is allocated, names go through a seeded hash table, and the arena has a limit proportional
 * to the file. All passes are linear in the file.
 */
#include "model/onnx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/dtype.h"
#include "model/shape.h"

enum { MAX_DOMAINS = 64 };

typedef struct opset_import {
    const char *domain;
    int version;
} opset_import;

typedef struct opset_list {
    opset_import items[MAX_DOMAINS];
    size_t count;
} opset_list;

static reef_status out_of_memory(reef_loader *loader)
{
    return reef_fail(loader->error, REEF_NO_MEMORY, "out of memory: a file of %zu bytes needs more than %zu bytes",
                     loader->size, loader->graph->arena.used_bytes);
}

static reef_status malformed(reef_loader *loader, const reef_field *field, const char *what)
{
    return reef_loader_fail(loader, REEF_FORMAT, field->start, "malformed %s: the file is damaged or cut off", what);
}

/* "ai.onnx" is the long name of the default domain. */
static const char *short_domain(const char *domain)
{
    return strcmp(domain, "ai.onnx") == 0 ? "" : domain;
}

/* ---------------------------------------------------------------- values -- */

/* The value of that name, made when it is met for the first time. NULL: out of memory, or a zero byte (*status). */
static reef_value *value_named(reef_loader *loader, const reef_wire *name, reef_status *status)
{
    size_t length = reef_wire_left(name);
    reef_value *value = reef_names_get(&loader->values, (const char *)name->at, length);
    if (value) {
        return value;
    }
    if (memchr(name->at, 0, length)) {
        *status = reef_loader_fail(loader, REEF_FORMAT, name->at, "a value's name holds a zero byte");
        return NULL;
    }
    reef_graph *graph = loader->graph;
    *status = REEF_NO_MEMORY;
    if (graph->n_values < UINT32_MAX - 1 &&
        reef_arena_grow(&graph->arena, (void **)&graph->values, graph->n_values, &graph->cap_values,
                        sizeof *graph->values) &&
        (value = reef_arena_alloc(&graph->arena, sizeof *value)) != NULL) {
        value->name = reef_arena_string(&graph->arena, (const char *)name->at, length);
        value->rank = -1;
        value->id = (uint32_t)graph->n_values;
        if (value->name && reef_names_put(&loader->values, value->name, length, value)) {
            graph->values[graph->n_values++] = value;
            *status = REEF_OK;
            return value;
        }
    }
    out_of_memory(loader);
    return NULL;
}

static void become_constant(reef_value *value, const reef_value *contents)
{
    value->dtype = contents->dtype;
    value->rank = contents->rank;
    memcpy(value->dims, contents->dims, sizeof value->dims);
    value->data = contents->data;
    value->bytes = contents->bytes;
}

static reef_status read_initializer(reef_loader *loader, const reef_field *field)
{
    reef_value *contents;
    reef_status status = reef_onnx_tensor(loader, field->body, "initializer", &contents);
    if (status != REEF_OK) {
        return status;
    }
    if (!contents->name[0]) {
        return reef_loader_fail(loader, REEF_FORMAT, field->start, "an initializer has no name");
    }
    reef_wire name = {(const uint8_t *)contents->name, (const uint8_t *)contents->name + strlen(contents->name)};
    reef_value *value = value_named(loader, &name, &status);
    if (!value) {
        return status;
    }
    if (value->data) {
        return reef_loader_fail(loader, REEF_FORMAT, field->start, "two initializers are named '%.120s'", value->name);
    }
    become_constant(value, contents);
    return REEF_OK;
}

/* TensorShapeProto.Dimension into dims[rank]. */
static reef_status read_dimension(reef_loader *loader, reef_wire body, reef_value *value)
{
    int64_t dim = -1;
    const char *name = NULL;
    reef_status status = REEF_OK;
    reef_field field;
    int more;
    while ((more = reef_wire_next(&body, &field)) > 0) {
        if (field.key == REEF_FIELD(1, REEF_WIRE_VARINT)) {
            dim = (int64_t)field.value;
        } else if (field.key == REEF_FIELD(2, REEF_WIRE_BYTES)) {
            status = reef_loader_string(loader, &field.body, "a dimension's name", &name);
            if (status != REEF_OK) {
                return status;
            }
        }
    }
    if (more < 0) {
        return malformed(loader, &field, "dimension");
    }
    if (dim > REEF_MAX_ELEMS) {
        return reef_loader_fail(loader, REEF_FORMAT, body.at, "input '%.120s': dimension %lld is too large",
                                value->name, (long long)dim);
    }
    value->dims[value->rank] = dim > 0 ? dim : -1; /* exporters write 0 and -1 for "not known" */
    value->dim_names[value->rank] = name && name[0] ? name : NULL;
    value->rank++;
    return REEF_OK;
}

static reef_status read_shape(reef_loader *loader, reef_wire body, reef_value *value)
{
    reef_field field;
    int more;
    value->rank = 0;
    while ((more = reef_wire_next(&body, &field)) > 0) {
        if (field.key != REEF_FIELD(1, REEF_WIRE_BYTES)) {
            continue;
        }
        if (value->rank == REEF_MAX_RANK) {
            return reef_loader_fail(loader, REEF_UNSUPPORTED, field.start, "input '%.120s' has more than %d dimensions",
                                    value->name, REEF_MAX_RANK);
        }
        reef_status status = read_dimension(loader, field.body, value);
        if (status != REEF_OK) {
            return status;
        }
    }
    return more < 0 ? malformed(loader, &field, "shape") : REEF_OK;
}

static reef_status read_tensor_type(reef_loader *loader, reef_wire body, reef_value *value)
{
    reef_field field;
    int more;
    while ((more = reef_wire_next(&body, &field)) > 0) {
        if (field.key == REEF_FIELD(1, REEF_WIRE_VARINT)) {
            if (field.value > INT32_MAX || reef_dtype_bytes((reef_dtype)field.value) == 0) {
                return reef_loader_fail(loader, REEF_UNSUPPORTED, field.start,
                                        "input '%.120s': ONNX element type %llu is not supported", value->name,
                                        (unsigned long long)field.value);
            }
            value->dtype = (reef_dtype)field.value;
        } else if (field.key == REEF_FIELD(2, REEF_WIRE_BYTES)) {
            reef_status status = read_shape(loader, field.body, value);
            if (status != REEF_OK) {
                return status;
            }
        }
    }
    return more < 0 ? malformed(loader, &field, "tensor type") : REEF_OK;
}

static reef_status read_input(reef_loader *loader, const reef_field *at)
{
    reef_wire body = at->body, name = {0}, type = {0};
    reef_field field;
    int more;
    while ((more = reef_wire_next(&body, &field)) > 0) {
        if (field.key == REEF_FIELD(1, REEF_WIRE_BYTES)) {
            name = field.body;
        } else if (field.key == REEF_FIELD(2, REEF_WIRE_BYTES)) {
            type = field.body;
        }
    }
    if (more < 0) {
        return malformed(loader, &field, "input");
    }
    if (name.at == name.end) {
        return reef_loader_fail(loader, REEF_FORMAT, at->start, "an input has no name");
    }
    reef_status status;
    reef_value *value = value_named(loader, &name, &status);
    if (!value) {
        return status;
    }
    if (value->data) {
        return REEF_OK; /* an initializer listed as an input too, as files before IR version 4 do: a constant */
    }
    if (value->is_input) {
        return reef_loader_fail(loader, REEF_FORMAT, at->start, "two inputs are named '%.120s'", value->name);
    }
    value->is_input = true;
    loader->graph->inputs[loader->graph->n_inputs++] = value;
    while ((more = reef_wire_next(&type, &field)) > 0) {
        if (field.key == REEF_FIELD(1, REEF_WIRE_BYTES)) {
            status = read_tensor_type(loader, field.body, value);
            if (status != REEF_OK) {
                return status;
            }
        } else if (field.key != REEF_FIELD(6, REEF_WIRE_BYTES)) { /* denotation */
            return reef_loader_fail(loader, REEF_UNSUPPORTED, field.start,
                                    "input '%.120s' is not a tensor (a sequence, map, optional or sparse tensor)",
                                    value->name);
        }
    }
    return more < 0 ? malformed(loader, &field, "type") : REEF_OK;
}

static reef_status read_output(reef_loader *loader, const reef_field *at)
{
    reef_wire body = at->body, name = {0};
    reef_field field;
    int more;
    while ((more = reef_wire_next(&body, &field)) > 0) {
        if (field.key == REEF_FIELD(1, REEF_WIRE_BYTES)) {
            name = field.body;
        }
    }
    if (more < 0) {
        return malformed(loader, &field, "output");
    }
    reef_value *value = reef_names_get(&loader->values, (const char *)name.at, reef_wire_left(&name));
    if (!value || name.at == name.end) {
        return reef_loader_fail(loader, REEF_FORMAT, at->start, "output '%.*s' is made by no node",
                                (int)(reef_wire_left(&name) < 120 ? reef_wire_left(&name) : 120),
                                (const char *)name.at);
    }
    if (value->is_output) {
        return reef_loader_fail(loader, REEF_FORMAT, at->start, "output '%.120s' is listed twice", value->name);
    }
    value->is_output = true;
    loader->graph->outputs[loader->graph->n_outputs++] = value;
    return REEF_OK;
}

/* ------------------------------------------------------------ attributes -- */

/* AttributeProto fields 7 (floats) and 8 (ints), packed or one by one. */
static reef_status read_numbers(reef_loader *loader, reef_wire body, reef_attr *attr)
{
    const uint64_t number = attr->type == REEF_ATTR_FLOATS ? 7 : 8;
    const unsigned one = attr->type == REEF_ATTR_FLOATS ? REEF_WIRE_FIXED32 : REEF_WIRE_VARINT;
    float *floats = NULL;
    int64_t *ints = NULL;
    for (int pass = 0; pass < 2; pass++) { /* count, then store */
        reef_wire fields = body;
        reef_field field;
        size_t count = 0;
        while (reef_wire_next(&fields, &field) > 0) {
            bool packed = field.key == REEF_FIELD(number, REEF_WIRE_BYTES);
            if (!packed && field.key != REEF_FIELD(number, one)) {
                continue;
            }
            reef_wire single = {field.start, fields.at};
            reef_wire *words = packed ? &field.body : &single;
            if (!packed) {
                uint64_t key;
                reef_wire_varint(&single, &key);
            }
            while (words->at < words->end) {
                uint64_t word = 0;
                if (one == REEF_WIRE_VARINT) {
                    if (!reef_wire_varint(words, &word)) {
                        return malformed(loader, &field, "attribute");
                    }
                    if (ints) {
                        ints[count] = (int64_t)word;
                    }
                } else {
                    if (reef_wire_left(words) < 4) {
                        return malformed(loader, &field, "attribute");
                    }
                    if (floats) {
                        memcpy(&floats[count], words->at, 4);
                    }
                    words->at += 4;
                }
                count++;
            }
        }
        if (pass == 0) {
            void *memory =
                reef_arena_array(&loader->graph->arena, count ? count : 1, number == 7 ? sizeof *floats : sizeof *ints);
            if (!memory) {
                return out_of_memory(loader);
            }
            attr->count = count;
            if (number == 7) {
                attr->floats = floats = memory;
            } else {
                attr->ints = ints = memory;
            }
        }
    }
    return REEF_OK;
}

static reef_status read_attribute(reef_loader *loader, const reef_node *node, const reef_field *at, reef_attr *attr)
{
    const reef_wire nothing = {at->body.at, at->body.at};
    reef_wire body = at->body, name = nothing, text = nothing, tensor = nothing;
    reef_field field;
    int more;
    uint64_t type = 0, seen = 0, strings = 0;
    bool reference = false;
    while ((more = reef_wire_next(&body, &field)) > 0) {
        uint64_t number = field.key >> 3;
        /* What the value field says about the type, for files from before the type was written. */
        static const uint8_t type_of[] = {[2] = 1, [3] = 2, [4] = 3,  [5] = 4,   [6] = 5,   [7] = 6,
                                          [8] = 7, [9] = 8, [10] = 9, [11] = 10, [22] = 11, [14] = 13};
        if (number < sizeof type_of && type_of[number]) {
            seen = type_of[number];
        }
        switch (field.key) {
        case REEF_FIELD(1, REEF_WIRE_BYTES): name = field.body; break;
        case REEF_FIELD(2, REEF_WIRE_FIXED32): {
            uint32_t word = (uint32_t)field.value;
            memcpy(&attr->f, &word, 4);
            break;
        }
        case REEF_FIELD(3, REEF_WIRE_VARINT): attr->i = (int64_t)field.value; break;
        case REEF_FIELD(4, REEF_WIRE_BYTES): text = field.body; break;
        case REEF_FIELD(5, REEF_WIRE_BYTES): tensor = field.body; break;
        case REEF_FIELD(9, REEF_WIRE_BYTES): strings++; break;
        case REEF_FIELD(20, REEF_WIRE_VARINT): type = field.value; break;
        case REEF_FIELD(21, REEF_WIRE_BYTES): reference = field.body.at < field.body.end; break;
        default: break;
        }
    }
    if (more < 0) {
        return malformed(loader, &field, "attribute");
    }
    /* ONNX numbers AttributeType 1 float, 2 int, 3 string, 4 tensor, 5 graph, 6 floats, 7 ints, 8 strings, 9 tensors,
     * 10 graphs, 11 sparse tensor, 13 type. */
    type = type ? type : seen;
    reef_status status = reef_loader_string(loader, &name, "an attribute's name", &attr->name);
    if (status != REEF_OK) {
        return status;
    }
    if (type == 5 || type == 10) {
        return reef_loader_fail(loader, REEF_UNSUPPORTED, at->start,
                                "node '%.80s': operator %.40s holds a subgraph (attribute '%.40s'); control flow is "
                                "not supported",
                                node->name, node->op, attr->name);
    }
    if (reference ||
        (type != REEF_ATTR_FLOAT && type != REEF_ATTR_INT && type != REEF_ATTR_STRING && type != REEF_ATTR_TENSOR &&
         type != REEF_ATTR_FLOATS && type != REEF_ATTR_INTS && type != REEF_ATTR_STRINGS)) {
        return reef_loader_fail(loader, REEF_UNSUPPORTED, at->start,
                                "node '%.80s' (%.40s): attribute '%.40s' is of a kind (%llu) that is not supported",
                                node->name, node->op, attr->name, (unsigned long long)type);
    }
    attr->type = (reef_attr_type)type;
    switch (attr->type) {
    case REEF_ATTR_STRING:
        attr->count = reef_wire_left(&text);
        attr->s = reef_arena_string(&loader->graph->arena, (const char *)text.at, attr->count);
        return attr->s ? REEF_OK : out_of_memory(loader);
    case REEF_ATTR_TENSOR: {
        char what[160];
        snprintf(what, sizeof what, "attribute '%.40s' of node '%.80s'", attr->name, node->name);
        reef_value *value;
        status = reef_onnx_tensor(loader, tensor, what, &value);
        attr->t = status == REEF_OK ? value : NULL;
        return status;
    }
    case REEF_ATTR_FLOATS:
    case REEF_ATTR_INTS: return read_numbers(loader, at->body, attr);
    case REEF_ATTR_STRINGS: attr->count = strings; return REEF_OK;
    case REEF_ATTR_FLOAT:
    case REEF_ATTR_INT: break;
    }
    return REEF_OK;
}

/* ----------------------------------------------------------------- nodes -- */

/* A Constant node in any of its forms becomes a constant. */
static reef_status fold_constant_node(reef_loader *loader, const reef_node *node, const uint8_t *at)
{
    if (node->n_out != 1 || !node->out[0] || node->n_in || node->n_attrs != 1) {
        return reef_loader_fail(loader, REEF_FORMAT, at,
                                "node '%.80s' (Constant) must have one output, one attribute and no input", node->name);
    }
    const reef_attr *attr = &node->attrs[0];
    reef_value contents = {0}, *value = node->out[0];
    const char *name = attr->name;
    if (strcmp(name, "value") == 0 && attr->type == REEF_ATTR_TENSOR) {
        contents = *attr->t;
    } else if (strcmp(name, "value_float") == 0 && attr->type == REEF_ATTR_FLOAT) {
        contents = (reef_value){.dtype = REEF_F32, .data = &attr->f, .bytes = sizeof attr->f};
    } else if (strcmp(name, "value_int") == 0 && attr->type == REEF_ATTR_INT) {
        contents = (reef_value){.dtype = REEF_I64, .data = &attr->i, .bytes = sizeof attr->i};
    } else if (strcmp(name, "value_floats") == 0 && attr->type == REEF_ATTR_FLOATS) {
        contents = (reef_value){.dtype = REEF_F32, .rank = 1, .data = attr->floats, .bytes = attr->count * 4};
        contents.dims[0] = (int64_t)attr->count;
    } else if (strcmp(name, "value_ints") == 0 && attr->type == REEF_ATTR_INTS) {
        contents = (reef_value){.dtype = REEF_I64, .rank = 1, .data = attr->ints, .bytes = attr->count * 8};
        contents.dims[0] = (int64_t)attr->count;
    } else {
        return reef_loader_fail(loader, REEF_UNSUPPORTED, at,
                                "node '%.80s' (Constant): attribute '%.40s' is not supported", node->name, name);
    }
    become_constant(value, &contents);
    value->producer = NULL;
    return REEF_OK;
}

/* Everything of a NodeProto but its attributes, which need the node's name for their messages. */
static reef_status read_node_head(reef_loader *loader, reef_wire body, reef_node *node, size_t *n_attrs)
{
    size_t n_in = 0, n_out = 0;
    reef_wire fields = body;
    reef_field field;
    reef_status status = REEF_OK;
    int more;
    *n_attrs = 0;
    node->op = node->domain = node->name = "";
    while (status == REEF_OK && (more = reef_wire_next(&fields, &field)) != 0) {
        if (more < 0) {
            return malformed(loader, &field, "node");
        }
        switch (field.key) {
        case REEF_FIELD(1, REEF_WIRE_BYTES): n_in++; break;
        case REEF_FIELD(2, REEF_WIRE_BYTES): n_out++; break;
        case REEF_FIELD(3, REEF_WIRE_BYTES):
            status = reef_loader_string(loader, &field.body, "a node's name", &node->name);
            break;
        case REEF_FIELD(4, REEF_WIRE_BYTES):
            status = reef_loader_string(loader, &field.body, "an operator's name", &node->op);
            break;
        case REEF_FIELD(5, REEF_WIRE_BYTES): ++*n_attrs; break;
        case REEF_FIELD(7, REEF_WIRE_BYTES):
            status = reef_loader_string(loader, &field.body, "an operator's domain", &node->domain);
            break;
        default: break;
        }
    }
    if (status != REEF_OK) {
        return status;
    }
    if (!node->op[0]) {
        return reef_loader_fail(loader, REEF_FORMAT, body.at, "node '%.80s' names no operator", node->name);
    }
    node->domain = short_domain(node->domain);
    node->in = reef_arena_array(&loader->graph->arena, n_in + n_out + 1, sizeof *node->in);
    if (!node->in) {
        return out_of_memory(loader);
    }
    node->out = node->in + n_in;
    while (reef_wire_next(&body, &field) > 0) {
        bool is_out = field.key == REEF_FIELD(2, REEF_WIRE_BYTES);
        if (!is_out && field.key != REEF_FIELD(1, REEF_WIRE_BYTES)) {
            continue;
        }
        reef_value *value = NULL;
        if (field.body.at < field.body.end && !(value = value_named(loader, &field.body, &status))) {
            return status;
        }
        if (!is_out) {
            node->in[node->n_in++] = value;
            continue;
        }
        if (value && (value->producer || value->data || value->is_input)) {
            return reef_loader_fail(loader, REEF_FORMAT, field.start,
                                    "node '%.80s' (%.40s): its output '%.120s' is already %s", node->name, node->op,
                                    value->name,
                                    value->is_input ? "an input of the model"
                                    : value->data   ? "a constant"
                                                    : "made by another node");
        }
        if (value) {
            value->producer = node;
            if (!node->name[0]) {
                node->name = value->name;
            }
        }
        node->out[node->n_out++] = value;
    }
    return REEF_OK;
}

static reef_status read_node(reef_loader *loader, const reef_field *at, const opset_list *opsets)
{
    reef_graph *graph = loader->graph;
    reef_node *node = reef_arena_alloc(&graph->arena, sizeof *node);
    if (!node) {
        return out_of_memory(loader);
    }
    size_t n_attrs;
    reef_status status = read_node_head(loader, at->body, node, &n_attrs);
    if (status != REEF_OK) {
        return status;
    }
    bool makes_something = false;
    for (size_t i = 0; i < node->n_out; i++) {
        makes_something |= node->out[i] != NULL;
    }
    if (!makes_something) {
        return reef_loader_fail(loader, REEF_FORMAT, at->start, "node '%.80s' (%.40s) has no output", node->name,
                                node->op);
    }
    for (size_t i = 0; i < opsets->count && !node->opset; i++) {
        if (strcmp(opsets->items[i].domain, node->domain) == 0) {
            node->opset = opsets->items[i].version;
        }
    }
    if (!node->opset && !node->domain[0] && graph->ir_version < 3) {
        node->opset = 1; /* files of that age do not say */
    }
    if (!node->opset) {
        return reef_loader_fail(loader, REEF_FORMAT, at->start,
                                "node '%.80s' (%.40s): the file imports no opset of domain '%.80s'", node->name,
                                node->op, node->domain[0] ? node->domain : "ai.onnx");
    }
    node->attrs = reef_arena_array(&graph->arena, n_attrs + 1, sizeof *node->attrs);
    if (!node->attrs) {
        return out_of_memory(loader);
    }
    reef_wire body = at->body;
    reef_field field;
    while (reef_wire_next(&body, &field) > 0) {
        if (field.key == REEF_FIELD(5, REEF_WIRE_BYTES)) {
            status = read_attribute(loader, node, &field, &node->attrs[node->n_attrs]);
            if (status != REEF_OK) {
                return status;
            }
            node->n_attrs++;
        }
    }
    if (reef_node_is(node, "Constant")) {
        return fold_constant_node(loader, node, at->start);
    }
    if (!reef_arena_grow(&graph->arena, (void **)&graph->nodes, graph->n_nodes, &graph->cap_nodes,
                         sizeof *graph->nodes)) {
        return out_of_memory(loader);
    }
    graph->nodes[graph->n_nodes++] = node;
    return REEF_OK;
}

/* ----------------------------------------------------------------- graph -- */

static reef_status read_graph(reef_loader *loader, reef_wire body, const opset_list *opsets)
{
    enum { NODE = 1, INITIALIZER = 5, INPUT = 11, OUTPUT = 12, SPARSE_INITIALIZER = 15 };
    static const unsigned passes[] = {INITIALIZER, INPUT, NODE, OUTPUT};
    reef_graph *graph = loader->graph;
    size_t n_inputs = 0, n_outputs = 0;
    reef_wire fields = body;
    reef_field field;
    int more;
    while ((more = reef_wire_next(&fields, &field)) > 0) {
        n_inputs += field.key == REEF_FIELD(INPUT, REEF_WIRE_BYTES);
        n_outputs += field.key == REEF_FIELD(OUTPUT, REEF_WIRE_BYTES);
        if (field.key == REEF_FIELD(SPARSE_INITIALIZER, REEF_WIRE_BYTES)) {
            return reef_loader_fail(loader, REEF_UNSUPPORTED, field.start, "sparse initializers are not supported");
        }
    }
    if (more < 0) {
        return malformed(loader, &field, "graph");
    }
    graph->inputs = reef_arena_array(&graph->arena, n_inputs + 1, sizeof *graph->inputs);
    graph->outputs = reef_arena_array(&graph->arena, n_outputs + 1, sizeof *graph->outputs);
    if (!graph->inputs || !graph->outputs) {
        return out_of_memory(loader);
    }
    for (size_t pass = 0; pass < sizeof passes / sizeof passes[0]; pass++) {
        for (fields = body; reef_wire_next(&fields, &field) > 0;) {
            if (field.key != REEF_FIELD(passes[pass], REEF_WIRE_BYTES)) {
                continue;
            }
            reef_status status = passes[pass] == INITIALIZER ? read_initializer(loader, &field)
                                 : passes[pass] == INPUT     ? read_input(loader, &field)
                                 : passes[pass] == NODE      ? read_node(loader, &field, opsets)
                                                             : read_output(loader, &field);
            if (status != REEF_OK) {
                return status;
            }
        }
    }
    if (graph->n_outputs == 0) {
        return reef_loader_fail(loader, REEF_FORMAT, body.at, "the graph has no output");
    }
    for (size_t i = 0; i < graph->n_nodes; i++) {
        const reef_node *node = graph->nodes[i];
        for (size_t k = 0; k < node->n_in; k++) {
            const reef_value *in = node->in[k];
            if (in && !in->producer && !in->data && !in->is_input) {
                return reef_fail(loader->error, REEF_FORMAT,
                                 "node '%.80s' (%.40s): its input '%.120s' is no input of the model, no initializer, "
                                 "and made by no node",
                                 node->name, node->op, in->name);
            }
        }
    }
    for (size_t i = 0; i < graph->n_outputs; i++) {
        const reef_value *out = graph->outputs[i];
        if (!out->producer && !out->data && !out->is_input) {
            return reef_fail(loader->error, REEF_FORMAT, "output '%.120s' is made by no node", out->name);
        }
    }
    return reef_graph_sort(graph, loader->error);
}

static reef_status read_opset(reef_loader *loader, const reef_field *at, opset_list *opsets)
{
    reef_wire body = at->body;
    reef_field field;
    int more;
    const char *domain = "";
    uint64_t version = 0;
    while ((more = reef_wire_next(&body, &field)) > 0) {
        if (field.key == REEF_FIELD(1, REEF_WIRE_BYTES)) {
            reef_status status = reef_loader_string(loader, &field.body, "an opset's domain", &domain);
            if (status != REEF_OK) {
                return status;
            }
        } else if (field.key == REEF_FIELD(2, REEF_WIRE_VARINT)) {
            version = field.value;
        }
    }
    if (more < 0) {
        return malformed(loader, &field, "opset import");
    }
    if (version == 0 || version > 10000 || opsets->count == MAX_DOMAINS) {
        return reef_loader_fail(loader, REEF_FORMAT, at->start, "opset import of '%.80s' version %llu makes no sense",
                                domain, (unsigned long long)version);
    }
    opsets->items[opsets->count++] = (opset_import){short_domain(domain), (int)version};
    if (!short_domain(domain)[0]) {
        loader->graph->opset = (int64_t)version;
    }
    return REEF_OK;
}

static reef_status read_model(reef_loader *loader)
{
    enum { IR_VERSION = 1, PRODUCER = 2, GRAPH = 7, OPSET = 8, FUNCTION = 25 };
    reef_wire body = {loader->bytes, loader->bytes + loader->size}, graph = {0};
    opset_list opsets = {.count = 0};
    reef_field field;
    reef_status status = REEF_OK;
    int more;
    size_t graphs = 0;
    const char lfs[] = "version https://git-lfs";
    if (loader->size >= sizeof lfs - 1 && memcmp(loader->bytes, lfs, sizeof lfs - 1) == 0) {
        return reef_fail(loader->error, REEF_FORMAT, "this is a Git LFS pointer, not the model: run `git lfs pull`");
    }
    loader->graph->producer = "";
    while (status == REEF_OK && (more = reef_wire_next(&body, &field)) != 0) {
        if (more < 0) {
            return reef_loader_fail(loader, REEF_FORMAT, field.start,
                                    "not an ONNX model, or damaged or cut off: malformed protobuf field");
        }
        switch (field.key) {
        case REEF_FIELD(IR_VERSION, REEF_WIRE_VARINT): loader->graph->ir_version = (int64_t)field.value; break;
        case REEF_FIELD(PRODUCER, REEF_WIRE_BYTES):
            status = reef_loader_string(loader, &field.body, "the producer's name", &loader->graph->producer);
            break;
        case REEF_FIELD(GRAPH, REEF_WIRE_BYTES):
            graph = field.body;
            graphs++;
            break;
        case REEF_FIELD(OPSET, REEF_WIRE_BYTES): status = read_opset(loader, &field, &opsets); break;
        case REEF_FIELD(FUNCTION, REEF_WIRE_BYTES):
            status = reef_loader_fail(loader, REEF_UNSUPPORTED, field.start,
                                      "the model defines functions of its own; inline them when exporting");
            break;
        default: break;
        }
    }
    if (status != REEF_OK) {
        return status;
    }
    if (graphs != 1) {
        return reef_fail(loader->error, REEF_FORMAT, "not an ONNX model: it holds %zu graphs instead of one", graphs);
    }
    return read_graph(loader, graph, &opsets);
}

static reef_status load(const void *bytes, size_t size, const char *path, struct reef_mapping *mapping,
                        reef_graph **out, reef_error *error)
{
    reef_graph *graph = calloc(1, sizeof *graph);
    if (!graph) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    /* The costliest bytes of a file are those of tiny nodes and values; none costs more than about a hundredfold. */
    graph->arena.limit_bytes = ((size_t)16 << 20) + (size < SIZE_MAX / 256 ? size * 128 : SIZE_MAX / 2);
    graph->fold_limit_bytes = (size_t)1 << 30;
    reef_loader loader = {.graph = graph, .bytes = bytes, .size = size, .path = path, .error = error};
    reef_status status = REEF_OK;
    if (mapping) {
        struct reef_mapping *kept = reef_arena_alloc(&graph->arena, sizeof *kept);
        if (kept) {
            *kept = *mapping;
            graph->mappings = kept;
        } else {
            reef_mapping_unmap(mapping);
            status = reef_fail(error, REEF_NO_MEMORY, "out of memory");
        }
    }
    if (status == REEF_OK) {
        status = bytes && size ? read_model(&loader) : reef_fail(error, REEF_FORMAT, "the file is empty");
    }
    if (status == REEF_OK) {
        for (size_t i = 0; i < graph->n_outputs; i++) {
            graph->outputs[i]->uses++;
        }
        for (size_t i = 0; i < graph->n_nodes; i++) {
            for (size_t k = 0; k < graph->nodes[i]->n_in; k++) {
                if (graph->nodes[i]->in[k]) {
                    graph->nodes[i]->in[k]->uses++;
                }
            }
        }
        graph->content_hash = reef_hash_bytes(bytes, size, loader.data_hash);
        /* From here on folding (its own budget) and rewriting weights (a copy or two) allocate. */
        size_t mapped = size;
        for (const struct reef_mapping *m = graph->mappings; m; m = m->next) {
            mapped += m->bytes == bytes ? 0 : m->size;
        }
        graph->arena.limit_bytes = graph->arena.used_bytes + ((size_t)256 << 20) + 4 * graph->fold_limit_bytes +
                                   (mapped < SIZE_MAX / 8 ? 4 * mapped : SIZE_MAX / 2);
        *out = graph;
    } else {
        reef_graph_destroy(graph);
    }
    reef_names_free(&loader.values);
    reef_names_free(&loader.files);
    free(loader.folder);
    return status;
}

reef_status reef_graph_parse(const void *bytes, size_t size, reef_graph **out, reef_error *error)
{
    return load(bytes, size, NULL, NULL, out, error);
}

reef_status reef_graph_load(const char *path, reef_graph **out, reef_error *error)
{
    struct reef_mapping mapping = {0};
    reef_status status = reef_map_file(path, &mapping, error);
    if (status == REEF_OK) {
        status = load(mapping.bytes, mapping.size, path, mapping.bytes ? &mapping : NULL, out, error);
    }
    if (status != REEF_OK) {
        reef_error_prefix(error, "%.200s: ", path);
    }
    return status;
}
