/*
 * lower.c - fused graph to plan: layouts, homes, and the walk over the nodes.
 *
 *     settle layouts -> group element operators -> give homes, last node first -> lower, first node first -> outputs
 *
 * Homes are given backwards because the reader knows best: a concatenation wants its pieces side by side, a request
 * output wants its last kernel to write into it, a reshape that strides cannot express forwards may be expressible
 * backwards (attention writing (B,H,S,D) straight into (B,S,H*D)). A dense block of DenseNet comes out as one storage:
 * its last concatenation places every feature map, and each earlier one finds its pieces already side by side.
 */
#include "model/lower.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "model/dtype.h"

/* --------------------------------------------------------------- operators -- */

static const reef_lower_op operators[] = {
    {"Conv", reef_lower_conv, REEF_OP_NHWC},
    {"ConvTranspose", reef_lower_conv, REEF_OP_NHWC},
    {"MaxPool", reef_lower_pool, REEF_OP_NHWC},
    {"AveragePool", reef_lower_pool, REEF_OP_NHWC},
    {"Resize", reef_lower_resize, REEF_OP_NHWC},
    {"Upsample", reef_lower_resize, REEF_OP_NHWC},
    {"LRN", reef_lower_lrn, REEF_OP_NHWC},
    {"MatMul", reef_lower_matmul, REEF_OP_LAST},
    {"Gemm", reef_lower_gemm, REEF_OP_LAST},
    {"reef.Attention", reef_lower_attention, REEF_OP_LAST},
    {"LayerNormalization", reef_lower_layer_norm, REEF_OP_LAST},
    {"reef.LayerNorm", reef_lower_layer_norm, REEF_OP_LAST},
    {"InstanceNormalization", reef_lower_group_norm, REEF_OP_FLEX},
    {"GroupNormalization", reef_lower_group_norm, REEF_OP_FLEX},
    {"Softmax", reef_lower_softmax, REEF_OP_FLEX},
    {"LogSoftmax", reef_lower_softmax, REEF_OP_FLEX},
    {"ReduceMean", reef_lower_reduce, REEF_OP_FLEX},
    {"ReduceSum", reef_lower_reduce, REEF_OP_FLEX},
    {"ReduceMax", reef_lower_reduce, REEF_OP_FLEX},
    {"ReduceMin", reef_lower_reduce, REEF_OP_FLEX},
    {"ReduceProd", reef_lower_reduce, REEF_OP_FLEX},
    {"ReduceL1", reef_lower_reduce, REEF_OP_FLEX},
    {"ReduceL2", reef_lower_reduce, REEF_OP_FLEX},
    {"ReduceSumSquare", reef_lower_reduce, REEF_OP_FLEX},
    {"ReduceLogSumExp", reef_lower_reduce, REEF_OP_FLEX},
    {"GlobalAveragePool", reef_lower_global_pool, REEF_OP_FLEX},
    {"GlobalMaxPool", reef_lower_global_pool, REEF_OP_FLEX},
    {"ArgMax", reef_lower_arg_max, 0},
    {"ArgMin", reef_lower_arg_max, 0},
    {"Gather", reef_lower_gather, 0},
    {"GatherND", reef_lower_gather_nd, 0},
    {"Concat", reef_lower_concat, REEF_OP_FLEX},
    {"Pad", reef_lower_pad, REEF_OP_FLEX},
    {"Tile", reef_lower_tile, REEF_OP_FLEX},
    {"DepthToSpace", reef_lower_depth, REEF_OP_FLEX},
    {"SpaceToDepth", reef_lower_depth, REEF_OP_FLEX},
    {"Slice", reef_lower_slice, REEF_OP_VIEW | REEF_OP_FLEX},
    {"Split", reef_lower_split, REEF_OP_VIEW | REEF_OP_FLEX},
    {"Expand", reef_lower_expand, REEF_OP_VIEW | REEF_OP_FLEX},
    {"Identity", reef_lower_reshape, REEF_OP_VIEW | REEF_OP_FLEX},
    {"Dropout", reef_lower_reshape, REEF_OP_VIEW | REEF_OP_FLEX},
    {"Reshape", reef_lower_reshape, REEF_OP_VIEW},
    {"Flatten", reef_lower_reshape, REEF_OP_VIEW},
    {"Squeeze", reef_lower_reshape, REEF_OP_VIEW},
    {"Unsqueeze", reef_lower_reshape, REEF_OP_VIEW},
    {"Transpose", reef_lower_transpose, REEF_OP_VIEW},
};

