"""A file that is seen shrunk, or decoded at reduced size, is the picture that is decoded whole."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.runtime.images.decode import decode_image
from model.runtime.images.picture import Picture, Size
from model.runtime.images.planes import PlaneChoice
from model.runtime.images.reading import read_picture
from model.runtime.images.values.intensity import Intensity
from model.runtime.images.values.pixels import to_pixels
from model.runtime.preprocess import Preprocessing, prepare, prepare_file
from tests.model.runtime.images.pictures import encode, ramp


def files() -> dict[str, bytes]:
    """Files of one picture, by what is in them."""
    picture = Image.fromarray(ramp(90, 131))
    gray = picture.convert("L")
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 200)
    faint = picture.copy()
    faint.putalpha(gray)
    found: dict[str, bytes] = {
        "TIFF, 16 bits": encode(deep, "TIFF"),
        "PNG, 16 bits": encode(deep, "PNG"),
        "TIFF, LZW": encode(picture, "TIFF", compression="tiff_lzw"),
        "PNG, alpha": encode(faint, "PNG"),
        "PNG, palette": encode(picture.quantize(64), "PNG"),
        "PNG, 1 bit": encode(gray.convert("1"), "PNG"),
        "PNG, transparent gray": encode(gray, "PNG", transparency=40),
        "TIFF, CMYK": encode(picture.convert("CMYK"), "TIFF"),
        "JPEG, CMYK": encode(picture.convert("CMYK"), "JPEG"),
    }
    for format in ("PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG"):
        found |= {format: encode(picture, format), f"{format}, gray": encode(gray, format)}
    exif = Image.Exif()
    for orientation in range(2, 9):
        exif[274] = orientation
        found[f"JPEG, orientation {orientation}"] = encode(picture, "JPEG", exif=exif)
        found[f"PNG, gray, orientation {orientation}"] = encode(gray, "PNG", exif=exif)
        found[f"PNG, 16 bits, orientation {orientation}"] = encode(deep, "PNG", exif=exif)
    return found


FILES = files()
NETWORKS = [PlaneChoice(), PlaneChoice(inputs=1)]


def seen(data: bytes, preprocessing: Preprocessing, choice: PlaneChoice) -> tuple[NDArray[np.uint8], Size]:
    picture = read_picture(data, choice=choice, fit=preprocessing.resized)
    return to_pixels(picture, inputs=choice.inputs)[0], picture.size


@pytest.mark.parametrize("choice", NETWORKS, ids=["RGB", "gray"])
@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_file_is_seen_as_its_whole_picture_is(data: bytes, choice: PlaneChoice) -> None:
    """Bit for bit, whether it is resized before it becomes an array or after, enlarged, shrunk, or neither."""
    whole = decode_image(data, choice=choice)
    for min_size in (20, 50, 90, 140):
        preprocessing = Preprocessing(min_size=min_size, max_size=300, channels=choice.inputs)
        image, size = seen(data, preprocessing, choice)
        found, expected = prepare(image, preprocessing, size), prepare(whole, preprocessing)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert (found.valid, found.original) == (expected.valid, expected.original)


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_a_file_is_prepared_as_its_whole_picture_is(data: bytes, reduced: bool) -> None:
    """Bit for bit, as long as it is no JPEG that shrinks by four: neither side does here."""
    for min_size, intensity in ((24, Intensity()), (90, Intensity()), (24, Intensity(mode="min-max"))):
        preprocessing = Preprocessing(min_size=min_size, max_size=300, intensity=intensity, reduced_decoding=reduced)
        expected = prepare(decode_image(data, intensity=intensity), preprocessing)
        found = prepare_file(data, preprocessing)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert (found.valid, found.original) == (expected.valid, expected.original)


def test_a_jpeg_that_shrinks_by_four_is_prepared_nearly_as_its_whole_picture_is() -> None:
    data = encode(Image.fromarray(ramp(403, 601)), "JPEG", quality=95)
    preprocessing = Preprocessing(min_size=50, max_size=300)
    expected = prepare(decode_image(data), preprocessing)
    np.testing.assert_array_equal(prepare_file(data, preprocessing).pixels, expected.pixels)
    found = prepare_file(data, preprocessing.model_copy(update={"reduced_decoding": True}))
    assert (found.valid, found.original) == ((50, 75), (403, 601))
    assert 0 < np.abs(found.pixels.astype(int) - expected.pixels).max() < 12
    # What is stretched by the picture's own values needs all of them.
    stretched = Preprocessing(min_size=50, max_size=300, intensity=Intensity(mode="min-max"), reduced_decoding=True)
    expected = prepare(decode_image(data, intensity=stretched.intensity), stretched)
    np.testing.assert_array_equal(prepare_file(data, stretched).pixels, expected.pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_file_is_seen_as_one_that_is_stored_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    turned = encode(Image.fromarray(ramp(90, 131)), "PNG", exif=exif)
    upright = encode(Image.fromarray(decode_image(turned)), "PNG")
    preprocessing = Preprocessing(min_size=37, max_size=300)
    expected, size = seen(upright, preprocessing, PlaneChoice())
    assert size == ((131, 90) if orientation >= 5 else (90, 131))
    found, found_size = seen(turned, preprocessing, PlaneChoice())
    np.testing.assert_array_equal(found, expected)
    assert found_size == size


@pytest.mark.parametrize("size", [(90, 131), (37, 37), (1, 70), (160, 200)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gray_that_is_seen_as_rgb_is_resized_once(size: Size, dtype: type[np.generic]) -> None:
    """And is to the last digit what three channels of it are."""
    values = np.random.default_rng(0).integers(0, 256, size).astype(dtype)
    gray, _ = to_pixels(Picture(values), Intensity(mode="min-max"))
    assert np.shares_memory(gray[..., 0], gray[..., 2])
    for min_size in (20, 37, 160):
        preprocessing = Preprocessing(min_size=min_size, max_size=300)
        found, expected = prepare(gray, preprocessing), prepare(np.ascontiguousarray(gray), preprocessing)
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        assert found.pixels.flags.c_contiguous
