/*
 * report.c - tables and JSON. See report.h.
 */
#include "bench/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reef/reef.h"

void bench_report_free(bench_report *report)
{
    for (size_t i = 0; i < report->n_parts; i++) {
        bench_part *part = &report->parts[i];
        for (size_t k = 0; k < part->n_rows; k++) {
            free(part->rows[k].clients);
        }
        free(part->rows);
    }
    free(report->parts);
    free(report->models);
    memset(report, 0, sizeof *report);
}

static uint64_t compared_of(const bench_report *report)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < report->n_parts; i++) {
        for (size_t k = 0; k < report->parts[i].n_rows; k++) {
            sum += report->parts[i].rows[k].compared;
        }
    }
    return sum;
}

uint64_t bench_report_mismatches(const bench_report *report)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < report->n_parts; i++) {
        for (size_t k = 0; k < report->parts[i].n_rows; k++) {
            sum += report->parts[i].rows[k].mismatches;
        }
    }
    return sum;
}

void bench_report_first_mismatch(const bench_report *report, char *text, size_t size)
{
    *text = 0;
    for (size_t i = 0; i < report->n_parts && !*text; i++) {
        const bench_part *part = &report->parts[i];
        for (size_t k = 0; k < part->n_rows && !*text; k++) {
            for (size_t c = 0; c < part->rows[k].n_clients && !*text; c++) {
                const bench_client_row *client = &part->rows[k].clients[c];
                if (client->mismatches) {
                    snprintf(text, size, "%s %s under %s: client %s: %s", part->workload, part->form,
                             part->rows[k].policy, client->name, client->mismatch);
                }
            }
        }
    }
}

/* -------------------------------------------------------------------------------------------------- people -- */

/* "812 us", "3.41 ms", "1.2 s", "-" in a field of 9. */
static const char *duration(double us, char *text, size_t size)
{
    if (isnan(us)) {
        snprintf(text, size, "-");
    } else if (us < 999.5) {
        snprintf(text, size, us < 99.95 ? "%.1f us" : "%.0f us", us);
    } else if (us < 999500) {
        snprintf(text, size, us < 99950 ? "%.2f ms" : "%.0f ms", us / 1e3);
    } else {
        snprintf(text, size, "%.2f s", us / 1e6);
    }
    return text;
}

static const char *percent(double value, char *text, size_t size)
{
    snprintf(text, size, isnan(value) ? "-" : "%.1f%%", value);
    return text;
}

static void print_row(const bench_part *part, const bench_row *row, FILE *out)
{
    char a[7][32];
    const bench_stats *alone = &part->rows[0].rt;
    double change = row->rt.n && alone->n ? 100 * (row->rt.p50_us / alone->p50_us - 1) : NAN;
    double change99 = row->rt.n && alone->n ? 100 * (row->rt.p99_us / alone->p99_us - 1) : NAN;
    snprintf(a[3], sizeof a[3], isnan(change) ? "-" : "%+.1f%%", change);
    snprintf(a[4], sizeof a[4], isnan(change99) ? "-" : "%+.1f%%", change99);
    fprintf(out, "%-9s %9s %8s %9s %8s %9s %8.2f %8.2f %6s %6.2f %6.2f %7llu %6.2f%% %7s %5zu %4zu\n", row->policy,
            duration(row->rt.p50_us, a[0], sizeof a[0]), a[3], duration(row->rt.p99_us, a[1], sizeof a[1]), a[4],
            duration(row->rt.max_us, a[2], sizeof a[2]), row->rt_per_s, row->be_per_s,
            percent(100 * row->be_idle_share, a[6], sizeof a[6]), row->requests_ratio, row->work_ratio,
            (unsigned long long)row->preemptions, row->be_lost_pct, percent(row->slo_pct, a[5], sizeof a[5]),
            row->drops, row->deadline_missed);
}

