"""Which of a TIFF's pictures is taken, what choosing one gives, and that the answer is told."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.errors import ImageError, NoSuchPlane, TooManyPlanes
from model.runtime.images.planes import PlaneAxis, PlaneChoice
from model.runtime.images.reading import planes_of, probe, read_picture
from tests.model.runtime.images.pictures import encode, picture

FULL = np.asarray(picture())
SMALL = np.ascontiguousarray(FULL[::4, ::4])


def pages(*pages: tuple[NDArray[Any], dict[str, Any]], **options: Any) -> bytes:
    file = BytesIO()
    with tifffile.TiffWriter(file, **options) as writer:
        for values, tags in pages:
            writer.write(values, metadata=None, **tags)
    return file.getvalue()


def encode_tiff(values: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def stack(*sizes: int, dtype: str = "uint16") -> NDArray[Any]:
    return np.random.default_rng(3).integers(0, 200, (*sizes, 6, 9)).astype(dtype)


def test_a_reduced_picture_is_never_the_picture() -> None:
    rgb: dict[str, Any] = {"photometric": "rgb"}
    old_tag = {"extratags": [(255, "H", 1, 2, True)]}
    mask = {"photometric": "minisblack", "subfiletype": 4}
    files = {
        "thumbnail first": pages((SMALL, rgb | {"subfiletype": 1}), (FULL, rgb)),
        "thumbnail first, big endian": pages((SMALL, rgb | {"subfiletype": 1}), (FULL, rgb), byteorder=">"),
        "thumbnail first, BigTIFF": pages((SMALL, rgb | {"subfiletype": 1}), (FULL, rgb), bigtiff=True, byteorder=">"),
        "by the old tag": pages((SMALL, rgb | old_tag), (FULL, rgb)),
        "a mask first": pages((SMALL[..., 0] > 9, mask), (FULL, rgb)),
        "pyramid in the chain": pages((FULL, rgb), (SMALL, rgb | {"subfiletype": 1})),
        "pyramid below": pages((FULL, rgb | {"subifds": 1}), (SMALL, rgb | {"subfiletype": 1})),
        "the picture below its thumbnail": pages((SMALL, rgb | {"subfiletype": 1, "subifds": 1}), (FULL, rgb)),
    }
    for name, data in files.items():
        decoded = read_picture(data)
        np.testing.assert_array_equal(decoded.values, FULL, err_msg=name)
        assert decoded.plane == (), name
        assert (probe(data).width, probe(data).height) == (40, 24)
    np.testing.assert_array_equal(read_picture(pages((SMALL, rgb | {"subfiletype": 1}))).values, SMALL)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
def test_pages(options: dict[str, Any]) -> None:
    deep = stack(dtype="uint16")
    data = pages((FULL, {"photometric": "rgb"}), (SMALL, {"photometric": "rgb"}), (deep, {}), **options)
    for index, expected in enumerate((FULL, SMALL, deep)):
        decoded = read_picture(data, choice=PlaneChoice(page=index))
        np.testing.assert_array_equal(decoded.values, expected)
        assert decoded.plane == (PlaneAxis("page", index, 3),)
        assert probe(data, choice=PlaneChoice(page=index)).width == expected.shape[1]
    assert read_picture(data).plane == (PlaneAxis("page", 0, 3),)
    with pytest.raises(NoSuchPlane, match="the image has no page 3: it has 3, counted from 0"):
        read_picture(data, choice=PlaneChoice(page=3))
    with pytest.raises(NoSuchPlane, match="no z 1"):
        read_picture(data, choice=PlaneChoice(z=1))


def test_pages_of_compressed_files_by_pillow() -> None:
    images = [picture().convert(mode) for mode in ("RGB", "P", "CMYK", "1")]
    data = encode(images[0], "TIFF", save_all=True, append_images=images[1:], compression="tiff_lzw")
    for index, image in enumerate(images):
        expected = np.asarray(image.convert("L" if image.mode == "1" else "RGB"))
        np.testing.assert_array_equal(read_picture(data, choice=PlaneChoice(page=index)).values, expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_stacks_with_axes(kind: str, dtype: str, compression: str | None) -> None:
    values = stack(2, 3, 4, dtype=dtype)
    file = BytesIO()
    order = "TZCYX"
    tifffile.imwrite(file, values, **{kind: True}, metadata={"axes": order}, compression=compression)
    data = file.getvalue()
    first = read_picture(data)
    np.testing.assert_array_equal(first.values, values[0, 0, 0])
    assert first.plane == (PlaneAxis("t", 0, 2), PlaneAxis("z", 0, 3), PlaneAxis("channel", 0, 4))
    for t, z, channel in ((1, 2, 3), (0, 1, 0), (1, 0, 2)):
        decoded = read_picture(data, choice=PlaneChoice(t=t, z=z, channel=channel))
        np.testing.assert_array_equal(decoded.values, values[t, z, channel])
    np.testing.assert_array_equal(read_picture(data, choice=PlaneChoice(page=13)).values, values.reshape(-1, 6, 9)[13])
    for choice, message in (
        (PlaneChoice(z=3), "the image has no z 3: it has 3, counted from 0"),
        (PlaneChoice(channel=4), "no channel 4"),
        (PlaneChoice(page=24), "no page 24: it has 24"),
        (PlaneChoice(page=1, z=1), "page counts all planes of the image: ask for it alone"),
    ):
        with pytest.raises(NoSuchPlane, match=message):
            read_picture(data, choice=choice)


def test_an_ome_file_of_many_pictures_is_sound() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file, ome=True) as writer:
        for _ in range(12):
            writer.write(stack(5, 4), metadata={"axes": "ZCYX"})
    assert read_picture(file.getvalue()).plane == (PlaneAxis("z", 0, 5), PlaneAxis("channel", 0, 4))


def test_an_axis_order_of_its_own() -> None:
    values = stack(4, 3)
    file = BytesIO()
    tifffile.imwrite(file, values, ome=True, metadata={"axes": "CZYX"})
    decoded = read_picture(file.getvalue(), choice=PlaneChoice(channel=2, z=1))
    np.testing.assert_array_equal(decoded.values, values[2, 1])


def test_a_stack_that_lies_in_one_piece_behind_one_directory() -> None:
    values = stack(5)
    file = BytesIO()
    tifffile.imwrite(file, values, metadata={"axes": "ZYX"}, contiguous=True, truncate=True)
    decoded = read_picture(file.getvalue(), choice=PlaneChoice(z=3))
    np.testing.assert_array_equal(decoded.values, values[3])


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels", [2, 3, 5])
def test_channels_within_a_page(channels: int, planar: Any) -> None:
    """They are channels, not colors, where the file does not call them RGB."""
    values = stack(channels)
    stored = values if planar == "separate" else np.ascontiguousarray(values.transpose(1, 2, 0))
    file = BytesIO()
    tifffile.imwrite(file, stored, photometric="minisblack", planarconfig=planar, metadata=None)
    data = file.getvalue()
    assert read_picture(data).plane == (PlaneAxis("channel", 0, channels),)
    for channel in range(channels):
        decoded = read_picture(data, choice=PlaneChoice(channel=channel))
        np.testing.assert_array_equal(decoded.values, values[channel])
    with pytest.raises(NoSuchPlane, match=f"no channel {channels}: it has {channels}"):
        read_picture(data, choice=PlaneChoice(channel=channels))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_a_channel_of_a_color_picture(format: str) -> None:
    decoded = read_picture(encode(picture(), format), choice=PlaneChoice(channel=1))
    np.testing.assert_array_equal(decoded.values, FULL[..., 1])
    assert decoded.plane == (PlaneAxis("channel", 1, 3),)
    with pytest.raises(NoSuchPlane, match="no channel 3: it has 3"):
        read_picture(encode(picture(), format), choice=PlaneChoice(channel=3))


def test_what_other_formats_do_not_have() -> None:
    data = encode(Image.new("L", (4, 3), 7), "PNG")
    assert read_picture(data, choice=PlaneChoice(page=0, channel=0)).plane == ()
    for choice in (PlaneChoice(page=1), PlaneChoice(z=1), PlaneChoice(t=2)):
        with pytest.raises(NoSuchPlane, match="only a TIFF's pages and axes can be chosen"):
            read_picture(data, choice=choice)


ALL_PLANES: dict[str, tuple[bytes, PlaneChoice, list[dict[str, int]]]] = {
    "pages": (pages(*[(one, {}) for one in stack(3)]), PlaneChoice(), [{"page": one} for one in range(3)]),
    "pages of several sizes": (pages((stack()[..., :5], {}), (stack(), {})), PlaneChoice(), [{"page": 0}, {"page": 1}]),
    "a single page": (pages((stack(), {})), PlaneChoice(), [{}]),
    "z and channel": (
        encode_tiff(stack(2, 2), ome=True, metadata={"axes": "ZCYX"}, photometric="minisblack"),
        PlaneChoice(),
        [{"z": z, "channel": channel} for z in range(2) for channel in range(2)],
    ),
    "one channel of all z": (
        encode_tiff(stack(3, 2), ome=True, metadata={"axes": "ZCYX"}, photometric="minisblack"),
        PlaneChoice(channel=1),
        [{"z": z, "channel": 1} for z in range(3)],
    ),
    "points of time of ImageJ": (
        encode_tiff(stack(3), imagej=True, metadata={"axes": "TYX"}),
        PlaneChoice(),
        [{"t": t} for t in range(3)],
    ),
    "axes without a name of ours": (
        encode_tiff(stack(2, 3), ome=True, metadata={"axes": "QZYX"}, photometric="minisblack"),
        PlaneChoice(),
        [{"page": one} for one in range(6)],
    ),
    "channels in a pixel's samples": (
        encode_tiff(np.moveaxis(stack(5), 0, -1), photometric="minisblack", planarconfig="contig", metadata=None),
        PlaneChoice(),
        [{"channel": one} for one in range(5)],
    ),
    "one of these": (
        encode_tiff(np.moveaxis(stack(5), 0, -1), photometric="minisblack", planarconfig="contig", metadata=None),
        PlaneChoice(channel=3),
        [{"channel": 3}],
    ),
    "channels that are taken together": (
        encode_tiff(stack(2, 3), ome=True, metadata={"axes": "ZCYX"}, photometric="minisblack"),
        PlaneChoice(channels=(2, 1, None)),
        [{"z": 0}, {"z": 1}],
    ),
    "pages as channels that are taken together": (
        pages(*[(one, {}) for one in stack(3)]),
        PlaneChoice(channels=(2, 1, 0)),
        [{}],
    ),
    "colors are one plane": (pages((FULL, {"photometric": "rgb"})), PlaneChoice(), [{}]),
    "a thumbnail is none": (
        pages((SMALL, {"photometric": "rgb", "subfiletype": 1}), (FULL, {"photometric": "rgb"})),
        PlaneChoice(),
        [{}],
    ),
    "no TIFF": (encode(picture(), "PNG"), PlaneChoice(), [{}]),
}


@pytest.mark.parametrize("name", ALL_PLANES)
def test_all_planes_are_those_that_can_be_asked_for_alone(name: str) -> None:
    data, choice, expected = ALL_PLANES[name]
    found = planes_of(data, choice=choice, most=6)
    assert [{axis.name: axis.index for axis in plane.axes} for plane in found.planes] == expected
    for plane, alone in zip(found.planes, expected, strict=True):
        read = read_picture(data, choice=plane.choice)
        assert read.plane == plane.axes
        asked = read_picture(data, choice=replace(choice, **alone))  # type: ignore[arg-type]  # of the table
        np.testing.assert_array_equal(read.values, asked.values)
        assert name == "no TIFF" or read.values.shape[0] * read.values.shape[1] <= found.pixels


def test_planes_are_counted_before_they_are_listed() -> None:
    for data in (pages(*[(one, {}) for one in stack(3)]), encode_tiff(stack(3), imagej=True)):
        with pytest.raises(TooManyPlanes, match="that would be 3 planes of the image, and at most 2"):
            planes_of(data, most=2)
    narrowed = planes_of(ALL_PLANES["z and channel"][0], choice=PlaneChoice(z=1), most=2)
    assert len(narrowed.planes) == 2


@pytest.mark.parametrize(
    ("name", "choice", "message"),
    [
        ("z and channel", PlaneChoice(z=2), "no z 2: it has 2"),
        ("z and channel", PlaneChoice(t=1), "no t 1: its file states no axis t"),
        ("pages", PlaneChoice(z=1), "no z 1: its file states no axis z"),
        ("axes without a name of ours", PlaneChoice(z=1), "not told apart"),
        ("no TIFF", PlaneChoice(t=1), "no t 1: only a TIFF's pages and axes"),
    ],
)
def test_planes_that_are_not_there(name: str, choice: PlaneChoice, message: str) -> None:
    with pytest.raises(NoSuchPlane, match=message):
        planes_of(ALL_PLANES[name][0], choice=choice, most=99)


def test_a_page_that_cannot_be_read_is_listed_like_the_others() -> None:
    data = bytearray(pages((stack(), {}), (stack(), {})))
    with tifffile.TiffFile(BytesIO(data)) as file:
        tag = file.pages.first.tags["BitsPerSample"]
    data[tag.valueoffset : tag.valueoffset + 2] = (33).to_bytes(2, "little")
    first, second = planes_of(bytes(data), most=2).planes
    assert read_picture(bytes(data), choice=second.choice).plane == second.axes
    with pytest.raises(ImageError):
        read_picture(bytes(data), choice=first.choice)


OWN: dict[str, tuple[dict[str, Any], Any]] = {
    "compressed": ({"compression": "zlib"}, lambda one: one),
    "with a predictor": ({"compression": "zlib", "predictor": 2}, lambda one: one),
    "white is zero": ({"photometric": "miniswhite"}, lambda one: 65535 - one),
    "upside down": ({"extratags": [(274, "H", 1, 3, True)]}, lambda one: one[::-1, ::-1]),
    "of 12 bits": ({"bitspersample": 12, "compression": None}, lambda one: one),
}
"""Tags of a plane of uint16, and what is seen of it."""


@pytest.mark.parametrize("first", [False, True], ids=["the second", "the first"])
@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("common", [{}, {"compression": "zlib"}], ids=["plain", "zlib"])
def test_a_plane_of_a_stack_is_read_as_its_own_header_says(common: dict[str, Any], kind: str, first: bool) -> None:
    """Not as the header of the stack's first says, which readers of stacks take for all."""
    planes, (tags, seen) = stack(3), OWN[kind]
    odd = 0 if first else 1
    written = [(plane, common | (tags if index == odd else {})) for index, plane in enumerate(planes)]
    data = pages(*[(plane, {"description": OME.format(z=3)} | own) for plane, own in written])
    for index, plane in enumerate(planes):
        decoded = read_picture(data, choice=PlaneChoice(z=index))
        np.testing.assert_array_equal(decoded.values, seen(plane) if index == odd else plane)
        assert decoded.plane == (PlaneAxis("z", index, 3),)


