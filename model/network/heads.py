"""The paper's variants of heads and backbones that torchvision has no class for (Mask R-CNN, sec. 3 and table 2).

Parts keep torchvision's names and interfaces, so that they fit into its FasterRCNN, MaskRCNN and KeypointRCNN.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_align, roi_pool
from torchvision.ops.poolers import LevelMapper


class C4Backbone(nn.Module):
    """A ResNet up to its fourth stage; the rest of it is the box head (Faster R-CNN on ResNet, He et al.).

    images float32 [B, 3, H, W] -> {"0": float32 [B, C, H / 16, W / 16]}. `out_channels` is C.
    """

    def __init__(self, resnet: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(resnet, {"layer3": "0"})
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features: dict[str, Tensor] = self.body(images)
        return features


def fifth_stage(resnet: Any) -> nn.Module:
    """The ResNet's last stage with stride 1: RoIs come in with the 7x7 cells that it shall put out (Mask R-CNN,
    fig. 4)."""
    stage: nn.Module = resnet.layer4
    first: Any = next(iter(stage.children()))
    for layer in (first.conv1, first.conv2, first.downsample[0]):
        layer.stride = (1, 1)
    return stage


def c4_box_head(stage: nn.Module) -> nn.Sequential:
    """RoI features [R, C, 7, 7] -> the fifth stage's, averaged: [R, 2 * C]."""
    return nn.Sequential(OrderedDict(layer4=stage, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))


def c4_mask_head(stage: nn.Module) -> nn.Sequential:
    """RoI features [R, C, 7, 7] -> [R, 2 * C, 7, 7], by the box head's own fifth stage."""
    return nn.Sequential(OrderedDict(layer4=stage))


class MultiScaleRoIPool(nn.Module):
    """RoIPool on the pyramid level of each box's size (Fast R-CNN, sec. 2.1; FPN, eq. 1).

    Takes the place of torchvision's MultiScaleRoIAlign, and has what `plan_pooling` reads of it.
    """

    def __init__(self, featmap_names: Sequence[str], output_size: int) -> None:
        super().__init__()
        self.featmap_names = list(featmap_names)
        self.output_size = (output_size, output_size)
        self.canonical_scale = 224
        self.canonical_level = 4

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """boxes: of each image float32 [N_i, 4], xyxy in pixels. Returns float32 [sum of N_i, C, h, w]."""
        levels = [features[name] for name in self.featmap_names if name in features]  # a MobileNet has two
        height = max(shape[0] for shape in image_shapes)
        # A map is the size that its stride gives, rounded up: the stride is the nearest power of two.
        strides = [2 ** round(math.log2(height / level.shape[-2])) for level in levels]
        mapper = LevelMapper(
            strides[0].bit_length() - 1, strides[-1].bit_length() - 1, self.canonical_scale, self.canonical_level
        )
        level_of_box = mapper(boxes)
        image = torch.cat([torch.full_like(each[:, :1], index) for index, each in enumerate(boxes)])
        rois = torch.cat((image, torch.cat(boxes)), dim=1)
        pooled = levels[0].new_zeros((len(rois), levels[0].shape[1], *self.output_size))
        for index, (level, stride) in enumerate(zip(levels, strides, strict=True)):
            rows = torch.where(level_of_box == index)[0]
            # On a CPU roi_pool has no kernel for bfloat16; it picks values, so that float32 changes none.
            picked = roi_pool(level.float(), rois[rows].float(), self.output_size, 1 / stride)
            pooled = pooled.index_put((rows,), picked.to(pooled.dtype))
        return pooled


class AgnosticMaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]  # torchvision has no types
    """One mask for whatever class (Mask R-CNN, sec. 4.2 "class-specific vs. class-agnostic masks").

    Has the weights of a MaskRCNNPredictor of one class and answers as one of `num_classes`: with views of that mask.
    """

    def __init__(self, in_channels: int, dim_reduced: int, num_classes: int) -> None:
        super().__init__(in_channels, dim_reduced, 1)
        self.num_classes = num_classes

    def forward(self, features: Tensor) -> Tensor:
        """features [R, C, s, s] -> logits [R, num_classes, 2 * s, 2 * s]."""
        logits: Tensor = super().forward(features)
        return logits.expand(-1, self.num_classes, -1, -1)


