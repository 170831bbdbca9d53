/*
 * chart.c - see chart.h. Rows of dots on a logarithmic axis: a filled dot is the median, the line reaches to p99.
 */
#include "bench/chart.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/error.h"

enum { WIDTH = 960, LEFT = 210, TOP = 112, ROW = 34 };

typedef struct axis { /* maps [low, high] to [x, x + width] */
    double low, high, x, width;
    bool log;
} axis;

static double place_on(const axis *a, double value)
{
    double low = a->log ? log10(a->low) : a->low, high = a->log ? log10(a->high) : a->high;
    double v = a->log ? log10(fmax(value, a->low)) : value;
    return a->x + a->width * fmin(1, fmax(0, (v - low) / (high - low)));
}

/* Text from files goes through here. */
static void put_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '&': fputs("&amp;", out); break;
        default: fputc(*text, out);
        }
    }
}

static void label(FILE *out, double x, double y, const char *class_name, const char *anchor, const char *text)
{
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\" text-anchor=\"%s\">", x, y, class_name, anchor);
    put_text(out, text);
    fputs("</text>\n", out);
}

static void begin(FILE *out, int height, const char *title, const char *subtitle)
{
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" "
            "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\">\n<title>",
            WIDTH, height, WIDTH, height);
    put_text(out, title);
    fputs("</title>\n<style>\n"
          "  .bg { fill: #ffffff } .ink { fill: #1c2330 } .soft { fill: #5b6575 } .grid { stroke: #dfe3ea }\n"
          "  .ref { stroke: #1c2330; stroke-dasharray: 4 4 } .s0 { fill: #0b6fb8; stroke: #0b6fb8 }\n"
          "  .s1 { fill: #c4560a; stroke: #c4560a } .s2 { fill: #1d8a5f; stroke: #1d8a5f }\n"
          "  .s3 { fill: #9a3fa8; stroke: #9a3fa8 } .s4 { fill: #8a7400; stroke: #8a7400 }\n"
          "  .s5 { fill: #b8274c; stroke: #b8274c } .s6 { fill: #4d5bc4; stroke: #4d5bc4 }\n"
          "  .bar { stroke: none } .title { font-size: 19px; font-weight: 600 } .small { font-size: 12px }\n"
          "  .name { font-size: 14px } .head { font-size: 14px; font-weight: 600 }\n"
          "  @media (prefers-color-scheme: dark) {\n"
          "    .bg { fill: #12161d } .ink { fill: #e8ecf2 } .soft { fill: #9aa5b5 } .grid { stroke: #2b323d }\n"
          "    .ref { stroke: #e8ecf2 } .s0 { fill: #58b0f0; stroke: #58b0f0 } .s1 { fill: #f2994d; stroke: #f2994d }\n"
          "    .s2 { fill: #55c79a; stroke: #55c79a } .s3 { fill: #d58be0; stroke: #d58be0 }\n"
          "    .s4 { fill: #d8c04a; stroke: #d8c04a } .s5 { fill: #f07090; stroke: #f07090 }\n"
          "    .s6 { fill: #98a4ff; stroke: #98a4ff }\n"
          "  }\n</style>\n",
          out);
    fprintf(out, "<rect class=\"bg\" width=\"%d\" height=\"%d\"/>\n", WIDTH, height);
    label(out, 24, 34, "ink title", "start", title);
    label(out, 24, 56, "soft small", "start", subtitle);
}

static reef_status end(FILE *out, const char *path, reef_error *error)
{
    fputs("</svg>\n", out);
    bool failed = ferror(out);
    return fclose(out) || failed ? reef_fail(error, REEF_IO, "%s: cannot be written: %s", path, strerror(errno))
                                 : REEF_OK;
}

static reef_status open_chart(const char *path, FILE **out, reef_error *error)
{
    *out = fopen(path, "w");
    return *out ? REEF_OK : reef_fail(error, REEF_IO, "%s: cannot be written: %s", path, strerror(errno));
}

/* Steps of 1, 2 and 5 times powers of ten. */
static double next_tick(double tick)
{
    double power = pow(10, floor(log10(tick) + 1e-9)), lead = tick / power;
    return lead < 1.5 ? 2 * power : lead < 3 ? 5 * power : 10 * power;
}

static double tick_at_or_below(double value)
{
    double power = pow(10, floor(log10(value) + 1e-9)), lead = value / power * (1 + 1e-9);
    return (lead >= 5 ? 5 : lead >= 2 ? 2 : 1) * power;
}

static void line(FILE *out, const char *class_name, double x1, double y1, double x2, double y2, double width)
{
    fprintf(out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke-width=\"%.1f\"/>\n",
            class_name, x1, y1, x2, y2, width);
}

