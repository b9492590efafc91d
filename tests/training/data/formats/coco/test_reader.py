from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference

from model.runtime.detections import RLE
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco

SHARED = Path(__file__).parents[6] / "shared" / "data"

TRIANGLE = [2.0, 1.0, 12.0, 1.0, 2.0, 9.0]
HOLED = np.zeros((20, 30), np.uint8)
HOLED[4:12, 5:15] = 1
HOLED[6:9, 8:11] = 0


def _compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = reference.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def _uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


def _decoded(rle: dict[str, Any]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0.11 with numpy 2
        return np.asarray(reference.decode(rle))


def _drawn(polygons: list[list[float]]) -> np.ndarray:
    return _decoded(reference.merge(reference.frPyObjects(polygons, 20, 30)))


def _annotation(id_: int, image: int = 1, category: int = 7, **changes: Any) -> dict[str, Any]:
    record = {"id": id_, "image_id": image, "category_id": category, "bbox": [2, 1, 10, 8], "segmentation": [TRIANGLE]}
    return {key: value for key, value in (record | changes).items() if value is not ...}


def _document(*annotations: Any, **changes: Any) -> dict[str, Any]:
    return {
        "images": [
            {"id": 5, "file_name": "b.png", "width": 30, "height": 20},
            {"id": 1, "file_name": "sub/a.png", "width": 30, "height": 20},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}, {"id": 8, "name": "truck"}],
        "annotations": list(annotations),
    } | changes


def _load(folder: Path, document: Any) -> Dataset:
    path = folder / "instances_train.json"
    path.write_text(json.dumps(document))
    return load_coco(path, folder / "images")


def test_reads_images_classes_and_boxes(tmp_path: Path) -> None:
    data = _load(
        tmp_path,
        _document(_annotation(3, category=90, iscrowd=1, area=31.5), _annotation(2, bbox=[0.25, 1.5, 10, 3])),
    )
    assert data.problems == ()
    assert [image.id for image in data.images] == [5, 1]
    assert data.images[1].path == tmp_path / "images" / "sub" / "a.png"
    assert (data.images[0].width, data.images[0].height) == (30, 20)
    assert data.class_names == ("train", "truck", "toothbrush")
    assert data.num_classes == 4
    assert [data.label_to_category(label) for label in (1, 2, 3)] == [7, 8, 90]
    with pytest.raises(ValueError, match="labels 1 to 3"):
        data.label_to_category(4)

    without, objects = data.annotations
    assert len(without) == 0
    assert without.boxes.shape == (0, 4)
    assert without.masks(20, 30).shape == (0, 20, 30)
    assert objects.ids.tolist() == [3, 2]
    assert objects.labels.tolist() == [3, 1]
    assert objects.crowd.tolist() == [True, False]
    assert objects.area.tolist() == [31.5, 40.0]  # the mask's where the file gives none
    assert objects.boxes.dtype == np.float32
    np.testing.assert_array_equal(objects.boxes, [[2, 1, 12, 9], [0.25, 1.5, 10.25, 4.5]])
    assert objects.keypoints is None


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        pytest.param(_compressed(HOLED), HOLED, id="compressed RLE with a hole"),
        pytest.param(_uncompressed(HOLED), HOLED, id="uncompressed RLE"),
        pytest.param(_uncompressed(1 - HOLED), 1 - HOLED, id="uncompressed RLE that starts with foreground"),
        pytest.param(
            [TRIANGLE],
            _drawn([TRIANGLE]),
            id="one polygon",
        ),
        pytest.param(
            [TRIANGLE, [20, 10, 28, 10, 28, 18, 20, 18]],
            _drawn([TRIANGLE, [20, 10, 28, 10, 28, 18, 20, 18]]),
            id="an object in two parts",
        ),
    ],
)
def test_masks_are_exact(tmp_path: Path, segmentation: Any, expected: np.ndarray) -> None:
    data = _load(tmp_path, _document(_annotation(1, segmentation=segmentation, iscrowd=1), _annotation(2)))
    objects = data.annotations[1]
    masks = objects.masks(20, 30)
    assert masks.dtype == np.uint8
    assert masks.flags.c_contiguous
    np.testing.assert_array_equal(masks[0], expected)
    np.testing.assert_array_equal(objects.masks(20, 30, (3, 4, 7, 11)), masks[:, 3:10, 4:15])
    rle = objects.rles(20, 30)[0]
    np.testing.assert_array_equal(_decoded({"size": list(rle.size), "counts": rle.counts}), expected)


