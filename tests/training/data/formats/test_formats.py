"""Readers and writers of the dataset formats, on files that the tests write."""

from __future__ import annotations

import base64
import re
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from model.runtime.detections import RLE
from tests.training.data.formats.samples import (
    HEIGHT,
    ORIENTATION,
    SQUARE,
    WIDTH,
    cityscapes,
    labelme,
    masks_of,
    names_of,
    region,
    shape,
    two_objects,
    via,
    voc,
    write_ids,
    write_image,
    write_json,
    yolo,
    yolo_line,
)
from training.config import TrainConfig
from training.data.annotations.dataset import DatasetError
from training.data.checking.broken import check, report
from training.data.formats.assemble import Assembly, Found, encode_indices
from training.data.formats.known import FORMATS, WRITABLE, Format, detect_format, find_format
from training.data.formats.labelme.reader import load_labelme
from training.data.formats.locate import Origin, locate
from training.data.formats.masks.cityscapes import load_cityscapes
from training.data.formats.masks.instance_png import load_instance_png
from training.data.formats.masks.voc import load_voc
from training.data.formats.via.reader import load_via
from training.data.formats.yolo.reader import load_yolo
from training.data.loading.source import DataStop, load_training_data
from training.data.shapes import write_shapes

SHARED = Path(__file__).parents[5] / "shared" / "data"


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


def test_labelme_shapes(tmp_path: Path) -> None:
    png = BytesIO()
    Image.fromarray(np.array([[0, 255, 255], [255, 0, 255]], np.uint8)).save(png, "PNG")
    mask = base64.b64encode(png.getvalue()).decode()
    labelme(
        tmp_path,
        shape("dog", [[12, 9], [2, 1]], shape_type="rectangle"),
        shape("cat", SQUARE, group_id=4, flags={"crowd": True}),
        shape("ball", [[20, 10], [20, 14]], shape_type="circle"),
        shape("cat", [[20, 2], [25, 2], [25, 6]], group_id=4),
        shape("dot", [[3, 5], [5, 6]], shape_type="mask", mask=mask),
    )
    data = load_labelme(tmp_path, "train")
    assert data.problems == ()
    assert data.class_names == ("ball", "cat", "dog", "dot")
    assert names_of(data) == ["dog", "cat", "ball", "dot"]
    assert data.annotations[0].crowd.tolist() == [False, True, False, False]
    masks = masks_of(data)
    square = np.zeros((HEIGHT, WIDTH))
    square[1:9, 2:12] = 1
    np.testing.assert_array_equal(masks[0], square)
    np.testing.assert_array_equal(masks[1][:, :13], square[:, :13])
    assert masks[1][2:6, 20:25].any()
    assert masks[2].sum() == pytest.approx(np.pi * 16, rel=0.1)
    np.testing.assert_array_equal(np.argwhere(masks[3]), [[5, 4], [5, 5], [6, 3], [6, 5]])


def test_labelme_classes_come_from_its_file(tmp_path: Path) -> None:
    labelme(tmp_path / "train", shape("dog"))
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nfox\ndog\n")
    assert load_labelme(tmp_path, "train").class_names == ("fox", "dog")


def test_via_shapes(tmp_path: Path) -> None:
    via(
        tmp_path,
        region(),
        region({"class": {"dog": True, "cat": False}}, name="rect", x=2, y=1, width=10, height=8),
        region(name="ellipse", cx=20, cy=10, rx=6, ry=3),
        region(name="circle", cx=20, cy=10, r=4),
    )
    data = load_via(tmp_path, "train")
    assert data.problems == ()
    assert names_of(data) == ["cat", "dog", "cat", "cat"]
    masks = masks_of(data)
    np.testing.assert_array_equal(masks[0], masks[1])
    assert masks[0].sum() == 80
    assert masks[2].sum() == pytest.approx(np.pi * 18, rel=0.1)
    assert masks[3].sum() == pytest.approx(np.pi * 16, rel=0.1)


def test_via_1_and_projects_without_attributes(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a.png")
    write_image(tmp_path / "val/b.png")
    write_json(tmp_path / "train/via.json", {"a": {"filename": "a.png", "regions": {"0": region({})}}})
    images = {"b": {"filename": "b.png", "regions": [region({})]}}
    write_json(tmp_path / "val/project.json", {"_via_settings": {}, "_via_img_metadata": images})
    splits = locate(Origin(tmp_path), "via").read_aligned()
    assert {split: (data.class_names, len(data.annotations[0])) for split, data in splits.items()} == {
        "train": (("object",), 1),
        "val": (("object",), 1),
    }


def test_yolo_polygons_boxes_and_images_without_file(tmp_path: Path) -> None:
    yolo(tmp_path, yolo_line(1, SQUARE) + "\n0 0.5 0.5 0.2 0.1\n")
    write_image(tmp_path / "images/train/none.jpg")
    data = load_yolo(tmp_path, "train")
    assert data.problems == ()
    assert names_of(data) == ["dog", "cat"]
    polygons, nothing = data.annotations[0].segmentations
    assert isinstance(polygons, tuple)
    np.testing.assert_allclose(polygons[0], SQUARE)
    assert nothing is None
    np.testing.assert_allclose(data.annotations[0].xywh, [[2, 1, 10, 8], [12, 9, 6, 2]])
    assert len(data.annotations[1]) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["labelme", "via", "yolo"])
