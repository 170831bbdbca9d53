/*
 * driver.h - NVIDIA's driver API, loaded at run time.
 *
 * Where it sits: at the bottom of the CUDA device. The types below are the parts of the driver's ABI that reef uses,
 * declared here so that neither building nor running needs anything of CUDA's: a machine without a GPU gets a clear
 * error from cuda_driver_load and nothing else changes.
 *
 * Every driver call that can fail goes through CUDA_TRY or cuda_check, which keep the call's text: an error message says
 * which call failed on which device and how the driver names the failure.
 */
#ifndef REEF_DEVICE_CUDA_DRIVER_H
#define REEF_DEVICE_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUlib_st *CUlibrary;
typedef struct CUfunc_st *CUfunction;
typedef struct CUkern_st *CUkernel;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;
typedef struct CUgreenCtx_st *CUgreenCtx;
typedef struct CUdevResourceDesc_st *CUdevResourceDesc;

enum { /* CUresult */
       CUDA_OK = 0,
       CUDA_OUT_OF_MEMORY = 2,
       CUDA_NO_DEVICE = 100,
       CUDA_NO_BINARY_FOR_GPU = 209,
       CUDA_NOT_READY = 600,
       CUDA_DRIVER_MISMATCH = 803,
};
enum { /* CUdevice_attribute */
       CUDA_ATTR_CLOCK_KHZ = 13,
       CUDA_ATTR_SM_COUNT = 16,
       CUDA_ATTR_COMPUTE_MODE = 20,
       CUDA_ATTR_L2_BYTES = 38,
       CUDA_ATTR_THREADS_PER_SM = 39,
       CUDA_ATTR_MAJOR = 75,
       CUDA_ATTR_MINOR = 76,
       CUDA_ATTR_SMEM_PER_SM = 81,
       CUDA_ATTR_SMEM_OPTIN = 97,
};
enum { /* CUfunction_attribute */
       CUDA_FUNC_STATIC_SMEM = 1,
       CUDA_FUNC_LOCAL_BYTES = 3,
       CUDA_FUNC_REGISTERS = 4,
       CUDA_FUNC_DYNAMIC_SMEM = 8,
       CUDA_FUNC_CARVEOUT = 9,
};
enum { CUDA_STREAM_NON_BLOCKING = 1 };
enum { CUDA_CTX_MAP_HOST = 8 };
enum { CUDA_HOST_REGISTER_PORTABLE = 1, CUDA_HOST_REGISTER_DEVICEMAP = 2 };

typedef struct CUDA_KERNEL_NODE_PARAMS { /* of cuGraphAddKernelNode_v2, CUDA 12.0 */
    CUfunction func;
    unsigned grid[3], block[3], smem_bytes;
    void **params;
    void **extra;
    CUkernel kern;
    CUcontext ctx;
} CUDA_KERNEL_NODE_PARAMS;

typedef union CUlaunchAttributeValue {
    char size[64];
    struct {
        unsigned x, y, z;
    } cluster;
} CUlaunchAttributeValue;
enum { CUDA_NODE_CLUSTER = 4 };

typedef struct CUgraphEdgeData { /* CUDA 12.3 */
    unsigned char from_port, to_port, type, reserved[5];
} CUgraphEdgeData;
enum { CUDA_EDGE_FULL = 0, CUDA_EDGE_PROGRAMMATIC = 1 };

enum { CUDA_RESOURCE_SM = 1, CUDA_GREEN_DEFAULT_STREAM = 1 };
typedef struct CUdevResource { /* CUDA 12.4 */
    int type;
    unsigned char padding[92];
    union {
        struct {
            unsigned count, least, alignment;
        } sm;
        unsigned char size[48];
    };
} CUdevResource;

/* X(name in the table, symbol, parameters). Symbols of CUDA 12.0 and older; what is newer is in the second list and may
 * be missing. */
