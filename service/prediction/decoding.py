"""An accepted image, from its file to what the network takes; and what was wrong with it. On the decode threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runtime.images.data import Data
from model.runtime.images.errors import (
    ImageError,
    NoSuchPlane,
    NotAnImage,
    TooManyPixels,
    TooManyPlanes,
    UnknownRange,
    UnsupportedFormat,
    UnsupportedVariant,
)
from model.runtime.images.formats import jpeg
from model.runtime.images.limits import ImageLimits
from model.runtime.images.picture import PixelSize, Size
from model.runtime.images.planes import Channels, PlaneAxis
from model.runtime.images.reading import open_picture, read_picture
from model.runtime.images.regions import PictureByRegion
from model.runtime.images.values.pixels import Done, apply, to_pixels
from model.runtime.preprocess import Prepared, prepare, scaled
from model.runtime.tiling import Tile
from service.http.problems import (
    DAMAGED_IMAGE,
    INVALID_PARAMETER,
    NOT_AN_IMAGE,
    TOO_MANY_PIXELS,
    UNSUPPORTED_FORMAT,
    Problem,
)
from service.models.catalog import ServedModel
from service.observability.record import ImageRecord
from service.prediction.no_image import ADVISED, advice
from service.prediction.parameters import Options, invalid_parameter
from service.prediction.progress import Progress
from service.scheduling.gate import Deadline
from service.scheduling.priority import Priority


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One image to predict.

    `encoded` gives the image file; it is called on a decode thread and may raise Problem. Where it `may_take_longer`, a
    picture in tiles extends its request's `deadline`. `keep_image` is for those who draw on it, `keep_values` for those
    who measure its intensities. `is_light` says that rendering only writes down what was found. `progress` is told of
    its tiles.
    """

    model: ServedModel
    encoded: Callable[[], Data]
    options: Options
    deadline: Deadline
    priority: Priority
    record: ImageRecord
    keep_image: bool = False
    keep_values: bool = False
    may_take_longer: bool = False
    is_light: bool = False
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """An image of `size` (height, width), as the network takes it: whole, or in tiles. `image` and `values` are there
    where they are needed further on; of a picture that is too large for that, `by_region` is, of which tiles are read.
    `intensity` is what makes 8 bits of its values, `plane` which of a file's planes it is, `channels` which of its
    channels, where they were taken one by one."""

    size: tuple[int, int]
    whole: Prepared | None
    tiles: list[Tile]
    image: NDArray[np.uint8] | None
    values: NDArray[Any] | PictureByRegion | None
    intensity: Done
    plane: tuple[PlaneAxis, ...]
    channels: Channels | None
    pixel_size: PixelSize | None
    by_region: PictureByRegion | None = None

    def pixels(self, tile: Tile, inputs: int) -> NDArray[np.uint8]:
        """uint8 [H, W, inputs] of a tile. Raises ImageError."""
        if self.by_region is not None:
            part = self.by_region.read(tile.top, tile.left, tile.height, tile.width)
            return apply(part, self.intensity, inputs)
        assert self.image is not None
        return tile.of(self.image)


def decode(job: Job, limits: ImageLimits) -> Decoded:
    """The image as the network takes it, and itself where it is needed. The header's pixel count is checked before
    decoding. Raises ImageError, and Problem where it cannot be seen at the scale asked for."""
    data = job.encoded()
    preprocessing, options = job.model.manifest.preprocessing, job.options
    seen_in_full = job.keep_image or job.keep_values or not options.intensity.keeps_8_bits

    def fit(size: Size) -> Size:  # only where nothing else looks at the pixels
        try:
            in_full = seen_in_full or _plan(job, size, limits)
        except Problem:  # raised again below: in here it would be taken for one of the file's
            in_full = True
        return size if in_full else preprocessing.resized(size, options.scale)

    try:
        picture = open_picture(data, limits, choice=options.plane, fit=fit, reduced=preprocessing.reduced_decoding)
    except NotAnImage as error:
        if said := advice(bytes(data[:ADVISED])):
            raise NotAnImage(f"{error}. {said}") from error
        raise
    if isinstance(picture, PictureByRegion):
        return _to_be_read(job, picture, limits)
    image, applied = to_pixels(picture, job.options.intensity, job.options.plane.inputs)
    size = picture.size
    tiles = _plan(job, size, limits)
    whole = None
    if not tiles:
        seen = _reduced(job, bytes(data), size, limits) if seen_in_full and preprocessing.reduced_decoding else None
        whole = prepare(image if seen is None else seen, preprocessing, size, options.scale)
    return Decoded(
        size,
        whole,
        tiles,
        image if tiles or job.keep_image else None,
        picture.values if job.keep_values else None,
        applied,
        picture.plane,
        picture.channels,
        job.options.pixel_size or picture.pixel_size,
    )


