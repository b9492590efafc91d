"""Small detectors whose random weights give many, well spread detections, and torchvision's own answer to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from model.architecture import ArchitectureConfig
from model.network.build import Detector, build_model
from model.network.heads import MlpMaskPredictor
from model.runtime.detections import RawDetections

SMALL = ArchitectureConfig(
    task="boxes",
    backbone="resnet18",
    num_classes=5,
    num_keypoints=3,
    fpn_channels=32,
    anchor_sizes=((12,), (24,), (48,), (96,), (192,)),
    rpn_pre_nms_top_n_test=150,
    rpn_post_nms_top_n_test=120,
    box_head_channels=64,
    box_head_convs=(32, 32),
    detections_per_image=40,
    mask_head_convs=(32, 32),
    mask_predictor_channels=24,
    keypoint_head_convs=(32, 32),
    min_size=64,
    max_size=256,
)

V2 = {"norm": "batch_norm", "fpn_norm": True, "rpn_conv_depth": 2, "box_head": "conv", "mask_head_norm": True}

FEW_ROIS = {"rpn_post_nms_top_n_test": 20, "detections_per_image": 10, "box_batch_size_per_image": 32}
"""A stage of the ResNet computes each of them, twice those that are detected."""
C4 = {"features": "c4", "anchor_sizes": ((16, 32, 64),), "task": "masks", **FEW_ROIS}
VARIANTS: dict[str, dict[str, object]] = {
    "c4": C4,
    "c4_boxes": {**C4, "task": "boxes"},
    "c4_bottleneck": {**C4, "backbone": "resnet50"},
    "roi_pool": {"task": "masks", "roi_pooling": "pool"},
    "softmax": {"task": "masks", "mask_loss": "softmax"},
    "roi_pool_softmax_keypoints": {"task": "masks_keypoints", "roi_pooling": "pool", "mask_loss": "softmax"},
    "softmax_mlp": {"task": "masks", "mask_loss": "softmax", "mask_head": "mlp", "mask_head_channels": 32},
    "agnostic": {"task": "masks", "mask_classes": "agnostic"},
    "mlp": {"task": "masks", "mask_head": "mlp", "mask_head_channels": 32},
    "mlp_agnostic": {"task": "masks", "mask_head": "mlp", "mask_classes": "agnostic", "mask_head_channels": 32},
    "masks_keypoints": {"task": "masks_keypoints", "num_classes": 2},
}
"""The paper's variants, as changes of SMALL."""

MOBILENET = {"backbone": "mobilenet_v3_small", "anchor_sizes": ((16, 32, 64, 128),) * 3}


@dataclass(frozen=True)
class Batch:
    """Engine inputs: images uint8 [B, H, W, 3], sizes int64 [B, 2]."""

    images: np.ndarray
    sizes: np.ndarray

    def of(self, index: int) -> Batch:
        return Batch(self.images[index : index + 1], self.sizes[index : index + 1])

    def tensors(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.images), torch.from_numpy(self.sizes)


