"""Every image of a dataset decoded once, and what is kept of it: enough to find broken, odd and repeated pictures.

Images are decoded by threads (Pillow and hashlib let go of the GIL); only as many as there are threads are in memory.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

from model.runtime.images.channels import MOST_CHANNELS, RGB_CHANNELS
from model.runtime.images.decode import load_image
from model.runtime.images.errors import ImageError
from model.runtime.images.planes import PlaneChoice
from model.runtime.images.reading import read_picture
from model.runtime.images.values.intensity import AUTO, Applied, Intensity
from model.runtime.images.values.pixels import shown, to_pixels
from training.data.annotations.dataset import Problem
from training.data.annotations.orientation import orientation_of
from training.data.annotations.records import LIMITS, ImageRecord

HASH_SIDE = 16
"""A difference hash has this many rows and columns of bits."""
THUMBNAIL_SIDE = 32
STEP = 1
"""Gray levels by which a neighbor must be brighter to set a bit: on flat ground noise would decide."""

LONG = 4
"""Images whose sides differ by more than this factor are unusual, and those whose sides differ as much from most."""
TINY = 32
"""Pixels of the shorter side under which an image is unusual."""


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """What is kept of one image.

    size: (width, height) in pixels as stored. mode: Pillow's, of the file. orientation: EXIF's, 1 to 8.
    digest: SHA-256 of size and pixels. bits: uint8 [32], the 256 bits of the difference hash. thumbnail: uint8
    [32, 32] gray. values: the NumPy type of the file's values; applied: how 8 bits were made of them, of the first
    where channels are taken one by one, None where they are the file's own. planes: how many there are along which
    axis, of which one is seen; None where all of the file is.
    """

    file: str
    size: tuple[int, int]
    mode: str
    orientation: int
    digest: bytes
    bits: NDArray[np.uint8]
    thumbnail: NDArray[np.uint8]
    values: str
    applied: Applied | None
    planes: tuple[str, int] | None = None


class UnusualImage(BaseModel):
    """An image unlike the others, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    file: str
    what: str


def fingerprint_images(
    images: Sequence[ImageRecord],
    intensity: Intensity = AUTO,
    *,
    channels: int = RGB_CHANNELS,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
) -> tuple[list[Fingerprint], list[Problem]]:
    """The fingerprints of all images that can be decoded, in their order, and the others.

    intensity: how more than 8 bits become 8. channels: how many the network takes. workers: threads; None for one a
    core. progress is called after each image, in the calling thread.
    """
    found: list[Fingerprint] = []
    problems: list[Problem] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of large images, which are fine here
        for one in pool.map(_fingerprint, images, repeat(intensity), repeat(channels)):
            if isinstance(one, Fingerprint):
                found.append(one)
            else:
                problems.append(one)
            if progress is not None:
                progress()
    return found, problems


def undecodable(
    images: Sequence[ImageRecord], intensity: Intensity = AUTO, channels: int = RGB_CHANNELS
) -> list[Problem]:
    """The images that only decoding shows to be damaged, or to have other channels than a network that takes so many;
    all are decoded, by as many threads as there are cores."""
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        return [one for one in pool.map(_damage, images, repeat(intensity), repeat(channels)) if one is not None]


def unusual_images(splits: Mapping[str, Sequence[Fingerprint]]) -> list[UnusualImage]:
    """Images of another mode, EXIF orientation or kind of size than most of the dataset."""
    everything = [one for split in splits.values() for one in split]
    if not everything:
        return []
    mode = Counter(one.mode for one in everything).most_common(1)[0][0]
    side = float(np.median([max(one.size) for one in everything]))
    return [
        UnusualImage(split=split, file=one.file, what=what)
        for split, fingerprints in splits.items()
        for one in fingerprints
        for what in _oddities(one, mode, side)
    ]


def unseen_channels(prints: Sequence[Fingerprint]) -> list[str]:
    """Which images have more planes than are seen, in words."""
    counts = Counter(one.planes for one in prints if one.planes is not None)
    return [
        f"{count} {'image has' if count == 1 else 'images have'} {size} {axis}s, of which the first is seen"
        + (f"; to train on all: --architecture.channels {size}" if size <= MOST_CHANNELS else "")
        for (axis, size), count in counts.items()
    ]


def _oddities(one: Fingerprint, mode: str, side: float) -> list[str]:
    width, height = one.size
    shorter, longer = sorted(one.size)
    found = []
    if one.mode != mode:
        found.append(f"mode {one.mode}, most are {mode}")
    if one.orientation != 1:
        found.append(f"EXIF orientation {one.orientation}: see docs/formats.md for what annotations refer to")
    if shorter < TINY:
        found.append(f"only {width}x{height} pixels")
    elif longer > LONG * shorter:
        found.append(f"{width}x{height} pixels: one side is more than {LONG} times the other")
    if longer > LONG * side or longer * LONG < side:
        found.append(f"{width}x{height} pixels, where the longer side is usually about {side:.0f}")
    return found


def _damage(record: ImageRecord, intensity: Intensity, channels: int) -> Problem | None:
    try:
        load_image(record.path, LIMITS, upright=False, intensity=intensity, choice=PlaneChoice(inputs=channels))
    except (OSError, ImageError) as error:
        return _undecoded(record, error)
    return None


def _undecoded(record: ImageRecord, error: Exception) -> Problem:
    message = f"image {record.original_id} cannot be decoded: {error}"
    return Problem("unreadable image", message, record.file, record.id)


def _fingerprint(record: ImageRecord, intensity: Intensity, channels: int) -> Fingerprint | Problem:
    try:
        data = record.path.read_bytes()
        picture = read_picture(data, LIMITS, upright=False, choice=PlaneChoice(inputs=channels))
        pixels, done = to_pixels(picture, intensity, channels)
    except (OSError, ImageError) as error:
        return _undecoded(record, error)
    mode, orientation = _header(data)
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(f"{width}x{height}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    gray = Image.fromarray(shown(pixels)).convert("L")
    grid = np.asarray(gray.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    thumbnail = np.asarray(gray.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX))
    bits = np.packbits(np.diff(grid, axis=1) > STEP)
    values = picture.values.dtype.name
    applied = done[0] if isinstance(done, tuple) else done
    planes = next(((axis.name, axis.size) for axis in picture.plane if axis.name in ("channel", "page")), None)
    return Fingerprint(
        record.file, (width, height), mode, orientation, digest.digest(), bits, thumbnail, values, applied, planes
    )


def _header(data: bytes) -> tuple[str, int]:
    """Mode and EXIF orientation; "unknown" and 1 of files that only `read_picture` reads."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.mode, orientation_of(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "unknown", 1
