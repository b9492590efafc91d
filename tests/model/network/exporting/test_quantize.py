"""INT8: the right layers are quantized, the file stays a plain one, and it still finds what the network finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from model.network.exporting.export import export_onnx
from model.network.exporting.quantize import Batch, quantize_int8
from model.runtime.detections import RawDetections
from model.runtime.engines.engine import INPUTS
from model.runtime.engines.onnx import OnnxEngine

SIZES = [(96, 96), (80, 90)]


@dataclass(frozen=True)
class Quantized:
    """The same network as exported and in INT8, and images of the kind that it was calibrated on."""

    fp32: Path
    int8: Path
    images: Any


@pytest.fixture(scope="module")
def quantized(helpers: Any, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    folder = tmp_path_factory.mktemp("quantized")
    model = helpers.detector(helpers.small.model_copy(update={"task": "masks", **helpers.v2}))
    export_onnx(model, folder / "fp32.onnx")
    quantize_int8(folder / "fp32.onnx", folder / "int8.onnx", calibration(helpers, 6))
    return Quantized(folder / "fp32.onnx", folder / "int8.onnx", helpers.batch(96, 96, SIZES, seed=50))


def calibration(helpers: Any, count: int) -> list[Batch]:
    batches = [helpers.batch(96, 96, [(96, 96)], seed=seed) for seed in range(count)]
    return [(batch.images, batch.sizes) for batch in batches]


def run(file: Path, batch: Any, threshold: float = 0.25) -> RawDetections:
    engine = OnnxEngine(file, "masks", "cpu", 1)
    return engine.run(batch.images, batch.sizes, np.full(len(batch.sizes), threshold, np.float32))


def test_layers_compute_in_int8_and_the_last_of_each_head_in_fp32(quantized: Quantized) -> None:
    proto = onnx.load(quantized.int8)
    types = {initializer.name: initializer.data_type for initializer in proto.graph.initializer}
    made_by = {output: node for node in proto.graph.node for output in node.output}
    kept, integer = set(), 0
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = node.input[1]
        if weight in types:
            assert types[weight] == TensorProto.FLOAT
            kept.add(weight.removesuffix(".weight"))
        else:
            assert made_by[weight].op_type == "DequantizeLinear"
            integer += types[made_by[weight].input[0]] == TensorProto.INT8
    assert kept == {
        "rpn.head.cls_logits",
        "rpn.head.bbox_pred",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    }
    assert integer > 30
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}


def test_the_file_is_plain_and_smaller(quantized: Quantized) -> None:
    proto = onnx.load(quantized.int8)
    onnx.checker.check_model(proto)
    assert {node.domain for node in proto.graph.node} == {""}
    assert [opset.domain for opset in proto.opset_import] == [""]
    assert tuple(value.name for value in proto.graph.input) == INPUTS
    assert b"maskserve-int8-" not in quantized.int8.read_bytes(), "no paths of the exporting machine"
    assert quantized.int8.stat().st_size < 0.4 * quantized.fp32.stat().st_size


def test_it_finds_nearly_what_the_network_finds(quantized: Quantized) -> None:
    expected, actual = run(quantized.fp32, quantized.images), run(quantized.int8, quantized.images)
    assert not np.array_equal(expected.scores, actual.scores), "nothing was quantized"
    near = 0
    for index in range(len(SIZES)):
        theirs, ours = expected.of_image(index), actual.of_image(index)
        for box, label in zip(theirs.boxes, theirs.labels, strict=True):
            distance = np.abs(ours.boxes[ours.labels == label] - box).max(axis=1)
            near += bool(distance.min(initial=np.inf) < 4)
    assert len(expected.scores) > 20
    assert near > 0.6 * len(expected.scores)


def test_an_answer_does_not_depend_on_the_neighbors(helpers: Any, quantized: Quantized) -> None:
    together = run(quantized.int8, quantized.images)
    for index in range(len(SIZES)):
        alone = run(quantized.int8, quantized.images.of(index))
        mine = together.of_image(index)
        np.testing.assert_array_equal(mine.labels, alone.labels)
        np.testing.assert_allclose(mine.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(mine.scores, alone.scores, atol=1e-4)


def test_half_storage_is_for_what_stays_fp32(helpers: Any, quantized: Quantized, tmp_path: Path) -> None:
    smaller = tmp_path / "half.onnx"
    quantize_int8(quantized.fp32, smaller, calibration(helpers, 6), half_storage=True)
    types = {initializer.name: initializer.data_type for initializer in onnx.load(smaller).graph.initializer}
    assert types["rpn.head.bbox_pred.weight"] == TensorProto.FLOAT  # few elements
    assert types["roi_heads.box_predictor.bbox_pred.weight"] == TensorProto.FLOAT16
    assert smaller.stat().st_size < quantized.int8.stat().st_size
    assert len(run(smaller, quantized.images).scores) > 20


def test_there_must_be_calibration_images(quantized: Quantized, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"[Nn]o data"):
        quantize_int8(quantized.fp32, tmp_path / "int8.onnx", [])
    assert not (tmp_path / "int8.onnx").exists()


def test_nothing_detected_is_no_trouble(quantized: Quantized) -> None:
    none = run(quantized.int8, quantized.images, threshold=1.0)
    assert none.boxes.shape == (0, 4)
    assert none.masks is not None
    assert none.masks.shape == (0, 28, 28)
