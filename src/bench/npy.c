/*
 * npy.c - see npy.h. The header is a Python dictionary literal of three known keys; only that is read, not Python.
 */
#include "bench/npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"

static const struct {
    const char *descr;
    reef_dtype dtype;
    size_t bytes;
} dtypes[] = {
    {"<f4", REEF_F32, 4}, {"<i8", REEF_I64, 8}, {"<i4", REEF_I32, 4}, {"|b1", REEF_BOOL, 1},
    {"|u1", REEF_U8, 1},  {"|i1", REEF_I8, 1},  {"<f2", REEF_F16, 2}, {"<f8", REEF_F64, 8},
};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0], MAX_HEADER = 1 << 16 };

size_t npy_dtype_bytes(reef_dtype dtype)
{
    for (size_t i = 0; i < N_DTYPES; i++) {
        if (dtypes[i].dtype == dtype) {
            return dtypes[i].bytes;
        }
    }
    return 0;
}

char *npy_shape_text(int rank, const int64_t *dims, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "%s", rank ? "" : "scalar");
    for (int i = 0; i < rank && used < size; i++) {
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? "x" : "", (long long)dims[i]);
    }
    return text;
}

/* ------------------------------------------------------------------------------------------------- header -- */

typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_space(cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r')) {
        c->at++;
    }
}

static bool take(cursor *c, char wanted)
{
    skip_space(c);
    if (c->at < c->end && *c->at == wanted) {
        c->at++;
        return true;
    }
    return false;
}

static bool take_word(cursor *c, const char *word)
{
    size_t n = strlen(word);
    skip_space(c);
    if ((size_t)(c->end - c->at) >= n && !memcmp(c->at, word, n)) {
        c->at += n;
        return true;
    }
    return false;
}

/* 'text' or "text" without escapes. */
static bool take_string(cursor *c, char *out, size_t size)
{
    skip_space(c);
    if (c->at == c->end || (*c->at != '\'' && *c->at != '"')) {
        return false;
    }
    char quote = *c->at++;
    size_t n = 0;
    while (c->at < c->end && *c->at != quote && *c->at != '\\' && n + 1 < size) {
        out[n++] = *c->at++;
    }
    out[n] = 0;
    return take(c, quote);
}

static bool take_dims(cursor *c, npy_header *out, bool *too_many)
{
    if (!take(c, '(')) {
        return false;
    }
    while (!take(c, ')')) {
        skip_space(c);
        int64_t value = 0;
        const char *start = c->at;
        for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
            if (value > (INT64_MAX - 9) / 10) {
                return false;
            }
            value = value * 10 + (*c->at - '0');
        }
        if (c->at == start) {
            return false;
        }
        if (out->rank == REEF_MAX_RANK) {
            *too_many = true;
            return false;
        }
        out->dims[out->rank++] = value;
        if (!take(c, ',')) {
            return take(c, ')');
        }
    }
    return true;
}

static reef_status parse_dictionary(cursor c, npy_header *out, reef_error *error)
{
    char descr[32] = "", key[32];
    unsigned seen = 0;
    bool too_many = false, ok = take(&c, '{');
    while (ok && !take(&c, '}')) {
        unsigned bit = 0;
        ok = take_string(&c, key, sizeof key) && take(&c, ':');
        if (ok && !strcmp(key, "descr")) {
            bit = 1;
            ok = take_string(&c, descr, sizeof descr);
        } else if (ok && !strcmp(key, "fortran_order")) {
            bit = 2;
            out->fortran = take_word(&c, "True");
            ok = out->fortran || take_word(&c, "False");
        } else if (ok && !strcmp(key, "shape")) {
            bit = 4;
            ok = take_dims(&c, out, &too_many);
        }
        ok = ok && bit && !(seen & bit);
        seen |= bit;
        if (ok && !take(&c, ',')) {
            ok = take(&c, '}');
            break;
        }
    }
    skip_space(&c);
    if (too_many) {
        return reef_fail(error, REEF_SHAPE, "npy header: more than %d dimensions", REEF_MAX_RANK);
    }
    if (!ok || seen != 7 || c.at != c.end) {
        return reef_fail(error, REEF_FORMAT,
                         "npy header: not a plain array's (descr, fortran_order, shape); save it with numpy.save");
    }
    for (size_t i = 0; i < N_DTYPES; i++) {
        if (!strcmp(descr, dtypes[i].descr)) {
            out->dtype = dtypes[i].dtype;
            return REEF_OK;
        }
    }
    return reef_fail(error, REEF_DTYPE,
                     "npy header: element type '%s' is not supported; reef reads <f4 <f2 <f8 <i8 <i4 |i1 |u1 |b1",
                     descr);
}

