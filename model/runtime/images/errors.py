"""Why an image cannot be used. Every message can be shown to whoever sent it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager


class ImageError(Exception):
    """An image that cannot be used; the message can be shown to whoever sent it."""


class NotAnImage(ImageError):
    """The bytes are no image of any known format."""


class UnsupportedFormat(ImageError):
    """An image, but of a format that is not accepted. `format` names it."""

    def __init__(self, format: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{format} is not accepted here; send one of {', '.join(allowed)}")
        self.format = format


class DamagedImage(ImageError):
    """An image of an accepted format that is cut short, broken, or of a variant that cannot be read."""


class TooManyPixels(ImageError):
    """The header announces more pixels than accepted. Nothing was decoded."""


class UnknownRange(ImageError):
    """The way asked for to make 8 bits of the values does not fit them; the message says what does."""


class UnsupportedVariant(ImageError):
    """A sound file of an accepted format, of a kind that cannot be read here. The message says what would help."""


class NoSuchPlane(ImageError):
    """A page, channel, z or t was asked for that the file does not have."""


class TooManyPlanes(ImageError):
    """All planes were asked for, and there are more than are accepted."""


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Turns whatever a parser raises on hostile bytes into an ImageError."""
    from PIL import Image  # here, for the client names these errors and starts without Pillow

    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # a plugin's own check of Pillow's own limit
        raise TooManyPixels(f"the image has more pixels than can be decoded: {error}") from error
    except Exception as error:  # Pillow's plugins and tifffile raise whatever they stumble over
        said = str(error)
        # Words for whoever wrote the parser; Pillow wraps them.
        if not said or isinstance(error.__cause__ or error, LookupError | struct.error):
            said = "it is cut short, or its parts contradict each other"
        raise DamagedImage(f"{what}: {said}") from error
