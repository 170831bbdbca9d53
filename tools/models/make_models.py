#!/usr/bin/env python3
"""Writes complete .onnx files from the graphs in models/graphs/, with weights drawn from a seed.

The answers mean nothing, but the arithmetic is that of the real networks: weights are scaled so that activations keep
their size through every layer. The same seed gives the same bytes. A file that is up to date is left alone.

Examples:
  python3 tools/models/make_models.py                       # the five DISB networks, into build/models
  python3 tools/models/make_models.py --all --check         # every variant, and look at every activation
  python3 tools/models/make_models.py --out /tmp/m vgg19
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
try:
    import numpy as np
    import onnx
    from reeflib import ROOT, ToolError, fail, fixed_shapes, onnxruntime_session, output_names, random_feeds
except ImportError as missing:
    sys.exit(f"make_models.py: {missing.name} is missing: run tools/venv.sh, then use .venv/bin/python")
import stripped

FIVE = ("resnet152", "densenet201", "vgg19", "inception_v3", "distilbert")
Consumers = Dict[str, List[Tuple[onnx.NodeProto, int]]]

RESIDUAL = 0.2  # a residual branch adds this much of its input's size, so that 50 blocks do not add up
SMALL = 0.02  # standard deviation of biases, running means and transformer weights
NEAR_ONE = 0.1  # half the width of the interval around 1 for scales and variances


# ---- which weight plays which part -----------------------------------------------------------------------------------


def consumers_of(graph: onnx.GraphProto) -> Consumers:
    consumers: Consumers = defaultdict(list)
    for node in graph.node:
        for position, name in enumerate(node.input):
            consumers[name].append((node, position))
    return consumers


def ends_residual_branch(node: onnx.NodeProto, consumers: Consumers, producers: Dict[str, onnx.NodeProto]) -> bool:
    """True for the last Conv or BatchNormalization of a branch that an Add joins with its shortcut.

    A shortcut may have a convolution of its own; exporters write the branch first: Add(branch, shortcut).
    """
    for adder, position in consumers[node.output[0]]:
        if adder.op_type == "Add":
            other = producers.get(adder.input[1 - position])
            if position == 0 or other is None or other.op_type not in ("Conv", "BatchNormalization"):
                return True
    return False


def integer_attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def weight(
    tensor: onnx.TensorProto, rng: np.random.Generator, consumers: Consumers, producers: Dict[str, onnx.NodeProto]
) -> np.ndarray:
    """Draws one tensor, by what its first consumer does with it."""
    dims = tuple(tensor.dims)

    def normal(deviation: float) -> np.ndarray:
        values = rng.standard_normal(dims, dtype=np.float32)
        values *= np.float32(deviation)
        return values

    def near(value: float) -> np.ndarray:
        return (value * (1 + NEAR_ONE * (2 * rng.random(dims, dtype=np.float32) - 1))).astype(np.float32)

    node, position = consumers[tensor.name][0] if consumers[tensor.name] else (onnx.NodeProto(), 0)
    if node.op_type in ("Conv", "ConvTranspose") and position == 1:
        fan_in = math.prod(dims[1:])
        return normal(math.sqrt(2 / fan_in) * (RESIDUAL if ends_residual_branch(node, consumers, producers) else 1))
    if node.op_type == "Gemm" and position == 1:
        fan_in = dims[1] if integer_attribute(node, "transB", 0) else dims[0]
        rectified = any(after.op_type == "Relu" for after, _ in consumers[node.output[0]])
        return normal(math.sqrt((2 if rectified else 1) / fan_in))
    if node.op_type == "BatchNormalization" and position in (1, 4):
        return near(RESIDUAL if position == 1 and ends_residual_branch(node, consumers, producers) else 1)
    if (node.op_type == "LayerNormalization" and position == 1) or (node.op_type == "Mul" and len(dims) == 1):
        return near(1)
    return normal(SMALL)  # biases, running means, embeddings, transformer matrices


def fill(model: onnx.ModelProto, name: str, seed: int) -> None:
    """Gives every stripped initializer its data. Each has its own stream, so a graph may change without moving the others."""
    consumers = consumers_of(model.graph)
    producers = {output: node for node in model.graph.node for output in node.output}
    for tensor in stripped.without_data(model.graph):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            raise ToolError(f"{name}: weight {tensor.name} is not float32")
        digest = hashlib.sha256(f"{seed}/{name}/{tensor.name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
        tensor.raw_data = weight(tensor, rng, consumers, producers).astype("<f4").tobytes()
    del model.metadata_props[:]
    model.metadata_props.add(key="reef.weights", value=f"drawn from seed {seed}")


# ---- files -----------------------------------------------------------------------------------------------------------


def stamp_of(graph_file: Path, seed: int) -> str:
    """Changes when the graph, the seed or this program changes."""
    digest = hashlib.sha256(str(seed).encode())
    for file in (graph_file, Path(__file__), Path(stripped.__file__)):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def up_to_date(target: Path, stamp: str) -> bool:
    try:
        noted = json.loads(target.with_suffix(".stamp").read_text())
        return noted == {"stamp": stamp, "bytes": target.stat().st_size}
    except (OSError, ValueError):
        return False


def make(name: str, graph_file: Path, out: Path, seed: int) -> bool:
    """Writes out/<name>.onnx; False if it was up to date."""
    target, stamp = out / f"{name}.onnx", stamp_of(graph_file, seed)
    if up_to_date(target, stamp):
        return False
    model = onnx.load(graph_file)
    if not stripped.is_stripped(model):
        raise ToolError(f"{graph_file}: not a stripped graph")
    fill(model, name, seed)
    data = model.SerializeToString()
    temporary = target.with_suffix(f".tmp{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    target.with_suffix(".stamp").write_text(json.dumps({"stamp": stamp, "bytes": len(data)}) + "\n")
    return True


# ---- is the network alive? -------------------------------------------------------------------------------------------

LARGEST_ACTIVATION = 1e3
SMALLEST_DEVIATION = 1e-3


def check(path: Path) -> str:
    """Runs two inputs and looks at every activation; returns a line of facts, raises ToolError if the network is degenerate."""
    model = onnx.load(path)
    outputs = output_names(model)
    shapes = fixed_shapes(model)
    feeds = [random_feeds(model, shapes, seed) for seed in (1, 2)]
    activations = [
        name
        for node in model.graph.node
        for name in node.output
        if name not in outputs and node.op_type in ("Conv", "Gemm", "MatMul", "Add", "Relu", "BatchNormalization")
    ]
    for name in activations:
        model.graph.output.add(name=name)
    data = model.SerializeToString()
    del model
    session = onnxruntime_session(data)
    del data
    results = session.run(outputs + activations, feeds[0])
    largest = 0.0
    for name, value in zip(outputs + activations, results):
        if not np.issubdtype(value.dtype, np.floating):
            continue
        value = np.where(value <= np.finfo(np.float32).min, 0, value)  # what an attention mask adds
        if not np.isfinite(value).all():
            raise ToolError(f"{path.name}: {name} is not finite")
        largest = max(largest, float(np.abs(value).max()))
        if largest > LARGEST_ACTIVATION:
            raise ToolError(f"{path.name}: {name} reaches {largest:.3g}")
    first = results[0]
    second = session.run(outputs[:1], feeds[1])[0]
    deviation, change = float(first.std()), float(np.abs(first - second).max())
    if deviation < SMALLEST_DEVIATION:
        raise ToolError(f"{path.name}: output deviates by {deviation:.2g} only")
    if change < SMALLEST_DEVIATION * deviation:
        raise ToolError(f"{path.name}: output does not depend on the input")
    return (
        f"output std {deviation:.3g}, another input moves it by {change:.3g}, largest of {len(activations)} "
        f"activations {largest:.3g}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks to write (default: the five of DISB)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/models", help="folder to write to (default: build/models)"
    )
    parser.add_argument(
        "--graphs", type=Path, default=ROOT / "models/graphs", help="folder of stripped graphs (default: models/graphs)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the weights (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="every graph, not only the five")
    parser.add_argument("--check", action="store_true", help="run each network and look at its activations")
    arguments = parser.parse_args()

    graphs = {file.stem: file for file in sorted(arguments.graphs.glob("*.onnx"))}
    names = arguments.names or (list(graphs) if arguments.all else list(FIVE))
    for name in names:
        if name not in graphs:
            parser.error(f"no graph named {name!r} in {arguments.graphs}; known: {', '.join(graphs) or 'none'}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, name in enumerate(names, 1):
        start = time.monotonic()
        print(f"[{number}/{len(names)}] {name}: ", end="", flush=True)
        try:
            written = make(name, graphs[name], arguments.out, arguments.seed)
            target = arguments.out / f"{name}.onnx"
            print(
                f"{target.stat().st_size / 1e6:.0f} MB in {time.monotonic() - start:.1f} s"
                if written
                else "up to date",
                flush=True,
            )
            if arguments.check:
                print(f"    {check(target)}", flush=True)
        except ToolError as error:
            failed += 1
            print(f"    FAILED {error}", flush=True)
        except OSError as error:
            fail(f"{error.filename or arguments.out}: {error.strerror}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
