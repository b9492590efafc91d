"""GeoJSON, read back by shapely: valid, exactly the mask's pixels, and what QuPath looks for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from shapely.geometry import shape
from skimage.measure import regionprops

from model.runtime.analysis.files import file_of
from model.runtime.analysis.findings import Findings
from model.runtime.images.picture import PixelSize
from model.runtime.images.planes import PlaneAxis
from tests.model.runtime.analysis.found import NAMES, SIZE, Bitmap, filled, found, shapes, without_masks

SHAPES = shapes()


def collection(findings: Findings) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(b"".join(file_of("geojson", findings)))
    assert value["type"] == "FeatureCollection"
    return value


def features(findings: Findings) -> list[dict[str, Any]]:
    return list(collection(findings)["features"])


def check_outline(geometry: dict[str, Any], mask: Bitmap) -> None:
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    outline = shape(geometry)
    assert outline.is_valid
    assert outline.area == np.count_nonzero(mask)
    np.testing.assert_array_equal(filled([ring for part in polygons for ring in part], mask.shape), mask)
    for exterior, *holes in polygons:
        for ring, is_left_turning in ((exterior, True), *((hole, False) for hole in holes)):
            assert ring[0] == ring[-1], "RFC 7946, section 3.1.6: rings are closed"
            assert all(isinstance(number, int) for point in ring for number in point)
            assert shape({"type": "LinearRing", "coordinates": ring}).is_ccw == is_left_turning


@pytest.mark.parametrize("name", SHAPES)
def test_outlines_are_the_masks_to_the_pixel(name: str) -> None:
    (feature,) = features(found(SHAPES[name]))
    check_outline(feature["geometry"], SHAPES[name])
    several = name in ("two parts", "holes that touch and an island", "parts that touch at a corner", "chessboard")
    assert feature["geometry"]["type"] == ("MultiPolygon" if several else "Polygon")


def test_outlines_of_random_masks() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        height, width = generator.integers(1, 14, 2)
        mask = generator.random((height, width)) < generator.uniform(0.2, 0.9)
        for feature in features(found(mask)):
            check_outline(feature["geometry"], mask)


def test_what_qupath_reads_of_an_object() -> None:
    values = np.random.default_rng(0).integers(0, 4096, SIZE, np.uint16)
    masks = [SHAPES["disc"], SHAPES["ring"]]
    findings = found(*masks, values=values, pixel_size=PixelSize(0.5, 0.5, "ome"))
    for row, (feature, mask) in enumerate(zip(features(findings), masks, strict=True)):
        properties = feature["properties"]
        assert feature["type"] == "Feature"
        assert properties["objectType"] == "detection"
        assert properties["name"] == str(row + 1)
        assert properties["classification"]["name"] == NAMES[row]
        color = properties["classification"]["color"]
        assert len(color) == 3
        assert all(0 <= level <= 255 for level in color)
        (expected,) = regionprops(mask.astype(np.uint8), values)
        assert properties["measurements"] == pytest.approx(
            {
                "Score": findings.detections.scores[row],
                "Area px^2": expected.area,
                "Perimeter px": expected.perimeter,
                "Eccentricity": expected.eccentricity,
                "Solidity": expected.solidity,
                "Diameter px": expected.equivalent_diameter_area,
                "Area µm^2": expected.area / 4,
                "Diameter µm": expected.equivalent_diameter_area / 2,
                "Channel 0: mean": expected.intensity_mean,
                "Channel 0: min": expected.intensity_min,
                "Channel 0: max": expected.intensity_max,
            },
            abs=1e-6,
        )


def test_without_the_pixels_size_nothing_is_said_in_micrometers() -> None:
    (feature,) = features(found(SHAPES["disc"]))
    assert not [name for name in feature["properties"]["measurements"] if "µm" in name]


def test_json_has_no_nan() -> None:
    values = np.full(SIZE, np.nan, np.float32)
    (feature,) = features(found(SHAPES["disc"], values=values))
    assert not [name for name in feature["properties"]["measurements"] if "Channel" in name]


def test_without_masks_the_outlines_are_the_boxes() -> None:
    findings = without_masks(found(SHAPES["disc"]))
    (feature,) = features(findings)
    assert shape(feature["geometry"]).bounds == tuple(findings.detections.boxes[0].tolist())
    assert list(feature["properties"]["measurements"]) == ["Score"]


def test_a_mask_without_a_pixel_is_left_out_and_the_others_keep_their_numbers() -> None:
    empty = np.zeros(SIZE, np.bool_)
    for masks, names in (
        ((empty, SHAPES["disc"]), ["2"]),
        ((SHAPES["disc"], empty), ["1"]),
        ((empty,), []),
        ((), []),
    ):
        assert [feature["properties"]["name"] for feature in features(found(*masks))] == names


@pytest.mark.parametrize(
    ("plane", "expected"),
    [
        ((), None),
        ((PlaneAxis("z", 0, 3),), None),
        ((PlaneAxis("channel", 1, 3),), None),
        ((PlaneAxis("z", 2, 3), PlaneAxis("channel", 1, 2)), {"c": -1, "z": 2, "t": 0}),
        ((PlaneAxis("t", 4, 5),), {"c": -1, "z": 0, "t": 4}),
    ],
)
def test_objects_of_a_stack_say_in_which_plane_they_lie(plane: tuple[PlaneAxis, ...], expected: Any) -> None:
    (feature,) = features(found(SHAPES["disc"], plane=plane))
    assert feature["geometry"].get("plane") == expected


def test_that_a_limit_cut_objects_off_is_said() -> None:
    assert collection(found(SHAPES["disc"]))["truncated"] is False
    assert collection(found(SHAPES["disc"], truncated=True))["truncated"] is True
