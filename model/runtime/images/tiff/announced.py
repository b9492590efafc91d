"""What the text of a stack announces, before tifffile makes lists as long as that: a few bytes can name any number."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final

from model.runtime.images.errors import DamagedImage

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element  # nosec B405

    from tifffile import TiffPage

MOST_PLANES: Final = 1_000_000
"""Planes of all of a file's stacks. It holds no more than `MAX_DIRECTORIES`, but may be one of several files."""
_MOST_MARKS: Final = 500_000
"""Beginnings and ends of XML elements."""
_LONGEST_TEXT: Final = 1 << 20
"""Characters of what ImageJ and tifffile write of a stack."""
_MOST_AXES: Final = 16
_NO_XML: Final = ("<!DOCTYPE", "<!ENTITY")
"""What OME-XML does not have, and what makes much of little."""


def check_announced(page: TiffPage, pages: int, smallest: int) -> None:
    """Raises DamagedImage for a text that announces more than is read, and whatever it makes its readers stumble over.

    page: the file's first; pages: how many there are; smallest: the least number of samples that one of them has.
    """
    if page.is_ome:
        _check_ome(page.description, pages, smallest)
    for text in (page.imagej_description, page.shaped_description):
        if text is not None and len(text) > _LONGEST_TEXT:
            raise DamagedImage(f"the TIFF image is damaged: {len(text)} characters describe its planes")
    if page.shaped_description is not None:
        _check_axes(_axes_in(page.shaped_description))


def _axes_in(shaped: str) -> int:
    """How many lengths stand in what tifffile writes now, JSON, or wrote once: shape=(256, 256, 3)."""
    return len(json.loads(shaped)["shape"]) if shaped.startswith("{") else shaped.count(",") + 1


def _check_axes(axes: int) -> None:
    if axes > _MOST_AXES:
        raise DamagedImage(f"the TIFF image is damaged: it announces {axes} axes")


def _check_ome(text: str, pages: int, smallest: int) -> None:
    from xml.etree import ElementTree  # nosec B405

    if text.count("<") > _MOST_MARKS:
        raise DamagedImage("the TIFF image is damaged: its OME-XML has too many elements")
    if any(mark in text for mark in _NO_XML):
        raise DamagedImage("the TIFF image is damaged: its OME-XML has a document type, which OME-XML has not")
    try:
        root = ElementTree.fromstring(text)  # nosec B314  # what is dangerous in XML are entities, which it has not
    except ElementTree.ParseError:
        return  # nor does tifffile read it
    planes: float = sum(_steps(along) for along in root.iter() if along.tag[:-1].endswith("Along"))
    for image in root:
        for pixels in image:
            if pixels.tag.endswith("Pixels"):
                planes += _planes(pixels, pages, smallest)
    if planes > MOST_PLANES:
        raise _too_many(planes)


def _planes(pixels: Element, pages: int, smallest: int) -> float:
    """The longest list that tifffile makes of one stack, and how often it looks for a page."""
    order = pixels.attrib["DimensionOrder"]
    _check_axes(len(order))
    sizes = [abs(int(pixels.attrib[f"Size{axis}"])) for axis in order]
    samples = max(
        (int(part.attrib.get("SamplesPerPixel", 1)) for part in pixels if part.tag.endswith("Channel")), default=1
    )
    planes = math.prod(sizes[2:])
    longest = max(planes, math.prod(sizes) * max(samples, 1) // max(smallest, 1))
    looked_for = 0
    for part in pixels:
        if part.tag.endswith("TiffData"):
            said = part.attrib.get("PlaneCount", part.attrib.get("NumPlanes", 1 if "IFD" in part.attrib else 0))
            count = int(said) or pages
            longest = max(longest, planes + count)
            looked_for += max(0, min(count, pages))
    return longest + looked_for


def _steps(along: Element) -> float:
    """How many labels an axis has that is divided further (Modulo)."""
    if "Start" not in along.attrib:
        return 0
    start, step = float(along.attrib["Start"]), float(along.attrib.get("Step", 1))
    steps = abs((float(along.attrib["End"]) + step - start) / step)
    if not math.isfinite(steps):
        raise _too_many(steps)
    return steps


def _too_many(planes: float) -> DamagedImage:
    return DamagedImage(f"the TIFF image is damaged: it announces {planes:g} planes, and {MOST_PLANES} are too many")
