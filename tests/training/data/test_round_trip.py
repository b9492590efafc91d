"""What a converted folder is when it is read again: the same dataset, or what was said with counts, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import mask as mask_api
from PIL import Image

from tests.training.data.formats.samples import write_json
from training.data.convert import main
from training.data.formats.known import WRITABLE
from training.data.formats.locate import Origin, locate

WIDTH, HEIGHT = 60, 40
FORMATS = [name for name in WRITABLE if name != "coco_keypoints"]
NAMES = ("traffic light", "größe", "a, b")


def names_for(form: str) -> tuple[str, ...]:
    return NAMES[:1] if form == "instance_png" else NAMES


def rle(*windows: tuple[int, int, int, int], hole: tuple[int, int, int, int] | None = None) -> dict[str, Any]:
    """Rectangles (x1, y1, x2, y2) without another."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x1, y1, x2, y2 in windows:
        mask[y1:y2, x1:x2] = 1
    if hole is not None:
        mask[hole[1] : hole[3], hole[0] : hole[2]] = 0
    encoded = mask_api.encode(np.asfortranarray(mask))
    return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


def write(folder: Path, splits: dict[str, list[str]], names: tuple[str, ...] = NAMES, crowd: bool = False) -> Path:
    """COCO whose images hold an object with a hole, one in two parts, a triangle, and a crowd region if asked."""
    (folder / "annotations").mkdir(parents=True)
    for number, (split, files) in enumerate(splits.items()):
        images: list[Any] = []
        records: list[Any] = []
        for file in files:
            id_ = len(images) + 1
            path = (
                folder / "images" / split / file.partition("://")[2]
                if "://" in file
                else folder / "images" / split / file
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((HEIGHT, WIDTH, 3), 40 * number + id_, np.uint8)
            Image.fromarray(pixels).save(path, "PNG")
            images.append({"id": id_, "file_name": file, "width": WIDTH, "height": HEIGHT})
            segmentations: list[Any] = [
                rle((2, 2, 20, 20), hole=(6, 6, 12, 12)),
                rle((25, 2, 30, 9), (40 + id_, 3, 50, 12)),
                [[4.5, 25.0, 20.0, 26.5, 9.0, 36.0]],
            ]
            segmentations += [rle((30, 25, 58, 38))] if crowd else []
            records += [
                {
                    "id": len(records) + 1 + row,
                    "image_id": id_,
                    "category_id": row % len(names) + 1,
                    "iscrowd": int(row == 3),
                    "segmentation": segmentation,
                }
                for row, segmentation in enumerate(segmentations)
            ]
        categories = [{"id": id_, "name": name} for id_, name in enumerate(names, 1)]
        document = {"images": images, "annotations": records, "categories": categories}
        write_json(folder / f"annotations/instances_{split}.json", document)
    return folder


def contents(folder: Path, *, crowd: bool = True) -> dict[str, list[list[tuple[str, bool, bytes]]]]:
    """Of every split and image: class, crowd and pixels of its objects; images are told apart by their color."""
    found = {}
    for split, data in locate(Origin(folder)).read_aligned().items():
        images = []
        for record, objects in zip(data.images, data.annotations, strict=True):
            names = [data.class_names[label - 1] for label in objects.labels]
            masks = [mask.tobytes() for mask in objects.masks(HEIGHT, WIDTH)]
            color = int(np.asarray(Image.open(record.path))[0, 0, 0])
            rows = sorted(zip(names, objects.crowd.tolist(), masks, strict=True))
            images.append((color, [row for row in rows if crowd or not row[1]]))
        found[split] = [rows for _, rows in sorted(images)]
    return found


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "splits",
    [
        pytest.param({"train": ["a.png"], "default": ["a.png", "b.png"]}, id="CVAT's subset beside train"),
        pytest.param({"train": ["a.png"], "test": ["b.png"], "line 1": ["c.png"]}, id="another split, with a space"),
        pytest.param({"default": ["a.png"]}, id="one split of any name"),
        pytest.param({"val": ["a.png"]}, id="a split for validation alone"),
        pytest.param({"val": ["a.png"], "test": ["a.png"]}, id="none to train on"),
        pytest.param({"train": ["x/0.png", "y/0.png", "x_0.png"], "val": ["x/0.png"]}, id="equal names"),
        pytest.param({"train": ["images/0.png", "1.png"], "val": ["images/0.png"]}, id="half in a folder images"),
        pytest.param({"train": ["Images/0.png", "labels/0.png", "masks/0.png"]}, id="folders of other meanings"),
        pytest.param({"train": ["val/0.png", "train/0.png"], "val": ["train/0.png"]}, id="folders called as splits"),
        pytest.param({"train": ["test/0.png", "1.png"]}, id="a folder called as a split, alone"),
        pytest.param({"train": ["https://x.y/z/0.png", "https://x.y/w/0.png"]}, id="addresses"),
        pytest.param({"train": [".hidden.png", ".folder/0.png"]}, id="hidden files"),
        pytest.param({"train": ["a.b ü.png", "a,b.png", "50%.png", "#1.png"]}, id="punctuation"),
    ],
)
def test_splits_and_names_come_back(
    tmp_path: Path, form: str, splits: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "source", splits, names_for(form))
    assert main([str(source), str(tmp_path / "there"), "--from", "coco", "--to", form]) == 0
    capsys.readouterr()
    assert contents(tmp_path / "there") == contents(source)


