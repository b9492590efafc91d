"""COCO files annotated on pictures as stored, and as seen with their EXIF orientation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from faster_coco_eval import mask as mask_api
from PIL import Image, ImageOps

from training.config import TrainConfig
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.checking.broken import check
from training.data.convert import main as convert
from training.data.formats.coco.frames import Orientation
from training.data.formats.coco.reader import load_coco
from training.data.formats.locate import Origin, locate
from training.data.loading.source import DataStop, load_training_data

BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What makes the stored picture of the one that is seen."""
BOX = (4, 3, 9, 6)
"""x, y, width, height of the object, which is white, in the frame that is annotated."""


class Picture(NamedTuple):
    """An image, and whether its object is annotated in the frame that is seen."""

    orientation: int
    seen: bool
    size: tuple[int, int] = (32, 20)
    rle: bool = False
    objects: bool = True


def _write(folder: Path, pictures: Sequence[Picture]) -> Path:
    """A COCO folder in which `size` is that of the frame in which a picture is annotated."""
    document: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    document["categories"][0]["keypoints"] = ["corner"]
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for number, picture in enumerate(pictures, 1):
        width, height = picture.size
        x, y, wide, high = BOX
        pixels = np.zeros((height, width), np.uint8)
        pixels[y : y + high, x : x + wide] = 255
        image = Image.fromarray(pixels)
        if picture.seen and picture.orientation != 1:
            image = image.transpose(BACK[picture.orientation])
        exif = Image.Exif()
        exif[0x0112] = picture.orientation
        image.save(folder / f"images/{number}.png", exif=exif)
        document["images"].append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        outline: Any = [[x, y, x + wide, y, x + wide, y + high, x, y + high]]
        if picture.rle:
            rle = mask_api.encode(np.asfortranarray(pixels // 255))
            outline = {"size": [height, width], "counts": rle["counts"].decode()}
        if picture.objects:
            document["annotations"].append(
                {"id": number, "image_id": number, "category_id": 1, "bbox": list(BOX), "segmentation": outline}
                | {"keypoints": [x, y, 2]}
            )
    (folder / "annotations/instances_train.json").write_text(json.dumps(document))
    return folder


def _load(folder: Path, orientation: Orientation = "auto") -> Dataset:
    return load_coco(folder / "annotations/instances_train.json", folder / "images", orientation=orientation)


def _assert_on_the_objects(data: Dataset) -> None:
    """Mask and box are what is white in the file, pixel by pixel."""
    for record, objects in zip(data.images, data.annotations, strict=True):
        stored = np.asarray(Image.open(record.path)) > 0
        assert (record.height, record.width) == stored.shape
        rows, columns = np.nonzero(stored)
        for mask, box in zip(objects.masks(record.height, record.width), objects.boxes.tolist(), strict=True):
            np.testing.assert_array_equal(mask > 0, stored)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_size_tells_of_pictures_on_their_side(tmp_path: Path, orientation: int, rle: bool) -> None:
    data = _load(_write(tmp_path, [Picture(orientation, True, rle=rle), Picture(orientation, False), Picture(1, True)]))
    _assert_on_the_objects(data)
    assert (data.problems, check(data, "masks_keypoints")) == ((), [])
    assert data.notes == (
        "annotated as seen, by their sizes: 1 image with EXIF orientation, turned to the stored pixels, first: 1.png",
    )


@pytest.mark.parametrize("rle", [False, True])
@pytest.mark.parametrize(("orientation", "size"), [(2, (32, 20)), (3, (32, 20)), (4, (32, 20)), (6, (24, 24))])
@pytest.mark.parametrize("seen", [False, True])
def test_a_flag_tells_where_the_size_does_not(
    tmp_path: Path, orientation: int, size: tuple[int, int], seen: bool, rle: bool
) -> None:
    folder = _write(tmp_path, [Picture(orientation, seen, size, rle), Picture(1, seen)])
    flag: Orientation = "seen" if seen else "stored"
    data = _load(folder, flag)
    _assert_on_the_objects(data)
    assert data.notes == (
        f"taken as annotated as {flag} (--orientation {flag}): 1 image with EXIF orientation, first: 1.png",
    )
    unclear = _load(folder)
    assert [(problem.kind, problem.file) for problem in unclear.problems] == [("unclear orientation", "1.png")]
    assert "say --orientation seen" in unclear.problems[0].message
    assert [record.file for record in unclear.images] == ["2.png"]


@pytest.mark.parametrize("flag", ["seen", "stored"])
def test_a_flag_that_sizes_contradict_is_told_so(tmp_path: Path, flag: Orientation) -> None:
    data = _load(_write(tmp_path, [Picture(6, flag != "seen"), Picture(8, flag == "seen")]), flag)
    _assert_on_the_objects(data)
    assert (
        f"--orientation {flag} is not what their sizes say of 1 image with EXIF orientation, and the sizes count, "
        "first: 1.png" in data.notes
    )


@pytest.mark.parametrize("seen", [False, True])
def test_the_other_images_tell(tmp_path: Path, seen: bool) -> None:
    data = _load(_write(tmp_path, [Picture(6, seen), Picture(3, seen), Picture(2, seen), Picture(1, seen)]))
    _assert_on_the_objects(data)
    assert data.problems == ()
    assert f"taken as annotated as {'seen' if seen else 'stored'} (the other images tell): 2 images" in data.notes[-1]


def test_images_that_disagree_tell_nothing_of_others(tmp_path: Path) -> None:
    data = _load(_write(tmp_path, [Picture(6, True), Picture(8, False), Picture(3, True)]))
    assert [problem.file for problem in data.problems] == ["3.png"]
    _assert_on_the_objects(data)


def test_an_image_without_objects_needs_no_frame(tmp_path: Path) -> None:
    data = _load(_write(tmp_path, [Picture(3, True, objects=False), Picture(1, True)]))
    assert (len(data), data.problems, data.notes) == (2, (), ())


def test_keypoints_are_turned_too(tmp_path: Path) -> None:
    folder = _write(tmp_path, [Picture(6, True)])
    keypoints = _load(folder).annotations[0].keypoints
    assert keypoints is not None
    with Image.open(folder / "images/1.png") as image:
        marked = Image.new("L", image.size)
        x, y, visible = keypoints[0, 0].tolist()
        # (x, y) is a corner between pixels; the object's own pixel there is up and to the right in the stored picture
        marked.putpixel((int(x), int(y) - 1), 255)
        marked.getexif()[0x0112] = 6
    assert visible == 2
    upright = np.asarray(ImageOps.exif_transpose(marked))
    assert np.argwhere(upright).tolist() == [[BOX[1], BOX[0]]]


def test_a_picture_of_another_size_is_left_to_the_check(tmp_path: Path) -> None:
    folder = _write(tmp_path, [Picture(6, True), Picture(1, True)])
    Image.new("L", (50, 40)).save(folder / "images/1.png", exif=_exif(6))
    data = _load(folder)
    assert [(problem.kind, problem.file) for problem in check(data)] == [("size mismatch", "1.png")]


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_a_training_stops_at_unclear_pictures_and_takes_the_flag(tmp_path: Path) -> None:
    folder = _write(tmp_path, [Picture(3, True), Picture(3, True)])
    with pytest.raises(DataStop, match="--orientation seen"):
        load_training_data(TrainConfig(data=folder))
    with pytest.raises(DatasetError, match="every image is broken"):
        load_training_data(TrainConfig(data=folder, on_broken="skip"))
    _assert_on_the_objects(load_training_data(TrainConfig(data=folder, orientation="seen")).train)
    located = locate(Origin(folder, orientation="seen"), "coco")
    _assert_on_the_objects(located.read()["train"])


def test_what_is_converted_is_read_back_the_same(tmp_path: Path) -> None:
    folder = _write(tmp_path / "source", [Picture(3, True), Picture(2, True), Picture(6, True)])
    arguments = [str(folder), str(tmp_path / "out")]
    assert convert([*arguments, "--orientation", "seen"]) == 0
    data = _load_train(tmp_path / "out")
    _assert_on_the_objects(data)
    assert data.problems == ()


def _load_train(folder: Path) -> Dataset:
    return locate(Origin(folder)).read()["train"]


def test_other_formats_have_a_frame_of_their_own(tmp_path: Path) -> None:
    folder = _write(tmp_path / "source", [Picture(1, True), Picture(1, True)])
    assert convert([str(folder), str(tmp_path / "out"), "--to", "labelme"]) == 0
    with pytest.raises(DatasetError, match="--orientation seen is about COCO"):
        locate(Origin(tmp_path / "out", orientation="seen"))
