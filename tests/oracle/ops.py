#!/usr/bin/env python3
"""Writes small ONNX models, seeded inputs, and what ONNX Runtime answers: one folder per case.

  build/oracle/ops/<case>/model.onnx   the model                        in_0.npy ...   its inputs, in the model's order
                          case.json    names of inputs and outputs      out_0.npy ...  the expected outputs

Each operator appears with the attributes that exporters write and with the corners where implementations go wrong:
asymmetric pads, odd channel counts, negative axes, broadcasting, forms of old opsets. Patterns (attention, LayerNorm
spelled out, batch norm after a convolution ...) are there so that fusion is tested as well as arithmetic.

Examples:
  python3 tests/oracle/ops.py
  python3 tests/oracle/ops.py --out /tmp/ops conv_ pool
  python3 tests/oracle/ops.py --list
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
try:
    import numpy as np
    import onnx
    from onnx import NodeProto, TensorProto, helper, numpy_helper
    from reeflib import ROOT, Arrays, Progress, fail, onnxruntime_session
except ImportError as missing:
    sys.exit(f"ops.py: {missing.name} is missing: run tools/venv.sh, then use .venv/bin/python")

OPSET = 17
IR_OF_OPSET = {9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 17: 8, 18: 8, 20: 9}


class Suite:
    """Collects cases; `only` are substrings of the names wanted."""

    def __init__(self, only: Sequence[str]) -> None:
        self.only = only
        self.cases: Dict[str, Tuple[onnx.ModelProto, Arrays, List[str], str]] = {}

    def add(self, name: str, nodes: Sequence[NodeProto], feeds: Arrays, weights: Optional[Arrays] = None,
            outputs: Sequence[str] = ("y",), opset: int = OPSET, refused: str = "") -> None:
        """refused: reef does not implement this, and its one-line error must contain these words."""
        if self.only and not any(part in name for part in self.only):
            return
        if name in self.cases:
            raise ValueError(f"two cases are named {name}")
        inputs = [helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                  for key, array in feeds.items()]
        graph = helper.make_graph(list(nodes), name, inputs, [onnx.ValueInfoProto(name=output) for output in outputs],
                                  [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="reef oracle")
        model.ir_version = IR_OF_OPSET[opset]
        self.cases[name] = (model, feeds, list(outputs), refused)


def op(kind: str, inputs: str, outputs: str = "y", **attributes) -> NodeProto:
    """A node; names separated by blanks, "_" for an input that is left out."""
    return helper.make_node(kind, ["" if name == "_" else name for name in inputs.split()], outputs.split(), **attributes)


rng = np.random.default_rng(2022)


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape) * scale, dtype=np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.asarray(rng.uniform(0.1, 3.0, shape), dtype=np.float32)


def integers(*shape: int, low: int = -9, high: int = 10) -> np.ndarray:
    return np.asarray(rng.integers(low, high, shape), dtype=np.int64)


def booleans(*shape: int) -> np.ndarray:
    return np.asarray(rng.integers(0, 2, shape), dtype=np.bool_)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def scalar(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


def batch_norm_weights(channels: int, prefix: str = "") -> Arrays:
    return {prefix + "scale": positive(channels), prefix + "bias": normal(channels),
            prefix + "mean": normal(channels), prefix + "var": positive(channels)}


# ---- convolution, matrix products, pooling -----------------------------------------------------------------------------

def convolutions(suite: Suite) -> None:
    def conv(name: str, x: Sequence[int], w: Sequence[int], bias: bool = True, opset: int = OPSET, **attributes) -> None:
        weights = {"w": normal(*w, scale=1 / math.sqrt(math.prod(w[1:])))}
        if bias:
            weights["b"] = normal(w[0])
        suite.add(f"conv_{name}", [op("Conv", "x w b" if bias else "x w", **attributes)], {"x": normal(*x)}, weights, opset=opset)

    for channels in (1, 3, 7, 33, 64):
        conv(f"3x3_{channels}ch", (1, channels, 14, 14), (channels + 1, channels, 3, 3), pads=[1, 1, 1, 1])
        conv(f"1x1_{channels}ch", (1, channels, 9, 11), (channels + 2, channels, 1, 1))
        conv(f"1x1_{channels}to64", (1, channels, 7, 7), (64, channels, 1, 1), bias=False)
    conv("nobias", (1, 8, 10, 10), (16, 8, 3, 3), bias=False, pads=[1, 1, 1, 1])
    conv("batch4", (4, 8, 10, 10), (16, 8, 3, 3), pads=[1, 1, 1, 1])
    conv("nopad", (1, 5, 12, 9), (6, 5, 3, 3))
    conv("stride2", (1, 8, 15, 15), (16, 8, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    conv("stride2_even", (1, 8, 16, 16), (16, 8, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    conv("stride2_1x1", (1, 8, 15, 15), (16, 8, 1, 1), strides=[2, 2])
    conv("stride_2_1", (1, 8, 16, 40), (16, 8, 3, 3), pads=[1, 1, 1, 1], strides=[2, 1])
    conv("stride3", (1, 4, 17, 19), (5, 4, 3, 3), strides=[3, 3])
    conv("stem_7x7", (1, 3, 56, 56), (64, 3, 7, 7), pads=[3, 3, 3, 3], strides=[2, 2])
    conv("11x11_stride4", (1, 3, 67, 67), (8, 3, 11, 11), strides=[4, 4])
    for name, x, filters, attributes in (
            ("vgg", (1, 3, 40, 44), 64, {"pads": [1] * 4}), ("inception", (2, 3, 61, 59), 32, {"strides": [2, 2]}), ("odd", (1, 3, 37, 41), 45, {"pads": [0, 1, 2, 1]}),
            ("dilated", (1, 2, 50, 48), 72, {"dilations": [2, 3], "pads": [2, 3, 2, 3]}), ("7ch", (1, 7, 40, 33), 33, {"pads": [1] * 4}), ("stride_2_1", (1, 4, 70, 35), 16, {"strides": [2, 1]})):
        conv(f"stem_{name}", x, (filters, x[1], 3, 3), **attributes)
    conv("5x5", (1, 6, 13, 13), (10, 6, 5, 5), pads=[2, 2, 2, 2])
    conv("1x7", (1, 16, 17, 17), (24, 16, 1, 7), pads=[0, 3, 0, 3])
    conv("7x1", (1, 16, 17, 17), (24, 16, 7, 1), pads=[3, 0, 3, 0])
    conv("1x3", (1, 12, 8, 8), (16, 12, 1, 3), pads=[0, 1, 0, 1])
    conv("pads_asymmetric", (1, 4, 10, 10), (6, 4, 3, 3), pads=[0, 1, 2, 3])
    conv("pads_asymmetric_stride2", (1, 4, 12, 12), (6, 4, 3, 3), pads=[0, 0, 1, 1], strides=[2, 2])
    conv("pads_wide", (1, 3, 6, 6), (4, 3, 3, 3), pads=[4, 4, 4, 4])
    conv("kernel_fills_input", (1, 8, 5, 5), (9, 8, 5, 5))
    conv("one_pixel", (1, 32, 1, 1), (16, 32, 1, 1))
    conv("one_pixel_3x3", (1, 8, 1, 1), (4, 8, 3, 3), pads=[1, 1, 1, 1])
    conv("dilation2", (1, 4, 14, 14), (6, 4, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2])
    conv("dilation_1_3", (1, 4, 14, 14), (6, 4, 3, 3), pads=[1, 3, 1, 3], dilations=[1, 3])
    conv("dilation2_stride2", (1, 4, 15, 15), (6, 4, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2], strides=[2, 2])
    conv("groups2", (1, 8, 10, 10), (12, 4, 3, 3), group=2, pads=[1, 1, 1, 1])
    conv("groups4_1x1", (1, 24, 7, 7), (16, 6, 1, 1), group=4)
    conv("groups_batch", (3, 6, 8, 8), (9, 2, 3, 3), group=3, pads=[1, 1, 1, 1])
    for channels in (1, 7, 16, 33):
        conv(f"depthwise_{channels}ch", (1, channels, 12, 12), (channels, 1, 3, 3), group=channels, pads=[1, 1, 1, 1])
    conv("depthwise_stride2", (1, 24, 13, 13), (24, 1, 3, 3), group=24, pads=[1, 1, 1, 1], strides=[2, 2])
    conv("depthwise_5x5", (1, 24, 12, 12), (24, 1, 5, 5), group=24, pads=[2, 2, 2, 2])
    conv("depthwise_5x5_stride_2_1", (2, 8, 12, 30), (8, 1, 5, 5), group=8, pads=[2, 2, 2, 2], strides=[2, 1])
    conv("depthwise_dilation", (1, 8, 12, 12), (8, 1, 3, 3), group=8, pads=[2, 2, 2, 2], dilations=[2, 2])
    conv("depthwise_multiplier2", (1, 8, 12, 12), (16, 1, 3, 3), group=8, pads=[1, 1, 1, 1])
    conv("depthwise_asymmetric", (1, 8, 11, 11), (8, 1, 3, 3), group=8, pads=[0, 0, 1, 1], strides=[2, 2])
    for mode in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        conv(f"{mode.lower()}", (1, 4, 11, 12), (6, 4, 3, 3), auto_pad=mode)
        conv(f"{mode.lower()}_stride2", (1, 4, 11, 12), (6, 4, 3, 3), auto_pad=mode, strides=[2, 2])
        conv(f"{mode.lower()}_4x4", (1, 4, 11, 12), (6, 4, 4, 4), auto_pad=mode)
    conv("large_k", (1, 512, 7, 7), (64, 512, 3, 3), pads=[1, 1, 1, 1])
    conv("wide", (1, 16, 4, 160), (24, 16, 3, 3), pads=[1, 1, 1, 1])
    conv("opset9", (1, 4, 8, 8), (6, 4, 3, 3), opset=9, pads=[1, 1, 1, 1], kernel_shape=[3, 3], dilations=[1, 1], strides=[1, 1], group=1)
    suite.add("conv_weights_as_inputs", [op("Conv", "x w b", pads=[1, 1, 1, 1])],
              {"x": normal(1, 4, 8, 8), "w": normal(6, 4, 3, 3), "b": normal(6)},
              refused="node 'y' (Conv): weight 'w' is not a constant")

    def transposed(name: str, x: Sequence[int], w: Sequence[int], bias: bool = True, **attributes) -> None:
        weights = {"w": normal(*w, scale=0.3)}
        if bias:
            weights["b"] = normal(w[1] * attributes.get("group", 1))
        suite.add(f"convtranspose_{name}", [op("ConvTranspose", "x w b" if bias else "x w", **attributes)], {"x": normal(*x)}, weights)

    transposed("2x2_stride2", (1, 24, 10, 12), (24, 24, 2, 2), strides=[2, 2])
    transposed("2x2_to1", (1, 24, 10, 12), (24, 1, 2, 2), strides=[2, 2])
    transposed("3x3", (1, 5, 7, 7), (5, 6, 3, 3))
    transposed("3x3_pads", (1, 5, 7, 7), (5, 6, 3, 3), pads=[1, 1, 1, 1])
    transposed("3x3_stride2_output_padding", (1, 5, 7, 6), (5, 6, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    transposed("4x4_stride2", (2, 6, 5, 5), (6, 4, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1])
    transposed("pads_asymmetric", (1, 3, 6, 6), (3, 2, 3, 3), strides=[2, 2], pads=[0, 1, 1, 0])
    transposed("nobias", (1, 3, 6, 6), (3, 2, 3, 3), bias=False, strides=[2, 2])
    transposed("dilation2", (1, 3, 6, 6), (3, 2, 3, 3), dilations=[2, 2])
    transposed("stride3", (1, 4, 4, 4), (4, 3, 2, 2), strides=[3, 3])


def matrix_products(suite: Suite) -> None:
    shapes = {
        "2d": ((5, 7), (7, 9)), "2d_large": ((65, 130), (130, 71)), "one_row": ((1, 64), (64, 100)),
        "batched": ((4, 5, 7), (4, 7, 6)), "batched4": ((2, 3, 16, 8), (2, 3, 8, 16)), "broadcast_right": ((4, 5, 7), (7, 6)),
        "broadcast_left": ((5, 7), (4, 7, 6)), "broadcast_both": ((3, 1, 5, 7), (1, 4, 7, 6)), "broadcast_one": ((1, 5, 7), (4, 7, 6)),
        "vector_matrix": ((7,), (7, 6)), "matrix_vector": ((5, 7), (7,)), "vector_vector": ((7,), (7,)),
        "vector_batch": ((7,), (3, 7, 6)), "batch_vector": ((3, 5, 7), (7,)), "k1": ((5, 1), (1, 6)), "n1": ((5, 7), (7, 1)),
    }
    for name, (left, right) in shapes.items():
        suite.add(f"matmul_{name}", [op("MatMul", "a b")], {"a": normal(*left), "b": normal(*right)})
    suite.add("matmul_weight", [op("MatMul", "a w")], {"a": normal(2, 9, 48)}, {"w": normal(48, 33)})
    suite.add("matmul_weight_bias", [op("MatMul", "a w", "t"), op("Add", "b t")], {"a": normal(2, 9, 48)}, {"w": normal(48, 33), "b": normal(33)})
    suite.add("matmul_weight_batched", [op("MatMul", "a w")], {"a": normal(3, 9, 16)}, {"w": normal(3, 16, 5)})
    suite.add("matmul_weight_left", [op("MatMul", "w a")], {"a": normal(3, 16, 5)}, {"w": normal(7, 16)})
    suite.add("matmul_transposed_weight", [op("Transpose", "w", "wt", perm=[1, 0]), op("MatMul", "a wt")], {"a": normal(9, 16)}, {"w": normal(12, 16)})
    suite.add("matmul_int64", [op("MatMul", "a b")], {"a": integers(3, 4), "b": integers(4, 5)}, opset=13,
              refused="node 'y' (MatMul): 'a' is int64")

    for trans_a in (0, 1):
        for trans_b in (0, 1):
            a, b = normal(*((11, 6) if trans_a else (6, 11))), normal(*((8, 11) if trans_b else (11, 8)))
            suite.add(f"gemm_a{trans_a}_b{trans_b}", [op("Gemm", "a b c", transA=trans_a, transB=trans_b)], {"a": a}, {"b": b, "c": normal(8)})
    for name, shape in {"scalar": (), "one": (1,), "row": (8,), "row2d": (1, 8), "column": (6, 1), "full": (6, 8)}.items():
        suite.add(f"gemm_c_{name}", [op("Gemm", "a b c", alpha=0.5, beta=1.5)], {"a": normal(6, 11), "c": normal(*shape)}, {"b": normal(11, 8)})
    suite.add("gemm_no_c", [op("Gemm", "a b", alpha=2.0)], {"a": normal(6, 11)}, {"b": normal(11, 8)})
    suite.add("gemm_beta0", [op("Gemm", "a b c", beta=0.0)], {"a": normal(6, 11)}, {"b": normal(11, 8), "c": normal(8)})
    suite.add("gemm_inputs", [op("Gemm", "a b c", transB=1)], {"a": normal(3, 5), "b": normal(4, 5), "c": normal(4)})
    suite.add("gemm_large", [op("Gemm", "a b c", transB=1)], {"a": normal(1, 515)}, {"b": normal(130, 515), "c": normal(130)})
    suite.add("gemm_fc1", [op("Flatten", "x", "f"), op("Gemm", "f w b", transB=1)], {"x": normal(2, 6, 5, 5)}, {"w": normal(20, 150), "b": normal(20)})


def pools(suite: Suite) -> None:
    def pool(kind: str, name: str, x: Sequence[int], opset: int = OPSET, **attributes) -> None:
        suite.add(f"{kind.lower()}_{name}", [op(kind, "x", **attributes)], {"x": normal(*x)}, opset=opset)

    for kind in ("MaxPool", "AveragePool"):
        pool(kind, "2x2", (1, 5, 12, 12), kernel_shape=[2, 2], strides=[2, 2])
        pool(kind, "3x3_stride1", (2, 3, 9, 10), kernel_shape=[3, 3])
        pool(kind, "3x3_stride2_pad1", (1, 7, 13, 13), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        pool(kind, "pads_asymmetric", (1, 3, 8, 8), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
        pool(kind, "ceil", (1, 3, 10, 10), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
        pool(kind, "ceil_pad", (1, 3, 9, 11), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1)
        pool(kind, "ceil_last_window_starts_in_pad", (1, 2, 4, 4), kernel_shape=[2, 2], strides=[3, 3], pads=[0, 0, 1, 1], ceil_mode=1)
        pool(kind, "1x2", (1, 4, 6, 12), kernel_shape=[1, 2], strides=[1, 2])
        pool(kind, "3x2", (1, 4, 9, 12), kernel_shape=[3, 2], strides=[3, 2])
        pool(kind, "whole", (1, 9, 7, 7), kernel_shape=[7, 7])
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID"):
            pool(kind, mode.lower(), (1, 3, 10, 11), kernel_shape=[3, 3], strides=[2, 2], auto_pad=mode)
    pool("MaxPool", "dilation2", (1, 3, 12, 12), kernel_shape=[3, 3], dilations=[2, 2])
    pool("MaxPool", "dilation2_pad", (1, 3, 12, 12), kernel_shape=[3, 3], dilations=[2, 2], pads=[1, 1, 1, 1], strides=[2, 2])
    pool("MaxPool", "opset9", (1, 3, 12, 12), opset=9, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    pool("AveragePool", "include_pad", (1, 3, 9, 9), kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1], count_include_pad=1)
    pool("AveragePool", "include_pad_asymmetric", (1, 3, 9, 9), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 2, 1], count_include_pad=1)
    pool("AveragePool", "opset9_caffe2", (1, 3, 7, 7), opset=9, kernel_shape=[7, 7], strides=[1, 1], pads=[0, 0, 0, 0])
    for kind in ("GlobalAveragePool", "GlobalMaxPool"):
        pool(kind, "7x7", (2, 33, 7, 7))
        pool(kind, "1x1", (1, 5, 1, 1))
        pool(kind, "long", (1, 3, 4, 80))
    suite.add("lrn_alexnet", [op("LRN", "x", size=5, alpha=1e-4, beta=0.75, bias=1.0)], {"x": normal(1, 11, 6, 6, scale=30)})
    suite.add("lrn_zfnet", [op("LRN", "x", size=5, alpha=5e-4, beta=0.75, bias=2.0)], {"x": normal(2, 7, 5, 4, scale=30)})
    suite.add("lrn_size3", [op("LRN", "x", size=3)], {"x": normal(1, 3, 4, 4, scale=30)})


# ---- normalization ------------------------------------------------------------------------------------------------------

def normalizations(suite: Suite) -> None:
    for name, shape, opset in (("4d", (2, 7, 5, 6), OPSET), ("2d", (3, 9), OPSET), ("3d", (2, 5, 8), OPSET), ("opset9", (1, 5, 4, 4), 9), ("opset14", (1, 5, 4, 4), 14)):
        attributes = {"momentum": 0.9, "epsilon": 1e-5, **({"training_mode": 0} if opset >= 14 else {})}
        suite.add(f"batchnorm_{name}", [op("BatchNormalization", "x scale bias mean var", **attributes)], {"x": normal(*shape)},
                  batch_norm_weights(shape[1]), opset=opset)
    suite.add("batchnorm_epsilon", [op("BatchNormalization", "x scale bias mean var", epsilon=0.01)], {"x": normal(1, 4, 3, 3)}, batch_norm_weights(4))
    for name, shape, axis in (("last", (2, 9, 48), -1), ("axis2", (2, 9, 48), 2), ("two_axes", (3, 4, 5, 6), -2), ("2d", (5, 33), 1), ("wide", (2, 768), -1)):
        tail = shape[axis:]
        suite.add(f"layernorm_{name}", [op("LayerNormalization", "x g b", axis=axis, epsilon=1e-12 if name == "wide" else 1e-5)],
                  {"x": normal(*shape)}, {"g": positive(*tail), "b": normal(*tail)})
    suite.add("layernorm_no_bias", [op("LayerNormalization", "x g")], {"x": normal(3, 16)}, {"g": positive(16)})
    for name, power in (("pow", True), ("mul", False)):  # as exporters below opset 17 write it
        square = op("Pow", "d two", "s") if power else op("Mul", "d d", "s")
        nodes = [op("ReduceMean", "x", "m", axes=[-1]), op("Sub", "x m", "d"), square, op("ReduceMean", "s", "v", axes=[-1]), op("Add", "v eps", "ve"),
                 op("Sqrt", "ve", "r"), op("Div", "d r", "n"), op("Mul", "n g", "ng"), op("Add", "ng b", "y")]
        suite.add(f"layernorm_decomposed_{name}", nodes, {"x": normal(2, 9, 48)},
                  {"two": scalar(2), "eps": scalar(1e-5), "g": positive(48), "b": normal(48)}, opset=14)
    suite.add("layernorm_decomposed_two_subs",  # PaddlePaddle and old PyTorch subtract twice
              [op("ReduceMean", "x", "m", axes=[2], keepdims=1), op("Sub", "x m", "d"), op("Sub", "x m", "d2"), op("Pow", "d2 two", "s"),
               op("ReduceMean", "s", "v", axes=[2], keepdims=1), op("Add", "v eps", "ve"), op("Sqrt", "ve", "r"), op("Div", "d r", "n"),
               op("Mul", "n g", "ng"), op("Add", "ng b", "y")],
              {"x": normal(1, 20, 60)}, {"two": scalar(2), "eps": np.array([1e-6], np.float32), "g": positive(60), "b": normal(60)}, opset=12)
    suite.add("layernorm_decomposed_reduce18", [op("ReduceMean", "x axes", "m"), op("Sub", "x m", "d"), op("Mul", "d d", "s"), op("ReduceMean", "s axes", "v"),
              op("Add", "v eps", "ve"), op("Sqrt", "ve", "r"), op("Reciprocal", "r", "i"), op("Mul", "d i", "n"), op("Mul", "n g", "ng"), op("Add", "ng b", "y")],
              {"x": normal(2, 9, 48)}, {"axes": ints(-1), "eps": scalar(1e-5), "g": positive(48), "b": normal(48)}, opset=18)
    suite.add("layernorm_residual", [op("Add", "x r", "s"), op("LayerNormalization", "s g b", "y", axis=-1)], {"x": normal(2, 9, 48), "r": normal(2, 9, 48)}, {"g": positive(48), "b": normal(48)})
    for name, shape in (("4d", (2, 5, 6, 7)), ("3d", (1, 4, 9))):
        suite.add(f"instancenorm_{name}", [op("InstanceNormalization", "x g b", epsilon=1e-5)], {"x": normal(*shape)}, {"g": positive(shape[1]), "b": normal(shape[1])})
    for opset, axes in ((11, (None, 0, 1, 2, 3)), (13, (None, 0, 1, 2, -1))):
        for axis in axes:
            for kind in ("Softmax", "LogSoftmax"):
                attributes = {} if axis is None else {"axis": axis}
                suite.add(f"{kind.lower()}_opset{opset}_axis{'_default' if axis is None else axis}".replace("-", "m"), [op(kind, "x", **attributes)],
                          {"x": normal(2, 3, 4, 5, scale=3)}, opset=opset)
    suite.add("softmax_large_values", [op("Softmax", "x", axis=-1)], {"x": normal(3, 50, scale=60)})
    suite.add("softmax_with_minus_infinity", [op("Softmax", "x", axis=-1)], {"x": np.where(np.arange(12) < 7, normal(4, 12), -np.inf).astype(np.float32)})
    suite.add("softmax_wide", [op("Softmax", "x", axis=2)], {"x": normal(1, 3, 6625)})
    suite.add("softmax_column", [op("Softmax", "x", axis=1)], {"x": normal(1, 10, 1, 1)}, opset=13)


# ---- elementwise ---------------------------------------------------------------------------------------------------------

UNARY: Dict[str, Callable[..., np.ndarray]] = {
    "Sqrt": positive, "Exp": normal, "Log": positive, "Neg": normal, "Abs": normal, "Erf": normal, "Tanh": normal, "Sigmoid": normal, "Relu": normal,
    "Softplus": normal, "Softsign": normal, "Floor": normal, "Ceil": normal, "Reciprocal": positive, "Sign": normal, "Sin": normal, "Cos": normal,
    "HardSwish": lambda *shape: normal(*shape, scale=4),
}
BROADCASTS = {
    "same": ((3, 4, 5), (3, 4, 5)), "scalar": ((3, 4, 5), ()), "scalar_left": ((), (3, 4, 5)), "one": ((3, 4, 5), (1,)), "last": ((3, 4, 5), (5,)), "middle": ((2, 3, 4, 5), (3, 1, 1)),
    "both": ((3, 1, 5), (1, 4, 1)), "rank": ((4, 5), (2, 3, 1, 5)), "channel": ((2, 7, 3, 3), (1, 7, 1, 1)), "odd": ((2, 1, 33), (2, 17, 1)),
}


def elementwise(suite: Suite) -> None:
    for kind, draw in UNARY.items():
        suite.add(f"{kind.lower()}", [op(kind, "x")], {"x": draw(3, 7, 11)})
    for kind in ("Tanh", "Sigmoid", "Erf", "Exp", "Softplus"):
        suite.add(f"{kind.lower()}_extremes", [op(kind, "x")], {"x": np.array([-1e4, -100, -90, -30, -5, -1e-6, -0.0, 0, 1e-6, 5, 30, 80, *([] if kind == "Exp" else [100, 1e4])], np.float32)})
    suite.add("round_half_to_even", [op("Round", "x")], {"x": np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.3, -0.7, 3.49999], np.float32)})
    for kind, attributes in (("LeakyRelu", {"alpha": 0.2}), ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}), ("HardSigmoid", {}), ("Elu", {"alpha": 0.7}), ("Selu", {}),
                             ("LeakyRelu", {}), ("Elu", {}), ("Celu", {"alpha": 0.5}), ("ThresholdedRelu", {"alpha": 0.4})):
        suite.add(f"{kind.lower()}{'_default' if not attributes else ''}", [op(kind, "x", **attributes)], {"x": normal(2, 5, 9, scale=3)})
    suite.add("gelu_erf_opset20", [op("Gelu", "x")], {"x": normal(3, 40, scale=3)}, opset=20)
    suite.add("gelu_tanh_opset20", [op("Gelu", "x", approximate="tanh")], {"x": normal(3, 40, scale=3)}, opset=20)
    for name, slope in (("channel", (5, 1, 1)), ("scalar", (1,)), ("full", (2, 5, 3, 3))):
        suite.add(f"prelu_{name}", [op("PRelu", "x s")], {"x": normal(2, 5, 3, 3)}, {"s": normal(*slope)})
    suite.add("clip_both", [op("Clip", "x lo hi")], {"x": normal(4, 9, scale=4)}, {"lo": scalar(0), "hi": scalar(6)})
    suite.add("clip_low", [op("Clip", "x lo")], {"x": normal(4, 9)}, {"lo": scalar(-0.5)})
    suite.add("clip_high", [op("Clip", "x _ hi")], {"x": normal(4, 9)}, {"hi": scalar(0.5)})
    suite.add("clip_neither", [op("Clip", "x")], {"x": normal(4, 9)})
    suite.add("clip_opset9", [op("Clip", "x", min=-0.3, max=0.4)], {"x": normal(4, 9)}, opset=9)
    suite.add("clip_int64", [op("Clip", "x lo hi")], {"x": integers(20)}, {"lo": np.array(-2, np.int64), "hi": np.array(5, np.int64)})

    for name, (left, right) in BROADCASTS.items():
        for kind in ("Add", "Sub", "Mul", "Div"):
            suite.add(f"{kind.lower()}_{name}", [op(kind, "a b")], {"a": normal(*left), "b": positive(*right)})
        suite.add(f"pow_{name}", [op("Pow", "a b")], {"a": positive(*left), "b": normal(*right)})
    for name in ("scalar", "last", "middle", "channel"):
        left, right = BROADCASTS[name]
        suite.add(f"add_constant_{name}", [op("Add", "a b")], {"a": normal(*left)}, {"b": normal(*right)})
        suite.add(f"sub_constant_left_{name}", [op("Sub", "b a")], {"a": normal(*left)}, {"b": normal(*right)})
    suite.add("pow_square", [op("Pow", "a b")], {"a": normal(4, 9)}, {"b": scalar(2)})
    suite.add("pow_cube", [op("Pow", "a b")], {"a": normal(4, 9)}, {"b": scalar(3)})
    suite.add("pow_half", [op("Pow", "a b")], {"a": positive(4, 9)}, {"b": scalar(0.5)})
    suite.add("pow_int_exponent", [op("Pow", "a b")], {"a": normal(4, 9)}, {"b": ints(2)})
    for kind in ("Add", "Sub", "Mul", "Div"):
        suite.add(f"{kind.lower()}_int64", [op(kind, "a b")], {"a": integers(3, 4), "b": integers(4, low=1)})
    suite.add("div_int64_truncates", [op("Div", "a b")], {"a": ints(-7, 7, -7, 7, 0, 9), "b": ints(2, 2, -2, -2, 3, 3)})
    for name, fmod, draw, divisor in (("int64", 0, integers, ints(3, -3, 2, 5)), ("int64_fmod", 1, integers, ints(3, -3, 2, 5)), ("float_fmod", 1, normal, np.array([0.7, -0.7, 2, 1.5], np.float32))):
        suite.add(f"mod_{name}", [op("Mod", "a b", fmod=fmod)], {"a": draw(6, 4), "b": divisor})
    for kind in ("Neg", "Abs", "Sign"):
        suite.add(f"{kind.lower()}_int64", [op(kind, "x")], {"x": integers(3, 5)})
    for kind in ("Min", "Max", "Sum", "Mean"):
        for count in (1, 2, 3):
            feeds = {name: normal(*shape) for name, shape in zip("abc"[:count], ((3, 4, 5), (4, 1), (5,)))}
            suite.add(f"{kind.lower()}_{count}", [op(kind, " ".join(feeds))], feeds)
    suite.add("max_int64", [op("Max", "a b")], {"a": integers(3, 4), "b": integers(4)})
    suite.add("min_int64", [op("Min", "a b")], {"a": integers(3, 4), "b": integers(4)})
    for kind in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"):
        suite.add(f"{kind.lower()}_float", [op(kind, "a b")], {"a": integers(3, 1, 5, low=-2, high=3).astype(np.float32), "b": integers(4, 1, low=-2, high=3).astype(np.float32)})
        suite.add(f"{kind.lower()}_int64", [op(kind, "a b")], {"a": integers(3, 5, low=-2, high=3), "b": integers(5, low=-2, high=3)})
    suite.add("equal_bool", [op("Equal", "a b")], {"a": booleans(9), "b": booleans(9)})
    for kind in ("And", "Or", "Xor"):
        suite.add(f"{kind.lower()}", [op(kind, "a b")], {"a": booleans(3, 1, 5), "b": booleans(4, 5)})
    suite.add("not", [op("Not", "a")], {"a": booleans(3, 5)})
    suite.add("isnan", [op("IsNaN", "x")], {"x": np.where(booleans(5, 6), np.nan, normal(5, 6)).astype(np.float32)})
    for name, shapes in (("same", ((3, 4), (3, 4), (3, 4))), ("scalar_value", ((3, 4), (), (3, 4))), ("broadcast", ((2, 1, 4), (3, 1), (1,))), ("condition_scalar", ((), (3, 4), (4,)))):
        suite.add(f"where_{name}", [op("Where", "c a b")], {"c": booleans(*shapes[0]), "a": normal(*shapes[1]), "b": normal(*shapes[2])})
    suite.add("where_int64", [op("Where", "c a b")], {"c": booleans(3, 4), "a": integers(3, 4), "b": integers(4)})
    kinds = {"float": (TensorProto.FLOAT, lambda: normal(4, 6, scale=4)), "int64": (TensorProto.INT64, lambda: integers(4, 6)),
             "int32": (TensorProto.INT32, lambda: integers(4, 6).astype(np.int32)), "bool": (TensorProto.BOOL, lambda: booleans(4, 6))}
    for source, (_, draw) in kinds.items():
        for target, (code, _) in kinds.items():
            suite.add(f"cast_{source}_to_{target}", [op("Cast", "x", to=code)], {"x": draw()})
    for opset in (9, 11, 13):
        attributes = {"ratio": 0.4} if opset < 12 else {}
        suite.add(f"dropout_opset{opset}", [op("Dropout", "x", **attributes)], {"x": normal(3, 4)}, opset=opset)
    suite.add("dropout_ratio_input", [op("Dropout", "x r")], {"x": normal(3, 4)}, {"r": scalar(0.5)})
    suite.add("identity", [op("Identity", "x")], {"x": normal(3, 4)})
    suite.add("identity_int64", [op("Identity", "x")], {"x": integers(3, 4)})
    suite.add("identity_twice_same_input_two_outputs", [op("Identity", "x", "y"), op("Relu", "x", "z")], {"x": normal(3, 4)}, outputs=("y", "z"))


# ---- shapes and movement -------------------------------------------------------------------------------------------------

def movement(suite: Suite) -> None:
    for name, axis, shapes in (("channels", 1, ((1, 3, 4, 4), (1, 5, 4, 4))), ("last", -1, ((2, 3), (2, 1), (2, 4))), ("first", 0, ((1, 3), (2, 3))), ("single", 1, ((2, 3),)),
                               ("many", 1, tuple((2, width, 3) for width in (1, 2, 3, 4, 5, 6)))):
        feeds = {f"x{number}": normal(*shape) for number, shape in enumerate(shapes)}
        suite.add(f"concat_{name}", [op("Concat", " ".join(feeds), axis=axis)], feeds)
    suite.add("concat_constant", [op("Concat", "w x", axis=1)], {"x": normal(1, 4, 6)}, {"w": normal(1, 1, 6)})
    suite.add("concat_same_twice", [op("Concat", "x x", axis=1)], {"x": normal(1, 4, 6)})
    suite.add("concat_int64", [op("Concat", "a b", axis=0)], {"a": integers(3), "b": integers(4)})
    suite.add("split_input", [op("Split", "x s", "y z", axis=1)], {"x": normal(2, 7, 3)}, {"s": ints(3, 4)}, outputs=("y", "z"))
    suite.add("split_equal", [op("Split", "x", "y z w", axis=-1)], {"x": normal(2, 9)}, outputs=("y", "z", "w"))
    suite.add("split_attribute_opset11", [op("Split", "x", "y z", axis=0, split=[1, 3])], {"x": normal(4, 3)}, outputs=("y", "z"), opset=11)
    suite.add("split_num_outputs_opset18", [op("Split", "x", "y z w", axis=1, num_outputs=3)], {"x": normal(2, 7)}, outputs=("y", "z", "w"), opset=18)

    def slices(name: str, shape: Sequence[int], starts: Sequence[int], ends: Sequence[int], axes: Optional[Sequence[int]] = None, steps: Optional[Sequence[int]] = None, draw=normal) -> None:
        weights = {"s": ints(*starts), "e": ints(*ends)}
        if axes is not None:
            weights["a"] = ints(*axes)
        if steps is not None:
            weights["t"] = ints(*steps)
        suite.add(f"slice_{name}", [op("Slice", f"x s e {'a' if axes is not None else '_'} {'t' if steps is not None else ''}")], {"x": draw(*shape)}, weights)

    slices("front", (6, 8), (1,), (4,), (0,))
    slices("no_axes", (6, 8), (1, 2), (4, 7))
    slices("negative", (6, 8), (-3,), (-1,), (1,))
    slices("open_end", (6, 8), (2,), (2**63 - 1,), (1,))
    slices("open_end_int32", (6, 8), (2,), (2**31 - 1,), (-1,))
    slices("step2", (6, 9), (0, 1), (6, 9), (0, 1), (2, 3))
    slices("reverse", (6, 9), (-1,), (-(2**63),), (1,), (-1,))
    slices("reverse_step2", (6, 9), (7,), (1,), (1,), (-2,))
    slices("beyond_the_end", (6, 9), (4,), (100,), (0,))
    slices("qkv", (3, 1, 8, 20, 4), (1,), (2,), (0,), (1,))
    slices("int64", (9,), (2,), (7,), (0,), (2,), draw=integers)
    suite.add("slice_opset9", [op("Slice", "x", starts=[1, 0], ends=[3, -1], axes=[0, 2])], {"x": normal(4, 3, 5)}, opset=9)
    for name, shape, indices, axis in (("rows", (9, 5), ints(0, 3, 8, 3), 0), ("axis1", (3, 6, 4), ints(5, 0), 1), ("scalar", (4, 6, 3), np.array(2, np.int64), 1),
                                       ("negative", (9, 5), ints(-1, -9, 4), 0), ("matrix", (10, 4), integers(2, 7, low=0), 0), ("last", (2, 3, 5), ints(4, 1), -1)):
        suite.add(f"gather_{name}", [op("Gather", "x i", axis=axis)], {"x": normal(*shape)}, {"i": indices})
    suite.add("gather_embedding", [op("Gather", "w i")], {"i": integers(2, 12, low=0, high=50)}, {"w": normal(50, 16)})
    suite.add("gather_int64", [op("Gather", "x i")], {"x": integers(7)}, {"i": ints(1, 3)})
    suite.add("gathernd_pairs", [op("GatherND", "x i")], {"x": normal(4, 5, 3)}, {"i": ints(0, 0, 3, 4, -1, 2).reshape(3, 2)})
    suite.add("gathernd_elements", [op("GatherND", "x i")], {"x": booleans(4, 5)}, {"i": np.stack(np.meshgrid(np.arange(3), np.arange(5), indexing="ij"), -1).astype(np.int64)})
    suite.add("gathernd_batch_dims", [op("GatherND", "x i", batch_dims=1)], {"x": normal(2, 4, 3)}, {"i": ints(1, 3).reshape(2, 1)},
              refused="node 'y' (GatherND): only constant indices without batch_dims")
    for name, shape, perm in (("2d", (5, 7), (1, 0)), ("heads", (2, 9, 3, 8), (0, 2, 1, 3)), ("keys", (2, 9, 3, 8), (0, 2, 3, 1)), ("nhwc", (1, 5, 6, 7), (0, 2, 3, 1)), ("nchw", (1, 6, 7, 5), (0, 3, 1, 2)),
                              ("qkv", (1, 20, 3, 4, 8), (2, 0, 3, 1, 4)), ("same", (3, 4), (0, 1)), ("ones", (1, 5, 1, 7), (2, 1, 0, 3)), ("reverse", (2, 3, 4, 5), (3, 2, 1, 0))):
        suite.add(f"transpose_{name}", [op("Transpose", "x", perm=perm)], {"x": normal(*shape)})
    suite.add("transpose_default", [op("Transpose", "x")], {"x": normal(2, 3, 4)})
    suite.add("transpose_int64", [op("Transpose", "x", perm=[1, 0])], {"x": integers(4, 5)})
    for name, shape, target in (("plain", (2, 12), (4, 6)), ("minus_one", (2, 3, 4), (2, -1)), ("zero", (2, 3, 4), (0, 0, 2, 2)), ("zero_and_minus_one", (2, 3, 4), (0, -1)), ("scalar", (1, 1), ()), ("up", (6,), (1, 2, 1, 3))):
        suite.add(f"reshape_{name}", [op("Reshape", "x s")], {"x": normal(*shape)}, {"s": ints(*target)})
    suite.add("reshape_allowzero", [op("Reshape", "x s", allowzero=1)], {"x": normal(2, 6)}, {"s": ints(3, -1)})
    for axis in (0, 1, 2, -1, 3):
        suite.add(f"flatten_axis{axis}".replace("-", "m"), [op("Flatten", "x", axis=axis)], {"x": normal(2, 3, 4)})
    suite.add("flatten_default", [op("Flatten", "x")], {"x": normal(2, 3, 4, 1)})
    for opset in (11, 13):
        old = opset < 13
        suite.add(f"squeeze_opset{opset}", [op("Squeeze", "x", axes=[0, 2]) if old else op("Squeeze", "x a")], {"x": normal(1, 3, 1, 4)}, {} if old else {"a": ints(0, 2)}, opset=opset)
        suite.add(f"squeeze_negative_opset{opset}", [op("Squeeze", "x", axes=[-2]) if old else op("Squeeze", "x a")], {"x": normal(1, 3, 1, 4)}, {} if old else {"a": ints(-2)}, opset=opset)
        suite.add(f"squeeze_all_opset{opset}", [op("Squeeze", "x")], {"x": normal(1, 3, 1, 4)}, opset=opset)
        suite.add(f"unsqueeze_opset{opset}", [op("Unsqueeze", "x", axes=[0, 3]) if old else op("Unsqueeze", "x a")], {"x": normal(3, 4)}, {} if old else {"a": ints(0, 3)}, opset=opset)
        suite.add(f"unsqueeze_negative_opset{opset}", [op("Unsqueeze", "x", axes=[-1]) if old else op("Unsqueeze", "x a")], {"x": normal(3, 4)}, {} if old else {"a": ints(-1)}, opset=opset)
    for name, shape, target in (("rows", (3, 1), (3, 4)), ("rank", (4,), (2, 3, 4)), ("keeps", (3, 4), (1, 1)), ("mask", (2, 1, 1, 5), (2, 1, 5, 5))):
        suite.add(f"expand_{name}", [op("Expand", "x s")], {"x": normal(*shape)}, {"s": ints(*target)})
    suite.add("expand_int64", [op("Expand", "x s")], {"x": integers(1, 4)}, {"s": ints(3, 1)})
    for name, shape, repeats in (("2d", (2, 3), (2, 2)), ("last", (2, 3, 1), (1, 1, 4)), ("once", (2, 3), (1, 1))):
        suite.add(f"tile_{name}", [op("Tile", "x r")], {"x": normal(*shape)}, {"r": ints(*repeats)})
    for mode in ("constant", "reflect", "edge"):
        suite.add(f"pad_{mode}", [op("Pad", "x p", mode=mode)], {"x": normal(1, 3, 5, 6)}, {"p": ints(0, 0, 1, 2, 0, 0, 3, 1)})
    suite.add("pad_value", [op("Pad", "x p v")], {"x": normal(2, 3)}, {"p": ints(1, 0, 0, 2), "v": scalar(1.5)})
    suite.add("pad_channels", [op("Pad", "x p")], {"x": normal(1, 3, 4, 4)}, {"p": ints(0, 2, 0, 0, 0, 1, 0, 0)})
    suite.add("pad_negative_crops", [op("Pad", "x p")], {"x": normal(5, 6)}, {"p": ints(-1, 0, 1, -2)})
    suite.add("pad_axes_opset18", [op("Pad", "x p _ a")], {"x": normal(2, 3, 4)}, {"p": ints(1, 2), "a": ints(-1)}, opset=18)
    suite.add("pad_opset9", [op("Pad", "x", pads=[0, 1, 0, 2], value=0.5)], {"x": normal(2, 3)}, opset=9)
    for blocks, mode in ((2, "DCR"), (2, "CRD"), (3, "DCR")):
        suite.add(f"depthtospace_{blocks}_{mode.lower()}", [op("DepthToSpace", "x", blocksize=blocks, mode=mode)], {"x": normal(1, 2 * blocks * blocks, 3, 4)})
    suite.add("spacetodepth_2", [op("SpaceToDepth", "x", blocksize=2)], {"x": normal(1, 3, 4, 6)})


def resizes(suite: Suite) -> None:
    def resize(name: str, shape: Sequence[int], scales: Optional[Sequence[float]] = None, sizes: Optional[Sequence[int]] = None, **attributes) -> None:
        weights: Arrays = {"scales": np.array(scales, np.float32)} if scales else {"sizes": ints(*sizes)}
        suite.add(f"resize_{name}", [op("Resize", "x _ scales" if scales else "x _ _ sizes", **attributes)], {"x": normal(*shape)}, weights)

    nearest = {"mode": "nearest", "nearest_mode": "floor"}
    resize("nearest_asymmetric_2x", (1, 3, 5, 6), scales=(1, 1, 2, 2), coordinate_transformation_mode="asymmetric", **nearest)
    resize("nearest_asymmetric_8x", (1, 2, 3, 4), scales=(1, 1, 8, 8), coordinate_transformation_mode="asymmetric", **nearest)
    resize("nearest_asymmetric_down", (1, 3, 8, 8), scales=(1, 1, 0.5, 0.5), coordinate_transformation_mode="asymmetric", **nearest)
    resize("nearest_asymmetric_sizes", (1, 3, 5, 6), sizes=(1, 3, 9, 7), coordinate_transformation_mode="asymmetric", **nearest)
    resize("nearest_half_pixel_floor", (1, 3, 5, 6), scales=(1, 1, 2, 3), coordinate_transformation_mode="half_pixel", **nearest)
    resize("nearest_half_pixel_round", (1, 3, 5, 6), scales=(1, 1, 2, 2), mode="nearest", coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_floor")
    resize("nearest_half_pixel_ceil", (1, 3, 5, 6), scales=(1, 1, 2, 2), mode="nearest", coordinate_transformation_mode="half_pixel", nearest_mode="ceil")
    resize("nearest_default", (1, 3, 5, 6), scales=(1, 1, 2, 2))
    for coordinates in ("half_pixel", "align_corners", "pytorch_half_pixel", "asymmetric"):
        resize(f"linear_{coordinates}_2x", (1, 3, 5, 6), scales=(1, 1, 2, 2), mode="linear", coordinate_transformation_mode=coordinates)
        resize(f"linear_{coordinates}_sizes", (2, 3, 7, 8), sizes=(2, 3, 10, 5), mode="linear", coordinate_transformation_mode=coordinates)
    resize("linear_to_one_pixel", (1, 3, 5, 6), sizes=(1, 3, 1, 1), mode="linear", coordinate_transformation_mode="pytorch_half_pixel")
    for mode in ("nearest", "linear"):
        suite.add(f"upsample_opset9_{mode}", [op("Upsample", "x s", mode=mode)], {"x": normal(1, 3, 4, 5)}, {"s": np.array([1, 1, 2, 2], np.float32)}, opset=9)
    suite.add("resize_size_from_shape",  # PyTorch's interpolate(size=other.shape[2:])
              [op("Shape", "z", "zs"), op("Slice", "zs two four zero", "hw"), op("Shape", "x", "xs"), op("Slice", "xs zero two zero", "nc"), op("Concat", "nc hw", "sizes", axis=0),
               op("Resize", "x _ _ sizes", "r", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"), op("Add", "r z", "y")],
              {"x": normal(1, 3, 4, 5), "z": normal(1, 3, 8, 10)}, {"zero": ints(0), "two": ints(2), "four": ints(4)})


def reductions(suite: Suite) -> None:
    for kind in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"):
        for name, axes, keep in (("last", [-1], 1), ("spatial", [2, 3], 1), ("middle_dropped", [1], 0), ("outer", [0, 2], 0)):
            if kind == "ReduceSum":  # axes became an input in opset 13, for the others in 18
                suite.add(f"{kind.lower()}_{name}", [op(kind, "x a", keepdims=keep)], {"x": normal(2, 3, 4, 5)}, {"a": ints(*axes)})
                suite.add(f"{kind.lower()}_{name}_opset11", [op(kind, "x", axes=axes, keepdims=keep)], {"x": normal(2, 3, 4, 5)}, opset=11)
            else:
                suite.add(f"{kind.lower()}_{name}", [op(kind, "x", axes=axes, keepdims=keep)], {"x": normal(2, 3, 4, 5)})
        suite.add(f"{kind.lower()}_all", [op(kind, "x", keepdims=0)], {"x": normal(3, 4)})
        suite.add(f"{kind.lower()}_axes_input", [op(kind, "x a")], {"x": normal(2, 3, 4)}, {"a": ints(1, -1)}, opset=18)
    suite.add("reducemean_pool", [op("ReduceMean", "x a", "m", keepdims=1), op("Reshape", "m s")], {"x": normal(2, 33, 7, 7)}, {"a": ints(-1, -2), "s": ints(2, 33)}, opset=18)
    suite.add("reducesum_int64", [op("ReduceSum", "x a", keepdims=0)], {"x": integers(3, 4)}, {"a": ints(0)})
    suite.add("reducemax_int64", [op("ReduceMax", "x", axes=[1])], {"x": integers(3, 4)})
    for kind in ("ArgMax", "ArgMin"):
        for axis, keep in ((0, 1), (1, 0), (-1, 0)):
            suite.add(f"{kind.lower()}_axis{axis}_keep{keep}".replace("-", "m"), [op(kind, "x", axis=axis, keepdims=keep)], {"x": normal(4, 5, 6)})
    suite.add("argmax_ties_first", [op("ArgMax", "x", axis=1)], {"x": integers(6, 9, low=0, high=3).astype(np.float32)})


# ---- shape arithmetic that folds away ---------------------------------------------------------------------------------------

def shape_chains(suite: Suite) -> None:
    suite.add("shape", [op("Shape", "x")], {"x": normal(2, 3, 4)})
    suite.add("shape_start_end", [op("Shape", "x", start=1, end=-1)], {"x": normal(2, 3, 4, 5)})
    suite.add("size", [op("Size", "x")], {"x": normal(2, 3, 4)})
    suite.add("constantofshape_float", [op("ConstantOfShape", "s", "c", value=numpy_helper.from_array(np.array([0.5], np.float32))), op("Add", "x c")], {"x": normal(2, 3)}, {"s": ints(2, 3)})
    suite.add("constantofshape_default", [op("ConstantOfShape", "s", "c"), op("Add", "x c")], {"x": normal(2, 3)}, {"s": ints(3)})
    suite.add("constantofshape_weight", [op("ConstantOfShape", "s", "w", value=numpy_helper.from_array(np.array([0.02], np.float32))), op("Conv", "x w", pads=[1, 1, 1, 1])],
              {"x": normal(1, 3, 6, 6)}, {"s": ints(4, 3, 3, 3)}, opset=9)
    suite.add("range_positions", [op("Shape", "x", "s"), op("Gather", "s one", "n", axis=0), op("Range", "zero n step", "r"), op("Gather", "table r", "e"), op("Add", "x e")],
              {"x": normal(2, 6, 8)}, {"one": np.array(1, np.int64), "zero": np.array(0, np.int64), "step": np.array(1, np.int64), "table": normal(20, 8)})
    suite.add("range_float", [op("Range", "a b c", "r"), op("Mul", "x r")], {"x": normal(5)}, {"a": scalar(0.5), "b": scalar(3.0), "c": scalar(0.5)})
    suite.add("range_int64_down", [op("Range", "a b c", "r"), op("Add", "x r")], {"x": integers(4)}, {"a": np.array(9, np.int64), "b": np.array(1, np.int64), "c": np.array(-2, np.int64)})
    suite.add("reshape_from_shape", [op("Shape", "x", "s"), op("Gather", "s zero", "n", axis=0), op("Unsqueeze", "n ax", "nu"), op("Concat", "nu minus", "t", axis=0), op("Reshape", "x t")],
              {"x": normal(3, 4, 5)}, {"zero": np.array(0, np.int64), "ax": ints(0), "minus": ints(-1)})
    suite.add("reshape_heads", [op("Shape", "x", "s"), op("Slice", "s a b", "n"), op("Concat", "n heads", "t", axis=0), op("Reshape", "x t", "r"), op("Transpose", "r", "y", perm=[0, 2, 1, 3])],
              {"x": normal(2, 5, 12)}, {"a": ints(0), "b": ints(2), "heads": ints(3, 4)})
    suite.add("expand_equal_where",  # how exporters write expand(-1, ...)
              [op("ConstantOfShape", "rank", "ones", value=numpy_helper.from_array(ints(1))), op("Mul", "ones minus", "mones"), op("Equal", "wanted mones", "is"), op("Where", "is ones wanted", "shape"), op("Expand", "x shape")],
              {"x": normal(2, 1, 5)}, {"rank": ints(3), "minus": np.array(-1, np.int64), "wanted": ints(-1, 4, -1)})
    suite.add("constant_node_weight", [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(normal(4, 3, 1, 1))), op("Conv", "x w")], {"x": normal(1, 3, 5, 5)})
    suite.add("constant_node_value_ints", [helper.make_node("Constant", [], ["s"], value_ints=[3, -1]), op("Reshape", "x s")], {"x": normal(2, 6)})
    suite.add("constant_node_value_float", [helper.make_node("Constant", [], ["s"], value_float=1.5), op("Mul", "x s")], {"x": normal(2, 6)})
    suite.add("initializer_is_output_too", [op("Relu", "x", "y"), op("Identity", "w", "z")], {"x": normal(3)}, {"w": normal(4)}, outputs=("y", "z"))
    suite.add("cast_shape_arithmetic", [op("Shape", "x", "s"), op("Cast", "s", "f", to=TensorProto.FLOAT), op("Mul", "f half", "g"), op("Floor", "g", "h"), op("Cast", "h", "t", to=TensorProto.INT64),
              op("Slice", "t one two", "n"), op("Slice", "x zero n axis")], {"x": normal(3, 9)}, {"half": scalar(0.5), "zero": ints(0), "one": ints(1), "two": ints(2), "axis": ints(1)})


# ---- patterns ---------------------------------------------------------------------------------------------------------------

def conv_patterns(suite: Suite) -> None:
    def conv(number: int, source: str, target: str, out: int, into: int, side: int, weights: Arrays, bias: bool = False, **attributes) -> NodeProto:
        weights[f"w{number}"] = normal(out, into // attributes.get("group", 1), side, side, scale=1 / math.sqrt(into * side * side / attributes.get("group", 1)))
        if bias:
            weights[f"b{number}"] = normal(out)
        return op("Conv", f"{source} w{number}" + (f" b{number}" if bias else ""), target, pads=[side // 2] * 4, **attributes)

    def norm(number: int, source: str, target: str, channels: int, weights: Arrays) -> NodeProto:
        prefix = f"n{number}_"
        weights.update(batch_norm_weights(channels, prefix))
        return op("BatchNormalization", f"{source} {prefix}scale {prefix}bias {prefix}mean {prefix}var", target)

    for bias in (False, True):
        for relu in (False, True):
            weights: Arrays = {}
            nodes = [conv(0, "x", "c", 10, 6, 3, weights, bias), norm(0, "c", "n" if relu else "y", 10, weights)] + ([op("Relu", "n", "y")] if relu else [])
            suite.add(f"pattern_conv{'_bias' if bias else ''}_bn{'_relu' if relu else ''}", nodes, {"x": normal(1, 6, 9, 9)}, weights)
    activations = {"relu": [op("Relu", "c")], "clip6": [op("Clip", "c zero six")], "sigmoid": [op("Sigmoid", "c")], "tanh": [op("Tanh", "c")], "leakyrelu": [op("LeakyRelu", "c", alpha=0.1)], "hardsigmoid": [op("HardSigmoid", "c", alpha=0.2)],
                   "silu": [op("Sigmoid", "c", "s"), op("Mul", "c s")],
                   "hardswish_paddle": [op("Add", "c three", "a"), op("Clip", "a zero six", "k"), op("Mul", "c k", "m"), op("Div", "m six", "y")],
                   "hardswish_torch": [op("HardSigmoid", "c", "h", alpha=1 / 6, beta=0.5), op("Mul", "c h")]}
    constants = {"zero": scalar(0), "six": scalar(6), "three": scalar(3)}
    for name, tail in activations.items():
        weights = {}
        nodes = [conv(0, "x", "c", 10, 6, 3, weights, True), *tail]
        used = {input for node in tail for input in node.input}
        suite.add(f"pattern_conv_{name}", nodes, {"x": normal(1, 6, 9, 9, scale=3)}, {**weights, **{key: value for key, value in constants.items() if key in used}})
        weights = {}
        nodes = [conv(0, "x", "c", 12, 12, 3, weights, True, group=12), *tail]
        suite.add(f"pattern_depthwise_{name}", nodes, {"x": normal(1, 12, 9, 9, scale=3)}, {**weights, **{key: value for key, value in constants.items() if key in used}})

    for order in ("c x", "x c"):
        weights = {}
        suite.add(f"pattern_conv_add_relu_{order[0]}_first", [conv(0, "x", "c", 8, 8, 3, weights, True), op("Add", order, "a"), op("Relu", "a", "y")], {"x": normal(1, 8, 9, 9)}, weights)
    weights = {}
    suite.add("pattern_conv_bn_add_relu", [conv(0, "x", "c", 8, 8, 3, weights), norm(0, "c", "n", 8, weights), op("Add", "n x", "a"), op("Relu", "a", "y")], {"x": normal(2, 8, 9, 9)}, weights)
    weights = {}
    suite.add("pattern_bottleneck", [conv(0, "x", "c0", 8, 16, 1, weights), norm(0, "c0", "n0", 8, weights), op("Relu", "n0", "r0"), conv(1, "r0", "c1", 8, 8, 3, weights, strides=[2, 2]), norm(1, "c1", "n1", 8, weights), op("Relu", "n1", "r1"),
              conv(2, "r1", "c2", 32, 8, 1, weights), norm(2, "c2", "n2", 32, weights), conv(3, "x", "c3", 32, 16, 1, weights, strides=[2, 2]), norm(3, "c3", "n3", 32, weights), op("Add", "n2 n3", "a"), op("Relu", "a", "y")],
              {"x": normal(1, 16, 14, 14)}, weights)
    weights = {}
    suite.add("pattern_conv_used_twice", [conv(0, "x", "c", 8, 8, 3, weights, True), op("Relu", "c", "r"), op("Add", "c r", "y")], {"x": normal(1, 8, 9, 9)}, weights)
    weights = {}
    suite.add("pattern_conv_output_kept", [conv(0, "x", "c", 8, 8, 3, weights, True), op("Relu", "c", "y")], {"x": normal(1, 8, 9, 9)}, weights, outputs=("y", "c"))
    weights = {}
    suite.add("pattern_conv_mul_add_constants", [conv(0, "x", "c", 8, 8, 3, weights), op("Mul", "c s", "m"), op("Add", "m t", "y")], {"x": normal(1, 8, 9, 9)}, {**weights, "s": positive(8, 1, 1), "t": normal(1, 8, 1, 1)})
    weights = {}
    suite.add("pattern_bn_mul_add_caffe2", [conv(0, "x", "c", 8, 8, 3, weights), norm(0, "c", "n", 8, weights), op("Unsqueeze", "s", "su", axes=[1, 2]), op("Mul", "n su", "m"), op("Unsqueeze", "t", "tu", axes=[1, 2]), op("Add", "m tu", "a"), op("Relu", "a", "y")],
              {"x": normal(1, 8, 9, 9)}, {**weights, "s": positive(8), "t": normal(8)}, opset=9)
    weights = {}
    suite.add("pattern_conv_add_scalar", [conv(0, "x", "c", 8, 8, 3, weights), op("Add", "c t", "y")], {"x": normal(1, 8, 9, 9)}, {**weights, "t": scalar(0.7)})
    weights = {}
    suite.add("pattern_conv_add_row_is_no_bias", [conv(0, "x", "c", 9, 8, 3, weights), op("Add", "c t", "y")], {"x": normal(1, 8, 9, 9)}, {**weights, "t": normal(9)})
    weights = {}
    nodes, current, width = [], "x", 12
    for layer in range(4):
        nodes += [norm(2 * layer, current, f"n{layer}", width, weights), op("Relu", f"n{layer}", f"r{layer}"), conv(2 * layer, f"r{layer}", f"c{layer}", 16, width, 1, weights), norm(2 * layer + 1, f"c{layer}", f"m{layer}", 16, weights),
                  op("Relu", f"m{layer}", f"q{layer}"), conv(2 * layer + 1, f"q{layer}", f"g{layer}", 4, 16, 3, weights), op("Concat", f"{current} g{layer}", f"k{layer}", axis=1)]
        current, width = f"k{layer}", width + 4
    suite.add("pattern_densenet_chain", nodes + [op("AveragePool", current, "y", kernel_shape=[2, 2], strides=[2, 2])], {"x": normal(1, 12, 8, 8)}, weights)
    weights = {}
    suite.add("pattern_inception_branches", [conv(0, "x", "a", 5, 9, 1, weights, True), op("Relu", "a", "ar"), conv(1, "x", "b", 7, 9, 3, weights, True), op("Relu", "b", "br"), op("AveragePool", "x", "p", kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1], count_include_pad=1),
              conv(2, "p", "c", 6, 9, 1, weights, True), op("Relu", "c", "cr"), op("MaxPool", "x", "d", kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]), op("Concat", "ar br cr d", "y", axis=1)], {"x": normal(1, 9, 8, 8)}, weights)
    weights = {}
    suite.add("pattern_squeeze_excite", [op("GlobalAveragePool", "x", "p"), conv(0, "p", "c0", 4, 16, 1, weights, True), op("Relu", "c0", "r"), conv(1, "r", "c1", 16, 4, 1, weights, True), op("HardSigmoid", "c1", "h", alpha=0.2, beta=0.5), op("Mul", "x h", "y")],
              {"x": normal(2, 16, 9, 9)}, weights)
    weights = {}
    suite.add("pattern_shuffle", [conv(0, "x", "c", 12, 12, 1, weights, group=3), op("Reshape", "c s0", "r", ), op("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]), op("Reshape", "t s1", "q"), conv(1, "q", "y", 12, 12, 3, weights, group=12)],
              {"x": normal(1, 12, 6, 6)}, {**weights, "s0": ints(1, 3, 4, 6, 6), "s1": ints(1, 12, 6, 6)})
    suite.add("pattern_pad_conv", [op("Pad", "x p", "q"), op("Conv", "q w", "y", strides=[2, 2])], {"x": normal(1, 3, 9, 9)}, {"p": ints(0, 0, 1, 1, 0, 0, 2, 2), "w": normal(4, 3, 3, 3)})
    suite.add("pattern_classifier", [op("GlobalAveragePool", "x", "p"), op("Flatten", "p", "f", axis=1), op("Gemm", "f w b", "g", transB=1), op("Softmax", "g", "y", axis=1)], {"x": normal(1, 24, 5, 5)}, {"w": normal(10, 24), "b": normal(10)})
    for name in ("relu", "add"):
        tail = [op("Relu", "g", "y")] if name == "relu" else [op("Add", "g r", "y")]
        suite.add(f"pattern_gemm_{name}", [op("Gemm", "x w b", "g", transB=1), *tail], {"x": normal(5, 24), **({"r": normal(5, 10)} if name == "add" else {})}, {"w": normal(10, 24), "b": normal(10)})
    # What a 2x2 maximum behind a convolution may look like; 64 channels are what tensor cores take whole.
    for name, x, filters, activation, attributes in (
            ("even", (1, 64, 16, 24), 64, "Relu", {}), ("odd", (2, 64, 15, 13), 96, "Relu", {}), ("deep", (1, 192, 14, 14), 136, "", {}), ("small", (1, 128, 2, 2), 32, "Relu", {}),
            ("sigmoid", (1, 64, 12, 10), 40, "Sigmoid", {}), ("wide", (1, 512, 28, 28), 64, "Relu", {}), ("ceil", (1, 64, 9, 9), 64, "Relu", {"ceil_mode": 1}),
            ("3x3", (1, 64, 12, 12), 64, "Relu", {"kernel_shape": [3, 3]}), ("padded", (1, 64, 12, 12), 64, "Relu", {"pads": [1, 1, 1, 1]}), ("8ch", (1, 8, 12, 12), 16, "Relu", {}),
            ("1x1_pixel_high", (1, 64, 1, 9), 64, "Relu", {})):
        weights = {}
        nodes = [op("Conv", "x w b", "c", pads=[1] * 4)] + ([op(activation, "c", "r")] if activation else [])
        kernel = [1, 2] if name == "1x1_pixel_high" else [2, 2]
        suite.add(f"pattern_conv_pool_{name}", [*nodes, op("MaxPool", "r" if activation else "c", "y", **{"kernel_shape": kernel, "strides": kernel, **attributes})], {"x": normal(*x)},
                  {"w": normal(filters, x[1], 3, 3, scale=1 / math.sqrt(9 * x[1])), "b": normal(filters)})
    suite.add("pattern_conv_pool_used_twice", [op("Conv", "x w", "c", pads=[1] * 4), op("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]), op("Relu", "c", "y"), op("Relu", "p", "z")],
              {"x": normal(1, 64, 12, 12)}, {"w": normal(64, 64, 3, 3, scale=0.04)}, outputs=("y", "z"))
    suite.add("pattern_conv_pool_concat", [op("Conv", "x w", "c", pads=[1] * 4), op("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]), op("MaxPool", "x", "q", kernel_shape=[2, 2], strides=[2, 2]), op("Concat", "q p", "k", axis=1), op("Conv", "k v", "y")],
              {"x": normal(1, 64, 16, 16)}, {"w": normal(48, 64, 3, 3, scale=0.04), "v": normal(16, 112, 1, 1, scale=0.1)})
    suite.add("pattern_stem_clip", [op("Conv", "x w b", "c", strides=[2, 2], pads=[1] * 4), op("Clip", "c lo hi", "y")], {"x": normal(1, 3, 80, 72)}, {"w": normal(32, 3, 3, 3, scale=0.4), "b": normal(32), "lo": scalar(0), "hi": scalar(1)})
    suite.add("pattern_stem_input_used_twice", [op("Conv", "x w", "c", pads=[1] * 4), op("Relu", "c", "y"), op("AveragePool", "x", "z", kernel_shape=[2, 2])], {"x": normal(1, 3, 40, 40)}, {"w": normal(32, 3, 3, 3, scale=0.2)}, outputs=("y", "z"))
    suite.add("pattern_dead_nodes", [op("Relu", "x", "y"), op("Exp", "x", "unused")], {"x": normal(3, 4)})
    suite.add("pattern_unused_input", [op("Relu", "x", "y")], {"x": normal(3, 4), "z": normal(2)})


def attention(query: str, key: str, value: str, masked: str, transposed_key: bool, split_scale: bool) -> List[NodeProto]:
    """Scaled dot product attention over (batch, heads, sequence, width) tensors as PyTorch's exporters write it; result "context"."""
    nodes = [] if transposed_key else [op("Transpose", key, "kt", perm=[0, 1, 3, 2])]
    key = key if transposed_key else "kt"
    if split_scale:  # sqrt(scale) on both sides: scaled_dot_product_attention
        nodes += [op("Mul", f"{query} root", "qs"), op("Mul", f"{key} root", "ks"), op("MatMul", "qs ks", "scores")]
    else:
        nodes += [op("MatMul", f"{query} {key}", "raw"), op("Div", "raw width", "scores")]
    if masked == "add":
        nodes += [op("Add", "scores mask", "ms")]
    elif masked == "where":
        nodes += [op("Where", "mask scores lowest", "ms")]
    nodes += [op("Softmax", "ms" if masked else "scores", "p", axis=-1)]
    if split_scale and masked == "add":  # a row that is masked out entirely gives NaN, which becomes zero
        nodes += [op("IsNaN", "p", "nan"), op("Where", "nan none p", "pz"), op("MatMul", f"pz {value}", "context")]
    else:
        nodes += [op("MatMul", f"p {value}", "context")]
    return nodes


