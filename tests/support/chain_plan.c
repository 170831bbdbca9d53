/*
 * chain_plan.c - see chain_plan.h.
 */
#include "support/chain_plan.h"

#include <math.h>
#include <stdlib.h>

enum { MODULUS = 1021 };

static double step(uint32_t kernel, double v)
{
    return fmod(v * (3 + kernel % 5) + 7 + kernel % 11, MODULUS);
}

void chain_plan_expect(uint32_t kernels, int64_t elems, const float *x, float *y)
{
    for (int64_t i = 0; i < elems; i++) {
        double v = x[i];
        for (uint32_t k = 0; k < kernels; k++) {
            v = step(k, v);
        }
        y[i] = (float)v;
    }
}

static reef_view view_of(uint32_t storage, int64_t elems)
{
    return (reef_view){.storage = storage, .dtype = REEF_F32, .rank = 1, .dims = {elems}, .stride = {1}};
}

static reef_elt_insn constant(uint8_t dst, double value)
{
    return (reef_elt_insn){.op = REEF_ELT_CONST, .type = REEF_F32, .dst = dst, .imm = value};
}

static reef_elt_insn binary(reef_elt_op op, uint8_t dst, uint8_t a, uint8_t b)
{
    return (reef_elt_insn){.op = (uint8_t)op, .type = REEF_F32, .dst = dst, .a = a, .b = b};
}

reef_plan *chain_plan_create(uint32_t kernels, int64_t elems)
{
    reef_plan *plan = calloc(1, sizeof *plan);
    size_t bytes = (size_t)elems * sizeof(float);
    size_t planned = (bytes + REEF_PLAN_ALIGN - 1) / REEF_PLAN_ALIGN * REEF_PLAN_ALIGN;
    plan->kernels = reef_arena_array(&plan->arena, kernels, sizeof *plan->kernels);
    plan->n_kernels = kernels;
    plan->storage = reef_arena_array(&plan->arena, 4, sizeof *plan->storage);
    plan->n_storage = 4;
    plan->storage[0] = (reef_storage){.kind = REEF_STORAGE_INPUT, .name = "x", .bytes = bytes};
    plan->storage[1] = (reef_storage){.kind = REEF_STORAGE_OUTPUT, .name = "y", .bytes = bytes};
    plan->storage[2] = (reef_storage){.kind = REEF_STORAGE_ACTIVATION, .name = "even", .bytes = bytes};
    plan->storage[3] =
        (reef_storage){.kind = REEF_STORAGE_ACTIVATION, .name = "odd", .bytes = bytes, .offset = planned};
    plan->activation_bytes = 2 * planned;
    plan->inputs = reef_arena_array(&plan->arena, 1, sizeof *plan->inputs);
    plan->outputs = reef_arena_array(&plan->arena, 1, sizeof *plan->outputs);
    plan->n_inputs = plan->n_outputs = 1;
    plan->inputs[0] =
        (reef_plan_io){.name = "x", .dtype = REEF_F32, .rank = 1, .dims = {elems}, .bytes = bytes, .storage = 0};
    plan->outputs[0] =
        (reef_plan_io){.name = "y", .dtype = REEF_F32, .rank = 1, .dims = {elems}, .bytes = bytes, .storage = 1};
    uint32_t from = 0;
    for (uint32_t k = 0; k < kernels; k++) {
        bool last = k + 1 == kernels, in_place = k % 2 == 1 && !last;
        uint32_t to = last ? 1 : in_place ? from : from == 2 ? 3 : 2;
        reef_kernel *kernel = &plan->kernels[k];
        *kernel = (reef_kernel){
            .kind = REEF_K_ELTWISE,
            .name = "step",
            .ops = "MulAddMod",
            .in = {view_of(from, elems)},
            .n_in = 1,
            .y = view_of(to, elems),
            .eltwise = {.n_insns = 6, .result = 5},
            .transaction = true,
        };
        kernel->eltwise.insns[0] = constant(1, 3 + k % 5);
        kernel->eltwise.insns[1] = binary(REEF_ELT_MUL, 2, 0, 1);
        kernel->eltwise.insns[2] = constant(3, 7 + k % 11);
        kernel->eltwise.insns[3] = binary(REEF_ELT_ADD, 4, 2, 3);
        kernel->eltwise.insns[4] = constant(6, MODULUS);
        kernel->eltwise.insns[5] = binary(REEF_ELT_FMOD, 5, 4, 6);
        from = to;
    }
    return plan;
}
