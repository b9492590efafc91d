"""Box arithmetic of the inference graph, in torchvision's order of operations so that not a bit differs.

Boxes are float32 [..., 4] as (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder


def decode(deltas: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
    """Boxes [..., 4] moved and scaled by (dx, dy, dw, dh) deltas [..., 4] (R-CNN, Girshick et al., appendix C)."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(-1), coder.weights, strict=True))
    width, height = x2 - x1, y2 - y1
    center_x = dx * width + (x1 + 0.5 * width)
    center_y = dy * height + (y1 + 0.5 * height)
    half_width = 0.5 * (torch.exp(dw.clamp(max=coder.bbox_xform_clip)) * width)
    half_height = 0.5 * (torch.exp(dh.clamp(max=coder.bbox_xform_clip)) * height)
    corners = (center_x - half_width, center_y - half_height, center_x + half_width, center_y + half_height)
    return torch.stack(corners, dim=-1)


def clip(boxes: Tensor, limits: Tensor) -> Tensor:
    """Boxes cut to limits [..., 4] of (width, height, width, height)."""
    return torch.minimum(boxes.clamp(min=0), limits)


def has_sides(boxes: Tensor, least: float) -> Tensor:
    """bool [...]: both sides have at least `least` pixels."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1 >= least) & (y2 - y1 >= least)