@pytest.mark.parametrize("form", FORMATS)
def test_folds_come_back_or_are_refused(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "source", {"fold1": ["a.png"], "fold2": ["a.png", "b.png"]}, names_for(form))
    code = main([str(source), str(tmp_path / "there"), "--to", form])
    captured = capsys.readouterr()
    if code == 0:
        assert contents(tmp_path / "there") == contents(source)
    else:
        assert form in ("labelme", "via", "instance_png"), captured.err
        assert f"{form} cannot hold the splits fold1, fold2" in captured.err
        assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_crowd_regions_come_back_or_are_counted(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "source", {"train": ["a.png", "b.png"], "val": ["c.png"]}, names_for(form), crowd=True)
    assert main([str(source), str(tmp_path / "there"), "--to", form]) == 0
    printed = capsys.readouterr().out
    kept = contents(tmp_path / "there") == contents(source)
    assert kept == (form in ("coco", "labelme", "via"))
    assert contents(tmp_path / "there", crowd=False) == contents(source, crowd=False)
    said = [line for line in printed.splitlines() if "not written" in line]
    expected = [f"  not written: {count} crowd regions (traffic light: {count})" for count in (2, 1)]
    assert said == ([] if kept else expected)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["background", "__ignore__", "_background_", "no", "1", "null", "#x", "a: b", "'q'"])
def test_class_names_come_back_or_are_refused(
    tmp_path: Path, form: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(
        tmp_path / "source", {"train": ["a.png"]}, names=(name,) if form == "instance_png" else ("cat", name)
    )
    code = main([str(source), str(tmp_path / "there"), "--to", form])
    error = capsys.readouterr().err
    if code == 0:
        assert contents(tmp_path / "there") == contents(source)
    else:
        assert f"{form} cannot hold" in error
        assert name in ("background", "__ignore__", "_background_"), "what some lists have beside classes"
        assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("form", ["voc", "instance_png"])
def test_what_others_cover_is_counted(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "source", {"train": ["a.png"]}, names=("cat",))
    file = source / "annotations/instances_train.json"
    document = json.loads(file.read_text())
    squares = [rle((10, 10, 50, 30)), rle((10, 10, 50, 29)), rle((20, 15, 30, 20)), rle((20, 15, 30, 20))]
    document["annotations"] = [
        {"id": id_, "image_id": 1, "category_id": 1, "segmentation": square} for id_, square in enumerate(squares, 1)
    ]
    file.write_text(json.dumps(document))
    assert main([str(source), str(tmp_path / "there"), "--to", form]) == 0
    printed = capsys.readouterr().out
    assert "written in part: 2 objects (cat: 2), the smallest IoU with the original is 0.05\n" in printed
    assert "not written: 1 objects that others hide (cat: 1)\n" in printed
    assert len(contents(tmp_path / "there")["train"][0]) == 3


@pytest.mark.parametrize(
    ("form", "said"),
    [
        pytest.param("coco", [], id="COCO"),
        pytest.param("yolo", [], id="YOLO"),
        pytest.param("labelme", ["written otherwise: 2 boxes without mask became rectangles"], id="LabelMe"),
        pytest.param("via", ["written otherwise: 2 boxes without mask became rectangles"], id="VIA"),
        pytest.param("voc", ["not written: 2 boxes without mask"], id="VOC"),
        pytest.param("instance_png", ["not written: 2 boxes without mask"], id="PNGs of ids"),
    ],
)
def test_boxes_without_mask_are_counted(
    tmp_path: Path, form: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "source", {"train": ["a.png"]}, names=("cat",))
    file = source / "annotations/instances_train.json"
    document = json.loads(file.read_text())
    for record in document["annotations"][1:]:
        record |= {"segmentation": [], "bbox": [25 + 3 * record["id"], 20, 12, 10]}
    file.write_text(json.dumps(document))
    assert main([str(source), str(tmp_path / "there"), "--to", form]) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if "written" in line]
    assert printed == [f"{line} (cat: 2)" for line in said]


def test_yolo_sources_with_equal_names_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    for number, folder in enumerate("ab"):
        (source / folder / "images").mkdir(parents=True)
        (source / folder / "labels").mkdir()
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(source / folder / "images/0.png")
        (source / folder / "labels/0.txt").write_text(f"{number} 0.1 0.1 0.5 0.1 0.5 0.{5 + number}\n")
    (source / "data.yaml").write_text("train: [a/images, b/images]\nnames: [cat, dog]\n")
    for form in ("yolo", "coco", "labelme", "via", "voc"):
        assert main([str(source), str(tmp_path / form), "--to", form]) == 0
        assert contents(tmp_path / form) == contents(source)
    capsys.readouterr()


@pytest.mark.parametrize("form", ["coco", "yolo", "labelme", "via"])
def test_outlines_of_fractions_of_pixels_come_back_to_the_pixel(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "source", {"train": ["a.png"]}, names=("cat",))
    file = source / "annotations/instances_train.json"
    document = json.loads(file.read_text())
    tenths = np.arange(100) / 10  # rasterizing rounds to fifths of a pixel: odd tenths lie between two
    outlines = [[[x, y, x + 9.1, y + 2.3, x + 4.7, y + 8.9]] for x, y in zip(tenths + 20.1, tenths + 10.3, strict=True)]
    document["annotations"] = [
        {"id": id_, "image_id": 1, "category_id": 1, "segmentation": outline} for id_, outline in enumerate(outlines, 1)
    ]
    file.write_text(json.dumps(document))
    assert main([str(source), str(tmp_path / "there"), "--to", form]) == 0
    assert "written" not in capsys.readouterr().out
    assert contents(tmp_path / "there") == contents(source)
