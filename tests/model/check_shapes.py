"""Compares inferred dtypes and shapes with ONNX Runtime: check_shapes.py DUMP_GRAPH MODEL.onnx [NAME=1x3x224x224 ...]

Makes every intermediate value an output, runs the model once on small random input, and compares every value that
reef kept under its own name, and the contents' shapes of folded constants. Needs onnx, onnxruntime and numpy.
"""

import subprocess
import sys

import numpy
import onnx
import onnxruntime


def reef_values(dump, model, shapes):
    done = subprocess.run([dump, model, *shapes], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    values = {}
    for line in done.stdout.splitlines():
        kind, *rest = line.split("\t")
        if kind == "value":
            name, dtype, dims, _ = rest
            values[name] = (dtype, [] if dims == "scalar" else [int(d) for d in dims.split("x")])
    return values


def runtime_values(path, shapes):
    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    outputs = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in outputs:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
                outputs.add(name)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    given = dict(shape.rsplit("=", 1) for shape in shapes)
    feed = {}
    for item in session.get_inputs():
        if item.name in constants:
            continue
        dims = [int(d) for d in given[item.name].split("x")] if item.name in given else item.shape
        dtype = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}[item.type]
        feed[item.name] = numpy.ones(dims, dtype)
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, feed)))


def main():
    dump, model, *shapes = sys.argv[1:]
    ours, theirs = reef_values(dump, model, shapes), runtime_values(model, shapes)
    wrong = checked = 0
    for name, array in theirs.items():
        if name not in ours:
            continue
        checked += 1
        if ours[name] != (str(array.dtype), list(array.shape)):
            wrong += 1
            print(f"{name}: reef {ours[name]}, ONNX Runtime {array.dtype} {list(array.shape)}")
    print(f"{model}: {checked} values compared, {len(theirs) - checked} folded away, {wrong} wrong")
    sys.exit(1 if wrong or not checked else 0)


main()
