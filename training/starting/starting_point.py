"""The weights that a run starts from: `start_from` and `class_map` of its configuration.

What agrees by name and shape is taken over. In the layers that have a part for each class, the parts go where their
class went; everything else stays fresh. The report says which is which.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from model.architecture import ArchitectureConfig
from model.network.build import FINE_POOL_SIZE, Detector
from model.network.first_convolution import FIRST_WEIGHTS, adapted
from model.network.weights import COUNTER
from training.config import TrainConfig
from training.starting.starting_weights import StartError, StartingWeights, describe_network, read_starting_weights

BACKBONE: Final = "backbone.body."

ENOUGH: Final = 0.9
"""Share of the larger backbone's tensors that must agree: with fewer it is some other network, deeper or not."""


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Parts of one head: kept is (name in this run, name in the weights), in the run's order; fresh have none there."""

    head: str
    kept: tuple[tuple[str, str], ...]
    fresh: tuple[str, ...]

    def line(self) -> str:
        """For the log: a name stands alone where both are equal."""
        kept = ", ".join(new if new == old else f"{new} (from {old})" for new, old in self.kept)
        return f"{self.head}: kept {kept or 'nothing'}" + (f"; fresh {', '.join(self.fresh)}" if self.fresh else "")


@dataclass(frozen=True, slots=True)
class StartReport:
    """What a run starts from: `loaded` of its `total` tensors, some of these by their classes' parts (`heads`).

    fresh names the modules that keep their random weights, and why; unused the modules of the weights that the run does
    not have. notes are further lines, such as settings that the weights were trained with and the run has not.
    """

    source: str
    loaded: int = 0
    total: int = 0
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    heads: tuple[HeadRows, ...] = ()
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For the log, the most important first."""
        if not self.total:
            return [f"starting from {self.source} weights", *self.notes]
        return [
            f"starting from {self.source}: {self.loaded} of {self.total} tensors",
            *self.notes,
            *(head.line() for head in self.heads),
            *(f"fresh: {text}" for text in self.fresh),
            *([f"not used: {', '.join(self.unused)}"] if self.unused else []),
        ]


@dataclass(frozen=True, slots=True)
class _Parts:
    """Pairs (index in this run, index in the weights) of a layer's parts, with their names."""

    pairs: tuple[tuple[int, int], ...]
    kept: tuple[tuple[str, str], ...]
    fresh: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer with `size` rows for each class or keypoint, along the dimension `weight_dim` of its weight."""

    name: str
    size: int = 1
    weight_dim: int = 0
    keypoints: bool = False

    def dim(self, name: str) -> int:
        """Along which dimension of the weight or bias `name` the rows lie."""
        return self.weight_dim if name.endswith("weight") else 0


_CLASS_LAYERS: Final = (
    _Layer("roi_heads.box_predictor.cls_score"),
    _Layer("roi_heads.box_predictor.bbox_pred", size=4),
    _Layer("roi_heads.mask_predictor.mask_fcn_logits"),
    _Layer("roi_heads.mask_predictor.mask_fc_logits", size=(2 * FINE_POOL_SIZE) ** 2),
    _Layer("roi_heads.keypoint_predictor.kps_score_lowres", weight_dim=1, keypoints=True),
)


def load_starting_point(
    model: Detector, config: TrainConfig, class_names: Sequence[str], keypoint_names: Sequence[str]
) -> StartReport:
    """Fills `model`, freshly built from `config.architecture`, with the weights of `config.start_from`, in place.

    class_names are those of the run's labels 1..C, keypoint_names its keypoints' (empty but for keypoint models).
    Nothing is run that a file contains. Raises StartError, or ValueError where torchvision's weights cannot be had.
    """
    unknown = sorted(set(config.class_map) - set(class_names))
    if unknown:
        raise StartError(
            f"class_map has {_quoted(unknown)}, which the data has not; its classes: {', '.join(class_names)}"
        )
    if config.start_from == "random":
        return StartReport("random", notes=_unused_map(config))
    source = read_starting_weights(config)
    if config.architecture.features == "c4":
        source = replace(source, state=_fifth_stage_in_heads(source.state, config.architecture))
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    source, adapted_note = _with_channels(source, state)
    _require_same_backbone(source, state, config.architecture)
    classes = _class_parts(source, class_names, config.class_map)
    keypoints = _keypoint_parts(source, keypoint_names)

    layers = {
        f"{layer.name}.{kind}": layer
        for layer in _CLASS_LAYERS
        for kind in ("weight", "bias")
        if not _is_one_for_all(layer, state)
    }
    loaded, fresh = 0, Counter[str]()
    heads: dict[str, HeadRows] = {}
    with torch.no_grad():
        for name, target in state.items():
            weights, layer = source.state.get(name), layers.get(name)
            if weights is None:
                fresh[f"{_module(name)}, not in these weights"] += 1
            elif not (
                weights.shape == target.shape
                if layer is None
                else _fits(layer, state, source.state) and not _is_one_for_all(layer, source.state)
            ):
                fresh[f"{_module(name)}, of another shape in these weights"] += 1
            elif layer is None:
                target.copy_(weights)
                loaded += 1
            else:
                parts = keypoints if layer.keypoints else classes
                heads[_module(name)] = HeadRows(_module(name), parts.kept, parts.fresh)
                _copy_parts(target, weights, layer.dim(name), layer.size, parts.pairs)
                loaded += bool(parts.pairs)
    return StartReport(
        source=source.label,
        loaded=loaded,
        total=len(state),
        fresh=tuple(f"{count} tensors of {module}" for module, count in fresh.items()),
        unused=tuple(sorted({_module(name) for name in source.state} - {_module(name) for name in state})),
        heads=tuple(heads.values()),
        notes=(*adapted_note, *_notes(source, config.architecture), *(_unused_map(config) if not heads else ())),
    )


def _with_channels(source: StartingWeights, state: Mapping[str, Tensor]) -> tuple[StartingWeights, tuple[str, ...]]:
    """The weights with a first convolution for the run's channels, and what is to be said of it."""
    for name in FIRST_WEIGHTS:
        ours, theirs = state.get(name), source.state.get(name)
        if ours is None or theirs is None or theirs.ndim != 4 or ours.shape[1] == theirs.shape[1]:
            continue
        note = f"the first convolution, of {theirs.shape[1]} channels there, is adapted to {ours.shape[1]}"
        fitting = {**source.state, name: adapted(theirs, ours.shape[1])}
        settings = {key: value for key, value in source.settings.items() if key not in ("image_mean", "image_std")}
        return replace(source, state=fitting, settings=settings), (note,)
    return source, ()


