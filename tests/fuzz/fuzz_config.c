/*
 * fuzz_config.c - arbitrary bytes as the configuration of a served model.
 */
#include "fuzz/fuzz.h"
#include "serve/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    serve_config config;
    reef_error error = {.status = REEF_OK, .message = ""};
    reef_status status = serve_config_parse((const char *)bytes, size, "m.json", &config, &error);
    if (status) {
        check_failure(status, &error);
    } else {
        check(config.max_batch <= SERVE_MAX_BATCH && config.delay_us <= 10000000, "batching is in range");
        for (size_t i = 0; i < config.n_shapes; i++) {
            check(config.shapes[i].input && config.shapes[i].rank <= REEF_MAX_RANK, "shapes have a name and a rank");
            for (int d = 0; d < config.shapes[i].rank; d++) {
                check(config.shapes[i].dims[d] >= 1, "dimensions are positive");
            }
        }
        for (size_t i = 0; i < config.n_labels; i++) {
            check(config.labels[i].file && !strchr(config.labels[i].file, '/'), "labels lie beside the model");
        }
    }
    serve_config_free(&config);
    return 0;
}
