"""COCO files of numbers in another form: where most show it, the file is refused by the form's name; where some do,
they are broken records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.formats import tool_folders
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.checking.broken import check
from training.data.formats.locate import Origin, locate

WIDTH, HEIGHT = 96, 80
BOXES = ((35, 10, 21, 18), (12, 22, 28, 15), (62, 29, 26, 19), (40, 50, 30, 12), (8, 44, 15, 28))
Record = dict[str, Any]


def read(folder: Path, *records: Record, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Dataset:
    """A dataset of these records on one image of (width, height)."""
    tool_folders.pictures(folder, "a.png")
    tool_folders.Image.new("RGB", size).save(folder / "a.png")
    fixed = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    tool_folders.coco(
        folder / "labels.json",
        [],
        images=[{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}],
        annotations=[{"id": number} | fixed | record for number, record in enumerate(records, 1)],
    )
    return locate(Origin(folder)).read()["train"]


def polygon(x: float, y: float, width: float, height: float) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def runs(pixels: np.ndarray) -> list[int]:
    """Lengths of alternating runs along the rows of bool [H, W], of zeros first."""
    edges = np.flatnonzero(np.diff(pixels.ravel().astype(int))) + 1
    counts = np.diff([0, *edges.tolist(), pixels.size]).tolist()
    return [0, *counts] if pixels.flat[0] else counts


def rle(box: tuple[int, ...], size: tuple[int, int], *, by_row: bool) -> Record:
    x, y, width, height = box
    pixels = np.zeros(size[::-1], bool)
    pixels[y : y + height, x : x + width] = True
    return {"size": [size[1], size[0]], "counts": runs(pixels if by_row else pixels.T)}


def corners(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y + height]


def centers(x: float, y: float, width: float, height: float) -> list[float]:
    return [x + width / 2, y + height / 2, width, height]


def swapped(x: float, y: float, width: float, height: float) -> list[float]:
    return [y, x, height, width]


@pytest.mark.parametrize("wrong", [1, 2])
@pytest.mark.parametrize(
    ("form", "name"),
    [
        pytest.param(corners, "x1, y1, x2, y2", id="corners"),
        pytest.param(centers, "center x, center y, width, height", id="centers"),
        pytest.param(swapped, "y, x, height, width", id="rows before columns"),
    ],
)
def test_some_boxes_of_another_form_are_broken_records(
    tmp_path: Path, form: Callable[..., list[float]], name: str, wrong: int
) -> None:
    records = [
        {"bbox": form(*box) if number < wrong else list(box), "segmentation": polygon(*box)}
        for number, box in enumerate(BOXES)
    ]
    problems = check(read(tmp_path, *records))
    assert sorted((problem.kind, problem.annotation_id) for problem in problems) == [
        ("box off mask", number) for number in range(1, wrong + 1)
    ]
    assert all(name in problem.message for problem in problems)


@pytest.mark.parametrize(
    "inset", [pytest.param(0.25, id="half of each side"), pytest.param(0.35, id="a third of each side")]
)
def test_boxes_of_the_middle_of_their_masks_are_broken_records(tmp_path: Path, inset: float) -> None:
    records = [
        {
            "bbox": [x + inset * w, y + inset * h, w - 2 * inset * w, h - 2 * inset * h],
            "segmentation": polygon(x, y, w, h),
        }
        for x, y, w, h in BOXES
    ]
    assert [problem.kind for problem in check(read(tmp_path, *records))] == ["box off mask"] * len(BOXES)


def test_boxes_of_hidden_parts_are_kept_and_said(tmp_path: Path) -> None:
    records = [
        {"bbox": [max(0, x - 8), max(0, y - 8), w + 16, h + 16], "segmentation": polygon(x, y, w, h)}
        for x, y, w, h in BOXES[:4]
    ]
    data = read(tmp_path, *records)
    assert check(data) == []
    assert data.notes == (
        "4 boxes are more than twice as large as their masks, and are kept; first: box [27, 2, 37, 34] of the mask in "
        "[35, 10, 21, 18] (x, y, width, height)",
    )


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("count", [3, 5])
def test_polygons_in_shares_of_the_sides_are_refused(tmp_path: Path, count: int, boxed: bool) -> None:
    sides = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    records = []
    for box in BOXES[:count]:
        record: Record = {"segmentation": polygon(*(np.array(box) / sides).tolist())}
        records.append(record | ({"bbox": list(box)} if boxed else {}))
    with pytest.raises(DatasetError, match=rf"polygons are shares of the image's sides \(0 to 1\), as {count} of"):
        read(tmp_path, *records)


def test_a_single_polygon_in_shares_of_the_sides_is_told(tmp_path: Path) -> None:
    records = [{"bbox": list(box), "segmentation": polygon(*box)} for box in BOXES]
    records[1]["segmentation"] = polygon(0.1, 0.1, 0.3, 0.3)
    problems = check(read(tmp_path, *records))
    assert "between 0 and 1, as shares" in next(one.message for one in problems if one.kind == "empty mask")
    assert {problem.annotation_id for problem in problems} == {2}


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("size", [(96, 80), (80, 96), (200, 90)])
def test_rles_row_by_row_are_refused(tmp_path: Path, size: tuple[int, int], boxed: bool) -> None:
    boxes = BOXES[:3] if size[0] > 80 else [(8, 12, 28, 25), (30, 50, 21, 18), (40, 10, 26, 19)]

    def records(*, by_row: bool) -> list[Record]:
        return [
            {"segmentation": rle(box, size, by_row=by_row)} | ({"bbox": list(box)} if boxed else {}) for box in boxes
        ]

    assert check(read(tmp_path, *records(by_row=False), size=size)) == []
    with pytest.raises(DatasetError, match="its RLEs are row by row, as 3 of 3 show"):
        read(tmp_path, *records(by_row=True), size=size)


def test_square_images_need_boxes_to_tell_rows_from_columns(tmp_path: Path) -> None:
    boxes = ((10, 50, 20, 14), (60, 8, 12, 30), (5, 30, 40, 9))
    records = [{"segmentation": rle(box, (90, 90), by_row=True), "bbox": list(box)} for box in boxes]
    with pytest.raises(DatasetError, match="row by row"):
        read(tmp_path, *records, size=(90, 90))


def test_masks_that_span_the_image_are_no_other_form(tmp_path: Path) -> None:
    boxes = ((0, 0, 96, 80), (0, 40, 96, 10), (30, 0, 20, 80), (0, 0, 1, 1), (95, 79, 1, 1))
    records = [{"segmentation": rle(box, (WIDTH, HEIGHT), by_row=False)} for box in boxes]
    assert check(read(tmp_path, *records)) == []


RING = np.reshape(polygon(35, 10, 21, 18), (-1, 2)).tolist()
SECOND = np.reshape(polygon(5, 5, 9, 8), (-1, 2)).tolist()


@pytest.mark.parametrize(
    ("segmentation", "pixels"),
    [
        pytest.param(RING, 21 * 18, id="pairs"),
        pytest.param([RING], 21 * 18, id="a list of pairs in a list"),
        pytest.param([RING, SECOND], 21 * 18 + 72, id="two parts of pairs"),
        pytest.param([RING, np.ravel(SECOND).tolist()], 21 * 18 + 72, id="both ways"),
        pytest.param([np.ravel(RING).tolist(), [3, 4]], 21 * 18, id="a stray point beside an outline"),
    ],
)
def test_points_may_be_pairs(tmp_path: Path, segmentation: list[Any], pixels: int) -> None:
    data = read(tmp_path, {"segmentation": segmentation})
    assert check(data) == []
    assert data.annotations[0].masks(HEIGHT, WIDTH).sum() == pixels


@pytest.mark.parametrize("segmentation", [[[3, 4]], [[3, 4], [5, 6]], [[[3, 4, 5], [6, 7, 8], [9, 1, 2]]]])
def test_what_is_no_outline_of_pairs_stays_broken(tmp_path: Path, segmentation: list[Any]) -> None:
    assert [problem.kind for problem in read(tmp_path, {"segmentation": segmentation}).problems] == ["bad polygon"]
