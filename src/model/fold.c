/*
 * fold.c - computes nodes whose inputs are constants when the model is loaded.
 *
 * Mostly shape arithmetic as exporters write it (Shape, Gather, Concat, Slice, ...), but also weights that a file makes
 * instead of storing. Three kinds of operators cover almost everything: views share their input's contents; movers
 * (Transpose, Slice, Concat, Expand, Tile, Pad, ...) are one strided box copy; element operators run one small switch
 * per element, in int64 for integers and in double for floats, rounded once to the output's type.
 *
 * Budget: results are charged to graph->fold_limit_bytes, and elements touched to a multiple of it, so that a small
 * file cannot ask for unbounded memory or time. A node that is not folded here just stays a run-time node.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "model/dtype.h"
#include "model/infer.h"

#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        reef_status try_status = (expression);                                                                         \
        if (try_status != REEF_OK) {                                                                                   \
            return try_status;                                                                                         \
        }                                                                                                              \
    } while (0)

/* ---------------------------------------------------------------- budget -- */

reef_status reef_fold_storage(reef_infer *infer, size_t bytes, void **out)
{
    size_t limit = infer->graph->fold_limit_bytes;
    if (bytes > limit || infer->folded_bytes > limit - bytes) {
        return reef_node_fail(infer->node, infer->error, REEF_UNSUPPORTED,
                              "the constants that this model computes need more than %zu MiB (%zu MiB for this one)",
                              limit >> 20, bytes >> 20);
    }
    void *memory = reef_arena_alloc(&infer->graph->arena, bytes ? bytes : 1);
    if (!memory) {
        return reef_node_fail(infer->node, infer->error, REEF_NO_MEMORY, "out of memory for a constant of %zu bytes",
                              bytes);
    }
    infer->folded_bytes += bytes;
    *out = memory;
    return REEF_OK;
}

static reef_status charge(reef_infer *infer, int64_t elems)
{
    infer->work += (uint64_t)elems;
    return infer->work <= (uint64_t)infer->graph->fold_limit_bytes * 4
               ? REEF_OK
               : reef_node_fail(infer->node, infer->error, REEF_UNSUPPORTED,
                                "computing this model's constants takes too long; fold them when exporting");
}

/* Storage for output k, in the value at once: nobody looks at it before the fold is over. */
static reef_status make_out(reef_infer *infer, size_t k, char **out)
{
    reef_value *value = infer->node->out[k];
    int64_t elems = reef_value_elems(value);
    void *memory = NULL;
    TRY(reef_fold_storage(infer, (size_t)elems * reef_dtype_bytes(value->dtype), &memory));
    TRY(charge(infer, elems));
    value->data = memory;
    value->bytes = (size_t)elems * reef_dtype_bytes(value->dtype);
    *out = memory;
    return REEF_OK;
}

/* ------------------------------------------------------------------ moves -- */

enum { BOX_RANK = 2 * REEF_MAX_RANK };

typedef struct box { /* strides in elements */
    int rank;
    int64_t dims[BOX_RANK], to[BOX_RANK], from[BOX_RANK];
} box;

static void strides_of(int rank, const int64_t *dims, int64_t *strides)
{
    int64_t stride = 1;
    for (int i = rank; i-- > 0;) {
        strides[i] = stride;
        stride *= dims[i];
    }
}

static void copy_box(const box *b, char *to, const char *from, size_t size)
{
    int64_t index[BOX_RANK] = {0};
    for (int i = 0; i < b->rank; i++) {
        if (b->dims[i] == 0) {
            return;
        }
    }
    int last = b->rank - 1;
    int64_t run = b->rank ? b->dims[last] : 1;
    bool dense = b->rank == 0 || (b->to[last] == 1 && b->from[last] == 1);
    int64_t at_to = 0, at_from = 0;
    for (;;) {
        if (dense) {
            memcpy(to + at_to * (int64_t)size, from + at_from * (int64_t)size, (size_t)run * size);
        } else {
            for (int64_t i = 0; i < run; i++) {
                memcpy(to + (at_to + i * b->to[last]) * (int64_t)size,
                       from + (at_from + i * b->from[last]) * (int64_t)size, size);
            }
        }
        int axis = last - 1;
        for (; axis >= 0; axis--) {
            at_to += b->to[axis];
            at_from += b->from[axis];
            if (++index[axis] < b->dims[axis]) {
                break;
            }
            at_to -= b->to[axis] * b->dims[axis];
            at_from -= b->from[axis] * b->dims[axis];
            index[axis] = 0;
        }
        if (axis < 0) {
            return;
        }
    }
}

