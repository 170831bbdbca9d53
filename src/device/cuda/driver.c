/*
 * driver.c - loading libcuda, naming its failures, listing GPUs.
 */
#include "device/cuda/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { OLDEST_VERSION = 12000, MAX_GPUS = 64 };

/* The loaded driver: written once, under the once flag, then read only. */
static struct {
    cuda_driver table;
    reef_status status;
    reef_error error;
    cuda_gpu gpus[MAX_GPUS];
    size_t n_gpus;
} loaded;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* "cuda_driver.mem_alloc(&p, n)" as people know it: the symbol's name is what the driver's documentation lists. */
static const char *symbol_of(const char *call, char *text, size_t size)
{
    static const struct {
        const char *member, *symbol;
    } names[] = {
#define X(member, symbol, parameters) {#member, #symbol},
        CUDA_DRIVER_LIST(X) CUDA_DRIVER_OPTIONAL(X)
#undef X
    };
    size_t length = strcspn(call, "(");
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strlen(names[i].member) == length && memcmp(names[i].member, call, length) == 0) {
            int symbol = (int)strcspn(names[i].symbol, "_");
            snprintf(text, size, "%.*s%.96s", symbol, names[i].symbol, call + length);
            return text;
        }
    }
    return call;
}

reef_status cuda_check(const cuda_driver *driver, CUresult result, const char *call, reef_error *error)
{
    if (result == CUDA_OK) {
        return REEF_OK;
    }
    const char *name = NULL, *text = NULL;
    char named[160];
    driver->error_name(result, &name);
    driver->error_string(result, &text);
    return reef_fail(error, result == CUDA_OUT_OF_MEMORY ? REEF_NO_MEMORY : REEF_DEVICE, "%s failed: %s (%s)",
                     symbol_of(call, named, sizeof named), text ? text : "no description",
                     name ? name : "unknown error");
}

static reef_status load_symbols(void *library, cuda_driver *table, reef_error *error)
{
    const char *missing = NULL;
    /* ISO C has no conversion between object and function pointers; POSIX promises that this one works. */
#define X(member, symbol, parameters)                                                                                  \
    *(void **)&table->member = dlsym(library, #symbol);                                                                \
    missing = table->member || missing ? missing : #symbol;
    CUDA_DRIVER_LIST(X)
#undef X
#define X(member, symbol, parameters) *(void **)&table->member = dlsym(library, #symbol);
    CUDA_DRIVER_OPTIONAL(X)
#undef X
    if (missing) {
        return reef_fail(
            error, REEF_UNSUPPORTED,
            "the NVIDIA driver is too old: libcuda.so.1 has no %s; reef needs CUDA 12.0 (driver 525) or newer",
            missing);
    }
    return REEF_OK;
}

static reef_status describe(const cuda_driver *driver, int ordinal, cuda_gpu *gpu, reef_error *error)
{
    CUdevice device;
    reef_status status = CUDA_TRY(driver, error, device_get(&device, ordinal));
    if (status) {
        return status;
    }
    int sms = 0, khz = 1, major = 0, minor = 0, l2 = 0, smem = 0, smem_per_sm = 0, threads = 0;
    driver->device_name(gpu->product, sizeof gpu->product, device);
    driver->device_memory(&gpu->memory_bytes, device);
    driver->device_attribute(&sms, CUDA_ATTR_SM_COUNT, device);
    driver->device_attribute(&khz, CUDA_ATTR_CLOCK_KHZ, device);
    driver->device_attribute(&major, CUDA_ATTR_MAJOR, device);
    driver->device_attribute(&minor, CUDA_ATTR_MINOR, device);
    driver->device_attribute(&l2, CUDA_ATTR_L2_BYTES, device);
    driver->device_attribute(&smem, CUDA_ATTR_SMEM_OPTIN, device);
    driver->device_attribute(&smem_per_sm, CUDA_ATTR_SMEM_PER_SM, device);
    driver->device_attribute(&threads, CUDA_ATTR_THREADS_PER_SM, device);
    gpu->device = device;
    gpu->sms = (unsigned)sms;
    gpu->clock_khz = (unsigned)khz;
    gpu->major = (unsigned)major;
    gpu->minor = (unsigned)minor;
    gpu->l2_bytes = (size_t)l2;
    gpu->smem_optin = (unsigned)smem;
    gpu->smem_per_sm = (unsigned)smem_per_sm;
    gpu->threads_per_sm = (unsigned)threads;
    snprintf(gpu->name, sizeof gpu->name, "cuda:%d", ordinal);
    snprintf(gpu->description, sizeof gpu->description,
             "%s, %d SMs, %.1f GiB, compute capability %d.%d, driver for CUDA %d.%d", gpu->product, sms,
             (double)gpu->memory_bytes / (1024.0 * 1024 * 1024), major, minor, driver->version / 1000,
             driver->version % 1000 / 10);
    return REEF_OK;
}

static reef_status load(void)
{
    reef_error *error = &loaded.error;
    cuda_driver *table = &loaded.table;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        return reef_fail(error, REEF_NOT_FOUND, "no NVIDIA driver here: %s", dlerror());
    }
    reef_status status = load_symbols(library, table, error);
    if (!status) {
        CUresult result = table->init(0);
        status = result == CUDA_NO_DEVICE ? reef_fail(error, REEF_NOT_FOUND, "the NVIDIA driver finds no GPU")
                                          : cuda_check(table, result, "init(0)", error);
    }
    if (!status) {
        status = CUDA_TRY(table, error, driver_version(&table->version));
    }
    if (!status && table->version < OLDEST_VERSION) {
        status =
            reef_fail(error, REEF_UNSUPPORTED,
                      "the NVIDIA driver is too old: it is for CUDA %d.%d; reef needs CUDA 12.0 (driver 525) or newer",
                      table->version / 1000, table->version % 1000 / 10);
    }
    int count = 0;
    if (!status) {
        status = CUDA_TRY(table, error, device_count(&count));
    }
    for (int i = 0; !status && i < count && i < MAX_GPUS; i++) {
        status = describe(table, i, &loaded.gpus[i], error);
        loaded.n_gpus += !status;
    }
    return status; /* the library stays open: the driver does not survive being unloaded */
}

static void load_once(void)
{
    loaded.status = load();
}

const cuda_driver *cuda_driver_load(reef_error *error)
{
    pthread_once(&once, load_once);
    if (loaded.status) {
        reef_fail(error, loaded.status, "%s", loaded.error.message);
        return NULL;
    }
    return &loaded.table;
}

const cuda_gpu *cuda_gpu_at(size_t i)
{
    reef_error ignored;
    return cuda_driver_load(&ignored) && i < loaded.n_gpus ? &loaded.gpus[i] : NULL;
}
