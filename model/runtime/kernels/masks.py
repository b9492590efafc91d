"""28x28 probabilities and a box -> a full-size COCO mask, without ever making the full-size picture.

`encode_masks` equals torchvision's `paste_masks_in_image` (padding 1), thresholded at 0.5, then pycocotools' `encode`:
the same strings, because a pixel whose side of 0.5 is in doubt is computed by torch's own float32 operations.

Why it is fast: a mask is upsampled bilinearly, so between two neighbouring source rows a pixel column is linear in y
and crosses 0.5 at most once, and COCO's runs go down the columns. For each column the kernel visits the cells between
source rows, skips those whose four corners lie on one side of 0.5, and in the others solves for the crossing. A column
costs a few cells, not its height in pixels, and memory is a small table and the runs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE
from model.runtime.kernels.compiled import kernel
from model.runtime.kernels.polygons import to_polygons
from model.runtime.kernels.rle import area, check_size, decode, encode_bitmap, from_uncompressed, pack, to_uncompressed

__all__ = [
    "area",
    "decode",
    "encode_bitmap",
    "encode_masks",
    "from_uncompressed",
    "to_polygons",
    "to_uncompressed",
    "warm_up",
]

_THRESHOLD = 0.5
# Interpolating in float32 errs by less than this for probabilities; nearer to the threshold, float32 decides.
_DOUBT = 1e-6
# Rounding of a source coordinate, as a share of the source's side.
_COORDINATE_DOUBT = 5e-7
# No probabilities are this far apart; beyond it, arithmetic may give infinities.
_STEEPEST = 1e6
# torch takes another bilinear kernel, with another order of operations, up to this output height + width.
_SMALL_OUTPUT = 128
_OUTSIDE, _INSIDE, _MIXED = 0, 1, 2
# Far beyond any image, and far from overflow.
_FAR = np.float32(2**30)


@kernel
def _fused(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    """a * b + c rounded once, as torch's kernels do on CPUs that have the instruction."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


@kernel
def _source(at: int, scale: np.float32, last: int, small: bool) -> tuple[int, np.float32]:
    """Source index and weight of its successor for an output index: half-pixel centres, clamped at 0."""
    centre = np.float32(at) + np.float32(0.5)
    if small:
        position = _fused(scale, centre, np.float32(-0.5))
    else:
        position = np.float32(np.float32(scale * centre) - np.float32(0.5))
    if position < np.float32(0):
        position = np.float32(0)
    index = min(int(position), last)
    return index, min(np.float32(position - np.float32(index)), np.float32(1))


@kernel
def _pixel(
    p00: np.float32, p01: np.float32, p10: np.float32, p11: np.float32, wy: np.float32, wx: np.float32, small: bool
) -> bool:
    """Whether one upsampled pixel is above the threshold, in torch's float32 operations and their order."""
    one = np.float32(1)
    vy = np.float32(one - wy)
    vx = np.float32(one - wx)
    if small:
        value = _fused(np.float32(vy * vx), p00, np.float32(np.float32(vy * wx) * p01))
        value = _fused(np.float32(wy * vx), p10, value)
        value = _fused(np.float32(wy * wx), p11, value)
    else:
        upper = _fused(p00, vx, np.float32(p01 * wx))
        lower = _fused(p10, vx, np.float32(p11 * wx))
        value = _fused(upper, vy, np.float32(lower * wy))
    return bool(value > np.float32(_THRESHOLD))


@kernel
def _set(inside: bool, position: int, runs: NDArray[np.int64], state: NDArray[np.int64]) -> None:
    """From `position` (column-major) on, pixels are `inside`. `state`: runs written, start of this run, its value."""
    if inside != (state[2] == 1):
        runs[state[0]] = position - state[1]
        state[0] += 1
        state[1] = position
        state[2] = 1 if inside else 0


@kernel
def _prepare(mask: NDArray[np.float32], source: NDArray[np.float32], kinds: NDArray[np.uint8]) -> None:
    """Writes the mask with its border of zeros, and for each cell between four source pixels on which side they lie."""
    side = len(mask)
    n = side + 2
    for row in range(side):  # numba takes 5 s to compile a slice assignment
        for column in range(side):
            source[row + 1, column + 1] = mask[row, column]
    low = np.float32(_THRESHOLD - _DOUBT)
    high = np.float32(_THRESHOLD + _DOUBT)
    for row in range(n):
        below = min(row + 1, n - 1)
        for column in range(n):
            after = min(column + 1, n - 1)
            a, b = source[row, column], source[row, after]
            c, d = source[below, column], source[below, after]
            if a > high and b > high and c > high and d > high:
                kinds[row, column] = _INSIDE
            elif a < low and b < low and c < low and d < low:
                kinds[row, column] = _OUTSIDE
            else:
                kinds[row, column] = _MIXED