static reef_status fold_transpose(reef_infer *infer)
{
    const reef_value *x = infer->node->in[0], *y = infer->node->out[0];
    int perm[REEF_MAX_RANK] = {0};
    int64_t from[REEF_MAX_RANK];
    box b = {.rank = x->rank};
    char *to = NULL;
    TRY(reef_perm_resolve(infer->node, perm, infer->error));
    TRY(make_out(infer, 0, &to));
    strides_of(x->rank, x->dims, from);
    strides_of(y->rank, y->dims, b.to);
    for (int i = 0; i < x->rank; i++) {
        b.dims[i] = y->dims[i];
        b.from[i] = from[perm[i]];
    }
    copy_box(&b, to, x->data, reef_dtype_bytes(x->dtype));
    return REEF_OK;
}

static reef_status fold_slice(reef_infer *infer)
{
    const reef_value *x = infer->node->in[0], *y = infer->node->out[0];
    reef_slice slice = {0};
    box b = {.rank = x->rank};
    int64_t offset = 0;
    char *to = NULL;
    TRY(reef_slice_resolve(infer->node, &slice, infer->error));
    TRY(make_out(infer, 0, &to));
    strides_of(x->rank, x->dims, b.from);
    strides_of(y->rank, y->dims, b.to);
    for (int i = 0; i < x->rank; i++) {
        offset += slice.start[i] * b.from[i];
        b.from[i] *= y->dims[i] > 1 ? slice.step[i] : 1; /* a step may be huge when only one is taken */
        b.dims[i] = y->dims[i];
    }
    if (y->bytes) {
        copy_box(&b, to, (const char *)x->data + offset * (int64_t)reef_dtype_bytes(x->dtype),
                 reef_dtype_bytes(x->dtype));
    }
    return REEF_OK;
}

static reef_status fold_concat(reef_infer *infer)
{
    const reef_node *node = infer->node;
    const reef_value *y = node->out[0];
    size_t size = reef_dtype_bytes(y->dtype);
    int axis = 0;
    char *to = NULL;
    TRY(reef_axis_resolve(node, "axis", 1, y->rank, &axis, infer->error));
    TRY(make_out(infer, 0, &to));
    for (size_t i = 0; i < node->n_in; i++) {
        const reef_value *x = node->in[i];
        box b = {.rank = x->rank};
        memcpy(b.dims, x->dims, (size_t)x->rank * sizeof *x->dims);
        strides_of(x->rank, x->dims, b.from);
        strides_of(y->rank, y->dims, b.to);
        copy_box(&b, to, x->data, size);
        to += (size_t)(x->dims[axis] * b.to[axis]) * size;
    }
    return REEF_OK;
}

static reef_status fold_split(reef_infer *infer)
{
    const reef_node *node = infer->node;
    const reef_value *x = node->in[0];
    int64_t *sizes = calloc(node->n_out, sizeof *sizes);
    int axis = 0;
    if (!sizes) {
        return reef_node_fail(node, infer->error, REEF_NO_MEMORY, "out of memory");
    }
    reef_status status = reef_split_resolve(node, &axis, sizes, infer->error);
    const char *from = x->data;
    for (size_t i = 0; i < node->n_out && status == REEF_OK; i++) {
        box b = {.rank = x->rank};
        char *to = NULL;
        strides_of(x->rank, x->dims, b.from);
        const char *part = from;
        from += (size_t)(sizes[i] * b.from[axis]) * reef_dtype_bytes(x->dtype);
        if (!node->out[i] || (status = make_out(infer, i, &to)) != REEF_OK) {
            continue;
        }
        memcpy(b.dims, node->out[i]->dims, (size_t)x->rank * sizeof *x->dims);
        strides_of(x->rank, b.dims, b.to);
        copy_box(&b, to, part, reef_dtype_bytes(x->dtype));
    }
    free(sizes);
    return status;
}

/* Strides of x seen with the dims of a shape it broadcasts to. */
static void broadcast_strides(const reef_value *x, int rank, int64_t *strides)
{
    int64_t own[REEF_MAX_RANK];
    strides_of(x->rank, x->dims, own);
    for (int i = 0; i < rank; i++) {
        int k = i - (rank - x->rank);
        strides[i] = k < 0 || x->dims[k] == 1 ? 0 : own[k];
    }
}

static reef_status fold_expand(reef_infer *infer)
{
    const reef_value *x = infer->node->in[0], *y = infer->node->out[0];
    box b = {.rank = y->rank};
    char *to = NULL;
    TRY(make_out(infer, 0, &to));
    memcpy(b.dims, y->dims, (size_t)y->rank * sizeof *y->dims);
    strides_of(y->rank, y->dims, b.to);
    broadcast_strides(x, y->rank, b.from);
    copy_box(&b, to, x->data, reef_dtype_bytes(x->dtype));
    return REEF_OK;
}

