/*
 * code.c - the embedded kernels as libraries of the driver, which every context of the process can run.
 *
 * Of the targets that the build made of one source file the best for the GPU is taken: the cubin of its very
 * architecture, else the newest cubin of the same major that is not newer than the GPU, else PTX, which the driver
 * compiles (once; it keeps the result in its own cache).
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device/cuda/cuda.h"

/* Larger is better; 0: cannot run. */
static unsigned fitness(const reef_cuda_image *image, const cuda_gpu *gpu)
{
    unsigned have = gpu->major * 10 + gpu->minor;
    if (image->arch > have) {
        return 0;
    }
    if (image->is_ptx) {
        return image->arch;
    }
    return image->arch / 10 == gpu->major ? 1000 + image->arch : 0;
}

static const reef_cuda_image *best_for(const char *name, const cuda_gpu *gpu)
{
    const reef_cuda_image *best = NULL;
    for (const reef_cuda_image *image = reef_cuda_images; image->name; image++) {
        if (!strcmp(image->name, name) && fitness(image, gpu) > (best ? fitness(best, gpu) : 0)) {
            best = image;
        }
    }
    return best;
}

/* The level of a module of kernel padding: 64 of "pool_pads64" and "pool_rides64". 0: it is none. */
static unsigned pad_level(const reef_cuda_image *image)
{
    const char *end = strrchr(image->name, '_');
    const size_t length = !end ? 0 : !strncmp(end, "_pads", 5) ? 5 : !strncmp(end, "_rides", 6) ? 6 : 0;
    return length ? (unsigned)strtoul(end + length, NULL, 10) : 0;
}

static bool first_of_its_name(const reef_cuda_image *image)
{
    for (const reef_cuda_image *other = reef_cuda_images; other < image; other++) {
        if (!strcmp(other->name, image->name)) {
            return false;
        }
    }
    return true;
}

/* FNV-1a, eight bytes at a time. */
uint64_t cuda_hash(uint64_t hash, const void *data, size_t n)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = 0;
        memcpy(&word, bytes + i, n - i < 8 ? n - i : 8);
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 29;
    }
    return hash;
}

static reef_status load_modules(cuda_device *device, bool of_padding, reef_error *error)
{
    const cuda_gpu *gpu = device->gpu;
    reef_status status = REEF_OK;
    for (const reef_cuda_image *image = reef_cuda_images; !status && image->name; image++) {
        if ((pad_level(image) != 0) != of_padding || !first_of_its_name(image)) {
            continue;
        }
        const reef_cuda_image *best = best_for(image->name, gpu);
        if (!best) {
            return reef_fail(error, REEF_UNSUPPORTED,
                             "%s has compute capability %u.%u, for which this build has no kernels%s", gpu->product,
                             gpu->major, gpu->minor, of_padding ? " that carry others' tiles" : "");
        }
        if (device->n_modules == CUDA_MAX_MODULES) {
            return reef_fail(error, REEF_INTERNAL, "more than %d kernel modules", CUDA_MAX_MODULES);
        }
        unsigned n = device->n_modules;
        status =
            CUDA_TRY(device->cu, error, library_load(&device->modules[n], best->begin, NULL, NULL, 0, NULL, NULL, 0));
        if (status) {
            reef_error_prefix(error, "kernels '%s' for sm_%u%s: ", best->name, best->arch,
                              best->is_ptx ? " (PTX)" : "");
            return status;
        }
        device->images[n] = best;
        device->exact[n] = !best->is_ptx && best->arch == gpu->major * 10 + gpu->minor;
        if (!of_padding) { /* which never changes what the others compute or how long that takes */
            device->code_hash = cuda_hash(device->code_hash, best->begin, (size_t)(best->end - best->begin));
        }
        device->n_modules++;
    }
    return status;
}

reef_status cuda_code_load(cuda_device *device, reef_error *error)
{
    device->n_modules = 0;
    device->code_hash = 0xcbf29ce484222325u;
    reef_status status = load_modules(device, false, error);
    if (!status) {
        status = cuda_code_function(device, "reef_io_in", 0, &device->io_in, error);
    }
    return status ? status : cuda_code_function(device, "reef_io_end", 0, &device->io_end, error);
}

/* Is the entry point in the image? A cubin has a section named after it, PTX its declaration. Asking the driver instead
 * would do, but every miss counts as an error with tools that watch its calls. */
static bool has_function(const reef_cuda_image *image, const char *name)
{
    char text[160];
    int length = snprintf(text, sizeof text, image->is_ptx ? ".entry %s(" : ".text.%s", name);
    if (length < 0 || (size_t)length >= sizeof text) {
        return false;
    }
    /* A section's name ends with a zero. */
    return memmem(image->begin, (size_t)(image->end - image->begin), text, (size_t)length + !image->is_ptx) != NULL;
}

