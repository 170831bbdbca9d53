#!/usr/bin/env python3
"""Gives the reef command good and bad input and looks at exit codes, stderr and stdout. Standard library only.

  tests/cli/test_cli.py --reef build/release/reef
  tests/cli/test_cli.py --reef build/release/reef-fake --fake     # also: answers that are wrong on purpose

Bad input must end with code 1 (a file, a model, the device) or 2 (wrong usage) and exactly one line on stderr that names
what is wrong. No test looks at how long anything took.
"""

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import traceback
import xml.etree.ElementTree
from pathlib import Path


# ---- files ----------------------------------------------------------------------------------------------------------

def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number: int, value) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor_type(name: str, dims) -> bytes:
    shape = b"".join(field(1, field(1, dim)) for dim in dims)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))


def tensor(name: str, dims, values) -> bytes:
    """A float32 initializer."""
    return b"".join(field(1, dim) for dim in dims) + field(2, 1) + field(8, name) + field(9, struct.pack(f"<{len(values)}f", *values))


def conv_model() -> bytes:
    """ONNX by hand: y = MaxPool(Relu(BatchNorm(Conv(x)) + x)), float32 (1, 2, 5, 5)."""
    def node(op: str, inputs: str, output: str, *attributes: bytes) -> bytes:
        return field(1, b"".join(field(1, name) for name in inputs.split()) + field(2, output) + field(4, op) +
                     b"".join(field(5, attribute) for attribute in attributes))

    def ints(name: str, *values: int) -> bytes:
        return field(1, name) + b"".join(field(8, value) for value in values) + field(20, 7)
    nodes = (node("Conv", "x w", "c", ints("kernel_shape", 3, 3), ints("pads", 1, 1, 1, 1)) +
             node("BatchNormalization", "c s s s s", "n") + node("Add", "n x", "a") + node("Relu", "a", "r") +
             node("MaxPool", "r", "y", ints("kernel_shape", 2, 2), ints("strides", 1, 2)))
    weights = (field(5, tensor("w", (2, 2, 3, 3), [0.1 * (i % 7) - 0.2 for i in range(36)])) +
               field(5, tensor("s", (2,), [0.5, 1.5])))
    graph = nodes + field(2, "g") + weights + field(11, tensor_type("x", (1, 2, 5, 5))) + field(12, field(1, "y"))
    return field(1, 8) + field(7, graph) + field(8, field(2, 17))


def relu_model(op: str = "Relu") -> bytes:
    """ONNX by hand: y = Relu(x), float32 (1, 4)."""
    node = field(1, "x") + field(2, "y") + field(3, "the_node") + field(4, op)
    graph = field(1, node) + field(2, "g") + field(11, tensor_type("x", (1, 4))) + field(12, tensor_type("y", (1, 4)))
    return field(1, 8) + field(7, graph) + field(8, field(2, 17))


def npy(values, descr: str = "<f4", shape: str = "(1, 4)") -> bytes:
    code = {"<f4": "f", "<i8": "q"}[descr]
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + struct.pack(f"<{len(values)}{code}", *values)


def client(name: str, service_class: str, arrival: dict, **more) -> dict:
    return {"name": name, "model": "relu.onnx", "class": service_class, "arrival": arrival, **more}


