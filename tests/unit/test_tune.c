/*
 * test_tune.c - the CUDA device's tuning cache without a GPU: what is damaged, foreign or absurd is measured again and
 * replaced, never trusted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/rng.h"
#include "device/cuda/cuda.h"

enum { KEY = 0x1234, OTHER_KEY = 0x5678 };

typedef struct place {
    char folder[64], file[128];
    cuda_device device;
} place;

static const reef_cuda_kernel candidates[] = {{.variant = "igemm 64x64"}, {.variant = "igemm 128x64 split 2"}};

static int setup(void **state)
{
    place *p = calloc(1, sizeof *p);
    strcpy(p->folder, "/tmp/reef-test-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
    p->device.base.model = "NVIDIA-Test";
    p->device.base.units = 4;
    p->device.code_hash = 0xabcdef;
    snprintf(p->file, sizeof p->file, "%s/reef.NVIDIA-Test4.tuning.json", p->folder);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    place *p = *state;
    unlink(p->file);
    assert_int_equal(rmdir(p->folder), 0); /* nothing temporary is left in it */
    free(p);
    return 0;
}

static int find(const place *p, uint64_t key, uint64_t *ns)
{
    cuda_tuning *tuning = cuda_tuning_open(&p->device, p->folder);
    assert_non_null(tuning);
    int found = cuda_tuning_find(tuning, key, candidates, 2, ns);
    cuda_tuning_close(tuning);
    return found;
}

static void add(const place *p, uint64_t key, const char *variant, uint64_t ns)
{
    cuda_tuning *tuning = cuda_tuning_open(&p->device, p->folder);
    assert_non_null(tuning);
    cuda_tuning_add(tuning, key, variant, ns);
    cuda_tuning_close(tuning);
}

