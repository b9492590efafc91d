"""The user's own ids in COCO results: of images by file name, and of categories by name where a COCO file has them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

import orjson

from service.client.command.inputs import Input, UsageError

ImageId = int | str

NAME_COLUMNS, ID_COLUMNS = ("file_name", "filename", "file", "image", "name"), ("image_id", "id")
"""What a CSV's header may call its two columns; others are not looked at."""
SHOWN: Final = 3
"""Names that a message lists."""
_WHOLE: Final = re.compile(r"(-?(?:0|[1-9]\d{0,18}))(?:\.0+)?")
"""A number as JSON and spreadsheets write it; 007 is a text."""
EXACT: Final = 2**53
"""Floats that are larger stand for several whole numbers: digits were lost where they were written or read."""
_FORMS: Final = (
    "it must be a COCO file (the list images, with id and file_name), a JSON object of file names and ids, or a CSV of "
    "the two"
)


@dataclass(frozen=True, slots=True)
class CocoIds:
    """What `file` says. images: (parts of the file name, id) of every image by the last part of its name. categories:
    ids by name; None where the file has none, and results keep the model's label ids."""

    file: Path
    images: Mapping[str, Sequence[tuple[tuple[str, ...], ImageId]]]
    categories: Mapping[str, int] | None

    def of_images(self, inputs: Sequence[Input]) -> list[ImageId]:
        """The id of each image. Raises UsageError where some have none, or two have the same."""
        found = [self._of_image(one) for one in inputs]
        if missing := [one.name for one, image_id in zip(inputs, found, strict=True) if image_id is None]:
            raise UsageError(f"--image-ids {self.file} has no id for {_named(missing)}")
        taken: dict[ImageId, str] = {}
        for one, image_id in zip(inputs, found, strict=True):
            if image_id is not None and (other := taken.setdefault(image_id, one.name)) != one.name:
                raise UsageError(f"--image-ids {self.file}: the id {image_id!r} is that of {other} and of {one.name}")
        return [image_id for image_id in found if image_id is not None]

    def require_labels(self, labels: Sequence[str]) -> None:
        """Raises UsageError where the file has categories, and none of a label's name."""
        if self.categories is not None and (missing := [name for name in labels if name not in self.categories]):
            raise UsageError(
                f"--image-ids {self.file} has categories, and none for the model's {_named(missing)}; it has "
                f"{', '.join(self.categories)}. Ask for those that both have: --labels NAME"
            )

    def _of_image(self, image: Input) -> ImageId | None:
        """The id under the name that agrees with the image's path on the most parts from its end.

        One of the two must be all of the other's end: the file's name of the path, which goes first, or the place below
        the folder that was named of the file's name. Raises UsageError where several agree on as many parts.
        """
        path, below = _parts(image.path.absolute().as_posix()), _parts(image.relative.as_posix())
        agreeing: dict[tuple[int, bool], list[tuple[tuple[str, ...], ImageId]]] = {}
        for parts, image_id in self.images.get(below[-1], ()):
            whole = path[-len(parts) :] == parts
            if whole or parts[-len(below) :] == below:
                agreeing.setdefault((_common(path, parts), whole), []).append((parts, image_id))
        if not agreeing:
            return None
        best = agreeing[max(agreeing)]
        if len(best) > 1:
            names = _named(["/".join(parts) for parts, _ in best])
            raise UsageError(f"--image-ids {self.file}: {image.name} may be any of {names}; name the folder above it")
        return best[0][1]


