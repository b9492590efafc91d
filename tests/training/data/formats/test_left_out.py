"""What lies in a dataset's folder and is in none of its splits is counted, whatever the command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.data.formats import tool_folders as tools
from tests.training.data.formats.samples import write_ids
from training.data.checking.broken import mended
from training.data.convert import convert
from training.data.formats.known import find_format
from training.data.formats.locate import Origin, locate
from training.data.loading.source import load_split, load_splits

Write = Callable[[Path, str, tuple[str, ...]], None]
"""Writes images of these names, and their annotations, for the folder PLACE of a split, or "." for none."""


def write_labelme(folder: Path, place: str, names: tuple[str, ...]) -> None:
    tools.labelme(folder / place, *tools.pictures(folder / place, *names))


def write_yolo(folder: Path, place: str, names: tuple[str, ...]) -> None:
    tools.yolo(folder / "labels" / place, *tools.pictures(folder / "images" / place, *names))
    (folder / "classes.txt").write_text("red\ngreen\n")


def write_yolo_with_yaml(folder: Path, place: str, names: tuple[str, ...]) -> None:
    write_yolo(folder, place, names)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [red, green]\n")


def write_yolo_around(folder: Path, place: str, names: tuple[str, ...]) -> None:
    tools.yolo(folder / place / "labels", *tools.pictures(folder / place / "images", *names))
    (folder / "data.yaml").write_text("train: ../train/images\nval: ../val/images\nnames: [red, green]\n")


def write_masks(folder: Path, place: str, names: tuple[str, ...]) -> None:
    for name in tools.pictures(folder / "images" / place, *names):
        write_ids(folder / "masks" / place / name, tools.ids())


def write_cellpose(folder: Path, place: str, names: tuple[str, ...]) -> None:
    for name in tools.pictures(folder / place, *names):
        write_ids(folder / place / f"{Path(name).stem}_masks.png", tools.ids())


def write_objects(folder: Path, place: str, names: tuple[str, ...]) -> None:
    for name in names:
        tools.pictures(folder / place / Path(name).stem / "images", name)
        tools.object_masks(folder / place / Path(name).stem / "masks")


@pytest.mark.parametrize(
    ("write", "first"),
    [
        (write_labelme, "2 of LabelMe's JSON files are in no split and are left out, first: x.json"),
        (write_yolo, "2 images with label files are in no split and are left out, first: images/x.png"),
        (write_yolo_with_yaml, "2 images with label files are in no split and are left out, first: images/x.png"),
        (write_yolo_around, "2 images with label files are in no split and are left out, first: images/x.png"),
        (write_masks, "2 images are in no split and are left out, first: images/x.png"),
        (write_cellpose, "2 images are in no split and are left out, first: x.png"),
        (write_objects, "2 images are in no split and are left out, first: x/images/x.png"),
    ],
)
@pytest.mark.parametrize("loose", [False, True])
def test_what_lies_beside_the_folders_of_splits(tmp_path: Path, write: Write, first: str, loose: bool) -> None:
    folder = tmp_path / "set"
    write(folder, "train", ("a.png", "b.png"))
    write(folder, "val", ("c.png",))
    if loose:
        write(folder, ".", ("x.png", "y.png"))
    located = locate(Origin(folder))
    trained = load_splits(folder, "masks")
    assert {split: len(data) for split, data in located.read().items()} == {"train": 2, "val": 1}
    assert trained.val is not None
    said = {
        "check": [note for data in located.read_aligned().values() for note in data.notes],
        "train": [*trained.train.notes, *trained.val.notes],
        "evaluate on train": load_split(Origin(folder), "masks", "train", rename={}, classes=()).notes,
        "evaluate on val": load_split(Origin(folder), "masks", "val", rename={}, classes=()).notes,
    }
    for command, notes in said.items():
        assert [note for note in notes if "in no split" in note] == ([first] if loose else []), command
    printed = convert(located, tmp_path / "out", find_format("coco"))
    assert sum(first in line for line in printed) == int(loose)
    assert sum("in no split" in line for line in printed) == int(loose)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("masks/val", "1 images have no folder of masks and are left out, first: images/val/c.png; masks/val is not"),
        ("masks/test", "1 images have no folder of masks and are left out, first: images/test/d.png; masks/test is"),
    ],
)
def test_a_split_without_its_masks(tmp_path: Path, gone: str, said: str) -> None:
    for place, name in (("train", "a.png"), ("val", "c.png"), ("test", "d.png")):
        write_masks(tmp_path, place, (name,))
    shutil.rmtree(tmp_path / gone)
    found = locate(Origin(tmp_path)).read()
    assert sorted(found) == sorted({"train", "val", "test"} - {Path(gone).name})
    assert [note.startswith(said) for note in found["train"].notes if "left out" in note] == [True]


def test_the_folder_of_tests_that_has_no_masks(tmp_path: Path) -> None:
    """As the 2018 Data Science Bowl comes."""
    write_objects(tmp_path, "stage1_train", ("a.png",))
    write_objects(tmp_path, "stage1_test", ("x.png", "y.png"))
    for name in "xy":
        shutil.rmtree(tmp_path / "stage1_test" / name / "masks")
    (data,) = locate(Origin(tmp_path)).read().values()
    assert "2 images are in no split and are left out, first: stage1_test/x/images/x.png" in data.notes


@pytest.mark.parametrize("place", [".", "train"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda one: None, None),
        (lambda one: shutil.rmtree(one / "masks"), "1 folders have no masks/ and are left out, first: a"),
        (lambda one: tools.pictures(one / "images", "more.png"), "left out, first: a, with 2"),
        (lambda one: shutil.rmtree(one / "images"), "left out, first: a, with 0"),
        (lambda one: (one / "images/a.png").rename(one / "images/a.txt"), "left out, first: a, with 0"),
    ],
)
def test_a_folder_that_is_no_image_with_its_masks(
    tmp_path: Path, place: str, spoil: Callable[[Path], object], said: str | None
) -> None:
    write_objects(tmp_path, place, ("a.png", "b.png", "c.png"))
    spoil(tmp_path / place / "a")
    (data,) = locate(Origin(tmp_path)).read().values()
    assert (len(data), data.problems) == (3 if said is None else 2, ())
    assert [said is not None and note.endswith(said) for note in data.notes if "left out" in note] == (
        [] if said is None else [True]
    )


@pytest.mark.parametrize(
    ("images", "json", "count"),
    [
        (".", ".", 2),
        ("images", "annotations", 2),
        ("images", "images/json", 2),
        ("train", "train", 2),
        ("images/train", "annotations/train", 2),
        (".", ".", 0),
    ],
)
def test_images_that_labelme_has_not_annotated(tmp_path: Path, images: str, json: str, count: int) -> None:
    annotated = tools.pictures(tmp_path / images, "a.png", "b.png")
    if count:
        tools.pictures(tmp_path / images, "u.png", "v.jpg")
    tools.labelme(tmp_path / json, *annotated)
    (data,) = locate(Origin(tmp_path)).read().values()
    said = [line for line in mended(data) if "not annotated" in line]
    assert len(data) == 2
    assert [line.endswith("2 images have no JSON: they count as not annotated and are left out, first: u.png")
            for line in said] == [True] * (count > 0)  # fmt: skip


def test_images_of_another_split_are_annotated_there(tmp_path: Path) -> None:
    tools.pictures(tmp_path / "images", "a.png", "b.png", "c.png")
    tools.labelme(tmp_path / "annotations/train", "a.png", "b.png")
    tools.labelme(tmp_path / "annotations/val", "c.png")
    found = locate(Origin(tmp_path)).read()
    assert [len(data) for data in found.values()] == [2, 1]
    assert not any("not annotated" in note for data in found.values() for note in data.notes)
