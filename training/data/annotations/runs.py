"""The run lengths in a compressed RLE, read without trust."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def decode_runs(counts: bytes) -> NDArray[np.int64] | None:
    """Run lengths [R] of a compressed RLE, or None where the string is not one.

    Each character carries five bits, low ones first, and a sixth that says that more follow; the last one's top bit is
    the sign. From the fourth run on, the difference to the run two before is stored (COCO's maskApi.c, rleFrString).
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 6:  # 35 bits are more than any image has pixels
        return None
    shift = 5 * (np.arange(len(codes)) - np.repeat(first, last - first + 1))
    runs = np.add.reduceat((codes & 31) << shift, first)
    runs -= np.where(codes[last] & 16, np.int64(1) << (shift[last] + 5), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
