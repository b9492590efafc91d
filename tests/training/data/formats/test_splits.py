"""What names say of splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.annotations.dataset import DatasetError
from training.data.formats.splits import by_split, split_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("TRAIN2017", "train"),
        ("stage1_train", "train"),
        ("valid", "val"),
        ("Validation", "val"),
        ("val2014", "val"),
        ("instances_VAL", "val"),
        ("test", "test"),
        ("lvis_v1_test-dev", None),  # two splits' names
        ("trainval", None),
        ("minival", None),
        ("imagesTrain", "train"),
        ("valset", "val"),
        ("eval", "val"),
        ("default", None),
        ("contest", None),
        ("2017", None),
    ],
)
def test_split_of(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_names_that_say_nothing_are_kept_unless_there_is_one() -> None:
    assert by_split([("default", Path("a"))]) == {"train": Path("a")}
    several = [("night", Path("a")), ("Valid", Path("b")), ("train", Path("c"))]
    assert list(by_split(several)) == ["train", "val", "night"]


def test_two_of_one_split_are_refused() -> None:
    with pytest.raises(DatasetError, match="a and b are both called 'val'"):
        by_split([("val", Path("a")), ("valid", Path("b"))])
