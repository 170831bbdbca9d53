/*
 * fuse_act.c - activations, whole or in pieces.
 *
 * Pieces are products: f = c * x * g(x). A product tree (Mul, and Div by a number) is flattened to its constant and its
 * factors, which makes every order and association that exporters write the same.
 */
#include <math.h>
#include <string.h>

#include "model/fuse.h"

static bool bounds(const reef_node *node, double *low, double *high)
{
    *low = -INFINITY;
    *high = INFINITY;
    if (node->opset < 11) {
        *low = (double)reef_node_attr_float(node, "min", -INFINITY);
        *high = (double)reef_node_attr_float(node, "max", INFINITY);
        return true;
    }
    const reef_value *min = reef_node_in(node, 1), *max = reef_node_in(node, 2);
    return (!min || reef_fuse_number(min, low)) && (!max || reef_fuse_number(max, high));
}

bool reef_fuse_activation(const reef_node *node, reef_act *act, float *a, float *b)
{
    *a = *b = 0;
    if (!node->n_in || !node->in[0] || node->in[0]->dtype != REEF_F32) {
        return false;
    }
    if (reef_node_is(node, "reef.Act")) {
        *act = node->epilogue.act;
        *a = node->epilogue.a;
        *b = node->epilogue.b;
    } else if (reef_node_is(node, "Relu")) {
        *act = REEF_ACT_RELU;
    } else if (reef_node_is(node, "Clip")) {
        double low, high;
        if (!bounds(node, &low, &high)) {
            return false;
        }
        *act = REEF_ACT_CLIP;
        *a = (float)low;
        *b = (float)high;
    } else if (reef_node_is(node, "LeakyRelu")) {
        *act = REEF_ACT_LEAKY_RELU;
        *a = reef_node_attr_float(node, "alpha", 0.01f);
    } else if (reef_node_is(node, "Sigmoid")) {
        *act = REEF_ACT_SIGMOID;
    } else if (reef_node_is(node, "HardSigmoid")) {
        *act = REEF_ACT_HARD_SIGMOID;
        *a = reef_node_attr_float(node, "alpha", 0.2f);
        *b = reef_node_attr_float(node, "beta", 0.5f);
    } else if (reef_node_is(node, "HardSwish")) {
        *act = REEF_ACT_HARD_SWISH;
        *a = 1.0f / 6;
        *b = 0.5f;
    } else if (reef_node_is(node, "Tanh")) {
        *act = REEF_ACT_TANH;
    } else if (reef_node_is(node, "Gelu")) {
        *act = strcmp(reef_node_attr_string(node, "approximate", "none"), "tanh") ? REEF_ACT_GELU : REEF_ACT_GELU_TANH;
    } else {
        return false;
    }
    return true;
}

/* ------------------------------------------------------------------ products -- */

enum { MAX_FACTORS = 4 };
typedef struct product {
    double c;
    reef_value *factors[MAX_FACTORS];
    int n;
    bool fits;
} product;

static bool is_product(const reef_node *node)
{
    return node && (reef_node_is(node, "Mul") || reef_node_is(node, "Div"));
}

/* Expands `value` if it is a product that only this tree reads (or the tree's root). */
static void multiply_out(reef_value *value, bool root, int depth, product *p)
{
    reef_node *node = value->data ? NULL : value->producer;
    reef_value *other;
    double number;
    if (node && is_product(node) && (root || (value->uses == 1 && !value->is_output)) && depth < 6) {
        if (reef_fuse_with_number(node, &other, &number)) {
            p->c = reef_node_is(node, "Mul") ? p->c * number : p->c / number;
            multiply_out(other, false, depth + 1, p);
            return;
        }
        if (reef_node_is(node, "Mul") && node->n_in == 2 && reef_fuse_same_shape(node->in[0], node->in[1])) {
            multiply_out(node->in[0], false, depth + 1, p);
            multiply_out(node->in[1], false, depth + 1, p);
            return;
        }
    }
    if (p->n == MAX_FACTORS) {
        p->fits = false;
        return;
    }
    p->factors[p->n++] = value;
}

static product factors_of(reef_value *value, bool root)
{
    product p = {.c = 1, .fits = true};
    multiply_out(value, root, 0, &p);
    p.fits &= p.c != 0 && isfinite(p.c);
    return p;
}

/* value = x + number */
static bool plus(const reef_value *value, double number, reef_value **x)
{
    double found;
    const reef_node *node = reef_fuse_made_by(value, "Add");
    return node && reef_fuse_with_number(node, x, &found) && reef_fuse_near(found, number);
}

/* value = c * x */
static bool times(reef_value *value, double c, const reef_value *x)
{
    const product p = factors_of(value, true);
    return p.fits && p.n == 1 && p.factors[0] == x && reef_fuse_near(p.c, c);
}

/* value = clip(x + 3, 0, 6) */
static bool clip_of_plus_3(const reef_value *value, reef_value **x)
{
    double low, high;
    const reef_node *node = reef_fuse_made_by(value, "Clip");
    return node && bounds(node, &low, &high) && low == 0 && high == 6 && plus(node->in[0], 3, x);
}

