"""ArchitectureConfig -> a plain torchvision detection model.

Nothing here subclasses torchvision: the result is its own FasterRCNN, MaskRCNN or KeypointRCNN, so a state_dict trained
here loads with `strict=True` into the same class that a user builds with torchvision alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from model.architecture import ArchitectureConfig

GROUP_NORM_GROUPS = 32
"""Groups of every GroupNorm (Wu and He, Group Normalization, sec. 4); narrower layers use one group a channel."""

BOX_POOL_SIZE = 7
"""Output side of the box head's RoIAlign, in cells (Mask R-CNN, fig. 4)."""

Detector: TypeAlias = FasterRCNN
"""What `build_model` returns: a FasterRCNN or one of its subclasses."""


def build_model(config: ArchitectureConfig, *, trainable_backbone_layers: int | None = None) -> Detector:
    """The torchvision model that `config` describes, with random weights, in training mode.

    `trainable_backbone_layers` counts backbone stages from the last one that keep learning (torchvision's meaning);
    None leaves all of them trainable. The returned object is a FasterRCNN, or its subclass MaskRCNN or KeypointRCNN.

    The model's own transform never resizes while training: images arrive at their final size, as they do when serving.
    """
    norm = _norm_layer(config)
    backbone = _backbone(config, norm, trainable_backbone_layers)
    channels = config.fpn_channels
    anchors = AnchorGenerator(config.anchor_sizes, (config.anchor_aspect_ratios,) * len(config.anchor_sizes))
    per_location = anchors.num_anchors_per_location()
    if len(set(per_location)) != 1:
        raise ValueError(f"every anchor_sizes group must hold equally many sizes, got {config.anchor_sizes}")
    pooled = channels * BOX_POOL_SIZE**2
    box_head: nn.Module
    if config.box_head == "mlp":
        box_head = TwoMLPHead(pooled, config.box_head_channels)
    else:
        box_head = FastRCNNConvFCHead(
            (channels, BOX_POOL_SIZE, BOX_POOL_SIZE),
            list(config.box_head_convs),
            [config.box_head_channels],
            norm_layer=nn.BatchNorm2d,
        )
    arguments = {
        "backbone": backbone,
        "min_size": config.min_size,
        "max_size": config.max_size,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(channels, per_location[0], conv_depth=config.rpn_conv_depth),
        "rpn_pre_nms_top_n_train": config.rpn_pre_nms_top_n_train,
        "rpn_pre_nms_top_n_test": config.rpn_pre_nms_top_n_test,
        "rpn_post_nms_top_n_train": config.rpn_post_nms_top_n_train,
        "rpn_post_nms_top_n_test": config.rpn_post_nms_top_n_test,
        "rpn_nms_thresh": config.rpn_nms_threshold,
        "rpn_score_thresh": config.rpn_score_threshold,
        "box_head": box_head,
        "box_predictor": FastRCNNPredictor(config.box_head_channels, config.num_classes),
        "box_score_thresh": config.box_score_threshold,
        "box_nms_thresh": config.box_nms_threshold,
        "box_detections_per_img": config.detections_per_image,
        "box_batch_size_per_image": config.box_batch_size_per_image,
        "box_positive_fraction": config.box_positive_fraction,
        "_skip_resize": True,
    }
    if config.task == "masks":
        mask_norm = nn.BatchNorm2d if config.mask_head_norm else None
        return MaskRCNN(
            **arguments,
            mask_head=MaskRCNNHeads(channels, list(config.mask_head_convs), 1, norm_layer=mask_norm),
            mask_predictor=MaskRCNNPredictor(
                config.mask_head_convs[-1], config.mask_predictor_channels, config.num_classes
            ),
        )
    if config.task == "keypoints":
        return KeypointRCNN(
            **arguments,
            keypoint_head=KeypointRCNNHeads(channels, config.keypoint_head_convs),
            keypoint_predictor=KeypointRCNNPredictor(config.keypoint_head_convs[-1], config.num_keypoints),
        )
    return FasterRCNN(**arguments)


def _norm_layer(config: ArchitectureConfig) -> Callable[[int], nn.Module]:
    if config.norm == "frozen_batch_norm":
        return partial(FrozenBatchNorm2d, eps=config.norm_eps)
    if config.norm == "batch_norm":
        return partial(nn.BatchNorm2d, eps=config.norm_eps)
    return partial(_group_norm, eps=config.norm_eps)


def _group_norm(channels: int, eps: float) -> nn.GroupNorm:
    groups = GROUP_NORM_GROUPS if channels % GROUP_NORM_GROUPS == 0 else channels
    return nn.GroupNorm(groups, channels, eps=eps)


def _backbone(
    config: ArchitectureConfig, norm: Callable[[int], nn.Module], trainable_layers: int | None
) -> BackboneWithFPN:
    body: Any = torchvision.models.get_model(config.backbone, weights=None, norm_layer=norm)
    if config.backbone.startswith("mobilenet"):
        body = body.features
        # The strided blocks are the starts of stages C1.., the last layer is the final one; FPN reads the last two.
        strided = [index for index, block in enumerate(body) if getattr(block, "_is_cn", False)]
        stages = [0, *strided, len(body) - 1]
        levels = stages[-2:]
        channels = [body[index].out_channels for index in levels]
        _freeze(list(body.children()), stages, trainable_layers)
        return_layers = {str(index): str(level) for level, index in enumerate(levels)}
    else:
        names = ("layer1", "layer2", "layer3", "layer4")
        channels = [body.inplanes // 8 * 2**level for level in range(4)]
        stem = nn.ModuleList([body.conv1, body.bn1])
        _freeze([stem, *(getattr(body, name) for name in names)], list(range(5)), trainable_layers)
        return_layers = {name: str(level) for level, name in enumerate(names)}
    return BackboneWithFPN(
        body,
        return_layers,
        channels,
        config.fpn_channels,
        extra_blocks=LastLevelMaxPool(),
        norm_layer=norm if config.fpn_norm else None,
    )


def _freeze(blocks: list[nn.Module], stage_starts: list[int], trainable_layers: int | None) -> None:
    if trainable_layers is None:
        return
    if not 0 <= trainable_layers <= len(stage_starts):
        raise ValueError(f"trainable_backbone_layers must be 0 to {len(stage_starts)}, got {trainable_layers}")
    first = len(blocks) if trainable_layers == 0 else stage_starts[len(stage_starts) - trainable_layers]
    for block in blocks[:first]:
        for parameter in block.parameters():
            parameter.requires_grad_(False)
