"""Names of converted images: inside the new folder, readable, and each its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.data.formats.samples import HEIGHT, WIDTH, write_json
from training.data.annotations.dataset import DatasetError
from training.data.annotations.records import ImageRecord
from training.data.convert import main
from training.data.formats.known import WRITABLE
from training.data.formats.locate import Origin, locate
from training.data.formats.naming import Names, target_name
from training.data.formats.yolo.reader import save_yolo

FORMATS = [name for name in WRITABLE if name != "coco_keypoints"]


@pytest.mark.parametrize(
    ("file", "expected", "flat"),
    [
        pytest.param("a.png", "a.png", "a.png", id="a name"),
        pytest.param("sub/a.png", "sub/a.png", "sub_a.png", id="a folder"),
        pytest.param("sub\\deep\\a.png", "sub/deep/a.png", "sub_deep_a.png", id="backslashes"),
        pytest.param("images\\1/a.png", "images/1/a.png", "images_1_a.png", id="both"),
        pytest.param("./sub//a.png", "sub/a.png", "sub_a.png", id="parts of nothing"),
        pytest.param("C:\\data\\a.png", "a.png", "a.png", id="a drive"),
        pytest.param("c:/data/a.png", "a.png", "a.png", id="a drive with slashes"),
        pytest.param("C:a.png", "a.png", "a.png", id="a drive's own folder"),
        pytest.param("C:", "real.png", "real.png", id="a drive alone"),
        pytest.param("\\\\server\\share\\a.png", "a.png", "a.png", id="a share"),
        pytest.param("\\a.png", "a.png", "a.png", id="the root of a drive"),
        pytest.param("/etc/a.png", "a.png", "a.png", id="absolute"),
        pytest.param("../a.png", "a.png", "a.png", id="climbs out"),
        pytest.param("sub\\..\\..\\a.png", "a.png", "a.png", id="climbs out with backslashes"),
        pytest.param("sub/..", "real.png", "real.png", id="ends in .."),
        pytest.param("..\\..", "real.png", "real.png", id="nothing but .."),
        pytest.param("/", "real.png", "real.png", id="a root"),
        pytest.param("https://host/x/a.png?d=1", "real.png", "real.png", id="an address"),
        pytest.param("a\nb\0.png", "a_b_.png", "a_b_.png", id="control characters"),
        pytest.param("10:30 ü.png", "10:30 ü.png", "10:30 ü.png", id="a time of day"),
        pytest.param("...png", "...png", "...png", id="dots are a name"),
    ],
)
def test_a_name_stays_inside_its_folder(file: str, expected: str, flat: str) -> None:
    record = ImageRecord(1, Path("/where/it/is/real.png"), 3, 2, file)
    assert target_name(record) == expected
    assert target_name(record, flat=True) == flat
    root = Path("/new/folder")
    assert (root / target_name(record)).resolve().is_relative_to(root)


@pytest.mark.parametrize(
    ("stems", "wanted", "expected"),
    [
        pytest.param(False, ["a.jpg", "a.png"], ["a.jpg", "a.png"], id="suffixes tell"),
        pytest.param(True, ["a.jpg", "a.png", "a.bmp"], ["a.jpg", "a_2.png", "a_3.bmp"], id="or do not"),
        pytest.param(False, ["a.png", "A.PNG"], ["a.png", "A_2.PNG"], id="case"),
        pytest.param(False, ["\u00e9.png", "e\u0301.png"], ["\u00e9.png", "e\u0301_2.png"], id="accents"),
        pytest.param(False, ["x/a.png", "y/a.png"], ["x/a.png", "y/a.png"], id="folders tell"),
        pytest.param(False, ["a.png", "a.png", "a_2.png"], ["a.png", "a_2.png", "a_2_2.png"], id="a number is taken"),
        pytest.param(True, ["a.v1.png", "a.v2.png"], ["a.v1.png", "a.v2.png"], id="dots in a name"),
        pytest.param(True, ["taken.jpg"], ["taken_2.jpg"], id="there before"),
    ],
)
def test_each_name_is_given_once(stems: bool, wanted: list[str], expected: list[str]) -> None:
    names = Names(stems=stems, taken=["taken.png"])
    assert [names.free(name) for name in wanted] == expected


def write(folder: Path, **splits: list[str]) -> Path:
    """COCO of one class; every image has another color and an object as wide as its number."""
    number = 0
    for split, files in splits.items():
        images, annotations = [], []
        for file in files:
            number += 1
            path = folder / "images" / split / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT), (30 * number, 0, 0)).save(path, "PNG")
            images.append({"id": number, "file_name": file, "width": WIDTH, "height": HEIGHT})
            x, y = 2 + number, 9
            annotations.append(
                {"id": number, "image_id": number, "category_id": 1, "segmentation": [[2, 1, x, 1, x, y, 2, y]]}
            )
        document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
        write_json(folder / f"annotations/instances_{split}.json", document)
    return folder


def widths_by_color(folder: Path, form: str) -> dict[str, list[tuple[int, int]]]:
    """Of every split, the color and the object's width of each image."""
    return {
        split: sorted(
            (int(np.asarray(Image.open(record.path))[0, 0, 0]) // 30, round(objects.xywh[0, 2]))
            for record, objects in zip(data.images, data.annotations, strict=True)
        )
        for split, data in locate(Origin(folder), form).read().items()
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("train", "val"),
    [
        pytest.param(["a.png", "a.bmp", "A.png"], ["b.png"], id="names that differ by suffix or case"),
        pytest.param(["x/a.png", "y/a.png", "x_a.png"], ["b.png"], id="folders"),
        pytest.param(["a.png", "b.png"], ["a.png", "b.png"], id="two splits"),
        pytest.param(["images/train/a.png", "images/b.png"], ["labels/a.png"], id="folders that mean something"),
        pytest.param(["a", "b.dat", "c.0001"], ["d"], id="no suffix of an image"),
    ],
)
def test_no_image_overwrites_another(
    tmp_path: Path, form: str, train: list[str], val: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "source", train=train, val=val)
    assert main([str(source), str(tmp_path / "there"), "--to", form]) == 0
    capsys.readouterr()
    assert widths_by_color(tmp_path / "there", form) == widths_by_color(source, "coco")


def test_a_name_that_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "source", train=["a.png", "a.bmp"])
    assert main([str(source), str(tmp_path / "there"), "--to", "yolo"]) == 0
    assert "not written: a.bmp: its name, which another image has; it is a_2.bmp" in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("placement", ["copy", "link"])
