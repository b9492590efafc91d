"""What is accepted: the formats, and how many pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from model.runtime.images.errors import TooManyPixels

ImageFormat = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG 2000", "HEIC"]
FORMATS: Final[tuple[ImageFormat, ...]] = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG 2000", "HEIC")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is accepted. `max_pixels` counts width x height; decoding takes 10 to 18 bytes of memory for each."""

    max_pixels: int = 64_000_000
    formats: tuple[ImageFormat, ...] = FORMATS

    def check_pixels(self, width: int, height: int) -> None:
        """Raises TooManyPixels when a picture, or a part of it that is decoded whole, has more than accepted."""
        if width * height > self.max_pixels:
            raise TooManyPixels(
                f"the image has {width} x {height} = {width * height} pixels and at most {self.max_pixels} are "
                f"accepted; send it smaller"
            )


DEFAULT_LIMITS: Final = ImageLimits()
