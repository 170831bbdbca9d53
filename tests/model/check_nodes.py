"""Checks inference and folding against the node tests inside the onnx wheel: check_nodes.py DUMP_GRAPH [OPERATOR ...]

Each test is tried with its inputs as they are (shapes and dtypes must match the expected outputs) and with its inputs
as constants (what folds must also match in value). A model that reef refuses is counted per reason; a wrong answer
fails. Needs onnx and numpy.
"""

import collections
import pathlib
import subprocess
import sys
import tempfile

import numpy
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases


def dump(tool, path):
    done = subprocess.run([tool, str(path)], capture_output=True, text=True)
    if done.returncode < 0 or done.returncode > 1:
        return {}, {}, f"exit {done.returncode} {done.stderr[-300:]}"
    values, contents = {}, {}
    for line in done.stdout.splitlines():
        kind, *rest = line.split("\t")
        if kind == "value":
            values[rest[0]] = (rest[1], [] if rest[2] == "scalar" else [int(d) for d in rest[2].split("x")])
        elif kind == "contents":
            contents[rest[0]] = bytes.fromhex(rest[1])
    return values, contents, done.stderr.strip()


def with_constants(case, arrays):
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for item, array in zip(case.model.graph.input, arrays):
        model.graph.initializer.append(numpy_helper.from_array(array, item.name))
    return model


def main():
    tool, wanted = sys.argv[1], set(sys.argv[2:])
    path = pathlib.Path(tempfile.mkdtemp()) / "node.onnx"
    refused, wrong, matched, folded = collections.Counter(), [], 0, collections.Counter()
    for case in collect_testcases(None):
        if case.model is None or not case.data_sets or (wanted and case.model.graph.node[0].op_type not in wanted):
            continue
        inputs, outputs = case.data_sets[0]
        if not all(isinstance(array, numpy.ndarray) and array.dtype.kind in "biuf" for array in [*inputs, *outputs]):
            continue
        op = case.model.graph.node[-1].op_type
        for constant in (False, True):
            model = with_constants(case, inputs) if constant else case.model
            path.write_bytes(model.SerializeToString())
            values, contents, error = dump(tool, path)
            if error:
                if not error.startswith(("UNSUPPORTED", "SHAPE: input")):
                    wrong.append(f"{case.name}{' (constant)' if constant else ''}: {error}")
                refused[(op, error.split(":")[0])] += 1
                continue
            for item, array in zip(case.model.graph.output, outputs):
                expected = (str(array.dtype), list(array.shape))
                if values.get(item.name) != expected:
                    wrong.append(f"{case.name}: {item.name} is {values.get(item.name)}, expected {expected}")
                    continue
                matched += 1
                if item.name in contents:
                    ours = numpy.frombuffer(contents[item.name], array.dtype).reshape(array.shape)
                    tolerance = 1e-2 if array.dtype == numpy.float16 else 1e-5
                    if not numpy.allclose(ours, array, tolerance, tolerance, equal_nan=True):
                        wrong.append(f"{case.name}: folded {ours.ravel()[:8]}, expected {array.ravel()[:8]}")
                    else:
                        folded[op] += 1
    print("refused:", ", ".join(f"{op} {why} x{n}" for (op, why), n in sorted(refused.items()) if "UNSUPPORTED" in why))
    print("folded:", ", ".join(f"{op} x{n}" for op, n in sorted(folded.items())))
    print("\n".join(wrong))
    print(f"{matched} outputs match, {sum(folded.values())} folded, {len(wrong)} wrong")
    sys.exit(1 if wrong or not matched else 0)


main()
