from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.data.coco_folder import Box, noise, write_split
from training.data.annotations.records import ImageRecord
from training.data.checking.duplicates import SamePicture, duplicate_objects, same_pictures
from training.data.checking.fingerprints import Fingerprint, fingerprint_images, unusual_images

Pixels = np.ndarray
SIZE = (120, 90)


def _prints(folder: Path, **pictures: Pixels | Image.Image) -> list[Fingerprint]:
    records = []
    for number, (name, picture) in enumerate(pictures.items()):
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image.save(folder / f"{name}.png")
        records.append(ImageRecord(number, folder / f"{name}.png", image.width, image.height, f"{name}.png"))
    found, problems = fingerprint_images(records, workers=2)
    assert problems == []
    return found


def _names(groups: list[SamePicture]) -> list[tuple[bool, list[str]]]:
    return [(group.exact, [f"{one.split}/{one.file}" for one in group.pictures]) for group in groups]


@pytest.mark.parametrize(
    ("boxes", "pairs"),
    [
        pytest.param([Box((10, 10, 40, 40)), Box((10, 10, 40, 41))], [(1, 2)], id="nearly the same box and mask"),
        pytest.param([Box((10, 10, 40, 40), mask=False), Box((10, 10, 40, 41))], [(1, 2)], id="only one has a mask"),
        pytest.param([Box((10, 10, 40, 40)), Box((10, 10, 40, 41), label=2)], [], id="two classes"),
        pytest.param([Box((10, 10, 40, 40)), Box((10, 10, 40, 40), crowd=True)], [], id="a crowd region around one"),
        pytest.param([Box((10, 10, 40, 40)), Box((10, 10, 40, 50))], [], id="IoU 0.8"),
        pytest.param([Box((10, 10, 9, 9))] * 3, [(1, 2), (1, 3), (2, 3)], id="three times"),
    ],
)
def test_objects_annotated_twice(tmp_path: Path, boxes: list[Box], pairs: list[tuple[int, int]]) -> None:
    data = write_split(tmp_path, "train", [(100, 100)], [boxes])
    found = duplicate_objects("train", data, with_masks=True)
    assert [(one.first, one.second) for one in found] == pairs
    assert all(one.file == "train_1.png" and one.label == "cat" for one in found)


def test_crossing_objects_in_one_box_are_two(tmp_path: Path) -> None:
    falling, rising = (10, 10, 14, 10, 60, 60, 56, 60), (60, 10, 56, 10, 10, 60, 14, 60)
    boxes = [Box((10, 10, 50, 50), polygon=falling), Box((10, 10, 50, 50), polygon=rising)]
    data = write_split(tmp_path, "train", [(100, 100)], [boxes])
    assert duplicate_objects("train", data, with_masks=True) == []
    assert len(duplicate_objects("train", data, with_masks=False)) == 1


def test_the_same_mask_under_another_box_is_found(tmp_path: Path) -> None:
    square = (10, 10, 30, 10, 30, 30, 10, 30)
    boxes = [Box((10, 10, 20, 20), polygon=square), Box((5, 5, 60, 60), polygon=square)]
    data = write_split(tmp_path, "train", [(100, 100)], [boxes])
    assert [(one.first, one.second) for one in duplicate_objects("train", data, with_masks=True)] == [(1, 2)]


def test_equal_pixels_are_found_whatever_the_file(tmp_path: Path) -> None:
    picture = noise(SIZE, 1)
    train = _prints(tmp_path, a=picture, b=noise(SIZE, 2), c=Image.fromarray(picture).convert("RGBA"))
    val = _prints(tmp_path, d=picture)
    assert _names(same_pictures({"train": train})) == [(True, ["train/a.png", "train/c.png"])]
    groups = same_pictures({"train": train, "val": val})
    assert _names(groups) == [(True, ["train/a.png", "train/c.png", "val/d.png"])]
    assert groups[0].leaks


def _jpeg(picture: Pixels) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=40)
    return Image.open(file)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_jpeg, id="compressed"),
        pytest.param(lambda picture: Image.fromarray(picture).resize((70, 50)), id="smaller"),
        pytest.param(lambda picture: Image.fromarray((picture * 0.8).astype(np.uint8)), id="darker"),
        pytest.param(lambda picture: Image.fromarray(picture).convert("L"), id="gray"),
    ],
)
def test_a_changed_copy_leaks(tmp_path: Path, change: Callable[[Pixels], Image.Image]) -> None:
    train = _prints(tmp_path, a=noise(SIZE, 1), b=noise(SIZE, 2))
    val = _prints(tmp_path, c=change(noise(SIZE, 2)), d=noise(SIZE, 3))
    groups = same_pictures({"train": train, "val": val})
    assert _names(groups) == [(False, ["train/b.png", "val/c.png"])]
    assert groups[0].leaks
    assert same_pictures({"train": train, "val": val}, alike=False) == []


def test_flat_pictures_are_not_alike(tmp_path: Path) -> None:
    grain = np.random.default_rng(0).integers(0, 3, (3, 90, 120, 3), np.uint8)
    assert same_pictures({"train": _prints(tmp_path, a=grain[0], b=grain[1] + 90, c=grain[2] + 200)}) == []


def test_different_pictures_with_the_same_hash_are_not_alike(tmp_path: Path) -> None:
    """Two rising gradients set the same bits; the thumbnails tell them apart."""
    steep = np.linspace(0, 1, 120) ** np.array([[0.5], [8.0]])
    one, other = (np.repeat((20 + 200 * row).astype(np.uint8)[None], 90, axis=0) for row in steep)
    prints = _prints(tmp_path, a=one, b=other)
    assert (np.unpackbits(prints[0].bits) != np.unpackbits(prints[1].bits)).sum() < 200
    assert same_pictures({"train": prints}) == []


def test_many_pictures_are_compared_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.data.checking.duplicates._BLOCK", 3)
    pictures = {f"p{number}": noise(SIZE, number) for number in range(8)}
    pictures["last"] = (noise(SIZE, 1) * 0.9).astype(np.uint8)
    prints = _prints(tmp_path, **pictures)
    assert _names(same_pictures({"train": prints})) == [(False, ["train/p1.png", "train/last.png"])]


def test_unusual_images_are_named(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(SIZE, 9)).save(tmp_path / "turned.jpg", exif=exif)
    records = [ImageRecord(9, tmp_path / "turned.jpg", *SIZE, "turned.jpg")]
    plain = _prints(
        tmp_path,
        a=noise(SIZE, 1),
        b=noise(SIZE, 2),
        gray=Image.fromarray(noise(SIZE, 3)).convert("L"),
        tiny=noise((60, 20), 4),
        strip=noise((400, 80), 5),
        huge=noise((600, 500), 6),
    )
    found = unusual_images({"train": plain + fingerprint_images(records)[0]})
    whats = {one.file: one.what for one in found}
    assert whats.keys() == {"gray.png", "tiny.png", "strip.png", "huge.png", "turned.jpg"}
    assert whats["gray.png"] == "mode L, most are RGB"
    assert "EXIF orientation 6" in whats["turned.jpg"]


def test_a_damaged_image_is_a_problem(tmp_path: Path) -> None:
    Image.fromarray(noise(SIZE, 1)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    seen: list[int] = []
    found, problems = fingerprint_images(
        [ImageRecord(7, tmp_path / "a.png", *SIZE, "a.png")], progress=lambda: seen.append(1)
    )
    assert found == []
    assert seen == [1]
    assert [(one.kind, one.file, one.image_id) for one in problems] == [("unreadable image", "a.png", 7)]
