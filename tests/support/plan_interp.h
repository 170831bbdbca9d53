/*
 * plan_interp.h - a plan's meaning, the slow way: one thread, plain loops, float64 sums.
 *
 * The reference that kernels of every device and the lowering itself are tested against. It follows plan.h's
 * definitions and knows nothing of tiles, packing or instruction sets.
 */
#ifndef REEF_TESTS_PLAN_INTERP_H
#define REEF_TESTS_PLAN_INTERP_H

#include "model/plan.h"

/* Runs one kernel. base[i] is where storage i of the plan lives; plan may be NULL (only base is used). Results are
 * rounded once, when they are stored. Errors: NO_MEMORY, UNSUPPORTED (an operand form that plan.h does not allow). */
reef_status plan_interp_kernel(const reef_plan *plan, const reef_kernel *k, char *const *base);

/* Runs all kernels over fresh activation memory that starts as all ones bits (NaN), so that a read of something that
 * nobody wrote shows. inputs and outputs as in reef_submit_options; outputs may not be NULL. */
reef_status plan_interp_run(const reef_plan *plan, const void *const *inputs, void *const *outputs);

#endif
