/*
 * encode.c - the answer to a v2 inference request; see request.h. The tensors themselves are not copied.
 */
#include <string.h>

#include "base/error.h"
#include "serve/request.h"
#include "serve/tensor.h"

static void add_shape(serve_text *json, const serve_io *io, unsigned batch, bool batched)
{
    serve_text_add(json, ",\"shape\":[");
    for (int i = 0; i < io->rank; i++) {
        serve_text_format(json, i ? ",%lld" : "%lld", i == 0 && batched ? (long long)batch : (long long)io->dims[i]);
    }
    serve_text_add(json, "]");
}

static void add_binary(serve_answer *out, const void *data, size_t bytes)
{
    out->spans[out->n_spans++] = (serve_span){data, bytes};
    out->binary = true;
    serve_text_format(&out->json, ",\"parameters\":{\"binary_data_size\":%zu}", bytes);
}

static reef_status add_classes(const serve_request *request, const serve_io *io, const serve_out *from,
                               serve_answer *out, reef_error *error)
{
    bool batched = request->signature->max_batch > 0 || io->rank > 1;
    size_t rows = request->signature->max_batch     ? request->batch
                  : io->rank > 1 && io->dims[0] > 0 ? (size_t)io->dims[0]
                                                    : 1;
    size_t elems = io->item_elems * request->batch, row = rows ? elems / rows : 0;
    size_t classes = from->classes < row ? from->classes : row;
    serve_text_add(&out->json, ",\"datatype\":\"BYTES\",\"shape\":[");
    if (batched) {
        serve_text_format(&out->json, "%zu,", rows);
    }
    serve_text_format(&out->json, "%zu]", classes);
    if (from->form == SERVE_BINARY) {
        size_t begin = out->classes.n;
        reef_status status =
            serve_tensor_classify(from->data, io->dtype, rows, row, classes, (const char *const *)io->labels,
                                  io->n_labels, true, &out->classes, error);
        /* The text may still move: its span gets the address at the end. */
        add_binary(out, NULL, out->classes.n - begin);
        return status;
    }
    serve_text_add(&out->json, ",\"data\":[");
    reef_status status = serve_tensor_classify(from->data, io->dtype, rows, row, classes,
                                               (const char *const *)io->labels, io->n_labels, false, &out->json, error);
    serve_text_add(&out->json, "]");
    return status;
}

static reef_status add_output(const serve_request *request, size_t i, serve_answer *out, reef_error *error)
{
    const serve_io *io = &request->signature->outputs[i];
    const serve_out *from = &request->out[i];
    serve_text *json = &out->json;
    serve_text_add(json, "{\"name\":");
    serve_text_json(json, io->name);
    reef_status status = REEF_OK;
    if (from->region && serve_shm_damaged(from->region)) {
        return reef_fail(error, REEF_IO, "output '%.100s': its shared memory was truncated by its owner", io->name);
    }
    if (from->classes) {
        status = add_classes(request, io, from, out, error);
    } else {
        serve_text_format(json, ",\"datatype\":\"%s\"", serve_dtype_name(io->dtype));
        add_shape(json, io, request->batch, request->signature->max_batch > 0);
        if (from->form == SERVE_SHM) {
            serve_text_format(json, ",\"parameters\":{\"shared_memory_region\":");
            serve_text_json(json, serve_region_name(from->region));
            serve_text_format(json, ",\"shared_memory_byte_size\":%zu}", from->bytes);
        } else if (from->form == SERVE_BINARY) {
            add_binary(out, from->data, from->bytes);
        } else {
            serve_text_add(json, ",\"data\":");
            status =
                serve_tensor_to_json(from->data, io->dtype, io->item_elems * request->batch, json, io->name, error);
        }
    }
    serve_text_add(json, "}");
    return status;
}

reef_status serve_encode(const serve_request *request, serve_answer *out, reef_error *error)
{
    serve_text *json = &out->json;
    serve_text_add(json, "{\"model_name\":");
    serve_text_json(json, request->signature->name);
    serve_text_add(json, ",\"model_version\":");
    serve_text_json(json, request->signature->version);
    if (request->id) {
        serve_text_add(json, ",\"id\":");
        serve_text_json(json, request->id);
    }
    for (size_t i = 0; i < request->signature->n_inputs; i++) {
        if (request->in[i].region && serve_shm_damaged(request->in[i].region)) {
            return reef_fail(error, REEF_IO, "input '%.100s': its shared memory was truncated by its owner",
                             request->signature->inputs[i].name);
        }
    }
    serve_text_add(json, ",\"outputs\":[");
    reef_status status = REEF_OK;
    for (size_t k = 0; !status && k < request->n_order; k++) {
        if (k) {
            serve_text_add(json, ",");
        }
        status = add_output(request, request->order[k], out, error);
    }
    serve_text_add(json, "]}");
    size_t at = 0;
    for (size_t i = 0; i < out->n_spans; i++) {
        if (!out->spans[i].data) {
            out->spans[i].data = out->classes.data + at;
            at += out->spans[i].bytes;
        }
    }
    if (!status && (json->failed || out->classes.failed)) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    return status;
}

void serve_answer_free(serve_answer *answer)
{
    serve_text_free(&answer->json);
    serve_text_free(&answer->classes);
    answer->n_spans = 0;
}
