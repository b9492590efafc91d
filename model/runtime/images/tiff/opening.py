"""Which plane of a TIFF is asked for: its header and where its data lie, before anything is decoded."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from model.runtime.images.data import Data, as_file
from model.runtime.images.errors import DamagedImage, ImageError, NoSuchPlane
from model.runtime.images.limits import ImageLimits
from model.runtime.images.planes import PlaneAxis, PlaneChoice
from model.runtime.images.tiff.announced import check_announced
from model.runtime.images.tiff.directories import check_below, full_directories
from model.runtime.images.tiff.sizes import (
    check_by_region,
    check_header,
    check_whole,
    is_decoded_whole,
    rows_at_once,
)

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

_AXES: Final = {"Z": "z", "T": "t", "C": "channel"}
_STACKS: Final = ("shaped", "ome", "imagej")
"""Kinds of file that state their axes, by the names that tifffile has for them, in its order."""
_FEW: Final = 1000
"""Directories, of which tifffile compares each with each other where their text says nothing that fits them."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One plane of a file: the page whose header describes it, where its data lie, and which of several it is.

    `directory` is the offset of its own directory, None when it has none.
    """

    page: TiffPage
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    axes: tuple[PlaneAxis, ...]
    directory: int | None
    sample: int | None
    """The sample that is asked for; None for all that make a color, or the first."""
    all_samples: bool = False
    """Whether all are asked for, but for an opacity."""
    channel: int | None = None
    """Its place along the axis of a stack that is called so, however it was asked for; None without one."""


def opened(data: Data, limits: ImageLimits, choice: PlaneChoice, *, by_region: bool = False) -> tuple[TiffFile, Plane]:
    """The file, opened by tifffile, and its chosen plane, which is not too large. There is nothing to close."""
    with header_errors():
        file = file_of(data)
        plane = _chosen(file, data, choice)
        check_header(plane.page)
        if not by_region or is_decoded_whole(plane.page, limits):
            check_whole(plane.page, limits)
        else:
            plane = _in_rows(plane, limits)
            check_by_region(plane.page, limits, is_turned=orientation_of(plane.page) >= 5)
    return file, plane


def file_of(data: Data) -> TiffFile:
    """Opened by tifffile, for `header_errors`. There is nothing to close."""
    from tifffile import TiffFile  # takes a tenth of a second, which a server without TIFFs need not spend

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # what it complains of is found by other means
    full_directories(data)  # bounds what tifffile will walk
    # Other files that an OME-TIFF may name are none of an upload's. Of ScanImage's text tifffile would make as many
    # pages as fit into the file.
    return TiffFile(as_file(data), _multifile=False, is_scanimage=False)


@contextmanager
def header_errors() -> Iterator[None]:
    """Turns whatever tifffile raises into an ImageError."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except ValueError as error:
        raise DamagedImage(f"the TIFF image's header cannot be read: {error}") from error
    except Exception as error:  # tifffile raises whatever it stumbles over
        raise DamagedImage("the TIFF image's header cannot be read: its tags contradict each other") from error


def _chosen(tiff: TiffFile, data: Data, choice: PlaneChoice) -> Plane:
    series = stack_of(tiff, data)
    if series is not None and not (choice.page is not None and has_several_stacks(tiff)):
        return _of_stack(tiff, series, choice)
    directories = full_directories(data)
    index = within("page", choice.page, len(directories))
    no_axes(choice, "z", "t")
    page = page_at(tiff, directories[index].offset, index)
    axes = (PlaneAxis("page", index, len(directories)),) if len(directories) > 1 else ()
    return Plane(page, page.dataoffsets, page.databytecounts, axes, directories[index].offset, choice.channel)


def page_at(tiff: TiffFile, offset: int, index: int) -> TiffPage:
    """The header of the directory at `offset`."""
    from tifffile import TiffPage

    tiff.filehandle.seek(offset)
    return TiffPage(tiff, index)


def within(name: str, asked: int | None, size: int) -> int:
    index = asked or 0
    if index >= size:
        raise NoSuchPlane(f"the image has no {name} {index}: it has {size}, counted from 0")
    return index


def no_axes(choice: PlaneChoice, *names: str) -> None:
    for name in names:
        if getattr(choice, name):
            raise NoSuchPlane(f"the image has no {name} {getattr(choice, name)}: its file states no axis {name}")


def stack_of(tiff: TiffFile, data: Data) -> TiffPageSeries | None:
    """The first series of a file that states its axes; None where one directory is one plane.

    The axes of other kinds of file are guesses.
    """
    if not (tiff.is_ome or tiff.is_imagej or tiff.is_shaped):
        return None
    description = tiff.pages.first.description
    for stated in (*re.findall(r"<(?:\w+:)?Pixels\b[^>]*", description), *re.findall(r"\bimages=\d+", description)):
        sizes = [int(size) for size in re.findall(r"(?:\bSize[CZT]=[\"']|images=)(\d{1,18})", stated)]
        planes = math.prod(sizes)
        if planes > len(data):  # tifffile would make a list of them
            raise DamagedImage(f"the TIFF image is damaged: it announces {planes} planes in {len(data)} bytes")
    directories = len(full_directories(data))
    check_announced(tiff.pages.first, len(tiff.pages), check_below(data))
    tiff.series = _stacks(tiff, directories)  # as tifffile keeps them
    if not tiff.series:
        _require_all(tiff, data)
        return None
    series = tiff.series[0]
    keyframe = series.keyframe
    planes, rest = divmod(series.size, max(math.prod(keyframe.shape), 1))
    if not rest and planes > 1 and not keyframe.is_reduced:
        in_one_piece = series.dataoffset is not None and series.dataoffset + series.nbytes <= len(data)
        if len(series) == planes or in_one_piece:
            return series
    _require_all(tiff, data)
    return None


