"""What of a network is computed though it is known before an image is sent, and where Range has its bounds from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
from onnx import ModelProto, NodeProto

ON_THE_HOST = {"Add", "Div", "Mul", "Shape", "Squeeze"}
"""Operators that ONNX Runtime leaves on the CPU where they compute int64 sizes from shapes."""


def computed_constants(network: ModelProto) -> dict[str, set[str]]:
    """Of each node that computes with constants alone: its outputs -> the initializers that it comes from."""
    sources = {initializer.name: {initializer.name} for initializer in network.graph.initializer}
    computed = {}
    for node in network.graph.node:
        inputs = [name for name in node.input if name]
        if all(name in sources for name in inputs):
            found = set().union(*(sources[name] for name in inputs))
            sources.update(dict.fromkeys(node.output, found))
            computed[f"{node.op_type} {', '.join(node.output)}"] = found
    return computed


def bounds(network: ModelProto) -> Iterator[tuple[str, set[str]]]:
    """Each input of each Range, with the operators that compute it from shapes and constants."""
    made_by = {output: node for node in network.graph.node for output in node.output}
    for node in network.graph.node:
        if node.op_type == "Range":
            for name in node.input:
                yield name, _operators(name, made_by)


def _operators(name: str, made_by: dict[str, NodeProto]) -> set[str]:
    node = made_by.get(name)
    if node is None:
        return set()
    behind = () if node.op_type == "Shape" else node.input
    return {node.op_type}.union(*(_operators(source, made_by) for source in behind))


def as_loaded(file: Path, folder: Path) -> ModelProto:
    """What ONNX Runtime makes of the file before it decides which device computes what."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "loaded.onnx")


def assert_nothing_known_is_computed(file: Path, weights: set[str], folder: Path) -> None:
    """Only what rearranges or widens weights is left, and ONNX Runtime folds that; Range's bounds stay on the host."""
    network = onnx.load(file)
    for output, sources in computed_constants(network).items():
        assert sources & weights, f"{output} is computed from literals"
    assert computed_constants(as_loaded(file, folder)) == {}
    initializers = {initializer.name for initializer in network.graph.initializer}
    literals = [node.input[0] for node in network.graph.node if node.op_type == "CastLike"]
    assert initializers.isdisjoint(literals)
    typed = onnx.shape_inference.infer_shapes(network).graph.value_info
    types = {value.name: value.type.tensor_type.elem_type for value in typed}
    found = list(bounds(network))
    assert len(found) > 10, "the test needs Ranges to look at"
    for name, operators in found:
        assert operators <= ON_THE_HOST, name
        assert name in initializers or types[name] == onnx.TensorProto.INT64, name
