"""Detections drawn on their picture: masks, boxes, keypoints and labels, legible on any background and at any size.

A line has a color and a dark rim, so it stands out from white, black and busy pictures. Over an object lie only a tint,
a line along the inside of its edge and its keypoints; its box goes around it, its label beside it where there is room.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model.runtime.detections import RLE, Detections
from model.runtime.kernels.rle import unpack

Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
"""Color-blind safe (Okabe and Ito, Color Universal Design), without its black."""

KEYPOINT_LOGIT = 0.0
"""Keypoints whose heatmap rises no higher are not drawn: nothing in the box looks like them."""

_DARK = (20, 20, 20)
_RIM_OPACITY, _BOX_OPACITY = 170, 130  # of 255; the latter's is a box around a mask

# What a pixel of a mask is painted with: tints, lines and dark lines in the palette's colors, and the rim.
_TINT, _LINE, _DARK_LINE, _RIM = 1, 1 + len(PALETTE), 1 + 2 * len(PALETTE), 1 + 3 * len(PALETTE)
_PAINT = np.concatenate([[_DARK], PALETTE, PALETTE, np.array(PALETTE) // 2, [_DARK]]).astype(np.uint16)
_OPACITY = np.repeat([0, 80, 255, _RIM_OPACITY], [1, len(PALETTE), 2 * len(PALETTE), 1]).astype(np.uint16)[:, None]
_BRIGHT = 140  # the mean of a background on which light lines don't show
_BAND = 256  # rows painted at a time, which bounds the memory

_MAX_NAME = 24  # characters of a class name
_MANY, _FULL = 25, 1 / 6  # more objects, or more of the picture under labels, are a crowd, which goes without labels
_LITTLE, _MUCH = 0.3, 1.0  # of objects under a label: the most for one that can be left out, and for one that is needed


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Lengths in pixels that suit a picture: as fine as it can show when small, growing with it when large."""

    line: int
    rim: int
    dot: int
    text: int

    @classmethod
    def of_picture(cls, width: int, height: int) -> _Sizes:
        side = (width * height) ** 0.5
        line = round(1 + side / 600)
        return cls(line, max(1, round(line / 2)), max(2, round(side / 220)), max(11, round(6 + side / 77)))


def draw_overlay(
    image: NDArray[np.uint8],
    detections: Detections,
    class_names: Sequence[str],
    *,
    keypoint_edges: Sequence[tuple[int, int]] = (),
) -> NDArray[np.uint8]:
    """`image` (uint8 [H, W, 3] RGB) with all of `detections` drawn on it; a new array of the same shape.

    class_names: names of the labels 1, 2, ...; with several, a color stands for a class, by its label alone. With one,
        it stands for an object and differs from those of its neighbors.
    keypoint_edges: pairs of keypoint positions to join by lines.
    An object whose score is not a number is an annotation: its label is the class alone.
    A mask takes its box's place, unless it is too small to be seen: an outline says more, and boxes of neighbors cross.
    With several classes a faint box stays, to tie the label to its object. Labels are left out in a crowd, except for
    what is needed to know a class by its color, and where they would not fit or hide more than they say.
    Memory is a few pictures' worth whatever the number of detections. ValueError when `image` has another shape or
    type, an edge names no keypoint, or a mask is malformed or of another size.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image is {image.dtype} {list(image.shape)}: need uint8 [H, W, 3] with pixels in it")
    height, width = image.shape[:2]
    sizes = _Sizes.of_picture(width, height)
    by_class = len(class_names) > 1
    boxes = _whole_pixels(detections.boxes, width, height)
    groups = (detections.labels - 1) % len(PALETTE) if by_class else _tell_apart(boxes)
    colors = [PALETTE[group] for group in groups.tolist()]

    canvas = image.copy()
    bare = set(range(len(detections)))
    if detections.masks is not None:
        bare -= _draw_masks(canvas, detections.masks, boxes, groups, sizes)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture, "RGBA")
    for row in reversed(range(len(detections))):  # the surest on top
        if row in bare:
            _draw_box(draw, boxes[row], colors[row], sizes, picture.size)
        elif by_class:
            draw.rectangle(_around(boxes[row], sizes.rim, picture.size), None, (*colors[row], _BOX_OPACITY), sizes.rim)
    if detections.keypoints is not None:
        _draw_keypoints(draw, detections.keypoints, colors, keypoint_edges, sizes, picture.size)
    _draw_labels(draw, detections, class_names, boxes, groups, sizes, picture.size)
    return np.array(picture)


def to_png(image: NDArray[np.uint8]) -> bytes:
    """`image` (uint8 [H, W, 3] RGB) as a PNG file, compressed for speed rather than for size."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _whole_pixels(boxes: NDArray[np.float32], width: int, height: int) -> NDArray[np.int64]:
    """The pixels that boxes touch, int64 [N, 4] as (first x, first y, one past the last x, y): at least one, inside."""
    limits = np.array([width, height])
    known = np.nan_to_num(boxes.astype(np.float64)).reshape(-1, 4)
    first = np.clip(np.floor(known[:, :2]), 0, limits - 1)
    stop = np.clip(np.ceil(known[:, 2:]), first + 1, limits)
    return np.concatenate([first, stop], axis=1).astype(np.int64)


