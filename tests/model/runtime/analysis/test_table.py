"""The table of measurements, read back by csv, against scikit-image's regionprops on the decoded masks."""

from __future__ import annotations

import csv
import math
from io import StringIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import regionprops

from model.runtime.analysis import measurements
from model.runtime.analysis.files import file_of
from model.runtime.analysis.findings import Findings
from model.runtime.images.picture import PixelSize
from tests.model.runtime.analysis.found import NAMES, SIZE, found, shapes, without_masks

SHAPES = shapes()
generator = np.random.default_rng(0)
COLORS = generator.integers(0, 256, (*SIZE, 3), np.uint8)
DEEP = generator.integers(0, 65536, SIZE, np.uint16)
FLOATS = generator.normal(0, 1e3, SIZE).astype(np.float32)
SIGNED = generator.integers(-(2**31), 2**31, SIZE, np.int32)

SHAPE_COLUMNS = ("perimeter", "eccentricity", "solidity", "centroid_x", "centroid_y", "diameter")


def table(findings: Findings) -> list[dict[str, str]]:
    text = b"".join(file_of("csv", findings)).decode()
    return list(csv.DictReader(StringIO(text, newline="")))


@pytest.mark.parametrize("at_once", [measurements.AT_ONCE, 50], ids=["at once", "in parts"])
@pytest.mark.parametrize("values", [COLORS, DEEP, FLOATS, SIGNED], ids=["RGB", "uint16", "float32", "int32"])
def test_measurements_are_regionprops(monkeypatch: pytest.MonkeyPatch, values: NDArray[Any], at_once: int) -> None:
    monkeypatch.setattr(measurements, "AT_ONCE", at_once)
    rows = table(found(*SHAPES.values(), values=values))
    channels = 3 if values.ndim == 3 else 1
    for number, (row, mask) in enumerate(zip(rows, SHAPES.values(), strict=True), 1):
        (expected,) = regionprops(mask.astype(np.uint8), values)
        assert (row["object"], row["area"]) == (str(number), str(int(expected.area)))
        y, x = expected.centroid
        shape = (expected.perimeter, expected.eccentricity, expected.solidity, x, y, expected.equivalent_diameter_area)
        assert [float(row[name]) for name in SHAPE_COLUMNS] == pytest.approx(shape, rel=1e-9, abs=1e-6)
        for what in ("mean", "min", "max"):
            intensities = [float(row[f"intensity_{what}_{channel}"]) for channel in range(channels)]
            wanted = np.atleast_1d(getattr(expected, f"intensity_{what}"))
            # regionprops takes the mean of float32 in float32.
            assert intensities == pytest.approx(wanted.tolist(), rel=1e-5 if values.dtype == np.float32 else 1e-12)


def test_what_is_said_of_the_detections() -> None:
    findings = found(*list(SHAPES.values())[:2])
    rows = table(findings)
    for row, box, score, label in zip(
        rows, findings.detections.boxes, findings.detections.scores, findings.detections.labels, strict=True
    ):
        assert (row["width"], row["height"]) == (str(SIZE[1]), str(SIZE[0]))
        assert (row["label"], row["label_id"]) == (NAMES[label - 1], str(label))
        assert np.float32(row["score"]) == score
        assert [np.float32(row[name]) for name in ("x1", "y1", "x2", "y2")] == box.tolist()
    assert not any(name.startswith("intensity") for name in rows[0])


def test_micrometers_where_the_pixels_size_is_known() -> None:
    square = np.zeros((8, 8), np.bool_)
    square[2:6, 2:6] = True
    (row,) = table(found(square, pixel_size=PixelSize(0.5, 0.25, "ome")))
    assert float(row["area_um2"]) == 2.0
    assert float(row["diameter_um"]) == pytest.approx(math.sqrt(8 / math.pi))
    (unknown,) = table(found(square))
    assert unknown["area_um2"] == unknown["diameter_um"] == ""
    assert list(unknown) == list(row)


def test_a_mask_without_a_pixel_has_a_row_without_a_shape() -> None:
    full, empty = table(found(SHAPES["disc"], np.zeros(SIZE, np.bool_), values=COLORS))
    assert (empty["object"], empty["area"]) == ("2", "0")
    assert all(empty[name] == "" for name in (*SHAPE_COLUMNS[:-1], "intensity_mean_0", "intensity_max_2"))
    assert all(full.values()) or full["area_um2"] == ""


def test_without_masks_the_area_is_the_box_and_nothing_else_is_measured() -> None:
    (row,) = table(without_masks(found(SHAPES["disc"], values=COLORS)))
    x1, y1, x2, y2 = (float(row[name]) for name in ("x1", "y1", "x2", "y2"))
    assert float(row["area"]) == pytest.approx((x2 - x1) * (y2 - y1), abs=1e-3)
    assert all(row[name] == "" for name in (*SHAPE_COLUMNS, "area_um2", "intensity_mean_0"))


@pytest.mark.parametrize("at_once", [measurements.AT_ONCE, 50], ids=["at once", "in parts"])
@pytest.mark.parametrize(
    ("extremes", "told"),
    [
        ((np.nan,), ["nan", "nan", "nan"]),
        ((np.inf,), ["inf", "1.0", "inf"]),
        ((-np.inf, np.inf), ["nan", "-inf", "inf"]),
        ((1.5e308, 1.5e308), ["inf", "1.0", "1.5e+308"]),
    ],
    ids=str,
)
def test_values_that_cannot_be_averaged_are_told(
    monkeypatch: pytest.MonkeyPatch, extremes: tuple[float, ...], told: list[str], at_once: int
) -> None:
    monkeypatch.setattr(measurements, "AT_ONCE", at_once)
    values = np.ones(SIZE)
    for row, extreme in zip((10, 20), extremes, strict=False):
        values[row, 20] = extreme
    (measured,) = table(found(SHAPES["disc"], values=values))
    assert [measured[f"intensity_{what}_0"] for what in ("mean", "min", "max")] == told


def test_many_rows_come_in_pieces_and_none_gives_a_header() -> None:
    mask = SHAPES["one pixel in the last corner"]
    pieces = list(file_of("csv", found(*[mask] * 2500)))
    assert len(pieces) == 3
    assert b"".join(pieces).count(b"\n") == 2501
    assert b"".join(file_of("csv", found(values=COLORS))).count(b"\n") == 1
