"""ArchitectureConfig -> a torchvision detection model.

The result is torchvision's own FasterRCNN, MaskRCNN or KeypointRCNN, so a state_dict trained here loads with
`strict=True` into the same class that a user builds with torchvision alone. Only where the paper has a variant that
torchvision has not does a part of `model.network.heads` stand in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from model.architecture import ArchitectureConfig
from model.network.first_convolution import take_channels
from model.network.heads import (
    AgnosticMaskPredictor,
    C4Backbone,
    ContiguousKeypointPredictor,
    MaskRoIHeads,
    MlpMaskHead,
    MlpMaskPredictor,
    MultiScaleRoIPool,
    SoftmaxMaskRoIHeads,
    c4_box_head,
    c4_mask_head,
    fifth_stage,
)
from model.runtime.images.channels import RGB_CHANNELS

GROUP_NORM_GROUPS = 32
"""Groups of every GroupNorm (Wu and He, Group Normalization, sec. 4); narrower layers use one group a channel."""

BOX_POOL_SIZE = 7
"""Output side of the box head's RoIAlign, in cells (Mask R-CNN, fig. 4)."""

FINE_POOL_SIZE = 14
"""Output side of the mask and keypoint heads' RoIAlign on an FPN, in cells (Mask R-CNN, fig. 4)."""

Detector: TypeAlias = FasterRCNN
"""What `build_model` returns: a FasterRCNN or one of its subclasses."""


def build_model(config: ArchitectureConfig, *, trainable_backbone_layers: int | None = None) -> Detector:
    """The torchvision model that `config` describes, with random weights, in training mode.

    `trainable_backbone_layers` counts backbone stages from the last one that keep learning (torchvision's meaning);
    None leaves all of them trainable. The returned object is a FasterRCNN, or its subclass MaskRCNN or KeypointRCNN.

    The model's own transform never resizes while training: images arrive at their final size, as they do when serving.
    """
    norm = _norm_layer(config)
    resnet = torchvision.models.get_model(config.backbone, weights=None, norm_layer=norm)
    if config.channels != RGB_CHANNELS:
        take_channels(resnet, config.channels)
    backbone, box_head, representation = _backbone_and_box_head(config, resnet, norm, trainable_backbone_layers)
    anchors = AnchorGenerator(config.anchor_sizes, (config.anchor_aspect_ratios,) * len(config.anchor_sizes))
    per_location = anchors.num_anchors_per_location()
    if len(set(per_location)) != 1:
        raise ValueError(f"every anchor_sizes group must hold equally many sizes, got {config.anchor_sizes}")
    arguments: dict[str, Any] = {
        "backbone": backbone,
        "min_size": config.min_size,
        "max_size": config.max_size,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(backbone.out_channels, per_location[0], conv_depth=config.rpn_conv_depth),
        "rpn_pre_nms_top_n_train": config.rpn_pre_nms_top_n_train,
        "rpn_pre_nms_top_n_test": config.rpn_pre_nms_top_n_test,
        "rpn_post_nms_top_n_train": config.rpn_post_nms_top_n_train,
        "rpn_post_nms_top_n_test": config.rpn_post_nms_top_n_test,
        "rpn_nms_thresh": config.rpn_nms_threshold,
        "rpn_score_thresh": config.rpn_score_threshold,
        "box_roi_pool": _align(config, BOX_POOL_SIZE),
        "box_head": box_head,
        "box_predictor": FastRCNNPredictor(representation, config.num_classes),
        "box_score_thresh": config.box_score_threshold,
        "box_nms_thresh": config.box_nms_threshold,
        "box_detections_per_img": config.detections_per_image,
        "box_batch_size_per_image": config.box_batch_size_per_image,
        "box_positive_fraction": config.box_positive_fraction,
        "_skip_resize": True,
    }
    if config.has_keypoints:
        model: Detector = KeypointRCNN(
            **arguments,
            keypoint_roi_pool=_align(config, FINE_POOL_SIZE),
            keypoint_head=KeypointRCNNHeads(config.fpn_channels, config.keypoint_head_convs),
            keypoint_predictor=ContiguousKeypointPredictor(config.keypoint_head_convs[-1], config.num_keypoints),
        )
        if config.has_masks:
            heads = model.roi_heads
            heads.mask_roi_pool, heads.mask_head, heads.mask_predictor = _mask_parts(config, box_head, representation)
    elif config.has_masks:
        pool, head, predictor = _mask_parts(config, box_head, representation)
        model = MaskRCNN(**arguments, mask_roi_pool=pool, mask_head=head, mask_predictor=predictor)
    else:
        model = FasterRCNN(**arguments)
    if config.has_masks:
        # torchvision's constructors make the RoI heads themselves; these differ in what they do, not in what they hold.
        model.roi_heads.__class__ = SoftmaxMaskRoIHeads if config.mask_loss == "softmax" else MaskRoIHeads
    if config.roi_pooling == "pool":
        _replace_align_by_pool(model)
    return model


