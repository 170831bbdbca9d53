/*
 * test_cpu_vmath.c - vector math against the C library in double. Compiled once per instruction set, like the tiles.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "device/cpu/kernels/vmath.h"

typedef vf (*fn_v)(vf);
typedef double (*fn_d)(double);

static double ref_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* Largest error relative to max(|true|, floor) over a sweep of [lo, hi]. */
static double worst(fn_v f, fn_d g, double lo, double hi, double floor_)
{
    double bad = 0;
    enum { N = 400000 };
    for (int i = 0; i < N; i += VL) {
        vf x;
        for (int j = 0; j < VL; j++) {
            x[j] = (float)(lo + (hi - lo) * (i + j) / N);
        }
        vf y = f(x);
        for (int j = 0; j < VL; j++) {
            double t = g((double)x[j]);
            double e = fabs((double)y[j] - t) / fmax(fabs(t), floor_);
            if (!(e <= bad)) {
                bad = isnan(e) ? INFINITY : e;
            }
        }
    }
    return bad;
}

static void close_to_libm(void **state)
{
    (void)state;
    const double tiny = 1.2e-38;
    const struct {
        const char *name;
        fn_v f;
        fn_d g;
        double lo, hi, floor;
    } rows[] = {
        {"exp", v_exp, exp, -87, 88.7, tiny},
        {"exp near 0", v_exp, exp, -1, 1, tiny},
        {"log", v_log, log, 1e-6, 3, 1e-3},
        {"log of large", v_log, log, 1, 1e30, tiny},
        {"log near 1", v_log, log, 0.9, 1.1, 1e-3},
        {"tanh", v_tanh, tanh, -12, 12, tiny},
        {"tanh near 0", v_tanh, tanh, -1, 1, 1e-6},
        {"sigmoid", v_sigmoid, ref_sigmoid, -85, 30, tiny},
        {"erf", v_erf, erf, -6, 6, tiny},
        {"erf near 0", v_erf, erf, -1.1, 1.1, 1e-6},
        {"sqrt", v_sqrt, sqrt, 0, 1e10, tiny},
        {"round", v_round, nearbyint, -1e5, 1e5, 1},
        {"round of large", v_round, nearbyint, -1e9, 1e9, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double e = worst(rows[i].f, rows[i].g, rows[i].lo, rows[i].hi, rows[i].floor);
        print_message("  %s %-14s %.2e\n", REEF_ISA_NAME, rows[i].name, e);
        assert_true(e < 1e-6);
    }
}

static void edges(void **state)
{
    (void)state;
    assert_true(v_exp(v_set(-INFINITY))[0] == 0.0f);
    assert_true(v_exp(v_set(-200.0f))[0] == 0.0f);
    assert_true(v_exp(v_set(INFINITY))[0] == INFINITY);
    assert_true(v_exp(v_set(0.0f))[0] == 1.0f);
    assert_true(v_exp(v_set(-95.0f))[0] > 0.0f);
    assert_true(isnan(v_exp(v_set(NAN))[0]));
    assert_true(v_log(v_set(0.0f))[0] == -INFINITY);
    assert_true(v_log(v_set(INFINITY))[0] == INFINITY);
    assert_true(isnan(v_log(v_set(-1.0f))[0]));
    assert_true(isnan(v_log(v_set(NAN))[0]));
    assert_true(v_log(v_set(1.0f))[0] == 0.0f);
    assert_true(fabs((double)v_log(v_set(1e-40f))[0] - log((double)1e-40f)) < 1e-4);
    assert_true(v_tanh(v_set(INFINITY))[0] == 1.0f && v_tanh(v_set(-100.0f))[0] == -1.0f);
    assert_true(isnan(v_tanh(v_set(NAN))[0]));
    assert_true(v_erf(v_set(INFINITY))[0] == 1.0f && v_erf(v_set(-9.0f))[0] == -1.0f);
    assert_true(isnan(v_erf(v_set(NAN))[0]));
    assert_true(v_sigmoid(v_set(INFINITY))[0] == 1.0f && v_sigmoid(v_set(-INFINITY))[0] == 0.0f);
    assert_true(isnan(v_act(REEF_ACT_RELU, 0, 0, v_set(NAN))[0]));
    assert_true(isnan(v_act(REEF_ACT_CLIP, 0, 6, v_set(NAN))[0]));
}

static void partial_loads_stay_inside(void **state)
{
    (void)state;
    float in[VL], out[VL];
    for (int n = 0; n <= VL; n++) {
        for (int i = 0; i < VL; i++) {
            in[i] = (float)(i + 1);
            out[i] = -1;
        }
        vf v = v_load_n(in, n);
        float sum = 0;
        for (int i = 0; i < VL; i++) {
            assert_true(v[i] == (i < n ? (float)(i + 1) : 0.0f));
            sum += v[i];
        }
        assert_true(v_sum(v) == sum);
        assert_true(v_max_lane(v) == (float)n);
        v_store_n(out, v + 1.0f, n);
        for (int i = 0; i < VL; i++) {
            assert_true(out[i] == (i < n ? (float)(i + 2) : -1.0f));
        }
    }
}

static bool runs_here(void)
{
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return true;
#endif
}

int main(void)
{
    if (!runs_here()) {
        printf("%s: skipped, this processor has no such instructions\n", REEF_ISA_NAME);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(close_to_libm),
        cmocka_unit_test(edges),
        cmocka_unit_test(partial_loads_stay_inside),
    };
    return cmocka_run_group_tests_name(REEF_ISA_NAME, tests, NULL, NULL);
}
