/*
 * reef.h - the public C API.
 *
 *     reef_device *device;   reef_model *model;   reef_session *session;
 *     reef_device_open("cpu", NULL, &device, &error);      or "cuda:0"
 *     reef_model_load(device, "resnet.onnx", NULL, &model, &error);
 *     reef_session_create(model, &(reef_session_options){.service_class = REEF_RT}, &session, &error);
 *     reef_session_run(session, (const void *[]){image}, (void *[]){scores}, &info);
 *
 * A device runs requests of two classes under one policy. Real-time (RT) requests of all sessions share one queue,
 * first come first served, or earliest deadline first where deadlines are given; each best-effort (BE) session is a
 * queue of its own, and BE queues share what RT leaves. See REEF (OSDI '22), section 3, for the model.
 *
 * Thread safety: every function may be called from any thread, except that an object must not be in use elsewhere while
 * it is destroyed. Callbacks run on a device thread: they may call reef_session_submit and the read-only functions, must
 * not block, and must not destroy anything. Times are nanoseconds of CLOCK_MONOTONIC.
 */
#ifndef REEF_H
#define REEF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "reef/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define REEF_VERSION_MAJOR 0
#define REEF_VERSION_MINOR 1
#define REEF_VERSION_PATCH 0
/* "0.1.0" of the library at run time. */
const char *reef_version(void);

#define REEF_MAX_RANK 8

typedef enum reef_dtype { /* numbers as in ONNX's TensorProto.DataType */
                          REEF_F32 = 1,
                          REEF_U8 = 2,
                          REEF_I8 = 3,
                          REEF_I32 = 6,
                          REEF_I64 = 7,
                          REEF_BOOL = 9,
                          REEF_F16 = 10,
                          REEF_F64 = 11,
} reef_dtype;
/* "float32", "int64", ...; "unknown" otherwise. Static string. */
const char *reef_dtype_name(reef_dtype dtype);

typedef enum reef_class { REEF_RT, REEF_BE } reef_class;

/* The least precise arithmetic that products of matrices may use; inputs, outputs and sums are float32 in all of them. A
 * device may be more precise than asked: the CPU device always computes in fp32. */
typedef enum reef_precision {
    REEF_PRECISION_DEFAULT, /* tf32 */
    REEF_PRECISION_FP32,
    REEF_PRECISION_TF32, /* 10 bits of mantissa in products, float32 storage: what GPU libraries do by default */
    REEF_PRECISION_FP16, /* 10 bits, weights and activations stored as float16 */
} reef_precision;
/* "fp32", "tf32", "fp16"; "default" otherwise. Static string. */
const char *reef_precision_name(reef_precision precision);

typedef struct reef_device reef_device;
typedef struct reef_model reef_model;
typedef struct reef_session reef_session;
typedef struct reef_request reef_request;

/* ---------------------------------------------------------------- device -- */

typedef struct reef_device_options {
    unsigned units;          /* CPU: compute units (worker threads); 0: one per usable processor. GPU: 0 or all SMs */
    const char *policy;      /* NULL: "reset". See reef_policy_list. */
    unsigned queue_capacity; /* kernels a BE queue may have on the device (REEF's device queue capacity); 0: 4 */
    unsigned rt_queue_limit; /* RT requests that may wait; 0: 1024. More are refused with QUEUE_FULL. */
    /* GPU: microseconds that this process may keep the GPU while another process wants it, up to 1000000; 0: the driver's
     * own (2048). Holds for the whole process from then on, whoever opens contexts in it. See reef_device_slice. */
    unsigned slice_us;
} reef_device_options;

/*
 * Opens "cpu", or a GPU as "cuda:0" ("cuda" is the first one), and starts its threads. options may be NULL.
 * Errors: NOT_FOUND (no such device or policy, no driver), UNSUPPORTED (the driver is too old, the device cannot do what
 * the policy needs, or has no time slices), INVALID_ARGUMENT, NO_MEMORY, DEVICE.
 */
reef_status reef_device_open(const char *name, const reef_device_options *options, reef_device **out,
                             reef_error *error);
/* Every model must have been destroyed. NULL is allowed. */
void reef_device_close(reef_device *device);

/* Changes the policy. BUSY unless no request is queued or running and no model is being profiled; UNSUPPORTED where the
 * device lacks what it needs. On a GPU what every session's launches need under it is made ready, which takes up to some
 * tenths of a second the first time; requests that come meanwhile wait. */
