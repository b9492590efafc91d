"""A validation split made of the images to train on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.coco_folder import Box, noise, write_split
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.convert import main as convert
from training.data.formats.locate import Origin, locate
from training.data.hold_out import HeldOut, choose, divide, kept_split, share_of_images, with_held_out
from training.data.loading.source import load_splits


def _write(folder: Path, labels: Sequence[Sequence[int]], pictures: Sequence[int] = ()) -> Dataset:
    """One image for each list of labels; pictures: which of all pictures each is, its own if not given."""
    numbers = pictures or range(len(labels))
    boxes = [[Box((5 + 12 * place, 5, 10, 10), label) for place, label in enumerate(some)] for some in labels]
    return write_split(folder, "train", [noise((90, 60), 40 + number) for number in numbers], boxes, ("cat", "dog"))


def test_every_class_is_shared_out(tmp_path: Path) -> None:
    labels = [[1, 1]] * 40 + [[1, 2]] * 10 + [[]] * 10
    data = _write(tmp_path, labels)
    train, val = divide(data, choose(data, 0.2, 0))
    assert (len(train), len(val)) == (48, 12)
    counts = np.bincount(np.concatenate([objects.labels for objects in val.annotations]), minlength=3)
    assert counts[2] == 2  # of 10
    assert 16 <= counts[1] <= 20  # of 90
    assert sorted(one.file for one in (*train.images, *val.images)) == sorted(one.file for one in data.images)
    assert val.name == "instances_train, held out"
    for part in (train, val):
        for record, objects in zip(part.images, part.annotations, strict=True):
            before = data.annotations[[one.file for one in data.images].index(record.file)]
            assert objects.ids.tolist() == before.ids.tolist()


def test_the_seed_decides_and_not_the_order(tmp_path: Path) -> None:
    data = _write(tmp_path, [[1]] * 20 + [[2]] * 10)
    held_out = choose(data, 0.3, 5)
    assert held_out == choose(data, 0.3, 5)
    assert held_out.val != choose(data, 0.3, 6).val
    path = tmp_path / "annotations/instances_train.json"
    document = json.loads(path.read_text())
    document["images"].reverse()
    document["annotations"].reverse()
    path.write_text(json.dumps(document))
    assert choose(locate(Origin(tmp_path), "coco").read_aligned()["train"], 0.3, 5).val == held_out.val


def test_the_same_picture_never_falls_on_both_sides(tmp_path: Path) -> None:
    pictures = [number // 3 for number in range(30)]  # each of them three times
    data = _write(tmp_path, [[1]] * 30, pictures)
    for seed in range(4):
        train, val = divide(data, choose(data, 0.3, seed))
        sides = [{pictures[int(one.file[6:-4]) - 1] for one in part.images} for part in (train, val)]
        assert not sides[0] & sides[1]
        assert len(val) == 9


@pytest.mark.parametrize(
    ("labels", "share", "expected"),
    [
        pytest.param([[1], [1]], 0.2, 1, id="two images: one of them"),
        pytest.param([[1], [2], [1]], 0.01, 1, id="at least one is held out"),
        pytest.param([[1], [1], [1]], 0.99, 2, id="at least one is trained on"),
        pytest.param([[], [], [], []], 0.5, 2, id="without any object"),
    ],
)
def test_both_sides_have_images(tmp_path: Path, labels: list[list[int]], share: float, expected: int) -> None:
    assert len(choose(_write(tmp_path, labels), share, 0).val) == expected


@pytest.mark.parametrize("pictures", [(0,), (0, 0, 0)])
def test_one_picture_cannot_be_divided(tmp_path: Path, pictures: tuple[int, ...]) -> None:
    data = _write(tmp_path, [[1]] * len(pictures), pictures)
    with pytest.raises(DatasetError, match="cannot be divided"):
        choose(data, 0.5, 0)


def test_a_picture_that_cannot_be_read_is_an_image_of_its_own(tmp_path: Path) -> None:
    data = _write(tmp_path, [[1]] * 6)
    data.images[0].path.write_bytes(b"nothing")
    assert len(choose(data, 0.5, 0).val) == 3


def test_problems_stay_with_their_images(tmp_path: Path) -> None:
    _write(tmp_path, [[1, 1]] * 6)
    path = tmp_path / "annotations/instances_train.json"
    document = json.loads(path.read_text())
    for record in document["annotations"][::2]:
        record["category_id"] = 9
    path.write_text(json.dumps(document))
    splits = with_held_out(locate(Origin(tmp_path), "coco").read_aligned(), 0.5, 0)
    assert list(splits) == ["train", "val"]
    for data in splits.values():
        assert sorted(problem.file or "" for problem in data.problems) == sorted(one.file for one in data.images)


def test_what_a_run_keeps(tmp_path: Path) -> None:
    held_out = HeldOut(0.2, 7, "fingerprint", ("a.png", "ä/b.png"))
    assert kept_split(tmp_path, 0.2, 7) is None
    held_out.save(tmp_path)
    assert kept_split(tmp_path, 0.2, 7) == held_out
    assert kept_split(tmp_path, 0.3, 7) is None
    assert kept_split(tmp_path, 0.2, 8) is None
    (tmp_path / "split.json").write_text("[]")
    assert kept_split(tmp_path, 0.2, 7) is None


def test_a_dataset_is_converted_with_the_split_that_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _write(tmp_path / "source", [[1]] * 10)
    assert convert([str(tmp_path / "source"), str(tmp_path / "out"), "--val", "0.3", "--seed", "4"]) == 0
    assert "val: 3 images, 3 objects" in capsys.readouterr().out
    files = [image.file for image in locate(Origin(tmp_path / "out"), "coco").read_aligned()["val"].images]
    assert sorted(files) == list(choose(data, 0.3, 4).val)
    assert convert([str(tmp_path / "out"), str(tmp_path / "again"), "--val", "0.3"]) == 2
    assert "has a validation split already" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "1", "20", "-0.1", "nan", "a fifth"])
def test_a_share_is_between_0_and_1(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"such as 0\.2"):
        share_of_images(text)


@pytest.mark.parametrize(
    ("now", "pictures", "kept"),
    [
        pytest.param([[1]] * 20, range(20), True, id="the same data"),
        pytest.param([[1]] * 20, range(50, 70), False, id="other pictures of the same names"),
        pytest.param([[1]] * 22, range(22), False, id="pictures came along"),
        pytest.param([[1]] * 18, range(18), False, id="pictures are gone"),
        pytest.param([[1, 2]] * 20, range(20), False, id="other annotations"),
    ],
)
def test_a_kept_split_is_of_its_own_data(
    tmp_path: Path, now: list[list[int]], pictures: Sequence[int], kept: bool
) -> None:
    made = choose(_write(tmp_path / "before", [[1]] * 20), 0.2, 3)
    marked = replace(made, val=made.val[:1])  # which no choice would make
    data = _write(tmp_path / "now", now, pictures)
    assert marked.divides(data) is kept
    found = load_splits(tmp_path / "now", "masks", val=0.2, seed=3, held_out=marked)
    assert (found.held_out == marked) is kept
    assert found.val is not None
    assert len(found.val) == (1 if kept else round(0.2 * len(now)))


def test_a_split_of_files_of_other_names_is_made_anew(tmp_path: Path) -> None:
    data = _write(tmp_path, [[1]] * 20)
    made = choose(data, 0.2, 3)
    assert not replace(made, val=("elsewhere.png", *made.val)).divides(data)
