"""A real, tiny ONNX network with the inputs and outputs of an exported model, and what a bundle of it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model.architecture import ArchitectureConfig, Task
from model.runtime.bundles.bundle import Bundle, ManifestDraft, Provenance, publish_bundle
from model.runtime.preprocess import Preprocessing

MASK_SIDE, KEYPOINTS, HEATMAP_SIDE = 28, 2, 56


def tiny_network(task: Task) -> bytes:
    """A network that finds one object of label 1 in an image: its left half, scored by the image's brightness in 0..1.

    Every mask probability is 0.75; every heatmap logit is 0.
    """

    def constant(name: str, values: object, dtype: type[np.generic] = np.int64) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, dtype), name)

    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        node("ReduceSum", ["pixels", "pixel_axes"], ["light"], keepdims=0),
        node("Cast", ["sizes"], ["sides"], to=TensorProto.FLOAT),
        node("ReduceProd", ["sides"], ["area"], axes=[1], keepdims=0),
        node("Mul", ["area", "full_light"], ["most_light"]),
        node("Div", ["light", "most_light"], ["brightness"]),
        node("Greater", ["brightness", "score_threshold"], ["is_found"]),
        node("NonZero", ["is_found"], ["found"]),
        node("Squeeze", ["found", "first_axis"], ["image_index"]),
        node("Gather", ["brightness", "image_index"], ["scores"]),
        node("Gather", ["sides", "image_index"], ["found_sides"]),
        node("MatMul", ["found_sides", "left_half"], ["boxes"]),
        node("Mul", ["image_index", "zero"], ["background"]),
        node("Add", ["background", "one"], ["labels"]),
        node("Shape", ["image_index"], ["count"]),
    ]
    constants = [
        constant("pixel_axes", [1, 2, 3]),
        constant("full_light", 255 * 3, np.float32),
        constant("first_axis", [0]),
        constant("left_half", [[0, 0, 0, 1], [0, 0, 0.5, 0]], np.float32),
        constant("zero", 0),
        constant("one", 1),
    ]
    value = helper.make_tensor_value_info
    outputs = [
        value("boxes", TensorProto.FLOAT, ["N", 4]),
        value("scores", TensorProto.FLOAT, ["N"]),
        value("labels", TensorProto.INT64, ["N"]),
        value("image_index", TensorProto.INT64, ["N"]),
    ]
    last: dict[Task, tuple[str, list[int], float]] = {
        "masks": ("masks", [MASK_SIDE, MASK_SIDE], 0.75),
        "keypoints": ("keypoint_heatmaps", [KEYPOINTS, HEATMAP_SIDE, HEATMAP_SIDE], 0.0),
    }
    if task in last:
        name, shape, fill = last[task]
        constants.append(constant("rest_of_shape", shape))
        nodes.append(node("Concat", ["count", "rest_of_shape"], ["last_shape"], axis=0))
        filling = helper.make_tensor("fill", TensorProto.FLOAT, [1], [fill])
        nodes.append(node("ConstantOfShape", ["last_shape"], [name], value=filling))
        outputs.append(value(name, TensorProto.FLOAT, ["N", *shape]))
    inputs = [
        value("images", TensorProto.UINT8, ["B", "H", "W", 3]),
        value("sizes", TensorProto.INT64, ["B", 2]),
        value("score_threshold", TensorProto.FLOAT, ["B"]),
    ]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(network)
    return network.SerializeToString()


def tiny_draft(task: Task = "masks") -> ManifestDraft:
    return ManifestDraft(
        architecture=ArchitectureConfig(task=task, num_classes=3, num_keypoints=KEYPOINTS),
        class_names=("nucleus", "cell"),
        keypoint_names=("head", "tail") if task == "keypoints" else (),
        preprocessing=Preprocessing(min_size=64, max_size=128),
        provenance=Provenance(dataset="generated", license="CC0-1.0"),
    )


@pytest.fixture
def draft() -> ManifestDraft:
    return tiny_draft()


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """A folder with the files of a bundle that can be published."""
    folder = tmp_path / "staging"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(tiny_network("masks"))
    (folder / "weights.pth").write_bytes(b"weights " * 1000)
    return folder


@pytest.fixture
def publish(tmp_path: Path) -> Callable[[Task], Bundle]:
    """Publishes a bundle of the tiny network for a task."""

    def of_task(task: Task) -> Bundle:
        folder = tmp_path / f"staging-{task}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(tiny_network(task))
        return publish_bundle(folder, tiny_draft(task), tmp_path / "repository", task)

    return of_task


@pytest.fixture
def bundle(staging: Path, draft: ManifestDraft, tmp_path: Path) -> Bundle:
    """A published bundle, tiny 1."""
    return publish_bundle(staging, draft, tmp_path / "repository", "tiny")
