/*
 * tensors.c - see tensors.h.
 */
#include "bench/tensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "bench/npy.h"
#include "bench/rng.h"

reef_status bench_tensors_create(const reef_model *model, bool outputs, bench_tensors *out)
{
    size_t n = outputs ? reef_model_outputs(model) : reef_model_inputs(model);
    bench_tensors made = {.data = calloc(n + 1, sizeof *made.data)};
    if (!made.data) {
        return REEF_NO_MEMORY;
    }
    for (; made.n < n; made.n++) {
        reef_tensor_info info;
        (outputs ? reef_model_output : reef_model_input)(model, made.n, &info);
        size_t bytes = (info.bytes + 64) / 64 * 64; /* at least one line: empty tensors have a place too */
        made.data[made.n] = reef_memory_fits(bytes) ? aligned_alloc(64, bytes) : NULL;
        if (!made.data[made.n]) {
            bench_tensors_free(&made);
            return REEF_NO_MEMORY;
        }
        memset(made.data[made.n], 0, bytes);
        made.total_bytes += info.bytes;
    }
    *out = made;
    return REEF_OK;
}

void bench_tensors_free(bench_tensors *tensors)
{
    for (size_t i = 0; i < tensors->n; i++) {
        free(tensors->data[i]);
    }
    free(tensors->data);
    *tensors = (bench_tensors){0};
}

/* The half-precision float nearest below x, for x in [0, 1): enough for random contents. */
static uint16_t half_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 23 & 255) - 127 + 15;
    return exponent <= 0 ? 0 : (uint16_t)(exponent << 10 | (bits >> 13 & 0x3ff));
}

void bench_fill(const reef_tensor_info *info, uint64_t seed, void *data)
{
    size_t size = npy_dtype_bytes(info->dtype), n = size ? info->bytes / size : 0;
    bool ones = strstr(info->name, "mask") != NULL;
    bench_rng rng = {seed};
    for (size_t i = 0; i < n; i++) {
        double unit = bench_rng_unit(&rng);
        int number = ones ? 1 : (int)(unit * 100);
        switch (info->dtype) {
        case REEF_F32: ((float *)data)[i] = (float)(unit * 0x1.fffffep-1); break;
        case REEF_F64: ((double *)data)[i] = unit; break;
        case REEF_F16: ((uint16_t *)data)[i] = half_of((float)(unit * 0x1.ffcp-1)); break;
        case REEF_I64: ((int64_t *)data)[i] = number; break;
        case REEF_I32: ((int32_t *)data)[i] = number; break;
        case REEF_U8:
        case REEF_I8: ((uint8_t *)data)[i] = (uint8_t)number; break;
        case REEF_BOOL: ((uint8_t *)data)[i] = ones || unit < 0.5; break;
        }
    }
}

static reef_status fill_from_file(const reef_tensor_info *info, const char *path, void *data, reef_error *error)
{
    npy_array array;
    reef_status status = npy_load(path, &array, error);
    if (status) {
        return status;
    }
    status = npy_check(&array, info, path, error);
    if (!status) {
        memcpy(data, array.data, array.bytes);
    }
    npy_free(&array);
    return status;
}

reef_status bench_inputs_fill(const reef_model *model, const bench_input_file *files, size_t n_files, uint64_t seed,
                              bench_tensors *inputs, reef_error *error)
{
    size_t used = 0;
    for (size_t i = 0; i < inputs->n; i++) {
        reef_tensor_info info;
        reef_model_input(model, i, &info);
        const char *path = NULL;
        for (size_t f = 0; f < n_files; f++) {
            if (!strcmp(files[f].input, info.name)) {
                path = files[f].path;
                used++;
            }
        }
        if (path) {
            reef_status status = fill_from_file(&info, path, inputs->data[i], error);
            if (status) {
                return status;
            }
        } else {
            bench_fill(&info, seed * 1000003u + i, inputs->data[i]);
        }
    }
    if (used < n_files) {
        return reef_fail(error, REEF_NOT_FOUND,
                         "inputs: the model has no input of one of the names given (first: '%s')", files[0].input);
    }
    return REEF_OK;
}

size_t bench_first_difference(const void *a, const void *b, size_t bytes)
{
    const unsigned char *x = a, *y = b;
    if (!memcmp(x, y, bytes)) {
        return bytes;
    }
    size_t i = 0;
    while (x[i] == y[i]) {
        i++;
    }
    return i;
}
