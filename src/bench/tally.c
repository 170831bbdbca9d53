/*
 * tally.c - see tally.h. A request counts for latency when it was due in the window, for throughput by the part of it that
 * was served there.
 */
#include "bench/tally.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static bool make_room(tally_samples *s, size_t more)
{
    if (s->n + more > s->capacity) {
        size_t grown = (s->n + more) + (s->n + more) / 2;
        uint64_t *bigger = realloc(s->ns, (grown + 1) * sizeof *bigger);
        if (!bigger) {
            return false;
        }
        s->ns = bigger;
        s->capacity = grown;
    }
    return true;
}

static bool append(tally_samples *to, const tally_samples *from)
{
    if (from->n && !make_room(to, from->n)) {
        return false;
    }
    if (from->n) {
        memcpy(to->ns + to->n, from->ns, from->n * sizeof *to->ns);
        to->n += from->n;
    }
    return true;
}

void tally_free(tally *t, size_t n_actors)
{
    for (size_t i = 0; t->clients && i < n_actors; i++) {
        free(t->clients[i].due.ns);
        free(t->clients[i].submitted.ns);
    }
    free(t->clients);
    free(t->late.ns);
}

static double slo_us(const bench_actor *actor)
{
    return actor->client->slo_us ? (double)actor->client->slo_us : 2 * (double)actor->model->first_ns / 1e3;
}

/* Requests counted for throughput: those due in the window, or served in it, in part. A closed-loop request that only
 * ended when the load had stopped counts for nothing: how much of it was done before, beside the others, nobody knows. */
static reef_status count_client(const load *run, size_t index, const bench_actor *actor, tally *t, tally_client *c)
{
    uint64_t begin, end, deadline = actor->client->deadline_us * 1000;
    double slo_ns = slo_us(actor) * 1e3;
    size_t n;
    bool open = actor->client->arrival.kind != BENCH_CLOSED;
    uint64_t stopped = open ? UINT64_MAX : load_stopped(run);
    load_window(run, &begin, &end);
    const load_record *records = load_records(run, index, &n);
    if (!make_room(&c->due, n) || !make_room(&c->submitted, n) || (open && !make_room(&t->late, n))) {
        return REEF_NO_MEMORY;
    }
    for (size_t i = 0; i < n; i++) {
        const load_record *record = &records[i];
        bool due = in_window(record->due_ns, begin, end), ok = record->status == REEF_OK;
        if (ok && record->end_ns <= stopped) {
            uint64_t from = record->start_ns ? record->start_ns : record->submit_ns;
            c->served += part_inside(from, record->end_ns, begin, end);
        }
        if (!due) {
            continue;
        }
        c->n_due++;
        c->preemptions += record->preemptions;
        c->drops += record->status == LOAD_DROPPED || record->status == REEF_QUEUE_FULL;
        c->refused += record->status == REEF_REFUSED;
        bool late = ok && deadline && record->end_ns > record->due_ns + deadline;
        c->deadline_missed += record->status == REEF_DEADLINE || late;
        c->failed += !ok && record->status != LOAD_DROPPED && record->status != REEF_QUEUE_FULL &&
                     record->status != REEF_REFUSED && record->status != REEF_DEADLINE;
        if (open) {
            t->late.ns[t->late.n++] = record->sent_ns - record->due_ns;
        }
        if (ok) {
            uint64_t latency = record->end_ns - record->due_ns;
            c->due.ns[c->due.n++] = latency;
            c->submitted.ns[c->submitted.n++] = record->end_ns - record->sent_ns;
            c->in_slo += (double)latency <= slo_ns;
        }
    }
    c->unrecorded += load_unrecorded(run, index);
    c->compared += actor->verifier.compared;
    c->mismatches += actor->verifier.mismatches;
    if (!c->mismatch[0]) {
        memcpy(c->mismatch, actor->verifier.first, sizeof c->mismatch);
    }
    return REEF_OK;
}

typedef struct span {
    uint64_t from, to;
} span;

static int by_start(const void *a, const void *b)
{
    const span *x = a, *y = b;
    return (x->from > y->from) - (x->from < y->from);
}

/* How much of the window at least one RT request was being served. */
static reef_status count_rt_busy(const load *run, const size_t *indices, size_t n_indices, tally *t)
{
    uint64_t begin, end, until;
    size_t total = 0, n_spans = 0, n;
    load_window(run, &begin, &end);
    for (size_t i = 0; i < n_indices; i++) {
        load_records(run, indices[i], &n);
        total += n;
    }
    span *spans = malloc((total + 1) * sizeof *spans);
    if (!spans) {
        return REEF_NO_MEMORY;
    }
    for (size_t i = 0; i < n_indices; i++) {
        const load_record *records = load_records(run, indices[i], &n);
        for (size_t k = 0; k < n; k++) {
            if (records[k].status == REEF_OK && records[k].start_ns) {
                spans[n_spans++] = (span){records[k].start_ns, records[k].end_ns};
            }
        }
    }
    qsort(spans, n_spans, sizeof *spans, by_start);
    until = begin;
    for (size_t i = 0; i < n_spans; i++) {
        uint64_t from = spans[i].from > until ? spans[i].from : until, to = spans[i].to < end ? spans[i].to : end;
        if (to > from) {
            t->rt_busy_ns += to - from;
            until = to;
        }
    }
    free(spans);
    return REEF_OK;
}

