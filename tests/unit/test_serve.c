/*
 * test_serve.c - the server's parts that need no server: tensors as JSON, requests, answers, configurations, counters.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/poll.h"
#include "serve/config.h"
#include "serve/hint.h"
#include "serve/prompt.h"
#include "serve/request.h"
#include "serve/ring_client.h"
#include "serve/scan.h"
#include "serve/stats.h"
#include "serve/tensor.h"
#include "serve/watch.h"

static const serve_io floats[] = {{.name = "x", .dtype = REEF_F32, .rank = 2, .dims = {2, 2}, .item_elems = 4}};
static const serve_signature signature = {
    .name = "m", .version = "3", .inputs = floats, .outputs = floats, .n_inputs = 1, .n_outputs = 1};

static reef_status from_json(const char *json, reef_dtype dtype, int rank, size_t elems, void *out, reef_error *error)
{
    json_t *root = json_loads(json, JSON_DECODE_ANY, NULL);
    assert_non_null(root);
    reef_status status = serve_tensor_from_json(root, dtype, rank, elems, out, "x", error);
    json_decref(root);
    return status;
}

static void integers_must_fit_their_type(void **state)
{
    (void)state;
    static const struct {
        reef_dtype dtype;
        const char *good, *bad;
    } cases[] = {
        {REEF_U8, "[0,255]", "[0,256]"},
        {REEF_I8, "[-128,127]", "[0,-129]"},
        {REEF_I32, "[-2147483648,2147483647]", "[0,2147483648]"},
        {REEF_I64, "[-9223372036854775808,9223372036854775807]", "[0,1.0]"},
        {REEF_BOOL, "[true,0]", "[0,2]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t out[2];
        reef_error error;
        assert_int_equal(from_json(cases[i].good, cases[i].dtype, 1, 2, out, &error), REEF_OK);
        assert_int_equal(from_json(cases[i].bad, cases[i].dtype, 1, 2, out, &error), REEF_FORMAT);
        assert_non_null(strstr(error.message, "element 1"));
    }
}

static void floats_survive_json_bit_for_bit(void **state)
{
    (void)state;
    uint32_t bits = 1;
    for (int i = 0; i < 20000; i++) {
        bits = bits * 1664525u + 1013904223u;
        float x, y;
        memcpy(&x, &bits, 4);
        reef_error error;
        serve_text text = {0};
        reef_status status = serve_tensor_to_json(&x, REEF_F32, 1, &text, "y", &error);
        if (!isfinite(x)) {
            assert_int_equal(status, REEF_FORMAT);
        } else {
            serve_text_bytes(&text, "", 1);
            assert_int_equal(from_json(text.data, REEF_F32, 1, 1, &y, &error), REEF_OK);
            assert_memory_equal(&x, &y, 4);
        }
        serve_text_free(&text);
    }
}

static void classes_are_the_largest_with_ties_in_order_and_nan_last(void **state)
{
    (void)state;
    const float values[] = {1, 5, NAN, 5, -INFINITY, 2};
    reef_error error;
    serve_text text = {0};
    char label[] = "five";
    const char *const labels[] = {NULL, label};
    assert_int_equal(serve_tensor_classify(values, REEF_F32, 1, 6, 6, labels, 2, false, &text, &error), REEF_OK);
    serve_text_bytes(&text, "", 1);
    assert_string_equal(text.data,
                        "\"5.000000:1:five\",\"5.000000:3\",\"2.000000:5\",\"1.000000:0\",\"-inf:4\",\"nan:2\"");
    serve_text_free(&text);
}

static void text_is_escaped_for_json_and_for_metrics(void **state)
{
    (void)state;
    serve_text text = {0};
    serve_text_json(&text, "a\"b\\\n\xff\xc3\xa9\xed\xa0\x80");
    serve_text_bytes(&text, "", 1);
    json_t *back = json_loads(text.data, JSON_DECODE_ANY, NULL);
    assert_non_null(back);
    assert_string_equal(json_string_value(back), "a\"b\\\n\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
    json_decref(back);
    text.n = 0;
    serve_text_label(&text, "a\"\n");
    serve_text_bytes(&text, "", 1);
    assert_string_equal(text.data, "a\\\"\\n");
    serve_text_free(&text);
}

static void a_request_comes_back_as_it_went_in(void **state)
{
    (void)state;
    static const char json[] =
        "{\"id\":\"7\",\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[2,2],"
        "\"parameters\":{\"binary_data_size\":16}}],\"parameters\":{\"priority\":1,\"timeout\":9}}";
    const float x[] = {1, 2, 3, 4};
    char body[sizeof json - 1 + sizeof x];
    memcpy(body, json, sizeof json - 1);
    memcpy(body + sizeof json - 1, x, sizeof x);
    serve_request request;
    serve_answer answer = {.n_spans = 0};
    reef_error error;
    assert_int_equal(serve_decode(&signature, NULL, body, sizeof body, sizeof json - 1, &request, &error), REEF_OK);
    assert_true(request.has_priority && request.priority == 1 && request.timeout_us == 9);
    assert_memory_equal(request.in[0].data, x, sizeof x);
    memcpy(request.out[0].data, x, sizeof x);
    assert_int_equal(serve_encode(&request, &answer, &error), REEF_OK);
    serve_text_bytes(&answer.json, "", 1);
    assert_string_equal(answer.json.data,
                        "{\"model_name\":\"m\",\"model_version\":\"3\",\"id\":\"7\",\"outputs\":[{\"name\":\"x\","
                        "\"datatype\":\"FP32\",\"shape\":[2,2],\"data\":[1,2,3,4]}]}");
    serve_answer_free(&answer);
    serve_request_free(&request);
}

static void json_has_a_budget(void **state)
{
    (void)state;
    enum { N = 100000 };
    char *body = malloc(2 * N + 2);
    assert_non_null(body);
    body[0] = '[';
    for (size_t i = 0; i < N; i++) {
        memcpy(body + 1 + 2 * i, i + 1 < N ? "0," : "0]", 2);
    }
    serve_request request;
    reef_error error;
    serve_json_budget(1 << 20);
    assert_int_equal(serve_decode(&signature, NULL, body, 2 * N + 1, 2 * N + 1, &request, &error), REEF_FORMAT);
    assert_non_null(strstr(error.message, "memory"));
    serve_request_free(&request);
    serve_json_budget(0);
    assert_int_equal(serve_decode(&signature, NULL, body, 2 * N + 1, 2 * N + 1, &request, &error), REEF_FORMAT);
    assert_non_null(strstr(error.message, "not a JSON object"));
    serve_request_free(&request);
    free(body);
}

static void every_latency_has_its_bucket(void **state)
{
    (void)state;
    static serve_histogram histogram;
    uint64_t before = 0;
    for (size_t i = 0; i + 1 < SERVE_BUCKETS; i++) {
        uint64_t end = serve_bucket_end_ns(i);
        assert_true(end > before);
        serve_histogram_add(&histogram, end - 1);
        serve_histogram_add(&histogram, before);
        assert_int_equal(atomic_load(&histogram.count[i]), 2);
        before = end;
    }
    serve_histogram_add(&histogram, UINT64_MAX / 2);
    assert_int_equal(atomic_load(&histogram.count[SERVE_BUCKETS - 1]), 1);
}

static void configurations_say_what_is_wrong_with_them(void **state)
{
    (void)state;
    static const struct {
        const char *json, *words;
    } cases[] = {
        {"{\"clas\":1}", "unknown field 'clas'"},
        {"{\"class\":\"fast\"}", "'class' must be"},
        {"{\"shapes\":{\"x\":[0]}}", "positive"},
        {"{\"shapes\":{\"x\":[1,1,1,1,1,1,1,1,1]}}", "at most 8"},
        {"{\"batching\":{\"max_batch\":257}}", "1 to 256"},
        {"{\"batching\":{}}", "max_batch"},
        {"{\"labels\":{\"y\":\"../secret\"}}", "plain names"},
        {"{\"versions\":[0]}", "version numbers"},
        {"{\"instances\":0}", "1 to 64"},
        {"[]", "one JSON object"},
        {"{", "line 1"},
    };
    serve_config config;
    reef_error error;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(serve_config_parse(cases[i].json, strlen(cases[i].json), "m.json", &config, &error),
                         REEF_FORMAT);
        if (!strstr(error.message, cases[i].words) || strncmp(error.message, "m.json: ", 8) != 0) {
            fail_msg("'%s' does not say '%s'", error.message, cases[i].words);
        }
        serve_config_free(&config);
    }
    assert_int_equal(serve_config_load("/nonexistent.json", &config, &error), REEF_OK);
    assert_true(config.service_class == REEF_BE && config.max_batch == 0);
    serve_config_free(&config);
}

/* Feeds the intervals, and says how many of the arrivals led to a forecast. */
static unsigned foretold(serve_rhythm *rhythm, const uint64_t *intervals_us, size_t n, serve_forecast *last)
{
    uint64_t now = 1000000000u;
    unsigned count = serve_rhythm_add(rhythm, now, last);
    for (size_t i = 0; i < n; i++) {
        now += intervals_us[i] * 1000;
        count += serve_rhythm_add(rhythm, now, last);
    }
    return count;
}

