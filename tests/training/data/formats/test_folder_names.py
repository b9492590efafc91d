"""What lies in a folder for validation or tests is nothing to train on, in any format, wherever that folder lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.training.data.formats import tool_folders as tools
from tests.training.data.formats.samples import write_ids, write_json
from training.data.formats.locate import Origin, locate
from training.data.loading.source import load_splits

Write = Callable[[Path, str, tuple[str, ...]], None]
"""Writes images of these names, and their annotations, into a folder DIR/PLACE."""


def write_labelme(folder: Path, place: str, names: tuple[str, ...]) -> None:
    tools.labelme(folder / place, *tools.pictures(folder / place, *names))


def write_yolo_beside(folder: Path, place: str, names: tuple[str, ...]) -> None:
    tools.yolo(folder / place, *tools.pictures(folder / place, *names))
    (folder / "classes.txt").write_text("red\ngreen\n")


def write_yolo_apart(folder: Path, place: str, names: tuple[str, ...]) -> None:
    tools.yolo(folder / "Labels" / place, *tools.pictures(folder / "Images" / place, *names))
    (folder / "classes.txt").write_text("red\ngreen\n")


def write_cellpose(folder: Path, place: str, names: tuple[str, ...]) -> None:
    for name in tools.pictures(folder / place, *names):
        write_ids(folder / place / f"{Path(name).stem}_masks.png", tools.ids())


def write_masks(folder: Path, place: str, names: tuple[str, ...]) -> None:
    for name in tools.pictures(folder / "images" / place, *names):
        write_ids(folder / "masks" / place / name, tools.ids())


PLACES: dict[str, tuple[Mapping[str, str], Mapping[str, int]]] = {
    "train and val": ({"train": "train", "val": "val"}, {"train": 2, "val": 1}),
    "in data/": ({"train": "data/train", "val": "data/val"}, {"train": 2, "val": 1}),
    "three folders deep": ({"train": "a/b/c/train", "val": "a/b/c/val"}, {"train": 2, "val": 1}),
    "in capitals": ({"train": "Data/TRAIN", "val": "Data/Valid"}, {"train": 2, "val": 1}),
    "other words": (
        {"train": "x/training", "val": "x/validation", "test": "x/Testing"},
        {"train": 2, "val": 1, "test": 1},
    ),
    "by site": ({"train": "berlin/train", "train2": "ulm/train", "val": "ulm/dev"}, {"train": 4, "val": 1}),
    "a name that says nothing": ({"train": "berlin", "val": "ulm/val"}, {"train": 2, "val": 1}),
    "val inside of train": ({"train": "train/train", "val": "train/val"}, {"train": 2, "val": 1}),
    "loose beside val": ({"train": ".", "val": "val"}, {"train": 2, "val": 1}),
    "train inside of test": ({"train": "all", "test": "all/test/train"}, {"train": 2, "test": 1}),
}


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with other files beside"])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("write", [write_labelme, write_yolo_beside, write_yolo_apart, write_cellpose, write_masks])
def test_folders_are_splits(tmp_path: Path, write: Write, places: str, beside: bool) -> None:
    lie, expected = PLACES[places]
    for split, place in lie.items():
        count = 2 if split.startswith("train") else 1
        write(tmp_path, place, tuple(f"{split}{number}.png" for number in range(count)))
    if beside:
        for name in ("README.md", "notes.txt", "data.zip"):
            (tmp_path / name).write_text("not data")
    found = locate(Origin(tmp_path)).read()
    assert {split: len(data) for split, data in found.items()} == expected
    for split, data in found.items():
        assert data.problems == ()
        assert all(record.path.name.startswith(split) for record in data.images)
        assert {len(objects) for objects in data.annotations} == {3}


def test_folders_above_the_dataset_say_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "val/test/mine"
    write_labelme(folder, "photos", ("a.png", "b.png"))
    assert {split: len(data) for split, data in locate(Origin(folder)).read().items()} == {"train": 2}


@pytest.mark.parametrize(
    ("name", "expected", "note"),
    [
        # A file whose name says nothing leaves it to the folders of the images.
        ("result.json", {"train": 2, "val": 1}, "the names of folders say which images are for what: train 2, val 1"),
        # One that is called train says it itself, as LVIS and trainval lists do; a line tells of it.
        ("instances_train.json", {"train": 3}, "1 images lie in folders for val (images/valid/c.png)"),
    ],
)
def test_one_coco_file_over_images_in_folders(tmp_path: Path, name: str, expected: dict[str, int], note: str) -> None:
    names = ("train/a.png", "train/b.png", "valid/c.png")
    tools.coco(tmp_path / name, tools.pictures(tmp_path / "images", *names))
    found = locate(Origin(tmp_path)).read()
    assert {split: len(data) for split, data in found.items()} == expected
    assert any(note in line for line in found["train"].notes)


@pytest.mark.parametrize(
    ("yaml", "expected", "note"),
    [
        ("train: images\nval: images/val", {"train": 2, "val": 1}, "1 images below"),
        ("train: images", {"train": 2}, "1 images below"),
        # As Ultralytics' VOC.yaml names them.
        ("train: [images/train, images/val]", {"train": 3}, "1 images lie in folders for val (images/val/c.png)"),
        ("train: train.txt", {"train": 3}, "1 images lie in folders for val (images/val/c.png)"),
    ],
)
def test_what_a_yaml_names(tmp_path: Path, yaml: str, expected: dict[str, int], note: str) -> None:
    names = ("train/a.png", "train/b.png", "val/c.png")
    tools.pictures(tmp_path / "images", *names)
    for name in names:
        tools.yolo((tmp_path / "labels" / name).parent, Path(name).name)
    (tmp_path / "train.txt").write_text("".join(f"images/{name}\n" for name in names))
    (tmp_path / "data.yaml").write_text(f"names: [red, green]\n{yaml}\n")
    found = locate(Origin(tmp_path)).read()
    assert {split: len(data) for split, data in found.items()} == expected
    assert any(note in line for line in found["train"].notes)


def test_annotations_of_train_may_find_an_image_of_val(tmp_path: Path) -> None:
    tools.pictures(tmp_path / "images", "train/a.png", "val/c.png")
    tools.labelme(tmp_path / "annotations/train", "a.png", "c.png")
    tools.labelme(tmp_path / "annotations/val", "c.png")
    data = load_splits(Origin(tmp_path), "masks")
    assert [record.path.name for record in data.train.images] == ["a.png"]
    assert any(
        "1 images lie in folders for val (images/val/c.png): they are not trained on" in note
        for note in data.train.notes
    )


def test_via_over_images_in_folders(tmp_path: Path) -> None:
    names = tools.pictures(tmp_path, "Train/a.png", "Test/b.png")
    write_json(tmp_path / "via.json", tools.via_images(names))
    assert {split: len(data) for split, data in locate(Origin(tmp_path)).read().items()} == {"train": 1, "test": 1}


@pytest.mark.parametrize(
    ("file", "yaml", "note"),
    [
        ("data.yaml", "train: images/train\nval: true", "'val: True'"),
        ("data.yaml", "train: images/train\ntest: 5", "'test: 5'"),
        ("data.yaml", "train: images/train\nval_split: 0.2", "'val_split: 0.2'"),
        ("data.yaml", "train: images/train\nval: {path: images/val}", "'val: {"),
        ("data.yaml", "train: images/train\nval: [1, 2]", "'val: [1, 2]'"),
        ("args.yaml", "val: true\nsplit: val", None),  # what Ultralytics writes beside a run
    ],
)
def test_a_key_of_a_yaml_that_names_no_images(tmp_path: Path, file: str, yaml: str, note: str | None) -> None:
    tools.yolo(tmp_path / "labels/train", *tools.pictures(tmp_path / "images/train"))
    (tmp_path / "data.yaml").write_text("names: [red, green]\ntrain: images/train\n")
    (tmp_path / file).write_text(f"names: [red, green]\n{yaml}\n")
    (data,) = locate(Origin(tmp_path)).read().values()
    assert data.class_names == tools.NAMES
    assert note is None or any(note in line for line in data.notes)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("0.png", "1.png"), None),
        (("0.png",), None),  # 1.png has no objects
        (("0.png", "1_label.png"), "1 label files belong to no image"),
        (("0.png", "1_label.png", "2.png"), "2 label files belong to no image"),
    ],
)
def test_label_files_of_no_image_are_counted(tmp_path: Path, labels: tuple[str, ...], said: str | None) -> None:
    tools.pictures(tmp_path / "images")
    tools.yolo(tmp_path / "labels", *labels)
    (tmp_path / "classes.txt").write_text("red\ngreen\n")
    (data,) = locate(Origin(tmp_path)).read().values()
    assert any("belong to no image" in note for note in data.notes) is (said is not None)
    assert said is None or any(note.startswith(said) and "1 images have none" in note for note in data.notes)
