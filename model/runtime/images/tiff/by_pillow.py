"""What Pillow's libtiff reads rightly of TIFFs: 8-bit pixels, or fewer bits, with all samples together."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Final

from PIL import TiffImagePlugin

from model.runtime.images.conversion import picture_of
from model.runtime.images.data import Data
from model.runtime.images.limits import ImageLimits
from model.runtime.images.picture import Picture

if TYPE_CHECKING:
    from tifffile import TiffPage

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_ALPHA: Final = (1, 2)
"""ExtraSamples: associated and unassociated alpha."""
_PACK_BITS: Final = 32773
_COMPRESSIONS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
"""Those that Pillow's libtiff is built with: none, CCITT's three, LZW, JPEG by two numbers, then those of any bytes."""


def is_for_pillow(page: TiffPage, data: Data) -> bool:
    """Whether it reads the plane rightly."""
    if page.planarconfig != 1 or page.sampleformat != 1 or data[:4] == b"MM\0+":
        return False
    if page.compression not in _COMPRESSIONS:
        return False
    samples, extra = page.samplesperpixel, tuple(page.extrasamples or ())
    if page.bitspersample in (1, 2, 4):
        return samples == 1 and page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE)
    if page.bitspersample != 8:
        return False
    if page.predictor != 1 and page.compression == _PACK_BITS:  # libtiff passes over a predictor there
        return False
    alpha = len(extra) == 1 and extra[0] in _ALPHA
    colors = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _LAB: 3}
    expected = colors.get(page.photometric, 0)
    return samples == expected or (alpha and page.photometric in (_BLACK_IS_ZERO, _RGB) and samples == expected + 1)


def by_pillow(data: bytes, directory: int | None, limits: ImageLimits) -> Picture:
    """The upright picture of the directory at that offset, which becomes the file's first; None: of the first."""
    if directory is not None:
        data = _with_first(data, directory)
    image = TiffImagePlugin.TiffImageFile(BytesIO(data))
    limits.check_pixels(*image.size)
    image.info.pop("xmp", None)  # Pillow turns by the tag, and where there is none by what XMP says, as no viewer does
    image.load()
    return picture_of(image)


def _with_first(data: bytes, directory: int) -> bytes:
    big = data[2:4] == b"+\0"
    order = "<" if data[:2] == b"II" else ">"
    head = data[:8] + struct.pack("<Q", directory) if big else data[:4] + struct.pack(order + "I", directory)
    return data if data.startswith(head) else head + data[len(head) :]
