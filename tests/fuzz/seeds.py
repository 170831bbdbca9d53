"""Writes small models as fuzzing seeds: seeds.py FOLDER. Needs onnx; takes the node tests that the onnx wheel generates.

Every node test becomes two seeds: as it is, and with its inputs as constants, so that folding is reached too.
"""

import pathlib
import sys

import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

LARGEST = 4096


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for case in collect_testcases(None):
        if case.model is None or not case.data_sets:
            continue
        models = {case.name: case.model}
        arrays = case.data_sets[0][0]
        if all(hasattr(array, "dtype") for array in arrays):
            constant = onnx.ModelProto()
            constant.CopyFrom(case.model)
            for item, array in zip(constant.graph.input, arrays):
                try:
                    constant.graph.initializer.append(numpy_helper.from_array(array, item.name))
                except Exception:
                    break
            else:
                models[case.name + "_constant"] = constant
        for name, model in models.items():
            data = model.SerializeToString()
            if len(data) <= LARGEST:
                (folder / f"{name}.onnx").write_bytes(data)
                count += 1
    print(f"{count} seeds in {folder}")


main()
