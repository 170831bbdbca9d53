/*
 * lower_matrix.c - products, attention, and what runs along axes: reductions, softmax, normalisation, gathers.
 */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "model/lower.h"

/* ---------------------------------------------------------------- products -- */

static bool one_batch(const reef_view *v)
{
    for (int d = 0; d < v->rank - 2; d++) {
        if (v->dims[d] != 1 && v->stride[d] != 0) {
            return false;
        }
    }
    return true;
}

/* (batch..., M, K) x one (K, N): all rows are one long M, if strides allow. */
static void flatten_rows(reef_kernel *k)
{
    reef_view a, b = k->in[1], y, r;
    const int rank = k->y.rank;
    if (rank == 2 || !one_batch(&b)) {
        return;
    }
    const int64_t n = k->y.dims[rank - 1], depth = k->in[0].dims[rank - 1];
    int64_t rows = 1;
    for (int d = 0; d < rank - 1; d++) {
        rows *= k->y.dims[d];
    }
    b.dims[0] = b.dims[rank - 2], b.stride[0] = b.stride[rank - 2];
    b.dims[1] = b.dims[rank - 1], b.stride[1] = b.stride[rank - 1];
    b.rank = 2;
    if (reef_view_reshape(&k->in[0], 2, (int64_t[]){rows, depth}, &a) &&
        reef_view_reshape(&k->y, 2, (int64_t[]){rows, n}, &y) &&
        (!k->matmul.has_residual || reef_view_reshape(&k->in[2], 2, (int64_t[]){rows, n}, &r))) {
        k->in[0] = a;
        k->in[1] = b;
        k->y = y;
        if (k->matmul.has_residual) {
            k->in[2] = r;
        }
    }
}

static void unit_edges(reef_kernel *k)
{
    reef_view_unit(&k->in[0], k->in[0].rank - 1);
    reef_view_unit(&k->y, k->y.rank - 1);
    if (k->matmul.has_residual) {
        reef_view_unit(&k->in[2], k->in[2].rank - 1);
    }
}

static void set_epilogue(reef_kernel *k, const reef_node *node)
{
    k->matmul.act = node->epilogue.act;
    k->matmul.act_a = node->epilogue.a;
    k->matmul.act_b = node->epilogue.b;
    k->matmul.bias = node->epilogue.bias;
}

