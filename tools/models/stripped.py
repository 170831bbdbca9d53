"""Graphs without weights: what is committed in place of hundreds of megabytes.

A stripped model is an ordinary ONNX file that `onnx.load` reads. Its large float initializers keep their name, dims and
type but hold no data; small ones and integers (shapes, axes, scales) are intact. The model's metadata says so under
MARK, so that nobody takes such a file for a broken one.
"""

from __future__ import annotations

import math
from typing import Iterator

import onnx

MARK = "reef.weights"
MARK_VALUE = "stripped: dims and types only; tools/models/make_models.py draws the data"
KEEP_BELOW_ELEMS = 16  # scalars, scales and other constants of the graph are smaller than any real weight

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
DATA_FIELDS = (
    "raw_data",
    "float_data",
    "double_data",
    "int32_data",
    "int64_data",
    "uint64_data",
    "string_data",
    "external_data",
    "data_location",
)


def element_count(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims)


def has_data(tensor: onnx.TensorProto) -> bool:
    return element_count(tensor) == 0 or any(
        len(getattr(tensor, field)) for field in DATA_FIELDS if field != "data_location"
    )


def without_data(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The initializers of `graph` that make_models has to fill."""
    return (tensor for tensor in graph.initializer if not has_data(tensor))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for sub in attribute.graphs:
                yield from _graphs(sub)


def strip(model: onnx.ModelProto) -> int:
    """Drops weights, and the notes that exporters leave (stack traces, source paths). Returns the bytes of weights dropped."""
    dropped = 0
    for graph in _graphs(model.graph):
        for tensor in graph.initializer:
            if tensor.data_type in FLOATS and element_count(tensor) >= KEEP_BELOW_ELEMS:
                dropped += len(tensor.raw_data) + 4 * len(tensor.float_data)
                for field in DATA_FIELDS:
                    tensor.ClearField(field)
            tensor.ClearField("doc_string")
            tensor.ClearField("metadata_props")
        for holder in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
            holder.ClearField("doc_string")
            holder.ClearField("metadata_props")
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.metadata_props.add(key=MARK, value=MARK_VALUE)
    return dropped


def is_stripped(model: onnx.ModelProto) -> bool:
    return any(entry.key == MARK for entry in model.metadata_props)
