"""ROIs of ImageJ, read back by roifile from the ZIP: exactly the mask's pixels, named, colored and on their slice."""

from __future__ import annotations

import zipfile
from io import BytesIO

import numpy as np
import pytest
from roifile import ROI_TYPE, ImagejRoi

from model.runtime.analysis.files import file_of
from model.runtime.analysis.findings import Findings
from model.runtime.detections import Detections
from model.runtime.images.planes import PlaneAxis
from model.runtime.kernels.rle import encode_bitmap, place
from tests.model.runtime.analysis.found import SIZE, Bitmap, filled, found, shapes, without_masks

SHAPES = shapes()


def rois(findings: Findings) -> list[ImagejRoi]:
    with zipfile.ZipFile(BytesIO(b"".join(file_of("imagej", findings)))) as archive:
        assert archive.testzip() is None
        read = [ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()]
        assert [f"{roi.name}.roi" for roi in read] == archive.namelist()
    return read


def pixels(roi: ImagejRoi, size: tuple[int, int]) -> Bitmap:
    coordinates = roi.coordinates(multi=True)
    assert isinstance(coordinates, list)
    return filled(coordinates, size)


@pytest.mark.parametrize("name", SHAPES)
def test_rois_are_the_masks_to_the_pixel(name: str) -> None:
    mask = SHAPES[name]
    (roi,) = rois(found(mask))
    np.testing.assert_array_equal(pixels(roi, mask.shape), mask)
    simple = name in ("disc", "one pixel in the last corner", "all")
    assert roi.roitype == (ROI_TYPE.TRACED if simple else ROI_TYPE.RECT)
    assert roi.composite == (not simple)
    ys, xs = np.nonzero(mask)
    reach = 1 if simple else 0  # ImageJ's own writer counts a traced outline's box so
    assert (roi.left, roi.top) == (xs.min(), ys.min())
    assert (roi.right - reach, roi.bottom - reach) == (xs.max() + 1, ys.max() + 1)


def test_rois_of_random_masks() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        height, width = generator.integers(1, 14, 2)
        mask = generator.random((height, width)) < generator.uniform(0.2, 0.9)
        for roi in rois(found(mask)):
            np.testing.assert_array_equal(pixels(roi, mask.shape), mask)


@pytest.mark.parametrize("corner", [(30_000, 32_760), (50_000, 40_000), (10, 65_000)], ids=str)
@pytest.mark.parametrize("name", ["disc", "two parts"])
def test_rois_far_out_in_a_large_picture(name: str, corner: tuple[int, int]) -> None:
    """ImageJ's own numbers have 16 bits."""
    mask, (top, left) = encode_bitmap(SHAPES[name]), corner
    size = (60_000, 70_000)
    seen = found(SHAPES[name]).detections
    detections = Detections(seen.boxes, seen.scores, seen.labels, [place(mask, corner, size)])
    (roi,) = rois(Findings(detections, ("cell",), size))
    coordinates = roi.coordinates(multi=True)
    assert isinstance(coordinates, list)
    moved = [ring.astype(np.int64) - [left, top] for ring in coordinates]
    np.testing.assert_array_equal(filled(moved, SIZE), SHAPES[name])


def test_what_stands_beside_the_outline() -> None:
    first, second = rois(found(SHAPES["disc"], SHAPES["ring"]))
    assert (first.name, second.name) == ("0001-cell", "0002-ring_ broken")
    assert first.properties == {"class": "cell", "score": pytest.approx(0.9)}
    assert second.properties["class"] == "ring, broken"
    assert first.stroke_color[0] == 255
    assert first.stroke_color != second.stroke_color


@pytest.mark.parametrize(
    ("plane", "position", "z", "t"),
    [
        ((), 0, 0, 0),
        ((PlaneAxis("page", 4, 9),), 5, 0, 0),
        ((PlaneAxis("z", 4, 9),), 5, 0, 0),
        ((PlaneAxis("channel", 1, 3),), 0, 0, 0),
        ((PlaneAxis("z", 4, 9), PlaneAxis("channel", 1, 2)), 0, 5, 1),
        ((PlaneAxis("t", 2, 3), PlaneAxis("z", 4, 9)), 0, 5, 3),
    ],
)
def test_rois_of_a_stack_lie_on_their_slice(plane: tuple[PlaneAxis, ...], position: int, z: int, t: int) -> None:
    for roi in rois(found(SHAPES["disc"], SHAPES["ring"], plane=plane)):
        assert (roi.position, roi.c_position, roi.z_position, roi.t_position) == (position, 0, z, t)


def test_without_masks_the_rois_are_the_boxes() -> None:
    findings = without_masks(found(SHAPES["disc"]))
    (roi,) = rois(findings)
    points = np.asarray(roi.coordinates())
    assert [*points.min(0), *points.max(0)] == findings.detections.boxes[0].tolist()


def test_a_mask_without_a_pixel_is_left_out_and_nothing_found_is_an_empty_zip() -> None:
    empty = np.zeros(SIZE, np.bool_)
    assert [roi.name for roi in rois(found(empty, SHAPES["disc"]))] == ["0002-ring_ broken"]
    assert rois(found()) == []


def test_the_same_objects_give_the_same_bytes() -> None:
    findings = found(*SHAPES.values())
    assert b"".join(file_of("imagej", findings)) == b"".join(file_of("imagej", findings))
