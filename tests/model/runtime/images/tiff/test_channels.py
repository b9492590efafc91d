"""A file's channels taken one by one: from every layout that holds several, as 8 bits each, and what there is not."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.decode import decode_image
from model.runtime.images.errors import NoSuchPlane, TooManyPixels, UnsupportedVariant
from model.runtime.images.limits import ImageLimits
from model.runtime.images.picture import Picture
from model.runtime.images.planes import Channels, PlaneAxis, PlaneChoice
from model.runtime.images.reading import open_picture, read_picture
from model.runtime.images.values.intensity import AUTO, Intensity
from model.runtime.images.values.pixels import DoneSearch, shown, to_pixels
from tests.model.runtime.images.pictures import encode, picture

COLORS = np.asarray(picture())
STACK = np.random.default_rng(5).integers(0, 200, (5, 7, 9)).astype(np.uint16) * np.array([1, 5, 20, 80, 300])[
    :, None, None
].astype(np.uint16)
"""[C, H, W]: each channel has its own range."""


def written(values: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def last(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values.transpose(1, 2, 0))


LAYOUTS: dict[str, Callable[[NDArray[Any]], bytes]] = {
    "OME": lambda values: written(values, ome=True, metadata={"axes": "CYX"}),
    "OME, compressed": lambda values: written(values, ome=True, metadata={"axes": "CYX"}, compression="zlib"),
    "ImageJ": lambda values: written(values, imagej=True, metadata={"axes": "CYX"}),
    "samples together": lambda values: written(last(values), photometric="minisblack", planarconfig="contig"),
    "samples in planes": lambda values: written(values, photometric="minisblack", planarconfig="separate"),
    "samples in tiles": lambda values: written(
        last(values), photometric="minisblack", planarconfig="contig", tile=(16, 16), compression="zlib"
    ),
    "RGB and two more": lambda values: written(
        last(values), photometric="rgb", planarconfig="contig", extrasamples=(0, 0)
    ),
    "pages of an array": lambda values: written(values, photometric="minisblack"),
    "pages without a word": lambda values: written(values, photometric="minisblack", metadata=None),
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_channels_that_are_named(layout: str, dtype: str) -> None:
    values = (STACK % 251).astype(dtype)
    data = LAYOUTS[layout](values)
    read = read_picture(data, choice=PlaneChoice(channels=(3, None, 0)))
    assert read.channels == Channels((3, None, 0), 5)
    assert read.plane == ()
    np.testing.assert_array_equal(read.values, last(values[[0, 3]]))
    everything = read_picture(data, choice=PlaneChoice(inputs=5))
    assert everything.channels == Channels((0, 1, 2, 3, 4), 5)
    np.testing.assert_array_equal(everything.values, last(values))


@pytest.mark.parametrize(
    "intensity",
    [AUTO, Intensity(mode="min-max"), Intensity(mode="percentile", low=1, high=99), Intensity(mode="full-range")],
    ids=lambda intensity: intensity.mode,
)
def test_each_channel_becomes_8_bits_as_if_it_were_alone(intensity: Intensity) -> None:
    read = read_picture(LAYOUTS["OME"](STACK), choice=PlaneChoice(channels=(4, 0, None)))
    pixels, applied = to_pixels(read, intensity)
    assert isinstance(applied, tuple)
    for place, index in enumerate((4, 0)):
        alone, done = to_pixels(read_picture(encode_gray(STACK[index])), intensity)
        np.testing.assert_array_equal(pixels[..., place], alone[..., 0])
        assert applied[place] == done
    assert applied[2] is None
    assert not pixels[..., 2].any()


def encode_gray(values: NDArray[Any]) -> bytes:
    return written(values, metadata=None)


def test_colors_can_be_taken_in_another_order() -> None:
    for format in ("PNG", "BMP", "TIFF"):
        data = encode(picture(), format)
        np.testing.assert_array_equal(decode_image(data, choice=PlaneChoice(channels=(2, 1, 0))), COLORS[..., ::-1])
        alone = decode_image(data, choice=PlaneChoice(channels=(1,), inputs=1))
        np.testing.assert_array_equal(alone, COLORS[..., 1:2])


def test_a_gray_picture_has_one_channel() -> None:
    data = encode(Image.new("L", (4, 3), 7), "PNG")
    assert decode_image(data, choice=PlaneChoice(channels=(None, 0, 0)))[0, 0].tolist() == [0, 7, 7]
    with pytest.raises(NoSuchPlane, match="no channel 1: it has 1, counted from 0"):
        decode_image(data, choice=PlaneChoice(channels=(0, 1, 0)))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.new("L", (2, 2), 90), 90, id="gray"),
        pytest.param(Image.new("RGB", (2, 2), (200, 100, 50)), 124, id="0.299 R + 0.587 G + 0.114 B"),
        pytest.param(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), 255, id="see-through is white"),
    ],
)
def test_one_input_is_gray(image: Image.Image, expected: int) -> None:
    pixels = decode_image(encode(image, "PNG"), choice=PlaneChoice(inputs=1))
    assert (pixels.shape, pixels.min(), pixels.max()) == ((2, 2, 1), expected, expected)


def test_the_other_axes_are_still_chosen() -> None:
    values = np.random.default_rng(2).integers(0, 200, (3, 2, 6, 8)).astype(np.uint8)
    data = written(values, ome=True, metadata={"axes": "ZCYX"})
    read = read_picture(data, choice=PlaneChoice(z=2, channels=(1, 0, None)))
    np.testing.assert_array_equal(read.values, last(values[2]))
    assert read.plane == (PlaneAxis("z", 2, 3),)
    with pytest.raises(NoSuchPlane, match="no channel 2: it has 2"):
        read_picture(data, choice=PlaneChoice(channels=(0, 1, 2)))
    page = read_picture(data, choice=PlaneChoice(page=5, channels=(0, None, None)))
    np.testing.assert_array_equal(page.values[..., 0], values[2, 1])


def test_a_range_that_all_channels_declare_counts_for_each() -> None:
    ranged = [(340, "H", 1, 0, True), (341, "H", 1, 4095, True)]
    data = written(STACK, photometric="minisblack", planarconfig="separate", extratags=ranged, metadata=None)
    _, applied = to_pixels(read_picture(data, choice=PlaneChoice(channels=(0, 1, 2))))
    assert isinstance(applied, tuple)
    assert [(done.mode, done.low, done.high) for done in applied if done] == [("declared", 0, 4095)] * 3


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (1, r"the image has 5 channels and the model takes 1; a request can say which with channels=0 \("),
        (2, r"the image has 5 channels and the model takes 2; a request can say which with channels=0,1 \("),
        (7, r"the image has 5 channels and the model takes 7; a request can say which with channels=0,1,2,3,4,, \("),
    ],
)
def test_a_file_with_other_channels_than_the_network_takes(inputs: int, message: str) -> None:
    for layout in ("OME", "ImageJ", "samples together"):
        for read in (read_picture, open_picture):
            with pytest.raises(NoSuchPlane, match=message):
                read(LAYOUTS[layout](STACK), choice=PlaneChoice(inputs=inputs))
    if inputs > 1:
        with pytest.raises(NoSuchPlane, match="the image has 3 channels"):
            read_picture(encode(picture(), "PNG"), choice=PlaneChoice(inputs=inputs))


def test_a_network_of_one_channel_takes_the_one_that_is_named() -> None:
    for choice in (PlaneChoice(channel=3, inputs=1), PlaneChoice(channels=(3,), inputs=1)):
        read = read_picture(LAYOUTS["OME"](STACK), choice=choice)
        np.testing.assert_array_equal(read.values.squeeze(), STACK[3])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"channel": 0, "channels": (0, 1, 2)}, "give one of them"),
        ({"channels": (0, 1)}, r"takes 3 channels, not 2: name as many, such as 0,1,2"),
        ({"channels": (0, 1, 2), "inputs": 1}, "takes 1 channel, not 3"),
        ({"channels": (None, None, None)}, "all of them are black"),
        ({"channel": 0, "inputs": 5}, "takes 5 channels: name them with channels=0,1,2,3,4"),
    ],
)
def test_choices_that_contradict_themselves(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlaneChoice(**choice)


def test_planes_that_are_no_channels_of_one_picture() -> None:
    colors = np.stack([COLORS, COLORS])
    with pytest.raises(UnsupportedVariant, match="pictures in colors"):
        read_picture(
            written(colors, ome=True, photometric="rgb", metadata={"axes": "CYXS"}),
            choice=PlaneChoice(channels=(0, 1, None)),
        )
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for side in (8, 6):
            writer.write(np.zeros((side, 9), np.uint8), metadata=None)
    with pytest.raises(UnsupportedVariant, match="differ in size or type"):
        read_picture(file.getvalue(), choice=PlaneChoice(channels=(0, 1, None)))


def of_pages(*tags: list[tuple[int, str, int, int, bool]]) -> bytes:
    """Square pages in tiles, each with tags of its own."""
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number, extra in enumerate(tags):
            page = np.arange(256 * 256).reshape(256, 256) % 1000 + 1000 * number
            writer.write(page.astype(np.uint16), metadata=None, tile=(64, 64), extratags=extra)
    return file.getvalue()


@pytest.mark.parametrize("most", [256 * 256, 30_000], ids=["whole", "by region"])
def test_pages_state_ranges_of_their_own(most: int) -> None:
    ranges: list[tuple[int, int] | None] = [(0, 4095), (900, 3000), None]
    data = of_pages(*([(340, "H", 1, of[0], True), (341, "H", 1, of[1], True)] if of else [] for of in ranges))
    limits = ImageLimits(most, max_picture_pixels=100_000)
    together = open_picture(data, limits, choice=PlaneChoice(channels=(1, 2, 0)))
    like = together if isinstance(together, Picture) else together.like
    assert like.channel_ranges == tuple(ranges)
    search = DoneSearch(like, 256 * 256, AUTO)
    search.add(read_picture(data, choice=PlaneChoice(channels=(1, 2, 0))).values)
    done = search.found()
    assert isinstance(done, tuple)
    for page, one in zip((1, 2, 0), done, strict=True):
        assert one == to_pixels(read_picture(data, choice=PlaneChoice(page=page)))[1]
    if isinstance(together, Picture):
        assert to_pixels(together)[1] == done
    assert [one.mode for one in done if one is not None] == ["declared", "auto", "declared"]


@pytest.mark.parametrize("axes", ["ZCYX", "TCYX", "CYX"])
def test_channels_of_a_composite_have_display_ranges_of_their_own(axes: str) -> None:
    """ImageJ's min and max are those of the channel that was shown last."""
    values = STACK[:4].reshape(2, 2, 7, 9) if len(axes) == 4 else STACK[:2]
    last, own = {"min": 0.0, "max": 60000.0}, (0.0, 4000.0, 50.0, 900.0)

    def declared(metadata: dict[str, Any], **choice: Any) -> tuple[float, float] | None:
        data = written(values, imagej=True, metadata={"axes": axes, **last, **metadata})
        return read_picture(data, choice=PlaneChoice(**choice)).declared_range

    assert declared({}, channel=1) == (0, 60000)
    for ranges in (own, (*own, 3.0)):
        assert declared({"Ranges": ranges}) == declared({"Ranges": ranges}, channel=0) == (0, 4000)
        assert declared({"Ranges": ranges}, channel=1) == declared({"Ranges": ranges}, page=1) == (50, 900)
    if len(axes) == 4:
        assert declared({"Ranges": own}, page=2) == (0, 4000)
    assert declared({"Ranges": own[:3]}, channel=1) == (0, 60000)
    data = written(values, imagej=True, metadata={"axes": axes, **last, "Ranges": own})
    assert read_picture(data, choice=PlaneChoice(channels=(1, None, 0))).channel_ranges == ((0, 4000), (50, 900))


