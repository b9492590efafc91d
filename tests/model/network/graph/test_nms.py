from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from model.network.graph.nms import ONNX, SUPPRESSED, TORCH, float32_threshold, grouped_nms_operator, onnx_grouped_nms

SQUARE = [0.0, 0.0, 10.0, 10.0]


def greedy(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, max_per_group: int) -> list[int]:
    """Plain non-maximum suppression, group by group, in float32 as torchvision computes it."""
    kept = []
    for group, (rows, values) in enumerate(zip(boxes, scores, strict=True)):
        stay: list[int] = []
        for candidate in np.argsort(-values, kind="stable"):
            if values[candidate] == SUPPRESSED or len(stay) == max_per_group:
                continue
            if all(iou(rows[candidate], rows[other]) <= iou_threshold for other in stay):
                stay.append(int(candidate))
        kept += [group * len(values) + row for row in stay]
    return kept


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(np.float32(0), min(a[2], b[2]) - max(a[0], b[0]))
    height = max(np.float32(0), min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1])
    return float(width * height / (area + (b[2] - b[0]) * (b[3] - b[1]) - width * height))


class GroupedNms(nn.Module):
    def __init__(self, iou_threshold: float, max_per_group: int) -> None:
        super().__init__()
        self.arguments = (iou_threshold, max_per_group)

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        return ONNX.grouped_nms(boxes, scores, *self.arguments) + 0


def run_onnx(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, max_per_group: int) -> np.ndarray:
    groups, rows = Dim("groups"), Dim("rows")
    program = torch.onnx.export(
        GroupedNms(iou_threshold, max_per_group).eval(),
        (torch.rand(2, 3, 4), torch.rand(2, 3)),
        dynamo=True,
        dynamic_shapes=({0: groups, 1: rows}, {0: Dim.AUTO, 1: Dim.AUTO}),
        custom_translation_table={torch.ops.maskserve.grouped_nms.default: onnx_grouped_nms},
        opset_version=18,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, (boxes, scores), strict=True)))[0]


def crowd(groups: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 60, (groups, rows, 2))
    boxes = np.concatenate((corner, corner + random.uniform(5, 40, (groups, rows, 2))), axis=2).astype(np.float32)
    scores = random.normal(size=(groups, rows)).astype(np.float32)
    scores[random.random(scores.shape) < 0.2] = SUPPRESSED
    return boxes, scores


@pytest.mark.parametrize("iou_threshold", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("max_per_group", [4, 100])
def test_groups_are_suppressed_independently(iou_threshold: float, max_per_group: int) -> None:
    boxes, scores = crowd(groups=6, rows=80, seed=1)
    scores[2] = SUPPRESSED
    expected = greedy(boxes, scores, iou_threshold, max_per_group)
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores)
    assert TORCH.grouped_nms(*tensors, iou_threshold, max_per_group).tolist() == expected
    assert grouped_nms_operator(*tensors, iou_threshold, max_per_group).tolist() == expected


@pytest.mark.parametrize(
    ("boxes", "scores", "expected"),
    [
        pytest.param([[SQUARE, SQUARE]], [[0.5, 0.5]], [0], id="equal boxes and scores: the first stays"),
        pytest.param([[SQUARE], [SQUARE]], [[0.5], [0.9]], [0, 1], id="equal boxes of two groups both stay"),
        pytest.param([[SQUARE, SQUARE]], [[SUPPRESSED, -9.0]], [1], id="a negative score takes part"),
        pytest.param([[SQUARE, SQUARE]], [[SUPPRESSED, SUPPRESSED]], [], id="nothing takes part"),
        pytest.param([[SQUARE, [0, 0, 10, 5]]], [[0.9, 0.8]], [0, 1], id="IoU of exactly the threshold stays"),
        pytest.param([[SQUARE, [0, 0, 10, 5.01]]], [[0.8, 0.9]], [1], id="the better one stays, wherever it stands"),
    ],
)
def test_corner_cases(boxes: list[object], scores: list[object], expected: list[int]) -> None:
    result = TORCH.grouped_nms(torch.tensor(boxes, dtype=torch.float32), torch.tensor(scores), 0.5, 10)
    assert result.dtype == torch.int64
    assert result.tolist() == expected


def test_far_groups_do_not_lose_precision() -> None:
    # IoU 0.5005 and 0.4995: with the thousandth group's coordinates shifted in float32 both would round the same way.
    pair = torch.tensor([SQUARE, [0, 0, 10, 5.005]]), torch.tensor([SQUARE, [0, 0, 10, 4.995]])
    boxes = torch.stack([pair[i % 2] for i in range(1000)])
    kept = TORCH.grouped_nms(boxes, torch.tensor([[0.9, 0.8]]).expand(1000, 2), 0.5, 10)
    assert kept.tolist() == [row for i in range(1000) for row in ([2 * i] if i % 2 == 0 else [2 * i, 2 * i + 1])]


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec:FutureWarning")  # torch 2.11's own exporter
@pytest.mark.parametrize(
    ("iou_threshold", "max_per_group"),
    [
        pytest.param(0.5, 100, id="as for detections"),
        pytest.param(0.6, 3, id="float32(0.6) is above 0.6, and few may stay"),
    ],
)
def test_onnx_runtime_keeps_the_same_rows(iou_threshold: float, max_per_group: int) -> None:
    boxes, scores = crowd(groups=7, rows=60, seed=2)
    scores[3] = SUPPRESSED
    boxes[5, :2], scores[5, :2] = (SQUARE, SQUARE), (1.0, 1.0)  # a tie
    boxes[6, :2], scores[6, :2] = (SQUARE, [0, 0, 10, 6]), (1.0, 0.999)  # an IoU of float32(0.6)
    expected = greedy(boxes, scores, iou_threshold, max_per_group)
    assert run_onnx(boxes, scores, iou_threshold, max_per_group).tolist() == expected
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores)
    assert TORCH.grouped_nms(*tensors, iou_threshold, max_per_group).tolist() == expected


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7, 0.9])
def test_float32_threshold_compares_like_double_precision(threshold: float) -> None:
    single = np.float32(float32_threshold(threshold))
    for steps in range(-3, 4):
        value = np.float32(threshold)
        for _ in range(abs(steps)):
            value = np.nextafter(value, np.float32(steps * np.inf))
        assert (value > single) == (float(value) > threshold)


def test_top_k_ranks_ties_by_position() -> None:
    values = torch.tensor([[1.0, 3.0, 3.0, -torch.inf, 3.0, 2.0]])
    ranked, positions = TORCH.top_k(values, 5)
    assert ranked.tolist() == [[3.0, 3.0, 3.0, 2.0, 1.0]]
    assert positions.tolist() == [[1, 2, 4, 5, 0]]
