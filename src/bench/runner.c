/*
 * runner.c - a workload under each policy.
 *
 *     models -> profile -> each model alone (solo p50) -> undisturbed answers -> RT clients alone -> policy -> policy ...
 *
 * Everything a ratio is made of is measured in the same run on the same device: the RT latency alone, the solo times
 * behind the load-matched rates and behind "best-effort work".
 */
#include "bench/runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "bench/loadgen.h"
#include "bench/tensors.h"

enum { SLOT_BYTES = 64 << 20, MAX_RECORDS = 1 << 20, SOLO_MAX_RUNS = 50, SOLO_MIN_RUNS = 3 };
static const uint64_t SOLO_NS = 1000000000u, MAX_TAIL_NS = 10000000000u;

typedef struct bench_model {
    const bench_client *like; /* the first client that uses it: path and shapes */
    char *path;
    reef_model *model;
    uint64_t solo_ns;
} bench_model;

typedef struct bench_actor { /* a client and what it needs to run */
    const bench_client *client;
    bench_model *model;
    reef_session *session;
    bench_tensors inputs;
    bench_verifier verifier;
    uint64_t seed;
} bench_actor;

typedef struct runner {
    const bench_workload *workload;
    const bench_options *options;
    reef_device *device;
    bench_model *models;
    size_t n_models;
    bench_actor *actors;
    size_t n_actors;
    double scale;
    bool leak; /* requests are still under way: nothing they point at may be freed */
} runner;

static void report_progress(const runner *r, const char *what, size_t done, size_t total)
{
    if (r->options->progress) {
        r->options->progress(r->options->progress_context, what, done, total);
    }
}

/* ------------------------------------------------------------------------------------------------- models -- */

static bool same_model(const bench_client *a, const bench_client *b)
{
    if (strcmp(a->model, b->model) != 0 || a->n_shapes != b->n_shapes) {
        return false;
    }
    for (size_t i = 0; i < a->n_shapes; i++) {
        const reef_shape *x = &a->shapes[i], *y = &b->shapes[i];
        if (strcmp(x->input, y->input) != 0 || x->rank != y->rank ||
            memcmp(x->dims, y->dims, (size_t)x->rank * sizeof x->dims[0]) != 0) {
            return false;
        }
    }
    return true;
}

static reef_status find_file(const runner *r, const bench_client *client, char **out, reef_error *error)
{
    char *path;
    size_t length = strlen(client->model);
    bool is_path = strchr(client->model, '/') || (length > 5 && !strcmp(client->model + length - 5, ".onnx"));
    const char *folder = r->options->models ? r->options->models : ".";
    if (asprintf(&path, "%s%s%s%s", is_path ? "" : folder, is_path ? "" : "/", client->model, is_path ? "" : ".onnx") <
        0) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    if (access(path, R_OK)) {
        reef_fail(error, REEF_NOT_FOUND, "client %s: %s: no such model file%s", client->name, path,
                  is_path ? "" : "; give the folder that holds it with --models");
        free(path);
        return REEF_NOT_FOUND;
    }
    *out = path;
    return REEF_OK;
}

/* One entry per distinct model; files are looked for before anything is loaded. */
static reef_status collect_models(runner *r, reef_error *error)
{
    for (size_t i = 0; i < r->workload->n_clients; i++) {
        const bench_client *client = &r->workload->clients[i];
        bench_actor *actor = &r->actors[i];
        actor->client = client;
        actor->seed = client->has_seed ? client->seed : r->options->seed * 7919u + i;
        for (size_t m = 0; m < r->n_models && !actor->model; m++) {
            actor->model = same_model(r->models[m].like, client) ? &r->models[m] : NULL;
        }
        if (!actor->model) {
            bench_model *model = &r->models[r->n_models];
            reef_status status = find_file(r, client, &model->path, error);
            if (status) {
                return status;
            }
            model->like = client;
            actor->model = model;
            r->n_models++;
        }
    }
    r->n_actors = r->workload->n_clients;
    return REEF_OK;
}

static reef_status load_model(runner *r, bench_model *model, reef_error *error)
{
    reef_model_options options = {
        .shapes = model->like->shapes,
        .n_shapes = model->like->n_shapes,
        .precision = r->options->precision,
        .progress = r->options->progress,
        .progress_context = r->options->progress_context,
    };
    reef_status status = reef_model_load(r->device, model->path, &options, &model->model, error);
    if (status) {
        if (error && !strstr(error->message, model->path)) {
            reef_error_prefix(error, "%s: ", model->path);
        }
        reef_error_prefix(error, "client %s: ", model->like->name);
        return status;
    }
    reef_model_info info;
    reef_model_info_get(model->model, &info);
    if (!info.profiled) {
        unsigned runs = r->options->profile_runs ? r->options->profile_runs : 5;
        status = reef_model_profile(model->model, runs, r->options->progress, r->options->progress_context, error);
        if (status) {
            reef_error_prefix(error, "%s: profiling: ", model->path);
        }
    }
    return status;
}