reef_status reef_device_set_policy(reef_device *device, const char *policy, reef_error *error);
/* The i-th policy's name and one-sentence meaning; false past the end. Static strings. */
bool reef_policy_list(size_t i, const char **name, const char **meaning);
/* The i-th device this build can open here ("cpu", "cuda:0") and a description; false past the end. Static strings. */
bool reef_device_list(size_t i, const char **name, const char **description);
/* Whether reef_device_open would find it: OK, or NOT_FOUND or UNSUPPORTED with the reason. */
reef_status reef_device_check(const char *name, reef_error *error);
/* OK, or the device's last failure at run time with the call that failed. Requests that were under way then ended with
 * DEVICE; the device has been set up anew and serves every loaded model again, unless that failed too. */
reef_status reef_device_health(const reef_device *device, reef_error *error);

/* The time slice that options.slice_us has led to, in microseconds. UNSUPPORTED, with the reason: the driver refused or is
 * not known, in which case everything runs with the driver's own slices; or none was asked for. Thread safe. */
reef_status reef_device_slice(const reef_device *device, uint32_t *us, reef_error *error);

/* Answers every queued request whose deadline has passed, now instead of when its turn comes. Returns the earliest
 * deadline of those that still wait, UINT64_MAX if there is none: when to call again, unless a request with an earlier
 * one is submitted meanwhile. Their callbacks run on the calling thread. */
uint64_t reef_device_expire(reef_device *device);

typedef struct reef_device_stats {
    unsigned units;
    const char *policy;
    uint64_t rt_completed, be_completed;
    uint64_t preemptions;     /* RT arrivals that took units away from running or queued BE work */
    uint64_t kernels_evicted; /* BE kernels taken back from device queues before they had started */
    uint64_t tiles_run, tiles_abandoned;
    uint64_t padded_tiles;                       /* BE tiles carried inside RT launches (policy pad) */
    uint64_t busy_ns_rt, busy_ns_be, lost_ns_be; /* unit time, summed over units; lost: in abandoned tiles */
} reef_device_stats;
/* A snapshot; counters only grow. */
void reef_device_stats_get(const reef_device *device, reef_device_stats *out);

enum { REEF_PAD_LEVELS = 4 };
typedef struct reef_padding_info {
    size_t proxy_bytes; /* device memory taken by the kernels that carry tiles of others; 0 where none are needed */
    unsigned levels[REEF_PAD_LEVELS]; /* registers of a thread that they are built for, the highest first; then 0 */
    uint64_t selections;              /* RT launches for which the host has chosen best-effort tiles so far */
    uint64_t select_p50_ns;           /* what that took, of the newest 1024; 0: the host chooses none */
} reef_padding_info;
/* What kernel padding (policy pad) costs besides the time of its tiles. UNSUPPORTED where the device has none; *out is
 * then untouched. Thread safe. */
reef_status reef_device_padding(const reef_device *device, reef_padding_info *out, reef_error *error);

/*
 * A timeline: from now on requests, preemptions, resumptions and kernel segments are recorded in memory, max_spans of them
 * at most (0: 524288; 80 bytes each, taken at once), the newest are kept. Costs about 0.1 us per span, next to nothing
 * while not recording. Errors: BUSY (it is being recorded already), NO_MEMORY.
 */
reef_status reef_device_trace_start(reef_device *device, size_t max_spans, reef_error *error);
/* Ends the recording and writes it to path as Chrome trace JSON, for ui.perfetto.dev; NULL throws it away. Requests that
 * have not ended are not in it. Errors: INVALID_ARGUMENT (nothing is being recorded), IO. */
reef_status reef_device_trace_stop(reef_device *device, const char *path, reef_error *error);
/* Adds a span of the program's own, such as a phase of its work; no effect while not recording. name is copied and cut
 * after 33 bytes. */
void reef_device_trace_span(reef_device *device, const char *name, uint64_t begin_ns, uint64_t end_ns);

/* ----------------------------------------------------------------- model -- */

typedef struct reef_shape { /* "this input has these dimensions" */
    const char *input;
    int rank;
    int64_t dims[REEF_MAX_RANK];
} reef_shape;

/* Called now and then during long work: done of total steps of `what`. May be NULL. */
typedef void (*reef_progress)(void *context, const char *what, size_t done, size_t total);

typedef struct reef_model_options {
    const reef_shape *shapes; /* for inputs with dynamic dimensions; borrowed during the call */
    size_t n_shapes;
    const char *cache_dir; /* where profiles are kept; NULL: beside the model file, or nowhere if not writable */
    reef_precision precision;
    reef_progress progress;
    void *progress_context;
} reef_model_options;