reef_status reef_lower_matmul(reef_lower *l, const reef_node *node)
{
    const reef_value *out = node->out[0];
    reef_kernel k = {.kind = REEF_K_MATMUL, .n_in = 2, .matmul = {.alpha = 1}};
    reef_view a, b, y;
    REEF_TRY(reef_lower_need_f32(l, node, node->in[0]));
    REEF_TRY(reef_lower_need_f32(l, node, node->in[1]));
    if (reef_value_elems(node->in[0]) == 0 || reef_value_elems(node->in[1]) == 0) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "input '%.80s' has no elements",
                              node->in[reef_value_elems(node->in[0]) != 0]->name);
    }
    REEF_TRY(reef_lower_view(l, node, node->in[1], &b));
    if (node->in[0]->rank > 1) {
        REEF_TRY(reef_lower_operand(l, node, node->in[0], REEF_NEED_LAST, &a));
    } else {
        REEF_TRY(reef_lower_view(l, node, node->in[0], &a));
    }
    REEF_TRY(reef_lower_dest(l, out, &y));
    /* A vector is a matrix of one row (a) or one column (b), and the axis goes again. */
    int rank = out->rank + (a.rank == 1) + (b.rank == 1);
    if (rank > REEF_MAX_RANK || rank < 2) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "rank %d", rank);
    }
    int64_t dims[REEF_MAX_RANK], a_dims[REEF_MAX_RANK], b_dims[REEF_MAX_RANK];
    memcpy(dims, out->dims, sizeof dims);
    const int64_t depth = a.dims[a.rank - 1];
    if (a.rank == 1) {
        const int64_t n = out->rank ? out->dims[out->rank - 1] : 1;
        dims[rank - 2] = 1;
        dims[rank - 1] = b.rank == 1 ? 1 : n;
        REEF_TRY(reef_view_reshape(&a, 2, (int64_t[]){1, depth}, &a) ? REEF_OK : REEF_INTERNAL);
        if (!reef_view_unit(&a, 1)) {
            REEF_TRY(reef_lower_copy(l, node, &a, false, &a));
        }
    }
    if (b.rank == 1) {
        dims[rank - 1] = 1;
        REEF_TRY(reef_view_reshape(&b, 2, (int64_t[]){depth, 1}, &b) ? REEF_OK : REEF_INTERNAL);
    }
    memcpy(a_dims, dims, sizeof dims);
    memcpy(b_dims, dims, sizeof dims);
    a_dims[rank - 1] = b_dims[rank - 2] = depth;
    if (!reef_view_expand(&a, rank, a_dims, &k.in[0]) || !reef_view_expand(&b, rank, b_dims, &k.in[1]) ||
        !reef_view_reshape(&y, rank, dims, &k.y)) {
        return reef_node_fail(node, l->error, REEF_SHAPE, "operands do not fit");
    }
    k.in[0].stride[rank - 2] = a.stride[a.rank - 2]; /* not a broadcast, even with one row */
    k.in[1].stride[rank - 1] = b.stride[b.rank - 1];
    k.in[1].stride[rank - 2] = b.stride[b.rank - 2];
    set_epilogue(&k, node);
    if (node->epilogue.residual) {
        reef_view r;
        REEF_TRY(reef_lower_operand(l, node, node->epilogue.residual, REEF_NEED_LAST, &r));
        if (!reef_view_reshape(&r, rank, dims, &k.in[2])) {
            return reef_node_fail(node, l->error, REEF_INTERNAL, "residual does not fit");
        }
        k.matmul.has_residual = true;
        k.n_in = 3;
    }
    k.matmul.b_const = l->plan->storage[k.in[1].storage].kind == REEF_STORAGE_CONST && one_batch(&k.in[1]);
    unit_edges(&k);
    flatten_rows(&k);
    unit_edges(&k);
    return reef_lower_push(l, node, &k);
}

/* C of a Gemm that fusion left: one per column becomes the bias, anything else is expanded to a residual. */
static reef_status gemm_c(reef_lower *l, const reef_node *node, reef_kernel *k)
{
    const reef_value *c = reef_node_in(node, 2), *out = node->out[0];
    const float beta = reef_node_attr_float(node, "beta", 1);
    if (!c || beta == 0) {
        return REEF_OK;
    }
    REEF_TRY(reef_lower_need_f32(l, node, c));
    const int64_t n = out->dims[1], elems = reef_value_elems(c);
    if (node->epilogue.bias || node->epilogue.residual) {
        return reef_node_fail(node, l->error, REEF_INTERNAL, "C and a fused epilogue");
    }
    if (c->data && (elems == 1 || (elems == n && c->dims[c->rank - 1] == n))) {
        float *bias = reef_arena_array(&l->plan->arena, (size_t)n, sizeof *bias);
        if (!bias) {
            return reef_fail(l->error, REEF_NO_MEMORY, "out of memory");
        }
        for (int64_t i = 0; i < n; i++) {
            bias[i] = beta * (float)reef_value_number(c, elems == 1 ? 0 : i);
        }
        k->matmul.bias = bias;
        return REEF_OK;
    }
    reef_view r;
    REEF_TRY(reef_lower_view(l, node, c, &r));
    if (!reef_view_expand(&r, 2, out->dims, &r)) {
        return reef_node_fail(node, l->error, REEF_SHAPE, "C does not broadcast to the output");
    }
    if (beta != 1) {
        reef_kernel scale = {.kind = REEF_K_ELTWISE, .in = {r}, .n_in = 1, .ops = "Mul"};
        scale.eltwise =
            (reef_eltwise){.n_insns = 2,
                           .result = 2,
                           .insns = {{.op = REEF_ELT_CONST, .type = REEF_F32, .dst = 1, .imm = (double)beta},
                                     {.op = REEF_ELT_MUL, .type = REEF_F32, .dst = 2, .a = 0, .b = 1}}};
        REEF_TRY(reef_lower_temp(l, c->name, REEF_F32, 2, out->dims, false, &scale.y));
        REEF_TRY(reef_lower_push(l, node, &scale));
        r = scale.y;
    } else if (!reef_view_unit(&r, 1)) {
        REEF_TRY(reef_lower_copy(l, node, &r, false, &r));
    }
    k->in[2] = r;
    k->n_in = 3;
    k->matmul.has_residual = true;
    return REEF_OK;
}

