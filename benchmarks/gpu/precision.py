"""How exact a half graph's layers are, where rounding isn't magnified: before suppression chooses and ranks.

Whole answers can't tell. With random weights the proposals differ from each other by little, so float16 lets others
through: right code found 32 % of torchvision's detections again (a CPU, 256x320).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.case import Batch, Case
from model.network.graph.static import StaticGraph

MOST_ERROR = {"fp16": 0.02, "bf16": 0.1}
"""Largest |out - reference| / |reference| of a level or of the box head's features."""


@torch.no_grad()
def layer_errors(case: Case, graph: StaticGraph, batch: Batch) -> dict[str, float]:
    """Relative error by layer against float32: each level of the pyramid, and the box head on equal proposals."""
    exact = StaticGraph(case.model).eval()
    images, sizes, _ = batch.on(case.device)
    pyramids, features = [], []
    proposals: Tensor | None = None
    for each in (exact, graph):
        pixels = each._normalize(images, sizes).to(each.dtype, memory_format=each.layout)
        pyramid = each._pyramid(pixels)
        if proposals is None:
            height, width = sizes.to(torch.float32).unbind(1)
            limits = torch.stack((width, height, width, height), dim=1)
            proposals, _ = each._proposals(pixels, pyramid, limits)
        pooling = {name: each._for_pooling(level) for name, level in pyramid.items()}
        features.append(each.roi_heads.box_head(each._pooled(each.box_pool, pooling, proposals)))
        pyramids.append(pyramid)
    errors = {f"level {name}": _error(pyramids[1][name], level) for name, level in pyramids[0].items()}
    return {**errors, "box head": _error(features[1], features[0])}


def _error(answer: Any, reference: Any) -> float:
    reference = reference.double()
    return float((answer.double() - reference).norm() / reference.norm())