static void print_faults(const bench_row *row, FILE *out)
{
    if (row->refused || row->failed) {
        fprintf(out, "%s: %zu requests refused, %zu failed\n", row->policy, row->refused, row->failed);
    }
    for (size_t i = 0; i < row->n_clients; i++) {
        const bench_client_row *client = &row->clients[i];
        if (client->mismatches) {
            fprintf(out, "%s: client %s: %llu of %llu answers are WRONG: %s\n", row->policy, client->name,
                    (unsigned long long)client->mismatches, (unsigned long long)client->compared, client->mismatch);
        }
    }
}

static void print_part(const bench_report *report, const bench_part *part, FILE *out)
{
    fprintf(out, "\nworkload %s, ", part->workload);
    if (!strcmp(part->form, "matched")) {
        fprintf(out,
                "load-matched%s: rates times %.4g, so that RT work alone keeps the device busy %.0f%% of the time\n",
                report->form_defaulted ? " (--form published for the rates as written)" : "", part->rate_scale,
                100 * part->rt_share_target);
    } else {
        fprintf(out, "rates as published: by solo times RT work alone would keep the device busy %.0f%% of the time\n",
                100 * part->rt_share_target);
    }
    if (part->about) {
        fprintf(out, "%s\n", part->about);
    }
    fprintf(out, "%-9s %9s %8s %9s %8s %9s %8s %8s %6s %6s %6s %7s %7s %7s %5s %4s\n", "policy", "RT p50", "", "RT p99",
            "", "RT max", "RT/s", "BE/s", "BEidle", "reqs x", "work x", "preempt", "BElost", "SLO", "drops", "miss");
    for (size_t i = 0; i < part->n_rows; i++) {
        print_row(part, &part->rows[i], out);
    }
    const bench_row *alone = &part->rows[0];
    if (alone->rt.n && alone->rt.n < 100) {
        fprintf(out,
                "Only %zu RT requests in %g s: p99 is the slowest of them; more --seconds give one that means more.\n",
                alone->rt.n, report->seconds);
    }
    fprintf(out, "RT alone leaves the device idle %.1f%% of the time; requests were sent %.1f us late at p99\n",
            100 * (1 - alone->rt_busy_share), alone->late_p99_us);
    for (size_t i = 0; i < part->n_rows; i++) {
        print_faults(&part->rows[i], out);
    }
}

void bench_report_print(const bench_report *report, FILE *out)
{
    fprintf(out, "%s, %u compute units, %g s per policy in %u round%s after %g s of warm-up each, seed %llu\n",
            report->device, report->units, report->seconds, report->rounds, report->rounds == 1 ? "" : "s",
            report->warmup, (unsigned long long)report->seed);
    fprintf(out,
            "RT latency counts from the due time; changes and ratios are against rt-only, the RT clients alone.\n"
            "BEidle: best-effort requests x their solo time, of the time that rt-only leaves idle; reqs x, work x: "
            "all requests, all work, over rt-only's\n");
    if (report->skipped[0]) {
        fprintf(out, "%s has no: %s\n", report->device, report->skipped);
    }
    for (size_t i = 0; i < report->n_models; i++) {
        const bench_model_row *model = &report->models[i];
        if (model->preemptible < model->kernels) {
            fprintf(out, "%s: %zu of %zu kernels are not preemptible inside; the first: %s\n", model->name,
                    model->kernels - model->preemptible, model->kernels, model->why_not);
        }
    }
    for (size_t i = 0; i < report->n_parts; i++) {
        print_part(report, &report->parts[i], out);
    }
    fprintf(out, "\n%llu answers compared bit for bit with the undisturbed ones, %llu differ.\n",
            (unsigned long long)compared_of(report), (unsigned long long)bench_report_mismatches(report));
}

/* ---------------------------------------------------------------------------------------------------- JSON -- */

json_t *bench_json_number(double value)
{
    return isfinite(value) ? json_real(round(value * 1e4) / 1e4) : json_null();
}