static reef_status fold_tile(reef_infer *infer) /* every axis becomes two: which repeat, and where in it */
{
    const reef_value *x = infer->node->in[0], *y = infer->node->out[0], *repeats = infer->node->in[1];
    box b = {.rank = 2 * x->rank};
    int64_t from[REEF_MAX_RANK], step[REEF_MAX_RANK];
    char *to = NULL;
    TRY(make_out(infer, 0, &to));
    strides_of(x->rank, x->dims, from);
    strides_of(y->rank, y->dims, step);
    for (int i = 0; i < x->rank; i++) {
        b.dims[2 * i] = reef_value_integer(repeats, i);
        b.to[2 * i] = step[i] * x->dims[i];
        b.dims[2 * i + 1] = x->dims[i];
        b.to[2 * i + 1] = step[i];
        b.from[2 * i + 1] = from[i];
    }
    copy_box(&b, to, x->data, reef_dtype_bytes(x->dtype));
    return REEF_OK;
}

static reef_status fold_gather(reef_infer *infer)
{
    const reef_node *node = infer->node;
    const reef_value *x = node->in[0], *indices = node->in[1];
    size_t size = reef_dtype_bytes(x->dtype);
    int axis = 0;
    char *to = NULL;
    TRY(reef_axis_resolve(node, "axis", 0, x->rank, &axis, infer->error));
    TRY(make_out(infer, 0, &to));
    int64_t outer = 1, inner = 1, count = reef_value_elems(indices), dim = x->dims[axis];
    for (int i = 0; i < x->rank; i++) {
        outer *= i < axis ? x->dims[i] : 1;
        inner *= i > axis ? x->dims[i] : 1;
    }
    TRY(charge(infer, count));
    for (int64_t k = 0; k < count; k++) {
        int64_t index = reef_value_integer(indices, k);
        if (index < -dim || index >= dim) {
            return reef_node_fail(node, infer->error, REEF_SHAPE, "index %lld does not exist on axis %d of %lld",
                                  (long long)index, axis, (long long)dim);
        }
        index += index < 0 ? dim : 0;
        for (int64_t o = 0; node->out[0]->bytes && o < outer; o++) {
            memcpy(to + (size_t)((o * count + k) * inner) * size,
                   (const char *)x->data + (size_t)((o * dim + index) * inner) * size, (size_t)inner * size);
        }
    }
    return REEF_OK;
}

/* --------------------------------------------------------------- numbers -- */

static void store_integer(reef_dtype dtype, char *at, int64_t value);

static void store_number(reef_dtype dtype, char *at, double value)
{
    float narrow = (float)value;
    uint16_t half;
    switch (dtype) {
    case REEF_F32: memcpy(at, &narrow, 4); break;
    case REEF_F64: memcpy(at, &value, 8); break;
    case REEF_F16:
        half = reef_half_from_float(narrow);
        memcpy(at, &half, 2);
        break;
    case REEF_BOOL: *at = value != 0; break;
    case REEF_U8:
    case REEF_I8:
    case REEF_I32:
    case REEF_I64: store_integer(dtype, at, reef_double_to_int(value)); break;
    }
}

static void store_integer(reef_dtype dtype, char *at, int64_t value)
{
    int32_t narrow = (int32_t)(uint32_t)(uint64_t)value;
    switch (dtype) {
    case REEF_I64: memcpy(at, &value, 8); break;
    case REEF_I32: memcpy(at, &narrow, 4); break;
    case REEF_U8:
    case REEF_I8: *at = (char)(uint8_t)value; break;
    case REEF_BOOL: *at = value != 0; break;
    case REEF_F16:
    case REEF_F32:
    case REEF_F64: store_number(dtype, at, (double)value); break;
    }
}

static bool is_integer(reef_dtype dtype)
{
    return dtype != REEF_F32 && dtype != REEF_F64 && dtype != REEF_F16;
}

static void fill(char *to, int64_t count, const char *pattern, size_t size)
{
    bool zero = true;
    for (size_t i = 0; i < size; i++) {
        zero &= pattern[i] == 0;
    }
    for (int64_t i = 0; !zero && i < count; i++) { /* storage comes zeroed, and unwritten pages cost nothing */
        memcpy(to + (size_t)i * size, pattern, size);
    }
}

