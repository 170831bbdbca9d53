/*
 * lower_elt.c - element operators: which share a kernel, and the program of each kernel.
 *
 * A group is a tree (or a small DAG) of element operators that ends in its root, whose value is stored. A node joins
 * the group of its readers when all of them are in one group, its value has the root's shape, nothing else needs it,
 * and the program still fits plan.h's limits. Groups are settled before lowering, because a member is lowered before
 * its root and must then do nothing. Constants with one element become immediates.
 */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "model/lower.h"

typedef struct slot {
    const reef_value *value;
    uint8_t reg;
    int uses; /* left within the group */
    bool ready;
} slot;

typedef struct program {
    reef_lower *l;
    const reef_node *root;
    reef_eltwise code;
    const reef_value *inputs[REEF_ELT_MAX_INPUTS];
    int n_inputs, n_members;
    slot slots[REEF_LOWER_ELT_MEMBERS];
    int n_slots;
    uint32_t busy;           /* registers in use */
    const reef_node *failed; /* does not fit, or a form that is not implemented */
    const char *why;         /* NULL: does not fit */
} program;

static bool is_element(const reef_node *node)
{
    const reef_lower_op *op = node ? reef_lower_find(node) : NULL;
    return op && (op->flags & REEF_OP_ELT);
}

static bool is_member(const program *p, const reef_value *value)
{
    const reef_node *node = value->producer;
    return node && !value->data && is_element(node) && p->l->places[value->id].root == p->root;
}

static bool immediate(const reef_value *value)
{
    return value->data && reef_value_elems(value) == 1;
}

/* ---------------------------------------------------------------- emitting -- */

static uint8_t take(program *p)
{
    for (int r = 0; r < REEF_ELT_REGS; r++) {
        if (!(p->busy & (1u << r))) {
            p->busy |= 1u << r;
            return (uint8_t)r;
        }
    }
    p->failed = p->root;
    return 0;
}

static void give(program *p, uint8_t r)
{
    p->busy &= ~(1u << r);
}

static uint8_t insn(program *p, reef_elt_insn in)
{
    in.dst = take(p);
    if (p->code.n_insns == REEF_ELT_MAX_INSNS) {
        p->failed = p->root;
        return 0;
    }
    p->code.insns[p->code.n_insns++] = in;
    return in.dst;
}

static uint8_t constant(program *p, reef_dtype type, double imm)
{
    return insn(p, (reef_elt_insn){.op = REEF_ELT_CONST, .type = (uint8_t)type, .imm = imm});
}

static uint8_t op1(program *p, reef_elt_op op, reef_dtype type, uint8_t a)
{
    return insn(p, (reef_elt_insn){.op = (uint8_t)op, .type = (uint8_t)type, .a = a});
}

static uint8_t op2(program *p, reef_elt_op op, reef_dtype type, uint8_t a, uint8_t b)
{
    return insn(p, (reef_elt_insn){.op = (uint8_t)op, .type = (uint8_t)type, .a = a, .b = b});
}

static uint8_t op3(program *p, reef_elt_op op, reef_dtype type, uint8_t a, uint8_t b, uint8_t c)
{
    return insn(p, (reef_elt_insn){.op = (uint8_t)op, .type = (uint8_t)type, .a = a, .b = b, .c = c});
}

/* a op (constant) */
static uint8_t opc(program *p, reef_elt_op op, reef_dtype type, uint8_t a, double imm)
{
    const uint8_t c = constant(p, type, imm), r = op2(p, op, type, a, c);
    give(p, c);
    return r;
}

/* first(a), then the temporary is free: for chains inside one operator. */
static uint8_t then(program *p, uint8_t temp, uint8_t result)
{
    give(p, temp);
    return result;
}

static uint8_t activation(program *p, reef_act act, double a, double b, uint8_t x)
{
    return insn(p,
                (reef_elt_insn){.op = REEF_ELT_ACT, .type = REEF_F32, .a = x, .b = (uint8_t)act, .imm = a, .imm2 = b});
}

static uint8_t cast(program *p, reef_dtype from, reef_dtype to, uint8_t a)
{
    return insn(p, (reef_elt_insn){.op = REEF_ELT_CAST, .type = (uint8_t)to, .from = (uint8_t)from, .a = a});
}

/* ---------------------------------------------------------------- operators -- */

