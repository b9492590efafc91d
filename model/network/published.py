"""torchvision's published weights by name: whole detection models, and ImageNet backbones."""

from __future__ import annotations

from dataclasses import dataclass

import torchvision

from model.architecture import PRESETS, ArchitectureConfig
from model.network.build import Detector, build_model

LEGACY_EPS_WEIGHTS = frozenset({"fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"})
"""Models whose published weights were trained with a batch norm epsilon of zero, as torchvision sets on loading."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One of torchvision's published models, in eval mode. class_names are those of labels 1..C."""

    architecture: ArchitectureConfig
    model: Detector
    class_names: tuple[str, ...]
    keypoint_names: tuple[str, ...]


def published_model(name: str, weights: str = "COCO_V1") -> PublishedModel:
    """`name` is a preset's name, `weights` a member of torchvision's weights enum of that model, such as "COCO_V1".

    The weights come from torch's hub cache, or are downloaded into it and checked by hash.
    Raises ValueError for an unknown model or weights, naming the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(sorted(PRESETS))}")
    enum = torchvision.models.get_model_weights(name)
    if weights not in enum.__members__:
        raise ValueError(
            f"torchvision publishes no weights {weights!r} for {name}; known: {', '.join(enum.__members__)}"
        )
    entry = enum[weights]
    changes: dict[str, object] = {"num_classes": len(entry.meta["categories"])}
    if name in LEGACY_EPS_WEIGHTS:
        changes["norm_eps"] = 0.0
    config = PRESETS[name].model_copy(update=changes)
    model = build_model(config)
    model.load_state_dict(entry.get_state_dict(progress=False, check_hash=True), strict=True)
    keypoints = tuple(entry.meta.get("keypoint_names", ()))
    return PublishedModel(config, model.eval(), tuple(entry.meta["categories"][1:]), keypoints)


def load_imagenet_backbone(detector: Detector, config: ArchitectureConfig, weights: str = "DEFAULT") -> None:
    """Replaces the backbone's weights by torchvision's ImageNet classification weights, by name, in place."""
    entry = torchvision.models.get_model_weights(config.backbone)[weights]
    state = entry.get_state_dict(progress=False, check_hash=True)
    if config.backbone.startswith("mobilenet"):
        state = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    else:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    body = detector.backbone.body
    if config.norm == "group_norm":
        raise ValueError("torchvision's ImageNet weights are batch-normalized: they cannot start a group_norm backbone")
    wanted = {key: value for key, value in state.items() if key in body.state_dict()}
    missing, _ = body.load_state_dict(wanted, strict=False)
    # FrozenBatchNorm2d has no num_batches_tracked; everything else must have been there.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"{weights} of {config.backbone} lacks {', '.join(missing)}")
