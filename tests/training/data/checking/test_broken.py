from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as reference

from training.data.annotations.dataset import Dataset, DatasetError, Problem
from training.data.checking.broken import check, drop_broken, report
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.data.loading.samples import UnreadableImage, load_stored

SHARED = Path(__file__).parents[5] / "shared" / "data"
Document = dict[str, Any]


def _rle(height: int = 20, width: int = 30, fill: int = 1) -> dict[str, Any]:
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[2:9, 3:8] = fill
    return {"size": [height, width], "counts": reference.encode(mask)["counts"].decode()}


def _document() -> Document:
    box = {"category_id": 1, "bbox": [3, 2, 5, 7], "iscrowd": 0, "area": 35}
    return {
        "images": [{"id": id_, "file_name": f"{id_}.png", "width": 30, "height": 20} for id_ in (1, 2, 3)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 10, "image_id": 1, "segmentation": _rle(), **box},
            {"id": 11, "image_id": 1, "segmentation": [[3, 2, 8, 2, 8, 9, 3, 9]], **box},
            {"id": 12, "image_id": 2, "segmentation": {"size": [20, 30], "counts": [0, 600]}, **box, "iscrowd": 1},
        ],
    }


def _load(folder: Path, document: Document) -> Dataset:
    images = folder / "images"
    images.mkdir()
    for id_ in (1, 2, 3):
        Image.new("RGB", (30, 20)).save(images / f"{id_}.png")
    path = folder / "data.json"
    path.write_text(json.dumps(document))
    return load_coco(path, images)


def test_sound_data_has_no_problems(tmp_path: Path) -> None:
    data = _load(tmp_path, _document())
    assert check(data) == []
    assert [objects.ids.tolist() for objects in drop_broken(data, []).annotations] == [[10, 11], [12], []]
    assert report([]) == "no broken records"


def _set(index: int, **values: Any) -> Callable[[Document], None]:
    return lambda document: document["annotations"][index].update(values)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        pytest.param(_set(0, bbox=[3, 2, 0, 7], segmentation=[]), "empty box", id="no width"),
        pytest.param(_set(0, bbox=[3, 2, 5, -7], segmentation=[]), "empty box", id="negative height"),
        pytest.param(_set(0, bbox=[-9, 2, 10, 7], segmentation=[]), "box outside image", id="left of the image"),
        pytest.param(_set(0, bbox=[3, 15, 5, 70], segmentation=[]), "box outside image", id="below the image"),
        pytest.param(_set(0, bbox=[20, 14, 5, 5]), "box off mask", id="another object's box"),
        pytest.param(_set(0, bbox=[0, 0, 30, 20]), "box off mask", id="the whole image"),
        pytest.param(_set(0, segmentation=[[31, 5, 40, 5, 40, 9]]), "bad polygon", id="polygon beside the image"),
        pytest.param(_set(0, segmentation=[]), "no mask", id="no segmentation"),
        pytest.param(_set(0, segmentation=_rle(fill=0)), "empty mask", id="RLE without foreground"),
        pytest.param(_set(0, segmentation=_rle(height=21)), "bad RLE", id="RLE of another size"),
        pytest.param(_set(0, segmentation={**_rle(21), "size": [20, 30]}), "bad RLE", id="RLE string of another size"),
        pytest.param(_set(0, segmentation={"size": [20, 30], "counts": ""}), "bad RLE", id="RLE without runs"),
        pytest.param(_set(0, segmentation={"size": [20, 30], "counts": " !"}), "bad RLE", id="not an RLE string"),
        pytest.param(_set(0, segmentation={"size": [20, 30], "counts": "ddd"}), "bad RLE", id="RLE cut off"),
        pytest.param(
            _set(0, segmentation={"size": [20, 30], "counts": "d" * 40 + "0"}), "bad RLE", id="endless number"
        ),
        pytest.param(_set(0, segmentation=[[5, 5, 5.2, 5, 5.2, 5.2]]), "empty mask", id="polygon between the pixels"),
        pytest.param(_set(0, segmentation=[[5, 5, 1e9, 5, 5, 9]]), "bad polygon", id="polygon to the moon"),
        pytest.param(_set(0, category_id=2), "unknown category", id="found while loading"),
    ],
)
def test_a_broken_annotation_is_named_and_dropped(
    tmp_path: Path, change: Callable[[Document], None], kind: str
) -> None:
    document = _document()
    change(document)
    data = _load(tmp_path, document)
    problems = check(data)
    assert [(problem.kind, problem.file, problem.image_id, problem.annotation_id) for problem in problems] == [
        (kind, "1.png", 1, 10)
    ]
    assert "annotation 10" in problems[0].message
    rest = drop_broken(data, problems)
    assert [objects.ids.tolist() for objects in rest.annotations] == [[11], [12], []]
    assert check(rest) == []


def test_boxes_may_reach_over_the_border_by_rounding(tmp_path: Path) -> None:
    document = _document()
    _set(0, bbox=[-0.5, -1, 31, 21.5], segmentation=[[0, 0, 30, 0, 30, 20, 0, 20]])(document)
    data = _load(tmp_path, document)
    assert check(data) == []
    assert data.repairs == ()


def test_masks_do_not_matter_to_a_box_detector(tmp_path: Path) -> None:
    document = _document()
    _set(0, segmentation=[])(document)
    _set(1, segmentation=_rle(fill=0))(document)
    data = _load(tmp_path, document)
    assert check(data, "boxes") == []
    assert len(check(data, "masks")) == 2


