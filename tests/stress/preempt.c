/*
 * preempt.c - random preemption of real models, every answer compared bit for bit with the undisturbed one.
 *
 *     preempt [--device D] [--count N] [--policy P[,P...]] [--units N] [--seed N] [--precision P] [--json FILE]
 *             MODEL.onnx[:NAME=1x3x224x224[,NAME=...]] ...
 *
 * Under each policy the models run as best-effort work, each alone for a while and then all at once, while real-time
 * requests arrive at random times: of synthetic models that leave anything from all to none of the device to a lease, of
 * one kernel or several, and of the given models themselves where they are quick enough; one by one, and right behind
 * each other. It goes on until N preemptions were counted (under priority, streams and seq: real-time requests). Real-time answers are compared, too. Exits with 1 if an answer
 * differs, a request fails, or nothing is preempted any more.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/futex.h"
#include "reef/reef.h"

enum { MAX_IO = 16, MAX_SHAPES = 4, MAX_POLICIES = 8, MAX_BURST = 3, MAX_RT = 64 };
static const uint64_t QUICK_NS = 5000000, STUCK_NS = 60000000000u, PROGRESS_NS = 2000000000u;

typedef struct subject { /* a model with its undisturbed answer */
    char name[64];
    reef_model *model;
    reef_session *be;
    size_t n_inputs, n_outputs;
    size_t bytes[MAX_IO];
    void *inputs[MAX_IO], *expected[MAX_IO], *outputs[MAX_IO];
    pthread_t thread;
    _Atomic uint64_t answers, wrong;
} subject;

typedef struct rt_kind { /* what a real-time request may be of */
    subject *of;         /* NULL: synthetic, nothing to compare */
    reef_model *model;   /* of its own, when synthetic */
    reef_session *session;
    void *outputs[MAX_BURST][MAX_IO];
} rt_kind;

typedef struct row {
    const char *policy;
    char be[64];
    uint64_t preemptions, be_answers, rt_answers, wrong, tiles_abandoned, kernels_evicted;
    double lost_pct, seconds;
} row;

static uint64_t random_state = 1;
static _Atomic bool stop;

/* ---------------------------------------------------------------------------------------------------- tools -- */

static uint64_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 33;
}

/* The whole program's end, with one line that says why. */
static const reef_device *asked; /* for the reason of a failure */

static void die(const char *what, const char *why)
{
    reef_error error;
    bool sick = asked && reef_device_health(asked, &error) != REEF_OK;
    fprintf(stderr, "preempt: %s: %s%s%s\n", what, why, sick ? ": " : "", sick ? error.message : "");
    exit(1);
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes + 1);
    if (!memory) {
        die("memory", "out of it");
    }
    return memory;
}

static void pause_for(uint64_t ns)
{
    uint64_t end = reef_now_ns() + ns;
    if (ns > 100000) {
        uint64_t wake = end - 60000;
        struct timespec until = {(time_t)(wake / 1000000000u), (long)(wake % 1000000000u)};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
        }
    }
    while (reef_now_ns() < end) {
        reef_cpu_relax();
    }
}

static uint64_t whole_number(const char *option, const char *text, uint64_t low, uint64_t high)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (!strchr("0123456789", *text) || !*text || *end || errno || number < low || number > high) {
        fprintf(stderr, "preempt: --%s: '%s' is not a whole number from %llu to %llu\n", option, text,
                (unsigned long long)low, (unsigned long long)high);
        exit(2);
    }
    return number;
}

/* --------------------------------------------------------------------------------------------------- models -- */

static void fill_input(const reef_tensor_info *info, void *data)
{
    size_t n = 1;
    for (int d = 0; d < info->rank; d++) {
        n *= (size_t)info->dims[d];
    }
    for (size_t i = 0; i < n; i++) {
        switch (info->dtype) {
        case REEF_F32: ((float *)data)[i] = (float)next_random() / 2147483648.0f - 0.5f; break;
        case REEF_I64: ((int64_t *)data)[i] = (int64_t)(next_random() % 2); break;
        case REEF_I32: ((int32_t *)data)[i] = (int32_t)(next_random() % 2); break;
        default: ((char *)data)[i] = (char)(next_random() % 2); break;
        }
    }
}

