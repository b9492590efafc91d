"""An image's file as it is to be sent, so that a server sees the pixels as they are stored.

Annotations refer to those, and a server turns a picture upright by its EXIF orientation. The file is sent with that one
number changed: pixels that were decoded here and packed anew would be other ones to a server that decodes a JPEG at
reduced size, or scales deep values by its model's own rule.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Final

from PIL import Image

from model.runtime.images.orientation import exif_orientation
from model.runtime.images.signatures import sniff_format
from training.data.annotations.records import ImageRecord
from training.data.loading.samples import UnreadableImage, load_stored

_TURNED_EVERYWHERE: Final = ("TIFF", "HEIC")
"""Formats that are read upright wherever they are read, here too."""
_PREFIX: Final = b"Exif\0\0"
_ORIENTATION: Final = 0x0112
_SHORT: Final = 3
_CHUNK: Final = b"eXIf"


def stored_file(record: ImageRecord) -> bytes:
    """Raises UnreadableImage."""
    try:
        content = record.path.read_bytes()
        if sniff_format(content) in _TURNED_EVERYWHERE:
            return content
        with Image.open(BytesIO(content)) as image:
            if image.format == "PNG":
                image.load()  # its EXIF may lie behind its pixels
            orientation, block = exif_orientation(image), image.info.get("exif", b"")
    except (OSError, SyntaxError) as error:  # the second is Pillow's, of a broken chunk
        raise UnreadableImage(f"{record.path}: {error}") from error
    if orientation == 1:
        return content
    marked = _marked_upright(content, block.removeprefix(_PREFIX))
    if marked is not None:
        return marked
    file = BytesIO()  # such as an AVIF, whose orientation stands in several places: 8 bits, and never reduced
    Image.fromarray(load_stored(record)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _marked_upright(content: bytes, block: bytes) -> bytes | None:
    """The file with an orientation of 1 in its EXIF block; None where that is not found, or is damaged."""
    at = content.find(block)
    places = _orientations(block)
    if at < 0 or not places or sniff_format(content) not in ("JPEG", "PNG", "WEBP"):
        return None
    upright = bytearray(block)
    for place, order in places:
        struct.pack_into(f"{order}H", upright, place, 1)
    marked = bytearray(content)
    marked[at : at + len(block)] = upright
    if content[at - len(_CHUNK) : at] == _CHUNK:
        struct.pack_into(">I", marked, at + len(block), zlib.crc32(_CHUNK + upright))
    with Image.open(BytesIO(marked)) as image:
        if image.format == "PNG":
            image.load()
        return bytes(marked) if exif_orientation(image) == 1 else None


def _orientations(block: bytes) -> list[tuple[int, str]]:
    """Where in an EXIF block, which is a TIFF, the orientation's values lie, and in which order of bytes."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return []
    try:
        (first,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, first)
        entries = (first + 2 + 12 * number for number in range(count))
        return [
            (entry + 8, order)
            for entry in entries
            if struct.unpack_from(f"{order}HHI", block, entry) == (_ORIENTATION, _SHORT, 1)
        ]
    except struct.error:  # it ends before it should
        return []
