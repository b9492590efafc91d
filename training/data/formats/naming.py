"""Names of new files: inside their folder whatever the old names were, and each its own."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from model.runtime.images.signatures import sniff_format
from training.data.annotations.dataset import DatasetError
from training.data.annotations.records import ImageRecord
from training.data.formats.image_files import IMAGE_SUFFIXES
from training.data.formats.splits import split_of

_DRIVE: Final = re.compile(r"^[A-Za-z]:")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_MEANING: Final = ("images", "labels", "masks")
_SUFFIXES: Final = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}


class Names:
    """Names that are given once each. Names that differ by case or by the form of their accents are one, as on some
    file systems, and with `stems` those that differ by the suffix alone."""

    def __init__(self, *, stems: bool, taken: Iterable[str] = ()) -> None:
        self._stems = stems
        self._taken = {self._key(name) for name in taken}
        self._numbers: Counter[str] = Counter()

    def free(self, wanted: str) -> str:
        """The name, or if it was given before, the first free one of NAME_2, NAME_3, ..."""
        path, name, asked = PurePosixPath(wanted), wanted, self._key(wanted)
        while self._key(name) in self._taken:
            self._numbers[asked] += 1
            name = path.with_stem(f"{path.stem}_{self._numbers[asked] + 1}").as_posix()
        self._taken.add(self._key(name))
        return name

    def _key(self, name: str) -> str:
        name = PurePosixPath(name).with_suffix("").as_posix() if self._stems else name
        return unicodedata.normalize("NFC", name).casefold()


def target_name(record: ImageRecord, *, flat: bool = False) -> str:
    """An image's name in a new folder: the old one with its folders, or its last part where that is no path inside a
    dataset (absolute, of Windows with a drive, an address, climbing out). flat joins folders and name."""
    parts = [part for part in re.split(r"[\\/]", record.file) if part not in ("", ".")]
    outside = record.file.startswith(("/", "\\")) or _DRIVE.match(record.file) or ".." in parts
    if "://" in record.file or not parts:
        parts = [record.path.name]
    elif outside:
        last = _DRIVE.sub("", parts[-1])
        parts = [record.path.name if last in ("", "..") else last]
    parts = [_CONTROL.sub("_", part) for part in parts]
    return "_".join(parts) if flat else "/".join(parts)


def findable(name: str) -> str:
    """The name where folders are searched for images: hidden files are not found there, and folders called images,
    labels, masks or as a split say what lies in them."""
    parts = [f"_{part}" if part.startswith(".") else part for part in name.split("/")]
    meaning = any(part.lower() in _MEANING or split_of(part) for part in parts[:-1])
    return "_".join(parts) if meaning else "/".join(parts)


def with_image_suffix(name: str, path: Path) -> str:
    """The name, with the suffix of what the file holds where it has none by which folders are searched.

    Raises DatasetError where there is no such suffix.
    """
    if name.lower().endswith(IMAGE_SUFFIXES):
        return name
    with path.open("rb") as file:
        kind = sniff_format(file.read(1024))
    if kind not in _SUFFIXES:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise DatasetError(
            f"{path} is {kind or 'of an unknown kind'}, and this format finds images by {suffixes}: convert to coco"
        )
    return name + _SUFFIXES[kind]
