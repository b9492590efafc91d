"""RoI features for a whole batch: each box on the pyramid level of its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from model.network.graph.indexing import positions, rows, true_rows
from model.network.heads import MultiScaleRoIPool


@dataclass(frozen=True)
class PoolPlan:
    """A MultiScaleRoIAlign with everything fixed that torchvision infers from its first batch.

    levels: (name, stride in pixels) of the levels that boxes can land on, finest first.
    bounds: sqrt(area) in pixels from which on a box belongs to the next coarser level, one fewer than levels.
    sampling_ratio: samples of a cell a side; None for RoIPool, which takes the largest of all values in it.
    """

    levels: tuple[tuple[str, int], ...]
    bounds: tuple[float, ...]
    output_size: tuple[int, int]
    sampling_ratio: int | None


class Pooled(NamedTuple):
    """RoI features of the slots that hold a box. A slot is a place for one; many are empty.

    features: float32 [R, C, h, w], grouped by pyramid level.
    slots: int64 [R], the slot that each row belongs to.
    row_of_slot: int64 [S], the inverse; 0 for an empty slot.
    """

    features: Tensor
    slots: Tensor
    row_of_slot: Tensor


def plan_pooling(pooler: MultiScaleRoIAlign | MultiScaleRoIPool, strides: dict[str, int]) -> PoolPlan:
    """Which level each box size is pooled from (FPN, eq. 1).

    The bounds are the very float32 numbers at which torchvision's LevelMapper steps: no runtime's logarithm decides.
    """
    levels = [(name, stride) for name, stride in strides.items() if name in pooler.featmap_names]
    k_min, k_max = (stride.bit_length() - 1 for stride in (levels[0][1], levels[-1][1]))
    mapper = LevelMapper(k_min, k_max, pooler.canonical_scale, pooler.canonical_level)
    bounds = []
    for level in range(k_min + 1, k_max + 1):
        nominal = torch.tensor([pooler.canonical_scale * 2.0 ** (level - pooler.canonical_level)])
        sides = (nominal.view(torch.int32) + torch.arange(-64, 64, dtype=torch.int32)).view(torch.float32)
        # Boxes one pixel high: their area is their width, so that only the mapper's own square root rounds.
        boxes = torch.stack((0 * sides, 0 * sides, sides.square(), 0 * sides + 1), dim=1)
        above = mapper([boxes]) + k_min >= level
        bounds.append(float(boxes[above][0, 2].sqrt()))
    used = levels[: len(bounds) + 1]
    sampling_ratio = None if isinstance(pooler, MultiScaleRoIPool) else pooler.sampling_ratio
    return PoolPlan(tuple(used), tuple(bounds), tuple(pooler.output_size), sampling_ratio)


def pool(plan: PoolPlan, pyramid: dict[str, Tensor], boxes: Tensor, image: Tensor, holds_box: Tensor) -> Pooled:
    """RoIAlign or RoIPool of boxes [S, 4] of images [S], each on its own level, for the slots that hold one."""
    # Slot 0 is always computed: no operator then ever sees an empty tensor, on which runtimes disagree.
    computed = holds_box | (positions(holds_box, 0) == 0)
    x1, y1, x2, y2 = boxes.unbind(1)
    side = torch.sqrt((x2 - x1) * (y2 - y1))
    rois = torch.cat((image.unsqueeze(1).to(boxes.dtype), boxes), dim=1)
    features, slots = [], []
    for i, (name, stride) in enumerate(plan.levels):
        here = computed
        if i > 0:
            here = here & (side >= plan.bounds[i - 1])
        if i < len(plan.bounds):
            here = here & ~(side >= plan.bounds[i])
        found = true_rows(here)
        # The bare operators: torchvision's functions assert a shape in Python, which a trace would warn about.
        arguments = (pyramid[name], rows(rois, found), 1 / stride, *plan.output_size)
        if plan.sampling_ratio is None:
            features.append(torch.ops.torchvision.roi_pool(*arguments)[0])
        else:
            features.append(torch.ops.torchvision.roi_align(*arguments, plan.sampling_ratio, False))
        slots.append(found)
    order = torch.cat(slots)
    if torch.compiler.is_exporting():
        # Batch norm in a head asks whether its input is empty.
        torch._check(order.shape[0] > 0)
    row_of_slot = torch.zeros_like(image).scatter(0, order, positions(order, 0))
    return Pooled(torch.cat(features), order, row_of_slot)