reef_status reef_lower_gemm(reef_lower *l, const reef_node *node)
{
    static const int swap[] = {1, 0};
    reef_kernel k = {.kind = REEF_K_MATMUL, .n_in = 2};
    REEF_TRY(reef_lower_need_f32(l, node, node->in[0]));
    REEF_TRY(reef_lower_need_f32(l, node, node->in[1]));
    REEF_TRY(reef_lower_view(l, node, node->in[0], &k.in[0]));
    REEF_TRY(reef_lower_view(l, node, node->in[1], &k.in[1]));
    if (reef_node_attr_int(node, "transA", 0)) {
        reef_view_permute(&k.in[0], swap, &k.in[0]);
    }
    if (reef_node_attr_int(node, "transB", 0)) {
        reef_view_permute(&k.in[1], swap, &k.in[1]);
    }
    if (!reef_view_unit(&k.in[0], 1)) {
        REEF_TRY(reef_lower_copy(l, node, &k.in[0], false, &k.in[0]));
    }
    k.matmul.alpha = reef_node_attr_float(node, "alpha", 1);
    k.matmul.b_const = l->plan->storage[k.in[1].storage].kind == REEF_STORAGE_CONST;
    set_epilogue(&k, node);
    if (node->epilogue.residual) {
        REEF_TRY(reef_lower_operand(l, node, node->epilogue.residual, REEF_NEED_LAST, &k.in[2]));
        k.matmul.has_residual = true;
        k.n_in = 3;
    }
    REEF_TRY(gemm_c(l, node, &k));
    REEF_TRY(reef_lower_dest(l, node->out[0], &k.y));
    unit_edges(&k);
    return reef_lower_push(l, node, &k);
}

/* in: Q, K, V and a mask (may be NULL), of rank 3 or 4 without or with heads. */
reef_status reef_lower_attention(reef_lower *l, const reef_node *node)
{
    reef_kernel k = {.kind = REEF_K_ATTENTION, .n_in = 3};
    k.attention.scale = reef_node_attr_float(node, "scale", 1);
    k.attention.nan_rows = reef_node_attr_int(node, "nan_rows", 0) != 0;
    for (size_t i = 0; i < 3; i++) {
        reef_view v;
        REEF_TRY(reef_lower_need_f32(l, node, node->in[i]));
        REEF_TRY(reef_lower_operand(l, node, node->in[i], i == 1 ? REEF_NEED_ANY : REEF_NEED_LAST, &v));
        k.in[i] = v;
    }
    REEF_TRY(reef_lower_dest(l, node->out[0], &k.y));
    const reef_value *mask = reef_node_in(node, 3);
    if (mask) {
        reef_view v;
        int64_t dims[4];
        const int rank = k.y.rank;
        memcpy(dims, k.y.dims, sizeof *dims * (size_t)rank);
        dims[rank - 1] = k.in[1].dims[rank - 2];
        REEF_TRY(reef_lower_view(l, node, mask, &v));
        if (!reef_view_expand(&v, rank, dims, &k.in[3])) {
            return reef_node_fail(node, l->error, REEF_SHAPE, "the mask does not broadcast to the scores");
        }
        k.attention.has_mask = true;
        k.n_in = 4;
    }
    for (int i = 0; i <= k.n_in; i++) {
        reef_view *v = i == k.n_in ? &k.y : &k.in[i];
        if (v->rank == 3) {
            for (int d = 3; d > 0; d--) {
                v->dims[d] = v->dims[d - 1];
                v->stride[d] = v->stride[d - 1];
            }
            v->dims[0] = 1;
            v->stride[0] = 0;
            v->rank = 4;
        }
        if (i != 3 || i == k.n_in) {
            reef_view_unit(v, 3);
        }
    }
    return reef_lower_push(l, node, &k);
}