json_t *bench_json_latency(const bench_stats *stats)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:I}", "p50", bench_json_number(stats->p50_us), "p99",
                     bench_json_number(stats->p99_us), "min", bench_json_number(stats->min_us), "mean",
                     bench_json_number(stats->mean_us), "n", (json_int_t)stats->n);
}

static void put(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, bench_json_number(value));
}

static void put_count(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

/* KEYp50_us, KEYp90_us, ... */
static void put_stats(json_t *object, const char *key, const bench_stats *stats)
{
    const struct {
        const char *name;
        double value;
    } fields[] = {{"p50_us", stats->p50_us},   {"p90_us", stats->p90_us}, {"p99_us", stats->p99_us},
                  {"p999_us", stats->p999_us}, {"max_us", stats->max_us}, {"mean_us", stats->mean_us}};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", key, fields[i].name);
        put(object, name, fields[i].value);
    }
}

static json_t *client_json(const bench_client_row *client)
{
    json_t *object = json_pack("{s:s, s:s, s:s}", "name", client->name, "model", client->model, "class",
                               client->service_class == REEF_RT ? "rt" : "be");
    put_stats(object, "", &client->latency);
    put_stats(object, "submitted_", &client->submitted);
    put_count(object, "n", client->latency.n);
    put(object, "per_s", client->per_s);
    put(object, "solo_p50_us", client->solo_us);
    put(object, "work_share", client->work_share);
    put(object, "slo_us", client->slo_us);
    put(object, "slo_pct", client->slo_pct);
    put_count(object, "preemptions", client->preemptions);
    put_count(object, "drops", client->drops);
    put_count(object, "refused", client->refused);
    put_count(object, "failed", client->failed);
    put_count(object, "deadline_missed", client->deadline_missed);
    put_count(object, "unrecorded", client->unrecorded);
    put_count(object, "compared", client->compared);
    put_count(object, "mismatches", client->mismatches);
    if (client->mismatches) {
        json_object_set_new(object, "mismatch", json_string(client->mismatch));
    }
    return object;
}

static json_t *row_json(const bench_part *part, const bench_row *row)
{
    json_t *object =
        json_pack("{s:s, s:s, s:s}", "workload", part->workload, "form", part->form, "policy", row->policy);
    const bench_row *alone = &part->rows[0];
    put_stats(object, "rt_", &row->rt);
    put_stats(object, "rt_submitted_", &row->rt_submitted);
    put(object, "rt_alone_p50_us", alone->rt.p50_us);
    put(object, "rt_alone_p99_us", alone->rt.p99_us);
    put_count(object, "rt_n", row->rt.n);
    put(object, "rt_per_s", row->rt_per_s);
    put(object, "be_per_s", row->be_per_s);
    put(object, "requests_ratio", row->requests_ratio);
    put(object, "work_ratio", row->work_ratio);
    put(object, "rt_busy_share", row->rt_busy_share);
    put(object, "rt_work_share", row->rt_work_share);
    put(object, "be_work_share", row->be_work_share);
    put(object, "idle_share", 1 - alone->rt_busy_share);
    put(object, "be_idle_share", row->be_idle_share);
    put(object, "unit_busy_share", row->unit_busy_share);
    put(object, "slo_pct", row->slo_pct);
    put_count(object, "drops", row->drops);
    put_count(object, "refused", row->refused);
    put_count(object, "failed", row->failed);
    put_count(object, "deadline_missed", row->deadline_missed);
    put_count(object, "preemptions", row->preemptions);
    put_count(object, "kernels_evicted", row->kernels_evicted);
    put_count(object, "tiles_run", row->tiles_run);
    put_count(object, "tiles_abandoned", row->tiles_abandoned);
    put_count(object, "padded_tiles", row->padded_tiles);
    put(object, "be_lost_pct", row->be_lost_pct);
    put_count(object, "compared", row->compared);
    put_count(object, "mismatches", row->mismatches);
    put(object, "generator_late_p50_us", row->late_p50_us);
    put(object, "generator_late_p99_us", row->late_p99_us);
    put(object, "generator_late_max_us", row->late_max_us);
    json_t *clients = json_array();
    for (size_t i = 0; i < row->n_clients; i++) {
        json_array_append_new(clients, client_json(&row->clients[i]));
    }
    json_object_set_new(object, "clients", clients);
    return object;
}