def test_segmentations_are_kept_compact(tmp_path: Path) -> None:
    data = _load(tmp_path, _document(_annotation(1), _annotation(2, segmentation=_uncompressed(HOLED))))
    polygons, rle = data.annotations[1].segmentations
    assert isinstance(polygons, tuple)
    assert polygons[0].dtype == np.float64
    assert polygons[0].shape == (3, 2)
    assert rle == RLE((20, 30), reference.encode(np.asfortranarray(HOLED))["counts"])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        pytest.param([], "annotation 1 has no mask", id="no segmentation"),
        pytest.param(_compressed(HOLED[:10]), r"size \(10, 30\)", id="RLE of another size"),
    ],
)
def test_masks_that_cannot_be_drawn(tmp_path: Path, segmentation: Any, message: str) -> None:
    data = _load(tmp_path, _document(_annotation(1, segmentation=segmentation)))
    with pytest.raises(ValueError, match=message):
        data.annotations[1].masks(20, 30)


@pytest.mark.parametrize("window", [(0, -1, 5, 5), (0, 0, 5, 31), (16, 0, 5, 5), (0, 0, 0, 5)])
def test_a_window_must_lie_inside_the_image(tmp_path: Path, window: tuple[int, int, int, int]) -> None:
    objects = _load(tmp_path, _document(_annotation(1))).annotations[1]
    with pytest.raises(ValueError, match="does not lie inside"):
        objects.masks(20, 30, window)


def test_select(tmp_path: Path) -> None:
    data = _load(tmp_path, _document(*(_annotation(i, segmentation=_compressed(HOLED)) for i in (4, 6, 9))))
    objects = data.annotations[1]
    assert objects.select(np.array([True, False, True])).ids.tolist() == [4, 9]
    assert objects.select([2, 0]).ids.tolist() == [9, 4]
    assert objects.select([]).masks(20, 30).shape == (0, 20, 30)
    assert len(objects.select(objects.labels == 3)) == 0
    assert len(data.annotations[0].select(np.zeros(0, np.bool_))) == 0


def test_keypoints(tmp_path: Path) -> None:
    categories = [{"id": 7, "name": "person", "keypoints": ["left_eye", "right_eye"]}, {"id": 9, "name": "ball"}]
    data = _load(
        tmp_path,
        _document(
            _annotation(1, keypoints=[1, 2, 2, 3.5, 4, 1]),
            _annotation(2, category=9),
            categories=categories,
        ),
    )
    assert data.num_keypoints == 2
    assert data.categories[0].keypoints == ("left_eye", "right_eye")
    keypoints = data.annotations[1].keypoints
    assert keypoints is not None
    assert keypoints.dtype == np.float32
    assert keypoints.tolist() == [[[1, 2, 2], [3.5, 4, 1]], [[0, 0, 0], [0, 0, 0]]]
    assert data.annotations[0].keypoints is not None
    assert data.annotations[0].keypoints.shape == (0, 2, 3)


def test_keypoints_without_names_are_counted(tmp_path: Path) -> None:
    assert _load(tmp_path, _document(_annotation(1), _annotation(2, keypoints=[1, 2, 2] * 4))).num_keypoints == 4


def test_classes_with_different_keypoints_are_refused(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "a", "keypoints": ["x"]}, {"id": 2, "name": "b", "keypoints": ["x", "y"]}]
    with pytest.raises(DatasetError, match=r"\[1, 2\] keypoints"):
        _load(tmp_path, _document(categories=categories))


