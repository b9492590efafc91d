from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from model.runtime.images.errors import DamagedImage, UnknownRange
from model.runtime.images.values import tones
from model.runtime.images.values.intensity import AUTO, Applied, Declared, Intensity, to_uint8
from model.runtime.images.values.tones import summarize

Values = NDArray[Any]


def picture(largest: int = 255, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [96, 128]: a dark ground with noise, and blobs up to `largest`."""
    generator = np.random.default_rng(seed)
    values = generator.integers(2, 8, (96, 128))
    for row in range(8, 96, 24):
        for column in range(8, 128, 24):
            values[row : row + 12, column : column + 12] = generator.integers(largest // 2, largest + 1, (12, 12))
    values[8, 8:11] = largest
    return values.astype(np.uint8)


def in_bits(image: NDArray[np.uint8], bits: int) -> NDArray[np.uint16]:
    values: NDArray[np.uint16] = (image.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
    return values


SAME = picture()


@pytest.mark.parametrize(
    ("values", "white"),
    [
        pytest.param(SAME.astype(np.uint16), 255, id="8 bits in 16"),
        pytest.param(in_bits(SAME, 10), 1023, id="10"),
        pytest.param(in_bits(SAME, 12), 4095, id="12"),
        pytest.param(in_bits(SAME, 12).astype(">u2"), 4095, id="12, the other byte order"),
        pytest.param(in_bits(SAME, 12).astype(np.int16), 4095, id="12, signed"),
        pytest.param(in_bits(SAME, 14), 16383, id="14"),
        pytest.param(in_bits(SAME, 16), 65535, id="16"),
        pytest.param(SAME.astype(np.int32), 255, id="8 in int32"),
        pytest.param(in_bits(SAME, 12).astype(np.uint32), 4095, id="12 in uint32"),
        pytest.param(SAME.astype(np.int64) << 24, 2**32 - 1, id="32 in int64"),
        pytest.param(in_bits(SAME, 12).astype(np.float32), 4095, id="12 as float32"),
        pytest.param(in_bits(SAME, 12).astype(np.float64), 4095, id="12 as float64"),
        pytest.param(SAME.astype(np.float16), 255, id="8 as float16"),
        pytest.param(SAME.astype(np.float32) / 255, 1, id="float32 of 0..1"),
        pytest.param(in_bits(SAME, 12).astype(np.float32) / 65535, 4095 / 65535, id="12 of 16 as float32 of 0..1"),
    ],
)
def test_the_same_picture_in_every_depth_is_the_same(values: Values, white: float) -> None:
    scaled, applied = to_uint8(values)
    assert applied is not None
    assert (applied.mode, applied.low) == ("auto", 0)
    assert applied.high == pytest.approx(white)
    assert np.abs(scaled.astype(int) - SAME).max() <= 1


@pytest.mark.parametrize("offset", [100, 200, 400])
@pytest.mark.parametrize("largest", [255, 130])
def test_a_dark_current_is_taken_away(offset: int, largest: int) -> None:
    image = picture(largest)
    scaled, applied = to_uint8(in_bits(image, 12) + np.uint16(offset))
    assert applied is not None
    assert applied.high - applied.low == pytest.approx(4095, rel=0.07)
    lift = scaled.astype(int) - image
    assert 0 <= np.median(lift) <= 255 / 16  # no more than pictures have without one


def test_faint_pictures_use_the_range_of_the_depth_that_holds_them() -> None:
    """A factor of 4 for each depth, and no more: it is not stretched to the extremes."""
    _, applied = to_uint8(in_bits(picture(50), 12))
    assert applied == Applied("auto", 0, 1023)


def test_bright_ground_stays_bright() -> None:
    slide = np.random.default_rng(0).normal(3500, 10, (64, 64)).astype(np.uint16)
    scaled, _ = to_uint8(slide)
    assert scaled.mean() == pytest.approx(3500 / 4095 * 255, abs=1)
    assert scaled.std() < 1


def test_a_faint_picture_on_a_camera_offset() -> None:
    """What sCMOS cameras write: an offset of 100 counts of 65535, and some hundred above it."""
    scaled, applied = to_uint8(picture(150).astype(np.uint16) + np.uint16(100))
    assert applied is not None
    assert applied.high - applied.low == pytest.approx(255)
    assert np.median(scaled) < 25


@pytest.mark.parametrize("level", [100, 1000, 20000])
def test_noise_is_not_stretched(level: int) -> None:
    noise = np.random.default_rng(0).normal(level, 3, (256, 256)).astype(np.uint16)
    assert to_uint8(noise)[0].std() <= 3.1
    assert to_uint8(noise, Intensity(mode="min-max"))[0].std() > 15  # which is why that is no default


def test_hot_and_dead_pixels_decide_nothing() -> None:
    values = np.tile(in_bits(SAME, 12), (4, 4))
    values[5, 5], values[77, 33], values[0, 0] = 65535, 60000, 0
    _, applied = to_uint8(values)
    assert applied == Applied("auto", 0, 4095)


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        pytest.param(Declared((0, 4095)), ("declared", 0, 4095), id="a range"),
        pytest.param(Declared((100, 3000)), ("declared", 100, 3000), id="a window"),
        pytest.param(Declared(significant_bits=12), ("declared", 0, 4095), id="bits"),
        pytest.param(Declared((0, 1e4), 12), ("declared", 0, 1e4), id="the range says more"),
        pytest.param(Declared(significant_bits=16), ("auto", 0, 1023), id="all bits of the type"),
        pytest.param(Declared((16, 818)), ("auto", 0, 1023), id="the picture's own extremes"),
        pytest.param(Declared((5, 5)), ("auto", 0, 1023), id="no range"),
        pytest.param(Declared((9, 3)), ("auto", 0, 1023), id="upside down"),
        pytest.param(Declared((float("nan"), 3)), ("auto", 0, 1023), id="not a number"),
        pytest.param(Declared((5000, 6000)), ("auto", 0, 1023), id="above all values"),
        pytest.param(Declared((-6, -3)), ("auto", 0, 1023), id="below all values"),
        pytest.param(Declared(significant_bits=9), ("declared", 0, 65535), id="PNG's bits, which are the upper ones"),
        pytest.param(Declared(significant_bits=0), ("auto", 0, 1023), id="no bits"),
        pytest.param(Declared(significant_bits=99), ("auto", 0, 1023), id="more bits than there are"),
    ],
)
def test_what_the_file_declares_counts(declared: Declared, expected: tuple[str, float, float]) -> None:
    values = np.clip(in_bits(picture(51), 12), 16, 818)
    values[0, :2] = 16, 818
    _, applied = to_uint8(values, AUTO, declared)
    assert applied is not None
    assert (applied.mode, applied.low, applied.high) == expected


def test_8_bits_are_untouched_unless_asked() -> None:
    assert to_uint8(SAME, AUTO, Declared((0, 99), 7)) == (SAME, None)
    scaled, applied = to_uint8(SAME, Intensity(mode="full-range"))
    np.testing.assert_array_equal(scaled, SAME)
    assert applied == Applied("full-range", 0, 255)
    scaled, applied = to_uint8(picture(60), Intensity(mode="min-max"))
    assert applied == Applied("min-max", 2, 60)
    assert (scaled.min(), scaled.max()) == (0, 255)


RAMP = np.arange(0, 5000, dtype=np.uint16).reshape(50, 100)


@pytest.mark.parametrize(
    ("intensity", "values", "low", "high"),
    [
        (Intensity(mode="full-range"), RAMP, 0, 65535),
        (Intensity(mode="full-range"), RAMP.astype(np.int16), 0, 32767),
        (Intensity(mode="full-range"), RAMP.astype(np.int16) - 10, -32768, 32767),
        (Intensity(mode="full-range"), RAMP.astype(np.int32), 0, 65535),
        (Intensity(mode="full-range"), RAMP / 5000, 0, 1),
        (Intensity(mode="full-range", high=4095), RAMP, 0, 4095),
        (Intensity(mode="full-range", low=100), RAMP, 100, 65535),
        (Intensity(mode="full-range", low=-5.5, high=300), RAMP * 1.0, -5.5, 300),
        (Intensity(mode="min-max"), RAMP[1:], 100, 4999),
        (Intensity(mode="percentile"), RAMP, *np.percentile(RAMP, [0.1, 99.9])),
        (Intensity(mode="percentile", low=2, high=75.5), RAMP, *np.percentile(RAMP, [2, 75.5])),
        (Intensity(mode="percentile", low=2, high=75.5), RAMP / 7, *np.percentile(RAMP / 7, [2, 75.5])),
        (Intensity(mode="percentile", low=0, high=100), RAMP.astype(np.int32), 0, 4999),
        (
            Intensity(mode="percentile"),
            np.pad(np.array([[9]], np.uint16), 60),
            0,
            9,
        ),  # else the one that matters were lost
    ],
)
def test_what_is_asked_for_is_done(intensity: Intensity, values: Values, low: float, high: float) -> None:
    scaled, applied = to_uint8(values, intensity)
    assert applied is not None
    assert applied.mode == str(intensity.mode)
    assert [applied.low, applied.high] == pytest.approx([low, high])
    expected = np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255
    assert np.abs(scaled - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"low": 5}, "low and high do not go with auto"),
        ({"mode": "min-max", "high": 5}, "low and high do not go with min-max"),
        ({"mode": "full-range", "low": 5, "high": 5}, "must be less than high"),
        ({"mode": "full-range", "high": -1}, "must be less than high"),
        ({"mode": "percentile", "low": 99.95}, "must be percentiles"),
        ({"mode": "percentile", "low": -1}, "must be percentiles"),
        ({"mode": "percentile", "high": 101}, "must be percentiles"),
        ({"mode": "full-range", "low": float("nan")}, "finite"),
        ({"mode": "percentile", "high": float("inf")}, "finite"),
        ({"mode": "gamma"}, "auto"),
    ],
)
def test_contradictions_are_refused(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Intensity.model_validate(wish)


@pytest.mark.parametrize(
    ("intensity", "values", "words"),
    [
        (Intensity(mode="full-range"), RAMP * 1.5, "float64 have no full range; give high"),
        (Intensity(mode="full-range"), RAMP.astype(np.int32) * 99, "int32 have no full range"),
        (Intensity(mode="full-range"), RAMP.astype(np.int32) - 1, "from -1 to 4998"),
        (Intensity(mode="full-range", low=70000), RAMP, "not below the largest value"),
    ],
)
def test_a_range_that_nobody_knows_is_refused(intensity: Intensity, values: Values, words: str) -> None:
    with pytest.raises(UnknownRange, match=words):
        to_uint8(values, intensity)


def test_values_that_are_not_finite_are_said_and_decide_nothing() -> None:
    values = SAME.astype(np.float32) * 16
    values[0, :3] = np.nan, np.inf, -np.inf
    scaled, applied = to_uint8(values)
    assert applied == Applied("auto", 0, 4095, not_finite=3)
    assert scaled[0, :3].tolist() == [0, 255, 0]
    with pytest.raises(DamagedImage, match="no finite value"):
        to_uint8(np.full((4, 4), np.nan))


@pytest.mark.parametrize("values", [np.zeros((3, 3), bool), np.zeros((3, 3), complex), np.zeros((0, 3), np.uint16)])
def test_other_values_are_no_picture(values: Values) -> None:
    with pytest.raises(TypeError, match="integers or floats"):
        to_uint8(values)


@pytest.mark.parametrize(
    "values",
    [
        np.full((5, 5), 7, np.uint16),
        np.full((5, 5), -3.5),
        np.zeros((1, 1), np.float32),
        np.full((4, 4), 1.7e308),
        np.array([[-1.7e308, 1.7e308]]),
        np.array([[5e-324, 1e-300]]),
        np.array([[-(2**63), 2**63 - 1]]),
        np.array([[0, 2**64 - 1]], np.uint64),
    ],
)
@pytest.mark.parametrize("mode", ["auto", "min-max", "percentile"])
def test_odd_pictures_have_a_window(values: Values, mode: Any) -> None:
    scaled, applied = to_uint8(values, Intensity(mode=mode))
    assert applied is not None
    assert np.isfinite([applied.low, applied.high]).all()
    assert scaled.shape == values.shape


@pytest.mark.parametrize("wish", [{}, {"mode": "min-max"}, {"low": -1.7e308, "high": 1.7e308, "mode": "full-range"}])
def test_windows_wider_than_the_largest_float_are_scaled_too(wish: dict[str, Any]) -> None:
    values = np.array([[-1.7e308, -0.85e308, 0.0, 1.7e308]])
    scaled, applied = to_uint8(values, Intensity(**wish))
    assert scaled.tolist() == [[0, 64, 128, 255]]
    assert applied is not None
    assert (applied.low, applied.high) == (-1.7e308, 1.7e308)


def test_colors_do_not_shift() -> None:
    """All channels by one window: what is twice as bright stays so."""
    image = np.stack([picture(200), picture(100), picture(50)], axis=2)
    scaled, _ = to_uint8(in_bits(image, 14))
    assert np.abs(scaled.astype(int) - image).max() <= 1


def test_wide_values_are_read_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands and samples change nothing but the percentiles, and those hardly."""
    values = np.random.default_rng(0).gamma(2, 400, (300, 200, 3)).astype(np.float32)
    whole, exact = to_uint8(values)[0], summarize(values)
    monkeypatch.setattr(tones, "BAND", 7001)
    np.testing.assert_array_equal(to_uint8(values)[0], whole)
    monkeypatch.setattr(tones, "SAMPLE", 20_000)
    sampled = summarize(values)
    assert (sampled.least, sampled.largest) == (exact.least, exact.largest)
    assert len(sampled.ordered) == pytest.approx(20_000, rel=0.01)
    assert sampled.percentile(50) == pytest.approx(exact.percentile(50), rel=0.03)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_memory_is_bounded(dtype: type) -> None:
    """No float64 of the whole picture, which would take 8 bytes a value."""
    values: Values = np.arange(6_000_000, dtype=dtype).reshape(2000, 3000)
    tracemalloc.start()
    try:
        to_uint8(values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < values.size + 5 * 2**20 * 8 + (0 if dtype is np.uint16 else 3 * tones.SAMPLE * 8)
