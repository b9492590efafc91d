"""A label image: a TIFF as large as the picture, whose pixels hold the number of the object that they belong to.

It is painted in bands of rows, so that it takes little memory, however large the picture.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.runtime.analysis.findings import Findings, NeedsMasks
from model.runtime.kernels.regions import box_of
from model.runtime.kernels.rle import decode_part

BAND: Final = 256
"""Rows of a strip."""
MOST_IN_16_BITS: Final = 65_535


def label_image(findings: Findings) -> bytes:
    """0 is the background, object 1 the best; where objects overlap, the one with the higher score is seen.

    uint16, or uint32 where there are more than 65,535 objects; compressed by deflate. Raises NeedsMasks.
    """
    from tifffile import imwrite  # takes a tenth of a second, which a server without TIFFs need not spend

    if findings.detections.masks is None:
        raise NeedsMasks("a label image is made of masks, and there are none")
    dtype = np.dtype("<u2" if len(findings.detections) <= MOST_IN_16_BITS else "<u4")
    file = BytesIO()
    imwrite(
        file,
        (zlib.compress(band.tobytes()) for band in _bands(findings, dtype)),
        shape=findings.size,
        dtype=dtype,
        byteorder="<",
        photometric="minisblack",
        compression="zlib",
        rowsperstrip=BAND,
        metadata=None,
    )
    return file.getvalue()


def _bands(findings: Findings, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    height, width = findings.size
    masks = findings.detections.masks or []
    boxes = np.array([box_of(mask) for mask in masks], np.int64).reshape(-1, 4)
    tops, bottoms = boxes[:, 1], boxes[:, 1] + boxes[:, 3]
    for start in range(0, height, BAND):
        stop = min(start + BAND, height)
        band = np.zeros((stop - start, width), dtype)
        for row in np.flatnonzero((tops < stop) & (bottoms > start))[::-1].tolist():  # the best come last
            left, top, columns, rows = boxes[row].tolist()
            first, last = max(top, start), min(top + rows, stop)
            inside = decode_part(masks[row], (first, left, last - first, columns), (last - first, columns)) > 0
            band[first - start : last - start, left : left + columns][inside] = row + 1
        yield band
