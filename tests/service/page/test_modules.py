"""The page's modules do as their Python counterparts: RLE, outlines, colors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from model.runtime.detections import RLE
from model.runtime.kernels.masks import to_polygons
from model.runtime.overlay import PALETTE, _tell_apart, _whole_pixels
from tests.service.harness import Server
from tests.service.page.visitor import Visit, Visitor

Encoded = dict[str, Any]


def masks() -> dict[str, NDArray[np.uint8]]:
    """uint8 [H, W] each, what goes wrong easily among them."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:60, :90]
    ring = (np.hypot(x - 40, y - 30) < 20) & (np.hypot(x - 42, y - 28) > 8)
    shapes = {
        "empty": np.zeros((5, 7)),
        "full": np.ones((5, 7)),
        "one pixel, the last": np.eye(6)[:, ::-1] * (np.arange(6) == 0)[:, None],
        "diagonal": np.eye(6),
        "ring": ring,
        "two parts": (x < 10) | (x > 80),
        "noise": generator.random((23, 31)) < 0.5,
        "one row": np.ones((1, 40)) * (np.arange(40) % 3 > 0),
        "one column": np.ones((40, 1)),
        "long runs": np.pad(np.ones((2, 900)), ((0, 1500), (800, 0))),
    }
    return {name: shape.astype(np.uint8) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def rles() -> dict[str, Encoded]:
    encoded = {name: coco_mask.encode(np.asfortranarray(mask)) for name, mask in masks().items()}
    return {name: {"size": rle["size"], "counts": rle["counts"].decode()} for name, rle in encoded.items()}


def test_masks_are_decoded_as_pycocotools_does(visit: Visit, server: Server, rles: dict[str, Encoded]) -> None:
    visitor = visit(server)
    for name, mask in masks().items():
        runs = visitor.call("rle.js", "unpack", rles[name])
        cut = visitor.call("rle.js", "cutOut", runs, len(mask))
        decoded = np.zeros_like(mask)
        if cut is not None:
            rows, columns = slice(cut["y"], cut["y"] + cut["height"]), slice(cut["x"], cut["x"] + cut["width"])
            decoded[rows, columns] = np.array(cut["bits"]).reshape(cut["height"], cut["width"])
            tight = decoded[rows, columns]
            assert all(edge.any() for edge in (tight[0], tight[-1], tight[:, 0], tight[:, -1])), name
        np.testing.assert_array_equal(decoded, mask, name)
        moments = visitor.call("rle.js", "moments", runs, len(mask))
        assert moments["area"] == mask.sum()
        if mask.any():
            y, x = np.nonzero(mask)
            assert moments["x"] == pytest.approx(x.mean() + 0.5)
            assert moments["y"] == pytest.approx(y.mean() + 0.5)


MALFORMED = {
    "a character out of range": ("05\x1f", "malformed at character 3"),
    "cut off": ("o", "malformed at character 1"),
    "too short": ("5", "covers 5 of 35"),
    "too long": ("5o1", "run 1 of the RLE leaves"),
    "a negative run": ("5O", "run 1 of the RLE leaves"),
}


def test_malformed_masks_are_refused(visit: Visit, server: Server) -> None:
    visitor = visit(server)
    for case, (counts, words) in MALFORMED.items():
        assert words in visitor.call("rle.js", "unpack", {"size": [5, 7], "counts": counts}), case


def test_outlines_hold_exactly_the_mask(visit: Visit, server: Server, rles: dict[str, Encoded]) -> None:
    visitor = visit(server)
    for name, mask in masks().items():
        rings = trace(visitor, rles[name])
        np.testing.assert_array_equal(filled(rings, *mask.shape), mask, name)
        # Where parts and holes that touch at a corner alone can be cut in several ways, the server may do it otherwise.
        if name != "noise":
            parts = to_polygons(RLE(mask.shape, rles[name]["counts"].encode()))
            outer = visitor.call("outline.js", "toPolygons", rings)
            assert sorted(map(corners, outer)) == sorted(corners(part[0]) for part in parts), name


def trace(visitor: Visitor, rle: Encoded) -> list[list[float]]:
    cut = visitor.call("rle.js", "cutOut", visitor.call("rle.js", "unpack", rle), rle["size"][0])
    return list(visitor.call("outline.js", "traceRings", cut)) if cut else []


def filled(rings: list[list[float]], height: int, width: int) -> NDArray[np.uint8]:
    """Pixels inside an odd number of rings along pixel edges."""
    crossings = np.zeros((height, width + 1), np.uint8)
    for ring in rings:
        points = np.array(ring, int).reshape(-1, 2)
        for (x, y), (_, next_y) in zip(points, np.roll(points, -1, axis=0), strict=True):
            crossings[min(y, next_y) : max(y, next_y), x] ^= 1
    return np.bitwise_xor.accumulate(crossings, axis=1)[:, :width]


def corners(ring: list[float]) -> list[tuple[float, float]]:
    return sorted(zip(ring[0::2], ring[1::2], strict=True))


def test_objects_have_the_colors_that_the_server_draws_them_in(visit: Visit, server: Server) -> None:
    visitor = visit(server)
    generator = np.random.default_rng(0)
    for case, count, sizes in (
        ("none", 0, [1.0]),
        ("fewer than colors", 3, [20.0]),
        ("many that overlap", 60, [60.0]),
        ("some far apart, some over everything", 400, [3.0, 8.0, 200.0]),
    ):
        first = generator.uniform(-5, 190, (count, 2))
        sides = generator.uniform(0, 1, (count, 2)) * generator.choice(sizes, (count, 1))
        boxes = np.concatenate([first, first + sides], axis=1).astype(np.float32)
        groups = visitor.call("neighbors.js", "tellApart", boxes.tolist(), 200, 180, len(PALETTE))
        assert groups == _tell_apart(_whole_pixels(boxes, 200, 180)).tolist(), case
    assert visitor.call("scene.js", "PALETTE") == [list(color) for color in PALETTE]


BINS = {
    "one value": ([7], 7, 1, [1]),
    "equal values": ([5, 5, 5], 5, 1, [3]),
    "the last bin holds its upper edge": ([0, 10, 20, 30], 0, 10, [1, 1, 2]),
    "round bins": ([21, 1062], 0, 500, [1, 0, 1]),
}


def test_histograms_have_round_bins(visit: Visit, server: Server) -> None:
    visitor = visit(server)
    for case, (values, start, width, counts) in BINS.items():
        found = visitor.call("measure.js", "histogram", values, 3)
        assert found == {"start": start, "width": width, "counts": counts}, case


def test_histograms_are_of_any_number_of_values(visit: Visit, server: Server) -> None:
    """More than a call takes arguments."""
    counts = visit(server).page.evaluate(
        """async () => {
            const { histogram } = await import("/page/measure.js");
            return histogram(Array.from({ length: 500_000 }, (_, i) => i % 1000), 10).counts;
        }"""
    )
    assert counts == [50_000] * 10


def test_bins_are_as_narrow_as_values_in_micrometers_differ(visit: Visit, server: Server) -> None:
    values = [0.1056 * pixels for pixels in (2, 3, 3, 5)]
    found = visit(server).call("measure.js", "histogram", values, 12, 0.1056)
    assert found["width"] == pytest.approx(0.2)
    assert sum(found["counts"]) == 4


def test_objects_of_a_tall_picture_are_pointed_at_and_cover_what_they_cover(visit: Visit, server: Server) -> None:
    height, width = 1300, 60
    y, x = np.mgrid[:height, :width]
    shapes = [  # across the bands that are looked at together, over one another, far from their boxes, and none
        np.hypot(x - 30, (y - 600) / 10) < 25,
        (y > 500) & (y < 530) & (x < 40),
        (np.hypot(x - 20, y - 1030) < 15) & (np.hypot(x - 20, y - 1030) > 5),
        y < 0,
    ]
    rles = [coco_mask.encode(np.asfortranarray(shape.astype(np.uint8))) for shape in shapes]
    found = {
        "image": {"width": width, "height": height},
        "boxes": [[0, 0, 10, 10]] * len(shapes),
        "labels": ["cell"] * len(shapes),
        "label_ids": [1] * len(shapes),
        "scores": [0.9] * len(shapes),
        "masks": [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in rles],
    }
    points = [(30, 600), (30, 515), (5, 515), (20, 1030), (30, 1035), (5, 5), (30, 840)]
    covered, hits = visit(server).page.evaluate(
        """async ([answer, points]) => {
            const { buildScene, objectAt } = await import("/page/scene.js");
            const { coveredPixels } = await import("/page/measure.js");
            const { objects, width, height } = buildScene(answer, 1);
            const hits = points.map(([x, y]) => objectAt(objects, x + 0.5, y + 0.5)?.index ?? null);
            return [coveredPixels(objects, width, height), hits];
        }""",
        [found, points],
    )
    assert covered == np.any(shapes, axis=0).sum()
    areas = [shape.sum() for shape in shapes]
    expected = [
        min((row for row, shape in enumerate(shapes) if shape[py, px]), key=lambda row: areas[row], default=None)
        for px, py in points
    ]
    # An object without a pixel has nothing but its box to be pointed at.
    expected[points.index((5, 5))] = 3
    assert hits == expected