/* ------------------------------------------------------------- element glue -- */

typedef struct glue {
    reef_kernel k;
    uint8_t next;
} glue;

static uint8_t glue_insn(glue *g, reef_elt_op op, uint8_t a, uint8_t b, uint8_t c, double imm)
{
    g->k.eltwise.insns[g->k.eltwise.n_insns++] =
        (reef_elt_insn){.op = (uint8_t)op, .type = REEF_F32, .dst = g->next, .a = a, .b = b, .c = c, .imm = imm};
    g->k.eltwise.result = g->next;
    return g->next++;
}

/* A float element kernel over `n` inputs broadcast to y. */
static bool glue_start(glue *g, const char *ops, const reef_view *y, int n, const reef_view *const *in)
{
    *g = (glue){.k = {.kind = REEF_K_ELTWISE, .ops = ops, .n_in = n, .y = *y}, .next = (uint8_t)n};
    for (int i = 0; i < n; i++) {
        if (!reef_view_expand(in[i], y->rank, y->dims, &g->k.in[i])) {
            return false;
        }
    }
    return true;
}

/* --------------------------------------------------------------- normalise -- */

reef_status reef_lower_layer_norm(reef_lower *l, const reef_node *node)
{
    const reef_value *x = node->in[0], *out = node->out[0], *scale = reef_node_in(node, 1),
                     *bias = reef_node_in(node, 2);
    const bool fused = reef_node_is(node, "reef.LayerNorm");
    int axis = x->rank - 1;
    reef_kernel k = {.kind = REEF_K_LAYER_NORM, .n_in = 1};
    REEF_TRY(reef_lower_need_f32(l, node, x));
    if (!fused) {
        REEF_TRY(reef_axis_resolve(node, "axis", -1, x->rank, &axis, l->error));
        for (size_t i = 1; i < node->n_out; i++) {
            if (node->out[i] && node->out[i]->uses) {
                return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "the statistics outputs are not implemented");
            }
        }
    }
    int64_t rows = 1, c = 1;
    for (int d = 0; d < x->rank; d++) {
        *(d < axis ? &rows : &c) *= x->dims[d];
    }
    k.layer_norm.epsilon = reef_node_attr_float(node, "epsilon", 1e-5f);
    REEF_TRY(reef_lower_operand(l, node, x, REEF_NEED_LAST, &k.in[0]));
    if (fused && reef_node_in(node, 3)) {
        REEF_TRY(reef_lower_operand(l, node, node->in[3], REEF_NEED_LAST, &k.in[1]));
        k.layer_norm.has_residual = true;
        k.n_in = 2;
    }
    const reef_value *const both[2] = {scale, bias};
    const float **const into[2] = {&k.layer_norm.scale, &k.layer_norm.bias};
    for (int i = 0; i < 2; i++) {
        if (both[i] && (!both[i]->data || reef_value_elems(both[i]) != c)) {
            return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "'%s' is not a constant of %lld elements",
                                  both[i]->name, (long long)c);
        }
        REEF_TRY(reef_lower_floats(l, node, both[i], "scale or bias", into[i]));
    }
    REEF_TRY(reef_lower_dest(l, out, &k.y));
    if (axis != x->rank - 1) { /* several axes: one long one */
        const int64_t dims[2] = {rows, c};
        reef_view v;
        if (!reef_view_reshape(&k.in[0], 2, dims, &v)) {
            REEF_TRY(reef_lower_copy(l, node, &k.in[0], false, &k.in[0]));
            reef_view_reshape(&k.in[0], 2, dims, &v);
        }
        k.in[0] = v;
        if (!reef_view_reshape(&k.y, 2, dims, &v)) {
            REEF_TRY(reef_lower_temp(l, out->name, out->dtype, out->rank, out->dims, false, &k.y));
            reef_lower_put(l, out, &k.y);
            reef_view_reshape(&k.y, 2, dims, &v);
        }
        k.y = v;
    }
    for (int i = 0; i < k.n_in; i++) {
        reef_view_unit(&k.in[i], k.in[i].rank - 1);
    }
    reef_view_unit(&k.y, k.y.rank - 1);
    return reef_lower_push(l, node, &k);
}