def transformer_patterns(suite: Suite) -> None:
    erf = [op("Div", "x root2", "d"), op("Erf", "d", "e"), op("Add", "e one", "a"), op("Mul", "x a", "m"), op("Mul", "m half", "y")]
    constants = {"root2": scalar(math.sqrt(2)), "one": scalar(1), "half": scalar(0.5)}
    suite.add("gelu_erf_decomposed", erf, {"x": normal(3, 40, scale=2)}, constants)
    suite.add("gelu_erf_decomposed_half_first", [op("Mul", "x half", "h"), *erf[:3], op("Mul", "h a", "y")], {"x": normal(3, 40, scale=2)}, constants)
    suite.add("gelu_erf_decomposed_mul_reciprocal", [op("Mul", "x invroot2", "d"), *erf[1:]], {"x": normal(3, 40, scale=2)}, {**{key: constants[key] for key in ("one", "half")}, "invroot2": scalar(math.sqrt(0.5))})
    suite.add("gelu_tanh_decomposed", [op("Pow", "x three", "c"), op("Mul", "c k", "ck"), op("Add", "x ck", "i"), op("Mul", "i r", "ir"), op("Tanh", "ir", "t"), op("Add", "t one", "a"), op("Mul", "x half", "h"), op("Mul", "h a", "y")],
              {"x": normal(3, 40, scale=2)}, {"three": scalar(3), "k": scalar(0.044715), "r": scalar(math.sqrt(2 / math.pi)), "one": scalar(1), "half": scalar(0.5)})
    suite.add("gelu_not_quite", erf, {"x": normal(3, 40, scale=2)}, {**constants, "half": scalar(0.4)})  # looks like GELU, is none
    suite.add("matmul_bias_gelu", [op("MatMul", "z w", "zw"), op("Add", "b zw", "x"), *erf], {"z": normal(2, 7, 16)}, {**constants, "w": normal(16, 40, scale=0.3), "b": normal(40)})

    batch, heads, sequence, width = 2, 3, 10, 8
    lengths = np.array([sequence, 6])
    keep = (np.arange(sequence)[None, :] < lengths[:, None])[:, None, None, :]
    lowest = np.float32(np.finfo(np.float32).min)
    for masked in ("", "add", "where"):
        for transposed_key in (False, True):
            for split_scale in (False, True):
                shape = (batch, heads, sequence, width)
                feeds = {"q": normal(*shape), "k": normal(batch, heads, width, sequence) if transposed_key else normal(*shape), "v": normal(*shape)}
                weights = {"root": scalar(width ** -0.25)} if split_scale else {"width": scalar(math.sqrt(width))}
                if masked == "add":
                    feeds["mask"] = np.where(keep, 0, -np.inf if split_scale else lowest).astype(np.float32)
                    if split_scale:
                        weights["none"] = scalar(0)
                elif masked == "where":
                    feeds["mask"], weights["lowest"] = keep, scalar(lowest)
                nodes = attention("q", "k", "v", masked, transposed_key, split_scale)
                nodes[-1].output[0] = "y"
                suite.add(f"attention{'_' + masked if masked else ''}{'_kt' if transposed_key else ''}{'_split_scale' if split_scale else ''}", nodes, feeds, weights)
    suite.add("attention_all_masked_row", attention("q", "k", "v", "add", False, True) + [op("Identity", "context", "y")],
              {name: normal(1, 2, 6, 4) for name in "qkv"} | {"mask": np.full((1, 1, 6, 6), -np.inf, np.float32)}, {"root": scalar(0.7), "none": scalar(0)})

    for style in ("eager", "sdpa"):
        hidden = heads * width
        weights = {f"w{part}": normal(hidden, hidden, scale=0.2) for part in "qkvo"}
        weights.update({f"b{part}": normal(hidden) for part in "qkvo"})
        weights.update({"heads": ints(batch, sequence, heads, width), "merged": ints(0, 0, -1), "g": positive(hidden), "b": normal(hidden)})
        weights.update({"root": scalar(width ** -0.25), "none": scalar(0)} if style == "sdpa" else {"width": scalar(math.sqrt(width))})
        nodes: List[NodeProto] = []
        for part in "qkv":
            perm = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            nodes += [op("MatMul", f"x w{part}", f"m{part}"), op("Add", f"b{part} m{part}", f"a{part}"), op("Reshape", f"a{part} heads", f"r{part}"), op("Transpose", f"r{part}", part, perm=perm)]
        nodes += attention("q", "k", "v", "add", True, style == "sdpa")
        nodes += [op("Transpose", "context", "ct", perm=[0, 2, 1, 3]), op("Reshape", "ct merged", "cm"), op("MatMul", "cm wo", "mo"), op("Add", "bo mo", "ao"), op("Add", "ao x", "res"), op("LayerNormalization", "res g b", "y", axis=-1, epsilon=1e-12)]
        suite.add(f"attention_block_{style}", nodes, {"x": normal(batch, sequence, hidden), "mask": np.where(keep, 0, lowest).astype(np.float32)}, weights)
    weights = {"wqkv": normal(24, 72, scale=0.2), "bqkv": normal(72), "split": ints(0, -1, 3, 3, 8), "zero": np.array(0, np.int64), "one": np.array(1, np.int64), "two": np.array(2, np.int64), "scale": scalar(8 ** -0.5), "merged": ints(0, -1, 24)}
    suite.add("attention_packed_qkv",  # one product for all three, as vision transformers and the OCR recogniser have it
              [op("MatMul", "x wqkv", "m"), op("Add", "m bqkv", "a"), op("Reshape", "a split", "r"), op("Transpose", "r", "t", perm=[2, 0, 3, 1, 4]), op("Gather", "t zero", "q0", axis=0), op("Mul", "q0 scale", "q"), op("Gather", "t one", "k", axis=0),
               op("Gather", "t two", "v", axis=0), op("Transpose", "k", "kt", perm=[0, 1, 3, 2]), op("MatMul", "q kt", "s"), op("Softmax", "s", "p", axis=-1), op("MatMul", "p v", "c"), op("Transpose", "c", "ct", perm=[0, 2, 1, 3]), op("Reshape", "ct merged", "y")],
              {"x": normal(1, 11, 24)}, weights)
    suite.add("embeddings_layernorm", [op("Gather", "words ids", "w"), op("Gather", "places at", "p"), op("Add", "w p", "s"), op("LayerNormalization", "s g b", "y", axis=-1)], {"ids": integers(2, 7, low=0, high=30)},
              {"words": normal(30, 16), "places": normal(20, 16), "at": np.arange(7, dtype=np.int64)[None], "g": positive(16), "b": normal(16)})
    suite.add("mask_from_integers", [op("Unsqueeze", "m axes", "u"), op("Cast", "u", "f", to=TensorProto.FLOAT), op("Sub", "one f", "i"), op("Mul", "i low", "y")], {"m": keep[:, 0, 0].astype(np.int64)},
              {"axes": ints(1, 2), "one": scalar(1), "low": scalar(-10000)})


