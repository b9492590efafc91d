"""What is accepted: the formats, and how many pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from model.runtime.images.errors import TooManyPixels

ImageFormat = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG 2000", "HEIC"]
ENDINGS: Final[Mapping[ImageFormat, tuple[str, ...]]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff", ".btf", ".tf2", ".tf8"),  # the last three: BigTIFF, as OME calls it
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),
    "JPEG 2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "HEIC": (".heic", ".heif", ".hif"),
}
"""What the names of files end in, by format. For finding them in folders alone: a file's bytes tell what it is."""

FORMATS: Final = tuple(ENDINGS)


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is accepted. `max_pixels` counts width x height of what is decoded at once; decoding takes 10 to 18 bytes of
    memory for each. `max_picture_pixels` is the limit of a picture that is read part by part, as `open_picture` can;
    None where none is.
    """

    max_pixels: int = 64_000_000
    max_picture_pixels: int | None = None
    formats: tuple[ImageFormat, ...] = FORMATS

    def check_pixels(self, width: int, height: int) -> None:
        """Raises TooManyPixels when a picture, or a part of it that is decoded whole, has more than accepted."""
        if width * height > self.max_pixels:
            most, tiled = self.max_picture_pixels, ""
            if most is not None and width * height <= most:
                tiled = f", or as a tiled TIFF, which is read part by part and may have {most} (max_picture_pixels)"
            raise TooManyPixels(
                f"the image has {width} x {height} = {width * height} pixels and at most {self.max_pixels} are "
                f"accepted (max_pixels); send it smaller{tiled}"
            )

    def check_picture(self, width: int, height: int) -> None:
        """Raises TooManyPixels when a picture that is read part by part has more than accepted."""
        if self.max_picture_pixels is not None and width * height > self.max_picture_pixels:
            raise TooManyPixels(
                f"the image has {width} x {height} = {width * height} pixels and at most {self.max_picture_pixels} are "
                f"accepted (max_picture_pixels); send it smaller"
            )


DEFAULT_LIMITS: Final = ImageLimits()
