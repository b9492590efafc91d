"""Text files as people's tools write them: names, lists, JSON, YAML, tables.

A byte order mark decides (UTF-8, 16 or 32, as editors of Windows write them); without one a file is UTF-8. Another
encoding is never guessed: a wrong guess gives a wrong name without a word.
"""

from __future__ import annotations

import codecs
import json
import mmap
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from training.data.annotations.dataset import DatasetError
from training.data.annotations.fields import BrokenRecord

_MARK: Final = "\ufeff"
_WIDE: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before that of UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """A text file. Raises BrokenRecord, naming the file and the byte, where it cannot be read or is no text."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BrokenRecord("unreadable annotations", f"cannot read {path}: {error.strerror}") from None
    encoding = _wide(content) or "utf-8"
    try:
        text = content.decode(encoding).replace(_MARK, "")  # files that were joined have one within
    except UnicodeDecodeError as error:
        found = f"byte {error.start} (0x{content[error.start]:02x})" if error.start < len(content) else "its end"
        raise BrokenRecord(
            "unreadable annotations", f"{path} is not {encoding.upper()}: {found} is wrong; save it as UTF-8"
        ) from None
    if "\0" in text:  # UTF-16 without a mark is UTF-8 with zeros in it
        raise BrokenRecord(
            "unreadable annotations",
            f"{path} has a zero at byte {content.index(0)}, which no text has: save it as UTF-8 (UTF-16 needs a mark)",
        )
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a list of names or files, without spaces around them. Raises DatasetError as `read_text` does."""
    try:
        return [line.strip() for line in read_text(path).splitlines()]
    except BrokenRecord as broken:
        raise DatasetError(broken.message) from None


def read_json(path: Path) -> Any:
    """A JSON file. Raises BrokenRecord."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise BrokenRecord("unreadable annotations", f"{path} is not JSON: {error}") from None


def glance(path: Path) -> str:
    """A text file to tell what it is, with what does not decode replaced; nothing where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    return content.decode(_wide(content) or "utf-8", errors="replace").replace(_MARK, "")


def has_keys(path: Path, keys: Iterable[re.Pattern[bytes]]) -> bool:
    """Whether a JSON file holds all of the keys, given as ASCII; large files are not parsed for that."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if _wide(content[:4]) is None:
                return all(key.search(content) for key in keys)
    except (OSError, ValueError):  # unreadable, or empty, which cannot be mapped
        return False
    text = glance(path).encode()
    return all(key.search(text) for key in keys)


def _wide(content: bytes) -> str | None:
    """UTF-16 or 32, by the mark at the start."""
    return next((encoding for mark, encoding in _WIDE if content.startswith(mark)), None)