@pytest.mark.parametrize(
    ("record", "kind", "annotation_id"),
    [
        pytest.param("nonsense", "wrong type", None, id="not an object"),
        pytest.param(_annotation(1, id=True), "wrong type", None, id="id is a boolean"),
        pytest.param(_annotation(1, image_id=...), "missing key", 1, id="no image id"),
        pytest.param(_annotation(1, category_id=...), "missing key", 1, id="no category"),
        pytest.param(_annotation(1, bbox=..., segmentation=[]), "empty box", 1, id="neither box nor mask"),
        pytest.param(_annotation(1, image=99), "unknown image", 1, id="unknown image"),
        pytest.param(_annotation(1, category=1), "unknown category", 1, id="unknown category"),
        pytest.param(_annotation(50, keypoints=[1, 2, 2, 3, 4, 2]), "duplicate id", None, id="the same record twice"),
        pytest.param(_annotation(1, keypoints=[1, 2, 3, 3, 4, 2]), "bad keypoints", 1, id="visibility 3"),
        pytest.param(_annotation(1, keypoints=[40, 2, 2, 3, 44, 2]), "bad keypoints", 1, id="all keypoints outside"),
        pytest.param(_annotation(1, bbox=[1, 2, 3], segmentation=[]), "wrong type", 1, id="box of three numbers"),
        pytest.param(_annotation(1, bbox=["1", "2", "3", "4"], segmentation=[]), "wrong type", 1, id="box of texts"),
        pytest.param(_annotation(1, bbox=[1, 2, None, 4], segmentation=[]), "wrong type", 1, id="box with null"),
        pytest.param(
            _annotation(1, bbox=[1, 2, float("nan"), 4], segmentation=[]), "non-finite number", 1, id="box with NaN"
        ),
        pytest.param(_annotation(1, iscrowd=2), "wrong type", 1, id="iscrowd is 2"),
        pytest.param(_annotation(1, segmentation=[[1, 1, 5, 5]]), "bad polygon", 1, id="polygon of two points"),
        pytest.param(_annotation(1, segmentation=[[1, 1, 5, 5, 9, 9, 3]]), "bad polygon", 1, id="odd polygon"),
        pytest.param(_annotation(1, segmentation=[[1, 1, 5, 5, 9, float("inf")]]), "non-finite number", 1, id="inf"),
        pytest.param(_annotation(1, segmentation={"size": [20, 30]}), "missing key", 1, id="RLE without counts"),
        pytest.param(
            _annotation(1, segmentation={"size": [20, 30], "counts": [3, 4]}), "bad RLE", 1, id="runs too short"
        ),
        pytest.param(
            _annotation(1, segmentation={"size": [20, 30], "counts": [700, -100]}), "bad RLE", 1, id="negative run"
        ),
        pytest.param(_annotation(1, segmentation={"size": [20], "counts": "00"}), "bad RLE", 1, id="RLE of one side"),
        pytest.param(_annotation(1, segmentation={"size": [20, 30], "counts": "é"}), "bad RLE", 1, id="not ASCII"),
        pytest.param(_annotation(1, keypoints=[1, 2, 2]), "keypoint count", 1, id="one keypoint of two"),
    ],
)
def test_a_broken_annotation_is_left_out_and_named(
    tmp_path: Path, record: Any, kind: str, annotation_id: int | None
) -> None:
    good = _annotation(50, keypoints=[1, 2, 2, 3, 4, 2])
    data = _load(tmp_path, _document(good, record, _annotation(51)))
    assert [problem.kind for problem in data.problems] == [kind]
    assert data.problems[0].annotation_id == annotation_id
    assert data.annotations[1].ids.tolist() == [50, 51]


@pytest.mark.parametrize(
    ("record", "kind", "file"),
    [
        pytest.param({"file_name": "c.png", "width": 9, "height": 9}, "missing key", None, id="no id"),
        pytest.param({"id": 6, "width": 9, "height": 9}, "missing key", None, id="no file name"),
        pytest.param({"id": 6, "file_name": "c.png", "height": 9}, "missing file", "c.png", id="no width, no file"),
        pytest.param(
            {"id": 6, "file_name": "c.png", "width": "nine", "height": 9}, "wrong type", "c.png", id="width is a text"
        ),
        pytest.param(
            {"id": 6, "file_name": "c.png", "width": 9, "height": 0}, "size mismatch", "c.png", id="height is 0"
        ),
        pytest.param(
            {"id": 1, "file_name": "c.png", "width": 9, "height": 9}, "duplicate id", "c.png", id="id used before"
        ),
    ],
)
def test_a_broken_image_is_left_out_with_its_annotations(
    tmp_path: Path, record: dict[str, Any], kind: str, file: str | None
) -> None:
    images = [{"id": 1, "file_name": "a.png", "width": 30, "height": 20}, record]
    data = _load(tmp_path, _document(_annotation(1), _annotation(2, image=6), images=images))
    assert [image.id for image in data.images] == [1]
    expected = [kind] if "id" in record and record["id"] == 6 else [kind, "unknown image"]
    assert [problem.kind for problem in data.problems] == expected
    assert data.problems[0].file == file


