/*
 * fuzz_npy.c - arbitrary bytes as a .npy file: the header from memory, then the whole file as `reef run` loads it, and
 * what was loaded written and read again.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "bench/npy.h"
#include "fuzz/fuzz.h"

static int files[2] = {-1, -1};
static char paths[2][32];

static void open_files(void)
{
    for (int i = 0; i < 2 && files[i] < 0; i++) {
        files[i] = memfd_create("npy", 0);
        check(files[i] >= 0, "there is a file for the fuzzer");
        snprintf(paths[i], sizeof paths[i], "/proc/self/fd/%d", files[i]);
    }
}

static size_t elems_of(int rank, const int64_t *dims)
{
    size_t n = 1;
    for (int i = 0; i < rank; i++) {
        check(dims[i] >= 0, "dimensions are not negative");
        n *= (size_t)dims[i];
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    npy_header header;
    reef_error error = {.status = REEF_OK, .message = ""};
    reef_status status = npy_parse(bytes, size, &header, &error);
    if (status) {
        check_failure(status, &error);
    } else {
        check(header.rank >= 0 && header.rank <= REEF_MAX_RANK, "ranks are in range");
        check(header.elems == elems_of(header.rank, header.dims), "elements are the product of the dimensions");
        check(header.data_bytes == header.elems * npy_dtype_bytes(header.dtype) &&
                  header.data_offset + header.data_bytes == size,
              "the data is what follows the header");
    }

    open_files();
    npy_array array = {0}, again = {0};
    check(ftruncate(files[0], 0) == 0 && pwrite(files[0], bytes, size, 0) == (ssize_t)size, "the file is written");
    const reef_status loaded = npy_load(paths[0], &array, &error);
    check(loaded == status, "a file is what its bytes are");
    if (loaded) {
        check_failure(loaded, &error);
        return 0;
    }
    const reef_tensor_info wanted = {.name = "x", .dtype = REEF_F32, .rank = 2, .dims = {2, 3}, .bytes = 24};
    status = npy_check(&array, &wanted, "x.npy", &error);
    if (status) {
        check_failure(status, &error);
    } else {
        check(array.bytes == wanted.bytes, "an array that fits has the input's size");
    }
    check(npy_save(paths[1], array.dtype, array.rank, array.dims, array.data, array.bytes, &error) == REEF_OK &&
              npy_load(paths[1], &again, &error) == REEF_OK,
          "what was loaded can be written and read");
    check(array.bytes == again.bytes && (!array.bytes || memcmp(array.data, again.data, array.bytes) == 0),
          "and is the same");
    npy_free(&array);
    npy_free(&again);
    return 0;
}
