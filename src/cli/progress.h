/*
 * progress.h - says on stderr what takes long: one live line on a terminal, a plain line every few seconds elsewhere.
 */
#ifndef REEF_CLI_PROGRESS_H
#define REEF_CLI_PROGRESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct cli_progress {
    const char *command;
    bool terminal, shown;
    uint64_t begin_ns, last_ns;
    pthread_mutex_t lock; /* loaders may report from any thread */
} cli_progress;

void cli_progress_begin(cli_progress *progress, const char *command);
/* A reef_progress. Silent for the first two seconds. */
void cli_progress_show(void *context, const char *what, size_t done, size_t total);
/* Clears the live line. Call before printing anything else. */
void cli_progress_end(cli_progress *progress);

#endif
