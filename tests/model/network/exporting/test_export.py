from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from model.architecture import Task
from model.network.build import Detector
from model.network.engine import EagerEngine
from model.network.exporting import export
from model.network.exporting.export import export_onnx, store_in_half
from model.network.exporting.torchscript import export_torchscript
from model.network.graph.inference import InferenceGraph
from model.runtime.detections import RawDetections
from model.runtime.engines.engine import INPUTS, output_names
from tests.model.network.exporting.constants import assert_nothing_known_is_computed

Run = Callable[[Any, np.ndarray], RawDetections]

# (height, width, valid sizes): other batch sizes, other shapes and orientations than the exporter saw.
BATCHES = [
    pytest.param(96, 160, [(96, 160)], id="1 image"),
    pytest.param(128, 96, [(128, 90), (110, 96)], id="2 images"),
    pytest.param(64, 192, [(64, 192), (50, 150), (60, 97)], id="3 images"),
    pytest.param(
        96, 96, [(96, 96), (70, 96), (96, 70), (90, 80), (96, 96), (50, 96), (96, 91), (80, 80)], id="8 images"
    ),
]

CLOSE = {"pixels": 2e-2, "probability": 1e-3, "order": False}


def threshold(score: float, images: int) -> np.ndarray:
    return np.full(images, score, dtype=np.float32)


@dataclass(frozen=True)
class Exported:
    task: Task
    model: Detector
    path: Path
    run: Run


