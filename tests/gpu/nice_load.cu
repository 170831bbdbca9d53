/*
 * nice_load.cu - three CUDA programs that know nothing of reef, for measuring reef nice. Built with the static CUDA runtime
 * and with the shared one.
 *
 *     nice_load latency    a kernel of one block and 10 us, at intervals: from handing it over to seeing its end
 *     nice_load burn       keeps the GPU full of blocks of 20 ms; four kernels are queued at any time
 *     nice_load count N    N kernels that update memory in place and count with atomics: a kernel that ran twice, or not to
 *                          its end, changes the sum that is printed
 *
 * latency and burn take commands on standard input, one per line: "run SECONDS" answers with one line of JSON. Times in it are
 * seconds of CLOCK_MONOTONIC, so that what two programs did at the same time can be told apart. Both find out how many steps
 * of arithmetic take their time, and say so; a second argument gives the number, so that two programs do the same work.
 */
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <cuda_runtime.h>
#include <unistd.h>

using std::chrono::duration;
using std::chrono::steady_clock;

static double since_boot(steady_clock::time_point t)
{
    return duration<double>(t.time_since_epoch()).count();
}

static void check(cudaError_t result, const char *call)
{
    if (result != cudaSuccess) {
        fprintf(stderr, "nice_load: %s: %s\n", call, cudaGetErrorString(result));
        exit(1);
    }
}
#define CHECK(call) check(call, #call)

static double seconds_since(steady_clock::time_point begin)
{
    return duration<double>(steady_clock::now() - begin).count();
}

/* Takes a time by counting steps: a clock would go on while the context is switched out. */
__global__ void work(unsigned *out, unsigned steps)
{
    unsigned x = threadIdx.x + blockIdx.x;
    for (unsigned i = 0; i < steps; i++) {
        x = x * 1664525u + 1013904223u;
        asm volatile("" : "+r"(x));
    }
    if (x == 305419896u) {
        *out = x;
    }
}

/* In place: every element is replaced by a function of itself and its predecessor's count; counts by atomics. */
__global__ void update(unsigned *data, unsigned *counts, unsigned n, unsigned round)
{
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        unsigned x = data[i];
        for (unsigned k = 0; k < 256; k++) {
            x = x * 1664525u + 1013904223u + round;
        }
        atomicAdd(&counts[x & 4095u], (x >> 12) & 15u);
        data[i] = x;
    }
}

struct gpu {
    unsigned *out;
    unsigned sms;
    double ns_per_step;
};

static double time_of(const gpu &g, unsigned blocks, unsigned steps, cudaStream_t stream)
{
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
        auto begin = steady_clock::now();
        work<<<blocks, 256, 0, stream>>>(g.out, steps);
        CHECK(cudaStreamSynchronize(stream));
        best = std::min(best, seconds_since(begin));
    }
    return best;
}