static reef_status fold_pad(reef_infer *infer, bool *done)
{
    const reef_value *x = infer->node->in[0], *y = infer->node->out[0];
    size_t size = reef_dtype_bytes(x->dtype);
    int64_t before[REEF_MAX_RANK] = {0}, after[REEF_MAX_RANK];
    int64_t at_to = 0, at_from = 0;
    double value = 0;
    char pattern[8], *to = NULL;
    box b = {.rank = x->rank};
    *done = strcmp(reef_node_attr_string(infer->node, "mode", "constant"), "constant") == 0;
    if (!*done) {
        return REEF_OK;
    }
    TRY(reef_pad_resolve(infer->node, before, after, &value, infer->error));
    TRY(make_out(infer, 0, &to));
    store_number(x->dtype, pattern, value);
    fill(to, reef_value_elems(y), pattern, size);
    strides_of(x->rank, x->dims, b.from);
    strides_of(y->rank, y->dims, b.to);
    for (int i = 0; i < x->rank; i++) {
        int64_t first = before[i] < 0 ? -before[i] : 0; /* of x */
        int64_t end = after[i] < 0 ? x->dims[i] + after[i] : x->dims[i];
        b.dims[i] = end > first ? end - first : 0;
        at_from += first * b.from[i];
        at_to += (before[i] > 0 ? before[i] : 0) * b.to[i];
    }
    if (x->bytes && y->bytes) {
        copy_box(&b, to + at_to * (int64_t)size, (const char *)x->data + at_from * (int64_t)size, size);
    }
    return REEF_OK;
}

typedef enum element_op {
    OP_ABS,
    OP_NEG,
    OP_SQRT,
    OP_EXP,
    OP_LOG,
    OP_FLOOR,
    OP_CEIL,
    OP_ROUND,
    OP_RECIPROCAL,
    OP_RELU,
    OP_SIGMOID,
    OP_TANH,
    OP_ERF,
    OP_SIN,
    OP_COS,
    OP_SIGN,
    OP_NOT,
    OP_IS_NAN,
    OP_CAST,
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_MOD,
    OP_POW,
    OP_MIN,
    OP_MAX,
    OP_MEAN,
    OP_EQUAL,
    OP_LESS,
    OP_LESS_EQUAL,
    OP_GREATER,
    OP_GREATER_EQUAL,
    OP_AND,
    OP_OR,
    OP_XOR,
    OP_WHERE,
    OP_NONE,
} element_op;

static const struct {
    const char *name;
    element_op op;
} element_ops[] = {
    {"Add", OP_ADD},
    {"Mul", OP_MUL},
    {"Cast", OP_CAST},
    {"Sub", OP_SUB},
    {"Div", OP_DIV},
    {"Where", OP_WHERE},
    {"Equal", OP_EQUAL},
    {"CastLike", OP_CAST},
    {"Abs", OP_ABS},
    {"Neg", OP_NEG},
    {"Sqrt", OP_SQRT},
    {"Exp", OP_EXP},
    {"Log", OP_LOG},
    {"Floor", OP_FLOOR},
    {"Ceil", OP_CEIL},
    {"Round", OP_ROUND},
    {"Reciprocal", OP_RECIPROCAL},
    {"Relu", OP_RELU},
    {"Sigmoid", OP_SIGMOID},
    {"Tanh", OP_TANH},
    {"Erf", OP_ERF},
    {"Sin", OP_SIN},
    {"Cos", OP_COS},
    {"Sign", OP_SIGN},
    {"Not", OP_NOT},
    {"IsNaN", OP_IS_NAN},
    {"Mod", OP_MOD},
    {"Pow", OP_POW},
    {"Min", OP_MIN},
    {"Max", OP_MAX},
    {"Sum", OP_ADD},
    {"Mean", OP_MEAN},
    {"Less", OP_LESS},
    {"LessOrEqual", OP_LESS_EQUAL},
    {"Greater", OP_GREATER},
    {"GreaterOrEqual", OP_GREATER_EQUAL},
    {"And", OP_AND},
    {"Or", OP_OR},
    {"Xor", OP_XOR},
};

static element_op find_element_op(const reef_node *node)
{
    for (size_t i = 0; i < sizeof element_ops / sizeof element_ops[0]; i++) {
        if (strcmp(node->op, element_ops[i].name) == 0) {
            return element_ops[i].op;
        }
    }
    return OP_NONE;
}

static int64_t integer_power(int64_t base, int64_t exponent)
{
    if (exponent < 0) { /* the fraction truncates to zero, except for 1 and -1 */
        return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
    }
    uint64_t result = 1, square = (uint64_t)base;
    for (; exponent; exponent >>= 1, square *= square) {
        result *= exponent & 1 ? square : 1;
    }
    return (int64_t)result;
}