@kernel
def _cross(
    source: NDArray[np.float32],
    row: int,
    column: int,
    wx: np.float32,
    start: int,
    stop: int,
    y1: int,
    rows_per_source: float,
    row_weight: NDArray[np.float32],
    small: bool,
    base: int,
    runs: NDArray[np.int64],
    state: NDArray[np.int64],
) -> None:
    """Sets output rows start..stop - 1 of one column, all of them between source rows `row` and `row` + 1."""
    n = len(source)
    below, after = min(row + 1, n - 1), min(column + 1, n - 1)
    a, b = source[row, column], source[row, after]
    c, d = source[below, column], source[below, after]
    weight = np.float64(wx)
    upper = a + weight * (np.float64(b) - a)
    lower = c + weight * (np.float64(d) - c)
    if upper > _THRESHOLD + _DOUBT and lower > _THRESHOLD + _DOUBT:
        _set(True, base + start, runs, state)
        return
    if upper < _THRESHOLD - _DOUBT and lower < _THRESHOLD - _DOUBT:
        _set(False, base + start, runs, state)
        return
    # Rows from `first` to `last` are in doubt; those before are on upper's side, those after on lower's.
    first, last = start, stop - 1
    slope = lower - upper
    if _DOUBT < abs(slope) < _STEEPEST:  # false for NaN too
        crossing = row + (_THRESHOLD - upper) / slope + 0.5
        doubt = _DOUBT / abs(slope) + _COORDINATE_DOUBT * n
        earliest = int(np.ceil((crossing - doubt) * rows_per_source - 0.5)) + y1
        latest = int(np.floor((crossing + doubt) * rows_per_source - 0.5)) + y1
        first = min(max(earliest, start), stop)
        last = min(max(latest, start - 1), stop - 1)
    if first > start:
        _set(upper > _THRESHOLD, base + start, runs, state)
    for y in range(first, last + 1):
        _set(_pixel(a, b, c, d, row_weight[y], wx, small), base + y, runs, state)
    if last + 1 < stop:
        _set(lower > _THRESHOLD, base + last + 1, runs, state)


