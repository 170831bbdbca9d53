#!/usr/bin/env python3
"""Measures `reef serve --slice` beside a training program on one GPU and writes the rows of docs/results/h200/serve_nice.json.

Two servers of the same model, one that hints and one that does not (--no-hints), a training program as it is, and the same
under `reef nice -n 19` are started once and stay; whoever is not measured is idle. A periodic real-time client (`reef bench`)
asks each server over its ring and over HTTP: alone, beside the training as it is, and beside the training under reef nice.
Latencies count from when a request was due; training rates from the steps that ended while the client's requests counted.
What the log, /metrics and `reef top` said about the slice and the hints is kept too.

Runs on the machine with the GPU, in less than 75 seconds; run.sh brings it there. Examples:
  python3 tools/h200/serve_nice.py --reef ./reef --out out
  python3 tools/h200/serve_nice.py --reef ./reef --out out --ways ring --seconds 5
  python3 tools/h200/serve_nice.py --reef build/release/reef --out /tmp/out --device cpu --precision fp32 --model small.onnx --shape '' \\
      --train "python3 stand_in.py"     # every step of it without a GPU; stand_in.py speaks like nice_torch.py resnet50
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "tests/serve")]
from harness import Server
from nice import Worker, note, rate, rate_between

LEAD, WARMUP, TAIL = 0.3, 0.4, 0.5  # seconds: training before the client starts, requests that do not count, training after
SLICE_US = 10000


class Bench:
    def __init__(self, arguments):
        self.arguments = arguments
        self.reef = arguments.reef.resolve()
        self.gpu = arguments.device != "cpu"
        self.train = shlex.split(arguments.train or f"{shlex.quote(sys.executable)} {HERE / 'nice_torch.py'} resnet50")
        self.model = arguments.model.stem
        self.servers, self.rings, self.rows, self.complaints = {}, {}, [], []
        self.about, self.alone, self.be_alone = {}, {}, {}

    # ---- what runs -----------------------------------------------------------------------------------------------------

    def start_training(self) -> None:
        nice = [str(self.reef), "nice", "--verbose", "-n", "19", "--"]
        self.training = {how: Worker(f"training-{how}", [*prefix, *self.train], self.arguments.out)
                         for how, prefix in (("default", []), ("nice", nice))}

    def make_model(self) -> None:
        if self.arguments.model.exists():
            return
        script, folder = HERE.parent / "models" / "make_models.py", self.arguments.model.parent
        if subprocess.run([sys.executable, str(script), "--out", str(folder), self.model]).returncode:
            raise RuntimeError(f"{self.arguments.model} could not be made")

    def start_server(self, hints: bool, scratch: Path) -> None:
        """A folder each, so that their logs and profiles cannot be mixed up; the second one finds the first one's profile."""
        models = scratch / "models"
        if not models.exists():
            models.mkdir()
            (models / self.arguments.model.name).symlink_to(self.arguments.model.resolve())
            config = {"class": "rt", "precision": self.arguments.precision}
            if self.arguments.shape:
                name, dims = self.arguments.shape.split("=")
                config["shapes"] = {name: [int(dim) for dim in dims.split("x")]}
            (models / f"{self.model}.json").write_text(json.dumps(config))
        ring = str(scratch / f"ring-{'hints' if hints else 'plain'}")
        options = ["--device", self.arguments.device, "--ring", ring, "--cache", str(scratch)]
        options += ["--slice", str(SLICE_US)] if self.gpu else []
        options += [] if hints else ["--no-hints"]
        self.rings[hints] = ring
        self.servers[hints] = Server(self.reef, models, *options)
        self.servers[hints].wait_ready(120)
        note(f"the server {'with' if hints else 'without'} hints is ready")

    def stop(self) -> None:
        for hints, server in self.servers.items():
            try:
                code = server.stop()
                if code:
                    self.complaints.append(f"a server ended with {code}")
            except AssertionError as error:
                self.complaints.append(str(error).splitlines()[0])
            (self.arguments.out / f"serve.{'hints' if hints else 'no-hints'}.log").write_text(server.text())
        for worker in self.training.values():
            worker.stop()

    # ---- measuring -----------------------------------------------------------------------------------------------------

    def top(self, hints: bool, *options: str) -> str:
        done = subprocess.run([str(self.reef), "top", "--url", f"http://{self.servers[hints].address}", "--count", "1",
                               "--interval", "0.05", *options], capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise RuntimeError(f"reef top: {done.stderr.strip()}")
        return done.stdout

    def device(self, hints: bool) -> dict:
        return json.loads(self.top(hints, "--json"))["device"]

    def ask(self, hints: bool, way: str) -> dict:
        """One periodic client; also what became of the hints, and when the requests that count were sent."""
        where = ["--url", f"http://{self.servers[hints].address}"] if way == "HTTP" else ["--ring", self.rings[hints]]
        before = self.device(hints)["hints"]
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            done = subprocess.run([str(self.reef), "bench", *where, "--model", self.model, "--class", "rt", "--rate", f"{self.arguments.rate:g}",
                                   "--seconds", f"{self.arguments.seconds:g}", "--warmup", f"{WARMUP:g}", "--json", file.name],
                                  capture_output=True, text=True, timeout=60)
            end = time.monotonic()
            if done.returncode:
                raise RuntimeError(f"reef bench: {done.stderr.strip().splitlines()[-1:]}")
            result = json.loads(Path(file.name).read_text())
        after = self.device(hints)["hints"]
        wrong = {key: result[key] for key in ("refused", "deadline", "failed", "mismatches") if result[key]}
        if wrong:
            self.complaints.append(f"{way}, hints {hints}: {wrong}")
        row = {"rt_p50_us": result["latency_us"]["p50"], "rt_p99_us": result["latency_us"]["p99"], "rt_max_us": result["latency_us"]["max"],
               "rt_n": result["latency_us"]["n"], "engine_p50_us": result["engine_us"]["p50"], "engine_p99_us": result["engine_us"]["p99"],
               "wrong": sum(wrong.values())}
        return {**row, **{f"hints_{key}": after[key] - before[key] for key in ("sent", "used", "refused")},
                "begin": end - self.arguments.seconds, "end": end}

    def beside(self, hints: bool, way: str, how: str) -> dict:
        worker = self.training[how]
        worker.start(f"run {LEAD + 0.1 + WARMUP + self.arguments.seconds + TAIL}")
        time.sleep(LEAD)
        row = self.ask(hints, way)
        times = worker.result()["times"]
        if not times or times[-1] < row["end"]:
            self.complaints.append(f"{way}, hints {hints}, {how}: training ended before the requests")
        row["be_rate"] = rate_between(times, row["begin"], row["end"])
        return row

    def row(self, **row) -> None:
        row = {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items() if key not in ("begin", "end")}
        self.rows.append(row)
        note(" ".join(f"{key}={value}" for key, value in row.items()))
        self.save()

    def save(self) -> None:
        commit = HERE.parent.parent / "COMMIT"
        whole = {"commit": commit.read_text().strip() if commit.exists() else "unknown", "device": self.arguments.device, **self.about,
                 "model": self.model, "precision": self.arguments.precision, "rate": self.arguments.rate, "seconds": self.arguments.seconds,
                 "rows": self.rows, "complaints": self.complaints}
        (self.arguments.out / "serve_nice.json").write_text(json.dumps(whole, indent=1) + "\n")

    def slices(self) -> "list[int]":
        """Of the training under reef nice, as the driver has taken them."""
        done = subprocess.run([str(self.reef), "nice", "--list", "--json"], capture_output=True, text=True, timeout=30)
        found = [group["slice_us"] for process in json.loads(done.stdout or "[]") if process["pid"] == self.training["nice"].facts["pid"]
                 for group in process["groups"]]
        if not found and self.gpu:
            self.complaints.append(f"reef nice shows no channel group of the training; {done.stderr.strip()}")
        return found

    def what_the_server_says(self, hints: bool) -> dict:
        server, text = self.servers[hints], self.servers[hints].http("GET", "/metrics")[2].decode()
        metrics = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith(("reef_device_slice", "reef_hints"))}
        device = self.device(hints)
        said = {"log": [line for line in server.text().splitlines() if "event=slice" in line or "level=warn" in line or "level=error" in line],
                "metrics": metrics, "top_json": {key: device[key] for key in ("name", "policy", "slice_us", "hints")},
                "top": self.top(hints).splitlines()[:4]}
        shown = (metrics.get("reef_device_slice_microseconds"), device["slice_us"])
        if self.gpu and shown != (SLICE_US, SLICE_US):
            self.complaints.append(f"/metrics and reef top show slices {shown}, not {SLICE_US}")
        if bool(device["hints"]["sent"]) != (hints and self.gpu):
            self.complaints.append(f"the server {'with' if hints else 'without'} hints sent {device['hints']['sent']}")
        return said

    def run(self) -> None:
        self.start_training()
        if self.gpu:
            gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True,
                                 text=True).stdout.strip().split(", ")
            self.about = {"gpu": gpu[0], "driver": gpu[-1]}
        with tempfile.TemporaryDirectory(prefix="reef-serve-nice-") as name:
            try:
                self.make_model()
                for worker in self.training.values():  # before the servers: loading a model measures its kernels
                    worker.ready()
                    note(f"{worker.name} is ready")
                for hints in (True, False):
                    self.start_server(hints, Path(name))
                self.measure()
            finally:
                self.stop()
                self.save()

    def measure(self) -> None:
        slices = self.slices()
        be, how_long = self.arguments.be, {"default": None, "nice": min(slices, default=None)}
        ways = self.arguments.ways.split(",")
        for how, worker in self.training.items():
            self.be_alone[how] = rate(worker, min(2.0, self.arguments.seconds))
            self.row(case="training alone", be=be, how=how, slice_us=how_long[how], be_rate_alone=self.be_alone[how])
        for way in ways:
            for hints in (False, True):
                self.alone[way, hints] = self.ask(hints, way)
                self.row(case="requests alone", way=way, hints=hints, **self.alone[way, hints])
        for how in self.training:
            for way in ways:
                for hints in (False, True):
                    alone = self.alone[way, hints]
                    self.row(case="serve", way=way, be=be, how=how, slice_us=how_long[how], serve_slice_us=SLICE_US if self.gpu else None,
                             hints=hints, **self.beside(hints, way, how), rt_alone_p50_us=alone["rt_p50_us"],
                             rt_alone_p99_us=alone["rt_p99_us"], be_rate_alone=self.be_alone[how])
        self.about["training_slices_us"] = slices
        self.about["servers"] = {"hints" if hints else "no_hints": self.what_the_server_says(hints) for hints in (True, False)}
        note(json.dumps(self.about))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=Path, default=Path("./reef"))
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--model", type=Path, default=Path("/tmp/reef-models/vgg19.onnx"), help="made if it is one of tools/models and missing (default: %(default)s)")
    parser.add_argument("--shape", default="input=1x3x224x224", help="of an input that the model leaves open; '': it leaves none (default: %(default)s)")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--train", default="", help="command of another training program that speaks like nice_torch.py resnet50")
    parser.add_argument("--be", default="ResNet-50 training", help="its name in the rows")
    parser.add_argument("--ways", default="ring,HTTP", help="how clients ask (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=100, help="requests per second (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.2, help="that count, per row (default: %(default)s)")
    arguments = parser.parse_args()
    if not set(arguments.ways.split(",")) <= {"ring", "HTTP"}:
        parser.error(f"--ways: '{arguments.ways}' is not of ring and HTTP")
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments)
    try:
        bench.run()
    except (RuntimeError, AssertionError, OSError, subprocess.SubprocessError) as error:
        bench.complaints.append(str(error))
        bench.save()
    for complaint in bench.complaints:
        print(f"serve_nice.py: {complaint}", file=sys.stderr)
    return 1 if bench.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
