/*
 * fuzz_profile.c - arbitrary bytes as the profile that is kept beside a model: loaded, or no profile.
 *
 * The model is synthetic and always the same, so that a corpus can hold its hash.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "api/api.h"
#include "fuzz/fuzz.h"

static reef_model *model;
static int file = -1;

static void set_up(void)
{
    reef_device *device = NULL;
    check(reef_device_open("cpu", &(reef_device_options){.units = 2}, &device, NULL) == REEF_OK &&
              reef_model_create_synthetic(device, 2, 3, 1000, &model, NULL) == REEF_OK,
          "there is a model for the fuzzer");
    file = memfd_create("profile", 0);
    check(file >= 0 && asprintf(&model->cache_path, "/proc/self/fd/%d", file) > 0, "there is a file for the fuzzer");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (!model) {
        set_up();
    }
    check(ftruncate(file, 0) == 0 && pwrite(file, bytes, size, 0) == (ssize_t)size, "the file is written");
    model->profiled = false;
    memset(model->profile, 0, model->plan->n_kernels * sizeof *model->profile);
    reef_model_estimate(model);
    const bool loaded = reef_profile_load(model);
    check(loaded == model->profiled, "a model knows whether it has a profile");
    for (size_t i = 0; i < model->plan->n_kernels; i++) {
        reef_kernel_info info;
        check(reef_model_kernel(model, i, &info) && info.tiles == 3 && model->costs[i].tiles == 3,
              "tiles are the program's");
        check(loaded ? info.solo_p50_ns >= 1 && info.solo_p50_ns <= info.solo_p99_ns : info.solo_p50_ns == 0,
              "times are in order, or none");
    }
    reef_model_info whole;
    reef_model_info_get(model, &whole);
    check(whole.units_needed == 2, "units are the device's");
    return 0;
}
