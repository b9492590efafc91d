"""The images on which a detector does worst, drawn for people to see why."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.runtime.detections import Detections
from model.runtime.images.channels import RGB_CHANNELS
from model.runtime.images.values.intensity import AUTO, Intensity
from model.runtime.images.values.pixels import shown
from model.runtime.overlay import draw_overlay
from training.data.annotations.dataset import Dataset
from training.data.checking.contact_sheet import as_detections
from training.data.loading.samples import load_stored
from training.evaluation.matching import Matches
from training.evaluation.operating_point import Counts, image_counts

MAX_SIDE = 720
"""Pixels of a picture's longer side; larger ones are shrunk."""
JPEG_QUALITY = 85


class Worst(NamedTuple):
    """An image of a dataset, by its position there, and what became of its objects."""

    position: int
    counts: Counts


def worst_images(matches: Sequence[Matches], thresholds: Sequence[float], count: int) -> list[Worst]:
    """Up to `count` images with errors, the lowest F1 first and among equals the most errors; thresholds by label."""
    ranked = [Worst(position, image_counts(image, thresholds)) for position, image in enumerate(matches)]
    wrong = [one for one in ranked if one.counts.missed or one.counts.false]
    wrong.sort(key=lambda one: (one.counts.f1(), -one.counts.missed - one.counts.false))
    return wrong[:count]


def draw_pair(
    data: Dataset,
    position: int,
    found: Detections,
    thresholds: Sequence[float],
    intensity: Intensity = AUTO,
    channels: int = RGB_CHANNELS,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """uint8 [h, w, 3] twice: one image with its annotated objects, and with what was found above the thresholds.

    Crowd regions are left out. Raises UnreadableImage.
    """
    record = data.images[position]
    image = shown(load_stored(record, intensity, channels))
    objects = data.annotations[position]
    size = record.width, record.height
    truth = as_detections(record, objects.select(~objects.crowd), size, with_masks=found.masks is not None)
    pictures = [draw_overlay(image, one, data.class_names) for one in (truth, above(found, thresholds))]
    return _shrunk(pictures[0]), _shrunk(pictures[1])


def above(found: Detections, thresholds: Sequence[float]) -> Detections:
    """The detections that score more than their class's threshold; thresholds for labels 1..C."""
    rows = np.flatnonzero(found.scores > np.array(thresholds, np.float32)[found.labels - 1])
    return Detections(
        found.boxes[rows],
        found.scores[rows],
        found.labels[rows],
        None if found.masks is None else [found.masks[row] for row in rows],
        None if found.keypoints is None else found.keypoints[rows],
    )


def jpeg_url(picture: NDArray[np.uint8]) -> str:
    """A picture as a `data:` address, for a page that fetches nothing."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    small = Image.fromarray(picture)
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    return np.array(small)
