"""The check of a dataset from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.training.data.coco_folder import Box, noise, write_split
from training.data.annotations.dataset import DatasetError
from training.data.check import main
from training.data.checking.check_tables import Survey
from training.data.convert import main as convert
from training.data.figures import write_figures
from training.data.loading.source import load_splits


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


def test_deep_images_are_named_with_what_is_made_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = [np.uint16(1), np.uint16(16), np.uint16(16), np.int32(1), np.float32(1 / 255)]
    write_split(tmp_path, "train", [noise((90, 60), seed) for seed in range(7)], [[Box((5, 5, 20, 20))]] * 7)
    extremes = np.where(noise((90, 60), 7)[..., 0] > 99, 1.7e308, -1.7e308)
    tifffile.imwrite(tmp_path / "images" / "train_6.png", extremes)
    for number, factor in enumerate(kinds, start=1):
        file = tmp_path / "images" / f"train_{number}.png"
        gray = np.asarray(Image.open(file))[..., 0] * factor
        if gray.dtype.kind == "f":
            gray[0, 0] = np.nan
        Image.fromarray(gray).save(file, "TIFF")  # told by its bytes, not by its name
    status, survey = _survey(tmp_path)
    assert status == 0
    assert [(one.values, one.mode, one.images, one.high[0], one.not_finite) for one in survey.depths] == [
        ("uint16", "auto", 1, 255, 0),
        ("uint16", "auto", 2, 4095, 0),
        ("int32", "auto", 1, 255, 0),
        ("float32", "auto", 1, 1, 1),
        ("float64", "auto", 1, 1.7e308, 0),
    ]
    out = capsys.readouterr().out
    assert "train: 2 of uint16, auto: 0 becomes black, 4095 white: train_2.png, train_3.png" in out
    assert "train: 1 of float32, auto: 0 becomes black, 1 white; 1 with NaN or infinite values: train_5.png" in out
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("intensity: {mode: full-range, low: 10, high: 4000}\n")
    depths = _survey(tmp_path, "--recipe", str(recipe))[1].depths
    assert [(one.values, one.low, one.high) for one in depths][:2] == [
        ("uint16", (10, 10), (4000, 4000)),
        ("int32", (10, 10), (4000, 4000)),
    ]


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
        [Box((5, 5, 20, 20)), Box((5, 5, 0, 20), mask=False)],
        [Box((0, 0, 0, 0), polygon=(5, 5, 9, 5, 9, 9))],
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
    assert [line.partition(", first")[0] for line in survey.mended] == ["train: box taken from the mask: 1"]
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
        pytest.param((), "holds no dataset of any known format", id="no dataset"),
        pytest.param(("--format=voc",), "holds no dataset of the format voc", id="another format"),
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


@pytest.mark.parametrize(
    ("flags", "lost"),
    [
        pytest.param(["--sheet={data}/images/train_00001.png"], "an image", id="an image"),
        pytest.param(["--sheet={data}/link.png"], "an image", id="a link to an image"),
        pytest.param(["--json={data}/annotations/instances_train.json"], "the annotations", id="the annotations"),
        pytest.param(["--json={data}/notes.json"], "another file", id="a file that is not known to be an annotation"),
        pytest.param(["--json={data}/recipe.yaml", "--recipe={data}/recipe.yaml"], "the recipe", id="the recipe"),
        pytest.param(["--json={data}/new.png", "--sheet={data}/x/../new.png"], "each other", id="two are one file"),
    ],
)
def test_nothing_that_is_read_is_overwritten(
    flags: list[str], lost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(tmp_path, "train", [(90, 60)] * 2, [[Box((5, 5, 20, 20))]] * 2)
    images = sorted((tmp_path / "images").iterdir())
    images[0].rename(tmp_path / "images" / "train_00001.png")
    annotations = tmp_path / "annotations" / "instances_train.json"
    annotations.write_text(annotations.read_text().replace(images[0].name, "train_00001.png"))
    (tmp_path / "link.png").symlink_to("images/train_00001.png")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text("name: mine\n")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), *(flag.format(data=tmp_path) for flag in flags)])
    assert stopped.value.code == 2, lost
    (line,) = capsys.readouterr().err.splitlines()
    assert "is read: choose another name" in line or "are one file" in line
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_results_of_an_earlier_check_are_written_anew(suffix: str, tmp_path: Path) -> None:
    write_split(tmp_path, "train", [noise((90, 60), seed) for seed in range(2)], [[Box((5, 5, 20, 20))]] * 2)
    sheet = tmp_path / f"sheet.{suffix}"
    for count in (1, 2):
        assert _survey(tmp_path, f"--sheet={sheet}", f"--count={count}")[0] == 0


@pytest.mark.parametrize(
    ("splits", "status"),
    [(("train", "val"), 0), (("train",), 0), (("val",), 1), (("test",), 1), (("fold1", "fold2"), 1)],
)
def test_what_has_no_split_to_train_on_is_refused_as_in_training(
    tmp_path: Path, splits: tuple[str, ...], status: int
) -> None:
    for number, split in enumerate(splits):
        write_split(tmp_path, split, [noise((90, 60), number)], [[Box((5, 5, 20, 20))]])
    found, survey = _survey(tmp_path)
    assert found == status
    if status:
        assert survey.empty is not None
        assert ", ".join(splits) in survey.empty
        with pytest.raises(DatasetError, match="it needs 'train'"):
            load_splits(tmp_path, "masks")


def test_one_file_of_annotations_is_to_train_on_whatever_its_name(tmp_path: Path) -> None:
    write_split(tmp_path, "val", [(90, 60)], [[Box((5, 5, 20, 20))]])
    file = tmp_path / "annotations/instances_val.json"
    assert main([f"--annotations={file}", f"--images={tmp_path / 'images'}"]) == 0
