"""Readers of masks, on files that the tests write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.data.formats.samples import (
    HEIGHT,
    WIDTH,
    cityscapes,
    masks_of,
    names_of,
    two_objects,
    voc,
    write_ids,
    write_image,
    write_json,
)
from training.data.annotations.dataset import DatasetError
from training.data.formats.masks.cityscapes import load_cityscapes
from training.data.formats.masks.instance_png import load_instance_png
from training.data.formats.masks.voc import load_voc


def test_cityscapes_instances_and_groups(tmp_path: Path) -> None:
    ids = two_objects(26000, 24012)
    ids[0, :] = 26  # a car group
    ids[19, :] = 7  # road
    ids[18, :5] = 29001  # a caravan, which is not evaluated
    cityscapes(tmp_path, ids)
    data = load_cityscapes(tmp_path, "train")
    assert data.problems == ()
    assert data.class_names[:3] == ("person", "rider", "car")
    assert names_of(data) == ["car", "person", "car"]
    assert data.annotations[0].crowd.tolist() == [True, False, False]
    np.testing.assert_array_equal(masks_of(data), [ids == 26, ids == 24012, ids == 26000])
    assert data.annotations[0].xywh[2].tolist() == [2, 1, 10, 8]


def test_cityscapes_polygons_hide_what_lies_behind(tmp_path: Path) -> None:
    cityscapes(tmp_path, None)
    objects = [
        {"label": "road", "polygon": [[0, 0], [29, 0], [29, 19], [0, 19]]},
        {"label": "cargroup", "polygon": [[0, 0], [9, 0], [9, 9], [0, 9]]},
        {"label": "car", "polygon": [[5, 5], [15, 5], [15, 15], [5, 15]]},
        {"label": "car", "polygon": [[10, 5], [15, 5], [15, 15], [10, 15]]},
        {"label": "license plate", "polygon": [[10, 5], [11, 5], [11, 6]]},
        {"label": "pole", "polygon": [[12, 0], [13, 0], [13, 19], [12, 19]]},
        {"label": "car", "deleted": 1, "polygon": [[20, 5], [25, 5], [25, 15]]},
    ]
    document = {"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": objects}
    write_json(tmp_path / "gtFine/train/ulm/ulm_000000_000019_gtFine_polygons.json", document)
    data = load_cityscapes(tmp_path, "train")
    assert data.problems == ()
    expected = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    expected[0, :10, :10] = 1
    expected[0, 5:10, 5:10] = 0
    expected[1, 5:16, 5:10] = 1
    expected[2, 5:16, 10:16] = 1
    expected[2, :, 12:14] = 0
    np.testing.assert_array_equal(masks_of(data), expected)
    assert data.annotations[0].crowd.tolist() == [True, False, False]


@pytest.mark.parametrize("mode", ["P", "L"])
def test_voc_classes_and_void(tmp_path: Path, mode: str) -> None:
    objects, classes = two_objects(1, 2), two_objects(15, 8)
    objects[1, :] = classes[1, :] = 255
    voc(tmp_path, objects, classes, mode)
    data = load_voc(tmp_path, "train")
    assert data.problems == ()
    assert len(data.class_names) == 20
    assert names_of(data) == ["person", "cat"]
    np.testing.assert_array_equal(masks_of(data), [objects == 1, objects == 2])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param("a.png", id="another suffix"),
        pytest.param("a.JPG", id="another case of the suffix"),
        pytest.param("a.jpeg", id="another spelling"),
    ],
)
def test_two_images_of_one_voc_name_are_refused(tmp_path: Path, other: str) -> None:
    voc(tmp_path, two_objects(), two_objects(15, 8))
    write_ids(tmp_path / "SegmentationObject/b.png", two_objects())
    write_ids(tmp_path / "SegmentationClass/b.png", two_objects(15, 8))
    write_image(tmp_path / "JPEGImages/b.jpg")
    write_image(tmp_path / "JPEGImages" / other)
    data = load_voc(tmp_path, "train")
    assert [record.file for record in data.images] == ["b.jpg"]
    (problem,) = data.problems
    assert problem.kind == "unknown image"
    assert "lie side by side, and 'a' is either: keep one of them" in problem.message
    assert other in problem.message


def test_voc_with_lists_and_classes_of_its_own(tmp_path: Path) -> None:
    voc(tmp_path, two_objects(), two_objects(2, 1))
    (tmp_path / "class_names.txt").write_text("_background_\nnut\nbolt\n")
    write_json(tmp_path / "ImageSets/Segmentation/val.txt", {})
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n\nmissing\n")
    data = load_voc(tmp_path, "val")
    assert names_of(data) == ["bolt", "nut"]
    assert [problem.kind for problem in data.problems] == ["missing file"]
    assert data.problems[0].file == "missing.jpg"
    with pytest.raises(DatasetError, match="no VOC segmentation split 'train'"):
        load_voc(tmp_path, "train")


@pytest.mark.parametrize(
    ("images", "masks", "suffix", "names", "expected"),
    [
        pytest.param("PNGImages", "PedMasks", "_mask", None, "person", id="Penn-Fudan"),
        pytest.param("images", "masks", "", None, "object", id="same names"),
        pytest.param("images/train", "masks/train", "", "cell\n", "cell", id="split, with a class name"),
    ],
)
def test_instance_pngs(tmp_path: Path, images: str, masks: str, suffix: str, names: str | None, expected: str) -> None:
    write_image(tmp_path / images / "a.v1.jpg")
    write_image(tmp_path / images / "empty.jpg")
    write_ids(tmp_path / masks / f"a.v1{suffix}.png", two_objects(7, 300))
    write_ids(tmp_path / masks / f"empty{suffix}.png", np.zeros((HEIGHT, WIDTH)))
    if names is not None:
        (tmp_path / "classes.txt").write_text(names)
    data = load_instance_png(tmp_path, "train")
    assert data.problems == ()
    assert data.class_names == (expected,)
    assert [len(objects) for objects in data.annotations] == [2, 0]
    np.testing.assert_array_equal(masks_of(data), [two_objects() == 1, two_objects() == 2])


def test_a_mask_of_the_picture_as_seen_is_turned_to_the_stored_one(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.jpg", orientation=6)
    write_ids(tmp_path / "masks/a.png", np.rot90(two_objects(), -1))
    np.testing.assert_array_equal(
        masks_of(load_instance_png(tmp_path, "train")), [two_objects() == 1, two_objects() == 2]
    )
