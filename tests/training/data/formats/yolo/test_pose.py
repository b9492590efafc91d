"""YOLO pose: boxes with keypoints, told from outlines by the YAML, and by their numbers where it is silent."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from tests.training.data.formats.samples import ORIENTATION, write_image
from training.config import TrainConfig
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.keypoint_names import flip_pairs, keypoint_names
from training.data.check import main
from training.data.checking.broken import check
from training.data.convert import main as convert
from training.data.formats.locate import Origin, locate
from training.data.loading.source import load_training_data

SIZE = (80, 40)
BOX = (8.0, 4.0, 24.0, 20.0)
"""Left, top, width, height in pixels."""
POINTS = np.array([[10, 6, 2], [30, 6, 1], [20, 22, 2], [0, 0, 0]], np.float64)
ALL = {"kpt_shape": [4, 3]}


def line(
    points: np.ndarray = POINTS, box: Sequence[float] = BOX, numbers: int = 3, size: tuple[int, int] = SIZE
) -> str:
    """A line as Ultralytics writes it."""
    x, y, width, height = box
    shares = np.array([x + width / 2, y + height / 2, width, height]) / [*size, *size]
    scaled = points / [*size, 1]
    return " ".join(f"{number:.8g}" for number in (0, *shares, *scaled[:, :numbers].ravel()))


def folder_of(folder: Path, lines: Sequence[str], orientation: int = 1, **document: Any) -> Path:
    write_image(folder / "images/train/a.jpg", orientation, SIZE)
    (folder / "labels/train").mkdir(parents=True)
    (folder / "labels/train/a.txt").write_text("\n".join(lines))
    document = {"train": "images/train", "names": ["cat"]} | document
    (folder / "data.yaml").write_text(yaml.safe_dump(document))
    return folder


def read(folder: Path) -> Dataset:
    return locate(Origin(folder)).read()["train"]


@pytest.mark.parametrize(
    ("lines", "document", "expected"),
    [
        pytest.param([line()], ALL, [POINTS], id="with visibility"),
        pytest.param(
            [line(POINTS[:3], numbers=2)], {"kpt_shape": [3, 2]}, [[[10, 6, 2], [30, 6, 2], [20, 22, 2]]], id="without"
        ),
        pytest.param([line(numbers=2)], {"kpt_shape": [4, 2]}, [[[10, 6, 2], [30, 6, 2], [20, 22, 2], [0, 0, 0]]],
                     id="0, 0 is none"),
        pytest.param([line(), line(POINTS[:0])], ALL, [POINTS, np.zeros((4, 3))], id="a box alone among them"),
    ],
)  # fmt: skip
def test_keypoints_are_read(
    tmp_path: Path, lines: list[str], document: dict[str, Any], expected: list[np.ndarray]
) -> None:
    data = read(folder_of(tmp_path, lines, **document))
    assert check(data, "keypoints") == []
    np.testing.assert_allclose(data.annotations[0].keypoints, expected, atol=1e-4)
    np.testing.assert_allclose(data.annotations[0].xywh, [BOX] * len(lines), atol=1e-4)
    assert data.num_keypoints == len(expected[0])
    assert main([str(tmp_path)]) == 0
    with pytest.raises(DatasetError, match=r"has a mask: train keypoints alone with --architecture\.task keypoints"):
        load_training_data(TrainConfig(data=tmp_path))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_keypoints_of_the_picture_as_seen_are_turned_to_the_stored_one(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros(SIZE[::-1], np.uint8)
    stored[7, 11] = 255
    picture = Image.fromarray(stored)
    picture.getexif()[ORIENTATION] = orientation
    seen = np.array(ImageOps.exif_transpose(picture))
    (y,), (x,) = np.nonzero(seen)
    text = line(np.array([[x + 0.5, y + 0.5, 2]]), (x, y, 1, 1), size=seen.shape[::-1])
    data = read(folder_of(tmp_path, [text], orientation, kpt_shape=[1, 3]))
    objects = data.annotations[0]
    assert objects.keypoints is not None
    np.testing.assert_allclose(objects.keypoints[0], [[11.5, 7.5, 2]], atol=1e-4)
    np.testing.assert_allclose(objects.xywh[0], [11, 7, 1, 1], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        pytest.param(line(POINTS[:3]), "keypoint count", r"has 13 numbers .* kpt_shape 4 x 3, which are 16", id="few"),
        pytest.param(
            line(POINTS + np.array([0, 0, 1])), "bad keypoints", "visibility 3, not 0, 1 or 2", id="visibility 3"
        ),
        pytest.param(line(POINTS * [40, 80, 1]), "bad keypoints", "divide by the image's sides", id="pixels"),
        pytest.param(
            line(POINTS + np.array([77, 0, 0])), "bad keypoints", "all labeled keypoints .* outside", id="outside"
        ),
        pytest.param(line(POINTS * [1, np.nan, 1]), "non-finite number", "NaN", id="NaN"),
    ],
)
def test_a_broken_line_is_left_out_and_named(tmp_path: Path, text: str, kind: str, message: str) -> None:
    data = read(folder_of(tmp_path, [line(), text], **ALL))
    assert len(data.annotations[0]) == 1
    (problem,) = data.problems
    assert problem.kind == kind
    assert re.search(message, problem.message)


def test_a_keypoint_outside_becomes_unlabeled(tmp_path: Path) -> None:
    data = read(folder_of(tmp_path, [line(np.array([[10, 6, 2], [85, 6, 2], [20, 22, 2], [0, 0, 0]]))], **ALL))
    assert data.problems == ()
    assert data.annotations[0].keypoints is not None
    assert data.annotations[0].keypoints[0, :, 2].tolist() == [2, 0, 2, 0]
    assert [repair.kind for repair in data.repairs] == ["keypoint outside the picture unlabeled"]


@pytest.mark.parametrize(
    ("document", "names", "pairs"),
    [
        pytest.param({}, ["keypoint 1", "keypoint 2", "keypoint 3", "keypoint 4"], (), id="none"),
        pytest.param(
            {"kpt_names": {0: ["nose", "left_eye", "right_eye", "tail"]}},
            ["nose", "left_eye", "right_eye", "tail"], ((1, 2),), id="names",
        ),
        pytest.param(
            {"flip_idx": [0, 2, 1, 3]}, ["keypoint 1", "left_2", "right_2", "keypoint 4"], ((1, 2),), id="flip_idx"
        ),
    ],
)  # fmt: skip
def test_names_and_what_a_mirror_swaps(
    tmp_path: Path, document: dict[str, Any], names: list[str], pairs: tuple[tuple[int, int], ...]
) -> None:
    data = read(folder_of(tmp_path, [line()], **ALL, **document))
    assert list(keypoint_names(data)) == names
    assert flip_pairs(data) == pairs
    assert bool(data.notes) == ("flip_idx" in document)


@pytest.mark.parametrize("shape", [3, [3], [0, 2], [3, 4], ["x", 3], [[3, 2]]])
def test_a_shape_that_is_none_is_refused(tmp_path: Path, shape: Any) -> None:
    with pytest.raises(DatasetError, match=r"data\.yaml: 'kpt_shape' is .*2 .*or 3"):
        read(folder_of(tmp_path, [line()], kpt_shape=shape))


def people(numbers: int, count: int, scale: float, seed: int = 0) -> list[str]:
    """Lines of objects of `scale` times the image with keypoints all over their boxes."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(20):
        sides = np.array(SIZE) * scale * random.uniform(0.7, 1, 2)
        low = (np.array(SIZE) - sides) * random.uniform(0, 1, 2)
        points = np.column_stack([low + sides * random.uniform(0, 1, (count, 2)), random.integers(0, 3, count)])
        points[:2, :2] = low, low + sides
        points[:2, 2] = 2
        lines.append(line(points, (*low, *sides), numbers))
    return lines


