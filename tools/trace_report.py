#!/usr/bin/env python3
"""Where the time goes in a timeline that `reef run` or `reef bench` wrote with --trace.

For each part of it (in a benchmark: each policy of a workload, its rounds taken together): how real-time requests spend
their time, how long best-effort work takes to leave and to come back, how long its launches take, and which share of
the time the device had for whom. Times are the host's, in microseconds.

Examples:
  python3 tools/trace_report.py trace.json
  python3 tools/trace_report.py trace.json.gz --part reset --json report.json
"""

import argparse
import bisect
import gzip
import json
import os
import sys
import zlib
from pathlib import Path

REAL_TIME, BEST_EFFORT = "real-time queue", "best-effort queue"
# A queue that has launched nothing for so long had nothing to launch: that says nothing of how it comes back.
LONG_US = 1000


class Timeline:
    """What a trace says, by track and by request."""

    def __init__(self, events: list):
        tracks = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
        spans = sorted((e for e in events if e["ph"] == "X"), key=lambda e: e["ts"])
        self.whole = (spans[0]["ts"], max(e["ts"] + e["dur"] for e in spans)) if spans else (0.0, 0.0)
        self.parts, self.modes, self.real_time, self.best_effort, self.leaving = {}, [], [], {}, []
        for e in spans:
            track, span = tracks.get(e["tid"], ""), (e["ts"], e["ts"] + e["dur"])
            if track == "program":
                self.parts.setdefault(e["name"], []).append(span)
            elif e["name"] == "real-time mode":
                self.modes.append(span)
            elif track == REAL_TIME:
                self.real_time.append(span)
            elif e["name"] == "leaves the device":
                self.leaving.append(span)
            elif track.startswith(BEST_EFFORT) and "end" in e.get("args", {}):
                self.best_effort.setdefault(track, []).append((*span, e["args"]["end"] == "done", e["name"]))
        self.requests = self._requests(events)

    @staticmethod
    def _requests(events: list) -> list:
        """Per request: its class ("RT" or "BE") and the begin and end of each of its stages."""
        by_id = {}
        for e in events:
            if e["ph"] in ("b", "e"):
                stages = by_id.setdefault((e["cat"], e["id"]), {})
                stages.setdefault(e["name"], {})[e["ph"]] = e["ts"]
        requests = []
        for stages in by_id.values():
            whole = next((name for name in stages if name[:3] in ("RT ", "BE ")), None)
            if whole and all({"b", "e"} <= set(stage) for stage in stages.values()):
                times = {name: (stage["b"], stage["e"]) for name, stage in stages.items()}
                requests.append({"class": whole[:2], "whole": times.pop(whole), **times})
        return requests


def within(spans: list, windows: list) -> list:
    return [s for s in spans if any(begin <= s[0] and s[1] <= end for begin, end in windows)]


def overlap(a: list, b: list) -> float:
    """How long both have a span, for two lists of spans that are sorted and do not overlap themselves."""
    total, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        total += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return total


def united(spans: list) -> list:
    """The same time without overlaps."""
    result = []
    for begin, end in sorted(spans):
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((begin, end))
    return result


