"""A reef server to test: models, the process, raw connections. Shared by the tests, the load test and the measurements."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]


def save(path: Path, nodes, inputs, outputs, weights: Dict[str, np.ndarray]) -> None:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def permutation_model(path: Path, rows, width: int, layers: int, shift: int = 1) -> None:
    """y = x with its columns rotated `shift` times per layer: exact whatever the order of sums, and easy to check."""
    wheel = np.roll(np.eye(width, dtype=np.float32), shift, axis=1)
    nodes = [
        helper.make_node("MatMul", ["x" if i == 0 else f"h{i}", "w"], ["y" if i + 1 == layers else f"h{i + 1}"])
        for i in range(layers)
    ]
    save(path, nodes, [("x", TensorProto.FLOAT, [rows, width])], [("y", TensorProto.FLOAT, [rows, width])], {"w": wheel})


def permuted(x: np.ndarray, layers: int, shift: int = 1) -> np.ndarray:
    return np.roll(x, shift * layers, axis=-1)


def types_model(path: Path) -> None:
    """An output per type: doubled floats, an int64 sum, an int32 difference, a truth value turned over."""
    save(
        path,
        [
            helper.make_node("Add", ["f", "f"], ["f2"]),
            helper.make_node("Add", ["l", "l"], ["l2"]),
            helper.make_node("Gather", ["table", "l"], ["row"], axis=0),
        ],
        [("f", TensorProto.FLOAT, [2, 3]), ("l", TensorProto.INT64, [4])],
        [("f2", TensorProto.FLOAT, [2, 3]), ("l2", TensorProto.INT64, [4]), ("row", TensorProto.FLOAT, [4, 2])],
        {"table": np.arange(20, dtype=np.float32).reshape(10, 2)},
    )


class Server:
    """reef serve on a free port, in a folder of its own."""

    def __init__(self, reef: Path, models: Path, *options: str, env: Optional[Dict[str, str]] = None) -> None:
        self.log = tempfile.NamedTemporaryFile("w+", prefix="reef-serve-", suffix=".log")
        self.process = subprocess.Popen(
            [str(reef), "serve", str(models), "--listen", "127.0.0.1:0", *options],
            stderr=self.log,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )
        self.port = int(self.wait_log(r"event=listening .*port=(\d+)").group(1))
        self.address = f"127.0.0.1:{self.port}"

    def text(self) -> str:
        return Path(self.log.name).read_text(errors="replace")

    def wait_log(self, pattern: str, seconds: float = 30, count: int = 1) -> "re.Match[str]":
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = list(re.finditer(pattern, self.text()))
            if len(found) >= count:
                return found[-1]
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.text()}")
            time.sleep(0.02)
        raise AssertionError(f"no '{pattern}' in the log:\n{self.text()}")

    def worker(self) -> int:
        return int(self.wait_log(r"event=listening .*pid=(\d+)").group(1))

    def http(self, method: str, path: str, body: bytes = b"", headers: Sequence[str] = ()) -> Tuple[int, Dict[str, str], bytes]:
        with self.connect() as connection:
            lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}", *headers]
            connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            return read_answer(connection)

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def wait_ready(self, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                if self.http("GET", "/v2/health/ready")[0] == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"the server does not become ready:\n{self.text()}")

    def metric(self, name: str) -> float:
        for line in self.http("GET", "/metrics")[2].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {name}")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the server does not end:\n{self.text()}") from None


def read_answer(connection: socket.socket) -> Tuple[int, Dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        got = connection.recv(65536)
        if not got:
            raise ValueError(f"the connection ended after {data!r}")
        data += got
    head, body = data.split(b"\r\n\r\n", 1)
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    while len(body) < int(headers.get("content-length", "0")):
        got = connection.recv(65536)
        if not got:
            raise ValueError("the connection ended inside a body")
        body += got
    return int(lines[0].split()[1]), headers, body


@contextlib.contextmanager
def serving(reef: Path, models: Path, *options: str, env: Optional[Dict[str, str]] = None, clean: bool = True) -> Iterator[Server]:
    server = Server(reef, models, *options, env=env)
    try:
        server.wait_ready()
        yield server
        code = server.stop()
        if clean and code != 0:
            raise AssertionError(f"the server ended with {code}:\n{server.text()}")
        if "Sanitizer" in server.text() or "runtime error" in server.text():
            raise AssertionError(f"a sanitizer has something to say:\n{server.text()}")
    except BaseException:
        sys.stderr.write(server.text()[-6000:])
        raise
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def memory_of(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def files_of(pid: int) -> List[str]:
    return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