@pytest.mark.parametrize("numbers", [2, 3])
@pytest.mark.parametrize("count", [3, 4, 17])
@pytest.mark.parametrize("scale", [0.1, 0.4, 0.9])
def test_pose_is_told_from_outlines_where_the_yaml_is_silent(
    tmp_path: Path, numbers: int, count: int, scale: float, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of(tmp_path, people(numbers, count, scale))
    with pytest.raises(DatasetError, match=rf"look like YOLO pose .*write kpt_shape: \[{count}, {numbers}\] into"):
        load_training_data(TrainConfig(data=tmp_path))
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "look like YOLO pose" in capsys.readouterr().err


def outline(center: np.ndarray, radius: float, points: int, start: float) -> str:
    angles = start + np.linspace(0, 2 * np.pi, points, endpoint=False)
    shares = center + radius * np.column_stack([np.cos(angles), np.sin(angles)])
    return " ".join(f"{number:.6g}" for number in (0, *shares.clip(0, 1).ravel()))


@pytest.mark.parametrize("points", [3, 4, 5, 8, 16, 32])
@pytest.mark.parametrize("radius", [0.03, 0.1, 0.2, 0.3, 0.45])
@pytest.mark.parametrize("start", [0.0, 0.8, 1.6, 2.4, 3.9, 5.0])
def test_outlines_of_equal_length_stay_outlines(tmp_path: Path, points: int, radius: float, start: float) -> None:
    random = np.random.default_rng(points)
    lines = [
        outline(random.uniform(radius, 1 - radius, 2), radius, points, start + random.uniform(0, 0.3))
        for _ in range(20)
    ]
    data = read(folder_of(tmp_path, lines))
    assert len(data.annotations[0]) == 20
    assert data.num_keypoints == 0


def test_the_yaml_may_say_that_lines_are_outlines(tmp_path: Path) -> None:
    assert len(read(folder_of(tmp_path, people(2, 4, 0.4), kpt_shape=[])).annotations[0]) == 20


def test_convert_writes_coco_keypoints(tmp_path: Path) -> None:
    folder_of(tmp_path / "in", [line()], **ALL)
    assert convert([str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out/annotations/person_keypoints_train.json").read_text())
    np.testing.assert_allclose(document["annotations"][0]["keypoints"], POINTS.ravel(), atol=1e-4)
