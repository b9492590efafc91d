"""The splits of a run, with the classes that its configuration asks for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from training.config import TrainConfig
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.loading.source import DataStop, load_splits, load_training_data
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


def test_splits_that_disagree_are_mended_by_renaming(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=2, val=2, seed=0)
    file = tmp_path / "annotations/instances_val.json"
    document = json.loads(file.read_text())
    name, document["categories"][0]["name"] = document["categories"][0]["name"], "blob"
    file.write_text(json.dumps(document))
    with pytest.raises(DataStop, match="the splits have different classes"):
        load_training_data(TrainConfig(data=tmp_path))
    with pytest.raises(DatasetError, match=f"instances_val has no class {name}"):
        load_training_data(TrainConfig(data=tmp_path, classes=(name,)))
    data = load_training_data(TrainConfig(data=tmp_path, rename={"blob": name}, classes=(name,)))
    assert data.val is not None
    assert data.val.class_names == data.train.class_names == (name,)