static const struct {
    const char *name;
    reef_elt_op op;
} plain[] = {
    {"Add", REEF_ELT_ADD},
    {"Sub", REEF_ELT_SUB},
    {"Mul", REEF_ELT_MUL},
    {"Div", REEF_ELT_DIV},
    {"Min", REEF_ELT_MIN},
    {"Max", REEF_ELT_MAX},
    {"Sum", REEF_ELT_ADD},
    {"Mean", REEF_ELT_ADD},
    {"Equal", REEF_ELT_EQ},
    {"Less", REEF_ELT_LT},
    {"LessOrEqual", REEF_ELT_LE},
    {"Greater", REEF_ELT_GT},
    {"GreaterOrEqual", REEF_ELT_GE},
    {"And", REEF_ELT_AND},
    {"Or", REEF_ELT_OR},
    {"Xor", REEF_ELT_XOR},
    {"Not", REEF_ELT_NOT},
    {"Neg", REEF_ELT_NEG},
    {"Abs", REEF_ELT_ABS},
    {"Sign", REEF_ELT_SIGN},
    {"Sqrt", REEF_ELT_SQRT},
    {"Exp", REEF_ELT_EXP},
    {"Reciprocal", REEF_ELT_RECIPROCAL},
    {"Log", REEF_ELT_LOG},
    {"Erf", REEF_ELT_ERF},
    {"Sin", REEF_ELT_SIN},
    {"Cos", REEF_ELT_COS},
    {"Tanh", REEF_ELT_TANH},
    {"Floor", REEF_ELT_FLOOR},
    {"Ceil", REEF_ELT_CEIL},
    {"Round", REEF_ELT_ROUND},
    {"Sigmoid", REEF_ELT_SIGMOID},
    {"Softplus", REEF_ELT_SOFTPLUS},
};

static const char *refuse(program *p, const reef_node *node, const char *why)
{
    p->failed = node;
    p->why = why;
    return why;
}

static uint8_t power(program *p, const reef_node *node, reef_dtype type, const uint8_t *r)
{
    const reef_value *exponent = node->in[1];
    const double e = immediate(exponent) ? reef_value_number(exponent, 0) : NAN;
    if (e == 2) {
        return op2(p, REEF_ELT_MUL, type, r[0], r[0]);
    }
    if (e == 3) {
        const uint8_t square = op2(p, REEF_ELT_MUL, type, r[0], r[0]);
        return then(p, square, op2(p, REEF_ELT_MUL, type, square, r[0]));
    }
    if (e == 0.5 && type == REEF_F32) {
        return op1(p, REEF_ELT_SQRT, type, r[0]);
    }
    if (exponent->dtype == type) {
        return op2(p, REEF_ELT_POW, type, r[0], r[1]);
    }
    const uint8_t converted = cast(p, exponent->dtype, type, r[1]);
    return then(p, converted, op2(p, REEF_ELT_POW, type, r[0], converted));
}

static uint8_t clip(program *p, const reef_node *node, reef_dtype type, const uint8_t *r)
{
    uint8_t v = r[0];
    bool own = false;
    if (node->opset < 11) {
        return activation(p, REEF_ACT_CLIP, (double)reef_node_attr_float(node, "min", -3.402823466e38f),
                          (double)reef_node_attr_float(node, "max", 3.402823466e38f), v);
    }
    for (size_t i = 1; i < 3; i++) {
        if (reef_node_in(node, i)) {
            const uint8_t next = op2(p, i == 1 ? REEF_ELT_MAX : REEF_ELT_MIN, type, v, r[i]);
            if (own) {
                give(p, v);
            }
            v = next;
            own = true;
        }
    }
    return own ? v : op2(p, REEF_ELT_MAX, type, v, v);
}

/* x < 0 ? negative : x, and gives `negative` back. */
static uint8_t where_negative(program *p, uint8_t x, uint8_t negative)
{
    const uint8_t below = opc(p, REEF_ELT_LT, REEF_F32, x, 0);
    const uint8_t y = op3(p, REEF_ELT_WHERE, REEF_F32, below, negative, x);
    give(p, below);
    give(p, negative);
    return y;
}