void tally_device(const reef_device_stats *before, const reef_device_stats *after, tally *t)
{
    t->preemptions += after->preemptions - before->preemptions;
    t->kernels_evicted += after->kernels_evicted - before->kernels_evicted;
    t->tiles_run += after->tiles_run - before->tiles_run;
    t->tiles_abandoned += after->tiles_abandoned - before->tiles_abandoned;
    t->padded_tiles += after->padded_tiles - before->padded_tiles;
    t->busy_rt += after->busy_ns_rt - before->busy_ns_rt;
    t->busy_be += after->busy_ns_be - before->busy_ns_be;
    t->lost_be += after->lost_ns_be - before->lost_ns_be;
}

reef_status tally_slice(const bench_play *play, const load *run, const size_t *who, size_t n_who, tally *t)
{
    size_t rt[PLAY_MAX_CLIENTS], n_rt = 0;
    uint64_t begin, end;
    reef_status status = REEF_OK;
    for (size_t i = 0; !status && i < n_who; i++) {
        const bench_actor *actor = &play->actors[who[i]];
        status = count_client(run, i, actor, t, &t->clients[who[i]]);
        if (actor->client->service_class == REEF_RT) {
            rt[n_rt++] = i;
        }
    }
    load_window(run, &begin, &end);
    t->window_s += (double)(end - begin) / 1e9;
    return status ? status : count_rt_busy(run, rt, n_rt, t);
}

static void finish_client(const bench_actor *actor, tally_client *c, double seconds, bench_client_row *row)
{
    *row = (bench_client_row){
        .name = actor->client->name,
        .model = actor->client->model,
        .service_class = actor->client->service_class,
        .solo_us = (double)actor->model->solo_ns / 1e3,
        .slo_us = slo_us(actor),
        .per_s = c->served / seconds,
        .slo_pct = c->n_due ? 100.0 * (double)c->in_slo / (double)c->n_due : NAN,
        .due = c->n_due,
        .drops = c->drops,
        .refused = c->refused,
        .failed = c->failed,
        .deadline_missed = c->deadline_missed,
        .unrecorded = c->unrecorded,
        .preemptions = c->preemptions,
        .compared = c->compared,
        .mismatches = c->mismatches,
    };
    row->work_share = row->per_s * row->solo_us / 1e6;
    memcpy(row->mismatch, c->mismatch, sizeof row->mismatch);
    row->latency = bench_stats_of(c->due.ns, c->due.n);
    row->submitted = bench_stats_of(c->submitted.ns, c->submitted.n);
}

reef_status tally_row(const bench_play *play, const bench_scene *scene, bool with_be, tally *t, const bench_row *base,
                      bench_row *row)
{
    tally_samples due = {0}, submitted = {0};
    size_t n_due = 0, in_slo = 0;
    row->clients = calloc(play->n_actors + 1, sizeof *row->clients);
    bool ok = row->clients != NULL;
    for (size_t i = 0; ok && i < play->n_actors; i++) {
        const bench_actor *actor = &play->actors[i];
        tally_client *c = &t->clients[i];
        bool rt = actor->client->service_class == REEF_RT;
        if (!in_scene(scene, i) || (!rt && !with_be)) {
            continue;
        }
        bench_client_row *client = &row->clients[row->n_clients++];
        finish_client(actor, c, t->window_s, client);
        row->compared += client->compared;
        row->mismatches += client->mismatches;
        row->drops += client->drops;
        row->refused += client->refused;
        row->failed += client->failed;
        row->deadline_missed += client->deadline_missed;
        if (rt) {
            ok = append(&due, &c->due) && append(&submitted, &c->submitted);
            n_due += c->n_due;
            in_slo += c->in_slo;
            row->rt_per_s += client->per_s;
            row->rt_work_share += client->work_share;
        } else {
            row->be_per_s += client->per_s;
            row->be_work_share += client->work_share;
        }
    }
    if (ok) {
        row->rt = bench_stats_of(due.ns, due.n);
        row->rt_submitted = bench_stats_of(submitted.ns, submitted.n);
        bench_stats late = bench_stats_of(t->late.ns, t->late.n);
        row->late_p50_us = late.p50_us;
        row->late_p99_us = late.p99_us;
        row->late_max_us = late.max_us;
        row->slo_pct = n_due ? 100.0 * (double)in_slo / (double)n_due : NAN;
        row->rt_busy_share = (double)t->rt_busy_ns / 1e9 / t->window_s;
        row->preemptions = t->preemptions;
        row->kernels_evicted = t->kernels_evicted;
        row->tiles_run = t->tiles_run;
        row->tiles_abandoned = t->tiles_abandoned;
        row->padded_tiles = t->padded_tiles;
        row->be_lost_pct = t->busy_be ? 100.0 * (double)t->lost_be / (double)t->busy_be : 0;
        row->unit_busy_share = (double)(t->busy_be + t->busy_rt) / 1e9 / t->wall_s;
        base = base ? base : row;
        double idle = 1 - base->rt_busy_share, work = base->rt_work_share;
        row->requests_ratio = base->rt_per_s > 0 ? (row->rt_per_s + row->be_per_s) / base->rt_per_s : NAN;
        row->work_ratio = work > 0 ? (row->rt_work_share + row->be_work_share) / work : NAN;
        row->be_idle_share = idle > 0 ? row->be_work_share / idle : NAN;
    }
    free(due.ns);
    free(submitted.ns);
    return ok ? REEF_OK : REEF_NO_MEMORY;
}
