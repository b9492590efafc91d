"""The same picture in other depths, and fields with nothing in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.depth import DEPTHS, Finder, count_false, empty_fields, main
from model.runtime.bundles.repository import Repository
from model.runtime.predict import Predictor


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_depth_keeps_the_order_of_the_values(depth: str) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    values = DEPTHS[depth](ramp)
    steps = np.diff(values[:, 0, 0].astype(np.float64))
    assert (steps[:248] > 0).all()
    assert (steps >= 0).all()  # a dark current may push the brightest ones to the largest value that there is


def test_empty_fields_are_three_of_each_kind_and_the_same_again() -> None:
    first, again = list(empty_fields()), list(empty_fields())
    kinds = [kind for kind, _ in first]
    assert {kinds.count(kind) for kind in kinds} == {3}
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(first, again, strict=True))


def test_false_detections_are_counted_by_kind(tiny_repository: Path) -> None:
    predictor = Predictor.of_bundle(Repository(tiny_repository).latest("tiny"), device="cpu", threads=1)
    finder = Finder(predictor)
    none, some = (count_false(finder, threshold, "auto") for threshold in (1.0, 0.0))
    predictor.close()
    assert none.keys() == some.keys() == {kind for kind, _ in empty_fields()}
    assert set(none.values()) == {0}
    assert sum(some.values()) > 0


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "m", "--data", "d", "--depths", "12; 13"])
    assert "'13' is none of 8; 8 in 16" in capsys.readouterr().err