class Suite:
    def __init__(self, reef: Path, fake: bool, folder: Path) -> None:
        self.reef, self.fake, self.folder = reef.resolve(), fake, folder
        self.passed = self.failed = 0
        write = lambda name, data: (folder / name).write_bytes(data)
        write("relu.onnx", relu_model())
        write("text.onnx", b"this is not a model\n")
        write("empty.onnx", b"")
        write("short.onnx", relu_model()[:-20])
        write("odd.onnx", relu_model("NoSuchOperator"))
        write("x.npy", npy([-1.0, 2.0, -3.0, 4.0]))
        write("ints.npy", npy([1, 2, 3, 4], "<i8"))
        write("wide.npy", npy([0.0] * 5, shape="(1, 5)"))
        write("flat.npy", npy([0.0] * 4, shape="(4,)"))
        write("cut.npy", npy([0.0] * 4)[:-3])
        write("huge.npy", npy([0.0] * 4, shape="(4294967296, 4294967296, 4294967296)"))
        write("text.npy", b"hello")
        good = [client("rt", "rt", {"kind": "uniform", "rate": 100}),
                client("be", "be", {"kind": "closed", "concurrency": 2})]
        self.workload("good.json", good)
        self.workload("field.json", [{**good[0], "prioriti": 1}])
        self.workload("nomodel.json", [{**good[0], "model": "gone.onnx"}])
        self.workload("badinput.json", [{**good[0], "inputs": {"x": "ints.npy"}}])
        write("broken.json", b"{\"name\": \"w\", ")
        write("list.txt", f"{folder}/relu.onnx {folder}/in {folder}/out_a\n{folder}/text.onnx {folder}/in {folder}/out_b\n"
                          f"{folder}/relu.onnx {folder}/in {folder}/out_c\nonly two\n".encode())
        (folder / "in").mkdir()
        write("in/in_0.npy", npy([-1.0, 2.0, -3.0, 4.0]))
        (folder / "nothing").mkdir()

    def workload(self, name: str, clients: list) -> None:
        (self.folder / name).write_text(json.dumps({"name": "w", "rt_share": 0.3, "clients": clients}))

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run([str(self.reef), *arguments], cwd=self.folder, capture_output=True, text=True, timeout=300,
                              env={**os.environ, **environment}, errors="replace")

    def check(self, name: str, test) -> None:
        try:
            test()
            self.passed += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed test
            self.failed += 1
            print(f"FAILED {name}: {error}" if isinstance(error, AssertionError) else f"FAILED {name}:\n{traceback.format_exc()}")

    def bad(self, code: int, words, *arguments: str) -> None:
        """Must fail with this code and one line that holds all words."""
        def test() -> None:
            done = self.call(*arguments)
            lines = [line for line in done.stderr.splitlines() if line]
            assert done.returncode == code, f"code {done.returncode} instead of {code}; stderr: {done.stderr!r}"
            assert len(lines) == 1, f"{len(lines)} lines on stderr: {done.stderr!r}"
            assert lines[0].startswith("reef"), lines[0]
            for word in words:
                assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
            self.named_once(lines[0])
        self.check("reef " + " ".join(arguments), test)

    @staticmethod
    def named_once(line: str) -> None:
        """No file is named twice in a message: "x.onnx: x.onnx: ..." """
        for file in set(re.findall(r"[\w./-]+\.(?:onnx|npy|json|txt)\b", line)):
            assert line.count(file) == 1, f"{file} is named twice: {line!r}"

    def good(self, look, *arguments: str, **environment: str) -> None:
        def test() -> None:
            done = self.call(*arguments, **environment)
            assert done.returncode == 0, f"code {done.returncode}; stderr: {done.stderr!r}"
            look(done.stdout)
        self.check("reef " + " ".join(arguments), test)


# ---- tests ----------------------------------------------------------------------------------------------------------

def holds(*words: str):
    def look(text: str) -> None:
        for word in words:
            assert word in text, f"{word!r} is not in {text!r}"
    return look


