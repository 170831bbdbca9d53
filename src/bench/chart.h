/*
 * chart.h - the results as one self-contained SVG that follows the reader's light or dark theme.
 */
#ifndef REEF_BENCH_CHART_H
#define REEF_BENCH_CHART_H

#include "bench/report.h"

/* RT latency per policy against alone (log scale), and best-effort throughput. */
reef_status bench_chart_write(const bench_report *report, const char *path, reef_error *error);
/* Time to the first RT tile per best-effort load and mechanism (log scale). */
reef_status preempt_chart_write(const preempt_report *report, const char *path, reef_error *error);
/* RT latency over alone (log scale) and best-effort work, pair by pair, a colour per policy. */
reef_status padding_chart_write(const padding_report *report, const char *path, reef_error *error);

#endif
