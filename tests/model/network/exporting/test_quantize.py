"""INT8: the right layers are quantized, the file stays a plain one, and it still finds what the network finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from model.network.exporting.export import export_onnx
from model.network.exporting.quantize import Batch, quantize_int8
from model.runtime.detections import RawDetections
from model.runtime.engines.engine import INPUTS, Engine, FloatPrecision
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


def test_no_processor_can_overflow(quantized: Quantized) -> None:
    """Some add two products of an unsigned and a signed byte in 16 bits; weights of 127 would give 64,770."""
    proto = onnx.load(quantized.int8)
    integers = [one for one in proto.graph.initializer if one.data_type == TensorProto.INT8 and len(one.dims) > 1]
    weights = [numpy_helper.to_array(one) for one in integers]
    assert len(weights) > 20
    assert max(int(np.abs(one.astype(int)).max()) for one in weights) == 64
    assert 255 * 64 * 2 < 2**15
    used = {name for node in proto.graph.node if node.op_type == "QuantizeLinear" for name in node.input[2:]}
    zero_points = [one for one in proto.graph.initializer if one.name in used]
    assert {one.data_type for one in zero_points} == {TensorProto.UINT8}, "activations keep all 8 bits, unsigned"


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
    assert len(expected.scores) > 20
    assert share_found(expected, actual) > 0.6


def share_found(expected: RawDetections, actual: RawDetections) -> float:
    """Of the detections in all images those that have one of the same label within 4 pixels."""
    near = 0
    for index in range(len(SIZES)):
        theirs, ours = expected.of_image(index), actual.of_image(index)
        for box, label in zip(theirs.boxes, theirs.labels, strict=True):
            distance = np.abs(ours.boxes[ours.labels == label] - box).max(axis=1)
            near += bool(distance.min(initial=np.inf) < 4)
    return near / len(expected.scores)


def test_an_answer_does_not_depend_on_the_neighbors(quantized: Quantized) -> None:
    assert_independent(OnnxEngine(quantized.int8, "masks", "cpu", 1), quantized.images)


def assert_independent(engine: Engine, images: Any) -> None:
    """Each image is answered as it is alone."""

    def answer(batch: Any) -> RawDetections:
        return engine.run(batch.images, batch.sizes, np.full(len(batch.sizes), 0.25, np.float32))

    together = answer(images)
    for index in range(len(SIZES)):
        alone = answer(images.of(index))
        mine = together.of_image(index)
        assert len(mine.scores) > 5
        np.testing.assert_array_equal(mine.labels, alone.labels)
        np.testing.assert_allclose(mine.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(mine.scores, alone.scores, atol=1e-4)


@pytest.fixture(scope="module", params=["int8", "bf16"])
def by_openvino(
    request: pytest.FixtureRequest, quantized: Quantized, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Engine]]:
    """OpenVINO with the network in that precision, just compiled, and once more as it was kept."""
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    from model.runtime.engines import openvino

    if request.param == "bf16" and "BF16" not in openvino.CAPABILITIES:
        pytest.skip("this processor does not compute in bfloat16")
    file = quantized.int8 if request.param == "int8" else quantized.fp32
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        precision: FloatPrecision = "bf16" if request.param == "bf16" else "f32"
        compiled = openvino.OpenVinoEngine(file, "masks", "cpu", 1, precision)
        patch.setattr(openvino, "divide_exactly", None)  # what is kept is not compiled
        imported = openvino.OpenVinoEngine(file, "masks", "cpu", 1, precision)
    yield compiled, imported
    compiled.close()
    imported.close()


def test_openvino_finds_nearly_what_the_network_finds(quantized: Quantized, by_openvino: tuple[Engine, Engine]) -> None:
    thresholds = np.full(len(SIZES), 0.25, np.float32)
    expected = run(quantized.fp32, quantized.images)
    actual = by_openvino[0].run(quantized.images.images, quantized.images.sizes, thresholds)
    assert not np.array_equal(expected.scores, actual.scores), "it computed in float32"
    assert share_found(expected, actual) > 0.6


def test_what_was_kept_answers_as_what_was_just_compiled(
    quantized: Quantized, by_openvino: tuple[Engine, Engine]
) -> None:
    thresholds = np.full(len(SIZES), 0.25, np.float32)
    first, again = (engine.run(quantized.images.images, quantized.images.sizes, thresholds) for engine in by_openvino)
    assert len(first.scores) > 20
    for name in ("boxes", "scores", "labels", "image_index", "masks"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_an_answer_of_openvino_does_not_depend_on_the_neighbors(
    quantized: Quantized, by_openvino: tuple[Engine, Engine]
) -> None:
    assert_independent(by_openvino[0], quantized.images)


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
