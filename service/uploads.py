"""From an HTTP request to the bytes of the image in it."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from python_multipart.multipart import parse_options_header

from service.multipart import find_file
from service.problems import BAD_MULTIPART, TOO_MANY_BYTES, UNSUPPORTED_TYPE, Problem


@dataclass(frozen=True, slots=True)
class Upload:
    """A complete body. `boundary` is None when the body itself is the image."""

    body: bytes
    boundary: bytes | None

    def image(self) -> bytes:
        """The encoded image. Searches the whole body, so not for the event loop. Raises Problem (bad multipart)."""
        return self.body if self.boundary is None else find_file(self.body, self.boundary)


async def read_upload(request: Request, max_bytes: int) -> Upload:
    """Read the body, but no more than `max_bytes` of it, whatever Content-Length says or doesn't.

    Raises Problem: wrong content type (before reading), too many bytes. Raises starlette's ClientDisconnect.
    """
    boundary = _boundary(request.headers.get("content-type", ""))
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_many(max_bytes)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_many(max_bytes)
        chunks.append(chunk)
    return Upload(b"".join(chunks), boundary)


def _boundary(content_type: str) -> bytes | None:
    """The multipart boundary, or None for a raw image."""
    kind, options = parse_options_header(content_type)
    if kind.startswith(b"image/"):
        return None
    if kind != b"multipart/form-data":
        raise Problem(
            UNSUPPORTED_TYPE,
            f"The content type is {content_type or 'missing'}; send multipart/form-data with a part named file, "
            f"or the image itself with an image/* content type.",
        )
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Problem(BAD_MULTIPART, "The content type multipart/form-data lacks its boundary.")
    return boundary


def _too_many(max_bytes: int) -> Problem:
    return Problem(TOO_MANY_BYTES, f"At most {max_bytes} bytes are accepted; compress it more, or send it smaller.")
