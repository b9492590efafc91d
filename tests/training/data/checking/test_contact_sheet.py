from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.training.data.coco_folder import Box, write_split
from training.data.annotations.dataset import Dataset
from training.data.checking.broken import check
from training.data.checking.contact_sheet import CAPTION, CELL, COLUMNS, GAP, TITLE, as_detections, draw_sheet
from training.data.figures import write_figures
from training.data.formats.locate import Origin, locate

RED = np.array([176, 42, 32])


def _cell(sheet: np.ndarray, column: int) -> np.ndarray:
    left = GAP + column * (CELL + GAP)
    return sheet[TITLE + GAP :, left : left + CELL]


def _split(folder: Path, count: int = 3) -> Dataset:
    plain = np.full((100, 200, 3), 128, np.uint8)
    return write_split(folder, "train", [plain] * count, [[Box((20, 20, 60, 60))]] * count, names=("cat",))


def test_a_sheet_is_as_large_as_its_pictures(tmp_path: Path) -> None:
    data = _split(tmp_path, count=9)
    sheet = draw_sheet({"train": data, "val": data}, {"train": [], "val": []}, 5, with_masks=True)
    row = CELL // 2 + CAPTION + GAP  # pictures are twice as wide as high
    assert sheet.shape == (2 * (TITLE + 2 * row) + GAP, GAP + COLUMNS * (CELL + GAP), 3)
    assert sheet.dtype == np.uint8


def test_objects_are_drawn_where_they_are(tmp_path: Path) -> None:
    sheet = draw_sheet({"train": _split(tmp_path)}, {"train": []}, 3, with_masks=True)
    picture = _cell(sheet, 1)[: CELL // 2]
    changed = (picture != 128).any(axis=2)
    scale = CELL / 200
    inside = changed[round(22 * scale) : round(78 * scale), round(22 * scale) : round(78 * scale)]
    assert inside.mean() > 0.99
    assert not changed[:, round(120 * scale) :].any()
    boxes = draw_sheet({"train": _split(tmp_path)}, {"train": []}, 3, with_masks=False)
    assert not (_cell(boxes, 1)[round(40 * scale) : round(60 * scale), round(40 * scale)] != 128).any()


def test_a_broken_image_says_so_in_its_place(tmp_path: Path) -> None:
    data = _split(tmp_path)
    data.images[1].path.unlink()
    problems = check(data)
    sheet = draw_sheet({"train": data}, {"train": problems}, 3, with_masks=True)
    red = [(_cell(sheet, column)[:200] == RED).all(axis=2).sum() for column in range(3)]
    assert red[0] == red[2] == 0
    assert red[1] > 500


def test_broken_images_are_shown_before_others(tmp_path: Path) -> None:
    data = _split(tmp_path, count=20)
    for position in (3, 7):
        data.images[position].path.write_bytes(b"no image")
    sheet = draw_sheet({"train": data}, {"train": check(data)}, 4, with_masks=True)
    assert sum((_cell(sheet, column)[:200] == RED).all(axis=2).any() for column in range(4)) == 2


def test_a_broken_annotation_leaves_the_others(tmp_path: Path) -> None:
    data = write_split(tmp_path, "train", [(200, 200)], [[Box((20, 20, 0, 60)), Box((100, 100, 50, 50))]])
    sheet = draw_sheet({"train": data}, {"train": check(data)}, 1, with_masks=True)
    assert (_cell(sheet, 0)[CELL:] == RED).all(axis=2).any()  # the caption


def test_crowds_boxes_without_masks_and_empty_images_are_drawn(tmp_path: Path) -> None:
    boxes = [[Box((20, 20, 60, 60)), Box((10, 10, 90, 90), crowd=True)], [Box((20, 20, 60, 60), mask=False)], []]
    data = write_split(tmp_path, "train", [(200, 200), (3000, 30), (10, 400)], boxes)
    sheet = draw_sheet({"train": data}, {"train": []}, 12, with_masks=True)
    assert sheet.shape[0] == TITLE + CELL + CAPTION + 2 * GAP


def test_annotations_become_detections_of_the_drawn_size(tmp_path: Path) -> None:
    write_figures(tmp_path / "figures", train=3, val=1, size=96)
    data = locate(Origin(tmp_path / "figures"), "coco_keypoints").read_aligned()["train"]
    record, objects = data.images[0], data.annotations[0]
    found = as_detections(record, objects, (192, 288), with_masks=True)
    np.testing.assert_allclose(found.boxes, objects.boxes * [2, 3, 2, 3])
    assert found.masks is not None
    assert [mask.size for mask in found.masks] == [(288, 192)] * len(objects)
    assert found.keypoints is not None
    assert objects.keypoints is not None
    labeled = objects.keypoints[:, :, 2] > 0
    np.testing.assert_array_equal(found.keypoints[:, :, 2] > 0, labeled)
    np.testing.assert_allclose(found.keypoints[:, :, :2], objects.keypoints[:, :, :2] * [2, 3])
    assert draw_sheet({"train": data}, {"train": []}, 2, with_masks=True).std() > 10
