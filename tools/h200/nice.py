#!/usr/bin/env python3
"""Measures reef nice on a GPU and writes the rows of docs/results/h200/nice.json.

Every program is started once and then told when to run, so that what is compared stands side by side: a best-effort (BE)
program without reef nice, the same under reef nice, and a real-time (RT) program that sends requests. Time slices are
changed with `reef nice --set`. Latencies count from when a request was due; BE rates from the steps that ended while the RT
program ran. MPS is NVIDIA's own daemon, started here for programs of its own and stopped afterwards.

Runs on the machine with the GPU; run.sh brings it there. Examples:
  python3 tools/h200/nice.py --reef ./reef --out out
  python3 tools/h200/nice.py --reef ./reef --out out --only kernel,hint,checks
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
SLICES = (200, 50, 1)
BEGUN = time.monotonic()


def note(text: str) -> None:
    print(f"[{time.monotonic() - BEGUN:6.1f} s] {text}", flush=True)


class Worker:
    """A program that says it is ready, and answers commands with one line of JSON each."""

    def __init__(self, name: str, command: list[str], out: Path, environment: dict | None = None, **more):
        self.name = name
        self.log = open(out / f"nice.{name}.log", "w")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env=environment, **more)
        self.facts = None

    def ready(self) -> dict:
        if self.facts is None:
            self.facts = self.result()
        return self.facts

    def start(self, command: str) -> None:
        self.ready()
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def result(self, patience: float = 45.0) -> dict:
        if not select.select([self.process.stdout], [], [], patience)[0]:
            raise RuntimeError(f"{self.name} has not answered for {patience:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}; see nice.{self.name}.log")
        return json.loads(line)

    def ask(self, command: str) -> dict:
        self.start(command)
        return self.result()

    def stop(self) -> int:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            return self.process.wait(timeout=8)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def rate_between(times: list[float], begin: float, end: float) -> float:
    inside = [t for t in times if begin <= t <= end]
    return (len(inside) - 1) / (inside[-1] - inside[0]) if len(inside) > 2 else 0.0


def rate(be: Worker, seconds: float) -> float:
    """Steps a second of a program that has the GPU to itself; the first ones do not count."""
    times = be.ask(f"run {seconds}")["times"]
    return rate_between(times, times[0] + 0.1 * seconds, times[-1])


class Bench:
    def __init__(self, arguments):
        self.reef, self.out, self.models = arguments.reef.resolve(), arguments.out, arguments.models
        self.programs = self.reef.parent / "tests"
        self.seconds = arguments.seconds
        self.rows, self.checks, self.workers = [], {}, []
        commit = HERE.parent.parent / "COMMIT"
        self.commit = commit.read_text().strip() if commit.exists() else "unknown"

    # ---- programs --------------------------------------------------------------------------------------------------

    def start(self, name: str, command: list, environment: dict | None = None, **more) -> Worker:
        worker = Worker(name, [str(part) for part in command], self.out, environment, **more)
        self.workers.append(worker)
        return worker

    def nice(self, *rule: str) -> list:
        return [self.reef, "nice", "--verbose", *rule, "--"]

    def load(self, *arguments: str, shared: bool = False) -> list:
        return [self.programs / ("nice_load_shared" if shared else "nice_load"), *arguments]

    def torch(self, name: str) -> list:
        return [sys.executable, HERE / "nice_torch.py", name]

    def stop(self, *workers: Worker) -> None:
        for worker in workers:
            worker.stop()
            self.workers.remove(worker)

    def set_slice(self, worker: Worker, us: int) -> list[int]:
        """What the driver was told for each channel group."""
        done = subprocess.run([str(self.reef), "nice", "--set", str(worker.facts["pid"]), "--slice", str(us), "--json"],
                              capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"reef nice --set: {done.stderr.strip()}")
        return [group["slice_us"] for group in json.loads(done.stdout)[0]["groups"]]

    # ---- measuring -----------------------------------------------------------------------------------------------------

    def together(self, rt: Worker, command: str, be: Worker, seconds: float) -> dict:
        be.start(f"run {seconds + 0.7}")
        time.sleep(0.4)
        answer = rt.ask(command.format(seconds))
        times = be.result()["times"]
        return {"rt_p50_us": answer["p50_us"], "rt_p99_us": answer["p99_us"], "rt_max_us": answer["max_us"],
                "rt_n": answer["n"], "be_rate": rate_between(times, answer["begin"], answer["end"])}

    def row(self, **row) -> None:
        self.rows.append({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
        note(" ".join(f"{key}={value}" for key, value in self.rows[-1].items()))
        self.save()

    def save(self) -> None:
        gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True,
                             text=True).stdout.strip().split(", ") if not hasattr(self, "gpu") else self.gpu
        self.gpu = gpu
        text = json.dumps({"commit": self.commit, "gpu": gpu[0], "driver": gpu[-1], "rows": self.rows, "checks": self.checks},
                          indent=1)
        (self.out / "nice.json").write_text(text + "\n")

    # ---- sections ------------------------------------------------------------------------------------------------------

    def kernel(self) -> None:
        """A 10 us kernel beside 20 ms blocks; hints."""
        rt = self.start("latency", self.load("latency"))
        rt.ready()  # alone, so that its kernel is timed alone
        plain = self.start("burn", self.load("burn"))
        steps = str(plain.ready()["steps"])
        nice = self.start("burn-nice", [*self.nice("-n", "19"), *self.load("burn", steps, shared=True)])
        nice.ready()
        alone = rt.ask("run 1.5")
        be_alone = rate(plain, 1.5)
        common = {"case": "kernel", "rt": "10 us kernel", "be": "20 ms blocks"}
        known = {"rt_alone_p50_us": alone["p50_us"], "rt_alone_p99_us": alone["p99_us"]}
        self.row(**common, how="default", slice_us=None, **self.together(rt, "run {}", plain, self.seconds), **known,
                 be_rate_alone=be_alone)
        for us in SLICES:
            self.set_slice(nice, us)
            be_alone = rate(nice, 1.0)
            self.row(**common, how="nice", slice_us=us, **self.together(rt, "run {}", nice, self.seconds), **known,
                     be_rate_alone=be_alone)
        self.stop(rt, plain)
        self.hint(nice)
        self.stop(nice)

    def only_hint(self) -> None:
        nice = self.start("burn-nice", [*self.nice("-n", "19"), *self.load("burn")])
        nice.ready()
        self.set_slice(nice, 1)
        self.hint(nice)
        self.stop(nice)

    def hint(self, be: Worker) -> None:
        rt = self.start("reef-kernel", [self.programs / "nice_rt", "synthetic", "10000"])
        self.checks["own_slice"] = {key: rt.ready()[key] for key in ("slice_us", "slice_why")}
        be_alone = rate(be, 1.0)
        for hint_us in (0, 300, 500):
            alone = rt.ask(f"run 1.5 2000 4000 {hint_us}")
            together = self.together(rt, f"run {{}} 2000 4000 {hint_us}", be, self.seconds)
            self.row(case="hint", rt="reef, a kernel of 10 us", be="20 ms blocks", how="nice", slice_us=1, hint_us=hint_us,
                     **together, rt_alone_p50_us=alone["p50_us"], rt_alone_p99_us=alone["p99_us"], be_rate_alone=be_alone)
        be.start("run 2.0")
        time.sleep(0.4)
        wasted = rt.ask("hints 1.2 4000 300")
        self.checks["hints_without_requests"] = {**{key: wasted[key] for key in ("sent", "refused")}, "be_rate_alone": be_alone,
                                                 "be_rate": rate_between(be.result()["times"], wasted["begin"], wasted["end"])}
        self.stop(rt)

    def real(self) -> None:
        """PyTorch training under reef nice, beside PyTorch inference and beside reef; then alone, with and without."""
        rts = {"PyTorch VGG-19": self.start("vgg19", self.torch("vgg19")),
               "reef VGG-19": self.start("reef-vgg19", [self.programs / "nice_rt", self.models / "vgg19.onnx", "10000"])}
        names = {"ResNet-50 training": "resnet50", "transformer training": "transformer"}
        plain = {be: self.start(name, self.torch(name)) for be, name in names.items()}
        nice = {be: self.start(f"{name}-nice", [*self.nice("-n", "19"), *self.torch(name)]) for be, name in names.items()}
        for worker in (*rts.values(), *plain.values(), *nice.values()):
            worker.ready()
            note(f"{worker.name} is ready")
        alone = {rt: worker.ask(self.command(rt).format(self.seconds)) for rt, worker in rts.items()}
        be_alone = {}
        self.company(nice)
        for be in names:
            be_alone[be] = self.alone(be, plain[be], nice[be])
        for rt, worker in rts.items():
            known = {"rt_alone_p50_us": alone[rt]["p50_us"], "rt_alone_p99_us": alone[rt]["p99_us"]}
            for be in names:
                common = {"case": "real", "rt": rt, "be": be}
                self.row(**common, how="default", slice_us=None,
                         **self.together(worker, self.command(rt), plain[be], self.seconds), **known,
                         be_rate_alone=be_alone[be][0])
                for us in (200, 1):
                    self.set_slice(nice[be], us)
                    self.row(**common, how="nice", slice_us=us,
                             **self.together(worker, self.command(rt), nice[be], self.seconds), **known,
                             be_rate_alone=be_alone[be][1])
        self.stop(*rts.values(), *plain.values(), *nice.values())

    def company(self, nice: dict[str, Worker]) -> None:
        """Two programs under reef nice beside each other: levels give both slices in which they get something done."""
        alone = {be: rate(worker, 1.0) for be, worker in nice.items()}
        for worker in nice.values():
            worker.start("run 2.5")
        answers = {be: worker.result()["times"] for be, worker in nice.items()}
        begin, end = max(t[0] for t in answers.values()), min(t[-1] for t in answers.values())
        done = subprocess.run([str(self.reef), "nice", "--list", "--json"], capture_output=True, text=True)
        self.checks["two_at_level_19"] = {
            "slices_us": [group["slice_us"] for process in json.loads(done.stdout) for group in process["groups"]],
            "rates": {be: round(rate_between(times, begin, end), 2) for be, times in answers.items()},
            "rates_alone": {be: round(value, 2) for be, value in alone.items()}}
        note(f"two at level 19: {self.checks['two_at_level_19']}")

    def command(self, rt: str) -> str:
        return "run {} 5000" + (" 0 0" if rt.startswith("reef") else "")

    def alone(self, be: str, plain: Worker, nice: Worker, rounds: int = 5) -> tuple[float, float]:
        """BE throughput alone, without and with reef nice, in turns: medians; the spread goes to the row."""
        self.set_slice(nice, 1)
        rates = {"plain": [], "nice": []}
        for i in range(rounds):
            order = (("plain", plain), ("nice", nice))
            for name, worker in order if i % 2 else reversed(order):
                rates[name].append(rate(worker, 1.2))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        # In one process, so that no other difference between two of them counts.
        same = {0: [], 1: []}
        for i in range(rounds):
            for us in (0, 1) if i % 2 else (1, 0):
                self.set_slice(nice, us)
                same[us].append(rate(nice, 0.9))
        ratio = [a / b for a, b in zip(same[1], same[0])]
        self.row(case="alone", be=be, how="nice", slice_us=1, be_rate=medians["nice"], be_rate_alone=medians["plain"],
                 be_rates_plain=[round(r, 2) for r in rates["plain"]], be_rates_nice=[round(r, 2) for r in rates["nice"]],
                 same_process_ratio=statistics.median(ratio), same_process_ratios=[round(r, 4) for r in ratio])
        return medians["plain"], medians["nice"]

    def mps(self) -> None:
        """The same real programs as clients of MPS."""
        control = shutil.which("nvidia-cuda-mps-control")
        if not control:
            self.checks["mps"] = "nvidia-cuda-mps-control is not installed"
            return
        folder = self.out.resolve() / "mps"
        folder.mkdir(exist_ok=True)
        environment = dict(os.environ, CUDA_MPS_PIPE_DIRECTORY=str(folder), CUDA_MPS_LOG_DIRECTORY=str(folder))
        done = subprocess.run([control, "-d"], env=environment, capture_output=True, text=True)
        if done.returncode:
            self.checks["mps"] = f"the daemon did not start: {(done.stderr or done.stdout).strip()[-200:]}"
            return
        try:
            self.mps_rows(environment)
            self.checks["mps"] = "measured"
        except RuntimeError as error:
            self.checks["mps"] = str(error)
        finally:
            for worker in list(self.workers):
                self.stop(worker)
            subprocess.run([control], env=environment, input="quit\n", text=True, capture_output=True, timeout=60)
        self.save()

    def mps_rows(self, environment: dict) -> None:
        rts = {"PyTorch VGG-19": self.start("vgg19-mps", self.torch("vgg19"), environment),
               "reef VGG-19": self.start("reef-vgg19-mps", [self.programs / "nice_rt", self.models / "vgg19.onnx", "0"],
                                         environment)}
        bes = {be: self.start(f"{name}-mps", self.torch(name), environment)
               for be, name in (("ResNet-50 training", "resnet50"), ("transformer training", "transformer"))}
        for worker in (*rts.values(), *bes.values()):
            worker.ready()
        be_alone = {be: rate(worker, 1.5) for be, worker in bes.items()}
        for rt, worker in rts.items():
            alone = worker.ask(self.command(rt).format(1.5))
            for be in bes:
                self.row(case="real", rt=rt, be=be, how="mps", slice_us=None,
                         **self.together(worker, self.command(rt), bes[be], self.seconds), rt_alone_p50_us=alone["p50_us"],
                         rt_alone_p99_us=alone["p99_us"], be_rate_alone=be_alone[be])

    def run_checks(self) -> None:
        """A program that must not be run twice; a user without privilege; what reef nice says of each runtime."""
        rounds, more = "1500", "800"
        done = subprocess.run([str(part) for part in self.load("count", rounds)], capture_output=True, text=True, check=True)
        alone = json.loads(done.stdout)
        rt = self.start("latency-count", self.load("latency"))
        rt.ready()
        begun = subprocess.Popen([str(part) for part in (*self.nice("-n", "19"), *self.load("count", more))],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        again = subprocess.run([str(part) for part in self.load("count", more)], capture_output=True, text=True, check=True)
        disturbed = json.loads(begun.communicate()[0])
        begun = subprocess.Popen([str(part) for part in (*self.nice("-n", "19"), *self.load("count", rounds))],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        time.sleep(1.5)
        beside = rt.ask("run 1.5")
        small = json.loads(begun.communicate()[0])
        self.stop(rt)
        self.checks["not_idempotent"] = {
            "sum_alone": alone["sum"], "sum_nice_beside_requests": small["sum"], "rounds": alone["rounds"],
            "rate_alone": alone["rate"], "rate_beside_requests": small["rate"], "rt_p50_us": beside["p50_us"],
            "rt_p99_us": beside["p99_us"],
            "sum_more_beside_another": json.loads(again.stdout)["sum"], "sum_more_nice_beside_another": disturbed["sum"],
            "same": alone["sum"] == small["sum"] and json.loads(again.stdout)["sum"] == disturbed["sum"]}
        note(f"not idempotent: {self.checks['not_idempotent']}")
        for runtime in ("static", "shared"):
            done = subprocess.run([str(part) for part in (*self.nice("-n", "19"), *self.load("count", "2", shared=runtime == "shared"))],
                                  capture_output=True, text=True)
            self.checks[f"{runtime}_runtime"] = {"rc": done.returncode, "said": done.stderr.splitlines()[-6:]}
        if os.geteuid() == 0:
            done = subprocess.run([str(part) for part in (*self.nice("-n", "19"), *self.load("count", "2"))], capture_output=True,
                                  text=True, user=65534, group=65534, extra_groups=[], cwd="/")
            self.checks["without_privilege"] = {"rc": done.returncode, "said": done.stderr.splitlines()[-6:]}
        note(f"checks: {json.dumps(self.checks)}")
        self.save()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=Path, default=Path("./reef"))
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--models", type=Path, default=Path("/tmp/reef-models"))
    parser.add_argument("--seconds", type=float, default=2.5, help="how long each pair runs together")
    parser.add_argument("--only", default="kernel,checks,real,mps", help="sections, separated by commas: kernel (with hint), hint, checks, real, mps")
    arguments = parser.parse_args()
    sections = arguments.only.split(",")
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments)
    maker = None
    if {"real", "mps"} & set(sections) and not (arguments.models / "vgg19.onnx").exists():
        script = HERE.parent / "models" / "make_models.py"
        maker = subprocess.Popen([sys.executable, str(script), "--out", str(arguments.models), "vgg19"])
        if maker.wait():
            sys.exit("nice.py: the model could not be made")
    failed = 0
    for name, run in (("kernel", bench.kernel), ("hint", bench.only_hint), ("checks", bench.run_checks), ("real", bench.real), ("mps", bench.mps)):
        if name not in sections or (name == "hint" and "kernel" in sections):
            continue
        try:
            run()
        except (RuntimeError, subprocess.SubprocessError) as error:
            failed = 1
            print(f"nice.py: {name}: {error}", file=sys.stderr, flush=True)
            for worker in list(bench.workers):
                bench.stop(worker)
    bench.save()
    return failed


if __name__ == "__main__":
    sys.exit(main())
