"""A trained torchvision detection model as one graph over a whole batch, made to be exported.

torchvision's own forward loops over images in Python, so it cannot be exported with a dynamic batch
(pytorch/vision#2311, #9321, #9462). Here the batch is a tensor dimension, no size is ever a Python number, and the
weights stay where they were: the graph holds the model's own submodules, so its state_dict has the model's names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from model.network.graph.boxes import clip, decode, has_sides
from model.network.graph.indexing import positions, rows, true_rows
from model.network.graph.nms import SUPPRESSED, TORCH, Lowering
from model.network.graph.pooling import plan_pooling, pool
from model.network.heads import (
    AgnosticMaskPredictor,
    C4Backbone,
    MlpMaskPredictor,
    SoftmaxMaskRoIHeads,
)

SIZE_DIVISOR = 32
"""Height and width of the input are multiples of this many pixels."""

MIN_DETECTION_SIDE = 1e-2
"""Detections with a side below this many pixels are dropped, as in torchvision's RoIHeads."""

MASK_PARTS = 4
"""The mask head takes the detections in so many parts. Behind its deconvolution a detection has four times as many
values as elsewhere in the head, and that is what a server's memory goes to when images are crowded.
"""


class InferenceGraph(nn.Module):
    """The whole-batch detector over torchvision's FasterRCNN, MaskRCNN or KeypointRCNN, as `build_model` makes them.

    forward(images, sizes, score_threshold):
        images: uint8 [B, H, W, C], H and W multiples of 32, each image in the top-left corner.
        sizes: int64 [B, 2], the valid (height, width) of each image in pixels; what lies outside is not looked at.
        score_threshold: float32 [B]; an image's detections score strictly above it. It replaces the model's own.

    Returns, for the N detections of the batch, image 0's first and by falling score inside an image:
        boxes float32 [N, 4] as (x1, y1, x2, y2) in pixels of the padded input, scores float32 [N], labels int64 [N],
        image_index int64 [N]; with a mask head also the probabilities of the own class float32 [N, M, M], with a
        keypoint head the heatmap logits float32 [N, K, S, S].

    The graph shares the model's modules, and with them their training mode: call `eval()` before use.
    Raises TypeError for a model with another backbone or mask predictor than torchvision's own.
    """

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, model: FasterRCNN, lowering: Lowering = TORCH) -> None:
        super().__init__()
        if not isinstance(model.backbone, BackboneWithFPN | C4Backbone):
            raise TypeError(
                f"the inference graph needs a BackboneWithFPN or a C4Backbone, got {type(model.backbone).__name__}"
            )
        predictor = model.roi_heads.mask_predictor
        if model.roi_heads.has_mask() and not isinstance(predictor, MaskRCNNPredictor | MlpMaskPredictor):
            raise TypeError(
                f"the inference graph needs a MaskRCNNPredictor or an MlpMaskPredictor, got {type(predictor).__name__}"
            )
        self.lowering = lowering
        self.mask_parts = MASK_PARTS
        self.backbone: BackboneWithFPN | C4Backbone = model.backbone
        self.rpn: RegionProposalNetwork = model.rpn
        self.roi_heads: RoIHeads = model.roi_heads
        self.has_masks = bool(model.roi_heads.has_mask())
        self.has_keypoints = bool(model.roi_heads.has_keypoint())

        self.channels = len(model.transform.image_mean)
        device = next(model.parameters()).device
        for name, values in (("image_mean", model.transform.image_mean), ("image_std", model.transform.image_std)):
            self.register_buffer(name, torch.tensor(values, device=device)[None, :, None, None], persistent=False)
        for level, cell in enumerate(model.rpn.anchor_generator.cell_anchors):
            self.register_buffer(f"cell_anchors_{level}", cell.to(device, torch.float32), persistent=False)
        # No logit of a real anchor is below float32's range, one of the padding is.
        objectness = torch.tensor(float(model.rpn.score_thresh)).logit()
        self.least_objectness = max(float(objectness), torch.finfo(torch.float32).min)
        self.pre_nms: int = model.rpn._pre_nms_top_n["testing"]
        self.proposals_per_image = min(
            model.rpn._post_nms_top_n["testing"], self.pre_nms * len(model.rpn.anchor_generator.cell_anchors)
        )
        self.classes: int = model.roi_heads.box_predictor.cls_score.out_features - 1
        self.detections_per_image = min(model.roi_heads.detections_per_img, self.proposals_per_image * self.classes)
        strides = _strides(model.backbone, self.channels, device)
        self.fpn_factors: list[int] = []
        if isinstance(model.backbone, BackboneWithFPN):
            lateral = list(strides.values())[: len(model.backbone.fpn.inner_blocks)]
            self.fpn_factors = [coarse // fine for fine, coarse in pairwise(lateral)]
        self.box_pool = plan_pooling(model.roi_heads.box_roi_pool, strides)
        self.mask_pool = plan_pooling(model.roi_heads.mask_roi_pool, strides) if self.has_masks else None
        self.keypoint_pool = plan_pooling(model.roi_heads.keypoint_roi_pool, strides) if self.has_keypoints else None

    @property
    def output_names(self) -> list[str]:
        names = ["boxes", "scores", "labels", "image_index"]
        if self.has_masks:
            names.append("masks")
        if self.has_keypoints:
            names.append("keypoint_heatmaps")
        return names

    def forward(self, images: Tensor, sizes: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        pixels = self._normalize(images, sizes)
        pyramid = self._pyramid(pixels)
        height, width = sizes.to(torch.float32).unbind(1)
        limits = torch.stack((width, height, width, height), dim=1)
        proposals, is_proposal = self._proposals(pixels, pyramid, limits)
        boxes, scores, labels = self._detections(pyramid, proposals, is_proposal, limits, score_threshold)

        image_of_slot = _image_of_slot(scores)
        boxes, scores, labels = boxes.flatten(0, 1), scores.flatten(), labels.flatten()
        is_detection = scores > SUPPRESSED
        found = true_rows(is_detection)
        outputs = [rows(values, found) for values in (boxes, scores, labels, image_of_slot)]
        if self.mask_pool is not None:
            pooled = pool(self.mask_pool, pyramid, boxes, image_of_slot, is_detection)
            masks = in_parts(self._masks, pooled.features, rows(labels, pooled.slots), self.mask_parts)
            outputs.append(rows(masks, rows(pooled.row_of_slot, found)))
        if self.keypoint_pool is not None:
            pooled = pool(self.keypoint_pool, pyramid, boxes, image_of_slot, is_detection)
            heatmaps = self.roi_heads.keypoint_predictor(self.roi_heads.keypoint_head(pooled.features))
            outputs.append(rows(heatmaps, rows(pooled.row_of_slot, found)))
        return tuple(outputs)

    def _normalize(self, images: Tensor, sizes: Tensor) -> Tensor:
        """uint8 [B, H, W, C] -> float32 [B, C, H, W], zero outside the valid sizes: first normalized, then padded."""
        height, width = sizes.unsqueeze(1).unbind(2)
        row, column = positions(images, 1), positions(images, 2)
        inside = (row < height).unflatten(1, (1, -1, 1)) & (column < width).unflatten(1, (1, 1, -1))
        pixels = images.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 255
        return torch.where(inside, (pixels - self.image_mean) / self.image_std, 0.0)

    def _pyramid(self, pixels: Tensor) -> dict[str, Tensor]:
        """The backbone's feature levels by name, finest first (FPN, Lin et al., sec. 3).

        torchvision upsamples to the next level's size; with a constant factor instead, ONNX Runtime keeps the whole FPN
        in its blocked layout.
        """
        maps = self.backbone.body(pixels)
        if isinstance(self.backbone, C4Backbone):
            return dict(maps)
        fpn = self.backbone.fpn
        names, maps = list(maps.keys()), list(maps.values())
        top = fpn.inner_blocks[-1](maps[-1])
        levels = [fpn.layer_blocks[-1](top)]
        for i in range(len(maps) - 2, -1, -1):
            factor = self.fpn_factors[i]
            if factor > 1:
                top = F.interpolate(top, scale_factor=float(factor), mode="nearest")
            top = fpn.inner_blocks[i](maps[i]) + top
            levels.insert(0, fpn.layer_blocks[i](top))
        if fpn.extra_blocks is not None:
            levels, names = fpn.extra_blocks(levels, maps, names)
        return dict(zip(names, levels, strict=True))

    def _proposals(self, pixels: Tensor, pyramid: dict[str, Tensor], limits: Tensor) -> tuple[Tensor, Tensor]:
        """The RPN's boxes float32 [B, P, 4] by falling objectness, and which of the P places hold one, bool [B, P]."""
        found = []
        for level, (logits, deltas) in enumerate(self._objectness(pyramid)):
            # Positions count rows, then columns, then a cell's anchors. Padding lets k be the same for every size.
            padded = F.pad(logits.permute(0, 2, 3, 1).flatten(1), (0, self.pre_nms), value=SUPPRESSED)
            best, position = self.lowering.top_k(padded, self.pre_nms)
            position = torch.where(best > SUPPRESSED, position, 0)
            deltas = _pick(deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3), position)
            anchors = self._anchors_at(level, pixels, logits, position).view_as(deltas)
            found.append((best, deltas, anchors))
        logits, deltas, anchors = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))

        boxes = clip(decode(deltas, anchors, self.rpn.box_coder), limits.unflatten(0, (-1, 1, 1)))
        # Ranked by logits: torchvision's sigmoid of them is 1 for everything above 17, and ONNX Runtime's approximation
        # is out of order below -9 (17 % off at -15).
        takes_part = has_sides(boxes, self.rpn.min_size) & (logits >= self.least_objectness)
        scores = torch.where(takes_part, logits, SUPPRESSED)
        kept = self._suppress_proposals(boxes.flatten(0, 1), scores.flatten(0, 1))
        scores, position = self.lowering.top_k(_keep(scores, kept).flatten(1), self.proposals_per_image)
        return _pick(boxes.flatten(1, 2), position), scores > SUPPRESSED

    def _objectness(self, pyramid: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Of each level the RPN's logits [B, A, h, w] and deltas [B, 4 * A, h, w]."""
        answers = self.rpn.head(list(pyramid.values()))
        return [(self._look_at(logits), self._look_at(deltas)) for logits, deltas in zip(*answers, strict=True)]

    def _suppress_proposals(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """`Lowering.grouped_nms` of the groups (image, level)."""
        return self.lowering.grouped_nms(boxes, scores, self.rpn.nms_thresh, self.proposals_per_image)

    def _anchors_at(self, level: int, pixels: Tensor, level_map: Tensor, position: Tensor) -> Tensor:
        """float32 [B * k, 4], those of `_anchors` at positions int64 [B, k]."""
        return rows(self._anchors(level, pixels, level_map), position.flatten())

    def _anchors(self, level: int, pixels: Tensor, level_map: Tensor) -> Tensor:
        """float32 [h * w * A, 4], the anchors of one level of size [.., h, w] (torchvision's AnchorGenerator)."""
        # The stride is not a constant: the coarsest level of an 800 px side has 13 cells, 61 px apart.
        x, y = (
            positions(level_map, dim)
            * torch.div(
                torch.scalar_tensor(pixels.shape[dim], dtype=torch.int64),
                torch.scalar_tensor(level_map.shape[dim], dtype=torch.int64),
                rounding_mode="floor",
            )
            for dim in (3, 2)
        )
        x, y = torch.broadcast_tensors(x.unsqueeze(0), y.unsqueeze(1))
        shifts = torch.stack((x, y, x, y), dim=2).unsqueeze(2).to(torch.float32)
        return (shifts + self.get_buffer(f"cell_anchors_{level}")).flatten(0, 2)

    def _detections(
        self,
        pyramid: dict[str, Tensor],
        proposals: Tensor,
        is_proposal: Tensor,
        limits: Tensor,
        score_threshold: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [B, D, 4], scores [B, D] falling and SUPPRESSED where there is none, labels [B, D]."""
        heads = self.roi_heads
        image_of_slot = _image_of_slot(is_proposal)
        pooled = pool(self.box_pool, pyramid, proposals.flatten(0, 1), image_of_slot, is_proposal.flatten())
        class_logits, deltas = heads.box_predictor(heads.box_head(pooled.features))
        # Class 0 is the background.
        scores = rows(class_logits.softmax(1).narrow(1, 1, self.classes), pooled.row_of_slot).unflatten(
            0, (-1, self.proposals_per_image)
        )
        deltas = (
            rows(deltas.narrow(1, 4, 4 * self.classes), pooled.row_of_slot)
            .unflatten(1, (-1, 4))
            .unflatten(0, (-1, self.proposals_per_image))
        )
        boxes = clip(decode(deltas, proposals.unsqueeze(2), heads.box_coder), limits.unflatten(0, (-1, 1, 1)))
        takes_part = (
            is_proposal.unsqueeze(2)
            & (scores > score_threshold.unflatten(0, (-1, 1, 1)))
            & has_sides(boxes, MIN_DETECTION_SIDE)
        )
        scores = torch.where(takes_part, scores, SUPPRESSED)

        by_class = scores.transpose(1, 2)
        kept = self.lowering.grouped_nms(
            boxes.transpose(1, 2).flatten(0, 1), by_class.flatten(0, 1), heads.nms_thresh, self.detections_per_image
        )
        # Ranked proposal by proposal again, so that equal scores fall in torchvision's order.
        ranked = _keep(by_class, kept).transpose(1, 2).flatten(1)
        scores, position = self.lowering.top_k(ranked, self.detections_per_image)
        boxes = _pick(boxes.flatten(1, 2), position)
        return boxes, scores, position.remainder(self.classes) + 1

    def _masks(self, features: Tensor, labels: Tensor) -> Tensor:
        """Probabilities float32 [R, M, M] of each row's own class."""
        features = self.roi_heads.mask_head(features)
        predictor = self.roi_heads.mask_predictor
        if isinstance(self.roi_heads, SoftmaxMaskRoIHeads):
            return _own(self._look_at(predictor(features)).softmax(1), labels)
        if isinstance(predictor, MlpMaskPredictor):
            return self._look_at(_own(predictor(features), labels)).sigmoid()
        if isinstance(predictor, AgnosticMaskPredictor):
            labels = torch.zeros_like(labels)
        return self._look_at(_own_class_logits(predictor, features, labels)).sigmoid()

    def _look_at(self, answers: Tensor) -> Tensor:
        """A layer's answers, before anything is made of them that would hide an overflow; a graph may note them."""
        return answers


def in_parts(compute: Callable[[Tensor, Tensor], Tensor], features: Tensor, labels: Tensor, parts: int) -> Tensor:
    """`compute(features [R, ...], labels [R])` for R > 0 independent rows, in the memory of one part of them.

    Part i has every parts-th row from row i on, and row 0 once more where that would be none: see `pool` for why.
    """
    row = positions(labels, 0)
    taken, values = [], []
    for part in range(parts):
        mine = row.remainder(parts) == part
        index = true_rows(mine | ((row == 0) & ~mine.any()))
        if torch.compiler.is_exporting():
            # See `pool`. The exporter writes down the most that all parts together can be, which must fit into 64 bits.
            torch._check(index.shape[0] > 0)
            torch._check(index.shape[0] < 2**31)
        taken.append(index)
        values.append(compute(rows(features, index), rows(labels, index)))
    order = torch.cat(taken)
    position = torch.zeros_like(row).scatter(0, order, positions(order, 0))
    return rows(torch.cat(values), position)


def _own(values: Tensor, labels: Tensor) -> Tensor:
    """values [R, classes, M, M], labels int64 [R] -> [R, M, M]."""
    index = labels.unflatten(0, (-1, 1, 1, 1)).expand(-1, 1, *values.shape[2:])
    return values.gather(1, index).squeeze(1)


def _own_class_logits(predictor: MaskRCNNPredictor, features: Tensor, labels: Tensor) -> Tensor:
    """torchvision's MaskRCNNPredictor, rearranged: logits float32 [R, M, M] of the own class.

    Its 2x2 deconvolution of stride 2 never overlaps, so it is a 1x1 convolution with a set of channels for each of the
    four pixels. And only the own class's logits are computed.
    """
    deconvolution, classifier = predictor.conv5_mask, predictor.mask_fcn_logits
    weight = deconvolution.weight.permute(2, 3, 1, 0).flatten(0, 2).unflatten(1, (-1, 1, 1))
    hidden = F.conv2d(features, weight, deconvolution.bias.repeat(4)).relu()
    hidden = hidden.unflatten(1, (4, -1)).flatten(3)
    own_class = rows(classifier.weight.flatten(1), labels).unflatten(0, (-1, 1, 1))
    logits = (own_class @ hidden).squeeze(2) + rows(classifier.bias, labels).unflatten(0, (-1, 1, 1))
    # [R, 4, s * s] -> [R, row, its half, column, its half]
    logits = logits.unflatten(1, (2, 2)).unflatten(3, features.shape[2:]).permute(0, 3, 1, 4, 2)
    flat: Tensor = logits.flatten(3).flatten(1, 2)
    return flat


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule has its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _pick(boxes: Tensor, position: Tensor) -> Tensor:
    """boxes [B, N, 4], positions int64 [B, k] -> [B, k, 4]."""
    return boxes.gather(1, position.unsqueeze(2).expand(-1, -1, 4))


def _image_of_slot(slots: Tensor) -> Tensor:
    return positions(slots, 0).unsqueeze(1).expand(-1, slots.shape[1]).flatten()


def _keep(scores: Tensor, kept: Tensor) -> Tensor:
    """`scores` with every position that is not in `kept` (of the flat tensor) SUPPRESSED."""
    flat = scores.flatten()
    return torch.full_like(flat, SUPPRESSED).scatter(0, kept, rows(flat, kept)).view_as(scores)


def _strides(backbone: BackboneWithFPN | C4Backbone, channels: int, device: torch.device) -> dict[str, int]:
    """Pixels between two cells of each level, by name. torchvision guesses them from the first image it ever sees."""
    side = 2 * SIZE_DIVISOR
    with evaluating(backbone), torch.no_grad():
        levels = backbone(torch.zeros(1, channels, side, side, device=device))
    return {name: side // level.shape[-1] for name, level in levels.items()}