/* gamma * (alpha * (exp(x / scale) - 1)) below zero, gamma * x above */
static uint8_t exponential(program *p, uint8_t x, double alpha, double scale, double gamma)
{
    uint8_t v = opc(p, REEF_ELT_MUL, REEF_F32, x, 1 / scale);
    v = then(p, v, op1(p, REEF_ELT_EXP, REEF_F32, v));
    v = then(p, v, opc(p, REEF_ELT_SUB, REEF_F32, v, 1));
    v = then(p, v, opc(p, REEF_ELT_MUL, REEF_F32, v, alpha));
    v = where_negative(p, x, v);
    return gamma == 1 ? v : then(p, v, opc(p, REEF_ELT_MUL, REEF_F32, v, gamma));
}

static uint8_t is_infinite(program *p, const reef_node *node, uint8_t x)
{
    const bool up = reef_node_attr_int(node, "detect_positive", 1) != 0,
               down = reef_node_attr_int(node, "detect_negative", 1) != 0;
    const uint8_t high = opc(p, REEF_ELT_EQ, REEF_F32, x, INFINITY), low = opc(p, REEF_ELT_EQ, REEF_F32, x, -INFINITY);
    uint8_t r;
    if (up == down) {
        r = op2(p, up ? REEF_ELT_OR : REEF_ELT_XOR, REEF_BOOL, high, up ? low : high);
    } else {
        r = op2(p, REEF_ELT_OR, REEF_BOOL, up ? high : low, up ? high : low);
    }
    give(p, high);
    give(p, low);
    return r;
}

/* (x - mean) / sqrt(variance + epsilon) * scale + bias, with parameters that are not constant */
static uint8_t batch_norm(program *p, const reef_node *node, const uint8_t *r)
{
    uint8_t d = opc(p, REEF_ELT_ADD, REEF_F32, r[4], (double)reef_node_attr_float(node, "epsilon", 1e-5f));
    d = then(p, d, op1(p, REEF_ELT_SQRT, REEF_F32, d));
    uint8_t c = op2(p, REEF_ELT_SUB, REEF_F32, r[0], r[3]);
    c = then(p, c, op2(p, REEF_ELT_DIV, REEF_F32, c, d));
    give(p, d);
    return then(p, c, op3(p, REEF_ELT_FMA, REEF_F32, c, r[1], r[2]));
}

