"""Broken and hostile TIFFs, and sound ones that cannot be read: a typed error each, soon and within bounded memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from model.runtime.images.errors import DamagedImage, ImageError, TooManyPixels, UnsupportedVariant
from model.runtime.images.limits import ImageLimits
from model.runtime.images.reading import probe, read_picture
from model.runtime.images.tiff.directories import MAX_DIRECTORIES
from tests.model.runtime.images.pictures import encode, picture, tiff, tiff_of_size

GRAY = [(258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]


def deep_tiff(width: int, height: int, *more: tuple[int, int, int], pixels: bytes = bytes(8)) -> bytes:
    """16-bit gray; `more` tags replace or follow the usual ones."""
    tags = {tag: (tag, kind, value) for tag, kind, value in GRAY}
    tags |= {256: (256, 4, width), 257: (257, 4, height), 279: (279, 4, len(pixels))}
    tags |= {tag: (tag, kind, value) for tag, kind, value in more}
    return tiff(sorted(tags.values()), pixels)


def chain(length: int, *, circle: bool) -> bytes:
    """Directories without tags, each pointing at the next, the last at the first or at nothing."""
    offsets = [8 + 6 * index for index in range(length)]
    following = [*offsets[1:], 8 if circle else 0]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(struct.pack("<HI", 0, offset) for offset in following)


def described(text: str) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((4, 5), np.uint16), description=text, metadata=None)
    return file.getvalue()


def ome(sizes: str) -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="5" SizeY="4" {sizes}>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )


ONE_PLANE = ome('SizeZ="1" SizeC="1" SizeT="1"')
MODULO = (
    '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="openmicroscopy.org/omero/dimension/modulo"><Value><Modulo>'
    '<ModuloAlongZ Type="angle" Start="0" Step="1" End="1000000000"/></Modulo></Value></XMLAnnotation>'
    "</StructuredAnnotations></OME>"
)
DIRECTORY = struct.calcsize("<H") + 11 * 12 + 4


def below_each_other(depth: int) -> bytes:
    """A page of tifffile's own kind, with two directories below it, which are one, with two below that, and so on: as
    many ways down as 2 to the power of `depth`.
    """
    text = b'{"shape": [4, 5]}\0'
    data = b"II*\0" + struct.pack("<I", 8 + 20 + len(text) + 8 * depth) + bytes(20) + text
    first = len(data) + 8 * depth
    data += b"".join(struct.pack("<II", *[first + DIRECTORY * (level + 1)] * 2) for level in range(depth))
    for level in range(depth + 1):
        below = (330, 4, 2, 28 + len(text) + 8 * level) if level < depth else (331, 4, 1, 0)
        sizes = [(256, 3, 1, 5), (257, 3, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
        rest = [(270, 2, len(text), 28), (273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 4), (279, 4, 1, 20), below]
        tags = b"".join(struct.pack("<HHII", *tag) for tag in (*sizes, *rest))
        data += struct.pack("<H", 11) + tags + bytes(4)
    return data


def over_each_other(count: int) -> bytes:
    """Directories of 4096 tags each, twelve bytes apart."""
    data = bytearray(b"MM\0*" + struct.pack(">I", 8) + bytes(12 * (4097 + count)))
    for index in range(count):
        following = 8 + 12 * (index + 1) if index < count - 1 else 0
        struct.pack_into(">H", data, 8 + 12 * index, 4096)
        struct.pack_into(">I", data, 10 + 12 * (4096 + index), following)
    return bytes(data)


def one_text_in_many_tags(count: int, length: int) -> bytes:
    tags = struct.pack("<HHII", 270, 2, length, 8 + 2 + 12 * count + 4) * count
    return b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4) + b"a" * length


HOSTILE: dict[str, tuple[bytes, type[ImageError]]] = {
    "no directory": (b"II*\0" + bytes(4), DamagedImage),
    "a directory behind the end": (b"II*\0" + struct.pack("<I", 4000), DamagedImage),
    "a circle of one": (chain(1, circle=True), DamagedImage),
    "a circle of many": (chain(50, circle=True), DamagedImage),
    "an endless chain": (chain(MAX_DIRECTORIES + 1, circle=False), DamagedImage),
    "65535 tags": (b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(12 * 65535 + 4), DamagedImage),
    "a directory with no tags": (chain(1, circle=False), DamagedImage),
    "no pixels": (deep_tiff(0, 4), DamagedImage),
    "samples arranged in no way": (deep_tiff(2, 2, (284, 3, 0)), DamagedImage),
    "samples arranged in a third way": (deep_tiff(2, 2, (284, 3, 3)), DamagedImage),
    "more pixels than accepted": (deep_tiff(60000, 60000), TooManyPixels),
    "more samples than memory": (deep_tiff(4000, 4000, (277, 3, 60000)), TooManyPixels),
    "a huge tile": (deep_tiff(2, 2, (322, 4, 48000), (323, 4, 48000), (324, 4, 8), (325, 4, 4)), TooManyPixels),
    "very many tiles": (deep_tiff(8000, 8000, (322, 4, 1), (323, 4, 1), (324, 4, 8), (325, 4, 4)), DamagedImage),
    "pixels behind the end": (deep_tiff(40, 40, (279, 4, 3200)), DamagedImage),
    "fewer bytes than pixels": (deep_tiff(40, 40), DamagedImage),
    "a bomb that ends too soon": (deep_tiff(2, 2, (259, 3, 8), pixels=b"\x78\x9c\3\0\0\0\0\1"), DamagedImage),
    "deflate of nonsense": (deep_tiff(9, 9, (259, 3, 8), pixels=b"nonsense"), DamagedImage),
    "LZW of nonsense": (deep_tiff(9, 9, (259, 3, 5), pixels=b"\xff" * 40), DamagedImage),
    "text for a number": (tiff_of_size(2, 2, (322, 2, 0x2A2A2A), (323, 4, 16), (259, 3, 5)), DamagedImage),
    "ImageJ with a billion pictures": (described("ImageJ=1.0\nimages=1000000000\nslices=1000000000\n"), DamagedImage),
    "OME with a billion planes": (described(ome('SizeZ="1000000000" SizeC="1" SizeT="1"')), DamagedImage),
    "OME with many planes each way": (described(ome('SizeZ="900" SizeC="900" SizeT="900"')), DamagedImage),
    "OME with a billion planes, and blanks": (described(ome('SizeZ = "1000000000" SizeC="1" SizeT="1"')), DamagedImage),
    "OME with a billion pixels a side": (described(ONE_PLANE.replace('X="5"', 'X="1000000000"')), DamagedImage),
    "OME with a billion pages": (described(ONE_PLANE.replace('Count="1"', 'Count="1000000000"')), DamagedImage),
    "OME with a billion labels": (described(ONE_PLANE.replace("</OME>", MODULO)), DamagedImage),
    "OME with very many axes": (described(ONE_PLANE.replace('"XYZCT"', f'"XY{"Z" * 99}"')), DamagedImage),
    "OME with entities": (described(ONE_PLANE.replace("<OME", '<!DOCTYPE a [<!ENTITY b "c">]><OME')), DamagedImage),
    "very many axes": (described(json.dumps({"shape": [1] * 99})), DamagedImage),
    "directories below those below": (below_each_other(40), DamagedImage),
    "directories over each other": (over_each_other(250), DamagedImage),
    "a text that is very many": (one_text_in_many_tags(4000, 30_000), DamagedImage),
    "very many numbers": (
        b"II*\0" + struct.pack("<IHHHIII", 8, 1, 338, 3, 200_001, 26, 0) + bytes(400_002),
        DamagedImage,
    ),
    "floats with another predictor": (deep_tiff(2, 2, (317, 3, 3)), DamagedImage),
    "an unknown predictor": (deep_tiff(2, 2, (317, 3, 7)), UnsupportedVariant),
    "complex numbers": (deep_tiff(1, 1, (258, 3, 64), (339, 3, 6)), UnsupportedVariant),
    "a raw sensor": (deep_tiff(2, 2, (262, 3, 32803)), UnsupportedVariant),
    "CMYK of 16 bits": (deep_tiff(1, 1, (262, 3, 5), (277, 3, 4)), UnsupportedVariant),
    "floats of which white is zero": (deep_tiff(2, 2, (262, 3, 0), (339, 3, 3)), UnsupportedVariant),
    "24 bits": (deep_tiff(1, 1, (258, 3, 24)), UnsupportedVariant),
    "a volume": (deep_tiff(1, 1, (32997, 4, 4)), UnsupportedVariant),
}


@pytest.mark.parametrize(("data", "error"), HOSTILE.values(), ids=HOSTILE)
def test_each_is_refused_for_what_it_is(data: bytes, error: type[ImageError]) -> None:
    with pytest.raises(error) as caught:
        read_picture(data)
    assert type(caught.value) is error
    for internal in ("object", "NoneType", "index out of range", "unpack_from", "not supported between", "attribute"):
        assert internal not in str(caught.value)
    with suppress(ImageError):
        probe(data)


ANNOUNCED: dict[str, str] = {
    "OME with a billion planes, and blanks": "announces 1e\\+09 planes",
    "OME with a billion pixels a side": "planes",
    "OME with a billion pages": "announces 1e\\+09 planes",
    "OME with a billion labels": "announces 1e\\+09 planes",
    "OME with very many axes": "101 axes",
    "OME with entities": "document type",
    "very many axes": "99 axes",
    "directories below those below": "circle",
    "directories over each other": "1000000 tags",
    "a text that is very many": "over each other",
    "very many numbers": "200001 numbers in tag 338",
}


@pytest.mark.parametrize(("name", "message"), ANNOUNCED.items(), ids=ANNOUNCED)
def test_what_is_only_announced_is_refused_before_anybody_makes_it(name: str, message: str) -> None:
    with pytest.raises(DamagedImage, match=message):
        read_picture(HOSTILE[name][0])


@pytest.mark.parametrize("planes", [3, 1_000_000_000])
def test_planes_that_are_only_announced_are_none(planes: int) -> None:
    decoded = read_picture(described(f'{{"shape": [{planes}, 4, 5]}}'))
    assert decoded.values.shape == (4, 5)
    assert decoded.plane == ()


def test_an_ome_file_does_not_make_the_server_read_its_neighbors(tmp_path: Path) -> None:
    secret = tmp_path / "secret.tif"
    tifffile.imwrite(secret, np.full((4, 5), 77, np.uint16))
    names = f'<TiffData IFD="0" FirstZ="0" PlaneCount="1"><UUID FileName="{secret}">urn:uuid:other</UUID></TiffData>'
    text = ome('SizeZ="1" SizeC="1" SizeT="1"').replace('<TiffData IFD="0" PlaneCount="1"/>', names)
    with suppress(ImageError):
        assert not (read_picture(described(text)).values == 77).any()


def test_bombs_cost_no_memory(tmp_path: Path) -> None:
    """Read in a process that may grow by 96 MiB only. The first unpacks to 64 MiB for four pixels, many times over."""
    bomb = zlib.compress(bytes(2**26))
    nested = deep_tiff(2, 2, (259, 3, 8), pixels=bomb + bytes(len(bomb) % 2))
    for index, data in enumerate([nested, *(data for data, _ in HOSTILE.values())]):
        (tmp_path / f"{index:02}").write_bytes(data)
    program = """
