/*
 * onnx.h - what the two halves of the ONNX reader share: onnx.c (model, graph, nodes) and tensor.c (tensor contents).
 *
 * Invariant: every pointer into the file is reached through a reef_wire bounded by its message, and nothing is
 * allocated in proportion to a number in the file before the bytes that back the number have been seen.
 */
#ifndef REEF_MODEL_ONNX_H
#define REEF_MODEL_ONNX_H

#include "base/error.h"
#include "model/graph.h"
#include "model/names.h"
#include "model/wire.h"

/* A file mapped read-only for the life of the graph. A file that somebody truncates meanwhile raises SIGBUS on access:
 * replace model files by rename, as installers do. */
struct reef_mapping {
    struct reef_mapping *next;
    uint8_t *bytes;
    size_t size;
};

enum {
    REEF_MAX_ELEMS_LOG2 = 40, /* elements of one tensor, and the largest single dimension */
    REEF_MAX_EXTERNAL_FILES = 4096,
};
#define REEF_MAX_ELEMS ((int64_t)1 << REEF_MAX_ELEMS_LOG2)

typedef struct reef_loader {
    reef_graph *graph;
    const uint8_t *bytes; /* the whole file */
    size_t size;
    const char *path;   /* NULL: parsing from memory, external data is refused */
    reef_names values;  /* name -> reef_value */
    reef_names files;   /* external location -> reef_mapping */
    char *folder;       /* resolved, of path; made at the first external tensor */
    uint64_t data_hash; /* of external data files' names and sizes */
    reef_error *error;
} reef_loader;

/* Fills loader->error, with the byte offset of `at` in the file at the end of the message. */
__attribute__((format(printf, 4, 5))) void reef_loader_error(reef_loader *loader, reef_status status, const uint8_t *at,
                                                             const char *format, ...);
/* The same with the value of status, which is evaluated twice: as reef_fail, a macro so that callers see the status. */
#define reef_loader_fail(loader, status, at, ...)                                                                      \
    reef_error_return((status), (reef_loader_error((loader), (status), (at), __VA_ARGS__), 0))
/* A zero-terminated copy in the arena. FORMAT when it holds a zero byte. */
reef_status reef_loader_string(reef_loader *loader, const reef_wire *body, const char *what, const char **out);

/*
 * Reads a TensorProto into a constant value that is in the arena but not yet in graph->values. `what` says whose it is
 * ("initializer", "attribute 'value' of node 'n'"). Typed fields are decoded into the arena; raw data stays in place.
 */
reef_status reef_onnx_tensor(reef_loader *loader, reef_wire body, const char *what, reef_value **out);

/* Maps a regular file. size may be 0, then bytes is NULL. */
reef_status reef_map_file(const char *path, struct reef_mapping *out, reef_error *error);
void reef_mapping_unmap(struct reef_mapping *mapping);

/* Orders nodes topologically if the file did not; FORMAT names a node on a cycle. Needs producers set. */
reef_status reef_graph_sort(reef_graph *graph, reef_error *error);

#endif
