"""Which part of a training image is seen, and how large: drawn before a single mask becomes pixels."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.architecture import ArchitectureConfig
from model.runtime.images.picture import Size
from model.runtime.preprocess import Preprocessing
from training.config import AugmentConfig
from training.data.annotations.records import Window
from training.data.augmentation.draws import chance, integer, uniform


class View(NamedTuple):
    """window: the part (top, left, height, width) of an image, in its pixels. size: what that is resized to."""

    window: Window
    size: Size


def draw_view(config: AugmentConfig, architecture: ArchitectureConfig, size: Size, boxes: NDArray[np.float32]) -> View:
    """What a sample shows of an image of `size` with objects `boxes` [N, 4] xyxy."""
    if config.crop is None:
        return _whole(config, architecture, size)
    if config.jitter is not None:
        # Large-scale jitter (Ghiasi et al., Simple Copy-Paste, sec. 3): relative to the size that fits the square.
        scale = config.crop / max(size) * uniform(*config.jitter)
    else:
        low, high = config.scale
        scale = math.exp(uniform(math.log(low), math.log(high)))
    return _window(config, config.crop, scale, size, boxes)


def _whole(config: AugmentConfig, architecture: ArchitectureConfig, size: Size) -> View:
    preprocessing = Preprocessing.from_architecture(architecture)
    if config.min_sizes:
        choice = config.min_sizes[integer(0, len(config.min_sizes) - 1)]
        preprocessing = preprocessing.model_copy(update={"min_size": choice})
    return View((0, 0, *size), preprocessing.resized(size))


def _window(config: AugmentConfig, crop: int, scale: float, size: Size, boxes: NDArray[np.float32]) -> View:
    """A square that is `crop` wide after resizing, or what the image has of it: it is never padded here."""
    side = max(1, round(crop / scale))
    scale = crop / side  # of whole pixels, so that both directions are scaled alike and nothing exceeds the square
    height, width = (min(side, length) for length in size)
    middle: tuple[float, float] | None = None
    if chance(config.crop_around) and len(boxes) > 0:
        x1, y1, x2, y2 = boxes[integer(0, len(boxes) - 1)].tolist()
        middle = (y1 + y2) / 2, (x1 + x2) / 2
    top, left = (
        _start(length, part, None if middle is None else middle[axis])
        for axis, (length, part) in enumerate(zip(size, (height, width), strict=True))
    )
    return View((top, left, height, width), (max(1, round(height * scale)), max(1, round(width * scale))))


def _start(length: int, part: int, inside: float | None) -> int:
    """Where `part` of `length` pixels begins: anywhere, or so that the coordinate `inside` lies in it."""
    if inside is None:
        return integer(0, length - part)
    pixel = min(max(math.floor(inside), 0), length - 1)
    return integer(max(0, pixel - part + 1), min(pixel, length - part))