def test_outlines_of_the_picture_as_seen_are_turned_to_the_stored_one(
    tmp_path: Path, form: str, orientation: int
) -> None:
    stored = np.zeros((HEIGHT, WIDTH), np.uint8)
    stored[2:7, 4:17] = 255
    picture = Image.fromarray(stored)
    picture.getexif()[ORIENTATION] = orientation
    seen = np.array(ImageOps.exif_transpose(picture))
    (top, bottom), (left, right) = (np.flatnonzero(seen.any(axis))[[0, -1]] + [0, 1] for axis in (1, 0))
    points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    if form == "labelme":
        labelme(tmp_path, shape(points=np.array(points).tolist()), orientation=orientation)
    elif form == "via":
        outline = {f"all_points_{axis}": np.array(points)[:, index].tolist() for index, axis in enumerate("xy")}
        via(tmp_path, region(name="polygon", **outline), orientation=orientation)
    else:
        yolo(tmp_path, yolo_line(0, points, seen.shape[1], seen.shape[0]), orientation=orientation)
    data = find_format(form).load(tmp_path, "train")
    np.testing.assert_array_equal(masks_of(data)[0], stored > 0)
    assert check(data) == []


@pytest.mark.parametrize(
    ("write", "kind", "message"),
    [
        pytest.param(lambda f: cityscapes(f, None), "missing file", "neither .*instanceIds.png nor", id="no ids"),
        pytest.param(
            lambda f: cityscapes(f, two_objects(7001, 3)), "bad mask", "7001, but class 7", id="road is no thing"
        ),
        pytest.param(
            lambda f: cityscapes(f, two_objects()[:5]), "size mismatch", "30x5 pixels, its image 30x20", id="size"
        ),
        pytest.param(
            lambda f: voc(f, two_objects(), two_objects(15, 0)), "bad mask", "no class to .* object 2", id="no class"
        ),
        pytest.param(
            lambda f: voc(f, two_objects(), two_objects(1, 99)), "unknown category", "has class 99", id="VOC class"
        ),
        pytest.param(lambda f: labelme(f, shape(), shape(None)), "wrong type", r"'label' of shapes\[1\]", id="label"),
        pytest.param(
            lambda f: labelme(f, shape(), shape(points=[[1, 2]])), "bad polygon", "has 1 points", id="a point"
        ),
        pytest.param(lambda f: labelme(f, shape(), shape(points=3)), "bad polygon", "no list of points", id="points"),
        pytest.param(lambda f: labelme(f, shape(), shape(shape_type="line")), "no mask", "is a line", id="a line"),
        pytest.param(
            lambda f: labelme(f, shape(), shape(points=[[1, 2], [3, 4]], shape_type="mask", mask="!")),
            "bad mask",
            "no base64 PNG",
            id="mask that is none",
        ),
        pytest.param(
            lambda f: labelme(f, shape(), shape(points=[[1, 2], [float("nan"), 4]], shape_type="rectangle")),
            "non-finite number",
            "NaN or infinite",
            id="a corner nowhere",
        ),
        pytest.param(
            lambda f: via(f, region(), region([1])), "wrong type", "no JSON object", id="attributes in a list"
        ),
        pytest.param(lambda f: labelme(f, imageWidth=31), "size mismatch", "is for 31x20 pixels", id="other size"),
        pytest.param(lambda f: labelme(f, imagePath="..\\x.jpg"), "missing file", "x.jpg is not there", id="no image"),
        pytest.param(lambda f: via(f, region(), region({})), "unknown category", "no single 'class'", id="no class"),
        pytest.param(lambda f: via(f, region(), region(name="point")), "no mask", "is a point", id="a point in VIA"),
        pytest.param(lambda f: via(f, region(), region(name="rect", x=1)), "missing key", "no 'y'", id="half a rect"),
        pytest.param(lambda f: yolo(f, "7 .1 .1 .2 .2 .3 .1\n"), "unknown category", "line 1 .* class 7", id="YOLO"),
        pytest.param(lambda f: yolo(f, "0 .1 .1 .2 .2 .3\n"), "bad polygon", "has 5 coordinates", id="odd line"),
        pytest.param(lambda f: yolo(f, "0 10 10 20 20 30 10\n"), "bad polygon", "outside 0 to 1", id="pixels"),
        pytest.param(lambda f: yolo(f, "0 nan .1 .2 .2 .3 .1\n"), "non-finite number", "NaN", id="NaN"),
        pytest.param(lambda f: yolo(f, "cat .1 .1 .2 .2 .3 .1\n"), "wrong type", "no number", id="a name"),
    ],
)
def test_a_broken_record_is_left_out_and_named(
    tmp_path: Path, write: Callable[[Path], None], kind: str, message: str
) -> None:
    write(tmp_path)
    form = detect_format(tmp_path)
    assert form is not None
    kinds, text = _complaint(form, tmp_path)
    assert kinds in ([kind], None)
    assert re.search(message, text)