/* What every file of a workload's results begins with. */
static void put_header(json_t *root, const bench_report *report)
{
    json_object_set_new(root, "device", json_string(report->device));
    put_count(root, "units", report->units);
    json_object_set_new(root, "reef_version", json_string(reef_version()));
    put_count(root, "rounds", report->rounds);
    put(root, "seconds", report->seconds);
    put(root, "warmup_seconds", report->warmup);
    put_count(root, "seed", report->seed);
    json_object_set_new(root, "generator_priority", json_string(report->realtime_priority ? "realtime" : "normal"));
    json_object_set_new(root, "policies_without_support", json_string(report->skipped));
    json_t *models = json_array();
    for (size_t i = 0; i < report->n_models; i++) {
        const bench_model_row *model = &report->models[i];
        json_t *object = json_pack("{s:s, s:I, s:I}", "model", model->name, "kernels", (json_int_t)model->kernels,
                                   "kernels_preemptible", (json_int_t)model->preemptible);
        put(object, "solo_p50_us", model->solo_us);
        json_array_append_new(models, object);
    }
    json_object_set_new(root, "models", models);
}

json_t *bench_report_json(const bench_report *report)
{
    json_t *root = json_object(), *parts = json_array(), *rows = json_array();
    put_header(root, report);
    for (size_t i = 0; i < report->n_parts; i++) {
        const bench_part *part = &report->parts[i];
        json_t *object = json_pack("{s:s, s:s, s:f}", "workload", part->workload, "form", part->form, "rate_scale",
                                   part->rate_scale);
        put(object, "rt_share_target", part->rt_share_target);
        json_array_append_new(parts, object);
        for (size_t k = 0; k < part->n_rows; k++) {
            json_array_append_new(rows, row_json(part, &part->rows[k]));
        }
    }
    json_object_set_new(root, "workloads", parts);
    json_object_set_new(root, "rows", rows);
    return root;
}

/* ------------------------------------------------------------------------------------------------- preempt -- */

void preempt_report_free(preempt_report *report)
{
    free(report->rows);
    memset(report, 0, sizeof *report);
}

static const char *const step_names[] = {
#define STEP_NAME(name, meaning) #name,
    PREEMPT_STEPS(STEP_NAME)
#undef STEP_NAME
};
static const char *const step_meanings[] = {
#define STEP_MEANING(name, meaning) meaning,
    PREEMPT_STEPS(STEP_MEANING)
#undef STEP_MEANING
};

/* Where the time goes: p50/p99 of every step under load. */
static void print_steps(const preempt_report *report, FILE *out)
{
    char a[2][32], cell[72];
    fprintf(out, "\nwhere the time goes, p50/p99 under load:\n%-34s %-8s", "best-effort load", "policy");
    for (size_t i = 0; i < PREEMPT_N_STEPS; i++) {
        fprintf(out, " %17s", step_names[i]);
    }
    for (size_t i = 0; i < report->n_rows; i++) {
        const preempt_row *row = &report->rows[i];
        fprintf(out, "\n%-34s %-8s", row->be, row->mechanism);
        for (size_t k = 0; k < PREEMPT_N_STEPS; k++) {
            snprintf(cell, sizeof cell, "%s/%s", duration(row->load.steps[k].p50_us, a[0], sizeof a[0]),
                     duration(row->load.steps[k].p99_us, a[1], sizeof a[1]));
            fprintf(out, " %17s", cell);
        }
    }
    fprintf(out, "\n");
    for (size_t i = 0; i < PREEMPT_N_STEPS; i++) {
        fprintf(out, "  %-7s %s\n", step_names[i], step_meanings[i]);
    }
}

