#!/usr/bin/env python3
"""What serving adds to the engine's own latency: the same small model in process, over HTTP with binary tensors, over the ring.

The three are measured in turns within one run, because a machine's speed changes from minute to minute. `engine` is what the
engine took inside the server, as it says with each answer; `added` is the rest of what the client waited.

Examples:
  tools/bench_serve.py                                     # writes docs/results/cpu/serve.json
  tools/bench_serve.py --rounds 3 --seconds 2 --json -     # to stdout
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests/serve")]
from harness import permutation_model, serving  # noqa: E402

SPEC = {"rows": 16, "width": 32, "layers": 3}


def bench(reef: Path, *arguments: str) -> Dict:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([str(reef), "bench", *arguments, "--json", file.name], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.loads(Path(file.name).read_text())


def in_process(reef: Path, model: Path, runs: int) -> Dict:
    out = subprocess.run([str(reef), "run", str(model), "--random", "1", "--repeat", str(runs), "--json"], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)["latency_us"]


def middle(values: List[float]) -> float:
    values = sorted(values)
    return round((values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=Path, default=ROOT / "build/release/reef")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2, help="per way and round (default: %(default)s)")
    parser.add_argument("--json", default=str(ROOT / "docs/results/cpu/serve.json"), help="file, or - (default: %(default)s)")
    arguments = parser.parse_args()
    rounds: List[Dict] = []
    with tempfile.TemporaryDirectory(prefix="reef-bench-serve-") as name:
        models = Path(name) / "models"
        permutation_model(models / "small.onnx", SPEC["rows"], SPEC["width"], SPEC["layers"])
        (models / "small.json").write_text('{"class": "rt"}')
        ring = str(Path(name) / "ring.sock")
        with serving(arguments.reef, models, "--ring", ring) as server:
            common = ["--model", "small", "--class", "rt", "--seconds", f"{arguments.seconds:g}", "--warmup", "0.3"]
            for i in range(arguments.rounds):
                row = {
                    "load": os.getloadavg()[0],
                    "process": in_process(arguments.reef, models / "small.onnx", 20000),
                    "http": bench(arguments.reef, "--url", f"http://{server.address}", *common),
                    "ring": bench(arguments.reef, "--ring", ring, *common),
                    "http_500": bench(arguments.reef, "--url", f"http://{server.address}", "--rate", "500", *common),
                    "ring_500": bench(arguments.reef, "--ring", ring, "--rate", "500", *common),
                }
                rounds.append(row)
                print(
                    f"bench_serve.py: round {i + 1} of {arguments.rounds}: "
                    + ", ".join(f"{way} +{row[way]['added_us']['p50']:.1f} us" for way in ("http", "ring", "http_500", "ring_500")),
                    file=sys.stderr,
                )
    rows = [{"way": "in process", "p50_us": middle([r["process"]["p50"] for r in rounds]), "p99_us": middle([r["process"]["p99"] for r in rounds])}]
    for way, title in (("http", "HTTP, closed loop"), ("ring", "ring, closed loop"), ("http_500", "HTTP, 500 per second"), ("ring_500", "ring, 500 per second")):
        rows.append(
            {
                "way": title,
                **{f"{q}_us": middle([r[way]["latency_us"][q] for r in rounds]) for q in ("p50", "p99")},
                **{f"engine_{q}_us": middle([r[way]["engine_us"][q] for r in rounds]) for q in ("p50", "p99")},
                **{f"added_{q}_us": middle([r[way]["added_us"][q] for r in rounds]) for q in ("p50", "p99")},
                "added_p50_us_rounds": [r[way]["added_us"]["p50"] for r in rounds],
                "per_s": middle([r[way]["per_s"] for r in rounds]),
                "mismatches": sum(r[way]["mismatches"] for r in rounds),
            }
        )
    report = {
        "what": "median over rounds; the model is 3 products of (16,32) by (32,32)",
        "processors": os.cpu_count(), "rounds": arguments.rounds, "seconds": arguments.seconds,
        "load_average": [round(r["load"], 2) for r in rounds], "rows": rows,
    }  # fmt: skip
    text = json.dumps(report, indent=1) + "\n"
    if arguments.json == "-":
        print(text, end="")
    else:
        Path(arguments.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
