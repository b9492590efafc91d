"""A TIFF's strips and tiles, unpacked one by one: never more memory than the picture's own and one segment's.

Pillow's libtiff does the unpacking, told that a segment is a gray picture of bytes: it stops where the segment's size
is reached, so a bomb unpacks to nothing more. TIFF 6.0: predictor in section 14, its floating point one in Adobe's
Technical Note 3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from model.console.installing import install
from model.runtime.images.data import Data
from model.runtime.images.errors import DamagedImage, UnsupportedVariant
from model.runtime.images.regions import Part

if TYPE_CHECKING:
    from tifffile import TiffPage

NONE: Final = 1
BYTE_CODECS: Final = (5, 8, 32773, 32946, 34925, 50000)
"""Compressions of any bytes: LZW, deflate by two numbers, PackBits, LZMA, Zstandard."""
_DEFLATE: Final = (8, 32946)
_BITS_AT_ONCE: Final = 1 << 20
MOST_BY_PILLOW: Final = 20_000
"""Strips or tiles that Pillow unpacks for one picture: each takes it long to begin, however small it is."""


def segment_size(page: TiffPage) -> tuple[int, int]:
    """(height, width) of a strip or tile, in pixels; the last strip may be shorter."""
    return (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)


def segments_in(page: TiffPage) -> int:
    """How many strips or tiles the picture has, of all planes of samples."""
    height, width = segment_size(page)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    return -(-int(page.imagelength) // int(height)) * -(-int(page.imagewidth) // int(width)) * int(planes)


def read_samples(
    data: Data,
    page: TiffPage,
    offsets: tuple[int, ...],
    counts: tuple[int, ...],
    dtype: np.dtype[Any],
    wanted: slice,
    part: Part,
) -> NDArray[Any]:
    """[H, W, S] of the samples `wanted` of each pixel of `part`, as `dtype`; planes one after another become channels.
    The part begins where a segment begins.

    Raises DamagedImage where a segment is missing, lies behind the file's end
    or does not unpack to its size, and UnsupportedVariant for a compression that cannot be unpacked here.
    """
    height, width, samples = page.imagelength, page.imagewidth, page.samplesperpixel
    planar = page.planarconfig == 2
    tile_height, tile_width = segment_size(page)
    rows, columns = -(-height // tile_height), -(-width // tile_width)
    first_row, first_column = part.top // tile_height, part.left // tile_width
    inside = 1 if planar else samples
    segments = (
        -(-part.height // tile_height) * -(-part.width // tile_width) * (len(range(samples)[wanted]) if planar else 1)
    )
    if segments > MOST_BY_PILLOW and page.compression in BYTE_CODECS and page.compression not in _DEFLATE:
        raise UnsupportedVariant(
            f"the TIFF image cannot be read: it is in {segments} packed strips or tiles, and at most {MOST_BY_PILLOW} "
            f"are read at once; save it in larger ones, or compressed with deflate"
        )
    out = np.empty((part.height, part.width, len(range(samples)[wanted])), dtype)
    for plane, channel in enumerate(range(samples)[wanted] if planar else [0]):
        for row in range(first_row, first_row - (-part.height // tile_height)):
            for column in range(first_column, first_column - (-part.width // tile_width)):
                index = (channel * rows + row) * columns + column
                # The last strip is as short as the picture, the last tile whole.
                length = tile_height if page.is_tiled else min(tile_height, height - row * tile_height)
                shape = (length, tile_width, inside)
                segment = _segment(data, page, offsets, counts, index, shape, dtype)
                top, left = row * tile_height - part.top, column * tile_width - part.left
                into = out[top : top + tile_height, left : left + tile_width]
                values = segment[: into.shape[0], : into.shape[1]]
                if planar:
                    into[..., plane] = values[..., 0]
                else:
                    into[:] = values[..., wanted]
    return out


def _segment(
    data: Data,
    page: TiffPage,
    offsets: tuple[int, ...],
    counts: tuple[int, ...],
    index: int,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """[length, width, samples] of one strip or tile."""
    name = f"{'tile' if page.is_tiled else 'strip'} {index}"
    if index >= min(len(offsets), len(counts)) or counts[index] == 0:
        raise DamagedImage(f"the TIFF image is damaged: {name} is missing")
    if offsets[index] + counts[index] > len(data):
        raise DamagedImage(f"the TIFF image is cut short: {name} ends behind the end of the file")
    packed = bytes(data[offsets[index] : offsets[index] + counts[index]])
    length, width, samples = shape
    bits = page.bitspersample
    row_bytes = (width * samples * bits + 7) // 8
    if page.compression == NONE:
        unpacked = packed
    elif page.compression in BYTE_CODECS:
        if page.fillorder == 2:
            packed = _REVERSED_BITS[np.frombuffer(packed, np.uint8)].tobytes()
        unpacked = _unpacked(packed, page.compression, row_bytes, length, name)
    else:
        return _decoded(page, packed, index, shape)
    if page.compression == NONE and page.fillorder == 2:
        unpacked = _REVERSED_BITS[np.frombuffer(unpacked, np.uint8)].tobytes()
    if len(unpacked) < length * row_bytes:
        raise DamagedImage(
            f"the TIFF image is damaged: {name} has {len(unpacked)} bytes, {length} rows of {row_bytes} are needed"
        )
    raw = np.frombuffer(unpacked, np.uint8, length * row_bytes).reshape(length, row_bytes)
    if page.predictor == 3:
        return _float_predicted(raw, width, samples, dtype)
    if bits in (8, 16, 32, 64):
        values = raw.view(dtype.newbyteorder(">" if page.parent.byteorder == ">" else "<")).astype(dtype)
    else:
        values = _bits(raw, bits, width * samples).astype(dtype)
    values = values.reshape(shape)
    if page.predictor == 2:
        values = np.cumsum(values, axis=1, dtype=dtype)  # differences wrap around as the type does
    elif page.predictor != 1:
        raise UnsupportedVariant(f"the TIFF image cannot be read: its predictor is number {int(page.predictor)}")
    return values


_REVERSED_BITS: Final = np.array([int(f"{byte:08b}"[::-1], 2) for byte in range(256)], np.uint8)


def _unpacked(packed: bytes, compression: int, row_bytes: int, length: int, name: str) -> bytes:
    """`length` rows of `row_bytes` bytes, or fewer where there are no more."""
    if compression in _DEFLATE:  # of small strips and tiles there may be very many, and Pillow takes long to begin
        try:
            return zlib.decompressobj().decompress(packed, length * row_bytes)
        except zlib.error as error:
            raise DamagedImage(f"the TIFF image is damaged: {name} cannot be unpacked") from error
    directory = b"".join(
        struct.pack("<HHII", tag, kind, 1, value)
        for tag, kind, value in (
            (TiffImagePlugin.IMAGEWIDTH, 4, row_bytes),
            (TiffImagePlugin.IMAGELENGTH, 4, length),
            (TiffImagePlugin.BITSPERSAMPLE, 3, 8),
            (TiffImagePlugin.COMPRESSION, 3, compression),
            (TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 3, 1),
            (TiffImagePlugin.STRIPOFFSETS, 4, 8),
            (TiffImagePlugin.SAMPLESPERPIXEL, 3, 1),
            (TiffImagePlugin.ROWSPERSTRIP, 4, length),
            (TiffImagePlugin.STRIPBYTECOUNTS, 4, len(packed)),
        )
    )
    start = 8 + len(packed) + len(packed) % 2
    alone = b"II*\0" + struct.pack("<I", start) + packed + bytes(len(packed) % 2) + struct.pack("<H", 9) + directory
    try:
        image = TiffImagePlugin.TiffImageFile(BytesIO(alone + bytes(4)))
        image.load()
    except OSError as error:
        raise DamagedImage(f"the TIFF image is damaged: {name} cannot be unpacked") from error
    return image.tobytes()


def _float_predicted(raw: NDArray[np.uint8], width: int, samples: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Rows of byte-wise differences, the highest bytes of all values first."""
    length = len(raw)
    if dtype.kind != "f" or raw.shape[1] != width * samples * dtype.itemsize:
        raise DamagedImage("the TIFF image is damaged: a predictor for floats on other values")
    differences = raw.reshape(length, -1, samples)
    planes = np.cumsum(differences, axis=1, dtype=np.uint8).reshape(length, dtype.itemsize, width * samples)
    return (
        np.ascontiguousarray(planes.swapaxes(1, 2))
        .view(dtype.newbyteorder(">"))
        .astype(dtype)
        .reshape(length, width, samples)
    )


