/*
 * test_bench.c - workloads, arrivals, percentiles, npy files, and a whole run against the fake engine. No test looks at
 * how long anything took.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/chart.h"
#include "bench/loadgen.h"
#include "bench/npy.h"
#include "bench/rng.h"
#include "bench/runner.h"
#include "bench/stats.h"
#include "bench/tensors.h"
#include "bench/workload.h"

/* ---- workloads ---- */

static void built_in_workloads_are_valid_and_as_published(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t rt, be;
        double rate;
    } expected[] = {{"A", 1, 1, 100}, {"B", 1, 1, 220}, {"C", 1, 5, 100}, {"D", 5, 5, 100}, {"E", 5, 5, 100}};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        bench_workload workload = {0};
        reef_error error = {0};
        assert_int_equal(bench_workload_load(expected[i].name, &workload, &error), REEF_OK);
        size_t classes[2] = {0};
        double rate = 0;
        for (size_t c = 0; c < workload.n_clients; c++) {
            classes[workload.clients[c].service_class]++;
            rate += bench_arrival_rate(&workload.clients[c].arrival);
        }
        assert_int_equal(classes[REEF_RT], expected[i].rt);
        assert_int_equal(classes[REEF_BE], expected[i].be);
        assert_true(fabs(rate - expected[i].rate) < 1e-9);
        assert_true(workload.rt_share > 0);
        bench_workload_free(&workload);
    }
}

static void the_recorded_trace_has_all_its_requests(void **state)
{
    (void)state;
    bench_workload workload = {0};
    reef_error error = {0};
    assert_int_equal(bench_workload_load("REAL", &workload, &error), REEF_OK);
    size_t requests = 0;
    for (size_t c = 0; c < workload.n_clients; c++) {
        requests += workload.clients[c].arrival.n_times;
    }
    assert_int_equal(requests, 1684);
    assert_non_null(workload.license);
    bench_workload_free(&workload);
}

#define CLIENT(rest)  "{\"name\":\"w\",\"clients\":[{\"name\":\"c1\",\"model\":\"m\",\"class\":\"rt\"" rest "}]}"
#define ARRIVAL(rest) CLIENT(",\"arrival\":{" rest "}")
#define CLOSED        ",\"arrival\":{\"kind\":\"closed\"}"

