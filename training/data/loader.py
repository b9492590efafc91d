"""Batches for training: which images, in which order, with which randomness.

Everything about sample number p follows from (seed, p) alone. A resumed run therefore sees exactly the images and the
augmentations that the uninterrupted run would have seen, however many worker processes load them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from model.runtime.images import ImageError, ImageLimits, load_image
from training.data.coco import CocoData, ImageRecord
from training.data.transforms import Augmentation

TRAINING_LIMITS = ImageLimits(max_pixels=500_000_000)
"""A user's own training images are trusted further than uploads."""

ASPECT_SPLIT = (0.5, 1.0, 2.0)
"""Width / height borders between aspect-ratio groups: portrait and landscape images never pad each other."""


class UnreadableImage(Exception):
    """A training image that changed or broke after the data was checked; the message names it."""


def load_stored(record: ImageRecord) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB in the orientation that the annotations refer to.

    Raises UnreadableImage naming the file when it cannot be decoded or has another size than its record says.
    """
    try:
        image = load_image(record.path, TRAINING_LIMITS, upright=False)
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


class Batch(NamedTuple):
    """images: B uint8 tensors [3, H_i, W_i]; targets: B torchvision target dicts; names: B file names, for messages."""

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    names: list[str]


class TrainingSet(Dataset[tuple[Tensor, dict[str, Tensor], str]]):
    """Images of a dataset, augmented; crowd regions are left out, as in the paper's training."""

    def __init__(self, data: CocoData, augmentation: Augmentation, seed: int) -> None:
        self.data = data
        self.augmentation = augmentation
        self.seed = seed

    def __getitem__(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor], str]:
        record, annotations = self.data.images[draw.image], self.data.annotations[draw.image]
        image = load_stored(record)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mix(self.seed, draw.position))
            sample = self.augmentation(image, annotations.select(~annotations.crowd))
        return sample.image.contiguous(), sample.target(), record.path.name


class GroupedBatches(Sampler[list[Draw]]):
    """Endless batches of `batch_size` draws, all from one aspect-ratio group; each image once an epoch.

    aspect_ratios: width / height of every image. `skip` batches are passed over without loading anything.
    """

    def __init__(self, aspect_ratios: Sequence[float], batch_size: int, seed: int, skip: int, count: int) -> None:
        self.groups = np.digitize(np.asarray(aspect_ratios), ASPECT_SPLIT)
        self.batch_size, self.seed, self.skip, self.count = batch_size, seed, skip, count

    def __len__(self) -> int:
        return max(0, self.count - self.skip)

    def __iter__(self) -> Iterator[list[Draw]]:
        for number, batch in enumerate(self._all()):
            if number >= self.count:
                return
            if number >= self.skip:
                yield batch

    def _all(self) -> Iterator[list[Draw]]:
        waiting: dict[int, list[Draw]] = {}
        position = epoch = 0
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.groups))
            for image in order.tolist():
                group = waiting.setdefault(int(self.groups[image]), [])
                group.append(Draw(position, image))
                position += 1
                if len(group) == self.batch_size:
                    yield list(group)
                    group.clear()
            epoch += 1


def make_loader(
    dataset: TrainingSet, *, batch_size: int, workers: int, skip: int, count: int, same_size: bool, pin: bool
) -> DataLoader[Batch]:
    """Batches number `skip` to `count` of the run. `same_size`: every sample has one size, so grouping is pointless."""
    ratios = [1.0 if same_size else record.width / record.height for record in dataset.data.images]
    sampler = GroupedBatches(ratios, batch_size, dataset.seed, skip, count)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # else it draws from the global one, and a resumed run would not be the same
    )
    return loader


def _collate(samples: list[tuple[Tensor, dict[str, Tensor], str]]) -> Batch:
    images, targets, names = zip(*samples, strict=True)
    return Batch(list(images), list(targets), list(names))


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)  # the cores belong to the training process


def _mix(seed: int, position: int) -> int:
    return int(np.random.SeedSequence([seed, position]).generate_state(1, np.uint64)[0]) & 0x7FFF_FFFF_FFFF_FFFF