@pytest.mark.parametrize("task", ["keypoints", "masks_keypoints"])
def test_keypoint_training_needs_keypoints(tmp_path: Path, task: Any) -> None:
    with pytest.raises(DatasetError, match="data has no keypoints"):
        check(_load(tmp_path, _document()), task)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def _resize(path: Path) -> None:
    Image.new("L", (20, 30)).save(path)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        pytest.param(Path.unlink, "missing file", id="deleted"),
        pytest.param(_truncate, "unreadable image", id="header cut off"),
        pytest.param(_resize, "size mismatch", id="turned by 90 degrees"),
    ],
)
def test_a_broken_image_is_named_and_dropped(tmp_path: Path, damage: Callable[[Path], None], kind: str) -> None:
    data = _load(tmp_path, _document())
    damage(data.images[0].path)
    problems = check(data)
    assert [(problem.kind, problem.file, problem.image_id) for problem in problems] == [(kind, "1.png", 1)]
    rest = drop_broken(data, problems)
    assert [image.id for image in rest.images] == [2, 3]
    assert [objects.ids.tolist() for objects in rest.annotations] == [[12], []]


def _float64(path: Path) -> None:
    height, width = np.asarray(Image.open(path)).shape[:2]
    tifffile.imwrite(path, np.zeros((height, width)), bigtiff=True, byteorder=">")


def _sideways(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the record counts pixels as they are stored
    with Image.open(path) as image:
        image.convert("RGB").save(path, "JPEG", exif=exif)


def _icon(path: Path) -> None:
    with Image.open(path) as image:
        image.save(path, "ICO")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(_float64, None, id="floats that Pillow does not open"),
        pytest.param(_sideways, None, id="turned by EXIF"),
        pytest.param(_icon, "ICO is not accepted here", id="a format that training does not read"),
    ],
)
def test_what_passes_is_what_training_reads(
    tmp_path: Path, change: Callable[[Path], None], problem: str | None
) -> None:
    data = _load(tmp_path, _document())
    record = data.images[0]
    change(record.path)
    messages = [problem.message for problem in check(data)]
    if problem is None:
        assert messages == []
        assert load_stored(record).shape == (record.height, record.width, 3)
    else:
        assert [problem in message for message in messages] == [True]
        with pytest.raises(UnreadableImage, match=problem):
            load_stored(record)


def test_the_first_record_of_a_duplicate_id_stays(tmp_path: Path) -> None:
    document = _document()
    document["annotations"].append(document["annotations"][0])
    document["images"].append(document["images"][0] | {"file_name": "2.png"})
    data = _load(tmp_path, document)
    problems = check(data)
    assert [problem.kind for problem in problems] == ["duplicate id", "duplicate id"]
    rest = drop_broken(data, problems)
    assert [image.id for image in rest.images] == [1, 2, 3]
    assert [objects.ids.tolist() for objects in rest.annotations] == [[10, 11], [12], []]
    assert rest.problems == ()


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    data = _load(tmp_path, _document())
    for image in data.images:
        image.path.unlink()
    with pytest.raises(DatasetError, match="every image is broken"):
        drop_broken(data, check(data))


def test_report_groups_and_names() -> None:
    problems = [
        Problem("missing file", "image 4 is not there: d.png", "d.png", 4),
        Problem("empty box", "annotation 1: box", "a.png", 1, 1),
        Problem("empty box", "annotation 2: box", "b.png", 2, 2),
        Problem("missing key", "categories[0] has no 'id'"),
    ]
    assert report(problems) == "\n".join(
        [
            "4 broken records",
            "empty box: 2",
            "  a.png: annotation 1: box",
            "  b.png: annotation 2: box",
            "missing file: 1",
            "  d.png: image 4 is not there: d.png",
            "missing key: 1",
            "  categories[0] has no 'id'",
        ]
    )
    assert "... and 1 more" in report(problems, limit=1)
    assert report(problems[:1]).startswith("1 broken record\n")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(("folder", "task"), [("nuclei", "masks"), ("coco_mini", "masks"), ("coco_mini", "keypoints")])
def test_real_data_is_sound(folder: str, task: Any) -> None:
    splits = find_splits(SHARED / folder, task)
    assert splits.val is not None
    assert check(load_coco(*splits.val), task) == []


@pytest.mark.parametrize(
    ("keypoints", "broken"),
    [
        pytest.param([4, 3, 2, 7, 8, 2], False, id="in the box"),
        pytest.param([4, 3, 2, 25, 18, 2], False, id="one of them"),
        pytest.param([1.5, 3, 2, 0, 0, 0], False, id="beside it"),
        pytest.param([25, 18, 2, 28, 19, 1], True, id="another object's"),
        pytest.param([25, 18, 2, 0, 0, 0], True, id="the labeled one is"),
        pytest.param([0, 0, 0, 0, 0, 0], False, id="none is labeled"),
    ],
)
def test_keypoints_away_from_their_box_are_named(tmp_path: Path, keypoints: list[float], broken: bool) -> None:
    document = _document()
    document["annotations"][1]["keypoints"] = [4, 3, 2, 7, 8, 2]
    document["annotations"][0]["keypoints"] = keypoints
    data = _load(tmp_path, document)
    kinds = [(problem.kind, problem.annotation_id) for problem in check(data, "keypoints")]
    assert kinds == ([("bad keypoints", 10)] if broken else [])
    assert check(data, "masks") == []