def test_pages_of_different_depth_are_not_one_picture() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for options in ({}, {"bitspersample": 12}):
            writer.write(STACK[0], metadata=None, photometric="minisblack", **options)
    with pytest.raises(UnsupportedVariant, match="differ in size or type"):
        read_picture(file.getvalue(), choice=PlaneChoice(channels=(0, 1, None)))


def test_pages_that_are_turned_differently_are_not_laid_over_each_other() -> None:
    data = of_pages([(274, "H", 1, 1, True)], [(274, "H", 1, 3, True)])
    choice = PlaneChoice(channels=(0, 1, None))
    upright = read_picture(data, choice=choice).values
    assert upright[0, 0].tolist() == [0, (256 * 256 - 1) % 1000 + 1000]
    with pytest.raises(UnsupportedVariant, match="have different orientations"):
        open_picture(data, ImageLimits(30_000, max_picture_pixels=100_000), choice=choice)


def test_many_channels_are_refused_before_they_are_read() -> None:
    data = LAYOUTS["OME"](np.zeros((20, 8, 8), np.uint16))
    wanted = PlaneChoice(channels=tuple(range(16)), inputs=16)
    assert read_picture(data, ImageLimits(max_pixels=128), choice=wanted).values.shape == (8, 8, 16)
    with pytest.raises(TooManyPixels, match="16 channels of 8 x 8 pixels"):
        read_picture(data, ImageLimits(max_pixels=127), choice=wanted)


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, [10, 10, 10]), (2, [10, 11, 0]), (3, [10, 11, 12]), (5, [10, 11, 12])]
)
def test_what_people_see_of_the_channels(channels: int, expected: list[int]) -> None:
    pixels = np.full((2, 3, channels), np.arange(10, 10 + channels), np.uint8)
    assert shown(pixels)[1, 2].tolist() == expected