/* "path:x=1x3x8x8,y=2" is split in place. */
static size_t parse_shapes(char *argument, reef_shape *shapes)
{
    size_t n = 0;
    char *colon = strrchr(argument, ':');
    if (!colon || !strchr(colon, '=')) {
        return 0;
    }
    *colon = 0;
    for (char *part = strtok(colon + 1, ","); part && n < MAX_SHAPES; part = strtok(NULL, ",")) {
        char *dims = strchr(part, '=');
        if (!dims) {
            die(argument, "a shape must be NAME=1x3x8x8");
        }
        *dims++ = 0;
        shapes[n] = (reef_shape){.input = part};
        for (; *dims && shapes[n].rank < REEF_MAX_RANK; dims += *dims == 'x') {
            char *end;
            shapes[n].dims[shapes[n].rank++] = strtoll(dims, &end, 10);
            if (end == dims) {
                die(argument, "a shape must be NAME=1x3x8x8");
            }
            dims = end;
        }
        n++;
    }
    return n;
}

static void name_after(subject *s, const char *path)
{
    const char *slash = strrchr(path, '/');
    snprintf(s->name, sizeof s->name, "%s", slash ? slash + 1 : path);
    char *dot = strrchr(s->name, '.');
    if (dot) {
        *dot = 0;
    }
}

/* Where got differs from what was expected: writes it down and returns true. */
static bool differs(const subject *s, void *const *got, const char *what, uint64_t number)
{
    for (size_t i = 0; i < s->n_outputs; i++) {
        const unsigned char *a = s->expected[i], *b = got[i];
        size_t at = 0;
        if (!memcmp(a, b, s->bytes[i])) {
            continue;
        }
        while (a[at] == b[at]) {
            at++;
        }
        fprintf(stderr, "preempt: %s: %s %llu: output %zu differs from byte %zu of %zu on (%02x instead of %02x)\n",
                s->name, what, (unsigned long long)number, i, at, s->bytes[i], b[at], a[at]);
        return true;
    }
    return false;
}

static void scribble(const subject *s, void **outputs)
{
    for (size_t i = 0; i < s->n_outputs; i++) {
        memset(outputs[i], 0xa5, s->bytes[i]);
    }
}

static uint64_t load(reef_device *device, char *argument, reef_precision precision, const char *cache, subject *s)
{
    reef_error error = {0};
    reef_shape shapes[MAX_SHAPES];
    reef_model_options options = {.shapes = shapes, .cache_dir = cache, .precision = precision};
    options.n_shapes = parse_shapes(argument, shapes);
    name_after(s, argument);
    if (reef_model_load(device, argument, &options, &s->model, &error) ||
        reef_session_create(s->model, &(reef_session_options){.service_class = REEF_BE}, &s->be, &error)) {
        die(argument, error.message);
    }
    reef_tensor_info info;
    if (reef_model_inputs(s->model) > MAX_IO || reef_model_outputs(s->model) > MAX_IO) {
        die(argument, "too many inputs or outputs for this test");
    }
    for (s->n_inputs = 0; reef_model_input(s->model, s->n_inputs, &info); s->n_inputs++) {
        s->inputs[s->n_inputs] = allocate(info.bytes);
        fill_input(&info, s->inputs[s->n_inputs]);
    }
    for (s->n_outputs = 0; reef_model_output(s->model, s->n_outputs, &info); s->n_outputs++) {
        s->bytes[s->n_outputs] = info.bytes;
        s->expected[s->n_outputs] = allocate(info.bytes);
        s->outputs[s->n_outputs] = allocate(info.bytes);
    }
    /* The reference is the real-time form, alone on the device; best-effort work must answer the same, to the last bit. */
    reef_session *rt;
    reef_request_info took;
    if (reef_session_create(s->model, &(reef_session_options){.service_class = REEF_RT}, &rt, &error)) {
        die(argument, error.message);
    }
    reef_status status = reef_session_run(rt, (const void *const *)s->inputs, s->expected, &took);
    status = status ? status : reef_session_run(rt, (const void *const *)s->inputs, s->expected, &took);
    reef_session_destroy(rt);
    scribble(s, s->outputs);
    status = status ? status : reef_session_run(s->be, (const void *const *)s->inputs, s->outputs, NULL);
    if (status) {
        die(s->name, reef_status_text(status));
    }
    if (differs(s, s->outputs, "undisturbed best-effort run", 1)) {
        exit(1);
    }
    return took.end_ns - took.start_ns;
}

static void unload(subject *s)
{
    for (size_t i = 0; i < s->n_inputs; i++) {
        free(s->inputs[i]);
    }
    for (size_t i = 0; i < s->n_outputs; i++) {
        free(s->expected[i]);
        free(s->outputs[i]);
    }
    reef_session_destroy(s->be);
    reef_model_destroy(s->model);
}

/* ------------------------------------------------------------------------------------------- real-time work -- */

