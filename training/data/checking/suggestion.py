"""Which recipe and settings fit a dataset, as the command to train with.

What it goes by: the sizes of objects, in pixels of the images and as shares of them; how many images and objects there
are; what is annotated; whether pictures are gray or deep, as those of microscopes are.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from model.architecture import Task, has_keypoints
from training.command_line import load_recipe, parse_train_config
from training.config import TrainConfig, recipe_path
from training.data.annotations.dataset import Dataset
from training.data.annotations.keypoint_names import flip_pairs
from training.data.checking.advice import better_anchors, better_suppression, input_sizes
from training.data.checking.fingerprints import Fingerprint
from training.data.checking.statistics import Objects
from training.manual import as_argument

PHOTOS, SCRATCH, NUCLEI = "photos", "photos-scratch", "nuclei"
INPUTS: Final = (512, 640, 768, 896, 1024)
"""Longest sides of the network's input that photographs are given."""
SMALL_SHARE = 0.1
"""Share of the objects that may be smaller than the smallest anchor."""
CELL, MANY = 128, 20
"""Pixels of the largest objects (95 %), and objects in an image (median), from which an RGB picture is one of cells."""
WINDOW, WINDOW_MAX = 512, 1536
"""Side of the windows in which small objects of large pictures are trained, where the largest (95 %) fit into them too,
and the longest input that is served."""
PASSES: Final = {True: 12, False: 72}
"""How often each image is seen: from COCO's weights as in COCO's own 1x schedule, from scratch six times as often (He,
Girshick and Dollár, "Rethinking ImageNet Pre-training", 2019)."""
AT_LEAST: Final = {True: 4_000, False: 10_000}
"""Samples that small data are seen at least, from weights and from scratch: as many as the recipe nuclei takes."""


class Suggestion(BaseModel):
    """reasons: a sentence for each choice. flags: of `maskserve train`, word by word, but for those that name the data.
    alternative: the same from scratch, None where `flags` are that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reasons: tuple[str, ...]
    flags: tuple[str, ...]
    alternative: tuple[str, ...] | None

    @property
    def config(self) -> TrainConfig:
        """The configuration that the flags are."""
        return parse_train_config(self.flags)


@dataclass(frozen=True, slots=True, eq=False)
class _Facts:
    """What the split to train on and all splits say. sides: float64 [O], pixels of the images; shares: of their longest
    side. rivals: float64 [O], each object's best IoU with another of its class."""

    images: int
    most: int
    sides: NDArray[np.float64]
    shares: NDArray[np.float64]
    rivals: NDArray[np.float64]
    longest: float


def suggest(
    splits: Mapping[str, Dataset],
    objects: Mapping[str, Objects],
    prints: Sequence[Fingerprint],
    task: Task,
) -> Suggestion | None:
    """What to train with; None where there is nothing to train on. objects: `gather_objects` of each split; prints: of
    the images to train on."""
    if "train" not in objects or not len(objects["train"].image):
        return None
    train, data = objects["train"], splits["train"]
    # Of a mirror image, keypoints are true only where their names say which are left and right, or there is one.
    mirrored = not has_keypoints(task) or data.num_keypoints < 2 or bool(flip_pairs(data))
    longest = np.array([max(record.width, record.height) for record in data.images], np.float64)
    sides = np.sqrt(train.sizes.prod(axis=1))
    facts = _Facts(
        len(data),
        max(int(np.bincount(some.image).max()) for some in objects.values() if len(some.image)),
        sides,
        sides / longest[train.image],
        np.concatenate([some.best_same for some in objects.values()]),
        float(np.median(longest)),
    )
    if (reason := _cells(train, facts, prints, task)) is not None:
        flags, said = _flags(NUCLEI, splits, objects, facts, task, mirrored=mirrored)
        return Suggestion(reasons=(reason, *said), flags=flags, alternative=None)
    flags, said = _flags(PHOTOS, splits, objects, facts, task, mirrored=mirrored)
    scratch, _ = _flags(SCRATCH, splits, objects, facts, task, mirrored=mirrored)
    low, high = np.quantile(sides, (0.05, 0.95))
    reason = (
        f"the recipe {PHOTOS}, from COCO's weights: objects of {low:.0f} to {high:.0f} px (5 % to 95 %) in pictures "
        f"whose longest side is {facts.longest:.0f} px (median)"
    )
    return Suggestion(reasons=(reason, *said), flags=flags, alternative=scratch)