static reef_status measure_solo(runner *r, bench_actor *actor, reef_session *session, reef_error *error)
{
    (void)r;
    uint64_t samples[SOLO_MAX_RUNS], begin = reef_now_ns();
    size_t n = 0;
    while (n < SOLO_MAX_RUNS && (n < SOLO_MIN_RUNS || reef_now_ns() - begin < SOLO_NS)) {
        reef_request_info info;
        reef_status status =
            reef_session_run(session, (const void *const *)actor->inputs.data, actor->verifier.slots[0].data, &info);
        if (status) {
            return reef_fail(error, status, "client %s: alone on the device: %s", actor->client->name,
                             reef_status_text(status));
        }
        samples[n++] = info.end_ns - info.start_ns;
        if (!bench_verify(&actor->verifier, 0)) {
            return reef_fail(error, REEF_INTERNAL, "client %s: two undisturbed answers differ: %s", actor->client->name,
                             actor->verifier.first);
        }
    }
    actor->model->solo_ns = (uint64_t)(bench_stats_of(samples, n).p50_us * 1e3);
    return REEF_OK;
}

/* Inputs, undisturbed answer, solo time, and the session the workload will use. */
static reef_status prepare_actor(runner *r, bench_actor *actor, reef_error *error)
{
    const bench_client *client = actor->client;
    reef_status status = bench_tensors_create(actor->model->model, false, &actor->inputs);
    if (status) {
        return reef_fail(error, status, "client %s: out of memory", client->name);
    }
    status =
        bench_inputs_fill(actor->model->model, client->inputs, client->n_inputs, actor->seed, &actor->inputs, error);
    if (status) {
        reef_error_prefix(error, "client %s: ", client->name);
        return status;
    }
    size_t bytes = 1, concurrency = client->arrival.concurrency;
    for (size_t i = 0; i < reef_model_outputs(actor->model->model); i++) {
        reef_tensor_info info;
        reef_model_output(actor->model->model, i, &info);
        bytes += info.bytes;
    }
    size_t slots = SLOT_BYTES / bytes, most = concurrency ? 2 * concurrency + 2 : LOAD_MAX_SLOTS;
    slots = slots > most ? most : slots < concurrency + 2 ? concurrency + 2 : slots;

    /* Alone means as RT: the policy in force here is rt-only. */
    reef_session *alone;
    status = reef_session_create(actor->model->model, &(reef_session_options){.service_class = REEF_RT}, &alone, error);
    if (status) {
        reef_error_prefix(error, "client %s: ", client->name);
        return status;
    }
    status = bench_verifier_create(actor->model->model, alone, (const void *const *)actor->inputs.data, slots,
                                   &actor->verifier, error);
    if (!status && !actor->model->solo_ns) {
        status = measure_solo(r, actor, alone, error);
    }
    reef_session_destroy(alone);
    if (status) {
        return status;
    }
    reef_session_options session = {
        .service_class = client->service_class,
        .queue_limit = LOAD_MAX_SLOTS,
        .weight = client->weight,
    };
    return reef_session_create(actor->model->model, &session, &actor->session, error);
}

static reef_status prepare(runner *r, reef_error *error)
{
    reef_status status = REEF_OK;
    for (size_t i = 0; !status && i < r->n_models; i++) {
        report_progress(r, "load models", i, r->n_models);
        status = load_model(r, &r->models[i], error);
    }
    for (size_t i = 0; !status && i < r->n_actors; i++) {
        report_progress(r, "measure models alone", i, r->n_actors);
        status = prepare_actor(r, &r->actors[i], error);
    }
    return status;
}