static const char *const element_operators[] = {
    "Add",      "Sub",         "Mul",
    "Div",      "Mod",         "Pow",
    "Min",      "Max",         "Sum",
    "Mean",     "Equal",       "Less",
    "Greater",  "LessOrEqual", "GreaterOrEqual",
    "And",      "Or",          "Xor",
    "Not",      "Where",       "Neg",
    "Abs",      "Sign",        "Sqrt",
    "Exp",      "Reciprocal",  "Log",
    "Erf",      "Sin",         "Cos",
    "Tanh",     "Floor",       "Ceil",
    "Round",    "Sigmoid",     "Softplus",
    "Softsign", "Relu",        "Clip",
    "Gelu",     "LeakyRelu",   "HardSigmoid",
    "Mish",     "HardSwish",   "Elu",
    "Selu",     "Celu",        "ThresholdedRelu",
    "PRelu",    "Cast",        "CastLike",
    "IsNaN",    "IsInf",       "BatchNormalization",
    "reef.Act", "reef.Affine",
};

const reef_lower_op *reef_lower_find(const reef_node *node)
{
    static const reef_lower_op element = {"", reef_lower_elt, REEF_OP_FLEX | REEF_OP_ELT};
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (reef_node_is(node, operators[i].op)) {
            return &operators[i];
        }
    }
    for (size_t i = 0; i < sizeof element_operators / sizeof *element_operators; i++) {
        if (reef_node_is(node, element_operators[i])) {
            return &element;
        }
    }
    return NULL;
}

static unsigned flags_of(const reef_node *node)
{
    const reef_lower_op *op = node ? reef_lower_find(node) : NULL;
    return op ? op->flags : 0;
}

/* All unsupported operators in one message, each kind once with its first node. */
static reef_status check_operators(reef_lower *l)
{
    char names[400] = "";
    size_t length = 0, more = 0;
    for (size_t i = 0; i < l->graph->n_nodes; i++) {
        const reef_node *node = l->graph->nodes[i];
        bool seen = node->dead || reef_lower_find(node);
        for (size_t j = 0; j < i && !seen; j++) {
            const reef_node *other = l->graph->nodes[j];
            seen = !other->dead && !strcmp(other->op, node->op) && !strcmp(other->domain, node->domain);
        }
        if (seen) {
            continue;
        }
        const bool other_domain = node->domain[0] && strcmp(node->domain, "ai.onnx") != 0;
        const int n = snprintf(names + length, sizeof names - length, "%s%s%s%s (node '%.80s')", length ? ", " : "",
                               other_domain ? node->domain : "", other_domain ? "." : "", node->op, node->name);
        if (n < 0 || (size_t)n >= sizeof names - length - 24) {
            names[length] = 0;
            more++;
        } else {
            length += (size_t)n;
        }
    }
    if (more) {
        snprintf(names + length, sizeof names - length, "%s%zu more", length ? " and " : "", more);
    }
    return length || more ? reef_fail(l->error, REEF_UNSUPPORTED, "unsupported operators: %s", names) : REEF_OK;
}

/* ----------------------------------------------------- storage and kernels -- */

static reef_status storage_new(reef_lower *l, const reef_storage *storage, uint32_t *out)
{
    reef_plan *plan = l->plan;
    void *items = plan->storage;
    if (!reef_arena_grow(&plan->arena, &items, plan->n_storage, &l->cap_storage, sizeof *plan->storage)) {
        return reef_fail(l->error, REEF_NO_MEMORY, "out of memory for the plan");
    }
    plan->storage = items;
    plan->storage[plan->n_storage] = *storage;
    *out = (uint32_t)plan->n_storage++;
    return REEF_OK;
}

static int64_t bytes_of(reef_dtype dtype, int rank, const int64_t *dims)
{
    int64_t elems = (int64_t)reef_dtype_bytes(dtype);
    for (int d = 0; d < rank; d++) {
        elems *= dims[d];
    }
    return elems;
}