def _cells(train: Objects, facts: _Facts, prints: Sequence[Fingerprint], task: Task) -> str | None:
    """Why the recipe nuclei fits, if it does: it turns pictures around and keeps their scale."""
    large = float(np.quantile(facts.sides, 0.95))
    if has_keypoints(task) or large > CELL:
        return None
    gray = sum(one.mode in ("1", "L", "LA") or one.mode[0] in "IF" or one.applied is not None for one in prints)
    crowd = float(np.median(np.unique(train.image, return_counts=True)[1]))
    if gray <= len(prints) / 2 and crowd < MANY:
        return None
    kind = "gray or deep pictures" if gray > len(prints) / 2 else f"{crowd:.0f} objects in an image (median)"
    return f"the recipe {NUCLEI}, at the pictures' own scale: {kind}, objects of up to {large:.0f} px (95 %)"


def _flags(
    recipe: str,
    splits: Mapping[str, Dataset],
    objects: Mapping[str, Objects],
    facts: _Facts,
    task: Task,
    *,
    mirrored: bool,
) -> tuple[tuple[str, ...], list[str]]:
    """What to set with a recipe, and why."""
    config = TrainConfig.model_validate(load_recipe(recipe_path(recipe)))
    values: dict[str, object] = {}
    reasons: list[str] = []
    if task != config.architecture.task:
        values["architecture.task"] = task
    if has_keypoints(task) and recipe == PHOTOS:
        values["start_from"] = "keypointrcnn_resnet50_fpn:COCO_V1"
    if not mirrored:
        values["augment.horizontal_flip"] = 0.0
        reasons.append("no mirror images: the keypoints' names do not say left_ and right_")
    if recipe != NUCLEI:
        sizes, reason = _input(config, facts)
        values |= sizes
        reasons.append(reason)
    limits = {name.removeprefix("architecture."): value for name, value in values.items()}
    fields = type(config.architecture).model_fields
    architecture = config.architecture.model_copy(update={key: limits[key] for key in limits if key in fields})
    if facts.most > architecture.detections_per_image:
        room = 100 * math.ceil(1.2 * facts.most / 100)
        values |= {"architecture.detections_per_image": room, "validation.max_detections": room}
        reasons.append(f"room for {room} detections: an image has {facts.most} objects")
    found = np.concatenate([input_sizes(splits[name], some, architecture) for name, some in objects.items()])
    if (anchors := better_anchors(found, architecture)) is not None:
        values["architecture.anchor_sizes"] = anchors
        reasons.append("anchors of the objects' sizes at the network's input")
    if (threshold := better_suppression(facts.rivals, architecture)) is not None:
        values["architecture.box_nms_threshold"] = threshold
        reasons.append(f"suppression from a box IoU of {threshold:g}: neighbors of one class overlap")
    iterations, reason = _length(config, facts.images)
    every = max(1, iterations // 4)
    values |= {"schedule.iterations": iterations, "validation.every": every}
    reasons.append(reason)
    return ("--recipe", recipe, *_words(values)), reasons


def _input(config: TrainConfig, facts: _Facts) -> tuple[dict[str, object], str]:
    """How large photographs are to be seen: as small as their objects allow."""
    anchor = min(map(min, config.architecture.anchor_sizes))
    share = float(np.quantile(facts.shares, SMALL_SHARE))
    side = next((one for one in INPUTS if one * share >= anchor), INPUTS[-1])
    seen = share * side
    if seen < anchor / 2 and facts.longest > side and np.quantile(facts.sides, 0.95) <= WINDOW:
        values: dict[str, object] = {
            "architecture.allow_downscale": False,
            "architecture.min_size": WINDOW // 2,
            "architecture.max_size": WINDOW_MAX,
            "augment.crop": WINDOW,
            "augment.jitter": None,
            "augment.scale": (0.7, 1.4),
            "augment.crop_around": 0.5,
        }
        return values, (
            f"windows of {WINDOW} px at the pictures' own scale, for serving in tiles: a tenth of the objects would be "
            f"smaller than {seen:.0f} px at a longest side of {side}"
        )
    values = {"architecture.min_size": side, "architecture.max_size": side, "augment.crop": side}
    return values, (
        f"a longest side of {side} px at the network's input, where nine tenths of the objects are larger than "
        f"{seen:.0f} px a side"
    )


def _length(config: TrainConfig, images: int) -> tuple[int, str]:
    """Iterations of the recipe's steps, rounded up."""
    step = config.batch_size * config.accumulate
    started = config.start_from != "random"
    samples = max(PASSES[started] * images, AT_LEAST[started])
    digits = 50 if samples < 10_000 * step else 1_000
    iterations = digits * math.ceil(samples / step / digits)
    times = iterations * step / images
    return iterations, f"{iterations} iterations of {step} images: {images} images, each about {times:.0f} times"


def _words(values: Mapping[str, object]) -> Iterator[str]:
    for name, value in values.items():
        yield f"--{name}"
        yield from shlex.split(as_argument(value))
