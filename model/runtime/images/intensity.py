"""How a picture's values become the 8 bits that networks take.

- 8-bit values stay as they are.
- 16-bit values are scaled from 0..65535 to 0..255 (those of which fewer bits count from 0..2**bits - 1), never clipped.
- 32-bit integers: as 16-bit ones when all fit in 0..65535, else darkest to brightest. Floats: 0..1, else the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runtime.images.picture import Picture


def to_rgb(picture: Picture) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB. May be read-only and may share the picture's memory."""
    values = picture.values
    if values.dtype == np.uint8:
        tones = values
    elif values.dtype == np.uint16:
        tones = _high_byte(_over_16_bits(values, picture.significant_bits))
    else:
        tones = _tone(values)
    if picture.transparent is not None:
        tones[picture.transparent] = 255
    return tones if tones.ndim == 3 else np.repeat(tones[..., None], 3, axis=2)


def _over_16_bits(values: NDArray[np.uint16], bits: int | None) -> NDArray[np.uint16]:
    """Values of fewer bits spread over 0..65535; of 12 bits, 4095 becomes 65535."""
    if bits is None or not 8 < bits < 16:
        return values
    return (values << (16 - bits) | values >> (2 * bits - 16)).astype(np.uint16)


def _high_byte(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """0..65535 to 0..255: v / 257 rounded to the nearest."""
    wide = values.astype(np.uint32)
    wide *= 255
    wide += 32895
    wide >>= 16
    return wide.astype(np.uint8)


def _tone(values: NDArray[Any]) -> NDArray[np.uint8]:
    """8 bits of int32 or float32 values, which have no agreed black and white. NaN becomes black."""
    if values.dtype.kind == "i":
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= 65535:
            return _high_byte(values.astype(np.uint16))
    else:
        finite = np.isfinite(values)
        low, high = float(values.min(where=finite, initial=np.inf)), float(values.max(where=finite, initial=-np.inf))
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
    factor = 255 / (high - low) if high > low else 0.0
    tones = np.empty(values.shape, np.uint8)
    # By rows, because float64 takes eight bytes a pixel. Infinite values meet infinite limits and 0 * inf on the way.
    with np.errstate(invalid="ignore"):
        for row, target in zip(values, tones, strict=True):
            scaled = (row.astype(np.float64) - low) * factor
            target[:] = np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255) + 0.5
    return tones