def usage(t: Suite) -> None:
    t.bad(2, ["command"])
    t.bad(2, ["fly", "run"], "fly")
    t.good(holds("usage", "bench"), "--help")
    t.good(holds("reef "), "--version")
    for command in ("run", "inspect", "profile", "bench", "devices"):
        t.good(holds("usage: reef " + command, "examples:", "--help"), command, "--help")
        t.bad(2, ["--frobnicate", command + " --help"], command, "--frobnicate")
        t.bad(2, ["-x"], command, "-x")
    for command in ("run", "inspect", "profile"):
        t.bad(2, ["MODEL.onnx"], command)
        t.bad(2, ["too many"], command, "a.onnx", "b.onnx")
        t.bad(2, ["--units", "0"], command, "relu.onnx", "--units", "0")
        t.bad(2, ["--units", "-1"], command, "relu.onnx", "--units", "-1")
        t.bad(2, ["--units", "many"], command, "relu.onnx", "--units=many")
        t.bad(2, ["--units", "needs"], command, "relu.onnx", "--units")
        t.bad(2, ["warp", "cpu"], command, "relu.onnx", "--device", "warp")
        t.bad(2, ["--shape", "x"], command, "relu.onnx", "--shape", "x")
        t.bad(2, ["--shape"], command, "relu.onnx", "--shape", "x=1x-4")
        t.bad(2, ["--shape"], command, "relu.onnx", "--shape", "x=1x1x1x1x1x1x1x1x1")
        t.bad(2, ["--shape"], command, "relu.onnx", "--shape", "x=99999999999999999999")
        t.bad(2, ["--json", "no value"], command, "relu.onnx", "--json=1")
    t.bad(2, ["--runs"], "profile", "relu.onnx", "--runs", "1e3")
    t.bad(2, ["--input"], "run", "relu.onnx", "--input", "x")
    t.bad(2, ["--input", "twice"], "run", "relu.onnx", "--input", "x=x.npy", "--input", "x=x.npy")
    t.bad(2, ["--random"], "run", "relu.onnx", "--random", "dice")
    t.bad(2, ["--class"], "run", "relu.onnx", "--random", "1", "--class", "best")
    t.bad(2, ["--policy", "fast", "reset"], "run", "relu.onnx", "--random", "1", "--policy", "fast")
    t.bad(2, ["rt-only"], "run", "relu.onnx", "--random", "1", "--policy", "rt-only", "--class", "be")
    t.bad(2, ["--batch"], "run", "relu.onnx", "--batch", "list.txt")
    t.bad(2, ["--batch", "--trace"], "run", "--batch", "list.txt", "--trace", "t.json")
    t.bad(2, ["nice: -n: '1e3'"], "nice", "-n", "1e3", "true")  # an option is named as it was typed
    t.bad(2, ["nice: --level: '1e3'"], "nice", "--level=1e3", "true")
    t.bad(2, ["nice: -n: needs"], "nice", "-n")
    t.bad(2, ["--shape"], "bench", "preempt", "--shape", "x=1x", "--be", "relu.onnx")
    t.bad(2, ["--shape"], "bench", "A", "--shape", "x=1")
    t.bad(2, ["fast", "reset"], "bench", "A", "--policy", "reset,fast")
    t.bad(2, ["''"], "bench", "A", "--policy", "reset,")
    t.bad(2, ["warp"], "bench", "A", "--policy", "reset", "--device", "warp")
    t.bad(2, ["preempt"], "bench", "A", "preempt")
    t.bad(2, ["padding"], "bench", "padding", "A")
    for text in ("relu", "relu:", ":relu", "a:b:c"):
        t.bad(2, ["--pairs", text], "bench", "padding", "--pairs", text)
    t.bad(2, ["--pairs", "twice"], "bench", "padding", "--pairs", "a:b,b:a,a:b")
    t.bad(2, ["--pairs"], "bench", "A", "--pairs", "a:b")
    t.bad(2, ["--think"], "bench", "preempt", "--think", "5")
    t.bad(2, ["--think"], "bench", "padding", "--think", "1.5")
    t.bad(2, ["--form", "padding"], "bench", "padding", "--form", "both")
    t.bad(2, ["--be"], "bench", "padding", "--be", "relu.onnx")
    t.bad(2, ["--rounds"], "bench", "A", "--rounds", "0")
    t.bad(2, ["--form"], "bench", "A", "--policy", "reset", "--form", "round")
    t.bad(2, ["--seconds"], "bench", "A", "--policy", "reset", "--seconds", "nan")
    t.bad(2, ["--seconds"], "bench", "A", "--policy", "reset", "--seconds", "-1")
    t.bad(2, ["--synthetic", "10x2"], "bench", "preempt", "--policy", "reset", "--synthetic", "10x2")
    t.bad(2, ["--synthetic", "-1x2x1000"], "bench", "preempt", "--policy", "reset", "--synthetic", "-1x2x1000")
    for text in ("10xms", "10x0ms", "0x1ms", "10x1s", "10x-1ms", "10x1msx", "10xnanms", "10x1e99ms", "x", ""):
        t.bad(2, ["--synthetic"], "bench", "preempt", "--policy", "reset", "--synthetic", text)
    t.bad(2, ["--be"], "bench", "A", "--policy", "reset", "--be", "relu.onnx")