GROUPS = (convolutions, matrix_products, pools, normalizations, elementwise, movement, resizes, reductions, shape_chains, conv_patterns, transformer_patterns)


def write(folder: Path, name: str, model: onnx.ModelProto, feeds: Arrays, outputs: List[str], refused: str) -> None:
    """Asks ONNX Runtime, with its own optimisations off, and writes the case."""
    session = onnxruntime_session(model.SerializeToString(), threads=1, optimise=False)
    answers = session.run(outputs, feeds)
    del model.graph.output[:]
    for output, answer in zip(outputs, answers):
        model.graph.output.append(helper.make_tensor_value_info(output, helper.np_dtype_to_tensor_dtype(answer.dtype), answer.shape))
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for number, array in enumerate(feeds.values()):
        np.save(folder / f"in_{number}.npy", array)
    for number, array in enumerate(answers):
        np.save(folder / f"out_{number}.npy", array)
    (folder / "case.json").write_text(json.dumps({"name": name, "inputs": list(feeds), "outputs": outputs, "refused": refused,
                                                  "operators": sorted({node.op_type for node in model.graph.node})}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", metavar="PART", help="only cases whose name contains PART")
    parser.add_argument("--out", type=Path, default=ROOT / "build/oracle/ops", help="folder to write, emptied first (default: build/oracle/ops)")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    arguments = parser.parse_args()
    suite = Suite(arguments.only)
    for group in GROUPS:
        group(suite)
    if arguments.list:
        print("\n".join(suite.cases))
        return 0
    if not suite.cases:
        parser.error(f"no case has {' or '.join(arguments.only)} in its name")
    if arguments.out.exists() and any(arguments.out.iterdir()) and not list(arguments.out.glob("*/case.json")):
        fail(f"{arguments.out} holds something else: not emptied")
    shutil.rmtree(arguments.out, ignore_errors=True)
    progress, failed = Progress("ops", len(suite.cases)), 0
    for name, (model, feeds, outputs, refused) in suite.cases.items():
        try:
            write(arguments.out / name, name, model, feeds, outputs, refused)
        except Exception as error:  # onnxruntime raises many kinds; each is a case that its own oracle refuses
            failed += 1
            print(f"\n{name}: {str(error).splitlines()[0][:200]}", file=sys.stderr)
        progress.step(name)
    print(f"{len(suite.cases) - failed} cases in {arguments.out}" + (f", {failed} failed" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