/* One element in int64, wrapping like the hardware. False: no answer (division by zero). */
static bool integer_element(element_op op, const int64_t *v, int n, bool c_remainder, int64_t *out)
{
    int64_t a = v[0], b = n > 1 ? v[1] : 0;
    uint64_t sum = (uint64_t)a;
    switch (op) {
    case OP_ABS: *out = a < 0 ? (int64_t)(0 - sum) : a; return true;
    case OP_NEG: *out = (int64_t)(0 - sum); return true;
    case OP_RELU: *out = a > 0 ? a : 0; return true;
    case OP_SIGN: *out = (a > 0) - (a < 0); return true;
    case OP_NOT: *out = !a; return true;
    case OP_CAST: *out = a; return true;
    case OP_ADD:
        for (int i = 1; i < n; i++) {
            sum += (uint64_t)v[i];
        }
        *out = (int64_t)sum;
        return true;
    case OP_SUB: *out = (int64_t)(sum - (uint64_t)b); return true;
    case OP_MUL: *out = (int64_t)(sum * (uint64_t)b); return true;
    case OP_DIV: *out = b == -1 ? (int64_t)(0 - sum) : b ? a / b : 0; return b != 0;
    case OP_MOD:
        *out = b == -1 || b == 0 ? 0 : a % b;
        if (!c_remainder && *out && (*out < 0) != (b < 0)) {
            *out += b; /* the divisor's sign, as in Python */
        }
        return b != 0;
    case OP_POW: *out = integer_power(a, b); return true;
    case OP_MIN:
    case OP_MAX:
        for (int i = 1; i < n; i++) {
            a = (op == OP_MIN ? v[i] < a : v[i] > a) ? v[i] : a;
        }
        *out = a;
        return true;
    case OP_EQUAL: *out = a == b; return true;
    case OP_LESS: *out = a < b; return true;
    case OP_LESS_EQUAL: *out = a <= b; return true;
    case OP_GREATER: *out = a > b; return true;
    case OP_GREATER_EQUAL: *out = a >= b; return true;
    case OP_AND: *out = a && b; return true;
    case OP_OR: *out = a || b; return true;
    case OP_XOR: *out = !a != !b; return true;
    case OP_WHERE: *out = a ? v[1] : v[2]; return true;
    default: return false;
    }
}

/* The remainder with the divisor's sign, as in Python; infinite divisors included. */
static double float_modulo(double a, double b)
{
    double r = fmod(a, b);
    return r == 0 ? copysign(0, b) : (r < 0) != (b < 0) ? r + b : r;
}

static double float_element(element_op op, const double *v, int n, bool c_remainder)
{
    double a = v[0], b = n > 1 ? v[1] : 0;
    switch (op) {
    case OP_ABS: return fabs(a);
    case OP_NEG: return -a;
    case OP_SQRT: return sqrt(a);
    case OP_EXP: return exp(a);
    case OP_LOG: return log(a);
    case OP_FLOOR: return floor(a);
    case OP_CEIL: return ceil(a);
    case OP_ROUND: return nearbyint(a);
    case OP_RECIPROCAL: return 1 / a;
    case OP_RELU: return a > 0 || a != a ? a : 0;
    case OP_SIGMOID: return 1 / (1 + exp(-a));
    case OP_TANH: return tanh(a);
    case OP_ERF: return erf(a);
    case OP_SIN: return sin(a);
    case OP_COS: return cos(a);
    case OP_SIGN: return (a > 0) - (a < 0);
    case OP_IS_NAN: return a != a;
    case OP_CAST: return a;
    case OP_ADD:
    case OP_MEAN:
        for (int i = 1; i < n; i++) {
            a += v[i];
        }
        return op == OP_MEAN ? a / n : a;
    case OP_SUB: return a - b;
    case OP_MUL: return a * b;
    case OP_DIV: return a / b;
    case OP_MOD: return c_remainder ? fmod(a, b) : float_modulo(a, b);
    case OP_POW: return pow(a, b);
    case OP_MIN:
    case OP_MAX: /* a NaN wins, as in numpy */
        for (int i = 1; i < n; i++) {
            a = v[i] != v[i] || (op == OP_MIN ? v[i] < a : v[i] > a) ? v[i] : a;
        }
        return a;
    case OP_EQUAL: return a == b;
    case OP_LESS: return a < b;
    case OP_LESS_EQUAL: return a <= b;
    case OP_GREATER: return a > b;
    case OP_GREATER_EQUAL: return a >= b;
    case OP_WHERE: return a != 0 ? v[1] : v[2];
    default: return NAN;
    }
}