typedef void (*tick_text)(double value, char *text, size_t size);

static void times_text(double value, char *text, size_t size)
{
    snprintf(text, size, "%gx", value);
}

static void us_text(double value, char *text, size_t size)
{
    if (value < 1000) {
        snprintf(text, size, "%g us", value);
    } else if (value < 1e6) {
        snprintf(text, size, "%g ms", value / 1e3);
    } else {
        snprintf(text, size, "%g s", value / 1e6);
    }
}

/* Three digits are enough beside a dot. */
static void short_text(double us, char *text, size_t size)
{
    double digit = us > 0 ? pow(10, floor(log10(us)) - 2) : 1;
    us_text(round(us / digit) * digit, text, size);
}

static void draw_log_axis(FILE *out, const axis *a, double top, double bottom, tick_text text_of)
{
    double decades = log10(a->high / a->low);
    double tick = a->low;
    while (tick <= a->high * 1.001) {
        double lead = tick / pow(10, floor(log10(tick) + 1e-9));
        char text[32];
        line(out, "grid", place_on(a, tick), top, place_on(a, tick), bottom, 1);
        if (decades < 1.6 || lead < 1.5) {
            text_of(tick, text, sizeof text);
            label(out, place_on(a, tick), bottom + 16, "soft small", "middle", text);
        }
        tick = next_tick(tick);
    }
}

/* From the median (dot) to p99 (tick). */
static void draw_range(FILE *out, const axis *a, double y, int colour, double p50, double p99)
{
    char class_name[8];
    snprintf(class_name, sizeof class_name, "s%d", colour % 7);
    line(out, class_name, place_on(a, p50), y, place_on(a, p99), y, 3);
    line(out, class_name, place_on(a, p99), y - 7, place_on(a, p99), y + 7, 3);
    fprintf(out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"6\"/>\n", class_name, place_on(a, p50), y);
}

static double smallest(double a, double b)
{
    return isnan(b) || b <= 0 ? a : fmin(a, b);
}

static double largest(double a, double b)
{
    return isnan(b) ? a : fmax(a, b);
}

enum { PART_HEAD = 66, PART_FOOT = 34 }; /* above and below the rows of a part */

static void draw_latency_panel(FILE *out, const bench_part *part, const axis *a, double top, double bottom)
{
    double alone = part->rows[0].rt.p50_us;
    char text[64];
    label(out, a->x, top - 26, "ink head", "start", "Real-time latency");
    label(out, a->x, top - 10, "soft small", "start", "relative to the median of rt-only; dot: median, bar: p99");
    draw_log_axis(out, a, top, bottom, times_text);
    line(out, "ref", place_on(a, 1), top, place_on(a, 1), bottom, 1.5);
    for (size_t i = 0; i < part->n_rows; i++) {
        const bench_row *row = &part->rows[i];
        double y = top + ROW * ((double)i + 0.5);
        label(out, LEFT - 14, y + 5, "ink name", "end", row->policy);
        if (row->rt.n) {
            draw_range(out, a, y, 0, row->rt.p50_us / alone, row->rt.p99_us / alone);
            snprintf(text, sizeof text, "%.2fx / %.2fx", row->rt.p50_us / alone, row->rt.p99_us / alone);
            label(out, a->x + a->width + 10, y + 4, "soft small", "start", text);
        }
    }
}

/* Shares of the time from 0 to a->high. */
static void draw_share_axis(FILE *out, const axis *a, double top, double bottom)
{
    char text[32];
    for (int i = 0; i <= 4; i++) {
        double value = a->high * i / 4;
        line(out, "grid", place_on(a, value), top, place_on(a, value), bottom, 1);
        snprintf(text, sizeof text, "%.3g%%", 100 * value);
        label(out, place_on(a, value), bottom + 16, "soft small", "middle", text);
    }
}

static void draw_bar(FILE *out, const axis *a, double y, int colour, double value, double height)
{
    fprintf(out, "<rect class=\"s%d bar\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.0f\" rx=\"2\"/>\n",
            colour % 7, a->x, y - height / 2, place_on(a, value) - a->x, height);
}

static void draw_throughput_panel(FILE *out, const bench_part *part, const axis *a, double top, double bottom)
{
    char text[64];
    label(out, a->x, top - 26, "ink head", "start", "Best-effort work done");
    label(out, a->x, top - 10, "soft small", "start", "% of the time; dashed: what rt-only leaves idle");
    draw_share_axis(out, a, top, bottom);
    double idle = 1 - part->rows[0].rt_busy_share;
    line(out, "ref", place_on(a, idle), top, place_on(a, idle), bottom, 1.5);
    for (size_t i = 0; i < part->n_rows; i++) {
        const bench_row *row = &part->rows[i];
        double y = top + ROW * ((double)i + 0.5);
        draw_bar(out, a, y, 2, row->be_work_share, 16);
        snprintf(text, sizeof text, "%.1f/s", row->be_per_s);
        label(out, a->x + a->width + 10, y + 4, "soft small", "start", text);
    }
}

