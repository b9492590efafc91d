"""Batches for training: which images, in which order, with which randomness.

Everything about sample number p follows from (seed, p) alone. A resumed run therefore sees exactly the images and the
augmentations that the uninterrupted run would have seen, however many worker processes load them.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from training.data.loading.samples import Draw, Drawn, TrainingSet

MOST_WORKERS = 8
"""Of a training process by rule. A core loads some 77 images of COCO a second (docs/training.md): more would only take
memory."""

ASPECT_SPLIT = (0.5, 1.0, 2.0)
"""Width / height borders between aspect-ratio groups: portrait and landscape images never pad each other."""


class Batch(NamedTuple):
    """images: B uint8 tensors [C, H_i, W_i]; targets: B torchvision target dicts; names: B file names, for messages;
    left_out: why images were not taken, whose places others have."""

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    names: list[str]
    left_out: Sequence[str] = ()


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


class Share(NamedTuple):
    """A process's part of every step: process `rank` of `processes`, in `passes` passes."""

    rank: int = 0
    processes: int = 1
    passes: int = 1

    def first(self, number: int, batch_size: int) -> int:
        """Where, in the step's images, this process's batch of pass `number` begins."""
        return (number * self.processes + self.rank) * batch_size


class SharedBatches(Sampler[list[Draw]]):
    """One process's batches out of a step's, pass after pass: all processes together see each step's images once."""

    def __init__(self, steps: GroupedBatches, share: Share) -> None:
        self.steps, self.share = steps, share

    def __len__(self) -> int:
        return len(self.steps) * self.share.passes

    def __iter__(self) -> Iterator[list[Draw]]:
        size = self.steps.batch_size // (self.share.processes * self.share.passes)
        for step in self.steps:
            for number in range(self.share.passes):
                first = self.share.first(number, size)
                yield step[first : first + size]


WHOLE = Share()


def workers_by_rule(on_gpu: bool, processes: int, cores: int) -> int:
    """How many processes load images for each of a machine's training `processes`.

    On a CPU one, for the cores belong to training. On GPUs each process's share of the cores but the one that feeds its
    GPU, from 1 to MOST_WORKERS.
    """
    return min(MOST_WORKERS, max(1, cores // processes - 1)) if on_gpu else 1


def make_loader(
    dataset: TrainingSet,
    *,
    batch_size: int,
    workers: int,
    skip: int,
    count: int,
    same_size: bool,
    pin: bool,
    share: Share = WHOLE,
) -> DataLoader[Batch]:
    """Batches of steps number `skip` to `count` of the run, `share.passes` of `batch_size` images for each step.

    A step's images are drawn together, from one aspect-ratio group: they are the same however they are shared out.
    `same_size`: every sample has one size, so grouping is pointless. The whole run is one epoch, so that workers stay
    to its end. `pin`: batches come in memory that a GPU reads by itself.
    """
    ratios = [1.0 if same_size else record.width / record.height for record in dataset.data.images]
    step_size = batch_size * share.processes * share.passes
    sampler = SharedBatches(GroupedBatches(ratios, step_size, dataset.seed, skip, count), share)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        multiprocessing_context="spawn" if workers else None,
        # Batches that each has ready, in /dev/shm: many workers need fewer each.
        prefetch_factor=(4 if workers <= 2 else 2) if workers else None,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # else it draws from the global one, and a resumed run would not be the same
    )
    return loader


def _collate(samples: list[Drawn]) -> Batch:
    images, targets, names, left_out = zip(*samples, strict=True)
    return Batch(list(images), list(targets), list(names), [line for lines in left_out for line in lines])


def _begin_worker(_worker: int) -> None:
    torch.set_num_threads(1)  # the cores belong to the training process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all, and the training process needs what is loaded
