"""COCO run-length encoding: masks as column-major runs, packed into the string that pycocotools reads and writes.

Runs alternate between background and foreground and start with background, so a mask whose first pixel is set starts
with a run of 0. The string stores each run, from the fourth on as the difference from the run two before it, in groups
of five bits, lowest first, one character a group: bit 5 says that another group follows, and 48 is added to make it
printable.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.runtime.detections import RLE
from model.runtime.kernels.compiled import kernel

MAX_PIXELS = 2**32 - 1  # pycocotools keeps a run in an unsigned 32-bit integer
_MAX_CHARS = 7  # of one count: differences of 32-bit numbers take 33 bits and a sign

_BAD_CHARACTER, _CUT_OFF, _BAD_RUN = -1, -2, -3


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) as plain integers; ValueError when it is not the size of a mask that COCO can hold."""
    height, width = int(size[0]), int(size[1])
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(
            f"mask size {height}x{width} (height x width): need sides of 1 or more, fewer than 2**32 pixels"
        )
    return height, width


@kernel
def _pack(runs: NDArray[np.int64], offsets: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    count = len(offsets) - 1
    chars = np.empty(_MAX_CHARS * len(runs), np.uint8)
    ends = np.zeros(count + 1, np.int64)
    used = 0
    for mask in range(count):
        first = offsets[mask]
        for i in range(first, offsets[mask + 1]):
            rest = runs[i] - runs[i - 2] if i - first > 2 else runs[i]
            more = True
            while more:
                group = rest & 31
                rest >>= 5
                more = rest != -1 if group & 16 else rest != 0
                chars[used] = group + 48 + (32 if more else 0)
                used += 1
        ends[mask + 1] = used
    return chars[:used], ends


@kernel
def _unpack(chars: NDArray[np.uint8], pixels: int) -> tuple[NDArray[np.int64], int, int]:
    """The runs, and 0 or what is wrong and at which character."""
    runs = np.empty(len(chars), np.int64)
    used = 0
    at = 0
    while at < len(chars):
        start = at
        value = 0
        shift = 0
        more = True
        while more:
            if at == len(chars):
                return runs[:used], _CUT_OFF, start
            group = int(chars[at]) - 48
            if group < 0 or group > 63:
                return runs[:used], _BAD_CHARACTER, at
            if shift == 5 * _MAX_CHARS:
                return runs[:used], _BAD_RUN, start
            value |= (group & 31) << shift
            shift += 5
            more = group & 32 != 0
            at += 1
            if not more and group & 16:
                value -= 1 << shift
        if used > 2:
            value += runs[used - 2]
        if value < 0 or value > pixels:
            return runs[:used], _BAD_RUN, start
        runs[used] = value
        used += 1
    return runs[:used], 0, at


def pack(runs: NDArray[np.int64], offsets: NDArray[np.int64], size: tuple[int, int]) -> list[RLE]:
    """One RLE for each mask: `runs` int64 of all masks end to end, mask i's at `offsets[i]:offsets[i + 1]` (int64)."""
    chars, ends = _pack(np.ascontiguousarray(runs), np.ascontiguousarray(offsets))
    text = chars.tobytes()
    cuts = ends.tolist()
    return [RLE(size, text[a:b]) for a, b in pairwise(cuts)]


def unpack(rle: RLE) -> NDArray[np.int64]:
    """The runs in pixels, int64 [R], background first.

    ValueError when `rle.counts` is no such string, or its runs do not add up to height x width.
    """
    height, width = check_size(rle.size)
    runs, problem, at = _unpack(np.frombuffer(bytearray(rle.counts), np.uint8), height * width)
    if problem == _BAD_CHARACTER:
        raise ValueError(f"RLE counts: byte {rle.counts[at : at + 1]!r} at {at} is outside '0'..'o'")
    if problem == _CUT_OFF:
        raise ValueError(f"RLE counts: cut off inside the number that starts at {at}")
    if problem == _BAD_RUN:
        raise ValueError(f"RLE counts: the number that starts at {at} gives a run below 0 or above {height}x{width}")
    if (total := int(runs.sum())) != height * width:
        raise ValueError(f"RLE counts: runs cover {total} pixels, the mask of {height}x{width} has {height * width}")
    return runs


def decode(rle: RLE) -> NDArray[np.bool_]:
    """The mask as bool [height, width] (in column-major memory, as the runs lie). ValueError on malformed counts."""
    height, width = rle.size
    runs = unpack(rle)
    values = np.zeros(len(runs), np.bool_)
    values[1::2] = True
    return np.repeat(values, runs).reshape(width, height).T


@kernel
def _sample(runs: NDArray[np.int64], height: int, window: NDArray[np.int64], part: NDArray[np.uint8]) -> None:
    """Fills `part` uint8 [H, W], which is 0, from the window (top, left, height, width) of a mask of `height` rows."""
    top, left, window_height, window_width = window
    rows, columns = part.shape
    run = 0
    end = runs[0]  # pixel behind the current run, in column-major order
    for x in range(columns):
        start = (left + (2 * x + 1) * window_width // (2 * columns)) * height + top
        while run > 0 and end - runs[run] > start:  # an enlarged column is read again
            end -= runs[run]
            run -= 1
        while end <= start:
            run += 1
            end += runs[run]
        if run % 2 == 0 and end >= start + window_height:
            continue  # most columns hold nothing of an object
        for y in range(rows):
            pixel = start + (2 * y + 1) * window_height // (2 * rows)
            while end <= pixel:
                run += 1
                end += runs[run]
            if run % 2 == 1:
                part[y, x] = 1


def decode_part(rle: RLE, window: tuple[int, int, int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A window of the mask, resized: uint8 [size] of 0 and 1, by the nearest pixel, without the mask itself.

    window: (top, left, height, width) in pixels, inside the mask. size: (height, width) of what is returned. Its pixel
    i shows pixel floor((i + 0.5) * window / size) of the window, as torch's "nearest-exact". ValueError on malformed
    counts, or for a window that does not lie inside.
    """
    height, width = rle.size
    top, left, window_height, window_width = window
    inside = top >= 0 and left >= 0 and top + window_height <= height and left + window_width <= width
    if not inside or window_height < 1 or window_width < 1:
        raise ValueError(f"window {window} (top, left, height, width) does not lie inside the mask of {height}x{width}")
    part = np.zeros(check_size(size), np.uint8)
    _sample(unpack(rle), height, np.array(window, np.int64), part)
    return part


@kernel
def _place(runs: NDArray[np.int64], rows: int, height: int, first: int) -> tuple[NDArray[np.int64], int]:
    """Runs of a mask of `rows` rows, in a picture of `height` rows whose pixel `first` is the mask's pixel 0, without
    the last run of background; and the pixels that they cover."""
    parts = 0
    at = 0
    for run in range(len(runs)):
        if run % 2 == 1 and runs[run] > 0:
            parts += (at + runs[run] - 1) // rows - at // rows + 1
        at += runs[run]
    placed = np.zeros(2 * parts, np.int64)
    used = 0
    at = 0
    end = 0  # in the picture, behind the last run
    for run in range(len(runs)):
        stop = at + runs[run]
        while run % 2 == 1 and at < stop:
            column = at // rows
            length = min(stop, (column + 1) * rows) - at
            start = first + column * height + at % rows
            if used > 0 and start == end:
                placed[used - 1] += length
            else:
                placed[used] = start - end
                placed[used + 1] = length
                used += 2
            end = start + length
            at += length
        at = stop
    return placed[:used], end


def place(rle: RLE, corner: tuple[int, int], size: tuple[int, int]) -> RLE:
    """The mask as part of a picture of `size` (height, width), its upper left corner at `corner` (y, x).

    No pixel is made. ValueError where it does not lie inside, or on malformed counts.
    """
    (rows, columns), (top, left) = rle.size, corner
    height, width = check_size(size)
    if top < 0 or left < 0 or top + rows > height or left + columns > width:
        raise ValueError(f"a mask of {rows}x{columns} at {corner} (y, x) does not lie inside {height}x{width} pixels")
    placed, end = _place(unpack(rle), rows, height, left * height + top)
    rest = height * width - end
    runs = np.append(placed, rest) if rest or not len(placed) else placed
    return pack(runs, np.array([0, len(runs)]), (height, width))[0]


def beside(parts: Sequence[RLE]) -> RLE:
    """Masks of the same height as one, from left to right. ValueError on malformed counts, or for other heights."""
    height, width = parts[0].size[0], sum(part.size[1] for part in parts)
    if any(part.size[0] != height for part in parts):
        raise ValueError(f"masks of {sorted({part.size[0] for part in parts})} rows have no common height")
    each = [unpack(part) for part in parts]
    lengths = np.concatenate(each)
    values = np.concatenate([np.arange(len(runs)) % 2 for runs in each])[lengths > 0]
    lengths = lengths[lengths > 0]
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))  # a run may go on in the next part
    runs = np.add.reduceat(lengths, starts)
    if values[0]:
        runs = np.insert(runs, 0, 0)
    return pack(runs, np.array([0, len(runs)]), check_size((height, width)))[0]


def area(rle: RLE) -> int:
    """Foreground pixels, without decoding. ValueError on malformed counts."""
    return int(unpack(rle)[1::2].sum())


def to_uncompressed(rle: RLE) -> list[int]:
    """COCO's uncompressed counts: the runs as plain numbers, background first. ValueError on malformed counts."""
    runs: list[int] = unpack(rle).tolist()
    return runs


def from_uncompressed(counts: Sequence[int], size: tuple[int, int]) -> RLE:
    """The RLE of COCO's uncompressed counts; ValueError when they do not cover `size` (height, width) exactly."""
    height, width = check_size(size)
    runs = np.asarray(counts, np.int64).reshape(-1)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"RLE counts: must be 0 or more and add up to {height}x{width} = {height * width} pixels")
    return pack(runs, np.array([0, len(runs)]), (height, width))[0]


def encode_bitmap(mask: NDArray[np.bool_]) -> RLE:
    """The RLE of a mask, bool [height, width]; any other dtype counts as foreground where it is not 0."""
    if mask.ndim != 2:
        raise ValueError(f"mask of shape {mask.shape}: need [height, width]")
    size = check_size((mask.shape[0], mask.shape[1]))
    flat = np.asarray(mask, np.bool_).ravel(order="F")
    starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lead = [0, 0] if flat[0] else [0]  # background comes first, if only with a run of 0
    runs = np.diff(np.concatenate((lead, starts, [len(flat)])))
    return pack(runs.astype(np.int64), np.array([0, len(runs)]), size)[0]
