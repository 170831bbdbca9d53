/*
 * eltwise_host.c - which of the three element kernels (eltwise.cu) a program takes, and its arguments.
 */
#include "device/cuda/kernels/walk.h"

#define X(name) _Static_assert((int)REEF_CUDA_ELT_##name == (int)REEF_ELT_##name, "the lists of operators agree");
REEF_CUDA_ELT_LIST(X)
#undef X
_Static_assert((int)REEF_CUDA_ELT_OPS == (int)REEF_ELT_OPS, "the lists of operators agree");
_Static_assert((int)REEF_CUDA_DTYPE_F32 == (int)REEF_F32 && (int)REEF_CUDA_DTYPE_U8 == (int)REEF_U8 &&
                   (int)REEF_CUDA_DTYPE_I8 == (int)REEF_I8 && (int)REEF_CUDA_DTYPE_I32 == (int)REEF_I32 &&
                   (int)REEF_CUDA_DTYPE_I64 == (int)REEF_I64 && (int)REEF_CUDA_DTYPE_BOOL == (int)REEF_BOOL &&
                   (int)REEF_CUDA_DTYPE_F64 == (int)REEF_F64,
               "the types' numbers agree");
_Static_assert(sizeof(reef_cuda_elt_args) <= 4000, "arguments fit a kernel's parameter");

/* A program that is one operation and an activation: registers of its operands, -1 where there is none. */
typedef struct short_program {
    int op, in[3];
    reef_act act;
    float act_a, act_b;
} short_program;

/* y, then one per operand; strides as reef_cuda_walk_make wants them. */
static void walk_of(reef_cuda_walk *w, const reef_view *y, const reef_view *const *in, int n_in)
{
    static const int64_t none[REEF_MAX_RANK];
    const int64_t *strides[9] = {y->stride};
    for (int i = 0; i < n_in; i++) {
        strides[1 + i] = in[i] ? in[i]->stride : none;
    }
    reef_cuda_walk_make(w, 1 + n_in, y->rank, y->dims, strides, true, true);
}

/* Can all operands be walked by vectors of v? Those with an innermost stride of 0 may be anything. */
static bool by_vectors(const reef_cuda_walk *w, const reef_cuda_prepare *ctx, const reef_view *y,
                       const reef_view *const *in, int n_in, int v)
{
    const int last = w->rank - 1;
    for (int o = 0; o <= n_in; o++) {
        const reef_view *view = o ? in[o - 1] : y;
        if (!view || (o && w->stride[o][last] == 0)) {
            continue;
        }
        bool ok = reef_cuda_is_float(reef_cuda_elem(ctx, view)) ? reef_cuda_walk_vector(w, o, ctx, view, v)
                                                                : w->stride[o][last] == 1 && w->dims[last] % v == 0;
        if (!ok) {
            return false;
        }
    }
    return w->dims[last] % v == 0;
}

static bool is_const(const reef_cuda_prepare *ctx, const reef_view *view)
{
    return ctx->plan->storage[view->storage].kind == REEF_STORAGE_CONST;
}

