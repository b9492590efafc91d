"""One training sample: an image as stored, its objects, and the randomness of its number in the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from model.runtime.images.channels import RGB_CHANNELS
from model.runtime.images.decode import load_image
from model.runtime.images.errors import ImageError
from model.runtime.images.picture import Size
from model.runtime.images.planes import PlaneChoice
from model.runtime.images.values.intensity import AUTO, Intensity
from model.runtime.preprocess import Prepared, Preprocessing, prepare_file
from training.data.annotations.dataset import Dataset
from training.data.annotations.records import LIMITS, ImageRecord
from training.data.augmentation.draws import chance, integer, mix
from training.data.augmentation.transforms import Augmentation, Stored

OnBroken = Literal["stop", "skip"]
"""Broken records: stop at them, or go on without them."""


class UnreadableImage(Exception):
    """An image that cannot be decoded, or has changed since the data was checked; the message names it."""


def load_stored(record: ImageRecord, intensity: Intensity = AUTO, channels: int = RGB_CHANNELS) -> NDArray[np.uint8]:
    """uint8 [H, W, channels] in the orientation that the annotations refer to; `intensity` is of what has more bits.

    Always decoded in full: what training cuts out of the image, and how far that shrinks, is drawn later.

    Raises UnreadableImage naming the file when it cannot be decoded, or has another size than its record says or other
    channels than those.
    """
    choice = PlaneChoice(inputs=channels)
    with _named(record):
        image = load_image(record.path, LIMITS, upright=False, intensity=intensity, choice=choice)
    _check_size(record, (image.shape[0], image.shape[1]))
    return image


def load_prepared(record: ImageRecord, preprocessing: Preprocessing) -> Prepared:
    """The image as a server gives it to the network, but in the orientation that the annotations refer to.

    Raises UnreadableImage as `load_stored`.
    """
    with _named(record):
        prepared = prepare_file(record.path.read_bytes(), preprocessing, LIMITS, upright=False)
    _check_size(record, prepared.original)
    return prepared


@contextmanager
def _named(record: ImageRecord) -> Iterator[None]:
    try:
        yield
    except (OSError, ImageError) as error:
        raise UnreadableImage(f"{record.path}: {error}") from error


def _check_size(record: ImageRecord, size: Size) -> None:
    if size != (record.height, record.width):
        raise UnreadableImage(
            f"{record.path} is {size[1]}x{size[0]} pixels, its record says {record.width}x{record.height}"
        )


class Draw(NamedTuple):
    """One drawn sample: its number in the run, and the image."""

    position: int
    image: int


class Drawn(NamedTuple):
    """A drawn sample. image: uint8 [C, H, W]. target: a dict of `Sample.target`. name: the files that it is made of,
    for messages. left_out: why others were not taken."""

    image: Tensor
    target: dict[str, Tensor]
    name: str
    left_out: tuple[str, ...] = ()


def readable_images(
    records: Iterable[ImageRecord], intensity: Intensity, on_broken: OnBroken, channels: int = RGB_CHANNELS
) -> Iterator[NDArray[np.uint8]]:
    """`load_stored` of each, without those that cannot be decoded where these are to be skipped."""
    for record in records:
        try:
            yield load_stored(record, intensity, channels)
        except UnreadableImage:
            if on_broken == "stop":
                raise


class TrainingSet(TorchDataset[Drawn]):
    """Images of a dataset, augmented; crowd regions are left out, as in the paper's training.

    With on_broken "skip", the next image that can be decoded takes the place of one that cannot: always the same, so
    that a run that is started again stays the same.
    """

    def __init__(
        self,
        data: Dataset,
        augmentation: Augmentation,
        seed: int,
        intensity: Intensity = AUTO,
        on_broken: OnBroken = "stop",
    ) -> None:
        self.data = data
        self.augmentation = augmentation
        self.seed = seed
        self.intensity = intensity
        self.on_broken = on_broken

    def __getitem__(self, draw: Draw) -> Drawn:
        """Raises UnreadableImage where an image cannot be decoded, with on_broken "skip" where none can."""
        left_out: list[str] = []
        first, name = self._stored(draw.image, left_out)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix((self.seed, draw.position)))
            pasted = None
            if chance(self.augmentation.config.copy_paste):
                second = integer(0, len(self.data) - 1)
                if not self.data.annotations[second].crowd.all():  # else it has nothing that could be pasted
                    pasted, other = self._stored(second, left_out)
                    name += f" with {other}"
            sample = self.augmentation(*first, pasted)
        return Drawn(sample.image.contiguous(), sample.target(), name, tuple(left_out))

    def _stored(self, image: int, left_out: list[str]) -> tuple[Stored, str]:
        """An image, or the next that can be decoded, and its file's name."""
        for number in range(len(self.data)):
            row = (image + number) % len(self.data)
            record, annotations = self.data.images[row], self.data.annotations[row]
            try:
                pixels = load_stored(record, self.intensity, self.augmentation.architecture.channels)
            except UnreadableImage as error:
                if self.on_broken == "stop":
                    raise
                left_out.append(str(error))
                continue
            return Stored(pixels, annotations.select(~annotations.crowd)), record.path.name
        raise UnreadableImage(f"none of the {len(self.data)} images can be decoded, the first: {left_out[0]}")