def files(t: Suite) -> None:
    for command in ("inspect", "profile"):
        t.bad(1, ["gone.onnx"], command, "gone.onnx")
    for name in ("gone", "text", "empty"):
        t.bad(1, [name + ".onnx"], "run", name + ".onnx", "--random", "1")
    t.bad(1, ["nothing"], "run", "nothing", "--random", "1")
    if not t.fake:
        t.bad(1, ["short.onnx"], "run", "short.onnx", "--random", "1")
        t.bad(1, ["odd.onnx", "NoSuchOperator", "the_node"], "run", "odd.onnx", "--random", "1")
    t.bad(1, ["x", "--random"], "run", "relu.onnx")
    t.bad(1, ["gone.npy"], "run", "relu.onnx", "--input", "x=gone.npy")
    t.bad(1, ["gone.npy"], "run", "gone.onnx", "--input", "x=gone.npy")  # the cheap check comes first
    t.bad(1, ["text.npy"], "run", "relu.onnx", "--input", "x=text.npy")
    t.bad(1, ["cut.npy", "bytes"], "run", "relu.onnx", "--input", "x=cut.npy")
    t.bad(1, ["huge.npy"], "run", "relu.onnx", "--input", "x=huge.npy")
    t.bad(1, ["nothing"], "run", "relu.onnx", "--input", "x=nothing")
    t.bad(1, ["ints.npy", "int64", "float32", "'x'"], "run", "relu.onnx", "--input", "x=ints.npy")
    t.bad(1, ["x"], "run", "relu.onnx", "--input", "x=wide.npy")
    t.bad(1, ["x"], "run", "relu.onnx", "--input", "x=flat.npy")
    t.bad(1, ["z"], "run", "relu.onnx", "--input", "x=x.npy", "--input", "z=x.npy")
    t.bad(1, ["x"], "run", "relu.onnx", "--random", "1", "--shape", "x=2x9")
    t.bad(1, ["text.npy"], "run", "relu.onnx", "--random", "1", "--output", "text.npy")
    t.bad(1, ["gone.txt"], "run", "--batch", "gone.txt")
    t.bad(1, ["gone.json", "REAL"], "bench", "gone.json", "--policy", "reset")
    t.bad(1, ["broken.json", "line 1"], "bench", "broken.json", "--policy", "reset")
    t.bad(1, ["field.json", "rt", "prioriti"], "bench", "field.json", "--policy", "reset")
    t.bad(1, ["rt", "gone.onnx"], "bench", "nomodel.json", "--policy", "reset")
    t.bad(1, ["rt", "ints.npy", "int64"], "bench", "badinput.json", "--policy", "reset")
    t.bad(1, ["vgg19", "--models"], "bench", "A", "--policy", "reset", "--models", "nothing")
    t.bad(1, ["no/such"], "bench", "good.json", "--policy", "reset", "--json", "no/such/file")
    t.bad(1, ["no/such"], "bench", "good.json", "--policy", "reset", "--chart", "no/such/file")
    t.bad(1, ["no/such", "--trace"], "bench", "good.json", "--policy", "reset", "--trace", "no/such/file")
    t.bad(1, ["no/such", "--trace"], "bench", "preempt", "--trace", "no/such/file")
    t.bad(1, ["no/such", "--trace"], "run", "relu.onnx", "--random", "1", "--trace", "no/such/file")
    t.bad(1, ["nothing"], "bench", "preempt", "--policy", "reset", "--models", "nothing")
    t.bad(1, ["gone.onnx"], "bench", "preempt", "--policy", "reset", "--be", "gone.onnx")
    t.bad(1, ["rt-only"], "bench", "preempt", "--policy", "rt-only")
    t.bad(1, ["rt-gone", "nothing/gone.onnx", "--models"], "bench", "padding", "--pairs", "gone:relu", "--models", "nothing")
    t.bad(1, ["text.onnx"], "bench", "padding", "--pairs", "relu.onnx:text.onnx")
    t.bad(1, ["no/such", "--json"], "bench", "padding", "--pairs", "relu.onnx:relu.onnx", "--json", "no/such/file")


