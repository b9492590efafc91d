"""How large a TIFF's pixels are, where it says so beyond doubt: a wrong unit in silence is worse than none.

OME-XML comes first, then what ImageJ wrote, then TIFF's own resolution. Who states a size that cannot be used (a unit
that is no length, one side only, several that differ) is not passed over for the next: then nothing is known.
"""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Final

from model.runtime.images.picture import LEAST_PIXEL, MOST_PIXEL, PixelSize, PixelSizeSource

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_INCH, _CENTIMETER = 2, 3

MICROMETERS: Final = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e6),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 1e4),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1e3),
    # The micro sign, the Greek letter, and what is written instead.
    **dict.fromkeys(("\u00b5m", "\u03bcm", "um", "micron", "microns"), 1.0),
    **dict.fromkeys(("micrometer", "micrometers", "micrometre", "micrometres"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-3),
    **dict.fromkeys(("pm", "picometer", "picometers", "picometre", "picometres"), 1e-6),
    **dict.fromkeys(("\u00c5", "\u212b", "angstrom", "angstroms"), 1e-4),
    **dict.fromkeys(("inch", "inches", "in"), 25_400.0),
}
"""Units of length as OME-XML and ImageJ write them. Case counts: Mm is none of them."""
_PRINTED: Final = (25_400.0, 1e4)
"""The units of printers and screens, which programs also write when they know nothing: 72, 96, 300 dots an inch."""
_PLAUSIBLE: Final = (1e-4, 10.0)
"""Micrometers of a pixel for which these units are believed: no screen, printer or camera has 2,540 dots an inch."""


def stated_pixel_size(tiff: TiffFile, page: TiffPage) -> PixelSize | None:
    """Of the stored picture, before its orientation. None where the file says nothing, or nothing that is certain."""
    description = tiff.pages.first.description
    if tiff.is_ome and re.search(r"\bPhysicalSize[XY]\b", description):
        return _of_ome(description)
    if tiff.is_imagej:
        return _of_imagej(description, page)
    return _of_tags(page, "tiff")


def _of_ome(description: str) -> PixelSize | None:
    """Of all images in the file, as far as they are alike."""
    sizes = {
        (_ome_side(pixels, "X"), _ome_side(pixels, "Y"))
        for pixels in re.findall(r"<(?:\w+:)?Pixels\b[^>]*", description)
    }
    if len(sizes) != 1:
        return None
    ((x, y),) = sizes
    return _checked(x, y, "ome")


def _ome_side(pixels: str, side: str) -> float | None:
    number = re.search(rf"""\bPhysicalSize{side}\s*=\s*["']([^"']*)""", pixels)
    unit = re.search(rf"""\bPhysicalSize{side}Unit\s*=\s*["']([^"']*)""", pixels)
    micrometers = MICROMETERS.get(unescape(unit[1]).strip()) if unit else 1.0  # the schema's default
    try:
        return None if number is None or micrometers is None else float(number[1]) * micrometers
    except ValueError:
        return None


def _of_imagej(description: str, page: TiffPage) -> PixelSize | None:
    """ImageJ writes pixels a unit into TIFF's resolution and the unit's name into its text, another for y if need be.

    TIFF's own unit is then none, or the same; where it contradicts, some other program was at it.
    """
    names = {side: _imagej_unit(description, side) for side in ("unit", "yunit")}
    if names["unit"] is None:
        return _of_tags(page, "imagej")
    units = [MICROMETERS.get(name) for name in (names["unit"], names["yunit"] or names["unit"])]
    tag = _tag_unit(page)
    if tag is not None and units != [tag, tag]:
        return None
    return _of_resolution(page, units[0], units[1], "imagej")


def _imagej_unit(description: str, key: str) -> str | None:
    line = re.search(rf"^{key}=(.*)$", description, re.MULTILINE)
    if line is None:
        return None
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), line[1]).strip()


def _of_tags(page: TiffPage, source: PixelSizeSource) -> PixelSize | None:
    unit = _tag_unit(page)
    return _of_resolution(page, unit, unit, source)


def _tag_unit(page: TiffPage) -> float | None:
    """Micrometers of TIFF's own unit. None where it is none, or missing: inches, which it then is, would be a guess."""
    unit = page.tags.valueof(_RESOLUTION_UNIT)  # of a damaged file it may be anything
    return {_INCH: 25_400.0, _CENTIMETER: 1e4}.get(unit) if isinstance(unit, int) else None


def _of_resolution(
    page: TiffPage, x_unit: float | None, y_unit: float | None, source: PixelSizeSource
) -> PixelSize | None:
    x, y = _side(page, _X_RESOLUTION, x_unit), _side(page, _Y_RESOLUTION, y_unit)
    return _checked(x, y, source)


def _side(page: TiffPage, tag: int, unit: float | None) -> float | None:
    """Micrometers of a pixel, of which so many make a unit."""
    try:
        numerator, denominator = page.tags.valueof(tag)
        side = None if unit is None else unit * denominator / numerator
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    if side is not None and unit in _PRINTED and not _PLAUSIBLE[0] <= side <= _PLAUSIBLE[1]:
        return None
    return side


def _checked(x: float | None, y: float | None, source: PixelSizeSource) -> PixelSize | None:
    if x is None or y is None or not all(LEAST_PIXEL <= side <= MOST_PIXEL for side in (x, y)):
        return None
    return PixelSize(x, y, source)