def _tell_apart(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """A palette entry for each object, int64 [N]: the one whose nearest use so far is farthest away.

    It depends on the objects before it only, so a higher score threshold recolors nothing.
    """
    groups = np.zeros(len(boxes), np.int64)
    nearest = np.full((len(boxes), len(PALETTE)), np.inf)
    for row, (x1, y1, x2, y2) in enumerate(boxes):
        groups[row] = group = int(nearest[row].argmax())
        gap_x = np.maximum(boxes[:, 0], x1) - np.minimum(boxes[:, 2], x2)
        gap_y = np.maximum(boxes[:, 1], y1) - np.minimum(boxes[:, 3], y2)
        # Boxes that overlap are at a negative distance, the more so the deeper they do.
        nearest[:, group] = np.minimum(nearest[:, group], np.maximum(gap_x, gap_y))
    return groups


def _draw_masks(
    canvas: NDArray[np.uint8],
    masks: Sequence[RLE],
    boxes: NDArray[np.int64],
    groups: NDArray[np.int64],
    sizes: _Sizes,
) -> set[int]:
    """Tints and outlines, in place; the rows whose outline is large enough to be seen."""
    size = canvas.shape[:2]
    # Which paint each pixel gets is settled first: mixing is what takes time, and so it is done once.
    paint = np.zeros(size, np.uint8)
    visible = set()
    # Small before large: a pixel is tinted once, so piled masks hide nothing, and one inside another keeps its color.
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for row in np.argsort(areas, kind="stable").tolist():
        if masks[row].size != size:
            raise ValueError(f"mask {row} is of size {masks[row].size}, the image of {size} (height, width)")
        cut = _cut_out(masks[row])
        if cut is None:
            continue
        left, top, mask = cut
        if max(mask.shape) >= 4 * sizes.line:
            visible.add(row)
        place = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
        inner, body = _edge(mask, sizes)
        rim, line = mask & ~inner, inner & ~body
        line_paint = _LINE
        if not rim.any() and canvas[place][line].mean() > _BRIGHT:
            line_paint = _DARK_LINE  # it has to do without a rim
        under = paint[place]
        under[body & (under == 0)] = _TINT + groups[row]
        under[line] = line_paint + groups[row]
        under[rim] = _RIM
    for start in range(0, size[0], _BAND):
        band, paints = canvas[start : start + _BAND], paint[start : start + _BAND]
        painted = paints > 0
        chosen = paints[painted]
        band[painted] = (band[painted] * (255 - _OPACITY[chosen]) + _PAINT[chosen] * _OPACITY[chosen]) // 255
    return visible


def _cut_out(rle: RLE) -> tuple[int, int, NDArray[np.bool_]] | None:
    """A mask's left, top and pixels, bool [h, w], of just the rectangle that it fills; None when it is empty."""
    height = rle.size[0]
    ends = np.cumsum(unpack(rle))
    stops = ends[1::2]
    starts = ends[0::2][: len(stops)]
    starts, stops = starts[starts < stops], stops[starts < stops]
    if len(starts) == 0:
        return None
    left, right = int(starts[0] // height), int((stops[-1] - 1) // height) + 1
    top, bottom = 0, height
    if (starts // height == (stops - 1) // height).all():
        top, bottom = int((starts % height).min()), int(((stops - 1) % height).max()) + 1
    bounds = np.stack([starts, stops], axis=1).ravel() - left * height
    runs = np.diff(bounds, prepend=0, append=(right - left) * height)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(right - left, height)
    return left, top, np.ascontiguousarray(columns[:, top:bottom].T)


def _edge(mask: NDArray[np.bool_], sizes: _Sizes) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A mask less its dark rim, and less the color line too; thinner than `sizes` on a thin object."""
    once = _shrink(mask, 1)
    area = int(mask.sum())
    # About the radius of a disc, or the width of a ribbon: its area by its border.
    thickness = area / (area - int(once.sum()))
    room = max(1, min(sizes.rim + sizes.line, int(thickness / 4)))
    rim = min(sizes.rim, room // 2)
    inner = _shrink(mask, rim)
    return inner, _shrink(inner, room - rim)


def _shrink(mask: NDArray[np.bool_], layers: int) -> NDArray[np.bool_]:
    """A mask without its outermost pixels, `layers` times."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    for layer in range(layers):
        upright = padded[:-2] & padded[1:-1] & padded[2:]
        if layer % 2:  # 4 neighbors and 8 in turn: nearly the same width in all directions
            inside[:] = upright[:, :-2] & upright[:, 1:-1] & upright[:, 2:]
        else:
            inside[:] = upright[:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside


def _around(box: NDArray[np.int64], width: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The rectangle, corners included, whose border of `width` pixels lies just outside a box, kept in the picture."""
    x1, y1, x2, y2 = box.tolist()
    return max(x1 - width, 0), max(y1 - width, 0), min(x2 - 1 + width, size[0] - 1), min(y2 - 1 + width, size[1] - 1)


def _draw_box(
    draw: ImageDraw.ImageDraw, box: NDArray[np.int64], color: Color, sizes: _Sizes, size: tuple[int, int]
) -> None:
    draw.rectangle(_around(box, sizes.line + sizes.rim, size), None, (*_DARK, _RIM_OPACITY), sizes.rim)
    draw.rectangle(_around(box, sizes.line, size), None, color, sizes.line)


def _draw_keypoints(
    draw: ImageDraw.ImageDraw,
    keypoints: NDArray[np.float32],
    colors: Sequence[Color],
    edges: Sequence[tuple[int, int]],
    sizes: _Sizes,
    size: tuple[int, int],
) -> None:
    count = keypoints.shape[1]
    if any(not 0 <= end < count for edge in edges for end in edge):
        raise ValueError(f"keypoint_edges {list(edges)}: the detections have keypoints 0 to {count - 1}")
    x, y, logit = keypoints.transpose(2, 0, 1)
    shown = (logit > KEYPOINT_LOGIT) & (x >= 0) & (x <= size[0]) & (y >= 0) & (y <= size[1])
    for row in reversed(range(len(keypoints))):
        points = {k: (float(x[row, k]) - 0.5, float(y[row, k]) - 0.5) for k in np.flatnonzero(shown[row]).tolist()}
        lines = [(points[a], points[b]) for a, b in edges if a in points and b in points]
        for line in lines:
            draw.line(line, (*_DARK, _RIM_OPACITY), sizes.line + 2 * sizes.rim)
        for line in lines:
            draw.line(line, colors[row], sizes.line)
        for point in points.values():
            draw.circle(point, sizes.dot + sizes.rim, _DARK)
            draw.circle(point, sizes.dot, colors[row])


def _draw_labels(
    draw: ImageDraw.ImageDraw,
    detections: Detections,
    class_names: Sequence[str],
    boxes: NDArray[np.int64],
    groups: NDArray[np.int64],
    sizes: _Sizes,
    size: tuple[int, int],
) -> None:
    """The surest first, which get the best places."""
    font = ImageFont.load_default(sizes.text)
    assert isinstance(font, ImageFont.FreeTypeFont)  # always, when a size is given
    pad = round(sizes.text / 4)
    high = sum(font.getmetrics())
    texts = [
        _readable(class_names, label) + ("" if math.isnan(score) else f" {score:.2f}")
        for label, score in zip(detections.labels.tolist(), detections.scores.tolist(), strict=True)
    ]
    wide = [round(font.getlength(text)) + 2 * pad for text in texts]
    crowded = len(texts) > _MANY or sum(wide) * high > _FULL * size[0] * size[1]
    needed = _need_text(detections.labels, groups) if len(class_names) > 1 else np.zeros(len(texts), np.bool_)
    plates = np.empty((0, 4), np.int64)
    for row, text in enumerate(texts):
        if wide[row] > size[0] or high > size[1] / 4 or (crowded and not needed[row]):
            continue
        x1, y1, x2, y2 = _around(boxes[row], sizes.line + sizes.rim, size)
        plate, on_plates, on_objects = _place((wide[row], high), (x1, y1, x2 + 1, y2 + 1), boxes, plates, size)
        if on_objects > (_MUCH if needed[row] else _LITTLE) or (on_plates > 0 and not needed[row]):
            continue
        plates = np.concatenate([plates, plate[None]])
        left, top, right, bottom = plate.tolist()
        color = PALETTE[groups[row]]
        draw.rectangle((left, top, right - 1, bottom - 1), color)
        is_light = 0.3 * color[0] + 0.6 * color[1] + 0.1 * color[2] > 100
        draw.text((left + pad, top), text, (0, 0, 0) if is_light else (255, 255, 255), font)


def _readable(class_names: Sequence[str], label: int) -> str:
    """A class's name in the characters that Pillow's own font has, or its number where that leaves nothing."""
    name = class_names[label - 1] if 0 < label <= len(class_names) else ""
    # Decomposed, an accented letter is a plain one and its accent.
    plain = " ".join(unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().split())
    if not any(character.isalnum() for character in plain):
        return f"class {label}"
    return plain if len(plain) <= _MAX_NAME else plain[: _MAX_NAME - 1] + "…"


def _need_text(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where color alone doesn't tell the class: its surest object, and all where another class has the same color."""
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    users = np.bincount(groups[first], minlength=len(PALETTE))
    needed: NDArray[np.bool_] = (users[groups[first]] > 1)[which]
    needed[first] = True
    return needed


def _place(
    plate: tuple[int, int],
    around: tuple[int, int, int, int],
    boxes: NDArray[np.int64],
    plates: NDArray[np.int64],
    size: tuple[int, int],
) -> tuple[NDArray[np.int64], float, float]:
    """Where a plate (width, height) goes, int64 [4]: above, below, beside or inside `around`, an object with its lines.

    It is the place that hides the least of other plates, then of objects; also how much it hides of either.
    """
    wide, high = plate
    x1, y1, x2, y2 = around
    spots = [(x1, y1 - high), (x2 - wide, y1 - high), (x1, y2), (x2 - wide, y2)]
    spots += [(x2, y1), (x1 - wide, y1), (x2, y2 - high), (x1 - wide, y2 - high)]
    spots += [(x1, y1), (x2 - wide, y1), (x1, y2 - high), (x2 - wide, y2 - high)]
    first = np.clip(np.array(spots), 0, np.array(size) - plate)
    places = np.concatenate([first, np.add(first, plate)], axis=1)
    on_plates, on_objects = _covered(places, plates), _covered(places, boxes)
    # Hiding a hundredth of an object is better than going one place down the list.
    best = int(np.lexsort((on_objects + np.arange(len(places)) / 100, on_plates))[0])
    return places[best], float(on_plates[best]), float(on_objects[best])


def _covered(places: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each rectangle [P, 4] hides of the others [N, 4], each one's share from 0 to 1 added up: float64 [P]."""
    first = np.maximum(places[:, None, :2], others[None, :, :2])
    stop = np.minimum(places[:, None, 2:], others[None, :, 2:])
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    shares: NDArray[np.float64] = (np.maximum(stop - first, 0).prod(axis=2) / areas).sum(axis=1)
    return shares