reef_status npy_parse(const void *file, size_t bytes, npy_header *out, reef_error *error)
{
    const unsigned char *b = file;
    if (bytes < 10 || memcmp(b, "\x93NUMPY", 6) != 0) {
        return reef_fail(error, REEF_FORMAT, "not an npy file");
    }
    if (b[6] < 1 || b[6] > 3 || (b[6] > 1 && bytes < 12)) {
        return reef_fail(error, REEF_FORMAT, "npy version %u.%u is not known", b[6], b[7]);
    }
    size_t start = b[6] == 1 ? 10 : 12;
    size_t length = (size_t)b[8] | (size_t)b[9] << 8;
    if (b[6] > 1) {
        length |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    }
    if (length > MAX_HEADER || length > bytes - start) {
        return reef_fail(error, REEF_FORMAT, "npy header: %zu bytes do not fit the file", length);
    }
    npy_header header = {.data_offset = start + length, .data_bytes = bytes - start - length, .elems = 1};
    const char *text = (const char *)b + start;
    reef_status status = parse_dictionary((cursor){text, text + length}, &header, error);
    if (status) {
        return status;
    }
    size_t size = npy_dtype_bytes(header.dtype);
    for (int i = 0; i < header.rank; i++) {
        if (__builtin_mul_overflow(header.elems, (size_t)header.dims[i], &header.elems) ||
            header.elems > SIZE_MAX / 2 / size) {
            return reef_fail(error, REEF_SHAPE, "npy header: the shape overflows");
        }
    }
    if (header.elems * size != header.data_bytes) {
        return reef_fail(error, REEF_FORMAT, "npy data: %zu bytes where the header's shape needs %zu",
                         header.data_bytes, header.elems * size);
    }
    *out = header;
    return REEF_OK;
}

/* -------------------------------------------------------------------------------------------------- files -- */

/* src is first index fastest; dst becomes last index fastest. */
static void to_row_major(const npy_header *header, const char *src, char *dst)
{
    size_t size = npy_dtype_bytes(header->dtype);
    int64_t index[REEF_MAX_RANK] = {0};
    for (size_t i = 0; i < header->elems; i++) {
        size_t from = 0;
        for (int d = header->rank - 1; d >= 0; d--) {
            from = from * (size_t)header->dims[d] + (size_t)index[d];
        }
        memcpy(dst + i * size, src + from * size, size);
        for (int d = header->rank - 1; d >= 0 && ++index[d] == header->dims[d]; d--) {
            index[d] = 0;
        }
    }
}

static reef_status read_all(const char *path, char **out, size_t *bytes, reef_error *error)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file || fstat(fileno(file), &info)) {
        reef_status status = reef_fail(error, errno == ENOENT ? REEF_NOT_FOUND : REEF_IO, "%s", strerror(errno));
        if (file) {
            fclose(file);
        }
        return status;
    }
    if (!S_ISREG(info.st_mode)) {
        fclose(file);
        return reef_fail(error, REEF_IO, "not a regular file");
    }
    size_t n = (size_t)info.st_size;
    char *data = malloc(n + 1);
    size_t got = data ? fread(data, 1, n, file) : 0;
    fclose(file);
    if (!data) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory for %zu bytes", n);
    }
    if (got != n) {
        free(data);
        return reef_fail(error, REEF_IO, "could be read only in part");
    }
    *out = data;
    *bytes = n;
    return REEF_OK;
}

