"""COCO records as annotation tools and scripts write them: what is mended, and what is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference

from training.data.annotations.dataset import Dataset, DatasetError
from training.data.formats.coco.reader import load_coco

NAN = float("nan")
BOXES = [(3, 2, 10, 8), (20, 4, 9, 12), (11, 21, 14, 6)]
"""Those of the three objects, whose masks are rectangles of the same sides, in an image of 40x30 pixels."""


def _ring(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _document(*changes: dict[str, Any], categories: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Three objects; changes[i] changes the i-th, where ... takes a key away."""
    annotations = []
    for number, box in enumerate(BOXES):
        record = {"id": number + 1, "image_id": 1, "category_id": 1, "iscrowd": 0}
        record |= {"bbox": list(box), "segmentation": [_ring(*box)]}
        record |= changes[number] if number < len(changes) else {}
        annotations.append({key: value for key, value in record.items() if value is not ...})
    images = [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}]
    return {"images": images, "annotations": annotations, "categories": categories or [{"id": 1, "name": "thing"}]}


def _load(folder: Path, document: dict[str, Any]) -> Dataset:
    path = folder / "instances_train.json"
    path.write_text(json.dumps(document))
    return load_coco(path, folder)


def _rle(x: int, y: int, width: int, height: int) -> dict[str, Any]:
    mask = np.zeros((30, 40), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    return {"size": [30, 40], "counts": reference.encode(mask)["counts"].decode()}


@pytest.mark.parametrize(
    ("changes", "repairs"),
    [
        pytest.param({}, [], id="sound"),
        pytest.param({"bbox": ...}, ["box taken from the mask"], id="no bbox"),
        pytest.param({"bbox": None}, ["box taken from the mask"], id="bbox is null"),
        pytest.param({"bbox": []}, ["box taken from the mask"], id="bbox is an empty list"),
        pytest.param({"bbox": [0, 0, 0, 0]}, ["box taken from the mask"], id="bbox of zeros"),
        pytest.param({"bbox": [NAN, 2, 10, 8]}, ["box taken from the mask"], id="NaN in the bbox"),
        pytest.param({"bbox": [3, 2, 10]}, ["box taken from the mask"], id="bbox of three numbers"),
        pytest.param({"bbox": ["3", "2", "10", "8"]}, ["box taken from the mask"], id="bbox of texts"),
        pytest.param({"segmentation": [_ring(*BOXES[0]), [9.0, 9.0]]}, ["part of an outline left out"], id="a point"),
        pytest.param({"segmentation": [[], _ring(*BOXES[0])]}, ["part of an outline left out"], id="an empty part"),
        pytest.param({"segmentation": [_ring(*BOXES[0]), [1] * 7]}, ["part of an outline left out"], id="an odd part"),
        pytest.param({"segmentation": [_ring(*BOXES[0]), "x"]}, ["part of an outline left out"], id="a text"),
        pytest.param(
            {"segmentation": [_ring(*BOXES[0]), [1, 1, NAN, 2, 3, 3]]}, ["part of an outline left out"], id="NaN"
        ),
        pytest.param({"segmentation": _ring(*BOXES[0])}, [], id="a polygon without the list around it"),
        pytest.param({"segmentation": _rle(*BOXES[0])}, [], id="an RLE"),
        pytest.param({"segmentation": [_rle(*BOXES[0])]}, [], id="an RLE in a list"),
        pytest.param({"segmentation": [_rle(3, 2, 4, 8), _rle(7, 2, 6, 8)]}, [], id="an object of two RLEs"),
        pytest.param(
            {"segmentation": _rle(*BOXES[0]) | {"counts": str(_rle(*BOXES[0])["counts"].encode())}},
            [],
            id="an RLE printed as bytes",
        ),
        pytest.param({"id": ...}, ["annotation numbered anew"], id="no id"),
        pytest.param({"id": 2}, ["annotation numbered anew"], id="the id of another"),
        pytest.param({"id": "1", "image_id": "1", "category_id": "1"}, [], id="ids as texts"),
        pytest.param({"id": 1.0, "image_id": 1.0, "category_id": 1.0}, [], id="ids as floats"),
        pytest.param({"area": NAN}, [], id="area is NaN"),
        pytest.param({"area": 0}, [], id="area is 0"),
        pytest.param({"area": None}, [], id="area is null"),
    ],
)
def test_a_fault_beside_a_good_mask_costs_nothing(tmp_path: Path, changes: dict[str, Any], repairs: list[str]) -> None:
    data = _load(tmp_path, _document(changes))
    assert data.problems == ()
    assert [repair.kind for repair in data.repairs] == repairs
    objects = data.annotations[0]
    assert objects.xywh.tolist() == [list(box) for box in BOXES]
    assert objects.area.tolist() == [80, 108, 84]
    assert len(set(objects.ids.tolist())) == 3
    for mask, (x, y, width, height) in zip(objects.masks(30, 40), BOXES, strict=True):
        assert mask.sum() == mask[y : y + height, x : x + width].sum() == width * height


@pytest.mark.parametrize(
    ("value", "crowd"),
    [
        *((value, False) for value in (..., None, False, 0, 0.0, "0", "false", "")),
        *((value, True) for value in (True, 1, 1.0, "1", "True")),
    ],
)
def test_iscrowd_as_it_is_written(tmp_path: Path, value: Any, crowd: bool) -> None:
    data = _load(tmp_path, _document({"iscrowd": value}))
    assert data.problems == ()
    assert data.annotations[0].crowd.tolist() == [crowd, False, False]


@pytest.mark.parametrize("value", [2, -1, "yes", [1], {}])
def test_iscrowd_that_says_nothing_is_named(tmp_path: Path, value: Any) -> None:
    assert [problem.kind for problem in _load(tmp_path, _document({"iscrowd": value})).problems] == ["wrong type"]


def _forms(box: tuple[int, ...]) -> dict[str, list[float]]:
    x, y, width, height = box
    return {
        "x1, y1, x2, y2": [x, y, x + width, y + height],
        "center x, center y, width, height": [x + width / 2, y + height / 2, width, height],
        "y1, x1, y2, x2": [y, x, y + height, x + width],
        "shares of the image's sides": [x / 40, y / 30, width / 40, height / 30],
    }


@pytest.mark.parametrize("form", _forms(BOXES[0]))
def test_boxes_of_another_form_are_recognized(tmp_path: Path, form: str) -> None:
    with pytest.raises(DatasetError, match=f"its boxes are {form}"):
        _load(tmp_path, _document(*({"bbox": _forms(box)[form]} for box in BOXES)))


@pytest.mark.parametrize("form", _forms(BOXES[0]))
def test_boxes_of_another_form_are_recognized_by_rles_too(tmp_path: Path, form: str) -> None:
    with pytest.raises(DatasetError, match=f"its boxes are {form}"):
        _load(tmp_path, _document(*({"bbox": _forms(box)[form], "segmentation": _rle(*box)} for box in BOXES)))


def _boxes_alone(folder: Path, *boxes: Any) -> Dataset:
    document = _document()
    document["annotations"] = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": list(box)} for number, box in enumerate(boxes, 1)
    ]
    return _load(folder, document)


