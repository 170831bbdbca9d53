#!/usr/bin/env python3
"""The server under load: real-time requests beside saturating best-effort ones, every answer checked, memory watched.

A phase of real-time connections alone, then the same beside best-effort ones on all other connections, in turns. Every
connection asks with inputs of its own that change with every request, and the answer is a known function of the input
(columns rotated), so an answer that is lost, doubled or another's is found. The clients are one C program,
build/release/tests/load, because Python would be what is measured.

Examples:
  tests/serve/load.py --seconds 600 --json docs/results/cpu/serve_load.json    # the long one
  tests/serve/load.py --seconds 20 --check                                     # what `make test` runs; no timing is judged
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import ROOT, files_of, memory_of, permutation_model, serving

RT = {"name": "rt", "rows": 4, "width": 64, "layers": 6}
QUIET = 0.05  # processors that other programs may keep busy in a round that counts as quiet
BE = {"name": "be", "rows": 64, "width": 256, "layers": 40}


def client(program: Path, port: int, spec: Dict, connections: int, rate: float, seconds: float, priority: int) -> subprocess.Popen:
    shift = spec["layers"] % spec["width"]
    return subprocess.Popen(
        [str(program), str(port), spec["name"], str(spec["rows"]), str(spec["width"]), str(shift), str(connections), f"{rate:g}",
         f"{seconds:g}", str(priority)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def result(process: subprocess.Popen) -> Dict:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"load.py: the client ended with {process.returncode}: {out}")
    return json.loads(out)


def busy_ticks() -> int:
    """Processor time of everything on this machine."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return sum(fields[:3]) + sum(fields[5:8])


def ticks_of(pid: int) -> int:
    return sum(int(value) for value in Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[11:13])


