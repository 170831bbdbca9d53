#!/usr/bin/env python3
"""Puts the tables of measured figures into README.md, from the JSON files that the benchmarks wrote.

Each table stands between `<!-- table:NAME -->` and `<!-- /table -->`; what is between is replaced.

Examples:
  python3 tools/readme_tables.py            # rewrite README.md
  python3 tools/readme_tables.py --check    # exit status 1 if that would change it
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def rows_of(name: str) -> list:
    return json.loads((RESULTS / "cpu" / name).read_text(encoding="utf-8"))["rows"]


def time_text(us: float) -> str:
    return f"{us:.1f} us" if us < 100 else f"{us:.0f} us" if us < 1000 else f"{us / 1000:.1f} ms"


def table(head: list, rows: list, source: str) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", f"`docs/results/{source}`"])


def preempt() -> str:
    rows = rows_of("preempt.json")
    loads = list(dict.fromkeys(row["be"] for row in rows))
    by = {(row["be"], row["mechanism"]): row for row in rows}
    body = []
    for load in loads:
        wait, reset = by[load, "wait"], by[load, "reset"]
        body.append(
            [
                load,
                f"{time_text(wait['p50_us'])} / {time_text(wait['p99_us'])}",
                f"**{time_text(reset['p50_us'])} / {time_text(reset['p99_us'])}**",
                f"{time_text(reset['due_p50_us'])} / {time_text(reset['due_p99_us'])}",
                f"{reset['be_lost_pct']:.1f}%",
            ]
        )
    head = ["best-effort work", "`wait` p50 / p99", "`reset` p50 / p99", "`reset`, from the due time", "BE time lost"]
    return table(head, body, "cpu/preempt.json")


def serve() -> str:
    body = []
    for row in rows_of("serve.json"):
        served = "added_p50_us" in row
        body.append(
            [
                row["way"],
                f"{time_text(row['p50_us'])} / {time_text(row['p99_us'])}",
                f"{time_text(row['engine_p50_us'])} / {time_text(row['engine_p99_us'])}" if served else "",
                f"**{time_text(row['added_p50_us'])}** / {time_text(row['added_p99_us'])}" if served else "",
            ]
        )
    head = ["a small model, 2 processors", "latency p50 / p99", "of it in the engine", "added by serving"]
    return table(head, body, "cpu/serve.json")


def serve_load() -> str:
    report = json.loads((RESULTS / "cpu" / "serve_load.json").read_text(encoding="utf-8"))
    body = []
    for name, title in (("rt", "from the due time"), ("late", "of it: the client was late"), ("engine", "in the engine"), ("added", "HTTP, and waiting for a processor")):
        pairs = [f"{time_text(report[f'{name}_p50_us_{when}'])} / {time_text(report[f'{name}_p99_us_{when}'])}" for when in ("alone", "beside")]
        body.append([title, *pairs, f"{report[f'{name}_p99_ratio']:.2f}"])
    head = ["real-time p50 / p99", "without best-effort", f"beside {report['be_per_s']:.0f} best-effort per second", "p99 ratio"]
    return table(head, body, "cpu/serve_load.json")


def disb() -> str:
    body = []
    for row in rows_of("disb_a.json"):
        body.append(
            [
                f"`{row['policy']}`",
                time_text(row["rt_p50_us"]),
                time_text(row["rt_p99_us"]),
                f"{row['rt_p50_us'] / row['rt_alone_p50_us']:.2f}",
                f"{row['be_per_s']:.1f}",
                f"{100 * row['be_idle_share'] if 'be_idle_share' in row else row['be_of_idle_pct']:.0f}%",
                str(row["preemptions"]),
                str(row["mismatches"]),
            ]
        )
    head = ["policy", "RT p50", "RT p99", "p50 / alone", "BE per s", "BE of idle time", "preemptions", "wrong answers"]
    return table(head, body, "cpu/disb_a.json")


def solo() -> str:
    body = [
        [row["model"], f"{row['reef_us'] / 1000:.1f} ms", f"{row['onnxruntime_us'] / 1000:.1f} ms", f"{row['ratio']:.2f}"]
        for row in rows_of("solo.json")
    ]
    return table(["network", "reef", "ONNX Runtime", "ratio"], body, "cpu/solo.json")


def h200() -> str:
    body = []
    for row in json.loads((RESULTS / "h200" / "solo.json").read_text(encoding="utf-8")):
        best = min(row["torch_graph_p50_us"], row["torch_compile_p50_us"])
        body.append(
            [
                row["model"],
                row["precision"],
                f"**{row['ours_p50_us']:.0f} us**",
                f"{row['ours_p99_us']:.0f} us",
                f"{row['torch_graph_p50_us']:.0f} us",
                f"{row['torch_compile_p50_us']:.0f} us",
                f"{best / row['ours_p50_us']:.2f}x",
                f"{row['ours_end_to_end_p50_us']:.0f} us",
            ]
        )
    head = ["network", "precision", "p50", "p99", "CUDA graph", "torch.compile", "faster than the better", "with host buffers"]
    return table(head, body, "h200/solo.json")


def h200_preempt() -> str:
    rows = json.loads((RESULTS / "h200" / "preempt.json").read_text(encoding="utf-8"))["rows"]
    others = {row["be"]: row for row in rows if row["mechanism"] == "priority"}
    body = []
    for row in rows:
        if row["mechanism"] != "reset":
            continue
        other = others[row["be"]]
        body.append(
            [
                row["be"],
                f"{time_text(row['idle_p50_us'])} / {time_text(row['idle_p99_us'])}",
                f"**{time_text(row['p50_us'])} / {time_text(row['p99_us'])}**",
                f"{row['p99_us'] - row['idle_p99_us']:+.1f} us",
                f"{row['be_lost_pct']:.1f}%",
                f"{time_text(other['p50_us'])} / {time_text(other['p99_us'])}",
            ]
        )
    head = ["best-effort load", "idle p50 / p99", "`reset`, loaded", "p99 over idle", "BE work lost", "`priority`, loaded"]
    return table(head, body, "h200/preempt.json")


# The REEF paper's overall throughput over real-time work alone, on another GPU with other kernels.
REEF_PAPER = {"A": "1.60", "B": "1.14", "D": "3.00", "E": "2.96", "REAL": "7.7"}


def h200_disb() -> str:
    body = []
    rows = json.loads((RESULTS / "h200" / "disb.json").read_text(encoding="utf-8"))["rows"]
    for first in rows:
        if first["policy"] != "rt-only":
            continue
        of = {r["policy"]: r for r in rows if (r["workload"], r["form"]) == (first["workload"], first["form"])}
        times = {name: f"{time_text(r['rt_p50_us'])} / {time_text(r['rt_p99_us'])}" for name, r in of.items()}
        idle = " / ".join(f"{100 * of[name]['be_idle_share']:.0f}%" for name in ("reset", "lease", "priority", "streams"))
        ratio = f"{of['reset']['requests_ratio']:.2f}"
        if first["form"] == "matched" and first["workload"] in REEF_PAPER:
            ratio += f" ({REEF_PAPER[first['workload']]})"
        change = f"{100 * (of['reset']['rt_p50_us'] / first['rt_p50_us'] - 1):+.1f}%"
        body.append(
            [
                f"{first['workload']}, {first['form']}",
                f"{first['rt_per_s']:.0f}",
                times["rt-only"],
                f"**{times['reset']}** ({change})",
                times["lease"],
                times["priority"],
                times["streams"],
                times["seq"],
                idle,
                ratio,
            ]
        )
    head = ["workload", "RT per s", "`rt-only`, RT p50 / p99", "`reset`", "`lease`", "`priority`", "`streams`", "`seq`"]
    head += ["BE of idle time: reset / lease / priority / streams", "requests x, `reset` (paper)"]
    return table(head, body, "h200/disb.json")


def h200_padding() -> str:
    path = RESULTS / "h200" / "padding.json"
    if not path.exists():
        return "Not measured yet: `tools/h200/run.sh HOST bench` writes `docs/results/h200/padding.json`, and this table comes from it."
    report = json.loads(path.read_text(encoding="utf-8"))
    rows, empty = report["rows"], report["summary"]["empty_pad_overhead_pct"]
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    models = list(dict.fromkeys(row["rt"] for row in rows))

    def cell(chosen: list) -> str:
        over = [row["rt_overhead_p50_pct"] for row in chosen if row["rt_overhead_p50_pct"] is not None]
        share = sum(row["be_work_share"] for row in chosen) / len(chosen)
        return f"{sum(over) / len(over):+.1f}% / {max(over):+.1f}%, {100 * share:.0f}%" if over else f"no answer, {100 * share:.0f}%"

    body = []
    for model in models:
        of = [row for row in rows if row["rt"] == model]
        alone = sum(row["rt_alone_p50_us"] for row in of) / len(of)
        nothing = empty.get(model)
        body.append([model, time_text(alone), "-" if nothing is None else f"{nothing:+.1f}%", *(cell([row for row in of if row["policy"] == policy]) for policy in policies)])
    body.append(["all pairs", "", "", *(f"**{cell([row for row in rows if row['policy'] == policy])}**" for policy in policies)])
    head = ["RT network", "alone, p50", "`pad`, nothing to pad", *(f"`{policy}`" for policy in policies)]
    return table(head, body, "h200/padding.json")


def nice_rows(case: str) -> list:
    rows = json.loads((RESULTS / "h200" / "nice.json").read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if row["case"] == case]


def nice_how(row: dict) -> str:
    how = {"default": "driver's default", "mps": "MPS"}.get(row["how"])
    return how or f"`reef nice`, {row['slice_us']} us"


def nice() -> str:
    body = []
    for row in nice_rows("kernel") + nice_rows("real"):
        best = row["how"] == "nice" and row["slice_us"] == 1
        times = f"{time_text(row['rt_p50_us'])} / {time_text(row['rt_p99_us'])}"
        body.append(
            [
                row["rt"],
                row["be"],
                nice_how(row),
                f"**{times}**" if best else times,
                f"{time_text(row['rt_alone_p50_us'])} / {time_text(row['rt_alone_p99_us'])}",
                f"{100 * row['be_rate'] / row['be_rate_alone']:.0f}%",
            ]
        )
    head = ["real-time program", "best-effort program", "best-effort slice", "RT p50 / p99", "RT alone", "BE of alone"]
    return table(head, body, "h200/nice.json")


def nice_alone() -> str:
    body = []
    for row in nice_rows("alone"):
        spread = [100 * (max(rates) / min(rates) - 1) for rates in (row["be_rates_plain"], row["be_rates_nice"])]
        body.append(
            [
                row["be"],
                f"{row['be_rate_alone']:.2f} (spread {spread[0]:.2f}%)",
                f"{row['be_rate']:.2f} (spread {spread[1]:.2f}%)",
                f"{100 * (row['be_rate'] / row['be_rate_alone'] - 1):+.2f}%",
                f"{100 * (row['same_process_ratio'] - 1):+.2f}%",
            ]
        )
    head = ["alone on the GPU", "steps/s", "under `reef nice`", "difference", "difference in one process"]
    return table(head, body, "h200/nice.json")


def nice_hint() -> str:
    body = []
    for row in nice_rows("hint"):
        added = [row[f"rt_p{p}_us"] - row[f"rt_alone_p{p}_us"] for p in (50, 99)]
        body.append(
            [
                f"{row['hint_us']} us ahead" if row["hint_us"] else "none",
                f"{time_text(row['rt_p50_us'])} / {time_text(row['rt_p99_us'])}",
                f"{time_text(row['rt_alone_p50_us'])} / {time_text(row['rt_alone_p99_us'])}",
                f"{added[0]:.1f} us / {added[1]:.1f} us",
                f"{100 * row['be_rate'] / row['be_rate_alone']:.0f}%",
            ]
        )
    return table(["hint", "RT p50 / p99", "alone, same hints", "added", "BE of alone"], body, "h200/nice.json")


def serve_nice() -> str:
    body = []
    for row in json.loads((RESULTS / "h200" / "serve_nice.json").read_text(encoding="utf-8"))["rows"]:
        if row["case"] != "serve":
            continue
        best = row["how"] == "nice" and row["hints"]
        times = f"{time_text(row['rt_p50_us'])} / {time_text(row['rt_p99_us'])}"
        body.append(
            [
                row["way"],
                nice_how(row),
                "on" if row["hints"] else "off",
                f"**{times}**" if best else times,
                f"{time_text(row['rt_alone_p50_us'])} / {time_text(row['rt_alone_p99_us'])}",
                f"{time_text(row['engine_p50_us'])} / {time_text(row['engine_p99_us'])}",
                f"{row['hints_sent']} / {row['hints_used']}",
                f"{100 * row['be_rate'] / row['be_rate_alone']:.0f}%",
            ]
        )
    head = ["asked over", "training's slice", "hints", "RT p50 / p99", "alone, same hints", "in the engine"]
    return table([*head, "hints sent / used", "training of alone"], body, "h200/serve_nice.json")


TABLES = {"serve_nice": serve_nice, "nice": nice, "nice_alone": nice_alone, "nice_hint": nice_hint, "preempt": preempt, "disb": disb, "serve": serve, "serve_load": serve_load, "solo": solo, "h200": h200, "h200_preempt": h200_preempt, "h200_disb": h200_disb, "h200_padding": h200_padding}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if README.md is out of date")
    arguments = parser.parse_args()
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = re.sub(
        r"<!-- table:(\w+) -->.*?<!-- /table -->",
        lambda match: f"<!-- table:{match[1]} -->\n{TABLES[match[1]]()}\n<!-- /table -->",
        old,
        flags=re.DOTALL,
    )
    if arguments.check:
        if new != old:
            print("README.md is out of date: run tools/readme_tables.py")
        return 1 if new != old else 0
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