def test_nothing_is_written_outside(tmp_path: Path, form: str, placement: str) -> None:
    source = write(tmp_path / "source", train=["a.png", "b.png", "c.png", "d.png"])
    file = source / "annotations/instances_train.json"
    names = ("C:\\data\\a.png", "../../../b.png", "/elsewhere/c.png", "sub\\..\\..\\d.png")
    text = file.read_text()
    for name in names:
        text = text.replace(f'"{name[-5:]}"', '"' + name.replace("\\", "\\\\") + '"')
    file.write_text(text)
    before = sorted(tmp_path.rglob("*"))
    there = tmp_path / "deep/there"
    assert main([str(source), str(there), "--to", form, "--placement", placement]) == 0
    after = [path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "deep")]
    assert sorted(after) == before
    found = {path.name for path in there.rglob("*.png")}
    assert {"a.png", "b.png", "c.png", "d.png"} <= found


def test_an_image_that_folders_are_not_searched_for_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "source", train=["a.ppm"])
    Image.new("RGB", (WIDTH, HEIGHT)).save(source / "images/train/a.ppm")
    data = locate(Origin(source)).read()["train"]
    with pytest.raises(DatasetError, match=r"a\.ppm is PNM, and this format finds images by \.jpg"):
        save_yolo(data, tmp_path / "there", "train", "copy")