reef_status reef_lower_temp(reef_lower *l, const char *name, reef_dtype dtype, int rank, const int64_t *dims, bool nhwc,
                            reef_view *out)
{
    reef_storage storage = {
        .kind = REEF_STORAGE_ACTIVATION, .name = name, .bytes = (size_t)bytes_of(dtype, rank, dims)};
    uint32_t id;
    REEF_TRY(storage_new(l, &storage, &id));
    reef_view_dense(out, id, dtype, rank, dims, nhwc);
    return REEF_OK;
}

reef_status reef_lower_constant(reef_lower *l, const char *name, const void *data, reef_dtype dtype, int rank,
                                const int64_t *dims, reef_view *out)
{
    reef_storage storage = {
        .kind = REEF_STORAGE_CONST, .name = name, .bytes = (size_t)bytes_of(dtype, rank, dims), .data = data};
    if ((uintptr_t)data % reef_dtype_bytes(dtype)) { /* mapped from a file that aligns nothing */
        void *copy = reef_arena_alloc(&l->plan->arena, storage.bytes);
        if (!copy) {
            return reef_fail(l->error, REEF_NO_MEMORY, "out of memory for constant '%s'", name);
        }
        storage.data = memcpy(copy, data, storage.bytes);
    }
    uint32_t id;
    REEF_TRY(storage_new(l, &storage, &id));
    reef_view_dense(out, id, dtype, rank, dims, false);
    return REEF_OK;
}

reef_status reef_lower_need_f32(reef_lower *l, const reef_node *node, const reef_value *value)
{
    if (value->dtype == REEF_F32) {
        return REEF_OK;
    }
    return reef_node_fail(node, l->error, REEF_DTYPE, "'%s' is %s; only float32 is implemented here", value->name,
                          reef_dtype_name(value->dtype));
}

reef_status reef_lower_floats(reef_lower *l, const reef_node *node, const reef_value *value, const char *what,
                              const float **out)
{
    if (!value) {
        *out = NULL;
        return REEF_OK;
    }
    REEF_TRY(reef_lower_need_f32(l, node, value));
    if (!value->data) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "%s '%s' is not a constant", what, value->name);
    }
    l->plan->weight_bytes += value->bytes;
    if ((uintptr_t)value->data % sizeof(float)) {
        void *copy = reef_arena_alloc(&l->plan->arena, value->bytes);
        if (!copy) {
            return reef_fail(l->error, REEF_NO_MEMORY, "out of memory for constant '%s'", value->name);
        }
        *out = memcpy(copy, value->data, value->bytes);
    } else {
        *out = value->data;
    }
    return REEF_OK;
}

/* Useful arithmetic: what the mathematics needs, whatever a device spends. */
static double kernel_flops(const reef_kernel *k)
{
    const double out = (double)reef_view_elems(&k->y), in = k->n_in ? (double)reef_view_elems(&k->in[0]) : 0;
    switch (k->kind) {
    case REEF_K_CONV: {
        const reef_conv *c = &k->conv;
        const int64_t macs = c->channels / c->groups * c->kernel[0] * c->kernel[1];
        return out * 2 * (double)macs;
    }
    case REEF_K_CONV_TRANSPOSE: {
        const reef_conv *c = &k->conv;
        const int64_t macs = c->filters / c->groups * c->kernel[0] * c->kernel[1];
        return in * 2 * (double)macs;
    }
    case REEF_K_MATMUL: return out * 2 * (double)k->in[0].dims[k->in[0].rank - 1];
    case REEF_K_ATTENTION: return out * 4 * (double)k->in[1].dims[2];
    case REEF_K_POOL: return out * (double)(k->pool.kernel[0] * k->pool.kernel[1]);
    case REEF_K_ELTWISE: return out * k->eltwise.n_insns;
    case REEF_K_COPY:
    case REEF_K_GATHER: return 0;
    case REEF_K_REDUCE:
    case REEF_K_ARG_MAX: return in;
    case REEF_K_SOFTMAX: return out * 5;
    case REEF_K_LAYER_NORM: return out * 8;
    case REEF_K_RESIZE: return out * (k->resize.linear ? 8 : 0);
    case REEF_K_LRN: return out * (double)(k->lrn.size * 2 + 10);
    case REEF_K_SPIN:
    case REEF_KERNEL_KINDS: break;
    }
    return 0;
}

