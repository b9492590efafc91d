"""What every peer serves: a bundle's weights in torchvision's own MaskRCNN, or a model that only pretends.

Its answers hold what maskserve's hold: boxes, labels, scores and masks in COCO's RLE.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from PIL import Image

from benchmarks.peers.settings import PeerSettings

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.models.detection import MaskRCNN

WEIGHTS = "weights.pth"
ARCHITECTURE = "architecture.json"

NULL_DETECTIONS = 20
NULL_SIZE = (480, 640)
"""(height, width) of the image that the null model is asked about."""

Answer: TypeAlias = dict[str, Any]
"""boxes [[x1, y1, x2, y2], ...] in pixels, labels, scores, masks [{"size": [h, w], "counts": "..."}, ...]."""


class Detector(Protocol):
    """Images in, answers out."""

    def predict(self, images: Sequence[Image.Image]) -> list[Answer]:
        """The answers of a batch, in its order."""


def load_detector(settings: PeerSettings) -> Detector:
    """The detector that a server was told to serve."""
    return NullDetector() if settings.model is None else TorchvisionDetector(settings.model)


def decode(data: bytes) -> Image.Image:
    """An image file's pixels, RGB."""
    return Image.open(BytesIO(data)).convert("RGB")


class NullDetector:
    """The same detections in every image: what remains is the server."""

    def __init__(self) -> None:
        import numpy as np
        from pycocotools import mask as coco

        height, width = NULL_SIZE
        side = 48
        corners = [(40 + 110 * (k % 5), 30 + 105 * (k // 5)) for k in range(NULL_DETECTIONS)]
        y, x = np.mgrid[:height, :width]
        middle = (side - 1) / 2
        discs = [np.hypot(x - left - middle, y - top - middle) < side / 2 - 2 for left, top in corners]
        masks = [coco.encode(np.asfortranarray(disc, np.uint8)) for disc in discs]
        self._answer: Answer = {
            "boxes": [[left, top, left + side, top + side] for left, top in corners],
            "labels": [1] * NULL_DETECTIONS,
            "scores": [round(0.99 - 0.01 * k, 2) for k in range(NULL_DETECTIONS)],
            "masks": [{"size": [height, width], "counts": rle["counts"].decode()} for rle in masks],
        }

    def predict(self, images: Sequence[Image.Image]) -> list[Answer]:
        """See `Detector`."""
        return [self._answer for _ in images]


class TorchvisionDetector:
    """torchvision eager, its own pasting of masks, and pycocotools."""

    def __init__(self, folder: Path) -> None:
        """Load what `prepare` wrote into `folder`."""
        import torch

        architecture = json.loads((folder / ARCHITECTURE).read_text())
        self._model = build(architecture)
        self._model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True), strict=True)
        self._model.eval()

    def predict(self, images: Sequence[Image.Image]) -> list[Answer]:
        """See `Detector`."""
        import torch
        from torchvision.transforms.functional import to_tensor

        with torch.inference_mode():
            found = self._model([to_tensor(image) for image in images])
        return [
            {
                "boxes": one["boxes"].tolist(),
                "labels": one["labels"].tolist(),
                "scores": one["scores"].tolist(),
                "masks": encode(one["masks"]),
            }
            for one in found
        ]


def encode(masks: Tensor) -> list[dict[str, Any]]:
    """Probabilities [N, 1, H, W] as COCO RLE."""
    import torch
    from pycocotools import mask as coco

    if not len(masks):
        return []
    # pycocotools wants [H, W, N], columns first.
    columns = (masks[:, 0] > 0.5).to(torch.uint8).permute(0, 2, 1).contiguous().numpy().transpose(2, 1, 0)
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in coco.encode(columns)]


def build(architecture: Mapping[str, Any]) -> MaskRCNN:
    """The network from torchvision's parts alone, as somebody would write it who has only `weights.pth`.

    `architecture`: the manifest's. `prepare` refuses those that torchvision alone cannot build.
    """
    import torchvision
    from torch import nn
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.rpn import RPNHead
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.ops import FrozenBatchNorm2d
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    class NeverSmaller(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
        """Enlarges small images and leaves the others."""

        least = architecture["min_size"]

        def resize(self, image: Tensor, target: Any = None) -> Any:
            self.min_size = (max(self.least, min(image.shape[-2:])),)
            return super().resize(image, target)

    layer = nn.BatchNorm2d if architecture["norm"] == "batch_norm" else FrozenBatchNorm2d
    norm = partial(layer, eps=architecture["norm_eps"])
    body = torchvision.models.get_model(architecture["backbone"], weights=None, norm_layer=norm)
    channels = architecture["fpn_channels"]
    backbone = BackboneWithFPN(
        body,
        {f"layer{stage + 1}": str(stage) for stage in range(4)},
        [body.inplanes // 8 * 2**stage for stage in range(4)],
        channels,
        extra_blocks=LastLevelMaxPool(),
    )
    sizes = tuple(tuple(group) for group in architecture["anchor_sizes"])
    anchors = AnchorGenerator(sizes, (tuple(architecture["anchor_aspect_ratios"]),) * len(sizes))
    convs = architecture["mask_head_convs"]
    classes = architecture["num_classes"]
    model = MaskRCNN(
        backbone,
        min_size=architecture["min_size"],
        max_size=architecture["max_size"],
        image_mean=architecture["image_mean"],
        image_std=architecture["image_std"],
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=architecture["rpn_conv_depth"]),
        rpn_pre_nms_top_n_test=architecture["rpn_pre_nms_top_n_test"],
        rpn_post_nms_top_n_test=architecture["rpn_post_nms_top_n_test"],
        rpn_nms_thresh=architecture["rpn_nms_threshold"],
        rpn_score_thresh=architecture["rpn_score_threshold"],
        box_head=TwoMLPHead(channels * 7**2, architecture["box_head_channels"]),
        box_predictor=FastRCNNPredictor(architecture["box_head_channels"], classes),
        box_score_thresh=architecture["box_score_threshold"],
        box_nms_thresh=architecture["box_nms_threshold"],
        box_detections_per_img=architecture["detections_per_image"],
        mask_head=MaskRCNNHeads(channels, convs, 1),
        mask_predictor=MaskRCNNPredictor(convs[-1], architecture["mask_predictor_channels"], classes),
    )
    if not architecture["allow_downscale"]:
        t = model.transform
        model.transform = NeverSmaller(t.min_size, t.max_size, t.image_mean, t.image_std)
    return model
