"""What TIFFs say of their pixels' size: taken where it is certain, left alone where it is not."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from model.runtime.images.picture import PixelSize
from model.runtime.images.planes import PlaneChoice
from model.runtime.images.reading import read_picture

GRAY = np.arange(48, dtype=np.uint16).reshape(6, 8)
STACK = np.stack([GRAY, GRAY + 1, GRAY + 2])


def tiff(values: Any = GRAY, **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def size(data: bytes, **choice: int) -> PixelSize | None:
    return read_picture(data, choice=PlaneChoice(**choice)).pixel_size


def ome(x: Any = None, y: Any = None, x_unit: str | None = None, y_unit: str | None = None) -> bytes:
    stated = {"PhysicalSizeX": x, "PhysicalSizeY": y, "PhysicalSizeXUnit": x_unit, "PhysicalSizeYUnit": y_unit}
    return tiff(ome=True, metadata={name: value for name, value in stated.items() if value is not None})


def imagej(unit: str | None, a_unit: tuple[float, float] = (4.0, 4.0), tag: int | None = None, **more: str) -> bytes:
    metadata = more if unit is None else {"unit": unit, **more}
    return tiff(imagej=True, resolution=a_unit, resolutionunit=tag, metadata=metadata)


# (what it is, file, micrometers along x and y or None)
OME = [
    ("micrometers are the default", ome(0.325, 0.325), (0.325, 0.325)),
    ("sides that differ", ome(0.5, 0.25, "µm", "µm"), (0.5, 0.25)),
    ("nanometers", ome(325, 325, "nm", "nm"), (0.325, 0.325)),
    ("millimeters, and nanometers along y", ome(0.001, 500, "mm", "nm"), (1.0, 0.5)),
    ("Angstrom", ome(5000, 5000, "Å", "Å"), (0.5, 0.5)),
    ("the Greek letter", ome(0.5, 0.5, "\u03bcm", "\u03bcm"), (0.5, 0.5)),
    ("pixels are no length", ome(1, 1, "pixel", "pixel"), None),
    ("neither is a reference frame", ome(1, 1, "reference frame", "reference frame"), None),
    ("megameters are no millimeters", ome(1, 1, "Mm", "Mm"), None),
    ("one side only", ome(0.325), None),
    ("one side's unit unknown", ome(0.5, 0.5, "µm", "pixel"), None),
    ("nothing stated", ome(), None),
    ("zero", ome(0, 0), None),
    ("less than zero", ome(-1, -1), None),
    ("no number", ome("wide", "wide"), None),
    ("not finite", ome("INF", "INF"), None),
    ("so large that areas would be infinite", ome(1e300, 1e300), None),
    ("so small that areas would be nothing", ome(1e-300, 1e-300), None),
    ("light years in meters, along one side", ome(0.5, 9.5e15, "µm", "m"), None),
    ("an electron microscope's", ome(0.2, 0.2, "Å", "Å"), (2e-5, 2e-5)),
    ("not a number", ome("NaN", "NaN"), None),
]
IMAGEJ = [
    ("micron", imagej("micron"), (0.25, 0.25)),
    ("um", imagej("um"), (0.25, 0.25)),
    ("the sign as ImageJ escapes it", imagej("\\u00B5m"), (0.25, 0.25)),
    ("nanometers", imagej("nm", (0.005, 0.01)), (0.2, 0.1)),
    ("millimeters", imagej("mm", (1000, 1000)), (1.0, 1.0)),
    ("another unit along y", imagej("micron", (4, 0.004), yunit="nm"), (0.25, 0.25)),
    ("centimeters, as the tag says too", imagej("cm", (20_000, 20_000), 3), (0.5, 0.5)),
    ("pixels", imagej("pixel"), None),
    ("a unit that nobody knows", imagej("furlong"), None),
    ("kilometers of a pixel", imagej("m", (0.001, 0.001)), None),
    ("smaller than an atom", imagej("pm", (1e6, 1e6)), None),
    ("an unknown one along y", imagej("micron", (4, 4), yunit="sec"), None),
    ("an empty one", imagej(" "), None),
    ("none", imagej(None), None),
    ("none, and a tag in centimeters", imagej(None, (20_000, 20_000), 3), (0.5, 0.5)),
    ("micron where the tag says inch", imagej("micron", (4, 4), 2), None),
    ("inches of a screen", imagej("inch", (72, 72), 2), None),
    ("no resolution", tiff(imagej=True, resolution=(0, 0), metadata={"unit": "micron"}), None),
]
TAGS = [
    ("centimeters of a microscope", tiff(resolution=(30_769.23, 30_769.23), resolutionunit=3), (0.325, 0.325)),
    ("inches of a microscope", tiff(resolution=(50_800, 25_400), resolutionunit=2), (0.5, 1.0)),
    ("72 dots an inch", tiff(resolution=(72, 72), resolutionunit=2), None),
    ("300 dots an inch", tiff(resolution=(300, 300), resolutionunit=2), None),
    ("2,400 dots an inch", tiff(resolution=(2400, 2400), resolutionunit=2), None),
    ("a screen in centimeters", tiff(resolution=(28.35, 28.35), resolutionunit=3), None),
    ("one side of a screen", tiff(resolution=(50_800, 72), resolutionunit=2), None),
    ("atoms", tiff(resolution=(1e9, 1e9), resolutionunit=3), None),
    ("no unit", tiff(resolution=(30_769, 30_769), resolutionunit=1), None),
    ("nothing", tiff(), None),
]


@pytest.mark.parametrize("tag", [282, 283, 296])
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        pytest.param(2, 2, id="a word"),
        pytest.param(3, 2, id="two numbers"),
        pytest.param(5, 3, id="three fractions"),
        pytest.param(7, 200, id="bytes"),
        pytest.param(12, 1, id="a float"),
    ],
)
@pytest.mark.parametrize("is_imagej", [False, True])
def test_a_tag_that_is_not_what_it_should_be_says_nothing_and_spoils_nothing(
    tag: int, kind: int, count: int, is_imagej: bool
) -> None:
    data = bytearray(imagej("cm", (20_000, 20_000), 3) if is_imagej else tiff(resolution=(2e4, 2e4), resolutionunit=3))
    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        entry = page.tags[tag].offset
        order = file.byteorder
    struct.pack_into(order + "HHI", data, entry, tag, kind, count)
    picture = read_picture(bytes(data))
    np.testing.assert_array_equal(picture.values, GRAY)
    assert picture.pixel_size is None or (is_imagej and tag == 296), "ImageJ's own unit does not need TIFF's"


@pytest.mark.parametrize("fraction", [(0, 1), (1, 0), (0, 0), (2**32 - 1, 1), (1, 2**32 - 1)])
def test_resolutions_that_no_picture_has(fraction: tuple[int, int]) -> None:
    data = bytearray(tiff(resolution=(2e4, 2e4), resolutionunit=3))
    with tifffile.TiffFile(BytesIO(data)) as file:
        struct.pack_into("<II", data, file.pages.first.tags[282].valueoffset, *fraction)
    assert size(bytes(data)) is None


@pytest.mark.parametrize(
    ("source", "data", "expected"),
    [
        pytest.param(source, data, expected, id=f"{source}: {name}")
        for source, table in (("ome", OME), ("imagej", IMAGEJ), ("tiff", TAGS))
        for name, data, expected in table
    ],
)
def test_what_is_stated(source: str, data: bytes, expected: tuple[float, float] | None) -> None:
    found = size(data)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found.x, found.y) == pytest.approx(expected, rel=1e-6)
        assert found.source == source


def test_a_picture_that_is_turned_has_its_sides_turned_too() -> None:
    lying = {"resolution": (20_000, 40_000), "resolutionunit": 3}
    for orientation, expected in ((1, (0.5, 0.25)), (3, (0.5, 0.25)), (6, (0.25, 0.5)), (8, (0.25, 0.5))):
        for values in (GRAY, GRAY.astype(np.uint8)):  # read here, and by Pillow
            found = size(tiff(values, extratags=[(274, 3, 1, orientation, True)], **lying))
            assert found == PixelSize(*expected, "tiff")


def test_planes_of_one_file_have_its_size() -> None:
    stack = tiff(STACK, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
    assert size(stack, z=2) == PixelSize(0.5, 0.5, "ome")
    hyperstack = tiff(STACK, imagej=True, resolution=(2, 2), metadata={"axes": "ZYX", "unit": "um"})
    assert size(hyperstack, z=1) == PixelSize(0.5, 0.5, "imagej")
    pages = BytesIO()
    with tifffile.TiffWriter(pages) as writer:
        for scale in (10_000, 20_000):
            writer.write(GRAY, resolution=(scale, scale), resolutionunit=3, metadata=None)
    assert size(pages.getvalue()) == PixelSize(1.0, 1.0, "tiff")
    assert size(pages.getvalue(), page=1) == PixelSize(0.5, 0.5, "tiff")


def test_images_of_one_ome_file_that_differ_say_nothing() -> None:
    for second, expected in ((0.5, PixelSize(0.5, 0.5, "ome")), (2.0, None)):
        file = BytesIO()
        with tifffile.TiffWriter(file, ome=True) as writer:
            for physical in (0.5, second):
                writer.write(GRAY, metadata={"PhysicalSizeX": physical, "PhysicalSizeY": physical})
        assert size(file.getvalue()) == expected


def test_other_files_say_nothing_that_is_believed() -> None:
    for form, options in (("PNG", {"dpi": (25_400, 25_400)}), ("JPEG", {"dpi": (25_400, 25_400)})):
        file = BytesIO()
        Image.fromarray(GRAY.astype(np.uint8)).save(file, form, **options)
        assert size(file.getvalue()) is None