/* Rates are scaled so that RT work alone keeps the device busy for the workload's share of the time. */
static reef_status choose_form(runner *r, bench_report *report, reef_error *error)
{
    double busy = 0; /* of one second, at the published rates */
    for (size_t i = 0; i < r->n_actors; i++) {
        const bench_actor *actor = &r->actors[i];
        if (actor->client->service_class == REEF_RT) {
            busy += bench_arrival_rate(&actor->client->arrival) * (double)actor->model->solo_ns / 1e9;
        }
    }
    bench_form form = r->options->form;
    bool can_match = r->workload->rt_share > 0 && busy > 0;
    if (form == BENCH_FORM_DEFAULT) {
        form = can_match && !strcmp(r->options->device, "cpu") ? BENCH_FORM_MATCHED : BENCH_FORM_PUBLISHED;
        report->form_defaulted = true;
    }
    if (form == BENCH_FORM_MATCHED && !can_match) {
        return reef_fail(error, REEF_INVALID_ARGUMENT, "--form matched: workload %s has %s; use --form published",
                         r->workload->name, busy > 0 ? "no rt_share" : "no open-loop RT client");
    }
    r->scale = form == BENCH_FORM_MATCHED ? r->workload->rt_share / busy : 1;
    report->form = form == BENCH_FORM_MATCHED ? "matched" : "published";
    report->rate_scale = r->scale;
    report->rt_share_target = form == BENCH_FORM_MATCHED ? r->workload->rt_share : busy;
    return REEF_OK;
}

/* ----------------------------------------------------------------------------------------------- counting -- */

static bool in_window(uint64_t t, uint64_t begin, uint64_t end)
{
    return t >= begin && t < end;
}

/* The part of [from, to) that lies in the window, as a fraction: a request that crosses its edge counts in part. */
static double part_inside(uint64_t from, uint64_t to, uint64_t begin, uint64_t end)
{
    if (to <= from) {
        return in_window(to, begin, end);
    }
    uint64_t a = from > begin ? from : begin, b = to < end ? to : end;
    return b > a ? (double)(b - a) / (double)(to - from) : 0;
}

/* Requests counted for throughput: those due in the window, or served in it, in part. */
static void count_client(const load *run, size_t index, const bench_actor *actor, bench_client_row *row,
                         uint64_t *samples)
{
    uint64_t begin, end, deadline = actor->client->deadline_us * 1000;
    size_t n, taken = 0, in_slo = 0;
    double served = 0;
    load_window(run, &begin, &end);
    const load_record *records = load_records(run, index, &n);
    row->solo_us = (double)actor->model->solo_ns / 1e3;
    row->slo_us = actor->client->slo_us ? (double)actor->client->slo_us : 2 * row->solo_us;
    for (size_t i = 0; i < n; i++) {
        const load_record *record = &records[i];
        bool due = in_window(record->due_ns, begin, end), ok = record->status == REEF_OK;
        if (ok) {
            uint64_t from = record->start_ns ? record->start_ns : record->submit_ns;
            served += part_inside(from, record->end_ns, begin, end);
        }
        if (!due) {
            continue;
        }
        row->due++;
        row->drops += record->status == LOAD_DROPPED || record->status == REEF_QUEUE_FULL;
        row->refused += record->status == REEF_REFUSED;
        bool late = ok && deadline && record->end_ns > record->due_ns + deadline;
        row->deadline_missed += record->status == REEF_DEADLINE || late;
        row->failed += !ok && record->status != LOAD_DROPPED && record->status != REEF_QUEUE_FULL &&
                       record->status != REEF_REFUSED && record->status != REEF_DEADLINE;
        if (ok) {
            uint64_t latency = record->end_ns - record->due_ns;
            samples[taken++] = latency;
            in_slo += (double)latency <= row->slo_us * 1e3;
        }
    }
    double seconds = (double)(end - begin) / 1e9;
    row->unrecorded = load_unrecorded(run, index);
    row->per_s = served / seconds;
    row->work_share = row->per_s * row->solo_us / 1e6;
    row->slo_pct = row->due ? 100.0 * (double)in_slo / (double)row->due : NAN;
    row->latency = bench_stats_of(samples, taken);
}

typedef struct span {
    uint64_t from, to;
} span;

static int by_start(const void *a, const void *b)
{
    const span *x = a, *y = b;
    return (x->from > y->from) - (x->from < y->from);
}

