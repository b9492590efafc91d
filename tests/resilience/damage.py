"""Damages valid files: cuts, flipped bits, headers that lie, parts that are missing, empty, doubled or swapped."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from tests.resilience.samples import samples

LIES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
HUGE = (0, 1, 999, 16_383, 30_000, 65_535, 1_000_000, 2**31 - 1)
"""Widths and heights."""


@dataclass(frozen=True)
class Hostile:
    """A file, and how it came about."""

    data: bytes
    format: str
    story: str


@dataclass(frozen=True)
class Part:
    """A chunk, segment, box or directory of a file, by its first byte and the one behind its last."""

    start: int
    end: int


def hostile(seed: int) -> Hostile:
    """The same for the same seed."""
    draw = Random(seed)
    name = draw.choice(sorted(samples()))
    format, data = samples()[name]
    story = [name]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        damage = draw.choice(_DAMAGES)
        data = damage(data, format, draw) if data else data
        story.append(damage.__name__)
    if format == "PNG" and draw.random() < 0.7:  # or a checksum would keep everybody from looking further
        data = _checksummed(data)
        story.append("checksummed")
    return Hostile(data, format, f"seed {seed}: {', '.join(story)}")


def cut(data: bytes, format: str, draw: Random) -> bytes:
    return data[: draw.randrange(len(data))]


def cut_between_parts(data: bytes, format: str, draw: Random) -> bytes:
    part = draw.choice(parts(data, format))
    return data[: draw.choice((part.start, part.end, part.end - 1, part.start + 1))]


def flip_bits(data: bytes, format: str, draw: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flip_in_the_header(data: bytes, format: str, draw: Random) -> bytes:
    return flip_bits(data[:64], format, draw) + data[64:]


def lie(data: bytes, format: str, draw: Random) -> bytes:
    """A number somewhere, most often near the beginning, becomes another."""
    width = draw.choice((1, 2, 4))
    place = draw.randrange(max(1, draw.choice((64, 256, len(data)))))
    number = draw.choice(LIES) & (1 << 8 * width) - 1
    return data[:place] + number.to_bytes(width, draw.choice(("big", "little"))) + data[place + width :]


def lie_about_size(data: bytes, format: str, draw: Random) -> bytes:
    """Width or height, wherever the format has it."""
    return _sized(data, format, draw.choice(HUGE), draw.choice((*HUGE, 24, 40)))


def drop_part(data: bytes, format: str, draw: Random) -> bytes:
    part = draw.choice(parts(data, format))
    return data[: part.start] + data[part.end :]


def double_part(data: bytes, format: str, draw: Random) -> bytes:
    part = draw.choice(parts(data, format))
    return data[: part.end] + data[part.start : part.end] * draw.choice((1, 1, 50)) + data[part.end :]


def swap_parts(data: bytes, format: str, draw: Random) -> bytes:
    one, other = sorted(draw.choices(parts(data, format), k=2), key=lambda part: part.start)
    if one.end > other.start:
        return data
    between = data[one.end : other.start]
    return data[: one.start] + data[other.start : other.end] + between + data[one.start : one.end] + data[other.end :]


def empty_part(data: bytes, format: str, draw: Random) -> bytes:
    """Its length stays, or not, and nothing else is left of it."""
    part = draw.choice(parts(data, format))
    return data[: part.start + 8] + bytes(draw.choice((0, 1, 4))) + data[part.end :]


def wrong_name(data: bytes, format: str, draw: Random) -> bytes:
    """The beginning of another format."""
    _, other = samples()[draw.choice(sorted(samples()))]
    length = draw.choice((4, 12, 64, len(other)))
    return other[:length] + data[draw.choice((0, length)) :]


def appended(data: bytes, format: str, draw: Random) -> bytes:
    _, other = samples()[draw.choice(sorted(samples()))]
    return data + draw.choice((b"\0", b"\xff" * 9, bytes(70_000), other, data))


@cache
def much() -> bytes:
    """64 MiB in 64 KiB. Packed when it is asked for: whoever only collects the tests imports this, too."""
    return zlib.compress(bytes(64 * 2**20), 9)


def bomb(data: bytes, format: str, draw: Random) -> bytes:
    """Something in it unpacks to far more than it is, or says that it is far longer."""
    if format == "PNG":
        header = parts(data, format)[0].end
        name, body = draw.choice(
            (
                (b"iCCP", b"a\0\0" + much()),
                (b"zTXt", b"a\0\0" + much()),
                (b"iTXt", b"a\0\1\0\0\0" + much()),
                (b"IDAT", much()),
                (b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff\xff" + bytes(65_535)),
            )
        )
        return data[:header] + _chunk(name, body) + data[header:]
    if format == "JPEG":
        segments = draw.choice(
            (
                b"".join(b"\xff\xe2\xff\xffICC_PROFILE\0" + bytes([index, 255]) + bytes(65_519) for index in range(8)),
                b"\xff\xe1\xff\xffExif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(65_517),
                b"\xff\xfe\xff\xff" + bytes(65_533),
                b"\xff\xe1\x00\x02" * 5000,
            )
        )
        return data[:2] + segments + data[2:]
    if format == "TIFF":
        return circle(data, format, draw)
    return lie_about_size(data, format, draw) + bytes(2**20)


def circle(data: bytes, format: str, draw: Random) -> bytes:
    """The directories of a TIFF lead back to the first, or to nowhere; of another format, a number does."""
    if format != "TIFF" or len(data) < 16:
        return lie(data, format, draw)
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):
        return data[:8] + struct.pack(order + "Q", draw.choice((0, 8, 16, len(data), 2**63))) + data[16:]
    (first,) = struct.unpack_from(order + "I", data, 4)
    if first + 2 > len(data):
        return data
    (count,) = struct.unpack_from(order + "H", data, first)
    following = first + 2 + 12 * count
    target = draw.choice((first, 0, 8, 4, len(data) - 1, 0xFFFFFFFF))
    return data[:following] + struct.pack(order + "I", target) + data[following + 4 :]


_DAMAGES: tuple[Callable[[bytes, str, Random], bytes], ...] = (
    cut,
    cut_between_parts,
    flip_bits,
    flip_in_the_header,
    lie,
    lie,
    lie_about_size,
    drop_part,
    double_part,
    swap_parts,
    empty_part,
    wrong_name,
    appended,
    bomb,
    circle,
)


def parts(data: bytes, format: str) -> list[Part]:
    """As far as they can be told; the whole file, if nothing can."""
    found = {"PNG": _chunks, "JPEG": _segments, "WEBP": _riff, "TIFF": _directories}.get(format, _boxes)(data)
    return [part for part in found if part.start < part.end <= len(data)] or [Part(0, len(data))]


def _chunks(data: bytes) -> list[Part]:
    found, position = [], 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        found.append(Part(position, end))
        position = end
    return found


def _segments(data: bytes) -> list[Part]:
    found, position = [], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] == 0xDA:  # the scan's data, up to the next marker
            while end + 1 < len(data) and not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
                end += 1
        found.append(Part(position, end))
        position = end
    return found


def _riff(data: bytes) -> list[Part]:
    found, position = [], 12
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + length + length % 2
        found.append(Part(position, end))
        position = end
    return found


def _boxes(data: bytes) -> list[Part]:
    """ISO boxes, those in the first `meta` too; what has none (BMP, GIF) is cut into sixteenths."""
    found, position = [], 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length < 8 or position + length > len(data):
            break
        found.append(Part(position, position + length))
        position += 12 if data[position + 4 : position + 8] == b"meta" else length
    step = max(1, len(data) // 16)
    return found if len(found) > 1 else [Part(at, min(at + step, len(data))) for at in range(0, len(data), step)]


def _directories(data: bytes) -> list[Part]:
    """The entries of the first directory, and the directory."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8 or data[2:4] in (b"+\0", b"\0+"):
        return []
    (first,) = struct.unpack_from(order + "I", data, 4)
    if first + 2 > len(data):
        return []
    (count,) = struct.unpack_from(order + "H", data, first)
    entries = [Part(first + 2 + 12 * index, first + 14 + 12 * index) for index in range(min(count, 40))]
    return [*entries, Part(first, first + 2 + 12 * count)]


