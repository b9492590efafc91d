"""Keypoint heatmaps -> coordinates, equal to torchvision's `heatmaps_to_keypoints` (Mask R-CNN sec. 5).

Each 56x56 heatmap is upsampled bicubically to its box in whole pixels and the place of the maximum is taken. The kernel
computes only pixels that can hold the maximum: a bicubic value is at most m + c * (m - lowest), where m is the largest
of the 16 source pixels under it and c the most that negative weights add up to, so what lies over source pixels too low
to beat a value already found is left out. The rest follows torch's float32 operations, so near-ties fall the same way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.runtime.kernels.compiled import kernel

_A = np.float32(-0.75)  # torch's bicubic coefficient
# Negative weights add up to most halfway between pixels in both directions: 2 * 1.1875 * 0.1875, rounded up.
_OVERSHOOT = 0.4454
_FAR = np.float32(2**30)


@kernel
def _fused(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    """a * b + c rounded once, as torch's kernels do on CPUs that have the instruction."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


@kernel
def _near(x: np.float32) -> np.float32:
    """Weight at distance x <= 1 (Keys 1981, with torch's roundings)."""
    rest = np.float32(np.float32((_A + np.float32(2)) * x) - (_A + np.float32(3)))
    return np.float32(np.float32(np.float32(rest * x) * x) + np.float32(1))


@kernel
def _far(x: np.float32) -> np.float32:
    """Weight at distance 1 <= x <= 2."""
    rest = _fused(_fused(_A, x, np.float32(-5) * _A), x, np.float32(8) * _A)
    return np.float32(np.float32(rest * x) - np.float32(4) * _A)


@kernel
def _table(start: int, stop: int, size: int, side: int, index: NDArray[np.int64], weight: NDArray[np.float32]) -> None:
    """The four source pixels of output pixels start..stop - 1 out of `size`, and their weights."""
    scale = np.float32(np.float32(side) / np.float32(size))
    for i in range(start, stop):
        position = _fused(scale, np.float32(np.float32(i) + np.float32(0.5)), np.float32(-0.5))
        below = min(int(np.floor(position)), side - 1)
        t = np.float32(position - np.float32(below))
        rest = np.float32(np.float32(1) - t)
        row = i - start
        weight[row, 0] = _far(np.float32(t + np.float32(1)))
        weight[row, 1] = _near(t)
        weight[row, 2] = _near(rest)
        weight[row, 3] = _far(np.float32(rest + np.float32(1)))
        for tap in range(4):
            index[row, tap] = min(max(below - 1 + tap, 0), side - 1)


@kernel
def _first_output(source: int, size: int, side: int) -> int:
    """An output pixel at or shortly before the first whose position is `source` or beyond, within 0..size."""
    position = np.floor((source + 0.5) * size / side - 0.5) - 1
    return min(max(int(position), 0), size)


@kernel
def _search(
    heat: NDArray[np.float32], left: int, top: int, right: int, bottom: int, width: int, height: int
) -> tuple[np.float32, int, int]:
    """The first maximum in reading order, and its x and y, over a window of the heatmap upsampled to width x height."""
    side = heat.shape[0]
    x_index, x_weight = np.empty((right - left, 4), np.int64), np.empty((right - left, 4), np.float32)
    y_index, y_weight = np.empty((1, 4), np.int64), np.empty((1, 4), np.float32)
    _table(left, right, width, side, x_index, x_weight)
    # Source rows upsampled horizontally; output rows come in order, so each is made once and the last four are kept.
    rows = np.empty((4, right - left), np.float32)
    held = np.array([-1, -1, -1, -1])
    best, best_x, best_y = np.float32(-np.inf), left, top
    for y in range(top, bottom):
        _table(y, y + 1, height, side, y_index, y_weight)
        for tap in range(4):
            source = y_index[0, tap]
            slot = source % 4
            if held[slot] != source:
                held[slot] = source
                for i in range(right - left):
                    value = np.float32(heat[source, x_index[i, 1]] * x_weight[i, 1])
                    value = _fused(heat[source, x_index[i, 0]], x_weight[i, 0], value)
                    value = _fused(heat[source, x_index[i, 2]], x_weight[i, 2], value)
                    rows[slot, i] = _fused(heat[source, x_index[i, 3]], x_weight[i, 3], value)
        s0, s1, s2, s3 = y_index[0, 0] % 4, y_index[0, 1] % 4, y_index[0, 2] % 4, y_index[0, 3] % 4
        for i in range(right - left):
            value = np.float32(rows[s1, i] * y_weight[0, 1])
            value = _fused(rows[s0, i], y_weight[0, 0], value)
            value = _fused(rows[s2, i], y_weight[0, 2], value)
            value = _fused(rows[s3, i], y_weight[0, 3], value)
            if value > best:
                best, best_x, best_y = value, left + i, y
    return best, best_x, best_y