def test_a_broken_category_is_named(tmp_path: Path) -> None:
    categories = [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}, {"id": 8}]
    data = _load(tmp_path, _document(_annotation(1), categories=categories))
    assert [problem.kind for problem in data.problems] == ["duplicate id", "missing key"]
    assert data.class_names == ("a",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "is not JSON", id="cut off"),
        pytest.param("[]", "lacks images, annotations, categories", id="a list"),
        pytest.param('{"images": [], "categories": []}', "lacks annotations", id="no annotations"),
        pytest.param('{"images": {}, "categories": [], "annotations": []}', "lacks images", id="images is no list"),
        pytest.param('{"images": [], "categories": [], "annotations": []}', "lists no images", id="no images"),
        pytest.param('{"images": [1], "categories": [], "annotations": []}', "no usable category", id="no classes"),
    ],
)
def test_a_file_that_is_not_coco_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=message) as caught:
        load_coco(path, tmp_path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot read"):
        load_coco(tmp_path / "x.json", tmp_path)


@pytest.mark.parametrize(
    ("task", "files", "train", "val"),
    [
        pytest.param(
            "masks",
            ["annotations/instances_train.json", "annotations/instances_val.json", "images/"],
            ("instances_train.json", "images"),
            ("instances_val.json", "images"),
            id="one folder of images",
        ),
        pytest.param(
            "boxes",
            ["annotations/instances_train.json", "images/train/"],
            ("instances_train.json", "images/train"),
            None,
            id="a folder of images each, no validation split",
        ),
        pytest.param(
            "masks",
            ["annotations/instances_train2017.json", "annotations/instances_val2017.json", "train2017/", "val2017/"],
            ("instances_train2017.json", "train2017"),
            ("instances_val2017.json", "val2017"),
            id="COCO's own layout",
        ),
        pytest.param(
            "keypoints",
            ["annotations/instances_train.json", "annotations/person_keypoints_train2017.json", "train2017/"],
            ("person_keypoints_train2017.json", "train2017"),
            None,
            id="keypoints beside instances",
        ),
    ],
)
def test_find_splits(
    tmp_path: Path, task: Any, files: list[str], train: tuple[str, str], val: tuple[str, str] | None
) -> None:
    for file in files:
        path = tmp_path / file
        (path if file.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not file.endswith("/"):
            path.write_text("{}")
    splits = find_splits(tmp_path, task)
    assert splits.train[:2] == (tmp_path / "annotations" / train[0], tmp_path / train[1])
    found = None if splits.val is None else splits.val[:2]
    assert found == (None if val is None else (tmp_path / "annotations" / val[0], tmp_path / val[1]))


def test_find_splits_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"looked for annotations/instances_SPLIT\.json, .*_annotations\.coco\.json"):
        find_splits(tmp_path, "masks")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_text("{}")
    with pytest.raises(DatasetError, match="has no images: looked for image files"):
        find_splits(tmp_path, "masks")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("folder", "task", "counts"),
    [
        ("nuclei", "masks", [(532, 23095), (72, 2860)]),
        ("coco_mini", "masks", [(80, 739), (79, 624)]),
        ("coco_mini", "keypoints", [(80, 172), (79, 118)]),
    ],
)
def test_real_data(folder: str, task: Any, counts: list[tuple[int, int]]) -> None:
    splits = find_splits(SHARED / folder, task)
    assert splits.val is not None
    for split, count in zip((splits.train, splits.val), counts, strict=True):
        data = load_coco(*split)
        assert (len(data), sum(map(len, data.annotations))) == count
        assert data.problems == ()
        record, objects = data.images[0], data.annotations[0]
        # Masks and boxes come from the same outlines, apart from the crowd's.
        for mask, box in zip(objects.masks(record.height, record.width), objects.boxes, strict=True):
            y, x = np.nonzero(mask)
            np.testing.assert_allclose([x.min(), y.min(), x.max() + 1, y.max() + 1], box, atol=2)
