/*
 * fuzz_ring.c - arbitrary bytes as a control message of the ring, and as a call in its shared memory.
 */
#include "fuzz/fuzz.h"
#include "serve/ring_client.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    ring_message message;
    const char *wrong = serve_ring_check_message(bytes, size, &message);
    if (!wrong) {
        check(size == sizeof message, "messages have their size");
        check(message.kind != RING_CLOSE || message.model < RING_MODELS, "models are in range");
        check(message.kind != RING_OPEN || strlen(message.name) < sizeof message.name, "names have an end");
    }

    static const serve_io io[] = {
        {.name = "x", .dtype = REEF_F32, .rank = 1, .dims = {100}, .item_elems = 100},
        {.name = "i", .dtype = REEF_I64, .rank = 1, .dims = {7}, .item_elems = 7},
    };
    static const serve_signature signature = {
        .name = "m", .version = "1", .inputs = io, .outputs = io, .n_inputs = 2, .n_outputs = 2};
    ring_call call;
    uint64_t data_bytes;
    if (size >= sizeof call + sizeof data_bytes) {
        memcpy(&call, bytes, sizeof call);
        memcpy(&data_bytes, bytes + sizeof call, sizeof data_bytes);
        data_bytes %= 1 << 20;
        if (serve_ring_check_call(&call, &signature, data_bytes)) {
            const uint64_t sizes[] = {400, 56};
            for (int i = 0; i < 2; i++) {
                check(call.inputs[i] % 64 == 0 && call.inputs[i] <= data_bytes &&
                          data_bytes - call.inputs[i] >= sizes[i],
                      "inputs lie in the data");
                check(call.outputs[i] == UINT64_MAX ||
                          (call.outputs[i] <= data_bytes && data_bytes - call.outputs[i] >= sizes[i]),
                      "outputs lie in the data");
            }
            check(call.service_class <= RING_CLASS_DEFAULT, "classes are in range");
        }
    }
    return 0;
}
