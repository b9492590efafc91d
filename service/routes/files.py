"""Answers that are files for analysis tools: whole when they are small, streamed when they are large."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from model.runtime.analysis.file_types import FILE_TYPES, FileFormat
from model.runtime.analysis.files import file_of
from model.runtime.analysis.findings import NeedsMasks
from service.http.gzipped import accepts_gzip, compress, compress_pieces
from service.http.problems import INVALID_PARAMETER, Problem
from service.prediction.answers import Detected, findings
from service.prediction.intake import Visit

PIECE = 1 << 18
"""Bytes that are made and sent at a time; what is longer is streamed."""
TRUNCATED = "Maskserve-Truncated"
"""The header that says for a file what `truncated` says in JSON."""
PRECISION = "Maskserve-Precision"
"""The header that says for every prediction what `model.precision` says in JSON."""
IMAGE = "Maskserve-Image"
"""The header that says for COCO results and pictures what `image` says in JSON, as JSON."""
UNNAMED = "detections"
"""The file's name where the image has none."""


@dataclass(frozen=True, slots=True, eq=False)
class FileBody:
    """A file that has been begun: its first piece, and the others, which are made when they are asked for; None where
    there are none."""

    format: FileFormat
    first: bytes
    rest: Iterator[bytes] | None
    truncated: bool


def begin_file(detected: Detected, format: FileFormat) -> FileBody:
    """Measure all objects and make the first piece. For the postprocess threads. Raises Problem."""
    try:
        pieces = grouped(file_of(format, findings(detected)))
        first, second = next(pieces, b""), next(pieces, None)
    except NeedsMasks as error:
        message = f"{error}: ask a model that has masks, and not with masks=none"
        errors = [{"parameter": "format", "message": message}]
        raise Problem(INVALID_PARAMETER, f"format: {message}.", extra={"errors": errors}) from None
    return FileBody(format, first, None if second is None else chain([second], pieces), detected.seen.truncated)


def file_response(visitor: Visit, body: FileBody, image_name: str) -> Response:
    """`image_name` is what the client called the image, from which the file has its name."""
    kind = FILE_TYPES[body.format]
    headers = {
        "Content-Disposition": _disposition(image_name, kind.suffix),
        "Vary": "Accept, Accept-Encoding",
        PRECISION: visitor.model.precision,
        TRUNCATED: str(body.truncated).lower(),
    }
    accepted = "" if kind.packed else visitor.accept_encoding
    if body.rest is None:
        content, encoding = compress(body.first, accepted)
        if encoding is not None:
            headers["Content-Encoding"] = encoding
        return Response(content, media_type=kind.media_type, headers=headers)
    pieces: Iterator[bytes] = chain([body.first], body.rest)
    if accepts_gzip(accepted):
        headers["Content-Encoding"] = "gzip"
        pieces = compress_pieces(pieces)
    return _Streamed(visitor, pieces, kind.media_type, headers)


class _Streamed(StreamingResponse):
    """Sends pieces, each of which is made when the one before has gone. A server that drains waits for it."""

    def __init__(self, visitor: Visit, pieces: Iterator[bytes], media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(_made(visitor, pieces), media_type=media_type, headers=headers)
        self._gate = visitor.lifecycle.gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._gate.sending():
            await super().__call__(scope, receive, send)


async def _made(visitor: Visit, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Each piece, made on a postprocess thread."""
    while True:
        piece, _ = await visitor.pipeline.postprocess_pool.run(lambda: next(pieces, None), visitor.priority)
        if piece is None:
            return
        yield piece


def grouped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of PIECE or more, but for the last."""
    group, size = [], 0
    for piece in pieces:
        group.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(group)
            group, size = [], 0
    if size:
        yield b"".join(group)


def _disposition(image_name: str, suffix: str) -> str:
    """Content-Disposition (RFC 6266) that saves `cells.png` as `cells.csv`, whatever characters are in its name."""
    stem = re.split(r"[/\\]", image_name)[-1].rpartition(".")
    name = (stem[0] or stem[2] or UNNAMED) + suffix
    quoted = quote(name)
    return f'attachment; filename="{name}"' if quoted == name else f"attachment; filename*=utf-8''{quoted}"
