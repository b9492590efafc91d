"""A picture that is read part by part is the same, to the last bit, as the picture that is decoded whole."""

from __future__ import annotations

import struct
from io import BytesIO
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.errors import DamagedImage, NoSuchPlane, TooManyPixels
from model.runtime.images.limits import ImageLimits
from model.runtime.images.picture import Picture
from model.runtime.images.planes import PlaneChoice
from model.runtime.images.reading import open_picture, read_picture
from model.runtime.images.regions import PictureByRegion
from model.runtime.images.tiff import sizes
from model.runtime.images.values.intensity import Intensity
from model.runtime.images.values.pixels import DoneSearch, apply, to_pixels
from tests.model.runtime.images.pictures import encode, picture

HEIGHT, WIDTH = 117, 153
LIMITS = ImageLimits(max_pixels=HEIGHT * WIDTH - 1, max_picture_pixels=10**6)
PARTS = ((0, 0, 117, 153), (0, 0, 1, 1), (116, 152, 1, 1), (30, 0, 50, 153), (0, 60, 117, 40), (31, 33, 64, 64))
"""(top, left, height, width); turned pictures are read with both sides exchanged."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small pictures have several."""
    monkeypatch.setattr(sizes, "BLOCK", 32)
    monkeypatch.setattr(sizes, "STRIPS", 20 * WIDTH)


def written(values: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def random(dtype: str, *shape: int) -> NDArray[Any]:
    generator = np.random.default_rng(5)
    if dtype.startswith("float"):
        return generator.normal(0, 100, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def by_region(data: bytes, choice: PlaneChoice | None = None) -> PictureByRegion:
    opened = open_picture(data, LIMITS, choice=choice or PlaneChoice())
    assert isinstance(opened, PictureByRegion)
    return opened


def check_same(data: bytes, choice: PlaneChoice | None = None) -> None:
    whole = read_picture(data, choice=choice or PlaneChoice())
    opened = by_region(data, choice)
    assert opened.size == whole.values.shape[:2]
    assert (opened.dtype, opened.channels) == (whole.values.dtype, 1 if whole.values.ndim == 2 else 3)
    is_turned = opened.size != (HEIGHT, WIDTH)
    for top, left, height, width in PARTS:
        if is_turned:
            top, left, height, width = left, top, width, height
        part = opened.read(top, left, height, width)
        np.testing.assert_array_equal(part.values, whole.values[top : top + height, left : left + width])
        assert part.values.dtype.isnative
        if part.transparent is not None:
            assert whole.transparent is not None
            np.testing.assert_array_equal(part.transparent, whole.transparent[top : top + height, left : left + width])
        else:
            assert whole.transparent is None or not whole.transparent[top : top + height, left : left + width].any()
        assert said(part) == said(whole)
    bands = list(opened.bands())
    assert np.array_equal(
        np.concatenate([opened.read(band.top, band.left, band.height, band.width).values for band in bands]),
        whole.values,
        equal_nan=whole.values.dtype.kind == "f",
    )


def said(one: Picture) -> tuple[Any, ...]:
    return one.significant_bits, one.declared_range, one.plane, one.pixel_size


LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (48, 64)},
    "small tiles": {"tile": (16, 32)},
    "strips": {"rowsperstrip": 7},
    "large strips": {"rowsperstrip": 50},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_every_layout_type_and_compression(dtype: str, layout: str) -> None:
    gray, colors = random(dtype, HEIGHT, WIDTH), random(dtype, HEIGHT, WIDTH, 3)
    for compression, predictor in ((None, None), ("zlib", None), ("zlib", True), ("lzw", None), ("packbits", None)):
        options = {"compression": compression, "predictor": predictor, **LAYOUTS[layout]}
        check_same(written(gray, photometric="minisblack", **options))
        check_same(written(colors, photometric="rgb", bigtiff=True, **options))
        planes = np.ascontiguousarray(colors.transpose(2, 0, 1))
        check_same(written(planes, photometric="rgb", planarconfig="separate", byteorder=">", **options))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation: int, layout: str) -> None:
    for dtype in ("uint8", "uint16"):
        tags = [(274, "H", 1, orientation, True)]
        data = written(
            random(dtype, HEIGHT, WIDTH, 3), photometric="rgb", compression="zlib", extratags=tags, **LAYOUTS[layout]
        )
        if orientation >= 5 and "strips" in layout:
            with pytest.raises(TooManyPixels, match=r"its orientation turns.*\(max_pixels\); write it in tiles"):
                open_picture(data, LIMITS)
        else:
            check_same(data)