static void add_rt(rt_kind *kinds, size_t *n, reef_device *device, subject *of, reef_model *model)
{
    reef_error error = {0};
    rt_kind *kind = &kinds[(*n)++];
    *kind = (rt_kind){.of = of, .model = of ? NULL : model};
    reef_session_options options = {.service_class = REEF_RT, .instances = 1 + *n % 2};
    if (reef_session_create(model, &options, &kind->session, &error)) {
        die("real-time session", error.message);
    }
    for (size_t b = 0; of && b < MAX_BURST; b++) {
        for (size_t i = 0; i < of->n_outputs; i++) {
            kind->outputs[b][i] = allocate(of->bytes[i]);
        }
    }
    (void)device;
}

/* From one tile, which leaves all units but one to a lease, to several waves of the whole device. */
static void add_synthetic(rt_kind *kinds, size_t *n, reef_device *device, unsigned units)
{
    const uint32_t tiles[] = {1, units / 4, units / 2, units - 1, units, 3 * units};
    const uint64_t tile_ns[] = {1000, 20000};
    for (size_t i = 0; i < sizeof tiles / sizeof tiles[0]; i++) {
        for (size_t k = 0; k < 2 && tiles[i]; k++) {
            reef_error error = {0};
            reef_model *model;
            uint32_t kernels = 1 + (uint32_t)(i + k) % 3;
            if (reef_model_create_synthetic(device, kernels, tiles[i], tile_ns[k], &model, &error)) {
                die("synthetic model", error.message);
            }
            add_rt(kinds, n, device, NULL, model);
        }
    }
}

static void free_rt(rt_kind *kind)
{
    reef_session_destroy(kind->session);
    reef_model_destroy(kind->model);
    for (size_t b = 0; kind->of && b < MAX_BURST; b++) {
        for (size_t i = 0; i < kind->of->n_outputs; i++) {
            free(kind->outputs[b][i]);
        }
    }
}

/* One to MAX_BURST requests of one kind right behind each other. */
static uint64_t rt_arrival(rt_kind *kind, uint64_t number, uint64_t *wrong)
{
    subject *s = kind->of;
    uint64_t n = next_random() % 4 ? 1 : 1 + next_random() % MAX_BURST;
    reef_request *requests[MAX_BURST];
    for (uint64_t b = 0; b < n; b++) {
        if (s) {
            scribble(s, kind->outputs[b]);
        }
        reef_submit_options submit = {.inputs = s ? (const void *const *)s->inputs : NULL,
                                      .outputs = s ? kind->outputs[b] : NULL};
        reef_status status = reef_session_submit(kind->session, &submit, &requests[b]);
        if (status) {
            die("submitting a real-time request", reef_status_text(status));
        }
    }
    for (uint64_t b = 0; b < n; b++) {
        reef_request_info info;
        reef_request_wait(requests[b], UINT64_MAX, &info);
        reef_request_release(requests[b]);
        if (info.status) {
            die("a real-time request", reef_status_text(info.status));
        }
        *wrong += s && differs(s, kind->outputs[b], "real-time request", number + b);
    }
    return n;
}

/* ------------------------------------------------------------------------------------------------- the test -- */

static void *best_effort(void *context)
{
    subject *s = context;
    while (!atomic_load(&stop)) {
        scribble(s, s->outputs);
        reef_status status = reef_session_run(s->be, (const void *const *)s->inputs, s->outputs, NULL);
        uint64_t number = atomic_fetch_add(&s->answers, 1);
        if (status) {
            die(s->name, reef_status_text(status));
        }
        if (differs(s, s->outputs, "best-effort request", number)) {
            atomic_fetch_add(&s->wrong, 1);
        }
    }
    return NULL;
}

typedef struct stress {
    reef_device *device;
    rt_kind kinds[MAX_RT];
    size_t n_kinds;
    uint64_t wanted, done; /* preemptions, in all groups */
} stress;

