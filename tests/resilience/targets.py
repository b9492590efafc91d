"""What is fuzzed: each target takes any bytes, and lets only the errors out that it is made to raise.

A target raises whatever else it finds: an exception of another kind, or AssertionError where it answers wrongly.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson

from model.architecture import ArchitectureConfig
from model.runtime.images.errors import ImageError
from model.runtime.images.limits import ImageLimits
from model.runtime.images.planes import PlaneChoice
from model.runtime.images.reading import open_picture, probe, read_picture
from model.runtime.images.regions import PictureByRegion
from model.runtime.tiling import plan_tiles
from service.http.gzipped import decompress
from service.http.multipart import find_files
from service.http.problems import Problem
from service.routes.v2.schemas import output_tensors
from service.routes.v2.tensors import parse_infer_request
from tests.resilience.samples import SIZE, samples

LIMITS: Final = ImageLimits(max_pixels=1_000_000)
BOUNDARY: Final = b"b"
DELIMITER: Final = re.compile(rb"\r\n--b(?:\r\n|--)")
"""Where a line only begins so, it is content."""
MOST_FILES, MOST_BYTES = 3, 100_000
NAMES: Final = tuple(tensor.name for tensor in output_tensors(ArchitectureConfig(task="masks")))


@dataclass(frozen=True)
class Target:
    """`seeds` are valid inputs, or nearly so."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


def admission(data: bytes) -> None:
    """What is looked at before anything is decoded."""
    with contextlib.suppress(ImageError):
        header = probe(data, LIMITS)
        assert header.width * header.height <= LIMITS.max_pixels


def decoding(data: bytes) -> None:
    with contextlib.suppress(ImageError):
        picture = read_picture(data, LIMITS)
        assert picture.values.shape[0] * picture.values.shape[1] <= LIMITS.max_pixels
        assert (picture.values.shape[0], picture.values.shape[1]) == picture.size


def tiling(data: bytes) -> None:
    """A picture read part by part is the picture that is read at once."""
    small = ImageLimits(max_pixels=SIZE[0] * SIZE[1] // 2, max_picture_pixels=LIMITS.max_pixels)
    with contextlib.suppress(ImageError):
        opened = open_picture(data, small, choice=PlaneChoice(inputs=3))
        if not isinstance(opened, PictureByRegion):
            return
        whole = read_picture(data, LIMITS, choice=PlaneChoice(inputs=3)).values
        assert whole.shape[:2] == opened.size
        for tile in plan_tiles(opened.size, max(16, max(opened.size) // 3), 5):
            part = opened.read(tile.top, tile.left, tile.height, tile.width).values
            there = whole[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
            assert np.array_equal(part, there, equal_nan=part.dtype.kind == "f")


def multipart(data: bytes) -> None:
    """Each file stands in the body between the end of its part's head and the next boundary, and holds none."""
    with contextlib.suppress(Problem):
        files = find_files(data, BOUNDARY, MOST_FILES)
        assert 1 <= len(files) <= MOST_FILES
        for file in files:
            content = bytes(file.content)
            assert DELIMITER.search(content) is None
            assert re.search(re.escape(b"\r\n\r\n" + content) + DELIMITER.pattern, data)


def packed(data: bytes) -> None:
    """The first byte chooses the encoding."""
    encoding, unpack = (("gzip", gzip.decompress), ("deflate", zlib.decompress))[data[0] % 2 if data else 0]
    with contextlib.suppress(Problem):
        body = bytes(decompress(data[1:], encoding, MOST_BYTES))
        assert len(body) <= MOST_BYTES
        assert body == unpack(data[1:])


def infer(data: bytes) -> None:
    """The first two bytes are the header Inference-Header-Content-Length."""
    length = int.from_bytes(data[:2], "little") if len(data) > 1 else None
    body = data[2:]
    with contextlib.suppress(Problem):
        request = parse_infer_request(body, length, output_names=NAMES, max_images=MOST_FILES)
        assert 1 <= len(request.images) <= MOST_FILES
        assert {output.name for output in request.outputs} <= set(NAMES)
        if length:
            binary = b"".join(struct.pack("<I", len(image)) + image for image in request.images)
            assert body[length:] in (b"", binary)


def _pictures() -> list[bytes]:
    return [data for _, data in samples().values()]


def _bodies() -> list[bytes]:
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    extended = part.replace(b'"a.png"', b"\"a\"; filename*=utf-8''%c3%a9")
    return [
        part + b"\x89PNG\r\n\x1a\n\r\n--b--\r\n",
        b"a preamble\r\n" + part + b"\r\n--b--\r\nan epilogue",
        part + b"one\r\n" + extended + b"two -- \r\n--\r\n-\r\n" + part + b"\r\n\r\n--b--",
        b"--b\r\ncontent-disposition:form-data;name=file\r\n\r\n\r\n--b--\r\n",
    ]


def _packed() -> list[bytes]:
    text = bytes(range(256)) * 3
    return [
        b"\0" + gzip.compress(text),
        b"\0" + gzip.compress(b"") + gzip.compress(text, 1),
        b"\0" + gzip.compress(bytes(10 * MOST_BYTES)),
        b"\1" + zlib.compress(text),
        b"\1" + zlib.compress(bytes(10 * MOST_BYTES)),
    ]


def _requests() -> list[bytes]:
    image = {"name": "IMAGE", "datatype": "BYTES", "shape": [2, 1]}
    plain = orjson.dumps({"id": "1", "inputs": [image | {"data": ["AAEC", ""]}], "parameters": {"masks": "none"}})
    outputs = [{"name": "BOXES", "parameters": {"binary_data": False}}, {"name": "MASKS"}]
    elements = b"\x03\0\0\0abc" + b"\0\0\0\0"
    head = orjson.dumps({"inputs": [image | {"parameters": {"binary_data_size": len(elements)}}], "outputs": outputs})
    return [
        len(plain).to_bytes(2, "little") + plain,
        len(head).to_bytes(2, "little") + head + elements,
        b"\0\0" + b"\x89PNG\r\n\x1a\n",
    ]


TARGETS: Final = {
    "admission": Target(admission, _pictures),
    "decoding": Target(decoding, _pictures),
    "tiling": Target(tiling, lambda: [data for name, (_, data) in samples().items() if name.startswith("TIFF")]),
    "multipart": Target(multipart, _bodies),
    "packed": Target(packed, _packed),
    "infer": Target(infer, _requests),
}