void preempt_report_print(const preempt_report *report, FILE *out)
{
    char a[8][32];
    fprintf(out,
            "preemption on %s, %u compute units: time to the first tile of a real-time request of one 10 us tile\n",
            report->device, report->units);
    fprintf(out,
            "from submission, on the idle device and under load in %u turns each; in brackets from the due time, which "
            "adds what the\noperating system takes to wake the caller (%s priority); lost: best-effort time in tiles "
            "that were thrown away\n\n",
            report->rounds, report->realtime_priority ? "real-time" : "normal");
    fprintf(out, "%-34s %-8s %18s  %9s %9s %9s  %20s %6s %6s\n", "best-effort load", "policy", "idle p50/p99", "p50",
            "p99", "max", "(due p50/p99)", "lost", "n");
    for (size_t i = 0; i < report->n_rows; i++) {
        const preempt_row *row = &report->rows[i];
        const bench_stats *idle_stats = &row->idle.first, *load = &row->load.first;
        char idle[72], due[72];
        snprintf(idle, sizeof idle, "%s/%s", duration(idle_stats->p50_us, a[0], sizeof a[0]),
                 duration(idle_stats->p99_us, a[1], sizeof a[1]));
        snprintf(due, sizeof due, "(%s/%s)", duration(row->load.due.p50_us, a[2], sizeof a[2]),
                 duration(row->load.due.p99_us, a[3], sizeof a[3]));
        fprintf(out, "%-34s %-8s %18s  %9s %9s %9s  %20s %5.1f%% %6zu\n", row->be, row->mechanism, idle,
                duration(load->p50_us, a[4], sizeof a[4]), duration(load->p99_us, a[5], sizeof a[5]),
                duration(load->max_us, a[6], sizeof a[6]), due, row->be_lost_pct, load->n);
    }
    print_steps(report, out);
}

/* {"wake":{"p50_us","p99_us"},...} */
static json_t *steps_json(const preempt_cell *cell)
{
    json_t *object = json_object();
    for (size_t i = 0; i < PREEMPT_N_STEPS; i++) {
        json_t *step = json_object();
        put(step, "p50_us", cell->steps[i].p50_us);
        put(step, "p99_us", cell->steps[i].p99_us);
        json_object_set_new(object, step_names[i], step);
    }
    return object;
}

json_t *preempt_report_json(const preempt_report *report)
{
    json_t *root = json_pack("{s:s, s:s, s:i, s:i, s:i, s:I, s:s, s:s}", "workload", "preempt", "device",
                             report->device, "units", (int)report->units, "count", (int)report->count, "rounds",
                             (int)report->rounds, "seed", (json_int_t)report->seed, "generator_priority",
                             report->realtime_priority ? "realtime" : "normal", "reef_version", reef_version());
    json_t *rows = json_array();
    for (size_t i = 0; i < report->n_rows; i++) {
        const preempt_row *row = &report->rows[i];
        json_t *object = json_pack("{s:s, s:s}", "be", row->be, "mechanism", row->mechanism);
        put(object, "idle_p50_us", row->idle.first.p50_us);
        put(object, "idle_p99_us", row->idle.first.p99_us);
        put(object, "p50_us", row->load.first.p50_us);
        put(object, "p99_us", row->load.first.p99_us);
        put(object, "max_us", row->load.first.max_us);
        put_count(object, "n", row->load.first.n);
        put(object, "be_lost_pct", row->be_lost_pct);
        put_count(object, "idle_n", row->idle.first.n);
        put(object, "idle_max_us", row->idle.first.max_us);
        put(object, "idle_call_p50_us", row->idle.call.p50_us);
        put(object, "idle_call_p99_us", row->idle.call.p99_us);
        put(object, "call_p50_us", row->load.call.p50_us);
        put(object, "call_p99_us", row->load.call.p99_us);
        put(object, "idle_due_p50_us", row->idle.due.p50_us);
        put(object, "idle_due_p99_us", row->idle.due.p99_us);
        put(object, "due_p50_us", row->load.due.p50_us);
        put(object, "due_p99_us", row->load.due.p99_us);
        put(object, "seconds", row->seconds);
        json_object_set_new(object, "steps", steps_json(&row->load));
        json_object_set_new(object, "idle_steps", steps_json(&row->idle));
        put_count(object, "preemptions", row->preemptions);
        put_count(object, "tiles_abandoned", row->tiles_abandoned);
        json_array_append_new(rows, object);
    }
    json_object_set_new(root, "rows", rows);
    return root;
}