def reported(t: Suite) -> None:
    """tools/trace_report.py on the timeline t.json of ten idle and ten loaded requests, and on what is none."""
    tool = Path(__file__).resolve().parents[2] / "tools" / "trace_report.py"

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, str(tool), *arguments], cwd=t.folder, capture_output=True, text=True)

    def timeline() -> None:
        done = run("t.json", "--json", "report.json")
        assert done.returncode == 0, done.stderr
        (row,) = json.loads((t.folder / "report.json").read_text())["parts"]
        steps = {step["name"]: step for step in row["steps"]}
        assert steps["RT request: whole"]["n"] == 20, steps
        if not t.fake:  # whose device tells of no launch
            assert steps["RT launch, first tile to last"]["p50_us"] > 0 and steps["BE leaves the device"]["n"] > 0, steps
        assert 0.99 < sum(row["shares"].values()) < 1.01, row["shares"]
        assert "RT request: whole" in done.stdout and row["part"] in done.stdout, done.stdout
    t.check("trace_report t.json", timeline)

    def unwritable() -> None:
        done = run("t.json", "--json", "no/such/file")
        assert done.returncode == 1 and "--json: no/such/file" in done.stderr and done.stderr.count("\n") == 1, done
    t.check("trace_report --json", unwritable)
    for name, data in (("none.json", None), ("half.json", b'{"traceEvents": ['), ("other.json", b'{"traceEvents": 5}'),
                       ("nothing.json", b'{"traceEvents": []}'), ("cut.json.gz", b"\x1f\x8b\x08"),
                       ("damaged.json.gz", b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 40), ("deep.json", b"[" * 100000),
                       (".", None)):
        def refused(name=name, data=data) -> None:
            if data is not None:
                (t.folder / name).write_bytes(data)
            done = run(name)
            assert done.returncode == 1 and name in done.stderr and done.stderr.count("\n") == 1, done
        t.check(f"trace_report {name}", refused)