def _sized(data: bytes, format: str, width: int, height: int) -> bytes:
    at, layout = -1, ""
    if format == "PNG":
        at, layout = 16, ">II"
    elif format == "JPEG":
        found = [data.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2")]
        at, layout = max(found) + 5 if max(found) >= 0 else -1, ">HH"
        width, height = height, width
    elif format == "GIF":
        at, layout = 6, "<HH"
    elif format == "BMP":
        at, layout = 18, "<II"
    elif format in ("AVIF", "HEIC"):
        at, layout = data.find(b"ispe") + 8, ">II"
    elif format == "JPEG 2000":
        at, layout = data.find(b"\xff\x51") + 6, ">II"
    elif format == "WEBP" and data[12:16] == b"VP8 ":
        at, layout = 26, "<HH"
    elif format == "WEBP" and data[12:16] == b"VP8X":
        numbers = (width & 0xFFFFFF).to_bytes(3, "little") + (height & 0xFFFFFF).to_bytes(3, "little")
        return data[:24] + numbers + data[30:]
    elif format == "TIFF":
        return _tagged(data, width, height)
    if at < 0 or not layout:
        return data
    limit = 0xFFFF if "H" in layout else 0xFFFFFFFF
    return data[:at] + struct.pack(layout, width & limit, height & limit) + data[at + struct.calcsize(layout) :]


def _tagged(data: bytes, width: int, height: int) -> bytes:
    order = "<" if data[:2] == b"II" else ">"
    changed = bytearray(data)
    for part in _directories(data)[:-1]:
        if part.end > len(data):
            break
        (tag,) = struct.unpack_from(order + "H", data, part.start)
        if tag in (256, 257):
            number = width if tag == 256 else height
            struct.pack_into(order + "HHII", changed, part.start, tag, 4, 1, number)
    return bytes(changed)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _checksummed(data: bytes) -> bytes:
    """With each chunk's checksum right."""
    fixed = bytearray(data)
    for part in _chunks(data):
        if part.end <= len(data):
            fixed[part.end - 4 : part.end] = struct.pack(">I", zlib.crc32(data[part.start + 4 : part.end - 4]))
    return bytes(fixed)
