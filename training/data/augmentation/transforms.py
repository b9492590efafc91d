"""A training image's way from the file to the network input: window, resize, flips, pasted objects, colors.

Geometry is decided before masks become pixels, so that a dense image never costs more memory than the window in use.
Randomness comes from torch's global generator, which the dataset seeds for each sample.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.architecture import ArchitectureConfig, has_keypoints, has_masks
from training.config import AugmentConfig
from training.data.annotations.records import Annotations
from training.data.augmentation.color import change_color
from training.data.augmentation.copy_paste import paste
from training.data.augmentation.draws import chance, integer, subset
from training.data.augmentation.geometry import (
    Sample,
    cut_window,
    drop_degenerate,
    horizontal_flip,
    reaching_into,
    tighten,
    transpose,
    vertical_flip,
)
from training.data.augmentation.windows import draw_view


class Stored(NamedTuple):
    """An image as stored, uint8 [H, W, C], and its annotations without crowd regions."""

    image: NDArray[np.uint8]
    annotations: Annotations


class Augmentation:
    """The training transform of a run. `flip_pairs` are indices of left/right keypoints that a mirror image swaps."""

    def __init__(
        self, config: AugmentConfig, architecture: ArchitectureConfig, flip_pairs: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.config = config
        self.architecture = architecture
        self.flip_pairs = flip_pairs

    def __call__(self, image: NDArray[np.uint8], annotations: Annotations, pasted: Stored | None = None) -> Sample:
        """image: uint8 [H, W, C]; `annotations` without crowd regions.

        Some objects of `pasted` are pasted over it, which needs a task with masks. Both get a geometry of their own;
        of two sizes, the smaller image lies anywhere inside the larger one.
        """
        sample = self._placed(Stored(image, annotations))
        if pasted is not None:
            other = self._placed(pasted, some=True)
            top, left = (
                integer(min(0, length - other_length), max(0, length - other_length))
                for length, other_length in zip(sample.image.shape[-2:], other.image.shape[-2:], strict=True)
            )
            sample = paste(sample, other, top, left)
        elif self.config.crop is not None and sample.masks is not None:
            sample = tighten(sample)
        return drop_degenerate(replace(sample, image=change_color(sample.image, self.config)))

    def _placed(self, stored: Stored, *, some: bool = False) -> Sample:
        """Cut, resized and flipped; with `some` only a random part of the objects that the window shows."""
        image, annotations = stored
        task = self.architecture.task
        if not has_keypoints(task):
            annotations = replace(annotations, keypoints=None)
        window, size = draw_view(self.config, self.architecture, (image.shape[0], image.shape[1]), annotations.boxes)
        if some:
            annotations = annotations.select(subset(reaching_into(annotations.boxes, window)))
        return self._flip(cut_window(image, annotations, window, size, with_masks=has_masks(task)))

    def _flip(self, sample: Sample) -> Sample:
        if chance(self.config.horizontal_flip):
            sample = horizontal_flip(sample, self.flip_pairs)
        if chance(self.config.vertical_flip):
            sample = vertical_flip(sample, self.flip_pairs)
        if chance(self.config.transpose):
            sample = transpose(sample, self.flip_pairs)
        return sample