EDGES = ((28, 4, 10, 8), (30, 20, 9, 9), (2, 22, 12, 8), (25, 18, 14, 12))
"""Boxes near the right and lower edges of the image."""


@pytest.mark.parametrize("form", [form for form in _forms(BOXES[0]) if not form.startswith("y1")])
def test_other_forms_are_recognized_without_masks(tmp_path: Path, form: str) -> None:
    with pytest.raises(DatasetError, match=f"its boxes are {form}"):
        _boxes_alone(tmp_path, *(_forms(box)[form] for box in (*BOXES, *EDGES)))


@pytest.mark.parametrize(
    "boxes",
    [
        pytest.param((*BOXES, *EDGES), id="sound"),
        pytest.param((*BOXES, (31, 12, 12, 6)), id="one is a little outside"),
        pytest.param(((0, 0, 2, 1), (1, 1, 1, 1), (0, 1, 1, 1)), id="a pixel each"),
    ],
)
def test_boxes_alone_that_say_nothing_else_are_left(tmp_path: Path, boxes: tuple[Any, ...]) -> None:
    data = _boxes_alone(tmp_path, *boxes)
    assert (data.problems, len(data.annotations[0])) == ((), len(boxes))


def test_corners_are_recognized_without_masks(tmp_path: Path) -> None:
    changes = [{"bbox": _forms(box)["x1, y1, x2, y2"], "segmentation": []} for box in BOXES]
    with pytest.raises(DatasetError, match="its boxes are x1, y1, x2, y2"):
        _load(tmp_path, _document(*changes))
    plain = _load(tmp_path, _document(*({"segmentation": []} for _ in BOXES)))
    assert (plain.problems, plain.annotations[0].xywh.tolist()) == ((), [list(box) for box in BOXES])