typedef struct cuda_function {
    struct cuda_function *next;
    CUkernel kernel;       /* NULL: there is none of that name */
    unsigned module;       /* that it is in */
    bool counted;          /* in proxy_bytes */
    unsigned dynamic_smem; /* that it was allowed; only ever raised. The default of 48 KiB counts static memory too. */
    char name[];
} cuda_function;

static reef_status not_found(const char *name, reef_error *error)
{
    return reef_fail(error, REEF_NOT_FOUND, "no kernel '%s' for this GPU", name);
}

static reef_status find(cuda_device *device, const char *name, cuda_function **out, reef_error *error)
{
    for (cuda_function *known = device->functions; known; known = known->next) {
        if (!strcmp(known->name, name)) {
            *out = known;
            return known->kernel ? REEF_OK : not_found(name, error);
        }
    }
    unsigned i = 0;
    while (i < device->n_modules && !has_function(device->images[i], name)) {
        i++;
    }
    CUkernel kernel = NULL;
    reef_status status = i < device->n_modules
                             ? CUDA_TRY(device->cu, error, library_kernel(&kernel, device->modules[i], name))
                             : REEF_OK; /* what is not there is remembered as well: looking takes milliseconds */
    size_t name_bytes = strlen(name) + 1;
    cuda_function *added = status ? NULL : malloc(sizeof *added + name_bytes);
    if (!added) {
        return status ? status : reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    *added = (cuda_function){.next = device->functions, .kernel = kernel, .module = i};
    memcpy(added->name, name, name_bytes);
    device->functions = added;
    *out = added;
    return kernel ? REEF_OK : not_found(name, error);
}

/* The function, with so much shared memory allowed to it. Under code_lock. */
static reef_status find_with(cuda_device *device, const char *name, unsigned dynamic_smem, cuda_function **out,
                             reef_error *error)
{
    cuda_function *found = NULL;
    reef_status status = find(device, name, &found, error);
    if (!status && dynamic_smem > found->dynamic_smem) {
        status = CUDA_TRY(
            device->cu, error,
            kernel_set_attribute(CUDA_FUNC_DYNAMIC_SMEM, (int)dynamic_smem, found->kernel, device->gpu->device));
        found->dynamic_smem = status ? found->dynamic_smem : dynamic_smem;
        if (status) {
            reef_error_prefix(error, "kernel '%s' with %u bytes of shared memory: ", name, dynamic_smem);
        }
    }
    *out = found;
    return status;
}

reef_status cuda_code_function(cuda_device *device, const char *name, unsigned dynamic_smem, CUfunction *out,
                               reef_error *error)
{
    cuda_function *found;
    pthread_mutex_lock(&device->code_lock);
    reef_status status = find_with(device, name, dynamic_smem, &found, error);
    pthread_mutex_unlock(&device->code_lock);
    if (!status) {
        *out = (CUfunction)found->kernel; /* the driver takes either */
    }
    return status;
}

/* ------------------------------------------------------- kernel padding -- */

/* Keeps the levels in order, the highest first. Those that there is no place for have modules in vain. */
static void add_level(cuda_padding *padding, unsigned level)
{
    for (unsigned i = 0; level && i < REEF_PAD_LEVELS && padding->levels[i] != level; i++) {
        if (padding->levels[i] < level) {
            const unsigned lower = padding->levels[i];
            padding->levels[i] = level;
            level = lower;
        }
    }
}

reef_status cuda_code_load_pads(cuda_device *device, reef_error *error)
{
    for (unsigned i = 0; i < device->n_modules; i++) {
        if (pad_level(device->images[i])) {
            return REEF_OK;
        }
    }
    const unsigned before = device->n_modules;
    pthread_mutex_lock(&device->code_lock);
    reef_status status = load_modules(device, true, error);
    while (status && device->n_modules > before) {
        device->cu->library_unload(device->modules[--device->n_modules]);
    }
    pthread_mutex_unlock(&device->code_lock);
    for (unsigned i = before; i < device->n_modules; i++) {
        add_level(&device->padding, pad_level(device->images[i]));
    }
    return status || device->n_modules > before
               ? status
               : reef_fail(error, REEF_UNSUPPORTED, "this build has no kernels that carry others' tiles");
}

/* What one of the driver's questions about the kernel has for an answer; the first that fails counts. */
static unsigned attribute(const cuda_device *device, int which, CUkernel kernel, reef_status *status, reef_error *error)
{
    int value = 0;
    if (!*status) {
        *status = CUDA_TRY(device->cu, error, kernel_attribute(&value, which, kernel, device->gpu->device));
    }
    return value > 0 ? (unsigned)value : 0;
}

static unsigned up_to_scratch(unsigned bytes)
{
    return (bytes + REEF_PAD_SCRATCH - 1) / REEF_PAD_SCRATCH * REEF_PAD_SCRATCH;
}

/* The address of a function that was compiled into a module is in a variable of it. */
reef_status cuda_code_ride(cuda_device *device, const char *function, unsigned level, cuda_ride *out, reef_error *error)
{
    char name[160];
    cuda_function *rider;
    snprintf(name, sizeof name, "%s_rider%u", function, level);
    pthread_mutex_lock(&device->code_lock);
    reef_status status = find_with(device, name, 0, &rider, error);
    pthread_mutex_unlock(&device->code_lock);
    if (status) {
        return status;
    }
    CUdeviceptr variable;
    size_t bytes;
    snprintf(name, sizeof name, "%s_at%u", function, level);
    status = CUDA_TRY(device->cu, error, library_global(&variable, &bytes, device->modules[rider->module], name));
    status =
        status ? status : CUDA_TRY(device->cu, error, memcpy_to_host(&out->address, variable, sizeof out->address));
    out->regs = attribute(device, CUDA_FUNC_REGISTERS, rider->kernel, &status, error);
    out->local_bytes = attribute(device, CUDA_FUNC_LOCAL_BYTES, rider->kernel, &status, error);
    out->scratch = up_to_scratch(attribute(device, CUDA_FUNC_STATIC_SMEM, rider->kernel, &status, error));
    return status;
}

/* Bytes of a function's machine code: the size of its section. 0: not found. */
static size_t code_bytes(const reef_cuda_image *image, const char *function)
{
    const size_t size = (size_t)(image->end - image->begin);
    const Elf64_Ehdr *elf = (const Elf64_Ehdr *)(const void *)image->begin;
    static const char prefix[] = ".text.";
    if (image->is_ptx || size < sizeof *elf || elf->e_shoff > size ||
        (size - elf->e_shoff) / sizeof(Elf64_Shdr) < elf->e_shnum || elf->e_shstrndx >= elf->e_shnum) {
        return 0;
    }
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(const void *)(image->begin + elf->e_shoff);
    const Elf64_Shdr *names = &sections[elf->e_shstrndx];
    for (unsigned i = 0; i < elf->e_shnum; i++) {
        if (sections[i].sh_name >= names->sh_size || names->sh_offset + sections[i].sh_name >= size) {
            continue;
        }
        const char *name = (const char *)image->begin + names->sh_offset + sections[i].sh_name;
        if (!strncmp(name, prefix, sizeof prefix - 1) && !strcmp(name + sizeof prefix - 1, function)) {
            return sections[i].sh_size;
        }
    }
    return 0;
}

reef_status cuda_code_padded(cuda_device *device, const char *function, unsigned level, unsigned dynamic_smem,
                             cuda_pad_form *out, reef_error *error)
{
    char name[160], nothing_name[40];
    cuda_function *found, *plain, *nothing;
    snprintf(name, sizeof name, "%s_pad%u", function, level);
    snprintf(nothing_name, sizeof nothing_name, "reef_nothing_pad%u", level);
    pthread_mutex_lock(&device->code_lock);
    reef_status status = find_with(device, name, dynamic_smem, &found, error);
    status = status ? status : find(device, function, &plain, error);
    status = status ? status : find(device, nothing_name, &nothing, error);
    pthread_mutex_unlock(&device->code_lock);
    if (status) {
        return status;
    }
    out->function = (CUfunction)found->kernel;
    out->regs = attribute(device, CUDA_FUNC_REGISTERS, found->kernel, &status, error);
    out->local_bytes = attribute(device, CUDA_FUNC_LOCAL_BYTES, nothing->kernel, &status, error);
    out->spills = attribute(device, CUDA_FUNC_LOCAL_BYTES, found->kernel, &status, error) >
                  out->local_bytes + attribute(device, CUDA_FUNC_LOCAL_BYTES, plain->kernel, &status, error);
    out->shared_bytes = attribute(device, CUDA_FUNC_STATIC_SMEM, found->kernel, &status, error);
    out->scratch = up_to_scratch(out->shared_bytes);
    return status;
}

void cuda_code_count_padded(cuda_device *device, const char *function, unsigned level)
{
    char name[160];
    cuda_function *found;
    reef_error ignored;
    snprintf(name, sizeof name, "%s_pad%u", function, level);
    pthread_mutex_lock(&device->code_lock);
    if (!find(device, name, &found, &ignored) && !found->counted) {
        found->counted = true;
        atomic_fetch_add(&device->padding.proxy_bytes, code_bytes(device->images[found->module], name));
    }
    pthread_mutex_unlock(&device->code_lock);
}

void cuda_code_unload(cuda_device *device)
{
    while (device->functions) {
        cuda_function *function = device->functions;
        device->functions = function->next;
        free(function);
    }
    for (unsigned i = 0; i < device->n_modules; i++) {
        device->cu->library_unload(device->modules[i]);
    }
    device->n_modules = 0;
}
