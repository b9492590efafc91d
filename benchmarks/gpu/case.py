"""The network and the images that every contender is given, and torchvision's own answer to them.

Random weights, set so that detections come out as a trained network's do: every norm fits its input, the heads' answers
are centered and spread, and the background's bias is what leaves about `detections_per_img` detections above the
threshold. Zeros would be faster than any real answer, and would hide wrong ones.

Nothing here needs more than torch, torchvision and NumPy: the preset is put together from torchvision alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.ops import FrozenBatchNorm2d

from model.runtime.detections import RawDetections

THRESHOLD = 0.05
"""Score above which a detection counts: torchvision's default."""

CALIBRATION_IMAGES = 2
BISECTIONS = 10

SPREADS = {"objectness": 1.0, "anchor deltas": 0.3, "classes": 3.0, "box deltas": 1.0, "masks": 3.0}
"""Standard deviation of each head's answers."""


@dataclass(frozen=True)
class Scale:
    """A network and image size: `full` is what is measured, `tiny` what a CPU can do in a test."""

    backbone: str
    height: int
    width: int
    classes: int
    anchor_sides: tuple[int, ...]
    pre_nms: int
    proposals: int
    detections: int
    mask_layers: tuple[int, ...] = (256, 256, 256, 256)
    """Channels of the mask head's convolutions, torchvision's by default; its predictor takes 256."""


FULL = Scale("resnet50", 800, 1333, 91, (32, 64, 128, 256, 512), 1000, 1000, 100)
# In half precision, which few CPUs compute in, torchvision's mask head would take half of a dry run.
TINY = Scale("resnet18", 64, 93, 5, (8, 16, 32, 64, 128), 30, 20, 6, (16, 16, 16, 256))


@dataclass(frozen=True)
class Batch:
    """Inputs on the host, pinned where there is a GPU: images uint8 [B, H, W, 3], sizes int64 [B, 2], thresholds
    float32 [B]."""

    images: Tensor
    sizes: Tensor
    thresholds: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Uploads, without waiting."""
        images, sizes, thresholds = (
            part.to(device, non_blocking=True) for part in (self.images, self.sizes, self.thresholds)
        )
        return images, sizes, thresholds


@dataclass(frozen=True)
class Case:
    """The model in eval mode on its device, and how many detections an image it gives on average."""

    model: MaskRCNN
    scale: Scale
    device: torch.device
    detections_per_image: float

    def model_on_host(self) -> MaskRCNN:
        """A copy on the CPU, for exporting: what is traced there is tested where there is no GPU."""
        return copy.deepcopy(self.model).cpu()


def make_case(scale: Scale, device: torch.device, seed: int = 0) -> Case:
    """Builds and calibrates the network."""
    torch.manual_seed(seed)
    model = _build(scale).to(device).eval()
    model.requires_grad_(False)
    images = make_batch(scale, CALIBRATION_IMAGES, device, seed=seed + 1)
    found = _calibrate(model, images)
    return Case(model, scale, device, found)


def make_batch(scale: Scale, images: int, device: torch.device, seed: int = 0) -> Batch:
    """Images of smooth blobs under noise, in a bucket whose sides are multiples of 32."""
    random = np.random.default_rng(seed)
    height, width = (-(-side // 32) * 32 for side in (scale.height, scale.width))
    coarse = random.random((images, height // 16, width // 16, 3), np.float32)
    pixels = 200 * coarse.repeat(16, axis=1).repeat(16, axis=2)
    pixels += 55 * random.random(pixels.shape, np.float32)
    pixels[:, scale.height :] = 0
    pixels[:, :, scale.width :] = 0
    tensors = (
        torch.from_numpy(pixels.astype(np.uint8)),
        torch.tensor([[scale.height, scale.width]] * images),
        torch.full((images,), THRESHOLD),
    )
    return Batch(*(part.pin_memory() if device.type == "cuda" else part for part in tensors))


def torchvision_detect(model: Any, batch: Batch, device: torch.device) -> list[dict[str, Tensor]]:
    """torchvision's own modules, without the pasting of masks into full-size images that its forward ends with.

    Of each image: boxes [n, 4] in pixels of the padded input, scores [n], labels [n], masks [n, 1, 28, 28].
    """
    pixels, _, _ = batch.on(device)
    sizes: Sequence[Sequence[int]] = batch.sizes.tolist()
    images = [
        image[:height, :width].permute(2, 0, 1).to(torch.float32) / 255
        for image, (height, width) in zip(pixels, sizes, strict=True)
    ]
    image_list, _ = model.transform(images)
    features = model.backbone(image_list.tensors)
    proposals, _ = model.rpn(image_list, features)
    detections, _ = model.roi_heads(features, proposals, image_list.image_sizes)
    answer: list[dict[str, Tensor]] = detections
    return answer


def to_raw(detections: list[dict[str, Tensor]]) -> RawDetections:
    """torchvision's answer on the host."""
    index = np.repeat(np.arange(len(detections)), [len(image["boxes"]) for image in detections])
    boxes, scores, labels, masks = (
        torch.cat([image[name] for image in detections]).cpu().numpy()
        for name in ("boxes", "scores", "labels", "masks")
    )
    return RawDetections(
        boxes.astype(np.float32), scores.astype(np.float32), labels, index, masks[:, 0].astype(np.float32)
    )