/* The subjects together, until `count` preemptions. */
static void run_group(stress *t, subject *subjects, size_t n, uint64_t count, row *out)
{
    reef_device_stats before, now;
    /* Policies that take nothing back are tested with as many arrivals. */
    bool never = !strcmp(out->policy, "priority") || !strcmp(out->policy, "streams") || !strcmp(out->policy, "seq");
    uint64_t begun = reef_now_ns(), shown = begun, progress_ns = begun, hits = 0, wrong = 0;
    reef_device_stats_get(t->device, &before);
    atomic_store(&stop, false);
    for (size_t i = 0; i < n; i++) {
        atomic_store(&subjects[i].answers, 0);
        atomic_store(&subjects[i].wrong, 0);
        if (pthread_create(&subjects[i].thread, NULL, best_effort, &subjects[i])) {
            die("thread", "cannot be started");
        }
    }
    while (hits < count) {
        pause_for(1000 + next_random() % 400000);
        rt_kind *kind = &t->kinds[next_random() % t->n_kinds];
        out->rt_answers += rt_arrival(kind, out->rt_answers, &wrong);
        reef_device_stats_get(t->device, &now);
        uint64_t at = reef_now_ns();
        if (never || now.preemptions - before.preemptions > hits) {
            hits = never ? out->rt_answers : now.preemptions - before.preemptions;
            progress_ns = at;
        }
        if (at - progress_ns > STUCK_NS) {
            fprintf(stderr, "preempt: %s under %s: no preemption for a minute, %llu of %llu counted\n", out->be,
                    out->policy, (unsigned long long)hits, (unsigned long long)count);
            exit(1);
        }
        if (at - shown > PROGRESS_NS) {
            fprintf(stderr, "preempt: %3.0f%%, %s, %s: %llu of %llu preemptions\n",
                    100.0 * (double)(t->done + hits) / (double)t->wanted, out->policy, out->be,
                    (unsigned long long)hits, (unsigned long long)count);
            shown = at;
        }
    }
    atomic_store(&stop, true);
    for (size_t i = 0; i < n; i++) {
        pthread_join(subjects[i].thread, NULL);
        out->be_answers += atomic_load(&subjects[i].answers);
        wrong += atomic_load(&subjects[i].wrong);
    }
    reef_device_stats_get(t->device, &now);
    uint64_t busy = now.busy_ns_be - before.busy_ns_be;
    out->wrong = wrong;
    out->preemptions = now.preemptions - before.preemptions;
    out->tiles_abandoned = now.tiles_abandoned - before.tiles_abandoned;
    out->kernels_evicted = now.kernels_evicted - before.kernels_evicted;
    out->lost_pct = busy ? 100.0 * (double)(now.lost_ns_be - before.lost_ns_be) / (double)busy : 0;
    out->seconds = (double)(reef_now_ns() - begun) / 1e9;
    t->done += count;
    printf("%-8s %-28s %7llu preemptions, %6llu BE and %7llu RT answers, %llu wrong, %7llu tiles abandoned, %.1f s\n",
           out->policy, out->be, (unsigned long long)out->preemptions, (unsigned long long)out->be_answers,
           (unsigned long long)out->rt_answers, (unsigned long long)out->wrong,
           (unsigned long long)out->tiles_abandoned, out->seconds);
    fflush(stdout);
}

static void run_policy(stress *t, const char *policy, subject *subjects, size_t n, uint64_t count, row *rows,
                       size_t *n_rows)
{
    reef_error error = {0};
    reef_status status = reef_device_set_policy(t->device, policy, &error);
    if (status) {
        die(policy, error.message);
    }
    uint64_t alone = n > 1 ? count / 2 : count, each = (alone + n - 1) / n;
    for (size_t i = 0; i < n; i++) {
        row *out = &rows[(*n_rows)++];
        *out = (row){.policy = policy};
        snprintf(out->be, sizeof out->be, "%s", subjects[i].name);
        run_group(t, &subjects[i], 1, each, out);
    }
    if (n > 1) {
        row *out = &rows[(*n_rows)++];
        *out = (row){.policy = policy};
        snprintf(out->be, sizeof out->be, "all %zu at once", n);
        run_group(t, subjects, n, count - alone, out);
    }
}

static void write_json(const char *path, const reef_device *device, const char *name, uint64_t seed, const row *rows,
                       size_t n)
{
    reef_device_stats stats;
    reef_device_stats_get(device, &stats);
    json_t *list = json_array();
    uint64_t preemptions = 0, wrong = 0;
    for (size_t i = 0; i < n; i++) {
        const row *r = &rows[i];
        preemptions += r->preemptions;
        wrong += r->wrong;
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "policy", r->policy, "be", r->be,
                            "preemptions", (json_int_t)r->preemptions, "be_answers", (json_int_t)r->be_answers,
                            "rt_answers", (json_int_t)r->rt_answers, "wrong", (json_int_t)r->wrong, "tiles_abandoned",
                            (json_int_t)r->tiles_abandoned, "kernels_evicted", (json_int_t)r->kernels_evicted,
                            "be_lost_pct", r->lost_pct, "seconds", r->seconds));
    }
    json_t *root = json_pack("{s:s, s:i, s:s, s:I, s:I, s:I, s:o}", "device", name, "units", (int)stats.units,
                             "reef_version", reef_version(), "seed", (json_int_t)seed, "preemptions",
                             (json_int_t)preemptions, "wrong", (json_int_t)wrong, "rows", list);
    if (!root || json_dump_file(root, path, JSON_INDENT(2) | JSON_REAL_PRECISION(6))) {
        die(path, "cannot be written");
    }
    json_decref(root);
}

