/*
 * runner.c - workloads under each policy.
 *
 *     models -> profiles ->  for each workload: each model alone (solo p50), undisturbed answers, sessions
 *                              for each form, scene, round:  rt-only, policy, policy ...   (then backwards, and so on)
 *
 * Everything a ratio is made of is measured in the same run on the same device: the RT latency alone (rt-only), the solo
 * times behind the load-matched rates and, from before each round, behind "best-effort work". The policies take turns in short slices, so that
 * whatever drifts (clocks, temperature, neighbours) drifts under all of them; a row is all slices of its policy.
 */
#include "bench/runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "bench/loadgen.h"
#include "bench/tally.h"
#include "bench/tensors.h"

enum { SLOT_BYTES = 64 << 20, MAX_RECORDS = 1 << 20, SOLO_MAX_RUNS = 200, SOLO_MIN_RUNS = 3, ROUND_MAX_RUNS = 100 };
static const uint64_t SOLO_NS = 1000000000u, ROUND_NS = 300000000u, MAX_TAIL_NS = 10000000000u,
                      MAX_BACKLOG_NS = 3000000000u;
/* Waking up takes a thread up to about 100 us: a generator is awake that long before a request is due. */
static const uint64_t SPIN_NS = 150000u, POLL_NS = 500000u;

