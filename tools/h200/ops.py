#!/usr/bin/env python3
"""Runs the operator cases of tests/oracle/ops.py on a GPU and compares with ONNX Runtime's answers, in a few processes.

Cases are grouped into `reef run --batch` lists, because opening a GPU takes longer than a case. Tolerances, of the
output's largest value: fp32 1e-4, tf32 1e-2, fp16 2e-2; integers and booleans must be equal.

Example:
  python3 tools/h200/ops.py --reef ./reef --cases oracle/ops --precision fp16 --jobs 4
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np  # noqa: E402
from reeflib import difference, output_file  # noqa: E402

TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2}


def run_batch(reef: Path, cases: list[Path], scratch: Path, number: int, extra: list[str]) -> list[str]:
    """Complaints."""
    listing = scratch / f"batch_{number}.txt"
    listing.write_text("".join(f"{case / 'model.onnx'} {case} {scratch / case.name}\n" for case in cases))
    done = subprocess.run(
        [str(reef), "run", "--batch", str(listing), "--json", *extra], capture_output=True, text=True, errors="replace"
    )
    said = {}
    for line in done.stdout.splitlines():
        try:
            answer = json.loads(line)
            said[answer["model"]] = answer.get("message") or ""
        except (ValueError, KeyError):
            continue
    complaints = []
    for case in cases:
        facts = json.loads((case / "case.json").read_text())
        message = said.get(str(case / "model.onnx"), f"no answer: {done.stderr.strip()[-200:]}")
        if facts["refused"]:
            if facts["refused"] not in message:
                complaints.append(f"{case.name}: expected {facts['refused']!r}, got {message!r}")
            continue
        if message:
            complaints.append(f"{case.name}: {message}")
            continue
        for index, name in enumerate(facts["outputs"]):
            file = output_file(scratch / case.name, name)
            if not file.exists():
                complaints.append(f"{case.name}: no {file.name}")
                continue
            _, complaint = difference(np.load(case / f"out_{index}.npy"), np.load(file), run_batch.tolerance)
            if complaint:
                complaints.append(f"{case.name}: {name}: {complaint}")
    return complaints


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", metavar="PART", help="only cases whose name contains PART")
    parser.add_argument("--reef", type=Path, default=Path("./reef"))
    parser.add_argument("--cases", type=Path, default=Path("oracle/ops"))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precision", default="fp32", choices=TOLERANCE)
    parser.add_argument("--jobs", type=int, default=4)
    arguments = parser.parse_args()
    run_batch.tolerance = TOLERANCE[arguments.precision]
    cases = sorted(path.parent.resolve() for path in arguments.cases.glob("*/case.json"))
    cases = [case for case in cases if not arguments.only or any(part in case.name for part in arguments.only)]
    extra = ["--device", arguments.device, "--precision", arguments.precision]
    jobs = max(1, arguments.jobs)
    with tempfile.TemporaryDirectory(prefix="reef-ops-") as folder, ThreadPoolExecutor(jobs) as pool:
        work = [
            pool.submit(run_batch, arguments.reef.resolve(), cases[i::jobs], Path(folder), i, extra)
            for i in range(jobs)
        ]
        complaints = [complaint for item in work for complaint in item.result()]
    for complaint in sorted(complaints):
        print(f"FAILED {complaint}")
    failed = len({complaint.split(":")[0] for complaint in complaints})
    print(f"{arguments.precision}: {len(cases) - failed} passed, {failed} failed")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
