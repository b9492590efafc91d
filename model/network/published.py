"""torchvision's published weights by name: whole detection models, and ImageNet backbones."""

from __future__ import annotations

import hashlib
import pickle  # nosec B403  # for its error: torch unpickles, and only tensors
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor

from model.architecture import PRESETS, ArchitectureConfig
from model.console.arguments import did_you_mean
from model.network.build import Detector, build_unfilled

LEGACY_EPS_WEIGHTS = frozenset({"fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn"})
"""Models whose published weights were trained with a batch norm epsilon of zero, as torchvision sets on loading."""

MOBILENET_EPS = 1e-3
"""The batch norm epsilon of torchvision's MobileNetV3 classifiers; its ResNets have the usual 1e-5."""


class WeightsUnavailable(ValueError):
    """Published weights that cannot be had: no network, or a damaged file. The message says where to put the file."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One of torchvision's published models, in eval mode. class_names are those of labels 1..C."""

    architecture: ArchitectureConfig
    model: Detector
    class_names: tuple[str, ...]
    keypoint_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImagenetBackbone:
    """An ImageNet classifier without its last layer. state has the names of a detector's state_dict, `backbone.body.*`.

    label names the weights without an alias, such as "resnet50:IMAGENET1K_V2".
    """

    label: str
    state: dict[str, Tensor]
    norm_eps: float


def published_model(name: str, weights: str = "COCO_V1") -> PublishedModel:
    """`name` is a preset's name, `weights` a member of torchvision's weights enum of that model, such as "COCO_V1".

    The weights come from torch's hub cache, or are downloaded into it; either way the file is checked by its hash.
    Raises ValueError for an unknown model or weights, naming the known ones, and WeightsUnavailable.
    """
    if name not in PRESETS:
        known = f"known: {', '.join(sorted(PRESETS))}"
        raise ValueError(f"unknown model {name!r}; {did_you_mean(name, sorted(PRESETS), otherwise=known)}")
    entry = _entry(name, weights)
    changes: dict[str, object] = {"num_classes": len(entry.meta["categories"])}
    if name in LEGACY_EPS_WEIGHTS:
        changes["norm_eps"] = 0.0
    config = PRESETS[name].model_copy(update=changes)
    model = build_unfilled(config)
    model.load_state_dict(_state(entry), strict=True)
    keypoints = tuple(entry.meta.get("keypoint_names", ()))
    return PublishedModel(config, model.eval(), tuple(entry.meta["categories"][1:]), keypoints)


def imagenet_backbone(backbone: str, weights: str = "DEFAULT") -> ImagenetBackbone:
    """torchvision's classification weights of a backbone, such as "IMAGENET1K_V1"; DEFAULT is torchvision's newest.

    Raises ValueError for unknown weights, naming the known ones, and WeightsUnavailable.
    """
    entry = _entry(backbone, weights)
    mobile = backbone.startswith("mobilenet")
    prefix = "features." if mobile else ""
    state = {
        f"backbone.body.{name.removeprefix(prefix)}": value
        for name, value in _state(entry).items()
        if name.startswith(prefix) and not name.startswith("fc.")
    }
    return ImagenetBackbone(f"{backbone}:{entry.name}", state, MOBILENET_EPS if mobile else 1e-5)


def _entry(name: str, weights: str) -> Any:
    enum = torchvision.models.get_model_weights(name)
    if weights not in enum.__members__:
        known = list(enum.__members__)
        hint = did_you_mean(weights, known, otherwise=f"known: {', '.join(known)}")
        raise ValueError(f"torchvision publishes no weights {weights!r} for {name}; {hint}")
    return enum[weights]


def _state(entry: Any) -> dict[str, Tensor]:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(entry.url).path).name
    if file.is_file():
        _check(file)  # torch does so only while it downloads
    by_hand = f"download {entry.url} by other means and put the file at {file}"
    try:
        state: dict[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, HTTPException) as error:
        raise WeightsUnavailable(f"{entry.url} could not be downloaded ({error}); {by_hand}") from error
    except pickle.UnpicklingError as error:
        raise WeightsUnavailable(
            f"{file} holds something else than tensors, and no code of a file is run here; remove it, and {by_hand}"
        ) from error
    except RuntimeError as error:
        if "hash" not in str(error):
            raise
        raise WeightsUnavailable(
            f"{entry.url} was not received as published ({error}); try again, or {by_hand}"
        ) from error
    return state


def _check(file: Path) -> None:
    """The name of a published file ends in the beginning of its SHA-256."""
    expected = file.stem.rpartition("-")[2]
    with file.open("rb") as reader:
        digest = hashlib.file_digest(reader, "sha256").hexdigest()
    if not digest.startswith(expected):
        raise WeightsUnavailable(
            f"{file} is not the file that torchvision published: its SHA-256 begins with {digest[: len(expected)]} "
            f"instead of {expected}; delete it, and it is downloaded again"
        )
