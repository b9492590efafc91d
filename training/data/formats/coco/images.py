"""The images that a COCO file lists: where their files lie, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.data.annotations.dataset import Problem
from training.data.annotations.fields import BrokenRecord, integer, text
from training.data.annotations.records import ImageRecord
from training.data.formats.assemble import read_header
from training.data.formats.coco.frames import Orientation
from training.data.formats.image_files import Wanted, find_images


@dataclass(frozen=True, slots=True)
class ListedImages:
    """records: the usable ones; broken: the ids of those left out, which `problems` names; notes: what was found
    otherwise than the file says."""

    records: tuple[ImageRecord, ...]
    broken: frozenset[int]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def read_images(
    records: Sequence[Any], text_ids: Mapping[int, str], bases: tuple[Path, ...], search: Path, orientation: Orientation
) -> ListedImages:
    """Images below `bases`, else by the end of their names in `search`; text_ids are what `number_ids` found.

    Sizes that the file does not state are those of the image files, as stored, or as seen where `orientation` says so.
    """
    listing = _Listing(text_ids)
    for index, record in enumerate(records):
        listing.add(record, f"images[{index}]", bases[0])
    listed = list(listing.found.values())
    located = find_images([Wanted(record.file, bases) for record in listed], search)
    usable: list[ImageRecord] = []
    unsized = 0
    for record, path in zip(listed, located.paths, strict=True):
        try:
            if isinstance(path, BrokenRecord):
                raise path
            found = replace(record, path=path)
            if not found.width:
                found = _sized(found, orientation)
                unsized += 1
            usable.append(found)
        except BrokenRecord as broken:
            listing.problems.append(Problem(broken.kind, broken.message, record.file, record.id))
    left_out = (listing.broken | listing.found.keys()) - {record.id for record in usable}
    notes = list(located.notes)
    if unsized:
        notes.append(f"{unsized} of {len(records)} images have no size in the file: it is read from the images")
    return ListedImages(tuple(usable), frozenset(left_out), tuple(listing.problems), tuple(notes))


class _Listing:
    """The records of images by id, before their files are looked for; width and height are 0 where not stated."""

    def __init__(self, text_ids: Mapping[int, str]) -> None:
        self.found: dict[int, ImageRecord] = {}
        self.broken: set[int] = set()
        self.problems: list[Problem] = []
        self._text_ids = text_ids

    def add(self, record: Any, where: str, folder: Path) -> None:
        id_ = file = None
        try:
            id_ = integer(record, "id", where)
            text_id = self._text_ids.get(id_, "")
            where = f"image {text_id or id_}"
            file = text(record, "file_name", where)
            if id_ in self.found:
                other = self.found[id_].file
                raise BrokenRecord("duplicate id", f"image id {text_id or id_} is used before, by {other}; left out")
            width, height = _stated_size(record, where)
            self.found[id_] = ImageRecord(id_, folder / file, width, height, file, text_id)
        except BrokenRecord as broken:
            self.problems.append(Problem(broken.kind, broken.message, file, id_))
            if id_ is not None and id_ not in self.found:
                self.broken.add(id_)


def _stated_size(record: Any, where: str) -> tuple[int, int]:
    """(width, height); (0, 0) where one of them is missing or null, or both are 0."""
    stated = [record.get(key) for key in ("width", "height")]
    if None in stated or "" in stated or stated == [0, 0]:
        return 0, 0
    width, height = (integer(record, key, where) for key in ("width", "height"))
    if width < 1 or height < 1:
        raise BrokenRecord("size mismatch", f"{where} is said to be {width}x{height} pixels")
    return width, height


def _sized(record: ImageRecord, orientation: Orientation) -> ImageRecord:
    """With the size of its file. Raises BrokenRecord where there is none, and where it may be either of two."""
    header = read_header(record.path)
    stored = (header.width, header.height)
    if orientation == "auto" and stored != header.upright:
        raise BrokenRecord(
            "unclear orientation",
            f"image {record.original_id} has EXIF orientation {header.orientation}, and no size in the file that would "
            f"tell whether it was annotated as seen or as stored: say --orientation seen (most tools) or stored",
        )
    width, height = header.upright if orientation == "seen" else stored
    return replace(record, width=width, height=height)
