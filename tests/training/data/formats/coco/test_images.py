"""Images of COCO files with ids that are no numbers, and without sizes: read alike wherever data are read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training.config import TrainConfig
from training.data.annotations.dataset import Dataset
from training.data.check import main as check
from training.data.convert import main as convert
from training.data.formats.coco.frames import Orientation
from training.data.formats.coco.reader import load_coco
from training.data.loading.source import load_training_data

SIZE = (30, 20)
OUTLINE = [2, 1, 12, 1, 12, 9, 2, 9]


def write(folder: Path, document: Any, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number, record in enumerate(document["images"]):
        path = folder / "images" / record["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (40 * number, 90, 200)).save(path, exif=exif)
    (folder / "annotations").mkdir()
    (folder / "annotations/instances_train.json").write_text(json.dumps(document))
    return folder


def read(folder: Path, orientation: Orientation = "auto") -> Dataset:
    return load_coco(folder / "annotations/instances_train.json", folder / "images", orientation=orientation)


def document_of(*ids: Any, category: Any = 1, annotation: Any = None, **size: Any) -> dict[str, Any]:
    """An object on every image."""
    return {
        "images": [
            {"id": id_, "file_name": f"{number}.png"} | (size or {"width": SIZE[0], "height": SIZE[1]})
            for number, id_ in enumerate(ids)
        ],
        "annotations": [
            {
                "id": number if annotation is None else f"{annotation}{number}",
                "image_id": id_,
                "category_id": category,
                "bbox": [2, 1, 10, 8],
                "segmentation": [OUTLINE],
            }
            for number, id_ in enumerate(ids, 1)
        ],
        "categories": [{"id": category, "name": "cat"}],
    }


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        pytest.param(["img_01", "img_02"], ["img_01", "img_02"], id="names"),
        pytest.param(["0b7e6c8e-4f5c-4c9f-9a53-0d1f6f1f4a11", "É.png"], None, id="UUIDs and files"),
        pytest.param(["007", "7"], ["007", 7], id="zeros before a number make it a text"),
        pytest.param([5, "b"], [5, "b"], id="texts among numbers"),
        pytest.param(["1", "2"], [1, 2], id="numbers as texts"),
        pytest.param([2**70, 2**70 + 1], [str(2**70), str(2**70 + 1)], id="numbers beyond 64 bits"),
        pytest.param(["9" * 30, "9" * 5000], ["9" * 30, "9" * 5000], id="and as texts"),
    ],
)
def test_ids_may_be_texts(tmp_path: Path, ids: list[Any], expected: list[Any] | None) -> None:
    folder = write(tmp_path / "in", document_of(*ids))
    data = read(folder)
    assert data.problems == ()
    assert [image.original_id for image in data.images] == (expected or ids)
    assert len({image.id for image in data.images}) == 2
    assert [len(objects) for objects in data.annotations] == [1, 1]
    assert bool(data.notes) == any(isinstance(image.original_id, str) for image in data.images)
    assert check([str(folder)]) == 0
    assert len(load_training_data(TrainConfig(data=folder)).train) == 2
    assert convert([str(folder), str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [record["id"] for record in written["images"]] == (expected or ids)
    assert [record["image_id"] for record in written["annotations"]] == (expected or ids)


def test_other_ids_may_be_texts_too(tmp_path: Path) -> None:
    data = read(write(tmp_path, document_of("a", "b", category="k1", annotation="x")))
    assert data.problems == ()
    assert data.class_names == ("cat",)
    assert [objects.ids.tolist() for objects in data.annotations] == [[1], [2]]
    assert data.notes == (
        "2 of 2 images have an id that is no number, and got one: 'a' is 1",
        "1 of 1 categories have an id that is no number, and got one: 'k1' is 1",
        "2 of 2 annotations have an id that is no number, and got one: 'x1' is 1",
    )


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        pytest.param({"image_id": "c"}, "unknown image", "belongs to image c, which", id="image"),
        pytest.param({"category_id": "dog"}, "unknown category", "has category dog, which", id="category"),
        pytest.param({"image_id": ""}, "wrong type", "'image_id' of annotation 2 is ''", id="empty"),
        pytest.param({"image_id": ["a"]}, "wrong type", r"'image_id' of annotation 2 is \['a'\]", id="a list"),
        pytest.param({"image_id": 1.5}, "wrong type", "is 1.5, not a whole number", id="a fraction"),
    ],
)
def test_a_reference_to_nothing_is_named_as_it_stands(
    tmp_path: Path, change: dict[str, Any], kind: str, message: str
) -> None:
    document = document_of("a", "b")
    document["annotations"][1] |= change
    data = read(write(tmp_path, document))
    (problem,) = data.problems
    assert problem.kind == kind
    assert re.search(message, problem.message)


def test_a_broken_image_is_called_by_its_own_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, document_of("a", "b"))
    (folder / "images/1.png").write_bytes(b"no image")
    assert check([str(folder)]) == 1
    assert "image b cannot be opened" in capsys.readouterr().out


@pytest.mark.parametrize(
    "size",
    [
        pytest.param({"license": 1}, id="missing"),
        pytest.param({"width": None, "height": None}, id="null"),
        pytest.param({"width": 0, "height": 0}, id="zero"),
        pytest.param({"width": SIZE[0]}, id="half"),
        pytest.param({"width": "", "height": ""}, id="empty"),
    ],
)
def test_a_size_that_is_missing_is_read_from_the_image(tmp_path: Path, size: dict[str, Any]) -> None:
    folder = write(tmp_path / "in", document_of(1, 2, **size))
    data = read(folder)
    assert data.problems == ()
    assert [(image.width, image.height) for image in data.images] == [SIZE, SIZE]
    assert data.notes == ("2 of 2 images have no size in the file: it is read from the images",)
    assert check([str(folder)]) == 0
    assert len(load_training_data(TrainConfig(data=folder)).train) == 2
    assert convert([str(folder), str(tmp_path / "out")]) == 0
    written = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert (written["images"][0]["width"], written["images"][0]["height"]) == SIZE


def test_an_image_without_size_and_file_is_a_missing_file(tmp_path: Path) -> None:
    folder = write(tmp_path, document_of(1, 2, license=1))
    (folder / "images/0.png").unlink()
    (folder / "images/1.png").write_bytes(b"no image")
    assert [problem.kind for problem in read(folder).problems] == ["missing file", "unreadable image"]


@pytest.mark.parametrize("orientation", [3, 6])
def test_without_a_size_nothing_tells_the_frame(tmp_path: Path, orientation: int) -> None:
    folder = write(tmp_path, document_of(1, license=1), orientation)
    (problem,) = read(folder).problems
    assert problem.kind == "unclear orientation"
    assert "--orientation seen" in problem.message
    stored, seen = read(folder, "stored"), read(folder, "seen")
    assert [(image.width, image.height) for image in (*stored.images, *seen.images)] == [SIZE, SIZE]
    assert stored.annotations[0].xywh[0].tolist() == [2, 1, 10, 8]
    expected = [18, 11, 10, 8] if orientation == 3 else [1, 8, 8, 10]
    assert seen.annotations[0].xywh[0].tolist() == expected