static void periodic_arrivals_are_foretold_and_bursts_are_not(void **state)
{
    (void)state;
    static const struct {
        uint64_t intervals_us[8];
        unsigned foretold;
    } cases[] = {
        {{20000, 20000, 20000, 20000, 20000, 20000, 20000, 20000}, 5}, /* from the fifth arrival on */
        {{20000, 20200, 19900, 20000, 20100, 20000, 19800, 20000}, 5}, /* jitter */
        {{20000, 20000, 20000, 23000, 20000, 20000, 20000, 20000}, 1}, /* one late: four must agree again */
        {{20, 20, 20, 20, 20, 20, 20, 20}, 0},                         /* a burst: as fast as it can */
        {{1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000}, 0},         /* waiting would take too much of the period */
        {{20, 20, 50000, 20, 20, 50000, 20, 20}, 0},                   /* bursts, periodic ones */
        {{700, 9000, 31000, 2200, 14000, 600, 25000, 5000}, 0},        /* Poisson */
        {{3e6, 3e6, 3e6, 3e6, 3e6, 3e6, 3e6, 3e6}, 0},                 /* too far ahead */
        {{0, 0, 0, 0, 0, 0, 0, 0}, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        serve_rhythm rhythm = {0};
        serve_forecast forecast = {0};
        unsigned n = foretold(&rhythm, cases[i].intervals_us, 8, &forecast);
        if (n != cases[i].foretold) {
            fail_msg("case %zu: foretold %u times, not %u", i, n, cases[i].foretold);
        }
    }
    serve_rhythm rhythm = {0};
    serve_forecast forecast;
    assert_int_equal(foretold(&rhythm, (const uint64_t[]){20000, 20200, 19900, 20000}, 4, &forecast), 1);
    /* The mean is 20025 us; with a spread of 300 us the request comes 300 us early to 300 us late. */
    assert_int_equal(forecast.period_ns, 20025000);
    assert_int_equal(forecast.hint_ns, 1000000000u + 80100000 + 20025000 - 300000 - 300000);
    assert_int_equal(forecast.within_ns, 300000 + 2 * 300000);
    assert_true(SERVE_HINT_LEAD_NS + 2 * SERVE_RHYTHM_SPREAD_NS <= REEF_HINT_MAX_NS);
}

static void a_periodic_client_of_the_ring_is_awaited(void **state)
{
    (void)state;
    enum { SPIN_NS = 50000 };
    static const struct {
        uint64_t intervals_us[6];
        unsigned awaited;
    } cases[] = {
        {{2000, 2000, 2000, 2000, 2000, 2000}, 3},       /* from the fifth arrival on */
        {{2000, 2050, 1950, 2000, 2020, 1980}, 3},       /* jitter */
        {{2000, 2000, 2300, 2000, 2000, 2000}, 0},       /* one late: it would be polled for too long */
        {{33000, 34000, 32500, 33000, 33300, 33000}, 3}, /* a camera: more jitter is affordable */
        {{500, 500, 500, 500, 500, 500}, 0},             /* more than a quarter of the time */
        {{12, 12, 12, 12, 12, 12}, 0},                   /* a closed loop: polled anyway */
        {{3e6, 3e6, 3e6, 3e6, 3e6, 3e6}, 0},             /* too far ahead */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        serve_rhythm rhythm = {0};
        uint64_t now = 1000000000u, from = 0, until = 0;
        unsigned n = serve_ring_await(&rhythm, now, SPIN_NS, &from, &until);
        for (size_t k = 0; k < 6; k++) {
            now += cases[i].intervals_us[k] * 1000;
            bool awaited = serve_ring_await(&rhythm, now, SPIN_NS, &from, &until);
            n += awaited;
            if (awaited && (from <= now || until <= from || 4 * (until - from) > until - now + 4 * SPIN_NS)) {
                fail_msg("case %zu: at %llu awaited from %llu until %llu", i, (unsigned long long)now,
                         (unsigned long long)from, (unsigned long long)until);
            }
        }
        if (n != cases[i].awaited) {
            fail_msg("case %zu: awaited %u times, not %u", i, n, cases[i].awaited);
        }
    }
    serve_rhythm rhythm = {.arrivals = {0, 1000000, 3000000, 5050000, 7000000}};
    uint64_t from, until;
    assert_true(serve_ring_await(&rhythm, 9000000, SPIN_NS, &from, &until));
    /* Every 2 ms, 100 us early or late: awake 200 us before, and polling until 50 us behind the latest moment. */
    assert_int_equal(from, 11000000 - 100000 - SERVE_RING_EARLY_NS);
    assert_int_equal(until, 11000000 + 100000 + SPIN_NS);
}

static void who_loses_the_processor_sleeps_instead_of_polling(void **state)
{
    (void)state;
    reef_poll poll = {0};
    uint64_t now = 5000000000u;
    assert_true(reef_poll_allowed(&poll, now));
    assert_true(reef_poll_back(&poll, now, now + REEF_POLL_LOST_NS - 1));
    assert_true(reef_poll_allowed(&poll, now));
    for (int i = 0; i < 10; i++) { /* now and then means nothing */
        now += REEF_POLL_RECENT_NS;
        assert_true(reef_poll_back(&poll, now - 10 * REEF_POLL_LOST_NS, now));
    }
    now += REEF_POLL_RECENT_NS;
    for (int i = 0; i + 1 < REEF_POLL_LOSSES; i++) {
        assert_true(reef_poll_back(&poll, now, now + REEF_POLL_LOST_NS));
        now += REEF_POLL_LOST_NS;
    }
    uint64_t pause = REEF_POLL_PAUSE_NS;
    for (int i = 0; i < 8; i++) { /* lost again as soon as it is tried: longer and longer, up to a limit */
        assert_false(reef_poll_back(&poll, now, now + REEF_POLL_LOST_NS));
        now += REEF_POLL_LOST_NS;
        assert_false(reef_poll_allowed(&poll, now + pause - 1));
        assert_true(reef_poll_allowed(&poll, now + pause));
        now += pause;
        pause = 2 * pause < REEF_POLL_PAUSE_MAX_NS ? 2 * pause : REEF_POLL_PAUSE_MAX_NS;
    }
    now += REEF_POLL_RECENT_NS; /* it went well for a while: what was is forgotten */
    for (int i = 0; i + 1 < REEF_POLL_LOSSES; i++) {
        assert_true(reef_poll_back(&poll, now, now + REEF_POLL_LOST_NS));
    }
    assert_false(reef_poll_back(&poll, now, now + REEF_POLL_LOST_NS));
    assert_true(reef_poll_allowed(&poll, now + REEF_POLL_LOST_NS + REEF_POLL_PAUSE_NS));
}

static void the_rest_of_a_body_comes_as_fast_as_its_beginning(void **state)
{
    (void)state;
    assert_int_equal(serve_body_rest_ns(1000, 0, 100), UINT64_MAX);
    assert_int_equal(serve_body_rest_ns(1000, 25, 100), 3000);
    assert_int_equal(serve_body_rest_ns(1000, 100, 100), 0);
    assert_int_equal(serve_body_rest_ns(1000, 200, 100), 0);
    assert_int_equal(serve_body_rest_ns(UINT64_MAX, 1, UINT64_MAX), UINT64_MAX);
}

static void versions_are_ordered_as_numbers(void **state)
{
    (void)state;
    assert_true(serve_version_order("9", "10") < 0);
    assert_true(serve_version_order("10", "9") > 0);
    assert_true(serve_version_order("10", "10") == 0);
    assert_true(serve_name_ok("a.b-c_1") && !serve_name_ok("") && !serve_name_ok(".a") && !serve_name_ok("a/b") &&
                !serve_name_ok("a b"));
}

/* ------------------------------------------------------------------------------------------------ connections -- */

/* While this is set, every thread but the test's own loses the processor as soon as it has read the time. */
static _Atomic bool stalls;
static pthread_t tester;

int __real_clock_gettime(clockid_t clock, struct timespec *out);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out)
{
    int result = __real_clock_gettime(clock, out);
    if (atomic_load(&stalls) && !pthread_equal(pthread_self(), tester)) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return result;
}