@kernel
def _decode(heatmaps: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    count, keypoints, side = heatmaps.shape[0], heatmaps.shape[1], heatmaps.shape[2]
    found = np.empty((count, keypoints, 3), np.float32)
    for n in range(count):
        box_width = max(np.float32(boxes[n, 2] - boxes[n, 0]), np.float32(1))
        box_height = max(np.float32(boxes[n, 3] - boxes[n, 1]), np.float32(1))
        width, height = int(np.ceil(box_width)), int(np.ceil(box_height))
        for k in range(keypoints):
            heat = heatmaps[n, k]
            peak, peak_x, peak_y = heat[0, 0], 0, 0
            lowest = heat[0, 0]
            for y in range(side):
                for x in range(side):
                    lowest = min(lowest, heat[y, x])
                    if heat[y, x] > peak:
                        peak, peak_x, peak_y = heat[y, x], x, y
            # A value to beat: the output pixel over the heatmap's own peak.
            x = min((2 * peak_x + 1) * width // (2 * side), width - 1)
            y = min((2 * peak_y + 1) * height // (2 * side), height - 1)
            to_beat, _, _ = _search(heat, x, y, x + 1, y + 1, width, height)
            # Solve m + c * (m - lowest) >= to_beat for m, leaving room for float32's rounding.
            low = np.float64(lowest)
            needed = low + (np.float64(to_beat) - low) / (1 + _OVERSHOOT) - 1e-4 * (np.float64(peak) - low) - 1e-6
            left, top, right, bottom = peak_x, peak_y, peak_x, peak_y
            for y in range(side):
                for x in range(side):
                    if heat[y, x] >= needed:
                        left, right = min(left, x), max(right, x)
                        top, bottom = min(top, y), max(bottom, y)
            # A source pixel reaches the output pixels less than two source pixels away.
            x0 = _first_output(left - 2, width, side)
            y0 = _first_output(top - 2, height, side)
            x1 = min(_first_output(right + 2, width, side) + 3, width)
            y1 = min(_first_output(bottom + 2, height, side) + 3, height)
            score, x, y = _search(heat, x0, y0, x1, y1, width, height)
            x_step = np.float32(box_width / np.float32(width))
            y_step = np.float32(box_height / np.float32(height))
            half = np.float32(0.5)
            found[n, k, 0] = np.float32(np.float32(np.float32(x) + half) * x_step) + boxes[n, 0]
            found[n, k, 1] = np.float32(np.float32(np.float32(y) + half) * y_step) + boxes[n, 1]
            found[n, k, 2] = score
    return found


def decode_keypoints(heatmaps: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The place of each heatmap's maximum: float32 [N, K, 3] as (x, y, logit), x and y in the boxes' pixels.

    heatmaps: float32 [N, K, S, S], finite logits inside the box.
    boxes: float32 [N, 4], (x1, y1, x2, y2); sides below one pixel count as one.
    The logit is the upsampled heatmap's maximum. Releases the GIL; memory grows with the widest box, not with areas or
    N. ValueError on wrong shapes or boxes that are not finite.
    """
    count = len(heatmaps)
    if heatmaps.ndim != 4 or heatmaps.shape[2] != heatmaps.shape[3] or heatmaps.shape[2] < 1:
        raise ValueError(f"heatmaps of shape {heatmaps.shape}: need [N, K, S, S]")
    if boxes.shape != (count, 4):
        raise ValueError(f"boxes of shape {boxes.shape} for {count} heatmaps: need [{count}, 4]")
    if not np.isfinite(boxes).all():
        bad = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
        raise ValueError(f"box {bad} is {boxes[bad].tolist()}: coordinates must be finite")
    # One memory layout, writable: any other would make numba compile again, inside a request.
    heatmaps = np.require(heatmaps, np.float32, ("C", "A", "W"))
    boxes = np.clip(np.require(boxes, np.float32, ("C", "A", "W")), -_FAR, _FAR)
    return _decode(heatmaps, boxes)


def warm_up() -> None:
    """Compiles the kernel, or loads it from the cache, so that no request waits for it."""
    decode_keypoints(np.zeros((1, 1, 2, 2), np.float32), np.array([[0, 0, 3, 3]], np.float32))