def _stacks(tiff: TiffFile, directories: int) -> list[TiffPageSeries]:
    """What the text states; where it does not fit the pages, those that are alike, if they are few to compare."""
    for kind in _STACKS:
        if getattr(tiff, f"is_{kind}"):
            found: list[TiffPageSeries] | None = getattr(tiff, f"_series_{kind}")()
            if found:
                return found
            if not (kind == "ome" and tiff.is_imagej):
                break
            tiff.pages._clear()  # as tifffile does between the two
    return (tiff._series_generic() or []) if directories <= _FEW else []


def has_several_stacks(tiff: TiffFile) -> bool:
    """Whether the file holds other pictures beside its first series, whose planes only `page` can name."""
    return any(not series.keyframe.is_reduced for series in tiff.series[1:])


def _require_all(tiff: TiffFile, data: Data) -> None:
    """Raises DamagedImage for a stack whose only directory lies before planes in one piece, if the last are missing:
    else its first would be taken for the only one. Text alone is not believed: programs copy it to single planes."""
    page = tiff.pages.first
    images = re.search(r"\bimages=(\d{1,18})", page.description) if tiff.is_imagej else None
    shape = re.search(r'"shape": \[([\d, ]{1,200})\]', page.description) if tiff.is_shaped else None
    planes = int(images[1]) if images else 1
    if shape:
        planes = math.prod(map(int, shape[1].split(","))) // max(math.prod(page.shape), 1)
    start = page.dataoffsets[0] if page.dataoffsets else 0
    if (
        planes > 1
        and page.compression == 1
        and len(full_directories(data)) == 1
        and page.offset < start
        and start + page.nbytes < len(data) < start + planes * page.nbytes
    ):
        raise DamagedImage(
            f"the TIFF image is cut short: it announces {planes} planes, and the last lie behind the end of the file"
        )


def axes_of(series: TiffPageSeries) -> tuple[list[str], list[int]]:
    """The axes that lead to a stack's planes, page for all but z, t and channel, and how long they are."""
    planes = series.size // math.prod(series.keyframe.shape)
    leading = next((n for n in range(len(series.shape) + 1) if math.prod(series.shape[:n]) == planes), 0)
    names = [_AXES.get(axis, "page") for axis in series.axes[:leading]] or ["page"]
    return names, list(series.shape[:leading]) or [planes]


def _of_stack(tiff: TiffFile, series: TiffPageSeries, choice: PlaneChoice) -> Plane:
    page, names, sizes = series.keyframe, *axes_of(series)
    planes = math.prod(sizes)
    no_axes(choice, *(name for name in ("z", "t") if name not in names))
    if choice.page is not None or len(set(names)) < len(names):
        if any(getattr(choice, name) is not None for name in names if name != "page"):
            raise NoSuchPlane("page counts all planes of the image: ask for it alone, or for z, t and channel")
        flat = within("page", choice.page, planes)
        axes: tuple[PlaneAxis, ...] = (PlaneAxis("page", flat, planes),)
    else:
        axes = tuple(
            PlaneAxis(name, within(name, getattr(choice, name), size), size)
            for name, size in zip(names, sizes, strict=True)
        )
        flat = int(np.ravel_multi_index([axis.index for axis in axes], sizes))
        axes = tuple(axis for axis in axes if axis.size > 1)
    sample = None if "channel" in names else choice.channel
    channel = int(np.unravel_index(flat, sizes)[names.index("channel")]) if names.count("channel") == 1 else None
    if len(series) == planes and (entry := series[flat]) is not None:
        own = getattr(entry, "offset", 0) or None
        if own is not None:  # what it says of itself counts: the series knows the first one's word for all
            page = page_at(tiff, own, flat)
            return Plane(page, page.dataoffsets, page.databytecounts, axes, own, sample, channel=channel)
        return Plane(page, entry.dataoffsets, entry.databytecounts, axes, None, sample, channel=channel)
    if page.compression == 1 and series.dataoffset is not None:
        size = math.prod(page.shape) * page.bitspersample // 8
        whole = Plane(page, (series.dataoffset + flat * size,), (size,), axes, None, sample, channel=channel)
        page.rowsperstrip = page.imagelength
        return whole
    raise DamagedImage(f"the TIFF image is damaged: plane {flat} of {planes} is not in the file")


def _in_rows(plane: Plane, limits: ImageLimits) -> Plane:
    """A plane in large strips that are not compressed, as ImageJ writes one, is the same in smaller ones."""
    page = plane.page
    height, row_bits = page.imagelength, page.imagewidth * page.bitspersample
    if page.is_tiled or page.compression != 1 or not isinstance(row_bits, int) or page.rowsperstrip < height:
        return plane
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if len(plane.offsets) != planes or len(plane.counts) != planes:
        return plane
    row_bytes = (row_bits * (page.samplesperpixel // planes) + 7) // 8
    rows = rows_at_once(page, limits)
    page.rowsperstrip = rows
    strips = [
        (offset + top * row_bytes, max(0, min(count - top * row_bytes, rows * row_bytes)))
        for offset, count in zip(plane.offsets, plane.counts, strict=True)
        for top in range(0, height, rows)
    ]
    return replace(plane, offsets=tuple(at for at, _ in strips), counts=tuple(count for _, count in strips))


def orientation_of(page: TiffPage) -> int:
    value = page.tags.valueof(274)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
