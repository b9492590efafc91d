from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.annotations.dataset import Dataset
from training.data.checking.broken import check
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.data.shapes import FORMS, MOST_OBJECTS, Scene, make_scene, write_shapes

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(np.random.default_rng([1, index])) for index in range(120)]


def _both(folder: Path) -> tuple[Dataset, Dataset]:
    splits = find_splits(folder, "masks")
    assert splits.val is not None
    return load_coco(*splits.train), load_coco(*splits.val)


def test_scenes_are_what_they_promise(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width = scene.image.shape[:2]
        assert scene.image.dtype == np.uint8
        assert min(height, width) >= 128
        assert max(height, width) <= 192
        assert scene.masks.shape == (len(scene.labels), height, width)
        assert scene.masks.sum(axis=0).max(initial=0) <= 1  # visible pixels belong to one object
        assert scene.masks.sum(axis=(1, 2)).min(initial=999) >= 50
    counts = {len(scene.labels) for scene in scenes}
    assert counts == set(range(MOST_OBJECTS + 1))
    assert set(np.concatenate([scene.labels for scene in scenes])) == set(range(1, len(FORMS) + 1))


def test_objects_stand_out_from_their_ground(scenes: list[Scene]) -> None:
    for scene in scenes:
        gray = scene.image.mean(axis=2)
        ground = gray[~scene.masks.any(axis=0)].mean()
        for mask in scene.masks:
            assert abs(gray[mask].mean() - ground) > 40


def _touch(one: np.ndarray, other: np.ndarray) -> bool:
    grown = np.pad(one, 1)
    grown = grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:]
    return bool((grown & other).any())


def test_there_are_touching_overlapping_and_holed_objects(scenes: list[Scene]) -> None:
    touching = hidden = holed = 0
    for scene in scenes:
        for index, mask in enumerate(scene.masks):
            touching += any(_touch(mask, other) for other in scene.masks[index + 1 :])
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            share = mask.sum() / ((rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0]))
            name = list(FORMS)[scene.labels[index] - 1]
            hidden += name == "circle" and share < 0.74  # pi / 4 when nothing covers it
            middle = mask[(rows[0] + rows[-1]) // 2, (columns[0] + columns[-1]) // 2]
            holed += name == "ring" and not middle
    assert touching > 20
    assert hidden > 5
    assert holed > 20


def test_later_objects_cover_earlier_ones(scenes: list[Scene]) -> None:
    """One color for each mask: no pixel of a neighbor shows inside it."""
    for scene in scenes:
        for mask in scene.masks:
            assert scene.image[mask].std(axis=0).max() < 15


def test_the_folder_is_a_sound_coco_dataset(tmp_path: Path) -> None:
    write_shapes(tmp_path / "shapes", train=14, val=5, seed=3)
    train, val = _both(tmp_path / "shapes")
    assert (len(train), len(val)) == (14, 5)
    assert train.class_names == tuple(FORMS)
    for data, split in ((train, 0), (val, 1)):
        assert check(data) == []
        for index, (record, objects) in enumerate(zip(data.images, data.annotations, strict=True)):
            scene = make_scene(np.random.default_rng([3, split, index]))
            np.testing.assert_array_equal(np.asarray(Image.open(record.path)), scene.image)
            np.testing.assert_array_equal(objects.masks(record.height, record.width), scene.masks)
            np.testing.assert_array_equal(objects.labels, scene.labels)
            np.testing.assert_array_equal(objects.area, scene.masks.sum(axis=(1, 2)))
            for mask, box in zip(scene.masks, objects.boxes, strict=True):
                y, x = np.nonzero(mask)
                assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_shapes(tmp_path / name, train=3, val=1, seed=seed)
    one, same, other = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.png")}
        for name in "abc"
    )
    assert one == same
    assert one.keys() == other.keys()
    assert all(one[path] != other[path] for path in one)


def test_writing_again_does_nothing_and_another_config_replaces(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    folder.mkdir()
    write_shapes(folder, train=3, val=1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_shapes(folder, train=3, val=1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    write_shapes(folder, train=2, val=1)
    assert len(list((folder / "images").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_it_never_overwrites_anything_else(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="holds something other"):
        write_shapes(tmp_path, train=1, val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.data.shapes", str(tmp_path / "new" / "shapes"), "--train", "2"]
    done = subprocess.run([*command, "--val", "1"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 + 1 images in ")
    assert [len(data) for data in _both(tmp_path / "new" / "shapes")] == [2, 1]