def work(t: Suite) -> None:
    def ran(text: str) -> None:
        result = json.loads(text)
        assert result["device"] == "cpu" and result["units"] == 2 and result["latency_us"]["n"] == 3, result
        output = result["outputs"][0]
        assert output["name"] == "y" and output["dtype"] == "float32" and output["shape"] == [1, 4], output
        data = (t.folder / output["file"]).read_bytes()
        assert struct.unpack("<4f", data[-16:]) == (0.0, 2.0, 0.0, 4.0), data
        assert data[8] + 256 * data[9] + 10 == len(data) - 16 and (len(data) - 16) % 64 == 0, data
    t.good(ran, "run", "relu.onnx", "--input", "x=x.npy", "--output", "out", "--units", "2", "--repeat", "3", "--json")
    t.good(holds("y: float32 1x4", "latency"), "run", "relu.onnx", "--random", "1", "--class", "be", "--policy", "reset")
    t.good(holds("y: "), "run", "--random=7", "--", "relu.onnx")

    def batch() -> None:
        done = t.call("run", "--batch", "list.txt")
        lines = done.stdout.splitlines()
        assert done.returncode == 1 and len(lines) == 4, done
        assert [line.split()[0] for line in lines] == ["ok", "FAIL", "ok", "FAIL"], lines
        assert "text.onnx" in lines[1] and "line 4" in lines[3], lines
        for line in lines:
            t.named_once(line)
        assert (t.folder / "out_a" / "y.npy").exists() and (t.folder / "out_c" / "y.npy").exists()
    t.check("batch goes on after a failure", batch)

    def inspected(text: str) -> None:
        result = json.loads(text)
        assert result["inputs"][0] == {"name": "x", "dtype": "float32", "shape": [1, 4], "bytes": 16}, result["inputs"]
        assert len(result["kernels"]) == result["n_kernels"] and "buffers" in result, result
        for kernel in result["kernels"]:
            assert kernel["preemptible"] or kernel["why_not"], kernel
    t.good(inspected, "inspect", "relu.onnx", "--json")
    t.good(holds("input", "output", "kernels"), "inspect", "relu.onnx")
    if t.fake:  # its kernel cannot be stopped inside
        t.good(holds("1 kernels, 0 of them preemptible", "not preemptible: it only sleeps"), "inspect", "relu.onnx")
        t.good(holds("1 of 1 kernels are not preemptible inside", "relu: it only sleeps"), "bench", "good.json", "--policy",
               "reset", "--seconds", "0.1", "--warmup", "0", "--form", "published")
    t.good(inspected, "profile", "relu.onnx", "--runs", "3", "--json")
    t.good(lambda text: json.loads(text)["devices"][0]["name"] == "cpu" or sys.exit(text), "devices", "--json")
    t.good(holds("cpu", "reset"), "devices")

    def benched(text: str) -> None:
        holds("0 differ", "reset")(text)
        result = json.loads((t.folder / "r.json").read_text())
        assert [row["policy"] for row in result["rows"]] == ["rt-only", "reset"], result
        for row in result["rows"]:
            for key in ("form", "rt_p50_us", "rt_p90_us", "rt_p99_us", "rt_p999_us", "rt_max_us", "rt_alone_p50_us",
                        "rt_alone_p99_us", "rt_n", "rt_per_s", "be_per_s", "be_work_share", "idle_share", "slo_pct", "drops",
                        "deadline_missed", "preemptions", "tiles_abandoned", "be_lost_pct", "mismatches", "workload",
                        "requests_ratio", "work_ratio", "be_idle_share", "rt_busy_share", "rt_submitted_p50_us",
                        "generator_late_p99_us", "clients"):
                assert key in row, key
            assert row["mismatches"] == 0 and row["rt_n"] > 0, row
        assert result["rows"][0]["be_per_s"] == 0, result
        xml.etree.ElementTree.parse(t.folder / "r.svg")
    t.good(benched, "bench", "good.json", "--policy", "reset", "--seconds", "0.5", "--warmup", "0.1", "--form",
           "published", "--json", "r.json", "--chart", "r.svg")

    def traced(requests: int):
        """The timeline holds so many real-time requests and nests."""
        def look(_: str) -> None:
            events = json.loads((t.folder / "t.json").read_text())["traceEvents"]
            begun = [event for event in events if event["ph"] == "b" and event["name"].startswith("RT ")]
            assert len(begun) == requests, (len(begun), requests)
            depth = {}
            for event in events:
                if event["ph"] in "be":
                    depth[event["id"]] = depth.get(event["id"], 0) + (1 if event["ph"] == "b" else -1)
                    assert 0 <= depth[event["id"]] <= 2, event
            assert not any(depth.values()), depth
        return look
    t.good(traced(4), "run", "relu.onnx", "--random", "1", "--repeat", "3", "--trace", "t.json")
    t.good(traced(2 * 10), "bench", "preempt", "--policy", "reset", "--synthetic", "3x2x300", "--count", "10", "--trace",
           "t.json")
    reported(t)

    def preempted(text: str) -> None:
        holds("wait", "reset")(text)
        rows = json.loads((t.folder / "p.json").read_text())["rows"]
        assert [row["mechanism"] for row in rows] == ["wait", "reset"] * 3, rows
        assert [row["be"] for row in rows[::2]] == ["3 kernels x 2 tiles x 300 us", "4 kernels x 0.5 ms", "relu"], rows
        for row in rows:
            for key in ("be", "idle_p50_us", "idle_p99_us", "p50_us", "p99_us", "max_us", "call_p50_us", "call_p99_us", "due_p50_us",
                        "due_p99_us", "n",
                        "be_lost_pct"):
                assert key in row, key
            assert list(row["steps"]) == ["wake", "submit", "launch", "device", "run", "told"] == list(row["idle_steps"]), row
        xml.etree.ElementTree.parse(t.folder / "p.svg")
    t.good(preempted, "bench", "preempt", "--policy", "wait,reset", "--synthetic", "3x2x300,4x500us", "--be", "relu.onnx", "--count",
           "10", "--json", "p.json", "--chart", "p.svg")

    def padded(text: str) -> None:
        holds("relu beside odd/conv.onnx; alone", "streams", "0 differ")(text)
        result = json.loads((t.folder / "d.json").read_text())
        pairs = [("relu", "odd/conv.onnx"), ("odd/conv.onnx", "odd/conv.onnx")]
        rows = result["rows"]
        assert [(row["rt"], row["be"], row["policy"]) for row in rows] == [(*pair, p) for pair in pairs for p in ("pad", "streams")], rows
        for row in rows:
            for key in ("rt_overhead_p50_pct", "rt_overhead_p99_pct", "be_work_share", "rt_alone_p50_us", "rt_p50_us", "rt_p99_us", "n",
                        "be_per_s", "padded_tiles", "rt_busy_share"):
                assert isinstance(row[key], (int, float)), (key, row)
            assert row["n"] > 0 and row["compared"] >= row["n"] and row["mismatches"] == 0 and row["failed"] == 0, row
            assert abs(row["rt_p50_us"] / row["rt_alone_p50_us"] - 1 - row["rt_overhead_p50_pct"] / 100) < 0.01, row
        summary = result["summary"]
        assert list(summary["empty_pad_overhead_pct"]) == ["relu", "odd/conv.onnx"], summary
        padded = {"128": 0, "64": 1, "none": 0}  # of the fake; other processors need no kernels of their own for it
        assert summary["padded_kernels"] == ({"relu": padded, "odd/conv.onnx": padded} if t.fake else {}), summary
        assert isinstance(summary["proxy_bytes"], int) and isinstance(summary["selection_ns_p50"], int), summary
        assert list(summary["policies"]) == ["pad", "streams"] and summary["policies"]["pad"]["pairs"] == 2, summary
        assert [model["model"] for model in result["models"]] == ["relu", "odd/conv.onnx"], result["models"]  # each loaded once
        xml.etree.ElementTree.parse(t.folder / "d.svg")
    (t.folder / "odd").mkdir()
    (t.folder / "odd" / "conv.onnx").write_bytes(conv_model())
    pairs = ("bench", "padding", "--pairs", "relu:odd/conv.onnx,odd/conv.onnx:odd/conv.onnx", "--models", ".")
    t.good(padded, *pairs, "--policies", "pad,streams", "--seconds", "0.1", "--think", "100", "--json", "d.json", "--chart", "d.svg")
    if t.fake:  # which can be told that it has no padding
        t.good(holds("cannot run it: pad", "lease", "priority"), *pairs, "--seconds", "0.05", FAKE_REEF_NO_PAD="1")