static gpu open_gpu()
{
    gpu g = {};
    int sms = 0;
    CHECK(cudaSetDeviceFlags(cudaDeviceScheduleSpin));
    CHECK(cudaMalloc(&g.out, 4096));
    CHECK(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    g.sms = (unsigned)sms;
    time_of(g, g.sms, 1000, 0);
    return g;
}

/* Steps that take so long; slope of two measurements, so that launching does not count. */
static unsigned steps_for(const gpu &g, unsigned blocks, double seconds, cudaStream_t stream)
{
    double slope = (time_of(g, blocks, 200000, stream) - time_of(g, blocks, 20000, stream)) / 180000;
    return (unsigned)(seconds / slope);
}

/* Medians of launches at intervals, as latency makes them: an idle GPU runs at another clock. */
static double paced(const gpu &g, unsigned steps, cudaStream_t stream)
{
    std::vector<double> times;
    for (int i = 0; i < 60; i++) {
        auto due = steady_clock::now() + std::chrono::milliseconds(3);
        while (steady_clock::now() < due) {
        }
        work<<<1, 32, 0, stream>>>(g.out, steps);
        CHECK(cudaStreamSynchronize(stream));
        times.push_back(seconds_since(due));
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

static unsigned paced_steps_for(const gpu &g, double seconds, cudaStream_t stream)
{
    double slope = (paced(g, 20000, stream) - paced(g, 2000, stream)) / 18000;
    return (unsigned)(seconds / slope);
}

static void latency(const gpu &g, double seconds, unsigned steps, cudaStream_t stream)
{
    std::vector<double> us;
    std::mt19937 random(7);
    auto begin = steady_clock::now();
    while (seconds_since(begin) < seconds) {
        /* 2 to 6 ms apart, so that arrivals fall anywhere in a time slice. */
        auto due = steady_clock::now() + std::chrono::microseconds(2000 + random() % 4000);
        while (steady_clock::now() < due) {
        }
        work<<<1, 32, 0, stream>>>(g.out, steps);
        CHECK(cudaStreamSynchronize(stream));
        us.push_back(seconds_since(due) * 1e6);
    }
    std::sort(us.begin(), us.end());
    size_t n = us.size();
    printf("{\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"n\": %zu, \"begin\": %.6f, \"end\": %.6f}\n", us[n / 2],
           us[n * 99 / 100], us[n - 1], n, since_boot(begin), since_boot(steady_clock::now()));
}

static void burn(const gpu &g, double seconds, unsigned steps, cudaStream_t stream)
{
    cudaEvent_t ended[4];
    for (auto &event : ended) {
        CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    }
    auto begin = steady_clock::now();
    std::vector<double> times;
    for (unsigned i = 0; seconds_since(begin) < seconds || i % 4; i++) {
        if (i >= 4) {
            CHECK(cudaEventSynchronize(ended[i % 4]));
            times.push_back(since_boot(steady_clock::now()));
        }
        work<<<g.sms * 8, 256, 0, stream>>>(g.out, steps); /* 2048 threads on each SM: all of it */
        CHECK(cudaEventRecord(ended[i % 4], stream));
    }
    CHECK(cudaStreamSynchronize(stream));
    printf("{\"times\": [");
    for (size_t i = 0; i < times.size(); i++) {
        printf("%s%.6f", i ? ", " : "", times[i]);
    }
    printf("]}\n");
    for (auto &event : ended) {
        CHECK(cudaEventDestroy(event));
    }
}

static int count(const gpu &g, unsigned rounds, cudaStream_t stream)
{
    const unsigned n = 1u << 22;
    unsigned *data, *counts;
    CHECK(cudaMalloc(&data, n * sizeof *data));
    CHECK(cudaMalloc(&counts, 4096 * sizeof *counts));
    CHECK(cudaMemset(data, 1, n * sizeof *data));
    CHECK(cudaMemset(counts, 0, 4096 * sizeof *counts));
    CHECK(cudaDeviceSynchronize());
    auto begin = steady_clock::now();
    for (unsigned i = 0; i < rounds; i++) {
        update<<<g.sms * 8, 256, 0, stream>>>(data, counts, n, i);
    }
    CHECK(cudaStreamSynchronize(stream));
    double took = seconds_since(begin);
    std::vector<unsigned> host(n), sums(4096);
    CHECK(cudaMemcpy(host.data(), data, n * sizeof *data, cudaMemcpyDeviceToHost));
    CHECK(cudaMemcpy(sums.data(), counts, 4096 * sizeof *counts, cudaMemcpyDeviceToHost));
    uint64_t hash = 0xcbf29ce484222325u;
    for (unsigned x : host) {
        hash = (hash ^ x) * 0x100000001b3u;
    }
    for (unsigned x : sums) {
        hash = (hash ^ x) * 0x100000001b3u;
    }
    printf("{\"sum\": \"%016llx\", \"rounds\": %u, \"rate\": %.2f}\n", (unsigned long long)hash, rounds, rounds / took);
    return 0;
}

int main(int argc, char **argv)
{
    std::string mode = argc > 1 ? argv[1] : "";
    if (mode != "latency" && mode != "burn" && (mode != "count" || argc < 3)) {
        fprintf(stderr, "usage: nice_load latency [STEPS] | burn [STEPS] | count ROUNDS\n");
        return 2;
    }
    gpu g = open_gpu();
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    if (mode == "count") {
        return count(g, (unsigned)atoi(argv[2]), stream);
    }
    unsigned steps = argc > 2         ? (unsigned)atoi(argv[2])
                     : mode == "burn" ? steps_for(g, g.sms * 8, 20e-3, stream)
                                      : paced_steps_for(g, 10e-6, stream);
    printf("{\"ready\": true, \"pid\": %d, \"steps\": %u}\n", (int)getpid(), steps);
    fflush(stdout);
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        double seconds = strncmp(line, "run ", 4) == 0 ? atof(line + 4) : 0;
        if (mode == "burn") {
            burn(g, seconds, steps, stream);
        } else {
            latency(g, seconds, steps, stream);
        }
        fflush(stdout);
    }
    return 0;
}
