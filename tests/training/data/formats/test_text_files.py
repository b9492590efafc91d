"""Text files in the encodings that people's editors write: a mark at the start never becomes part of a name, and
what is no UTF is named with its file, never guessed."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.training.data.formats import samples, tool_folders
from tests.training.data.formats.samples import shape, two_objects, write_json, yolo_line
from training.data.annotations.dataset import DatasetError
from training.data.annotations.fields import BrokenRecord
from training.data.checking.broken import check
from training.data.formats.locate import Origin, locate
from training.data.formats.text_files import glance, read_json, read_lines, read_text

MARKED = {
    "utf-8-sig": "UTF-8 with a mark",
    "utf-16": "UTF-16",
    "utf-32": "UTF-32",
}
BIG_ENDIAN = {"utf-16-be": codecs.BOM_UTF16_BE, "utf-32-be": codecs.BOM_UTF32_BE}


class Case(NamedTuple):
    """A folder, the text files in it, and its classes: the first is what a mark would spoil."""

    write: Callable[[Path], None]
    files: str
    classes: tuple[str, ...]


def labelme_names(folder: Path) -> None:
    samples.labelme(folder, shape("röt"), shape("blue"))
    (folder / "labels.txt").write_text("röt\nblue\n", encoding="utf-8")


def labelme_json(folder: Path) -> None:
    samples.labelme(folder, shape("röt"))
    file = folder / "a b.json"
    file.write_text(json.dumps(json.loads(file.read_text()), ensure_ascii=False), encoding="utf-8")


def voc_names(folder: Path) -> None:
    ids = two_objects()
    samples.voc(folder, ids, (ids > 0) * 1)
    (folder / "class_names.txt").write_text("_background_\nröt\nblue\n", encoding="utf-8")


def voc_list(folder: Path) -> None:
    voc_names(folder)
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/train.txt").write_text("a\n")


def cvat_labelmap(folder: Path) -> None:
    tool_folders.cvat_masks(folder, tool_folders.pictures(folder / "JPEGImages"))
    file = folder / "labelmap.txt"
    file.write_text(file.read_text().replace("# label", "röt:9,9,9::\n# label"), encoding="utf-8")


def yolo_names(folder: Path) -> None:
    yolo_labels(folder)
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("röt\nblue\n", encoding="utf-8")


def yolo_yaml(folder: Path) -> None:
    yolo_labels(folder)
    document = {"names": ["röt", "blue"], "train": "images/train"}
    (folder / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")


def yolo_labels(folder: Path) -> None:
    line = yolo_line(0, samples.SQUARE)
    samples.yolo(folder, line + line.replace("0", "1", 1), names=["röt", "blue"])


def yolo_list(folder: Path) -> None:
    yolo_labels(folder)
    (folder / "data.yaml").write_text("names: [röt, blue]\ntrain: train.txt\n", encoding="utf-8")
    (folder / "train.txt").write_text("./images/train/a.jpg\n")


def id_masks(folder: Path) -> None:
    samples.write_image(folder / "images/a.png")
    samples.write_ids(folder / "masks/a.png", two_objects())
    (folder / "classes.txt").write_text("röt\n", encoding="utf-8")


def coco(folder: Path) -> None:
    tool_folders.coco(folder / "labels.json", tool_folders.pictures(folder / "data"))
    file = folder / "labels.json"
    file.write_text(file.read_text().replace('"red"', '"röt"'), encoding="utf-8")


def via_json(folder: Path) -> None:
    samples.via(folder, samples.region({"class": "röt"}))
    file = folder / "via_region_data.json"
    file.write_text(json.dumps(json.loads(file.read_text()), ensure_ascii=False), encoding="utf-8")


def via_csv(folder: Path) -> None:
    tool_folders.via_csv(folder / "via.csv", tool_folders.pictures(folder))
    file = folder / "via.csv"
    file.write_text(file.read_text().replace("red", "röt"), encoding="utf-8")


CASES = {
    "LabelMe's labels.txt": Case(labelme_names, "labels.txt", ("röt", "blue")),
    "LabelMe's JSON": Case(labelme_json, "*.json", ("röt",)),
    "VOC's class_names.txt": Case(voc_names, "class_names.txt", ("röt", "blue")),
    "VOC's list of images": Case(voc_list, "ImageSets/Segmentation/train.txt", ("röt", "blue")),
    "CVAT's labelmap.txt": Case(cvat_labelmap, "labelmap.txt", ("röt", "red", "green")),
    "YOLO's classes.txt": Case(yolo_names, "classes.txt", ("röt", "blue")),
    "YOLO's data.yaml": Case(yolo_yaml, "data.yaml", ("röt", "blue")),
    "YOLO's label files": Case(yolo_labels, "labels/train/*.txt", ("röt", "blue")),
    "YOLO's list of images": Case(yolo_list, "train.txt", ("röt", "blue")),
    "classes.txt of masks": Case(id_masks, "classes.txt", ("röt",)),
    "COCO JSON": Case(coco, "labels.json", ("röt", "green")),
    "VIA's JSON": Case(via_json, "via_region_data.json", ("röt",)),
    "VIA's CSV": Case(via_csv, "via.csv", ("green", "röt")),
}


def rewrite(folder: Path, files: str, encode: Callable[[str], bytes]) -> list[Path]:
    found = sorted(folder.glob(files))
    assert found
    for file in found:
        file.write_bytes(encode(file.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("encoding", MARKED, ids=MARKED.values())
def test_a_byte_order_mark_decides(tmp_path: Path, case: Case, encoding: str) -> None:
    case.write(tmp_path)
    expected = locate(Origin(tmp_path)).read()["train"]
    rewrite(tmp_path, case.files, lambda text: text.replace("\n", "\r\n").encode(encoding))
    data = locate(Origin(tmp_path)).read()["train"]
    assert data.class_names == expected.class_names == case.classes
    assert check(data) == []
    assert [list(objects.labels) for objects in data.annotations] == [list(one.labels) for one in expected.annotations]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_another_encoding_is_named_with_its_file_and_not_guessed(tmp_path: Path, case: Case) -> None:
    case.write(tmp_path)
    files = rewrite(tmp_path, case.files, lambda text: (text + "é").encode("latin-1"))
    try:
        message = "".join(problem.message for problem in locate(Origin(tmp_path)).read()["train"].problems)
    except DatasetError as error:  # nothing else is left to read
        message = str(error)
    assert f"{files[0]} is not UTF-8: byte " in message
    assert "save it as UTF-8" in message


@pytest.mark.parametrize(("encoding", "mark"), BIG_ENDIAN.items())
def test_the_mark_tells_the_order_of_bytes(tmp_path: Path, encoding: str, mark: bytes) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes(mark + "röt\nblue".encode(encoding))
    assert read_lines(file) == ["röt", "blue"]
    assert glance(file) == "röt\nblue"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("röt".encode("cp1252"), r"byte 1 \(0xf6\)", id="Windows' own"),
        pytest.param("红".encode("gbk"), r"byte 0 \(0xba\)", id="Chinese"),
        pytest.param("red".encode("utf-16-le"), "zero at byte 1", id="UTF-16 without a mark"),
        pytest.param(codecs.BOM_UTF16_LE + b"red", "not UTF-16", id="half a character"),
        pytest.param("rö".encode()[:-1], r"byte 1 \(0xc3\)", id="cut short"),
    ],
)
def test_what_is_no_text_is_told_with_its_byte(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes(content)
    with pytest.raises(BrokenRecord, match=message):
        read_text(file)
    with pytest.raises(DatasetError, match=rf"names\.txt .*{message}"):
        read_lines(file)


def test_joined_files_have_marks_within(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("red\n".encode("utf-8-sig") + "green\n".encode("utf-8-sig"))
    assert read_lines(file) == ["red", "green"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"images": ['])
def test_an_unknown_folder_names_its_unreadable_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "annotations.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"Not readable:\n  .*annotations\.json is not JSON"):
        locate(Origin(tmp_path))


@pytest.mark.parametrize("content", [b"", b'{"shapes": [], "imagePath": "a', b'{"version": "5'])
def test_a_labelme_file_that_cannot_be_read_is_a_broken_record(tmp_path: Path, content: bytes) -> None:
    samples.labelme(tmp_path, shape())
    (tmp_path / "b.json").write_bytes(content)
    write_json(tmp_path / "settings.json", {"theme": "dark"})
    data = locate(Origin(tmp_path)).read()["train"]
    assert [(problem.kind, problem.file) for problem in data.problems] == [("unreadable annotations", "b.json")]
    assert data.notes == ("1 JSON files are not LabelMe's and are left out, first: settings.json",)


@pytest.mark.parametrize("name", ["._a b.json", ".ipynb_checkpoints/a b-checkpoint.json", ".backup/old.json"])
def test_hidden_copies_are_not_read(tmp_path: Path, name: str) -> None:
    samples.labelme(tmp_path, shape())
    write_json(tmp_path / name, read_json(tmp_path / "a b.json"))
    data = locate(Origin(tmp_path)).read()["train"]
    assert (len(data), data.problems, data.notes) == (1, (), ())


def test_a_broken_yaml_is_named_if_it_is_about_classes(tmp_path: Path) -> None:
    yolo_labels(tmp_path)
    (tmp_path / "another.yaml").write_text("key: [1, 2\n")
    assert locate(Origin(tmp_path)).read()["train"].class_names == ("röt", "blue")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [red, green\n")
    with pytest.raises(DatasetError, match=r"data\.yaml is not YAML: "):
        locate(Origin(tmp_path))