def percentiles(values: list) -> dict:
    values, n = sorted(values), len(values)
    row = {f"p{p}_us": round(values[min(n - 1, n * p // 100)], 2) for p in (10, 50, 90, 99)}
    return {"n": n, "mean_us": round(sum(values) / n, 2), **row}


def lengths(spans: list) -> list:
    return [s[1] - s[0] for s in spans]


def since_last(ends: list, times: list) -> list:
    """From the last of `ends` before each of `times` to it."""
    before = [(bisect.bisect_right(ends, at), at) for at in times]
    return [at - ends[i - 1] for i, at in before if i]


def until_next(begins: list, times: list) -> list:
    """From each of `times` to the first of `begins` after it, unless that is long after."""
    after = [(bisect.bisect_left(begins, at), at) for at in times]
    return [begins[i] - at for i, at in after if i < len(begins) and begins[i] - at < LONG_US]


def steps_of(timeline: Timeline, windows: list) -> list:
    steps = []

    def step(name: str, values: list) -> None:
        if values:
            steps.append({"name": name, **percentiles(values)})

    freed = [end for _, end in within(timeline.modes, windows)]
    real_time = within(timeline.real_time, windows)
    requests = [r for r in timeline.requests if within([r["whole"]], windows)]
    for kind in ("RT", "BE"):
        own = [r for r in requests if r["class"] == kind]
        for stage in ("whole", "queued", "handed to the device", "running"):
            step(f"{kind} request: {stage}", lengths([r[stage] for r in own if stage in r]))
    step("RT launch, first tile to last", lengths(real_time))
    step("BE leaves the device", lengths(within(timeline.leaving, windows)))
    step("RT launch's end to BE's having units again", since_last(sorted(end for _, end in real_time), freed))
    for track, launches in sorted(timeline.best_effort.items()):
        own = within(launches, windows)
        step(f"{track}: units again to its next launch", until_next([launch[0] for launch in own], freed))
        for name in dict.fromkeys(launch[3] for launch in own):
            for done, how in ((True, "ended"), (False, "was stopped")):
                some = [launch for launch in own if launch[2:] == (done, name)]
                step(f"{track}: {name}, launch that {how}", lengths(some))
    return steps


def shares_of(timeline: Timeline, windows: list) -> dict:
    whole = sum(lengths(windows))
    real_time = united(within(timeline.real_time, windows))
    best_effort = united([s[:2] for launches in timeline.best_effort.values() for s in within(launches, windows)])
    busy = sum(lengths(real_time))
    beside = sum(lengths(best_effort)) - overlap(best_effort, real_time)
    return {
        "real-time work runs": busy / whole,
        "only best-effort launches are on the device": beside / whole,
        "neither": 1 - (busy + beside) / whole,
    }


def report(timeline: Timeline, wanted: str) -> list:
    parts = timeline.parts or {"whole trace": [timeline.whole]}
    rows = []
    for name, windows in parts.items():
        seconds = sum(lengths(windows)) / 1e6
        if wanted in name and seconds > 0:
            shares = {k: round(v, 4) for k, v in shares_of(timeline, windows).items()}
            row = {"part": name, "seconds": round(seconds, 4), "shares": shares, "steps": steps_of(timeline, windows)}
            rows.append(row)
    return rows


def print_report(rows: list) -> None:
    for row in rows:
        print(f"\n{row['part']}, {row['seconds']:.2f} s")
        for name, share in row["shares"].items():
            print(f"  {100 * share:5.1f}%  {name}")
        width = max([len(step["name"]) for step in row["steps"]] + [4])
        print(f"\n  {'us':{width}}  {'n':>6} {'mean':>9} {'p10':>9} {'p50':>9} {'p90':>9} {'p99':>9}")
        for s in row["steps"]:
            figures = " ".join(f"{s[k]:9.1f}" for k in ("mean_us", "p10_us", "p50_us", "p90_us", "p99_us"))
            print(f"  {s['name']:{width}}  {s['n']:6} {figures}")


def load(path: Path) -> Timeline:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as file:
        return Timeline(json.load(file)["traceEvents"])


def fail(said: str) -> int:
    print(f"trace_report.py: {said}", file=sys.stderr)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, help="FILE.json or FILE.json.gz")
    parser.add_argument("--part", default="", help="only parts with this in their name")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    try:
        rows = report(load(options.trace), options.part)
    except OSError as error:
        return fail(f"{options.trace}: {error.strerror or error}")
    except (EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        return fail(f"{options.trace}: not a timeline of reef ({type(error).__name__}: {error})")
    if not rows:
        return fail(
            f"{options.trace}: " + (f"no part with '{options.part}' in its name" if options.part else "nothing in it")
        )
    try:
        if options.json:
            options.json.write_text(json.dumps({"parts": rows}, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        return fail(f"--json: {options.json}: {error.strerror}")
    try:
        print_report(rows)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