/* Each distinct element once: broadcast axes do not count. A gather touches what it returns. */
static double view_bytes(const reef_view *view)
{
    double n = (double)reef_dtype_bytes(view->dtype);
    for (int d = 0; d < view->rank; d++) {
        n *= view->stride[d] || view->dims[d] == 0 ? (double)view->dims[d] : 1;
    }
    return n;
}

static double kernel_bytes(const reef_kernel *k)
{
    double n = view_bytes(&k->y);
    for (int i = 0; i < k->n_in; i++) {
        n += k->kind == REEF_K_GATHER && i == 0 ? view_bytes(&k->y) : view_bytes(&k->in[i]);
    }
    if (k->kind == REEF_K_CONV || k->kind == REEF_K_CONV_TRANSPOSE) {
        const reef_conv *c = &k->conv;
        const int64_t weights = c->filters * (c->channels / c->groups) * c->kernel[0] * c->kernel[1];
        n += 4.0 * (double)weights;
    }
    return n;
}

reef_status reef_lower_push(reef_lower *l, const reef_node *node, reef_kernel *k)
{
    reef_plan *plan = l->plan;
    if (reef_view_elems(&k->y) == 0) {
        return REEF_OK; /* nothing to compute */
    }
    for (int i = 0; i < k->n_in; i++) {
        if (reef_view_elems(&k->in[i]) == 0 && k->kind != REEF_K_COPY) {
            return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "input '%.80s' has no elements",
                                  plan->storage[k->in[i].storage].name);
        }
    }
    if (!k->name) {
        k->name = node->name;
    }
    if (!k->ops) {
        k->ops = node->fused ? node->fused : node->op;
    }
    k->flops = kernel_flops(k);
    k->bytes = kernel_bytes(k);
    void *items = plan->kernels;
    if (!reef_arena_grow(&plan->arena, &items, plan->n_kernels, &l->cap_kernels, sizeof *plan->kernels)) {
        return reef_fail(l->error, REEF_NO_MEMORY, "out of memory for the plan");
    }
    plan->kernels = items;
    plan->kernels[plan->n_kernels++] = *k;
    return REEF_OK;
}

/* ------------------------------------------------------------------ places -- */

void reef_lower_put(reef_lower *l, const reef_value *value, const reef_view *view)
{
    reef_place *place = reef_lower_place(l, value);
    place->view = *view;
    place->set = true;
}

reef_status reef_lower_dest(reef_lower *l, const reef_value *value, reef_view *out)
{
    reef_place *place = reef_lower_place(l, value);
    if (place->has_home) {
        *out = place->home;
    } else {
        REEF_TRY(reef_lower_temp(l, value->name, value->dtype, value->rank, value->dims, place->nhwc, out));
    }
    reef_lower_put(l, value, out);
    return REEF_OK;
}

reef_status reef_lower_view(reef_lower *l, const reef_node *node, const reef_value *value, reef_view *out)
{
    reef_place *place = reef_lower_place(l, value);
    if (!place->set && value->data) {
        if (!reef_dtype_bytes(value->dtype) ||
            value->bytes != (size_t)bytes_of(value->dtype, value->rank, value->dims)) {
            return reef_node_fail(node, l->error, REEF_DTYPE, "constant '%s' has an unsupported type", value->name);
        }
        reef_view view;
        REEF_TRY(reef_lower_constant(l, value->name, value->data, value->dtype, value->rank, value->dims, &view));
        l->plan->weight_bytes += value->bytes;
        reef_lower_put(l, value, &view);
    }
    if (!place->set) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "'%s' is an output that reef does not compute",
                              value->name);
    }
    *out = place->view;
    return REEF_OK;
}

static reef_status copy_into(reef_lower *l, const reef_node *node, const reef_view *x, const reef_view *y)
{
    reef_kernel k = {.kind = REEF_K_COPY, .in = {*x}, .n_in = 1, .y = *y, .ops = "Copy"};
    return reef_lower_push(l, node, &k);
}

reef_status reef_lower_copy(reef_lower *l, const reef_node *node, const reef_view *x, bool nhwc, reef_view *out)
{
    reef_view y;
    REEF_TRY(reef_lower_temp(l, l->plan->storage[x->storage].name, x->dtype, x->rank, x->dims, nhwc, &y));
    REEF_TRY(copy_into(l, node, x, &y));
    *out = y;
    return REEF_OK;
}

