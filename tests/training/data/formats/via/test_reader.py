"""VIA: shapes, versions, and which attribute is the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.data.formats.samples import (
    masks_of,
    names_of,
    region,
    via,
    write_image,
    write_json,
)
from training.data.annotations.dataset import DatasetError
from training.data.formats.locate import Origin, locate
from training.data.formats.via.reader import load_via
from training.data.shapes import write_shapes


def test_via_shapes(tmp_path: Path) -> None:
    via(
        tmp_path,
        region(),
        region({"class": {"dog": True, "cat": False}}, name="rect", x=2, y=1, width=10, height=8),
        region(name="ellipse", cx=20, cy=10, rx=6, ry=3),
        region(name="circle", cx=20, cy=10, r=4),
    )
    data = load_via(tmp_path, "train")
    assert data.problems == ()
    assert names_of(data) == ["cat", "dog", "cat", "cat"]
    masks = masks_of(data)
    np.testing.assert_array_equal(masks[0], masks[1])
    assert masks[0].sum() == 80
    assert masks[2].sum() == pytest.approx(np.pi * 18, rel=0.1)
    assert masks[3].sum() == pytest.approx(np.pi * 16, rel=0.1)


def test_via_1_and_projects_without_attributes(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a.png")
    write_image(tmp_path / "val/b.png")
    write_json(tmp_path / "train/via.json", {"a": {"filename": "a.png", "regions": {"0": region({})}}})
    images = {"b": {"filename": "b.png", "regions": [region({})]}}
    write_json(tmp_path / "val/project.json", {"_via_settings": {}, "_via_img_metadata": images})
    splits = locate(Origin(tmp_path), "via").read_aligned()
    assert {split: (data.class_names, len(data.annotations[0])) for split, data in splits.items()} == {
        "train": (("object",), 1),
        "val": (("object",), 1),
    }


def test_a_class_attribute_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    via(tmp_path, region({"color": "red", "species": "cat"}))
    with pytest.raises(DatasetError, match="attributes color, species: say with --class_attribute"):
        load_via(tmp_path, "train")


@pytest.mark.parametrize("by_file", [False, True])
def test_which_attribute_of_via_is_the_class_can_be_said(tmp_path: Path, by_file: bool) -> None:
    via(tmp_path, region({"color": "red", "species": "cat", "type": "A"}), region({"species": "dog", "type": "A"}))
    where = {"annotations": (tmp_path / "via_region_data.json",)} if by_file else {"folder": tmp_path}
    assert locate(Origin(**where)).read()["train"].class_names == ("A",)
    chosen = locate(Origin(**where, class_attribute="species")).read()["train"]
    assert chosen.class_names == ("cat", "dog")
    with pytest.raises(DatasetError, match=r"no attribute 'spices' .*; there is: color, species, type"):
        locate(Origin(**where, class_attribute="spices")).read()


def test_an_attribute_for_another_format_is_told_so(tmp_path: Path) -> None:
    write_shapes(tmp_path / "coco", train=1, val=1, seed=0)
    with pytest.raises(DatasetError, match=r"--class_attribute species is about VIA, and .* is coco"):
        locate(Origin(tmp_path / "coco", class_attribute="species"))
