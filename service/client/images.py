"""What can be given as an image, as the bytes of an image file."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.client.errors import UnreadableFileError

if TYPE_CHECKING:
    from PIL import Image

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | NDArray[np.uint8] | Image.Image"

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""More than 8 bits, which the server scales."""


def encoded(source: ImageSource) -> bytes:
    """The bytes to send: those of the file at a path, or `source` itself if it is bytes.

    A picture is packed without loss: a uint8 [H, W, 3] array of RGB, or a Pillow image as its pixels lie, so that
    coordinates in the answer are its own (an orientation in its EXIF is not applied). Raises UnreadableFileError.
    ValueError for an array of another shape or type, TypeError for anything else.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, os.PathLike)):
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise UnreadableFileError(error.strerror or str(error), os.fsdecode(source)) from None
    from PIL import Image

    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or source.size == 0:
            raise ValueError(
                f"the image is {source.dtype} {list(source.shape)}: need uint8 [H, W, 3] with pixels in it"
            )
        return _png(Image.fromarray(source))
    if isinstance(source, Image.Image):
        if source.mode in _DEEP_MODES:
            return _saved(source, "TIFF")
        if source.mode not in _PNG_MODES:
            source = source.convert("RGBA" if source.has_transparency_data else "RGB")
        return _png(source)
    raise TypeError(f"an image is a path, bytes, a NumPy array or a Pillow image, not {type(source).__name__}")


def _png(image: Image.Image) -> bytes:
    return _saved(image, "PNG", compress_level=1)  # it is sent once and thrown away


def _saved(image: Image.Image, format: str, **options: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
