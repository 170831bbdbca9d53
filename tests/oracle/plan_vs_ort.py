#!/usr/bin/env python3
"""Compares plans, run by the interpreter (plan_check), with ONNX Runtime or with the onnx package's own test data.

  plan_vs_ort.py CHECK MODEL.onnx [--shape NAME=1x3x32x32]...   one model, random inputs
  plan_vs_ort.py --nodes CHECK [PREFIX]                         single-operator tests of the onnx package

CHECK is the plan_check program. Errors are relative to the largest element of the expected output.
"""
import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

TOLERANCE = 1e-4


def error_of(got, want):
    """Largest difference over the largest magnitude; infinities and NaNs must agree exactly."""
    if want.dtype.kind in "biu":
        return float(np.any(got != want))
    same = (np.isnan(got) & np.isnan(want)) | (got == want)
    with np.errstate(all="ignore"):
        difference = np.where(same, 0, np.abs(got.astype(np.float64) - want))
        finite = np.abs(want[np.isfinite(want)])
    if not difference.size:
        return 0.0
    worst = float(np.max(np.where(np.isnan(difference), np.inf, difference)))
    return worst / max(float(finite.max()) if finite.size else 0.0, 1e-3)


def run_plan(check, model_path, inputs, outputs, flags):
    """Outputs like `outputs` (shape and dtype) and the summary line, or the error text."""
    with tempfile.TemporaryDirectory() as folder:
        for i, value in enumerate(inputs):
            Path(folder, f"in{i}.bin").write_bytes(np.ascontiguousarray(value).tobytes())
        done = subprocess.run([check, str(model_path), "--data", folder, *flags], capture_output=True, text=True)
        if done.returncode:
            return None, (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()[-1]
        got = []
        for i, like in enumerate(outputs):
            got.append(np.frombuffer(Path(folder, f"out{i}.bin").read_bytes(), like.dtype).reshape(like.shape))
        return got, done.stdout.strip().splitlines()[-1]


def random_input(info, shapes, rng):
    dims = shapes.get(info.name) or [d if isinstance(d, int) else 1 for d in info.shape]
    if "int" in info.type:
        high = 2 if "mask" in info.name else 100
        return rng.integers(0, high, dims).astype(np.int32 if "int32" in info.type else np.int64)
    if "bool" in info.type:
        return rng.integers(0, 2, dims).astype(bool)
    return rng.standard_normal(dims).astype(np.float32)


def compare_model(check, path, shapes, flags=(), inputs=None):
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(7)
    names = [i.name for i in session.get_inputs()]
    inputs = inputs or [random_input(i, shapes, rng) for i in session.get_inputs()]
    want = session.run(None, dict(zip(names, inputs)))
    for name, value in zip(names, inputs):
        flags = [*flags, "--shape", name + "=" + "x".join(map(str, value.shape))]
    got, text = run_plan(check, path, inputs, want, flags)
    if got is None:
        return float("inf"), text
    return max([error_of(g, w) for g, w in zip(got, want)], default=0.0), text


def node_cases(prefix):
    from onnx.backend.test.case.node import collect_testcases
    return [c for c in collect_testcases(None) if c.name.startswith("test_" + prefix)]


def compare_node(check, case):
    """Inputs that decide shapes (all but the first that are integers or tiny) become initializers."""
    model, (values, want) = case.model, case.data_sets[0]
    if not all(isinstance(v, np.ndarray) or np.isscalar(v) for v in [*values, *want]):
        return None, "UNSUPPORTED: sequences and optionals"
    values, want = [np.asarray(v) for v in values], [np.asarray(v) for v in want]
    graph, runtime = model.graph, []
    names = [i.name for i in graph.input]
    for i, (name, value) in enumerate(zip(names, values)):
        if i > 0 and (value.dtype.kind in "iu" or value.size <= 1 or any(w in case.name for w in ("batchnorm", "conv", "layer_norm"))):
            graph.initializer.append(numpy_helper.from_array(value, name))
        else:
            runtime.append(value)
    keep = [i for i in graph.input if i.name not in {t.name for t in graph.initializer}]
    del graph.input[:]
    graph.input.extend(keep)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model.SerializeToString())
        got, text = run_plan(check, path, runtime, want, [])
    if got is None:
        return None, text
    return max([error_of(g, w) for g, w in zip(got, want)], default=0.0), text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--shape", action="append", default=[])
    parser.add_argument("--nodes", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    check = os.path.abspath(args.check)
    if not args.nodes:
        shapes = {s.split("=")[0]: [int(d) for d in s.split("=")[1].split("x")] for s in args.shape}
        error, text = compare_model(check, args.model, shapes)
        print(f"{error:.2e}  {text}")
        return error > TOLERANCE
    counts = {"right": 0, "refused": 0, "wrong": 0}
    for case in node_cases(args.model or ""):
        error, text = compare_node(check, case)
        refused = error is None and (text.startswith(("UNSUPPORTED", "DTYPE")) or "dynamic dimension" in text)
        kind = "refused" if refused else "wrong" if error is None or error > 2e-3 else "right"
        counts[kind] += 1
        if kind == "wrong" or args.verbose:
            print(f"{kind:8} {case.name}: {'' if error is None else f'{error:.2e} '}{text}")
    print(counts)
    return counts["wrong"] > 0


if __name__ == "__main__":
    sys.exit(main())
