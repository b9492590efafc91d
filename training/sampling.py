"""Which anchors and RoIs a network learns from: drawn for each image by itself, and counted.

torchvision draws them from the global generator, one image after the other, so the draws for an image depend on the
images before it. Here they follow from a seed of each image: a batch split over passes or processes, or a run resumed
in another process, has the draws of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from model.network.build import Detector
from training.data.draws import mix

Seed = tuple[int, ...]
"""Numbers that name an image in a run."""


class _Sampler(Protocol):
    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]: ...


class ImageSampler:
    """Takes the place of torchvision's sampler of positive and negative anchors or RoIs.

    `sampled` and `positive` count what was drawn since `begin`.
    """

    def __init__(self, sampler: _Sampler) -> None:
        self._sampler = sampler
        self.begin(())

    def begin(self, seeds: Sequence[Seed]) -> None:
        """The seeds of the images of the batch that comes next, in its order."""
        self._seeds = seeds
        self.sampled: int | Tensor = 0
        self.positive: int | Tensor = 0

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """matched_idxs: of each image, 1 and more for a positive, 0 for a negative, less for what must not be drawn.

        Returns, of each image, masks of the drawn positives and of the drawn negatives.
        """
        positives: list[Tensor] = []
        negatives: list[Tensor] = []
        device = matched_idxs[0].device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for labels, seed in zip(matched_idxs, self._seeds, strict=True):
                torch.manual_seed(mix(seed))
                [positive], [negative] = self._sampler([labels])
                positives.append(positive)
                negatives.append(negative)
        # Left on the device: to read them here would make every step wait for the GPU.
        drawn = torch.cat(positives).sum()
        self.positive = self.positive + drawn
        self.sampled = self.sampled + drawn + torch.cat(negatives).sum()
        return positives, negatives


def sample_by_image(model: Detector) -> None:
    """From now on `model` draws by image; call `begin_batch` before every forward pass with targets."""
    model.rpn.fg_bg_sampler = ImageSampler(model.rpn.fg_bg_sampler)
    model.roi_heads.fg_bg_sampler = ImageSampler(model.roi_heads.fg_bg_sampler)


def begin_batch(model: Detector, seeds: Sequence[Seed]) -> None:
    """Seeds the draws for the images of the next batch."""
    for number, part in enumerate((model.rpn, model.roi_heads)):
        part.fg_bg_sampler.begin([(*seed, number) for seed in seeds])


def loss_counts(model: Detector, names: Sequence[str]) -> list[int]:
    """What each loss of the last batch is a mean over: its anchors, its RoIs, or its positive RoIs.

    The keypoint loss is a mean over the visible keypoints of the positive RoIs; these RoIs stand for them.
    """
    rpn, heads = model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler
    counts = {
        "loss_objectness": rpn.sampled,
        "loss_rpn_box_reg": rpn.sampled,
        "loss_classifier": heads.sampled,
        "loss_box_reg": heads.sampled,
        "loss_mask": heads.positive,
        "loss_keypoint": heads.positive,
    }
    return [int(counts[name]) for name in names]