#define CUDA_DRIVER_LIST(X)                                                                                            \
    X(init, cuInit, (unsigned flags))                                                                                  \
    X(driver_version, cuDriverGetVersion, (int *version))                                                              \
    X(error_name, cuGetErrorName, (CUresult result, const char **name))                                                \
    X(error_string, cuGetErrorString, (CUresult result, const char **text))                                            \
    X(device_count, cuDeviceGetCount, (int *count))                                                                    \
    X(device_get, cuDeviceGet, (CUdevice * device, int ordinal))                                                       \
    X(device_name, cuDeviceGetName, (char *name, int length, CUdevice device))                                         \
    X(device_memory, cuDeviceTotalMem_v2, (size_t * bytes, CUdevice device))                                           \
    X(device_attribute, cuDeviceGetAttribute, (int *value, int attribute, CUdevice device))                            \
    X(ctx_create, cuCtxCreate_v2, (CUcontext * context, unsigned flags, CUdevice device))                              \
    X(ctx_destroy, cuCtxDestroy_v2, (CUcontext context))                                                               \
    X(ctx_push, cuCtxPushCurrent_v2, (CUcontext context))                                                              \
    X(ctx_pop, cuCtxPopCurrent_v2, (CUcontext * context))                                                              \
    X(ctx_synchronize, cuCtxSynchronize, (void))                                                                       \
    X(ctx_priorities, cuCtxGetStreamPriorityRange, (int *least, int *greatest))                                        \
    X(library_load, cuLibraryLoadData,                                                                                 \
      (CUlibrary * library, const void *image, void *jit, void **jit_values, unsigned n_jit, void *options,            \
       void **option_values, unsigned n_options))                                                                      \
    X(library_unload, cuLibraryUnload, (CUlibrary library))                                                            \
    X(library_kernel, cuLibraryGetKernel, (CUkernel * kernel, CUlibrary library, const char *name))                    \
    X(kernel_set_attribute, cuKernelSetAttribute, (int attribute, int value, CUkernel kernel, CUdevice device))        \
    X(occupancy, cuOccupancyMaxActiveBlocksPerMultiprocessor,                                                          \
      (int *blocks, CUfunction function, int threads, size_t dynamic_smem))                                            \
    X(mem_info, cuMemGetInfo_v2, (size_t * free, size_t * total))                                                      \
    X(mem_alloc, cuMemAlloc_v2, (CUdeviceptr * pointer, size_t bytes))                                                 \
    X(mem_free, cuMemFree_v2, (CUdeviceptr pointer))                                                                   \
    X(host_register, cuMemHostRegister_v2, (void *memory, size_t bytes, unsigned flags))                               \
    X(host_unregister, cuMemHostUnregister, (void *memory))                                                            \
    X(host_device_pointer, cuMemHostGetDevicePointer_v2, (CUdeviceptr * pointer, void *memory, unsigned flags))        \
    X(memcpy_to_device, cuMemcpyHtoD_v2, (CUdeviceptr to, const void *from, size_t bytes))                             \
    X(memcpy_to_host, cuMemcpyDtoH_v2, (void *to, CUdeviceptr from, size_t bytes))                                     \
    X(memcpy_on_device, cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))       \
    X(memset8, cuMemsetD8_v2, (CUdeviceptr to, unsigned char value, size_t bytes))                                     \
    X(memset8_async, cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream))            \
    X(stream_create, cuStreamCreateWithPriority, (CUstream * stream, unsigned flags, int priority))                    \
    X(stream_destroy, cuStreamDestroy_v2, (CUstream stream))                                                           \
    X(stream_query, cuStreamQuery, (CUstream stream))                                                                  \
    X(stream_write32, cuStreamWriteValue32_v2, (CUstream stream, CUdeviceptr at, uint32_t value, unsigned flags))      \
    X(stream_write64, cuStreamWriteValue64_v2, (CUstream stream, CUdeviceptr at, uint64_t value, unsigned flags))      \
    X(stream_synchronize, cuStreamSynchronize, (CUstream stream))                                                      \
    X(event_create, cuEventCreate, (CUevent * event, unsigned flags))                                                  \
    X(event_destroy, cuEventDestroy_v2, (CUevent event))                                                               \
    X(event_record, cuEventRecord, (CUevent event, CUstream stream))                                                   \
    X(event_synchronize, cuEventSynchronize, (CUevent event))                                                          \
    X(event_elapsed, cuEventElapsedTime, (float *ms, CUevent start, CUevent end))                                      \
    X(launch_kernel, cuLaunchKernel,                                                                                   \
      (CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,              \
       unsigned smem_bytes, CUstream stream, void **params, void **extra))                                             \
    X(graph_create, cuGraphCreate, (CUgraph * graph, unsigned flags))                                                  \
    X(graph_destroy, cuGraphDestroy, (CUgraph graph))                                                                  \
    X(graph_add_kernel, cuGraphAddKernelNode_v2,                                                                       \
      (CUgraphNode * node, CUgraph graph, const CUgraphNode *after, size_t n, const CUDA_KERNEL_NODE_PARAMS *params))  \
    X(graph_kernel_attribute, cuGraphKernelNodeSetAttribute,                                                           \
      (CUgraphNode node, int attribute, const CUlaunchAttributeValue *value))                                          \
    X(graph_instantiate, cuGraphInstantiateWithFlags,                                                                  \
      (CUgraphExec * executable, CUgraph graph, unsigned long long flags))                                             \
    X(graph_exec_destroy, cuGraphExecDestroy, (CUgraphExec executable))                                                \
    X(graph_upload, cuGraphUpload, (CUgraphExec executable, CUstream stream))                                          \
    X(graph_launch, cuGraphLaunch, (CUgraphExec executable, CUstream stream))
