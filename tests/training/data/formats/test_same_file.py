"""One image file in several records is one image, with the objects of all, and that is said."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.training.data.formats.samples import HEIGHT, WIDTH, labelme, names_of, shape, write_image, write_json
from training.data.annotations.dataset import Dataset
from training.data.check import main as check
from training.data.convert import main as convert
from training.data.formats.known import WRITABLE
from training.data.formats.locate import Origin, locate

SMALL = [[14, 1], [20, 1], [20, 6], [14, 6]]
RECORD = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}


def coco(folder: Path, images: list[Any], *objects: tuple[int, int, list[list[int]]]) -> Path:
    """objects: number of the image, of the category, and an outline."""
    for file in ("a.png", "b.png"):
        write_image(folder / "images/train" / file)
    annotations = [
        {"id": id_, "image_id": image, "category_id": category, "segmentation": [list(chain.from_iterable(points))]}
        for id_, (image, category, points) in enumerate(objects, 1)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    write_json(folder / "annotations/instances_train.json", document)
    return folder


def read(folder: Path) -> Dataset:
    return locate(Origin(folder)).read_aligned()["train"]


SQUARE = [[2, 1], [12, 1], [12, 9], [2, 9]]


@pytest.mark.parametrize(
    ("second", "objects", "expected", "note"),
    [
        pytest.param({}, [(1, 1, SQUARE), (2, 2, SMALL)], ["cat", "dog"], "with the objects of all", id="two halves"),
        pytest.param(
            {}, [(1, 1, SQUARE), (2, 1, SQUARE), (2, 1, SMALL)], ["cat", "cat"], "1 objects that were", id="twice"
        ),
        pytest.param(
            {}, [(1, 1, SQUARE), (2, 2, SQUARE)], ["cat", "dog"], "objects of all", id="alike, of two classes"
        ),
        pytest.param({}, [(1, 1, SQUARE), (1, 1, SQUARE)], ["cat"], "1 objects that were", id="the second empty"),
        pytest.param(
            {"file_name": "./a.png"}, [(1, 1, SQUARE), (2, 2, SMALL)], ["cat", "dog"], "of all", id="another spelling"
        ),
        pytest.param({"file_name": "b.png"}, [(1, 1, SQUARE), (2, 2, SMALL)], ["cat"], None, id="another file"),
        pytest.param({"width": 7}, [(1, 1, SQUARE)], ["cat"], None, id="another size: one is wrong"),
    ],
)
def test_two_records_of_a_file(
    tmp_path: Path, second: dict[str, Any], objects: list[Any], expected: list[str], note: str | None
) -> None:
    data = read(coco(tmp_path, [RECORD, RECORD | {"id": 2} | second], *objects))
    assert names_of(data) == expected
    assert [record.id for record in data.images] == ([1] if note else [1, 2])
    assert [note is not None and note in line for line in data.notes] == ([True] if note else [])


def test_two_labelme_files_of_a_picture(tmp_path: Path) -> None:
    labelme(tmp_path, shape("cat"))
    document = {"shapes": [shape("dog", SMALL)], "imagePath": "a b.jpg", "imageWidth": WIDTH, "imageHeight": HEIGHT}
    write_json(tmp_path / "second.json", document)
    data = read(tmp_path)
    assert names_of(data) == ["cat", "dog"]
    assert len(data) == 1
    assert "1 records are of an image file that an earlier one is of, first a b.jpg" in data.notes[0]


@pytest.mark.parametrize("form", [name for name in WRITABLE if name not in ("coco_keypoints", "instance_png")])
def test_check_and_convert_make_the_same_of_it(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = coco(tmp_path / "source", [RECORD, RECORD | {"id": 2}], (1, 1, SQUARE), (2, 2, SMALL))
    assert check([str(source)]) == 0
    assert "earlier one is of" in capsys.readouterr().out.replace("\n", " ")
    assert convert([str(source), str(tmp_path / "there"), "--to", form]) == 0
    printed = capsys.readouterr().out
    assert "earlier one is of" in printed
    assert "train: 1 images, 2 objects" in printed
    assert sorted(names_of(read(tmp_path / "there"))) == ["cat", "dog"]
