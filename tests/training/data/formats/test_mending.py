"""The same fault in any format: mended alike, and said alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data.formats import samples, tool_folders
from tests.training.data.formats.samples import HEIGHT, WIDTH, masks_of, region, shape, yolo_line
from training.data.checking.broken import check
from training.data.formats.locate import Origin, locate

CUT = "outline cut at the picture's edge"
Points = list[list[float]]


def coco(folder: Path, points: Points, orientation: int) -> None:
    samples.write_image(folder / "images/a.jpg", orientation)
    size = {"width": HEIGHT, "height": WIDTH} if orientation > 4 else {"width": WIDTH, "height": HEIGHT}
    tool_folders.coco(
        folder / "labels.json",
        [],
        images=[{"id": 1, "file_name": "a.jpg"} | size],
        annotations=[{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [np.ravel(points).tolist()]}],
    )


def labelme(folder: Path, points: Points, orientation: int) -> None:
    samples.labelme(folder, shape(points=points), orientation=orientation)


def via(folder: Path, points: Points, orientation: int) -> None:
    xs, ys = np.transpose(points).tolist()
    samples.via(folder, region(name="polygon", all_points_x=xs, all_points_y=ys), orientation=orientation)


def yolo(folder: Path, points: Points, orientation: int) -> None:
    sides = (HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT)
    samples.yolo(folder, yolo_line(0, points, *sides), orientation=orientation)


FORMATS = {"coco": coco, "labelme": labelme, "via": via, "yolo": yolo}
Write = Callable[[Path, Points, int], None]


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("points", "pixels", "cuts"),
    [
        pytest.param([[2, 1], [12, 1], [12, 9], [2, 9]], 80, 0, id="inside"),
        pytest.param([[-0.6, -0.6], [12, -0.6], [12, 9], [-0.6, 9]], 108, 0, id="rounding is no fault"),
        pytest.param([[-4, 1], [12, 1], [12, 9], [-4, 9]], 96, 1, id="left"),
        pytest.param([[2, -5], [12, -5], [12, 9], [2, 9]], 90, 1, id="above"),
        pytest.param([[4, 4], [29, 4], [29, 25], [4, 25]], None, 1, id="right or below"),
        pytest.param([[-5, -5], [29, -5], [29, 29], [-5, 29]], None, 1, id="all around"),
    ],
)
def test_an_outline_cut_at_the_edge_is_said(
    tmp_path: Path, write: Write, orientation: int, points: Points, pixels: int | None, cuts: int
) -> None:
    write(tmp_path, points, orientation)
    data = locate(Origin(tmp_path)).read()["train"]
    assert [(repair.kind, repair.count) for repair in data.repairs if repair.kind == CUT] == [(CUT, 1)] * cuts
    assert check(data) == []
    if pixels is not None:
        assert masks_of(data).sum() == pixels


@pytest.mark.parametrize(
    ("write", "cuts"),
    [
        pytest.param(
            lambda folder: samples.labelme(folder, shape(points=[[-4, -3], [9, 9]], shape_type="rectangle")),
            1,
            id="LabelMe's rectangle",
        ),
        pytest.param(
            lambda folder: samples.labelme(folder, shape(points=[[2, 9], [7, 9]], shape_type="circle")),
            1,
            id="LabelMe's circle",
        ),
        pytest.param(
            lambda folder: samples.labelme(
                folder,
                shape(points=[[-4, 1], [9, 1], [9, 9]], group_id=1),
                shape(points=[[40, 1], [29, 1], [29, 9]], group_id=1),
            ),
            1,
            id="a group is one object",
        ),
        pytest.param(
            lambda folder: samples.via(folder, region(name="rect", x=-4, y=-4, width=20, height=15)), 1, id="VIA's rect"
        ),
        pytest.param(lambda folder: samples.via(folder, region(name="circle", cx=2, cy=9, r=6)), 1, id="VIA's circle"),
        pytest.param(
            lambda folder: samples.via(folder, region(name="ellipse", cx=28, cy=9, rx=6, ry=3)), 1, id="VIA's ellipse"
        ),
        pytest.param(
            lambda folder: samples.yolo(folder, "0 -0.1 0.1 0.3 0.1 0.3 0.5\n1 0.9 0.1 1.3 0.1 1.3 0.5\n"),
            2,
            id="two lines",
        ),
    ],
)
def test_every_shape_that_is_cut_is_counted(tmp_path: Path, write: Callable[[Path], Any], cuts: int) -> None:
    write(tmp_path)
    data = locate(Origin(tmp_path)).read()["train"]
    assert [(repair.kind, repair.count) for repair in data.repairs] == [(CUT, cuts)]
