"""Conversion between formats, there and back, on generated data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import mask as mask_api
from PIL import Image

from training.data.annotations.classes import align_classes, rename_classes, select_classes
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.convert import convert, main
from training.data.formats.known import find_format
from training.data.formats.locate import Located, Origin, locate

WIDTH, HEIGHT = 30, 20


def _write(folder: Path, *, crowd: bool = True, orientation: int = 1, boxes: bool = False, **changes: Any) -> Path:
    """A COCO folder: two splits; an object with a hole, one in two parts, one polygon, a crowd, an empty image."""
    holed, crowded = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    holed[1:9, 2:12] = 1
    holed[3:6, 5:8] = 0
    crowded[16:, :] = 1
    parts = [[15, 1, 18, 1, 18, 5, 15, 5], [20, 2, 26, 2, 26, 8, 20, 8]]
    segmentations: list[Any] = [_rle(holed), parts, [[3, 11, 9, 11, 9, 15, 3, 15]], _rle(crowded)]
    xywh = [[2, 1, 10, 8], [15, 1, 11, 7], [3, 11, 6, 4], [0, 16, 30, 4]]
    records = [
        {
            "id": index + 11,
            "image_id": 5,
            "category_id": (7, 9, 7, 9)[index],
            "bbox": xywh[index],
            "area": [71, 48, 24, 120][index],
            "iscrowd": int(index == 3),
            "segmentation": [] if boxes else segmentations[index],
        }
        for index in range(4 if crowd else 3)
    ]
    for split in ("train", "val"):
        files = {5: f"sub folder/{split}.ä.jpg", 3: f"{split}.png"}
        document = {
            "images": [{"id": id_, "file_name": file, "width": WIDTH, "height": HEIGHT} for id_, file in files.items()],
            "annotations": records,
            "categories": [{"id": 9, "name": "traffic light"}, {"id": 7, "name": "bicycle"}],
        } | changes
        exif = Image.Exif()
        exif[0x0112] = orientation
        for file in files.values():
            path = folder / "images" / split / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (40, 90, 160)).save(path, exif=exif)
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


def _rle(mask: np.ndarray) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": mask_api.encode(np.asfortranarray(mask))["counts"].decode()}


def _content(data: Dataset, *, crowd: bool) -> list[list[tuple[str, bool, bytes, tuple[float, ...]]]]:
    """What the formats keep: class, crowd, pixels and box of every object, by image."""
    found = []
    for record, objects in zip(data.images, data.annotations, strict=True):
        names = [data.class_names[label - 1] for label in objects.labels]
        masks = [mask.tobytes() for mask in objects.masks(record.height, record.width)]
        rows = zip(names, objects.crowd.tolist(), masks, map(tuple, objects.xywh.round(3).tolist()), strict=True)
        found.append(sorted(row for row in rows if crowd or not row[1]))
    return sorted(found)


def _load(folder: Path, form: str) -> dict[str, Dataset]:
    return locate(Origin(folder), form).read_aligned()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("form", "classes", "crowd"),
    [
        pytest.param("coco", (), True, id="COCO"),
        pytest.param("labelme", (), True, id="LabelMe"),
        pytest.param("via", (), True, id="VIA"),
        pytest.param("yolo", (), False, id="YOLO has no crowd"),
        pytest.param("voc", (), False, id="VOC's void is no region"),
        pytest.param("instance_png", ("--classes", "bicycle"), False, id="ids of one class"),
    ],
)
def test_there_and_back(
    tmp_path: Path,
    form: str,
    classes: tuple[str, ...],
    crowd: bool,
    orientation: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = _write(tmp_path / "source", orientation=orientation)
    assert main([str(source), str(tmp_path / "there"), "--from", "coco", "--to", form, *classes]) == 0
    assert "images copied" in capsys.readouterr().out
    assert main([str(tmp_path / "there"), str(tmp_path / "back")]) == 0
    before, after = _load(source, "coco"), _load(tmp_path / "back", "coco")
    assert list(after) == ["train", "val"]
    for split, data in before.items():
        expected = select_classes(data, classes[1:] or data.class_names)
        assert _content(after[split], crowd=crowd) == _content(expected, crowd=crowd)
        assert sorted(after[split].class_names) == sorted(expected.class_names)
        assert after[split].problems == ()


def test_coco_to_coco_keeps_every_number(tmp_path: Path) -> None:
    keypoints = [{"id": 1, "image_id": 5, "category_id": 7, "bbox": [1.5, 2, 3, 4], "area": 7.25, "iscrowd": 0}]
    keypoints[0] |= {"segmentation": [[1, 1, 5, 1, 5, 5.5]], "keypoints": [1, 2, 2, 0, 0, 0], "num_keypoints": 1}
    categories = [{"id": 7, "name": "person", "keypoints": ["left_eye", "right_eye"]}]
    source = _write(tmp_path / "source", annotations=keypoints, categories=categories)
    assert main([str(source), str(tmp_path / "there")]) == 0
    for prefix in ("instances", "person_keypoints"):
        document = json.loads((tmp_path / f"there/annotations/{prefix}_train.json").read_text())
        original = json.loads((source / "annotations/instances_train.json").read_text())
        assert document.pop("info") == {"orientation": "stored"}
        assert document == original


def test_boxes_without_masks_stay_boxes_in_yolo(tmp_path: Path) -> None:
    source = _write(tmp_path / "source", crowd=False, boxes=True, orientation=8)
    assert main([str(source), str(tmp_path / "there"), "--to", "yolo"]) == 0
    before, after = _load(source, "coco")["train"], _load(tmp_path / "there", "yolo")["train"]
    assert set(after.annotations[0].segmentations) == {None}
    np.testing.assert_allclose(after.annotations[0].xywh, before.annotations[0].xywh, atol=1e-4)


def test_overlapping_objects_in_one_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    small = [[4, 4, 8, 4, 8, 8, 4, 8]]
    boxes = [([2, 2, 10, 10], 100, square), ([4, 4, 4, 4], 16, small), ([4, 4, 4, 4], 16, small)]
    records = [
        {"id": id_, "image_id": 5, "category_id": 7, "bbox": box, "area": area, "segmentation": polygon}
        for id_, (box, area, polygon) in enumerate(boxes, 1)
    ]
    source = _write(tmp_path / "source", annotations=records)
    assert main([str(source), str(tmp_path / "there"), "--to", "voc"]) == 0
    printed = capsys.readouterr().out
    assert "  written in part: 1 objects (bicycle: 1), the smallest IoU with the original is 0.84\n" in printed
    assert "  not written: 1 objects that others hide (bicycle: 1)\n" in printed
    data = _load(tmp_path / "there", "voc")["train"]
    assert sorted(objects.area.tolist() for objects in data.annotations) == [[], [84, 16]]


def test_classes_are_renamed_and_then_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _write(tmp_path / "source")
    flags = ["--rename", "bicycle=bike", "--classes", "bike", "--images", "link"]
    assert main([str(source), str(tmp_path / "there"), *flags]) == 0
    out = capsys.readouterr().out
    assert "train: 2 images, 2 objects\n  bike: 2\n" in out
    assert "images linked to" in out
    link = tmp_path / "there/images/train/train.png"
    assert link.is_symlink()
    assert link.resolve() == source / "images/train/train.png"
    data = _load(tmp_path / "there", "coco")["val"]
    assert data.class_names == ("bike",)
    assert data.categories[0].id == 7


def test_classes_of_one_name_become_one(tmp_path: Path) -> None:
    data = _load(_write(tmp_path / "source"), "coco")["train"]
    merged = rename_classes(data, {"bicycle": "traffic light"})
    assert [(category.id, category.name) for category in merged.categories] == [(7, "traffic light")]
    assert merged.annotations[0].labels.tolist() == [1, 1, 1, 1]
    one = select_classes(data, ["traffic light"])
    assert one.annotations[0].ids.tolist() == [12, 14]
    both = align_classes([one, data])
    assert [split.class_names for split in both] == [("bicycle", "traffic light")] * 2
    assert [split.annotations[0].labels.tolist() for split in both] == [[2, 2], [1, 2, 1, 2]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--classes", "car"], "no class car; it has bicycle, traffic light", id="unknown class"),
        pytest.param(["--rename", "car=x"], "no class car", id="unknown class to rename"),
        pytest.param(["--from", "yolo"], "holds no dataset of the format yolo", id="another format"),
        pytest.param(["--to", "instance_png"], "choose one with --classes", id="too many classes"),
    ],
)
def test_what_cannot_be_converted_leaves_nothing(
    tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _write(tmp_path / "source")
    assert main([str(source), str(tmp_path / "there"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _write(tmp_path / "source")
    target = tmp_path / "there"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    assert main([str(source), str(target)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


def test_broken_records_stop_a_conversion_or_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = _write(tmp_path / "source")
    (source / "images/train/train.png").unlink()
    assert main([str(source), str(tmp_path / "there")]) == 2
    assert "missing file: 1" in capsys.readouterr().err
    assert main([str(source), str(tmp_path / "there"), "--on_broken", "skip"]) == 0
    assert "missing file: 1" in capsys.readouterr().out
    assert len(_load(tmp_path / "there", "coco")["train"]) == 1


@pytest.mark.parametrize("placement", ["copy", "link"])
@pytest.mark.parametrize(
    "kept", [pytest.param(0.5, id="half of it"), pytest.param(0.9, id="most of it"), pytest.param(0.0, id="nothing")]
)
def test_a_truncated_image_is_not_passed_on(
    tmp_path: Path, kept: float, placement: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _write(tmp_path / "source")
    broken = source / "images/train/train.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(broken)
    content = broken.read_bytes()
    broken.write_bytes(content[: int(kept * len(content))])
    flags = ["--to", "yolo", "--placement", placement]
    assert main([str(source), str(tmp_path / "there"), *flags]) == 2
    assert "unreadable image: 1\n  train.png: image 3 cannot be" in capsys.readouterr().err
    assert not (tmp_path / "there").exists()
    assert main([str(source), str(tmp_path / "there"), *flags, "--on_broken", "skip"]) == 0
    assert "unreadable image: 1" in capsys.readouterr().out
    assert len(_load(tmp_path / "there", "yolo")["train"]) == 1


def test_a_format_without_a_writer_is_refused_by_the_library(tmp_path: Path) -> None:
    located = Located(Origin(tmp_path), "cityscapes", {})
    with pytest.raises(DatasetError, match="cityscapes is only read; write one of coco"):
        convert(located, tmp_path / "there", find_format("cityscapes"))


@pytest.mark.parametrize(
    "categories",
    [
        pytest.param(
            [
                {"id": 0, "name": "bicycle", "supercategory": "none"},
                {"id": 7, "name": "bicycle", "supercategory": "bicycle"},
                {"id": 9, "name": "light", "supercategory": "bicycle"},
            ],
            id="Roboflow's root class",
        ),
        pytest.param([{"id": 7, "name": "bicycle"}, {"id": 9, "name": "bicycle "}], id="one name twice, both used"),
    ],
)
def test_classes_of_one_name_lose_nothing(
    tmp_path: Path, categories: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    source = _write(tmp_path / "source", categories=categories)
    assert main([str(source), str(tmp_path / "out"), "--to", "coco"]) == 0
    printed = capsys.readouterr().out
    assert "train: 2 images, 3 objects and 1 crowd regions" in printed
    assert "mended: " in printed
    kept = [
        int(line.rpartition(":")[2]) for line in printed.splitlines() if line.startswith(("  bicycle:", "  light:"))
    ]
    assert sum(kept) == 6  # of two splits
    before, after = _load(source, "coco"), _load(tmp_path / "out", "coco")
    assert _content(before["train"], crowd=True) == _content(after["train"], crowd=True)
    assert after["train"].problems == after["train"].repairs == ()