/* InstanceNormalization is GroupNormalization with a group per channel: mean, variance, then one element kernel. */
reef_status reef_lower_group_norm(reef_lower *l, const reef_node *node)
{
    const reef_value *value = node->in[0], *out = node->out[0];
    const bool instance = reef_node_is(node, "InstanceNormalization");
    const int64_t channels = value->dims[1], groups = instance ? channels : reef_node_attr_int(node, "num_groups", 0);
    reef_view x, y, scale, bias, mean, square, variance;
    glue g;
    REEF_TRY(reef_lower_need_f32(l, node, value));
    if (value->rank < 3 || groups < 1 || channels % groups || value->rank + 1 > REEF_MAX_RANK) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "rank %d with %lld groups", value->rank,
                              (long long)groups);
    }
    REEF_TRY(reef_lower_view(l, node, value, &x));
    REEF_TRY(reef_lower_dest(l, out, &y));
    REEF_TRY(reef_lower_view(l, node, node->in[1], &scale));
    REEF_TRY(reef_lower_view(l, node, node->in[2], &bias));
    /* (N,C,...) as (N,G,C/G,...), so that a group is a run of axes. Splitting an axis is always a view. */
    int64_t dims[REEF_MAX_RANK] = {value->dims[0], groups, channels / groups}, stat[REEF_MAX_RANK];
    const int rank = value->rank + 1;
    for (int d = 0; d < rank; d++) {
        dims[d] = d > 2 ? value->dims[d - 1] : dims[d];
        stat[d] = d < 2 ? dims[d] : 1;
    }
    if (!reef_view_reshape(&x, rank, dims, &x)) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "input layout");
    }
    if (!reef_view_reshape(&y, rank, dims, &y)) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "output layout");
    }
    reef_view *const params[2] = {&scale, &bias};
    for (int i = 0; i < 2; i++) { /* per channel, or (opset 18) per group */
        const int64_t n = reef_view_elems(params[i]);
        int64_t p[REEF_MAX_RANK] = {1, n == channels || n == groups ? groups : 0,
                                    n == channels ? channels / groups : 1};
        for (int d = 3; d < rank; d++) {
            p[d] = 1;
        }
        if (!reef_view_reshape(params[i], rank, p, params[i])) {
            return reef_node_fail(node, l->error, REEF_SHAPE, "scale or bias has %lld elements", (long long)n);
        }
    }
    reef_kernel reduce = {.kind = REEF_K_REDUCE, .n_in = 1, .in = {x}, .reduce = {.kind = REEF_REDUCE_MEAN}};
    for (int d = 2; d < rank; d++) {
        reduce.reduce.axis[d] = true;
    }
    REEF_TRY(reef_lower_temp(l, out->name, REEF_F32, rank, stat, false, &mean));
    reduce.y = mean;
    REEF_TRY(reef_lower_push(l, node, &reduce));
    REEF_TRY(
        reef_lower_temp(l, out->name, REEF_F32, value->rank, value->dims, reef_lower_place(l, out)->nhwc, &square));
    reef_view_reshape(&square, rank, dims, &square);
    glue_start(&g, "Sub+Mul", &square, 2, (const reef_view *const[]){&x, &mean});
    const uint8_t d0 = glue_insn(&g, REEF_ELT_SUB, 0, 1, 0, 0);
    glue_insn(&g, REEF_ELT_MUL, d0, d0, 0, 0);
    REEF_TRY(reef_lower_push(l, node, &g.k));
    REEF_TRY(reef_lower_temp(l, out->name, REEF_F32, rank, stat, false, &variance));
    reduce.in[0] = square;
    reduce.y = variance;
    REEF_TRY(reef_lower_push(l, node, &reduce));
    if (!glue_start(&g, NULL, &y, 5, (const reef_view *const[]){&x, &mean, &variance, &scale, &bias})) {
        return reef_node_fail(node, l->error, REEF_SHAPE, "scale or bias does not fit");
    }
    const uint8_t centred = glue_insn(&g, REEF_ELT_SUB, 0, 1, 0, 0);
    const uint8_t eps = glue_insn(&g, REEF_ELT_CONST, 0, 0, 0, (double)reef_node_attr_float(node, "epsilon", 1e-5f));
    const uint8_t deviation = glue_insn(&g, REEF_ELT_SQRT, glue_insn(&g, REEF_ELT_ADD, 2, eps, 0, 0), 0, 0, 0);
    glue_insn(&g, REEF_ELT_FMA, glue_insn(&g, REEF_ELT_DIV, centred, deviation, 0, 0), 3, 4, 0);
    return reef_lower_push(l, node, &g.k);
}