@pytest.mark.parametrize(
    ("categories", "ids", "names", "labels", "repairs"),
    [
        pytest.param(
            [{"id": 0, "name": "red", "supercategory": "none"}, {"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
            (1, 2, 1),
            ("red", "green"),
            [1, 2, 1],
            ["root class left out"],
            id="Roboflow's root of the same name",
        ),
        pytest.param(
            [
                {"id": 0, "name": "things", "supercategory": "none"},
                {"id": 1, "name": "red", "supercategory": "things"},
                {"id": 2, "name": "green", "supercategory": "things"},
            ],
            (1, 2, 1),
            ("red", "green"),
            [1, 2, 1],
            ["root class left out"],
            id="Roboflow's root",
        ),
        pytest.param(
            [{"id": 0, "name": "things", "supercategory": "none"}, {"id": 1, "name": "red", "supercategory": "things"}],
            (0, 1, 1),
            ("things", "red"),
            [1, 2, 2],
            [],
            id="a root with objects is a class",
        ),
        pytest.param(
            [{"id": 1, "name": "red"}, {"id": 2, "name": "red"}],
            (1, 2, 2),
            ("red",),
            [1, 1, 1],
            ["classes of one name merged"],
            id="one name twice, both used",
        ),
        pytest.param(
            [{"id": 1, "name": "red"}, {"id": 5, "name": " red  "}, {"id": 3, "name": "dark\tblue"}],
            (5, 5, 3),
            ("dark blue", "red"),
            [2, 2, 1],
            ["classes of one name merged"],
            id="spaces around a name; the one with objects gives the id",
        ),
        pytest.param(
            [{"id": 1, "name": "a"}, {"id": 2, "name": "A"}],
            (1, 2, 2),
            ("a", "A"),
            [1, 2, 2],
            [],
            id="letters of another case are another class",
        ),
        pytest.param(
            [{"id": 1, "name": 7}, {"id": 2, "name": "b"}], (1, 2, 1), ("7", "b"), [1, 2, 1], [], id="a number as name"
        ),
    ],
)
def test_classes_of_one_name(
    tmp_path: Path, categories: list[Any], ids: tuple[int, ...], names: tuple[str, ...], labels: list[int], repairs: Any
) -> None:
    data = _load(tmp_path, _document(*({"category_id": id_} for id_ in ids), categories=categories))
    assert data.problems == ()
    assert data.class_names == names
    assert data.annotations[0].labels.tolist() == labels
    assert [repair.kind for repair in data.repairs] == repairs


def test_a_keypoint_outside_becomes_unlabeled(tmp_path: Path) -> None:
    data = _load(tmp_path, _document({"keypoints": [5, 5, 2, 50, 5, 2]}))
    assert [repair.kind for repair in data.repairs] == ["keypoint outside the picture unlabeled"]
    assert data.annotations[0].keypoints is not None
    assert data.annotations[0].keypoints[0].tolist() == [[5, 5, 2], [0, 0, 0]]
