"""The files that analysis tools open, by the name that is asked for. The client knows them too: nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
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