def _fifth_stage_in_heads(state: Mapping[str, Tensor], architecture: ArchitectureConfig) -> dict[str, Tensor]:
    """With the ResNet's fifth stage where a C4 model has it: in its heads."""
    stage = f"{BACKBONE}layer4."
    heads = ["roi_heads.box_head.layer4."] + ["roi_heads.mask_head.layer4."] * architecture.has_masks
    moved = {head + name.removeprefix(stage): value for name, value in state.items() for head in heads if stage in name}
    return {name: value for name, value in state.items() if stage not in name} | moved


def _is_one_for_all(layer: _Layer, state: Mapping[str, Tensor]) -> bool:
    """Whether a class's layer has rows for one class alone: class-agnostic masks."""
    weight = state.get(f"{layer.name}.weight")
    return not layer.keypoints and weight is not None and weight.shape[layer.weight_dim] == layer.size


def _require_same_backbone(
    source: StartingWeights, state: Mapping[str, Tensor], architecture: ArchitectureConfig
) -> None:
    ours, theirs = ({name for name in names if name.startswith(BACKBONE)} for names in (state, source.state))
    if ours and theirs and _is_batch_normalized(ours) != _is_batch_normalized(theirs):
        wanted = "batch_norm or frozen_batch_norm" if _is_batch_normalized(theirs) else "group_norm"
        raise StartError(
            f"the backbone of {source.label} is normalized otherwise than the run's, which has {architecture.norm}: "
            f"its convolutions would not fit; set --architecture.norm {wanted}"
        )
    found = sum(source.state[name].shape == state[name].shape for name in ours & theirs)
    if found < ENOUGH * max(len(ours), len(theirs)):
        raise StartError(
            f"{source.label} is of another network: of the backbone, {len(ours)} tensors in this run and {len(theirs)} "
            f"there, {found} agree. The weights are of {source.kind}; the run has {describe_network(architecture)}. "
            f"Change --start_from or --architecture.backbone"
        )