static void bad_workloads_are_refused_with_client_and_field(void **state)
{
    (void)state;
    static const struct {
        const char *json, *words[3];
    } cases[] = {
        {"", {"JSON"}},
        {"{", {"line 1"}},
        {"[]", {"object"}},
        {"{\"name\":\"w\"}", {"clients"}},
        {"{\"name\":\"w\",\"clients\":[]}", {"clients"}},
        {"{\"name\":\"w\",\"clients\":[1]}", {"client 0"}},
        {"{\"name\":\"w\",\"clinets\":[]}", {"clinets", "unknown"}},
        {"{\"name\":\"w\",\"name\":\"v\",\"clients\":[]}", {"JSON"}},
        {CLIENT(""), {"c1", "arrival", "missing"}},
        {CLIENT(CLOSED ",\"modell\":1"), {"c1", "modell"}},
        {CLIENT(CLOSED ",\"deadline_us\":1.5"), {"c1", "deadline_us", "whole"}},
        {CLIENT(CLOSED ",\"weight\":0"), {"c1", "weight"}},
        {CLIENT(CLOSED ",\"weight\":\"2\""), {"c1", "weight", "string"}},
        {CLIENT(CLOSED ",\"seed\":-1"), {"c1", "seed"}},
        {CLIENT(CLOSED ",\"shapes\":{\"x\":[1,0]}"), {"c1", "shapes", "dimension 1"}},
        {CLIENT(CLOSED ",\"shapes\":{\"x\":[1,1,1,1,1,1,1,1,1]}"), {"c1", "shapes", "at most"}},
        {CLIENT(CLOSED ",\"inputs\":[]"), {"c1", "inputs"}},
        {ARRIVAL("\"kind\":\"sometimes\""), {"c1", "arrival.kind", "sometimes"}},
        {ARRIVAL("\"kind\":\"uniform\""), {"c1", "rate", "missing"}},
        {ARRIVAL("\"kind\":\"uniform\",\"rate\":-5"), {"c1", "rate"}},
        {ARRIVAL("\"kind\":\"poisson\",\"rate\":1e99"), {"c1", "rate"}},
        {ARRIVAL("\"kind\":\"closed\",\"rate\":5"), {"c1", "arrival.rate", "unknown"}},
        {ARRIVAL("\"kind\":\"closed\",\"concurrency\":100000"), {"c1", "concurrency"}},
        {ARRIVAL("\"kind\":\"trace\",\"times_ms\":[]"), {"c1", "times_ms"}},
        {ARRIVAL("\"kind\":\"trace\",\"times_ms\":[5,3]"), {"c1", "times_ms", "element 1"}},
        {ARRIVAL("\"kind\":\"trace\",\"times_ms\":[0,\"x\"]"), {"c1", "times_ms", "element 1"}},
        {ARRIVAL("\"kind\":\"trace\",\"times_ms\":[0,9],\"period_ms\":9"), {"c1", "period_ms"}},
        {"{\"name\":\"w\",\"clients\":[{\"name\":\"c1\",\"model\":\"m\",\"class\":\"fast\"" CLOSED "}]}",
         {"c1", "class", "fast"}},
        {"{\"name\":\"w\",\"clients\":[{\"name\":\"a\",\"model\":\"m\",\"class\":\"be\"" CLOSED
         "},{\"name\":\"a\",\"model\":\"m\",\"class\":\"be\"" CLOSED "}]}",
         {"two clients", "'a'"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bench_workload workload = {0};
        reef_error error = {0};
        reef_status status = bench_workload_parse(cases[i].json, strlen(cases[i].json), "w.json", &workload, &error);
        assert_int_equal(status, REEF_FORMAT);
        assert_int_equal(error.status, REEF_FORMAT);
        assert_non_null(strstr(error.message, "w.json: "));
        for (size_t k = 0; k < 3 && cases[i].words[k]; k++) {
            if (!strstr(error.message, cases[i].words[k])) {
                fail_msg("case %zu: '%s' is not in: %s", i, cases[i].words[k], error.message);
            }
        }
        bench_workload_free(&workload);
    }
}

static void model_paths_are_relative_to_the_file(void **state)
{
    (void)state;
    static const char json[] =
        "{\"name\":\"w\",\"clients\":[{\"name\":\"a\",\"model\":\"m.onnx\",\"class\":\"rt\"" CLOSED
        ",\"inputs\":{\"x\":\"x.npy\"}},{\"name\":\"b\",\"model\":\"m\",\"class\":\"be\"" CLOSED
        ",\"weight\":3,\"shapes\":{\"x\":[1,4]}}]}";
    bench_workload workload = {0};
    reef_error error = {0};
    assert_int_equal(bench_workload_parse(json, strlen(json), "some/folder/w.json", &workload, &error), REEF_OK);
    assert_string_equal(workload.clients[0].model, "some/folder/m.onnx");
    assert_string_equal(workload.clients[0].inputs[0].path, "some/folder/x.npy");
    assert_string_equal(workload.clients[1].model, "m");
    assert_int_equal(workload.clients[1].weight, 3);
    assert_int_equal(workload.clients[1].shapes[0].dims[1], 4);
    bench_workload_free(&workload);
}

/* ---- arrivals ---- */

static void arrivals_are_the_same_for_the_same_seed_and_ascending(void **state)
{
    (void)state;
    const bench_arrival arrivals[] = {{.kind = BENCH_UNIFORM, .rate = 100}, {.kind = BENCH_POISSON, .rate = 100}};
    for (size_t i = 0; i < 2; i++) {
        uint64_t *a, *b, *other;
        size_t n_a, n_b, n_other;
        assert_int_equal(bench_arrival_times(&arrivals[i], 1, 7, 0, 10000000000u, &a, &n_a), REEF_OK);
        assert_int_equal(bench_arrival_times(&arrivals[i], 1, 7, 0, 10000000000u, &b, &n_b), REEF_OK);
        assert_int_equal(bench_arrival_times(&arrivals[i], 1, 8, 0, 10000000000u, &other, &n_other), REEF_OK);
        assert_int_equal(n_a, n_b);
        assert_memory_equal(a, b, n_a * sizeof *a);
        assert_int_not_equal(a[0], other[0]);
        assert_in_range(n_a, 850, 1150);
        for (size_t k = 1; k < n_a; k++) {
            assert_true(a[k] >= a[k - 1]);
        }
        assert_true(a[n_a - 1] < 10000000000u);
        free(a);
        free(b);
        free(other);
    }
}

static void a_trace_repeats_and_is_played_faster_by_its_scale(void **state)
{
    (void)state;
    double times[] = {0, 10, 10, 30};
    bench_arrival trace = {.kind = BENCH_TRACE, .times_ms = times, .n_times = 4, .period_ms = 40};
    uint64_t *due;
    size_t n;
    assert_int_equal(bench_arrival_times(&trace, 2, 1, 0, 45000000, &due, &n), REEF_OK);
    static const uint64_t expected_ms[] = {0, 5, 5, 15, 20, 25, 25, 35, 40};
    assert_int_equal(n, 9);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(due[i], expected_ms[i] * 1000000);
    }
    free(due);
}

static void a_trace_goes_on_where_the_last_round_left_it(void **state)
{
    (void)state;
    double times[] = {0, 10, 10, 30};
    bench_arrival trace = {.kind = BENCH_TRACE, .times_ms = times, .n_times = 4, .period_ms = 40};
    uint64_t *whole, *part;
    size_t n, n_part, k = 0;
    assert_int_equal(bench_arrival_times(&trace, 1, 1, 0, 400000000, &whole, &n), REEF_OK);
    for (uint64_t from = 0; from < 400000000; from += 25000000) {
        assert_int_equal(bench_arrival_times(&trace, 1, 1, from, 25000000, &part, &n_part), REEF_OK);
        for (size_t i = 0; i < n_part; i++) {
            assert_int_equal(part[i] + from, whole[k++]);
        }
        free(part);
    }
    assert_int_equal(k, n);
    free(whole);
}

static void a_closed_loop_has_no_due_times(void **state)
{
    (void)state;
    uint64_t *due;
    size_t n = 1;
    bench_arrival closed = {.kind = BENCH_CLOSED, .concurrency = 2};
    assert_int_equal(bench_arrival_times(&closed, 1, 1, 0, 1000000000, &due, &n), REEF_OK);
    assert_int_equal(n, 0);
    free(due);
}

/* ---- statistics ---- */

static void percentiles_are_samples_by_nearest_rank(void **state)
{
    (void)state;
    uint64_t samples[1000];
    for (size_t i = 0; i < 1000; i++) {
        samples[i] = 1000 * (1000 - i); /* 1 us .. 1000 us, backwards */
    }
    bench_stats stats = bench_stats_of(samples, 1000);
    assert_true(stats.p50_us == 500 && stats.p90_us == 900 && stats.p99_us == 990 && stats.p999_us == 999);
    assert_true(stats.max_us == 1000 && stats.min_us == 1 && fabs(stats.mean_us - 500.5) < 1e-9);
    uint64_t one = 5000;
    stats = bench_stats_of(&one, 1);
    assert_true(stats.p50_us == 5 && stats.p999_us == 5 && stats.n == 1);
    stats = bench_stats_of(NULL, 0);
    assert_true(stats.n == 0 && isnan(stats.p50_us));
}

/* ---- npy ---- */

static size_t make_npy(char *out, const char *header, size_t data_bytes)
{
    size_t length = strlen(header);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (char)(length & 255);
    out[9] = (char)(length >> 8);
    memcpy(out + 10, header, length);
    memset(out + 10 + length, 0, data_bytes);
    return 10 + length + data_bytes;
}

static void good_npy_headers_are_understood(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        reef_dtype dtype;
        int rank;
        size_t bytes;
        bool fortran;
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 2), }  \n", REEF_F32, 3, 24, false},
        {"{'descr': '<i8', 'fortran_order': False, 'shape': (5,), }", REEF_I64, 1, 40, false},
        {"{'shape': (), 'descr': '|b1', 'fortran_order': True}", REEF_BOOL, 0, 1, true},
        {"{\"descr\":\"|u1\",\"fortran_order\":False,\"shape\":(2,0)}", REEF_U8, 2, 0, false},
        {"{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3), }", REEF_I32, 2, 24, true},
    };
    char file[512];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        npy_header header;
        reef_error error = {0};
        size_t n = make_npy(file, cases[i].header, cases[i].bytes);
        assert_int_equal(npy_parse(file, n, &header, &error), REEF_OK);
        assert_int_equal(header.dtype, cases[i].dtype);
        assert_int_equal(header.rank, cases[i].rank);
        assert_int_equal(header.data_bytes, cases[i].bytes);
        assert_int_equal(header.fortran, cases[i].fortran);
    }
}