static reef_status fold_elements(reef_infer *infer, element_op op, bool *done)
{
    enum { MAX_OPERANDS = 8 };
    const reef_node *node = infer->node;
    const reef_value *y = node->out[0];
    int n = op == OP_CAST ? 1 : (int)node->n_in;
    bool integers = true, c_remainder = reef_node_attr_int(node, "fmod", 0) != 0;
    for (int i = op == OP_WHERE; i < n && n <= MAX_OPERANDS; i++) {
        integers &= is_integer(node->in[i]->dtype);
    }
    /* Operators that integers do not have, or a variadic one with more operands than anybody writes. */
    if (n > MAX_OPERANDS || (integers && ((op >= OP_SQRT && op <= OP_ROUND) || op == OP_MEAN))) {
        *done = false;
        return REEF_OK;
    }
    int64_t strides[MAX_OPERANDS][REEF_MAX_RANK], at[MAX_OPERANDS] = {0}, index[REEF_MAX_RANK] = {0};
    char *to = NULL;
    TRY(make_out(infer, 0, &to));
    for (int i = 0; i < n; i++) {
        broadcast_strides(node->in[i], y->rank, strides[i]);
    }
    size_t size = reef_dtype_bytes(y->dtype);
    int64_t elems = reef_value_elems(y);
    for (int64_t e = 0; e < elems; e++, to += size) {
        if (integers) {
            int64_t v[MAX_OPERANDS] = {0}, result = 0;
            for (int i = 0; i < n; i++) {
                v[i] = reef_value_integer(node->in[i], at[i]);
            }
            if (!integer_element(op, v, n, c_remainder, &result)) {
                return reef_node_fail(node, infer->error, REEF_FORMAT, "division by zero");
            }
            store_integer(y->dtype, to, result);
        } else {
            double v[MAX_OPERANDS] = {0};
            for (int i = 0; i < n; i++) {
                v[i] = reef_value_number(node->in[i], at[i]);
            }
            store_number(y->dtype, to, float_element(op, v, n, c_remainder));
        }
        for (int axis = y->rank; axis-- > 0;) {
            bool wraps = ++index[axis] == y->dims[axis];
            for (int i = 0; i < n; i++) {
                at[i] += strides[i][axis] - (wraps ? strides[i][axis] * y->dims[axis] : 0);
            }
            if (!wraps) {
                break;
            }
            index[axis] = 0;
        }
    }
    *done = true;
    return REEF_OK;
}

/* ------------------------------------------------------------- reductions -- */

static reef_status fold_reduce(reef_infer *infer, bool *done)
{
    const reef_node *node = infer->node;
    const reef_value *x = node->in[0], *y = node->out[0];
    const char *kind = node->op + strlen("Reduce");
    bool sum = strcmp(kind, "Sum") == 0, mean = strcmp(kind, "Mean") == 0, prod = strcmp(kind, "Prod") == 0;
    bool max = strcmp(kind, "Max") == 0, min = strcmp(kind, "Min") == 0;
    bool integers = x->dtype == REEF_I64 || x->dtype == REEF_I32, mask[REEF_MAX_RANK] = {false}, keepdims;
    int64_t elems = reef_value_elems(x), results = reef_value_elems(y), strides[REEF_MAX_RANK] = {0};
    /* Only what has an identity or at least one element. */
    *done = (sum || prod || ((mean || max || min) && elems > 0)) && (integers || x->dtype == REEF_F32) &&
            !(mean && integers);
    if (!*done) {
        return REEF_OK;
    }
    char *to = NULL;
    TRY(reef_reduce_resolve(node, mask, &keepdims, infer->error));
    TRY(make_out(infer, 0, &to));
    TRY(charge(infer, elems));
    union {
        int64_t i;
        double d;
    } *sums = calloc((size_t)results + 1, sizeof *sums);
    bool *seen = calloc((size_t)results + 1, 1);
    if (!sums || !seen) {
        free(sums);
        free(seen);
        return reef_node_fail(node, infer->error, REEF_NO_MEMORY, "out of memory");
    }
    int64_t stride = 1, at = 0, index[REEF_MAX_RANK] = {0};
    for (int i = x->rank; i-- > 0;) {
        strides[i] = mask[i] ? 0 : stride;
        stride *= mask[i] ? 1 : x->dims[i];
    }
    for (int64_t e = 0; e < elems; e++) {
        if (integers) {
            int64_t v = reef_value_integer(x, e), *acc = &sums[at].i;
            *acc = !seen[at] ? v
                   : prod    ? (int64_t)((uint64_t)*acc * (uint64_t)v)
                   : sum     ? (int64_t)((uint64_t)*acc + (uint64_t)v)
                   : max     ? (v > *acc ? v : *acc)
                             : (v < *acc ? v : *acc);
        } else {
            double v = reef_value_number(x, e), *acc = &sums[at].d;
            *acc = !seen[at]                               ? v
                   : prod                                  ? *acc * v
                   : sum || mean                           ? *acc + v
                   : v != v || (max ? v > *acc : v < *acc) ? v
                                                           : *acc;
        }
        seen[at] = true;
        for (int axis = x->rank; axis-- > 0;) {
            bool wraps = ++index[axis] == x->dims[axis];
            at += strides[axis] - (wraps ? strides[axis] * x->dims[axis] : 0);
            if (!wraps) {
                break;
            }
            index[axis] = 0;
        }
    }
    size_t size = reef_dtype_bytes(y->dtype);
    for (int64_t i = 0; i < results; i++, to += size) {
        if (integers) {
            store_integer(y->dtype, to, seen[i] ? sums[i].i : prod);
        } else {
            store_number(y->dtype, to,
                         !seen[i] ? prod
                         : mean   ? sums[i].d / ((double)elems / (double)results)
                                  : sums[i].d);
        }
    }
    free(sums);
    free(seen);
    return REEF_OK;
}

