"""One training sample: an image as stored, its objects, and the randomness of its number in the run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from model.runtime.images.decode import load_image
from model.runtime.images.errors import ImageError
from model.runtime.images.intensity import AUTO, Intensity
from training.data.annotations.dataset import Dataset
from training.data.annotations.records import LIMITS, ImageRecord
from training.data.augmentation.draws import chance, integer, mix
from training.data.augmentation.transforms import Augmentation, Stored


class UnreadableImage(Exception):
    """A training image that changed or broke after the data was checked; the message names it."""


def load_stored(record: ImageRecord, intensity: Intensity = AUTO) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB in the orientation that the annotations refer to; `intensity` is of what has more bits.

    Raises UnreadableImage naming the file when it cannot be decoded or has another size than its record says.
    """
    try:
        image = load_image(record.path, LIMITS, upright=False, intensity=intensity)
    except (OSError, ImageError) as error:
        raise UnreadableImage(f"{record.path}: {error}") from error
    if image.shape[:2] != (record.height, record.width):
        raise UnreadableImage(
            f"{record.path} is {image.shape[1]}x{image.shape[0]} pixels, its record says {record.width}x{record.height}"
        )
    return image


class Draw(NamedTuple):
    """One drawn sample: its number in the run, and the image."""

    position: int
    image: int


class TrainingSet(TorchDataset[tuple[Tensor, dict[str, Tensor], str]]):
    """Images of a dataset, augmented; crowd regions are left out, as in the paper's training."""

    def __init__(self, data: Dataset, augmentation: Augmentation, seed: int, intensity: Intensity = AUTO) -> None:
        self.data = data
        self.augmentation = augmentation
        self.seed = seed
        self.intensity = intensity

    def __getitem__(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor], str]:
        """image: uint8 [3, H, W]; its target, a dict of `Sample.target`; and the files it is made of, for messages."""
        first = self._stored(draw.image)
        name = self.data.images[draw.image].path.name
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix((self.seed, draw.position)))
            pasted = None
            if chance(self.augmentation.config.copy_paste):
                second = integer(0, len(self.data) - 1)
                if not self.data.annotations[second].crowd.all():  # else it has nothing that could be pasted
                    pasted = self._stored(second)
                    name += f" with {self.data.images[second].path.name}"
            sample = self.augmentation(*first, pasted)
        return sample.image.contiguous(), sample.target(), name

    def _stored(self, image: int) -> Stored:
        annotations = self.data.annotations[image]
        stored = load_stored(self.data.images[image], self.intensity)
        return Stored(stored, annotations.select(~annotations.crowd))