static void hostile_npy_headers_are_refused(void **state)
{
    (void)state;
    static const char *const headers[] = {
        "",
        "{",
        "{}",
        "{'descr'",
        "{'descr': '<f4'",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2,)}",
        "{'descr': '>f4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 2}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, (3,))}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2305843009213693953, 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} and more",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}",
        "{'descr': '<f4\\'', 'fortran_order': False, 'shape': (2,)}",
        "{'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa': 1}",
    };
    char file[512];
    npy_header header;
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        reef_error error = {0};
        size_t n = make_npy(file, headers[i], 8);
        if (npy_parse(file, n, &header, &error) == REEF_OK) {
            fail_msg("accepted: %s", headers[i]);
        }
        assert_true(error.message[0]);
    }
    reef_error error = {0};
    assert_int_equal(npy_parse("", 0, &header, &error), REEF_FORMAT);
    assert_int_equal(npy_parse("\x93NUMPY\x09\x00\x01\x00{", 11, &header, &error), REEF_FORMAT);
    assert_int_equal(npy_parse("\x93NUMPY\x02\x00\xff\xff\xff\x7f", 12, &header, &error), REEF_FORMAT);
}

/* Every prefix and many single-byte changes of a good file: no crash; the sanitizer builds watch the rest. */
static void damaged_npy_files_do_no_harm(void **state)
{
    (void)state;
    char file[512];
    size_t n = make_npy(file, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 2), }  \n", 24);
    npy_header header;
    for (size_t i = 0; i < n; i++) {
        char *copy = malloc(i + 1); /* its own block, so that reading past the end is seen */
        memcpy(copy, file, i);
        assert_int_not_equal(npy_parse(copy, i, &header, NULL), REEF_OK);
        free(copy);
    }
    bench_rng rng = {1};
    for (size_t i = 0; i < 20000; i++) {
        char *copy = malloc(n);
        memcpy(copy, file, n);
        copy[bench_rng_next(&rng) % n] = (char)bench_rng_next(&rng);
        copy[bench_rng_next(&rng) % n] = (char)bench_rng_next(&rng);
        if (npy_parse(copy, n, &header, NULL) == REEF_OK) {
            assert_int_equal(header.data_offset + header.data_bytes, n);
        }
        free(copy);
    }
}