/* Share of the window in which at least one RT request was being served; lateness of the generator. */
static reef_status count_rt(const load *run, const size_t *indices, size_t n_indices, bench_row *row)
{
    uint64_t begin, end, busy = 0, until = 0;
    size_t total = 0, n_spans = 0, n_late = 0, n;
    load_window(run, &begin, &end);
    for (size_t i = 0; i < n_indices; i++) {
        load_records(run, indices[i], &n);
        total += n;
    }
    span *spans = malloc((total + 1) * sizeof *spans);
    uint64_t *late = malloc((total + 1) * sizeof *late);
    for (size_t i = 0; spans && late && i < n_indices; i++) {
        const load_record *records = load_records(run, indices[i], &n);
        for (size_t k = 0; k < n; k++) {
            if (records[k].status == REEF_OK && records[k].start_ns) {
                spans[n_spans++] = (span){records[k].start_ns, records[k].end_ns};
            }
            if (in_window(records[k].due_ns, begin, end)) {
                late[n_late++] = records[k].sent_ns - records[k].due_ns;
            }
        }
    }
    bool ok = spans && late;
    if (ok) {
        qsort(spans, n_spans, sizeof *spans, by_start);
        until = begin;
        for (size_t i = 0; i < n_spans; i++) {
            uint64_t from = spans[i].from > until ? spans[i].from : until, to = spans[i].to < end ? spans[i].to : end;
            if (to > from) {
                busy += to - from;
                until = to;
            }
        }
        row->rt_busy_share = (double)busy / (double)(end - begin);
        row->generator_late_p99_us = bench_stats_of(late, n_late).p99_us;
    }
    free(spans);
    free(late);
    return ok ? REEF_OK : REEF_NO_MEMORY;
}

static void count_device(const reef_device_stats *before, const reef_device_stats *after, double seconds,
                         bench_row *row)
{
    uint64_t be = after->busy_ns_be - before->busy_ns_be, lost = after->lost_ns_be - before->lost_ns_be;
    row->preemptions = after->preemptions - before->preemptions;
    row->kernels_evicted = after->kernels_evicted - before->kernels_evicted;
    row->tiles_run = after->tiles_run - before->tiles_run;
    row->tiles_abandoned = after->tiles_abandoned - before->tiles_abandoned;
    row->padded_tiles = after->padded_tiles - before->padded_tiles;
    row->lost_pct = be ? 100.0 * (double)lost / (double)be : 0;
    row->unit_busy_share =
        (double)(be + after->busy_ns_rt - before->busy_ns_rt) / 1e9 / seconds / (after->units ? after->units : 1);
}

/* All RT latencies of a phase together, and sums over clients. */
static reef_status count_row(runner *r, const load *run, const size_t *who, size_t n_who, bench_row *row)
{
    size_t total = 0, n, taken = 0, due = 0, rt_indices[64], n_rt = 0;
    double in_slo = 0;
    for (size_t i = 0; i < n_who; i++) {
        load_records(run, i, &n);
        total += n;
    }
    uint64_t *samples = malloc((total + 1) * sizeof *samples);
    row->clients = calloc(n_who + 1, sizeof *row->clients);
    if (!samples || !row->clients) {
        free(samples);
        return REEF_NO_MEMORY;
    }
    for (size_t i = 0; i < n_who; i++) {
        bench_actor *actor = &r->actors[who[i]];
        bench_client_row *client = &row->clients[row->n_clients++];
        client->name = actor->client->name;
        client->model = actor->client->model;
        client->service_class = actor->client->service_class;
        count_client(run, i, actor, client, samples + taken);
        client->compared = actor->verifier.compared;
        client->mismatches = actor->verifier.mismatches;
        memcpy(client->mismatch, actor->verifier.first, sizeof client->mismatch);
        row->compared += client->compared;
        row->mismatches += client->mismatches;
        row->drops += client->drops;
        row->refused += client->refused;
        row->failed += client->failed;
        row->deadline_missed += client->deadline_missed;
        if (client->service_class == REEF_RT) {
            rt_indices[n_rt++] = i;
            taken += client->latency.n; /* keep them for the total */
            row->rt_per_s += client->per_s;
            due += client->due;
            in_slo += client->due ? client->slo_pct / 100 * (double)client->due : 0;
        } else {
            row->be_per_s += client->per_s;
            row->be_work_share += client->work_share;
        }
    }
    row->rt = bench_stats_of(samples, taken);
    row->slo_pct = due ? 100.0 * in_slo / (double)due : NAN;
    free(samples);
    return count_rt(run, rt_indices, n_rt, row);
}

/* ------------------------------------------------------------------------------------------------- phases -- */

