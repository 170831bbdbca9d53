/*
 * progress.c - see progress.h.
 */
#include "cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

static const uint64_t QUIET_NS = 2000000000u, LIVE_NS = 100000000u, PLAIN_NS = 5000000000u;

void cli_progress_begin(cli_progress *progress, const char *command)
{
    *progress = (cli_progress){.command = command, .terminal = isatty(STDERR_FILENO), .begin_ns = reef_now_ns()};
    pthread_mutex_init(&progress->lock, NULL);
}

void cli_progress_show(void *context, const char *what, size_t done, size_t total)
{
    cli_progress *progress = context;
    uint64_t now = reef_now_ns(), gap = progress->terminal ? LIVE_NS : PLAIN_NS;
    pthread_mutex_lock(&progress->lock);
    bool due = now - progress->begin_ns > QUIET_NS && (!progress->last_ns || now - progress->last_ns > gap);
    if (due) {
        unsigned seconds = (unsigned)((now - progress->begin_ns) / 1000000000u);
        unsigned percent = total ? (unsigned)(100.0 * (double)done / (double)total) : 0;
        fprintf(stderr, progress->terminal ? "\r\033[Kreef %s: %s %u%% (%u s)" : "reef %s: %s %u%% (%u s)\n",
                progress->command, what, percent > 100 ? 100 : percent, seconds);
        fflush(stderr);
        progress->last_ns = now;
        progress->shown = true;
    }
    pthread_mutex_unlock(&progress->lock);
}

void cli_progress_end(cli_progress *progress)
{
    pthread_mutex_lock(&progress->lock);
    if (progress->shown && progress->terminal) {
        fprintf(stderr, "\r\033[K");
        fflush(stderr);
    }
    progress->shown = false;
    pthread_mutex_unlock(&progress->lock);
}