reef_status reef_lower_softmax(reef_lower *l, const reef_node *node)
{
    const reef_value *x = node->in[0], *out = node->out[0];
    const bool flatten = node->opset < 13; /* over all axes from `axis` on */
    reef_kernel k = {.kind = REEF_K_SOFTMAX, .n_in = 1};
    int axis, wide = 0;
    k.softmax.log = reef_node_is(node, "LogSoftmax");
    REEF_TRY(reef_lower_need_f32(l, node, x));
    REEF_TRY(reef_axis_resolve(node, "axis", flatten ? 1 : -1, x->rank, &axis, l->error));
    REEF_TRY(reef_lower_view(l, node, x, &k.in[0]));
    REEF_TRY(reef_lower_dest(l, out, &k.y));
    if (x->rank == 0) {
        k.in[0].rank = k.y.rank = 1;
        k.in[0].dims[0] = k.y.dims[0] = 1;
    }
    if (flatten) {
        int only = axis;
        for (int d = axis; d < x->rank; d++) {
            wide += x->dims[d] != 1;
            only = x->dims[d] != 1 ? d : only;
        }
        axis = wide < 2 ? only : axis;
    }
    k.softmax.axis = axis;
    if (wide > 1) {
        int64_t dims[2] = {1, 1};
        reef_view v;
        for (int d = 0; d < x->rank; d++) {
            dims[d >= axis] *= x->dims[d];
        }
        if (!reef_view_reshape(&k.in[0], 2, dims, &v)) {
            REEF_TRY(reef_lower_copy(l, node, &k.in[0], false, &k.in[0]));
            reef_view_reshape(&k.in[0], 2, dims, &v);
        }
        k.in[0] = v;
        if (!reef_view_reshape(&k.y, 2, dims, &v)) {
            REEF_TRY(reef_lower_temp(l, out->name, out->dtype, out->rank, out->dims, false, &k.y));
            reef_lower_put(l, out, &k.y);
            reef_view_reshape(&k.y, 2, dims, &v);
        }
        k.y = v;
        k.softmax.axis = 1;
    }
    return reef_lower_push(l, node, &k);
}

/* --------------------------------------------------------------- reductions -- */

/* Emits a reduction of x over the masked axes into value (which may have dropped them). */
static reef_status reduce_into(reef_lower *l, const reef_node *node, reef_reduce_kind kind,
                               const bool mask[REEF_MAX_RANK])
{
    const reef_value *out = node->out[0];
    reef_kernel k = {.kind = REEF_K_REDUCE, .n_in = 1, .reduce = {.kind = kind}};
    reef_view y;
    int64_t dims[REEF_MAX_RANK];
    if (node->in[0]->dtype != REEF_I64) {
        REEF_TRY(reef_lower_need_f32(l, node, node->in[0]));
    }
    REEF_TRY(reef_lower_view(l, node, node->in[0], &k.in[0]));
    REEF_TRY(reef_lower_dest(l, out, &y));
    for (int d = 0; d < k.in[0].rank; d++) {
        k.reduce.axis[d] = mask[d];
        dims[d] = mask[d] ? 1 : k.in[0].dims[d];
    }
    if (!reef_view_reshape(&y, k.in[0].rank, dims, &k.y)) {
        return reef_node_fail(node, l->error, REEF_INTERNAL, "reduced shape");
    }
    return reef_lower_push(l, node, &k);
}

