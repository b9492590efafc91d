"""The model of the service's tests: a small graph made by hand, whose answers are known and which images can steer."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HUNGRY_MARK = 7
"""Without it the noise that warms a model up would be hungry, as it would be slow if green did not matter."""
SIDE = 64
"""Side in pixels of an image that the probe takes without resampling."""

# The probe's six candidates: score in a white image, label id, box in shares of the image's width and height.
CANDIDATES: tuple[tuple[float, int, tuple[float, float, float, float]], ...] = (
    (0.95, 1, (0.1, 0.1, 0.5, 0.5)),
    (0.85, 2, (0.4, 0.4, 0.9, 0.8)),
    (0.75, 3, (0.0, 0.0, 1.0, 1.0)),
    (0.60, 1, (0.6, 0.05, 0.95, 0.3)),
    (0.40, 2, (0.05, 0.6, 0.3, 0.95)),
    (0.20, 1, (0.3, 0.3, 0.45, 0.6)),
)


def candidate_masks() -> NDArray[np.float32]:
    """float32 [6, 28, 28]: smooth discs and rings, the rings with a hole."""
    y, x = np.mgrid[:28, :28]
    radius = np.hypot(y - 13.5, x - 13.5)
    rings = [np.clip((12 - k - np.abs(radius - 2 * k / 3)) / 4 + 0.5, 0, 1) for k in range(len(CANDIDATES))]
    rings[1] = np.clip(4 - np.abs(radius - 9), 0, 1)
    return np.stack(rings).astype(np.float32)


def build_probe(path: Path, share: float = 1.0, channels: int = 3) -> None:
    """Write a small ONNX graph with a network's inputs and outputs that can be steered through the image.

    An image's scores are the candidates' times `share` times (0.5 + 0.5 x its mean brightness). Three pixels of the top
    row steer it: pixel 0's red value r, where that has no green, makes the run r * r * 16 steps of a loop longer, pixel
    1's green value above 250 makes it fail, and the sum s of the batch's blue values of pixel 2, where that is red 7,
    makes it take 2 ** s bytes of memory. Of one channel, that is all three colors.
    """
    path.write_bytes(_probe(share, channels))


@functools.cache
def _probe(share: float, channels: int) -> bytes:
    green, blue = (min(color, channels - 1) for color in (1, 2))
    constants = {
        "base": np.array([share * c[0] for c in CANDIDATES], np.float32),
        "label": np.array([c[1] for c in CANDIDATES], np.int64),
        "box": np.array([c[2] for c in CANDIDATES], np.float32),
        "mask": candidate_masks(),
        "height_width_channel": np.array([1, 2, 3], np.int64),
        "per_level": np.float32(0.5 / 255),
        "half": np.float32(0.5),
        "axis1": np.array([1], np.int64),
        "whwh": np.array([1, 0, 1, 0], np.int64),
        "0": np.int64(0),
        "1": np.int64(1),
        "slow_at": np.array([0, 0, 0], np.int64),
        "slow_mark_at": np.array([0, 0, green], np.int64),
        "none": np.float32(0),
        "fail_at": np.array([0, 1, green], np.int64),
        "hungry_at": np.array([0, 2, blue], np.int64),
        "mark_at": np.array([0, 2, 0], np.int64),
        "mark": np.float32(HUNGRY_MARK),
        "2": np.float32(2),
        "axis0": np.array([0], np.int64),
        "steps_a_level": np.float32(16),
        "limit": np.float32(250),
        "two": np.zeros(2, np.float32),
        "matrix": np.eye(32, dtype=np.float32),
        "yes": np.bool_(True),
    }
    node = helper.make_node
    step = helper.make_graph(
        [node("MatMul", ["state", "matrix"], ["next"]), node("Identity", ["go"], ["go_on"])],
        "step",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [32, 32]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [32, 32]),
        ],
    )
    nodes = [
        node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        # Slowness: the batch takes as long as its slowest image.
        node("Transpose", ["pixels"], ["hwcb"], perm=[1, 2, 3, 0]),
        node("GatherND", ["hwcb", "slow_at"], ["reds"]),
        node("GatherND", ["hwcb", "slow_mark_at"], ["slow_marks"]),
        node("Equal", ["slow_marks", "none"], ["slow"]),
        node("Cast", ["slow"], ["slow_float"], to=TensorProto.FLOAT),
        node("Mul", ["reds", "slow_float"], ["slowness"]),
        node("ReduceMax", ["slowness"], ["red"], keepdims=0),
        node("Mul", ["red", "red"], ["red2"]),
        node("Mul", ["red2", "steps_a_level"], ["steps_float"]),
        node("Cast", ["steps_float"], ["steps"], to=TensorProto.INT64),
        node("Loop", ["steps", "yes", "matrix"], ["spun"], body=step),
        node("ReduceMin", ["spun"], ["zero"], keepdims=0),
        # Failure: an index of 2 into two values.
        node("GatherND", ["hwcb", "fail_at"], ["greens"]),
        node("ReduceMax", ["greens"], ["green"], keepdims=0),
        node("Greater", ["green", "limit"], ["fails"]),
        node("Cast", ["fails"], ["fails_index"], to=TensorProto.INT64),
        node("Add", ["fails_index", "1"], ["index"]),
        node("Gather", ["two", "index"], ["also_zero"]),
        node("Add", ["zero", "also_zero"], ["nearly_nothing"]),
        # Hunger: as many bytes as nobody has, from a few such images on.
        node("GatherND", ["hwcb", "hungry_at"], ["blues"]),
        node("GatherND", ["hwcb", "mark_at"], ["marks"]),
        node("Equal", ["marks", "mark"], ["marked"]),
        node("Cast", ["marked"], ["marked_float"], to=TensorProto.FLOAT),
        node("Mul", ["blues", "marked_float"], ["hungers"]),
        node("ReduceSum", ["hungers"], ["blue"], keepdims=0),
        node("Pow", ["2", "blue"], ["bytes_float"]),
        node("Cast", ["bytes_float"], ["bytes"], to=TensorProto.INT64),
        node("Unsqueeze", ["bytes", "axis0"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["hoard"], value=helper.make_tensor("v", TensorProto.UINT8, [1], [0])),
        node("Gather", ["hoard", "0"], ["one_byte"]),
        node("Cast", ["one_byte"], ["still_zero"], to=TensorProto.FLOAT),
        # Detections.
        node("ReduceMean", ["pixels", "height_width_channel"], ["mean"], keepdims=0),
        node("Mul", ["mean", "per_level"], ["brightness"]),
        node("Add", ["brightness", "half"], ["factor"]),
        node("Add", ["nearly_nothing", "still_zero"], ["nothing"]),
        node("Add", ["factor", "nothing"], ["factor_after"]),
        node("Unsqueeze", ["factor_after", "axis1"], ["factors"]),
        node("Mul", ["factors", "base"], ["all_scores"]),
        node("Unsqueeze", ["score_threshold", "axis1"], ["thresholds"]),
        node("Greater", ["all_scores", "thresholds"], ["kept"]),
        node("NonZero", ["kept"], ["where"]),
        node("Gather", ["where", "0"], ["image_index"], axis=0),
        node("Gather", ["where", "1"], ["candidate"], axis=0),
        node("Transpose", ["where"], ["pairs"], perm=[1, 0]),
        node("GatherND", ["all_scores", "pairs"], ["scores"]),
        node("Gather", ["label", "candidate"], ["labels"]),
        node("Gather", ["mask", "candidate"], ["masks"]),
        node("Cast", ["sizes"], ["sizes_float"], to=TensorProto.FLOAT),
        node("Gather", ["sizes_float", "whwh"], ["scale"], axis=1),
        node("Gather", ["scale", "image_index"], ["scales"]),
        node("Gather", ["box", "candidate"], ["shares"]),
        node("Mul", ["scales", "shares"], ["boxes"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "probe",
        [
            value("images", TensorProto.UINT8, ["B", "H", "W", channels]),
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
    serialized: bytes = model.SerializeToString()
    return serialized
