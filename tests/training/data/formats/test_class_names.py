"""Names of classes are the same in any format: spaces and how accents are composed make no class of their own."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.formats import samples, tool_folders
from tests.training.data.formats.samples import masks_of, names_of, region, shape, two_objects, yolo_line
from training.data.annotations.dataset import Dataset, DatasetError
from training.data.annotations.fields import BrokenRecord, class_name, points
from training.data.checking.broken import check
from training.data.formats.locate import Origin, locate

APART = unicodedata.normalize("NFD", "röt")
OTHER = [[15, 1], [25, 1], [25, 9], [15, 9]]


def read(folder: Path) -> Dataset:
    return locate(Origin(folder)).read()["train"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red", "red"),
        (" red\t", "red"),
        ("red\u00a0car", "red car"),
        ("red   car\n", "red car"),
        (APART, "röt"),
        ("\ufeffred\u200b", "red"),
        ("Red", "Red"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        (" \u00a0\ufeff", ""),
    ],
)
def test_a_name(name: str, expected: str) -> None:
    assert class_name(name) == expected


def coco(folder: Path, first: str, second: str) -> None:
    tool_folders.coco(
        folder / "labels.json",
        tool_folders.pictures(folder, "0.png"),
        categories=[{"id": 1, "name": first}, {"id": 2, "name": second}],
    )


def labelme(folder: Path, first: str, second: str) -> None:
    samples.labelme(folder, shape(first), shape(second, OTHER))


def labelme_list(folder: Path, first: str, second: str) -> None:
    labelme(folder, first, second)
    (folder / "labels.txt").write_text(f"__ignore__\n{first}\n", encoding="utf-8")


def yolo(folder: Path, first: str, second: str) -> None:
    samples.yolo(folder, yolo_line(0, samples.SQUARE) + yolo_line(1, OTHER), names=[first, second])


def via(folder: Path, first: str, second: str) -> None:
    samples.via(folder, region({"class": first}), region({"class": second}, name="rect", x=15, y=1, width=9, height=9))


def voc(folder: Path, first: str, second: str) -> None:
    samples.voc(folder, two_objects(), two_objects())
    (folder / "class_names.txt").write_text(f"{first}\n{second}\n", encoding="utf-8")


WRITERS = (coco, labelme, labelme_list, yolo, via, voc)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("first", "second"),
    [("röt", "röt "), ("  röt", "röt"), ("röt", APART), (APART, "röt\u00a0"), ("röt", "röt\u200b")],
)
def test_spellings_of_one_name_are_one_class_and_that_is_said(
    tmp_path: Path, write: Callable[..., None], first: str, second: str
) -> None:
    write(tmp_path, first, second)
    data = read(tmp_path)
    assert data.class_names == ("röt",)
    assert set(names_of(data)) == {"röt"}
    assert check(data) == []
    told = [repair.count for repair in data.repairs if repair.kind == "classes of one name merged"]
    assert told == [1]


@pytest.mark.parametrize("write", WRITERS)
def test_case_is_a_difference(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path, "Red", "red")
    assert sorted(read(tmp_path).class_names) == ["Red", "red"]


def test_a_class_listed_twice_is_one(tmp_path: Path) -> None:
    samples.yolo(tmp_path, yolo_line(0, samples.SQUARE) + yolo_line(2, OTHER), names=["red", "blue", "red"])
    data = read(tmp_path)
    assert data.class_names == ("red", "blue")
    assert names_of(data) == ["red", "red"]
    assert [str(repair) for repair in data.repairs] == ["classes of one name merged: 1, first: 'red' and 'red'"]


@pytest.mark.parametrize("name", ["", " ", "\u00a0"])
def test_a_class_without_a_name_is_refused(tmp_path: Path, name: str) -> None:
    samples.yolo(tmp_path, yolo_line(0, samples.SQUARE), names=["red", name])
    with pytest.raises(DatasetError, match="a class without a name"):
        read(tmp_path)


def test_a_shape_without_a_name_is_a_broken_record(tmp_path: Path) -> None:
    labelme(tmp_path, "red", " \u00a0")
    data = read(tmp_path)
    assert data.class_names == ("red",)
    assert [problem.kind for problem in data.problems] == ["unknown category"]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", ["__ignore__", "_background_", " __ignore__ "])
def test_labelmes_names_for_no_class_are_none(tmp_path: Path, name: str, listed: bool) -> None:
    samples.labelme(tmp_path, shape("red"), shape(name, OTHER), shape(name, OTHER))
    if listed:
        (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nred\n")
    data = read(tmp_path)
    assert data.class_names == ("red",)
    assert names_of(data) == ["red"]
    assert [(repair.kind, repair.count) for repair in data.repairs] == [("shape of no class left out", 2)]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(lambda folder: samples.labelme(folder, shape("__ignore__")), "shape of no class", id="no class"),
        pytest.param(
            lambda folder: samples.labelme(folder, shape(points=[[1, 1], [5, 5]]), shape(points=[[1, 1], [5, 6]])),
            "2 records are broken, the first: .*outline needs 3",
            id="lines",
        ),
        pytest.param(
            lambda folder: samples.labelme(folder, shape(points=[[31, 2], [35, 2], [35, 9]])),
            "lies outside the image",
            id="outside",
        ),
        pytest.param(
            lambda folder: samples.via(folder, region(name="polyline", all_points_x=[1, 5], all_points_y=[1, 5])),
            "1 records are broken, .*outline needs 3",
            id="VIA's line",
        ),
        pytest.param(
            lambda folder: samples.via(folder, region(name="point", cx=1, cy=5)), "no area .1 point", id="VIA's point"
        ),
        pytest.param(lambda folder: samples.via(folder, region({"class": 1.5})), "no single 'class'", id="a fraction"),
    ],
)
def test_where_nothing_is_left_it_is_said_why(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path)
    with pytest.raises(DatasetError, match=rf"nothing is annotated in .*{message}"):
        read(tmp_path)


def test_classes_of_via_may_be_numbers(tmp_path: Path) -> None:
    samples.via(tmp_path, region({"class": 7}), region({"class": "8"}))
    assert read(tmp_path).class_names == ("7", "8")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param([[1, 2], [3, 4]], [[1, 2], [3, 4]], id="pairs"),
        pytest.param([[1, 2, 0], [3, 4, 0.0]], [[1, 2], [3, 4]], id="a third that is 0"),
        pytest.param([["1", "2"]], [[1, 2]], id="texts"),
        pytest.param([], [], id="none"),
        pytest.param([[1, 2, 3], [4, 5, 6]], None, id="three numbers"),
        pytest.param([[1, 2, 0, 0], [3, 4, 0, 0]], None, id="four numbers"),
        pytest.param([1, 2, 3, 4], None, id="flat"),
        pytest.param([[1, 2], [3]], None, id="ragged"),
        pytest.param([[1, 2], None], None, id="null within"),
        pytest.param(None, None, id="null"),
        pytest.param("12", None, id="a text"),
        pytest.param({"x": 1}, None, id="an object"),
    ],
)
def test_points(value: object, expected: list[list[float]] | None) -> None:
    if expected is None:
        with pytest.raises(BrokenRecord, match=r"'points' is no list of points \[x, y\]"):
            points(value, "'points'")
    else:
        np.testing.assert_array_equal(points(value, "'points'"), np.array(expected).reshape(-1, 2))


def test_labelme_points_of_three_numbers_are_no_other_outline(tmp_path: Path) -> None:
    samples.labelme(tmp_path, shape(points=[[x, y, 0] for x, y in samples.SQUARE]), shape("dog", [[1, 2, 3]] * 4))
    data = read(tmp_path)
    assert masks_of(data).sum() == 80
    assert [problem.kind for problem in data.problems] == ["bad polygon"]