import pathlib, resource, sys, tifffile
from model.runtime.images.errors import ImageError
from model.runtime.images.reading import read_picture
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20),) * 2)
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        print(read_picture(path.read_bytes()).values.shape)
    except ImageError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:-1] == ["(2, 2)"] + ["refused"] * len(HOSTILE), done.stderr


def files() -> list[bytes]:
    values = np.random.default_rng(2).integers(0, 4000, (2, 3, 20, 16)).astype(np.uint16)
    made = []
    options: list[dict[str, Any]] = [
        {"ome": True, "metadata": {"axes": "ZCYX"}},
        {"imagej": True, "metadata": {"axes": "ZCYX"}},
        {"photometric": "minisblack", "compression": "zlib", "tile": (16, 16)},
        {"photometric": "minisblack", "compression": "lzw", "predictor": True, "bigtiff": True},
        {"photometric": "minisblack", "planarconfig": "separate", "byteorder": ">"},
    ]
    for option in options:
        file = BytesIO()
        tifffile.imwrite(file, values, **option)
        made.append(file.getvalue())
    return [*made, encode(picture(), "TIFF", compression="jpeg"), encode(picture(), "TIFF", compression="packbits")]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_damage_raises_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    for data in files():
        with tifffile.TiffFile(BytesIO(data)) as file:
            directory = file.pages[0].offset
        for _ in range(80):
            damaged = bytearray(data)
            for position in random.integers(0, 260, 3):
                damaged[(directory + position) % len(data)] = random.integers(0, 256)
            try:
                values = read_picture(bytes(damaged), ImageLimits(max_pixels=100_000)).values
            except ImageError:
                continue
            assert values.ndim in (2, 3)
    assert [record for record in caplog.records if record.name.startswith("tifffile")] == []