@pytest.mark.parametrize("compression", ["jpeg", "lzma", "zstd"])
@pytest.mark.parametrize("layout", ["tiles", "strips"])
def test_other_compressions(layout: str, compression: str) -> None:
    options = {"rowsperstrip": 16} if layout == "strips" else LAYOUTS[layout]
    colors = np.asarray(picture(HEIGHT, WIDTH))
    check_same(written(colors, photometric="rgb", compression=compression, **options))
    check_same(written(colors[..., 0], photometric="minisblack", compression=compression, **options))


@pytest.mark.parametrize("quality", [40, 95])
def test_jpeg_with_fewer_samples_of_color(quality: int) -> None:
    for options in ({"tile": (48, 64)}, {"rowsperstrip": 16}):
        for subsampling in ((1, 1), (2, 1), (2, 2)):
            check_same(
                written(
                    np.asarray(picture(HEIGHT, WIDTH)),
                    photometric="ycbcr",
                    compression="jpeg",
                    compressionargs={"level": quality},
                    subsampling=subsampling,
                    **options,
                )
            )


@pytest.mark.parametrize(
    ("mode", "compression"),
    [
        ("1", "group4"),
        *((mode, "jpeg") for mode in ("L", "RGB", "CMYK")),
        *((mode, "tiff_lzw") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16")),
        *((mode, "raw") for mode in ("1", "P", "RGBA", "CMYK", "LAB", "I;16")),
    ],
)
def test_what_pillow_writes_in_strips(mode: str, compression: str) -> None:
    image = picture(HEIGHT, WIDTH)
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    elif mode == "I;16":
        image = Image.fromarray(random("uint16", HEIGHT, WIDTH))
    else:
        image = image.convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(Image.fromarray(random("uint8", HEIGHT, WIDTH)))
    check_same(encode(image, "TIFF", compression=compression, tiffinfo={278: 16}))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("extra", ["assocalpha", "unassalpha"])
def test_opacity(extra: str, dtype: str) -> None:
    """Blocks that are opaque beside those that are not."""
    values = random(dtype, HEIGHT, WIDTH, 4)
    values[..., 3] = np.iinfo(dtype).max
    values[40:60, 30:90, 3] = 0
    values[60:90, 30:90, 3] //= 3
    check_same(written(values, photometric="rgb", extrasamples=[extra], tile=(32, 32)))


def test_white_is_zero_and_few_bits() -> None:
    for dtype in ("uint8", "uint16"):
        check_same(written(random(dtype, HEIGHT, WIDTH), photometric="miniswhite", tile=(32, 32)))


def test_what_the_file_says_of_its_values_and_pixels() -> None:
    values = random("uint16", HEIGHT, WIDTH) // 16
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "SignificantBits": 12}
    check_same(written(values, ome=True, metadata={"axes": "YX", **size}, tile=(32, 32)))
    tags = [(274, "H", 1, 6, True), (340, "H", 1, 3, True), (341, "H", 1, 4000, True)]
    check_same(
        written(
            values,
            resolution=(20000, 10000),
            resolutionunit="CENTIMETER",
            extratags=tags,
            metadata=None,
            tile=(32, 32),
        )
    )


def test_the_full_picture_of_a_pyramid() -> None:
    values = random("uint8", HEIGHT, WIDTH, 3)
    for subifds in (0, 1):
        file = BytesIO()
        with tifffile.TiffWriter(file) as tiff:
            tiff.write(values, photometric="rgb", tile=(32, 32), subifds=subifds)
            tiff.write(values[::2, ::2], photometric="rgb", tile=(32, 32), subfiletype=1)
        check_same(file.getvalue())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("samples", [False, True], ids=["planes", "samples"])