static void draw_part(FILE *out, const bench_part *part, double head)
{
    double low = 1, high = 1, most = 0.01, alone = part->rows[0].rt.p50_us;
    for (size_t i = 0; i < part->n_rows; i++) {
        low = smallest(low, part->rows[i].rt.p50_us / alone);
        high = largest(high, part->rows[i].rt.p99_us / alone);
        most = largest(most, part->rows[i].be_work_share);
    }
    low = tick_at_or_below(low * 0.98);
    high = fmax(next_tick(tick_at_or_below(high * 0.999)), 2);
    double full = ceil(fmax(most, 1 - part->rows[0].rt_busy_share) * 5 + 1e-9) / 5;
    double top = head + PART_HEAD, bottom = top + ROW * (double)part->n_rows;
    char title[300];
    snprintf(title, sizeof title, "%s, %s rates; RT alone: p50 %.2f ms, p99 %.2f ms, device busy %.0f%%",
             part->workload, strcmp(part->form, "matched") ? "published" : "load-matched", alone / 1e3,
             part->rows[0].rt.p99_us / 1e3, 100 * part->rows[0].rt_busy_share);
    label(out, 24, head + 10, "ink head", "start", title);
    draw_latency_panel(out, part, &(axis){low, high, LEFT, 300, true}, top, bottom);
    draw_throughput_panel(out, part, &(axis){0, full, 640, 230, false}, top, bottom);
}

reef_status bench_chart_write(const bench_report *report, const char *path, reef_error *error)
{
    FILE *out;
    reef_status status = open_chart(path, &out, error);
    if (status) {
        return status;
    }
    double height = TOP - PART_HEAD + 40;
    for (size_t i = 0; i < report->n_parts; i++) {
        height += PART_HEAD + PART_FOOT + ROW * (double)report->parts[i].n_rows;
    }
    char subtitle[300];
    snprintf(subtitle, sizeof subtitle, "%s, %u compute units, %g s per policy in %u round%s", report->device,
             report->units, report->seconds, report->rounds, report->rounds == 1 ? "" : "s");
    begin(out, (int)height, "Real-time and best-effort inference on one device", subtitle);
    double head = TOP - 22;
    for (size_t i = 0; i < report->n_parts; i++) {
        draw_part(out, &report->parts[i], head);
        head += PART_HEAD + PART_FOOT + ROW * (double)report->parts[i].n_rows;
    }
    return end(out, path, error);
}

reef_status preempt_chart_write(const preempt_report *report, const char *path, reef_error *error)
{
    FILE *out;
    reef_status status = open_chart(path, &out, error);
    if (status) {
        return status;
    }
    double low = 1e9, high = 1;
    for (size_t i = 0; i < report->n_rows; i++) {
        low = smallest(smallest(low, report->rows[i].load.first.p50_us), report->rows[i].idle.first.p50_us);
        high = largest(high, report->rows[i].load.first.p99_us);
    }
    low = tick_at_or_below(report->n_rows ? low * 0.9 : 1);
    high = fmax(next_tick(tick_at_or_below(high)), low * 10);
    double bottom = TOP;
    const char *last = NULL;
    for (size_t i = 0; i < report->n_rows; i++) {
        bottom += last && strcmp(last, report->rows[i].be) != 0 ? 32 : 22;
        last = report->rows[i].be;
    }
    bottom += 6;
    char subtitle[300];
    snprintf(subtitle, sizeof subtitle, "%s, %u compute units, %u requests each", report->device, report->units,
             report->count);
    begin(out, (int)bottom + 44, "Time from a real-time request to its first tile, while best-effort work runs",
          subtitle);
    axis a = {low, high, LEFT + 130, 440, true};
    label(out, a.x, TOP - 26, "ink head", "start", "Time from submission, log scale");
    label(out, a.x, TOP - 10, "soft small", "start", "dot: median, bar: p99; dashed: median on the idle device");
    draw_log_axis(out, &a, TOP, bottom, us_text);
    double y = TOP + 14;
    last = NULL;
    const char *first_mechanism = report->n_rows ? report->rows[0].mechanism : "";
    int colour = 0;
    if (report->n_rows) {
        line(out, "ref", place_on(&a, report->rows[0].idle.first.p50_us), TOP,
             place_on(&a, report->rows[0].idle.first.p50_us), bottom, 1.5);
    }
    for (size_t i = 0; i < report->n_rows; i++) {
        const preempt_row *row = &report->rows[i];
        bool new_load = !last || strcmp(last, row->be) != 0;
        char text[80];
        if (new_load) {
            y += last ? 10 : 0;
            label(out, LEFT + 44, y + 4, "ink small", "end", row->be);
        }
        colour = strcmp(row->mechanism, first_mechanism) ? colour + 1 : 0;
        label(out, LEFT + 116, y + 4, "soft small", "end", row->mechanism);
        draw_range(out, &a, y, colour, row->load.first.p50_us, row->load.first.p99_us);
        char p50[32], p99[32];
        short_text(row->load.first.p50_us, p50, sizeof p50);
        short_text(row->load.first.p99_us, p99, sizeof p99);
        snprintf(text, sizeof text, "%s / %s", p50, p99);
        label(out, a.x + a.width + 12, y + 4, "soft small", "start", text);
        last = row->be;
        y += 22;
    }
    return end(out, path, error);
}

