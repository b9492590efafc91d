"""Finds the uploaded files in a complete multipart/form-data body (RFC 7578)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from model.runtime.images.data import Data, let_go
from service.http.problems import BAD_MULTIPART, Problem
from service.http.spool import Spool

FILE = "file"
"""The name of the parts that hold images."""


_PIECE = 1 << 20
"""Bytes that are parsed at a time."""
_QUOTED = re.compile(r'(?<!\*=)"(?:\\.|[^"\\])*+"?')
"""A quoted text; one that does not end goes on to the end, or each quote in it would be looked into anew."""
_EXTENDED_NAME = re.compile(r""";\s*filename\*\s*=\s*"?(utf-8|iso-8859-1)'[^']*'([^\s;"]*)""", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file: its content, and what the client called it ("" if nothing)."""

    content: Data
    name: str = ""


@dataclass(slots=True)
class _Part:
    disposition: bytes = b""
    spool: Spool = field(default_factory=Spool)

    def option(self, name: bytes) -> str:
        _, options = parse_options_header(self.disposition)
        return options.get(name, b"").decode("utf-8", "replace")

    @property
    def filename(self) -> str:
        """From `filename*` (RFC 8187), which some clients send though RFC 7578 has no use for it, or `filename`."""
        extended = _EXTENDED_NAME.search(_QUOTED.sub('""', self.disposition.decode("latin-1")))
        if extended is None:
            return self.option(b"filename")
        charset, name = extended.groups()
        return unquote(name, charset, "replace")


class _Collector:
    """The parser's callbacks. They get (buffer, start, end) because it never copies."""

    def __init__(self, max_files: int) -> None:
        self.parts: list[_Part] = []
        self.complete = False
        self._max_files = max_files
        self._header = bytearray()
        self._value = bytearray()

    def on_part_begin(self) -> None:
        if len(self.parts) == self._max_files:
            raise _too_many(self._max_files)
        self.parts.append(_Part())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self.parts[-1].disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].spool.write(data[start:end])

    def on_end(self) -> None:
        self.complete = True


def _too_many(files: int) -> Problem:
    return Problem(BAD_MULTIPART, f"The body has more than {files} parts; send fewer images at once.")


def find_files(body: Data, boundary: bytes, max_files: int) -> list[File]:
    """The parts named `file`, at least one, in their order.

    Raises Problem: the body is not multipart with this boundary, is cut short, has no such part or more than
    `max_files`, or has other parts, which would be parameters that silently do nothing.
    """
    found = _Collector(max_files)
    delimiters = 0
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": found.on_part_begin,
                "on_header_field": found.on_header_field,
                "on_header_value": found.on_header_value,
                "on_header_end": found.on_header_end,
                "on_part_data": found.on_part_data,
                "on_end": found.on_end,
            },
        )
        for start in range(0, len(body), _PIECE):
            piece = bytes(body[start : start + _PIECE])
            # Of those that no part begins behind, which no body should have, each costs the parser its time.
            delimiters += piece.count(b"\r\n--" + boundary)
            if delimiters > max_files + 1:
                raise _too_many(max_files)
            parser.write(piece)
            let_go(body)
        parser.finalize()
    except FormParserError as error:
        raise Problem(BAD_MULTIPART, f"The body is not valid multipart/form-data: {error}.") from None
    if not found.complete:
        raise Problem(BAD_MULTIPART, "The multipart body is empty or ends before its last boundary.")
    if not found.parts:
        raise Problem(BAD_MULTIPART, f"The body has no part named {FILE}.")
    for part in found.parts:
        if (name := part.option(b"name")) != FILE:
            raise Problem(
                BAD_MULTIPART,
                f"Unknown part {name!r}: an image goes into a part named {FILE}, parameters into the query.",
            )
    return [File(part.spool.content(), part.filename) for part in found.parts]


def find_file(body: Data, boundary: bytes) -> File:
    """The one part named `file`. Raises Problem as `find_files` does, and when there are several."""
    files = find_files(body, boundary, max_files=2)
    if len(files) > 1:
        raise Problem(
            BAD_MULTIPART, f"The body has several parts named {FILE}; send them to POST /predict/batch, or one here."
        )
    return files[0]
