"""Classes that a run chooses and renames, and the flags for it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.coco_folder import Box, write_split
from training.command_line import parse_train_config
from training.data.annotations.classes import add_class_flags, change_classes, order_classes
from training.data.annotations.dataset import Category, Dataset, DatasetError
from training.data.annotations.records import Annotations, ImageRecord
from training.manual import as_argument


def animals() -> Dataset:
    """One image with a cat, a dog, a cow and a puppy, labels 1 to 4, and an empty one."""

    def objects(count: int) -> Annotations:
        return Annotations(
            ids=np.arange(count) + 1,
            xywh=np.ones((count, 4)),
            labels=np.arange(count) + 1,
            crowd=np.zeros(count, np.bool_),
            area=np.ones(count),
            segmentations=(None,) * count,
        )

    return Dataset(
        name="animals",
        root=Path("animals"),
        categories=tuple(Category(id_, name) for id_, name in enumerate(("cat", "dog", "cow", "puppy"), 3)),
        images=[ImageRecord(number, Path(f"{number}.png"), 9, 9, f"{number}.png") for number in (1, 2)],
        annotations=[objects(4), objects(0)],
    )


@pytest.mark.parametrize(
    ("flags", "names", "ids", "labels"),
    [
        pytest.param([], ("cat", "dog", "cow", "puppy"), [1, 2, 3, 4], [1, 2, 3, 4], id="nothing changes"),
        pytest.param(["--classes=cow, cat"], ("cat", "cow"), [1, 3], [1, 2], id="the dataset's order"),
        pytest.param(["--rename=puppy=dog"], ("cat", "dog", "cow"), [1, 2, 3, 4], [1, 2, 3, 2], id="two become one"),
        pytest.param(
            ["--rename=cat=dog,dog=cat"], ("dog", "cat", "cow", "puppy"), [1, 2, 3, 4], [1, 2, 3, 4], id="swap"
        ),
        pytest.param(["--rename=puppy=dog", "--classes=dog"], ("dog",), [2, 4], [1, 1], id="new names are chosen from"),
    ],
)
def test_flags_change_the_classes(flags: list[str], names: tuple[str, ...], ids: list[int], labels: list[int]) -> None:
    parser = argparse.ArgumentParser()
    add_class_flags(parser)
    options = parser.parse_args(flags)
    data = change_classes(animals(), rename=options.rename, classes=options.classes)
    assert data.class_names == names
    assert len(data) == 2
    assert data.annotations[0].ids.tolist() == ids
    assert data.annotations[0].labels.tolist() == labels
    assert len(data.annotations[1]) == 0


@pytest.mark.parametrize(
    ("rename", "classes", "message"),
    [
        pytest.param({"horse": "cow"}, (), "animals has no class horse; it has cat, dog, cow, puppy", id="renamed"),
        pytest.param({}, ("cat", "horse"), "animals has no class horse; it has cat, dog, cow, puppy", id="chosen"),
        pytest.param({"cat": "lion"}, ("cat",), "animals has no class cat; it has lion, dog", id="an old name"),
    ],
)
def test_an_unknown_class_is_refused_with_those_that_there_are(
    rename: dict[str, str], classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        change_classes(animals(), rename=rename, classes=classes)


def test_a_pair_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_class_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--rename=cat"])
    assert "'cat' is not OLD=NEW" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["bicycle=bike,racing bike=bike", '{"bicycle":"bike","racing bike":"bike"}'])
def test_the_flag_to_rename_is_the_same_in_every_command(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"bicycle": "bike", "racing bike": "bike"}
    parser = argparse.ArgumentParser()
    add_class_flags(parser)
    assert parser.parse_args(["--rename", text]).rename == expected
    assert parse_train_config(["--rename", text]).rename == expected
    for wrong in ("{", '{"a": 1}', '["a"]'):
        with pytest.raises(SystemExit):
            parser.parse_args(["--rename", wrong])
    assert as_argument(expected) == """'{"bicycle":"bike","racing bike":"bike"}'"""
    assert as_argument({"bicycle": "bike"}) == "bicycle=bike"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(("dog", "cat"), ("dog", "cat"), id="another order"),
        pytest.param(("cat", "dog"), ("cat", "dog"), id="as they are"),
        pytest.param(("cat", "bird"), ("cat", "dog"), id="other classes: left to the caller"),
        pytest.param(("dog",), ("cat", "dog"), id="fewer classes"),
    ],
)
def test_classes_are_put_into_an_order(tmp_path: Path, names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    data = write_split(tmp_path, "train", [(90, 60)], [[Box((5, 5, 9, 9), 1), Box((30, 5, 9, 9), 2)]])
    ordered = order_classes(data, names)
    assert ordered.class_names == expected
    assert [ordered.class_names[label - 1] for label in ordered.annotations[0].labels] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("listed", "model", "expected"),
    [
        pytest.param(("cat", "dog"), ("dog", "cat"), ("dog", "cat"), id="another order"),
        pytest.param(("blue", "cat", "dog"), ("cat", "dog"), ("cat", "dog"), id="one that another split lists"),
        pytest.param(("cat", "dog"), ("cat",), ("cat", "dog"), id="one that has objects, which the model cannot know"),
        pytest.param(("cat", "dog"), ("cat", "dog", "cow"), ("cat", "dog"), id="one is missing"),
    ],
)
def test_classes_in_the_order_of_a_model(
    listed: tuple[str, ...], model: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    labels = [listed.index("cat") + 1, listed.index("dog") + 1]
    whole = animals()
    objects = whole.annotations[0].select([0, 1])
    data = replace(
        whole,
        categories=tuple(Category(id_, name) for id_, name in enumerate(listed, 1)),
        annotations=[replace(objects, labels=np.array(labels)), whole.annotations[1]],
    )
    ordered = order_classes(data, model)
    assert ordered.class_names == expected
    assert [expected[label - 1] for label in ordered.annotations[0].labels] == ["cat", "dog"]
