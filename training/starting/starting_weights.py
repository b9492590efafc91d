"""Reads the weights that `start_from` names, whatever they come in, under a detector's names of today.

Nothing is run that a file contains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from model.architecture import PRESETS, ArchitectureConfig
from model.console.arguments import did_you_mean, nearest_path
from model.network.published import imagenet_backbone, published_model
from model.network.weights import COUNTER, load_network
from model.runtime.bundles.bundle import BundleError, open_bundle
from training.checkpoint import CheckpointError, as_checkpoint, is_checkpoint
from training.config import TrainConfig
from training.starting.state_files import StateFileError, network_state, read_file

FILES: Final = (".pt", ".pth", ".ckpt", ".bin", ".tar")
"""Suffixes of files that `torch.save` wrote; what is there is read whatever its suffix."""

# Fields that change what the weights mean, but not their shapes.
_MEANING: Final = ("norm_eps", "image_mean", "image_std", "anchor_sizes", "anchor_aspect_ratios")

# Names that torchvision's modules had before they took normalization layers, and today's.
_OLD_NAMES: Final = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
)
_OLD_MASK_NAME: Final = re.compile(r"^roi_heads\.mask_head\.mask_fcn([1-9]\d*)\.(weight|bias)$")


class StartError(ValueError):
    """Weights that cannot start this run. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class StartingWeights:
    """state is under a detector's names, without batch norm's counters. kind describes the network to people.

    class_names (labels 1..C) and keypoint_names are None where the weights do not say. settings are the fields of the
    architecture that the weights were trained with and that no shape shows, as far as they are known.
    """

    label: str
    state: Mapping[str, Tensor]
    kind: str
    class_names: Sequence[str] | None = None
    keypoint_names: Sequence[str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_starting_weights(config: TrainConfig) -> StartingWeights:
    """The weights that `config.start_from` names; "random" has none.

    Raises StartError, or ValueError where torchvision's weights are unknown or cannot be had.
    """
    choice = config.start_from
    name, _, weights = choice.partition(":")
    path = Path(choice).expanduser()
    if name == "imagenet":
        backbone = imagenet_backbone(config.architecture.backbone, weights or "DEFAULT")
        return StartingWeights(
            f"ImageNet ({backbone.label})",
            _without_counters(backbone.state),
            f"{config.architecture.backbone}, batch_norm",
            settings={"norm_eps": backbone.norm_eps},
        )
    if name in PRESETS:
        published = published_model(name, weights or "COCO_V1")
        return _described(
            f"{name}:{weights or 'COCO_V1'}",
            published.model.state_dict(),
            published.architecture,
            published.class_names,
            published.keypoint_names,
        )
    if path.is_dir():
        try:
            bundle = open_bundle(path)
            state = load_network(bundle).state_dict()
        except BundleError as error:
            raise StartError(f"start_from: {error}") from error
        manifest = bundle.manifest
        return _described(
            f"the bundle {path}", state, manifest.architecture, manifest.class_names, manifest.keypoint_names
        )
    if path.is_file():
        return _of_file(path)
    if path.suffix in FILES:
        raise StartError(f"start_from: no file {path}{nearest_path(path)}")
    others = (
        f"give random, imagenet, torchvision's NAME:WEIGHTS (NAME: {', '.join(PRESETS)}), a checkpoint FILE.pt, the "
        f"FILE.pth of a state_dict or another program's checkpoint, or a bundle's folder NAME/VERSION"
    )
    hint = did_you_mean(name, ["random", "imagenet", *PRESETS], otherwise=others)
    raise StartError(f"start_from {choice!r} is nothing known and no folder here: {hint}")


def _of_file(path: Path) -> StartingWeights:
    """The weights of a checkpoint of ours, which names its classes, or of any file with a network's tensors."""
    try:
        content = read_file(path)
        if not is_checkpoint(content):
            place, state = network_state(content, path)
            where = f"the state_dict {path}" if not place else f"the state_dict {place!r} in {path}"
            names = {_todays_name(name): tensor for name, tensor in state.items()}
            return StartingWeights(where, _without_counters(names), "a network that is not named in the file")
        checkpoint = as_checkpoint(content, path)
    except (StateFileError, CheckpointError) as error:
        raise StartError(f"start_from: {error}") from error
    return _described(
        f"the checkpoint {path}",
        checkpoint.published_state,
        checkpoint.train_config().architecture,
        checkpoint.class_names,
        checkpoint.keypoint_names,
    )


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith(COUNTER)}


def _todays_name(name: str) -> str:
    if match := _OLD_MASK_NAME.match(name):
        return f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
    for pattern, replacement in _OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _described(
    label: str,
    state: Mapping[str, Tensor],
    architecture: ArchitectureConfig,
    class_names: Sequence[str],
    keypoint_names: Sequence[str],
) -> StartingWeights:
    settings = {name: getattr(architecture, name) for name in _MEANING}
    return StartingWeights(
        label, _without_counters(state), describe_network(architecture), class_names, keypoint_names, settings
    )


def describe_network(architecture: ArchitectureConfig) -> str:
    """What decides whether weights fit, for people."""
    return (
        f"{architecture.torchvision_class} {architecture.backbone}, {architecture.norm}, "
        f"{architecture.fpn_channels} FPN channels"
    )
