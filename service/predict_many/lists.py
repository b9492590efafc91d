"""Lists of images: text, CSV, Parquet and COCO files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, Final

import orjson
import pyarrow as pa
from pyarrow import parquet

from model.console.arguments import did_you_mean
from service.client.command.coco_ids import ID_COLUMNS, NAME_COLUMNS, ImageId, as_id, categories_of, delimiter
from service.client.command.inputs import UsageError

LISTS: Final = (".txt", ".csv", ".tsv", ".parquet", ".json")
"""What a list's name ends in."""
NAMES: Final = (*NAME_COLUMNS, "path", "uri")
"""What the column of the images' names may be called, the first that is there."""


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    image_id: ImageId | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A list's images in its order, each with an id or none of them, and its categories' ids by name where it has
    some."""

    entries: Sequence[Entry]
    categories: Mapping[str, int] | None = None


def read_list(where: str, suffix: str, content: bytes) -> Listed:
    """`where` is what messages call it. Raises UsageError where it has another form, names nothing, or an image or an
    id twice."""
    categories = None
    if suffix == ".json":
        document = _json(where, content)
        pairs = [(record["file_name"], record["id"]) for record in document["images"]]
        categories = categories_of(document, where)
    elif suffix == ".parquet":
        pairs = _of_parquet(where, content)
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(f"{where} is no text in UTF-8: {error}") from None
        pairs = [(line.rstrip("\n"), None) for line in StringIO(text, newline=None) if line.strip()]
        if suffix != ".txt":
            pairs = list(_of_csv(where, text))
    entries = [_entry(where, name, number) for name, number in pairs]
    if not entries:
        raise UsageError(f"{where} names no images")
    _require_once(where, "the image", [one.name for one in entries])
    if None in (ids := [one.image_id for one in entries]) and set(ids) != {None}:
        raise UsageError(f"{where}: {entries[ids.index(None)].name} has no id, and others have: give all of them one")
    if None not in ids:
        _require_once(where, "the id", ids)
    return Listed(entries, categories)


def _entry(where: str, name: Any, number: Any) -> Entry:
    image_id = None if number is None else as_id(number)
    is_name = isinstance(name, str) and bool(name.strip()) and "\0" not in name
    if not is_name or (number is not None and image_id is None):
        said = "" if number is None else f" with the id {number!r}"
        raise UsageError(f"{where}: {name!r}{said} is no image's name{' with an id' if said else ''}")
    return Entry(name, image_id)


def _require_once(where: str, what: str, values: Sequence[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise UsageError(f"{where} has {what} {value} twice: name each image once")
        seen.add(value)


def _json(where: str, content: bytes) -> dict[str, Any]:
    """A COCO dataset whose images all have a name and an id."""
    try:
        document = orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{where} is not valid JSON: {error}") from None
    records = document.get("images") if isinstance(document, dict) else None
    if not isinstance(records, list):
        raise UsageError(f"{where} is no COCO dataset, which has a list of images, with file_name and id")
    for number, record in enumerate(records):
        if not isinstance(record, dict) or "file_name" not in record or record.get("id") is None:
            raise UsageError(f"{where}: image {number} of its list has no file_name or no id")
    assert isinstance(document, dict)
    return document


def _of_csv(where: str, text: str) -> Iterator[tuple[Any, Any]]:
    first, _, _ = text.partition("\n")
    try:
        rows = [row for row in csv.reader(StringIO(text, newline=""), delimiter=delimiter(first)) if any(row)]
    except csv.Error as error:
        raise UsageError(f"{where} is no CSV: {error}") from None
    if not rows:
        return
    header = [cell.strip().casefold() for cell in rows[0]]
    name, number = _columns(where, header)
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise UsageError(f"{where}: row {line} has {len(row)} cells, and its header {len(header)}")
        yield row[name].strip(), None if number is None else row[number].strip()


def _of_parquet(where: str, content: bytes) -> list[tuple[Any, Any]]:
    try:
        file = parquet.ParquetFile(pa.BufferReader(content))
        header = file.schema_arrow.names
        name, number = _columns(where, [one.casefold() for one in header])
        if not _is_text(kind := file.schema_arrow.field(name).type):
            raise UsageError(f"{where}: its column {header[name]} is {kind}, and not names of files, which are texts")
        chosen = [header[name], *([] if number is None else [header[number]])]
        columns = [file.read(chosen).column(one).to_pylist() for one in chosen]
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{where} is no Parquet file: {' '.join(str(error).split())}") from None
    return list(zip(columns[0], columns[1] if number is not None else [None] * len(columns[0]), strict=True))


def _columns(where: str, header: Sequence[str]) -> tuple[int, int | None]:
    """Where the names are, and the ids, if there are any. Raises UsageError."""
    name = next((header.index(one) for one in NAMES if one in header), None)
    if name is None:
        hints = (did_you_mean(one, NAMES, otherwise="") for one in header)
        hint = next(filter(None, hints), f"call it one of {', '.join(NAMES)}")
        raise UsageError(f"{where} has no column of the images' names, only {', '.join(header)}; {hint}")
    number = next((header.index(one) for one in ID_COLUMNS if one in header), None)
    for one in (name, number):
        if one is not None and (count := header.count(header[one])) > 1:
            raise UsageError(f"{where} has {count} columns that are called {header[one]}: leave one")
    return name, number


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text: bool = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return is_text