def phase(program: Path, server, arguments, seconds: float, beside: bool) -> Dict:
    before, own, children, begun = busy_ticks(), ticks_of(server.worker()), os.times(), time.monotonic()
    rt = client(program, server.port, RT, arguments.rt_connections, arguments.rate, seconds, 1)
    be = None
    if beside:
        be = client(program, server.port, BE, arguments.connections - arguments.rt_connections, 0, seconds, 2)
    row = {"beside": beside, "load": os.getloadavg()[0], "rt": result(rt), "be": result(be) if be else None}
    hertz, now = os.sysconf("SC_CLK_TCK"), os.times()
    ours = (ticks_of(server.worker()) - own) / hertz + sum(now[:4]) - sum(children[:4])
    row["others"] = max(0.0, round(((busy_ticks() - before) / hertz - ours) / (time.monotonic() - begun), 3))
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=Path, default=ROOT / "build/release/reef")
    parser.add_argument("--client", type=Path, default=ROOT / "build/release/tests/load")
    parser.add_argument("--seconds", type=float, default=600, help="of both kinds of phases together (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=0, help="turns of alone and beside (default: one per 30 s, at least 2)")
    parser.add_argument("--connections", type=int, default=64, help="in all (default: %(default)s)")
    parser.add_argument("--rt-connections", type=int, default=8, help="of them real-time (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=100, help="real-time requests per second (default: %(default)s)")
    parser.add_argument("--units", default="2", help="compute units (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--check", action="store_true", help="judge answers and leaks only, not times or memory")
    arguments = parser.parse_args()
    rounds = arguments.rounds or max(2, int(arguments.seconds / 30))
    rows: List[Dict] = []
    memory: List[int] = []
    with tempfile.TemporaryDirectory(prefix="reef-load-") as name:
        models = Path(name)
        for spec in (RT, BE):
            permutation_model(models / f"{spec['name']}.onnx", spec["rows"], spec["width"], spec["layers"])
        with serving(arguments.reef, models, "--units", arguments.units) as server:
            worker = server.worker()
            phase(arguments.client, server, arguments, 1, True)  # everything is allocated once
            for i in range(rounds):
                for beside in (False, True) if i % 2 == 0 else (True, False):
                    rows.append(phase(arguments.client, server, arguments, arguments.seconds / rounds / 2, beside))
                memory.append(memory_of(worker))
                if sys.stderr.isatty() or i % 5 == 4:
                    print(f"load.py: round {i + 1} of {rounds}, {memory[-1] >> 20} MiB", file=sys.stderr, flush=True)
            time.sleep(0.5)
            left = [f for f in files_of(worker) if f.startswith("socket:")]
            same = server.worker() == worker
            cut_off = server.text().count("event=cut_off")

    def total(key: str) -> int:
        return sum(row[c][key] for row in rows for c in ("rt", "be") if row[c])

    def middle(values: List[float]) -> float:
        values = sorted(values)
        return round((values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2, 1)

    def of_rt(key: str, beside: bool) -> float:
        return middle([row["rt"][key] for row in rows if row["beside"] == beside])

    report = {
        "what": "medians over rounds. rt: from the due time; late: how late the client sent; engine: as the server says with each answer; "
        "added: the rest, HTTP and waiting for a processor. load_average: of all programs of the machine, at the beginning of each phase; others: processors that other programs kept busy during it; "
        f"quiet: the rounds in which that was below {QUIET} in both phases",
        "processors": os.cpu_count(), "seconds": arguments.seconds, "rounds": rounds, "connections": arguments.connections,
        "rt_connections": arguments.rt_connections, "rt_rate": arguments.rate, "units": int(arguments.units),
        "answers": total("ok"), "wrong": total("wrong"), "lost": total("lost"), "refused": total("refused"),
    }  # fmt: skip
    for kind, name in (("", "rt"), ("late_", "late"), ("engine_", "engine"), ("added_", "added")):
        for q in ("p50", "p99"):
            report[f"{name}_{q}_us_alone"] = of_rt(f"{kind}{q}_us", False)
            report[f"{name}_{q}_us_beside"] = of_rt(f"{kind}{q}_us", True)
        report[f"{name}_p99_ratio"] = round(report[f"{name}_p99_us_beside"] / max(report[f"{name}_p99_us_alone"], 0.1), 4)
    pairs = [(b, a) if b["beside"] else (a, b) for a, b in zip(rows[::2], rows[1::2])]  # beside, alone
    quiet = [pair for pair in pairs if max(row["others"] for row in pair) < QUIET]
    if quiet:
        sides = {when: {key: middle([pair[i]["rt"][key] for pair in quiet]) for key in ("p50_us", "p99_us")} for i, when in ((0, "beside"), (1, "alone"))}
        report["quiet"] = {"rounds": len(quiet), **sides, "rt_p99_ratio": round(sides["beside"]["p99_us"] / sides["alone"]["p99_us"], 4)}
    report.update({
        "rt_p99_ratio_rounds": [round(p["rt"]["p99_us"] / q["rt"]["p99_us"], 3) for p, q in pairs],
        "others": [row["others"] for row in rows],
        "be_per_s": round(sum(r["be"]["ok"] for r in rows if r["beside"]) / (arguments.seconds / 2), 1),
        "load_average": [round(row["load"], 2) for row in rows],
        "memory_mib": [round(m / 2**20, 2) for m in memory], "rows": rows,
    })  # fmt: skip
    print(json.dumps({key: value for key, value in report.items() if key != "rows"}, indent=1))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    problems = []
    if report["wrong"] or report["lost"] or not report["answers"]:
        problems.append(f"{report['wrong']} answers were wrong and {report['lost']} were lost")
    if any(row["rt"]["refused"] for row in rows):
        problems.append("real-time requests were refused")
    if cut_off:
        problems.append(f"{cut_off} connections were cut off, of clients that do not dawdle")
    if not same:
        problems.append("the worker was replaced")
    if len(left) > 12:
        problems.append(f"{len(left)} sockets are open after the clients have gone")
    half = len(memory) // 2
    if not arguments.check and half > 1 and max(memory[half:]) > max(memory[:half]) * 1.05 + (8 << 20):
        problems.append(f"memory grew from {max(memory[:half])} to {max(memory[half:])} bytes")
    print(f"{0 if problems else 1} passed, {len(problems)} failed" + "".join(f"\n{p}" for p in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
