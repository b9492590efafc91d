"""Which anchors and RoIs a network learns from: drawn for each image by itself, and counted.

torchvision draws them from the global generator, one image after the other, so the draws for an image depend on the
images before it. Here they follow from a seed of each image: a batch split over passes or processes, or a run resumed
in another process, has the draws of the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # the base of BatchNorm2d and SyncBatchNorm
from torchvision.models.detection.roi_heads import keypoints_to_heatmap

from model.network.build import Detector
from training.data.augmentation.draws import mix

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
        self.sampled = self.positive = torch.zeros((), dtype=torch.int64)

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
        drawn = torch.cat(positives).sum()
        self.positive = self.positive.to(device) + drawn
        self.sampled = self.sampled.to(device) + drawn + torch.cat(negatives).sum()
        return positives, negatives


def sample_by_image(model: Detector) -> None:
    """From now on `model` draws by image; call `begin_batch` before every forward pass with targets."""
    model.rpn.fg_bg_sampler = ImageSampler(model.rpn.fg_bg_sampler)
    model.roi_heads.fg_bg_sampler = ImageSampler(model.roi_heads.fg_bg_sampler)


def begin_batch(model: Detector, seeds: Sequence[Seed]) -> None:
    """Seeds the draws for the images of the next batch."""
    for number, part in enumerate((model.rpn, model.roi_heads)):
        part.fg_bg_sampler.begin([(*seed, number) for seed in seeds])


class Counts(NamedTuple):
    """What a batch's losses are means over: drawn anchors, drawn RoIs, positive RoIs, visible keypoints of these.

    Numbers that stay on the device: to read them would make a step wait for the GPU.
    """

    anchors: Tensor
    rois: Tensor
    positives: Tensor
    keypoints: Tensor

    def of(self, losses: Iterable[str]) -> Tensor:
        """What each of these losses is a mean over, float32 [losses]."""
        by_loss = {
            "loss_objectness": self.anchors,
            "loss_rpn_box_reg": self.anchors,
            "loss_classifier": self.rois,
            "loss_box_reg": self.rois,
            "loss_mask": self.positives,
            "loss_keypoint": self.keypoints,
        }
        return torch.stack([by_loss[name] for name in losses]).float()


def drawn_counts(model: Detector) -> Counts:
    """Those of the batch that `model` has just been given. Positive RoIs stand for their visible keypoints."""
    rpn, heads = model.rpn.fg_bg_sampler, model.roi_heads.fg_bg_sampler
    return Counts(rpn.sampled, heads.sampled, heads.positive, heads.positive)


@torch.no_grad()
def count_ahead(model: Detector, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]) -> Counts:
    """Those of a batch that `model`, in training mode, will be given after another `begin_batch` with the same seeds.

    Costs a forward pass up to the proposals. Changes nothing but the generators' states.
    """
    heads = model.roi_heads
    with _statistics_kept(model):
        batch, scaled = model.transform(list(images), list(targets))
        features = model.backbone(batch.tensors)
        proposals, _ = model.rpn(batch, features, scaled)
        proposals, matched, labels, _ = heads.select_training_samples(proposals, scaled)
    counts = drawn_counts(model)
    if not heads.has_keypoint():
        return counts
    visible = torch.zeros_like(counts.positives)
    side = 4 * heads.keypoint_roi_pool.output_size[0]  # the predictor doubles it twice
    for target, boxes, objects, label in zip(scaled, proposals, matched, labels, strict=True):
        positive = label > 0
        _, valid = keypoints_to_heatmap(target["keypoints"][objects[positive]], boxes[positive], side)
        visible = visible + valid.sum()
    return counts._replace(keypoints=visible)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Inside the block batch norm normalizes as ever, but its running mean and variance stay."""
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
