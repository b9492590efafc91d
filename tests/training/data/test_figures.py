from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.annotations.keypoint_names import flip_pairs, keypoint_names
from training.data.checking.broken import check
from training.data.figures import KEYPOINTS, MOST_FIGURES, SHOWN, SIZE, SKELETON, Drawing, draw_figures, write_figures
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return [draw_figures(np.random.default_rng([1, index])) for index in range(60)]


def test_drawings_are_what_they_promise(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        count = len(drawing.masks)
        assert drawing.image.shape == (SIZE, SIZE, 3)
        assert drawing.image.dtype == np.uint8
        assert drawing.masks.shape == (count, SIZE, SIZE)
        assert drawing.keypoints.shape == (count, len(KEYPOINTS), 3)
        assert drawing.masks.sum(axis=0).max() <= 1  # visible pixels belong to one figure
        assert ((drawing.keypoints[:, :, 2] == 2).sum(axis=1) >= SHOWN).all()
    assert {len(drawing.masks) for drawing in drawings} == set(range(1, MOST_FIGURES + 1))


def test_keypoints_lie_in_their_figure_unless_hidden(drawings: list[Drawing]) -> None:
    seen = np.zeros(3, int)
    in_another = 0
    for drawing in drawings:
        for mask, keypoints in zip(drawing.masks, drawing.keypoints, strict=True):
            seen += np.bincount(keypoints[:, 2].astype(int), minlength=3)
            for x, y, visibility in keypoints:
                if visibility == 0:
                    assert (x, y) == (0, 0)
                    continue
                assert 0 <= x < SIZE
                assert 0 <= y < SIZE
                if visibility == 2:
                    assert mask[int(y), int(x)]
                else:
                    in_another += not mask[int(y), int(x)]
    assert (seen > 20).all(), "there must be visible, hidden and absent keypoints"
    assert in_another > 10, "other figures must hide some"


def test_figures_stand_out_from_their_ground(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        ground = drawing.image[~drawing.masks.any(axis=0)].mean()
        for mask in drawing.masks:
            assert np.abs(drawing.image[mask].astype(float).mean(axis=1) - ground).mean() > 20


def test_left_is_on_the_viewers_right(drawings: list[Drawing]) -> None:
    left, right = KEYPOINTS.index("left_shoulder"), KEYPOINTS.index("right_shoulder")
    for keypoints in np.concatenate([drawing.keypoints for drawing in drawings]):
        if keypoints[left, 2] and keypoints[right, 2]:
            assert keypoints[left, 0] > keypoints[right, 0]


def test_left_and_right_limbs_differ_in_color(drawings: list[Drawing]) -> None:
    left, right = KEYPOINTS.index("left_hand"), KEYPOINTS.index("right_hand")
    brighter = []
    for drawing in drawings:
        for keypoints in drawing.keypoints:
            if (keypoints[[left, right], 2] == 2).all():
                x, y = keypoints[[left, right], :2].astype(int).T
                one, other = drawing.image[y, x].astype(int)
                assert np.abs(one - other).max() > 20  # 60 before the grain
                brighter.append(one.sum() > other.sum())
    assert 0.25 < np.mean(brighter) < 0.75, "a color that stands for a side makes mirror images wrong"


def test_the_folder_is_a_sound_dataset_of_keypoints_and_masks(tmp_path: Path) -> None:
    write_figures(tmp_path / "figures", train=5, val=3, seed=3, size=96)
    splits = find_splits(tmp_path / "figures", "keypoints")
    assert splits.val is not None
    for number, split in enumerate((splits.train, splits.val)):
        data = load_coco(*split)
        assert data.problems == ()
        assert check(data, "masks") == check(data, "keypoints") == []
        assert keypoint_names(data) == KEYPOINTS
        assert [(KEYPOINTS[a], KEYPOINTS[b]) for a, b in flip_pairs(data)] == [
            (f"left_{part}", f"right_{part}") for part in ("shoulder", "hand", "hip", "foot")
        ]
        for index, (record, objects) in enumerate(zip(data.images, data.annotations, strict=True)):
            drawing = draw_figures(np.random.default_rng([3, number, index]), 96)
            np.testing.assert_array_equal(np.asarray(Image.open(record.path)), drawing.image)
            np.testing.assert_array_equal(objects.masks(record.height, record.width), drawing.masks)
            np.testing.assert_array_equal(objects.area, drawing.masks.sum(axis=(1, 2)))
            np.testing.assert_allclose(objects.keypoints, drawing.keypoints, atol=0.01)
            for mask, box in zip(drawing.masks, objects.boxes, strict=True):
                y, x = np.nonzero(mask)
                assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_the_skeleton_joins_keypoints_of_one_side_or_the_trunk() -> None:
    names = [(KEYPOINTS[a], KEYPOINTS[b]) for a, b in SKELETON]
    assert {end for edge in names for end in edge} == set(KEYPOINTS)
    assert [edge for edge in names if {"left", "right"} == {end.split("_")[0] for end in edge}] == [
        ("left_shoulder", "right_shoulder"),
        ("left_hip", "right_hip"),
    ]


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_figures(tmp_path / name, train=2, val=1, seed=seed, size=64)
    one, same, other = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in "abc"
    )
    assert len(one) == 6
    assert one == same
    assert one.keys() == other.keys()
    assert all(one[path] != other[path] for path in one)


def test_writing_again_does_nothing_and_another_config_replaces(tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    write_figures(folder, train=2, val=1, size=64)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_figures(folder, train=2, val=1, size=64)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    write_figures(folder, train=1, val=1, size=64)
    assert len(list((folder / "images").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_it_never_overwrites_anything_else(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="holds something other"):
        write_figures(tmp_path, train=1, val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.data.figures", str(tmp_path / "new"), "--train", "2", "--val", "1"]
    done = subprocess.run([*command, "--size", "64"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 + 1 images in ")
    assert len(load_coco(*find_splits(tmp_path / "new", "keypoints").train)) == 2
