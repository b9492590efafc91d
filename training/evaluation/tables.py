"""An evaluation's figures as tables for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from training.evaluation.evaluation import Metrics
from training.evaluation.instances import IOUS, Instances
from training.evaluation.matching import MatchedBy
from training.evaluation.operating_point import OperatingPoint

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl")
"""The order in which people read them."""

MOST_CONFUSIONS = 12


def figure_table(metrics: Metrics, title: str) -> Table:
    """Rows are the figures, columns boxes, masks, boundaries or keypoints."""
    table = Table(title=title)
    table.add_column("")
    measured = metrics.measured()
    for kind in measured:
        table.add_column(kind, justify="right")
    for figure in FIGURES:
        table.add_row(figure, *(shown(getattr(figures, figure)) for figures in measured.values()))
    limits = sorted({limit for figures in measured.values() for limit in figures.max_detections})
    for limit in limits:
        at = [dict(zip(figures.max_detections, figures.AR_at, strict=True)) for figures in measured.values()]
        table.add_row(f"AR@{limit}", *(shown(figures.get(limit, -1.0)) for figures in at))
    return table


def class_table(metrics: Metrics) -> Table:
    """Rows are classes, columns their AP of each kind."""
    measured = metrics.measured()
    table = Table("class", title="AP of each class")
    for kind in measured:
        table.add_column(kind, justify="right")
    for classes in zip(*(figures.per_class for figures in measured.values()), strict=True):
        table.add_row(classes[0].name, *(shown(one.AP) for one in classes))
    return table


def point_table(point: OperatingPoint, by: MatchedBy) -> Table:
    """Rows are classes, columns what happens at their thresholds."""
    title = f"found by {by} IoU {point.iou:g}, scoring more than the threshold"
    # As narrow as it can be: a terminal of 80 columns has room for it.
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("class", overflow="fold")
    for column in ("threshold", "found", "missed", "false", "precision", "recall", "F1", "best at"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in point.classes:
        table.add_row(
            one.name,
            f"{one.threshold:g}",
            *map(str, (one.matched, one.missed, one.false)),
            *map(shown, (one.precision, one.recall, one.F1)),
            "-" if one.best_threshold is None else f"{one.best_threshold:g}",
        )
    return table


def instance_table(found: Instances) -> Table:
    """Rows are classes, and their mean where there are several; columns how well objects are told apart."""
    title = "at the same thresholds; acc: TP / (TP + FP + FN) at an IoU"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("class", overflow="fold")
    for column in INSTANCE_FIGURES:
        table.add_column(column.replace(" 0.", " ."), justify="right", no_wrap=True)
    for name, figures in instance_rows(found):
        table.add_row(name, *figures)
    return table


INSTANCE_FIGURES = (*(f"acc {iou:g}" for iou in IOUS), f"F1 {IOUS[0]:g}", "PQ", "SQ", "RQ", "AJI")


def instance_rows(found: Instances) -> list[tuple[str, list[str]]]:
    """Name and INSTANCE_FIGURES as text of each class, and of their mean where there are several."""
    rows = [*found.classes, found.mean] if len(found.classes) > 1 else found.classes
    return [
        (
            one.name,
            [
                *(shown(at.accuracy, 3) for at in one.at),
                *(shown(value, 3) for value in (one.at[0].F1, one.PQ, one.SQ, one.RQ, one.AJI)),
            ],
        )
        for one in rows
    ]


def confusion_table(point: OperatingPoint) -> Table:
    """The pairs of classes that are most often taken for one another."""
    table = Table(title="taken for another class")
    for column in ("object", "taken for"):
        table.add_column(column)
    table.add_column("objects", justify="right")
    for truth, taken, count in confusions(point)[:MOST_CONFUSIONS]:
        table.add_row(truth, taken, str(count))
    return table


def confusions(point: OperatingPoint) -> list[tuple[str, str, int]]:
    """(class of the object, class it was taken for, how often), the most frequent first."""
    names = [one.name for one in point.classes]
    pairs = [
        (names[truth], names[taken], count)
        for truth, row in enumerate(point.confusion[:-1])
        for taken, count in enumerate(row[:-1])
        if truth != taken and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def shown(value: float, decimals: int = 4) -> str:
    """A figure; "-" where there is nothing to measure."""
    return "-" if value < 0 else f"{value:.{decimals}f}"
