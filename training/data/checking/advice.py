"""What a dataset's figures say about the settings to train with: one sentence each, naming the setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model.architecture import ArchitectureConfig
from training.data.annotations.dataset import Dataset
from training.data.annotations.diameter import input_scales
from training.data.checking.statistics import Objects

ANCHOR_IOU = 0.5
"""An object whose shape no anchor matches by this much is hard to propose."""
MANY_MISSED = 0.05
"""Share of such objects from which other anchors are proposed."""
TINY_SIDE, MANY_TINY = 8.0, 0.05
"""Objects with less pixels a side at the network's input hardly show on its finest features (stride 4)."""
SAME_OBJECT = 0.9
"""Boxes of more IoU are an object annotated twice, not neighbors."""
FEW_LOST = 0.01
"""Share of objects that non-maximum suppression may take for their neighbors."""
NMS_THRESHOLDS = (0.5, 0.6, 0.7, 0.8)

Values = NDArray[np.float64]


def advise(
    splits: Mapping[str, Dataset], objects: Mapping[str, Objects], architecture: ArchitectureConfig
) -> list[str]:
    """What to set for these splits, by name, and what suits them already. objects: `gather_objects` of each split."""
    most = max((int(np.bincount(some.image).max()) for some in objects.values() if len(some.image)), default=0)
    if not most:
        return ["no split has objects"]
    sizes = np.concatenate([input_sizes(splits[name], some, architecture) for name, some in objects.items()])
    rivals = np.concatenate([some.best_same for some in objects.values()])
    return [
        _detections(most, architecture),
        _anchors(sizes, architecture),
        *_input_size(sizes, architecture),
        _suppression(rivals, architecture),
    ]


def input_sizes(data: Dataset, objects: Objects, architecture: ArchitectureConfig) -> Values:
    """float64 [O, 2], (width, height) of boxes at the network's input."""
    sizes: Values = objects.sizes * input_scales(data, architecture)[objects.image][:, None]
    return sizes


def _detections(most: int, architecture: ArchitectureConfig) -> str:
    limit = architecture.detections_per_image
    fact = f"the most objects in an image is {most}: architecture.detections_per_image"
    if limit < most:
        return f"{fact} should be at least that, and is {limit}; so should validation.max_detections"
    return f"{fact} of {limit} has room for them"


def _anchors(sizes: Values, architecture: ArchitectureConfig) -> str:
    anchors = architecture.anchor_sizes
    missed = _missed(sizes, anchors, architecture.anchor_aspect_ratios)
    sides = np.sqrt(sizes.prod(axis=1))
    low, middle, high = np.quantile(sides, (0.05, 0.5, 0.95))
    flat = [side for group in anchors for side in group]
    fact = (
        f"objects have sides of {low:.0f} to {high:.0f} px at the network's input (5 % to 95 %, median {middle:.0f}) "
        f"and architecture.anchor_sizes go from {min(flat)} to {max(flat)}: "
        f"{missed:.1%} of objects overlap no anchor with IoU {ANCHOR_IOU:g}"
    )
    if missed <= MANY_MISSED:
        return fact
    if (better := better_anchors(sizes, architecture)) is not None:
        left = _missed(sizes, better, architecture.anchor_aspect_ratios)
        return f"{fact}; with {[list(group) for group in better]} it would be {left:.1%}"
    tall, wide = np.quantile(sizes[:, 1] / sizes[:, 0], (0.95, 0.05))
    return (
        f"{fact}; their heights are {wide:.2g} to {tall:.2g} times their widths (5 % to 95 %), which "
        f"architecture.anchor_aspect_ratios could follow"
    )


def better_anchors(sizes: Values, architecture: ArchitectureConfig) -> tuple[tuple[int], ...] | None:
    """Sides of anchors, one for each feature level, that objects of `sizes` [O, 2] at the network's input fit clearly
    better; None where the architecture's suit them."""
    missed = _missed(sizes, architecture.anchor_sizes, architecture.anchor_aspect_ratios)
    if missed <= MANY_MISSED:
        return None
    low, middle, high = np.quantile(np.sqrt(sizes.prod(axis=1)), (0.05, 0.5, 0.95))
    # Levels of one side would be of no use: others than the objects of this dataset are seen later.
    low, high = max(4.0, min(low, middle / 2)), max(8.0, high, middle * 2)
    tried = tuple((round(side),) for side in np.geomspace(low, high, len(architecture.anchor_sizes)))
    return tried if _missed(sizes, tried, architecture.anchor_aspect_ratios) < 0.8 * missed else None


def _missed(sizes: Values, anchors: Sequence[Sequence[int]], ratios: Sequence[float]) -> float:
    """Share of boxes that overlap no anchor around the same center by ANCHOR_IOU. ratios are height / width."""
    best = np.zeros(len(sizes))
    for side in {side for group in anchors for side in group}:
        for ratio in ratios:
            anchor = np.array([side / ratio**0.5, side * ratio**0.5])
            inside = np.minimum(sizes, anchor).prod(axis=1)
            best = np.maximum(best, inside / (sizes.prod(axis=1) + anchor.prod() - inside))
    return float((best < ANCHOR_IOU).mean())


def _input_size(sizes: Values, architecture: ArchitectureConfig) -> list[str]:
    tiny = float((np.sqrt(sizes.prod(axis=1)) < TINY_SIDE).mean())
    if tiny <= MANY_TINY:
        return []
    return [
        f"{tiny:.1%} of objects are smaller than {TINY_SIDE:.0f} px a side at the network's input: raise "
        f"architecture.min_size (now {architecture.min_size}) or enlarge windows (augment.crop, augment.scale)"
    ]


def _suppression(rivals: Values, architecture: ArchitectureConfig) -> str:
    now = architecture.box_nms_threshold
    lost = _lost(rivals, now)
    fact = f"{lost:.1%} of objects overlap another of their class with box IoU above {now:g}"
    if lost <= FEW_LOST:
        return f"{fact}: architecture.box_nms_threshold suits them"
    if (better := better_suppression(rivals, architecture)) is None:
        return f"{fact}, and suppression takes one of each two for the other"
    return (
        f"{fact}, and suppression takes one of each two for the other: architecture.box_nms_threshold {better:g} would "
        f"leave {_lost(rivals, better):.1%}"
    )


def better_suppression(rivals: Values, architecture: ArchitectureConfig) -> float | None:
    """A threshold of non-maximum suppression that keeps neighbors; None where the architecture's does, or none would.
    rivals: float64 [O], each object's best IoU with another of its class."""
    now = architecture.box_nms_threshold
    if _lost(rivals, now) <= FEW_LOST:
        return None
    better = next((one for one in NMS_THRESHOLDS if one > now and _lost(rivals, one) <= FEW_LOST), NMS_THRESHOLDS[-1])
    return better if better > now else None


def _lost(rivals: Values, threshold: float) -> float:
    return float(((rivals > threshold) & (rivals <= SAME_OBJECT)).mean())
