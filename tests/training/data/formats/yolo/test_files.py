"""Which keys of a YAML are splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.data.formats.samples import SQUARE, write_image, yolo_line
from training.data.annotations.dataset import DatasetError
from training.data.formats.yolo.reader import load_yolo, yolo_splits


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        pytest.param("train: images/train\nfold: images/fold", {"train": 1, "fold": 1}, id="another key"),
        pytest.param("train: images/train\nfold: [images/fold]", {"train": 1, "fold": 1}, id="a list of folders"),
        pytest.param("train: images/train\nfold: fold.list.txt", {"train": 1, "fold": 1}, id="a list of images"),
        pytest.param("fold: images/fold\nother: images/train", {"fold": 1, "other": 1}, id="none to train on"),
        pytest.param("fold: images/fold", {"train": 1}, id="a single one is to train on"),
        pytest.param("train: images/train\nroot: .", {"train": 1}, id="the dataset itself"),
        pytest.param("train: images/train\nroot: images", {"train": 1}, id="a folder of splits"),
        pytest.param("train: images/train\nfold: images/none", {"train": 1}, id="nothing there"),
        pytest.param("train: images/train\nlabels: labels/fold", {"train": 1}, id="no images in it"),
        pytest.param("train: images/train\nnc: 2\nnote: [1, 2]\nmore: {a: b}", {"train": 1}, id="no paths"),
        pytest.param("train: images/train\ndownload: 'import x" + ", y" * 200 + "'", {"train": 1}, id="a program"),
    ],
)
def test_keys_of_a_yaml_that_are_splits(tmp_path: Path, yaml: str, expected: dict[str, int]) -> None:
    for split in ("train", "fold"):
        write_image(tmp_path / f"images/{split}/{split}.png")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / f"labels/{split}/{split}.txt").write_text(yolo_line(0, SQUARE))
    (tmp_path / "fold.list.txt").write_text("images/fold/fold.png\n")
    (tmp_path / "data.yaml").write_text(f"names: [cat]\n{yaml}\n")
    splits = yolo_splits(tmp_path)
    assert {split: len(load_yolo(tmp_path, split)) for split in splits} == expected
    assert len(splits) == len(expected)


def test_code_in_a_yaml_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "data.yaml").write_text(f"names: [cat]\ntrain: !!python/object/apply:os.mkdir ['{ran}']\n")
    with pytest.raises(DatasetError, match="is not YAML"):
        yolo_splits(tmp_path)
    assert not ran.exists()
