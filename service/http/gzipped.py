"""Compressed bodies: requests unpacked without ever growing past a limit, answers packed for clients that accept it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware, GZipResponder, IdentityResponder
from starlette.types import Receive, Scope, Send

from model.runtime.images.data import Data, let_go
from service.http.accept import qualities
from service.http.problems import BAD_ENCODING, TOO_MANY_BYTES, UNSUPPORTED_ENCODING, Problem
from service.http.spool import Spool

MIN_COMPRESSED = 1000
"""Bytes; below, the compression saves less than the packet it goes in."""
MAX_MEMBERS = 4096
"""Members of one gzip body. Who concatenates files has few; a body of empty ones would take very long to unpack."""

_GZIP = 16 + zlib.MAX_WBITS
_ZLIB = zlib.MAX_WBITS
# zlib copies what follows the end of a member, so it gets the input piece by piece.
_WINDOW = 64 * 1024
_LEVEL = 1


def decompress(data: Data, content_encoding: str, max_bytes: int) -> Data:
    """The body that `data` is, or packs, by the Content-Encoding header (empty: none): at most `max_bytes` bytes.

    Raises Problem: larger, damaged, or an encoding (or a list of them) that is not supported.
    """
    match content_encoding.strip().lower():
        case "" | "identity":
            if len(data) > max_bytes:
                raise _too_many(max_bytes)
            return data
        case "gzip" | "x-gzip":
            return gunzip(data, max_bytes)
        case "deflate":
            return inflate(data, max_bytes)
    raise Problem(
        UNSUPPORTED_ENCODING,
        f"The content encoding is {content_encoding[:80]!r}; send one of gzip, deflate, or identity, and once only.",
    )


def gunzip(data: Data, max_bytes: int) -> Data:
    """Unpack gzip (RFC 1952), several members included, to at most `max_bytes` bytes.

    Raises Problem: larger, damaged, truncated or followed by something else.
    """
    return _unpack(data, "gzip", _GZIP, MAX_MEMBERS, max_bytes)


def inflate(data: Data, max_bytes: int) -> Data:
    """Unpack what HTTP calls deflate, the zlib format (RFC 1950), as `gunzip` does."""
    return _unpack(data, "deflate", _ZLIB, 1, max_bytes)


def compress(body: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """The body to send and its Content-Encoding: gzip if the client accepts it and it pays, else as it is and None.

    The same body gives the same bytes. The answer depends on the request: it needs `Vary: Accept-Encoding`.
    """
    if len(body) < MIN_COMPRESSED or not accepts_gzip(accept_encoding):
        return body, None
    packed = zlib.compress(body, _LEVEL, _GZIP)  # writes no time into the header
    return (packed, "gzip") if len(packed) < len(body) else (body, None)


def compress_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same as one gzip member, piece by piece."""
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


class GzipStream:
    """One gzip member that is sent while it is made: each piece can be unpacked as soon as it has come."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(_LEVEL, wbits=_GZIP)

    def add(self, piece: bytes) -> bytes:
        return self._packer.compress(piece) + self._packer.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._packer.flush()


class CompressAnswers(GZipMiddleware):
    """Starlette's for clients that accept gzip, which takes any that name it for one, `gzip;q=0` too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        excluded = self.exclude_content_types
        responder = IdentityResponder(self.app, self.minimum_size, exclude_content_types=excluded)
        if accepts_gzip(", ".join(Headers(scope=scope).getlist("accept-encoding"))):
            responder = GZipResponder(
                self.app,
                self.minimum_size,
                compresslevel=self.compresslevel,
                thread_minimum_size=self.thread_minimum_size,
                exclude_content_types=excluded,
            )
        await responder(scope, receive, send)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether gzip is acceptable (RFC 9110, section 12.5.3) and not liked less than no compression."""
    quality = qualities(accept_encoding)
    gzip = quality.get("gzip", quality.get("x-gzip", quality.get("*", 0.0)))
    return gzip > 0 and gzip >= quality.get("identity", 0.0)


def _unpack(data: Data, encoding: str, window_bits: int, max_members: int, max_bytes: int) -> Data:
    view, position, members = memoryview(data), 0, 0
    unpacked = Spool()
    while position < len(data) or members == 0:
        if members == max_members:
            raise _damaged(encoding, f"something follows its end at byte {position}")
        members += 1
        stream = zlib.decompressobj(window_bits)
        while not stream.eof:
            window = view[position : position + _WINDOW]
            if not window:
                raise _damaged(encoding, "it ends too early")
            try:
                piece = stream.decompress(window, max_bytes - unpacked.size + 1)
            except zlib.error:
                raise _damaged(encoding, f"near byte {position} of {len(data)}") from None
            if unpacked.size + len(piece) > max_bytes:
                raise _too_many(max_bytes)
            unpacked.write(piece)
            let_go(data)
            position += len(window) - len(stream.unused_data)
    return unpacked.content()


def _damaged(encoding: str, where: str) -> Problem:
    return Problem(
        BAD_ENCODING, f"The body does not unpack as {encoding}: {where}; pack it again, or send it uncompressed."
    )


def _too_many(max_bytes: int) -> Problem:
    return Problem(TOO_MANY_BYTES, f"At most {max_bytes} bytes are accepted, counted after unpacking; send it smaller.")
