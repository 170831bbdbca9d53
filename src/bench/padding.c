/*
 * padding.c - what kernel padding carries, and what it costs the real-time kernels that carry it.
 *
 * Real-time work in a closed loop leaves best-effort work no pause to run in, only what a policy gives it beside: spare
 * slots of RT kernels (pad), units that the RT plan cannot fill (lease), or whatever the hardware lets happen (streams,
 * priority). The runner plays it: one workload whose clients are each model once as RT and once as BE, so that models,
 * sessions and undisturbed answers are made once, and a scene per pair.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "bench/runner.h"

typedef struct stage {
    padding_report *report;
    bench_workload *workload;
    bench_client *clients; /* first those that are RT, then the others */
    size_t n_clients;
    bench_scene *scenes;
    size_t n_scenes;
    const bench_client *known; /* DISB's, for the shapes of their inputs */
    size_t n_known;
} stage;

/* "vgg19" of "some/vgg19.onnx", for messages. */
static const char *stem(bench_workload *workload, const char *model)
{
    const char *slash = strrchr(model, '/'), *base = slash ? slash + 1 : model;
    size_t length = strlen(base);
    length -= length > 5 && !strcmp(base + length - 5, ".onnx") ? 5 : 0;
    return reef_arena_string(&workload->arena, base, length);
}

static const char *join(bench_workload *workload, const char *a, const char *between, const char *b)
{
    char text[500];
    int n = snprintf(text, sizeof text, "%.200s%s%.200s", a, between, b);
    return reef_arena_string(&workload->arena, text, (size_t)n);
}

/* *out: the index of the client that asks for the model in that class; a new one if need be. */
static bool find_client(stage *s, const char *model, reef_class service_class, const padding_options *options,
                        size_t *out)
{
    bool rt = service_class == REEF_RT;
    for (size_t i = 0; i < s->n_clients; i++) {
        if (s->clients[i].service_class == service_class && !strcmp(s->clients[i].model, model)) {
            *out = i;
            return true;
        }
    }
    const char *name = stem(s->workload, model);
    *out = s->n_clients++;
    bench_client *client = &s->clients[*out];
    *client = (bench_client){
        .name = name ? join(s->workload, rt ? "rt" : "be", "-", name) : NULL,
        .model = model,
        .service_class = service_class,
        .arrival = {.kind = BENCH_CLOSED, .concurrency = 1, .think_ns = rt ? options->think_ns : 0},
        .weight = 1,
    };
    for (size_t i = 0; i < s->n_known && !client->shapes; i++) {
        if (!strcmp(s->known[i].model, model)) {
            client->shapes = s->known[i].shapes;
            client->n_shapes = s->known[i].n_shapes;
        }
    }
    return client->name != NULL;
}

/* The models of DISB's RT clients, once each. */
static size_t networks_of(const stage *s, const char **names)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_known; i++) {
        bool known = s->known[i].service_class != REEF_RT;
        for (size_t k = 0; k < n; k++) {
            known |= !strcmp(names[k], s->known[i].model);
        }
        if (!known) {
            names[n++] = s->known[i].model;
        }
    }
    return n;
}

static bool choose_pairs(stage *s, const padding_options *options)
{
    padding_report *report = s->report;
    report->pairs = options->pairs;
    report->n_pairs = options->n_pairs;
    if (options->pairs) {
        return true;
    }
    reef_arena *arena = &s->workload->arena;
    const char **names = reef_arena_array(arena, s->n_known + 1, sizeof *names);
    size_t n = names ? networks_of(s, names) : 0;
    padding_pair *pairs = reef_arena_array(arena, n * n + 1, sizeof *pairs);
    for (size_t i = 0; pairs && i < n * n; i++) {
        pairs[i] = (padding_pair){names[i / n], names[i % n]};
    }
    report->pairs = pairs;
    report->n_pairs = n * n;
    return names && pairs;
}

static bool add_scene(stage *s, const char *name, const char *only, const size_t *clients, size_t n)
{
    size_t *kept = reef_arena_array(&s->workload->arena, n, sizeof *kept);
    if (kept) {
        memcpy(kept, clients, n * sizeof *kept);
        s->scenes[s->n_scenes++] =
            (bench_scene){.name = name, .form = "in closed loops", .clients = kept, .n_clients = n, .only = only};
    }
    return kept && name;
}

/* The models without BE work come first: what choosing took is asked for at the end, when there was something to choose. */
static bool build(stage *s, const padding_options *options)
{
    padding_report *report = s->report;
    reef_arena *arena = &s->workload->arena;
    if (!choose_pairs(s, options)) {
        return false;
    }
    s->clients = reef_arena_array(arena, 2 * report->n_pairs + 1, sizeof *s->clients);
    s->scenes = reef_arena_array(arena, 2 * report->n_pairs + 1, sizeof *s->scenes);
    report->empty = reef_arena_array(arena, report->n_pairs + 1, sizeof *report->empty);
    bool ok = s->clients && s->scenes && report->empty;
    for (size_t i = 0; ok && i < report->n_pairs; i++) {
        size_t client, before = s->n_clients;
        ok = find_client(s, report->pairs[i].rt, REEF_RT, options, &client);
        if (ok && client == before) {
            report->empty[report->n_empty++] = report->pairs[i].rt;
            ok = add_scene(s, join(s->workload, report->pairs[i].rt, " ", "alone"), "pad", &client, 1);
        }
    }
    for (size_t i = 0; ok && i < report->n_pairs; i++) {
        const padding_pair *pair = &report->pairs[i];
        size_t clients[2];
        ok = find_client(s, pair->rt, REEF_RT, options, &clients[0]) &&
             find_client(s, pair->be, REEF_BE, options, &clients[1]) &&
             add_scene(s, join(s->workload, pair->rt, " beside ", pair->be), NULL, clients, 2);
    }
    return ok;
}

