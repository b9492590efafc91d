from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference

from tests.training.data.coco_folder import Box, noise, write_split
from training.data.check import check, drop_broken, main, report
from training.data.check_tables import Survey
from training.data.coco import CocoData, CocoError, Problem, find_splits, load_coco
from training.data.convert import main as convert
from training.data.figures import write_figures

SHARED = Path(__file__).parents[4] / "shared" / "data"
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


def _load(folder: Path, document: Document) -> CocoData:
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
        pytest.param(_set(0, bbox=[3, 2, 0, 7]), "empty box", id="no width"),
        pytest.param(_set(0, bbox=[3, 2, 5, -7]), "empty box", id="negative height"),
        pytest.param(_set(0, bbox=[-2, 2, 5, 7]), "box outside image", id="left of the image"),
        pytest.param(_set(0, bbox=[3, -3, 5, 7]), "box outside image", id="above the image"),
        pytest.param(_set(0, bbox=[3, 2, 29, 7]), "box outside image", id="right of the image"),
        pytest.param(_set(0, bbox=[3, 15, 5, 7]), "box outside image", id="below the image"),
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
    _set(0, bbox=[-0.5, -1, 31, 21.5])(document)
    assert check(_load(tmp_path, document)) == []


def test_masks_do_not_matter_to_a_box_detector(tmp_path: Path) -> None:
    document = _document()
    _set(0, segmentation=[])(document)
    _set(1, segmentation=_rle(fill=0))(document)
    data = _load(tmp_path, document)
    assert check(data, "boxes") == []
    assert len(check(data, "masks")) == 2


@pytest.mark.parametrize("task", ["keypoints", "masks_keypoints"])
def test_keypoint_training_needs_keypoints(tmp_path: Path, task: Any) -> None:
    with pytest.raises(CocoError, match="data has no keypoints"):
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


def test_the_first_record_of_a_duplicate_id_stays(tmp_path: Path) -> None:
    document = _document()
    document["annotations"].append(document["annotations"][0] | {"image_id": 3})
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
    with pytest.raises(CocoError, match="every image is broken"):
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


def _survey(folder: Path, *flags: str) -> tuple[int, Survey]:
    file = folder / "check.json"
    status = main([str(folder), f"--json={file}", *flags])
    return status, Survey.model_validate_json(file.read_text())


def test_a_clean_dataset_passes_with_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(tmp_path, "train", [(90, 60), (90, 60)], [[Box((5, 5, 20, 20))], [Box((5, 5, 9, 9), 2)]])
    write_split(tmp_path, "val", [(90, 60)], [[Box((5, 5, 20, 20))]])
    status, survey = _survey(tmp_path)
    assert status == 0
    assert survey.clean
    assert (survey.format, survey.task) == ("coco", "masks")
    assert [split.total.objects for split in survey.statistics] == [2, 1]
    out = capsys.readouterr().out
    assert "the most objects in an image is 1: architecture.detections_per_image of 100" in out
    assert "dog: only in train" in out
    assert "train: no broken records" in out


def test_leakage_between_splits_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = noise((90, 60), 1)
    write_split(tmp_path, "train", [picture, (90, 60)], [[Box((5, 5, 20, 20))]] * 2)
    write_split(tmp_path, "val", [(90, 60), (picture * 0.8).astype(np.uint8)], [[Box((5, 5, 20, 20))]] * 2)
    status, survey = _survey(tmp_path)
    assert status == 1
    assert [[one.file for one in group.pictures] for group in survey.leaks] == [["train_1.png", "val_2.png"]]
    assert "they look the same: train: train_1.png; val: val_2.png" in capsys.readouterr().out
    assert _survey(tmp_path, "--exact")[0] == 0


def test_a_picture_twice_in_a_split_is_reported_and_passes(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [noise((90, 60), 1)] * 2, [[Box((5, 5, 20, 20))]] * 2)
    status, survey = _survey(tmp_path)
    assert status == 0
    assert [group.exact for group in survey.same_pictures] == [True]


