"""Masks and sizes of any kind."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

Bitmap = NDArray[np.bool_]


def sizes(longest: int) -> SearchStrategy[tuple[int, int]]:
    """(height, width)."""
    return st.tuples(st.integers(1, longest), st.integers(1, longest))


@st.composite
def bitmaps(draw: st.DrawFn, longest: int = 14) -> Bitmap:
    """bool [H, W], from dust to blocks: each pixel of a coarse picture fills some rows and columns."""
    height, width = draw(sizes(longest))
    number = draw(st.integers(0, 2 ** (height * width) - 1))
    bits = np.frombuffer(number.to_bytes(-(-height * width // 8), "little"), np.uint8)
    coarse = np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)
    return coarse.repeat(draw(st.integers(1, 3)), axis=0).repeat(draw(st.integers(1, 3)), axis=1)