static void put(const place *p, const char *text, size_t bytes)
{
    FILE *file = fopen(p->file, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
}

static size_t get(const place *p, char *text, size_t size)
{
    FILE *file = fopen(p->file, "rb");
    assert_non_null(file);
    size_t n = fread(text, 1, size - 1, file);
    text[n] = 0;
    fclose(file);
    return n;
}

/* Whatever was there: what is measured now is kept, and found by the next load. */
static void assert_rebuilt(const place *p)
{
    uint64_t ns = 0;
    add(p, KEY, "igemm 128x64 split 2", 4100);
    assert_int_equal(find(p, KEY, &ns), 1);
    assert_int_equal(ns, 4100);
}

static void what_was_measured_is_found_again(void **state)
{
    place *p = *state;
    uint64_t ns = 77;
    assert_int_equal(find(p, KEY, &ns), -1);
    assert_int_equal(access(p->file, F_OK), -1); /* nothing new, nothing written */
    assert_rebuilt(p);
    add(p, OTHER_KEY, "igemm 64x64", 0); /* too short to be told: at least 1 ns */
    assert_int_equal(find(p, OTHER_KEY, &ns), 0);
    assert_int_equal(ns, 1);
    assert_int_equal(find(p, KEY, &ns), 1);
    assert_int_equal(find(p, KEY + 1, &ns), -1);
}

static void other_kernels_or_another_gpu_do_not_see_it(void **state)
{
    place *p = *state;
    uint64_t ns;
    assert_rebuilt(p);
    p->device.code_hash++;
    assert_int_equal(find(p, KEY, &ns), -1);
    p->device.code_hash--;
    p->device.base.units = 5;
    assert_int_equal(find(p, KEY, &ns), -1);
    p->device.base.units = 4;
    assert_int_equal(find(p, KEY, &ns), 1);
}

static void without_a_folder_everything_works_and_nothing_is_kept(void **state)
{
    const place *p = *state;
    const char *const folders[] = {NULL, "/no/such/folder"};
    for (size_t i = 0; i < 2; i++) {
        uint64_t ns;
        cuda_tuning *tuning = cuda_tuning_open(&p->device, folders[i]);
        assert_non_null(tuning);
        cuda_tuning_add(tuning, KEY, "igemm 64x64", 10);
        assert_int_equal(cuda_tuning_find(tuning, KEY, candidates, 2, &ns), 0);
        cuda_tuning_close(tuning);
    }
    uint64_t ns;
    assert_int_equal(cuda_tuning_find(NULL, KEY, candidates, 2, &ns), -1);
    cuda_tuning_add(NULL, KEY, "igemm 64x64", 10);
    cuda_tuning_close(NULL);
}

static void files_that_make_no_sense_are_replaced(void **state)
{
    place *p = *state;
    static const char *const files[] = {
        "",
        "\n",
        "{",
        "nonsense",
        "[]",
        "{}",
        "null",
        "\x00\x01\x02",
        "{\"format\": 1}",
        "{\"format\": 2, \"code\": \"0000000000abcdef\", \"entries\": {\"0000000000001234\": {\"variant\": \"igemm "
        "64x64\", \"ns\": 5}}}",
        "{\"format\": \"1\", \"code\": \"0000000000abcdef\", \"entries\": {\"0000000000001234\": {\"variant\": \"igemm "
        "64x64\", \"ns\": 5}}}",
        "{\"format\": 1, \"code\": \"0000000000abcdee\", \"entries\": {\"0000000000001234\": {\"variant\": \"igemm "
        "64x64\", \"ns\": 5}}}",
        "{\"format\": 1, \"code\": 11259375, \"entries\": {\"0000000000001234\": {\"variant\": \"igemm 64x64\", "
        "\"ns\": 5}}}",
        "{\"format\": 1, \"code\": \"0000000000abcdef\", \"entries\": [{\"variant\": \"igemm 64x64\", \"ns\": 5}]}",
        "{\"format\": 1, \"code\": \"0000000000abcdef\", \"entries\": null}",
        "{\"format\": 1, \"format\": 1, \"code\": \"0000000000abcdef\", \"entries\": {\"0000000000001234\": "
        "{\"variant\": \"igemm 64x64\", \"ns\": 5}}}",
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        uint64_t ns = 77;
        put(p, files[i], strlen(files[i]));
        if (find(p, KEY, &ns) != -1 || ns != 77) {
            fail_msg("trusted: %s", files[i]);
        }
        assert_rebuilt(p);
    }
}

static void entries_that_make_no_sense_are_dropped(void **state)
{
    place *p = *state;
    static const char *const entries[] = {
        "null",
        "5",
        "[]",
        "{}",
        "{\"variant\": \"igemm 64x64\"}",
        "{\"ns\": 5}",
        "{\"variant\": 64, \"ns\": 5}",
        "{\"variant\": null, \"ns\": 5}",
        "{\"variant\": \"igemm 64x64\", \"ns\": null}",
        "{\"variant\": \"igemm 64x64\", \"ns\": \"5\"}",
        "{\"variant\": \"igemm 64x64\", \"ns\": 0}",
        "{\"variant\": \"igemm 64x64\", \"ns\": -1}",
        "{\"variant\": \"igemm 64x64\", \"ns\": 5.5}",
        "{\"variant\": \"igemm 64x64\", \"ns\": 1e3}",
        "{\"variant\": \"igemm 64x64\", \"ns\": 1e300}",
        "{\"variant\": \"igemm 64x64\", \"ns\": 60000000001}",
        "{\"variant\": \"igemm 64x64\", \"ns\": 9223372036854775807}",
        "{\"variant\": \"igemm 64x64\", \"ns\": -9223372036854775808}",
    };
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        char text[512];
        uint64_t ns = 77;
        int n = snprintf(text, sizeof text,
                         "{\"format\": 1, \"code\": \"0000000000abcdef\", \"entries\": {\"0000000000001234\": %s, "
                         "\"0000000000005678\": {\"variant\": \"igemm 64x64\", \"ns\": 9}}}",
                         entries[i]);
        put(p, text, (size_t)n);
        if (find(p, KEY, &ns) != -1 || ns != 77) {
            fail_msg("trusted: %s", entries[i]);
        }
        assert_int_equal(find(p, OTHER_KEY, &ns), 0); /* the good one beside it stays */
        assert_int_equal(ns, 9);
        add(p, 1, "igemm 64x64", 3); /* the file is written anew: without it */
        get(p, text, sizeof text);
        assert_null(strstr(text, "0000000000001234"));
        assert_non_null(strstr(text, "0000000000005678"));
        assert_rebuilt(p);
    }
    /* Neither a number nor JSON. */
    static const char *const literals[] = {"NaN", "Infinity", "1e400", "99999999999999999999999999", "0x10"};
    for (size_t i = 0; i < sizeof literals / sizeof literals[0]; i++) {
        char text[256];
        uint64_t ns = 77;
        int n = snprintf(text, sizeof text,
                         "{\"format\": 1, \"code\": \"0000000000abcdef\", \"entries\": {\"0000000000001234\": "
                         "{\"variant\": \"igemm 64x64\", \"ns\": %s}}}",
                         literals[i]);
        put(p, text, (size_t)n);
        assert_int_equal(find(p, KEY, &ns), -1);
        assert_rebuilt(p);
    }
}