def onnx_runner(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(batch: Any, scores: np.ndarray) -> RawDetections:
        values = session.run(None, dict(zip(INPUTS, (batch.images, batch.sizes, scores), strict=True)))
        return RawDetections(**dict(zip(names, values, strict=True)))

    return run


def openvino_runner(path: Path, task: Task, cache: Path) -> Run:
    from model.runtime.engines.openvino import OpenVinoEngine

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        engine = OpenVinoEngine(path, task, "cpu", 1)
    return lambda batch, scores: engine.run(batch.images, batch.sizes, scores)


def torchscript_runner(path: Path, names: tuple[str, ...], device: str = "cpu") -> Run:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`?torch\.jit")
        module = torch.jit.load(path, map_location=device)

    def run(batch: Any, scores: np.ndarray) -> RawDetections:
        inputs = (torch.from_numpy(value).to(device) for value in (batch.images, batch.sizes, scores))
        with torch.inference_mode():
            values = [value.cpu().numpy() for value in module(*inputs)]
        return RawDetections(**dict(zip(names, values, strict=True)))

    return run


@pytest.fixture(scope="module")
def models(helpers: Any) -> dict[str, Detector]:
    updates = {
        "boxes": {},
        "masks": {"task": "masks", **helpers.v2},
        "keypoints": {"task": "keypoints", "num_classes": 2, **helpers.mobilenet},
    }
    return {task: helpers.detector(helpers.small.model_copy(update=update)) for task, update in updates.items()}


@pytest.fixture(scope="module", params=["masks", "keypoints"])
def exported(
    request: pytest.FixtureRequest, models: dict[str, Detector], tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    model = models[request.param]
    export_onnx(model, path)
    return Exported(request.param, model, path, onnx_runner(path))


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def run(request: pytest.FixtureRequest, exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The exported file in each runtime that reads it."""
    if request.param == "onnxruntime":
        return exported.run
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    return openvino_runner(exported.path, exported.task, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def scripted(models: dict[str, Detector], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The TorchScript file of a task's model."""

    @cache
    def export(task: str) -> Path:
        path = tmp_path_factory.mktemp(task) / "model.torchscript.pt"
        export_torchscript(models[task], path)
        return path

    return export


@pytest.mark.parametrize(("height", "width", "sizes"), BATCHES)
def test_onnx_answers_as_torchvision(
    helpers: Any, exported: Exported, run: Run, height: int, width: int, sizes: list[tuple[int, int]]
) -> None:
    batch = helpers.batch(height, width, sizes)
    expected = helpers.torchvision_answer(exported.model, batch, 0.25)
    ours = run(batch, threshold(0.25, len(sizes)))
    assert len(ours.boxes) >= len(sizes), "the test needs detections to compare"
    helpers.assert_same_answer(ours, expected, **CLOSE)


def test_onnx_without_detections(helpers: Any, exported: Exported, run: Run) -> None:
    batch = helpers.batch(64, 64, [(64, 64), (50, 64)])
    none = run(batch, threshold(1.0, 2))
    eager = EagerEngine(exported.model).run(batch.images, batch.sizes, threshold(1.0, 2))
    for ours, expected in zip(fields(none), fields(eager), strict=True):
        assert ours.shape == expected.shape
        assert ours.dtype == expected.dtype
    mixed = run(batch, np.array([1.0, 0.0], dtype=np.float32))
    assert set(mixed.image_index) == {1}


def fields(detections: RawDetections) -> list[np.ndarray]:
    values = (getattr(detections, name) for name in output_names("masks") + output_names("keypoints")[-1:])
    return [value for value in values if value is not None]


def test_onnx_ignores_an_images_neighbors(helpers: Any, run: Run) -> None:
    batch = helpers.batch(96, 128, [(96, 128), (80, 110), (96, 99)])
    together = run(batch, threshold(0.25, 3))
    for index in range(3):
        alone = run(batch.of(index), threshold(0.25, 1))
        for ours, expected in zip(fields(together.of_image(index)), fields(alone), strict=True):
            if expected.dtype == np.float32:
                np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(together.of_image(index).labels, alone.labels)


def test_onnx_file_is_plain_and_dynamic(exported: Exported) -> None:
    proto = onnx.load(exported.path)
    onnx.checker.check_model(proto)
    assert [(opset.domain, opset.version >= 17) for opset in proto.opset_import] == [("", True)]
    assert {node.domain for node in proto.graph.node} == {""}
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert tuple(value.name for value in proto.graph.input) == INPUTS
    graph = InferenceGraph(exported.model)
    assert [value.name for value in proto.graph.output] == graph.output_names
    assert shapes["images"] == ["batch", "32*rows", "32*columns", 3]
    assert shapes["sizes"] == ["batch", 2]
    assert shapes["score_threshold"] == ["batch"]
    assert b"/site-packages/" not in exported.path.read_bytes(), "no paths of the exporting machine"


def test_nothing_that_is_known_is_computed(exported: Exported, tmp_path: Path) -> None:
    weights = set(exported.model.state_dict())
    assert_nothing_known_is_computed(exported.path, weights, tmp_path)
    half = onnx.load(exported.path)
    store_in_half(half)
    onnx.save(half, tmp_path / "half.onnx")
    assert_nothing_known_is_computed(tmp_path / "half.onnx", weights, tmp_path)


def test_weights_can_be_read_back_by_name(exported: Exported) -> None:
    stored = {item.name: numpy_helper.to_array(item) for item in onnx.load(exported.path).graph.initializer}
    wanted = {
        name: value.numpy()
        for name, value in exported.model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert set(wanted) <= set(stored)
    for name, value in wanted.items():
        np.testing.assert_array_equal(stored[name], value, err_msg=name)


def test_batch_norm_is_folded_at_load(exported: Exported, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(exported.path, options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(options.optimized_model_filepath)
    operators = [node.op_type for node in optimized.graph.node]
    assert operators.count("Conv") + operators.count("FusedConv") > 20
    assert "BatchNormalization" not in operators


def test_a_network_of_other_weights_becomes_the_file_that_tracing_gives(
    helpers: Any, trace_anew: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of C4, whose heads share weights, and which takes the least time to trace."""
    config = helpers.small.model_copy(update=helpers.variants["c4"])
    model, other = (helpers.detector(config, seed) for seed in (0, 1))
    export_onnx(model, tmp_path / "model.onnx")
    helpers.torchvision_answer(model, helpers.batch(64, 96, [(64, 96)]), 0.25)
    with monkeypatch.context() as patch:
        patch.setattr(export, "_trace", None)
        export_onnx(model, tmp_path / "again.onnx")  # running and exporting leave traces in its parts
        export_onnx(other, tmp_path / "other.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    monkeypatch.setattr(export, "_TRACED", {})
    monkeypatch.setattr(export, "_trace", trace_anew)
    export_onnx(other, tmp_path / "traced.onnx")
    assert (tmp_path / "other.onnx").read_bytes() == (tmp_path / "traced.onnx").read_bytes()
    assert (tmp_path / "other.onnx").read_bytes() != (tmp_path / "model.onnx").read_bytes()


def test_half_storage_halves_the_file_and_keeps_the_answer(helpers: Any, exported: Exported, tmp_path: Path) -> None:
    half = onnx.load(exported.path)
    store_in_half(half)
    onnx.checker.check_model(half)
    onnx.save(half, tmp_path / "half.onnx")
    stored = {item.name: item for item in half.graph.initializer}
    model = copy.deepcopy(exported.model)
    weights = {name: value for name, value in model.state_dict().items() if value.dim() >= 2 and value.numel() >= 1024}
    assert len(weights) > 20
    with torch.no_grad():
        for name, value in weights.items():
            np.testing.assert_array_equal(numpy_helper.to_array(stored[name]), value.half().numpy(), err_msg=name)
            value.copy_(value.half())
    assert (tmp_path / "half.onnx").stat().st_size < 0.55 * exported.path.stat().st_size

    batch = helpers.batch(96, 96, [(96, 96), (80, 96)])
    expected = helpers.torchvision_answer(model, batch, 0.25)
    helpers.assert_same_answer(onnx_runner(tmp_path / "half.onnx")(batch, threshold(0.25, 2)), expected, **CLOSE)


def test_half_storage_leaves_what_it_cannot_hold() -> None:
    large = np.full((40, 40), 1e5, dtype=np.float32)
    small = np.full((3, 3), 0.1, dtype=np.float32)
    vector = np.full(5000, 0.1, dtype=np.float32)
    values = {"large": large, "small": small, "vector": vector, "whole": np.ones((40, 40), dtype=np.int64)}
    graph = helper.make_graph(
        [helper.make_node("Identity", ["large"], ["out"])],
        "graph",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [40, 40])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    proto = helper.make_model(graph)
    before = proto.SerializeToString()
    store_in_half(proto)
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("task", ["boxes", "masks", "keypoints"])
def test_torchscript_answers_as_torchvision(
    helpers: Any, models: dict[str, Detector], scripted: Callable[[str], Path], task: str
) -> None:
    model = models[task]
    run = torchscript_runner(scripted(task), output_names(task))
    for height, width, sizes in (case.values for case in BATCHES[:3]):
        batch = helpers.batch(height, width, sizes)
        expected = helpers.torchvision_answer(model, batch, 0.25)
        helpers.assert_same_answer(run(batch, threshold(0.25, len(sizes))), expected, **CLOSE)
    none = run(batch, threshold(1.0, 3))
    assert all(len(value) == 0 for value in fields(none))


def test_torchscript_is_not_bound_to_the_exporting_device(scripted: Callable[[str], Path]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`?torch\.jit")
        graph = torch.jit.load(scripted("masks")).inlined_graph
    users = {
        use.user.kind()
        for constant in graph.findAllNodes("prim::Constant")
        if str(constant.output().type()) == "Device"
        for use in constant.output().uses()
    }
    # Scalars on the CPU take part in arithmetic on any device.
    assert users <= {"aten::scalar_tensor"}


def test_exporting_leaves_the_training_mode_alone(models: dict[str, Detector], tmp_path: Path) -> None:
    model = models["boxes"]
    model.rpn.train()
    export_torchscript(model, tmp_path / "model.torchscript.pt")
    assert model.rpn.training
    assert model.rpn.head.training
    assert not model.backbone.training
    model.eval()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torchscript_moves_to_the_gpu(
    helpers: Any, models: dict[str, Detector], scripted: Callable[[str], Path]
) -> None:
    model = models["keypoints"]
    run = torchscript_runner(scripted("keypoints"), output_names("keypoints"), "cuda")
    batch = helpers.batch(96, 128, [(96, 128), (80, 110)])
    expected = helpers.torchvision_answer(model, batch, 0.3)
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    ours = run(batch, threshold(0.3, 2))
    torch.backends.cudnn.allow_tf32 = tf32
    helpers.assert_same_answer(ours, expected, pixels=0.05, probability=1e-3, order=False)