static void temporary(char *path)
{
    strcpy(path, "/tmp/reef-test-XXXXXX");
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
}

static void npy_files_come_back_as_they_were_written(void **state)
{
    (void)state;
    char path[64];
    temporary(path);
    const int64_t dims[] = {2, 3};
    const float values[] = {1, 2, 3, 4, 5, 6};
    reef_error error = {0};
    for (int rank = 0; rank <= 2; rank++) {
        npy_array array;
        const int64_t *shape = rank == 2 ? dims : (const int64_t[]){6};
        size_t bytes = rank ? sizeof values : sizeof values[0];
        assert_int_equal(npy_save(path, REEF_F32, rank, shape, values, bytes, &error), REEF_OK);
        assert_int_equal(npy_load(path, &array, &error), REEF_OK);
        assert_int_equal(array.rank, rank);
        assert_int_equal(array.bytes, bytes);
        assert_memory_equal(array.data, values, bytes);
        npy_free(&array);
    }
    unlink(path);
}

static void fortran_order_is_turned_into_row_major(void **state)
{
    (void)state;
    char path[64], file[512];
    temporary(path);
    size_t n = make_npy(file, "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }", 6);
    memcpy(file + n - 6, "\x01\x04\x02\x05\x03\x06", 6); /* columns of [[1,2,3],[4,5,6]] */
    FILE *out = fopen(path, "wb");
    assert_int_equal(fwrite(file, 1, n, out), n);
    fclose(out);
    npy_array array;
    reef_error error = {0};
    assert_int_equal(npy_load(path, &array, &error), REEF_OK);
    assert_memory_equal(array.data, "\x01\x02\x03\x04\x05\x06", 6);
    npy_free(&array);
    unlink(path);
}

static void a_mismatch_names_what_is_needed_and_what_is_there(void **state)
{
    (void)state;
    reef_tensor_info wanted = {.name = "x", .dtype = REEF_F32, .rank = 2, .dims = {1, 4}, .bytes = 16};
    npy_array array = {.dtype = REEF_I64, .rank = 2, .dims = {1, 4}};
    reef_error error = {0};
    assert_int_equal(npy_check(&array, &wanted, "f.npy", &error), REEF_DTYPE);
    assert_non_null(strstr(error.message, "int64"));
    assert_non_null(strstr(error.message, "float32"));
    array = (npy_array){.dtype = REEF_F32, .rank = 2, .dims = {2, 4}};
    assert_int_equal(npy_check(&array, &wanted, "f.npy", &error), REEF_SHAPE);
    assert_non_null(strstr(error.message, "2x4"));
    assert_non_null(strstr(error.message, "1x4"));
    array.rank = 1;
    assert_int_equal(npy_check(&array, &wanted, "f.npy", &error), REEF_SHAPE);
}

/* ---- random contents ---- */

static void random_contents_follow_seed_dtype_and_name(void **state)
{
    (void)state;
    float a[64], b[64];
    int64_t ids[64], mask[64];
    uint16_t halves[64];
    bench_fill(&(reef_tensor_info){.name = "x", .dtype = REEF_F32, .bytes = sizeof a}, 5, a);
    bench_fill(&(reef_tensor_info){.name = "x", .dtype = REEF_F32, .bytes = sizeof b}, 5, b);
    bench_fill(&(reef_tensor_info){.name = "input_ids", .dtype = REEF_I64, .bytes = sizeof ids}, 5, ids);
    bench_fill(&(reef_tensor_info){.name = "attention_mask", .dtype = REEF_I64, .bytes = sizeof mask}, 5, mask);
    bench_fill(&(reef_tensor_info){.name = "h", .dtype = REEF_F16, .bytes = sizeof halves}, 5, halves);
    assert_memory_equal(a, b, sizeof a);
    for (size_t i = 0; i < 64; i++) {
        assert_true(a[i] >= 0 && a[i] < 1);
        assert_true(ids[i] >= 0 && ids[i] < 100);
        assert_true(mask[i] == 1);
        assert_true(halves[i] < 0x3c00);
    }
}

/* ---- a whole run on the fake engine ---- */

static void make_model(char *path)
{
    temporary(path);
    FILE *file = fopen(path, "wb");
    fputc(8, file);
    for (size_t i = 0; i < 500; i++) {
        fputc(0, file);
    }
    fclose(file);
}