/* The watching thread compares times with when a connection last did something. What happened after it had read the
 * clock is not 500 years ago. */
static void who_was_active_just_now_is_not_cut_off(void **state)
{
    (void)state;
    static const serve_phase phases[] = {SERVE_RECEIVING, SERVE_SENDING, SERVE_IDLE};
    serve_server server = {0};
    reef_error error;
    int ends[2];
    serve_options_default(&server.options);
    tester = pthread_self();
    assert_int_equal(reef_device_open("cpu", &(reef_device_options){.units = 1}, &server.device, &error), REEF_OK);
    assert_int_equal(serve_watch_create(&server, &server.watch, &error), REEF_OK);
    for (size_t p = 0; p < 3; p++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        serve_peer *peer = serve_peer_add(server.watch, ends[0], true, "here");
        assert_non_null(peer);
        atomic_store(&stalls, true);
        /* It looks every 500 ms. */
        char byte;
        ssize_t got = -1;
        for (uint64_t end = reef_now_ns() + 1200000000u; got < 0 && reef_now_ns() < end;) {
            serve_peer_phase(peer, phases[p], 0);
            nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
            got = recv(ends[1], &byte, 1, MSG_DONTWAIT); /* 0 or a byte of an error: cut off */
        }
        atomic_store(&stalls, false);
        assert_int_equal(got, -1);
        serve_peer_remove(peer);
        close(ends[0]);
        close(ends[1]);
    }
    serve_watch_destroy(server.watch);
    reef_device_close(server.device);
}

