"""Masks as images of ids: 0 is background, every other value an object, or something that its pieces are objects of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from scipy import ndimage

from model.runtime.detections import RLE
from model.runtime.kernels.polygons import to_polygons
from model.runtime.kernels.rle import decode_part
from training.data.annotations.dataset import DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.annotations.orientation import pixels_to_stored
from training.data.annotations.repair import mask_bounds
from training.data.formats.assemble import Header, opened_image

MaskObjects = Literal["auto", "values", "pieces"]
"""What an object is in masks: the pixels of one value, or each connected piece of them. auto: the values, unless the
masks show that those are no objects."""

_GRAY: Final = ("1", "L", "P", "I", "I;16", "I;16B")
_COLORS: Final = ("LA", "RGB", "RGBA")
_SPECK: Final = 0.01
"""A piece that is smaller than this share of the value's largest one says nothing."""


_NEARLY: Final = 0.9
"""Share of the masks that must have something around for it to be the background."""
_PATTERN: Final = 3
"""Masks that show what is common to them."""


class _Scattered(NamedTuple):
    """What would be one object, in several pieces; `where` names it."""

    where: str
    pieces: int


class ObjectsSeen:
    """Whether what the masks of a split keep apart can be objects, told from all of them together.

    An object may be in two pieces, behind a pole. But masks with one value each, or of which most values are in pieces,
    hold foreground or classes; trained as they are, many objects would be one.
    """

    def __init__(self) -> None:
        self._images = self._objects = self._most = 0
        self._scattered: list[_Scattered] = []

    def add(self, objects: Mapping[str, RLE]) -> None:
        """One more image: what would be its objects, by what messages call them."""
        self._images += 1
        self._objects += len(objects)
        self._most = max(self._most, len(objects))
        pieces = ((where, count_pieces(rle)) for where, rle in objects.items())
        self._scattered += [_Scattered(where, count) for where, count in pieces if count > 1]

    def require_objects(self, name: str) -> str | None:
        """What to say of the reading, if anything. Raises DatasetError, which starts with `name`, where these are no
        objects.
        """
        if not self._scattered:
            return f"each of {self._objects} masks has one object" if self._most == 1 else None
        if self._most > 1 and 2 * len(self._scattered) <= self._objects:
            return None
        worst = max(self._scattered, key=lambda one: one.pieces)
        raise DatasetError(
            f"{name}: {worst.where} is in {worst.pieces} separate pieces, as are {len(self._scattered)} of "
            f"{self._objects} values in {self._images} images: these masks tell foreground from background, or "
            f"classes, not objects. Say --mask_objects pieces to make each connected piece an object (objects that "
            f"touch stay one: give each its own value), or --mask_objects values if an object is in several pieces"
        )


class BackgroundSeen:
    """Whether the background of a split's masks is 0, told from what lies along their borders."""

    def __init__(self) -> None:
        self._leading: Counter[int] = Counter()
        self._around: Counter[int] = Counter()
        self._images = self._zeros = 0

    def add(self, values: NDArray[np.int64]) -> None:
        """One more mask, [H, W]."""
        border = np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
        found, counts = np.unique(border, return_counts=True)
        first = int(found[counts.argmax()])
        self._images += 1
        self._zeros += int(0 in found)
        self._leading[first] += 1
        self._around[first] += int(2 * counts.max() > len(border))

    def require_zero(self, name: str) -> None:
        """Raises DatasetError, which starts with `name`, where nearly all masks have another value around, or the same
        one is first along their borders and 0 is at none."""
        around = self._around.total() - self._around[0]
        value, count = max(self._leading.items(), key=lambda one: (one[0] != 0, one[1]), default=(0, 0))
        same = self._images >= _PATTERN and not self._zeros and value != 0 and count >= _NEARLY * self._images
        if same or (around and around >= _NEARLY * self._images):
            raise DatasetError(
                f"{name}: not 0 but {value} lies along the borders of {count if same else around} of {self._images} "
                f"masks, as a background would: give the background the value 0, or say --mask_objects values if "
                f"objects fill these images"
            )