/* ------------------------------------------------------------------------------------------------- padding -- */

void padding_report_free(padding_report *report)
{
    bench_report_free(&report->bench);
    bench_workload_free(&report->workload);
    memset(report, 0, sizeof *report);
}

static const char *change(double pct, char *text, size_t size)
{
    snprintf(text, size, isnan(pct) ? "-" : "%+.1f%%", pct);
    return text;
}

static void print_pairs(const padding_report *report, FILE *out)
{
    padding_row line;
    char a[7][32], pair[160];
    const bench_row *last = NULL;
    size_t fewest = SIZE_MAX;
    for (size_t i = 0; padding_row_at(report, i, &line); i++) {
        const bench_row *row = line.row;
        fewest = row->rt.n < fewest ? row->rt.n : fewest;
        if (line.alone != last) {
            snprintf(pair, sizeof pair, "%.70s beside %.70s", line.rt, line.be);
            fprintf(out, "\n%s; alone %s, p99 %s, n %zu\n", pair, duration(line.alone->rt.p50_us, a[0], sizeof a[0]),
                    duration(line.alone->rt.p99_us, a[1], sizeof a[1]), line.alone->rt.n);
            fprintf(out, "  %-9s %9s %8s %9s %8s %8s %8s %8s %10s %7s %7s\n", "policy", "RT p50", "", "RT p99", "",
                    "RT busy", "BE work", "BE/s", "padded", "preempt", "n");
            last = line.alone;
        }
        fprintf(out, "  %-9s %9s %8s %9s %8s %8s %8s %8.2f %10llu %7llu %7zu\n", row->policy,
                duration(row->rt.p50_us, a[0], sizeof a[0]), change(line.over_p50_pct, a[1], sizeof a[1]),
                duration(row->rt.p99_us, a[2], sizeof a[2]), change(line.over_p99_pct, a[3], sizeof a[3]),
                percent(100 * row->rt_busy_share, a[4], sizeof a[4]),
                percent(100 * row->be_work_share, a[5], sizeof a[5]), row->be_per_s,
                (unsigned long long)row->padded_tiles, (unsigned long long)row->preemptions, row->rt.n);
        print_faults(row, out);
    }
    if (fewest < 100) {
        fprintf(out, "\nAs few as %zu RT requests are behind a line: more --seconds give figures that mean more.\n",
                fewest);
    }
}

/* "  vgg19  kernels that carry others: 3 at 128 registers, 5 at 64, 11 carry none" */
static void print_padded(const reef_padding_info *padding, const bench_model_row *model, FILE *out)
{
    fprintf(out, "  %-20s kernels that carry others:", model->name);
    for (size_t i = 0; i < REEF_PAD_LEVELS && padding->levels[i]; i++) {
        fprintf(out, " %zu at %u%s,", model->padded[i], padding->levels[i], i ? "" : " registers");
    }
    fprintf(out, " %zu carry none\n", model->plain);
}