static void threads_become_as_nice_as_they_may(void **state)
{
    (void)state;
    static const struct {
        int now, becomes;
        uint64_t limit;
    } cases[] = {{0, -10, UINT64_MAX}, {0, -10, 40},  {0, -10, 30},  {0, -9, 29}, {0, 0, 20}, {0, 0, 0}, {5, 5, 0},
                 {5, 1, 19},           {-10, -10, 0}, {-15, -15, 40}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(serve_prompt_nice(cases[i].now, cases[i].limit), cases[i].becomes);
    }
}

int main(void)
{
    serve_json_setup();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_must_fit_their_type),
        cmocka_unit_test(floats_survive_json_bit_for_bit),
        cmocka_unit_test(classes_are_the_largest_with_ties_in_order_and_nan_last),
        cmocka_unit_test(text_is_escaped_for_json_and_for_metrics),
        cmocka_unit_test(a_request_comes_back_as_it_went_in),
        cmocka_unit_test(json_has_a_budget),
        cmocka_unit_test(every_latency_has_its_bucket),
        cmocka_unit_test(configurations_say_what_is_wrong_with_them),
        cmocka_unit_test(periodic_arrivals_are_foretold_and_bursts_are_not),
        cmocka_unit_test(a_periodic_client_of_the_ring_is_awaited),
        cmocka_unit_test(who_loses_the_processor_sleeps_instead_of_polling),
        cmocka_unit_test(the_rest_of_a_body_comes_as_fast_as_its_beginning),
        cmocka_unit_test(threads_become_as_nice_as_they_may),
        cmocka_unit_test(versions_are_ordered_as_numbers),
        cmocka_unit_test(who_was_active_just_now_is_not_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