/* The report borrows names from the workload. */
static bench_report run_fake(const char *path, bench_workload *workload, unsigned rounds)
{
    char json[2048];
    snprintf(
        json, sizeof json,
        "{\"name\":\"w\",\"rt_share\":0.3,\"clients\":["
        "{\"name\":\"rt\",\"model\":\"%1$s\",\"class\":\"rt\",\"arrival\":{\"kind\":\"uniform\",\"rate\":100}},"
        "{\"name\":\"rt2\",\"model\":\"%1$s\",\"class\":\"rt\",\"arrival\":{\"kind\":\"closed\"},\"seed\":3},"
        "{\"name\":\"be\",\"model\":\"%1$s\",\"class\":\"be\",\"arrival\":{\"kind\":\"closed\",\"concurrency\":3}}]}",
        path);
    bench_report report = {0};
    reef_error error = {0};
    assert_int_equal(bench_workload_parse(json, strlen(json), "w.json", workload, &error), REEF_OK);
    static const char *const policies[] = {"reset"};
    bench_options options = {.device = "cpu",
                             .policies = policies,
                             .n_policies = 1,
                             .seconds = 0.4,
                             .warmup = 0.1,
                             .rounds = rounds,
                             .seed = 1};
    assert_int_equal(bench_run(workload, 1, &options, &report, &error), REEF_OK);
    return report;
}

static void a_run_counts_compares_and_reports(void **state)
{
    (void)state;
    char path[64], chart[64];
    make_model(path);
    bench_workload workload = {0};
    bench_report report = run_fake(path, &workload, 2);
    assert_int_equal(report.n_parts, 1);
    const bench_part *part = &report.parts[0];
    assert_int_equal(part->n_rows, 2); /* rt-only, which nobody asked for, is what the other is compared with */
    assert_string_equal(part->rows[0].policy, "rt-only");
    assert_string_equal(part->form, "matched");
    assert_int_equal(part->rows[0].n_clients, 2); /* it starts no best-effort client */
    assert_int_equal(part->rows[1].n_clients, 3);
    for (size_t i = 0; i < 2; i++) {
        const bench_row *row = &part->rows[i];
        assert_true(row->rt.n > 0);
        assert_int_equal(row->rt_submitted.n, row->rt.n);
        assert_true(row->compared >= row->rt.n);
        assert_int_equal(row->mismatches, 0);
        assert_int_equal(row->failed, 0);
        double be = row->be_per_s, rt = row->rt_per_s;
        assert_true(fabs(row->requests_ratio - (rt + be) / part->rows[0].rt_per_s) < 1e-9);
        assert_true(row->work_ratio > 0 && row->be_idle_share >= 0);
    }
    assert_true(part->rows[0].be_per_s == 0);
    json_t *json = bench_report_json(&report);
    assert_int_equal(json_array_size(json_object_get(json, "rows")), 2);
    assert_true(json_is_number(json_object_get(json_array_get(json_object_get(json, "rows"), 1), "rt_p99_us")));
    json_decref(json);
    temporary(chart);
    reef_error error = {0};
    assert_int_equal(bench_chart_write(&report, chart, &error), REEF_OK);
    unlink(chart);
    bench_report_free(&report);
    bench_workload_free(&workload);
    unlink(path);
}

static void one_wrong_bit_is_found(void **state)
{
    (void)state;
    char path[64];
    make_model(path);
    setenv("FAKE_REEF_WRONG", "310", 1); /* later than the runs alone, which are at most 303 */
    bench_workload workload = {0};
    bench_report report = run_fake(path, &workload, 1);
    unsetenv("FAKE_REEF_WRONG");
    assert_true(bench_report_mismatches(&report) > 0);
    char text[500];
    bench_report_first_mismatch(&report, text, sizeof text);
    assert_non_null(strstr(text, "w matched under "));
    assert_non_null(strstr(text, ": request "));
    assert_non_null(strstr(text, "output 'y' differs from element 1 of 4"));
    bench_report_free(&report);
    bench_workload_free(&workload);
    unlink(path);
}

/* A load of its own on the fake engine. */
enum { MAX_LOAD_CLIENTS = 3 };
typedef struct loaded {
    reef_device *device;
    reef_model *model;
    bench_tensors inputs;
    bench_verifier verifiers[MAX_LOAD_CLIENTS];
    load_client_spec specs[MAX_LOAD_CLIENTS];
    size_t n;
    load *run;
} loaded;

