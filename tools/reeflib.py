"""What the Python tools and the oracle tests share: feeds for a model, the `reef` command, comparing answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parent.parent
Shapes = Dict[str, Tuple[int, ...]]
Arrays = Dict[str, np.ndarray]

# What a dynamic dimension becomes when nobody says otherwise.
DEFAULT_BATCH = 1
DEFAULT_SEQUENCE = 128


class ToolError(Exception):
    """Something outside went wrong; its text is one line for the user."""


def fail(message: str) -> NoReturn:
    sys.exit(f"{Path(sys.argv[0]).name}: {message}")


class Progress:
    """One line that counts up on a terminal; silent lines in a log."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self.live = sys.stderr.isatty()

    def step(self, what: str = "") -> None:
        self.done += 1
        if self.live:
            end = "\n" if self.done == self.total else ""
            print(f"\r\033[K{self.label} {self.done}/{self.total} {what}", end=end, file=sys.stderr, flush=True)


# ---- models and feeds ------------------------------------------------------------------------------------------------


def real_inputs(model: onnx.ModelProto) -> List[onnx.ValueInfoProto]:
    """Inputs a caller must give: old files also list every initializer among the inputs."""
    given = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in given]


def fixed_shapes(model: onnx.ModelProto, wanted: Optional[Mapping[str, Sequence[int]]] = None) -> Shapes:
    """A concrete shape per input: `wanted` where given, else the file's, with 1 for the batch and 128 for a sequence."""
    shapes: Shapes = {}
    for value in real_inputs(model):
        dims = value.type.tensor_type.shape.dim
        if wanted and value.name in wanted:
            shapes[value.name] = tuple(wanted[value.name])
        else:
            shapes[value.name] = tuple(
                dim.dim_value if dim.dim_value > 0 else DEFAULT_BATCH if axis == 0 else DEFAULT_SEQUENCE
                for axis, dim in enumerate(dims)
            )
    return shapes


def is_dynamic(model: onnx.ModelProto) -> bool:
    return any(dim.dim_value <= 0 for value in real_inputs(model) for dim in value.type.tensor_type.shape.dim)