def test_a_plane_of_a_stack_may_be_of_another_type_or_size() -> None:
    planes = [stack()[:4], stack(dtype="uint8"), np.ascontiguousarray(stack().T)]
    data = pages(*[(plane, {"description": OME.format(z=3)}) for plane in planes])
    for one, plane in zip(planes_of(data, most=3).planes, planes, strict=True):
        decoded = read_picture(data, choice=one.choice)
        np.testing.assert_array_equal(decoded.values, plane)
        assert decoded.values.dtype == plane.dtype


OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
    'DimensionOrder="XYZCT" Type="uint16" SizeX="9" SizeY="6" SizeZ="{z}" SizeC="1" SizeT="1"><TiffData/></Pixels>'
    "</Image></OME>"
)


@pytest.mark.parametrize("ome", [True, False], ids=["OME", "tifffile's own"])
def test_planes_of_several_stacks_in_one_file_are_all_there(ome: bool) -> None:
    file = BytesIO()
    first, second = stack(3), stack(2) + 300
    with tifffile.TiffWriter(file, ome=ome) as writer:
        for values in (first, second):
            writer.write(values, metadata={"axes": "ZYX"}, photometric="minisblack")
    data = file.getvalue()
    everything = planes_of(data, most=9).planes
    assert [one.axes for one in everything] == [(PlaneAxis("page", page, 5),) for page in range(5)]
    for page, (one, plane) in enumerate(zip(everything, [*first, *second], strict=True)):
        for choice in (one.choice, PlaneChoice(page=page)):
            np.testing.assert_array_equal(read_picture(data, choice=choice).values, plane)
    assert read_picture(data).plane == (PlaneAxis("z", 0, 3),)
    np.testing.assert_array_equal(read_picture(data, choice=PlaneChoice(z=2)).values, first[2])
    assert [one.axes for one in planes_of(data, choice=PlaneChoice(z=1), most=9).planes] == [(PlaneAxis("z", 1, 3),)]


@pytest.mark.parametrize("imagej", [True, False], ids=["ImageJ", "tifffile's own"])
def test_a_stack_that_is_cut_short_is_no_single_plane(imagej: bool) -> None:
    data = encode_tiff(stack(4), imagej=imagej, photometric="minisblack", truncate=True)
    for missing in (1, 6 * 9 * 2, 3 * 6 * 9 * 2 - 1):
        for read in (read_picture, lambda cut: planes_of(cut, most=9)):
            with pytest.raises(ImageError, match="it announces 4 planes, and the last lie behind the end"):
                read(data[:-missing])
    np.testing.assert_array_equal(read_picture(data, choice=PlaneChoice(page=3)).values, stack(4)[3])


def test_a_single_plane_with_the_text_of_its_stack_is_one() -> None:
    """As programs write that take a plane out of one."""
    for text in ("ImageJ=1.53t\nimages=6\nslices=6\n", '{"shape": [6, 6, 9]}'):
        data = pages((stack(), {"description": text}))
        np.testing.assert_array_equal(read_picture(data).values, stack())
        assert read_picture(data).plane == ()