reef_status reef_lower_operand(reef_lower *l, const reef_node *node, const reef_value *value, reef_need need,
                               reef_view *out)
{
    reef_view view;
    REEF_TRY(reef_lower_view(l, node, value, &view));
    reef_place *place = reef_lower_place(l, value);
    if (need == REEF_NEED_NHWC && view.rank != 4) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "'%s' has rank %d; 4 is implemented", value->name,
                              view.rank);
    }
    const bool fits = need == REEF_NEED_ANY || (need == REEF_NEED_NHWC && reef_view_unit(&view, 1)) ||
                      (need == REEF_NEED_LAST && (view.rank == 0 || reef_view_unit(&view, view.rank - 1)));
    if (!fits && place->has_copy[need]) {
        view = place->copy[need];
    } else if (!fits) {
        REEF_TRY(reef_lower_copy(l, node, &view, need == REEF_NEED_NHWC, &view));
        place = reef_lower_place(l, value);
        place->copy[need] = view;
        place->has_copy[need] = true;
    }
    *out = view;
    return REEF_OK;
}

reef_status reef_lower_fill(reef_lower *l, const reef_node *node, const reef_value *value, const reef_view *x)
{
    reef_view y, shaped;
    REEF_TRY(reef_lower_dest(l, value, &y));
    if (!reef_view_reshape(&y, x->rank, x->dims, &shaped)) {
        /* Its layout cannot say it; row major always can. */
        REEF_TRY(reef_lower_temp(l, value->name, value->dtype, value->rank, value->dims, false, &y));
        reef_lower_put(l, value, &y);
        if (!reef_view_reshape(&y, x->rank, x->dims, &shaped)) {
            shaped = y; /* no elements */
        }
    }
    reef_kernel k = {.kind = REEF_K_COPY, .in = {*x}, .n_in = 1, .y = shaped};
    return reef_lower_push(l, node, &k);
}

/* ----------------------------------------------------------------- layouts -- */

static bool follows(const reef_node *node, const reef_value *value)
{
    return value && value->rank == 4 && node->n_out && node->out[0] && node->out[0]->rank == 4;
}

static void settle_layouts(reef_lower *l)
{
    reef_graph *g = l->graph;
    for (size_t i = g->n_nodes; i-- > 0;) { /* what readers want */
        const reef_node *node = g->nodes[i];
        const unsigned flags = flags_of(node);
        if (node->dead || !node->n_out || !node->out[0]) {
            continue;
        }
        const bool wanted =
            (flags & REEF_OP_NHWC) || ((flags & REEF_OP_FLEX) && reef_lower_place(l, node->out[0])->want_nhwc);
        for (size_t j = 0; j < node->n_in && wanted; j++) {
            if (follows(node, node->in[j]) && (j == 0 || (flags & REEF_OP_FLEX))) {
                reef_lower_place(l, node->in[j])->want_nhwc = true;
            }
        }
        if (wanted && node->epilogue.residual) {
            reef_lower_place(l, node->epilogue.residual)->want_nhwc = true;
        }
    }
    for (size_t i = 0; i < g->n_nodes; i++) { /* what writers do */
        const reef_node *node = g->nodes[i];
        const unsigned flags = flags_of(node);
        if (node->dead) {
            continue;
        }
        for (size_t j = 0; j < node->n_out; j++) {
            reef_value *out = node->out[j];
            if (!out || out->rank != 4) {
                continue;
            }
            reef_place *place = reef_lower_place(l, out);
            place->nhwc = (flags & REEF_OP_NHWC) || (!(flags & REEF_OP_LAST) && place->want_nhwc);
            for (size_t m = 0; m < node->n_in && (flags & REEF_OP_FLEX); m++) {
                const reef_value *in = node->in[m];
                place->nhwc |= in && in->rank == 4 && reef_value_elems(in) == reef_value_elems(out) &&
                               reef_lower_place(l, in)->nhwc;
                place->nhwc |= in && in->rank == 4 && reef_node_is(node, "Concat") && reef_lower_place(l, in)->nhwc;
            }
        }
    }
}

/* ------------------------------------------------------------------- homes -- */

