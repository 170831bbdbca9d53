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
import sys
from pathlib import Path

REAL_TIME, BEST_EFFORT = "real-time queue", "best-effort queue"


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
                done = e["args"]["end"] == "done"
                self.best_effort.setdefault(track, []).append((*span, done, e["name"], e["args"]["next_kernel"]))
        self.requests = self._requests(events)

    @staticmethod
    def _requests(events: list) -> list:
        """Per request: its kind ("RT" or "BE") and the begin and end of each of its stages."""
        by_id = {}
        for e in events:
            if e["ph"] in "be":
                stages = by_id.setdefault((e["cat"], e["id"]), {})
                stages.setdefault(e["name"], {})[e["ph"]] = e["ts"]
        requests = []
        for stages in by_id.values():
            whole = next((name for name in stages if name[:3] in ("RT ", "BE ")), None)
            if whole and all({"b", "e"} <= set(stage) for stage in stages.values()):
                times = {name: (stage["b"], stage["e"]) for name, stage in stages.items()}
                requests.append({"class": whole[:2], "name": whole[3:], "whole": times.pop(whole), **times})
        return sorted(requests, key=lambda r: r["whole"])


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


def last_before(ends: list, at: float):
    i = bisect.bisect_right(ends, at)
    return ends[i - 1] if i else None


def steps_of(timeline: Timeline, windows: list) -> list:
    steps = []

    def step(name: str, values: list) -> None:
        if values:
            steps.append({"name": name, **percentiles(values)})

    def lengths(spans: list) -> list:
        return [s[1] - s[0] for s in spans]

    modes, real_time = within(timeline.modes, windows), within(timeline.real_time, windows)
    requests = [r for r in timeline.requests if within([r["whole"]], windows)]
    for kind in ("RT", "BE"):
        own = [r for r in requests if r["class"] == kind]
        for stage in ("whole", "queued", "handed to the device", "running"):
            step(f"{kind} request: {stage}", lengths([r[stage] for r in own if stage in r]))
    step("RT launch, first tile to last", lengths(real_time))
    step("BE leaves the device", lengths(within(timeline.leaving, windows)))
    ends = sorted(s[1] for s in real_time)
    last = [(last_before(ends, end), end) for _, end in modes]
    step("RT launch's end to BE's having units again", [end - seen for seen, end in last if seen is not None])
    for track, launches in sorted(timeline.best_effort.items()):
        own = within(launches, windows)
        begins = [launch[0] for launch in own]
        following = [(end, bisect.bisect_left(begins, end)) for _, end in modes]
        back = [begins[i] - end for end, i in following if i < len(begins) and begins[i] - end < 1000]
        step(f"{track}: units again to its next launch", back)
        for name in dict.fromkeys(launch[3] for launch in own):
            some = [launch for launch in own if launch[3] == name]
            step(f"{track}: {name}, launch that ended", lengths([s for s in some if s[2]]))
            step(f"{track}: {name}, launch that was stopped", lengths([s for s in some if not s[2]]))
    return steps


def shares_of(timeline: Timeline, windows: list) -> dict:
    seconds = sum(end - begin for begin, end in windows)
    real_time = united(within(timeline.real_time, windows))
    best_effort = united([s[:2] for launches in timeline.best_effort.values() for s in within(launches, windows)])
    busy = sum(end - begin for begin, end in real_time)
    beside = sum(end - begin for begin, end in best_effort) - overlap(best_effort, real_time)
    return {
        "real-time work runs": busy / seconds,
        "only best-effort launches are on the device": beside / seconds,
        "neither": 1 - (busy + beside) / seconds,
    }


def report(timeline: Timeline, wanted: str) -> list:
    parts = timeline.parts or {"whole trace": [timeline.whole]}
    rows = []
    for name, windows in parts.items():
        seconds = sum(end - begin for begin, end in windows) / 1e6
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, help="FILE.json or FILE.json.gz")
    parser.add_argument("--part", default="", help="only parts with this in their name")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    try:
        rows = report(load(options.trace), options.part)
        if not rows:
            said = f"no part with '{options.part}' in its name" if options.part else "nothing in it"
            print(f"trace_report.py: {options.trace}: {said}", file=sys.stderr)
            return 1
        if options.json:
            options.json.write_text(json.dumps({"parts": rows}, indent=2) + "\n", encoding="utf-8")
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = error if isinstance(error, OSError) else f"not a timeline of reef ({type(error).__name__}: {error})"
        print(f"trace_report.py: {options.trace}: {said}", file=sys.stderr)
        return 1
    print_report(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