/* NULL in the table where the driver is older (programmatic edges: CUDA 12.3; green contexts: 12.5). */
#define CUDA_DRIVER_OPTIONAL(X)                                                                                        \
    X(graph_add_edges, cuGraphAddDependencies_v2,                                                                      \
      (CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, const CUgraphEdgeData *edges, size_t n))         \
    X(library_global, cuLibraryGetGlobal, (CUdeviceptr * at, size_t * bytes, CUlibrary library, const char *name))     \
    X(kernel_attribute, cuKernelGetAttribute, (int *value, int attribute, CUkernel kernel, CUdevice device))           \
    X(device_resource, cuDeviceGetDevResource, (CUdevice device, CUdevResource * resource, int type))                  \
    X(split_sms, cuDevSmResourceSplitByCount,                                                                          \
      (CUdevResource * groups, unsigned *n, const CUdevResource *of, CUdevResource *rest, unsigned flags,              \
       unsigned count))                                                                                                \
    X(describe_resource, cuDevResourceGenerateDesc, (CUdevResourceDesc * out, CUdevResource * resources, unsigned n))  \
    X(green_create, cuGreenCtxCreate, (CUgreenCtx * out, CUdevResourceDesc desc, CUdevice device, unsigned flags))     \
    X(green_destroy, cuGreenCtxDestroy, (CUgreenCtx context))                                                          \
    X(green_context, cuCtxFromGreenCtx, (CUcontext * out, CUgreenCtx green))                                           \
    X(green_stream, cuGreenCtxStreamCreate, (CUstream * out, CUgreenCtx green, unsigned flags, int priority))

typedef struct cuda_driver {
#define X(member, symbol, parameters) CUresult(*member) parameters;
    CUDA_DRIVER_LIST(X)
    CUDA_DRIVER_OPTIONAL(X)
#undef X
    int version; /* 13000 for CUDA 13.0 */
} cuda_driver;

/* The table, loaded on first use; NULL with *error filled when there is no usable driver (NOT_FOUND: none; UNSUPPORTED:
 * too old; DEVICE: it is there and fails). The answer is remembered for the life of the process. Thread safe. */
const cuda_driver *cuda_driver_load(reef_error *error);

/* CUDA_OK: REEF_OK. Otherwise fills *error with the call's text and the driver's name for the failure. */
reef_status cuda_check(const cuda_driver *driver, CUresult result, const char *call, reef_error *error);
/* The status of a driver call written as an expression: CUDA_TRY(cu, error, mem_alloc(&p, n)). */
#define CUDA_TRY(driver, error, call) cuda_check((driver), (driver)->call, #call, (error))

/* What `reef devices` says of one GPU. */
typedef struct cuda_gpu {
    char name[12];         /* "cuda:0" */
    char product[96];      /* "NVIDIA H200" */
    char description[192]; /* product, SMs, memory, compute capability, driver */
    CUdevice device;
    unsigned sms, clock_khz, major, minor, smem_optin, smem_per_sm, threads_per_sm;
    size_t memory_bytes, l2_bytes;
} cuda_gpu;

/* The i-th GPU; NULL past the end or without a driver. Lives as long as the process. */
const cuda_gpu *cuda_gpu_at(size_t i);

#endif
