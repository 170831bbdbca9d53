/*
 * fuse_attention.c - scaled dot product attention, as exporters decompose it:
 *
 *   MatMul(guard(Softmax(mask(scale(MatMul(scale(q), scale(k^T)))))), v)
 *
 * scale: Mul or Div by a number, in any of the three places. mask: Add of a tensor, or Where with a number. guard:
 * Where(IsNaN(p), 0, p), which torch puts behind a softmax whose rows may be empty. k^T stays whatever it is: a view
 * that swaps its last axes back costs nothing.
 */
#include <math.h>

#include "model/fuse.h"

typedef struct attention {
    double scale;
    reef_value *q, *k_t, *v; /* k_t: (B,H,D,T) */
    reef_value *mask;        /* added, or bool */
    reef_value *condition;   /* Where: with `keep` false the fill replaces scores where it is true */
    double fill;
    bool keep, guarded;
} attention;

static reef_value *unscale(reef_value *value, double *scale)
{
    for (int depth = 0; depth < 4; depth++) {
        reef_value *inner;
        double number;
        reef_node *node = value->uses == 1 && !value->is_output ? reef_fuse_made_by(value, "Mul") : NULL;
        const bool divides = !node && value->uses == 1 && !value->is_output && reef_fuse_made_by(value, "Div");
        node = divides ? value->producer : node;
        if (!node || !reef_fuse_with_number(node, &inner, &number) || number == 0 || !isfinite(number)) {
            break;
        }
        *scale = divides ? *scale / number : *scale * number;
        value = inner;
    }
    return value;
}

/* The probabilities behind an optional guard. */
static reef_node *softmax_of(reef_value *value, attention *a)
{
    double zero;
    reef_node *where = reef_fuse_made_by(value, "Where");
    if (where) {
        const reef_node *nan = reef_fuse_made_by(where->in[0], "IsNaN");
        if (value->uses != 1 || value->is_output || !nan || nan->in[0] != where->in[2] ||
            !reef_fuse_number(where->in[1], &zero) || zero != 0 || where->in[2]->uses != 2) {
            return NULL;
        }
        a->guarded = true;
        value = where->in[2];
    } else if (value->uses != 1) {
        return NULL;
    }
    reef_node *softmax = value->is_output ? NULL : reef_fuse_made_by(value, "Softmax");
    int axis;
    if (!softmax || reef_axis_resolve(softmax, "axis", softmax->opset < 13 ? 1 : -1, value->rank, &axis, NULL)) {
        return NULL;
    }
    return axis == value->rank - 1 ? softmax : NULL;
}

/* Scores without their mask. */
static reef_value *unmask(reef_value *value, attention *a)
{
    reef_node *node = value->producer;
    if (value->data || !node || value->uses != 1 || value->is_output) {
        return value;
    }
    if (reef_node_is(node, "Add") && node->n_in == 2) {
        for (int i = 0; i < 2; i++) {
            double ignored = 1;
            reef_value *in = node->in[i], *mask = node->in[1 - i];
            if (reef_fuse_same_shape(in, value) && in->uses == 1 && mask->dtype == REEF_F32 && mask != in &&
                reef_fuse_made_by(unscale(in, &ignored), "MatMul")) {
                a->mask = mask;
                return in;
            }
        }
    } else if (reef_node_is(node, "Where")) {
        for (int i = 1; i < 3; i++) {
            reef_value *in = node->in[i];
            if (reef_fuse_same_shape(in, value) && in->uses == 1 && reef_fuse_number(node->in[3 - i], &a->fill) &&
                a->fill < -1e30) {
                a->condition = node->in[0];
                a->keep = i == 1;
                return in;
            }
        }
    }
    return value;
}

/*
 * k_t = Reshape(Transpose(Reshape(k))) with batch and heads folded into one axis on the way, as torch's dynamo exporter
 * transposes the last two axes: k itself. NULL otherwise.
 */
static reef_value *folded_transpose(const reef_value *k_t)
{
    const reef_node *unfold = reef_fuse_made_by(k_t, "Reshape");
    const reef_node *swap = unfold ? reef_fuse_made_by(unfold->in[0], "Transpose") : NULL;
    const reef_node *fold = swap ? reef_fuse_made_by(swap->in[0], "Reshape") : NULL;
    reef_value *k = fold ? fold->in[0] : NULL;
    int perm[REEF_MAX_RANK];
    if (!k || k->rank != k_t->rank || swap->in[0]->rank != 3 || reef_perm_resolve(swap, perm, NULL) || perm[0] != 0 ||
        perm[1] != 2 || perm[2] != 1) {
        return NULL;
    }
    const int rank = k->rank;
    for (int d = 0; d < rank - 2; d++) {
        if (k->dims[d] != k_t->dims[d]) {
            return NULL;
        }
    }
    const bool last = k->dims[rank - 1] == k_t->dims[rank - 2] && k->dims[rank - 2] == k_t->dims[rank - 1];
    const int64_t *folded = swap->in[0]->dims;
    return last && folded[1] == k->dims[rank - 2] && folded[2] == k->dims[rank - 1] ? k : NULL;
}