def _complaint(form: Format, folder: Path) -> tuple[list[str] | None, str]:
    """Kinds and text of the problems; no kinds where nothing was left, which is an error that says why."""
    try:
        problems = form.load(folder, "train").problems
    except DatasetError as error:
        return None, str(error)
    return [problem.kind for problem in problems], report(problems)


def test_a_class_attribute_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    via(tmp_path, region({"color": "red", "species": "cat"}))
    with pytest.raises(DatasetError, match="attributes color, species: say with --class_attribute"):
        load_via(tmp_path, "train")


@pytest.mark.parametrize("by_file", [False, True])
def test_which_attribute_of_via_is_the_class_can_be_said(tmp_path: Path, by_file: bool) -> None:
    via(tmp_path, region({"color": "red", "species": "cat", "type": "A"}), region({"species": "dog", "type": "A"}))
    where = {"annotations": (tmp_path / "via_region_data.json",)} if by_file else {"folder": tmp_path}
    assert locate(Origin(**where)).read()["train"].class_names == ("A",)
    chosen = locate(Origin(**where, class_attribute="species")).read()["train"]
    assert chosen.class_names == ("cat", "dog")
    with pytest.raises(DatasetError, match=r"no attribute 'spices' .*; there is: color, species, type"):
        locate(Origin(**where, class_attribute="spices")).read()


def test_an_attribute_for_another_format_is_told_so(tmp_path: Path) -> None:
    write_shapes(tmp_path / "coco", train=1, val=1, seed=0)
    with pytest.raises(DatasetError, match=r"--class_attribute species is about VIA, and .* is coco"):
        locate(Origin(tmp_path / "coco", class_attribute="species"))


@pytest.mark.parametrize(
    "form", [form for form in FORMATS if not form.name.startswith("coco")], ids=lambda form: form.name
)
def test_a_folder_of_nothing_is_refused(tmp_path: Path, form: Any) -> None:
    assert detect_format(tmp_path) is None
    with pytest.raises(DatasetError, match="split"):
        form.load(tmp_path, "train")


def test_training_reads_any_format(tmp_path: Path) -> None:
    yolo(tmp_path, yolo_line(1, SQUARE))
    data = load_training_data(TrainConfig(data=tmp_path))
    assert data.train.class_names == ("cat", "dog")
    assert data.val is None
    yolo(tmp_path, "0 1\n")
    with pytest.raises(DataStop, match=r"line 1 of .*a\.txt"):
        load_training_data(TrainConfig(data=tmp_path))


def test_a_mask_costs_little_memory(tmp_path: Path) -> None:
    numbers = np.arange(1, 2501).reshape(50, 50)
    ids = np.kron(numbers, np.ones((8, 8), np.int64))
    ids[::8] = 0
    assembly = Assembly("many", tmp_path)
    encode_indices(ids)
    tracemalloc.start()
    for number in range(8):
        found = [Found("thing", rle) for rle in encode_indices(ids).values()]
        assembly.add(tmp_path / f"{number}.png", 400, 400, found)
        del found
    data = assembly.finish(["thing"])
    del assembly
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    count = sum(map(len, data.annotations))
    assert count == 20_000
    # 57 bytes for the box and the rest, 25 for where the mask lies, then its runs; as pixels it would be 160,000
    assert grown / count < 150, grown / count
    assert isinstance(data.annotations[0].segmentations[0], RLE)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    ("folder", "form", "counts", "crowds"),
    [
        ("cityscapes", "cityscapes", {"person": 2, "rider": 1, "car": 22, "bicycle": 2}, 0),
        ("penn_fudan", "instance_png", {"person": 3}, 0),
        ("nuclei", "coco", {"nucleus": 23095}, 0),
        ("coco_mini", "coco", None, 8),
    ],
)
def test_real_data(folder: str, form: str, counts: dict[str, int] | None, crowds: int) -> None:
    found = detect_format(SHARED / folder)
    assert found is not None
    assert found.name == form
    data = found.load(SHARED / folder, "train")
    assert data.problems == ()
    labels = np.concatenate([objects.labels[~objects.crowd] for objects in data.annotations])
    if counts is not None:
        assert {name: int((labels == label).sum()) for label, name in enumerate(data.class_names, 1)} == dict.fromkeys(
            data.class_names, 0
        ) | counts
    assert sum(int(objects.crowd.sum()) for objects in data.annotations) == crowds


def test_every_writable_format_has_a_name_of_its_own() -> None:
    assert len(set(WRITABLE)) == len(WRITABLE)
    with pytest.raises(DatasetError, match="there are coco, "):
        find_format("coko")