enum { PAIR_HEAD = 24, PAIR_ROW = 19 };

/* Draws the lines of all pairs from y on; returns where they end. With out NULL it only measures. */
static double draw_pairs(FILE *out, const padding_report *report, const axis *latency, const axis *work, double y)
{
    padding_row row;
    const bench_row *last = NULL;
    char text[160];
    int colour = 0;
    for (size_t i = 0; padding_row_at(report, i, &row); i++) {
        if (!last || row.alone != last) {
            y += PAIR_HEAD;
            colour = 0;
            last = row.alone;
            snprintf(text, sizeof text, "%.60s beside %.60s", row.rt, row.be);
            if (out) {
                label(out, 24, y - 6, "ink small", "start", text);
            }
        }
        double alone = row.alone->rt.p50_us, middle = y + PAIR_ROW / 2.0;
        if (out) {
            label(out, LEFT - 14, middle + 4, "soft small", "end", row.row->policy);
            draw_bar(out, work, middle, colour, row.row->be_work_share, 11);
            snprintf(text, sizeof text, "%.1f%%", 100 * row.row->be_work_share);
            label(out, work->x + work->width + 10, middle + 4, "soft small", "start", text);
        }
        if (out && row.row->rt.n && row.alone->rt.n) {
            draw_range(out, latency, middle, colour, row.row->rt.p50_us / alone, row.row->rt.p99_us / alone);
            snprintf(text, sizeof text, "%.3fx / %.2fx", row.row->rt.p50_us / alone, row.row->rt.p99_us / alone);
            label(out, latency->x + latency->width + 10, middle + 4, "soft small", "start", text);
        }
        colour++;
        y += PAIR_ROW;
    }
    return y;
}

reef_status padding_chart_write(const padding_report *report, const char *path, reef_error *error)
{
    FILE *out;
    reef_status status = open_chart(path, &out, error);
    if (status) {
        return status;
    }
    double low = 1, high = 1, most = 0.01;
    padding_row row;
    for (size_t i = 0; padding_row_at(report, i, &row); i++) {
        low = smallest(low, row.row->rt.p50_us / row.alone->rt.p50_us);
        high = largest(high, row.row->rt.p99_us / row.alone->rt.p50_us);
        most = largest(most, row.row->be_work_share);
    }
    double full = tick_at_or_below(most);
    axis latency = {tick_at_or_below(low * 0.98), fmax(next_tick(tick_at_or_below(high * 0.999)), 2), LEFT, 300, true};
    axis work = {0, full < most ? next_tick(full) : full, 660, 210, false};
    double bottom = draw_pairs(NULL, report, &latency, &work, TOP) + 8;
    char subtitle[300];
    snprintf(subtitle, sizeof subtitle, "%s, %u compute units, %g s per pair and policy in %u round%s",
             report->bench.device, report->bench.units, report->bench.seconds, report->bench.rounds,
             report->bench.rounds == 1 ? "" : "s");
    begin(out, (int)bottom + 44, "Best-effort work beside real-time work that never pauses", subtitle);
    label(out, latency.x, TOP - 26, "ink head", "start", "Real-time latency");
    label(out, latency.x, TOP - 10, "soft small", "start", "relative to the median of rt-only; dot: median, bar: p99");
    label(out, work.x, TOP - 26, "ink head", "start", "Best-effort work done");
    label(out, work.x, TOP - 10, "soft small", "start", "requests x time alone, % of the time");
    draw_log_axis(out, &latency, TOP, bottom, times_text);
    line(out, "ref", place_on(&latency, 1), TOP, place_on(&latency, 1), bottom, 1.5);
    draw_share_axis(out, &work, TOP, bottom);
    draw_pairs(out, report, &latency, &work, TOP);
    return end(out, path, error);
}