def damaged_models(t: Suite) -> None:
    """Every truncation and every flipped bit of a model, through one process that must live to the end."""
    def test() -> None:
        whole = conv_model()
        damaged = [whole] + [whole[:size] for size in range(len(whole))]
        for position in range(len(whole) * 8):
            copy = bytearray(whole)
            copy[position // 8] ^= 1 << position % 8
            damaged.append(bytes(copy))
        damaged.append(whole)
        (t.folder / "damaged").mkdir()
        (t.folder / "damaged" / "in_0.npy").write_bytes(npy([0.01 * i for i in range(50)], shape="(1, 2, 5, 5)"))
        for number, data in enumerate(damaged):
            (t.folder / "damaged" / f"{number}.onnx").write_bytes(data)
        (t.folder / "damaged.txt").write_text("".join(f"damaged/{number}.onnx damaged damaged_out\n" for number in range(len(damaged))))
        # Sanitizers would otherwise take a huge size, which is the model's fault, for ours.
        done = t.call("run", "--batch", "damaged.txt", "--units", "2",
                      ASAN_OPTIONS="allocator_may_return_null=1:" + os.environ.get("ASAN_OPTIONS", ""))
        lines = done.stdout.split("\n")[:-1]
        failed = [line for line in lines if line.startswith("FAIL ")]
        assert done.returncode == 1, f"code {done.returncode}: {done.stderr[-2000:]}"
        assert len(lines) == len(damaged), f"{len(lines)} answers to {len(damaged)} models"
        assert lines[0].startswith("ok ") and lines[-1].startswith("ok "), (lines[0], lines[-1])
        assert len(failed) + sum(line.startswith("ok ") for line in lines) == len(lines), lines
        assert len(failed) > len(whole), f"only {len(failed)} were refused"
        for line in failed:
            assert len(line.split(None, 2)) == 3 and "INTERNAL" not in line and "bug" not in line, line
    t.check("damaged models", test)


def wrong_answers(t: Suite) -> None:
    def test() -> None:
        done = t.call("bench", "good.json", "--policy", "reset", "--seconds", "0.5", "--warmup", "0", "--rounds", "1",
                      FAKE_REEF_WRONG="310")
        assert done.returncode == 1 and "WRONG" in done.stdout and "differ" in done.stderr, done
        for word in ("under ", "client ", "request ", "output 'y'"):  # which answer it was
            assert word in done.stderr, done
    t.check("an answer that differs by one bit fails the benchmark", test)

    def padding() -> None:
        done = t.call("bench", "padding", "--pairs", "relu.onnx:relu.onnx", "--policy", "streams", "--seconds", "0.5", "--rounds", "1",
                      FAKE_REEF_WRONG="310")  # one round: no run alone comes after the load
        assert done.returncode == 1 and "WRONG" in done.stdout and "differ" in done.stderr, done
        for word in ("relu.onnx beside relu.onnx", "under ", "client ", "output 'y'"):
            assert word in done.stderr, done
    t.check("an answer that differs by one bit fails the benchmark of padding", padding)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reef", type=Path, required=True, help="the program to test")
    parser.add_argument("--fake", action="store_true", help="it is reef-fake")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite = Suite(arguments.reef, arguments.fake, Path(folder))
        usage(suite)
        files(suite)
        work(suite)
        if suite.fake:
            wrong_answers(suite)
        else:
            damaged_models(suite)
    print(f"{suite.passed} passed, {suite.failed} failed")
    return 1 if suite.failed else 0


if __name__ == "__main__":
    sys.exit(main())