def test_broken_records_fail_and_are_left_out_of_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = [
        [Box((5, 5, 20, 20)), Box((5, 5, 0, 20), polygon=(5, 5, 9, 5, 9, 9))],
        [Box((1, 1, 9, 9))],
        [Box((1, 1, 9, 9))],
    ]
    data = write_split(tmp_path, "train", [(90, 60)] * 3, boxes)
    path = data.images[1].path
    path.write_bytes(path.read_bytes()[:-200])  # the header is sound, only decoding shows it
    data.images[2].path.unlink()
    sheet = tmp_path / "sheet.png"
    status, survey = _survey(tmp_path, f"--sheet={sheet}", "--count=3")
    assert status == 1
    kinds = [(record.kind, record.file) for record in survey.broken[0].records]
    assert kinds == [
        ("empty box", "train_1.png"),
        ("missing file", "train_3.png"),
        ("unreadable image", "train_2.png"),
    ]
    assert [(split.images, split.total.objects) for split in survey.statistics] == [(1, 1)]
    assert "3 broken records" in capsys.readouterr().out
    with Image.open(sheet) as picture:
        assert picture.width > 1000


def test_a_dataset_of_nothing_but_broken_images_is_reported(tmp_path: Path) -> None:
    data = write_split(tmp_path, "train", [(90, 60)], [[Box((5, 5, 20, 20))]])
    data.images[0].path.unlink()
    status, survey = _survey(tmp_path, f"--sheet={tmp_path / 'sheet.jpg'}")
    assert status == 1
    assert survey.statistics == ()


@pytest.mark.parametrize("form", ["voc", "yolo", "instance_png", "labelme", "via"])
def test_every_format_is_checked(tmp_path: Path, form: str) -> None:
    names = ("cat",)  # instance PNGs have one class
    write_split(tmp_path / "coco", "train", [(90, 60), (90, 60)], [[Box((5, 5, 20, 20))]] * 2, names)
    write_split(tmp_path / "coco", "val", [(90, 60)], [[Box((5, 5, 20, 20)), Box((40, 5, 9, 9))]], names)
    assert convert(["--to", form, str(tmp_path / "coco"), str(tmp_path / "other")]) == 0
    status, survey = _survey(tmp_path / "other")
    assert status == 0
    assert survey.format == form
    assert {split.name: split.total.objects for split in survey.statistics} == {"train": 2, "val": 2}


def test_figures_are_checked_for_keypoints_and_masks(tmp_path: Path) -> None:
    write_figures(tmp_path, train=4, val=2, size=96)
    status, survey = _survey(tmp_path)
    assert (status, survey.task, survey.duplicate_objects) == (0, "masks_keypoints", ())
    assert survey.statistics[0].keypoints
    assert _survey(tmp_path, "--task=boxes")[1].task == "boxes"


def test_the_advice_is_about_the_recipes_architecture(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [(90, 60)], [[Box((5, 5, 20, 20))]])
    assert "detections_per_image of 400" in _survey(tmp_path, "--recipe=nuclei")[1].advice[0]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        pytest.param((), "holds no known format", id="no dataset"),
        pytest.param(("--format=voc",), "is no dataset of the format voc", id="another format"),
        pytest.param(("--sheet=sheet.svg",), "give a name that ends in .png or .jpg", id="no picture"),
        pytest.param(("--count=0",), "give 1 or more", id="no pictures"),
    ],
)
def test_what_cannot_be_checked_is_said(
    tmp_path: Path, flags: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), *flags])
    assert stopped.value.code == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_a_task_and_a_recipe_must_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(tmp_path, "train", [(90, 60)], [[Box((5, 5, 20, 20))]])
    for flag, reason in (("--task=keypoints", "has no keypoints"), ("--recipe=mine", "no recipe 'mine'")):
        with pytest.raises(SystemExit) as stopped:
            main([str(tmp_path), flag])
        assert stopped.value.code == 2
        assert reason in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(("folder", "task"), [("nuclei", "masks"), ("coco_mini", "masks"), ("coco_mini", "keypoints")])
def test_real_data_is_sound(folder: str, task: Any) -> None:
    splits = find_splits(SHARED / folder, task)
    assert splits.val is not None
    assert check(load_coco(*splits.val), task) == []
