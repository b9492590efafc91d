"""The files that analysis tools open, by the name that is asked for. The client knows them too: nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

FileFormat = Literal["geojson", "imagej", "labels", "csv"]


@dataclass(frozen=True, slots=True)
class FileType:
    """`packed`: it is compressed already. `measured`: it tells the intensities of the image."""

    media_type: str
    suffix: str
    packed: bool = False
    measured: bool = False


FILE_TYPES: Final[Mapping[FileFormat, FileType]] = {
    "geojson": FileType("application/geo+json", ".geojson", measured=True),
    "imagej": FileType("application/zip", ".zip", packed=True),
    "labels": FileType("image/tiff", ".tif", packed=True),
    "csv": FileType("text/csv", ".csv", measured=True),
}

CSV_COLUMNS: Final = (
    *("width", "height", "label", "label_id", "score", "x1", "y1", "x2", "y2", "area"),
    *("object", "perimeter", "eccentricity", "solidity", "centroid_x", "centroid_y", "diameter"),
    *("area_um2", "diameter_um"),
)
"""Before the intensities of each channel."""


def intensity_columns(channels: Iterable[int]) -> Iterator[str]:
    """Names of the columns for channels of the image, which are counted from 0."""
    for channel in channels:
        yield from (f"intensity_{what}_{channel}" for what in ("mean", "min", "max"))
