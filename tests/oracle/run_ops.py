#!/usr/bin/env python3
"""Runs every case of tests/oracle/ops.py through `reef run` and compares with ONNX Runtime's answers.

Floats may differ by 1e-4 of the output's largest value; integers and booleans must be equal. The last line counts.

Examples:
  python3 tests/oracle/run_ops.py --reef build/release/reef
  python3 tests/oracle/run_ops.py --reef build/asan/reef conv_ pool --keep
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
try:
    import numpy as np
    from reeflib import ROOT, Progress, Reef, ToolError, difference, fail
except ImportError as missing:
    sys.exit(f"run_ops.py: {missing.name} is missing: run tools/venv.sh, then use .venv/bin/python")


def run_case(reef: Reef, case: Path, scratch: Path) -> Tuple[float, str]:
    """(error, complaint) of one case."""
    facts = json.loads((case / "case.json").read_text())
    feeds = {name: np.load(case / f"in_{number}.npy") for number, name in enumerate(facts["inputs"])}
    try:
        answers = reef.run(case / "model.onnx", feeds, facts["outputs"], scratch / case.name)
    except ToolError as error:
        if facts["refused"] and facts["refused"] in str(error):
            return 0.0, ""
        return float("inf"), str(error)
    if facts["refused"]:
        return float("inf"), f"accepted, where an error with {facts['refused']!r} was expected"
    worst = 0.0
    for number, (name, got) in enumerate(zip(facts["outputs"], answers)):
        error, complaint = difference(np.load(case / f"out_{number}.npy"), got)
        if complaint:
            return error, f"{name}: {complaint}"
        worst = max(worst, error)
    return worst, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", metavar="PART", help="only cases whose name contains PART")
    parser.add_argument(
        "--reef",
        type=Path,
        default=ROOT / "build/release/reef",
        help="the program to test (default: build/release/reef)",
    )
    parser.add_argument(
        "--cases",
        type=Path,
        default=ROOT / "build/oracle/ops",
        help="folder of cases, made if missing (default: build/oracle/ops)",
    )
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="S", help="seconds per case (default: %(default)s)"
    )
    parser.add_argument(
        "--args", default="", metavar="TEXT", help='more arguments for reef run, such as "--device cpu --units 1"'
    )
    parser.add_argument("--keep", action="store_true", help="keep reef's outputs and say where")
    parser.add_argument("--all-errors", action="store_true", help="print the error of cases that pass, too")
    arguments = parser.parse_args()

    written = [path.stat().st_mtime for path in arguments.cases.glob("*/case.json")]
    if not written or min(written) < Path(__file__).with_name("ops.py").stat().st_mtime:
        if subprocess.run(
            [sys.executable, str(Path(__file__).with_name("ops.py")), "--out", str(arguments.cases)]
        ).returncode:
            fail("ops.py could not write the cases")
    cases = sorted(path.parent for path in arguments.cases.glob("*/case.json"))
    cases = [case for case in cases if not arguments.only or any(part in case.name for part in arguments.only)]
    if not cases:
        parser.error(f"no case has {' or '.join(arguments.only)} in its name")
    try:
        reef = Reef(arguments.reef, arguments.args.split(), arguments.timeout)
    except ToolError as error:
        fail(str(error))

    scratch = Path(tempfile.mkdtemp(prefix="reef-ops-"))
    progress = Progress("ops", len(cases))
    failures: List[str] = []
    worst, worst_case = 0.0, ""
    try:
        with ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
            for case, (error, complaint) in zip(cases, pool.map(lambda case: run_case(reef, case, scratch), cases)):
                progress.step(case.name)
                if complaint:
                    failures.append(case.name)
                    print(f"FAILED {case.name}: {complaint}", flush=True)
                else:
                    if arguments.all_errors:
                        print(f"ok     {case.name}: {error:.1e}")
                    if error > worst:
                        worst, worst_case = error, case.name
    finally:
        if arguments.keep:
            print(f"outputs of reef: {scratch}")
        else:
            shutil.rmtree(scratch, ignore_errors=True)
    if worst_case:
        print(f"largest error among those that passed: {worst:.1e} ({worst_case})")
    print(f"{len(cases) - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
