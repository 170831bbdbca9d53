/*
 * tensor.c - see tensor.h.
 */
#include "serve/tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/half.h"

static const struct {
    reef_dtype dtype;
    const char *name;
    size_t bytes;
} dtypes[] = {
    {REEF_F32, "FP32", 4},  {REEF_U8, "UINT8", 1},  {REEF_I8, "INT8", 1},  {REEF_I32, "INT32", 4},
    {REEF_I64, "INT64", 8}, {REEF_BOOL, "BOOL", 1}, {REEF_F16, "FP16", 2}, {REEF_F64, "FP64", 8},
};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

size_t serve_dtype_bytes(reef_dtype dtype)
{
    for (size_t i = 0; i < N_DTYPES; i++) {
        if (dtypes[i].dtype == dtype) {
            return dtypes[i].bytes;
        }
    }
    return 0;
}

const char *serve_dtype_name(reef_dtype dtype)
{
    for (size_t i = 0; i < N_DTYPES; i++) {
        if (dtypes[i].dtype == dtype) {
            return dtypes[i].name;
        }
    }
    return "BYTES";
}

bool serve_dtype_find(const char *name, reef_dtype *out)
{
    for (size_t i = 0; i < N_DTYPES; i++) {
        if (!strcmp(dtypes[i].name, name)) {
            *out = dtypes[i].dtype;
            return true;
        }
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------ from JSON -- */

typedef struct reader {
    reef_dtype dtype;
    char *out;
    size_t n, elems, size;
    const char *what;
    reef_error *error;
} reader;

static reef_status store_integer(reader *r, const json_t *value, int64_t low, int64_t high)
{
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : 0;
    if (!json_is_integer(value) || number < low || number > high) {
        return reef_fail(r->error, REEF_FORMAT, "%s: element %zu is not a whole number from %lld to %lld", r->what,
                         r->n, (long long)low, (long long)high);
    }
    char *at = r->out + r->n * r->size;
    switch (r->size) {
    case 1: *at = (char)number; break;
    case 4: memcpy(at, &(int32_t){(int32_t)number}, 4); break;
    default: memcpy(at, &(int64_t){number}, 8); break;
    }
    return REEF_OK;
}

static reef_status store(reader *r, const json_t *value)
{
    char *at = r->out + r->n * r->size;
    switch (r->dtype) {
    case REEF_U8: return store_integer(r, value, 0, UINT8_MAX);
    case REEF_I8: return store_integer(r, value, INT8_MIN, INT8_MAX);
    case REEF_I32: return store_integer(r, value, INT32_MIN, INT32_MAX);
    case REEF_I64: return store_integer(r, value, INT64_MIN, INT64_MAX);
    case REEF_BOOL:
        if (json_is_boolean(value)) {
            *at = json_is_true(value);
            return REEF_OK;
        }
        return store_integer(r, value, 0, 1);
    default: break;
    }
    if (!json_is_number(value)) {
        return reef_fail(r->error, REEF_FORMAT, "%s: element %zu is not a number", r->what, r->n);
    }
    double number = json_number_value(value);
    /* A double beyond float becomes infinite; the conversion is defined with IEC 60559 and checked all the same. */
    float single =
        fabs(number) > 3.4028235677973366e38 ? copysignf(INFINITY, (float)(number > 0 ? 1 : -1)) : (float)number;
    switch (r->dtype) {
    case REEF_F32: memcpy(at, &single, 4); return REEF_OK;
    case REEF_F16: memcpy(at, &(uint16_t){reef_half_from_float(single)}, 2); return REEF_OK;
    case REEF_F64: memcpy(at, &number, 8); return REEF_OK;
    default: return reef_fail(r->error, REEF_DTYPE, "%s: this data type cannot be written as JSON", r->what);
    }
}

static reef_status read_values(reader *r, const json_t *array, int depth)
{
    size_t n = json_array_size(array);
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(array, i);
        reef_status status;
        if (json_is_array(value)) {
            if (depth <= 1) {
                return reef_fail(r->error, REEF_SHAPE, "%s: data is nested deeper than its shape", r->what);
            }
            status = read_values(r, value, depth - 1);
        } else if (r->n == r->elems) {
            return reef_fail(r->error, REEF_SHAPE, "%s: data has more than the %zu elements of its shape", r->what,
                             r->elems);
        } else {
            status = store(r, value);
            r->n++;
        }
        if (status) {
            return status;
        }
    }
    return REEF_OK;
}

reef_status serve_tensor_from_json(const json_t *data, reef_dtype dtype, int rank, size_t elems, void *out,
                                   const char *what, reef_error *error)
{
    if (!json_is_array(data)) {
        return reef_fail(error, REEF_FORMAT, "%s: data is not an array", what);
    }
    reader r = {
        .dtype = dtype, .out = out, .elems = elems, .size = serve_dtype_bytes(dtype), .what = what, .error = error};
    reef_status status = read_values(&r, data, rank > 1 ? rank : 1);
    if (!status && r.n != elems) {
        return reef_fail(error, REEF_SHAPE, "%s: data has %zu elements, its shape %zu", what, r.n, elems);
    }
    return status;
}

/* --------------------------------------------------------------------------------------------------- to JSON -- */

/* Integers up to 2^53 and every float are exact. */
static double number_at(const void *data, reef_dtype dtype, size_t i)
{
    const char *at = (const char *)data + i * serve_dtype_bytes(dtype);
    switch (dtype) {
    case REEF_F32: {
        float x;
        memcpy(&x, at, 4);
        return (double)x;
    }
    case REEF_F16: {
        uint16_t x;
        memcpy(&x, at, 2);
        return (double)reef_half_to_float(x);
    }
    case REEF_F64: {
        double x;
        memcpy(&x, at, 8);
        return x;
    }
    case REEF_I32: {
        int32_t x;
        memcpy(&x, at, 4);
        return x;
    }
    case REEF_I64: {
        int64_t x;
        memcpy(&x, at, 8);
        return (double)x;
    }
    case REEF_I8: return *(const int8_t *)at;
    case REEF_U8:
    case REEF_BOOL: return *(const uint8_t *)at;
    }
    return 0;
}

reef_status serve_tensor_to_json(const void *data, reef_dtype dtype, size_t elems, serve_text *out, const char *what,
                                 reef_error *error)
{
    serve_text_add(out, "[");
    for (size_t i = 0; i < elems; i++) {
        if (i) {
            serve_text_add(out, ",");
        }
        double number = number_at(data, dtype, i);
        int64_t wide = 0;
        switch (dtype) {
        case REEF_BOOL: serve_text_add(out, number != 0 ? "true" : "false"); break;
        case REEF_I64:
            memcpy(&wide, (const char *)data + i * 8, 8);
            serve_text_format(out, "%lld", (long long)wide);
            break;
        case REEF_U8:
        case REEF_I8:
        case REEF_I32: serve_text_format(out, "%.0f", number); break;
        default:
            if (!isfinite(number)) {
                return reef_fail(
                    error, REEF_FORMAT,
                    "output '%s': element %zu is NaN or infinite, which JSON cannot say; ask for binary_data", what, i);
            }
            serve_text_format(out, "%.*g", dtype == REEF_F64 ? 17 : 9, number);
        }
    }
    serve_text_add(out, "]");
    return REEF_OK;
}

void serve_tensor_from_half(const void *in, size_t elems, float *out)
{
    for (size_t i = 0; i < elems; i++) {
        uint16_t half;
        memcpy(&half, (const char *)in + i * 2, 2);
        out[i] = reef_half_to_float(half);
    }
}

/* -------------------------------------------------------------------------------------------- classification -- */

/* Whether a ranks before b: larger first, NaN last, equals by index. */
static bool ranks_before(double a, size_t i, double b, size_t j)
{
    if (isnan(a) || isnan(b)) {
        return isnan(a) && isnan(b) ? i < j : isnan(b);
    }
    return a > b || (a == b && i < j);
}

static void add_class(serve_text *out, double value, size_t index, const char *label, bool integer, bool binary)
{
    serve_text one = {0};
    serve_text_format(&one, integer ? "%.0f:%zu" : "%f:%zu", value, index);
    if (label) {
        serve_text_add(&one, ":");
        serve_text_add(&one, label);
    }
    if (binary) {
        uint32_t length = (uint32_t)one.n;
        serve_text_bytes(out, &length, 4); /* little endian, as every host that reef runs on */
        serve_text_bytes(out, one.data, one.n);
    } else {
        serve_text_bytes(&one, "", 1);
        serve_text_json(out, one.failed ? "" : one.data);
    }
    out->failed |= one.failed;
    serve_text_free(&one);
}

reef_status serve_tensor_classify(const void *data, reef_dtype dtype, size_t rows, size_t row, size_t classes,
                                  const char *const *labels, size_t n_labels, bool binary, serve_text *out,
                                  reef_error *error)
{
    size_t k = classes < row ? classes : row;
    size_t *best = calloc(k + 1, sizeof *best);
    if (!best) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    bool integer = dtype != REEF_F32 && dtype != REEF_F64 && dtype != REEF_F16, first = true;
    for (size_t r = 0; r < rows; r++) {
        size_t n = 0, base = r * row;
        for (size_t i = 0; i < row; i++) { /* insertion into the k best: k is small */
            double value = number_at(data, dtype, base + i);
            size_t at = n;
            while (at > 0 && ranks_before(value, i, number_at(data, dtype, base + best[at - 1]), best[at - 1])) {
                at--;
            }
            if (at < k) {
                n += n < k;
                memmove(best + at + 1, best + at, (n - at - 1) * sizeof *best);
                best[at] = i;
            }
        }
        for (size_t i = 0; i < n; i++) {
            if (!binary && !first) {
                serve_text_add(out, ",");
            }
            first = false;
            add_class(out, number_at(data, dtype, base + best[i]), best[i], best[i] < n_labels ? labels[best[i]] : NULL,
                      integer, binary);
        }
    }
    free(best);
    return out->failed ? reef_fail(error, REEF_NO_MEMORY, "out of memory") : REEF_OK;
}