def test_a_cut_file_is_never_half_a_picture() -> None:
    for data in files():
        whole = read_picture(data).values
        for length in range(1, len(data), 83):
            try:
                part = read_picture(data[:length]).values
            except ImageError:
                continue
            np.testing.assert_array_equal(part, whole)


WITHOUT_CODECS = """
import sys
sys.modules["imagecodecs"] = None  # as if it were not installed
from model.runtime.images.errors import ImageError
from model.runtime.images.reading import read_picture
for path in sys.argv[1:]:
    try:
        print(read_picture(open(path, "rb").read()).values.sum())
    except ImageError as error:
        print(type(error).__name__, error)
"""


def test_what_needs_the_extra_says_so(tmp_path: Path) -> None:
    values = np.arange(40 * 48, dtype=np.uint16).reshape(40, 48) % 4096
    tasks: list[tuple[str, dict[str, Any]]] = [
        ("LZW", {"compression": "lzw", "predictor": True}),
        ("JPEG2000", {"compression": "jpeg2000"}),
        ("LERC", {"compression": "lerc"}),
    ]
    colors = np.asarray(picture())
    tifffile.imwrite(tmp_path / "WEBP", colors, photometric="rgb", compression="webp", compressionargs={"level": 101})
    np.testing.assert_array_equal(read_picture((tmp_path / "WEBP").read_bytes()).values, colors)
    for name, options in tasks:
        tifffile.imwrite(tmp_path / name, values, **options)
        np.testing.assert_array_equal(read_picture((tmp_path / name).read_bytes()).values, values)
    names = [*(name for name, _ in tasks), "WEBP"]
    paths = [str(tmp_path / name) for name in names]
    done = subprocess.run([sys.executable, "-c", WITHOUT_CODECS, *paths], capture_output=True, text=True, check=True)
    lzw, *others = done.stdout.splitlines()
    assert lzw == str(values.sum())
    for name, line in zip(names[1:], others, strict=True):
        assert line.startswith(f"UnsupportedVariant this TIFF is compressed with {name}")
        assert ".venv/bin/pip install '.[codecs]'" in line