/* The special ones. r: registers of the node's inputs. */
static uint8_t special(program *p, const reef_node *node, reef_dtype type, const uint8_t *r)
{
    const double alpha = (double)reef_node_attr_float(node, "alpha", 0), x_alpha = alpha;
    const bool has_alpha = reef_node_attr(node, "alpha") != NULL;
    if (reef_node_is(node, "reef.Act")) {
        return activation(p, node->epilogue.act, (double)node->epilogue.a, (double)node->epilogue.b, r[0]);
    }
    if (reef_node_is(node, "reef.Affine")) {
        return op3(p, REEF_ELT_FMA, REEF_F32, r[0], r[1], r[2]);
    }
    if (reef_node_is(node, "BatchNormalization")) {
        return batch_norm(p, node, r);
    }
    if (reef_node_is(node, "Relu")) {
        return type == REEF_F32 ? activation(p, REEF_ACT_RELU, 0, 0, r[0]) : opc(p, REEF_ELT_MAX, type, r[0], 0);
    }
    if (reef_node_is(node, "Clip")) {
        return clip(p, node, type, r);
    }
    if (reef_node_is(node, "LeakyRelu")) {
        return activation(p, REEF_ACT_LEAKY_RELU, has_alpha ? x_alpha : (double)0.01f, 0, r[0]);
    }
    if (reef_node_is(node, "HardSigmoid")) {
        return activation(p, REEF_ACT_HARD_SIGMOID, has_alpha ? x_alpha : (double)0.2f,
                          (double)reef_node_attr_float(node, "beta", 0.5f), r[0]);
    }
    if (reef_node_is(node, "HardSwish")) {
        return activation(p, REEF_ACT_HARD_SWISH, 1.0 / 6, 0.5, r[0]);
    }
    if (reef_node_is(node, "Gelu")) {
        const bool approximate = !strcmp(reef_node_attr_string(node, "approximate", "none"), "tanh");
        return activation(p, approximate ? REEF_ACT_GELU_TANH : REEF_ACT_GELU, 0, 0, r[0]);
    }
    if (reef_node_is(node, "Mish")) {
        uint8_t v = op1(p, REEF_ELT_SOFTPLUS, REEF_F32, r[0]);
        v = then(p, v, op1(p, REEF_ELT_TANH, REEF_F32, v));
        return then(p, v, op2(p, REEF_ELT_MUL, REEF_F32, r[0], v));
    }
    if (reef_node_is(node, "Softsign")) {
        uint8_t v = op1(p, REEF_ELT_ABS, REEF_F32, r[0]);
        v = then(p, v, opc(p, REEF_ELT_ADD, REEF_F32, v, 1));
        return then(p, v, op2(p, REEF_ELT_DIV, REEF_F32, r[0], v));
    }
    if (reef_node_is(node, "Elu")) {
        return exponential(p, r[0], has_alpha ? x_alpha : 1, 1, 1);
    }
    if (reef_node_is(node, "Celu")) {
        return exponential(p, r[0], has_alpha ? x_alpha : 1, has_alpha ? x_alpha : 1, 1);
    }
    if (reef_node_is(node, "Selu")) {
        return exponential(p, r[0], has_alpha ? x_alpha : 1.67326319217681884765625, 1,
                           (double)reef_node_attr_float(node, "gamma", 1.05070102214813232421875f));
    }
    if (reef_node_is(node, "ThresholdedRelu")) {
        const uint8_t above = opc(p, REEF_ELT_GT, REEF_F32, r[0], has_alpha ? x_alpha : 1),
                      zero = constant(p, REEF_F32, 0);
        const uint8_t y = op3(p, REEF_ELT_WHERE, REEF_F32, above, r[0], zero);
        give(p, above);
        return then(p, zero, y);
    }
    if (reef_node_is(node, "PRelu")) {
        return where_negative(p, r[0], op2(p, REEF_ELT_MUL, REEF_F32, r[0], r[1]));
    }
    if (reef_node_is(node, "Cast") || reef_node_is(node, "CastLike")) {
        return cast(p, node->in[0]->dtype, node->out[0]->dtype, r[0]);
    }
    if (reef_node_is(node, "IsNaN")) {
        const uint8_t same = op2(p, REEF_ELT_EQ, type, r[0], r[0]);
        return then(p, same, op1(p, REEF_ELT_NOT, REEF_BOOL, same));
    }
    if (reef_node_is(node, "IsInf")) {
        return is_infinite(p, node, r[0]);
    }
    if (reef_node_is(node, "Where")) {
        return op3(p, REEF_ELT_WHERE, node->out[0]->dtype, r[0], r[1], r[2]);
    }
    if (reef_node_is(node, "Pow")) {
        return power(p, node, type, r);
    }
    if (reef_node_is(node, "Mod")) {
        return op2(p, reef_node_attr_int(node, "fmod", 0) ? REEF_ELT_FMOD : REEF_ELT_MOD, type, r[0], r[1]);
    }
    refuse(p, node, "operator");
    return 0;
}

static bool computes(reef_dtype dtype)
{
    return dtype == REEF_F32 || dtype == REEF_I64 || dtype == REEF_I32 || dtype == REEF_BOOL;
}

static uint8_t emit_node(program *p, const reef_node *node, const uint8_t *r)
{
    const reef_dtype type = node->in[0]->dtype;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (!reef_node_is(node, plain[i].name)) {
            continue;
        }
        if (node->n_in == 1) {
            if (reef_node_is(node, "Sum") || reef_node_is(node, "Mean") || reef_node_is(node, "Min") ||
                reef_node_is(node, "Max")) {
                return op2(p, REEF_ELT_MAX, type, r[0], r[0]);
            }
            return op1(p, plain[i].op, type, r[0]);
        }
        uint8_t v = r[0];
        for (size_t j = 1; j < node->n_in; j++) {
            const uint8_t next = op2(p, plain[i].op, type, v, r[j]);
            if (j > 1) {
                give(p, v);
            }
            v = next;
        }
        return reef_node_is(node, "Mean") ? then(p, v, opc(p, REEF_ELT_MUL, type, v, 1.0 / (double)node->n_in)) : v;
    }
    return special(p, node, type, r);
}

/* -------------------------------------------------------------- the program -- */

static slot *find(program *p, const reef_value *value)
{
    for (int i = 0; i < p->n_slots; i++) {
        if (p->slots[i].value == value) {
            return &p->slots[i];
        }
    }
    return NULL;
}

