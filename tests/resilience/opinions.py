"""What two decoders make of a file: ours, and other libraries, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.errors import ImageError
from model.runtime.images.limits import ImageLimits
from model.runtime.images.reading import probe, read_picture
from model.runtime.images.signatures import sniff_format

LIMITS = ImageLimits(max_pixels=1_000_000)


@dataclass(frozen=True)
class Opinion:
    """The picture [H, W] or [H, W, 3], laid over white and not turned, or what was said instead. `kind` is the type of
    what was raised; `megabytes` how much the process has ever grown beyond what it was at its start.
    """

    picture: NDArray[Any] | None
    kind: str = ""
    said: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


class Decoder:
    """`see` in a process of its own. A `with` block ends it."""

    def __init__(self, see: Callable[[bytes], NDArray[Any]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, see), daemon=True)
        self._process.start()
        there.close()

    def __call__(self, data: bytes) -> Opinion:
        """Raises EOFError when the process dies of it."""
        self._here.send_bytes(data)
        opinion = self._here.recv()
        assert isinstance(opinion, Opinion)
        return opinion

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._here.close()
        self._process.join(5)
        self._process.kill()


def _serve(there: Connection, see: Callable[[bytes], NDArray[Any]]) -> None:
    see_safely(see, b"")
    start = _peak()
    while True:
        try:
            data = there.recv_bytes()
        except EOFError:
            return
        began = time.perf_counter()
        picture, kind, said = see_safely(see, data)
        there.send(Opinion(picture, kind, said, time.perf_counter() - began, (_peak() - start) / 2**20))


def see_safely(see: Callable[[bytes], NDArray[Any]], data: bytes) -> tuple[NDArray[Any] | None, str, str]:
    try:
        return see(data), "", ""
    except Exception as error:  # whatever it is, it is an opinion
        return None, type(error).__name__ if not isinstance(error, ImageError) else "ImageError", repr(error)


def _peak() -> int:
    """Bytes that the process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(data: bytes) -> NDArray[Any]:
    """As the server reads it. What only looks at the header must not fail otherwise than with an ImageError."""
    with suppress(ImageError):
        probe(data, LIMITS)
    return read_picture(data, LIMITS, upright=False).values


def others(data: bytes) -> NDArray[Any]:
    """The format is told as the server tells it; everything else is other libraries' work."""
    format = sniff_format(data)
    if format == "TIFF":
        return _tiff(data)
    decode: dict[str | None, Callable[[bytes], NDArray[Any]]] = {
        "JPEG": _jpeg,
        "PNG": lambda data: imagecodecs.png_decode(_plain_png(data)),
        "WEBP": imagecodecs.webp_decode,
        "BMP": lambda data: imagecodecs.bmp_decode(_plain_bmp(data)),
        "GIF": lambda data: imagecodecs.gif_decode(_first_frame(data), index=0),
        "AVIF": lambda data: imagecodecs.avif_decode(data, index=0),
        "JPEG 2000": imagecodecs.jpeg2k_decode,
    }
    if format not in decode:
        raise NobodyElse
    return over_white(decode[format](data))


def _jpeg(data: bytes) -> NDArray[Any]:
    """CMYK becomes RGB as Pillow has it, of values that are inverted, as Adobe writes them."""
    if len(Image.open(BytesIO(data)).getbands()) != 4:
        return imagecodecs.jpeg8_decode(data)
    inverted = imagecodecs.jpeg8_decode(data, outcolorspace="CMYK").astype(np.float64)
    return np.rint(inverted[..., :3] * inverted[..., 3:] / 255).astype(np.uint8)


class NobodyElse(Exception):
    """No other library here reads this format."""


def _plain_png(data: bytes) -> bytes:
    """The picture alone, without animation, its pixels packed anew and with an end: where nothing but that is missing,
    libpng gives up, and viewers don't.
    """
    kept, packed, position = [data[:8]], b"", 8
    while position + 12 <= len(data) + 4:
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if name == b"IDAT":
            packed += data[position + 8 : end - 4]
        elif name == b"IEND" or end > len(data):
            break
        elif name in (b"IHDR", b"PLTE") or (name == b"tRNS" and not packed):  # behind the pixels it counts for nothing
            kept.append(data[position:end])
        position = end
    try:
        rows = zlib.decompressobj().decompress(packed, LIMITS.max_pixels * 8)
    except zlib.error:  # such as a wrong checksum behind the last row
        return data
    return b"".join([*kept, _chunk(b"IDAT", zlib.compress(rows, 1)), _chunk(b"IEND", b"")])


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _plain_bmp(data: bytes) -> bytes:
    """With the file's size right, and a palette of as many colors as pixels may name, black where it has none: there
    imagecodecs gives up, and viewers show black.
    """
    data = data[:2] + struct.pack("<I", len(data)) + data[6:]
    offset, header, bits = *struct.unpack_from("<II", data, 10), *struct.unpack_from("<H", data, 28)
    if header < 40:
        return data
    data = data[:34] + bytes(4) + data[38:]  # the pixels' size, which nobody needs
    if bits > 8:
        return data[:46] + bytes(4) + data[50:]
    (stated,) = struct.unpack_from("<I", data, 46)
    start, most = 14 + header, 2**bits
    offset = max(offset, start + 4 * min(stated or most, most))
    palette = data[start : start + 4 * min(stated or most, most)].ljust(4 * most, b"\0")
    moved = struct.pack("<II", start + len(palette), header)
    return data[:10] + moved + data[18:46] + struct.pack("<I", most) + data[50:start] + palette + data[offset:]


def _first_frame(data: bytes) -> bytes:
    """A GIF without what follows its first frame, and without what is no block: giflib would give up for either."""
    position = 13 + _palette_bytes(data[10])
    kept = [data[:position]]
    while position < len(data) and (kind := data[position : position + 1]) != b",":
        end = _behind_blocks(data, position + 2) if kind == b"!" else position + 1
        if kind == b"!":
            kept.append(data[position:end])
        position = end
    end = _behind_blocks(data, position + 11 + _palette_bytes(data[position + 9]))
    return b"".join([*kept, data[position:end], b";" if end <= len(data) else b"\0;"])


def _palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _behind_blocks(data: bytes, position: int) -> int:
    while position < len(data) and (length := data[position]):
        position += 1 + length
    return position + 1


def _tiff(data: bytes) -> NDArray[Any]:
    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        values = page.asarray()
    if page.planarconfig == 2 and values.ndim == 3:
        values = np.moveaxis(values, 0, 2)
    if page.photometric in (0, 1) and values.ndim == 3:  # samples that are no colors: the first
        values = values[..., 0]
    return np.iinfo(values.dtype).max - values if page.photometric == 0 and values.dtype.kind == "u" else values


def over_white(values: NDArray[Any]) -> NDArray[Any]:
    """Of a picture whose last of 2 or 4 samples is its opacity."""
    if values.ndim < 3 or values.shape[2] not in (2, 4):
        return values
    white = np.iinfo(values.dtype).max
    share = values[..., -1:].astype(np.float64) / white
    laid = np.rint(values[..., :-1] * share + white * (1 - share)).astype(values.dtype)
    return laid[..., 0] if laid.shape[2] == 1 else laid


def by_pillow(data: bytes) -> NDArray[Any]:
    """For TIFFs, which ours reads with tifffile's help."""
    with Image.open(BytesIO(data)) as image:
        image.load()
        return np.asarray(image if image.mode in ("L", "RGB", "I;16", "F", "I") else image.convert("RGB"))
