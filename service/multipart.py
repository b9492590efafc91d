"""Finds the uploaded file in a complete multipart/form-data body (RFC 7578)."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.problems import BAD_MULTIPART, Problem

MAX_PARTS = 16


@dataclass(slots=True)
class _Part:
    disposition: bytes = b""
    chunks: list[bytes] = field(default_factory=list)

    @property
    def name(self) -> str:
        _, options = parse_options_header(self.disposition)
        return options.get(b"name", b"").decode("utf-8", "replace")


class _Collector:
    """The parser's callbacks. They get (buffer, start, end) because it never copies."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.complete = False
        self._header = bytearray()
        self._value = bytearray()

    def on_part_begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise Problem(BAD_MULTIPART, f"The body has more than {MAX_PARTS} parts; send one, named file.")
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
        self.parts[-1].chunks.append(data[start:end])

    def on_end(self) -> None:
        self.complete = True


def find_file(body: bytes, boundary: bytes) -> bytes:
    """The content of the one part named `file`.

    Raises Problem: the body is not multipart with this boundary, is cut short, has no such part or several, or has
    other parts, which would be parameters that silently do nothing.
    """
    found = _Collector()
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
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Problem(BAD_MULTIPART, f"The body is not valid multipart/form-data: {error}.") from None
    if not found.complete:
        raise Problem(BAD_MULTIPART, "The multipart body is empty or ends before its last boundary.")
    names = [part.name for part in found.parts]
    for name in names:
        if name != "file":
            raise Problem(
                BAD_MULTIPART,
                f"Unknown part {name!r}: the image goes into a part named file, parameters into the query.",
            )
    if len(names) != 1:
        raise Problem(BAD_MULTIPART, f"The body has {len(names)} parts named file; send exactly one image a request.")
    return b"".join(found.parts[0].chunks)
