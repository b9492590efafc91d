"""From an uploaded file to its picture, or to an error that says what is wrong with it.

The bytes are hostile until proven otherwise. The format is told from the signature alone, and only that format's
Pillow plugin runs (`Image.open` is not used: it would add Pillow's own process-wide pixel limit and its MPO plugin).
The pixels are counted from the header before anything is allocated for them. Nothing here changes Pillow's state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from model.console.installing import install
from model.runtime.images.conversion import Fit, check_only_plane, of_channel, picture_of, reduced_picture
from model.runtime.images.data import Data
from model.runtime.images.errors import (
    ImageError,
    NotAnImage,
    UnsupportedFormat,
    UnsupportedVariant,
    saying,
)
from model.runtime.images.formats import bmp, gif, jpeg, jpeg2000, png, webp
from model.runtime.images.limits import DEFAULT_LIMITS, ImageFormat, ImageLimits
from model.runtime.images.orientation import exif_orientation, put_upright, turned, turned_size
from model.runtime.images.picture import Picture
from model.runtime.images.planes import FIRST_PLANE, OnePlane, PlaneChoice, Planes
from model.runtime.images.regions import PictureByRegion
from model.runtime.images.signatures import sniff_format
from model.runtime.images.tiff.channels import open_channels, read_channels, require_one_channel
from model.runtime.images.tiff.reading import open_tiff, read_tiff, tiff_size
from model.runtime.images.tiff.stacks import tiff_planes

_PLUGINS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}

_REDUCED: Final[dict[str, Callable[[bytes], bytes]]] = {"PNG": png.picture_chunks, "JPEG": jpeg.plain}
"""What takes away, before anything else looks at a file, that on which its picture does not depend."""
_BEGIN: Final = 1 << 17
"""Bytes of a file in which its header ends but for large profiles, thumbnails and texts before it."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header says. Width and height in pixels as seen, that is with the EXIF orientation applied.

    A PNG may carry its orientation behind the pixels; that one is found only by decoding.
    """

    format: ImageFormat
    width: int
    height: int


def probe(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, upright: bool = True, choice: PlaneChoice = FIRST_PLANE
) -> ImageHeader:
    """Read only the header: no pixel is decoded and no memory allocated for them. The arguments: as `read_picture`.

    Raises:
        ImageError: as `read_picture`, as far as the header shows it.
    """
    data, format = _accepted(data, limits)
    if format == "TIFF":
        with saying("the TIFF image's header cannot be read"):
            return ImageHeader(format, *tiff_size(data, limits, choice))
    image = _open(data, format, limits)
    width, height = image.size
    if upright and exif_orientation(image) >= 5:
        width, height = height, width
    return ImageHeader(format, width, height)


def probe_file(path: Path, limits: ImageLimits = DEFAULT_LIMITS, *, upright: bool = True) -> ImageHeader:
    """`probe` of a file, of which no more is read than that takes, but for TIFFs, whose header may lie anywhere.

    Raises OSError where it cannot be read.
    """
    with path.open("rb") as file:
        begin = file.read(_BEGIN)
        if sniff_format(begin) != "TIFF":
            try:
                return probe(begin, limits, upright=upright)
            except ImageError:
                pass  # the header may go on, and what is wrong with the file the whole of it says
        return probe(begin + file.read(), limits, upright=upright)


def planes_of(
    data: Data, limits: ImageLimits = DEFAULT_LIMITS, *, choice: PlaneChoice = FIRST_PLANE, most: int
) -> Planes:
    """The planes of a TIFF that `choice` leaves open; of another file the only one. Nothing is decoded, and what makes
    a single plane unreadable is said where that is read.

    Raises:
        TooManyPlanes: there are more than `most`.
        NoSuchPlane: what `choice` asks for is not in the file.
        ImageError: as `probe`, where the file or its axes cannot be read.
    """
    if sniff_format(bytes(data[:1024])) == "TIFF" and "TIFF" in limits.formats:
        with saying("the TIFF image's header cannot be read"):
            return tiff_planes(data, choice, most)
    _accepted(bytes(data), limits)
    check_only_plane(choice)
    return Planes((OnePlane(choice),))


def read_picture(
    data: bytes,
    limits: ImageLimits = DEFAULT_LIMITS,
    *,
    upright: bool = True,
    choice: PlaneChoice = FIRST_PLANE,
    fit: Fit | None = None,
    reduced: bool = False,
) -> Picture:
    """The picture with all of its bits: the chosen plane or channels of a TIFF, the first picture of another file.

    With `fit`, a picture of 8 bits may come resized to what that says, to the bit as if its pixels were resized later,
    which saves copies of it at full size; `Picture.original` says whether it was. With `reduced`, a JPEG that shrinks
    by four or more is decoded at a half, a quarter or an eighth of its sides before it is resized (`jpeg.divisor`), and
    the pixels are nearly the same.

    Releases the GIL while decoding. `upright=False` leaves the EXIF orientation alone, as COCO's annotations do (but a
    TIFF is always turned, as libraries do that read it).

    Raises:
        NotAnImage: the bytes have no image format's signature.
        UnsupportedFormat: they have one that `limits.formats` does not name.
        UnsupportedVariant: the file is sound, but of a kind that cannot be read here.
        TooManyPixels: the header announces more than `limits.max_pixels`; nothing was decoded.
        DamagedImage: the file is cut short or broken. A part of a picture is never returned.
        NoSuchPlane: what `choice` asks for is not in the file.
    """
    data, format = _accepted(data, limits)
    with saying(f"the {format} image cannot be decoded"):
        if format == "TIFF":
            if choice.by_channel:
                return read_channels(data, limits, choice)
            return require_one_channel(read_tiff(data, limits, choice), choice)
        if choice.inputs == 1:
            fit = None  # colors that become one gray do so before they are resized
        if format == "JPEG":
            return of_channel(_read_jpeg(data, limits, upright, fit, reduced), choice)
        return of_channel(_read_by_pillow(data, format, limits, upright, fit), choice)


def open_picture(
    data: Data,
    limits: ImageLimits = DEFAULT_LIMITS,
    *,
    choice: PlaneChoice = FIRST_PLANE,
    fit: Fit | None = None,
    reduced: bool = False,
) -> Picture | PictureByRegion:
    """As `read_picture`, upright; but a TIFF's plane that is too large to be decoded at once can be read part by part,
    if it is stored so and has no more than `limits.max_picture_pixels`.

    Raises ImageError as `read_picture`.
    """
    if sniff_format(bytes(data[:1024])) != "TIFF" or "TIFF" not in limits.formats:
        return read_picture(bytes(data), limits, choice=choice, fit=fit, reduced=reduced)
    with saying("the TIFF image cannot be decoded"):
        if choice.by_channel:
            return open_channels(data, limits, choice)
        return require_one_channel(open_tiff(data, limits, choice), choice)


def _read_jpeg(data: bytes, limits: ImageLimits, upright: bool, fit: Fit | None, reduced: bool) -> Picture:
    image = _open(data, "JPEG", limits)
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    orientation = exif_orientation(image) if upright else 1
    if reduced and fit is not None:
        stored = image.height, image.width
        target = turned_size(fit(turned_size(stored, orientation)), orientation)
        if (by := jpeg.divisor(data, stored, target)) > 1:
            return reduced_picture(jpeg.load(image, data, by), by, stored, target, orientation)
    return picture_of(put_upright(jpeg.load(image, data), orientation), fit)


def _read_by_pillow(data: bytes, format: ImageFormat, limits: ImageLimits, upright: bool, fit: Fit | None) -> Picture:
    image = _loaded(_open(data, format, limits), data)
    # After loading, because a PNG's EXIF may lie behind its pixels.
    orientation = exif_orientation(image) if upright else 1
    picture = None
    if isinstance(image, PngImagePlugin.PngImageFile):
        picture = png.to_picture(image, data)
    elif format == "JPEG 2000":
        picture = jpeg2000.to_picture(image, data)
    if picture is not None:
        return turned(picture, orientation)
    # Turned first: a resized picture that is turned differs in the last bit from a turned one that is resized.
    return picture_of(put_upright(image, orientation), fit)


def _accepted(data: bytes, limits: ImageLimits) -> tuple[bytes, ImageFormat]:
    """What is to be parsed, and as what."""
    if not data:
        raise NotAnImage("the image is empty: 0 bytes")
    format = sniff_format(data)
    if format is None:
        raise NotAnImage("the bytes are no image: they begin like no known image format")
    for accepted in limits.formats:
        if format == accepted:
            return _REDUCED.get(accepted, bytes)(data), accepted
    raise UnsupportedFormat(format, limits.formats)


def _open(data: bytes, format: ImageFormat, limits: ImageLimits) -> ImageFile.ImageFile:
    if format == "WEBP":
        # The plugin's decoder allocates the canvas when it is opened.
        limits.check_pixels(*webp.size(data))
        data = webp.with_alpha(data)
    with saying(f"the {format} image's header cannot be read"):
        if format == "GIF":  # the plugin has a limit of its own
            first = gif.first_frame(data)
            limits.check_pixels(first.width, first.height)
            data = first.alone
        elif format == "JPEG 2000":
            jpeg2000.check(data)
        image = _plugin(format)(BytesIO(data))
        limits.check_pixels(*image.size)
        if format == "JPEG 2000":
            jpeg2000.prepare(image, data)
    return image


def _plugin(format: ImageFormat) -> type[ImageFile.ImageFile]:
    """Those with a library of their own are loaded when the first such file comes."""
    if format == "AVIF":
        from PIL.AvifImagePlugin import AvifImageFile

        return AvifImageFile
    if format == "JPEG 2000":
        from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

        return Jpeg2KImageFile
    if format == "HEIC":
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise UnsupportedVariant(
                f"this is a HEIC image; to read it, whoever runs the server needs {install('heif')}. "
                "Or send it as a JPEG or PNG"
            ) from None
        plugin: type[ImageFile.ImageFile] = HeifImageFile
        return plugin
    return _PLUGINS[format]


def _loaded(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """The image of `data` with its pixels. Raises OSError where they are cut short, and whatever else Pillow raises."""
    if isinstance(image, BmpImagePlugin.BmpImageFile):
        return bmp.load(image, data)
    if isinstance(image, GifImagePlugin.GifImageFile):
        return gif.load(data)
    image.load()
    if isinstance(image, PngImagePlugin.PngImageFile) and png.lacks_rows(image, data):
        raise OSError("image file is truncated: its last rows are missing")
    if isinstance(image, PngImagePlugin.PngImageFile) and png.lacks_colors(image, data):
        raise ValueError("some of its pixels have a color that its palette does not have")
    return image