def test_a_network_of_one_channel_is_told_of_several(samples: bool, layout: str) -> None:
    """Whole or part by part: it never sees the first of them by chance."""
    values = random("uint16", HEIGHT, WIDTH, 5) if samples else random("uint16", 5, HEIGHT, WIDTH)
    stated: dict[str, Any] = {"planarconfig": "contig"} if samples else {"ome": True, "metadata": {"axes": "CYX"}}
    data = written(values, photometric="minisblack", **stated, **LAYOUTS[layout])
    for choice in (PlaneChoice(inputs=1), *([PlaneChoice(page=0, inputs=1)] if samples else [])):
        for limits in (LIMITS, ImageLimits()):
            with pytest.raises(NoSuchPlane, match="the image has 5 channels and the model takes 1; a request can say"):
                open_picture(data, limits, choice=choice)
    check_same(data, PlaneChoice(channel=3, inputs=1))
    named = open_picture(data, LIMITS, choice=PlaneChoice(channels=(3,), inputs=1))
    assert isinstance(named, PictureByRegion)
    np.testing.assert_array_equal(
        named.read(0, 0, HEIGHT, WIDTH).values[..., 0], values[..., 3] if samples else values[3]
    )
    if not samples:
        check_same(data, PlaneChoice(page=2, inputs=1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plane_of_a_stack(layout: str) -> None:
    values = random("uint16", 2, 3, HEIGHT, WIDTH)
    data = written(values, ome=True, metadata={"axes": "ZCYX"}, photometric="minisblack", **LAYOUTS[layout])
    for choice in (PlaneChoice(), PlaneChoice(z=1, channel=2), PlaneChoice(page=4)):
        check_same(data, choice)
    with pytest.raises(NoSuchPlane, match="no z 2"):
        open_picture(data, LIMITS, choice=PlaneChoice(z=2))
    colors = written(random("uint8", HEIGHT, WIDTH, 3), photometric="rgb", **LAYOUTS[layout])
    check_same(colors, PlaneChoice(channel=1))


def test_channels_that_are_taken_one_by_one() -> None:
    """Samples of each pixel, planes along an axis, pages; each with what makes 8 bits of it."""
    values = random("uint16", 4, HEIGHT, WIDTH) // np.array([1, 16, 4, 64], np.uint16)[:, None, None]
    pixels = np.ascontiguousarray(values.transpose(1, 2, 0))
    files = [
        written(pixels, photometric="minisblack", planarconfig="contig", tile=(32, 32)),
        written(values, photometric="minisblack", planarconfig="separate", rowsperstrip=7),
        written(values, ome=True, metadata={"axes": "CYX"}, photometric="minisblack", tile=(48, 64)),
        written(values, imagej=True, metadata={"axes": "CYX"}),
        written((pixels[..., :3] >> 8).astype(np.uint8), photometric="rgb", tile=(32, 32), compression="zlib"),
    ]
    for data in files:
        for choice in (PlaneChoice(channels=(2, None, 0)), PlaneChoice(channels=(1, 1), inputs=2)):
            whole = read_picture(data, choice=choice)
            opened = by_region(data, choice)
            assert opened.like.channels == whole.channels
            for intensity in (Intensity(), Intensity(mode="min-max")):
                expected, done = to_pixels(whole, intensity, choice.inputs)
                search = DoneSearch(opened.like, HEIGHT * WIDTH, intensity)
                for band in opened.bands():
                    search.add(opened.read(band.top, band.left, band.height, band.width).values)
                assert search.found() == done
                part = apply(opened.read(31, 33, 64, 64), done, choice.inputs)
                np.testing.assert_array_equal(part, expected[31:95, 33:97])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_one_strip_that_is_not_compressed_is_read_in_rows(dtype: str) -> None:
    """So write ImageJ, and tifffile by default."""
    for values in (random(dtype, HEIGHT, WIDTH), random(dtype, 3, HEIGHT, WIDTH)):
        check_same(written(values, photometric="minisblack", imagej=True))
        check_same(written(values, photometric="minisblack", metadata=None))
    planes = random(dtype, 3, HEIGHT, WIDTH)
    check_same(written(planes, photometric="rgb", planarconfig="separate"))
    bits = Image.fromarray(random("uint8", HEIGHT, WIDTH)).convert("1")
    check_same(encode(bits, "TIFF", tiffinfo={278: HEIGHT}))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="one strip that is not compressed"),
        pytest.param({"rowsperstrip": 7}, id="small strips that are not compressed"),
        pytest.param({"rowsperstrip": 7, "compression": "zlib"}, id="small strips"),
    ],
)
def test_less_than_usual_is_decoded_at_once_where_limits_are_low(
    options: dict[str, Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "STRIPS", 1 << 20)  # as it is
    values = random(dtype, HEIGHT, WIDTH, 3)
    data = written(values, photometric="rgb", **options)
    opened = open_picture(data, ImageLimits(max_pixels=2000, max_picture_pixels=10**6))
    assert isinstance(opened, PictureByRegion)
    for top, left, height, width in PARTS:
        part = opened.read(top, left, height, width).values
        np.testing.assert_array_equal(part, values[top : top + height, left : left + width])


def test_a_mapped_file_is_read_like_one_in_memory(tmp_path: Path) -> None:
    values = random("uint8", HEIGHT, WIDTH)
    path = tmp_path / "large.tif"
    path.write_bytes(b"before" + written(values, compression="zlib", tile=(32, 32)))
    with path.open("r+b") as file:
        data = memoryview(mmap(file.fileno(), 0))[6:]
    opened = open_picture(data, LIMITS)
    assert isinstance(opened, PictureByRegion)
    np.testing.assert_array_equal(opened.read(0, 0, HEIGHT, WIDTH).values, values)
    whole = open_picture(data)
    assert isinstance(whole, Picture)
    np.testing.assert_array_equal(whole.values, values)


def test_what_is_small_enough_or_no_tiff_is_decoded_whole() -> None:
    values = random("uint8", HEIGHT, WIDTH)
    for data in (written(values, tile=(32, 32)), encode(Image.fromarray(values), "PNG")):
        opened = open_picture(data, ImageLimits(max_pixels=HEIGHT * WIDTH, max_picture_pixels=1))
        assert isinstance(opened, Picture)
        np.testing.assert_array_equal(opened.values, values)


@pytest.mark.parametrize(
    ("options", "limits", "said"),
    [
        ({"tile": (32, 32)}, ImageLimits(1000, 10_000), r"at most 10000 are accepted \(max_picture_pixels\)"),
        ({"tile": (32, 32)}, ImageLimits(1000), r"at most 1000 are accepted \(max_pixels\); send it smaller$"),
        (
            {"compression": "zlib", "rowsperstrip": HEIGHT},
            LIMITS,
            r"in strips or tiles of 153 x 117.*write it in tiles",
        ),
        ({"tile": (256, 256)}, LIMITS, r"in strips or tiles of 256 x 256.*\(max_pixels\); write it in tiles"),
    ],
)
def test_pictures_that_are_too_large_even_so(options: dict[str, Any], limits: ImageLimits, said: str) -> None:
    with pytest.raises(TooManyPixels, match=said):
        open_picture(written(random("uint8", HEIGHT, WIDTH), **options), limits)


def test_other_formats_are_told_of_tiles() -> None:
    data = encode(picture(HEIGHT, WIDTH), "PNG")
    with pytest.raises(TooManyPixels, match=r"\(max_pixels\); send it smaller, or as a tiled TIFF.*max_picture_pixels"):
        open_picture(data, LIMITS)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_damaged_tile_is_told_when_it_is_read(compression: str | None, dtype: str) -> None:
    data = bytearray(written(random(dtype, HEIGHT, WIDTH), tile=(32, 32), compression=compression))
    with tifffile.TiffFile(BytesIO(data)) as tiff:
        tag = tiff.pages.first.tags[324]
        struct.pack_into("<I", data, tag.valueoffset + 4 * (tag.count - 1), len(data) - 4)
    opened = by_region(bytes(data))
    opened.read(0, 0, 32, WIDTH)
    for _ in range(2):  # and again: what failed is not kept
        with pytest.raises(DamagedImage, match="cut short"):
            opened.read(HEIGHT - 1, WIDTH - 1, 1, 1)