static reef_status fold_cum_sum(reef_infer *infer, bool *done)
{
    const reef_node *node = infer->node;
    const reef_value *x = node->in[0], *along = node->in[1];
    bool exclusive = reef_node_attr_int(node, "exclusive", 0) != 0,
         reverse = reef_node_attr_int(node, "reverse", 0) != 0;
    int64_t axis = reef_value_elems(along) == 1 ? reef_value_integer(along, 0) : INT64_MAX;
    bool integers = x->dtype == REEF_I64 || x->dtype == REEF_I32;
    *done = integers || x->dtype == REEF_F32;
    if (!*done) {
        return REEF_OK;
    }
    if (axis < -x->rank || axis >= x->rank) {
        return reef_node_fail(node, infer->error, REEF_SHAPE, "its axis does not exist in %d dimensions", x->rank);
    }
    axis += axis < 0 ? x->rank : 0;
    char *to = NULL;
    TRY(make_out(infer, 0, &to));
    int64_t inner = 1, dim = x->dims[axis], elems = reef_value_elems(x);
    for (int i = (int)axis + 1; i < x->rank; i++) {
        inner *= x->dims[i];
    }
    size_t size = reef_dtype_bytes(x->dtype);
    for (int64_t line = 0; elems && line < elems / dim; line++) {
        int64_t first = line / inner * inner * dim + line % inner;
        uint64_t total = 0;
        double sum = 0;
        for (int64_t k = 0; k < dim; k++) {
            int64_t i = first + (reverse ? dim - 1 - k : k) * inner;
            uint64_t before = total;
            double sum_before = sum;
            if (integers) {
                total += (uint64_t)reef_value_integer(x, i);
                store_integer(x->dtype, to + (size_t)i * size, (int64_t)(exclusive ? before : total));
            } else {
                sum += reef_value_number(x, i);
                store_number(x->dtype, to + (size_t)i * size, exclusive ? sum_before : sum);
            }
        }
    }
    return REEF_OK;
}

/* -------------------------------------------------------------- makers -- */

static reef_status fold_shape(reef_infer *infer)
{
    const reef_value *x = infer->node->in[0], *y = infer->node->out[0];
    int64_t start = reef_node_attr_int(infer->node, "start", 0);
    start = start < 0 ? start + x->rank : start;
    start = start < 0 ? 0 : start;
    char *to = NULL;
    TRY(make_out(infer, 0, &to));
    for (int64_t i = 0; i < y->dims[0]; i++) {
        store_integer(REEF_I64, to + i * 8, x->dims[start + i]);
    }
    return REEF_OK;
}

static reef_status fold_size(reef_infer *infer)
{
    char *to = NULL;
    TRY(make_out(infer, 0, &to));
    store_integer(REEF_I64, to, reef_value_elems(infer->node->in[0]));
    return REEF_OK;
}

static reef_status fold_constant_of_shape(reef_infer *infer)
{
    const reef_attr *attr = reef_node_attr(infer->node, "value");
    char *to = NULL;
    TRY(make_out(infer, 0, &to));
    if (attr) {
        fill(to, reef_value_elems(infer->node->out[0]), attr->t->data, reef_dtype_bytes(attr->t->dtype));
    }
    return REEF_OK;
}

static reef_status fold_range(reef_infer *infer)
{
    const reef_value *start = infer->node->in[0], *delta = infer->node->in[2], *y = infer->node->out[0];
    size_t size = reef_dtype_bytes(y->dtype);
    char *to = NULL;
    TRY(make_out(infer, 0, &to));
    for (int64_t i = 0; i < y->dims[0]; i++, to += size) {
        if (is_integer(y->dtype)) {
            store_integer(y->dtype, to,
                          (int64_t)((uint64_t)reef_value_integer(start, 0) +
                                    (uint64_t)i * (uint64_t)reef_value_integer(delta, 0)));
        } else {
            store_number(y->dtype, to, reef_value_number(start, 0) + (double)i * reef_value_number(delta, 0));
        }
    }
    return REEF_OK;
}

