"""Non-maximum suppression of many independent groups at once, and the ranking around it, in two lowerings.

A group is what NMS must not look across: one (image, feature level) of the proposals, one (image, class) of the
detections. Coordinates are never shifted to tell groups apart, as torchvision's `batched_nms` does for few boxes: a
float32 at 20,000 px has steps of 0.002 px left, and the answer would depend on the image's neighbors in the batch.

- `TORCH` runs eagerly and in TorchScript: `torchvision.ops.nms` on each group, in float32.
- `ONNX` is for export: one custom operator, which the exporter translates into one NonMaxSuppression node.

Both break ties of equal scores by the lower index, and both return the same rows in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401 - brings torch.ops.torchvision
from torch import Tensor

SUPPRESSED = -math.inf
"""Score of a row that takes no part: padding, below a threshold, or suppressed."""


@dataclass(frozen=True)
class Lowering:
    """How the graph's two order-sensitive steps are computed.

    grouped_nms(boxes float32 [G, K, 4] as (x1, y1, x2, y2), scores float32 [G, K], iou_threshold, max_per_group) gives
        the rows kept, int64 [M], as positions in [G * K]: group by group, falling score inside a group, at most
        `max_per_group` of each. A row goes when its IoU with a better row of its group that stays is above
        `iou_threshold`. Rows that are SUPPRESSED take no part.
    top_k(values float32 [B, N], k) gives (values [B, k], positions int64 [B, k]), falling, ties by rising position.
    """

    grouped_nms: Callable[[Tensor, Tensor, float, int], Tensor]
    top_k: Callable[[Tensor, int], tuple[Tensor, Tensor]]


def _nms_group_by_group(boxes: Tensor, scores: Tensor, iou_threshold: float, max_per_group: int) -> Tensor:
    # One call for all groups would cost the square of their total size: over a second for the proposals of eight images
    # on a CPU. TorchScript compiles this function too, hence the plain style.
    takes_part = scores > float("-inf")
    groups = torch.nonzero(takes_part.any(dim=1)).squeeze(1).cpu()
    kept = [torch.nonzero(scores.new_empty(0)).squeeze(1)]
    for i in range(groups.size(0)):
        group = int(groups[i])
        rows = torch.nonzero(takes_part[group]).squeeze(1)
        best = torch.ops.torchvision.nms(boxes[group][rows], scores[group][rows], iou_threshold)
        kept.append(rows[best[:max_per_group]] + group * scores.size(1))
    return torch.cat(kept)


def _stable_top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # torch.topk leaves the order of equal values open, and constant image regions do give equal values.
    ranked, positions = torch.sort(values, dim=1, descending=True, stable=True)
    return ranked[:, :k], positions[:, :k]


@torch.library.custom_op("maskserve::grouped_nms", mutates_args=())
def grouped_nms_operator(boxes: Tensor, scores: Tensor, iou_threshold: float, max_per_group: int) -> Tensor:
    """`Lowering.grouped_nms` as one node that survives `torch.export`."""
    return _nms_group_by_group(boxes, scores, iou_threshold, max_per_group)


@grouped_nms_operator.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, max_per_group: int) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def _top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # ONNX's TopK promises rising positions for equal values. Whether ONNX Runtime's does on a GPU, nobody has looked.
    ranked, positions = torch.topk(values, k, dim=1)
    return ranked, positions


TORCH = Lowering(torch.jit.script_if_tracing(_nms_group_by_group), _stable_top_k)
ONNX = Lowering(grouped_nms_operator, _top_k)


def float32_threshold(threshold: float) -> float:
    """The float32 `t` for which `iou > t` equals `iou > threshold` for every float32 `iou`.

    torchvision compares a float32 IoU with the threshold in double precision, ONNX Runtime in single.
    """
    nearest = np.float32(threshold)
    if float(nearest) > threshold:
        nearest = np.nextafter(nearest, np.float32(-math.inf))
    return float(nearest)


def onnx_grouped_nms(boxes: Any, scores: Any, iou_threshold: float, max_per_group: int) -> Any:
    """`grouped_nms_operator` in ONNX; called by the exporter while it builds the graph."""
    from onnxscript import opset18 as op

    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    axis_0, axis_1 = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    # Most of an image's classes are empty, and a runtime may launch kernels for each: only the groups that take part go
    # in, and the first one, since there must be one.
    best = op.ReduceMax(scores, axis_1, keepdims=0)
    is_first = op.Equal(op.Range(zero, op.Squeeze(op.Shape(best)), one), zero)
    lowest = op.Constant(value_floats=[float(np.finfo(np.float32).min)])
    takes_part = op.Or(op.Greater(best, lowest), is_first)
    groups = op.Squeeze(op.NonZero(takes_part), axis_0)
    selected = op.NonMaxSuppression(
        op.Gather(boxes, groups, axis=0),
        op.Unsqueeze(op.Gather(scores, groups, axis=0), axis_1),
        op.Constant(value_ints=[max_per_group]),
        op.Constant(value_floats=[float32_threshold(iou_threshold)]),
        lowest,
    )
    # Rows of (batch, class, box); a group is a batch of one class.
    group = op.Gather(groups, op.Gather(selected, zero, axis=1), axis=0)
    row = op.Gather(selected, op.Constant(value_int=2), axis=1)
    group_size = op.Squeeze(op.Shape(scores, start=1, end=2))
    return op.Add(op.Mul(group, group_size), row)