static void loaded_run(loaded *l, const bench_client *clients, size_t n, const load_options *options)
{
    char path[64];
    reef_error error = {0};
    *l = (loaded){.n = n};
    make_model(path);
    assert_int_equal(reef_device_open("cpu", NULL, &l->device, &error), REEF_OK);
    assert_int_equal(reef_model_load(l->device, path, NULL, &l->model, &error), REEF_OK);
    unlink(path);
    assert_int_equal(bench_tensors_create(l->model, false, &l->inputs), REEF_OK);
    for (size_t i = 0; i < n; i++) {
        reef_session *session;
        reef_session_options session_options = {.service_class = clients[i].service_class};
        const void *const *inputs = (const void *const *)l->inputs.data;
        assert_int_equal(reef_session_create(l->model, &session_options, &session, &error), REEF_OK);
        assert_int_equal(bench_verifier_create(l->model, session, inputs, 64, &l->verifiers[i], &error), REEF_OK);
        l->specs[i] = (load_client_spec){.client = &clients[i],
                                         .session = session,
                                         .inputs = inputs,
                                         .verifier = &l->verifiers[i],
                                         .scale = 1,
                                         .seed = i + 1,
                                         .max_in_flight = 64,
                                         .max_records = 10000};
    }
    assert_int_equal(load_create(l->specs, n, options, &l->run, &error), REEF_OK);
    assert_int_equal(load_run(l->run, &error), REEF_OK);
}

static void loaded_free(loaded *l)
{
    load_destroy(l->run);
    for (size_t i = 0; i < l->n; i++) {
        reef_session_destroy(l->specs[i].session);
        bench_verifier_free(&l->verifiers[i]);
    }
    bench_tensors_free(&l->inputs);
    reef_model_destroy(l->model);
    reef_device_close(l->device);
}

/* As on a GPU: a generator per open-loop client, a verifier that looks by itself. */
static void every_due_request_is_sent_once_and_compared(void **state)
{
    (void)state;
    const bench_client clients[] = {
        {.name = "a", .service_class = REEF_RT, .arrival = {.kind = BENCH_UNIFORM, .rate = 300}},
        {.name = "b", .service_class = REEF_RT, .arrival = {.kind = BENCH_POISSON, .rate = 300}},
        {.name = "c", .service_class = REEF_BE, .arrival = {.kind = BENCH_CLOSED, .concurrency = 2}},
    };
    load_options options = {.warmup_ns = 50000000,
                            .window_ns = 300000000,
                            .max_tail_ns = 50000000,
                            .thread_per_client = true,
                            .spin_ns = 50000,
                            .poll_ns = 500000};
    loaded l;
    loaded_run(&l, clients, 3, &options);
    for (size_t i = 0; i < 3; i++) {
        size_t n, ok = 0, dropped = 0;
        const load_record *records = load_records(l.run, i, &n);
        assert_true(n > 50);
        for (size_t k = 0; k < n; k++) {
            assert_true(records[k].sent_ns >= records[k].due_ns);
            ok += records[k].status == REEF_OK;
            dropped += records[k].status == LOAD_DROPPED;
        }
        assert_int_equal(ok + dropped, n); /* none is pending */
        assert_int_equal(l.verifiers[i].compared, ok);
        assert_int_equal(l.verifiers[i].mismatches, 0);
    }
    loaded_free(&l);
}

static void a_client_that_thinks_pauses_before_each_request(void **state)
{
    (void)state;
    enum { THINK_NS = 3000000 };
    const bench_client clients[] = {
        {.name = "a", .arrival = {.kind = BENCH_CLOSED, .concurrency = 1, .think_ns = THINK_NS}},
        {.name = "b", .arrival = {.kind = BENCH_CLOSED, .concurrency = 1}},
        {.name = "c", .arrival = {.kind = BENCH_UNIFORM, .rate = 100}},
    };
    for (int each = 0; each < 2; each++) { /* one generator for all open-loop clients, then one each */
        load_options options = {.window_ns = 200000000, .max_tail_ns = 50000000, .thread_per_client = each};
        loaded l;
        loaded_run(&l, clients, 3, &options);
        for (size_t i = 0; i < 3; i++) {
            size_t n;
            const load_record *records = load_records(l.run, i, &n);
            assert_true(n > 2);
            for (size_t k = 1; k < n; k++) {
                assert_int_equal(records[k].status, REEF_OK);
                assert_true(i || records[k].sent_ns >= records[k - 1].end_ns + THINK_NS);
            }
            assert_int_equal(l.verifiers[i].compared, n);
        }
        uint64_t begin, end;
        load_window(l.run, &begin, &end);
        assert_true(load_stopped(l.run) >= end);
        loaded_free(&l);
    }
}

static void preemption_is_measured_for_every_load_and_policy(void **state)
{
    (void)state;
    static const char *const policies[] = {"wait", "reset"};
    const preempt_load loads[] = {{.kernels = 3, .tiles = 2, .tile_us = 200}};
    preempt_options options = {.device = "cpu",
                               .policies = policies,
                               .n_policies = 2,
                               .loads = loads,
                               .n_loads = 1,
                               .count = 10,
                               .rounds = 3,
                               .seconds_per_cell = 60,
                               .seed = 1};
    preempt_report report = {0};
    reef_error error = {0};
    assert_int_equal(preempt_run(&options, &report, &error), REEF_OK);
    assert_int_equal(report.n_rows, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_string_equal(report.rows[i].mechanism, policies[i]);
        const preempt_cell *cells[] = {&report.rows[i].idle, &report.rows[i].load};
        for (size_t k = 0; k < 2; k++) {
            assert_int_equal(cells[k]->first.n, 10);
            for (size_t step = 0; step < PREEMPT_N_STEPS; step++) {
                assert_int_equal(cells[k]->steps[step].n, 10);
            }
            /* The steps up to the first tile are parts of the whole. */
            assert_true(cells[k]->steps[PREEMPT_launch].min_us <= cells[k]->first.max_us);
            assert_true(cells[k]->due.max_us >= cells[k]->first.min_us);
        }
    }
    preempt_report_free(&report);
}