static reef_status prepare_short(const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out,
                                 const short_program *p, bool narrow)
{
    const reef_view *y = &k->y, *in[3] = {NULL};
    bool halves = reef_cuda_elem(ctx, y) == REEF_CUDA_F16, constants = true;
    int n_in = 0;
    for (; n_in < 3 && p->in[n_in] >= 0; n_in++) {
        in[n_in] = &k->in[p->in[n_in]];
        constants = constants && (n_in == 0 || is_const(ctx, in[n_in]));
    }
    halves = halves && reef_cuda_elem(ctx, in[0]) == REEF_CUDA_F16;
    reef_cuda_walk w;
    walk_of(&w, y, in, 3);
    int v = halves && !narrow && w.total / 8 >= (int64_t)ctx->sm_count * 256 && by_vectors(&w, ctx, y, in, 3, 8) ? 8
            : by_vectors(&w, ctx, y, in, 3, 4)                                                                   ? 4
                                                                                                                 : 1;
    reef_cuda_short_args *a = v == 8   ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_short_v8", "short x8", *a)
                              : v == 4 ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_short_v4", "short x4", *a)
                                       : REEF_CUDA_CANDIDATE(k, ctx, out, "reef_short_v1", "short", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    a->op = p->op;
    a->act = p->act;
    a->act_a = p->act_a;
    a->act_b = p->act_b;
    a->early = constants;
    a->y_type = reef_cuda_elem(ctx, y);
    REEF_CUDA_BIND(ctx, out, a, y, y);
    for (int i = 0; i < n_in; i++) {
        a->type[i] = reef_cuda_elem(ctx, in[i]);
        a->splat[i] = v > 1 && w.stride[1 + i][w.rank - 1] == 0;
        REEF_CUDA_BIND(ctx, out, a, in[i], in[i]);
    }
    reef_cuda_walk_by(&w, 4, v);
    REEF_CUDA_WALK_TAKE(a->walk, &w);
    a->per_tile = reef_cuda_cut(ctx, out, w.total);
    return REEF_OK;
}

reef_status reef_cuda_prepare_convert(const reef_kernel *k, reef_cuda_prepare *ctx, reef_cuda_kernel *out)
{
    const short_program p = {.op = REEF_CUDA_SHORT_A, .in = {0, -1, -1}};
    return prepare_short(k, ctx, out, &p, false);
}

static bool is_plain(uint8_t dtype)
{
    return dtype == REEF_F32 || dtype == REEF_BOOL;
}

/* Nothing but f32 and bool, in registers and in memory? */
static bool is_f32(const reef_kernel *k)
{
    bool plain = is_plain((uint8_t)k->y.dtype);
    for (int i = 0; i < k->n_in; i++) {
        plain = plain && is_plain((uint8_t)k->in[i].dtype);
    }
    for (int i = 0; i < k->eltwise.n_insns; i++) {
        const reef_elt_insn *s = &k->eltwise.insns[i];
        plain = plain && is_plain(s->type) && (s->op != REEF_ELT_CAST || is_plain(s->from));
    }
    return plain;
}

static bool match_short(const reef_kernel *k, short_program *p)
{
    const reef_eltwise *e = &k->eltwise;
    int i = 0, acc = e->n_insns ? e->insns[0].a : e->result;
    *p = (short_program){.op = REEF_CUDA_SHORT_A, .in = {acc, -1, -1}};
    for (int j = 0; j < k->n_in; j++) {
        if (k->in[j].dtype != REEF_F32) {
            return false;
        }
    }
    for (int j = 0; j < e->n_insns; j++) {
        if (e->insns[j].type != REEF_F32) {
            return false;
        }
    }
    if (k->y.dtype != REEF_F32 || acc >= k->n_in) {
        return false;
    }
    const reef_elt_insn *s = e->insns;
    if (i < e->n_insns &&
        (s->op == REEF_ELT_ADD || s->op == REEF_ELT_SUB || s->op == REEF_ELT_MUL || s->op == REEF_ELT_FMA)) {
        p->op = s->op == REEF_ELT_ADD   ? REEF_CUDA_SHORT_ADD
                : s->op == REEF_ELT_SUB ? REEF_CUDA_SHORT_SUB
                : s->op == REEF_ELT_MUL ? REEF_CUDA_SHORT_MUL
                                        : REEF_CUDA_SHORT_FMA;
        p->in[1] = s->b;
        p->in[2] = s->op == REEF_ELT_FMA ? s->c : -1;
        acc = s->dst;
        i++;
        /* a * b, then + c: the same up to one rounding. */
        if (s->op == REEF_ELT_MUL && i < e->n_insns && s[1].op == REEF_ELT_ADD && (s[1].a == acc) != (s[1].b == acc)) {
            p->op = REEF_CUDA_SHORT_FMA;
            p->in[2] = s[1].a == acc ? s[1].b : s[1].a;
            acc = s[1].dst;
            i++;
        }
    }
    if (i < e->n_insns && e->insns[i].op == REEF_ELT_ACT && e->insns[i].a == acc) {
        p->act = (reef_act)e->insns[i].b;
        p->act_a = (float)e->insns[i].imm;
        p->act_b = (float)e->insns[i].imm2;
        acc = e->insns[i].dst;
        i++;
    }
    if (p->in[1] >= k->n_in || p->in[2] >= k->n_in || i != e->n_insns || acc != e->result) {
        return false;
    }
    return true;
}

/* The operand that is read last is the one that comes from the predecessor, where there is a choice. */
static void constants_second(const reef_kernel *k, const reef_cuda_prepare *ctx, short_program *p)
{
    if (p->op != REEF_CUDA_SHORT_SUB && p->in[1] >= 0 && is_const(ctx, &k->in[p->in[0]])) {
        int t = p->in[0];
        p->in[0] = p->in[1];
        p->in[1] = t;
    }
}

static bool supported(const reef_elt_insn *s)
{
    switch (s->type) {
    case REEF_F32:
    case REEF_I64:
    case REEF_I32:
    case REEF_I8:
    case REEF_U8:
    case REEF_BOOL: break;
    case REEF_F64: return s->op == REEF_ELT_CONST || s->op == REEF_ELT_CAST || s->op == REEF_ELT_WHERE;
    default: return false;
    }
    if (s->type != REEF_F32 && s->op >= REEF_ELT_SQRT && s->op <= REEF_ELT_ACT && s->op != REEF_ELT_FLOOR &&
        s->op != REEF_ELT_CEIL && s->op != REEF_ELT_ROUND) {
        return false;
    }
    return s->op != REEF_ELT_CAST || s->from != REEF_F16;
}

REEF_CUDA_PREPARE(eltwise)
{
    const reef_eltwise *e = &k->eltwise;
    const reef_view *y = &k->y, *in[8] = {NULL};
    for (int i = 0; i < e->n_insns; i++) {
        if (!supported(&e->insns[i])) {
            return reef_cuda_unsupported(k, ctx, "element operator has no kernel for its type");
        }
    }
    for (int i = 0; i <= k->n_in; i++) {
        if ((i < k->n_in ? &k->in[i] : y)->dtype == REEF_F16) {
            return reef_cuda_unsupported(k, ctx, "float16 arithmetic");
        }
    }
    *n = 1;
    short_program p;
    if (match_short(k, &p)) {
        constants_second(k, ctx, &p);
        reef_status status = prepare_short(k, ctx, out, &p, false);
        if (!status && max > 1 && strcmp(out->function, "reef_short_v8") == 0) { /* half as much a thread */
            status = prepare_short(k, ctx, out + 1, &p, true);
            *n = 2;
        }
        return status;
    }
    for (int i = 0; i < k->n_in; i++) {
        in[i] = &k->in[i];
    }
    reef_cuda_walk w;
    walk_of(&w, y, in, 8);
    const bool f32 = is_f32(k);
    const int v = f32 && by_vectors(&w, ctx, y, in, 8, 4) ? 4 : 1;
    reef_cuda_elt_args *a = v == 4 ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_elt_f32_v4", "program x4", *a)
                            : f32  ? REEF_CUDA_CANDIDATE(k, ctx, out, "reef_elt_f32_v1", "program", *a)
                                   : REEF_CUDA_CANDIDATE(k, ctx, out, "reef_elt_wide", "wide program", *a);
    if (!a) {
        return REEF_NO_MEMORY;
    }
    a->n_in = (uint8_t)k->n_in;
    a->n_insns = e->n_insns;
    a->result = e->result & (REEF_ELT_REGS - 1);
    a->y_type = (uint8_t)reef_cuda_elem(ctx, y);
    a->y_dtype = (uint8_t)y->dtype;
    REEF_CUDA_BIND(ctx, out, a, y, y);
    for (int i = 0; i < k->n_in; i++) {
        a->type[i] = (uint8_t)reef_cuda_elem(ctx, in[i]);
        a->dtype[i] = (uint8_t)in[i]->dtype;
        a->splat[i] = v > 1 && w.stride[1 + i][w.rank - 1] == 0;
        REEF_CUDA_BIND(ctx, out, a, in[i], in[i]);
    }
    for (int i = 0; i < e->n_insns; i++) {
        const reef_elt_insn *s = &e->insns[i];
        a->insns[i] = (reef_cuda_elt_insn){.op = s->op,
                                           .type = s->type,
                                           .from = s->from,
                                           .dst = s->dst,
                                           .a = s->a,
                                           .b = s->b,
                                           .c = s->c,
                                           .imm = s->imm,
                                           .imm2 = s->imm2};
    }
    reef_cuda_walk_by(&w, 9, v);
    REEF_CUDA_WALK_TAKE(a->walk, &w);
    a->per_tile = reef_cuda_cut(ctx, out, w.total);
    return REEF_OK;
}