class ContiguousKeypointPredictor(KeypointRCNNPredictor):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, with heatmaps in ordinary layout: its loss takes views of them, which channels-last has not."""

    def forward(self, features: Tensor) -> Tensor:
        """features [R, C, s, s] -> logits [R, K, 4 * s, 4 * s]."""
        logits: Tensor = super().forward(features)
        return logits.contiguous()


class MlpMaskHead(nn.Sequential):
    """RoI features [R, C, s, s] -> [R, channels]: two fully connected layers (Mask R-CNN, table 2e)."""

    def __init__(self, in_features: int, channels: int) -> None:
        super().__init__(
            OrderedDict(
                flatten=nn.Flatten(),
                fc6=nn.Linear(in_features, channels),
                relu6=nn.ReLU(),
                fc7=nn.Linear(channels, channels),
                relu7=nn.ReLU(),
            )
        )


class MlpMaskPredictor(nn.Module):
    """[R, channels] -> logits [R, masks, side, side] by one fully connected layer (Mask R-CNN, table 2e).

    `masks` is 1 for class-agnostic ones; they are given as views for all `num_classes`.
    """

    def __init__(self, channels: int, masks: int, num_classes: int, side: int) -> None:
        super().__init__()
        self.mask_fc_logits = nn.Linear(channels, masks * side**2)
        self.masks, self.num_classes, self.side = masks, num_classes, side

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.mask_fc_logits(features).unflatten(1, (self.masks, self.side, self.side))
        return logits.expand(-1, self.num_classes, -1, -1)


class MaskRoIHeads(RoIHeads):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RoI heads, answering as they do, with mask targets that pasting turns back into the masks.

    torchvision samples its targets half a pixel to the right and to the bottom of the boxes, and pastes masks into
    boxes that are on average a pixel wider and higher: what its networks learn comes out half a pixel off to the left
    and to the top, and too large. Small objects lose most by it.
    """

    _masks_elsewhere = False

    def has_mask(self) -> bool:
        """False while torchvision's part runs: masks are trained and predicted here."""
        return not self._masks_elsewhere and bool(super().has_mask())

    def select_training_samples(self, proposals: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
        """torchvision's, kept for the mask loss."""
        self._samples = super().select_training_samples(proposals, targets)
        return self._samples

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's RoIHeads: detections of each image and, in training, the losses."""
        self._masks_elsewhere = True
        try:
            detections, losses = super().forward(features, proposals, image_shapes, targets)
        finally:
            self._masks_elsewhere = False
        if self.training:
            assert targets is not None
            rois, matched, labels, _ = self._samples
            self._samples = None
            positive = [label > 0 for label in labels]
            rois = [roi[rows] for roi, rows in zip(rois, positive, strict=True)]
            matched = [index[rows] for index, rows in zip(matched, positive, strict=True)]
            logits = self._mask_logits(features, rois, image_shapes)
            losses["loss_mask"] = self.mask_loss(logits, rois, matched, targets)
        else:
            rois = [detection["boxes"] for detection in detections]
            probabilities = self.probabilities(self._mask_logits(features, rois, image_shapes))
            for detection, part in zip(detections, probabilities.split([len(roi) for roi in rois]), strict=True):
                rows = torch.arange(len(part), device=part.device)
                detection["masks"] = part[rows, detection["labels"]].unsqueeze(1)
        return detections, losses

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits [R, num_classes, M, M] -> probabilities of the same shape."""
        return logits.sigmoid()

    def mask_loss(
        self, logits: Tensor, rois: list[Tensor], matched: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> Tensor:
        """Mean over the pixels of positive RoIs.

        logits: float32 [R, num_classes, M, M] of all images' RoIs. rois: of each image [R_i, 4] xyxy. matched: of each
        image int64 [R_i], the object that a RoI stands for.
        """
        return sigmoid_mask_loss(logits, rois, matched, targets)

    def _mask_logits(
        self, features: dict[str, Tensor], rois: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        logits: Tensor = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, rois, image_shapes)))
        return logits


class SoftmaxMaskRoIHeads(MaskRoIHeads):
    """RoI heads whose classes compete for each pixel of a mask (Mask R-CNN, sec. 4.2 "multinomial vs. independent
    masks"): softmax over the classes, with the background as class 0, and the multinomial loss."""

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)

    def mask_loss(
        self, logits: Tensor, rois: list[Tensor], matched: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> Tensor:
        return softmax_mask_loss(logits, rois, matched, targets)


def mask_targets(masks: Tensor, rois: Tensor, matched: Tensor, side: int) -> Tensor:
    """What the objects' masks are in the cells of the RoIs, so that pasting gives them back: float32 [R, side, side].

    masks: uint8 [N, H, W], pixel (y, x) covers [x, x + 1) x [y, y + 1). rois: [R, 4] xyxy. matched: int64 [R].

    torchvision's `paste_masks_in_image` puts a border of one cell around the mask, expands the box by as much, and goes
    from the pixel in which that begins to the one in which it ends: over all positions in a pixel, its middle stays and
    its sides are longer by one. Without the border that is side / (side + 2).
    """
    half = side / (side + 2) / 2
    grown = rois + rois.new_tensor([-half, -half, half, half])
    boxes = torch.cat((matched[:, None].to(rois), grown), dim=1)
    # aligned: a pixel's value lies in its middle, half a pixel from its coordinate.
    shares: Tensor = roi_align(masks[:, None].to(rois), boxes, (side, side), 1.0, aligned=True)[:, 0]
    return shares


def sigmoid_mask_loss(
    logits: Tensor, rois: list[Tensor], matched: list[Tensor], targets: list[dict[str, Tensor]]
) -> Tensor:
    """See `MaskRoIHeads.mask_loss`: mean binary cross-entropy of the mask of the object's own class (sec. 3)."""
    if len(logits) == 0:
        return logits.sum() * 0
    parts = list(zip(rois, matched, targets, strict=True))
    wanted = torch.cat([mask_targets(t["masks"], roi, index, logits.shape[-1]) for roi, index, t in parts])
    labels = torch.cat([target["labels"][index] for _, index, target in parts])
    own = logits[torch.arange(len(labels), device=labels.device), labels]
    return F.binary_cross_entropy_with_logits(own, wanted)


def softmax_mask_loss(
    logits: Tensor, rois: list[Tensor], matched: list[Tensor], targets: list[dict[str, Tensor]]
) -> Tensor:
    """See `MaskRoIHeads.mask_loss`: mean cross-entropy. A pixel's class is the object's where it has half of it."""
    if len(logits) == 0:
        return logits.sum() * 0
    classes = []
    for roi, index, target in zip(rois, matched, targets, strict=True):
        share = mask_targets(target["masks"], roi, index, logits.shape[-1])
        classes.append(torch.where(share >= 0.5, target["labels"][index][:, None, None], 0))
    return F.cross_entropy(logits.float(), torch.cat(classes))
