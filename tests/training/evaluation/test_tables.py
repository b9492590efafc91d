"""The terminal's tables: they fit 80 columns, and what cannot be measured is a dash."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from training.evaluation.evaluation import ClassMetrics, KindMetrics, Metrics
from training.evaluation.instances import instances
from training.evaluation.matching import Matches
from training.evaluation.operating_point import OperatingPoint, operating_point
from training.evaluation.tables import class_table, confusion_table, figure_table, instance_table, point_table

NAMES = ("cat", "a rather long name of a class", "dog")


@pytest.fixture
def point() -> OperatingPoint:
    """Two cats are taken for dogs, a dog for a cat."""
    image = Matches(
        scores=np.array([0.9, 0.8, 0.7], np.float32),
        labels=np.array([3, 3, 1]),
        found=np.array([-1, -1, -1]),
        ignored=np.zeros(3, np.bool_),
        truth=np.array([1, 1, 3]),
        crowd=np.zeros(3, np.bool_),
        iou=np.eye(3),
        areas=np.ones(3),
        truth_areas=np.ones(3),
    )
    return operating_point([image], NAMES, 0.05, 0.5)


@pytest.fixture
def metrics() -> Metrics:
    """Boxes at up to 100 detections, keypoints at 20 and without small objects."""
    figures = dict.fromkeys(("AP", "AP50", "AP75", "APm", "APl", "AR", "ARm", "ARl"), 0.25)
    classes = {
        small: tuple(ClassMetrics(name=name, **figures, APs=small, ARs=small) for name in NAMES)
        for small in (0.125, -1)
    }
    return Metrics(
        box=KindMetrics(
            **figures, APs=0.125, ARs=0.125, max_detections=(1, 100), AR_at=(0.1, 0.25), per_class=classes[0.125]
        ),
        keypoints=KindMetrics(**figures, APs=-1, ARs=-1, max_detections=(20,), AR_at=(0.25,), per_class=classes[-1]),
    )


def _lines(table: Table) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def _row(table: Table, name: str) -> list[str]:
    (line,) = (line for line in _lines(table) if name in line.split())
    return line.replace("│", " ").split()


def test_figures_stand_side_by_side(metrics: Metrics) -> None:
    table = figure_table(metrics, "tests")
    assert _row(table, "APs") == ["APs", "0.1250", "-"]
    assert _row(table, "AP") == ["AP", "0.2500", "0.2500"]
    assert _row(table, "AR@1") == ["AR@1", "0.1000", "-"]
    assert _row(table, "AR@20") == ["AR@20", "-", "0.2500"]
    assert _row(class_table(metrics), "dog") == ["dog", "0.2500", "0.2500"]


def test_what_happens_at_a_threshold_is_never_cut_off(point: OperatingPoint) -> None:
    table = point_table(point, "mask")
    assert "…" not in "".join(_lines(table))
    assert _row(table, "cat") == ["cat", "0.5", "0", "2", "1", "0.0000", "0.0000", "0.0000", "-"]


def test_how_objects_are_told_apart_fits_the_terminal(point: OperatingPoint) -> None:
    image = Matches(
        scores=np.array([0.9, 0.8], np.float32),
        labels=np.array([1, 1]),
        found=np.array([0, -1]),
        ignored=np.zeros(2, np.bool_),
        truth=np.array([1, 3]),
        crowd=np.zeros(2, np.bool_),
        iou=np.array([[0.8, 0], [0, 0]]),
        areas=np.array([80.0, 20.0]),
        truth_areas=np.array([100.0, 10.0]),
    )
    table = instance_table(instances([image], NAMES, [0.5] * 3))
    assert "…" not in "".join(_lines(table))
    cat = ["0.500", "0.500", "0.000", "0.667", "0.533", "0.800", "0.667", "0.667"]
    assert _row(table, "cat") == ["cat", *cat]
    assert _row(table, "dog") == ["dog", *["0.000"] * 5, "-", "0.000", "0.000"]
    assert _row(table, "mean")[1] == "0.250"


def test_the_most_frequent_confusion_comes_first(point: OperatingPoint) -> None:
    rows = [line.replace("│", " ").split() for line in _lines(confusion_table(point)) if "│" in line]
    assert rows == [["cat", "dog", "2"], ["dog", "cat", "1"]]
