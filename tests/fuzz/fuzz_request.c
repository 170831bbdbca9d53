/*
 * fuzz_request.c - arbitrary bytes as an inference request: JSON and binary tensors. What decodes has every tensor in its
 * place and can be answered.
 *
 * The first two bytes say where the JSON ends; 0xffff: it is all JSON.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz/fuzz.h"
#include "serve/request.h"
#include "serve/tensor.h"

static serve_shm *shm;

static void open_region(void)
{
    static const char key[] = "/reef_fuzz_region";
    reef_error error;
    char name[64];
    if (shm) {
        return;
    }
    serve_json_setup();
    snprintf(name, sizeof name, "%s_%d", key, (int)getpid());
    int fd = shm_open(name, O_RDWR | O_CREAT, 0600);
    check(fd >= 0 && ftruncate(fd, 4096) == 0, "there is shared memory for the fuzzer");
    shm = serve_shm_create("reef_fuzz");
    check(shm && serve_shm_register(shm, "r", name, 0, 4096, &error) == REEF_OK, "it can be registered");
    shm_unlink(name);
    close(fd);
}

static void check_request(const serve_request *request)
{
    const serve_signature *signature = request->signature;
    static volatile unsigned char sum;
    for (size_t i = 0; i < signature->n_inputs; i++) {
        const serve_io *io = &signature->inputs[i];
        size_t bytes = io->item_elems * request->batch * serve_dtype_bytes(io->dtype);
        check(request->in[i].data && request->in[i].bytes == bytes, "inputs have the size of their shape");
        check((uintptr_t)request->in[i].data % serve_dtype_bytes(io->dtype) == 0, "inputs are aligned");
        for (size_t k = 0; k < bytes; k++) {
            sum = sum ^ ((const unsigned char *)request->in[i].data)[k];
        }
    }
    check(request->batch >= 1 && (signature->max_batch ? request->batch <= signature->max_batch : request->batch == 1),
          "batches are in range");
    for (size_t k = 0; k < request->n_order; k++) {
        const serve_out *out = &request->out[request->order[k]];
        check(out->wanted && out->data, "outputs have a place");
        memset(out->data, 0x3c, out->bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static char zero[] = "zero", one[] = "one";
    static char *labels[] = {zero, one};
    static const serve_io inputs[] = {
        {.name = "x", .dtype = REEF_F32, .rank = 2, .dims = {2, 3}, .item_elems = 6},
        {.name = "i", .dtype = REEF_I64, .rank = 1, .dims = {2}, .item_elems = 2},
        {.name = "b", .dtype = REEF_BOOL, .rank = 0, .item_elems = 1},
    };
    static const serve_io outputs[] = {
        {.name = "y", .dtype = REEF_F32, .rank = 2, .dims = {2, 3}, .item_elems = 6, .labels = labels, .n_labels = 2},
        {.name = "n", .dtype = REEF_I64, .rank = 1, .dims = {2}, .item_elems = 2},
    };
    static const serve_io batched[] = {{.name = "x", .dtype = REEF_F32, .rank = 2, .dims = {-1, 3}, .item_elems = 3}};
    static const serve_signature signatures[] = {
        {.name = "m", .version = "1", .inputs = inputs, .outputs = outputs, .n_inputs = 3, .n_outputs = 2},
        {.name = "m",
         .version = "1",
         .inputs = batched,
         .outputs = batched,
         .n_inputs = 1,
         .n_outputs = 1,
         .max_batch = 4},
    };
    if (size < 2) {
        return 0;
    }
    open_region();
    size_t split = (size_t)bytes[0] << 8 | bytes[1];
    size_t body_bytes = size - 2;
    split = split == 0xffff ? body_bytes : split;
    char *body = malloc(body_bytes + 1); /* its end is watched */
    serve_request *request = malloc(sizeof *request);
    check(body && request, "there is memory");
    memcpy(body, bytes + 2, body_bytes);
    for (size_t s = 0; s < 2; s++) {
        reef_error error = {.status = REEF_OK, .message = ""};
        serve_json_budget(1 << 20);
        reef_status status = serve_decode(&signatures[s], shm, body, body_bytes, split, request, &error);
        serve_json_budget(0);
        if (status) {
            check_failure(status, &error);
        } else {
            check_request(request);
            serve_answer answer = {.n_spans = 0};
            status = serve_encode(request, &answer, &error);
            if (status) {
                check_failure(status, &error);
            } else {
                json_t *root = json_loadb(answer.json.data, answer.json.n, 0, NULL);
                check(root != NULL, "the answer is JSON");
                json_decref(root);
            }
            serve_answer_free(&answer);
        }
        serve_request_free(request);
    }
    free(request);
    free(body);
    return 0;
}
