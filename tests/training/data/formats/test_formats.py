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
    write_image,
    yolo,
    yolo_line,
)
from training.config import TrainConfig
from training.data.annotations.dataset import DatasetError
from training.data.checking.broken import check, report
from training.data.formats.assemble import Assembly, Found, encode_indices
from training.data.formats.known import FORMATS, WRITABLE, Format, detect_format, find_format
from training.data.formats.labelme.reader import load_labelme
from training.data.formats.yolo.reader import load_yolo
from training.data.loading.source import DataStop, load_training_data

SHARED = Path(__file__).parents[5] / "shared" / "data"


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
    numbers = np.arange(1, 626).reshape(25, 25)
    ids = np.kron(numbers, np.ones((8, 8), np.int64))
    ids[::8] = 0
    assembly = Assembly("many", tmp_path)
    encode_indices(ids)
    tracemalloc.start()
    for number in range(8):
        found = [Found("thing", rle) for rle in encode_indices(ids).values()]
        assembly.add(tmp_path / f"{number}.png", 200, 200, found)
        del found
    data = assembly.finish(["thing"])
    del assembly
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    count = sum(map(len, data.annotations))
    assert count == 5_000
    # 57 bytes for the box and the rest, 25 for where the mask lies, then its runs; as pixels it would be 40,000
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
