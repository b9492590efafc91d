"""Ids of a COCO file that are no numbers: names of images, UUIDs, hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from training.data.annotations.fields import is_number

_LISTS: Final = ("images", "categories", "annotations")
_REFERENCES: Final = (("image_id", "images"), ("category_id", "categories"))


@dataclass(frozen=True, slots=True)
class TextIds:
    """images, categories: the texts that the file has for their numbers; notes says what was numbered."""

    images: Mapping[int, str]
    categories: Mapping[int, str]
    notes: tuple[str, ...]


def number_ids(document: Mapping[str, list[Any]]) -> TextIds:
    """Puts numbers in the place of ids that are texts, above those that are numbers, in the order of the file. Changes
    the document's records, and what refers to them.
    """
    numbered = {key: _Numbered(document[key]) for key in _LISTS}
    for key in _LISTS:
        for record in document[key]:
            numbered[key].replace(record, "id")
    named = {key: len(ids.numbers) for key, ids in numbered.items()}
    for record in document["annotations"]:
        for reference, key in _REFERENCES:
            numbered[key].replace(record, reference)
    notes = tuple(
        f"{count} of {len(document[key])} {key} have an id that is no number, and got one: "
        f"{next(iter(numbered[key].numbers))!r} is {next(iter(numbered[key].numbers.values()))}"
        for key, count in named.items()
        if count
    )
    images, categories = (
        {number: text for text, number in numbered[key].numbers.items()} for key in ("images", "categories")
    )
    return TextIds(images, categories, notes)


class _Numbered:
    """The numbers of the texts that one list has for ids."""

    def __init__(self, records: list[Any]) -> None:
        self.numbers: dict[str, int] = {}
        ids = [record["id"] for record in records if isinstance(record, dict) and is_number(record.get("id"))]
        self._next = max((int(id_) for id_ in ids if int(id_) < 2**62), default=0)

    def replace(self, record: Any, key: str) -> None:
        value = record.get(key) if isinstance(record, dict) else None
        if not isinstance(value, str) and type(value) is not int:
            return
        if value == "" or is_number(value):
            return
        if str(value) not in self.numbers:
            self._next += 1
            self.numbers[str(value)] = self._next
        record[key] = self.numbers[str(value)]