def _bits(raw: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint32]:
    """[length, count] values of `bits` bits each, the highest first, rows beginning at whole bytes."""
    out = np.empty((len(raw), count), np.uint32)
    weights = np.left_shift(np.uint32(1), np.arange(bits - 1, -1, -1, dtype=np.uint32), dtype=np.uint32)
    rows = max(1, _BITS_AT_ONCE // (count * bits))
    for top in range(0, len(raw), rows):  # some rows at a time, because a bit takes a byte meanwhile, and then four
        part = raw[top : top + rows]
        single = np.unpackbits(part, axis=1, count=count * bits)
        out[top : top + rows] = single.reshape(len(part), count, bits) @ weights
    return out


def _decoded(page: TiffPage, packed: bytes, index: int, shape: tuple[int, int, int]) -> NDArray[Any]:
    """A segment that is compressed as a picture, by tifffile with imagecodecs."""
    compression = getattr(page.compression, "name", str(page.compression))
    decode: Callable[..., Any] = page.decode
    try:
        values = decode(packed, index, jpegtables=page.jpegtables)[0]
    except Exception as error:  # codecs raise whatever they stumble over, and ValueError where there is none
        if _without_codecs():
            raise UnsupportedVariant(
                f"this TIFF is compressed with {compression}; to read that, whoever runs the server needs "
                f"{install('codecs')}. Or send it as a PNG, or as a TIFF compressed with LZW or deflate"
            ) from error
        raise DamagedImage(f"the TIFF image cannot be decoded ({compression}): {error}") from error
    if values is None or values.size != np.prod(shape):
        raise DamagedImage(f"the TIFF image is damaged: segment {index} has another size than its header says")
    reshaped: NDArray[Any] = values.reshape(shape)
    return reshaped


def _without_codecs() -> bool:
    try:
        import imagecodecs  # noqa: F401  # only whether it is there
    except ImportError:
        return True
    return False