static void a_variant_that_is_no_candidate_is_measured_again(void **state)
{
    place *p = *state;
    uint64_t ns = 77;
    add(p, KEY, "igemm 256x256", 5);
    assert_int_equal(find(p, KEY, &ns), -1);
    assert_rebuilt(p);
}

static void cut_or_changed_anywhere_it_is_read_safely(void **state)
{
    place *p = *state;
    char whole[1024], copy[1024];
    assert_rebuilt(p);
    add(p, OTHER_KEY, "igemm 64x64", 9);
    size_t n = get(p, whole, sizeof whole);
    bench_rng rng = {1};
    for (size_t i = 0; i < n - 1; i++) { /* the last byte is a newline or a brace */
        uint64_t ns = 77;
        put(p, whole, i);
        assert_int_equal(find(p, KEY, &ns), -1);
    }
    for (size_t i = 0; i < 20 * n; i++) {
        uint64_t ns = 77;
        memcpy(copy, whole, n);
        copy[i % n] = (char)bench_rng_next(&rng);
        put(p, copy, n);
        int found = find(p, KEY, &ns);
        assert_in_range(found + 1, 0, 2);
        assert_true(found < 0 ? ns == 77 : ns >= 1 && ns <= 60000000000u);
    }
    assert_rebuilt(p);
}

static void what_is_no_file_or_huge_is_left_alone(void **state)
{
    place *p = *state;
    uint64_t ns = 77;
    assert_int_equal(mkfifo(p->file, 0600), 0); /* nobody writes: reading would wait for ever */
    assert_int_equal(find(p, KEY, &ns), -1);
    assert_rebuilt(p);
    unlink(p->file);
    assert_int_equal(mkdir(p->file, 0700), 0);
    assert_int_equal(find(p, KEY, &ns), -1);
    add(p, KEY, "igemm 64x64", 5); /* cannot be replaced: not kept, no harm */
    assert_int_equal(find(p, KEY, &ns), -1);
    rmdir(p->file);
    put(p, "{", 1);
    assert_int_equal(truncate(p->file, (off_t)1 << 34), 0); /* 16 GiB of nothing */
    assert_int_equal(find(p, KEY, &ns), -1);
    assert_rebuilt(p);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(what_was_measured_is_found_again),
        T(other_kernels_or_another_gpu_do_not_see_it),
        T(without_a_folder_everything_works_and_nothing_is_kept),
        T(files_that_make_no_sense_are_replaced),
        T(entries_that_make_no_sense_are_dropped),
        T(a_variant_that_is_no_candidate_is_measured_again),
        T(cut_or_changed_anywhere_it_is_read_safely),
        T(what_is_no_file_or_huge_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