static void print_empty(const padding_report *report, FILE *out)
{
    padding_row line;
    char a[4][32];
    if (!padding_empty_at(report, 0, &line)) {
        return;
    }
    fprintf(out, "\npolicy pad without best-effort work, against rt-only\n");
    for (size_t i = 0; padding_empty_at(report, i, &line); i++) {
        fprintf(out, "  %-20s p50 %9s %8s   p99 %9s %8s   n %zu\n", line.rt,
                duration(line.row->rt.p50_us, a[0], sizeof a[0]), change(line.over_p50_pct, a[1], sizeof a[1]),
                duration(line.row->rt.p99_us, a[2], sizeof a[2]), change(line.over_p99_pct, a[3], sizeof a[3]),
                line.row->rt.n);
        print_faults(line.row, out);
    }
    const reef_padding_info *padding = &report->bench.padding;
    for (size_t i = 0; padding->levels[0] && padding_empty_at(report, i, &line); i++) {
        print_padded(padding, padding_model(report, line.rt), out);
    }
    if (report->bench.padded) {
        fprintf(out, "  kernels that carry others: %zu bytes of device memory; choosing on the host: ",
                padding->proxy_bytes);
        fprintf(out, padding->select_p50_ns ? "%llu ns per RT kernel (p50 of the newest)\n" : "none\n",
                (unsigned long long)padding->select_p50_ns);
    }
}

static void print_sums(const padding_report *report, FILE *out)
{
    padding_sum sum;
    char a[6][32];
    fprintf(out, "\n%-9s %9s %9s %9s %9s %9s %9s   %s\n", "policy", "p50 mean", "worst", "p99 mean", "worst", "BE work",
            "least", "pairs; worst p50 of");
    for (size_t i = 0; padding_sum_at(report, i, &sum); i++) {
        fprintf(out, "%-9s %9s %9s %9s %9s %9s %9s   %zu%s%s\n", sum.policy,
                change(sum.mean_p50_pct, a[0], sizeof a[0]), change(sum.worst_p50_pct, a[1], sizeof a[1]),
                change(sum.mean_p99_pct, a[2], sizeof a[2]), change(sum.worst_p99_pct, a[3], sizeof a[3]),
                percent(100 * sum.mean_be_share, a[4], sizeof a[4]),
                percent(100 * sum.least_be_share, a[5], sizeof a[5]), sum.pairs, sum.worst[0] ? "; " : "", sum.worst);
    }
}

void padding_report_print(const padding_report *report, FILE *out)
{
    const bench_report *bench = &report->bench;
    fprintf(out, "%s, %u compute units, %g s per pair and policy in %u round%s after %g s of warm-up each, seed %llu\n",
            bench->device, bench->units, bench->seconds, bench->rounds, bench->rounds == 1 ? "" : "s", bench->warmup,
            (unsigned long long)bench->seed);
    fprintf(
        out,
        "One real-time and one best-effort client, each in a closed loop; the real-time one thinks %g us before a\n"
        "request. Changes are against rt-only in the same rounds. BE work: best-effort requests x their solo time, of "
        "the\ntime; RT busy: of the time, the real-time request was being served. What units do is not measured.\n",
        (double)report->think_ns / 1e3);
    if (bench->skipped[0]) {
        fprintf(out, "left out, because %s cannot run it: %s\n", bench->device, bench->skipped);
    }
    print_pairs(report, out);
    print_empty(report, out);
    print_sums(report, out);
    fprintf(out, "\n%llu answers compared bit for bit with the undisturbed ones, %llu differ.\n",
            (unsigned long long)compared_of(&report->bench), (unsigned long long)bench_report_mismatches(bench));
}

static json_t *padding_row_json(const padding_row *line)
{
    const bench_row *row = line->row;
    json_t *object = json_pack("{s:s, s:s, s:s}", "rt", line->rt, "be", line->be, "policy", row->policy);
    put(object, "rt_overhead_p50_pct", line->over_p50_pct);
    put(object, "rt_overhead_p99_pct", line->over_p99_pct);
    put(object, "be_work_share", row->be_work_share);
    put(object, "rt_alone_p50_us", line->alone->rt.p50_us);
    put(object, "rt_alone_p99_us", line->alone->rt.p99_us);
    put(object, "rt_p50_us", row->rt.p50_us);
    put(object, "rt_p99_us", row->rt.p99_us);
    put_count(object, "n", row->rt.n);
    put_count(object, "alone_n", line->alone->rt.n);
    put(object, "rt_busy_share", row->rt_busy_share);
    put(object, "rt_per_s", row->rt_per_s);
    put(object, "be_per_s", row->be_per_s);
    put_count(object, "padded_tiles", row->padded_tiles);
    put_count(object, "preemptions", row->preemptions);
    put_count(object, "failed", row->failed + row->refused);
    put_count(object, "compared", row->compared);
    put_count(object, "mismatches", row->mismatches);
    return object;
}