/* Plays the workload once. with_be: also the BE clients. */
static reef_status run_phase(runner *r, const char *policy, const char *what, bool with_be, bench_row *row,
                             reef_error *error)
{
    const bench_options *options = r->options;
    load_client_spec specs[64];
    size_t who[64], n = 0;
    uint64_t longest = 0;
    for (size_t i = 0; i < r->n_actors; i++) {
        bench_actor *actor = &r->actors[i];
        bool rt = actor->client->service_class == REEF_RT;
        if (!rt && !with_be) {
            continue;
        }
        actor->verifier.compared = actor->verifier.mismatches = 0;
        actor->verifier.first[0] = 0;
        double most = 4e9 * (options->seconds + options->warmup + 10) / (double)(actor->model->solo_ns + 1) + 1024;
        specs[n] = (load_client_spec){
            .client = actor->client,
            .session = actor->session,
            .inputs = (const void *const *)actor->inputs.data,
            .verifier = &actor->verifier,
            .scale = rt ? r->scale : 1,
            .seed = actor->seed,
            .max_records = most < MAX_RECORDS ? (size_t)most : MAX_RECORDS,
        };
        who[n++] = i;
        longest = actor->model->solo_ns > longest ? actor->model->solo_ns : longest;
    }
    uint64_t tail = 20 * longest;
    load_options timing = {
        .warmup_ns = (uint64_t)(options->warmup * 1e9),
        .window_ns = (uint64_t)(options->seconds * 1e9),
        .max_tail_ns = tail < MAX_TAIL_NS ? tail : MAX_TAIL_NS,
        .spin_ns = strcmp(options->device, "cpu") ? 50000 : 0, /* on the CPU device spinning would take a unit away */
        .progress = options->progress,
        .progress_context = options->progress_context,
        .what = what,
    };
    load *run;
    reef_status status = load_create(specs, n, &timing, &run, error);
    if (status) {
        return status;
    }
    status = reef_device_set_policy(r->device, policy, error);
    if (!status) {
        reef_device_stats before, after;
        reef_device_stats_get(r->device, &before);
        uint64_t begin = reef_now_ns();
        status = load_run(run, error);
        reef_device_stats_get(r->device, &after);
        r->leak = status == REEF_TIMEOUT;
        row->policy = policy;
        if (!status) {
            count_device(&before, &after, (double)(reef_now_ns() - begin) / 1e9, row);
            status = count_row(r, run, who, n, row);
            if (status) {
                reef_fail(error, status, "out of memory for the report");
            }
        }
    }
    if (!r->leak) {
        load_destroy(run);
    }
    return status;
}

static reef_status run_policies(runner *r, bench_report *report, reef_error *error)
{
    reef_status status = run_phase(r, "rt-only", "RT clients alone", false, &report->alone, error);
    for (size_t i = 0; !status && i < r->options->n_policies; i++) {
        const char *policy = r->options->policies[i];
        bench_row *row = &report->rows[report->n_rows++];
        status = run_phase(r, policy, policy, strcmp(policy, "rt-only") != 0, row, error);
        if (status) {
            reef_error_prefix(error, "policy %s: ", policy);
        }
    }
    return status;
}

static void clean_up(runner *r)
{
    if (r->leak) {
        return;
    }
    for (size_t i = 0; i < r->n_actors; i++) {
        reef_session_destroy(r->actors[i].session);
        bench_verifier_free(&r->actors[i].verifier);
        bench_tensors_free(&r->actors[i].inputs);
    }
    for (size_t i = 0; i < r->n_models; i++) {
        reef_model_destroy(r->models[i].model);
        free(r->models[i].path);
    }
    reef_device_close(r->device);
    free(r->actors);
    free(r->models);
}

reef_status bench_run(const bench_workload *workload, const bench_options *options, bench_report *out,
                      reef_error *error)
{
    runner r = {.workload = workload, .options = options};
    reef_status status = bench_check_device(options->device, error);
    for (size_t i = 0; !status && i < options->n_policies; i++) {
        status = bench_check_policy(options->policies[i], NULL, error);
    }
    if (status) {
        return status;
    }
    r.models = calloc(workload->n_clients + 1, sizeof *r.models);
    r.actors = calloc(workload->n_clients + 1, sizeof *r.actors);
    bench_report report = {
        .workload = workload->name,
        .about = workload->about,
        .device = options->device,
        .seconds = options->seconds,
        .warmup = options->warmup,
        .seed = options->seed,
        .rows = calloc(options->n_policies + 1, sizeof *report.rows),
    };
    if (!r.models || !r.actors || !report.rows) {
        status = reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    if (!status) {
        status = collect_models(&r, error);
    }
    if (!status) {
        reef_device_options device = {.units = options->units, .policy = "rt-only"};
        status = reef_device_open(options->device, &device, &r.device, error);
    }
    if (!status) {
        reef_device_stats stats;
        reef_device_stats_get(r.device, &stats);
        report.units = stats.units;
        report.realtime_priority = load_can_raise_priority();
        status = prepare(&r, error);
    }
    if (!status) {
        status = choose_form(&r, &report, error);
    }
    if (!status) {
        status = run_policies(&r, &report, error);
    }
    clean_up(&r);
    if (status) {
        bench_report_free(&report);
        return status;
    }
    *out = report;
    return REEF_OK;
}
