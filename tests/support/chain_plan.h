/*
 * chain_plan.h - a plan made by hand: a chain of element kernels whose answer is known and depends on every tile of
 * every kernel having run exactly once.
 *
 * x (elems floats) -> kernel 0 -> ... -> y. Kernel k computes v * a + b with small integers modulo 1021, so that the
 * result is exact. Odd kernels work in place: running one of their tiles twice, or not at all, changes the answer.
 */
#ifndef TESTS_CHAIN_PLAN_H
#define TESTS_CHAIN_PLAN_H

#include "model/plan.h"

reef_plan *chain_plan_create(uint32_t kernels, int64_t elems);
/* What the plan must compute for x. */
void chain_plan_expect(uint32_t kernels, int64_t elems, const float *x, float *y);

#endif
