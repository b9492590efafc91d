"""From an uploaded file to pixels: uint8 RGB as a person sees the picture, or an error that says what is wrong with it.

The bytes are hostile until proven otherwise. The format is told from the signature alone, and only that format's
Pillow plugin runs (`Image.open` is not used: it would add Pillow's own process-wide pixel limit and its MPO plugin).
The pixels are counted from the header before anything is allocated for them. Nothing here changes Pillow's state.

How pictures become RGB:
- EXIF orientation is applied; animations and multi-page files give their first picture.
- Transparent pixels are laid over white, as a page shows them. What hides under full transparency is not seen.
- 16-bit gray is scaled from 0..65535 to 0..255 (12-bit TIFF from 0..4095), never clipped.
- 32-bit integers: as 16-bit gray when all fit in 0..65535, else darkest to brightest. Floats: 0..1, else the same.
- CMYK JPEGs are read as Adobe writes them (inverted). ICC profiles are not applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from model.runtime.images.signatures import sniff_format

ImageFormat = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]
FORMATS: Final[tuple[ImageFormat, ...]] = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

_PLUGINS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}

# EXIF 2.3, tag 0x0112: the value says how the stored picture lies; the transposition puts it upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is accepted. `max_pixels` counts width x height; decoding takes 10 to 18 bytes of memory for each."""

    max_pixels: int = 64_000_000
    formats: tuple[ImageFormat, ...] = FORMATS


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header says. Width and height in pixels as seen, that is with the EXIF orientation applied.

    A PNG may carry its orientation behind the pixels; that one is found only by decoding.
    """

    format: ImageFormat
    width: int
    height: int


DEFAULT_LIMITS: Final = ImageLimits()


def probe(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageHeader:
    """Read only the header: no pixel is decoded and no memory allocated for them.

    Raises:
        ImageError: as `decode_image`, as far as the header shows it.
    """
    image, format = _open(data, limits)
    width, height = image.size
    # Pillow swaps a TIFF's sides by itself.
    if format != "TIFF" and _orientation(image) >= 5:
        width, height = height, width
    return ImageHeader(format, width, height)


def decode_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, upright: bool = True) -> NDArray[np.uint8]:
    """The picture as seen: uint8 [H, W, 3] RGB. May be read-only. Releases the GIL while decoding.

    `upright=False` leaves the EXIF orientation alone, as COCO's annotations do (but Pillow turns a TIFF by itself).

    Raises:
        NotAnImage: the bytes have no image format's signature.
        UnsupportedFormat: they have one that `limits.formats` does not name.
        TooManyPixels: the header announces more than `limits.max_pixels`; nothing was decoded.
        DamagedImage: the file is cut short or broken. A part of a picture is never returned.
    """
    image: Image.Image
    image, format = _open(data, limits)
    try:
        image.load()
        tiff_tags = getattr(image, "tag_v2", {})
        # After loading, because a PNG's EXIF may lie behind its pixels and because Pillow turns a TIFF itself.
        if upright and (turn := _UPRIGHT.get(_orientation(image))) is not None:
            image = image.transpose(turn)
        return _to_rgb(image, tiff_tags)
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"the image has more pixels than can be decoded: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # a parser on hostile bytes: Pillow's plugins raise whatever they stumble over
        raise DamagedImage(f"the {format} image cannot be decoded: {error}") from error


def load_image(path: Path, limits: ImageLimits = DEFAULT_LIMITS, *, upright: bool = True) -> NDArray[np.uint8]:
    """`decode_image` of a file. The errors name it."""
    try:
        return decode_image(path.read_bytes(), limits, upright=upright)
    except ImageError as error:
        error.add_note(f"in {path}")
        raise


def _open(data: bytes, limits: ImageLimits) -> tuple[ImageFile.ImageFile, ImageFormat]:
    if not data:
        raise NotAnImage("the image is empty: 0 bytes")
    format = sniff_format(data)
    if format is None:
        raise NotAnImage("the bytes are no image: they begin like no known image format")
    if format not in limits.formats:
        raise UnsupportedFormat(format, limits.formats)
    if format == "WEBP":
        # The plugin's decoder allocates the canvas when it is opened.
        _check_pixels(_webp_size(data), limits)
    try:
        image = _PLUGINS[format](BytesIO(data))
        _check_pixels(image.size, limits)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # A tile is decoded whole, however small the image is that it belongs to.
            tags = image.tag_v2
            tile = tags.get(TiffImagePlugin.TILEWIDTH, 0), tags.get(TiffImagePlugin.TILELENGTH, 0)
            _check_pixels((int(tile[0]), int(tile[1])), limits)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # a plugin's own check of Pillow's own limit
        raise TooManyPixels(f"the image has more pixels than can be decoded: {error}") from error
    except Exception as error:  # see decode_image
        raise DamagedImage(f"the {format} image's header cannot be read: {error}") from error
    return image, format


def _check_pixels(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise TooManyPixels(
            f"the image has {width} x {height} = {width * height} pixels and at most {limits.max_pixels} are accepted; "
            f"send it smaller"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas (width, height) from a WebP's first chunk; (0, 0) when it has none. RFC 9649, sections 2.5 to 2.7."""
    chunk, head = data[12:16], data[20:30]
    if len(head) == 10 and chunk == b"VP8X":
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if len(head) == 10 and chunk == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    if len(head) >= 5 and chunk == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return 0, 0


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 when there is none or the EXIF block is broken, which does not break the picture."""
    try:
        # The base class's: the PNG plugin's own decodes the pixels in search of late metadata.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises whatever a broken block makes it stumble over
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image, tiff_tags: Mapping[int, Any]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a loaded image of any mode."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        if tiff_tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,):
            values = values << 4 | values >> 8
        gray = _high_byte(values)
        if tiff_tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero; Pillow leaves it so
            gray = 255 - gray
        if isinstance(key := image.info.get("transparency"), int):
            gray[values == key] = 255
        return _gray_to_rgb(gray)
    if image.mode in ("I", "F"):
        return _gray_to_rgb(_tone(np.asarray(image)))
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        return np.asarray(converted)
    if image.has_transparency_data:
        image = _over_white(image)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return np.asarray(image)


def _over_white(image: Image.Image) -> Image.Image:
    """Mode RGB of an image with transparency."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    page = Image.new("RGB", image.size, "white")
    page.paste(image, mask=image)
    return page


def _gray_to_rgb(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(gray[..., None], 3, axis=2)


def _high_byte(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """0..65535 to 0..255: v / 257 rounded to the nearest."""
    wide = values.astype(np.uint32)
    wide *= 255
    wide += 32895
    wide >>= 16
    return wide.astype(np.uint8)


def _tone(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Gray of int32 or float32 values, which have no agreed black and white. NaN becomes black."""
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
    gray = np.empty(values.shape, np.uint8)
    # By rows, because float64 takes eight bytes a pixel. Infinite values meet infinite limits and 0 * inf on the way.
    with np.errstate(invalid="ignore"):
        for row, target in zip(values, gray, strict=True):
            scaled = (row.astype(np.float64) - low) * factor
            target[:] = np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255) + 0.5
    return gray
