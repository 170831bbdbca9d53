#!/usr/bin/env python3
"""Solo latency of reef and ONNX Runtime on the same models with the same number of threads, taken in turns in one run.

Each round measures one, then the other, so that a machine that slows down slows both. Reported is the median over the
rounds of each round's p50; a ratio above 1 means that reef is slower.

Examples:
  python3 tools/bench_cpu.py --reef build/release/reef --json build/bench-cpu.json
  python3 tools/bench_cpu.py --threads 1 --rounds 5 vgg19 ocr_rec
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
try:
    import onnx
    import onnxruntime
    from reeflib import (
        ROOT,
        Arrays,
        Reef,
        Shapes,
        ToolError,
        fail,
        fixed_shapes,
        is_dynamic,
        onnxruntime_session,
        output_names,
        random_feeds,
    )
except ImportError as missing:
    sys.exit(f"bench_cpu.py: {missing.name} is missing: run tools/venv.sh, then use .venv/bin/python")

FIVE = ("resnet152", "densenet201", "vgg19", "inception_v3", "distilbert")
DEFAULT = (*FIVE, "ocr_rec")


class Subject(NamedTuple):
    path: Path
    shapes: Shapes  # of every input
    given: Shapes  # those that reef has to be told: the dynamic ones
    feeds: Arrays
    outputs: List[str]


def subject(name: str, models: Path, ocr: Path) -> Subject:
    path, wanted = models / f"{name}.onnx", None
    if name.startswith("ocr_"):
        path = ocr / f"{name[4:]}.onnx"
        wanted = {"x": {"ocr_rec": (1, 3, 48, 320), "ocr_cls": (1, 3, 48, 192)}.get(name, (1, 3, 320, 480))}
    if not path.exists():
        raise ToolError(f"no {path}: run {'tools/demo/fetch_ocr.py' if wanted else 'tools/models/make_models.py'}")
    proto = onnx.load(path)
    shapes = fixed_shapes(proto, wanted)
    return Subject(
        path, shapes, shapes if is_dynamic(proto) else {}, random_feeds(proto, shapes, 1), output_names(proto)
    )


def onnxruntime_us(session, target: Subject, repeat: int) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter_ns()
        session.run(target.outputs, target.feeds)
        times.append((time.perf_counter_ns() - start) / 1e3)
    return statistics.median(times)


def measure(reef: Reef, target: Subject, threads: int, rounds: int, budget_s: float) -> Dict[str, float]:
    session = onnxruntime_session(str(target.path), threads)
    session.run(target.outputs, target.feeds)
    once = onnxruntime_us(session, target, 2)
    repeat = max(3, min(200, int(budget_s * 1e6 / once)))
    ours, theirs = [], []
    for _ in range(rounds):
        time.sleep(0.05)  # ONNX Runtime's threads spin a little after a run
        ours.append(reef.latency(target.path, target.given, repeat)["p50"])
        theirs.append(onnxruntime_us(session, target, repeat))
    reef_us, ort_us = statistics.median(ours), statistics.median(theirs)
    return {
        "reef_us": reef_us,
        "onnxruntime_us": ort_us,
        "ratio": reef_us / ort_us,
        "reef_min_us": min(ours),
        "onnxruntime_min_us": min(theirs),
        "rounds": rounds,
        "repeat": repeat,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"models (default: {' '.join(DEFAULT)})")
    parser.add_argument(
        "--reef",
        type=Path,
        default=ROOT / "build/release/reef",
        help="the program to measure (default: build/release/reef)",
    )
    parser.add_argument(
        "--models", type=Path, default=ROOT / "build/models", help="folder of generated models (default: build/models)"
    )
    parser.add_argument(
        "--ocr", type=Path, default=ROOT / "build/demo/models", help="folder of OCR models (default: build/demo/models)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="threads, and compute units of reef (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="about this long per turn (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--limit", type=float, help="fail if a ratio is above this")
    arguments = parser.parse_args()
    try:
        reef = Reef(arguments.reef, ["--units", str(arguments.threads)], timeout_s=600)
    except ToolError as error:
        fail(str(error))

    rows, failed = [], 0
    print(
        f"{'model':24} {'reef ms':>10} {'onnxruntime ms':>15} {'ratio':>7}   ({arguments.threads} threads, median of {arguments.rounds} rounds)"
    )
    for name in arguments.names or DEFAULT:
        print(f"{name:24} ", end="", flush=True)
        try:
            row = measure(
                reef,
                subject(name, arguments.models, arguments.ocr),
                arguments.threads,
                arguments.rounds,
                arguments.seconds,
            )
        except ToolError as error:
            failed += 1
            print(f"FAILED {error}", flush=True)
            continue
        late = arguments.limit is not None and row["ratio"] > arguments.limit
        failed += late
        rows.append({"model": name, **row})
        print(
            f"{row['reef_us'] / 1e3:10.2f} {row['onnxruntime_us'] / 1e3:15.2f} {row['ratio']:7.2f}{'   above the limit' if late else ''}",
            flush=True,
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(
            json.dumps(
                {
                    "threads": arguments.threads,
                    "machine": platform.machine(),
                    "onnxruntime": onnxruntime.__version__,
                    "rows": rows,
                },
                indent=1,
            )
            + "\n"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