def read_indices(path: Path, header: Header) -> NDArray[np.int64]:
    """The values of a mask, int64 [height, width] of the stored image that it belongs to.

    Palette files give the index, not the color; colors whose channels are equal are gray. A mask with the sides of the
    picture as seen is turned to the stored one. Raises BrokenRecord for other colors, a JPEG, a mask of another size
    and one that cannot be decoded.
    """
    with opened_image(path, "bad mask") as image:
        try:
            values = _values(image, path)
        except (OSError, ValueError, SyntaxError) as error:
            raise BrokenRecord("bad mask", f"{path} cannot be decoded: {error}") from None
    height, width = values.shape
    if (width, height) == (header.width, header.height):
        return values
    if (width, height) == header.upright:
        return pixels_to_stored(values, header.orientation)
    raise BrokenRecord(
        "size mismatch",
        f"{path} has {width}x{height} pixels, its image {header.width}x{header.height}: export it again",
    )


def count_pieces(rle: RLE) -> int:
    """How many connected pieces a mask has; those that are specks beside the largest are not counted."""
    bounds = mask_bounds(rle)
    if bounds is None or len(to_polygons(rle)) == 1:  # the cost of which follows the outline, not the area
        return int(bounds is not None)
    left, top, width, height = bounds.astype(int).tolist()
    pixels = decode_part(rle, (top, left, height, width), (height, width))
    areas = np.bincount(number_pieces(pixels.astype(np.int64)).ravel())[1:]
    return int((areas >= _SPECK * areas.max()).sum())


def number_pieces(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [H, W]: a number, from 1, for each connected piece of equal pixels, 0 where `values` is 0. Pixels that
    touch at a corner are connected."""
    ranks = values
    if values.min() < 0 or values.max() > values.size:  # a place in a list is kept for each number up to the largest
        ranks = np.where(values == 0, 0, np.unique(values, return_inverse=True)[1].reshape(values.shape) + 1)
    numbers = np.zeros(values.shape, np.int64)
    count = 0
    for rank, where in enumerate(ndimage.find_objects(ranks), 1):
        if where is not None:
            pieces, many = ndimage.label(ranks[where] == rank, np.ones((3, 3)))
            numbers[where] += np.where(pieces > 0, pieces + count, 0)
            count += many
    # In the order of their first pixels, row by row.
    places = np.flatnonzero(numbers)
    _, first = np.unique(numbers.flat[places], return_index=True)
    order = np.zeros(count + 1, np.int64)
    order[1 + np.argsort(first)] = np.arange(1, count + 1)
    return order[numbers]


def _values(image: ImageFile.ImageFile, path: Path) -> NDArray[np.int64]:
    if image.format in ("JPEG", "MPO"):
        raise BrokenRecord("bad mask", f"{path} is a JPEG, which blurs numbers into each other: save it as PNG")
    if image.mode in _GRAY:
        return np.array(image).astype(np.int64)
    if image.mode == "F":
        numbers = np.array(image)
        if not np.isfinite(numbers).all() or (numbers != np.round(numbers)).any():
            raise BrokenRecord("bad mask", f"{path} holds fractions, not ids: save whole numbers")
        return numbers.astype(np.int64)
    if image.mode in _COLORS:
        # of 16 bits a color, Pillow drops the lower 8
        deep = any("16" in str(tile.args) for tile in image.tile)
        channels = np.array(image).astype(np.int64)
        gray, alpha = channels[..., 0], channels[..., -1]
        if image.mode in ("LA", "RGBA") and (alpha != alpha.flat[0]).any():
            raise BrokenRecord("bad mask", f"{path} is transparent in places: save it without, background as 0")
        if deep:
            raise BrokenRecord("bad mask", f"{path} has colors of 16 bits: save it as a gray PNG")
        if image.mode == "LA" or (channels[..., :3] == gray[..., None]).all():
            return gray
    raise BrokenRecord("bad mask", f"{path} has colors (mode {image.mode}), not ids: save it as a gray or palette PNG")