def build_unfilled(config: ArchitectureConfig) -> Detector:
    """`build_model`, on the CPU, for whoever loads a state_dict next: its weights and buffers are whatever was in the
    memory.

    To draw random ones takes most of the time that it takes to build a network.
    """
    with torch.device("meta"):
        model = build_model(config)
    return model.to_empty(device="cpu")


def _align(config: ArchitectureConfig, output_size: int) -> MultiScaleRoIAlign:
    names = ["0"] if config.features == "c4" else ["0", "1", "2", "3"]
    return MultiScaleRoIAlign(names, output_size, sampling_ratio=2)


def _replace_align_by_pool(model: Detector) -> None:
    """torchvision's constructors take nothing but a MultiScaleRoIAlign."""
    heads = model.roi_heads
    for name in ("box_roi_pool", "mask_roi_pool", "keypoint_roi_pool"):
        align = getattr(heads, name)
        if align is not None:
            setattr(heads, name, MultiScaleRoIPool(align.featmap_names, align.output_size[0]))


def _mask_parts(
    config: ArchitectureConfig, box_head: nn.Module, representation: int
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """RoI pooling, head and predictor of the mask branch."""
    channels = config.fpn_channels
    masks = 1 if config.mask_classes == "agnostic" else config.num_classes
    if config.mask_head == "mlp":
        side = 2 * FINE_POOL_SIZE
        head = MlpMaskHead(channels * FINE_POOL_SIZE**2, config.mask_head_channels)
        predictor = MlpMaskPredictor(config.mask_head_channels, masks, config.num_classes, side)
        return _align(config, FINE_POOL_SIZE), head, predictor
    make: Any = AgnosticMaskPredictor if masks == 1 else MaskRCNNPredictor
    if config.features == "c4":
        stage = box_head.get_submodule("layer4")
        predictor = make(representation, config.mask_predictor_channels, config.num_classes)
        return _align(config, BOX_POOL_SIZE), c4_mask_head(stage), predictor
    norm = nn.BatchNorm2d if config.mask_head_norm else None
    return (
        _align(config, FINE_POOL_SIZE),
        MaskRCNNHeads(channels, list(config.mask_head_convs), 1, norm_layer=norm),
        make(config.mask_head_convs[-1], config.mask_predictor_channels, config.num_classes),
    )


def _norm_layer(config: ArchitectureConfig) -> Callable[[int], nn.Module]:
    if config.norm == "frozen_batch_norm":
        return partial(FrozenBatchNorm2d, eps=config.norm_eps)
    if config.norm == "batch_norm":
        return partial(nn.BatchNorm2d, eps=config.norm_eps)
    return partial(_group_norm, eps=config.norm_eps)


def _group_norm(channels: int, eps: float) -> nn.GroupNorm:
    groups = GROUP_NORM_GROUPS if channels % GROUP_NORM_GROUPS == 0 else channels
    return nn.GroupNorm(groups, channels, eps=eps)


def _backbone_and_box_head(
    config: ArchitectureConfig, body: Any, norm: Callable[[int], nn.Module], trainable_layers: int | None
) -> tuple[BackboneWithFPN | C4Backbone, nn.Module, int]:
    """The features, the box head on them, and the channels that it puts out."""
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
        if config.features == "c4":
            return C4Backbone(body, channels[2]), c4_box_head(fifth_stage(body)), channels[3]
        return_layers = {name: str(level) for level, name in enumerate(names)}
    backbone = BackboneWithFPN(
        body,
        return_layers,
        channels,
        config.fpn_channels,
        extra_blocks=LastLevelMaxPool(),
        norm_layer=norm if config.fpn_norm else None,
    )
    return backbone, _box_head(config), config.box_head_channels


def _box_head(config: ArchitectureConfig) -> nn.Module:
    channels = config.fpn_channels
    head: nn.Module
    if config.box_head == "mlp":
        head = TwoMLPHead(channels * BOX_POOL_SIZE**2, config.box_head_channels)
    else:
        head = FastRCNNConvFCHead(
            (channels, BOX_POOL_SIZE, BOX_POOL_SIZE),
            list(config.box_head_convs),
            [config.box_head_channels],
            norm_layer=nn.BatchNorm2d,
        )
    return head


def _freeze(blocks: list[nn.Module], stage_starts: list[int], trainable_layers: int | None) -> None:
    if trainable_layers is None:
        return
    if not 0 <= trainable_layers <= len(stage_starts):
        raise ValueError(f"trainable_backbone_layers must be 0 to {len(stage_starts)}, got {trainable_layers}")
    first = len(blocks) if trainable_layers == 0 else stage_starts[len(stage_starts) - trainable_layers]
    for block in blocks[:first]:
        for parameter in block.parameters():
            parameter.requires_grad_(False)