reef_status padding_run(const padding_options *options, padding_report *out, reef_error *error)
{
    padding_report report = {.precision = options->precision, .think_ns = options->think_ns};
    reef_status status = bench_workload_load("D", &report.workload, error);
    stage s = {.report = &report, .workload = &report.workload};
    if (!status) {
        s.known = report.workload.clients;
        s.n_known = report.workload.n_clients;
        status = build(&s, options) ? REEF_OK : reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    if (!status) {
        report.workload.name = "padding";
        report.workload.about = NULL;
        report.workload.rt_share = 0; /* closed loops have no rates */
        report.workload.clients = s.clients;
        report.workload.n_clients = s.n_clients;
        bench_options bench = {
            .device = options->device,
            .units = options->units,
            .precision = options->precision,
            .models = options->models,
            .scenes = s.scenes,
            .n_scenes = s.n_scenes,
            .policies = options->policies,
            .n_policies = options->n_policies,
            .skip_unsupported = true,
            .form = BENCH_FORM_PUBLISHED,
            .seconds = options->seconds,
            .warmup = options->warmup,
            .rounds = options->rounds,
            .seed = options->seed,
            .profile_runs = options->profile_runs,
            .trace = options->trace,
            .progress = options->progress,
            .progress_context = options->progress_context,
        };
        status = bench_run(&report.workload, 1, &bench, &report.bench, error);
    }
    if (status) {
        padding_report_free(&report);
        return status;
    }
    *out = report;
    return REEF_OK;
}

/* ------------------------------------------------------------------------------------------------- figures -- */

static double over_pct(const bench_stats *beside, const bench_stats *alone, double value, double base)
{
    return beside->n && alone->n ? 100 * (value / base - 1) : NAN;
}

static padding_row make_row(const bench_part *part, size_t p)
{
    const bench_row *alone = &part->rows[0], *row = &part->rows[p];
    return (padding_row){
        .alone = alone,
        .row = row,
        .over_p50_pct = over_pct(&row->rt, &alone->rt, row->rt.p50_us, alone->rt.p50_us),
        .over_p99_pct = over_pct(&row->rt, &alone->rt, row->rt.p99_us, alone->rt.p99_us),
    };
}

bool padding_row_at(const padding_report *report, size_t i, padding_row *out)
{
    for (size_t k = 0; k < report->bench.n_parts; k++) {
        const bench_part *part = &report->bench.parts[k];
        if (part->scene < report->n_empty) {
            continue;
        }
        if (i < part->n_rows - 1) {
            *out = make_row(part, i + 1);
            out->rt = report->pairs[part->scene - report->n_empty].rt;
            out->be = report->pairs[part->scene - report->n_empty].be;
            return true;
        }
        i -= part->n_rows - 1;
    }
    return false;
}

bool padding_empty_at(const padding_report *report, size_t i, padding_row *out)
{
    for (size_t k = 0; k < report->bench.n_parts; k++) {
        const bench_part *part = &report->bench.parts[k];
        if (part->scene == i && i < report->n_empty) {
            *out = make_row(part, 1);
            out->rt = report->empty[i];
            return true;
        }
    }
    return false;
}

const bench_model_row *padding_model(const padding_report *report, const char *model)
{
    size_t i = 0;
    while (i < report->bench.n_models && strcmp(report->bench.models[i].name, model) != 0) {
        i++;
    }
    return i < report->bench.n_models ? &report->bench.models[i] : NULL;
}

bool padding_sum_at(const padding_report *report, size_t i, padding_sum *out)
{
    padding_row row, first;
    /* Every pair has the same policies, in one order: those of the first pair are all. */
    if (!padding_row_at(report, i, &first) || !padding_row_at(report, 0, &row) || row.alone != first.alone) {
        return false;
    }
    double p50 = 0, p99 = 0, share = 0;
    size_t measured = 0;
    *out =
        (padding_sum){.policy = first.row->policy, .worst_p50_pct = NAN, .worst_p99_pct = NAN, .least_be_share = NAN};
    for (size_t k = 0; padding_row_at(report, k, &row); k++) {
        if (strcmp(row.row->policy, out->policy) != 0) {
            continue;
        }
        out->pairs++;
        out->without_be += row.row->be_work_share <= 0;
        out->least_be_share = fmin(out->least_be_share, row.row->be_work_share);
        share += row.row->be_work_share;
        if (isnan(row.over_p50_pct)) {
            continue;
        }
        measured++;
        p50 += row.over_p50_pct;
        p99 += row.over_p99_pct;
        if (!(row.over_p50_pct <= out->worst_p50_pct)) {
            out->worst_p50_pct = row.over_p50_pct;
            snprintf(out->worst, sizeof out->worst, "%.70s beside %.70s", row.rt, row.be);
        }
        out->worst_p99_pct = fmax(out->worst_p99_pct, row.over_p99_pct);
    }
    out->mean_p50_pct = measured ? p50 / (double)measured : NAN;
    out->mean_p99_pct = measured ? p99 / (double)measured : NAN;
    out->mean_be_share = share / (double)out->pairs;
    return true;
}