/* value = x^3 */
static bool cube(reef_value *value, const reef_value *x)
{
    double exponent;
    const reef_node *node = reef_fuse_made_by(value, "Pow");
    if (node) {
        return node->in[0] == x && reef_fuse_number(node->in[1], &exponent) && exponent == 3;
    }
    const product p = factors_of(value, true);
    const reef_node *square = p.n == 2 ? p.factors[0]->producer : NULL;
    if (p.fits && p.c == 1 && p.n == 2 && square && reef_node_is(square, "Pow") && p.factors[1] == x) {
        return square->in[0] == x && reef_fuse_number(square->in[1], &exponent) && exponent == 2;
    }
    return p.fits && p.c == 1 && p.n == 3 && p.factors[0] == x && p.factors[1] == x && p.factors[2] == x;
}

/* value = sqrt(2/pi) (x + 0.044715 x^3) */
static bool gelu_argument(reef_value *value, reef_value *x)
{
    const product outer = factors_of(value, true);
    const reef_node *add = outer.n == 1 ? reef_fuse_made_by(outer.factors[0], "Add") : NULL;
    if (!outer.fits || !add || !reef_fuse_near(outer.c, 0.79788456080286535588) || add->n_in != 2) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        if (add->in[i] == x && !add->in[1 - i]->data) {
            const product inner = factors_of(add->in[1 - i], true);
            reef_value *third = inner.n == 1 ? inner.factors[0] : NULL;
            if (inner.fits && third && reef_fuse_near(inner.c, 0.044715) && cube(third, x)) {
                return true;
            }
            /* 0.044715 * x * x * x in one product */
            if (inner.fits && inner.n == 3 && reef_fuse_near(inner.c, 0.044715) && inner.factors[0] == x &&
                inner.factors[1] == x && inner.factors[2] == x) {
                return true;
            }
        }
    }
    return false;
}

typedef struct found {
    reef_act act;
    float a, b;
    const char *name;
    reef_value *x;
} found;

/* root = c * x * g(x), or c * g(x) */
static bool match(reef_node *root, found *out)
{
    const product p = factors_of(root->out[0], true);
    if (!p.fits || p.n > 2) {
        return false;
    }
    if (p.n == 1) {
        *out = (found){.act = REEF_ACT_HARD_SIGMOID, .a = 1.0f / 6, .b = 0.5f, .name = "HardSigmoid"};
        return reef_fuse_near(p.c, 1.0 / 6) && clip_of_plus_3(p.factors[0], &out->x);
    }
    for (int i = 0; i < 2; i++) {
        reef_value *x = p.factors[i], *g = p.factors[1 - i], *inner;
        const reef_node *node;
        if (!reef_fuse_same_shape(x, g)) {
            continue;
        }
        *out = (found){.act = REEF_ACT_HARD_SWISH, .a = 1.0f / 6, .b = 0.5f, .name = "HardSwish", .x = x};
        if (reef_fuse_near(p.c, 1.0 / 6) && clip_of_plus_3(g, &inner) && inner == x) {
            return true;
        }
        if ((node = reef_fuse_made_by(g, "HardSigmoid")) && node->in[0] == x && p.c == 1) {
            out->a = reef_node_attr_float(node, "alpha", 0.2f);
            out->b = reef_node_attr_float(node, "beta", 0.5f);
            return true;
        }
        if ((node = reef_fuse_made_by(g, "Sigmoid")) && p.c == 1 && (node->in[0] == x || times(node->in[0], 1, x))) {
            *out = (found){.act = REEF_ACT_SILU, .name = "Silu", .x = x};
            return true;
        }
        if (!reef_fuse_near(p.c, 0.5) || !plus(g, 1, &inner)) {
            continue;
        }
        if ((node = reef_fuse_made_by(inner, "Erf")) && times(node->in[0], 0.70710678118654752440, x)) {
            *out = (found){.act = REEF_ACT_GELU, .name = "Gelu", .x = x};
            return true;
        }
        if ((node = reef_fuse_made_by(inner, "Tanh")) && gelu_argument(node->in[0], x)) {
            *out = (found){.act = REEF_ACT_GELU_TANH, .name = "Gelu", .x = x};
            return true;
        }
    }
    return false;
}

void reef_fuse_activations(reef_fuse *f)
{
    for (size_t i = f->graph->n_nodes; i-- > 0;) { /* last first: the widest product is the root */
        reef_node *node = f->graph->nodes[i];
        found m;
        if (!node->dead && is_product(node) && node->out[0]->dtype == REEF_F32 && match(node, &m) &&
            reef_fuse_same_shape(m.x, node->out[0])) {
            reef_fuse_replace(f, node, "reef.Act", m.name, &m.x, 1);
            node->epilogue.act = m.act;
            node->epilogue.a = m.a;
            node->epilogue.b = m.b;
        }
    }
}
