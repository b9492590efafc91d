"""The splits of a run, with the classes that its configuration asks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.config import TrainConfig
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.check import main as check
from training.data.loading.source import load_splits, load_training_data
from training.data.shapes import write_shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "shapes"
    write_shapes(folder, train=6, val=6, seed=0)
    return folder


def names_found(data: Dataset) -> set[str]:
    labels = np.concatenate([objects.labels for objects in data.annotations])
    return {data.class_names[label - 1] for label in labels}


def test_a_run_and_its_evaluation_get_the_same_classes(folder: Path) -> None:
    everything = load_splits(folder, "masks")
    first, second, *_ = everything.train.class_names
    config = TrainConfig(data=folder, rename={first: "thing"}, classes=(second, "thing"))
    trained = load_training_data(config)
    evaluated = load_splits(folder, "masks", rename=config.rename, classes=config.classes)
    for splits in (trained, evaluated):
        for data, original in ((splits.train, everything.train), (splits.val, everything.val)):
            assert data is not None
            assert original is not None
            assert data.class_names == ("thing", second)
            assert len(data) == len(original)
            assert names_found(data) == {"thing", second}
            wanted = [objects.ids[objects.labels <= 2].tolist() for objects in original.annotations]
            assert [objects.ids.tolist() for objects in data.annotations] == wanted


@pytest.mark.parametrize("field", ["classes", "rename"])
def test_an_unknown_class_stops_with_the_known_ones(folder: Path, field: str) -> None:
    value = {"classes": ("blob",), "rename": {"blob": "thing"}}[field]
    known = ", ".join(load_splits(folder, "masks").train.class_names)
    with pytest.raises(DatasetError, match=f"no class blob; it has {known}"):
        load_training_data(TrainConfig.model_validate({"data": folder, field: value}))


def _edit(folder: Path, split: str, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / f"annotations/instances_{split}.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_classes_of_splits_are_aligned_by_name(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=2, val=4, seed=0)
    before = load_splits(tmp_path, "masks")
    assert before.val is not None
    names = [[before.val.class_names[label - 1] for label in one.labels] for one in before.val.annotations]

    def turn(document: dict[str, Any]) -> None:
        ids = [category["id"] for category in document["categories"]]
        new = dict(zip(ids, reversed(ids), strict=True))
        for record in (*document["categories"], *document["annotations"]):
            key = "category_id" if "category_id" in record else "id"
            record[key] = new[record[key]]

    _edit(tmp_path, "val", turn)
    data = load_training_data(TrainConfig(data=tmp_path))
    assert data.val is not None
    assert data.val.class_names == data.train.class_names == before.train.class_names
    assert [[data.val.class_names[label - 1] for label in one.labels] for one in data.val.annotations] == names


def test_a_class_of_one_split_alone_is_a_class_of_both(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=2, val=2, seed=0)
    name = load_splits(tmp_path, "masks").train.class_names[0]
    _edit(tmp_path, "val", lambda document: document["categories"][0].update(name="blob"))
    data = load_training_data(TrainConfig(data=tmp_path))
    assert data.val is not None
    assert data.val.class_names == data.train.class_names
    assert {"blob", name} <= set(data.train.class_names)
    merged = load_training_data(TrainConfig(data=tmp_path, rename={"blob": name}, classes=(name,)))
    assert merged.val is not None
    assert merged.val.class_names == merged.train.class_names == (name,)


@pytest.mark.parametrize(
    ("change", "classes", "reason"),
    [
        pytest.param(lambda d: d.update(annotations=[]), (), "none of its 3 images has an object", id="no objects"),
        pytest.param(
            lambda d: [a.update(iscrowd=1) for a in d["annotations"]], (), "are crowd regions", id="all crowd"
        ),
        pytest.param(
            lambda d: d["categories"].append({"id": 77, "name": "unseen"}),
            ("unseen",),
            "none of its 3 images has an object of the classes unseen",
            id="a class without objects",
        ),
        pytest.param(
            lambda d: [a.update(category_id=78) for a in d["annotations"]],
            (),
            "every annotation is broken",
            id="broken",
        ),
    ],
)
def test_nothing_to_train_on_stops_with_the_reason(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], classes: tuple[str, ...], reason: str
) -> None:
    write_shapes(tmp_path, train=3, val=2, seed=0)
    _edit(tmp_path, "train", change)
    with pytest.raises(DatasetError, match=f"has nothing to train on: .*{reason}"):
        load_training_data(TrainConfig(data=tmp_path, classes=classes, on_broken="skip"))
    if not classes:
        assert check([str(tmp_path)]) == 1


def test_boxes_alone_name_the_setting_once(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=3, val=2, seed=0)
    for split in ("train", "val"):
        _edit(tmp_path, split, lambda document: [a.update(segmentation=[]) for a in document["annotations"]])
    with pytest.raises(DatasetError, match=r"--architecture\.task boxes") as caught:
        load_training_data(TrainConfig(data=tmp_path))
    assert "\n" not in str(caught.value)
    assert load_training_data(TrainConfig.model_validate({"data": tmp_path, "architecture": {"task": "boxes"}}))


def test_without_validation_split_it_is_said_what_will_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shapes(tmp_path, train=3, val=2, seed=0)
    (tmp_path / "annotations/instances_val.json").unlink()
    assert load_training_data(TrainConfig(data=tmp_path)).val is None
    assert "no best checkpoint" in capsys.readouterr().err


def test_a_split_is_held_out_once_and_kept_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shapes(tmp_path / "data", train=10, val=2, seed=0)
    with pytest.raises(DatasetError, match="has a validation split already"):
        load_training_data(TrainConfig(data=tmp_path / "data", val=0.2))
    (tmp_path / "data/annotations/instances_val.json").unlink()
    config = TrainConfig(data=tmp_path / "data", val=0.2, output=tmp_path / "run")
    data = load_training_data(config)
    assert data.val is not None
    assert len(data.train) + len(data.val) == 10
    assert 1 <= len(data.val) <= 3  # the classes are shared out, so that it may be one more or less
    assert data.held_out is not None
    evaluated = load_splits(tmp_path / "data", "masks", val=0.2, seed=config.seed)
    assert evaluated.val is not None
    assert [one.file for one in evaluated.val.images] == [one.file for one in data.val.images]

    kept = replace(data.held_out, val=tuple(image.file for image in data.train.images[:3]))
    (tmp_path / "run").mkdir()
    kept.save(tmp_path / "run")
    again = load_training_data(config)
    assert again.val is not None
    assert tuple(image.file for image in again.val.images) == kept.val
    assert "no validation split" not in capsys.readouterr().err
    other = load_training_data(config.model_copy(update={"val": 0.5}))
    assert other.val is not None
    assert 4 <= len(other.val) <= 6