/* Two models that the fake engine tells apart by their paths. */
static padding_report run_pairs(char paths[2][64], const padding_pair *pairs, size_t n)
{
    static const char *const policies[] = {"streams", "pad"};
    padding_options options = {.device = "cpu",
                               .policies = policies,
                               .n_policies = 2,
                               .pairs = pairs,
                               .n_pairs = n,
                               .think_ns = 200000,
                               .seconds = 0.2,
                               .warmup = 0.02,
                               .rounds = 2,
                               .seed = 1};
    padding_report report = {0};
    reef_error error = {0};
    assert_int_equal(padding_run(&options, &report, &error), REEF_OK);
    unlink(paths[0]);
    unlink(paths[1]);
    return report;
}

static void padding_is_measured_for_every_pair_and_policy(void **state)
{
    (void)state;
    char paths[2][64], chart[64];
    make_model(paths[0]);
    make_model(paths[1]);
    const padding_pair pairs[] = {{paths[0], paths[1]}, {paths[0], paths[0]}, {paths[1], paths[0]}};
    padding_report report = run_pairs(paths, pairs, 3);
    padding_row row;
    size_t n = 0;
    for (; padding_row_at(&report, n, &row); n++) {
        const padding_pair *pair = &pairs[n / 2];
        const bench_row *r = row.row;
        assert_string_equal(row.rt, pair->rt);
        assert_string_equal(row.be, pair->be);
        assert_string_equal(r->policy, n % 2 ? "pad" : "streams");
        assert_string_equal(row.alone->policy, "rt-only");
        assert_int_equal(row.alone->n_clients, 1);
        assert_string_equal(row.alone->clients[0].model, pair->rt);
        assert_int_equal(r->n_clients, 2); /* of six sessions, these two took part */
        assert_string_equal(r->clients[0].model, pair->rt);
        assert_string_equal(r->clients[1].model, pair->be);
        assert_true(r->rt.n > 0 && row.alone->rt.n > 0);
        assert_true(r->compared >= r->rt.n);
        assert_int_equal(r->mismatches, 0);
        assert_true(fabs(row.over_p50_pct - 100 * (r->rt.p50_us / row.alone->rt.p50_us - 1)) < 1e-9);
        assert_true(fabs(r->be_work_share - r->be_per_s * r->clients[1].solo_us / 1e6) < 1e-9);
    }
    assert_int_equal(n, 6);
    for (n = 0; padding_empty_at(&report, n, &row); n++) {
        assert_string_equal(row.rt, paths[n]);
        assert_string_equal(row.row->policy, "pad");
        assert_int_equal(row.row->n_clients, 1);
        assert_true(row.row->rt.n > 0 && row.row->be_per_s == 0);
    }
    assert_int_equal(n, 2);
    padding_sum sum;
    assert_true(padding_sum_at(&report, 1, &sum));
    assert_false(padding_sum_at(&report, 2, &sum));
    assert_string_equal(sum.policy, "pad");
    assert_int_equal(sum.pairs, 3);
    double mean = 0, worst = -INFINITY, share = 0;
    for (size_t i = 1; padding_row_at(&report, i, &row); i += 2) {
        mean += row.over_p50_pct / 3;
        worst = fmax(worst, row.over_p50_pct);
        share += row.row->be_work_share / 3;
    }
    assert_true(fabs(sum.mean_p50_pct - mean) < 1e-6 && sum.worst_p50_pct == worst);
    assert_true(fabs(sum.mean_be_share - share) < 1e-6);
    temporary(chart);
    reef_error error = {0};
    assert_int_equal(padding_chart_write(&report, chart, &error), REEF_OK);
    unlink(chart);
    json_t *json = padding_report_json(&report), *summary = json_object_get(json, "summary");
    for (int i = 0; i < 2; i++) { /* as the fake engine has it */
        json_t *padded = json_object_get(json_object_get(summary, "padded_kernels"), paths[i]);
        assert_int_equal(json_object_size(padded), 3);
        assert_int_equal(json_integer_value(json_object_get(padded, "128")), 0);
        assert_int_equal(json_integer_value(json_object_get(padded, "64")), 1);
        assert_int_equal(json_integer_value(json_object_get(padded, "none")), 0);
    }
    json_decref(json);
    padding_report_free(&report);
}

