"""Outlines of one group in LabelMe: parts of one object, never holes, which is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.data.formats.samples import SQUARE, labelme, masks_of, shape
from training.data.formats.labelme.reader import load_labelme

INNER = [[4, 3], [8, 3], [8, 6], [4, 6]]
BESIDE = [[20, 3], [26, 3], [26, 8], [20, 8]]
ACROSS = [[4, 3], [18, 3], [18, 6], [4, 6]]
NOTCHED = [[2, 1], [12, 1], [12, 9], [11, 9], [11, 2], [3, 2], [3, 9], [2, 9]]


@pytest.mark.parametrize(
    ("outlines", "grouped", "said"),
    [
        pytest.param([SQUARE, INNER], True, True, id="inside"),
        pytest.param([INNER, SQUARE], True, True, id="in any order"),
        pytest.param([SQUARE, BESIDE, INNER], True, True, id="among three"),
        pytest.param([SQUARE, BESIDE], True, False, id="beside"),
        pytest.param([SQUARE, ACROSS], True, False, id="across"),
        pytest.param([NOTCHED, INNER], True, False, id="in a notch"),
        pytest.param([SQUARE, SQUARE], True, False, id="the same twice"),
        pytest.param([SQUARE, INNER], False, False, id="two objects"),
    ],
)
def test_an_outline_inside_another_of_its_group_is_said(
    tmp_path: Path, outlines: list[list[list[int]]], grouped: bool, said: bool
) -> None:
    labelme(tmp_path, *(shape(points=points, group_id=1 if grouped else None) for points in outlines))
    data = load_labelme(tmp_path, "train")
    assert len(data.annotations[0]) == (1 if grouped else len(outlines))
    kinds = [repair.kind for repair in data.repairs]
    assert kinds == (["inner outline taken as a part, not as a hole"] if said else [])
    assert masks_of(data)[0][4, 5] == 1