@kernel
def _encode(
    masks: NDArray[np.float32], boxes: NDArray[np.int64], height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Runs of all masks end to end, and where each mask's begin. `boxes`: expanded x1, y1, x2, y2, corners included."""
    count = masks.shape[0]
    n = masks.shape[1] + 2
    source = np.zeros((n, n), np.float32)
    kinds = np.empty((n, n), np.uint8)
    row_weight = np.empty(height, np.float32)
    # Bands: the output rows between two neighbouring source rows, top to bottom.
    band_source = np.empty(n, np.int64)
    band_start = np.empty(n, np.int64)
    # Parts of a column: neighbouring bands that are all inside or all outside, or a mixed one alone.
    part_kind = np.empty(n, np.int64)
    part_start = np.empty(n + 1, np.int64)
    part_source = np.empty(n, np.int64)
    state = np.zeros(3, np.int64)
    runs = np.empty(1024 + 4 * height + count, np.int64)
    offsets = np.zeros(count + 1, np.int64)

    for mask in range(count):
        x1, y1 = boxes[mask, 0], boxes[mask, 1]
        box_width = max(boxes[mask, 2] - x1 + 1, 1)
        box_height = max(boxes[mask, 3] - y1 + 1, 1)
        small = box_width + box_height <= _SMALL_OUTPUT
        left, right = max(x1, 0), min(boxes[mask, 2] + 1, width)
        top, bottom = max(y1, 0), min(boxes[mask, 3] + 1, height)
        if top >= bottom:
            left = right
        state[1] = 0
        state[2] = 0

        if left < right:
            _prepare(masks[mask], source, kinds)
        x_scale = np.float32(np.float32(n) / np.float32(box_width))
        y_scale = np.float32(np.float32(n) / np.float32(box_height))
        rows_per_source = box_height / n
        bands = 0
        for y in range(top, bottom):
            row, row_weight[y] = _source(y - y1, y_scale, n - 1, small)
            if bands == 0 or row != band_source[bands - 1]:
                band_source[bands] = row
                band_start[bands] = y
                bands += 1

        previous = -1
        parts = 0
        for x in range(left, right):
            column, wx = _source(x - x1, x_scale, n - 1, small)
            if column != previous:
                previous = column
                parts = 0
                for band in range(bands):
                    kind = int(kinds[band_source[band], column])
                    if parts == 0 or kind == _MIXED or kind != part_kind[parts - 1]:
                        part_kind[parts] = kind
                        part_start[parts] = band_start[band]
                        part_source[parts] = band_source[band]
                        parts += 1
                part_start[parts] = bottom
            # A run may end at each row of the column, one at its end, two after the last, and one in each mask to come.
            if state[0] + bottom - top + 3 + count - mask > len(runs):
                grown = np.empty(2 * len(runs) + bottom - top, np.int64)
                for i in range(state[0]):
                    grown[i] = runs[i]
                runs = grown
            base = x * height
            for part in range(parts):
                start, stop = part_start[part], part_start[part + 1]
                if part_kind[part] != _MIXED:
                    _set(part_kind[part] == _INSIDE, base + start, runs, state)
                else:
                    row = part_source[part]
                    _cross(
                        source, row, column, wx, start, stop, y1, rows_per_source, row_weight, small, base, runs, state
                    )
            # Background between this column's last row in the box and the next one's first.
            if top > 0 or bottom < height:
                _set(False, base + bottom, runs, state)
        if left < right < width and top == 0 and bottom == height:
            _set(False, right * height, runs, state)

        pixels = height * width
        if state[1] < pixels:
            runs[state[0]] = pixels - state[1]
            state[0] += 1
        offsets[mask + 1] = state[0]
    return runs[: state[0]], offsets


def _expand(boxes: NDArray[np.float32], side: int) -> NDArray[np.int64]:
    """Boxes grown about their centre by (side + 2) / side, as the padded mask is, and cut to whole pixels."""
    scale = np.float32((side + 2) / side)
    half = np.float32(0.5)
    boxes = np.clip(boxes, -_FAR, _FAR)
    half_size = (boxes[:, 2:] - boxes[:, :2]) * half * scale
    centre = (boxes[:, 2:] + boxes[:, :2]) * half
    return np.concatenate((centre - half_size, centre + half_size), axis=1).astype(np.int64)


def encode_masks(masks: NDArray[np.float32], boxes: NDArray[np.float32], size: tuple[int, int]) -> list[RLE]:
    """The mask of each detection at the image's size, as pycocotools would encode torchvision's.

    masks: float32 [N, M, M], foreground probabilities inside the box (NaN counts as background).
    boxes: float32 [N, 4], (x1, y1, x2, y2) in pixels of the original image; may reach over its border.
    size: (height, width) of the original image.
    The mask is the probability, resampled to the box, above 0.5 (Mask R-CNN sec. 3.1, "Inference"). Releases the GIL.
    Time grows with N and the boxes' widths, memory with the runs. ValueError on wrong shapes or boxes not finite.
    """
    size = check_size(size)
    count = len(masks)
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or masks.shape[1] < 1:
        raise ValueError(f"masks of shape {masks.shape}: need [N, M, M]")
    if boxes.shape != (count, 4):
        raise ValueError(f"boxes of shape {boxes.shape} for {count} masks: need [{count}, 4]")
    if not np.isfinite(boxes).all():
        bad = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise ValueError(f"box {bad} is {boxes[bad].tolist()}: coordinates must be finite")
    # One memory layout, writable: any other would make numba compile again, inside a request.
    masks = np.require(masks, np.float32, ("C", "A", "W"))
    expanded = _expand(np.asarray(boxes, np.float32), masks.shape[1])
    runs, offsets = _encode(masks, expanded, *size)
    return pack(runs, offsets, size)


def warm_up() -> None:
    """Compiles, or loads from the cache, what encoding, decoding and polygons need; then no request waits for it."""
    rle = encode_masks(np.full((1, 2, 2), 0.9, np.float32), np.array([[1, 1, 5, 4]], np.float32), (6, 8))[0]
    decode(rle)
    to_polygons(rle)