def _build(scale: Scale) -> MaskRCNN:
    backbone = resnet_fpn_backbone(
        backbone_name=scale.backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5
    )
    anchors = AnchorGenerator(tuple((side,) for side in scale.anchor_sides), ((0.5, 1.0, 2.0),) * 5)
    return MaskRCNN(
        backbone,
        num_classes=scale.classes,
        min_size=scale.height,
        max_size=scale.width,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_test=scale.pre_nms,
        rpn_post_nms_top_n_test=scale.proposals,
        box_score_thresh=THRESHOLD,
        box_detections_per_img=scale.detections,
        mask_head=MaskRCNNHeads(backbone.out_channels, scale.mask_layers, dilation=1),
    )


@torch.no_grad()
def _calibrate(model: Any, batch: Batch) -> float:
    """Sets the weights; returns the detections of an image that then come out."""
    heads, device = model.roi_heads, next(model.parameters()).device
    spreads: dict[nn.Module, float] = {
        model.rpn.head.cls_logits: SPREADS["objectness"],
        model.rpn.head.bbox_pred: SPREADS["anchor deltas"],
        heads.box_predictor.cls_score: SPREADS["classes"],
        heads.box_predictor.bbox_pred: SPREADS["box deltas"],
        heads.mask_predictor.mask_fcn_logits: SPREADS["masks"],
    }

    def fit_norm(norm: Any, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    def fit_answers(layer: Any, _: object, output: Tensor) -> Tensor:
        if layer not in spreads or len(output) == 0:  # the RPN's layers run once a level: the first decides
            return output
        others = tuple(dim for dim in range(output.ndim) if dim != 1)
        mean = output.mean(others, keepdim=True)
        factor = spreads.pop(layer) / (output - mean).std()
        layer.bias.sub_(mean.flatten()).mul_(factor)
        layer.weight.mul_(factor)
        return (output - mean) * factor

    hooks = [
        part.register_forward_pre_hook(fit_norm) for part in model.modules() if isinstance(part, FrozenBatchNorm2d)
    ]
    hooks += [layer.register_forward_hook(fit_answers) for layer in spreads]
    most, heads.detections_per_img = heads.detections_per_img, 4 * heads.detections_per_img
    torchvision_detect(model, batch, device)
    for hook in hooks:
        hook.remove()

    bias = heads.box_predictor.cls_score.bias
    low, high = -10.0, 30.0
    pool, heads.mask_roi_pool = heads.mask_roi_pool, None  # masks take most of the time, and are not counted
    for _ in range(BISECTIONS):
        bias[0] = (low + high) / 2
        if _mean_count(torchvision_detect(model, batch, device)) > most:
            low = float(bias[0])
        else:
            high = float(bias[0])
    heads.detections_per_img, heads.mask_roi_pool = most, pool
    return _mean_count(torchvision_detect(model, batch, device))


def _mean_count(detections: list[dict[str, Tensor]]) -> float:
    return sum(len(image["boxes"]) for image in detections) / len(detections)