/* First pass: every value of the group with its number of uses; the inputs in order of appearance. */
static void collect(program *p, const reef_value *value)
{
    slot *s = find(p, value);
    if (s) {
        s->uses++;
        return;
    }
    if (p->n_slots == REEF_LOWER_ELT_MEMBERS) {
        p->failed = p->root;
        return;
    }
    p->slots[p->n_slots++] = (slot){.value = value, .uses = 1};
    if (is_member(p, value)) {
        const reef_node *node = value->producer;
        for (size_t i = 0; i < node->n_in && !p->failed; i++) {
            if (node->in[i]) {
                collect(p, node->in[i]);
            }
        }
    } else if (!immediate(value)) {
        if (p->n_inputs == REEF_ELT_MAX_INPUTS) {
            p->failed = p->root;
            return;
        }
        p->inputs[p->n_inputs++] = value;
    }
}

/* Is this a power by a constant that needs no register? */
static bool plain_power(const reef_node *node)
{
    if (!reef_node_is(node, "Pow") || !immediate(node->in[1])) {
        return false;
    }
    const double exponent = reef_value_number(node->in[1], 0);
    return exponent == 2 || exponent == 3 || (exponent == 0.5 && node->in[0]->dtype == REEF_F32);
}

/* Second pass: code, depth first. Bounded by the group's size, which is bounded by the number of slots. */
static uint8_t emit(program *p, const reef_value *value)
{
    slot *s = find(p, value);
    if (s->ready || p->failed) {
        return s->reg;
    }
    if (!computes(value->dtype) && !(value->dtype == REEF_U8 && !is_member(p, value))) {
        refuse(p, value->producer ? value->producer : p->root, reef_dtype_name(value->dtype));
        return 0;
    }
    if (!is_member(p, value)) {
        s->reg = constant(p, value->dtype, reef_value_number(value, 0));
        s->ready = true;
        return s->reg;
    }
    const reef_node *node = value->producer;
    uint8_t r[REEF_KERNEL_MAX_IN] = {0};
    if (node->n_in > REEF_KERNEL_MAX_IN) {
        refuse(p, node, "more than 8 operands");
        return 0;
    }
    const bool first_only = plain_power(node) || reef_node_is(node, "CastLike");
    for (size_t i = 0; i < node->n_in && !p->failed; i++) {
        if (node->in[i] && !(i == 1 && first_only)) {
            r[i] = emit(p, node->in[i]);
        }
    }
    if (p->failed) {
        return 0;
    }
    p->n_members++;
    const uint8_t y = emit_node(p, node, r);
    for (size_t i = 0; i < node->n_in && !p->failed; i++) {
        slot *in = node->in[i] ? find(p, node->in[i]) : NULL;
        /* Input registers are never written: a device may read them in place. */
        if (in && --in->uses == 0 && in->ready && in->reg >= p->n_inputs) {
            give(p, in->reg);
        }
    }
    s = find(p, value);
    s->reg = y;
    s->ready = true;
    return y;
}

static bool compile(reef_lower *l, const reef_node *root, program *p)
{
    *p = (program){.l = l, .root = root};
    collect(p, root->out[0]);
    for (int i = 0; i < p->n_inputs && !p->failed; i++) {
        slot *s = find(p, p->inputs[i]);
        s->reg = (uint8_t)i;
        s->ready = true;
        p->busy |= 1u << i;
    }
    if (!p->failed) {
        p->code.result = emit(p, root->out[0]);
    }
    return !p->failed;
}

/* ---------------------------------------------------------------- grouping -- */

static void note_reader(reef_lower *l, const reef_value *value, const reef_node *root)
{
    reef_place *place = reef_lower_place(l, value);
    place->many_readers |= place->reader && place->reader != root;
    place->reader = root;
}

static bool joins(reef_lower *l, const reef_node *node)
{
    const reef_value *y = node->out[0];
    reef_place *place = reef_lower_place(l, y);
    const reef_node *root = place->reader;
    if (!is_element(node) || reef_node_is(node, "BatchNormalization") || y->is_output || place->many_readers || !root ||
        !is_element(root) || y->rank > root->out[0]->rank || reef_value_elems(y) != reef_value_elems(root->out[0])) {
        return false;
    }
    program p;
    place->root = root;
    if (compile(l, root, &p)) {
        return true;
    }
    place->root = node;
    return false;
}