def read_ids(file: Path) -> CocoIds:
    """Raises UsageError where the file has another form, or names an image or an id twice."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"--image-ids {file}: {error.strerror}") from None
    document: Any = None
    if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        try:
            document = orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
        except orjson.JSONDecodeError as error:
            raise UsageError(f"--image-ids {file} is not valid JSON: {error}") from None
        pairs = list(_of_json(document, file))
    else:
        pairs = list(_of_csv(content, file))
    if not pairs:
        raise UsageError(f"--image-ids {file} names no images; {_FORMS}")
    images: dict[str, list[tuple[tuple[str, ...], ImageId]]] = {}
    names: dict[ImageId, str] = {}
    for name, value in pairs:
        image_id = as_id(value)
        parts = _parts(name) if isinstance(name, str) else ()
        if image_id is None or not parts:
            raise UsageError(f"--image-ids {file}: {name!r} with the id {value!r} is no file name with an id; {_FORMS}")
        if image_id in names:
            raise UsageError(f"--image-ids {file}: the id {image_id!r} is that of {names[image_id]} and of {name}")
        same = images.setdefault(parts[-1], [])
        if any(parts == other for other, _ in same):
            raise UsageError(f"--image-ids {file} has {name} twice, with several ids")
        names[image_id] = name
        same.append((parts, image_id))
    return CocoIds(file, images, categories_of(document, f"--image-ids {file}"))


def _of_json(document: Any, file: Path) -> Iterator[tuple[Any, Any]]:
    records = document.get("images") if isinstance(document, dict) else document
    if not isinstance(records, list):
        yield from document.items()
        return
    for record in records:
        if not isinstance(record, dict) or "file_name" not in record or "id" not in record:
            raise UsageError(f"--image-ids {file}: an entry of its images has no id or no file_name; {_FORMS}")
        yield record["file_name"], record["id"]


def _of_csv(content: bytes, file: Path) -> Iterator[tuple[str, str]]:
    """Rows of a file name and an id, in this order or in that of a header."""
    try:
        text = content.decode("utf-8-sig")
        line, _, _ = text.partition("\n")
        rows = [row for row in csv.reader(StringIO(text, newline=""), delimiter=delimiter(line)) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--image-ids {file} is neither JSON nor CSV ({error}); {_FORMS}") from None
    header = [cell.strip().casefold() for cell in rows[0]] if rows else []
    name = next((header.index(one) for one in NAME_COLUMNS if one in header), None)
    number = next((header.index(one) for one in ID_COLUMNS if one in header), None)
    width = 2
    if name is not None and number is not None:
        rows, width = rows[1:], len(header)
    else:
        name, number = 0, 1
    for row in rows:
        if len(row) != width:
            raise UsageError(f"--image-ids {file}: the row {','.join(row)} has {len(row)} cells, not {width}; {_FORMS}")
        yield row[name].strip(), row[number].strip()


def delimiter(line: str) -> str:
    """What separates the cells of a table with such a first line."""
    return max(",;\t", key=line.count)  # the first of those that are as many


def categories_of(document: Any, where: str) -> dict[str, int] | None:
    """The ids of a COCO dataset's categories by name; None where it has none. `where` is what messages call it.

    Raises UsageError where two have one name or id.
    """
    records = document.get("categories") if isinstance(document, dict) else None
    if not isinstance(records, list) or not records:
        return None
    found: dict[str, int] = {}
    for record in records:
        name, number = (record.get("name"), as_id(record.get("id"))) if isinstance(record, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(number, int):
            raise UsageError(f"{where}: a category has no name or no whole number as its id")
        if name in found or number in found.values():
            raise UsageError(f"{where}: two categories are called {name!r} or have the id {number}")
        found[name] = number
    return found


def as_id(value: Any) -> ImageId | None:
    """A whole number of 64 bits, however it is written, or a text, as longer ones are; None for what is no id."""
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        return int(whole[1]) if whole and _fits(int(whole[1])) else value or None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < EXACT else None
    return value if isinstance(value, int) and not isinstance(value, bool) and _fits(value) else None


def _fits(number: int) -> bool:
    return -(2**63) <= number < 2**63


def _parts(name: str) -> tuple[str, ...]:
    """Of a path of any system: Windows' tools write backslashes."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _common(path: tuple[str, ...], name: tuple[str, ...]) -> int:
    """How many parts agree from the end."""
    count = 0
    while count < min(len(path), len(name)) and path[-1 - count] == name[-1 - count]:
        count += 1
    return count


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
