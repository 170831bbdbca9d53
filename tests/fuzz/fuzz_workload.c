/*
 * fuzz_workload.c - arbitrary bytes as a workload: the JSON, its clients, and the due times that they ask for.
 */
#include <math.h>

#include "bench/workload.h"
#include "fuzz/fuzz.h"

static void check_client(const bench_client *client, uint64_t seed)
{
    check(client->name && client->model, "clients have a name and a model");
    for (size_t i = 0; i < client->n_shapes; i++) {
        check(client->shapes[i].rank >= 0 && client->shapes[i].rank <= REEF_MAX_RANK, "ranks are in range");
    }
    for (size_t i = 0; i < client->n_inputs; i++) {
        check(client->inputs[i].input && client->inputs[i].path, "inputs have a name and a file");
    }
    const bench_arrival *arrival = &client->arrival;
    const double rate = bench_arrival_rate(arrival);
    check(isfinite(rate) && rate >= 0 && bench_arrival_name(arrival->kind), "rates are numbers");
    for (size_t i = 1; i < arrival->n_times; i++) {
        check(arrival->times_ms[i] >= arrival->times_ms[i - 1], "traces ascend");
    }
    uint64_t *times = NULL;
    size_t n = 0;
    /* About a thousand requests, whatever the rate. */
    const uint64_t span_ns = rate > 0 ? (uint64_t)fmin(1e12, 1e12 / rate) : 1000000;
    if (bench_arrival_times(arrival, 1, seed, seed % 1000000007u, span_ns, &times, &n) == REEF_OK) {
        for (size_t i = 0; i < n; i++) {
            check(times[i] < span_ns && (i == 0 || times[i] >= times[i - 1]), "due times ascend inside the span");
        }
        free(times);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    bench_workload workload = {0};
    reef_error error = {.status = REEF_OK, .message = ""};
    const reef_status status = bench_workload_parse((const char *)bytes, size, "folder/w.json", &workload, &error);
    if (status) {
        check_failure(status, &error);
    }
    for (size_t i = 0; i < workload.n_clients && !status; i++) {
        check_client(&workload.clients[i], fuzz_seed(bytes, size));
    }
    bench_workload_free(&workload);
    return 0;
}