static reef_status fold_non_zero(reef_infer *infer)
{
    const reef_value *x = infer->node->in[0], *y = infer->node->out[0];
    int64_t count = y->dims[1], found = 0, elems = reef_value_elems(x);
    char *to = NULL;
    TRY(make_out(infer, 0, &to));
    TRY(charge(infer, elems));
    for (int64_t i = 0; i < elems && found < count; i++) {
        if (reef_value_number(x, i) == 0) {
            continue;
        }
        int64_t rest = i;
        for (int axis = x->rank; axis-- > 0; rest /= x->dims[axis]) {
            store_integer(REEF_I64, to + (axis * count + found) * 8, rest % x->dims[axis]);
        }
        found++;
    }
    return REEF_OK;
}

static reef_status fold_trilu(reef_infer *infer)
{
    const reef_value *x = infer->node->in[0], *offset = reef_node_in(infer->node, 1);
    bool upper = reef_node_attr_int(infer->node, "upper", 1) != 0;
    int64_t k = offset && reef_value_elems(offset) == 1 ? reef_value_integer(offset, 0) : 0;
    int64_t rows = x->dims[x->rank - 2], columns = x->dims[x->rank - 1], elems = reef_value_elems(x);
    size_t size = reef_dtype_bytes(x->dtype);
    char *to = NULL;
    k = k > columns ? columns : k < -rows ? -rows : k;
    TRY(make_out(infer, 0, &to));
    for (int64_t i = 0; i < elems; i++) {
        int64_t above = i % columns - i / columns % rows; /* how far right of the diagonal */
        if (upper ? above >= k : above <= k) {
            memcpy(to + (size_t)i * size, (const char *)x->data + (size_t)i * size, size);
        }
    }
    return REEF_OK;
}

static void fold_view(reef_infer *infer)
{
    const reef_value *x = infer->node->in[0];
    infer->node->out[0]->data = x->data;
    infer->node->out[0]->bytes = x->bytes;
}

/* -------------------------------------------------------------- dispatch -- */

static reef_status fold_constants(reef_infer *infer, bool *done)
{
    static const char *const views[] = {"Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten"};
    static const struct {
        const char *op;
        reef_status (*fold)(reef_infer *);
    } movers[] = {{"Gather", fold_gather},
                  {"Concat", fold_concat},
                  {"Slice", fold_slice},
                  {"Transpose", fold_transpose},
                  {"ConstantOfShape", fold_constant_of_shape},
                  {"Expand", fold_expand},
                  {"Tile", fold_tile},
                  {"Range", fold_range},
                  {"Split", fold_split},
                  {"NonZero", fold_non_zero},
                  {"Trilu", fold_trilu}};
    const reef_node *node = infer->node;
    *done = true;
    for (size_t i = 0; i < sizeof views / sizeof views[0]; i++) {
        if (strcmp(node->op, views[i]) == 0) {
            fold_view(infer);
            return REEF_OK;
        }
    }
    if (strncmp(node->op, "Cast", 4) == 0 && node->in[0]->dtype == node->out[0]->dtype) {
        fold_view(infer);
        return REEF_OK;
    }
    for (size_t i = 0; i < sizeof movers / sizeof movers[0]; i++) {
        if (strcmp(node->op, movers[i].op) == 0) {
            return movers[i].fold(infer);
        }
    }
    element_op op = find_element_op(node);
    if (op != OP_NONE) {
        return fold_elements(infer, op, done);
    }
    if (strcmp(node->op, "Pad") == 0) {
        return fold_pad(infer, done);
    }
    if (strcmp(node->op, "CumSum") == 0) {
        return fold_cum_sum(infer, done);
    }
    if (strncmp(node->op, "Reduce", 6) == 0) {
        return fold_reduce(infer, done);
    }
    *done = false;
    return REEF_OK;
}

reef_status reef_fold_node(reef_infer *infer, bool *folded)
{
    const reef_node *node = infer->node;
    *folded = false;
    bool constant = node->in[0]->data != NULL; /* no operator may omit its first input */
    for (size_t i = 1; i < node->n_in; i++) {
        constant &= !node->in[i] || node->in[i]->data;
    }
    bool shape = reef_node_is(node, "Shape"), size = reef_node_is(node, "Size");
    if ((!constant && !shape && !size) || node->domain[0]) {
        return REEF_OK;
    }
    if (!node->out[0]) { /* only Split's parts may be omitted from the front */
        return REEF_OK;
    }
    bool done = true;
    reef_status status = shape ? fold_shape(infer) : size ? fold_size(infer) : fold_constants(infer, &done);
    *folded = status == REEF_OK && done;
    return status;
}