def _is_batch_normalized(names: Iterable[str]) -> bool:
    return any(name.endswith("running_mean") for name in names)


def _class_parts(source: StartingWeights, names: Sequence[str], class_map: Mapping[str, str]) -> _Parts:
    """Labels of the run and the weights that mean the same. The background, label 0, always does."""
    parts = [("background", 0)]
    if source.class_names is None:
        scores = source.state.get("roi_heads.box_predictor.cls_score.bias")
        if class_map and scores is not None:
            raise StartError(f"class_map cannot be used: {source.label} does not name its classes; start from a bundle")
        theirs = 0 if scores is None else len(scores)
        if theirs == len(names) + 1:
            return _by_position(("background", *names))
        return _Parts(((0, 0),), tuple((name, name) for name, _ in parts), tuple(names))
    index: dict[str, int] = {}
    for label, name in enumerate(source.class_names, 1):
        index.setdefault(_plain(name), label)
    missing = sorted({old for old in class_map.values() if _plain(old) not in index})
    if missing:
        raise StartError(
            f"class_map takes {_quoted(missing)}, which {source.label} has not; its classes: "
            f"{', '.join(source.class_names)}"
        )
    found = [(label, index.get(_plain(class_map.get(name, name)))) for label, name in enumerate(names, 1)]
    pairs = tuple((label, old) for label, old in found if old is not None)
    kept = tuple((names[label - 1], source.class_names[old - 1]) for label, old in pairs)
    return _Parts(
        ((0, 0), *pairs),
        (("background", "background"), *kept),
        tuple(names[label - 1] for label, old in found if old is None),
    )


def _keypoint_parts(source: StartingWeights, names: Sequence[str]) -> _Parts:
    if source.keypoint_names is None:
        heatmaps = source.state.get("roi_heads.keypoint_predictor.kps_score_lowres.bias")
        same = heatmaps is not None and len(heatmaps) == len(names)
        return _by_position(names) if same else _Parts((), (), tuple(names))
    index = {_plain(name): position for position, name in enumerate(source.keypoint_names)}
    found = [(position, index.get(_plain(name))) for position, name in enumerate(names)]
    pairs = tuple((position, old) for position, old in found if old is not None)
    return _Parts(
        pairs,
        tuple((names[position], source.keypoint_names[old]) for position, old in pairs),
        tuple(names[position] for position, old in found if old is None),
    )


def _by_position(names: Sequence[str]) -> _Parts:
    pairs = tuple((position, position) for position in range(len(names)))
    return _Parts(pairs, tuple((name, f"number {position}") for position, name in enumerate(names)), ())


def _copy_parts(target: Tensor, weights: Tensor, dim: int, size: int, pairs: Iterable[tuple[int, int]]) -> None:
    for new, old in pairs:
        target.narrow(dim, new * size, size).copy_(weights.narrow(dim, old * size, size))


def _fits(layer: _Layer, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Whether the weights agree but for the number of rows. A bias means nothing without its weight."""
    weight = f"{layer.name}.weight"
    if weight not in theirs:
        return False
    shapes = [list(state[weight].shape) for state in (ours, theirs)]
    for shape in shapes:
        shape[layer.weight_dim : layer.weight_dim + 1] = []
    return shapes[0] == shapes[1]


def _notes(source: StartingWeights, architecture: ArchitectureConfig) -> tuple[str, ...]:
    lines = []
    for name, theirs in source.settings.items():
        ours = getattr(architecture, name)
        if ours != theirs:
            lines.append(
                f"warning: these weights were trained with {name} {json.dumps(theirs)} and this run has "
                f"{json.dumps(ours)}; to train with theirs: --architecture.{name} '{json.dumps(theirs)}'"
            )
    return tuple(lines)


def _unused_map(config: TrainConfig) -> tuple[str, ...]:
    return (f"class_map is not used: {config.start_from} has no classes",) if config.class_map else ()


def _module(name: str) -> str:
    """The head or stage that a tensor belongs to: the first two parts of its name."""
    return ".".join(name.split(".")[:2])


def _plain(name: str) -> str:
    """Class names are compared without case, and with underscores and hyphens as spaces."""
    return " ".join(re.sub(r"[_-]", " ", name).casefold().split())


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
