"""Images as one picture, each in a frame, and what is found in the picture cut back into the images.

The frame is the image itself, mirrored: what is cut at its border goes on beyond it, as in a picture of which the image
is a part. Plain color does not do: a network that has learned where images end sees another picture in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import Detections
from model.runtime.images.picture import Size
from model.runtime.kernels.rle import area, decode_part, encode_bitmap
from model.runtime.tiling import STEP, Tile

FRAME = STEP // 2
"""Pixels of an image's frame, but where it lies at the picture's border: two make a step of the network's stride, so
that each image lies at the phase that it has alone."""
MOST = 1000
"""Detections of an image that are counted; the nuclei have up to 375."""


def shelve(sizes: Sequence[Size], width: int) -> tuple[Size, list[Tile]]:
    """Places at multiples of `STEP` for images in a picture that wide, in rows, the highest first, with a frame between
    each and its neighbors."""
    places = [Tile(0, 0, 0, 0)] * len(sizes)
    top = left = high = 0
    for number in sorted(range(len(sizes)), key=lambda one: (-sizes[one][0], one)):
        height, long = sizes[number]
        if left and left + _with_frame(long) > width:
            top, left, high = top + high, 0, 0
        places[number] = Tile(top, left, height, long)
        left, high = left + _with_frame(long), max(high, _with_frame(height))
    return (top + high, width), places


def _with_frame(length: int) -> int:
    return -(-(length + 2 * FRAME) // STEP) * STEP


def mosaic(
    images: Sequence[NDArray[np.uint8]], width: int, color: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], list[Tile]]:
    """A picture of the images, uint8 [H, W, C], and where in it each is. The space between two is each one's frame to
    the half, at the end of a row or below a low image all of it."""
    size, places = shelve([(image.shape[0], image.shape[1]) for image in images], width)
    picture = np.zeros((*size, images[0].shape[2]), np.uint8)
    rows: dict[int, list[int]] = defaultdict(list)
    for number, place in enumerate(places):
        rows[place.top].append(number)
    for top in rows:
        bottom = min((other - FRAME for other in rows if other > top), default=size[0])
        for number in rows[top]:
            place = places[number]
            right = min(
                (places[other].left - FRAME for other in rows[top] if places[other].left > place.left), default=width
            )
            start = Tile(max(top - FRAME, 0), max(place.left - FRAME, 0), 0, 0)
            pads = (
                (top - start.top, bottom - top - place.height),
                (place.left - start.left, right - place.left - place.width),
            )
            picture[start.top : bottom, start.left : right] = framed(images[number], pads, color)
    return picture, places


def framed(
    image: NDArray[np.uint8], pads: tuple[tuple[int, int], tuple[int, int]], color: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    """An image, uint8 [H, W, C], with so many pixels (above, below), (left, right) around it: its own, mirrored, or of
    a color, uint8 [C]."""
    if color is None:
        return np.pad(image, (*pads, (0, 0)), "symmetric")
    (above, below), (left, right) = pads
    height, width = image.shape[:2]
    picture = np.tile(color, (above + height + below, left + width + right, 1))
    picture[above : above + height, left : left + width] = image
    return picture


def cut_back(found: Detections, places: Sequence[Tile]) -> list[Detections]:
    """The picture's detections as those of its images: each belongs to every image in which any of it lies."""
    assert found.masks is not None
    answers = []
    for place in places:
        x1, y1, x2, y2 = place.box
        boxes = found.boxes
        near = (boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)
        window = (place.top, place.left, place.height, place.width)
        rows = np.flatnonzero(near)
        masks = [encode_bitmap(decode_part(found.masks[row], window, window[2:]) > 0) for row in rows]
        kept = [index for index, mask in enumerate(masks) if area(mask)][:MOST]
        rows = rows[kept]
        boxes = (boxes[rows] - [x1, y1, x1, y1]).clip(0, [x2 - x1, y2 - y1] * 2).astype(np.float32)
        answers.append(Detections(boxes, found.scores[rows], found.labels[rows], [masks[index] for index in kept]))
    return answers