reef_status npy_load(const char *path, npy_array *out, reef_error *error)
{
    char *file = NULL;
    size_t bytes = 0;
    npy_header header;
    reef_status status = read_all(path, &file, &bytes, error);
    if (status) {
        reef_error_prefix(error, "%s: ", path);
        return status;
    }
    status = npy_parse(file, bytes, &header, error);
    char *data = status ? NULL : malloc(header.data_bytes + 1);
    if (!status && !data) {
        status = reef_fail(error, REEF_NO_MEMORY, "out of memory for %zu bytes", header.data_bytes);
    }
    if (status) {
        reef_error_prefix(error, "%s: ", path);
        free(file);
        return status;
    }
    if (header.fortran && header.rank > 1) {
        to_row_major(&header, file + header.data_offset, data);
    } else {
        memcpy(data, file + header.data_offset, header.data_bytes);
    }
    free(file);
    *out = (npy_array){.dtype = header.dtype, .rank = header.rank, .bytes = header.data_bytes, .data = data};
    memcpy(out->dims, header.dims, sizeof out->dims);
    return REEF_OK;
}

void npy_free(npy_array *array)
{
    free(array->data);
    array->data = NULL;
}

reef_status npy_save(const char *path, reef_dtype dtype, int rank, const int64_t *dims, const void *data, size_t bytes,
                     reef_error *error)
{
    char header[512], shape[256] = "";
    size_t used = 0, kind = 0;
    while (kind < N_DTYPES && dtypes[kind].dtype != dtype) {
        kind++;
    }
    if (kind == N_DTYPES || rank < 0 || rank > REEF_MAX_RANK) {
        return reef_fail(error, REEF_DTYPE, "%s: %s cannot be written as npy", path, reef_dtype_name(dtype));
    }
    for (int i = 0; i < rank; i++) {
        used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%lld%s", i ? ", " : "", (long long)dims[i],
                                 rank == 1 ? "," : "");
    }
    /* Magic, version and length take 10 bytes; the data starts on a multiple of 64. */
    int n = snprintf(header + 10, sizeof header - 10, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                     dtypes[kind].descr, shape);
    size_t total = ((size_t)n + 11 + 63) / 64 * 64;
    memset(header + 10 + n, ' ', total - 10 - (size_t)n);
    header[total - 1] = '\n';
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)((total - 10) & 255);
    header[9] = (char)((total - 10) >> 8);
    FILE *file = fopen(path, "wb");
    bool ok = file && fwrite(header, 1, total, file) == total && fwrite(data, 1, bytes, file) == bytes;
    if (file && fclose(file)) {
        ok = false;
    }
    return ok ? REEF_OK : reef_fail(error, REEF_IO, "%s: cannot be written: %s", path, strerror(errno));
}

reef_status npy_check(const npy_array *array, const reef_tensor_info *wanted, const char *path, reef_error *error)
{
    char need[160], have[160];
    if (array->dtype != wanted->dtype) {
        return reef_fail(error, REEF_DTYPE, "%s: holds %s, but input '%s' needs %s; convert it with .astype('%s')",
                         path, reef_dtype_name(array->dtype), wanted->name, reef_dtype_name(wanted->dtype),
                         reef_dtype_name(wanted->dtype));
    }
    if (array->rank != wanted->rank ||
        memcmp(array->dims, wanted->dims, (size_t)array->rank * sizeof array->dims[0]) != 0) {
        return reef_fail(error, REEF_SHAPE, "%s: has shape %s, but input '%s' needs %s", path,
                         npy_shape_text(array->rank, array->dims, have, sizeof have), wanted->name,
                         npy_shape_text(wanted->rank, wanted->dims, need, sizeof need));
    }
    return REEF_OK;
}