def random_feeds(model: onnx.ModelProto, shapes: Shapes, seed: int) -> Arrays:
    """Seeded inputs: normal floats, small indices, and for masks a run of ones that ends somewhere in the second half."""
    rng = np.random.default_rng(seed)
    feeds: Arrays = {}
    for value in real_inputs(model):
        shape = shapes[value.name]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if "mask" in value.name:
            ends = rng.integers(shape[-1] // 2, shape[-1] + 1, size=shape[:-1] + (1,))
            feeds[value.name] = (np.arange(shape[-1]) < ends).astype(dtype)
        elif np.issubdtype(dtype, np.floating):
            feeds[value.name] = rng.standard_normal(shape, dtype=np.float32).astype(dtype)
        elif dtype == np.bool_:
            feeds[value.name] = rng.integers(0, 2, size=shape).astype(dtype)
        else:
            feeds[value.name] = rng.integers(0, 1000, size=shape).astype(dtype)
    return feeds


def output_names(model: onnx.ModelProto) -> List[str]:
    return [value.name for value in model.graph.output]


def onnxruntime_session(model: "str | bytes", threads: int = 2, optimise: bool = True):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# ---- the reef command ------------------------------------------------------------------------------------------------


def output_file(folder: Path, name: str) -> Path:
    """Where `reef run --output` puts an output: what is unusual in a name becomes an underscore."""
    return folder / (re.sub(r"[^A-Za-z0-9._-]", "_", name) + ".npy")


def shape_text(shape: Sequence[int]) -> str:
    return "x".join(str(dim) for dim in shape)


class Reef:
    """Runs the `reef` command; one process per call."""

    def __init__(self, binary: Path, extra: Sequence[str] = (), timeout_s: float = 300) -> None:
        self.binary, self.extra, self.timeout_s = Path(binary), list(extra), timeout_s
        if not self.binary.exists():
            raise ToolError(f"no such program: {binary} (build it with `make`)")

    def call(self, arguments: Sequence[str], quiet: bool = True) -> str:
        """Runs reef and returns its stdout. With quiet=False its progress goes straight to our stderr."""
        command = [str(self.binary), *arguments]
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if quiet else None,
                text=True,
                timeout=self.timeout_s,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise ToolError(f"reef {arguments[0]} took longer than {self.timeout_s:.0f} s") from None
        except OSError as error:
            raise ToolError(f"cannot run {self.binary}: {error.strerror}") from None
        if done.returncode != 0:
            said = (done.stderr or "").strip().splitlines()
            raise ToolError(f"reef {arguments[0]} ended with {done.returncode}: {said[-1] if said else 'no message'}")
        return done.stdout

    def run(
        self, model: Path, feeds: Arrays, names: Sequence[str], folder: Path, shapes: bool = False
    ) -> List[np.ndarray]:
        """One inference: writes the feeds into `folder`, returns the outputs in the order of `names`."""
        folder.mkdir(parents=True, exist_ok=True)
        arguments = ["run", str(model), "--output", str(folder), *self.extra]
        for number, (name, array) in enumerate(feeds.items()):
            file = folder / f"feed_{number}.npy"
            np.save(file, array)
            arguments += ["--input", f"{name}={file}"]
            if shapes:
                arguments += ["--shape", f"{name}={shape_text(array.shape)}"]
        for name in names:
            output_file(folder, name).unlink(missing_ok=True)
        self.call(arguments)
        return read_outputs(folder, names)

    def latency(self, model: Path, shapes: Shapes, repeat: int) -> Dict[str, float]:
        """Microseconds (p50, p99, min ...) of `repeat` runs on random input."""
        arguments = ["run", str(model), "--random", "1", "--repeat", str(repeat), "--json", *self.extra]
        for name, shape in shapes.items():
            arguments += ["--shape", f"{name}={shape_text(shape)}"]
        text = self.call(arguments)
        try:
            return {key: float(value) for key, value in json.loads(text)["latency_us"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ToolError(f"reef run --json printed no latency_us: {text[:80]!r}") from None


def read_outputs(folder: Path, names: Sequence[str]) -> List[np.ndarray]:
    arrays = []
    for name in names:
        file = output_file(folder, name)
        try:
            arrays.append(np.load(file, allow_pickle=False))
        except FileNotFoundError:
            raise ToolError(f"reef wrote no {file.name}") from None
        except ValueError as error:
            raise ToolError(f"{file.name}: {error}") from None
    return arrays


# ---- comparing -------------------------------------------------------------------------------------------------------

TOLERANCE = 1e-4


def difference(expected: np.ndarray, got: np.ndarray, tolerance: float = TOLERANCE) -> Tuple[float, str]:
    """(error, complaint): the largest error relative to the largest expected value; complaint is "" if all is well.

    Integers and booleans must be equal. NaN and infinity must be in the same places.
    """
    if got.shape != expected.shape:
        return float("inf"), f"shape {list(got.shape)}, expected {list(expected.shape)}"
    if got.dtype != expected.dtype:
        return float("inf"), f"type {got.dtype}, expected {expected.dtype}"
    if expected.size == 0:
        return 0.0, ""
    if not np.issubdtype(expected.dtype, np.floating):
        wrong = int(np.count_nonzero(expected != got))
        return float(wrong), f"{wrong} of {expected.size} values differ" if wrong else ""
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], got[~finite], equal_nan=True):
        return float("inf"), "NaN or infinity in other places"
    if not np.isfinite(got[finite]).all():
        where = np.argwhere(finite & ~np.isfinite(got))[0].tolist()
        return float("inf"), f"not finite at {where}"
    if not finite.any():
        return 0.0, ""
    error = np.where(finite, np.abs(np.where(finite, expected, 0).astype(np.float64) - np.where(finite, got, 0)), 0)
    scale = max(float(np.abs(expected[finite]).max()), 1e-30)
    worst = float(error.max()) / scale
    if worst > tolerance:
        where = np.unravel_index(int(error.argmax()), error.shape)
        return worst, (
            f"error {worst:.2e} of scale {scale:.3g} at {[int(i) for i in where]}: "
            f"{got[where]:.6g}, expected {expected[where]:.6g}"
        )
    return worst, ""