/* May the kernel that makes `value` write through `view`? */
static bool can_write(reef_lower *l, const reef_value *value, const reef_view *view)
{
    const unsigned flags = flags_of(value->producer);
    if (flags & REEF_OP_NHWC) {
        return view->rank == 4 && (view->dims[1] == 1 || view->stride[1] == 1);
    }
    if (flags & REEF_OP_LAST) {
        return view->rank > 0 && (view->dims[view->rank - 1] == 1 || view->stride[view->rank - 1] == 1);
    }
    if ((flags & REEF_OP_ELT) && reef_lower_place(l, value)->root != value->producer) {
        return false; /* part of a later kernel; has no place at all */
    }
    /* The rest writes anything, but a layout that other readers do not expect would cost them a copy. */
    if (value->uses > 1 && view->rank == 4) {
        return reef_lower_place(l, value)->nhwc ? view->dims[1] == 1 || view->stride[1] == 1
                                                : view->dims[3] == 1 || view->stride[3] == 1;
    }
    return true;
}

static bool give_home(reef_lower *l, const reef_value *value, const reef_view *view)
{
    reef_view at = *view;
    for (int depth = 0; depth < 64; depth++) {
        reef_place *place = reef_lower_place(l, value);
        const reef_node *node = value->producer;
        if (!node || value->data || place->has_home || value != node->out[0] || reef_view_elems(&at) == 0) {
            return false;
        }
        const bool alone = reef_node_is(node, "Concat") && node->n_in == 1;
        if (!(flags_of(node) & REEF_OP_VIEW) && !alone) {
            if (!can_write(l, value, &at)) {
                return false;
            }
            place->home = at;
            place->has_home = true;
            if (flags_of(node) & REEF_OP_NHWC) {
                reef_view_unit(&place->home, 1);
            } else if (flags_of(node) & REEF_OP_LAST) {
                reef_view_unit(&place->home, at.rank - 1);
            }
            return true;
        }
        if (!node->in[0] || node->in[0]->uses != 1 || !reef_lower_inverse(node, &at, &at)) {
            return false;
        }
        value = node->in[0];
    }
    return false;
}

/* Are all pieces at home side by side, in order? Then the concatenation already has its place. */
static bool side_by_side(reef_lower *l, const reef_node *node, int axis, reef_view *out)
{
    reef_view all = {0};
    int64_t at = 0;
    for (size_t i = 0; i < node->n_in; i++) {
        const reef_place *place = reef_lower_place(l, node->in[i]);
        if (!place->has_home) {
            return false;
        }
        if (i == 0) {
            all = place->home;
        }
        reef_view expected = all;
        expected.dims[axis] = node->in[i]->dims[axis];
        expected.offset += at * all.stride[axis];
        if (all.dims[axis] == 1 || !reef_view_same(&expected, &place->home)) {
            return false;
        }
        at += node->in[i]->dims[axis];
    }
    all.dims[axis] = at;
    *out = all;
    return true;
}

static reef_status home_concat(reef_lower *l, const reef_node *node)
{
    const reef_value *y = node->out[0];
    reef_place *place = reef_lower_place(l, y);
    reef_view all;
    int axis;
    REEF_TRY(reef_axis_resolve(node, "axis", 1, y->rank, &axis, l->error));
    if (node->n_in < 2 || reef_value_elems(y) == 0) {
        return REEF_OK;
    }
    if (!place->has_home) {
        if (side_by_side(l, node, axis, &all)) {
            place->home = all;
            place->has_home = true;
            return REEF_OK;
        }
        REEF_TRY(reef_lower_temp(l, y->name, y->dtype, y->rank, y->dims, place->nhwc, &place->home));
        place->has_home = true;
    }
    int64_t at = 0;
    for (size_t i = 0; i < node->n_in; i++) {
        reef_view slice;
        reef_view_slice(&place->home, axis, at, 1, node->in[i]->dims[axis], &slice);
        give_home(l, node->in[i], &slice);
        at += node->in[i]->dims[axis];
    }
    return REEF_OK;
}