static void without_padding_the_other_policies_are_measured(void **state)
{
    (void)state;
    char paths[2][64];
    make_model(paths[0]);
    make_model(paths[1]);
    const padding_pair pairs[] = {{paths[0], paths[1]}};
    setenv("FAKE_REEF_NO_PAD", "1", 1);
    padding_report report = run_pairs(paths, pairs, 1);
    unsetenv("FAKE_REEF_NO_PAD");
    padding_row row;
    assert_true(padding_row_at(&report, 0, &row));
    assert_string_equal(row.row->policy, "streams");
    assert_false(padding_row_at(&report, 1, &row));
    assert_false(padding_empty_at(&report, 0, &row));
    assert_string_equal(report.bench.skipped, "pad");
    json_t *json = padding_report_json(&report), *summary = json_object_get(json, "summary");
    assert_int_equal(json_array_size(json_object_get(json, "rows")), 1);
    assert_int_equal(json_object_size(json_object_get(summary, "empty_pad_overhead_pct")), 0);
    assert_true(json_is_null(json_object_get(summary, "proxy_bytes")));
    assert_int_equal(json_object_size(json_object_get(summary, "padded_kernels")), 0);
    json_decref(json);
    padding_report_free(&report);
}

static void a_device_that_can_run_none_of_the_policies_is_refused(void **state)
{
    (void)state;
    char path[64];
    make_model(path);
    const padding_pair pair = {path, path};
    const char *const policies[] = {"pad"};
    padding_options options = {
        .device = "cpu", .policies = policies, .n_policies = 1, .pairs = &pair, .n_pairs = 1, .seconds = 0.1};
    padding_report report = {0};
    reef_error error = {0};
    setenv("FAKE_REEF_NO_PAD", "1", 1);
    assert_int_equal(padding_run(&options, &report, &error), REEF_UNSUPPORTED);
    unsetenv("FAKE_REEF_NO_PAD");
    assert_non_null(strstr(error.message, "pad"));
    unlink(path);
}

/* Without --pairs: DISB's five networks, looked for before anything is loaded. */
static void every_two_networks_are_pairs(void **state)
{
    (void)state;
    const char *const policies[] = {"pad"};
    padding_options options = {
        .device = "cpu", .models = "/nonexistent", .policies = policies, .n_policies = 1, .seconds = 0.1};
    padding_report report = {0};
    reef_error error = {0};
    assert_int_equal(padding_run(&options, &report, &error), REEF_NOT_FOUND);
    assert_non_null(strstr(error.message, "/nonexistent/resnet152.onnx"));
}

static void unknown_names_are_refused_with_those_there_are(void **state)
{
    (void)state;
    reef_error error = {0};
    assert_int_equal(bench_check_policy("resett", NULL, &error), REEF_NOT_FOUND);
    assert_non_null(strstr(error.message, "reset"));
    assert_int_equal(bench_check_device("gpu", &error), REEF_NOT_FOUND);
    assert_non_null(strstr(error.message, "cpu"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(built_in_workloads_are_valid_and_as_published),
        cmocka_unit_test(the_recorded_trace_has_all_its_requests),
        cmocka_unit_test(bad_workloads_are_refused_with_client_and_field),
        cmocka_unit_test(model_paths_are_relative_to_the_file),
        cmocka_unit_test(arrivals_are_the_same_for_the_same_seed_and_ascending),
        cmocka_unit_test(a_trace_repeats_and_is_played_faster_by_its_scale),
        cmocka_unit_test(a_trace_goes_on_where_the_last_round_left_it),
        cmocka_unit_test(a_closed_loop_has_no_due_times),
        cmocka_unit_test(percentiles_are_samples_by_nearest_rank),
        cmocka_unit_test(good_npy_headers_are_understood),
        cmocka_unit_test(hostile_npy_headers_are_refused),
        cmocka_unit_test(damaged_npy_files_do_no_harm),
        cmocka_unit_test(npy_files_come_back_as_they_were_written),
        cmocka_unit_test(fortran_order_is_turned_into_row_major),
        cmocka_unit_test(a_mismatch_names_what_is_needed_and_what_is_there),
        cmocka_unit_test(random_contents_follow_seed_dtype_and_name),
        cmocka_unit_test(a_run_counts_compares_and_reports),
        cmocka_unit_test(one_wrong_bit_is_found),
        cmocka_unit_test(every_due_request_is_sent_once_and_compared),
        cmocka_unit_test(a_client_that_thinks_pauses_before_each_request),
        cmocka_unit_test(preemption_is_measured_for_every_load_and_policy),
        cmocka_unit_test(padding_is_measured_for_every_pair_and_policy),
        cmocka_unit_test(without_padding_the_other_policies_are_measured),
        cmocka_unit_test(a_device_that_can_run_none_of_the_policies_is_refused),
        cmocka_unit_test(every_two_networks_are_pairs),
        cmocka_unit_test(unknown_names_are_refused_with_those_there_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
