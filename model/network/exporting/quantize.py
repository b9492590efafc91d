"""model.onnx -> model.onnx whose convolutions and linear layers compute in INT8: smaller, faster, and another network.

Static quantization: scales are fixed from what flows through the network on calibration images, so that an answer still
does not depend on an image's neighbors. Weights are signed with a scale for each output channel, activations unsigned,
which is what the integer dot products of x86 processors take. Weights have 7 bits, -64 to 64: processors without such
dot products add two products in 16 bits, which 255 * 64 * 2 does not overflow, so that every processor computes the
same integers, and what was measured on one holds for others. The last layer of each head stays in fp32, since what it
puts out is ordered, thresholded or decoded; so does all arithmetic on boxes, RoIAlign and NMS.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

# As in the engine: whichever of the two is imported first loads ONNX Runtime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from model.network.exporting.export import store_in_half
from model.runtime.engines.engine import INPUTS

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""What `model.runtime.preprocess.stack` returns: images uint8 [B, H, W, C] and their valid sizes int64 [B, 2]."""

CALIBRATION_THRESHOLD = 0.05
"""Score of the detections whose masks and keypoints count for the scales: those that an evaluation counts."""

IN_FP32 = (
    "rpn.head.cls_logits",
    "rpn.head.bbox_pred",
    "roi_heads.box_predictor.",
    "roi_heads.mask_predictor.mask_fc_logits",
)
"""Layers, by the names of their weights, that are not quantized."""

_FATAL_ONLY = 4
_LAYERS = ("Conv", "Gemm")


def quantize_int8(source: Path, target: Path, batches: Iterable[Batch], *, half_storage: bool = False) -> None:
    """Write `source`, as `export_onnx` wrote it, to `target` with quantized layers: same inputs, same outputs.

    `batches` are calibration images; `half_storage` keeps what stays fp32 as fp16 in the file, as `export_onnx` does.
    Weights are no longer found by their state_dict names. Heads behind the detections need images in which something
    is detected, or their scales mean nothing. Raises ValueError when there is no image.
    """
    with tempfile.TemporaryDirectory(prefix="maskserve-int8-") as folder:
        folded, quantized = Path(folder) / "folded.onnx", Path(folder) / "quantized.onnx"
        proto = _fold(source, folded)
        quantize_static(
            folded,
            quantized,
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_LAYERS, "Relu"],
            nodes_to_quantize=_chosen(proto),
            per_channel=True,
            reduce_range=True,  # weights alone
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        result = onnx.load(quantized)
    result.ClearField("metadata_props")
    if half_storage:
        store_in_half(result)
    onnx.save(result, target)


class _Reader:
    """Calibration images as `quantize_static` asks for them: one `get_next` after another, None at the end."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches: Iterator[Batch] = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        images, sizes = batch
        thresholds = np.full(len(images), CALIBRATION_THRESHOLD, np.float32)
        return dict(zip(INPUTS, (images, sizes, thresholds), strict=True))


def _fold(source: Path, folded: Path) -> ModelProto:
    """Batch norms become part of the convolutions before them, for what is quantized must be what is computed."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    # Beyond the basic level come this processor's own layouts, which no other could load.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    proto = onnx.load(folded)
    used = {node.domain for node in proto.graph.node}
    opsets = [opset for opset in proto.opset_import if opset.domain in used]
    proto.ClearField("opset_import")
    proto.opset_import.extend(opsets)
    add_pre_process_metadata(proto)
    onnx.save(proto, folded)
    return proto


def _chosen(proto: ModelProto) -> list[str]:
    """Names of the nodes to quantize: layers with constant weights but `IN_FP32`, and the ReLUs right behind them."""
    constants = {initializer.name for initializer in proto.graph.initializer}
    chosen, outputs = [], set()
    for node in proto.graph.node:
        if node.op_type in _LAYERS:
            weight = node.input[1]
            quantized = weight in constants and not any(name in weight for name in IN_FP32)
        else:
            quantized = node.op_type == "Relu" and node.input[0] in outputs
        if quantized:
            chosen.append(node.name)
            outputs.update(node.output)
    return chosen
