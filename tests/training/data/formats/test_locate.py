"""Datasets from what the flags say, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.data.formats import tool_folders as tools
from tests.training.data.formats.samples import write_json
from training.data.annotations.dataset import DatasetError
from training.data.formats.locate import Origin, locate
from training.data.loading.source import load_split, load_splits


def write_coco(folder: Path) -> Origin:
    tools.coco(folder / "labels/mine.json", tools.pictures(folder / "photos"))
    return Origin.of(None, (folder / "labels/mine.json",), folder / "photos")


def write_coco_beside(folder: Path) -> Origin:
    tools.coco(folder / "mine.json", tools.pictures(folder))
    return Origin.of(folder / "mine.json")


def write_via(folder: Path) -> Origin:
    write_json(folder / "regions.json", tools.via_images(tools.pictures(folder / "photos")))
    return Origin.of(None, (folder / "regions.json",), folder / "photos")


def write_csv(folder: Path) -> Origin:
    tools.via_csv(folder / "regions.csv", tools.pictures(folder / "photos"))
    return Origin.of(None, (folder / "regions.csv",), folder / "photos")


def write_yolo(folder: Path) -> Origin:
    tools.yolo(folder / "train/labels", *tools.pictures(folder / "train/images"))
    (folder / "data.yaml").write_text("path: /content/drive\ntrain: /content/drive/train/images\nnames: [red, green]\n")
    (folder / "other.yaml").write_text("train: nowhere\nnames: [blue]\n")
    return Origin.of(folder / "data.yaml")


@pytest.mark.parametrize(
    ("write", "form"),
    [
        pytest.param(write_coco, "coco", id="COCO, images elsewhere"),
        pytest.param(write_coco_beside, "coco", id="--data FILE, the images beside it"),
        pytest.param(write_via, "via", id="VIA's JSON"),
        pytest.param(write_csv, "via", id="VIA's CSV"),
        pytest.param(write_yolo, "yolo", id="--data data.yaml"),
    ],
)
def test_a_file_of_annotations(tmp_path: Path, write: Callable[[Path], Origin], form: str) -> None:
    located = locate(write(tmp_path))
    assert located.format == form
    (data,) = located.read().values()
    assert data.problems == ()
    assert len(data) == 2
    labels = data.annotations[0].labels
    assert [data.class_names[label - 1] for label in labels] == ["red", "green", "red"]


def test_files_of_annotations_are_told_apart_by_their_names(tmp_path: Path) -> None:
    files = tuple(tmp_path / f"my_{split}.json" for split in ("train", "valid"))
    for file in files:
        tools.coco(file, tools.pictures(tmp_path / "photos", f"{file.stem}.png"))
    splits = load_splits(Origin.of(None, files, tmp_path / "photos"), "masks")
    assert splits.val is not None
    assert [splits.train.images[0].file, splits.val.images[0].file] == ["my_train.png", "my_valid.png"]


def test_a_single_file_is_meant_whatever_its_name(tmp_path: Path) -> None:
    tools.coco(tmp_path / "val.json", tools.pictures(tmp_path))
    origin = Origin.of(None, (tmp_path / "val.json",))
    trained = load_splits(origin, "masks")
    assert (len(trained.train), trained.val) == (2, None)
    assert len(load_split(origin, "masks", "test", rename={}, classes=())) == 2


def test_every_split_can_be_chosen_and_a_missing_one_names_them(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test", "night"), 1):
        names = tools.pictures(tmp_path / split, *(f"{image}.png" for image in range(number)))
        tools.coco(tmp_path / f"annotations/instances_{split}.json", names)
    origin = Origin(tmp_path)
    assert [len(load_split(origin, "masks", split, rename={}, classes=())) for split in ("test", "night")] == [2, 3]
    with pytest.raises(DatasetError, match="no validation split; use --split train or --split test or --split night"):
        load_split(origin, "masks", "val", rename={}, classes=())
    assert load_splits(origin, "masks").train.notes == ("not used in training: the splits night",)


def test_where_nothing_fits_it_says_what_is_there_and_what_was_looked_for(tmp_path: Path) -> None:
    tools.pictures(tmp_path / "photos", "a.png", "b.jpg")
    write_json(tmp_path / "labels/notes.json", {"notes": []})
    with pytest.raises(DatasetError) as error:
        locate(Origin(tmp_path))
    message = str(error.value)
    assert "  photos/: 2 images" in message
    assert "  labels/: notes.json" in message
    assert "coco: annotations/instances_SPLIT.json" in message
    assert "--annotations FILE --images DIR" in message


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        pytest.param(lambda f: Origin(f / "none"), "none is not a folder", id="no folder"),
        pytest.param(lambda f: Origin(None, (f / "none.json",)), "none.json is not a file", id="no file"),
        pytest.param(
            lambda f: Origin(None, (f / "notes.json",)), "is no annotation file that is known", id="what file"
        ),
        pytest.param(lambda f: Origin(f, (), f), "goes with --annotations FILE", id="images alone"),
        pytest.param(lambda f: Origin(), "give a folder, or --annotations", id="nothing"),
    ],
)
def test_what_cannot_be_located_is_said(tmp_path: Path, origin: Callable[[Path], Origin], reason: str) -> None:
    write_json(tmp_path / "notes.json", {"notes": []})
    with pytest.raises(DatasetError, match=reason):
        locate(origin(tmp_path))


@pytest.mark.parametrize("inner", ["set", "set/set"])
@pytest.mark.parametrize(
    "beside",
    [(), ("set.zip",), ("README.md",), ("README", "LICENSE.txt"), ("set.tar.gz", "__MACOSX/._set", ".DS_Store")],
)
def test_the_folder_that_an_archive_unpacks_to_is_opened(tmp_path: Path, beside: tuple[str, ...], inner: str) -> None:
    tools.labelme(tmp_path / inner, *tools.pictures(tmp_path / inner))
    for name in beside:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("not data")
    located = locate(Origin(tmp_path))
    assert (located.format, {split: len(data) for split, data in located.read().items()}) == ("labelme", {"train": 2})
    assert tmp_path / inner in located.read()["train"].images[0].path.parents


@pytest.mark.parametrize("beside", ["notes.txt", "other/1.txt"])
def test_a_folder_beside_something_else_is_named(tmp_path: Path, beside: str) -> None:
    tools.coco(tmp_path / "set/labels.json", tools.pictures(tmp_path / "set/data"))
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).write_text("not data")
    with pytest.raises(DatasetError, match=r"set holds one of the format coco: give that folder"):
        locate(Origin(tmp_path))