/*
 * Reads an ONNX file and compiles it for the device. options may be NULL. path is borrowed.
 * Errors: NOT_FOUND, IO, FORMAT, UNSUPPORTED (operator and node in error), SHAPE (which input, which flag), DTYPE,
 * NO_MEMORY. A failure leaves device and other models as they were.
 */
reef_status reef_model_load(reef_device *device, const char *path, const reef_model_options *options, reef_model **out,
                            reef_error *error);
/* kernels dependent kernels of tiles tiles, each tile busy for tile_ns: a synthetic load with no inputs or outputs. */
reef_status reef_model_create_synthetic(reef_device *device, uint32_t kernels, uint32_t tiles, uint64_t tile_ns,
                                        reef_model **out, reef_error *error);
/* Every session must have been destroyed. NULL is allowed. */
void reef_model_destroy(reef_model *model);

typedef struct reef_tensor_info {
    const char *name; /* lives as long as the model */
    reef_dtype dtype;
    int rank;
    int64_t dims[REEF_MAX_RANK];
    size_t bytes; /* row major, densely packed */
} reef_tensor_info;
size_t reef_model_inputs(const reef_model *model);
size_t reef_model_outputs(const reef_model *model);
/* false when i is out of range. */
bool reef_model_input(const reef_model *model, size_t i, reef_tensor_info *out);
bool reef_model_output(const reef_model *model, size_t i, reef_tensor_info *out);

typedef struct reef_model_info {
    size_t nodes, kernels;      /* of the file, of the plan */
    size_t kernels_preemptible; /* of these: may be stopped inside; reef_model_kernel says why others may not */
    size_t weight_bytes, activation_bytes, activation_sum_bytes; /* sum: without reuse of buffers */
    double flops;
    reef_precision precision; /* of this model on its device */
    size_t device_bytes;      /* weights as the device keeps them, in its own memory; 0 on the CPU */
    bool profiled;
    uint64_t solo_ns;      /* sum of kernel times, from the profile if there is one, else an estimate */
    unsigned units_needed; /* compute units that its widest kernel can fill */
} reef_model_info;
void reef_model_info_get(const reef_model *model, reef_model_info *out);

typedef struct reef_kernel_info {
    const char *name, *ops, *kind, *variant; /* live as long as the model */
    uint32_t tiles;
    bool preemptible;    /* may be abandoned inside a tile */
    const char *why_not; /* NULL when preemptible */
    double flops, bytes;
    int64_t out_dims[REEF_MAX_RANK];
    int out_rank;
    uint64_t solo_p50_ns, solo_p99_ns; /* 0: not profiled */
    uint64_t tile_ns;                  /* one tile, measured or estimated */
    unsigned units;                    /* compute units it can fill */
    unsigned tiles_per_unit;           /* that run at once on one unit (a GPU's occupancy) */
    unsigned pad_level; /* at which it carries tiles of others; 0: none, or policy pad has not launched it */
} reef_kernel_info;
bool reef_model_kernel(const reef_model *model, size_t i, reef_kernel_info *out);

typedef struct reef_buffer_info {
    const char *name, *kind; /* kind: "const", "input", "output", "activation" */
    size_t bytes, offset;    /* offset in the activation memory */
    uint32_t first_kernel, last_kernel;
} reef_buffer_info;
bool reef_model_buffer(const reef_model *model, size_t i, reef_buffer_info *out);

/*
 * Measures every kernel alone on the device (runs times) and keeps the result in the model and in the cache. Until then
 * the scheduler works with estimates. BUSY unless no request is queued or running; requests submitted meanwhile wait for
 * its end, so progress must not wait for one.
 */
reef_status reef_model_profile(reef_model *model, unsigned runs, reef_progress progress, void *context,
                               reef_error *error);

/*
 * Latency of the whole model alone on the device, in nanoseconds as this thread sees it: samples[i] is the time from
 * handing run i over to seeing that it has ended. The inputs (one per model input, row major) are copied to the device
 * once, before the first run, and outputs (NULL, or one per model output) are read back once, after the last; no run
 * copies anything. Errors: BUSY, NO_MEMORY, DEVICE.
 */
reef_status reef_model_solo(reef_model *model, const void *const *inputs, void *const *outputs, unsigned runs,
                            uint64_t *samples, reef_error *error);

/* --------------------------------------------------------------- session -- */