reef_status reef_lower_reduce(reef_lower *l, const reef_node *node)
{
    static const struct {
        const char *op;
        reef_reduce_kind kind;
    } kinds[] = {{"ReduceSum", REEF_REDUCE_SUM},
                 {"ReduceMean", REEF_REDUCE_MEAN},
                 {"ReduceMax", REEF_REDUCE_MAX},
                 {"ReduceMin", REEF_REDUCE_MIN},
                 {"ReduceProd", REEF_REDUCE_PROD},
                 {"ReduceL1", REEF_REDUCE_L1},
                 {"ReduceL2", REEF_REDUCE_L2},
                 {"ReduceSumSquare", REEF_REDUCE_SUM_SQUARE},
                 {"ReduceLogSumExp", REEF_REDUCE_LOG_SUM_EXP}};
    bool mask[REEF_MAX_RANK], keep;
    REEF_TRY(reef_reduce_resolve(node, mask, &keep, l->error));
    size_t i = 0;
    while (!reef_node_is(node, kinds[i].op)) {
        i++;
    }
    return reduce_into(l, node, kinds[i].kind, mask);
}

reef_status reef_lower_global_pool(reef_lower *l, const reef_node *node)
{
    bool mask[REEF_MAX_RANK] = {false};
    for (int d = 2; d < node->in[0]->rank; d++) {
        mask[d] = true;
    }
    return reduce_into(l, node, reef_node_is(node, "GlobalMaxPool") ? REEF_REDUCE_MAX : REEF_REDUCE_MEAN, mask);
}

reef_status reef_lower_arg_max(reef_lower *l, const reef_node *node)
{
    const reef_value *x = node->in[0];
    reef_kernel k = {.kind = REEF_K_ARG_MAX, .n_in = 1};
    reef_view y;
    int64_t dims[REEF_MAX_RANK];
    k.arg_max.min = reef_node_is(node, "ArgMin");
    k.arg_max.select_last = reef_node_attr_int(node, "select_last_index", 0) != 0;
    if (x->dtype != REEF_I64) {
        REEF_TRY(reef_lower_need_f32(l, node, x));
    }
    REEF_TRY(reef_axis_resolve(node, "axis", 0, x->rank, &k.arg_max.axis, l->error));
    REEF_TRY(reef_lower_view(l, node, x, &k.in[0]));
    REEF_TRY(reef_lower_dest(l, node->out[0], &y));
    memcpy(dims, x->dims, sizeof dims);
    dims[k.arg_max.axis] = 1;
    if (!reef_view_reshape(&y, x->rank, dims, &k.y)) {
        return reef_node_fail(node, l->error, REEF_INTERNAL, "reduced shape");
    }
    return reef_lower_push(l, node, &k);
}

/* ----------------------------------------------------------------- gathers -- */

/* Constant indices start, start+step, ...: a slice. Scalars too. */
static bool regular_walk(const reef_value *indices, int64_t size, int64_t *start, int64_t *step)
{
    const int64_t n = reef_value_elems(indices);
    if (!indices->data || n < 1 || indices->rank > 1) {
        return false;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t v = reef_value_integer(indices, i);
        v = v < 0 ? v + size : v;
        if (v < 0 || v >= size) {
            return false;
        }
        if (i == 0) {
            *start = v;
            *step = 1;
        } else if (i == 1) {
            *step = v - *start;
        }
        if (v != *start + i * *step) {
            return false;
        }
    }
    return true;
}