COLORS = np.asarray(picture(60, 70))
EIGHT_BITS: dict[str, dict[str, Any]] = {
    "colors": {"photometric": "rgb"},
    "gray": {"photometric": "minisblack"},
    "a palette": {"photometric": "palette", "colormap": np.arange(3 * 256, dtype=np.uint16).reshape(3, 256)},
    "a mask": {"photometric": "minisblack"},
}


def eight_bits(kind: str, **layout: Any) -> bytes:
    values: Any = COLORS if kind == "colors" else COLORS[..., 0]
    file = BytesIO()
    tifffile.imwrite(file, values > 99 if kind == "a mask" else values, metadata=None, **EIGHT_BITS[kind], **layout)
    return file.getvalue()


def lying(data: bytes, tag: int, value: int, *, count: bool = False) -> bytes:
    """With another value of a tag of one number, or another count of them, in the only directory."""
    changed = bytearray(data)
    start = struct.unpack_from("<I", data, 4)[0]
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        code, width = struct.unpack_from("<HH", data, entry)
        if code == tag:
            struct.pack_into("<H" if width == 3 and not count else "<I", changed, entry + (4 if count else 8), value)
    assert changed != data
    return bytes(changed)


@pytest.mark.parametrize("kind", EIGHT_BITS)
@pytest.mark.parametrize(
    ("layout", "tag", "value", "count"),
    [
        ({"tile": (16, 16)}, 256, 140, False),
        ({"tile": (16, 16)}, 257, 200, False),
        ({"tile": (32, 32)}, 322, 16, False),
        ({"tile": (32, 32)}, 323, 16, False),
        ({"tile": (16, 16)}, 324, 3, True),
        ({"rowsperstrip": 10}, 257, 120, False),
        ({"rowsperstrip": 10}, 278, 5, False),
        ({"rowsperstrip": 10}, 273, 3, True),
    ],
    ids=lambda value: str(value),
)
def test_missing_strips_and_tiles_are_not_black(
    kind: str, layout: dict[str, Any], tag: int, value: int, count: bool
) -> None:
    """Where they are not compressed, Pillow is content with those that there are."""
    data = lying(eight_bits(kind, **layout), tag, value, count=count)
    with pytest.raises(ImageError):
        read_picture(data)


@pytest.mark.parametrize("kind", EIGHT_BITS)
@pytest.mark.parametrize("layout", [{"tile": (16, 16)}, {"rowsperstrip": 10}], ids=str)
def test_strips_and_tiles_too_many_are_passed_over(kind: str, layout: dict[str, Any]) -> None:
    """Pillow lays them over the first."""
    data = eight_bits(kind, **layout)
    whole = read_picture(data).values
    np.testing.assert_array_equal(read_picture(lying(data, 257, 20)).values, whole[:20])
