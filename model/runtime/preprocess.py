"""From an image to the network's input and from the network's answer back to the image.

An image is resized, then placed in the top left corner of a bucket: a canvas whose sides are multiples of `bucket_step`
and depend on that image alone. Only images of one bucket share a batch, so an answer never depends on its neighbors.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.architecture import ArchitectureConfig
from model.runtime.detections import Detections, RawDetections
from model.runtime.images.channels import MOST_CHANNELS, RGB_CHANNELS, is_rgb
from model.runtime.images.limits import DEFAULT_LIMITS, ImageLimits
from model.runtime.images.picture import Size
from model.runtime.images.planes import PlaneChoice
from model.runtime.images.reading import read_picture
from model.runtime.images.values.intensity import AUTO, Intensity
from model.runtime.images.values.pixels import to_pixels
from model.runtime.kernels.keypoints import decode_keypoints
from model.runtime.kernels.masks import encode_masks


class Preprocessing(BaseModel):
    """How images become network input; sizes in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_size: int = Field(800, ge=1, description="shorter side after resizing")
    max_size: int = Field(1333, ge=1, description="longest side after resizing; wins over min_size")
    allow_downscale: bool = Field(True, description="shrink images whose shorter side exceeds min_size")
    bucket_step: int = Field(32, ge=32, multiple_of=32, description="the padded sides are multiples of this")
    intensity: Intensity = Field(AUTO, description="how values become 8 bits")
    reduced_decoding: bool = Field(
        False,
        exclude_if=lambda reduced: not reduced,  # manifests of before it keep their hash
        description="JPEGs that shrink by four or more are decoded at no less than twice the size that is seen",
    )
    channels: int = Field(
        RGB_CHANNELS, ge=1, le=MOST_CHANNELS, exclude_if=is_rgb, description="channels that the network takes"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_size < self.min_size:
            raise ValueError(f"max_size ({self.max_size}) is smaller than min_size ({self.min_size})")
        return self

    @classmethod
    def from_architecture(cls, config: ArchitectureConfig, intensity: Intensity = AUTO) -> Self:
        """What the network was built for, and how the values of its training images became 8 bits."""
        return cls(
            min_size=config.min_size,
            max_size=config.max_size,
            allow_downscale=config.allow_downscale,
            intensity=intensity,
            reduced_decoding=True,
            channels=config.channels,
        )

    def resized(self, size: Size, scale: float | None = None) -> Size:
        """The size that an image of `size` is resized to: at least one pixel a side, the aspect ratio kept.

        scale: what is asked for in place of min_size; max_size wins over it, too.
        """
        if scale is None:
            scale = self.min_size / min(size)
            if not self.allow_downscale:
                scale = max(1.0, scale)
        return scaled(size, min(scale, self.max_size / max(size)))

    def bucket(self, size: Size, scale: float | None = None) -> Size:
        """The padded size of an image of `size`; scale as in `resized`."""
        height, width = self.resized(size, scale)
        step = self.bucket_step
        return -(-height // step) * step, -(-width // step) * step

    def buckets(self) -> list[Size]:
        """Every padded size that an image of any shape can get, the largest first."""
        step = self.bucket_step
        longest = -(-self.max_size // step)
        shortest = -(-self.min_size // step)
        # In steps. Either the shorter side is min_size (or more, if images are not shrunk), or the longer is max_size.
        shorter = range(shortest, (shortest if self.allow_downscale else longest) + 1)
        steps = {(a, b) for a in shorter for b in range(a, longest + 1)}
        steps |= {(a, longest) for a in range(1, shortest + 1)}
        sizes = {(a * step, b * step) for a, b in steps} | {(b * step, a * step) for a, b in steps}
        return sorted(sizes, key=lambda size: (size[0] * size[1], size), reverse=True)


def scaled(size: Size, scale: float) -> Size:
    """A size times `scale` in whole pixels, at least one a side."""
    height, width = size
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image as the network takes it.

    pixels: uint8 [Hb, Wb, C], zero outside the valid part in the top left corner. May share the image's memory.
    valid: (height, width) of that part; original: (height, width) of the image as seen.
    """

    pixels: NDArray[np.uint8]
    valid: Size
    original: Size

    @property
    def bucket(self) -> Size:
        """(height, width) of `pixels`; only images of one bucket share a batch."""
        return self.pixels.shape[0], self.pixels.shape[1]


def prepare(
    image: NDArray[np.uint8], preprocessing: Preprocessing, original: Size | None = None, scale: float | None = None
) -> Prepared:
    """Resize an image, uint8 [H, W, C] of `preprocessing.channels`, into its bucket, by `scale` if one is asked for.
    Releases the GIL while resampling.

    `original` is the image's size where it may have been resized already (`read_picture` with `fit`).

    Raises:
        ValueError: the image has another shape or type, or no pixels.
    """
    channels = preprocessing.channels
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels or image.size == 0:
        raise ValueError(
            f"an image is uint8 [H, W, {channels}] with at least one pixel, not {image.dtype} {list(image.shape)}"
        )
    size = (image.shape[0], image.shape[1])
    original = original or size
    valid, bucket = preprocessing.resized(original, scale), preprocessing.bucket(original, scale)
    if size not in (original, valid):
        raise ValueError(f"an image of {list(original)} pixels is seen as {list(valid)}, not as {list(size)}")
    if size != valid:
        image = _resized(image, valid)
    if valid == bucket:
        return Prepared(np.ascontiguousarray(image), valid, original)
    pixels = np.zeros((*bucket, channels), np.uint8)
    pixels[: valid[0], : valid[1]] = image
    return Prepared(pixels, valid, original)


def prepare_file(
    data: bytes, preprocessing: Preprocessing, limits: ImageLimits = DEFAULT_LIMITS, *, upright: bool = True
) -> Prepared:
    """An image file as the network takes it, as the service sees one whole.

    `limits`, `upright` and the errors: as `read_picture`; those of `preprocessing.intensity`: as `to_uint8`.
    """
    choice, intensity = PlaneChoice(inputs=preprocessing.channels), preprocessing.intensity
    fit = preprocessing.resized if intensity.keeps_8_bits else None
    picture = read_picture(
        data, limits, upright=upright, choice=choice, fit=fit, reduced=preprocessing.reduced_decoding
    )
    return prepare(to_pixels(picture, intensity, choice.inputs)[0], preprocessing, picture.size)


def _resized(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """uint8 [H, W, C], bilinear and antialiased. Pillow has no pictures of any number of channels, and makes of each
    channel alone what it makes of it in a picture of three; so gray that is seen as RGB is resized once."""
    channels, is_gray = image.shape[2], image.strides[2] == 0
    if channels == RGB_CHANNELS and not is_gray:
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    resized = np.empty((*size, 1 if is_gray else channels), np.uint8)
    for channel in range(resized.shape[2]):
        alone = Image.fromarray(np.ascontiguousarray(image[..., channel]))
        resized[..., channel] = np.asarray(alone.resize(size[::-1], Image.Resampling.BILINEAR))
    return np.broadcast_to(resized, (*size, channels)) if is_gray else resized


def stack(batch: Sequence[Prepared]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One batch for an engine: images uint8 [B, Hb, Wb, C] and their valid sizes int64 [B, 2].

    Raises:
        ValueError: the batch is empty or mixes buckets.
    """
    buckets = {image.bucket for image in batch}
    if len(buckets) != 1:
        raise ValueError(f"a batch holds images of one bucket, not of {sorted(buckets) or 'none'}")
    sizes = np.array([image.valid for image in batch], np.int64)
    if len(batch) == 1:
        return batch[0].pixels[None], sizes
    return np.stack([image.pixels for image in batch]), sizes


def to_original(
    raw: RawDetections,
    prepared: Prepared,
    *,
    max_detections: int | None = None,
    labels: Collection[int] | None = None,
    score_thresholds: NDArray[np.float32] | None = None,
    want_masks: bool = True,
) -> Detections:
    """One image's raw detections (`RawDetections.of_image`) in pixels of the original image.

    `max_detections` keeps the best, `labels` only those label ids, `score_thresholds` (float32, by label id) what
    scores more than its label's; `want_masks=False` leaves the masks out. All of it happens before any mask is encoded,
    so what is not asked for costs nothing.
    """
    rows: slice | NDArray[np.intp] = slice(max_detections)  # views, as long as nothing is left out between
    if labels is not None or score_thresholds is not None:
        rows = _wanted(raw, labels, score_thresholds)[:max_detections]
    height, width = prepared.original
    x_scale = np.float32(width) / np.float32(prepared.valid[1])
    y_scale = np.float32(height) / np.float32(prepared.valid[0])
    boxes = raw.boxes[rows]
    keypoints = None
    if raw.keypoint_heatmaps is not None:
        # A keypoint's precision is that of the box in the network's input, as in torchvision: decode there, then scale.
        keypoints = decode_keypoints(raw.keypoint_heatmaps[rows], boxes)
        keypoints[..., :2] *= np.array([x_scale, y_scale])
    boxes = boxes * np.array([x_scale, y_scale, x_scale, y_scale])
    boxes = np.clip(boxes, np.float32(0), np.array([width, height, width, height], np.float32))
    masks = None
    if want_masks and raw.masks is not None:
        masks = encode_masks(raw.masks[rows], boxes, prepared.original)
    return Detections(boxes, raw.scores[rows], raw.labels[rows], masks, keypoints)


def count_wanted(
    raw: RawDetections, *, labels: Collection[int] | None = None, score_thresholds: NDArray[np.float32] | None = None
) -> int:
    """How many detections `to_original` would give without `max_detections`."""
    if labels is None and score_thresholds is None:
        return len(raw.scores)
    return len(_wanted(raw, labels, score_thresholds))


def _wanted(
    raw: RawDetections, labels: Collection[int] | None, score_thresholds: NDArray[np.float32] | None
) -> NDArray[np.intp]:
    wanted = np.ones(len(raw.scores), np.bool_)
    if labels is not None:
        wanted &= np.isin(raw.labels, list(labels))
    if score_thresholds is not None:
        wanted &= raw.scores > score_thresholds[raw.labels]
    return np.flatnonzero(wanted)