/* A reshape that is no view of its input's natural layout: ask the input's kernel to write in the reshaped order. */
static reef_status home_reshape(reef_lower *l, const reef_node *node)
{
    const reef_value *y = node->out[0], *source = y;
    reef_place *place = reef_lower_place(l, y);
    const reef_node *chain[16];
    int n = 0;
    if (place->has_home || y->data) {
        return REEF_OK;
    }
    while (source->producer && (flags_of(source->producer) & REEF_OP_VIEW) && n < 16) {
        chain[n++] = source->producer;
        source = source->producer->in[0];
        if (!source || source->uses != 1) {
            return REEF_OK;
        }
    }
    const unsigned flags = flags_of(source->producer);
    if (!source->producer || !(flags & (REEF_OP_LAST | REEF_OP_ELT)) || reef_lower_place(l, source)->has_home) {
        return REEF_OK;
    }
    /* Forwards first. Nothing is to be gained where it works. */
    reef_view at, next;
    reef_view_dense(&at, 0, source->dtype, source->rank, source->dims, reef_lower_place(l, source)->nhwc);
    bool works = true;
    for (int i = n - 1; i >= 0 && works; i--) {
        int perm[REEF_MAX_RANK];
        if (reef_node_is(chain[i], "Transpose")) {
            REEF_TRY(reef_perm_resolve(chain[i], perm, l->error));
            reef_view_permute(&at, perm, &next);
        } else if (flags_of(chain[i]) & REEF_OP_FLEX) {
            return REEF_OK; /* slices and the like */
        } else {
            works = reef_view_reshape(&at, chain[i]->out[0]->rank, chain[i]->out[0]->dims, &next);
        }
        at = next;
    }
    if (works) {
        return REEF_OK;
    }
    reef_view_dense(&at, 0, y->dtype, y->rank, y->dims, place->nhwc);
    for (int i = 0; i < n; i++) {
        if (!reef_lower_inverse(chain[i], &at, &at)) {
            return REEF_OK;
        }
    }
    if (!can_write(l, source, &at)) {
        return REEF_OK;
    }
    REEF_TRY(reef_lower_temp(l, y->name, y->dtype, y->rank, y->dims, place->nhwc, &next));
    at.storage = next.storage;
    reef_place *origin = reef_lower_place(l, source);
    origin->home = at;
    origin->has_home = true;
    if (flags & REEF_OP_LAST) {
        reef_view_unit(&origin->home, at.rank - 1);
    }
    return REEF_OK;
}

static reef_status give_homes(reef_lower *l)
{
    reef_graph *g = l->graph;
    for (size_t i = 0; i < g->n_outputs; i++) {
        const reef_value *value = g->outputs[i];
        reef_view view;
        reef_view_dense(&view, l->plan->outputs[i].storage, value->dtype, value->rank, value->dims, false);
        if (reef_view_elems(&view) > 0) {
            give_home(l, value, &view);
        }
    }
    for (size_t i = g->n_nodes; i-- > 0;) {
        const reef_node *node = g->nodes[i];
        if (node->dead) {
            continue;
        }
        if (reef_node_is(node, "Concat")) {
            REEF_TRY(home_concat(l, node));
        } else if (reef_node_is(node, "Reshape") || reef_node_is(node, "Flatten")) {
            REEF_TRY(home_reshape(l, node));
        }
    }
    return REEF_OK;
}

/* -------------------------------------------------------------- the driver -- */

static reef_status make_io(reef_lower *l)
{
    reef_graph *g = l->graph;
    reef_plan *plan = l->plan;
    plan->inputs = reef_arena_array(&plan->arena, g->n_inputs + 1, sizeof *plan->inputs);
    plan->outputs = reef_arena_array(&plan->arena, g->n_outputs + 1, sizeof *plan->outputs);
    if (!plan->inputs || !plan->outputs) {
        return reef_fail(l->error, REEF_NO_MEMORY, "out of memory for the plan");
    }
    for (size_t i = 0; i < g->n_inputs + g->n_outputs; i++) {
        const bool input = i < g->n_inputs;
        const uint32_t index = (uint32_t)(input ? i : i - g->n_inputs);
        const reef_value *value = input ? g->inputs[index] : g->outputs[index];
        reef_plan_io *io = input ? &plan->inputs[index] : &plan->outputs[index];
        if (!reef_dtype_bytes(value->dtype)) {
            return reef_fail(l->error, REEF_DTYPE, "%s '%s' has an unsupported element type",
                             input ? "input" : "output", value->name);
        }
        *io = (reef_plan_io){.name = value->name, .dtype = value->dtype, .rank = value->rank};
        memcpy(io->dims, value->dims, sizeof io->dims);
        io->bytes = (size_t)bytes_of(value->dtype, value->rank, value->dims);
        const reef_storage storage = {.kind = input ? REEF_STORAGE_INPUT : REEF_STORAGE_OUTPUT,
                                      .name = value->name,
                                      .bytes = io->bytes,
                                      .index = index};
        REEF_TRY(storage_new(l, &storage, &io->storage));
        if (input) {
            reef_view view;
            reef_view_dense(&view, io->storage, value->dtype, value->rank, value->dims, false);
            reef_lower_put(l, value, &view);
        }
    }
    plan->n_inputs = g->n_inputs;
    plan->n_outputs = g->n_outputs;
    return REEF_OK;
}