reef_status reef_lower_gather(reef_lower *l, const reef_node *node)
{
    const reef_value *data = node->in[0], *indices = node->in[1], *out = node->out[0];
    reef_kernel k = {.kind = REEF_K_GATHER, .n_in = 2};
    int64_t start, step;
    REEF_TRY(reef_axis_resolve(node, "axis", 0, data->rank, &k.gather.axis, l->error));
    REEF_TRY(reef_lower_view(l, node, data, &k.in[0]));
    if (regular_walk(indices, data->dims[k.gather.axis], &start, &step)) {
        reef_view v;
        reef_view_slice(&k.in[0], k.gather.axis, start, step, reef_value_elems(indices), &v);
        if (indices->rank == 0) {
            for (int d = k.gather.axis; d + 1 < v.rank; d++) {
                v.dims[d] = v.dims[d + 1];
                v.stride[d] = v.stride[d + 1];
            }
            v.rank--;
        }
        reef_lower_put(l, out, &v);
        return REEF_OK;
    }
    if (indices->dtype != REEF_I64 && indices->dtype != REEF_I32) {
        return reef_node_fail(node, l->error, REEF_DTYPE, "indices are %s", reef_dtype_name(indices->dtype));
    }
    REEF_TRY(reef_lower_view(l, node, indices, &k.in[1]));
    REEF_TRY(reef_lower_dest(l, out, &k.y));
    return reef_lower_push(l, node, &k);
}

/* Constant index tuples become row numbers of the data with its indexed axes flattened. */
reef_status reef_lower_gather_nd(reef_lower *l, const reef_node *node)
{
    const reef_value *data = node->in[0], *indices = node->in[1], *out = node->out[0];
    const int tuple = indices->rank ? (int)indices->dims[indices->rank - 1] : 0;
    reef_kernel k = {.kind = REEF_K_GATHER, .n_in = 2, .gather = {.axis = 0}};
    if (!indices->data || tuple < 1 || tuple > data->rank || reef_node_attr_int(node, "batch_dims", 0)) {
        return reef_node_fail(node, l->error, REEF_UNSUPPORTED, "only constant indices without batch_dims");
    }
    int64_t rows = 1, dims[REEF_MAX_RANK];
    for (int d = 0; d < tuple; d++) {
        rows *= data->dims[d];
    }
    dims[0] = rows;
    for (int d = tuple; d < data->rank; d++) {
        dims[1 + d - tuple] = data->dims[d];
    }
    const int rank = data->rank - tuple + 1;
    const int64_t n = reef_value_elems(indices) / tuple;
    int64_t *flat = reef_arena_array(&l->plan->arena, (size_t)n + 1, sizeof *flat);
    if (!flat) {
        return reef_fail(l->error, REEF_NO_MEMORY, "out of memory");
    }
    for (int64_t i = 0; i < n; i++) {
        for (int d = 0; d < tuple; d++) {
            const int64_t size = data->dims[d];
            int64_t v = reef_value_integer(indices, i * tuple + d);
            v = v < 0 ? v + size : v;
            if (v < 0 || v >= size) {
                return reef_node_fail(node, l->error, REEF_SHAPE, "index %lld is out of range", (long long)v);
            }
            flat[i] = flat[i] * size + v;
        }
    }
    REEF_TRY(reef_lower_view(l, node, data, &k.in[0]));
    if (!reef_view_reshape(&k.in[0], rank, dims, &k.in[0])) {
        REEF_TRY(reef_lower_copy(l, node, &k.in[0], false, &k.in[0]));
        reef_view_reshape(&k.in[0], rank, dims, &k.in[0]);
    }
    bool all = n == rows; /* every row in order: no gather at all */
    for (int64_t i = 0; i < n && all; i++) {
        all = flat[i] == i;
    }
    reef_view same;
    if (all && reef_view_reshape(&k.in[0], out->rank, out->dims, &same)) {
        reef_lower_put(l, out, &same);
        return REEF_OK;
    }
    REEF_TRY(reef_lower_constant(l, indices->name, flat, REEF_I64, indices->rank - 1, indices->dims, &k.in[1]));
    REEF_TRY(reef_lower_dest(l, out, &k.y));
    return reef_lower_push(l, node, &k);
}
