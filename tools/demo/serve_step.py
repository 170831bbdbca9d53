"""The demo's last step: the recogniser behind `reef serve`, asked with curl and with an unmodified tritonclient."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, List

import numpy as np
from reeflib import ToolError


def start(program: Path, folder: Path, extra: List[str]) -> "tuple[subprocess.Popen, str]":
    log = folder / "serve.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [str(program), "serve", str(folder / "models"), "--listen", "127.0.0.1:0", *extra], stderr=stream
        )
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"event=listening .*port=(\d+)", log.read_text())
        if found:
            return process, f"127.0.0.1:{found.group(1)}"
        time.sleep(0.02)
    process.kill()
    raise ToolError(f"reef serve does not start; {log} says why")


def curl(*arguments: str) -> Dict:
    result = subprocess.run(["curl", "-sS", "--retry", "20", "--retry-delay", "1", *arguments], capture_output=True, text=True)
    if result.returncode:
        raise ToolError(f"curl {arguments[-1]}: {result.stderr.strip()}")
    return json.loads(result.stdout) if result.stdout else {}


def ask(program: Path, model: Path, feed: np.ndarray, expected: np.ndarray, output: str, out: Path, extra: List[str]) -> None:
    """Raises ToolError unless both clients get the engine's own answer."""
    import tritonclient.http as triton

    folder = out / "serve"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "rec.onnx").symlink_to(model.resolve())
    (folder / "models" / "rec.json").write_text(json.dumps({"class": "rt", "shapes": {"x": list(feed.shape)}}) + "\n")
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(feed.shape), "data": feed.flatten().tolist()}]}
    (folder / "request.json").write_text(json.dumps(request))
    process, address = start(program, folder, extra)
    try:
        curl("-f", f"http://{address}/v2/health/ready")  # 503 until the model is loaded: asked again
        about = curl(f"http://{address}/v2/models/rec")
        print(f"curl: model {about['name']}, inputs {about['inputs']}")
        answer = curl("--data", f"@{folder / 'request.json'}", f"http://{address}/v2/models/rec/infer")
        got = np.array(answer["outputs"][0]["data"], np.float32).reshape(answer["outputs"][0]["shape"])
        if not np.array_equal(got, expected):
            raise ToolError("curl got another answer than the engine gives")
        with triton.InferenceServerClient(address) as client:
            value = triton.InferInput("x", list(feed.shape), "FP32")
            value.set_data_from_numpy(feed)
            times = []
            for _ in range(10):
                begin = time.monotonic()
                result = client.infer("rec", [value], outputs=[triton.InferRequestedOutput(output)], priority=1)
                times.append(time.monotonic() - begin)
            if not np.array_equal(result.as_numpy(output), expected):
                raise ToolError("tritonclient got another answer than the engine gives")
            print(f"tritonclient: the same answer, {sorted(times)[5] * 1e3:.1f} ms per request (median of 10)")
        process.send_signal(signal.SIGTERM)
        if process.wait(60):
            raise ToolError(f"reef serve ended with {process.returncode}; {folder / 'serve.log'} says why")
        print("reef serve: shut down")
    finally:
        if process.poll() is None:
            process.kill()