typedef struct runner {
    const bench_options *options;
    reef_device *device;
    bench_model *models;
    size_t n_models;
    bench_play *plays;
    size_t n_plays;
    const char **policies; /* static strings; the first is rt-only */
    size_t n_policies;
    size_t n_forms;       /* of all plays */
    size_t slice, slices; /* for progress */
    bool leak;            /* requests are still under way: nothing they point at may be freed */
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

/* One entry per distinct model of all workloads; files are looked for before anything is loaded. */
static reef_status collect_models(runner *r, bench_play *play, reef_error *error)
{
    for (size_t i = 0; i < play->workload->n_clients; i++) {
        const bench_client *client = &play->workload->clients[i];
        bench_actor *actor = &play->actors[i];
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
    play->n_actors = play->workload->n_clients;
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

/* Up to `most` runs, or as many as fit into so long, but at least a few; into samples[], and from submission to end into
 * whole[], which may be NULL. */
static reef_status run_alone(bench_actor *actor, size_t most, uint64_t ns, uint64_t *samples, uint64_t *whole,
                             size_t *n, reef_error *error)
{
    uint64_t begin = reef_now_ns();
    *n = 0;
    while (*n < most && (*n < SOLO_MIN_RUNS || reef_now_ns() - begin < ns)) {
        reef_request_info info;
        reef_status status = reef_session_run(actor->alone, (const void *const *)actor->inputs.data,
                                              actor->verifier.slots[0].data, &info);
        if (status) {
            return reef_fail(error, status, "client %s: alone on the device: %s", actor->client->name,
                             reef_status_text(status));
        }
        if (whole) {
            whole[*n] = info.end_ns - info.submit_ns;
        }
        samples[(*n)++] = info.end_ns - info.start_ns;
        if (!bench_verify(&actor->verifier, 0, *n)) {
            return reef_fail(error, REEF_INTERNAL, "client %s: two undisturbed answers differ: %s", actor->client->name,
                             actor->verifier.first);
        }
    }
    return REEF_OK;
}

static reef_status measure_first(bench_actor *actor, reef_error *error)
{
    uint64_t samples[SOLO_MAX_RUNS], whole[SOLO_MAX_RUNS];
    size_t n;
    reef_status status = run_alone(actor, SOLO_MAX_RUNS, SOLO_NS, samples, whole, &n, error);
    if (!status) {
        actor->model->first_ns = (uint64_t)(bench_stats_of(whole, n).p50_us * 1e3);
        actor->model->solo_ns = (uint64_t)(bench_stats_of(samples, n).p50_us * 1e3);
    }
    return status;
}

static bool scene_uses(const bench_play *play, const bench_scene *scene, const bench_model *model)
{
    bool used = false;
    for (size_t i = 0; i < play->n_actors; i++) {
        used |= play->actors[i].model == model && in_scene(scene, i);
    }
    return used;
}

/* Before each round: every model of the scene once more, so that its time alone is that of these minutes. */
static reef_status measure_again(runner *r, const bench_play *play, const bench_scene *scene, reef_error *error)
{
    reef_status status = reef_device_set_policy(r->device, "rt-only", error);
    for (size_t i = 0; !status && i < play->n_actors; i++) {
        bench_actor *actor = &play->actors[i];
        bench_model *model = actor->model;
        if (!actor->alone || !scene_uses(play, scene, model)) {
            continue;
        }
        uint64_t samples[ROUND_MAX_RUNS];
        size_t n;
        status = run_alone(actor, ROUND_MAX_RUNS, ROUND_NS, samples, NULL, &n, error);
        if (!status && model->n_samples + n > model->room) {
            size_t room = 2 * (model->n_samples + n);
            uint64_t *bigger = realloc(model->samples, room * sizeof *bigger);
            if (!bigger) {
                return reef_fail(error, REEF_NO_MEMORY, "out of memory");
            }
            model->samples = bigger;
            model->room = room;
        }
        if (!status) {
            memcpy(model->samples + model->n_samples, samples, n * sizeof *samples);
            model->n_samples += n;
        }
    }
    return status;
}

/* What a part's work is counted in; the next part begins anew. */
static void settle_solo(const bench_play *play)
{
    for (size_t i = 0; i < play->n_actors; i++) {
        bench_model *model = play->actors[i].model;
        if (play->actors[i].alone && model->n_samples) {
            model->solo_ns = (uint64_t)(bench_stats_of(model->samples, model->n_samples).p50_us * 1e3);
            model->n_samples = 0;
        }
    }
}

/* Inputs, undisturbed answer, solo time, and the session the workload will use. */
/* measures: the first of its play that uses the model. */
static reef_status prepare_actor(bench_actor *actor, bool measures, reef_error *error)
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

    size_t slots = SLOT_BYTES / bytes, most = concurrency ? 8 * concurrency + 8 : LOAD_MAX_SLOTS;
    slots = slots > most ? most : slots < concurrency + 2 ? concurrency + 2 : slots;
    status = reef_session_create(actor->model->model, &(reef_session_options){.service_class = REEF_RT}, &actor->alone,
                                 error);
    if (status) {
        reef_error_prefix(error, "client %s: ", client->name);
        return status;
    }
    status = bench_verifier_create(actor->model->model, actor->alone, (const void *const *)actor->inputs.data, slots,
                                   &actor->verifier, error);
    if (!status && measures) {
        status = measure_first(actor, error);
    } else {
        reef_session_destroy(actor->alone);
        actor->alone = NULL;
    }
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

static reef_status load_models(runner *r, reef_error *error)
{
    reef_status status = REEF_OK;
    for (size_t i = 0; !status && i < r->n_models; i++) {
        report_progress(r, "load models", i, r->n_models);
        status = load_model(r, &r->models[i], error);
    }
    return status;
}

static reef_status prepare_play(runner *r, bench_play *play, reef_error *error)
{
    /* Alone means as RT, under the policy that does nothing else. */
    reef_status status = reef_device_set_policy(r->device, "rt-only", error);
    for (size_t i = 0; !status && i < play->n_actors; i++) {
        report_progress(r, "measure models alone", i, play->n_actors);
        bool first = true;
        for (size_t k = 0; k < i; k++) {
            first &= play->actors[k].model != play->actors[i].model;
        }
        status = prepare_actor(&play->actors[i], first, error);
    }
    return status;
}

static void end_play(bench_play *play)
{
    for (size_t i = 0; i < play->n_actors; i++) {
        bench_actor *actor = &play->actors[i];
        reef_session_destroy(actor->session);
        reef_session_destroy(actor->alone);
        bench_verifier_free(&actor->verifier);
        bench_tensors_free(&actor->inputs);
        actor->session = actor->alone = NULL;
    }
}

/* Of one second, at the published rates. */
static double rt_busy(const bench_play *play)
{
    double busy = 0;
    for (size_t i = 0; i < play->n_actors; i++) {
        const bench_actor *actor = &play->actors[i];
        if (actor->client->service_class == REEF_RT) {
            busy += bench_arrival_rate(&actor->client->arrival) * (double)actor->model->first_ns / 1e9;
        }
    }
    return busy;
}

static bool can_match(const bench_play *play)
{
    bool open = false;
    for (size_t i = 0; i < play->workload->n_clients; i++) {
        const bench_client *client = &play->workload->clients[i];
        open |= client->service_class == REEF_RT && bench_arrival_rate(&client->arrival) > 0;
    }
    return play->workload->rt_share > 0 && open;
}

/* The forms that a workload is played in: found out before anything is loaded. */
static reef_status forms_of(const runner *r, const bench_play *play, bool *published, bool *matched, reef_error *error)
{
    bench_form form = r->options->form;
    bool cpu = !strcmp(r->options->device, "cpu"), can = can_match(play);
    *matched = form == BENCH_FORM_MATCHED || form == BENCH_FORM_BOTH || (form == BENCH_FORM_DEFAULT && can);
    *published =
        form == BENCH_FORM_PUBLISHED || form == BENCH_FORM_BOTH || (form == BENCH_FORM_DEFAULT && !(cpu && can));
    return *matched && !can
               ? reef_fail(error, REEF_INVALID_ARGUMENT,
                           "--form: workload %s cannot be load-matched: it has no %s; use --form published",
                           play->workload->name, play->workload->rt_share > 0 ? "open-loop RT client" : "rt_share")
               : REEF_OK;
}

/* Matched: rates are scaled so that RT work alone keeps the device busy for the workload's share of the time. */
static void choose_rates(bench_play *play, bool matched, bench_part *part)
{
    double busy = rt_busy(play), share = play->workload->rt_share;
    play->scale = matched && busy > 0 ? share / busy : 1;
    part->workload = play->workload->name;
    part->about = play->workload->about;
    part->form = matched ? "matched" : "published";
    part->rate_scale = play->scale;
    part->rt_share_target = matched ? share : busy;
}

/* ------------------------------------------------------------------------------------------------- slices -- */

static void slice_progress(void *context, const char *what, size_t done, size_t total)
{
    const runner *r = context;
    report_progress(r, what, r->slice * total + done, r->slices * total);
}

/* Who takes part under a policy, and how they ask. */
static size_t cast(const runner *r, const bench_play *play, const bench_scene *scene, bool with_be, unsigned round,
                   load_client_spec *specs, size_t *who, uint64_t *longest_ns)
{
    const bench_options *options = r->options;
    double slice_s = options->seconds / (options->rounds ? options->rounds : 1) + options->warmup;
    size_t n = 0;
    *longest_ns = 0;
    for (size_t i = 0; i < play->n_actors; i++) {
        bench_actor *actor = &play->actors[i];
        bool rt = actor->client->service_class == REEF_RT;
        if (!in_scene(scene, i) || (!rt && !with_be)) {
            continue;
        }
        actor->verifier.compared = actor->verifier.mismatches = 0;
        actor->verifier.first[0] = 0;
        /* A device that cannot keep up is not kept waiting for after the slice for longer than this. */
        size_t backlog = (size_t)(MAX_BACKLOG_NS / (actor->model->first_ns + 1));
        double most = 4e9 * (slice_s + 1) / (double)(actor->model->first_ns + 1) + 1024;
        specs[n] = (load_client_spec){
            .client = actor->client,
            .session = actor->session,
            .inputs = (const void *const *)actor->inputs.data,
            .verifier = &actor->verifier,
            .scale = rt ? play->scale : 1,
            .seed = actor->seed + round * 1000003u, /* the same under every policy of a round */
            .from_ns = (uint64_t)(slice_s * 1e9 * round),
            .max_in_flight = backlog < 8 ? 8 : backlog,
            .max_records = most < MAX_RECORDS ? (size_t)most : MAX_RECORDS,
        };
        who[n++] = i;
        *longest_ns = actor->model->first_ns > *longest_ns ? actor->model->first_ns : *longest_ns;
    }
    return n;
}

static reef_status play_slice(runner *r, const bench_play *play, const bench_scene *scene, const bench_part *part,
                              const char *policy, unsigned round, tally *t, reef_error *error)
{
    const bench_options *options = r->options;
    load_client_spec specs[PLAY_MAX_CLIENTS];
    size_t who[PLAY_MAX_CLIENTS];
    uint64_t longest;
    size_t n = cast(r, play, scene, strcmp(policy, "rt-only") != 0, round, specs, who, &longest);
    unsigned rounds = options->rounds ? options->rounds : 1;
    bool cpu = !strcmp(options->device, "cpu");
    char what[200];
    snprintf(what, sizeof what, "%.80s %s: %s, round %u of %u:", part->workload, part->form, policy, round + 1, rounds);
    load_options timing = {
        .warmup_ns = (uint64_t)(options->warmup * 1e9),
        .window_ns = (uint64_t)(options->seconds * 1e9 / rounds),
        .max_tail_ns = 20 * longest < MAX_TAIL_NS ? 20 * longest : MAX_TAIL_NS,
        .spin_ns = cpu ? 0 : SPIN_NS, /* on the CPU device spinning would take a unit away */
        .thread_per_client = !cpu,
        .poll_ns = cpu ? 0 : POLL_NS, /* waking a thread would cost the device's own thread a system call per answer */
        .progress = slice_progress,
        .progress_context = r,
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
        what[strcspn(what, ",")] = 0;
        reef_device_trace_span(r->device, what, begin, reef_now_ns());
        r->leak = status == REEF_TIMEOUT;
        if (!status) {
            t->wall_s += (double)(reef_now_ns() - begin) / 1e9 * (after.units ? after.units : 1);
            tally_device(&before, &after, t);
            status = tally_slice(play, run, who, n, t);
            if (status) {
                reef_fail(error, status, "out of memory for the records");
            }
        }
    }
    if (!r->leak) {
        load_destroy(run);
    }
    r->slice++;
    return status;
}

/* The policies that a scene is played under: rt-only and ... 0: none beside it, so that there is nothing to play. */
static size_t policies_of(const runner *r, const bench_scene *scene, const char **pair, const char *const **out)
{
    *out = r->policies;
    if (!scene->only) {
        return r->n_policies;
    }
    pair[0] = r->policies[0];
    pair[1] = scene->only;
    *out = pair;
    bool measured = false;
    for (size_t i = 0; i < r->n_policies; i++) {
        measured |= !strcmp(r->policies[i], scene->only);
    }
    return measured ? 2 : 0;
}

/* Every policy, in turns. */
static reef_status play_part(runner *r, const bench_play *play, const bench_scene *scene, bench_part *part,
                             reef_error *error)
{
    reef_status status = REEF_OK;
    unsigned rounds = r->options->rounds ? r->options->rounds : 1;
    const char *pair[2], *const *policies;
    size_t n = policies_of(r, scene, pair, &policies);
    tally *tallies = calloc(n, sizeof *tallies);
    part->rows = calloc(n, sizeof *part->rows);
    bool ok = tallies && part->rows;
    for (size_t p = 0; ok && p < n; p++) {
        tallies[p].clients = calloc(play->n_actors + 1, sizeof *tallies[p].clients);
        ok = tallies[p].clients != NULL;
    }
    if (!ok) {
        status = reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    for (unsigned round = 0; !status && round < rounds; round++) {
        status = measure_again(r, play, scene, error);
        for (size_t i = 0; !status && i < n; i++) {
            size_t p = round % 2 ? n - 1 - i : i; /* there and back */
            status = play_slice(r, play, scene, part, policies[p], round, &tallies[p], error);
            if (status) {
                reef_error_prefix(error, "workload %s, policy %s: ", part->workload, policies[p]);
            }
        }
    }
    settle_solo(play);
    for (size_t p = 0; !status && p < n; p++) {
        bench_row *row = &part->rows[p];
        row->policy = policies[p];
        status = tally_row(play, scene, strcmp(row->policy, "rt-only") != 0, &tallies[p], p ? part->rows : NULL, row);
        part->n_rows++;
        if (status) {
            reef_fail(error, status, "out of memory for the report");
        }
    }
    for (size_t p = 0; tallies && p < n; p++) {
        tally_free(&tallies[p], play->n_actors);
    }
    free(tallies);
    return status;
}

/* ---------------------------------------------------------------------------------------------------- all -- */

reef_status bench_traced(reef_device *device, const char *path, reef_status (*run)(void *context, reef_error *error),
                         void *context, reef_error *error)
{
    reef_status status = path ? reef_device_trace_start(device, 0, error) : REEF_OK;
    if (status) {
        return status;
    }
    status = run(context, error);
    if (path) {
        /* What a failed run did is worth seeing, too; its own error counts. */
        reef_status written = reef_device_trace_stop(device, path, status ? NULL : error);
        status = status ? status : written;
    }
    return status;
}

/* One form of a play, scene by scene. */
static reef_status play_form(runner *r, bench_play *play, bool matched, bench_report *report, reef_error *error)
{
    static const bench_scene whole = {0};
    const bench_options *options = r->options;
    reef_status status = REEF_OK;
    for (size_t s = 0; !status && s < (options->n_scenes ? options->n_scenes : 1); s++) {
        const bench_scene *scene = options->n_scenes ? &options->scenes[s] : &whole;
        const char *pair[2], *const *policies;
        if (!policies_of(r, scene, pair, &policies)) {
            continue;
        }
        bench_part *part = &report->parts[report->n_parts++];
        choose_rates(play, matched, part);
        part->scene = s;
        part->workload = scene->name ? scene->name : part->workload;
        part->form = scene->form ? scene->form : part->form;
        status = play_part(r, play, scene, part, error);
    }
    return status;
}

typedef struct play_context {
    runner *r;
    bench_report *report;
} play_context;

static reef_status play_all(void *context, reef_error *error)
{
    runner *r = ((play_context *)context)->r;
    bench_report *report = ((play_context *)context)->report;
    reef_status status = REEF_OK;
    for (size_t i = 0; !status && i < r->n_plays; i++) {
        bench_play *play = &r->plays[i];
        bool forms[2];
        status = forms_of(r, play, &forms[0], &forms[1], error);
        if (!status) {
            status = prepare_play(r, play, error);
        }
        for (int matched = 0; !status && matched < 2; matched++) {
            if (forms[matched]) {
                status = play_form(r, play, matched, report, error);
            }
        }
        if (!r->leak) {
            end_play(play);
        }
    }
    return status;
}

/* rt-only first, then the others in the order given, each once; without those that the device cannot run if so wished. */
static reef_status choose_policies(runner *r, bench_report *report, reef_error *error)
{
    const bench_options *options = r->options;
    r->policies[r->n_policies++] = "rt-only";
    for (size_t i = 0; i < options->n_policies; i++) {
        const char *policy = NULL;
        bool known = false;
        reef_error why = {0};
        reef_status status = bench_check_policy(options->policies[i], &policy, error);
        status = status ? status : reef_device_set_policy(r->device, policy, &why);
        if (status == REEF_UNSUPPORTED && options->skip_unsupported) {
            size_t used = strlen(report->skipped);
            snprintf(report->skipped + used, sizeof report->skipped - used, "%s%s", used ? ", " : "", policy);
            continue;
        }
        if (status) {
            return why.status ? reef_fail(error, status, "%s", why.message) : status;
        }
        for (size_t p = 0; p < r->n_policies; p++) {
            known |= !strcmp(r->policies[p], policy);
        }
        if (!known) {
            r->policies[r->n_policies++] = policy;
        }
    }
    if (r->n_policies == 1 && report->skipped[0]) {
        return reef_fail(error, REEF_UNSUPPORTED, "device '%s' can run none of the policies asked for: %s",
                         options->device, report->skipped);
    }
    return REEF_OK;
}

static void count_padded(const reef_padding_info *padding, const reef_kernel_info *kernel, bench_model_row *row)
{
    size_t *count = &row->plain;
    for (size_t i = 0; i < REEF_PAD_LEVELS; i++) {
        count = kernel->pad_level && kernel->pad_level == padding->levels[i] ? &row->padded[i] : count;
    }
    ++*count;
}

/* What a reader of the results should know of the models. */
static reef_status describe_models(const runner *r, bench_report *report)
{
    report->models = calloc(r->n_models + 1, sizeof *report->models);
    for (size_t i = 0; report->models && i < r->n_models; i++) {
        bench_model_row *row = &report->models[report->n_models++];
        const reef_model *model = r->models[i].model;
        reef_model_info info;
        reef_kernel_info kernel;
        reef_model_info_get(model, &info);
        *row = (bench_model_row){.name = r->models[i].like->model,
                                 .solo_us = (double)r->models[i].solo_ns / 1e3,
                                 .kernels = info.kernels,
                                 .preemptible = info.kernels_preemptible};
        for (size_t k = 0; reef_model_kernel(model, k, &kernel); k++) {
            count_padded(&report->padding, &kernel, row);
            if (!kernel.preemptible && !row->why_not[0]) {
                snprintf(row->why_not, sizeof row->why_not, "%.80s: %s", kernel.name,
                         kernel.why_not ? kernel.why_not : "unknown");
            }
        }
    }
    return report->models ? REEF_OK : REEF_NO_MEMORY;
}

static void clean_up(runner *r)
{
    if (r->leak) {
        return;
    }
    for (size_t i = 0; i < r->n_models; i++) {
        reef_model_destroy(r->models[i].model);
        free(r->models[i].path);
        free(r->models[i].samples);
    }
    reef_device_close(r->device);
    for (size_t i = 0; r->plays && i < r->n_plays; i++) {
        free(r->plays[i].actors);
    }
    free(r->plays);
    free(r->models);
    free(r->policies);
}

/* Everything that can be found out without the device. */
static reef_status set_up(runner *r, const bench_workload *workloads, size_t n, bench_report *report, reef_error *error)
{
    size_t clients = 0;
    reef_status status = bench_check_device(r->options->device, error);
    for (size_t i = 0; !status && i < r->options->n_policies; i++) {
        status = bench_check_policy(r->options->policies[i], NULL, error);
    }
    if (status) {
        return status;
    }
    for (size_t i = 0; i < n; i++) {
        clients += workloads[i].n_clients;
    }
    r->models = calloc(clients + 1, sizeof *r->models);
    r->plays = calloc(n + 1, sizeof *r->plays);
    r->policies = calloc(r->options->n_policies + 1, sizeof *r->policies);
    report->parts = calloc(2 * (n + r->options->n_scenes) + 1, sizeof *report->parts);
    if (!r->models || !r->plays || !r->policies || !report->parts) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    for (; !status && r->n_plays < n; r->n_plays++) {
        bench_play *play = &r->plays[r->n_plays];
        bool published, matched;
        play->workload = &workloads[r->n_plays];
        play->actors = calloc(play->workload->n_clients + 1, sizeof *play->actors);
        status = play->actors ? collect_models(r, play, error) : reef_fail(error, REEF_NO_MEMORY, "out of memory");
        if (!status && !(status = forms_of(r, play, &published, &matched, error))) {
            r->n_forms += published + (size_t)matched;
        }
    }
    return status;
}

static size_t count_slices(const runner *r)
{
    const bench_options *options = r->options;
    const char *pair[2], *const *policies;
    size_t n = options->n_scenes ? 0 : r->n_policies;
    for (size_t i = 0; i < options->n_scenes; i++) {
        n += policies_of(r, &options->scenes[i], pair, &policies);
    }
    return n * r->n_forms * (options->rounds ? options->rounds : 1);
}

/* What padding has cost, if there was any. */
static void ask_padding(const runner *r, bench_report *report)
{
    for (size_t i = 0; i < r->n_policies; i++) {
        report->padded |= !strcmp(r->policies[i], "pad");
    }
    report->padded = report->padded && reef_device_padding(r->device, &report->padding, NULL) == REEF_OK;
}

reef_status bench_run(const bench_workload *workloads, size_t n_workloads, const bench_options *options,
                      bench_report *out, reef_error *error)
{
    runner r = {.options = options};
    bench_report report = {
        .device = options->device,
        .seconds = options->seconds,
        .warmup = options->warmup,
        .rounds = options->rounds ? options->rounds : 1,
        .seed = options->seed,
        .form_defaulted = options->form == BENCH_FORM_DEFAULT,
    };
    reef_status status = set_up(&r, workloads, n_workloads, &report, error);
    if (!status) {
        reef_device_options device = {.units = options->units, .policy = "rt-only"};
        status = reef_device_open(options->device, &device, &r.device, error);
    }
    if (!status) {
        status = choose_policies(&r, &report, error);
    }
    if (!status) {
        reef_device_stats stats;
        reef_device_stats_get(r.device, &stats);
        report.units = stats.units;
        report.realtime_priority = load_can_raise_priority();
        r.slices = count_slices(&r);
        status = load_models(&r, error);
    }
    if (!status) {
        status = bench_traced(r.device, options->trace, play_all, &(play_context){&r, &report}, error);
    }
    if (!status) {
        ask_padding(&r, &report);
        status =
            describe_models(&r, &report) ? reef_fail(error, REEF_NO_MEMORY, "out of memory for the report") : REEF_OK;
    }
    clean_up(&r);
    if (status) {
        bench_report_free(&report);
        return status;
    }
    *out = report;
    return REEF_OK;
}
