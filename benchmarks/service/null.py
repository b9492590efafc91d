"""The null model as a bundle that maskserve serves: a network which detects the same in every image at no cost.

The peers' is `benchmarks.peers.network.NullDetector`. Ours does more for an answer than theirs: it makes 20 masks.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from benchmarks.peers.network import NULL_DETECTIONS, NULL_SIZE, NullDetector
from model.architecture import ArchitectureConfig
from model.runtime.bundles.bundle import Bundle, publish_bundle
from model.runtime.bundles.manifest import ManifestDraft, Provenance, ServingDefaults
from model.runtime.preprocess import Preprocessing

NAME = "null"


def publish_null(staging: Path, repository: Path) -> Bundle:
    """Publish it as `null`. Images of 640x480 pixels are not resized."""
    staging.mkdir(parents=True, exist_ok=True)
    onnx.save(null_network(), staging / "model.onnx")
    short, long = NULL_SIZE
    draft = ManifestDraft(
        architecture=ArchitectureConfig(num_classes=2, min_size=short, max_size=long),
        class_names=("disc",),
        preprocessing=Preprocessing(min_size=short, max_size=long),
        provenance=Provenance(dataset="none: a graph made by hand", license="Apache-2.0"),
        defaults=ServingDefaults(score_threshold=0.05, max_detections=NULL_DETECTIONS),
    )
    return publish_bundle(staging, draft, repository, NAME)


def null_network() -> onnx.ModelProto:
    """A network's inputs and outputs, with constants between them, repeated for each image of a batch."""
    y, x = np.mgrid[:28, :28]
    disc = np.clip(12 - np.hypot(y - 13.5, x - 13.5), 0, 1).astype(np.float32)
    answer = NullDetector().predict([Image.new("RGB", (1, 1))])[0]
    constants = {
        "box": np.array(answer["boxes"], np.float32),
        "score": np.array(answer["scores"], np.float32),
        "label": np.array(answer["labels"], np.int64),
        "mask": np.repeat(disc[None], NULL_DETECTIONS, axis=0),
        "0": np.int64(0),
        "1": np.int64(1),
        "one": np.array([1], np.int64),
        "ones": np.array([1, 1], np.int64),
        "row": np.ones((1, NULL_DETECTIONS), np.int64),
        "flat": np.array([-1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Shape", ["sizes"], ["batch"], start=0, end=1),
        node("Concat", ["batch", "one"], ["rows"], axis=0),
        node("Concat", ["batch", "ones"], ["sheets"], axis=0),
        node("Tile", ["box", "rows"], ["boxes"]),
        node("Tile", ["score", "batch"], ["scores"]),
        node("Tile", ["label", "batch"], ["labels"]),
        node("Tile", ["mask", "sheets"], ["masks"]),
        node("Squeeze", ["batch"], ["count"]),
        node("Range", ["0", "count", "1"], ["positions"]),
        node("Unsqueeze", ["positions", "one"], ["column"]),
        node("Mul", ["column", "row"], ["grid"]),
        node("Reshape", ["grid", "flat"], ["image_index"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        NAME,
        [
            value("images", TensorProto.UINT8, ["B", "H", "W", 3]),
            value("sizes", TensorProto.INT64, ["B", 2]),
            value("score_threshold", TensorProto.FLOAT, ["B"]),
        ],
        [
            value("boxes", TensorProto.FLOAT, ["N", 4]),
            value("scores", TensorProto.FLOAT, ["N"]),
            value("labels", TensorProto.INT64, ["N"]),
            value("image_index", TensorProto.INT64, ["N"]),
            value("masks", TensorProto.FLOAT, ["N", 28, 28]),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def null_photograph() -> bytes:
    """A JPEG of 640x480 pixels as detailed as a photograph."""
    height, width = NULL_SIZE
    generator = np.random.default_rng(0)
    layers = [
        np.asarray(
            Image.fromarray(generator.integers(0, 256, (height // step, width // step, 3), np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            ),
            np.float32,
        )
        for step in (4, 16, 80)
    ]
    buffer = BytesIO()
    weighted = 0.1 * layers[0] + 0.3 * layers[1] + 0.6 * layers[2]
    Image.fromarray(weighted.astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