typedef struct reef_session_options {
    reef_class service_class;
    unsigned instances;   /* requests in flight with their own activations; 0: 2 for BE, 1 for RT */
    unsigned queue_limit; /* BE requests that may wait; 0: 1024 */
    unsigned weight;      /* BE: share of the device against other BE sessions; 0: 1 */
} reef_session_options;

/* A queue of requests to one model. options may be NULL (BE). */
reef_status reef_session_create(reef_model *model, const reef_session_options *options, reef_session **out,
                                reef_error *error);
/* Cancels what is queued, waits for what runs, and frees. NULL is allowed. */
void reef_session_destroy(reef_session *session);

typedef struct reef_request_info {
    uint64_t submit_ns, launch_ns, start_ns,
        end_ns;           /* launch: first handed to the device; start: first tile; 0 until then */
    uint32_t preemptions; /* how often it lost units to RT work */
    reef_status status;   /* of the request: OK, DEADLINE, CANCELLED, REFUSED, DEVICE */
} reef_request_info;

/* Fires exactly once per accepted request, after its outputs are written, on a device thread (or, for a request that
 * is cancelled or refused before it ran, on the thread that found out). The request may be released from it. It should be
 * short: meanwhile nobody hears of other requests' ends, and best-effort work may be waiting for whether another real-time
 * request comes from it. */
typedef void (*reef_callback)(void *context, reef_request *request, const reef_request_info *info);

typedef struct reef_submit_options {
    /* One per model input, row major. The tensors are borrowed until the request ends; this array, and that of the outputs,
     * only during the call. */
    const void *const *inputs;
    /* One per model output, written before the request ends; borrowed; NULL: not wanted. They must not overlap the inputs
     * or each other: outputs may be written while inputs are still being read. */
    void *const *outputs;
    uint64_t deadline_ns; /* absolute; 0: none. Orders RT requests; a request not started by then ends with DEADLINE */
    reef_callback callback; /* may be NULL */
    void *context;
} reef_submit_options;

/*
 * Queues a request. *out may be NULL when the callback is all that is wanted; otherwise the caller owns the request and
 * gives it back with reef_request_release. Errors (nothing was queued, no callback will fire): INVALID_ARGUMENT,
 * QUEUE_FULL (as many wait as may, or the caller holds so many handles of ended requests that none is left: release
 * them), REFUSED, CANCELLED (the session is being destroyed).
 */
reef_status reef_session_submit(reef_session *session, const reef_submit_options *options, reef_request **out);
/* Waits until the request has ended. timeout_ns: relative; UINT64_MAX: for ever. TIMEOUT, or OK with *info (may be
 * NULL) filled: info->status says how the request ended. */
reef_status reef_request_wait(reef_request *request, uint64_t timeout_ns, reef_request_info *info);
/* Asks it to end with CANCELLED: at once when queued, at the next kernel or tile when running. No effect on one that
 * has ended, even when its session is gone. */
void reef_request_cancel(reef_request *request);
/* Gives the handle back; a request still under way goes on. NULL is allowed. */
void reef_request_release(reef_request *request);

#define REEF_HINT_MAX_NS 2000000u
/*
 * Says that an RT request will be submitted to the session within within_ns (1 to REEF_HINT_MAX_NS). A GPU that another
 * process uses takes time to switch (about 200 us on an H200 when the other was started with reef nice): the switch
 * starts now, so a hint that early hides it. The device then waits, idle, for the request; it stops waiting when one has
 * ended, or 200 us after within_ns at the latest, so a hint for nothing costs the others that much. After
 * REEF_HINT_UNUSED_MAX hints in a row without a request they are REFUSED until one comes.
 *
 * Takes some microseconds and does not wait. Thread safe. Errors: INVALID_ARGUMENT (a BE session, within_ns out of range),
 * UNSUPPORTED (a device that needs no preparation: the CPU), REFUSED, DEVICE. The request itself does not need the hint.
 */
#define REEF_HINT_UNUSED_MAX 8
reef_status reef_session_hint(reef_session *session, uint64_t within_ns, reef_error *error);

/* Submit and wait. Returns the request's own status. info may be NULL. */
reef_status reef_session_run(reef_session *session, const void *const *inputs, void *const *outputs,
                             reef_request_info *info);

typedef struct reef_session_stats {
    uint64_t submitted, completed, failed, cancelled, missed_deadline, refused;
    uint64_t preemptions;
    uint32_t queued, running;
} reef_session_stats;
void reef_session_stats_get(const reef_session *session, reef_session_stats *out);

#ifdef __cplusplus
}
#endif
#endif