/* {"128": kernels that carry others at that level, ..., "none": the others} */
static json_t *padded_json(const reef_padding_info *padding, const bench_model_row *model)
{
    json_t *object = json_object();
    for (size_t i = 0; i < REEF_PAD_LEVELS && padding->levels[i]; i++) {
        char level[16];
        snprintf(level, sizeof level, "%u", padding->levels[i]);
        put_count(object, level, model->padded[i]);
    }
    put_count(object, "none", model->plain);
    return object;
}

/* {"empty_pad_overhead_pct": {model: pct}, ..., "padded_kernels": {model: {...}}, ..., "policies": {policy: {...}}} */
static json_t *padding_summary_json(const padding_report *report)
{
    padding_row line;
    padding_sum sum;
    json_t *root = json_object(), *p50 = json_object(), *p99 = json_object(), *policies = json_object();
    json_t *padded = json_object();
    for (size_t i = 0; padding_empty_at(report, i, &line); i++) {
        put(p50, line.rt, line.over_p50_pct);
        put(p99, line.rt, line.over_p99_pct);
        if (report->bench.padding.levels[0]) {
            json_object_set_new(padded, line.rt, padded_json(&report->bench.padding, padding_model(report, line.rt)));
        }
    }
    for (size_t i = 0; padding_sum_at(report, i, &sum); i++) {
        json_t *figures = json_object();
        put(figures, "rt_overhead_p50_mean_pct", sum.mean_p50_pct);
        put(figures, "rt_overhead_p50_worst_pct", sum.worst_p50_pct);
        put(figures, "rt_overhead_p99_mean_pct", sum.mean_p99_pct);
        put(figures, "rt_overhead_p99_worst_pct", sum.worst_p99_pct);
        put(figures, "be_work_share_mean", sum.mean_be_share);
        put(figures, "be_work_share_least", sum.least_be_share);
        put_count(figures, "pairs", sum.pairs);
        put_count(figures, "pairs_without_be_work", sum.without_be);
        json_object_set_new(figures, "worst_pair", json_string(sum.worst));
        json_object_set_new(policies, sum.policy, figures);
    }
    const bench_report *bench = &report->bench;
    json_object_set_new(root, "empty_pad_overhead_pct", p50);
    json_object_set_new(root, "empty_pad_overhead_p99_pct", p99);
    json_object_set_new(root, "padded_kernels", padded);
    json_object_set_new(root, "proxy_bytes",
                        bench->padded ? json_integer((json_int_t)bench->padding.proxy_bytes) : json_null());
    json_object_set_new(root, "selection_ns_p50",
                        bench->padded ? json_integer((json_int_t)bench->padding.select_p50_ns) : json_null());
    json_object_set_new(root, "policies", policies);
    put_count(root, "compared", compared_of(&report->bench));
    put_count(root, "mismatches", bench_report_mismatches(bench));
    return root;
}

json_t *padding_report_json(const padding_report *report)
{
    const bench_report *bench = &report->bench;
    json_t *root = json_pack("{s:s}", "workload", "padding"), *rows = json_array();
    put_header(root, bench);
    json_object_set_new(root, "precision", json_string(reef_precision_name(report->precision)));
    put(root, "think_us", (double)report->think_ns / 1e3);
    padding_row line;
    for (size_t i = 0; padding_row_at(report, i, &line); i++) {
        json_array_append_new(rows, padding_row_json(&line));
    }
    json_object_set_new(root, "rows", rows);
    json_object_set_new(root, "summary", padding_summary_json(report));
    return root;
}