def make_batch(height: int, width: int, sizes: Sequence[tuple[int, int]], seed: int = 0, channels: int = 3) -> Batch:
    """Noise over smooth blobs; noise outside the valid sizes too, which nothing may look at."""
    random = np.random.default_rng(seed)
    coarse = random.random((len(sizes), height // 16, width // 16, channels))
    blobs = coarse.repeat(16, axis=1).repeat(16, axis=2)
    images = (200 * blobs + 55 * random.random(blobs.shape)).astype(np.uint8)
    return Batch(images, np.array(sizes, dtype=np.int64))


def make_detector(config: ArchitectureConfig, seed: int = 0) -> Detector:
    """A detector in eval mode with random weights, set so that its scores, boxes and masks vary widely."""
    torch.manual_seed(seed)
    model = build_model(config).eval()
    heads = model.roi_heads
    spreads: dict[nn.Module, float] = {
        model.rpn.head.cls_logits: 1.0,
        model.rpn.head.bbox_pred: 0.3,
        heads.box_predictor.cls_score: 1.0,
        heads.box_predictor.bbox_pred: 1.0,
    }
    if heads.has_mask():
        predictor = heads.mask_predictor
        spreads[predictor.mask_fc_logits if isinstance(predictor, MlpMaskPredictor) else predictor.mask_fcn_logits] = (
            3.0
        )
    if heads.has_keypoint():
        spreads[heads.keypoint_predictor.kps_score_lowres] = 3.0

    def fit_statistics(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if len(inputs[0]) > 0:
            norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
            norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    def fit_spread(layer: nn.Module, _: object, output: Tensor) -> Tensor:
        if layer not in spreads:  # the RPN's layers run once for each level: the first decides
            return output
        factor = spreads.pop(layer) / output.std()
        layer.weight.mul_(factor)
        return output * factor

    norms = (nn.BatchNorm2d, FrozenBatchNorm2d)
    hooks = [m.register_forward_pre_hook(fit_statistics) for m in model.modules() if isinstance(m, norms)]
    hooks += [layer.register_forward_hook(fit_spread) for layer in spreads]
    torchvision_answer(model, make_batch(128, 128, [(128, 128)], seed=99, channels=config.channels), 0.0)
    for hook in hooks:
        hook.remove()
    return model


@torch.no_grad()
def torchvision_answer(model: Detector, batch: Batch, score_threshold: float) -> list[dict[str, Tensor]]:
    """torchvision's detections of each image, from its own modules, before anything is resized or pasted."""
    heads = model.roi_heads
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.transform.image_mean, model.transform.image_std))
    padded = torch.zeros(len(batch.images), len(mean), *batch.images.shape[1:3])
    sizes = [(int(height), int(width)) for height, width in batch.sizes]
    for target, image, (height, width) in zip(padded, torch.from_numpy(batch.images), sizes, strict=True):
        pixels = image[:height, :width].permute(2, 0, 1).to(torch.float32) / 255
        target[:, :height, :width] = (pixels - mean) / std
    for pooler in (heads.box_roi_pool, heads.mask_roi_pool, heads.keypoint_roi_pool):
        if pooler is not None:  # torchvision guesses the strides from the first sizes it sees, and keeps the guess
            pooler.scales = pooler.map_levels = None
    features = model.backbone(padded)
    image_list = ImageList(padded, sizes)
    proposals, _ = model.rpn(image_list, features)
    saved, heads.score_thresh = heads.score_thresh, score_threshold
    heatmaps: list[Tensor] = []
    hook = None
    if heads.has_keypoint():
        hook = heads.keypoint_predictor.register_forward_hook(lambda *call: heatmaps.append(call[-1]))
    detections, _ = heads(features, proposals, sizes)
    heads.score_thresh = saved
    if hook is not None:
        hook.remove()
        for detection, part in zip(detections, heatmaps[0].split([len(d["boxes"]) for d in detections]), strict=True):
            detection["heatmaps"] = part
    return detections


def assert_same_answer(
    ours: RawDetections, theirs: list[dict[str, Tensor]], *, pixels: float, probability: float, order: bool = True
) -> None:
    """The same detections, image by image: boxes within `pixels`, scores and masks within `probability`.

    Without `order`, detections whose scores differ by no more than rounding may have changed places.
    """
    assert np.all(np.diff(ours.image_index) >= 0)
    assert len(ours.boxes) == sum(len(detection["boxes"]) for detection in theirs)
    for index, expected in enumerate(theirs):
        image = ours.of_image(index)
        reference = {name: value.numpy() for name, value in expected.items()}
        assert len(image.boxes) == len(reference["boxes"]), f"image {index}"
        match = np.arange(len(image.boxes))
        if not order and len(match) > 0:
            far = np.abs(image.boxes[:, None] - reference["boxes"][None]).max(axis=2)
            far[image.labels[:, None] != reference["labels"][None]] = np.inf
            match = far.argmin(axis=1)
            assert len(set(match)) == len(match), f"image {index}"
        np.testing.assert_array_equal(image.labels, reference["labels"][match])
        np.testing.assert_allclose(image.boxes, reference["boxes"][match], rtol=0, atol=pixels)
        np.testing.assert_allclose(image.scores, reference["scores"][match], rtol=0, atol=probability)
        assert np.all(np.diff(image.scores) <= 0)
        if "masks" in reference:
            assert image.masks is not None
            np.testing.assert_allclose(image.masks, reference["masks"][match, 0], rtol=0, atol=probability)
        if "heatmaps" in reference:
            assert image.keypoint_heatmaps is not None
            spread = max(1.0, float(np.abs(reference["heatmaps"]).max(initial=0)))
            np.testing.assert_allclose(
                image.keypoint_heatmaps, reference["heatmaps"][match], rtol=0, atol=10 * probability * spread
            )


@dataclass(frozen=True)
class Helpers:
    small: ArchitectureConfig
    v2: dict[str, object]
    variants: dict[str, dict[str, object]]
    mobilenet: dict[str, object]
    batch: Callable[..., Batch]
    detector: Callable[..., Detector]
    torchvision_answer: Callable[..., list[dict[str, Tensor]]]
    assert_same_answer: Callable[..., None]


@pytest.fixture(scope="session")
def helpers() -> Helpers:
    return Helpers(SMALL, V2, VARIANTS, MOBILENET, make_batch, make_detector, torchvision_answer, assert_same_answer)