void reef_lower_group(reef_lower *l)
{
    for (size_t i = l->graph->n_nodes; i-- > 0;) {
        const reef_node *node = l->graph->nodes[i];
        if (node->dead || !node->n_out || !node->out[0]) {
            continue;
        }
        reef_place *place = reef_lower_place(l, node->out[0]);
        place->root = node;
        if (joins(l, node)) {
            node = place->root;
        }
        const reef_node *self = l->graph->nodes[i];
        for (size_t j = 0; j < self->n_in; j++) {
            if (self->in[j]) {
                note_reader(l, self->in[j], node);
            }
        }
        if (self->epilogue.residual) {
            note_reader(l, self->epilogue.residual, self);
        }
    }
}

/* -------------------------------------------------------------- the kernel -- */

/* "Mul+Add+Relu", in order of execution. */
static const char *member_names(reef_lower *l, program *p)
{
    char text[256] = "";
    size_t length = 0;
    for (int i = p->n_slots - 1; i >= 0; i--) { /* collected from the root down */
        const reef_value *value = p->slots[i].value;
        if (is_member(p, value)) {
            const reef_node *node = value->producer;
            const char *name = node->fused ? node->fused : node->op;
            const size_t n = strlen(name);
            if (length + n + 2 < sizeof text) {
                memcpy(text + length, "+", length ? 1 : 0);
                length += length ? 1 : 0;
                memcpy(text + length, name, n);
                length += n;
            }
        }
    }
    return reef_arena_string(&l->plan->arena, text, length);
}

/* Strides in the order of the input that has all elements, so that reading and writing walk memory alike. */
static void follow_input(const reef_kernel *k, reef_view *y)
{
    for (int i = 0; i < k->n_in; i++) {
        const reef_view *x = &k->in[i];
        int order[REEF_MAX_RANK] = {0};
        bool full = true;
        for (int d = 0; d < x->rank; d++) {
            full &= x->dims[d] == 1 || x->stride[d] > 0;
            int at = d;
            for (; at > 0 && x->dims[d] != 1 && x->stride[order[at - 1]] < x->stride[d] && full; at--) {
                order[at] = order[at - 1];
            }
            order[at] = d;
        }
        if (!full) {
            continue;
        }
        int64_t stride = 1;
        for (int d = x->rank - 1; d >= 0; d--) {
            y->stride[order[d]] = stride;
            stride *= y->dims[order[d]];
        }
        return;
    }
}

static bool channel_parameter(const reef_node *node, const reef_value *value)
{
    for (size_t i = 1; i < node->n_in; i++) {
        if (reef_node_is(node, "BatchNormalization") && node->in[i] == value) {
            return true;
        }
    }
    return false;
}

reef_status reef_lower_elt(reef_lower *l, const reef_node *node)
{
    const reef_value *out = node->out[0];
    reef_place *place = reef_lower_place(l, out);
    program p;
    if (place->root != node) {
        return REEF_OK; /* part of a later kernel */
    }
    if (!compile(l, node, &p)) {
        const reef_node *at = p.failed ? p.failed : node;
        const bool dtype = p.why && strcmp(p.why, "operator") != 0 && strcmp(p.why, "more than 8 operands") != 0;
        return reef_node_fail(at, l->error, dtype ? REEF_DTYPE : REEF_UNSUPPORTED, "%s is not implemented here",
                              p.why ? p.why : "so large an expression");
    }
    reef_kernel k = {.kind = REEF_K_ELTWISE, .n_in = p.n_inputs, .eltwise = p.code};
    k.ops = member_names(l, &p);
    for (int i = 0; i < p.n_inputs; i++) {
        reef_view x;
        REEF_TRY(reef_lower_view(l, node, p.inputs[i], &x));
        /* Per-channel parameters of BatchNormalization align with axis 1, not with the last. */
        if (channel_parameter(node, p.inputs[i]) && x.rank == 1 && out->rank > 1) {
            int64_t dims[REEF_MAX_RANK] = {1, x.dims[0], 1, 1, 1, 1, 1, 1};
            reef_view_reshape(&x, out->rank, dims, &x);
        }
        if (!reef_view_expand(&x, out->rank, out->dims, &k.in[i])) {
            return reef_node_fail(node, l->error, REEF_SHAPE, "'%s' does not broadcast to the output",
                                  p.inputs[i]->name);
        }
    }
    place = reef_lower_place(l, out);
    const bool own = !place->has_home && !place->nhwc;
    REEF_TRY(reef_lower_dest(l, out, &k.y));
    if (own) {
        follow_input(&k, &k.y);
        reef_lower_put(l, out, &k.y);
    }
    return reef_lower_push(l, node, &k);
}
