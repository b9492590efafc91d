"""Boxes in float32 while a network trains in mixed precision.

Autocast computes convolutions in bfloat16 or float16, and torchvision's anchors, proposals and regression targets take
the type of what these put out. From 256 on bfloat16 has steps of 2, from 1024 on of 8: an edge at x = 1201 is learned
as 1200, while serving decodes exact anchors. Here what comes out of a convolution or a linear layer and is a box, or
decides about one, is float32 from there on, and with it everything that is computed of boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead


def keep_boxes_exact(model: FasterRCNN) -> None:
    """From now on anchors, proposals, the draws among them and regression targets are float32 under autocast too, in
    place. Without autocast nothing changes."""
    model.rpn.anchor_generator.__class__ = ExactAnchorGenerator
    model.rpn.head.__class__ = ExactRPNHead
    model.roi_heads.box_predictor.__class__ = ExactBoxPredictor


class ExactAnchorGenerator(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, with float32 anchors whatever the features are."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Of each image float32 [N, 4], xyxy in pixels."""
        first, *others = feature_maps
        # torchvision takes the type and the size of the features, no value of them.
        typed = first.new_empty((1, 1, 1, 1), dtype=torch.float32).expand(first.shape)
        anchors: list[Tensor] = super().forward(image_list, [typed, *others])
        return anchors


class ExactRPNHead(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, with float32 objectness and box deltas."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of each level logits [B, A, H, W] and deltas [B, 4 * A, H, W]."""
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class ExactBoxPredictor(FastRCNNPredictor):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, with float32 class logits and box deltas."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [R, C] and box deltas [R, 4 * C]."""
        logits, deltas = super().forward(x)
        return logits.float(), deltas.float()