def _reduced(job: Job, data: bytes, size: Size, limits: ImageLimits) -> NDArray[np.uint8] | None:
    """What the network sees of a JPEG of which others see all: an answer with a drawing, or with measurements, has the
    same detections as one without. None where that is not decoded at reduced size."""
    options = job.options
    target = job.model.manifest.preprocessing.resized(size, options.scale)
    if not options.intensity.keeps_8_bits or jpeg.divisor(data, size, target) == 1:
        return None
    picture = read_picture(data, limits, choice=options.plane, fit=lambda _: target, reduced=True)
    return to_pixels(picture, options.intensity, options.plane.inputs)[0]


def _plan(job: Job, size: Size, limits: ImageLimits) -> list[Tile]:
    """The tiles of a picture of `size`, none where it is seen whole. Raises Problem."""
    scale, most = job.options.scale, limits.max_picture_pixels
    if scale is not None and most is not None:
        height, width = scaled(size, scale)
        if height * width > most:
            message = (
                f"at {scale:g} the image has {width} x {height} = {width * height} pixels, and at most {most} are seen "
                f"(max_picture_pixels); ask for a smaller one"
            )
            raise invalid_parameter("scale", message)
    manifest = job.model.manifest
    return job.options.tiling.plan(manifest.architecture, manifest.preprocessing, size, scale)


def _to_be_read(job: Job, picture: PictureByRegion, limits: ImageLimits) -> Decoded:
    """Of a picture that is too large to be decoded at once. Raises TooManyPixels where only that would do."""
    height, width = picture.size
    at_once = (
        f"the image has {width} x {height} = {width * height} pixels and at most {limits.max_pixels} are decoded at "
        f"once (max_pixels)"
    )
    tiles = _plan(job, picture.size, limits)
    if not tiles:
        smaller = "tiles, as in tile=1024" if job.options.scale is None else "smaller tiles, or for a larger scale"
        raise TooManyPixels(f"{at_once}, which seeing it whole would need; ask for {smaller}")
    if max(tile.height * tile.width for tile in tiles) > limits.max_pixels:
        raise TooManyPixels(
            f"{at_once}, fewer than a tile has at the scale asked for; ask for smaller tiles, or for a larger scale"
        )
    if job.keep_image:
        raise TooManyPixels(f"{at_once}, which drawing on it would need; ask for JSON, or for one of the files")
    values = picture if job.keep_values else None
    like = picture.like
    pixel_size = job.options.pixel_size or like.pixel_size
    return Decoded(picture.size, None, tiles, None, values, None, like.plane, like.channels, pixel_size, picture)


def as_problem(error: ImageError) -> Problem:
    """What whoever sent the image is told."""
    kind = DAMAGED_IMAGE
    if isinstance(error, NotAnImage):
        kind = NOT_AN_IMAGE
    elif isinstance(error, UnsupportedFormat | UnsupportedVariant):
        kind = UNSUPPORTED_FORMAT
    elif isinstance(error, TooManyPixels):
        kind = TOO_MANY_PIXELS
    elif isinstance(error, UnknownRange | NoSuchPlane | TooManyPlanes):
        kind = INVALID_PARAMETER
    return Problem(kind, str(error))
