/*
 * describe.c - what the server says of itself and its models: metadata, index, statistics (JSON).
 */
#include <string.h>

#include "base/clock.h"
#include "serve/exchange.h"
#include "serve/tensor.h"

void serve_describe_server(serve_text *out)
{
    serve_text_add(out, "{\"name\":\"reef\",\"version\":");
    serve_text_json(out, reef_version());
    serve_text_add(out, ",\"extensions\":[\"binary_tensor_data\",\"classification\",\"model_repository\","
                        "\"model_repository(unload_dependents)\",\"model_configuration\",\"system_shared_memory\","
                        "\"statistics\",\"schedule_policy\"]}\n");
}

static void add_io(const serve_io *list, size_t n, bool config, serve_text *out)
{
    serve_text_add(out, "[");
    for (size_t i = 0; i < n; i++) {
        serve_text_add(out, i ? ",{\"name\":" : "{\"name\":");
        serve_text_json(out, list[i].name);
        serve_text_format(out, config ? ",\"data_type\":\"TYPE_%s\",\"dims\":[" : ",\"datatype\":\"%s\",\"shape\":[",
                          serve_dtype_name(list[i].dtype));
        int first = config && list[i].rank && list[i].dims[0] == -1; /* there the batch is not one of the dims */
        for (int d = first; d < list[i].rank; d++) {
            serve_text_format(out, d > first ? ",%lld" : "%lld", (long long)list[i].dims[d]);
        }
        serve_text_add(out, "]}");
    }
    serve_text_add(out, "]");
}

typedef struct version_list {
    const char *name;
    serve_text *out;
    bool any;
} version_list;

static void add_version(void *context, const serve_entry_view *entry)
{
    version_list *list = context;
    if (entry->model && !strcmp(entry->name, list->name)) {
        serve_text_add(list->out, list->any ? "," : "");
        serve_text_json(list->out, entry->version);
        list->any = true;
    }
}

void serve_describe_model(serve_repository *repository, const serve_model *model, serve_text *out)
{
    serve_text_add(out, "{\"name\":");
    serve_text_json(out, model->name);
    serve_text_add(out, ",\"versions\":[");
    serve_repository_each(repository, add_version, &(version_list){.name = model->name, .out = out});
    serve_text_add(out, "],\"platform\":\"onnx_reef\",\"inputs\":");
    add_io(model->inputs, model->signature.n_inputs, false, out);
    serve_text_add(out, ",\"outputs\":");
    add_io(model->outputs, model->signature.n_outputs, false, out);
    serve_text_add(out, "}\n");
}

void serve_describe_config(const serve_model *model, serve_text *out)
{
    serve_text_add(out, "{\"name\":");
    serve_text_json(out, model->name);
    serve_text_format(out, ",\"platform\":\"onnx_reef\",\"max_batch_size\":%u,\"input\":", model->signature.max_batch);
    add_io(model->inputs, model->signature.n_inputs, true, out);
    serve_text_add(out, ",\"output\":");
    add_io(model->outputs, model->signature.n_outputs, true, out);
    if (model->config.max_batch) {
        serve_text_format(out, ",\"dynamic_batching\":{\"max_queue_delay_microseconds\":%llu}",
                          (unsigned long long)model->config.delay_us);
    }
    serve_text_format(out, ",\"parameters\":{\"class\":{\"string_value\":\"%s\"}}}\n",
                      model->config.service_class == REEF_RT ? "rt" : "be");
}

/* ------------------------------------------------------------------------------------------------------ index -- */

typedef struct index_list {
    serve_text *out;
    bool ready_only, any;
} index_list;

static void add_index(void *context, const serve_entry_view *entry)
{
    index_list *list = context;
    if (list->ready_only && entry->state != SERVE_READY) {
        return;
    }
    serve_text_add(list->out, list->any ? ",{\"name\":" : "{\"name\":");
    serve_text_json(list->out, entry->name);
    serve_text_add(list->out, ",\"version\":");
    serve_text_json(list->out, entry->version);
    serve_text_format(list->out, ",\"state\":\"%s\",\"reason\":", serve_state_name(entry->state));
    serve_text_json(list->out, entry->reason);
    serve_text_add(list->out, "}");
    list->any = true;
}

void serve_describe_index(serve_repository *repository, bool ready_only, serve_text *out)
{
    serve_text_add(out, "[");
    serve_repository_each(repository, add_index, &(index_list){.out = out, .ready_only = ready_only});
    serve_text_add(out, "]\n");
}

/* ------------------------------------------------------------------------------------------------- statistics -- */

typedef struct stats_list {
    const char *name, *version;
    serve_text *out;
    bool any;
} stats_list;

static void add_duration(serve_text *out, const char *name, const serve_duration *duration)
{
    serve_text_format(out, "\"%s\":{\"count\":%llu,\"ns\":%llu}", name,
                      (unsigned long long)atomic_load(&duration->count),
                      (unsigned long long)atomic_load(&duration->ns));
}

static void add_stats(void *context, const serve_entry_view *entry)
{
    stats_list *list = context;
    serve_text *out = list->out;
    const serve_model_stats *stats = entry->stats;
    if ((list->name && strcmp(list->name, entry->name) != 0) ||
        (list->version[0] && strcmp(list->version, entry->version) != 0) || (!list->name && !entry->model)) {
        return;
    }
    serve_text_add(out, list->any ? ",{\"name\":" : "{\"name\":");
    list->any = true;
    serve_text_json(out, entry->name);
    serve_text_add(out, ",\"version\":");
    serve_text_json(out, entry->version);
    serve_text_format(
        out, ",\"last_inference\":%llu,\"inference_count\":%llu,\"execution_count\":%llu,\"inference_stats\":{",
        (unsigned long long)atomic_load(&stats->last_ms), (unsigned long long)atomic_load(&stats->items),
        (unsigned long long)atomic_load(&stats->executions));
    static const serve_duration nothing;
    const struct {
        const char *name;
        const serve_duration *duration;
    } durations[] = {
        {"success", &stats->success},     {"fail", &stats->fail},           {"queue", &stats->queue},
        {"compute_input", &stats->input}, {"compute_infer", &stats->infer}, {"compute_output", &stats->output},
        {"cache_hit", &nothing},          {"cache_miss", &nothing},
    };
    for (size_t i = 0; i < sizeof durations / sizeof durations[0]; i++) {
        serve_text_add(out, i ? "," : "");
        add_duration(out, durations[i].name, durations[i].duration);
    }
    serve_text_add(out, "},\"batch_stats\":[");
    bool first = true;
    for (size_t i = 0; i < sizeof stats->batches / sizeof stats->batches[0]; i++) {
        if (atomic_load(&stats->batches[i].count)) {
            serve_text_format(out, "%s{\"batch_size\":%u,", first ? "" : ",", 1u << i);
            add_duration(out, "compute_input", &nothing);
            serve_text_add(out, ",");
            add_duration(out, "compute_infer", &stats->batches[i]);
            serve_text_add(out, ",");
            add_duration(out, "compute_output", &nothing);
            serve_text_add(out, "}");
            first = false;
        }
    }
    serve_text_add(out, "]}");
}

bool serve_describe_stats(serve_repository *repository, const char *name, const char *version, serve_text *out)
{
    stats_list list = {.name = name, .version = version, .out = out};
    serve_text_add(out, "{\"model_stats\":[");
    serve_repository_each(repository, add_stats, &list);
    serve_text_add(out, "]}\n");
    return list.any || !name;
}
