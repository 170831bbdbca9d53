#!/usr/bin/env python3
"""The demo: reads a photographed page with reef, then serves the recogniser as real-time work beside the detector.

1. Fetches the networks and the picture (fetch_ocr.py), once.
2. Reads the page: every network runs in `reef run`.
3. `reef bench` serves both under each policy: the recogniser at a fixed rate (RT), the detector without pause (BE).
   It compares each answer with the undisturbed one, bit for bit.
4. `reef serve` serves the recogniser; curl and tritonclient ask it and must get the engine's own answer.
5. Prints the text, a table and what was gained; writes report.json and chart.svg. Fails if one answer differed.

Examples:
  python3 tools/demo/demo.py --reef build/release/reef
  python3 tools/demo/demo.py --seconds 3 --policy rt-only,seq,reset
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    import numpy as np
    import onnx
    from reeflib import ROOT, Arrays, Reef, ToolError, fail, output_names
except ImportError as missing:
    sys.exit(f"demo.py: {missing.name} is missing: run tools/venv.sh, then use .venv/bin/python")
import fetch_ocr
import ocr
import serve_step

POLICIES = "rt-only,seq,streams,priority,wait,reset,lease,pad"
PREEMPTIVE = ("reset", "lease", "pad")
COLUMNS = ("rt_p50_us", "rt_p99_us", "rt_alone_p50_us", "be_per_s", "preemptions")


class ReefEngine:
    """Runs "det" and "rec" with the reef command; what ocr.read wants as its engine."""

    def __init__(self, reef: Reef, models: Path, scratch: Path) -> None:
        self.reef, self.models, self.scratch = reef, models, scratch
        self.outputs = {name: output_names(onnx.load(models / f"{name}.onnx")) for name in ("det", "rec")}
        self.calls = 0

    def __call__(self, model: str, feeds: Arrays) -> List[np.ndarray]:
        self.calls += 1
        if sys.stderr.isatty():
            print(f"\r\033[Kreading: network run {self.calls}", end="", file=sys.stderr, flush=True)
        return self.reef.run(
            self.models / f"{model}.onnx", feeds, self.outputs[model], self.scratch / model, shapes=True
        )


def write_workload(folder: Path, reading: ocr.Reading, rate: float) -> Path:
    """The two clients, on inputs from the page itself. Paths are relative to the workload file."""
    feeds = {"line.npy": reading.recogniser_feeds[0], "page.npy": reading.detector_feed}
    for name, array in feeds.items():
        np.save(folder / name, array)
    workload = {
        "name": "ocr",
        "clients": [
            {
                "name": "recogniser",
                "model": "models/rec.onnx",
                "class": "rt",
                "arrival": {"kind": "uniform", "rate": rate},
                "shapes": {"x": list(feeds["line.npy"].shape)},
                "inputs": {"x": "line.npy"},
            },
            {
                "name": "detector",
                "model": "models/det.onnx",
                "class": "be",
                "arrival": {"kind": "closed"},
                "shapes": {"x": list(feeds["page.npy"].shape)},
                "inputs": {"x": "page.npy"},
            },
        ],
    }
    file = folder / "ocr.json"
    file.write_text(json.dumps(workload, indent=1) + "\n")
    return file


def bench(reef: Reef, workload: Path, policies: str, seconds: float, folder: Path, extra: List[str]) -> List[Dict]:
    """The rows of `reef bench`, one per policy."""
    result = folder / "bench.json"
    result.unlink(missing_ok=True)
    reef.call(
        [
            "bench",
            str(workload),
            "--policy",
            policies,
            "--seconds",
            f"{seconds:g}",
            "--json",
            str(result),
            "--chart",
            str(folder / "chart.svg"),
            *extra,
        ],
        quiet=False,
    )
    try:
        rows = json.loads(result.read_text())["rows"]
        for row in rows:
            for column in ("policy", "mismatches", *COLUMNS):
                if column not in row:
                    raise ToolError(f"{result}: policy {row.get('policy')} has no {column}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolError(f"{result}: not a result of reef bench ({error})") from None
    if {row["policy"] for row in rows} != {"rt-only", *policies.split(",")}:  # bench always measures the first
        raise ToolError(f"{result}: not one row per policy of {policies}")
    return rows


def table(rows: List[Dict]) -> str:
    def ms(value: "float | None") -> str:
        return "-" if value is None else f"{value / 1e3:.1f}"

    lines = [
        f"{'policy':10} {'RT p50 ms':>10} {'RT p99 ms':>10} {'alone p50':>10} {'p50/alone':>10} {'BE per s':>9} {'preemptions':>12}"
    ]
    for row in rows:
        alone = row["rt_alone_p50_us"]
        ratio = f"{row['rt_p50_us'] / alone:.2f}" if row["rt_p50_us"] and alone else "-"
        lines.append(
            f"{row['policy']:10} {ms(row['rt_p50_us']):>10} {ms(row['rt_p99_us']):>10} {ms(alone):>10} {ratio:>10} {row['be_per_s'] or 0:9.1f} {row['preemptions'] or 0:12.0f}"
        )
    return "\n".join(lines)


def gained(rows: List[Dict]) -> str:
    """One sentence: the best preemptive policy against the best that serves both without preempting running work."""
    serving = [row for row in rows if row["policy"] != "rt-only" and row["rt_p99_us"] and row["be_per_s"]]
    ours = [row for row in serving if row["policy"] in PREEMPTIVE]
    others = [row for row in serving if row["policy"] not in PREEMPTIVE]
    if not ours:
        return "No preemptive policy served both kinds of work in this run."
    best = min(ours, key=lambda row: row["rt_p99_us"])
    sentence = (
        f"Under {best['policy']}, a line of text is recognised in {best['rt_p50_us'] / 1e3:.1f} ms (p99 {best['rt_p99_us'] / 1e3:.1f} ms; alone on the device "
        f"{best['rt_alone_p50_us'] / 1e3:.1f} ms) while the detector still gets through {best['be_per_s']:.1f} pages a second"
    )
    if others:
        rival = min(others, key=lambda row: row["rt_p99_us"])
        sentence += f"; the best policy that does not interrupt kernels, {rival['policy']}, needs {rival['rt_p99_us'] / 1e3:.1f} ms at p99, {rival['rt_p99_us'] / best['rt_p99_us']:.1f} times as long"
    return sentence + "."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--reef", type=Path, default=ROOT / "build/release/reef", help="the program (default: build/release/reef)"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/demo", help="folder for everything (default: build/demo)"
    )
    parser.add_argument("--policy", default=POLICIES, help="policies to compare (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=8, help="per policy (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10, help="lines to recognise per second (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="read this instead of the page that comes with the demo")
    parser.add_argument(
        "--args", default="", metavar="TEXT", help='more arguments for reef, such as "--device cpu --units 2"'
    )
    arguments = parser.parse_args()
    out: Path = arguments.out
    extra = arguments.args.split()
    try:
        reef = Reef(arguments.reef, extra, timeout_s=600)
        fetch_ocr.fetch(out)
        picture = ocr.load_picture(arguments.picture or out / "page.png")
        start = time.monotonic()
        engine = ReefEngine(reef, out / "models", out / "runs")
        reading = ocr.read(picture, engine, ocr.load_characters(out / fetch_ocr.CHARACTERS))
        if sys.stderr.isatty():
            print(file=sys.stderr)
        if not reading.recogniser_feeds:
            raise ToolError("the detector found no text in the picture")
        print(
            f"{len(reading.lines)} lines read with {engine.calls} runs of reef in {time.monotonic() - start:.1f} s:\n"
        )
        print("\n".join(f"    {line}" for line in reading.lines), end="\n\n", flush=True)
        rows = bench(
            reef, write_workload(out, reading, arguments.rate), arguments.policy, arguments.seconds, out, extra
        )
        print("\nThe recogniser as a server:", flush=True)
        feed = reading.recogniser_feeds[0]
        expected = engine("rec", {"x": feed})[0]
        serve_step.ask(
            reef.binary.resolve(), out / "models" / "rec.onnx", feed, expected, engine.outputs["rec"][0], out, extra
        )
        print()
    except ToolError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror or error}")

    identical = all(row["mismatches"] == 0 for row in rows)
    report = {
        "text": reading.text,
        "identical": identical,
        "rows": [{key: row[key] for key in ("policy", *COLUMNS)} for row in rows],
    }
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(rows))
    print(f"\n{gained(rows)}")
    print(f"{os.path.relpath(out / 'report.json')}, {os.path.relpath(out / 'chart.svg')}")
    if not identical:
        wrong = ", ".join(f"{row['policy']}: {row['mismatches']}" for row in rows if row["mismatches"])
        fail(f"answers differed from the undisturbed ones ({wrong})")
    print("Every answer under every policy was bit-identical to the undisturbed one.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