static reef_precision precision_called(const char *text)
{
    for (int i = REEF_PRECISION_FP32; i <= REEF_PRECISION_FP16; i++) {
        if (!strcmp(text, reef_precision_name((reef_precision)i))) {
            return (reef_precision)i;
        }
    }
    fprintf(stderr, "preempt: --precision: '%s' is none of fp32, tf32, fp16\n", text);
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"count", required_argument, NULL, 'c'},
                                            {"units", required_argument, NULL, 'u'},
                                            {"policy", required_argument, NULL, 'p'},
                                            {"seed", required_argument, NULL, 's'},
                                            {"device", required_argument, NULL, 'd'},
                                            {"precision", required_argument, NULL, 'a'},
                                            {"cache", required_argument, NULL, 'k'},
                                            {"json", required_argument, NULL, 'j'},
                                            {0}};
    uint64_t count = 1000, wrong = 0, seed = 1, preemptions = 0;
    const char *name = "cpu", *json = NULL, *cache = NULL, *policies[MAX_POLICIES] = {"reset"};
    size_t n_policies = 1, n_rows = 0;
    reef_precision precision = REEF_PRECISION_DEFAULT;
    reef_device_options device_options = {0};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'c': count = whole_number("count", optarg, 1, 1000000000); break;
        case 'u': device_options.units = (unsigned)whole_number("units", optarg, 1, 256); break;
        case 's': seed = whole_number("seed", optarg, 0, UINT32_MAX); break;
        case 'd': name = optarg; break;
        case 'a': precision = precision_called(optarg); break;
        case 'k': cache = optarg; break;
        case 'j': json = optarg; break;
        case 'p':
            n_policies = 0;
            for (char *p = strtok(optarg, ","); p && n_policies < MAX_POLICIES; p = strtok(NULL, ",")) {
                policies[n_policies++] = p;
            }
            break;
        default: return 2;
        }
    }
    if (optind == argc || !n_policies) {
        fprintf(stderr, "usage: preempt [--device D] [--count N] [--policy P[,P...]] [--units N] [--seed N] "
                        "[--precision P] [--cache DIR] [--json FILE] MODEL.onnx[:NAME=DIMS] ...\n"
                        "example: preempt --device cuda:0 --count 100000 --policy reset,lease "
                        "models/vgg19.onnx:input=1x3x224x224\n");
        return 2;
    }
    random_state = seed;
    reef_error error = {0};
    stress t = {.wanted = count};
    size_t n = (size_t)(argc - optind);
    device_options.policy = "rt-only";
    if (reef_device_open(name, &device_options, &t.device, &error)) {
        die(name, error.message);
    }
    asked = t.device;
    reef_device_set_policy(t.device, "streams", &error); /* undisturbed: nothing arrives while another one runs */
    reef_device_stats stats;
    reef_device_stats_get(t.device, &stats);
    add_synthetic(t.kinds, &t.n_kinds, t.device, stats.units);
    subject *subjects = calloc(n, sizeof *subjects);
    row *rows = calloc(n_policies * (n + 1), sizeof *rows);
    if (!subjects || !rows) {
        die("memory", "out of it");
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t took = load(t.device, argv[optind + (int)i], precision, cache, &subjects[i]);
        if (took < QUICK_NS && t.n_kinds < MAX_RT) {
            add_rt(t.kinds, &t.n_kinds, t.device, &subjects[i], subjects[i].model);
        }
    }
    for (size_t p = 0; p < n_policies; p++) {
        run_policy(&t, policies[p], subjects, n, count / n_policies + (p < count % n_policies), rows, &n_rows);
    }
    for (size_t i = 0; i < n_rows; i++) {
        wrong += rows[i].wrong;
        preemptions += rows[i].preemptions;
    }
    if (json) {
        write_json(json, t.device, name, seed, rows, n_rows);
    }
    for (size_t i = 0; i < t.n_kinds; i++) {
        free_rt(&t.kinds[i]);
    }
    for (size_t i = 0; i < n; i++) {
        unload(&subjects[i]);
    }
    free(subjects);
    free(rows);
    reef_device_close(t.device);
    printf("%zu models, %llu preemptions: %s\n", n, (unsigned long long)preemptions,
           wrong ? "ANSWERS DIFFER" : "every answer identical to the undisturbed one");
    return wrong ? 1 : 0;
}