static bool match(reef_node *root, attention *a)
{
    *a = (attention){.scale = 1};
    if (!reef_node_is(root, "MatMul") || root->epilogue.act || root->in[0]->data || root->out[0]->dtype != REEF_F32) {
        return false;
    }
    const int rank = root->out[0]->rank;
    reef_node *softmax = softmax_of(root->in[0], a);
    if (!softmax || softmax->in[0]->uses != 1 || softmax->in[0]->data || (rank != 3 && rank != 4)) {
        return false;
    }
    reef_value *scores = softmax->in[0];
    const reef_value *const shape = scores;
    scores = unscale(unmask(scores, a), &a->scale);
    reef_node *product = scores->uses == 1 && !scores->is_output ? reef_fuse_made_by(scores, "MatMul") : NULL;
    if (!product || !reef_fuse_same_shape(scores, shape)) {
        return false;
    }
    a->q = unscale(product->in[0], &a->scale);
    a->k_t = unscale(product->in[1], &a->scale);
    a->v = root->in[1];
    if (a->q->rank != rank || a->k_t->rank != rank || a->v->rank != rank || scores->rank != rank) {
        return false;
    }
    /* No broadcasting: heads and batch agree everywhere. */
    for (int d = 0; d < rank - 2; d++) {
        const int64_t n = scores->dims[d];
        if (a->q->dims[d] != n || a->k_t->dims[d] != n || a->v->dims[d] != n) {
            return false;
        }
    }
    /* And one depth for q, k and v, as the kernel has it. */
    return a->q->dtype == REEF_F32 && a->v->dims[rank - 2] == scores->dims[rank - 1] &&
           a->k_t->dims[rank - 2] == a->q->dims[rank - 1] && a->v->dims[rank - 1] == a->q->dims[rank - 1];
}

/* The mask operand: as it is, or Where(condition, 0, fill) in front of the root, which is as small as the condition. */
static bool mask_value(reef_fuse *f, reef_node *root, attention *a)
{
    if (!a->condition) {
        return true;
    }
    if (a->keep && isinf(a->fill)) {
        a->mask = a->condition;
        return true;
    }
    void *zero, *fill;
    reef_value *z = reef_graph_const_new(f->graph, root->name, REEF_F32, 0, NULL, &zero);
    reef_value *v = reef_graph_const_new(f->graph, root->name, REEF_F32, 0, NULL, &fill);
    a->mask = reef_graph_value_new(f->graph, a->condition->name, REEF_F32, a->condition->rank, a->condition->dims);
    if (!z || !v || !a->mask) {
        f->out_of_memory = true;
        return false;
    }
    *(float *)zero = 0;
    *(float *)fill = (float)a->fill;
    reef_value *in[3] = {a->condition, a->keep ? z : v, a->keep ? v : z};
    return reef_fuse_insert(f, root, "Where", in, 3, a->mask) != NULL;
}

static void become(reef_fuse *f, reef_node *root, const attention *a, reef_value *k)
{
    reef_value *in[4] = {a->q, k, a->v, a->mask};
    reef_fuse_replace(f, root, "reef.Attention", "Attention", in, a->mask ? 4 : 3);
    reef_fuse_attrs(f, root, "scale", (float)a->scale, "nan_rows", !a->guarded);
}

static void fuse_one(reef_fuse *f, reef_node *root, attention *a)
{
    const int rank = root->out[0]->rank;
    reef_value *straight = folded_transpose(a->k_t);
    if (straight) {
        if (mask_value(f, root, a)) {
            become(f, root, a, straight);
        }
        return;
    }
    int64_t dims[REEF_MAX_RANK];
    for (int d = 0; d < rank; d++) {
        dims[d] = a->k_t->dims[d == rank - 1 ? rank - 2 : d == rank - 2 ? rank - 1 : d];
    }
    reef_value *k = reef_graph_value_new(f->graph, a->k_t->name, REEF_F32, rank, dims);
    int64_t *perm = reef_arena_array(&f->graph->arena, REEF_MAX_RANK, sizeof *perm);
    reef_attr *attr = reef_arena_array(&f->graph->arena, 1, sizeof *attr);
    if (!k || !perm || !attr || !mask_value(f, root, a)) {
        f->out_of_memory = true;
        return;
    }
    reef_node *swap = reef_fuse_insert(f, root, "Transpose", &a->k_t, 1, k);
    if (!swap) {
        return;
    }
    for (int d = 0; d < rank; d++) {
        perm[d] = d == rank - 1 ? rank - 2 : d == rank - 2 ? rank - 1 : d;
    }
    *attr = (reef_attr){.name = "perm", .type = REEF_ATTR_INTS, .ints = perm, .count = (size_t)rank};
    swap->attrs = attr;
    swap->n_attrs = 1;
    become(f, root, a, k);
}

void reef_fuse_attentions(reef_fuse *f)
{
    for (size_t i = 0; i < f->graph->n_nodes; i++) {
        reef_node *root = f->graph->nodes[i];
        attention a;
        if (!root->dead && match(root, &a)) {
            fuse_one(f, root, &a);
            while (i < f->graph->n_nodes && f->graph->nodes[i] != root) {
                i++; /* it moved behind what was put in front of it */
            }
        }
    }
}
