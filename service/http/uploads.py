"""From an HTTP request to the bytes of the images in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import Request
from python_multipart.multipart import parse_options_header

from model.runtime.images.data import Data
from service.http.gzipped import decompress
from service.http.multipart import File, find_file, find_files
from service.http.problems import BAD_MULTIPART, TOO_MANY_BYTES, UNSUPPORTED_TYPE, Problem
from service.http.spool import Spool

RAW = frozenset({b"", b"application/octet-stream", b"binary/octet-stream"})
"""Content types that say nothing: what the format is, the first bytes tell anyhow."""
FORM = b"application/x-www-form-urlencoded"

SEND_A_FILE = "Send the file's own bytes as the body, or multipart/form-data with a part named file."
BASE64_GOES_TO = "Images as base64 in JSON go to POST /v2/models/NAME/infer."


@dataclass(frozen=True, slots=True)
class Upload:
    """A complete body as it was sent. Its methods search and unpack all of it, so they are not for the event loop.

    `boundary` is None when the body itself is the image.
    """

    raw: Data
    encoding: str
    boundary: bytes | None
    max_bytes: int

    def body(self) -> bytes:
        """Without its content encoding. Raises Problem (damaged, unknown encoding, more than `max_bytes`)."""
        return bytes(self._unpacked())

    def file(self) -> File:
        """The one image. Raises Problem as `body` does, or bad multipart."""
        body = self._unpacked()
        return File(body) if self.boundary is None else find_file(body, self.boundary)

    def files(self, max_files: int) -> list[File]:
        """One image or several. Raises Problem as `body` does, or bad multipart."""
        body = self._unpacked()
        return [File(body)] if self.boundary is None else find_files(body, self.boundary, max_files)

    def _unpacked(self) -> Data:
        return decompress(self.raw, self.encoding, self.max_bytes)


async def read_upload(request: Request, max_bytes: int) -> Upload:
    """Read a body that holds images. Raises Problem for a content type of something else before reading, and as
    `read_body`.
    """
    return await read_body(request, max_bytes, _boundary(request.headers.get("content-type", "")))


async def read_body(request: Request, max_bytes: int, boundary: bytes | None = None) -> Upload:
    """Read the body, but no more than `max_bytes` of it, whatever Content-Length says or doesn't.

    Raises Problem: too many bytes. Raises starlette's ClientDisconnect.
    """
    if _announces_more(request.headers.get("content-length", ""), max_bytes):
        raise too_many_bytes(max_bytes)
    spool = Spool()
    async for chunk in request.stream():
        if spool.size + len(chunk) > max_bytes:
            raise too_many_bytes(max_bytes)
        if spool.spills(chunk):
            await asyncio.to_thread(spool.write, chunk)
        else:
            spool.write(chunk)
    # Several lines are one list (RFC 9110, 5.3): to heed one of them would be to guess which.
    encoding = ", ".join(request.headers.getlist("content-encoding"))
    return Upload(spool.content(), encoding, boundary, max_bytes)


def _announces_more(length: str, max_bytes: int) -> bool:
    digits = length.lstrip("0")  # which may be so many that Python makes no number of them
    return digits.isdecimal() and (len(digits) > len(str(max_bytes)) or int(digits) > max_bytes)


def too_many_bytes(max_bytes: int) -> Problem:
    return Problem(TOO_MANY_BYTES, f"At most {max_bytes} bytes are accepted; compress it more, or send it smaller.")


def _boundary(content_type: str) -> bytes | None:
    """The multipart boundary, or None for a raw image."""
    kind, options = parse_options_header(content_type)
    if kind in RAW or kind.startswith(b"image/"):
        return None
    if kind != b"multipart/form-data":
        curl = ""
        if kind == FORM:
            curl = (
                " curl -d names that type; a file goes with -F file=@FILE, or with --data-binary @FILE and "
                "-H 'Content-Type: image/png'."
            )
        raise Problem(
            UNSUPPORTED_TYPE,
            f"The content type is {content_type}; send multipart/form-data with a part named file, or the image itself "
            f"as image/* or application/octet-stream. {BASE64_GOES_TO}{curl}",
        )
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Problem(BAD_MULTIPART, "The content type multipart/form-data lacks its boundary.")
    return boundary