static reef_status write_outputs(reef_lower *l)
{
    static const reef_node outside = {.op = "Output", .domain = "", .name = "output"};
    for (size_t i = 0; i < l->graph->n_outputs; i++) {
        const reef_value *value = l->graph->outputs[i];
        reef_view y, at;
        reef_view_dense(&y, l->plan->outputs[i].storage, value->dtype, value->rank, value->dims, false);
        REEF_TRY(reef_lower_view(l, value->producer ? value->producer : &outside, value, &at));
        if (!reef_view_same(&at, &y)) {
            reef_kernel k = {.kind = REEF_K_COPY, .in = {at}, .n_in = 1, .y = y, .name = value->name, .ops = "Copy"};
            REEF_TRY(reef_lower_push(l, &outside, &k));
        }
    }
    return REEF_OK;
}

static uint64_t plan_hash(const reef_graph *g)
{
    uint64_t hash = XXH3_64bits_withSeed(&g->content_hash, sizeof g->content_hash, 0x72656566);
    for (size_t i = 0; i < g->n_inputs; i++) {
        const reef_value *in = g->inputs[i];
        hash = XXH3_64bits_withSeed(in->dims, sizeof *in->dims * (size_t)in->rank, hash + (uint64_t)in->rank);
    }
    return hash;
}

/* Whether everything that node makes is empty. Then its values get a place, and operators need not care. */
static reef_status lower_empty(reef_lower *l, const reef_node *node, bool *empty)
{
    *empty = false;
    for (size_t i = 0; i < node->n_out; i++) {
        const reef_value *out = node->out[i];
        if (out && (out->rank < 0 || !reef_dtype_bytes(out->dtype) || reef_value_elems(out) != 0)) {
            return REEF_OK;
        }
    }
    for (size_t i = 0; i < node->n_out; i++) {
        if (node->out[i]) {
            reef_view view;
            REEF_TRY(reef_lower_dest(l, node->out[i], &view));
        }
    }
    *empty = true;
    return REEF_OK;
}

static reef_status lower_all(reef_lower *l)
{
    REEF_TRY(check_operators(l));
    REEF_TRY(make_io(l));
    settle_layouts(l);
    reef_lower_group(l);
    REEF_TRY(give_homes(l));
    for (size_t i = 0; i < l->graph->n_nodes; i++) {
        const reef_node *node = l->graph->nodes[i];
        bool empty = false;
        if (!node->dead) {
            REEF_TRY(lower_empty(l, node, &empty));
            REEF_TRY(empty ? REEF_OK : reef_lower_find(node)->fn(l, node));
        }
    }
    return write_outputs(l);
}

reef_status reef_plan_create(reef_graph *graph, reef_plan **out, reef_error *error)
{
    reef_lower l = {.graph = graph, .error = error};
    l.plan = calloc(1, sizeof *l.plan);
    l.places = calloc(graph->n_values + 1, sizeof *l.places);
    reef_status status = l.plan && l.places ? lower_all(&l) : reef_fail(error, REEF_NO_MEMORY, "out of memory");
    if (!status) {
        status = reef_plan_memory(l.plan, error);
    }
    free(l.places);
    if (status) {
        reef_plan_destroy(l.plan); /* the graph stays the caller's: plan->graph is not set yet */
        return status;
    }
    l.plan->hash = plan_hash(graph);
    l.plan->graph = graph;
    reef_plan_validate(l.plan);
    *out = l.plan;
    return REEF_OK;
}
